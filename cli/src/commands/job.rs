//! `strait job …` and `strait why`.

use std::path::PathBuf;

use serde::Serialize;
use strait_common::{Kind, OrError};
use strait_proto::v1;

use super::{groups, watch};
use crate::client::Connection;
use crate::format;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Store a job, in place of the one of that name; the same file twice changes nothing
    Apply {
        /// A TOML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// The jobs of the agent
    List,
    /// One job, as its file has it, and what it does now
    Show(Name),
    /// Start a job now, and watch it
    Run {
        #[command(flatten)]
        name: Name,
        /// Leave it to the agent
        #[arg(long)]
        detach: bool,
    },
    /// Let the schedule of a job count; what it has named before is not caught up with
    Enable(Name),
    /// Let it not count; what is under way goes on
    Disable(Name),
    /// Forget a job and its history; its runs stay
    Remove(Name),
    /// What became of the starts of a job, newest first
    History {
        #[command(flatten)]
        name: Name,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// The job's name
    #[arg(value_name = "JOB")]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WhyArguments {
    #[command(flatten)]
    name: Name,
}

/// A job, as `--json` has it.
#[derive(Debug, Serialize)]
struct Job {
    job: String,
    enabled: bool,
    from: String,
    to: String,
    mode: String,
    schedule: String,
    zone: String,
    /// Seconds since 1970; null where there is none.
    next_at: Option<i64>,
    applied_at: i64,
    /// The group under way.
    running: Option<String>,
    /// The source agent that does the work, where that is not the agent that was asked.
    source_url: Option<String>,
    why: String,
}

/// A start, as `--json` has it.
#[derive(Debug, Serialize)]
struct Start {
    /// What now() means in it: seconds since 1970, as the others.
    at: i64,
    manual: bool,
    state: String,
    group: Option<String>,
    tries: u32,
    began_at: Option<i64>,
    ended_at: Option<i64>,
    message: String,
}

impl From<&v1::Job> for Job {
    fn from(job: &v1::Job) -> Job {
        Job {
            job: job.name.clone(),
            enabled: job.enabled,
            from: job.from.clone(),
            to: job.to.clone(),
            mode: job.mode.clone(),
            schedule: job.schedule.clone(),
            zone: job.zone.clone(),
            next_at: come(job.next_at),
            applied_at: job.applied_at,
            running: some(&job.running),
            source_url: some(&job.source_url),
            why: job.why.clone(),
        }
    }
}

impl From<&v1::JobStart> for Start {
    fn from(start: &v1::JobStart) -> Start {
        Start {
            at: start.at,
            manual: start.manual,
            state: start.state.clone(),
            group: some(&start.group),
            tries: start.tries,
            began_at: come(start.began_at),
            ended_at: come(start.ended_at),
            message: start.message.clone(),
        }
    }
}

fn come(at: i64) -> Option<i64> {
    Some(at).filter(|at| *at != 0)
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    command: Command,
) -> Result<Outcome> {
    let mut jobs = connection.jobs();
    match command {
        Command::Apply { file } => {
            let context = || format!("job file {}", file.display());
            let text = std::fs::read_to_string(&file).or_error(Kind::Config, context())?;
            let request = v1::ApplyJobRequest { file: text };
            let reply = jobs.apply_job(request).await?.into_inner();
            output.print(&format!("job {}: {}", reply.name, reply.what));
            output.print_json(
                &serde_json::json!({ "status": "done", "job": reply.name, "what": reply.what }),
            );
        }
        Command::List => {
            let reply = jobs.list_jobs(v1::ListJobsRequest {}).await?;
            list(output, &reply.into_inner().jobs);
        }
        Command::Show(Name { name }) => {
            let (job, _) = get(connection, name, 1).await?;
            let file = job.file.trim_end();
            output.print(&format!("{file}\n\n{}", state(&job)));
            output.print_json(
                &serde_json::json!({ "status": "done", "job": Job::from(&job), "file": job.file }),
            );
        }
        Command::Run {
            name: Name { name },
            detach,
        } => {
            let request = v1::JobRequest { name: name.clone() };
            let group = jobs.run_job(request).await?.into_inner().group;
            let (job, _) = get(connection, name, 1).await?;
            if !detach {
                return until_stored(&connection.at(&job.source_url)?, output, &group).await;
            }
            let agent = match job.source_url.as_str() {
                "" => String::new(),
                url => format!("--agent {url} "),
            };
            output.print(&format!(
                "group {group} has begun; watch it with `strait {agent}groups watch {group}`"
            ));
            output.print_json(&serde_json::json!({ "status": "running", "group": group }));
        }
        Command::Enable(Name { name }) => {
            let request = v1::JobRequest { name: name.clone() };
            jobs.enable_job(request).await?;
            said(output, &name, "enabled");
        }
        Command::Disable(Name { name }) => {
            let request = v1::JobRequest { name: name.clone() };
            jobs.disable_job(request).await?;
            said(output, &name, "disabled");
        }
        Command::Remove(Name { name }) => {
            let request = v1::JobRequest { name: name.clone() };
            jobs.remove_job(request).await?;
            said(output, &name, "removed");
        }
        Command::History {
            name: Name { name },
            limit,
        } => {
            let (job, starts) = get(connection, name, limit).await?;
            output.print(&history(&starts));
            let starts: Vec<_> = starts.iter().map(Start::from).collect();
            output.print_json(
                &serde_json::json!({ "status": "done", "job": Job::from(&job), "starts": starts }),
            );
        }
    }
    Ok(Outcome::Done)
}

fn said(output: &Output, name: &str, what: &str) {
    output.print(&format!("job {name}: {what}"));
    output.print_json(&serde_json::json!({ "status": "done", "job": name, "what": what }));
}

async fn get(
    connection: &Connection,
    name: String,
    limit: u32,
) -> Result<(v1::Job, Vec<v1::JobStart>)> {
    let request = v1::GetJobRequest { name, limit };
    let reply = connection.jobs().get_job(request).await?.into_inner();
    Ok((reply.job.unwrap_or_default(), reply.starts))
}

/// Watches a group that is on its way into the store.
async fn until_stored(connection: &Connection, output: &Output, group: &str) -> Result<Outcome> {
    for _ in 0..STORED_LOOKS_MAX {
        let request = v1::GetGroupRequest {
            id: group.to_owned(),
        };
        match connection.control().get_group(request).await {
            Ok(_) => return groups::follow(connection, output, group).await,
            Err(status) if status.code() == tonic::Code::Unavailable => return Err(status.into()),
            Err(_) => tokio::time::sleep(STORED_LOOK_INTERVAL).await,
        }
    }
    output.print("no table could be begun; `strait job history` has the reason");
    output.print_json(&serde_json::json!({ "status": "failed", "group": group }));
    Ok(Outcome::Failed)
}

const STORED_LOOKS_MAX: u32 = 50;
const STORED_LOOK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

fn list(output: &Output, jobs: &[v1::Job]) {
    let row = |job: &v1::Job| {
        vec![
            job.name.clone(),
            match (job.running.is_empty(), job.enabled) {
                (false, _) => "running".to_owned(),
                (true, true) => "enabled".to_owned(),
                (true, false) => "disabled".to_owned(),
            },
            job.schedule.clone(),
            job.zone.clone(),
            format::time(job.next_at),
            format!("{} -> {}, {}", job.from, job.to, job.mode),
        ]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    match rows.as_slice() {
        [] => output.print("no jobs yet; `strait job apply FILE` makes one"),
        rows => {
            let header = ["job", "state", "schedule", "zone", "next", "what"];
            output.print(&format::table(&header, rows, 6));
        }
    }
    let jobs: Vec<_> = jobs.iter().map(Job::from).collect();
    output.print_json(&serde_json::json!({ "status": "done", "jobs": jobs }));
}

fn state(job: &v1::Job) -> String {
    let enabled = if job.enabled { "enabled" } else { "disabled" };
    format!("job {}: {enabled}; {}", job.name, job.why)
}

fn history(starts: &[v1::JobStart]) -> String {
    let row = |start: &v1::JobStart| {
        let took = start.ended_at.saturating_sub(start.began_at);
        let took = u64::try_from(took).unwrap_or(0).saturating_mul(1000);
        let over = start.began_at != 0 && start.ended_at != 0;
        vec![
            format::time(start.at),
            if start.manual { "by hand" } else { "" }.to_owned(),
            start.state.clone(),
            format::time(start.began_at),
            if over {
                format::duration_ms(took)
            } else {
                "-".to_owned()
            },
            start.group.get(..8).unwrap_or(&start.group).to_owned(),
            start.message.lines().next().unwrap_or_default().to_owned(),
        ]
    };
    let rows: Vec<_> = starts.iter().map(row).collect();
    match rows.as_slice() {
        [] => "it has not started yet".to_owned(),
        rows => {
            let header = [
                "scheduled for",
                "",
                "state",
                "began",
                "took",
                "group",
                "why",
            ];
            format::table(&header, rows, 7)
        }
    }
}

/// The last decision about each partition, as `--json` has it.
#[derive(Debug, Serialize)]
struct Decision {
    table: String,
    key: String,
    state: String,
    why: String,
}

/// Explains what a job did last, and why, for each partition.
pub(crate) async fn why(
    connection: &Connection,
    output: &Output,
    arguments: WhyArguments,
) -> Result<Outcome> {
    let (job, starts) = get(connection, arguments.name.name, 20).await?;
    let source = connection.at(&job.source_url)?;
    let mut lines = vec![state(&job)];
    let mut decisions = Vec::new();
    let last = starts.iter().find(|start| !start.group.is_empty());
    if let Some(start) = last {
        let at = format::time(start.at);
        let more = match start.message.as_str() {
            "" => String::new(),
            why => format!(": {why}"),
        };
        lines.push(format!("last start, of {at}: {}{more}", start.state));
        let request = v1::GetGroupRequest {
            id: start.group.clone(),
        };
        let group = source.control().get_group(request).await;
        // One that could not be begun is not there.
        let tables = group.map(|group| group.into_inner().tables);
        for table in tables.unwrap_or_default() {
            let Some(run) = table.run else {
                lines.push(format!("{}: {}", table.to, table.message));
                continue;
            };
            lines.push(format!("{}: {} {}", table.to, run.status, run.message));
            for partition in watch::partitions(&source, &run.id).await? {
                decisions.push(Decision {
                    table: table.to.clone(),
                    why: decided(&partition, &run),
                    key: partition.key,
                    state: partition.state,
                });
            }
        }
    }
    let rows: Vec<_> = decisions.iter().map(row).collect();
    if !rows.is_empty() {
        let header = ["table", "partition", "state", "why"];
        lines.push(format::table(&header, &rows, 4));
    }
    output.print(&lines.join("\n"));
    let start = last.map(Start::from);
    output.print_json(&serde_json::json!({
        "status": "done", "job": Job::from(&job), "start": start, "partitions": decisions
    }));
    Ok(Outcome::Done)
}

fn row(decision: &Decision) -> Vec<String> {
    let key = match decision.key.as_str() {
        "" => "(all)",
        key => key,
    };
    vec![
        decision.table.clone(),
        key.to_owned(),
        decision.state.clone(),
        decision.why.clone(),
    ]
}

fn decided(partition: &v1::RunPartition, run: &v1::Run) -> String {
    match partition.state.as_str() {
        "done" => format!("{} rows were copied", format::count(partition.rows)),
        "already" => {
            "the sink had these rows already, by its ledger or by their digests".to_owned()
        }
        "failed" => partition.message.clone(),
        "dropped" => "the source has it no longer, and it could be dropped".to_owned(),
        "dropping" => "the source has it no longer; it goes when all else is done".to_owned(),
        "running" => "it is being copied".to_owned(),
        _ => match run.status.as_str() {
            "running" | "planned" => "its turn has not come".to_owned(),
            "paused" => "the run was stopped before its turn; it goes on from there".to_owned(),
            status => format!("the run was {status} before its turn"),
        },
    }
}
