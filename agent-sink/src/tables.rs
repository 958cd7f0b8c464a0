//! The tables this process writes to: the newest attachment of each, and the finishes that are under way.
//!
//! A finish is never cancelled: it runs on a task that the table owns, whoever asked and whether or not they still wait. An
//! attach waits for the table's finishes first, so that the ledger it reads has no act of this process in flight; what another process has in
//! flight is fenced by the epoch in the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strait_common::engine::{Attachment, Claim, Finished, PartitionWriter, Receipt, Sink};
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::{Error, Result};
use tokio_util::task::TaskTracker;

/// A table of one of this agent's stores.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableId {
    /// The store's name in the configuration.
    pub store: String,
    /// The table in it.
    pub table: TableName,
}

/// The newest attempt on a table in this process.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Whose it is.
    pub run: RunId,
    /// The way to write.
    pub attachment: Arc<dyn Attachment>,
    finishing: TaskTracker,
    /// A newer attempt is attaching: nothing more of this one is published, so that what the newer one waits for ends.
    superseded: Arc<AtomicBool>,
}

impl Attached {
    /// Publishes a partition on a task of the table's, and waits for its answer. When the waiter is dropped the task runs on.
    ///
    /// # Errors
    /// What the engine says, which means "unknown"; `Fenced` if a newer attempt has begun to attach; `Internal` if it panics.
    pub async fn finish(
        &self,
        writer: Box<dyn PartitionWriter>,
        receipt: Receipt,
    ) -> Result<Finished> {
        // Counted before the question: an attach that has set the flag waits for what is counted.
        let counted = self.finishing.token();
        if self.superseded.load(Ordering::SeqCst) {
            return Err(Error::fenced(format!(
                "run {}: a newer attempt has attached",
                self.run
            )));
        }
        let task = self.finishing.spawn(async move {
            let _counted = counted;
            writer.finish(receipt).await
        });
        task.await
            .map_err(|error| Error::internal("publish a partition").with_source(error))?
    }
}

impl Attached {
    /// The attach that would have taken its place has failed.
    fn goes_on(&self) {
        self.finishing.reopen();
        self.superseded.store(false, Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
struct Entry {
    /// Held while an attach is under way: the newest attempt waits for the one before it.
    attaching: Arc<tokio::sync::Mutex<()>>,
    newest: Option<Attached>,
}

/// All tables that were attached to since this process started, and the attachments of those whose claims are open.
#[derive(Debug)]
pub struct Tables {
    /// A std mutex: it is held for look-ups only, never across an await.
    entries: Mutex<HashMap<TableId, Entry>>,
    finish_wait_max: Duration,
}

impl Tables {
    /// None yet. An attach waits at most this long for older finishes.
    pub fn new(finish_wait_max: Duration) -> Tables {
        Tables {
            entries: Mutex::default(),
            finish_wait_max,
        }
    }

    /// Takes or takes over the claim on a table.
    ///
    /// # Errors
    /// `Unavailable` if finishes of an older attempt do not end in time; else what the engine says.
    pub async fn attach(
        &self,
        id: &TableId,
        sink: &Arc<dyn Sink>,
        claim: &Claim,
    ) -> Result<Attached> {
        let attaching = self.attaching(id);
        let _attaching = attaching.lock().await;
        let older = self.with(id, |entry| entry.newest.clone());
        if let Some(older) = &older {
            // Who will be refused must not disturb the run that owns the table.
            if older.run != claim.run
                && let Some(held) = sink.claim(&id.table).await?
                && held.run != claim.run
            {
                return Err(Error::refused(format!(
                    "run {} of agent {} owns table {}; wait for it, or abandon it",
                    held.run, held.agent, id.table
                )));
            }
            older.superseded.store(true, Ordering::SeqCst);
            older.finishing.close();
            if tokio::time::timeout(self.finish_wait_max, older.finishing.wait())
                .await
                .is_err()
            {
                older.goes_on();
                return Err(Error::unavailable(format!(
                    "table {}: {} partitions of an older attempt are still being published",
                    id.table,
                    older.finishing.len()
                )));
            }
        }
        let attachment = match sink.attach(claim).await {
            Ok(attachment) => attachment,
            Err(error) => {
                // If it raised the epoch before it failed, the store fences the older attempt.
                if let Some(older) = &older {
                    older.goes_on();
                }
                return Err(error);
            }
        };
        let attached = Attached {
            run: claim.run,
            attachment,
            finishing: TaskTracker::new(),
            superseded: Arc::new(AtomicBool::new(false)),
        };
        self.with(id, |entry| entry.newest = Some(attached.clone()));
        Ok(attached)
    }

    /// Held while nobody may attach to a table in this process.
    pub fn attaching(&self, id: &TableId) -> Arc<tokio::sync::Mutex<()>> {
        self.with(id, |entry| Arc::clone(&entry.attaching))
    }

    /// The attachment of this attempt.
    ///
    /// # Errors
    /// `Fenced` if a newer attempt has attached here, `Unavailable` if this process knows neither (it was restarted).
    pub fn attached(&self, id: &TableId, run: RunId, epoch: Epoch) -> Result<Attached> {
        let newest = self.with(id, |entry| entry.newest.clone());
        let known = newest
            .as_ref()
            .map(|newest| (newest.run, newest.attachment.epoch()));
        check_attempt(&id.table, known, run, epoch)?;
        newest.ok_or_else(|| Error::internal("an attempt that nobody knows is current"))
    }

    /// The claim of this attempt has ended: what its attachment knows of the table is let go of, unless something of it is still being published. Whoever asks for it now
    /// hears what he would hear after a restart of this process.
    pub fn ended(&self, id: &TableId, epoch: Epoch) {
        self.with(id, |entry| {
            let is_over = |newest: &mut Attached| {
                newest.attachment.epoch() == epoch && newest.finishing.is_empty()
            };
            entry.newest.take_if(is_over)
        });
    }

    /// Waits for all finishes of this process, for a clean stop. Cancel-safe.
    pub async fn finished(&self) {
        let trackers: Vec<TaskTracker> = {
            let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries
                .values()
                .filter_map(|entry| Some(entry.newest.as_ref()?.finishing.clone()))
                .collect()
        };
        for tracker in trackers {
            tracker.close();
            tracker.wait().await;
        }
    }

    fn with<T>(&self, id: &TableId, work: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        work(entries.entry(id.clone()).or_default())
    }
}

/// Whether an attempt is the newest on a table that a process knows of.
///
/// # Errors
/// `Fenced` if a newer one is known, `Unavailable` if neither is (the process was started since).
pub fn check_attempt(
    table: &TableName,
    newest: Option<(RunId, Epoch)>,
    run: RunId,
    epoch: Epoch,
) -> Result<()> {
    match newest {
        Some((owner, current)) if current == epoch && owner == run => Ok(()),
        Some((owner, current)) if current > epoch => Err(Error::fenced(format!(
            "table {table}: epoch {epoch} of run {run} is over, run {owner} has epoch {current}"
        ))),
        _ => Err(Error::unavailable(format!(
            "table {table}: this sink agent was started after epoch {epoch} was issued; attach again"
        ))),
    }
}
