//! A sink process: the real session of each stream over the engine in memory, and the process around them. What `agent_sink::copy` and
//! `agent_sink::tables` wait for happens here one act at a time, when the world says so.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use agent_sink::session::{Action, Event, Session, answer_finish};
use agent_sink::tables::check_attempt;
use futures::future::BoxFuture;
use futures::{FutureExt, TryStreamExt};
use strait_common::digest::{Digest, DigestId, digest};
use strait_common::engine::{
    Attachment, Begun, Finished, PartitionWriter, Position, Receipt, Sink,
};
use strait_common::files::FileDigest;
use strait_common::frame::Decoder;
use strait_common::ids::{Epoch, RunId};
use strait_common::selection::Selection;
use strait_common::{Error, Result};
use strait_memory::{Action as At, MemorySink, MemoryStore};
use strait_proto::v1;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;

use super::cluster;
use super::rules::Broken;
use super::source::FRAME_BYTES_MAX;
use super::wire::{CallReply, CallRequest, Down, Up, unwrapped};

/// One process on the store of B.
#[derive(Debug)]
pub struct SinkProcess {
    store: MemoryStore,
    engine: MemorySink,
    broken: Option<Broken>,
    newest: Option<Attached>,
    copies: BTreeMap<u64, Copy>,
    /// Publications under way, whose askers may have gone.
    pub finishes: Vec<Finish>,
}

#[derive(Clone, Debug)]
struct Attached {
    run: RunId,
    attachment: Arc<dyn Attachment>,
}

#[derive(Debug)]
struct Copy {
    attachment: Arc<dyn Attachment>,
    session: Session,
    /// Of the file that is coming.
    file: FileDigest,
    writer: Option<Box<dyn PartitionWriter>>,
    sums: Sums,
}

/// What this side counted, for the rule that it is compared.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    sequence: u64,
    rows: u64,
    digest: Digest,
    chunk_rows: u64,
    chunk_digest: Digest,
}

/// A publication under way.
pub struct Finish {
    /// The stream that asked.
    pub stream: u64,
    /// It stands still before this step.
    pub asleep_until: u64,
    ordinal: u64,
    receipt: Receipt,
    work: BoxFuture<'static, Result<Finished>>,
}

impl std::fmt::Debug for Finish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "finish of {}", self.receipt.key.label())
    }
}

/// Polls a future of the engine in memory, which is ready at once.
fn now<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    work.now_or_never()
        .unwrap_or_else(|| Err(Error::internal("the engine in memory waits")))
}

impl SinkProcess {
    /// A process that has just started.
    pub fn start(store: &MemoryStore, broken: Option<Broken>) -> SinkProcess {
        let rule = broken.and_then(Broken::engine);
        SinkProcess {
            store: store.clone(),
            engine: match rule {
                Some(rule) => MemorySink::breaking(store, rule),
                None => MemorySink::open(store),
            },
            broken,
            newest: None,
            copies: BTreeMap::new(),
            finishes: Vec::new(),
        }
    }

    /// Starts it anew: what was not durable is gone.
    pub fn restart(&mut self) {
        *self = SinkProcess::start(&self.store, self.broken);
    }

    /// Lets it die at one of its next acts on the store.
    pub fn doom(&self, acts: u64) {
        let steps = self.engine.steps();
        steps.at(steps.taken() + acts, At::Crash);
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.engine.steps().crashed()
    }

    /// Whether a call can be answered now: an attach waits for publications under way.
    pub fn can_answer(&self, request: &CallRequest) -> bool {
        match request {
            CallRequest::Attach(_) => {
                self.finishes.is_empty() || self.broken == Some(Broken::FinishNotAwaited)
            }
            CallRequest::Confirm { .. } | CallRequest::Complete { .. } => true,
        }
    }

    /// Answers a call.
    pub fn answer(&mut self, request: &CallRequest) -> Result<CallReply> {
        match request {
            CallRequest::Attach(claim) => {
                let table = cluster::table()?;
                now(self.engine.prepare(&table.name, &table, false))?;
                let attachment = now(self.engine.attach(claim))?;
                let positions: Vec<Position> = now(now(attachment.positions())?.try_collect())?;
                let everything = Selection::everything(&cluster::schema());
                let holdings = now(self.engine.holdings(&table.name, &everything))?;
                let holdings = now(holdings.try_collect())?;
                let epoch = attachment.epoch();
                self.newest = Some(Attached {
                    run: claim.run,
                    attachment,
                });
                Ok(CallReply::Attached(epoch, positions, holdings))
            }
            CallRequest::Confirm {
                run,
                epoch,
                confirmed,
            } => {
                let attached = self.attached(*run, *epoch)?;
                now(attached.attachment.confirm(confirmed))?;
                Ok(CallReply::Confirmed)
            }
            CallRequest::Complete {
                run,
                epoch,
                outcome,
            } => {
                let attached = self.attached(*run, *epoch)?;
                now(attached.attachment.complete(*outcome))?;
                Ok(CallReply::Completed)
            }
        }
    }

    fn attached(&self, run: RunId, epoch: Epoch) -> Result<Attached> {
        let known = self.newest.as_ref();
        let newest = known.map(|newest| (newest.run, newest.attachment.epoch()));
        check_attempt(&cluster::table()?.name, newest, run, epoch)?;
        known
            .cloned()
            .ok_or_else(|| Error::internal("an attempt that nobody knows is current"))
    }

    /// The stream is gone, and what its task held with it; publications go on.
    pub fn leave(&mut self, stream: u64) {
        self.copies.remove(&stream);
    }

    /// Hears one message of a stream and does what follows. An error ends the stream.
    pub fn hear(&mut self, stream: u64, message: Up) -> Result<Vec<Down>> {
        match message {
            Up::Open { run, epoch } => {
                let attached = self.attached(run, epoch)?;
                let copy = Copy {
                    attachment: attached.attachment,
                    session: Session::new(DigestId::of(&cluster::schema())?, FRAME_BYTES_MAX, true),
                    file: FileDigest::default(),
                    writer: None,
                    sums: Sums::default(),
                };
                self.copies.insert(stream, copy);
                Ok(vec![Down::Opened])
            }
            Up::Request(request) => {
                let uncompared = self.broken == Some(Broken::SumsNotCompared);
                let copy = self
                    .copies
                    .get_mut(&stream)
                    .ok_or_else(|| Error::corrupt("a message before Open"))?;
                let (replies, finish) = copy.hear(*request, uncompared)?;
                self.finishes
                    .extend(finish.map(|(ordinal, receipt, work)| Finish {
                        stream,
                        asleep_until: 0,
                        ordinal,
                        receipt,
                        work,
                    }));
                Ok(replies)
            }
            Up::End => {
                let waits = self.finishes.iter().any(|finish| finish.stream == stream);
                self.copies.remove(&stream);
                Ok(if waits {
                    Vec::new()
                } else {
                    vec![Down::End(None)]
                })
            }
        }
    }

    /// Goes on with a publication; answers when it is over.
    pub fn publish(&mut self, at: usize) -> Option<(u64, Down)> {
        let finish = self.finishes.get_mut(at)?;
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(result) = Pin::new(&mut finish.work).poll(&mut context) else {
            return None;
        };
        let finish = self.finishes.remove(at);
        let down = match answer_finish(finish.ordinal, &finish.receipt, result) {
            Ok(reply) => Down::Reply(reply),
            Err(error) => Down::End(Some(error)),
        };
        Some((finish.stream, down))
    }
}

/// A publication that was asked for: the partition's ordinal, its receipt, and the work.
type Asked = (u64, Receipt, BoxFuture<'static, Result<Finished>>);

impl Copy {
    fn hear(
        &mut self,
        mut request: Request,
        uncompared: bool,
    ) -> Result<(Vec<Down>, Option<Asked>)> {
        let mut frame = match &request {
            Request::Frame(frame) => Some(unwrapped(frame)),
            _ => None,
        };
        // The source must not notice either: it is told the receipt that it asked for.
        let told = match &request {
            Request::Finish(finish) => finish.receipt.clone().map(Receipt::try_from).transpose()?,
            _ => None,
        };
        if uncompared {
            self.sums.write_over(&mut request);
        }
        self.sums.follow(&request);
        let mut replies = Vec::new();
        let mut credit = false;
        let mut asked = None;
        let mut action = self.session.apply(Event::Message(Box::new(request)))?;
        loop {
            let event = match action {
                Action::Nothing => break,
                Action::Reply(reply) => {
                    replies.push(Down::Reply(reply));
                    break;
                }
                Action::DropFrame => {
                    credit = true;
                    break;
                }
                Action::Release(reply) => {
                    self.writer = None;
                    credit |= frame.take().is_some();
                    replies.extend(reply.map(Down::Reply));
                    break;
                }
                Action::Begin {
                    partition,
                    disposition,
                    from,
                } => {
                    self.file = FileDigest::default();
                    let begin = self
                        .attachment
                        .begin(&partition, disposition, from.as_deref());
                    match now(begin) {
                        Ok(Begun::Writer(writer)) => {
                            self.writer = Some(writer);
                            Event::Begun
                        }
                        Ok(Begun::Already(receipt)) => Event::BegunAlready(receipt),
                        Err(error) => Event::Failed(error),
                    }
                }
                Action::Append => {
                    credit = true;
                    let frame = frame
                        .take()
                        .ok_or_else(|| Error::internal("no frame to append"))?;
                    let decoded = Decoder::new(cluster::schema())?.decode(frame);
                    let appended = decoded.and_then(|records| {
                        let sums = (records.num_rows() as u64, digest(&records)?);
                        now(self.writer()?.append(records))?;
                        Ok(sums)
                    });
                    match appended {
                        Ok((rows, digest)) => {
                            self.sums.chunk_rows += rows;
                            self.sums.chunk_digest = self.sums.chunk_digest.plus(digest);
                            Event::Appended { rows, digest }
                        }
                        Err(error) => Event::Failed(error),
                    }
                }
                Action::AppendFile { file, last } => {
                    credit = true;
                    let frame = frame
                        .take()
                        .ok_or_else(|| Error::internal("no frame to append"))?;
                    let appended = frame.into_bytes().and_then(|bytes| {
                        self.file.update(&bytes);
                        let sums = match last {
                            true => (file.rows, std::mem::take(&mut self.file).digest()),
                            false => (0, Digest::default()),
                        };
                        now(self.writer()?.append_file(&file, bytes))?;
                        Ok(sums)
                    });
                    match appended {
                        Ok((rows, digest)) => {
                            self.sums.chunk_rows += rows;
                            self.sums.chunk_digest = self.sums.chunk_digest.plus(digest);
                            Event::Appended { rows, digest }
                        }
                        Err(error) => Event::Failed(error),
                    }
                }
                Action::Checkpoint(mark) => match now(self.writer()?.checkpoint(mark)) {
                    Ok(_) => Event::Checkpointed,
                    Err(error) => Event::Failed(error),
                },
                Action::Finish { ordinal, receipt } => {
                    let writer = self
                        .writer
                        .take()
                        .ok_or_else(|| Error::internal("a finish without a writer"))?;
                    let told = told.clone().unwrap_or_else(|| (*receipt).clone());
                    asked = Some((ordinal, told, writer.finish(*receipt)));
                    break;
                }
            };
            action = self.session.apply(event)?;
        }
        if credit {
            replies.push(Down::Reply(Reply::Credit(v1::Credit {
                frames: 1,
                held_us: 0,
            })));
        }
        Ok((replies, asked))
    }

    fn writer(&mut self) -> Result<&mut Box<dyn PartitionWriter>> {
        self.writer
            .as_mut()
            .ok_or_else(|| Error::internal("no partition is open"))
    }
}

impl Sums {
    /// Counts what a message changes.
    fn follow(&mut self, request: &Request) {
        match request {
            Request::Begin(begin) => {
                *self = Sums::default();
                if let Some(from) = &begin.from {
                    self.sequence = from.sequence;
                    self.rows = from.rows;
                    self.digest = Digest::from_bytes(&from.digest).unwrap_or_default();
                }
            }
            Request::Frame(_) => self.sequence += 1,
            Request::Checkpoint(_) | Request::Finish(_) => self.close(),
            Request::Open(_) | Request::Part(_) | Request::Skip(_) | Request::File(_) => {}
        }
    }

    fn close(&mut self) {
        self.rows += self.chunk_rows;
        self.digest = self.digest.plus(self.chunk_digest);
        self.chunk_rows = 0;
        self.chunk_digest = Digest::default();
    }

    /// Puts this side's sums in the place of the source's, so that there is nothing to compare.
    fn write_over(&self, request: &mut Request) {
        let chunk = self.chunk_digest.to_bytes().to_vec();
        match request {
            Request::Checkpoint(checkpoint) => {
                checkpoint.chunk_rows = self.chunk_rows;
                checkpoint.chunk_digest = chunk.into();
            }
            Request::Finish(finish) => {
                finish.chunk_rows = self.chunk_rows;
                finish.chunk_digest = chunk.into();
                if let Some(receipt) = &mut finish.receipt {
                    let whole = self.digest.plus(self.chunk_digest);
                    receipt.rows = self.rows + self.chunk_rows;
                    receipt.digest = whole.to_bytes().to_vec().into();
                }
            }
            Request::Begin(_)
            | Request::Frame(_)
            | Request::Open(_)
            | Request::Part(_)
            | Request::File(_)
            | Request::Skip(_) => {}
        }
    }
}
