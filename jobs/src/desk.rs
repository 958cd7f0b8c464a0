//! The jobs of an agent at work: looks at each book when it is due, writes down what it has decided, and only then does it.
//!
//! The wall clock is read here and nowhere else in the schedule.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use strait_common::clock::Clock;
use strait_common::cpu::CpuPool;
use strait_common::ids::GroupId;
use strait_common::metrics::Figures;
use strait_common::shutdown::Shutdown;
use strait_common::{Context, Error, Result};
use strait_proto::v1;
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio_util::task::TaskTracker;

use crate::book::{Act, Book, Ended, How, Start, Told};
use crate::file::{JobFile, Way};
use crate::metrics::{Metrics, write_jobs};
use crate::store::{JobRow, JobStore};
use crate::{Groups, notify};

/// Starts of a job that are read when the agent starts.
const STARTS_READ: u32 = 200;
/// Jobs of an agent at most.
const JOBS_MAX: usize = 1000;

/// The jobs.
#[derive(Debug)]
pub struct Desk {
    jobs: Mutex<BTreeMap<String, Kept>>,
    /// Something is to be looked at sooner.
    changed: Notify,
    /// The instant of the last look.
    looked_at: AtomicI64,
    /// The store's file.
    store: PathBuf,
    /// A connection that stays open: with the last one SQLite removes the files beside the store, and needs room to make them again.
    _open: std::sync::Mutex<JobStore>,
    groups: Arc<dyn Groups>,
    cpu: CpuPool,
    clock: Clock,
    shutdown: Shutdown,
    tasks: TaskTracker,
    runs_commands: bool,
    metrics: Metrics,
}

/// What a desk works with, of its agent's.
#[derive(Clone, Debug)]
pub struct Room {
    /// The file of the job store.
    pub store: PathBuf,
    /// Where the store is read and written.
    pub cpu: CpuPool,
    /// What time it is.
    pub clock: Clock,
    /// The two signals.
    pub shutdown: Shutdown,
    /// What is waited for at a clean stop.
    pub tasks: TaskTracker,
    /// Whether a job may have a program run that tells somebody: where only operators apply jobs.
    pub runs_commands: bool,
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
    /// Whether something of it has been begun and has not come to its end.
    fn has_groups(&self) -> bool {
        let mut starts = self.book.starts();
        starts.any(|start| start.state.is_open() && start.group.is_some())
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
    /// The jobs of the store, read, whose groups are begun by `groups`. What was under way goes on.
    ///
    /// # Errors
    /// `Config` if the store cannot be opened; `Corrupt` or `Unavailable` if it cannot be read.
    pub async fn open(room: Room, groups: Arc<dyn Groups>) -> Result<Arc<Desk>> {
        let desk = Desk {
            jobs: Mutex::default(),
            changed: Notify::new(),
            looked_at: AtomicI64::new(0),
            _open: std::sync::Mutex::new(JobStore::open(&room.store)?),
            store: room.store,
            groups,
            cpu: room.cpu,
            clock: room.clock,
            shutdown: room.shutdown,
            tasks: room.tasks,
            runs_commands: room.runs_commands,
            metrics: Metrics::default(),
        };
        let desk = Arc::new(desk);
        desk.load().await?;
        Ok(desk)
    }

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

    fn now_s(&self) -> i64 {
        self.clock.now_s()
    }

    /// Calls the store where calls may block.
    async fn stored<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut JobStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let path = self.store.clone();
        let work = move || work(&mut JobStore::open(&path)?);
        self.cpu.run(work).await
    }

    /// What the jobs have come to, for the page of metrics.
    pub async fn write_figures(&self, figures: &mut Figures) {
        self.metrics.register(figures);
        write_jobs(figures, self.jobs().await.values(), self.now_s());
    }

    /// Reads the jobs of an earlier start of the agent, and goes on with what was under way.
    async fn load(self: &Arc<Self>) -> Result<()> {
        let read = |store: &mut JobStore| {
            let mut read = Vec::new();
            for job in store.jobs()? {
                let starts = store.starts(&job.name, STARTS_READ)?;
                read.push((job, starts));
            }
            Ok(read)
        };
        let read = self.stored(read).await?;
        let mut resumed = Vec::new();
        let mut jobs = self.jobs().await;
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
            self.metrics.knows(&job.name);
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
            self.act_on(&jobs, &name, act);
        }
        Ok(())
    }

    /// Looks at the books whenever one is due, until the agent stops.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let now = self.now_s();
            let mut wake_at = now + 60;
            {
                let mut jobs = self.jobs().await;
                let names: Vec<String> = jobs.keys().cloned().collect();
                for name in names {
                    let Some(kept) = jobs.get_mut(&name) else {
                        continue;
                    };
                    let before = kept.book.clone();
                    let acts = kept.book.tick(now, &mut GroupId::random);
                    if let Err(error) = self.write(&name, kept).await {
                        // What is not written down is not decided.
                        tracing::error!(job = %name, %error, "what is due cannot be written down; it is looked at again");
                        kept.book = before;
                        continue;
                    }
                    wake_at = wake_at.min(kept.book.wake_at(now));
                    if let Some(group) = kept.book.running().and_then(|start| start.group) {
                        self.groups
                            .limit(&kept.file.source, group, kept.file.limits(now));
                        // Windows begin at full minutes.
                        wake_at = wake_at.min(now + 60 - now.rem_euclid(60));
                    }
                    for act in acts {
                        self.act_on(&jobs, &name, act);
                    }
                }
            }
            self.looked_at.store(now, Ordering::Release);
            // To the second, as schedules are.
            let wait = Duration::from_secs(u64::try_from(wake_at - now).unwrap_or(1).clamp(1, 60));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
                () = self.shutdown.draining() => return,
            }
        }
    }

    async fn write(&self, name: &str, kept: &mut Kept) -> Result<()> {
        let Some(changes) = kept.book.changes() else {
            return Ok(());
        };
        let name = name.to_owned();
        self.stored(move |store| store.write_starts(&name, &changes))
            .await
    }

    /// Does what a book has decided, on a task of the agent's.
    fn act_on(self: &Arc<Self>, jobs: &BTreeMap<String, Kept>, name: &str, act: Act) {
        let Some(kept) = jobs.get(name) else {
            return;
        };
        // What an earlier process of the agent has begun is looked at, not begun again.
        let again = matches!(act, Act::GoOn { .. });
        match act {
            Act::Begin { at, group, nows } | Act::GoOn { at, group, nows } => {
                tracing::info!(job = %name, %group, scheduled_for = at, starts = nows.len(), "job begins, or goes on");
                let limits = kept.file.limits(self.now_s());
                let request = kept.file.request(group, &nows, limits);
                let (desk, source) = (Arc::clone(self), kept.file.source.clone());
                let name = name.to_owned();
                self.tasks.spawn(async move {
                    let ended = desk.follow(&name, &source, group, request, again).await;
                    let Some(ended) = ended else {
                        return;
                    };
                    if let Err(error) = desk.over(&name, at, &ended).await {
                        tracing::error!(job = %name, %error, "the end of a start could not be written down; it is looked up at the next start of the agent");
                    }
                    desk.look();
                });
            }
            Act::Pause { group } => {
                tracing::info!(job = %name, %group, "the deadline is over; what is under way is checkpointed, and nothing more begins");
                self.groups.pause(&kept.file.source, group);
            }
            Act::Tell(told) => self.tell(kept, &told),
        }
    }

    fn tell(&self, kept: &Kept, told: &Told) {
        tracing::info!(job = %kept.file.name, event = told.event.name(), scheduled_for = told.at, message = %told.message, "job");
        self.metrics.told(&kept.file.name, told.event);
        let text = notify::text(&kept.file, told, self.now_s());
        for target in kept
            .file
            .notify
            .iter()
            .filter(|target| target.on.contains(&told.event))
        {
            let (way, text, name) = (target.way.clone(), text.clone(), kept.file.name.clone());
            let (shutdown, failed) = (
                self.shutdown.clone(),
                self.metrics.notifications_failed.clone(),
            );
            self.tasks.spawn(async move {
                tokio::select! {
                    sent = notify::send(&name, &way, &text) => {
                        if !sent {
                            failed.inc();
                        }
                    }
                    () = shutdown.cancelled() => {}
                }
            });
        }
    }

    /// Begins a group and waits for its end. `None` if the agent stops: it goes on at the next start.
    async fn follow(
        &self,
        name: &str,
        source: &str,
        group: GroupId,
        request: v1::StartGroupRequest,
        again: bool,
    ) -> Option<Ended> {
        match self.groups.begin(source, request, again).await {
            Ok(()) => {}
            Err(error) if self.shutdown.is_draining() => {
                tracing::info!(job = %name, %error, "not begun; the agent stops");
                return None;
            }
            Err(error) => {
                return Some(Ended {
                    how: How::Failed {
                        temporary: error.kind().is_temporary(),
                    },
                    message: error.to_string(),
                });
            }
        }
        let ended = self.groups.ended(source, group).await;
        ended.unwrap_or_else(|error| {
            Some(Ended {
                how: How::Failed { temporary: true },
                message: format!("how it ended cannot be read: {error}"),
            })
        })
    }

    async fn over(self: &Arc<Self>, name: &str, at: i64, ended: &Ended) -> Result<()> {
        let mut jobs = self.jobs().await;
        let Some(kept) = jobs.get_mut(name) else {
            return Ok(());
        };
        let acts = kept.book.ended(at, ended, self.now_s());
        let written = self.write(name, kept).await;
        for act in acts {
            self.act_on(&jobs, name, act);
        }
        written
    }

    /// Stores a job, or says that it is there as it is.
    ///
    /// # Errors
    /// `Config` with the line of what is wrong; what [`Groups::check`] says; `Unavailable` if the store cannot be written.
    pub async fn apply(&self, text: &str) -> Result<(String, Applied)> {
        let file = JobFile::read(text)?;
        let name = file.name.clone();
        if matches!(self.jobs().await.get(&name), Some(kept) if kept.file == file) {
            return Ok((name, Applied::Same));
        }
        let is_command = |target: &crate::file::Notify| matches!(target.way, Way::Command(_));
        if !self.runs_commands && file.notify.iter().any(is_command) {
            return Err(Error::config(
                "notify: command is not of a job at a sink agent, as whoever may send rows to it may apply jobs, too; write webhook = URL",
            ));
        }
        // What the agent has not is found before the night.
        self.groups.check(&file.source, &file.asked).await?;
        let mut asked = file.asked.clone();
        for limit in file.bandwidth_max.iter().flat_map(|limit| limit.values()) {
            asked.run.get_or_insert_default().bandwidth_max = Some(limit.0);
            let checked = self.groups.check(&file.source, &asked).await;
            checked.context("bandwidth_max")?;
        }
        let now = self.now_s();
        let mut jobs = self.jobs().await;
        let is_full = jobs.len() >= JOBS_MAX;
        let applied = match jobs.get_mut(&name) {
            Some(kept) if kept.file == file => return Ok((name, Applied::Same)),
            Some(kept) if kept.file.source != file.source && kept.has_groups() => {
                return Err(Error::refused(format!(
                    "source: another source agent has begun what job {name} owes; let that come to its end, or `strait job remove {name}` first"
                )));
            }
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
                self.metrics.knows(&name);
                Applied::New
            }
        };
        if let Some(kept) = jobs.get(&name) {
            let row = kept.row();
            if let Err(error) = self.stored(move |store| store.put_job(&row)).await {
                if applied == Applied::New {
                    jobs.remove(&name);
                    self.metrics.forgets(&name);
                }
                return Err(error);
            }
        }
        self.look();
        Ok((name, applied))
    }

    /// Lets the schedule of a job count, or not.
    ///
    /// # Errors
    /// `Config` if there is no such job; `Unavailable` if the store cannot be written.
    pub async fn enable(&self, name: &str, enabled: bool) -> Result<()> {
        let now = self.now_s();
        let mut jobs = self.jobs().await;
        let Some(kept) = jobs.get_mut(name) else {
            return Err(unknown(name, &jobs));
        };
        kept.book.enable(enabled, now);
        let row = kept.row();
        self.stored(move |store| store.put_job(&row)).await?;
        self.look();
        Ok(())
    }

    /// Forgets a job and its history. Its runs stay, and what is under way goes on.
    ///
    /// # Errors
    /// `Config` if there is no such job; `Unavailable` if the store cannot be written.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let mut jobs = self.jobs().await;
        if !jobs.contains_key(name) {
            return Err(unknown(name, &jobs));
        }
        let stored = name.to_owned();
        self.stored(move |store| store.remove_job(&stored)).await?;
        jobs.remove(name);
        self.metrics.forgets(name);
        Ok(())
    }

    /// Starts a job now, whatever its schedule says. Answers with its group.
    ///
    /// # Errors
    /// `Config` if there is no such job; `Refused` if it is running.
    pub async fn run(self: &Arc<Self>, name: &str) -> Result<GroupId> {
        let mut jobs = self.jobs().await;
        let Some(kept) = jobs.get_mut(name) else {
            return Err(unknown(name, &jobs));
        };
        let (before, group) = (kept.book.clone(), GroupId::random());
        let act = kept.book.by_hand(self.now_s(), group)?;
        if let Err(error) = self.write(name, kept).await {
            kept.book = before;
            return Err(error);
        }
        self.act_on(&jobs, name, act);
        Ok(group)
    }

    /// All jobs, in order of name.
    pub async fn list(&self) -> Vec<v1::Job> {
        let now = self.now_s();
        let jobs = self.jobs().await;
        jobs.values().map(|kept| self.message(kept, now)).collect()
    }

    /// A job, why it does what it does now, and its newest starts, newest first.
    ///
    /// # Errors
    /// `Config` if there is no such job; `Corrupt` if the store cannot be read.
    pub async fn look_up(&self, name: &str, limit: u32) -> Result<(v1::Job, Vec<Start>)> {
        let jobs = self.jobs().await;
        let Some(kept) = jobs.get(name) else {
            return Err(unknown(name, &jobs));
        };
        let job = self.message(kept, self.now_s());
        drop(jobs);
        let stored = name.to_owned();
        let starts = self
            .stored(move |store| store.starts(&stored, limit))
            .await?;
        Ok((job, starts))
    }

    /// A job as operators see it.
    fn message(&self, kept: &Kept, now: i64) -> v1::Job {
        let rules = kept.book.rules();
        let running = kept.book.running();
        let (from, to) = kept.file.tables();
        v1::Job {
            name: kept.file.name.clone(),
            file: kept.text.clone(),
            enabled: kept.book.is_enabled(),
            from: from.to_owned(),
            to: to.to_owned(),
            mode: kept.file.mode().to_owned(),
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
            // One whose source is not configured any more fails when it starts, and says so.
            source_url: self.groups.url(&kept.file.source).unwrap_or_default(),
        }
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
