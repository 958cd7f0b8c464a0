//! What `--json` prints, one object a command. Fields are only ever added; the README lists them.
//!
//! `status` is one of planned, running, done, partial, failed, paused, cancelled, whatever the command: of a run for `sync` and `runs`, of the command itself
//! elsewhere. `sync` and `runs show|watch|pause|resume|cancel|adopt` print a [`Run`], `runs list` several, `plan` a [`Plan`], `verify` a
//! [`Verification`]; a command that fails prints `{"status":"failed","error":{"kind","message","run"}}`.

use serde::Serialize;
use strait_proto::v1;

use crate::report::Failure;

/// A run.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    /// planned, running, done, partial, failed, paused, cancelled.
    pub(crate) status: String,
    pub(crate) run: String,
    pub(crate) from: String,
    pub(crate) to: String,
    /// append, replace, mirror.
    pub(crate) mode: &'static str,
    /// The resolved selection.
    pub(crate) selection: String,
    /// What now() means in it: nanoseconds since 1970 in UTC.
    pub(crate) now: i64,
    /// Whether the request found this run under way.
    pub(crate) attached: bool,
    /// Whether it was given up; such a run is cancelled and cannot be resumed.
    pub(crate) abandoned: bool,
    pub(crate) partitions: u64,
    pub(crate) partitions_done: u64,
    /// Found committed by an earlier run, with equal version and selection, or found equal: nothing was sent.
    pub(crate) partitions_already: u64,
    /// Removed at B by a mirror.
    pub(crate) partitions_dropped: u64,
    pub(crate) partitions_failed: u64,
    /// Rows of all committed partitions, by their receipts.
    pub(crate) rows: u64,
    /// Rows that were sent, counting those sent again.
    pub(crate) rows_sent: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) wire_bytes: u64,
    pub(crate) elapsed_ms: u64,
    pub(crate) attempts: u32,
    pub(crate) retries: u32,
    pub(crate) epoch: u64,
    pub(crate) source_peak_memory_bytes: u64,
    /// Why it ended as it did, and the kind of that error; empty if it is well.
    pub(crate) message: String,
    pub(crate) kind: String,
    pub(crate) warnings: Vec<String>,
    /// The run's own limit, in bytes a second; null without one.
    pub(crate) bandwidth_max: Option<u64>,
    /// The partitions that failed.
    pub(crate) failed: Vec<FailedPartition>,
}

/// A partition that failed.
#[derive(Debug, Serialize)]
pub(crate) struct FailedPartition {
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl Run {
    pub(crate) fn new(run: &v1::Run, attached: bool, failed: &[v1::RunPartition]) -> Run {
        let selectors = run.selectors.clone().unwrap_or_default();
        let progress = run.progress.clone().unwrap_or_default();
        let abandoned = run.status == "abandoned";
        Run {
            status: if abandoned {
                "cancelled".to_owned()
            } else {
                run.status.clone()
            },
            abandoned,
            run: run.id.clone(),
            from: selectors.from,
            to: selectors.to,
            mode: match run.mode.unwrap_or_default().kind() {
                v1::mode::Kind::Replace => "replace",
                v1::mode::Kind::Mirror => "mirror",
                v1::mode::Kind::Append | v1::mode::Kind::Unspecified => "append",
            },
            selection: run.selection.clone(),
            now: run.now,
            attached,
            partitions: progress.partitions,
            partitions_done: progress.partitions_done,
            partitions_already: progress.partitions_already,
            partitions_dropped: progress.partitions_dropped,
            partitions_failed: progress.partitions_failed,
            rows: progress.rows_done,
            rows_sent: progress.rows_sent,
            raw_bytes: progress.raw_bytes,
            wire_bytes: progress.wire_bytes,
            elapsed_ms: progress.elapsed_ms,
            attempts: run.attempts,
            retries: progress.retries,
            epoch: run.epoch,
            source_peak_memory_bytes: progress.peak_memory_bytes,
            message: run.message.clone(),
            kind: run.kind.clone(),
            warnings: run.warnings.clone(),
            bandwidth_max: run.bandwidth_max,
            failed: failed
                .iter()
                .map(|partition| FailedPartition {
                    key: partition.key.clone(),
                    kind: partition.kind.clone(),
                    message: partition.message.clone(),
                })
                .collect(),
        }
    }
}

/// Several tables of one request.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    /// running, done, partial, failed, paused, cancelled.
    status: String,
    group: String,
    from: String,
    to: String,
    now: i64,
    tables: Vec<OfTable<Run>>,
}

/// What became of one table of several.
#[derive(Debug, Serialize)]
pub(crate) struct OfTable<T> {
    from: String,
    to: String,
    /// Null where none came about.
    pub(crate) result: Option<T>,
    /// Why it could not be begun, and the kind of that error; else empty.
    pub(crate) message: String,
    kind: String,
}

impl<T> OfTable<T> {
    pub(crate) fn new(
        from: String,
        to: String,
        result: Option<T>,
        failure: Option<Failure>,
    ) -> OfTable<T> {
        let (message, kind) = match failure {
            Some(failure) => (failure.message, failure.kind.name().to_owned()),
            None => (String::new(), String::new()),
        };
        OfTable {
            from,
            to,
            result,
            message,
            kind,
        }
    }
}

impl Group {
    pub(crate) fn new(group: &v1::Group) -> Group {
        let table = |table: &v1::GroupTable| OfTable {
            from: table.from.clone(),
            to: table.to.clone(),
            result: table.run.as_ref().map(|run| Run::new(run, false, &[])),
            message: table.message.clone(),
            kind: table.kind.clone(),
        };
        Group {
            status: group.status.clone(),
            group: group.id.clone(),
            from: group.from.clone(),
            to: group.to.clone(),
            now: group.now,
            tables: group.tables.iter().map(table).collect(),
        }
    }
}

/// A plan.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    /// Always "planned".
    pub(crate) status: &'static str,
    pub(crate) selection: String,
    pub(crate) now: i64,
    pub(crate) created: Vec<String>,
    pub(crate) notes: Vec<String>,
    pub(crate) value_rules: Vec<String>,
    pub(crate) warnings: Vec<String>,
    /// Whether readers of B see a partition whole or not at all.
    pub(crate) atomic: bool,
    pub(crate) streams: u32,
    pub(crate) streams_admitted_source: u32,
    pub(crate) streams_admitted_sink: u32,
    pub(crate) stream_bytes_source: u64,
    pub(crate) stream_bytes_sink: u64,
    pub(crate) memory_bytes_source: u64,
    pub(crate) memory_bytes_sink: u64,
    pub(crate) free_bytes_sink: Option<u64>,
    /// auto, none, zstd:LEVEL.
    pub(crate) compression: String,
    /// The run's limit or the agent's, whichever is less, in bytes a second; null without one.
    pub(crate) bandwidth_max: Option<u64>,
    /// How long the copy takes at least at that, if the wire carries what is stored; null without a limit.
    pub(crate) least_ms: Option<u64>,
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) to_copy: u64,
    /// Partitions of B that a replace or mirror puts others in the place of.
    pub(crate) to_replace: u64,
    /// Partitions of which a mirror must read digests to tell.
    pub(crate) to_compare: u64,
    /// Partitions that only B has: a mirror reports them, or drops them where that is allowed.
    pub(crate) to_drop: u64,
    pub(crate) already: u64,
    pub(crate) refused: u64,
    /// Partitions that travel as files, or why none does.
    pub(crate) as_files: u64,
    pub(crate) rows_because: String,
    pub(crate) columns: Vec<PlannedColumn>,
    pub(crate) partitions: Vec<PlannedPartition>,
}

/// A column at both sides.
#[derive(Debug, Serialize)]
pub(crate) struct PlannedColumn {
    pub(crate) name: String,
    /// Its type at A; null where A does not send it.
    pub(crate) source: Option<String>,
    /// Its type at B; null where B does not get it.
    pub(crate) sink: Option<String>,
    /// same, created, added, null, left out.
    pub(crate) what: String,
}

/// A partition of a plan.
#[derive(Debug, Serialize)]
pub(crate) struct PlannedPartition {
    pub(crate) key: String,
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: Option<u64>,
    /// copy, replace, compare, already, refused, drop.
    pub(crate) action: String,
}

/// A comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Verification {
    /// Always "done"; the counts and the exit code say what was found.
    pub(crate) status: &'static str,
    pub(crate) partitions: u64,
    pub(crate) equal: u64,
    /// Of the equal ones: those that the stores' own checksums alone say so of.
    pub(crate) equal_by_sums: u64,
    /// A is at the receipt's version, and B holds something else.
    pub(crate) differs: u64,
    /// A has moved on since the receipt, or was never copied.
    pub(crate) behind: u64,
    /// Only B has it.
    pub(crate) extra: u64,
    pub(crate) rows_source: u64,
    pub(crate) rows_sink: u64,
    /// Those that are not equal.
    pub(crate) different: Vec<DifferentPartition>,
}

/// A partition that is not equal.
#[derive(Debug, Serialize)]
pub(crate) struct DifferentPartition {
    pub(crate) key: String,
    /// differs, behind, extra.
    pub(crate) result: String,
    pub(crate) rows_source: u64,
    pub(crate) rows_sink: u64,
    pub(crate) message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_run_are_the_documented_ones() {
        let run = serde_json::to_value(Run::new(&v1::Run::default(), false, &[])).unwrap();
        let fields: Vec<&str> = run
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let documented = [
            "abandoned",
            "attached",
            "attempts",
            "bandwidth_max",
            "elapsed_ms",
            "epoch",
            "failed",
            "from",
            "kind",
            "message",
            "mode",
            "now",
            "partitions",
            "partitions_already",
            "partitions_done",
            "partitions_dropped",
            "partitions_failed",
            "raw_bytes",
            "retries",
            "rows",
            "rows_sent",
            "run",
            "selection",
            "source_peak_memory_bytes",
            "status",
            "to",
            "warnings",
            "wire_bytes",
        ];
        let mut sorted = fields.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, documented);
    }
}
