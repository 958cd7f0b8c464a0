//! How a table is divided into partitions, and which keys that gives.

use std::fmt;

use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, OrError, Result};
use crate::key::{Cell, PartitionKey};
use crate::selection::has_order;
use crate::value::Value;

/// One level of a table's division into partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Division {
    /// The column that decides.
    pub column: String,
    /// How it decides.
    pub kind: DivisionKind,
}

/// How a column's values are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DivisionKind {
    /// One partition per value.
    Value,
    /// One partition per range of values.
    Range,
    /// One partition per bucket of the engine's own hash.
    Hash {
        /// How many buckets.
        buckets: u32,
    },
}

/// As an operator is shown it: `day`, `ranges of id`, `10 buckets of symbol`.
impl fmt::Display for Division {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DivisionKind::Value => f.write_str(&self.column),
            DivisionKind::Range => write!(f, "ranges of {}", self.column),
            DivisionKind::Hash { buckets } => write!(f, "{buckets} buckets of {}", self.column),
        }
    }
}

/// A table's division as an operator is shown it.
pub fn division_text(divisions: &[Division]) -> String {
    if divisions.is_empty() {
        return "nothing".to_owned();
    }
    let levels = divisions.iter().map(Division::to_string);
    levels.collect::<Vec<_>>().join(", ")
}

/// Whether one row can be in the partitions of both keys, which may be of different divisions. What is not shown to be apart can meet.
pub fn can_meet(a: &PartitionKey, b: &PartitionKey) -> bool {
    let apart = |(column, cell): &(String, Cell)| {
        b.cell(column).is_some_and(|other| {
            let below = |to: &Option<Value>, from: &Option<Value>| match (to, from) {
                (Some(to), Some(from)) => to <= from,
                _ => false,
            };
            match (cell, other) {
                (Cell::Value(one), Cell::Value(other)) => one != other,
                (Cell::Null, Cell::Value(_)) | (Cell::Value(_), Cell::Null) => true,
                (Cell::Value(value), Cell::Range { from, to })
                | (Cell::Range { from, to }, Cell::Value(value)) => {
                    from.as_ref().is_some_and(|from| value < from)
                        || to.as_ref().is_some_and(|to| value >= to)
                }
                (
                    Cell::Range { from, to },
                    Cell::Range {
                        from: other_from,
                        to: other_to,
                    },
                ) => below(to, other_from) || below(other_to, from),
                (Cell::Bucket { index, count }, Cell::Bucket { index: i, count: n }) => {
                    count == n && index != i
                }
                _ => false,
            }
        })
    };
    !a.parts().iter().any(apart)
}

/// Checks that a key is one of a table that is divided like this. Rows without a value can be a partition of any level.
///
/// # Errors
/// `Refused`, naming the key and what it is not.
pub fn check_key(divisions: &[Division], schema: &Schema, key: &PartitionKey) -> Result<()> {
    let refused = |why: String| {
        Err(Error::refused(format!(
            "the table is divided by ({}), the key {} is not{why}",
            division_text(divisions),
            key.label()
        )))
    };
    let columns = key.parts().iter().map(|(column, _)| column);
    if !columns.eq(divisions.iter().map(|division| &division.column)) {
        return refused(String::new());
    }
    for ((column, cell), division) in key.parts().iter().zip(divisions) {
        match (division.kind, cell) {
            (DivisionKind::Value, Cell::Value(_)) | (_, Cell::Null) => {}
            (DivisionKind::Range, Cell::Range { from, to }) => {
                let field = schema.field_with_name(column);
                let data_type = field.or_error(Kind::Schema, "division")?.data_type();
                let mut bounds = from.iter().chain(to);
                if let Some(bound) = bounds.find(|bound| !has_order(bound, data_type)) {
                    return refused(format!(": {bound} is no value of type {data_type}"));
                }
            }
            (DivisionKind::Hash { buckets }, Cell::Bucket { index, count })
                if buckets == *count && index < count => {}
            _ => return refused(format!(": {cell} is no part of it")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field};

    #[test]
    fn keys_meet_unless_a_column_shows_that_they_do_not() {
        let meet = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(can_meet(&a, &b), can_meet(&b, &a), "{a} {b}");
            can_meet(&a, &b)
        };
        for (a, b) in [
            ("", "day=2026-01-01"),
            ("day=2026-01-01", "symbol='A'"),
            ("id=[0,10)", "id=[9,20)"),
            ("id=[*,10)", "id=[5,*)"),
            ("id=[0,10)", "id=5"),
            // Rows without a value can be in any range.
            ("id=[0,10)", "id=null"),
            ("id=bucket(1,4)", "id=bucket(1,8)"),
            ("day=2026-01-01/id=[0,10)", "day=2026-01-01/id=[0,5)"),
        ] {
            assert!(meet(a, b), "{a} {b}");
        }
        for (a, b) in [
            ("day=2026-01-01", "day=2026-01-02"),
            ("day=null", "day=2026-01-02"),
            ("id=[0,10)", "id=[10,20)"),
            ("id=[0,10)", "id=10"),
            ("id=[5,10)", "id=4"),
            ("id=bucket(1,4)", "id=bucket(2,4)"),
            ("day=2026-01-01/id=[0,10)", "day=2026-01-02/id=[0,10)"),
        ] {
            assert!(!meet(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_key_of_another_division_is_refused_by_name() {
        let level = |column: &str, kind| Division {
            column: column.to_owned(),
            kind,
        };
        let divisions = [
            level("id", DivisionKind::Range),
            level("day", DivisionKind::Value),
            level("symbol", DivisionKind::Hash { buckets: 10 }),
        ];
        let schema = Schema::new(vec![
            Field::new("day", DataType::Date32, true),
            Field::new("id", DataType::Int64, true),
            Field::new("symbol", DataType::Utf8, true),
        ]);
        let range = |from| Cell::Range {
            from: Some(from),
            to: None,
        };
        let bucket = |index, count| Cell::Bucket { index, count };
        let of = |cells: [Cell; 3]| {
            let columns = ["id", "day", "symbol"].map(str::to_owned);
            PartitionKey::new(columns.into_iter().zip(cells).collect()).unwrap()
        };
        let (five, day) = (Value::Int(5), Cell::Value(Value::Date(20_000)));
        let good = [
            of([range(five.clone()), day.clone(), bucket(3, 10)]),
            of([Cell::Null, Cell::Null, Cell::Null]),
        ];
        for key in good {
            check_key(&divisions, &schema, &key).unwrap();
        }
        let wrong = [
            of([range(five.clone()), day.clone(), bucket(3, 16)]),
            of([range(five.clone()), day.clone(), bucket(10, 10)]),
            of([range(Value::String("x".into())), day.clone(), bucket(3, 10)]),
            of([Cell::Value(five.clone()), day, bucket(3, 10)]),
            of([range(five), bucket(3, 10), bucket(3, 10)]),
            PartitionKey::default(),
        ];
        for key in wrong {
            let error = check_key(&divisions, &schema, &key).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{key}");
            let expected = format!(
                "divided by (ranges of id, day, 10 buckets of symbol), the key {} is not",
                key.label()
            );
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}
