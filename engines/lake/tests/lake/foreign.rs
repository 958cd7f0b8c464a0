//! Tables that others made or changed: what is not supported is refused by name, and what Delta allows is read.

use std::fs;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use serde_json::{Value, json};
use strait_common::engine::{Begun, Disposition, Store};
use strait_common::selection::Selection;
use strait_common::{Error, Kind, Result};
use strait_conformance::data::{self, Part};
use strait_conformance::read_all;

use crate::world::{
    CHUNK, World, attach, begin, begun, copy, finish, names, positions, prepare, receipts, stage,
    three_parts, write_parquet,
};

/// The metadata of the table, changed.
fn metadata(world: &World, change: impl FnOnce(&mut Value)) -> Value {
    let versions = world.entries().into_iter().rev();
    let newest = versions
        .flat_map(|version| world.entry(version))
        .find(|action| action.get("metaData").is_some());
    let mut metadata = newest.unwrap();
    change(&mut metadata["metaData"]);
    metadata
}

fn configured(world: &World, key: &str, value: &str) -> Value {
    metadata(world, |metadata| {
        metadata["configuration"][key] = value.into();
    })
}

fn protocol(reader: u32, writer: u32, reader_features: &[&str], writer_features: &[&str]) -> Value {
    let mut protocol = json!({"minReaderVersion": reader, "minWriterVersion": writer});
    if reader == 3 {
        protocol["readerFeatures"] = json!(reader_features);
    }
    if writer == 7 {
        protocol["writerFeatures"] = json!(writer_features);
    }
    json!({"protocol": protocol})
}

/// The first error of reading the table.
async fn read_error(store: &Store) -> Option<Error> {
    let table = data::table_name().unwrap();
    let selection = Selection::everything(&data::schema());
    let listed = match store.source.partitions(&table, &selection).await {
        Ok(partitions) => partitions.try_collect::<Vec<_>>().await.map(|_| ()),
        Err(error) => Err(error),
    };
    store.source.describe(&table).await.err().or(listed.err())
}

fn ensure_refused(what: &str, error: Option<Error>, name: &str) {
    let error = error.unwrap_or_else(|| panic!("{what} was not refused"));
    let text = strait_chain(&error);
    assert_eq!(error.kind(), Kind::Refused, "{what}: {text}");
    assert!(text.contains(name), "{what}: {text}");
}

/// An error with what it came from, as a log shows it.
fn strait_chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_a_reader_would_need_is_refused_by_name() {
    type Make = fn(&World) -> Vec<Value>;
    let cases: Vec<(&str, &str, Make)> = vec![
        (
            "deletion vectors, switched on",
            "delta.enableDeletionVectors",
            |world| {
                vec![
                    protocol(3, 7, &["deletionVectors"], &["deletionVectors"]),
                    configured(world, "delta.enableDeletionVectors", "true"),
                ]
            },
        ),
        ("column mapping by name", "column mapping", |world| {
            vec![
                protocol(2, 5, &[], &[]),
                metadata(world, |metadata| {
                    metadata["configuration"]["delta.columnMapping.mode"] = "name".into();
                    let mut schema: Value =
                        serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
                    for (at, field) in schema["fields"]
                        .as_array_mut()
                        .unwrap()
                        .iter_mut()
                        .enumerate()
                    {
                        field["metadata"]["delta.columnMapping.id"] = (at + 1).into();
                        field["metadata"]["delta.columnMapping.physicalName"] =
                            format!("col-{at}").into();
                    }
                    metadata["schemaString"] = schema.to_string().into();
                }),
            ]
        }),
        ("an unknown reader feature", "sunshine", |_| {
            vec![protocol(3, 7, &["sunshine"], &["sunshine"])]
        }),
        (
            "a known feature that is not supported",
            "typeWidening",
            |_| vec![protocol(3, 7, &["typeWidening"], &["typeWidening"])],
        ),
        ("a reader version to come", "4", |_| {
            vec![protocol(4, 7, &[], &["appendOnly"])]
        }),
    ];
    for (what, name, make) in cases {
        let world = World::prepared().await;
        world.commit(&make(&world));
        let store = world.process().await;
        ensure_refused(what, read_error(&store).await, name);
        ensure_refused(what, attach(&store, 1).await.err(), name);
        ensure_refused(what, prepare(&store).await.err(), name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_file_with_a_deletion_vector_is_refused_by_name() {
    let world = World::prepared().await;
    let [a, ..] = three_parts();
    let attachment = attach(&world.process().await, 1).await.unwrap();
    copy(attachment.as_ref(), &a).await.unwrap();
    let mut add = world.adds().into_values().next().unwrap();
    let path = add["path"].as_str().unwrap().to_owned();
    add["deletionVector"] = json!({"storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L", "sizeInBytes": 40, "cardinality": 6});
    add["dataChange"] = true.into();
    let remove = json!({"remove": {"path": path, "dataChange": true, "deletionTimestamp": 1, "partitionValues": add["partitionValues"], "size": add["size"]}});
    world.commit(&[
        protocol(3, 7, &["deletionVectors"], &["deletionVectors"]),
        remove,
        json!({"add": add}),
    ]);
    ensure_refused(
        "a file with a deletion vector",
        read_error(&world.process().await).await,
        "deletion vector",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_a_writer_would_need_is_refused_by_name_and_still_read() {
    type Make = fn(&World) -> Vec<Value>;
    let cases: Vec<(&str, &str, Make)> = vec![
        ("a writer version to come", "version 8", |_| {
            vec![protocol(1, 8, &[], &[])]
        }),
        (
            "a writer version with constraints",
            "writer version 3",
            |_| vec![protocol(1, 3, &[], &[])],
        ),
        (
            "a writer version with identity columns",
            "writer version 6",
            |_| vec![protocol(1, 6, &[], &[])],
        ),
        ("row tracking", "rowTracking", |_| {
            vec![protocol(1, 7, &[], &["rowTracking", "domainMetadata"])]
        }),
        ("an unknown writer feature", "moonlight", |_| {
            vec![protocol(1, 7, &[], &["appendOnly", "moonlight"])]
        }),
        ("an invariant", "delta.invariants", |world| {
            vec![metadata(world, |metadata| {
                let mut schema: Value =
                    serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
                schema["fields"][2]["metadata"]["delta.invariants"] =
                    json!({"expression": {"expression": "number > 0"}})
                        .to_string()
                        .into();
                metadata["schemaString"] = schema.to_string().into();
            })]
        }),
        (
            "transactions that are forgotten",
            "delta.setTransactionRetentionDuration",
            |world| {
                vec![configured(
                    world,
                    "delta.setTransactionRetentionDuration",
                    "interval 89 days",
                )]
            },
        ),
        (
            "transactions that are forgotten who knows when",
            "interval one moon",
            |world| {
                vec![configured(
                    world,
                    "delta.setTransactionRetentionDuration",
                    "interval one moon",
                )]
            },
        ),
    ];
    for (what, name, make) in cases {
        let world = World::prepared().await;
        let [a, b, _] = three_parts();
        let store = world.process().await;
        let attachment = attach(&store, 1).await.unwrap();
        copy(attachment.as_ref(), &a).await.unwrap();
        let under_way = stage(attachment.as_ref(), &b).await.unwrap();
        world.commit(&make(&world));
        ensure_refused(what, prepare(&store).await.err(), name);
        ensure_refused(what, attach(&store, 1).await.err(), name);
        // A run that was under way finds out when it commits.
        let finished = finish(under_way, &b).await;
        ensure_refused(what, finished.err(), name);
        if !["version 8", "delta.set", "interval"]
            .iter()
            .any(|of| name.contains(of))
        {
            assert!(read_error(&store).await.is_none(), "{what}");
            world.ensure_visible(&[a]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_is_enough_for_the_ledger_is_taken() {
    for retention in [
        "interval 90 days",
        "interval 13 weeks",
        "interval 2160 hours",
    ] {
        let world = World::prepared().await;
        world.commit(&[configured(
            &world,
            "delta.setTransactionRetentionDuration",
            retention,
        )]);
        let [a, ..] = three_parts();
        let attachment = attach(&world.process().await, 1).await.unwrap();
        copy(attachment.as_ref(), &a).await.unwrap();
        world.ensure_visible(&[a]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_append_only_table_takes_rows_and_gives_none_up() {
    let world = World::prepared().await;
    let [a, b, c] = three_parts();
    let store = world.process().await;
    let earlier = attach(&store, 1).await.unwrap();
    // A replace that is under way when the table becomes append only.
    let begin = begun(earlier.as_ref(), &b, Disposition::Replace, None);
    let Begun::Writer(mut under_way) = begin.await.unwrap() else {
        panic!("nothing is committed");
    };
    under_way.append(b.rows(0, b.len()).unwrap()).await.unwrap();
    world.commit(&[configured(&world, "delta.appendOnly", "true")]);
    let finished = under_way.finish(b.receipt().unwrap()).await;
    ensure_refused("a replace under way", finished.err(), "delta.appendOnly");

    let attachment = attach(&store, 1).await.unwrap();
    copy(attachment.as_ref(), &a).await.unwrap();
    let begin = begun(attachment.as_ref(), &c, Disposition::Replace, None);
    ensure_refused("a replace", begin.await.err(), "delta.appendOnly");
    let dropped = attachment.drop_partition(&a.key).await;
    ensure_refused("a drop", dropped.err(), "delta.appendOnly");
    world.ensure_visible(&[a]).await;
}

/// The rows of a partition as a file holds them: without the columns that divide the table.
fn stored(part: &Part) -> RecordBatch {
    part.rows(0, part.len())
        .unwrap()
        .project(&[2, 3, 4])
        .unwrap()
}

fn add(path: &str, size: u64, day: Option<&str>, symbol: Option<&str>) -> Value {
    json!({"add": {
        "path": path, "size": size, "modificationTime": 1, "dataChange": true,
        "partitionValues": {"day": day, "symbol": symbol},
    }})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn files_are_found_wherever_the_log_says_and_whatever_it_says_of_them() {
    let world = World::prepared().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let table = world.table();
    let day = Some("2024-10-04");
    let mut parts = Vec::new();
    let mut actions = Vec::new();
    let mut put =
        |symbol: Option<&str>, place: &std::path::Path, path: &str, stats: Option<Value>| {
            let first = i64::try_from(parts.len()).unwrap() * 10;
            let part = Part::new(Some(20_000), symbol, first..first + 7).unwrap();
            let size = write_parquet(place, &stored(&part));
            let mut action = add(path, size, day, symbol);
            if let Some(stats) = stats {
                action["add"]["stats"] = stats;
            }
            parts.push(part);
            actions.push(action);
        };
    let rows = || Some(json!("{\"numRecords\":7}"));
    put(
        Some("count"),
        &table.join("count.parquet"),
        "count.parquet",
        rows(),
    );
    put(
        Some("none"),
        &table.join("none.parquet"),
        "none.parquet",
        None,
    );
    put(
        Some("no count"),
        &table.join("bounds.parquet"),
        "bounds.parquet",
        Some(json!("{\"minValues\":{\"number\":30}}")),
    );
    // The log's values decide, whatever the directory says.
    let lies = "day=1999-01-01/symbol=lies/x.parquet";
    put(Some("truth"), &table.join(lies), lies, rows());
    put(None, &table.join("ab/c.parquet"), "ab/c.parquet", rows());
    put(
        Some("a b"),
        &table.join("symbol=a b/ä%.parquet"),
        "symbol=a%20b/%C3%A4%25.parquet",
        rows(),
    );
    put(
        Some("x/y"),
        &table.join("symbol=x%2Fy/p.parquet"),
        "symbol=x%252Fy/p.parquet",
        rows(),
    );
    let absolute = elsewhere.path().join("far away.parquet");
    let encoded = absolute.to_str().unwrap().replace(' ', "%20");
    put(Some("absolute"), &absolute, &encoded, rows());
    let absolute = elsewhere.path().join("farther.parquet");
    put(
        Some("url"),
        &absolute,
        &format!("file://{}", absolute.display()),
        rows(),
    );
    world.commit(&actions);
    world.ensure_visible(&parts).await;

    let store = world.process().await;
    let name = data::table_name().unwrap();
    for (partition, _) in read_all(&store, &name).await.unwrap() {
        let label = partition.key.label();
        let known = !["none", "no count"].iter().any(|of| label.contains(of));
        assert_eq!(partition.rows, known.then_some(7), "{label}");
    }
    // They can be replaced as well, by any writer of ours.
    let attachment = attach(&store, 1).await.unwrap();
    for part in &mut parts {
        let newer = part.changed("v2", part.numbers.start + 1000..part.numbers.start + 1003);
        let begin = begun(attachment.as_ref(), &newer, Disposition::Replace, None);
        let Begun::Writer(mut writer) = begin.await.unwrap() else {
            panic!("committed");
        };
        writer.append(newer.rows(0, 3).unwrap()).await.unwrap();
        writer.finish(newer.receipt().unwrap()).await.unwrap();
        *part = newer;
    }
    world.ensure_visible(&parts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_file_on_another_store_is_refused_by_name() {
    let world = World::prepared().await;
    world.commit(&[add("s3://bucket/x.parquet", 10, None, None)]);
    let error = read_error(&world.process().await).await;
    ensure_refused("a file elsewhere", error, "s3://bucket/x.parquet");
}

/// Changes the table below a run that has rows staged.
async fn changed_below(change: impl FnOnce(&mut Value)) -> (World, Result<()>) {
    let world = World::prepared().await;
    let [a, ..] = three_parts();
    let attachment = attach(&world.process().await, 1).await.unwrap();
    let under_way = stage(attachment.as_ref(), &a).await.unwrap();
    world.commit(&[metadata(&world, |metadata| {
        let mut schema: Value =
            serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
        change(&mut schema["fields"]);
        metadata["schemaString"] = schema.to_string().into();
    })]);
    let entries = world.entries();
    let finished = finish(under_way, &a).await.map(|_| ());
    if finished.is_err() {
        assert_eq!(world.entries(), entries, "nothing is committed");
    }
    (world, finished)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn rows_whose_columns_the_table_no_longer_has_are_refused_before_the_commit() {
    type Change = fn(&mut Value);
    let cases: Vec<(&str, &str, Change)> = vec![
        ("another type", "column price", |fields| {
            fields[3]["type"] = "string".into()
        }),
        ("a narrower type", "column number", |fields| {
            fields[2]["type"] = "integer".into()
        }),
        ("no column", "column note", |fields| {
            fields.as_array_mut().unwrap().pop();
        }),
        ("no null", "column note", |fields| {
            fields[4]["nullable"] = false.into()
        }),
        ("one more, never null", "column more", |fields| {
            let more = json!({"name": "more", "type": "long", "nullable": false, "metadata": {}});
            fields.as_array_mut().unwrap().push(more);
        }),
    ];
    for (what, name, change) in cases {
        let (_world, finished) = changed_below(change).await;
        let error = finished.expect_err(what);
        assert_eq!(error.kind(), Kind::Schema, "{what}: {error}");
        assert!(error.to_string().contains(name), "{what}: {error}");
    }
    let (world, finished) = changed_below(|fields| {
        let more = json!({"name": "more", "type": "long", "nullable": true, "metadata": {}});
        fields.as_array_mut().unwrap().push(more);
    })
    .await;
    finished.unwrap();
    let entries = world.entries().len();
    assert_eq!(entries, 4, "create, attach, one more column, finish");
}

/// As long as it was, and not what it was: a disk that lied about a sync.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_staged_file_that_is_no_parquet_any_more_is_never_published() {
    let world = World::prepared().await;
    let [a, ..] = three_parts();
    let older = attach(&world.process().await, 1).await.unwrap();
    stage(older.as_ref(), &a).await.unwrap();
    drop(older);
    let run = (world.table().join("_strait")).join(data::claim(1).unwrap().run.to_string());
    let staged = names(&run.join("stage"))
        .into_iter()
        .find(|name| name.ends_with(".parquet"))
        .unwrap();
    let file = run.join("stage").join(&staged);
    fs::write(&file, vec![0; fs::read(&file).unwrap().len()]).unwrap();

    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    let held = positions(attachment.as_ref()).await;
    let writer = begin(attachment.as_ref(), &a, held.first()).await.unwrap();
    assert_eq!(held[0].rows, CHUNK);
    let entries = world.entries();
    let error = finish(writer, &a).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains(&staged), "{error}");
    assert_eq!(world.entries(), entries);
    // From the start it can still be done.
    let attachment = attach(&store, 1).await.unwrap();
    copy(attachment.as_ref(), &a).await.unwrap();
    assert_eq!(receipts(&store).await.unwrap().len(), 1);
    world.ensure_visible(&[a]).await;
}
