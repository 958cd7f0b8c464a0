//! Objects from the wire: scalars, vectors, tuples, dictionaries and tables, as Arrow arrays.
//!
//! An object is two bytes (type, then form) and its body. Values of fixed width are read straight into Arrow's buffers; what is left to do is to tell which
//! of them are null. What cannot be decoded leaves the connection out of step: its owner must not use it again.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, DictionaryArray, FixedSizeBinaryArray,
    FixedSizeListArray, Float64Array, GenericListArray, Int32Array, LargeBinaryArray, NullArray,
    PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray, StringDictionaryBuilder,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowNativeType, DataType, Date32Type, Decimal32Type, Decimal64Type, Decimal128Type, Field,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Schema,
    Time32MillisecondType, Time32SecondType, Time64NanosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use strait_common::{Context, Error, Kind, OrError, Result};
use tokio::io::AsyncRead;

use crate::compress;
use crate::object::{Column, Object};
use crate::types::{ColumnType, Type};
use crate::wire::{Incoming, NAME_BYTES_MAX, Texts};

/// The forms of objects.
pub(crate) const SCALAR: u8 = 0;
pub(crate) const VECTOR: u8 = 1;
const PAIR: u8 = 2;
const SET: u8 = 4;
pub(crate) const DICTIONARY: u8 = 5;
pub(crate) const TABLE: u8 = 6;

/// What stands in the place of a type.
pub(crate) const ANY: u8 = 25;
pub(crate) const COMPRESSED: u8 = 26;
pub(crate) const SYMBOL_BASE: u8 = 128 + 17;
/// A function's definition, which has a byte before its text.
const FUNCTION: u8 = 20;
/// Handles, code and data sources are described by a text.
const DESCRIBED: std::ops::RangeInclusive<u8> = 21..=24;

/// How deep objects may lie in each other.
const DEPTH_MAX: usize = 8;
/// How many columns a table may have.
pub(crate) const COLUMNS_MAX: usize = 32_768;
/// How many texts a base of symbols may have, which is the server's own limit.
pub(crate) const SYMBOLS_MAX: usize = 1 << 21;
/// What an object costs beside its bytes.
const OBJECT_BYTES: u64 = 64;

/// The texts of symbols that a table's columns share.
pub(crate) type Bases = HashMap<i32, Base>;

#[derive(Clone)]
pub(crate) struct Base {
    texts: ArrayRef,
    /// Which of them stand for null.
    empty: BooleanBuffer,
}

/// Reads one object, its type and form first.
pub(crate) async fn object<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
) -> Result<Object> {
    let (code, form) = flag(incoming).await?;
    body(incoming, code, form, DEPTH_MAX).await
}

/// The type and the form of what follows.
pub(crate) async fn flag<R: AsyncRead + Unpin>(incoming: &mut Incoming<R>) -> Result<(u8, u8)> {
    Ok((incoming.u8().await?, incoming.u8().await?))
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Reads the rest of an object whose type and form are known.
pub(crate) fn body<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
    code: u8,
    form: u8,
    depth: usize,
) -> Boxed<'_, Object> {
    Box::pin(async move {
        let Some(below) = depth.checked_sub(1) else {
            return Err(Error::corrupt(format!(
                "an answer of objects in objects, more than {DEPTH_MAX} deep"
            )));
        };
        incoming.charge(OBJECT_BYTES)?;
        match form {
            SCALAR => scalar(incoming, code).await,
            VECTOR if code == ANY => {
                let (count, _) = extent(incoming).await?;
                items(incoming, count, below).await.map(Object::Any)
            }
            VECTOR | PAIR | SET => {
                if form == SET {
                    // A set is a vector with its own flag.
                    let (code, form) = flag(incoming).await?;
                    return body(incoming, code, form, below).await;
                }
                let column = column(incoming, code, &mut Bases::new()).await?;
                Ok(Object::Vector(column))
            }
            DICTIONARY => dictionary(incoming, below).await,
            TABLE => table(incoming).await.map(Object::Table),
            other => Err(Error::refused(format!(
                "the server's answer is of form {other}, which this client does not read"
            ))),
        }
    })
}

async fn items<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
    count: usize,
    depth: usize,
) -> Result<Vec<Object>> {
    let mut items = Vec::new();
    for _ in 0..count {
        let (code, form) = flag(incoming).await?;
        items.push(body(incoming, code, form, depth).await?);
    }
    Ok(items)
}

async fn scalar<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
    code: u8,
) -> Result<Object> {
    if code == 0 {
        incoming.u8().await?;
        return Ok(Object::Nothing);
    }
    if code == FUNCTION {
        incoming.u8().await?;
    }
    let text = code == FUNCTION || DESCRIBED.contains(&code);
    let code = if text { Type::String.code() } else { code };
    let scale = scale(incoming, code).await?;
    let kind = ColumnType::from_code(code, scale)?;
    if kind.array {
        return Err(Error::corrupt("a scalar of lists"));
    }
    let array = elements(incoming, kind, 1).await?;
    Ok(Object::Scalar(Column { kind, array }))
}

async fn dictionary<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
    depth: usize,
) -> Result<Object> {
    let (code, form) = flag(incoming).await?;
    let keys = body(incoming, code, form, depth).await?.texts()?;
    let (code, form) = flag(incoming).await?;
    let values = body(incoming, code, form, depth).await?.into_items()?;
    if keys.len() != values.len() {
        return Err(Error::corrupt(format!(
            "a dictionary of {} keys and {} values",
            keys.len(),
            values.len()
        )));
    }
    Ok(Object::Dictionary(keys.into_iter().zip(values).collect()))
}

/// Rows, and cells where they are lists.
async fn extent<R: AsyncRead + Unpin>(incoming: &mut Incoming<R>) -> Result<(usize, usize)> {
    let rows = incoming.count("rows").await?;
    Ok((rows, incoming.count("columns of a vector").await?))
}

async fn scale<R: AsyncRead + Unpin>(incoming: &mut Incoming<R>, code: u8) -> Result<i32> {
    if ColumnType::code_has_scale(code) {
        incoming.i32().await
    } else {
        Ok(0)
    }
}

/// A table, after its flag.
pub(crate) async fn table<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
) -> Result<RecordBatch> {
    let rows = incoming.count("rows").await?;
    let width = incoming.count("columns").await?;
    if width > COLUMNS_MAX {
        return Err(Error::corrupt(format!(
            "a table of {width} columns, more than {COLUMNS_MAX}"
        )));
    }
    incoming.text(NAME_BYTES_MAX, "a table's name").await?;
    let mut names = Vec::new();
    for _ in 0..width {
        let name = incoming.text(NAME_BYTES_MAX, "a column's name").await?;
        incoming.charge(OBJECT_BYTES + name.len() as u64)?;
        names.push(name);
    }
    let mut bases = Bases::new();
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for name in names {
        let read = async {
            let (code, form) = flag(incoming).await?;
            if form != VECTOR {
                return Err(Error::corrupt(format!("it has form {form}")));
            }
            let read = column(incoming, code, &mut bases).await?;
            if read.array.len() != rows {
                return Err(Error::corrupt(format!(
                    "it has {} rows in a table of {rows}",
                    read.array.len()
                )));
            }
            Ok(read)
        };
        let read = read.await.with_context(|| format!("column {name}"))?;
        fields.push(read.kind.field(&name));
        columns.push(read.array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
        .or_error(Kind::Corrupt, "a table of the server's")
}

/// A vector, after its flag.
pub(crate) async fn column<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
    code: u8,
    bases: &mut Bases,
) -> Result<Column> {
    if code == COMPRESSED {
        let packed = compress::read(incoming).await?;
        let kind = packed.kind;
        let mut unpacked = Incoming::of_bytes(&packed.elements, incoming.allowance());
        let array = elements(&mut unpacked, kind, packed.rows).await?;
        if !unpacked.is_at_end() {
            return Err(Error::corrupt(
                "compressed values of more bytes than they take",
            ));
        }
        let used = incoming.allowance() - unpacked.allowance();
        incoming.charge(used)?;
        return Ok(Column { kind, array });
    }
    let (rows, _) = extent(incoming).await?;
    if code == SYMBOL_BASE {
        let kind = ColumnType::plain(Type::Symbol);
        let array = symbols(incoming, rows, bases).await?;
        return Ok(Column { kind, array });
    }
    let scale = scale(incoming, code).await?;
    let kind = ColumnType::from_code(code, scale)?;
    let array = elements(incoming, kind, rows).await?;
    Ok(Column { kind, array })
}

/// Symbols by their codes in a base, which is sent with the first column that uses it.
async fn symbols<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
    rows: usize,
    bases: &mut Bases,
) -> Result<ArrayRef> {
    let id = incoming.i32().await?;
    let size = incoming.count("symbols").await?;
    if size > SYMBOLS_MAX {
        return Err(Error::corrupt(format!(
            "{size} symbols, more than {SYMBOLS_MAX}"
        )));
    }
    if size > 0 {
        let texts = incoming.texts(size).await?;
        let empty = empty_texts(&texts.offsets);
        let texts = Arc::new(string_array(texts, None)?);
        bases.insert(id, Base { texts, empty });
    }
    let base = bases
        .get(&id)
        .ok_or_else(|| Error::corrupt(format!("symbols of base {id}, which was not sent")))?;
    let codes: ScalarBuffer<i32> = scalars(incoming, rows, 4).await?;
    let known = codes
        .iter()
        .all(|code| usize::try_from(*code).is_ok_and(|code| code < base.texts.len()));
    if !known {
        return Err(Error::corrupt(format!(
            "a symbol's code that its base of {} lacks",
            base.texts.len()
        )));
    }
    let valid = |row: usize| usize::try_from(codes[row]).is_ok_and(|code| !base.empty.value(code));
    let nulls = nulls(rows, valid);
    let keys = Int32Array::new(codes, nulls);
    let array = DictionaryArray::<Int32Type>::try_new(keys, Arc::clone(&base.texts));
    Ok(Arc::new(array.or_error(Kind::Corrupt, "symbols")?))
}

/// Which rows are valid, or none where all are.
fn nulls(rows: usize, valid: impl FnMut(usize) -> bool) -> Option<NullBuffer> {
    let nulls = NullBuffer::new(BooleanBuffer::collect_bool(rows, valid));
    (nulls.null_count() > 0).then_some(nulls)
}

fn empty_texts(offsets: &[i32]) -> BooleanBuffer {
    BooleanBuffer::collect_bool(offsets.len() - 1, |at| offsets[at] == offsets[at + 1])
}

fn string_array(texts: Texts, nulls: Option<NullBuffer>) -> Result<StringArray> {
    let offsets = OffsetBuffer::new(ScalarBuffer::from(texts.offsets));
    StringArray::try_new(offsets, Buffer::from_vec(texts.bytes), nulls).map_err(|error| {
        Error::refused(
            "texts that are not UTF-8; convert them at the server (toUTF8) or leave the column out",
        )
        .with_source(error)
    })
}

/// So many cells, without what stands before them.
async fn elements<R: AsyncRead + Unpin + Send>(
    incoming: &mut Incoming<R>,
    kind: ColumnType,
    rows: usize,
) -> Result<ArrayRef> {
    if kind.array {
        return lists(incoming, kind, rows).await;
    }
    if let Some(width) = kind.item.width() {
        let bytes = rows.saturating_mul(width);
        let mut run = MutableBuffer::new(0);
        incoming.extend(&mut run, bytes).await?;
        return fixed(kind.item, run, rows);
    }
    match kind.item {
        Type::String => {
            let texts = incoming.texts(rows).await?;
            let empty = empty_texts(&texts.offsets);
            let nulls = nulls(rows, |row| !empty.value(row));
            Ok(Arc::new(string_array(texts, nulls)?))
        }
        Type::Symbol => {
            let texts = incoming.texts(rows).await?;
            let texts = string_array(texts, None)?;
            let mut symbols = StringDictionaryBuilder::<Int32Type>::new();
            for text in &texts {
                symbols.append_option(text.filter(|text| !text.is_empty()));
            }
            Ok(Arc::new(symbols.finish()))
        }
        Type::Blob => blobs(incoming, rows).await,
        // Nothing is sent of what is always null.
        _ => Ok(Arc::new(NullArray::new(rows))),
    }
}

async fn blobs<R: AsyncRead + Unpin>(incoming: &mut Incoming<R>, rows: usize) -> Result<ArrayRef> {
    let mut offsets = vec![0i64];
    let mut bytes = Vec::new();
    for _ in 0..rows {
        let length = incoming.count("bytes of a BLOB").await?;
        incoming.charge(8)?;
        incoming.extend_vec(&mut bytes, length).await?;
        offsets.push(bytes.len() as i64);
    }
    let nulls = nulls(rows, |row| offsets[row] != offsets[row + 1]);
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    let array = LargeBinaryArray::try_new(offsets, Buffer::from_vec(bytes), nulls);
    Ok(Arc::new(array.or_error(Kind::Corrupt, "BLOBs")?))
}

/// Lists come in runs of rows: how many items each has, then all items of the run.
async fn lists<R: AsyncRead + Unpin>(
    incoming: &mut Incoming<R>,
    kind: ColumnType,
    rows: usize,
) -> Result<ArrayRef> {
    let width = kind.item.width().unwrap_or(1);
    let mut offsets = vec![0i32];
    let mut run = MutableBuffer::new(0);
    let mut cells = 0usize;
    while offsets.len() <= rows {
        let count = usize::from(incoming.u16().await?);
        let (size, _) = (incoming.u8().await?, incoming.u8().await?);
        if count == 0 || count > rows + 1 - offsets.len() || !matches!(size, 1 | 2 | 4) {
            return Err(Error::corrupt(format!(
                "a run of {count} lists, with counts of {size} bytes, of the {} that are left",
                rows + 1 - offsets.len()
            )));
        }
        let counts = incoming.bytes(count * usize::from(size)).await?;
        let before = cells;
        for count in counts.chunks(usize::from(size)) {
            let mut wide = [0; 4];
            wide[..count.len()].copy_from_slice(count);
            cells = cells.saturating_add(u32::from_le_bytes(wide) as usize);
            let end = i32::try_from(cells);
            offsets.push(end.or_error(Kind::Corrupt, "lists of more than 2^31 items")?);
        }
        incoming.charge(4 * count as u64)?;
        let bytes = (cells - before).saturating_mul(width);
        incoming.extend(&mut run, bytes).await?;
    }
    let items = fixed(kind.item, run, cells)?;
    let field = Arc::new(Field::new("item", kind.item.arrow(), true));
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    let array = GenericListArray::<i32>::try_new(field, offsets, items, None);
    Ok(Arc::new(array.or_error(Kind::Corrupt, "lists")?))
}

async fn scalars<R: AsyncRead + Unpin, T: ArrowNativeType>(
    incoming: &mut Incoming<R>,
    count: usize,
    width: usize,
) -> Result<ScalarBuffer<T>> {
    let mut run = MutableBuffer::new(0);
    incoming
        .extend(&mut run, count.saturating_mul(width))
        .await?;
    Ok(ScalarBuffer::new(run.into(), 0, count))
}

/// Values of fixed width, as they came.
fn fixed(item: Type, run: MutableBuffer, rows: usize) -> Result<ArrayRef> {
    Ok(match item {
        Type::Bool => {
            let bytes = run.as_slice();
            let nulls = nulls(rows, |row| bytes[row] != NULL_BOOL);
            let values = BooleanBuffer::collect_bool(rows, |row| bytes[row] != 0);
            Arc::new(BooleanArray::new(values, nulls))
        }
        Type::Char => primitive::<Int8Type>(run, rows, i8::MIN),
        Type::Short => primitive::<Int16Type>(run, rows, i16::MIN),
        Type::Int | Type::Month => primitive::<Int32Type>(run, rows, i32::MIN),
        Type::Long => primitive::<Int64Type>(run, rows, i64::MIN),
        Type::Date => primitive::<Date32Type>(run, rows, i32::MIN),
        Type::Time => primitive::<Time32MillisecondType>(run, rows, i32::MIN),
        Type::Minute => scaled::<Time32SecondType>(run, rows, 60, item)?,
        Type::Second => primitive::<Time32SecondType>(run, rows, i32::MIN),
        Type::NanoTime => primitive::<Time64NanosecondType>(run, rows, i64::MIN),
        Type::DateTime => scaled::<TimestampSecondType>(run, rows, 1, item)?,
        Type::DateHour => scaled::<TimestampSecondType>(run, rows, 3600, item)?,
        Type::DateMinute => scaled::<TimestampSecondType>(run, rows, 60, item)?,
        Type::Timestamp => primitive::<TimestampMillisecondType>(run, rows, i64::MIN),
        Type::NanoTimestamp => primitive::<TimestampNanosecondType>(run, rows, i64::MIN),
        // A least number that was written as another bit pattern does not exist: comparing is exact.
        Type::Float => primitive::<Float32Type>(run, rows, f32::MIN),
        Type::Double => primitive::<Float64Type>(run, rows, f64::MIN),
        Type::Decimal32(scale) => decimal::<Decimal32Type>(run, rows, i32::MIN, 9, scale)?,
        Type::Decimal64(scale) => decimal::<Decimal64Type>(run, rows, i64::MIN, 18, scale)?,
        Type::Decimal128(scale) => decimal::<Decimal128Type>(run, rows, i128::MIN, 38, scale)?,
        Type::Uuid | Type::IpAddr | Type::Int128 => {
            let mut run = run;
            run.as_slice_mut()
                .chunks_exact_mut(16)
                .for_each(<[u8]>::reverse);
            let bytes = run.as_slice();
            let nulls = nulls(rows, |row| bytes[16 * row..16 * row + 16] != [0; 16]);
            let array = FixedSizeBinaryArray::try_new(16, run.into(), nulls);
            Arc::new(array.or_error(Kind::Corrupt, "values of 16 bytes")?)
        }
        Type::Complex | Type::Point => {
            let numbers = ScalarBuffer::<f64>::new(run.into(), 0, rows * 2);
            let valid =
                |row: usize| numbers[2 * row] != f64::MIN || numbers[2 * row + 1] != f64::MIN;
            let nulls = nulls(rows, valid);
            let field = Arc::new(Field::new("item", DataType::Float64, false));
            let values = Arc::new(Float64Array::new(numbers, None));
            let array = FixedSizeListArray::try_new(field, 2, values, nulls);
            Arc::new(array.or_error(Kind::Corrupt, "pairs of numbers")?)
        }
        Type::Void | Type::Symbol | Type::String | Type::Blob => {
            return Err(Error::internal(format!("{item} has no fixed width")));
        }
    })
}

/// How a boolean is null.
pub(crate) const NULL_BOOL: u8 = 0x80;

fn primitive<T: ArrowPrimitiveType>(run: MutableBuffer, rows: usize, null: T::Native) -> ArrayRef {
    let values = ScalarBuffer::<T::Native>::new(run.into(), 0, rows);
    let nulls = nulls(rows, |row| values[row] != null);
    Arc::new(PrimitiveArray::<T>::new(values, nulls))
}

fn decimal<T: arrow::datatypes::DecimalType>(
    run: MutableBuffer,
    rows: usize,
    null: T::Native,
    precision: u8,
    scale: u8,
) -> Result<ArrayRef> {
    let values = ScalarBuffer::<T::Native>::new(run.into(), 0, rows);
    let nulls = nulls(rows, |row| values[row] != null);
    let array = PrimitiveArray::<T>::new(values, nulls);
    let array = array.with_precision_and_scale(precision, scale.cast_signed());
    Ok(Arc::new(array.or_error(Kind::Corrupt, "decimals")?))
}

/// Counts of minutes or hours in 4 bytes, which Arrow counts in seconds.
fn scaled<T: ArrowPrimitiveType>(
    run: MutableBuffer,
    rows: usize,
    seconds: i64,
    item: Type,
) -> Result<ArrayRef>
where
    T::Native: TryFrom<i64>,
{
    let counts = ScalarBuffer::<i32>::new(run.into(), 0, rows);
    let mut values = Vec::with_capacity(rows);
    for count in counts.iter() {
        let value = if *count == i32::MIN {
            0
        } else {
            i64::from(*count) * seconds
        };
        let value = T::Native::try_from(value).ok();
        values.push(value.ok_or_else(|| Error::corrupt(format!("{count}, which is no {item}")))?);
    }
    let nulls = nulls(rows, |row| counts[row] != i32::MIN);
    Ok(Arc::new(PrimitiveArray::<T>::new(values.into(), nulls)))
}
