//! The gRPC service of the sink: each call checked, then handed to the engine or to a stream.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use futures::StreamExt;
use strait_common::budget::Budget;
use strait_common::clock::now_ns;
use strait_common::config::Percent;
use strait_common::cpu::CpuPool;
use strait_common::digest::{self, DigestId};
use strait_common::engine::{Claim, Position, Publish, Store, Table, column_type};
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::patience::patient;
use strait_common::shutdown::Shutdown;
use strait_common::{Context, Error, Result, frame, inventory, wire};
use strait_jobs::desk::Desk;
use strait_proto::v1::alive::Phase;
use strait_proto::v1::copy_reply::Body as Reply;
use strait_proto::v1::copy_request::Body as Request;
use strait_proto::v1::transfer_server::Transfer;
use strait_proto::{PROTOCOL_MAX, PROTOCOL_MIN, RELEASE, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Response, Status, Streaming};

use crate::copy::{self, PhaseCell, Room, Stream};
use crate::metrics::{self, Metrics};
use crate::narrow;
use crate::page::Page;
use crate::readback::{self, Readback};
use crate::tables::{Attached, TableId, Tables};

/// The bounds that a source may ask for.
const WINDOW_FRAMES_MAX: u32 = 256;
/// The largest frame that a source may announce as its usual one, in bytes. A message carries at most one.
pub const FRAME_BYTES_MAX: u64 = 16 << 20;
/// Replies that may wait for the source beside those that the window bounds.
const REPLIES_MAX: usize = 64;
/// The least that a vacuum keeps of what readers may need.
const VACUUM_RETENTION_MS_MIN: u64 = 3_600_000;
/// Keys of one `Digest` call.
const DIGEST_KEYS_MAX: usize = 1000;

/// The service; clones share everything.
#[derive(Clone, Debug)]
pub struct Service(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stores: BTreeMap<String, Store>,
    tables: Arc<Tables>,
    budget: Budget,
    cpu: CpuPool,
    engine_timeout: Duration,
    disk_used_max: Percent,
    shutdown: Shutdown,
    streams: TaskTracker,
    metrics: Arc<Metrics>,
}

/// What one stream holds of the sink's budget, in bytes: the window, three frames (one arriving, its decompressed bytes, its
/// rows), the engine's writer of one partition, and what others hold that are being published.
pub fn stream_bytes(window_frames: u32, frame_bytes_max: u64, writer_bytes: u64) -> u64 {
    (u64::from(window_frames) + 3) * frame_bytes_max + writer_bytes + copy::FINISHING_BYTES
}

impl Service {
    /// A service over these stores. `streams` tracks the streams under way, for a clean stop.
    pub fn new(
        stores: BTreeMap<String, Store>,
        budget: Budget,
        cpu: CpuPool,
        engine_timeout: Duration,
        disk_used_max: Percent,
        shutdown: Shutdown,
    ) -> Service {
        let stores = stores
            .into_iter()
            .map(|(name, store)| (name, patient(store, engine_timeout)))
            .collect();
        Service(Arc::new(Shared {
            stores,
            tables: Arc::new(Tables::new(engine_timeout)),
            budget,
            cpu,
            engine_timeout,
            disk_used_max,
            shutdown,
            streams: TaskTracker::new(),
            metrics: Arc::new(Metrics::new()),
        }))
    }

    /// What Prometheus reads.
    pub(crate) fn page(&self, desk: Option<Arc<Desk>>) -> metrics::Page {
        metrics::Page {
            desk,
            metrics: Arc::clone(&self.0.metrics),
            stores: self.0.stores.clone(),
            budget: self.0.budget.clone(),
            shutdown: self.0.shutdown.clone(),
        }
    }

    /// What must end before the process does: streams, then finishes.
    pub fn ending(&self) -> (TaskTracker, Arc<Tables>) {
        (self.0.streams.clone(), Arc::clone(&self.0.tables))
    }
}

impl Shared {
    fn target(&self, target: Option<v1::Target>) -> Result<(TableId, &Store)> {
        let target = target.ok_or_else(|| Error::corrupt("a request without a target"))?;
        let (name, store) = match target.store.as_str() {
            "" if self.stores.len() == 1 => self.stores.iter().next(),
            "" => {
                return Err(Error::config(format!(
                    "this sink has several stores ({}); write SINK/STORE:DATABASE/TABLE",
                    self.names()
                )));
            }
            name => self.stores.get_key_value(name),
        }
        .ok_or_else(|| self.no_store(&target.store))?;
        Ok((
            TableId {
                store: name.clone(),
                table: target.table.parse()?,
            },
            store,
        ))
    }

    fn names(&self) -> String {
        self.stores.keys().cloned().collect::<Vec<_>>().join(", ")
    }

    fn no_store(&self, name: &str) -> Error {
        let names = self.names();
        Error::config(format!("this sink has no store '{name}'; it has {names}"))
    }

    async fn do_prepare(&self, request: v1::PrepareRequest) -> Result<v1::PrepareReply> {
        let protocol = negotiate(request.protocol_min, request.protocol_max, &request.release)?;
        check_bounds(request.window_frames, request.frame_bytes_max)?;
        let policy = request.schema_policy();
        let (id, store) = self.target(request.target)?;
        let shape = request
            .shape
            .ok_or_else(|| Error::corrupt("a request without a shape"))?;
        let wanted = wire::table(id.table.clone(), shape)?;
        let narrow = request.narrow.as_slice();
        // The types in which the engine gets them.
        let asked = SchemaRef::clone(&wanted.schema);
        let wanted = Table {
            schema: held_as(store, &id.table, asked.as_ref(), narrow).await?,
            ..wanted
        };
        let evolves = matches!(
            policy,
            v1::SchemaPolicy::Unspecified | v1::SchemaPolicy::Evolve
        );
        let missing = store.sink.add_columns(&id.table, &wanted, true).await?;
        let ignored = policy == v1::SchemaPolicy::Ignore;
        let sent = wanted.without(if ignored { &missing } else { &[] });
        if sent.schema.fields().is_empty() {
            return Err(Error::schema(format!(
                "table {} has none of the columns that are sent",
                id.table
            )));
        }
        let limits = store.sink.limits(&sent.schema)?;
        let columns = column_plans(store, &id.table, &asked, &missing, evolves, narrow).await?;
        let shape = request.files_shape.as_deref();
        let takes_files = takes_files(store, &id.table, &sent, shape).await?;
        let sink = &store.sink;
        let prepared = if evolves && !missing.is_empty() {
            // What does not fit is refused before a column is added.
            let there = sent.without(&missing);
            let mut prepared = sink.prepare(&id.table, &there, true).await?;
            if !request.dry_run {
                sink.add_columns(&id.table, &sent, false).await?;
                prepared = sink.prepare(&id.table, &sent, false).await?;
            }
            let added = missing.iter();
            let added = added.map(|name| format!("column {}.{name}", id.table));
            prepared.created.extend(added);
            prepared
        } else {
            sink.prepare(&id.table, &sent, request.dry_run).await?
        };
        let absent = if ignored { missing } else { Vec::new() };
        let stream_bytes = stream_bytes(
            request.window_frames,
            request.frame_bytes_max,
            limits.writer_bytes,
        );
        let memory_bytes = self.budget.total_bytes();
        let streams_admitted = memory_bytes / stream_bytes.max(1);
        if streams_admitted == 0 {
            return Err(Error::refused(format!(
                "one stream needs {stream_bytes} bytes at this sink, whose memory is {memory_bytes}; raise the sink's `memory`, or \
                 lower the source's `window_frames` or `frame_bytes_max`"
            )));
        }
        Ok(v1::PrepareReply {
            protocol,
            release: RELEASE.to_owned(),
            created: prepared.created,
            notes: prepared.notes,
            lacking: prepared.lacking,
            foreign: prepared.foreign,
            keyed: prepared.keyed,
            absent,
            columns,
            divided_otherwise: prepared.divided_otherwise,
            takes_files,
            value_rules: limits.value_rules,
            atomic: limits.publish == Publish::Atomic,
            free_bytes: store.sink.space().await?.map(|space| space.free),
            stream_bytes,
            streams_admitted: u32::try_from(streams_admitted).unwrap_or(u32::MAX),
            memory_bytes,
        })
    }

    async fn do_attach(
        &self,
        request: v1::AttachRequest,
    ) -> Result<ReceiverStream<Result<v1::AttachReply, Status>>> {
        if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&request.protocol) {
            return Err(no_common_protocol(request.protocol, request.protocol, "?"));
        }
        let (id, store) = self.target(request.target)?;
        check_digest_algorithm(&request.digest_id)?;
        let claim = Claim {
            run: request.run.parse()?,
            table: id.table.clone(),
            agent: request.agent,
            job: request.job,
            taken_at: now_ns() / 1_000_000_000,
        };
        let attached = self.tables.attach(&id, &store.sink, &claim).await?;
        let epoch = attached.attachment.epoch();
        tracing::info!(table = %id.table, run = %claim.run, %epoch, agent = %claim.agent, "attached");
        self.metrics.attaches.inc();
        let positions = attached.attachment.positions().await?;
        let (replies, stream) = mpsc::channel(4);
        self.streams.spawn(async move {
            let attached = v1::attach_reply::Body::Attached(v1::Attached { epoch: epoch.0 });
            if replies
                .send(Ok(v1::AttachReply {
                    body: Some(attached),
                }))
                .await
                .is_err()
            {
                return;
            }
            if let Err(error) = send_positions(positions, &replies).await {
                // Whoever has left does not hear it.
                let _ = replies.send(Err(error.into())).await;
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    async fn do_copy(
        &self,
        mut messages: Streaming<v1::CopyRequest>,
    ) -> Result<ReceiverStream<Result<v1::CopyReply, Status>>> {
        let first = messages.message().await?.and_then(|message| message.body);
        let Some(Request::Open(open)) = first else {
            return Err(Error::corrupt("a Copy stream does not begin with Open"));
        };
        check_bounds(open.window_frames, open.frame_bytes_max)?;
        let (id, store) = self.target(open.target)?;
        let run: RunId = open.run.parse()?;
        let epoch = Epoch(open.epoch);
        let attached = self.tables.attached(&id, run, epoch)?;
        let schema = frame::schema_from_bytes(&open.schema)?;
        let digest_id = DigestId::of(&schema)?;
        if digest_id.0 != open.digest_id {
            return Err(Error::corrupt(format!(
                "the columns have digest id {digest_id}, the source says {}",
                open.digest_id
            )));
        }
        let held = held_as(store, &id.table, &schema, &open.narrow).await?;
        let writer_bytes = store.sink.limits(&held)?.writer_bytes;
        // The table is there: what would be made for these columns does not matter.
        let wanted = Table {
            name: id.table.clone(),
            schema: Arc::clone(&schema),
            divisions: Vec::new(),
            recipe: None,
        };
        let shape = open.files_shape.as_deref();
        let takes_files = takes_files(store, &id.table, &wanted, shape).await?;
        let lease_bytes = stream_bytes(open.window_frames, open.frame_bytes_max, writer_bytes);
        let capacity = open.window_frames as usize + REPLIES_MAX;
        let (replies, stream) = mpsc::channel(capacity);
        let (budget, cpu, engine_timeout) = (
            self.budget.for_stream(),
            self.cpu.clone(),
            self.engine_timeout,
        );
        let room = Room {
            sink: Arc::clone(&store.sink),
            used_max: self.disk_used_max,
        };
        let shutdown = self.shutdown.clone();
        let alive_interval = copy::alive_interval(open.peer_timeout_ms);
        let span = tracing::info_span!("copy", run = %run.short(), table = %id.table, %epoch);
        let metrics = Arc::clone(&self.metrics);
        let work = async move {
            let phase = PhaseCell::new(Phase::Lease);
            let serve = async {
                let waiting = metrics.streams.waiting();
                let lease = budget.lease(lease_bytes).await?;
                drop(waiting);
                let _open = metrics.streams.open();
                let opened = v1::Opened {
                    window_frames: open.window_frames,
                    lease_bytes,
                    engine_timeout_ms: u64::try_from(engine_timeout.as_millis())
                        .unwrap_or(u64::MAX),
                    takes_files,
                };
                let opened = v1::CopyReply {
                    body: Some(Reply::Opened(opened)),
                };
                if replies.send(Ok(opened)).await.is_err() {
                    return Err(Error::unavailable(
                        "the source left while it waited for memory",
                    ));
                }
                let stream = Stream {
                    attached,
                    schema,
                    held,
                    digest_id,
                    window_frames: open.window_frames,
                    frame_bytes_max: open.frame_bytes_max,
                    takes_files,
                    lease,
                    budget,
                    cpu,
                    engine_timeout,
                    room,
                    metrics: Arc::clone(&metrics),
                };
                copy::serve(stream, messages, &replies, phase.clone()).await
            };
            let ended = tokio::select! {
                ended = serve => ended,
                () = copy::alive(phase.clone(), replies.clone(), alive_interval, shutdown.clone()) => Err(Error::unavailable("the source has left the stream")),
                () = replies.closed() => Err(Error::unavailable("the source has left the stream")),
                () = shutdown.cancelled() => Err(Error::unavailable("the sink agent is stopping")),
            };
            if let Err(error) = ended {
                tracing::info!(kind = %error.kind(), %error, "stream ended");
                let _ = replies.send(Err(error.into())).await;
            }
        };
        self.streams
            .spawn(tracing::Instrument::instrument(work, span));
        Ok(ReceiverStream::new(stream))
    }

    async fn do_complete(&self, request: v1::CompleteRequest) -> Result<v1::CompleteReply> {
        let outcome = wire::outcome(request.outcome())?;
        let (id, attached) = self.attempt(request.target, &request.run, request.epoch)?;
        attached.attachment.complete(outcome).await?;
        self.tables.ended(&id, attached.attachment.epoch());
        tracing::info!(table = %id.table, run = %request.run, ?outcome, "claim ended");
        Ok(v1::CompleteReply {})
    }

    fn do_digest(
        &self,
        request: v1::DigestRequest,
    ) -> Result<ReceiverStream<Result<v1::DigestReply, Status>>> {
        if request.keys.len() > DIGEST_KEYS_MAX {
            return Err(Error::config(format!(
                "{} keys in one request, at most {DIGEST_KEYS_MAX}",
                request.keys.len()
            )));
        }
        let keys = request.keys.iter().map(|key| key.parse());
        let read = Readback {
            keys: keys.collect::<Result<_>>()?,
            receipts_only: request.receipts_only,
            ..self.readback(
                request.target,
                request.selection,
                request.shape,
                request.digest_id,
            )?
        };
        let alive = v1::DigestReply {
            alive: true,
            ..v1::DigestReply::default()
        };
        let sums = request.sums;
        let work = move |replies| async move {
            match sums {
                true => read.sums(&replies).await,
                false => read.run(&replies).await,
            }
        };
        Ok(self.answering(request.peer_timeout_ms, alive, work))
    }

    fn do_holdings(
        &self,
        request: v1::HoldingsRequest,
    ) -> Result<ReceiverStream<Result<v1::HoldingsReply, Status>>> {
        let read = self.readback(
            request.target,
            request.selection,
            request.shape,
            request.digest_id,
        )?;
        let alive = v1::HoldingsReply {
            alive: true,
            ..v1::HoldingsReply::default()
        };
        let work = |replies| async move { read.holdings(&replies).await };
        Ok(self.answering(request.peer_timeout_ms, alive, work))
    }

    async fn do_vacuum(&self, request: v1::VacuumRequest) -> Result<v1::VacuumReply> {
        let (id, store) = self.target(request.target)?;
        if request.retention_ms < VACUUM_RETENTION_MS_MIN {
            return Err(Error::config(format!(
                "a retention of {} s would take files from under readers that are at work; write at least 1h",
                request.retention_ms / 1000
            )));
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ms = now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        let before_ms = i64::try_from(now_ms.saturating_sub(request.retention_ms)).unwrap_or(0);
        // An attach waits, so that nobody takes up what is being removed.
        let attaching = self.tables.attaching(&id);
        let _attaching = attaching.lock().await;
        let vacuumed = store
            .sink
            .vacuum(&id.table, before_ms, request.dry_run)
            .await?;
        tracing::info!(table = %id.table, files = vacuumed.files, bytes = vacuumed.bytes, staged_files = vacuumed.staged_files,
            staged_bytes = vacuumed.staged_bytes, dry_run = request.dry_run, "vacuumed");
        Ok(v1::VacuumReply {
            files: vacuumed.files,
            bytes: vacuumed.bytes,
            staged_files: vacuumed.staged_files,
            staged_bytes: vacuumed.staged_bytes,
            paths: vacuumed.listed.into_iter().map(|file| file.path).collect(),
        })
    }

    fn do_get_tables(
        &self,
        request: &v1::GetTablesRequest,
    ) -> Result<ReceiverStream<Result<v1::TableInfo, Status>>> {
        let stores = match request.store.as_str() {
            "" => self.stores.clone(),
            name => {
                let store = self.stores.get(name).ok_or_else(|| self.no_store(name))?;
                BTreeMap::from([(name.to_owned(), store.clone())])
            }
        };
        let alive = v1::TableInfo {
            alive: true,
            ..v1::TableInfo::default()
        };
        let work = |replies: mpsc::Sender<_>| async move {
            for (name, store) in &stores {
                let mut tables = inventory::tables(name, store);
                while let Some(info) = tables.next().await {
                    let sent = replies.send(Ok(info)).await;
                    sent.map_err(|_| Error::cancelled("the source has left"))?;
                }
            }
            Ok(())
        };
        Ok(self.answering(request.peer_timeout_ms, alive, work))
    }

    /// Reading all of the selected rows of a target.
    fn readback(
        &self,
        target: Option<v1::Target>,
        selection: Option<v1::SelectionText>,
        shape: Option<v1::Shape>,
        digest_id: String,
    ) -> Result<Readback> {
        let (id, store) = self.target(target)?;
        check_digest_algorithm(&digest_id)?;
        let selection = selection.ok_or_else(|| Error::corrupt("a request without a selection"))?;
        let shape = shape.ok_or_else(|| Error::corrupt("a request without a shape"))?;
        Ok(Readback {
            store: store.clone(),
            wanted: wire::table(id.table, shape)?,
            selection,
            digest_id: DigestId(digest_id),
            keys: Vec::new(),
            receipts_only: false,
            budget: self.budget.for_stream(),
            cpu: self.cpu.clone(),
            engine_timeout: self.engine_timeout,
        })
    }

    /// Answers from a task of the agent's, which says `alive` while it works.
    fn answering<T, F, W>(
        &self,
        peer_timeout_ms: u64,
        alive: T,
        work: F,
    ) -> ReceiverStream<Result<T, Status>>
    where
        T: Clone + Send + Sync + 'static,
        F: FnOnce(mpsc::Sender<Result<T, Status>>) -> W,
        W: Future<Output = Result<()>> + Send + 'static,
    {
        let (replies, stream) = mpsc::channel(16);
        let interval = copy::alive_interval(peer_timeout_ms);
        let (work, shutdown) = (work(replies.clone()), self.shutdown.clone());
        self.streams.spawn(async move {
            let ended = tokio::select! {
                ended = work => ended,
                () = readback::alive(&replies, alive, interval) => return,
                () = replies.closed() => return,
                () = shutdown.cancelled() => Err(Error::unavailable("the sink agent is stopping")),
            };
            if let Err(error) = ended {
                let _ = replies.send(Err(error.into())).await;
            }
        });
        ReceiverStream::new(stream)
    }

    async fn do_confirm(&self, request: v1::ConfirmRequest) -> Result<v1::ConfirmReply> {
        let (_, attached) = self.attempt(request.target, &request.run, request.epoch)?;
        let confirmed = request.confirmed.into_iter().map(TryInto::try_into);
        let confirmed = confirmed.collect::<Result<Vec<_>>>()?;
        attached.attachment.confirm(&confirmed).await?;
        Ok(v1::ConfirmReply {})
    }

    async fn do_drop(&self, request: v1::DropRequest) -> Result<v1::DropReply> {
        let (id, attached) = self.attempt(request.target, &request.run, request.epoch)?;
        let key = request.key.parse()?;
        attached.attachment.drop_partition(&key).await?;
        tracing::info!(table = %id.table, run = %request.run, partition = %key.label(), "partition dropped");
        Ok(v1::DropReply {})
    }

    fn attempt(
        &self,
        target: Option<v1::Target>,
        run: &str,
        epoch: u64,
    ) -> Result<(TableId, Attached)> {
        let (id, _) = self.target(target)?;
        let attached = self.tables.attached(&id, run.parse()?, Epoch(epoch))?;
        Ok((id, attached))
    }

    async fn do_get_claim(&self, request: v1::GetClaimRequest) -> Result<v1::GetClaimReply> {
        let (id, store) = self.target(request.target)?;
        let claim = store.sink.claim(&id.table).await?;
        Ok(match claim {
            Some(claim) => v1::GetClaimReply {
                run: Some(claim.run.to_string()),
                agent: claim.agent,
                job: claim.job,
                taken_at: claim.taken_at,
            },
            None => v1::GetClaimReply::default(),
        })
    }
}

/// Whether B's files look as A says that its own do.
async fn takes_files(
    store: &Store,
    table: &TableName,
    wanted: &Table,
    shape: Option<&str>,
) -> Result<bool> {
    let Some(shape) = shape else {
        return Ok(false);
    };
    let ours = store.sink.files_shape(table, wanted).await?;
    Ok(ours.as_deref() == Some(shape))
}

/// Columns as the engine gets them: those that are named in the types of its table, if there is one.
async fn held_as(
    store: &Store,
    table: &TableName,
    sent: &Schema,
    narrow: &[String],
) -> Result<SchemaRef> {
    let held = match !narrow.is_empty() && store.source.tables().await?.contains(table) {
        true => store.source.describe(table).await?.schema,
        false => SchemaRef::new(Schema::empty()),
    };
    narrow::as_held(sent, &held, narrow)
}

/// Every column of either side, those of A first, as they are before anything is made.
async fn column_plans(
    store: &Store,
    table: &TableName,
    wanted: &SchemaRef,
    missing: &[String],
    evolves: bool,
    narrow: &[String],
) -> Result<Vec<v1::ColumnPlan>> {
    let there = store.source.tables().await?.contains(table);
    let here = match there {
        true => Some(store.source.describe(table).await?.schema),
        false => None,
    };
    let mut columns = Vec::new();
    for field in wanted.fields() {
        let found = here
            .as_ref()
            .map(|here| here.field_with_name(field.name()).ok());
        let added = || column_type(&field.as_ref().clone().with_nullable(true));
        let (sink, what) = match found {
            None => (Some(column_type(field)), "created"),
            _ if missing.contains(field.name()) && evolves => (Some(added()), "added"),
            Some(None) => (None, "left out"),
            Some(Some(found))
                if narrow.contains(field.name()) && found.data_type() != field.data_type() =>
            {
                (Some(column_type(found)), "narrowed")
            }
            Some(Some(found)) => (Some(column_type(found)), "same"),
        };
        columns.push(v1::ColumnPlan {
            name: field.name().clone(),
            source: Some(column_type(field)),
            sink,
            what: what.to_owned(),
        });
    }
    let here = here.iter().flat_map(|here| here.fields());
    let not_sent = here.filter(|field| wanted.index_of(field.name()).is_err());
    columns.extend(not_sent.map(|field| v1::ColumnPlan {
        name: field.name().clone(),
        source: None,
        sink: Some(column_type(field)),
        what: "null".to_owned(),
    }));
    Ok(columns)
}

fn negotiate(min: u32, max: u32, release: &str) -> Result<u32> {
    let highest = max.min(PROTOCOL_MAX);
    if highest < min.max(PROTOCOL_MIN) {
        return Err(no_common_protocol(min, max, release));
    }
    Ok(highest)
}

/// Sends positions in pages, each as they come, and says which page is the last.
///
/// # Errors
/// What the ledger says; `Cancelled` if the source has left.
async fn send_positions(
    mut positions: strait_common::engine::Stream<Position>,
    replies: &mpsc::Sender<Result<v1::AttachReply, Status>>,
) -> Result<()> {
    let send = async |page, last| {
        let sent = replies.send(Ok(position_page(page, last))).await;
        sent.map_err(|_| Error::cancelled("the source has left"))
    };
    let mut page = Page::default();
    while let Some(position) = positions.next().await {
        if let Some(full) = page.push(v1::Position::from(&position?)) {
            send(full, false).await?;
        }
    }
    send(page.rest(), true).await
}

fn position_page(positions: Vec<v1::Position>, last: bool) -> v1::AttachReply {
    let page = v1::PositionPage { positions, last };
    v1::AttachReply {
        body: Some(v1::attach_reply::Body::Positions(page)),
    }
}

fn no_common_protocol(min: u32, max: u32, release: &str) -> Error {
    Error::refused(format!(
        "no common protocol: the source agent (release {release}) speaks {min} to {max}, this sink agent (release {RELEASE}) {PROTOCOL_MIN} \
         to {PROTOCOL_MAX}; upgrade the older one"
    ))
}

fn check_bounds(window_frames: u32, frame_bytes_max: u64) -> Result<()> {
    if window_frames == 0 || window_frames > WINDOW_FRAMES_MAX {
        return Err(Error::config(format!(
            "window_frames = {window_frames} is not between 1 and {WINDOW_FRAMES_MAX}"
        )));
    }
    if !(4096..=FRAME_BYTES_MAX).contains(&frame_bytes_max) {
        return Err(Error::config(format!(
            "frame_bytes_max = {frame_bytes_max} is not between 4096 and {FRAME_BYTES_MAX}"
        )));
    }
    Ok(())
}

fn check_digest_algorithm(digest_id: &str) -> Result<()> {
    if digest_id.split('-').next() == Some(digest::ALGORITHM) {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the source agent compares with digest '{digest_id}', this sink agent (release {RELEASE}) knows {}; upgrade the older one",
        digest::ALGORITHM
    )))
}

/// A call that changes something is not cut short when the caller hangs up: it runs on a task that the agent owns.
async fn to_the_end<T: Send + 'static>(
    streams: &TaskTracker,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let joined = streams.spawn(work).await;
    joined
        .map_err(|error| Error::internal("serve a call").with_source(error))
        .and_then(|result| result)
}

#[tonic::async_trait]
impl Transfer for Service {
    type AttachStream = ReceiverStream<Result<v1::AttachReply, Status>>;
    type CopyStream = ReceiverStream<Result<v1::CopyReply, Status>>;
    type DigestStream = ReceiverStream<Result<v1::DigestReply, Status>>;
    type GetTablesStream = ReceiverStream<Result<v1::TableInfo, Status>>;
    type HoldingsStream = ReceiverStream<Result<v1::HoldingsReply, Status>>;

    async fn prepare(
        &self,
        request: tonic::Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareReply>, Status> {
        let (service, request) = (Arc::clone(&self.0), request.into_inner());
        Ok(to_the_end(
            &self.0.streams,
            async move { service.do_prepare(request).await },
        )
        .await
        .map(Response::new)?)
    }

    async fn attach(
        &self,
        request: tonic::Request<v1::AttachRequest>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (service, request) = (Arc::clone(&self.0), request.into_inner());
        Ok(to_the_end(
            &self.0.streams,
            async move { service.do_attach(request).await },
        )
        .await
        .map(Response::new)?)
    }

    async fn copy(
        &self,
        request: tonic::Request<Streaming<v1::CopyRequest>>,
    ) -> Result<Response<Self::CopyStream>, Status> {
        Ok(self
            .0
            .do_copy(request.into_inner())
            .await
            .map(Response::new)?)
    }

    async fn complete(
        &self,
        request: tonic::Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::CompleteReply>, Status> {
        let (service, request) = (Arc::clone(&self.0), request.into_inner());
        Ok(to_the_end(&self.0.streams, async move {
            service.do_complete(request).await
        })
        .await
        .map(Response::new)?)
    }

    async fn digest(
        &self,
        request: tonic::Request<v1::DigestRequest>,
    ) -> Result<Response<Self::DigestStream>, Status> {
        Ok(self
            .0
            .do_digest(request.into_inner())
            .context("verify")
            .map(Response::new)?)
    }

    async fn holdings(
        &self,
        request: tonic::Request<v1::HoldingsRequest>,
    ) -> Result<Response<Self::HoldingsStream>, Status> {
        Ok(self
            .0
            .do_holdings(request.into_inner())
            .map(Response::new)?)
    }

    async fn confirm(
        &self,
        request: tonic::Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmReply>, Status> {
        let (service, request) = (Arc::clone(&self.0), request.into_inner());
        Ok(to_the_end(
            &self.0.streams,
            async move { service.do_confirm(request).await },
        )
        .await
        .map(Response::new)?)
    }

    async fn drop(
        &self,
        request: tonic::Request<v1::DropRequest>,
    ) -> Result<Response<v1::DropReply>, Status> {
        let (service, request) = (Arc::clone(&self.0), request.into_inner());
        Ok(to_the_end(
            &self.0.streams,
            async move { service.do_drop(request).await },
        )
        .await
        .map(Response::new)?)
    }

    async fn vacuum(
        &self,
        request: tonic::Request<v1::VacuumRequest>,
    ) -> Result<Response<v1::VacuumReply>, Status> {
        let (service, request) = (Arc::clone(&self.0), request.into_inner());
        Ok(to_the_end(
            &self.0.streams,
            async move { service.do_vacuum(request).await },
        )
        .await
        .map(Response::new)?)
    }

    async fn get_tables(
        &self,
        request: tonic::Request<v1::GetTablesRequest>,
    ) -> Result<Response<Self::GetTablesStream>, Status> {
        Ok(self
            .0
            .do_get_tables(&request.into_inner())
            .map(Response::new)?)
    }

    async fn get_claim(
        &self,
        request: tonic::Request<v1::GetClaimRequest>,
    ) -> Result<Response<v1::GetClaimReply>, Status> {
        Ok(self
            .0
            .do_get_claim(request.into_inner())
            .await
            .map(Response::new)?)
    }
}
