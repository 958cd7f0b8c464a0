//! Text for the server: names, literals and conditions, from typed values only.
//!
//! A condition may select too much and never too little, because the agent filters again. The server's rules are not SQL's: null is the least value and equal
//! to itself there, which lets nulls through; what NaN is beside numbers is not documented, so conditions on floats are left out; so are the order of
//! texts and everything whose literal could be another value in the column's type. Comparisons are never chained: that would cost the server's pruning.

use arrow::datatypes::{DataType, Schema, TimeUnit};
use strait_common::selection::{Comparison, Predicate};
use strait_common::value::{Value, date_of};
use strait_common::{Error, Result};

use crate::types::{ColumnType, Type};

/// Longer lists are left to the agent.
const LIST_MAX: usize = 1000;
/// A longer condition is left to the agent.
const CONDITION_BYTES_MAX: usize = 64 << 10;
const NS_PER_DAY: i128 = 86_400_000_000_000;

/// A name of a column as scripts write it.
pub(crate) fn name(column: &str) -> Option<String> {
    let plain = column
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_')
        && column.starts_with(|c: char| c.is_ascii_alphabetic());
    if plain {
        return Some(column.to_owned());
    }
    text(column).map(|quoted| format!("_{quoted}"))
}

/// A name in quotes.
///
/// # Errors
/// `Config` if it cannot be written with certainty.
pub(crate) fn quoted(name: &str) -> Result<String> {
    text(name).ok_or_else(|| {
        Error::config(format!(
            "'{}' cannot be a name in a script",
            name.escape_debug()
        ))
    })
}

/// A text in quotes; none if it cannot be written with certainty.
pub(crate) fn text(value: &str) -> Option<String> {
    if value.chars().any(char::is_control) {
        return None;
    }
    Some(format!(
        "\"{}\"",
        value.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

/// A value as a literal of this type; none if it is not exactly one of its values.
pub(crate) fn literal(value: &Value, kind: Type) -> Option<String> {
    match (value, kind) {
        (Value::Bool(truth), Type::Bool) => Some(truth.to_string()),
        (Value::Int(value), Type::Char | Type::Short | Type::Int | Type::Long) => {
            let small = i32::try_from(*value)
                .ok()
                .filter(|value| *value != i32::MIN);
            match small {
                Some(value) => Some(value.to_string()),
                None => i64::try_from(*value)
                    .ok()
                    .filter(|value| *value != i64::MIN)
                    .map(|value| format!("{value}l")),
            }
        }
        (Value::Int(months), Type::Month) => {
            let months = i32::try_from(*months).ok()?;
            let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
            (1000..=9999)
                .contains(&year)
                .then(|| format!("{year}.{month:02}M"))
        }
        (Value::Date(days), Type::Date) => date(*days),
        (Value::Timestamp { ns, zoned: false }, kind) => {
            let (unit, digits) = match kind {
                Type::DateTime => (1_000_000_000, 0),
                Type::Timestamp => (1_000_000, 3),
                Type::NanoTimestamp => (1, 9),
                _ => return None,
            };
            if ns.rem_euclid(unit) != 0 {
                return None;
            }
            let day = date(i32::try_from(ns.div_euclid(NS_PER_DAY)).ok()?)?;
            let of_day = ns.rem_euclid(NS_PER_DAY);
            let seconds = of_day / 1_000_000_000;
            let time = format!(
                "{:02}:{:02}:{:02}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            );
            if digits == 0 {
                return Some(format!("{day}T{time}"));
            }
            let fraction = of_day % 1_000_000_000 / unit;
            Some(format!("{day}T{time}.{fraction:0digits$}"))
        }
        (Value::String(value), Type::String | Type::Symbol) => text(value),
        _ => None,
    }
}

fn date(days: i32) -> Option<String> {
    use chrono::Datelike;
    let date = date_of(days).filter(|date| (1000..=9999).contains(&date.year()))?;
    Some(date.format("%Y.%m.%d").to_string())
}

/// A condition that holds wherever the predicate may; none where all rows would be selected.
pub(crate) fn condition(predicate: &Predicate, schema: &Schema) -> Option<String> {
    render(predicate, false, schema).filter(|text| text.len() <= CONDITION_BYTES_MAX)
}

fn render(predicate: &Predicate, negated: bool, schema: &Schema) -> Option<String> {
    match predicate {
        Predicate::Constant(_) => None,
        Predicate::Compare(column, comparison, value) => {
            let comparison = if negated {
                comparison.opposite()
            } else {
                *comparison
            };
            let kind = kind_of(column, schema)?;
            let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
            if matches!(kind, Type::String | Type::Symbol) && !equality {
                return None;
            }
            let symbol = match comparison {
                Comparison::Equal => "==",
                Comparison::NotEqual => "!=",
                Comparison::Less => "<",
                Comparison::LessOrEqual => "<=",
                Comparison::Greater => ">",
                Comparison::GreaterOrEqual => ">=",
            };
            Some(format!(
                "{} {symbol} {}",
                name(column)?,
                literal(value, kind)?
            ))
        }
        Predicate::In(column, values) => {
            if values.len() > LIST_MAX {
                return None;
            }
            let kind = kind_of(column, schema)?;
            let literals = values
                .iter()
                .map(|value| literal(value, kind))
                .collect::<Option<Vec<_>>>();
            let found = format!("{} in [{}]", name(column)?, literals?.join(", "));
            Some(if negated {
                format!("not ({found})")
            } else {
                found
            })
        }
        Predicate::IsNull(column) => {
            kind_of(column, schema)?;
            let null = format!("isNull({})", name(column)?);
            Some(if negated { format!("not {null}") } else { null })
        }
        Predicate::Not(inner) => render(inner, !negated, schema),
        Predicate::And(parts) if !negated => all(parts, negated, schema),
        Predicate::Or(parts) if negated => all(parts, negated, schema),
        Predicate::And(parts) | Predicate::Or(parts) => {
            let parts = parts.iter().map(|part| render(part, negated, schema));
            let parts = parts.collect::<Option<Vec<_>>>()?;
            Some(format!("({})", parts.join(" or ")))
        }
    }
}

/// All of those that can be said.
fn all(parts: &[Predicate], negated: bool, schema: &Schema) -> Option<String> {
    let parts: Vec<String> = parts
        .iter()
        .filter_map(|part| render(part, negated, schema))
        .collect();
    (!parts.is_empty()).then(|| format!("({})", parts.join(" and ")))
}

/// The column's type, where conditions on it mean the same there.
fn kind_of(column: &str, schema: &Schema) -> Option<Type> {
    let field = schema.field_with_name(column).ok()?;
    let kind = ColumnType::of(field).ok().filter(|kind| !kind.array)?;
    let known = matches!(
        field.data_type(),
        DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::Date32
            | DataType::Utf8
            | DataType::Dictionary(..)
            | DataType::Timestamp(
                TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Nanosecond,
                None
            )
    );
    known.then_some(kind.item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use strait_common::selection::{Selection, SelectionSpec};

    fn rendered(predicate: &str) -> Option<String> {
        let column = |name: &str, kind: Type| ColumnType::plain(kind).field(name);
        let schema = Schema::new(vec![
            column("d", Type::Date),
            column("t", Type::Timestamp),
            column("n", Type::Long),
            column("f", Type::Double),
            column("s", Type::Symbol),
            column("odd name", Type::Int),
        ]);
        let spec = SelectionSpec {
            predicate: Some(predicate.to_owned()),
            ..SelectionSpec::default()
        };
        let selection = Selection::resolve(&spec, &schema, 0).unwrap();
        condition(selection.predicate()?, &schema)
    }

    #[test]
    fn conditions_are_written_in_the_servers_literals() {
        let written = [
            (
                "d > '2026-11-01' and d <= '2026-11-08'",
                Some("(d > 2026.11.01 and d <= 2026.11.08)"),
            ),
            (
                "t >= '2026-11-01T09:30:00.5'",
                Some("t >= 2026.11.01T09:30:00.500"),
            ),
            ("n in (1, 3000000000)", Some("n in [1, 3000000000l]")),
            ("s = 'a\"b\\c'", Some("s == \"a\\\"b\\\\c\"")),
            ("\"odd name\" is null", Some("isNull(_\"odd name\")")),
            ("not (n < 5 or s = 'x')", Some("(n >= 5 and s != \"x\")")),
            ("not (n = 5 and s = 'x')", Some("(n != 5 or s != \"x\")")),
        ];
        for (given, expected) in written {
            assert_eq!(rendered(given).as_deref(), expected, "{given}");
        }
    }

    /// What would select too little there is not said at all, and what stands beside it by `or` neither.
    #[test]
    fn what_could_select_too_little_is_left_out() {
        assert_eq!(rendered("f > 5"), None);
        assert_eq!(rendered("s < 'b'"), None);
        assert_eq!(rendered("n = 1 or f > 5"), None);
        assert_eq!(rendered("n = 1 and f > 5").as_deref(), Some("(n == 1)"));
        assert_eq!(rendered("not (n = 1 and f > 5)"), None);
        assert_eq!(rendered("s = 'line\nbreak'"), None);
    }
}
