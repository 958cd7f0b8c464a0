//! What operators ask of groups.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use strait_common::ids::RunId;
use strait_common::{Error, Result};
use strait_proto::v1;

use super::Operators;
use crate::answers::Answers;
use crate::group::{self, LiveGroup};
use crate::plan;
use crate::runner::Limits;
use crate::runs::{GroupRow, Status};

/// How often a watched group is looked at: each of its runs is.
const WATCH_INTERVAL: Duration = Duration::from_millis(400);
/// Groups listed when no limit is given, and at most.
const LISTED: u32 = 100;
const LISTED_MAX: u32 = 1000;
/// How often a group that was asked to stop is looked at before the answer goes out anyway.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Runs that have ended, which do not change while they are watched.
type Ended = HashMap<RunId, v1::Run>;

impl Operators {
    pub(super) async fn do_start_group(&self, request: v1::StartGroupRequest) -> Result<v1::Group> {
        let (include, exclude) = (request.include.clone(), request.exclude.clone());
        let (id, wanted) = group::asked_for(request)?;
        let group = group::start(&self.0, id, wanted, &include, &exclude).await?;
        self.shown_group(group, &mut Ended::new()).await
    }

    async fn find_group(&self, id: &str) -> Result<GroupRow> {
        let (store, prefix) = (self.0.open_store()?, id.to_owned());
        let mut found = self.0.cpu.run(move || store.groups(&prefix, 2)).await?;
        match found.len() {
            1 if !id.is_empty() => Ok(found.remove(0)),
            0 => Err(Error::config(format!(
                "this agent knows no group '{id}'; `strait groups list` shows those it knows"
            ))),
            _ => Err(Error::config(format!(
                "several groups begin with '{id}'; write more of the id"
            ))),
        }
    }

    /// The group as of now, with its runs as they are.
    pub(super) async fn shown_group(
        &self,
        group: GroupRow,
        ended: &mut Ended,
    ) -> Result<v1::Group> {
        let mut tables = Vec::with_capacity(group.members.len());
        for member in &group.members {
            let (store, id) = (self.0.open_store()?, member.run);
            let run = match ended.get(&id) {
                Some(run) => Some(run.clone()),
                None => match self.0.cpu.run(move || store.run(id)).await? {
                    Some(row) => Some(self.shown(row).await?),
                    None => None,
                },
            };
            if let Some(run) = &run
                && run.ended_at != 0
            {
                ended.insert(id, run.clone());
            }
            let status = match &run {
                Some(run) => run.status.clone(),
                None => group::standing(member, None).name().to_owned(),
            };
            tables.push(v1::GroupTable {
                from: member.from.to_string(),
                to: member.to.to_string(),
                status,
                run,
                message: member.message.clone(),
                kind: member
                    .kind
                    .map(|kind| kind.name().to_owned())
                    .unwrap_or_default(),
            });
        }
        // Of what goes on, or is done, there is nothing to tell.
        let outcome = match group.status.is_active() || group.status == Status::Done {
            true => None,
            false => group::outcome(&self.0, group.id).await?,
        };
        let (message, temporary) = match outcome {
            Some(ended) => (ended.message, ended.how.is_temporary()),
            None => (String::new(), false),
        };
        Ok(v1::Group {
            message,
            temporary,
            id: group.id.to_string(),
            from: group.request.from,
            to: group.request.to,
            status: group.status.name().to_owned(),
            created_at: group.created_at,
            ended_at: group.ended_at,
            now: group.request.now,
            tables,
        })
    }

    pub(super) async fn do_list_groups(&self, limit: u32) -> Result<v1::ListGroupsReply> {
        let limit = match limit {
            0 => LISTED,
            limit => limit.min(LISTED_MAX),
        };
        let store = self.0.open_store()?;
        let mut groups = Vec::new();
        for group in self.0.cpu.run(move || store.groups("", limit)).await? {
            groups.push(self.shown_group(group, &mut Ended::new()).await?);
        }
        Ok(v1::ListGroupsReply { groups })
    }

    pub(super) async fn do_get_group(&self, id: &str) -> Result<v1::Group> {
        let group = self.find_group(id).await?;
        self.shown_group(group, &mut Ended::new()).await
    }

    pub(super) async fn do_watch_group(&self, id: &str, answers: Answers<v1::Group>) -> Result<()> {
        let id = self.find_group(id).await?.id.to_string();
        let (mut last, mut ended) = (None, Ended::new());
        loop {
            let group = self.find_group(&id).await?;
            let group = self.shown_group(group, &mut ended).await?;
            let is_over = group.ended_at != 0;
            if last.as_ref() != Some(&group) {
                answers.send(group.clone()).await?;
                last = Some(group);
            }
            if is_over {
                return Ok(());
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    /// Stops a group, if it is under way.
    pub(super) async fn do_stop_group(&self, id: &str, stop: fn(&LiveGroup)) -> Result<v1::Group> {
        let group = self.find_group(id).await?;
        if let Some(live) = self.0.live_group(group.id) {
            stop(&live);
            // Whoever asks hears how it stands, even where it takes longer.
            let _ = tokio::time::timeout(STOP_WAIT_MAX, live.over()).await;
        }
        self.do_get_group(&group.id.to_string()).await
    }

    pub(super) async fn do_limit_group(&self, request: v1::LimitGroupRequest) -> Result<v1::Group> {
        let group = self.find_group(&request.id).await?;
        plan::check_bandwidth(&self.0, request.bandwidth_max)?;
        if let Some(live) = self.0.live_group(group.id) {
            live.limit(Limits {
                bandwidth_max: request.bandwidth_max,
                streams: request.streams,
            });
        }
        self.shown_group(group, &mut Ended::new()).await
    }

    pub(super) async fn do_resume_group(&self, id: &str) -> Result<v1::Group> {
        let group = self.find_group(id).await?;
        group::go_on(&self.0, &group).await?;
        self.do_get_group(&group.id.to_string()).await
    }

    pub(super) async fn do_match_tables(
        &self,
        request: v1::MatchTablesRequest,
    ) -> Result<v1::MatchTablesReply> {
        let v1::MatchTablesRequest {
            from,
            to,
            include,
            exclude,
        } = request;
        let agent = Arc::clone(&self.0);
        let pairs = group::expand(&agent, &from, &to, &include, &exclude).await?;
        let pairs = pairs.into_iter().map(|(from, to)| v1::TablePair {
            from: from.to_string(),
            to: to.to_string(),
        });
        Ok(v1::MatchTablesReply {
            pairs: pairs.collect(),
        })
    }
}
