//! One attempt on one table of the lake.
//!
//! How a partition is published, and why a crash at any point is harmless:
//!
//! 1. Its rows are in files of the stage, synced. A crash: the next attach of the run keeps those that a stage record covers and removes the others.
//! 2. A ledger file names them, their places and the receipt; synced. It does not count yet. A crash: as before, and the next attach removes the file.
//! 3. The files are moved to their places; the directories are synced. No reader looks at files that the log does not name. A crash: the next attach moves
//!    them back to the stage, by the ledger file, and goes on as before.
//! 4. The Delta commit adds them, with the ledger file's transaction and the epoch's. Before it nothing of this is visible, after it everything is, and
//!    the ledger file counts.
//! 5. The stage record is removed. A crash: the next attach sees the receipt in the ledger and removes the record.
//!
//! Partitions that finish while a commit is under way go together into the next one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, RecordBatch, Scalar};
use async_trait::async_trait;
use deltalake::kernel::{Action, Add};
use futures::StreamExt;
use strait_common::cpu::CpuPool;
use strait_common::engine::{
    Attachment, Begun, Cursor, Disposition, Finished, Mark, Outcome, Partition, PartitionWriter,
    Position, PositionState, Receipt, Stream,
};
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::{Context, Error, Kind, OrError, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::commit::{check_epoch, commit};
use crate::disk::Step;
use crate::features;
use crate::ledger::{Entry, Event, Ledger, LedgerFile, Published, PublishedFile};
use crate::partition_values::column_of;
use crate::stage::{FileWriter, Stage, StageRecord, StagedFile, to_hex};
use crate::table::{LOG, Lake, Opened, check_add, check_columns, directory_name};
use crate::types::{Mapping, same_type};

/// Partitions that may wait for a commit, and that go into one.
const GROUP_MAX: usize = 1000;

/// What an attempt and its writers share.
#[derive(Debug)]
struct Shared {
    lake: Lake,
    cpu: CpuPool,
    table: TableName,
    directory: PathBuf,
    run: RunId,
    epoch: Epoch,
    mapping: Mapping,
    append_only: bool,
    stage: Stage,
    /// This run's receipts: as of the attach, and what this attempt has published since. Nobody else can add to them while the
    /// epoch is ours.
    committed: Mutex<HashMap<PartitionKey, Receipt>>,
    /// The newest receipts of other runs.
    earlier: Vec<(RunId, Receipt)>,
    /// Positions as of the attach, and of this attempt since. The stage has one record for each, and no other.
    records: Mutex<BTreeMap<PartitionKey, StageRecord>>,
    open: Mutex<HashSet<PartitionKey>>,
    /// Directories of partitions that this attempt has made durable in those above them.
    kept: Arc<Mutex<HashSet<PathBuf>>>,
    /// The newest version of the log in which our epoch was seen as the highest.
    seen: AtomicU64,
    /// This attempt has ended its claim, or is about to. No other object writes with its epoch, so this needs no place in the store.
    ended: AtomicBool,
}

/// An attempt.
#[derive(Debug)]
pub struct LakeAttachment {
    shared: Arc<Shared>,
    commits: mpsc::Sender<Request>,
    /// The committer; it ends with the attempt.
    _committer: JoinSet<()>,
}

/// A partition that waits to be published.
#[derive(Debug)]
struct Request {
    published: Published,
    files: Vec<StagedFile>,
    done: oneshot::Sender<Result<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
        let committed = ledger.receipts_of(run);
        // A checkpoint that came after the end of its claim, late, means nothing: another run may have copied the partition since.
        let ended = (ledger.entries.iter())
            .filter(|entry| entry.run == run && matches!(entry.event, Event::Complete(_)))
            .map(|entry| entry.epoch)
            .max();
        let earlier = ledger
            .receipts()
            .into_values()
            .filter(|(owner, _)| *owner != run)
            .collect();
        let (tidied, disk) = (stage.clone(), lake.disk().clone());
        let (directory, done) = (
            opened.directory.clone(),
            committed.keys().cloned().collect::<HashSet<_>>(),
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
        let records = cpu
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
                Ok(records)
            })
            .await?;
        let shared = Arc::new(Shared {
            cpu,
            table,
            directory: opened.directory.clone(),
            run,
            epoch,
            mapping: opened.mapping.clone(),
            append_only: features::append_only(&opened),
            stage,
            committed: Mutex::new(committed),
            earlier,
            records: Mutex::new(
                records
                    .into_iter()
                    .map(|record| (record.key.clone(), record))
                    .collect(),
            ),
            open: Mutex::default(),
            kept: Arc::default(),
            seen: AtomicU64::new(opened.version()),
            ended: AtomicBool::new(false),
            lake,
        });
        let (commits, queue) = mpsc::channel(GROUP_MAX);
        let mut committer = JoinSet::new();
        committer.spawn(run_committer(Arc::clone(&shared), queue));
        Ok(LakeAttachment {
            shared,
            commits,
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
    async fn check_fence(&self) -> Result<()> {
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
    async fn blame<T>(&self, result: Result<T>) -> Result<T> {
        let Err(error) = result else { return result };
        if error.kind() != Kind::Fenced
            && let Err(fenced) = self.check_fence().await
            && fenced.kind() == Kind::Fenced
        {
            return Err(fenced.with_source(error));
        }
        Err(error)
    }

    fn returns(&self) -> Result<()> {
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

    async fn publish(&self, group: &[(Published, Vec<StagedFile>)]) -> Result<()> {
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
        let (file, disk, stage, directory, kept) = (
            ledger.clone(),
            self.lake.disk().clone(),
            self.stage.clone(),
            self.directory.clone(),
            Arc::clone(&self.kept),
        );
        let staged: Vec<String> = group
            .iter()
            .flat_map(|(_, files)| files.iter().map(|file| file.name.clone()))
            .collect();
        // A fenced attempt must not move anything: the newer one may be looking at the stage.
        self.check_fence().await?;
        let schemas = self
            .cpu
            .run(move || {
                let schemas = stage.schemas(&staged)?;
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
                    disk.make_directories(parent)?;
                    unsynced.insert(parent.to_owned());
                    for made in parent.ancestors().take_while(|made| *made != directory) {
                        if !lock(&kept).contains(made) {
                            unsynced.extend(made.parent().map(Path::to_owned));
                            below.push(made.to_owned());
                        }
                    }
                    disk.rename(&stage.path(&file.staged), &place)?;
                }
                unsynced
                    .iter()
                    .try_for_each(|directory| disk.sync_directory(directory))?;
                lock(&kept).extend(below);
                Ok(schemas)
            })
            .await?;
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
                let values = opened
                    .values(key)
                    .with_context(|| format!("partition {}", key.label()))?;
                for (file, staged) in published.files.iter().zip(files) {
                    let add = Add {
                        path: file.path.clone(),
                        partition_values: values.clone(),
                        size: i64::try_from(staged.size).or_error(Kind::Internal, "size")?,
                        modification_time: now_ms(),
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
        self.seen.fetch_max(version, Ordering::AcqRel);
        {
            let mut committed = lock(&self.committed);
            committed.extend(
                group.iter().map(|(published, _)| {
                    (published.receipt.key.clone(), published.receipt.clone())
                }),
            );
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

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// Publishes what waits, as one commit, and again.
async fn run_committer(shared: Arc<Shared>, mut queue: mpsc::Receiver<Request>) {
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, GROUP_MAX).await > 0 {
        let mut group = Vec::with_capacity(waiting.len());
        let mut answers = Vec::with_capacity(waiting.len());
        for Request {
            published,
            files,
            done,
        } in waiting.drain(..)
        {
            group.push((published, files));
            answers.push(done);
        }
        let result = shared.blame(shared.publish(&group).await).await;
        let result = result.and_then(|()| shared.returns());
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
        let committed = |run: RunId, receipt: &Receipt| Position {
            run,
            key: receipt.key.clone(),
            version: receipt.version.clone(),
            sequence: 0,
            cursor: Cursor::start(),
            rows: receipt.rows,
            digest: receipt.digest,
            state: PositionState::Committed(receipt.clone()),
        };
        let mut positions: Vec<Result<Position>> = Vec::new();
        let own = lock(&shared.committed).clone();
        positions.extend(
            shared
                .earlier
                .iter()
                .filter(|(_, receipt)| !own.contains_key(&receipt.key))
                .map(|(run, receipt)| Ok(committed(*run, receipt))),
        );
        positions.extend(
            own.values()
                .map(|receipt| Ok(committed(shared.run, receipt))),
        );
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
            return Ok(Begun::Already(receipt.clone()));
        }
        if disposition == Disposition::Replace {
            shared.removable()?;
        }
        let values = values_of(shared, key)?;
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
        Ok(Begun::Writer(Box::new(Writer {
            shared: Arc::clone(shared),
            commits: self.commits.clone(),
            key: key.clone(),
            version: partition.version.clone(),
            disposition,
            place: directory_name(key, &values),
            files: base.map(|record| record.files).unwrap_or_default(),
            file: None,
            mapping: None,
            rows: from.map_or(0, |from| from.rows),
        })))
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
        shared.returns()
    }

    async fn do_complete(&self, outcome: Outcome) -> Result<()> {
        let shared = &self.shared;
        let ledger = LedgerFile::new(&shared.directory, shared.run);
        let entry = Entry::new(shared.run, shared.epoch, Event::Complete(outcome));
        // What is late of this attempt's own acts must not leave anything behind the end.
        shared.ended.store(true, Ordering::Release);
        shared.check_overtaken().await?;
        let (file, disk) = (ledger.clone(), shared.lake.disk().clone());
        shared.cpu.run(move || file.write(&disk, &entry)).await?;
        let nothing = |_: &Opened| Ok(Vec::new());
        let (lake, table, epoch) = (&shared.lake, &shared.table, shared.epoch);
        commit(lake, table, epoch, &ledger, &HashSet::new(), nothing).await?;
        lock(&shared.records).clear();
        let stage = shared.stage.clone();
        shared.cpu.run(move || stage.clear()).await?;
        shared.returns()
    }
}

/// The partition values of a key, by the schema that the attach saw.
fn values_of(shared: &Shared, key: &PartitionKey) -> Result<HashMap<String, Option<String>>> {
    let values = key.parts().iter().map(|(column, cell)| {
        let field = shared.mapping.original().field_with_name(column);
        let field =
            field.map_err(|_| Error::refused(format!("the table has no column {column}")))?;
        let text = crate::partition_values::to_text(cell, field.data_type())
            .with_context(|| format!("column {column}"))?;
        Ok((column.clone(), text))
    });
    values
        .collect::<Result<_>>()
        .with_context(|| format!("partition {}", key.label()))
}

/// One partition being written.
#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    commits: mpsc::Sender<Request>,
    key: PartitionKey,
    version: strait_common::engine::Version,
    disposition: Disposition,
    place: PathBuf,
    files: Vec<StagedFile>,
    file: Option<Open>,
    mapping: Option<Mapping>,
    rows: u64,
}

/// The file that rows go to now.
struct Open(FileWriter);

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.shared.open).remove(&self.key);
    }
}

impl Writer {
    async fn close_file(&mut self) -> Result<()> {
        let Some(Open(file)) = self.file.take() else {
            return Ok(());
        };
        let (disk, stage) = (self.shared.lake.disk().clone(), self.shared.stage.clone());
        let closed = self.shared.cpu.run(move || {
            let closed = file.close(&disk)?;
            stage.sync()?;
            Ok(closed)
        });
        self.files.push(closed.await?);
        Ok(())
    }
}

#[async_trait]
impl PartitionWriter for Writer {
    async fn append(&mut self, records: RecordBatch) -> Result<()> {
        let result = self.do_append(records).await;
        self.shared.blame(result).await
    }

    async fn checkpoint(&mut self, mark: Mark) -> Result<Position> {
        let result = self.do_checkpoint(mark).await;
        self.shared.blame(result).await
    }

    async fn finish(mut self: Box<Self>, receipt: Receipt) -> Result<Finished> {
        let result = self.do_finish(receipt).await;
        self.shared.blame(result).await
    }
}

impl Writer {
    async fn do_append(&mut self, records: RecordBatch) -> Result<()> {
        self.shared.check_fence().await?;
        if records.num_rows() == 0 {
            return Ok(());
        }
        let mapping = match &self.mapping {
            Some(mapping) => mapping.clone(),
            None => {
                let mapping = check_schema(&self.shared.mapping, &records)?;
                self.mapping = Some(mapping.clone());
                mapping
            }
        };
        let (key, first, file) = (self.key.clone(), self.rows, self.file.take());
        let (stage, epoch) = (self.shared.stage.clone(), self.shared.epoch);
        let rows = records.num_rows() as u64;
        let work = move || {
            check_key(&records, &key, first)?;
            let stored = mapping.to_stored(&records)?;
            drop(records);
            let columns = stored
                .schema_ref()
                .fields()
                .iter()
                .enumerate()
                .filter(|(_, field)| key.cell(field.name()).is_none());
            let stored = stored
                .project(&columns.map(|(at, _)| at).collect::<Vec<_>>())
                .or_error(Kind::Internal, "project")?;
            let mut file = match file {
                Some(Open(file)) => file,
                None => FileWriter::open(&stage, epoch, &stored)?,
            };
            file.write(&stored)?;
            Ok(Open(file))
        };
        self.file = Some(self.shared.cpu.run(work).await?);
        self.rows += rows;
        Ok(())
    }

    async fn do_checkpoint(&mut self, mark: Mark) -> Result<Position> {
        self.shared.check_fence().await?;
        self.close_file().await?;
        let record = StageRecord {
            epoch: self.shared.epoch,
            key: self.key.clone(),
            version: self.version.clone(),
            sequence: mark.sequence,
            cursor: to_hex(&mark.cursor.0),
            rows: mark.rows,
            digest: mark.digest,
            files: self.files.clone(),
        };
        let position = record.position(self.shared.run)?;
        let older = lock(&self.shared.records)
            .get(&self.key)
            .map(|older| older.epoch);
        let (stage, written) = (self.shared.stage.clone(), record.clone());
        let write = move || {
            stage.write_record(&written)?;
            match older {
                Some(older) if older != written.epoch => stage.forget(&written.key, older),
                _ => Ok(()),
            }
        };
        self.shared.cpu.run(write).await?;
        lock(&self.shared.records).insert(self.key.clone(), record);
        self.shared.returns()?;
        Ok(position)
    }

    async fn do_finish(&mut self, receipt: Receipt) -> Result<Finished> {
        if let Some(committed) = lock(&self.shared.committed).get(&self.key) {
            if *committed != receipt {
                return Err(Error::corrupt(format!(
                    "partition {}: it was committed with another receipt",
                    self.key.label()
                )));
            }
            return Ok(Finished::Already(committed.clone()));
        }
        self.close_file().await?;
        let place = |file: &StagedFile| {
            let path = self.place.join(format!("strait-{}", file.name));
            PublishedFile {
                staged: file.name.clone(),
                path: path.to_string_lossy().into_owned(),
            }
        };
        let published = Published {
            disposition: self.disposition,
            files: self.files.iter().map(place).collect(),
            receipt,
        };
        let (done, answer) = oneshot::channel();
        let request = Request {
            published,
            files: std::mem::take(&mut self.files),
            done,
        };
        let gone = || Error::unavailable("the attempt is over");
        self.commits.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())??;
        Ok(Finished::Now)
    }
}

/// The mapping of the run's columns, which must be columns of the table.
fn check_schema(table: &Mapping, records: &RecordBatch) -> Result<Mapping> {
    let schema = records.schema();
    for field in schema.fields() {
        let found = table.original().field_with_name(field.name());
        let found = found.map_err(|_| {
            Error::schema(format!(
                "column {}: the table at the sink has no such column",
                field.name()
            ))
        })?;
        if !same_type(found.data_type(), field.data_type()) {
            let (theirs, ours) = (field.data_type(), found.data_type());
            return Err(Error::schema(format!(
                "column {}: {theirs} at the source, {ours} at the sink",
                field.name()
            )));
        }
    }
    Mapping::of(&schema)
}

/// Every row must have the key's values.
fn check_key(records: &RecordBatch, key: &PartitionKey, first_row: u64) -> Result<()> {
    for (name, cell) in key.parts() {
        let column = records.column_by_name(name).ok_or_else(|| {
            Error::schema(format!(
                "the rows lack column {name}, which divides the table"
            ))
        })?;
        let expected = Scalar::new(column_of(cell, column.data_type(), 1)?);
        let same = arrow::compute::kernels::cmp::not_distinct(&column, &expected)
            .or_error(Kind::Schema, format!("column {name}"))?;
        if same.true_count() != same.len() {
            let row = (0..same.len()).find(|&row| !same.value(row)).unwrap_or(0);
            return Err(Error::corrupt(format!(
                "column {name}, row {}: the value is not {cell}, as its partition says",
                first_row + row as u64
            )));
        }
    }
    Ok(())
}
