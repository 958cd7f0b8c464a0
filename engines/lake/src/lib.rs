//! The embedded default engine: a directory of Delta Lake tables.
//!
//! A store is a directory, `lake:///data/a`; a table `db1/mt` is the Delta table in its subdirectory `db1/mt`, which Spark, DuckDB, Polars,
//! pandas and ClickHouse read too.
//!
//! Read [`ledger`] for what makes a row of this lake count exactly once, [`attachment`] and [`commit`] for how it is written, [`disk`] and [`durable`]
//! for what survives a power cut, [`table`], [`divisions`], [`features`], [`types`] and [`partition_values`] for what Delta is made to say, [`listing`] and
//! [`read`] for reading in bounded memory, [`files`] for files that travel as they are.

mod apart;
pub mod attachment;
pub mod commit;
pub mod disk;
pub mod divisions;
pub mod durable;
pub mod features;
pub mod files;
pub mod ledger;
pub mod listing;
mod load_error;
pub mod partition_values;
pub mod read;
mod receipts;
pub mod sink;
pub mod source;
pub mod stage;
pub mod table;
pub mod transactions;
pub mod types;
pub mod vacuum;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use strait_common::cpu::CpuPool;
use strait_common::engine::Store;
use strait_common::{Error, Kind, OrError, Result};
use url::Url;

use crate::disk::Disk;
use crate::table::Lake;

/// Opens the lake in the directory that a URL names; makes it where it is missing.
///
/// # Errors
/// `Config` if the URL names a host, or the directory cannot be made.
pub async fn open(url: &Url, cpu: CpuPool) -> Result<Store> {
    if url.host_str().is_some_and(|host| !host.is_empty()) || !url.path().starts_with('/') {
        return Err(Error::config(
            "write lake:///absolute/directory, with three slashes",
        ));
    }
    // The path of a URL is percent-encoded.
    let file = Url::parse(&format!("file://{}", url.path())).or_error(Kind::Config, "path")?;
    let root = file
        .to_file_path()
        .map_err(|()| Error::config("the path of the URL is no directory"))?;
    open_directory(root, cpu, Disk::default()).await
}

/// Opens the lake in this directory, over this disk.
///
/// # Errors
/// `Config` if the directory cannot be made.
pub async fn open_directory(root: PathBuf, cpu: CpuPool, disk: Disk) -> Result<Store> {
    let made = root.clone();
    cpu.run(move || {
        Disk::default()
            .create_directories(&made)
            .map_err(|error| Error::config("directory").with_source(error))?;
        if !made.is_dir() {
            return Err(Error::config(format!(
                "{} is not a directory",
                made.display()
            )));
        }
        Ok(())
    })
    .await?;
    Ok(store(Lake::new(root, disk), cpu))
}

/// Both halves of a lake, whose directory need not be there before its first table is made.
pub fn store(lake: Lake, cpu: CpuPool) -> Store {
    Store {
        source: source::source(lake.clone(), cpu.clone()),
        sink: Arc::new(sink::LakeSink::new(lake, cpu)),
    }
}
