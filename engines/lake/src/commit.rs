//! Commits to a Delta table, each conditional on the epoch of its attempt within the same act.

use std::time::Duration;

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{Action, Transaction};
use deltalake::protocol::{DeltaOperation, SaveMode};
use strait_common::ids::{Epoch, TableName};
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::features;
use crate::ledger::{EPOCH_ID, LedgerFile, epoch, transaction};
use crate::table::{LOG, Lake, Opened};

/// Attempts of one commit before it is reported as temporary: foreign writers commit too.
const TRIES_MAX: u32 = 30;
/// The first wait after a conflict, doubled up to the longest.
const WAIT_FIRST: Duration = Duration::from_millis(2);
const WAIT_MOST: Duration = Duration::from_millis(200);

/// What a commit changes beside its transactions.
#[derive(Debug)]
pub struct Change {
    /// Adds and removes.
    pub actions: Vec<Action>,
    /// Whether files are removed: then no file may have come since the snapshot.
    pub replaces: bool,
}

/// The epoch that a commit is made in.
#[derive(Clone, Copy, Debug)]
pub enum Condition {
    /// The commit raises the epoch from this one by one.
    Raises(Epoch),
    /// The commit counts only while this is the highest.
    Holds(Epoch),
}

/// What became of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It is in the log, durably. The epoch was seen as the highest at this version of it, or at a later one.
    Landed(u64),
    /// Somebody else committed in between, and it did not.
    Lost,
}

/// Tries one commit on this snapshot.
///
/// # Errors
/// `Unavailable` if it cannot be told whether it landed, or whether it would survive a power cut; `Refused` if the table forbids it.
pub async fn try_commit(
    lake: &Lake,
    table: &TableName,
    opened: &Opened,
    condition: Condition,
    ledger: &LedgerFile,
    change: Change,
) -> Result<Tried> {
    // The table may have been altered since the attach.
    let context = || format!("table {table}");
    features::check_writable(opened).with_context(context)?;
    if change.replaces {
        features::check_removable(opened).with_context(context)?;
    }
    let number = match condition {
        Condition::Raises(Epoch(old)) => old + 1,
        Condition::Holds(Epoch(own)) => own,
    };
    let number = i64::try_from(number).or_error(Kind::Internal, "epoch")?;
    let transactions = vec![
        Transaction::new(EPOCH_ID, number),
        Transaction::new(&ledger.app_id, 1),
    ];
    // An append would pass over files that came since the snapshot; a merge without predicate has read the whole table and does not.
    let operation = if change.replaces {
        DeltaOperation::Merge {
            predicate: None,
            merge_predicate: None,
            matched_predicates: Vec::new(),
            not_matched_predicates: Vec::new(),
            not_matched_by_source_predicates: Vec::new(),
        }
    } else {
        DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: None,
            predicate: None,
        }
    };
    let properties = CommitProperties::default()
        .with_max_retries(0)
        .with_application_transactions(transactions);
    let snapshot = opened
        .delta
        .snapshot()
        .or_error(Kind::Corrupt, "snapshot")?;
    let commit = CommitBuilder::from(properties).with_actions(change.actions);
    let committed = commit
        .build(Some(snapshot), opened.delta.log_store(), operation)
        .await;
    let error = match committed {
        Ok(committed) => return Ok(Tried::Landed(committed.version())),
        Err(error) => error,
    };
    // An error can follow a commit that landed: only the log knows.
    let reloaded = lake.open(table, None).await;
    let landed = match &reloaded {
        Ok(reloaded) => transaction(reloaded, &ledger.app_id).await?.is_some(),
        Err(_) => {
            return Err(Error::unavailable(format!(
                "table {table}: a commit may or may not have landed"
            ))
            .with_source(error));
        }
    };
    tracing::debug!(%table, %error, landed, "commit answered with an error");
    if landed {
        // The error may be that of the very sync which makes the entry's name durable.
        let (disk, log) = (lake.disk().clone(), opened.directory.join(LOG));
        let synced = tokio::task::spawn_blocking(move || disk.sync_directory(&log)).await;
        synced
            .or_error(Kind::Internal, "sync the log")?
            .with_context(|| {
                format!("table {table}: a commit landed, and may not survive a power cut")
            })?;
        return Ok(Tried::Landed(opened.version()));
    }
    match &error {
        error if is_conflict(error) => Ok(Tried::Lost),
        DeltaTableError::Transaction {
            source:
                TransactionError::UnsupportedTableFeatures(_)
                | TransactionError::TableFeaturesRequired(_)
                | TransactionError::DeltaTableAppendOnly,
        } => Err(Error::refused(format!("table {table}: commit")).with_source(error)),
        _ => Err(Error::unavailable(format!("table {table}: commit")).with_source(error)),
    }
}

fn is_conflict(error: &DeltaTableError) -> bool {
    use DeltaTableError as E;
    use TransactionError as T;
    match error {
        E::VersionAlreadyExists(_) => true,
        E::Transaction { source } => matches!(
            source,
            T::CommitConflict(_) | T::MaxCommitAttempts(_) | T::VersionAlreadyExists(_)
        ),
        E::ObjectStore { source } => {
            matches!(source, object_store::Error::AlreadyExists { .. })
        }
        _ => false,
    }
}

/// Commits in an attempt: sees its own epoch in a fresh snapshot, commits on that, and does so again when somebody else was
/// faster. `make` makes the change for each snapshot. Returns a version of the log at which the epoch was the highest.
///
/// # Errors
/// `Fenced` if a higher epoch was issued; `Unavailable` if it cannot be told whether it landed, or others are always faster.
pub async fn commit(
    lake: &Lake,
    table: &TableName,
    own: Epoch,
    ledger: &LedgerFile,
    mut make: impl FnMut(&Opened) -> Result<Change>,
) -> Result<u64> {
    let mut wait = WAIT_FIRST;
    for _ in 0..TRIES_MAX {
        let opened = lake.open(table, None).await?;
        check_epoch(&opened, table, own).await?;
        let change = make(&opened)?;
        let tried = try_commit(lake, table, &opened, Condition::Holds(own), ledger, change);
        if let Tried::Landed(version) = tried.await? {
            return Ok(version);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MOST);
    }
    Err(Error::unavailable(format!(
        "table {table}: other writers were faster {TRIES_MAX} times"
    )))
}

/// Checks that an attempt is the newest.
///
/// # Errors
/// `Fenced` if it is not.
pub async fn check_epoch(opened: &Opened, table: &TableName, own: Epoch) -> Result<()> {
    let newest = epoch(opened).await?;
    if newest == own {
        return Ok(());
    }
    if newest < own {
        return Err(Error::corrupt(format!(
            "table {table}: epoch {own} was issued and the log has {newest}; was the table replaced?"
        )));
    }
    let by = crate::ledger::Ledger::load(opened)
        .await
        .ok()
        .and_then(|ledger| {
            ledger
                .entries
                .into_iter()
                .rev()
                .find_map(|entry| match entry.event {
                    crate::ledger::Event::Attach(claim) => {
                        Some(format!("run {} of agent {}", claim.run, claim.agent))
                    }
                    _ => None,
                })
        });
    let by = by.unwrap_or_else(|| "a newer attempt".to_owned());
    Err(Error::fenced(format!(
        "table {table}: epoch {own} is over, {by} has epoch {newest}"
    )))
}

/// The wait between tries of an attach.
pub async fn pause(attempt: u32) {
    let wait = WAIT_FIRST * 2u32.pow(attempt.min(6));
    tokio::time::sleep(wait.min(WAIT_MOST)).await;
}

/// How often an attach tries to raise the epoch.
pub const ATTACH_TRIES_MAX: u32 = TRIES_MAX;
