//! `strait runs …`.

use strait_proto::v1;

use super::watch;
use crate::client::Connection;
use crate::format;
use crate::json;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// The runs that the agent knows, newest first
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
    },
    /// One run with its partitions
    Show(Id),
    /// Follow a run to its end
    Watch(Id),
    /// Stop a run softly: what is under way is checkpointed, and it goes on when it is resumed
    Pause(Id),
    /// Go on with a run that has ended partial, failed, paused or cancelled
    Resume {
        #[command(flatten)]
        id: Id,
        /// Begin it again and leave it to the agent
        #[arg(long)]
        detach: bool,
    },
    /// Stop a run; what is committed stays, and it can be resumed
    Cancel(Id),
    /// Take over a run that only the sink knows, because its agent's state was lost
    Adopt {
        #[command(flatten)]
        id: Id,
        /// The target that the run owns
        #[arg(long, value_name = "SINK[/STORE]:DATABASE/TABLE")]
        to: String,
    },
    /// Give a run up: what it staged is discarded, what is committed stays
    Abandon {
        #[command(flatten)]
        id: Id,
        /// The target, if this agent does not know the run
        #[arg(long, value_name = "SINK[/STORE]:DATABASE/TABLE", default_value = "")]
        to: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Id {
    /// The run's id, or the beginning of it
    #[arg(value_name = "RUN")]
    id: String,
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    command: Command,
) -> Result<Outcome> {
    let mut control = connection.control();
    match command {
        Command::List { limit } => list(connection, output, limit).await,
        Command::Show(Id { id }) => {
            let run = control
                .get_run(v1::GetRunRequest { id })
                .await?
                .into_inner();
            let partitions = watch::partitions(connection, &run.id).await?;
            let selectors = run.selectors.clone().unwrap_or_default();
            output.print(&format!(
                "{} -> {}   {}",
                selectors.from, selectors.to, run.selection
            ));
            output.print(&watch::table(&partitions));
            output.print(&watch::summary(&run));
            let failed: Vec<_> = partitions
                .into_iter()
                .filter(|partition| partition.state == "failed")
                .collect();
            output.print_json(&json::Run::new(&run, false, &failed));
            Ok(Outcome::Done)
        }
        Command::Watch(Id { id }) => {
            let run = control
                .get_run(v1::GetRunRequest { id })
                .await?
                .into_inner();
            watch::run(connection, output, run.id, false).await
        }
        Command::Resume {
            id: Id { id },
            detach,
        } => {
            let run = control
                .resume_run(v1::ResumeRunRequest { id })
                .await?
                .into_inner();
            if !detach {
                return watch::run(connection, output, run.id, false).await;
            }
            said(output, &run, "goes on");
            Ok(Outcome::Done)
        }
        Command::Pause(Id { id }) => {
            let run = control
                .pause_run(v1::PauseRunRequest { id })
                .await?
                .into_inner();
            said(output, &run, "was asked to pause");
            Ok(Outcome::Done)
        }
        Command::Cancel(Id { id }) => {
            let run = control
                .cancel_run(v1::CancelRunRequest { id })
                .await?
                .into_inner();
            said(output, &run, "was asked to stop");
            Ok(Outcome::Done)
        }
        Command::Adopt { id: Id { id }, to } => {
            let run = control
                .adopt_run(v1::AdoptRunRequest { id, to })
                .await?
                .into_inner();
            watch::run(connection, output, run.id, false).await
        }
        Command::Abandon { id: Id { id }, to } => {
            control
                .abandon_run(v1::AbandonRunRequest { id: id.clone(), to })
                .await?;
            output.print(&format!(
                "run {id} is given up; what it had committed stays"
            ));
            output.print_json(
                &serde_json::json!({ "status": "cancelled", "abandoned": true, "run": id }),
            );
            Ok(Outcome::Done)
        }
    }
}

fn said(output: &Output, run: &v1::Run, what: &str) {
    output.print(&format!("run {} {what}; it is {}", run.id, run.status));
    output.print_json(&json::Run::new(run, false, &[]));
}

async fn list(connection: &Connection, output: &Output, limit: u32) -> Result<Outcome> {
    let runs = connection
        .control()
        .list_runs(v1::ListRunsRequest { limit })
        .await?
        .into_inner()
        .runs;
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let selectors = run.selectors.clone().unwrap_or_default();
            let progress = run.progress.clone().unwrap_or_default();
            let done = progress.partitions_done
                + progress.partitions_already
                + progress.partitions_dropped;
            vec![
                run.id.get(..8).unwrap_or(&run.id).to_owned(),
                run.status.clone(),
                format::time(run.created_at),
                format!("{done}/{}", progress.partitions),
                format::count(progress.rows_done),
                format::duration_ms(progress.elapsed_ms),
                format!("{} -> {}", selectors.from, selectors.to),
            ]
        })
        .collect();
    if rows.is_empty() {
        output.print("no runs yet; `strait sync` begins one");
    } else {
        output.print(&format::table(
            &["run", "status", "planned", "done", "rows", "time", "what"],
            &rows,
            3,
        ));
    }
    let runs: Vec<_> = runs
        .iter()
        .map(|run| json::Run::new(run, false, &[]))
        .collect();
    output.print_json(&serde_json::json!({ "status": "done", "runs": runs }));
    Ok(Outcome::Done)
}
