//! What a reader of a store sees.

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use strait_common::budget::Budget;
use strait_common::engine::{Cursor, Partition, ReadLimits, Store};
use strait_common::ids::TableName;
use strait_common::selection::Selection;
use strait_common::{Kind, Result};
use strait_memory::{Row, canonical_rows};

/// Limits under which the suite's batches hold several rows and its partitions several batches.
pub(crate) fn limits(batch_bytes: u64) -> Result<ReadLimits> {
    Ok(ReadLimits {
        batch_bytes,
        budget: Budget::new(256 << 20)?,
    })
}

/// Every row of the table, sorted, through the store's own source half; none where there is no such table.
///
/// # Errors
/// What the source returns.
pub async fn visible_rows(store: &Store, table: &TableName) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (_, batches) in read_all(store, table).await? {
        for batch in &batches {
            rows.extend(canonical_rows(batch)?);
        }
    }
    rows.sort();
    Ok(rows)
}

/// Every partition of the table with its rows as they were read; none where there is no such table.
///
/// # Errors
/// What the source returns.
pub async fn read_all(
    store: &Store,
    table: &TableName,
) -> Result<Vec<(Partition, Vec<RecordBatch>)>> {
    let described = match store.source.describe(table).await {
        Ok(described) => described,
        Err(error) if error.kind() == Kind::Config => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let selection = Selection::everything(&described.schema);
    let partitions = store.source.partitions(table, &selection).await?;
    let partitions: Vec<Partition> = partitions.try_collect().await?;
    let limits = limits(1 << 20)?;
    let mut read = Vec::new();
    for partition in partitions {
        let start = Cursor::start();
        let batches = store
            .source
            .read(table, &selection, &partition, &start, &limits)
            .await?;
        let batches = batches.map_ok(|batch| batch.records).try_collect().await?;
        read.push((partition, batches));
    }
    Ok(read)
}
