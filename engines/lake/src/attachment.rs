//! One attempt on one table of the lake.
//!
//! How a partition is published, and why a crash at any point is harmless:
//!
//! 1. Its rows are in files of the stage, synced: those of checkpoints one by one, what came after the last checkpoint with all partitions that are published together. A crash: the next attach of the run keeps those that a stage record covers and removes the others.
//! 2. A ledger file names them, their places and the receipt; synced. It does not count yet. A crash: as before, and the next attach removes the file.
//! 3. The files are moved to their places; the directories are synced. No reader looks at files that the log does not name. A crash: the next attach moves
//!    them back to the stage, by the ledger file, and goes on as before.
//! 4. The Delta commit adds them, with the ledger file's transaction and the epoch's. Before it nothing of this is visible, after it everything is, and
//!    the ledger file counts.
//! 5. The stage record is removed. A crash: the next attach sees the receipt in the ledger and removes the record.
//!
//! Partitions that finish while a commit is under way go together into the next one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use deltalake::kernel::{Action, Add};
use futures::StreamExt;
use strait_common::clock::now_ns;
use strait_common::cpu::CpuPool;
use strait_common::engine::{
    Attachment, Begun, Confirmed, Disposition, Outcome, Partition, Position, Receipt, Stream,
};
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::{Context, Error, Kind, OrError, Result};
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::commit::{check_epoch, commit};
use crate::disk::{Step, Together};
use crate::divisions::{Divisions, Unnamed};
use crate::features;
use crate::ledger::{Entry, Equal, Event, Ledger, LedgerFile, Published};
use crate::listing::Listing;
use crate::receipts::Receipts;
use crate::stage::{Fresh, Stage, StageRecord, StagedFile};
use crate::table::{LOG, Lake, Opened, check_add, check_columns, directory_name, values_of};
use crate::types::Mapping;
use crate::writer::{Place, Writer};

/// Partitions that may wait for a commit, and that go into one.
const GROUP_MAX: usize = 1000;
/// Where partitions come in numbers, a commit waits for more of them: so many times as long as the one before it took, and no longer than this.
const LINGER_COMMITS: u32 = 3;
const LINGER_MAX: Duration = Duration::from_millis(500);

/// What an attempt and its writers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) lake: Lake,
    pub(crate) cpu: CpuPool,
    pub(crate) table: TableName,
    pub(crate) directory: PathBuf,
    pub(crate) run: RunId,
    pub(crate) epoch: Epoch,
    pub(crate) mapping: Mapping,
    pub(crate) divisions: Divisions,
    pub(crate) append_only: bool,
    pub(crate) stage: Stage,
    /// This run's receipts: as of the attach, and what this attempt has published since. Nobody else can add to them while the
    /// epoch is ours.
    pub(crate) committed: Mutex<Receipts>,
    /// The receipts of other runs that are in effect, by key, the newest of a key last.
    pub(crate) earlier: Vec<(RunId, Receipt)>,
    /// The partitions that this run has removed and not written since.
    pub(crate) dropped: Mutex<BTreeSet<PartitionKey>>,
    /// Positions as of the attach, and of this attempt since. The stage has one record for each, and no other.
    pub(crate) records: Mutex<BTreeMap<PartitionKey, StageRecord>>,
    pub(crate) open: Mutex<HashSet<PartitionKey>>,
    /// Directories of partitions that this attempt has made durable in those above them.
    pub(crate) kept: Arc<Mutex<HashSet<PathBuf>>>,
    /// The newest version of the log in which our epoch was seen as the highest.
    pub(crate) seen: AtomicU64,
    /// For making files durable together.
    pub(crate) together: Arc<Together>,
    /// The columns of the file that came last, of those that come as they are.
    pub(crate) last_file: Arc<Mutex<Option<SchemaRef>>>,
    /// This attempt has ended its claim, or is about to. No other object writes with its epoch, so this needs no place in the store.
    pub(crate) ended: AtomicBool,
}

/// An attempt.
#[derive(Debug)]
pub struct LakeAttachment {
    shared: Arc<Shared>,
    commits: mpsc::Sender<Request>,
    /// The table's unnamed files, once they have been asked for.
    unnamed: OnceCell<Unnamed>,
    /// The committer; it ends with the attempt.
    _committer: JoinSet<()>,
}

/// A partition that waits to be published.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) published: Published,
    pub(crate) files: Vec<StagedFile>,
    /// The last of them that are not durable: what came after the last checkpoint.
    pub(crate) fresh: Vec<Fresh>,
    pub(crate) done: oneshot::Sender<Result<()>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an attach has found.
pub struct Found {
    /// The table at the version that the attach committed, or later.
    pub opened: Opened,
    /// Its ledger then.
    pub ledger: Ledger,
}

impl LakeAttachment {
    /// The attempt with this epoch: tidies up what older ones of the run left.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails.
    pub async fn new(
        lake: Lake,
        cpu: CpuPool,
        table: TableName,
        run: RunId,
        epoch: Epoch,
        found: Found,
    ) -> Result<LakeAttachment> {
        let Found { opened, ledger } = found;
        let stage = Stage::new(&opened.directory, run, lake.disk().clone());
        let receipts = ledger.receipts_of(run);
        let mut committed = Receipts::default();
        receipts
            .values()
            .for_each(|receipt| committed.insert(receipt));
        // A checkpoint that came after the end of its claim, late, means nothing: another run may have copied the partition since.
        let ended = (ledger.entries.iter())
            .filter(|entry| entry.run == run && matches!(entry.event, Event::Complete(_)))
            .map(|entry| entry.epoch)
            .max();
        let accounts = ledger.accounts().into_values();
        let earlier = accounts
            .flat_map(|account| account.receipts)
            .filter(|(owner, _)| *owner != run)
            .collect();
        let dropped = ledger.dropped_by(run);
        let (tidied, disk) = (stage.clone(), lake.disk().clone());
        let (directory, done) = (
            opened.directory.clone(),
            receipts.into_keys().collect::<HashSet<_>>(),
        );
        // A fenced attempt may have written a ledger file, late, about files that a newer one has published from the same position: those stay.
        let published: HashSet<String> = (ledger.entries.iter())
            .filter_map(|entry| match &entry.event {
                Event::Publish(partitions) => Some(partitions),
                _ => None,
            })
            .flat_map(|partitions| partitions.iter().flat_map(|published| &published.files))
            .map(|file| file.path.clone())
            .collect();
        let (records, together) = cpu
            .run(move || {
                for (file, entry) in ledger.pending {
                    let Some(entry) = entry else {
                        // Torn: it never counted, and nothing was moved before it was durable. Whose it is its path says.
                        if file.app_id.starts_with(&format!("strait/{run}/")) {
                            disk.remove(&file.path)?;
                        }
                        continue;
                    };
                    if entry.run != run || entry.epoch >= epoch {
                        continue;
                    }
                    if let Event::Publish(partitions) = &entry.event {
                        move_back(&directory, &tidied, partitions, &published)?;
                    }
                    disk.remove(&file.path)?;
                }
                let mut records = tidied.records()?;
                records.retain(|record| {
                    !done.contains(&record.key) && ended.is_none_or(|ended| record.epoch > ended)
                });
                tidied.sweep(epoch, &records)?;
                Ok((records, tidied.together()?))
            })
            .await?;
        let shared = Arc::new(Shared {
            cpu,
            table,
            directory: opened.directory.clone(),
            run,
            epoch,
            mapping: opened.mapping.clone(),
            divisions: opened.divisions.clone(),
            append_only: features::append_only(&opened),
            stage,
            committed: Mutex::new(committed),
            earlier,
            dropped: Mutex::new(dropped),
            records: Mutex::new(
                records
                    .into_iter()
                    .map(|record| (record.key.clone(), record))
                    .collect(),
            ),
            open: Mutex::default(),
            kept: Arc::default(),
            seen: AtomicU64::new(opened.version()),
            together: Arc::new(together),
            last_file: Arc::default(),
            ended: AtomicBool::new(false),
            lake,
        });
        let (commits, queue) = mpsc::channel(GROUP_MAX);
        let mut committer = JoinSet::new();
        committer.spawn(run_committer(Arc::clone(&shared), queue));
        Ok(LakeAttachment {
            shared,
            commits,
            unnamed: OnceCell::new(),
            _committer: committer,
        })
    }
}

/// Files that were moved for a commit that did not happen go back to the stage.
fn move_back(
    table: &Path,
    stage: &Stage,
    partitions: &[Published],
    committed: &HashSet<String>,
) -> Result<()> {
    let files = partitions.iter().flat_map(|published| &published.files);
    for file in files.filter(|file| !committed.contains(&file.path)) {
        stage.take_back(&table.join(&file.path), &file.staged)?;
    }
    stage.sync()
}

impl Shared {
    /// Fails when this attempt may not write any more: it has ended its claim, or was overtaken.
    pub(crate) async fn check_fence(&self) -> Result<()> {
        if self.ended.load(Ordering::Acquire) {
            return Err(Error::fenced(format!(
                "run {} has ended its claim on table {}",
                self.run, self.table
            )));
        }
        self.check_overtaken().await
    }

    /// Fails when a newer attempt exists. Cheap while nobody commits: then the next entry of the log is not there. (That it is there no
    /// more shows in the entry before it: a log is cleaned up from its oldest end.)
    async fn check_overtaken(&self) -> Result<()> {
        let log = self.directory.join(LOG);
        let there = |version: u64| log.join(format!("{version:020}.json")).exists();
        let seen = self.seen.load(Ordering::Acquire);
        if !there(seen + 1) && there(seen) {
            return Ok(());
        }
        let opened = self.lake.open(&self.table, None).await?;
        check_epoch(&opened, &self.table, self.epoch).await?;
        self.seen.fetch_max(opened.version(), Ordering::AcqRel);
        Ok(())
    }

    /// What the disk says to an attempt that was overtaken is not the reason: the newer attempt has tidied up below it.
    pub(crate) async fn blame<T>(&self, result: Result<T>) -> Result<T> {
        let Err(error) = result else { return result };
        if error.kind() != Kind::Fenced
            && let Err(fenced) = self.check_fence().await
            && fenced.kind() == Kind::Fenced
        {
            return Err(fenced.with_source(error));
        }
        Err(error)
    }

    pub(crate) fn returns(&self) -> Result<()> {
        self.lake.disk().step(Step::Return)
    }

    /// Fails where rows of the table must never go.
    fn removable(&self) -> Result<()> {
        if self.append_only {
            return Err(Error::refused(format!(
                "table {}: {}",
                self.table,
                features::APPEND_ONLY
            )));
        }
        Ok(())
    }

    async fn publish(
        &self,
        group: &[(Published, Vec<StagedFile>)],
        fresh: Vec<Fresh>,
    ) -> Result<()> {
        let entry = Entry::new(
            self.run,
            self.epoch,
            Event::Publish(
                group
                    .iter()
                    .map(|(published, _)| published.clone())
                    .collect(),
            ),
        );
        let ledger = LedgerFile::new(&self.directory, self.run);
        let (file, disk, stage, directory, kept, together) = (
            ledger.clone(),
            self.lake.disk().clone(),
            self.stage.clone(),
            self.directory.clone(),
            Arc::clone(&self.kept),
            Arc::clone(&self.together),
        );
        let late: HashSet<&str> = fresh.iter().map(|fresh| fresh.file.name.as_str()).collect();
        let staged: Vec<String> = group
            .iter()
            .flat_map(|(_, files)| files.iter().map(|file| file.name.clone()))
            .filter(|name| !late.contains(name.as_str()))
            .collect();
        // A fenced attempt must not move anything: the newer one may be looking at the stage.
        self.check_fence().await?;
        let began = Instant::now();
        let schemas = self
            .cpu
            .run(move || {
                let schemas = stage.schemas(&staged, &fresh)?;
                stage.make_durable(&together, &fresh)?;
                drop(fresh);
                file.write(&disk, &entry)?;
                let Event::Publish(partitions) = &entry.event else {
                    return Ok(schemas);
                };
                // A directory that is there may have been made by an attempt that died before it was durable.
                let mut unsynced = BTreeSet::new();
                let mut below = Vec::new();
                for file in partitions.iter().flat_map(|published| &published.files) {
                    let place = directory.join(&file.path);
                    let parent = place
                        .parent()
                        .ok_or_else(|| Error::internal("a file without a directory"))?;
                    if unsynced.insert(parent.to_owned()) {
                        disk.make_directories(parent)?;
                    }
                    for made in parent.ancestors().take_while(|made| *made != directory) {
                        if !lock(&kept).contains(made) {
                            unsynced.extend(made.parent().map(Path::to_owned));
                            below.push(made.to_owned());
                        }
                    }
                    disk.rename(&stage.path(&file.staged), &place)?;
                }
                together.sync(&disk, &[], &unsynced)?;
                lock(&kept).extend(below);
                Ok(schemas)
            })
            .await?;
        let files_ms = began.elapsed().as_millis() as u64;
        let replaced: HashSet<PartitionKey> = group
            .iter()
            .filter(|(published, _)| published.disposition == Disposition::Replace)
            .map(|(published, _)| published.receipt.key.clone())
            .collect();
        let adds = |opened: &Opened| {
            for (file, schema) in &schemas {
                check_columns(opened, schema).with_context(|| format!("staged file {file}"))?;
            }
            let mut actions = Vec::new();
            for (published, files) in group {
                let key = &published.receipt.key;
                for (file, staged) in published.files.iter().zip(files) {
                    let values = opened
                        .values(staged.own.as_ref().unwrap_or(key))
                        .with_context(|| format!("partition {}", key.label()))?;
                    let add = Add {
                        path: file.path.clone(),
                        partition_values: values,
                        size: i64::try_from(staged.size).or_error(Kind::Internal, "size")?,
                        modification_time: now_ns() / 1_000_000,
                        data_change: true,
                        stats: Some(staged.stats.clone()),
                        ..Add::default()
                    };
                    check_add(opened, &add)?;
                    actions.push(Action::Add(add));
                }
            }
            Ok(actions)
        };
        let (lake, table, epoch) = (&self.lake, &self.table, self.epoch);
        let version = commit(lake, table, epoch, &ledger, &replaced, adds).await?;
        tracing::debug!(table = %self.table, partitions = group.len(), version, files_ms = files_ms, all_ms = began.elapsed().as_millis() as u64, "published");
        self.seen.fetch_max(version, Ordering::AcqRel);
        {
            let mut committed = lock(&self.committed);
            let mut dropped = lock(&self.dropped);
            for (published, _) in group {
                committed.insert(&published.receipt);
                dropped.remove(&published.receipt.key);
            }
        }
        // What is left of the stage means nothing any more; a crash here leaves it to the next attach.
        let left: Vec<StageRecord> = {
            let mut records = lock(&self.records);
            group
                .iter()
                .filter_map(|(published, _)| records.remove(&published.receipt.key))
                .collect()
        };
        if left.is_empty() {
            return Ok(());
        }
        let stage = self.stage.clone();
        let forget = move |record: &StageRecord| stage.forget(&record.key, record.epoch);
        self.cpu.run(move || left.iter().try_for_each(forget)).await
    }
}

/// Waits for more partitions to publish together, at most so long: a commit costs as much for one as for a hundred.
async fn gather(queue: &mut mpsc::Receiver<Request>, waiting: &mut Vec<Request>, linger: Duration) {
    let until = Instant::now() + linger;
    while waiting.len() < GROUP_MAX {
        let room = GROUP_MAX - waiting.len();
        match tokio::time::timeout_at(until, queue.recv_many(waiting, room)).await {
            Ok(more) if more > 0 => {}
            _ => return,
        }
    }
}

/// Publishes what waits, as one commit, and again.
async fn run_committer(shared: Arc<Shared>, mut queue: mpsc::Receiver<Request>) {
    let mut waiting = Vec::new();
    let mut linger = Duration::ZERO;
    while queue.recv_many(&mut waiting, GROUP_MAX).await > 0 {
        gather(&mut queue, &mut waiting, linger).await;
        let (began, many) = (Instant::now(), waiting.len() > 1);
        let mut group = Vec::with_capacity(waiting.len());
        let mut unwritten = Vec::new();
        let mut answers = Vec::with_capacity(waiting.len());
        for Request {
            published,
            files,
            fresh,
            done,
        } in waiting.drain(..)
        {
            group.push((published, files));
            unwritten.extend(fresh);
            answers.push(done);
        }
        let result = shared.blame(shared.publish(&group, unwritten).await).await;
        let result = result.and_then(|()| shared.returns());
        linger = match many {
            true => (began.elapsed() * LINGER_COMMITS).min(LINGER_MAX),
            false => Duration::ZERO,
        };
        for done in answers {
            let answer = match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(Error::new(error.kind(), error.to_string())),
            };
            // Whoever does not wait any more reads it in the ledger.
            let _ = done.send(answer);
        }
    }
}

#[async_trait]
impl Attachment for LakeAttachment {
    fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    async fn positions(&self) -> Result<Stream<Position>> {
        let shared = &self.shared;
        let mut positions: Vec<Result<Position>> = Vec::new();
        let own = lock(&shared.committed).all()?;
        let done: HashSet<&PartitionKey> = own.iter().map(|receipt| &receipt.key).collect();
        positions.extend(
            shared
                .earlier
                .iter()
                .filter(|(_, receipt)| !done.contains(&receipt.key))
                .map(|(run, receipt)| Ok(Position::committed(*run, receipt))),
        );
        let own = own.iter();
        positions.extend(own.map(|receipt| Ok(Position::committed(shared.run, receipt))));
        let dropped = lock(&shared.dropped).clone().into_iter();
        positions.extend(dropped.map(|key| Ok(Position::dropped(shared.run, key))));
        positions.extend(
            lock(&shared.records)
                .values()
                .map(|record| record.position(shared.run)),
        );
        positions.sort_by(|a, b| {
            a.as_ref()
                .ok()
                .map(|position| &position.key)
                .cmp(&b.as_ref().ok().map(|position| &position.key))
        });
        Ok(futures::stream::iter(positions).boxed())
    }

    async fn begin(
        &self,
        partition: &Partition,
        disposition: Disposition,
        from: Option<&Position>,
    ) -> Result<Begun> {
        self.shared
            .blame(self.do_begin(partition, disposition, from).await)
            .await
    }

    async fn drop_partition(&self, key: &PartitionKey) -> Result<()> {
        self.shared.blame(self.do_drop_partition(key).await).await
    }

    async fn confirm(&self, confirmed: &[Confirmed]) -> Result<()> {
        self.shared.blame(self.do_confirm(confirmed).await).await
    }

    async fn complete(&self, outcome: Outcome) -> Result<()> {
        self.shared.blame(self.do_complete(outcome).await).await
    }
}

impl LakeAttachment {
    async fn do_begin(
        &self,
        partition: &Partition,
        disposition: Disposition,
        from: Option<&Position>,
    ) -> Result<Begun> {
        let shared = &self.shared;
        shared.check_fence().await?;
        let key = &partition.key;
        if let Some(receipt) = lock(&shared.committed).get(key) {
            return Ok(Begun::Already(receipt));
        }
        let place = self.place(key, disposition);
        let place = place.with_context(|| format!("partition {}", key.label()))?;
        if disposition == Disposition::Replace {
            shared.removable()?;
            self.replaceable(key).await?;
        }
        let base = match from {
            None => {
                let discarded = lock(&shared.records).remove(key);
                if let Some(record) = discarded {
                    let stage = shared.stage.clone();
                    let forget = move || stage.forget(&record.key, record.epoch);
                    shared.cpu.run(forget).await?;
                }
                None
            }
            Some(from) => {
                let record = lock(&shared.records).get(key).cloned();
                let position = record
                    .as_ref()
                    .map(|record| record.position(shared.run))
                    .transpose()?;
                if position.as_ref() != Some(from) || from.version != partition.version {
                    return Err(Error::corrupt(format!(
                        "partition {}: the ledger has no such position",
                        key.label()
                    )));
                }
                record
            }
        };
        if !lock(&shared.open).insert(key.clone()) {
            return Err(Error::refused(format!(
                "partition {} is being written already",
                key.label()
            )));
        }
        Ok(Begun::Writer(Box::new(Writer::new(
            Arc::clone(shared),
            self.commits.clone(),
            partition,
            disposition,
            place,
            base,
        ))))
    }

    /// Where rows of this key go: to its own place, or told apart by the table's division, which is another one.
    fn place(&self, key: &PartitionKey, disposition: Disposition) -> Result<Place> {
        let shared = &self.shared;
        let (divisions, mapping) = (&shared.divisions, &shared.mapping);
        let own = divisions.check(key, mapping.original());
        if own.is_err() && disposition == Disposition::Append && divisions.by_values_alone() {
            return Ok(Place::Apart);
        }
        let values = values_of(divisions, mapping, key)?;
        Ok(Place::Own(directory_name(key, &values)))
    }

    /// Fails early where a commit would find that files of nobody knows which partitions are in the way: such tables are looked at once in an attempt, and each commit looks again.
    async fn replaceable(&self, key: &PartitionKey) -> Result<()> {
        let shared = &self.shared;
        if shared.divisions.by_values_alone() {
            return Ok(());
        }
        let list = async {
            let opened = shared.lake.open(&shared.table, None).await?;
            let listing = Listing::load(&opened, &shared.table).await?;
            Ok::<_, Error>(listing.into_unnamed())
        };
        let unnamed = self.unnamed.get_or_try_init(|| list).await?;
        let of_key = shared.divisions.values_of(key);
        unnamed.check(&shared.table, |values| *values == of_key)
    }

    async fn do_drop_partition(&self, key: &PartitionKey) -> Result<()> {
        let shared = &self.shared;
        let ledger = LedgerFile::new(&shared.directory, shared.run);
        let entry = Entry::new(shared.run, shared.epoch, Event::Drop(key.clone()));
        shared.check_fence().await?;
        shared.removable()?;
        let (file, disk) = (ledger.clone(), shared.lake.disk().clone());
        shared.cpu.run(move || file.write(&disk, &entry)).await?;
        let nothing = |_: &Opened| Ok(Vec::new());
        let dropped = HashSet::from([key.clone()]);
        let (lake, table, epoch) = (&shared.lake, &shared.table, shared.epoch);
        commit(lake, table, epoch, &ledger, &dropped, nothing).await?;
        lock(&shared.committed).remove(key);
        lock(&shared.dropped).insert(key.clone());
        shared.returns()
    }

    async fn do_confirm(&self, confirmed: &[Confirmed]) -> Result<()> {
        let shared = &self.shared;
        shared.check_fence().await?;
        // Foreign writers may change a partition at any time: what is confirmed are files that were listed with the version that was read, and whoever changes them later
        // leaves other files than the ledger speaks of.
        let opened = shared.lake.open(&shared.table, None).await?;
        let listing = Listing::load(&opened, &shared.table).await?;
        let mut equal = Vec::with_capacity(confirmed.len());
        for confirmed in confirmed {
            let (version, files) = listing.files(&confirmed.receipt.key)?;
            if version == confirmed.version {
                equal.push(Equal {
                    receipt: confirmed.receipt.clone(),
                    files: files.into_iter().map(|file| file.path).collect(),
                });
            }
        }
        if equal.is_empty() {
            return Ok(());
        }
        self.record(Event::Confirm(equal)).await?;
        shared.returns()
    }

    /// Makes an event count that neither adds nor removes a file.
    async fn record(&self, event: Event) -> Result<()> {
        let shared = &self.shared;
        let ledger = LedgerFile::new(&shared.directory, shared.run);
        let entry = Entry::new(shared.run, shared.epoch, event);
        let (file, disk) = (ledger.clone(), shared.lake.disk().clone());
        shared.cpu.run(move || file.write(&disk, &entry)).await?;
        let nothing = |_: &Opened| Ok(Vec::new());
        let (lake, table, epoch) = (&shared.lake, &shared.table, shared.epoch);
        commit(lake, table, epoch, &ledger, &HashSet::new(), nothing).await?;
        Ok(())
    }

    async fn do_complete(&self, outcome: Outcome) -> Result<()> {
        let shared = &self.shared;
        // What is late of this attempt's own acts must not leave anything behind the end.
        shared.ended.store(true, Ordering::Release);
        shared.check_overtaken().await?;
        self.record(Event::Complete(outcome)).await?;
        lock(&shared.records).clear();
        let stage = shared.stage.clone();
        shared.cpu.run(move || stage.clear()).await?;
        shared.returns()
    }
}
