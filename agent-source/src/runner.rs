//! Runs under way: attempts one after another until the run has ended, and their streams.
//!
//! An attempt is: attach (the sink raises the epoch and tells its ledger), copy what is missing over some streams, complete. Whatever
//! breaks, the next attempt begins at the ledger again. What to do next is decided in [`run`](mod@crate::run); this
//! module waits, calls, counts retries, and keeps the figures that operators watch.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use rand::Rng;
use strait_bundle::{Bundle, Maker};
use strait_common::cpu::CpuPool;
use strait_common::digest::DigestId;
use strait_common::engine::{Outcome, Partition};
use strait_common::error::Reaction;
use strait_common::ids::{Epoch, RunId};
use strait_common::retry::Backoff;
use strait_common::selection::Selection;
use strait_common::shutdown::Shutdown;
use strait_common::{Error, Kind, Result};
use strait_proto::v1;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::compare::Sides;
use crate::files;
use crate::job::{Job, Mode};
use crate::link::{self, Link, Window};
use crate::overlap::Overlaps;
use crate::pace::Share;
use crate::run::{Run, Verdict, status_after};
use crate::runs::{RunRow, RunStore, Status};
use crate::stream::{self, Attempt, Ended};

mod board;
mod handover;
mod mirror;

use board::RunBoard;
use mirror::Comparison;

/// How often a run's figures are written while it goes on.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// The first wait before a retry.
const RETRY_WAIT_FIRST: Duration = Duration::from_millis(200);
/// Retries of one partition after temporary errors at the engines.
const PARTITION_RETRIES_MAX: u32 = 5;
/// How long a run waits for room on a full disk, since its last progress: somebody must come and make it.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Stops of the sink agent that count as no failure, since the last progress.
const DRAINS_MAX: u32 = 3;
/// Partitions named as current.
const CURRENT_MAX: usize = 4;

/// A run under way, as others see it.
#[derive(Debug)]
pub struct Live {
    run: Arc<Mutex<Run>>,
    state: Mutex<LiveState>,
    changed: Notify,
    /// Stops this run alone.
    pub shutdown: Shutdown,
    /// Its share of the agent's bandwidth, over all its attempts.
    bandwidth: Share,
    began: Instant,
    /// When something last became durable at the sink, in milliseconds since it began.
    progressed_ms: AtomicU64,
    /// What the source has was found whole.
    checked: AtomicBool,
    /// The sink has said in this attempt that it stops.
    sink_drains: AtomicBool,
    /// How the run is to stand once it has stopped, if an operator asked for the stop; else it is left for the next start.
    asked: Mutex<Option<Status>>,
    over: CancellationToken,
}

#[derive(Debug)]
struct LiveState {
    row: RunRow,
    phase: &'static str,
    message: String,
}

/// The figures of a run at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The run as stored, with figures as of now.
    pub row: RunRow,
    /// Sums over its partitions.
    pub totals: crate::runs::Totals,
    /// What it does now.
    pub phase: &'static str,
    /// Partitions being copied.
    pub running: u64,
    /// Some of them.
    pub current: Vec<String>,
}

/// Limits of a run that can change while it goes on. What is not said stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most that its frames take on the wire, in bytes a second.
    pub bandwidth_max: Option<u64>,
    /// Its streams, within the agent's bound.
    pub streams: Option<u32>,
}

impl Live {
    /// A run that nobody drives yet.
    fn new(run: Run, row: RunRow, bandwidth: Share, shutdown: Shutdown) -> Live {
        Live {
            bandwidth,
            run: Arc::new(Mutex::new(run)),
            state: Mutex::new(LiveState {
                row,
                phase: "waiting",
                message: String::new(),
            }),
            changed: Notify::new(),
            shutdown,
            began: Instant::now(),
            progressed_ms: AtomicU64::new(0),
            checked: AtomicBool::new(false),
            sink_drains: AtomicBool::new(false),
            asked: Mutex::default(),
            over: CancellationToken::new(),
        }
    }

    /// Goes on within other limits: bandwidth from now on; streams as partitions come to their end.
    pub fn limit(&self, limits: Limits) {
        let mut state = self.state();
        let row = &mut state.row;
        let before = (row.bandwidth_max, row.streams);
        row.bandwidth_max = limits.bandwidth_max.or(row.bandwidth_max);
        row.streams = limits.streams.unwrap_or(row.streams);
        if before == (row.bandwidth_max, row.streams) {
            return;
        }
        tracing::info!(run = %row.id.short(), bandwidth_max = row.bandwidth_max, streams = row.streams, "other limits from now on");
        self.bandwidth.limit(row.bandwidth_max);
        drop(state);
        self.changed.notify_waiters();
    }

    /// The streams that it may have now.
    fn streams(&self, most: u32) -> u32 {
        self.state().row.streams.clamp(1, most)
    }

    /// For how long nothing has become durable at the sink.
    pub fn progress_age(&self) -> Duration {
        let at = Duration::from_millis(self.progressed_ms.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(at)
    }

    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, LiveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the stop of this run.
    pub fn cancel(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Status::Cancelled);
        self.shutdown.cancel();
    }

    /// Asks for the soft stop of this run.
    pub fn pause(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Status::Paused);
        self.shutdown.drain();
    }

    /// Waits until the run is not driven any more. Cancel-safe.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Whether it is not driven any more.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// The figures as of now.
    pub fn snapshot(&self) -> Snapshot {
        let (totals, running, current) = {
            let run = self.run();
            (run.totals(), run.running() as u64, run.current(CURRENT_MAX))
        };
        let state = self.state();
        let mut row = state.row.clone();
        row.elapsed_ms += u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if row.message.is_empty() {
            row.message.clone_from(&state.message);
        }
        Snapshot {
            row,
            totals,
            phase: state.phase,
            running,
            current,
        }
    }

    fn set_phase(&self, phase: &'static str, message: String) {
        let mut state = self.state();
        state.phase = phase;
        state.message = message;
    }

    /// Work on the run's store, on the CPU pool.
    async fn decide<T: Send + 'static>(
        &self,
        cpu: &CpuPool,
        work: impl FnOnce(&mut Run) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let run = Arc::clone(&self.run);
        cpu.run(move || work(&mut run.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
    }
}

/// Prepares a stored run to be driven by [`drive`].
///
/// # Errors
/// `Unavailable` if the store cannot be read.
pub fn live(agent: &Agent, row: RunRow, shutdown: Shutdown) -> Result<Live> {
    let backoff = Backoff {
        first: RETRY_WAIT_FIRST,
        most: agent.config.retry_wait_max,
        retries_max: PARTITION_RETRIES_MAX,
    };
    let run = Run::load(agent.open_store()?, row.id, backoff)?;
    let bandwidth = agent.pacer.share(row.bandwidth_max);
    Ok(Live::new(run, row, bandwidth, shutdown))
}

/// Drives a run until it has ended, or the agent stops. Never fails: how it ended is in its row.
pub async fn drive(agent: Arc<Agent>, live: Arc<Live>) {
    let (id, job) = {
        let mut state = live.state();
        state.row.status = Status::Running;
        if state.row.started_at == 0 {
            state.row.started_at = agent.now_s();
        }
        (state.row.id, state.row.job.clone())
    };
    let backoff = between_attempts(&agent);
    let (mut retry, mut progress, mut drains) = (0, 0, 0);
    let mut room = Room::default();
    let ended = loop {
        let result = tokio::select! {
            result = attempt(&agent, &live, id, &job) => result,
            () = live.shutdown.cancelled() => Err(Error::cancelled("stopped")),
        };
        let progress_now = live.run().progress();
        if progress_now > progress {
            progress = progress_now;
            (retry, drains) = (0, 0);
            room = Room::default();
        }
        // It is no failure that an agent is stopped, as long as something is done between two stops.
        let stopping = live.sink_drains.swap(false, Ordering::Relaxed);
        let sink_drains = stopping && drains < DRAINS_MAX;
        let error = match result {
            Ok(Some(outcome)) => break Ok(outcome),
            // Some partitions are still unknown or pending: attach again, soon.
            Ok(None) if live.shutdown.is_draining() => break Err(Error::cancelled("stopped")),
            Ok(None) if stopping => Error::unavailable("the sink agent is stopping"),
            Ok(None) => {
                Error::unavailable("some partitions must be looked up in the sink's ledger")
            }
            Err(error) => error,
        };
        let (wait, why) = match error.kind().reaction() {
            Reaction::Retry if sink_drains => {
                drains += 1;
                let wait = backoff.step(drains - 1, jitter()).max(RETRY_WAIT_FIRST);
                (Some(wait), "attaches again".to_owned())
            }
            Reaction::Retry => {
                retry += 1;
                let wait = backoff.wait(retry - 1, jitter());
                (wait, format!("retry {retry}"))
            }
            Reaction::AwaitRoom => (room.wait(&backoff), NO_ROOM.to_owned()),
            Reaction::Replan | Reaction::Yield | Reaction::Fail | Reaction::Stop => {
                break Err(error);
            }
        };
        let Some(wait) = wait else {
            break Err(Error::new(
                error.kind(),
                match error.kind() {
                    Kind::Full => format!(
                        "gave up after {} hours without room",
                        ROOM_WAIT_MAX.as_secs() / 3600
                    ),
                    _ => format!("gave up after {} retries without progress", retry - 1),
                },
            )
            .with_source(error));
        };
        if !sink_drains {
            live.state().row.retries += 1;
            agent.metrics.retried(error.kind());
        }
        tracing::warn!(run = %id.short(), kind = %error.kind(), %error, retry, wait_ms = wait.as_millis() as u64, "will retry");
        live.set_phase(
            "waiting",
            format!("{why} in {:.1} s: {error}", wait.as_secs_f64()),
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = live.shutdown.draining() => break Err(Error::cancelled("stopped")),
        }
    };
    end(&agent, &live, ended).await;
    live.over.cancel();
}

async fn end(agent: &Agent, live: &Live, ended: Result<Outcome>) {
    let asked = *live.asked.lock().unwrap_or_else(PoisonError::into_inner);
    let mut row = live.snapshot().row;
    row.message.clear();
    row.kind = None;
    row.status = status_after(&ended, asked);
    if let Err(error) = &ended
        && row.status == Status::Failed
    {
        row.message = error.to_string();
        row.kind = Some(error.kind());
    }
    if !row.status.is_active() {
        row.ended_at = agent.now_s();
    }
    // One that only the agent's own stop has ended goes on.
    if !row.status.is_active() {
        agent.metrics.run_ended(row.status.name());
    }
    match row.status {
        Status::Failed => {
            tracing::error!(run = %row.id.short(), kind = ?row.kind, error = %row.message, "run failed")
        }
        status => {
            tracing::info!(run = %row.id.short(), status = status.name(), elapsed_ms = row.elapsed_ms, "run ended")
        }
    }
    if let Err(error) = store_end(agent, live, &row).await {
        tracing::error!(run = %row.id.short(), %error, "the end of the run could not be stored; it will be begun again");
    }
    let mut state = live.state();
    // The time of this stretch is in the row now.
    row.elapsed_ms = row
        .elapsed_ms
        .saturating_sub(u64::try_from(live.began.elapsed().as_millis()).unwrap_or(u64::MAX));
    state.row = row;
    state.phase = "";
}

/// A wait for room on a full disk.
#[derive(Debug, Default)]
struct Room {
    tries: u32,
    since: Option<Instant>,
}

/// How it is told.
const NO_ROOM: &str = "a disk is full; next try";

impl Room {
    /// How long to wait before the next try; `None` when it has lasted too long.
    fn wait(&mut self, backoff: &Backoff) -> Option<Duration> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let wait = backoff.step(self.tries, jitter()).max(RETRY_WAIT_FIRST);
        self.tries += 1;
        (since.elapsed() < ROOM_WAIT_MAX).then_some(wait)
    }
}

/// The waits between attempts of a run.
fn between_attempts(agent: &Agent) -> Backoff {
    Backoff {
        first: RETRY_WAIT_FIRST,
        most: agent.config.retry_wait_max,
        retries_max: agent.config.retries_max,
    }
}

/// Stores how a run ended; waits for room where the disk of `state_dir` is full.
///
/// # Errors
/// What the store says last.
async fn store_end(agent: &Agent, live: &Live, row: &RunRow) -> Result<()> {
    let backoff = between_attempts(agent);
    let mut room = Room::default();
    loop {
        let stored = row.clone();
        let written = live.decide(&agent.cpu, move |run| {
            run.flush()?;
            run.store().update(&stored)
        });
        let Err(error) = written.await else {
            return Ok(());
        };
        if error.kind() != Kind::Full {
            return Err(error);
        }
        let Some(wait) = room.wait(&backoff) else {
            return Err(error);
        };
        tracing::warn!(run = %row.id.short(), %error, wait_ms = wait.as_millis() as u64, "the end of the run cannot be stored yet");
        live.set_phase(
            "waiting",
            format!("{NO_ROOM} in {:.1} s: {error}", wait.as_secs_f64()),
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = agent.shutdown.draining() => return Err(error),
        }
    }
}

/// One attempt. `None` if another one is needed.
async fn attempt(
    agent: &Arc<Agent>,
    live: &Arc<Live>,
    id: RunId,
    job: &Job,
) -> Result<Option<Outcome>> {
    let link = agent.link(&job.spec.to.name)?;
    let source = agent.source(&job.spec.from.name)?;
    if !live.checked.load(Ordering::Relaxed) {
        live.set_phase("checking", String::new());
        tokio::select! {
            checked = source.check(&job.spec.from.table) => checked?,
            () = live.shutdown.draining() => return Err(Error::cancelled("stopped while checking")),
        }
        live.checked.store(true, Ordering::Relaxed);
    }
    live.set_phase("attaching", String::new());
    let table = source.describe(&job.spec.from.table).await?;
    let selection = Selection::resolve(&job.spec.selection, &table.schema, job.now)?;
    if selection.text() != job.resolved {
        return Err(Error::schema(format!(
            "table {} has changed: the selection now means {} and meant {}; begin a new run",
            table.name,
            selection.text(),
            job.resolved
        )));
    }
    let schema = link::projected(&table.schema, selection.columns())?;
    let digest_id = DigestId::of(&schema)?;
    if digest_id.0 != job.digest_id {
        return Err(Error::schema(format!(
            "table {}: its columns have changed since the run was planned; begin a new run",
            table.name
        )));
    }
    let overlaps = Overlaps::new(selection.clone(), &table, digest_id.clone());
    let epoch = attach(agent, live, &link, overlaps, id, job).await?;
    if matches!(job.mode, Mode::Mirror { .. }) {
        let sides = Sides {
            job,
            selection: &selection,
            schema: &schema,
            divisions: &table.divisions,
            table: &job.spec.from.table,
            source: &source,
            stream_bytes: agent.stream_bytes(source.read_bytes(&table)),
            link: &link,
        };
        live.set_phase("comparing", String::new());
        let comparison = Comparison {
            agent,
            live,
            sides,
            run: id,
            epoch,
        };
        comparison.compare().await?;
    }
    live.set_phase("copying", String::new());
    let window = Window {
        frames: agent.config.window_frames,
        frame_bytes_max: agent.config.frame_bytes_max,
    };
    let columns = table.schema.fields().len();
    let shape = files::shape(source.as_ref(), &job.spec, &selection, columns).await?;
    let attempt = Arc::new(Attempt {
        run: id,
        epoch,
        to: job.spec.to.clone(),
        narrow: job.spec.narrow.clone(),
        table: job.spec.from.table.clone(),
        schema,
        digest_id,
        files_shape: shape.ok(),
        window,
        chunk_bytes: agent.config.chunk_bytes,
        finishes_max: agent.config.finishes_max as usize,
        compression: agent.config.compression,
        bandwidth: live.bandwidth.clone(),
        stream_bytes: agent.stream_bytes(source.read_bytes(&table)),
        budget: agent.budget.clone(),
        cpu: agent.cpu.clone(),
        peer_timeout: agent.config.peer_timeout,
        lease_wait_max: agent.config.lease_wait_max,
        engine_timeout: agent.config.engine_timeout,
        shutdown: live.shutdown.clone(),
        metrics: Arc::clone(&agent.metrics),
        link: link.clone(),
        source: Arc::clone(&source),
        selection,
    });
    let copied = match copy(agent, live, &attempt).await {
        Ok(()) => mirror::drop_extras(agent, live, &attempt).await,
        failed => failed,
    };
    let verdict = live.decide(&agent.cpu, Run::verdict).await?;
    copied?;
    let Verdict::Complete(outcome) = verdict else {
        return Ok(None);
    };
    live.set_phase("completing", String::new());
    link.complete(&job.spec.to, id, epoch, outcome).await?;
    if let Some(directory) = job.spec.to.directory() {
        live.set_phase("sealing", String::new());
        let maker = Maker {
            agent: agent.identity(),
            run: id,
            from: job.spec.from.to_string(),
        };
        let sealed = Bundle::at(&directory, agent.cpu.clone())
            .seal(&job.spec.to.table, &maker)
            .await?;
        tracing::info!(run = %id.short(), table = %job.spec.to.table, ?sealed, "bundle sealed");
    }
    Ok(Some(outcome))
}

async fn attach(
    agent: &Arc<Agent>,
    live: &Live,
    link: &Link,
    overlaps: Overlaps,
    id: RunId,
    job: &Job,
) -> Result<Epoch> {
    let request = v1::AttachRequest {
        protocol: strait_proto::PROTOCOL_MAX,
        target: Some(link::target(&job.spec.to)),
        run: id.to_string(),
        agent: agent.identity(),
        job: job.to_json()?,
        digest_id: job.digest_id.clone(),
    };
    live.decide(&agent.cpu, move |run| run.attach(overlaps))
        .await?;
    let (epoch, mut pages) = link.attach(request).await?;
    while let Some(positions) = pages.next().await? {
        live.decide(&agent.cpu, move |run| {
            positions
                .iter()
                .try_for_each(|position| run.position(position))
        })
        .await?;
    }
    let row = {
        let mut state = live.state();
        state.row.attempts += 1;
        state.row.epoch = epoch.0;
        let mut row = state.row.clone();
        row.elapsed_ms += u64::try_from(live.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        row
    };
    tracing::info!(run = %id.short(), %epoch, attempt = row.attempts, "attached");
    live.decide(&agent.cpu, move |run| {
        run.flush()?;
        run.store().update(&row)
    })
    .await?;
    Ok(epoch)
}

/// Copies over several streams until nothing is left. The first error that is not one stream's own bad luck ends all of them.
async fn copy(agent: &Arc<Agent>, live: &Arc<Live>, attempt: &Arc<Attempt>) -> Result<()> {
    let streams_max = agent.config.streams_max;
    // Those that have begun and were not too many since.
    let mut begun = BTreeSet::new();
    let begin = |workers: &mut JoinSet<_>, begun: &mut BTreeSet<u32>| {
        for number in 0..live.streams(streams_max) {
            if !begun.insert(number) {
                continue;
            }
            let board = RunBoard {
                live: Arc::clone(live),
                cpu: agent.cpu.clone(),
                source: Arc::clone(&attempt.source),
                table: attempt.table.clone(),
                selection: attempt.selection.clone(),
                metrics: Arc::clone(&agent.metrics),
                number,
                streams_max,
            };
            let attempt = Arc::clone(attempt);
            let worker = async move { (number, worker(&attempt, &board).await) };
            workers.spawn(tracing::Instrument::in_current_span(worker));
        }
    };
    let mut workers = JoinSet::new();
    begin(&mut workers, &mut begun);
    let mut flush = tokio::time::interval(FLUSH_INTERVAL);
    let mut result = Ok(());
    loop {
        tokio::select! {
            joined = workers.join_next() => {
                let ended = match joined {
                    None => return result,
                    Some(Ok((number, Ok(Left::TooMany)))) => {
                        begun.remove(&number);
                        continue;
                    }
                    Some(Ok((_, ended))) => ended.map(|_| ()),
                    Some(Err(error)) if error.is_cancelled() => continue,
                    Some(Err(error)) => Err(Error::internal("a stream").with_source(error)),
                };
                // The streams that are left go on with what they have; they may finish it.
                if let Err(error) = ended {
                    let fatal = !error.kind().reaction().attaches_again();
                    if fatal {
                        workers.abort_all();
                    }
                    if result.is_ok() || fatal {
                        result = Err(error);
                    }
                    live.changed.notify_waiters();
                }
            }
            _ = flush.tick() => {
                let row = live.snapshot().row;
                live.decide(&agent.cpu, move |run| { run.flush()?; run.store().update(&row) }).await?;
                // The run may have more streams than before.
                if result.is_ok() {
                    begin(&mut workers, &mut begun);
                }
            }
        }
    }
}

/// Why a worker has left.
enum Left {
    /// Nothing is left for it to do.
    Nothing,
    /// The run may not have so many streams now.
    TooMany,
}

/// One stream after another until nothing is left: a stream that finds no room at the sink gives this side's back and tries again.
async fn worker(attempt: &Attempt, board: &RunBoard) -> Result<Left> {
    loop {
        match stream::run(attempt, board).await? {
            Ended::Well if board.is_too_many() => return Ok(Left::TooMany),
            Ended::Well => return Ok(Left::Nothing),
            Ended::Drained => {
                board.live.sink_drains.store(true, Ordering::Relaxed);
                return Ok(Left::Nothing);
            }
            Ended::NoRoom => {
                tracing::info!(run = %attempt.run.short(), "the sink has no memory for another stream yet");
                let wait = RETRY_WAIT_FIRST.mul_f64(1.0 + jitter());
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = attempt.shutdown.draining() => return Ok(Left::Nothing),
                }
                if board.nothing_left().await? {
                    return Ok(Left::Nothing);
                }
            }
        }
    }
}

/// Stores a run and its plan: reads the partitions of the source in order and writes them in one act.
///
/// # Errors
/// What the source yields; `Unavailable` if the store cannot be written.
pub async fn store_plan(
    cpu: &CpuPool,
    mut store: RunStore,
    row: RunRow,
    mut partitions: strait_common::engine::Stream<Partition>,
) -> Result<u64> {
    let (send, receive) = std::sync::mpsc::sync_channel::<Result<Partition>>(1000);
    let write = cpu.run(move || store.insert(&row, receive.into_iter()));
    let feed = async move {
        while let Some(partition) = partitions.next().await {
            let mut partition = Some(partition);
            // The writer is on a thread of its own and drains the queue; a full queue is waited for without blocking the runtime.
            while let Some(item) = partition.take() {
                match send.try_send(item) {
                    Ok(()) => {}
                    Err(std::sync::mpsc::TrySendError::Full(item)) => {
                        partition = Some(item);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(std::sync::mpsc::TrySendError::Disconnected(_)) => return,
                }
            }
        }
    };
    let (written, ()) = tokio::join!(write, feed);
    written
}

fn jitter() -> f64 {
    rand::rng().random()
}
