//! The canonical bytes of cells: one form per class, read from every Arrow type of that class.
//!
//! Each type's reading is a type parameter of [`Column`], so that the loops over rows are compiled for it; only the choice of the
//! column is dynamic.

use arrow::array::types::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type,
    Decimal64Type, Decimal128Type, Decimal256Type, DurationMicrosecondType,
    DurationMillisecondType, DurationNanosecondType, DurationSecondType, Float16Type, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTimeType,
    IntervalMonthDayNanoType, IntervalYearMonthType, RunEndIndexType, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::array::{Array, AsArray, DictionaryArray, RunArray, downcast_dictionary_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowNativeType, DataType, IntervalUnit, TimeUnit, i256};

use super::{class_of, unknown};
use crate::error::Result;

/// The cells of one column. Rows count from 0.
pub(super) trait Cells {
    /// How many bytes a row's cell has.
    fn length(&self, row: usize) -> usize;

    /// Writes a row's cell at `*at` and moves it on.
    fn put(&self, row: usize, at: &mut usize, out: &mut [u8]);

    /// Gives a row's cell in pieces.
    fn feed(&self, row: usize, out: &mut dyn FnMut(&[u8]));

    /// Adds the lengths of the rows from `start` on.
    fn add_lengths(&self, start: usize, lengths: &mut [usize]) {
        for (row, length) in (start..).zip(lengths) {
            *length += self.length(row);
        }
    }

    /// Writes the rows from `start` on, each at its place, and moves the places on.
    fn write(&self, start: usize, places: &mut [usize], out: &mut [u8]) {
        for (row, at) in (start..).zip(places) {
            self.put(row, at, out);
        }
    }
}

/// A column of any type.
pub(super) fn cells_of<'a>(array: &'a dyn Array) -> Result<Box<dyn Cells + 'a>> {
    Ok(match array.data_type() {
        DataType::Null => column(array, Nothing),
        DataType::Boolean => {
            let values = array.as_boolean();
            fixed(array, move |i| [u8::from(values.value(i))])
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
            let values = array.as_string::<i32>();
            column(array, Bytes(move |i| values.value(i).as_bytes()))
        }
        DataType::LargeUtf8 => {
            let values = array.as_string::<i64>();
            column(array, Bytes(move |i| values.value(i).as_bytes()))
        }
        DataType::Utf8View => {
            let values = array.as_string_view();
            column(array, Bytes(move |i| values.value(i).as_bytes()))
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            column(array, Bytes(move |i| values.value(i)))
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            column(array, Bytes(move |i| values.value(i)))
        }
        DataType::BinaryView => {
            let values = array.as_binary_view();
            column(array, Bytes(move |i| values.value(i)))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            column(array, Bytes(move |i| values.value(i)))
        }
        DataType::Date32 => eights::<Date32Type>(array, |days| i64::from(days) * 86_400_000),
        DataType::Date64 => eights::<Date64Type>(array, |ms| ms),
        DataType::Time32(TimeUnit::Second) => {
            eights::<Time32SecondType>(array, |v| i64::from(v) * 1_000_000_000)
        }
        DataType::Time32(_) => eights::<Time32MillisecondType>(array, |v| i64::from(v) * 1_000_000),
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
        DataType::Duration(TimeUnit::Nanosecond) => sixteens::<DurationNanosecondType>(array, 1),
        DataType::Interval(IntervalUnit::YearMonth) => {
            let values = array.as_primitive::<IntervalYearMonthType>();
            fixed(array, move |i| interval(values.value(i), 0, 0))
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let values = array.as_primitive::<IntervalDayTimeType>();
            fixed(array, move |i| {
                let value = values.value(i);
                interval(0, value.days, i64::from(value.milliseconds) * 1_000_000)
            })
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let values = array.as_primitive::<IntervalMonthDayNanoType>();
            fixed(array, move |i| {
                let value = values.value(i);
                interval(value.months, value.days, value.nanoseconds)
            })
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            lists(array, &[list.values().as_ref()], move |i| {
                (index(offsets[i]), index(offsets[i + 1]))
            })?
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.value_offsets();
            lists(array, &[list.values().as_ref()], move |i| {
                (index(offsets[i]), index(offsets[i + 1]))
            })?
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            lists(array, &[list.values().as_ref()], move |i| {
                let start = index(list.value_offset(i));
                (start, start + index(list.value_size(i)))
            })?
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            lists(array, &[list.values().as_ref()], move |i| {
                let start = index(list.value_offset(i));
                (start, start + index(list.value_size(i)))
            })?
        }
        DataType::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list();
            let width = index(list.value_length());
            lists(array, &[list.values().as_ref()], move |i| {
                let start = index(list.value_offset(i));
                (start, start + width)
            })?
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            let entries = [map.keys().as_ref(), map.values().as_ref()];
            lists(array, &entries, move |i| {
                (index(offsets[i]), index(offsets[i + 1]))
            })?
        }
        DataType::Struct(_) => {
            let fields = array.as_struct().columns().iter();
            let fields = fields.map(|field| cells_of(field.as_ref()));
            column(array, Fields(fields.collect::<Result<_>>()?))
        }
        DataType::Dictionary(_, _) => downcast_dictionary_array! {
            array => dictionary(array)?,
            other => return Err(unknown(other)),
        },
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => runs(array.as_run::<Int16Type>())?,
            DataType::Int32 => runs(array.as_run::<Int32Type>())?,
            _ => runs(array.as_run::<Int64Type>())?,
        },
        other => return Err(unknown(other)),
    })
}

/// The canonical bytes of the values of one class, without the tag. Only rows that are not null are asked for.
trait Values {
    fn length(&self, row: usize) -> usize;
    fn put(&self, row: usize, at: &mut usize, out: &mut [u8]);
    fn feed(&self, row: usize, out: &mut dyn FnMut(&[u8]));
}

/// Values with their tags and nulls.
struct Column<V> {
    tag: u8,
    nulls: Option<NullBuffer>,
    values: V,
}

fn column<'a, V: Values + 'a>(array: &dyn Array, values: V) -> Box<dyn Cells + 'a> {
    Box::new(Column {
        // Whoever has values for a type has a class for it.
        tag: class_of(array.data_type()).unwrap_or(0) * 2,
        nulls: array.logical_nulls().filter(|nulls| nulls.null_count() > 0),
        values,
    })
}

impl<V: Values> Column<V> {
    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }

    fn put_value(&self, row: usize, at: &mut usize, out: &mut [u8]) {
        out[*at] = self.tag;
        *at += 1;
        self.values.put(row, at, out);
    }
}

impl<V: Values> Cells for Column<V> {
    fn length(&self, row: usize) -> usize {
        if self.is_null(row) {
            1
        } else {
            1 + self.values.length(row)
        }
    }

    fn put(&self, row: usize, at: &mut usize, out: &mut [u8]) {
        if self.is_null(row) {
            out[*at] = self.tag + 1;
            *at += 1;
        } else {
            self.put_value(row, at, out);
        }
    }

    fn feed(&self, row: usize, out: &mut dyn FnMut(&[u8])) {
        if self.is_null(row) {
            out(&[self.tag + 1]);
        } else {
            out(&[self.tag]);
            self.values.feed(row, out);
        }
    }

    fn add_lengths(&self, start: usize, lengths: &mut [usize]) {
        if self.nulls.is_some() {
            for (row, length) in (start..).zip(lengths) {
                *length += self.length(row);
            }
        } else {
            for (row, length) in (start..).zip(lengths) {
                *length += 1 + self.values.length(row);
            }
        }
    }

    fn write(&self, start: usize, places: &mut [usize], out: &mut [u8]) {
        if self.nulls.is_some() {
            for (row, at) in (start..).zip(places) {
                self.put(row, at, out);
            }
        } else {
            for (row, at) in (start..).zip(places) {
                self.put_value(row, at, out);
            }
        }
    }
}

/// No row has a value.
struct Nothing;

impl Values for Nothing {
    fn length(&self, _row: usize) -> usize {
        0
    }

    fn put(&self, _row: usize, _at: &mut usize, _out: &mut [u8]) {}

    fn feed(&self, _row: usize, _out: &mut dyn FnMut(&[u8])) {}
}

/// `N` bytes each.
struct Fixed<F, const N: usize>(F);

impl<F: Fn(usize) -> [u8; N], const N: usize> Values for Fixed<F, N> {
    fn length(&self, _row: usize) -> usize {
        N
    }

    fn put(&self, row: usize, at: &mut usize, out: &mut [u8]) {
        out[*at..*at + N].copy_from_slice(&(self.0)(row));
        *at += N;
    }

    fn feed(&self, row: usize, out: &mut dyn FnMut(&[u8])) {
        out(&(self.0)(row));
    }
}

fn fixed<'a, F: Fn(usize) -> [u8; N] + 'a, const N: usize>(
    array: &dyn Array,
    get: F,
) -> Box<dyn Cells + 'a> {
    column(array, Fixed(get))
}

/// A length and so many bytes.
struct Bytes<F>(F);

impl<'a, F: Fn(usize) -> &'a [u8]> Values for Bytes<F> {
    fn length(&self, row: usize) -> usize {
        8 + (self.0)(row).len()
    }

    fn put(&self, row: usize, at: &mut usize, out: &mut [u8]) {
        let bytes = (self.0)(row);
        let (length, rest) = out[*at..].split_at_mut(8);
        length.copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        rest[..bytes.len()].copy_from_slice(bytes);
        *at += 8 + bytes.len();
    }

    fn feed(&self, row: usize, out: &mut dyn FnMut(&[u8])) {
        let bytes = (self.0)(row);
        out(&(bytes.len() as u64).to_le_bytes());
        out(bytes);
    }
}

/// A number of items, and of each item a cell of every column.
struct Lists<'a, F> {
    /// The first item of a row, and the one after its last.
    range: F,
    items: Vec<Box<dyn Cells + 'a>>,
}

impl<F: Fn(usize) -> (usize, usize)> Values for Lists<'_, F> {
    fn length(&self, row: usize) -> usize {
        let (start, end) = (self.range)(row);
        let item = |item| self.items.iter().map(move |cells| cells.length(item));
        8 + (start..end).flat_map(item).sum::<usize>()
    }

    fn put(&self, row: usize, at: &mut usize, out: &mut [u8]) {
        let (start, end) = (self.range)(row);
        out[*at..*at + 8].copy_from_slice(&((end - start) as u64).to_le_bytes());
        *at += 8;
        for item in start..end {
            self.items.iter().for_each(|cells| cells.put(item, at, out));
        }
    }

    fn feed(&self, row: usize, out: &mut dyn FnMut(&[u8])) {
        let (start, end) = (self.range)(row);
        out(&((end - start) as u64).to_le_bytes());
        for item in start..end {
            self.items.iter().for_each(|cells| cells.feed(item, out));
        }
    }
}

fn lists<'a, F: Fn(usize) -> (usize, usize) + 'a>(
    array: &dyn Array,
    items: &[&'a dyn Array],
    range: F,
) -> Result<Box<dyn Cells + 'a>> {
    let items = items.iter().map(|items| cells_of(*items));
    let items = items.collect::<Result<_>>()?;
    Ok(column(array, Lists { range, items }))
}

/// One cell per field.
struct Fields<'a>(Vec<Box<dyn Cells + 'a>>);

impl Values for Fields<'_> {
    fn length(&self, row: usize) -> usize {
        self.0.iter().map(|cells| cells.length(row)).sum()
    }

    fn put(&self, row: usize, at: &mut usize, out: &mut [u8]) {
        self.0.iter().for_each(|cells| cells.put(row, at, out));
    }

    fn feed(&self, row: usize, out: &mut dyn FnMut(&[u8])) {
        self.0.iter().for_each(|cells| cells.feed(row, out));
    }
}

/// A column whose rows are places in another one: a dictionary, or runs. A row is null here or there.
struct Indirect<'a, F> {
    tag: u8,
    nulls: Option<NullBuffer>,
    place: F,
    values: Box<dyn Cells + 'a>,
}

impl<F: Fn(usize) -> usize> Indirect<'_, F> {
    fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
    }
}

impl<F: Fn(usize) -> usize> Cells for Indirect<'_, F> {
    fn length(&self, row: usize) -> usize {
        if self.is_null(row) {
            1
        } else {
            self.values.length((self.place)(row))
        }
    }

    fn put(&self, row: usize, at: &mut usize, out: &mut [u8]) {
        if self.is_null(row) {
            out[*at] = self.tag + 1;
            *at += 1;
        } else {
            self.values.put((self.place)(row), at, out);
        }
    }

    fn feed(&self, row: usize, out: &mut dyn FnMut(&[u8])) {
        if self.is_null(row) {
            out(&[self.tag + 1]);
        } else {
            self.values.feed((self.place)(row), out);
        }
    }
}

fn indirect<'a, F: Fn(usize) -> usize + 'a>(
    array: &dyn Array,
    values: &'a dyn Array,
    place: F,
) -> Result<Box<dyn Cells + 'a>> {
    Ok(Box::new(Indirect {
        tag: class_of(array.data_type()).unwrap_or(0) * 2,
        nulls: array.logical_nulls(),
        place,
        values: cells_of(values)?,
    }))
}

fn dictionary<K: ArrowDictionaryKeyType>(
    array: &DictionaryArray<K>,
) -> Result<Box<dyn Cells + '_>> {
    let keys = array.keys().values();
    indirect(array, array.values().as_ref(), move |i| keys[i].as_usize())
}

fn runs<R: RunEndIndexType>(array: &RunArray<R>) -> Result<Box<dyn Cells + '_>> {
    let values = array.values().as_ref();
    indirect(array, values, move |i| array.get_physical_index(i))
}

fn integers<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    widen: impl Fn(T::Native) -> i128 + 'a,
) -> Box<dyn Cells + 'a> {
    let values = array.as_primitive::<T>().values();
    fixed(array, move |i| {
        let value = widen(values[i]);
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&value.to_le_bytes()[..8]);
        bytes[8] = if value < 0 { 255 } else { 0 };
        bytes
    })
}

fn floats<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    widen: impl Fn(T::Native) -> f64 + 'a,
) -> Box<dyn Cells + 'a> {
    let values = array.as_primitive::<T>().values();
    fixed(array, move |i| {
        let value = widen(values[i]);
        let bits: u64 = if value.is_nan() {
            0x7ff8_0000_0000_0000
        } else if value == 0.0 {
            0
        } else {
            value.to_bits()
        };
        bits.to_le_bytes()
    })
}

fn decimals<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    scale: i8,
    widen: impl Fn(T::Native) -> i256 + 'a,
) -> Box<dyn Cells + 'a> {
    let values = array.as_primitive::<T>().values();
    fixed(array, move |i| {
        let (value, scale) = without_trailing_zeros(widen(values[i]), scale);
        let mut bytes = [0; 33];
        bytes[0] = scale.to_le_bytes()[0];
        bytes[1..].copy_from_slice(&value.to_le_bytes());
        bytes
    })
}

/// The same number with the smallest scale that it has.
fn without_trailing_zeros(value: i256, scale: i8) -> (i256, i8) {
    let (mut value, mut scale) = (value, scale);
    if value == i256::ZERO {
        return (value, 0);
    }
    let ten = i256::from_i128(10);
    // Division by a constant costs a tenth in 64 bits of what it costs in 128, and that a tenth of 256.
    while value.to_i128().is_none() {
        if scale == i8::MIN || value.wrapping_rem(ten) != i256::ZERO {
            return (value, scale);
        }
        value = value.wrapping_div(ten);
        scale -= 1;
    }
    let mut small = value.to_i128().unwrap_or(0);
    while i64::try_from(small).is_err() {
        if scale == i8::MIN || small % 10 != 0 {
            return (i256::from_i128(small), scale);
        }
        small /= 10;
        scale -= 1;
    }
    let mut least = i64::try_from(small).unwrap_or(0);
    while scale > i8::MIN && least % 10 == 0 {
        least /= 10;
        scale -= 1;
    }
    (i256::from_i128(i128::from(least)), scale)
}

fn eights<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    canonical: impl Fn(T::Native) -> i64 + 'a,
) -> Box<dyn Cells + 'a> {
    let values = array.as_primitive::<T>().values();
    fixed(array, move |i| canonical(values[i]).to_le_bytes())
}

fn sixteens<'a, T: ArrowPrimitiveType<Native = i64>>(
    array: &'a dyn Array,
    unit_ns: i64,
) -> Box<dyn Cells + 'a> {
    let values = array.as_primitive::<T>().values();
    fixed(array, move |i| {
        (i128::from(values[i]) * i128::from(unit_ns)).to_le_bytes()
    })
}

fn interval(months: i32, days: i32, ns: i64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&months.to_le_bytes());
    bytes[4..8].copy_from_slice(&days.to_le_bytes());
    bytes[8..].copy_from_slice(&ns.to_le_bytes());
    bytes
}

fn index(offset: impl TryInto<usize>) -> usize {
    // Arrow checked the offsets when the array was made.
    offset.try_into().unwrap_or(0)
}
