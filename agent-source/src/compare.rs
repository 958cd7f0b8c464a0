//! Both sides of a table as they are now: what B has, and rows and digests read where they are stored.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use strait_common::digest::Digest;
use strait_common::engine::{Division, Partition, Receipt, Source, StoreSums, Version};
use strait_common::fingerprint::{Fingerprint, Reading, sums_of};
use strait_common::ids::TableName;
use strait_common::selection::Selection;
use strait_common::{Context, Error, Kind, Result, wire};
use strait_proto::v1;

use crate::agent::Agent;
use crate::job::Job;
use crate::link::{self, Holdings, Link};

/// The two sides of a job.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// What is selected from where.
    pub job: &'a Job,
    /// The selection, resolved.
    pub selection: &'a Selection,
    /// The job's columns.
    pub schema: &'a SchemaRef,
    /// How A is divided.
    pub divisions: &'a [Division],
    /// The table at A.
    pub table: &'a TableName,
    /// The store it is in.
    pub source: &'a Arc<dyn Source>,
    /// What a read of it holds of this agent's memory, in bytes.
    pub stream_bytes: u64,
    /// The way to B.
    pub link: &'a Link,
}

/// What B holds under a key.
#[derive(Debug)]
pub struct Stored {
    /// Its rows; or why they cannot be read, which is this partition's trouble alone.
    pub rows: Result<Fingerprint>,
    /// The version that was read; none where B has no such partition.
    pub version: Option<Version>,
    /// Its newest receipt.
    pub receipt: Option<Receipt>,
}

impl Sides<'_> {
    fn selection_text(&self) -> v1::SelectionText {
        let spec = &self.job.spec.selection;
        v1::SelectionText {
            predicate: spec.predicate.clone(),
            columns: self.selection.columns().to_vec(),
            zone: spec.zone.clone().unwrap_or_else(|| "UTC".to_owned()),
            now: self.job.now,
        }
    }

    /// The request for what B holds under these keys, or for its receipts alone.
    ///
    /// # Errors
    /// `Internal` if Arrow cannot write the schema.
    pub fn digest_request(
        &self,
        keys: Vec<String>,
        receipts_only: bool,
    ) -> Result<v1::DigestRequest> {
        Ok(v1::DigestRequest {
            target: Some(link::target(&self.job.spec.to)),
            selection: Some(self.selection_text()),
            shape: Some(wire::shape(self.schema, self.divisions)?),
            digest_id: self.job.digest_id.clone(),
            keys,
            receipts_only,
            peer_timeout_ms: 0,
            sums: false,
        })
    }

    /// What B has of the selected partitions.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn holdings(&self) -> Result<Holdings> {
        let request = v1::HoldingsRequest {
            target: Some(link::target(&self.job.spec.to)),
            selection: Some(self.selection_text()),
            shape: Some(wire::shape(self.schema, self.divisions)?),
            digest_id: self.job.digest_id.clone(),
            peer_timeout_ms: 0,
        };
        self.link.holdings(request).await
    }

    /// What B holds under these keys, read now.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn theirs(&self, keys: Vec<String>) -> Result<HashMap<String, Stored>> {
        let mut stored = HashMap::new();
        if keys.is_empty() {
            return Ok(stored);
        }
        let mut digests = self.link.digests(self.digest_request(keys, false)?).await?;
        while let Some((reply, receipt)) = digests.next().await? {
            let rows = match reply.kind {
                Some(kind) => Err(Error::new(
                    Kind::from_name(&kind).unwrap_or(Kind::Internal),
                    format!("at the sink: {}", reply.message),
                )),
                None => {
                    let digest = reply.digest.as_deref().map(Digest::from_bytes);
                    Ok((
                        reply.rows.unwrap_or(0),
                        digest.transpose()?.unwrap_or_default(),
                    ))
                }
            };
            let stored_here = Stored {
                rows,
                version: reply.version.map(wire::version).transpose()?,
                receipt,
            };
            stored.insert(reply.key, stored_here);
        }
        Ok(stored)
    }

    /// Those of some partitions of which both stores compute the same by themselves, with their rows. Empty where A's store computes nothing; then B is not asked.
    ///
    /// # Errors
    /// What either side says; `Unavailable` if the sink cannot be reached.
    pub async fn equal_by_sums(&self, partitions: &[Partition]) -> Result<HashMap<String, u64>> {
        let mut ours = HashMap::new();
        for partition in partitions {
            let sums = sums_of(self.source, self.table, self.selection, partition);
            if let Some(sums) = sums.await? {
                ours.insert(partition.key.to_string(), sums);
            }
        }
        let mut equal = HashMap::new();
        if ours.is_empty() {
            return Ok(equal);
        }
        let request = v1::DigestRequest {
            sums: true,
            ..self.digest_request(ours.keys().cloned().collect(), false)?
        };
        let mut replies = self.link.digests(request).await?;
        while let Some((reply, _)) = replies.next().await? {
            let (Some(rows), Some(theirs)) = (reply.rows, reply.sums) else {
                continue;
            };
            let theirs = StoreSums {
                kind: theirs.kind,
                rows,
                sums: theirs.sums,
            };
            if ours.get(&reply.key) == Some(&theirs) {
                equal.insert(reply.key, rows);
            }
        }
        Ok(equal)
    }

    /// Rows and digest of a partition at A, read now.
    ///
    /// # Errors
    /// What the engine says; `Unavailable` if no memory came free in time.
    pub async fn ours(&self, agent: &Agent, partition: &Partition) -> Result<Fingerprint> {
        let budget = agent.budget.for_stream();
        let lease = budget.lease_within(self.stream_bytes, agent.config.lease_wait_max);
        let _lease = lease.await.context("at the source")?;
        let reading = Reading {
            source: self.source,
            table: self.table,
            selection: self.selection,
            batch_bytes: agent.config.frame_bytes_max,
            budget: &budget,
            cpu: &agent.cpu,
        };
        reading.fingerprint(partition).await
    }
}
