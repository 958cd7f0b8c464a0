//! Planning: what a run would do, found without moving a row, and the same thing stored as a run.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::StreamExt;
use strait_common::clock::now_ns;
use strait_common::config::ByteSize;
use strait_common::digest::DigestId;
use strait_common::division::{check_key, division_text};
use strait_common::engine::{Disposition, Partition, Receipt, Source, Stream, Table};
use strait_common::ids::RunId;
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_common::{Error, Result};
use strait_proto::v1;

use crate::agent::Agent;
use crate::answers::Answers;
use crate::asked::{Asked, Lacking, Terms};
use crate::chosen::Arrived;
use crate::compare::Sides;
use crate::files;
use crate::job::{Job, Mode, Order, Spec};
use crate::link::{self, Held, Link, Window};
use crate::overlap::Overlaps;
use crate::pace;
use crate::run::{Earlier, Look, earlier, look};
use crate::runner;
use crate::runs::{RunRow, Status};
use crate::widen::widen;

/// Room that B must have beyond what the copied partitions take at A: its files are not A's.
const ROOM_MARGIN_PERCENT: u64 = 10;
const ROOM_MARGIN_BYTES: u64 = 64 << 20;

/// A job resolved against what both sides look like now.
#[derive(Debug)]
pub struct Planned {
    /// The job.
    pub job: Job,
    /// Its selection.
    pub selection: Selection,
    /// The table at A.
    pub table: Table,
    /// The run's columns of it.
    pub wanted: Table,
    /// What the sink says about receiving them.
    pub reply: v1::PrepareReply,
    /// What to know.
    pub warnings: Vec<String>,
    /// Why no partition travels as files; none where they do.
    pub rows_because: Option<&'static str>,
    source: Arc<dyn Source>,
    link: Link,
    arrived: Arc<Arrived>,
}

/// A job resolved against what A looks like now. The sink was not asked yet.
#[derive(Debug)]
struct Resolved {
    job: Job,
    selection: Selection,
    table: Table,
    wanted: Table,
    source: Arc<dyn Source>,
    link: Link,
}

/// Resolves what is asked for, and asks the sink. Nothing is made at B. What the sink leaves out is left out of the job, too: receipts and digests are of the columns that are sent.
///
/// # Errors
/// `Config`, `Schema` or `Refused` if it cannot be done, saying what to change; `Unavailable` if a side cannot be reached.
pub async fn plan(
    agent: &Agent,
    spec: Spec,
    mode: Mode,
    now: i64,
    policy: v1::SchemaPolicy,
) -> Result<Planned> {
    let resolved = resolve(agent, spec, mode, now).await?;
    let planned = resolved.ask(agent, policy).await?;
    let absent = &planned.reply.absent;
    if absent.is_empty() {
        return Ok(planned);
    }
    let mut spec = planned.job.spec.clone();
    let columns = planned.selection.columns().iter();
    let sent = columns.filter(|column| !absent.contains(column));
    spec.selection.columns = Some(sent.cloned().collect());
    let narrowed = resolve(agent, spec, mode, now).await?;
    let mut narrowed = narrowed.ask(agent, policy).await?;
    narrowed.reply.columns = planned.reply.columns;
    Ok(narrowed)
}

async fn resolve(agent: &Agent, spec: Spec, mode: Mode, now: i64) -> Result<Resolved> {
    let source = agent.source(&spec.from.name)?;
    let link = agent.link(&spec.to.name)?;
    let table = source.describe(&spec.from.table).await?;
    let selection = Selection::resolve(&spec.selection, &table.schema, now)?;
    let schema = link::projected(&table.schema, selection.columns())?;
    let digest_id = DigestId::of(&schema)?;
    if let Some(division) = table
        .divisions
        .iter()
        .find(|division| !selection.columns().contains(&division.column))
    {
        return Err(Error::refused(format!(
            "the table is divided by {}, which is not among the columns; add it to --columns",
            division.column
        )));
    }
    let wanted = Table {
        name: spec.to.table.clone(),
        schema,
        divisions: table.divisions.clone(),
        recipe: table.recipe.clone(),
    };
    let job = Job {
        resolved: selection.text(),
        digest_id: digest_id.0,
        spec,
        now,
        mode,
    };
    let stream_bytes = agent.stream_bytes(source.read_bytes(&table));
    if stream_bytes > agent.config.memory_bytes {
        return Err(Error::refused(format!(
            "one stream of table {} needs {stream_bytes} bytes at this agent, whose memory is {}; raise `memory`, or lower `window_frames` \
             or `frame_bytes_max`",
            table.name, agent.config.memory_bytes
        )));
    }
    Ok(Resolved {
        job,
        selection,
        table,
        wanted,
        source,
        link,
    })
}

impl Resolved {
    /// Asks the sink what receiving the rows would mean.
    async fn ask(self, agent: &Agent, policy: v1::SchemaPolicy) -> Result<Planned> {
        let Resolved {
            job,
            selection,
            table,
            wanted,
            source,
            link,
        } = self;
        let columns = table.schema.fields().len();
        let shape = files::shape(source.as_ref(), &job.spec, &selection, columns).await?;
        let told = shape.as_deref().ok();
        let reply = link.prepare(&job.spec, &wanted, told, window(agent), policy, true);
        let reply = reply.await?;
        let rows_because = match shape {
            Err(why) => Some(why),
            Ok(_) if !reply.takes_files => Some(
                "the table at the sink keeps its rows otherwise, or has not all of the columns yet",
            ),
            Ok(_) => None,
        };
        let both = agent.stream_bytes(source.read_bytes(&table)) + reply.stream_bytes;
        if link.is_local() && both > agent.config.memory_bytes {
            return Err(Error::refused(format!(
                "one stream of table {} to a directory needs {both} bytes at this agent, which reads and writes, and whose memory is {}; raise `memory`, or \
                 lower `window_frames` or `frame_bytes_max`",
                table.name, agent.config.memory_bytes
            )));
        }
        if job.mode.disposition() == Disposition::Replace && !reply.lacking.is_empty() {
            return Err(Error::refused(format!(
                "the sink's table has columns that are not copied: {}; --mode {} would lose what they hold. Name them in --columns if the source has \
                 them, or use --mode append",
                reply.lacking.join(", "),
                job.mode.name()
            )));
        }
        let mut warnings = selection.warnings();
        warnings.extend(source.warnings(&table.name).await?);
        if let Some(there) = &reply.divided_otherwise {
            let here = division_text(&wanted.divisions);
            let differ = format!("the source divides by ({here}), the sink by ({there})");
            if job.mode.disposition() == Disposition::Replace {
                return Err(Error::refused(format!(
                    "{differ}: --mode {} puts whole partitions of the source in the place of the sink's, which have other rows. Use --mode append, or copy into a \
                     table of another name, which is made with the source's division",
                    job.mode.name()
                )));
            }
            if link.is_local() {
                return Err(Error::refused(format!(
                    "{differ}, and a bundle has partitions of the source; back up into another directory, or into a table of another name"
                )));
            }
            warnings.push(format!(
                "{differ}: each partition of the source adds files to several of the sink's, and `strait verify` reads the whole table at the sink"
            ));
        }
        let arrived = match job.spec.receipts.clone() {
            Some(path) => agent.cpu.run(move || Arrived::read(&path)).await?,
            None => Arrived::default(),
        };
        Ok(Planned {
            warnings,
            rows_because,
            job,
            selection,
            table,
            wanted,
            reply,
            source,
            link,
            arrived: Arc::new(arrived),
        })
    }
}

/// The bounds of a stream's frames.
fn window(agent: &Agent) -> Window {
    Window {
        frames: agent.config.window_frames,
        frame_bytes_max: agent.config.frame_bytes_max,
    }
}

impl Planned {
    /// Has made at B what is to be made.
    async fn make(mut self, agent: &Agent, policy: v1::SchemaPolicy) -> Result<Planned> {
        if !self.reply.created.is_empty() {
            let (spec, wanted) = (&self.job.spec, &self.wanted);
            let made = self
                .link
                .prepare(spec, wanted, None, window(agent), policy, false);
            self.reply = made.await?;
        }
        Ok(self)
    }

    /// The partitions at A, in order of key.
    ///
    /// # Errors
    /// What the source says; `Refused` if partitions are replaced, and only a part of this one is selected.
    pub async fn partitions(&self) -> Result<Stream<Partition>> {
        let mode = self.job.mode;
        let selected = partitions(&self.source, &self.table, &self.selection, mode).await?;
        let (named, arrived) = (self.job.spec.partitions.clone(), Arc::clone(&self.arrived));
        let is_chosen =
            move |partition: &Partition| named.fit(&partition.key) && !arrived.has(partition);
        let chosen = selected.filter(move |partition| {
            std::future::ready(partition.as_ref().map_or(true, &is_chosen))
        });
        Ok(chosen.boxed())
    }

    /// Whether B's table takes rows in this mode; or its rows are of somebody else, and nobody has said what happens to them.
    fn check_mode(&self, mode_named: bool) -> Result<()> {
        if self.reply.keyed && self.job.mode.disposition() == Disposition::Append {
            return Err(Error::refused(format!(
                "table {} at the sink keeps one row of each key, so what is appended is not what is stored: use --mode mirror, or replace. Make it by hand, without a key, \
                 if all rows are to be kept",
                self.job.spec.to.table
            )));
        }
        if mode_named || !self.reply.foreign {
            return Ok(());
        }
        Err(Error::refused(format!(
            "table {} at the sink has rows that no run has put there; name what happens to them: --mode append keeps them, --mode mirror \
             makes the selected partitions equal to the source's, --mode replace puts the source's in their place",
            self.job.spec.to.table
        )))
    }

    /// Whether rows that came under keys which A does not have any more can be among those that are appended. The run looks again when it has the claim; here nothing is claimed yet.
    async fn check_unplanned(&self, agent: &Agent) -> Result<()> {
        if self.job.mode == (Mode::Append { again: false }) {
            let request = self.sides(agent).digest_request(Vec::new(), true)?;
            let (mut overlaps, mut receipts) = (self.overlaps(), self.link.digests(request).await?);
            while let Some((_, receipt)) = receipts.next().await? {
                self.check_receipt(&mut overlaps, receipt.as_ref())?;
            }
        }
        Ok(())
    }

    /// The same for one receipt. Which partitions there are is not looked at here, so that of keys like A's own nothing is said.
    fn check_receipt(&self, overlaps: &mut Overlaps, receipt: Option<&Receipt>) -> Result<()> {
        let Some(receipt) = receipt else {
            return Ok(());
        };
        let own = check_key(&self.table.divisions, &self.table.schema, &receipt.key).is_ok();
        overlaps.check_unplanned(self.job.mode, "an earlier run", receipt, |_| Ok(!own))
    }

    /// Whether each partition is selected whole where that is needed, and B has room for what is copied, as far as stored bytes tell. What must be compared
    /// first does not count.
    async fn check_partitions(&self, agent: &Agent, without_room: bool) -> Result<()> {
        let bytes_of = async |actions: Option<Actions>| {
            let (mut actions, mut sum) = (actions, 0u64);
            let mut partitions = self.partitions().await?;
            while let Some(partition) = partitions.next().await.transpose()? {
                let action = actions
                    .as_mut()
                    .map_or("copy", |actions| actions.of(&partition));
                if matches!(action, "copy" | "replace") {
                    sum = sum.saturating_add(partition.bytes.unwrap_or(0));
                }
            }
            Ok::<_, Error>(sum)
        };
        let all = bytes_of(None).await?;
        let Some(free) = self.reply.free_bytes.filter(|_| !without_room) else {
            return Ok(());
        };
        let needs = |bytes: u64| {
            (bytes / 100)
                .saturating_mul(100 + ROOM_MARGIN_PERCENT)
                .saturating_add(ROOM_MARGIN_BYTES)
        };
        // What B has already is asked for only where that decides.
        if needs(all) <= free {
            return Ok(());
        }
        let needed = needs(bytes_of(Some(Actions::new(agent, self).await?)).await?);
        if needed <= free {
            return Ok(());
        }
        Err(Error::refused(format!(
            "the sink has {} free, and what is to be copied takes about {}, by what it takes at the source; make room, narrow --where, or add \
             --without-room: the run waits when the disk is full",
            ByteSize(free >> 20 << 20),
            ByteSize(needed >> 20 << 20)
        )))
    }

    /// Streams that run at a time: what is asked for, and what each side's memory admits.
    pub fn streams(&self, agent: &Agent, asked: u32) -> Streams {
        let source_bytes = agent.stream_bytes(self.source.read_bytes(&self.table));
        let beside = if self.link.is_local() {
            self.reply.stream_bytes
        } else {
            0
        };
        let source = agent.config.memory_bytes / (source_bytes + beside).max(1);
        let source = u32::try_from(source).unwrap_or(u32::MAX);
        let asked = if asked == 0 {
            agent.config.streams_max
        } else {
            asked.min(agent.config.streams_max)
        };
        let sink = self.reply.streams_admitted;
        Streams {
            asked,
            source,
            source_bytes,
            sink,
            admitted: asked.min(source).min(sink).max(1),
        }
    }

    /// Both sides of it.
    pub fn sides(&self, agent: &Agent) -> Sides<'_> {
        Sides {
            job: &self.job,
            selection: &self.selection,
            schema: &self.wanted.schema,
            divisions: &self.wanted.divisions,
            table: &self.table.name,
            source: &self.source,
            stream_bytes: agent.stream_bytes(self.source.read_bytes(&self.table)),
            link: &self.link,
        }
    }

    fn overlaps(&self) -> Overlaps {
        Overlaps::new(
            self.selection.clone(),
            &self.table,
            DigestId(self.job.digest_id.clone()),
        )
    }
}

/// The selected partitions of a table. Where they take the place of B's, each must be selected whole.
async fn partitions(
    source: &Arc<dyn Source>,
    table: &Table,
    selection: &Selection,
    mode: Mode,
) -> Result<Stream<Partition>> {
    let partitions = source.partitions(&table.name, selection).await?;
    if mode.disposition() == Disposition::Append {
        return Ok(partitions);
    }
    let columns = table
        .divisions
        .iter()
        .map(|division| division.column.as_str());
    let columns = columns.collect::<Vec<_>>().join(", ");
    let selection = selection.clone();
    let whole = move |partition: Partition| {
        if selection.covers(&partition.key) {
            return Ok(partition);
        }
        let (which, instead) = match partition.key.parts() {
            [] => ("the table".to_owned(), "leave --where out".to_owned()),
            _ => (
                format!("partition {}", partition.key.label()),
                format!("write a condition on {columns} alone that takes partitions whole"),
            ),
        };
        Err(Error::refused(format!(
            "--mode {} puts whole partitions in the place of the sink's, and the condition selects only a part of {which}; {instead}, or use --mode append",
            mode.name()
        )))
    };
    let whole = partitions.map(move |partition| partition.and_then(&whole));
    Ok(whole.boxed())
}

/// How many streams there would be.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// As asked for and configured.
    pub asked: u32,
    /// As this agent's memory admits.
    pub source: u32,
    /// What one holds of this agent's memory, in bytes.
    pub source_bytes: u64,
    /// As the sink's memory admits.
    pub sink: u32,
    /// The least of all.
    pub admitted: u32,
}

/// Plans a run and stores it, unless a run is under way on the target or owns it.
///
/// # Errors
/// As [`plan`].
pub async fn start(agent: &Arc<Agent>, mut asked: Asked) -> Result<Started> {
    let Terms {
        mode,
        mode_named,
        columns_lacking,
        streams,
        bandwidth_max,
        without_room,
        order,
        ..
    } = asked.terms.clone();
    check_bandwidth(agent, bandwidth_max)?;
    let policy = v1::SchemaPolicy::from(columns_lacking);
    match under_way(agent, &asked).await? {
        // The job of its run may have fewer columns than were asked for.
        Some(Started::Owned(..)) if columns_lacking == Lacking::Ignore => {}
        Some(started) => return Ok(started),
        None => {}
    }
    asked.spec.selection = widen(agent, &asked).await?;
    let planned = plan(agent, asked.spec.clone(), mode, asked.now, policy).await?;
    asked.spec = planned.job.spec.clone();
    if let Some(started) = under_way(agent, &asked).await? {
        return Ok(started);
    }
    // Whatever is refused is refused before anything is made at B.
    if let Some((owner, name, _)) = planned.link.claim(&asked.spec.to).await? {
        return owned(agent, owner, &name, &asked).await;
    }
    planned.check_mode(mode_named)?;
    planned.check_partitions(agent, without_room).await?;
    planned.check_unplanned(agent).await?;
    let planned = planned.make(agent, policy).await?;
    // Whoever asked for the same in the meantime has begun it by now, or waits here.
    let _starting = agent.starting.lock().await;
    if let Some(started) = under_way(agent, &asked).await? {
        return Ok(started);
    }
    let limits = Limits {
        streams,
        bandwidth_max,
        order,
    };
    begin(agent, planned, asked.id, limits)
        .await
        .map(|row| Started::New(Box::new(row)))
}

/// The unfinished run of this agent on the target.
async fn under_way(agent: &Agent, asked: &Asked) -> Result<Option<Started>> {
    let store = agent.open_store()?;
    let active = agent.cpu.run(move || store.active()).await?;
    let found = active
        .into_iter()
        .find(|row| row.job.spec.to == asked.spec.to);
    Ok(found.map(|row| {
        if asked.is_done_by(&row.job) {
            return Started::Attached(Box::new(row));
        }
        Started::Owned(row.id, watch_it(row.id))
    }))
}

fn watch_it(id: RunId) -> String {
    format!("run {id} is under way on this target; watch it with `strait runs watch {id}`")
}

/// What to do about a claim at the sink.
async fn owned(agent: &Agent, id: RunId, owner: &str, asked: &Asked) -> Result<Started> {
    let store = agent.open_store()?;
    let why = match agent.cpu.run(move || store.run(id)).await? {
        // Begun since the last look.
        Some(row) if row.status.is_active() && asked.is_done_by(&row.job) => {
            return Ok(Started::Attached(Box::new(row)));
        }
        Some(row) if row.status.is_active() => watch_it(id),
        Some(row) => format!(
            "run {id} owns this target and is {}; go on with `strait runs resume {id}`, or give it up with `strait runs abandon {id}`",
            row.status.name()
        ),
        None => {
            let to = &asked.spec.to;
            format!(
                "run {id} of agent {owner} owns this target. If that agent has lost its state, take the run over with `strait runs adopt {id} \
                 --to {to}`, or give it up with `strait runs abandon {id} --to {to}`"
            )
        }
    };
    Ok(Started::Owned(id, why))
}

/// What a request to start a run led to.
#[derive(Debug)]
pub enum Started {
    /// A new run.
    New(Box<RunRow>),
    /// The same job is under way as this run.
    Attached(Box<RunRow>),
    /// This run has the target, and what to do about it.
    Owned(RunId, String),
}

/// What an operator allows a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// At most this many streams at a time; the agent's own limit if 0.
    pub streams: u32,
    /// The most that its frames take on the wire, in bytes a second.
    pub bandwidth_max: Option<u64>,
    /// Which of its partitions come first.
    pub order: Order,
}

/// Refuses a limit that makes no sense.
///
/// # Errors
/// `Config`, saying what to write.
pub fn check_bandwidth(agent: &Agent, bandwidth_max: Option<u64>) -> Result<()> {
    bandwidth_max.map_or(Ok(()), |bandwidth_max| {
        pace::check(
            "--bandwidth-max",
            bandwidth_max,
            agent.config.frame_bytes_max,
        )
    })
}

/// Stores the plan under this id and begins to drive it.
///
/// # Errors
/// What the source says; `Unavailable` if the plan cannot be stored.
pub async fn begin(
    agent: &Arc<Agent>,
    planned: Planned,
    id: RunId,
    limits: Limits,
) -> Result<RunRow> {
    let row = RunRow {
        id,
        streams: planned.streams(agent, limits.streams).admitted,
        bandwidth_max: limits.bandwidth_max,
        order: limits.order,
        status: Status::Planned,
        created_at: agent.now_s(),
        started_at: 0,
        ended_at: 0,
        attempts: 0,
        epoch: 0,
        retries: 0,
        elapsed_ms: 0,
        message: String::new(),
        kind: None,
        warnings: planned.warnings.clone(),
        job: planned.job.clone(),
    };
    let partitions = planned.partitions().await?;
    let count =
        runner::store_plan(&agent.cpu, agent.open_store()?, row.clone(), partitions).await?;
    tracing::info!(run = %id.short(), from = %row.job.spec.from, to = %row.job.spec.to, partitions = count, "run planned");
    agent.drive(row.clone())?;
    Ok(row)
}

/// Takes over a run that B's ledger knows and this agent does not.
///
/// # Errors
/// `Config` if the claim at B is of another run or none; as [`plan`].
pub async fn adopt(agent: &Arc<Agent>, id: &str, to: &str) -> Result<RunRow> {
    let id: RunId = id.parse()?;
    let to: crate::job::Place = to.parse()?;
    let store = agent.open_store()?;
    if let Some(known) = agent.cpu.run(move || store.run(id)).await? {
        return Err(Error::refused(format!(
            "this agent knows run {id}: it is {}; use `strait runs resume {id}`",
            known.status.name()
        )));
    }
    let link = agent.link(&to.name)?;
    let Some((claimed, owner, job)) = link.claim(&to).await? else {
        return Err(Error::config(format!(
            "no run has a claim on {to}; there is nothing to adopt"
        )));
    };
    if claimed != id {
        return Err(Error::config(format!(
            "{to} is claimed by run {claimed} of agent {owner}, not by {id}"
        )));
    }
    let job = Job::from_json(&job)?;
    // The run goes on where its job says: under another name it could be another cluster.
    if job.spec.to != to {
        return Err(Error::refused(format!(
            "run {id} calls its target {}, and --to says {to}; name that sink in this agent's configuration as the agent that began the run does, \
             and adopt it with --to {}",
            job.spec.to, job.spec.to
        )));
    }
    let evolve = v1::SchemaPolicy::Evolve;
    let mut planned = plan(agent, job.spec.clone(), job.mode, job.now, evolve).await?;
    if planned.job.resolved != job.resolved || planned.job.digest_id != job.digest_id {
        return Err(Error::refused(format!(
            "the table at the source has changed since run {id} was planned; abandon it with `strait runs abandon {id} --to {to}` and begin a new one"
        )));
    }
    planned = planned.make(agent, evolve).await?;
    // The claim's own text, so that the sink knows the job again.
    planned.job = job;
    begin(agent, planned, id, Limits::default()).await
}

/// Gives up a run that this agent knows, at the sink, which has this name by now, and in the store.
///
/// # Errors
/// As [`abandon`]; `Unavailable` if the store cannot be written.
pub async fn give_up(agent: &Arc<Agent>, row: RunRow, to: &crate::job::Place) -> Result<()> {
    let known = (*to == row.job.spec.to).then_some(&row.job);
    abandon(agent, row.id, known, to).await?;
    let row = RunRow {
        status: Status::Abandoned,
        ended_at: agent.now_s(),
        ..row
    };
    let store = agent.open_store()?;
    agent.cpu.run(move || store.update(&row)).await
}

/// Gives a run up at the sink: discards what it staged there and ends its claim.
///
/// # Errors
/// `Config` if the sink has no claim of this run; what the sink says.
pub async fn abandon(
    agent: &Arc<Agent>,
    id: RunId,
    job: Option<&Job>,
    to: &crate::job::Place,
) -> Result<()> {
    let link = agent.link(&to.name)?;
    let (claimed, job, digest_id) = match (link.claim(to).await?, job) {
        (Some((claimed, _, text)), _) => {
            let digest_id = Job::from_json(&text)?.digest_id;
            (claimed, text, digest_id)
        }
        // A run that has ended partial, or never attached, has no claim: there is nothing to end.
        (None, Some(_)) => return Ok(()),
        (None, None) => {
            return Err(Error::config(format!(
                "no run has a claim on {to}; there is nothing to abandon"
            )));
        }
    };
    if claimed != id {
        if job.is_empty() {
            return Err(Error::config(format!(
                "{to} is claimed by run {claimed}, not by {id}"
            )));
        }
        return Err(Error::config(format!(
            "{to} is claimed by run {claimed}, not by {id}; nothing was abandoned"
        )));
    }
    let request = v1::AttachRequest {
        protocol: strait_proto::PROTOCOL_MAX,
        target: Some(link::target(to)),
        run: id.to_string(),
        agent: agent.identity(),
        job,
        digest_id,
    };
    let (epoch, _) = link.attach(request).await?;
    link.complete(to, id, epoch, strait_common::engine::Outcome::Abandoned)
        .await
}

/// The plan as messages: summary, partitions in pages, totals.
///
/// # Errors
/// As [`plan`]; `Cancelled` if the operator has left.
pub async fn show(
    agent: &Arc<Agent>,
    request: v1::PlanRequest,
    answers: &Answers<v1::PlanReply>,
) -> Result<()> {
    check_bandwidth(agent, request.bandwidth_max)?;
    let bandwidth_max = least(request.bandwidth_max, agent.config.bandwidth_max);
    let policy = request.schema_policy();
    let spec = Spec::try_from(request.selectors.unwrap_or_default())?;
    let mode = Mode::try_from(request.mode)?;
    let planned = plan(agent, spec, mode, now_ns(), policy).await?;
    let kind = request.mode.unwrap_or_default().kind();
    planned.check_mode(kind != v1::mode::Kind::Unspecified)?;
    let send = |body| answers.send(v1::PlanReply { body: Some(body) });
    send(v1::plan_reply::Body::Summary(summary(
        agent,
        &planned,
        request.streams,
        bandwidth_max,
    )))
    .await?;
    let mut actions = Actions::new(agent, &planned).await?;
    let mut totals = v1::PlanTotals {
        rows: Some(0),
        bytes: Some(0),
        ..v1::PlanTotals::default()
    };
    let mut bytes_to_copy = Some(0u64);
    let mut pages = planned.partitions().await?.chunks(500);
    while let Some(page) = pages.next().await {
        let mut partitions = Vec::with_capacity(page.len());
        for partition in page {
            let partition = partition?;
            let action = actions.of(&partition);
            count(&mut totals, action);
            if matches!(action, "copy" | "replace" | "compare") {
                let as_files = planned.rows_because.is_none();
                if as_files && planned.selection.covers(&partition.key) {
                    totals.as_files += 1;
                }
                let both = bytes_to_copy.zip(partition.bytes);
                bytes_to_copy = both.map(|(sum, bytes)| sum.saturating_add(bytes));
            }
            totals.rows = totals
                .rows
                .zip(partition.rows)
                .map(|(sum, rows)| sum + rows);
            totals.bytes = totals
                .bytes
                .zip(partition.bytes)
                .map(|(sum, bytes)| sum + bytes);
            partitions.push(v1::PlanPartition {
                key: partition.key.to_string(),
                rows: partition.rows,
                bytes: partition.bytes,
                version: partition.version.0,
                action: action.to_owned(),
            });
        }
        send(v1::plan_reply::Body::Page(v1::PlanPage { partitions })).await?;
    }
    let extras = actions.extras();
    for page in extras.chunks(500) {
        let drop = |held: &Held| {
            count(&mut totals, "drop");
            v1::PlanPartition {
                key: held.key.to_string(),
                rows: held.rows,
                bytes: None,
                version: String::new(),
                action: "drop".to_owned(),
            }
        };
        let partitions = page.iter().map(drop).collect();
        send(v1::plan_reply::Body::Page(v1::PlanPage { partitions })).await?;
    }
    totals.least_ms = bytes_to_copy
        .zip(bandwidth_max)
        .map(|(bytes, bandwidth)| bytes.saturating_mul(1000) / bandwidth.max(1));
    send(v1::plan_reply::Body::Totals(totals)).await
}

/// The lower of two limits, each of which may be missing.
fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

fn count(totals: &mut v1::PlanTotals, action: &str) {
    totals.partitions += 1;
    match action {
        "copy" => totals.to_copy += 1,
        "replace" => totals.to_replace += 1,
        "compare" => totals.to_compare += 1,
        "already" => totals.already += 1,
        "drop" => totals.to_drop += 1,
        _ => totals.refused += 1,
    }
}

/// What a run would do with each partition, by what B says without reading.
struct Actions {
    job: Job,
    overlaps: Overlaps,
    /// Of an append.
    receipts: HashMap<String, Vec<Receipt>>,
    /// Of the other modes; what the plan has is taken out.
    held: BTreeMap<PartitionKey, Held>,
}

impl Actions {
    async fn new(agent: &Agent, planned: &Planned) -> Result<Actions> {
        let (mut receipts, mut held) = (HashMap::<_, Vec<_>>::new(), BTreeMap::new());
        let (sides, mut overlaps) = (planned.sides(agent), planned.overlaps());
        if let Mode::Append { .. } = planned.job.mode {
            let request = sides.digest_request(Vec::new(), true)?;
            let mut digests = planned.link.digests(request).await?;
            while let Some((reply, receipt)) = digests.next().await? {
                planned.check_receipt(&mut overlaps, receipt.as_ref())?;
                receipts.entry(reply.key).or_default().extend(receipt);
            }
        } else {
            let mut holdings = sides.holdings().await?;
            while let Some(page) = holdings.next().await? {
                held.extend(page.into_iter().map(|held| (held.key.clone(), held)));
            }
        }
        Ok(Actions {
            job: planned.job.clone(),
            overlaps,
            receipts,
            held,
        })
    }

    fn of(&mut self, partition: &Partition) -> &'static str {
        let held = self.held.remove(&partition.key);
        match self.job.mode {
            Mode::Append { .. } => {
                let of_key = self.receipts.get(&partition.key.to_string());
                let found = of_key
                    .into_iter()
                    .flatten()
                    .map(|receipt| earlier(&self.job, &mut self.overlaps, partition, receipt))
                    .max();
                match found {
                    None | Some(Earlier::Others) => "copy",
                    Some(Earlier::Refused(_)) => "refused",
                    Some(Earlier::Already) => "already",
                }
            }
            Mode::Replace if held.as_ref().is_some_and(|held| held.version.is_some()) => "replace",
            Mode::Replace => "copy",
            Mode::Mirror { check, .. } => match held {
                None => "copy",
                Some(held) => match look(check, &mut self.overlaps, partition, &held) {
                    Look::Equal(_) => "already",
                    Look::Copy if held.version.is_none() => "copy",
                    Look::Copy => "replace",
                    Look::Read(_) => "compare",
                    Look::Newer(_) => "refused",
                },
            },
        }
    }

    /// What only B has, where that matters.
    fn extras(self) -> Vec<Held> {
        let spec = &self.job.spec;
        let mirrors = matches!(self.job.mode, Mode::Mirror { .. }) && spec.is_of_all();
        let extras = self.held.into_values().filter(|held| {
            mirrors
                && held.version.is_some()
                && !self.overlaps.excludes(&held.key)
                && spec.partitions.fit(&held.key)
        });
        extras.collect()
    }
}

fn summary(
    agent: &Agent,
    planned: &Planned,
    asked: u32,
    bandwidth_max: Option<u64>,
) -> v1::PlanSummary {
    let streams = planned.streams(agent, asked);
    let reply = &planned.reply;
    let columns = planned
        .wanted
        .schema
        .fields()
        .iter()
        .map(|field| v1::PlanColumn {
            name: field.name().clone(),
            r#type: field.data_type().to_string(),
            nullable: field.is_nullable(),
        });
    v1::PlanSummary {
        selection: planned.job.resolved.clone(),
        now: planned.job.now,
        created: reply.created.clone(),
        notes: reply.notes.clone(),
        value_rules: reply.value_rules.clone(),
        warnings: planned.warnings.clone(),
        atomic: reply.atomic,
        streams: streams.admitted,
        streams_admitted_source: streams.source,
        streams_admitted_sink: streams.sink,
        stream_bytes_source: streams.source_bytes,
        stream_bytes_sink: reply.stream_bytes,
        memory_bytes_source: agent.config.memory_bytes,
        memory_bytes_sink: reply.memory_bytes,
        free_bytes_sink: reply.free_bytes,
        release_source: strait_proto::RELEASE.to_owned(),
        release_sink: reply.release.clone(),
        columns: columns.collect(),
        mapping: reply.columns.clone(),
        compression: agent.config.compression.to_string(),
        bandwidth_max,
        rows_because: planned.rows_because.unwrap_or_default().to_owned(),
    }
}
