//! Verify waits for nothing for ever: neither for an engine nor for memory nor for a sink, and it gives back what it held.

use std::time::Duration;

use strait_common::{Error, Kind};
use strait_proto::v1::alive::Phase;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent};
use strait_tests::by_hand::sink::SinkByHand;
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{Lakes, label};
use tokio::task::JoinSet;

const DAYS: u32 = 3;
const ROWS: u64 = 2_000;
/// What is waited for a hung engine, far more than one at work takes.
const SHORT: Duration = Duration::from_secs(1);

async fn refused(operator: &Operator) -> Error {
    let status = operator.verify().await.expect_err("it cannot be compared");
    Error::from(status)
}

async fn assert_equal(operator: &Operator) {
    let totals = operator.verify().await.expect("it can be compared");
    assert_eq!(
        (totals.partitions, totals.equal),
        (u64::from(DAYS), u64::from(DAYS)),
        "{totals:?}"
    );
}

/// Both agents after a run, each engine in a hand and each budget as small as one stream needs, so that a lease that is kept would be missed.
async fn pair(sink_hand: &Hand, source_hand: &Hand) -> (Lakes, SinkAgent, SourceAgent) {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start_with(&lakes, None, sink_hand, |config| {
        config.engine_timeout = SHORT;
        config.memory_bytes = 64 << 20;
    })
    .await;
    let source = SourceAgent::start_held(&lakes, &sink.url(), source_hand, |config| {
        // More patient than the sink, which is the first to know what hangs.
        config.engine_timeout = 3 * SHORT;
        config.lease_wait_max = SHORT;
        config.memory_bytes = 8 << 20;
    })
    .await;
    let operator = source.operator();
    let id = operator.start().await;
    assert_eq!(operator.ended(&id).await.status, "done");
    (lakes, sink, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_engine_at_either_side_ends_it_and_is_named() {
    let (at_sink, at_source) = (Hand::default(), Hand::default());
    let (_lakes, _sink, source) = pair(&at_sink, &at_source).await;
    let operator = source.operator();
    for (hand, act, on, name) in [
        (&at_sink, Act::Read, label(1), "sink b"),
        (&at_sink, Act::Describe, String::new(), "sink b"),
        (&at_sink, Act::Partitions, String::new(), "sink b"),
        (&at_source, Act::Read, label(1), "read"),
        (&at_source, Act::Describe, String::new(), "describe"),
        (&at_source, Act::Partitions, String::new(), "partitions"),
    ] {
        hand.hold(act, &on);
        // Several times, so that whatever was held and not given back is missed.
        for _ in 0..2 {
            let error = refused(&operator).await;
            assert_eq!(error.kind(), Kind::Unavailable, "{act:?}: {error}");
            let text = error.to_string();
            assert!(text.contains(name), "{act:?}: {text}");
            assert!(text.contains(&on), "{act:?}: {text}");
            assert!(text.contains("engine_timeout"), "{act:?}: {text}");
        }
        hand.release();
        assert_equal(&operator).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_needs_a_hung_engine_waits_and_says_for_what() {
    let (at_sink, at_source) = (Hand::default(), Hand::default());
    let (lakes, _sink, source) = pair(&at_sink, &at_source).await;
    let operator = source.operator();
    at_source.hold(Act::Partitions, "");
    let error = Error::from(operator.try_start().await.expect_err("nothing to plan"));
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("partitions: "), "{error}");
    at_source.release();
    let id = operator.start().await;
    assert_eq!(operator.ended(&id).await.status, "done");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_a_run_holds_is_waited_for_and_then_asked_for() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
        config.lease_wait_max = SHORT;
        config.memory_bytes = 8 << 20;
    })
    .await;
    let operator = source.operator();
    hand.hold(Act::Append, &label(1));
    let id = operator.start().await;
    hand.is_holding(&label(1)).await;
    let error = refused(&operator).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    let text = error.to_string();
    assert!(text.contains("raise `memory`"), "{text}");
    assert!(text.contains("at the source"), "{text}");
    hand.release();
    assert_eq!(operator.ended(&id).await.status, "done");
    assert_equal(&operator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_reads_for_long_is_not_taken_for_dead() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let peer_timeout = Duration::from_secs(1);
    let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
        config.peer_timeout = peer_timeout;
    })
    .await;
    let operator = source.operator();
    let id = operator.start().await;
    assert_eq!(operator.ended(&id).await.status, "done");
    hand.hold(Act::Read, &label(1));
    let mut verifying = JoinSet::new();
    verifying.spawn({
        let operator = operator.clone();
        async move { operator.verify().await }
    });
    hand.is_holding(&label(1)).await;
    tokio::time::sleep(2 * peer_timeout).await;
    hand.release();
    let verified = verifying.join_next().await.expect("it was started");
    let totals = verified.expect("no panic").expect("compared");
    assert_eq!(totals.equal, u64::from(DAYS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_says_nothing_is_given_up() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkByHand::busy(Phase::Append, Duration::ZERO).await;
    let source = SourceAgent::start_with(&lakes, &sink.url(), |config| {
        config.peer_timeout = Duration::from_secs(1);
    })
    .await;
    let error = refused(&source.operator()).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("(peer_timeout)"), "{error}");
}
