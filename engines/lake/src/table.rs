//! One Delta table of a lake, as it is at one version: opened for an operation and dropped after it, never carried, and without its files: [`crate::listing`] has those.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use delta_kernel::table_configuration::TableConfiguration;
use delta_kernel::{Snapshot, SnapshotRef};
use deltalake::DeltaTableBuilder;
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake::kernel::{Add, Remove};
use deltalake::logstore::LogStoreRef;
use futures::TryStreamExt;
use strait_common::engine::{RECIPE_BYTES_MAX, Table};
use strait_common::ids::TableName;
use strait_common::key::{Cell, PartitionKey};
use strait_common::{Context, Error, Kind, OrError, Result};
use tokio::sync::Semaphore;
use url::Url;

use crate::disk::Disk;
use crate::divisions::{Divisions, Names, Unnamed};
use crate::durable::DurableStore;
use crate::features;
use crate::ledger::Ledger;
use crate::listing::local_path;
use crate::load_error::load_error;
use crate::partition_values;
use crate::types::{Mapping, same_type};

/// The directory of a table's log.
pub const LOG: &str = "_delta_log";

/// The property of a table that keeps the recipe of the engine that it came from.
pub const RECIPE: &str = "strait.recipe";

/// A directory of databases, each a directory of Delta tables.
#[derive(Clone, Debug)]
pub struct Lake {
    root: PathBuf,
    disk: Disk,
    /// Tables being opened: each takes several blocking threads of the runtime, which wait for others of them.
    opens: Arc<Semaphore>,
}

/// Tables that are opened at a time.
const OPENS_MAX: usize = 4;

/// A table at one version, without its files: opening it does not take longer for having more of them.
#[derive(Debug)]
pub struct Opened {
    /// Its directory.
    pub directory: PathBuf,
    /// Its columns.
    pub mapping: Mapping,
    /// How it is divided.
    pub divisions: Divisions,
    /// Delta's partition columns: those of the VALUE levels.
    pub partition_columns: Vec<String>,
    name: TableName,
    log: LogStoreRef,
    snapshot: SnapshotRef,
}

impl Lake {
    /// The lake in this directory.
    pub fn new(root: PathBuf, disk: Disk) -> Lake {
        Lake {
            root,
            disk,
            opens: Arc::new(Semaphore::new(OPENS_MAX)),
        }
    }

    /// The disk it is on.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a table is, or would be.
    pub fn directory(&self, table: &TableName) -> PathBuf {
        self.root.join(table.database()).join(table.table())
    }

    /// Whether there is a Delta table of this name: a log with an entry. A create that was killed leaves an empty one.
    ///
    /// # Errors
    /// `Unavailable` if the disk does not say.
    pub fn exists(&self, table: &TableName) -> Result<bool> {
        let log = self.directory(table).join(LOG);
        let entries = self.disk.look(&log).and_then(|()| std::fs::read_dir(&log));
        let entries = match entries {
            // Neither a file in place of a directory is a table.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(false);
            }
            entries => entries.or_error(Kind::Unavailable, format!("list {}", log.display()))?,
        };
        for entry in entries {
            let entry = entry.or_error(Kind::Unavailable, format!("list {}", log.display()))?;
            let name = entry.file_name();
            let extension = Path::new(&name).extension();
            if extension.is_some_and(|extension| extension == "json" || extension == "parquet") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The tables there are, in order of name. None where the lake's directory is not made yet.
    ///
    /// # Errors
    /// `Unavailable` if the directory cannot be listed.
    pub fn tables(&self) -> Result<Vec<TableName>> {
        let mut tables = Vec::new();
        if !self.root.exists() {
            return Ok(tables);
        }
        for database in directories(&self.root)? {
            for table in directories(&self.root.join(&database))? {
                // Directories that are no table of ours have names that ours cannot have, or no log.
                if let Ok(name) = TableName::new(&database, &table)
                    && self.exists(&name)?
                {
                    tables.push(name);
                }
            }
        }
        tables.sort();
        Ok(tables)
    }

    fn url(&self, table: &TableName) -> Result<Url> {
        let directory = self.directory(table);
        Url::from_directory_path(&directory)
            .map_err(|()| Error::config(format!("{} is not an absolute path", directory.display())))
    }

    /// A builder for the table, with durable writes.
    ///
    /// # Errors
    /// `Config` if the directory is no URL.
    pub fn builder(&self, table: &TableName) -> Result<DeltaTableBuilder> {
        let url = self.url(table)?;
        let store = Arc::new(DurableStore::new(self.disk.clone()));
        Ok(DeltaTableBuilder::from_url(url.clone())
            .or_error(Kind::Config, table)?
            .with_storage_backend(store, url))
    }

    /// The table as it is now, or as it was at a version of its log.
    ///
    /// # Errors
    /// `Config` if there is no such table, `Moved` if that version is gone, `Refused` for features that are not supported, `Unavailable` for
    /// trouble of the disk, `Corrupt` if the log says what cannot be.
    pub async fn open(&self, table: &TableName, version: Option<u64>) -> Result<Opened> {
        if !self.exists(table)? {
            let tables = self.tables()?;
            let names: Vec<String> = tables.iter().take(20).map(TableName::to_string).collect();
            let known = if names.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", names.join(", "))
            };
            return Err(Error::config(format!(
                "there is no table {table} in {}; {known}",
                self.root.display()
            )));
        }
        let _permit = self
            .opens
            .acquire()
            .await
            .or_error(Kind::Internal, "open a table")?;
        let loaded = async {
            let log = self.builder(table)?.build_storage();
            let log = log.or_error(Kind::Config, table)?;
            let (engine, root) = (log.engine(None), self.url(table)?);
            let work = move || {
                let builder = Snapshot::builder_for(root);
                let builder = match version {
                    Some(version) => builder.at_version(version),
                    None => builder,
                };
                builder.build(engine.as_ref())
            };
            let built = tokio::task::spawn_blocking(work).await;
            let built = built.or_error(Kind::Corrupt, format!("open table {table}"))?;
            let snapshot = built.map_err(|error| load_error(table, version, error.into()))?;
            Opened::new(table, self.directory(table), log, snapshot)
        };
        match loaded.await {
            // The kernel has one text for a log that is not there and for one that has holes.
            Err(error) if error.kind() == Kind::Corrupt && !self.exists(table)? => Err(
                Error::config(format!("table {table} is not there any more")).with_source(error),
            ),
            loaded => loaded,
        }
    }
}

fn directories(path: &Path) -> Result<Vec<String>> {
    let context = || format!("list {}", path.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).or_error(Kind::Unavailable, context())? {
        let entry = entry.or_error(Kind::Unavailable, context())?;
        if entry.path().is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

impl Opened {
    fn new(
        table: &TableName,
        directory: PathBuf,
        log: LogStoreRef,
        snapshot: SnapshotRef,
    ) -> Result<Opened> {
        let context = || format!("table {table}");
        let configuration = snapshot.table_configuration();
        features::check_readable(configuration).with_context(context)?;
        // Delta has types that Arrow, or this release of it, does not have.
        let schema: Schema = snapshot
            .schema()
            .as_ref()
            .try_into_arrow()
            .or_error(Kind::Refused, context())?;
        let mapping = Mapping::from_stored(&schema).with_context(context)?;
        let metadata = configuration.metadata();
        let partition_columns = metadata.partition_columns().to_vec();
        let (properties, columns) = (metadata.configuration(), mapping.original());
        let divisions = Divisions::read(properties, &partition_columns, columns);
        Ok(Opened {
            directory,
            divisions: divisions.with_context(context)?,
            mapping,
            partition_columns,
            name: table.clone(),
            log,
            snapshot,
        })
    }

    /// The version of the log.
    pub fn version(&self) -> u64 {
        self.snapshot.version()
    }

    /// The id that its maker gave it.
    pub fn id(&self) -> &str {
        self.snapshot.table_configuration().metadata().id()
    }

    /// What it demands and how it is set up.
    pub fn configuration(&self) -> &TableConfiguration {
        self.snapshot.table_configuration()
    }

    /// The kernel's table.
    pub fn snapshot(&self) -> &SnapshotRef {
        &self.snapshot
    }

    /// Where its log is.
    pub fn log_store(&self) -> &LogStoreRef {
        &self.log
    }

    /// How the engine that the table came from would make it anew.
    fn recipe(&self) -> Option<&String> {
        let properties = self.configuration().metadata().configuration();
        properties
            .get(RECIPE)
            .filter(|recipe| recipe.len() <= RECIPE_BYTES_MAX)
    }

    /// The table for the contract.
    pub fn table(&self, name: &TableName) -> Table {
        Table {
            name: name.clone(),
            schema: Arc::clone(self.mapping.original()),
            divisions: self.divisions.levels().to_vec(),
            recipe: self.recipe().cloned(),
        }
    }

    /// What the rows in a file with these partition values have in common: the key of their partition where values alone divide the table.
    ///
    /// # Errors
    /// `Corrupt` if a value is not of its column's type.
    pub fn value_key(&self, values: &HashMap<String, Option<String>>) -> Result<PartitionKey> {
        let parts = self.partition_columns.iter().map(|column| {
            let field = self
                .mapping
                .original()
                .field_with_name(column)
                .or_error(Kind::Corrupt, "partition column")?;
            let text = values.get(column).and_then(Option::as_deref);
            let cell = partition_values::from_text(text, field.data_type());
            Ok((
                column.clone(),
                cell.with_context(|| format!("column {column}"))?,
            ))
        });
        PartitionKey::new(parts.collect::<Result<Vec<_>>>()?)
    }

    /// The partition values of a key, as the log holds them.
    ///
    /// # Errors
    /// `Refused`, by name, for a key that the table cannot hold.
    pub fn values(&self, key: &PartitionKey) -> Result<HashMap<String, Option<String>>> {
        values_of(&self.divisions, &self.mapping, key)
    }

    /// Which partition each file belongs to, where the log does not say.
    ///
    /// # Errors
    /// As [`Names::load`].
    pub async fn names(&self) -> Result<Option<Names>> {
        if self.divisions.by_values_alone() {
            return Ok(None);
        }
        Names::load(self.directory.clone()).await.map(Some)
    }

    /// What removes the files of these partitions.
    ///
    /// # Errors
    /// As [`Lake::open`]; `Corrupt` if a partition value cannot be read; `Refused` if unnamed files may have rows of them.
    pub async fn removes(&self, keys: &HashSet<PartitionKey>) -> Result<Vec<Remove>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let (name, version) = (&self.name, Some(self.version()));
        let error = |error| load_error(name, version, error);
        let snapshot = deltalake::kernel::Snapshot::try_new(self.log.as_ref(), version).await;
        let snapshot = snapshot.map_err(error)?;
        let names = self.names().await?;
        let mut unnamed = Unnamed::default();
        let mut files = snapshot.file_views(self.log.as_ref(), None);
        let mut removes = Vec::new();
        while let Some(file) = files.try_next().await.map_err(error)? {
            let values = self.value_key(&file.partition_values_map())?;
            let goes = match &names {
                None => keys.contains(&values),
                Some(names) => {
                    let path = local_path(&file.path())?;
                    let key = names.key(&self.divisions, &path, &values)?;
                    if key.is_none() {
                        unnamed.add(values, &path);
                    }
                    key.is_some_and(|key| keys.contains(&key))
                }
            };
            if goes {
                removes.push(file.remove_action(true));
            }
        }
        if !unnamed.is_empty() {
            // Files can be unnamed because the ledger is damaged: then that is what must be mended.
            Ledger::load(self).await?;
            let concerned: HashSet<_> = (keys.iter())
                .map(|key| self.divisions.values_of(key))
                .collect();
            unnamed.check(name, |values| concerned.contains(values))?;
        }
        Ok(removes)
    }
}

/// The partition values of a key of a table that is divided like this, as the log holds them.
///
/// # Errors
/// `Refused`, by name, for a key that the table cannot hold.
pub fn values_of(
    divisions: &Divisions,
    mapping: &Mapping,
    key: &PartitionKey,
) -> Result<HashMap<String, Option<String>>> {
    let columns = mapping.original();
    divisions.check(key, columns)?;
    let values = divisions.value_columns().map(|column| {
        let field = columns.field_with_name(column);
        let field = field.or_error(Kind::Corrupt, "partition column")?;
        let cell = key.cell(column).unwrap_or(&Cell::Null);
        let text = partition_values::to_text(cell, field.data_type())
            .with_context(|| format!("column {column}"))?;
        Ok((column.clone(), text))
    });
    values.collect()
}

/// What an Add must be before it is committed: the crate commits others, and the table cannot be opened after that.
///
/// # Errors
/// `Internal`, since only this engine makes them.
pub fn check_add(opened: &Opened, add: &Add) -> Result<()> {
    let wrong = |what: String| {
        Err(Error::internal(format!(
            "file {} must not be committed: {what}",
            add.path
        )))
    };
    let mut columns: Vec<&String> = add.partition_values.keys().collect();
    let mut expected: Vec<&String> = opened.partition_columns.iter().collect();
    columns.sort();
    expected.sort();
    if columns != expected {
        return wrong(format!(
            "its partition columns are {columns:?}, the table's {expected:?}"
        ));
    }
    opened.value_key(&add.partition_values)?;
    let size = std::fs::metadata(opened.directory.join(&add.path))
        .or_error(Kind::Internal, &add.path)?
        .len();
    if i64::try_from(size).ok() != Some(add.size) {
        return wrong(format!("it has {size} bytes, not {}", add.size));
    }
    Ok(())
}

/// Checks that a file of this schema can be added: the crate adds any, and readers find rows that no column can hold.
///
/// # Errors
/// `Schema`, naming the column, if it is not the table's.
pub fn check_columns(opened: &Opened, file: &SchemaRef) -> Result<()> {
    check_file(&opened.mapping, &opened.partition_columns, file)
}

/// The same for a table with these columns, of which those are not in its files.
///
/// # Errors
/// As [`check_columns`].
pub fn check_file(mapping: &Mapping, partition_columns: &[String], file: &SchemaRef) -> Result<()> {
    let divides = |name: &String| partition_columns.contains(name);
    let stored = mapping.stored();
    for field in file.fields() {
        let name = field.name();
        let wrong = |what: String| Err(Error::schema(format!("column {name}: {what}")));
        match stored.field_with_name(name) {
            _ if divides(name) => {
                return wrong("it is in the file, and the table is divided by it".to_owned());
            }
            Err(_) => return wrong("the table has no such column any more".to_owned()),
            Ok(found) if !same_type(found.data_type(), field.data_type()) => {
                return wrong(format!(
                    "{} in the file, {} in the table",
                    field.data_type(),
                    found.data_type()
                ));
            }
            Ok(found) if field.is_nullable() && !found.is_nullable() => {
                return wrong("may be null in the file, must not be in the table".to_owned());
            }
            Ok(_) => {}
        }
    }
    for field in stored.fields() {
        if !field.is_nullable()
            && !divides(field.name())
            && file.field_with_name(field.name()).is_err()
        {
            return Err(Error::schema(format!(
                "column {}: not in the file, must not be null in the table",
                field.name()
            )));
        }
    }
    Ok(())
}

/// A directory name for a partition that every file system and reader takes: letters, digits and `-_.=` as they are, the rest as `%XX`.
pub fn directory_name(key: &PartitionKey, values: &HashMap<String, Option<String>>) -> PathBuf {
    let mut path = PathBuf::new();
    let of_values = |(column, _): &&(String, Cell)| values.contains_key(column);
    for (column, cell) in key.parts().iter().filter(of_values) {
        let text = match (cell, values.get(column).and_then(Option::as_deref)) {
            (Cell::Null, _) | (_, None) => "__HIVE_DEFAULT_PARTITION__".to_owned(),
            (_, Some(text)) => escaped(text),
        };
        // A name has at most 255 bytes; what is cut off stands in the log.
        let mut name = format!("{}={text}", escaped(column));
        name.truncate(200);
        path.push(name);
    }
    path
}

fn escaped(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}
