//! A sink made by hand, without an engine: it grants every stream and then says that it is alive, in one phase, for ever.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strait_proto::v1;
use strait_proto::v1::alive::Phase;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::transfer_server::{Transfer, TransferServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

const ALIVE_INTERVAL: Duration = Duration::from_millis(50);
/// A frame's credit is given back only where the phase comes after all frames.
const CREDIT: u32 = 1;

/// The sink. Dropping it closes every connection.
#[derive(Debug)]
pub struct FakeSink {
    address: SocketAddr,
    copies: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl FakeSink {
    /// Listens on a free port. It says that it is as patient with its engine as this; zero leaves that unsaid.
    pub async fn start(phase: Phase, engine_timeout: Duration) -> FakeSink {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let copies = Arc::new(AtomicU64::new(0));
        let service = Service {
            phase,
            engine_timeout_ms: u64::try_from(engine_timeout.as_millis()).unwrap_or(u64::MAX),
            copies: Arc::clone(&copies),
            epoch: AtomicU64::new(0),
            served: Mutex::default(),
        };
        let mut task = JoinSet::new();
        task.spawn(async move {
            let server = tonic::transport::Server::builder()
                .add_service(TransferServer::new(service).max_decoding_message_size(16 << 20));
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("the server serves");
        });
        FakeSink {
            address,
            copies,
            _task: task,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many streams were opened.
    pub fn copies(&self) -> u64 {
        self.copies.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct Service {
    phase: Phase,
    engine_timeout_ms: u64,
    copies: Arc<AtomicU64>,
    epoch: AtomicU64,
    served: Mutex<JoinSet<()>>,
}

#[tonic::async_trait]
impl Transfer for Service {
    type AttachStream = ReceiverStream<Result<v1::AttachReply, Status>>;
    type CopyStream = ReceiverStream<Result<v1::CopyReply, Status>>;
    type DigestStream = ReceiverStream<Result<v1::DigestReply, Status>>;

    async fn prepare(
        &self,
        _: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareReply>, Status> {
        Ok(Response::new(v1::PrepareReply {
            protocol: strait_proto::PROTOCOL_MAX,
            release: "a fake".to_owned(),
            atomic: true,
            stream_bytes: 1,
            streams_admitted: 1,
            memory_bytes: 1,
            ..v1::PrepareReply::default()
        }))
    }

    async fn attach(
        &self,
        _: Request<v1::AttachRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        let (replies, stream) = mpsc::channel(2);
        let attached = v1::attach_reply::Body::Attached(v1::Attached { epoch });
        let reply = v1::AttachReply {
            body: Some(attached),
        };
        let _ = replies.send(Ok(reply)).await;
        let nothing = v1::attach_reply::Body::Positions(v1::PositionPage {
            positions: Vec::new(),
            last: true,
        });
        let reply = v1::AttachReply {
            body: Some(nothing),
        };
        let _ = replies.send(Ok(reply)).await;
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn copy(
        &self,
        request: Request<Streaming<v1::CopyRequest>>,
    ) -> Result<Response<Self::CopyStream>, Status> {
        self.copies.fetch_add(1, Ordering::SeqCst);
        let mut messages = request.into_inner();
        let (replies, stream) = mpsc::channel(1);
        let (phase, engine_timeout_ms) = (self.phase, self.engine_timeout_ms);
        let serve = async move {
            // It has read everything, and the engine does not answer.
            let reply = |body| Ok(v1::CopyReply { body: Some(body) });
            let window_frames = match messages.message().await?.and_then(|message| message.body) {
                Some(v1::copy_request::Body::Open(open)) => open.window_frames,
                other => return Err(Status::data_loss(format!("not an Open: {other:?}"))),
            };
            let opened = Reply::Opened(v1::Opened {
                window_frames,
                lease_bytes: 0,
                engine_timeout_ms,
            });
            let _ = replies.send(reply(opened)).await;
            let gives_credit = phase == Phase::Finish;
            let mut ticks = tokio::time::interval(ALIVE_INTERVAL);
            let mut ordinal = 0;
            let since = tokio::time::Instant::now();
            loop {
                tokio::select! {
                    message = messages.message() => match message?.and_then(|message| message.body) {
                        Some(v1::copy_request::Body::Frame(_)) if gives_credit => {
                            let _ = replies.send(reply(Reply::Credit(v1::Credit { frames: CREDIT, held_us: 0 }))).await;
                        }
                        Some(v1::copy_request::Body::Begin(begin)) => ordinal = begin.ordinal,
                        Some(v1::copy_request::Body::Skip(_)) => {
                            let _ = replies.send(reply(Reply::Skipped(v1::Skipped { ordinal }))).await;
                        }
                        Some(_) => {}
                        None => return Ok(()),
                    },
                    _ = ticks.tick() => {
                        let since_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                        let alive = Reply::Alive(v1::Alive { phase: phase.into(), since_ms });
                        if replies.send(reply(alive)).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
        };
        self.served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spawn(async move {
                // Whoever has left does not hear why.
                let _: Result<(), Status> = serve.await;
            });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn complete(
        &self,
        _: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::CompleteReply>, Status> {
        Ok(Response::new(v1::CompleteReply {}))
    }

    async fn digest(
        &self,
        _: Request<v1::DigestRequest>,
    ) -> Result<Response<Self::DigestStream>, Status> {
        // It never answers, and does not leave.
        let (replies, stream) = mpsc::channel(1);
        self.served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .spawn(async move { replies.closed().await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get_claim(
        &self,
        _: Request<v1::GetClaimRequest>,
    ) -> Result<Response<v1::GetClaimReply>, Status> {
        Ok(Response::new(v1::GetClaimReply::default()))
    }
}
