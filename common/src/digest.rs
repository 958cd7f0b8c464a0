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

use std::fmt;

use arrow::array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type,
    Decimal64Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType,
    IntervalMonthDayNanoType, IntervalYearMonthType, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, downcast_dictionary_array};
use arrow::datatypes::{DataType, IntervalUnit, Schema, TimeUnit, i256};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

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
        u128::from_str_radix(&text, 16)
            .map(Digest)
            .map_err(|_| Error::corrupt(format!("'{text}' is not a digest")))
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

/// The digest of all rows of a batch, over all its columns in their order.
///
/// # Errors
/// `Schema` if a column's type has no class.
pub fn digest(batch: &RecordBatch) -> Result<Digest> {
    let mut scratch = Vec::new();
    let mut sum = 0u128;
    let mut start = 0;
    while start < batch.num_rows() {
        let rows = rows_per_pass(batch, start);
        let slices: Vec<ArrayRef> = batch
            .columns()
            .iter()
            .map(|column| column.slice(start, rows))
            .collect();
        sum = sum.wrapping_add(digest_pass(&slices, rows, &mut scratch)?);
        start += rows;
    }
    Ok(Digest(sum))
}

/// Rows are written to a scratch buffer that should stay in the cache; a pass takes so many that it does. Wide
/// rows are found by their share of the variable-length columns.
fn rows_per_pass(batch: &RecordBatch, start: usize) -> usize {
    const PASS_ROWS: usize = 1024;
    const PASS_BYTES: usize = 1 << 20;
    let left = batch.num_rows() - start;
    let bytes = batch.get_array_memory_size() / batch.num_rows().max(1);
    left.min(PASS_ROWS).min((PASS_BYTES / bytes.max(1)).max(1))
}

fn digest_pass(columns: &[ArrayRef], rows: usize, scratch: &mut Vec<u8>) -> Result<u128> {
    let columns = columns
        .iter()
        .map(|column| Cells::of(column.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    // Column by column: first how long each row is, then each cell to its place.
    let mut ends = vec![0usize; rows];
    for column in &columns {
        column.add_lengths(&mut ends);
    }
    let mut total = 0;
    let mut at = Vec::with_capacity(rows);
    for end in &mut ends {
        at.push(total);
        total += *end;
        *end = total;
    }
    scratch.clear();
    scratch.resize(total, 0);
    for column in &columns {
        column.write(&mut at, scratch);
    }
    let mut sum = 0u128;
    let mut start = 0;
    for end in ends {
        sum = sum.wrapping_add(xxh3_128(&scratch[start..end]));
        start = end;
    }
    Ok(sum)
}

/// The cells of one column, ready to be written as canonical bytes.
struct Cells<'a> {
    class: u8,
    nulls: Option<arrow::buffer::NullBuffer>,
    values: Values<'a>,
}

type Put<'a, const N: usize> = Box<dyn Fn(usize) -> [u8; N] + 'a>;

enum Values<'a> {
    Null,
    One(Put<'a, 1>),
    Eight(Put<'a, 8>),
    Integer(Put<'a, 9>),
    Sixteen(Put<'a, 16>),
    Decimal(Put<'a, 33>),
    Bytes(Box<dyn Fn(usize) -> &'a [u8] + 'a>),
    /// The item range of each row, and the items.
    List(Box<dyn Fn(usize) -> (usize, usize) + 'a>, Vec<Cells<'a>>),
    Struct(Vec<Cells<'a>>),
    /// The place of each row's value in a dictionary or run-end encoding.
    Indirect(Box<dyn Fn(usize) -> usize + 'a>, Box<Cells<'a>>),
}

impl<'a> Cells<'a> {
    fn of(array: &'a dyn Array) -> Result<Cells<'a>> {
        let class = class_of(array.data_type()).ok_or_else(|| unknown(array.data_type()))?;
        let values = match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => {
                let array = array.as_boolean();
                Values::One(Box::new(move |i| [u8::from(array.value(i))]))
            }
            DataType::Int8 => integers::<Int8Type>(array, i128::from),
            DataType::Int16 => integers::<Int16Type>(array, i128::from),
            DataType::Int32 => integers::<Int32Type>(array, i128::from),
            DataType::Int64 => integers::<Int64Type>(array, i128::from),
            DataType::UInt8 => integers::<UInt8Type>(array, i128::from),
            DataType::UInt16 => integers::<UInt16Type>(array, i128::from),
            DataType::UInt32 => integers::<UInt32Type>(array, i128::from),
            DataType::UInt64 => integers::<UInt64Type>(array, i128::from),
            DataType::Float16 => floats::<Float16Type>(array, |v| f64::from(f32::from(v))),
            DataType::Float32 => floats::<Float32Type>(array, f64::from),
            DataType::Float64 => floats::<Float64Type>(array, |v| v),
            DataType::Decimal32(_, scale) => {
                decimals::<Decimal32Type>(array, *scale, |v| i256::from_i128(i128::from(v)))
            }
            DataType::Decimal64(_, scale) => {
                decimals::<Decimal64Type>(array, *scale, |v| i256::from_i128(i128::from(v)))
            }
            DataType::Decimal128(_, scale) => {
                decimals::<Decimal128Type>(array, *scale, i256::from_i128)
            }
            DataType::Decimal256(_, scale) => decimals::<Decimal256Type>(array, *scale, |v| v),
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                Values::Bytes(Box::new(move |i| array.value(i).as_bytes()))
            }
            DataType::LargeUtf8 => {
                let array = array.as_string::<i64>();
                Values::Bytes(Box::new(move |i| array.value(i).as_bytes()))
            }
            DataType::Utf8View => {
                let array = array.as_string_view();
                Values::Bytes(Box::new(move |i| array.value(i).as_bytes()))
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                Values::Bytes(Box::new(move |i| array.value(i)))
            }
            DataType::LargeBinary => {
                let array = array.as_binary::<i64>();
                Values::Bytes(Box::new(move |i| array.value(i)))
            }
            DataType::BinaryView => {
                let array = array.as_binary_view();
                Values::Bytes(Box::new(move |i| array.value(i)))
            }
            DataType::FixedSizeBinary(_) => {
                let array = array.as_fixed_size_binary();
                Values::Bytes(Box::new(move |i| array.value(i)))
            }
            DataType::Date32 => eights::<Date32Type>(array, |days| i64::from(days) * 86_400_000),
            DataType::Date64 => eights::<Date64Type>(array, |ms| ms),
            DataType::Time32(TimeUnit::Second) => {
                eights::<Time32SecondType>(array, |v| i64::from(v) * 1_000_000_000)
            }
            DataType::Time32(_) => {
                eights::<Time32MillisecondType>(array, |v| i64::from(v) * 1_000_000)
            }
            DataType::Time64(TimeUnit::Microsecond) => {
                eights::<Time64MicrosecondType>(array, |v| v.wrapping_mul(1000))
            }
            DataType::Time64(_) => eights::<Time64NanosecondType>(array, |v| v),
            DataType::Timestamp(TimeUnit::Second, _) => {
                sixteens::<TimestampSecondType>(array, 1_000_000_000)
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                sixteens::<TimestampMillisecondType>(array, 1_000_000)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                sixteens::<TimestampMicrosecondType>(array, 1000)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                sixteens::<TimestampNanosecondType>(array, 1)
            }
            DataType::Duration(TimeUnit::Second) => {
                sixteens::<DurationSecondType>(array, 1_000_000_000)
            }
            DataType::Duration(TimeUnit::Millisecond) => {
                sixteens::<DurationMillisecondType>(array, 1_000_000)
            }
            DataType::Duration(TimeUnit::Microsecond) => {
                sixteens::<DurationMicrosecondType>(array, 1000)
            }
            DataType::Duration(TimeUnit::Nanosecond) => {
                sixteens::<DurationNanosecondType>(array, 1)
            }
            DataType::Interval(IntervalUnit::YearMonth) => {
                let array = array.as_primitive::<IntervalYearMonthType>();
                Values::Sixteen(Box::new(move |i| interval(array.value(i), 0, 0)))
            }
            DataType::Interval(IntervalUnit::DayTime) => {
                let array = array.as_primitive::<IntervalDayTimeType>();
                Values::Sixteen(Box::new(move |i| {
                    let value = array.value(i);
                    interval(0, value.days, i64::from(value.milliseconds) * 1_000_000)
                }))
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                let array = array.as_primitive::<IntervalMonthDayNanoType>();
                Values::Sixteen(Box::new(move |i| {
                    let value = array.value(i);
                    interval(value.months, value.days, value.nanoseconds)
                }))
            }
            DataType::List(_) => {
                let array = array.as_list::<i32>();
                let offsets = array.value_offsets();
                let range = move |i: usize| (as_index(offsets[i]), as_index(offsets[i + 1]));
                Values::List(Box::new(range), vec![Cells::of(array.values().as_ref())?])
            }
            DataType::LargeList(_) => {
                let array = array.as_list::<i64>();
                let offsets = array.value_offsets();
                let range = move |i: usize| (as_index(offsets[i]), as_index(offsets[i + 1]));
                Values::List(Box::new(range), vec![Cells::of(array.values().as_ref())?])
            }
            DataType::ListView(_) => {
                let array = array.as_list_view::<i32>();
                let range = move |i: usize| {
                    let start = as_index(array.value_offset(i));
                    (start, start + as_index(array.value_size(i)))
                };
                Values::List(Box::new(range), vec![Cells::of(array.values().as_ref())?])
            }
            DataType::LargeListView(_) => {
                let array = array.as_list_view::<i64>();
                let range = move |i: usize| {
                    let start = as_index(array.value_offset(i));
                    (start, start + as_index(array.value_size(i)))
                };
                Values::List(Box::new(range), vec![Cells::of(array.values().as_ref())?])
            }
            DataType::FixedSizeList(_, _) => {
                let array = array.as_fixed_size_list();
                let width = as_index(array.value_length());
                let range = move |i: usize| {
                    let start = as_index(array.value_offset(i));
                    (start, start + width)
                };
                Values::List(Box::new(range), vec![Cells::of(array.values().as_ref())?])
            }
            DataType::Map(_, _) => {
                let array = array.as_map();
                let offsets = array.value_offsets();
                let range = move |i: usize| (as_index(offsets[i]), as_index(offsets[i + 1]));
                let items = [array.keys(), array.values()]
                    .into_iter()
                    .map(|items| Cells::of(items.as_ref()));
                Values::List(Box::new(range), items.collect::<Result<_>>()?)
            }
            DataType::Struct(_) => {
                let fields = array
                    .as_struct()
                    .columns()
                    .iter()
                    .map(|field| Cells::of(field.as_ref()));
                Values::Struct(fields.collect::<Result<_>>()?)
            }
            DataType::Dictionary(_, _) => downcast_dictionary_array! {
                array => dictionary(array)?,
                other => return Err(unknown(other)),
            },
            other => return Err(unknown(other)),
        };
        Ok(Cells {
            class,
            nulls: array.logical_nulls(),
            values,
        })
    }

    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    fn add_lengths(&self, lengths: &mut [usize]) {
        for (row, length) in lengths.iter_mut().enumerate() {
            *length += self.length(row);
        }
    }

    fn length(&self, row: usize) -> usize {
        if self.is_null(row) {
            return 1;
        }
        1 + match &self.values {
            Values::Null => 0,
            Values::One(_) => 1,
            Values::Eight(_) => 8,
            Values::Integer(_) => 9,
            Values::Sixteen(_) => 16,
            Values::Decimal(_) => 33,
            Values::Bytes(get) => 8 + get(row).len(),
            Values::List(range, items) => {
                let (start, end) = range(row);
                8 + (start..end)
                    .map(|item| items.iter().map(|cells| cells.length(item)).sum::<usize>())
                    .sum::<usize>()
            }
            Values::Struct(fields) => fields.iter().map(|cells| cells.length(row)).sum(),
            Values::Indirect(index, cells) => return cells.length(index(row)),
        }
    }

    /// Writes each row's cell at its place and moves the place on.
    fn write(&self, at: &mut [usize], out: &mut [u8]) {
        fn fixed<const N: usize>(
            cells: &Cells<'_>,
            put: &Put<'_, N>,
            at: &mut [usize],
            out: &mut [u8],
        ) {
            let tag = cells.class * 2;
            for (row, at) in at.iter_mut().enumerate() {
                if cells.is_null(row) {
                    out[*at] = tag + 1;
                    *at += 1;
                } else {
                    out[*at] = tag;
                    out[*at + 1..*at + 1 + N].copy_from_slice(&put(row));
                    *at += 1 + N;
                }
            }
        }
        match &self.values {
            Values::One(put) => fixed(self, put, at, out),
            Values::Eight(put) => fixed(self, put, at, out),
            Values::Integer(put) => fixed(self, put, at, out),
            Values::Sixteen(put) => fixed(self, put, at, out),
            Values::Decimal(put) => fixed(self, put, at, out),
            _ => at
                .iter_mut()
                .enumerate()
                .for_each(|(row, at)| self.write_cell(row, at, out)),
        }
    }

    fn write_cell(&self, row: usize, at: &mut usize, out: &mut [u8]) {
        if let (false, Values::Indirect(index, cells)) = (self.is_null(row), &self.values) {
            return cells.write_cell(index(row), at, out);
        }
        put(out, at, &[self.class * 2 + u8::from(self.is_null(row))]);
        if self.is_null(row) {
            return;
        }
        match &self.values {
            Values::Null | Values::Indirect(..) => {}
            Values::One(get) => put(out, at, &get(row)),
            Values::Eight(get) => put(out, at, &get(row)),
            Values::Integer(get) => put(out, at, &get(row)),
            Values::Sixteen(get) => put(out, at, &get(row)),
            Values::Decimal(get) => put(out, at, &get(row)),
            Values::Bytes(get) => {
                let bytes = get(row);
                put(out, at, &(bytes.len() as u64).to_le_bytes());
                put(out, at, bytes);
            }
            Values::List(range, items) => {
                let (start, end) = range(row);
                put(out, at, &((end - start) as u64).to_le_bytes());
                for item in start..end {
                    items
                        .iter()
                        .for_each(|cells| cells.write_cell(item, at, out));
                }
            }
            Values::Struct(fields) => fields
                .iter()
                .for_each(|cells| cells.write_cell(row, at, out)),
        }
    }
}

fn put(out: &mut [u8], at: &mut usize, bytes: &[u8]) {
    out[*at..*at + bytes.len()].copy_from_slice(bytes);
    *at += bytes.len();
}

fn integers<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    widen: fn(T::Native) -> i128,
) -> Values<'a> {
    let values = array.as_primitive::<T>().values();
    Values::Integer(Box::new(move |i| {
        let value = widen(values[i]);
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&value.to_le_bytes()[..8]);
        bytes[8] = if value < 0 { 255 } else { 0 };
        bytes
    }))
}

fn floats<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    widen: fn(T::Native) -> f64,
) -> Values<'a> {
    let values = array.as_primitive::<T>().values();
    Values::Eight(Box::new(move |i| {
        let value = widen(values[i]);
        let bits = if value.is_nan() {
            0x7ff8_0000_0000_0000
        } else if value == 0.0 {
            0
        } else {
            value.to_bits()
        };
        bits.to_le_bytes()
    }))
}

fn decimals<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    scale: i8,
    widen: fn(T::Native) -> i256,
) -> Values<'a> {
    let values = array.as_primitive::<T>().values();
    let ten = i256::from_i128(10);
    Values::Decimal(Box::new(move |i| {
        let (mut value, mut scale) = (widen(values[i]), scale);
        if value == i256::ZERO {
            scale = 0;
        } else if let Some(mut small) = value.to_i128() {
            // The common case, without 256-bit division.
            while small % 10 == 0 && scale > i8::MIN {
                small /= 10;
                scale -= 1;
            }
            value = i256::from_i128(small);
        } else {
            while value.wrapping_rem(ten) == i256::ZERO && scale > i8::MIN {
                value = value.wrapping_div(ten);
                scale -= 1;
            }
        }
        let mut bytes = [0; 33];
        bytes[0] = scale.to_le_bytes()[0];
        bytes[1..].copy_from_slice(&value.to_le_bytes());
        bytes
    }))
}

fn eights<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    canonical: fn(T::Native) -> i64,
) -> Values<'a> {
    let values = array.as_primitive::<T>().values();
    Values::Eight(Box::new(move |i| canonical(values[i]).to_le_bytes()))
}

fn sixteens<'a, T: ArrowPrimitiveType<Native = i64>>(
    array: &'a dyn Array,
    unit_ns: i128,
) -> Values<'a> {
    let values = array.as_primitive::<T>().values();
    Values::Sixteen(Box::new(move |i| {
        (i128::from(values[i]) * unit_ns).to_le_bytes()
    }))
}

fn interval(months: i32, days: i32, ns: i64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&months.to_le_bytes());
    bytes[4..8].copy_from_slice(&days.to_le_bytes());
    bytes[8..].copy_from_slice(&ns.to_le_bytes());
    bytes
}

fn dictionary<'a, K: ArrowDictionaryKeyType>(
    array: &'a arrow::array::DictionaryArray<K>,
) -> Result<Values<'a>> {
    use arrow::datatypes::ArrowNativeType;
    let keys = array.keys().values();
    let cells = Cells::of(array.values().as_ref())?;
    Ok(Values::Indirect(
        Box::new(move |i| keys[i].as_usize()),
        Box::new(cells),
    ))
}

fn as_index(offset: impl TryInto<usize>) -> usize {
    // Arrow checked the offsets when the array was made.
    offset.try_into().unwrap_or(0)
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
        other => class_of(other)?.to_string(),
    })
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
