//! `strait groups …`: runs of several tables in one request.

use std::time::{Duration, Instant};

use strait_common::Kind;
use strait_proto::v1;

use super::watch;
use crate::client::Connection;
use crate::format;
use crate::json;
use crate::report::{Failure, Outcome, Output, Result};

/// How long a lost agent is waited for: it goes on with its groups when it starts again.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(120);
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// The groups that the agent knows, newest first
    List {
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
    },
    /// One group with its tables
    Show(Id),
    /// Follow a group to its end
    Watch(Id),
    /// Go on with what a group has not done
    Resume(Id),
    /// Stop a group and its runs; what is committed stays, and it can be resumed
    Cancel(Id),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Id {
    /// The group's id, or the beginning of it
    #[arg(value_name = "GROUP")]
    id: String,
}

pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    command: Command,
) -> Result<Outcome> {
    let mut control = connection.control();
    let request = |id: Id| v1::GetGroupRequest { id: id.id };
    match command {
        Command::List { limit } => list(connection, output, limit).await,
        Command::Show(id) => {
            let group = control.get_group(request(id)).await?.into_inner();
            show(output, &group);
            Ok(Outcome::Done)
        }
        Command::Watch(id) => {
            let group = control.get_group(request(id)).await?.into_inner();
            follow(connection, output, &group.id).await
        }
        Command::Resume(id) => {
            let group = control.resume_group(request(id)).await?.into_inner();
            follow(connection, output, &group.id).await
        }
        Command::Cancel(id) => {
            let group = control.cancel_group(request(id)).await?.into_inner();
            output.print(&format!(
                "group {} was asked to stop; it is {}",
                group.id, group.status
            ));
            output.print_json(&json::Group::new(&group));
            Ok(Outcome::Done)
        }
    }
}

async fn list(connection: &Connection, output: &Output, limit: u32) -> Result<Outcome> {
    let request = v1::ListGroupsRequest { limit };
    let groups = connection.control().list_groups(request).await?;
    let groups = groups.into_inner().groups;
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|group| {
            let ended = group.tables.iter().filter(|table| table.status == "done");
            vec![
                group.id.get(..8).unwrap_or(&group.id).to_owned(),
                group.status.clone(),
                format::time(group.created_at),
                format!("{}/{}", ended.count(), group.tables.len()),
                format!("{} -> {}", group.from, group.to),
            ]
        })
        .collect();
    if rows.is_empty() {
        output.print("no groups yet; `strait sync` with a * in --from begins one");
    } else {
        let header = ["group", "status", "begun", "tables", "what"];
        output.print(&format::table(&header, &rows, 3));
    }
    let groups: Vec<_> = groups.iter().map(json::Group::new).collect();
    output.print_json(&serde_json::json!({ "status": "done", "groups": groups }));
    Ok(Outcome::Done)
}

/// Watches a group until it has ended, one line for each table that does, then prints all of them.
pub(crate) async fn follow(connection: &Connection, output: &Output, id: &str) -> Result<Outcome> {
    let group = until_end(connection, output, id).await?;
    show(output, &group);
    Ok(outcome(&group))
}

async fn until_end(connection: &Connection, output: &Output, id: &str) -> Result<v1::Group> {
    let (mut lines, mut lost) = (Lines::default(), None);
    loop {
        let failure = match watch_once(connection, output, id, &mut lines, &mut lost).await {
            Ok(Some(group)) => return Ok(group),
            Ok(None) => None,
            Err(failure) if failure.kind != Kind::Unavailable => return Err(failure),
            Err(failure) => Some(failure),
        };
        let since = *lost.get_or_insert_with(Instant::now);
        if since.elapsed() > RECONNECT_WAIT_MAX {
            return Err(failure.unwrap_or_else(|| Failure {
                kind: Kind::Unavailable,
                message: "the agent does not answer".to_owned(),
                running: None,
                unreachable: true,
            }));
        }
        tokio::time::sleep(RECONNECT_INTERVAL).await;
    }
}

async fn watch_once(
    connection: &Connection,
    output: &Output,
    id: &str,
    lines: &mut Lines,
    lost: &mut Option<Instant>,
) -> Result<Option<v1::Group>> {
    let request = v1::GetGroupRequest { id: id.to_owned() };
    let updates = connection.control().watch_group(request).await?;
    let mut updates = updates.into_inner();
    while let Some(group) = updates.message().await? {
        *lost = None;
        lines
            .changed(&group)
            .iter()
            .for_each(|line| output.note(line));
        if group.ended_at != 0 {
            return Ok(Some(group));
        }
    }
    Ok(None)
}

/// Which tables have been told of, each with its status then.
#[derive(Debug, Default)]
struct Lines(std::collections::HashMap<String, String>);

impl Lines {
    /// A line for each table that has begun or ended since the last look.
    fn changed(&mut self, group: &v1::Group) -> Vec<String> {
        let mut lines = Vec::new();
        for table in &group.tables {
            let known = self.0.insert(table.to.clone(), table.status.clone());
            if known.as_ref() == Some(&table.status) || table.status == "planned" {
                continue;
            }
            let progress = table.run.as_ref().and_then(|run| run.progress.as_ref());
            let rows = progress.map_or(0, |progress| progress.rows_done);
            let why = why(table);
            let more = match table.status.as_str() {
                "running" => String::new(),
                _ if why.is_empty() => format!(", {} rows", format::count(rows)),
                _ => format!(": {why}"),
            };
            lines.push(format!(
                "{} -> {}: {}{more}",
                table.from, table.to, table.status
            ));
        }
        lines
    }
}

fn why(table: &v1::GroupTable) -> &str {
    match &table.run {
        Some(run) => &run.message,
        None => &table.message,
    }
}

fn show(output: &Output, group: &v1::Group) {
    let row = |table: &v1::GroupTable| {
        let progress = table.run.clone().and_then(|run| run.progress);
        let progress = progress.unwrap_or_default();
        let there =
            progress.partitions_done + progress.partitions_already + progress.partitions_dropped;
        vec![
            table.from.clone(),
            table.to.clone(),
            format!("{there}/{}", progress.partitions),
            format::count(progress.rows_done),
            format::bytes(progress.wire_bytes),
            format::duration_ms(progress.elapsed_ms),
            match table.status.as_str() {
                "done" => "✓".to_owned(),
                status => status.to_owned(),
            },
        ]
    };
    let rows: Vec<_> = group.tables.iter().map(row).collect();
    let header = ["table", "to", "partitions", "rows", "wire", "time", "state"];
    let mut lines = vec![format::table(&header, &rows, 2)];
    for table in &group.tables {
        let run = table.run.as_ref().map(|run| run.id.as_str());
        match (why(table), run) {
            ("", Some(run)) if table.status == "partial" => {
                lines.push(format!("{}: see `strait runs show {run}`", table.to));
            }
            ("", _) => {}
            (why, _) => lines.push(format!("{}: {why}", table.to)),
        }
    }
    let done = group.tables.iter().filter(|table| table.status == "done");
    lines.push(format!(
        "group {}: {}, {} of {} tables done",
        group.id,
        group.status,
        done.count(),
        group.tables.len()
    ));
    if matches!(
        group.status.as_str(),
        "partial" | "failed" | "paused" | "cancelled"
    ) {
        lines.push(format!("go on with `strait groups resume {}`", group.id));
    }
    output.print(&lines.join("\n"));
    output.print_json(&json::Group::new(group));
}

/// The exit of a group.
fn outcome(group: &v1::Group) -> Outcome {
    match group.status.as_str() {
        "done" | "running" => Outcome::Done,
        "partial" => Outcome::Partial,
        _ => {
            let temporary = |table: &v1::GroupTable| match &table.run {
                Some(run) => watch::outcome(run) == Outcome::Temporary,
                None => [Kind::Unavailable.name(), Kind::Full.name()].contains(&&*table.kind),
            };
            match group.tables.iter().all(temporary) {
                true => Outcome::Temporary,
                false => Outcome::Failed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(to: &str, status: &str, kind: &str) -> v1::GroupTable {
        v1::GroupTable {
            to: to.to_owned(),
            status: status.to_owned(),
            kind: kind.to_owned(),
            message: kind.to_owned(),
            ..v1::GroupTable::default()
        }
    }

    #[test]
    fn each_table_is_told_of_when_it_changes_and_only_then() {
        let mut lines = Lines::default();
        let group = |status: &str| v1::Group {
            tables: vec![table("dr:a/b", status, ""), table("dr:a/c", "planned", "")],
            ..v1::Group::default()
        };
        assert_eq!(lines.changed(&group("running")), [" -> dr:a/b: running"]);
        assert!(lines.changed(&group("running")).is_empty());
        assert_eq!(lines.changed(&group("done")), [" -> dr:a/b: done, 0 rows"]);
    }

    #[test]
    fn a_group_is_temporary_only_where_a_retry_helps_all_of_it() {
        let group = |status: &str, kinds: [&str; 2]| v1::Group {
            status: status.to_owned(),
            tables: kinds.map(|kind| table("", "failed", kind)).to_vec(),
            ..v1::Group::default()
        };
        let ends = [
            ("failed", ["unavailable", "full"], Outcome::Temporary),
            ("failed", ["unavailable", "schema"], Outcome::Failed),
            ("partial", ["unavailable", "full"], Outcome::Partial),
            ("cancelled", ["", ""], Outcome::Failed),
            ("done", ["", ""], Outcome::Done),
        ];
        for (status, kinds, end) in ends {
            assert_eq!(outcome(&group(status, kinds)), end, "{status} {kinds:?}");
        }
    }
}
