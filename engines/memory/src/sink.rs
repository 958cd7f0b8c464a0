//! The half that receives: one process on a store, its attachments and its writers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use strait_common::division::{check_key, division_text};
use strait_common::engine::{
    Attachment, Begun, Claim, Confirmed, Disposition, Division, Finished, Holding, Mark, Outcome,
    Partition, PartitionWriter, Position, PositionState, Prepared, Publish, Receipt, Sink,
    SinkLimits, Space, Stream, Table, TableFile, Version,
};
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::regroup::{can_tell_apart, split, value_columns};
use strait_common::selection::Selection;
use strait_common::{Error, Result};

use crate::files::{self, Coming};
use crate::steps::Steps;
use crate::store::{
    Act, Chunk, Entry, MemoryStore, Staged, State, TableState, fit, in_effect, staged_at,
};

/// A rule of exactly once, broken by [`MemorySink::breaking`] to prove that a test notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Acts are not conditional on the epoch: an older attempt goes on writing.
    NoFence,
    /// `finish` makes the rows visible in one act and writes the ledger in the next.
    LedgerApartFromRows,
    /// The epoch is raised and checked in the sink process alone: another process does not know of it.
    EpochInProcess,
    /// `checkpoint` records the position before the rows that it covers are durable.
    AckBeforeDurable,
    /// `begin` goes on from a position that was made from another version.
    PositionWithoutVersion,
    /// `attach` does not look at another run's open claim.
    NoClaim,
    /// A run keeps its epoch over all its attempts: only another run's `attach` raises it.
    EpochPerRun,
    /// `attach` does not compare the job with that of the run's claim.
    JobNotCompared,
    /// `finish` looks at the epoch in one act and publishes in the next, whatever came in between.
    FenceBeforeAct,
    /// An attempt may go on writing after it has ended its claim.
    OpenAfterEnd,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Rule; 10] = [
        Rule::NoFence,
        Rule::LedgerApartFromRows,
        Rule::EpochInProcess,
        Rule::AckBeforeDurable,
        Rule::PositionWithoutVersion,
        Rule::NoClaim,
        Rule::EpochPerRun,
        Rule::JobNotCompared,
        Rule::FenceBeforeAct,
        Rule::OpenAfterEnd,
    ];
}

/// One process that writes to a [`MemoryStore`]. Clones are the same process; [`open`](MemorySink::open) starts another.
#[derive(Clone)]
pub struct MemorySink {
    process: Arc<Process>,
}

struct Process {
    store: MemoryStore,
    steps: Arc<Steps>,
    broken: Option<Rule>,
    /// The epochs that this process issued, where [`Rule::EpochInProcess`] makes them count.
    epochs: Mutex<BTreeMap<TableName, u64>>,
}

impl MemorySink {
    /// A process that keeps every rule.
    pub fn open(store: &MemoryStore) -> MemorySink {
        MemorySink::started(store, None)
    }

    /// A process that breaks one rule, to prove that a test would notice.
    pub fn breaking(store: &MemoryStore, rule: Rule) -> MemorySink {
        MemorySink::started(store, Some(rule))
    }

    fn started(store: &MemoryStore, broken: Option<Rule>) -> MemorySink {
        MemorySink {
            process: Arc::new(Process {
                store: store.clone(),
                steps: Arc::new(Steps::default()),
                broken,
                epochs: Mutex::default(),
            }),
        }
    }

    /// The steps of this process, to end it at one of them.
    pub fn steps(&self) -> Arc<Steps> {
        Arc::clone(&self.process.steps)
    }
}

impl fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory ({:?})", self.process.steps)
    }
}

impl Process {
    fn breaks(&self, rule: Rule) -> bool {
        self.broken == Some(rule)
    }

    fn epochs(&self) -> MutexGuard<'_, BTreeMap<TableName, u64>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One act on the store: a step, then `act` under the lock, whole.
    fn act<T>(&self, name: &'static str, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.steps.take(name)?;
        act(&mut self.store.lock())
    }

    /// Raises the epoch and takes the claim, in one act, since a crash between the two would leave either alone.
    fn take_claim(&self, state: &mut State, claim: &Claim) -> Result<Epoch> {
        let table = state.table_mut(&claim.table)?;
        let mut taken = claim.clone();
        if let Some((held, open)) = &table.claim {
            if held.run == claim.run {
                if held.job != claim.job && !self.breaks(Rule::JobNotCompared) {
                    return Err(Error::refused(format!(
                        "run {} of table {} has another job; start a new run for it",
                        claim.run, claim.table
                    )));
                }
                taken.taken_at = held.taken_at;
            } else if *open && !self.breaks(Rule::NoClaim) {
                return Err(Error::refused(format!(
                    "run {} owns table {}; wait for it, or abandon it",
                    held.run, claim.table
                )));
            }
        }
        let same = matches!(&table.claim, Some((held, _)) if held.run == claim.run);
        table.claim = Some((taken, true));
        if same && self.breaks(Rule::EpochPerRun) {
            return Ok(Epoch(table.epoch));
        }
        if self.breaks(Rule::EpochInProcess) {
            let mut epochs = self.epochs();
            let epoch = epochs.entry(claim.table.clone()).or_default();
            *epoch += 1;
            return Ok(Epoch(*epoch));
        }
        table.epoch += 1;
        Ok(Epoch(table.epoch))
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn limits(&self, _schema: &SchemaRef) -> Result<SinkLimits> {
        Ok(SinkLimits {
            value_rules: Vec::new(),
            publish: Publish::Atomic,
            // Rows belong to the store from the moment they are appended, and a store in memory has no bound.
            writer_bytes: 0,
        })
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    async fn prepare(&self, table: &TableName, wanted: &Table, dry_run: bool) -> Result<Prepared> {
        let prepared = self.process.act("prepare the table", |state| {
            if let Some(held) = state.tables.get(table) {
                let divided_otherwise = fits(&held.table, wanted)?;
                let fields = held.table.schema.fields().iter();
                let lacking = fields.filter(|field| wanted.schema.index_of(field.name()).is_err());
                return Ok(Prepared {
                    lacking: lacking.map(|field| field.name().clone()).collect(),
                    foreign: held.claim.is_none() && !held.partitions.is_empty(),
                    divided_otherwise,
                    ..Prepared::default()
                });
            }
            let mut created = Vec::new();
            let database = table.database();
            if !state.tables.keys().any(|name| name.database() == database) {
                created.push(format!("database {database}"));
            }
            created.push(format!("table {table}"));
            if !dry_run {
                let mut made = wanted.clone();
                made.name = table.clone();
                state.tables.insert(table.clone(), TableState::new(made));
            }
            Ok(Prepared {
                created,
                ..Prepared::default()
            })
        })?;
        self.process.steps.take("return from prepare")?;
        Ok(prepared)
    }

    async fn add_columns(
        &self,
        table: &TableName,
        wanted: &Table,
        dry_run: bool,
    ) -> Result<Vec<String>> {
        let added = self.process.act("add columns", |state| {
            let Some(held) = state.tables.get_mut(table) else {
                return Ok(Vec::new());
            };
            let fields = wanted.schema.fields().iter();
            let missing = fields.filter(|field| held.table.schema.index_of(field.name()).is_err());
            let missing: Vec<_> = missing.cloned().collect();
            let names = missing.iter().map(|field| field.name().clone());
            let names: Vec<String> = names.collect();
            let divides = |name: &String| {
                let mut divisions = wanted.divisions.iter();
                divisions.any(|division| division.column == *name)
            };
            if names.iter().any(divides) {
                return Ok(Vec::new());
            }
            if !dry_run && !names.is_empty() {
                let before = held.table.schema.fields().iter().cloned();
                let missing = missing
                    .iter()
                    .map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
                let schema = Arc::new(Schema::new(before.chain(missing).collect::<Vec<_>>()));
                for partition in held.partitions.values_mut() {
                    for batch in &mut partition.batches {
                        *batch = fit(batch, &schema)?;
                    }
                }
                held.table.schema = schema;
            }
            Ok(names)
        })?;
        self.process.steps.take("return from add_columns")?;
        Ok(added)
    }

    async fn files_shape(&self, table: &TableName, wanted: &Table) -> Result<Option<String>> {
        self.process.act("look at the table", |state| {
            let there = state.tables.get(table).map(|held| &held.table);
            Ok(Some(files::shape(there.unwrap_or(wanted))))
        })
    }

    async fn attach(&self, claim: &Claim) -> Result<Arc<dyn Attachment>> {
        let process = Arc::clone(&self.process);
        let epoch = process.act("raise the epoch", |state| process.take_claim(state, claim))?;
        let mut attachment = MemoryAttachment {
            process,
            table: claim.table.clone(),
            run: claim.run,
            epoch,
            positions: Vec::new(),
        };
        // The epoch is raised: no older attempt can change what is read now.
        attachment.positions = attachment.act("read the ledger", |state| {
            Ok(state.table(&claim.table)?.positions(claim.run))
        })?;
        attachment.act("discard what no position covers", |state| {
            let staged = &mut state.table_mut(&claim.table)?.staged;
            staged.retain(|(run, _), staged| *run != claim.run || !staged.chunks.is_empty());
            Ok(())
        })?;
        attachment.process.steps.take("return from attach")?;
        Ok(Arc::new(attachment))
    }

    async fn claim(&self, table: &TableName) -> Result<Option<Claim>> {
        self.process.act("look at the claim", |state| {
            let held = state.tables.get(table).and_then(|held| held.claim.as_ref());
            Ok(held
                .filter(|(_, open)| *open)
                .map(|(claim, _)| claim.clone()))
        })
    }

    async fn receipts(&self, table: &TableName) -> Result<Stream<Receipt>> {
        let receipts = self.process.act("read the receipts", |state| {
            let table = state.tables.get(table);
            let entries = table.into_iter().flat_map(|table| table.ledger.values());
            Ok(entries
                .flat_map(|entries| in_effect(entries))
                .map(|entry| Ok(entry.receipt.clone()))
                .collect::<Vec<_>>())
        })?;
        Ok(stream::iter(receipts).boxed())
    }

    async fn holdings(&self, table: &TableName, selection: &Selection) -> Result<Stream<Holding>> {
        let holdings = self.process.act("read what is there", |state| {
            let Some(table) = state.tables.get(table) else {
                return Ok(Vec::new());
            };
            let keys: BTreeSet<_> = table.partitions.keys().chain(table.ledger.keys()).collect();
            let shape = &table.table;
            let own = |key: &PartitionKey| check_key(&shape.divisions, &shape.schema, key).is_ok();
            let selected = keys.into_iter();
            let selected = selected.filter(|key| own(key) && !selection.excludes(key));
            Ok(selected.map(|key| Ok(holding(table, key))).collect())
        })?;
        Ok(stream::iter(holdings).boxed())
    }
}

fn holding(table: &TableState, key: &PartitionKey) -> Holding {
    let entries = table
        .ledger
        .get(key)
        .map_or(&[][..], |entries| in_effect(entries));
    Holding {
        key: key.clone(),
        partition: table.partition(key),
        receipts: entries.iter().map(|entry| entry.receipt.clone()).collect(),
        intact: !entries.is_empty() && table.is_intact(key),
    }
}

/// Whether rows of `wanted` can be put into the table that is there. How it is divided, where that is otherwise.
fn fits(held: &Table, wanted: &Table) -> Result<Option<String>> {
    let name = &held.name;
    for field in wanted.schema.fields() {
        let here = held.schema.field_with_name(field.name()).ok();
        if here.map(|here| here.data_type()) != Some(field.data_type()) {
            return Err(Error::schema(format!(
                "column {} of table {name} is {} here and {} there",
                field.name(),
                here.map_or_else(|| "absent".to_owned(), |here| here.data_type().to_string()),
                field.data_type(),
            )));
        }
        if field.is_nullable() && here.is_some_and(|here| !here.is_nullable()) {
            return Err(Error::schema(format!(
                "column {} of table {name} may be null there and must not be here",
                field.name()
            )));
        }
    }
    for field in held.schema.fields() {
        let absent = wanted.schema.field_with_name(field.name()).is_err();
        if absent && !field.is_nullable() {
            return Err(Error::schema(format!(
                "column {} of table {name} may not be null here and is not copied; select it",
                field.name()
            )));
        }
    }
    Ok(otherwise(held, wanted)?.map(division_text))
}

/// The table's division, if it is another one.
///
/// # Errors
/// `Refused` if rows of the other cannot be told apart by it.
fn otherwise<'a>(held: &'a Table, wanted: &Table) -> Result<Option<&'a [Division]>> {
    if held.divisions == wanted.divisions {
        return Ok(None);
    }
    let sent = |column: &String| {
        let field = wanted.schema.field_with_name(column);
        field.is_ok_and(|field| can_tell_apart(field.data_type()))
    };
    if value_columns(&held.divisions).is_some_and(|columns| columns.iter().all(sent)) {
        return Ok(Some(&held.divisions));
    }
    Err(Error::refused(format!(
        "table {} is divided by ({}) here and by ({}) there, and rows that come cannot be told apart by it; make it anew",
        held.name,
        division_text(&held.divisions),
        division_text(&wanted.divisions)
    )))
}

/// One attempt of one run on one table.
struct MemoryAttachment {
    process: Arc<Process>,
    table: TableName,
    run: RunId,
    epoch: Epoch,
    positions: Vec<Position>,
}

impl MemoryAttachment {
    /// One act that happens only if no later attempt has begun.
    fn act<T>(&self, name: &'static str, act: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.process.act(name, |state| {
            let table = state.table(&self.table)?;
            self.fence(table)?;
            self.claimed(table)?;
            act(state)
        })
    }

    fn fence(&self, table: &TableState) -> Result<()> {
        let newest = if self.process.breaks(Rule::NoFence) {
            return Ok(());
        } else if self.process.breaks(Rule::EpochInProcess) {
            self.process.epochs().get(&self.table).copied().unwrap_or(0)
        } else {
            table.epoch
        };
        if newest == self.epoch.0 {
            return Ok(());
        }
        Err(self.fenced(newest, table))
    }

    /// The claim must be open still: whoever has ended it writes no more, whatever of theirs is late.
    fn claimed(&self, table: &TableState) -> Result<()> {
        let open = matches!(&table.claim, Some((claim, true)) if claim.run == self.run);
        if open
            || self.process.breaks(Rule::OpenAfterEnd)
            || self.process.breaks(Rule::NoClaim)
            || self.process.breaks(Rule::NoFence)
            || self.process.breaks(Rule::EpochInProcess)
        {
            return Ok(());
        }
        Err(Error::fenced(format!(
            "run {} has ended its claim on table {}",
            self.run, self.table
        )))
    }

    fn fenced(&self, newest: u64, table: &TableState) -> Error {
        let by = table.claim.as_ref().map(|(claim, _)| claim);
        Error::fenced(format!(
            "epoch {} of table {} is over: epoch {newest} of run {} by {} took its place",
            self.epoch,
            self.table,
            by.map_or_else(|| "?".to_owned(), |claim| claim.run.to_string()),
            by.map_or("?", |claim| claim.agent.as_str()),
        ))
    }
}

impl fmt::Debug for MemoryAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {} at epoch {}", self.run.short(), self.epoch)
    }
}

#[async_trait]
impl Attachment for MemoryAttachment {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    async fn positions(&self) -> Result<Stream<Position>> {
        let positions: Vec<_> = self.positions.iter().cloned().map(Ok).collect();
        Ok(stream::iter(positions).boxed())
    }

    async fn begin(
        &self,
        partition: &Partition,
        disposition: Disposition,
        from: Option<&Position>,
    ) -> Result<Begun> {
        let key = &partition.key;
        let owner = (self.run, key.clone());
        let begun = self.act("begin the partition", |state| {
            state.writers += 1;
            let writer = state.writers;
            let table = state.table_mut(&self.table)?;
            if let Some(receipt) = table.receipt(self.run, key) {
                return Ok(Err(receipt.clone()));
            }
            check_place(&table.table, key, disposition)?;
            let chunks = match from {
                None => Vec::new(),
                Some(from) => {
                    let any_version = self.process.breaks(Rule::PositionWithoutVersion);
                    let staged = table.staged.get(&owner);
                    chunks_until(staged, from, partition, any_version).ok_or_else(|| {
                        Error::corrupt(format!(
                            "partition {} at version {}: the store holds no position after {} frames of version {}",
                            key.label(),
                            partition.version,
                            from.sequence,
                            from.version
                        ))
                    })?
                }
            };
            let staged = Staged {
                version: partition.version.clone(),
                writer,
                chunks,
            };
            table.staged.insert(owner, staged);
            Ok(Ok((writer, Arc::clone(&table.table.schema))))
        })?;
        self.process.steps.take("return from begin")?;
        Ok(match begun {
            Err(receipt) => Begun::Already(receipt),
            Ok((writer, schema)) => Begun::Writer(Box::new(MemoryWriter {
                attachment: MemoryAttachment {
                    process: Arc::clone(&self.process),
                    table: self.table.clone(),
                    run: self.run,
                    epoch: self.epoch,
                    positions: Vec::new(),
                },
                key: key.clone(),
                version: partition.version.clone(),
                disposition,
                writer,
                schema,
                volatile: Vec::new(),
                coming: Coming::default(),
                owed: Vec::new(),
            })),
        })
    }

    async fn drop_partition(&self, key: &PartitionKey) -> Result<()> {
        self.act("drop the partition", |state| {
            state.publish(&self.table, key, true, Vec::new())?;
            let table = state.table_mut(&self.table)?;
            // Its receipts go in the same act: they say that rows are here, and a later run would believe them.
            table.ledger.remove(key);
            table.dropped.insert((self.run, key.clone()));
            Ok(())
        })?;
        self.process.steps.take("return from drop_partition")
    }

    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<()> {
        self.act("write what was found equal", |state| {
            let table = state.table_mut(&self.table)?;
            for confirmed in confirmed {
                let key = &confirmed.receipt.key;
                let version = table.version(key);
                if version.as_ref() == Some(&confirmed.version) {
                    table.ledger.entry(key.clone()).or_default().push(Entry {
                        run: self.run,
                        receipt: confirmed.receipt.clone(),
                        act: Act::Confirmed,
                        version,
                        whole: true,
                    });
                }
            }
            Ok(())
        })?;
        self.process.steps.take("return from confirm")
    }

    async fn complete(&self, _outcome: Outcome) -> Result<()> {
        self.process.act("end the claim", |state| {
            // Not that the claim is open: ending it twice is harmless.
            self.fence(state.table(&self.table)?)?;
            let table = state.table_mut(&self.table)?;
            if let Some((_, open)) = &mut table.claim {
                *open = false;
            }
            // No one goes on with a run that is over, however it ended.
            table.staged.retain(|(run, _), _| *run != self.run);
            Ok(())
        })?;
        self.process.steps.take("return from complete")
    }
}

/// Whether rows of this key have a place in the table: as its partition, or told apart by its own.
fn check_place(table: &Table, key: &PartitionKey, disposition: Disposition) -> Result<()> {
    let own = check_key(&table.divisions, &table.schema, key);
    let apart = disposition == Disposition::Append && value_columns(&table.divisions).is_some();
    if own.is_err() && apart {
        return Ok(());
    }
    own
}

/// The chunks up to and with that of `from`, if the store holds that position.
fn chunks_until(
    staged: Option<&Staged>,
    from: &Position,
    partition: &Partition,
    any_version: bool,
) -> Option<Vec<Chunk>> {
    let staged = staged?;
    let same_version = from.version == partition.version && from.version == staged.version;
    if !(same_version || any_version) || from.key != partition.key {
        return None;
    }
    let last = staged.chunks.iter().position(|chunk| {
        let mark = &chunk.mark;
        from.state == PositionState::Staged
            && (mark.sequence, mark.rows, mark.digest) == (from.sequence, from.rows, from.digest)
            && mark.cursor == from.cursor
    })?;
    Some(staged.chunks[..=last].to_vec())
}

/// One partition being written.
struct MemoryWriter {
    attachment: MemoryAttachment,
    key: PartitionKey,
    version: Version,
    disposition: Disposition,
    writer: u64,
    schema: SchemaRef,
    /// Rows since the last checkpoint: gone when the process is.
    volatile: Vec<RecordBatch>,
    /// A file of which not all has come.
    coming: Coming,
    /// Rows that a checkpoint has acknowledged and [`Rule::AckBeforeDurable`] has kept back.
    owed: Vec<RecordBatch>,
}

impl MemoryWriter {
    /// Makes rows visible: as the partition that they are of, or told apart by the table's own.
    fn place(&self, state: &mut State, batches: Vec<RecordBatch>) -> Result<()> {
        let name = &self.attachment.table;
        let replace = self.disposition == Disposition::Replace;
        let table = &state.table(name)?.table;
        let columns = match check_key(&table.divisions, &table.schema, &self.key) {
            Ok(()) => return state.publish(name, &self.key, replace, batches),
            Err(error) => value_columns(&table.divisions).ok_or(error)?,
        };
        for batch in batches {
            for (key, part) in split(&batch, &columns)? {
                state.publish(name, &key, false, vec![part])?;
            }
        }
        Ok(())
    }

    /// What this writer has staged, unless another writer took its place.
    fn staged<'a>(&self, table: &'a mut TableState) -> Result<&'a mut Staged> {
        let owner = (self.attachment.run, self.key.clone());
        let staged = table.staged.get_mut(&owner);
        staged
            .filter(|staged| staged.writer == self.writer)
            .ok_or_else(|| {
                Error::internal(format!(
                    "partition {} was begun again: this writer is no longer its writer",
                    self.key.label()
                ))
            })
    }
}

impl fmt::Debug for MemoryWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of {:?}", self.key.label(), self.attachment)
    }
}

#[async_trait]
impl PartitionWriter for MemoryWriter {
    async fn append(&mut self, records: RecordBatch) -> Result<()> {
        self.attachment.process.steps.take("append rows")?;
        let records = fit(&records, &self.schema)
            .map_err(|error| error.context(format!("table {}", self.attachment.table)))?;
        self.volatile.push(records);
        Ok(())
    }

    async fn append_file(&mut self, file: &TableFile, bytes: Bytes) -> Result<()> {
        self.attachment.process.steps.take("append a file")?;
        let rows = self.coming.append(&self.schema, file, &bytes)?;
        self.volatile.extend(rows);
        Ok(())
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Position> {
        let mut batches = std::mem::take(&mut self.volatile);
        if self.attachment.process.breaks(Rule::AckBeforeDurable) {
            batches = std::mem::replace(&mut self.owed, batches);
        }
        let position = self.attachment.act("make the rows durable", |state| {
            let table = state.table_mut(&self.attachment.table)?;
            let staged = self.staged(table)?;
            let position = staged_at(self.attachment.run, &self.key, staged, &mark);
            staged.chunks.push(Chunk { mark, batches });
            Ok(position)
        })?;
        self.attachment
            .process
            .steps
            .take("return from checkpoint")?;
        Ok(position)
    }

    async fn finish(mut self: Box<Self>, receipt: Receipt) -> Result<Finished> {
        let mut rows = std::mem::take(&mut self.owed);
        rows.append(&mut self.volatile);
        let attachment = &self.attachment;
        let name = &attachment.table;
        if receipt.key != self.key || receipt.version != self.version {
            return Err(Error::corrupt(format!(
                "a receipt of partition {} at version {} for partition {} at version {}",
                receipt.key.label(),
                receipt.version,
                self.key.label(),
                self.version
            )));
        }
        let replace = self.disposition == Disposition::Replace;
        let mut before = Vec::new();
        if attachment.process.breaks(Rule::FenceBeforeAct) {
            let mut state = attachment.process.store.lock();
            before = self.staged(state.table_mut(name)?)?.batches();
            before.extend(rows.iter().cloned());
        }
        let whole = AtomicBool::new(true);
        let publish = |state: &mut State| {
            let table = state.table_mut(name)?;
            if let Some(held) = table.receipt(attachment.run, &self.key) {
                return if held.proves(&receipt) {
                    Ok(Some(Finished::Already(held.clone())))
                } else {
                    Err(Error::corrupt(format!(
                        "partition {}: the ledger has a receipt of {} rows with digest {}, and this one has {} rows with digest {}",
                        self.key.label(),
                        held.rows,
                        held.digest,
                        receipt.rows,
                        receipt.digest
                    )))
                };
            }
            whole.store(replace || table.is_intact(&self.key), Ordering::Relaxed);
            let mut batches = self.staged(table)?.batches();
            batches.extend(rows);
            self.place(state, batches)?;
            Ok(None)
        };
        let record = |state: &mut State| {
            let table = state.table_mut(name)?;
            let owner = (attachment.run, self.key.clone());
            table.staged.remove(&owner);
            table.dropped.remove(&owner);
            let entry = Entry {
                run: attachment.run,
                receipt: receipt.clone(),
                act: Act::Published(self.disposition),
                version: table.version(&self.key),
                whole: whole.load(Ordering::Relaxed),
            };
            let entries = table.ledger.entry(self.key.clone()).or_default();
            entries.push(entry);
            Ok(Finished::Now)
        };
        let finished = if attachment.process.breaks(Rule::LedgerApartFromRows) {
            match attachment.act("make the rows visible", publish)? {
                Some(finished) => finished,
                None => attachment.act("write the ledger", record)?,
            }
        } else if attachment.process.breaks(Rule::FenceBeforeAct) {
            let held = attachment.act("look at the epoch", |state| {
                let table = state.table_mut(name)?;
                Ok(table.receipt(attachment.run, &self.key).cloned())
            })?;
            // Whoever drives this process may do something else first.
            let mut waited = false;
            std::future::poll_fn(|context| {
                if std::mem::replace(&mut waited, true) {
                    return Poll::Ready(());
                }
                context.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            match held {
                Some(held) => Finished::Already(held),
                None => attachment.process.act("publish the partition", |state| {
                    whole.store(
                        replace || state.table(name)?.is_intact(&self.key),
                        Ordering::Relaxed,
                    );
                    self.place(state, before)?;
                    record(state)
                })?,
            }
        } else {
            attachment.act("publish the partition", |state| match publish(state)? {
                Some(finished) => Ok(finished),
                None => record(state),
            })?
        };
        attachment.process.steps.take("return from finish")?;
        Ok(finished)
    }
}
