//! A correct source: one attempt of a run from `prepare` to `complete`, going on from what the sink's ledger says.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use strait_common::Result;
use strait_common::engine::{
    Attachment, Begun, Claim, Disposition, Finished, Outcome, PartitionWriter, Position,
    PositionState, Store,
};
use strait_common::key::PartitionKey;

use crate::data::{self, Divided, Part};

/// What a run does; the same for each of its attempts.
#[derive(Clone, Debug)]
pub struct Life {
    /// Who it is.
    pub claim: Claim,
    /// What A holds.
    pub parts: Vec<Part>,
    /// How the table is divided, if it is.
    pub divided: Option<Divided>,
    /// What happens to rows that B has already.
    pub disposition: Disposition,
    /// Rows between two checkpoints.
    pub chunk_rows: u64,
    /// Whether all partitions are written at once, in turns, and finished in reverse order.
    pub interleaved: bool,
}

/// How far an attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To `complete`.
    Complete,
    /// Until this many chunks are durable; then the process is gone.
    Chunks(usize),
}

/// A partition under way in one attempt.
struct Open<'a> {
    part: &'a Part,
    writer: Box<dyn PartitionWriter>,
    rows: u64,
}

impl Life {
    /// Run number `run`, which appends these partitions one after the other.
    ///
    /// # Errors
    /// None that can happen.
    pub fn new(run: u128, parts: Vec<Part>) -> Result<Life> {
        Ok(Life {
            claim: data::claim(run)?,
            divided: parts
                .first()
                .map_or(Some(Divided::Values), |part| part.divided),
            parts,
            disposition: Disposition::Append,
            chunk_rows: 3,
            interleaved: false,
        })
    }

    /// One attempt of it.
    ///
    /// # Errors
    /// What the engine returns.
    pub async fn live(&self, store: &Store, until: Until) -> Result<()> {
        if self.divided == Some(Divided::Numbers) {
            // Somebody else has made the table, and divided it otherwise.
            let table = data::table(true)?;
            store.sink.prepare(&table.name, &table, false).await?;
        }
        let table = data::table_of(self.divided)?;
        store.sink.prepare(&self.claim.table, &table, false).await?;
        let attachment = store.sink.attach(&self.claim).await?;
        let positions: Vec<Position> = attachment.positions().await?.try_collect().await?;
        let positions: BTreeMap<PartitionKey, Position> =
            positions.into_iter().map(|p| (p.key.clone(), p)).collect();
        let mut left = match until {
            Until::Complete => usize::MAX,
            Until::Chunks(chunks) => chunks,
        };
        let mut waiting = self.parts.iter();
        loop {
            let count = if self.interleaved { usize::MAX } else { 1 };
            let mut open = Vec::new();
            for part in waiting.by_ref().take(count) {
                let held = positions.get(&part.key);
                open.extend(self.begin(attachment.as_ref(), part, held).await?);
            }
            if open.is_empty() && waiting.len() == 0 {
                break;
            }
            if !self.write(open, &mut left).await? {
                return Ok(());
            }
        }
        attachment.complete(Outcome::Done).await
    }

    /// Opens the partition where the ledger says, unless it is there already.
    async fn begin<'a>(
        &self,
        attachment: &dyn Attachment,
        part: &'a Part,
        held: Option<&Position>,
    ) -> Result<Option<Open<'a>>> {
        let held = held.filter(|held| held.version.0 == part.version);
        let from = match held {
            // This run's, or an earlier run's with the same version: nothing to copy.
            Some(Position {
                state: PositionState::Committed(_),
                ..
            }) => return Ok(None),
            held => held,
        };
        let partition = part.partition();
        let begun = attachment.begin(&partition, self.disposition, from).await?;
        Ok(match begun {
            Begun::Already(_) => None,
            Begun::Writer(writer) => Some(Open {
                part,
                writer,
                rows: from.map_or(0, |from| from.rows),
            }),
        })
    }

    /// Copies the rest of these partitions in turns, chunk by chunk. The last rows of each are given without a checkpoint. Says whether the
    /// attempt goes on.
    async fn write(&self, mut open: Vec<Open<'_>>, left: &mut usize) -> Result<bool> {
        loop {
            let mut wrote = false;
            for Open { part, writer, rows } in &mut open {
                if *rows == part.len() {
                    continue;
                }
                let end = part.len().min(*rows + self.chunk_rows);
                // Two appends, so that a chunk is more than one.
                let middle = *rows + (end - *rows) / 2;
                writer.append(part.rows(*rows, middle)?).await?;
                writer.append(part.rows(middle, end)?).await?;
                *rows = end;
                wrote = true;
                if end < part.len() {
                    writer.checkpoint(part.mark(end)?).await?;
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        return Ok(false);
                    }
                }
            }
            if !wrote {
                break;
            }
        }
        for Open { part, writer, .. } in open.into_iter().rev() {
            match writer.finish(part.receipt()?).await? {
                Finished::Now | Finished::Already(_) => {}
            }
        }
        Ok(true)
    }
}
