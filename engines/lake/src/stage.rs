//! Rows on their way: written as Parquet below the run's stage, durable at a checkpoint, not visible before the commit.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{
    EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion,
};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use strait_common::digest::Digest;
use strait_common::engine::{Cursor, Position, PositionState, Version};
use strait_common::ids::{Epoch, RunId};
use strait_common::key::PartitionKey;
use strait_common::{Error, Kind, OrError, Result};
use xxhash_rust::xxh3::xxh3_128;

use crate::disk::{Disk, Step, Together};
use crate::ledger::{list, run_directory};
use crate::load_error::data_kind;

/// Encoded bytes of a row group: what an open writer holds grows with it.
const ROW_GROUP_BYTES: usize = 8 << 20;
/// What a writer holds with its row group, and for each column, in bytes. `examples/writer_memory` measures it: 14.5, 22 and 21 MiB with 8, 30 and
/// 100 columns of random values where free memory goes back to the system at once; glibc keeps up to twice that.
const WRITER_BYTES: u64 = 16 << 20;
const COLUMN_BYTES: u64 = 512 << 10;
/// Rows that are looked at to judge whether a column deserves a dictionary, and the share of distinct values up to which it does.
const SAMPLE_ROWS: usize = 4096;
const DISTINCT_SHARE: usize = 8;
/// A column of fewer bytes is not compressed, and a file of as few rows has no index of its pages.
const PLAIN_BYTES_MAX: usize = 4096;
const INDEXED_ROWS_MIN: u64 = 512;

/// What one open writer of so many columns holds.
pub fn writer_bytes(columns: usize) -> u64 {
    WRITER_BYTES + columns as u64 * COLUMN_BYTES
}

/// A staged file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Its name below the run's stage.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// How many rows it has.
    pub rows: u64,
    /// Delta's statistics of it.
    pub stats: String,
    /// The table's own partition that its rows are of, where that is not the one that they came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<PartitionKey>,
}

/// Which files make a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The attempt that wrote it.
    pub epoch: Epoch,
    /// The partition.
    pub key: PartitionKey,
    /// Its version at A.
    pub version: Version,
    /// Frames covered.
    pub sequence: u64,
    /// Where the source goes on, as hex.
    pub cursor: String,
    /// Rows covered.
    pub rows: u64,
    /// Their digest.
    pub digest: Digest,
    /// The rows.
    pub files: Vec<StagedFile>,
}

impl StageRecord {
    /// The position for the contract.
    ///
    /// # Errors
    /// `Corrupt` if the cursor cannot be read.
    pub fn position(&self, run: RunId) -> Result<Position> {
        Ok(Position {
            run,
            key: self.key.clone(),
            version: self.version.clone(),
            sequence: self.sequence,
            cursor: Cursor(from_hex(&self.cursor)?.into()),
            rows: self.rows,
            digest: self.digest,
            state: PositionState::Staged,
        })
    }
}

/// Bytes as hex digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let wrong = || Error::corrupt(format!("'{text}' is no cursor"));
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(wrong());
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong()))
        .collect()
}

/// The stage of one run in one table.
#[derive(Clone, Debug)]
pub struct Stage {
    directory: PathBuf,
    disk: Disk,
}

impl Stage {
    /// The stage of this run.
    pub fn new(table: &Path, run: RunId, disk: Disk) -> Stage {
        Stage {
            directory: run_directory(table, run).join("stage"),
            disk,
        }
    }

    /// Where a staged file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The name of a new file of an attempt.
    pub fn new_name(epoch: Epoch) -> String {
        format!("{epoch}-{}.parquet", uuid::Uuid::new_v4())
    }

    /// A new file of this name, to be written.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn create_file(&self, name: &str) -> Result<File> {
        let path = self.path(name);
        self.disk.step(Step::Write(&path))?;
        File::create(&path).or_error(Kind::Unavailable, path.display())
    }

    /// Makes the directory, and the run's above it, durable below the table's.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn create(&self, table: &Path) -> Result<()> {
        self.disk.keep_directories(table, &self.directory)
    }

    /// Moves a file that was moved to its place back here, if it is still there. The caller syncs.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn take_back(&self, place: &Path, name: &str) -> Result<()> {
        self.disk.rename_if_there(place, &self.path(name))
    }

    /// Makes names in the directory durable.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn sync(&self) -> Result<()> {
        self.disk.sync_directory(&self.directory)
    }

    fn record_path(&self, key: &PartitionKey, epoch: Epoch) -> PathBuf {
        self.directory.join(format!(
            "{:032x}.{epoch}.json",
            xxh3_128(key.to_string().as_bytes())
        ))
    }

    /// The schemas of these files, each once, with a file that has it. What was written before is read again.
    ///
    /// # Errors
    /// `Corrupt` if a file is no whole Parquet file.
    pub fn schemas(&self, names: &[String], fresh: &[Fresh]) -> Result<Vec<(String, SchemaRef)>> {
        let mut schemas: Vec<(String, SchemaRef)> = Vec::new();
        let mut add = |name: &String, schema: &SchemaRef| {
            if schemas.iter().all(|(_, known)| known != schema) {
                schemas.push((name.clone(), Arc::clone(schema)));
            }
        };
        fresh
            .iter()
            .for_each(|fresh| add(&fresh.file.name, &fresh.schema));
        for name in names {
            let context = || format!("staged file {name}");
            let file = File::open(self.path(name)).or_error(Kind::Unavailable, context())?;
            let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new());
            let metadata = metadata
                .map_err(|error| Error::new(data_kind(&error), context()).with_source(error))?;
            add(name, metadata.schema());
        }
        Ok(schemas)
    }

    /// The file system that it is on.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn together(&self) -> Result<Together> {
        Together::open(&self.directory)
    }

    /// Writes what is not written, and makes all of these files durable, with their names.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn make_durable(&self, together: &Together, files: &[Fresh]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let mut paths = Vec::with_capacity(files.len());
        for fresh in files {
            let path = self.path(&fresh.file.name);
            if let Some(content) = &fresh.content {
                self.disk.write(&path, content)?;
            }
            paths.push(path);
        }
        let stage = BTreeSet::from([self.directory.clone()]);
        together.sync(&self.disk, &paths, &stage)
    }

    /// Makes a position durable. Its files are durable already.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn write_record(&self, record: &StageRecord) -> Result<()> {
        let json =
            serde_json::to_string(record).or_error(Kind::Internal, "write a stage record")?;
        let content = format!("{:032x}\n{json}\n", xxh3_128(json.as_bytes()));
        self.disk.replace(
            &self.record_path(&record.key, record.epoch),
            content.as_bytes(),
        )
    }

    /// The records whose files are all there: the newest attempt's for each partition. One that is torn or that lacks a file is as if it were not.
    ///
    /// # Errors
    /// `Unavailable` if the directory cannot be read.
    pub fn records(&self) -> Result<Vec<StageRecord>> {
        let mut newest: std::collections::BTreeMap<PartitionKey, StageRecord> =
            std::collections::BTreeMap::new();
        for path in list(&self.directory)? {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let bytes = fs::read(&path).or_error(Kind::Unavailable, path.display())?;
            let Some(record) = parse_record(&bytes) else {
                tracing::warn!(file = %path.display(), "a stage record cannot be read; its partition starts again");
                continue;
            };
            let whole = |file: &StagedFile| {
                fs::metadata(self.path(&file.name)).is_ok_and(|found| found.len() == file.size)
            };
            if record.files.iter().all(whole)
                && newest
                    .get(&record.key)
                    .is_none_or(|other| other.epoch < record.epoch)
            {
                newest.insert(record.key.clone(), record);
            }
        }
        Ok(newest.into_values().collect())
    }

    /// Removes a partition's record of one attempt; its files follow at the next sweep.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn forget(&self, key: &PartitionKey, epoch: Epoch) -> Result<()> {
        self.disk.remove(&self.record_path(key, epoch))
    }

    /// Removes what attempts before this one left and no kept record covers.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn sweep(&self, before: Epoch, kept: &[StageRecord]) -> Result<()> {
        let files: HashSet<&str> = kept
            .iter()
            .flat_map(|record| record.files.iter().map(|file| file.name.as_str()))
            .collect();
        let records: HashSet<PathBuf> = kept
            .iter()
            .map(|record| self.record_path(&record.key, record.epoch))
            .collect();
        for path in list(&self.directory)? {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let epoch: Option<u64> = if name.ends_with(".parquet") {
                name.split('-').next().and_then(|epoch| epoch.parse().ok())
            } else if name.ends_with(".json") {
                name.trim_end_matches(".json")
                    .rsplit('.')
                    .next()
                    .and_then(|epoch| epoch.parse().ok())
            } else {
                // A draft that never got its name.
                Some(0)
            };
            if epoch.is_some_and(|epoch| epoch < before.0)
                && !files.contains(name)
                && !records.contains(&path)
            {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn clear(&self) -> Result<()> {
        list(&self.directory)?
            .iter()
            .try_for_each(|path| self.disk.remove(path))
    }
}

fn parse_record(bytes: &[u8]) -> Option<StageRecord> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let (checksum, json) = (lines.next()?, lines.next()?);
    if format!("{:032x}", xxh3_128(json.as_bytes())) != checksum {
        return None;
    }
    serde_json::from_str(json).ok()
}

/// One file being staged.
pub struct FileWriter {
    writer: ArrowWriter<File>,
    file: File,
    path: PathBuf,
    name: String,
    schema: SchemaRef,
    rows: u64,
}

impl FileWriter {
    /// Opens a file for rows like those of `first`.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn open(stage: &Stage, epoch: Epoch, first: &RecordBatch) -> Result<FileWriter> {
        let name = Stage::new_name(epoch);
        let path = stage.path(&name);
        let file = stage.create_file(&name)?;
        let written = file
            .try_clone()
            .or_error(Kind::Unavailable, path.display())?;
        let schema: SchemaRef = Arc::clone(first.schema_ref());
        let properties = properties(first).build();
        let writer = ArrowWriter::try_new(written, Arc::clone(&schema), Some(properties))
            .or_error(Kind::Internal, path.display())?;
        Ok(FileWriter {
            writer,
            file,
            path,
            name,
            schema,
            rows: 0,
        })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        // The first batch of a row group is never split, so its size is bounded here: batches are at most a frame.
        self.writer
            .write(rows)
            .or_error(Kind::Unavailable, self.path.display())?;
        self.rows += rows.num_rows() as u64;
        Ok(())
    }

    /// Ends the file and makes its content durable; its name is not yet.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn close(self, disk: &Disk) -> Result<StagedFile> {
        let (sync, path) = (self.file.try_clone(), self.path.clone());
        let fresh = self.end()?;
        let sync = sync.or_error(Kind::Unavailable, path.display())?;
        disk.sync(&sync, &path)?;
        Ok(fresh.file)
    }

    /// Ends the file; nothing of it is durable.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn end(self) -> Result<Fresh> {
        let context = self.path.display().to_string();
        self.writer.close().or_error(Kind::Unavailable, &context)?;
        let metadata = self.file.metadata();
        let size = metadata.or_error(Kind::Unavailable, &context)?.len();
        Ok(Fresh {
            file: StagedFile {
                name: self.name,
                size,
                rows: self.rows,
                stats: stats(self.rows),
                own: None,
            },
            schema: self.schema,
            content: None,
        })
    }
}

/// A file that waits to be made durable together with others.
#[derive(Debug)]
pub struct Fresh {
    /// What it is.
    pub file: StagedFile,
    /// Its columns.
    pub schema: SchemaRef,
    /// What it will hold, where it is not written yet.
    pub content: Option<Vec<u8>>,
}

impl Fresh {
    /// Encodes a few rows in memory.
    ///
    /// # Errors
    /// `Internal` if they cannot be encoded.
    pub fn encode(epoch: Epoch, batches: &[RecordBatch]) -> Result<Fresh> {
        const WHAT: &str = "encode a partition";
        let first = batches.first();
        let first = first.ok_or_else(|| Error::internal("a file without rows"))?;
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let schema: SchemaRef = Arc::clone(first.schema_ref());
        let properties = small(properties(first), batches, rows).build();
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties));
        let mut writer = writer.or_error(Kind::Internal, WHAT)?;
        for batch in batches {
            writer.write(batch).or_error(Kind::Internal, WHAT)?;
        }
        let content = writer.into_inner().or_error(Kind::Internal, WHAT)?;
        Ok(Fresh {
            file: StagedFile {
                name: Stage::new_name(epoch),
                size: content.len() as u64,
                rows,
                stats: stats(rows),
                own: None,
            },
            schema,
            content: Some(content),
        })
    }
}

/// Writer version 2 with its delta encodings, and dictionaries only where they pay: two to four times the defaults' throughput.
fn properties(first: &RecordBatch) -> WriterPropertiesBuilder {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_max_row_group_row_count(None)
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(64))
        .set_dictionary_enabled(false);
    for (field, column) in first.schema().fields().iter().zip(first.columns()) {
        if deserves_dictionary(column) {
            properties = properties
                .set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), true);
        }
    }
    properties
}

/// The same for rows that are all known and few: what is smaller than a page of the disk is not worth compressing, nor a few rows an index.
fn small(
    mut properties: WriterPropertiesBuilder,
    batches: &[RecordBatch],
    rows: u64,
) -> WriterPropertiesBuilder {
    let columns = batches.first().map_or(0, RecordBatch::num_columns);
    for at in 0..columns {
        let bytes: usize = batches
            .iter()
            .map(|batch| batch.column(at).get_array_memory_size())
            .sum();
        if bytes < PLAIN_BYTES_MAX
            && let Some(field) = batches
                .first()
                .and_then(|batch| batch.schema_ref().fields().get(at))
        {
            let path = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_compression(path, Compression::UNCOMPRESSED);
        }
    }
    if rows <= INDEXED_ROWS_MIN {
        properties = properties.set_offset_index_disabled(true);
    }
    properties
}

fn deserves_dictionary(column: &dyn Array) -> bool {
    let rows = column.len().min(SAMPLE_ROWS);
    if rows == 0 || *column.data_type() != DataType::Utf8 {
        return false;
    }
    let column = column.as_string::<i32>();
    let distinct: HashSet<&str> = (0..rows)
        .filter(|&row| column.is_valid(row))
        .map(|row| column.value(row))
        .collect();
    distinct.len() * DISTINCT_SHARE <= rows && distinct.iter().all(|text| text.len() <= 256)
}

/// Delta's statistics: the number of rows. More than that is only ever an optimisation of readers, and a wrong bound loses rows.
pub(crate) fn stats(rows: u64) -> String {
    format!("{{\"numRecords\":{rows}}}")
}
