//! A correct source: one attempt of a run from `prepare` to `complete`, going on from what the sink's ledger says.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use strait_common::digest::{Digest, DigestId};
use strait_common::engine::{
    Attachment, Begun, Claim, Cursor, Disposition, Finished, Level, Mark, Outcome, Partition,
    PartitionFiles, PartitionWriter, Position, PositionState, Store,
};
use strait_common::files::FileDigest;
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_common::{Error, Result};

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
    /// Where A has the partitions as files, if those are sent in place of rows.
    pub files: Option<Store>,
    /// Whether every second attempt sends rows all the same.
    pub in_turns: bool,
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
    files: Option<OpenFiles>,
}

/// Files under way.
pub(crate) struct OpenFiles {
    files: Box<dyn PartitionFiles>,
    at: u32,
    sequence: u64,
    rows: u64,
    digest: Digest,
}

impl OpenFiles {
    /// The partition as a store lists it, and its files.
    pub(crate) async fn open(
        store: &Store,
        part: &Part,
    ) -> Result<(Partition, Box<dyn PartitionFiles>)> {
        let table = data::table_name()?;
        let everything = Selection::everything(&data::schema());
        let listed = store.source.partitions(&table, &everything).await?;
        let listed: Vec<Partition> = listed.try_collect().await?;
        let found = listed.into_iter().find(|listed| listed.key == part.key);
        let found = found.ok_or_else(|| Error::internal("A lacks a partition"))?;
        let shape = store.source.files_shape(&table).await?.unwrap_or_default();
        let files = store.source.files(&table, &everything, &found, &shape);
        let files = files.await?;
        let files = files.ok_or_else(|| Error::internal("A offers no files"))?;
        Ok((found, files))
    }

    /// The next file, in two pieces.
    async fn step(&mut self, writer: &mut Box<dyn PartitionWriter>) -> Result<bool> {
        let at = self.at as usize;
        let Some(file) = self.files.files().get(at).copied() else {
            return Ok(false);
        };
        let mut digest = FileDigest::default();
        let half = file.bytes / 2;
        for (offset, bytes) in [(0, half), (half, file.bytes - half)] {
            let bytes = usize::try_from(bytes).unwrap_or(0);
            let bytes = self.files.read(at, offset, bytes)?;
            digest.update(&bytes);
            writer.append_file(&file, bytes).await?;
            self.sequence += 1;
        }
        self.at += 1;
        self.rows += file.rows;
        self.digest = self.digest.plus(digest.digest());
        Ok(true)
    }

    fn is_over(&self) -> bool {
        self.at as usize >= self.files.files().len()
    }

    fn mark(&self) -> Mark {
        Mark {
            sequence: self.sequence,
            cursor: Cursor::after_files(self.at),
            rows: self.rows,
            digest: self.digest,
        }
    }
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
            files: None,
            in_turns: false,
        })
    }

    /// How it lives in this attempt, counted from 0.
    #[must_use]
    pub fn attempt(&self, attempt: usize) -> Life {
        let mut life = self.clone();
        if self.in_turns && attempt % 2 == 1 {
            life.files = None;
        }
        life
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
            // What was made of rows is no beginning of files, nor the reverse.
            held => held.filter(|held| held.cursor.is_of_files() == self.files.is_some()),
        };
        let mut files = None;
        if let Some(a) = &self.files {
            let (_, offered) = OpenFiles::open(a, part).await?;
            files = Some(OpenFiles {
                files: offered,
                at: from.map_or(Ok(0), |from| from.cursor.files())?,
                sequence: from.map_or(0, |from| from.sequence),
                rows: from.map_or(0, |from| from.rows),
                digest: from.map_or_else(Digest::default, |from| from.digest),
            });
        }
        let partition = part.partition();
        let begun = attachment.begin(&partition, self.disposition, from).await?;
        Ok(match begun {
            Begun::Already(_) => None,
            Begun::Writer(writer) => Some(Open {
                part,
                writer,
                rows: from.map_or(0, |from| from.rows),
                files,
            }),
        })
    }

    /// Copies the rest of these partitions in turns, chunk by chunk. The last rows of each are given without a checkpoint. Says whether the
    /// attempt goes on.
    async fn write(&self, mut open: Vec<Open<'_>>, left: &mut usize) -> Result<bool> {
        loop {
            let mut wrote = false;
            for Open {
                part,
                writer,
                rows,
                files,
            } in &mut open
            {
                if let Some(files) = files {
                    if files.step(writer).await? {
                        wrote = true;
                        if !files.is_over() {
                            writer.checkpoint(files.mark()).await?;
                            *left = left.saturating_sub(1);
                            if *left == 0 {
                                return Ok(false);
                            }
                        }
                    }
                    continue;
                }
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
        for Open {
            part,
            writer,
            files,
            ..
        } in open.into_iter().rev()
        {
            let mut receipt = part.receipt()?;
            if let Some(files) = files {
                receipt.digest = files.digest;
                receipt.digest_id = DigestId::of_files();
                receipt.level = Level::Bytes;
            }
            match writer.finish(receipt).await? {
                Finished::Now | Finished::Already(_) => {}
            }
        }
        Ok(true)
    }
}
