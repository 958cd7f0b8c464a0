//! The typed condition, and its one text.

use std::fmt;

use sqlparser::keywords::ALL_KEYWORDS;

use super::literal::sql;
use crate::value::Value;

/// How a column is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    /// What the comparison says of this order of column and value.
    pub fn holds(self, order: std::cmp::Ordering) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        match self {
            Comparison::Equal => order == Equal,
            Comparison::NotEqual => order != Equal,
            Comparison::Less => order == Less,
            Comparison::LessOrEqual => order != Greater,
            Comparison::Greater => order == Greater,
            Comparison::GreaterOrEqual => order != Less,
        }
    }

    /// The same with both sides changed round.
    #[must_use]
    pub fn mirrored(self) -> Comparison {
        match self {
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
            same => same,
        }
    }

    /// What holds where this does not.
    #[must_use]
    pub fn opposite(self) -> Comparison {
        match self {
            Comparison::Equal => Comparison::NotEqual,
            Comparison::NotEqual => Comparison::Equal,
            Comparison::Less => Comparison::GreaterOrEqual,
            Comparison::LessOrEqual => Comparison::Greater,
            Comparison::Greater => Comparison::LessOrEqual,
            Comparison::GreaterOrEqual => Comparison::Less,
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "<>",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }
}

/// A condition on rows, with SQL's three values. Values are of the class that the column has: integers and decimals compare exactly, timestamps are
/// civil where the column is, and instants where it is zoned.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// The same for every row; `None` is unknown.
    Constant(Option<bool>),
    /// A column against a value; unknown where the column is null.
    Compare(String, Comparison, Value),
    /// Whether a column is one of these values; unknown where it is null. Never empty.
    In(String, Vec<Value>),
    /// Whether a column is null.
    IsNull(String),
    /// The opposite; unknown stays unknown.
    Not(Box<Predicate>),
    /// All of these.
    And(Vec<Predicate>),
    /// One of these.
    Or(Vec<Predicate>),
}

impl Predicate {
    /// All of these, as one flat list.
    pub(super) fn all(parts: Vec<Predicate>) -> Predicate {
        let inner = |part| match part {
            Predicate::And(inner) => inner,
            other => vec![other],
        };
        Predicate::list(parts, inner, Predicate::And)
    }

    /// One of these, as one flat list.
    pub(super) fn any(parts: Vec<Predicate>) -> Predicate {
        let inner = |part| match part {
            Predicate::Or(inner) => inner,
            other => vec![other],
        };
        Predicate::list(parts, inner, Predicate::Or)
    }

    fn list(
        parts: Vec<Predicate>,
        inner: fn(Predicate) -> Vec<Predicate>,
        list: fn(Vec<Predicate>) -> Predicate,
    ) -> Predicate {
        let mut flat: Vec<Predicate> = parts.into_iter().flat_map(inner).collect();
        if flat.len() == 1 {
            flat.remove(0)
        } else {
            list(flat)
        }
    }

    /// The opposite.
    pub(super) fn negated(self) -> Predicate {
        match self {
            Predicate::Not(inner) => *inner,
            other => Predicate::Not(Box::new(other)),
        }
    }

    /// Tells the columns that it looks at, in order, with repetitions.
    pub fn visit_columns(&self, visit: &mut impl FnMut(&str)) {
        match self {
            Predicate::Constant(_) => {}
            Predicate::Compare(column, ..)
            | Predicate::In(column, _)
            | Predicate::IsNull(column) => visit(column),
            Predicate::Not(inner) => inner.visit_columns(visit),
            Predicate::And(parts) | Predicate::Or(parts) => {
                parts.iter().for_each(|part| part.visit_columns(visit))
            }
        }
    }
}

/// A column's name as SQL writes it when it is not plain, or could be read as a word of SQL.
pub(super) fn quoted(column: &str) -> String {
    let plain = column
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !column.starts_with(|c: char| c.is_ascii_digit())
        && ALL_KEYWORDS
            .binary_search(&column.to_ascii_uppercase().as_str())
            .is_err();
    if plain && !column.is_empty() {
        column.to_owned()
    } else {
        format!("\"{}\"", column.replace('"', "\"\""))
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, parts: &[Predicate], word: &str| {
            f.write_str("(")?;
            for (at, part) in parts.iter().enumerate() {
                if at > 0 {
                    write!(f, " {word} ")?;
                }
                part.fmt(f)?;
            }
            f.write_str(")")
        };
        match self {
            Predicate::Constant(None) => f.write_str("null"),
            Predicate::Constant(Some(value)) => write!(f, "{value}"),
            Predicate::Compare(column, comparison, value) => {
                write!(
                    f,
                    "{} {} {}",
                    quoted(column),
                    comparison.symbol(),
                    sql(value)
                )
            }
            Predicate::In(column, values) => {
                let values: Vec<String> = values.iter().map(sql).collect();
                write!(f, "{} in ({})", quoted(column), values.join(", "))
            }
            Predicate::IsNull(column) => write!(f, "{} is null", quoted(column)),
            Predicate::Not(inner) => write!(f, "not ({inner})"),
            Predicate::And(parts) => list(f, parts, "and"),
            Predicate::Or(parts) => list(f, parts, "or"),
        }
    }
}
