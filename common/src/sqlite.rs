//! What the agents' own stores have in common: how they are opened, and what SQLite says, as errors of ours.

use std::path::Path;

use rusqlite::{Connection, Params, Row};

use crate::{Error, Kind, OrError, Result};

/// Opens or makes a store in this file, or in memory, which what was acknowledged outlives: `synchronous=FULL`. `name` is for errors.
///
/// # Errors
/// `Config` if the file cannot be opened.
pub fn open(path: Option<&Path>, name: &str) -> Result<Connection> {
    let db = match path {
        Some(path) => Connection::open(path),
        None => Connection::open_in_memory(),
    };
    let db = db.or_error(Kind::Config, name)?;
    let context = format!("{name}: set up");
    let pragma = |key, value: &str| {
        let set = db.pragma_update(None, key, value);
        set.or_error(Kind::Config, context.as_str())
    };
    pragma("journal_mode", "WAL")?;
    pragma("synchronous", "FULL")?;
    pragma("foreign_keys", "ON")?;
    Ok(db)
}

/// What SQLite says, as an error of ours that names the store.
pub trait Said<T> {
    /// Of a write: `Full` if the disk is, else `Unavailable`.
    fn written(self, store: &str) -> Result<T>;
    /// Of a read: as of a write.
    fn found(self, store: &str) -> Result<T>;
}

impl<T> Said<T> for rusqlite::Result<T> {
    fn written(self, store: &str) -> Result<T> {
        self.map_err(|error| of_sqlite(error, "write to", store))
    }

    fn found(self, store: &str) -> Result<T> {
        self.map_err(|error| of_sqlite(error, "read", store))
    }
}

/// All rows of a query, each read by `read`.
///
/// # Errors
/// As [`Said::found`]; what `read` says.
pub fn rows<T>(
    db: &Connection,
    store: &str,
    sql: &str,
    values: impl Params,
    read: fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = db.prepare_cached(sql).found(store)?;
    let rows = statement.query_map(values, |row| Ok(read(row)));
    let rows = rows.found(store)?;
    rows.map(|row| row.found(store)?).collect()
}

fn of_sqlite(error: rusqlite::Error, act: &str, store: &str) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => Kind::Full,
        _ => Kind::Unavailable,
    };
    Error::new(kind, format!("{act} {store}")).with_source(error)
}
