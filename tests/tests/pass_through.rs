//! Pass-through: partitions of a lake that are selected whole arrive at a lake that looks alike as the files that they are, with the same promises as rows have.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, LargeStringArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use strait_common::engine::Table;
use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent, selectors};
use strait_tests::held::{Act, Hand};
use strait_tests::lakes::{self, Lakes, TABLE, label};

/// Rows of a file: so many that it takes several frames, and that a checkpoint comes after it.
const ROWS: u64 = 10_000;
/// Days of lake A, each of two files.
const DAYS: u32 = 4;

/// Both agents over filled lakes, with a hand on each engine.
struct Pair {
    lakes: Lakes,
    operator: Operator,
    hands: [Hand; 2],
    sink: SinkAgent,
    source: SourceAgent,
}

impl Pair {
    async fn start() -> Pair {
        let lakes = Lakes::filled(DAYS, ROWS).await;
        for day in 0..DAYS {
            lakes.write(&lakes.a(), day, ROWS..2 * ROWS).await;
        }
        Pair::over(lakes).await
    }

    async fn over(lakes: Lakes) -> Pair {
        let hands = [Hand::default(), Hand::default()];
        let sink = SinkAgent::start_with(&lakes, None, &hands[1], |_| {}).await;
        let source = SourceAgent::start_held(&lakes, &sink.url(), &hands[0], |_| {}).await;
        Pair {
            operator: source.operator(),
            lakes,
            hands,
            sink,
            source,
        }
    }

    /// Runs this to its end; what became of each partition: its state, its receipt's level, and its message.
    async fn run(&self, selectors: v1::Selectors, mode: v1::Mode) -> Vec<[String; 3]> {
        let run = self.operator.run_as(selectors, mode).await;
        self.partitions(&run.id).await
    }

    async fn partitions(&self, id: &str) -> Vec<[String; 3]> {
        let partitions = self.operator.partitions(id).await.into_iter();
        let shown =
            |partition: v1::RunPartition| [partition.state, partition.level, partition.message];
        partitions.map(shown).collect()
    }
}

fn auto() -> v1::Selectors {
    v1::Selectors {
        pass_through: v1::PassThrough::Auto.into(),
        ..selectors()
    }
}

fn mode(kind: v1::mode::Kind) -> v1::Mode {
    v1::Mode {
        kind: kind.into(),
        ..v1::Mode::default()
    }
}

fn append() -> v1::Mode {
    mode(v1::mode::Kind::Append)
}

fn mirror() -> v1::Mode {
    mode(v1::mode::Kind::Mirror)
}

fn outcome(state: &str, level: &str) -> [String; 3] {
    [state.to_owned(), level.to_owned(), String::new()]
}

fn all(state: &str, level: &str) -> Vec<[String; 3]> {
    vec![outcome(state, level); DAYS as usize]
}

fn labels(days: impl IntoIterator<Item = u32>) -> Vec<String> {
    days.into_iter().map(label).collect()
}

/// What a day's files hold, byte for byte.
fn bytes(lakes: &Lakes, lake: &Path, day: u32) -> Vec<Vec<u8>> {
    let files = lakes.files(lake, day).into_iter();
    let mut contents: Vec<_> = files
        .map(|file| std::fs::read(file).expect("a file"))
        .collect();
    contents.sort();
    contents
}

fn assert_files_are_equal(lakes: &Lakes, days: impl IntoIterator<Item = u32>) {
    for day in days {
        let (a, b) = (bytes(lakes, &lakes.a(), day), bytes(lakes, &lakes.b(), day));
        assert!(!a.is_empty(), "there is something to compare");
        assert!(
            a == b,
            "files of day {day} differ: {} and {}",
            a.len(),
            b.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_partitions_arrive_as_the_files_that_they_are() {
    let pair = Pair::start().await;
    // A small file stays in memory at B until its commit, and has a place of its own there.
    pair.lakes.write(&pair.lakes.a(), DAYS, 0..3).await;
    let run = pair.operator.run_as(auto(), append()).await;
    assert_eq!(run.status, "done", "{run:?}");
    let mut expected = all("done", "bytes");
    expected.push(outcome("done", "bytes"));
    assert_eq!(pair.partitions(&run.id).await, expected);
    assert_files_are_equal(&pair.lakes, 0..=DAYS);
    pair.lakes.assert_equal().await;
    assert_eq!(pair.hands[0].take_files(), labels(0..=DAYS));
    assert_eq!(pair.hands[0].take_reads(), labels([]), "no row was decoded");

    let sizes = |day| {
        bytes(&pair.lakes, &pair.lakes.a(), day)
            .iter()
            .map(Vec::len)
            .sum::<usize>()
    };
    let stored: usize = (0..=DAYS).map(sizes).sum();
    let progress = run.progress.expect("progress");
    let moved = (
        progress.rows_done,
        progress.rows_sent,
        progress.raw_bytes,
        progress.wire_bytes,
    );
    let rows = u64::from(DAYS) * 2 * ROWS + 3;
    assert_eq!(moved, (rows, rows, stored as u64, stored as u64));
    let verified = pair.operator.verify().await.expect("both can be read");
    assert_eq!(
        (verified.equal, verified.partitions),
        (u64::from(DAYS) + 1, u64::from(DAYS) + 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_travels_as_rows_and_the_rest_as_files() {
    let pair = Pair::start().await;
    let day = label(1);
    let day = day.strip_prefix("day=").expect("a day");
    let some = v1::Selectors {
        r#where: Some(format!("day <= '{day}' or id < 100")),
        ..auto()
    };
    let expected = [
        outcome("done", "bytes"),
        outcome("done", "bytes"),
        outcome("done", "received"),
        outcome("done", "received"),
    ];
    assert_eq!(pair.run(some, append()).await, expected);
    assert_files_are_equal(&pair.lakes, 0..2);
    let (a, b) = (
        pair.lakes.contents(&pair.lakes.a()).await,
        pair.lakes.contents(&pair.lakes.b()).await,
    );
    for day in 0..DAYS {
        let key = lakes::key(day).to_string();
        if day < 2 {
            assert_eq!(a[&key], b[&key]);
        } else {
            assert_eq!(b[&key].0, 100);
        }
    }
}

/// What `plan` says, and how a run ends.
async fn planned(pair: &Pair, selectors: &v1::Selectors) -> (String, u64) {
    let request = v1::PlanRequest {
        selectors: Some(selectors.clone()),
        mode: Some(append()),
        ..v1::PlanRequest::default()
    };
    let replies = pair.operator.control.clone().plan(request).await;
    let mut replies = replies.expect("a plan").into_inner();
    let (mut why, mut as_files) = (String::new(), 0);
    while let Some(reply) = replies.message().await.expect("a reply") {
        match reply.body {
            Some(v1::plan_reply::Body::Summary(summary)) => why = summary.rows_because,
            Some(v1::plan_reply::Body::Totals(totals)) => as_files = totals.as_files,
            _ => {}
        }
    }
    (why, as_files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_travels_as_files_or_why_nothing_does() {
    let pair = Pair::start().await;
    assert_eq!(
        planned(&pair, &auto()).await,
        (String::new(), u64::from(DAYS))
    );
    let part = v1::Selectors {
        r#where: Some("id < 5 or day > '2026-01-06'".to_owned()),
        ..auto()
    };
    assert_eq!(planned(&pair, &part).await, (String::new(), 2));
    let columns = v1::Selectors {
        columns: ["day", "id", "value"].map(str::to_owned).to_vec(),
        to: "b:db/narrow".to_owned(),
        ..auto()
    };
    let never = v1::Selectors {
        pass_through: v1::PassThrough::Never.into(),
        ..selectors()
    };
    // B's table has a column more than A's.
    let other = other_table("db/wider");
    let sink = lakes::open(&pair.lakes.b()).await.sink;
    let prepared = sink.prepare(&other.name, &other, false).await;
    prepared.expect("a table");
    let wider = v1::Selectors {
        to: "b:db/wider".to_owned(),
        ..auto()
    };
    for (selectors, why) in [
        (never, "--pass-through never"),
        (columns, "only some of the columns"),
        (wider, "the table at the sink"),
    ] {
        let (because, as_files) = planned(&pair, &selectors).await;
        assert!(
            because.contains(why) && as_files == 0,
            "{because}: {as_files}"
        );
        let run = pair.run(selectors, append()).await;
        assert_eq!(run, all("done", "received"), "{why}");
    }
    assert_eq!(pair.hands[0].take_files(), labels([]));
    let theirs = pair.lakes.contents_of(&pair.lakes.b(), "db/wider").await;
    let rows: Vec<u64> = theirs.values().map(|(rows, _)| *rows).collect();
    assert_eq!(rows, [2 * ROWS; DAYS as usize]);
}

/// A's table with a column that it does not have.
fn other_table(name: &str) -> Table {
    let wanted = lakes::wanted();
    let mut fields: Vec<_> = wanted.schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("more", DataType::Int64, true)));
    Table {
        name: name.parse().expect("a name"),
        schema: Arc::new(Schema::new(fields)),
        ..wanted
    }
}

/// A run that has committed day 0, and of day 1 has checkpointed the first file; the engine does not take the second.
async fn held_in_day_1(pair: &Pair) -> String {
    pair.hands[1].hold_after(Act::Append, &label(1), ROWS);
    let id = pair
        .operator
        .start_as(v1::StartRunRequest {
            selectors: Some(auto()),
            ..v1::StartRunRequest::default()
        })
        .await;
    pair.hands[1].is_holding(&label(1)).await;
    assert_eq!(pair.hands[1].checkpoints(&label(1)), 1);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_goes_on_after_the_last_whole_file() {
    let pair = Pair::start().await;
    let id = held_in_day_1(&pair).await;
    let Pair {
        lakes,
        hands,
        sink,
        source,
        ..
    } = pair;
    source.crash().await;
    let port = sink.address().port();
    sink.crash().await;
    hands[1].release();
    let sink = SinkAgent::start_with(&lakes, Some(port), &hands[1], |_| {}).await;
    let source = SourceAgent::start_held(&lakes, &sink.url(), &hands[0], |_| {}).await;
    let run = source.operator().ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_eq!(hands[1].begun_from(&label(0)), [0]);
    assert_eq!(
        hands[1].begun_from(&label(1)),
        [0, ROWS],
        "from the second file"
    );
    assert_eq!(
        hands[1].appended()[&label(1)],
        2 * ROWS,
        "no file came twice"
    );
    assert_files_are_equal(&lakes, 0..DAYS);
    lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_paused_inside_a_file_leaves_it_and_goes_on_after_the_one_before() {
    let pair = Pair::start().await;
    let id = held_in_day_1(&pair).await;
    let (paused, ()) = tokio::join!(pair.operator.pause(&id), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        pair.hands[1].release();
    });
    assert_eq!(paused.expect("it is under way").status, "paused");
    pair.operator.resume(&id).await;
    let run = pair.operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    let begun = pair.hands[1].begun_from(&label(1));
    assert_eq!((begun[0], begun.last()), (0, Some(&ROWS)), "{begun:?}");
    assert_files_are_equal(&pair.lakes, 0..DAYS);
    pair.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_must_fall_back_begins_the_partition_from_its_start() {
    let pair = Pair::start().await;
    let id = held_in_day_1(&pair).await;
    pair.operator.cancel(&id).await;
    // Meanwhile somebody gives B's table another column, so that A's files are not like B's any more.
    let other = other_table(TABLE);
    let sink = lakes::open(&pair.lakes.b()).await.sink;
    let added = sink.add_columns(&other.name, &other, false).await;
    assert_eq!(added.expect("a column can be added"), ["more"]);
    pair.hands[1].release();
    pair.operator.resume(&id).await;
    let run = pair.operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_eq!(
        pair.hands[1].begun_from(&label(1)),
        [0, 0],
        "a place among files is none among rows"
    );
    let levels: Vec<String> = (pair.partitions(&id).await.into_iter())
        .map(|[_, level, _]| level)
        .collect();
    assert_eq!(levels, ["bytes", "received", "received", "received"]);
    let b = pair.lakes.contents(&pair.lakes.b()).await;
    let rows: Vec<u64> = b.values().map(|(rows, _)| *rows).collect();
    assert_eq!(rows, [2 * ROWS; DAYS as usize]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_fails_its_partition_by_name_and_nothing_of_it_is_seen() {
    let pair = Pair::start().await;
    let a = pair.lakes.a();
    let damaged = [
        (pair.lakes.files(&a, 1).remove(1), true),
        (pair.lakes.files(&a, 2).remove(0), false),
    ];
    for (file, cut) in &damaged {
        let mut content = std::fs::read(file).expect("a file");
        let end = content.len() - 8;
        if *cut {
            content.truncate(end);
        } else {
            content[end..].fill(0);
        }
        std::fs::write(file, content).expect("a file");
    }
    let run = pair.operator.run_as(auto(), append()).await;
    assert_eq!(run.status, "partial", "{run:?}");
    let partitions = pair.operator.partitions(&run.id).await;
    for (day, partition) in partitions.iter().enumerate() {
        if let Some((file, _)) = day.checked_sub(1).and_then(|at| damaged.get(at)) {
            let name = file.file_name().and_then(|name| name.to_str());
            assert_eq!(partition.state, "failed", "{partition:?}");
            assert_eq!(partition.kind, "corrupt", "{partition:?}");
            assert!(
                partition.message.contains(name.expect("a name")),
                "{partition:?}"
            );
        } else {
            assert_eq!(
                (partition.state.as_str(), partition.level.as_str()),
                ("done", "bytes")
            );
        }
    }
    let b = pair.lakes.contents(&pair.lakes.b()).await;
    let seen: Vec<_> = b.keys().cloned().collect();
    assert_eq!(seen, [lakes::key(0).to_string(), lakes::key(3).to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_have_gone_are_planned_again() {
    let pair = Pair::start().await;
    pair.hands[0].hold(Act::Read, &label(1));
    let id = pair
        .operator
        .start_as(v1::StartRunRequest {
            selectors: Some(auto()),
            ..v1::StartRunRequest::default()
        })
        .await;
    pair.hands[0].is_holding(&label(1)).await;
    let a = pair.lakes.a();
    let before = pair.lakes.files(&a, 1);
    pair.lakes.compact_as_a_stranger(&a, 1);
    before
        .iter()
        .for_each(|file| std::fs::remove_file(file).expect("a file"));
    pair.hands[0].release();
    let run = pair.operator.ended(&id).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert_eq!(pair.partitions(&id).await, all("done", "bytes"));
    assert_files_are_equal(&pair.lakes, 0..DAYS);
    pair.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_reads_nothing_while_nothing_changes_and_heals_what_does() {
    let pair = Pair::start().await;
    let (a, b) = (pair.lakes.a(), pair.lakes.b());
    let reads = || pair.hands.each_ref().map(Hand::take_reads);
    let night = async || {
        let run = pair.operator.run_as(auto(), mirror()).await;
        assert_eq!(run.status, "done", "{run:?}");
        let partitions = pair.operator.partitions(&run.id).await.into_iter();
        let copied: Vec<_> = partitions
            .filter(|partition| partition.state == "done")
            .map(|partition| (partition.key, partition.level))
            .collect();
        (copied, reads())
    };
    let bytes_of = |days: &[u32]| -> Vec<(String, String)> {
        let labels = labels(days.iter().copied());
        labels
            .into_iter()
            .map(|label| (label, "bytes".to_owned()))
            .collect()
    };
    let none = || [labels([]), labels([])];
    assert_eq!(night().await, (bytes_of(&[0, 1, 2, 3]), none()));
    assert_eq!(
        night().await,
        (bytes_of(&[]), none()),
        "nothing has changed"
    );
    // Rows are added at A: their number tells. A file of B is lost: its rows must be looked for.
    pair.lakes.write(&a, 1, 2 * ROWS..2 * ROWS + 10).await;
    std::fs::remove_file(pair.lakes.files(&b, 2).remove(0)).expect("a file");
    let (copied, read) = night().await;
    assert_eq!(copied, bytes_of(&[1, 2]));
    assert_eq!(read, [labels([2]), labels([2])]);
    assert_files_are_equal(&pair.lakes, 0..DAYS);
    // The same rows in other files: both sides are read, and known from then on.
    pair.lakes.compact_as_a_stranger(&a, 3);
    assert_eq!(night().await, (bytes_of(&[]), [labels([3]), labels([3])]));
    assert_eq!(night().await, (bytes_of(&[]), none()));
    // Somebody else writes to B.
    pair.lakes.write_as_a_stranger(&b, 0, 0..5).await;
    let (copied, _) = night().await;
    assert_eq!(copied, bytes_of(&[0]));
    assert_eq!(night().await, (bytes_of(&[]), none()));
    pair.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_rows_of_several_runs_are_told_apart() {
    let pair = Pair::start().await;
    let never = || v1::Selectors {
        pass_through: v1::PassThrough::Never.into(),
        ..selectors()
    };
    assert_eq!(pair.run(never(), append()).await, all("done", "received"));
    // They are there already, however they came.
    let again = pair.run(auto(), append()).await;
    assert_eq!(again, all("already", "received"));
    let replaced = pair.run(auto(), mode(v1::mode::Kind::Replace)).await;
    assert_eq!(replaced, all("done", "bytes"));
    assert_files_are_equal(&pair.lakes, 0..DAYS);
    let again = pair.run(never(), append()).await;
    assert_eq!(again, all("already", "bytes"));
    pair.lakes.write(&pair.lakes.a(), 2, 0..7).await;
    let mirrored = pair.run(never(), mirror()).await;
    let mut expected = all("already", "bytes");
    expected[2] = outcome("done", "received");
    assert_eq!(mirrored, expected);
    pair.lakes.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_carries_the_files_and_b_gets_them() {
    let pair = Pair::start().await;
    let directory = pair.lakes.path("bundle");
    let url = format!("file://{}", directory.display());
    let backup = v1::Selectors {
        to: url.clone(),
        ..auto()
    };
    assert_eq!(pair.run(backup, mirror()).await, all("done", "bytes"));
    let restore = v1::Selectors {
        from: url,
        ..auto()
    };
    assert_eq!(
        pair.run(restore.clone(), mirror()).await,
        all("done", "bytes")
    );
    assert_files_are_equal(&pair.lakes, 0..DAYS);
    pair.lakes.assert_equal().await;
    assert_eq!(pair.run(restore, mirror()).await, all("already", "bytes"));
    // B knows A's versions: over the link nothing is left to do.
    assert_eq!(pair.run(auto(), mirror()).await, all("already", "bytes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_another_layout_is_decoded() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let a = lakes.a();
    // A writer of large strings, as some are: the table's are plain ones.
    let rows = lakes::rows(1, ROWS..ROWS + 50);
    let names = rows.column_by_name("name").expect("names");
    let large = arrow::compute::cast(names, &DataType::LargeUtf8).expect("a cast");
    assert_eq!(large.len(), 50);
    assert!(large.as_any().is::<LargeStringArray>());
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::clone(rows.column(1)), false),
        ("name", large, true),
        ("value", Arc::clone(rows.column(3)), false),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).expect("rows");
    let path = lakes.path("large.parquet");
    let file = std::fs::File::create(&path).expect("a file");
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
    lakes.add_as_a_stranger(&a, 1, &path);
    let pair = Pair::over(lakes).await;
    let mut expected = all("done", "bytes");
    expected[1] = outcome("done", "received");
    assert_eq!(pair.run(auto(), append()).await, expected);
    pair.lakes.assert_equal().await;
    let rows: BTreeMap<_, _> = pair.lakes.contents(&pair.lakes.b()).await;
    assert_eq!(rows[&lakes::key(1).to_string()].0, ROWS + 50);
}
