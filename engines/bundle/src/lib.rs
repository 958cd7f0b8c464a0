//! Bundles: directories that carry tables from one cluster to another where there is no link between them.
//!
//! A bundle is a [lake](strait_lake) with *manifests*. A backup is a run whose sink is a lake in a directory; when it has ended, what the table holds is
//! written down as the next manifest of the table: its data files, the files of its log, and the receipts of its partitions, each file with size and checksum.
//! Nothing in a bundle changes once it is written, so any tool that copies files can carry it, in any order, and a second night adds only files.
//!
//! A restore is a run whose source is a bundle: it reads the table as the newest manifest has it, after every file was found whole. A partition of a bundle has the version and
//! the [origin](strait_common::engine::Origin) that it had at A, so what B's ledger says after a restore is what it would say had A sent it over the link.
//!
//! ```text
//! DIR/db1/mt/                      a Delta table
//! DIR/db1/mt/_bundle/000001.jsonl  its first manifest
//! ```

mod check;
mod manifest;
mod seal;
mod source;

use std::path::{Path, PathBuf};

use strait_common::cpu::CpuPool;
use strait_common::engine::Store;
use strait_common::ids::TableName;
use strait_common::{Error, Kind, OrError, Result};
use strait_lake::disk::Disk;
use strait_lake::table::Lake;

pub use check::{Checked, Depth, Flaw, Problem};
pub use manifest::{Carried, DIRECTORY, End, FileSum, Head, Manifest};
pub use seal::{Maker, Sealed};
pub use source::BundleSource;

/// The tables in a directory that is carried.
#[derive(Clone, Debug)]
pub struct Bundle {
    lake: Lake,
    cpu: CpuPool,
}

impl Bundle {
    /// The bundle in this directory, which need not be there yet.
    pub fn at(root: &Path, cpu: CpuPool) -> Bundle {
        Bundle {
            lake: Lake::new(root.to_owned(), Disk::default()),
            cpu,
        }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        self.lake.root()
    }

    /// The lake in it, to write to. The directory is made with the first table.
    pub fn store(&self) -> Store {
        strait_lake::store(self.lake.clone(), self.cpu.clone())
    }

    /// What can be restored from it.
    pub fn source(&self) -> BundleSource {
        BundleSource::new(self.clone())
    }

    /// The tables that have a manifest, in order of name.
    ///
    /// # Errors
    /// `Config` if there is no such directory, `Unavailable` if it cannot be listed.
    pub fn tables(&self) -> Result<Vec<TableName>> {
        if !self.root().is_dir() {
            return Err(Error::config(format!(
                "there is no directory {}",
                self.root().display()
            )));
        }
        let mut tables = Vec::new();
        for database in manifest::list(self.root())? {
            for table in manifest::list(&self.root().join(&database))? {
                if let Ok(name) = TableName::new(&database, &table)
                    && !self.numbers(&name)?.is_empty()
                {
                    tables.push(name);
                }
            }
        }
        tables.sort();
        Ok(tables)
    }

    fn directory(&self, table: &TableName) -> PathBuf {
        self.lake.directory(table).join(DIRECTORY)
    }

    /// The numbers of a table's manifests, in order.
    ///
    /// # Errors
    /// `Unavailable` if the directory cannot be listed.
    pub fn numbers(&self, table: &TableName) -> Result<Vec<u64>> {
        let names = manifest::list(&self.directory(table))?;
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| manifest::number_of(name))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A manifest of a table, read through.
    ///
    /// # Errors
    /// `Corrupt` if it is cut short or changed, `Unavailable` if it cannot be read.
    pub fn manifest(&self, table: &TableName, number: u64) -> Result<Manifest> {
        let path = self.directory(table).join(manifest::file_name(number));
        let manifest = Manifest::open(&path)?;
        if manifest.head.number != number || manifest.head.table != *table {
            return Err(Error::corrupt(format!(
                "{} says that it is manifest {} of table {}",
                path.display(),
                manifest.head.number,
                manifest.head.table
            )));
        }
        Ok(manifest)
    }

    /// The newest manifest of a table.
    ///
    /// # Errors
    /// `Config` if it has none, naming the tables that have; else as [`Bundle::manifest`].
    pub fn newest(&self, table: &TableName) -> Result<Manifest> {
        if let Some(number) = self.numbers(table)?.last() {
            return self.manifest(table, *number);
        }
        let tables = self.tables()?;
        let known: Vec<String> = tables.iter().take(20).map(TableName::to_string).collect();
        let known = match known.is_empty() {
            true => "it has none: a backup that was not finished has no manifest, and one that is still on its way has not brought it".to_owned(),
            false => format!("it has {}; name the one that is meant, as in file://{}:{}", known.join(", "), self.root().display(), known.first().map_or("", String::as_str)),
        };
        Err(Error::config(format!(
            "there is no table {table} in the bundle {}; {known}",
            self.root().display()
        )))
    }

    /// Blocking work on the files of the bundle.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Bundle) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let bundle = self.clone();
        self.cpu.run(move || work(&bundle)).await
    }
}

/// Where a `file://` URL points to.
///
/// # Errors
/// `Config` if it names a host, or no absolute directory.
pub fn directory_of(url: &str) -> Result<PathBuf> {
    let wrong = || {
        Error::config(format!(
            "'{url}' is no directory; write file:///absolute/directory, with three slashes"
        ))
    };
    let parsed = url::Url::parse(url).or_error(Kind::Config, format!("'{url}'"))?;
    if parsed.scheme() != "file" || parsed.host_str().is_some_and(|host| !host.is_empty()) {
        return Err(wrong());
    }
    parsed.to_file_path().map_err(|()| wrong())
}
