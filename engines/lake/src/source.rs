//! The half of the lake that is read.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use strait_common::clock::now_ns;
use strait_common::cpu::CpuPool;
use strait_common::engine::{
    Batch, Cursor, Partition, PartitionFiles, ReadLimits, Source, Stream, Table,
};
use strait_common::ids::TableName;
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::files;
use crate::listing::{DataFile, Listing, Listings};
use crate::read;
use crate::table::Lake;

/// Reads the tables of a lake.
#[derive(Clone, Debug)]
pub struct LakeSource {
    lake: Lake,
    cpu: CpuPool,
    listings: Arc<Listings>,
}

impl LakeSource {
    /// A reader of this lake.
    pub fn new(lake: Lake, cpu: CpuPool) -> LakeSource {
        LakeSource {
            lake,
            cpu,
            listings: Arc::default(),
        }
    }

    /// The table as it was at a version of its log.
    ///
    /// # Errors
    /// As [`Lake::open`].
    pub async fn describe_at(&self, table: &TableName, version: u64) -> Result<Table> {
        Ok(self.lake.open(table, Some(version)).await?.table(table))
    }

    /// How the files of the table looked at a version of its log.
    ///
    /// # Errors
    /// As [`Lake::open`].
    pub async fn files_shape_at(&self, table: &TableName, version: u64) -> Result<String> {
        let opened = self.lake.open(table, Some(version)).await?;
        files::shape(&opened.mapping, &opened.divisions)
    }

    /// The partition of this key as it was at a version of the table's log; none if it was not there.
    ///
    /// # Errors
    /// As [`Lake::open`] and [`Listing::load`].
    pub async fn partition_at(
        &self,
        table: &TableName,
        version: u64,
        key: &PartitionKey,
    ) -> Result<Option<Partition>> {
        let seen = now_ns();
        let listing = self.listings.at(&self.lake, table, version).await?;
        let at = listing.find(key)?;
        Ok(at.map(|at| listing.partition(at, key.clone(), seen)))
    }

    /// The files of the partition in the table as it was when the partition was planned, or as it is now where the partition is still the same.
    async fn find(
        &self,
        table: &TableName,
        partition: &Partition,
    ) -> Result<(Arc<Listing>, Vec<DataFile>)> {
        let pinned: u64 = partition
            .pin
            .parse()
            .or_error(Kind::Corrupt, "a pin that is not of the lake")?;
        let mut why = None;
        for pinned in [Some(pinned), None] {
            let listing = match pinned {
                Some(version) => self.listings.at(&self.lake, table, version).await,
                None => self.listings.newest(&self.lake, table).await,
            };
            let listing = match listing {
                Ok(listing) => listing,
                Err(error) if error.kind() == Kind::Moved => {
                    why = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (version, files) = listing.files(&partition.key)?;
            if version == partition.version && are_there(&listing.directory, &files)? {
                return Ok((listing, files));
            }
        }
        let moved = Error::moved(format!(
            "partition {} is no longer the one that was planned",
            partition.key.label()
        ));
        Err(match why {
            Some(why) => moved.with_source(why),
            None => moved,
        })
    }
}

fn are_there(directory: &Path, files: &[DataFile]) -> Result<bool> {
    for file in files {
        let path = directory.join(&file.path);
        let there = path.try_exists();
        if !there.or_error(Kind::Unavailable, path.display())? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[async_trait]
impl Source for LakeSource {
    async fn describe(&self, table: &TableName) -> Result<Table> {
        Ok(self.lake.open(table, None).await?.table(table))
    }

    async fn tables(&self) -> Result<Vec<TableName>> {
        let lake = self.lake.clone();
        self.cpu.run(move || lake.tables()).await
    }

    async fn partitions(
        &self,
        table: &TableName,
        selection: &Selection,
    ) -> Result<Stream<Partition>> {
        // Before it is looked at: what comes later may be newer than what was seen.
        let seen = now_ns();
        let listing = self.listings.newest(&self.lake, table).await?;
        listing.check_named(table, selection)?;
        let selection = selection.clone();
        let partitions = (0..listing.len()).filter_map(move |at| match listing.key(at) {
            Ok(key) if selection.excludes(&key) => None,
            Ok(key) => Some(Ok(listing.partition(at, key, seen))),
            Err(error) => Some(Err(error)),
        });
        Ok(futures::stream::iter(partitions).boxed())
    }

    async fn read(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        after: &Cursor,
        limits: &ReadLimits,
    ) -> Result<Stream<Batch>> {
        let context = || format!("table {table}");
        let (listing, files) = self.find(table, partition).await.with_context(context)?;
        let plan = read::Plan {
            mapping: listing
                .mapping
                .project(selection.read_columns())
                .with_context(context)?,
            directory: listing.directory.clone(),
            files,
            key: partition.key.clone(),
            partition_columns: listing.partition_columns.clone(),
            limits: limits.clone(),
        };
        read::stream(plan, after, self.cpu.clone()).with_context(context)
    }

    async fn files_shape(&self, table: &TableName) -> Result<Option<String>> {
        let opened = self.lake.open(table, None).await?;
        files::shape(&opened.mapping, &opened.divisions).map(Some)
    }

    async fn files(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        shape: &str,
    ) -> Result<Option<Box<dyn PartitionFiles>>> {
        if !selection.covers(&partition.key) {
            return Ok(None);
        }
        let context = || format!("table {table}");
        let (listing, files) = self.find(table, partition).await.with_context(context)?;
        let columns = listing.mapping.original().fields();
        let all = |column: &String| selection.columns().contains(column);
        if listing.shape()? != shape || !columns.iter().all(|column| all(column.name())) {
            return Ok(None);
        }
        let offered = self.cpu.run(move || files::offer(&listing, files)).await;
        let offered = offered.with_context(context)?;
        Ok(offered.map(|offered| Box::new(offered) as Box<dyn PartitionFiles>))
    }

    fn read_bytes(&self, table: &Table) -> u64 {
        read::read_bytes(table.schema.fields().len())
    }
}

/// The same as a trait object.
pub fn source(lake: Lake, cpu: CpuPool) -> Arc<dyn Source> {
    Arc::new(LakeSource::new(lake, cpu))
}
