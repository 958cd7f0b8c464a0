//! The partition key: which part of a table a partition is, in one canonical text.
//!
//! `TradingDay=2026-11-01/Symbol='IBM'`: one part per level of the division, in its order. A part is a value, a range
//! `[from,to)` with either end open as `*`, bucket `i of n` as `bucket(i,n)`, or `null`. A table without partitions has
//! one, whose key has no part and whose text is empty. The text names the partition in the ledger, in receipts, on
//! the command line and in a bundle; it never depends on a plan.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::value::Value;

/// The longest canonical text, in bytes.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// What one level of the division says about a partition's rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cell {
    /// The column is null in every row.
    Null,
    /// The column has this value in every row.
    Value(Value),
    /// `from <= column < to`; an absent end is open.
    Range {
        /// The least value, included.
        from: Option<Value>,
        /// The bound above, excluded.
        to: Option<Value>,
    },
    /// The column hashes to bucket `index` of `count`, by the source engine's hash.
    Bucket {
        /// From 0.
        index: u32,
        /// How many buckets there are.
        count: u32,
    },
}

/// The ordered list of (column, cell) that names a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartitionKey {
    parts: Vec<(String, Cell)>,
}

impl PartitionKey {
    /// The key of these parts, in the order of the table's division.
    ///
    /// # Errors
    /// `Refused` if its text would be longer than [`KEY_BYTES_MAX`].
    pub fn new(parts: Vec<(String, Cell)>) -> Result<PartitionKey> {
        let key = PartitionKey { parts };
        let bytes = key.to_string().len();
        if bytes > KEY_BYTES_MAX {
            return Err(Error::refused(format!(
                "a partition key of {bytes} bytes is longer than {KEY_BYTES_MAX}"
            )));
        }
        Ok(key)
    }

    /// The (column, cell) of each level.
    pub fn parts(&self) -> &[(String, Cell)] {
        &self.parts
    }

    /// The cell of this column, where the division has it.
    pub fn cell(&self, column: &str) -> Option<&Cell> {
        self.parts
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, cell)| cell)
    }

    /// Whether this is the one partition of a table without partitions.
    pub fn is_whole_table(&self) -> bool {
        self.parts.is_empty()
    }

    /// The key for people, who know a table without partitions as "(all)".
    pub fn label(&self) -> String {
        if self.is_whole_table() {
            "(all)".to_owned()
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (column, cell)) in self.parts.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            write!(f, "{}={cell}", escape_column(column))?;
        }
        Ok(())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |value: &Option<Value>| {
            value
                .as_ref()
                .map_or_else(|| "*".to_owned(), Value::to_string)
        };
        match self {
            Cell::Null => f.write_str("null"),
            Cell::Value(value) => value.fmt(f),
            Cell::Range { from, to } => write!(f, "[{},{})", end(from), end(to)),
            Cell::Bucket { index, count } => write!(f, "bucket({index},{count})"),
        }
    }
}

impl FromStr for PartitionKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<PartitionKey> {
        if text.len() > KEY_BYTES_MAX {
            return Err(Error::config(format!(
                "a partition key of {} bytes is longer than {KEY_BYTES_MAX}",
                text.len()
            )));
        }
        if text.is_empty() {
            return Ok(PartitionKey::default());
        }
        let parts = text.split('/').map(parse_part).collect::<Result<_>>();
        Ok(PartitionKey {
            parts: parts.with_context(|| format!("partition key '{text}'"))?,
        })
    }
}

impl TryFrom<String> for PartitionKey {
    type Error = Error;

    fn try_from(text: String) -> Result<PartitionKey> {
        text.parse()
    }
}

impl From<PartitionKey> for String {
    fn from(key: PartitionKey) -> String {
        key.to_string()
    }
}

fn parse_part(part: &str) -> Result<(String, Cell)> {
    let (column, cell) = part
        .split_once('=')
        .ok_or_else(|| Error::config(format!("'{part}' is not column=value")))?;
    let column = unescape_column(column)
        .ok_or_else(|| Error::config(format!("'{column}' is not a column name")))?;
    Ok((column, parse_cell(cell)?))
}

fn parse_cell(text: &str) -> Result<Cell> {
    if text == "null" {
        return Ok(Cell::Null);
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(')')) {
        let comma =
            range_comma(inner).ok_or_else(|| Error::config(format!("'{text}' is not a range")))?;
        let end = |t: &str| {
            if t == "*" {
                Ok(None)
            } else {
                Value::parse(t).map(Some)
            }
        };
        return Ok(Cell::Range {
            from: end(&inner[..comma])?,
            to: end(&inner[comma + 1..])?,
        });
    }
    if let Some(inner) = text
        .strip_prefix("bucket(")
        .and_then(|t| t.strip_suffix(')'))
    {
        let bucket = inner
            .split_once(',')
            .and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, count) =
            bucket.ok_or_else(|| Error::config(format!("'{text}' is not bucket(i,n)")))?;
        return Ok(Cell::Bucket { index, count });
    }
    Value::parse(text).map(Cell::Value)
}

/// The comma between the two ends of a range: the first one outside quotes.
fn range_comma(inner: &str) -> Option<usize> {
    let mut quoted = false;
    inner.bytes().position(|byte| {
        quoted ^= byte == b'\'';
        byte == b',' && !quoted
    })
}

/// Column names are any text: what the key's own syntax uses is written as `%XX`.
fn escape_column(column: &str) -> String {
    let mut text = String::with_capacity(column.len());
    for c in column.chars() {
        if matches!(c, '/' | '=' | '%') || c.is_control() {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                text.push_str(&format!("%{byte:02X}"));
            }
        } else {
            text.push(c);
        }
    }
    text
}

fn unescape_column(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_from_its_text() {
        let string = |s: &str| Value::String(s.to_owned());
        let keys = [
            vec![],
            vec![
                ("d", Cell::Value(Value::Date(20_000))),
                ("s", Cell::Value(string("a,b/[c)=%'"))),
            ],
            vec![("a/b=c%", Cell::Null), ("n", Cell::Value(string("null")))],
            vec![(
                "r",
                Cell::Range {
                    from: Some(string("a,'b")),
                    to: None,
                },
            )],
            vec![
                (
                    "r",
                    Cell::Range {
                        from: None,
                        to: Some(Value::Int(-5)),
                    },
                ),
                (
                    "h",
                    Cell::Bucket {
                        index: 3,
                        count: 16,
                    },
                ),
            ],
        ];
        for parts in keys {
            let key = PartitionKey::new(
                parts
                    .into_iter()
                    .map(|(c, cell)| (c.to_owned(), cell))
                    .collect(),
            )
            .unwrap();
            assert_eq!(
                key.to_string().parse::<PartitionKey>().unwrap(),
                key,
                "{key}"
            );
        }
    }

    #[test]
    fn the_text_is_what_a_person_would_write() {
        let key = PartitionKey::new(vec![
            ("TradingDay".into(), Cell::Value(Value::Date(20_758))),
            ("Symbol".into(), Cell::Value(Value::String("IBM".into()))),
        ]);
        assert_eq!(
            key.unwrap().to_string(),
            "TradingDay=2026-11-01/Symbol='IBM'"
        );
    }

    #[test]
    fn a_key_that_cannot_be_read_names_itself() {
        let error = "TradingDay=tomorrow".parse::<PartitionKey>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "partition key 'TradingDay=tomorrow': 'tomorrow' is not a value of a partition key"
        );
    }
}
