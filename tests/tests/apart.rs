//! Appending to a table that is divided otherwise: rows are told apart on the way in, compared by the source's partitions, and never doubled because they came under
//! another key.

use strait_common::digest::Digest;
use strait_common::engine::{Division, DivisionKind, Table};
use strait_common::{Error, Kind};
use strait_proto::v1;
use strait_tests::agents::{Operator, SinkAgent, SourceAgent, selectors};
use strait_tests::lakes::{self, Contents, Lakes, TABLE};

const DAYS: u32 = 5;
const ROWS: u64 = 3_000;
/// A table at A that is not divided.
const WHOLE: &str = "db/whole";

fn undivided(name: &str) -> Table {
    Table {
        name: name.parse().expect("a table name"),
        divisions: Vec::new(),
        ..lakes::wanted()
    }
}

fn sum(contents: &Contents) -> (u64, Digest) {
    let sum = |(rows, digest): (u64, Digest), (more, other): &(u64, Digest)| {
        (rows + more, digest.plus(*other))
    };
    contents.values().fold((0, Digest::default()), sum)
}

fn from_whole() -> v1::Selectors {
    v1::Selectors {
        from: format!("a:{WHOLE}"),
        ..selectors()
    }
}

/// A table of A with the rows of several days in one partition.
async fn write_whole(lakes: &Lakes, days: std::ops::Range<u32>) {
    let (sink, table) = (lakes::open(&lakes.a()).await.sink, undivided(WHOLE));
    let prepared = sink.prepare(&table.name, &table, false).await;
    prepared.expect("the table can be made");
    let batches = days.clone().map(|day| lakes::rows(day, 0..ROWS));
    let what = format!("{days:?}");
    lakes::append_to(&sink, &table, Default::default(), &what, batches).await;
}

async fn append(operator: &Operator, selectors: v1::Selectors, again: bool) -> v1::Run {
    let mode = v1::Mode {
        again,
        ..v1::Mode::default()
    };
    operator.run_as(selectors, mode).await
}

#[tokio::test(flavor = "multi_thread")]
async fn days_join_a_table_without_partitions_and_are_compared_day_by_day() {
    let lakes = Lakes::filled(DAYS, ROWS).await;
    let (b, table) = (lakes::open(&lakes.b()).await.sink, undivided(TABLE));
    let prepared = b.prepare(&table.name, &table, false).await;
    prepared.expect("the table can be made");
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();

    let behind = operator.verify().await.expect("it can be compared");
    assert_eq!(behind.behind, u64::from(DAYS), "{behind:?}");
    let run = append(&operator, selectors(), false).await;
    assert_eq!(run.status, "done", "{run:?}");
    let a = lakes.contents(&lakes.a()).await;
    let there = lakes.contents(&lakes.b()).await;
    assert_eq!(there.keys().collect::<Vec<_>>(), [""]);
    assert_eq!(sum(&there), sum(&a));
    let equal = operator.verify().await.expect("it can be compared");
    assert_eq!(
        (equal.equal, equal.partitions),
        (u64::from(DAYS), u64::from(DAYS))
    );

    // Again, and nothing comes twice.
    let again = append(&operator, selectors(), false).await;
    assert_eq!(again.status, "done", "{again:?}");
    assert_eq!(lakes.contents(&lakes.b()).await, there);

    // The source's partitions are not B's to replace.
    for kind in [v1::mode::Kind::Replace, v1::mode::Kind::Mirror] {
        let request = v1::StartRunRequest {
            selectors: Some(selectors()),
            mode: Some(v1::Mode {
                kind: kind.into(),
                ..v1::Mode::default()
            }),
            ..v1::StartRunRequest::default()
        };
        let refused = operator.control.clone().start_run(request).await;
        let error = Error::from(refused.expect_err("rows of other partitions would go"));
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(
            error.to_string().contains("the source divides by (day)"),
            "{error}"
        );
    }

    // What others have put there is found, in a day of A's or in none.
    let strangers = [lakes::rows(1, 90_000..90_003), lakes::rows(50, 0..7)];
    lakes::append_to(&b, &table, Default::default(), "strangers", strangers).await;
    let differ = operator.verify().await.expect("it can be compared");
    assert_eq!((differ.differs, differ.extra), (1, 1), "{differ:?}");
    assert_eq!(differ.rows_sink, differ.rows_source + 3 + 7, "{differ:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_is_told_apart_into_days_and_does_not_come_again_as_days() {
    // The days that B ends with, in a table of their own to compare with.
    let lakes = Lakes::filled(DAYS, ROWS).await;
    write_whole(&lakes, 0..DAYS).await;
    let (b, table) = (lakes::open(&lakes.b()).await.sink, lakes::wanted());
    let prepared = b.prepare(&table.name, &table, false).await;
    prepared.expect("the table can be made");
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();

    let run = append(&operator, from_whole(), false).await;
    assert_eq!(run.status, "done", "{run:?}");
    assert!(
        run.warnings
            .iter()
            .any(|warning| warning.contains("the sink by (day)")),
        "{run:?}"
    );
    lakes.assert_equal().await;
    let equal = operator
        .verify_as(from_whole())
        .await
        .expect("it can be compared");
    assert_eq!((equal.equal, equal.partitions), (1, 1), "{equal:?}");

    // The same rows from a table that is divided like B: their keys are new to the ledger, and the rows are not.
    let before = lakes.contents(&lakes.b()).await;
    let error = Error::from(operator.try_start().await.expect_err("rows could double"));
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    for named in ["partition (all)", "--again"] {
        assert!(error.to_string().contains(named), "{error}");
    }
    assert_eq!(lakes.contents(&lakes.b()).await, before);

    // A mirror reads what is there, whatever it came as, and brings what is missing.
    lakes.write(&lakes.a(), DAYS, 0..ROWS).await;
    let mirror = v1::Mode {
        kind: v1::mode::Kind::Mirror.into(),
        ..v1::Mode::default()
    };
    let run = operator.run_as(selectors(), mirror).await;
    assert_eq!(run.status, "done", "{run:?}");
    let progress = run.progress.expect("progress");
    let found = (progress.partitions_already, progress.partitions_done);
    assert_eq!(found, (u64::from(DAYS), 1), "{progress:?}");
    lakes.assert_equal().await;
}

/// A table that is divided by ranges of ids.
fn by_ranges(name: &str) -> Table {
    let level = Division {
        column: "id".to_owned(),
        kind: DivisionKind::Range,
    };
    Table {
        divisions: vec![level],
        ..undivided(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_are_cut_anew_do_not_bring_their_rows_again() {
    let lakes = Lakes::empty();
    let a = lakes::open(&lakes.a()).await.sink;
    for (name, parts) in [
        ("db/old", vec![("id=[0,3000)", 0..ROWS)]),
        (
            "db/new",
            vec![("id=[0,1000)", 0..1000), ("id=[1000,3000)", 1000..ROWS)],
        ),
        ("db/later", vec![("id=[3000,4000)", ROWS..ROWS + 10)]),
    ] {
        let table = by_ranges(name);
        let prepared = a.prepare(&table.name, &table, false).await;
        prepared.expect("the table can be made");
        for (key, ids) in parts {
            let key = key.parse().expect("a key");
            lakes::append_to(&a, &table, key, name, [lakes::rows(0, ids)]).await;
        }
    }
    let sink = SinkAgent::start(&lakes).await;
    let source = SourceAgent::start(&lakes, &sink.url()).await;
    let operator = source.operator();
    let from = |table: &str| v1::Selectors {
        from: format!("a:{table}"),
        ..selectors()
    };
    let run = append(&operator, from("db/old"), false).await;
    assert_eq!(run.status, "done", "{run:?}");
    let before = lakes.contents(&lakes.b()).await;

    // Ranges that the first ones do not meet.
    let run = append(&operator, from("db/later"), false).await;
    assert_eq!(run.status, "done", "{run:?}");
    let run = append(&operator, from("db/new"), false).await;
    assert_eq!(
        (run.status.as_str(), run.kind.as_str()),
        ("failed", "refused"),
        "{run:?}"
    );
    assert!(run.message.contains("--again"), "{run:?}");
    let after = lakes.contents(&lakes.b()).await;
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(sum(&after).0, ROWS + 10);
}
