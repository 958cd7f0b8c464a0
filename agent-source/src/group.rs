//! A group: the runs of one request for several tables, begun one after another, or some at a time, watched and ended as one.
//!
//! A run still owns one table, with a claim, a plan and a ledger of its own: a group only begins runs and waits for them. What it has begun is in the store before it is
//! begun, so that it goes on by itself after a restart. The failure of one table does not stop the others. Memory is bounded by the agent's budget, whatever is begun.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strait_common::clock::now_ns;
use strait_common::ids::{GroupId, RunId};
use strait_common::shutdown::Shutdown;
use strait_common::{Error, Kind, Result};
use strait_jobs::book::{Ended, How};
use strait_proto::v1;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::asked::{Asked, Terms};
use crate::job::{Mode, Spec};
use crate::pattern::{Pattern, is_pattern};
use crate::plan::{self, Started};
use crate::resume;
use crate::runner::{Limits, Live};
use crate::runs::{GroupRow, Member, PartitionState, Request, RunRow, Status};

/// Why a group failed, in how many characters at most.
const WHY_CHARS_MAX: usize = 2000;
/// Tables that a group copies at a time at most, whatever is asked for.
const TABLES_AT_A_TIME_MAX: u32 = 16;

/// A group under way.
#[derive(Debug)]
pub struct LiveGroup {
    /// Which.
    pub id: GroupId,
    /// Stops this group alone: a drain begins no more tables.
    shutdown: Shutdown,
    /// How it is to stand once it has stopped, if somebody asked for the stop.
    asked: Mutex<Option<Status>>,
    /// A std mutex: held for look-ups only.
    within: Mutex<Within>,
    over: CancellationToken,
}

/// The limits that a group keeps to, and its runs that do.
#[derive(Debug, Default)]
struct Within {
    limits: Limits,
    runs: Vec<Arc<Live>>,
}

impl LiveGroup {
    /// One that nobody has asked to stop.
    pub fn new(id: GroupId, shutdown: Shutdown) -> LiveGroup {
        LiveGroup {
            id,
            shutdown,
            asked: Mutex::default(),
            within: Mutex::default(),
            over: CancellationToken::new(),
        }
    }

    /// Begins no more tables, and stops softly those under way: the group is paused.
    pub fn pause(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Status::Paused);
        self.shutdown.drain();
    }

    /// Begins no more tables, and stops those under way.
    pub fn cancel(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Status::Cancelled);
        self.shutdown.cancel();
    }

    /// Goes on within these limits: the runs that are under way, and those that begin later.
    pub fn limit(&self, limits: Limits) {
        let mut within = self.within();
        within.limits = limits;
        within.runs.iter().for_each(|run| run.limit(limits));
    }

    /// A run of it is under way.
    fn has(&self, run: &Arc<Live>) {
        let mut within = self.within();
        run.limit(within.limits);
        within.runs.push(Arc::clone(run));
    }

    /// A run of it is over.
    fn lets_go_of(&self, run: &Arc<Live>) {
        self.within().runs.retain(|live| !Arc::ptr_eq(live, run));
    }

    fn within(&self) -> MutexGuard<'_, Within> {
        self.within.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody drives it any more.
    pub(crate) fn is_over(&self) {
        self.over.cancel();
    }

    fn asked(&self) -> Option<Status> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is not driven any more. Cancel-safe.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }
}

/// The tables that are asked for, and where each goes: those of a pattern, or the one.
///
/// # Errors
/// `Config` if nothing is named; what the source says.
pub async fn expand(
    agent: &Agent,
    from: &str,
    to: &str,
    include: &[String],
    exclude: &[String],
) -> Result<Vec<(crate::job::Place, crate::job::Place)>> {
    let selectors = v1::Selectors {
        from: from.to_owned(),
        to: to.to_owned(),
        ..v1::Selectors::default()
    };
    if !is_pattern(from) && !is_pattern(to) {
        if !include.is_empty() || !exclude.is_empty() {
            return Err(Error::config(
                "--include and --exclude choose among the tables that a * in --from names; write a *, or leave them out",
            ));
        }
        let Spec { from, to, .. } = Spec::try_from(selectors)?;
        return Ok(vec![(from, to)]);
    }
    let pattern = Pattern::read(from, to, include, exclude)?;
    let tables = agent.source(&pattern.store)?.tables().await?;
    pattern.expand(&tables)
}

/// Whether the two sides name tables, whatever tables there are.
///
/// # Errors
/// `Config`, saying what to write.
fn check_names(from: &str, to: &str, include: &[String], exclude: &[String]) -> Result<()> {
    if is_pattern(from) || is_pattern(to) || !include.is_empty() || !exclude.is_empty() {
        return Pattern::read(from, to, include, exclude).map(|_| ());
    }
    let selectors = v1::Selectors {
        from: from.to_owned(),
        to: to.to_owned(),
        ..v1::Selectors::default()
    };
    Spec::try_from(selectors).map(|_| ())
}

/// Whether this agent has the store and the sink.
///
/// # Errors
/// `Config`, naming those there are.
fn check_places(agent: &Agent, from: &str, to: &str) -> Result<()> {
    let name = |place: &str| {
        place
            .split([':', '/'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    agent.source(&name(from))?;
    agent.link(&name(to)).map(|_| ())
}

/// Stores a group and begins to drive it. One that is stored already goes on as it is.
///
/// # Errors
/// As [`expand`]; `Config` if a limit makes no sense; `Unavailable` if the store cannot be written.
pub async fn start(
    agent: &Arc<Agent>,
    id: GroupId,
    request: Request,
    include: &[String],
    exclude: &[String],
) -> Result<GroupRow> {
    let (store, known) = (agent.open_store()?, id);
    let found = agent.cpu.run(move || store.group(known)).await?;
    let group = match found {
        Some(group) => group,
        None => {
            plan::check_bandwidth(agent, request.terms.bandwidth_max)?;
            let tables = expand(agent, &request.from, &request.to, include, exclude).await?;
            agent.link(&tables[0].1.name)?;
            let member = |(from, to)| Member {
                from,
                to,
                run: RunId::random(),
                message: String::new(),
                kind: None,
            };
            let group = GroupRow {
                id,
                request,
                status: Status::Running,
                created_at: agent.now_s(),
                ended_at: 0,
                members: tables.into_iter().map(member).collect(),
            };
            let (mut store, stored) = (agent.open_store()?, group.clone());
            agent.cpu.run(move || store.insert_group(&stored)).await?;
            tracing::info!(group = %id, from = %group.request.from, to = %group.request.to, tables = group.members.len(), "group begun");
            group
        }
    };
    if group.status.is_active() {
        agent.drive_group(&group, false);
    }
    Ok(group)
}

/// What an operator, a job or another agent asks for, and the id that its group gets.
///
/// # Errors
/// `Config` if it makes no sense.
pub fn asked_for(request: v1::StartGroupRequest) -> Result<(GroupId, Request)> {
    let run = request.run.unwrap_or_default();
    let selectors = run.selectors.clone().unwrap_or_default();
    if !selectors.partitions.is_empty() || !selectors.receipts.is_empty() {
        return Err(Error::config(
            "--partitions and --receipts are of one table; name it, or leave them out",
        ));
    }
    let id = match request.id.as_str() {
        "" => GroupId::random(),
        id => id.parse()?,
    };
    let request = Request {
        from: selectors.from,
        to: selectors.to,
        terms: Terms::try_from(run)?,
        now: request.now.unwrap_or_else(now_ns),
        exact_now: request.now.is_some(),
        tables_max: request.tables_max,
        also: request.also,
        lookback: request.lookback,
    };
    Ok((id, request))
}

/// Whether a group like this could be begun, as far as the configuration tells.
///
/// # Errors
/// `Config`, saying what to write.
pub fn check(agent: &Agent, request: v1::StartGroupRequest) -> Result<()> {
    let (include, exclude) = (request.include.clone(), request.exclude.clone());
    let (_, request) = asked_for(request)?;
    check_names(&request.from, &request.to, &include, &exclude)?;
    plan::check_bandwidth(agent, request.terms.bandwidth_max)?;
    check_places(agent, &request.from, &request.to)
}

/// How a group has ended, for who began it unattended; `None` if it has not.
///
/// # Errors
/// `Internal` if there is none; `Corrupt` or `Unavailable` if it cannot be read.
pub async fn outcome(agent: &Agent, id: GroupId) -> Result<Option<Ended>> {
    let store = agent.open_store()?;
    let read = move || {
        let Some(group) = store.group(id)? else {
            return Err(Error::internal(format!("group {id} is not stored")));
        };
        let (mut temporary, mut why) = (true, Vec::new());
        for member in &group.members {
            let run = store.run(member.run)?;
            if standing(member, run.as_ref()) == Status::Done {
                continue;
            }
            let (kinds, message) = match &run {
                Some(run) if run.status == Status::Partial => {
                    let failed = PartitionState::Failed;
                    let failed = store.partitions(run.id, Some(failed), 0, 100)?;
                    let kinds = failed.iter().map(|partition| partition.kind).collect();
                    let first = failed.first();
                    let first = first.map(|partition| {
                        format!("{}: {}", partition.partition.key.label(), partition.message)
                    });
                    (kinds, first.unwrap_or_default())
                }
                run => of_run(member, run.as_ref()),
            };
            let can_help = |kind: Option<Kind>| kind.is_some_and(Kind::is_temporary);
            temporary &= !kinds.is_empty() && kinds.into_iter().all(can_help);
            why.push(format!("{}: {message}", member.to));
        }
        let message: String = why.join("; ").chars().take(WHY_CHARS_MAX).collect();
        let how = match group.status {
            Status::Planned | Status::Running => return Ok(None),
            Status::Done => How::Done,
            Status::Paused => How::Paused,
            Status::Cancelled | Status::Abandoned => How::Cancelled,
            Status::Partial => How::Partial { temporary },
            Status::Failed => How::Failed { temporary },
        };
        Ok(Some(Ended { how, message }))
    };
    agent.cpu.run(read).await
}

fn of_run(member: &Member, run: Option<&RunRow>) -> (Vec<Option<Kind>>, String) {
    match run {
        Some(run) if run.message.is_empty() => {
            (vec![run.kind], format!("its run is {}", run.status.name()))
        }
        Some(run) => (vec![run.kind], run.message.clone()),
        None => (vec![member.kind], member.message.clone()),
    }
}

/// Goes on with what a group has not done: runs that can are resumed, others begun anew.
///
/// # Errors
/// `Unavailable` if the store cannot be written.
pub async fn go_on(agent: &Arc<Agent>, group: &GroupRow) -> Result<()> {
    if let Some(live) = agent.live_group(group.id) {
        if group.status.is_active() {
            return Ok(());
        }
        // It has ended, and is about to be let go of.
        live.over().await;
    }
    let id = group.id;
    let members = group.members.clone();
    let store = agent.open_store()?;
    let work = move || {
        for member in &members {
            let run = store.run(member.run)?;
            let anew = run
                .as_ref()
                .is_some_and(|run| run.status != Status::Done && !resume::can_go_on(run));
            if anew || !member.message.is_empty() {
                let member = Member {
                    run: if anew { RunId::random() } else { member.run },
                    message: String::new(),
                    kind: None,
                    ..member.clone()
                };
                store.update_member(id, &member)?;
            }
        }
        store.update_group(id, Status::Running, 0)?;
        store.group(id)
    };
    let group = agent.cpu.run(work).await?;
    let group = group.ok_or_else(|| Error::internal(format!("group {id} is not stored")))?;
    agent.drive_group(&group, true);
    Ok(())
}

/// Drives a group until all its tables have come to an end, or somebody stops it. Never fails: how it ended is in the store.
/// `again` says that runs which have ended go on where they can.
pub async fn drive(agent: Arc<Agent>, live: Arc<LiveGroup>, group: GroupRow, again: bool) {
    let at_a_time = group.request.tables_max.clamp(1, TABLES_AT_A_TIME_MAX) as usize;
    let mut waiting: VecDeque<Member> = group.members.iter().cloned().collect();
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < at_a_time && !live.shutdown.is_draining() {
            let Some(member) = waiting.pop_front() else {
                break;
            };
            let (agent, live, request) =
                (Arc::clone(&agent), Arc::clone(&live), group.request.clone());
            under_way.spawn(async move { table(&agent, &live, request, member, again).await });
        }
        match under_way.join_next().await {
            None => break,
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::error!(group = %live.id, %error, "a table's task"),
        }
    }
    if let Err(error) = end(&agent, &live).await {
        tracing::error!(group = %live.id, %error, "the end of the group could not be stored; it goes on at the next start");
    }
}

/// Writes how a group has ended. One that only the agent's own stop has ended goes on at the next start.
async fn end(agent: &Agent, live: &LiveGroup) -> Result<()> {
    let (store, id, asked) = (agent.open_store()?, live.id, live.asked());
    let (stopped, now) = (live.shutdown.is_draining(), agent.now_s());
    let work = move || {
        let Some(group) = store.group(id)? else {
            return Ok(());
        };
        let mut stands = Vec::with_capacity(group.members.len());
        for member in &group.members {
            stands.push(standing(member, store.run(member.run)?.as_ref()));
        }
        let status = verdict(&stands, asked);
        if status.is_active() && stopped {
            return Ok(());
        }
        tracing::info!(group = %id, status = status.name(), "group ended");
        store.update_group(id, status, now)
    };
    agent.cpu.run(work).await
}

/// How a table of a group stands: as its run does, `Failed` where none could be begun, `Planned` where it waits.
pub fn standing(member: &Member, run: Option<&RunRow>) -> Status {
    match run {
        Some(run) => run.status,
        None if member.message.is_empty() => Status::Planned,
        None => Status::Failed,
    }
}

/// How a group has ended, by how its tables stand: done if all are, failed if nothing of any is, else partial. What waits still was stopped.
pub fn verdict(tables: &[Status], asked: Option<Status>) -> Status {
    let all = |is: fn(Status) -> bool| tables.iter().all(|status| is(*status));
    if all(|status| status == Status::Done) {
        return Status::Done;
    }
    if tables.iter().any(|status| status.is_active()) {
        return asked.unwrap_or(Status::Running);
    }
    if let Some(asked) = asked
        && tables.contains(&asked)
    {
        return asked;
    }
    match all(|status| !matches!(status, Status::Done | Status::Partial)) {
        true => Status::Failed,
        false => Status::Partial,
    }
}

/// Brings one table of a group to its end, or to where it was stopped.
async fn table(
    agent: &Arc<Agent>,
    live: &LiveGroup,
    request: Request,
    mut member: Member,
    again: bool,
) {
    match begin(agent, live.id, request, &mut member, again).await {
        Ok(Some(run)) => {
            live.has(&run);
            tokio::select! {
                () = run.over() => return live.lets_go_of(&run),
                () = live.shutdown.draining() => {}
            }
            // The agent's own stop reaches the run by itself, and it goes on at the next start.
            match live.asked() {
                Some(Status::Cancelled) => run.cancel(),
                Some(_) => run.pause(),
                None => {}
            }
            let cancelled = async {
                live.shutdown.cancelled().await;
                if live.asked() == Some(Status::Cancelled) {
                    run.cancel();
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = run.over() => {}
                () = cancelled => {}
            }
            live.lets_go_of(&run);
        }
        Ok(None) => {}
        Err(error) if agent.shutdown.is_draining() => {
            tracing::info!(group = %live.id, to = %member.to, %error, "not begun; the agent stops");
        }
        Err(error) => {
            tracing::warn!(group = %live.id, to = %member.to, %error, "a table of the group could not be begun");
            (member.message, member.kind) = (error.to_string(), Some(error.kind()));
            if let Err(error) = write(agent, live.id, &member).await {
                tracing::error!(group = %live.id, %error, "why could not be stored");
            }
        }
    }
}

/// Begins the run of a table, or goes on with it. `None` if nothing is left to do.
async fn begin(
    agent: &Arc<Agent>,
    group: GroupId,
    request: Request,
    member: &mut Member,
    again: bool,
) -> Result<Option<Arc<Live>>> {
    let (store, id) = (agent.open_store()?, member.run);
    let known = agent.cpu.run(move || store.run(id)).await?;
    if let Some(row) = known {
        let goes_on = row.status.is_active() || (again && resume::can_go_on(&row));
        if !goes_on {
            return Ok(None);
        }
        return resume::run(agent, &row).await;
    }
    let asked = Asked {
        id,
        spec: Spec {
            from: member.from.clone(),
            to: member.to.clone(),
            selection: request.terms.selection.clone(),
            narrow: request.terms.narrow.clone(),
            partitions: Default::default(),
            receipts: None,
            pass_through: request.terms.pass_through,
        },
        terms: request.terms,
        now: request.now,
        exact_now: request.exact_now,
        also: request.also,
        lookback: request.lookback,
    };
    let mut started = plan::start(agent, asked.clone()).await?;
    if let Started::Owned(owner, _) = &started
        && gives_way(agent, *owner, &asked).await?
    {
        started = plan::start(agent, asked).await?;
    }
    let row = match started {
        Started::New(row) | Started::Attached(row) => row,
        // It may be a run of the job's own, of the night before: it comes to its end, and then this one can begin.
        Started::Owned(_, why) => return Err(Error::new(Kind::Fenced, why)),
    };
    if row.id != member.run {
        member.run = row.id;
        write(agent, group, member).await?;
    }
    Ok(agent.live(row.id))
}

/// Gives up a run of this agent's own that owns the target and cannot go on by itself, as when A's table is not any more what was planned: who comes unattended, and
/// makes B what the same table is, does what it has left. Of an append, rows would be lost.
async fn gives_way(agent: &Arc<Agent>, owner: RunId, asked: &Asked) -> Result<bool> {
    let makes_rows_equal = |mode: &Mode| !matches!(mode, Mode::Append { .. });
    let store = agent.open_store()?;
    let row = match asked.exact_now && makes_rows_equal(&asked.terms.mode) {
        true => agent.cpu.run(move || store.run(owner)).await?,
        false => None,
    };
    let cannot_go_on = |row: &RunRow| {
        let job = &row.job;
        row.status == Status::Failed
            && row.kind.is_some_and(|kind| !kind.is_temporary())
            && makes_rows_equal(&job.mode)
            && job.spec.from == asked.spec.from
            && job.spec.selection.columns == asked.spec.selection.columns
            && agent.live(owner).is_none()
    };
    let Some(row) = row.filter(cannot_go_on) else {
        return Ok(false);
    };
    tracing::warn!(run = %owner, why = %row.message, "given up: it could not go on, and another one makes up for it");
    let to = row.job.spec.to.clone();
    plan::give_up(agent, row, &to).await?;
    Ok(true)
}

async fn write(agent: &Agent, id: GroupId, member: &Member) -> Result<()> {
    let (store, member) = (agent.open_store()?, member.clone());
    agent
        .cpu
        .run(move || store.update_member(id, &member))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_ends_as_its_tables_do() {
        use Status::{Cancelled, Done, Failed, Partial, Paused, Planned, Running};
        let ends: [(&[Status], Option<Status>, Status); 10] = [
            (&[Done, Done], None, Done),
            (&[Done, Failed], None, Partial),
            (&[Partial, Failed], None, Partial),
            (&[Failed, Failed], None, Failed),
            (&[Failed, Running], None, Running),
            (&[Done, Planned], Some(Cancelled), Cancelled),
            (&[Done, Cancelled], Some(Cancelled), Cancelled),
            (&[Done, Paused, Planned], Some(Paused), Paused),
            // Somebody has stopped one run of it by hand.
            (&[Done, Paused], None, Partial),
            // The stop came too late.
            (&[Done, Done], Some(Paused), Done),
        ];
        for (tables, asked, end) in ends {
            assert_eq!(verdict(tables, asked), end, "{tables:?} {asked:?}");
        }
    }
}
