//! Mirror: B becomes equal to A, what is equal is not read, what differs alone is sent, and nothing goes that was not allowed to.

use std::path::Path;

use strait_common::engine::{Claim, Division, DivisionKind, Outcome, Table};
use strait_common::ids::RunId;
use strait_common::key::{Cell, PartitionKey};
use strait_common::value::Value;
use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent, selectors};
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{self, Lakes, label};

const DAYS: u32 = 8;
const ROWS: u64 = 400;

fn mirror(check: v1::Check, allow_drop: u64) -> v1::Mode {
    v1::Mode {
        kind: v1::mode::Kind::Mirror.into(),
        check: check.into(),
        allow_drop,
        again: false,
    }
}

/// Both agents over filled lakes, with a hand on each engine.
struct Pair {
    lakes: Lakes,
    operator: Operator,
    hands: [Hand; 2],
    _agents: (SinkAgent, SourceAgent),
}

/// What a night did: how it ended, what was copied and dropped, and what was read at either side to compare.
#[derive(Debug, PartialEq, Eq)]
struct Night {
    status: String,
    copied: Vec<String>,
    dropped: Vec<String>,
    failed: Vec<String>,
    compared: [Vec<String>; 2],
}

impl Pair {
    async fn start() -> Pair {
        let lakes = Lakes::filled(DAYS, ROWS).await;
        let hands = [Hand::default(), Hand::default()];
        let sink = SinkAgent::start_with(&lakes, None, &hands[1], |_| {}).await;
        let source = SourceAgent::start_held(&lakes, &sink.url(), &hands[0], |_| {}).await;
        Pair {
            lakes,
            operator: source.operator(),
            hands,
            _agents: (sink, source),
        }
    }

    async fn night(&self, mode: v1::Mode) -> (Night, v1::Run) {
        self.night_of(selectors(), mode).await
    }

    async fn night_of(&self, selectors: v1::Selectors, mode: v1::Mode) -> (Night, v1::Run) {
        self.hands.iter().for_each(|hand| drop(hand.take_reads()));
        let run = self.operator.run_as(selectors, mode).await;
        let partitions = self.operator.partitions(&run.id).await;
        let of = |state: &str| {
            let partitions = partitions
                .iter()
                .filter(|partition| partition.state == state);
            let mut keys: Vec<_> = partitions.map(|partition| partition.key.clone()).collect();
            keys.sort();
            keys
        };
        let copied = of("done");
        let mut compared = self.hands.each_ref().map(Hand::take_reads);
        // A copy reads A too.
        for label in &copied {
            if let Some(at) = compared[0].iter().position(|read| read == label) {
                compared[0].remove(at);
            }
        }
        let night = Night {
            status: run.status.clone(),
            copied,
            dropped: of("dropped"),
            failed: of("failed"),
            compared,
        };
        (night, run)
    }

    fn b(&self) -> std::path::PathBuf {
        self.lakes.b()
    }
}

fn labels(days: impl IntoIterator<Item = u32>) -> Vec<String> {
    days.into_iter().map(label).collect()
}

fn quiet() -> Night {
    Night {
        status: "done".to_owned(),
        copied: Vec::new(),
        dropped: Vec::new(),
        failed: Vec::new(),
        compared: [Vec::new(), Vec::new()],
    }
}

fn remove_files(lakes: &Lakes, lake: &Path, day: u32) {
    for file in lakes.files(lake, day) {
        std::fs::remove_file(file).expect("a file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_alone_is_read_and_sent_and_the_next_night_reads_nothing() {
    let pair = Pair::start().await;
    let versions = || mirror(v1::Check::Versions, 0);
    let (first, _) = pair.night(versions()).await;
    assert_eq!(
        first,
        Night {
            copied: labels(0..DAYS),
            ..quiet()
        }
    );
    pair.lakes.assert_equal().await;
    let (nothing, run) = pair.night(versions()).await;
    assert_eq!(nothing, quiet());
    let progress = run.progress.expect("progress");
    assert_eq!(
        (progress.wire_bytes, progress.partitions_already),
        (0, u64::from(DAYS))
    );

    // A row too many at B, as many rows but others, a day gone, a file gone, and a compaction.
    let (lakes, a, b) = (&pair.lakes, pair.lakes.a(), pair.b());
    lakes.write_as_a_stranger(&b, 0, 9_000..9_001).await;
    lakes.remove_as_a_stranger(&b, 1);
    lakes.write_as_a_stranger(&b, 1, 9_000..9_000 + ROWS).await;
    lakes.remove_as_a_stranger(&b, 2);
    remove_files(lakes, &b, 3);
    lakes.compact_as_a_stranger(&b, 4);
    // A day that goes on at A, one that is compacted there, and one that is new.
    lakes.write(&a, 5, ROWS..ROWS + 10).await;
    lakes.compact_as_a_stranger(&a, 6);
    lakes.write(&a, DAYS, 0..ROWS).await;
    let (healed, run) = pair.night(versions()).await;
    let expected = Night {
        copied: labels([0, 1, 2, 3, 5, DAYS]),
        // Where row counts told nothing: B where it is not as its receipt left it, A where it is not as it was copied.
        compared: [labels([6]), labels([1, 3, 4])],
        ..quiet()
    };
    assert_eq!(healed.copied, expected.copied, "{run:?}");
    assert_eq!(healed.compared[0], expected.compared[0], "{run:?}");
    assert!(
        healed.compared[1]
            .iter()
            .all(|label| labels([0, 1, 3, 4]).contains(label)),
        "{healed:?}"
    );
    assert_eq!(healed.status, "done", "{run:?}");
    pair.lakes.assert_equal().await;
    // What was found equal is known now.
    let (nothing, _) = pair.night(versions()).await;
    assert_eq!(nothing, quiet());
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_find_what_no_version_tells() {
    let pair = Pair::start().await;
    let versions = || mirror(v1::Check::Versions, 0);
    pair.night(versions()).await;
    // A flipped byte in the middle of a file: name and size stay.
    let file = pair.lakes.files(&pair.b(), 2).remove(0);
    let mut bytes = std::fs::read(&file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&file, bytes).expect("a file");
    let (unseen, _) = pair.night(versions()).await;
    assert_eq!(unseen, quiet());
    let (healed, run) = pair.night(mirror(v1::Check::Digests, 0)).await;
    let expected = Night {
        copied: labels([2]),
        compared: [labels(0..DAYS), labels(0..DAYS)],
        ..quiet()
    };
    assert_eq!(healed, expected, "{run:?}");
    pair.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_cannot_be_read_to_compare_it_fails_alone_and_a_pause_does_not_wait() {
    let pair = Pair::start().await;
    let lakes = &pair.lakes;
    pair.night(mirror(v1::Check::Versions, 0)).await;
    // The middle of A's file is spoilt, so it can be listed and not read.
    let file = lakes.files(&lakes.a(), 2).remove(0);
    let whole = std::fs::read(&file).expect("a file");
    let mut bytes = whole.clone();
    bytes[4..200].fill(0xff);
    std::fs::write(&file, bytes).expect("a file");
    let (night, run) = pair.night(mirror(v1::Check::Digests, 0)).await;
    assert_eq!(
        (night.status.as_str(), night.failed),
        ("partial", labels([2])),
        "{run:?}"
    );
    let progress = run.progress.expect("progress");
    assert_eq!(progress.partitions_already, u64::from(DAYS) - 1);
    std::fs::write(&file, whole).expect("a file");

    pair.hands[1].hold(Act::Read, &label(4));
    let request = v1::StartRunRequest {
        selectors: Some(selectors()),
        mode: Some(mirror(v1::Check::Digests, 0)),
        ..v1::StartRunRequest::default()
    };
    let id = pair.operator.start_as(request).await;
    pair.hands[1].is_holding(&label(4)).await;
    let paused = pair.operator.pause(&id).await.expect("it is under way");
    assert_eq!(paused.status, "paused", "{paused:?}");
    pair.hands[1].release();
    pair.operator.resume(&id).await;
    let run = pair.operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_windows_and_strange_rows_at_b_become_the_source_s() {
    let pair = Pair::start().await;
    // Two windows of every day by append, and a table that somebody else had filled before.
    for condition in ["id < 100", "id >= 100 and id < 300"] {
        let selectors = v1::Selectors {
            r#where: Some(condition.to_owned()),
            ..selectors()
        };
        let run = pair.operator.run_as(selectors, v1::Mode::default()).await;
        assert_eq!(run.status, "done", "{run:?}");
    }
    let (healed, _) = pair.night(mirror(v1::Check::Versions, 0)).await;
    assert_eq!(healed.copied, labels(0..DAYS));
    pair.lakes.assert_equal().await;
    let (nothing, _) = pair.night(mirror(v1::Check::Versions, 0)).await;
    assert_eq!(nothing, quiet());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_goes_only_where_as_many_may_go_and_all_else_is_well() {
    let pair = Pair::start().await;
    let (lakes, a) = (&pair.lakes, pair.lakes.a());
    pair.night(mirror(v1::Check::Versions, 0)).await;
    lakes.remove_as_a_stranger(&a, 1);
    lakes.remove_as_a_stranger(&a, 3);
    lakes.write(&a, 5, ROWS..ROWS + 10).await;
    // None may go, then fewer than would.
    for (allowed, named) in [
        (0, "--allow-drop 2"),
        (1, "--allow-drop 1 allows fewer than the 2"),
    ] {
        let (kept, run) = pair.night(mirror(v1::Check::Versions, allowed)).await;
        assert_eq!(
            (kept.status.as_str(), &kept.failed),
            ("partial", &labels([1, 3])),
            "{run:?}"
        );
        for partition in pair.operator.partitions(&run.id).await {
            if partition.state == "failed" {
                assert!(partition.message.contains(named), "{partition:?}");
            }
        }
        let held = lakes.contents(&pair.b()).await;
        assert_eq!(held.len(), DAYS as usize, "nothing has gone");
    }
    // As many as would go may go, and another partition cannot be copied: none goes.
    let hidden = lakes.path("hidden");
    lakes.write(&a, 6, ROWS..ROWS + 10).await;
    let file = lakes.files(&a, 6).pop().expect("a file");
    std::fs::rename(&file, &hidden).expect("a file");
    let (kept, run) = pair.night(mirror(v1::Check::Versions, 2)).await;
    assert_eq!(
        (kept.status.as_str(), kept.failed.len()),
        ("partial", 3),
        "{run:?}"
    );
    assert_eq!(kept.dropped, labels([]), "{run:?}");
    for partition in pair.operator.partitions(&run.id).await {
        if labels([1, 3]).contains(&partition.key) {
            assert!(
                partition.message.contains("1 other partitions have failed"),
                "{partition:?}"
            );
        }
    }
    std::fs::rename(&hidden, &file).expect("a file");
    // What is outside of the selection is neither compared nor dropped.
    let some = v1::Selectors {
        r#where: Some("day < date '2026-01-07'".to_owned()),
        ..selectors()
    };
    let (part, _) = pair.night_of(some, mirror(v1::Check::Versions, 1)).await;
    assert_eq!(part.dropped, labels([1]));
    let (rest, _) = pair.night(mirror(v1::Check::Versions, 1)).await;
    assert_eq!((rest.status.as_str(), rest.dropped), ("done", labels([3])));
    lakes.assert_equal().await;
    // A source that has nothing drops nothing, however much is allowed.
    for day in (0..DAYS).filter(|day| ![1, 3].contains(day)) {
        lakes.remove_as_a_stranger(&a, day);
    }
    let (kept, run) = pair.night(mirror(v1::Check::Versions, 1_000)).await;
    assert_eq!(kept.status, "partial", "{run:?}");
    assert_eq!(lakes.contents(&pair.b()).await.len(), DAYS as usize - 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_has_grown_old_drops_nothing_that_a_has_by_now() {
    let pair = Pair::start().await;
    let (lakes, a, b) = (&pair.lakes, pair.lakes.a(), pair.lakes.b());
    pair.night(mirror(v1::Check::Versions, 0)).await;
    // A run that may drop is paused; it knows A as it was.
    lakes.remove_as_a_stranger(&a, 1);
    pair.hands[1].hold(Act::Read, &label(4));
    let request = v1::StartRunRequest {
        selectors: Some(selectors()),
        mode: Some(mirror(v1::Check::Digests, 9)),
        ..v1::StartRunRequest::default()
    };
    let id = pair.operator.start_as(request).await;
    pair.hands[1].is_holding(&label(4)).await;
    pair.operator.pause(&id).await.expect("it is under way");
    pair.hands[1].release();
    // A goes on: a new day, which somebody else brings to B, and the one that had gone is there again.
    lakes.write(&a, DAYS, 0..ROWS).await;
    lakes.write_as_a_stranger(&b, DAYS, 0..ROWS).await;
    lakes.write(&a, 1, 0..ROWS).await;
    pair.operator.resume(&id).await;
    let run = pair.operator.ended(&id).await;
    assert_eq!(
        run.progress.clone().expect("progress").partitions_dropped,
        0,
        "{run:?}"
    );
    lakes.assert_equal().await;
    let partitions = pair.operator.partitions(&id).await;
    let failed = partitions
        .iter()
        .filter(|partition| partition.state == "failed");
    let failed: Vec<_> = failed.collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    for partition in failed {
        assert!(labels([1, DAYS]).contains(&partition.key), "{partition:?}");
        assert!(
            partition.message.contains("begin a new run"),
            "{partition:?}"
        );
    }
    // Its claim has ended: others may write from here on, and an old plan must not put older rows in the place of theirs.
    let request = v1::ResumeRunRequest { id };
    let refused = pair.operator.control.clone().resume_run(request).await;
    let refused = refused.expect_err("its plan is old");
    assert!(refused.message().contains("--mode mirror"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_partition_counts_as_one_that_goes() {
    let pair = Pair::start().await;
    let (lakes, a) = (&pair.lakes, pair.lakes.a());
    pair.night(mirror(v1::Check::Versions, 0)).await;
    // A day that is there, without rows: its file has none.
    lakes.remove_as_a_stranger(&a, 2);
    let empty = lakes.path("empty.parquet");
    let mut columns = arrow::datatypes::SchemaBuilder::from(&*lakes::schema());
    columns.remove(0);
    let file = std::fs::File::create(&empty).expect("a file");
    let schema = std::sync::Arc::new(columns.finish());
    let writer = parquet::arrow::ArrowWriter::try_new(file, schema, None);
    writer.expect("a writer").close().expect("a footer");
    lakes.add_as_a_stranger(&a, 2, &empty);
    let (kept, run) = pair.night(mirror(v1::Check::Versions, 0)).await;
    assert_eq!(
        (kept.status.as_str(), &kept.failed),
        ("partial", &labels([2])),
        "{run:?}"
    );
    assert_eq!(lakes.contents(&pair.b()).await.len(), DAYS as usize);
    let (gone, run) = pair.night(mirror(v1::Check::Versions, 1)).await;
    assert_eq!(
        (gone.status.as_str(), &gone.dropped),
        ("done", &labels([2])),
        "{run:?}"
    );
    assert_eq!(lakes.contents(&pair.b()).await.len(), DAYS as usize - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_takes_whole_partitions_and_nothing_else() {
    let pair = Pair::start().await;
    let lakes = &pair.lakes;
    let replace = || v1::Mode {
        kind: v1::mode::Kind::Replace.into(),
        ..v1::Mode::default()
    };
    let start = async |condition: Option<&str>, columns: &[&str], mode: v1::Mode| {
        let request = v1::StartRunRequest {
            selectors: Some(v1::Selectors {
                r#where: condition.map(str::to_owned),
                columns: columns.iter().map(|column| (*column).to_owned()).collect(),
                ..selectors()
            }),
            mode: Some(mode),
            ..v1::StartRunRequest::default()
        };
        let reply = pair.operator.control.clone().start_run(request).await;
        reply.map(|reply| reply.into_inner().run.expect("a run").id)
    };
    for mode in [replace(), mirror(v1::Check::Versions, 0)] {
        let refused = start(Some("id < 10"), &[], mode)
            .await
            .expect_err("refused");
        assert!(
            refused.message().contains("only a part of partition day="),
            "{refused}"
        );
    }
    assert!(
        lakes.contents(&pair.b()).await.is_empty(),
        "nothing was made"
    );
    // Twice the same: the rows are there once.
    for _ in 0..2 {
        let id = start(None, &[], replace()).await.expect("a run");
        let run = pair.operator.ended(&id).await;
        assert_eq!(run.status, "done", "{run:?}");
        let progress = run.progress.expect("progress");
        assert_eq!(progress.partitions_done, u64::from(DAYS));
        lakes.assert_equal().await;
    }
    // Columns of B that are not sent would lose what they hold.
    for mode in [replace(), mirror(v1::Check::Versions, 0)] {
        let refused = start(None, &["day", "id", "value"], mode).await;
        let refused = refused.expect_err("refused");
        assert!(refused.message().contains("name"), "{refused}");
    }
    lakes.assert_equal().await;
    // Only the days that are selected, whole.
    lakes.write_as_a_stranger(&pair.b(), 0, 9_000..9_001).await;
    lakes.write_as_a_stranger(&pair.b(), 1, 9_000..9_001).await;
    let id = start(Some("day = date '2026-01-05'"), &[], replace()).await;
    let run = pair.operator.ended(&id.expect("a run")).await;
    assert_eq!(run.progress.expect("progress").partitions_done, 1);
    let held = lakes.contents(&pair.b()).await;
    assert_eq!(held[&label(0)].0, ROWS);
    assert_eq!(held[&label(1)].0, ROWS + 1);
}

/// Levels that Delta does not know go through both agents: copied, compared, replaced and dropped one by one.
#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_buckets_are_mirrored_one_by_one() {
    let lakes = Lakes::empty();
    let level = |column: &str, kind| Division {
        column: column.to_owned(),
        kind,
    };
    let by_day = lakes::wanted();
    let table = Table {
        divisions: vec![
            by_day.divisions[0].clone(),
            level("id", DivisionKind::Range),
            level("name", DivisionKind::Hash { buckets: 10 }),
        ],
        ..by_day
    };
    let a = lakes::open(&lakes.a()).await.sink;
    a.prepare(&table.name, &table, false).await.expect("made");
    let key = |day: u32, ids: &std::ops::Range<u64>, index: u32| {
        let end = |id: u64| Some(Value::Int(id.into()));
        let range = Cell::Range {
            from: end(ids.start),
            to: end(ids.end),
        };
        let bucket = Cell::Bucket { index, count: 10 };
        let mut parts = lakes::key(day).parts().to_vec();
        parts.extend([("id".to_owned(), range), ("name".to_owned(), bucket)]);
        PartitionKey::new(parts).expect("a key")
    };
    let (low, high) = (0..ROWS, ROWS..2 * ROWS);
    // Two ranges of one day, one of them in two buckets, and one of another day.
    let half = low.start..ROWS / 2;
    let parts = [
        (0, &low, 3, half.clone()),
        (0, &low, 4, half.end..low.end),
        (0, &high, 3, high.clone()),
        (1, &high, 3, high.clone()),
    ];
    for (day, range, bucket, ids) in parts {
        let rows = [lakes::rows(day, ids.clone())];
        let what = format!("{ids:?} of day {day}");
        lakes::append_to(&a, &table, key(day, range, bucket), &what, rows).await;
    }
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let night = async |copied: u64, dropped: u64| {
        let mode = mirror(v1::Check::Versions, 1);
        let run = operator.run_as(selectors(), mode).await;
        assert_eq!(run.status, "done", "{run:?}");
        let progress = run.progress.expect("figures");
        let done = (progress.partitions_done, progress.partitions_dropped);
        assert_eq!(done, (copied, dropped));
        lakes.assert_equal().await;
        let verified = operator.verify().await.expect("both sides are read");
        assert_eq!(verified.equal, verified.partitions, "{verified:?}");
    };
    night(4, 0).await;
    let described = lakes::open(&lakes.b()).await.source;
    let described = described.describe(&table.name).await.expect("it is there");
    assert_eq!(described.divisions, table.divisions);
    night(0, 0).await;
    // One of the three partitions of a day changes, another one goes.
    let more = [lakes::rows(0, 0..7)];
    lakes::append_to(&a, &table, key(0, &low, 4), "more", more).await;
    night(1, 0).await;
    let claim = Claim {
        run: RunId::random(),
        table: table.name.clone(),
        agent: "another writer".to_owned(),
        job: "drop".to_owned(),
        taken_at: 0,
    };
    let attachment = a.attach(&claim).await.expect("nobody else writes");
    let gone = key(0, &high, 3);
    attachment.drop_partition(&gone).await.expect("dropped");
    attachment.complete(Outcome::Done).await.expect("ended");
    night(0, 1).await;
}
