//! Files that travel as they are, in place of the rows in them.
//!
//! Where two stores hold a table in files that look alike ([`Source::files_shape`](crate::engine::Source::files_shape)), a partition that is selected whole
//! travels as its files: nothing is decoded, and what arrives is, byte for byte, what was there. Its digest is of bytes then and not of rows: the sum modulo
//! 2^128 of the XXH3-128 of each file, under an id of its own ([`DigestId::of_files`]), and its receipt has the level `bytes`.
//!
//! A position of such a partition is after so many whole files, and its cursor says so: nobody takes it for a place among rows, nor the reverse.

use std::fmt;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use crate::digest::{Digest, DigestId};
use crate::engine::Cursor;
use crate::error::{Error, Result};

/// What the cursor of a position begins with that was made from files; no engine's own cursor does.
const CURSOR: &[u8] = b"strait-files/1:";
/// The name of the digest.
const DIGEST_ID: &str = "files-xxh3-128/1";

/// A file of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFile {
    /// How many rows it has, by its own word.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// The files of a partition of one version, which hold all of its rows and no others.
pub trait PartitionFiles: fmt::Debug + Send {
    /// In an order that the version determines.
    fn files(&self) -> &[TableFile];

    /// So many bytes of a file from there on. Waits for the disk: call it where that is allowed.
    ///
    /// # Errors
    /// `Moved` if the file is gone, `Corrupt` if it does not have these bytes, each by name.
    fn read(&mut self, file: usize, offset: u64, bytes: usize) -> Result<Bytes>;
}

impl Cursor {
    /// The place after so many whole files.
    pub fn after_files(files: u32) -> Cursor {
        Cursor([CURSOR, &files.to_be_bytes()[..]].concat().into())
    }

    /// Whether this is a place among files, and not among rows.
    pub fn is_of_files(&self) -> bool {
        self.0.starts_with(CURSOR)
    }

    /// After how many whole files this is. The place before the first row is before the first file, too.
    ///
    /// # Errors
    /// `Corrupt` if it is a place among rows.
    pub fn files(&self) -> Result<u32> {
        if self.is_start() {
            return Ok(0);
        }
        let count = self.0.strip_prefix(CURSOR);
        let count: Option<[u8; 4]> = count.and_then(|count| count.try_into().ok());
        let count = count.ok_or_else(|| Error::corrupt("a cursor that is not of files"))?;
        Ok(u32::from_be_bytes(count))
    }
}

impl DigestId {
    /// The id of digests of files.
    pub fn of_files() -> DigestId {
        DigestId(DIGEST_ID.to_owned())
    }

    /// Whether a digest is of files, and not of rows.
    pub fn is_of_files(&self) -> bool {
        self.0 == DIGEST_ID
    }
}

/// The digest of one file, computed as its bytes come.
#[derive(Default)]
pub struct FileDigest(Box<Xxh3>);

impl FileDigest {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all bytes so far.
    pub fn digest(&self) -> Digest {
        Digest(self.0.digest128())
    }
}

impl fmt::Debug for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileDigest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_cursor_tells_files_from_rows() {
        assert_eq!(Cursor::start().files().unwrap(), 0);
        assert!(!Cursor::start().is_of_files());
        for count in [1, 7, u32::MAX] {
            let cursor = Cursor::after_files(count);
            assert!(cursor.is_of_files() && !cursor.is_start());
            assert_eq!(cursor.files().unwrap(), count);
        }
        let mut torn = Cursor::after_files(3);
        torn.0.truncate(CURSOR.len() + 3);
        let rows = Cursor(Bytes::from_static(&[0; 16]));
        for cursor in [torn, rows] {
            assert_eq!(cursor.files().unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn a_file_has_one_digest_however_its_bytes_come() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let whole = Digest(xxhash_rust::xxh3::xxh3_128(&bytes));
        for step in [1 << 20, 4096, 777] {
            let mut digest = FileDigest::default();
            bytes.chunks(step).for_each(|some| digest.update(some));
            assert_eq!(digest.digest(), whole, "{step}");
        }
    }
}
