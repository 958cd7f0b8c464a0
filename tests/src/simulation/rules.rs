//! The rules of exactly once that a life can break on purpose.

use std::fmt;
use std::str::FromStr;

use strait_memory::Rule;

/// A rule, broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// One that the engine keeps.
    Engine(Rule),
    /// The source believes its own notes: what it has asked to finish counts as committed in later attempts.
    SourceTrustsItself,
    /// An attempt resolves the selection anew, with the time at which it begins.
    SelectionResolvedAgain,
    /// A source that lost its state counts its runs from one again, and the sink does not compare jobs.
    RunIdReused,
    /// The sink does not compare rows and digests with what the source counted.
    SumsNotCompared,
    /// In an engine that can look at the epoch only before it publishes: an attach does not wait for finishes under way.
    FinishNotAwaited,
}

impl Broken {
    /// Every rule that has no second one behind it. Without claims, or with late acts after the end of one, runs still see each other's committed
    /// partitions in the ledger and leave them alone: no life loses or doubles a row by that alone. The conformance suite breaks those two.
    pub const ALL: [Broken; 11] = [
        Broken::Engine(Rule::NoFence),
        Broken::Engine(Rule::LedgerApartFromRows),
        Broken::Engine(Rule::EpochInProcess),
        Broken::Engine(Rule::EpochPerRun),
        Broken::Engine(Rule::AckBeforeDurable),
        Broken::Engine(Rule::PositionWithoutVersion),
        Broken::SourceTrustsItself,
        Broken::SelectionResolvedAgain,
        Broken::RunIdReused,
        Broken::SumsNotCompared,
        Broken::FinishNotAwaited,
    ];

    /// What the engine is told to break.
    pub fn engine(self) -> Option<Rule> {
        match self {
            Broken::Engine(rule) => Some(rule),
            Broken::RunIdReused => Some(Rule::JobNotCompared),
            Broken::FinishNotAwaited => Some(Rule::FenceBeforeAct),
            Broken::SourceTrustsItself
            | Broken::SelectionResolvedAgain
            | Broken::SumsNotCompared => None,
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Engine(rule) => write!(f, "{rule:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl FromStr for Broken {
    type Err = String;

    fn from_str(text: &str) -> Result<Broken, String> {
        let found = Broken::ALL
            .into_iter()
            .find(|rule| rule.to_string() == text);
        found.ok_or_else(|| {
            let names: Vec<String> = Broken::ALL.iter().map(Broken::to_string).collect();
            format!("no rule '{text}'; there are {}", names.join(", "))
        })
    }
}
