//! The end of a life: calm, and the proof that nothing is lost.

use agent_source::runs::Status;
use rand::Rng;
use strait_common::Kind;
use strait_common::ids::RunId;

use super::super::cluster;
use super::super::rules::Broken;
use super::super::source::{self, Desk};
use super::{CALM_STEPS, Fault, LAST_RUNS, Lived, SINKS, World};

impl World {
    /// Nothing goes wrong any more, one agent is left, and an operator goes by the handbook until a new run has ended.
    pub(super) fn calm(&mut self) -> Lived {
        note!(self, "CALM");
        for agent in 0..self.agents.len() {
            self.kill_agent(agent)?;
        }
        let kept = self.rng.random_range(0..self.agents.len());
        self.agents.swap(0, kept);
        self.agents.truncate(1);
        for stream in self.streams.values_mut() {
            stream.source = 0;
        }
        for sink in 0..SINKS {
            // What was doomed is spared; what is under way stays so.
            self.sinks[sink].doom(u64::MAX / 2);
        }
        let allowed = &mut self.allowed;
        allowed.operators = false;
        allowed.reads_fail = false;
        allowed.second_sink = false;
        for _ in 0..LAST_RUNS {
            self.until_idle()?;
            if self.claim()?.is_none() {
                break;
            }
            self.operator(0)?;
        }
        self.until_idle()?;
        if let Some((run, _)) = self.claim()? {
            return Err(Fault(format!(
                "run {} still owns the table, whatever the operator does",
                run.short()
            )));
        }
        let last = match self.broken {
            // A run id is used again only where that is the question.
            Some(Broken::RunIdReused) => {
                self.operator(0)?;
                None
            }
            _ => {
                self.begin(0)?;
                Some(RunId::from_u128(self.runs << 96 | self.runs))
            }
        };
        self.until_idle()?;
        let Some(last) = last else { return Ok(()) };
        self.proof(last)
    }

    fn until_idle(&mut self) -> Lived {
        for _ in 0..CALM_STEPS {
            let waiting = !matches!(self.agents[0].desk, Desk::Idle(_));
            if !waiting && self.acts().is_empty() {
                return Ok(());
            }
            self.progress()?;
            self.check()?;
        }
        Err(Fault(format!(
            "nothing goes wrong any more, and the run does not end: {:?}",
            self.agents[0].desk
        )))
    }

    /// The last run, which nothing disturbed, is over; everything selected is there or was refused by name.
    fn proof(&mut self, last: RunId) -> Lived {
        let row = self.agents[0]
            .store()
            .map(|store| store.run(last))
            .transpose()?
            .flatten()
            .ok_or_else(|| Fault("the last run is gone from its store".to_owned()))?;
        if !matches!(row.status, Status::Done | Status::Partial) {
            return Err(Fault(format!(
                "the last run is {}: {}",
                row.status.name(),
                row.message
            )));
        }
        for partition in self.agents[0].report(last)? {
            if !source::is_copied(&partition) && partition.kind != Some(Kind::Refused) {
                return Err(Fault(format!(
                    "the last run left partition {}: {} ({:?})",
                    partition.partition.key.label(),
                    partition.message,
                    partition.kind
                )));
            }
        }
        let bound = source::bound(&row.job);
        for key in self.a.keys() {
            let seen = cluster::seen(&self.b, &self.table, key)?;
            if seen.is_empty() && self.a.has_selected(key, bound) {
                // Copied by an earlier run when nothing of it was selected, and refused now: said by name, not lost.
                let refused = self.agents[0].report(last)?.into_iter().any(|partition| {
                    partition.partition.key == *key && partition.kind == Some(Kind::Refused)
                });
                if !refused {
                    return Err(Fault(format!("partition {} is not in B", key.label())));
                }
            }
        }
        Ok(())
    }
}
