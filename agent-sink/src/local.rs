//! A sink in the process of the source agent, for a directory that is to be carried: there is no agent beside it. It is spoken to over a pipe in memory,
//! by the same messages and with the same promises as one over a network.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use strait_common::budget::Budget;
use strait_common::config::Percent;
use strait_common::cpu::CpuPool;
use strait_common::engine::Store;
use strait_common::shutdown::Shutdown;
use strait_common::{Kind, OrError, Result};
use strait_proto::v1::transfer_server::TransferServer;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server, Uri};

use crate::service::Service;
use crate::{CONNECTION_WINDOW_BYTES, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES};

/// What a pipe holds in each direction, in bytes.
const PIPE_BYTES: usize = 256 << 10;

/// The sink. Dropping it is a crash, which loses nothing.
#[derive(Debug)]
pub struct LocalSink {
    channel: Channel,
    _server: JoinSet<()>,
}

impl LocalSink {
    /// A sink over this store alone, whose streams take their leases from `budget`. Runs on the runtime of whoever calls.
    ///
    /// # Errors
    /// `Internal` if there can be no such connection.
    pub fn start(
        store: Store,
        budget: Budget,
        cpu: CpuPool,
        engine_timeout: Duration,
        disk_used_max: Percent,
        shutdown: Shutdown,
    ) -> Result<LocalSink> {
        let stores = BTreeMap::from([("directory".to_owned(), store)]);
        let service = Service::new(stores, budget, cpu, engine_timeout, disk_used_max, shutdown);
        let transfer = TransferServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (dial, dialled) = mpsc::channel::<std::io::Result<DuplexStream>>(1);
        let mut server = JoinSet::new();
        server.spawn(async move {
            let serve = Server::builder()
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .add_service(transfer)
                .serve_with_incoming(ReceiverStream::new(dialled));
            if let Err(error) = serve.await {
                tracing::error!(%error, "the sink in this process has stopped");
            }
        });
        let connect = tower::service_fn(move |_: Uri| {
            let dial = dial.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                let gone = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                dial.send(Ok(theirs)).await.map_err(|_| gone())?;
                Ok::<_, std::io::Error>(TokioIo::new(ours))
            }
        });
        // Nobody resolves the name.
        let endpoint =
            Endpoint::from_shared("http://directory").or_error(Kind::Internal, "a pipe")?;
        let channel = endpoint
            .initial_stream_window_size(Some(STREAM_WINDOW_BYTES))
            .initial_connection_window_size(Some(CONNECTION_WINDOW_BYTES))
            .connect_with_connector_lazy(connect);
        Ok(LocalSink {
            channel,
            _server: server,
        })
    }

    /// The way to it.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }
}
