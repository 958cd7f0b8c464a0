//! The half that is read.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use strait_common::engine::{
    Batch, Cursor, Partition, PartitionFiles, ReadLimits, Source, Stream, Table,
};
use strait_common::frame::slice_bytes;
use strait_common::ids::TableName;
use strait_common::selection::Selection;
use strait_common::{Error, Kind, OrError, Result};

use crate::files::{self, Offered};
use crate::store::MemoryStore;

/// Reads a [`MemoryStore`]. A cursor is the number of rows before it, in 8 bytes, little endian. Only the newest version of a
/// partition can be read: a stream whose partition changes under it ends with `Moved`.
#[derive(Clone, Debug)]
pub struct MemorySource {
    store: MemoryStore,
}

impl MemorySource {
    /// A reader of this store.
    pub fn open(store: &MemoryStore) -> MemorySource {
        MemorySource {
            store: store.clone(),
        }
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn describe(&self, table: &TableName) -> Result<Table> {
        Ok(self.store.lock().table(table)?.table.clone())
    }

    async fn tables(&self) -> Result<Vec<TableName>> {
        Ok(self.store.lock().tables.keys().cloned().collect())
    }

    async fn partitions(
        &self,
        table: &TableName,
        selection: &Selection,
    ) -> Result<Stream<Partition>> {
        let state = self.store.lock();
        let table = state.table(table)?;
        let partitions: Vec<Result<Partition>> = (table.partitions.keys())
            .filter(|key| !selection.excludes(key))
            .filter_map(|key| table.partition(key).map(Ok))
            .collect();
        Ok(stream::iter(partitions).boxed())
    }

    async fn read(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        after: &Cursor,
        limits: &ReadLimits,
    ) -> Result<Stream<Batch>> {
        let schema = Arc::clone(&self.store.lock().table(table)?.table.schema);
        let columns = selection.read_columns().iter().map(|column| {
            schema
                .index_of(column)
                .or_error(Kind::Config, format!("table {table}"))
        });
        let read = Read {
            store: self.store.clone(),
            table: table.clone(),
            partition: partition.clone(),
            columns: columns.collect::<Result<_>>()?,
            batch_bytes: limits.batch_bytes,
        };
        let start = offset_of(after)?;
        // The version is looked at when the stream is opened too, so that nobody waits for a first batch to learn it.
        read.next(start)?;
        Ok(stream::try_unfold((read, start), |(read, at)| async move {
            let batch = read.next(at)?;
            Ok(batch.map(|records| {
                let end = at + records.num_rows();
                let batch = Batch {
                    records,
                    end: cursor_of(end),
                };
                (batch, (read, end))
            }))
        })
        .boxed())
    }

    async fn files_shape(&self, table: &TableName) -> Result<Option<String>> {
        Ok(Some(files::shape(&self.store.lock().table(table)?.table)))
    }

    async fn files(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        shape: &str,
    ) -> Result<Option<Box<dyn PartitionFiles>>> {
        let state = self.store.lock();
        let state = state.table(table)?;
        let columns = state.table.schema.fields().iter();
        let mut columns = columns.map(|field| field.name());
        if !selection.covers(&partition.key)
            || !columns.all(|column| selection.columns().contains(column))
            || files::shape(&state.table) != shape
        {
            return Ok(None);
        }
        let visible = state.partitions.get(&partition.key);
        let visible = visible.filter(|visible| visible.version() == partition.version);
        let visible = visible.ok_or_else(|| {
            Error::moved(format!(
                "partition {} of table {table} is no longer at version {}",
                partition.key.label(),
                partition.version
            ))
        })?;
        let offered = Offered::new(&visible.batches)?;
        Ok(offered.map(|offered| Box::new(offered) as Box<dyn PartitionFiles>))
    }

    fn read_bytes(&self, _table: &Table) -> u64 {
        0
    }
}

fn cursor_of(rows: usize) -> Cursor {
    Cursor(Bytes::copy_from_slice(&(rows as u64).to_le_bytes()))
}

fn offset_of(cursor: &Cursor) -> Result<usize> {
    if cursor.is_start() {
        return Ok(0);
    }
    let bytes: Option<[u8; 8]> = cursor.0.as_ref().try_into().ok();
    let rows = bytes.and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes)).ok());
    rows.ok_or_else(|| Error::corrupt("a cursor that this engine did not make"))
}

/// What a stream of rows knows.
struct Read {
    store: MemoryStore,
    table: TableName,
    partition: Partition,
    columns: Vec<usize>,
    batch_bytes: u64,
}

impl Read {
    /// The rows after the first `at`, as many as a batch holds; `None` at the end.
    fn next(&self, at: usize) -> Result<Option<RecordBatch>> {
        let state = self.store.lock();
        let key = &self.partition.key;
        let visible = state.table(&self.table)?.partitions.get(key);
        let visible = visible.filter(|visible| visible.version() == self.partition.version);
        let visible = visible.ok_or_else(|| {
            Error::moved(format!(
                "partition {} of table {} is no longer at version {}",
                key.label(),
                self.table,
                self.partition.version
            ))
        })?;
        let mut before = at;
        for stored in &visible.batches {
            if before < stored.num_rows() {
                let rest = stored.slice(before, stored.num_rows() - before);
                let rest = rest
                    .project(&self.columns)
                    .or_error(Kind::Internal, "columns of a batch")?;
                return Ok(Some(self.cut(rest)));
            }
            before -= stored.num_rows();
        }
        if before > 0 {
            return Err(Error::corrupt(format!(
                "a cursor after {at} rows in partition {}, which has {}",
                key.label(),
                visible.rows()
            )));
        }
        Ok(None)
    }

    /// As many of the first rows as fit a batch; at least one.
    fn cut(&self, rows: RecordBatch) -> RecordBatch {
        let mut rows = rows;
        while rows.num_rows() > 1 && slice_bytes(&rows) > self.batch_bytes {
            let bytes = slice_bytes(&rows);
            // What the mean width allows, but fewer each time, since the first rows may be the wide ones.
            let count = rows.num_rows();
            let fitting = (count as u64).saturating_mul(self.batch_bytes) / bytes;
            let fitting = usize::try_from(fitting).unwrap_or(usize::MAX);
            rows = rows.slice(0, fitting.clamp(1, count - 1));
        }
        rows
    }
}
