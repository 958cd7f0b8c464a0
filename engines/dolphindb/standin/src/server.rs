//! Sockets, faults, and one task for each connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use rustls::ServerConfig;
use strait_dolphindb::Object;
use strait_dolphindb::served::{self, Command, Request, Requests};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::catalog::{Catalog, Job};
use crate::login::{Accounts, Logins, Offers};
use crate::session::Session;

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection is closed before anything is done.
    LoseBefore,
    /// The connection is closed after it is done, without an answer.
    LoseAfter,
    /// The connection is closed at once, and the request goes on for so long before it is done, unless it is cancelled meanwhile.
    LoseMeanwhile(Duration),
    /// This error is said, and nothing is done.
    Say(String),
    /// This error is said after it is done.
    SayAfter(String),
    /// Of the answer only so many bytes are sent; then the connection is closed.
    Truncate(usize),
    /// These bytes are sent instead of an answer, and the connection stays.
    Answer(Vec<u8>),
    /// The answer begins so much later, and each block too.
    Slow(Duration),
}

/// How a stand-in is.
#[derive(Clone)]
pub struct Settings {
    /// The user that it knows.
    pub user: String,
    /// Whose password this is.
    pub password: String,
    /// Ways of login beside plain text.
    pub offers: Offers,
    /// TLS from the first byte.
    pub tls: Option<Arc<ServerConfig>>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            user: "admin".to_owned(),
            password: "123456".to_owned(),
            offers: Offers {
                scram: true,
                scram_user: true,
                rsa: true,
            },
            tls: None,
        }
    }
}

/// A running stand-in; it ends when it is dropped.
#[derive(Debug)]
pub struct StandIn {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

struct Shared {
    catalog: Arc<Mutex<Catalog>>,
    accounts: Arc<Accounts>,
    tls: Option<TlsAcceptor>,
    faults: Mutex<Vec<(String, Fault)>>,
    /// Every request that came: its word and its first bytes, for tests that ask what was sent.
    log: Mutex<Vec<String>>,
    sessions: AtomicU64,
}

impl Shared {
    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        lock(&self.catalog)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// Not an async function: its body is compiled here, and not by everyone who starts a server.
fn listening(listener: TcpListener, shared: &Arc<Shared>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(listen(listener, Arc::clone(shared)));
    tasks
}

/// How much of a request the log keeps.
const LOGGED_BYTES: usize = 400;

impl StandIn {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// If it cannot listen, or make a key.
    pub async fn start(settings: Settings) -> std::io::Result<StandIn> {
        StandIn::start_at(settings, "127.0.0.1:0").await
    }

    /// The same at this address.
    ///
    /// # Errors
    /// As [`start`](StandIn::start).
    pub async fn start_at(settings: Settings, address: &str) -> std::io::Result<StandIn> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let accounts = Accounts::of(&settings.user, &settings.password, settings.offers);
        let shared = Arc::new(Shared {
            catalog: Arc::default(),
            accounts: Arc::new(accounts.map_err(std::io::Error::other)?),
            tls: settings.tls.map(TlsAcceptor::from),
            faults: Mutex::default(),
            log: Mutex::default(),
            sessions: AtomicU64::new(182_389_542),
        });
        let tasks = listening(listener, &shared);
        Ok(StandIn {
            shared,
            address,
            _tasks: tasks,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it holds, to look at and to change behind everyone's back.
    pub fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.shared.catalog()
    }

    /// The next request whose text contains `matching` meets this fault.
    pub fn fault(&self, matching: &str, fault: Fault) {
        lock(&self.shared.faults).push((matching.to_owned(), fault));
    }

    /// How many faults have not struck.
    pub fn faults_left(&self) -> usize {
        lock(&self.shared.faults).len()
    }

    /// What was asked so far, one line for each request.
    pub fn log(&self) -> Vec<String> {
        lock(&self.shared.log).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                connections.spawn(accept(stream, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    match &shared.tls {
        None => serve(stream, &shared).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream, &shared).await;
            }
        }
    }
}

/// What is sent back, piece by piece.
enum Answer {
    Whole(Vec<u8>),
    Blocks(Vec<u8>, RecordBatch, usize),
}

async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin>(stream: S, shared: &Shared) {
    let (from, mut to) = tokio::io::split(stream);
    let mut requests = Requests::of(from);
    let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
    let (id, number) = (number.to_string(), i64::try_from(number).unwrap_or(0));
    let mut session = Session::new(
        number,
        Arc::clone(&shared.catalog),
        Logins::new(Arc::clone(&shared.accounts)),
    );
    while let Ok(Some(request)) = requests.next().await {
        let text = shown(&request.command);
        lock(&shared.log).push(text.clone());
        let fault = {
            let mut faults = lock(&shared.faults);
            let at = faults
                .iter()
                .position(|(matching, _)| text.contains(matching));
            at.map(|at| faults.remove(at).1)
        };
        let mut pause = Duration::ZERO;
        let mut most = usize::MAX;
        match &fault {
            Some(Fault::LoseBefore) => return,
            Some(Fault::LoseMeanwhile(time)) => {
                let _ = to.shutdown().await;
                let job = format!("job-{id}-{}", shared.sessions.load(Ordering::Relaxed));
                let running = Job {
                    id: job.clone(),
                    session: number,
                };
                shared.catalog().jobs.push(running);
                tokio::time::sleep(*time).await;
                let left = shared
                    .catalog()
                    .jobs
                    .iter()
                    .any(|running| running.id == job);
                if left {
                    answered(&mut session, &request, &id);
                    shared.catalog().jobs.retain(|running| running.id != job);
                }
                return;
            }
            Some(Fault::Slow(time)) => pause = *time,
            Some(Fault::Truncate(bytes)) => most = *bytes,
            Some(Fault::Answer(bytes)) => {
                if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
                    return;
                }
                continue;
            }
            _ => {}
        }
        let answer = match fault.clone() {
            Some(Fault::Say(text)) => Answer::Whole(served::refusal(&id, &text)),
            Some(Fault::SayAfter(text)) => {
                answered(&mut session, &request, &id);
                Answer::Whole(served::refusal(&id, &text))
            }
            _ => answered(&mut session, &request, &id),
        };
        if matches!(fault, Some(Fault::LoseAfter)) {
            return;
        }
        if request.is_asynchronous() {
            continue;
        }
        let mut out = Vec::new();
        if request.messages {
            for text in session.printed.drain(..) {
                out.extend_from_slice(format!("MSG\n{text}\0").as_bytes());
            }
        }
        if !send(&mut to, answer, out, &request, pause, most).await {
            return;
        }
    }
}

/// Whether the connection stays.
async fn send<W: AsyncWrite + Unpin>(
    to: &mut W,
    answer: Answer,
    mut out: Vec<u8>,
    request: &Request,
    pause: Duration,
    mut most: usize,
) -> bool {
    let (head, blocks) = match answer {
        Answer::Whole(bytes) => (bytes, None),
        Answer::Blocks(head, batch, rows) => (head, Some((batch, rows))),
    };
    out.extend_from_slice(&head);
    let mut from = 0;
    loop {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let cut = out.len() > most;
        out.truncate(most);
        most -= out.len();
        if to.write_all(&out).await.is_err() || to.flush().await.is_err() || cut {
            return false;
        }
        out.clear();
        let Some((batch, rows)) = &blocks else {
            return true;
        };
        if from >= batch.num_rows().max(1) {
            return true;
        }
        let count = (*rows).min(batch.num_rows() - from);
        if served::write_table(&batch.slice(from, count), request.is_compressed(), &mut out)
            .is_err()
        {
            return false;
        }
        from += (*rows).max(1);
    }
}

fn answered(session: &mut Session, request: &Request, id: &str) -> Answer {
    let result = match &request.command {
        Command::Connect(None) => Ok(Object::Nothing),
        Command::Connect(Some((user, password))) => {
            let given = [user.clone(), password.clone()];
            session
                .logins
                .call("login", &given)
                .map(|_| Object::Nothing)
        }
        Command::Script(script) => session.script(script),
        Command::Call(name, arguments) => session.call(name, arguments.clone()),
        Command::Upload(variables) => {
            for (name, value) in variables {
                session.upload(name.clone(), value.clone());
            }
            Ok(Object::Nothing)
        }
    };
    let object = match result {
        Ok(object) => object,
        Err(text) => return Answer::Whole(served::refusal(id, &text)),
    };
    let mut out = served::head(id, !matches!(object, Object::Nothing));
    match object {
        Object::Nothing => Answer::Whole(out),
        Object::Table(batch) if request.fetch > 0 => {
            let rows = request.fetch as usize;
            let blocks = batch.num_rows().div_ceil(rows).max(1);
            out.extend_from_slice(&served::blocks_head(blocks));
            Answer::Blocks(out, batch, rows)
        }
        object => match served::write_object(&object, request.is_compressed(), &mut out) {
            Ok(()) => Answer::Whole(out),
            Err(error) => Answer::Whole(served::refusal(id, &error.to_string())),
        },
    }
}

fn shown(command: &Command) -> String {
    let mut text = match command {
        Command::Connect(login) => format!(
            "connect {}",
            if login.is_some() { "with a login" } else { "" }
        ),
        Command::Script(script) => format!("script {script}"),
        Command::Call(name, _) => format!("function {name}"),
        Command::Upload(variables) => {
            let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
            format!("variable {}", names.join(","))
        }
    };
    text.truncate(text.floor_char_boundary(LOGGED_BYTES));
    text
}
