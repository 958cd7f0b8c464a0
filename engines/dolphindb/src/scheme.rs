//! How a table is divided at the server, and how that reads as divisions and partition keys.
//!
//! A level whose values are of the column's own type divides by value or range as it says. One whose values are coarser (days of a timestamp, months of a date) gives each
//! partition a range of the column's values. Lists are numbered, as buckets are: which values a list has is the server's to say, like its hash. A partition is found again by its directory's name, which is computed from the scheme and never taken apart.

use std::collections::HashMap;

use arrow::array::Array;
use arrow::datatypes::Schema;
use strait_common::engine::{Division, DivisionKind};
use strait_common::key::{Cell, PartitionKey};
use strait_common::value::{Value, days_of};
use strait_common::{Context, Error, Result};

use crate::object::{Column, Object};
use crate::script;
use crate::types::{ColumnType, Type};

/// How many partitions a level may name.
const ENTRIES_MAX: usize = 1 << 20;
const NS_PER_DAY: i128 = 86_400_000_000_000;

/// One partition of one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What the column is in it.
    pub(crate) cell: Cell,
    /// How `partition(column, …)` names it.
    pub(crate) word: String,
    /// How its directory is called.
    directory: String,
    /// The values of a list, as a literal.
    list: Option<String>,
}

/// How a level's scheme tells partitions apart, with what its division does not say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// By values, which are added as they come.
    Values,
    /// By where its ranges begin and end.
    Edges(Vec<Value>),
    /// By the values of each list.
    Lists(Vec<Vec<Value>>),
    /// By the server's hash.
    Hash,
}

/// One level.
#[derive(Clone, Debug)]
pub(crate) struct Level {
    pub(crate) division: Division,
    pub(crate) entries: Vec<Entry>,
    by_directory: HashMap<String, usize>,
    by_cell: HashMap<Cell, usize>,
    /// The type of its column, and that of the scheme's values, where it has some.
    column: Type,
    scheme: Option<Type>,
    /// How the scheme tells them apart.
    pub(crate) marks: Marks,
}

impl Level {
    /// The type of the scheme's values, which may be coarser than the column's.
    pub(crate) fn scheme_type(&self) -> Type {
        self.scheme.unwrap_or(self.column)
    }

    /// The partition of this level in which this column is this.
    fn entry(&self, column: &str, cell: &Cell) -> Option<&Entry> {
        let at = self.by_cell.get(cell)?;
        (self.division.column == column).then(|| &self.entries[*at])
    }
}

/// Where a partition is at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The conditions that select it and nothing else.
    pub(crate) conditions: Vec<String>,
    /// Its directory within the database: `/20261101/Key3`; empty for a table without partitions.
    pub(crate) path: String,
    /// What rows of other buckets and lists meet, of each level that has such.
    pub(crate) strangers: Vec<String>,
}

/// What a level's scheme lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Addition {
    /// A value, as a literal, and the level's number.
    Value(String, usize),
    /// The edges of ranges after the last one, which the first of them is the end of.
    Ranges(Vec<String>, usize),
}

impl Addition {
    /// The statement that adds it to this database, which is in quotes.
    pub(crate) fn script(&self, database: &str) -> String {
        match self {
            Addition::Value(value, level) => {
                format!("addValuePartitions(database({database}), [{value}], {level})")
            }
            Addition::Ranges(edges, level) => {
                let edges = edges.join(", ");
                format!("addRangePartitions(database({database}), [{edges}], {level})")
            }
        }
    }
}

/// What `schema(table)` says of the division.
pub(crate) fn levels(described: &Object, schema: &Schema) -> Result<Vec<Level>> {
    let Some(names) = described.get("partitionColumnName")? else {
        return Ok(Vec::new());
    };
    let names = names.texts()?;
    if names.iter().all(String::is_empty) {
        return Ok(Vec::new());
    }
    if let Some(functions) = described.get("partitionFunction")? {
        let functions = functions.texts()?;
        if let Some(function) = functions
            .iter()
            .find(|function| !matches!(function.as_str(), "" | "asis"))
        {
            return Err(Error::refused(format!(
                "the table is divided by a function of a column ({function}), which this engine does not follow yet"
            )));
        }
    }
    let missing = |what: &str| Error::corrupt(format!("the server's schema lacks {what}"));
    let types = described
        .get("partitionType")?
        .ok_or_else(|| missing("partitionType"))?;
    let types = types.integers()?;
    let parts = described
        .get("partitionSchema")?
        .ok_or_else(|| missing("partitionSchema"))?;
    let parts = match (names.len(), parts) {
        (1, whole) => vec![whole.clone()],
        (_, several) => several.clone().into_items()?,
    };
    if types.len() != names.len() || parts.len() != names.len() {
        return Err(Error::corrupt(format!(
            "{} columns divide the table, and the database has {} levels",
            names.len(),
            types.len().min(parts.len())
        )));
    }
    let levels = names.iter().zip(types).zip(parts);
    levels
        .map(|((name, kind), scheme)| {
            level(name, kind.unwrap_or(0), scheme, schema)
                .with_context(|| format!("division by {name}"))
        })
        .collect()
}

fn level(name: &str, kind: i64, scheme: Object, schema: &Schema) -> Result<Level> {
    let field = schema.field_with_name(name);
    let field = field.map_err(|_| Error::corrupt("it is no column of the table"))?;
    let column = ColumnType::of(field)?.item;
    let values = match &scheme {
        Object::Vector(values) => Some(values.kind.item),
        _ => None,
    };
    let (kind, entries, marks) = match kind {
        1 => by_value(column, &scheme.into_vector()?)?,
        2 => by_range(column, &scheme.into_vector()?)?,
        5 => {
            let buckets = u32::try_from(scheme.integer()?)
                .ok()
                .filter(|count| (1..=1 << 16).contains(count));
            let count = buckets.ok_or_else(|| Error::corrupt("a hash without buckets"))?;
            let entry = |index| Entry {
                cell: Cell::Bucket { index, count },
                word: index.to_string(),
                directory: format!("Key{index}"),
                list: None,
            };
            (
                DivisionKind::Hash { buckets: count },
                (0..count).map(entry).collect(),
                Marks::Hash,
            )
        }
        3 => by_list(column, scheme.into_items()?)?,
        other => {
            return Err(Error::refused(format!(
                "partitions of type {other}, which this engine does not know"
            )));
        }
    };
    if entries.len() > ENTRIES_MAX {
        return Err(Error::refused(format!(
            "{} partitions in one level, more than {ENTRIES_MAX}",
            entries.len()
        )));
    }
    let entry = |(at, entry): (usize, &Entry)| {
        let (directory, cell) = (entry.directory.clone(), entry.cell.clone());
        ((directory, at), (cell, at))
    };
    let (by_directory, by_cell) = entries.iter().enumerate().map(entry).unzip();
    Ok(Level {
        division: Division {
            column: name.to_owned(),
            kind,
        },
        entries,
        by_directory,
        by_cell,
        column,
        scheme: values,
        marks,
    })
}

/// The values of a scheme.
fn values(column: &Column) -> Result<Vec<Value>> {
    let kind = column.kind.item;
    if column.array.len() > ENTRIES_MAX {
        return Err(Error::refused(format!(
            "{} values in one level, more than {ENTRIES_MAX}",
            column.array.len()
        )));
    }
    let null = || Error::refused("a null in the division's scheme");
    if column.array.null_count() > 0 {
        return Err(null());
    }
    match kind {
        Type::Char | Type::Short | Type::Int | Type::Long | Type::Month => {
            let integers = column.integers()?.into_iter();
            integers
                .map(|value| value.map(|value| Value::Int(value.into())).ok_or_else(null))
                .collect()
        }
        Type::String | Type::Symbol => Ok(column.texts()?.into_iter().map(Value::String).collect()),
        Type::Date => {
            let days = arrow::compute::cast(&column.array, &arrow::datatypes::DataType::Int32);
            let days = days.map_err(|error| Error::internal("days").with_source(error))?;
            let days = crate::object::integers_of(&days)?.into_iter();
            days.map(|days| {
                days.and_then(|days| i32::try_from(days).ok())
                    .map(Value::Date)
                    .ok_or_else(null)
            })
            .collect()
        }
        other => Err(Error::refused(format!(
            "a scheme of {other} values, which this engine does not follow yet"
        ))),
    }
}

fn directory(value: &Value, kind: Type) -> Result<String> {
    Ok(match (value, kind) {
        (Value::Date(days), _) => {
            let date = strait_common::value::date_of(*days);
            date.map(|date| date.format("%Y%m%d").to_string())
                .ok_or_else(|| Error::corrupt("a date outside of the calendar"))?
        }
        (Value::Int(months), Type::Month) => format!(
            "{:04}{:02}M",
            months.div_euclid(12),
            months.rem_euclid(12) + 1
        ),
        (Value::Int(value), _) => value.to_string(),
        (Value::String(text), _) => text.clone(),
        (other, _) => return Err(Error::internal(format!("{other} in a scheme"))),
    })
}

/// Whether a scheme's values are what the column holds.
fn is_own(scheme: Type, column: Type) -> bool {
    let integer = |kind| matches!(kind, Type::Char | Type::Short | Type::Int | Type::Long);
    let text = |kind| matches!(kind, Type::String | Type::Symbol);
    scheme == column || (integer(scheme) && integer(column)) || (text(scheme) && text(column))
}

/// The first value of the column that belongs to this coarser one, and to the one after it.
fn bound(value: &Value, scheme: Type, column: Type) -> Result<(Value, Value)> {
    let wrong = || {
        Error::refused(format!(
            "values of {scheme} that divide a column of {column}, which this engine does not follow yet"
        ))
    };
    let first_day = |months: i128| -> Option<i32> {
        let year = i32::try_from(months.div_euclid(12)).ok()?;
        let month = u32::try_from(months.rem_euclid(12) + 1).ok()?;
        chrono::NaiveDate::from_ymd_opt(year, month, 1).map(days_of)
    };
    let (from, to) = match (value, scheme) {
        (Value::Date(days), _) => (*days, days.checked_add(1).ok_or_else(wrong)?),
        (Value::Int(months), Type::Month) => (
            first_day(*months).ok_or_else(wrong)?,
            first_day(months + 1).ok_or_else(wrong)?,
        ),
        _ => return Err(wrong()),
    };
    let stamp = |days: i32| Value::Timestamp {
        ns: i128::from(days) * NS_PER_DAY,
        zoned: false,
    };
    match column {
        Type::Date if scheme == Type::Month => Ok((Value::Date(from), Value::Date(to))),
        Type::DateTime
        | Type::Timestamp
        | Type::NanoTimestamp
        | Type::DateHour
        | Type::DateMinute => Ok((stamp(from), stamp(to))),
        _ => Err(wrong()),
    }
}

/// How a level tells partitions apart: those that it has, and what its scheme says beside.
type Told = (DivisionKind, Vec<Entry>, Marks);

fn by_value(column: Type, scheme: &Column) -> Result<Told> {
    let kind = scheme.kind.item;
    let own = is_own(kind, column);
    let mut entries = Vec::new();
    for value in values(scheme)? {
        let word = script::literal(&value, kind);
        let word = word.ok_or_else(|| {
            Error::refused(format!("partition {value} has no literal in a script"))
        })?;
        let directory = directory(&value, kind)?;
        let cell = if own {
            Cell::Value(value)
        } else {
            let (from, to) = bound(&value, kind, column)?;
            Cell::Range {
                from: Some(from),
                to: Some(to),
            }
        };
        entries.push(Entry {
            cell,
            word,
            directory,
            list: None,
        });
    }
    Ok((
        if own {
            DivisionKind::Value
        } else {
            DivisionKind::Range
        },
        entries,
        Marks::Values,
    ))
}

fn by_range(column: Type, scheme: &Column) -> Result<Told> {
    let kind = scheme.kind.item;
    let own = is_own(kind, column);
    let edges = values(scheme)?;
    let mut entries = Vec::new();
    for (at, pair) in edges.windows(2).enumerate() {
        let end = |value: &Value| {
            if own {
                Ok(value.clone())
            } else {
                bound(value, kind, column).map(|(from, _)| from)
            }
        };
        entries.push(Entry {
            cell: Cell::Range {
                from: Some(end(&pair[0])?),
                to: Some(end(&pair[1])?),
            },
            word: at.to_string(),
            directory: format!(
                "{}_{}",
                directory(&pair[0], kind)?,
                directory(&pair[1], kind)?
            ),
            list: None,
        });
    }
    Ok((DivisionKind::Range, entries, Marks::Edges(edges)))
}

/// Each list is a bucket: its number is the list's, and the server puts rows there by it.
fn by_list(column: Type, lists: Vec<Object>) -> Result<Told> {
    let count = u32::try_from(lists.len()).ok().filter(|count| *count > 0);
    let count = count.ok_or_else(|| Error::corrupt("a division by lists without lists"))?;
    let (mut entries, mut marks) = (Vec::new(), Vec::new());
    for (index, list) in (0..count).zip(lists) {
        let list = match list {
            Object::Scalar(column) | Object::Vector(column) => column,
            other => {
                return Err(Error::corrupt(format!("a list that is {}", other.form())));
            }
        };
        let kind = list.kind.item;
        if !is_own(kind, column) {
            return Err(Error::refused(format!(
                "lists of {kind} that divide a column of {column}, which this engine does not follow yet"
            )));
        }
        let listed = values(&list)?;
        let words = listed.iter().map(|value| {
            script::literal(value, kind)
                .ok_or_else(|| Error::refused(format!("value {value} has no literal in a script")))
        });
        let words: Vec<String> = words.collect::<Result<_>>()?;
        entries.push(Entry {
            cell: Cell::Bucket { index, count },
            word: index.to_string(),
            directory: format!("List{index}"),
            list: Some(format!("[{}]", words.join(", "))),
        });
        marks.push(listed);
    }
    let kind = DivisionKind::Hash { buckets: count };
    Ok((kind, entries, Marks::Lists(marks)))
}

/// The partition whose chunk has this path: `/db1/20261101/Key3/9m9`.
///
/// # Errors
/// `Corrupt` if no partition of the scheme has it.
pub(crate) fn key_of(path: &str, database: &str, levels: &[Level]) -> Result<PartitionKey> {
    let wrong = || {
        Error::corrupt(format!(
            "chunk {path} is of no partition that the table's scheme names"
        ))
    };
    let rest = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(database))
        .ok_or_else(wrong)?;
    let mut parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    // The last one is the table's own mark, which differs between clusters.
    if parts.len() == levels.len() + 1 {
        parts.pop();
    }
    if parts.len() != levels.len() {
        return Err(wrong());
    }
    let cells = levels.iter().zip(parts).map(|(level, part)| {
        let at = level.by_directory.get(part).ok_or_else(wrong)?;
        Ok((
            level.division.column.clone(),
            level.entries[*at].cell.clone(),
        ))
    });
    PartitionKey::new(cells.collect::<Result<_>>()?)
}

/// The conditions that select this partition and nothing else.
///
/// # Errors
/// `Refused` if the table has no such partition (any more).
pub(crate) fn conditions(key: &PartitionKey, levels: &[Level]) -> Result<Vec<String>> {
    let place = place(key, levels)?
        .ok_or_else(|| Error::refused(format!("the table has no partition {}", key.label())))?;
    Ok(place.conditions)
}

/// Where this partition is; none if the scheme has no such partition (yet).
///
/// # Errors
/// `Refused` if no partition of the table can have such a key.
pub(crate) fn place(key: &PartitionKey, levels: &[Level]) -> Result<Option<Place>> {
    if key.parts().len() != levels.len() {
        return Err(Error::refused(format!(
            "{} is no partition of this table",
            key.label()
        )));
    }
    let mut place = Place {
        conditions: Vec::new(),
        path: String::new(),
        strangers: Vec::new(),
    };
    for ((column, cell), level) in key.parts().iter().zip(levels) {
        let Some(entry) = level.entry(column, cell) else {
            return Ok(None);
        };
        let name = script::name(column)
            .ok_or_else(|| Error::refused(format!("column {column} has no name in a script")))?;
        place
            .conditions
            .push(format!("partition({name}, {})", entry.word));
        place.path.push('/');
        place.path.push_str(&entry.directory);
        match (&entry.list, cell) {
            (Some(list), _) => place.strangers.push(format!("not ({name} in {list})")),
            (None, Cell::Bucket { index, count }) => {
                let stranger = format!("hashBucket({name}, {count}) != {index}");
                place.strangers.push(stranger);
            }
            _ => {}
        }
    }
    Ok(Some(place))
}

/// What the scheme lacks for a partition of this key.
///
/// # Errors
/// `Refused`, naming column and value, if it cannot be added, or if no directory could be called so.
pub(crate) fn missing(key: &PartitionKey, levels: &[Level]) -> Result<Vec<Addition>> {
    let mut additions = Vec::new();
    for (at, ((column, cell), level)) in key.parts().iter().zip(levels).enumerate() {
        if level.entry(column, cell).is_some() {
            continue;
        }
        let refused = |why: &str| {
            Err(Error::refused(format!(
                "partition {}: column {column}: {why}",
                key.label()
            )))
        };
        match cell {
            Cell::Null => {
                return refused("DolphinDB has no partition for rows without a value");
            }
            Cell::Value(value) => {
                if let Value::String(text) = value
                    && !can_be_directory(text)
                {
                    return refused(
                        "a text that is empty, or has white space or a slash in it, is no name of a partition there",
                    );
                }
                let Some(word) = script::literal(value, level.scheme_type()) else {
                    return refused("its value has no literal in a script");
                };
                additions.push(Addition::Value(word, at));
            }
            Cell::Range {
                from: Some(from),
                to: Some(to),
            } => match added_range(level, from, to, at) {
                Some(addition) => additions.push(addition),
                None => {
                    return refused(
                        "the table's ranges are others; one can only be added where the last one ends",
                    );
                }
            },
            Cell::Range { .. } => return refused("a range without an end is none of DolphinDB's"),
            Cell::Bucket { .. } => return refused("the table has no such bucket"),
        }
    }
    Ok(additions)
}

/// Whether a partition's directory can be called by this value.
fn can_be_directory(text: &str) -> bool {
    !text.is_empty()
        && !matches!(text, "." | "..")
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '/')
}

/// A range that begins where the last one ends, or the coarser value that has these ends.
fn added_range(level: &Level, from: &Value, to: &Value, at: usize) -> Option<Addition> {
    let scheme = level.scheme?;
    if level.marks == Marks::Values {
        let value = coarser(from, scheme)?;
        let ends = bound(&value, scheme, level.column).ok()?;
        return (ends == (from.clone(), to.clone()))
            .then(|| script::literal(&value, scheme))?
            .map(|word| Addition::Value(word, at));
    }
    if !is_own(scheme, level.column) {
        return None;
    }
    match &level.entries.last()?.cell {
        Cell::Range { to: Some(end), .. } if end == from => Some(Addition::Ranges(
            vec![script::literal(from, scheme)?, script::literal(to, scheme)?],
            at,
        )),
        _ => None,
    }
}

/// The day or month that begins with this value.
fn coarser(from: &Value, scheme: Type) -> Option<Value> {
    use chrono::Datelike;
    let days = match from {
        Value::Date(days) => *days,
        Value::Timestamp { ns, zoned: false } => i32::try_from(ns.div_euclid(NS_PER_DAY)).ok()?,
        _ => return None,
    };
    match scheme {
        Type::Date => Some(Value::Date(days)),
        Type::Month => {
            let date = strait_common::value::date_of(days)?;
            Some(Value::Int(
                i128::from(date.year()) * 12 + i128::from(date.month0()),
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Date32Array, Int32Array, StringArray};
    use strait_common::Kind;

    use super::*;

    fn vector(kind: Type, array: ArrayRef) -> Object {
        Object::Vector(Column::plain(kind, array))
    }

    /// What the server says of a table that one column divides.
    fn described(kind: i32, scheme: Object, column: Type) -> Result<Vec<Level>> {
        let names = vector(Type::String, Arc::new(StringArray::from(vec!["c"])));
        let kinds = vector(Type::Int, Arc::new(Int32Array::from(vec![kind])));
        let answer = Object::Dictionary(vec![
            ("partitionColumnName".into(), names),
            ("partitionType".into(), kinds),
            ("partitionSchema".into(), scheme),
        ]);
        levels(
            &answer,
            &Schema::new(vec![ColumnType::plain(column).field("c")]),
        )
    }

    fn keys(levels: &[Level]) -> Vec<String> {
        let key = |entry: &Entry| {
            PartitionKey::new(vec![("c".into(), entry.cell.clone())])
                .unwrap()
                .to_string()
        };
        levels[0].entries.iter().map(key).collect()
    }

    #[test]
    fn coarser_values_divide_by_ranges_of_the_column() {
        let months = || {
            vector(
                Type::Month,
                Arc::new(Int32Array::from(vec![2024 * 12 + 10, 2024 * 12 + 11])),
            )
        };
        let days = || vector(Type::Date, Arc::new(Date32Array::from(vec![20_000])));
        let by_month = described(1, months(), Type::Date).unwrap();
        assert_eq!(by_month[0].division.kind, DivisionKind::Range);
        assert_eq!(
            keys(&by_month),
            ["c=[2024-11-01,2024-12-01)", "c=[2024-12-01,2025-01-01)"]
        );
        let key = key_of("/db1/202412M/9m9", "db1", &by_month).unwrap();
        assert_eq!(key.to_string(), "c=[2024-12-01,2025-01-01)");
        assert_eq!(
            conditions(&key, &by_month).unwrap(),
            ["partition(c, 2024.12M)"]
        );
        let by_day = described(1, days(), Type::Timestamp).unwrap();
        assert_eq!(
            keys(&by_day),
            ["c=[2024-10-04T00:00:00,2024-10-05T00:00:00)"]
        );
        let own = described(1, days(), Type::Date).unwrap();
        assert_eq!(own[0].division.kind, DivisionKind::Value);
        assert_eq!(keys(&own), ["c=2024-10-04"]);
        let ranges = described(2, months(), Type::Timestamp).unwrap();
        assert_eq!(
            keys(&ranges),
            ["c=[2024-11-01T00:00:00,2024-12-01T00:00:00)"]
        );
        assert_eq!(
            described(1, months(), Type::Long).unwrap_err().kind(),
            Kind::Refused
        );
    }

    #[test]
    fn a_chunk_of_no_known_partition_is_corrupt() {
        let days = vector(Type::Date, Arc::new(Date32Array::from(vec![20_000])));
        let levels = described(1, days, Type::Date).unwrap();
        assert!(key_of("/db1/20241004/9m9", "db1", &levels).is_ok());
        for path in [
            "/db1/20241005/9m9",
            "/db2/20241004/9m9",
            "/db1/20241004/x/9m9",
            "20241004",
            "",
        ] {
            assert_eq!(
                key_of(path, "db1", &levels).unwrap_err().kind(),
                Kind::Corrupt,
                "{path}"
            );
        }
        let other = PartitionKey::new(vec![("c".into(), Cell::Value(Value::Date(1)))]).unwrap();
        assert_eq!(
            conditions(&other, &levels).unwrap_err().kind(),
            Kind::Refused
        );
    }

    #[test]
    fn lists_are_numbered() {
        let list =
            |texts: &[&str]| vector(Type::String, Arc::new(StringArray::from(texts.to_vec())));
        let lists = Object::Any(vec![list(&["EU", "UK"]), list(&["US"])]);
        let levels = described(3, lists, Type::Symbol).unwrap();
        assert_eq!(keys(&levels), ["c=bucket(0,2)", "c=bucket(1,2)"]);
        let key = key_of("/db1/List1/9m9", "db1", &levels).unwrap();
        assert_eq!(key.to_string(), "c=bucket(1,2)");
        let place = place(&"c=bucket(0,2)".parse().unwrap(), &levels)
            .unwrap()
            .unwrap();
        assert_eq!(place.conditions, ["partition(c, 0)"]);
        assert_eq!(place.path, "/List0");
        assert_eq!(place.strangers, ["not (c in [\"EU\", \"UK\"])"]);
        // A directory that is called otherwise is not guessed at.
        let error = key_of("/db1/EU/9m9", "db1", &levels).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
    }

    #[test]
    fn what_this_engine_does_not_follow_is_refused() {
        let months = vector(Type::Month, Arc::new(Int32Array::from(vec![2024 * 12])));
        let lists = Object::Any(vec![months]);
        assert_eq!(
            described(3, lists, Type::Date).unwrap_err().kind(),
            Kind::Refused
        );
        assert_eq!(
            described(3, Object::Any(Vec::new()), Type::Date)
                .unwrap_err()
                .kind(),
            Kind::Corrupt
        );
        let nulls = vector(Type::Date, Arc::new(Date32Array::from(vec![None])));
        assert_eq!(
            described(1, nulls, Type::Date).unwrap_err().kind(),
            Kind::Refused
        );
    }
}
