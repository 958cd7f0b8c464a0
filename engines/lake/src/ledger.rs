//! The ledger: what is committed in a table of the lake, and by which run, told by the table alone.
//!
//! Everything of ours lives below `<table>/_strait/`, which readers and vacuum pass over:
//!
//! ```text
//! _strait/<run>/<uuid>.json           a ledger file: one event of a run
//! _strait/<run>/stage/<epoch>-….parquet   rows that are durable and not visible
//! _strait/<run>/stage/<key>.<epoch>.json  which of those make a position
//! ```
//!
//! A ledger file is durable before the Delta commit that carries `txn { "strait/<run>/<uuid>", 1 }`, and counts only if that transaction is
//! in the log. So the rows, the receipt and the epoch become true in one act, the commit, and a ledger file whose commit did not
//! happen is nothing. (One transaction number per run could not be the ledger: Delta keeps only its last value.)
//!
//! Every commit also carries `txn { "strait/epoch", N }` with its own epoch. Delta refuses a commit if one since its snapshot has written
//! the same application id, so a commit that saw its own epoch as the highest lands only while that is still so: this is the fence.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strait_common::engine::{Claim, Disposition, Outcome, Receipt};
use strait_common::ids::{Epoch, RunId};
use strait_common::key::PartitionKey;
use strait_common::{Error, Kind, OrError, Result};
use xxhash_rust::xxh3::xxh3_128;

use crate::disk::Disk;
use crate::table::{LOG, Opened};
use crate::transactions::application_ids;

/// The application id of the epoch.
pub const EPOCH_ID: &str = "strait/epoch";
/// The directory of our own files in a table's.
pub const DIRECTORY: &str = "_strait";
/// The version of the files' format.
const FORMAT: u32 = 1;

/// One ledger file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    format: u32,
    /// Whose event it is.
    pub run: RunId,
    /// In which attempt.
    pub epoch: Epoch,
    /// What happened.
    pub event: Event,
}

/// What happened to a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A run took the claim, or took it over.
    Attach(Claim),
    /// Partitions became visible.
    Publish(Vec<Published>),
    /// A partition was removed.
    Drop(PartitionKey),
    /// Partitions were read and found equal to the source's.
    Confirm(Vec<Equal>),
    /// The claim ended.
    Complete(Outcome),
    /// An operator has given up the ledger files of these transactions, which were lost or damaged.
    Lost(Vec<String>),
}

/// A partition that became visible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The proof.
    pub receipt: Receipt,
    /// What happened to rows already there.
    pub disposition: Disposition,
    /// Its files: where they were staged, and where they are.
    pub files: Vec<PublishedFile>,
}

/// A partition that was found equal: its receipt takes the place of those before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Equal {
    /// The proof.
    pub receipt: Receipt,
    /// Its files then, as the log has them.
    pub files: Vec<String>,
}

/// What a table's ledger says of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// The receipts in effect, the newest last, and the runs that have them: those since the partition was last replaced, dropped or found equal.
    pub receipts: Vec<(RunId, Receipt)>,
    /// The files that they speak of, relative to the table.
    pub files: BTreeSet<String>,
}

/// A file that was moved from the stage to its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedFile {
    /// Its name below the run's stage.
    pub staged: String,
    /// Its path relative to the table.
    pub path: String,
}

impl Entry {
    /// An event of an attempt.
    pub fn new(run: RunId, epoch: Epoch, event: Event) -> Entry {
        Entry {
            format: FORMAT,
            run,
            epoch,
            event,
        }
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_string(self).or_error(Kind::Internal, "write a ledger file")?;
        Ok(format!("{:032x}\n{json}\n", xxh3_128(json.as_bytes())).into_bytes())
    }

    /// Reads a ledger file: the XXH3-128 of the second line in hex, then an entry as JSON.
    ///
    /// # Errors
    /// `Corrupt` if it is torn, damaged or of a newer format.
    pub fn from_bytes(bytes: &[u8]) -> Result<Entry> {
        let text = std::str::from_utf8(bytes).or_error(Kind::Corrupt, "it is no text")?;
        let mut lines = text.lines();
        let (Some(checksum), Some(json)) = (lines.next(), lines.next()) else {
            return Err(Error::corrupt("it is cut short"));
        };
        if format!("{:032x}", xxh3_128(json.as_bytes())) != checksum {
            return Err(Error::corrupt("it does not have its checksum"));
        }
        let entry: Entry =
            serde_json::from_str(json).or_error(Kind::Corrupt, "it is no entry of this release")?;
        if entry.format != FORMAT {
            return Err(Error::corrupt(format!(
                "it has format {}, this release knows {FORMAT}",
                entry.format
            )));
        }
        Ok(entry)
    }
}

/// A ledger file on disk.
#[derive(Clone, Debug)]
pub struct LedgerFile {
    /// Where it is.
    pub path: PathBuf,
    /// The application id of its transaction.
    pub app_id: String,
}

impl LedgerFile {
    /// A new file for an event of this run.
    pub fn new(table: &Path, run: RunId) -> LedgerFile {
        let name = uuid::Uuid::new_v4();
        LedgerFile {
            path: run_directory(table, run).join(format!("{name}.json")),
            app_id: format!("strait/{run}/{name}"),
        }
    }

    /// Writes the file durably.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub fn write(&self, disk: &Disk, entry: &Entry) -> Result<()> {
        if disk.create(&self.path, &entry.to_bytes()?)? {
            return Ok(());
        }
        Err(Error::internal(format!(
            "ledger file {} is there already",
            self.path.display()
        )))
    }
}

/// The directory of a run's files.
pub fn run_directory(table: &Path, run: RunId) -> PathBuf {
    table.join(DIRECTORY).join(run.to_string())
}

/// What the table says at one version of its log.
#[derive(Debug)]
pub struct Ledger {
    /// The highest epoch issued; 0 before the first.
    pub epoch: Epoch,
    /// What counts, by epoch.
    pub entries: Vec<Entry>,
    /// Files that do not count, with what they would say; `None` where it cannot be read.
    pub pending: Vec<(LedgerFile, Option<Entry>)>,
    /// Transactions whose files were given up.
    pub given_up: HashSet<String>,
    /// Transactions whose files are damaged or not there, and were not given up: without them nobody can tell which partitions are there, and guessing doubles rows. With why.
    missing: BTreeMap<String, Option<Error>>,
}

impl Ledger {
    /// Reads the ledger of a table.
    ///
    /// # Errors
    /// `Corrupt`, by name, if a file that counts cannot be read.
    pub async fn load(opened: &Opened) -> Result<Ledger> {
        let mut ledger = Ledger::load_damaged(opened).await?;
        let Some((id, damage)) = ledger.missing.pop_first() else {
            return Ok(ledger);
        };
        let name = format!("{DIRECTORY}/{}.json", id.trim_start_matches("strait/"));
        let instead = format!(
            "put the table's directory {DIRECTORY} back as it was, or give up what is lost of it with `agent-sink --accept-lost-ledger`"
        );
        Err(match damage {
            Some(error) => Error::corrupt(format!(
                "ledger file {name} is committed and cannot be read; {instead}"
            ))
            .with_source(error),
            None => Error::corrupt(format!(
                "ledger file {name} is committed and missing; {instead}"
            )),
        })
    }

    /// The same of a ledger that lacks something: what is left of it.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub async fn load_damaged(opened: &Opened) -> Result<Ledger> {
        let epoch = epoch(opened).await?;
        let mut ledger = Ledger {
            epoch,
            entries: Vec::new(),
            pending: Vec::new(),
            given_up: HashSet::new(),
            missing: BTreeMap::new(),
        };
        if epoch.0 == 0 {
            return Ok(ledger);
        }
        let (directory, version) = (opened.directory.clone(), opened.version());
        let read = tokio::task::spawn_blocking(move || read(&directory, version)).await;
        let (files, mut committed) = read.or_error(Kind::Internal, "read the ledger")??;
        for (file, entry) in files {
            let counts = committed.remove(&file.app_id)
                || transaction(opened, &file.app_id).await?.is_some();
            match entry {
                Ok(entry) if counts => {
                    if let Event::Lost(ids) = &entry.event {
                        ledger.given_up.extend(ids.iter().cloned());
                    }
                    ledger.entries.push(entry);
                }
                Err(error) if counts => {
                    ledger.missing.insert(file.app_id, Some(error));
                }
                entry => ledger.pending.push((file, entry.ok())),
            }
        }
        // What is left has no file.
        let ours = |id: &String| id.starts_with("strait/") && *id != EPOCH_ID;
        let lost = committed.into_iter().filter(ours).map(|id| (id, None));
        ledger.missing.extend(lost);
        let given_up = &ledger.given_up;
        ledger.missing.retain(|id, _| !given_up.contains(id));
        // Within an epoch: the attach, then what was published, then the end.
        let rank = |event: &Event| match event {
            Event::Attach(_) | Event::Lost(_) => 0,
            Event::Publish(_) | Event::Drop(_) | Event::Confirm(_) => 1,
            Event::Complete(_) => 2,
        };
        ledger
            .entries
            .sort_by_key(|entry| (entry.epoch, rank(&entry.event)));
        Ok(ledger)
    }

    /// What is damaged or not there, and was not given up.
    pub fn missing(&self) -> Vec<String> {
        self.missing.keys().cloned().collect()
    }

    /// Whether a run has lost something that was given up.
    pub fn has_lost(&self, run: RunId) -> bool {
        let of_run = format!("strait/{run}/");
        self.given_up.iter().any(|id| id.starts_with(&of_run))
    }

    /// The claim that has not ended. The first claim of the run is shown, since it says when it was taken.
    pub fn open_claim(&self) -> Option<&Claim> {
        let mut open = None;
        for entry in &self.entries {
            match &entry.event {
                Event::Attach(claim) => open = Some(claim.run),
                Event::Complete(_) if open == Some(entry.run) => open = None,
                // Nobody knows any more whose it was.
                Event::Lost(_) => open = None,
                _ => {}
            }
        }
        open.and_then(|run| self.first_claim(run))
    }

    /// The claim as a run first took it.
    pub fn first_claim(&self, run: RunId) -> Option<&Claim> {
        self.entries.iter().find_map(|entry| match &entry.event {
            Event::Attach(claim) if claim.run == run => Some(claim),
            _ => None,
        })
    }

    /// What is said of every partition that has receipts in effect.
    pub fn accounts(&self) -> BTreeMap<PartitionKey, Account> {
        let mut accounts: BTreeMap<_, Account> = BTreeMap::new();
        for entry in &self.entries {
            match &entry.event {
                Event::Publish(partitions) => {
                    for published in partitions {
                        let account = accounts.entry(published.receipt.key.clone()).or_default();
                        if published.disposition == Disposition::Replace {
                            *account = Account::default();
                        }
                        let files = published.files.iter().map(|file| file.path.clone());
                        account.files.extend(files);
                        account
                            .receipts
                            .push((entry.run, published.receipt.clone()));
                    }
                }
                Event::Confirm(partitions) => {
                    for equal in partitions {
                        let account = Account {
                            receipts: vec![(entry.run, equal.receipt.clone())],
                            files: equal.files.iter().cloned().collect(),
                        };
                        accounts.insert(equal.receipt.key.clone(), account);
                    }
                }
                Event::Drop(key) => {
                    accounts.remove(key);
                }
                Event::Attach(_) | Event::Complete(_) | Event::Lost(_) => {}
            }
        }
        accounts
    }

    /// The partitions that a run has removed and not written since.
    pub fn dropped_by(&self, run: RunId) -> BTreeSet<PartitionKey> {
        let mut dropped = BTreeSet::new();
        for entry in self.entries.iter().filter(|entry| entry.run == run) {
            match &entry.event {
                Event::Drop(key) => {
                    dropped.insert(key.clone());
                }
                Event::Publish(partitions) => {
                    for published in partitions {
                        dropped.remove(&published.receipt.key);
                    }
                }
                Event::Attach(_) | Event::Confirm(_) | Event::Complete(_) | Event::Lost(_) => {}
            }
        }
        dropped
    }

    /// The receipts of one run.
    pub fn receipts_of(&self, run: RunId) -> HashMap<PartitionKey, Receipt> {
        let mut receipts = HashMap::new();
        for entry in self.entries.iter().filter(|entry| entry.run == run) {
            match &entry.event {
                Event::Publish(partitions) => {
                    receipts.extend(partitions.iter().map(|published| {
                        (published.receipt.key.clone(), published.receipt.clone())
                    }));
                }
                Event::Drop(key) => {
                    receipts.remove(key);
                }
                Event::Attach(_) | Event::Confirm(_) | Event::Complete(_) | Event::Lost(_) => {}
            }
        }
        receipts
    }
}

/// The highest epoch issued for a table; 0 before the first.
///
/// # Errors
/// `Unavailable` if the log cannot be read.
pub async fn epoch(opened: &Opened) -> Result<Epoch> {
    let number = transaction(opened, EPOCH_ID).await?.unwrap_or(0);
    Ok(Epoch(
        u64::try_from(number).or_error(Kind::Corrupt, "epoch")?,
    ))
}

/// The number that a transaction was committed with, if it was.
///
/// # Errors
/// `Unavailable` if the log cannot be read.
pub async fn transaction(opened: &Opened, app_id: &str) -> Result<Option<i64>> {
    let (engine, snapshot) = (
        opened.log_store().engine(None),
        Arc::clone(opened.snapshot()),
    );
    let id = app_id.to_owned();
    let look = move || snapshot.get_app_id_version(&id, engine.as_ref());
    let context = || format!("look transaction {app_id} up");
    let version = tokio::task::spawn_blocking(look).await;
    version
        .or_error(Kind::Internal, context())?
        .or_error(Kind::Unavailable, context())
}

/// Ledger files, with what each says.
pub type Files = Vec<(LedgerFile, Result<Entry>)>;

/// The ledger files of a table with what they say, and application ids that are in its log up to this version.
fn read(table: &Path, version: u64) -> Result<(Files, HashSet<String>)> {
    let committed = application_ids(&table.join(LOG), version)?;
    Ok((ledger_files(table)?, committed))
}

/// The ledger files of a table with what they say, whether they count or not.
///
/// # Errors
/// `Unavailable` if the disk fails.
pub fn ledger_files(table: &Path) -> Result<Files> {
    let mut read = Vec::new();
    for file in files(table)? {
        let bytes = match fs::read(&file.path) {
            // One that does not count, whose owner has meanwhile removed it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            bytes => bytes.or_error(
                Kind::Unavailable,
                format!("read ledger file {}", file.path.display()),
            )?,
        };
        read.push((file, Entry::from_bytes(&bytes)));
    }
    Ok(read)
}

/// All ledger files of a table, whether they count or not.
fn files(table: &Path) -> Result<Vec<LedgerFile>> {
    let mut files = Vec::new();
    for directory in list(&table.join(DIRECTORY))? {
        let Some(run) = name(&directory).and_then(|name| name.parse::<RunId>().ok()) else {
            continue;
        };
        for path in list(&directory)? {
            let Some(name) =
                name(&path).and_then(|name| name.strip_suffix(".json").map(str::to_owned))
            else {
                continue;
            };
            files.push(LedgerFile {
                app_id: format!("strait/{run}/{name}"),
                path,
            });
        }
    }
    Ok(files)
}

fn name(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}

/// What is in a directory; nothing where there is none.
///
/// # Errors
/// `Unavailable` if it cannot be listed.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("list {}", directory.display());
    match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let paths = entries
                .or_error(Kind::Unavailable, context())?
                .map(|entry| entry.map(|entry| entry.path()));
            paths
                .collect::<std::io::Result<Vec<_>>>()
                .or_error(Kind::Unavailable, context())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_damaged_ledger_file_is_never_taken_for_another() {
        let entry = Entry::new(
            RunId::from_u128(7),
            Epoch(3),
            Event::Complete(Outcome::Done),
        );
        let bytes = entry.to_bytes().unwrap();
        assert_eq!(Entry::from_bytes(&bytes).unwrap(), entry);
        for cut in 0..bytes.len() - 1 {
            assert!(Entry::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..(bytes.len() - 1) * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Entry::from_bytes(&damaged).is_err(), "bit {bit}");
        }
    }
}
