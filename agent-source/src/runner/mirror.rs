//! The waiting of a mirror: asks B what it has, reads digests where that does not tell, and has dropped what may go.

use std::sync::Arc;

use futures::StreamExt;
use strait_common::engine::Confirmed;
use strait_common::fingerprint::Fingerprint;
use strait_common::fingerprint::is_its_own;
use strait_common::ids::{Epoch, RunId};
use strait_common::{Error, Result};

use super::Live;
use crate::agent::Agent;
use crate::compare::Sides;
use crate::run::{Run, Unread};
use crate::stream::Attempt;

/// Partitions of which digests are asked for at a time: as many as a sink answers at once, since each question lists its table.
const PAGE: usize = 1000;
/// What one message of confirmed receipts takes at most, in bytes, unless a single one takes more.
const CONFIRM_BYTES_MAX: usize = 1 << 20;
/// What a receipt takes beside its condition.
const RECEIPT_BYTES: usize = 1 << 10;

/// A comparison under way.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    pub(super) agent: &'a Arc<Agent>,
    pub(super) live: &'a Live,
    pub(super) sides: Sides<'a>,
    pub(super) run: RunId,
    pub(super) epoch: Epoch,
}

impl Comparison<'_> {
    /// Settles every partition of the plan that B has already, and finds those that only B has. Neither stop waits for it: it has changed nothing that is not decided
    /// anew.
    ///
    /// # Errors
    /// What either side says; `Cancelled` if a stop was asked for.
    pub(super) async fn compare(&self) -> Result<()> {
        tokio::select! {
            compared = self.all() => compared,
            () = self.live.shutdown.draining() => Err(Error::cancelled("stopped while comparing")),
        }
    }

    async fn all(&self) -> Result<()> {
        let mut holdings = self.sides.holdings().await?;
        let mut unread = Vec::new();
        while let Some(page) = holdings.next().await? {
            let look = move |run: &mut Run| {
                let looked = page.iter().map(|held| run.held(held));
                looked.collect::<Result<Vec<_>>>()
            };
            let looked = self.live.decide(&self.agent.cpu, look).await?;
            unread.extend(looked.into_iter().flatten());
            while unread.len() >= PAGE {
                let later = unread.split_off(PAGE);
                self.read(unread).await?;
                unread = later;
            }
        }
        self.read(unread).await
    }

    /// Reads what must be read of some partitions, both sides at the same time.
    async fn read(&self, unread: Vec<Unread>) -> Result<()> {
        let key = |unread: &Unread| unread.row.partition.key.to_string();
        let asked = unread.iter().filter(|unread| unread.known.theirs.is_none());
        let theirs = self.sides.theirs(asked.map(key).collect());
        let (mut theirs, ours) = tokio::try_join!(theirs, self.ours(&unread))?;
        let mut compared = Vec::with_capacity(unread.len());
        for (unread, ours) in unread.into_iter().zip(ours) {
            let (fingerprint, version) = match unread.known.theirs {
                Some(known) => (Some(known), unread.version.clone()),
                None => {
                    let label = unread.row.partition.key.label();
                    let stored = theirs.remove(&key(&unread)).ok_or_else(|| {
                        Error::corrupt(format!(
                            "partition {label}: the sink has not said what it holds"
                        ))
                    })?;
                    if let Err(error) = &stored.rows {
                        tracing::warn!(run = %self.run.short(), partition = %label, %error, "the sink cannot read what it holds; it is copied");
                    }
                    (stored.rows.ok(), stored.version)
                }
            };
            compared.push((unread, ours, fingerprint, version));
        }
        let settle = move |run: &mut Run| {
            let mut confirmed = Vec::new();
            for (unread, ours, theirs, version) in compared {
                match ours {
                    Ok(ours) => confirmed.extend(run.compared(&unread, ours, theirs, version)?),
                    Err(error) => run.unreadable(&unread, error)?,
                }
            }
            Ok(confirmed)
        };
        let confirmed = self.live.decide(&self.agent.cpu, settle).await?;
        self.confirm(&confirmed).await
    }

    /// A's rows of each; or why they cannot be read, where that is this partition's trouble alone.
    async fn ours(&self, unread: &[Unread]) -> Result<Vec<Result<Fingerprint>>> {
        let mut ours = Vec::with_capacity(unread.len());
        for Unread { row, known, .. } in unread {
            ours.push(match known.ours {
                Some(known) => Ok(known),
                None => match self.sides.ours(self.agent, &row.partition).await {
                    Err(error) if is_its_own(error.kind()) => Err(error),
                    ours => Ok(ours?),
                },
            });
        }
        Ok(ours)
    }

    /// Tells B's ledger, so that the next run need not read them. They have one condition, which may be long.
    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<()> {
        let job = self.sides.job;
        let each = RECEIPT_BYTES + job.resolved.len();
        for some in confirmed.chunks((CONFIRM_BYTES_MAX / each).max(1)) {
            let confirm = self
                .sides
                .link
                .confirm(&job.spec.to, self.run, self.epoch, some);
            confirm.await?;
        }
        Ok(())
    }
}

/// Drops what only B has, where that is allowed, when all else is committed. A is asked again what it has: a plan may be days old, and others may have copied since.
///
/// # Errors
/// What the sink says; `Unavailable` if the store cannot be written.
pub(super) async fn drop_extras(
    agent: &Arc<Agent>,
    live: &Arc<Live>,
    attempt: &Attempt,
) -> Result<()> {
    if attempt.shutdown.is_draining() || !live.decide(&agent.cpu, Run::drops_are_due).await? {
        return Ok(());
    }
    let listed = attempt
        .source
        .partitions(&attempt.table, &attempt.selection);
    let mut listed = listed.await?.chunks(PAGE);
    let mut count = 0;
    while let Some(page) = listed.next().await {
        count += page.len() as u64;
        let tell = move |run: &mut Run| page.into_iter().try_for_each(|found| run.has(&found?));
        live.decide(&agent.cpu, tell).await?;
    }
    live.decide(&agent.cpu, move |run| run.all_told(count))
        .await?;
    while let Some(row) = live.decide(&agent.cpu, Run::next_drop).await? {
        live.set_phase("dropping", String::new());
        let key = row.partition.key.clone();
        let dropped = attempt
            .link
            .drop_partition(&attempt.to, attempt.run, attempt.epoch, &key)
            .await;
        live.decide(&agent.cpu, move |run| run.dropped(&row, dropped))
            .await?;
        if attempt.shutdown.is_draining() {
            return Ok(());
        }
    }
    Ok(())
}
