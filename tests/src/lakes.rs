//! Two lakes in one temporary directory: A, filled through the engine's own sink, and B, read back through the engine's own source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Date32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use futures::StreamExt;
use strait_common::budget::Budget;
use strait_common::cpu::CpuPool;
use strait_common::digest::{Digest, DigestId, digest};
use strait_common::engine::{
    Begun, Claim, Cursor, Disposition, Division, DivisionKind, Level, Origin, Outcome, Partition,
    ReadLimits, Receipt, Sink, Store, Table, Version,
};
use strait_common::ids::{RunId, TableName};
use strait_common::key::{Cell, PartitionKey};
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::value::Value;
use strait_lake::disk::Disk;
use tempfile::TempDir;

/// The table that every test copies.
pub const TABLE: &str = "db/ticks";
/// The column that divides it.
pub const DIVIDED_BY: &str = "day";
/// 2026-01-05, in days since 1970: day 0 of every lake here.
pub const FIRST_DAY: i32 = 20_458;
const BATCH_ROWS: u64 = 4096;

/// Rows and digest by partition key.
pub type Contents = BTreeMap<String, (u64, Digest)>;

/// The directory of a test: lakes `a` and `b`, and the agents' states. Removed when dropped.
#[derive(Debug)]
pub struct Lakes {
    dir: TempDir,
}

impl Lakes {
    /// Two empty lakes.
    pub fn empty() -> Lakes {
        Lakes {
            dir: TempDir::with_prefix("strait-test-").expect("a temporary directory"),
        }
    }

    /// Lake A with so many days of so many rows.
    pub async fn filled(days: u32, rows: u64) -> Lakes {
        let lakes = Lakes::empty();
        for day in 0..days {
            lakes.write(&lakes.a(), day, 0..rows).await;
        }
        lakes
    }

    /// The directory of lake A.
    pub fn a(&self) -> PathBuf {
        self.dir.path().join("a")
    }

    /// The directory of lake B.
    pub fn b(&self) -> PathBuf {
        self.dir.path().join("b")
    }

    /// A file or directory beside the lakes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Appends the rows with these ids to a day of a lake, as a run of somebody else.
    pub async fn write(&self, lake: &Path, day: u32, ids: std::ops::Range<u64>) {
        let sink = open(lake).await.sink;
        let table = wanted();
        sink.prepare(&table.name, &table, false)
            .await
            .expect("the table can be made");
        let starts = ids.clone().step_by(BATCH_ROWS as usize);
        let batches = starts.map(|at| rows(day, at..ids.end.min(at + BATCH_ROWS)));
        append(
            &sink,
            &table,
            day,
            &format!("{ids:?} of day {day}"),
            batches,
        )
        .await;
    }

    /// Appends the rows with these ids to a day of a lake as any other writer of Delta tables does: a file and a commit that no ledger knows.
    pub async fn write_as_a_stranger(&self, lake: &Path, day: u32, ids: std::ops::Range<u64>) {
        let scratch = self.path(&format!("scratch-{}", RunId::random()));
        self.write(&scratch, day, ids).await;
        let written = self.files(&scratch, day).remove(0);
        self.add_as_a_stranger(lake, day, &written);
    }

    /// Adds a copy of a Parquet file to a day of a lake as any other writer of Delta tables does. It has all columns but the one that divides the table.
    pub fn add_as_a_stranger(&self, lake: &Path, day: u32, written: &Path) {
        let table = lake.join(TABLE);
        let path = format!("{}/stranger-{}.parquet", label(day), RunId::random());
        std::fs::create_dir_all(table.join(label(day))).expect("a directory");
        let size = std::fs::copy(written, table.join(&path)).expect("a file");
        let (column, value) = label(day)
            .split_once('=')
            .map(|(column, value)| (column.to_owned(), value.to_owned()))
            .expect("a key");
        let add = serde_json::json!({ "add": {
            "path": path,
            "partitionValues": { column: value },
            "size": size,
            "modificationTime": 0,
            "dataChange": true,
        } });
        commit_as_a_stranger(&table, &[add]);
    }

    /// Copies the table of one lake to another as somebody who knows nothing of ledgers: no run has ever claimed the copy.
    pub fn copy_as_a_stranger(&self, from: &Path, to: &Path) {
        let (from, to) = (from.join(TABLE), to.join(TABLE));
        let mut directories = vec![std::path::PathBuf::new()];
        while let Some(directory) = directories.pop() {
            std::fs::create_dir_all(to.join(&directory)).expect("a directory");
            for entry in std::fs::read_dir(from.join(&directory)).expect("a directory") {
                let entry = entry.expect("an entry");
                let path = directory.join(entry.file_name());
                if entry.path().is_dir() {
                    if entry.file_name() != "_strait" {
                        directories.push(path);
                    }
                } else if path
                    .extension()
                    .is_some_and(|extension| extension == "json")
                {
                    let text = std::fs::read_to_string(entry.path()).expect("a text");
                    let lines = text.lines().filter(|line| !line.starts_with("{\"txn\""));
                    let lines: String = lines.map(|line| format!("{line}\n")).collect();
                    std::fs::write(to.join(path), lines).expect("a file");
                } else {
                    std::fs::copy(entry.path(), to.join(path)).expect("a file");
                }
            }
        }
    }

    /// Removes a day of a lake as any other writer of Delta tables does.
    pub fn remove_as_a_stranger(&self, lake: &Path, day: u32) {
        let table = lake.join(TABLE);
        let removes: Vec<_> = (self.adds(lake, day).into_iter())
            .map(|add| remove(&add, true))
            .collect();
        commit_as_a_stranger(&table, &removes);
    }

    /// Writes the files of a day of a lake anew as a compaction does: other names, the same rows.
    pub fn compact_as_a_stranger(&self, lake: &Path, day: u32) {
        let table = lake.join(TABLE);
        let mut actions = Vec::new();
        for mut add in self.adds(lake, day) {
            actions.push(remove(&add, false));
            let path = format!("{}/compact-{}.parquet", label(day), RunId::random());
            std::fs::create_dir_all(table.join(label(day))).expect("a directory");
            let old = table.join(add["path"].as_str().expect("a path"));
            std::fs::copy(old, table.join(&path)).expect("a file");
            add["path"] = path.into();
            add["dataChange"] = false.into();
            actions.push(serde_json::json!({ "add": add }));
        }
        commit_as_a_stranger(&table, &actions);
    }

    /// What a lake holds, read by its engine: nothing of what any ledger says.
    pub async fn contents(&self, lake: &Path) -> Contents {
        self.contents_of(lake, TABLE).await
    }

    /// The same of another table.
    pub async fn contents_of(&self, lake: &Path, table: &str) -> Contents {
        let source = open(lake).await.source;
        let table: TableName = table.parse().expect("a table name");
        let Ok(described) = source.describe(&table).await else {
            return Contents::new();
        };
        let selection = Selection::resolve(&SelectionSpec::default(), &described.schema, 0)
            .expect("everything is selected");
        let budget = Budget::new(256 << 20).expect("a budget");
        let partitions: Vec<_> = source
            .partitions(&table, &selection)
            .await
            .expect("the partitions can be listed")
            .collect()
            .await;
        let mut contents = Contents::new();
        for partition in partitions {
            let partition = partition.expect("a partition");
            let limits = ReadLimits {
                batch_bytes: 1 << 20,
                budget: budget.for_stream(),
            };
            let mut batches = source
                .read(&table, &selection, &partition, &Cursor::start(), &limits)
                .await
                .expect("the partition can be read");
            let (mut rows, mut sum) = (0, Digest::default());
            while let Some(batch) = batches.next().await {
                let records = batch.expect("a batch").records;
                rows += records.num_rows() as u64;
                sum = sum.plus(digest(&records).expect("a digest"));
            }
            contents.insert(partition.key.to_string(), (rows, sum));
        }
        contents
    }

    /// B holds what A holds, row for row.
    ///
    /// # Panics
    /// If it does not.
    pub async fn assert_equal(&self) {
        let (a, b) = (
            self.contents(&self.a()).await,
            self.contents(&self.b()).await,
        );
        assert!(!a.is_empty(), "there is something to compare");
        assert_eq!(a, b, "A and B differ");
    }

    /// The files of a day of a lake, as its log names them; for a log with all of its entries.
    pub fn files(&self, lake: &Path, day: u32) -> Vec<PathBuf> {
        let table = lake.join(TABLE);
        let path = |add: &serde_json::Value| table.join(add["path"].as_str().expect("a path"));
        let mut files: Vec<_> = self.adds(lake, day).iter().map(path).collect();
        files.sort();
        files
    }

    /// What its log adds of a day and has not removed.
    fn adds(&self, lake: &Path, day: u32) -> Vec<serde_json::Value> {
        let log = lake.join(TABLE).join("_delta_log");
        let label = label(day);
        let (column, value) = label.split_once('=').expect("a label has a value");
        let entries = std::fs::read_dir(log).expect("a log");
        let mut entries: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        entries.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        });
        entries.sort();
        let mut adds: Vec<serde_json::Value> = Vec::new();
        for path in entries {
            let text = std::fs::read_to_string(&path).expect("a text");
            for line in text.lines() {
                let action: serde_json::Value = serde_json::from_str(line).expect("an action");
                let (add, remove) = (&action["add"], &action["remove"]);
                if add["partitionValues"][column].as_str() == Some(value) {
                    adds.push(add.clone());
                }
                adds.retain(|add| add["path"] != remove["path"]);
            }
        }
        adds
    }
}

fn remove(add: &serde_json::Value, data_change: bool) -> serde_json::Value {
    serde_json::json!({ "remove": {
        "path": add["path"],
        "partitionValues": add["partitionValues"],
        "size": add["size"],
        "deletionTimestamp": 0,
        "extendedFileMetadata": true,
        "dataChange": data_change,
    } })
}

fn commit_as_a_stranger(table: &Path, actions: &[serde_json::Value]) {
    let log = table.join("_delta_log");
    let commit = (0u64..)
        .map(|version| log.join(format!("{version:020}.json")))
        .find(|commit| !commit.exists())
        .expect("a free version");
    let lines: String = actions.iter().map(|action| format!("{action}\n")).collect();
    std::fs::write(commit, lines).expect("a commit");
}

/// The store of a lake's directory.
pub async fn open(lake: &Path) -> Store {
    strait_lake::open_directory(lake.to_owned(), CpuPool::default(), Disk::default())
        .await
        .expect("the lake opens")
}

/// Appends batches to a day of a table, as a run of somebody else, whose job and version are called `what`.
pub async fn append(
    sink: &Arc<dyn Sink>,
    table: &Table,
    day: u32,
    what: &str,
    batches: impl IntoIterator<Item = RecordBatch>,
) {
    append_to(sink, table, key(day), what, batches).await;
}

/// The same to the partition of this key.
pub async fn append_to(
    sink: &Arc<dyn Sink>,
    table: &Table,
    key: PartitionKey,
    what: &str,
    batches: impl IntoIterator<Item = RecordBatch>,
) {
    let claim = Claim {
        run: RunId::random(),
        table: table.name.clone(),
        agent: "another writer".to_owned(),
        job: format!("write {what}"),
        taken_at: 0,
    };
    let attachment = sink.attach(&claim).await.expect("nobody else writes");
    let partition = Partition {
        key,
        rows: None,
        bytes: None,
        version: Version(format!("written {what}")),
        pin: String::new(),
        origin: Origin::default(),
    };
    let begun = attachment
        .begin(&partition, Disposition::Append, None)
        .await;
    let Begun::Writer(mut writer) = begun.expect("the partition can be begun") else {
        panic!("a new run has committed nothing")
    };
    let (mut count, mut sum) = (0, Digest::default());
    for batch in batches {
        count += batch.num_rows() as u64;
        sum = sum.plus(digest(&batch).expect("a digest"));
        writer.append(batch).await.expect("rows can be appended");
    }
    let receipt = Receipt {
        key: partition.key,
        version: partition.version,
        rows: count,
        digest: sum,
        digest_id: DigestId::of(&table.schema).expect("a digest id"),
        level: Level::Received,
        selection: "everything".to_owned(),
        origin: Origin::default(),
    };
    let finished = writer.finish(receipt).await;
    finished.expect("the partition can be published");
    let completed = attachment.complete(Outcome::Done).await;
    completed.expect("the claim can end");
}

/// The key of a day.
pub fn key(day: u32) -> PartitionKey {
    let cell = Cell::Value(Value::Date(FIRST_DAY + day.cast_signed()));
    PartitionKey::new(vec![(DIVIDED_BY.to_owned(), cell)]).expect("a key")
}

/// The key of a day, as commands and directories show it.
pub fn label(day: u32) -> String {
    key(day).label()
}

/// The columns of every table here.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(DIVIDED_BY, DataType::Date32, false),
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("value", DataType::Float64, false),
    ]))
}

/// The table that lake A has.
pub fn wanted() -> Table {
    Table {
        name: TABLE.parse().expect("a table name"),
        schema: schema(),
        divisions: vec![Division {
            column: DIVIDED_BY.to_owned(),
            kind: DivisionKind::Value,
        }],
        recipe: None,
    }
}

/// Rows that depend on their day and ids alone, and do not compress much.
pub fn rows(day: u32, ids: std::ops::Range<u64>) -> RecordBatch {
    let mixed = |id: u64| (id + u64::from(day) * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let days = ids.clone().map(|_| FIRST_DAY + day.cast_signed());
    let names = ids
        .clone()
        .map(|id| (id % 97 != 0).then(|| format!("{:016x}", mixed(id))));
    let values = ids.clone().map(|id| mixed(id) as f64 / 1e6);
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(Date32Array::from_iter_values(days)),
        Arc::new(Int64Array::from_iter_values(
            ids.clone().map(u64::cast_signed),
        )),
        Arc::new(names.collect::<StringArray>()),
        Arc::new(Float64Array::from_iter_values(values)),
    ];
    RecordBatch::try_new(schema(), columns).expect("a batch")
}
