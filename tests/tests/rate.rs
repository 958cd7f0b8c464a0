//! How much goes over the wire, and how fast.

use std::time::Duration;

use agent_source::compression::Policy;
use strait_common::frame::Compression;
use strait_proto::v1;
use strait_tests::agents::{SinkAgent, SourceAgent};
use strait_tests::demo;
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{Lakes, TABLE};
use strait_tests::proxy::Proxy;

const FRAME_BYTES_MAX: u64 = 32 << 10;

/// Copies the table over this network; the figures.
async fn copied(lakes: &Lakes, url: &str, policy: Policy) -> v1::Progress {
    let source = SourceAgent::start_with(lakes, url, |config| {
        config.frame_bytes_max = FRAME_BYTES_MAX;
        config.chunk_bytes = 64 << 20;
        config.compression = policy;
    })
    .await;
    let operator = source.operator();
    let run = operator.ended(&operator.start().await).await;
    assert_eq!(run.status, "done", "{run:?}");
    lakes.assert_equal().await;
    source.crash().await;
    run.progress.expect("figures")
}

async fn ticks(rows: u64) -> Lakes {
    let lakes = Lakes::empty();
    demo::fill(&lakes.a(), TABLE, rows, 1).await;
    lakes
}

/// The first 32 frames of a stream go uncompressed, since nothing is known before them. As many again are allowed for a machine that is so busy that
/// one decision sees more of it than of the network.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_carries_no_more_with_auto_than_with_level_1() {
    let rows = 100_000;
    let lakes = ticks(rows).await;
    let sink = SinkAgent::start(&lakes).await;
    // What a level makes of these rows does not depend on the network.
    let level_1 = copied(&lakes, &sink.url(), Policy::Fixed(Compression::Zstd(1))).await;
    sink.crash().await;

    let lakes = ticks(rows).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let network = Proxy::to(sink.address()).await;
    network.throttle(512 << 10);
    let auto = copied(&lakes, &network.url(), Policy::Auto).await;
    assert_eq!(auto.raw_bytes, level_1.raw_bytes);
    let frames = hand.appends();
    assert!(
        frames > 500,
        "the first ones are not most of them: {frames}"
    );
    let allowed = (auto.raw_bytes - level_1.wire_bytes) * 64 / frames;
    assert!(
        auto.wire_bytes <= level_1.wire_bytes + allowed,
        "{} bytes, and level 1 needs {} and {allowed}",
        auto.wire_bytes,
        level_1.wire_bytes
    );
    assert!(
        network.taken() >= auto.wire_bytes,
        "the figures count what went over the network"
    );
}

/// More than 32 and less than 64 frames, so that there is one decision, and it sees that one append took most of the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_waits_for_its_engine_gets_its_frames_uncompressed() {
    let lakes = ticks(7_000).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let label = "trading_day=2026-01-05";
    hand.hold(Act::Append, label);
    let release = async {
        hand.is_holding(label).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        hand.release();
    };
    let url = sink.url();
    let (auto, ()) = tokio::join!(copied(&lakes, &url, Policy::Auto), release);
    let frames = hand.appends();
    assert!((33..64).contains(&frames), "{frames} frames");
    assert_eq!(auto.wire_bytes, auto.raw_bytes, "nothing was compressed");
}
