//! The way to a sink agent: one HTTP/2 connection per run, and the calls that are not a stream of rows.

use std::sync::Arc;
use std::time::Duration;

use agent_sink::local::LocalSink;
use arrow::datatypes::SchemaRef;
use strait_common::engine::{Confirmed, Outcome, Position, Receipt, Table, Version};
use strait_common::ids::{Epoch, RunId};
use strait_common::key::PartitionKey;
use strait_common::tls::Dialling;
use strait_common::{Context, Error, Kind, OrError, Result, config, wire};
use strait_proto::v1::transfer_client::TransferClient;
use strait_proto::{PROTOCOL_MAX, PROTOCOL_MIN, RELEASE, v1};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::job::{Place, Spec};

/// Replies are small; a page of positions or receipts is the largest.
const REPLY_BYTES_MAX: usize = 16 << 20;

/// A sink agent, reached by URL.
#[derive(Clone, Debug)]
pub struct Link {
    name: String,
    client: TransferClient<Channel>,
    peer_timeout: Duration,
    call_timeout: Duration,
    /// The sink, if it is in this process.
    local: Option<Arc<LocalSink>>,
}

impl Link {
    /// A link to the sink that the configuration calls `name`. Connects when first used, and again after a break.
    ///
    /// # Errors
    /// `Config` if the URL cannot be read, or a file of `tls` cannot be used.
    pub fn new(
        name: &str,
        url: &str,
        tls: &Dialling,
        peer_timeout: Duration,
        call_timeout: Duration,
    ) -> Result<Link> {
        let context = || format!("sink {name} ({})", config::without_secrets(url));
        let endpoint = Endpoint::from_shared(url.to_owned()).or_error(Kind::Config, context())?;
        let endpoint = endpoint
            .connect_timeout(peer_timeout)
            .tcp_nodelay(true)
            // A half-open connection is found although nothing is sent.
            .http2_keep_alive_interval(peer_timeout / 2)
            .keep_alive_timeout(peer_timeout / 2)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(Some(REPLY_WINDOW_BYTES))
            .initial_connection_window_size(Some(CONNECTION_WINDOW_BYTES));
        let channel = tls
            .connect_lazily(endpoint, "tls_ca")
            .with_context(context)?;
        Ok(Link::over(name, channel, peer_timeout, call_timeout))
    }

    /// A link to a sink in this process, which lives as long as a link to it.
    pub fn local(
        name: &str,
        sink: Arc<LocalSink>,
        peer_timeout: Duration,
        call_timeout: Duration,
    ) -> Link {
        let link = Link::over(name, sink.channel(), peer_timeout, call_timeout);
        Link {
            local: Some(sink),
            ..link
        }
    }

    fn over(name: &str, channel: Channel, peer_timeout: Duration, call_timeout: Duration) -> Link {
        Link {
            name: name.to_owned(),
            client: TransferClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX),
            peer_timeout,
            call_timeout,
            local: None,
        }
    }

    /// Whether both ends take their memory from one budget.
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// The sink's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client, for a stream of rows.
    pub fn client(&self) -> TransferClient<Channel> {
        self.client.clone()
    }

    /// Makes the target able to take the rows, or files of this shape, or says what that would mean.
    ///
    /// # Errors
    /// What the sink says; `Refused` if it answers in a protocol that was not offered; `Unavailable` if it cannot be reached.
    pub async fn prepare(
        &self,
        spec: &Spec,
        wanted: &Table,
        files_shape: Option<&str>,
        window: Window,
        policy: v1::SchemaPolicy,
        dry_run: bool,
    ) -> Result<v1::PrepareReply> {
        let request = v1::PrepareRequest {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            release: RELEASE.to_owned(),
            target: Some(target(&spec.to)),
            narrow: spec.narrow.clone(),
            shape: Some(wire::shape_to_make(wanted)?),
            dry_run,
            window_frames: window.frames,
            frame_bytes_max: window.frame_bytes_max,
            schema_policy: policy.into(),
            files_shape: files_shape.map(str::to_owned),
        };
        self.bounded("prepare", async {
            let reply = self.client().prepare(request).await?.into_inner();
            if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&reply.protocol) {
                return Err(Error::refused(format!(
                    "it answers in protocol {}, this source agent (release {RELEASE}) speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}; upgrade the \
                     older one",
                    reply.protocol
                )));
            }
            Ok(reply)
        })
        .await
    }

    /// Takes or takes over the claim; the positions follow in pages.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn attach(&self, request: v1::AttachRequest) -> Result<(Epoch, PositionPages)> {
        let mut client = self.client();
        let mut replies = self
            .bounded("attach", async {
                Ok(client.attach(request).await?.into_inner())
            })
            .await?;
        let first = self
            .bounded("attach", async { Ok(replies.message().await?) })
            .await?;
        let Some(v1::attach_reply::Body::Attached(attached)) = first.and_then(|reply| reply.body)
        else {
            return Err(Error::corrupt(
                "the sink's answer to an attach does not begin with its epoch",
            ));
        };
        Ok((
            Epoch(attached.epoch),
            PositionPages {
                link: self.clone(),
                replies,
                last: false,
            },
        ))
    }

    /// Ends the claim.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn complete(
        &self,
        to: &Place,
        run: RunId,
        epoch: Epoch,
        outcome: Outcome,
    ) -> Result<()> {
        let request = v1::CompleteRequest {
            target: Some(target(to)),
            run: run.to_string(),
            epoch: epoch.0,
            outcome: v1::Outcome::from(outcome).into(),
        };
        self.bounded("complete", async {
            self.client().complete(request).await?;
            Ok(())
        })
        .await
    }

    /// Writes into B's ledger that partitions were found equal.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn confirm(
        &self,
        to: &Place,
        run: RunId,
        epoch: Epoch,
        confirmed: &[Confirmed],
    ) -> Result<()> {
        let request = v1::ConfirmRequest {
            target: Some(target(to)),
            run: run.to_string(),
            epoch: epoch.0,
            confirmed: confirmed.iter().map(Into::into).collect(),
        };
        self.bounded("confirm", async {
            self.client().confirm(request).await?;
            Ok(())
        })
        .await
    }

    /// Removes a partition of B.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn drop_partition(
        &self,
        to: &Place,
        run: RunId,
        epoch: Epoch,
        key: &PartitionKey,
    ) -> Result<()> {
        let request = v1::DropRequest {
            target: Some(target(to)),
            run: run.to_string(),
            epoch: epoch.0,
            key: key.to_string(),
        };
        self.bounded("drop", async {
            self.client().drop(request).await?;
            Ok(())
        })
        .await
    }

    /// Removes files of a table that no reader needs any more, or only names them.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn vacuum(
        &self,
        to: &Place,
        retention_ms: u64,
        dry_run: bool,
    ) -> Result<v1::VacuumReply> {
        let request = v1::VacuumRequest {
            target: Some(target(to)),
            retention_ms,
            dry_run,
        };
        self.bounded("vacuum", async {
            Ok(self.client().vacuum(request).await?.into_inner())
        })
        .await
    }

    /// The open claim on the table, if there is one: run, agent, job.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn claim(&self, to: &Place) -> Result<Option<(RunId, String, String)>> {
        let request = v1::GetClaimRequest {
            target: Some(target(to)),
        };
        let claim = self
            .bounded("claim", async {
                Ok(self.client().get_claim(request).await?.into_inner())
            })
            .await?;
        claim
            .run
            .map(|run| Ok((run.parse()?, claim.agent, claim.job)))
            .transpose()
    }

    /// What B holds for these keys, in order.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn digests(&self, request: v1::DigestRequest) -> Result<Digests> {
        let request = v1::DigestRequest {
            peer_timeout_ms: millis(self.peer_timeout),
            ..request
        };
        let mut client = self.client();
        let replies = self
            .bounded("digest", async {
                Ok(client.digest(request).await?.into_inner())
            })
            .await?;
        Ok(Digests {
            link: self.clone(),
            replies,
        })
    }

    /// What B has of the selected partitions, in order of key.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn holdings(&self, request: v1::HoldingsRequest) -> Result<Holdings> {
        let request = v1::HoldingsRequest {
            peer_timeout_ms: millis(self.peer_timeout),
            ..request
        };
        let mut client = self.client();
        let replies = self
            .bounded("holdings", async {
                Ok(client.holdings(request).await?.into_inner())
            })
            .await?;
        Ok(Holdings {
            link: self.clone(),
            replies,
            told: None,
            last: false,
        })
    }

    /// The tables of the sink's stores, or of one of them.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it cannot be reached.
    pub async fn tables(&self, store: &str) -> Result<Tables> {
        let request = v1::GetTablesRequest {
            store: store.to_owned(),
            peer_timeout_ms: millis(self.peer_timeout),
        };
        let mut client = self.client();
        let replies = self
            .bounded("tables", async {
                Ok(client.get_tables(request).await?.into_inner())
            })
            .await?;
        Ok(Tables {
            link: self.clone(),
            replies,
        })
    }

    /// The next message of an answer that takes as long as it takes, while the sink says that it is alive. `None` at its end.
    async fn answer<T>(
        &self,
        replies: &mut Streaming<T>,
        is_alive: impl Fn(&T) -> bool,
    ) -> Result<Option<T>> {
        loop {
            let reply = tokio::time::timeout(self.peer_timeout, replies.message()).await;
            let reply = match reply {
                Ok(reply) => reply.map_err(Error::from),
                Err(_) => Err(silent(self.peer_timeout)),
            };
            match reply.map_err(|error| self.named(error))? {
                Some(reply) if is_alive(&reply) => {}
                reply => return Ok(reply),
            }
        }
    }

    async fn bounded<T>(&self, call: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let result = match tokio::time::timeout(self.call_timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::unavailable(format!(
                "no answer to {call} for {} s",
                self.call_timeout.as_secs()
            ))),
        };
        result.map_err(|error| self.named(error))
    }

    fn named(&self, error: Error) -> Error {
        error.context(format!("sink {}", self.name))
    }
}

/// The answers to an attach after its epoch.
#[derive(Debug)]
pub struct PositionPages {
    link: Link,
    replies: Streaming<v1::AttachReply>,
    /// The page after which nothing comes was there.
    last: bool,
}

impl PositionPages {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// What the sink says; `Corrupt` if it cannot be read; `Unavailable` if they end before the last page: positions that are not known
    /// must not look like positions that are not there.
    pub async fn next(&mut self) -> Result<Option<Vec<Position>>> {
        if self.last {
            return Ok(None);
        }
        let replies = &mut self.replies;
        match self
            .link
            .bounded("positions", async { Ok(replies.message().await?) })
            .await?
            .map(|reply| reply.body)
        {
            None => Err(Error::unavailable(
                "the sink's positions ended before the last page",
            )),
            Some(Some(v1::attach_reply::Body::Positions(page))) => {
                self.last = page.last;
                page.positions
                    .into_iter()
                    .map(Position::try_from)
                    .collect::<Result<Vec<_>>>()
                    .map(Some)
            }
            Some(_) => Err(Error::corrupt("a second epoch in the answer to an attach")),
        }
    }
}

/// The answers to a request for digests.
#[derive(Debug)]
pub struct Digests {
    link: Link,
    replies: Streaming<v1::DigestReply>,
}

impl Digests {
    /// The next answer, and the receipt that came with it; `None` after the last. Waits as long as the sink says that it reads.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it is silent.
    pub async fn next(&mut self) -> Result<Option<(v1::DigestReply, Option<Receipt>)>> {
        let replies = &mut self.replies;
        let Some(mut reply) = self.link.answer(replies, |reply| reply.alive).await? else {
            return Ok(None);
        };
        let receipt = reply.receipt.take().map(Receipt::try_from).transpose()?;
        Ok(Some((reply, receipt)))
    }
}

/// The answers to a request for a sink's tables.
#[derive(Debug)]
pub struct Tables {
    link: Link,
    replies: Streaming<v1::TableInfo>,
}

impl Tables {
    /// The next table; `None` after the last. Waits as long as the sink says that it looks.
    ///
    /// # Errors
    /// What the sink says; `Unavailable` if it is silent.
    pub async fn next(&mut self) -> Result<Option<v1::TableInfo>> {
        self.link.answer(&mut self.replies, |info| info.alive).await
    }
}

/// What B has under one key, beside what its ledger says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which partition.
    pub key: PartitionKey,
    /// The version of B's partition; none where only the ledger knows of it.
    pub version: Option<Version>,
    /// How many rows that has, where B knows without reading.
    pub rows: Option<u64>,
    /// The newest of its receipts in effect.
    pub receipt: Option<Receipt>,
    /// How many receipts are in effect.
    pub receipts: u64,
    /// Whether B's rows are those of the receipts in effect, as far as it can tell without reading.
    pub intact: bool,
}

impl TryFrom<v1::Holding> for Held {
    type Error = Error;

    fn try_from(message: v1::Holding) -> Result<Held> {
        let stored = message.stored;
        Ok(Held {
            key: message.key.parse()?,
            rows: stored.as_ref().and_then(|stored| stored.rows),
            version: stored
                .map(|stored| wire::version(stored.version))
                .transpose()?,
            receipt: message.receipt.map(Receipt::try_from).transpose()?,
            receipts: message.receipts,
            intact: message.intact,
        })
    }
}

/// The answers to a request for what B has.
#[derive(Debug)]
pub struct Holdings {
    link: Link,
    replies: Streaming<v1::HoldingsReply>,
    /// The key told last.
    told: Option<PartitionKey>,
    /// The page after which nothing comes was there.
    last: bool,
}

impl Holdings {
    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// What the sink says; `Corrupt` if it cannot be read; `Unavailable` if they end before the last page: what is not known must not look like what is not
    /// there.
    pub async fn next(&mut self) -> Result<Option<Vec<Held>>> {
        if self.last {
            return Ok(None);
        }
        let replies = &mut self.replies;
        let Some(page) = self.link.answer(replies, |reply| reply.alive).await? else {
            return Err(Error::unavailable(
                "what the sink holds ended before the last page",
            ));
        };
        self.last = page.last;
        let mut holdings = Vec::with_capacity(page.holdings.len());
        for holding in page.holdings {
            let held = Held::try_from(holding)?;
            if self.told.as_ref().is_some_and(|told| *told >= held.key) {
                return Err(Error::corrupt(format!(
                    "what the sink holds is not in order of key at partition {}",
                    held.key.label()
                )));
            }
            self.told = Some(held.key.clone());
            holdings.push(held);
        }
        Ok(Some(holdings))
    }
}

/// The bounds of a stream's frames, as this agent is configured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Frames in flight.
    pub frames: u32,
    /// The largest frame of more than one row, in bytes.
    pub frame_bytes_max: u64,
}

/// The target of a place, for the wire.
pub fn target(to: &Place) -> v1::Target {
    v1::Target {
        store: to.store.clone().unwrap_or_default(),
        table: to.table.to_string(),
    }
}

/// The run's columns of a table, in their order.
///
/// # Errors
/// `Config` if a column is not there.
pub fn projected(schema: &SchemaRef, columns: &[String]) -> Result<SchemaRef> {
    let indices = columns
        .iter()
        .map(|name| schema.index_of(name))
        .collect::<Result<Vec<_>, _>>();
    let projected = indices.and_then(|indices| schema.project(&indices));
    projected.map(Into::into).or_error(Kind::Config, "columns")
}

/// The sink has said nothing for so long.
pub fn silent(peer_timeout: Duration) -> Error {
    Error::unavailable(format!(
        "nothing was heard for {} s (peer_timeout)",
        peer_timeout.as_secs()
    ))
}

/// A span for the wire.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// HTTP/2 windows for what comes back: credits and receipts.
const REPLY_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Adds the sink's name where a stream of rows fails.
pub fn named<T>(result: Result<T>, link: &Link) -> Result<T> {
    result.with_context(|| format!("sink {}", link.name()))
}
