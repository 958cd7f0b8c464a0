//! A source agent: the real run, its store, and the real session of each stream. What `agent_source::runner` and `agent_source::stream`
//! wait for happens here one step at a time, when the world says so.

use std::collections::BTreeMap;
use std::time::Duration;

use agent_source::files::Reading;
use agent_source::job::{Job, Mode, Order, Spec};
use agent_source::link::Held;
use agent_source::overlap::Overlaps;
use agent_source::run::{Next, Run, Verdict, status_after};
use agent_source::runs::{PartitionRow, PartitionState, RunRow, RunStore, Status};
use agent_source::session::{Assignment, Encoded, Event, Limits, Session, Step, Want};
use futures::{FutureExt, StreamExt};
use strait_common::budget::Budget;
use strait_common::digest::{Digest, DigestId, digest};
use strait_common::engine::{
    Batch, Claim, Confirmed, Holding, Outcome, Partition, Position, PositionState, ReadLimits,
    Receipt, Source, Stream as EngineStream, Version,
};
use strait_common::error::Reaction;
use strait_common::fingerprint::Fingerprint;
use strait_common::frame::{Compression, Encoder};
use strait_common::ids::{Epoch, RunId};
use strait_common::key::PartitionKey;
use strait_common::retry::Backoff;
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::{Error, Result};
use strait_memory::{MemorySource, MemoryStore};
use strait_proto::v1::copy_request::Body as Request;

use super::cluster;

/// The largest frame. Rows of the simulation take a few dozen bytes, a frame of few of them several hundred.
pub const FRAME_BYTES_MAX: u64 = 1 << 20;
/// Pieces of files. One of a few rows takes several hundred bytes.
const FILE_FRAME_BYTES: u64 = 400;
const PARTITIONS_MAX: u32 = 1000;

/// Attempts and retries are soon, on the world's clock.
pub const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(20),
    most: Duration::from_millis(200),
    retries_max: 5,
};

/// How an agent is configured.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Frames in flight.
    pub window_frames: u32,
    /// A chunk ends at this many bytes. A frame of a few rows takes several hundred.
    pub chunk_bytes: u64,
    /// A batch has about this many bytes. A row takes 20.
    pub batch_bytes: u64,
    /// Unanswered finishes.
    pub finishes_max: usize,
}

/// One agent: what survives it, and what it does.
#[derive(Debug)]
pub struct SourceAgent {
    tuning: Tuning,
    /// The sink process that it dials.
    pub sink: usize,
    /// What it does now.
    pub desk: Desk,
    /// What it has asked to finish, for the rule that it does not believe it.
    pub notes: BTreeMap<(RunId, String), Receipt>,
    /// When it tries again, on the world's clock.
    pub ready_ms: u64,
    /// Retries without progress in between.
    pub retry: u32,
    progress: u64,
    /// Runs that it has begun since its state is this one.
    pub begun: u64,
}

/// Where its store of runs is.
#[derive(Debug)]
pub enum Desk {
    /// No run is under way.
    Idle(RunStore),
    /// A run waits for its next attempt.
    Waiting(Box<Run>, RunRow),
    /// An attempt is under way.
    Busy(Box<Run>, RunRow, Box<Attempt>),
    /// In between; never seen from outside.
    Gone,
}

/// One attempt.
#[derive(Debug)]
pub struct Attempt {
    /// Its number in the world.
    pub serial: u64,
    /// The run.
    pub run: RunId,
    /// What is selected.
    pub selection: Selection,
    /// How far it is.
    pub phase: Phase,
    /// Its streams that have not ended.
    pub streams: BTreeMap<u64, End>,
    /// Why it will end, once its streams have.
    pub error: Option<Error>,
    /// The soft stop was asked for.
    pub draining: bool,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The sink was asked.
    Attaching,
    /// Streams are open.
    Copying(Epoch),
    /// The claim is being ended.
    Completing(Outcome),
}

/// The source's end of a stream.
pub struct End {
    /// None until the sink has granted the lease.
    pub session: Option<Session>,
    reader: Option<EngineStream<Batch>>,
    files: Option<Reading>,
    encoder: Encoder,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "end of a stream ({:?})", self.session)
    }
}

/// What a turn of a stream led to.
#[derive(Debug, Default)]
pub struct Turn {
    /// To the sink.
    pub send: Vec<Request>,
    /// The stream has ended well.
    pub ended: bool,
    /// Nothing could be done.
    pub idle: bool,
    /// It goes on from the middle of a partition.
    pub resumed: bool,
    /// It begins a partition as files.
    pub as_files: bool,
    /// It begins as rows from the start what had been begun as files.
    pub turned: bool,
    /// Partitions that had moved.
    pub moved: u64,
}

/// What the operator asks for.
///
/// # Errors
/// None that can happen.
pub fn spec(bounded: bool) -> Result<Spec> {
    Ok(Spec {
        from: "live:sim/ticks".parse()?,
        to: "dr:sim/ticks".parse()?,
        partitions: Default::default(),
        narrow: Vec::new(),
        receipts: None,
        pass_through: Default::default(),
        selection: SelectionSpec {
            predicate: bounded.then(|| "at < now()".to_owned()),
            columns: None,
            zone: None,
        },
    })
}

/// The job of a run planned now, in this mode.
///
/// # Errors
/// None that can happen.
pub fn job(bounded: bool, mode: Mode, now: i64) -> Result<Job> {
    let spec = spec(bounded)?;
    let schema = cluster::schema();
    Ok(Job {
        resolved: Selection::resolve(&spec.selection, &schema, now)?.text(),
        spec,
        now,
        digest_id: DigestId::of(&schema)?.0,
        mode,
    })
}

/// The bound on `at` that the run of this job was planned with.
pub fn bound(job: &Job) -> Option<i64> {
    job.spec.selection.predicate.as_ref().map(|_| job.now)
}

/// A row of the store for a run that begins.
pub fn row(id: RunId, job: Job) -> RunRow {
    RunRow {
        bandwidth_max: None,
        id,
        job,
        streams: 2,
        order: Order::Oldest,
        status: Status::Running,
        created_at: 0,
        started_at: 0,
        ended_at: 0,
        attempts: 0,
        epoch: 0,
        retries: 0,
        elapsed_ms: 0,
        message: String::new(),
        kind: None,
        warnings: Vec::new(),
    }
}

fn selection_of(job: &Job, now: i64) -> Result<Selection> {
    Selection::resolve(&job.spec.selection, &cluster::schema(), now)
}

/// The partitions of A now.
///
/// # Errors
/// None that can happen.
pub fn partitions(a: &MemoryStore, selection: &Selection) -> Result<Vec<Partition>> {
    let source = MemorySource::open(a);
    let name = cluster::table()?.name;
    let stream = source.partitions(&name, selection).now_or_never();
    let stream = stream.unwrap_or_else(|| Err(Error::internal("the engine in memory waits")))?;
    let listed = stream.collect::<Vec<_>>().now_or_never();
    listed
        .ok_or_else(|| Error::internal("the engine in memory waits"))?
        .into_iter()
        .collect()
}

/// What a store holds of a partition now: its version, and rows and digest.
fn fingerprint(store: &MemoryStore, key: &PartitionKey) -> Result<(Option<Version>, Fingerprint)> {
    let name = cluster::table()?.name;
    let (mut rows, mut sum) = (0, Digest::default());
    for batch in store.batches(&name, key) {
        rows += batch.num_rows() as u64;
        sum = sum.plus(digest(&batch)?);
    }
    Ok((store.version(&name, key), (rows, sum)))
}

impl SourceAgent {
    /// An agent that knows nothing.
    ///
    /// # Errors
    /// `Unavailable` if there is no memory for a store.
    pub fn new(sink: usize, tuning: Tuning) -> Result<SourceAgent> {
        Ok(SourceAgent {
            tuning,
            sink,
            desk: Desk::Idle(RunStore::in_memory()?),
            notes: BTreeMap::new(),
            ready_ms: 0,
            retry: 0,
            progress: 0,
            begun: 0,
        })
    }

    /// What is stored, wherever it is.
    pub fn store(&self) -> Option<&RunStore> {
        match &self.desk {
            Desk::Idle(store) => Some(store),
            Desk::Waiting(run, _) | Desk::Busy(run, _, _) => Some(run.store()),
            Desk::Gone => None,
        }
    }

    /// Another agent with a copy of everything that this one has on its disk.
    ///
    /// # Errors
    /// What the store says.
    pub fn cloned(&self) -> Result<SourceAgent> {
        let mut copy = SourceAgent::new(self.sink, self.tuning)?;
        let (Some(store), Desk::Idle(mut into)) =
            (self.store(), std::mem::replace(&mut copy.desk, Desk::Gone))
        else {
            return Err(Error::internal("an agent without a store"));
        };
        for row in store.runs("", PARTITIONS_MAX)? {
            let rows = store.partitions(row.id, None, 0, PARTITIONS_MAX)?;
            into.insert(&row, rows.into_iter().map(|row| Ok(row.partition)))?;
            into.update(&row)?;
        }
        copy.desk = Desk::Idle(into);
        copy.notes.clone_from(&self.notes);
        copy.begun = self.begun;
        copy.wake()?;
        Ok(copy)
    }

    /// The process dies and starts again: what was not stored is gone. An active run waits for its next attempt.
    ///
    /// # Errors
    /// What the store says.
    pub fn restart(&mut self) -> Result<()> {
        self.desk = match std::mem::replace(&mut self.desk, Desk::Gone) {
            Desk::Waiting(run, _) | Desk::Busy(run, _, _) => Desk::Idle(run.into_store()),
            desk => desk,
        };
        self.wake()
    }

    /// An active run goes on by itself.
    fn wake(&mut self) -> Result<()> {
        self.retry = 0;
        self.progress = 0;
        let Desk::Idle(store) = &self.desk else {
            return Ok(());
        };
        match store.active()?.into_iter().next() {
            Some(row) => self.drive(row),
            None => Ok(()),
        }
    }

    /// Begins to drive a stored run.
    ///
    /// # Errors
    /// `Internal` if one is under way.
    pub fn drive(&mut self, mut row: RunRow) -> Result<()> {
        let Desk::Idle(store) = std::mem::replace(&mut self.desk, Desk::Gone) else {
            return Err(Error::internal("a run is under way"));
        };
        row.status = Status::Running;
        store.update(&row)?;
        let run = Run::load(store, row.id, BACKOFF)?;
        self.retry = 0;
        self.progress = 0;
        self.desk = Desk::Waiting(Box::new(run), row);
        Ok(())
    }

    /// Plans a run and begins to drive it.
    ///
    /// # Errors
    /// What the store says.
    pub fn begin(&mut self, a: &MemoryStore, id: RunId, job: Job) -> Result<()> {
        let listed = partitions(a, &selection_of(&job, job.now)?)?;
        let row = row(id, job);
        let Desk::Idle(store) = &mut self.desk else {
            return Err(Error::internal("a run is under way"));
        };
        store.insert(&row, listed.into_iter().map(Ok))?;
        self.begun += 1;
        self.drive(row)
    }

    /// An attempt begins: what the sink is asked. `now` is what the time is for the rule that the selection stays.
    ///
    /// # Errors
    /// `Internal` if none can.
    pub fn attempt(&mut self, serial: u64, now: Option<i64>, agent: &str) -> Result<Claim> {
        let Desk::Waiting(mut run, row) = std::mem::replace(&mut self.desk, Desk::Gone) else {
            return Err(Error::internal("no run waits"));
        };
        let selection = selection_of(&row.job, now.unwrap_or(row.job.now))?;
        let digest_id = DigestId(row.job.digest_id.clone());
        run.attach(Overlaps::new(
            selection.clone(),
            &cluster::table()?,
            digest_id,
        ))?;
        let claim = Claim {
            run: row.id,
            table: cluster::table()?.name,
            agent: agent.to_owned(),
            job: row.job.to_json()?,
            taken_at: 0,
        };
        let attempt = Attempt {
            serial,
            run: row.id,
            selection,
            phase: Phase::Attaching,
            streams: BTreeMap::new(),
            error: None,
            draining: false,
        };
        self.desk = Desk::Busy(run, row, Box::new(attempt));
        Ok(claim)
    }

    /// The sink has answered an attach: what its ledger says, and, for a mirror, what is equal. `trusting` adds what this side remembers. Answers with what the ledger
    /// is to be told.
    ///
    /// # Errors
    /// What the store says.
    pub fn compare(
        &mut self,
        positions: &[Position],
        holdings: &[Holding],
        a: &MemoryStore,
        b: &MemoryStore,
        trusting: bool,
    ) -> Result<Vec<Confirmed>> {
        let Desk::Busy(run, row, _) = &mut self.desk else {
            return Err(Error::internal("no attempt"));
        };
        positions
            .iter()
            .try_for_each(|position| run.position(position))?;
        if trusting {
            let notes = self.notes.iter().filter(|((id, _), _)| *id == row.id);
            for (_, receipt) in notes {
                let known = positions.iter().any(|position| {
                    position.key == receipt.key
                        && position.run == row.id
                        && matches!(position.state, PositionState::Committed(_))
                });
                if !known {
                    run.position(&Position {
                        run: row.id,
                        key: receipt.key.clone(),
                        version: receipt.version.clone(),
                        sequence: 0,
                        cursor: Default::default(),
                        rows: receipt.rows,
                        digest: receipt.digest,
                        state: PositionState::Committed(receipt.clone()),
                    })?;
                }
            }
        }
        run.flush()?;
        let mut confirmed = Vec::new();
        if !matches!(row.job.mode, Mode::Mirror { .. }) {
            return Ok(confirmed);
        }
        for holding in holdings {
            let held = Held {
                key: holding.key.clone(),
                version: holding
                    .partition
                    .as_ref()
                    .map(|stored| stored.version.clone()),
                rows: holding.partition.as_ref().and_then(|stored| stored.rows),
                receipt: holding.receipts.last().cloned(),
                receipts: holding.receipts.len() as u64,
                intact: holding.intact,
            };
            let Some(unread) = run.held(&held)? else {
                continue;
            };
            let (_, ours) = fingerprint(a, &unread.row.partition.key)?;
            let (version, theirs) = fingerprint(b, &held.key)?;
            let planned = &unread.row.partition.version;
            if a.version(&cluster::table()?.name, &held.key).as_ref() != Some(planned) {
                run.unreadable(&unread, Error::moved("A has changed"))?;
                continue;
            }
            let ours = unread.known.ours.unwrap_or(ours);
            let (theirs, version) = match unread.known.theirs {
                Some(known) => (known, unread.version.clone()),
                None => (theirs, version),
            };
            confirmed.extend(run.compared(&unread, ours, Some(theirs), version)?);
        }
        Ok(confirmed)
    }

    /// The attempt goes on to copy over these streams.
    ///
    /// # Errors
    /// What the store says.
    pub fn attached(&mut self, epoch: Epoch, streams: &[u64]) -> Result<()> {
        let Desk::Busy(run, row, attempt) = &mut self.desk else {
            return Err(Error::internal("no attempt"));
        };
        row.attempts += 1;
        row.epoch = epoch.0;
        run.flush()?;
        run.store().update(row)?;
        attempt.phase = Phase::Copying(epoch);
        for &stream in streams {
            let end = End {
                session: None,
                reader: None,
                files: None,
                encoder: Encoder::new(Compression::None)?,
            };
            attempt.streams.insert(stream, end);
        }
        Ok(())
    }

    /// The stream is open.
    ///
    /// # Errors
    /// `Corrupt` if it is open already.
    pub fn opened(&mut self, stream: u64) -> Result<()> {
        let Desk::Busy(_, _, attempt) = &mut self.desk else {
            return Err(Error::internal("no attempt"));
        };
        let text = attempt.selection.text();
        let draining = attempt.draining;
        let end = attempt
            .streams
            .get_mut(&stream)
            .ok_or_else(|| Error::internal("no such stream"))?;
        if end.session.is_some() {
            return Err(Error::corrupt("a second Opened"));
        }
        let limits = Limits {
            window_frames: self.tuning.window_frames,
            frame_bytes_max: FRAME_BYTES_MAX,
            chunk_bytes: self.tuning.chunk_bytes,
            finishes_max: self.tuning.finishes_max,
        };
        let mut session = Session::new(limits, DigestId::of(&cluster::schema())?, text);
        if draining {
            session.apply(Event::Drain)?;
        }
        end.session = Some(session);
        Ok(())
    }

    /// Gives an event to a stream's session and tells the run what follows.
    ///
    /// # Errors
    /// What ends the stream.
    pub fn feed(
        &mut self,
        stream: u64,
        event: Event,
        a: &MemoryStore,
        now_ms: u64,
        jitter: f64,
    ) -> Result<Turn> {
        let Desk::Busy(run, row, attempt) = &mut self.desk else {
            return Err(Error::internal("no attempt"));
        };
        let session = attempt
            .streams
            .get_mut(&stream)
            .and_then(|end| end.session.as_mut())
            .ok_or_else(|| Error::corrupt("an answer before Opened"))?;
        let Step { send, reports } = session.apply(event)?;
        for request in &send {
            if let Request::Finish(finish) = request
                && let Some(receipt) = finish.receipt.clone()
            {
                let receipt = Receipt::try_from(receipt)?;
                self.notes
                    .insert((row.id, receipt.key.to_string()), receipt);
            }
        }
        let mut turn = Turn {
            send,
            ..Turn::default()
        };
        for report in reports {
            if let Some(moved) = run.report(report, now_ms, jitter)? {
                turn.moved += 1;
                let found = partitions(a, &attempt.selection)?
                    .into_iter()
                    .find(|partition| partition.key == moved.key);
                run.replan(&moved, found, now_ms, jitter)?;
            }
        }
        Ok(turn)
    }

    /// Takes positions of any version for positions of the planned one, for the rule that they are not.
    ///
    /// # Errors
    /// What the store says.
    pub fn mistake_versions(&self, positions: &mut [Position]) -> Result<()> {
        if let Desk::Busy(run, row, _) = &self.desk {
            for position in positions {
                let planned = run
                    .store()
                    .partition_by_key(row.id, &position.key.to_string())?;
                if let (PositionState::Staged, Some(planned)) = (&position.state, planned) {
                    position.version = planned.partition.version;
                }
            }
        }
        Ok(())
    }

    /// Does what a stream's session waits for. A read that `fails` does so for good.
    ///
    /// # Errors
    /// What ends the stream.
    pub fn turn(
        &mut self,
        stream: u64,
        a: &MemoryStore,
        now_ms: u64,
        jitter: f64,
        fails: bool,
    ) -> Result<Turn> {
        let idle = Turn {
            idle: true,
            ..Turn::default()
        };
        let Desk::Busy(run, _, attempt) = &mut self.desk else {
            return Ok(idle);
        };
        let Some(end) = attempt.streams.get_mut(&stream) else {
            return Ok(idle);
        };
        let Some(session) = &end.session else {
            return Ok(idle);
        };
        match session.want() {
            Want::Credit | Want::Reply => Ok(idle),
            Want::Nothing => Ok(Turn {
                ended: true,
                ..Turn::default()
            }),
            Want::Assignment if attempt.draining => {
                self.feed(stream, Event::Assigned(None), a, now_ms, jitter)
            }
            Want::Assignment => match run.next(now_ms)? {
                Next::Wait(_) | Next::Busy => Ok(idle),
                Next::Nothing => self.feed(stream, Event::Assigned(None), a, now_ms, jitter),
                Next::Partition(mut assignment) => {
                    // Sometimes as files, where that can be, and sometimes not, as if B's table had changed between two attempts.
                    let offered = offered(a, &attempt.selection, &assignment, jitter < 0.6)?;
                    assignment.files = offered.is_some();
                    let of_files = |from: &Position| from.cursor.is_of_files();
                    let turned =
                        !assignment.files && assignment.from.as_ref().is_some_and(of_files);
                    if turned {
                        assignment.from = None;
                    }
                    if let Some(files) = offered {
                        let resumed = assignment.from.is_some();
                        let event = Event::Assigned(Some(assignment));
                        let mut turn = self.feed(stream, event, a, now_ms, jitter)?;
                        turn.resumed = resumed;
                        turn.as_files = true;
                        if let Desk::Busy(_, _, attempt) = &mut self.desk
                            && let Some(end) = attempt.streams.get_mut(&stream)
                        {
                            (end.reader, end.files) = (None, Some(files));
                        }
                        return Ok(turn);
                    }
                    let after = assignment
                        .from
                        .as_ref()
                        .map(|from| from.cursor.clone())
                        .unwrap_or_default();
                    let limits = ReadLimits {
                        batch_bytes: self.tuning.batch_bytes,
                        budget: Budget::new(1 << 30)?,
                    };
                    let source = MemorySource::open(a);
                    let name = cluster::table()?.name;
                    let reader = source
                        .read(
                            &name,
                            &attempt.selection,
                            &assignment.partition,
                            &after,
                            &limits,
                        )
                        .now_or_never();
                    let resumed = assignment.from.is_some();
                    let mut turn =
                        self.feed(stream, Event::Assigned(Some(assignment)), a, now_ms, jitter)?;
                    turn.resumed = resumed;
                    turn.turned = turned;
                    match reader {
                        Some(Ok(reader)) => {
                            if let Desk::Busy(_, _, attempt) = &mut self.desk
                                && let Some(end) = attempt.streams.get_mut(&stream)
                            {
                                (end.reader, end.files) = (Some(reader), None);
                            }
                        }
                        Some(Err(error)) => {
                            let event = Event::ReadFailed(error);
                            let more = self.feed(stream, event, a, now_ms, jitter)?;
                            turn.send.extend(more.send);
                            turn.moved += more.moved;
                        }
                        None => return Err(Error::internal("the engine in memory waits")),
                    }
                    Ok(turn)
                }
            },
            Want::Batch if fails => {
                (end.reader, end.files) = (None, None);
                let event = Event::ReadFailed(Error::corrupt("a file of A is torn"));
                self.feed(stream, event, a, now_ms, jitter)
            }
            Want::Batch => {
                let event = end.read(&attempt.selection)?;
                self.feed(stream, event, a, now_ms, jitter)
            }
        }
    }

    /// A stream has ended, well or not; an error that is not the stream's own bad luck ends all of them. Answers with the streams that end
    /// with it.
    pub fn stream_ended(&mut self, stream: u64, error: Option<Error>, now_ms: u64) -> Vec<u64> {
        let Desk::Busy(run, _, attempt) = &mut self.desk else {
            return Vec::new();
        };
        let Some(end) = attempt.streams.remove(&stream) else {
            return Vec::new();
        };
        let mut ended = vec![stream];
        if let Some(error) = error {
            if let Some(session) = end.session {
                run.lost(&session.unanswered(), now_ms);
            }
            let fatal = !error.kind().reaction().attaches_again();
            if fatal {
                ended.extend(std::mem::take(&mut attempt.streams).into_keys());
            }
            if attempt.error.is_none() || fatal {
                attempt.error = Some(error);
            }
        }
        ended
    }

    /// The attempt's streams have all ended: what comes next. `None` while some have not.
    ///
    /// # Errors
    /// What ends the attempt.
    pub fn copied(&mut self, a: &MemoryStore) -> Result<Option<Verdict>> {
        let Desk::Busy(run, _, attempt) = &mut self.desk else {
            return Ok(None);
        };
        if !attempt.streams.is_empty() || !matches!(attempt.phase, Phase::Copying(_)) {
            return Ok(None);
        }
        let failed = attempt.error.take();
        if failed.is_none() && !attempt.draining && run.drops_are_due()? {
            let listed = partitions(a, &attempt.selection)?;
            listed.iter().try_for_each(|partition| run.has(partition))?;
            run.all_told(listed.len() as u64)?;
        }
        let verdict = run.verdict()?;
        if let Some(error) = failed {
            return Err(error);
        }
        if let Verdict::Complete(outcome) = verdict {
            attempt.phase = Phase::Completing(outcome);
        }
        Ok(Some(verdict))
    }

    /// The attempt is over. `Ok(None)` is one that needs another.
    ///
    /// # Errors
    /// What the store says.
    pub fn attempt_ended(
        &mut self,
        ended: Result<Option<Outcome>>,
        now_ms: u64,
        jitter: f64,
    ) -> Result<Status> {
        let Desk::Busy(run, mut row, attempt) = std::mem::replace(&mut self.desk, Desk::Gone)
        else {
            return Err(Error::internal("no attempt"));
        };
        if run.progress() > self.progress {
            self.progress = run.progress();
            self.retry = 0;
        }
        let ended = match ended {
            Ok(Some(outcome)) => Ok(outcome),
            Ok(None) if attempt.draining => Err(Error::cancelled("stopped")),
            Ok(None) => Err(Error::unavailable("some partitions must be looked up")),
            Err(error) => Err(error),
        };
        if let Err(error) = &ended
            && error.kind().reaction() == Reaction::Retry
            && let Some(wait) = BACKOFF.wait(self.retry, jitter)
        {
            self.retry += 1;
            self.ready_ms = now_ms + u64::try_from(wait.as_millis()).unwrap_or(0);
            self.desk = Desk::Waiting(run, row);
            return Ok(Status::Running);
        }
        row.status = status_after(&ended, None);
        if let Err(error) = &ended {
            row.message = error.to_string();
            row.kind = Some(error.kind());
        }
        let status = row.status;
        let store = run.into_store();
        store.update(&row)?;
        self.desk = Desk::Idle(store);
        Ok(status)
    }

    /// Asks for the soft stop.
    pub fn drain(&mut self) -> Vec<u64> {
        match &mut self.desk {
            Desk::Busy(_, _, attempt) => {
                attempt.draining = true;
                attempt.streams.keys().copied().collect()
            }
            _ => Vec::new(),
        }
    }

    /// What the newest run of the store says of its partitions.
    ///
    /// # Errors
    /// What the store says.
    pub fn report(&self, id: RunId) -> Result<Vec<PartitionRow>> {
        let store = self
            .store()
            .ok_or_else(|| Error::internal("an agent without a store"))?;
        store.partitions(id, None, 0, PARTITIONS_MAX)
    }
}

/// The files of a partition, if they are `wanted` and can travel from where the sink has them.
fn offered(
    a: &MemoryStore,
    selection: &Selection,
    assignment: &Assignment,
    wanted: bool,
) -> Result<Option<Reading>> {
    let after = assignment.from.as_ref().map(|from| from.cursor.clone());
    let after = after.unwrap_or_default();
    if !wanted || !(after.is_start() || after.is_of_files()) {
        return Ok(None);
    }
    let (source, name) = (MemorySource::open(a), cluster::table()?.name);
    let waits = || Error::internal("the engine in memory waits");
    let shape = source.files_shape(&name).now_or_never();
    let shape = shape.ok_or_else(waits)??.unwrap_or_default();
    let files = source.files(&name, selection, &assignment.partition, &shape);
    match files.now_or_never().ok_or_else(waits)? {
        Ok(files) => files.map(|files| Reading::new(files, &after)).transpose(),
        // Reading its rows will tell.
        Err(_) => Ok(None),
    }
}

/// Whether a partition counts as copied.
pub fn is_copied(row: &PartitionRow) -> bool {
    matches!(row.state, PartitionState::Done | PartitionState::Already)
}

impl End {
    fn read(&mut self, selection: &Selection) -> Result<Event> {
        if let Some(files) = &mut self.files {
            return Ok(match files.is_over() {
                true => Event::End,
                false => Event::Batch(files.next(FILE_FRAME_BYTES)?),
            });
        }
        let Some(reader) = &mut self.reader else {
            return Err(Error::internal("no partition is open"));
        };
        let batch = reader
            .next()
            .now_or_never()
            .ok_or_else(|| Error::internal("the engine in memory waits"))?;
        Ok(match batch {
            None => {
                self.reader = None;
                Event::End
            }
            Some(Err(error)) => {
                self.reader = None;
                Event::ReadFailed(error)
            }
            Some(Ok(batch)) => {
                let selected = selection.filter(&batch.records)?;
                let rows = selected.num_rows() as u64;
                Event::Batch(Encoded {
                    file: None,
                    frames: self.encoder.encode(&selected, FRAME_BYTES_MAX)?,
                    end: Some(batch.end),
                    rows,
                    digest: if rows > 0 {
                        digest(&selected)?
                    } else {
                        Digest::default()
                    },
                })
            }
        })
    }
}
