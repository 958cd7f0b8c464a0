//! One `Copy` stream, waited for: messages from the source on one side, the engine on the other, and the
//! [session](crate::session) between them.
//!
//! Two tasks joined by a bounded queue: one reads the wire, so that a slow engine does not keep it from seeing that the source is
//! gone; the other decodes and appends. A third tells the source that this side is alive while something long
//! lasts. All of them end with the stream; only a finish outlives it (see [`tables`](crate::tables)).
//!
//! Memory: the stream's lease is taken before its first frame may be sent. It pays for the window, for one frame being
//! decompressed and decoded, and for the engine's writers. A single row that is larger than a frame takes a larger lease, alone, before
//! its parts are read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use strait_common::budget::{Budget, Lease};
use strait_common::config::Percent;
use strait_common::cpu::CpuPool;
use strait_common::digest::{Digest, DigestId, digest};
use strait_common::engine::{Begun, PartitionWriter, Sink, TableFile};
use strait_common::files::FileDigest;
use strait_common::frame::{Decoder, Frame};
use strait_common::key::PartitionKey;
use strait_common::shutdown::Shutdown;
use strait_common::{Error, Result};
use strait_proto::v1;
use strait_proto::v1::alive::Phase;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tonic::Streaming;

use crate::metrics::Metrics;
use crate::narrow;
use crate::session::{Action, Event, Session, answer_finish};
use crate::tables::Attached;

/// How often the source hears that this side is alive, at least.
const ALIVE_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// The same, at most.
const ALIVE_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How often within the time after which the source gives this side up.
const ALIVES_PER_PEER_TIMEOUT: u32 = 4;
/// Control messages that may wait between the two tasks beside the frames of the window.
const CONTROL_MESSAGES_MAX: usize = 8;
/// Partitions of a stream that are being published at a time, and what they may hold of memory together, in bytes: a part of the stream's lease.
const FINISHES_MAX: usize = 1000;
pub(crate) const FINISHING_BYTES: u64 = 8 << 20;

/// So few bytes are hashed where they are: handing them over would take longer.
const INLINE_BYTES: u64 = 64 << 10;

/// Where replies go; the end of the channel is the gRPC response stream.
pub type Replies = mpsc::Sender<Result<v1::CopyReply, tonic::Status>>;

/// What a stream needs beside its messages.
#[derive(Debug)]
pub struct Stream {
    /// The attempt that it belongs to.
    pub attached: Attached,
    /// The rows' schema, as `Open` gave it.
    pub schema: SchemaRef,
    /// The same in the types in which the engine gets them.
    pub held: SchemaRef,
    /// The digest id of that schema.
    pub digest_id: DigestId,
    /// Frames in flight.
    pub window_frames: u32,
    /// The largest frame of more than one row, in bytes.
    pub frame_bytes_max: u64,
    /// Whether partitions may come as files.
    pub takes_files: bool,
    /// What the stream holds of the budget.
    pub lease: Lease,
    /// Where a larger lease comes from.
    pub budget: Budget,
    /// Where decoding runs.
    pub cpu: CpuPool,
    /// The longest that one call of the engine may take.
    pub engine_timeout: Duration,
    /// Whether another partition may begin.
    pub room: Room,
    /// Where what comes is counted.
    pub metrics: Arc<Metrics>,
}

impl Stream {
    /// A call of the engine.
    async fn engine<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.metrics.engine(call, self.engine_timeout, work).await
    }
}

/// How full B's disk may be.
#[derive(Clone, Debug)]
pub struct Room {
    /// The half of the store that knows.
    pub sink: Arc<dyn Sink>,
    /// The share above which no partition begins.
    pub used_max: Percent,
}

impl Room {
    /// Whether a partition may begin.
    ///
    /// # Errors
    /// `Full`, naming the share and the setting, if it may not; what the engine says.
    async fn check(&self) -> Result<()> {
        match self.sink.space().await? {
            Some(space) if space.used_percent() > u64::from(self.used_max.0) => {
                Err(Error::full(format!(
                    "the disk of {} is {} % full, and no partition begins above {} (disk_used_max); make room or raise it",
                    space.place,
                    space.used_percent(),
                    self.used_max
                )))
            }
            _ => Ok(()),
        }
    }
}

/// A message as the appending task gets it: a frame comes whole, with the lease that pays for it if it is oversized.
struct Arrived {
    request: Request,
    payload: bytes::Bytes,
    lease: Option<Lease>,
    /// When it was whole.
    at: Instant,
}

/// What the stream is busy with, for [`alive`].
#[derive(Clone, Debug)]
pub struct PhaseCell(Arc<Mutex<Busy>>);

/// One thing that the stream is busy with.
#[derive(Clone, Debug)]
struct Busy {
    phase: Phase,
    /// Of which partition.
    key: Option<PartitionKey>,
    since: Instant,
}

impl PhaseCell {
    /// Busy with `phase` from now on.
    pub fn new(phase: Phase) -> PhaseCell {
        PhaseCell(Arc::new(Mutex::new(Busy {
            phase,
            key: None,
            since: Instant::now(),
        })))
    }

    fn set(&self, phase: Phase, key: Option<&PartitionKey>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Busy {
            phase,
            key: key.cloned(),
            since: Instant::now(),
        };
    }

    fn alive(&self, draining: bool) -> v1::Alive {
        let busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        v1::Alive {
            phase: busy.phase.into(),
            since_ms: u64::try_from(busy.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            key: busy
                .key
                .as_ref()
                .map(PartitionKey::label)
                .unwrap_or_default(),
            draining,
        }
    }
}

/// How often a source with this patience hears of this side; without one, the usual.
pub fn alive_interval(peer_timeout_ms: u64) -> Duration {
    if peer_timeout_ms == 0 {
        return ALIVE_INTERVAL_MAX;
    }
    (Duration::from_millis(peer_timeout_ms) / ALIVES_PER_PEER_TIMEOUT)
        .clamp(ALIVE_INTERVAL_MIN, ALIVE_INTERVAL_MAX)
}

/// Tells the source again and again what this side is busy with, and at once when it begins to stop. Runs until the source is gone or the task is dropped.
pub async fn alive(phase: PhaseCell, replies: Replies, interval: Duration, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    let mut draining = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.draining(), if !draining => draining = true,
        }
        let body = Reply::Alive(phase.alive(draining));
        if replies
            .send(Ok(v1::CopyReply { body: Some(body) }))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Serves an opened stream to its end. Not cancel-safe: dropping it is a crash of the partition being written.
///
/// # Errors
/// What ends the stream, as the source will see it.
pub async fn serve(
    stream: Stream,
    messages: Streaming<v1::CopyRequest>,
    replies: &Replies,
    phase: PhaseCell,
) -> Result<()> {
    let queue = stream.window_frames as usize + CONTROL_MESSAGES_MAX;
    let (to_appender, from_wire) = mpsc::channel(queue);
    let mut tasks = JoinSet::new();
    let (budget, frame_bytes_max) = (stream.budget.clone(), stream.frame_bytes_max);
    let window = Arc::new(Semaphore::new(stream.window_frames as usize));
    let appender = Appender::new(stream, replies.clone(), phase, Arc::clone(&window))?;
    tasks.spawn(read_wire(
        messages,
        to_appender,
        window,
        budget,
        frame_bytes_max,
    ));
    let appended = appender.run(from_wire).await;
    // The wire's own error says more than the queue's sudden end.
    tasks.abort_all();
    let mut read = Ok(());
    while let Some(joined) = tasks.join_next().await {
        match joined {
            Ok(result) => read = result,
            Err(error) if error.is_cancelled() => {}
            Err(error) => read = Err(Error::internal("read the wire").with_source(error)),
        }
    }
    appended.and(read)
}

/// Reads messages, puts the parts of a frame together, and passes them on in order.
async fn read_wire(
    mut messages: Streaming<v1::CopyRequest>,
    to_appender: mpsc::Sender<Arrived>,
    window: Arc<Semaphore>,
    budget: Budget,
    frame_bytes_max: u64,
) -> Result<()> {
    while let Some(message) = messages.message().await? {
        let request = message
            .body
            .ok_or_else(|| Error::corrupt("an empty message"))?;
        let mut arrived = Arrived {
            request,
            payload: bytes::Bytes::new(),
            lease: None,
            at: Instant::now(),
        };
        if let Request::Frame(frame) = &mut arrived.request {
            // The lease pays for the window and no more; the credit comes back when the frame is appended or dropped.
            match window.try_acquire() {
                Ok(credit) => credit.forget(),
                Err(_) => {
                    return Err(Error::corrupt(
                        "a frame without credit: the source does not follow the protocol",
                    ));
                }
            }
            if frame.raw_bytes > frame_bytes_max {
                // Payload, decompressed bytes and decoded rows; the stream's lease covers one ordinary frame.
                let needed = frame
                    .raw_bytes
                    .saturating_mul(2)
                    .saturating_add(frame.wire_bytes);
                arrived.lease = Some(budget.lease_alone(needed).await?);
            }
            arrived.payload = read_payload(frame, &mut messages).await?;
            arrived.at = Instant::now();
        }
        if to_appender.send(arrived).await.is_err() {
            // The appender has ended, and says why.
            return Ok(());
        }
    }
    Ok(())
}

async fn read_payload(
    frame: &mut v1::Frame,
    messages: &mut Streaming<v1::CopyRequest>,
) -> Result<bytes::Bytes> {
    let first = std::mem::take(&mut frame.payload);
    // What does not compress grows by a little.
    if frame.wire_bytes
        > frame
            .raw_bytes
            .saturating_add(frame.raw_bytes / 64)
            .saturating_add(1024)
    {
        return Err(Error::corrupt(format!(
            "a frame of {} bytes takes {} on the wire",
            frame.raw_bytes, frame.wire_bytes
        )));
    }
    let wire_bytes = usize::try_from(frame.wire_bytes).unwrap_or(usize::MAX);
    if first.len() == wire_bytes {
        return Ok(first);
    }
    let mut payload = bytes::BytesMut::with_capacity(wire_bytes);
    payload.extend_from_slice(&first);
    while payload.len() < wire_bytes {
        let message = messages.message().await?.and_then(|message| message.body);
        match message {
            Some(Request::Part(part)) if !part.payload.is_empty() => {
                payload.extend_from_slice(&part.payload)
            }
            _ => break,
        }
    }
    if payload.len() != wire_bytes {
        return Err(Error::corrupt(format!(
            "a frame of {wire_bytes} bytes on the wire came as {}",
            payload.len()
        )));
    }
    Ok(payload.freeze())
}

struct Appender {
    stream: Stream,
    session: Session,
    decoder: Option<Decoder>,
    /// Of the file that is coming.
    digest: FileDigest,
    writer: Option<Box<dyn PartitionWriter>>,
    finishes: JoinSet<Held>,
    /// The partitions of those, by ordinal.
    finishing: BTreeMap<u64, PartitionKey>,
    /// What those hold.
    finishing_bytes: u64,
    replies: Replies,
    phase: PhaseCell,
    /// Credit that the source has.
    window: Arc<Semaphore>,
}

impl Appender {
    fn new(
        stream: Stream,
        replies: Replies,
        phase: PhaseCell,
        window: Arc<Semaphore>,
    ) -> Result<Appender> {
        Ok(Appender {
            window,
            session: Session::new(
                stream.digest_id.clone(),
                stream.frame_bytes_max,
                stream.takes_files,
            ),
            digest: FileDigest::default(),
            decoder: Some(Decoder::new(Arc::clone(&stream.schema))?),
            writer: None,
            finishes: JoinSet::new(),
            finishing: BTreeMap::new(),
            finishing_bytes: 0,
            stream,
            replies,
            phase,
        })
    }

    async fn run(mut self, mut from_wire: mpsc::Receiver<Arrived>) -> Result<()> {
        loop {
            self.idle_or_finishing();
            let arrived = tokio::select! {
                arrived = from_wire.recv() => arrived,
                Some(finished) = self.finishes.join_next() => {
                    self.finished(finished)?;
                    continue;
                }
            };
            let Some(mut arrived) = arrived else { break };
            let frame = match &arrived.request {
                Request::Frame(frame) => {
                    let metrics = &self.stream.metrics;
                    metrics.bytes_received.inc_by(frame.raw_bytes);
                    metrics.wire_bytes_received.inc_by(frame.wire_bytes);
                    Some(Frame {
                        rows: frame.rows,
                        raw_bytes: frame.raw_bytes,
                        compressed: frame.compression() == v1::Compression::Zstd,
                        checksum: frame.checksum,
                        payload: std::mem::take(&mut arrived.payload),
                    })
                }
                _ => None,
            };
            let action = self
                .session
                .apply(Event::Message(Box::new(arrived.request)))?;
            self.perform(action, frame, arrived.at).await?;
        }
        // The source is done with the stream; its last finishes still answer.
        while let Some(finished) = self.finishes.join_next().await {
            self.finished(finished)?;
        }
        Ok(())
    }

    fn idle_or_finishing(&self) {
        match self.finishing.first_key_value() {
            None => self.phase.set(Phase::Idle, None),
            Some((_, oldest)) => self.phase.set(Phase::Finish, Some(oldest)),
        }
    }

    fn finished(&mut self, joined: std::result::Result<Held, JoinError>) -> Result<()> {
        let joined = joined.map_err(|error| Error::internal("publish").with_source(error));
        let Held {
            ordinal,
            bytes: held,
        } = joined?;
        self.finishing.remove(&ordinal);
        self.finishing_bytes = self.finishing_bytes.saturating_sub(held);
        Ok(())
    }

    /// Waits until one more partition that holds so much can be published beside those that are. One that alone holds more than all may is published alone.
    async fn room_to_finish(&mut self, held: u64) -> Result<()> {
        while self.finishes.len() >= FINISHES_MAX || self.finishing_bytes + held > FINISHING_BYTES {
            self.idle_or_finishing();
            match self.finishes.join_next().await {
                Some(finished) => self.finished(finished)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Does what the session decided, feeds the result back, and goes on until it decides to wait. The message came at
    /// `arrived`.
    async fn perform(
        &mut self,
        mut action: Action,
        mut frame: Option<Frame>,
        arrived: Instant,
    ) -> Result<()> {
        let mut credit = false;
        loop {
            let event = match action {
                Action::Nothing => break,
                Action::Reply(reply) => {
                    send(&self.replies, reply).await?;
                    break;
                }
                Action::DropFrame => {
                    credit = true;
                    break;
                }
                Action::Release(reply) => {
                    self.writer = None;
                    credit |= frame.take().is_some();
                    if let Some(reply) = reply {
                        send(&self.replies, reply).await?;
                    }
                    break;
                }
                Action::Begin {
                    partition,
                    disposition,
                    from,
                } => {
                    // Of a file whose partition failed, something may be left.
                    self.digest = FileDigest::default();
                    self.phase.set(Phase::Begin, Some(&partition.key));
                    let attachment = Arc::clone(&self.stream.attached.attachment);
                    let begin = async {
                        self.stream.room.check().await?;
                        let begin = attachment.begin(&partition, disposition, from.as_deref());
                        begin.await
                    };
                    let begun = self.stream.engine("begin", begin).await;
                    match begun {
                        Ok(Begun::Writer(writer)) => {
                            self.writer = Some(writer);
                            Event::Begun
                        }
                        Ok(Begun::Already(receipt)) => Event::BegunAlready(receipt),
                        Err(error) => {
                            self.stream.metrics.failed(error.kind());
                            Event::Failed(error.context(format!("partition {}", partition.key)))
                        }
                    }
                }
                Action::Append => {
                    let appended = match frame.take() {
                        Some(frame) => self.append(frame).await,
                        None => Err(Error::internal("a frame without its payload")),
                    };
                    credit = true;
                    match appended {
                        Ok((rows, digest)) => Event::Appended { rows, digest },
                        Err(error) => Event::Failed(self.failed(error)),
                    }
                }
                Action::AppendFile { file, last } => {
                    let appended = match frame.take() {
                        Some(frame) => self.append_file(file, last, frame).await,
                        None => Err(Error::internal("a frame without its payload")),
                    };
                    credit = true;
                    match appended {
                        Ok((rows, digest)) => Event::Appended { rows, digest },
                        Err(error) => Event::Failed(self.failed(error)),
                    }
                }
                Action::Checkpoint(mark) => {
                    self.phase.set(Phase::Checkpoint, self.session.partition());
                    let checkpoint = writer(&mut self.writer)?.checkpoint(mark);
                    match self.stream.engine("checkpoint", checkpoint).await {
                        Ok(_) => {
                            self.stream.metrics.checkpoints.inc();
                            Event::Checkpointed
                        }
                        Err(error) => Event::Failed(self.failed(error)),
                    }
                }
                Action::Finish { ordinal, receipt } => {
                    let mut writer = self
                        .writer
                        .take()
                        .ok_or_else(|| Error::internal("a finish without a writer"))?;
                    // Before the next partition begins, so that one writer is open at a time.
                    self.phase.set(Phase::Append, Some(&receipt.key));
                    let held = match self.stream.engine("seal", writer.seal()).await {
                        Ok(held) => held,
                        Err(error) => {
                            self.stream.metrics.failed(error.kind());
                            drop(writer);
                            send(&self.replies, answer_finish(ordinal, &receipt, Err(error))?)
                                .await?;
                            break;
                        }
                    };
                    self.room_to_finish(held).await?;
                    self.finishing_bytes += held;
                    self.finishing.insert(ordinal, receipt.key.clone());
                    let finish = Finishing {
                        held,
                        attached: self.stream.attached.clone(),
                        writer,
                        receipt: *receipt,
                        ordinal,
                        replies: self.replies.clone(),
                        timeout: self.stream.engine_timeout,
                        metrics: Arc::clone(&self.stream.metrics),
                    };
                    let finish = tracing::Instrument::in_current_span(finish.run());
                    self.finishes.spawn(finish);
                    break;
                }
            };
            action = self.session.apply(event)?;
        }
        if credit {
            // Before the source can know of it.
            self.window.add_permits(1);
            let held_us = u64::try_from(arrived.elapsed().as_micros()).unwrap_or(u64::MAX);
            let credit = v1::Credit { frames: 1, held_us };
            send(&self.replies, Reply::Credit(credit)).await?;
        }
        Ok(())
    }

    async fn append(&mut self, frame: Frame) -> Result<(u64, Digest)> {
        self.phase.set(Phase::Append, self.session.partition());
        let mut decoder = self
            .decoder
            .take()
            .ok_or_else(|| Error::internal("a frame is being decoded"))?;
        let held = (self.stream.held != self.stream.schema)
            .then(|| (SchemaRef::clone(&self.stream.held), self.session.rows()));
        let decode = move || {
            let decoded = decoder.decode(frame).and_then(|records| {
                let digest = digest(&records)?;
                let records = match &held {
                    None => records,
                    Some((held, first)) => narrow::apply(&records, held, *first)?,
                };
                Ok((digest, records))
            });
            Ok((decoder, decoded))
        };
        let (decoder, decoded): (Decoder, Result<(Digest, RecordBatch)>) =
            self.stream.cpu.run(decode).await?;
        self.decoder = Some(decoder);
        let (digest, records) = decoded?;
        let rows = records.num_rows() as u64;
        let append = writer(&mut self.writer)?.append(records);
        self.stream.engine("append", append).await?;
        self.stream.metrics.rows_received.inc_by(rows);
        Ok((rows, digest))
    }

    /// The rows and the digest of the file, with its last bytes.
    async fn append_file(
        &mut self,
        file: TableFile,
        last: bool,
        frame: Frame,
    ) -> Result<(u64, Digest)> {
        self.phase.set(Phase::Append, self.session.partition());
        let mut digest = std::mem::take(&mut self.digest);
        let small = frame.raw_bytes <= INLINE_BYTES;
        let work = move || {
            let bytes = frame.into_bytes()?;
            digest.update(&bytes);
            Ok((digest, bytes))
        };
        let (digest, bytes) = match small {
            true => work()?,
            false => self.stream.cpu.run(work).await?,
        };
        let sums = match last {
            true => (file.rows, digest.digest()),
            false => {
                self.digest = digest;
                (0, Digest::default())
            }
        };
        let append = writer(&mut self.writer)?.append_file(&file, bytes);
        self.stream.engine("append", append).await?;
        self.stream.metrics.rows_received.inc_by(sums.0);
        Ok(sums)
    }

    /// The partition under way has failed at this side.
    fn failed(&self, error: Error) -> Error {
        self.stream.metrics.failed(error.kind());
        match self.session.partition() {
            Some(key) => error.context(format!("partition {}", key.label())),
            None => error,
        }
    }
}

fn writer(writer: &mut Option<Box<dyn PartitionWriter>>) -> Result<&mut Box<dyn PartitionWriter>> {
    writer
        .as_mut()
        .ok_or_else(|| Error::internal("no partition is open"))
}

async fn send(replies: &Replies, body: Reply) -> Result<()> {
    let sent = replies.send(Ok(v1::CopyReply { body: Some(body) })).await;
    sent.map_err(|_| Error::unavailable("the source has left the stream"))
}

/// One partition being published, as seen by the stream that asked for it.
struct Finishing {
    /// The bytes that the writer holds.
    held: u64,
    attached: Attached,
    writer: Box<dyn PartitionWriter>,
    receipt: strait_common::engine::Receipt,
    ordinal: u64,
    replies: Replies,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

/// What a partition that was being published has held.
struct Held {
    ordinal: u64,
    bytes: u64,
}

impl Finishing {
    /// What is free again.
    async fn run(self) -> Held {
        let held = Held {
            ordinal: self.ordinal,
            bytes: self.held,
        };
        let finish = self.attached.finish(self.writer, self.receipt.clone());
        let finished = self.metrics.engine("finish", self.timeout, finish).await;
        match &finished {
            Ok(_) => _ = self.metrics.partitions_published.inc(),
            Err(error) => self.metrics.failed(error.kind()),
        }
        let reply = match answer_finish(self.ordinal, &self.receipt, finished) {
            Ok(reply) => reply,
            Err(error) => {
                let _ = self.replies.send(Err(error.into())).await;
                return held;
            }
        };
        // Whoever has left reads it in the ledger.
        let _ = send(&self.replies, reply).await;
        held
    }
}
