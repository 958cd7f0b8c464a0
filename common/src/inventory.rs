//! What tables a store has, as `strait tables` shows them.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use strait_proto::v1;

use crate::engine::{Store, Table};
use crate::error::{Error, Result};
use crate::ids::TableName;
use crate::selection::Selection;

/// The tables of a store one after the other, each as it is now; what goes wrong is told in its place.
pub fn tables<'a>(place: &'a str, store: &'a Store) -> BoxStream<'a, v1::TableInfo> {
    let listed = async move {
        let listed = store.source.tables().await;
        let tables = listed.map_or_else(
            |error| vec![Err(error)],
            |tables| tables.into_iter().map(Ok).collect(),
        );
        stream::iter(tables).then(move |table| async move {
            match table {
                Ok(table) => look(place, store, &table).await,
                Err(error) => unlisted(place, &error),
            }
        })
    };
    stream::once(listed).flatten().boxed()
}

async fn look(place: &str, store: &Store, table: &TableName) -> v1::TableInfo {
    let info = v1::TableInfo {
        place: format!("{place}:{table}"),
        ..v1::TableInfo::default()
    };
    match fill(info.clone(), store, table).await {
        Ok(info) => info,
        Err(error) => failed(info, &error),
    }
}

/// A store or sink whose tables cannot be listed.
pub fn unlisted(place: &str, error: &Error) -> v1::TableInfo {
    let info = v1::TableInfo {
        place: place.to_owned(),
        ..v1::TableInfo::default()
    };
    failed(info, error)
}

fn failed(info: v1::TableInfo, error: &Error) -> v1::TableInfo {
    v1::TableInfo {
        message: error.to_string(),
        kind: error.kind().name().to_owned(),
        ..info
    }
}

async fn fill(mut info: v1::TableInfo, store: &Store, table: &TableName) -> Result<v1::TableInfo> {
    let Table {
        schema, divisions, ..
    } = store.source.describe(table).await?;
    info.columns = u32::try_from(schema.fields().len()).unwrap_or(u32::MAX);
    info.divided_by = divisions
        .into_iter()
        .map(|division| division.column)
        .collect();
    info.run = store
        .sink
        .claim(table)
        .await?
        .map(|claim| claim.run.to_string());
    (info.rows, info.bytes) = (Some(0), Some(0));
    let everything = Selection::everything(&schema);
    let mut partitions = store.source.partitions(table, &everything).await?;
    while let Some(partition) = partitions.next().await.transpose()? {
        info.partitions += 1;
        info.rows = info.rows.zip(partition.rows).map(|(sum, rows)| sum + rows);
        info.bytes = info
            .bytes
            .zip(partition.bytes)
            .map(|(sum, bytes)| sum + bytes);
    }
    Ok(info)
}
