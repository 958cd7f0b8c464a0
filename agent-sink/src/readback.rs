//! Reads partitions of B back and digests what is stored there, for `verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use strait_common::budget::Budget;
use strait_common::cpu::CpuPool;
use strait_common::digest::DigestId;
use strait_common::engine::{Holding, Partition, Receipt, Store, Table};
use strait_common::fingerprint::{Fingerprint, Reading, is_its_own, sums_of};
use strait_common::key::PartitionKey;
use strait_common::patience::{patient_stream, within};
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::{Context, Error, Kind, Result};
use strait_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

use crate::page::Page;

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
        if self.receipts_only {
            for (key, of_key) in &receipts {
                for receipt in of_key {
                    reply(replies, answer(key, Some(receipt))).await?;
                }
            }
            return Ok(());
        }
        let newest = |key: &PartitionKey| receipts.get(key).and_then(|of_key| of_key.last());
        let table = self.store.source.describe(&self.wanted.name).await?;
        let selection = self.resolve(&table)?;
        if table.divisions != self.wanted.divisions {
            let keys = wanted.iter().cloned().collect();
            for (key, stored) in self.apart(&table, &selection, keys).await? {
                let answer = answer(&key, newest(&key));
                reply(replies, with(answer, stored)?).await?;
            }
            return Ok(());
        }
        let partitions = self.partitions(&table, &selection, is_wanted).await?;
        let keys: BTreeSet<&PartitionKey> = if wanted.is_empty() {
            partitions.keys().collect()
        } else {
            wanted.iter().collect()
        };
        let whole = Arc::new(vec![PartitionKey::default()]);
        for key in keys {
            let mut answer = answer(key, newest(key));
            let stored = match partitions.get(key) {
                Some(partition) => {
                    answer.version = Some(partition.version.0.clone());
                    let read = self.read(&table, &selection, partition, &whole).await;
                    read.map(|mut sums| sums.pop().unwrap_or_default())
                }
                None => Ok(Fingerprint::default()),
            };
            reply(replies, with(answer, stored)?).await?;
        }
        Ok(())
    }

    /// Answers for each key with what the store computes by itself, in order of key; nothing is read, the ledger neither.
    ///
    /// # Errors
    /// As [`run`](Readback::run).
    pub async fn sums(self, replies: &mpsc::Sender<Result<v1::DigestReply, Status>>) -> Result<()> {
        let table = self.store.source.describe(&self.wanted.name).await?;
        if table.divisions != self.wanted.divisions {
            return Ok(());
        }
        let selection = self.resolve(&table)?;
        let wanted: BTreeSet<&PartitionKey> = self.keys.iter().collect();
        let is_wanted = |key: &PartitionKey| wanted.contains(key);
        let partitions = self.partitions(&table, &selection, is_wanted).await?;
        for (key, partition) in partitions {
            let found = sums_of(&self.store.source, &table.name, &selection, &partition).await?;
            let mut answer = answer(&key, None);
            if let Some(found) = found {
                answer.rows = Some(found.rows);
                answer.sums = Some(v1::StoreSums {
                    kind: found.kind,
                    sums: found.sums,
                });
            }
            reply(replies, answer).await?;
        }
        Ok(())
    }

    /// The partitions of these keys that B has.
    async fn partitions(
        &self,
        table: &Table,
        selection: &Selection,
        is_wanted: impl Fn(&PartitionKey) -> bool,
    ) -> Result<BTreeMap<PartitionKey, Partition>> {
        let mut partitions = BTreeMap::new();
        let all = self.store.source.partitions(&table.name, selection);
        let mut all = all.await?;
        while let Some(partition) = all.next().await {
            let partition = partition?;
            if is_wanted(&partition.key) {
                partitions.insert(partition.key.clone(), partition);
            }
        }
        Ok(partitions)
    }

    /// What B has of the selected partitions, in pages, the last of which says so.
    ///
    /// # Errors
    /// As [`run`](Readback::run).
    pub async fn holdings(
        self,
        replies: &mpsc::Sender<Result<v1::HoldingsReply, Status>>,
    ) -> Result<()> {
        let send = async |holdings, last| {
            let reply = v1::HoldingsReply {
                holdings,
                last,
                alive: false,
            };
            let sent = replies.send(Ok(reply)).await;
            sent.map_err(|_| Error::cancelled("the source has left"))
        };
        if !self
            .store
            .source
            .tables()
            .await?
            .contains(&self.wanted.name)
        {
            return send(Vec::new(), true).await;
        }
        let table = self.store.source.describe(&self.wanted.name).await?;
        let selection = self.pruning(&table);
        let all = self.store.sink.holdings(&table.name, &selection);
        let all = within(self.engine_timeout, "holdings", all).await?;
        let mut all = patient_stream(all, self.engine_timeout, "holdings");
        let mut page = Page::default();
        while let Some(holding) = all.next().await {
            if let Some(full) = page.push(holding_message(&holding?)) {
                send(full, false).await?;
            }
        }
        send(page.rest(), true).await
    }

    /// What leaves partitions out by their keys. Columns that B does not have yet leave out none: the source looks again at what it is told.
    fn pruning(&self, table: &Table) -> Selection {
        let spec = SelectionSpec {
            columns: None,
            ..self.spec()
        };
        Selection::resolve(&spec, &table.schema, self.selection.now)
            .unwrap_or_else(|_| Selection::everything(&table.schema))
    }

    fn spec(&self) -> SelectionSpec {
        SelectionSpec {
            predicate: self.selection.predicate.clone(),
            columns: Some(self.selection.columns.clone()),
            zone: Some(self.selection.zone.clone()),
        }
    }

    fn resolve(&self, table: &Table) -> Result<Selection> {
        let selection = Selection::resolve(&self.spec(), &table.schema, self.selection.now)
            .context("at the sink")?;
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

    /// What a table that is divided otherwise has of each of A's keys: all of it is read once, and rows are told apart.
    async fn apart(
        &self,
        table: &Table,
        selection: &Selection,
        keys: Vec<PartitionKey>,
    ) -> Result<Vec<(PartitionKey, Result<Fingerprint>)>> {
        let keys = Arc::new(keys);
        let mut sums = vec![Fingerprint::default(); keys.len()];
        let partitions = self.store.source.partitions(&table.name, selection);
        let mut partitions = partitions.await?;
        while let Some(partition) = partitions.next().await {
            match self.read(table, selection, &partition?, &keys).await {
                Ok(found) => {
                    for (sum, (rows, digest)) in sums.iter_mut().zip(found) {
                        *sum = (sum.0 + rows, sum.1.plus(digest));
                    }
                }
                // It may have rows of any of them.
                Err(error) if is_its_own(error.kind()) && error.kind() != Kind::Refused => {
                    let same = || Err(Error::new(error.kind(), error.to_string()));
                    return Ok(keys.iter().map(|key| (key.clone(), same())).collect());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(keys.iter().cloned().zip(sums.into_iter().map(Ok)).collect())
    }

    async fn read(
        &self,
        table: &Table,
        selection: &Selection,
        partition: &Partition,
        keys: &Arc<Vec<PartitionKey>>,
    ) -> Result<Vec<Fingerprint>> {
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
        reading.fingerprints(partition, keys).await
    }
}

/// Tells the source again and again that this side is alive, by this reply, until the source is gone or this is dropped.
pub async fn alive<T: Clone>(
    replies: &mpsc::Sender<Result<T, Status>>,
    alive: T,
    interval: Duration,
) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if replies.send(Ok(alive.clone())).await.is_err() {
            return;
        }
    }
}

fn holding_message(holding: &Holding) -> v1::Holding {
    let stored = holding.partition.as_ref();
    v1::Holding {
        key: holding.key.to_string(),
        stored: stored.map(|partition| v1::StoredPartition {
            version: partition.version.0.clone(),
            rows: partition.rows,
        }),
        receipt: holding.receipts.last().map(Into::into),
        receipts: holding.receipts.len() as u64,
        intact: holding.intact,
    }
}

fn answer(key: &PartitionKey, receipt: Option<&Receipt>) -> v1::DigestReply {
    v1::DigestReply {
        key: key.to_string(),
        receipt: receipt.map(Into::into),
        ..v1::DigestReply::default()
    }
}

/// The answer with what is stored, or with why that partition cannot be read.
///
/// # Errors
/// What ends the whole request.
fn with(mut answer: v1::DigestReply, stored: Result<Fingerprint>) -> Result<v1::DigestReply> {
    match stored {
        Ok((rows, digest)) => {
            answer.rows = Some(rows);
            answer.digest = Some(digest.to_bytes().to_vec().into());
        }
        Err(error) if is_its_own(error.kind()) => {
            answer.kind = Some(error.kind().name().to_owned());
            answer.message = error.to_string();
        }
        Err(error) => return Err(error),
    }
    Ok(answer)
}

async fn reply(
    replies: &mpsc::Sender<Result<v1::DigestReply, Status>>,
    reply: v1::DigestReply,
) -> Result<()> {
    let sent = replies.send(Ok(reply)).await;
    sent.map_err(|_| Error::cancelled("the source has left"))
}
