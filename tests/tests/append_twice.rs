//! Appending to partitions that earlier runs have copied rows of: what cannot double a row is done, what could is refused, before a row moves.

use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent, selectors};
use strait_tests::lakes::Lakes;

const DAYS: u32 = 2;
const ROWS: u64 = 100;

async fn run_where(operator: &Operator, condition: Option<&str>, again: bool) -> v1::Run {
    let request = v1::StartRunRequest {
        selectors: Some(v1::Selectors {
            r#where: condition.map(str::to_owned),
            ..selectors()
        }),
        mode: Some(v1::Mode {
            again,
            ..v1::Mode::default()
        }),
        ..v1::StartRunRequest::default()
    };
    let id = operator.start_as(request).await;
    operator.ended(&id).await
}

async fn assert_refused(lakes: &Lakes, operator: &Operator, condition: &str, shown: &[&str]) {
    let before = lakes.contents(&lakes.b()).await;
    let run = run_where(operator, Some(condition), false).await;
    assert_eq!(run.status, "partial", "{condition}: {run:?}");
    for partition in operator.partitions(&run.id).await {
        assert_eq!(partition.state, "failed", "{condition}: {partition:?}");
        for words in shown {
            assert!(
                partition.message.contains(words),
                "{condition}: {partition:?}"
            );
        }
    }
    assert_eq!(lakes.contents(&lakes.b()).await, before, "{condition}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_could_double_rows_is_refused_and_shows_both_conditions() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();

    // The same day twice, the second time until a later minute: as the tutorial's job at 22:30 and again at 22:40.
    let evening = run_where(&operator, Some("id >= 0 and id < 40"), false).await;
    assert_eq!(evening.status, "done", "{evening:?}");
    let both = ["\"id\" < 40", "\"id\" < 60", "--again", "--mode mirror"];
    assert_refused(&lakes, &operator, "id >= 0 and id < 60", &both).await;

    // What is shown to be other rows is appended.
    let late = run_where(&operator, Some("id >= 40 and id < 80"), false).await;
    assert_eq!(late.status, "done", "{late:?}");
    let rest = run_where(&operator, Some("id >= 80"), false).await;
    assert_eq!(rest.status, "done", "{rest:?}");
    lakes.assert_equal().await;

    // Every receipt counts, and not the newest alone.
    assert_refused(
        &lakes,
        &operator,
        "id < 10",
        &["\"id\" < 40", "\"id\" < 10"],
    )
    .await;
    assert_refused(&lakes, &operator, "name = 'x'", &["'x'"]).await;
    let first = run_where(&operator, Some("id >= 0 and id < 40"), false).await;
    assert_eq!(first.status, "done", "{first:?}");
    let progress = first.progress.expect("progress");
    assert_eq!(progress.partitions_already, u64::from(DAYS), "{progress:?}");
    lakes.assert_equal().await;

    // An operator who knows better.
    let known = run_where(&operator, Some("id >= 80 and value < 0"), true).await;
    assert_eq!(known.status, "done", "{known:?}");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_moves_on_appends_only_the_days_that_are_new() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    // Both take the days whole, in other words.
    let week = run_where(&operator, Some("day >= date '2000-01-01'"), false).await;
    assert_eq!(week.status, "done", "{week:?}");
    lakes.write(&lakes.a(), DAYS, 0..ROWS).await;
    let next = run_where(&operator, Some("day >= date '2000-01-08'"), false).await;
    assert_eq!(next.status, "done", "{next:?}");
    let progress = next.progress.expect("progress");
    assert_eq!(progress.partitions_already, u64::from(DAYS), "{progress:?}");
    lakes.assert_equal().await;
    // A day that has changed at A since.
    lakes.write(&lakes.a(), 0, ROWS..2 * ROWS).await;
    let changed = run_where(&operator, None, false).await;
    assert_eq!(changed.status, "partial", "{changed:?}");
    let failed = operator.partitions(&changed.id).await;
    let failed: Vec<_> = failed
        .iter()
        .filter(|each| each.state == "failed")
        .collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].message.contains("changed at the source"),
        "{failed:?}"
    );
}
