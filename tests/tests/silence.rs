//! A side that does not answer: a network that stalls without closing, an engine that hangs, and a sink that says that it is alive for ever.

use std::time::Duration;

use strait_common::ids::RunId;
use strait_proto::v1;
use strait_proto::v1::alive::Phase;
use strait_proto::v1::copy_request::Body as Request;
use strait_tests::agents::{SinkAgent, SourceAgent};
use strait_tests::by_hand::sink::SinkByHand;
use strait_tests::by_hand::source::{Part, SourceByHand};
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{Lakes, label};
use strait_tests::proxy::Proxy;

const ROWS: u64 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_goes_on_when_a_stalled_network_has_healed() {
    let lakes = Lakes::filled(4, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let network = Proxy::to(sink.address()).await;
    let source = SourceAgent::start_with(&lakes, &network.url(), |config| {
        config.peer_timeout = Duration::from_secs(1);
    })
    .await;
    let operator = source.operator();
    // About one day and a half.
    network.stall_after(1_300_000);
    let id = operator.start().await;
    network.stalled().await;

    // Nobody closes a connection, so only silence can tell; and it is tried again, more than once.
    let waiting = operator
        .until(&id, "waits and has retried", |run| {
            run.phase == "waiting"
                && run
                    .progress
                    .as_ref()
                    .is_some_and(|progress| progress.retries >= 2)
        })
        .await;
    assert!(waiting.message.starts_with("retry "), "{waiting:?}");
    assert!(
        waiting.message.contains("sink b"),
        "the sink is named: {waiting:?}"
    );

    network.heal();
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_eq!(
        hand.appended()[&label(0)],
        ROWS,
        "what is committed is not sent again"
    );
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end_and_the_run_can_be_resumed() {
    let lakes = Lakes::filled(2, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let network = Proxy::to(sink.address()).await;
    let source = SourceAgent::start_with(&lakes, &network.url(), |config| {
        config.peer_timeout = Duration::from_secs(1);
        config.retries_max = 2;
    })
    .await;
    let operator = source.operator();
    network.stall_after(300_000);
    let id = operator.start().await;

    let run = operator.ended(&id).await;
    assert_eq!(
        (run.status.as_str(), run.kind.as_str()),
        ("failed", "unavailable"),
        "{run:?}"
    );
    assert!(run.message.contains("gave up after 2 retries"), "{run:?}");

    network.heal();
    operator.resume(&id).await;
    assert_eq!(operator.ended(&id).await.status, "done");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_engine_is_not_taken_for_a_dead_sink() {
    let lakes = Lakes::filled(2, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let peer_timeout = Duration::from_secs(2);
    let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
        config.peer_timeout = peer_timeout;
    })
    .await;
    let operator = source.operator();
    hand.hold(Act::Append, &label(1));
    let id = operator.start().await;
    hand.is_holding(&label(1)).await;
    // The engine is slow: nothing but Alive passes for longer than the silence that means death.
    tokio::time::sleep(2 * peer_timeout).await;
    hand.release();
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_eq!(
        (run.attempts, run.progress.unwrap().retries),
        (1, 0),
        "nothing was taken for dead"
    );
    assert_eq!(hand.begun_from(&label(1)), [0]);
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_engine_fails_its_partition_and_the_phase_is_named() {
    for (act, phase) in [
        (Act::Begin, "begin"),
        (Act::Append, "append"),
        (Act::Checkpoint, "checkpoint"),
    ] {
        let lakes = Lakes::filled(3, ROWS).await;
        let hand = Hand::default();
        let sink = SinkAgent::start_with(&lakes, None, &hand, |config| {
            config.engine_timeout = Duration::from_millis(300);
        })
        .await;
        let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
            config.retry_wait_max = Duration::from_millis(50);
        })
        .await;
        let operator = source.operator();
        hand.hold(act, &label(1));
        let id = operator.start().await;
        let run = operator.ended(&id).await;
        assert_eq!(run.status, "partial", "{phase}: {run:?}");
        let partitions = operator.partitions(&id).await;
        assert_eq!(partitions[1].state, "failed");
        let message = &partitions[1].message;
        assert!(
            message.contains(&format!("{phase}: ")),
            "{phase}: {message}"
        );
        assert!(message.contains("engine_timeout"), "{phase}: {message}");
        assert_eq!(
            (partitions[0].state.as_str(), partitions[2].state.as_str()),
            ("done", "done")
        );

        hand.release();
        operator.resume(&id).await;
        assert_eq!(operator.ended(&id).await.status, "done");
        lakes.assert_equal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finish_that_hangs_is_waited_for_and_never_done_twice() {
    let lakes = Lakes::filled(3, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |config| {
        config.engine_timeout = Duration::from_millis(300);
    })
    .await;
    let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
        config.retry_wait_max = Duration::from_millis(50);
        config.retries_max = 10_000;
    })
    .await;
    let operator = source.operator();
    hand.hold(Act::Finish, &label(1));
    let id = operator.start().await;
    // Whether it is published nobody knows, so every attempt waits for it and none begins it again.
    let waiting = operator
        .until(&id, "has waited for the finish", |run| {
            run.phase == "waiting" && run.message.contains("still being published")
        })
        .await;
    assert_eq!(waiting.status, "running");
    hand.release();
    let run = operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_eq!(
        hand.begun_from(&label(1)),
        [0],
        "nothing of it was sent again"
    );
    assert_eq!(hand.appended()[&label(1)], ROWS);
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_says_alive_for_ever_does_not_hold_a_run_for_ever() {
    for (phase, name) in [
        (Phase::Begin, "begin"),
        (Phase::Append, "append"),
        (Phase::Checkpoint, "checkpoint"),
        (Phase::Finish, "finish"),
    ] {
        let lakes = Lakes::filled(1, ROWS).await;
        let sink = SinkByHand::busy(phase, Duration::ZERO).await;
        let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
            config.peer_timeout = Duration::from_secs(1);
            config.engine_timeout = Duration::from_secs(1);
            config.retries_max = 1;
        })
        .await;
        let operator = source.operator();
        let id = operator.start().await;
        let run = operator.ended(&id).await;
        assert_eq!(
            (run.status.as_str(), run.kind.as_str()),
            ("failed", "unavailable"),
            "{run:?}"
        );
        assert!(
            run.message.contains(&format!("{name}: ")),
            "{name} is named: {run:?}"
        );
        assert!(run.message.contains("engine_timeout"), "{run:?}");
        assert!(
            run.message.contains(&label(0)),
            "the partition is named: {run:?}"
        );
        assert_eq!(sink.copies(), 2, "one stream an attempt, and one retry");
        let partitions = operator.partitions(&id).await;
        let left: Vec<&v1::RunPartition> = partitions.iter().collect();
        assert_ne!(left[0].state, "done", "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_is_given_the_time_that_it_gives_its_engine() {
    let lakes = Lakes::filled(1, ROWS).await;
    let patience = Duration::from_secs(3);
    let sink = SinkByHand::busy(Phase::Append, patience).await;
    let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
        config.peer_timeout = Duration::from_millis(500);
        config.engine_timeout = Duration::from_millis(500);
        config.retries_max = 0;
    })
    .await;
    let operator = source.operator();
    let id = operator.start().await;
    let run = operator.ended(&id).await;
    assert_eq!(run.kind, "unavailable", "{run:?}");
    assert!(
        run.message.contains("(engine_timeout = 3 s)"),
        "not this side's half second: {run:?}"
    );
    assert!(
        run.progress
            .as_ref()
            .is_some_and(|progress| progress.elapsed_ms >= 3000),
        "given up before the sink would have: {run:?}"
    );
}

/// What an operator is told of a sink that is busy is what the sink says, not what the source thinks.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_sink_names_its_phase_and_the_partition() {
    for (act, phase) in [
        (Act::Begin, Phase::Begin),
        (Act::Append, Phase::Append),
        (Act::Checkpoint, Phase::Checkpoint),
        (Act::Finish, Phase::Finish),
    ] {
        let lakes = Lakes::empty();
        let hand = Hand::default();
        let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
        let source = SourceByHand::new(sink.address(), "db/by_hand");
        source.prepare(source.preparation()).await.expect("a table");
        let run = RunId::random();
        let (epoch, _) = source
            .attach(source.attachment(run))
            .await
            .expect("a claim");
        let opening = v1::Open {
            peer_timeout_ms: 400,
            ..source.opening(run, epoch)
        };
        let mut copy = source.copy(Request::Open(opening)).await.expect("a stream");
        hand.hold(act, &label(1));
        let part = Part::new(1, 30, 1);
        copy.send(part.begin(1)).await;
        for frame in part.frames() {
            copy.send(Request::Frame(frame)).await;
        }
        copy.send(Request::Checkpoint(part.checkpoint())).await;
        let nothing_since = part.finish_with(|finish| {
            finish.chunk_rows = 0;
            finish.chunk_digest = vec![0; 16].into();
        });
        copy.send(nothing_since).await;
        hand.is_holding(&label(1)).await;
        let alive = loop {
            let alive = copy.alive().await;
            if alive.phase() == phase {
                break alive;
            }
        };
        assert_eq!(alive.key, label(1), "{alive:?}");
        assert!(!alive.draining, "{alive:?}");
        hand.release();
    }
}
