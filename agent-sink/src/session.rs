//! One `Copy` stream, decided: which message is allowed now, what the engine is asked to do next, and what the source
//! is told.
//!
//! A plain state machine: no socket, no clock, no lock, no engine. [`copy`](crate::copy) waits for messages and for the engine and
//! feeds it; the simulation feeds it in any order.
//!
//! What it guards:
//!
//! - Frames arrive once and in order, also across resumes: their sequence goes on from the position that the partition was begun from.
//! - Before a chunk becomes durable, and before a partition becomes visible, the rows and the digest that the source counted are compared
//!   with those that were decoded here. The sums over the whole partition go on from the position too.
//! - A partition comes as rows or as files, from its start: a position that was made from the one is none of the other. Files come whole, one after another, each in
//!   as many bytes as it was said to have.
//! - A partition that fails here is answered with `Failed` and its remaining messages are dropped, each frame with its credit
//!   given back; the stream goes on with the next one. Whoever is fenced or speaks out of order loses the stream.

use strait_common::digest::{Digest, DigestId};
use strait_common::engine::{
    Disposition, Finished, Level, Mark, Origin, Partition, Position, Receipt, TableFile, Version,
};
use strait_common::key::PartitionKey;
use strait_common::{Context, Error, Kind, Result, wire};
use strait_proto::v1;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// The source said this. `Open` never comes here: it opens the lease before there is a session. A frame comes without its
    /// parts.
    Message(Box<Request>),
    /// The engine has opened the partition for writing.
    Begun,
    /// The engine says that this run has committed the partition already.
    BegunAlready(Receipt),
    /// The engine has taken the rows of the frame just decoded, or the bytes of a file: its rows and digest count with the last of them.
    Appended {
        /// How many.
        rows: u64,
        /// Their digest.
        digest: Digest,
    },
    /// The chunk is durable.
    Checkpointed,
    /// What was asked for last did not work.
    Failed(Error),
}

/// What is to be done next.
#[derive(Debug)]
pub enum Action {
    /// Wait for the next message.
    Nothing,
    /// Tell the source.
    Reply(Reply),
    /// Open this partition for writing; answer with `Begun`, `BegunAlready` or `Failed`.
    Begin {
        /// Which, of which version.
        partition: Partition,
        /// What happens to rows already there.
        disposition: Disposition,
        /// Where the source goes on.
        from: Option<Box<Position>>,
    },
    /// Decode the frame and give it to the writer; answer with `Appended` or `Failed`; then give its credit back.
    Append,
    /// Give the bytes of the frame to the writer, the next of this file; answer with `Appended` or `Failed`; then give its credit back.
    AppendFile {
        /// The file.
        file: TableFile,
        /// Whether these are the last.
        last: bool,
    },
    /// Drop the frame and give its credit back.
    DropFrame,
    /// Make what was appended durable; answer with `Checkpointed` or `Failed`.
    Checkpoint(Mark),
    /// Hand the writer over to be finished, by a task that outlives the stream; its answer goes to the source and not here.
    Finish {
        /// The partition, as answers name it.
        ordinal: u64,
        /// What is published.
        receipt: Box<Receipt>,
    },
    /// Drop the writer, which is a crash of this partition; then tell the source, if there is something to tell.
    Release(Option<Reply>),
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    digest_id: DigestId,
    frame_bytes_max: u64,
    takes_files: bool,
    ordinal: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between partitions.
    Idle,
    /// The engine opens the partition.
    Opening(Writing),
    /// Frames are welcome.
    Writing(Writing),
    /// Messages of this partition are on the way that nobody needs.
    Dropping,
}

/// Sums over a partition from its start, and over the frames since the last checkpoint.
#[derive(Clone, Debug)]
struct Writing {
    key: PartitionKey,
    version: Version,
    sequence: u64,
    rows: u64,
    digest: Digest,
    chunk_rows: u64,
    chunk_digest: Digest,
    /// Files come in place of rows.
    files: bool,
    /// The file that is coming, and how much of it is still to come.
    coming: Option<(TableFile, u64)>,
}

impl Session {
    /// A stream of rows with this digest id and frames of at most this size; or of files, if those may come.
    pub fn new(digest_id: DigestId, frame_bytes_max: u64, takes_files: bool) -> Session {
        Session {
            digest_id,
            frame_bytes_max,
            takes_files,
            ordinal: 0,
            state: State::Idle,
        }
    }

    /// Decides what follows from `event`.
    ///
    /// # Errors
    /// The stream ends: `Fenced` and `Cancelled` from the engine, `Corrupt` for a message out of order.
    pub fn apply(&mut self, event: Event) -> Result<Action> {
        match event {
            Event::Message(request) => match *request {
                Request::Begin(begin) => self.begin(begin),
                Request::Frame(frame) => self.frame(&frame),
                Request::File(file) => self.file(&file),
                Request::Checkpoint(checkpoint) => self.checkpoint(checkpoint),
                Request::Finish(finish) => self.finish(finish),
                Request::Skip(_) => self.skip(),
                Request::Open(_) => Err(out_of_order("a second Open")),
                Request::Part(_) => Err(out_of_order("a part of no frame")),
            },
            Event::Begun => match std::mem::replace(&mut self.state, State::Idle) {
                State::Opening(writing) => {
                    self.state = State::Writing(writing);
                    Ok(Action::Nothing)
                }
                _ => Err(Error::internal("an answer to no begin")),
            },
            Event::BegunAlready(receipt) => {
                self.state = State::Dropping;
                let finished = v1::Finished {
                    ordinal: self.ordinal,
                    receipt: Some((&receipt).into()),
                    already: true,
                };
                Ok(Action::Reply(Reply::Finished(finished)))
            }
            Event::Appended { rows, digest } => {
                let writing = self.writing()?;
                writing.chunk_rows += rows;
                writing.chunk_digest = writing.chunk_digest.plus(digest);
                Ok(Action::Nothing)
            }
            Event::Checkpointed => {
                let ordinal = self.ordinal;
                let writing = self.writing()?;
                let ack = v1::Ack {
                    ordinal,
                    sequence: writing.sequence,
                    rows: writing.rows,
                };
                Ok(Action::Reply(Reply::Ack(ack)))
            }
            Event::Failed(error) => self.fail(error),
        }
    }

    /// How many rows of the partition that is being written the engine has, from its start.
    pub fn rows(&self) -> u64 {
        match &self.state {
            State::Opening(writing) | State::Writing(writing) => writing.rows + writing.chunk_rows,
            State::Idle | State::Dropping => 0,
        }
    }

    /// The partition that is being written, for logs.
    pub fn partition(&self) -> Option<&PartitionKey> {
        match &self.state {
            State::Opening(writing) | State::Writing(writing) => Some(&writing.key),
            State::Idle | State::Dropping => None,
        }
    }

    fn begin(&mut self, begin: v1::Begin) -> Result<Action> {
        if !matches!(self.state, State::Idle | State::Dropping) {
            return Err(out_of_order("a Begin inside a partition"));
        }
        if begin.ordinal != self.ordinal + 1 {
            return Err(out_of_order(&format!(
                "Begin {} after {}",
                begin.ordinal, self.ordinal
            )));
        }
        self.ordinal = begin.ordinal;
        wire::check_whole(begin.slice.as_ref())?;
        let disposition = wire::disposition(begin.disposition())?;
        let key: PartitionKey = begin.key.parse()?;
        let version = wire::version(begin.version)?;
        let from = begin.from.map(Position::try_from).transpose()?;
        if let Some(from) = &from
            && (from.key != key || from.version != version)
        {
            return Err(Error::corrupt(format!(
                "partition {key}: begins from a position of another partition or version"
            )));
        }
        let files = begin.files;
        if files && !self.takes_files {
            return Err(out_of_order("files, which this stream does not take"));
        }
        if let Some(from) = &from
            && from.cursor.is_of_files() != files
        {
            return Err(Error::corrupt(format!(
                "partition {key}: rows and files cannot go on from each other's positions"
            )));
        }
        let start = |sums: Option<(u64, u64, Digest)>| {
            let (sequence, rows, digest) = sums.unwrap_or_default();
            Writing {
                key: key.clone(),
                version: version.clone(),
                sequence,
                rows,
                digest,
                chunk_rows: 0,
                chunk_digest: Digest::default(),
                files,
                coming: None,
            }
        };
        self.state = State::Opening(start(
            from.as_ref()
                .map(|from| (from.sequence, from.rows, from.digest)),
        ));
        let partition = Partition {
            key,
            version,
            rows: None,
            bytes: None,
            pin: String::new(),
            origin: Origin::default(),
        };
        Ok(Action::Begin {
            partition,
            disposition,
            from: from.map(Box::new),
        })
    }

    fn file(&mut self, file: &v1::TableFile) -> Result<Action> {
        if matches!(self.state, State::Dropping) {
            return Ok(Action::Nothing);
        }
        let writing = self.writing()?;
        if !writing.files || writing.coming.is_some() || file.bytes == 0 {
            let found = format!("a file of {} rows and {} bytes", file.rows, file.bytes);
            return Err(out_of_order(&found).context(format!("partition {}", writing.key)));
        }
        let (rows, bytes) = (file.rows, file.bytes);
        writing.coming = Some((TableFile { rows, bytes }, bytes));
        Ok(Action::Nothing)
    }

    fn frame(&mut self, frame: &v1::Frame) -> Result<Action> {
        if matches!(self.state, State::Dropping) {
            return Ok(Action::DropFrame);
        }
        let frame_bytes_max = self.frame_bytes_max;
        let writing = self.writing()?;
        if frame.sequence != writing.sequence + 1 {
            let found = format!("frame {} after frame {}", frame.sequence, writing.sequence);
            return Err(out_of_order(&found).context(format!("partition {}", writing.key)));
        }
        if writing.files {
            let action = writing.bytes(frame, frame_bytes_max);
            return action.with_context(|| format!("partition {}", writing.key));
        }
        if frame.rows == 0 || (frame.rows > 1 && frame.raw_bytes > frame_bytes_max) {
            let found = format!(
                "a frame of {} rows and {} bytes",
                frame.rows, frame.raw_bytes
            );
            return Err(out_of_order(&found).context(format!("partition {}", writing.key)));
        }
        writing.sequence += 1;
        Ok(Action::Append)
    }

    fn checkpoint(&mut self, checkpoint: v1::Checkpoint) -> Result<Action> {
        if matches!(self.state, State::Dropping) {
            return Ok(Action::Nothing);
        }
        let writing = self.writing()?;
        let sums = (
            checkpoint.sequence,
            checkpoint.chunk_rows,
            Digest::from_bytes(&checkpoint.chunk_digest)?,
        );
        let cursor = wire::cursor(checkpoint.cursor)?;
        writing.check_between_files("a Checkpoint")?;
        if cursor.is_of_files() != writing.files {
            return Err(out_of_order("a cursor of another kind than the partition"));
        }
        if let Err(error) = writing.close_chunk(sums) {
            return self.fail(error);
        }
        Ok(Action::Checkpoint(writing.mark(cursor)))
    }

    fn finish(&mut self, finish: v1::Finish) -> Result<Action> {
        if matches!(self.state, State::Dropping) {
            self.state = State::Idle;
            return Ok(Action::Nothing);
        }
        let digest_id = self.digest_id.clone();
        let writing = self.writing()?;
        writing.check_between_files("a Finish")?;
        let sums = (
            finish.sequence,
            finish.chunk_rows,
            Digest::from_bytes(&finish.chunk_digest)?,
        );
        let receipt = finish
            .receipt
            .ok_or_else(|| out_of_order("a Finish without a receipt"))?;
        let checked = Receipt::try_from(receipt)
            .and_then(|receipt| writing.close_chunk(sums).map(|()| receipt))
            .and_then(|receipt| {
                writing
                    .check_receipt(&receipt, &digest_id)
                    .map(|()| receipt)
            });
        match checked {
            Ok(receipt) => {
                self.state = State::Idle;
                Ok(Action::Finish {
                    ordinal: self.ordinal,
                    receipt: Box::new(receipt),
                })
            }
            Err(error) => {
                let action = self.fail(error);
                // Nothing more of this partition is on the way.
                self.state = State::Idle;
                action
            }
        }
    }

    fn skip(&mut self) -> Result<Action> {
        if matches!(self.state, State::Idle) {
            return Err(out_of_order("a Skip outside a partition"));
        }
        self.state = State::Idle;
        let skipped = v1::Skipped {
            ordinal: self.ordinal,
        };
        Ok(Action::Release(Some(Reply::Skipped(skipped))))
    }

    /// One partition's failure is not the stream's, unless nobody may write here any more.
    fn fail(&mut self, error: Error) -> Result<Action> {
        if matches!(error.kind(), Kind::Fenced | Kind::Cancelled) {
            return Err(error);
        }
        let key = self
            .partition()
            .map(PartitionKey::label)
            .unwrap_or_default();
        tracing::warn!(partition = %key, kind = %error.kind(), %error, "partition failed");
        self.state = State::Dropping;
        let failed = v1::Failed {
            ordinal: self.ordinal,
            kind: error.kind().name().to_owned(),
            message: error.to_string(),
        };
        Ok(Action::Release(Some(Reply::Failed(failed))))
    }

    fn writing(&mut self) -> Result<&mut Writing> {
        match &mut self.state {
            State::Writing(writing) => Ok(writing),
            state => Err(out_of_order(&format!(
                "a message for a partition that is not open ({state:?})"
            ))),
        }
    }
}

impl Writing {
    /// The next bytes of a file.
    fn bytes(&mut self, frame: &v1::Frame, frame_bytes_max: u64) -> Result<Action> {
        let bytes = frame.raw_bytes;
        let plain = frame.rows == 0
            && frame.compression() == v1::Compression::None
            && frame.wire_bytes == bytes;
        let fits = |left: u64| plain && (1..=left.min(frame_bytes_max)).contains(&bytes);
        let Some((file, left)) = self.coming.filter(|(_, left)| fits(*left)) else {
            let found = format!("{bytes} bytes of {} rows, of a file", frame.rows);
            return Err(out_of_order(&found));
        };
        let left = left - bytes;
        self.sequence += 1;
        self.coming = (left > 0).then_some((file, left));
        let last = left == 0;
        Ok(Action::AppendFile { file, last })
    }

    fn check_between_files(&self, what: &str) -> Result<()> {
        if self.coming.is_none() {
            return Ok(());
        }
        let found = format!("{what} inside a file");
        Err(out_of_order(&found).context(format!("partition {}", self.key)))
    }

    /// Compares what the source counted since the last checkpoint with what was decoded here.
    fn close_chunk(&mut self, (sequence, rows, digest): (u64, u64, Digest)) -> Result<()> {
        let ours = (self.sequence, self.chunk_rows, self.chunk_digest);
        if (sequence, rows, digest) != ours {
            return Err(Error::corrupt(format!(
                "the source sent {rows} rows up to frame {sequence} with digest {digest}, here arrived {} up to frame {} with digest {}",
                ours.1, ours.0, ours.2
            )))
            .with_context(|| format!("partition {}", self.key));
        }
        self.rows += self.chunk_rows;
        self.digest = self.digest.plus(self.chunk_digest);
        self.chunk_rows = 0;
        self.chunk_digest = Digest::default();
        Ok(())
    }

    fn check_receipt(&self, receipt: &Receipt, digest_id: &DigestId) -> Result<()> {
        let (level, digest_id) = match self.files {
            true => (Level::Bytes, &DigestId::of_files()),
            false => (Level::Received, digest_id),
        };
        let fits = receipt.key == self.key
            && receipt.version == self.version
            && receipt.rows == self.rows
            && receipt.digest == self.digest
            && receipt.digest_id == *digest_id
            && receipt.level == level;
        if fits {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "partition {}: the receipt is about {} rows with digest {} ({}), the ledger would hold {} rows with digest {} ({digest_id})",
            self.key, receipt.rows, receipt.digest, receipt.digest_id, self.rows, self.digest
        )))
    }

    fn mark(&self, cursor: strait_common::engine::Cursor) -> Mark {
        Mark {
            sequence: self.sequence,
            cursor,
            rows: self.rows,
            digest: self.digest,
        }
    }
}

/// What the source is told when a publication that it asked for with `asked` is over.
///
/// # Errors
/// The stream ends: the partition may or may not be published, and only the ledger knows.
pub fn answer_finish(ordinal: u64, asked: &Receipt, finished: Result<Finished>) -> Result<Reply> {
    let error = match finished {
        Ok(finished) => {
            let (receipt, already) = match &finished {
                Finished::Now => (asked, false),
                Finished::Already(receipt) => (receipt, true),
            };
            return Ok(Reply::Finished(v1::Finished {
                ordinal,
                receipt: Some(receipt.into()),
                already,
            }));
        }
        Err(error) => error.context(format!("partition {}", asked.key.label())),
    };
    if matches!(
        error.kind(),
        Kind::Fenced | Kind::Cancelled | Kind::Unavailable | Kind::Full
    ) {
        return Err(error);
    }
    tracing::warn!(partition = %asked.key.label(), kind = %error.kind(), %error, "partition failed");
    Ok(Reply::Failed(v1::Failed {
        ordinal,
        kind: error.kind().name().to_owned(),
        message: error.to_string(),
    }))
}

fn out_of_order(what: &str) -> Error {
    Error::corrupt(format!("{what}: the source does not follow the protocol"))
}
