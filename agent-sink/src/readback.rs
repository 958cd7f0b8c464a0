//! Reads partitions of B back and digests what is stored there, for `verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use strait_common::budget::Budget;
use strait_common::cpu::CpuPool;
use strait_common::digest::{Digest, DigestId};
use strait_common::engine::{Partition, Receipt, Store, Table};
use strait_common::fingerprint::Reading;
use strait_common::key::PartitionKey;
use strait_common::patience::{patient_stream, within};
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::{Context, Error, Result};
use strait_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

/// A batch that is read back, in bytes.
const BATCH_BYTES: u64 = 1 << 20;

/// One request to read back.
#[derive(Debug)]
pub struct Readback {
    /// Where B's table is.
    pub store: Store,
    /// The run's columns and divisions at A, under B's name of the table.
    pub wanted: Table,
    /// What A selects.
    pub selection: v1::SelectionText,
    /// What A's digests are computed by.
    pub digest_id: DigestId,
    /// The partitions asked for; all if empty.
    pub keys: Vec<PartitionKey>,
    /// Whether the ledger alone answers.
    pub receipts_only: bool,
    /// Whether partitions without a receipt are named then, too.
    pub unreceipted_too: bool,
    /// What reading takes its lease from.
    pub budget: Budget,
    /// Where digests are computed.
    pub cpu: CpuPool,
    /// The longest that one act of the engine may take, and the longest wait for memory.
    pub engine_timeout: Duration,
}

impl Readback {
    /// Answers for each key, in order of key.
    ///
    /// # Errors
    /// `Schema` if B's columns cannot be compared with A's; else what the engine says.
    pub async fn run(self, replies: &mpsc::Sender<Result<v1::DigestReply, Status>>) -> Result<()> {
        let wanted: BTreeSet<PartitionKey> = self.keys.iter().cloned().collect();
        let is_wanted = |key: &PartitionKey| wanted.is_empty() || wanted.contains(key);
        let mut receipts: BTreeMap<PartitionKey, Vec<Receipt>> = BTreeMap::new();
        let all = self.store.sink.receipts(&self.wanted.name);
        let all = within(self.engine_timeout, "receipts", all).await?;
        let mut all = patient_stream(all, self.engine_timeout, "receipts");
        while let Some(receipt) = all.next().await {
            let receipt = receipt?;
            if is_wanted(&receipt.key) {
                receipts
                    .entry(receipt.key.clone())
                    .or_default()
                    .push(receipt);
            }
        }
        if self.receipts_only && !self.unreceipted_too {
            for (key, of_key) in &receipts {
                for receipt in of_key {
                    reply(replies, key, None, Some(receipt)).await?;
                }
            }
            return Ok(());
        }
        let newest = |key: &PartitionKey| receipts.get(key).and_then(|of_key| of_key.last());
        let table = self.store.source.describe(&self.wanted.name).await?;
        let selection = self.resolve(&table)?;
        let mut partitions = BTreeMap::new();
        let mut all = self
            .store
            .source
            .partitions(&table.name, &selection)
            .await?;
        while let Some(partition) = all.next().await {
            let partition = partition?;
            if is_wanted(&partition.key) {
                partitions.insert(partition.key.clone(), partition);
            }
        }
        if self.receipts_only {
            let keys: BTreeSet<&PartitionKey> = receipts.keys().chain(partitions.keys()).collect();
            for key in keys {
                reply(replies, key, None, newest(key)).await?;
            }
            return Ok(());
        }
        let keys: BTreeSet<&PartitionKey> = if wanted.is_empty() {
            partitions.keys().collect()
        } else {
            wanted.iter().collect()
        };
        for key in keys {
            let stored = match partitions.get(key) {
                Some(partition) => self.read(&table, &selection, partition).await?,
                None => (0, Digest::default()),
            };
            reply(replies, key, Some(stored), newest(key)).await?;
        }
        Ok(())
    }

    fn resolve(&self, table: &Table) -> Result<Selection> {
        let spec = SelectionSpec {
            predicate: self.selection.predicate.clone(),
            columns: Some(self.selection.columns.clone()),
            zone: Some(self.selection.zone.clone()),
        };
        let selection =
            Selection::resolve(&spec, &table.schema, self.selection.now).context("at the sink")?;
        let columns = selection
            .columns()
            .iter()
            .map(|name| table.schema.index_of(name));
        let columns = columns
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::schema("at the sink").with_source(error))?;
        let schema = table
            .schema
            .project(&columns)
            .map_err(|error| Error::schema("at the sink").with_source(error))?;
        let digest_id = DigestId::of(&schema)?;
        if digest_id != self.digest_id {
            return Err(Error::schema(format!(
                "table {}: the columns at the sink are not of the kinds they have at the source, so rows cannot be compared",
                table.name
            )));
        }
        Ok(selection)
    }

    async fn read(
        &self,
        table: &Table,
        selection: &Selection,
        partition: &Partition,
    ) -> Result<(u64, Digest)> {
        let lease_bytes = self.store.source.read_bytes(table) + 3 * BATCH_BYTES;
        let lease = self.budget.lease_within(lease_bytes, self.engine_timeout);
        let _lease = lease.await.context("at the sink")?;
        let reading = Reading {
            source: &self.store.source,
            table: &table.name,
            selection,
            batch_bytes: BATCH_BYTES,
            budget: &self.budget,
            cpu: &self.cpu,
        };
        reading.fingerprint(partition).await
    }
}

/// Tells the source again and again that this side is alive, until the source is gone or this is dropped.
pub async fn alive(replies: &mpsc::Sender<Result<v1::DigestReply, Status>>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        let alive = v1::DigestReply {
            alive: true,
            ..v1::DigestReply::default()
        };
        if replies.send(Ok(alive)).await.is_err() {
            return;
        }
    }
}

async fn reply(
    replies: &mpsc::Sender<Result<v1::DigestReply, Status>>,
    key: &PartitionKey,
    stored: Option<(u64, Digest)>,
    receipt: Option<&Receipt>,
) -> Result<()> {
    let reply = v1::DigestReply {
        key: key.to_string(),
        rows: stored.map(|(rows, _)| rows),
        digest: stored.map(|(_, digest)| digest.to_bytes().to_vec().into()),
        receipt: receipt.map(Into::into),
        alive: false,
    };
    replies
        .send(Ok(reply))
        .await
        .map_err(|_| Error::cancelled("the source has left"))
}
