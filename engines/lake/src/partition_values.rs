//! Values of partition columns: between a partition key's cells, Arrow arrays, and the text that Delta's log holds.
//!
//! Delta writes partition values as text by the stored type: `2026-11-01`, `42`, `IBM`, `2026-11-01 09:30:00.000000`, null as an absent
//! value. An empty string reads back as null in several readers, so it is refused.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    StringArray, Time64NanosecondArray, TimestampNanosecondArray, TimestampSecondArray,
    UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::take;
use arrow::datatypes::DataType;
use strait_common::key::Cell;
use strait_common::regroup::cell_of;
use strait_common::value::{NS_PER_S, Value, decimal_text};
use strait_common::{Error, Kind, OrError, Result};

use crate::types::{cast, stored_type};

/// A column of `rows` equal cells, in this type.
///
/// # Errors
/// `Refused` if the cell has no value of that type, or is no single value.
pub fn column_of(cell: &Cell, data_type: &DataType, rows: usize) -> Result<ArrayRef> {
    let one = match cell {
        Cell::Null => return Ok(new_null_array(data_type, rows)),
        Cell::Value(value) => array_of(value, data_type)?,
        Cell::Range { .. } | Cell::Bucket { .. } => {
            return Err(Error::refused(format!(
                "{cell} is not one value of a partition column"
            )));
        }
    };
    take(&one, &UInt32Array::from_value(0, rows), None).or_error(Kind::Internal, "repeat a value")
}

fn array_of(value: &Value, data_type: &DataType) -> Result<ArrayRef> {
    let array: ArrayRef = match value {
        Value::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
        Value::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
            (Ok(value), _) => Arc::new(Int64Array::from(vec![value])),
            (_, Ok(value)) => Arc::new(UInt64Array::from(vec![value])),
            _ => return Err(Error::refused(format!("{value} is larger than 64 bits"))),
        },
        Value::Float(value) => Arc::new(Float64Array::from(vec![*value])),
        Value::Decimal { unscaled, scale } => Arc::new(
            Decimal128Array::from(vec![*unscaled])
                .with_precision_and_scale(38, *scale)
                .or_error(Kind::Refused, "decimal")?,
        ),
        Value::String(value) => Arc::new(StringArray::from(vec![value.as_str()])),
        Value::Binary(value) => Arc::new(BinaryArray::from(vec![value.as_slice()])),
        Value::Date(days) => Arc::new(Date32Array::from(vec![*days])),
        Value::Time(ns) => Arc::new(Time64NanosecondArray::from(vec![*ns])),
        Value::Timestamp { ns, .. } => {
            let zone = match data_type {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            match i64::try_from(*ns) {
                Ok(ns) => {
                    Arc::new(TimestampNanosecondArray::from(vec![ns]).with_timezone_opt(zone))
                }
                Err(_) => {
                    let seconds = i64::try_from(ns.div_euclid(NS_PER_S))
                        .or_error(Kind::Refused, "timestamp")?;
                    Arc::new(TimestampSecondArray::from(vec![seconds]).with_timezone_opt(zone))
                }
            }
        }
    };
    cast(&array, data_type)
}

/// Checks that a column of this type can divide a table of the lake.
///
/// # Errors
/// `Refused` if it cannot; `Schema` if the lake cannot hold it at all.
pub fn check_type(original: &DataType) -> Result<()> {
    let stored = stored_type(original)?;
    let divides = stored.is_numeric() || stored.is_temporal();
    let divides = divides || matches!(stored, DataType::Boolean | DataType::Utf8);
    if divides && !matches!(original, DataType::Duration(_)) {
        return Ok(());
    }
    Err(Error::refused(format!(
        "a column of type {original} cannot divide a table of the lake"
    )))
}

/// What Delta's log holds for a cell of a column whose users' type is `original`. `None` is null.
///
/// # Errors
/// `Refused` for an empty string, and for what cannot be a partition value.
pub fn to_text(cell: &Cell, original: &DataType) -> Result<Option<String>> {
    let stored = cast(&column_of(cell, original, 1)?, &stored_type(original)?)?;
    let Cell::Value(value) = cell_of(&stored, 0)? else {
        return Ok(None);
    };
    Ok(Some(match value {
        Value::String(text) if text.is_empty() => {
            return Err(Error::refused(
                "an empty string as partition value would read back as null; give those rows another value",
            ));
        }
        Value::String(text) => text,
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Decimal { unscaled, scale } => decimal_text(unscaled, scale),
        Value::Date(_) => value.to_string(),
        Value::Timestamp { ns, zoned } => {
            let us = i64::try_from(ns.div_euclid(1000)).or_error(Kind::Refused, "timestamp")?;
            let at = chrono::DateTime::from_timestamp_micros(us)
                .ok_or_else(|| Error::refused(format!("timestamp {value} is out of range")))?;
            let form = if zoned {
                "%Y-%m-%dT%H:%M:%S%.6fZ"
            } else {
                "%Y-%m-%d %H:%M:%S%.6f"
            };
            at.format(form).to_string()
        }
        Value::Binary(_) | Value::Time(_) => {
            return Err(Error::refused(format!(
                "a column of type {original} cannot divide a table of the lake"
            )));
        }
    }))
}

/// The cell that Delta's log holds as `text` for a column whose users' type is `original`.
///
/// # Errors
/// `Corrupt` if the text is no value of the stored type.
pub fn from_text(text: Option<&str>, original: &DataType) -> Result<Cell> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(Cell::Null);
    };
    let stored = stored_type(original)?;
    let wrong = || Error::corrupt(format!("partition value '{text}' is not of type {stored}"));
    let value = match &stored {
        DataType::Utf8 => Value::String(text.to_owned()),
        DataType::Boolean => Value::Bool(text.parse().map_err(|_| wrong())?),
        data_type if data_type.is_integer() => Value::Int(text.parse().map_err(|_| wrong())?),
        data_type if data_type.is_floating() => Value::Float(text.parse().map_err(|_| wrong())?),
        DataType::Decimal128(_, scale) => {
            let (unscaled, found) = strait_common::value::parse_decimal(text).ok_or_else(wrong)?;
            let missing =
                u32::try_from(i32::from(*scale) - i32::from(found)).map_err(|_| wrong())?;
            let unscaled = 10i128
                .checked_pow(missing)
                .and_then(|factor| unscaled.checked_mul(factor));
            Value::Decimal {
                unscaled: unscaled.ok_or_else(wrong)?,
                scale: *scale,
            }
        }
        DataType::Date32 => match Value::parse(text) {
            Ok(date @ Value::Date(_)) => date,
            _ => return Err(wrong()),
        },
        DataType::Timestamp(_, zone) => {
            let plain = text.trim_end_matches('Z').replacen(' ', "T", 1);
            match Value::parse(&plain) {
                Ok(Value::Timestamp { ns, .. }) => Value::Timestamp {
                    ns,
                    zoned: zone.is_some(),
                },
                _ => return Err(wrong()),
            }
        }
        other => {
            return Err(Error::refused(format!(
                "a partition column of type {other} is not supported"
            )));
        }
    };
    let column = cast(&column_of(&Cell::Value(value), &stored, 1)?, original)?;
    cell_of(&column, 0)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn partition_values_come_back_from_the_log() {
        let string = |text: &str| Value::String(text.to_owned());
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let cases = [
            (DataType::Date32, Value::Date(20_000), "2024-10-04"),
            (DataType::Int32, Value::Int(-7), "-7"),
            (
                DataType::UInt64,
                Value::Int(u64::MAX.into()),
                "18446744073709551615",
            ),
            (
                DataType::Utf8,
                string("a/b=c %41 ä€ ' \" #?&+:;\\|<>*[]{}^`~"),
                "a/b=c %41 ä€ ' \" #?&+:;\\|<>*[]{}^`~",
            ),
            (
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
                string("IBM"),
                "IBM",
            ),
            (DataType::Boolean, Value::Bool(true), "true"),
            (
                DataType::Decimal128(10, 2),
                Value::Decimal {
                    unscaled: 110,
                    scale: 2,
                },
                "1.10",
            ),
            (
                DataType::Timestamp(TimeUnit::Microsecond, None),
                Value::Timestamp {
                    ns: 1_500_000,
                    zoned: false,
                },
                "1970-01-01 00:00:00.001500",
            ),
            (
                zoned,
                Value::Timestamp {
                    ns: 1000,
                    zoned: true,
                },
                "1970-01-01T00:00:00.000001Z",
            ),
            (
                DataType::Timestamp(TimeUnit::Nanosecond, None),
                Value::Timestamp {
                    ns: 1,
                    zoned: false,
                },
                "1",
            ),
        ];
        for (data_type, value, text) in cases {
            let cell = Cell::Value(value);
            assert_eq!(to_text(&cell, &data_type).unwrap().as_deref(), Some(text));
            assert_eq!(
                from_text(Some(text), &data_type).unwrap(),
                cell,
                "{data_type}"
            );
            assert_eq!(from_text(None, &data_type).unwrap(), Cell::Null);
            assert_eq!(to_text(&Cell::Null, &data_type).unwrap(), None);
        }
    }

    #[test]
    fn an_empty_string_is_refused() {
        let error =
            to_text(&Cell::Value(Value::String(String::new())), &DataType::Utf8).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
    }
}
