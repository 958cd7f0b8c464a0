//! The rows that the suite copies. Each has a number that no other row has, so a row that is lost or doubled can be named.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use strait_common::digest::{DigestId, digest};
use strait_common::engine::{
    Claim, Cursor, Division, DivisionKind, Level, Mark, Origin, Partition, Receipt, Table, Version,
};
use strait_common::ids::{RunId, TableName};
use strait_common::key::{Cell, PartitionKey};
use strait_common::value::Value;
use strait_common::{Kind, OrError, Result};
use strait_memory::{Row, canonical_rows};

use crate::{Check, Failure};

/// The place of the row's number in a [`Row`].
const NUMBER: usize = 2;

/// The columns of the suite's tables.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("day", DataType::Date32, true),
        Field::new("symbol", DataType::Utf8, true),
        Field::new("number", DataType::Int64, false),
        Field::new("price", DataType::Float64, true),
        Field::new("note", DataType::Utf8, true),
    ]))
}

/// The name of the suite's table.
///
/// # Errors
/// None that can happen: the name is a valid one.
pub fn table_name() -> Result<TableName> {
    TableName::new("suite", "ticks")
}

/// Buckets of a symbol: so many that no two of the suite's symbols share one.
const BUCKETS: u32 = 1 << 20;

/// How the suite's table is divided by day and symbol. Each day and symbol is a partition, whichever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divided {
    /// By the values of both.
    Values,
    /// By the day's value, and buckets of symbols.
    ValueAndBuckets,
    /// By ranges of days, and buckets of symbols.
    RangeAndBuckets,
    /// By ranges of numbers alone: rows of one partition have several days and symbols.
    Numbers,
}

impl Divided {
    /// The levels: of day and symbol, or of numbers.
    pub fn divisions(self) -> Vec<Division> {
        if self == Divided::Numbers {
            return vec![Division {
                column: "number".to_owned(),
                kind: DivisionKind::Range,
            }];
        }
        let buckets = DivisionKind::Hash { buckets: BUCKETS };
        let kinds = match self {
            Divided::Values => [DivisionKind::Value, DivisionKind::Value],
            Divided::ValueAndBuckets => [DivisionKind::Value, buckets],
            Divided::RangeAndBuckets | Divided::Numbers => [DivisionKind::Range, buckets],
        };
        let level = |(column, kind): (&str, _)| Division {
            column: column.to_owned(),
            kind,
        };
        ["day", "symbol"]
            .into_iter()
            .zip(kinds)
            .map(level)
            .collect()
    }

    /// The partition of this day and symbol, at version `v1`.
    ///
    /// # Errors
    /// `Refused` if the key's text is too long.
    pub fn part(self, day: Option<i32>, symbol: Option<&str>, numbers: Range<i64>) -> Result<Part> {
        let days = day.map(|day| (Value::Date(day), Value::Date(day + 1)));
        let text = |text: String| Value::String(text);
        // The next string after one is that with a NUL behind.
        let symbols = symbol.map(|symbol| (text(symbol.to_owned()), text(format!("{symbol}\0"))));
        let levels = self.divisions();
        let cells = levels.into_iter().zip([days, symbols]);
        let key = cells.map(|(level, ends)| (level.column, cell(level.kind, ends)));
        Ok(Part {
            key: PartitionKey::new(key.collect())?,
            version: "v1".to_owned(),
            numbers,
            divided: Some(self),
            empty_texts: true,
            day,
            symbol: symbol.map(str::to_owned),
        })
    }
}

/// A cell for rows that all have the first of these values; the second is the next after it.
fn cell(kind: DivisionKind, ends: Option<(Value, Value)>) -> Cell {
    let Some((value, next)) = ends else {
        return Cell::Null;
    };
    match kind {
        DivisionKind::Value => Cell::Value(value),
        DivisionKind::Range => Cell::Range {
            from: Some(value),
            to: Some(next),
        },
        // Any hash will do: it is the source's own.
        DivisionKind::Hash { buckets } => Cell::Bucket {
            index: value.to_string().bytes().fold(17u32, |hash, byte| {
                hash.wrapping_mul(1_000_003) ^ u32::from(byte)
            }) % buckets,
            count: buckets,
        },
    }
}

/// The suite's table: divided by the values of day and symbol, or not at all.
///
/// # Errors
/// None that can happen.
pub fn table(divided: bool) -> Result<Table> {
    table_of(divided.then_some(Divided::Values))
}

/// The suite's table, divided like this, or not at all.
///
/// # Errors
/// None that can happen.
pub fn table_of(divided: Option<Divided>) -> Result<Table> {
    Ok(Table {
        name: table_name()?,
        schema: schema(),
        divisions: divided.map(Divided::divisions).unwrap_or_default(),
        recipe: None,
    })
}

/// The claim of run number `run`, with one job for all of its attempts.
///
/// # Errors
/// None that can happen.
pub fn claim(run: u128) -> Result<Claim> {
    Ok(Claim {
        run: RunId::from_u128(run),
        table: table_name()?,
        agent: "suite".to_owned(),
        job: format!("{{\"job\":{run}}}"),
        taken_at: 1_700_000_000,
    })
}

/// A partition of A: its key, its version there, and the numbers of its rows.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which partition.
    pub key: PartitionKey,
    /// Its version at A.
    pub version: String,
    /// Its rows: each number is one.
    pub numbers: Range<i64>,
    pub(crate) divided: Option<Divided>,
    empty_texts: bool,
    day: Option<i32>,
    symbol: Option<String>,
}

impl Part {
    /// The partition of this day and symbol of a table that is divided by values, at version `v1`.
    ///
    /// # Errors
    /// `Refused` if the key's text is too long.
    pub fn new(day: Option<i32>, symbol: Option<&str>, numbers: Range<i64>) -> Result<Part> {
        Divided::Values.part(day, symbol, numbers)
    }

    /// The partition of these numbers of a table that is divided by them, at version `v1`.
    ///
    /// # Errors
    /// None that can happen.
    pub fn of_numbers(numbers: Range<i64>) -> Result<Part> {
        let end = |number: i64| Some(Value::Int(number.into()));
        let cell = Cell::Range {
            from: end(numbers.start),
            to: end(numbers.end),
        };
        Ok(Part {
            key: PartitionKey::new(vec![("number".to_owned(), cell)])?,
            divided: Some(Divided::Numbers),
            ..Part::whole_table(numbers)
        })
    }

    /// The day and the symbol of a row.
    fn place(&self, number: i64) -> (Option<i32>, Option<&str>) {
        if self.divided != Some(Divided::Numbers) {
            return (self.day, self.symbol.as_deref());
        }
        let day = [Some(20_000), Some(20_001), None][number.rem_euclid(3) as usize];
        let symbol = [Some("IBM"), Some("A/B"), None][(number / 2).rem_euclid(3) as usize];
        (day, symbol)
    }

    /// The one partition of a table without partitions, at version `v1`.
    pub fn whole_table(numbers: Range<i64>) -> Part {
        Part {
            key: PartitionKey::default(),
            version: "v1".to_owned(),
            numbers,
            divided: None,
            empty_texts: true,
            day: Some(20_000),
            symbol: Some("IBM".to_owned()),
        }
    }

    /// The same with texts without a character, or without such.
    #[must_use]
    pub fn with_empty_texts(self, empty_texts: bool) -> Part {
        Part {
            empty_texts,
            ..self
        }
    }

    /// The same partition after A changed it: another version, other rows.
    #[must_use]
    pub fn changed(&self, version: &str, numbers: Range<i64>) -> Part {
        Part {
            version: version.to_owned(),
            numbers,
            ..self.clone()
        }
    }

    /// The same rows as the partition of another key.
    #[must_use]
    pub fn under(self, key: PartitionKey) -> Part {
        Part { key, ..self }
    }

    /// Its rows in pieces of at most so many, each under its key, of a version of its own.
    pub fn pieces(&self, rows: u64) -> Vec<Part> {
        let step = i64::try_from(rows).unwrap_or(i64::MAX);
        let mut pieces = Vec::new();
        let mut from = self.numbers.start;
        while from < self.numbers.end {
            let to = self.numbers.end.min(from.saturating_add(step));
            pieces.push(self.changed(&format!("from {from}"), from..to));
            from = to;
        }
        pieces
    }

    /// How many rows it has.
    pub fn len(&self) -> u64 {
        u64::try_from(self.numbers.end - self.numbers.start).unwrap_or(0)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As the source lists it.
    pub fn partition(&self) -> Partition {
        Partition {
            key: self.key.clone(),
            rows: Some(self.len()),
            bytes: None,
            version: Version(self.version.clone()),
            pin: String::new(),
            origin: Origin::default(),
        }
    }

    /// Its rows from the `from`-th up to the `to`-th.
    ///
    /// # Errors
    /// None that can happen.
    pub fn rows(&self, from: u64, to: u64) -> Result<RecordBatch> {
        let rows = i64::try_from(from).unwrap_or(i64::MAX)..i64::try_from(to).unwrap_or(i64::MAX);
        let numbers: Vec<i64> = rows.map(|row| self.numbers.start + row).collect();
        let note = |n: &i64| match n % 5 {
            0 => None,
            1 if self.empty_texts => Some(""),
            2 => Some("it's 100 %"),
            3 => Some("東京/Ωß"),
            _ => Some("plain"),
        };
        let price = |n: &i64| (n % 7 != 0).then_some(*n as f64 / 8.0);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Date32Array::from_iter(
                numbers.iter().map(|&n| self.place(n).0),
            )),
            Arc::new(StringArray::from_iter(
                numbers.iter().map(|&n| self.place(n).1),
            )),
            Arc::new(Int64Array::from_iter_values(numbers.iter().copied())),
            Arc::new(Float64Array::from_iter(numbers.iter().map(price))),
            Arc::new(StringArray::from_iter(numbers.iter().map(note))),
        ];
        RecordBatch::try_new(schema(), columns).or_error(Kind::Internal, "rows of the suite")
    }

    /// All its rows as a reader of B must see them.
    ///
    /// # Errors
    /// None that can happen.
    pub fn canonical(&self) -> Result<Vec<Row>> {
        canonical_rows(&self.rows(0, self.len())?)
    }

    /// How its key looks in the first two columns of a [`Row`].
    pub fn rows_key(&self) -> [Option<String>; 2] {
        let day = self.day.and_then(strait_common::value::date_of);
        [day.map(|day| day.to_string()), self.symbol.clone()]
    }

    /// The checkpoint after its first `rows` rows.
    ///
    /// # Errors
    /// None that can happen.
    pub fn mark(&self, rows: u64) -> Result<Mark> {
        Ok(Mark {
            sequence: rows,
            cursor: Cursor(Bytes::copy_from_slice(&rows.to_le_bytes())),
            rows,
            digest: digest(&self.rows(0, rows)?)?,
        })
    }

    /// The proof that it was copied.
    ///
    /// # Errors
    /// None that can happen.
    pub fn receipt(&self) -> Result<Receipt> {
        Ok(Receipt {
            key: self.key.clone(),
            version: Version(self.version.clone()),
            rows: self.len(),
            digest: digest(&self.rows(0, self.len())?)?,
            digest_id: DigestId::of(&schema())?,
            level: Level::Received,
            selection: "everything".to_owned(),
            origin: Origin::default(),
        })
    }
}

/// Partitions without the time at which they were looked at.
pub fn unseen(partitions: &[Partition]) -> Vec<Partition> {
    let unseen = partitions.iter().cloned().map(|mut partition| {
        partition.origin.seen = 0;
        partition
    });
    unseen.collect()
}

/// Fails unless a reader sees each row of these partitions once, and no other row.
///
/// # Errors
/// The numbers of the rows that are absent, doubled, or not expected.
pub fn ensure_exactly(visible: &[Row], parts: &[Part]) -> Check {
    let mut balance: BTreeMap<Row, i64> = BTreeMap::new();
    for part in parts {
        for row in part.canonical()? {
            *balance.entry(row).or_default() -= 1;
        }
    }
    for row in visible {
        *balance.entry(row.clone()).or_default() += 1;
    }
    let named = |wrong: &dyn Fn(i64) -> bool| {
        let rows = balance.iter().filter(|(_, count)| wrong(**count));
        let numbers: Vec<String> = rows
            .map(|(row, _)| {
                let number = row.get(NUMBER).cloned().flatten();
                number.unwrap_or_else(|| format!("{row:?}"))
            })
            .collect();
        numbers.join(" ")
    };
    let absent = named(&|count| count < 0);
    let surplus = named(&|count| count > 0);
    if absent.is_empty() && surplus.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "a reader misses the rows numbered [{absent}] and sees once too often those numbered [{surplus}]"
    )))
}

/// Fails unless a reader sees each of these partitions wholly or not at all, and no other row.
///
/// # Errors
/// The partition that is there in part.
pub fn ensure_whole_or_absent(visible: &[Row], parts: &[Part]) -> Check {
    let mut there = Vec::new();
    for part in parts {
        let number = |row: &Row| row.get(NUMBER).cloned().flatten()?.parse().ok();
        let seen = |row: &&Row| number(row).is_some_and(|n: i64| part.numbers.contains(&n));
        if visible.iter().any(|row| seen(&row)) {
            there.push(part.clone());
        }
    }
    ensure_exactly(visible, &there).map_err(|failure| {
        let keys: Vec<String> = there.iter().map(|part| part.key.label()).collect();
        failure.at(format!(
            "of the partitions begun to be seen, {}",
            keys.join(" and ")
        ))
    })
}
