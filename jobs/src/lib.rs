//! Jobs that start by themselves, in either agent. What is decided is in [`book`], when in [`when`], what a job says in [`file`](mod@file); [`desk`] waits and does, and
//! [`store`] keeps.
//!
//! A start becomes a group of runs. Whoever begins groups is behind [`Groups`]: the source agent itself, or a source agent that a sink's dials.

pub mod book;
pub mod desk;
pub mod file;
pub mod limits;
pub mod metrics;
pub mod notify;
pub mod service;
pub mod store;
pub mod when;

use async_trait::async_trait;
use strait_common::Result;
use strait_common::ids::GroupId;
use strait_proto::v1;

use crate::book::Ended;

/// Limits of a group that can change while it goes on. What is not said stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most that its frames take on the wire, in bytes a second.
    pub bandwidth_max: Option<u64>,
    /// The streams of each of its runs, within the agent's bound.
    pub streams: Option<u32>,
}

/// Who begins groups of runs and ends them. `source` is what a job's file calls the source agent; empty if it names none.
#[async_trait]
pub trait Groups: std::fmt::Debug + Send + Sync {
    /// The URL of the source agent where it is another process; empty where it is this one.
    ///
    /// # Errors
    /// `Config` if there is no such source.
    fn url(&self, source: &str) -> Result<String>;

    /// Whether a group like this could be begun, as far as the configuration tells.
    ///
    /// # Errors
    /// `Config`, saying what to write; `Unavailable` if another process cannot be asked.
    async fn check(&self, source: &str, request: &v1::StartGroupRequest) -> Result<()>;

    /// Begins the group whose id the request names. One that is there already is left to go on as it is; with `again`, one that has ended goes on with what it has
    /// not done.
    ///
    /// # Errors
    /// `Config` if the request makes no sense; what the source says.
    async fn begin(&self, source: &str, request: v1::StartGroupRequest, again: bool) -> Result<()>;

    /// Waits until a group that was begun has ended. Cancel-safe. `None` if it has not, and this process stops.
    ///
    /// # Errors
    /// `Internal` if there is none; `Unavailable` if how it ended cannot be read.
    async fn ended(&self, source: &str, id: GroupId) -> Result<Option<Ended>>;

    /// Checkpoints what is under way and begins nothing more, soon.
    fn pause(&self, source: &str, id: GroupId);

    /// Goes on within other limits, soon.
    fn limit(&self, source: &str, id: GroupId, limits: Limits);
}
