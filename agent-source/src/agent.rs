//! What all parts of the source agent share, and the runs that are under way.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use agent_sink::local::LocalSink;
use strait_bundle::Bundle;
use strait_common::budget::Budget;
use strait_common::clock::Clock;
use strait_common::cpu::CpuPool;
use strait_common::engine::{Source, Store};
use strait_common::ids::{GroupId, RunId};
use strait_common::patience::patient;
use strait_common::shutdown::Shutdown;
use strait_common::state_dir::StateDir;
use strait_common::{Error, Result};
use strait_jobs::desk::Desk;
use tokio_util::task::TaskTracker;

use crate::group::{self, LiveGroup};
use crate::job;
use crate::link::Link;
use crate::metrics::Metrics;
use crate::pace::Pacer;
use crate::runner::{self, Live};
use crate::runs::{GroupRow, RunRow, RunStore};
use crate::settings::Config;

/// The source agent's shared state.
#[derive(Debug)]
pub struct Agent {
    /// The effective configuration.
    pub config: Config,
    /// The bound on memory.
    pub budget: Budget,
    /// The bound on bandwidth.
    pub pacer: Pacer,
    /// Where CPU work runs.
    pub cpu: CpuPool,
    /// The two signals.
    pub shutdown: Shutdown,
    /// Streams of answers to operators, for a clean stop.
    pub answers: TaskTracker,
    /// The jobs, once they are read.
    pub(crate) desk: OnceLock<Arc<Desk>>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    stores: BTreeMap<String, Store>,
    state_dir: StateDir,
    /// A connection that stays open: with the last one SQLite removes the files beside the store, and needs room to make them again, which what only
    /// reads must not need.
    _open: Mutex<RunStore>,
    /// A std mutex: held for look-ups only.
    live: Mutex<HashMap<RunId, Arc<Live>>>,
    /// Sinks over directories that somebody writes to.
    local_sinks: Mutex<HashMap<PathBuf, Weak<LocalSink>>>,
    /// A std mutex: held for look-ups only.
    live_groups: Mutex<HashMap<GroupId, Arc<LiveGroup>>>,
    driven: TaskTracker,
    /// Held from the last look at what is under way until a new run is stored, so that a job asked for twice at once is begun once.
    pub(crate) starting: tokio::sync::Mutex<()>,
}

impl Agent {
    /// An agent over these stores, whose runs are in `state_dir`.
    ///
    /// # Errors
    /// `Config` if the budget admits no stream or the run store cannot be opened.
    pub fn new(
        config: Config,
        stores: BTreeMap<String, Store>,
        cpu: CpuPool,
        state_dir: StateDir,
        shutdown: Shutdown,
    ) -> Result<Agent> {
        let timeout = config.engine_timeout;
        let stores = stores
            .into_iter()
            .map(|(name, store)| (name, patient(store, timeout)))
            .collect();
        let store = RunStore::open(&store_path(&state_dir))?;
        let agent = Agent {
            _open: Mutex::new(store),
            budget: Budget::new(config.memory_bytes)?,
            pacer: Pacer::new(config.bandwidth_max, config.frame_bytes_max),
            cpu,
            shutdown,
            answers: TaskTracker::new(),
            desk: OnceLock::new(),
            metrics: Arc::new(Metrics::new()),
            clock: Clock::Wall,
            stores,
            state_dir,
            live: Mutex::default(),
            local_sinks: Mutex::default(),
            live_groups: Mutex::default(),
            driven: TaskTracker::new(),
            starting: tokio::sync::Mutex::new(()),
            config,
        };
        let least = agent.stream_bytes(0);
        if agent.config.memory_bytes < least {
            return Err(Error::config(format!(
                "memory = {} admits no stream, which needs {least} bytes and what the engine reads with; raise memory, or lower window_frames \
                 or frame_bytes_max",
                agent.config.memory_bytes
            )));
        }
        // Found wrong before the socket opens.
        agent.config.tls.server()?;
        for (name, url) in &agent.config.sinks {
            Link::new(
                name,
                url,
                &agent.config.sink_tls,
                agent.config.peer_timeout,
                agent.config.engine_timeout,
            )?;
        }
        Ok(agent)
    }

    /// The same agent by another clock.
    #[must_use]
    pub fn by(self, clock: Clock) -> Agent {
        Agent { clock, ..self }
    }

    /// What one stream holds of the budget, in bytes: the window, and three frames (a batch, its encoding, its compression), and what
    /// the engine reads with.
    pub fn stream_bytes(&self, read_bytes: u64) -> u64 {
        (u64::from(self.config.window_frames) + 3) * self.config.frame_bytes_max + read_bytes
    }

    /// A connection to the run store.
    ///
    /// # Errors
    /// `Config` if it cannot be opened.
    pub fn open_store(&self) -> Result<RunStore> {
        RunStore::open(&self.store_path())
    }

    /// The file of the run store, in which jobs are, too.
    pub(crate) fn store_path(&self) -> PathBuf {
        store_path(&self.state_dir)
    }

    /// The jobs; none before they are read.
    pub fn desk(&self) -> Option<&Arc<Desk>> {
        self.desk.get()
    }

    /// How claims at a sink name this agent.
    pub fn identity(&self) -> String {
        format!("{} {}", self.config.name, self.state_dir.identity())
    }

    /// The source half of a store.
    ///
    /// # Errors
    /// `Config` if there is no such store, naming those there are.
    pub fn source(&self, name: &str) -> Result<Arc<dyn Source>> {
        if let Some(directory) = job::directory(name) {
            let bundle = Bundle::at(&directory, self.cpu.clone());
            let store = Store {
                source: Arc::new(bundle.source()),
                sink: bundle.store().sink,
            };
            return Ok(patient(store, self.config.engine_timeout).source);
        }
        match self.stores.get(name) {
            Some(store) => Ok(Arc::clone(&store.source)),
            None => Err(Error::config(format!(
                "there is no store '{name}'; this agent has {}",
                names(&self.stores)
            ))),
        }
    }

    /// The stores by name.
    pub fn stores(&self) -> &BTreeMap<String, Store> {
        &self.stores
    }

    /// The link to a sink.
    ///
    /// # Errors
    /// `Config` if there is no such sink, naming those there are.
    pub fn link(&self, name: &str) -> Result<Link> {
        if let Some(directory) = job::directory(name) {
            let (peer_timeout, engine_timeout) =
                (self.config.peer_timeout, self.config.engine_timeout);
            return Ok(Link::local(
                name,
                self.local_sink(directory)?,
                peer_timeout,
                engine_timeout,
            ));
        }
        match self.config.sinks.get(name) {
            Some(url) => Link::new(
                name,
                url,
                &self.config.sink_tls,
                self.config.peer_timeout,
                self.config.engine_timeout,
            ),
            None => Err(Error::config(format!(
                "there is no sink '{name}'; this agent knows {}",
                names(&self.config.sinks)
            ))),
        }
    }

    /// The sink in this process over a directory: one for all who write to it.
    fn local_sink(&self, directory: PathBuf) -> Result<Arc<LocalSink>> {
        let mut sinks = self
            .local_sinks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|_, sink| sink.strong_count() > 0);
        if let Some(sink) = sinks.get(&directory).and_then(Weak::upgrade) {
            return Ok(sink);
        }
        let store = Bundle::at(&directory, self.cpu.clone()).store();
        let sink = LocalSink::start(
            store,
            self.budget.clone(),
            self.cpu.clone(),
            self.config.engine_timeout,
            self.config.disk_used_max,
            self.shutdown.clone(),
        )?;
        let sink = Arc::new(sink);
        sinks.insert(directory, Arc::downgrade(&sink));
        Ok(sink)
    }

    /// Seconds since 1970.
    pub fn now_s(&self) -> i64 {
        self.clock.now_s()
    }

    /// Begins to drive a stored run, unless it is driven already.
    ///
    /// # Errors
    /// `Unavailable` if its plan cannot be read.
    pub fn drive(self: &Arc<Self>, row: RunRow) -> Result<Arc<Live>> {
        let mut live = self.runs_under_way();
        // Runs that have ended are in the store.
        live.retain(|_, live| live.snapshot().row.status.is_active());
        if let Some(live) = live.get(&row.id) {
            return Ok(Arc::clone(live));
        }
        let id = row.id;
        let begun = Arc::new(runner::live(self, row, self.shutdown.child())?);
        live.insert(id, Arc::clone(&begun));
        let span = tracing::info_span!("run", run = %id.short());
        let (agent, driven) = (Arc::clone(self), Arc::clone(&begun));
        let drive = async move {
            runner::drive(Arc::clone(&agent), Arc::clone(&driven)).await;
            // Whoever looks for it now finds what is stored; its plan is let go of.
            let mut live = agent.runs_under_way();
            if live.get(&id).is_some_and(|live| Arc::ptr_eq(live, &driven)) {
                live.remove(&id);
            }
        };
        self.driven
            .spawn(tracing::Instrument::instrument(drive, span));
        Ok(begun)
    }

    /// Begins to drive a stored group, unless it is driven already; `again` says that runs of it which have ended go on.
    pub fn drive_group(self: &Arc<Self>, group: &GroupRow, again: bool) -> Arc<LiveGroup> {
        let mut groups = self.groups();
        if let Some(live) = groups.get(&group.id) {
            return Arc::clone(live);
        }
        let live = Arc::new(LiveGroup::new(group.id, self.shutdown.child()));
        groups.insert(group.id, Arc::clone(&live));
        let (agent, group, driven) = (Arc::clone(self), group.clone(), Arc::clone(&live));
        self.driven.spawn(async move {
            let id = group.id;
            group::drive(Arc::clone(&agent), Arc::clone(&driven), group, again).await;
            // Whoever looks for it now finds what is stored.
            agent.groups().remove(&id);
            driven.is_over();
        });
        live
    }

    /// Begins to drive a stored group that has not ended.
    pub fn drive_group_if_active(self: &Arc<Self>, group: &GroupRow) {
        if group.status.is_active() {
            self.drive_group(group, false);
        }
    }

    /// The group, if it is under way.
    pub fn live_group(&self, id: GroupId) -> Option<Arc<LiveGroup>> {
        self.groups().get(&id).cloned()
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<GroupId, Arc<LiveGroup>>> {
        self.live_groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The run, if it is under way.
    pub fn live(&self, id: RunId) -> Option<Arc<Live>> {
        self.runs_under_way().get(&id).cloned()
    }

    fn runs_under_way(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Live>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The runs that are under way.
    pub fn under_way(&self) -> Vec<Arc<Live>> {
        let live = self.runs_under_way();
        let live = live.values();
        live.filter(|live| !live.is_over()).cloned().collect()
    }

    /// Waits until every run has stopped. Cancel-safe.
    pub async fn stopped(&self) {
        self.driven.close();
        self.driven.wait().await;
    }
}

fn store_path(state_dir: &StateDir) -> PathBuf {
    state_dir.path().join("runs.sqlite")
}

fn names<T>(map: &BTreeMap<String, T>) -> String {
    map.keys().cloned().collect::<Vec<_>>().join(", ")
}
