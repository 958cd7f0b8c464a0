//! The sink's own durable store: what the server cannot keep together with its rows.
//!
//! One SQLite file in a directory of the sink's. It holds the claims and epochs, rows that are staged and what covers them, what is being published, and the
//! receipts. Every change is one transaction that looks at the epoch itself, so that a number in a process's memory is no fence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use strait_common::cpu::CpuPool;
use strait_common::digest::Digest;
use strait_common::engine::{Claim, Cursor, Receipt, Version};
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::{Error, Kind, OrError, Result};

use crate::records::{Act, Entry, Piece, Publishing, Staged};

/// How long another process may hold the file.
const BUSY: Duration = Duration::from_secs(20);
/// The format of the file.
const LAYOUT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE meta (identity TEXT NOT NULL);
    CREATE TABLE tables (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, claim TEXT, open INTEGER NOT NULL);
    CREATE TABLE staged (
        tbl TEXT NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL, version TEXT NOT NULL, writer TEXT NOT NULL,
        pieces INTEGER NOT NULL, sequence INTEGER NOT NULL, cursor BLOB NOT NULL, rows INTEGER NOT NULL, digest BLOB NOT NULL,
        PRIMARY KEY (tbl, run, key));
    CREATE TABLE pieces (
        writer TEXT NOT NULL, n INTEGER NOT NULL, tbl TEXT NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL,
        rows INTEGER NOT NULL, bytes INTEGER NOT NULL, content BLOB NOT NULL, PRIMARY KEY (writer, n));
    CREATE INDEX pieces_of ON pieces (tbl, run, key);
    CREATE TABLE publishing (
        tbl TEXT NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL, what TEXT NOT NULL, PRIMARY KEY (tbl, key));
    CREATE TABLE ledger (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, tbl TEXT NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL, act TEXT NOT NULL,
        receipt TEXT NOT NULL, version TEXT, whole INTEGER NOT NULL);
    CREATE INDEX ledger_of ON ledger (tbl, key);
    CREATE TABLE dropped (tbl TEXT NOT NULL, run TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (tbl, run, key));
";

/// The file, opened. Clones are the same.
#[derive(Clone)]
pub(crate) struct Journal(Arc<Inner>);

struct Inner {
    connection: Mutex<Connection>,
    cpu: CpuPool,
    path: PathBuf,
    identity: String,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "journal {}", self.0.path.display())
    }
}

trait Said<T> {
    fn said(self) -> Result<T>;
}

impl<T> Said<T> for rusqlite::Result<T> {
    fn said(self) -> Result<T> {
        self.map_err(|error| {
            let kind = match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => Kind::Full,
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
                    Kind::Corrupt
                }
                _ => Kind::Unavailable,
            };
            Error::new(kind, "the sink's journal").with_source(error)
        })
    }
}

fn json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).or_error(Kind::Internal, "a line of the journal")
}

fn parsed<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T> {
    serde_json::from_str(text).or_error(Kind::Corrupt, "a line of the sink's journal")
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0))
}

impl Journal {
    /// Opens or makes the journal of this directory.
    ///
    /// # Errors
    /// `Config` if it cannot be made, or is of a newer release.
    pub(crate) fn open(directory: &Path, cpu: CpuPool) -> Result<Journal> {
        let path = directory.join("journal.sqlite");
        let context = || format!("journal {}", path.display());
        std::fs::create_dir_all(directory).or_error(Kind::Config, context())?;
        let mut connection = Connection::open(&path).or_error(Kind::Config, context())?;
        let mut set_up = || -> rusqlite::Result<(i64, String)> {
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            // What is acknowledged is durable, also when the power fails.
            connection.pragma_update(None, "synchronous", "FULL")?;
            let all = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let layout: i64 = all.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if layout == 0 {
                all.execute_batch(SCHEMA)?;
                all.execute(
                    "INSERT INTO meta VALUES (?1)",
                    [RunId::random().to_string()],
                )?;
                all.pragma_update(None, "user_version", LAYOUT)?;
            }
            let identity = all.query_row("SELECT identity FROM meta", [], |row| row.get(0))?;
            all.commit()?;
            Ok((layout, identity))
        };
        let (layout, identity) = set_up().or_error(Kind::Config, context())?;
        if layout > LAYOUT {
            return Err(Error::config(format!(
                "{}: it has format {layout}, this release knows up to {LAYOUT}; use the newer release",
                context()
            )));
        }
        Ok(Journal(Arc::new(Inner {
            connection: Mutex::new(connection),
            cpu,
            path,
            identity,
        })))
    }

    /// A random name that stays with the journal.
    pub(crate) fn identity(&self) -> &str {
        &self.0.identity
    }

    /// One act: all of `work` is durable when this returns, or nothing of it ever happened.
    pub(crate) async fn act<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Book<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = Arc::clone(&self.0);
        self.0
            .cpu
            .run(move || {
                let mut connection = inner
                    .connection
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let behavior = TransactionBehavior::Immediate;
                let transaction = connection.transaction_with_behavior(behavior).said()?;
                let book = Book(transaction);
                let done = work(&book)?;
                book.0.commit().said()?;
                Ok(done)
            })
            .await
    }
}

/// The journal within one act.
pub(crate) struct Book<'a>(Transaction<'a>);

impl Book<'_> {
    /// The claim on a table, with the epoch and whether it is open.
    pub(crate) fn claim(&self, table: &TableName) -> Result<(Epoch, Option<(Claim, bool)>)> {
        let found = self.0.query_row(
            "SELECT epoch, claim, open FROM tables WHERE name = ?1",
            [table.to_string()],
            |row| {
                Ok((
                    count(row, 0)?,
                    row.get::<_, Option<String>>(1)?,
                    row.get::<_, bool>(2)?,
                ))
            },
        );
        let Some((epoch, claim, open)) = found.optional().said()? else {
            return Ok((Epoch(0), None));
        };
        let claim = claim.map(|text| parsed(&text)).transpose()?;
        Ok((Epoch(epoch), claim.map(|claim| (claim, open))))
    }

    /// Takes the claim, or takes it over, and raises the epoch. With `dry` only looks whether that may be.
    ///
    /// # Errors
    /// `Refused` if another run's claim is open, or this run's has another job.
    pub(crate) fn take_claim(&self, claim: &Claim, dry: bool) -> Result<Epoch> {
        let table = &claim.table;
        let (epoch, held) = self.claim(table)?;
        let mut taken = claim.clone();
        if let Some((held, open)) = held {
            if held.run == claim.run {
                if held.job != claim.job {
                    return Err(Error::refused(format!(
                        "run {} of table {table} has another job; start a new run for it",
                        claim.run
                    )));
                }
                taken.taken_at = held.taken_at;
            } else if open {
                return Err(Error::refused(format!(
                    "run {} owns table {table}; wait for it, or abandon it",
                    held.run
                )));
            }
        }
        let raised = Epoch(epoch.0 + 1);
        if !dry {
            self.0
                .execute(
                    "INSERT INTO tables VALUES (?1, ?2, ?3, 1) ON CONFLICT (name) DO UPDATE SET epoch = ?2, claim = ?3, open = 1",
                    params![table.to_string(), whole(raised.0), json(&taken)?],
                )
                .said()?;
        }
        Ok(raised)
    }

    /// Raises the epoch of a table beyond another one, and closes what claim there is.
    pub(crate) fn raise(&self, table: &TableName, least: Epoch) -> Result<Epoch> {
        let (epoch, _) = self.claim(table)?;
        let raised = Epoch(epoch.0.max(least.0) + 1);
        self.0
            .execute(
                "INSERT INTO tables VALUES (?1, ?2, NULL, 0) ON CONFLICT (name) DO UPDATE SET epoch = ?2, claim = NULL, open = 0",
                params![table.to_string(), whole(raised.0)],
            )
            .said()?;
        Ok(raised)
    }

    /// Writes, and takes it back.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.0.execute("INSERT INTO meta VALUES ('')", []).said()?;
        self.0
            .execute("DELETE FROM meta WHERE identity = ''", [])
            .said()?;
        Ok(())
    }

    /// Fails when a newer attempt exists.
    pub(crate) fn check_epoch(&self, table: &TableName, epoch: Epoch) -> Result<bool> {
        let (newest, held) = self.claim(table)?;
        let by = held.as_ref().map(|(claim, _)| claim);
        if newest != epoch {
            return Err(Error::fenced(format!(
                "epoch {epoch} of table {table} is over: epoch {newest} of run {} by {} took its place",
                by.map_or_else(|| "?".to_owned(), |claim| claim.run.to_string()),
                by.map_or("?", |claim| claim.agent.as_str()),
            )));
        }
        Ok(held.is_some_and(|(_, open)| open))
    }

    /// Fails when a newer attempt exists, or this one has ended its claim.
    pub(crate) fn check_fence(&self, table: &TableName, run: RunId, epoch: Epoch) -> Result<()> {
        if self.check_epoch(table, epoch)? {
            return Ok(());
        }
        Err(Error::fenced(format!(
            "run {run} has ended its claim on table {table}"
        )))
    }

    /// Ends the claim, and discards what the run has staged and removed: no one goes on with a run that is over.
    pub(crate) fn complete(&self, table: &TableName, run: RunId) -> Result<()> {
        let (table, run) = (table.to_string(), run.to_string());
        self.0
            .execute("UPDATE tables SET open = 0 WHERE name = ?1", [&table])
            .said()?;
        for kept in ["staged", "dropped"] {
            let over = format!("DELETE FROM {kept} WHERE tbl = ?1 AND run = ?2");
            self.0.execute(&over, [&table, &run]).said()?;
        }
        self.sweep(&table)
    }

    /// Discards pieces that no position and nothing that is being published covers.
    pub(crate) fn sweep(&self, table: &str) -> Result<()> {
        let mut kept: BTreeMap<String, u64> = BTreeMap::new();
        {
            let mut select = self
                .0
                .prepare("SELECT writer, pieces FROM staged WHERE tbl = ?1")
                .said()?;
            let rows = select
                .query_map([table], |row| {
                    Ok((row.get::<_, String>(0)?, count(row, 1)?))
                })
                .said()?;
            for row in rows {
                let (writer, pieces) = row.said()?;
                kept.insert(writer, pieces);
            }
        }
        for publishing in self.publishing_of(table)? {
            let pieces = kept.entry(publishing.writer).or_default();
            *pieces = publishing.pieces.max(*pieces);
        }
        let writers: Vec<String> = {
            let mut select = self
                .0
                .prepare("SELECT DISTINCT writer FROM pieces WHERE tbl = ?1")
                .said()?;
            let rows = select.query_map([table], |row| row.get(0)).said()?;
            rows.collect::<rusqlite::Result<_>>().said()?
        };
        for writer in writers {
            let pieces = kept.get(&writer).copied().unwrap_or(0);
            self.0
                .execute(
                    "DELETE FROM pieces WHERE writer = ?1 AND n >= ?2",
                    params![writer, whole(pieces)],
                )
                .said()?;
        }
        Ok(())
    }

    /// What the run has staged of a partition.
    pub(crate) fn staged(
        &self,
        table: &TableName,
        run: RunId,
        key: &PartitionKey,
    ) -> Result<Option<Staged>> {
        let found = self.0.query_row(
            "SELECT version, writer, pieces, sequence, cursor, rows, digest FROM staged WHERE tbl = ?1 AND run = ?2 AND key = ?3",
            [table.to_string(), run.to_string(), key.to_string()],
            staged_row,
        );
        found.optional().said()?.transpose()
    }

    /// All that the run has staged.
    pub(crate) fn all_staged(
        &self,
        table: &TableName,
        run: RunId,
    ) -> Result<Vec<(PartitionKey, Staged)>> {
        let mut select = self
            .0
            .prepare("SELECT version, writer, pieces, sequence, cursor, rows, digest, key FROM staged WHERE tbl = ?1 AND run = ?2")
            .said()?;
        let rows = select
            .query_map([table.to_string(), run.to_string()], |row| {
                Ok((row.get::<_, String>(7)?, staged_row(row)?))
            })
            .said()?;
        rows.map(|row| {
            let (key, staged) = row.said()?;
            Ok((key.parse()?, staged?))
        })
        .collect()
    }

    /// Writes down what is staged.
    pub(crate) fn stage(
        &self,
        table: &TableName,
        run: RunId,
        key: &PartitionKey,
        staged: &Staged,
    ) -> Result<()> {
        self.0
            .execute(
                "INSERT OR REPLACE INTO staged VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    table.to_string(),
                    run.to_string(),
                    key.to_string(),
                    staged.version.0,
                    staged.writer,
                    whole(staged.pieces),
                    whole(staged.sequence),
                    staged.cursor.0.as_ref(),
                    whole(staged.rows),
                    &staged.digest.to_bytes()[..],
                ],
            )
            .said()?;
        Ok(())
    }

    /// Forgets what is staged of a partition, with the pieces of everyone who wrote it.
    pub(crate) fn unstage(&self, table: &TableName, run: RunId, key: &PartitionKey) -> Result<()> {
        for kept in ["staged", "pieces"] {
            self.0
                .execute(
                    &format!("DELETE FROM {kept} WHERE tbl = ?1 AND run = ?2 AND key = ?3"),
                    [table.to_string(), run.to_string(), key.to_string()],
                )
                .said()?;
        }
        Ok(())
    }

    /// The pieces of a partition pass to another writer, up to `pieces` of them; what is beyond goes.
    pub(crate) fn hand_over(&self, from: &str, to: &str, pieces: u64) -> Result<()> {
        self.0
            .execute(
                "DELETE FROM pieces WHERE writer = ?1 AND n >= ?2",
                params![from, whole(pieces)],
            )
            .said()?;
        self.0
            .execute(
                "UPDATE pieces SET writer = ?2 WHERE writer = ?1",
                [from, to],
            )
            .said()?;
        Ok(())
    }

    /// Keeps rows.
    pub(crate) fn add_piece(
        &self,
        (table, run, key): (&TableName, RunId, &PartitionKey),
        writer: &str,
        at: u64,
        piece: &Piece,
    ) -> Result<()> {
        self.0
            .execute(
                "INSERT OR REPLACE INTO pieces VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    writer,
                    whole(at),
                    table.to_string(),
                    run.to_string(),
                    key.to_string(),
                    whole(piece.rows),
                    whole(piece.bytes),
                    piece.content
                ],
            )
            .said()?;
        Ok(())
    }

    /// The pieces from the `from`-th on whose rows take no more than `bytes` in memory, at least one; none after the last.
    pub(crate) fn pieces(
        &self,
        writer: &str,
        from: u64,
        to: u64,
        bytes: u64,
    ) -> Result<Vec<Piece>> {
        let mut select = self
            .0
            .prepare("SELECT rows, bytes, content FROM pieces WHERE writer = ?1 AND n >= ?2 AND n < ?3 ORDER BY n")
            .said()?;
        let mut rows = select
            .query(params![writer, whole(from), whole(to)])
            .said()?;
        let mut found: Vec<Piece> = Vec::new();
        let mut sum = 0;
        while let Some(row) = rows.next().said()? {
            sum += count(row, 1).said()?;
            if sum > bytes && !found.is_empty() {
                break;
            }
            found.push(Piece {
                rows: count(row, 0).said()?,
                bytes: count(row, 1).said()?,
                content: row.get(2).said()?,
            });
        }
        Ok(found)
    }

    /// What is being published of a table, whoever began it.
    pub(crate) fn all_publishing(&self, table: &TableName) -> Result<Vec<Publishing>> {
        self.publishing_of(&table.to_string())
    }

    fn publishing_of(&self, table: &str) -> Result<Vec<Publishing>> {
        let mut select = self
            .0
            .prepare("SELECT what FROM publishing WHERE tbl = ?1 ORDER BY run, key")
            .said()?;
        let rows = select
            .query_map([table], |row| row.get::<_, String>(0))
            .said()?;
        rows.map(|row| parsed(&row.said()?)).collect()
    }

    /// The partitions that are neither what they were nor what they are to be: what was there went, or may have gone, and what the ledger has of them says nothing.
    pub(crate) fn torn(&self, table: &TableName) -> Result<BTreeSet<PartitionKey>> {
        let torn = self.all_publishing(table)?.into_iter();
        let torn = torn.filter(Publishing::is_torn);
        Ok(torn.map(|what| what.key).collect())
    }

    /// What is being published of a partition, whoever began it: one at most, since a next one takes its place.
    pub(crate) fn publishing(
        &self,
        table: &TableName,
        key: &PartitionKey,
    ) -> Result<Option<Publishing>> {
        let found = self.0.query_row(
            "SELECT what FROM publishing WHERE tbl = ?1 AND key = ?2",
            [table.to_string(), key.to_string()],
            |row| row.get::<_, String>(0),
        );
        found
            .optional()
            .said()?
            .map(|text| parsed(&text))
            .transpose()
    }

    /// Writes down that a partition is about to be published. What was begun of it before, by whomever, stays so until the server has removed it: it is not certain any more that
    /// nothing has happened there.
    ///
    /// # Errors
    /// `Refused` if rows were to join what is half there.
    pub(crate) fn begin(&self, table: &TableName, mut what: Publishing) -> Result<Publishing> {
        let before = self.publishing(table, &what.key)?;
        if before.is_some_and(|before| before.may_have_begun()) {
            if what.act == Act::Append {
                return Err(Error::refused(format!(
                    "partition {}: a part of it is there already",
                    what.key.label()
                )));
            }
            what.unheard = true;
        }
        self.publish(table, &what)?;
        Ok(what)
    }

    /// Writes down what is about to happen at the server. It takes the place of what was being published of the partition, whoever began that.
    pub(crate) fn publish(&self, table: &TableName, what: &Publishing) -> Result<()> {
        self.published(table, &what.key)?;
        self.0
            .execute(
                "INSERT INTO publishing VALUES (?1, ?2, ?3, ?4)",
                params![
                    table.to_string(),
                    what.run.to_string(),
                    what.key.to_string(),
                    json(what)?
                ],
            )
            .said()?;
        Ok(())
    }

    /// Nothing of a partition is being published any more.
    pub(crate) fn published(&self, table: &TableName, key: &PartitionKey) -> Result<()> {
        self.0
            .execute(
                "DELETE FROM publishing WHERE tbl = ?1 AND key = ?2",
                [table.to_string(), key.to_string()],
            )
            .said()?;
        Ok(())
    }

    /// A line for the ledger. One that says anew what is there takes the place of those of other runs.
    pub(crate) fn enter(&self, table: &TableName, entry: &Entry) -> Result<()> {
        if entry.act != Act::Append {
            let key = entry.receipt.key.to_string();
            self.0
                .execute(
                    "DELETE FROM ledger WHERE tbl = ?1 AND key = ?2 AND run <> ?3",
                    [table.to_string(), key, entry.run.to_string()],
                )
                .said()?;
        }
        self.0
            .execute(
                "INSERT INTO ledger (tbl, run, key, act, receipt, version, whole) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    table.to_string(),
                    entry.run.to_string(),
                    entry.receipt.key.to_string(),
                    json(&entry.act)?,
                    json(&entry.receipt)?,
                    entry.version.as_ref().map(|version| &version.0),
                    entry.whole
                ],
            )
            .said()?;
        Ok(())
    }

    /// The ledger of one partition, the newest last.
    pub(crate) fn entries(&self, table: &TableName, key: &PartitionKey) -> Result<Vec<Entry>> {
        let mut select = self
            .0
            .prepare("SELECT run, act, receipt, version, whole FROM ledger WHERE tbl = ?1 AND key = ?2 ORDER BY seq")
            .said()?;
        let rows = select
            .query_map([table.to_string(), key.to_string()], entry_row)
            .said()?;
        rows.map(|row| row.said()?).collect()
    }

    /// The whole ledger of a table, by key.
    pub(crate) fn ledger(&self, table: &TableName) -> Result<BTreeMap<PartitionKey, Vec<Entry>>> {
        let mut select = self
            .0
            .prepare(
                "SELECT run, act, receipt, version, whole FROM ledger WHERE tbl = ?1 ORDER BY seq",
            )
            .said()?;
        let rows = select.query_map([table.to_string()], entry_row).said()?;
        let mut ledger: BTreeMap<PartitionKey, Vec<Entry>> = BTreeMap::new();
        for row in rows {
            let entry = row.said()??;
            ledger
                .entry(entry.receipt.key.clone())
                .or_default()
                .push(entry);
        }
        Ok(ledger)
    }

    /// This run's receipt of a partition, if it has published it and nobody has removed that since.
    pub(crate) fn receipt(
        &self,
        table: &TableName,
        run: RunId,
        key: &PartitionKey,
    ) -> Result<Option<Receipt>> {
        if self
            .publishing(table, key)?
            .is_some_and(|what| what.is_torn())
        {
            return Ok(None);
        }
        let entries = self.entries(table, key)?;
        let own = entries
            .into_iter()
            .rev()
            .find(|entry| entry.run == run && entry.act != Act::Confirm);
        Ok(own.map(|entry| entry.receipt))
    }

    /// The receipts of a partition go, because its rows have.
    pub(crate) fn forget(&self, table: &TableName, key: &PartitionKey) -> Result<()> {
        self.0
            .execute(
                "DELETE FROM ledger WHERE tbl = ?1 AND key = ?2",
                [table.to_string(), key.to_string()],
            )
            .said()?;
        Ok(())
    }

    /// The run has removed a partition.
    pub(crate) fn set_dropped(
        &self,
        table: &TableName,
        run: RunId,
        key: &PartitionKey,
        dropped: bool,
    ) -> Result<()> {
        let statement = if dropped {
            "INSERT OR REPLACE INTO dropped VALUES (?1, ?2, ?3)"
        } else {
            "DELETE FROM dropped WHERE tbl = ?1 AND run = ?2 AND key = ?3"
        };
        self.0
            .execute(
                statement,
                [table.to_string(), run.to_string(), key.to_string()],
            )
            .said()?;
        Ok(())
    }

    /// The partitions that the run has removed and not written since.
    pub(crate) fn dropped(&self, table: &TableName, run: RunId) -> Result<Vec<PartitionKey>> {
        let mut select = self
            .0
            .prepare("SELECT key FROM dropped WHERE tbl = ?1 AND run = ?2")
            .said()?;
        let rows = select
            .query_map([table.to_string(), run.to_string()], |row| {
                row.get::<_, String>(0)
            })
            .said()?;
        rows.map(|row| row.said()?.parse()).collect()
    }

    /// Whether a run has ever finished a partition of a table.
    pub(crate) fn has_receipts(&self, table: &TableName) -> Result<bool> {
        self.keeps("ledger", table)
    }

    /// Whether it knows of anything that a run has put into a table, or is about to.
    pub(crate) fn knows(&self, table: &TableName) -> Result<bool> {
        Ok(self.has_receipts(table)?
            || self.keeps("publishing", table)?
            || self.keeps("staged", table)?)
    }

    fn keeps(&self, what: &str, table: &TableName) -> Result<bool> {
        let asked = format!("SELECT EXISTS (SELECT 1 FROM {what} WHERE tbl = ?1)");
        let name = table.to_string();
        self.0.query_row(&asked, [&name], |row| row.get(0)).said()
    }

    /// Forgets what any run has put into a table: how many lines that was.
    pub(crate) fn forget_table(&self, table: &TableName) -> Result<u64> {
        let name = table.to_string();
        let mut lost = 0;
        for kept in ["publishing", "ledger", "staged", "pieces", "dropped"] {
            let gone = self
                .0
                .execute(&format!("DELETE FROM {kept} WHERE tbl = ?1"), [&name])
                .said()?;
            lost += gone as u64;
        }
        Ok(lost)
    }
}

fn staged_row(row: &Row<'_>) -> rusqlite::Result<Result<Staged>> {
    let digest: Vec<u8> = row.get(6)?;
    let staged = Staged {
        version: Version(row.get(0)?),
        writer: row.get(1)?,
        pieces: count(row, 2)?,
        sequence: count(row, 3)?,
        cursor: Cursor(Bytes::from(row.get::<_, Vec<u8>>(4)?)),
        rows: count(row, 5)?,
        digest: Digest::default(),
    };
    Ok(Digest::from_bytes(&digest).map(|digest| Staged { digest, ..staged }))
}

fn entry_row(row: &Row<'_>) -> rusqlite::Result<Result<Entry>> {
    let (run, act, receipt): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let version: Option<String> = row.get(3)?;
    let whole: bool = row.get(4)?;
    let entry = || {
        Ok(Entry {
            run: run.parse()?,
            act: parsed(&act)?,
            receipt: parsed(&receipt)?,
            version: version.map(Version),
            whole,
        })
    };
    Ok(entry())
}
