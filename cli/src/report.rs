//! How a command ends: its exit code, and its error on a terminal or as JSON.

use std::io::IsTerminal;
use std::process::ExitCode;

use strait_common::Kind;

/// The table at the end of `--help`.
pub(crate) const EXIT_CODES: &str = "Exit codes:
   0  done
   1  failed
   2  usage: an argument, selector or configuration is wrong
   3  partial: some partitions failed, the others are done
   5  temporary: a side could not be reached; a retry can help
  16  differences found
  17  already running: another run owns the target";

/// How a command ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Failed,
    Partial,
    Temporary,
    Differences,
}

/// Why a command ended with an error.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    /// The run that is under way, where that is the reason.
    pub(crate) running: Option<String>,
    /// Whether the source agent itself could not be reached.
    pub(crate) unreachable: bool,
}

impl Failure {
    /// Names the agent where it could not be reached: it has said nothing, so nothing else tells which one was asked.
    pub(crate) fn of_agent(mut self, url: &str) -> Failure {
        if self.unreachable {
            let url = strait_common::config::without_secrets(url);
            self.message = format!("source agent {url}: {}", self.message);
        }
        self
    }
}

impl From<strait_common::Error> for Failure {
    fn from(error: strait_common::Error) -> Failure {
        Failure {
            kind: error.kind(),
            message: error.to_string(),
            running: None,
            unreachable: false,
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Failure {
        let running = status
            .metadata()
            .get("strait-run")
            .and_then(|run| run.to_str().ok())
            .map(str::to_owned);
        // What an agent says carries its kind; what the transport says does not.
        let silent = !status.metadata().contains_key("strait-kind");
        if silent && status.code() == tonic::Code::Unimplemented {
            return Failure::from(strait_common::Error::config(
                "this agent does not do that. Runs, plans and tables are asked of a source agent; a sink agent has jobs, where its configuration names [sources.NAME]. \
                 An agent of an older release may not know it yet",
            ));
        }
        let failure = Failure::from(strait_common::Error::from(status));
        Failure {
            running,
            unreachable: silent && failure.kind == Kind::Unavailable,
            ..failure
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Where a command writes.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    /// Whether progress can be redrawn in place.
    pub(crate) live: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Output {
        Output {
            json,
            quiet,
            live: !quiet && std::io::stderr().is_terminal(),
        }
    }

    /// The one JSON object.
    pub(crate) fn print_json(&self, value: &impl serde::Serialize) {
        if self.json {
            println!(
                "{}",
                serde_json::to_string(value).unwrap_or_else(|error| format!(
                    "{{\"status\":\"failed\",\"error\":\"{error}\"}}"
                ))
            );
        }
    }

    /// Text for people.
    pub(crate) fn print(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }

    /// A remark beside the result.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Prints the error, if there is one, and maps the end to the exit code.
    pub(crate) fn exit(&self, result: Result<Outcome>) -> ExitCode {
        let code = exit_code(&result);
        if let Err(failure) = result {
            if self.json {
                println!("{}", json_error(&failure));
            }
            eprintln!("error: {}", failure.message);
            if let Some(hint) = hint(&failure) {
                eprintln!("hint: {hint}");
            }
        }
        ExitCode::from(code)
    }
}

fn json_error(failure: &Failure) -> serde_json::Value {
    serde_json::json!({
        "status": "failed",
        "error": { "kind": failure.kind.name(), "message": failure.message, "run": failure.running },
    })
}

/// The JSON object for arguments that cannot be understood; the text for people is clap's.
pub(crate) fn print_usage_error(text: &str) {
    let text = text.strip_prefix("error: ").unwrap_or(text).trim_end();
    let failure = Failure::from(strait_common::Error::config(text));
    println!("{}", json_error(&failure));
}

fn hint(failure: &Failure) -> Option<&'static str> {
    match failure.kind {
        Kind::Unavailable if failure.unreachable => {
            Some("is it up, and --agent (or STRAIT_AGENT) right? `strait health` asks it")
        }
        Kind::Full => Some("make room on that disk; nothing is lost, and a retry goes on"),
        Kind::Unavailable => Some("a retry can help; the agent's log has more"),
        Kind::Internal => Some("this is a bug of Strait; the agent's log has more"),
        _ => None,
    }
}

fn exit_code(result: &Result<Outcome>) -> u8 {
    match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Failed) => 1,
        Ok(Outcome::Partial) => 3,
        Ok(Outcome::Temporary) => 5,
        Ok(Outcome::Differences) => 16,
        Err(failure) if failure.running.is_some() => 17,
        Err(failure) => match failure.kind {
            Kind::Config => 2,
            Kind::Unavailable | Kind::Full => 5,
            _ => 1,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_exit_code() {
        let failure = |kind, running: Option<&str>| {
            Err(Failure {
                kind,
                message: String::new(),
                running: running.map(str::to_owned),
                unreachable: false,
            })
        };
        let ends = [
            (Ok(Outcome::Done), 0),
            (Ok(Outcome::Failed), 1),
            (Ok(Outcome::Partial), 3),
            (Ok(Outcome::Temporary), 5),
            (Ok(Outcome::Differences), 16),
            (failure(Kind::Config, None), 2),
            (failure(Kind::Unavailable, None), 5),
            (failure(Kind::Full, None), 5),
            (failure(Kind::Corrupt, None), 1),
            (failure(Kind::Refused, Some("run")), 17),
        ];
        for (end, code) in ends {
            assert_eq!(exit_code(&end), code, "{end:?}");
            assert!(
                EXIT_CODES.contains(&format!("{code}  ")),
                "{code} is not documented"
            );
        }
    }
}
