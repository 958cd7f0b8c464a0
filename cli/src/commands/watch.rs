//! Watching a run to its end, and what is printed then.

use std::time::Duration;

use strait_common::Kind;
use strait_proto::v1;

use crate::client::Connection;
use crate::format;
use crate::json;
use crate::progress::Display;
use crate::report::{Failure, Outcome, Output, Result};

/// How long a lost agent is waited for: it goes on with its runs when it starts again.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(120);
const RECONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// Partitions that a table shows whole; of more, only the failed, the first and the last.
const ROWS_MAX: usize = 40;
const ROWS_AT_ENDS: usize = 8;

/// Watches until the run has ended, then prints its result.
pub(crate) async fn run(
    connection: &Connection,
    output: &Output,
    id: String,
    attached: bool,
) -> Result<Outcome> {
    let run = until_end(connection, Display::new(output), &id).await?;
    show(connection, output, &run, attached).await
}

/// Prints the result of a run that has ended.
pub(crate) async fn show(
    connection: &Connection,
    output: &Output,
    run: &v1::Run,
    attached: bool,
) -> Result<Outcome> {
    let partitions = partitions(connection, &run.id).await?;
    let failed: Vec<_> = partitions
        .iter()
        .filter(|partition| partition.state == "failed")
        .cloned()
        .collect();
    output.print(&table(&partitions));
    output.print(&summary(run));
    output.print_json(&json::Run::new(run, attached, &failed));
    Ok(outcome(run))
}

/// The exit of a run.
pub(crate) fn outcome(run: &v1::Run) -> Outcome {
    match run.status.as_str() {
        "done" | "planned" | "running" => Outcome::Done,
        "partial" => Outcome::Partial,
        _ if [Kind::Unavailable.name(), Kind::Full.name()].contains(&run.kind.as_str()) => {
            Outcome::Temporary
        }
        _ => Outcome::Failed,
    }
}

/// Watches until the run has ended, also while the agent is gone for a while.
pub(crate) async fn until_end(
    connection: &Connection,
    mut display: Display,
    id: &str,
) -> Result<v1::Run> {
    let mut lost = None;
    loop {
        let watched = watch_once(connection, id, &mut display, &mut lost).await;
        match watched {
            Ok(Some(run)) => {
                display.end();
                return Ok(run);
            }
            Err(failure) if failure.kind != Kind::Unavailable => {
                display.end();
                return Err(failure);
            }
            watched => {
                let since = *lost.get_or_insert_with(tokio::time::Instant::now);
                if since.elapsed() > RECONNECT_WAIT_MAX {
                    display.end();
                    let message = match watched {
                        Err(failure) => failure.message,
                        Ok(_) => "the agent does not answer".to_owned(),
                    };
                    return Err(Failure {
                        kind: Kind::Unavailable,
                        message,
                        running: None,
                        unreachable: true,
                    });
                }
                display.note("the agent has left; waiting for it, it goes on with its runs when it starts again");
                tokio::time::sleep(RECONNECT_INTERVAL).await;
            }
        }
    }
}

/// Watches over one connection. `None` if it ended before the run did.
async fn watch_once(
    connection: &Connection,
    id: &str,
    display: &mut Display,
    lost: &mut Option<tokio::time::Instant>,
) -> Result<Option<v1::Run>> {
    let mut updates = connection
        .control()
        .watch_run(v1::WatchRunRequest { id: id.to_owned() })
        .await?
        .into_inner();
    while let Some(run) = updates.message().await? {
        *lost = None;
        display.show(&run);
        if run.ended_at != 0 {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

/// All partitions of a run.
pub(crate) async fn partitions(connection: &Connection, id: &str) -> Result<Vec<v1::RunPartition>> {
    let request = v1::ListPartitionsRequest {
        id: id.to_owned(),
        state: String::new(),
    };
    let mut pages = connection
        .control()
        .list_partitions(request)
        .await?
        .into_inner();
    let mut partitions = Vec::new();
    while let Some(page) = pages.message().await? {
        partitions.extend(page.partitions);
    }
    Ok(partitions)
}

/// The partitions of a run as a table: the failed ones first, with their reasons below.
pub(crate) fn table(partitions: &[v1::RunPartition]) -> String {
    let (failed, others): (Vec<_>, Vec<_>) = partitions
        .iter()
        .partition(|partition| partition.state == "failed");
    let mut rows: Vec<Vec<String>> = failed.iter().map(|partition| row(partition)).collect();
    let mut cut = None;
    if others.len() > ROWS_MAX {
        rows.extend(
            others[..ROWS_AT_ENDS]
                .iter()
                .map(|partition| row(partition)),
        );
        cut = Some((rows.len(), others.len() - 2 * ROWS_AT_ENDS));
        rows.extend(
            others[others.len() - ROWS_AT_ENDS..]
                .iter()
                .map(|partition| row(partition)),
        );
    } else {
        rows.extend(others.iter().map(|partition| row(partition)));
    }
    let header = [
        "partition",
        "rows",
        "bytes",
        "wire",
        "ratio",
        "time",
        "state",
    ];
    let mut lines: Vec<String> = format::table(&header, &rows, 1)
        .lines()
        .map(str::to_owned)
        .collect();
    if let Some((at, left)) = cut {
        lines.insert(at + 1, format!("… {} more", format::count(left as u64)));
    }
    for partition in failed {
        lines.push(format!("failed: {}: {}", key(partition), partition.message));
    }
    lines.join("\n")
}

fn key(partition: &v1::RunPartition) -> String {
    if partition.key.is_empty() {
        "(all)".to_owned()
    } else {
        partition.key.clone()
    }
}

fn row(partition: &v1::RunPartition) -> Vec<String> {
    let state = match partition.state.as_str() {
        "done" => "✓".to_owned(),
        "already" => "✓ already".to_owned(),
        "dropped" => "✓ dropped".to_owned(),
        state => state.to_owned(),
    };
    vec![
        key(partition),
        format::count(partition.rows),
        format::bytes(partition.raw_bytes),
        format::bytes(partition.wire_bytes),
        format::ratio(partition.raw_bytes, partition.wire_bytes),
        format::duration_ms(partition.elapsed_ms),
        state,
    ]
}

/// A run in a few lines.
pub(crate) fn summary(run: &v1::Run) -> String {
    let progress = run.progress.clone().unwrap_or_default();
    let ms = progress.elapsed_ms;
    let mut lines = vec![format!(
        "run {}: {} in {}",
        run.id,
        run.status,
        format::duration_ms(ms)
    )];
    let counted = [
        (progress.partitions_already, "already there"),
        (progress.partitions_dropped, "dropped"),
        (progress.partitions_failed, "failed"),
    ];
    let others = counted.iter().filter(|(count, _)| *count > 0);
    let others: String = others
        .map(|(count, what)| format!(", {} {what}", format::count(*count)))
        .collect();
    lines.push(format!(
        "{} of {} partitions copied{others}; {} rows",
        format::count(progress.partitions_done),
        format::count(progress.partitions),
        format::count(progress.rows_done)
    ));
    if run.status == "done" && progress.partitions_already == progress.partitions {
        lines.push("nothing has changed: the sink has all of it already".to_owned());
    }
    if progress.rows_sent > 0 {
        lines.push(format!(
            "{} rows/s, {}/s raw, {}/s on the wire ({})\nsource agent: at most {} of memory",
            format::count(format::per_second(progress.rows_sent, ms)),
            format::bytes(format::per_second(progress.raw_bytes, ms)),
            format::bytes(format::per_second(progress.wire_bytes, ms)),
            format::ratio(progress.raw_bytes, progress.wire_bytes),
            format::bytes(progress.peak_memory_bytes)
        ));
    }
    if let Some(bandwidth_max) = run.bandwidth_max {
        lines.push(format!(
            "bandwidth: at most {} a second",
            format::bytes(bandwidth_max)
        ));
    }
    if progress.retries > 0 || run.attempts > 1 {
        lines.push(format!(
            "{} attempts, {} retries",
            run.attempts, progress.retries
        ));
    }
    if !run.message.is_empty() {
        lines.push(format!("because: {}", run.message));
    }
    use v1::mode::Kind;
    let appends = matches!(
        run.mode.unwrap_or_default().kind(),
        Kind::Unspecified | Kind::Append
    );
    match run.status.as_str() {
        "partial" if !appends => lines
            .push("begin it again with --mode mirror, which copies only what is left".to_owned()),
        "partial" | "failed" | "paused" | "cancelled" => {
            lines.push(format!("go on with `strait runs resume {}`", run.id))
        }
        _ => {}
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_table_shows_what_failed_and_both_ends() {
        let partition = |at: usize| v1::RunPartition {
            key: format!("d={at}"),
            state: if at == 500 { "failed" } else { "done" }.to_owned(),
            message: if at == 500 {
                "the disk is full".to_owned()
            } else {
                String::new()
            },
            ..v1::RunPartition::default()
        };
        let partitions: Vec<_> = (0..1000).map(partition).collect();
        let text = table(&partitions);
        assert!(text.lines().count() < 25, "{text}");
        assert!(text.contains("… 983 more"), "{text}");
        assert!(text.contains("failed: d=500: the disk is full"), "{text}");
    }
}
