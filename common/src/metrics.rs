//! The page that Prometheus reads, and two that say whether an agent lives and is ready, over plain HTTP.
//!
//! An agent keeps counters where things happen, and makes the page anew for whoever asks: what is counted is read, what has a state is looked at. So a
//! page costs nothing until it is asked for, and no figure goes stale.
//!
//! `/metrics` is in the text format of OpenMetrics 1.0, which Prometheus reads; `/livez` answers 200 as long as the process answers; `/readyz` answers 503
//! and why while the agent cannot do its work. There is no way to change anything.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::budget::Budget;
use crate::telemetry;
use crate::{Kind, OrError, Result};

/// Askers that are answered at a time; more wait.
const ASKERS_MAX: usize = 8;
/// How long one of them may take, from the connection to the last byte.
const ASKER_TIME_MAX: Duration = Duration::from_secs(20);

/// What a figure is of. Few values each: tables and partitions are not among them.
pub type Labels = Vec<(&'static str, String)>;
/// A counter for each of them.
pub type Counters = Family<Labels, Counter>;
/// Seconds that were spent, for each of them.
pub type Seconds = Family<Labels, Counter<f64, std::sync::atomic::AtomicU64>>;

/// One label.
pub fn label(name: &'static str, value: impl ToString) -> Labels {
    vec![(name, value.to_string())]
}

/// One more of something, until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The streams of an agent.
#[derive(Debug, Default)]
pub struct Streams {
    open: Gauge,
    waiting: Gauge,
}

impl Streams {
    /// One is open.
    pub fn open(&self) -> Counted {
        Counted::new(&self.open)
    }

    /// One waits for memory, of whichever agent.
    pub fn waiting(&self) -> Counted {
        Counted::new(&self.waiting)
    }

    /// Puts them on a page.
    pub fn register(&self, figures: &mut Figures) {
        figures.add("streams", "Streams that are open", self.open.clone());
        figures.add(
            "streams_waiting",
            "Streams that wait for memory, of this agent or of the other",
            self.waiting.clone(),
        );
    }
}

/// A page being made. All names begin with `strait_`.
#[derive(Debug)]
pub struct Figures(Registry);

impl Figures {
    /// A page with what every agent has: its release, its memory and the bound on it.
    pub fn new(agent: &'static str, budget: &Budget) -> Figures {
        let mut figures = Figures(Registry::with_prefix("strait"));
        let build = [("agent", agent), ("version", strait_proto::RELEASE)];
        figures.add("build", "What runs", Info::new(build.to_vec()));
        let total = budget.total_bytes();
        let leased = total.saturating_sub(budget.free_bytes());
        figures.gauge(
            "memory_budget_bytes",
            "The bound on memory for streams",
            total as f64,
        );
        figures.gauge(
            "memory_leased_bytes",
            "What streams hold of it now",
            leased as f64,
        );
        let (resident, peak) = telemetry::memory_bytes();
        figures.gauge(
            "memory_resident_bytes",
            "Resident memory of the process",
            resident as f64,
        );
        figures.gauge(
            "memory_resident_peak_bytes",
            "The most that it has been",
            peak as f64,
        );
        figures
    }

    /// Something that counts itself. Counters get the suffix `_total`, infos `_info`.
    pub fn add(&mut self, name: &'static str, help: &'static str, metric: impl Metric) {
        self.0.register(name, help, metric);
    }

    /// One figure as of now.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.gauges(name, help, [(Labels::new(), value)]);
    }

    /// One figure as of now for each of these.
    pub fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let family = Family::<Labels, Gauge<f64, std::sync::atomic::AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.0.register(name, help, family);
    }

    /// The page as text.
    ///
    /// # Errors
    /// `Internal` if it cannot be written.
    pub fn text(self) -> Result<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)
            .or_error(Kind::Internal, "metrics")?;
        Ok(text)
    }
}

/// Who has figures.
pub trait Watched: Send + Sync + 'static {
    /// The page as of now.
    ///
    /// # Errors
    /// What the agent cannot read.
    fn page(&self) -> impl Future<Output = Result<String>> + Send;

    /// Whether the agent can do its work.
    ///
    /// # Errors
    /// Why not.
    fn ready(&self) -> impl Future<Output = Result<()>> + Send;
}

/// Serves the page on this address, if there is one, until what is returned is dropped.
///
/// # Errors
/// `Config`, naming the address, if it cannot be listened on.
pub async fn serve(
    address: Option<SocketAddr>,
    watched: Arc<impl Watched>,
) -> Result<JoinSet<Infallible>> {
    let mut served = JoinSet::new();
    let Some(address) = address else {
        return Ok(served);
    };
    let listener = TcpListener::bind(address).await;
    let listener =
        listener.or_error(Kind::Config, format!("metrics_listen: listen on {address}"))?;
    let address = listener
        .local_addr()
        .or_error(Kind::Internal, "metrics_listen")?;
    tracing::info!(%address, "metrics at /metrics, /livez, /readyz");
    eprintln!("metrics on http://{address}/metrics");
    served.spawn(answer_all(listener, watched));
    Ok(served)
}

async fn answer_all(listener: TcpListener, watched: Arc<impl Watched>) -> Infallible {
    let turns = Arc::new(Semaphore::new(ASKERS_MAX));
    let mut askers = JoinSet::new();
    loop {
        while askers.try_join_next().is_some() {}
        let turn = Arc::clone(&turns).acquire_owned().await;
        let accepted = listener.accept().await;
        let (Ok(turn), Ok((connection, _))) = (turn, accepted) else {
            // Out of file handles, say: it is no reason to stop answering later.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let watched = Arc::clone(&watched);
        askers.spawn(async move {
            let _turn = turn;
            let answer = hyper::service::service_fn(move |request| {
                let watched = Arc::clone(&watched);
                async move { Ok::<_, Infallible>(answer(&*watched, &request).await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .keep_alive(false)
                .serve_connection(TokioIo::new(connection), answer);
            // Whoever is slow or leaves only harms himself.
            let _ = tokio::time::timeout(ASKER_TIME_MAX, served).await;
        });
    }
}

async fn answer(watched: &impl Watched, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const FIGURES: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let (status, form, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match watched.page().await {
            Ok(page) => (StatusCode::OK, FIGURES, page),
            Err(error) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                TEXT,
                format!("{error}\n"),
            ),
        },
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, TEXT, "alive\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match watched.ready().await {
            Ok(()) => (StatusCode::OK, TEXT, "ready\n".to_owned()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{error}\n")),
        },
        (&Method::GET | &Method::HEAD, _) => (
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /metrics, /livez and /readyz\n".to_owned(),
        ),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "only GET\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(form));
    response
}
