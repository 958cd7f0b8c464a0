//! Logs: events with fields on stderr, never with values of rows.

use std::io::IsTerminal;

use crate::error::{Error, Result};

/// What is logged unless an operator says otherwise: the libraries below tell every step that they take.
pub const DEFAULT_FILTER: &str = "info,buoyant_kernel=warn,buoyant_kernel_engine=warn,delta_kernel=warn,deltalake=warn,deltalake_core=warn,h2=warn,hyper=warn";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<LogFormat> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(Error::config(format!(
                "'{text}' is not a log format; write text or json"
            ))),
        }
    }
}

/// Sends this process's events to stderr. `filter` is a level or a list of `target=level`, as in `info,h2=warn`.
///
/// # Errors
/// `Config` if the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Error::config(format!("log = '{filter}' is no filter")).with_source(error)
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second call in one process (tests that run both agents) keeps the first one's settings.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// This process's highest resident memory so far, in bytes (`VmHWM` of Linux); 0 where it cannot be told.
pub fn peak_memory_bytes() -> u64 {
    memory_bytes().1
}

/// This process's resident memory now and at most so far, in bytes (`VmRSS` and `VmHWM` of Linux); 0 where it cannot be told.
pub fn memory_bytes() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line
            .and_then(|line| line.trim().strip_suffix("kB"))
            .and_then(|kib| kib.trim().parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    (bytes("VmRSS:"), bytes("VmHWM:"))
}
