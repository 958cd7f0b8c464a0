//! One attempt on one table, and the partitions that it writes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use strait_common::digest::Digest;
use strait_common::division::check_key;
use strait_common::engine::{
    Attachment, Begun, Confirmed, Cursor, Disposition, Finished, Mark, Outcome, Partition,
    PartitionWriter, Position, PositionState, Receipt, Stream, Version,
};
use strait_common::frame::slice_bytes;
use strait_common::ids::{Epoch, RunId};
use strait_common::key::{Cell, PartitionKey};
use strait_common::selection::{Selection, equals, in_range};
use strait_common::{Error, Kind, Result};

use crate::fit::fit;
use crate::publish::{Attempt, encoded};
use crate::records::{Act, Entry, Piece, Publishing, Staged, is_intact};
use crate::scheme;
use crate::script::quoted;
use crate::sink::PIECE_BYTES;
use crate::source::Described;

/// An attempt.
pub(crate) struct DolphinAttachment {
    attempt: Arc<Attempt>,
    positions: Vec<Position>,
}

impl fmt::Debug for DolphinAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempt.fmt(f)
    }
}

impl DolphinAttachment {
    pub(crate) fn new(attempt: Arc<Attempt>, positions: Vec<Position>) -> DolphinAttachment {
        DolphinAttachment { attempt, positions }
    }

    /// The partition's place at the server, which is made where the scheme lacks it.
    async fn place(&self, key: &PartitionKey, disposition: Disposition) -> Result<Arc<Described>> {
        let attempt = &self.attempt;
        let source = &attempt.inner.source;
        let described = source.described_with(&attempt.table, key).await?;
        if described.keyed && disposition == Disposition::Append {
            return Err(Error::refused(format!(
                "table {} keeps one row of each key (keepDuplicates, or a primary key): what is appended to rows that are there is not what is stored, so nothing could be \
                 proved. Use --mode replace or mirror",
                attempt.table
            )));
        }
        check_key(&described.divisions(), &described.schema, key)?;
        let mut missing = scheme::missing(key, &described.levels)?;
        if missing.is_empty() {
            return Ok(described);
        }
        let database = quoted(&format!("dfs://{}", attempt.table.database()))?;
        attempt.step("add a partition to the scheme").await?;
        while let Some(addition) = missing.first() {
            let script = addition.script(&database);
            let mut lease = attempt.inner.cluster.connect().await?;
            let added = lease.connection().script(&script).await;
            drop(lease);
            let Err(failure) = added else {
                missing.remove(0);
                continue;
            };
            let error =
                Error::from(failure).context(format!("partition {}: adding it", key.label()));
            if error.kind() != Kind::Refused {
                return Err(error);
            }
            // Another stream may have been faster: a range is added once.
            let now = source.described(&attempt.table).await?;
            let left = scheme::missing(key, &now.levels)?;
            if left.contains(addition) {
                return Err(error);
            }
            missing = left;
        }
        source.described(&attempt.table).await
    }

    /// What was being published of these partitions is over, for something takes its place: nothing of it runs any more.
    async fn supersede(&self, keys: &BTreeSet<&PartitionKey>) -> Result<()> {
        let attempt = &self.attempt;
        let table = attempt.table.clone();
        let journal = &attempt.inner.journal;
        for what in journal.act(move |book| book.all_publishing(&table)).await? {
            if keys.contains(&what.key) {
                attempt.quiet(&what.session).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Attachment for DolphinAttachment {
    fn epoch(&self) -> Epoch {
        self.attempt.epoch
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
        let attempt = &self.attempt;
        let (table, run, epoch) = (attempt.table.clone(), attempt.run, attempt.epoch);
        let key = partition.key.clone();
        let journal = &attempt.inner.journal;
        let (name, asked) = (table.clone(), key.clone());
        let held = journal
            .act(move |book| {
                book.check_fence(&name, run, epoch)?;
                Ok((
                    book.receipt(&name, run, &asked)?,
                    book.publishing(&name, &asked)?,
                ))
            })
            .await?;
        if let (Some(receipt), _) = held {
            return Ok(Begun::Already(receipt));
        }
        // What has not begun is put together anew.
        if let Some(what) = held.1.filter(Publishing::may_have_begun) {
            if what.run == run && what.trouble.is_none() {
                attempt.push(what).await?;
                let (name, asked) = (table.clone(), key.clone());
                let receipt = journal.act(move |book| book.receipt(&name, run, &asked));
                if let Some(receipt) = receipt.await? {
                    return Ok(Begun::Already(receipt));
                }
            } else if disposition == Disposition::Replace {
                // That begins with removing what is there.
                attempt.quiet(&what.session).await?;
            } else if let Some(why) = what.trouble {
                return Err(Error::refused(why));
            } else {
                // The plan of this run does not know of its rows.
                return Err(Error::refused(format!(
                    "partition {}: run {} has put a part of it there, and could not go on when this run began (the sink's log says why): start a run again, which tries that \
                     first, or copy the partition with --mode replace or mirror",
                    key.label(),
                    what.run
                )));
            }
        }
        let described = self.place(&key, disposition).await?;
        let writer = RunId::random().to_string();
        let version = partition.version.clone();
        let (name, asked, new, from) = (table, key.clone(), writer.clone(), from.cloned());
        attempt.step("begin the partition").await?;
        let staged = journal
            .act(move |book| {
                book.check_fence(&name, run, epoch)?;
                let held = book.staged(&name, run, &asked)?;
                let staged = match from {
                    None => {
                        book.unstage(&name, run, &asked)?;
                        Staged {
                            version,
                            writer: new,
                            pieces: 0,
                            sequence: 0,
                            cursor: Cursor::start(),
                            rows: 0,
                            digest: Digest::default(),
                        }
                    }
                    Some(from) => {
                        let held = held.filter(|held| is_at(held, &asked, &from, &version));
                        let held = held.ok_or_else(|| {
                            Error::corrupt(format!(
                                "partition {} at version {version}: the store holds no position after {} frames of version {}",
                                asked.label(),
                                from.sequence,
                                from.version
                            ))
                        })?;
                        book.hand_over(&held.writer, &new, held.pieces)?;
                        Staged { writer: new, ..held }
                    }
                };
                book.stage(&name, run, &asked, &staged)?;
                Ok(staged)
            })
            .await?;
        attempt.step("return from begin").await?;
        Ok(Begun::Writer(Box::new(DolphinWriter {
            attempt: Arc::clone(attempt),
            described,
            key,
            version: partition.version.clone(),
            disposition,
            columns: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            rows: staged.rows,
            staged,
        })))
    }

    async fn drop_partition(&self, key: &PartitionKey) -> Result<()> {
        let attempt = &self.attempt;
        let source = &attempt.inner.source;
        let described = source.described_with(&attempt.table, key).await?;
        check_key(&described.divisions(), &described.schema, key)?;
        self.supersede(&BTreeSet::from([key])).await?;
        let what = Publishing::new(attempt.run, key.clone(), Act::Drop);
        let (table, run, epoch) = (attempt.table.clone(), attempt.run, attempt.epoch);
        attempt.step("write down what is dropped").await?;
        let journal = &attempt.inner.journal;
        let what = journal
            .act(move |book| {
                book.check_fence(&table, run, epoch)?;
                book.begin(&table, what)
            })
            .await?;
        attempt.push(what).await?;
        attempt.step("return from drop_partition").await
    }

    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<()> {
        let attempt = &self.attempt;
        let source = &attempt.inner.source;
        let keys = confirmed.iter().map(|confirmed| &confirmed.receipt.key);
        self.supersede(&keys.collect()).await?;
        let described = source.described(&attempt.table).await?;
        let now = source
            .chunks(&attempt.table, &described.levels, None)
            .await?;
        let mut entries = Vec::new();
        for confirmed in confirmed {
            let version = now.get(&confirmed.receipt.key).map(|now| &now.version);
            if version == Some(&confirmed.version) {
                entries.push(Entry {
                    run: attempt.run,
                    act: Act::Confirm,
                    receipt: confirmed.receipt.clone(),
                    version: version.cloned(),
                    whole: true,
                });
            }
        }
        let (table, run, epoch) = (attempt.table.clone(), attempt.run, attempt.epoch);
        attempt.step("write what was found equal").await?;
        let journal = &attempt.inner.journal;
        journal
            .act(move |book| {
                book.check_fence(&table, run, epoch)?;
                entries.iter().try_for_each(|entry| {
                    // Whoever could not go on with it, the partition is what it should be.
                    book.published(&table, &entry.receipt.key)?;
                    book.enter(&table, entry)
                })
            })
            .await?;
        attempt.step("return from confirm").await
    }

    async fn complete(&self, _outcome: Outcome) -> Result<()> {
        let attempt = &self.attempt;
        let (table, run, epoch) = (attempt.table.clone(), attempt.run, attempt.epoch);
        attempt.step("end the claim").await?;
        let journal = &attempt.inner.journal;
        journal
            .act(move |book| {
                // Not that the claim is open: ending it twice is harmless.
                book.check_epoch(&table, epoch)?;
                book.complete(&table, run)
            })
            .await?;
        attempt.step("return from complete").await
    }
}

/// Whether this is the position that the journal holds, for this version.
fn is_at(held: &Staged, key: &PartitionKey, from: &Position, version: &Version) -> bool {
    from.state == PositionState::Staged
        && held.is_marked()
        && from.key == *key
        && from.version == held.version
        && from.version == *version
        && from.sequence == held.sequence
        && from.cursor == held.cursor
        && from.rows == held.rows
        && from.digest == held.digest
}

/// One partition being written.
struct DolphinWriter {
    attempt: Arc<Attempt>,
    described: Arc<Described>,
    key: PartitionKey,
    version: Version,
    disposition: Disposition,
    /// The run's columns in their order, once rows have come.
    columns: Option<Vec<String>>,
    /// Rows that are not in the journal yet.
    waiting: Vec<RecordBatch>,
    waiting_bytes: u64,
    /// Rows that have come, from the partition's start.
    rows: u64,
    /// What the journal has: `pieces` are those that it holds, covered by a position or not.
    staged: Staged,
}

impl fmt::Debug for DolphinWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {} of {:?}", self.key.label(), self.attempt)
    }
}

impl DolphinWriter {
    /// What waits, as a piece for the journal.
    async fn piece(&mut self) -> Result<Option<Piece>> {
        let batches = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if batches.is_empty() {
            return Ok(None);
        }
        let schema = Arc::clone(&self.described.schema);
        let piece = self
            .attempt
            .inner
            .cpu
            .run(move || encoded(&batches, &schema));
        piece.await.map(Some)
    }

    /// Keeps what waits, covered by no position yet.
    async fn flush(&mut self) -> Result<()> {
        let Some(piece) = self.piece().await? else {
            return Ok(());
        };
        self.attempt.step("keep rows").await?;
        let at = self.staged.pieces;
        self.keep(Some(piece), at, None).await?;
        self.staged.pieces += 1;
        Ok(())
    }

    /// Keeps rows and, with them, what covers them.
    async fn keep(&self, piece: Option<Piece>, at: u64, marked: Option<Staged>) -> Result<()> {
        let attempt = &self.attempt;
        let (table, run, epoch) = (attempt.table.clone(), attempt.run, attempt.epoch);
        let (key, writer) = (self.key.clone(), self.staged.writer.clone());
        let kept = attempt.inner.journal.act(move |book| {
            book.check_fence(&table, run, epoch)?;
            ours(book.staged(&table, run, &key)?, &writer, &key)?;
            if let Some(piece) = piece {
                book.add_piece((&table, run, &key), &writer, at, &piece)?;
            }
            match marked {
                Some(marked) => book.stage(&table, run, &key, &marked),
                None => Ok(()),
            }
        });
        kept.await
    }
}

/// Fails if another writer took this one's place.
fn ours(held: Option<Staged>, writer: &str, key: &PartitionKey) -> Result<()> {
    if held.is_some_and(|held| held.writer == writer) {
        return Ok(());
    }
    Err(Error::internal(format!(
        "partition {} was begun again: this writer is no longer its writer",
        key.label()
    )))
}

#[async_trait]
impl PartitionWriter for DolphinWriter {
    async fn append(&mut self, records: RecordBatch) -> Result<()> {
        if self.columns.is_none() {
            let schema = records.schema();
            let columns = schema.fields().iter().map(|field| field.name().clone());
            self.columns = Some(columns.collect());
        }
        if records.num_rows() == 0 {
            return Ok(());
        }
        let (schema, before, key) = (
            Arc::clone(&self.described.schema),
            self.rows,
            self.key.clone(),
        );
        let rows = records.num_rows() as u64;
        let fitted = self.attempt.inner.cpu.run(move || {
            let label = key.label();
            let fitted = check_rows(&records, &key).and_then(|()| fit(&records, &schema));
            fitted.map_err(|error| {
                error.context(format!(
                    "partition {label}, counted from row {before} of it"
                ))
            })
        });
        let fitted = fitted.await?;
        self.rows += rows;
        self.waiting_bytes += slice_bytes(&fitted);
        self.waiting.push(fitted);
        if self.waiting_bytes >= PIECE_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Position> {
        let piece = self.piece().await?;
        let at = self.staged.pieces;
        let marked = Staged {
            pieces: at + u64::from(piece.is_some()),
            sequence: mark.sequence,
            cursor: mark.cursor,
            rows: mark.rows,
            digest: mark.digest,
            ..self.staged.clone()
        };
        self.attempt.step("make the rows durable").await?;
        self.keep(piece, at, Some(marked.clone())).await?;
        self.staged = marked;
        self.attempt.step("return from checkpoint").await?;
        Ok(self.staged.position(self.attempt.run, &self.key))
    }

    async fn seal(&mut self) -> Result<u64> {
        self.flush().await?;
        let inner = &self.attempt.inner;
        Ok(inner.publishing_bytes(&self.described.schema))
    }

    async fn finish(mut self: Box<Self>, receipt: Receipt) -> Result<Finished> {
        if receipt.key != self.key || receipt.version != self.version {
            return Err(Error::corrupt(format!(
                "a receipt of partition {} at version {} for partition {} at version {}",
                receipt.key.label(),
                receipt.version,
                self.key.label(),
                self.version
            )));
        }
        let attempt = Arc::clone(&self.attempt);
        let (run, epoch, key) = (attempt.run, attempt.epoch, self.key.clone());
        let journal = &attempt.inner.journal;
        let (table, asked) = (attempt.table.clone(), key.clone());
        let held = journal
            .act(move |book| {
                book.check_fence(&table, run, epoch)?;
                Ok((
                    book.receipt(&table, run, &asked)?,
                    book.entries(&table, &asked)?,
                ))
            })
            .await?;
        if let Some(held) = held.0 {
            return already(held, &receipt);
        }
        if receipt.rows != self.rows {
            return Err(Error::corrupt(format!(
                "partition {}: a receipt of {} rows, and {} have come",
                key.label(),
                receipt.rows,
                self.rows
            )));
        }
        let columns = self.columns.take().unwrap_or_default();
        let piece = self.piece().await?;
        let at = self.staged.pieces;
        let act = match self.disposition {
            Disposition::Append => Act::Append,
            Disposition::Replace => Act::Replace,
        };
        let mut what = Publishing {
            receipt: Some(receipt.clone()),
            columns: run_columns(columns, &receipt, &self.described)?,
            writer: self.staged.writer.clone(),
            pieces: at + u64::from(piece.is_some()),
            ..Publishing::new(run, key.clone(), act)
        };
        if self.disposition == Disposition::Append {
            // What is there already is read, so that what is there afterwards can be compared.
            let read = receipt.rows > 0;
            let seen = attempt
                .seen(&self.described, &key, &what.columns, read)
                .await?;
            let version = seen.as_ref().map(|(seen, _)| &seen.version);
            what.whole = is_intact(&held.1, version);
            if let Some((seen, digest)) = &seen {
                what.before = seen.rows.unwrap_or(0);
                what.before_digest = *digest;
            }
        }
        let (table, expected) = (attempt.table.clone(), receipt.clone());
        let asked = key.clone();
        attempt.step("write down what is published").await?;
        let begun = journal
            .act(move |book| {
                book.check_fence(&table, run, epoch)?;
                if let Some(held) = book.receipt(&table, run, &asked)? {
                    return already(held, &expected).map(Err);
                }
                ours(book.staged(&table, run, &asked)?, &what.writer, &asked)?;
                if let Some(piece) = piece {
                    book.add_piece((&table, run, &asked), &what.writer, at, &piece)?;
                }
                book.begin(&table, what).map(Ok)
            })
            .await?;
        let what = match begun {
            Ok(what) => what,
            Err(held) => return Ok(held),
        };
        attempt.push(what).await?;
        attempt.step("return from finish").await?;
        Ok(Finished::Now)
    }
}

/// Fails if a row is of another partition than it is said to be: the server would put it there.
fn check_rows(records: &RecordBatch, key: &PartitionKey) -> Result<()> {
    for (column, cell) in key.parts() {
        let rows = records.column_by_name(column).ok_or_else(|| {
            Error::schema(format!(
                "rows without column {column}, which divides the table"
            ))
        })?;
        let right = match cell {
            Cell::Value(value) => equals(rows, value)?,
            Cell::Range { from, to } => in_range(rows, from.as_ref(), to.as_ref())?,
            // The server tells before it takes them.
            Cell::Bucket { .. } | Cell::Null => continue,
        };
        let wrong = (0..right.len()).find(|row| right.is_null(*row) || !right.value(*row));
        if let Some(row) = wrong {
            return Err(Error::corrupt(format!(
                "row {row}: its {column} is not of the partition"
            )));
        }
    }
    Ok(())
}

fn already(held: Receipt, receipt: &Receipt) -> Result<Finished> {
    if held.proves(receipt) {
        return Ok(Finished::Already(held));
    }
    Err(Error::corrupt(format!(
        "partition {}: the ledger has a receipt of {} rows with digest {}, and this one has {} rows with digest {}",
        held.key.label(),
        held.rows,
        held.digest,
        receipt.rows,
        receipt.digest
    )))
}

/// The columns that the receipt's digest is of. An attempt that goes on after the last row has seen none of them: the selection tells them then.
fn run_columns(
    columns: Vec<String>,
    receipt: &Receipt,
    described: &Described,
) -> Result<Vec<String>> {
    if !columns.is_empty() || receipt.rows == 0 {
        return Ok(columns);
    }
    match Selection::from_text(&receipt.selection, &described.schema) {
        Ok(selection) => Ok(selection.columns().to_vec()),
        Err(error) => Err(Error::new(
            Kind::Internal,
            "no row has come since the last checkpoint, and the columns of those before are not known",
        )
        .with_source(error)),
    }
}
