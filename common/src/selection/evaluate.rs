//! Evaluates a condition on a batch, with SQL's three values.

use std::cmp::Ordering;

use arrow::array::types::{
    Date32Type, Decimal128Type, Float64Type, Int64Type, Time64NanosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt64Type,
};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::kernels::boolean::{and_kleene, is_null, not, or_kleene};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, TimeUnit};

use super::predicate::Predicate;
use crate::error::{Error, Kind, OrError, Result};
use crate::value::{Value, compare_decimals, compare_floats};

/// Which rows are selected: those for which the condition is true.
pub(super) fn selected(predicate: &Predicate, batch: &RecordBatch) -> Result<BooleanArray> {
    let values = evaluate(predicate, batch)?;
    Ok(match values.nulls() {
        Some(nulls) => BooleanArray::new(values.values() & nulls.inner(), None),
        None => values,
    })
}

fn evaluate(predicate: &Predicate, batch: &RecordBatch) -> Result<BooleanArray> {
    let rows = batch.num_rows();
    let context = "evaluate a condition";
    match predicate {
        Predicate::Constant(value) => Ok(BooleanArray::from(vec![*value; rows])),
        Predicate::Compare(column, comparison, value) => {
            compare(column_of(batch, column)?, value, |order| {
                comparison.holds(order)
            })
        }
        Predicate::In(column, values) => {
            let column = column_of(batch, column)?;
            let mut result = BooleanArray::from(vec![Some(false); rows]);
            for value in values {
                let equal = compare(column, value, |order| order == Ordering::Equal)?;
                result = or_kleene(&result, &equal).or_error(Kind::Internal, context)?;
            }
            Ok(result)
        }
        Predicate::IsNull(column) => {
            is_null(column_of(batch, column)?).or_error(Kind::Internal, context)
        }
        Predicate::Not(inner) => not(&evaluate(inner, batch)?).or_error(Kind::Internal, context),
        Predicate::And(parts) => parts
            .iter()
            .try_fold(BooleanArray::from(vec![Some(true); rows]), |all, part| {
                and_kleene(&all, &evaluate(part, batch)?).or_error(Kind::Internal, context)
            }),
        Predicate::Or(parts) => parts
            .iter()
            .try_fold(BooleanArray::from(vec![Some(false); rows]), |any, part| {
                or_kleene(&any, &evaluate(part, batch)?).or_error(Kind::Internal, context)
            }),
    }
}

/// Which cells are in `[from, to)`.
pub(super) fn in_range(
    column: &ArrayRef,
    from: Option<&Value>,
    to: Option<&Value>,
) -> Result<BooleanArray> {
    let all = BooleanArray::new(BooleanBuffer::new_set(column.len()), column.logical_nulls());
    let bounds = [
        from.map(|from| compare(column, from, Ordering::is_ge)),
        to.map(|to| compare(column, to, Ordering::is_lt)),
    ];
    bounds.into_iter().flatten().try_fold(all, |all, bound| {
        and_kleene(&all, &bound?).or_error(Kind::Internal, "compare with a range")
    })
}

/// Which cells are this value.
pub(super) fn equals(column: &ArrayRef, value: &Value) -> Result<BooleanArray> {
    compare(column, value, Ordering::is_eq)
}

/// Whether [`compare`] can compare cells of this type with this value.
pub(super) fn has_order(value: &Value, data_type: &DataType) -> bool {
    let data_type = match data_type {
        DataType::Dictionary(_, values) => values.as_ref(),
        other => other,
    };
    match value {
        Value::Bool(_) => *data_type == DataType::Boolean,
        Value::Int(_) | Value::Decimal { .. } => {
            data_type.is_integer()
                || matches!(
                    data_type,
                    DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..)
                )
        }
        Value::Float(_) => data_type.is_floating(),
        Value::String(_) => matches!(
            data_type,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        ),
        Value::Binary(_) => matches!(
            data_type,
            DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        ),
        Value::Date(_) => matches!(data_type, DataType::Date32 | DataType::Date64),
        Value::Time(_) => matches!(data_type, DataType::Time32(_) | DataType::Time64(_)),
        Value::Timestamp { zoned, .. } => {
            matches!(data_type, DataType::Timestamp(_, zone) if zone.is_some() == *zoned)
        }
    }
}

fn column_of<'a>(batch: &'a RecordBatch, column: &str) -> Result<&'a ArrayRef> {
    batch
        .column_by_name(column)
        .ok_or_else(|| Error::internal(format!("column {column} was not read")))
}

/// Compares every cell with a value of its column's class.
fn compare(
    column: &ArrayRef,
    value: &Value,
    holds: impl Fn(Ordering) -> bool,
) -> Result<BooleanArray> {
    // In the one type of its class; every value fits, since classes are cut so.
    let as_type = |to: &DataType| {
        let options = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        cast_with_options(column, to, &options).or_error(Kind::Internal, "widen a column")
    };
    let data_type = match column.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    };
    let mismatch = || {
        Error::internal(format!(
            "a column of type {} is compared with a {}",
            column.data_type(),
            value.type_name()
        ))
    };
    let result = |nulls: Option<NullBuffer>, order: &dyn Fn(usize) -> Ordering| {
        Ok(BooleanArray::new(
            BooleanBuffer::collect_bool(column.len(), |row| holds(order(row))),
            nulls,
        ))
    };
    match value {
        Value::Bool(value) => {
            let wide = as_type(&DataType::Boolean)?;
            result(wide.logical_nulls(), &|row| {
                wide.as_boolean().value(row).cmp(value)
            })
        }
        Value::Int(_) | Value::Decimal { .. } => {
            let (unscaled, scale) = match value {
                Value::Int(value) => (*value, 0),
                Value::Decimal { unscaled, scale } => (*unscaled, *scale),
                _ => return Err(mismatch()),
            };
            match data_type {
                DataType::UInt64 => {
                    let wide = as_type(&DataType::UInt64)?;
                    let values = wide.as_primitive::<UInt64Type>().values();
                    result(wide.logical_nulls(), &|row| {
                        compare_decimals(values[row].into(), 0, unscaled, scale)
                    })
                }
                ref data_type if data_type.is_integer() => {
                    let wide = as_type(&DataType::Int64)?;
                    let values = wide.as_primitive::<Int64Type>().values();
                    match (scale, i64::try_from(unscaled)) {
                        (0, Ok(value)) => {
                            result(wide.logical_nulls(), &|row| values[row].cmp(&value))
                        }
                        _ => result(wide.logical_nulls(), &|row| {
                            compare_decimals(values[row].into(), 0, unscaled, scale)
                        }),
                    }
                }
                DataType::Decimal32(precision, own)
                | DataType::Decimal64(precision, own)
                | DataType::Decimal128(precision, own) => {
                    let wide = as_type(&DataType::Decimal128(precision.max(38), own))?;
                    let values = wide.as_primitive::<Decimal128Type>().values();
                    result(wide.logical_nulls(), &|row| {
                        compare_decimals(values[row], own, unscaled, scale)
                    })
                }
                _ => Err(mismatch()),
            }
        }
        Value::Float(value) => {
            let wide = as_type(&DataType::Float64)?;
            let values = wide.as_primitive::<Float64Type>().values();
            result(wide.logical_nulls(), &|row| {
                compare_floats(values[row], *value)
            })
        }
        Value::String(value) => {
            let wide = as_type(&DataType::LargeUtf8)?;
            let values = wide.as_string::<i64>();
            result(wide.logical_nulls(), &|row| {
                values.value(row).cmp(value.as_str())
            })
        }
        Value::Binary(value) => {
            let wide = as_type(&DataType::LargeBinary)?;
            let values = wide.as_binary::<i64>();
            result(wide.logical_nulls(), &|row| {
                values.value(row).cmp(value.as_slice())
            })
        }
        Value::Date(value) => {
            let wide = as_type(&DataType::Date32)?;
            let values = wide.as_primitive::<Date32Type>().values();
            result(wide.logical_nulls(), &|row| values[row].cmp(value))
        }
        Value::Time(value) => {
            let wide = as_type(&DataType::Time64(TimeUnit::Nanosecond))?;
            let values = wide.as_primitive::<Time64NanosecondType>().values();
            result(wide.logical_nulls(), &|row| values[row].cmp(value))
        }
        Value::Timestamp { ns, .. } => {
            let DataType::Timestamp(unit, _) = data_type else {
                return Err(mismatch());
            };
            let wide = as_type(&data_type)?;
            let (values, unit_ns) = match unit {
                TimeUnit::Second => (
                    wide.as_primitive::<TimestampSecondType>().values(),
                    1_000_000_000,
                ),
                TimeUnit::Millisecond => (
                    wide.as_primitive::<TimestampMillisecondType>().values(),
                    1_000_000,
                ),
                TimeUnit::Microsecond => (
                    wide.as_primitive::<TimestampMicrosecondType>().values(),
                    1000,
                ),
                TimeUnit::Nanosecond => {
                    (wide.as_primitive::<TimestampNanosecondType>().values(), 1)
                }
            };
            // Compared in the column's own unit, with what the unit cannot hold decided once.
            let (floor, rest) = (ns.div_euclid(unit_ns), ns.rem_euclid(unit_ns));
            result(wide.logical_nulls(), &|row| {
                i128::from(values[row]).cmp(&floor).then(if rest > 0 {
                    Ordering::Less
                } else {
                    Ordering::Equal
                })
            })
        }
    }
}
