//! Jobs at the sink agent: by B's clock, the work done by a source agent that it dials.

use std::net::SocketAddr;
use std::time::Duration;

use agent_sink::schedule::FarGroups;
use agent_sink::settings::Settings;
use strait_common::Kind;
use strait_common::ids::GroupId;
use strait_common::shutdown::Shutdown;
use strait_jobs::book::How;
use strait_jobs::{Groups, Limits};
use strait_tests::eventually;
use strait_tests::held::Hand;
use tokio_util::task::TaskTracker;

use super::*;

/// Both agents, the sink with this source as `main`. The ports stay.
struct Far {
    lakes: Lakes,
    sink: SinkAgent,
    source: SourceAgent,
}

impl Far {
    async fn start(lakes: Lakes) -> Far {
        let sink = SinkAgent::start(&lakes).await;
        let source = SourceAgent::start(&lakes, &sink.url()).await;
        let (address, url) = (sink.address(), source.url());
        sink.drain().await;
        let sink = with_jobs(&lakes, address, &url).await;
        Far {
            lakes,
            sink,
            source,
        }
    }

    async fn restart_sink(self) -> Far {
        let address = self.sink.address();
        self.sink.crash().await;
        let sink = with_jobs(&self.lakes, address, &self.source.url()).await;
        Far { sink, ..self }
    }

    async fn restart_source(self, away: Duration) -> Far {
        self.restart_source_after(tokio::time::sleep(away)).await
    }

    /// The source is away meanwhile.
    async fn restart_source_after(self, meanwhile: impl Future<Output = ()>) -> Far {
        let address = self.source.address();
        self.source.crash().await;
        meanwhile.await;
        let at = |config: &mut strait_tests::agents::SourceConfig| config.listen = address;
        let source = SourceAgent::start_with(&self.lakes, &self.sink.url(), at).await;
        Far { source, ..self }
    }
}

async fn with_jobs(lakes: &Lakes, address: SocketAddr, source: &str) -> SinkAgent {
    let state_dir = lakes.path("sink-state");
    std::fs::create_dir_all(&state_dir).expect("a directory");
    let jobs = |config: &mut agent_sink::settings::Config| {
        config.state_dir = state_dir;
        config.sources = [("main".to_owned(), source.to_owned())].into();
    };
    SinkAgent::start_with(lakes, Some(address.port()), &Hand::default(), jobs).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_beside_b_starts_by_itself_and_outlives_either_agent() {
    let far = Far::start(Lakes::filled(DAYS, ROWS).await).await;
    // Every start is an append of its own: one that is lost or begun twice is seen.
    let text = file("source = \"main\"\nschedule = \"every 1s\"\nretries = 20\n");
    let operator = far.sink.operator();
    assert_eq!(apply(&operator, &text).await.expect("a job"), "new");
    assert_eq!(apply(&operator, &text).await.expect("a job"), "unchanged");
    until(&operator, "it has started by itself", |starts| {
        done(starts) >= 2
    })
    .await;
    let (job, starts) = look_up(&operator).await;
    assert_eq!(job.source_url.trim_end_matches('/'), far.source.url());
    let start = starts.iter().find(|start| start.state == "done");
    let start = start.expect("two are done");
    let request = v1::GetGroupRequest {
        id: start.group.clone(),
    };
    let mut control = far.source.operator().control;
    let group = control.get_group(request).await.expect("the source has it");
    assert_eq!(group.into_inner().now, start.at * 1_000_000_000);
    let far = far.restart_sink().await;
    let far = far.restart_source(Duration::from_secs(2)).await;
    far.lakes.write(&far.lakes.a(), DAYS + 1, 0..ROWS).await;
    let operator = far.sink.operator();
    let (_, before) = look_up(&operator).await;
    let starts = until(&operator, "it goes on", |starts| {
        done(starts) >= done(&before) + 5
            && starts.last().is_some_and(|start| start.state == "done")
    })
    .await;
    no_second_is_missing(&starts);
    far.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_beside_b_cannot_do_is_said_when_it_is_applied() {
    let far = Far::start(Lakes::filled(DAYS, ROWS).await).await;
    let (beside_b, beside_a) = (far.sink.operator(), far.source.operator());
    let refused = async |operator: &Operator, text: &str| {
        let status = apply(operator, text).await.expect_err("it is refused");
        status.message().to_owned()
    };
    let said = refused(&beside_b, &file("source = \"other\"\n")).await;
    assert!(
        said.contains("no source agent 'other'; this sink agent knows main"),
        "{said}"
    );
    let said = refused(&beside_b, &file("").replace("a:", "x:")).await;
    assert!(
        said.contains("no store 'x'") && said.contains("source agent main"),
        "{said}"
    );
    let said = refused(&beside_b, &file("bandwidth_max = \"1B\"\n")).await;
    assert!(said.contains("for one frame"), "{said}");
    let said = refused(&beside_a, &file("source = \"main\"\n")).await;
    assert!(said.contains("leave it out"), "{said}");
    let Far {
        lakes,
        sink,
        source,
    } = far;
    let text = file("[[notify]]\ncommand = [\"true\"]\non = [\"failure\"]\n");
    let said = refused(&sink.operator(), &text).await;
    assert!(said.contains("webhook"), "{said}");
    source.drain().await;
    let said = refused(&sink.operator(), &file("")).await;
    assert!(said.contains("source agent main"), "{said}");
    // A sink that knows no source has no jobs.
    let plain = SinkAgent::start(&lakes).await;
    let none = apply(&plain.operator(), &file("")).await.expect_err("none");
    assert_eq!(none.code(), tonic::Code::Unimplemented);
}

/// A group that its source agent goes on with by itself, after it was away at the deadline, and the same once more in the next window.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_agent_was_away_is_paused_when_it_is_back_unless_it_is_to_go_on() {
    let far = Far::start(Lakes::filled(DAYS, 4000).await).await;
    let (shutdown, tasks) = (Shutdown::new(), TaskTracker::new());
    let groups = groups_of(&far.source.url(), &shutdown, tasks.clone());
    let id = GroupId::random();
    let slowly = || request(id, 4 << 10);
    groups.begin("", slowly(), false).await.expect("begun");
    let far = far.restart_source(Duration::from_secs(1)).await;
    let status = async |far: &Far| {
        let request = v1::GetGroupRequest { id: id.to_string() };
        let group = far.source.operator().control.get_group(request).await;
        group.expect("the group").into_inner().status
    };
    eventually("it goes on by itself", async || {
        (status(&far).await == "running").then_some(())
    })
    .await;
    let paused_unheard = async || {
        groups.pause("", id);
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let far = far.restart_source_after(paused_unheard()).await;
    eventually("and is paused when its agent is back", async || {
        (status(&far).await == "paused").then_some(())
    })
    .await;
    // Asked to pause while nobody hears it, and then to go on.
    let far = far.restart_source_after(paused_unheard()).await;
    eventually("it goes on", async || {
        groups.begin("", slowly(), true).await.ok()
    })
    .await;
    // Longer than between two questions.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(status(&far).await, "running");
    shutdown.drain();
    tasks.close();
    tasks.wait().await;
}

fn request(id: GroupId, bandwidth_max: u64) -> v1::StartGroupRequest {
    v1::StartGroupRequest {
        id: id.to_string(),
        now: Some(1_000_000_000),
        run: Some(v1::StartRunRequest {
            selectors: Some(strait_tests::agents::selectors()),
            bandwidth_max: Some(bandwidth_max),
            ..v1::StartRunRequest::default()
        }),
        ..v1::StartGroupRequest::default()
    }
}

fn groups_of(source: &str, shutdown: &Shutdown, tasks: TaskTracker) -> FarGroups {
    let settings = Settings {
        store: vec!["b=lake:///nowhere".parse().expect("a store")],
        source: vec![format!("main={source}").parse().expect("a source")],
        ..Settings::default()
    };
    let config = settings.over(Settings::default()).expect("a configuration");
    FarGroups::new(&config, shutdown.clone(), tasks).expect("the groups")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_far_away_is_limited_paused_and_gone_on_with() {
    let lakes = Lakes::filled(DAYS, 4000).await;
    let far = Far::start(lakes).await;
    let (shutdown, tasks) = (Shutdown::new(), TaskTracker::new());
    let groups = groups_of(&far.source.url(), &shutdown, tasks);
    let id = GroupId::random();
    let request = |bandwidth_max| request(id, bandwidth_max);
    groups
        .check("", &request(4 << 10))
        .await
        .expect("it can be");
    groups
        .begin("", request(4 << 10), false)
        .await
        .expect("begun");
    // Once more, as after an answer that was lost.
    groups
        .begin("", request(4 << 10), false)
        .await
        .expect("known");
    let limits = Limits {
        bandwidth_max: Some(5 << 10),
        streams: None,
    };
    let mut control = far.source.operator().control;
    eventually("its run is under way, within the new limit", async || {
        groups.limit("", id, limits);
        let request = v1::GetGroupRequest { id: id.to_string() };
        let group = control.get_group(request).await.expect("the group");
        let mut runs = group
            .into_inner()
            .tables
            .into_iter()
            .filter_map(|table| table.run);
        runs.find(|run| run.bandwidth_max == limits.bandwidth_max)
    })
    .await;
    groups.pause("", id);
    let ended = groups
        .ended("", id)
        .await
        .expect("it ends")
        .expect("it has");
    assert_eq!(ended.how, How::Paused);
    groups
        .begin("", request(4 << 10), true)
        .await
        .expect("goes on");
    let limits = Limits {
        bandwidth_max: Some(1 << 30),
        streams: Some(2),
    };
    // Said again until it is heard, as the desk does.
    let faster = async {
        loop {
            groups.limit("", id, limits);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ended = tokio::select! {
        ended = groups.ended("", id) => ended.expect("it ends").expect("it has"),
        () = faster => unreachable!("it says so for ever"),
    };
    assert_eq!(ended.how, How::Done, "{ended:?}");
    far.lakes.assert_equal().await;
    let unknown = groups.ended("", GroupId::random()).await.expect_err("none");
    assert_eq!(unknown.kind(), Kind::Config);
    shutdown.drain();
}
