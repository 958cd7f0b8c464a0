//! Whether everything that a manifest names is there as it was written.

use std::io::ErrorKind;
use std::path::Path;

use strait_common::ids::TableName;
use strait_common::key::PartitionKey;
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::Bundle;
use crate::manifest::{Content, FileSum, Manifest, file_name, sum};

/// Flaws that are named; of more, only their number is told.
const FLAWS_MAX: usize = 1000;
/// Flaws that the text of an error names.
const FLAWS_TOLD: usize = 5;
/// Lines of a manifest that are checked by one piece of work, and bytes that are summed by it before it ends.
const LINES_PER_STEP: usize = 256;
const BYTES_PER_STEP: u64 = 64 << 20;

/// How closely a bundle is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Whether every file is there and has its size.
    Sizes,
    /// And its content: all of it is read.
    Contents,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is not there.
    Missing,
    /// It has another size, in bytes.
    Size {
        /// What it has.
        found: u64,
        /// What it had when it was written.
        written: u64,
    },
    /// It has its size and another content.
    Content,
    /// A manifest does not follow the one before it: files of two bundles were mixed, or it was changed.
    Chain,
    /// A manifest cannot be read. Why.
    Unreadable(String),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Missing => f.write_str("missing"),
            Problem::Size { found, written } if found < written => {
                write!(f, "cut short: {found} of {written} bytes")
            }
            Problem::Size { found, written } => write!(f, "{found} bytes in place of {written}"),
            Problem::Content => f.write_str("its content has changed"),
            Problem::Chain => f.write_str("it does not follow the manifest before it"),
            Problem::Unreadable(why) => write!(f, "it cannot be read: {why}"),
        }
    }
}

/// A file that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Relative to the table's directory.
    pub path: String,
    /// Whose rows it has, if it has rows.
    pub partition: Option<PartitionKey>,
    /// What is wrong.
    pub problem: Problem,
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path)?;
        if let Some(partition) = &self.partition {
            write!(f, " (partition {})", partition.label())?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// What a look at a table of a bundle has told.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Which table.
    pub table: TableName,
    /// The manifest that was compared with; none where none can be read.
    pub manifest: Option<Manifest>,
    /// What is not as it was written, the first thousand.
    pub flaws: Vec<Flaw>,
    /// How many there are.
    pub flawed: u64,
}

impl Checked {
    fn flaw(&mut self, path: String, partition: Option<&PartitionKey>, problem: Problem) {
        self.flawed += 1;
        if self.flaws.len() < FLAWS_MAX {
            self.flaws.push(Flaw {
                path,
                partition: partition.cloned(),
                problem,
            });
        }
    }

    /// Nothing, where all is as it was written.
    ///
    /// # Errors
    /// `Corrupt`, naming the first files.
    pub fn whole(&self, root: &Path) -> Result<()> {
        if self.flawed == 0 {
            return Ok(());
        }
        let told: Vec<String> = self
            .flaws
            .iter()
            .take(FLAWS_TOLD)
            .map(Flaw::to_string)
            .collect();
        let more = match self.flawed.saturating_sub(FLAWS_TOLD as u64) {
            0 => String::new(),
            more => format!(
                " and {more} more, which `strait bundle verify {}` names",
                root.display()
            ),
        };
        Err(Error::corrupt(format!(
            "bundle {}, table {}: {}{more}; nothing is restored from it. Copy the bundle again from where it was made: only these files will be copied",
            root.display(),
            self.table,
            told.join("; ")
        )))
    }
}

impl Bundle {
    /// Compares a table with its newest manifest.
    ///
    /// # Errors
    /// `Config` if it has no manifest; `Unavailable` if the disk does not say. What is wrong with the bundle is no error.
    pub async fn check(&self, table: &TableName, depth: Depth) -> Result<Checked> {
        let name = table.clone();
        let (checked, contents) = self
            .blocking(move |bundle| {
                let mut checked = Checked {
                    table: name.clone(),
                    manifest: None,
                    flaws: Vec::new(),
                    flawed: 0,
                };
                check_chain(bundle, &name, &mut checked)?;
                let contents = checked
                    .manifest
                    .as_ref()
                    .map(Manifest::contents)
                    .transpose()?;
                Ok((checked, contents))
            })
            .await?;
        let Some(mut contents) = contents else {
            return Ok(checked);
        };
        let root = self.lake.directory(table);
        let mut checked = checked;
        loop {
            let root = root.clone();
            let more;
            (checked, contents, more) = self
                .blocking(move |_| {
                    let mut bytes = 0;
                    for _ in 0..LINES_PER_STEP {
                        let Some(content) = contents.next() else {
                            return Ok((checked, contents, false));
                        };
                        let (files, key) = match content? {
                            Content::Log(file) => (vec![file], None),
                            Content::Partition(partition) => (partition.files, Some(partition.key)),
                        };
                        for file in files {
                            if let Some(problem) =
                                problem(&root, &file, depth).with_context(|| file.path.clone())?
                            {
                                checked.flaw(file.path, key.as_ref(), problem);
                            } else if depth == Depth::Contents {
                                bytes += file.bytes;
                            }
                        }
                        if bytes >= BYTES_PER_STEP {
                            break;
                        }
                    }
                    Ok((checked, contents, true))
                })
                .await?;
            if !more {
                return Ok(checked);
            }
        }
    }
}

/// Compares a table's log with its manifest: without it not even the columns are known. Blocks.
///
/// # Errors
/// `Corrupt`, naming what is not as it was written; `Unavailable` if the disk does not say.
pub(crate) fn check_log(bundle: &Bundle, manifest: &Manifest) -> Result<()> {
    let table = &manifest.head.table;
    let mut checked = Checked {
        table: table.clone(),
        manifest: None,
        flaws: Vec::new(),
        flawed: 0,
    };
    let root = bundle.lake.directory(table);
    for content in manifest.contents()? {
        // The log comes first.
        let Content::Log(file) = content? else {
            break;
        };
        if let Some(problem) = problem(&root, &file, Depth::Contents)? {
            checked.flaw(file.path, None, problem);
        }
    }
    checked.whole(bundle.root())
}

/// Reads the manifests of a table, the newest of which is compared with. The others only prove that they belong together.
fn check_chain(bundle: &Bundle, table: &TableName, checked: &mut Checked) -> Result<()> {
    let numbers = bundle.numbers(table)?;
    let Some(newest) = numbers.last() else {
        // Says which tables there are.
        return bundle.newest(table).map(|_| ());
    };
    let path = |number: u64| format!("{}/{}", crate::DIRECTORY, file_name(number));
    let mut before: Option<Manifest> = None;
    for number in 1..=*newest {
        match bundle.manifest(table, number) {
            Ok(manifest) => {
                let follows = match &before {
                    Some(before) => manifest.head.previous.as_ref() == Some(&before.sha256),
                    // The one before is missing or unreadable, which is told already.
                    None => (number == 1) == manifest.head.previous.is_none(),
                };
                if !follows {
                    checked.flaw(path(number), None, Problem::Chain);
                }
                if number == *newest {
                    checked.manifest = Some(manifest.clone());
                }
                before = Some(manifest);
            }
            Err(_) if !numbers.contains(&number) => {
                checked.flaw(path(number), None, Problem::Missing);
                before = None;
            }
            Err(error) if error.kind() == Kind::Corrupt => {
                checked.flaw(path(number), None, Problem::Unreadable(error.to_string()));
                before = None;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn problem(root: &Path, file: &FileSum, depth: Depth) -> Result<Option<Problem>> {
    let path = root.join(&file.path);
    let found = match std::fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(Problem::Missing)),
        found => found.or_error(Kind::Unavailable, "look at it")?.len(),
    };
    if found != file.bytes {
        return Ok(Some(Problem::Size {
            found,
            written: file.bytes,
        }));
    }
    if depth == Depth::Sizes {
        return Ok(None);
    }
    match sum(&path) {
        Ok((_, sha256)) if sha256 == file.sha256 => Ok(None),
        Ok(_) => Ok(Some(Problem::Content)),
        // A disk that cannot give a block back is what this is looking for.
        Err(error) => Ok(Some(Problem::Unreadable(error.to_string()))),
    }
}
