//! What an operator can set, each key as a flag, an environment variable and a line of the TOML file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use strait_common::config::{self, ByteSize, NamedUrl, Percent, SizeOrNone, Span, UrlSettings};
use strait_common::telemetry::{self, LogFormat};
use strait_common::tls::{Dialling, IdentityFiles, Listening};
use strait_common::{Kind, OrError, Result};

use crate::compression::Policy;
use crate::pace;

/// The settings as given: every key optional, so that flag, environment and file can be laid over each other.
#[derive(Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address to listen on for operators [default: 127.0.0.1:7401]
    #[arg(long, env = "STRAIT_SOURCE_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address to serve Prometheus metrics on, with /livez and /readyz, in plain HTTP [default: none]
    #[arg(long, env = "STRAIT_SOURCE_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Directory for this agent's own state: its runs [default: ./strait-source]
    #[arg(long, env = "STRAIT_SOURCE_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How this agent is called in claims at the sink [default: the host's name]
    #[arg(long, env = "STRAIT_SOURCE_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Bound on memory for streams, as in 256MiB [default: 256MiB]
    #[arg(long, env = "STRAIT_SOURCE_MEMORY", value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Streams of one run at a time, if memory admits them [default: 4]
    #[arg(long, env = "STRAIT_SOURCE_STREAMS_MAX", value_name = "N")]
    pub streams_max: Option<u32>,
    /// Frames in flight on a stream [default: 4]
    #[arg(long, env = "STRAIT_SOURCE_WINDOW_FRAMES", value_name = "N")]
    pub window_frames: Option<u32>,
    /// Largest frame of more than one row, before compression [default: 1MiB]
    #[arg(long, env = "STRAIT_SOURCE_FRAME_BYTES_MAX", value_name = "SIZE")]
    pub frame_bytes_max: Option<ByteSize>,
    /// A partition is checkpointed whenever this much of it was sent [default: 128MiB]
    #[arg(long, env = "STRAIT_SOURCE_CHUNK_BYTES", value_name = "SIZE")]
    pub chunk_bytes: Option<ByteSize>,
    /// Partitions of a stream whose end is not yet acknowledged [default: 1000]
    #[arg(long, env = "STRAIT_SOURCE_FINISHES_MAX", value_name = "N")]
    pub finishes_max: Option<u32>,
    /// How frames are compressed: auto, none, or zstd with a level as in zstd:1; auto compresses while a stream waits for the network [default: auto]
    #[arg(long, env = "STRAIT_SOURCE_COMPRESSION", value_name = "HOW")]
    pub compression: Option<Policy>,
    /// The most that all frames of this agent take on the wire in a second, as in 20MiB, or none [default: none]
    #[arg(long, env = "STRAIT_SOURCE_BANDWIDTH_MAX", value_name = "SIZE")]
    pub bandwidth_max: Option<SizeOrNone>,
    /// Threads for reading and encoding [default: the number of cores]
    #[arg(long, env = "STRAIT_SOURCE_CPU_THREADS", value_name = "N")]
    pub cpu_threads: Option<usize>,
    /// The longest that one call of an engine may take [default: 2m]
    #[arg(long, env = "STRAIT_SOURCE_ENGINE_TIMEOUT", value_name = "TIME")]
    pub engine_timeout: Option<Span>,
    /// Silence after which a sink agent counts as gone [default: 20s]
    #[arg(long, env = "STRAIT_SOURCE_PEER_TIMEOUT", value_name = "TIME")]
    pub peer_timeout: Option<Span>,
    /// How long a stream waits for the sink's memory before it gives this side's back [default: 30s]
    #[arg(long, env = "STRAIT_SOURCE_LEASE_WAIT_MAX", value_name = "TIME")]
    pub lease_wait_max: Option<Span>,
    /// How full the disk of a directory that is backed up to may be for a partition to begin; above, runs wait for room [default: 95%]
    #[arg(long, env = "STRAIT_SOURCE_DISK_USED_MAX", value_name = "PERCENT")]
    pub disk_used_max: Option<Percent>,
    /// Retries of a run without any progress in between before it fails [default: 20]
    #[arg(long, env = "STRAIT_SOURCE_RETRIES_MAX", value_name = "N")]
    pub retries_max: Option<u32>,
    /// The longest wait before a retry [default: 30s]
    #[arg(long, env = "STRAIT_SOURCE_RETRY_WAIT_MAX", value_name = "TIME")]
    pub retry_wait_max: Option<Span>,
    /// How long a soft stop may take [default: 60s]
    #[arg(long, env = "STRAIT_SOURCE_GRACE", value_name = "TIME")]
    pub grace: Option<Span>,
    /// PEM file of this agent's certificate, shown to operators and to sink agents; without it and its key there is no TLS
    #[arg(long, env = "STRAIT_SOURCE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, env = "STRAIT_SOURCE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of the authorities of which operators must show a certificate [default: anyone may connect]
    #[arg(long, env = "STRAIT_SOURCE_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// PEM file of the authorities that certificates of sink agents come from; needed for https URLs of sinks
    #[arg(long, env = "STRAIT_SOURCE_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Listen beyond this machine without TLS [default: false]
    #[arg(long, env = "STRAIT_SOURCE_INSECURE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub insecure: Option<bool>,
    /// Which events are logged, as in info or warn,agent_source=debug [default: info, and warn of libraries]
    #[arg(long, env = "STRAIT_SOURCE_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look: text or json [default: text]
    #[arg(long, env = "STRAIT_SOURCE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// A store of this agent, as in live=lake:///data/a; may be repeated
    #[arg(
        long = "store",
        env = "STRAIT_SOURCE_STORES",
        value_name = "NAME=URL",
        value_delimiter = ','
    )]
    #[serde(skip)]
    pub store: Vec<NamedUrl>,
    /// A sink agent, as in dr=http://host:7402; may be repeated
    #[arg(
        long = "sink",
        env = "STRAIT_SOURCE_SINKS",
        value_name = "NAME=URL",
        value_delimiter = ','
    )]
    #[serde(skip)]
    pub sink: Vec<NamedUrl>,
    /// The stores of the file.
    #[arg(skip)]
    pub stores: BTreeMap<String, UrlSettings>,
    /// The sinks of the file.
    #[arg(skip)]
    pub sinks: BTreeMap<String, UrlSettings>,
}

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// This agent's own directory.
    pub state_dir: PathBuf,
    /// How this agent is called in claims.
    pub name: String,
    /// The bound on memory for streams, in bytes.
    pub memory_bytes: u64,
    /// Streams of one run at a time.
    pub streams_max: u32,
    /// Frames in flight on a stream.
    pub window_frames: u32,
    /// The largest frame of more than one row, in bytes.
    pub frame_bytes_max: u64,
    /// Raw bytes between checkpoints.
    pub chunk_bytes: u64,
    /// Unanswered finishes of a stream.
    pub finishes_max: u32,
    /// How frames are compressed.
    pub compression: Policy,
    /// The most that all frames take on the wire, in bytes a second.
    pub bandwidth_max: Option<u64>,
    /// Threads of the CPU pool.
    pub cpu_threads: usize,
    /// The longest that one call of an engine may take.
    pub engine_timeout: Duration,
    /// Silence after which a sink counts as gone.
    pub peer_timeout: Duration,
    /// How long a stream waits for the sink's memory.
    pub lease_wait_max: Duration,
    /// How full the disk of a directory may be for a partition to begin there.
    pub disk_used_max: Percent,
    /// Retries without progress.
    pub retries_max: u32,
    /// The longest wait before a retry.
    pub retry_wait_max: Duration,
    /// How long a soft stop may take.
    pub grace: Duration,
    /// Who may connect, and how.
    pub tls: Listening,
    /// How sinks are connected to.
    pub sink_tls: Dialling,
    /// Which events are logged.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// URL by name of store.
    pub stores: BTreeMap<String, String>,
    /// URL by name of sink.
    pub sinks: BTreeMap<String, String>,
}

impl Settings {
    /// Lays these settings, from flags and environment, over those of a file, and both over the defaults.
    ///
    /// # Errors
    /// `Config` if no store or no sink is named, or a bound makes no sense.
    pub fn over(self, file: Settings) -> Result<Config> {
        let span = |flag: Option<Span>, file: Option<Span>, default_s| {
            flag.or(file)
                .map_or(Duration::from_secs(default_s), |span| span.0)
        };
        let size = |flag: Option<ByteSize>, file: Option<ByteSize>, default: u64| {
            flag.or(file).map_or(default, |size| size.0)
        };
        let identity = IdentityFiles::of(
            "tls_",
            self.tls_cert.or(file.tls_cert),
            self.tls_key.or(file.tls_key),
        )?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let config = Config {
            listen: self
                .listen
                .or(file.listen)
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7401))),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            state_dir: self
                .state_dir
                .or(file.state_dir)
                .unwrap_or_else(|| "strait-source".into()),
            name: self.name.or(file.name).unwrap_or_else(host_name),
            memory_bytes: size(self.memory, file.memory, 256 << 20),
            streams_max: self.streams_max.or(file.streams_max).unwrap_or(4),
            window_frames: self.window_frames.or(file.window_frames).unwrap_or(4),
            frame_bytes_max: size(self.frame_bytes_max, file.frame_bytes_max, 1 << 20),
            chunk_bytes: size(self.chunk_bytes, file.chunk_bytes, 128 << 20),
            finishes_max: self.finishes_max.or(file.finishes_max).unwrap_or(1000),
            compression: self
                .compression
                .or(file.compression)
                .unwrap_or(Policy::Auto),
            bandwidth_max: self
                .bandwidth_max
                .or(file.bandwidth_max)
                .and_then(|size| size.0),
            cpu_threads: self.cpu_threads.or(file.cpu_threads).unwrap_or(cores),
            engine_timeout: span(self.engine_timeout, file.engine_timeout, 120),
            peer_timeout: span(self.peer_timeout, file.peer_timeout, 20),
            lease_wait_max: span(self.lease_wait_max, file.lease_wait_max, 30),
            disk_used_max: (self.disk_used_max.or(file.disk_used_max)).unwrap_or(Percent(95)),
            retries_max: self.retries_max.or(file.retries_max).unwrap_or(20),
            retry_wait_max: span(self.retry_wait_max, file.retry_wait_max, 30),
            grace: span(self.grace, file.grace, 60),
            tls: Listening {
                identity: identity.clone(),
                client_ca: self.tls_client_ca.or(file.tls_client_ca),
                insecure: self.insecure.or(file.insecure).unwrap_or(false),
            },
            sink_tls: Dialling {
                ca: self.tls_ca.or(file.tls_ca),
                identity,
            },
            log: self
                .log
                .or(file.log)
                .unwrap_or_else(|| telemetry::DEFAULT_FILTER.to_owned()),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            stores: config::urls("store", "live=lake:///data/a", &[], file.stores, self.store)?,
            sinks: config::urls(
                "sink",
                "dr=http://host:7402",
                &["http", "https"],
                file.sinks,
                self.sink,
            )?,
        };
        config.check()?;
        Ok(config)
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "agent-source".to_owned(),
        name => name.to_owned(),
    }
}

impl Config {
    fn check(&self) -> Result<()> {
        use config::{MEMORY_BYTES_MAX, SPAN_MAX, between, lasts};
        between("memory", self.memory_bytes, 1, MEMORY_BYTES_MAX)?;
        between("streams_max", self.streams_max.into(), 1, 64)?;
        between("window_frames", self.window_frames.into(), 1, 256)?;
        between("frame_bytes_max", self.frame_bytes_max, 4096, 16 << 20)?;
        between("chunk_bytes", self.chunk_bytes, 1 << 16, 1 << 40)?;
        between("finishes_max", self.finishes_max.into(), 1, 1000)?;
        if let Some(bandwidth_max) = self.bandwidth_max {
            pace::check("bandwidth_max", bandwidth_max, self.frame_bytes_max)?;
        }
        between("cpu_threads", self.cpu_threads as u64, 1, 1024)?;
        between("retries_max", self.retries_max.into(), 0, 1_000_000)?;
        let second = Duration::from_secs(1);
        lasts("engine_timeout", self.engine_timeout, second, SPAN_MAX)?;
        lasts("peer_timeout", self.peer_timeout, second, SPAN_MAX)?;
        lasts("lease_wait_max", self.lease_wait_max, second, SPAN_MAX)?;
        lasts(
            "retry_wait_max",
            self.retry_wait_max,
            Duration::ZERO,
            SPAN_MAX,
        )?;
        lasts("grace", self.grace, Duration::ZERO, SPAN_MAX)?;
        self.tls.check(self.listen)?;
        self.sink_tls
            .check("sink", &self.sinks, "tls_ca", self.tls.insecure)?;
        Ok(())
    }

    /// The effective configuration as the TOML file that would give it, without secrets.
    ///
    /// # Errors
    /// `Config` if a path is no text.
    pub fn to_toml(&self) -> Result<String> {
        let shown = Settings {
            listen: Some(self.listen),
            metrics_listen: self.metrics_listen,
            state_dir: Some(self.state_dir.clone()),
            name: Some(self.name.clone()),
            memory: Some(ByteSize(self.memory_bytes)),
            streams_max: Some(self.streams_max),
            window_frames: Some(self.window_frames),
            frame_bytes_max: Some(ByteSize(self.frame_bytes_max)),
            chunk_bytes: Some(ByteSize(self.chunk_bytes)),
            finishes_max: Some(self.finishes_max),
            compression: Some(self.compression),
            bandwidth_max: Some(SizeOrNone(self.bandwidth_max)),
            cpu_threads: Some(self.cpu_threads),
            engine_timeout: Some(Span(self.engine_timeout)),
            peer_timeout: Some(Span(self.peer_timeout)),
            lease_wait_max: Some(Span(self.lease_wait_max)),
            disk_used_max: Some(self.disk_used_max),
            retries_max: Some(self.retries_max),
            retry_wait_max: Some(Span(self.retry_wait_max)),
            grace: Some(Span(self.grace)),
            tls_cert: self.tls.identity.as_ref().map(|files| files.cert.clone()),
            tls_key: self.tls.identity.as_ref().map(|files| files.key.clone()),
            tls_client_ca: self.tls.client_ca.clone(),
            tls_ca: self.sink_tls.ca.clone(),
            insecure: Some(self.tls.insecure),
            log: Some(self.log.clone()),
            log_format: Some(self.log_format),
            store: Vec::new(),
            sink: Vec::new(),
            stores: config::shown_urls(&self.stores),
            sinks: config::shown_urls(&self.sinks),
        };
        toml::to_string(&shown).or_error(Kind::Config, "configuration")
    }
}
