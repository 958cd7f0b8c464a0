//! Jobs as an agent stores them, in SQLite: their files as they were applied, and their starts. Calls block; they run on the CPU pool.

use std::path::Path;

use rusqlite::{Connection, Row, params};
use strait_common::sqlite::{self, Said};
use strait_common::{Error, Kind, OrError, Result};

use crate::book::{Changes, Start, State};

/// What is in the store.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS jobs (
        name TEXT PRIMARY KEY,
        file TEXT NOT NULL,
        enabled INTEGER NOT NULL,
        cursor INTEGER NOT NULL,
        applied_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS starts (
        job TEXT NOT NULL REFERENCES jobs (name) ON DELETE CASCADE,
        at INTEGER NOT NULL,
        manual INTEGER NOT NULL,
        state TEXT NOT NULL,
        of_group TEXT,
        tries INTEGER NOT NULL,
        windows INTEGER NOT NULL,
        ready_at INTEGER NOT NULL,
        began_at INTEGER NOT NULL,
        ended_at INTEGER NOT NULL,
        message TEXT NOT NULL,
        PRIMARY KEY (job, at)
    ) STRICT, WITHOUT ROWID";

const START_COLUMNS: &str =
    "at, manual, state, of_group, tries, windows, ready_at, began_at, ended_at, message";
/// Starts of a job that are kept.
const HISTORY_MAX: u32 = 10_000;

/// A job as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Its name.
    pub name: String,
    /// Its file, as it was applied.
    pub file: String,
    /// Whether its schedule counts.
    pub enabled: bool,
    /// Starts up to this instant are decided, in seconds since 1970.
    pub cursor: i64,
    /// When it was applied, in seconds since 1970.
    pub applied_at: i64,
}

const READ: &str = "read the jobs";

/// The jobs of an agent.
#[derive(Debug)]
pub struct JobStore {
    db: Connection,
    /// Where it is, for errors.
    name: String,
}

impl JobStore {
    /// Opens or makes the store in this file, which may hold other tables, too.
    ///
    /// # Errors
    /// `Config` if the file cannot be opened.
    pub fn open(path: &Path) -> Result<JobStore> {
        let name = format!("job store {}", path.display());
        let db = sqlite::open(Some(path), &name)?;
        let there = "SELECT count(*) FROM sqlite_master WHERE name = 'starts'";
        let there: i64 =
            (db.query_row(there, [], |row| row.get(0))).or_error(Kind::Config, &name)?;
        // What only reads must work on a full disk.
        if there == 0 {
            let made = db.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA}; COMMIT"));
            made.or_error(Kind::Config, &name)?;
        }
        Ok(JobStore { db, name })
    }

    /// Stores a job, in place of the one of that name.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn put_job(&self, job: &JobRow) -> Result<()> {
        let sql = "INSERT INTO jobs (name, file, enabled, cursor, applied_at) VALUES (?1, ?2, ?3, ?4, ?5) \
                   ON CONFLICT (name) DO UPDATE SET file = ?2, enabled = ?3, cursor = ?4, applied_at = ?5";
        let values = params![job.name, job.file, job.enabled, job.cursor, job.applied_at];
        self.db.execute(sql, values).written(&self.name)?;
        Ok(())
    }

    /// All jobs, in order of name.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn jobs(&self) -> Result<Vec<JobRow>> {
        let sql = "SELECT name, file, enabled, cursor, applied_at FROM jobs ORDER BY name";
        sqlite::rows(&self.db, &self.name, sql, [], job_row)
    }

    /// Removes a job and its history; its runs stay.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn remove_job(&self, name: &str) -> Result<()> {
        let sql = "DELETE FROM jobs WHERE name = ?";
        self.db.execute(sql, [name]).written(&self.name)?;
        Ok(())
    }

    /// Writes what was decided about a job, in one act.
    ///
    /// # Errors
    /// `Unavailable` if SQLite cannot write; `Full` if its disk is full.
    pub fn write_starts(&mut self, job: &str, changes: &Changes) -> Result<()> {
        let transaction = self.db.transaction().written(&self.name)?;
        let cursor = transaction.execute(
            "UPDATE jobs SET cursor = ?2 WHERE name = ?1",
            params![job, changes.cursor],
        );
        if cursor.written(&self.name)? != 1 {
            return Err(Error::internal(format!("job {job} is not stored")));
        }
        for at in &changes.removed {
            let removed = transaction.execute(
                "DELETE FROM starts WHERE job = ?1 AND at = ?2",
                params![job, at],
            );
            removed.written(&self.name)?;
        }
        let sql = format!(
            "INSERT OR REPLACE INTO starts (job, {START_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        );
        for start in &changes.starts {
            let values = params![
                job,
                start.at,
                start.manual,
                start.state.name(),
                start.group.map(|group| group.to_string()),
                start.tries,
                start.windows,
                start.ready_at,
                start.began_at,
                start.ended_at,
                start.message
            ];
            transaction.execute(&sql, values).written(&self.name)?;
        }
        let old = "DELETE FROM starts WHERE job = ?1 AND state NOT IN ('due', 'running', 'attached') AND at < \
                   (SELECT at FROM starts WHERE job = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2)";
        let pruned = transaction.execute(old, params![job, HISTORY_MAX]);
        pruned.written(&self.name)?;
        transaction.commit().written(&self.name)
    }

    /// The starts of a job, newest first, at most `limit`, and all that are open.
    ///
    /// # Errors
    /// `Corrupt` if what is stored cannot be read.
    pub fn starts(&self, job: &str, limit: u32) -> Result<Vec<Start>> {
        let sql = format!(
            "SELECT {START_COLUMNS} FROM starts WHERE job = ?1 AND (state IN ('due', 'running', 'attached') OR at IN \
             (SELECT at FROM starts WHERE job = ?1 ORDER BY at DESC LIMIT ?2)) ORDER BY at DESC"
        );
        sqlite::rows(&self.db, &self.name, &sql, params![job, limit], start_row)
    }
}

fn job_row(row: &Row<'_>) -> Result<JobRow> {
    let text = |column| row.get::<_, String>(column).or_error(Kind::Corrupt, READ);
    let int = |column| row.get::<_, i64>(column).or_error(Kind::Corrupt, READ);
    Ok(JobRow {
        name: text("name")?,
        file: text("file")?,
        enabled: int("enabled")? != 0,
        cursor: int("cursor")?,
        applied_at: int("applied_at")?,
    })
}

fn start_row(row: &Row<'_>) -> Result<Start> {
    let text = |column| row.get::<_, String>(column).or_error(Kind::Corrupt, READ);
    let int = |column| row.get::<_, i64>(column).or_error(Kind::Corrupt, READ);
    let small = |column| row.get::<_, u32>(column).or_error(Kind::Corrupt, READ);
    let group = row.get::<_, Option<String>>("of_group");
    Ok(Start {
        at: int("at")?,
        manual: int("manual")? != 0,
        state: State::from_name(&text("state")?)?,
        group: group
            .or_error(Kind::Corrupt, READ)?
            .map(|id| id.parse())
            .transpose()?,
        tries: small("tries")?,
        windows: small("windows")?,
        ready_at: int("ready_at")?,
        began_at: int("began_at")?,
        ended_at: int("ended_at")?,
        message: text("message")?,
    })
}
