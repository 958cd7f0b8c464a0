//! The half that receives.
//!
//! The server commits one append at a time and has no place for a ledger that would be true together with the rows. So the sink has a journal of its own: rows are staged
//! there, and a partition is published from there when all of it has come (see `publish`). What the server keeps is which journal writes to a table and its newest epoch
//! (`epochs`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use strait_common::cpu::CpuPool;
use strait_common::division::division_text;
use strait_common::engine::{
    Attachment, Claim, Division, DivisionKind, Holding, Partition, Position, Prepared, Publish,
    Receipt, Sink, SinkLimits, Source, Space, Stream, Table,
};
use strait_common::ids::{Epoch, RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_common::{Error, Kind, Result};

use crate::attempt::DolphinAttachment;
use crate::cluster::Cluster;
use crate::encode::Argument;
use crate::epochs::{self, Owner};
use crate::fit::{self, VALUE_RULES};
use crate::journal::{Book, Journal};
use crate::object::Object;
use crate::publish::{Attempt, READ_BYTES};
use crate::recipe::{Engine, Keep, Made, Recipe, by_value};
use crate::records::{Act, Entry, in_effect, is_intact};
use crate::script::quoted;
use crate::source::{DolphinSource, divisions_in, handle};
use crate::types::ColumnType;

/// Rows that wait in memory before they are kept in the journal.
pub(crate) const PIECE_BYTES: u64 = 4 << 20;
/// What one append takes in memory, if nobody has said otherwise. The server's cache takes 200 MB.
pub const BATCH_BYTES: u64 = 32 << 20;

/// Told before each effect on the journal or the server; what it returns as an error ends it there. Tests end a process at each step by it.
#[async_trait]
pub trait Watch: fmt::Debug + Send + Sync {
    /// The next step.
    async fn step(&self, what: &'static str) -> Result<()>;
}

/// What the sink and its attempts share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) source: DolphinSource,
    pub(crate) cluster: Cluster,
    pub(crate) journal: Journal,
    pub(crate) cpu: CpuPool,
    pub(crate) watch: Option<Arc<dyn Watch>>,
    pub(crate) batch_bytes: u64,
}

impl Inner {
    /// What it takes to publish a partition: a batch, as it was kept and as it is sent; then what reading back takes.
    pub(crate) fn publishing_bytes(&self, schema: &SchemaRef) -> u64 {
        let read = self.source.read_bytes_of(schema) + READ_BYTES;
        read.max(2 * self.batch_bytes)
    }

    pub(crate) async fn step(&self, what: &'static str) -> Result<()> {
        match &self.watch {
            None => Ok(()),
            Some(watch) => watch.step(what).await,
        }
    }
}

/// Writes to the databases of a cluster.
#[derive(Clone, Debug)]
pub struct DolphinSink {
    inner: Arc<Inner>,
}

impl DolphinSink {
    /// A sink with its journal in this directory, which no other sink agent has. Appends take about `batch_bytes` each.
    ///
    /// # Errors
    /// `Config` if the journal cannot be opened.
    pub fn open(
        cluster: Cluster,
        journal: &Path,
        batch_bytes: u64,
        cpu: CpuPool,
        watch: Option<Arc<dyn Watch>>,
    ) -> Result<DolphinSink> {
        Ok(DolphinSink {
            inner: Arc::new(Inner {
                source: DolphinSource::new(cluster.clone()),
                cluster,
                journal: Journal::open(journal, cpu.clone())?,
                cpu,
                watch,
                batch_bytes,
            }),
        })
    }

    /// Who writes to a table at the server; an error unless it is this sink, or nobody and this sink knows nothing of it either.
    async fn owner(&self, table: &TableName) -> Result<Option<Owner>> {
        let owner = epochs::owner(&self.inner.cluster, table).await?;
        match owner {
            None if self.knows(table).await? => Err(Error::refused(format!(
                "this sink's journal knows what it has put into table {table}, and the server knows of no such sink: it is another cluster than the journal's, or dfs://{} was \
                 removed there. Put the URL right; or give up what the journal knows with --accept-lost-ledger, and copy with --mode mirror",
                epochs::DATABASE
            ))),
            Some(owner) if owner.journal != self.inner.journal.identity() => {
                Err(Error::refused(format!(
                    "table {table} was written to by a sink with another journal ({}): what it holds only that one knows. Put that journal back in place, or give it up with \
                     --accept-lost-ledger, and copy with --mode mirror",
                    owner.journal
                )))
            }
            owner => Ok(owner),
        }
    }

    /// Makes it, and before it its database if that is to have a scheme.
    async fn make(
        &self,
        table: &TableName,
        wanted: &Table,
        scheme: Option<&str>,
        made: &Made,
    ) -> Result<()> {
        let cluster = &self.inner.cluster;
        let schema = fit::server_schema(&wanted.schema)?;
        let url = quoted(&format!("dfs://{}", table.database()))?;
        let name = quoted(table.table())?;
        let mut lease = cluster.connect().await?;
        let connection = lease.connection();
        if let Some(scheme) = scheme {
            self.inner.step("make the database").await?;
            let make = match made.engine {
                // What every server makes if nothing is said.
                Engine::Olap => format!("database({url}, {scheme})"),
                engine => format!("database({url}, {scheme}, , \"{}\")", engine.name()),
            };
            connection.script(&make).await?;
        }
        let sample = RecordBatch::new_empty(schema);
        connection
            .upload("straitSample", &Argument::Table(sample))
            .await?;
        let by: Vec<String> = wanted
            .divisions
            .iter()
            .map(|level| quoted(&level.column))
            .collect::<Result<_>>()?;
        let with = made.arguments()?;
        let make = if by.is_empty() {
            format!("createTable(database({url}), straitSample, {name}{with})")
        } else {
            format!(
                "createPartitionedTable(database({url}), straitSample, {name}, [{}]{with})",
                by.join(", ")
            )
        };
        self.inner.step("make the table").await?;
        connection.script(&make).await?;
        Ok(())
    }

    /// What a table is made with in a database that is there, which divides all of its tables alike and keeps them by one engine.
    async fn has_room(
        &self,
        table: &TableName,
        wanted: &Table,
        schema: &SchemaRef,
        made: Made,
    ) -> Result<Made> {
        let database = table.database();
        let described = self.inner.source.database(database).await?;
        let made = in_engine(database, &described, made)?;
        if wanted.divisions.is_empty() {
            return Ok(made);
        }
        let columns: Vec<String> = wanted
            .divisions
            .iter()
            .map(|level| level.column.clone())
            .collect();
        let there = divisions_in(described, &columns, schema);
        let there = there.map_err(|error| {
            Error::refused(format!(
                "database {database} cannot have a table divided by ({})",
                division_text(&wanted.divisions)
            ))
            .with_source(error)
        })?;
        if there == wanted.divisions {
            return Ok(made);
        }
        Err(Error::refused(format!(
            "database {database} divides its tables by ({}), and the table that is to be made in it by ({}): copy to another database",
            division_text(&there),
            division_text(&wanted.divisions)
        )))
    }

    /// Ranges that A has got since: all of them, for they can only be added one after another, and partitions come in any order.
    async fn add_ranges(
        &self,
        table: &TableName,
        there: &Table,
        wanted: &Table,
        dry_run: bool,
    ) -> Result<Vec<String>> {
        let url = quoted(&format!("dfs://{}", table.database()))?;
        let lacking = |there: &Table| match (Recipe::read(wanted), Recipe::read(there)) {
            (Some(wanted), Some(there)) => wanted.further(&there),
            _ => Ok(Vec::new()),
        };
        let further = lacking(there)?;
        if !dry_run && !further.is_empty() {
            self.inner.step("add ranges").await?;
            let mut lease = self.inner.cluster.connect().await?;
            for (_, add) in &further {
                if let Err(failure) = lease.connection().script(&add.script(&url)).await {
                    // Another process may have been faster.
                    let now = self.there(table).await?;
                    if now.is_none_or(|now| lacking(&now).is_ok_and(|left| left == further)) {
                        return Err(failure.into());
                    }
                }
            }
            self.inner.step("return from prepare").await?;
        }
        let told = further
            .into_iter()
            .map(|(what, _)| format!("{what} of table {table}"));
        Ok(told.collect())
    }

    /// The table as it is, if it is there.
    async fn there(&self, table: &TableName) -> Result<Option<Table>> {
        match self.inner.source.describe(table).await {
            Ok(there) => Ok(Some(there)),
            // Much else is a matter of configuration, a password for one: the server must say by itself that there is no such table.
            Err(error) if error.kind() == Kind::Config => match self.is_table(table).await? {
                true => Err(error),
                false => Ok(None),
            },
            Err(error) => Err(error),
        }
    }

    async fn is_table(&self, table: &TableName) -> Result<bool> {
        let cluster = &self.inner.cluster;
        cluster.has_table(table.database(), table.table()).await
    }

    /// The newest epoch, and the claim with whether it is open.
    async fn claimed(&self, table: &TableName) -> Result<(Epoch, Option<(Claim, bool)>)> {
        let name = table.clone();
        let journal = &self.inner.journal;
        journal.act(move |book| book.claim(&name)).await
    }

    async fn knows(&self, table: &TableName) -> Result<bool> {
        let name = table.clone();
        let journal = &self.inner.journal;
        journal.act(move |book| book.knows(&name)).await
    }

    /// What the journal knows of a table that is not there any more is of rows that are gone, and so is what a run has begun: unless one has begun since `epoch`, when it was not
    /// known yet whether the table is there.
    async fn forget(&self, table: &TableName, epoch: Epoch) -> Result<()> {
        self.owner(table).await?;
        self.inner.step("forget the table that was there").await?;
        let name = table.clone();
        let forgotten = self.inner.journal.act(move |book| {
            let (newest, held) = book.claim(&name)?;
            if newest != epoch {
                return Err(Error::unavailable(format!(
                    "table {name}: a run has begun while it was made"
                )));
            }
            let forgotten = book.forget_table(&name)?;
            if forgotten > 0 || held.is_some() {
                book.raise(&name, epoch)?;
            }
            Ok(forgotten)
        });
        if forgotten.await? > 0 {
            tracing::warn!(%table, "the table was removed at the server since runs have written to it: it is made anew, and all of it is copied again");
        }
        Ok(())
    }

    /// The ledger, as far as it says what is there.
    async fn ledger(&self, table: &TableName) -> Result<BTreeMap<PartitionKey, Vec<Entry>>> {
        let name = table.clone();
        let journal = &self.inner.journal;
        let ledger = journal.act(move |book| {
            let (mut ledger, torn) = (book.ledger(&name)?, book.torn(&name)?);
            ledger.retain(|key, _| !torn.contains(key));
            Ok(ledger)
        });
        ledger.await
    }

    async fn is_there(&self, database: &str) -> Result<bool> {
        let asked = format!("existsDatabase({})", quoted(&format!("dfs://{database}"))?);
        self.inner.cluster.read(&asked).await?.boolean()
    }

    /// What the table that is there says to rows of `wanted`.
    async fn fits(&self, name: &TableName, there: &Table, wanted: &Table) -> Result<Prepared> {
        fit::check_columns(&name.to_string(), &there.schema, &wanted.schema)?;
        if there.divisions != wanted.divisions {
            return Err(Error::refused(format!(
                "table {name} is divided by ({}) here and by ({}) there: rows for DolphinDB must come as its table is divided",
                division_text(&there.divisions),
                division_text(&wanted.divisions)
            )));
        }
        let keyed = self.inner.source.described(name).await?.keyed;
        let mut notes: Vec<String> = keyed.then(|| keyed_note(name)).into_iter().collect();
        let fields = there.schema.fields().iter();
        let lacking = fields.filter(|field| wanted.schema.index_of(field.name()).is_err());
        let (claimed, written) = {
            let name = name.clone();
            let journal = &self.inner.journal;
            let known =
                move |book: &Book<'_>| Ok((book.claim(&name)?.1, book.has_receipts(&name)?));
            journal.act(known).await?
        };
        let empty = self.inner.source.count(name, &[]).await? == 0;
        let foreign = claimed.is_none() && !empty;
        if written && empty {
            notes.push(format!(
                "table {name} has no rows, and runs have put some there: if it was emptied or made anew by hand, --mode append takes them for copied, and --mode mirror copies them"
            ));
        }
        Ok(Prepared {
            lacking: lacking.map(|field| field.name().clone()).collect(),
            foreign,
            keyed,
            notes,
            ..Prepared::default()
        })
    }
}

fn keyed_note(table: &TableName) -> String {
    format!(
        "table {table} keeps one row of each key (keepDuplicates, or a primary key): it takes --mode replace and mirror only, and rows of which no two have one key"
    )
}

/// The same as far as a database of this description can have it.
fn in_engine(database: &str, described: &Object, made: Made) -> Result<Made> {
    let name = described.text_at("engineType")?;
    let there = if name.is_empty() {
        Some(Engine::Olap)
    } else {
        Engine::of(&name)
    };
    match there {
        Some(there) if there == made.engine => Ok(made),
        Some(Engine::Olap) => {
            let mut notes = made.notes;
            notes.push(format!(
                "database {database} is of the OLAP engine: the table is made without what A's is sorted by, and with all rows of a key"
            ));
            Ok(Made {
                notes,
                compression: made.compression,
                ..Made::default()
            })
        }
        _ => Err(Error::refused(format!(
            "database {database} is of the {name} engine, and A does not tell what a table of that would need (sort columns, or a primary key): make the table at B, or copy to another database"
        ))),
    }
}

/// The scheme of a database for a table like this one, as the rest of the call that makes it.
fn scheme_of(wanted: &Table, schema: &SchemaRef, recipe: Option<&Recipe>) -> Result<String> {
    let told = recipe.map(|recipe| recipe.schemes(&wanted.divisions));
    let levels = match told.transpose()?.flatten() {
        Some(levels) => levels,
        None => {
            let levels = wanted.divisions.iter();
            let levels = levels.map(|level| level_of(level, schema));
            levels.collect::<Result<_>>()?
        }
    };
    Ok(match levels.as_slice() {
        // A table without partitions needs a database all the same, and that a scheme.
        [] => "VALUE, [1]".to_owned(),
        [one] => one.clone(),
        several => {
            let parts = several
                .iter()
                .map(|level| format!("database(\"\", {level})"));
            format!("COMPO, [{}]", parts.collect::<Vec<_>>().join(", "))
        }
    })
}

fn level_of(level: &Division, schema: &SchemaRef) -> Result<String> {
    let column = &level.column;
    let field = schema.field_with_name(column).map_err(|_| {
        Error::refused(format!(
            "column {column} divides the table and is not copied"
        ))
    })?;
    let kind = ColumnType::of(field)?;
    let impossible = |why: &str| {
        Err(Error::refused(format!(
            "a table divided by {level} cannot be made: {why}. Make the database and table at B, then copy to it"
        )))
    };
    match level.kind {
        DivisionKind::Value if kind.array => impossible("lists divide nothing"),
        DivisionKind::Value => match by_value(kind.item) {
            Some(scheme) => Ok(scheme),
            None => impossible(&format!("values of {kind} do not divide a table here")),
        },
        DivisionKind::Hash { buckets } => Ok(format!("HASH, [{kind}, {buckets}]")),
        DivisionKind::Range => impossible("where its ranges begin and end A does not tell"),
    }
}

#[async_trait]
impl Sink for DolphinSink {
    fn limits(&self, schema: &SchemaRef) -> Result<SinkLimits> {
        let schema = fit::server_schema(schema)?;
        let mut value_rules: Vec<String> = VALUE_RULES.map(str::to_owned).to_vec();
        value_rules.push(format!(
            "a partition of more than {} MiB becomes visible batch by batch, and one that is replaced is empty for a moment",
            self.inner.batch_bytes >> 20
        ));
        Ok(SinkLimits {
            value_rules,
            publish: Publish::Decidable,
            writer_bytes: 2 * PIECE_BYTES + self.inner.publishing_bytes(&schema),
        })
    }

    async fn check_writable(&self) -> Result<()> {
        // That it could be opened says nothing of a disk that only reads since.
        let written = self.inner.journal.act(|book| book.check_writable()).await;
        written.map_err(|error| {
            Error::config("the sink's journal cannot be written").with_source(error)
        })
    }

    async fn accept_loss(&self, table: &TableName) -> Result<u64> {
        let identity = self.inner.journal.identity().to_owned();
        let (known, _) = self.claimed(table).await?;
        let least = match epochs::owner(&self.inner.cluster, table).await? {
            Some(owner) if owner.journal != identity || owner.epoch > known => owner.epoch,
            None if self.knows(table).await? => Epoch(0),
            _ => return Ok(0),
        };
        epochs::prepare(&self.inner.cluster).await?;
        let name = table.clone();
        let journal = &self.inner.journal;
        let (epoch, lost) = journal
            .act(move |book| Ok((book.raise(&name, least)?, book.forget_table(&name)?)))
            .await?;
        let ours = Owner {
            journal: identity,
            epoch,
        };
        epochs::write(&self.inner.cluster, table, &ours).await?;
        Ok(lost + 1)
    }

    async fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    async fn prepare(&self, table: &TableName, wanted: &Table, dry_run: bool) -> Result<Prepared> {
        let (epoch, _) = self.claimed(table).await?;
        if let Some(there) = self.there(table).await? {
            let mut fits = self.fits(table, &there, wanted).await?;
            fits.created = self.add_ranges(table, &there, wanted, dry_run).await?;
            return Ok(fits);
        }
        let schema = fit::server_schema(&wanted.schema)?;
        for field in wanted.schema.fields() {
            quoted(field.name())?;
        }
        let recipe = Recipe::read(wanted);
        let made = recipe.as_ref().map(|recipe| recipe.made(wanted));
        let made = made.unwrap_or_default();
        let mut created = Vec::new();
        let (scheme, made) = if self.is_there(table.database()).await? {
            (None, self.has_room(table, wanted, &schema, made).await?)
        } else {
            created.push(format!("database {}", table.database()));
            (Some(scheme_of(wanted, &schema, recipe.as_ref())?), made)
        };
        created.push(match made.is_usual() {
            true => format!("table {table}"),
            false => format!("table {table} ({})", made.text()),
        });
        let mut notes = made.notes.clone();
        notes.extend((made.keep != Keep::All).then(|| keyed_note(table)));
        if !dry_run {
            self.forget(table, epoch).await?;
            let done = self.make(table, wanted, scheme.as_deref(), &made).await;
            // Another process may have been faster; what it has made is looked at like any other table.
            let there = match done {
                Err(error) if error.kind() == Kind::Refused => match self.there(table).await {
                    Ok(Some(there)) => there,
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
                Ok(()) => self.there(table).await?.ok_or_else(|| {
                    Error::corrupt(format!("table {table} was made, and is not there"))
                })?,
            };
            self.fits(table, &there, wanted).await?;
            self.inner.step("return from prepare").await?;
        }
        Ok(Prepared {
            created,
            notes,
            keyed: made.keep != Keep::All,
            ..Prepared::default()
        })
    }

    async fn add_columns(
        &self,
        table: &TableName,
        wanted: &Table,
        dry_run: bool,
    ) -> Result<Vec<String>> {
        let Some(there) = self.there(table).await? else {
            return Ok(Vec::new());
        };
        let fields = wanted.schema.fields().iter();
        let missing = fields.filter(|field| there.schema.index_of(field.name()).is_err());
        let missing: Vec<_> = missing.collect();
        let names: Vec<String> = missing.iter().map(|field| field.name().clone()).collect();
        let divides = |name: &String| wanted.divisions.iter().any(|level| level.column == *name);
        if names.iter().any(divides) {
            return Ok(Vec::new());
        }
        let types: Vec<String> = missing
            .iter()
            .map(|field| fit::server_type(field).map(|kind| kind.to_string()))
            .collect::<Result<_>>()?;
        if !dry_run && !names.is_empty() {
            let texts: Vec<String> = names
                .iter()
                .map(|name| quoted(name))
                .collect::<Result<_>>()?;
            let add = format!(
                "addColumn({}, [{}], [{}])",
                handle(table)?,
                texts.join(", "),
                types.join(", ")
            );
            self.inner.step("add columns").await?;
            let mut lease = self.inner.cluster.connect().await?;
            lease.connection().script(&add).await?;
            self.inner.step("return from add_columns").await?;
        }
        Ok(names)
    }

    async fn attach(&self, claim: &Claim) -> Result<Arc<dyn Attachment>> {
        let table = &claim.table;
        self.inner.source.describe(table).await?;
        let journal = &self.inner.journal;
        // Whoever is refused raises nothing.
        let asked = claim.clone();
        journal
            .act(move |book| book.take_claim(&asked, true))
            .await?;
        epochs::prepare(&self.inner.cluster).await?;
        let owner = self.owner(table).await?;
        self.inner.step("raise the epoch").await?;
        let (asked, known) = (claim.clone(), owner.map_or(Epoch(0), |owner| owner.epoch));
        let epoch = journal
            .act(move |book| {
                // Read after the server's, which is written after this one.
                let (held, _) = book.claim(&asked.table)?;
                if known > held {
                    return Err(Error::refused(format!(
                        "the journal of this sink is an old copy: it knows of epoch {held} of table {}, and the server of {known}. Put the newest one back in place, or give up what it knew with --accept-lost-ledger, and copy with --mode mirror",
                        asked.table
                    )));
                }
                book.take_claim(&asked, false)
            })
            .await?;
        self.inner.step("write the epoch at the server").await?;
        let ours = Owner {
            journal: journal.identity().to_owned(),
            epoch,
        };
        epochs::write(&self.inner.cluster, table, &ours).await?;
        let attempt = Arc::new(Attempt {
            inner: Arc::clone(&self.inner),
            table: table.clone(),
            run: claim.run,
            epoch,
            impatient: AtomicBool::new(false),
        });
        // No older attempt can change the server any more: what it has begun is ended first.
        let name = table.clone();
        let begun = journal
            .act(move |book| {
                book.check_epoch(&name, epoch)?;
                let mut begun = book.all_publishing(&name)?;
                // What was only meant to be done is decided anew by whoever still means it: others may have put rows there since, or the run is given up.
                for idle in begun.extract_if(.., |what| !what.may_have_begun()) {
                    book.published(&name, &idle.key)?;
                }
                Ok(begun)
            })
            .await?;
        for what in begun {
            let label = what.key.label();
            match attempt.push(what).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Fenced => return Err(error),
                // It is told to whoever begins the partition again; the others go on.
                Err(error) => {
                    tracing::warn!(%error, partition = %label, "a partition that was being published cannot go on");
                }
            }
        }
        let (name, run) = (table.clone(), claim.run);
        self.inner.step("discard what no position covers").await?;
        let positions = journal
            .act(move |book| {
                book.check_epoch(&name, epoch)?;
                book.sweep(&name.to_string())?;
                positions(book, &name, run)
            })
            .await?;
        self.inner.step("return from attach").await?;
        Ok(Arc::new(DolphinAttachment::new(attempt, positions)))
    }

    async fn claim(&self, table: &TableName) -> Result<Option<Claim>> {
        let (_, held) = self.claimed(table).await?;
        let held = held.filter(|(_, open)| *open);
        // Nobody can go on with a table that is not there.
        if held.is_none() || !self.is_table(table).await? {
            return Ok(None);
        }
        Ok(held.map(|(claim, _)| claim))
    }

    async fn receipts(&self, table: &TableName) -> Result<Stream<Receipt>> {
        let ledger = self.ledger(table).await?;
        if !ledger.is_empty() && !self.is_table(table).await? {
            return Ok(stream::empty().boxed());
        }
        let receipts = ledger.into_values().flat_map(|entries| {
            let entries = in_effect(&entries).to_vec();
            entries.into_iter().map(|entry| Ok(entry.receipt))
        });
        Ok(stream::iter(receipts.collect::<Vec<_>>()).boxed())
    }

    async fn holdings(&self, table: &TableName, selection: &Selection) -> Result<Stream<Holding>> {
        // The ledger first: what is published in between is then not intact, which says nothing.
        let ledger = self.ledger(table).await?;
        let partitions = match self.inner.source.partitions(table, selection).await {
            Ok(partitions) => partitions,
            Err(error) if error.kind() == Kind::Config && !self.is_table(table).await? => {
                return Ok(stream::empty().boxed());
            }
            Err(error) => return Err(error),
        };
        let mut held: BTreeMap<PartitionKey, Option<Partition>> = BTreeMap::new();
        let known = ledger.keys().filter(|key| !selection.excludes(key));
        held.extend(known.map(|key| (key.clone(), None)));
        let partitions: Vec<Partition> = partitions.try_collect().await?;
        held.extend(
            partitions
                .into_iter()
                .map(|found| (found.key.clone(), Some(found))),
        );
        let holdings = held.into_iter().map(|(key, partition)| {
            let entries = ledger
                .get(&key)
                .map_or(&[][..], |entries| in_effect(entries));
            let version = partition.as_ref().map(|partition| &partition.version);
            Ok(Holding {
                receipts: entries.iter().map(|entry| entry.receipt.clone()).collect(),
                intact: !entries.is_empty() && is_intact(entries, version),
                key,
                partition,
            })
        });
        Ok(stream::iter(holdings.collect::<Vec<_>>()).boxed())
    }
}

/// This run's positions, and those that others have committed of the other partitions and that are in effect, in order of key.
fn positions(book: &Book<'_>, table: &TableName, run: RunId) -> Result<Vec<Position>> {
    let mut positions: BTreeMap<PartitionKey, Vec<Position>> = BTreeMap::new();
    let mut done = std::collections::BTreeSet::new();
    let torn = book.torn(table)?;
    for (key, entries) in book.ledger(table)? {
        // Whoever begins it is told why it is not there.
        if torn.contains(&key) {
            continue;
        }
        let own = entries
            .iter()
            .rev()
            .find(|entry| entry.run == run && entry.act != Act::Confirm);
        let positions = positions.entry(key.clone()).or_default();
        match own {
            Some(own) => {
                done.insert(key);
                positions.push(Position::committed(run, &own.receipt));
            }
            None => positions.extend(
                in_effect(&entries)
                    .iter()
                    .filter(|entry| entry.run != run)
                    .map(|entry| Position::committed(entry.run, &entry.receipt)),
            ),
        }
    }
    for key in book.dropped(table, run)? {
        let dropped = Position::dropped(run, key.clone());
        positions.entry(key).or_default().push(dropped);
    }
    for (key, staged) in book.all_staged(table, run)? {
        if !done.contains(&key) && staged.is_marked() {
            let position = staged.position(run, &key);
            positions.entry(key).or_default().push(position);
        }
    }
    Ok(positions.into_values().flatten().collect())
}
