//! Tables that are divided by ranges and buckets: Delta does not know them, the ledger does, and what neither knows is refused by name.

use std::fs;

use futures::TryStreamExt;
use serde_json::json;
use strait_common::engine::{
    Attachment, Begun, Disposition, Division, DivisionKind, Finished, Holding, Partition, Store,
    Table,
};
use strait_common::key::{Cell, PartitionKey};
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::value::Value;
use strait_common::{Error, Kind, Result};
use strait_conformance::Divided;
use strait_conformance::data::{self, Part, ensure_exactly};

use crate::world::{World, attach, begin, begun, copy, listed, names, positions};

const BUCKETS: Divided = Divided::ValueAndBuckets;

/// Two partitions of one day and one of another; the files of the two differ in nothing that Delta knows.
fn parts() -> [Part; 3] {
    [
        BUCKETS.part(Some(20_000), Some("IBM"), 0..10).unwrap(),
        BUCKETS.part(Some(20_000), Some("MSFT"), 100..107).unwrap(),
        BUCKETS.part(Some(20_001), Some("IBM"), 200..212).unwrap(),
    ]
}

async fn prepared(table: &Table) -> World {
    let world = World::new();
    let sink = world.process().await.sink;
    sink.prepare(&table.name, table, false).await.unwrap();
    world
}

/// A world in which a run has copied these.
async fn copied(parts: &[Part]) -> World {
    let world = prepared(&data::table_of(Some(BUCKETS)).unwrap()).await;
    let attachment = attach(&world.process().await, 1).await.unwrap();
    for part in parts {
        copy(attachment.as_ref(), part).await.unwrap();
    }
    let done = strait_common::engine::Outcome::Done;
    attachment.complete(done).await.unwrap();
    world
}

/// A foreign compaction of one day, by one who knows only Delta: the files of all buckets of the day become one.
fn compact(world: &World, day: &str) {
    let mut adds = world.adds();
    adds.retain(|_, add| add["partitionValues"]["day"] == day);
    assert!(adds.len() > 1, "nothing to compact");
    world.compact_these(adds);
}

async fn replace(attachment: &dyn Attachment, part: &Part) -> Result<Finished> {
    let begin = begun(attachment, part, Disposition::Replace, None).await?;
    let Begun::Writer(mut writer) = begin else {
        panic!("committed");
    };
    writer.append(part.rows(0, part.len())?).await?;
    writer.finish(part.receipt()?).await
}

async fn listed_where(store: &Store, condition: &str) -> Result<Vec<Partition>> {
    let selection = selection(condition)?;
    let table = data::table_name()?;
    let partitions = store.source.partitions(&table, &selection).await?;
    partitions.try_collect().await
}

async fn held_where(store: &Store, condition: &str) -> Result<Vec<Holding>> {
    let selection = selection(condition)?;
    let table = data::table_name()?;
    let holdings = store.sink.holdings(&table, &selection).await?;
    holdings.try_collect().await
}

fn selection(condition: &str) -> Result<Selection> {
    let spec = SelectionSpec {
        predicate: Some(condition.to_owned()),
        ..SelectionSpec::default()
    };
    Selection::resolve(&spec, &data::schema(), 0)
}

fn ensure_unnamed<T: std::fmt::Debug>(what: &str, result: Result<T>) {
    let error: Error = result.expect_err(what);
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Refused, "{what}: {text}");
    for part in ["partition day=2024-10-04", "part-", "no ledger entry names"] {
        assert!(text.contains(part), "{what}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_a_foreign_compaction_has_mixed_is_refused_by_name_and_the_rest_goes_on() {
    let [a, b, c] = parts();
    let world = copied(&[a.clone(), b.clone(), c.clone()]).await;
    compact(&world, "2024-10-04");
    let store = world.process().await;
    // Neither passed over nor taken for another partition, by whoever reads the table or compares with it.
    ensure_unnamed("listing all", listed(&store).await);
    let day = "day = '2024-10-04'";
    ensure_unnamed("listing the day", listed_where(&store, day).await);
    ensure_unnamed("holdings", held_where(&store, day).await);
    // The other day is as it was.
    let other = "day = '2024-10-05'";
    let partitions = listed_where(&store, other).await.unwrap();
    assert_eq!(partitions.len(), 1);
    assert_eq!(partitions[0].key, c.key);
    let held = held_where(&store, other).await.unwrap();
    assert!(held.len() == 1 && held[0].intact, "{held:?}");

    // What runs have copied is known still: nothing is copied twice.
    let attachment = attach(&store, 2).await.unwrap();
    assert_eq!(positions(attachment.as_ref()).await.len(), 3);
    // What would take rows away that nobody can tell apart is refused before a row is written, the rest is done.
    let newer = a.changed("v2", 300..303);
    ensure_unnamed("replace", replace(attachment.as_ref(), &newer).await);
    ensure_unnamed("drop", attachment.drop_partition(&b.key).await);
    let newer = c.changed("v2", 400..403);
    replace(attachment.as_ref(), &newer).await.unwrap();
    let more = BUCKETS.part(Some(20_000), Some("Z"), 500..508).unwrap();
    copy(attachment.as_ref(), &more).await.unwrap();
    assert_eq!(rows(&world), a.len() + b.len() + 3 + more.len());
}

/// How many rows a reader counts that knows Delta alone.
fn rows(world: &World) -> u64 {
    let adds = world.adds().into_values();
    let stats = adds.map(|add| add["stats"].as_str().unwrap().to_owned());
    let counts = stats.map(|stats| serde_json::from_str::<serde_json::Value>(&stats).unwrap());
    counts
        .map(|count| count["numRecords"].as_u64().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn after_the_mixed_rows_are_deleted_the_day_is_copied_again() {
    let [a, b, c] = parts();
    let world = copied(&[a.clone(), b.clone(), c.clone()]).await;
    compact(&world, "2024-10-04");
    // DELETE WHERE day = …, as any Delta program does it.
    let adds = world.adds().into_iter();
    let gone = adds.filter(|(_, add)| add["partitionValues"]["day"] == "2024-10-04");
    let removes = gone.map(|(path, add)| {
        json!({"remove": {"path": path, "dataChange": true, "deletionTimestamp": 1, "partitionValues": add["partitionValues"], "size": add["size"]}})
    });
    world.commit(&removes.collect::<Vec<_>>());
    let store = world.process().await;
    let held = held_where(&store, "day = '2024-10-04'").await.unwrap();
    for holding in &held {
        // A mirror sees that its rows are not those of the receipt.
        assert!(
            !holding.intact && holding.partition.is_none(),
            "{holding:?}"
        );
    }
    assert_eq!(held.len(), 2);
    let attachment = attach(&store, 2).await.unwrap();
    for part in [&a, &b] {
        replace(attachment.as_ref(), part).await.unwrap();
    }
    ensure_visible(&world, &[a, b, c]).await;
}

async fn ensure_visible(world: &World, parts: &[Part]) {
    let table = data::table_name().unwrap();
    let store = world.process().await;
    let rows = strait_conformance::visible_rows(&store, &table);
    if let Err(failure) = ensure_exactly(&rows.await.unwrap(), parts) {
        panic!("{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_compaction_that_lands_during_a_replace_wins() {
    let [a, b, _] = parts();
    let world = copied(&[a.clone(), b.clone()]).await;
    let store = world.process().await;
    let attachment = attach(&store, 2).await.unwrap();
    let newer = a.changed("v2", 300..303);
    let begin = begun(attachment.as_ref(), &newer, Disposition::Replace, None);
    let Begun::Writer(mut writer) = begin.await.unwrap() else {
        panic!("committed");
    };
    writer.append(newer.rows(0, 3).unwrap()).await.unwrap();
    compact(&world, "2024-10-04");
    let entries = world.entries();
    ensure_unnamed("finish", writer.finish(newer.receipt().unwrap()).await);
    assert_eq!(world.entries(), entries, "nothing is committed");
    assert_eq!(rows(&world), a.len() + b.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_ledger_tells_files_apart_after_the_log_was_cleaned_up() {
    let [a, b, c] = parts();
    let world = copied(&[a.clone(), b.clone(), c.clone()]).await;
    world.clean_up().await;
    let keys = |partitions: Vec<Partition>| partitions.into_iter().map(|of| of.key);
    let store = world.process().await;
    let listed_keys: Vec<_> = keys(listed(&store).await.unwrap()).collect();
    let mut expected = [&a, &b, &c].map(|part| part.key.clone());
    expected.sort();
    assert_eq!(listed_keys, expected);
    ensure_visible(&world, &[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_damaged_ledger_is_what_is_told_of_files_that_it_does_not_name() {
    let world = copied(&parts()).await;
    let run = world.table().join("_strait");
    let run = run.join(data::claim(1).unwrap().run.to_string());
    let ledger = names(&run)
        .into_iter()
        .filter(|name| name.ends_with(".json"));
    // All but one are about one partition or none.
    for name in ledger {
        let path = run.join(&name);
        if fs::read_to_string(&path).unwrap().contains("MSFT")
            || fs::read_to_string(&path).unwrap().contains("\"publish\"")
        {
            fs::write(&path, "torn").unwrap();
            let error = listed(&world.process().await).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert!(error.to_string().contains(&name), "{error}");
            return;
        }
    }
    panic!("nothing was published");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_table_can_be_divided_by_ranges_alone() {
    let mut table = data::table_of(None).unwrap();
    table.divisions = vec![Division {
        column: "number".to_owned(),
        kind: DivisionKind::Range,
    }];
    let world = prepared(&table).await;
    let store = world.process().await;
    let described = store.source.describe(&table.name).await.unwrap();
    assert_eq!(described.divisions, table.divisions);
    assert!(world.adds().is_empty());
    let range = |from, to| {
        let cell = Cell::Range {
            from: Some(Value::Int(from)),
            to: Some(Value::Int(to)),
        };
        PartitionKey::new(vec![("number".to_owned(), cell)]).unwrap()
    };
    let part = |key: PartitionKey, numbers| Part::whole_table(numbers).under(key);
    let (low, high) = (part(range(0, 10), 0..10), part(range(10, 20), 10..20));
    let attachment = attach(&store, 1).await.unwrap();
    for part in [&low, &high] {
        copy(attachment.as_ref(), part).await.unwrap();
    }
    ensure_visible(&world, &[low.clone(), high.clone()]).await;
    // The condition leaves the other range out.
    let listed = listed_where(&store, "number < 10").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, low.key);
    // A row that is not where its key says would be lost to such a reader.
    let wrong = part(range(20, 25), 20..28);
    let mut writer = begin(attachment.as_ref(), &wrong, None).await.unwrap();
    let error = writer.append(wrong.rows(0, 8).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    for named in ["column number, row 5", "not in [20,25)"] {
        assert!(error.to_string().contains(named), "{error}");
    }
    drop(writer);
    ensure_visible(&world, &[low, high]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_table_that_is_divided_otherwise_is_refused_by_name() {
    let table = data::table_of(Some(BUCKETS)).unwrap();
    let world = prepared(&table).await;
    let sink = world.process().await.sink;
    let mut other = table.clone();
    other.divisions[1].kind = DivisionKind::Hash { buckets: 16 };
    let error = sink.prepare(&table.name, &other, true).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    for named in [
        "day, 16 buckets of symbol",
        "day, 1048576 buckets of symbol",
    ] {
        assert!(error.to_string().contains(named), "{error}");
    }
    let again = sink.prepare(&table.name, &table, true).await.unwrap();
    assert_eq!(again.created, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_property_that_does_not_fit_the_table_is_refused_by_name() {
    for (text, why) in [
        ("by the moon", "strait.divisions"),
        (r#"[{"column":"moon","kind":"range"}]"#, "moon"),
        (r#"[{"column":"symbol","kind":"value"}]"#, "(day)"),
    ] {
        let world = prepared(&data::table_of(Some(BUCKETS)).unwrap()).await;
        let mut metadata = world.entry(0).into_iter();
        let metadata = metadata.find(|action| action.get("metaData").is_some());
        let mut metadata = metadata.unwrap();
        metadata["metaData"]["configuration"]["strait.divisions"] = text.into();
        world.commit(&[metadata]);
        let table = data::table_name().unwrap();
        let described = world.process().await.source.describe(&table).await;
        let error = described.unwrap_err();
        assert!(
            matches!(error.kind(), Kind::Refused | Kind::Schema),
            "{error}"
        );
        assert!(error.to_string().contains(why), "{error}");
    }
}
