//! Rows of one of the source's partitions on their way into several of a table that is divided otherwise.
//!
//! They are told apart as they come and collected in memory for each of the table's partitions. When there are too many, the largest collections go to files of their own, until
//! half of it is free: what is common gets large files, what is rare waits for more. Such a partition adds files to many others; whoever reads the table much compacts it.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use strait_common::frame::slice_bytes;
use strait_common::ids::Epoch;
use strait_common::key::PartitionKey;
use strait_common::regroup::split;
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::disk::Together;
use crate::divisions::Divisions;
use crate::stage::{FileWriter, Fresh, Stage, StagedFile};
use crate::table::values_of;
use crate::types::Mapping;

/// Rows that are collected, in bytes. Beside them a writer of some of them is open: together they stay within what an open writer is reckoned with.
const COLLECTED_BYTES_MAX: u64 = 6 << 20;

/// Rows since the last checkpoint, told apart.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    collected: BTreeMap<PartitionKey, Collected>,
    bytes: u64,
    /// Files that are written; not durable.
    files: Vec<Fresh>,
}

#[derive(Debug, Default)]
struct Collected {
    batches: Vec<RecordBatch>,
    bytes: u64,
}

/// What telling rows apart needs to know of the table, and where files go.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) divisions: Divisions,
    /// The table's columns.
    pub(crate) table: Mapping,
    /// The run's columns.
    pub(crate) rows: Mapping,
    pub(crate) stage: Stage,
    pub(crate) epoch: Epoch,
}

impl Apart {
    /// Adds rows, and writes the largest collections where there are too many.
    ///
    /// # Errors
    /// `Refused`, naming the column, for a value that no partition of the table can have; `Unavailable` if the disk fails.
    pub(crate) fn add(&mut self, way: &Way, records: &RecordBatch) -> Result<()> {
        let columns: Vec<String> = way.divisions.value_columns().cloned().collect();
        for (key, part) in split(records, &columns)? {
            if !self.collected.contains_key(&key) {
                // At the latest the commit would refuse it, and with it whatever else is in its group.
                let place = values_of(&way.divisions, &way.table, &key);
                place.with_context(|| format!("partition {} of the sink", key.label()))?;
            }
            let stored = in_file(&way.rows.to_stored(&part)?, &columns)?;
            let bytes = slice_bytes(&stored);
            let collected = self.collected.entry(key).or_default();
            collected.batches.push(stored);
            collected.bytes += bytes;
            self.bytes += bytes;
        }
        if self.bytes > COLLECTED_BYTES_MAX {
            while self.bytes > COLLECTED_BYTES_MAX / 2 {
                self.write_largest(way)?;
            }
        }
        Ok(())
    }

    fn write_largest(&mut self, way: &Way) -> Result<()> {
        let largest = self.collected.iter().max_by_key(|(_, rows)| rows.bytes);
        let largest = largest.map(|(key, _)| key.clone());
        let Some((key, rows)) = largest.and_then(|key| self.collected.remove_entry(&key)) else {
            return Err(Error::internal("rows are counted that are not there"));
        };
        self.bytes -= rows.bytes;
        let first = rows.batches.first();
        let first = first.ok_or_else(|| Error::internal("a file without rows"))?;
        let mut file = FileWriter::open(&way.stage, way.epoch, first)?;
        rows.batches.iter().try_for_each(|rows| file.write(rows))?;
        self.files.push(own(file.end()?, key));
        Ok(())
    }

    /// No more rows come: what is collected is encoded in memory.
    ///
    /// # Errors
    /// `Internal` if it cannot be encoded.
    pub(crate) fn seal(self, epoch: Epoch) -> Result<Vec<Fresh>> {
        let mut files = self.files;
        for (key, rows) in self.collected {
            files.push(own(Fresh::encode(epoch, &rows.batches)?, key));
        }
        Ok(files)
    }

    /// The same, all of it durable with its names.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub(crate) fn close(
        self,
        stage: &Stage,
        epoch: Epoch,
        together: &Together,
    ) -> Result<Vec<StagedFile>> {
        let files = self.seal(epoch)?;
        stage.make_durable(together, &files)?;
        Ok(files.into_iter().map(|fresh| fresh.file).collect())
    }
}

/// A batch without the columns that the log has.
///
/// # Errors
/// `Internal` if Arrow cannot leave them out.
pub(crate) fn in_file(stored: &RecordBatch, in_log: &[String]) -> Result<RecordBatch> {
    let fields = stored.schema();
    let at = (0..fields.fields().len()).filter(|&at| !in_log.contains(fields.field(at).name()));
    let at: Vec<usize> = at.collect();
    stored.project(&at).or_error(Kind::Internal, "project")
}

fn own(mut fresh: Fresh, key: PartitionKey) -> Fresh {
    fresh.file.own = Some(key);
    fresh
}
