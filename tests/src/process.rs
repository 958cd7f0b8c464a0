//! The built program as a child process: as a command that ends, and as an agent that is told to.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// The command line, pointed at an agent.
#[derive(Clone, Debug)]
pub struct Cli {
    program: PathBuf,
    agent: String,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it remarked.
    pub stderr: String,
}

impl Cli {
    /// `program --agent URL`.
    pub fn new(program: &str, agent_url: &str) -> Cli {
        Cli {
            program: program.into(),
            agent: agent_url.to_owned(),
        }
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it does not end within [`crate::WAIT_MAX`], or by a signal.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .args(["--agent", &self.agent])
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(crate::WAIT_MAX, command.output());
        let output = output
            .await
            .unwrap_or_else(|_| panic!("{arguments:?} does not end"))
            .expect("the program starts");
        Ended {
            code: output.status.code().expect("it ends by itself"),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The same with `--json`: the one object that it printed.
    pub async fn json(&self, arguments: &[&str]) -> (i32, serde_json::Value) {
        let ended = self.run(&[arguments, &["--json"]].concat()).await;
        let object = serde_json::from_str(&ended.stdout);
        let object = object.unwrap_or_else(|error| {
            panic!("{arguments:?} printed no JSON object: {error}: {ended:?}")
        });
        (ended.code, object)
    }
}

/// An agent as a child process. Dropping it kills it.
#[derive(Debug)]
pub struct AgentProcess {
    child: Child,
    log: PathBuf,
    address: String,
}

impl AgentProcess {
    /// Starts `program NAME --config FILE` and waits until it says where it listens.
    pub async fn start(program: &str, name: &str, config: &Path) -> AgentProcess {
        let log = config.with_extension("log");
        let file = std::fs::File::create(&log).expect("a log");
        let mut child = Command::new(program)
            .env_clear()
            .arg(name)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let address = crate::eventually(&format!("{name} listens"), async || {
            let text = read(&log);
            if let Some(ended) = child.try_wait().expect("a child") {
                panic!("{name} ended with {ended}: {text}");
            }
            let (_, rest) = text.split_once("listening on ")?;
            let (address, _) = rest.split_once('\n')?;
            Some(address.to_owned())
        })
        .await;
        AgentProcess {
            child,
            log,
            address,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        read(&self.log)
    }

    /// CPU time that it has taken so far, in user and kernel mode, to the hundredth of a second.
    pub fn cpu(&self) -> Duration {
        let pid = self.child.id().expect("it is under way");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("Linux");
        // The second field is the program's name in brackets, which may hold anything; the times are the 14th and the 15th.
        let (_, rest) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it is under way").cast_signed();
        kill_process(Pid::from_raw(pid).expect("an id"), signal).expect("a signal is sent");
    }

    /// Waits until it has ended; its exit code, none if a signal ended it.
    pub async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(crate::WAIT_MAX, self.child.wait()).await;
        ended
            .unwrap_or_else(|_| panic!("the agent does not end: {}", self.log()))
            .expect("a child")
            .code()
    }
}

fn read(log: &Path) -> String {
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(log) {
        // A line that is cut within a character is read whole the next time.
        let _ = file.read_to_string(&mut text);
    }
    text
}
