//! Runs that are stopped, lost, adopted, given up and gone on with, by both agents over the lake. What is counted is what the engine at B was
//! asked to append and what B holds, never what an agent says of itself.

use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent, named_run, selectors, source_state};
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{self, Lakes, TABLE, label};

/// Rows of a day: some twenty frames, and a checkpoint after every second one.
const ROWS: u64 = 20_000;

/// A run that has committed day 0 and checkpointed a part of day 1, whose next rows the engine does not take.
async fn run_held_in_day_1(hand: &Hand, operator: &Operator) -> String {
    hand.hold_after(Act::Append, &label(1), ROWS / 2);
    let id = operator.start().await;
    hand.is_holding(&label(1)).await;
    assert!(hand.checkpoints(&label(1)) > 0, "a part of it is staged");
    id
}

/// Day 0 was committed before the stop, day 1 went on from a checkpoint, and the days after it were begun once.
fn assert_nothing_was_sent_twice(hand: &Hand, days: u32) {
    let appended = hand.appended();
    assert_eq!(
        appended[&label(0)],
        ROWS,
        "what is committed is not sent again"
    );
    assert_eq!(hand.begun_from(&label(0)), [0]);
    let begun = hand.begun_from(&label(1));
    assert_eq!(begun.len(), 2, "begun again once: {begun:?}");
    assert!(begun[1] > 0, "it went on from its checkpoint: {begun:?}");
    let again = appended[&label(1)] - ROWS;
    assert!(
        again < ROWS / 4,
        "only what no checkpoint covers is sent again: {again} rows, begun from {begun:?}"
    );
    for day in 2..days {
        assert_eq!(appended[&label(day)], ROWS);
        assert_eq!(hand.begun_from(&label(day)), [0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_is_resumed_and_ends_equal() {
    let lakes = Lakes::filled(4, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let id = run_held_in_day_1(&hand, &operator).await;

    let cancelled = operator.cancel(&id).await;
    assert_eq!(cancelled.status, "cancelled");
    assert_ne!(cancelled.ended_at, 0);
    let day_0_alone = lakes.contents(&lakes.b()).await;
    assert_eq!(day_0_alone.len(), 1, "a part of a day is not visible");

    // Its claim stays, so that nobody else appends what it has staged.
    let refused = operator.try_start().await.expect_err("the target is owned");
    assert_eq!(named_run(&refused), Some(id.clone()), "{refused:?}");
    assert!(
        refused.message().contains("strait runs resume"),
        "{refused:?}"
    );

    hand.release();
    operator.resume(&id).await;
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_nothing_was_sent_twice(&hand, 4);
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_checkpoints_and_goes_on_only_when_it_is_resumed() {
    let lakes = Lakes::filled(4, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let id = run_held_in_day_1(&hand, &operator).await;
    let checkpoints = hand.checkpoints(&label(1));
    // It waits for the checkpoint that is under way, so the engine must go on.
    let pausing = tokio::join!(operator.pause(&id), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        hand.release();
    });
    let paused = pausing.0.expect("it is under way");
    assert_eq!(
        (paused.status.as_str(), paused.phase.as_str()),
        ("paused", ""),
        "{paused:?}"
    );
    assert!(
        hand.checkpoints(&label(1)) > checkpoints,
        "what was under way was checkpointed"
    );
    let refused = operator.pause(&id).await.expect_err("it is paused already");
    assert!(refused.message().contains("is paused"), "{refused:?}");
    let refused = operator.try_start().await.expect_err("the target is owned");
    assert!(
        refused.message().contains("strait runs resume"),
        "{refused:?}"
    );
    // Not even a restart of the agent begins it.
    source.drain().await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    assert_eq!(operator.run(&id).await.status, "paused");
    assert!(
        !lakes
            .contents(&lakes.b())
            .await
            .contains_key(&lakes::key(3).to_string())
    );
    operator.resume(&id).await;
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_nothing_was_sent_twice(&hand, 4);
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_source_has_lost_its_state_is_adopted() {
    let lakes = Lakes::filled(4, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let id = run_held_in_day_1(&hand, &source.operator()).await;

    source.crash().await;
    std::fs::remove_dir_all(source_state(&lakes)).unwrap();
    hand.release();
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();

    let refused = operator.try_start().await.expect_err("the target is owned");
    assert_eq!(named_run(&refused), Some(id.clone()), "{refused:?}");
    assert!(
        refused.message().contains("strait runs adopt"),
        "{refused:?}"
    );
    let known = operator
        .control
        .clone()
        .list_runs(v1::ListRunsRequest { limit: 0 })
        .await
        .unwrap();
    assert_eq!(
        known.into_inner().runs,
        [],
        "a refused run leaves nothing behind"
    );

    let adopt = v1::AdoptRunRequest {
        id: id.clone(),
        to: selectors().to,
    };
    operator.control.clone().adopt_run(adopt).await.unwrap();
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_nothing_was_sent_twice(&hand, 4);
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_source_has_lost_its_state_can_be_abandoned() {
    let lakes = Lakes::filled(3, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let id = run_held_in_day_1(&hand, &source.operator()).await;

    source.crash().await;
    std::fs::remove_dir_all(source_state(&lakes)).unwrap();
    hand.release();
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    assert_ne!(staged_files(&lakes), 0, "the lost run has staged something");

    let abandon = v1::AbandonRunRequest {
        id: id.clone(),
        to: selectors().to,
    };
    operator.control.clone().abandon_run(abandon).await.unwrap();
    assert_eq!(staged_files(&lakes), 0, "what it had staged is gone");
    assert_eq!(
        lakes.contents(&lakes.b()).await.len(),
        1,
        "what it had committed stays"
    );

    let next = operator.start().await;
    assert_ne!(next, id);
    let run = operator.ended(&next).await;
    assert_eq!(run.status, "done", "{run:?}");
    let progress = run.progress.unwrap();
    assert_eq!(progress.partitions_already, 1, "day 0 is there already");
    assert_eq!(
        hand.begun_from(&label(1)),
        [0, 0],
        "day 1 begins from its start"
    );
    assert_eq!(hand.appended()[&label(0)], ROWS);
    lakes.assert_equal().await;
}

/// Parquet files in the directories that no reader looks into.
fn staged_files(lakes: &Lakes) -> usize {
    fn count(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries
            .map(|entry| entry.expect("it is there").path())
            .map(|path| match path.is_dir() {
                true => count(&path),
                false => usize::from(path.extension().is_some_and(|ext| ext == "parquet")),
            })
            .sum()
    }
    count(&lakes.b().join(TABLE).join("_strait"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_by_itself_after_both_agents_were_restarted() {
    let lakes = Lakes::filled(4, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let port = sink.address().port();
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let id = run_held_in_day_1(&hand, &source.operator()).await;

    source.crash().await;
    sink.crash().await;
    hand.release();
    let sink = SinkAgent::start_with(&lakes, Some(port), &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();

    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert!(run.attempts >= 2, "{run:?}");
    assert_nothing_was_sent_twice(&hand, 4);
    let rows: u64 = operator
        .partitions(&id)
        .await
        .iter()
        .map(|partition| partition.rows)
        .sum();
    assert_eq!(rows, 4 * ROWS, "by the receipts");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_source_leaves_a_run_that_goes_on() {
    let lakes = Lakes::filled(4, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let id = run_held_in_day_1(&hand, &source.operator()).await;

    // The engine takes what is on its way, and the source checkpoints it before it stops.
    let released = async {
        hand.release();
    };
    tokio::join!(source.drain(), released);
    let stopped = lakes.contents(&lakes.b()).await;
    assert!(stopped.len() < 4, "it stopped in the middle of the run");

    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let run = source.operator().ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    let sent: u64 = hand.appended().values().sum();
    assert_eq!(
        sent,
        4 * ROWS,
        "a soft stop costs no row: {:?}",
        hand.appended()
    );
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_sink_is_left_at_a_checkpoint_and_costs_no_row() {
    let lakes = Lakes::filled(4, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let (port, url) = (sink.address().port(), sink.url());
    let source = SourceAgent::start(&lakes, &url).await;
    let operator = source.operator();
    let id = run_held_in_day_1(&hand, &operator).await;
    // The source is told, and checkpoints what is under way before it lets go; else it would copy to the end.
    let released = async {
        hand.release();
    };
    tokio::join!(sink.drain(), released);
    let stopped = lakes.contents(&lakes.b()).await;
    assert!(stopped.len() < 4, "it stopped in the middle of the run");

    let _sink = SinkAgent::start_with(&lakes, Some(port), &hand, |_| {}).await;
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    let sent: u64 = hand.appended().values().sum();
    assert_eq!(sent, 4 * ROWS, "a soft stop costs no row");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_under_way_is_attached_to_or_named() {
    let lakes = Lakes::filled(2, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    hand.hold(Act::Append, &label(0));

    // Asked for four times at once, the job is begun once.
    let asked = || operator.try_start();
    let (a, b, c, d) = tokio::join!(asked(), asked(), asked(), asked());
    let replies: Vec<v1::StartRunReply> = [a, b, c, d]
        .into_iter()
        .map(|reply| reply.expect("all of them get the run"))
        .collect();
    let ids: std::collections::BTreeSet<&str> = replies
        .iter()
        .map(|reply| reply.run.as_ref().unwrap().id.as_str())
        .collect();
    assert_eq!(ids.len(), 1, "one run: {ids:?}");
    assert_eq!(replies.iter().filter(|reply| !reply.attached).count(), 1);
    let id = replies[0].run.as_ref().unwrap().id.clone();

    // Another job on the same target is told which run has it.
    let other = v1::StartRunRequest {
        selectors: Some(v1::Selectors {
            r#where: Some("id < 10".to_owned()),
            ..selectors()
        }),
        ..v1::StartRunRequest::default()
    };
    let busy = operator.control.clone().start_run(other).await.unwrap_err();
    assert_eq!(busy.code(), tonic::Code::AlreadyExists);
    assert_eq!(named_run(&busy), Some(id.clone()));

    hand.release();
    assert_eq!(operator.ended(&id).await.status, "done");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_cannot_be_read_does_not_stop_the_others() {
    let lakes = Lakes::filled(5, 3000).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    // Day 1 is missing on disk, day 3 is not what it was.
    let gone = lakes.files(&lakes.a(), 1).remove(0);
    let torn = lakes.files(&lakes.a(), 3).remove(0);
    let kept = (std::fs::read(&gone).unwrap(), std::fs::read(&torn).unwrap());
    std::fs::remove_file(&gone).unwrap();
    let garbage: Vec<u8> = kept.1.iter().map(|byte| byte ^ 0x5A).collect();
    std::fs::write(&torn, garbage).unwrap();

    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let id = operator.start().await;
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "partial", "{run:?}");
    let progress = run.progress.unwrap();
    assert_eq!(
        (progress.partitions_done, progress.partitions_failed),
        (3, 2)
    );
    for (day, partition) in operator.partitions(&id).await.iter().enumerate() {
        let day = u32::try_from(day).unwrap();
        if [1, 3].contains(&day) {
            assert_eq!(partition.state, "failed", "{partition:?}");
            assert!(
                !partition.message.is_empty() && !partition.kind.is_empty(),
                "{partition:?}"
            );
        } else {
            assert_eq!(partition.state, "done", "{partition:?}");
        }
    }
    assert_eq!(
        lakes.contents(&lakes.b()).await.len(),
        3,
        "the others are there"
    );

    std::fs::write(&gone, kept.0).unwrap();
    std::fs::write(&torn, kept.1).unwrap();
    operator.resume(&id).await;
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    for day in [0, 2, 4] {
        assert_eq!(
            hand.appended()[&label(day)],
            3000,
            "what was done is not sent again"
        );
    }
    lakes.assert_equal().await;
}
