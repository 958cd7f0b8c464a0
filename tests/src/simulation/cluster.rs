//! Cluster A with its users, what B must look like, and what a reader of B sees.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Date32Array, Int64Array, RecordBatch, TimestampNanosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use strait_common::engine::{Division, DivisionKind, Table, Version};
use strait_common::ids::TableName;
use strait_common::key::{Cell, PartitionKey};
use strait_common::value::Value;
use strait_common::{Error, Result};
use strait_memory::MemoryStore;

/// A row: its number, which no other row has, and when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Its number.
    pub number: i64,
    /// Nanoseconds since 1970.
    pub at: i64,
}

/// Cluster A: its store, and every version that its partitions ever had.
#[derive(Debug)]
pub struct Cluster {
    /// What agents read.
    pub store: MemoryStore,
    history: BTreeMap<PartitionKey, BTreeMap<String, Vec<Row>>>,
    newest: BTreeMap<PartitionKey, String>,
    numbers: i64,
}

/// The columns of the table.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("day", DataType::Date32, false),
        Field::new("number", DataType::Int64, false),
        Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), false),
    ]))
}

/// The table, divided by day.
///
/// # Errors
/// None that can happen.
pub fn table() -> Result<Table> {
    Ok(Table {
        name: TableName::new("sim", "ticks")?,
        schema: schema(),
        divisions: vec![Division {
            column: "day".to_owned(),
            kind: DivisionKind::Value,
        }],
        recipe: None,
    })
}

/// The partition of a day.
///
/// # Errors
/// None that can happen.
pub fn key(day: i32) -> Result<PartitionKey> {
    PartitionKey::new(vec![("day".to_owned(), Cell::Value(Value::Date(day)))])
}

impl Cluster {
    /// A cluster with an empty table.
    ///
    /// # Errors
    /// None that can happen.
    pub fn new() -> Result<Cluster> {
        let store = MemoryStore::new();
        let table = table()?;
        store.create_table(&table.name, table.schema, table.divisions)?;
        Ok(Cluster {
            store,
            history: BTreeMap::new(),
            newest: BTreeMap::new(),
            numbers: 0,
        })
    }

    /// Adds rows that happened at these times to a day.
    ///
    /// # Errors
    /// None that can happen.
    pub fn insert(&mut self, day: i32, times: &[i64]) -> Result<()> {
        let rows = self.new_rows(times);
        self.store
            .insert(&table()?.name, &key(day)?, &batch(day, &rows)?)?;
        self.remember(day)
    }

    /// Writes a day anew: the new rows first, then those of the old ones that are kept.
    ///
    /// # Errors
    /// None that can happen.
    pub fn rewrite(
        &mut self,
        day: i32,
        times: &[i64],
        mut keep: impl FnMut() -> bool,
    ) -> Result<()> {
        let name = table()?.name;
        let mut new = self.new_rows(times);
        let old = rows(&self.store.batches(&name, &key(day)?))?;
        new.extend(old.into_iter().filter(|_| keep()));
        self.store.replace(&name, &key(day)?, &batch(day, &new)?)?;
        self.remember(day)
    }

    fn new_rows(&mut self, times: &[i64]) -> Vec<Row> {
        let first = self.numbers;
        self.numbers += i64::try_from(times.len()).unwrap_or(i64::MAX);
        (first..)
            .zip(times)
            .map(|(number, &at)| Row { number, at })
            .collect()
    }

    fn remember(&mut self, day: i32) -> Result<()> {
        let (name, key) = (table()?.name, key(day)?);
        let rows = rows(&self.store.batches(&name, &key))?;
        if let Some(version) = self.store.version(&name, &key) {
            self.newest.insert(key.clone(), version.0.clone());
            self.history.entry(key).or_default().insert(version.0, rows);
        }
        Ok(())
    }

    /// The numbers of the selected rows of a partition at a version: those before `before`, where there is such a bound. In order.
    pub fn selected(
        &self,
        key: &PartitionKey,
        version: &Version,
        before: Option<i64>,
    ) -> Option<Vec<i64>> {
        let rows = self.history.get(key)?.get(&version.0)?;
        Some(select(rows, before))
    }

    /// Whether these are the selected rows of some version of a partition, for one of these bounds.
    pub fn is_some_version(
        &self,
        key: &PartitionKey,
        numbers: &[i64],
        bounds: &[Option<i64>],
    ) -> bool {
        let versions = self.history.get(key).into_iter().flat_map(BTreeMap::values);
        versions
            .into_iter()
            .any(|rows| bounds.iter().any(|bound| select(rows, *bound) == numbers))
    }

    /// The days there are.
    pub fn keys(&self) -> impl Iterator<Item = &PartitionKey> {
        self.history.keys()
    }

    /// Whether some row of the partition, as it is now, is before the bound.
    pub fn has_selected(&self, key: &PartitionKey, before: Option<i64>) -> bool {
        let newest = self
            .newest
            .get(key)
            .and_then(|version| self.history.get(key)?.get(version));
        newest.is_some_and(|rows| !select(rows, before).is_empty())
    }
}

fn batch(day: i32, rows: &[Row]) -> Result<RecordBatch> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from(vec![day; rows.len()])),
        Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|row| row.number),
        )),
        Arc::new(TimestampNanosecondArray::from_iter_values(
            rows.iter().map(|row| row.at),
        )),
    ];
    RecordBatch::try_new(schema(), columns)
        .map_err(|error| Error::internal("rows of the simulation").with_source(error))
}

fn select(rows: &[Row], before: Option<i64>) -> Vec<i64> {
    let selected = rows
        .iter()
        .filter(|row| before.is_none_or(|before| row.at < before));
    let mut numbers: Vec<i64> = selected.map(|row| row.number).collect();
    numbers.sort_unstable();
    numbers
}

/// The numbers of the rows that a reader of this partition sees, in order, each as often as it is there.
///
/// # Errors
/// `Internal` if the rows are not those of the simulation.
pub fn seen(store: &MemoryStore, name: &TableName, key: &PartitionKey) -> Result<Vec<i64>> {
    let rows = rows(&store.batches(name, key))?;
    Ok(select(&rows, None))
}

fn rows(batches: &[RecordBatch]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for batch in batches {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .map(|column| column.as_any())
                .ok_or_else(|| Error::internal(format!("no column {name}")))
        };
        let numbers = column("number")?.downcast_ref::<Int64Array>();
        let times = column("at")?.downcast_ref::<TimestampNanosecondArray>();
        let (Some(numbers), Some(times)) = (numbers, times) else {
            return Err(Error::internal("columns of other types"));
        };
        rows.extend(
            numbers
                .values()
                .iter()
                .zip(times.values())
                .map(|(&number, &at)| Row { number, at }),
        );
    }
    Ok(rows)
}
