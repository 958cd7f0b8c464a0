//! The little that the server keeps for the sink: which journal writes to a table, and the newest epoch of its attempts.
//!
//! Each attach adds a line before anything else is written, and every request that changes a table looks at it in the same script. So a request of an older attempt that
//! comes late does nothing, whichever process and machine it comes from, and a sink whose journal was lost, or is an old copy, is told so.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Schema;
use std::sync::Arc;

use strait_common::ids::{Epoch, TableName};
use strait_common::{Error, Kind, OrError, Result};

use crate::cluster::Cluster;
use crate::encode::Argument;
use crate::errors::{Cause, Failure};
use crate::object::{integers_of, texts_of};
use crate::script::quoted;
use crate::types::{ColumnType, Type};

/// The database that holds it.
pub(crate) const DATABASE: &str = "strait_ledger";
const TABLE: &str = "epochs";
const HANDLE: &str = "loadTable(\"dfs://strait_ledger\", \"epochs\")";

/// Who wrote to a table last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The identity of its journal.
    pub(crate) journal: String,
    /// The epoch of its newest attempt.
    pub(crate) epoch: Epoch,
}

fn line(table: &TableName, owner: &Owner) -> Result<RecordBatch> {
    let text = |name: &str| ColumnType::plain(Type::String).field(name);
    let fields = vec![
        text("tbl"),
        text("journal"),
        ColumnType::plain(Type::Long).field("epoch"),
    ];
    let epoch = i64::try_from(owner.epoch.0).or_error(Kind::Internal, "epoch")?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![table.to_string()])),
        Arc::new(StringArray::from(vec![owner.journal.clone()])),
        Arc::new(Int64Array::from(vec![epoch])),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .or_error(Kind::Internal, "a line of the server's ledger")
}

/// The condition of the lines about a table.
fn of(table: &TableName) -> Result<String> {
    Ok(format!("tbl == {}", quoted(&table.to_string())?))
}

/// The statement that sets `e` to the newest epoch of a table.
pub(crate) fn newest(table: &TableName) -> Result<String> {
    Ok(format!(
        "e = exec max(epoch) from {HANDLE} where {}",
        of(table)?
    ))
}

/// Who writes to a table, if anybody ever has.
pub(crate) async fn owner(cluster: &Cluster, table: &TableName) -> Result<Option<Owner>> {
    if !cluster.has_table(DATABASE, TABLE).await? {
        return Ok(None);
    }
    let asked = format!("select journal, epoch from {HANDLE} where {}", of(table)?);
    let found = cluster.read(&asked).await?.into_table()?;
    let column = |name: &str| {
        found
            .column_by_name(name)
            .ok_or_else(|| Error::corrupt(format!("the server's ledger lacks column {name}")))
    };
    let journals = texts_of(column("journal")?)?;
    let epochs = integers_of(column("epoch")?)?;
    let lines = journals.into_iter().zip(epochs);
    let newest = lines.max_by_key(|(_, epoch)| epoch.unwrap_or(0));
    Ok(newest.map(|(journal, epoch)| Owner {
        journal,
        epoch: Epoch(
            epoch
                .and_then(|epoch| u64::try_from(epoch).ok())
                .unwrap_or(0),
        ),
    }))
}

/// Makes the ledger where it is missing. Safe to repeat, by several at once.
pub(crate) async fn prepare(cluster: &Cluster) -> Result<()> {
    if cluster.has_table(DATABASE, TABLE).await? {
        return Ok(());
    }
    let owner = Owner {
        journal: String::new(),
        epoch: Epoch(0),
    };
    let sample = line(&TableName::new("a", "b")?, &owner)?.slice(0, 0);
    let made = async {
        let mut lease = cluster.connect().await?;
        let connection = lease.connection();
        connection
            .upload("straitSample", &Argument::Table(sample))
            .await?;
        let exists = format!("existsDatabase(\"dfs://{DATABASE}\")");
        if !connection.script(&exists).await?.boolean()? {
            let make = format!("database(\"dfs://{DATABASE}\", VALUE, [1])");
            connection.script(&make).await?;
        }
        let make = format!("createTable(database(\"dfs://{DATABASE}\"), straitSample, \"epochs\")");
        connection.script(&make).await?;
        Ok::<(), Error>(())
    };
    let Err(error) = made.await else {
        return Ok(());
    };
    // Another sink may have been faster.
    match cluster.has_table(DATABASE, TABLE).await {
        Ok(true) => Ok(()),
        _ => Err(error.context("making the ledger of the sink at the server")),
    }
}

/// Adds a line.
///
/// # Errors
/// `Unavailable` while others add theirs.
pub(crate) async fn write(cluster: &Cluster, table: &TableName, owner: &Owner) -> Result<()> {
    let insert = format!("tableInsert{{{HANDLE}}}");
    let rows = line(table, owner)?;
    let mut tries = 0;
    loop {
        let mut lease = cluster.connect().await?;
        let arguments = [Argument::Table(rows.clone())];
        match lease.connection().call(&insert, &arguments).await {
            Ok(inserted) if inserted.integer()? == 1 => return Ok(()),
            Ok(_) => {
                return Err(Error::corrupt(
                    "the server has not taken a line of the sink's ledger",
                ));
            }
            // A second line with the same epoch says nothing new, so it can be sent again.
            Err(Failure::Lost(_) | Failure::Unsent(_)) if tries < TRIES_MAX => {}
            Err(Failure::Server(error))
                if error.cause == Cause::ChunkLocked && tries < TRIES_MAX => {}
            Err(failure) => return Err(failure.into()),
        }
        drop(lease);
        pause(tries).await;
        tries += 1;
    }
}

/// How often a request is sent again that the server could not carry out.
pub(crate) const TRIES_MAX: u32 = 8;

/// Waits before the next try: apart from others that failed at the same time.
pub(crate) async fn pause(tries: u32) {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;
    let backoff = strait_common::retry::Backoff {
        first: std::time::Duration::from_millis(50),
        most: std::time::Duration::from_secs(10),
        retries_max: TRIES_MAX,
    };
    let random = RandomState::new().hash_one(tries) % 1024;
    tokio::time::sleep(backoff.step(tries, random as f64 / 1024.0)).await;
}
