//! Writing a manifest when a backup has ended.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context as Sha, SHA256};
use strait_common::clock::now_ns;
use strait_common::engine::{Holding, Receipt};
use strait_common::ids::{RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_common::{Context, Error, Kind, OrError, Result};
use strait_lake::ledger::Ledger;
use strait_lake::listing::{DataFile, Listing};
use strait_lake::table::{LOG, Opened};

use crate::Bundle;
use crate::manifest::{
    Carried, Content, End, FORMAT, FileSum, Head, Line, Manifest, file_name, hex, sum,
};

/// Files that are summed by one piece of work.
const FILES_PER_STEP: usize = 64;
/// How often another backup may take the number first.
const TRIES_MAX: u32 = 10;

/// Who makes a manifest.
#[derive(Clone, Debug)]
pub struct Maker {
    /// The agent's name.
    pub agent: String,
    /// The run.
    pub run: RunId,
    /// What the agent calls the table that was backed up.
    pub from: String,
}

/// What a table was written down as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// A new manifest has this number.
    New(u64),
    /// This manifest says it already.
    Unchanged(u64),
}

impl Bundle {
    /// Writes down what a table holds now as its next manifest, durably. Reads the files that the manifest before does not have, to sum them. Safe to repeat: where nothing
    /// has changed there is no new one.
    ///
    /// # Errors
    /// `Unavailable` or `Full` for trouble of the disk; `Corrupt` if the table, its ledger or the manifest before cannot be read.
    pub async fn seal(&self, table: &TableName, maker: &Maker) -> Result<Sealed> {
        let context = || format!("bundle {}, table {table}", self.root().display());
        for _ in 0..TRIES_MAX {
            if let Some(sealed) = self.try_seal(table, maker).await.with_context(context)? {
                return Ok(sealed);
            }
        }
        Err(Error::unavailable(
            "others write manifests of it at the same time",
        ))
        .with_context(context)
    }

    async fn try_seal(&self, table: &TableName, maker: &Maker) -> Result<Option<Sealed>> {
        let made_at = now_ns();
        let opened = self.lake.open(table, None).await?;
        let accounts = Ledger::load(&opened).await?.accounts();
        let listing = Listing::load(&opened, table).await?;
        let everything = Selection::everything(opened.mapping.original());
        // Rows of nobody knows which partitions would be left out.
        listing.check_named(table, &everything)?;
        let name = table.clone();
        let (previous, found) = self
            .blocking(move |bundle| {
                let previous = match bundle.numbers(&name)?.last() {
                    Some(number) => Some(bundle.manifest(&name, *number)?),
                    None => None,
                };
                let holdings =
                    strait_lake::sink::holdings(&listing, accounts, &everything, made_at)?;
                let files = holdings
                    .into_iter()
                    .filter(|holding| holding.partition.is_some())
                    .map(|holding| Ok((listing.files(&holding.key)?.1, holding)))
                    .collect::<Result<Vec<_>>>()?;
                Ok((previous, files))
            })
            .await?;
        let known = Known::new(previous.as_ref())?;
        let head = Head {
            format: FORMAT,
            number: previous.as_ref().map_or(0, |previous| previous.head.number) + 1,
            previous: previous.as_ref().map(|previous| previous.sha256.clone()),
            table: table.clone(),
            version: opened.version(),
            made_at,
            agent: maker.agent.clone(),
            run: maker.run,
            from: maker.from.clone(),
        };
        let draft = self.draft(head.clone(), &opened, found, known).await?;
        let directory = self.directory(table);
        self.blocking(move |bundle| match previous {
            Some(previous)
                if previous.end.content == draft.end.content
                    && log_is_there(bundle, &previous)? =>
            {
                Ok(Some(Sealed::Unchanged(previous.head.number)))
            }
            _ => {
                let path = directory.join(file_name(head.number));
                let linked = std::fs::hard_link(&draft.path, &path);
                match linked {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                        return Ok(None);
                    }
                    linked => {
                        linked.or_error(Kind::Unavailable, format!("link {}", path.display()))?
                    }
                }
                bundle.lake.disk().sync_directory(&directory)?;
                Ok(Some(Sealed::New(head.number)))
            }
        })
        .await
    }

    /// The manifest under a name that nobody reads. Removed when it is dropped.
    async fn draft(
        &self,
        head: Head,
        opened: &Opened,
        found: Vec<(Vec<DataFile>, Holding)>,
        known: Known,
    ) -> Result<Draft> {
        let (root, directory, version) = (
            opened.directory.clone(),
            self.directory(&head.table),
            head.version,
        );
        let mut draft = self
            .blocking(move |bundle| {
                bundle.lake.disk().keep_directories(&root, &directory)?;
                let mut draft = Draft::begin(&directory)?;
                draft.write(&Line::Bundle(head))?;
                for path in log_files(&root, version)? {
                    let file = Known::default().sum(&root, &path, None, None)?;
                    draft.count(std::slice::from_ref(&file));
                    draft.write(&Line::Log(file))?;
                }
                Ok((draft, known))
            })
            .await?;
        let mut found = found.into_iter().peekable();
        while found.peek().is_some() {
            let (mut step, mut files) = (Vec::new(), 0);
            while files < FILES_PER_STEP
                && let Some((of, holding)) = found.next()
            {
                files += of.len().max(1);
                step.push((of, holding));
            }
            let root = opened.directory.clone();
            draft = self
                .blocking(move |_| {
                    let (mut draft, known) = draft;
                    for (files, holding) in step {
                        draft.partition(&root, &files, holding, &known)?;
                    }
                    Ok((draft, known))
                })
                .await?;
        }
        self.blocking(move |bundle| {
            let (mut draft, _) = draft;
            draft.end(bundle)?;
            Ok(draft)
        })
        .await
    }
}

/// The files of a table's log up to a version, those that are not written once left out, in order of name.
fn log_files(root: &Path, version: u64) -> Result<Vec<String>> {
    let mut names = crate::manifest::list(&root.join(LOG))?;
    names.retain(|name| {
        let number = name.get(..20).and_then(|number| number.parse::<u64>().ok());
        let whole = name.ends_with(".json") || name.ends_with(".parquet");
        whole && number.is_some_and(|number| number <= version)
    });
    names.sort();
    Ok(names
        .into_iter()
        .map(|name| format!("{LOG}/{name}"))
        .collect())
}

/// Whether a manifest's log was not cleaned up since.
fn log_is_there(bundle: &Bundle, manifest: &Manifest) -> Result<bool> {
    let root = bundle.lake.directory(&manifest.head.table);
    for content in manifest.contents()? {
        match content? {
            Content::Log(file) if !root.join(&file.path).exists() => return Ok(false),
            Content::Log(_) => {}
            // The log comes first.
            Content::Partition(_) => break,
        }
    }
    Ok(true)
}

/// Sums that the manifest before has: names of data files are never used twice.
#[derive(Debug, Default)]
struct Known(HashMap<(PartitionKey, String), FileSum>);

impl Known {
    fn new(manifest: Option<&Manifest>) -> Result<Known> {
        let mut known = HashMap::new();
        for content in manifest
            .map(Manifest::contents)
            .transpose()?
            .into_iter()
            .flatten()
        {
            if let Content::Partition(partition) = content? {
                for file in partition.files {
                    known.insert((partition.key.clone(), file.path.clone()), file);
                }
            }
        }
        Ok(Known(known))
    }

    fn sum(
        &self,
        root: &Path,
        path: &str,
        key: Option<&PartitionKey>,
        size: Option<u64>,
    ) -> Result<FileSum> {
        if let (Some(key), Some(size)) = (key, size)
            && let Some(known) = self.0.get(&(key.clone(), path.to_owned()))
            && known.bytes == size
        {
            return Ok(known.clone());
        }
        let whole = root.join(path);
        let (bytes, sha256) =
            sum(&whole).or_error(Kind::Unavailable, format!("read {}", whole.display()))?;
        match size {
            Some(size) if size != bytes => Err(Error::corrupt(format!(
                "{} has {bytes} bytes, and its log says {size}; back up again with --check digests",
                whole.display()
            ))),
            _ => Ok(FileSum {
                path: path.to_owned(),
                bytes,
                sha256,
            }),
        }
    }
}

/// A manifest that is being written.
struct Draft {
    path: PathBuf,
    file: BufWriter<File>,
    sha: Sha,
    content: Sha,
    end: End,
}

impl Draft {
    fn begin(directory: &Path) -> Result<Draft> {
        let path = directory.join(format!(".{}", uuid::Uuid::new_v4()));
        let file = File::create_new(&path)
            .or_error(Kind::Unavailable, format!("write {}", path.display()))?;
        Ok(Draft {
            path,
            file: BufWriter::new(file),
            sha: Sha::new(&SHA256),
            content: Sha::new(&SHA256),
            end: End {
                partitions: 0,
                files: 0,
                bytes: 0,
                content: String::new(),
                sha256: String::new(),
            },
        })
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let text = line.to_text()?;
        self.sha.update(text.as_bytes());
        if matches!(line, Line::Partition(_)) {
            self.content.update(text.as_bytes());
        }
        let written = self.file.write_all(text.as_bytes());
        written.or_error(Kind::Unavailable, format!("write {}", self.path.display()))
    }

    fn count(&mut self, files: &[FileSum]) {
        self.end.files += files.len() as u64;
        self.end.bytes += files.iter().map(|file| file.bytes).sum::<u64>();
    }

    fn partition(
        &mut self,
        root: &Path,
        files: &[DataFile],
        holding: Holding,
        known: &Known,
    ) -> Result<()> {
        let Holding {
            key,
            partition,
            mut receipts,
            intact,
        } = holding;
        let sums = files
            .iter()
            .map(|file| known.sum(root, &file.path, Some(&key), Some(file.size)));
        let files = sums
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("partition {}", key.label()))?;
        self.count(&files);
        self.end.partitions += 1;
        // Of several receipts none is of all rows.
        let receipt: Option<Receipt> = match receipts.len() {
            1 if intact => receipts.pop(),
            _ => None,
        };
        self.write(&Line::Partition(Carried {
            rows: partition.and_then(|partition| partition.rows),
            receipt,
            files,
            key,
        }))
    }

    fn end(&mut self, bundle: &Bundle) -> Result<()> {
        self.end.content = hex(self.content.clone().finish().as_ref());
        self.end.sha256 = hex(self.sha.clone().finish().as_ref());
        self.write(&Line::End(self.end.clone()))?;
        let flushed = self.file.flush();
        flushed.or_error(Kind::Unavailable, format!("write {}", self.path.display()))?;
        bundle.lake.disk().sync(self.file.get_ref(), &self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It may be a manifest by now: then this was its other name.
        let _ = std::fs::remove_file(&self.path);
    }
}
