//! The agent's own jobs: what `strait_jobs` decides, done by groups of this agent.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use strait_common::ids::GroupId;
use strait_common::{Error, Result};
use strait_jobs::book::Ended;
use strait_jobs::desk::{Desk, Room};
use strait_jobs::{Groups, Limits};
use strait_proto::v1;

use crate::agent::Agent;
use crate::group;
use crate::runner;

/// The groups of this agent, which has the jobs and is not held by them.
#[derive(Debug)]
struct OwnGroups(Weak<Agent>);

/// The jobs of an agent, read from its store; what was under way goes on.
///
/// # Errors
/// As [`Desk::open`].
pub async fn open(agent: &Arc<Agent>) -> Result<Arc<Desk>> {
    let room = Room {
        store: agent.store_path(),
        cpu: agent.cpu.clone(),
        clock: agent.clock.clone(),
        shutdown: agent.shutdown.clone(),
        tasks: agent.answers.clone(),
        runs_commands: true,
    };
    Desk::open(room, Arc::new(OwnGroups(Arc::downgrade(agent)))).await
}

impl OwnGroups {
    fn agent(&self) -> Result<Arc<Agent>> {
        let agent = self.0.upgrade();
        agent.ok_or_else(|| Error::cancelled("the agent has stopped"))
    }
}

/// A job of this agent's names no source.
fn is_ours(source: &str) -> Result<()> {
    match source {
        "" => Ok(()),
        source => Err(Error::config(format!(
            "source = \"{source}\" is of a job at a sink agent; this agent is a source agent itself: leave it out"
        ))),
    }
}

#[async_trait]
impl Groups for OwnGroups {
    fn url(&self, source: &str) -> Result<String> {
        is_ours(source).map(|()| String::new())
    }

    async fn check(&self, source: &str, request: &v1::StartGroupRequest) -> Result<()> {
        is_ours(source)?;
        group::check(&*self.agent()?, request.clone())
    }

    async fn begin(&self, _: &str, request: v1::StartGroupRequest, again: bool) -> Result<()> {
        let agent = self.agent()?;
        let (include, exclude) = (request.include.clone(), request.exclude.clone());
        let (id, request) = group::asked_for(request)?;
        let store = agent.open_store()?;
        match agent.cpu.run(move || store.group(id)).await? {
            Some(group) if again && !group.status.is_active() => group::go_on(&agent, &group).await,
            _ => {
                group::start(&agent, id, request, &include, &exclude).await?;
                Ok(())
            }
        }
    }

    async fn ended(&self, _: &str, id: GroupId) -> Result<Option<Ended>> {
        let agent = self.agent()?;
        if let Some(live) = agent.live_group(id) {
            live.over().await;
        }
        group::outcome(&agent, id).await
    }

    fn pause(&self, _: &str, id: GroupId) {
        let live = self.agent().ok().and_then(|agent| agent.live_group(id));
        if let Some(live) = live {
            live.pause();
        }
    }

    fn limit(&self, _: &str, id: GroupId, limits: Limits) {
        let live = self.agent().ok().and_then(|agent| agent.live_group(id));
        if let Some(live) = live {
            live.limit(runner::Limits {
                bandwidth_max: limits.bandwidth_max,
                streams: limits.streams,
            });
        }
    }
}
