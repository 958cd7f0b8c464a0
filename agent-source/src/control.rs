//! The gRPC service of the source: what operators ask, answered from the agent's runs.

use std::sync::Arc;
use std::time::Duration;

use strait_common::clock::now_ns;
use strait_common::error::Kind;
use strait_common::ids::RunId;
use strait_common::{Error, Result};
use strait_proto::v1;
use strait_proto::v1::control_server::Control;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use crate::agent::Agent;
use crate::answers::Answers;
use crate::asked::Asked;
use crate::group::LiveGroup;
use crate::job::Place;
use crate::plan::{self, Started};
use crate::receipts;
use crate::resume;
use crate::runner::{Live, Snapshot};
use crate::runs::{PartitionRow, RunRow, Totals};
use crate::tables;
use crate::verify;

mod groups;

/// How often a watched run is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Answers that may wait for a slow operator.
const ANSWERS_MAX: usize = 8;
/// Partitions in one message.
const PARTITIONS_PER_PAGE: u32 = 500;
/// Runs listed when no limit is given, and at most.
const RUNS_LISTED: u32 = 100;
const RUNS_LISTED_MAX: u32 = 10_000;

/// The service.
#[derive(Clone, Debug)]
pub struct Operators(pub Arc<Agent>);

type Answer<T> = ReceiverStream<Result<T, Status>>;

impl Operators {
    /// Streams what `work` sends; its error becomes the last answer.
    fn stream<T, W>(&self, work: impl FnOnce(Arc<Agent>, Answers<T>) -> W) -> Answer<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<()>> + Send + 'static,
    {
        let (send, answers) = mpsc::channel(ANSWERS_MAX);
        let work = work(Arc::clone(&self.0), Answers(send.clone()));
        let shutdown = self.0.shutdown.clone();
        self.0.answers.spawn(async move {
            let ended = tokio::select! {
                ended = work => ended,
                () = send.closed() => return,
                () = shutdown.draining() => Err(Error::unavailable("the agent is stopping")),
            };
            if let Err(error) = ended {
                let _ = send.send(Err(error.into())).await;
            }
        });
        ReceiverStream::new(answers)
    }

    async fn find(&self, id: &str) -> Result<RunRow> {
        let agent = &self.0;
        let (store, prefix) = (agent.open_store()?, id.to_owned());
        let mut found = agent.cpu.run(move || store.runs(&prefix, 2)).await?;
        match found.len() {
            1 if !id.is_empty() => Ok(found.remove(0)),
            0 => Err(Error::config(format!(
                "this agent knows no run '{id}'; `strait runs list` shows those it knows, and a run that only the sink knows is taken over by \
                 `strait runs adopt`"
            ))),
            _ => Err(Error::config(format!(
                "several runs begin with '{id}'; write more of the id"
            ))),
        }
    }

    /// The run as of now, live if it is under way.
    async fn shown(&self, row: RunRow) -> Result<v1::Run> {
        if let Some(live) = self.0.live(row.id) {
            let snapshot = live.snapshot();
            // One that has ended is what the store says.
            if snapshot.row.status.is_active() {
                return Ok(run_message(&snapshot));
            }
        }
        let store = self.0.open_store()?;
        let id = row.id;
        let (row, totals) = self
            .0
            .cpu
            .run(move || Ok((store.run(id)?.unwrap_or(row), store.totals(id)?)))
            .await?;
        Ok(run_message(&Snapshot {
            row,
            totals,
            phase: "",
            running: 0,
            current: Vec::new(),
        }))
    }

    async fn do_start(&self, request: v1::StartRunRequest) -> Result<v1::StartRunReply, Status> {
        let asked = Asked::by_operator(request, now_ns())?;
        match plan::start(&self.0, asked).await? {
            Started::New(row) => {
                let warnings = row.warnings.clone();
                Ok(v1::StartRunReply {
                    run: Some(self.shown(*row).await?),
                    attached: false,
                    warnings,
                })
            }
            Started::Attached(row) => Ok(v1::StartRunReply {
                run: Some(self.shown(*row).await?),
                attached: true,
                warnings: Vec::new(),
            }),
            Started::Owned(id, why) => {
                let mut status = Status::new(Code::AlreadyExists, why);
                if let Ok(value) = id.to_string().parse() {
                    status.metadata_mut().insert("strait-run", value);
                }
                status.metadata_mut().insert(
                    "strait-kind",
                    tonic::metadata::MetadataValue::from_static(Kind::Refused.name()),
                );
                Err(status)
            }
        }
    }

    async fn do_resume(&self, id: &str) -> Result<v1::Run> {
        let row = self.find(id).await?;
        resume::run(&self.0, &row).await?;
        self.shown(row).await
    }

    async fn do_cancel(&self, id: &str) -> Result<v1::Run> {
        let row = self.find(id).await?;
        // Else it has ended since it was looked up, or the agent stops.
        if let Some(live) = self.0.live(row.id) {
            live.cancel();
            self.stopped(&live).await;
        }
        self.shown(row).await
    }

    async fn do_pause(&self, id: &str) -> Result<v1::Run> {
        let row = self.find(id).await?;
        match self.0.live(row.id) {
            Some(live) if live.snapshot().row.status.is_active() => {
                live.pause();
                self.stopped(&live).await;
            }
            _ => {
                return Err(Error::refused(format!(
                    "run {} is {}; only one that is under way can be paused",
                    row.id,
                    row.status.name()
                )));
            }
        }
        self.shown(row).await
    }

    /// Waits until a run that was asked to stop has stopped, within a bound.
    async fn stopped(&self, live: &Live) {
        for _ in 0..STOP_CHECKS_MAX {
            if !live.snapshot().row.status.is_active() {
                return;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    async fn do_abandon(&self, request: v1::AbandonRunRequest) -> Result<v1::AbandonRunReply> {
        let known = match self.find(&request.id).await {
            Ok(row) => Some(row),
            Err(_) if !request.to.is_empty() => None,
            Err(error) => return Err(error),
        };
        let Some(row) = known else {
            let id: RunId = request.id.parse()?;
            plan::abandon(&self.0, id, None, &request.to.parse()?).await?;
            return Ok(v1::AbandonRunReply {});
        };
        if let Some(live) = self.0.live(row.id)
            && live.snapshot().row.status.is_active()
        {
            self.do_cancel(&request.id).await?;
        }
        // The sink may have another name by now; then the claim must be where the operator says.
        let to = match request.to.as_str() {
            "" => row.job.spec.to.clone(),
            to => to.parse()?,
        };
        plan::give_up(&self.0, row, &to).await?;
        Ok(v1::AbandonRunReply {})
    }
}

/// How often a run that was asked to stop is looked at before the answer goes out anyway.
const STOP_CHECKS_MAX: u32 = 50;

#[tonic::async_trait]
impl Control for Operators {
    type PlanStream = Answer<v1::PlanReply>;
    type VerifyStream = Answer<v1::VerifyReply>;
    type WatchRunStream = Answer<v1::Run>;
    type ListPartitionsStream = Answer<v1::PartitionPage>;
    type ListTablesStream = Answer<v1::TableInfo>;
    type ListReceiptsStream = Answer<v1::ReceiptPage>;
    type WatchGroupStream = Answer<v1::Group>;

    async fn pause_group(
        &self,
        request: Request<v1::GetGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let group = self
            .do_stop_group(&request.into_inner().id, LiveGroup::pause)
            .await?;
        Ok(Response::new(group))
    }

    async fn limit_group(
        &self,
        request: Request<v1::LimitGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        let group = self.do_limit_group(request.into_inner()).await?;
        Ok(Response::new(group))
    }

    async fn check_group(
        &self,
        request: Request<v1::StartGroupRequest>,
    ) -> Result<Response<v1::CheckGroupReply>, Status> {
        crate::group::check(&self.0, request.into_inner())?;
        Ok(Response::new(v1::CheckGroupReply {}))
    }

    async fn vacuum_table(
        &self,
        request: Request<v1::VacuumTableRequest>,
    ) -> Result<Response<v1::VacuumReply>, Status> {
        let request = request.into_inner();
        let to: Place = request.table.parse().map_err(Status::from)?;
        let link = self.0.link(&to.name)?;
        let reply = link.vacuum(&to, request.retention_ms, request.dry_run);
        Ok(Response::new(reply.await?))
    }

    async fn start_group(
        &self,
        request: Request<v1::StartGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        Ok(Response::new(
            self.do_start_group(request.into_inner()).await?,
        ))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsReply>, Status> {
        Ok(Response::new(
            self.do_list_groups(request.into_inner().limit).await?,
        ))
    }

    async fn get_group(
        &self,
        request: Request<v1::GetGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        Ok(Response::new(
            self.do_get_group(&request.into_inner().id).await?,
        ))
    }

    async fn watch_group(
        &self,
        request: Request<v1::GetGroupRequest>,
    ) -> Result<Response<Self::WatchGroupStream>, Status> {
        let (operators, id) = (self.clone(), request.into_inner().id);
        let work = |_, answers| async move { operators.do_watch_group(&id, answers).await };
        Ok(Response::new(self.stream(work)))
    }

    async fn cancel_group(
        &self,
        request: Request<v1::GetGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        Ok(Response::new(
            self.do_stop_group(&request.into_inner().id, LiveGroup::cancel)
                .await?,
        ))
    }

    async fn resume_group(
        &self,
        request: Request<v1::GetGroupRequest>,
    ) -> Result<Response<v1::Group>, Status> {
        Ok(Response::new(
            self.do_resume_group(&request.into_inner().id).await?,
        ))
    }

    async fn match_tables(
        &self,
        request: Request<v1::MatchTablesRequest>,
    ) -> Result<Response<v1::MatchTablesReply>, Status> {
        Ok(Response::new(
            self.do_match_tables(request.into_inner()).await?,
        ))
    }

    async fn start_run(
        &self,
        request: Request<v1::StartRunRequest>,
    ) -> Result<Response<v1::StartRunReply>, Status> {
        // Planned on a task of the agent's: an operator who hangs up does not leave half a plan.
        let (operators, request) = (self.clone(), request.into_inner());
        let task = self
            .0
            .answers
            .spawn(async move { operators.do_start(request).await });
        let reply = task
            .await
            .map_err(|error| Status::from(Error::internal("start a run").with_source(error)))?;
        reply.map(Response::new)
    }

    async fn plan(
        &self,
        request: Request<v1::PlanRequest>,
    ) -> Result<Response<Self::PlanStream>, Status> {
        let request = request.into_inner();
        let work = |agent, answers| async move { plan::show(&agent, request, &answers).await };
        Ok(Response::new(self.stream(work)))
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let request = request.into_inner();
        let work = |agent, answers| async move { verify::verify(&agent, request, &answers).await };
        Ok(Response::new(self.stream(work)))
    }

    async fn list_tables(
        &self,
        request: Request<v1::ListTablesRequest>,
    ) -> Result<Response<Self::ListTablesStream>, Status> {
        let name = request.into_inner().name;
        let work = |agent: Arc<Agent>, answers: Answers<_>| async move {
            tables::list(&agent, &name, &answers).await
        };
        Ok(Response::new(self.stream(work)))
    }

    async fn list_receipts(
        &self,
        request: Request<v1::ListReceiptsRequest>,
    ) -> Result<Response<Self::ListReceiptsStream>, Status> {
        let selectors = request.into_inner().selectors.unwrap_or_default();
        let work = |agent: Arc<Agent>, answers: Answers<_>| async move {
            receipts::list(&agent, selectors, &answers).await
        };
        Ok(Response::new(self.stream(work)))
    }

    async fn pause_run(
        &self,
        request: Request<v1::PauseRunRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(
            self.do_pause(&request.into_inner().id).await?,
        ))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsReply>, Status> {
        let limit = match request.into_inner().limit {
            0 => RUNS_LISTED,
            limit => limit.min(RUNS_LISTED_MAX),
        };
        let store = self.0.open_store()?;
        let rows = self.0.cpu.run(move || store.runs("", limit)).await?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in rows {
            runs.push(self.shown(row).await?);
        }
        Ok(Response::new(v1::ListRunsReply { runs }))
    }

    async fn get_run(
        &self,
        request: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        let row = self.find(&request.into_inner().id).await?;
        Ok(Response::new(self.shown(row).await?))
    }

    async fn watch_run(
        &self,
        request: Request<v1::WatchRunRequest>,
    ) -> Result<Response<Self::WatchRunStream>, Status> {
        let row = self.find(&request.into_inner().id).await?;
        let operators = self.clone();
        Ok(Response::new(self.stream(|_, answers| async move {
            let mut last = None;
            loop {
                let run = operators.shown(row.clone()).await?;
                let ended = run.ended_at != 0;
                if last.as_ref() != Some(&run) {
                    answers.send(run.clone()).await?;
                    last = Some(run);
                }
                if ended {
                    return Ok(());
                }
                tokio::time::sleep(WATCH_INTERVAL).await;
            }
        })))
    }

    async fn list_partitions(
        &self,
        request: Request<v1::ListPartitionsRequest>,
    ) -> Result<Response<Self::ListPartitionsStream>, Status> {
        let request = request.into_inner();
        let row = self.find(&request.id).await?;
        let current = self
            .0
            .live(row.id)
            .map(|live| live.snapshot().current)
            .unwrap_or_default();
        Ok(Response::new(self.stream(|agent, answers| async move {
            let mut from = 0;
            loop {
                let (store, id) = (agent.open_store()?, row.id);
                let page = agent
                    .cpu
                    .run(move || store.partitions(id, None, from, PARTITIONS_PER_PAGE))
                    .await?;
                let Some(last) = page.last() else {
                    return Ok(());
                };
                from = last.seq + 1;
                let partitions = page
                    .iter()
                    .map(|partition| partition_message(partition, &current));
                let partitions: Vec<_> = partitions
                    .filter(|partition| {
                        request.state.is_empty() || partition.state == request.state
                    })
                    .collect();
                if !partitions.is_empty() {
                    answers.send(v1::PartitionPage { partitions }).await?;
                }
            }
        })))
    }

    async fn resume_run(
        &self,
        request: Request<v1::ResumeRunRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(
            self.do_resume(&request.into_inner().id).await?,
        ))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        Ok(Response::new(
            self.do_cancel(&request.into_inner().id).await?,
        ))
    }

    async fn adopt_run(
        &self,
        request: Request<v1::AdoptRunRequest>,
    ) -> Result<Response<v1::Run>, Status> {
        let request = request.into_inner();
        let row = plan::adopt(&self.0, &request.id, &request.to).await?;
        Ok(Response::new(self.shown(row).await?))
    }

    async fn abandon_run(
        &self,
        request: Request<v1::AbandonRunRequest>,
    ) -> Result<Response<v1::AbandonRunReply>, Status> {
        Ok(Response::new(self.do_abandon(request.into_inner()).await?))
    }
}

fn run_message(snapshot: &Snapshot) -> v1::Run {
    let row = &snapshot.row;
    v1::Run {
        id: row.id.to_string(),
        selectors: Some((&row.job.spec).into()),
        status: row.status.name().to_owned(),
        created_at: row.created_at,
        started_at: row.started_at,
        ended_at: row.ended_at,
        now: row.job.now,
        selection: row.job.resolved.clone(),
        message: row.message.clone(),
        kind: row
            .kind
            .map(|kind| kind.name().to_owned())
            .unwrap_or_default(),
        progress: Some(progress(snapshot)),
        streams: row.streams,
        attempts: row.attempts,
        epoch: row.epoch,
        phase: snapshot.phase.to_owned(),
        warnings: row.warnings.clone(),
        bandwidth_max: row.bandwidth_max,
        mode: Some(row.job.mode.into()),
    }
}

fn progress(snapshot: &Snapshot) -> v1::Progress {
    let Totals {
        partitions,
        done,
        already,
        failed,
        dropping,
        dropped,
        rows,
        bytes,
        rows_done,
        spent,
    } = snapshot.totals;
    v1::Progress {
        partitions,
        partitions_done: done,
        partitions_already: already,
        partitions_failed: failed,
        partitions_running: snapshot.running,
        rows,
        rows_done,
        rows_sent: spent.rows,
        bytes,
        raw_bytes: spent.raw_bytes,
        wire_bytes: spent.wire_bytes,
        elapsed_ms: snapshot.row.elapsed_ms,
        eta_ms: eta_ms(snapshot),
        retries: snapshot.row.retries,
        current: snapshot.current.clone(),
        peak_memory_bytes: strait_common::telemetry::peak_memory_bytes(),
        partitions_dropped: dropped,
        partitions_dropping: dropping,
    }
}

/// Time left, as if the rows to come took as long as those that were sent. Untold before something was sent.
fn eta_ms(snapshot: &Snapshot) -> Option<u64> {
    let totals = &snapshot.totals;
    if snapshot.phase != "copying" || totals.spent.rows == 0 || totals.rows == 0 {
        return None;
    }
    let left = totals
        .rows
        .saturating_sub(totals.rows_done.max(totals.spent.rows));
    let per_row = snapshot.row.elapsed_ms as f64 / totals.spent.rows as f64;
    Some((left as f64 * per_row) as u64)
}

fn partition_message(row: &PartitionRow, current: &[String]) -> v1::RunPartition {
    let label = row.partition.key.label();
    let running = row.receipt.is_none() && row.message.is_empty() && current.contains(&label);
    v1::RunPartition {
        key: row.partition.key.to_string(),
        state: if running { "running" } else { row.state.name() }.to_owned(),
        rows: row
            .receipt
            .as_ref()
            .map_or(row.spent.rows, |receipt| receipt.rows),
        raw_bytes: row.spent.raw_bytes,
        wire_bytes: row.spent.wire_bytes,
        elapsed_ms: row.spent.elapsed_ms,
        digest: row
            .receipt
            .as_ref()
            .map(|receipt| receipt.digest.to_string())
            .unwrap_or_default(),
        level: row
            .receipt
            .as_ref()
            .map(|receipt| format!("{:?}", receipt.level).to_lowercase())
            .unwrap_or_default(),
        message: row.message.clone(),
        kind: row
            .kind
            .map(|kind| kind.name().to_owned())
            .unwrap_or_default(),
        attempts: row.attempts,
        version: row.partition.version.0.clone(),
    }
}
