//! Both agents as real child processes of this executable.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use strait_common::{Error, Kind, OrError, Result};
use tokio::process::{Child, Command};

/// How long an agent may take to listen, and to stop.
const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(15);

/// An agent under way. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Agent {
    name: &'static str,
    child: Child,
    config: PathBuf,
    log: PathBuf,
    port: u16,
    /// The highest of the lives before this one.
    earlier_peak_bytes: u64,
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind("127.0.0.1:0").or_error(Kind::Unavailable, "find a free port")?;
    Ok(listener
        .local_addr()
        .or_error(Kind::Unavailable, "find a free port")?
        .port())
}

/// Starts `strait <name> --config <config>`, its log added to what is there.
fn spawn(name: &str, config: &Path, log: &Path) -> Result<Child> {
    let program = std::env::current_exe().or_error(Kind::Internal, "find this program")?;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .or_error(Kind::Config, log.display())?;
    Command::new(program)
        .arg(name)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .or_error(Kind::Internal, format!("start {name}"))
}

impl Agent {
    /// Starts `strait <name> --config <config>` and waits until it listens.
    pub(crate) async fn start(
        name: &'static str,
        config: &Path,
        log: &Path,
        port: u16,
    ) -> Result<Agent> {
        let mut agent = Agent {
            name,
            child: spawn(name, config, log)?,
            config: config.to_owned(),
            log: log.to_owned(),
            port,
            earlier_peak_bytes: 0,
        };
        agent.listens().await?;
        Ok(agent)
    }

    /// Kills it as a lost power supply would, and starts it again.
    pub(crate) async fn kill_and_restart(&mut self) -> Result<()> {
        self.earlier_peak_bytes = self.peak_memory_bytes();
        let killed = self.child.kill().await;
        killed.or_error(Kind::Internal, format!("kill {}", self.name))?;
        self.child = spawn(self.name, &self.config, &self.log)?;
        self.listens().await
    }

    async fn listens(&mut self) -> Result<()> {
        let begun = tokio::time::Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port))
            .await
            .is_err()
        {
            let ended = self.child.try_wait().or_error(Kind::Internal, self.name)?;
            if ended.is_some() || begun.elapsed() > START_MAX {
                return Err(Error::unavailable(format!(
                    "{} does not listen; its log ends with: {}",
                    self.name,
                    self.last_words()
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().last().unwrap_or("nothing").to_owned()
    }

    /// Its highest resident memory so far, over all its lives, in bytes; 0 where that cannot be told.
    pub(crate) fn peak_memory_bytes(&self) -> u64 {
        let Some(id) = self.child.id() else {
            return self.earlier_peak_bytes;
        };
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let kib = status.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        });
        self.earlier_peak_bytes.max(kib.unwrap_or(0) * 1024)
    }

    /// Asks it to stop, waits, and kills it if it does not.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
        {
            // One that has ended is waited for just the same.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(STOP_MAX, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Error::internal(format!(
                "{} ended with {status}; its log: {}",
                self.name,
                self.log.display()
            ))),
            Ok(Err(error)) => Err(error).or_error(Kind::Internal, self.name),
            Err(_) => self
                .child
                .kill()
                .await
                .or_error(Kind::Internal, format!("kill {}", self.name)),
        }
    }
}
