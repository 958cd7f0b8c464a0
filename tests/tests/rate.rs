//! How much goes over the wire, and how fast.

use std::time::{Duration, Instant};

use agent_source::compression::Policy;
use agent_source::pace;
use strait_common::frame::Compression;
use strait_proto::v1;
use strait_tests::WAIT_MAX;
use strait_tests::agents::{SinkAgent, SourceAgent, SourceConfig, selectors};
use strait_tests::demo;
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{Lakes, TABLE, label};
use strait_tests::proxy::Proxy;

const FRAME_BYTES_MAX: u64 = 32 << 10;
const ROWS: u64 = 4000;

/// Copies the table over this network; the figures.
async fn copied(lakes: &Lakes, url: &str, policy: Policy) -> v1::Progress {
    copied_as(lakes, url, policy, |_| {}).await
}

async fn copied_as(
    lakes: &Lakes,
    url: &str,
    policy: Policy,
    configure: impl FnOnce(&mut SourceConfig),
) -> v1::Progress {
    let source = SourceAgent::start_with(lakes, url, |config| {
        config.frame_bytes_max = FRAME_BYTES_MAX;
        config.chunk_bytes = 64 << 20;
        config.compression = policy;
        configure(config);
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
    assert_compressed(&auto, &level_1, hand.appends());
    assert!(
        network.taken() >= auto.wire_bytes,
        "the figures count what went over the network"
    );
    sink.crash().await;

    // A limit of our own is as slow as a network.
    let lakes = ticks(rows).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let limited = |config: &mut SourceConfig| config.bandwidth_max = Some(512 << 10);
    let auto = copied_as(&lakes, &sink.url(), Policy::Auto, limited).await;
    assert_compressed(&auto, &level_1, hand.appends());
}

fn assert_compressed(auto: &v1::Progress, level_1: &v1::Progress, frames: u64) {
    assert_eq!(auto.raw_bytes, level_1.raw_bytes);
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

/// At least so much time, which holds on the fastest and on the slowest machine: two runs of several streams each, or one with a limit of its own.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_passes_than_bandwidth_max_and_one_burst() {
    const MAX: u64 = 512 << 10;
    for (of_agent, of_run, runs) in [
        (Some(MAX), None, 2),
        (None, Some(MAX), 1),
        (Some(MAX), Some(4 * MAX), 1),
        (Some(4 * MAX), Some(MAX), 1),
    ] {
        let lakes = Lakes::filled(4, ROWS).await;
        let sink = SinkAgent::start(&lakes).await;
        let network = Proxy::to(sink.address()).await;
        let source = SourceAgent::start_with(&lakes, &network.url(), |config| {
            config.frame_bytes_max = FRAME_BYTES_MAX;
            config.streams_max = 3;
            config.compression = Policy::Fixed(Compression::None);
            config.bandwidth_max = of_agent;
        })
        .await;
        let operator = source.operator();
        let begun = Instant::now();
        let mut ids = Vec::new();
        for run in 0..runs {
            let selectors = v1::Selectors {
                to: format!("b:db/copy{run}"),
                ..selectors()
            };
            let request = v1::StartRunRequest {
                selectors: Some(selectors),
                bandwidth_max: of_run,
                ..v1::StartRunRequest::default()
            };
            ids.push(operator.start_as(request).await);
        }
        let mut wire_bytes = 0;
        for id in &ids {
            let run = operator.ended(id).await;
            assert_eq!(run.status, "done", "{run:?}");
            assert_eq!(run.bandwidth_max, of_run);
            wire_bytes += run.progress.expect("figures").wire_bytes;
        }
        let elapsed = begun.elapsed();
        assert!(
            network.taken() >= wire_bytes,
            "what was counted went over it"
        );
        let burst = pace::burst_bytes(MAX, FRAME_BYTES_MAX);
        assert!(wire_bytes > 10 * burst, "{wire_bytes} bytes");
        let least = Duration::from_secs_f64((wire_bytes - burst) as f64 / MAX as f64);
        assert!(
            elapsed >= least,
            "{wire_bytes} bytes in {elapsed:?}, which takes {least:?} at least: agent {of_agent:?}, run {of_run:?}"
        );
        source.crash().await;
    }
}

/// A byte a second: after a burst of one frame or two the next one would wait for hours.
fn hardly_anything(config: &mut SourceConfig) {
    config.bandwidth_max = Some(1);
    config.compression = Policy::Fixed(Compression::None);
    // So much is never sent: only a stop makes a checkpoint.
    config.chunk_bytes = 1 << 30;
    config.peer_timeout = Duration::from_secs(1);
    config.engine_timeout = Duration::from_secs(1);
    config.grace = 2 * WAIT_MAX;
}

async fn waits_for_bandwidth(source: &SourceAgent) -> String {
    let operator = source.operator();
    let id = operator.start().await;
    let sent = |run: &v1::Run| {
        let progress = run.progress.as_ref();
        progress.is_some_and(|progress| progress.rows_sent > 0)
    };
    operator.until(&id, "has sent a frame", sent).await;
    // Longer than the silence that means death, and than an engine may take.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let run = operator.run(&id).await;
    assert_eq!(
        (run.phase.as_str(), run.attempts),
        ("copying", 1),
        "{run:?}"
    );
    let progress = run.progress.expect("figures");
    assert_eq!(progress.retries, 0);
    assert!(progress.rows_sent < ROWS, "it waits: {progress:?}");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_stop_does_not_wait_for_bandwidth() {
    let lakes = Lakes::filled(1, ROWS).await;
    let hand = Hand::default();
    let sink = SinkAgent::start_with(&lakes, None, &hand, |_| {}).await;
    let source = SourceAgent::start_with(&lakes, &sink.url(), hardly_anything).await;
    let id = waits_for_bandwidth(&source).await;
    source.drain().await;

    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let run = source.operator().ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    let from = hand.begun_from(&label(0));
    assert!(
        from.len() == 2 && from[0] == 0 && from[1] > 0,
        "it goes on from the checkpoint of the stop: {from:?}"
    );
    assert_eq!(hand.appended()[&label(0)], ROWS, "nothing was sent twice");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_does_not_wait_for_bandwidth() {
    let lakes = Lakes::filled(1, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start_with(&lakes, &sink.url(), hardly_anything).await;
    let id = waits_for_bandwidth(&source).await;
    assert_eq!(source.operator().cancel(&id).await.status, "cancelled");
    source.crash().await;
}
