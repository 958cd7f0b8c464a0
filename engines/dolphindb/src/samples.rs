//! Rows of every type, for tests and for those who prove a client or server against another.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal32Array, Decimal64Array, Decimal128Array,
    DictionaryArray, FixedSizeBinaryBuilder, FixedSizeListArray, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, LargeBinaryArray, ListArray, NullArray,
    RecordBatch, StringArray, Time32MillisecondArray, Time32SecondArray, Time64NanosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use strait_common::{Error, Kind, OrError, Result};

use crate::types::{ColumnType, Type};

/// Three cells of this type: the second is null, where the type has null; the others are at or near its bounds.
///
/// # Errors
/// None that can happen.
pub fn cells(item: Type) -> Result<ArrayRef> {
    let pair = |a: [u8; 16], b: [u8; 16]| -> Result<ArrayRef> {
        let mut cells = FixedSizeBinaryBuilder::with_capacity(3, 16);
        cells.append_value(a).or_error(Kind::Internal, "a sample")?;
        cells.append_null();
        cells.append_value(b).or_error(Kind::Internal, "a sample")?;
        Ok(Arc::new(cells.finish()))
    };
    Ok(match item {
        Type::Void => Arc::new(NullArray::new(3)),
        Type::Bool => Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        Type::Char => Arc::new(Int8Array::from(vec![Some(-127), None, Some(127)])),
        Type::Short => Arc::new(Int16Array::from(vec![Some(-32767), None, Some(32767)])),
        Type::Int => Arc::new(Int32Array::from(vec![
            Some(-i32::MAX),
            None,
            Some(i32::MAX),
        ])),
        Type::Long => Arc::new(Int64Array::from(vec![
            Some(-i64::MAX),
            None,
            Some(i64::MAX),
        ])),
        Type::Date => Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)])),
        Type::Month => Arc::new(Int32Array::from(vec![Some(23_640), None, Some(2026 * 12)])),
        Type::Time => Arc::new(Time32MillisecondArray::from(vec![
            Some(0),
            None,
            Some(86_399_999),
        ])),
        Type::Minute => Arc::new(Time32SecondArray::from(vec![Some(0), None, Some(86_340)])),
        Type::Second => Arc::new(Time32SecondArray::from(vec![Some(0), None, Some(86_399)])),
        Type::DateTime => Arc::new(TimestampSecondArray::from(vec![
            Some(-1),
            None,
            Some(1_700_000_001),
        ])),
        Type::DateHour => Arc::new(TimestampSecondArray::from(vec![
            Some(-3600),
            None,
            Some(1_700_002_800),
        ])),
        Type::DateMinute => Arc::new(TimestampSecondArray::from(vec![
            Some(-60),
            None,
            Some(1_700_000_040),
        ])),
        Type::Timestamp => Arc::new(TimestampMillisecondArray::from(vec![
            Some(-1),
            None,
            Some(1_700_000_000_123),
        ])),
        Type::NanoTime => Arc::new(Time64NanosecondArray::from(vec![
            Some(0),
            None,
            Some(86_399_999_999_999),
        ])),
        Type::NanoTimestamp => Arc::new(TimestampNanosecondArray::from(vec![
            Some(-1),
            None,
            Some(1_700_000_000_123_456_789),
        ])),
        Type::Float => Arc::new(Float32Array::from(vec![Some(-0.5), None, Some(f32::MAX)])),
        Type::Double => Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(f64::MAX)])),
        Type::Symbol => Arc::new(
            [Some("IBM"), None, Some("東京")]
                .into_iter()
                .collect::<DictionaryArray<Int32Type>>(),
        ),
        Type::String => Arc::new(StringArray::from(vec![
            Some("it's 100 %"),
            None,
            Some("東京/Ωß"),
        ])),
        Type::Blob => Arc::new(LargeBinaryArray::from(vec![
            Some(&[1u8, 255, 128][..]),
            None,
            Some(b"x\0y"),
        ])),
        Type::Uuid | Type::IpAddr | Type::Int128 => {
            let counted: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap_or(0));
            pair(counted, [255; 16])?
        }
        Type::Complex | Type::Point => {
            let field = Arc::new(Field::new("item", DataType::Float64, false));
            let values = Arc::new(Float64Array::from(vec![
                1.5,
                -2.5,
                f64::MIN,
                f64::MIN,
                0.0,
                3.0,
            ]));
            let nulls = NullBuffer::from(vec![true, false, true]);
            let cells = FixedSizeListArray::try_new(field, 2, values, Some(nulls));
            Arc::new(cells.or_error(Kind::Internal, "a sample")?)
        }
        Type::Decimal32(scale) => {
            let cells = Decimal32Array::from(vec![Some(-999_999_999), None, Some(110)]);
            let cells = cells.with_precision_and_scale(9, scale.cast_signed());
            Arc::new(cells.or_error(Kind::Internal, "a sample")?)
        }
        Type::Decimal64(scale) => {
            let cells = Decimal64Array::from(vec![Some(-999_999_999_999_999_999), None, Some(110)]);
            let cells = cells.with_precision_and_scale(18, scale.cast_signed());
            Arc::new(cells.or_error(Kind::Internal, "a sample")?)
        }
        Type::Decimal128(scale) => {
            let most = 10i128.pow(38) - 1;
            let cells = Decimal128Array::from(vec![Some(-most), None, Some(110)]);
            let cells = cells.with_precision_and_scale(38, scale.cast_signed());
            Arc::new(cells.or_error(Kind::Internal, "a sample")?)
        }
    })
}

/// A table with one column for each type, named after it: `rows` rows that repeat the three cells. Lists have 0, 1, … 4 items, over and over.
///
/// # Errors
/// None that can happen.
pub fn table(rows: usize) -> Result<RecordBatch> {
    let plain = [
        Type::Bool,
        Type::Char,
        Type::Short,
        Type::Int,
        Type::Long,
        Type::Date,
        Type::Month,
        Type::Time,
        Type::Minute,
        Type::Second,
        Type::DateTime,
        Type::Timestamp,
        Type::NanoTime,
        Type::NanoTimestamp,
        Type::Float,
        Type::Double,
        Type::Symbol,
        Type::String,
        Type::Uuid,
        Type::DateHour,
        Type::IpAddr,
        Type::Int128,
        Type::Blob,
        Type::Decimal32(2),
        Type::Decimal64(4),
        Type::Decimal128(10),
    ];
    let lists = [
        Type::Bool,
        Type::Short,
        Type::Int,
        Type::Long,
        Type::Date,
        Type::Month,
        Type::Timestamp,
        Type::NanoTimestamp,
        Type::Float,
        Type::Double,
        Type::Uuid,
        Type::Decimal64(4),
    ];
    let of_rows = |count: usize| {
        Int32Array::from_iter_values((0..count).map(|row| i32::try_from(row % 3).unwrap_or(0)))
    };
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for item in plain {
        let cells = take(&cells(item)?, &of_rows(rows), None);
        fields.push(ColumnType::plain(item).field(&item.to_string().to_lowercase()));
        columns.push(cells.or_error(Kind::Internal, "a sample")?);
    }
    for item in lists {
        let lengths: Vec<usize> = (0..rows).map(|row| row % 5).collect();
        let items = take(&cells(item)?, &of_rows(lengths.iter().sum()), None);
        let field = Arc::new(Field::new("item", item.arrow(), true));
        let offsets = OffsetBuffer::from_lengths(lengths);
        let cells = ListArray::try_new(
            field,
            offsets,
            items.or_error(Kind::Internal, "a sample")?,
            None,
        );
        fields.push(
            ColumnType::list(item).field(&format!("{}_list", item.to_string().to_lowercase())),
        );
        columns.push(Arc::new(cells.or_error(Kind::Internal, "a sample")?));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| Error::internal("a sample").with_source(error))
}
