//! An engine that can be held: passes everything on to the store below it, writes down what was asked, and lets one act on one partition wait
//! for as long as a test likes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use strait_common::Result;
use strait_common::engine::{
    Attachment, Batch, Begun, Claim, Confirmed, Cursor, Disposition, Finished, Holding, Mark,
    Outcome, Partition, PartitionFiles, PartitionWriter, Position, Prepared, ReadLimits, Receipt,
    Sink, SinkLimits, Source, Space, Store, Stream, Table, TableFile, Vacuumed,
};
use strait_common::ids::{Epoch, TableName};
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use tokio::sync::watch;

/// What an engine can be held at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Opening a partition.
    Begin,
    /// Giving rows to the engine.
    Append,
    /// Making a chunk durable.
    Checkpoint,
    /// Publishing.
    Finish,
    /// Saying what the table looks like; of no partition, so its label is empty.
    Describe,
    /// Listing partitions; its label is empty.
    Partitions,
    /// Opening a partition to read it.
    Read,
    /// Removing a partition.
    Drop,
}

#[derive(Clone, Debug)]
struct Held {
    act: Act,
    label: String,
    /// Rows of the partition that pass first.
    after_rows: u64,
}

/// The hand on the engine. Clones share it; it outlives the agents that use it.
#[derive(Clone, Debug)]
pub struct Hand {
    held: Arc<watch::Sender<Option<Held>>>,
    seen: Arc<Mutex<Seen>>,
    /// What the engine says of its disk, if it does not look.
    space: Arc<Mutex<Option<Space>>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By label of the partition: rows that were appended, over all attempts.
    appended: BTreeMap<String, u64>,
    /// Appends of all partitions: each is a frame.
    appends: u64,
    /// The rows from which each begin went on.
    begun_from: BTreeMap<String, Vec<u64>>,
    checkpoints: BTreeMap<String, u64>,
    /// Acts that were held, by label.
    waited: Vec<String>,
    /// The partitions that were opened to be read.
    reads: Vec<String>,
    /// Those whose files were opened.
    files: Vec<String>,
}

impl Default for Hand {
    fn default() -> Hand {
        Hand {
            held: Arc::new(watch::Sender::new(None)),
            seen: Arc::default(),
            space: Arc::default(),
        }
    }
}

impl Hand {
    /// The store, with this hand on both its halves.
    pub fn on(&self, store: Store) -> Store {
        Store {
            source: Arc::new(HeldSource {
                below: store.source,
                hand: self.clone(),
            }),
            sink: Arc::new(HeldSink {
                below: store.sink,
                hand: self.clone(),
            }),
        }
    }

    /// From now on this act on the partition with this label does not return.
    pub fn hold(&self, act: Act, label: &str) {
        self.hold_after(act, label, 0);
    }

    /// The same once the engine has taken so many rows of the partition.
    pub fn hold_after(&self, act: Act, label: &str, after_rows: u64) {
        self.seen().waited.clear();
        self.held.send_replace(Some(Held {
            act,
            label: label.to_owned(),
            after_rows,
        }));
    }

    /// Nothing is held any more.
    pub fn release(&self) {
        self.held.send_replace(None);
    }

    /// From now on the engine says that its disk is like this.
    pub fn disk_is(&self, space: Space) {
        *self.space.lock().unwrap_or_else(PoisonError::into_inner) = Some(space);
    }

    /// How many frames the engine has taken.
    pub fn appends(&self) -> u64 {
        self.seen().appends
    }

    /// Waits until the engine has been asked for what is held.
    pub async fn is_holding(&self, label: &str) {
        crate::eventually(&format!("the engine is held at {label}"), async || {
            self.seen()
                .waited
                .iter()
                .any(|at| at == label)
                .then_some(())
        })
        .await;
    }

    /// Rows that were given to the engine, by label, over all attempts.
    pub fn appended(&self) -> BTreeMap<String, u64> {
        self.seen().appended.clone()
    }

    /// The partitions that were opened to be read since this was asked last, in order of label.
    pub fn take_reads(&self) -> Vec<String> {
        let mut reads = std::mem::take(&mut self.seen().reads);
        reads.sort();
        reads
    }

    /// The partitions whose files were opened to be sent since this was asked last, in order of label.
    pub fn take_files(&self) -> Vec<String> {
        let mut files = std::mem::take(&mut self.seen().files);
        files.sort();
        files
    }

    /// The rows from which each begin of this partition went on: 0 for its start.
    pub fn begun_from(&self, label: &str) -> Vec<u64> {
        self.seen()
            .begun_from
            .get(label)
            .cloned()
            .unwrap_or_default()
    }

    /// How many checkpoints of this partition the engine has made durable.
    pub fn checkpoints(&self, label: &str) -> u64 {
        self.seen().checkpoints.get(label).copied().unwrap_or(0)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pass(&self, act: Act, label: &str) {
        let mut held = self.held.subscribe();
        let taken = self.seen().appended.get(label).copied().unwrap_or(0);
        let is_held = |held: &Option<Held>| {
            held.as_ref().is_some_and(|held| {
                held.act == act && held.label == label && taken >= held.after_rows
            })
        };
        if is_held(&held.borrow()) {
            self.seen().waited.push(label.to_owned());
        }
        // The sender lives as long as this hand.
        let _ = held.wait_for(|held| !is_held(held)).await;
    }
}

#[derive(Debug)]
struct HeldSource {
    below: Arc<dyn Source>,
    hand: Hand,
}

#[async_trait]
impl Source for HeldSource {
    async fn describe(&self, table: &TableName) -> Result<Table> {
        self.hand.pass(Act::Describe, "").await;
        self.below.describe(table).await
    }

    async fn tables(&self) -> Result<Vec<TableName>> {
        self.below.tables().await
    }

    async fn partitions(
        &self,
        table: &TableName,
        selection: &Selection,
    ) -> Result<Stream<Partition>> {
        self.hand.pass(Act::Partitions, "").await;
        self.below.partitions(table, selection).await
    }

    async fn read(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        after: &Cursor,
        limits: &ReadLimits,
    ) -> Result<Stream<Batch>> {
        let label = partition.key.label();
        self.hand.pass(Act::Read, &label).await;
        self.hand.seen().reads.push(label);
        self.below
            .read(table, selection, partition, after, limits)
            .await
    }

    async fn files_shape(&self, table: &TableName) -> Result<Option<String>> {
        self.below.files_shape(table).await
    }

    async fn files(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        shape: &str,
    ) -> Result<Option<Box<dyn PartitionFiles>>> {
        let label = partition.key.label();
        self.hand.pass(Act::Read, &label).await;
        let files = self.below.files(table, selection, partition, shape);
        let files = files.await?;
        if files.is_some() {
            self.hand.seen().files.push(label);
        }
        Ok(files)
    }

    async fn check(&self, table: &TableName) -> Result<()> {
        self.below.check(table).await
    }

    fn read_bytes(&self, table: &Table) -> u64 {
        self.below.read_bytes(table)
    }
}

#[derive(Debug)]
struct HeldSink {
    below: Arc<dyn Sink>,
    hand: Hand,
}

#[async_trait]
impl Sink for HeldSink {
    fn limits(&self, schema: &SchemaRef) -> Result<SinkLimits> {
        self.below.limits(schema)
    }

    async fn space(&self) -> Result<Option<Space>> {
        let said = self
            .hand
            .space
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match said {
            Some(space) => Ok(Some(space)),
            None => self.below.space().await,
        }
    }

    async fn prepare(&self, table: &TableName, wanted: &Table, dry_run: bool) -> Result<Prepared> {
        self.below.prepare(table, wanted, dry_run).await
    }

    async fn add_columns(
        &self,
        table: &TableName,
        wanted: &Table,
        dry_run: bool,
    ) -> Result<Vec<String>> {
        self.below.add_columns(table, wanted, dry_run).await
    }

    async fn files_shape(&self, table: &TableName, wanted: &Table) -> Result<Option<String>> {
        self.below.files_shape(table, wanted).await
    }

    async fn attach(&self, claim: &Claim) -> Result<Arc<dyn Attachment>> {
        Ok(Arc::new(HeldAttachment {
            below: self.below.attach(claim).await?,
            hand: self.hand.clone(),
        }))
    }

    async fn claim(&self, table: &TableName) -> Result<Option<Claim>> {
        self.below.claim(table).await
    }

    async fn vacuum(&self, table: &TableName, before_ms: i64, dry_run: bool) -> Result<Vacuumed> {
        self.below.vacuum(table, before_ms, dry_run).await
    }

    async fn receipts(&self, table: &TableName) -> Result<Stream<Receipt>> {
        self.below.receipts(table).await
    }

    async fn holdings(&self, table: &TableName, selection: &Selection) -> Result<Stream<Holding>> {
        self.below.holdings(table, selection).await
    }
}

#[derive(Debug)]
struct HeldAttachment {
    below: Arc<dyn Attachment>,
    hand: Hand,
}

#[async_trait]
impl Attachment for HeldAttachment {
    fn epoch(&self) -> Epoch {
        self.below.epoch()
    }

    async fn positions(&self) -> Result<Stream<Position>> {
        self.below.positions().await
    }

    async fn begin(
        &self,
        partition: &Partition,
        disposition: Disposition,
        from: Option<&Position>,
    ) -> Result<Begun> {
        let label = partition.key.label();
        self.hand.pass(Act::Begin, &label).await;
        let rows = from.map_or(0, |from| from.rows);
        self.hand
            .seen()
            .begun_from
            .entry(label.clone())
            .or_default()
            .push(rows);
        Ok(
            match self.below.begin(partition, disposition, from).await? {
                Begun::Writer(below) => Begun::Writer(Box::new(HeldWriter {
                    below,
                    hand: self.hand.clone(),
                    label,
                    came: 0,
                })),
                already => already,
            },
        )
    }

    async fn drop_partition(&self, key: &PartitionKey) -> Result<()> {
        self.hand.pass(Act::Drop, &key.label()).await;
        self.below.drop_partition(key).await
    }

    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<()> {
        self.below.confirm(confirmed).await
    }

    async fn complete(&self, outcome: Outcome) -> Result<()> {
        self.below.complete(outcome).await
    }
}

#[derive(Debug)]
struct HeldWriter {
    below: Box<dyn PartitionWriter>,
    hand: Hand,
    label: String,
    /// Bytes of the file that is coming.
    came: u64,
}

#[async_trait]
impl PartitionWriter for HeldWriter {
    async fn append(&mut self, records: RecordBatch) -> Result<()> {
        self.hand.pass(Act::Append, &self.label).await;
        let rows = records.num_rows() as u64;
        self.below.append(records).await?;
        let mut seen = self.hand.seen();
        *seen.appended.entry(self.label.clone()).or_default() += rows;
        seen.appends += 1;
        Ok(())
    }

    async fn append_file(&mut self, file: &TableFile, bytes: Bytes) -> Result<()> {
        self.hand.pass(Act::Append, &self.label).await;
        let came = bytes.len() as u64;
        self.below.append_file(file, bytes).await?;
        let mut seen = self.hand.seen();
        // The file's rows count with its last bytes.
        self.came += came;
        if self.came == file.bytes {
            self.came = 0;
            *seen.appended.entry(self.label.clone()).or_default() += file.rows;
        }
        seen.appends += 1;
        Ok(())
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Position> {
        self.hand.pass(Act::Checkpoint, &self.label).await;
        let position = self.below.checkpoint(mark).await?;
        *self
            .hand
            .seen()
            .checkpoints
            .entry(self.label.clone())
            .or_default() += 1;
        Ok(position)
    }

    async fn seal(&mut self) -> Result<u64> {
        self.below.seal().await
    }

    async fn finish(self: Box<Self>, receipt: Receipt) -> Result<Finished> {
        self.hand.pass(Act::Finish, &self.label).await;
        self.below.finish(receipt).await
    }
}
