//! The engine in memory passes the suite, and the suite notices every rule that it breaks.

use async_trait::async_trait;
use futures::FutureExt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use strait_common::Result;
use strait_conformance::{Case, Divided, Durable, Fault, Faults, Harness, Process};
use strait_memory::{Action, MemorySink, MemorySource, MemoryStore, Rule, Steps};

struct Memory {
    broken: Option<Rule>,
    divided: Divided,
}

struct MemoryDurable {
    store: MemoryStore,
    broken: Option<Rule>,
}

struct MemoryFaults(Arc<Steps>);

#[async_trait]
impl Harness for Memory {
    async fn create(&self) -> Result<Box<dyn Durable>> {
        Ok(Box::new(MemoryDurable {
            store: MemoryStore::new(),
            broken: self.broken,
        }))
    }

    fn divided(&self) -> Divided {
        self.divided
    }

    fn every_pair(&self) -> bool {
        true
    }
}

#[async_trait]
impl Durable for MemoryDurable {
    async fn open(&self) -> Result<Process> {
        let sink = match self.broken {
            None => MemorySink::open(&self.store),
            Some(rule) => MemorySink::breaking(&self.store, rule),
        };
        let faults = Box::new(MemoryFaults(sink.steps()));
        let store = strait_common::engine::Store {
            source: Arc::new(MemorySource::open(&self.store)),
            sink: Arc::new(sink),
        };
        Ok(Process { store, faults })
    }
}

impl Faults for MemoryFaults {
    fn steps(&self) -> u64 {
        self.0.taken()
    }

    fn at(&self, step: u64, fault: Fault) {
        let action = match fault {
            Fault::Crash => Action::Crash,
            Fault::Meanwhile(run) => Action::Meanwhile(Box::new(move || {
                patient(run);
            })),
        };
        self.0.at(step, action);
    }
}

/// Every future of the engine is ready when first polled, so no runtime is needed.
fn now<F: Future>(case: F) -> F::Output {
    case.now_or_never()
        .expect("a future of the engine in memory was not ready")
}

/// As [`now`], for the one broken engine that waits: polls until it does not.
fn patient<F: Future>(case: F) -> F::Output {
    let mut case = std::pin::pin!(case);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = case.as_mut().poll(&mut context) {
            return output;
        }
    }
}

/// An engine that keeps every rule.
fn memory(divided: Divided) -> Memory {
    Memory {
        broken: None,
        divided,
    }
}

strait_conformance::suite!(memory(Divided::Values), |case| now(case));

mod by_range_and_buckets {
    use super::*;
    strait_conformance::suite!(memory(Divided::RangeAndBuckets), |case| now(case));
}

/// The names of the cases that fail when this rule is broken.
fn failing(rule: Rule) -> Vec<&'static str> {
    let harness = Memory {
        broken: Some(rule),
        divided: Divided::Values,
    };
    let cases = strait_conformance::cases::all();
    // One rule's engine waits once on purpose.
    let fails = |case: &Case| patient((case.run)(&harness)).is_err();
    cases
        .into_iter()
        .filter(fails)
        .map(|case| case.name)
        .collect()
}

#[test]
fn every_broken_rule_fails_the_cases_about_it() {
    for rule in Rule::ALL {
        let failing = failing(rule);
        println!("{rule:?}: {failing:?}");
        let about: &[&str] = match rule {
            Rule::NoFence => &[
                "every_act_of_an_older_attempt_is_fenced",
                "overtaken_by_the_same_run_at_every_step",
            ],
            Rule::LedgerApartFromRows => &["killed_between_every_two_calls"],
            Rule::EpochInProcess => &[
                "each_attempt_has_a_higher_epoch",
                "every_act_of_an_older_attempt_is_fenced_from_another_process",
                "overtaken_by_the_same_run_at_every_step",
            ],
            Rule::AckBeforeDurable => &[
                "a_checkpoint_survives_a_crash_and_the_run_goes_on_from_it",
                "killed_between_every_two_calls",
            ],
            Rule::PositionWithoutVersion => &["a_position_of_another_version_is_not_gone_on_from"],
            Rule::NoClaim => &["another_run_is_refused_while_a_claim_is_open"],
            Rule::EpochPerRun => &[
                "each_attempt_has_a_higher_epoch",
                "every_act_of_an_older_attempt_is_fenced",
            ],
            Rule::JobNotCompared => &["the_same_run_with_another_job_is_refused"],
            Rule::FenceBeforeAct => &["overtaken_by_the_same_run_at_every_step"],
            Rule::OpenAfterEnd => &["an_attempt_that_has_ended_its_claim_writes_no_more"],
        };
        for case in about {
            assert!(
                failing.contains(case),
                "{rule:?} is broken and {case} passes"
            );
        }
    }
}
