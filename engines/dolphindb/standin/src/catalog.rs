//! What the stand-in holds: databases with their division, tables, and chunks with their versions.
//!
//! It keeps the real server's rules that a client must know: an append is whole or nothing; a locked chunk refuses it; rows that no partition takes are dropped
//! without a word, and only the number of rows that were inserted tells; columns go by position; a long text is cut off; a table with a key keeps its newest row.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{Schema, SchemaRef};
use chrono::Datelike;
use strait_dolphindb::{Column, ColumnType, STRING_BYTES_MAX};

use crate::cell::{Cell, cells};

/// What the server says.
pub(crate) type Said<T> = Result<T, String>;

/// How one level tells partitions apart.
#[derive(Clone, Debug)]
pub enum Scheme {
    /// One for each of these values.
    Value(Column),
    /// From each of these to the next, that one excluded.
    Range(Column),
    /// By a hash of the stand-in's own.
    Hash(ColumnType, u32),
    /// One for each of these lists.
    List(Vec<Column>),
}

impl Scheme {
    /// Its number in the server's descriptions.
    pub fn code(&self) -> i32 {
        match self {
            Scheme::Value(_) => 1,
            Scheme::Range(_) => 2,
            Scheme::List(_) => 3,
            Scheme::Hash(..) => 5,
        }
    }

    /// Its name there.
    pub fn name(&self) -> &'static str {
        match self {
            Scheme::Value(_) => "VALUE",
            Scheme::Range(_) => "RANGE",
            Scheme::List(_) => "LIST",
            Scheme::Hash(..) => "HASH",
        }
    }

    /// Which partition takes this value; none if none does.
    ///
    /// # Errors
    /// Where the server refuses it aloud.
    pub fn place(&self, value: &Cell) -> Said<Option<usize>> {
        Ok(match self {
            Scheme::Value(known) => {
                if *value == Cell::Null {
                    return Err(
                        "A VALUE partitioning column can't contain null. RefId: S01001".into(),
                    );
                }
                cells(known.kind, &known.array)
                    .iter()
                    .position(|known| is_of(known, value))
            }
            Scheme::Range(edges) => {
                let edges = cells(edges.kind, &edges.array);
                let after = edges.iter().filter(|edge| *edge <= value).count();
                (after > 0 && after < edges.len()).then(|| after - 1)
            }
            Scheme::List(lists) => lists
                .iter()
                .position(|list| cells(list.kind, &list.array).contains(value)),
            Scheme::Hash(_, buckets) => (*value != Cell::Null).then(|| bucket(value, *buckets)),
        })
    }

    /// How a partition's directory is called.
    pub fn directory(&self, place: usize) -> String {
        let text = |column: &Column, at: usize| match cells(column.kind, &column.array).get(at) {
            Some(Cell::Date(days)) => strait_common::value::date_of(*days)
                .map_or_else(String::new, |d| d.format("%Y%m%d").to_string()),
            Some(Cell::Month(months)) => format!("{:04}{:02}M", months / 12, months % 12 + 1),
            Some(Cell::Int(value)) => value.to_string(),
            Some(Cell::Text(text)) => text.clone(),
            other => format!("{other:?}"),
        };
        match self {
            Scheme::Value(known) => text(known, place),
            Scheme::Range(edges) => format!("{}_{}", text(edges, place), text(edges, place + 1)),
            Scheme::List(_) => format!("List{place}"),
            Scheme::Hash(..) => format!("Key{place}"),
        }
    }
}

/// Whether a value is of the partition of this one, which may be coarser: a day of instants, a month of days.
fn is_of(known: &Cell, value: &Cell) -> bool {
    let days = match value {
        Cell::Date(days) => Some(*days),
        Cell::Stamp(ns) => i32::try_from(ns.div_euclid(86_400_000_000_000)).ok(),
        _ => None,
    };
    match (known, days) {
        (Cell::Date(known), Some(days)) => *known == days,
        (Cell::Month(known), Some(days)) => {
            let date = strait_common::value::date_of(days);
            date.is_some_and(|date| {
                date.year() * 12 + i32::try_from(date.month0()).unwrap_or(0) == *known
            })
        }
        _ => known == value,
    }
}

/// The stand-in's own hash.
pub(crate) fn bucket(value: &Cell, buckets: u32) -> usize {
    let text = format!("{value:?}");
    let hash = text.bytes().fold(5381u32, |hash, byte| {
        hash.wrapping_mul(33) ^ u32::from(byte)
    });
    (hash % buckets) as usize
}

/// One partition of one table.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Its identity, which a dropped and refilled one does not have again.
    pub id: u64,
    /// The transaction that wrote it last.
    pub cid: u64,
    /// Who holds it, if a transaction does.
    pub locked: Option<u64>,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
}

impl Chunk {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// A table of a database, or one of a session when it has no division.
#[derive(Clone, Debug)]
pub struct TableState {
    /// Its columns.
    pub schema: SchemaRef,
    /// Column and scheme of each level.
    pub divisions: Vec<(String, Scheme)>,
    /// The last element of its chunks' paths.
    pub physical: String,
    /// The columns of a key of which it keeps the newest row alone; all rows are kept without.
    pub keyed: Vec<String>,
    /// What it is sorted by, in TSDB.
    pub sort_columns: Vec<String>,
    /// How its columns are compressed, where that is not by LZ4.
    pub compression: BTreeMap<String, String>,
    /// The engine of its database.
    pub engine: String,
    /// Its partitions that have rows, or had.
    pub chunks: BTreeMap<Vec<usize>, Chunk>,
}

/// A database.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// Its levels.
    pub schemes: Vec<Scheme>,
    /// The engine that keeps its tables: OLAP or TSDB.
    pub engine: String,
    /// Its tables.
    pub tables: BTreeMap<String, TableState>,
}

/// Everything there is.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Databases by their URL, `dfs://db1`.
    pub databases: BTreeMap<String, Database>,
    /// What the last chunk and the last transaction were called.
    pub counter: u64,
    /// Functions that no user may call.
    pub denied: Vec<String>,
    /// Whether all rows are in a cache that metadata say nothing of.
    pub cached: bool,
    /// Requests that go on although nobody waits for their answer.
    pub jobs: Vec<Job>,
}

/// A request that is under way.
#[derive(Clone, Debug)]
pub struct Job {
    /// What it is called.
    pub id: String,
    /// Whose it is.
    pub session: i64,
}

impl TableState {
    /// A table without rows.
    pub fn new(
        schema: SchemaRef,
        divisions: Vec<(String, Scheme)>,
        physical: String,
    ) -> TableState {
        TableState {
            schema,
            divisions,
            physical,
            keyed: Vec::new(),
            sort_columns: Vec::new(),
            compression: BTreeMap::new(),
            engine: "OLAP".to_owned(),
            chunks: BTreeMap::new(),
        }
    }

    /// All rows, in order of partition.
    ///
    /// # Errors
    /// None that can happen.
    pub fn rows(&self, wanted: impl Fn(&[usize]) -> bool) -> Said<RecordBatch> {
        let chunks = self.chunks.iter().filter(|(place, _)| wanted(place));
        let batches: Vec<&RecordBatch> = chunks.flat_map(|(_, chunk)| &chunk.batches).collect();
        concat_batches(&self.schema, batches).map_err(|error| error.to_string())
    }

    /// Puts the rows into this table's shape: by position, types converted, long texts cut off.
    fn fit(&self, rows: &RecordBatch) -> Said<RecordBatch> {
        if rows.num_columns() != self.schema.fields().len() {
            return Err("The number of columns of the current table must match that of the target table. RefId:S01015".into());
        }
        let columns = self
            .schema
            .fields()
            .iter()
            .zip(rows.columns())
            .map(|(field, column)| {
                let column: ArrayRef = match column.data_type() == field.data_type() {
                    true => Arc::clone(column),
                    false => cast(column, field.data_type()).map_err(|_| {
                        format!(
                            "Can't convert {} to {} of column {}",
                            column.data_type(),
                            field.data_type(),
                            field.name()
                        )
                    })?,
                };
                Ok(match column.as_string_opt::<i32>() {
                    Some(texts)
                        if texts
                            .iter()
                            .flatten()
                            .any(|text| text.len() > STRING_BYTES_MAX) =>
                    {
                        let cut = |text: Option<&str>| {
                            text.map(|text| {
                                text[..text.floor_char_boundary(STRING_BYTES_MAX)].to_owned()
                            })
                        };
                        Arc::new(texts.iter().map(cut).collect::<StringArray>())
                    }
                    _ => column,
                })
            });
        let columns = columns.collect::<Said<Vec<_>>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|error| error.to_string())
    }

    /// Which rows go where.
    fn places(&self, rows: &RecordBatch) -> Said<BTreeMap<Vec<usize>, Vec<u32>>> {
        let mut columns = Vec::new();
        for (name, scheme) in &self.divisions {
            let at = self
                .schema
                .index_of(name)
                .map_err(|error| error.to_string())?;
            let kind = ColumnType::of(self.schema.field(at)).map_err(|error| error.to_string())?;
            columns.push((cells(kind, rows.column(at)), scheme));
        }
        let mut places: BTreeMap<Vec<usize>, Vec<u32>> = BTreeMap::new();
        for row in 0..rows.num_rows() {
            let place = columns
                .iter()
                .map(|(cells, scheme)| scheme.place(&cells[row]));
            // A row that no partition takes is dropped without a word.
            if let Some(place) = place.collect::<Said<Option<Vec<usize>>>>()? {
                places
                    .entry(place)
                    .or_default()
                    .push(u32::try_from(row).unwrap_or(u32::MAX));
            }
        }
        Ok(places)
    }

    /// The path of a partition's chunk.
    pub fn path(&self, database: &str, place: &[usize]) -> String {
        let mut path = database.trim_start_matches("dfs:/").to_owned();
        for ((_, scheme), place) in self.divisions.iter().zip(place) {
            path.push('/');
            path.push_str(&scheme.directory(*place));
        }
        format!("{path}/{}", self.physical)
    }
}

impl Catalog {
    /// The next number that nothing had.
    pub fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A table by its database's URL and its name.
    ///
    /// # Errors
    /// The server's text if there is none.
    pub fn table(&mut self, database: &str, name: &str) -> Said<&mut TableState> {
        let found = self
            .databases
            .get_mut(database)
            .and_then(|database| database.tables.get_mut(name));
        found.ok_or_else(|| {
            format!(
                "getFileBlocksMeta on path '{database}/{name}' failed, reason: path does not exist"
            )
        })
    }

    /// Appends in one transaction; answers with how many rows were inserted.
    ///
    /// # Errors
    /// The server's text: nothing was inserted.
    pub fn append(&mut self, database: &str, name: &str, rows: &RecordBatch) -> Said<usize> {
        let cid = self.next_number();
        let mut id = self.counter;
        let table = self.table(database, name)?;
        let rows = table.fit(rows)?;
        let places = table.places(&rows)?;
        for place in places.keys() {
            if let Some(holder) = table.chunks.get(place).and_then(|chunk| chunk.locked) {
                return Err(format!(
                    "<ChunkInTransaction>The openChunks operation failed because the chunk '{}' is currently locked and in use by transaction {holder}. RefId:S00002",
                    table.path(database, place)
                ));
            }
        }
        let mut inserted = 0;
        for (place, chosen) in places {
            inserted += chosen.len();
            let chosen = UInt32Array::from(chosen);
            let columns = rows
                .columns()
                .iter()
                .map(|column| take(column, &chosen, None));
            let columns = columns
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| error.to_string())?;
            let batch = RecordBatch::try_new(Arc::clone(&table.schema), columns)
                .map_err(|error| error.to_string())?;
            id += 1;
            let chunk = table.chunks.entry(place).or_insert_with(|| Chunk {
                id,
                cid,
                locked: None,
                batches: Vec::new(),
            });
            chunk.cid = cid;
            chunk.batches.push(batch);
            if !table.keyed.is_empty() {
                chunk.batches = vec![newest(&chunk.batches, &table.schema, &table.keyed)?];
            }
        }
        self.counter = self.counter.max(id);
        Ok(inserted)
    }
}

/// The last row of each key.
fn newest(batches: &[RecordBatch], schema: &SchemaRef, key: &[String]) -> Said<RecordBatch> {
    let rows = concat_batches(schema, batches).map_err(|error| error.to_string())?;
    let mut columns = Vec::new();
    for name in key {
        let at = schema.index_of(name).map_err(|error| error.to_string())?;
        let kind = ColumnType::of(schema.field(at)).map_err(|error| error.to_string())?;
        columns.push(cells(kind, rows.column(at)));
    }
    let mut last = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let key: Vec<Cell> = columns.iter().map(|cells| cells[row].clone()).collect();
        last.insert(key, u32::try_from(row).unwrap_or(u32::MAX));
    }
    let mut kept: Vec<u32> = last.into_values().collect();
    kept.sort_unstable();
    arrow::compute::take_record_batch(&rows, &UInt32Array::from(kept))
        .map_err(|error| error.to_string())
}

/// The schema of a table of these columns.
pub(crate) fn schema_of(columns: &[(String, ColumnType)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, kind)| kind.field(name));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
