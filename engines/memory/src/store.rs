//! What survives every crash, and how a test looks at it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::SchemaRef;
use strait_common::engine::{
    Claim, Disposition, Division, Mark, Origin, Partition, Position, PositionState, Receipt, Store,
    Table, Version,
};
use strait_common::frame::slice_bytes;
use strait_common::ids::{RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::{Error, Kind, OrError, Result};

use crate::rows::{Row, canonical_rows};
use crate::{MemorySink, MemorySource};

/// A store in memory. Clones share it; [`snapshot`](MemoryStore::snapshot) copies it.
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) tables: BTreeMap<TableName, TableState>,
    /// Counts changes of partitions: each one's number is the partition's version, so no version occurs twice.
    changes: u64,
    /// Counts writers, so that one that was replaced is told from the one in its place.
    pub(crate) writers: u64,
}

#[derive(Clone)]
pub(crate) struct TableState {
    pub(crate) table: Table,
    pub(crate) partitions: BTreeMap<PartitionKey, Visible>,
    /// The entries of each partition, the newest last.
    pub(crate) ledger: BTreeMap<PartitionKey, Vec<Entry>>,
    pub(crate) epoch: u64,
    /// The last claim and whether it is open.
    pub(crate) claim: Option<(Claim, bool)>,
    pub(crate) staged: BTreeMap<(RunId, PartitionKey), Staged>,
    /// The partitions that a run has removed and not written since.
    pub(crate) dropped: BTreeSet<(RunId, PartitionKey)>,
}

/// The rows of a partition that readers see.
#[derive(Clone)]
pub(crate) struct Visible {
    pub(crate) change: u64,
    pub(crate) batches: Vec<RecordBatch>,
}

/// A line of the ledger.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) run: RunId,
    pub(crate) receipt: Receipt,
    pub(crate) act: Act,
    /// The version that readers see since.
    pub(crate) version: Option<Version>,
    /// Whether all rows of that version are those of the entries in effect.
    pub(crate) whole: bool,
}

/// How an entry came to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Published(Disposition),
    /// What was there was found equal.
    Confirmed,
}

/// Those of a partition's entries that tell what is there: since it was last replaced or found equal.
pub(crate) fn in_effect(entries: &[Entry]) -> &[Entry] {
    let anew = |entry: &Entry| entry.act != Act::Published(Disposition::Append);
    &entries[entries.iter().rposition(anew).unwrap_or(0)..]
}

/// A partition that is begun and not published.
#[derive(Clone)]
pub(crate) struct Staged {
    pub(crate) version: Version,
    /// Which writer may go on with it.
    pub(crate) writer: u64,
    pub(crate) chunks: Vec<Chunk>,
}

/// Rows between two checkpoints.
#[derive(Clone)]
pub(crate) struct Chunk {
    pub(crate) mark: Mark,
    pub(crate) batches: Vec<RecordBatch>,
}

impl Staged {
    /// The rows of all its chunks.
    pub(crate) fn batches(&self) -> Vec<RecordBatch> {
        let chunks = self.chunks.iter();
        chunks
            .flat_map(|chunk| chunk.batches.iter().cloned())
            .collect()
    }
}

impl Visible {
    pub(crate) fn version(&self) -> Version {
        Version(format!("m{}", self.change))
    }

    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

impl State {
    /// Names the tables there are, for an operator who asked for another.
    pub(crate) fn table(&self, name: &TableName) -> Result<&TableState> {
        self.tables.get(name).ok_or_else(|| self.no_table(name))
    }

    pub(crate) fn table_mut(&mut self, name: &TableName) -> Result<&mut TableState> {
        if !self.tables.contains_key(name) {
            return Err(self.no_table(name));
        }
        self.tables
            .get_mut(name)
            .ok_or_else(|| Error::internal("a table vanished under its lock"))
    }

    fn no_table(&self, name: &TableName) -> Error {
        let names: Vec<String> = self.tables.keys().map(TableName::to_string).collect();
        Error::config(format!(
            "no table {name}; there are: {}",
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        ))
    }

    /// Changes what readers see of a partition; it gets a new version unless nothing changes.
    pub(crate) fn publish(
        &mut self,
        name: &TableName,
        key: &PartitionKey,
        replace: bool,
        batches: Vec<RecordBatch>,
    ) -> Result<()> {
        let change = self.changes + 1;
        let partitions = &mut self.table_mut(name)?.partitions;
        let mut rows = match (replace, partitions.get(key)) {
            (false, Some(before)) => before.batches.clone(),
            _ => Vec::new(),
        };
        let added: Vec<RecordBatch> = batches.into_iter().filter(|b| b.num_rows() > 0).collect();
        if added.is_empty() && !replace {
            return Ok(());
        }
        rows.extend(added);
        if rows.is_empty() {
            partitions.remove(key);
        } else {
            let visible = Visible {
                change,
                batches: rows,
            };
            partitions.insert(key.clone(), visible);
        }
        self.changes = change;
        Ok(())
    }
}

impl TableState {
    pub(crate) fn new(table: Table) -> TableState {
        TableState {
            table,
            partitions: BTreeMap::new(),
            ledger: BTreeMap::new(),
            epoch: 0,
            claim: None,
            staged: BTreeMap::new(),
            dropped: BTreeSet::new(),
        }
    }

    /// The version of a partition that readers see.
    pub(crate) fn version(&self, key: &PartitionKey) -> Option<Version> {
        self.partitions.get(key).map(Visible::version)
    }

    /// A partition as readers see it.
    pub(crate) fn partition(&self, key: &PartitionKey) -> Option<Partition> {
        let visible = self.partitions.get(key)?;
        let bytes = visible.batches.iter().map(slice_bytes).sum();
        Some(Partition {
            key: key.clone(),
            rows: Some(visible.rows() as u64),
            bytes: Some(bytes),
            version: visible.version(),
            pin: String::new(),
            origin: Origin {
                table: format!("memory:{}", self.table.name),
                // The only clock here counts changes.
                seen: i64::try_from(visible.change).unwrap_or(i64::MAX),
            },
        })
    }

    /// Whether the rows of a partition are those of its entries in effect and no others.
    pub(crate) fn is_intact(&self, key: &PartitionKey) -> bool {
        let entries = self.ledger.get(key).map_or(&[][..], Vec::as_slice);
        let version = self.version(key);
        match in_effect(entries).last() {
            Some(last) => last.whole && last.version == version,
            None => version.is_none(),
        }
    }

    /// This run's receipt of the partition, if it has committed it.
    pub(crate) fn receipt(&self, run: RunId, key: &PartitionKey) -> Option<&Receipt> {
        let entries = self.ledger.get(key)?;
        entries
            .iter()
            .rev()
            .find(|entry| entry.run == run && entry.act != Act::Confirmed)
            .map(|entry| &entry.receipt)
    }

    /// This run's positions, and those that others have committed of the other partitions and that are in effect, in order of key; a partition that this
    /// run has staged and others have committed has both, the committed ones first.
    pub(crate) fn positions(&self, run: RunId) -> Vec<Position> {
        let mut positions: BTreeMap<PartitionKey, Vec<Position>> = BTreeMap::new();
        for (key, entries) in &self.ledger {
            let positions = positions.entry(key.clone()).or_default();
            match self.receipt(run, key) {
                Some(own) => positions.push(Position::committed(run, own)),
                None => {
                    let others = in_effect(entries).iter().filter(|entry| entry.run != run);
                    positions
                        .extend(others.map(|entry| Position::committed(entry.run, &entry.receipt)));
                }
            }
        }
        for (_, key) in self.dropped.iter().filter(|(owner, _)| *owner == run) {
            let positions = positions.entry(key.clone()).or_default();
            positions.push(Position::dropped(run, key.clone()));
        }
        for ((owner, key), staged) in &self.staged {
            if *owner == run
                && self.receipt(run, key).is_none()
                && let Some(chunk) = staged.chunks.last()
            {
                let position = staged_at(run, key, staged, &chunk.mark);
                positions.entry(key.clone()).or_default().push(position);
            }
        }
        positions.into_values().flatten().collect()
    }
}

pub(crate) fn staged_at(run: RunId, key: &PartitionKey, staged: &Staged, mark: &Mark) -> Position {
    Position {
        run,
        key: key.clone(),
        version: staged.version.clone(),
        sequence: mark.sequence,
        cursor: mark.cursor.clone(),
        rows: mark.rows,
        digest: mark.digest,
        state: PositionState::Staged,
    }
}

/// The batch with the columns of `schema`, in that order; a column that it lacks is null.
///
/// # Errors
/// `Schema` if a column has another type, is unknown to `schema`, or is absent and may not be null.
pub(crate) fn fit(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let given = batch.schema();
    for field in given.fields() {
        if schema.field_with_name(field.name()).is_err() {
            return Err(Error::schema(format!(
                "column {}: the table has none of that name",
                field.name()
            )));
        }
    }
    let columns = schema.fields().iter().map(|field| {
        let column = match batch.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        };
        if column.data_type() == field.data_type() {
            Ok(column)
        } else {
            Err(Error::schema(format!(
                "column {}: {} does not fit {}",
                field.name(),
                column.data_type(),
                field.data_type()
            )))
        }
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .or_error(Kind::Schema, "rows that do not fit the table")
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A copy that goes its own way from here: what the store would be if nothing more had happened to it. Rows are shared, so it is cheap.
    #[must_use]
    pub fn snapshot(&self) -> MemoryStore {
        let state = self.lock().clone();
        MemoryStore {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Both halves, as a process that just started sees them.
    pub fn open(&self) -> Store {
        Store {
            source: Arc::new(MemorySource::open(self)),
            sink: Arc::new(MemorySink::open(self)),
        }
    }

    /// Makes a table without rows.
    ///
    /// # Errors
    /// `Config` if there is one of this name, or a division names no column.
    pub fn create_table(
        &self,
        name: &TableName,
        schema: SchemaRef,
        divisions: Vec<Division>,
    ) -> Result<()> {
        for division in &divisions {
            schema
                .index_of(&division.column)
                .or_error(Kind::Config, format!("division of table {name}"))?;
        }
        let mut state = self.lock();
        if state.tables.contains_key(name) {
            return Err(Error::config(format!("table {name} exists")));
        }
        let table = Table {
            name: name.clone(),
            schema,
            divisions,
            recipe: None,
        };
        state.tables.insert(name.clone(), TableState::new(table));
        Ok(())
    }

    /// Adds rows to a partition, as the users of a cluster do; its version changes.
    ///
    /// # Errors
    /// `Config` if there is no such table, `Schema` if the rows do not fit it.
    pub fn insert(&self, name: &TableName, key: &PartitionKey, rows: &RecordBatch) -> Result<()> {
        let mut state = self.lock();
        let rows = fit(rows, &state.table(name)?.table.schema)?;
        state.publish(name, key, false, vec![rows])
    }

    /// Puts rows in the place of a partition's rows; its version changes. Without rows the partition is gone.
    ///
    /// # Errors
    /// `Config` if there is no such table, `Schema` if the rows do not fit it.
    pub fn replace(&self, name: &TableName, key: &PartitionKey, rows: &RecordBatch) -> Result<()> {
        let mut state = self.lock();
        let rows = fit(rows, &state.table(name)?.table.schema)?;
        state.publish(name, key, true, vec![rows])
    }

    /// Every row that a reader of the table sees, sorted; a row that is there twice is there twice. None where there is no such table.
    ///
    /// # Errors
    /// `Schema` if a column's type has no text.
    pub fn rows(&self, name: &TableName) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for key in self.partition_keys(name) {
            rows.extend(self.partition_rows(name, &key)?);
        }
        rows.sort();
        Ok(rows)
    }

    /// Every row that a reader of this partition sees, in stored order.
    ///
    /// # Errors
    /// `Schema` if a column's type has no text.
    pub fn partition_rows(&self, name: &TableName, key: &PartitionKey) -> Result<Vec<Row>> {
        let batches = self.batches(name, key);
        let rows = batches
            .iter()
            .map(canonical_rows)
            .collect::<Result<Vec<_>>>()?;
        Ok(rows.concat())
    }

    /// The rows that a reader of this partition sees, as they were appended.
    pub fn batches(&self, name: &TableName, key: &PartitionKey) -> Vec<RecordBatch> {
        let state = self.lock();
        let table = state.tables.get(name);
        let partition = table.and_then(|table| table.partitions.get(key));
        partition.map_or_else(Vec::new, |partition| partition.batches.clone())
    }

    /// The keys of the partitions that readers see, in order; none where there is no such table.
    pub fn partition_keys(&self, name: &TableName) -> Vec<PartitionKey> {
        let state = self.lock();
        let table = state.tables.get(name);
        table.map_or_else(Vec::new, |table| table.partitions.keys().cloned().collect())
    }

    /// The version of a partition that readers see.
    pub fn version(&self, name: &TableName, key: &PartitionKey) -> Option<Version> {
        let state = self.lock();
        Some(state.tables.get(name)?.partitions.get(key)?.version())
    }

    /// The run whose replacement is all that this partition holds, or that has found it equal, with its receipt.
    pub fn replaced_by(&self, name: &TableName, key: &PartitionKey) -> Option<(RunId, Receipt)> {
        let state = self.lock();
        let entries = state.tables.get(name)?.ledger.get(key)?;
        let newest = entries.last()?;
        (newest.act != Act::Published(Disposition::Append))
            .then(|| (newest.run, newest.receipt.clone()))
    }

    /// How many rows are durable and not visible, over all runs.
    pub fn staged_rows(&self, name: &TableName) -> usize {
        let state = self.lock();
        let table = state.tables.get(name);
        let chunks = table.into_iter().flat_map(|table| {
            table
                .staged
                .values()
                .flat_map(|staged| staged.chunks.iter().flat_map(|chunk| &chunk.batches))
        });
        chunks.map(RecordBatch::num_rows).sum()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let mut map = f.debug_map();
        for (name, table) in &state.tables {
            let rows: usize = table.partitions.values().map(Visible::rows).sum();
            let text = format!(
                "{rows} rows in {} partitions, epoch {}",
                table.partitions.len(),
                table.epoch
            );
            map.entry(&name.to_string(), &text);
        }
        map.finish()
    }
}
