//! A lake in a scratch directory, the processes on it, and a foreign writer who knows Delta's log and nothing of ours.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use deltalake::{DeltaTable, checkpoints};
use futures::TryStreamExt;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use strait_common::Result;
use strait_common::budget::Budget;
use strait_common::cpu::CpuPool;
use strait_common::digest::{Digest, digest};
use strait_common::engine::{
    Attachment, Begun, Cursor, Disposition, Finished, Partition, PartitionWriter, Position,
    ReadLimits, Receipt, Store,
};
use strait_common::ids::TableName;
use strait_common::selection::Selection;
use strait_conformance::data::{self, Part, ensure_exactly};
use strait_conformance::visible_rows;
use strait_lake::disk::{Disk, Recorder};
use url::Url;

use crate::trace::Watch;

/// Rows of the first chunk of a partition that is staged.
pub(crate) const CHUNK: u64 = 3;

/// A lake with, after `prepare`, the suite's table in it.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
}

/// Three partitions of the suite's table.
pub(crate) fn three_parts() -> [Part; 3] {
    [
        Part::new(Some(20_000), Some("IBM"), 0..10).unwrap(),
        Part::new(Some(20_000), None, 100..107).unwrap(),
        Part::new(Some(20_001), Some("a/b=c %41 ä€"), 200..212).unwrap(),
    ]
}

impl World {
    pub(crate) fn new() -> World {
        World {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A world with an empty table.
    pub(crate) async fn prepared() -> World {
        let world = World::new();
        prepare(&world.process().await).await.unwrap();
        world
    }

    /// Another process on the lake.
    pub(crate) async fn process(&self) -> Store {
        self.over(Disk::default()).await
    }

    /// Another process, watched.
    pub(crate) async fn watched(&self, watch: &Arc<Watch>) -> Store {
        let recorder: Arc<dyn Recorder> = Arc::<Watch>::clone(watch);
        self.over(Disk::recorded(recorder)).await
    }

    pub(crate) async fn over(&self, disk: Disk) -> Store {
        let root = self.directory.path().to_owned();
        strait_lake::open_directory(root, CpuPool::new(2), disk)
            .await
            .unwrap()
    }

    pub(crate) fn table(&self) -> PathBuf {
        let name = data::table_name().unwrap();
        (self.directory.path())
            .join(name.database())
            .join(name.table())
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.table().join("_delta_log")
    }

    /// The versions whose entries are in the log, in order.
    pub(crate) fn entries(&self) -> Vec<u64> {
        let mut versions: Vec<u64> = names(&self.log())
            .iter()
            .filter_map(|name| name.strip_suffix(".json")?.parse().ok())
            .collect();
        versions.sort_unstable();
        versions
    }

    /// The actions of one entry.
    pub(crate) fn entry(&self, version: u64) -> Vec<Value> {
        let text = fs::read_to_string(self.log().join(format!("{version:020}.json"))).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// A foreign commit, and its version.
    pub(crate) fn commit(&self, actions: &[Value]) -> u64 {
        let version = self.entries().last().unwrap() + 1;
        let info =
            json!({"commitInfo": {"timestamp": 1_700_000_000_000_i64, "operation": "FOREIGN"}});
        let lines: Vec<String> = std::iter::once(&info)
            .chain(actions)
            .map(ToString::to_string)
            .collect();
        let path = self.log().join(format!("{version:020}.json"));
        assert!(!path.exists());
        fs::write(path, lines.join("\n")).unwrap();
        version
    }

    /// The Adds of the log's entries that no Remove of them takes back. For logs with all of their entries.
    pub(crate) fn adds(&self) -> BTreeMap<String, Value> {
        let mut adds = BTreeMap::new();
        for version in self.entries() {
            for action in self.entry(version) {
                if let Some(add) = action.get("add") {
                    adds.insert(add["path"].as_str().unwrap().to_owned(), add.clone());
                }
                if let Some(remove) = action.get("remove") {
                    adds.remove(remove["path"].as_str().unwrap());
                }
            }
        }
        adds
    }

    /// What OPTIMIZE does: the files of each partition become one, and no row changes. Returns the files that are no longer in the table.
    pub(crate) fn compact(&self) -> Vec<PathBuf> {
        self.compact_these(self.adds())
    }

    /// The same for a log without all of its entries, whose Adds somebody remembers.
    pub(crate) fn compact_these(&self, adds: BTreeMap<String, Value>) -> Vec<PathBuf> {
        let mut partitions: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for add in adds.into_values() {
            let values = add["partitionValues"].to_string();
            partitions.entry(values).or_default().push(add);
        }
        let mut actions = Vec::new();
        let mut gone = Vec::new();
        for adds in partitions.into_values() {
            let mut batches = Vec::new();
            for add in &adds {
                let path = self.table().join(decoded(add["path"].as_str().unwrap()));
                batches.extend(read_parquet(&path));
                gone.push(path);
                actions.push(json!({"remove": {
                    "path": add["path"], "dataChange": false, "deletionTimestamp": 1_700_000_000_000_i64,
                    "extendedFileMetadata": true, "partitionValues": add["partitionValues"], "size": add["size"],
                }}));
            }
            let name = format!("part-{}.snappy.parquet", uuid::Uuid::new_v4());
            let rows = concat_batches(&batches[0].schema(), &batches).unwrap();
            let size = write_parquet(&self.table().join(&name), &rows);
            actions.push(json!({"add": {
                "path": name, "dataChange": false, "modificationTime": 1_700_000_000_000_i64,
                "partitionValues": adds[0]["partitionValues"], "size": size,
                "stats": json!({"numRecords": rows.num_rows()}).to_string(),
            }}));
        }
        self.commit(&actions);
        gone
    }

    /// The table as the Delta crate opens it, over its own store.
    pub(crate) async fn delta(&self) -> DeltaTable {
        let url = Url::from_directory_path(self.table()).unwrap();
        deltalake::open_table(url).await.unwrap()
    }

    /// Makes a table checkpoint now, and removes all entries of the log before it, as Delta does once they are old.
    pub(crate) async fn clean_up(&self) {
        let table = self.delta().await;
        checkpoints::create_checkpoint(&table, None).await.unwrap();
        let later = chrono::Utc::now().timestamp_millis() + 86_400_000;
        let version = table.version().unwrap();
        let log = table.log_store();
        let removed =
            checkpoints::cleanup_expired_logs_for(version, log.as_ref(), later, None).await;
        assert!(removed.unwrap() > 0, "nothing was cleaned up");
        assert_eq!(self.entries(), [version], "the log is as short as it gets");
    }

    /// Fails unless a reader in a new process sees each row of these partitions once.
    pub(crate) async fn ensure_visible(&self, parts: &[Part]) {
        let table = data::table_name().unwrap();
        let rows = visible_rows(&self.process().await, &table).await.unwrap();
        if let Err(failure) = ensure_exactly(&rows, parts) {
            panic!("{failure}");
        }
    }
}

/// Prepares the suite's table.
pub(crate) async fn prepare(store: &Store) -> Result<()> {
    let table = data::table(true)?;
    store.sink.prepare(&table.name, &table, false).await?;
    Ok(())
}

/// Run number `run` attaches.
pub(crate) async fn attach(store: &Store, run: u128) -> Result<Arc<dyn Attachment>> {
    store.sink.attach(&data::claim(run)?).await
}

/// What an attempt answers to the beginning of a partition.
pub(crate) async fn begun(
    attachment: &dyn Attachment,
    part: &Part,
    disposition: Disposition,
    from: Option<&Position>,
) -> Result<Begun> {
    attachment.begin(&part.partition(), disposition, from).await
}

/// A writer of a partition, from the start or from a position.
pub(crate) async fn begin(
    attachment: &dyn Attachment,
    part: &Part,
    from: Option<&Position>,
) -> Result<Box<dyn PartitionWriter>> {
    match begun(attachment, part, Disposition::Append, from).await? {
        Begun::Writer(writer) => Ok(writer),
        Begun::Already(receipt) => panic!("{} is committed", receipt.key.label()),
    }
}

/// Appends the first chunk of a partition, durably.
pub(crate) async fn stage(
    attachment: &dyn Attachment,
    part: &Part,
) -> Result<Box<dyn PartitionWriter>> {
    let mut writer = begin(attachment, part, None).await?;
    writer.append(part.rows(0, CHUNK)?).await?;
    writer.checkpoint(part.mark(CHUNK)?).await?;
    Ok(writer)
}

/// Appends what follows the first chunk, and finishes.
pub(crate) async fn finish(mut writer: Box<dyn PartitionWriter>, part: &Part) -> Result<Finished> {
    writer.append(part.rows(CHUNK, part.len())?).await?;
    writer.finish(part.receipt()?).await
}

/// Copies a partition from the start, in two files.
pub(crate) async fn copy(attachment: &dyn Attachment, part: &Part) -> Result<Finished> {
    finish(stage(attachment, part).await?, part).await
}

/// What an attempt has found, by key.
pub(crate) async fn positions(attachment: &dyn Attachment) -> Vec<Position> {
    let positions = attachment.positions().await.unwrap();
    positions.try_collect().await.unwrap()
}

/// The receipts of the suite's table.
pub(crate) async fn receipts(store: &Store) -> Result<Vec<Receipt>> {
    receipts_of(store, &data::table_name()?).await
}

/// The receipts of a table.
pub(crate) async fn receipts_of(store: &Store, table: &TableName) -> Result<Vec<Receipt>> {
    store.sink.receipts(table).await?.try_collect().await
}

/// The partitions of the suite's table, as they are now.
pub(crate) async fn listed(store: &Store) -> Result<Vec<Partition>> {
    let table = data::table_name()?;
    let selection = Selection::everything(&data::schema());
    let partitions = store.source.partitions(&table, &selection).await?;
    partitions.try_collect().await
}

/// The digest of a planned partition's rows.
pub(crate) async fn read(store: &Store, partition: &Partition) -> Result<Digest> {
    let table = data::table_name()?;
    let selection = Selection::everything(&data::schema());
    let limits = ReadLimits {
        batch_bytes: 1 << 20,
        budget: Budget::new(64 << 20)?,
    };
    let start = Cursor::start();
    let batches = store
        .source
        .read(&table, &selection, partition, &start, &limits);
    let batches: Vec<_> = batches.await?.try_collect().await?;
    let mut digests = batches.iter().map(|batch| digest(&batch.records));
    digests.try_fold(Digest::default(), |sum, next| Ok(sum.plus(next?)))
}

/// The names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A path of the log, decoded.
pub(crate) fn decoded(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| byte == b'%');
        let code =
            digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}

/// All rows of a file.
pub(crate) fn read_parquet(path: &Path) -> Vec<RecordBatch> {
    let file = File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build();
    reader.unwrap().map(|batch| batch.unwrap()).collect()
}

/// Writes a file, and says how long it is.
pub(crate) fn write_parquet(path: &Path, rows: &RecordBatch) -> u64 {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    fs::metadata(path).unwrap().len()
}
