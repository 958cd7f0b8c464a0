//! What keeps an operator from a run that would fill B's disk, or touch rows that nobody has spoken of.

use strait_common::config::Percent;
use strait_common::engine::Space;
use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent, selectors};
use strait_tests::held::Hand;
use strait_tests::lakes::Lakes;
use tonic::Status;

const DAYS: u32 = 4;
const ROWS: u64 = 200;

fn mode(kind: v1::mode::Kind) -> v1::Mode {
    v1::Mode {
        kind: kind.into(),
        ..v1::Mode::default()
    }
}

fn disk(free: u64, used: u64) -> Space {
    Space {
        place: "/data/b".to_owned(),
        free,
        used,
    }
}

async fn start(operator: &Operator, mode: v1::Mode, without_room: bool) -> Result<String, Status> {
    let request = v1::StartRunRequest {
        selectors: Some(selectors()),
        mode: Some(mode),
        without_room,
        ..v1::StartRunRequest::default()
    };
    let reply = operator.control.clone().start_run(request).await?;
    Ok(reply.into_inner().run.expect("a run").id)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_somebody_else_are_touched_only_in_a_mode_that_is_named() {
    use v1::mode::Kind;
    let lakes = Lakes::filled(DAYS, ROWS).await;
    lakes.copy_as_a_stranger(&lakes.a(), &lakes.b());
    lakes.write_as_a_stranger(&lakes.b(), 1, 9_000..9_001).await;
    let before = lakes.contents(&lakes.b()).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let refused = start(&operator, mode(Kind::Unspecified), false).await;
    let refused = refused.expect_err("the rows are nobody's");
    for words in ["--mode append", "--mode mirror", "--mode replace"] {
        assert!(refused.message().contains(words), "{refused}");
    }
    let request = v1::PlanRequest {
        selectors: Some(selectors()),
        ..v1::PlanRequest::default()
    };
    let plan = operator
        .control
        .clone()
        .plan(request)
        .await
        .expect("a stream");
    let refused = plan
        .into_inner()
        .message()
        .await
        .expect_err("so does the plan");
    assert!(refused.message().contains("--mode append"), "{refused}");
    assert_eq!(lakes.contents(&lakes.b()).await, before);
    // Who looks is not refused, and a mirror sends what differs alone.
    let totals = operator.verify().await.expect("they can be compared");
    assert_eq!(
        (totals.equal, totals.behind),
        (u64::from(DAYS) - 1, 1),
        "{totals:?}"
    );
    let run = operator.run_as(selectors(), mode(Kind::Mirror)).await;
    let progress = run.progress.expect("progress");
    assert_eq!((run.status.as_str(), progress.partitions_done), ("done", 1));
    lakes.assert_equal().await;
    // From here on they are known.
    let id = start(&operator, mode(Kind::Unspecified), false).await;
    let run = operator.ended(&id.expect("a run")).await;
    assert_eq!(run.status, "done", "{run:?}");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_b_has_no_room_for_is_refused_and_one_that_fits_is_not() {
    use v1::mode::Kind;
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let small = 64 << 20;
    hand.disk_is(disk(small, 1 << 20));
    for kind in [Kind::Append, Kind::Replace, Kind::Mirror] {
        let refused = start(&operator, mode(kind), false).await;
        let refused = refused.expect_err("there is no room");
        assert!(refused.message().contains("64MiB free"), "{refused}");
        assert!(refused.message().contains("--without-room"), "{refused}");
    }
    assert!(lakes.contents(&lakes.b()).await.is_empty());
    let id = start(&operator, mode(Kind::Append), true).await;
    let run = operator.ended(&id.expect("a run")).await;
    assert_eq!(run.status, "done", "{run:?}");
    // What B has already needs no room.
    for kind in [Kind::Append, Kind::Mirror] {
        hand.disk_is(disk(small + 1, 1 << 20));
        let run = operator.run_as(selectors(), mode(kind)).await;
        let progress = run.progress.clone().expect("progress");
        assert_eq!(progress.partitions_already, u64::from(DAYS), "{run:?}");
    }
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_partition_begins_on_a_disk_that_is_fuller_than_allowed() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let hand = Hand::default();
    let full = |config: &mut agent_sink::settings::Config| config.disk_used_max = Percent(80);
    let sink = SinkAgent::start_with(&lakes, None, &hand, full).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let of_100_gib = |used: u64| disk((100 - used) << 30, used << 30);
    hand.disk_is(of_100_gib(81));
    let id = operator.start().await;
    let waits = |run: &v1::Run| run.phase == "waiting" && run.message.contains("disk_used_max");
    let run = operator.until(&id, "waits for room", waits).await;
    assert!(run.message.contains("/data/b is 81 % full"), "{run:?}");
    assert!(lakes.contents(&lakes.b()).await.is_empty());
    hand.disk_is(of_100_gib(80));
    assert_eq!(operator.ended(&id).await.status, "done");
    lakes.assert_equal().await;
}
