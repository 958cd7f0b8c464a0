//! Verify: reads both sides from what is stored and compares, partition by partition.
//!
//! A partition that differs is told apart by B's receipt: if A is still at the version that the receipt names, B is wrong
//! ("differs"); if A has moved on, or B never received it, B is only "behind".

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use strait_common::digest::Digest;
use strait_common::engine::{Partition, Receipt};
use strait_common::fingerprint::Reading;
use strait_common::{Context, Result};
use strait_proto::v1;

use crate::agent::{Agent, now_ns};
use crate::answers::Answers;
use crate::job::Spec;
use crate::plan::{self, Planned};

/// Partitions that are compared at a time.
const PAGE: usize = 64;

/// Compares and sends pages, then totals.
///
/// # Errors
/// `Config`, `Schema` or `Refused` if the two cannot be compared; `Unavailable` if a side cannot be reached, or has no memory to read with in time; what `send` says.
pub async fn verify(
    agent: &Arc<Agent>,
    request: v1::VerifyRequest,
    answers: &Answers<v1::VerifyReply>,
) -> Result<()> {
    let spec = Spec::try_from(request.selectors.unwrap_or_default())?;
    let planned = plan::plan(agent, spec, false, now_ns(), true).await?;
    let send = |body| answers.send(v1::VerifyReply { body: Some(body) });
    let mut totals = v1::VerifyTotals::default();
    let mut seen = std::collections::HashSet::new();
    let mut pages = planned.partitions().await?.chunks(PAGE);
    while let Some(page) = pages.next().await {
        let page = page.into_iter().collect::<Result<Vec<_>>>()?;
        seen.extend(page.iter().map(|partition| partition.key.clone()));
        let partitions = compare(agent, &planned, &page).await?;
        partitions
            .iter()
            .for_each(|partition| count(&mut totals, partition));
        send(v1::verify_reply::Body::Page(v1::VerifyPage { partitions })).await?;
    }
    // What only B has: by its ledger, and by what is there, since other writers leave no receipt.
    let mut extra = Vec::new();
    let request = v1::DigestRequest {
        unreceipted_too: true,
        ..planned.digest_request(Vec::new(), true)?
    };
    let mut digests = planned.link().digests(request).await?;
    while let Some((reply, _)) = digests.next().await? {
        let key = reply.key.parse()?;
        if !seen.contains(&key) && !planned.selection.excludes(&key) {
            extra.push(reply.key);
        }
    }
    for keys in extra.chunks(PAGE) {
        let stored = stored(&planned, keys.to_vec()).await?;
        let partitions: Vec<_> = stored
            .into_iter()
            .filter(|(_, stored)| stored.rows > 0)
            .map(|(key, stored)| v1::VerifyPartition {
                key,
                result: "extra".to_owned(),
                rows_sink: stored.rows,
                digest_sink: stored.digest.to_string(),
                message: "the source has no such partition".to_owned(),
                ..v1::VerifyPartition::default()
            })
            .collect();
        partitions
            .iter()
            .for_each(|partition| count(&mut totals, partition));
        if !partitions.is_empty() {
            send(v1::verify_reply::Body::Page(v1::VerifyPage { partitions })).await?;
        }
    }
    send(v1::verify_reply::Body::Totals(totals)).await
}

fn count(totals: &mut v1::VerifyTotals, partition: &v1::VerifyPartition) {
    totals.partitions += 1;
    totals.rows_source += partition.rows_source;
    totals.rows_sink += partition.rows_sink;
    match partition.result.as_str() {
        "equal" => totals.equal += 1,
        "differs" => totals.differs += 1,
        "behind" => totals.behind += 1,
        _ => totals.extra += 1,
    }
}

/// What B holds for a key.
#[derive(Clone, Debug)]
struct Stored {
    rows: u64,
    digest: Digest,
    receipt: Option<Receipt>,
}

async fn compare(
    agent: &Arc<Agent>,
    planned: &Planned,
    page: &[Partition],
) -> Result<Vec<v1::VerifyPartition>> {
    let keys = page
        .iter()
        .map(|partition| partition.key.to_string())
        .collect();
    // Both sides read at the same time.
    let ours = async {
        let mut ours = Vec::with_capacity(page.len());
        for partition in page {
            ours.push(read(agent, planned, partition).await?);
        }
        Ok(ours)
    };
    let (ours, mut stored) = tokio::try_join!(ours, stored(planned, keys))?;
    let compared = page.iter().zip(ours).map(|(partition, (rows, digest))| {
        let key = partition.key.to_string();
        let theirs = stored.remove(&key);
        let (rows_sink, digest_sink) = theirs.as_ref().map_or((0, Digest::default()), |stored| {
            (stored.rows, stored.digest)
        });
        let receipt = theirs.and_then(|stored| stored.receipt);
        let (result, message) = if (rows, digest) == (rows_sink, digest_sink) {
            ("equal", String::new())
        } else {
            match receipt {
                Some(receipt) if receipt.version == partition.version => (
                    "differs",
                    format!(
                        "B does not hold what its receipt says ({} rows)",
                        receipt.rows
                    ),
                ),
                Some(receipt) => (
                    "behind",
                    format!(
                        "A has changed since it was copied with {} rows",
                        receipt.rows
                    ),
                ),
                None => ("behind", "never copied".to_owned()),
            }
        };
        v1::VerifyPartition {
            key,
            result: result.to_owned(),
            rows_source: rows,
            rows_sink,
            digest_source: digest.to_string(),
            digest_sink: digest_sink.to_string(),
            message,
        }
    });
    Ok(compared.collect())
}

async fn stored(planned: &Planned, keys: Vec<String>) -> Result<BTreeMap<String, Stored>> {
    let mut stored = BTreeMap::new();
    let request = planned.digest_request(keys, false)?;
    let mut digests = planned.link().digests(request).await?;
    while let Some((reply, receipt)) = digests.next().await? {
        let digest = reply
            .digest
            .as_deref()
            .map(Digest::from_bytes)
            .transpose()?
            .unwrap_or_default();
        stored.insert(
            reply.key,
            Stored {
                rows: reply.rows.unwrap_or(0),
                digest,
                receipt,
            },
        );
    }
    Ok(stored)
}

/// Rows and digest of a partition at A, read now.
async fn read(agent: &Agent, planned: &Planned, partition: &Partition) -> Result<(u64, Digest)> {
    let source = planned.source();
    let budget = agent.budget.for_stream();
    let lease_bytes = agent.stream_bytes(source.read_bytes(&planned.table));
    let lease = budget.lease_within(lease_bytes, agent.config.lease_wait_max);
    let _lease = lease.await.context("at the source")?;
    let reading = Reading {
        source,
        table: &planned.table.name,
        selection: &planned.selection,
        batch_bytes: agent.config.frame_bytes_max,
        budget: &budget,
        cpu: &agent.cpu,
    };
    reading.fingerprint(partition).await
}
