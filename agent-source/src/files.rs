//! The files of a partition on their way, in place of its rows.

use strait_common::engine::{Cursor, PartitionFiles, Source};
use strait_common::files::FileDigest;
use strait_common::frame::Frame;
use strait_common::selection::Selection;
use strait_common::{Error, Result};

use crate::job::{PassThrough, Spec};
use crate::session::Encoded;

/// How A's files look, where partitions may travel as files as far as A can tell; else why not, as an operator is told.
///
/// # Errors
/// What the source says.
pub async fn shape(
    source: &dyn Source,
    spec: &Spec,
    selection: &Selection,
    columns: usize,
) -> Result<Result<String, &'static str>> {
    if spec.pass_through == PassThrough::Never {
        return Ok(Err("--pass-through never"));
    }
    if selection.columns().len() < columns {
        return Ok(Err("only some of the columns are selected"));
    }
    let shape = source.files_shape(&spec.from.table).await?;
    Ok(shape.ok_or("the source does not keep its rows in files that can travel"))
}

/// Files being read, from a place among them.
#[derive(Debug)]
pub struct Reading {
    files: Box<dyn PartitionFiles>,
    /// The file that is read.
    at: u32,
    /// So much of it was read.
    offset: u64,
    digest: FileDigest,
}

impl Reading {
    /// The files after that place.
    ///
    /// # Errors
    /// `Corrupt` if there is no such place.
    pub fn new(files: Box<dyn PartitionFiles>, after: &Cursor) -> Result<Reading> {
        let at = after.files()?;
        if at as usize > files.files().len() {
            return Err(Error::corrupt(format!(
                "a position after {at} files of {}",
                files.files().len()
            )));
        }
        Ok(Reading {
            files,
            at,
            offset: 0,
            digest: FileDigest::default(),
        })
    }

    /// Whether all of them were read.
    pub fn is_over(&self) -> bool {
        self.at as usize >= self.files.files().len()
    }

    /// The next bytes, one frame of them; they are of one file. Waits for the disk.
    ///
    /// # Errors
    /// What the engine says.
    pub fn next(&mut self, frame_bytes_max: u64) -> Result<Encoded> {
        let file = self.files.files().get(self.at as usize).copied();
        let file = file.ok_or_else(|| Error::internal("a file after the last one"))?;
        let wanted = (file.bytes - self.offset).min(frame_bytes_max);
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let bytes = self.files.read(self.at as usize, self.offset, wanted)?;
        self.digest.update(&bytes);
        let begins = self.offset == 0;
        self.offset += bytes.len() as u64;
        let mut encoded = Encoded {
            file: begins.then_some(file),
            frames: vec![Frame::of_bytes(bytes)],
            end: None,
            rows: 0,
            digest: Default::default(),
        };
        if self.offset == file.bytes {
            self.at += 1;
            self.offset = 0;
            encoded.end = Some(Cursor::after_files(self.at));
            encoded.rows = file.rows;
            encoded.digest = std::mem::take(&mut self.digest).digest();
        }
        Ok(encoded)
    }
}
