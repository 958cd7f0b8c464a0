//! A sink without an engine that answers everything as if all were durable, and lies where a test wants it to; or one that grants every stream and then
//! says that it is alive, in one phase, for ever.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strait_proto::v1;
use strait_proto::v1::alive::Phase;
use strait_proto::v1::attach_reply::Body as Attached;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Asked;
use strait_proto::v1::transfer_server::{Transfer, TransferServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// What a lie makes of the honest answers to a message of a stream; an answer of none is a message without a body.
pub type CopyLie = dyn Fn(&Asked, Vec<Reply>) -> Vec<Option<Reply>> + Send + Sync;
/// What a lie makes of the honest answers to an attach.
pub type AttachLie =
    dyn Fn(&v1::AttachRequest, Vec<Attached>) -> Vec<Option<Attached>> + Send + Sync;
/// What a lie makes of the honest answer to a Prepare.
pub type PrepareLie = dyn Fn(v1::PrepareReply) -> v1::PrepareReply + Send + Sync;

const ALIVE_INTERVAL: Duration = Duration::from_millis(50);

/// Where the sink lies.
#[derive(Clone)]
pub enum Lie {
    /// Nowhere.
    Never,
    /// On streams.
    Copy(Arc<CopyLie>),
    /// When a run attaches.
    Attach(Arc<AttachLie>),
    /// When a run is prepared.
    Prepare(Arc<PrepareLie>),
    /// That its engine works, in this phase, for ever. It says that it is as patient with it as this; zero leaves that unsaid.
    Alive(Phase, Duration),
}

impl std::fmt::Debug for Lie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Lie::Never => "Never",
            Lie::Copy(_) => "Copy",
            Lie::Attach(_) => "Attach",
            Lie::Prepare(_) => "Prepare",
            Lie::Alive(..) => "Alive",
        })
    }
}

/// The sink. Dropping it closes every connection and frees its port.
#[derive(Debug)]
pub struct SinkByHand {
    address: SocketAddr,
    lie: Arc<Mutex<Lie>>,
    completed: Arc<AtomicU64>,
    copies: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl SinkByHand {
    /// Listens on a free port.
    pub async fn start() -> SinkByHand {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let lie = Arc::new(Mutex::new(Lie::Never));
        let (completed, copies) = (Arc::default(), Arc::default());
        let service = Service {
            lie: Arc::clone(&lie),
            completed: Arc::clone(&completed),
            copies: Arc::clone(&copies),
            epoch: AtomicU64::new(0),
            served: Mutex::default(),
        };
        let mut task = JoinSet::new();
        task.spawn(async move {
            let service = TransferServer::new(service)
                .max_decoding_message_size(16 << 20)
                .max_encoding_message_size(usize::MAX);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("the server serves");
        });
        SinkByHand {
            address,
            lie,
            completed,
            copies,
            _task: task,
        }
    }

    /// One whose engine works in this phase for ever.
    pub async fn busy(phase: Phase, engine_timeout: Duration) -> SinkByHand {
        let sink = SinkByHand::start().await;
        sink.lies(Lie::Alive(phase, engine_timeout));
        sink
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// It lies like this from now on.
    pub fn lies(&self, lie: Lie) {
        *self.lie.lock().unwrap_or_else(PoisonError::into_inner) = lie;
    }

    /// How many streams were opened.
    pub fn copies(&self) -> u64 {
        self.copies.load(Ordering::SeqCst)
    }

    /// How many runs have ended their claim here.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Service {
    lie: Arc<Mutex<Lie>>,
    completed: Arc<AtomicU64>,
    copies: Arc<AtomicU64>,
    epoch: AtomicU64,
    served: Mutex<JoinSet<()>>,
}

impl Service {
    fn lie(&self) -> Lie {
        self.lie
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Goes on with a call after it was answered, until this side is dropped.
    fn serve(&self, work: impl Future<Output = Result<(), Status>> + Send + 'static) {
        self.served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spawn(async move {
                // Whoever has left does not hear why.
                let _: Result<(), Status> = work.await;
            });
    }
}

type CopyReplies = mpsc::Sender<Result<v1::CopyReply, Status>>;

/// It has read everything, and the engine does not answer.
async fn busy(
    mut messages: Streaming<v1::CopyRequest>,
    replies: CopyReplies,
    phase: Phase,
    engine_timeout: Duration,
) -> Result<(), Status> {
    let reply = |body| Ok(v1::CopyReply { body: Some(body) });
    // A frame's credit is given back only where the phase comes after all frames.
    let gives_credit = phase == Phase::Finish;
    let mut honest = Honest::default();
    let mut ticks = tokio::time::interval(ALIVE_INTERVAL);
    let since = tokio::time::Instant::now();
    loop {
        tokio::select! {
            message = messages.message() => {
                let Some(asked) = message?.and_then(|message| message.body) else {
                    return Ok(());
                };
                for mut answer in honest.answer(&asked) {
                    match &mut answer {
                        Reply::Opened(opened) => {
                            opened.engine_timeout_ms = u64::try_from(engine_timeout.as_millis()).unwrap_or(u64::MAX);
                        }
                        Reply::Credit(_) if gives_credit => {}
                        Reply::Skipped(_) => {}
                        _ => continue,
                    }
                    let _ = replies.send(reply(answer)).await;
                }
            }
            _ = ticks.tick(), if honest.opened => {
                let since_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                let alive = Reply::Alive(v1::Alive { phase: phase.into(), since_ms, ..v1::Alive::default() });
                if replies.send(reply(alive)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// What an honest sink keeps in mind of a stream.
#[derive(Debug, Default)]
struct Honest {
    opened: bool,
    ordinal: u64,
    rows: u64,
}

impl Honest {
    fn answer(&mut self, asked: &Asked) -> Vec<Reply> {
        let ordinal = self.ordinal;
        match asked {
            Asked::Open(open) => {
                self.opened = true;
                vec![Reply::Opened(v1::Opened {
                    window_frames: open.window_frames,
                    lease_bytes: 0,
                    engine_timeout_ms: 0,
                    takes_files: false,
                })]
            }
            Asked::Begin(begin) => {
                self.ordinal = begin.ordinal;
                self.rows = begin.from.as_ref().map_or(0, |from| from.rows);
                Vec::new()
            }
            Asked::Frame(frame) => {
                self.rows += frame.rows;
                vec![Reply::Credit(v1::Credit {
                    frames: 1,
                    held_us: 0,
                })]
            }
            Asked::Checkpoint(checkpoint) => vec![Reply::Ack(v1::Ack {
                ordinal,
                sequence: checkpoint.sequence,
                rows: self.rows,
            })],
            Asked::Finish(finish) => vec![Reply::Finished(v1::Finished {
                ordinal,
                receipt: finish.receipt.clone(),
                already: false,
            })],
            Asked::Skip(_) => vec![Reply::Skipped(v1::Skipped { ordinal })],
            Asked::File(file) => {
                self.rows += file.rows;
                Vec::new()
            }
            Asked::Part(_) => Vec::new(),
        }
    }
}

#[tonic::async_trait]
impl Transfer for Service {
    type AttachStream = ReceiverStream<Result<v1::AttachReply, Status>>;
    type CopyStream = ReceiverStream<Result<v1::CopyReply, Status>>;
    type DigestStream = ReceiverStream<Result<v1::DigestReply, Status>>;
    type HoldingsStream = ReceiverStream<Result<v1::HoldingsReply, Status>>;
    type GetTablesStream = ReceiverStream<Result<v1::TableInfo, Status>>;

    async fn prepare(
        &self,
        _: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareReply>, Status> {
        let honest = v1::PrepareReply {
            protocol: strait_proto::PROTOCOL_MAX,
            release: "by hand".to_owned(),
            atomic: true,
            stream_bytes: 1,
            streams_admitted: 1,
            memory_bytes: 1,
            ..v1::PrepareReply::default()
        };
        Ok(Response::new(match self.lie() {
            Lie::Prepare(lie) => lie(honest),
            _ => honest,
        }))
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let nothing = v1::PositionPage {
            positions: Vec::new(),
            last: true,
        };
        let honest = vec![
            Attached::Attached(v1::Attached { epoch }),
            Attached::Positions(nothing),
        ];
        let bodies = match self.lie() {
            Lie::Attach(lie) => lie(request.get_ref(), honest),
            _ => honest.into_iter().map(Some).collect(),
        };
        let (replies, stream) = mpsc::channel(bodies.len().max(1));
        for body in bodies {
            let _ = replies.send(Ok(v1::AttachReply { body })).await;
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn copy(
        &self,
        request: Request<Streaming<v1::CopyRequest>>,
    ) -> Result<Response<Self::CopyStream>, Status> {
        self.copies.fetch_add(1, Ordering::SeqCst);
        let mut messages = request.into_inner();
        let (replies, stream) = mpsc::channel(16);
        let lie = self.lie();
        if let Lie::Alive(phase, engine_timeout) = lie {
            self.serve(busy(messages, replies, phase, engine_timeout));
            return Ok(Response::new(ReceiverStream::new(stream)));
        }
        self.serve(async move {
            let mut honest = Honest::default();
            while let Some(asked) = messages.message().await?.and_then(|message| message.body) {
                let answers = honest.answer(&asked);
                let bodies = match &lie {
                    Lie::Copy(lie) => lie(&asked, answers),
                    _ => answers.into_iter().map(Some).collect(),
                };
                for body in bodies {
                    if replies.send(Ok(v1::CopyReply { body })).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn complete(
        &self,
        _: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::CompleteReply>, Status> {
        self.completed.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(v1::CompleteReply {}))
    }

    async fn digest(
        &self,
        request: Request<v1::DigestRequest>,
    ) -> Result<Response<Self::DigestStream>, Status> {
        if request.get_ref().receipts_only {
            // No run has been here before.
            let (_, none) = mpsc::channel(1);
            return Ok(Response::new(ReceiverStream::new(none)));
        }
        if !matches!(self.lie(), Lie::Alive(..)) {
            return Err(Status::unimplemented("there is no engine"));
        }
        // It never answers, and does not leave.
        let (replies, stream) = mpsc::channel(1);
        self.serve(async move {
            replies.closed().await;
            Ok(())
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn holdings(
        &self,
        _: Request<v1::HoldingsRequest>,
    ) -> Result<Response<Self::HoldingsStream>, Status> {
        Err(Status::unimplemented("there is no engine"))
    }

    async fn vacuum(
        &self,
        _: Request<v1::VacuumRequest>,
    ) -> Result<Response<v1::VacuumReply>, Status> {
        Err(Status::unimplemented("there is no engine"))
    }

    async fn get_tables(
        &self,
        _: Request<v1::GetTablesRequest>,
    ) -> Result<Response<Self::GetTablesStream>, Status> {
        Err(Status::unimplemented("there is no engine"))
    }

    async fn confirm(
        &self,
        _: Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmReply>, Status> {
        Err(Status::unimplemented("there is no engine"))
    }

    async fn drop(&self, _: Request<v1::DropRequest>) -> Result<Response<v1::DropReply>, Status> {
        Err(Status::unimplemented("there is no engine"))
    }

    async fn get_claim(
        &self,
        _: Request<v1::GetClaimRequest>,
    ) -> Result<Response<v1::GetClaimReply>, Status> {
        Ok(Response::new(v1::GetClaimReply::default()))
    }
}
