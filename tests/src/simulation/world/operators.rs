//! What operators do: what the handbook says, and sometimes not.

use agent_source::job::{Check, Job, Mode};
use agent_source::runs::Status;
use futures::FutureExt;
use rand::Rng;
use strait_common::engine::{Claim, Outcome, Sink};
use strait_common::ids::RunId;
use strait_common::{Error, Result};
use strait_memory::MemorySink;

use super::super::rules::Broken;
use super::super::source::{self, Desk};
use super::super::wire::{CallReply, CallRequest};
use super::{Lived, World};

impl World {
    pub(super) fn claim(&self) -> Result<Option<(RunId, Job)>> {
        let sink = MemorySink::open(&self.b);
        let claim = sink.claim(&self.table).now_or_never();
        let claim = claim.ok_or_else(|| Error::internal("the engine in memory waits"))??;
        claim
            .map(|claim| Ok((claim.run, Job::from_json(&claim.job)?)))
            .transpose()
    }

    fn run_id(&mut self, agent: usize) -> RunId {
        if self.broken == Some(Broken::RunIdReused) {
            return RunId::from_u128(u128::from(self.agents[agent].begun) + 1);
        }
        self.runs += 1;
        // The first digits tell runs apart in traces.
        RunId::from_u128(self.runs << 96 | self.runs)
    }

    /// What the handbook says for an agent without an active run: resume what is not done, adopt what is unknown, or begin anew.
    pub(super) fn operator(&mut self, agent: usize) -> Lived {
        if !matches!(self.agents[agent].desk, Desk::Idle(_)) {
            return Ok(());
        }
        let claim = self.claim()?;
        let Some(store) = self.agents[agent].store() else {
            return Ok(());
        };
        let failed = store.runs("", 100)?.into_iter().find(|row| {
            matches!(
                row.status,
                Status::Failed | Status::Partial | Status::Cancelled
            )
        });
        let known = match &claim {
            Some((run, _)) => store.run(*run)?,
            None => None,
        };
        match (claim, known, failed) {
            (Some(_), Some(row), _) if !self.careless() => {
                note!(
                    self,
                    "operator: agent {agent} resumes run {}",
                    row.id.short()
                );
                self.agents[agent].drive(row)?;
            }
            (Some((run, job)), None, _) if !self.careless() => {
                note!(self, "operator: agent {agent} adopts run {}", run.short());
                self.figures.adopted += 1;
                self.agents[agent].begin(&self.a.store, run, job)?;
            }
            (_, None, Some(row)) if self.rng.random_bool(0.5) => {
                note!(
                    self,
                    "operator: agent {agent} resumes run {}",
                    row.id.short()
                );
                self.agents[agent].drive(row)?;
            }
            _ => self.begin(agent)?,
        }
        Ok(())
    }

    /// Whether this operator does not look who owns the table.
    fn careless(&mut self) -> bool {
        self.allowed.operators && self.rng.random_bool(0.3)
    }

    pub(super) fn begin(&mut self, agent: usize) -> Lived {
        let id = self.run_id(agent);
        // Whole partitions alone can take the place of others.
        let mode = match self.rng.random_range(0..4) {
            0 if !self.bounded => Mode::Replace,
            1 | 2 if !self.bounded => Mode::Mirror {
                check: [Check::Versions, Check::Digests][self.rng.random_range(0..2)],
                allow_drop: 0,
            },
            _ => Mode::Append { again: false },
        };
        let job = source::job(self.bounded, mode, self.now_ns())?;
        note!(self, "operator: agent {agent} begins run {}", id.short());
        self.bounds.push(source::bound(&job));
        let known = self.agents[agent]
            .store()
            .map(|store| store.run(id))
            .transpose()?
            .flatten();
        if known.is_none() {
            self.agents[agent].begin(&self.a.store, id, job)?;
        }
        Ok(())
    }

    /// An operator gives up the run that owns the table.
    pub(super) fn abandon(&mut self, sink: usize) -> Lived {
        let Some((run, job)) = self.claim()? else {
            return Ok(());
        };
        let claim = Claim {
            run,
            table: self.table.clone(),
            agent: "operator".to_owned(),
            job: job.to_json()?,
            taken_at: 0,
        };
        let attach = CallRequest::Attach(claim);
        if !self.sinks[sink].can_answer(&attach) {
            return Ok(());
        }
        let attached = self.sinks[sink].answer(&attach);
        if self.buried(sink) {
            return Ok(());
        }
        if let Ok(CallReply::Attached(epoch, ..)) = attached {
            note!(self, "operator: run {} is abandoned", run.short());
            self.figures.abandoned += 1;
            let _ = self.sinks[sink].answer(&CallRequest::Complete {
                run,
                epoch,
                outcome: Outcome::Abandoned,
            });
            self.buried(sink);
        }
        Ok(())
    }
}
