//! One `Copy` stream, decided: what is sent next, and what this side needs next to go on.
//!
//! A plain state machine: no socket, no clock, no lock, no engine. [`stream`](crate::stream) waits and feeds it; the simulation feeds it in
//! any order.
//!
//! - The engine is asked for rows only with credit in hand, so nothing piles up on this side.
//! - Partitions follow one another without waiting for their finishes, of which at most `finishes_max` are unanswered.
//! - A partition that the sink has failed, or has already, is left where it stands; the stream goes on with the next one.

use std::collections::VecDeque;

use strait_common::digest::{Digest, DigestId};
use strait_common::engine::{Cursor, Disposition, Level, Partition, Position, Receipt, TableFile};
use strait_common::frame::Frame;
use strait_common::key::PartitionKey;
use strait_common::{Error, Kind, Result, wire};
use strait_proto::v1;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;

/// A partition to copy.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Its number in the stored plan.
    pub seq: u64,
    /// Which, of which version.
    pub partition: Partition,
    /// What happens to rows already at B.
    pub disposition: Disposition,
    /// Where to go on, by the sink's ledger.
    pub from: Option<Position>,
    /// Whether it may turn out to have no rows: in place of B's they would remove the partition, which a mirror does only where it is allowed.
    pub may_be_empty: bool,
    /// Whether its files travel in place of its rows; then `from` is a place among files.
    pub files: bool,
}

/// Rows of the partition, encoded; or some bytes of one of its files.
#[derive(Debug)]
pub struct Encoded {
    /// The file that begins with these bytes.
    pub file: Option<TableFile>,
    /// The selected rows; none if the batch had none.
    pub frames: Vec<Frame>,
    /// The place after the batch; none inside a file, where no checkpoint can be.
    pub end: Option<Cursor>,
    /// Rows over all frames; with the last bytes of a file, those of the file.
    pub rows: u64,
    /// Their digest; that of the file.
    pub digest: Digest,
}

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// The sink said this.
    Reply(Reply),
    /// The next partition, or none: nothing is left to do.
    Assigned(Option<Box<Assignment>>),
    /// The next rows of the partition.
    Batch(Encoded),
    /// The partition has no more rows.
    End,
    /// The partition cannot be read on.
    ReadFailed(Error),
    /// The soft stop: checkpoint what is under way, then end.
    Drain,
}

/// What this side waits for next. A reply can come at any time, whatever else is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A partition to copy.
    Assignment,
    /// The next batch of the current partition.
    Batch,
    /// A reply: leave to send one more frame.
    Credit,
    /// Any other reply.
    Reply,
    /// Nothing: the stream has ended well.
    Nothing,
}

/// What is told to the run.
#[derive(Debug)]
pub enum Report {
    /// Frames were handed to the wire.
    Sent {
        /// The partition's number.
        seq: u64,
        /// Rows in them.
        rows: u64,
        /// Bytes when decompressed.
        raw_bytes: u64,
        /// Bytes on the wire.
        wire_bytes: u64,
    },
    /// A chunk is durable.
    Acked {
        /// The partition's number.
        seq: u64,
        /// Rows since the partition's start.
        rows: u64,
    },
    /// The partition is visible.
    Done {
        /// The partition's number.
        seq: u64,
        /// The proof.
        receipt: Receipt,
        /// It was visible before.
        already: bool,
    },
    /// The partition failed, at either side.
    Failed {
        /// The partition's number.
        seq: u64,
        /// Why, with the kind that says what to do.
        error: Error,
    },
    /// The partition was left at a checkpoint, for the soft stop.
    Left {
        /// The partition's number.
        seq: u64,
    },
}

/// What follows from an event: messages in order, and reports.
#[derive(Debug, Default)]
pub struct Step {
    /// To the sink, in this order.
    pub send: Vec<Request>,
    /// To the run.
    pub reports: Vec<Report>,
}

/// Bounds of a stream.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Frames in flight, as the sink granted them.
    pub window_frames: u32,
    /// The largest payload of one message, in bytes.
    pub frame_bytes_max: u64,
    /// A chunk ends when it has this many raw bytes.
    pub chunk_bytes: u64,
    /// Finishes without an answer.
    pub finishes_max: usize,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    limits: Limits,
    digest_id: DigestId,
    selection: String,
    credits: u32,
    /// Begins so far.
    ordinal: u64,
    current: Option<Current>,
    finishing: VecDeque<Finishing>,
    /// Partitions that this side gave up. Other answers to them may still be on the way and mean nothing; the run is told when the sink has
    /// answered the Skip, since until then messages of theirs may be on the way, and no other stream may begin them.
    left: Vec<Left>,
    draining: bool,
    exhausted: bool,
}

#[derive(Debug)]
struct Current {
    assignment: Assignment,
    pending: VecDeque<Piece>,
    cursor: Cursor,
    /// A part of a file was read, or sent, and the rest of it not.
    inside: bool,
    sequence: u64,
    rows: u64,
    digest: Digest,
    chunk: Chunk,
    ended: bool,
    /// Checkpoints that were asked for and are not yet acknowledged.
    unacked: Unacked,
    /// The last of them, once the stop is under way and waits for it.
    stopping: Option<u64>,
}

/// What waits to be sent.
#[derive(Debug)]
enum Piece {
    /// A file begins; its first frame follows.
    File(TableFile),
    Frame(Frame),
}

/// The checkpoints of a partition that were asked for and not yet acknowledged, oldest first: the frame up to which each goes, and the rows from the
/// partition's start. The sink makes them durable in order, and every one takes at least a frame of the window, so they are few.
type Unacked = VecDeque<(u64, u64)>;

/// Sums since the last checkpoint.
#[derive(Debug, Default)]
struct Chunk {
    rows: u64,
    digest: Digest,
    raw_bytes: u64,
}

#[derive(Debug)]
struct Left {
    ordinal: u64,
    seq: u64,
    unacked: Unacked,
    /// Why; none for the soft stop.
    error: Option<Error>,
}

#[derive(Debug)]
struct Finishing {
    ordinal: u64,
    seq: u64,
    unacked: Unacked,
    receipt: Receipt,
}

impl Session {
    /// A stream that the sink has opened. Receipts carry `selection`, the run's resolved selection.
    pub fn new(limits: Limits, digest_id: DigestId, selection: String) -> Session {
        Session {
            credits: limits.window_frames,
            limits,
            digest_id,
            selection,
            ordinal: 0,
            current: None,
            finishing: VecDeque::new(),
            left: Vec::new(),
            draining: false,
            exhausted: false,
        }
    }

    /// Decides what follows from `event`.
    ///
    /// # Errors
    /// The stream ends: `Corrupt` if the sink breaks the protocol, `Internal` if this side does.
    pub fn apply(&mut self, event: Event) -> Result<Step> {
        let mut step = Step::default();
        match event {
            Event::Reply(reply) => self.reply(reply, &mut step)?,
            Event::Assigned(Some(assignment)) => self.begin(*assignment, &mut step)?,
            Event::Assigned(None) => self.exhausted = true,
            Event::Batch(encoded) => {
                let current = self.current_mut()?;
                let frames = encoded.frames.into_iter().map(Piece::Frame);
                current.pending.extend(encoded.file.map(Piece::File));
                current.pending.extend(frames);
                current.inside = encoded.end.is_none();
                if let Some(end) = encoded.end {
                    current.cursor = end;
                }
                current.rows += encoded.rows;
                current.digest = current.digest.plus(encoded.digest);
                current.chunk.rows += encoded.rows;
                current.chunk.digest = current.chunk.digest.plus(encoded.digest);
            }
            Event::End => {
                let current = self.current_mut()?;
                if current.rows == 0 && !current.assignment.may_be_empty {
                    let error = Error::moved("the partition has no rows any more");
                    self.leave(Some(error), &mut step);
                } else {
                    current.ended = true;
                }
            }
            Event::ReadFailed(error) => {
                self.current_mut()?;
                self.leave(Some(error), &mut step);
            }
            Event::Drain => self.draining = true,
        }
        self.advance(&mut step);
        Ok(step)
    }

    /// What to wait for now.
    pub fn want(&self) -> Want {
        match &self.current {
            Some(current) if current.stopping.is_some() => Want::Reply,
            // What is pending has been sent as far as there is credit.
            Some(_) if self.credits > 0 => Want::Batch,
            Some(_) => Want::Credit,
            None if self.draining || self.exhausted => {
                if self.unanswered_count() == 0 {
                    Want::Nothing
                } else {
                    Want::Reply
                }
            }
            None if self.unanswered_count() < self.limits.finishes_max => Want::Assignment,
            None => Want::Reply,
        }
    }

    /// The partitions whose fate is unknown when the stream is lost now.
    pub fn unanswered(&self) -> Vec<u64> {
        let current = self.current.iter().map(|current| current.assignment.seq);
        current
            .chain(self.finishing.iter().map(|finishing| finishing.seq))
            .chain(self.left.iter().map(|left| left.seq))
            .collect()
    }

    fn unanswered_count(&self) -> usize {
        self.finishing.len() + self.left.len()
    }

    /// The partition that has been without an answer for longest.
    pub fn oldest(&self) -> Option<&PartitionKey> {
        let finishing = self
            .finishing
            .front()
            .map(|finishing| &finishing.receipt.key);
        let current = self.current.as_ref();
        finishing.or_else(|| current.map(|current| &current.assignment.partition.key))
    }

    fn begin(&mut self, assignment: Assignment, step: &mut Step) -> Result<()> {
        if self.current.is_some() {
            return Err(Error::internal("a partition is assigned inside another"));
        }
        self.ordinal += 1;
        let from = assignment.from.as_ref();
        step.send.push(Request::Begin(v1::Begin {
            ordinal: self.ordinal,
            key: assignment.partition.key.to_string(),
            version: assignment.partition.version.0.clone(),
            slice: Some(wire::whole()),
            disposition: v1::Disposition::from(assignment.disposition).into(),
            from: from.map(Into::into),
            files: assignment.files,
        }));
        self.current = Some(Current {
            pending: VecDeque::new(),
            cursor: from.map(|from| from.cursor.clone()).unwrap_or_default(),
            inside: false,
            sequence: from.map_or(0, |from| from.sequence),
            rows: from.map_or(0, |from| from.rows),
            digest: from.map_or_else(Digest::default, |from| from.digest),
            chunk: Chunk::default(),
            ended: false,
            unacked: Unacked::new(),
            stopping: None,
            assignment,
        });
        Ok(())
    }

    fn reply(&mut self, reply: Reply, step: &mut Step) -> Result<()> {
        match reply {
            Reply::Opened(_) => return Err(broken("a second Opened")),
            Reply::Alive(_) => {}
            Reply::Credit(credit) => {
                self.credits = self.credits.saturating_add(credit.frames);
                if self.credits > self.limits.window_frames {
                    return Err(broken("more credit than the window"));
                }
            }
            Reply::Ack(ack) => {
                let (seq, unacked) = self
                    .unacked(ack.ordinal)
                    .ok_or_else(|| broken("an ack of no partition"))?;
                if unacked.pop_front() != Some((ack.sequence, ack.rows)) {
                    return Err(broken("an ack that was not asked for"));
                }
                step.reports.push(Report::Acked {
                    seq,
                    rows: ack.rows,
                });
                let stopped = |current: &Current| current.stopping == Some(ack.sequence);
                if ack.ordinal == self.ordinal && self.current.as_ref().is_some_and(stopped) {
                    self.leave(None, step);
                }
            }
            Reply::Finished(finished) => {
                let receipt = finished
                    .receipt
                    .ok_or_else(|| broken("Finished without a receipt"))?;
                let receipt = Receipt::try_from(receipt)?;
                self.check_receipt(finished.ordinal, finished.already, &receipt)?;
                let Some(seq) = self.answered(finished.ordinal)? else {
                    return Ok(());
                };
                step.reports.push(Report::Done {
                    seq,
                    receipt,
                    already: finished.already,
                });
            }
            Reply::Skipped(skipped) => {
                let at = self
                    .left
                    .iter()
                    .position(|left| left.ordinal == skipped.ordinal);
                let left = at.map(|at| self.left.swap_remove(at));
                let Left { seq, error, .. } =
                    left.ok_or_else(|| broken("Skipped for no partition that was left"))?;
                step.reports.push(match error {
                    Some(error) => Report::Failed { seq, error },
                    None => Report::Left { seq },
                });
            }
            Reply::Failed(failed) => {
                let Some(seq) = self.answered(failed.ordinal)? else {
                    return Ok(());
                };
                let kind = Kind::from_name(&failed.kind).unwrap_or(Kind::Internal);
                let error = Error::new(kind, format!("at the sink: {}", failed.message));
                step.reports.push(Report::Failed { seq, error });
            }
        }
        Ok(())
    }

    /// What was asked of the partition with this ordinal and is not yet acknowledged; `None` if there is no such partition, or it is over.
    fn unacked(&mut self, ordinal: u64) -> Option<(u64, &mut Unacked)> {
        if let Some(current) = &mut self.current
            && ordinal == self.ordinal
        {
            return Some((current.assignment.seq, &mut current.unacked));
        }
        let finishing = (self.finishing.iter_mut()).find(|other| other.ordinal == ordinal);
        if let Some(finishing) = finishing {
            return Some((finishing.seq, &mut finishing.unacked));
        }
        let left = self.left.iter_mut().find(|left| left.ordinal == ordinal)?;
        Some((left.seq, &mut left.unacked))
    }

    /// A partition is believed to be visible only if this side asked for that, and only as it asked: with `already`, at its Begin or its Finish, else at
    /// its Finish. What an earlier attempt of the run has committed may be another version.
    fn check_receipt(&self, ordinal: u64, already: bool, receipt: &Receipt) -> Result<()> {
        let finishing = (self.finishing.iter()).find(|finishing| finishing.ordinal == ordinal);
        if let Some(Finishing { receipt: ours, .. }) = finishing {
            let fits = if already && receipt.version != ours.version {
                self.is_ours(receipt, &ours.key)
            } else {
                receipt.proves(ours)
            };
            if fits {
                return Ok(());
            }
            return Err(broken("a receipt that was not asked for"));
        }
        match &self.current {
            Some(current) if ordinal == self.ordinal => {
                if !already {
                    return Err(broken("Finished before the Finish"));
                }
                if !self.is_ours(receipt, &current.assignment.partition.key) {
                    return Err(broken("a receipt of something else"));
                }
                Ok(())
            }
            // One that was left; any other is found by who looks for it.
            _ => Ok(()),
        }
    }

    fn is_ours(&self, receipt: &Receipt, key: &PartitionKey) -> bool {
        receipt.key == *key
            // An earlier attempt may have sent rows where this one sends files, and the reverse.
            && (receipt.digest_id == self.digest_id || receipt.digest_id.is_of_files())
            && receipt.selection == self.selection
    }

    /// The partition that an answer is about, which is thereby over. `None` if this side gave it up.
    fn answered(&mut self, ordinal: u64) -> Result<Option<u64>> {
        let finishing = (self.finishing.iter()).position(|finishing| finishing.ordinal == ordinal);
        if let Some(finishing) = finishing.and_then(|at| self.finishing.remove(at)) {
            return Ok(Some(finishing.seq));
        }
        if self.left.iter().any(|left| left.ordinal == ordinal) {
            return Ok(None);
        }
        // Taken only if it is meant: what an error leaves here is under way, and must be looked up.
        match self.current.take_if(|_| ordinal == self.ordinal) {
            Some(current) => Ok(Some(current.assignment.seq)),
            None => Err(broken("an answer to no partition")),
        }
    }

    /// Sends what can be sent now.
    fn advance(&mut self, step: &mut Step) {
        let Some(current) = &mut self.current else {
            return;
        };
        let seq = current.assignment.seq;
        let (mut rows, mut raw_bytes, mut wire_bytes) = (0, 0, 0);
        while self.credits > 0
            && let Some(piece) = current.pending.pop_front()
        {
            let frame = match piece {
                Piece::Frame(frame) => frame,
                // Before the first frame of it, for which there is credit.
                Piece::File(file) => {
                    rows += file.rows;
                    step.send.push(Request::File(v1::TableFile {
                        rows: file.rows,
                        bytes: file.bytes,
                    }));
                    continue;
                }
            };
            self.credits -= 1;
            current.sequence += 1;
            current.chunk.raw_bytes += frame.raw_bytes;
            rows += frame.rows;
            raw_bytes += frame.raw_bytes;
            wire_bytes += frame.payload.len() as u64;
            send_frame(
                frame,
                current.sequence,
                self.limits.frame_bytes_max,
                &mut step.send,
            );
        }
        if raw_bytes > 0 {
            step.reports.push(Report::Sent {
                seq,
                rows,
                raw_bytes,
                wire_bytes,
            });
        }
        if !current.pending.is_empty() || current.stopping.is_some() {
            return;
        }
        if current.ended {
            let receipt = Receipt {
                key: current.assignment.partition.key.clone(),
                version: current.assignment.partition.version.clone(),
                rows: current.rows,
                digest: current.digest,
                digest_id: match current.assignment.files {
                    true => DigestId::of_files(),
                    false => self.digest_id.clone(),
                },
                level: match current.assignment.files {
                    true => Level::Bytes,
                    false => Level::Received,
                },
                selection: self.selection.clone(),
                origin: current.assignment.partition.origin.clone(),
            };
            step.send.push(Request::Finish(v1::Finish {
                sequence: current.sequence,
                cursor: current.cursor.0.clone(),
                chunk_rows: current.chunk.rows,
                chunk_digest: current.chunk.digest.to_bytes().to_vec().into(),
                receipt: Some((&receipt).into()),
            }));
            self.finishing.push_back(Finishing {
                ordinal: self.ordinal,
                seq,
                unacked: std::mem::take(&mut current.unacked),
                receipt,
            });
            self.current = None;
        } else if !current.inside
            && (current.chunk.raw_bytes >= self.limits.chunk_bytes
                || (self.draining && current.chunk.rows > 0))
        {
            step.send.push(Request::Checkpoint(v1::Checkpoint {
                sequence: current.sequence,
                cursor: current.cursor.0.clone(),
                chunk_rows: current.chunk.rows,
                chunk_digest: current.chunk.digest.to_bytes().to_vec().into(),
            }));
            current.chunk = Chunk::default();
            current.unacked.push_back((current.sequence, current.rows));
            if self.draining {
                current.stopping = Some(current.sequence);
            }
        } else if self.draining {
            // The rest of a file may take long, so it is left too. A checkpoint that is on its way is lost if the stream ends before it arrives.
            match current.unacked.back() {
                Some(&(sequence, _)) => current.stopping = Some(sequence),
                None => self.leave(None, step),
            }
        }
    }

    fn leave(&mut self, error: Option<Error>, step: &mut Step) {
        if let Some(current) = self.current.take() {
            self.left.push(Left {
                ordinal: self.ordinal,
                seq: current.assignment.seq,
                unacked: current.unacked,
                error,
            });
            step.send.push(Request::Skip(v1::Skip {}));
        }
    }

    fn current_mut(&mut self) -> Result<&mut Current> {
        self.current
            .as_mut()
            .ok_or_else(|| Error::internal("rows of no partition"))
    }
}

/// A frame as messages: the payload of an oversized row follows in parts.
fn send_frame(frame: Frame, sequence: u64, part_bytes_max: u64, send: &mut Vec<Request>) {
    let part_bytes_max = usize::try_from(part_bytes_max).unwrap_or(usize::MAX).max(1);
    // What does not compress is a little larger than its raw bytes, and still one message.
    let first_bytes = if frame.raw_bytes <= part_bytes_max as u64 {
        frame.payload.len()
    } else {
        part_bytes_max
    };
    let mut rest = frame.payload;
    let wire_bytes = rest.len() as u64;
    let payload = rest.split_to(first_bytes.min(rest.len()));
    let compression = if frame.compressed {
        v1::Compression::Zstd
    } else {
        v1::Compression::None
    };
    send.push(Request::Frame(v1::Frame {
        sequence,
        rows: frame.rows,
        compression: compression.into(),
        raw_bytes: frame.raw_bytes,
        wire_bytes,
        checksum: frame.checksum,
        payload,
    }));
    while !rest.is_empty() {
        let payload = rest.split_to(part_bytes_max.min(rest.len()));
        send.push(Request::Part(v1::FramePart { payload }));
    }
}

fn broken(what: &str) -> Error {
    Error::corrupt(format!("{what}: the sink does not follow the protocol"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session_with_a_checkpoint_under_way() -> Session {
        let limits = Limits {
            window_frames: 4,
            frame_bytes_max: 4096,
            chunk_bytes: 1,
            finishes_max: 1,
        };
        let mut session = Session::new(limits, DigestId("test".to_owned()), String::new());
        let partition = Partition {
            key: PartitionKey::default(),
            rows: None,
            bytes: None,
            version: strait_common::engine::Version("1".to_owned()),
            pin: String::new(),
            origin: strait_common::engine::Origin::default(),
        };
        let assignment = Assignment {
            seq: 0,
            partition,
            disposition: Disposition::Append,
            from: None,
            may_be_empty: true,
            files: false,
        };
        let begun = Event::Assigned(Some(Box::new(assignment)));
        session.apply(begun).unwrap();
        let frame = Frame {
            rows: 1,
            raw_bytes: 8,
            compressed: false,
            checksum: 0,
            payload: bytes::Bytes::from_static(&[0; 8]),
        };
        let batch = Event::Batch(Encoded {
            file: None,
            frames: vec![frame],
            end: Some(Cursor::start()),
            rows: 1,
            digest: Digest::default(),
        });
        let step = session.apply(batch).unwrap();
        assert!(matches!(
            step.send[..],
            [Request::Frame(_), Request::Checkpoint(_)]
        ));
        session
    }

    /// The run learns that the partition is left when the sink has answered the Skip, and the stream ends.
    fn is_left(session: &mut Session) {
        let skipped = Reply::Skipped(v1::Skipped { ordinal: 1 });
        let step = session.apply(Event::Reply(skipped)).unwrap();
        assert!(matches!(step.reports[..], [Report::Left { seq: 0 }]));
        assert_eq!(session.want(), Want::Nothing);
    }

    #[test]
    fn a_soft_stop_waits_for_the_checkpoint_under_way() {
        let mut session = session_with_a_checkpoint_under_way();
        let step = session.apply(Event::Drain).unwrap();
        assert!(step.send.is_empty() && step.reports.is_empty(), "{step:?}");
        assert_eq!(session.want(), Want::Reply);

        let ack = v1::Ack {
            ordinal: 1,
            sequence: 1,
            rows: 1,
        };
        let step = session.apply(Event::Reply(Reply::Ack(ack))).unwrap();
        assert!(matches!(step.send[..], [Request::Skip(_)]));
        assert!(matches!(step.reports[..], [Report::Acked { .. }]));
        assert_eq!(session.want(), Want::Reply);
        is_left(&mut session);
    }

    #[test]
    fn a_soft_stop_leaves_at_once_what_is_checkpointed() {
        let mut session = session_with_a_checkpoint_under_way();
        let ack = v1::Ack {
            ordinal: 1,
            sequence: 1,
            rows: 1,
        };
        session.apply(Event::Reply(Reply::Ack(ack))).unwrap();
        let step = session.apply(Event::Drain).unwrap();
        assert!(matches!(step.send[..], [Request::Skip(_)]));
        is_left(&mut session);
    }
}
