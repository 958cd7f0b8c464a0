//! Commits to a Delta table, each conditional on the epoch of its attempt within the same act.

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use delta_kernel::Snapshot;
use deltalake::DeltaTableError;
use deltalake::checkpoints::cleanup_expired_logs_for;
use deltalake::kernel::transaction::{CommitData, TransactionError};
use deltalake::kernel::{Action, Transaction};
use deltalake::logstore::CommitOrBytes;
use deltalake::protocol::{DeltaOperation, SaveMode};
use strait_common::ids::{Epoch, TableName};
use strait_common::key::PartitionKey;
use strait_common::{Context, Error, Kind, OrError, Result};
use uuid::Uuid;

use crate::features;
use crate::ledger::{EPOCH_ID, LedgerFile, epoch, transaction};
use crate::table::{LOG, Lake, Opened};

/// Attempts of one commit before it is reported as temporary: foreign writers commit too.
const TRIES_MAX: u32 = 30;
/// The first wait after a conflict, doubled up to the longest.
const WAIT_FIRST: Duration = Duration::from_millis(2);
const WAIT_MOST: Duration = Duration::from_millis(200);
/// Commits between two table checkpoints where the table does not say, and how long entries of the log are kept: Delta's own.
const CHECKPOINT_INTERVAL: u64 = 100;
const LOG_RETENTION: Duration = Duration::from_secs(30 * 86_400);

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
    let data = CommitData::new(change.actions, operation, HashMap::new(), transactions);
    let error = match write_entry(opened, &data).await {
        Ok(version) => {
            maintain(opened, version).await;
            return Ok(Tried::Landed(version));
        }
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
    if is_conflict(&error) {
        return Ok(Tried::Lost);
    }
    Err(failed(table, "commit", error))
}

/// What a commit that did not land, and was not too late, has failed with.
pub fn failed(table: &TableName, act: &str, error: DeltaTableError) -> Error {
    let kind = match &error {
        DeltaTableError::Transaction {
            source:
                TransactionError::UnsupportedTableFeatures(_)
                | TransactionError::TableFeaturesRequired(_)
                | TransactionError::DeltaTableAppendOnly,
        } => Kind::Refused,
        _ => Kind::Unavailable,
    };
    Error::new(kind, format!("table {table}: {act}")).with_source(error)
}

/// Writes the entry after the snapshot's, if that is the newest still. Whoever was faster has the name of the entry, or one after it: the log is cleaned up from its
/// oldest end.
async fn write_entry(opened: &Opened, data: &CommitData) -> Result<u64, DeltaTableError> {
    let log = opened.log_store();
    let newest = log.get_latest_version(opened.version()).await?;
    if newest != opened.version() {
        return Err(DeltaTableError::VersionAlreadyExists(newest));
    }
    let entry = CommitOrBytes::LogBytes(data.get_bytes()?);
    let written = log.write_commit_entry(newest + 1, entry, Uuid::new_v4());
    written.await?;
    Ok(newest + 1)
}

/// Makes a table checkpoint every so many commits, and removes what is old of the log. Neither is needed for what was committed.
async fn maintain(opened: &Opened, version: u64) {
    let properties = opened.snapshot().table_properties();
    let interval = properties
        .checkpoint_interval
        .map_or(CHECKPOINT_INTERVAL, NonZero::get);
    if !(version + 1).is_multiple_of(interval) {
        return;
    }
    let (engine, from) = (
        opened.log_store().engine(None),
        Arc::clone(opened.snapshot()),
    );
    let checkpoint = move || {
        let newest = Snapshot::builder_from(from).at_version(version);
        newest
            .build(engine.as_ref())?
            .checkpoint(engine.as_ref(), None)
    };
    match tokio::task::spawn_blocking(checkpoint).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, version, "a table checkpoint could not be made; reading the log takes longer");
            return;
        }
        Err(error) => {
            tracing::error!(%error, version, "a table checkpoint could not be made");
            return;
        }
    }
    if !properties.enable_expired_log_cleanup.unwrap_or(true) {
        return;
    }
    let kept = properties.log_retention_duration.unwrap_or(LOG_RETENTION);
    let kept_ms = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
    let until_ms = chrono::Utc::now()
        .timestamp_millis()
        .saturating_sub(kept_ms);
    let log = opened.log_store().as_ref();
    if let Err(error) = cleanup_expired_logs_for(version, log, until_ms, None).await {
        tracing::warn!(%error, version, "old entries of the log could not be removed");
    }
}

/// Whether somebody else was faster.
pub fn is_conflict(error: &DeltaTableError) -> bool {
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
/// faster. The files of the partitions that are `replaced` go, and `adds` come, made for each snapshot. Returns a version of the log at which the epoch was the highest.
///
/// # Errors
/// `Fenced` if a higher epoch was issued; `Unavailable` if it cannot be told whether it landed, or others are always faster.
pub async fn commit(
    lake: &Lake,
    table: &TableName,
    own: Epoch,
    ledger: &LedgerFile,
    replaced: &HashSet<PartitionKey>,
    adds: impl Fn(&Opened) -> Result<Vec<Action>>,
) -> Result<u64> {
    let mut wait = WAIT_FIRST;
    for _ in 0..TRIES_MAX {
        let opened = lake.open(table, None).await?;
        check_epoch(&opened, table, own).await?;
        let removes = opened.removes(replaced).await?;
        let removes = removes.into_iter().map(Action::Remove);
        let change = Change {
            actions: removes.chain(adds(&opened)?).collect(),
            replaces: !replaced.is_empty(),
        };
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
