//! Jobs with both agents: stored, started by themselves and by hand, told of, and gone on with after a restart.

use std::collections::BTreeSet;

use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent};
use strait_tests::lakes::{self, Lakes, TABLE};

#[path = "jobs/far.rs"]
mod far;
#[path = "jobs/limits.rs"]
mod limits;
#[path = "jobs/month.rs"]
mod month;

const DAYS: u32 = 2;
const ROWS: u64 = 50;
/// Of four days.
const NEWEST: u32 = 3;

fn file(rest: &str) -> String {
    format!("name = \"nightly\"\nfrom = \"a:{TABLE}\"\nto = \"b:{TABLE}\"\n{rest}")
}

async fn apply(operator: &Operator, file: &str) -> Result<String, tonic::Status> {
    let request = v1::ApplyJobRequest {
        file: file.to_owned(),
    };
    let reply = operator.jobs.clone().apply_job(request).await;
    reply.map(|reply| reply.into_inner().what)
}

fn named() -> v1::JobRequest {
    v1::JobRequest {
        name: "nightly".to_owned(),
    }
}

async fn look_up(operator: &Operator) -> (v1::Job, Vec<v1::JobStart>) {
    let request = v1::GetJobRequest {
        name: "nightly".to_owned(),
        limit: 1000,
    };
    let reply = operator.jobs.clone().get_job(request).await;
    let reply = reply.expect("the agent knows the job").into_inner();
    (reply.job.expect("a job"), reply.starts)
}

async fn until(
    operator: &Operator,
    what: &str,
    is: impl Fn(&[v1::JobStart]) -> bool,
) -> Vec<v1::JobStart> {
    strait_tests::eventually(what, async || {
        let (_, starts) = look_up(operator).await;
        is(&starts).then_some(starts)
    })
    .await
}

fn done(starts: &[v1::JobStart]) -> usize {
    starts.iter().filter(|start| start.state == "done").count()
}

/// Every second from the first start that is done to the last has one. How many there are.
fn no_second_is_missing(starts: &[v1::JobStart]) -> usize {
    let settled = starts.iter().filter(|start| start.state == "done");
    let settled: BTreeSet<i64> = settled.map(|start| start.at).collect();
    let (first, last) = (
        *settled.first().expect("one"),
        *settled.last().expect("one"),
    );
    let all: Vec<i64> = (first..=last).collect();
    assert_eq!(
        settled.into_iter().collect::<Vec<_>>(),
        all,
        "no second is missing"
    );
    all.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_starts_by_itself_and_b_follows_a() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let text = file("mode = \"mirror\"\nschedule = \"every 1s\"\n");
    assert_eq!(apply(&operator, &text).await.expect("a job"), "new");
    assert_eq!(apply(&operator, &text).await.expect("a job"), "unchanged");
    until(&operator, "it has started by itself", |starts| {
        done(starts) >= 2
    })
    .await;
    lakes.assert_equal().await;
    lakes.write(&lakes.a(), DAYS + 1, 0..ROWS).await;
    let (_, before) = look_up(&operator).await;
    until(&operator, "it has started again", |starts| {
        done(starts) >= done(&before) + 2
    })
    .await;
    lakes.assert_equal().await;
    // now() means the instant of the schedule, to the nanosecond.
    let (_, starts) = look_up(&operator).await;
    let start = starts
        .iter()
        .find(|start| start.state == "done")
        .expect("one");
    let request = v1::GetGroupRequest {
        id: start.group.clone(),
    };
    let group = operator
        .control
        .clone()
        .get_group(request)
        .await
        .expect("its group");
    assert_eq!(group.into_inner().now, start.at * 1_000_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_were_missed_are_caught_up_with_when_the_agent_is_back() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    // Each start appends one second of ids, so that a start that is lost is seen. The schedule is a second long.
    let text = file("schedule = \"every 1s\"\n");
    apply(&operator, &text).await.expect("a job");
    until(&operator, "it has started", |starts| done(starts) >= 1).await;
    source.crash().await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let starts = until(&operator, "it has caught up", |starts| done(starts) >= 5).await;
    let all = no_second_is_missing(&starts);
    let groups: BTreeSet<_> = starts
        .iter()
        .map(|start| &start.group)
        .filter(|group| !group.is_empty())
        .collect();
    assert!(groups.len() >= all, "each has a run of its own");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_started_by_hand_disabled_and_removed() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let mut control = operator.jobs.clone();
    apply(&operator, &file("schedule = \"daily at 22:30\"\n"))
        .await
        .expect("a job");
    control.disable_job(named()).await.expect("disabled");
    let (job, starts) = look_up(&operator).await;
    assert!(
        !job.enabled && starts.is_empty() && job.why.contains("disabled"),
        "{job:?}"
    );
    control.run_job(named()).await.expect("it starts");
    let starts = until(&operator, "it is done", |starts| done(starts) == 1).await;
    assert!(starts[0].manual);
    lakes.assert_equal().await;
    control.remove_job(named()).await.expect("removed");
    let gone = control.run_job(named()).await.expect_err("there is none");
    assert!(
        gone.message().contains("there is no job 'nightly'"),
        "{gone:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_for_it_is_told_what_became_of_a_start() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    lakes.copy_as_a_stranger(&lakes.a(), &lakes.b());
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let told = lakes.path("told");
    let command = format!("cat >> {}; echo >> {}", told.display(), told.display());
    let text = |mode: &str| {
        file(&format!(
            "{mode}retries = 0\n[[notify]]\ncommand = [\"sh\", \"-c\", \"{command}\"]\non = [\"failure\", \"success\"]\n"
        ))
    };
    // Rows of somebody else, and no mode is named.
    apply(&operator, &text("")).await.expect("a job");
    operator
        .jobs
        .clone()
        .run_job(named())
        .await
        .expect("it starts");
    until(&operator, "it has failed", |starts| {
        starts.iter().any(|start| start.state == "failed")
    })
    .await;
    assert_eq!(
        apply(&operator, &text("mode = \"mirror\"\n"))
            .await
            .expect("a job"),
        "changed"
    );
    operator
        .jobs
        .clone()
        .run_job(named())
        .await
        .expect("it starts");
    until(&operator, "it is done", |starts| done(starts) == 1).await;
    let lines = strait_tests::eventually("both were told", async || {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        (lines.len() == 2).then_some(lines)
    })
    .await;
    assert_eq!(
        (&lines[0]["event"], &lines[1]["event"]),
        (&"failure".into(), &"success".into())
    );
    assert!(
        lines[0]["message"]
            .as_str()
            .expect("a text")
            .contains("--mode mirror"),
        "{lines:?}"
    );
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookback_brings_late_rows_of_earlier_partitions() {
    let lakes = Lakes::filled(4, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let run = async |rest: &str| {
        apply(&operator, &file(rest)).await.expect("a job");
        let (_, before) = look_up(&operator).await;
        operator
            .jobs
            .clone()
            .run_job(named())
            .await
            .expect("it starts");
        until(&operator, "it is done", |starts| {
            done(starts) == done(&before) + 1
        })
        .await;
        lakes.contents(&lakes.b()).await.len()
    };
    let label = lakes::label(NEWEST);
    let (_, day) = label.split_once('=').expect("a day");
    let newest = format!("mode = \"mirror\"\nwhere = \"day = date '{day}'\"\n");
    assert_eq!(run(&newest).await, 1, "the newest day alone");
    assert_eq!(
        run(&format!("{newest}lookback = 2\n")).await,
        3,
        "and two before it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_is_refused_with_its_line_and_changes_nothing() {
    let lakes = Lakes::filled(1, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    apply(&operator, &file("schedule = \"daily at 22:30\"\n"))
        .await
        .expect("a job");
    for (text, says) in [
        (file("schedule = \"nightly\"\n"), "line 4"),
        (file("schedul = \"daily at 22:30\"\n"), "unknown field"),
        (file("").replace("a:db", "x:db"), "there is no store 'x'"),
        (file("").replace("b:db", "x:db"), "there is no sink 'x'"),
        (file("bandwidth_max = 1\n"), "bandwidth_max"),
    ] {
        let refused = apply(&operator, &text).await.expect_err("a bad file");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(says), "{says}: {refused:?}");
    }
    let (job, _) = look_up(&operator).await;
    assert_eq!(job.schedule, "daily at 22:30");
}
