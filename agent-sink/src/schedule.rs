//! Jobs that live beside B: what `strait_jobs` decides by B's clock, done by a source agent that this one dials.
//!
//! What a source agent has been asked to begin it goes on with by itself: here it is only begun, waited for and stopped. Every question can be asked again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use strait_common::config::without_secrets;
use strait_common::ids::GroupId;
use strait_common::retry::Backoff;
use strait_common::shutdown::Shutdown;
use strait_common::{Context, Error, Kind, OrError, Result};
use strait_jobs::book::{Ended, How};
use strait_jobs::{Groups, Limits};
use strait_proto::v1;
use strait_proto::v1::control_client::ControlClient;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

use crate::settings::Config;

/// The largest answer: a group of many tables.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long a source agent may be out of reach before a group of its counts as failed for now; the job's own tries follow.
const AWAY_MAX: Duration = Duration::from_secs(600);
/// How long a group is asked to pause whose source agent is out of reach, unless it is to go on before: it goes on by itself when its agent is back.
const PAUSE_MAX: Duration = Duration::from_hours(24);
/// Between two questions to a source agent that does not answer. Its end is in [`AWAY_MAX`] or [`PAUSE_MAX`].
const ASK_AGAIN: Backoff = Backoff {
    first: Duration::from_millis(500),
    most: Duration::from_secs(15),
    retries_max: u32::MAX,
};

/// The groups of the source agents that this agent knows.
#[derive(Debug)]
pub struct FarGroups {
    sources: BTreeMap<String, Far>,
    /// Groups that are to pause, and whose agents have not said that they do.
    pausing: Pausing,
    shutdown: Shutdown,
    tasks: TaskTracker,
}

/// What ends each question.
type Pausing = Arc<Mutex<HashMap<GroupId, CancellationToken>>>;

fn lock(
    pausing: &Mutex<HashMap<GroupId, CancellationToken>>,
) -> MutexGuard<'_, HashMap<GroupId, CancellationToken>> {
    pausing.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug)]
struct Far {
    name: String,
    url: String,
    client: ControlClient<Channel>,
    /// How long an answer may take: a source asks its store, and a sink, before it gives one.
    answer_max: Duration,
}

impl FarGroups {
    /// Those of the sources in the configuration, which are connected to when they are first needed.
    ///
    /// # Errors
    /// `Config` if a URL cannot be read, or a file of its TLS cannot be used.
    pub fn new(config: &Config, shutdown: Shutdown, tasks: TaskTracker) -> Result<FarGroups> {
        let mut sources = BTreeMap::new();
        for (name, url) in &config.sources {
            let context = || format!("source {name} ({})", without_secrets(url));
            let endpoint = Endpoint::from_shared(url.clone()).or_error(Kind::Config, context())?;
            let endpoint = endpoint
                .connect_timeout(config.peer_timeout)
                .http2_keep_alive_interval(config.peer_timeout / 2)
                .keep_alive_timeout(config.peer_timeout / 2)
                .keep_alive_while_idle(true);
            let channel = config.source_tls.connect_lazily(endpoint, "tls_ca");
            let channel = channel.with_context(context)?;
            let far = Far {
                name: name.clone(),
                url: url.clone(),
                client: ControlClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX),
                answer_max: config.engine_timeout + config.peer_timeout,
            };
            sources.insert(name.clone(), far);
        }
        Ok(FarGroups {
            sources,
            pausing: Pausing::default(),
            shutdown,
            tasks,
        })
    }

    /// The source that a job's file means: the only one, if it names none.
    fn far(&self, source: &str) -> Result<&Far> {
        let names = || self.sources.keys().cloned().collect::<Vec<_>>().join(", ");
        let found = match (source, self.sources.len()) {
            ("", 1) => self.sources.values().next(),
            ("", _) => {
                return Err(Error::config(format!(
                    "this sink agent knows several source agents; say which does the work: source = \"NAME\", of {}",
                    names()
                )));
            }
            (source, _) => self.sources.get(source),
        };
        found.ok_or_else(|| {
            Error::config(format!(
                "there is no source agent '{source}'; this sink agent knows {}",
                names()
            ))
        })
    }
}

impl Far {
    /// An answer within its time, with who was asked in its error.
    async fn answer<T>(
        &self,
        what: &str,
        asked: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T> {
        let who = || {
            format!(
                "source agent {} ({})",
                self.name,
                without_secrets(&self.url)
            )
        };
        match tokio::time::timeout(self.answer_max, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(Error::from(status)).with_context(who),
            Err(_) => Err(Error::unavailable(format!(
                "{}: {what}: no answer for {} s",
                who(),
                self.answer_max.as_secs()
            ))),
        }
    }

    /// Waits until the group has ended, or its agent is out of reach.
    async fn watched(&self, id: GroupId) -> Result<v1::Group> {
        let mut client = self.client.clone();
        let request = v1::GetGroupRequest { id: id.to_string() };
        let watch = client.watch_group(request);
        let mut groups = self.answer("watch a group", watch).await?;
        let mut last = None;
        while let Some(group) = groups.message().await.map_err(Error::from)? {
            last = Some(group);
        }
        match last {
            Some(group) if group.ended_at != 0 => Ok(group),
            _ => Err(Error::unavailable("the answers ended before the group had")),
        }
    }

    /// Asks until it is heard.
    async fn pause(&self, id: GroupId, shutdown: &Shutdown) {
        let begun = Instant::now();
        let (mut tries, mut answered_since) = (0, None);
        loop {
            let mut client = self.client.clone();
            let request = v1::GetGroupRequest { id: id.to_string() };
            let asked = client.pause_group(request);
            let Err(error) = self.answer("pause a group", asked).await else {
                return;
            };
            // One that answers may not know the group yet.
            let over = match error.kind() {
                Kind::Unavailable => begun.elapsed() > PAUSE_MAX,
                _ => answered_since.get_or_insert_with(Instant::now).elapsed() > AWAY_MAX,
            };
            if over {
                tracing::error!(group = %id, %error, "the deadline is over, and the group could not be paused");
                return;
            }
            if !may_ask_again(shutdown, &mut tries).await {
                return;
            }
        }
    }
}

/// Waits before the same is asked once more; false if this agent stops.
async fn may_ask_again(shutdown: &Shutdown, tries: &mut u32) -> bool {
    let wait = ASK_AGAIN.step(*tries, 0.5);
    *tries += 1;
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        () = shutdown.draining() => false,
    }
}

fn is_active(group: &v1::Group) -> bool {
    matches!(group.status.as_str(), "planned" | "running")
}

/// How a group has ended, as its agent says.
fn ended(group: v1::Group) -> Ended {
    let temporary = group.temporary;
    let how = match group.status.as_str() {
        "done" => How::Done,
        "paused" => How::Paused,
        "cancelled" | "abandoned" => How::Cancelled,
        "partial" => How::Partial { temporary },
        _ => How::Failed { temporary },
    };
    Ended {
        how,
        message: group.message,
    }
}

#[async_trait]
impl Groups for FarGroups {
    fn url(&self, source: &str) -> Result<String> {
        self.far(source).map(|far| without_secrets(&far.url))
    }

    async fn check(&self, source: &str, request: &v1::StartGroupRequest) -> Result<()> {
        let far = self.far(source)?;
        let mut client = far.client.clone();
        let asked = client.check_group(request.clone());
        far.answer("check a job", asked).await?;
        Ok(())
    }

    async fn begin(&self, source: &str, request: v1::StartGroupRequest, again: bool) -> Result<()> {
        let far = self.far(source)?;
        if let Ok(id) = request.id.parse()
            && let Some(asking) = lock(&self.pausing).remove(&id)
        {
            asking.cancel();
        }
        let mut client = far.client.clone();
        let begin = async {
            let id = request.id.clone();
            let asked = client.start_group(request);
            let group = far.answer("begin a group", asked).await?;
            if group.id != id {
                return Err(Error::config(format!(
                    "source agent {} is of an older release, which begins groups with ids of its own: update it",
                    far.name
                )));
            }
            if again && !is_active(&group) && group.status != "done" {
                let asked = client.resume_group(v1::GetGroupRequest { id: group.id });
                far.answer("go on with a group", asked).await?;
            }
            Ok(())
        };
        tokio::select! {
            begun = begin => begun,
            // It is asked again at the next start of this agent.
            () = self.shutdown.draining() => Err(Error::cancelled("the agent stops")),
        }
    }

    async fn ended(&self, source: &str, id: GroupId) -> Result<Option<Ended>> {
        let far = self.far(source)?;
        let (mut tries, mut away_since) = (0, None);
        loop {
            let watched = tokio::select! {
                watched = far.watched(id) => watched,
                () = self.shutdown.draining() => return Ok(None),
            };
            let error = match watched {
                Ok(group) => return Ok(Some(ended(group))),
                Err(error) => error,
            };
            // It has been begun; an agent that does not know it has lost its state, and is asked to begin it again by the next try.
            let since = *away_since.get_or_insert_with(Instant::now);
            if error.kind() != Kind::Unavailable || since.elapsed() > AWAY_MAX {
                return Err(error);
            }
            // One that answers at all is not away.
            let mut client = far.client.clone();
            let get = client.get_group(v1::GetGroupRequest { id: id.to_string() });
            if far.answer("ask for a group", get).await.is_ok() {
                (tries, away_since) = (0, None);
            }
            tracing::debug!(source = %far.name, group = %id, %error, "asked again");
            if !may_ask_again(&self.shutdown, &mut tries).await {
                return Ok(None);
            }
        }
    }

    fn pause(&self, source: &str, id: GroupId) {
        let Ok(far) = self.far(source).cloned() else {
            return;
        };
        let asking = CancellationToken::new();
        if let Some(before) = lock(&self.pausing).insert(id, asking.clone()) {
            before.cancel();
        }
        let (shutdown, pausing) = (self.shutdown.clone(), Arc::clone(&self.pausing));
        self.tasks.spawn(async move {
            tokio::select! {
                () = far.pause(id, &shutdown) => {}
                () = asking.cancelled() => {}
            }
            // Whoever has cancelled it has taken it out, or put another in its place.
            if !asking.is_cancelled() {
                lock(&pausing).remove(&id);
            }
        });
    }

    fn limit(&self, source: &str, id: GroupId, limits: Limits) {
        let Ok(far) = self.far(source).cloned() else {
            return;
        };
        if limits == Limits::default() {
            return;
        }
        self.tasks.spawn(async move {
            let mut client = far.client.clone();
            let asked = client.limit_group(v1::LimitGroupRequest {
                id: id.to_string(),
                bandwidth_max: limits.bandwidth_max,
                streams: limits.streams,
            });
            // It is said again within a minute.
            if let Err(error) = far.answer("limit a group", asked).await {
                tracing::debug!(group = %id, %error, "the limits could not be said");
            }
        });
    }
}
