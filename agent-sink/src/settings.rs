//! What an operator can set, each key as a flag, an environment variable and a line of the TOML file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use strait_common::config::{self, ByteSize, NamedUrl, Percent, Span, UrlSettings};
use strait_common::telemetry::{self, LogFormat};
use strait_common::tls::{Dialling, IdentityFiles, Listening};
use strait_common::{Kind, OrError, Result};

/// The settings as given: every key optional, so that flag, environment and file can be laid over each other.
#[derive(Args, Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address to listen on for source agents [default: 127.0.0.1:7402]
    #[arg(long, env = "STRAIT_SINK_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Address to serve Prometheus metrics on, with /livez and /readyz, in plain HTTP [default: none]
    #[arg(long, env = "STRAIT_SINK_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Directory for this agent's own state [default: ./strait-sink]
    #[arg(long, env = "STRAIT_SINK_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Bound on memory for streams, as in 256MiB [default: 256MiB]
    #[arg(long, env = "STRAIT_SINK_MEMORY", value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Threads for decoding and writing [default: the number of cores]
    #[arg(long, env = "STRAIT_SINK_CPU_THREADS", value_name = "N")]
    pub cpu_threads: Option<usize>,
    /// The longest that one call of an engine may take [default: 2m]
    #[arg(long, env = "STRAIT_SINK_ENGINE_TIMEOUT", value_name = "TIME")]
    pub engine_timeout: Option<Span>,
    /// Silence after which a source agent counts as gone [default: 20s]
    #[arg(long, env = "STRAIT_SINK_PEER_TIMEOUT", value_name = "TIME")]
    pub peer_timeout: Option<Span>,
    /// How full a store's disk may be for a partition to begin; above, runs wait for room [default: 95%]
    #[arg(long, env = "STRAIT_SINK_DISK_USED_MAX", value_name = "PERCENT")]
    pub disk_used_max: Option<Percent>,
    /// How long a soft stop may take [default: 60s]
    #[arg(long, env = "STRAIT_SINK_GRACE", value_name = "TIME")]
    pub grace: Option<Span>,
    /// PEM file of this agent's certificate, shown to source agents; without it and its key there is no TLS
    #[arg(long, env = "STRAIT_SINK_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, env = "STRAIT_SINK_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of the authorities of which source agents must show a certificate [default: anyone may connect]
    #[arg(long, env = "STRAIT_SINK_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// PEM file of the authorities that certificates of source agents come from; needed for https URLs of sources
    #[arg(long, env = "STRAIT_SINK_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Listen beyond this machine without TLS [default: false]
    #[arg(long, env = "STRAIT_SINK_INSECURE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub insecure: Option<bool>,
    /// Which events are logged, as in info or warn,agent_sink=debug [default: info, and warn of libraries]
    #[arg(long, env = "STRAIT_SINK_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// How log lines look: text or json [default: text]
    #[arg(long, env = "STRAIT_SINK_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// A store of this agent, as in lake=lake:///data/b; may be repeated
    #[arg(
        long = "store",
        env = "STRAIT_SINK_STORES",
        value_name = "NAME=URL",
        value_delimiter = ','
    )]
    #[serde(skip)]
    pub store: Vec<NamedUrl>,
    /// A source agent that does the work of jobs at this agent, as in main=http://host:7401; may be repeated
    #[arg(
        long = "source",
        env = "STRAIT_SINK_SOURCES",
        value_name = "NAME=URL",
        value_delimiter = ','
    )]
    #[serde(skip)]
    pub source: Vec<NamedUrl>,
    /// The stores of the file.
    #[arg(skip)]
    pub stores: BTreeMap<String, UrlSettings>,
    /// The sources of the file.
    #[arg(skip)]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, UrlSettings>,
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
    /// The bound on memory for streams, in bytes.
    pub memory_bytes: u64,
    /// Threads of the CPU pool.
    pub cpu_threads: usize,
    /// The longest that one call of an engine may take.
    pub engine_timeout: Duration,
    /// Silence after which a source counts as gone.
    pub peer_timeout: Duration,
    /// How full a store's disk may be for a partition to begin.
    pub disk_used_max: Percent,
    /// How long a soft stop may take.
    pub grace: Duration,
    /// Who may connect, and how.
    pub tls: Listening,
    /// Which events are logged.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// How source agents are connected to.
    pub source_tls: Dialling,
    /// URL by name of store.
    pub stores: BTreeMap<String, String>,
    /// URL by name of source agent.
    pub sources: BTreeMap<String, String>,
}

impl Settings {
    /// Lays these settings, from flags and environment, over those of a file, and both over the defaults.
    ///
    /// # Errors
    /// `Config` if no store is named, or a bound makes no sense.
    pub fn over(self, file: Settings) -> Result<Config> {
        let stores = config::urls("store", "lake=lake:///data/b", &[], file.stores, self.store)?;
        let sources = match file.sources.is_empty() && self.source.is_empty() {
            true => BTreeMap::new(),
            false => config::urls(
                "source",
                "main=http://host:7401",
                &["http", "https"],
                file.sources,
                self.source,
            )?,
        };
        let span = |flag: Option<Span>, file: Option<Span>, default_s| {
            flag.or(file)
                .map_or(Duration::from_secs(default_s), |span| span.0)
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
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7402))),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            state_dir: self
                .state_dir
                .or(file.state_dir)
                .unwrap_or_else(|| "strait-sink".into()),
            memory_bytes: self.memory.or(file.memory).unwrap_or(ByteSize(256 << 20)).0,
            cpu_threads: self.cpu_threads.or(file.cpu_threads).unwrap_or(cores),
            engine_timeout: span(self.engine_timeout, file.engine_timeout, 120),
            peer_timeout: span(self.peer_timeout, file.peer_timeout, 20),
            disk_used_max: (self.disk_used_max.or(file.disk_used_max)).unwrap_or(Percent(95)),
            grace: span(self.grace, file.grace, 60),
            source_tls: Dialling {
                ca: self.tls_ca.or(file.tls_ca),
                identity: identity.clone(),
            },
            tls: Listening {
                identity,
                client_ca: self.tls_client_ca.or(file.tls_client_ca),
                insecure: self.insecure.or(file.insecure).unwrap_or(false),
            },
            log: self
                .log
                .or(file.log)
                .unwrap_or_else(|| telemetry::DEFAULT_FILTER.to_owned()),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            stores,
            sources,
        };
        use config::{MEMORY_BYTES_MAX, SPAN_MAX, between, lasts};
        between("memory", config.memory_bytes, 1, MEMORY_BYTES_MAX)?;
        between("cpu_threads", config.cpu_threads as u64, 1, 1024)?;
        let second = Duration::from_secs(1);
        lasts("engine_timeout", config.engine_timeout, second, SPAN_MAX)?;
        lasts("peer_timeout", config.peer_timeout, second, SPAN_MAX)?;
        lasts("grace", config.grace, Duration::ZERO, SPAN_MAX)?;
        config.tls.check(config.listen)?;
        let (sources, insecure) = (&config.sources, config.tls.insecure);
        config
            .source_tls
            .check("source", sources, "tls_ca", insecure)?;
        Ok(config)
    }
}

impl Config {
    /// The effective configuration as the TOML file that would give it, without secrets.
    ///
    /// # Errors
    /// `Config` if a path is no text.
    pub fn to_toml(&self) -> Result<String> {
        let shown = Settings {
            listen: Some(self.listen),
            metrics_listen: self.metrics_listen,
            state_dir: Some(self.state_dir.clone()),
            memory: Some(ByteSize(self.memory_bytes)),
            cpu_threads: Some(self.cpu_threads),
            engine_timeout: Some(Span(self.engine_timeout)),
            peer_timeout: Some(Span(self.peer_timeout)),
            disk_used_max: Some(self.disk_used_max),
            grace: Some(Span(self.grace)),
            tls_cert: self.tls.identity.as_ref().map(|files| files.cert.clone()),
            tls_key: self.tls.identity.as_ref().map(|files| files.key.clone()),
            tls_client_ca: self.tls.client_ca.clone(),
            tls_ca: self.source_tls.ca.clone(),
            insecure: Some(self.tls.insecure),
            log: Some(self.log.clone()),
            log_format: Some(self.log_format),
            store: Vec::new(),
            source: Vec::new(),
            stores: config::shown_urls(&self.stores),
            sources: config::shown_urls(&self.sources),
        };
        toml::to_string(&shown).or_error(Kind::Config, "configuration")
    }
}
