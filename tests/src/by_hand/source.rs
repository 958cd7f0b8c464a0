//! A source that follows the protocol only where a test wants it to: a client of `strait.v1.Transfer` whose messages are made one at a time.

use std::net::SocketAddr;

use strait_common::digest::{Digest, DigestId, digest};
use strait_common::engine::{Disposition, Level, Origin, Receipt, Version};
use strait_common::frame::{Compression, Encoder, Frame, schema_to_bytes};
use strait_common::ids::RunId;
use strait_common::wire;
use strait_common::{Error, Result};
use strait_proto::v1;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;
use strait_proto::v1::transfer_client::TransferClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::lakes;

/// The version that every partition here has at its source.
pub const VERSION: &str = "by hand";
/// The selection of every receipt here.
const SELECTION: &str = "everything";
/// What every stream here asks for.
pub const WINDOW_FRAMES: u32 = 4;
/// The same.
pub const FRAME_BYTES_MAX: u64 = 64 << 10;
/// Messages that wait for the wire.
const MESSAGES_MAX: usize = 64;

/// The source.
#[derive(Clone, Debug)]
pub struct SourceByHand {
    client: TransferClient<Channel>,
    table: String,
}

impl SourceByHand {
    /// A source whose target is this table at the sink that listens there.
    pub fn new(sink: SocketAddr, table: &str) -> SourceByHand {
        let endpoint = Endpoint::from_shared(format!("http://{sink}")).expect("a URL");
        SourceByHand {
            client: TransferClient::new(endpoint.connect_lazy()),
            table: table.to_owned(),
        }
    }

    /// The calls themselves.
    pub fn client(&self) -> TransferClient<Channel> {
        self.client.clone()
    }

    /// The target.
    pub fn target(&self) -> Option<v1::Target> {
        Some(v1::Target {
            store: String::new(),
            table: self.table.clone(),
        })
    }

    /// What makes the table.
    pub fn preparation(&self) -> v1::PrepareRequest {
        let shape = wire::shape(&lakes::schema(), &lakes::wanted().divisions).expect("a shape");
        v1::PrepareRequest {
            schema_policy: v1::SchemaPolicy::Freeze.into(),
            protocol_min: strait_proto::PROTOCOL_MIN,
            protocol_max: strait_proto::PROTOCOL_MAX,
            release: "by hand".to_owned(),
            target: self.target(),
            shape: Some(shape),
            dry_run: false,
            narrow: Vec::new(),
            window_frames: WINDOW_FRAMES,
            frame_bytes_max: FRAME_BYTES_MAX,
            files_shape: None,
        }
    }

    /// Makes the table.
    ///
    /// # Errors
    /// What the sink says.
    pub async fn prepare(&self, request: v1::PrepareRequest) -> Result<v1::PrepareReply> {
        Ok(self.client().prepare(request).await?.into_inner())
    }

    /// What attaches a run.
    pub fn attachment(&self, run: RunId) -> v1::AttachRequest {
        v1::AttachRequest {
            protocol: strait_proto::PROTOCOL_MAX,
            target: self.target(),
            run: run.to_string(),
            agent: "by hand".to_owned(),
            job: "{}".to_owned(),
            digest_id: digest_id(),
        }
    }

    /// Attaches; the epoch, and all positions.
    ///
    /// # Errors
    /// What the sink says.
    pub async fn attach(&self, request: v1::AttachRequest) -> Result<(u64, Vec<v1::Position>)> {
        use v1::attach_reply::Body;
        let mut replies = self.client().attach(request).await?.into_inner();
        let (mut epoch, mut positions) = (None, Vec::new());
        while let Some(reply) = replies.message().await? {
            match reply.body {
                Some(Body::Attached(attached)) => epoch = Some(attached.epoch),
                Some(Body::Positions(page)) => positions.extend(page.positions),
                None => {}
            }
        }
        let epoch = epoch.ok_or_else(|| Error::corrupt("no epoch"))?;
        Ok((epoch, positions))
    }

    /// Ends the claim.
    ///
    /// # Errors
    /// What the sink says.
    pub async fn complete(&self, run: RunId, epoch: u64, outcome: v1::Outcome) -> Result<()> {
        let request = v1::CompleteRequest {
            target: self.target(),
            run: run.to_string(),
            epoch,
            outcome: outcome.into(),
        };
        self.client().complete(request).await?;
        Ok(())
    }

    /// What opens a stream.
    pub fn opening(&self, run: RunId, epoch: u64) -> v1::Open {
        v1::Open {
            target: self.target(),
            run: run.to_string(),
            epoch,
            window_frames: WINDOW_FRAMES,
            frame_bytes_max: FRAME_BYTES_MAX,
            schema: schema_to_bytes(&lakes::schema()).expect("a schema"),
            digest_id: digest_id(),
            peer_timeout_ms: 0,
            narrow: Vec::new(),
            files_shape: None,
        }
    }

    /// A stream with this as its first message; nothing is waited for.
    ///
    /// # Errors
    /// What the sink says.
    pub async fn copy(&self, first: Request) -> Result<CopyByHand> {
        let (send, messages) = mpsc::channel(MESSAGES_MAX);
        send.send(v1::CopyRequest { body: Some(first) })
            .await
            .map_err(|_| Error::internal("the stream is not there"))?;
        let replies = self
            .client()
            .max_encoding_message_size(usize::MAX)
            .copy(ReceiverStream::new(messages))
            .await?
            .into_inner();
        Ok(CopyByHand {
            send: Some(send),
            replies,
            credits: 0,
        })
    }

    /// A stream that the sink has opened.
    ///
    /// # Errors
    /// What the sink says.
    pub async fn open(&self, run: RunId, epoch: u64) -> Result<CopyByHand> {
        let (copy, _) = self.open_as(self.opening(run, epoch)).await?;
        Ok(copy)
    }

    /// The same with this opening, and what the sink says to it.
    ///
    /// # Errors
    /// What the sink says.
    pub async fn open_as(&self, open: v1::Open) -> Result<(CopyByHand, v1::Opened)> {
        let mut copy = self.copy(Request::Open(open)).await?;
        match copy.next().await? {
            Some(Reply::Opened(opened)) => {
                copy.credits = opened.window_frames;
                Ok((copy, opened))
            }
            other => Err(Error::corrupt(format!("not opened: {other:?}"))),
        }
    }
}

/// A stream.
#[derive(Debug)]
pub struct CopyByHand {
    send: Option<mpsc::Sender<v1::CopyRequest>>,
    replies: Streaming<v1::CopyReply>,
    credits: u32,
}

impl CopyByHand {
    /// Sends a message, whatever it is. That the stream is over shows in the next answer.
    pub async fn send(&mut self, request: Request) {
        self.send_body(Some(request)).await;
    }

    /// The same, also for one without a body.
    ///
    /// # Panics
    /// If it is not taken within [`crate::WAIT_MAX`].
    pub async fn send_body(&mut self, body: Option<Request>) {
        if let Some(send) = &self.send {
            let sent = send.send(v1::CopyRequest { body });
            let sent = tokio::time::timeout(crate::WAIT_MAX, sent).await;
            let _ = sent.expect("the sink takes the message");
        }
    }

    /// Nothing more is sent.
    pub fn close(&mut self) {
        self.send = None;
    }

    /// The next `Alive`; whatever else comes before it is passed over.
    ///
    /// # Panics
    /// If none comes within [`crate::WAIT_MAX`], or the stream ends.
    pub async fn alive(&mut self) -> v1::Alive {
        let next = async {
            loop {
                let reply = self.replies.message().await.expect("the stream goes on");
                match reply.expect("the stream goes on").body {
                    Some(Reply::Alive(alive)) => return alive,
                    _ => continue,
                }
            }
        };
        let next = tokio::time::timeout(crate::WAIT_MAX, next).await;
        next.expect("the sink says that it is alive")
    }

    /// The next answer but `Alive`; none at the end of the stream.
    ///
    /// # Errors
    /// What ended the stream.
    ///
    /// # Panics
    /// If none comes within [`crate::WAIT_MAX`].
    pub async fn next(&mut self) -> Result<Option<Reply>> {
        let next = async {
            loop {
                match self.replies.message().await? {
                    None => return Ok(None),
                    Some(v1::CopyReply {
                        body: Some(Reply::Alive(_)),
                    }) => {}
                    Some(reply) => return Ok(reply.body),
                }
            }
        };
        // Saying Alive again and again is no answer.
        let answered = tokio::time::timeout(crate::WAIT_MAX, next).await;
        answered.expect("the sink answers")
    }

    /// The next answer that is not about credit.
    ///
    /// # Errors
    /// What ended the stream.
    pub async fn answer(&mut self) -> Result<Option<Reply>> {
        loop {
            match self.next().await? {
                Some(Reply::Credit(credit)) => self.credits += credit.frames,
                other => return Ok(other),
            }
        }
    }

    /// Sends a frame when there is credit for it.
    ///
    /// # Errors
    /// What ended the stream.
    pub async fn send_frame(&mut self, frame: v1::Frame) -> Result<()> {
        while self.credits == 0 {
            match self.next().await? {
                Some(Reply::Credit(credit)) => self.credits += credit.frames,
                other => return Err(Error::corrupt(format!("no credit but {other:?}"))),
            }
        }
        self.credits -= 1;
        self.send(Request::Frame(frame)).await;
        Ok(())
    }

    /// Copies a partition as the protocol wants it, and gives the sink's receipt.
    ///
    /// # Errors
    /// What the sink says, also of the partition alone.
    pub async fn copy(&mut self, ordinal: u64, part: &Part) -> Result<v1::Receipt> {
        self.send(part.begin(ordinal)).await;
        for frame in part.frames() {
            self.send_frame(frame).await?;
        }
        self.send(part.finish()).await;
        match self.answer().await? {
            Some(Reply::Finished(v1::Finished {
                receipt: Some(receipt),
                ..
            })) => Ok(receipt),
            other => Err(Error::corrupt(format!("not finished: {other:?}"))),
        }
    }
}

/// A partition of a source by hand: some rows of a day, in frames.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which day.
    pub day: u32,
    frames: Vec<Frame>,
    rows: u64,
    digest: Digest,
}

impl Part {
    /// The rows with these ids, cut into so many frames of equal size.
    pub fn new(day: u32, rows: u64, frames: u64) -> Part {
        Part::of(day, day, rows, frames)
    }

    /// The same, with rows of another day in it.
    pub fn of(day: u32, rows_of: u32, rows: u64, frames: u64) -> Part {
        let mut encoder = Encoder::new(Compression::Zstd(1)).expect("zstd");
        let (mut cut, mut sum) = (Vec::new(), Digest::default());
        let each = rows / frames;
        for at in 0..frames {
            let batch = lakes::rows(rows_of, at * each..(at + 1) * each);
            sum = sum.plus(digest(&batch).expect("a digest"));
            let frames = encoder.encode(&batch, FRAME_BYTES_MAX).expect("a frame");
            assert_eq!(frames.len(), 1, "the rows fit one frame");
            cut.extend(frames);
        }
        Part {
            day,
            frames: cut,
            rows: each * frames,
            digest: sum,
        }
    }

    /// Its Begin, from the start.
    pub fn begin(&self, ordinal: u64) -> Request {
        Request::Begin(v1::Begin {
            ordinal,
            key: lakes::key(self.day).to_string(),
            version: VERSION.to_owned(),
            slice: Some(wire::whole()),
            disposition: v1::Disposition::from(Disposition::Append).into(),
            from: None,
            files: false,
        })
    }

    /// Its frames, in order.
    pub fn frames(&self) -> Vec<v1::Frame> {
        let frames = (1..).zip(&self.frames);
        frames
            .map(|(sequence, frame)| v1::Frame {
                sequence,
                rows: frame.rows,
                compression: v1::Compression::Zstd.into(),
                raw_bytes: frame.raw_bytes,
                wire_bytes: frame.payload.len() as u64,
                checksum: frame.checksum,
                payload: frame.payload.clone(),
            })
            .collect()
    }

    /// One of them.
    pub fn frame(&self, at: usize) -> v1::Frame {
        self.frames().swap_remove(at)
    }

    /// A checkpoint after all of its frames.
    pub fn checkpoint(&self) -> v1::Checkpoint {
        v1::Checkpoint {
            sequence: self.frames.len() as u64,
            cursor: Vec::new().into(),
            chunk_rows: self.rows,
            chunk_digest: self.digest.to_bytes().to_vec().into(),
        }
    }

    /// Its Finish, without a checkpoint before it.
    pub fn finish(&self) -> Request {
        self.finish_with(|_| {})
    }

    /// The same, changed.
    pub fn finish_with(&self, change: impl FnOnce(&mut v1::Finish)) -> Request {
        let receipt = Receipt {
            key: lakes::key(self.day),
            version: Version(VERSION.to_owned()),
            rows: self.rows,
            digest: self.digest,
            digest_id: DigestId(digest_id()),
            level: Level::Received,
            selection: SELECTION.to_owned(),
            origin: Origin::default(),
        };
        let mut finish = v1::Finish {
            sequence: self.frames.len() as u64,
            cursor: Vec::new().into(),
            chunk_rows: self.rows,
            chunk_digest: self.digest.to_bytes().to_vec().into(),
            receipt: Some((&receipt).into()),
        };
        change(&mut finish);
        Request::Finish(finish)
    }
}

fn digest_id() -> String {
    DigestId::of(&lakes::schema()).expect("a digest id").0
}
