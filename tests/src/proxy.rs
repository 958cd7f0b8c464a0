//! A network between the agents that can stall: connections stay open and nothing passes, in both directions, which is what a half-open connection
//! looks like to both ends. It can also be made to stall by itself after so many bytes, and to be slow.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How the network is.
#[derive(Clone, Copy, Debug)]
struct Weather {
    stalled: bool,
    /// Bytes that may still pass towards the target before it stalls.
    budget: Option<u64>,
    /// Bytes a second towards the target, over all connections.
    rate: Option<u64>,
    /// When what was taken has passed at that rate.
    free_at: Instant,
    /// Bytes that have come, to be passed on towards the target.
    taken: u64,
}

/// The network. Dropping it closes every connection.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port and passes everything on to `target`.
    pub async fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let weather = watch::Sender::new(Weather {
            stalled: false,
            budget: None,
            rate: None,
            free_at: Instant::now(),
            taken: 0,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, weather.clone()));
        Proxy {
            address,
            weather,
            _tasks: tasks,
        }
    }

    /// Where to connect to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Nothing passes from now on; connections stay.
    pub fn stall(&self) {
        self.weather.send_modify(|weather| weather.stalled = true);
    }

    /// It stalls once so many more bytes have gone towards the target.
    pub fn stall_after(&self, bytes: u64) {
        self.weather
            .send_modify(|weather| weather.budget = Some(bytes));
    }

    /// From now on only so many bytes a second go towards the target.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.weather
            .send_modify(|weather| weather.rate = Some(bytes_per_second));
    }

    /// Bytes that were taken to be passed on towards the target, so far.
    pub fn taken(&self) -> u64 {
        self.weather.borrow().taken
    }

    /// Waits until it has stalled.
    pub async fn stalled(&self) {
        let mut weather = self.weather.subscribe();
        let stalled = weather.wait_for(|weather| weather.stalled);
        tokio::time::timeout(crate::WAIT_MAX, stalled)
            .await
            .expect("the network stalls")
            .expect("the network is there");
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| {
            (weather.stalled, weather.budget, weather.rate) = (false, None, None);
        });
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, weather: watch::Sender<Weather>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((from, _)) = accepted else { return };
                connections.spawn(connection(from, target, weather.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(from: TcpStream, target: SocketAddr, weather: watch::Sender<Weather>) {
    // A target that is down shows as a connection that is closed at once.
    let Ok(to) = TcpStream::connect(target).await else {
        return;
    };
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    // Whichever side closes, the other one hears of it.
    tokio::select! {
        () = pass(from_read, to_write, &weather, true) => {}
        () = pass(to_read, from_write, &weather, false) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    weather: &watch::Sender<Weather>,
    counted: bool,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut changes = weather.subscribe();
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if counted {
            let mut passes_at = None;
            weather.send_modify(|weather| {
                weather.taken += read as u64;
                if let Some(rate) = weather.rate {
                    let takes = Duration::from_secs_f64(read as f64 / rate as f64);
                    weather.free_at = weather.free_at.max(Instant::now()) + takes;
                    passes_at = Some(weather.free_at);
                }
                if let Some(budget) = &mut weather.budget {
                    *budget = budget.saturating_sub(read as u64);
                    weather.stalled |= *budget == 0;
                }
            });
            if let Some(passes_at) = passes_at {
                tokio::time::sleep_until(passes_at).await;
            }
        }
        if changes.wait_for(|weather| !weather.stalled).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
