//! Objects for the wire.
//!
//! A request is checked as a whole before its first byte is sent ([`check`]): a value that the server cannot hold, or would take for null, is refused by
//! column and row, and leaves the connection in step. Columns are then written one by one, so that a large table is not there twice.

use std::collections::HashMap;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, DictionaryArray, PrimitiveArray, RecordBatch,
};
use arrow::datatypes::{
    ArrowNativeType, DataType, Date32Type, Decimal32Type, Decimal64Type, Decimal128Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType,
    Time32SecondType, Time64NanosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use strait_common::{Error, Kind, OrError, Result};

use crate::compress;
use crate::decode::{COLUMNS_MAX, NULL_BOOL, SCALAR, SYMBOL_BASE, SYMBOLS_MAX, TABLE, VECTOR};
use crate::object::Column;
use crate::types::{ColumnType, Type};
use crate::wire::NAME_BYTES_MAX;

/// The longest STRING: the server cuts off what is longer, without a word.
pub const STRING_BYTES_MAX: usize = 65_535;
/// The longest SYMBOL.
pub const SYMBOL_BYTES_MAX: usize = 255;
/// The longest BLOB: the server cuts off what is longer, without a word.
pub const BLOB_BYTES_MAX: usize = (64 << 20) - 1;
/// The most rows of one vector of lists' run.
const RUN_ROWS_MAX: usize = 65_535;

/// An argument of a function.
#[derive(Clone, Debug)]
pub enum Argument {
    /// A truth.
    Bool(bool),
    /// An INT.
    Int(i32),
    /// A LONG.
    Long(i64),
    /// A STRING.
    Text(String),
    /// A vector of cells.
    Vector(Column),
    /// Columns by name, though most functions go by their order.
    Table(RecordBatch),
}

impl From<&str> for Argument {
    fn from(text: &str) -> Argument {
        Argument::Text(text.to_owned())
    }
}

/// Refuses what the server cannot hold as it is.
///
/// # Errors
/// `Schema` for a type that it lacks; `Refused` for a value, naming column and row.
pub(crate) fn check(argument: &Argument) -> Result<()> {
    match argument {
        Argument::Bool(_) | Argument::Int(_) | Argument::Long(_) => Ok(()),
        Argument::Text(text) => {
            if text.contains('\0') {
                return Err(Error::refused("an argument with a zero byte in it"));
            }
            Ok(())
        }
        Argument::Vector(column) => check_column(column.kind, &column.array),
        Argument::Table(batch) => check_table(batch),
    }
}

/// Refuses rows that the server cannot hold as they are.
///
/// # Errors
/// `Schema` for a type that it lacks; `Refused` for a value, naming column and row.
pub fn check_table(batch: &RecordBatch) -> Result<()> {
    let schema = batch.schema_ref();
    if schema.fields().len() > COLUMNS_MAX {
        return Err(Error::refused(format!("more than {COLUMNS_MAX} columns")));
    }
    i32::try_from(batch.num_rows()).or_error(Kind::Refused, "rows of one request")?;
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        let name = field.name();
        if name.contains('\0') || name.len() > NAME_BYTES_MAX {
            return Err(Error::refused(
                "a column whose name has a zero byte or is too long",
            ));
        }
        let checked = ColumnType::of(field).and_then(|kind| check_column(kind, array));
        checked.map_err(|error| error.context(format!("column {name}")))?;
    }
    Ok(())
}

fn check_column(kind: ColumnType, array: &ArrayRef) -> Result<()> {
    if !kind.array {
        return check_cells(kind.item, array);
    }
    let lists = array
        .as_list_opt::<i32>()
        .ok_or_else(|| Error::internal(format!("{} as {kind}", array.data_type())))?;
    if let Some(row) = first_null(array) {
        return Err(Error::refused(format!(
            "row {row}: a null list, which the server cannot tell from an empty one"
        )));
    }
    let (from, to) = span(lists.value_offsets());
    check_cells(kind.item, &lists.values().slice(from, to - from))
        .map_err(|error| error.context("in its lists, item by item"))
}

fn first_null(array: &dyn Array) -> Option<usize> {
    let nulls = array.nulls()?;
    (0..array.len()).find(|row| nulls.is_null(*row))
}

fn span(offsets: &[i32]) -> (usize, usize) {
    let at = |offset: Option<&i32>| offset.map_or(0, |offset| offset.as_usize());
    (at(offsets.first()), at(offsets.last()))
}

fn check_cells(item: Type, array: &ArrayRef) -> Result<()> {
    let least = |row: Option<usize>| match row {
        None => Ok(()),
        Some(row) => Err(Error::refused(format!(
            "row {row}: its value is what the server takes for null in {item}"
        ))),
    };
    match item {
        Type::Void => match array.data_type() {
            DataType::Null => Ok(()),
            other => Err(Error::internal(format!("{other} as {item}"))),
        },
        Type::Bool => typed(array.as_boolean_opt(), array, item).map(|_| ()),
        Type::Char => least(find::<Int8Type>(array, item, |v| v == i8::MIN)?),
        Type::Short => least(find::<Int16Type>(array, item, |v| v == i16::MIN)?),
        Type::Int | Type::Month => least(find::<Int32Type>(array, item, |v| v == i32::MIN)?),
        Type::Long => least(find::<Int64Type>(array, item, |v| v == i64::MIN)?),
        Type::Date => least(find::<Date32Type>(array, item, |v| v == i32::MIN)?),
        Type::Time => least(find::<Time32MillisecondType>(array, item, |v| {
            v == i32::MIN
        })?),
        Type::NanoTime => least(find::<Time64NanosecondType>(array, item, |v| {
            v == i64::MIN
        })?),
        Type::Timestamp => least(find::<TimestampMillisecondType>(array, item, |v| {
            v == i64::MIN
        })?),
        Type::NanoTimestamp => least(find::<TimestampNanosecondType>(array, item, |v| {
            v == i64::MIN
        })?),
        Type::Float => least(find::<Float32Type>(array, item, |v| v == f32::MIN)?),
        Type::Double => least(find::<Float64Type>(array, item, |v| v == f64::MIN)?),
        Type::Decimal32(_) => least(find::<Decimal32Type>(array, item, |v| v == i32::MIN)?),
        Type::Decimal64(_) => least(find::<Decimal64Type>(array, item, |v| v == i64::MIN)?),
        Type::Decimal128(_) => least(find::<Decimal128Type>(array, item, |v| v == i128::MIN)?),
        Type::Second => least(find::<Time32SecondType>(array, item, |v| v == i32::MIN)?),
        Type::Minute => whole(
            item,
            find::<Time32SecondType>(array, item, |v| unscaled(i64::from(v), item).is_none())?,
        ),
        Type::DateTime | Type::DateHour | Type::DateMinute => whole(
            item,
            find::<TimestampSecondType>(array, item, |v| unscaled(v, item).is_none())?,
        ),
        Type::Uuid | Type::IpAddr | Type::Int128 => {
            let values = typed(array.as_fixed_size_binary_opt(), array, item)?;
            let zero = |row: &usize| values.is_valid(*row) && values.value(*row) == [0; 16];
            least((0..values.len()).find(zero))
        }
        Type::Complex | Type::Point => {
            let pairs = typed(array.as_fixed_size_list_opt(), array, item)?;
            let numbers = typed(
                pairs.values().as_primitive_opt::<Float64Type>(),
                array,
                item,
            )?;
            let null = |row: &usize| {
                let at = pairs.value_offset(*row).as_usize();
                pairs.is_valid(*row)
                    && numbers.value(at) == f64::MIN
                    && numbers.value(at + 1) == f64::MIN
            };
            least((0..pairs.len()).find(null))
        }
        Type::String => {
            let texts = typed(array.as_string_opt::<i32>(), array, item)?;
            for (row, text) in texts.iter().enumerate() {
                check_text(row, text, item, STRING_BYTES_MAX)?;
            }
            Ok(())
        }
        Type::Symbol => {
            let symbols = typed(array.as_dictionary_opt::<Int32Type>(), array, item)?;
            let texts = typed(symbols.values().as_string_opt::<i32>(), array, item)?;
            // Texts that no row has do not matter.
            let mut looked = vec![false; texts.len()];
            for (row, key) in symbols.keys().iter().enumerate() {
                let Some(key) = key.and_then(|key| usize::try_from(key).ok()) else {
                    continue;
                };
                if !std::mem::replace(&mut looked[key], true) {
                    let text = texts.is_valid(key).then(|| texts.value(key));
                    check_text(row, text, item, SYMBOL_BYTES_MAX)?;
                }
            }
            Ok(())
        }
        Type::Blob => {
            let blobs = typed(array.as_binary_opt::<i64>(), array, item)?;
            for (row, blob) in blobs.iter().enumerate() {
                match blob.map(<[u8]>::len) {
                    Some(0) => return Err(empty(row, item)),
                    Some(bytes) if bytes > BLOB_BYTES_MAX => {
                        return Err(too_long(row, bytes, item, BLOB_BYTES_MAX));
                    }
                    _ => {}
                }
            }
            Ok(())
        }
    }
}

fn check_text(row: usize, text: Option<&str>, item: Type, most: usize) -> Result<()> {
    let Some(text) = text else { return Ok(()) };
    if text.is_empty() {
        return Err(empty(row, item));
    }
    if text.len() > most {
        return Err(too_long(row, text.len(), item, most));
    }
    if memchr::memchr(0, text.as_bytes()).is_some() {
        return Err(Error::refused(format!(
            "row {row}: a text with a zero byte, which {item} cannot hold"
        )));
    }
    Ok(())
}

fn empty(row: usize, item: Type) -> Error {
    Error::refused(format!(
        "row {row}: an empty value, which the server cannot tell from null in {item}"
    ))
}

fn too_long(row: usize, bytes: usize, item: Type, most: usize) -> Error {
    Error::refused(format!(
        "row {row}: a value of {bytes} bytes, and {item} holds {most}: the server would cut it off"
    ))
}

fn whole(item: Type, row: Option<usize>) -> Result<()> {
    match row {
        None => Ok(()),
        Some(row) => Err(Error::refused(format!(
            "row {row}: its value is outside of what {item} holds, or between two of its values"
        ))),
    }
}

fn typed<'a, T: ?Sized>(found: Option<&'a T>, array: &ArrayRef, item: Type) -> Result<&'a T> {
    found.ok_or_else(|| Error::internal(format!("{} as {item}", array.data_type())))
}

/// The first row whose value is like this and not null.
fn find<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    item: Type,
    like: impl Fn(T::Native) -> bool,
) -> Result<Option<usize>> {
    let values = typed(array.as_primitive_opt::<T>(), array, item)?;
    let found = (0..values.len()).find(|row| like(values.value(*row)) && values.is_valid(*row));
    Ok(found)
}

/// What is sent of seconds: whole units of 4 bytes.
fn unscaled(seconds: i64, item: Type) -> Option<i32> {
    let unit = match item {
        Type::Minute | Type::DateMinute => 60,
        Type::DateHour => 3600,
        _ => 1,
    };
    let count = (seconds % unit == 0).then_some(seconds / unit)?;
    i32::try_from(count).ok().filter(|count| *count != i32::MIN)
}

/// Writes an argument that was checked, its flag first. A table is written by [`table_head`] and [`table_column`] instead.
pub(crate) fn argument(argument: &Argument, out: &mut Vec<u8>) -> Result<()> {
    match argument {
        Argument::Bool(truth) => {
            out.extend_from_slice(&[Type::Bool.code(), SCALAR, u8::from(*truth)])
        }
        Argument::Int(value) => {
            out.extend_from_slice(&[Type::Int.code(), SCALAR]);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Argument::Long(value) => {
            out.extend_from_slice(&[Type::Long.code(), SCALAR]);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Argument::Text(text) => {
            out.extend_from_slice(&[Type::String.code(), SCALAR]);
            cstring(text, out);
        }
        Argument::Vector(column) => vector(column.kind, &column.array, &mut 0, false, out)?,
        Argument::Table(batch) => {
            table_head(batch, false, out);
            let mut bases = 0;
            for at in 0..batch.num_columns() {
                table_column(batch, at, &mut bases, false, out)?;
            }
        }
    }
    Ok(())
}

/// One cell, its flag first.
pub(crate) fn scalar(column: &Column, out: &mut Vec<u8>) -> Result<()> {
    let item = column.kind.item;
    out.extend_from_slice(&[item.code(), SCALAR]);
    if let Some(scale) = item.scale() {
        out.extend_from_slice(&i32::from(scale).to_le_bytes());
    }
    if item == Type::Symbol {
        let texts = column.texts()?;
        cstring(texts.first().map_or("", String::as_str), out);
        return Ok(());
    }
    elements(item, &column.array, out)
}

/// What stands before the columns of a table.
pub(crate) fn table_head(batch: &RecordBatch, compressed: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[if compressed { 8 } else { 0 }, TABLE]);
    out.extend_from_slice(&length(batch.num_rows()));
    out.extend_from_slice(&length(batch.num_columns()));
    cstring("", out);
    for field in batch.schema_ref().fields() {
        cstring(field.name(), out);
    }
}

/// One column of a table. `bases` counts those of its symbols.
pub(crate) fn table_column(
    batch: &RecordBatch,
    at: usize,
    bases: &mut i32,
    compressed: bool,
    out: &mut Vec<u8>,
) -> Result<()> {
    let kind = ColumnType::of(batch.schema_ref().field(at))?;
    vector(kind, batch.column(at), bases, compressed, out)
}

fn cstring(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// A number of things that was checked to fit.
fn length(count: usize) -> [u8; 4] {
    i32::try_from(count).unwrap_or(i32::MAX).to_le_bytes()
}

fn vector(
    kind: ColumnType,
    array: &ArrayRef,
    bases: &mut i32,
    compressed: bool,
    out: &mut Vec<u8>,
) -> Result<()> {
    let rows = array.len();
    if kind == ColumnType::plain(Type::Symbol) && rows > 0 {
        // The server itself never compresses these: they are codes already.
        return symbols(array, bases, out);
    }
    // Lists are rare, and how the vendor's clients cut them in blocks is not known well enough.
    if compressed && !kind.array && kind.item != Type::Void && rows > 0 {
        let mut plain = Vec::new();
        elements(kind.item, array, &mut plain)?;
        let written = match kind.item.width() {
            Some(width) => {
                let ends = (1..=rows).map(|row| row * width);
                let step = compress::BLOCK_BYTES_MAX / width;
                let cuts = ends.skip(step - 1).step_by(step).chain([rows * width]);
                compress::write(kind, rows, &plain, cuts, out)?
            }
            None => {
                let ends = ends_of(kind.item, array)?;
                compress::write(kind, rows, &plain, ends.into_iter(), out)?
            }
        };
        if written {
            return Ok(());
        }
        head(kind, rows, 1, out);
        out.append(&mut plain);
        return Ok(());
    }
    if kind.array {
        let lists = typed(array.as_list_opt::<i32>(), array, kind.item)?;
        let (from, to) = span(lists.value_offsets());
        head(kind, rows, to - from, out);
        return runs(kind.item, lists, out);
    }
    head(kind, rows, 1, out);
    elements(kind.item, array, out)
}

fn head(kind: ColumnType, rows: usize, cells: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind.code(), VECTOR]);
    out.extend_from_slice(&length(rows));
    out.extend_from_slice(&length(cells));
    if let Some(scale) = kind.item.scale() {
        out.extend_from_slice(&i32::from(scale).to_le_bytes());
    }
}

/// Where each text or BLOB ends.
fn ends_of(item: Type, array: &ArrayRef) -> Result<Vec<usize>> {
    let mut end = 0;
    let mut ends = Vec::with_capacity(array.len());
    if item == Type::Blob {
        for blob in typed(array.as_binary_opt::<i64>(), array, item)? {
            end += 4 + blob.map_or(0, <[u8]>::len);
            ends.push(end);
        }
    } else {
        for text in typed(array.as_string_opt::<i32>(), array, item)? {
            end += 1 + text.map_or(0, str::len);
            ends.push(end);
        }
    }
    Ok(ends)
}

/// The texts that rows have, each once, and the rows' places in that list, in which the first stands for null.
fn symbols(array: &ArrayRef, bases: &mut i32, out: &mut Vec<u8>) -> Result<()> {
    let symbols: &DictionaryArray<Int32Type> =
        typed(array.as_dictionary_opt::<Int32Type>(), array, Type::Symbol)?;
    let texts = typed(symbols.values().as_string_opt::<i32>(), array, Type::Symbol)?;
    let mut base = vec![""];
    let mut known: HashMap<&str, i32> = HashMap::new();
    let mut places: Vec<Option<i32>> = vec![None; texts.len()];
    let mut codes = Vec::with_capacity(4 * symbols.len());
    for key in symbols.keys() {
        let key = key.and_then(|key| usize::try_from(key).ok());
        let code = match key.filter(|key| texts.is_valid(*key)) {
            None => 0,
            Some(key) => match places[key] {
                Some(code) => code,
                None => {
                    let text = texts.value(key);
                    let next = i32::try_from(base.len()).unwrap_or(i32::MAX);
                    let code = *known.entry(text).or_insert(next);
                    if code == next {
                        base.push(text);
                    }
                    places[key] = Some(code);
                    code
                }
            },
        };
        codes.extend_from_slice(&code.to_le_bytes());
    }
    if base.len() > SYMBOLS_MAX {
        return Err(Error::refused(format!(
            "{} different symbols in one request, more than {SYMBOLS_MAX}; make the column a STRING",
            base.len()
        )));
    }
    out.extend_from_slice(&[SYMBOL_BASE, VECTOR]);
    out.extend_from_slice(&length(array.len()));
    out.extend_from_slice(&length(1));
    out.extend_from_slice(&bases.to_le_bytes());
    out.extend_from_slice(&length(base.len()));
    *bases += 1;
    for text in base {
        cstring(text, out);
    }
    out.append(&mut codes);
    Ok(())
}

/// Lists, in runs of rows.
fn runs(item: Type, lists: &arrow::array::ListArray, out: &mut Vec<u8>) -> Result<()> {
    let offsets = lists.value_offsets();
    let mut row = 0;
    while row < lists.len() {
        let rows = RUN_ROWS_MAX.min(lists.len() - row);
        let run = &offsets[row..=row + rows];
        let counts = run
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).cast_unsigned());
        let width = match counts.clone().max().unwrap_or(0) {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        };
        out.extend_from_slice(&u16::try_from(rows).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(&[width, 0]);
        for count in counts {
            out.extend_from_slice(&count.to_le_bytes()[..usize::from(width)]);
        }
        let (from, to) = span(run);
        elements(item, &lists.values().slice(from, to - from), out)?;
        row += rows;
    }
    Ok(())
}

/// The cells of a column that was checked.
fn elements(item: Type, array: &ArrayRef, out: &mut Vec<u8>) -> Result<()> {
    match item {
        Type::Void => {}
        Type::Bool => {
            let values = typed(array.as_boolean_opt(), array, item)?;
            out.extend(values.iter().map(|value| value.map_or(NULL_BOOL, u8::from)));
        }
        Type::Char => numbers::<Int8Type, 1>(array, item, i8::MIN, i8::to_le_bytes, out)?,
        Type::Short => numbers::<Int16Type, 2>(array, item, i16::MIN, i16::to_le_bytes, out)?,
        Type::Int | Type::Month => {
            numbers::<Int32Type, 4>(array, item, i32::MIN, i32::to_le_bytes, out)?;
        }
        Type::Long => numbers::<Int64Type, 8>(array, item, i64::MIN, i64::to_le_bytes, out)?,
        Type::Date => numbers::<Date32Type, 4>(array, item, i32::MIN, i32::to_le_bytes, out)?,
        Type::Time => {
            numbers::<Time32MillisecondType, 4>(array, item, i32::MIN, i32::to_le_bytes, out)?;
        }
        Type::Second => {
            numbers::<Time32SecondType, 4>(array, item, i32::MIN, i32::to_le_bytes, out)?;
        }
        Type::NanoTime => {
            numbers::<Time64NanosecondType, 8>(array, item, i64::MIN, i64::to_le_bytes, out)?;
        }
        Type::Timestamp => {
            numbers::<TimestampMillisecondType, 8>(array, item, i64::MIN, i64::to_le_bytes, out)?;
        }
        Type::NanoTimestamp => {
            numbers::<TimestampNanosecondType, 8>(array, item, i64::MIN, i64::to_le_bytes, out)?;
        }
        Type::Float => numbers::<Float32Type, 4>(array, item, f32::MIN, f32::to_le_bytes, out)?,
        Type::Double => numbers::<Float64Type, 8>(array, item, f64::MIN, f64::to_le_bytes, out)?,
        Type::Decimal32(_) => {
            numbers::<Decimal32Type, 4>(array, item, i32::MIN, i32::to_le_bytes, out)?;
        }
        Type::Decimal64(_) => {
            numbers::<Decimal64Type, 8>(array, item, i64::MIN, i64::to_le_bytes, out)?;
        }
        Type::Decimal128(_) => {
            numbers::<Decimal128Type, 16>(array, item, i128::MIN, i128::to_le_bytes, out)?;
        }
        Type::Minute => {
            let count = |value: i32| unscaled(i64::from(value), item).unwrap_or(i32::MIN);
            let bytes = |value| count(value).to_le_bytes();
            numbers::<Time32SecondType, 4>(array, item, i32::MIN, bytes, out)?;
        }
        Type::DateTime | Type::DateHour | Type::DateMinute => {
            let bytes = |value| unscaled(value, item).unwrap_or(i32::MIN).to_le_bytes();
            numbers::<TimestampSecondType, 4>(array, item, i64::MIN, bytes, out)?;
        }
        Type::Uuid | Type::IpAddr | Type::Int128 => {
            for value in typed(array.as_fixed_size_binary_opt(), array, item)? {
                match value {
                    Some(value) => out.extend(value.iter().rev()),
                    None => out.extend_from_slice(&[0; 16]),
                }
            }
        }
        Type::Complex | Type::Point => {
            let pairs = typed(array.as_fixed_size_list_opt(), array, item)?;
            let values = typed(
                pairs.values().as_primitive_opt::<Float64Type>(),
                array,
                item,
            )?;
            for row in 0..pairs.len() {
                let at = pairs.value_offset(row).as_usize();
                for at in [at, at + 1] {
                    let value = if pairs.is_valid(row) {
                        values.value(at)
                    } else {
                        f64::MIN
                    };
                    out.extend_from_slice(&value.to_le_bytes());
                }
            }
        }
        Type::String => {
            for text in typed(array.as_string_opt::<i32>(), array, item)? {
                cstring(text.unwrap_or_default(), out);
            }
        }
        Type::Symbol => {
            // Only a column without rows is sent as texts, of which there are none.
        }
        Type::Blob => {
            for blob in typed(array.as_binary_opt::<i64>(), array, item)? {
                let blob = blob.unwrap_or_default();
                out.extend_from_slice(&length(blob.len()));
                out.extend_from_slice(blob);
            }
        }
    }
    Ok(())
}

fn numbers<T: ArrowPrimitiveType, const N: usize>(
    array: &ArrayRef,
    item: Type,
    null: T::Native,
    bytes: impl Fn(T::Native) -> [u8; N],
    out: &mut Vec<u8>,
) -> Result<()> {
    let values: &PrimitiveArray<T> = typed(array.as_primitive_opt::<T>(), array, item)?;
    out.reserve(N * values.len());
    if values.null_count() == 0 {
        for value in values.values() {
            out.extend_from_slice(&bytes(*value));
        }
    } else {
        for value in values {
            out.extend_from_slice(&bytes(value.unwrap_or(null)));
        }
    }
    Ok(())
}
