//! An answer in blocks: a lazy stream of batches, of which one is in memory.
//!
//! The server has the whole answer before it sends the first block; not reading on is what holds it back. A connection that was left before the last
//! block is out of step and is closed, which stops the query.

use arrow::array::RecordBatch;
use strait_common::{Error, Result};

use crate::cluster::Lease;
use crate::connection::{Follows, block};
use crate::decode;
use crate::errors::Failure;
use crate::object::Object;

/// The fewest rows of a block that a server takes.
pub const BLOCK_ROWS_MIN: u32 = 8192;

/// The blocks of one answer.
#[derive(Debug)]
pub struct Blocks {
    lease: Lease,
    left: usize,
    /// An answer that came in one piece, whatever was asked.
    whole: Option<RecordBatch>,
}

impl Blocks {
    /// Runs a script whose answer is a table, and reads up to its first block.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn begin(mut lease: Lease, script: &str, rows: u32) -> Result<Blocks, Failure> {
        let rows = rows.max(BLOCK_ROWS_MIN);
        let connection = lease.connection();
        let mut whole = None;
        let mut left = 0;
        match connection.begin_blocks(script, rows).await? {
            Follows::Nothing => connection.in_step(),
            Follows::Object => {
                let begun = begin(connection).await;
                match begun.map_err(|error| connection.lost(error))? {
                    Begun::Blocks(blocks) => {
                        left = blocks;
                        if left == 0 {
                            connection.in_step();
                        }
                    }
                    Begun::Whole(table) => {
                        connection.in_step();
                        whole = Some(table);
                    }
                }
            }
        }
        Ok(Blocks { lease, left, whole })
    }

    /// The next block, or none after the last.
    ///
    /// # Errors
    /// As [`Failure::Lost`]: nothing comes after it.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(whole) = self.whole.take() {
            return Ok(Some(whole));
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        // Nothing follows a block that could not be read.
        self.left = 0;
        let connection = self.lease.connection();
        let block = block(connection).await;
        let block = block.map_err(|error| Error::from(connection.lost(error)))?;
        if left == 0 {
            connection.in_step();
        }
        self.left = left;
        Ok(Some(block))
    }
}

enum Begun {
    Blocks(usize),
    Whole(RecordBatch),
}

async fn begin(connection: &mut crate::connection::Connection) -> Result<Begun> {
    let incoming = connection.incoming();
    let (code, form) = decode::flag(incoming).await?;
    if (code, form) == (decode::ANY, decode::VECTOR) {
        let blocks = incoming.count("blocks").await?;
        incoming.count("columns of a vector").await?;
        return Ok(Begun::Blocks(blocks));
    }
    // An answer without rows may come as a plain table.
    match decode::body(incoming, code, form, 1).await? {
        Object::Table(table) => Ok(Begun::Whole(table)),
        other => Err(Error::corrupt(format!(
            "{} was answered where blocks of a table were asked for",
            other.form()
        ))),
    }
}
