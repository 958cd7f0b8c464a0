//! One `Copy` stream, waited for: the engine on one side, the wire on the other, and the [session](crate::session) between
//! them.
//!
//! One task owns the stream. It waits for whatever comes first (a reply, room on the wire, the next batch, the next partition, the stop), and
//! hands it to the session. The sink is heard at least every few seconds while it is alive; longer silence ends the stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use strait_common::budget::{Budget, Lease};
use strait_common::cpu::CpuPool;
use strait_common::digest::DigestId;
use strait_common::engine::{ReadLimits, Source};
use strait_common::frame::Encoder;
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_common::shutdown::Shutdown;
use strait_common::{Error, Result};
use strait_proto::v1;
use strait_proto::v1::alive::Phase;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::compression::{Policy, Steps};
use crate::files::Reading;
use crate::job::Place;
use crate::link::{self, Link, Window, silent};
use crate::metrics::{Metrics, Stall};
use crate::pace::Share;
use crate::session::{Assignment, Event, Limits, Report, Session, Step, Want};

mod meter;
mod read;

use meter::{Meter, Wait};
use read::{Preparing, Read, Reader};

/// The largest file that travels as it is, in chunks; one of at most so many bytes does in any case.
const FILE_CHUNKS_MAX: u64 = 4;
const FILE_BYTES_ANY: u64 = 64 << 20;

/// What all streams of an attempt share.
#[derive(Debug)]
pub struct Attempt {
    /// The run.
    pub run: RunId,
    /// The epoch that the sink issued.
    pub epoch: Epoch,
    /// The sink.
    pub link: Link,
    /// The target.
    pub to: Place,
    /// Columns whose values go into B's type.
    pub narrow: Vec<String>,
    /// The store that is read.
    pub source: Arc<dyn Source>,
    /// The table in it.
    pub table: TableName,
    /// Which rows and columns.
    pub selection: Selection,
    /// The run's columns.
    pub schema: arrow::datatypes::SchemaRef,
    /// What digests are computed by.
    pub digest_id: DigestId,
    /// How A's files look, if they may travel in place of rows.
    pub files_shape: Option<String>,
    /// Bounds of frames.
    pub window: Window,
    /// Raw bytes of a chunk.
    pub chunk_bytes: u64,
    /// Unanswered finishes of a stream.
    pub finishes_max: usize,
    /// How frames are compressed.
    pub compression: Policy,
    /// The run's bandwidth.
    pub bandwidth: Share,
    /// What a stream holds of this agent's budget.
    pub stream_bytes: u64,
    /// The budget.
    pub budget: Budget,
    /// Where encoding runs.
    pub cpu: CpuPool,
    /// Silence after which the sink counts as gone.
    pub peer_timeout: Duration,
    /// How long a stream waits for the sink's memory before it gives this side's back.
    pub lease_wait_max: Duration,
    /// The longest that the sink's engine may take for one act, where the sink does not say.
    pub engine_timeout: Duration,
    /// The two signals.
    pub shutdown: Shutdown,
    /// Where what streams do is counted.
    pub metrics: Arc<Metrics>,
}

/// What a stream asks of its run.
pub trait Board: Send + Sync {
    /// The next partition to copy; waits until there is one, or nothing is left (`None`).
    fn next(&self) -> impl Future<Output = Result<Option<Assignment>>> + Send;
    /// Takes a report.
    fn report(&self, report: Report) -> impl Future<Output = Result<()>> + Send;
    /// The stream is lost with these partitions under way.
    fn lost(&self, seqs: Vec<u64>) -> impl Future<Output = ()> + Send;
}

/// How a stream ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is left to do, or the soft stop was asked for.
    Well,
    /// The sink had no memory for it in time.
    NoRoom,
    /// The sink stops, and has said so: what was under way is checkpointed there as far as it went.
    Drained,
}

/// Runs one stream to its end. Not cancel-safe: dropping it is losing the stream.
///
/// # Errors
/// What broke the stream; its partitions under way were given to [`Board::lost`].
pub async fn run<B: Board>(attempt: &Attempt, board: &B) -> Result<Ended> {
    let (waiting, begun) = (attempt.metrics.streams.waiting(), Instant::now());
    let budget = attempt.budget.for_stream();
    let lease = budget.lease(attempt.stream_bytes).await?;
    let (to_wire, from_stream) = mpsc::channel(1);
    let open = Request::Open(v1::Open {
        target: Some(link::target(&attempt.to)),
        run: attempt.run.to_string(),
        epoch: attempt.epoch.0,
        window_frames: attempt.window.frames,
        frame_bytes_max: attempt.window.frame_bytes_max,
        schema: strait_common::frame::schema_to_bytes(&attempt.schema)?,
        digest_id: attempt.digest_id.0.clone(),
        peer_timeout_ms: link::millis(attempt.peer_timeout),
        narrow: attempt.narrow.clone(),
        files_shape: attempt.files_shape.clone(),
    });
    let opened = async {
        to_wire.send(message(open)).await.map_err(|_| gone())?;
        let mut client = attempt.link.client();
        let mut replies = client
            .copy(ReceiverStream::new(from_stream))
            .await?
            .into_inner();
        loop {
            let reply = tokio::time::timeout(attempt.peer_timeout, next_reply(&mut replies)).await;
            match reply.map_err(|_| silent(attempt.peer_timeout))?? {
                Reply::Opened(opened) => return Ok(Some((opened, replies))),
                Reply::Alive(alive) if alive.draining => return Ok(None),
                Reply::Alive(_) => {}
                _ => return Err(Error::corrupt("a stream's first answer is not Opened")),
            }
        }
    };
    let opened = tokio::time::timeout(attempt.lease_wait_max, opened).await;
    drop(waiting);
    attempt.metrics.stalled(Stall::Memory, begun.elapsed());
    let opened = match opened {
        Ok(opened) => link::named(opened, &attempt.link)?,
        Err(_) => return Ok(Ended::NoRoom),
    };
    let Some((opened, replies)) = opened else {
        return Ok(Ended::Drained);
    };
    if opened.window_frames == 0 {
        let error = Error::corrupt("the sink has opened a stream without a window");
        return link::named(Err(error), &attempt.link);
    }
    let limits = Limits {
        window_frames: opened.window_frames.min(attempt.window.frames),
        frame_bytes_max: attempt.window.frame_bytes_max,
        chunk_bytes: attempt.chunk_bytes,
        finishes_max: attempt.finishes_max,
    };
    let steps = Steps::new(attempt.compression);
    let _open = attempt.metrics.streams.open();
    let mut stream = Stream {
        session: Session::new(limits, attempt.digest_id.clone(), attempt.selection.text()),
        attempt,
        board,
        outbox: VecDeque::new(),
        to_wire,
        replies,
        heard: Instant::now(),
        busy: None,
        sink_drains: false,
        sink_timeout: sink_timeout(attempt, &opened),
        encoder: Some(Encoder::new(steps.compression())?),
        steps,
        meter: Meter::new(Instant::now()),
        reader: None,
        files_shape: attempt
            .files_shape
            .as_deref()
            .filter(|_| opened.takes_files),
        budget,
        _lease: lease,
    };
    let ended = stream.run().await;
    if ended.is_err() {
        board.lost(stream.session.unanswered()).await;
    }
    let sink_drains = stream.sink_drains;
    link::named(ended, &attempt.link).map(|()| match sink_drains {
        true => Ended::Drained,
        false => Ended::Well,
    })
}

struct Stream<'a, B> {
    attempt: &'a Attempt,
    board: &'a B,
    session: Session,
    outbox: VecDeque<Request>,
    to_wire: mpsc::Sender<v1::CopyRequest>,
    replies: Streaming<v1::CopyReply>,
    heard: Instant,
    /// The phase that the sink has named since it answered last, and since when.
    busy: Option<(Phase, Instant)>,
    /// The sink has said that it stops.
    sink_drains: bool,
    /// After so long in one phase the sink gives its engine up itself.
    sink_timeout: Duration,
    encoder: Option<Encoder>,
    steps: Steps,
    meter: Meter,
    reader: Option<Reader>,
    /// How the files of both sides look, where they can travel.
    files_shape: Option<&'a str>,
    budget: Budget,
    _lease: Lease,
}

/// The one thing this side prepares at a time.
type Work<'a> = Pin<Box<dyn Future<Output = Result<Worked>> + Send + 'a>>;

enum Worked {
    /// The next partition.
    Assigned(Option<Box<Assignment>>),
    /// The next batch; the reader and the encoder come back, and the lease of an oversized row.
    Read(Box<Read>),
}

impl<B: Board> Stream<'_, B> {
    async fn run(&mut self) -> Result<()> {
        let mut work: Option<Work<'_>> = None;
        let mut oversized: Option<Lease> = None;
        let mut drained = false;
        let attempt = self.attempt;
        let board = self.board;
        let to_wire = self.to_wire.clone();
        loop {
            if self.outbox.is_empty() {
                oversized = None;
            }
            // The next thing is prepared while what was sent is on its way.
            if work.is_none() && self.outbox.is_empty() {
                work = match self.session.want() {
                    Want::Nothing => return Ok(()),
                    Want::Assignment => Some(Box::pin(async move {
                        Ok(Worked::Assigned(board.next().await?.map(Box::new)))
                    })),
                    Want::Batch => Some(self.read()?),
                    Want::Credit | Want::Reply => None,
                };
            }
            let silence = self.heard + attempt.peer_timeout;
            let (wait, waiting) = (self.wait(work.is_some()), Instant::now());
            tokio::select! {
                biased;
                () = attempt.shutdown.cancelled() => return Err(Error::cancelled("stopped")),
                () = attempt.shutdown.draining(), if !drained => {
                    drained = true;
                    self.apply(Event::Drain).await?;
                }
                reply = next_reply(&mut self.replies) => {
                    self.heard = Instant::now();
                    self.waited(wait, self.heard - waiting);
                    let reply = reply?;
                    if let Reply::Credit(credit) = &reply {
                        self.meter.credited(Duration::from_micros(credit.held_us));
                    }
                    self.check_busy(&reply)?;
                    if matches!(&reply, Reply::Alive(alive) if alive.draining) && !self.sink_drains {
                        self.sink_drains = true;
                        self.apply(Event::Drain).await?;
                    }
                    self.apply(Event::Reply(reply)).await?;
                }
                permit = to_wire.reserve(), if !self.outbox.is_empty() => {
                    self.waited(wait, waiting.elapsed());
                    let permit = permit.map_err(|_| gone())?;
                    if let Some(request) = self.outbox.pop_front() {
                        permit.send(message(request));
                    }
                }
                worked = async { match work.as_mut() { Some(work) => work.await, None => std::future::pending().await } } => {
                    work = None;
                    match worked? {
                        Worked::Assigned(assignment) => self.assigned(assignment).await?,
                        Worked::Read(read) => {
                            self.count(&read);
                            let Read { encoder, reader, event, lease, .. } = *read;
                            self.encoder = Some(encoder);
                            // The partition may have been answered, or left, while it was read.
                            if self.session.want() == Want::Batch {
                                self.reader = reader;
                                oversized = lease;
                                self.apply(event).await?;
                            }
                        }
                    }
                }
                () = tokio::time::sleep_until(silence) => return Err(silent(attempt.peer_timeout)),
            }
            drop_if_idle(&mut oversized, &self.outbox);
        }
    }

    /// A sink that is alive and never comes to an end of what it does is as good as dead. It fails the partition itself when its engine does
    /// not answer, and the stream goes on; only where it does not, long after it should have, is the stream given up here.
    fn check_busy(&mut self, reply: &Reply) -> Result<()> {
        let Reply::Alive(alive) = reply else {
            self.busy = None;
            return Ok(());
        };
        let phase = alive.phase();
        let Some(name) = engine_phase(phase) else {
            self.busy = None;
            return Ok(());
        };
        let since = match self.busy {
            Some((busy, since)) if busy == phase => since,
            _ => {
                self.busy = Some((phase, self.heard));
                self.heard
            }
        };
        let lasted = (self.heard - since).max(Duration::from_millis(alive.since_ms));
        let timeout = self.sink_timeout;
        if lasted <= timeout + self.attempt.peer_timeout {
            return Ok(());
        }
        // The sink knows which one it is; one of an older release does not say.
        let key = match alive.key.as_str() {
            "" => self.session.oldest().map(PartitionKey::label),
            key => Some(key.to_owned()),
        };
        let under_way = key
            .map(|key| format!("; partition {key} is under way"))
            .unwrap_or_default();
        Err(Error::unavailable(format!(
            "{name}: the sink's engine has not answered for {} s, and the sink (engine_timeout = {} s) has not given it up{under_way}",
            lasted.as_secs(),
            timeout.as_secs()
        )))
    }

    async fn assigned(&mut self, assignment: Option<Box<Assignment>>) -> Result<()> {
        self.reader = None;
        let Some(mut assignment) = assignment else {
            return self.apply(Event::Assigned(None)).await;
        };
        let offered = offered(self.attempt, self.files_shape, &assignment).await;
        let from = assignment.from.as_ref();
        let goes_on = from.is_some_and(|from| from.cursor.is_of_files());
        assignment.files = match &offered {
            Ok(offered) => offered.is_some(),
            // What is staged stays as it is.
            Err(_) => goes_on,
        };
        // What is staged of its files is no beginning of its rows.
        if goes_on && !assignment.files {
            assignment.from = None;
        }
        self.apply(Event::Assigned(Some(assignment.clone())))
            .await?;
        if self.session.want() != Want::Batch {
            // The soft stop has come first: the partition is left already.
            return Ok(());
        }
        match offered {
            Ok(None) => {}
            Ok(Some(reading)) => {
                self.reader = Some(Reader::Files(Box::new(reading)));
                return Ok(());
            }
            Err(error) => return self.apply(Event::ReadFailed(error)).await,
        }
        let attempt = self.attempt;
        let batch_bytes = attempt.window.frame_bytes_max / 8 * 7;
        let limits = ReadLimits {
            batch_bytes,
            budget: self.budget.clone(),
        };
        let after = assignment
            .from
            .as_ref()
            .map(|from| from.cursor.clone())
            .unwrap_or_default();
        let read = attempt.source.read(
            &attempt.table,
            &attempt.selection,
            &assignment.partition,
            &after,
            &limits,
        );
        match read.await {
            Ok(reader) => self.reader = Some(Reader::Rows(reader)),
            Err(error) => self.apply(Event::ReadFailed(error)).await?,
        }
        Ok(())
    }

    /// Begins to prepare the next batch.
    fn read(&mut self) -> Result<Work<'static>> {
        let mut encoder = self
            .encoder
            .take()
            .ok_or_else(|| Error::internal("a batch is being encoded"))?;
        let reader = self
            .reader
            .take()
            .ok_or_else(|| Error::internal("no partition is open"))?;
        encoder.set(self.steps.compression())?;
        let attempt = self.attempt;
        let preparing = Preparing {
            selection: attempt.selection.clone(),
            cpu: attempt.cpu.clone(),
            budget: self.budget.clone(),
            frame_bytes_max: attempt.window.frame_bytes_max,
            bandwidth: attempt.bandwidth.clone(),
            shutdown: attempt.shutdown.clone(),
            engine_timeout: attempt.engine_timeout,
        };
        Ok(Box::pin(async move {
            let read = preparing.next(encoder, reader).await?;
            Ok(Worked::Read(Box::new(read)))
        }))
    }

    /// A batch is ready; it is time to decide how the next ones are compressed, or not.
    fn count(&mut self, read: &Read) {
        self.meter.waited(Wait::Wire, read.admitting);
        self.attempt
            .metrics
            .stalled(Stall::Bandwidth, read.admitting);
        let (Event::Batch(encoded), Some(Reader::Rows(_))) = (&read.event, &read.reader) else {
            // Files are not compressed again.
            return;
        };
        let frames = encoded.frames.len() as u64;
        if let Some(spent) = self.meter.encoded(frames, read.encoding, Instant::now()) {
            let before = self.steps.compression();
            self.steps.decide(spent);
            let now = self.steps.compression();
            if now != before {
                tracing::debug!(?before, ?now, ?spent, "frames are compressed otherwise");
            }
        }
    }

    /// The stream has waited.
    fn waited(&mut self, wait: Wait, time: Duration) {
        self.meter.waited(wait, time);
        let stall = match wait {
            Wait::Wire => Stall::Wire,
            Wait::Credit => Stall::Credit,
            Wait::Other => return,
        };
        self.attempt.metrics.stalled(stall, time);
    }

    /// What the stream waits for if nothing of its own is under way.
    fn wait(&self, working: bool) -> Wait {
        if working {
            Wait::Other
        } else if !self.outbox.is_empty() {
            Wait::Wire
        } else if self.session.want() == Want::Credit {
            Wait::Credit
        } else {
            Wait::Other
        }
    }

    async fn apply(&mut self, event: Event) -> Result<()> {
        let Step { send, reports } = self.session.apply(event)?;
        self.outbox.extend(send);
        for report in reports {
            self.board.report(report).await?;
        }
        Ok(())
    }
}

/// The files of a partition, where they can travel in place of its rows. What goes on among rows does so to its end.
async fn offered(
    attempt: &Attempt,
    shape: Option<&str>,
    assignment: &Assignment,
) -> Result<Option<Reading>> {
    let after = assignment.from.as_ref().map(|from| from.cursor.clone());
    let after = after.unwrap_or_default();
    let Some(shape) = shape.filter(|_| after.is_start() || after.is_of_files()) else {
        return Ok(None);
    };
    let (table, selection) = (&attempt.table, &attempt.selection);
    let files = attempt
        .source
        .files(table, selection, &assignment.partition, shape);
    // No checkpoint comes inside a file: one that takes longer than a link holds would begin again and again.
    let bytes_max = (FILE_CHUNKS_MAX * attempt.chunk_bytes).max(FILE_BYTES_ANY);
    let files = files.await?;
    files
        .filter(|files| files.files().iter().all(|file| file.bytes <= bytes_max))
        .map(|files| Reading::new(files, &after))
        .transpose()
}

/// The sink's own patience with its engine; this side's where it does not say.
fn sink_timeout(attempt: &Attempt, opened: &v1::Opened) -> Duration {
    match opened.engine_timeout_ms {
        0 => attempt.engine_timeout,
        ms => Duration::from_millis(ms),
    }
}

/// The phases in which the sink waits for its engine.
fn engine_phase(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Begin => Some("begin"),
        Phase::Append => Some("append"),
        Phase::Checkpoint => Some("checkpoint"),
        Phase::Finish => Some("finish"),
        // Nothing to do, or memory to wait for, may last.
        Phase::Unspecified | Phase::Lease | Phase::Idle => None,
    }
}

/// An oversized row's lease is held until its last part was handed to the wire.
fn drop_if_idle(lease: &mut Option<Lease>, outbox: &VecDeque<Request>) {
    if outbox.is_empty() {
        *lease = None;
    }
}

async fn next_reply(replies: &mut Streaming<v1::CopyReply>) -> Result<Reply> {
    let reply = replies.message().await?.ok_or_else(gone)?;
    reply.body.ok_or_else(|| Error::corrupt("an empty answer"))
}

fn message(request: Request) -> v1::CopyRequest {
    v1::CopyRequest {
        body: Some(request),
    }
}

fn gone() -> Error {
    Error::unavailable("the sink has ended the stream")
}
