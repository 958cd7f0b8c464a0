//! `strait demo --chaos`: both agents are killed on the way.

use std::time::Duration;

use serde::Serialize;
use strait_proto::v1;
use strait_proto::v1::plan_reply::Body;

use super::agents::Agent;
use crate::client::Connection;
use crate::format;
use crate::progress::Display;
use crate::report::Result;

const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// How long the run is made to take at least: there must be time to kill somebody in the middle of it.
const RUN_SECONDS: u64 = 5;
/// No limit is less: an agent refuses one at which a frame takes too long.
const BANDWIDTH_MIN: u64 = 1024 * 1024;

/// An agent that was killed.
#[derive(Debug, Serialize)]
pub(crate) struct Kill {
    /// `sink` or `source`.
    agent: &'static str,
    /// Rows committed at B when it was, by the last figures before.
    rows_done: u64,
    /// Partitions being copied then.
    partitions_running: u64,
}

/// The bytes a second at which this job's run is long enough.
pub(crate) async fn bandwidth_max(
    connection: &Connection,
    selectors: &v1::Selectors,
) -> Result<u64> {
    let request = v1::PlanRequest {
        selectors: Some(selectors.clone()),
        ..v1::PlanRequest::default()
    };
    let mut replies = connection.control().plan(request).await?.into_inner();
    let mut bytes = 0;
    while let Some(reply) = replies.message().await? {
        if let Some(Body::Totals(totals)) = reply.body {
            bytes = totals.bytes.unwrap_or_default();
        }
    }
    Ok((bytes / RUN_SECONDS).max(BANDWIDTH_MIN))
}

/// Kills the sink at one third of the rows and the source at two thirds, with SIGKILL, and starts each again. Fewer if the run ends before.
pub(crate) async fn run(
    connection: &Connection,
    display: &Display,
    id: &str,
    source: &mut Agent,
    sink: &mut Agent,
) -> Result<Vec<Kill>> {
    let mut kills = Vec::new();
    let mut agents = [("sink", sink), ("source", source)].into_iter();
    for third in 1..=2 {
        let Some(progress) = until(connection, id, third).await else {
            display
                .note("the run has ended before everybody was killed; take more --rows and --days");
            break;
        };
        let Some((name, agent)) = agents.next() else {
            break;
        };
        display.note(&format!(
            "{third}/3 of the rows are there: killing the {name} agent with SIGKILL, {} partitions half-way",
            progress.partitions_running
        ));
        agent.kill_and_restart().await?;
        display.note(&format!(
            "the {name} agent is up again; {} rows were committed",
            format::count(progress.rows_done)
        ));
        kills.push(Kill {
            agent: name,
            rows_done: progress.rows_done,
            partitions_running: progress.partitions_running,
        });
    }
    Ok(kills)
}

/// The figures once so many thirds of the rows are committed; `None` if the run has ended.
async fn until(connection: &Connection, id: &str, thirds: u64) -> Option<v1::Progress> {
    loop {
        let request = v1::GetRunRequest { id: id.to_owned() };
        // An agent that does not answer now answers later; the watch beside this one bounds the wait.
        if let Ok(run) = connection.control().get_run(request).await {
            let run = run.into_inner();
            if run.ended_at != 0 {
                return None;
            }
            let progress = run.progress.unwrap_or_default();
            if progress.rows > 0 && progress.rows_done * 3 >= progress.rows * thirds {
                return Some(progress);
            }
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
