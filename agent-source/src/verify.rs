//! Verify: reads both sides from what is stored and compares, partition by partition.
//!
//! A partition that differs is told apart by B's receipt: if A is still at the version that the receipt names, B is wrong
//! ("differs"); if A has moved on, or B never received it, B is only "behind".

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use strait_common::clock::now_ns;
use strait_common::digest::Digest;
use strait_common::engine::{Division, DivisionKind, Partition};
use strait_common::key::PartitionKey;
use strait_common::{Error, Result};
use strait_proto::v1;

use crate::agent::Agent;
use crate::answers::Answers;
use crate::job::{Mode, Spec};
use crate::plan::{self, Planned};

/// Partitions that are compared at a time.
const PAGE: usize = 64;
/// The same where most of them are not read: as many as a sink answers at once.
const PAGE_OF_SUMS: usize = 1000;

/// Compares and sends pages, then totals.
///
/// # Errors
/// `Config`, `Schema` or `Refused` if the two cannot be compared; `Unavailable` if a side cannot be reached, or has no memory to read with in time; what `send` says.
pub async fn verify(
    agent: &Arc<Agent>,
    request: v1::VerifyRequest,
    answers: &Answers<v1::VerifyReply>,
) -> Result<()> {
    let by_sums = request.sums;
    let spec = Spec::try_from(request.selectors.unwrap_or_default())?;
    let planned = plan::plan(
        agent,
        spec,
        Mode::Append { again: false },
        now_ns(),
        v1::SchemaPolicy::Freeze,
    )
    .await?;
    let otherwise = planned.reply.divided_otherwise.as_deref();
    let buckets = |level: &&Division| matches!(level.kind, DivisionKind::Hash { .. });
    if let (Some(there), Some(level)) = (otherwise, planned.wanted.divisions.iter().find(buckets)) {
        return Err(Error::refused(format!(
            "the source divides by {level} and the sink by ({there}): which bucket a row of the sink's is in only the source's engine knows, so they cannot be \
             compared"
        )));
    }
    let send = |body| answers.send(v1::VerifyReply { body: Some(body) });
    let mut totals = v1::VerifyTotals::default();
    let count = |totals: &mut v1::VerifyTotals, partition: &v1::VerifyPartition| {
        if partition.result != "equal" {
            agent.metrics.mismatched(&partition.result, 1);
        }
        count(totals, partition);
    };
    let (mut seen, mut all_read) = (std::collections::HashSet::new(), true);
    // Each question has B's table listed.
    let most = if by_sums { PAGE_OF_SUMS } else { PAGE };
    let mut pages = planned.partitions().await?.chunks(most);
    while let Some(page) = pages.next().await {
        let page = page.into_iter().collect::<Result<Vec<_>>>()?;
        seen.extend(page.iter().map(|partition| partition.key.clone()));
        let equal = match by_sums && otherwise.is_none() {
            true => planned.sides(agent).equal_by_sums(&page).await?,
            false => HashMap::new(),
        };
        totals.equal_by_sums += equal.len() as u64;
        let (partitions, read) = compare(agent, &planned, &page, &equal).await?;
        all_read &= read;
        partitions
            .iter()
            .for_each(|partition| count(&mut totals, partition));
        send(v1::verify_reply::Body::Page(v1::VerifyPage { partitions })).await?;
    }
    // What only B has, whoever put it there.
    let mut extra = Vec::new();
    let spec = &planned.job.spec;
    if otherwise.is_some() {
        // Rows that could not be read could be of any partition.
        if all_read
            && spec.is_of_all()
            && spec.partitions.is_empty()
            && let Some(rest) = rest(agent, &planned, &totals).await?
        {
            count(&mut totals, &rest);
            let partitions = vec![rest];
            send(v1::verify_reply::Body::Page(v1::VerifyPage { partitions })).await?;
        }
        return send(v1::verify_reply::Body::Totals(totals)).await;
    }
    let mut holdings = planned.sides(agent).holdings().await?;
    while let Some(page) = holdings.next().await? {
        let only_theirs = page.into_iter().map(|held| held.key);
        let only_theirs = only_theirs
            .filter(|key| !seen.contains(key) && !planned.selection.excludes(key))
            .filter(|key| spec.is_of_all() && spec.partitions.fit(key));
        extra.extend(only_theirs.map(|key| key.to_string()));
    }
    for keys in extra.chunks(PAGE) {
        let stored = planned.sides(agent).theirs(keys.to_vec()).await?;
        let stored: BTreeMap<_, _> = stored.into_iter().collect();
        let mut partitions = Vec::new();
        for (key, stored) in stored {
            let (rows, digest) = stored.rows?;
            if rows > 0 {
                partitions.push(v1::VerifyPartition {
                    key,
                    result: "extra".to_owned(),
                    rows_sink: rows,
                    digest_sink: digest.to_string(),
                    message: "the source has no such partition".to_owned(),
                    ..v1::VerifyPartition::default()
                });
            }
        }
        partitions
            .iter()
            .for_each(|partition| count(&mut totals, partition));
        if !partitions.is_empty() {
            send(v1::verify_reply::Body::Page(v1::VerifyPage { partitions })).await?;
        }
    }
    send(v1::verify_reply::Body::Totals(totals)).await
}

/// The rows of a table that is divided otherwise which are of no partition of A's.
async fn rest(
    agent: &Arc<Agent>,
    planned: &Planned,
    totals: &v1::VerifyTotals,
) -> Result<Option<v1::VerifyPartition>> {
    let whole = PartitionKey::default().to_string();
    let mut stored = planned.sides(agent).theirs(vec![whole.clone()]).await?;
    let all = stored.remove(&whole).map(|stored| stored.rows);
    // What cannot be read has been told with its partitions.
    let (rows, _) = all.and_then(Result::ok).unwrap_or_default();
    let rows_sink = rows.saturating_sub(totals.rows_sink);
    Ok((rows_sink > 0).then(|| v1::VerifyPartition {
        key: "(others)".to_owned(),
        result: "extra".to_owned(),
        rows_sink,
        message: "rows that are of no partition of the source".to_owned(),
        ..v1::VerifyPartition::default()
    }))
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

/// Both sides of some partitions, and whether all of B's could be read. Those that are known to be equal are not read.
async fn compare(
    agent: &Arc<Agent>,
    planned: &Planned,
    page: &[Partition],
    equal: &HashMap<String, u64>,
) -> Result<(Vec<v1::VerifyPartition>, bool)> {
    let sides = planned.sides(agent);
    let is_known = |partition: &&Partition| equal.contains_key(&partition.key.to_string());
    let unread: Vec<&Partition> = page.iter().filter(|one| !is_known(one)).collect();
    let keys = unread
        .iter()
        .map(|partition| partition.key.to_string())
        .collect();
    // Both sides read at the same time.
    let ours = async {
        let mut ours = Vec::with_capacity(unread.len());
        for partition in &unread {
            ours.push(sides.ours(agent, partition).await?);
        }
        Ok(ours)
    };
    let (ours, mut stored) = tokio::try_join!(ours, sides.theirs(keys))?;
    let all_read = stored.values().all(|stored| stored.rows.is_ok());
    let mut ours = ours.into_iter();
    let compared = page.iter().map(|partition| {
        let key = partition.key.to_string();
        if let Some(rows) = equal.get(&key) {
            return v1::VerifyPartition {
                key,
                result: "equal".to_owned(),
                rows_source: *rows,
                rows_sink: *rows,
                message: "by the stores' own checksums".to_owned(),
                ..v1::VerifyPartition::default()
            };
        }
        let ours = ours.next().unwrap_or_default();
        let (theirs, receipt) = match stored.remove(&key) {
            Some(stored) => (stored.rows, stored.receipt),
            None => (Ok((0, Digest::default())), None),
        };
        let (result, message) = match (&theirs, receipt) {
            (Ok(theirs), _) if *theirs == ours => ("equal", String::new()),
            (Err(error), _) => ("differs", error.to_string()),
            (Ok(_), Some(receipt)) if receipt.version == partition.version => (
                "differs",
                format!(
                    "B does not hold what its receipt says ({} rows)",
                    receipt.rows
                ),
            ),
            (Ok(_), Some(receipt)) => (
                "behind",
                format!(
                    "A has changed since it was copied with {} rows",
                    receipt.rows
                ),
            ),
            (Ok(_), None) => ("behind", "never copied".to_owned()),
        };
        let (rows_sink, digest_sink) = theirs.unwrap_or_default();
        v1::VerifyPartition {
            key,
            result: result.to_owned(),
            rows_source: ours.0,
            rows_sink,
            digest_source: ours.1.to_string(),
            digest_sink: digest_sink.to_string(),
            message,
        }
    });
    Ok((compared.collect(), all_read))
}
