//! Limits by time of day hold within a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use strait_common::clock::Clock;
use strait_common::frame::Compression;
use strait_tests::agents::{SinkAgent, SourceAgent, source_state};
use strait_tests::eventually;
use strait_tests::lakes::{self, Lakes};

use super::{apply, done, file, look_up};

/// At 4 KiB a second it would take half an hour.
const DAYS: u32 = 6;
const ROWS: u64 = 30_000;

#[tokio::test(flavor = "multi_thread")]
async fn bandwidth_and_streams_change_with_the_time_of_day_while_a_run_goes_on() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let day = i64::from(lakes::FIRST_DAY) * 86_400;
    let clock = Arc::new(AtomicI64::new(day + (22 * 60 + 29) * 60));
    let store = lakes::open(&lakes.a()).await;
    let url = format!("lake://{}", lakes.a().display());
    let state = source_state(&lakes);
    let by = Clock::Set(Arc::clone(&clock));
    let source = SourceAgent::start_by(by, store, &url, state, &sink.url(), |config| {
        config.streams_max = 4;
        config.frame_bytes_max = 32 << 10;
        config.compression = agent_source::compression::Policy::Fixed(Compression::None);
    })
    .await;
    let (agent, operator) = (Arc::clone(source.agent()), source.operator());
    let desk = source.desk().await;
    let at = |hour: i64, minute: i64| {
        clock.store(day + (hour * 60 + minute) * 60, Ordering::Relaxed);
        desk.look();
    };
    let text = file(
        "schedule = \"daily at 22:30\"\nzone = \"UTC\"\npass_through = \"never\"\nbandwidth_max = \"22:00-23:30 = 4KiB, else 1GiB\"\n\
         streams_max = \"22:00-23:00 = 1, 23:00-23:30 = 3, else 1\"\n",
    );
    apply(&operator, &text).await.expect("a job");
    at(22, 30);
    let live = eventually("its run has sent something", async || {
        let live = agent.under_way().pop()?;
        (live.snapshot().totals.spent.rows > 0).then_some(live)
    })
    .await;
    let snapshot = live.snapshot();
    assert_eq!(
        (snapshot.row.streams, snapshot.row.bandwidth_max),
        (1, Some(4 << 10))
    );
    assert_eq!(snapshot.running, 1);
    at(23, 0);
    eventually("it has three streams", async || {
        (live.snapshot().running == 3).then_some(())
    })
    .await;
    let slow = live.snapshot();
    assert_eq!((slow.totals.done, slow.row.streams), (0, 3));
    // What the agent takes up after a restart is what holds now.
    let id = slow.row.id.to_string();
    at(23, 30);
    eventually("the start is done", async || {
        let (_, starts) = look_up(&operator).await;
        (done(&starts) == 1).then_some(())
    })
    .await;
    let run = operator.run(&id).await;
    assert_eq!(run.bandwidth_max, Some(1 << 30), "{run:?}");
    assert_eq!(run.attempts, 1, "no change of limits breaks an attempt");
    lakes.assert_equal().await;
}
