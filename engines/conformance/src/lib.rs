//! The suite that every engine passes: what the engine contract promises, case by case, and the same again with the process
//! killed, or overtaken by another one, at every step.
//!
//! An engine plugs in with a [`Harness`]: how to make an empty durable store, how to start a process on one, and how to arm a
//! fault at a numbered step of that process. [`suite!`] then writes one test per case:
//!
//! ```text
//! strait_conformance::suite!(LakeHarness::new(), |case| runtime().block_on(case));
//! ```
//!
//! An engine that takes several divisions has a harness for each ([`Divided`]) and passes the suite with all of them.
//!
//! Start with [`cases`]: `acts` says what each call does, `fence` who may call, `source` what readers get, `killer` that
//! all of it holds whatever dies when. [`life`] is the correct source that the killer drives, [`data`] the rows that it copies.
//!
//! The suite starts no runtime and no thread, and measures no time.

use std::fmt;
use std::iter::StepBy;
use std::ops::{Range, RangeInclusive};

use async_trait::async_trait;
use futures::future::BoxFuture;
use strait_common::engine::Store;
use strait_common::ids::TableName;
use strait_common::{Error, Kind, Result};

pub use data::{Divided, Part};
pub use strait_memory::Row;

pub mod cases;
pub mod data;
pub mod life;
mod visible;

pub use visible::{read_all, visible_rows};

/// A life of more steps than this never ends.
pub const STEPS_MAX: u64 = 10_000;

/// How the suite reaches one engine.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A new, empty durable store, apart from all others.
    async fn create(&self) -> Result<Box<dyn Durable>>;

    /// Whether a partition can still be read at an older version after it changed. If not, reading it must end with `Moved`.
    fn reads_old_versions(&self) -> bool {
        false
    }

    /// How the suite's table is divided, by an engine that takes several divisions.
    fn divided(&self) -> Divided {
        Divided::Values
    }

    /// What the engine can hold, and how. Values that it says it cannot are left out of the cases.
    fn holds(&self) -> Holds {
        Holds::default()
    }

    /// A partition of the suite's table, with values that the engine can hold.
    ///
    /// # Errors
    /// `Refused` if the key's text is too long.
    fn part(&self, day: Option<i32>, symbol: Option<&str>, numbers: Range<i64>) -> Result<Part> {
        let part = self.divided().part(day, symbol, numbers)?;
        Ok(part.with_empty_texts(self.holds().empty_texts))
    }

    /// The one partition of a table without partitions, with values that the engine can hold.
    fn whole_table(&self, numbers: Range<i64>) -> Part {
        Part::whole_table(numbers).with_empty_texts(self.holds().empty_texts)
    }

    /// The steps of a life, counted from 1, at which the first fault comes: all of them, or every so many.
    fn steps(&self) -> StepBy<RangeInclusive<u64>> {
        (1..=STEPS_MAX).step_by(1)
    }

    /// Whether the killer tries every pair of steps, one in each of two lives, rather than one second step per first: for engines
    /// whose lives take microseconds.
    fn every_pair(&self) -> bool {
        false
    }
}

/// What an engine can hold. All of it, unless it says otherwise: each of these is a promise that its documentation takes back.
#[derive(Clone, Copy, Debug)]
pub struct Holds {
    /// Texts without a character, apart from null.
    pub empty_texts: bool,
    /// The longest text, in bytes.
    pub text_bytes_max: usize,
    /// Partitions whose rows have no value in a column of the division.
    pub null_keys: bool,
    /// Whether a text can be a partition's value; all that the suite asks for can.
    pub key: fn(&str) -> bool,
    /// Whether rows of another division are told apart by the table's own.
    pub told_apart: bool,
    /// Whether a partition that is replaced is old or new for a reader at every moment; else it may be empty meanwhile.
    pub replaced_in_one_act: bool,
}

impl Default for Holds {
    fn default() -> Holds {
        Holds {
            empty_texts: true,
            text_bytes_max: usize::MAX,
            null_keys: true,
            key: |_| true,
            told_apart: true,
            replaced_in_one_act: true,
        }
    }
}

/// What survives processes.
#[async_trait]
pub trait Durable: Send + Sync {
    /// Starts another process on this store. Processes that were started before may still be alive; dropping their handles ends them as a
    /// crash would.
    async fn open(&self) -> Result<Process>;

    /// What a reader of the table sees now, sorted; nothing where there is no such table. Reads through a new process unless the
    /// engine's own tools know better.
    async fn visible(&self, table: &TableName) -> Result<Vec<Row>> {
        visible_rows(&self.open().await?.store, table).await
    }
}

/// One process on a durable store.
pub struct Process {
    /// Both halves, as this process opened them.
    pub store: Store,
    /// Where it can be made to fail.
    pub faults: Box<dyn Faults>,
}

/// The numbered steps of one process. Every effect on the durable store is a step of its own, and the return of a call that had effects
/// counts as one too where the engine can arrange it. Reading may take steps or not.
pub trait Faults: Send + Sync {
    /// How many steps the process has begun, the one that it died in included.
    fn steps(&self) -> u64;

    /// Arms the `step`-th step, counted from 1 since the process began.
    fn at(&self, step: u64, fault: Fault);
}

/// What happens at an armed step, before its effect.
pub enum Fault {
    /// The process dies: this call and every later one fails, and the durable store stays as it is.
    Crash,
    /// This runs to its end while the process stands still; then the process goes on.
    Meanwhile(BoxFuture<'static, ()>),
}

/// Why a case failed, for the person who has to mend the engine.
#[derive(Debug)]
pub struct Failure {
    text: String,
    /// The kind of the engine's error, where it was one.
    kind: Option<Kind>,
}

/// The outcome of a case.
pub type Check<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure that says this.
    pub fn new(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            kind: None,
        }
    }

    /// The kind of the engine's error, where the failure is one.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// Puts where it happened in front of what happened.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Failure {
        self.text = format!("{place}: {}", self.text);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            text: format!("{error} ({})", error.kind()),
            kind: Some(error.kind()),
        }
    }
}

/// Says where in a case something failed.
pub trait At<T> {
    /// Puts `place` in front of the failure, if there is one.
    fn at(self, place: impl fmt::Display) -> Check<T>;
}

impl<T, E: Into<Failure>> At<T> for std::result::Result<T, E> {
    fn at(self, place: impl fmt::Display) -> Check<T> {
        self.map_err(|error| error.into().at(place))
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Failure::new(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

/// Fails unless `result` is an error of this kind.
pub(crate) fn ensure_kind<T>(result: Result<T>, kind: Kind, what: &str) -> Check<Error> {
    match result {
        Ok(_) => Err(Failure::new(format!(
            "{what} succeeded, and must be {kind}"
        ))),
        Err(error) if error.kind() == kind => Ok(error),
        Err(error) => Err(Failure::from(error).at(format!("{what} must be {kind}"))),
    }
}

/// One case of the suite: its name, and how to run it.
pub struct Case {
    /// A sentence of behaviour.
    pub name: &'static str,
    /// Runs it against an engine.
    pub run: for<'a> fn(&'a dyn Harness) -> BoxFuture<'a, Check>,
}

impl Case {
    /// The case of this name.
    pub fn named(name: &str) -> Option<Case> {
        cases::all().into_iter().find(|case| case.name == name)
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
