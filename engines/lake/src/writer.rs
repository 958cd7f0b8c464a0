//! One partition on its way into the stage.
//!
//! A few rows stay in memory as they came, and are encoded when no more come; their group's commit writes and syncs them with all others of it. More rows go to a
//! file at once. A checkpoint makes a file of either, and durable. What comes as files stays the files that it is.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, Scalar};
use async_trait::async_trait;
use bytes::Bytes;
use strait_common::engine::{
    Disposition, Finished, Mark, Partition, PartitionWriter, Position, Receipt, TableFile, Version,
};
use strait_common::key::{Cell, PartitionKey};
use strait_common::selection::in_range;
use strait_common::{Context, Error, Kind, OrError, Result};
use tokio::sync::{mpsc, oneshot};

use crate::apart::{Apart, Way, in_file};
use crate::attachment::{Request, Shared, lock};
use crate::files::{Incoming, Target};
use crate::ledger::{Published, PublishedFile};
use crate::partition_values::column_of;
use crate::stage::{FileWriter, Fresh, StageRecord, StagedFile, to_hex};
use crate::table::{directory_name, values_of};
use crate::types::{Mapping, same_type};

/// Rows of at most so many bytes stay in memory until their commit.
const SMALL_BYTES: usize = 128 << 10;
/// Where the files of partitions go that stayed in memory, below the table: a directory for each would have to be made and synced.
const SMALL_PLACE: &str = "strait-small";

/// Where rows of a partition go.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// To this directory, below the table's.
    Own(PathBuf),
    /// Into several partitions of the table, which is divided otherwise.
    Apart,
}

/// One partition being written.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    commits: mpsc::Sender<Request>,
    key: PartitionKey,
    version: Version,
    disposition: Disposition,
    place: Place,
    /// Those of checkpoints, durable.
    files: Vec<StagedFile>,
    after: After,
    /// Files since then, where those come in place of rows.
    incoming: Incoming,
    mapping: Option<Mapping>,
    rows: u64,
}

/// The rows since the last checkpoint.
enum After {
    /// Few, as they came.
    Few(Vec<RecordBatch>, usize),
    /// In this file.
    File(Box<FileWriter>),
    /// Told apart by the table's own partitions.
    Apart(Box<Apart>),
    /// No more come. None where there were none.
    Sealed(Vec<Fresh>),
}

impl After {
    fn none(place: &Place) -> After {
        match place {
            Place::Own(_) => After::Few(Vec::new(), 0),
            Place::Apart => After::Apart(Box::default()),
        }
    }
}

impl std::fmt::Debug for After {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("After")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.shared.open).remove(&self.key);
    }
}

#[async_trait]
impl PartitionWriter for Writer {
    async fn append(&mut self, records: RecordBatch) -> Result<()> {
        let result = self.do_append(records).await;
        self.shared.blame(result).await
    }

    async fn append_file(&mut self, file: &TableFile, bytes: Bytes) -> Result<()> {
        let result = self.do_append_file(*file, bytes).await;
        self.shared.blame(result).await
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Position> {
        let result = self.do_checkpoint(mark).await;
        self.shared.blame(result).await
    }

    async fn seal(&mut self) -> Result<u64> {
        let result = self.do_seal().await;
        self.shared.blame(result).await
    }

    async fn finish(mut self: Box<Self>, receipt: Receipt) -> Result<Finished> {
        let result = self.do_finish(receipt).await;
        self.shared.blame(result).await
    }
}

impl Writer {
    /// A writer that goes on after what is staged in `base`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        commits: mpsc::Sender<Request>,
        partition: &Partition,
        disposition: Disposition,
        place: Place,
        base: Option<StageRecord>,
    ) -> Writer {
        Writer {
            shared,
            commits,
            key: partition.key.clone(),
            version: partition.version.clone(),
            disposition,
            rows: base.as_ref().map_or(0, |base| base.rows),
            files: base.map(|base| base.files).unwrap_or_default(),
            after: After::none(&place),
            incoming: Incoming::default(),
            place,
            mapping: None,
        }
    }

    fn take_after(&mut self) -> After {
        std::mem::replace(&mut self.after, After::none(&self.place))
    }

    /// Where a file goes, below the table's directory.
    fn directory(&self, file: &StagedFile) -> Result<PathBuf> {
        let key = match (&self.place, &file.own) {
            (Place::Own(place), _) => return Ok(place.clone()),
            (Place::Apart, Some(own)) => own,
            (Place::Apart, None) => return Err(Error::internal("a file of no partition")),
        };
        let values = values_of(&self.shared.divisions, &self.shared.mapping, key)?;
        Ok(directory_name(key, &values))
    }

    fn way(&self, rows: &Mapping) -> Way {
        Way {
            divisions: self.shared.divisions.clone(),
            table: self.shared.mapping.clone(),
            rows: rows.clone(),
            stage: self.shared.stage.clone(),
            epoch: self.shared.epoch,
        }
    }

    async fn do_append(&mut self, records: RecordBatch) -> Result<()> {
        self.shared.check_fence().await?;
        if records.num_rows() == 0 {
            return Ok(());
        }
        let mapping = match &self.mapping {
            Some(mapping) => mapping.clone(),
            None => {
                let mapping = check_schema(&self.shared.mapping, &records)?;
                self.mapping = Some(mapping.clone());
                mapping
            }
        };
        let (key, first, mut after) = (self.key.clone(), self.rows, self.take_after());
        let (stage, epoch) = (self.shared.stage.clone(), self.shared.epoch);
        let rows = records.num_rows() as u64;
        let way = matches!(after, After::Apart(_)).then(|| self.way(&mapping));
        let in_log: Vec<String> = self.shared.divisions.value_columns().cloned().collect();
        let work = move || {
            check_key(&records, &key, first)?;
            if let (After::Apart(apart), Some(way)) = (&mut after, &way) {
                apart.add(way, &records)?;
                return Ok(after);
            }
            let stored = mapping.to_stored(&records)?;
            drop(records);
            let stored = in_file(&stored, &in_log)?;
            let mut file = match after {
                After::Few(mut few, mut bytes) => {
                    bytes += stored.get_array_memory_size();
                    if bytes <= SMALL_BYTES {
                        few.push(stored);
                        return Ok(After::Few(few, bytes));
                    }
                    let first = few.first().unwrap_or(&stored);
                    let mut file = Box::new(FileWriter::open(&stage, epoch, first)?);
                    few.iter().try_for_each(|rows| file.write(rows))?;
                    file
                }
                After::File(file) => file,
                After::Apart(_) | After::Sealed(_) => {
                    return Err(Error::internal("rows after the last ones"));
                }
            };
            file.write(&stored)?;
            Ok(After::File(file))
        };
        self.after = self.shared.cpu.run(work).await?;
        self.rows += rows;
        Ok(())
    }

    async fn do_append_file(&mut self, file: TableFile, bytes: Bytes) -> Result<()> {
        self.shared.check_fence().await?;
        if !matches!(&self.after, After::Few(few, _) if few.is_empty()) {
            return Err(Error::internal("a file among rows, or after the last"));
        }
        let target = Target {
            stage: self.shared.stage.clone(),
            epoch: self.shared.epoch,
            mapping: self.shared.mapping.clone(),
            partition_columns: self.shared.divisions.value_columns().cloned().collect(),
            last: Arc::clone(&self.shared.last_file),
        };
        let mut incoming = std::mem::take(&mut self.incoming);
        let work = move || {
            incoming.append(&target, &file, &bytes, SMALL_BYTES)?;
            Ok(incoming)
        };
        self.incoming = self.shared.cpu.run(work).await?;
        Ok(())
    }

    async fn do_checkpoint(&mut self, mark: Mark) -> Result<Position> {
        self.shared.check_fence().await?;
        let whole = self.incoming.take()?;
        if !whole.is_empty() {
            let (stage, together) = (self.shared.stage.clone(), Arc::clone(&self.shared.together));
            let keep = move || {
                stage.make_durable(&together, &whole)?;
                Ok(whole.into_iter().map(|fresh| fresh.file))
            };
            self.files.extend(self.shared.cpu.run(keep).await?);
        }
        let after = self.take_after();
        let (disk, stage) = (self.shared.lake.disk().clone(), self.shared.stage.clone());
        let (epoch, together) = (self.shared.epoch, Arc::clone(&self.shared.together));
        let closed = self.shared.cpu.run(move || {
            let file = match after {
                After::Few(few, _) => match few.first() {
                    None => return Ok(Vec::new()),
                    Some(first) => {
                        let mut file = Box::new(FileWriter::open(&stage, epoch, first)?);
                        few.iter().try_for_each(|rows| file.write(rows))?;
                        file
                    }
                },
                After::File(file) => file,
                After::Apart(apart) => return apart.close(&stage, epoch, &together),
                After::Sealed(_) => {
                    return Err(Error::internal("a checkpoint after the last rows"));
                }
            };
            let closed = file.close(&disk)?;
            stage.sync()?;
            Ok(vec![closed])
        });
        self.files.extend(closed.await?);
        let record = StageRecord {
            epoch,
            key: self.key.clone(),
            version: self.version.clone(),
            sequence: mark.sequence,
            cursor: to_hex(&mark.cursor.0),
            rows: mark.rows,
            digest: mark.digest,
            files: self.files.clone(),
        };
        let position = record.position(self.shared.run)?;
        let older = lock(&self.shared.records)
            .get(&self.key)
            .map(|older| older.epoch);
        let (stage, written) = (self.shared.stage.clone(), record.clone());
        let write = move || {
            stage.write_record(&written)?;
            match older {
                Some(older) if older != written.epoch => stage.forget(&written.key, older),
                _ => Ok(()),
            }
        };
        self.shared.cpu.run(write).await?;
        lock(&self.shared.records).insert(self.key.clone(), record);
        self.shared.returns()?;
        Ok(position)
    }

    async fn do_seal(&mut self) -> Result<u64> {
        match &self.after {
            After::Sealed(_) => return Ok(0),
            // All rows are in files, of checkpoints or as they came.
            After::Few(few, _) if few.is_empty() => {
                self.after = After::Sealed(Vec::new());
                return Ok(self.incoming.held());
            }
            After::Few(..) | After::File(_) | After::Apart(_) => {}
        }
        let (after, epoch) = (self.take_after(), self.shared.epoch);
        let seal = move || match after {
            After::Few(few, _) => Fresh::encode(epoch, &few).map(|fresh| vec![fresh]),
            After::File(file) => file.end().map(|fresh| vec![fresh]),
            After::Apart(apart) => apart.seal(epoch),
            After::Sealed(fresh) => Ok(fresh),
        };
        let fresh = self.shared.cpu.run(seal).await?;
        let content = fresh.iter().filter_map(|fresh| fresh.content.as_ref());
        let held = content.map(|content| content.len() as u64).sum();
        self.after = After::Sealed(fresh);
        Ok(held)
    }

    async fn do_finish(&mut self, receipt: Receipt) -> Result<Finished> {
        if let Some(committed) = lock(&self.shared.committed).get(&self.key) {
            if !committed.proves(&receipt) {
                return Err(Error::corrupt(format!(
                    "partition {}: it was committed with another receipt",
                    self.key.label()
                )));
            }
            return Ok(Finished::Already(committed));
        }
        self.do_seal().await?;
        let After::Sealed(fresh) = self.take_after() else {
            return Err(Error::internal("a partition that is not sealed"));
        };
        let mut last = self.incoming.take()?;
        last.extend(fresh);
        let small = self.files.is_empty() && last.iter().all(|fresh| fresh.content.is_some());
        let mut files = std::mem::take(&mut self.files);
        files.extend(last.iter().map(|fresh| fresh.file.clone()));
        let places = files.iter().map(|file| {
            let directory = if small {
                PathBuf::from(SMALL_PLACE)
            } else {
                self.directory(file)?
            };
            let path = directory.join(format!("strait-{}", file.name));
            Ok(PublishedFile {
                staged: file.name.clone(),
                path: path.to_string_lossy().into_owned(),
            })
        });
        let places = places.collect::<Result<Vec<_>>>()?;
        let published = Published {
            disposition: self.disposition,
            files: places,
            receipt,
        };
        let (done, answer) = oneshot::channel();
        let request = Request {
            published,
            files,
            fresh: last,
            done,
        };
        let gone = || Error::unavailable("the attempt is over");
        self.commits.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        Ok(Finished::Now)
    }
}

/// The mapping of the run's columns, which must be columns of the table.
fn check_schema(table: &Mapping, records: &RecordBatch) -> Result<Mapping> {
    let schema = records.schema();
    for field in schema.fields() {
        let found = table.original().field_with_name(field.name());
        let found = found.map_err(|_| {
            Error::schema(format!(
                "column {}: the table at the sink has no such column",
                field.name()
            ))
        })?;
        if !same_type(found.data_type(), field.data_type()) {
            let (theirs, ours) = (field.data_type(), found.data_type());
            return Err(Error::schema(format!(
                "column {}: {theirs} at the source, {ours} at the sink",
                field.name()
            )));
        }
    }
    Mapping::of(&schema)
}

/// Every row must have the key's values, and be in its ranges; rows without a value can be in any. Which bucket a row is in only its own engine knows.
fn check_key(records: &RecordBatch, key: &PartitionKey, first_row: u64) -> Result<()> {
    for (name, cell) in key.parts() {
        let column = records.column_by_name(name).ok_or_else(|| {
            Error::schema(format!(
                "the rows lack column {name}, which divides the table"
            ))
        })?;
        let context = || format!("column {name}");
        let fits = match cell {
            Cell::Bucket { .. } => continue,
            Cell::Range { from, to } => {
                in_range(column, from.as_ref(), to.as_ref()).with_context(context)?
            }
            Cell::Null | Cell::Value(_) => {
                let expected = Scalar::new(column_of(cell, column.data_type(), 1)?);
                arrow::compute::kernels::cmp::not_distinct(&column, &expected)
                    .or_error(Kind::Schema, context())?
            }
        };
        let is_other = |row: &usize| fits.is_valid(*row) && !fits.value(*row);
        if let Some(row) = (0..fits.len()).find(is_other) {
            let is = match cell {
                Cell::Range { .. } => "in ",
                _ => "",
            };
            return Err(Error::corrupt(format!(
                "column {name}, row {}: the value is not {is}{cell}, as its partition says",
                first_row + row as u64
            )));
        }
    }
    Ok(())
}
