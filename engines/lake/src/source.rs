//! The half of the lake that is read.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use strait_common::cpu::CpuPool;
use strait_common::engine::{Batch, Cursor, Partition, ReadLimits, Source, Stream, Table};
use strait_common::ids::TableName;
use strait_common::selection::Selection;
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::read;
use crate::table::{Lake, Opened, version_of};

/// Reads the tables of a lake.
#[derive(Clone, Debug)]
pub struct LakeSource {
    lake: Lake,
    cpu: CpuPool,
}

impl LakeSource {
    /// A reader of this lake.
    pub fn new(lake: Lake, cpu: CpuPool) -> LakeSource {
        LakeSource { lake, cpu }
    }

    /// The table as it was when the partition was planned, or as it is now where the partition is still the same.
    async fn open_version(
        &self,
        table: &TableName,
        partition: &Partition,
    ) -> Result<(Opened, Vec<crate::table::DataFile>)> {
        let pinned: u64 = partition
            .pin
            .parse()
            .or_error(Kind::Corrupt, "a pin that is not of the lake")?;
        let mut why = None;
        for version in [Some(pinned), None] {
            let opened = match self.lake.open(table, version).await {
                Ok(opened) => opened,
                Err(error) if error.kind() == Kind::Moved => {
                    why = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (opened, files) = self
                .cpu
                .run(move || {
                    let files = opened.files()?;
                    Ok((opened, files))
                })
                .await?;
            let files = files
                .into_iter()
                .find(|(key, _)| *key == partition.key)
                .map(|(_, files)| files)
                .unwrap_or_default();
            let there = files
                .iter()
                .all(|file| opened.directory.join(&file.path).exists());
            if version_of(&files) == partition.version && there {
                return Ok((opened, files));
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
        let opened = self.lake.open(table, None).await?;
        let selection = selection.clone();
        let partitions = self.cpu.run(move || {
            let files = opened.files()?;
            let selected = files
                .into_iter()
                .filter(|(key, _)| !selection.excludes(key));
            Ok(selected
                .map(|(key, files)| opened.partition(key, &files))
                .collect::<Vec<_>>())
        });
        Ok(futures::stream::iter(partitions.await?).map(Ok).boxed())
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
        let (opened, files) = self
            .open_version(table, partition)
            .await
            .with_context(context)?;
        let plan = read::Plan {
            mapping: opened
                .mapping
                .project(selection.read_columns())
                .with_context(context)?,
            directory: opened.directory.clone(),
            files,
            key: partition.key.clone(),
            partition_columns: opened.partition_columns.clone(),
            limits: limits.clone(),
        };
        read::stream(plan, after, self.cpu.clone()).with_context(context)
    }

    fn read_bytes(&self, table: &Table) -> u64 {
        read::read_bytes(table.schema.fields().len())
    }
}

/// The same as a trait object.
pub fn source(lake: Lake, cpu: CpuPool) -> Arc<dyn Source> {
    Arc::new(LakeSource::new(lake, cpu))
}
