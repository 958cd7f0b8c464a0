//! DolphinDB: an Arrow-native client of its API protocol.
//!
//! Values go from the wire into Arrow's buffers and back without a value of their own in between; a table that is read in blocks has one block in memory.
//! Start with [`Cluster`]: it opens connections to whichever site answers and asks. A [`Connection`] is a request and its answer; [`Blocks`] is an answer that is
//! read bit by bit. Below are `wire` (bounded reading), `decode` and `encode` (objects), `compress`, and [`ColumnType`] (which type is which in Arrow).
//!
//! What this client never does: believe a length before its bytes have come; go on with a connection whose answer it did not read to the end; send a
//! password in plain text that nobody told it to; connect by TLS without knowing whom it trusts; take a value for null that is not, or the other way round.

mod attempt;
mod blocks;
mod cluster;
#[cfg(test)]
mod codec_tests;
mod compress;
mod connection;
mod decode;
mod encode;
mod epochs;
mod errors;
mod fit;
mod journal;
mod login;
mod object;
mod options;
mod publish;
mod read_only;
mod recipe;
mod records;
pub mod samples;
mod scheme;
mod script;
pub mod served;
mod sink;
mod source;
mod sums;
mod tls;
mod types;
mod version;
mod wire;

pub use blocks::{BLOCK_ROWS_MIN, Blocks};
pub use cluster::{Cluster, Lease};
pub use connection::Connection;
pub use encode::{Argument, BLOB_BYTES_MAX, STRING_BYTES_MAX, SYMBOL_BYTES_MAX, check_table};
pub use errors::{Cause, Failure, ServerError};
pub use object::{Column, Object, integers_of, texts_of};
pub use options::{Login, Options, Secret, Site, Trust, User};
pub use sink::{BATCH_BYTES, DolphinSink, Watch};
pub use source::DolphinSource;
pub use types::{ColumnType, ORIGINAL, Type};

use std::sync::Arc;

use strait_common::Result;
use strait_common::cpu::CpuPool;
use strait_common::engine::{Sink, Store};
use url::Url;

/// Opens the cluster that a URL names. Nothing connects yet. CPU work and the journal's run on `cpu`.
///
/// # Errors
/// `Config`, naming what the URL says wrong, or the journal that cannot be opened.
pub fn open(url: &Url, cpu: CpuPool) -> Result<Store> {
    let options = Options::from_url(url)?;
    let (journal, batch_bytes) = (options.journal.clone(), options.batch_bytes);
    let cluster = Cluster::new(options)?;
    let sink: Arc<dyn Sink> = match journal {
        None => Arc::new(read_only::ReadOnly),
        Some(journal) => Arc::new(DolphinSink::open(
            cluster.clone(),
            &journal,
            batch_bytes,
            cpu,
            None,
        )?),
    };
    Ok(Store {
        source: Arc::new(DolphinSource::new(cluster)),
        sink,
    })
}
