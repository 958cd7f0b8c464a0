//! The engine contract: what a store must be able to do so that the agents can replicate it.
//!
//! A store is opened by URL and implements both halves: [`Source`] reads partitions, [`Sink`] receives them. The agents
//! reach every engine through these traits only, held as `Arc<dyn _>`; an ability that an engine lacks is a value that it returns,
//! never a type test in an agent. Every engine passes the one conformance suite in `engines/conformance`.
//!
//! The life of a run at the sink, in calls:
//!
//! ```text
//! prepare ─ attach ─┬─ begin ─ append … checkpoint … append ─ [seal] ─ finish ─┬─ complete
//!                   ├─ begin ─ append_file … checkpoint … ─ [seal] ─ finish ───┤
//!                   ├─ begin ─ …                                               │
//!                   └─ [confirm] … [drop_partition]                            ┘
//! ```
//!
//! What an engine promises, whatever is killed between or inside any two calls:
//!
//! - `finish` makes a partition's rows visible and their ledger entry count in one act, or decidably
//!   ([`Publish`]). Before it nothing is visible, after it everything is.
//! - `attach` raises the epoch in the store itself, then reads the ledger, and only then discards what
//!   older attempts of this run left staged. Every later act of an older epoch fails with `Fenced`, in whichever process.
//! - Dropping a writer or an attachment, at any await point, is a crash: nothing need run, the next `attach` tidies up.
//! - An error of `finish` means "unknown": attach again and read the ledger before anything else.
//! - Streams are lazy, hold one item, and stop their work when dropped. No method is cancel-safe in the
//!   sense that it may be called again on the same object after it was dropped half-way, unless it says so.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

pub use crate::division::{Division, DivisionKind};
pub use crate::files::{PartitionFiles, TableFile};

use crate::budget::Budget;
use crate::digest::{Digest, DigestId};
use crate::error::{Error, Result};
use crate::ids::{Epoch, RunId, TableName};
use crate::key::PartitionKey;
use crate::selection::Selection;

/// A lazy stream of results that owns what it needs.
pub type Stream<T> = BoxStream<'static, Result<T>>;

/// What a table looks like.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its name in the store.
    pub name: TableName,
    /// All its columns, those that divide it included, with the types as the table's users know them.
    pub schema: SchemaRef,
    /// The levels of its division, outermost first; none for a table without partitions.
    pub divisions: Vec<Division>,
    /// How its engine would make it anew, in the engine's own words: what its division, columns and their types do not tell. At most [`RECIPE_BYTES_MAX`] bytes.
    /// Stores keep it with the table, so that it comes back to its engine on any way; an engine that does not know the words makes the table without it.
    pub recipe: Option<String>,
}

/// The longest recipe, in bytes.
pub const RECIPE_BYTES_MAX: usize = 256 << 10;

impl Table {
    /// The same without these columns.
    #[must_use]
    pub fn without(&self, columns: &[String]) -> Table {
        let fields = self.schema.fields().iter();
        let left = fields.filter(|field| !columns.contains(field.name()));
        let left: Vec<_> = left.cloned().collect();
        Table {
            schema: Arc::new(Schema::new_with_metadata(
                left,
                self.schema.metadata().clone(),
            )),
            ..self.clone()
        }
    }
}

/// A column's type as an operator is shown it: `Int64`, `Utf8 not null`.
pub fn column_type(field: &Field) -> String {
    let null = if field.is_nullable() { "" } else { " not null" };
    format!("{}{null}", field.data_type())
}

/// One partition as the source engine sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Which partition.
    pub key: PartitionKey,
    /// How many rows it has, where the engine knows without reading.
    pub rows: Option<u64>,
    /// How many bytes it takes in the store, where the engine knows.
    pub bytes: Option<u64>,
    /// What it contains.
    pub version: Version,
    /// How the engine finds this version again, for example a table version; never compared, may be empty.
    pub pin: String,
    /// Which table its rows are of, and when this was so.
    pub origin: Origin,
}

/// Where a partition's rows come from. It stays with them on every way: a bundle that is carried on a disk tells the origin of what it carries, not its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The table, by a name of at most 200 bytes that the engine gives it and that it keeps whatever a configuration calls it. Versions are comparable within
    /// one table only. Empty where nobody has said.
    pub table: String,
    /// When the partition was looked at: nanoseconds since 1970 in UTC.
    pub seen: i64,
}

/// What a partition contained when it was looked at: opaque text of at most 200 bytes, made by the engine. Equal
/// versions of one partition hold equal rows in one equal order; different ones may.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub String);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An opaque place in a partition of one version, made by the source's engine: "after these rows". Empty at the
/// start. At most 1 KiB. Places among [`files`](crate::files) are the agents' own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor(pub Bytes);

impl Cursor {
    /// The place before the first row.
    pub fn start() -> Cursor {
        Cursor::default()
    }

    /// Whether this is the place before the first row.
    pub fn is_start(&self) -> bool {
        self.0.is_empty()
    }
}

/// Rows as the engine read them, and the place after them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The rows, with the columns of [`Selection::read_columns`] in that order. Its bounds mean nothing.
    pub records: RecordBatch,
    /// The place after the last of these rows.
    pub end: Cursor,
}

/// What a store computes of rows without giving them out. Equal ones of one kind are of equal rows as far as short checksums can tell, which is not proof; unequal
/// ones say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSums {
    /// What is computed, of which types of columns, by an engine of which name. At most 64 KiB.
    pub kind: String,
    /// How many rows.
    pub rows: u64,
    /// The sums, in any order of the rows. At most 64 KiB.
    pub sums: String,
}

/// What a reader may use.
#[derive(Clone, Debug)]
pub struct ReadLimits {
    /// A batch holds about this many bytes of Arrow memory at most; a single larger row is a batch of its own.
    pub batch_bytes: u64,
    /// Where the engine takes a larger lease from, alone, when one row or one page needs more than the
    /// [`Source::read_bytes`] that the stream holds already.
    pub budget: Budget,
}

/// The half of a store that is read.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// What the table looks like now.
    ///
    /// # Errors
    /// `Config` if there is no such table (naming those there are), `Refused` if it uses a feature that the engine does not support.
    async fn describe(&self, table: &TableName) -> Result<Table>;

    /// The tables of the store, in order of name.
    async fn tables(&self) -> Result<Vec<TableName>>;

    /// The partitions that can hold a selected row, without reading data: those whose keys
    /// [`Selection::excludes`] are left out, and no other. Empty partitions may be left out. In order of
    /// key, all of one version of the table where the engine has such a thing.
    async fn partitions(
        &self,
        table: &TableName,
        selection: &Selection,
    ) -> Result<Stream<Partition>>;

    /// The rows of `partition` after `after`, exactly those of `partition.version`, in an order that a
    /// cursor can name. May leave out rows that the predicate does not select, never others: the caller filters again.
    ///
    /// # Errors
    /// `Moved` if that version cannot be read any more. `Refused` if a row or page does not fit the budget, naming file, column and size.
    async fn read(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        after: &Cursor,
        limits: &ReadLimits,
    ) -> Result<Stream<Batch>>;

    /// How the files of the table look now, in one canonical text: all that must be equal at the other store for a file to be of that table as it is. `None` where
    /// no file can travel.
    ///
    /// # Errors
    /// As [`describe`](Source::describe).
    async fn files_shape(&self, table: &TableName) -> Result<Option<String>> {
        let _ = table;
        Ok(None)
    }

    /// The files of a partition, exactly those of `partition.version`, where all of its rows are selected with all columns and the files look like `shape`. `None` where they
    /// do not, or this cannot be told: its rows must be read.
    ///
    /// # Errors
    /// As [`read`](Source::read).
    async fn files(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        shape: &str,
    ) -> Result<Option<Box<dyn PartitionFiles>>> {
        let _ = (table, selection, partition, shape);
        Ok(None)
    }

    /// Whether what the store has of a table is whole, where the store can tell: asked once before a run reads from it.
    ///
    /// # Errors
    /// `Corrupt`, naming what is not.
    async fn check(&self, table: &TableName) -> Result<()> {
        let _ = table;
        Ok(())
    }

    /// What an operator should know of reading this table although nothing is refused, in sentences: shown by `plan`.
    ///
    /// # Errors
    /// As [`describe`](Source::describe).
    async fn warnings(&self, table: &TableName) -> Result<Vec<String>> {
        let _ = table;
        Ok(Vec::new())
    }

    /// What the store itself computes of the selected rows and columns of a partition as it is now, without giving them out. `None` where it computes nothing of
    /// exactly those: then they must be read.
    ///
    /// # Errors
    /// As [`describe`](Source::describe).
    async fn sums(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
    ) -> Result<Option<StoreSums>> {
        let _ = (table, selection, partition);
        Ok(None)
    }

    /// The bytes that one open read of this table holds beside the batch that it returns.
    fn read_bytes(&self, table: &Table) -> u64;
}

/// What happens to the rows already in B's partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Disposition {
    /// They stay; the run's rows join them.
    Append,
    /// They go, in the same act that makes the run's rows visible.
    Replace,
}

/// How an engine publishes a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// Rows and ledger entry in one act.
    Atomic,
    /// An intent is durable first, and after any crash the store alone answers done or not done. Readers
    /// may see a part of a partition meanwhile.
    Decidable,
}

/// What a sink says about receiving rows of a schema.
#[derive(Clone, Debug)]
pub struct SinkLimits {
    /// Sentences about values that the engine cannot hold, each naming the column or type: shown by `plan`.
    pub value_rules: Vec<String>,
    /// How a partition becomes visible.
    pub publish: Publish,
    /// The bytes that one open [`PartitionWriter`] holds beside the batch given to it.
    pub writer_bytes: u64,
}

/// What `prepare` did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Things made or to be made, each in one line: `database db1`, `table db1/mt`, `column db1/mt.x`.
    pub created: Vec<String>,
    /// What an operator should know although nothing is refused.
    pub notes: Vec<String>,
    /// The columns of the table that are not among those of the run.
    pub lacking: Vec<String>,
    /// Whether the table keeps one row of each key: then rows cannot be appended to it, only whole partitions put in the place of others.
    pub keyed: bool,
    /// Whether the table has rows, and no run has ever claimed it.
    pub foreign: bool,
    /// How the table is divided, as an operator is shown it, where that is otherwise than the rows come ([`crate::regroup`]): then they can be appended, and neither
    /// take the place of others nor be compared by the table's own partitions.
    pub divided_otherwise: Option<String>,
}

/// Room for a store's data, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// Where it is, as an operator would look for it.
    pub place: String,
    /// What this agent can still write.
    pub free: u64,
    /// What is taken, by whomever.
    pub used: u64,
}

impl Space {
    /// The share that is taken of what this agent can have, in percent, rounded up.
    pub fn used_percent(&self) -> u64 {
        let all = u128::from(self.used) + u128::from(self.free);
        let percent = (u128::from(self.used) * 100).div_ceil(all.max(1));
        u64::try_from(percent).unwrap_or(100)
    }
}

/// The sink's record that a run owns a target table. Lives in the store; survives both agents' states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The run that owns the table.
    pub run: RunId,
    /// The table at the sink.
    pub table: TableName,
    /// Which source agent runs it: its name and the identity in its state directory.
    pub agent: String,
    /// The resolved job as JSON, in one canonical form: two claims of one run must have equal text.
    pub job: String,
    /// When the claim was first taken: seconds since 1970.
    pub taken_at: i64,
}

/// What the sink holds durably of one partition for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The run that wrote it.
    pub run: RunId,
    /// Which partition.
    pub key: PartitionKey,
    /// What version of it. A position counts only for this one.
    pub version: Version,
    /// How many frames it covers.
    pub sequence: u64,
    /// Where the source goes on.
    pub cursor: Cursor,
    /// How many rows it covers.
    pub rows: u64,
    /// The digest of those rows.
    pub digest: Digest,
    /// Whether the rows are visible.
    pub state: PositionState,
}

/// How far a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PositionState {
    /// Durable and not visible.
    Staged,
    /// Visible, with its receipt.
    Committed(Receipt),
    /// This run has removed it. The position says nothing else.
    Dropped,
}

impl Position {
    /// What a run has committed.
    pub fn committed(run: RunId, receipt: &Receipt) -> Position {
        Position {
            run,
            key: receipt.key.clone(),
            version: receipt.version.clone(),
            sequence: 0,
            cursor: Cursor::start(),
            rows: receipt.rows,
            digest: receipt.digest,
            state: PositionState::Committed(receipt.clone()),
        }
    }

    /// What a run has removed.
    pub fn dropped(run: RunId, key: PartitionKey) -> Position {
        Position {
            run,
            key,
            version: Version(String::new()),
            sequence: 0,
            cursor: Cursor::start(),
            rows: 0,
            digest: Digest::default(),
            state: PositionState::Dropped,
        }
    }
}

/// How much a receipt proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The sink decoded these rows: proves the link.
    Received,
    /// Checksums of files passed through unchanged.
    Bytes,
    /// Read back from B: proves the engine.
    Stored,
}

/// The proof of a finished partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Which partition.
    pub key: PartitionKey,
    /// Its version at A.
    pub version: Version,
    /// How many rows were selected.
    pub rows: u64,
    /// The digest of them.
    pub digest: Digest,
    /// What the digest was computed by: receipts with another id are "unknown", never "different".
    pub digest_id: DigestId,
    /// What it proves.
    pub level: Level,
    /// The resolved selection that the rows were chosen by, in canonical text ([`Selection::text`]).
    pub selection: String,
    /// Where the rows come from.
    #[serde(default, skip_serializing_if = "Origin::is_unknown")]
    pub origin: Origin,
}

impl Origin {
    /// Whether nobody has said.
    pub fn is_unknown(&self) -> bool {
        *self == Origin::default()
    }
}

impl Receipt {
    /// Whether it is about this version of this partition, of the same table.
    pub fn is_of(&self, partition: &Partition) -> bool {
        self.version == partition.version && self.origin.table == partition.origin.table
    }

    /// Whether it proves what another one proves. An attempt whose plan was made anew has looked at another time.
    pub fn proves(&self, other: &Receipt) -> bool {
        let mut other = other.clone();
        other.origin.seen = self.origin.seen;
        *self == other
    }
}

/// What B has under one key, beside what its ledger says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which partition.
    pub key: PartitionKey,
    /// The partition as B's own [`Source`] tells it; none where only the ledger knows of it.
    pub partition: Option<Partition>,
    /// Its receipts in effect, the newest last.
    pub receipts: Vec<Receipt>,
    /// Whether its rows are those that the receipts in effect speak of and no others, as far as the store can tell without reading them. `false` says nothing.
    pub intact: bool,
}

/// A partition whose rows at B were read and found equal to A's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// What is proved, as if this run had copied it.
    pub receipt: Receipt,
    /// The version of B's partition that was read.
    pub version: Version,
}

/// Whether `finish` did it or found it done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    /// This call published the rows.
    Now,
    /// They were published before, with this receipt.
    Already(Receipt),
}

/// What `begin` opens.
#[derive(Debug)]
pub enum Begun {
    /// A writer that goes on after the position given, or from the start.
    Writer(Box<dyn PartitionWriter>),
    /// Nothing to write: this run has committed the partition, with this receipt.
    Already(Receipt),
}

/// A file that no reader needs any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removable {
    /// Where it is, relative to the table.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Whether a run had only staged it.
    pub staged: bool,
}

/// What [`Sink::vacuum`] has removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Files that the table no longer has, and their bytes.
    pub files: u64,
    /// In bytes.
    pub bytes: u64,
    /// Files that were only staged.
    pub staged_files: u64,
    /// In bytes.
    pub staged_bytes: u64,
    /// The first of them, at most [`Vacuumed::LISTED_MAX`].
    pub listed: Vec<Removable>,
}

impl Vacuumed {
    /// Files that are named.
    pub const LISTED_MAX: usize = 1000;

    /// Counts one more.
    pub fn add(&mut self, removable: Removable) {
        let (files, bytes) = match removable.staged {
            true => (&mut self.staged_files, &mut self.staged_bytes),
            false => (&mut self.files, &mut self.bytes),
        };
        *files += 1;
        *bytes += removable.bytes;
        if self.listed.len() < Vacuumed::LISTED_MAX {
            self.listed.push(removable);
        }
    }
}

/// How a run ended, as the claim's last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every partition is committed.
    Done,
    /// Some partitions failed; what is committed stays.
    Partial,
    /// The operator gave it up; what was staged is discarded.
    Abandoned,
}

/// The half of a store that receives.
#[async_trait]
pub trait Sink: fmt::Debug + Send + Sync {
    /// What receiving rows of this schema means here.
    ///
    /// # Errors
    /// `Schema` if a column's type cannot be held without loss.
    fn limits(&self, schema: &SchemaRef) -> Result<SinkLimits>;

    /// Checks, before the agent takes calls, that this process can write to the store, and leaves nothing behind.
    ///
    /// # Errors
    /// `Config`, naming what cannot be written.
    async fn check_writable(&self) -> Result<()> {
        Ok(())
    }

    /// Declares for lost what a damaged ledger lacks, so that the table can be used again: its rows stay, those that the ledger does not know any more as rows that no run has put there, and the
    /// runs that have lost something can never go on. Answers with how many events of the ledger are lost; with 0 nothing was.
    ///
    /// # Errors
    /// `Refused` by an engine whose ledger cannot be damaged apart from its rows.
    async fn accept_loss(&self, table: &TableName) -> Result<u64> {
        Err(Error::refused(format!(
            "the ledger of table {table} cannot be lost apart from its rows in this engine"
        )))
    }

    /// The room for data, where that can be known.
    async fn space(&self) -> Result<Option<Space>>;

    /// Makes `table` able to take rows of `wanted` (its schema restricted to the run's columns, and its divisions), before any
    /// row moves; with `dry_run` only says what it would make. Safe to repeat.
    ///
    /// # Errors
    /// `Schema` if what is there does not fit, showing both sides. `Refused` if rows of this division cannot even be appended to the table's.
    async fn prepare(&self, table: &TableName, wanted: &Table, dry_run: bool) -> Result<Prepared>;

    /// Adds the columns of `wanted` that the table lacks, where there is a table, each able to be null: what is there already is null in them. Answers with their names; with
    /// `dry_run` that is all. Columns that divide `wanted` are never added. Safe to repeat.
    ///
    /// # Errors
    /// `Schema` if the table cannot hold such a column; `Unavailable` if other writers are always faster.
    async fn add_columns(
        &self,
        table: &TableName,
        wanted: &Table,
        dry_run: bool,
    ) -> Result<Vec<String>>;

    /// How the files of the table look that is there, or of the one that [`prepare`](Sink::prepare) would make for `wanted`, as [`Source::files_shape`] says it. `None` by an engine
    /// whose writers take no files.
    ///
    /// # Errors
    /// As [`prepare`](Sink::prepare).
    async fn files_shape(&self, table: &TableName, wanted: &Table) -> Result<Option<String>> {
        let _ = (table, wanted);
        Ok(None)
    }

    /// Takes or takes over the claim: raises the epoch in the store, reads the ledger, then discards what older attempts of
    /// this run staged and no position covers.
    ///
    /// # Errors
    /// `Refused` if another run's claim is open (naming it) or this run's claim has another job.
    async fn attach(&self, claim: &Claim) -> Result<Arc<dyn Attachment>>;

    /// The open claim on this table, if a run owns it. `None` too where there is no such table.
    async fn claim(&self, table: &TableName) -> Result<Option<Claim>>;

    /// The receipts in effect over all runs, in order of key, the newest of a partition last: those since it was last replaced or dropped, which together
    /// tell what runs have put there. None where there is no such table.
    async fn receipts(&self, table: &TableName) -> Result<Stream<Receipt>>;

    /// What B has of the partitions that can hold a selected row ([`Selection::excludes`]), and what its ledger says of each, in order of key, without reading
    /// rows. Nothing where there is no such table, and nothing of keys that are not of the table's own division.
    async fn holdings(&self, table: &TableName, selection: &Selection) -> Result<Stream<Holding>>;

    /// Removes what no reader needs any more and nobody has needed since `before_ms` (milliseconds since 1970): what replaced or dropped partitions left, and what runs without
    /// a claim have staged. Never what an open claim has staged. With `dry_run` only says what that is. Safe to repeat.
    ///
    /// # Errors
    /// `Refused` where the engine tidies up by itself.
    async fn vacuum(&self, table: &TableName, before_ms: i64, dry_run: bool) -> Result<Vacuumed> {
        let _ = (before_ms, dry_run);
        Err(Error::refused(format!(
            "table {table}: this engine has nothing to vacuum"
        )))
    }
}

/// One attempt of one run on one table: the only way to write. Every act is conditional on its epoch in the
/// store, within the same act.
#[async_trait]
pub trait Attachment: fmt::Debug + Send + Sync {
    /// The epoch that `attach` issued.
    fn epoch(&self) -> Epoch;

    /// What the store held when this attempt began, in order of key: this run's positions, among them the partitions it has removed and not written since, and for each
    /// partition that it has not committed those that other runs have committed and that are in effect ([`Sink::receipts`]), the newest last. A partition that this run has staged and others
    /// have committed has both, the committed ones first.
    async fn positions(&self) -> Result<Stream<Position>>;

    /// Opens a partition for writing, after `from` or from the start; what is staged beyond that is discarded. One writer
    /// per partition at a time.
    ///
    /// # Errors
    /// `Fenced`. `Corrupt` if `from` is not a position that the store holds. `Refused` if B cannot hold the key, by name; of a key that is not of the table's
    /// division, only if rows would be replaced or cannot be told apart.
    async fn begin(
        &self,
        partition: &Partition,
        disposition: Disposition,
        from: Option<&Position>,
    ) -> Result<Begun>;

    /// Removes a partition of B, visibly in one act. For `mirror` only.
    async fn drop_partition(&self, key: &PartitionKey) -> Result<()>;

    /// Writes into the ledger that these partitions are what their receipts say, in one act: each receipt takes the place of those in effect before. Partitions that are
    /// of another version by then are left out. They are no positions of this run.
    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<()>;

    /// Ends the claim, and with it this attempt: its later acts are `Fenced`, and what is late of them leaves nothing that counts. Repeating
    /// it is harmless.
    async fn complete(&self, outcome: Outcome) -> Result<()>;
}

/// One partition being written. Dropping it is a crash.
#[async_trait]
pub trait PartitionWriter: fmt::Debug + Send {
    /// Gives rows to the engine; returns when it has taken them, not when they are durable.
    ///
    /// # Errors
    /// `Refused` for a value that B cannot hold, naming column and row number.
    async fn append(&mut self, records: RecordBatch) -> Result<()>;

    /// The same for a file that is taken as it is: its next bytes. All rows of it are of the partition, which comes as rows or as files and never as both. With its last bytes it is
    /// found out whether it is what it is said to be. No checkpoint comes inside a file.
    ///
    /// # Errors
    /// `Corrupt` if it is no whole file of so many rows, `Schema` if its columns are not the table's.
    async fn append_file(&mut self, file: &TableFile, bytes: Bytes) -> Result<()> {
        let _ = (file, bytes);
        Err(Error::internal("this engine takes no files"))
    }

    /// Everything appended so far survives a crash from here on, with this cursor; not yet visible. `sequence`, `rows` and `digest` cover
    /// the partition from its start.
    async fn checkpoint(&mut self, mark: Mark) -> Result<Position>;

    /// No more rows come: lets go of what writing them took. Returns the bytes that the writer holds from here on until `finish` has answered, at most. Only
    /// `finish` may follow; it seals by itself where nobody has.
    ///
    /// # Errors
    /// As `append`.
    async fn seal(&mut self) -> Result<u64> {
        Ok(0)
    }

    /// Publishes everything appended: one act with the ledger entry. The last rows need no checkpoint
    /// before it.
    ///
    /// # Errors
    /// `Corrupt` if the ledger has another receipt for this partition. Any error means "unknown" (see the module).
    async fn finish(self: Box<Self>, receipt: Receipt) -> Result<Finished>;
}

/// Where a checkpoint stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Frames since the partition's start.
    pub sequence: u64,
    /// The place after the last row.
    pub cursor: Cursor,
    /// Rows since the partition's start.
    pub rows: u64,
    /// Their digest.
    pub digest: Digest,
}

/// A store: both halves of one engine, opened by URL.
#[derive(Clone, Debug)]
pub struct Store {
    /// The half that is read.
    pub source: Arc<dyn Source>,
    /// The half that receives.
    pub sink: Arc<dyn Sink>,
}
