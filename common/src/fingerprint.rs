//! Rows and digest of a partition as they are stored now: what `verify` compares, on both sides.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use futures::StreamExt;

use crate::budget::Budget;
use crate::cpu::CpuPool;
use crate::digest::{Digest, digest};
use crate::engine::{Cursor, Partition, ReadLimits, Source, StoreSums};
use crate::error::{Context, Kind, OrError, Result};
use crate::ids::TableName;
use crate::key::PartitionKey;
use crate::regroup::rows_of;
use crate::selection::Selection;

/// Selected rows, and their digest.
pub type Fingerprint = (u64, Digest);

/// What is read, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// The store.
    pub source: &'a Arc<dyn Source>,
    /// The table in it.
    pub table: &'a TableName,
    /// Which rows and columns.
    pub selection: &'a Selection,
    /// The largest batch of more than one row, in bytes.
    pub batch_bytes: u64,
    /// What a page or row that does not fit takes a larger lease from.
    pub budget: &'a Budget,
    /// Where digests are computed.
    pub cpu: &'a CpuPool,
}

/// Whether a partition that cannot be read for this reason is the only one in trouble: the others can be read.
pub fn is_its_own(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Moved | Kind::Corrupt | Kind::Refused | Kind::Schema
    )
}

/// What the store computes by itself of a partition ([`Source::sums`]); none, too, where it cannot for a reason that is this partition's alone: it is read then, and told by that.
///
/// # Errors
/// What the engine says of more than this partition.
pub async fn sums_of(
    source: &Arc<dyn Source>,
    table: &TableName,
    selection: &Selection,
    partition: &Partition,
) -> Result<Option<StoreSums>> {
    match source.sums(table, selection, partition).await {
        Err(error) if is_its_own(error.kind()) => Ok(None),
        sums => sums,
    }
}

impl Reading<'_> {
    /// Selected rows of a partition, and their digest. Holds one batch; the lease that pays for it is the caller's.
    ///
    /// # Errors
    /// What the engine says, the partition named.
    pub async fn fingerprint(&self, partition: &Partition) -> Result<Fingerprint> {
        // A key without parts is of every row.
        let all = Arc::new(vec![PartitionKey::default()]);
        let mut sums = self.fingerprints(partition, &all).await?;
        Ok(sums.pop().unwrap_or_default())
    }

    /// The same of those rows that each of these keys is of, in order of the keys, which may be of another division.
    ///
    /// # Errors
    /// What the engine says, the partition named; `Refused` for a key whose rows cannot be told ([`rows_of`]).
    pub async fn fingerprints(
        &self,
        partition: &Partition,
        keys: &Arc<Vec<PartitionKey>>,
    ) -> Result<Vec<Fingerprint>> {
        self.read(partition, keys)
            .await
            .with_context(|| format!("partition {}", partition.key.label()))
    }

    async fn read(
        &self,
        partition: &Partition,
        keys: &Arc<Vec<PartitionKey>>,
    ) -> Result<Vec<Fingerprint>> {
        let limits = ReadLimits {
            batch_bytes: self.batch_bytes,
            budget: self.budget.clone(),
        };
        let start = Cursor::start();
        let batches = self
            .source
            .read(self.table, self.selection, partition, &start, &limits);
        let mut batches = batches.await?;
        let mut sums = vec![Fingerprint::default(); keys.len()];
        while let Some(batch) = batches.next().await {
            let (records, selection, keys) =
                (batch?.records, self.selection.clone(), Arc::clone(keys));
            let count = move || {
                let selected = selection.filter(&records)?;
                drop(records);
                let of_key = |key| fingerprint_of(key, &selected);
                keys.iter().map(of_key).collect::<Result<Vec<_>>>()
            };
            for (sum, (rows, digest)) in sums.iter_mut().zip(self.cpu.run(count).await?) {
                *sum = (sum.0 + rows, sum.1.plus(digest));
            }
        }
        Ok(sums)
    }
}

fn fingerprint_of(key: &PartitionKey, records: &RecordBatch) -> Result<Fingerprint> {
    if key.is_whole_table() {
        return Ok((records.num_rows() as u64, digest(records)?));
    }
    let rows = filter_record_batch(records, &rows_of(key, records)?);
    let rows = rows.or_error(Kind::Internal, "select rows")?;
    Ok((rows.num_rows() as u64, digest(&rows)?))
}
