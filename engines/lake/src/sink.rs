//! The half of the lake that receives.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::CommitProperties;
use futures::StreamExt;
use strait_common::clock::now_ns;
use strait_common::cpu::CpuPool;
use strait_common::division::division_text;
use strait_common::engine::{
    Attachment, Claim, Holding, Prepared, Publish, Receipt, Sink, SinkLimits, Space, Stream, Table,
    Vacuumed,
};
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::regroup::can_tell_apart;
use strait_common::selection::Selection;
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::attachment::{Found, LakeAttachment};
use crate::commit::{
    ATTACH_TRIES_MAX, Change, Condition, Tried, failed, is_conflict, pause, try_commit,
};
use crate::disk::Step;
use crate::divisions::{Divisions, PROPERTY};
use crate::features::check_writable;
use crate::files;
use crate::ledger::{Account, Entry, Event, Ledger, LedgerFile, epoch};
use crate::listing::{DataFile, Listing};
use crate::load_error::load_error;
use crate::stage::{Stage, writer_bytes};
use crate::table::{LOG, Lake, Opened, RECIPE};
use crate::types::{Mapping, ORIGINAL, same_type};
use crate::vacuum;

/// A table checkpoint every so many commits.
const CHECKPOINT_INTERVAL: &str = "20";

/// Receives into the tables of a lake.
#[derive(Clone, Debug)]
pub struct LakeSink {
    lake: Lake,
    cpu: CpuPool,
}

impl LakeSink {
    /// A writer of this lake.
    pub fn new(lake: Lake, cpu: CpuPool) -> LakeSink {
        LakeSink { lake, cpu }
    }

    async fn create(&self, table: &TableName, wanted: &Table, divisions: &Divisions) -> Result<()> {
        let property = divisions.property()?;
        let mapping = Mapping::of(&wanted.schema)?;
        let (root, log) = (
            self.lake.root().to_owned(),
            self.lake.directory(table).join(LOG),
        );
        let disk = self.lake.disk().clone();
        self.cpu
            .run(move || disk.keep_directories(&root, &log))
            .await?;
        let columns: StructType = mapping
            .stored()
            .as_ref()
            .try_into_kernel()
            .or_error(Kind::Schema, "schema")?;
        let builder = self
            .lake
            .builder(table)?
            .build()
            .or_error(Kind::Internal, "create")?
            .create();
        let created = builder
            .with_columns(columns.fields().cloned())
            .with_partition_columns(divisions.value_columns().cloned())
            .with_configuration([
                ("delta.checkpointInterval", Some(CHECKPOINT_INTERVAL)),
                (PROPERTY, property.as_deref()),
                (RECIPE, wanted.recipe.as_deref()),
            ])
            // The properties are ours.
            .with_raise_if_key_not_exists(false)
            // With the crate's retries two creates can both succeed, the second over the first.
            .with_commit_properties(CommitProperties::default().with_max_retries(0))
            .await;
        match created {
            Ok(_) => Ok(()),
            // Somebody else was faster, or the answer was lost: what is there is checked like any table.
            Err(error) => match self.lake.open(table, None).await {
                Ok(opened) => check_fits(&opened, wanted).map(drop),
                Err(_) => Err(error).or_error(Kind::Unavailable, format!("create table {table}")),
            },
        }
    }
}

#[async_trait]
impl Sink for LakeSink {
    fn limits(&self, schema: &SchemaRef) -> Result<SinkLimits> {
        let mapping = Mapping::of(schema)?;
        let mut value_rules = vec!["an empty string in a column that divides the table is refused: it would read back as null".to_owned()];
        for (original, stored) in mapping
            .original()
            .fields()
            .iter()
            .zip(mapping.stored().fields())
        {
            if stored.metadata().contains_key(ORIGINAL) {
                value_rules.push(format!(
                    "column {} of type {} is stored as {}, and comes back as it was; other readers see the stored type",
                    original.name(),
                    original.data_type(),
                    stored.data_type()
                ));
            }
        }
        Ok(SinkLimits {
            value_rules,
            publish: Publish::Atomic,
            writer_bytes: writer_bytes(schema.fields().len()),
        })
    }

    async fn check_writable(&self) -> Result<()> {
        let (root, disk) = (self.lake.root().to_owned(), self.lake.disk().clone());
        self.cpu
            .run(move || {
                // Only writing tells: permissions, a read-only file system, a quota.
                let path = root.join(format!(".strait-{}", uuid::Uuid::new_v4()));
                let written = disk.write(&path, b"").and_then(|()| disk.remove(&path));
                written.map_err(|error| {
                    let what = format!(
                        "the lake {} cannot be written by this agent",
                        root.display()
                    );
                    Error::config(what).with_source(error)
                })
            })
            .await
    }

    async fn accept_loss(&self, table: &TableName) -> Result<u64> {
        let context = || format!("table {table}");
        for attempt in 0..ATTACH_TRIES_MAX {
            let opened = self.lake.open(table, None).await?;
            check_writable(&opened).with_context(context)?;
            let ledger = Ledger::load_damaged(&opened).await?;
            let missing = ledger.missing();
            let count = missing.len() as u64;
            if count == 0 {
                return Ok(0);
            }
            // Whatever is under way was begun by who is not known any more.
            let epoch = Epoch(ledger.epoch.0 + 1);
            let run = RunId::random();
            let file = LedgerFile::new(&opened.directory, run);
            let entry = Entry::new(run, epoch, Event::Lost(missing));
            let (written, disk) = (file.clone(), self.lake.disk().clone());
            let directory = opened.directory.clone();
            self.cpu
                .run(move || {
                    let made = written.path.parent().unwrap_or(&directory);
                    disk.keep_directories(&directory, made)?;
                    written.write(&disk, &entry)
                })
                .await?;
            let change = Change {
                actions: Vec::new(),
                replaces: false,
            };
            let raises = Condition::Raises(ledger.epoch);
            let tried = try_commit(&self.lake, table, &opened, raises, &file, change).await?;
            if let Tried::Landed(_) = tried {
                return Ok(count);
            }
            let (disk, path) = (self.lake.disk().clone(), file.path);
            self.cpu.run(move || disk.remove(&path)).await?;
            pause(attempt).await;
        }
        Err(Error::unavailable(format!(
            "table {table}: other writers were faster {ATTACH_TRIES_MAX} times"
        )))
    }

    async fn space(&self) -> Result<Option<Space>> {
        let root = self.lake.root().to_owned();
        self.cpu
            .run(move || {
                // A bundle's directory is made with its first table.
                let there = root.ancestors().find(|there| there.exists());
                let stats = rustix::fs::statvfs(there.unwrap_or(&root)).or_error(
                    Kind::Unavailable,
                    format!("free space of {}", root.display()),
                )?;
                let bytes = |blocks: u64| blocks.saturating_mul(stats.f_frsize);
                Ok(Some(Space {
                    place: root.display().to_string(),
                    free: bytes(stats.f_bavail),
                    used: bytes(stats.f_blocks.saturating_sub(stats.f_bfree)),
                }))
            })
            .await
    }

    async fn prepare(&self, table: &TableName, wanted: &Table, dry_run: bool) -> Result<Prepared> {
        let context = || format!("table {table}");
        let divisions = Divisions::of(&wanted.divisions, &wanted.schema).with_context(context)?;
        let mut prepared = Prepared::default();
        if self.lake.exists(table)? {
            let opened = self.lake.open(table, None).await?;
            prepared.divided_otherwise = check_fits(&opened, wanted).with_context(context)?;
            let given = |name: &str| wanted.schema.field_with_name(name).is_ok();
            for field in opened
                .mapping
                .original()
                .fields()
                .iter()
                .filter(|field| !given(field.name()))
            {
                prepared.notes.push(format!(
                    "column {} of {table} is not among the columns sent: it will be null",
                    field.name()
                ));
                prepared.lacking.push(field.name().clone());
            }
            prepared.foreign = is_foreign(&opened, table).await?;
            return Ok(prepared);
        }
        Mapping::of(&wanted.schema).with_context(context)?;
        if !self.lake.root().join(table.database()).exists() {
            prepared
                .created
                .push(format!("database {}", table.database()));
        }
        prepared.created.push(format!("table {table}"));
        if !dry_run {
            let created = self.create(table, wanted, &divisions).await;
            created.with_context(context)?;
            self.lake.disk().step(Step::Return)?;
        }
        Ok(prepared)
    }

    async fn add_columns(
        &self,
        table: &TableName,
        wanted: &Table,
        dry_run: bool,
    ) -> Result<Vec<String>> {
        if !self.lake.exists(table)? {
            return Ok(Vec::new());
        }
        let context = || format!("table {table}");
        let mut added = None;
        for attempt in 0..ATTACH_TRIES_MAX {
            let opened = self.lake.open(table, None).await?;
            check_writable(&opened).with_context(context)?;
            let missing = missing(&opened, wanted);
            let names = added.get_or_insert_with(|| {
                let names = missing.fields().iter().map(|field| field.name().clone());
                names.collect::<Vec<_>>()
            });
            if dry_run || missing.fields().is_empty() {
                return Ok(names.clone());
            }
            let mapping = Mapping::of(&Arc::new(missing)).with_context(context)?;
            let columns: StructType = mapping
                .stored()
                .as_ref()
                .try_into_kernel()
                .or_error(Kind::Schema, context())?;
            let loaded = self.lake.builder(table)?.load().await;
            let loaded = loaded.map_err(|error| load_error(table, None, error))?;
            let fields: Vec<_> = columns.fields().cloned().collect();
            // With the crate's retries a change that came in between could be passed over.
            let committed = loaded
                .add_columns()
                .with_fields(fields)
                .with_commit_properties(CommitProperties::default().with_max_retries(0))
                .await;
            self.lake.disk().step(Step::Return)?;
            match committed {
                // The next look finds them.
                Ok(_) => {}
                Err(error) if is_conflict(&error) => pause(attempt).await,
                Err(error) => {
                    // It can follow a commit that landed, and be that of the sync which makes it durable.
                    let reloaded = self.lake.open(table, None).await?;
                    if !self::missing(&reloaded, wanted).fields().is_empty() {
                        return Err(failed(table, "add columns", error));
                    }
                    let (disk, log) = (self.lake.disk().clone(), opened.directory.join(LOG));
                    self.cpu.run(move || disk.sync_directory(&log)).await?;
                }
            }
        }
        Err(Error::unavailable(format!(
            "table {table}: columns could not be added, {ATTACH_TRIES_MAX} times"
        )))
    }

    async fn files_shape(&self, table: &TableName, wanted: &Table) -> Result<Option<String>> {
        if self.lake.exists(table)? {
            let opened = self.lake.open(table, None).await?;
            return files::shape(&opened.mapping, &opened.divisions).map(Some);
        }
        let divisions = Divisions::of(&wanted.divisions, &wanted.schema)?;
        files::shape(&Mapping::of(&wanted.schema)?, &divisions).map(Some)
    }

    async fn attach(&self, claim: &Claim) -> Result<Arc<dyn Attachment>> {
        let table = &claim.table;
        for attempt in 0..ATTACH_TRIES_MAX {
            let opened = self.lake.open(table, None).await?;
            check_writable(&opened).with_context(|| format!("table {table}"))?;
            let ledger = Ledger::load(&opened).await?;
            check_claim(&ledger, claim)?;
            let epoch = Epoch(ledger.epoch.0 + 1);
            let file = LedgerFile::new(&opened.directory, claim.run);
            let entry = Entry::new(claim.run, epoch, Event::Attach(claim.clone()));
            let (written, disk) = (file.clone(), self.lake.disk().clone());
            let (stage, directory) = (
                Stage::new(&opened.directory, claim.run, disk.clone()),
                opened.directory.clone(),
            );
            self.cpu
                .run(move || {
                    stage.create(&directory)?;
                    written.write(&disk, &entry)
                })
                .await?;
            let change = Change {
                actions: Vec::new(),
                replaces: false,
            };
            let raises = Condition::Raises(ledger.epoch);
            let tried = try_commit(&self.lake, table, &opened, raises, &file, change).await?;
            if let Tried::Landed(_) = tried {
                // The ledger as of the new epoch: nothing of a lower one can be added to it any more.
                let opened = self.lake.open(table, None).await?;
                let ledger = Ledger::load(&opened).await?;
                if ledger.epoch != epoch {
                    return Err(Error::fenced(format!(
                        "table {table}: epoch {epoch} was overtaken by {} at once",
                        ledger.epoch
                    )));
                }
                let found = Found { opened, ledger };
                let attachment = LakeAttachment::new(
                    self.lake.clone(),
                    self.cpu.clone(),
                    table.clone(),
                    claim.run,
                    epoch,
                    found,
                )
                .await?;
                self.lake.disk().step(Step::Return)?;
                return Ok(Arc::new(attachment));
            }
            let (disk, path) = (self.lake.disk().clone(), file.path);
            self.cpu.run(move || disk.remove(&path)).await?;
            pause(attempt).await;
        }
        Err(Error::unavailable(format!(
            "table {table}: other writers were faster {ATTACH_TRIES_MAX} times"
        )))
    }

    async fn vacuum(&self, table: &TableName, before_ms: i64, dry_run: bool) -> Result<Vacuumed> {
        vacuum::vacuum(&self.lake, &self.cpu, table, before_ms, dry_run).await
    }

    async fn claim(&self, table: &TableName) -> Result<Option<Claim>> {
        if !self.lake.exists(table)? {
            return Ok(None);
        }
        let ledger = Ledger::load(&self.lake.open(table, None).await?).await?;
        Ok(ledger.open_claim().cloned())
    }

    async fn receipts(&self, table: &TableName) -> Result<Stream<Receipt>> {
        if !self.lake.exists(table)? {
            return Ok(futures::stream::empty().boxed());
        }
        let ledger = Ledger::load(&self.lake.open(table, None).await?).await?;
        let receipts = ledger.accounts().into_values();
        let receipts = receipts.flat_map(|account| account.receipts);
        Ok(futures::stream::iter(receipts.map(|(_, receipt)| Ok(receipt))).boxed())
    }

    async fn holdings(&self, table: &TableName, selection: &Selection) -> Result<Stream<Holding>> {
        if !self.lake.exists(table)? {
            return Ok(futures::stream::empty().boxed());
        }
        let seen = now_ns();
        // Both as of one version of the log.
        let opened = self.lake.open(table, None).await?;
        let accounts = Ledger::load(&opened).await?.accounts();
        let listing = Listing::load(&opened, table).await?;
        listing.check_named(table, selection)?;
        let selection = selection.clone();
        let work = move || holdings(&listing, accounts, &selection, seen);
        let holdings = self.cpu.run(work).await?;
        Ok(futures::stream::iter(holdings.into_iter().map(Ok)).boxed())
    }
}

/// Whether there are rows that no run has put there, as far as the ledger knows.
async fn is_foreign(opened: &Opened, table: &TableName) -> Result<bool> {
    if epoch(opened).await?.0 == 0 {
        return Ok(!Listing::load(opened, table).await?.has_no_files());
    }
    let ledger = Ledger::load(opened).await?;
    if ledger.given_up.is_empty() {
        return Ok(false);
    }
    let known: HashSet<String> = (ledger.accounts().into_values())
        .flat_map(|account| account.files)
        .collect();
    let listing = Listing::load(opened, table).await?;
    Ok(!listing.has_only(&known))
}

/// What a table has of the selected partitions, in order of key, looked at at `seen`: nanoseconds since 1970 in UTC.
///
/// # Errors
/// `Unavailable` if the disk does not say which files are there.
pub fn holdings(
    listing: &Listing,
    mut accounts: BTreeMap<PartitionKey, Account>,
    selection: &Selection,
    seen: i64,
) -> Result<Vec<Holding>> {
    let mut holdings = Vec::with_capacity(listing.len());
    for at in 0..listing.len() {
        let key = listing.key(at)?;
        if selection.excludes(&key) {
            continue;
        }
        let account = accounts.remove(&key).unwrap_or_default();
        let (_, files) = listing.files(&key)?;
        let spoken_of = !account.receipts.is_empty()
            && files.len() == account.files.len()
            && files.iter().all(|file| account.files.contains(&file.path));
        holdings.push(Holding {
            intact: spoken_of && are_whole(&listing.directory, &files)?,
            receipts: account
                .receipts
                .into_iter()
                .map(|(_, receipt)| receipt)
                .collect(),
            partition: Some(listing.partition(at, key.clone(), seen)),
            key,
        });
    }
    for (key, account) in accounts {
        if listing.can_have(&key) && !selection.excludes(&key) {
            holdings.push(Holding {
                // Receipts of no rows have no files.
                intact: account.files.is_empty(),
                receipts: account
                    .receipts
                    .into_iter()
                    .map(|(_, receipt)| receipt)
                    .collect(),
                partition: None,
                key,
            });
        }
    }
    holdings.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(holdings)
}

/// Whether the files are there with the sizes that the log names: somebody may have removed or cut one without telling the log.
fn are_whole(directory: &Path, files: &[DataFile]) -> Result<bool> {
    for file in files {
        match std::fs::metadata(directory.join(&file.path)) {
            Ok(found) if found.len() == file.size => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).or_error(Kind::Unavailable, &file.path),
        }
    }
    Ok(true)
}

fn check_claim(ledger: &Ledger, claim: &Claim) -> Result<()> {
    if let Some(open) = ledger.open_claim()
        && open.run != claim.run
    {
        return Err(Error::refused(format!(
            "table {} belongs to run {} of agent {}, which has not ended; resume it with `strait runs resume {}`, or give it up with \
             `strait runs abandon {}`",
            claim.table, open.run, open.agent, open.run, open.run
        )));
    }
    if ledger.has_lost(claim.run) {
        return Err(Error::refused(format!(
            "the ledger of table {} has lost what run {} had copied, and it was given up; begin a new run, with --mode mirror or replace",
            claim.table, claim.run
        )));
    }
    if let Some(first) = ledger.first_claim(claim.run)
        && first.job != claim.job
    {
        return Err(Error::refused(format!(
            "run {} was begun with another job; begin a new run",
            claim.run
        )));
    }
    Ok(())
}

/// The columns that a table lacks, each able to be null. None where one of them divides the source: that table does not fit.
fn missing(opened: &Opened, wanted: &Table) -> Schema {
    let here = opened.mapping.original();
    let fields = wanted.schema.fields().iter();
    let missing = fields.filter(|field| namesake(here, field.name()).is_none());
    let missing: Vec<_> = missing
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    let divides = |field: &Field| {
        let mut divisions = wanted.divisions.iter();
        divisions.any(|division| division.column == *field.name())
    };
    if missing.iter().any(divides) {
        return Schema::empty();
    }
    Schema::new(missing)
}

/// The column of this name, whatever its case: Delta has no two that differ in it alone.
fn namesake<'a>(schema: &'a Schema, name: &str) -> Option<&'a Field> {
    let mut fields = schema.fields().iter().map(AsRef::as_ref);
    fields.find(|field: &&Field| field.name().to_lowercase() == name.to_lowercase())
}

/// Checks that rows of `wanted` can be appended to a table. Answers with how the table is divided, where that is otherwise.
fn check_fits(opened: &Opened, wanted: &Table) -> Result<Option<String>> {
    check_writable(opened)?;
    let levels = opened.divisions.levels();
    let otherwise = (wanted.divisions != levels).then(|| division_text(levels));
    if otherwise.is_some() && !opened.divisions.by_values_alone() {
        return Err(Error::refused(format!(
            "the source divides by ({}), the sink by ({}); which range or bucket of the sink's a row is in cannot be told here. Copy into a table of another \
             name, which is made with the source's division",
            division_text(&wanted.divisions),
            division_text(levels)
        )));
    }
    let unsent = opened.divisions.value_columns().find(|column| {
        let columns = &wanted.schema;
        columns.field_with_name(column).is_err()
    });
    if let Some(column) = unsent.filter(|_| otherwise.is_some()) {
        return Err(Error::refused(format!(
            "the source divides by ({}), the sink by ({}), and {column} is not among the columns sent: nothing tells which partition of the sink's a row \
             is in. Add it to --columns",
            division_text(&wanted.divisions),
            division_text(levels)
        )));
    }
    let here = opened.mapping.original();
    let vague = opened.divisions.value_columns().find(|column| {
        let field = here.field_with_name(column);
        field.is_ok_and(|field| !can_tell_apart(field.data_type()))
    });
    if let Some(column) = vague.filter(|_| otherwise.is_some()) {
        return Err(Error::refused(format!(
            "the source divides by ({}), the sink by ({}), and values of {column} do not tell rows apart: equal ones can have different bits. Copy into a table \
             of another name, which is made with the source's division",
            division_text(&wanted.divisions),
            division_text(levels)
        )));
    }
    let mut lines: Vec<[String; 4]> = Vec::new();
    let mut wrong = |column: &str, source: String, sink: String, why: &str| {
        lines.push([column.to_owned(), source, sink, why.to_owned()]);
    };
    let of = |field: &Field| {
        let null = if field.is_nullable() { "" } else { " not null" };
        format!("{}{null}", field.data_type())
    };
    let none = || "-".to_owned();
    for field in wanted.schema.fields() {
        match here.field_with_name(field.name()) {
            Err(_) => match namesake(here, field.name()) {
                Some(found) => {
                    let there = format!("{} {}", found.name(), of(found));
                    wrong(
                        field.name(),
                        of(field),
                        there,
                        "of another case at the sink",
                    );
                }
                None => wrong(
                    field.name(),
                    of(field),
                    none(),
                    "missing at the sink; --schema evolve adds it, --schema ignore leaves it out",
                ),
            },
            Ok(found) if !same_type(found.data_type(), field.data_type()) => {
                wrong(field.name(), of(field), of(found), "another type");
            }
            Ok(found) if field.is_nullable() && !found.is_nullable() => {
                wrong(
                    field.name(),
                    of(field),
                    of(found),
                    "must not be null at the sink",
                );
            }
            Ok(_) => {}
        }
    }
    for field in here.fields() {
        if wanted.schema.field_with_name(field.name()).is_err() && !field.is_nullable() {
            let why = "not sent, and must not be null at the sink";
            wrong(field.name(), none(), of(field), why);
        }
    }
    if lines.is_empty() {
        return Ok(otherwise);
    }
    Err(Error::schema(format!(
        "the columns do not fit:\n{}",
        beside(&lines)
    )))
}

/// The columns that do not fit, both sides beside each other.
fn beside(lines: &[[String; 4]]) -> String {
    let header = ["column", "source", "sink", ""].map(str::to_owned);
    let all = || std::iter::once(&header).chain(lines);
    let width = |at: usize| {
        all()
            .map(|line| line[at].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2)];
    let lines = all().map(|[column, source, sink, why]| {
        let [a, b, c] = widths;
        format!("  {column:a$}  {source:b$}  {sink:c$}  {why}")
            .trim_end()
            .to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}
