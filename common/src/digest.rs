//! The digest: an order-free 128-bit fingerprint of rows, the same for every engine, and exact enough to
//! be computed again in another language.
//!
//! # Algorithm `x1`
//!
//! A row is written as bytes, column after column in the run's order; its hash is XXH3-128 (seed 0) of those bytes, and the
//! digest of a set of rows is the sum of their hashes modulo 2^128 (each hash as an unsigned integer), kept with the number of rows. A row that
//! occurs twice counts twice. It is no defence against a forger.
//!
//! A cell is one tag byte, `2 × class`, plus 1 if it is null, and then, unless it is null, its canonical bytes. All integers
//! are little endian. Every form is self-delimiting, so no two different rows have the same bytes.
//!
//! | class | Arrow types | canonical bytes |
//! | --- | --- | --- |
//! | 0 null | Null | none (always null) |
//! | 1 bool | Boolean | 1 byte, 0 or 1 |
//! | 2 integer | every width, signed or not | the low 64 bits, then one byte 0, or 255 if negative |
//! | 3 float | Float16/32/64 | IEEE 754 binary64; -0.0 as 0.0, every NaN as 0x7ff8000000000000 |
//! | 4 decimal | every width | scale as i8 after removing trailing zeros (0 for zero), then the unscaled value in 32 bytes, two's complement |
//! | 5 string | Utf8 of any layout | length in 8 bytes, then UTF-8 |
//! | 6 binary | Binary of any layout, fixed size too | length in 8 bytes, then bytes |
//! | 7 date | Date32/64 | milliseconds since 1970-01-01 in 8 bytes |
//! | 8 time | Time32/64 | nanoseconds since midnight in 8 bytes |
//! | 9 timestamp | every unit; the zone is a matter of the schema | nanoseconds since 1970-01-01T00:00:00 in 16 bytes |
//! | 10 duration | every unit | nanoseconds in 16 bytes |
//! | 11 interval | all three | months and days in 4 bytes each, nanoseconds in 8 |
//! | 12 list | every list layout | number of items in 8 bytes, then the items as cells |
//! | 13 struct | Struct | the fields as cells, in schema order |
//! | 14 map | Map | number of entries in 8 bytes, then key and value of each as cells, in stored order |
//!
//! Dictionaries and run-end encodings count as what they encode. Unions have no class and are refused.
//!
//! The [`DigestId`] names the algorithm and the ordered (name, class) list: `x1-` and the XXH3-128, in hex, of the
//! columns written as `name:class`, each followed by a line feed, where a nested class is written `list<5>`, `struct<a:2,b:5>`, `map<5,2>`.

mod cells;

use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use self::cells::{Cells, cells_of};
use crate::error::{Error, Result};

/// The sum of row hashes modulo 2^128. Written as 32 hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of both sets of rows together.
    #[must_use]
    pub fn plus(self, other: Digest) -> Digest {
        Digest(self.0.wrapping_add(other.0))
    }

    /// For the wire: 16 bytes, little endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    /// From the wire.
    ///
    /// # Errors
    /// `Corrupt` unless there are 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Digest> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Error::corrupt(format!("a digest of {} bytes, not 16", bytes.len())))?;
        Ok(Digest(u128::from_le_bytes(bytes)))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Digest> {
        // One text for each digest, as texts are compared too; the parser alone takes signs and any length.
        let plain = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let digits = text.len() == 32 && text.bytes().all(plain);
        u128::from_str_radix(&text, 16)
            .ok()
            .filter(|_| digits)
            .map(Digest)
            .ok_or_else(|| Error::corrupt(format!("'{text}' is not a digest")))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// The name of the algorithm, as agents tell each other which they know.
pub const ALGORITHM: &str = "x1";

/// Names the algorithm and the ordered list of columns that a digest was computed by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DigestId(pub String);

impl DigestId {
    /// The id for rows of this schema, in its column order.
    ///
    /// # Errors
    /// `Schema` if a column's type has no class.
    pub fn of(schema: &Schema) -> Result<DigestId> {
        let mut text = String::new();
        for field in schema.fields() {
            let class = class_text(field.data_type()).ok_or_else(|| {
                Error::schema(format!(
                    "column {}: type {} cannot be compared",
                    field.name(),
                    field.data_type()
                ))
            })?;
            text.push_str(&format!("{}:{class}\n", field.name()));
        }
        Ok(DigestId(format!(
            "{ALGORITHM}-{:032x}",
            xxh3_128(text.as_bytes())
        )))
    }
}

impl fmt::Display for DigestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Rows that are written down together, before they are hashed: so few that they stay in the nearest cache.
const PASS_ROWS: usize = 256;
/// The most that is written down at once. A longer row is hashed piece by piece, since a list of small numbers is written as ten
/// times its bytes.
const SCRATCH_BYTES_MAX: usize = 256 << 10;

/// The digest of all rows of a batch, over all its columns in their order. Holds at most 256 KiB beside the batch.
///
/// # Errors
/// `Schema` if a column's type has no class.
pub fn digest(batch: &RecordBatch) -> Result<Digest> {
    let fields = batch.schema_ref().fields();
    let columns = fields.iter().zip(batch.columns()).map(|(field, column)| {
        cells_of(column).map_err(|error| error.context(format!("column {}", field.name())))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let mut scratch = Vec::new();
    let mut lengths = [0; PASS_ROWS];
    let mut sum = 0u128;
    let mut start = 0;
    while start < batch.num_rows() {
        let rows = PASS_ROWS.min(batch.num_rows() - start);
        let lengths = &mut lengths[..rows];
        lengths.fill(0);
        for column in &columns {
            column.add_lengths(start, lengths);
        }
        let mut done = 0;
        while done < rows {
            // As many rows as the scratch holds.
            let mut bytes = 0;
            let fitting = lengths[done..].iter().take_while(|length| {
                bytes += **length;
                bytes <= SCRATCH_BYTES_MAX
            });
            let fitting = fitting.count();
            let row = start + done;
            let hashes = if fitting == 0 {
                hash_in_pieces(&columns, row)
            } else {
                sum_of_hashes(&columns, row, &lengths[done..done + fitting], &mut scratch)
            };
            sum = sum.wrapping_add(hashes);
            done += fitting.max(1);
        }
        start += rows;
    }
    Ok(Digest(sum))
}

/// Writes the rows from `start` on, whose lengths these are, column by column, and adds up their hashes.
fn sum_of_hashes(
    columns: &[Box<dyn Cells + '_>],
    start: usize,
    lengths: &[usize],
    scratch: &mut Vec<u8>,
) -> u128 {
    let mut places = [0; PASS_ROWS];
    let places = &mut places[..lengths.len()];
    let mut total = 0;
    for (place, length) in places.iter_mut().zip(lengths) {
        *place = total;
        total += length;
    }
    // Grown, never cleared: every byte that is read below is written first.
    if scratch.len() < total {
        scratch.resize(total, 0);
    }
    for column in columns {
        column.write(start, places, scratch);
    }
    let mut sum = 0u128;
    let mut from = 0;
    for &to in places.iter() {
        sum = sum.wrapping_add(xxh3_128(&scratch[from..to]));
        from = to;
    }
    sum
}

/// The hash of one row that is too long to be written down.
fn hash_in_pieces(columns: &[Box<dyn Cells + '_>], row: usize) -> u128 {
    let mut hasher = Xxh3::new();
    for column in columns {
        column.feed(row, &mut |piece| hasher.update(piece));
    }
    hasher.digest128()
}

fn unknown(data_type: &DataType) -> Error {
    Error::schema(format!("type {data_type} cannot be compared"))
}

fn class_of(data_type: &DataType) -> Option<u8> {
    Some(match data_type {
        DataType::Null => 0,
        DataType::Boolean => 1,
        data_type if data_type.is_integer() => 2,
        data_type if data_type.is_floating() => 3,
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => 4,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => 5,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => 6,
        DataType::Date32 | DataType::Date64 => 7,
        DataType::Time32(_) | DataType::Time64(_) => 8,
        DataType::Timestamp(..) => 9,
        DataType::Duration(_) => 10,
        DataType::Interval(_) => 11,
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::FixedSizeList(..) => 12,
        DataType::Struct(_) => 13,
        DataType::Map(..) => 14,
        DataType::Dictionary(_, values) => class_of(values)?,
        DataType::RunEndEncoded(_, values) => class_of(values.data_type())?,
        _ => return None,
    })
}

fn class_text(data_type: &DataType) -> Option<String> {
    Some(match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => format!("list<{}>", class_text(item.data_type())?),
        DataType::Struct(fields) => {
            let fields = fields
                .iter()
                .map(|f| Some(format!("{}:{}", f.name(), class_text(f.data_type())?)));
            format!("struct<{}>", fields.collect::<Option<Vec<_>>>()?.join(","))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let items = fields.iter().map(|f| class_text(f.data_type()));
                format!("map<{}>", items.collect::<Option<Vec<_>>>()?.join(","))
            }
            _ => return None,
        },
        DataType::Dictionary(_, values) => class_text(values)?,
        DataType::RunEndEncoded(_, values) => class_text(values.data_type())?,
        other => class_of(other)?.to_string(),
    })
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
