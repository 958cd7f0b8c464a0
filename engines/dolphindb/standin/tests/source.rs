//! What the source half reads of the stand-in's tables: how they are divided, which partitions there are, and their rows.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Date32Array, DictionaryArray, Int64Array, RecordBatch,
    TimestampMillisecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type, Schema};
use futures::TryStreamExt;
use strait_common::Kind;
use strait_common::budget::Budget;
use strait_common::engine::{Batch, Cursor, DivisionKind, Partition, ReadLimits, Source};
use strait_common::ids::TableName;
use strait_common::selection::{Selection, SelectionSpec};
use strait_dolphindb::{
    Argument, Cluster, Column, ColumnType, DolphinSource, Options, Secret, Site, Type, User,
};
use strait_dolphindb_standin::{Fault, Settings, StandIn};

struct World {
    standin: StandIn,
    cluster: Cluster,
    source: DolphinSource,
    table: TableName,
}

impl World {
    /// `dfs://db1/mt`, made by this script; `parts` are variables that it names.
    async fn with(rows: &RecordBatch, parts: Vec<(&str, Column)>, make: &str) -> World {
        World::limited(rows, parts, make, u64::MAX).await
    }

    /// The same, of which a query answers about so many bytes.
    async fn limited(
        rows: &RecordBatch,
        parts: Vec<(&str, Column)>,
        make: &str,
        query_bytes: u64,
    ) -> World {
        let standin = StandIn::start(Settings::default()).await.unwrap();
        let mut options = Options::of_site("", 0);
        options.query_bytes = query_bytes;
        options.answer_bytes_max = ANSWER_BYTES;
        options.sites = vec![Site {
            host: "127.0.0.1".into(),
            port: standin.address().port(),
        }];
        options.user = Some(User {
            name: "admin".into(),
            password: Secret::new("123456"),
        });
        let cluster = Cluster::new(options).unwrap();
        let mut lease = cluster.connect().await.unwrap();
        let connection = lease.connection();
        connection
            .upload("sample", &Argument::Table(rows.slice(0, 0)))
            .await
            .unwrap();
        for (name, column) in parts {
            connection
                .upload(name, &Argument::Vector(column))
                .await
                .unwrap();
        }
        connection.script(make).await.unwrap();
        drop(lease);
        let source = DolphinSource::new(cluster.clone());
        let world = World {
            standin,
            cluster,
            source,
            table: TableName::new("db1", "mt").unwrap(),
        };
        world.insert(rows).await;
        world
    }

    async fn insert(&self, rows: &RecordBatch) {
        let mut lease = self.cluster.connect().await.unwrap();
        let insert = "tableInsert{loadTable(\"dfs://db1\", \"mt\")}";
        let inserted = lease
            .connection()
            .call(insert, &[Argument::Table(rows.clone())])
            .await
            .unwrap();
        assert_eq!(inserted.integer().unwrap(), rows.num_rows() as i64);
    }

    async fn selection(&self, predicate: Option<&str>) -> Selection {
        let schema = self.source.describe(&self.table).await.unwrap().schema;
        let spec = SelectionSpec {
            predicate: predicate.map(str::to_owned),
            ..SelectionSpec::default()
        };
        Selection::resolve(&spec, &schema, 0).unwrap()
    }

    async fn partitions(&self, predicate: Option<&str>) -> Vec<Partition> {
        let selection = self.selection(predicate).await;
        let partitions = self
            .source
            .partitions(&self.table, &selection)
            .await
            .unwrap();
        partitions.try_collect().await.unwrap()
    }

    async fn read(
        &self,
        predicate: Option<&str>,
        partition: &Partition,
        after: &Cursor,
    ) -> strait_common::Result<Vec<Batch>> {
        let read = self.begin(predicate, partition, after).await?;
        read.try_collect().await
    }

    async fn begin(
        &self,
        predicate: Option<&str>,
        partition: &Partition,
        after: &Cursor,
    ) -> strait_common::Result<strait_common::engine::Stream<Batch>> {
        let selection = self.selection(predicate).await;
        let limits = ReadLimits {
            batch_bytes: 20_000,
            budget: Budget::new(64 << 20).unwrap(),
        };
        self.source
            .read(&self.table, &selection, partition, after, &limits)
            .await
    }
}

/// A block of the fewest rows that a server takes fits, if they are as long as the longest of these tests.
const ANSWER_BYTES: u64 = 4 << 20;
const DAYS: i64 = 4;
const COUNT: i64 = 40_000;

/// Days 20000 to 20003, five symbols, numbers from 0.
fn ticks() -> RecordBatch {
    let rows = 0..COUNT;
    let symbols = ["A", "B", "C", "D", "E"];
    let fields = vec![
        ColumnType::plain(Type::Date).field("day"),
        ColumnType::plain(Type::Symbol).field("sym"),
        ColumnType::plain(Type::Long).field("n"),
        ColumnType::plain(Type::Timestamp).field("at"),
    ];
    let day = |n: i64| i32::try_from(20_000 + n % DAYS).unwrap();
    let sym: DictionaryArray<Int32Type> = rows
        .clone()
        .map(|n| Some(symbols[usize::try_from(n / DAYS % 5).unwrap()]))
        .collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from_iter_values(rows.clone().map(day))),
        Arc::new(sym),
        Arc::new(Int64Array::from_iter_values(rows.clone())),
        Arc::new(TimestampMillisecondArray::from_iter_values(
            rows.map(|n| (20_000 + n % DAYS) * 86_400_000 + n),
        )),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn days() -> Column {
    Column {
        kind: ColumnType::plain(Type::Date),
        array: Arc::new(Date32Array::from_iter_values(19_990..20_010)),
    }
}

async fn compo() -> World {
    let make = "p0 = database(\"\", VALUE, days); p1 = database(\"\", HASH, [SYMBOL, 3]); \
                db = database(\"dfs://db1\", COMPO, [p0, p1]); createPartitionedTable(db, sample, `mt, `day`sym)";
    World::with(&ticks(), vec![("days", days())], make).await
}

fn numbers(batches: &[Batch]) -> Vec<i64> {
    let numbers = batches.iter().flat_map(|batch| {
        let column = batch.records.column_by_name("n").unwrap();
        column.as_primitive::<Int64Type>().values().to_vec()
    });
    numbers.collect()
}

#[tokio::test]
async fn a_division_by_value_and_hash_is_described_listed_and_read_row_for_row() {
    let world = compo().await;
    let described = world.source.describe(&world.table).await.unwrap();
    assert_eq!(described.schema, ticks().schema());
    let kinds: Vec<_> = described
        .divisions
        .iter()
        .map(|d| (d.column.as_str(), d.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("day", DivisionKind::Value),
            ("sym", DivisionKind::Hash { buckets: 3 })
        ]
    );
    let partitions = world.partitions(None).await;
    assert!(
        partitions.is_sorted_by(|a, b| a.key < b.key),
        "{partitions:?}"
    );
    let listed: u64 = partitions
        .iter()
        .map(|partition| partition.rows.unwrap())
        .sum();
    assert_eq!(listed, COUNT as u64);
    let mut all = Vec::new();
    for partition in &partitions {
        let batches = world.read(None, partition, &Cursor::start()).await.unwrap();
        assert_eq!(numbers(&batches).len() as u64, partition.rows.unwrap());
        for batch in &batches {
            assert!(batch.records.get_array_memory_size() > 0);
            let bytes: usize = 24 * batch.records.num_rows();
            assert!(
                bytes <= 20_000,
                "{} rows in a batch",
                batch.records.num_rows()
            );
        }
        all.extend(numbers(&batches));
    }
    all.sort_unstable();
    assert_eq!(all, (0..COUNT).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_selection_leaves_out_partitions_and_is_sent_along() {
    let world = compo().await;
    let condition = "day > '2024-10-04' and n < 1000";
    let partitions = world.partitions(Some(condition)).await;
    assert!(
        !partitions.is_empty()
            && partitions
                .iter()
                .all(|p| p.key.to_string().as_str() > "day=2024-10-05")
    );
    let mut all = Vec::new();
    for partition in &partitions {
        all.extend(numbers(
            &world
                .read(Some(condition), partition, &Cursor::start())
                .await
                .unwrap(),
        ));
    }
    all.sort_unstable();
    let wanted: Vec<i64> = (0..1000).filter(|n| n % DAYS > 0).collect();
    assert_eq!(all, wanted);
    let asked = world.standin.log();
    assert!(
        asked
            .iter()
            .any(|line| line.contains("(day > 2024.10.04 and n < 1000)")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_read_goes_on_after_every_cursor() {
    let world = compo().await;
    let partition = world.partitions(None).await.remove(0);
    let whole = world
        .read(None, &partition, &Cursor::start())
        .await
        .unwrap();
    let all = numbers(&whole);
    assert!(whole.len() > 3, "{} batches", whole.len());
    let mut before = 0;
    for batch in &whole {
        before += batch.records.num_rows();
        let rest = world.read(None, &partition, &batch.end).await.unwrap();
        assert_eq!(numbers(&rest), all[before..]);
    }
    let beyond = Cursor(bytes::Bytes::copy_from_slice(&(1u64 << 40).to_le_bytes()));
    let error = world.read(None, &partition, &beyond).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
}

#[tokio::test]
async fn what_has_changed_is_moved_and_what_has_not_keeps_its_version() {
    let world = compo().await;
    let before = world.partitions(None).await;
    let versions = |partitions: &[Partition]| -> Vec<_> {
        let kept = partitions.iter();
        kept.map(|p| (p.key.clone(), p.version.clone(), p.origin.table.clone()))
            .collect()
    };
    let again = world.partitions(None).await;
    assert_eq!(versions(&again), versions(&before));
    let one = ticks().slice(0, 1);
    world.insert(&one).await;
    let after = world.partitions(None).await;
    let changed: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(a, b)| a.version != b.version)
        .collect();
    assert_eq!(changed.len(), 1);
    let error = world
        .read(None, changed[0].0, &Cursor::start())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Moved, "{error}");
    world
        .read(None, changed[0].1, &Cursor::start())
        .await
        .unwrap();
}

/// The version is looked at again once the answer has begun: what was written in between must not pass for the planned rows.
#[tokio::test]
async fn a_change_between_the_look_and_the_query_is_noticed() {
    let world = compo().await;
    let partition = world.partitions(None).await.remove(0);
    world.standin.fault(
        "script select day",
        Fault::Slow(std::time::Duration::from_millis(300)),
    );
    let key = partition.key.to_string();
    let start = Cursor::start();
    let (read, ()) = tokio::join!(world.read(None, &partition, &start), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        // A row for each partition of the first day, so that this one is among them.
        for row in 0..60 {
            world.insert(&ticks().slice(row, 1)).await;
        }
    });
    let error = read.map(|batches| batches.len()).expect_err(&key);
    assert_eq!(error.kind(), Kind::Moved, "{error}");
}

#[tokio::test]
async fn ranges_are_listed_and_read_by_their_place() {
    let edges = Column {
        kind: ColumnType::plain(Type::Long),
        array: Arc::new(Int64Array::from(vec![0, 10_000, 20_000, 50_000])),
    };
    let make =
        "db = database(\"dfs://db1\", RANGE, edges); createPartitionedTable(db, sample, `mt, `n)";
    let world = World::with(&ticks(), vec![("edges", edges)], make).await;
    let described = world.source.describe(&world.table).await.unwrap();
    assert_eq!(described.divisions[0].kind, DivisionKind::Range);
    let partitions = world.partitions(None).await;
    let keys: Vec<String> = partitions.iter().map(|p| p.key.to_string()).collect();
    assert_eq!(keys, ["n=[0,10000)", "n=[10000,20000)", "n=[20000,50000)"]);
    let batches = world
        .read(None, &partitions[1], &Cursor::start())
        .await
        .unwrap();
    assert_eq!(numbers(&batches), (10_000..20_000).collect::<Vec<_>>());
    let narrowed = world.partitions(Some("n >= 20000")).await;
    assert_eq!(narrowed.len(), 1);
}

#[tokio::test]
async fn a_table_without_divisions_has_one_partition() {
    let make = "db = database(\"dfs://db1\", VALUE, days); createTable(db, sample, `mt)";
    let world = World::with(&ticks(), vec![("days", days())], make).await;
    let partitions = world.partitions(None).await;
    assert_eq!(partitions.len(), 1);
    assert!(partitions[0].key.is_whole_table());
    let batches = world
        .read(None, &partitions[0], &Cursor::start())
        .await
        .unwrap();
    assert_eq!(numbers(&batches).len(), COUNT as usize);
}

#[tokio::test]
async fn an_unknown_table_is_an_error_that_names_those_there_are() {
    let world = compo().await;
    let unknown = TableName::new("db1", "other").unwrap();
    let error = world.source.describe(&unknown).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("db1/mt"), "{error}");
    let tables = world.source.tables().await.unwrap();
    assert_eq!(tables, std::slice::from_ref(&world.table));
}

/// `dfs://db1/mt` by lists of symbols.
async fn lists() -> World {
    let make = "db = database(\"dfs://db1\", LIST, ([\"A\", \"B\"], [\"C\"], [\"D\", \"E\"])); createPartitionedTable(db, sample, `mt, `sym)";
    World::with(&ticks(), Vec::new(), make).await
}

#[tokio::test]
async fn lists_are_listed_and_read_by_their_number() {
    let world = lists().await;
    let described = world.source.describe(&world.table).await.unwrap();
    let level = &described.divisions[0];
    assert_eq!(
        (level.column.as_str(), level.kind),
        ("sym", DivisionKind::Hash { buckets: 3 })
    );
    let partitions = world.partitions(None).await;
    let keys: Vec<String> = partitions.iter().map(|p| p.key.to_string()).collect();
    assert_eq!(
        keys,
        ["sym=bucket(0,3)", "sym=bucket(1,3)", "sym=bucket(2,3)"]
    );
    let symbol_of = |n: i64| n / DAYS % 5;
    for (partition, symbols) in partitions.iter().zip([&[0, 1][..], &[2], &[3, 4]]) {
        let mut read = numbers(&world.read(None, partition, &Cursor::start()).await.unwrap());
        read.sort_unstable();
        let wanted: Vec<i64> = (0..COUNT)
            .filter(|n| symbols.contains(&symbol_of(*n)))
            .collect();
        assert_eq!(read, wanted, "{}", partition.key);
    }
    // Which values a list has is the server's to say: a condition narrows what is read, not which partitions are.
    let condition = Some("sym = 'C'");
    let partitions = world.partitions(condition).await;
    assert_eq!(partitions.len(), 3);
    let mut read = Vec::new();
    for partition in &partitions {
        read.extend(numbers(
            &world
                .read(condition, partition, &Cursor::start())
                .await
                .unwrap(),
        ));
    }
    assert_eq!(read.len(), COUNT as usize / 5);
}

#[tokio::test]
async fn the_server_sums_whole_partitions_or_they_are_read() {
    let world = compo().await;
    let partitions = world.partitions(None).await;
    let sums = async |predicate: Option<&str>| {
        let selection = world.selection(predicate).await;
        let sums = world.source.sums(&world.table, &selection, &partitions[0]);
        sums.await.unwrap()
    };
    let all = sums(None).await.unwrap();
    assert_eq!(Some(all.rows), partitions[0].rows);
    assert!(all.kind.contains("DATE"), "{}", all.kind);
    assert_eq!(sums(None).await, Some(all));
    // The server may select more than the condition does.
    assert_eq!(sums(Some("n > 5")).await, None);
    world.standin.catalog().denied.push("crc32".into());
    assert_eq!(sums(None).await, None);
}

#[tokio::test]
async fn without_versions_nothing_is_unchanged_and_nothing_is_gone_on_with() {
    let world = compo().await;
    let known = world.partitions(None).await;
    assert!(
        world
            .source
            .warnings(&world.table)
            .await
            .unwrap()
            .is_empty()
    );
    world.standin.catalog().denied.push("getTabletsMeta".into());
    let warnings = world.source.warnings(&world.table).await.unwrap();
    assert!(
        warnings.len() == 1 && warnings[0].contains("getTabletsMeta"),
        "{warnings:?}"
    );
    let (first, second) = (world.partitions(None).await, world.partitions(None).await);
    let listed = |partitions: &[Partition]| -> Vec<_> {
        let kept = partitions.iter();
        kept.map(|p| (p.key.clone(), p.rows)).collect()
    };
    assert_eq!(listed(&first), listed(&known));
    assert_eq!(listed(&second), listed(&known));
    for (a, b) in first.iter().zip(&second) {
        assert_ne!(a.version, b.version, "{}", a.key);
    }
    let mut all = Vec::new();
    for partition in &first {
        all.extend(numbers(
            &world.read(None, partition, &Cursor::start()).await.unwrap(),
        ));
    }
    all.sort_unstable();
    assert_eq!(all, (0..COUNT).collect::<Vec<_>>());
    // Whether the rows before a cursor are those that were read nobody knows.
    let batches = world.read(None, &first[0], &Cursor::start()).await.unwrap();
    let error = world.read(None, &first[0], &batches[0].end).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Moved);
}

const ALL_DAYS: &str =
    "db = database(\"dfs://db1\", VALUE, days); createPartitionedTable(db, sample, `mt, `day)";

/// Of four columns, 24 bytes each: a query answers the fewest rows that it may.
async fn in_pieces() -> World {
    World::limited(&ticks(), vec![("days", days())], ALL_DAYS, 1).await
}

#[tokio::test]
async fn a_partition_that_is_too_large_for_a_query_is_read_by_several() {
    let world = in_pieces().await;
    let whole = World::with(&ticks(), vec![("days", days())], ALL_DAYS).await;
    let (partitions, same) = (world.partitions(None).await, whole.partitions(None).await);
    let queries = || {
        let log = world.standin.log();
        log.iter().filter(|line| line.contains(" limit ")).count()
    };
    for (partition, same) in partitions.iter().zip(&same) {
        let batches = world.read(None, partition, &Cursor::start()).await.unwrap();
        let all = numbers(&batches);
        assert_eq!(
            all,
            numbers(&whole.read(None, same, &Cursor::start()).await.unwrap())
        );
        let mut before = 0;
        for batch in batches.iter().take(12) {
            before += batch.records.num_rows();
            let rest = world.read(None, partition, &batch.end).await.unwrap();
            assert_eq!(numbers(&rest), all[before..]);
        }
    }
    // 10,000 rows in queries of 8,192.
    assert!(queries() >= 8, "{} queries", queries());
    assert!(
        whole
            .standin
            .log()
            .iter()
            .all(|line| !line.contains(" limit "))
    );
    let some = Some("n < 30000");
    let read = world.read(some, &partitions[0], &Cursor::start()).await;
    assert_eq!(numbers(&read.unwrap()).len(), 7500);
}

#[tokio::test]
async fn a_change_between_two_queries_of_a_partition_is_noticed() {
    let world = in_pieces().await;
    let partition = world.partitions(None).await.remove(0);
    let mut read = world
        .begin(None, &partition, &Cursor::start())
        .await
        .unwrap();
    assert!(read.try_next().await.unwrap().is_some());
    world.insert(&ticks().slice(0, 1)).await;
    let rest: strait_common::Result<Vec<Batch>> = read.try_collect().await;
    assert_eq!(rest.unwrap_err().kind(), Kind::Moved);
}

/// Nobody knows how long texts are before they come: blocks of them are of few rows, so that no partition is too large to be read.
#[tokio::test]
async fn blocks_of_long_texts_are_answers_that_can_be_taken() {
    let count = 30_000;
    let texts = (0..count).map(|row| format!("{row:>400}"));
    let texts: ArrayRef = Arc::new(arrow::array::StringArray::from_iter_values(texts));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..count));
    let fields = vec![
        ColumnType::plain(Type::Long).field("n"),
        ColumnType::plain(Type::String).field("text"),
    ];
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![numbers, texts]).unwrap();
    assert!(rows.get_array_memory_size() as u64 > 2 * ANSWER_BYTES);
    let make = "db = database(\"dfs://db1\", VALUE, [1]); createTable(db, sample, \"mt\")";
    let world = World::with(&rows, Vec::new(), make).await;
    let partitions = world.partitions(None).await;
    let limits = ReadLimits {
        batch_bytes: 8 << 20,
        budget: Budget::new(64 << 20).unwrap(),
    };
    let selection = world.selection(None).await;
    let read = world
        .source
        .read(
            &world.table,
            &selection,
            &partitions[0],
            &Cursor::start(),
            &limits,
        )
        .await
        .unwrap();
    let batches: Vec<Batch> = read.try_collect().await.unwrap();
    let read: usize = batches.iter().map(|batch| batch.records.num_rows()).sum();
    assert_eq!(read as i64, count);
}
