//! The files of a table at one version, listed once for all who read it.
//!
//! Listing costs time and memory for every file of the table, so a plan of 100,000 partitions must not do it for each of them. A listing keeps about 130
//! bytes for a file and its key; [`Listings`] keeps a few of them, and loads one once, however many ask for it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use deltalake::kernel::Snapshot;
use futures::TryStreamExt;
use strait_common::engine::{Origin, Partition, Version};
use strait_common::ids::TableName;
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_common::{Context, Error, Kind, OrError, Result};
use tokio::sync::OnceCell;
use xxhash_rust::xxh3::Xxh3Default;

use crate::divisions::{Divisions, Unnamed};
use crate::files;
use crate::ledger::Ledger;
use crate::load_error::load_error;
use crate::table::{Lake, Opened};
use crate::types::Mapping;

/// Listings that are kept beside the one used last, at most: tables times versions that are read in turn.
const LISTINGS_MAX: usize = 16;
/// What they may take together, in bytes, unless one alone takes more.
const LISTINGS_BYTES_MAX: usize = 32 << 20;

/// An active file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Decoded; relative to the table's directory, or absolute.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// Rows, where the log says.
    pub rows: Option<u64>,
}

/// A table at one version, with its files.
#[derive(Debug)]
pub struct Listing {
    /// The table's directory.
    pub directory: PathBuf,
    /// Its columns.
    pub mapping: Mapping,
    /// Those of them that are not in the files.
    pub partition_columns: Vec<String>,
    id: String,
    version: u64,
    divisions: Divisions,
    /// How its files look, once that was asked for.
    shape: OnceLock<String>,
    /// Files that are of nobody knows which partitions.
    unnamed: Unnamed,
    /// Keys in canonical text, and paths.
    text: String,
    /// In order of key.
    partitions: Vec<Listed>,
    /// In order of key, then of path.
    files: Vec<ListedFile>,
}

/// Where a piece of text begins and ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u32,
    to: u32,
}

#[derive(Debug)]
struct Listed {
    key: Span,
    files: Span,
}

#[derive(Debug)]
struct ListedFile {
    path: Span,
    size: u64,
    rows: Option<u64>,
}

/// A text that grows; places in it take four bytes.
#[derive(Debug, Default)]
struct Text(String);

impl Text {
    fn add(&mut self, piece: &str) -> Result<Span> {
        let from = self.0.len();
        self.0.push_str(piece);
        span(from, self.0.len())
    }
}

fn span(from: usize, to: usize) -> Result<Span> {
    let place = |at: usize| {
        u32::try_from(at).or_error(Kind::Refused, "a table with more than 4 GiB of file names")
    };
    Ok(Span {
        from: place(from)?,
        to: place(to)?,
    })
}

impl Span {
    fn of<'a>(&self, text: &'a str) -> &'a str {
        text.get(self.from as usize..self.to as usize)
            .unwrap_or_default()
    }
}

impl Listing {
    /// Lists the files of an opened table.
    ///
    /// # Errors
    /// As [`Lake::open`]; `Corrupt` if a partition value cannot be read; `Refused` for a deletion vector, or a file on another store.
    pub async fn load(opened: &Opened, table: &TableName) -> Result<Listing> {
        let version = opened.version();
        let log = opened.log_store();
        let error = |error| load_error(table, Some(version), error);
        let snapshot = Snapshot::try_new(log.as_ref(), Some(version)).await;
        let snapshot = snapshot.map_err(error)?;
        let names = opened.names().await?;
        let mut unnamed = Unnamed::default();
        let mut paths = Text::default();
        let mut found: Vec<(PartitionKey, ListedFile)> = Vec::new();
        let mut views = snapshot.file_views(log.as_ref(), None);
        while let Some(file) = views.try_next().await.map_err(error)? {
            let path = local_path(&file.path())?;
            if file.deletion_vector_descriptor().is_some() {
                return Err(Error::refused(format!(
                    "file {path} has a deletion vector, which is not supported; rewrite the table without"
                )));
            }
            let values = opened.value_key(&file.partition_values_map());
            let values = values.with_context(|| format!("file {path}"))?;
            let key = match &names {
                None => values,
                Some(names) => match names.key(&opened.divisions, &path, &values)? {
                    Some(key) => key,
                    None => {
                        unnamed.add(values, &path);
                        continue;
                    }
                },
            };
            let file = ListedFile {
                path: paths.add(&path)?,
                size: u64::try_from(file.size()).or_error(Kind::Corrupt, "file size")?,
                rows: file.num_records().map(|rows| rows as u64),
            };
            found.push((key, file));
        }
        drop((views, names));
        if !unnamed.is_empty() {
            // Files can be unnamed because the ledger is damaged: then that is what must be mended.
            Ledger::load(opened).await?;
        }
        found.sort_by(|(a, of_a), (b, of_b)| {
            a.cmp(b)
                .then_with(|| of_a.path.of(&paths.0).cmp(of_b.path.of(&paths.0)))
        });
        let mut partitions: Vec<Listed> = Vec::new();
        let mut files = Vec::with_capacity(found.len());
        let mut newest: Option<PartitionKey> = None;
        for (key, file) in found {
            let at = files.len();
            match partitions.last_mut() {
                Some(last) if newest.as_ref() == Some(&key) => {
                    last.files = span(last.files.from as usize, at + 1)?;
                }
                _ => {
                    partitions.push(Listed {
                        key: paths.add(&key.to_string())?,
                        files: span(at, at + 1)?,
                    });
                    newest = Some(key);
                }
            }
            files.push(file);
        }
        let mut text = paths.0;
        text.shrink_to_fit();
        partitions.shrink_to_fit();
        Ok(Listing {
            directory: opened.directory.clone(),
            mapping: opened.mapping.clone(),
            partition_columns: opened.partition_columns.clone(),
            id: opened.id().to_owned(),
            version,
            divisions: opened.divisions.clone(),
            shape: OnceLock::new(),
            unnamed,
            text,
            partitions,
            files,
        })
    }

    /// Whether the table has no file.
    pub fn has_no_files(&self) -> bool {
        self.files.is_empty() && self.unnamed.is_empty()
    }

    /// Whether all files are among these.
    pub fn has_only(&self, known: &HashSet<String>) -> bool {
        let path = |file: &ListedFile| file.path.of(&self.text).to_owned();
        self.unnamed.is_empty() && self.files.iter().all(|file| known.contains(&path(file)))
    }

    /// Fails if files that are of nobody knows which partitions can hold a selected row.
    ///
    /// # Errors
    /// `Refused`, naming the first and saying what to do.
    pub fn check_named(&self, table: &TableName, selection: &Selection) -> Result<()> {
        let selected = |values: &PartitionKey| {
            let around = self.divisions.around(values);
            around.map_or(true, |around| !selection.excludes(&around))
        };
        self.unnamed.check(table, selected)
    }

    /// Whether this is a key of the table's own division: rows of another may have been told apart by it.
    pub fn can_have(&self, key: &PartitionKey) -> bool {
        self.divisions.check(key, self.mapping.original()).is_ok()
    }

    /// Those files alone.
    pub fn into_unnamed(self) -> Unnamed {
        self.unnamed
    }

    /// How its files look ([`files::shape`]).
    ///
    /// # Errors
    /// As [`files::shape`].
    pub fn shape(&self) -> Result<&str> {
        if let Some(shape) = self.shape.get() {
            return Ok(shape);
        }
        let shape = files::shape(&self.mapping, &self.divisions)?;
        Ok(self.shape.get_or_init(|| shape))
    }

    /// How many partitions it has.
    pub fn len(&self) -> usize {
        self.partitions.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// The key of the partition at this place, in order of key.
    ///
    /// # Errors
    /// `Internal` if there is none.
    pub fn key(&self, at: usize) -> Result<PartitionKey> {
        let listed = self.partitions.get(at);
        let listed = listed.ok_or_else(|| Error::internal("a partition that is not listed"))?;
        listed.key.of(&self.text).parse()
    }

    /// The partition of this key, which is at this place, looked at then: nanoseconds since 1970 in UTC.
    pub fn partition(&self, at: usize, key: PartitionKey, seen: i64) -> Partition {
        let files = self.listed(at);
        Partition {
            key,
            rows: files.iter().map(|file| file.rows).sum(),
            bytes: Some(files.iter().map(|file| file.size).sum()),
            version: self.version_of(files),
            pin: self.version.to_string(),
            origin: Origin {
                table: format!("delta:{}", self.id),
                seen,
            },
        }
    }

    /// The files of a partition in order of path, and its version; none for one that is not there.
    ///
    /// # Errors
    /// `Corrupt` if a key cannot be read.
    pub fn files(&self, key: &PartitionKey) -> Result<(Version, Vec<DataFile>)> {
        let files = self.find(key)?.map_or(&[][..], |at| self.listed(at));
        let found = files.iter().map(|file| DataFile {
            path: file.path.of(&self.text).to_owned(),
            size: file.size,
            rows: file.rows,
        });
        Ok((self.version_of(files), found.collect()))
    }

    /// The place of the partition of this key; none for one that is not there.
    ///
    /// # Errors
    /// `Corrupt` if a key cannot be read.
    pub fn find(&self, key: &PartitionKey) -> Result<Option<usize>> {
        let (mut from, mut to) = (0, self.partitions.len());
        while from < to {
            let at = from.midpoint(to);
            match self.key(at)?.cmp(key) {
                std::cmp::Ordering::Less => from = at + 1,
                std::cmp::Ordering::Greater => to = at,
                std::cmp::Ordering::Equal => return Ok(Some(at)),
            }
        }
        Ok(None)
    }

    fn listed(&self, at: usize) -> &[ListedFile] {
        let files = self.partitions.get(at).map(|listed| listed.files);
        files
            .and_then(|span| self.files.get(span.from as usize..span.to as usize))
            .unwrap_or_default()
    }

    /// A partition's version: XXH3-128 over the paths and sizes of its files in order of path. Names of data files are never used twice, so
    /// equal lists hold equal rows.
    fn version_of(&self, files: &[ListedFile]) -> Version {
        let mut hash = Xxh3Default::new();
        for file in files {
            let path = file.path.of(&self.text);
            hash.update(&(path.len() as u64).to_le_bytes());
            hash.update(path.as_bytes());
            hash.update(&file.size.to_le_bytes());
        }
        Version(format!("{:032x}", hash.digest128()))
    }

    /// What it takes, in bytes.
    fn bytes(&self) -> usize {
        self.text.capacity()
            + self.partitions.capacity() * size_of::<Listed>()
            + self.files.capacity() * size_of::<ListedFile>()
    }
}

/// Where a file is: the log has paths relative to the table's directory, absolute ones and URLs.
///
/// # Errors
/// `Refused` for a URL of another place than this disk.
pub fn local_path(path: &str) -> Result<String> {
    let remote = || Error::refused(format!("file {path} is not on this disk"));
    if let Some(rest) = path.strip_prefix("file:") {
        let rest = match rest.strip_prefix("//") {
            Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
            None => rest,
        };
        return if rest.starts_with('/') {
            Ok(rest.to_owned())
        } else {
            Err(remote())
        };
    }
    match path.split_once("://") {
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => Err(remote()),
        _ => Ok(path.to_owned()),
    }
}

/// The listings that were used last.
#[derive(Debug, Default)]
pub struct Listings {
    /// The one used last at the end.
    slots: Mutex<Vec<Slot>>,
}

#[derive(Clone, Debug)]
struct Slot {
    table: TableName,
    version: u64,
    listing: Arc<OnceCell<Arc<Listing>>>,
}

impl Listings {
    /// The table as it is now.
    ///
    /// # Errors
    /// As [`Lake::open`] and [`Listing::load`].
    pub async fn newest(&self, lake: &Lake, table: &TableName) -> Result<Arc<Listing>> {
        let opened = lake.open(table, None).await?;
        let slot = self.slot(table, opened.version());
        // Versions of a table that took the place of another are counted from 0 again.
        let slot = match slot.listing.get() {
            Some(listing) if listing.id != opened.id() => {
                self.forget(&slot);
                self.slot(table, opened.version())
            }
            _ => slot,
        };
        self.load(slot, std::future::ready(Ok(opened))).await
    }

    /// The table as it was at a version of its log. What is kept is not looked for in the log again.
    ///
    /// # Errors
    /// As [`Lake::open`] and [`Listing::load`].
    pub async fn at(&self, lake: &Lake, table: &TableName, version: u64) -> Result<Arc<Listing>> {
        let slot = self.slot(table, version);
        self.load(slot, lake.open(table, Some(version))).await
    }

    /// One of those who ask loads it, and the others wait; if that one fails or leaves, the next does.
    async fn load(
        &self,
        slot: Slot,
        open: impl Future<Output = Result<Opened>> + Send,
    ) -> Result<Arc<Listing>> {
        let load = async { Listing::load(&open.await?, &slot.table).await.map(Arc::new) };
        let listing = slot.listing.get_or_try_init(|| load).await?;
        let listing = Arc::clone(listing);
        self.trim();
        Ok(listing)
    }

    /// The slot of a version, which is the one used last from here on.
    fn slot(&self, table: &TableName, version: u64) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let at = slots
            .iter()
            .position(|slot| slot.version == version && slot.table == *table);
        let slot = match at {
            Some(at) => slots.remove(at),
            None => Slot {
                table: table.clone(),
                version,
                listing: Arc::default(),
            },
        };
        slots.push(slot.clone());
        slot
    }

    fn forget(&self, gone: &Slot) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| !Arc::ptr_eq(&slot.listing, &gone.listing));
    }

    /// Lets go of those used longest ago. Whoever reads one of them has it still.
    fn trim(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |slot: &Slot| slot.listing.get().map_or(0, |listing| listing.bytes());
        let mut sum: usize = slots.iter().map(bytes).sum();
        while slots.len() > 1 && (slots.len() > LISTINGS_MAX || sum > LISTINGS_BYTES_MAX) {
            sum -= bytes(&slots.remove(0));
        }
    }
}
