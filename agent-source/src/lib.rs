//! The source agent: stands beside cluster A, plans runs, reads partitions and sends them to sink agents.
//!
//! It owns runs and their stored plans. What is committed it learns from the sink's ledger, at the beginning of every attempt; it can be killed
//! at any moment and goes on by itself when it starts again.
//!
//! Read [`session`] for what is decided on a stream and [`stream`] for how it waits; [`mod@run`] for what is decided in a run and [`runner`] for how it
//! waits; [`plan`] and [`verify`] for what comes before and after; [`control`] for what operators can ask.
//!
//! What it does not do: remember what is committed, or write anything but its own state directory.

pub mod agent;
pub mod answers;
pub mod asked;
pub mod chosen;
pub mod compare;
pub mod compression;
pub mod control;
pub mod files;
pub mod group;
pub mod job;
pub mod link;
pub mod metrics;
pub mod overlap;
pub mod pace;
pub mod pattern;
pub mod plan;
pub mod receipts;
pub mod resume;
pub mod run;
pub mod runner;
pub mod runs;
pub mod schedule;
pub mod session;
pub mod settings;
pub mod stream;
pub mod tables;
pub mod verify;
pub mod widen;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures::future::BoxFuture;
use strait_common::cpu::CpuPool;
use strait_common::shutdown::Shutdown;
use strait_common::state_dir::StateDir;
use strait_common::{Kind, OrError, Result, config, telemetry};
use strait_proto::v1::control_server::ControlServer;
use strait_proto::v1::jobs_server::JobsServer;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use crate::agent::Agent;
use crate::control::Operators;
use crate::settings::{Config, Settings};

/// The source agent of Strait: plans runs, reads partitions and sends them to sink agents
#[derive(Debug, Parser)]
#[command(name = "agent-source", version)]
struct Arguments {
    /// TOML file with these settings; flags win over environment variables, which win over the file
    #[arg(long, env = "STRAIT_SOURCE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration, without secrets, and exit
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    settings: Settings,
}

/// The agent as a program: reads arguments, does everything that can fail, then listens until it is told to stop.
pub fn main_from(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = Arguments::parse_from(arguments);
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if error.kind() == Kind::Config { 2 } else { 1 })
        }
    }
}

fn start(arguments: Arguments) -> Result<()> {
    let file = arguments
        .config
        .as_deref()
        .map(config::read_file::<Settings>)
        .transpose()?
        .unwrap_or_default();
    let config = arguments.settings.over(file)?;
    if arguments.print_config {
        print!("{}", config.to_toml()?);
        return Ok(());
    }
    telemetry::init(config.log_format, &config.log)?;
    let state_dir = StateDir::open(&config.state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.cpu_threads.clamp(1, 4))
        .enable_all()
        .build()
        .or_error(Kind::Internal, "start the runtime")?;
    runtime.block_on(async {
        let cpu = CpuPool::new(config.cpu_threads);
        let mut stores = BTreeMap::new();
        for (name, url) in &config.stores {
            stores.insert(name.clone(), strait_engines::open(name, url, &cpu).await?);
        }
        let shutdown = Shutdown::new();
        let grace = config.grace;
        let address = config.listen;
        let agent = Arc::new(Agent::new(config, stores, cpu, state_dir, shutdown.clone())?);
        let listener = TcpListener::bind(address).await.or_error(Kind::Config, format!("listen on {address}"))?;
        tokio::select! {
            served = run(agent, listener) => served,
            () = async { shutdown.listen_for_signals(grace).await; std::future::pending().await } => Ok(()),
        }
    })
}

/// Serves operators on `listener`, and drives runs, until the agent's shutdown: a drain checkpoints what is under way, a cancel drops it. Unfinished
/// runs of an earlier start go on by themselves.
///
/// # Errors
/// `Config` if `metrics_listen` cannot be listened on; `Unavailable` if the run store cannot be read; `Internal` if the server fails.
pub fn run(agent: Arc<Agent>, listener: TcpListener) -> BoxFuture<'static, Result<()>> {
    // Boxed here, it is compiled here: the body of an async function is compiled by everyone who awaits it, and this one is a server.
    Box::pin(serve(agent, listener))
}

async fn serve(agent: Arc<Agent>, listener: TcpListener) -> Result<()> {
    let address = listener.local_addr().or_error(Kind::Internal, "listener")?;
    let config: &Config = &agent.config;
    let _page = strait_common::metrics::serve(config.metrics_listen, Arc::clone(&agent)).await?;
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter
        .set_serving::<ControlServer<Operators>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(strait_proto::DESCRIPTORS)
        .build_v1()
        .or_error(Kind::Internal, "gRPC reflection")?;
    let stream_bytes = agent.stream_bytes(0);
    tracing::info!(%address, memory_bytes = config.memory_bytes, stream_bytes,
        streams_admitted_at_most = config.memory_bytes / stream_bytes, cpu_threads = config.cpu_threads, tls = config.tls.word(),
        stores = ?config.stores.keys().collect::<Vec<_>>(), sinks = ?config.sinks.keys().collect::<Vec<_>>(), "source agent ready");
    eprintln!("listening on {address}");
    let store = agent.open_store()?;
    for row in agent.cpu.run(move || store.active()).await? {
        tracing::info!(run = %row.id.short(), from = %row.job.spec.from, to = %row.job.spec.to, "resuming");
        agent.drive(row)?;
    }
    let store = agent.open_store()?;
    for group in agent.cpu.run(move || store.active_groups()).await? {
        tracing::info!(group = %group.id, from = %group.request.from, to = %group.request.to, "resuming");
        agent.drive_group(&group, false);
    }
    let desk = schedule::open(&agent).await?;
    let desk = Arc::clone(agent.desk.get_or_init(|| desk));
    agent.answers.spawn(Arc::clone(&desk).keep());
    let draining = agent.shutdown.clone();
    // The server's own setting does not reach sockets that it is handed. Without this a credit or an ack waits 40 ms for the peer's delayed ACK.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = config
        .tls
        .server()?
        .http2_keepalive_interval(Some(config.peer_timeout / 2))
        .http2_keepalive_timeout(Some(config.peer_timeout / 2))
        .add_service(ControlServer::new(Operators(Arc::clone(&agent))))
        .add_service(JobsServer::new(strait_jobs::service::Service(desk)))
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming, async move { draining.draining().await });
    let served = tokio::select! {
        served = server => served.or_error(Kind::Internal, format!("gRPC server on {address}")),
        // A cancel does not wait for open calls.
        () = agent.shutdown.cancelled() => Ok(()),
    };
    if tokio::time::timeout(config.grace + STOP_SPARE, agent.stopped())
        .await
        .is_err()
    {
        tracing::warn!("some runs have not stopped; they go on at the next start");
    }
    agent.answers.close();
    if tokio::time::timeout(STOP_SPARE, agent.answers.wait())
        .await
        .is_err()
    {
        tracing::debug!("some answers to operators were cut short");
    }
    tracing::info!("source agent stopped");
    served
}

/// What stopping may take beyond the grace period.
const STOP_SPARE: Duration = Duration::from_secs(5);
