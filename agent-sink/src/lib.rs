//! The sink agent: stands beside cluster B, receives partitions from source agents and publishes them in its stores.
//!
//! It owns the ledger, through the engine: what is committed is known from the store alone, and this process can be killed at any
//! moment. Read [`session`] for what is decided on a stream, [`copy`] for how it waits, [`tables`] for attempts and
//! finishes, [`service`] for the gRPC surface.
//!
//! What it does not do: plan, choose partitions, or remember rows between two starts: what must not be forgotten is in the store, and its jobs in their own file.

pub mod copy;
pub mod local;
pub mod metrics;
pub mod narrow;
pub mod page;
pub mod readback;
pub mod schedule;
pub mod service;
pub mod session;
pub mod settings;
pub mod tables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use clap::Parser;
use futures::future::BoxFuture;
use strait_common::budget::Budget;
use strait_common::clock::Clock;
use strait_common::cpu::CpuPool;
use strait_common::engine::Store;
use strait_common::ids::TableName;
use strait_common::shutdown::Shutdown;
use strait_common::state_dir::StateDir;
use strait_common::{Context, Error, Kind, OrError, Result, config, telemetry};
use strait_jobs::desk::{Desk, Room};
use strait_proto::v1::jobs_server::JobsServer;
use strait_proto::v1::transfer_server::TransferServer;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tonic::transport::server::TcpIncoming;

use crate::schedule::FarGroups;
use crate::service::{FRAME_BYTES_MAX, Service, stream_bytes};
use crate::settings::{Config, Settings};

/// The sink agent of Strait: receives partitions from source agents and publishes them in its stores
#[derive(Debug, Parser)]
#[command(name = "agent-sink", version)]
struct Arguments {
    /// TOML file with these settings; flags win over environment variables, which win over the file
    #[arg(long, env = "STRAIT_SINK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration, without secrets, and exit
    #[arg(long)]
    print_config: bool,
    /// Give up what the ledger of a table has lost, after its directory _strait was lost or damaged, and exit. Its rows stay; copy with --mode mirror afterwards
    #[arg(long, value_name = "STORE:DATABASE/TABLE")]
    accept_lost_ledger: Option<String>,
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
            let store = strait_engines::open(name, url, &cpu).await?;
            store.sink.check_writable().await.with_context(|| format!("store {name}"))?;
            stores.insert(name.clone(), store);
        }
        if let Some(lost) = &arguments.accept_lost_ledger {
            return accept_lost_ledger(&stores, lost).await;
        }
        check_memory(&config, &stores)?;
        // Found wrong before the socket opens.
        config.tls.server()?;
        FarGroups::new(&config, Shutdown::new(), TaskTracker::new())?;
        let listener = TcpListener::bind(config.listen).await.or_error(Kind::Config, format!("listen on {}", config.listen))?;
        let shutdown = Shutdown::new();
        let grace = config.grace;
        let serve = run(&config, stores, cpu, listener, shutdown.clone());
        let served = tokio::select! {
            served = serve => served,
            () = async { shutdown.listen_for_signals(grace).await; std::future::pending().await } => Ok(()),
        };
        drop(state_dir);
        served
    })
}

/// Gives up what the ledger of a table has lost. No other agent with this state is running: its directory is ours.
async fn accept_lost_ledger(stores: &BTreeMap<String, Store>, table: &str) -> Result<()> {
    let (store, table) = table
        .split_once(':')
        .ok_or_else(|| Error::config(format!("'{table}' is not STORE:DATABASE/TABLE")))?;
    let found = stores.get(store);
    let found = found.ok_or_else(|| Error::config(format!("there is no store {store}")))?;
    let table: TableName = table.parse()?;
    match found.sink.accept_loss(&table).await? {
        0 => println!("the ledger of table {table} lacks nothing; nothing was changed"),
        count => println!(
            "{count} events of the ledger of table {table} are given up. Its rows are as they were, and no run is known to have put them there: copy with \
             --mode mirror, which reads both sides and finds what is equal"
        ),
    }
    Ok(())
}

/// Refuses a bound on memory below the smallest stream that a source could ask for.
fn check_memory(config: &Config, stores: &BTreeMap<String, Store>) -> Result<()> {
    let column = Field::new("column", DataType::Int64, true);
    let schema = SchemaRef::new(Schema::new(vec![column]));
    for (name, store) in stores {
        let writer_bytes = store.sink.limits(&schema)?.writer_bytes;
        let least = stream_bytes(1, SOURCE_FRAME_BYTES_LEAST, writer_bytes);
        if config.memory_bytes < least {
            return Err(Error::config(format!(
                "memory = {} admits no stream: store {name} needs {least} bytes for one column in the smallest frames, and {} as sources are \
                 set by default; raise memory",
                config.memory_bytes,
                stream_bytes(4, 1 << 20, writer_bytes)
            )));
        }
    }
    Ok(())
}

/// The smallest `frame_bytes_max` of a source.
const SOURCE_FRAME_BYTES_LEAST: u64 = 4096;

/// Serves on `listener` until `shutdown`: a drain lets streams end, a cancel drops them; finishes always end.
///
/// # Errors
/// `Config` if memory is bounded by more than 4 TiB, `metrics_listen` cannot be listened on or the jobs cannot be read; `Internal` if the server fails.
pub fn run(
    config: &Config,
    stores: BTreeMap<String, Store>,
    cpu: CpuPool,
    listener: TcpListener,
    shutdown: Shutdown,
) -> BoxFuture<'_, Result<()>> {
    // Boxed here, it is compiled here: the body of an async function is compiled by everyone who awaits it, and this one is a server.
    Box::pin(serve(config, stores, cpu, listener, shutdown))
}

async fn serve(
    config: &Config,
    stores: BTreeMap<String, Store>,
    cpu: CpuPool,
    listener: TcpListener,
    shutdown: Shutdown,
) -> Result<()> {
    let budget = Budget::new(config.memory_bytes)?;
    let address = listener.local_addr().or_error(Kind::Internal, "listener")?;
    let service = Service::new(
        stores,
        budget,
        cpu.clone(),
        config.engine_timeout,
        config.disk_used_max,
        shutdown.clone(),
    );
    let (streams, tables) = service.ending();
    // Not waited for with the streams: what a job waits for must not keep a partition from being published.
    let tasks = TaskTracker::new();
    let desk = match config.sources.is_empty() {
        true => None,
        false => Some(jobs(config, &cpu, &shutdown, &tasks).await?),
    };
    let page = Arc::new(service.page(desk.clone()));
    let _page = strait_common::metrics::serve(config.metrics_listen, page).await?;
    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter
        .set_serving::<TransferServer<Service>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(strait_proto::DESCRIPTORS)
        .build_v1()
        .or_error(Kind::Internal, "gRPC reflection")?;
    let transfer = TransferServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
    tracing::info!(%address, memory_bytes = config.memory_bytes, cpu_threads = config.cpu_threads, tls = config.tls.word(),
        stores = ?config.stores.keys().collect::<Vec<_>>(), sources = ?config.sources.keys().collect::<Vec<_>>(), "sink agent ready");
    eprintln!("listening on {address}");
    let draining = shutdown.clone();
    // The server's own setting does not reach sockets that it is handed. Without this a credit or an ack waits 40 ms for the peer's delayed ACK.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = config
        .tls
        .server()?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(config.peer_timeout / 2))
        .http2_keepalive_timeout(Some(config.peer_timeout / 2))
        .add_service(transfer)
        .add_optional_service(desk.map(|desk| JobsServer::new(strait_jobs::service::Service(desk))))
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(incoming, async move { draining.draining().await });
    let served = tokio::select! {
        served = server => served.or_error(Kind::Internal, "gRPC server"),
        // A cancel does not wait for open calls.
        () = shutdown.cancelled() => Ok(()),
    };
    streams.close();
    let ended = async {
        streams.wait().await;
        tables.finished().await;
    };
    if tokio::time::timeout(config.engine_timeout.min(Duration::from_secs(30)), ended)
        .await
        .is_err()
    {
        tracing::warn!(
            "some partitions are still being published; what is not committed is resumed by the source"
        );
    }
    tasks.close();
    if tokio::time::timeout(JOBS_STOP_MAX, tasks.wait())
        .await
        .is_err()
    {
        tracing::debug!("some questions of jobs were cut short");
    }
    tracing::info!("sink agent stopped");
    served.map_err(|error: Error| error.context(address))
}

/// What stopping waits for the jobs' questions and messages.
const JOBS_STOP_MAX: Duration = Duration::from_secs(5);

/// The jobs that live at this agent, which begin to start by themselves.
async fn jobs(
    config: &Config,
    cpu: &CpuPool,
    shutdown: &Shutdown,
    tasks: &TaskTracker,
) -> Result<Arc<Desk>> {
    let groups = FarGroups::new(config, shutdown.clone(), tasks.clone())?;
    let room = Room {
        store: config.state_dir.join("jobs.sqlite"),
        cpu: cpu.clone(),
        clock: Clock::Wall,
        shutdown: shutdown.clone(),
        tasks: tasks.clone(),
        runs_commands: false,
    };
    let desk = Desk::open(room, Arc::new(groups)).await?;
    tasks.spawn(Arc::clone(&desk).keep());
    Ok(desk)
}

/// The largest message: a frame, and what little a message holds beside its payload.
const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX as usize + (256 << 10);
/// HTTP/2 windows: what tonic may buffer for one stream before the session asks for more, and for all. The window of frames is what bounds a
/// stream; these only must not be so small that a waiting stream stops the others.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
