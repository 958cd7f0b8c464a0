//! Both agents in this process, on free ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_source::agent::Agent;
use strait_common::clock::Clock;
use strait_common::cpu::CpuPool;
use strait_common::engine::Store;
use strait_common::shutdown::Shutdown;
use strait_common::state_dir::StateDir;
use strait_common::{Kind, Result};
use strait_jobs::desk::Desk;
use strait_proto::v1;
use strait_proto::v1::control_client::ControlClient;
use strait_proto::v1::jobs_client::JobsClient;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::held::Hand;
use crate::lakes::{self, Lakes, TABLE};

/// A sink agent over lake B, called `b`.
#[derive(Debug)]
pub struct SinkAgent {
    address: SocketAddr,
    running: Running,
}

/// A source agent over lake A, called `a`, with one sink, called `b`.
#[derive(Debug)]
pub struct SourceAgent {
    address: SocketAddr,
    agent: Arc<Agent>,
    running: Running,
}

#[derive(Debug)]
struct Running {
    shutdown: Shutdown,
    task: JoinSet<Result<()>>,
}

impl Running {
    async fn end(mut self) {
        let ended = tokio::time::timeout(crate::WAIT_MAX, self.task.join_next()).await;
        let ended = ended.expect("the agent stops").expect("it was started");
        ended
            .expect("the agent does not panic")
            .expect("the agent stops without an error");
    }
}

impl SinkAgent {
    /// An operator of it.
    pub fn operator(&self) -> Operator {
        Operator::of(&self.url())
    }

    /// Starts one.
    pub async fn start(lakes: &Lakes) -> SinkAgent {
        SinkAgent::start_with(lakes, None, &Hand::default(), |_| {}).await
    }

    /// Starts one on this port, or a free one, with a hand on its engine.
    pub async fn start_with(
        lakes: &Lakes,
        port: Option<u16>,
        hand: &Hand,
        configure: impl FnOnce(&mut agent_sink::settings::Config),
    ) -> SinkAgent {
        let store = hand.on(lakes::open(&lakes.b()).await);
        let url = format!("lake://{}", lakes.b().display());
        SinkAgent::start_over(store, &url, port, configure).await
    }

    /// Starts one over this store, whatever it is; the URL is only shown.
    pub async fn start_over(
        store: Store,
        url: &str,
        port: Option<u16>,
        configure: impl FnOnce(&mut agent_sink::settings::Config),
    ) -> SinkAgent {
        let settings = agent_sink::settings::Settings {
            store: vec![format!("b={url}").parse().expect("a store")],
            ..Default::default()
        };
        let mut config = settings.over(Default::default()).expect("a configuration");
        configure(&mut config);
        let stores = BTreeMap::from([("b".to_owned(), store)]);
        let listener = listen(port).await;
        let address = listener.local_addr().expect("an address");
        let shutdown = Shutdown::new();
        let mut task = JoinSet::new();
        let signals = shutdown.clone();
        task.spawn(async move {
            agent_sink::run(&config, stores, CpuPool::new(2), listener, signals).await
        });
        SinkAgent {
            address,
            running: Running { shutdown, task },
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it softly.
    pub async fn drain(self) {
        self.running.shutdown.drain();
        self.running.end().await;
    }

    /// Stops it where it stands, which is as safe as a crash.
    pub async fn crash(self) {
        self.running.shutdown.cancel();
        self.running.end().await;
    }
}

/// What a test can set of a source agent.
pub type SourceConfig = agent_source::settings::Config;

impl SourceAgent {
    /// Starts one whose sink has this URL.
    pub async fn start(lakes: &Lakes, sink_url: &str) -> SourceAgent {
        SourceAgent::start_with(lakes, sink_url, |_| {}).await
    }

    /// The same, configured. One stream and small frames, so that partitions come in order and a few hundred KiB are many frames.
    pub async fn start_with(
        lakes: &Lakes,
        sink_url: &str,
        configure: impl FnOnce(&mut SourceConfig),
    ) -> SourceAgent {
        SourceAgent::start_held(lakes, sink_url, &Hand::default(), configure).await
    }

    /// The same, with a hand on its engine.
    pub async fn start_held(
        lakes: &Lakes,
        sink_url: &str,
        hand: &Hand,
        configure: impl FnOnce(&mut SourceConfig),
    ) -> SourceAgent {
        let store = hand.on(lakes::open(&lakes.a()).await);
        let url = format!("lake://{}", lakes.a().display());
        let small = |config: &mut SourceConfig| {
            config.streams_max = 1;
            config.frame_bytes_max = 32 << 10;
            config.chunk_bytes = 64 << 10;
            config.retry_wait_max = Duration::from_millis(500);
            configure(config);
        };
        SourceAgent::start_over(store, &url, source_state(lakes), sink_url, small).await
    }

    /// Starts one over this store, whatever it is, as it is configured by default; the URL is only shown.
    pub async fn start_over(
        store: Store,
        url: &str,
        state_dir: PathBuf,
        sink_url: &str,
        configure: impl FnOnce(&mut SourceConfig),
    ) -> SourceAgent {
        SourceAgent::start_by(Clock::Wall, store, url, state_dir, sink_url, configure).await
    }

    /// The same, by this clock.
    pub async fn start_by(
        clock: Clock,
        store: Store,
        url: &str,
        state_dir: PathBuf,
        sink_url: &str,
        configure: impl FnOnce(&mut SourceConfig),
    ) -> SourceAgent {
        let settings = agent_source::settings::Settings {
            state_dir: Some(state_dir),
            name: Some("source under test".to_owned()),
            store: vec![format!("a={url}").parse().expect("a store")],
            sink: vec![format!("b={sink_url}").parse().expect("a sink")],
            ..Default::default()
        };
        let mut config = settings.over(Default::default()).expect("a configuration");
        let unless_set = config.listen;
        configure(&mut config);
        let port = Some(config.listen.port()).filter(|_| config.listen != unless_set);
        // Connections of the one before it hold its directory until they are closed.
        let state_dir =
            crate::eventually(
                "the state directory is free",
                async || match StateDir::open(&config.state_dir) {
                    Ok(state_dir) => Some(state_dir),
                    Err(error) if error.kind() == Kind::Refused => None,
                    Err(error) => panic!("{error}"),
                },
            )
            .await;
        let stores = BTreeMap::from([("a".to_owned(), store)]);
        let shutdown = Shutdown::new();
        let agent = Agent::new(config, stores, CpuPool::new(2), state_dir, shutdown.clone());
        let agent = Arc::new(agent.expect("an agent").by(clock));
        let listener = listen(port).await;
        let address = listener.local_addr().expect("an address");
        let mut task = JoinSet::new();
        let run = Arc::clone(&agent);
        task.spawn(async move { agent_source::run(run, listener).await });
        SourceAgent {
            address,
            agent,
            running: Running { shutdown, task },
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it is inside.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// Its jobs, once they are read.
    pub async fn desk(&self) -> Arc<Desk> {
        crate::eventually("the jobs are read", async || self.agent.desk().cloned()).await
    }

    /// An operator of it.
    pub fn operator(&self) -> Operator {
        Operator::of(&self.url())
    }

    /// Stops it softly.
    pub async fn drain(self) {
        self.running.shutdown.drain();
        self.running.end().await;
    }

    /// Stops it where it stands, which is as safe as a crash.
    pub async fn crash(self) {
        self.running.shutdown.cancel();
        self.running.end().await;
    }
}

/// The source agent's own directory.
pub fn source_state(lakes: &Lakes) -> PathBuf {
    lakes.path("source-state")
}

async fn listen(port: Option<u16>) -> TcpListener {
    let port = port.unwrap_or(0);
    crate::eventually("the port is free", async || {
        TcpListener::bind(("127.0.0.1", port)).await.ok()
    })
    .await
}

/// What an operator does, over gRPC.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The calls themselves.
    pub control: ControlClient<Channel>,
    /// Those about jobs.
    pub jobs: JobsClient<Channel>,
}

/// All of the table, to the table of the same name, as rows: what tests count are frames and rows that an engine is given. Files have tests of their own.
pub fn selectors() -> v1::Selectors {
    v1::Selectors {
        from: format!("a:{TABLE}"),
        to: format!("b:{TABLE}"),
        pass_through: v1::PassThrough::Never.into(),
        ..v1::Selectors::default()
    }
}

impl Operator {
    /// One of the agent at this URL.
    pub fn of(url: &str) -> Operator {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a URL");
        let channel = endpoint.connect_lazy();
        Operator {
            control: ControlClient::new(channel.clone()),
            jobs: JobsClient::new(channel),
        }
    }

    /// Asks for a run of the whole table.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn try_start(&self) -> Result<v1::StartRunReply, Status> {
        let request = v1::StartRunRequest {
            selectors: Some(selectors()),
            ..v1::StartRunRequest::default()
        };
        let reply = self.control.clone().start_run(request).await;
        reply.map(tonic::Response::into_inner)
    }

    /// Begins a run as this says; its id.
    pub async fn start_as(&self, request: v1::StartRunRequest) -> String {
        let reply = self.control.clone().start_run(request).await;
        let reply = reply.expect("the run begins").into_inner();
        assert!(!reply.attached, "no run was under way");
        reply.run.expect("a run").id
    }

    /// Runs this in a mode, to its end.
    pub async fn run_as(&self, selectors: v1::Selectors, mode: v1::Mode) -> v1::Run {
        let request = v1::StartRunRequest {
            selectors: Some(selectors),
            mode: Some(mode),
            ..v1::StartRunRequest::default()
        };
        let id = self.start_as(request).await;
        self.ended(&id).await
    }

    /// Begins a run of the whole table; its id.
    pub async fn start(&self) -> String {
        let reply = self.try_start().await.expect("the run begins");
        assert!(!reply.attached, "no run was under way");
        reply.run.expect("a run").id
    }

    /// The run now.
    pub async fn run(&self, id: &str) -> v1::Run {
        let request = v1::GetRunRequest { id: id.to_owned() };
        let reply = self.control.clone().get_run(request).await;
        reply.expect("the agent knows the run").into_inner()
    }

    /// The run once `is` holds of it.
    pub async fn until(&self, id: &str, what: &str, is: impl Fn(&v1::Run) -> bool) -> v1::Run {
        crate::eventually(&format!("run {id} {what}"), async || {
            let run = self.run(id).await;
            let ended = run.ended_at != 0;
            if is(&run) {
                return Some(run);
            }
            assert!(!ended, "the run ended before it {what}: {run:?}");
            None
        })
        .await
    }

    /// The run once it has ended.
    pub async fn ended(&self, id: &str) -> v1::Run {
        self.until(id, "has ended", |run| run.ended_at != 0).await
    }

    /// Goes on with a run.
    pub async fn resume(&self, id: &str) -> v1::Run {
        let request = v1::ResumeRunRequest { id: id.to_owned() };
        let reply = self.control.clone().resume_run(request).await;
        reply.expect("the run goes on").into_inner()
    }

    /// Stops a run softly.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn pause(&self, id: &str) -> Result<v1::Run, Status> {
        let request = v1::PauseRunRequest { id: id.to_owned() };
        let reply = self.control.clone().pause_run(request).await;
        reply.map(tonic::Response::into_inner)
    }

    /// Stops a run.
    pub async fn cancel(&self, id: &str) -> v1::Run {
        let request = v1::CancelRunRequest { id: id.to_owned() };
        let reply = self.control.clone().cancel_run(request).await;
        reply.expect("the run stops").into_inner()
    }

    /// Compares the whole table on both sides.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn verify(&self) -> Result<v1::VerifyTotals, Status> {
        self.verify_as(selectors()).await
    }

    /// Compares these on both sides.
    ///
    /// # Errors
    /// What the agent says.
    pub async fn verify_as(&self, selectors: v1::Selectors) -> Result<v1::VerifyTotals, Status> {
        let request = v1::VerifyRequest {
            selectors: Some(selectors),
            sums: false,
        };
        let mut replies = self.control.clone().verify(request).await?.into_inner();
        while let Some(reply) = replies.message().await? {
            if let Some(v1::verify_reply::Body::Totals(totals)) = reply.body {
                return Ok(totals);
            }
        }
        Err(Status::data_loss("no totals"))
    }

    /// Its partitions.
    pub async fn partitions(&self, id: &str) -> Vec<v1::RunPartition> {
        let request = v1::ListPartitionsRequest {
            id: id.to_owned(),
            state: String::new(),
        };
        let reply = self.control.clone().list_partitions(request).await;
        let mut pages = reply.expect("the run has partitions").into_inner();
        let mut partitions = Vec::new();
        while let Some(page) = pages.message().await.expect("a page") {
            partitions.extend(page.partitions);
        }
        partitions
    }
}

/// The run that a refusal names.
pub fn named_run(status: &Status) -> Option<String> {
    let run = status.metadata().get("strait-run")?;
    Some(run.to_str().ok()?.to_owned())
}
