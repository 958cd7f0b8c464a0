//! One run, decided: what the sink's ledger means for each partition, which partition comes next, what a failure leads to,
//! and how the run ends.
//!
//! Plain decisions over the stored plan: no socket, no clock (the time is given), no engine. [`runner`](crate::runner) waits and
//! calls; the simulation calls in any order.
//!
//! What it guards:
//!
//! - A run goes on from the sink's ledger: an attempt begins by forgetting every state, and only positions of this attempt's attach set them.
//! - A position counts only for the version in the stored plan; with any other the partition starts again.
//! - A partition whose stream was lost is unknown: nobody touches it before the ledger was read again.
//! - A new version is written into the stored plan before anything of it is read.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use strait_common::engine::{Outcome, Partition, Position, PositionState, Receipt};
use strait_common::ids::RunId;
use strait_common::key::PartitionKey;
use strait_common::retry::Backoff;
use strait_common::{Error, Kind, Result};

use crate::job::{Job, Mode, Order};
use crate::overlap::{Overlap, Overlaps};
use crate::runs::{Change, Extra, PartitionRow, PartitionState, RunStore, Spent, Status, Totals};
use crate::session::{Assignment, Report};

mod mirror;

pub use mirror::{Known, Look, Unread, look};

/// How often a partition may have moved before it fails as "still changing".
pub const MOVED_MAX: u32 = 3;
/// Partitions that are read from the stored plan at a time.
const PAGE: u32 = 2000;
/// Changes that may wait to be written together.
const CHANGES_MAX: usize = 2000;

/// What the ledger says about a partition of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This run has committed it.
    Done(Receipt),
    /// An earlier run has committed the same rows.
    Already(Receipt),
    /// Go on from here.
    Resume(Position),
    /// Copy all of it.
    Start,
    /// Appending could double rows: an earlier run has committed some that this one may select too. Why, in words.
    Refused(String),
}

/// Reads one position of the ledger for a partition of the stored plan.
pub fn standing(
    run: RunId,
    job: &Job,
    overlaps: &mut Overlaps,
    planned: &Partition,
    position: &Position,
) -> Standing {
    match &position.state {
        PositionState::Committed(receipt) if position.run == run => Standing::Done(receipt.clone()),
        PositionState::Committed(receipt) => match earlier(job, overlaps, planned, receipt) {
            Earlier::Others => Standing::Start,
            Earlier::Refused(why) => Standing::Refused(format!(
                "run {} has already copied rows of this partition: {why}; appending could double them. Add --again to append all the same, \
                     if the rows are known to be others; `--mode mirror` makes the sink's partitions equal to the source's",
                position.run
            )),
            Earlier::Already => Standing::Already(receipt.clone()),
        },
        PositionState::Staged if position.run == run && position.version == planned.version => {
            Standing::Resume(position.clone())
        }
        PositionState::Staged | PositionState::Dropped => Standing::Start,
    }
}

/// What a receipt of an earlier run means for a partition of the plan. Of several the greatest decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Earlier {
    /// Its rows are others, or the operator says so.
    Others,
    /// Its rows could be doubled. Why, in words.
    Refused(String),
    /// It is of the same rows.
    Already,
}

/// Reads a receipt of another run for a partition of the plan.
pub fn earlier(
    job: &Job,
    overlaps: &mut Overlaps,
    planned: &Partition,
    receipt: &Receipt,
) -> Earlier {
    let Mode::Append { again } = job.mode else {
        return Earlier::Others;
    };
    match overlaps.with(receipt, &planned.key) {
        Overlap::Same if receipt.is_of(planned) => Earlier::Already,
        Overlap::Disjoint => Earlier::Others,
        _ if again => Earlier::Others,
        Overlap::Same => Earlier::Refused(
            "the partition has changed at the source since, and which of its rows are new cannot be told".to_owned(),
        ),
        Overlap::Possible if condition(&receipt.selection) == condition(&job.resolved) => {
            Earlier::Refused("it copied other columns of the same rows".to_owned())
        }
        Overlap::Possible => Earlier::Refused(format!(
            "it selected {}, this run selects {}, and nothing shows that no row is in both",
            condition(&receipt.selection),
            condition(&job.resolved)
        )),
    }
}

/// The condition of a resolved selection, without its columns, which are the same for both or many.
fn condition(selection: &str) -> String {
    match selection.split_once(" where ") {
        Some((_, condition)) => format!("`{condition}`"),
        None => "every row".to_owned(),
    }
}

/// The answer to "what next?".
#[derive(Debug)]
pub enum Next {
    /// Copy this.
    Partition(Box<Assignment>),
    /// Nothing before this time (milliseconds on the caller's clock).
    Wait(u64),
    /// Others work on what is left.
    Busy,
    /// Nothing is left.
    Nothing,
}

/// How an attempt ended, when all its streams have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The claim can end like this.
    Complete(Outcome),
    /// The fate of some partitions is unknown, or some were left: attach again.
    Again,
}

/// How a run stands when its last attempt has ended like this. `asked` is how an operator wanted it to stand, if one asked for the stop.
pub fn status_after(ended: &Result<Outcome>, asked: Option<Status>) -> Status {
    match ended {
        Ok(Outcome::Done) => Status::Done,
        Ok(Outcome::Partial) => Status::Partial,
        Ok(Outcome::Abandoned) => Status::Abandoned,
        // Unasked, the agent stops: the run goes on when it starts again.
        Err(error) if error.kind() == Kind::Cancelled => asked.unwrap_or(Status::Running),
        Err(_) => Status::Failed,
    }
}

/// A run under way.
#[derive(Debug)]
pub struct Run {
    id: RunId,
    job: Job,
    store: RunStore,
    backoff: Backoff,
    order: Order,
    /// Pending partitions read from the plan, next first.
    page: VecDeque<PartitionRow>,
    /// The last one that was read.
    page_end: Option<u64>,
    exhausted: bool,
    resume_from: HashMap<u64, Position>,
    running: BTreeMap<u64, Running>,
    /// Failed for now; by the time they may be tried again.
    delayed: BTreeMap<(u64, u64), PartitionRow>,
    unknown: HashSet<u64>,
    /// What this run selects, beside what others did; since the attach.
    overlaps: Option<Overlaps>,
    /// The partition of which others' receipts arrive, and what they lead to so far: that one is there already, or why it is refused.
    arriving: Option<(PartitionRow, Result<Receipt, String>)>,
    changes: Vec<Change>,
    /// Partitions that only B has, to be written down.
    extras: Vec<Extra>,
    /// Partitions of the plan that B has other rows of.
    present: HashSet<u64>,
    /// How many partitions the plan has.
    planned: u64,
    totals: Totals,
    progress: u64,
}

#[derive(Debug)]
struct Running {
    row: PartitionRow,
    began_ms: u64,
    earlier: Spent,
}

impl Run {
    /// The run `id`, which is in the store.
    ///
    /// # Errors
    /// `Internal` if it is not.
    pub fn load(store: RunStore, id: RunId, backoff: Backoff) -> Result<Run> {
        let row = store
            .run(id)?
            .ok_or_else(|| Error::internal(format!("run {id} is not stored")))?;
        let totals = store.totals(id)?;
        Ok(Run {
            id,
            job: row.job,
            order: row.order,
            store,
            backoff,
            page: VecDeque::new(),
            page_end: None,
            exhausted: false,
            resume_from: HashMap::new(),
            running: BTreeMap::new(),
            delayed: BTreeMap::new(),
            unknown: HashSet::new(),
            overlaps: None,
            arriving: None,
            changes: Vec::new(),
            extras: Vec::new(),
            present: HashSet::new(),
            planned: 0,
            totals,
            progress: 0,
        })
    }

    /// What the run does.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Its store, for reading.
    pub fn store(&self) -> &RunStore {
        &self.store
    }

    /// Its store, when it is over.
    pub fn into_store(self) -> RunStore {
        self.store
    }

    /// Sums over its partitions, as of now.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// A number that grows whenever something becomes durable at the sink: retries count from there.
    pub fn progress(&self) -> u64 {
        self.progress
    }

    /// The partitions being copied now, in order of key, at most `most`.
    pub fn current(&self, most: usize) -> Vec<String> {
        self.running
            .values()
            .take(most)
            .map(|running| running.row.partition.key.label())
            .collect()
    }

    /// How many partitions are being copied now.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// An attempt begins: forget what earlier ones knew. Positions follow, in order of key, then [`Run::flush`]. `overlaps` is of the run's selection.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written.
    pub fn attach(&mut self, overlaps: Overlaps) -> Result<()> {
        self.flush()?;
        self.store.forget_states(self.id)?;
        self.page.clear();
        self.page_end = None;
        self.exhausted = false;
        self.resume_from.clear();
        self.running.clear();
        self.delayed.clear();
        self.unknown.clear();
        self.arriving = None;
        self.overlaps = Some(overlaps);
        self.present.clear();
        self.totals = self.store.totals(self.id)?;
        self.planned = self.totals.partitions;
        Ok(())
    }

    /// A position that this attempt's attach told.
    ///
    /// # Errors
    /// `Corrupt` if it says what this run never asked for; `Refused` if appending could double rows that came divided otherwise; `Unavailable` if the store cannot be written.
    pub fn position(&mut self, position: &Position) -> Result<()> {
        let key = position.key.to_string();
        let row = self.store.partition_by_key(self.id, &key)?;
        if position.state == PositionState::Dropped && position.run == self.id {
            return self.was_dropped(&position.key, row);
        }
        let overlaps = self.overlaps.as_mut();
        let overlaps = overlaps.ok_or_else(|| Error::internal("a position before an attach"))?;
        let Some(row) = row else {
            // A partition that this run does not select, or rows that came divided otherwise.
            return match &position.state {
                PositionState::Committed(receipt) if position.run != self.id => {
                    let (run, store, id) = (format!("run {}", position.run), &self.store, self.id);
                    let planned = |key: &PartitionKey| store.has_partition_that_meets(id, key);
                    overlaps.check_unplanned(self.job.mode, &run, receipt, planned)
                }
                _ => Ok(()),
            };
        };
        if let PositionState::Committed(receipt) = &position.state
            && position.run == self.id
            && (receipt.selection != self.job.resolved
                || !(receipt.digest_id.0 == self.job.digest_id || receipt.digest_id.is_of_files()))
        {
            return Err(Error::corrupt(format!(
                "partition {}: the sink's ledger has a receipt of this run for other columns or another selection",
                row.partition.key.label()
            )));
        }
        match standing(self.id, &self.job, overlaps, &row.partition, position) {
            Standing::Start => {}
            Standing::Resume(position) => {
                self.resume_from.insert(row.seq, position);
            }
            Standing::Done(receipt) => {
                self.settle(&row, PartitionState::Done, row.spent, Ok(Some(receipt)))?
            }
            Standing::Already(receipt) => self.arrives(row, Ok(receipt))?,
            Standing::Refused(why) => self.arrives(row, Err(why))?,
        }
        Ok(())
    }

    /// What one receipt of another run leads to. There may be more of the same partition: one that says "already" decides.
    fn arrives(&mut self, row: PartitionRow, end: Result<Receipt, String>) -> Result<()> {
        match &self.arriving {
            Some((known, Ok(_))) if known.seq == row.seq => return Ok(()),
            Some((known, Err(_))) if known.seq == row.seq => {}
            _ => self.arrived()?,
        }
        self.arriving = Some((row, end));
        Ok(())
    }

    /// The positions of one partition are all there.
    fn arrived(&mut self) -> Result<()> {
        match self.arriving.take() {
            Some((row, Ok(receipt))) => {
                self.settle(&row, PartitionState::Already, row.spent, Ok(Some(receipt)))
            }
            Some((row, Err(why))) => {
                let error = Err(Error::refused(why));
                self.settle(&row, PartitionState::Failed, row.spent, error)
            }
            None => Ok(()),
        }
    }

    /// The next partition to copy.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub fn next(&mut self, now_ms: u64) -> Result<Next> {
        if let Some((&(ready_ms, seq), _)) = self.delayed.first_key_value()
            && ready_ms <= now_ms
            && let Some(row) = self.delayed.remove(&(ready_ms, seq))
        {
            return Ok(self.assign(row, now_ms));
        }
        if self.page.is_empty() && !self.exhausted {
            // What is read is what was written.
            self.flush()?;
            let page = self
                .store
                .pending(self.id, self.order, self.page_end, PAGE)?;
            self.exhausted = page.is_empty();
            self.page_end = page.last().map(|row| row.seq).or(self.page_end);
            self.page.extend(page);
        }
        if let Some(row) = self.page.pop_front() {
            return Ok(self.assign(row, now_ms));
        }
        Ok(match self.delayed.first_key_value() {
            Some((&(ready_ms, _), _)) => Next::Wait(ready_ms),
            None if self.running.is_empty() => Next::Nothing,
            // One of those may fail and come back.
            None => Next::Busy,
        })
    }

    /// The next partition to copy, where no disk is needed to tell; `None` where it is.
    pub fn next_in_memory(&mut self, now_ms: u64) -> Option<Next> {
        let ready = |(&(ready_ms, _), _): (&(u64, u64), &PartitionRow)| ready_ms <= now_ms;
        if self.delayed.first_key_value().is_some_and(ready) {
            return None;
        }
        let row = self.page.pop_front()?;
        Some(self.assign(row, now_ms))
    }

    /// Whether a report of success would be kept in memory for now.
    pub fn has_room(&self) -> bool {
        self.changes.len() + 1 < CHANGES_MAX
    }

    fn assign(&mut self, mut row: PartitionRow, now_ms: u64) -> Next {
        row.attempts += 1;
        let from = self
            .resume_from
            .remove(&row.seq)
            .filter(|from| from.version == row.partition.version);
        let assignment = Assignment {
            seq: row.seq,
            partition: row.partition.clone(),
            disposition: self.job.mode.disposition(),
            from,
            may_be_empty: !self.present.contains(&row.seq),
            files: false,
        };
        self.running.insert(
            row.seq,
            Running {
                earlier: row.spent,
                row,
                began_ms: now_ms,
            },
        );
        Next::Partition(Box::new(assignment))
    }

    /// What a stream reports. `jitter` is a random number in [0, 1) for the wait before a retry. Answers with the partition
    /// that must be planned again, if one has moved.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written; `Full` if a disk has no room, at either side, which ends the attempt.
    pub fn report(
        &mut self,
        report: Report,
        now_ms: u64,
        jitter: f64,
    ) -> Result<Option<Partition>> {
        match report {
            Report::Sent {
                seq,
                rows,
                raw_bytes,
                wire_bytes,
            } => {
                if let Some(running) = self.running.get_mut(&seq) {
                    let spent = &mut running.row.spent;
                    spent.rows += rows;
                    spent.raw_bytes += raw_bytes;
                    spent.wire_bytes += wire_bytes;
                    let total = &mut self.totals.spent;
                    total.rows += rows;
                    total.raw_bytes += raw_bytes;
                    total.wire_bytes += wire_bytes;
                }
                Ok(None)
            }
            Report::Acked { .. } => {
                self.progress += 1;
                Ok(None)
            }
            Report::Done {
                seq,
                receipt,
                already: _,
            } => {
                self.progress += 1;
                if let Some((row, spent)) = self.stop(seq, now_ms) {
                    self.settle(&row, PartitionState::Done, spent, Ok(Some(receipt)))?;
                }
                Ok(None)
            }
            Report::Failed { seq, error } => {
                let Some((mut row, spent)) = self.stop(seq, now_ms) else {
                    return Ok(None);
                };
                row.spent = spent;
                self.failed(row, error, now_ms, jitter)
            }
            Report::Left { seq } => {
                self.unknown.insert(seq);
                self.stop(seq, now_ms);
                Ok(None)
            }
        }
    }

    fn failed(
        &mut self,
        row: PartitionRow,
        error: Error,
        now_ms: u64,
        jitter: f64,
    ) -> Result<Option<Partition>> {
        match error.kind() {
            Kind::Unavailable => match self.backoff.wait(row.attempts.saturating_sub(1), jitter) {
                Some(wait) => {
                    tracing::warn!(partition = %row.partition.key.label(), %error, wait_ms = wait.as_millis() as u64, "will retry");
                    // What was checkpointed is in the ledger, not here: the next attempt of this partition begins from its start, which
                    // discards that, unless the run attaches again first.
                    let ready_ms =
                        now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                    self.delayed.insert((ready_ms, row.seq), row);
                    Ok(None)
                }
                None => {
                    let spent = row.spent;
                    self.settle(&row, PartitionState::Failed, spent, Err(error))?;
                    Ok(None)
                }
            },
            Kind::Moved if row.moved < MOVED_MAX => {
                let partition = row.partition.clone();
                // It stays out of reach until its new version is in the plan.
                self.unknown.insert(row.seq);
                Ok(Some(partition))
            }
            Kind::Moved => {
                let error = Error::moved(format!("still changing after {MOVED_MAX} restarts"))
                    .with_source(error);
                let spent = row.spent;
                self.settle(&row, PartitionState::Failed, spent, Err(error))?;
                Ok(None)
            }
            // The next partition would find no more room: the attempt ends, and the run waits. The stage keeps what was checkpointed.
            Kind::Full => {
                self.unknown.insert(row.seq);
                let key = row.partition.key.label();
                Err(error.context(format!("partition {key}")))
            }
            // Another attempt owns the table, or somebody stopped this one: nobody here knows more about the partition.
            Kind::Fenced | Kind::Cancelled => {
                self.unknown.insert(row.seq);
                Ok(None)
            }
            Kind::Corrupt | Kind::Schema | Kind::Config | Kind::Refused | Kind::Internal => {
                let spent = row.spent;
                self.settle(&row, PartitionState::Failed, spent, Err(error))?;
                Ok(None)
            }
        }
    }

    /// The partition that had moved, as the source sees it now: it starts again after a wait. `None` if it is gone, which
    /// fails it.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written.
    pub fn replan(
        &mut self,
        moved: &Partition,
        found: Option<Partition>,
        now_ms: u64,
        jitter: f64,
    ) -> Result<()> {
        let key = moved.key.to_string();
        self.flush()?;
        let Some(mut row) = self.store.partition_by_key(self.id, &key)? else {
            return Ok(());
        };
        if !self.unknown.remove(&row.seq) {
            return Ok(());
        }
        let Some(found) = found else {
            let error = Error::moved("the partition is gone at the source");
            let spent = row.spent;
            return self.settle(&row, PartitionState::Failed, spent, Err(error));
        };
        row.moved += 1;
        self.store.replan(self.id, row.seq, &found, row.moved)?;
        row.partition = found;
        self.resume_from.remove(&row.seq);
        let wait = self
            .backoff
            .wait(row.moved - 1, jitter)
            .unwrap_or(self.backoff.most);
        let ready_ms = now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        self.delayed.insert((ready_ms, row.seq), row);
        Ok(())
    }

    /// A stream is lost: what it had under way may or may not be committed, and only the ledger knows.
    pub fn lost(&mut self, seqs: &[u64], now_ms: u64) {
        for &seq in seqs {
            self.unknown.insert(seq);
            self.stop(seq, now_ms);
        }
    }

    /// Whether nothing is left to hand out, and nothing can come back.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub fn is_over(&mut self) -> Result<bool> {
        if !self.page.is_empty() || !self.delayed.is_empty() || !self.running.is_empty() {
            return Ok(false);
        }
        self.flush()?;
        Ok(self
            .store
            .pending(self.id, self.order, self.page_end, 1)?
            .is_empty())
    }

    /// How the attempt ended, when all its streams have.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written.
    pub fn verdict(&mut self) -> Result<Verdict> {
        self.flush()?;
        self.totals = self.store.totals(self.id)?;
        if !self.unknown.is_empty() || self.totals.settled() < self.totals.partitions {
            return Ok(Verdict::Again);
        }
        Ok(Verdict::Complete(if self.totals.failed > 0 {
            Outcome::Partial
        } else {
            Outcome::Done
        }))
    }

    /// Writes down what waits to be written.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.arrived()?;
        if !self.changes.is_empty() {
            self.store.apply(self.id, &self.changes)?;
            self.changes.clear();
        }
        if !self.extras.is_empty() {
            self.store.add_extras(self.id, &self.extras)?;
            self.extras.clear();
        }
        Ok(())
    }

    fn stop(&mut self, seq: u64, now_ms: u64) -> Option<(PartitionRow, Spent)> {
        let running = self.running.remove(&seq)?;
        let elapsed_ms = now_ms.saturating_sub(running.began_ms);
        let spent = Spent {
            elapsed_ms: running.earlier.elapsed_ms + elapsed_ms,
            ..running.row.spent
        };
        Some((running.row, spent))
    }

    fn settle(
        &mut self,
        row: &PartitionRow,
        state: PartitionState,
        spent: Spent,
        end: Result<Option<Receipt>>,
    ) -> Result<()> {
        match state {
            PartitionState::Done => self.totals.done += 1,
            PartitionState::Already => self.totals.already += 1,
            PartitionState::Failed => self.totals.failed += 1,
            PartitionState::Dropping => self.totals.dropping += 1,
            PartitionState::Dropped => self.totals.dropped += 1,
            PartitionState::Pending => {}
        }
        let (receipt, error) = match end {
            Ok(receipt) => {
                self.totals.rows_done += receipt.as_ref().map_or(0, |receipt| receipt.rows);
                (receipt, None)
            }
            Err(error) => {
                tracing::warn!(run = %self.id.short(), partition = %row.partition.key.label(), kind = %error.kind(), %error, "partition failed");
                (None, Some((error.kind(), error.to_string())))
            }
        };
        self.changes.push(Change {
            seq: row.seq,
            state,
            spent,
            attempts: row.attempts,
            receipt,
            error,
        });
        if self.changes.len() >= CHANGES_MAX {
            self.flush()?;
        }
        Ok(())
    }
}
