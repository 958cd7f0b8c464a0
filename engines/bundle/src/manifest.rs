//! Manifests: what a table of a bundle consists of, written once.
//!
//! One JSON object a line: the head; the files of the table's log; its partitions in order of key; the end, which has the SHA-256 of all lines
//! before it. A manifest without its end is one that is still on its way. Each names the SHA-256 of the manifest before it.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context as Sha, SHA256};
use serde::{Deserialize, Serialize};
use strait_common::engine::Receipt;
use strait_common::ids::{RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::{Context, Error, Kind, OrError, Result};

/// The directory of a table's manifests, in the table's own.
pub const DIRECTORY: &str = "_bundle";
/// The version of the format.
pub(crate) const FORMAT: u32 = 1;
/// The longest line that is read, in bytes: a partition of 200,000 files.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// What a manifest begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Of the format.
    pub format: u32,
    /// Counts the table's manifests from 1.
    pub number: u64,
    /// The SHA-256 of the manifest before it, in hex; none for the first.
    pub previous: Option<String>,
    /// Which table.
    pub table: TableName,
    /// The version of its log.
    pub version: u64,
    /// When it was made: nanoseconds since 1970 in UTC.
    pub made_at: i64,
    /// Which agent made it.
    pub agent: String,
    /// By which run.
    pub run: RunId,
    /// What the agent calls the table that was backed up.
    pub from: String,
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Relative to the table's directory.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its content, in hex.
    pub sha256: String,
}

/// A partition of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Which.
    pub key: PartitionKey,
    /// How many rows it has, where that is known unread.
    pub rows: Option<u64>,
    /// The receipt that all of its rows are of, if there is one.
    pub receipt: Option<Receipt>,
    /// Its files, in order of path.
    pub files: Vec<FileSum>,
}

/// What a manifest ends with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How many partitions it has.
    pub partitions: u64,
    /// How many files, those of the log included.
    pub files: u64,
    /// What they take.
    pub bytes: u64,
    /// The SHA-256 of the lines of its partitions, in hex: equal for tables that hold the same.
    pub content: String,
    /// The SHA-256 of all lines before this one, in hex.
    pub sha256: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Line {
    Bundle(Head),
    Log(FileSum),
    Partition(Carried),
    End(End),
}

impl Line {
    pub(crate) fn to_text(&self) -> Result<String> {
        let mut text = serde_json::to_string(self).or_error(Kind::Internal, "write a manifest")?;
        text.push('\n');
        Ok(text)
    }
}

/// A manifest that was read through and is whole.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where it is.
    pub path: PathBuf,
    /// Its beginning.
    pub head: Head,
    /// Its end.
    pub end: End,
    /// The SHA-256 of the file, in hex.
    pub sha256: String,
}

impl Manifest {
    /// Reads a manifest through. Holds one line of it.
    ///
    /// # Errors
    /// `Corrupt` if it is cut short, changed or of a newer release; `Unavailable` if it cannot be read.
    pub fn open(path: &Path) -> Result<Manifest> {
        let context = || format!("manifest {}", path.display());
        let mut lines = Lines::open(path)?;
        let Some(Line::Bundle(head)) = lines.next_line().with_context(context)? else {
            return Err(Error::corrupt("it has no head")).with_context(context);
        };
        if head.format != FORMAT {
            return Err(Error::corrupt(format!(
                "it has format {}, this release knows {FORMAT}",
                head.format
            )))
            .with_context(context);
        }
        loop {
            let before = hex(lines.sha.clone().finish().as_ref());
            match lines.next_line().with_context(context)? {
                Some(Line::End(end)) if end.sha256 == before => {
                    let sha256 = hex(lines.sha.clone().finish().as_ref());
                    if lines.next_line().with_context(context)?.is_some() {
                        return Err(Error::corrupt("it goes on after its end"))
                            .with_context(context);
                    }
                    return Ok(Manifest {
                        path: path.to_owned(),
                        head,
                        end,
                        sha256,
                    });
                }
                Some(Line::End(_)) => {
                    return Err(Error::corrupt("it does not have its checksum"))
                        .with_context(context);
                }
                Some(Line::Bundle(_)) => {
                    return Err(Error::corrupt("it has two heads")).with_context(context);
                }
                Some(Line::Log(_) | Line::Partition(_)) => {}
                None => return Err(Error::corrupt("it is cut short")).with_context(context),
            }
        }
    }

    /// What is between its head and its end, from the beginning.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be read.
    pub(crate) fn lines(&self) -> Result<Lines> {
        Lines::open(&self.path)
    }

    /// Its partitions, in order of key, and the files of its log.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be read; the iterator, `Corrupt`, if it has changed since.
    pub fn contents(&self) -> Result<impl Iterator<Item = Result<Content>> + use<>> {
        let mut lines = self.lines()?;
        Ok(std::iter::from_fn(move || {
            loop {
                match lines.next_line() {
                    Ok(Some(Line::Bundle(_) | Line::End(_))) => {}
                    Ok(Some(Line::Log(file))) => return Some(Ok(Content::Log(file))),
                    Ok(Some(Line::Partition(partition))) => {
                        return Some(Ok(Content::Partition(partition)));
                    }
                    Ok(None) => return None,
                    Err(error) => return Some(Err(error)),
                }
            }
        }))
    }
}

/// A line between head and end.
#[derive(Clone, Debug)]
pub enum Content {
    /// A file of the table's log.
    Log(FileSum),
    /// A partition.
    Partition(Carried),
}

/// The lines of a manifest.
pub(crate) struct Lines {
    file: BufReader<File>,
    path: PathBuf,
    number: u64,
    /// Of all lines so far.
    sha: Sha,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines> {
        let file =
            File::open(path).or_error(Kind::Unavailable, format!("open {}", path.display()))?;
        Ok(Lines {
            file: BufReader::with_capacity(64 << 10, file),
            path: path.to_owned(),
            number: 0,
            sha: Sha::new(&SHA256),
        })
    }

    fn next_line(&mut self) -> Result<Option<Line>> {
        let mut text = Vec::new();
        let read = self
            .file
            .by_ref()
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut text);
        read.or_error(Kind::Unavailable, format!("read {}", self.path.display()))?;
        if text.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if text.last() != Some(&b'\n') {
            return Err(Error::corrupt(format!("line {} is cut short", self.number)));
        }
        self.sha.update(&text);
        let line = serde_json::from_slice(&text);
        line.or_error(
            Kind::Corrupt,
            format!("line {} is none of this release", self.number),
        )
        .map(Some)
    }
}

/// What a manifest of this number is called.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:06}.jsonl")
}

/// The number of a manifest with this name, if it is one.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".jsonl")?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// The names in a directory; none if it is not there.
pub(crate) fn list(path: &Path) -> Result<Vec<String>> {
    let context = || format!("list {}", path.display());
    let entries = match std::fs::read_dir(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.or_error(Kind::Unavailable, context())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.or_error(Kind::Unavailable, context())?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Bytes in hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The size and SHA-256 of a file. Holds a buffer of it.
///
/// # Errors
/// That of the disk.
pub(crate) fn sum(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let mut sha = Sha::new(&SHA256);
    let (mut bytes, mut buffer) = (0, vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((bytes, hex(sha.finish().as_ref()))),
            read => {
                sha.update(buffer.get(..read).unwrap_or_default());
                bytes += read as u64;
            }
        }
    }
}
