//! A cluster: some sites, of which any that answers will do.
//!
//! Connections are asked for one at a time and given back when they are in step; a few are kept. Where a site is away, or says that it is not the
//! one to ask, the next one is asked: the leader that it names, if the URL names that one too (a password goes to no site that nobody has named).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strait_common::{Error, Result};
use tokio_rustls::TlsConnector;

use crate::blocks::Blocks;
use crate::connection::Connection;
use crate::encode::Argument;
use crate::errors::{Cause, Failure};
use crate::object::Object;
use crate::options::{Options, Site};
use crate::script::quoted;
use crate::tls;

/// How many connections are kept that nobody uses.
const IDLE_MAX: usize = 4;

/// A cluster that can be asked. Clones are the same.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    options: Options,
    tls: Option<TlsConnector>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which site is asked first: the one that answered last.
    preferred: usize,
    idle: Vec<Connection>,
    /// The sessions of connections that somebody has, and since which time of all.
    leased: Vec<(String, u64)>,
    leases: u64,
}

/// Who has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody: it is in step, and waits for the next one.
    Idle,
    /// Somebody, for the n-th time that any was taken.
    Leased(u64),
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sites: Vec<String> = self.0.options.sites.iter().map(Site::to_string).collect();
        write!(f, "dolphindb ({})", sites.join(", "))
    }
}

/// A connection that is given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    cluster: Cluster,
    connection: Option<Connection>,
    /// Whether it was used before, and its site may have closed it since.
    used: bool,
}

/// Why a request is sent once more.
enum Next {
    /// The connection had been closed while nobody used it.
    Fresh,
    /// Another site must be asked.
    Elsewhere,
}

impl Cluster {
    /// A cluster by what its URL says. Nothing connects yet.
    ///
    /// # Errors
    /// `Config` if the authority's file cannot be read.
    pub fn new(options: Options) -> Result<Cluster> {
        let tls = options.tls.as_ref().map(tls::connector).transpose()?;
        Ok(Cluster(Arc::new(Inner {
            options,
            tls,
            state: Mutex::default(),
        })))
    }

    /// What its URL says.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to a site that answers.
    ///
    /// # Errors
    /// `Unavailable` if none does, naming each; else what the first one says that answers.
    pub async fn connect(&self) -> Result<Lease> {
        let idle = self.state().idle.pop();
        if let Some(connection) = idle {
            return Ok(self.lease(connection, true));
        }
        self.connect_anew().await
    }

    /// The same, and none that was used before.
    ///
    /// # Errors
    /// As [`connect`](Cluster::connect).
    pub async fn connect_anew(&self) -> Result<Lease> {
        let sites = &self.0.options.sites;
        let preferred = self.state().preferred;
        let mut failed = Vec::new();
        for at in 0..sites.len() {
            let at = (preferred + at) % sites.len();
            match Connection::open(&sites[at], &self.0.options, self.0.tls.as_ref()).await {
                Ok(connection) => {
                    self.state().preferred = at;
                    return Ok(self.lease(connection, false));
                }
                // A wrong password is wrong everywhere, and so is what else is for a person.
                Err(error) if error.kind() != strait_common::Kind::Unavailable => {
                    return Err(error);
                }
                Err(error) => failed.push(error),
            }
        }
        if sites.len() == 1
            && let Some(error) = failed.pop()
        {
            return Err(error);
        }
        let texts: Vec<String> = failed.iter().map(Error::to_string).collect();
        Err(Error::unavailable(format!(
            "no site answers: {}",
            texts.join("; ")
        )))
    }

    /// Who has the connection of this session; none where it is no more.
    pub(crate) fn holder(&self, session: &str) -> Option<Holder> {
        let state = self.state();
        if state.idle.iter().any(|idle| idle.session() == session) {
            return Some(Holder::Idle);
        }
        let leased = state.leased.iter().find(|(leased, _)| leased == session);
        leased.map(|(_, at)| Holder::Leased(*at))
    }

    fn lease(&self, connection: Connection, used: bool) -> Lease {
        let mut state = self.state();
        state.leases += 1;
        let at = state.leases;
        state.leased.push((connection.session().to_owned(), at));
        drop(state);
        Lease {
            cluster: self.clone(),
            connection: Some(connection),
            used,
        }
    }

    /// Another site goes first from now on: the leader that one has named, or the one after `site`. False if there is none.
    fn prefer_other(&self, site: &Site, cause: &Cause) -> bool {
        let sites = &self.0.options.sites;
        let leader = match cause {
            Cause::NotLeader(Some((host, port))) => sites
                .iter()
                .position(|site| site.host == *host && site.port == *port),
            _ => None,
        };
        let here = sites.iter().position(|known| known == site).unwrap_or(0);
        let next = leader.unwrap_or((here + 1) % sites.len());
        let mut state = self.state();
        state.preferred = next;
        state.idle.retain(|idle| idle.site() == &sites[next]);
        next != here
    }

    /// Another site is asked from now on.
    pub(crate) fn avoid(&self, cause: &Cause) {
        let preferred = self.state().preferred;
        let site = self.0.options.sites.get(preferred).cloned();
        if let Some(site) = site {
            self.prefer_other(&site, cause);
        }
    }

    /// Whether a request that only reads is worth another try, which it is once for each site.
    fn next(&self, lease: &Lease, failure: &Failure) -> Option<Next> {
        match failure {
            Failure::Lost(_) | Failure::Unsent(_) if lease.used => Some(Next::Fresh),
            Failure::Server(error) if error.cause.is_for_another_site() => {
                let site = lease.connection.as_ref()?.site();
                self.prefer_other(site, &error.cause)
                    .then_some(Next::Elsewhere)
            }
            _ => None,
        }
    }

    /// Runs a script that changes nothing, at whichever site answers.
    ///
    /// # Errors
    /// As the last site has it.
    pub async fn read(&self, script: &str) -> Result<Object> {
        let mut lease = self.connect().await?;
        for _ in 0..=self.0.options.sites.len() {
            let failure = match lease.connection().script(script).await {
                Ok(object) => return Ok(object),
                Err(failure) => failure,
            };
            lease = match self.next(&lease, &failure) {
                None => return Err(failure.into()),
                Some(Next::Fresh | Next::Elsewhere) => self.connect_anew().await?,
            };
        }
        Err(Error::unavailable("each site names another one to ask"))
    }

    /// Whether this database has this table.
    ///
    /// # Errors
    /// `Config` if that is no name; as [`read`](Cluster::read).
    pub(crate) async fn has_table(&self, database: &str, table: &str) -> Result<bool> {
        let asked = format!(
            "existsTable({}, {})",
            quoted(&format!("dfs://{database}"))?,
            quoted(table)?
        );
        self.read(&asked).await?.boolean()
    }

    /// Calls a function that changes nothing, at whichever site answers.
    ///
    /// # Errors
    /// As the last site has it.
    pub async fn ask(&self, name: &str, arguments: &[Argument]) -> Result<Object> {
        let mut lease = self.connect().await?;
        for _ in 0..=self.0.options.sites.len() {
            let failure = match lease.connection().call(name, arguments).await {
                Ok(object) => return Ok(object),
                Err(failure) => failure,
            };
            lease = match self.next(&lease, &failure) {
                None => return Err(failure.into()),
                Some(Next::Fresh | Next::Elsewhere) => self.connect_anew().await?,
            };
        }
        Err(Error::unavailable("each site names another one to ask"))
    }

    /// Reads the table that a script answers with, in blocks of so many rows.
    ///
    /// # Errors
    /// As the last site has it.
    pub async fn blocks(&self, script: &str, rows: u32) -> Result<Blocks> {
        let mut anew = false;
        for _ in 0..=self.0.options.sites.len() {
            let lease = if anew {
                self.connect_anew().await?
            } else {
                self.connect().await?
            };
            let used = lease.used;
            let site = lease
                .connection
                .as_ref()
                .map(|connection| connection.site().clone());
            match Blocks::begin(lease, script, rows).await {
                Ok(blocks) => return Ok(blocks),
                Err(Failure::Lost(_) | Failure::Unsent(_)) if used => anew = true,
                Err(Failure::Server(error)) if error.cause.is_for_another_site() => {
                    let moved = site.is_some_and(|site| self.prefer_other(&site, &error.cause));
                    if !moved {
                        return Err(Failure::Server(error).into());
                    }
                    anew = true;
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(Error::unavailable("each site names another one to ask"))
    }
}

impl Lease {
    /// The connection.
    #[expect(clippy::expect_used, reason = "it is taken by drop only")]
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("it is taken by drop only")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let mut state = self.cluster.state();
        let mut leased = state.leased.iter();
        if let Some(at) = leased.position(|(leased, _)| leased == connection.session()) {
            state.leased.swap_remove(at);
        }
        if !connection.is_in_step() {
            return;
        }
        if state.idle.len() < IDLE_MAX {
            state.idle.push(connection);
        }
    }
}
