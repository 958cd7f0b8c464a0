//! The half that is read.
//!
//! A partition is read by one query, whose answer is of one version (the server's reads are snapshots); it comes in blocks. The version is looked up before the query
//! and again when its answer has begun: where both are the planned one, so are the rows. A cursor is the number of rows before it: equal versions of a partition
//! answer in one order, and what was read before is passed over. A partition that is too large for one query of the server's is read by several, each of which is
//! looked at like that; the next one begins where the last one has ended.
//!
//! Where the server does not tell versions, each look at a partition gives it a new one: nothing is ever taken for unchanged, and nothing is gone on with.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use strait_common::engine::{
    Batch, Cursor, Division, Origin, Partition, ReadLimits, Source, StoreSums, Stream, Table,
};
use strait_common::ids::TableName;
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::blocks::{BLOCK_ROWS_MIN, Blocks};
use crate::cluster::Cluster;
use crate::object::{Column, Object, integers_of, texts_of};
use crate::recipe::Recipe;
use crate::scheme::{self, Level};
use crate::script::{self, quoted};
use crate::sums;
use crate::types::{ColumnType, Type};
use crate::version;

/// What a text or a list is taken for when blocks are sized.
const LONG_CELL_BYTES: u64 = 64;
/// The longest name that an origin has.
const ORIGIN_BYTES_MAX: usize = 200;
/// What a block may not be larger than, in rows.
const BLOCK_ROWS_MAX: u64 = 1 << 22;
/// How many partitions of tables are remembered, if these are of several.
const KNOWN_MAX: usize = 1 << 18;

/// Reads the databases of a cluster.
#[derive(Clone)]
pub struct DolphinSource {
    cluster: Cluster,
    /// Whether it was said that the server does not tell versions.
    said: Arc<AtomicBool>,
    /// Tables as they were described last: a scheme names all partitions, and is not asked for again for each of them.
    known: Arc<Mutex<HashMap<TableName, Arc<Described>>>>,
}

impl fmt::Debug for DolphinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cluster.fmt(f)
    }
}

/// A table and how it is divided.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) schema: SchemaRef,
    pub(crate) levels: Vec<Level>,
    /// Whether one row of each key is kept: then what is appended is not what is stored.
    pub(crate) keyed: bool,
}

impl Described {
    /// How it is divided, as the engine contract has it.
    pub(crate) fn divisions(&self) -> Vec<Division> {
        let levels = self.levels.iter();
        levels.map(|level| level.division.clone()).collect()
    }
}

/// What the table's rows are said to come from: its database and name, which another cluster may have too. Versions are of chunks, whose
/// names no two clusters share, so equal ones are of one table all the same, and a name that was cut off does no harm.
fn origin_of(table: &TableName) -> String {
    let mut name = format!("dolphindb:{table}");
    name.truncate(name.floor_char_boundary(ORIGIN_BYTES_MAX));
    name
}

/// The table as scripts write it.
pub(crate) fn handle(table: &TableName) -> Result<String> {
    Ok(format!(
        "loadTable({}, {})",
        quoted(&format!("dfs://{}", table.database()))?,
        quoted(table.table())?
    ))
}

impl DolphinSource {
    /// A reader of this cluster.
    pub fn new(cluster: Cluster) -> DolphinSource {
        DolphinSource {
            cluster,
            said: Arc::default(),
            known: Arc::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TableName, Arc<Described>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table as it is.
    pub(crate) async fn described(&self, table: &TableName) -> Result<Arc<Described>> {
        let (described, _) = self.described_whole(table).await?;
        Ok(described)
    }

    /// The table as it was described last, if it had this partition then; else as it is.
    pub(crate) async fn described_with(
        &self,
        table: &TableName,
        key: &PartitionKey,
    ) -> Result<Arc<Described>> {
        let known = self.known().get(table).cloned();
        let has = |known: &Arc<Described>| {
            scheme::place(key, &known.levels).is_ok_and(|place| place.is_some())
        };
        match known.filter(has) {
            Some(known) => Ok(known),
            None => self.described(table).await,
        }
    }

    /// The table may have changed since it was described.
    pub(crate) fn forget(&self, table: &TableName) {
        self.known().remove(table);
    }

    /// The table as it is, and the server's own description.
    async fn described_whole(&self, table: &TableName) -> Result<(Arc<Described>, Object)> {
        let asked = self
            .cluster
            .read(&format!("schema({})", handle(table)?))
            .await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) if error.kind() == Kind::Refused => {
                return Err(self.unless_missing(table, error).await);
            }
            Err(error) => return Err(error),
        };
        let columns = answer.get("colDefs")?;
        let columns = columns
            .ok_or_else(|| Error::corrupt("the server's schema lacks colDefs"))?
            .clone()
            .into_table()?;
        let column = |name: &str| {
            columns
                .column_by_name(name)
                .ok_or_else(|| Error::corrupt(format!("the server's colDefs lack {name}")))
        };
        let names = texts_of(column("name")?)?;
        let types = integers_of(column("typeInt")?)?;
        let scales = integers_of(column("extra")?)?;
        let mut fields = Vec::new();
        for ((name, kind), scale) in names.iter().zip(types).zip(scales) {
            let code = kind.and_then(|kind| u8::try_from(kind).ok());
            let code = code.ok_or_else(|| Error::corrupt(format!("column {name}: no type")))?;
            let scale = scale
                .and_then(|scale| i32::try_from(scale).ok())
                .unwrap_or(0);
            let kind =
                ColumnType::from_code(code, scale).with_context(|| format!("column {name}"))?;
            fields.push(kind.field(name));
        }
        let schema = Schema::new(fields);
        let levels = scheme::levels(&answer, &schema)?;
        let described = Arc::new(Described {
            schema: Arc::new(schema),
            levels,
            keyed: is_keyed(&answer)?,
        });
        let mut known = self.known();
        let size = |described: &Arc<Described>| {
            let levels = described.levels.iter();
            1 + levels.map(|level| level.entries.len()).sum::<usize>()
        };
        if known.values().chain([&described]).map(size).sum::<usize>() > KNOWN_MAX {
            known.clear();
        }
        known.insert(table.clone(), Arc::clone(&described));
        drop(known);
        Ok((described, answer))
    }

    /// The error of a table that is not there names those that are.
    async fn unless_missing(&self, table: &TableName, error: Error) -> Error {
        match self.tables().await {
            Ok(tables) if !tables.contains(table) => {
                let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
                let names = if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                };
                Error::config(format!("no table {table}; there are: {names}"))
            }
            _ => error,
        }
    }

    /// How many rows these conditions select.
    pub(crate) async fn count(&self, table: &TableName, conditions: &[String]) -> Result<u64> {
        let mut asked = format!("exec count(*) from {}", handle(table)?);
        if !conditions.is_empty() {
            asked.push_str(&format!(" where {}", conditions.join(", ")));
        }
        let count = self.cluster.read(&asked).await?.integer()?;
        u64::try_from(count).or_error(Kind::Corrupt, "a number of rows")
    }

    /// What the server says of a database that is there.
    pub(crate) async fn database(&self, database: &str) -> Result<Object> {
        let url = quoted(&format!("dfs://{database}"))?;
        self.cluster.read(&format!("schema(database({url}))")).await
    }

    /// Every chunk of the table that has rows, or those of one partition: its partition, version and rows.
    pub(crate) async fn chunks(
        &self,
        table: &TableName,
        levels: &[Level],
        only: Option<&PartitionKey>,
    ) -> Result<BTreeMap<PartitionKey, Partition>> {
        // A partition's directory narrows what the nodes look at; its own key is what counts.
        let place = only.map(|key| scheme::place(key, levels)).transpose()?;
        let under = match &place {
            Some(None) => return Ok(BTreeMap::new()),
            Some(Some(place)) => place.path.as_str(),
            None => "",
        };
        let asked = format!(
            "select chunkId, dfsPath, version, rowNum from pnodeRun({})",
            metadata(table, under, -1)?
        );
        let seen = chrono::Utc::now().timestamp_nanos_opt().unwrap_or(0);
        let found = match self.cluster.read(&asked).await {
            Ok(found) => found.into_table()?,
            Err(error) if error.kind() == Kind::Refused => {
                if !self.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, %table, "versions of partitions are not known: nothing is taken for unchanged");
                }
                return self.unversioned(table, levels, only, seen).await;
            }
            Err(error) => return Err(error),
        };
        let column = |name: &str| {
            found
                .column_by_name(name)
                .ok_or_else(|| Error::corrupt(format!("the server's metadata lacks {name}")))
        };
        let ids = texts_of(column("chunkId")?)?;
        let paths = texts_of(column("dfsPath")?)?;
        let versions = integers_of(column("version")?)?;
        let rows = integers_of(column("rowNum")?)?;
        let origin = origin_of(table);
        let mut chunks: BTreeMap<PartitionKey, (i64, Partition)> = BTreeMap::new();
        for (((id, path), version), rows) in ids.iter().zip(&paths).zip(versions).zip(rows) {
            let rows = rows.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0);
            if rows == 0 {
                continue;
            }
            let key = scheme::key_of(path, table.database(), levels)?;
            if only.is_some_and(|only| *only != key) {
                continue;
            }
            let version = version.unwrap_or(0);
            let partition = Partition {
                key: key.clone(),
                rows: Some(rows),
                bytes: None,
                version: version::of(id, version, rows),
                pin: String::new(),
                origin: Origin {
                    table: origin.clone(),
                    seen,
                },
            };
            // There is a row for each replica; one that lags behind is not what a query reads.
            match chunks.get(&key) {
                Some((newer, _)) if *newer >= version => {}
                _ => {
                    chunks.insert(key, (version, partition));
                }
            }
        }
        Ok(chunks
            .into_iter()
            .map(|(key, (_, partition))| (key, partition))
            .collect())
    }

    /// The same without versions, where the server tells none: its queries tell which partitions there are, and count them one by one.
    pub(crate) async fn unversioned(
        &self,
        table: &TableName,
        levels: &[Level],
        only: Option<&PartitionKey>,
        seen: i64,
    ) -> Result<BTreeMap<PartitionKey, Partition>> {
        let keys = match only {
            Some(key) => vec![key.clone()],
            None if levels.is_empty() => vec![PartitionKey::default()],
            None => {
                let asked = format!("getChunkPath(sqlDS(<select * from {}>))", handle(table)?);
                let paths = self.cluster.read(&asked).await?.texts()?;
                let keys = paths
                    .iter()
                    .map(|path| scheme::key_of(path, table.database(), levels));
                keys.collect::<Result<_>>()?
            }
        };
        let mut found = BTreeMap::new();
        for key in keys {
            let rows = match scheme::place(&key, levels)? {
                Some(place) => self.count(table, &place.conditions).await?,
                None => 0,
            };
            if rows == 0 {
                continue;
            }
            let partition = Partition {
                key: key.clone(),
                rows: Some(rows),
                bytes: None,
                version: version::unknown(),
                pin: String::new(),
                origin: Origin {
                    table: origin_of(table),
                    seen,
                },
            };
            found.insert(key, partition);
        }
        Ok(found)
    }

    /// What an open read of these columns holds beside its batch.
    pub(crate) fn read_bytes_of(&self, schema: &Schema) -> u64 {
        let most = self.cluster.options().answer_bytes_max;
        let long = |field: &Arc<arrow::datatypes::Field>| width(field).is_none();
        if schema.fields().iter().any(long) {
            // Only the limit on an answer bounds a block of texts or lists.
            return most;
        }
        // The bytes, what tells nulls, and the buffer that grows to hold them.
        (u64::from(BLOCK_ROWS_MIN) * row_bytes(schema) * 2 + (1 << 20)).min(most)
    }

    async fn ensure_unmoved(
        &self,
        table: &TableName,
        levels: &[Level],
        partition: &Partition,
    ) -> Result<()> {
        // One query is of one version, whichever that is.
        if version::is_unknown(&partition.version) {
            return Ok(());
        }
        let chunks = self.chunks(table, levels, Some(&partition.key)).await?;
        let now = chunks.get(&partition.key);
        if now.is_some_and(|now| now.version == partition.version) {
            return Ok(());
        }
        Err(Error::moved(format!(
            "partition {} of table {table} is no longer at version {}",
            partition.key.label(),
            partition.version
        )))
    }
}

#[async_trait]
impl Source for DolphinSource {
    async fn describe(&self, table: &TableName) -> Result<Table> {
        let (described, answer) = self.described_whole(table).await?;
        Ok(Table {
            name: table.clone(),
            divisions: described.divisions(),
            recipe: Recipe::of(&answer, &described.levels).text(),
            schema: Arc::clone(&described.schema),
        })
    }

    async fn tables(&self) -> Result<Vec<TableName>> {
        let names = self.cluster.read("getClusterDFSTables()").await?.texts()?;
        let names = names.iter().filter_map(|name| {
            let (database, table) = name.strip_prefix("dfs://")?.rsplit_once('/')?;
            // What a sink of ours keeps there is nobody's table.
            if database == crate::epochs::DATABASE {
                return None;
            }
            TableName::new(database, table).ok()
        });
        let mut names: Vec<TableName> = names.collect();
        names.sort();
        Ok(names)
    }

    async fn partitions(
        &self,
        table: &TableName,
        selection: &Selection,
    ) -> Result<Stream<Partition>> {
        let described = self.described(table).await?;
        let mut chunks = self.chunks(table, &described.levels, None).await?;
        chunks.retain(|key, _| !selection.excludes(key));
        Ok(stream::iter(chunks.into_values().map(Ok)).boxed())
    }

    async fn read(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
        after: &Cursor,
        limits: &ReadLimits,
    ) -> Result<Stream<Batch>> {
        let described = self.described_with(table, &partition.key).await?;
        let wanted = selection.read_columns();
        let schema = projected(&described.schema, wanted, table)?;
        let names = wanted.iter().map(|column| {
            script::name(column)
                .ok_or_else(|| Error::refused(format!("column {column} has no name in a script")))
        });
        let mut names = names.collect::<Result<Vec<_>>>()?;
        if names.is_empty() {
            // A query must select something for its rows to be counted.
            let first = described
                .schema
                .fields()
                .first()
                .and_then(|field| script::name(field.name()));
            names.extend(first);
        }
        // The rows that a cursor counts are those that this condition leaves, which is the same whenever the run goes on: its selection never changes.
        let mut conditions = scheme::conditions(&partition.key, &described.levels)?;
        conditions.extend(
            selection
                .predicate()
                .and_then(|predicate| script::condition(predicate, &described.schema)),
        );
        let mut asked = format!("select {} from {}", names.join(", "), handle(table)?);
        if !conditions.is_empty() {
            asked.push_str(&format!(" where {}", conditions.join(", ")));
        }
        let passed = offset_of(after)?;
        if passed > 0 && version::is_unknown(&partition.version) {
            return Err(Error::moved(format!(
                "partition {} of table {table}: what version it has is not known, so it is read from its start",
                partition.key.label()
            )));
        }
        let most = (self.cluster.options().query_bytes / row_bytes(&schema))
            .max(u64::from(BLOCK_ROWS_MIN));
        let large = !version::is_unknown(&partition.version)
            && partition.rows.is_none_or(|rows| rows > most);
        let query = Query {
            source: self.clone(),
            table: table.clone(),
            described,
            partition: partition.clone(),
            asked,
            rows: block_rows(&schema, limits.batch_bytes),
            most: large.then_some(most),
        };
        // What was read before is not asked for again where a query says where it begins.
        let (at, pass) = if large { (passed, 0) } else { (0, passed) };
        let blocks = query.blocks(at).await.inspect_err(|_| self.forget(table))?;
        let read = Read {
            blocks,
            asked_from: at,
            query,
            schema: Arc::new(schema),
            block: None,
            at,
            pass,
            batch_bytes: usize::try_from(limits.batch_bytes).unwrap_or(usize::MAX),
        };
        Ok(stream::try_unfold(read, |mut read| async move {
            let batch = read.next().await?;
            Ok(batch.map(|batch| (batch, read)))
        })
        .boxed())
    }

    async fn warnings(&self, table: &TableName) -> Result<Vec<String>> {
        let asked = format!("select version from pnodeRun({})", metadata(table, "", 1)?);
        match self.cluster.read(&asked).await {
            Ok(_) => Ok(Vec::new()),
            Err(error) if error.kind() == Kind::Refused => Ok(vec![format!(
                "versions of the source's partitions are not known, because getTabletsMeta is refused ({error}): every run reads each partition again, and one that is \
                 interrupted begins again from its start. Grant the user what the server asks for"
            )]),
            Err(error) => Err(error),
        }
    }

    async fn sums(
        &self,
        table: &TableName,
        selection: &Selection,
        partition: &Partition,
    ) -> Result<Option<StoreSums>> {
        // The server may select more rows than the condition does.
        if selection.predicate().is_some() {
            return Ok(None);
        }
        let described = self.described_with(table, &partition.key).await?;
        let schema = projected(&described.schema, selection.columns(), table)?;
        let Some(asked) = sums::asked(&schema) else {
            return Ok(None);
        };
        let conditions = scheme::conditions(&partition.key, &described.levels)?;
        let mut query = format!("select {} from {}", asked.items, handle(table)?);
        if !conditions.is_empty() {
            query.push_str(&format!(" where {}", conditions.join(", ")));
        }
        match self.cluster.read(&query).await {
            Ok(answer) => asked.read(answer).map(Some),
            // An older server may lack a function.
            Err(error) if error.kind() == Kind::Refused => {
                tracing::warn!(%error, %table, "the server's own checksums are not known: rows are read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn read_bytes(&self, table: &Table) -> u64 {
        self.read_bytes_of(&table.schema)
    }
}

/// How a table of these columns would be divided in a database of this description.
///
/// # Errors
/// `Refused` or `Corrupt` where the columns cannot be divided so.
pub(crate) fn divisions_in(
    database: Object,
    columns: &[String],
    schema: &Schema,
) -> Result<Vec<Division>> {
    let Object::Dictionary(mut entries) = database else {
        return Err(Error::corrupt(
            "the server describes a database otherwise than by a dictionary",
        ));
    };
    entries.retain(|(name, _)| name != "partitionColumnName");
    let names = arrow::array::StringArray::from(columns.to_vec());
    let names = Column::plain(Type::String, Arc::new(names));
    entries.push(("partitionColumnName".to_owned(), Object::Vector(names)));
    let levels = scheme::levels(&Object::Dictionary(entries), schema)?;
    Ok(levels.into_iter().map(|level| level.division).collect())
}

/// What tells the chunks of a table under this directory of its database, all of them or the first so many of each node.
fn metadata(table: &TableName, under: &str, top: i64) -> Result<String> {
    Ok(format!(
        "getTabletsMeta{{{}, {}, false, {top}}}",
        quoted(&format!("/{}{under}/%", table.database()))?,
        quoted(table.table())?
    ))
}

/// These columns, in this order.
fn projected(schema: &Schema, columns: &[String], table: &TableName) -> Result<Schema> {
    let places = columns.iter().map(|column| schema.index_of(column));
    let places = places
        .collect::<Result<Vec<_>, _>>()
        .or_error(Kind::Config, format!("table {table}"))?;
    schema.project(&places).or_error(Kind::Internal, "columns")
}

/// Whether a table of this description keeps one row of each key.
fn is_keyed(described: &Object) -> Result<bool> {
    if matches!(described.text_at("engineType")?.as_str(), "PKEY" | "IOTDB") {
        return Ok(true);
    }
    let kept = described.text_at("keepDuplicates")?;
    Ok(matches!(kept.as_str(), "LAST" | "FIRST"))
}

/// The bytes of a cell, where all take as many.
fn width(field: &arrow::datatypes::Field) -> Option<u64> {
    let kind = ColumnType::of(field).ok().filter(|kind| !kind.array)?;
    match kind.item {
        Type::Symbol => Some(4),
        Type::Void => Some(0),
        item => item.width().map(|width| width as u64),
    }
}

fn row_bytes(schema: &Schema) -> u64 {
    schema
        .fields()
        .iter()
        .map(|field| width(field).unwrap_or(LONG_CELL_BYTES))
        .sum::<u64>()
        .max(1)
}

/// How many rows a block has, so that it is about a batch; the server takes no fewer than it takes. Nobody knows how long texts and lists will be: those come in the smallest
/// blocks, since one that is larger than an answer may be cannot be read at all.
fn block_rows(schema: &Schema, batch_bytes: u64) -> u32 {
    if schema.fields().iter().any(|field| width(field).is_none()) {
        return BLOCK_ROWS_MIN;
    }
    let rows = (batch_bytes / row_bytes(schema)).clamp(u64::from(BLOCK_ROWS_MIN), BLOCK_ROWS_MAX);
    u32::try_from(rows).unwrap_or(BLOCK_ROWS_MIN)
}

fn cursor_of(rows: u64) -> Cursor {
    Cursor(Bytes::copy_from_slice(&rows.to_le_bytes()))
}

fn offset_of(cursor: &Cursor) -> Result<u64> {
    if cursor.is_start() {
        return Ok(0);
    }
    let bytes: Option<[u8; 8]> = cursor.0.as_ref().try_into().ok();
    bytes
        .map(u64::from_le_bytes)
        .ok_or_else(|| Error::corrupt("a cursor that this engine did not make"))
}

/// What is asked of one partition, in one query or in several that go on where the last one has ended.
struct Query {
    source: DolphinSource,
    table: TableName,
    described: Arc<Described>,
    partition: Partition,
    asked: String,
    /// Of a block.
    rows: u32,
    /// Of a query, where one could not be answered with all of them.
    most: Option<u64>,
}

impl Query {
    /// The answer from this row on.
    async fn blocks(&self, from: u64) -> Result<Blocks> {
        let (source, levels) = (&self.source, &self.described.levels);
        let mut asked = self.asked.clone();
        if let Some(most) = self.most {
            asked.push_str(&format!(" limit {from}, {most}"));
        }
        source
            .ensure_unmoved(&self.table, levels, &self.partition)
            .await?;
        let blocks = source.cluster.blocks(&asked, self.rows).await?;
        source
            .ensure_unmoved(&self.table, levels, &self.partition)
            .await?;
        Ok(blocks)
    }
}

/// A query under way.
struct Read {
    query: Query,
    blocks: Blocks,
    /// Where the query begins.
    asked_from: u64,
    schema: SchemaRef,
    /// What is left of the block that came last.
    block: Option<RecordBatch>,
    /// Rows before it.
    at: u64,
    /// Rows that are still passed over.
    pass: u64,
    batch_bytes: usize,
}

impl Read {
    async fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            let block = match self.block.take() {
                Some(block) => block,
                None => match self.blocks.next().await? {
                    Some(block) => block,
                    // A query that was answered in full may not be the last one.
                    None if self.query.most == Some(self.at - self.asked_from) => {
                        self.asked_from = self.at;
                        self.blocks = self.query.blocks(self.at).await?;
                        continue;
                    }
                    None if self.pass > 0 => {
                        return Err(Error::corrupt(format!(
                            "a cursor after more than the {} rows of its partition",
                            self.at
                        )));
                    }
                    None => return Ok(None),
                },
            };
            let over = usize::try_from(self.pass)
                .unwrap_or(usize::MAX)
                .min(block.num_rows());
            self.pass -= over as u64;
            self.at += over as u64;
            let block = block.slice(over, block.num_rows() - over);
            if block.num_rows() == 0 {
                continue;
            }
            let records = cut(&block, self.batch_bytes);
            let rows = records.num_rows();
            self.at += rows as u64;
            if rows < block.num_rows() {
                self.block = Some(block.slice(rows, block.num_rows() - rows));
            }
            let records = fitted(&records, &self.schema)?;
            return Ok(Some(Batch {
                records,
                end: cursor_of(self.at),
            }));
        }
    }
}

/// The columns that were asked for, of the types that the table was described with.
fn fitted(records: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(records.num_rows()));
    // Without columns one was asked for all the same, for its rows to be counted.
    let columns = records
        .columns()
        .iter()
        .take(schema.fields().len())
        .cloned()
        .collect();
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).or_error(
        Kind::Moved,
        "the table's columns have changed since it was described",
    )
}

/// As many of the first rows as fit a batch; at least one.
fn cut(rows: &RecordBatch, batch_bytes: usize) -> RecordBatch {
    let mut cut = rows.clone();
    loop {
        let bytes = slice_bytes(&cut);
        if cut.num_rows() <= 1 || bytes <= batch_bytes {
            return cut;
        }
        let fitting = cut.num_rows().saturating_mul(batch_bytes) / bytes;
        cut = cut.slice(0, fitting.clamp(1, cut.num_rows() - 1));
    }
}

/// The bytes of these rows alone. What symbols stand for is shared by all rows of a block, and is not counted.
fn slice_bytes(rows: &RecordBatch) -> usize {
    let columns = rows.columns().iter();
    columns
        .map(|column| match column.data_type() {
            arrow::datatypes::DataType::Dictionary(..) => 4 * column.len(),
            _ => column
                .to_data()
                .get_slice_memory_size()
                .unwrap_or_else(|_| column.get_array_memory_size()),
        })
        .sum()
}
