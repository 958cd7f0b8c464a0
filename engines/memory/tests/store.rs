//! What the engine in memory promises beside the contract: tests build on it.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of tests may fail as a test may"
)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::{FutureExt, StreamExt, TryStreamExt};
use strait_common::Kind;
use strait_common::budget::Budget;
use strait_common::engine::{Batch, Cursor, Outcome, ReadLimits, Sink, Source, Table};
use strait_common::ids::{RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_memory::{Action, MemorySink, MemorySource, MemoryStore, canonical_rows};

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a future was not ready")
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, false),
        Field::new("t", DataType::Utf8, true),
    ]))
}

fn rows(numbers: std::ops::Range<i64>, width: usize) -> RecordBatch {
    let texts = numbers
        .clone()
        .map(|n| "x".repeat(width * (n % 7) as usize));
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
    RecordBatch::try_new(schema(), vec![numbers, texts]).unwrap()
}

fn store() -> (MemoryStore, TableName, PartitionKey) {
    let store = MemoryStore::new();
    let table: TableName = "db/t".parse().unwrap();
    let key = PartitionKey::default();
    store.create_table(&table, schema(), Vec::new()).unwrap();
    store.insert(&table, &key, &rows(0..100, 10)).unwrap();
    (store, table, key)
}

fn claim(run: u128) -> strait_common::engine::Claim {
    strait_common::engine::Claim {
        run: RunId::from_u128(run),
        table: "db/t".parse().unwrap(),
        agent: "a".to_owned(),
        job: "{}".to_owned(),
        taken_at: 1,
    }
}

#[test]
fn a_snapshot_goes_its_own_way() {
    let (store, table, key) = store();
    let before = store.snapshot();
    store.insert(&table, &key, &rows(100..101, 0)).unwrap();
    assert_eq!(before.rows(&table).unwrap().len(), 100);
    assert_eq!(store.rows(&table).unwrap().len(), 101);
    assert_ne!(store.version(&table, &key), before.version(&table, &key));
}

#[test]
fn a_version_never_returns() {
    let (store, table, key) = store();
    let mut versions = vec![store.version(&table, &key).unwrap()];
    for _ in 0..3 {
        let same = rows(0..100, 10);
        store.replace(&table, &key, &same).unwrap();
        versions.push(store.version(&table, &key).unwrap());
        store.replace(&table, &key, &same.slice(0, 0)).unwrap();
        assert_eq!(store.version(&table, &key), None);
    }
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), 4);
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let (store, table, key) = store();
    let wrong: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    let wrong = RecordBatch::try_from_iter([("n", wrong)]).unwrap();
    let error = store.insert(&table, &key, &wrong).unwrap_err();
    assert_eq!(error.kind(), Kind::Schema, "{error}");
    // A column that may be null may be absent.
    let narrow = rows(0..1, 0).project(&[0]).unwrap();
    store.insert(&table, &key, &narrow).unwrap();
    let last = store.partition_rows(&table, &key).unwrap().pop();
    assert_eq!(last, Some(vec![Some("0".to_owned()), None]));
}

#[test]
fn batches_are_cut_by_bytes_and_a_wide_row_stands_alone() {
    let (store, table, _) = store();
    let source = MemorySource::open(&store);
    let selection = Selection::everything(&schema());
    let partitions = now(source.partitions(&table, &selection)).unwrap();
    let partition = now(partitions.try_collect::<Vec<_>>()).unwrap().remove(0);
    for batch_bytes in [1, 50, 200, 1 << 20] {
        let limits = ReadLimits {
            batch_bytes,
            budget: Budget::new(1 << 20).unwrap(),
        };
        let start = Cursor::start();
        let read = source.read(&table, &selection, &partition, &start, &limits);
        let read: Vec<Batch> = now(now(read).unwrap().try_collect()).unwrap();
        let sizes: Vec<usize> = read.iter().map(|batch| batch.records.num_rows()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 100);
        match batch_bytes {
            1 => assert_eq!(sizes.len(), 100),
            1_048_576 => assert_eq!(sizes.len(), 1),
            _ => assert!(sizes.len() > 10 && sizes.len() < 100, "{sizes:?}"),
        }
    }
}

#[test]
fn a_stream_whose_partition_changes_under_it_ends_with_moved() {
    let (store, table, key) = store();
    let source = MemorySource::open(&store);
    let selection = Selection::everything(&schema());
    let partitions = now(source.partitions(&table, &selection)).unwrap();
    let partition = now(partitions.try_collect::<Vec<_>>()).unwrap().remove(0);
    let limits = ReadLimits {
        batch_bytes: 200,
        budget: Budget::new(1 << 20).unwrap(),
    };
    let start = Cursor::start();
    let read = source.read(&table, &selection, &partition, &start, &limits);
    let mut read = now(read).unwrap();
    assert!(now(read.next()).unwrap().is_ok());
    store.insert(&table, &key, &rows(100..101, 0)).unwrap();
    let error = now(read.next()).unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::Moved, "{error}");
    assert!(
        now(read.next()).is_none(),
        "a stream goes on after its error"
    );
}

#[test]
fn a_dead_process_stays_dead_and_others_live() {
    let (store, table, _) = store();
    let dead = MemorySink::open(&store);
    dead.steps().at(1, Action::Crash);
    let error = now(dead.attach(&claim(1))).unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error}");
    assert!(dead.steps().crashed());
    assert!(now(dead.claim(&table)).is_err());
    let alive = MemorySink::open(&store);
    assert_eq!(
        now(alive.claim(&table)).unwrap(),
        None,
        "the step had no effect"
    );
    let attachment = now(alive.attach(&claim(1))).unwrap();
    alive.steps().crash_now();
    assert!(now(attachment.complete(Outcome::Done)).is_err());
    let held = now(MemorySink::open(&store).claim(&table)).unwrap();
    assert_eq!(held, Some(claim(1)));
}

#[test]
fn a_crash_at_the_return_keeps_the_effect() {
    let (store, table, _) = store();
    let steps_of_attach = {
        let sink = MemorySink::open(&store.snapshot());
        now(sink.attach(&claim(1))).unwrap();
        sink.steps().taken()
    };
    let sink = MemorySink::open(&store);
    sink.steps().at(steps_of_attach, Action::Crash);
    assert!(now(sink.attach(&claim(1))).is_err());
    let held = now(MemorySink::open(&store).claim(&table)).unwrap();
    assert_eq!(held, Some(claim(1)));
}

#[test]
fn a_table_that_is_there_is_compared_with_the_wanted_one() {
    let (store, table, _) = store();
    let sink = MemorySink::open(&store);
    let mut wanted = Table {
        name: table.clone(),
        schema: schema(),
        divisions: Vec::new(),
        recipe: None,
    };
    wanted.schema = Arc::new(schema().project(&[1]).unwrap());
    let error = now(sink.prepare(&table, &wanted, true)).unwrap_err();
    assert_eq!(error.kind(), Kind::Schema, "n may not be null: {error}");
    wanted.schema = Arc::new(schema().project(&[0]).unwrap());
    assert!(now(sink.prepare(&table, &wanted, true)).is_ok());
    wanted.divisions.push(strait_common::engine::Division {
        column: "n".to_owned(),
        kind: strait_common::engine::DivisionKind::Value,
    });
    let prepared = now(sink.prepare(&table, &wanted, true)).unwrap();
    assert_eq!(prepared.divided_otherwise.as_deref(), Some("nothing"));
}

#[test]
fn null_and_the_empty_text_are_told_apart() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![None, Some(""), Some("null")]));
    let batch = RecordBatch::try_from_iter([("t", texts)]).unwrap();
    let text = |t: &str| vec![Some(t.to_owned())];
    assert_eq!(
        canonical_rows(&batch).unwrap(),
        [vec![None], text(""), text("null")]
    );
}
