//! The runs this agent knows, in SQLite: each with its stored plan.
//!
//! What is stored here decides what a run wants: its job, its frozen now, its partitions and their versions. What is committed is
//! decided by the sink's ledger alone; the states of partitions here are what that ledger said last, for display and for
//! counting.
//!
//! `synchronous=FULL`: a plan that was acknowledged is there after a power cut. Calls block; they run on the CPU pool.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, params};
use strait_common::division::can_meet;
use strait_common::engine::{Origin, Partition, Receipt, Version};
use strait_common::ids::RunId;
use strait_common::key::PartitionKey;
use strait_common::sqlite::{self, Said};
use strait_common::{Error, Kind, OrError, Result};

use crate::job::{Job, Order};

mod groups;

pub use groups::{GroupRow, Member, Request};

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Stored, not begun.
    Planned,
    /// Begun; goes on by itself after a restart.
    Running,
    /// Every partition is committed.
    Done,
    /// Some partitions failed.
    Partial,
    /// It cannot go on without a person.
    Failed,
    /// Stopped softly by an operator, to go on later.
    Paused,
    /// Stopped by an operator.
    Cancelled,
    /// Given up by an operator.
    Abandoned,
}

impl Status {
    const ALL: [Status; 8] = [
        Status::Planned,
        Status::Running,
        Status::Done,
        Status::Partial,
        Status::Failed,
        Status::Paused,
        Status::Cancelled,
        Status::Abandoned,
    ];

    /// The word in SQL, on the wire and in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Status::Planned => "planned",
            Status::Running => "running",
            Status::Done => "done",
            Status::Partial => "partial",
            Status::Failed => "failed",
            Status::Paused => "paused",
            Status::Cancelled => "cancelled",
            Status::Abandoned => "abandoned",
        }
    }

    fn from_name(name: &str) -> Result<Status> {
        let found = Status::ALL.into_iter().find(|status| status.name() == name);
        found.ok_or_else(|| Error::corrupt(format!("'{name}' is not the status of a run")))
    }

    /// Whether the agent works on it, now or after a restart.
    pub fn is_active(self) -> bool {
        matches!(self, Status::Planned | Status::Running)
    }
}

/// How a partition of a run stands, as far as this agent knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartitionState {
    /// To be copied.
    Pending,
    /// Committed by this run.
    Done,
    /// Committed by an earlier run, with equal version and selection, or found equal.
    Already,
    /// Failed; the run goes on without it.
    Failed,
    /// To be removed at B: A no longer has it.
    Dropping,
    /// Removed at B.
    Dropped,
}

impl PartitionState {
    const ALL: [PartitionState; 6] = [
        PartitionState::Pending,
        PartitionState::Done,
        PartitionState::Already,
        PartitionState::Failed,
        PartitionState::Dropping,
        PartitionState::Dropped,
    ];

    /// The word in SQL, on the wire and in `--json`.
    pub fn name(self) -> &'static str {
        match self {
            PartitionState::Pending => "pending",
            PartitionState::Done => "done",
            PartitionState::Already => "already",
            PartitionState::Failed => "failed",
            PartitionState::Dropping => "dropping",
            PartitionState::Dropped => "dropped",
        }
    }

    fn from_name(name: &str) -> Result<PartitionState> {
        let found = PartitionState::ALL
            .into_iter()
            .find(|state| state.name() == name);
        found.ok_or_else(|| Error::corrupt(format!("'{name}' is not the state of a partition")))
    }
}

/// A run as stored.
#[derive(Clone, Debug)]
pub struct RunRow {
    /// Its id.
    pub id: RunId,
    /// What it does.
    pub job: Job,
    /// At most this many streams.
    pub streams: u32,
    /// The most that its frames take on the wire, in bytes a second.
    pub bandwidth_max: Option<u64>,
    /// Which of its partitions come first.
    pub order: Order,
    /// How it stands.
    pub status: Status,
    /// Seconds since 1970; 0 where it has not happened.
    pub created_at: i64,
    /// When its first attempt began.
    pub started_at: i64,
    /// When it ended.
    pub ended_at: i64,
    /// How often it was begun.
    pub attempts: u32,
    /// The epoch of the newest attempt.
    pub epoch: u64,
    /// Retries after temporary errors.
    pub retries: u32,
    /// Time spent running, over all attempts.
    pub elapsed_ms: u64,
    /// Why it ended as it did.
    pub message: String,
    /// The kind of the error it ended with.
    pub kind: Option<Kind>,
    /// What the operator was warned of.
    pub warnings: Vec<String>,
}

/// A partition of a run as stored.
#[derive(Clone, Debug)]
pub struct PartitionRow {
    /// Its number in the plan, in order of key.
    pub seq: u64,
    /// The planned partition.
    pub partition: Partition,
    /// How it stands.
    pub state: PartitionState,
    /// What was spent on it.
    pub spent: Spent,
    /// How often it was begun, and how often it had moved.
    pub attempts: u32,
    /// Restarts because its version had changed.
    pub moved: u32,
    /// The proof, once committed.
    pub receipt: Option<Receipt>,
    /// Why it failed last.
    pub message: String,
    /// The kind of that error.
    pub kind: Option<Kind>,
}

/// What a partition cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Rows sent, counting those sent again.
    pub rows: u64,
    /// Arrow bytes sent.
    pub raw_bytes: u64,
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// Time in copying.
    pub elapsed_ms: u64,
}

/// Sums over a run's partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many there are.
    pub partitions: u64,
    /// Committed by this run.
    pub done: u64,
    /// Committed before.
    pub already: u64,
    /// Failed.
    pub failed: u64,
    /// To be removed at B.
    pub dropping: u64,
    /// Removed at B.
    pub dropped: u64,
    /// Planned rows, where known.
    pub rows: u64,
    /// Planned bytes, where known.
    pub bytes: u64,
    /// Rows of committed partitions, by their receipts.
    pub rows_done: u64,
    /// What was spent on all of them.
    pub spent: Spent,
}

impl Totals {
    /// How many have come to an end, well or not.
    pub fn settled(&self) -> u64 {
        self.done + self.already + self.failed + self.dropped
    }
}

/// A change to a partition that is written down.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its number.
    pub seq: u64,
    /// How it stands now.
    pub state: PartitionState,
    /// What was spent on it so far.
    pub spent: Spent,
    /// How often it was begun.
    pub attempts: u32,
    /// The proof, once committed.
    pub receipt: Option<Receipt>,
    /// Why it failed.
    pub error: Option<(Kind, String)>,
}

/// A partition of B that the plan does not have.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Which.
    pub key: PartitionKey,
    /// How it stands.
    pub state: PartitionState,
    /// Why it failed.
    pub error: Option<(Kind, String)>,
}

/// The store of runs.
#[derive(Debug)]
pub struct RunStore {
    db: Connection,
    /// Where it is, for errors.
    name: String,
}

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS runs (
        id TEXT PRIMARY KEY,
        job TEXT NOT NULL,
        streams INTEGER NOT NULL,
        status TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        started_at INTEGER NOT NULL DEFAULT 0,
        ended_at INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        epoch INTEGER NOT NULL DEFAULT 0,
        retries INTEGER NOT NULL DEFAULT 0,
        elapsed_ms INTEGER NOT NULL DEFAULT 0,
        message TEXT NOT NULL DEFAULT '',
        kind TEXT,
        warnings TEXT NOT NULL DEFAULT '[]',
        bandwidth_max INTEGER,
        newest_first INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE IF NOT EXISTS partitions (
        run TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        key TEXT NOT NULL,
        version TEXT NOT NULL,
        pin TEXT NOT NULL,
        origin TEXT NOT NULL DEFAULT '',
        seen INTEGER NOT NULL DEFAULT 0,
        rows INTEGER,
        bytes INTEGER,
        state TEXT NOT NULL DEFAULT 'pending',
        attempts INTEGER NOT NULL DEFAULT 0,
        moved INTEGER NOT NULL DEFAULT 0,
        sent_rows INTEGER NOT NULL DEFAULT 0,
        raw_bytes INTEGER NOT NULL DEFAULT 0,
        wire_bytes INTEGER NOT NULL DEFAULT 0,
        elapsed_ms INTEGER NOT NULL DEFAULT 0,
        receipt TEXT,
        receipt_rows INTEGER,
        message TEXT NOT NULL DEFAULT '',
        kind TEXT,
        extra INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (run, seq),
        UNIQUE (run, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS partitions_by_state ON partitions (run, state, seq);
";

/// Partitions of a plan that are compared with a key at a time.
const MEETING_PAGE: u32 = 1000;
/// The version of [`SCHEMA`], in SQLite's `user_version`.
const SCHEMA_VERSION: i64 = 5;

/// What version 1 lacks.
const SCHEMA_FROM_1: &str = "ALTER TABLE runs ADD COLUMN bandwidth_max INTEGER";
/// What version 2 lacks: partitions that are not in the plan, and modes other than append.
const SCHEMA_FROM_2: &str = "ALTER TABLE partitions ADD COLUMN extra INTEGER NOT NULL DEFAULT 0; \
     UPDATE runs SET job = json_set(job, '$.mode', 'append')";
/// What version 3 lacks: where partitions come from.
const SCHEMA_FROM_3: &str = "ALTER TABLE partitions ADD COLUMN origin TEXT NOT NULL DEFAULT ''; ALTER TABLE partitions ADD COLUMN seen INTEGER NOT NULL DEFAULT 0";
/// What version 4 lacks: the order of partitions. Groups and jobs are made by their own schemas.
const SCHEMA_FROM_4: &str = "ALTER TABLE runs ADD COLUMN newest_first INTEGER NOT NULL DEFAULT 0";
/// What brings the store from each version to the next.
const CHANGES: [&str; 4] = [SCHEMA_FROM_1, SCHEMA_FROM_2, SCHEMA_FROM_3, SCHEMA_FROM_4];

const RUN_COLUMNS: &str = "id, job, streams, status, created_at, started_at, ended_at, attempts, epoch, retries, elapsed_ms, \
     message, kind, warnings, bandwidth_max, newest_first";
const PARTITION_COLUMNS: &str = "seq, key, version, pin, origin, seen, rows, bytes, state, attempts, moved, sent_rows, raw_bytes, \
     wire_bytes, elapsed_ms, receipt, message, kind";

impl RunStore {
    /// Opens or makes the store in this file.
    ///
    /// # Errors
    /// `Config` if the file cannot be opened or is of a newer release.
    pub fn open(path: &Path) -> Result<RunStore> {
        RunStore::set_up(Some(path), format!("run store {}", path.display()))
    }

    /// A store that lives in memory, for tests: dropping it is losing it.
    ///
    /// # Errors
    /// `Config` if SQLite has no memory.
    pub fn in_memory() -> Result<RunStore> {
        RunStore::set_up(None, "run store in memory".to_owned())
    }

    /// Writes nothing where the store is set up already: what only reads must work on a full disk.
    fn set_up(path: Option<&Path>, name: String) -> Result<RunStore> {
        let db = sqlite::open(path, &name)?;
        let context = format!("{name}: set up");
        let context = context.as_str();
        let version: i64 = db
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .or_error(Kind::Config, context)?;
        if version > SCHEMA_VERSION {
            return Err(Error::config(format!(
                "{name}: it has format {version}, this release knows up to {SCHEMA_VERSION}; use the newer release"
            )));
        }
        // All of a change or nothing of it.
        if version < SCHEMA_VERSION {
            let change = match usize::try_from(version) {
                Ok(known @ 1..) => CHANGES[known - 1..].join("; "),
                _ => SCHEMA.to_owned(),
            };
            let others = groups::SCHEMA;
            db.execute_batch(&format!(
                "BEGIN IMMEDIATE; {change}; {others}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            ))
            .or_error(Kind::Config, context)?;
        }
        Ok(RunStore { db, name })
    }

    /// Stores a run with its plan, in one act: all of it or nothing.
    ///
    /// # Errors
    /// What `partitions` yields; `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn insert(
        &mut self,
        run: &RunRow,
        partitions: impl Iterator<Item = Result<Partition>>,
    ) -> Result<u64> {
        let transaction = self.db.transaction().written(&self.name)?;
        transaction
            .execute(
                "INSERT INTO runs (id, job, streams, status, created_at, warnings, bandwidth_max, newest_first) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    run.id.to_string(),
                    run.job.to_json()?,
                    run.streams,
                    run.status.name(),
                    run.created_at,
                    serde_json::to_string(&run.warnings).unwrap_or_else(|_| "[]".to_owned()),
                    run.bandwidth_max.map(to_sql),
                    run.order == Order::Newest,
                ],
            )
            .written(&self.name)?;
        let mut seq = 0;
        {
            let sql = "INSERT INTO partitions (run, seq, key, version, pin, origin, seen, rows, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let mut insert = transaction.prepare(sql).written(&self.name)?;
            for partition in partitions {
                let partition = partition?;
                insert
                    .execute(params![
                        run.id.to_string(),
                        to_sql(seq),
                        partition.key.to_string(),
                        partition.version.0,
                        partition.pin,
                        partition.origin.table,
                        partition.origin.seen,
                        partition.rows.map(to_sql),
                        partition.bytes.map(to_sql),
                    ])
                    .written(&self.name)?;
                seq += 1;
            }
        }
        transaction.commit().written(&self.name)?;
        Ok(seq)
    }

    /// The run, if it is known.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn run(&self, id: RunId) -> Result<Option<RunRow>> {
        let sql = format!("SELECT {RUN_COLUMNS} FROM runs WHERE id = ?");
        let found = self
            .db
            .query_row(&sql, [id.to_string()], |row| Ok(run_row(row)))
            .optional();
        found.found(&self.name)?.transpose()
    }

    /// The runs whose ids begin with `prefix`, newest first, at most `limit`.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn runs(&self, prefix: &str, limit: u32) -> Result<Vec<RunRow>> {
        let sql = format!(
            "SELECT {RUN_COLUMNS} FROM runs WHERE substr(id, 1, length(?1)) = ?1 ORDER BY created_at DESC, id LIMIT ?2"
        );
        self.all(&sql, params![prefix, limit], run_row)
    }

    /// The runs that the agent works on.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn active(&self) -> Result<Vec<RunRow>> {
        let sql = format!(
            "SELECT {RUN_COLUMNS} FROM runs WHERE status IN ('planned', 'running') ORDER BY created_at, id"
        );
        self.all(&sql, [], run_row)
    }

    /// Writes everything of the run that can change, except its plan.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn update(&self, run: &RunRow) -> Result<()> {
        let changed = self.db.execute(
            "UPDATE runs SET status = ?2, started_at = ?3, ended_at = ?4, attempts = ?5, epoch = ?6, retries = ?7, elapsed_ms = ?8, \
             message = ?9, kind = ?10, streams = ?11, bandwidth_max = ?12 WHERE id = ?1",
            params![
                run.id.to_string(),
                run.status.name(),
                run.started_at,
                run.ended_at,
                run.attempts,
                to_sql(run.epoch),
                run.retries,
                to_sql(run.elapsed_ms),
                run.message,
                run.kind.map(Kind::name),
                run.streams,
                run.bandwidth_max.map(to_sql),
            ],
        );
        match changed.written(&self.name)? {
            1 => Ok(()),
            _ => Err(Error::internal(format!("run {} is not stored", run.id))),
        }
    }

    /// At most `limit` partitions from `from` on, in order of key; only those in `state`, where it is given.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn partitions(
        &self,
        run: RunId,
        state: Option<PartitionState>,
        from: u64,
        limit: u32,
    ) -> Result<Vec<PartitionRow>> {
        let run = run.to_string();
        match state {
            Some(state) => self.all(
                &format!("SELECT {PARTITION_COLUMNS} FROM partitions WHERE run = ? AND state = ? AND seq >= ? ORDER BY seq LIMIT ?"),
                params![run, state.name(), to_sql(from), limit],
                partition_row,
            ),
            None => self.all(
                &format!("SELECT {PARTITION_COLUMNS} FROM partitions WHERE run = ? AND seq >= ? ORDER BY seq LIMIT ?"),
                params![run, to_sql(from), limit],
                partition_row,
            ),
        }
    }

    /// At most `limit` pending partitions after the one with this number, as `order` has it; from the first one without it.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn pending(
        &self,
        run: RunId,
        order: Order,
        after: Option<u64>,
        limit: u32,
    ) -> Result<Vec<PartitionRow>> {
        let (is_after, direction, first) = match order {
            Order::Oldest => (">", "ASC", -1),
            Order::Newest => ("<", "DESC", i64::MAX),
        };
        self.all(
            &format!(
                "SELECT {PARTITION_COLUMNS} FROM partitions WHERE run = ? AND state = 'pending' AND seq {is_after} ? ORDER BY seq {direction} LIMIT ?"
            ),
            params![run.to_string(), after.map_or(first, to_sql), limit],
            partition_row,
        )
    }

    /// The partition with this key, if the plan has it.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn partition_by_key(&self, run: RunId, key: &str) -> Result<Option<PartitionRow>> {
        let sql = format!("SELECT {PARTITION_COLUMNS} FROM partitions WHERE run = ? AND key = ?");
        let found = self
            .db
            .query_row(&sql, params![run.to_string(), key], |row| {
                Ok(partition_row(row))
            })
            .optional();
        found.found(&self.name)?.transpose()
    }

    /// Whether a partition of the plan can have a row in common with one of this key.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn has_partition_that_meets(&self, run: RunId, key: &PartitionKey) -> Result<bool> {
        let mut from = 0;
        loop {
            let page = self.partitions(run, None, from, MEETING_PAGE)?;
            let Some(last) = page.last() else {
                return Ok(false);
            };
            from = last.seq + 1;
            if page.iter().any(|row| can_meet(&row.partition.key, key)) {
                return Ok(true);
            }
        }
    }

    /// An attempt begins: the sink's ledger will say what is done, so nothing is until it has spoken.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn forget_states(&self, run: RunId) -> Result<()> {
        let transaction = self.db.unchecked_transaction().written(&self.name)?;
        for sql in [
            "DELETE FROM partitions WHERE run = ? AND extra = 1",
            "UPDATE partitions SET state = 'pending', receipt = NULL, receipt_rows = NULL, message = '', kind = NULL WHERE run = ?",
        ] {
            let changed = transaction.execute(sql, [run.to_string()]);
            changed.written(&self.name)?;
        }
        transaction.commit().written(&self.name)
    }

    /// Partitions that only B has join those of the plan until the next attempt begins, all in one act.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn add_extras(&mut self, run: RunId, extras: &[Extra]) -> Result<()> {
        let transaction = self.db.transaction().written(&self.name)?;
        {
            let sql = "INSERT INTO partitions (run, seq, key, version, pin, state, message, kind, extra) \
                       SELECT ?1, coalesce(max(seq) + 1, 0), ?2, '', '', ?3, ?4, ?5, 1 FROM partitions WHERE run = ?1";
            let mut insert = transaction.prepare(sql).written(&self.name)?;
            for Extra { key, state, error } in extras {
                let (kind, message) = error_columns(error.as_ref());
                let values = params![
                    run.to_string(),
                    key.to_string(),
                    state.name(),
                    message,
                    kind
                ];
                insert.execute(values).written(&self.name)?;
            }
        }
        transaction.commit().written(&self.name)
    }

    /// Fails all partitions that are to be removed at B, for this reason.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn fail_drops(&self, run: RunId, error: &Error) -> Result<()> {
        let sql = "UPDATE partitions SET state = 'failed', message = ?2, kind = ?3 WHERE run = ?1 AND state = 'dropping'";
        let values = params![run.to_string(), error.to_string(), error.kind().name()];
        self.db.execute(sql, values).written(&self.name)?;
        Ok(())
    }

    /// Gives every partition its retries and restarts anew: a person has looked, and asks for the run to go on.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn renew_retries(&self, run: RunId) -> Result<()> {
        let sql = "UPDATE partitions SET attempts = 0, moved = 0 WHERE run = ?";
        self.db
            .execute(sql, [run.to_string()])
            .written(&self.name)?;
        Ok(())
    }

    /// Writes changes of partitions, all in one act.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn apply(&mut self, run: RunId, changes: &[Change]) -> Result<()> {
        let transaction = self.db.transaction().written(&self.name)?;
        {
            let sql = "UPDATE partitions SET state = ?3, attempts = ?4, sent_rows = ?5, raw_bytes = ?6, wire_bytes = ?7, elapsed_ms = ?8, \
                       receipt = ?9, receipt_rows = ?10, message = ?11, kind = ?12 WHERE run = ?1 AND seq = ?2";
            let mut update = transaction.prepare_cached(sql).written(&self.name)?;
            for change in changes {
                let receipt = change
                    .receipt
                    .as_ref()
                    .map(serde_json::to_string)
                    .transpose();
                let receipt = receipt.or_error(Kind::Internal, "write a receipt")?;
                let (kind, message) = error_columns(change.error.as_ref());
                update
                    .execute(params![
                        run.to_string(),
                        to_sql(change.seq),
                        change.state.name(),
                        change.attempts,
                        to_sql(change.spent.rows),
                        to_sql(change.spent.raw_bytes),
                        to_sql(change.spent.wire_bytes),
                        to_sql(change.spent.elapsed_ms),
                        receipt,
                        change.receipt.as_ref().map(|receipt| to_sql(receipt.rows)),
                        message,
                        kind,
                    ])
                    .written(&self.name)?;
            }
        }
        transaction.commit().written(&self.name)
    }

    /// The partition has moved: its new version is in the stored plan from here on, durably, before it is read.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn replan(&self, run: RunId, seq: u64, partition: &Partition, moved: u32) -> Result<()> {
        let sql = "UPDATE partitions SET version = ?, pin = ?, origin = ?, seen = ?, rows = ?, bytes = ?, moved = ? WHERE run = ? AND seq = ?";
        let (rows, bytes) = (partition.rows.map(to_sql), partition.bytes.map(to_sql));
        let values = params![
            partition.version.0,
            partition.pin,
            partition.origin.table,
            partition.origin.seen,
            rows,
            bytes,
            moved,
            run.to_string(),
            to_sql(seq)
        ];
        self.db.execute(sql, values).written(&self.name)?;
        Ok(())
    }

    /// Sums over the run's partitions.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot read.
    pub fn totals(&self, run: RunId) -> Result<Totals> {
        let sql = "SELECT count(*), count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'already'), \
                   count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state = 'dropping'), \
                   count(*) FILTER (WHERE state = 'dropped'), coalesce(sum(rows), 0), coalesce(sum(bytes), 0), \
                   coalesce(sum(receipt_rows) FILTER (WHERE state IN ('done', 'already')), 0), coalesce(sum(sent_rows), 0), \
                   coalesce(sum(raw_bytes), 0), coalesce(sum(wire_bytes), 0), coalesce(sum(elapsed_ms), 0) \
                   FROM partitions WHERE run = ?";
        let row = |row: &Row<'_>| {
            let get = |at: usize| row.get::<_, i64>(at).map(from_sql);
            Ok(Totals {
                partitions: get(0)?,
                done: get(1)?,
                already: get(2)?,
                failed: get(3)?,
                dropping: get(4)?,
                dropped: get(5)?,
                rows: get(6)?,
                bytes: get(7)?,
                rows_done: get(8)?,
                spent: Spent {
                    rows: get(9)?,
                    raw_bytes: get(10)?,
                    wire_bytes: get(11)?,
                    elapsed_ms: get(12)?,
                },
            })
        };
        self.db
            .query_row(sql, [run.to_string()], row)
            .found(&self.name)
    }

    fn all<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        read: fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        sqlite::rows(&self.db, &self.name, sql, values, read)
    }
}

const READ: &str = "read the run store";

/// SQLite's integers are signed; no count of ours comes near 2^63.
fn to_sql(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn error_columns(error: Option<&(Kind, String)>) -> (Option<&'static str>, &str) {
    error.map_or((None, ""), |(kind, message)| {
        (Some(kind.name()), message.as_str())
    })
}

fn from_sql(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn kind(name: Option<String>) -> Option<Kind> {
    name.as_deref().and_then(Kind::from_name)
}

fn run_row(row: &Row<'_>) -> Result<RunRow> {
    let text = |column| row.get::<_, String>(column).or_error(Kind::Corrupt, READ);
    let int = |column| row.get::<_, i64>(column).or_error(Kind::Corrupt, READ);
    let small = |column| row.get::<_, u32>(column).or_error(Kind::Corrupt, READ);
    Ok(RunRow {
        id: text("id")?.parse()?,
        job: Job::from_json(&text("job")?)?,
        streams: small("streams")?,
        status: Status::from_name(&text("status")?)?,
        created_at: int("created_at")?,
        started_at: int("started_at")?,
        ended_at: int("ended_at")?,
        attempts: small("attempts")?,
        epoch: from_sql(int("epoch")?),
        retries: small("retries")?,
        elapsed_ms: from_sql(int("elapsed_ms")?),
        message: text("message")?,
        kind: row
            .get::<_, Option<String>>("kind")
            .map(kind)
            .or_error(Kind::Corrupt, READ)?,
        warnings: serde_json::from_str(&text("warnings")?).unwrap_or_default(),
        bandwidth_max: row
            .get::<_, Option<i64>>("bandwidth_max")
            .or_error(Kind::Corrupt, READ)?
            .map(from_sql),
        order: match row
            .get::<_, bool>("newest_first")
            .or_error(Kind::Corrupt, READ)?
        {
            true => Order::Newest,
            false => Order::Oldest,
        },
    })
}

fn partition_row(row: &Row<'_>) -> Result<PartitionRow> {
    let text = |column| row.get::<_, String>(column).or_error(Kind::Corrupt, READ);
    let maybe_text = |column| {
        row.get::<_, Option<String>>(column)
            .or_error(Kind::Corrupt, READ)
    };
    let count = |column| {
        row.get::<_, i64>(column)
            .map(from_sql)
            .or_error(Kind::Corrupt, READ)
    };
    let maybe_count = |column| {
        row.get::<_, Option<i64>>(column)
            .or_error(Kind::Corrupt, READ)
    };
    let small = |column| row.get::<_, u32>(column).or_error(Kind::Corrupt, READ);
    let receipt = maybe_text("receipt")?.map(|text| serde_json::from_str(&text));
    Ok(PartitionRow {
        seq: count("seq")?,
        partition: Partition {
            key: text("key")?.parse()?,
            rows: maybe_count("rows")?.map(from_sql),
            bytes: maybe_count("bytes")?.map(from_sql),
            version: Version(text("version")?),
            pin: text("pin")?,
            origin: Origin {
                table: text("origin")?,
                seen: row.get::<_, i64>("seen").or_error(Kind::Corrupt, READ)?,
            },
        },
        state: PartitionState::from_name(&text("state")?)?,
        spent: Spent {
            rows: count("sent_rows")?,
            raw_bytes: count("raw_bytes")?,
            wire_bytes: count("wire_bytes")?,
            elapsed_ms: count("elapsed_ms")?,
        },
        attempts: small("attempts")?,
        moved: small("moved")?,
        receipt: receipt
            .transpose()
            .or_error(Kind::Corrupt, "read a receipt")?,
        message: text("message")?,
        kind: kind(maybe_text("kind")?),
    })
}
