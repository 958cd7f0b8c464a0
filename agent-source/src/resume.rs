//! Going on with a run that has ended, from the sink's ledger.

use std::sync::Arc;

use strait_common::engine::Disposition;
use strait_common::{Error, Result};

use crate::agent::Agent;
use crate::runner::Live;
use crate::runs::{RunRow, Status};

/// Whether a run that stands like this can go on: an append always, another one unless others may have written since.
pub fn can_go_on(row: &RunRow) -> bool {
    match row.status {
        Status::Done | Status::Abandoned => false,
        Status::Partial => row.job.mode.disposition() == Disposition::Append,
        Status::Planned | Status::Running | Status::Failed | Status::Paused | Status::Cancelled => {
            true
        }
    }
}

/// Drives a run again. One that is under way is left alone.
///
/// # Errors
/// `Refused` if it cannot go on, or another run is under way on its target; `Unavailable` if the store cannot be written.
pub async fn run(agent: &Arc<Agent>, row: &RunRow) -> Result<Option<Arc<Live>>> {
    if row.status == Status::Abandoned {
        return Err(Error::refused(format!(
            "run {} was abandoned; begin a new one",
            row.id
        )));
    }
    if row.status == Status::Partial && !can_go_on(row) {
        return Err(Error::refused(format!(
            "run {} has ended partial, and others may have written since: its plan could put older rows in the place of newer ones. Begin a new run \
             with --mode mirror, which copies only what is left",
            row.id
        )));
    }
    let id = row.id;
    if let Some(live) = agent.live(id)
        && live.snapshot().row.status.is_active()
    {
        return Ok(Some(live));
    }
    let store = agent.open_store()?;
    let active = agent.cpu.run(move || store.active()).await?;
    if let Some(busy) = active
        .iter()
        .find(|busy| busy.id != id && busy.job.spec.to == row.job.spec.to)
    {
        return Err(Error::refused(format!(
            "run {} is under way on the same target",
            busy.id
        )));
    }
    let row = RunRow {
        ended_at: 0,
        message: String::new(),
        kind: None,
        status: Status::Running,
        ..row.clone()
    };
    let (store, stored) = (agent.open_store()?, row.clone());
    agent
        .cpu
        .run(move || {
            store.renew_retries(stored.id)?;
            store.update(&stored)
        })
        .await?;
    agent.drive(row).map(Some)
}
