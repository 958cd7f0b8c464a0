//! Rows and digest of a partition as they are stored now: what `verify` compares, on both sides.

use std::sync::Arc;

use futures::StreamExt;

use crate::budget::Budget;
use crate::cpu::CpuPool;
use crate::digest::{Digest, digest};
use crate::engine::{Cursor, Partition, ReadLimits, Source};
use crate::error::{Context, Kind, Result};
use crate::ids::TableName;
use crate::selection::Selection;

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

impl Reading<'_> {
    /// Selected rows of a partition, and their digest. Holds one batch; the lease that pays for it is the caller's.
    ///
    /// # Errors
    /// What the engine says, the partition named.
    pub async fn fingerprint(&self, partition: &Partition) -> Result<(u64, Digest)> {
        self.read(partition)
            .await
            .with_context(|| format!("partition {}", partition.key.label()))
    }

    async fn read(&self, partition: &Partition) -> Result<(u64, Digest)> {
        let limits = ReadLimits {
            batch_bytes: self.batch_bytes,
            budget: self.budget.clone(),
        };
        let start = Cursor::start();
        let batches = self
            .source
            .read(self.table, self.selection, partition, &start, &limits);
        let mut batches = batches.await?;
        let (mut rows, mut sum) = (0, Digest::default());
        while let Some(batch) = batches.next().await {
            let (records, selection) = (batch?.records, self.selection.clone());
            let count = move || {
                let selected = selection.filter(&records)?;
                Ok((selected.num_rows() as u64, digest(&selected)?))
            };
            let (batch_rows, batch_digest) = self.cpu.run(count).await?;
            rows += batch_rows;
            sum = sum.plus(batch_digest);
        }
        Ok((rows, sum))
    }
}
