//! The jobs of an agent at work: looks at each book when it is due, writes down what it has decided, and only then does it.
//!
//! The wall clock is read here and nowhere else in the schedule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use strait_common::{Error, Result};
use tokio::sync::{Mutex, MutexGuard, Notify};

use super::book::{Act, Book, Ended, How, Start, Told};
use super::file::JobFile;
use super::notify;
use crate::agent::Agent;
use crate::group;
use crate::runner::Limits;
use crate::runs::{GroupId, JobRow, Member, RunRow, Status};

/// Starts of a job that are read when the agent starts.
const STARTS_READ: u32 = 200;
/// Jobs of an agent at most.
const JOBS_MAX: usize = 1000;
/// Why a table failed, in how many characters at most.
const WHY_CHARS_MAX: usize = 2000;

/// The jobs.
#[derive(Debug, Default)]
pub struct Desk {
    jobs: Mutex<BTreeMap<String, Kept>>,
    /// Something is to be looked at sooner.
    changed: Notify,
    /// The instant of the last look.
    looked_at: AtomicI64,
}

/// One job.
#[derive(Debug)]
pub struct Kept {
    /// Its file, as it was applied.
    pub text: String,
    /// What that says.
    pub file: JobFile,
    /// When it was applied.
    pub applied_at: i64,
    /// Its starts.
    pub book: Book,
}

impl Kept {
    /// What its runs must keep to at an instant.
    fn limits(&self, at: i64) -> Limits {
        let zone = self.file.rules.zone;
        let bandwidth_max = self.file.bandwidth_max.as_ref();
        let streams = self.file.streams_max.as_ref();
        Limits {
            bandwidth_max: bandwidth_max.map(|limit| limit.at(zone, at).0),
            streams: streams.map(|limit| limit.at(zone, at)),
        }
    }

    fn row(&self) -> JobRow {
        JobRow {
            name: self.file.name.clone(),
            file: self.text.clone(),
            enabled: self.book.is_enabled(),
            cursor: self.book.cursor(),
            applied_at: self.applied_at,
        }
    }
}

/// What an apply has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// There was no such job.
    New,
    /// It says something else now.
    Changed,
    /// It says the same.
    Same,
}

impl Applied {
    /// The word for people and machines.
    pub fn name(self) -> &'static str {
        match self {
            Applied::New => "new",
            Applied::Changed => "changed",
            Applied::Same => "unchanged",
        }
    }
}

impl Desk {
    /// The jobs, for as long as nothing else happens to them.
    pub async fn jobs(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.jobs.lock().await
    }

    /// The instant of the last look at the books, in seconds since 1970; what was due then has begun.
    pub fn looked_at(&self) -> i64 {
        self.looked_at.load(Ordering::Acquire)
    }

    /// Asks for a look at the books.
    pub fn look(&self) {
        self.changed.notify_one();
    }
}

fn unknown(name: &str, jobs: &BTreeMap<String, Kept>) -> Error {
    let names: Vec<&str> = jobs.keys().take(20).map(String::as_str).collect();
    Error::config(format!(
        "there is no job '{name}'; {}",
        match names.as_slice() {
            [] => "`strait job apply FILE` makes one".to_owned(),
            names => format!("this agent has {}", names.join(", ")),
        }
    ))
}

/// Reads the jobs of an earlier start of the agent, and goes on with what was under way.
///
/// # Errors
/// `Corrupt` or `Unavailable` if the store cannot be read.
pub async fn load(agent: &Arc<Agent>) -> Result<()> {
    let store = agent.open_store()?;
    let read = move || {
        let mut read = Vec::new();
        for job in store.jobs()? {
            let starts = store.starts(&job.name, STARTS_READ)?;
            read.push((job, starts));
        }
        Ok(read)
    };
    let read = agent.cpu.run(read).await?;
    let mut resumed = Vec::new();
    let mut jobs = agent.desk.jobs().await;
    for (job, starts) in read {
        let file = match JobFile::read(&job.file) {
            Ok(file) => file,
            // Its calendar may be gone; the others go on.
            Err(error) => {
                tracing::error!(job = %job.name, %error, "the job cannot be read any more, and does not start; apply it again");
                continue;
            }
        };
        let book = Book::new(
            &job.name,
            file.rules.clone(),
            job.enabled,
            job.cursor,
            starts,
        );
        agent.metrics.knows(&job.name);
        resumed.extend(book.resume().map(|act| (job.name.clone(), act)));
        let kept = Kept {
            text: job.file,
            file,
            applied_at: job.applied_at,
            book,
        };
        jobs.insert(job.name, kept);
    }
    for (name, act) in resumed {
        tracing::info!(job = %name, "resuming");
        act_on(agent, &jobs, &name, act);
    }
    Ok(())
}

/// Looks at the books whenever one is due, until the agent stops.
pub async fn keep(agent: Arc<Agent>) {
    loop {
        let now = agent.now_s();
        let mut wake_at = now + 60;
        {
            let mut jobs = agent.desk.jobs().await;
            let names: Vec<String> = jobs.keys().cloned().collect();
            for name in names {
                let Some(kept) = jobs.get_mut(&name) else {
                    continue;
                };
                let before = kept.book.clone();
                let acts = kept.book.tick(now, &mut GroupId::random);
                if let Err(error) = write(&agent, &name, kept).await {
                    // What is not written down is not decided.
                    tracing::error!(job = %name, %error, "what is due cannot be written down; it is looked at again");
                    kept.book = before;
                    continue;
                }
                wake_at = wake_at.min(kept.book.wake_at(now));
                let running = kept.book.running().and_then(|start| start.group);
                if let Some(live) = running.and_then(|group| agent.live_group(group)) {
                    live.limit(kept.limits(now));
                    // Windows begin at full minutes.
                    wake_at = wake_at.min(now + 60 - now.rem_euclid(60));
                }
                for act in acts {
                    act_on(&agent, &jobs, &name, act);
                }
            }
        }
        agent.desk.looked_at.store(now, Ordering::Release);
        // To the second, as schedules are.
        let wait = Duration::from_secs(u64::try_from(wake_at - now).unwrap_or(1).clamp(1, 60));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = agent.desk.changed.notified() => {}
            () = agent.shutdown.draining() => return,
        }
    }
}

async fn write(agent: &Agent, name: &str, kept: &mut Kept) -> Result<()> {
    let Some(changes) = kept.book.changes() else {
        return Ok(());
    };
    let (mut store, name) = (agent.open_store()?, name.to_owned());
    agent
        .cpu
        .run(move || store.write_starts(&name, &changes))
        .await
}

/// Does what a book has decided, on a task of the agent's.
fn act_on(agent: &Arc<Agent>, jobs: &BTreeMap<String, Kept>, name: &str, act: Act) {
    let Some(kept) = jobs.get(name) else {
        return;
    };
    // What an earlier process of the agent has begun is looked at, not begun again.
    let resumed = matches!(act, Act::Begin { .. });
    match act {
        Act::Begin { at, group, nows } | Act::GoOn { at, group, nows } => {
            let mut request = kept.file.request(&nows);
            let limits = kept.limits(agent.now_s());
            request.terms.bandwidth_max = limits.bandwidth_max;
            if let Some(streams) = limits.streams {
                request.terms.streams = streams;
            }
            let (include, exclude) = (kept.file.include.clone(), kept.file.exclude.clone());
            tracing::info!(job = %name, %group, scheduled_for = at, starts = nows.len(), "job begins, or goes on");
            let begun_by = Arc::clone(agent);
            let begin = async move {
                let store = begun_by.open_store()?;
                match begun_by.cpu.run(move || store.group(group)).await? {
                    // Under way before the agent's restart, or ended since.
                    Some(row) if resumed || row.status.is_active() => {
                        begun_by.drive_group_if_active(&row);
                        Ok(())
                    }
                    Some(row) => group::go_on(&begun_by, &row).await,
                    None => {
                        group::start(&begun_by, group, request, &include, &exclude).await?;
                        Ok(())
                    }
                }
            };
            follow(agent, name, at, group, begin);
        }
        Act::Pause { group } => {
            if let Some(live) = agent.live_group(group) {
                tracing::info!(job = %name, %group, "the deadline is over; what is under way is checkpointed, and nothing more begins");
                live.pause();
            }
        }
        Act::Tell(told) => tell(agent, kept, &told),
    }
}

fn tell(agent: &Arc<Agent>, kept: &Kept, told: &Told) {
    tracing::info!(job = %kept.file.name, event = told.event.name(), scheduled_for = told.at, message = %told.message, "job");
    agent.metrics.told(&kept.file.name, told.event);
    let text = notify::text(&kept.file, told, agent.now_s());
    for target in kept
        .file
        .notify
        .iter()
        .filter(|target| target.on.contains(&told.event))
    {
        let (way, text, name) = (target.way.clone(), text.clone(), kept.file.name.clone());
        let (shutdown, metrics) = (agent.shutdown.clone(), Arc::clone(&agent.metrics));
        agent.answers.spawn(async move {
            tokio::select! {
                sent = notify::send(&name, &way, &text) => {
                    if !sent {
                        metrics.notifications_failed.inc();
                    }
                }
                () = shutdown.cancelled() => {}
            }
        });
    }
}

/// Begins, waits for the end, and tells the book.
fn follow(
    agent: &Arc<Agent>,
    name: &str,
    at: i64,
    group: GroupId,
    begin: impl Future<Output = Result<()>> + Send + 'static,
) {
    let (agent, name) = (Arc::clone(agent), name.to_owned());
    let tasks = agent.answers.clone();
    tasks.spawn(async move {
        let begun = begin.await;
        if begun.is_ok()
            && let Some(live) = agent.live_group(group)
        {
            live.over().await;
        }
        let ended = match begun {
            Ok(()) => outcome(&agent, group).await,
            Err(error) if agent.shutdown.is_draining() => {
                tracing::info!(job = %name, %error, "not begun; the agent stops");
                return;
            }
            Err(error) => Ok(Some(Ended {
                how: How::Failed {
                    temporary: group::is_temporary(Some(error.kind())),
                },
                message: error.to_string(),
            })),
        };
        let ended = match ended {
            Ok(Some(ended)) => ended,
            // The agent stops: both go on at the next start.
            Ok(None) => return,
            Err(error) => Ended {
                how: How::Failed { temporary: true },
                message: format!("how it ended cannot be read: {error}"),
            },
        };
        if let Err(error) = over(&agent, &name, at, &ended).await {
            tracing::error!(job = %name, %error, "the end of a start could not be written down; it is looked up at the next start of the agent");
        }
        agent.desk.look();
    });
}

async fn over(agent: &Arc<Agent>, name: &str, at: i64, ended: &Ended) -> Result<()> {
    let mut jobs = agent.desk.jobs().await;
    let Some(kept) = jobs.get_mut(name) else {
        return Ok(());
    };
    let acts = kept.book.ended(at, ended, agent.now_s());
    let written = write(agent, name, kept).await;
    for act in acts {
        act_on(agent, &jobs, name, act);
    }
    written
}

/// How a group has ended; `None` if it has not.
async fn outcome(agent: &Agent, id: GroupId) -> Result<Option<Ended>> {
    let store = agent.open_store()?;
    let read = move || {
        let Some(group) = store.group(id)? else {
            return Err(Error::internal(format!("group {id} is not stored")));
        };
        let (mut temporary, mut why) = (true, Vec::new());
        for member in &group.members {
            let run = store.run(member.run)?;
            if group::standing(member, run.as_ref()) == Status::Done {
                continue;
            }
            let (kinds, message) = match &run {
                Some(run) if run.status == Status::Partial => {
                    let failed = crate::runs::PartitionState::Failed;
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
            temporary &= !kinds.is_empty() && kinds.into_iter().all(group::is_temporary);
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

fn of_run(member: &Member, run: Option<&RunRow>) -> (Vec<Option<strait_common::Kind>>, String) {
    match run {
        Some(run) if run.message.is_empty() => {
            (vec![run.kind], format!("its run is {}", run.status.name()))
        }
        Some(run) => (vec![run.kind], run.message.clone()),
        None => (vec![member.kind], member.message.clone()),
    }
}

/// Stores a job, or says that it is there as it is.
///
/// # Errors
/// `Config` with the line of what is wrong; `Unavailable` if the store cannot be written.
pub async fn apply(agent: &Arc<Agent>, text: &str) -> Result<(String, Applied)> {
    let file = JobFile::read(text)?;
    let name = file.name.clone();
    // What the agent has not is found before the night.
    let frame_bytes_max = agent.config.frame_bytes_max;
    for limit in file.bandwidth_max.iter().flat_map(|limit| limit.values()) {
        crate::pace::check("bandwidth_max", limit.0, frame_bytes_max)?;
    }
    group::check_places(agent, &file.from, &file.to)?;
    let now = agent.now_s();
    let mut jobs = agent.desk.jobs().await;
    let is_full = jobs.len() >= JOBS_MAX;
    let applied = match jobs.get_mut(&name) {
        Some(kept) if kept.file == file => return Ok((name, Applied::Same)),
        Some(kept) => {
            kept.book.change(file.rules.clone(), now);
            (kept.text, kept.applied_at) = (text.to_owned(), now);
            kept.file = file;
            Applied::Changed
        }
        None if is_full => {
            return Err(Error::refused(format!("at most {JOBS_MAX} jobs an agent")));
        }
        None => {
            let book = Book::new(&name, file.rules.clone(), true, now, []);
            let kept = Kept {
                text: text.to_owned(),
                file,
                applied_at: now,
                book,
            };
            jobs.insert(name.clone(), kept);
            agent.metrics.knows(&name);
            Applied::New
        }
    };
    if let Some(kept) = jobs.get(&name) {
        let (store, row) = (agent.open_store()?, kept.row());
        if let Err(error) = agent.cpu.run(move || store.put_job(&row)).await {
            if applied == Applied::New {
                jobs.remove(&name);
                agent.metrics.forgets(&name);
            }
            return Err(error);
        }
    }
    agent.desk.look();
    Ok((name, applied))
}

/// Lets the schedule of a job count, or not.
///
/// # Errors
/// `Config` if there is no such job; `Unavailable` if the store cannot be written.
pub async fn enable(agent: &Arc<Agent>, name: &str, enabled: bool) -> Result<()> {
    let now = agent.now_s();
    let mut jobs = agent.desk.jobs().await;
    let Some(kept) = jobs.get_mut(name) else {
        return Err(unknown(name, &jobs));
    };
    kept.book.enable(enabled, now);
    let (store, row) = (agent.open_store()?, kept.row());
    agent.cpu.run(move || store.put_job(&row)).await?;
    agent.desk.look();
    Ok(())
}

/// Forgets a job and its history. Its runs stay, and what is under way goes on.
///
/// # Errors
/// `Config` if there is no such job; `Unavailable` if the store cannot be written.
pub async fn remove(agent: &Arc<Agent>, name: &str) -> Result<()> {
    let mut jobs = agent.desk.jobs().await;
    if !jobs.contains_key(name) {
        return Err(unknown(name, &jobs));
    }
    let (store, stored) = (agent.open_store()?, name.to_owned());
    agent.cpu.run(move || store.remove_job(&stored)).await?;
    jobs.remove(name);
    agent.metrics.forgets(name);
    Ok(())
}

/// Starts a job now, whatever its schedule says. Answers with its group.
///
/// # Errors
/// `Config` if there is no such job; `Refused` if it is running.
pub async fn run(agent: &Arc<Agent>, name: &str) -> Result<GroupId> {
    let mut jobs = agent.desk.jobs().await;
    let Some(kept) = jobs.get_mut(name) else {
        return Err(unknown(name, &jobs));
    };
    let (before, group) = (kept.book.clone(), GroupId::random());
    let act = kept.book.by_hand(agent.now_s(), group)?;
    if let Err(error) = write(agent, name, kept).await {
        kept.book = before;
        return Err(error);
    }
    act_on(agent, &jobs, name, act);
    Ok(group)
}

/// A job, why it does what it does now, and its newest starts, newest first.
///
/// # Errors
/// `Config` if there is no such job; `Corrupt` if the store cannot be read.
pub async fn look_up(
    agent: &Arc<Agent>,
    name: &str,
    limit: u32,
) -> Result<(strait_proto::v1::Job, Vec<Start>)> {
    let jobs = agent.desk.jobs().await;
    let Some(kept) = jobs.get(name) else {
        return Err(unknown(name, &jobs));
    };
    let job = message(kept, agent.now_s());
    drop(jobs);
    let (store, stored) = (agent.open_store()?, name.to_owned());
    let starts = agent.cpu.run(move || store.starts(&stored, limit)).await?;
    Ok((job, starts))
}

/// A job as operators see it.
pub fn message(kept: &Kept, now: i64) -> strait_proto::v1::Job {
    let rules = kept.book.rules();
    let running = kept.book.running();
    strait_proto::v1::Job {
        name: kept.file.name.clone(),
        file: kept.text.clone(),
        enabled: kept.book.is_enabled(),
        from: kept.file.from.clone(),
        to: kept.file.to.clone(),
        mode: kept.file.terms.mode.name().to_owned(),
        schedule: rules
            .when
            .as_ref()
            .map(|when| when.schedule.to_string())
            .unwrap_or_default(),
        zone: rules.zone.name().to_owned(),
        next_at: kept.book.next_start(now).unwrap_or(0),
        applied_at: kept.applied_at,
        running: running
            .and_then(|start| start.group)
            .map(|group| group.to_string())
            .unwrap_or_default(),
        why: kept.book.why(now),
    }
}

/// A start as operators see it.
pub fn start_message(start: &Start) -> strait_proto::v1::JobStart {
    strait_proto::v1::JobStart {
        at: start.at,
        manual: start.manual,
        state: start.state.name().to_owned(),
        group: start
            .group
            .map(|group| group.to_string())
            .unwrap_or_default(),
        tries: start.tries,
        ready_at: start.ready_at,
        began_at: start.began_at,
        ended_at: start.ended_at,
        message: start.message.clone(),
    }
}
