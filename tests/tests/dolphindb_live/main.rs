//! What a real server must still show: questions that its documentation leaves open, the suite that every engine passes, and a table's way from a lake to the server and back.
//!
//! `DOLPHINDB_URL` names the server, as an agent's configuration would; `stand-in` asks the stand-in instead, which proves that this suite can run and nothing about the
//! server. Without it nothing is asked, and that is said. A word after `--` runs what has it in its name.
//!
//! It makes the databases of [`DATABASES`] and drops them, and does not begin where one of them is there.

#[path = "../../../engines/dolphindb/standin/tests/harness/mod.rs"]
mod harness;
mod questions;

use std::fmt;
use std::process::ExitCode;

use async_trait::async_trait;
use strait_common::config::without_secrets;
use strait_common::{Context, Error, Kind, OrError, Result};
use strait_conformance::{Durable, Harness, Holds, Process, cases};
use strait_dolphindb::{Cluster, Object, Options, Secret, User};
use strait_dolphindb_standin::{Settings, StandIn};
use strait_proto::v1;
use strait_tests::agents::{SinkAgent, SourceAgent, selectors};
use strait_tests::lakes::{self, Lakes, TABLE};

use questions::{Found, QUESTIONS, UNANSWERED_BY_THE_STAND_IN};

/// What this suite makes and drops.
const DATABASES: [&str; 3] = ["dfs://suite", questions::DATABASE, "dfs://strait_ledger"];
/// The stand-in's.
const PASSWORD: &str = "123456";
const ROUND_TRIP: &str = "round_trip_of_a_lake";

/// Who is asked.
pub(crate) struct Server {
    options: Options,
    shown: String,
    standin: Option<StandIn>,
}

impl Server {
    async fn of(text: &str) -> Result<Server> {
        if text == "stand-in" {
            let started = StandIn::start(Settings::default()).await;
            let standin = started.or_error(Kind::Internal, "the stand-in")?;
            let mut options = Options::of_site("127.0.0.1", standin.address().port());
            options.user = Some(User {
                name: "admin".to_owned(),
                password: Secret::new(PASSWORD),
            });
            return Ok(Server {
                options,
                shown: "the STAND-IN: what it answers proves nothing about a server".to_owned(),
                standin: Some(standin),
            });
        }
        let url = url::Url::parse(text).or_error(Kind::Config, "it is no URL")?;
        Ok(Server {
            options: Options::from_url(&url)?,
            shown: without_secrets(text),
            standin: None,
        })
    }

    /// Its cluster, by new connections.
    pub(crate) fn cluster(&self) -> Result<Cluster> {
        Cluster::new(self.options.clone())
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The answer of a script, in a session of its own.
    pub(crate) async fn script(&self, script: &str) -> Result<Object> {
        let mut lease = self.cluster()?.connect().await?;
        Ok(lease.connection().script(script).await?)
    }

    /// The user's password, for what no login of the client's does.
    pub(crate) fn plain_password(&self) -> Result<String> {
        if self.standin.is_some() {
            return Ok(PASSWORD.to_owned());
        }
        std::env::var("STRAIT_DOLPHINDB_PASSWORD")
            .or_error(Kind::Refused, "STRAIT_DOLPHINDB_PASSWORD")
    }

    async fn there(&self) -> Result<Vec<&'static str>> {
        let mut there = Vec::new();
        for name in DATABASES {
            let asked = format!("existsDatabase(\"{name}\")");
            if self.script(&asked).await?.boolean()? {
                there.push(name);
            }
        }
        Ok(there)
    }

    /// Nothing of this suite is there any more.
    async fn clear(&self) -> Result<()> {
        for name in self.there().await? {
            self.script(&format!("dropDatabase(\"{name}\")")).await?;
        }
        Ok(())
    }
}

/// An empty store each time: the one server, cleared.
struct Live<'a>(&'a Server);

struct LiveDurable {
    options: Options,
    journal: tempfile::TempDir,
}

#[async_trait]
impl Harness for Live<'_> {
    async fn create(&self) -> Result<Box<dyn Durable>> {
        self.0.clear().await?;
        Ok(Box::new(LiveDurable {
            options: self.0.options.clone(),
            journal: tempfile::tempdir().or_error(Kind::Internal, "scratch")?,
        }))
    }

    fn holds(&self) -> Holds {
        harness::holds()
    }
}

#[async_trait]
impl Durable for LiveDurable {
    async fn open(&self) -> Result<Process> {
        harness::process(self.options.clone(), self.journal.path())
    }
}

/// What has come of it.
#[derive(Default)]
struct Tally {
    right: usize,
    otherwise: Vec<String>,
    unanswered: Vec<&'static str>,
    failed: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} as the engine needs it, {} otherwise, {} not answered, {} failed",
            self.right,
            self.otherwise.len(),
            self.unanswered.len(),
            self.failed.len()
        )?;
        for (what, names) in [("otherwise", &self.otherwise), ("failed", &self.failed)] {
            if !names.is_empty() {
                write!(f, "\n{what}: {}", names.join(", "))?;
            }
        }
        if !self.unanswered.is_empty() {
            write!(f, "\nnot answered: {}", self.unanswered.join(", "))?;
        }
        Ok(())
    }
}

async fn ask(server: &Server, wanted: impl Fn(&str) -> bool, tally: &mut Tally) -> Result<()> {
    for question in QUESTIONS.iter().filter(|question| wanted(question.name)) {
        server.clear().await?;
        println!("\nquestion {}: {}", question.name, question.asks);
        println!("  the engine: {}", question.assumes);
        match (question.ask)(server).await {
            Ok(Found { text, right }) => {
                println!("  found: {text}");
                if right {
                    tally.right += 1;
                } else {
                    println!("  OTHERWISE than the engine needs it");
                    tally.otherwise.push(question.name.to_owned());
                }
            }
            // The server knows no such function, or the user may not call it.
            Err(error) if error.kind() == Kind::Refused => {
                println!("  NOT ANSWERED: {error}");
                tally.unanswered.push(question.name);
            }
            Err(error) => {
                println!("  FAILED: {error}");
                tally.failed.push(question.name.to_owned());
            }
        }
    }
    Ok(())
}

/// Of the stand-in, whose own tests run all of them, one case of so many shows that they can be run from here.
const CASES_OF_THE_STAND_IN: usize = 8;

async fn conform(server: &Server, step: usize, wanted: impl Fn(&str) -> bool, tally: &mut Tally) {
    let cases = cases::all();
    if step > 1 {
        let some = cases.len().div_ceil(step);
        println!(
            "{some} of {} cases: all of them pass on the stand-in in its own tests, or those do not",
            cases.len()
        );
    }
    let cases = cases.iter().step_by(step);
    for case in cases.filter(|case| wanted(case.name)) {
        match (case.run)(&Live(server)).await {
            Ok(()) => {
                println!("case {}: ok", case.name);
                tally.right += 1;
            }
            Err(failure) => {
                println!("case {}: FAILED: {failure}", case.name);
                tally.failed.push(case.name.to_owned());
            }
        }
    }
}

/// Both agents, twice: a lake's table to the server, and that to another lake. What both lakes hold is compared.
async fn round_trip(server: &Server) -> Result<String> {
    server.clear().await?;
    let lakes = Lakes::filled(3, 5000).await;
    let middle = "suite/ticks";
    let journal = lakes.path("journal");
    let to_server = harness::process(server.options.clone(), &journal)?.store;
    let from_server = harness::process(server.options.clone(), &journal)?.store;
    for (name, a, b, from, to) in [
        (
            "there",
            lakes::open(&lakes.a()).await,
            to_server,
            TABLE,
            middle,
        ),
        (
            "back",
            from_server,
            lakes::open(&lakes.b()).await,
            middle,
            TABLE,
        ),
    ] {
        let sink = SinkAgent::start_over(b, "lake:///b", None, |_| {}).await;
        let state = lakes.path(&format!("state-{name}"));
        let source = SourceAgent::start_over(a, "lake:///a", state, &sink.url(), |_| {}).await;
        let ask = v1::Selectors {
            from: format!("a:{from}"),
            to: format!("b:{to}"),
            ..selectors()
        };
        let operator = source.operator();
        let run = operator.run_as(ask.clone(), v1::Mode::default()).await;
        if run.status != "done" {
            return Err(Error::corrupt(format!("{name}: {}", run.message)));
        }
        let verified = operator.verify_as(ask).await;
        let verified = verified.or_error(Kind::Corrupt, format!("{name}: verify"))?;
        if verified.equal != 3 {
            return Err(Error::corrupt(format!("{name}: verify says {verified:?}")));
        }
        source.drain().await;
        sink.drain().await;
    }
    let held = [lakes.a(), lakes.b()];
    let (a, b) = (
        lakes.contents(&held[0]).await,
        lakes.contents(&held[1]).await,
    );
    if a.len() != 3 || a != b {
        return Err(Error::corrupt(format!(
            "{a:?} was sent, and {b:?} has come back"
        )));
    }
    Ok("3 days of 5,000 rows, equal by rows and digest, and verified on both ways".to_owned())
}

async fn run(text: &str, words: &[String]) -> Result<bool> {
    let server = Server::of(text).await?;
    println!("asking {}", server.shown);
    let there = server.there().await?;
    if !there.is_empty() {
        return Err(Error::config(format!(
            "{} is there: this suite makes and drops databases of that name. Use a server that no sink copies to; what an earlier test has left is dropped by \
             dropDatabase(\"{}\")",
            there.join(", "),
            there[0]
        )));
    }
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let mut tally = Tally::default();
    ask(&server, wanted, &mut tally).await?;
    println!();
    let step = match (&server.standin, words) {
        (Some(_), []) => CASES_OF_THE_STAND_IN,
        _ => 1,
    };
    conform(&server, step, wanted, &mut tally).await;
    if wanted(ROUND_TRIP) {
        match round_trip(&server).await {
            Ok(text) => {
                println!("{ROUND_TRIP}: {text}");
                tally.right += 1;
            }
            Err(error) => {
                println!("{ROUND_TRIP}: FAILED: {error}");
                tally.failed.push(ROUND_TRIP.to_owned());
            }
        }
    }
    server.clear().await.context("dropping what was made")?;
    println!("\nasked {}\n{tally}", server.shown);
    // What the stand-in answers is known, so that a question that has ceased to be asked is noticed.
    let known = server.standin.is_none()
        || !words.is_empty()
        || tally.unanswered == UNANSWERED_BY_THE_STAND_IN;
    if !known {
        println!("the stand-in used to leave unanswered: {UNANSWERED_BY_THE_STAND_IN:?}");
    }
    let asked = tally.right + tally.otherwise.len() + tally.failed.len();
    Ok(known && asked > 0 && tally.failed.is_empty() && tally.otherwise.is_empty())
}

fn main() -> ExitCode {
    let Ok(text) = std::env::var("DOLPHINDB_URL") else {
        println!(
            "SKIPPED: no DolphinDB server was asked. DOLPHINDB_URL is not set, so {} questions, {} cases and the way of a table there and back were passed over. \
             The last section of docs/dolphindb.md says how to ask one",
            QUESTIONS.len(),
            cases::all().len()
        );
        return ExitCode::SUCCESS;
    };
    let words = std::env::args().skip(1);
    let words: Vec<String> = words.filter(|word| !word.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let done = runtime
        .or_error(Kind::Internal, "a runtime")
        .and_then(|runtime| runtime.block_on(run(&text, &words)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("DOLPHINDB_URL: {error}");
            ExitCode::FAILURE
        }
    }
}
