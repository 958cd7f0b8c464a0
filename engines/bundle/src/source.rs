//! What can be restored from a bundle.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use strait_common::engine::{
    Batch, Cursor, Origin, Partition, PartitionFiles, ReadLimits, Source, Stream, Table,
};
use strait_common::ids::TableName;
use strait_common::selection::Selection;
use strait_common::{Context, Error, Kind, OrError, Result};
use strait_lake::source::LakeSource;

use crate::check::check_log;
use crate::manifest::{Carried, Content, Manifest};
use crate::{Bundle, Depth};

/// Partitions that are read from a manifest by one piece of work.
const PARTITIONS_PER_STEP: usize = 256;

/// Reads the tables of a bundle, each as its newest manifest has it.
#[derive(Clone, Debug)]
pub struct BundleSource {
    bundle: Bundle,
    lake: LakeSource,
}

impl BundleSource {
    pub(crate) fn new(bundle: Bundle) -> BundleSource {
        BundleSource {
            lake: LakeSource::new(bundle.lake.clone(), bundle.cpu.clone()),
            bundle,
        }
    }

    async fn newest(&self, table: &TableName) -> Result<Manifest> {
        let name = table.clone();
        self.bundle
            .blocking(move |bundle| bundle.newest(&name))
            .await
    }
}

#[async_trait]
impl Source for BundleSource {
    async fn describe(&self, table: &TableName) -> Result<Table> {
        let name = table.clone();
        let newest = self.bundle.blocking(move |bundle| {
            let newest = bundle.newest(&name)?;
            check_log(bundle, &newest)?;
            Ok(newest)
        });
        let version = newest.await?.head.version;
        self.lake.describe_at(table, version).await
    }

    async fn tables(&self) -> Result<Vec<TableName>> {
        self.bundle.blocking(Bundle::tables).await
    }

    async fn check(&self, table: &TableName) -> Result<()> {
        let checked = self.bundle.check(table, Depth::Contents).await?;
        checked.whole(self.bundle.root())
    }

    async fn partitions(
        &self,
        table: &TableName,
        selection: &Selection,
    ) -> Result<Stream<Partition>> {
        let manifest = self.newest(table).await?;
        let version = manifest.head.version;
        let schema = self.lake.describe_at(table, version).await?.schema;
        let contents = manifest.contents()?;
        let state = (self.clone(), manifest, contents, selection.clone());
        let steps = futures::stream::try_unfold(
            state,
            move |(source, manifest, mut contents, selection)| {
                let schema = Arc::clone(&schema);
                async move {
                    let carried = source.bundle.clone();
                    let (step, contents, selection) = carried
                        .blocking(move |_| {
                            let mut step = Vec::with_capacity(PARTITIONS_PER_STEP);
                            while step.len() < PARTITIONS_PER_STEP {
                                match contents.next().transpose()? {
                                    None => break,
                                    Some(Content::Partition(carried))
                                        if !selection.excludes(&carried.key) =>
                                    {
                                        step.push(carried);
                                    }
                                    Some(_) => {}
                                }
                            }
                            Ok((step, contents, selection))
                        })
                        .await?;
                    if step.is_empty() {
                        return Ok(None);
                    }
                    let mut partitions = Vec::with_capacity(step.len());
                    for carried in step {
                        let here = source.here(&manifest.head.table, version, &carried).await?;
                        let told = carried.receipt.filter(|receipt| {
                            Selection::from_text(&receipt.selection, &schema)
                                .is_ok_and(|selection| selection.covers(&carried.key))
                        });
                        let (version, origin) = match told {
                            // What it was at A, it is.
                            Some(receipt) => (receipt.version, receipt.origin),
                            None => (
                                here.version.clone(),
                                Origin {
                                    table: here.origin.table.clone(),
                                    seen: manifest.head.made_at,
                                },
                            ),
                        };
                        partitions.push(Partition {
                            version,
                            origin,
                            ..here
                        });
                    }
                    let partitions = futures::stream::iter(partitions.into_iter().map(Ok));
                    Ok::<_, Error>(Some((partitions, (source, manifest, contents, selection))))
                }
            },
        );
        let partitions = steps.map(|step| match step {
            Ok(partitions) => partitions.boxed(),
            Err(error) => futures::stream::once(std::future::ready(Err(error))).boxed(),
        });
        Ok(partitions.flatten().boxed())
    }

    async fn read(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        after: &Cursor,
        limits: &ReadLimits,
    ) -> Result<Stream<Batch>> {
        let here = self.carried(table, partition).await?;
        self.lake.read(table, selection, &here, after, limits).await
    }

    async fn files_shape(&self, table: &TableName) -> Result<Option<String>> {
        let version = self.newest(table).await?.head.version;
        self.lake.files_shape_at(table, version).await.map(Some)
    }

    async fn files(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        shape: &str,
    ) -> Result<Option<Box<dyn PartitionFiles>>> {
        let here = self.carried(table, partition).await?;
        self.lake.files(table, selection, &here, shape).await
    }

    fn read_bytes(&self, table: &Table) -> u64 {
        self.lake.read_bytes(table)
    }
}

impl BundleSource {
    /// A planned partition as the lake of the bundle has it: there it has another version, if A has told its own.
    async fn carried(&self, table: &TableName, partition: &Partition) -> Result<Partition> {
        let version = partition
            .pin
            .parse()
            .or_error(Kind::Corrupt, "a pin that is not of a bundle")?;
        let here = self
            .lake
            .partition_at(table, version, &partition.key)
            .await?;
        here.ok_or_else(|| {
            Error::moved(format!(
                "partition {} is not in the bundle any more",
                partition.key.label()
            ))
        })
    }

    /// A partition of a manifest as the lake of the bundle has it.
    async fn here(&self, table: &TableName, version: u64, carried: &Carried) -> Result<Partition> {
        let here = self.lake.partition_at(table, version, &carried.key).await;
        here.with_context(|| format!("bundle {}", self.bundle.root().display()))?.ok_or_else(|| {
            Error::corrupt(format!(
                "bundle {}: partition {} is in its manifest and not in version {version} of its table",
                self.bundle.root().display(),
                carried.key.label()
            ))
        })
    }
}
