//! Values of partition columns: written by the sink, they come back from the source as they were.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Builder, Int64Array, Int64Builder, LargeListBuilder, ListBuilder,
    MapBuilder, RecordBatch, StringArray, StringBuilder, StructArray, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use strait_common::digest::{Digest, DigestId, digest};
use strait_common::engine::{
    Begun, Claim, Cursor, Disposition, Division, DivisionKind, Level, Mark, Origin, Outcome,
    Partition, Receipt, Store, Table, Version,
};
use strait_common::ids::{RunId, TableName};
use strait_common::key::{Cell, PartitionKey};
use strait_common::value::Value;
use strait_common::{Kind, Result};
use strait_conformance::read_all;
use strait_lake::partition_values::column_of;

use crate::world::World;

/// A table that is divided by these columns, with the number of the row beside them.
struct Keyed {
    table: Table,
}

impl Keyed {
    fn new(name: &str, columns: &[(&str, DataType)]) -> Keyed {
        let mut fields: Vec<Field> = columns
            .iter()
            .map(|(name, data_type)| Field::new(*name, data_type.clone(), true))
            .collect();
        fields.insert(1, Field::new("number", DataType::Int64, false));
        let by = |(column, _): &(&str, DataType)| Division {
            column: (*column).to_owned(),
            kind: DivisionKind::Value,
        };
        Keyed {
            table: Table {
                name: TableName::new("keys", name).unwrap(),
                schema: Arc::new(Schema::new(fields)),
                divisions: columns.iter().map(by).collect(),
                recipe: None,
            },
        }
    }

    fn schema(&self) -> &SchemaRef {
        &self.table.schema
    }

    fn key(&self, cells: &[Cell]) -> PartitionKey {
        let columns = self.table.divisions.iter();
        let parts = columns.zip(cells);
        PartitionKey::new(
            parts
                .map(|(division, cell)| (division.column.clone(), cell.clone()))
                .collect(),
        )
        .unwrap()
    }

    /// Three rows of a partition.
    fn rows(&self, key: &PartitionKey, first: i64) -> RecordBatch {
        let columns = self.schema().fields().iter().map(|field| {
            let column: ArrayRef = match key.cell(field.name()) {
                Some(cell) => column_of(cell, field.data_type(), 3).unwrap(),
                None => Arc::new(Int64Array::from(vec![first, first + 1, first + 2])),
            };
            column
        });
        RecordBatch::try_new(Arc::clone(self.schema()), columns.collect()).unwrap()
    }

    async fn copy(&self, store: &Store, keys: &[PartitionKey]) -> Result<()> {
        let rows = (0..).step_by(10).zip(keys);
        let rows = rows.map(|(first, key)| (key.clone(), self.rows(key, first)));
        self.copy_rows(store, rows.collect()).await
    }

    async fn copy_rows(
        &self,
        store: &Store,
        partitions: Vec<(PartitionKey, RecordBatch)>,
    ) -> Result<()> {
        let name = &self.table.name;
        store.sink.prepare(name, &self.table, false).await?;
        let claim = Claim {
            run: RunId::from_u128(1),
            table: name.clone(),
            agent: "keys".to_owned(),
            job: "{}".to_owned(),
            taken_at: 0,
        };
        let attachment = store.sink.attach(&claim).await?;
        for (key, rows) in partitions {
            let partition = Partition {
                key: key.clone(),
                rows: Some(3),
                bytes: None,
                version: Version("v1".to_owned()),
                pin: String::new(),
                origin: Origin::default(),
            };
            let begun = attachment.begin(&partition, Disposition::Append, None);
            let Begun::Writer(mut writer) = begun.await? else {
                panic!("{} is committed", key.label());
            };
            let digest = digest(&rows)?;
            writer.append(rows).await?;
            writer
                .checkpoint(Mark {
                    sequence: 1,
                    cursor: Cursor(Bytes::from_static(b"end")),
                    rows: 3,
                    digest,
                })
                .await?;
            let receipt = Receipt {
                key: key.clone(),
                version: partition.version.clone(),
                rows: 3,
                digest,
                digest_id: DigestId::of(self.schema())?,
                level: Level::Received,
                selection: "everything".to_owned(),
                origin: Origin::default(),
            };
            writer.finish(receipt).await?;
        }
        attachment.complete(Outcome::Done).await
    }

    /// Copies these partitions, and fails unless a new process reads the same keys and rows.
    async fn ensure_come_back(&self, world: &World, keys: &[PartitionKey]) {
        let name = &self.table.name;
        if let Err(error) = self.copy(&world.process().await, keys).await {
            panic!("{name}: {error}");
        }
        let store = world.process().await;
        let described = store.source.describe(name).await.unwrap();
        assert_eq!(described.schema.fields(), self.schema().fields(), "{name}");
        let mut read = BTreeMap::new();
        for (partition, batches) in read_all(&store, name).await.unwrap() {
            assert_eq!(partition.rows, Some(3), "{name}: {}", partition.key.label());
            let sum = batches.iter().map(|batch| digest(batch).unwrap());
            let sum = sum.fold(Digest::default(), Digest::plus);
            read.insert(partition.key, sum);
        }
        let expected: BTreeMap<PartitionKey, Digest> = (0..)
            .step_by(10)
            .zip(keys)
            .map(|(first, key)| (key.clone(), digest(&self.rows(key, first)).unwrap()))
            .collect();
        assert_eq!(expected.len(), keys.len(), "{name}: keys are distinct");
        assert_eq!(read, expected, "{name}");
        // And what is refused to a second run is the same partition, found by its key.
        let receipts = crate::world::receipts_of(&store, name).await.unwrap();
        assert_eq!(receipts.len(), keys.len(), "{name}");
    }
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn at(ns: i128, zoned: bool) -> Value {
    Value::Timestamp { ns, zoned }
}

fn decimal(unscaled: i128, scale: i8) -> Value {
    Value::Decimal { unscaled, scale }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn values_of_every_type_that_divides_come_back() {
    let zone = |zone: &str| Some(Arc::from(zone));
    let timestamp = DataType::Timestamp;
    let day = 86_400_000_000_000_i128;
    let cases: Vec<(&str, DataType, Vec<Value>)> = vec![
        (
            "date",
            DataType::Date32,
            [-719_162, -1, 0, 20_000, 2_932_896].map(Value::Date).into(),
        ),
        (
            "int8",
            DataType::Int8,
            [i8::MIN.into(), 0, i8::MAX.into()].map(Value::Int).into(),
        ),
        ("int16", DataType::Int16, [-300, 300].map(Value::Int).into()),
        (
            "int32",
            DataType::Int32,
            [i32::MIN.into(), 7, i32::MAX.into()].map(Value::Int).into(),
        ),
        (
            "int64",
            DataType::Int64,
            [i64::MIN.into(), 7, i64::MAX.into()].map(Value::Int).into(),
        ),
        ("uint8", DataType::UInt8, [0, 255].map(Value::Int).into()),
        (
            "uint32",
            DataType::UInt32,
            [0, u32::MAX.into()].map(Value::Int).into(),
        ),
        (
            "uint64",
            DataType::UInt64,
            [0, u64::MAX.into()].map(Value::Int).into(),
        ),
        (
            "boolean",
            DataType::Boolean,
            [true, false].map(Value::Bool).into(),
        ),
        (
            "decimal",
            DataType::Decimal128(10, 2),
            [-1, 0, 110, 9_999_999_999].map(|n| decimal(n, 2)).into(),
        ),
        (
            "wide_decimal",
            DataType::Decimal128(38, 10),
            [-(10_i128.pow(38) - 1), 1, 10_i128.pow(38) - 1]
                .map(|n| decimal(n, 10))
                .into(),
        ),
        (
            "whole_decimal",
            DataType::Decimal128(5, 0),
            [-7, 12_345].map(|n| decimal(n, 0)).into(),
        ),
        (
            "micros",
            timestamp(TimeUnit::Microsecond, None),
            [-1000, 0, 1_000, 20_000 * day + 123_456_000]
                .map(|ns| at(ns, false))
                .into(),
        ),
        (
            "utc",
            timestamp(TimeUnit::Microsecond, zone("UTC")),
            [-1000, 0, 20_000 * day + 123_456_000]
                .map(|ns| at(ns, true))
                .into(),
        ),
        (
            "berlin",
            timestamp(TimeUnit::Microsecond, zone("Europe/Berlin")),
            [0, 20_000 * day + 1000].map(|ns| at(ns, true)).into(),
        ),
        (
            "millis",
            timestamp(TimeUnit::Millisecond, None),
            [0, 1_000_000].map(|ns| at(ns, false)).into(),
        ),
        (
            "seconds",
            timestamp(TimeUnit::Second, None),
            [0, 20_000 * day].map(|ns| at(ns, false)).into(),
        ),
        (
            "nanos",
            timestamp(TimeUnit::Nanosecond, zone("UTC")),
            [-1, 1, 20_000 * day + 1].map(|ns| at(ns, true)).into(),
        ),
        (
            "dictionary",
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            ["IBM", "MSFT"].map(string).into(),
        ),
        (
            "time",
            DataType::Time64(TimeUnit::Nanosecond),
            [0, 1].map(Value::Time).into(),
        ),
        ("large", DataType::LargeUtf8, ["a", "b"].map(string).into()),
    ];
    let world = World::new();
    for (name, data_type, values) in cases {
        let keyed = Keyed::new(name, &[("k", data_type)]);
        let mut keys: Vec<PartitionKey> = values
            .into_iter()
            .map(|value| keyed.key(&[Cell::Value(value)]))
            .collect();
        keys.push(keyed.key(&[Cell::Null]));
        keyed.ensure_come_back(&world, &keys).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn texts_of_every_kind_divide_a_table() {
    let long = "long".repeat(100);
    let texts = [
        "/",
        "..",
        "../../up",
        "%",
        "%2F",
        "a=b",
        "=",
        " ",
        " leading and trailing ",
        "東京/Ωß ä€🦀",
        "e\u{301}",
        "\u{e9}",
        "'",
        "\"",
        "it's \"100 %\"",
        "null",
        "NULL",
        "__HIVE_DEFAULT_PARTITION__",
        "a\nb\tc",
        "\u{1}",
        "#?&+:;\\|<>*[]{}^`~",
        "a",
        "A",
        &long,
    ];
    let keyed = Keyed::new("texts", &[("k", DataType::Utf8)]);
    let mut keys: Vec<PartitionKey> = texts
        .iter()
        .map(|text| keyed.key(&[Cell::Value(string(text))]))
        .collect();
    keys.push(keyed.key(&[Cell::Null]));
    keyed.ensure_come_back(&World::new(), &keys).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn columns_of_any_name_divide_a_table_together() {
    let keyed = Keyed::new(
        "three",
        &[
            ("the day", DataType::Date32),
            ("a/b=%2F ü", DataType::Utf8),
            ("n", DataType::Int64),
        ],
    );
    let day = Cell::Value(Value::Date(20_000));
    let text = Cell::Value(string("x/y"));
    let number = Cell::Value(Value::Int(-1));
    let keys = [
        [day.clone(), text.clone(), number.clone()],
        [Cell::Null, text.clone(), number.clone()],
        [day.clone(), Cell::Null, number],
        [day, text, Cell::Null],
        [Cell::Null, Cell::Null, Cell::Null],
    ];
    let keys = keys.map(|cells| keyed.key(&cells));
    keyed.ensure_come_back(&World::new(), &keys).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_empty_string_is_refused_with_its_column() {
    let keyed = Keyed::new("empty", &[("symbol", DataType::Utf8)]);
    let keys = [
        keyed.key(&[Cell::Value(string("IBM"))]),
        keyed.key(&[Cell::Value(string(""))]),
    ];
    let world = World::new();
    let store = world.process().await;
    let error = keyed.copy(&store, &keys).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("column symbol"), "{error}");
    assert!(error.to_string().contains("empty string"), "{error}");
    let read = read_all(&store, &keyed.table.name).await.unwrap();
    let read: Vec<PartitionKey> = read
        .into_iter()
        .map(|(partition, _)| partition.key)
        .collect();
    assert_eq!(read, keys[..1]);
}

/// Other columns than those that divide the table go through the same checks, whatever is nested in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nested_columns_come_back() {
    let mut list = ListBuilder::new(Int64Builder::new());
    let mut large = LargeListBuilder::new(UInt64Builder::new());
    let mut map = MapBuilder::new(None, StringBuilder::new(), Float64Builder::new());
    for row in 0..3_i64 {
        list.append_value([Some(row), None]);
        large.append_value([Some(u64::MAX), None]);
        map.keys().append_value("k");
        map.values().append_value(0.5);
        map.append(row != 1).unwrap();
    }
    let list: ArrayRef = Arc::new(list.finish());
    let map: ArrayRef = Arc::new(map.finish());
    let inner = Arc::new(Field::new("inner", list.data_type().clone(), true));
    let structure: ArrayRef = Arc::new(StructArray::from(vec![(inner, Arc::clone(&list))]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["IBM"; 3]));
    let rows = [
        ("k", text),
        ("list", list),
        ("large", Arc::new(large.finish())),
        ("map", map),
        ("struct", structure),
    ];
    let rows = RecordBatch::try_from_iter_with_nullable(
        rows.into_iter().map(|(name, column)| (name, column, true)),
    )
    .unwrap();
    let mut keyed = Keyed::new("nested", &[("k", DataType::Utf8)]);
    keyed.table.schema = rows.schema();
    let key = keyed.key(&[Cell::Value(string("IBM"))]);
    let world = World::new();
    let store = world.process().await;
    keyed
        .copy_rows(&store, vec![(key, rows.clone())])
        .await
        .unwrap();
    let read = read_all(&store, &keyed.table.name).await.unwrap();
    let read = read.iter().flat_map(|(_, batches)| batches);
    let read = read.map(|batch| digest(batch).unwrap());
    assert_eq!(
        read.fold(Digest::default(), Digest::plus),
        digest(&rows).unwrap()
    );
    // And again: what is there must be found to fit.
    let prepared = store.sink.prepare(&keyed.table.name, &keyed.table, false);
    assert_eq!(prepared.await.unwrap().created, [""; 0]);
    // Names within a struct mean something.
    let mut fields: Vec<Field> = keyed
        .schema()
        .fields()
        .iter()
        .map(|f| (**f).clone())
        .collect();
    let DataType::Struct(inner) = fields.pop().unwrap().data_type().clone() else {
        panic!("the last column is a struct");
    };
    let renamed = inner[0].as_ref().clone().with_name("other");
    let other = DataType::Struct(vec![renamed].into());
    fields.push(Field::new("struct", other, true));
    keyed.table.schema = Arc::new(Schema::new(fields));
    let prepared = store.sink.prepare(&keyed.table.name, &keyed.table, false);
    let error = prepared.await.unwrap_err();
    assert_eq!(error.kind(), Kind::Schema, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn types_that_cannot_divide_are_refused_before_a_row_moves() {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    for data_type in [
        DataType::Binary,
        DataType::LargeBinary,
        DataType::FixedSizeBinary(4),
        DataType::Duration(TimeUnit::Second),
        list,
    ] {
        let keyed = Keyed::new("never", &[("k", data_type.clone())]);
        let world = World::new();
        let store = world.process().await;
        let prepared = store.sink.prepare(&keyed.table.name, &keyed.table, true);
        let error = prepared.await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{data_type}: {error}");
        assert!(error.to_string().contains("column k"), "{error}");
    }
}
