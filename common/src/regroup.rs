//! Rows that are divided otherwise than the table they go to: told apart by the table's own columns on the way in, and by the source's keys when they are compared.
//!
//! Only what rows themselves say can be told from them: values and ranges. Which bucket a row is in only the engine knows that made the buckets.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::boolean::{and, is_null};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use arrow::row::{RowConverter, SortField};

use crate::division::{Division, DivisionKind};
use crate::error::{Context, Error, Kind, OrError, Result};
use crate::key::{Cell, PartitionKey};
use crate::selection::{equals, in_range};
use crate::value::{NS_PER_S, Value};

/// The columns by which rows of any source can be put into a table that is divided like this: those of its levels, if all of them are VALUE levels.
pub fn value_columns(divisions: &[Division]) -> Option<Vec<String>> {
    let columns = divisions.iter().map(|division| {
        let by_value = division.kind == DivisionKind::Value;
        by_value.then(|| division.column.clone())
    });
    columns.collect()
}

/// The rows of a batch, told apart by their values in these columns, in order of key. Rows keep their order.
///
/// # Errors
/// `Schema` if the batch lacks a column; `Refused` if a column's type cannot divide a table, or a key is too long.
pub fn split(
    records: &RecordBatch,
    columns: &[String],
) -> Result<Vec<(PartitionKey, RecordBatch)>> {
    let arrays = columns.iter().map(|name| column(records, name));
    let arrays = arrays.collect::<Result<Vec<_>>>()?;
    if records.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let key = |row: usize| {
        let cells = columns.iter().zip(&arrays);
        let cells = cells.map(|(name, array)| {
            let cell = cell_of(array, row).with_context(|| format!("column {name}"))?;
            Ok((name.clone(), cell))
        });
        PartitionKey::new(cells.collect::<Result<Vec<_>>>()?)
    };
    if columns.is_empty() {
        return Ok(vec![(PartitionKey::default(), records.clone())]);
    }
    let vague = columns.iter().zip(&arrays);
    let vague = vague.filter(|(_, array)| !can_tell_apart(array.data_type()));
    if let Some((name, array)) = vague.into_iter().next() {
        return Err(Error::refused(format!(
            "column {name}: values of type {} do not tell rows apart",
            array.data_type()
        )));
    }
    const WHAT: &str = "tell rows apart";
    let fields = arrays
        .iter()
        .map(|array| SortField::new(array.data_type().clone()));
    let converter = RowConverter::new(fields.collect()).or_error(Kind::Refused, WHAT)?;
    let owned: Vec<ArrayRef> = arrays.iter().map(|array| ArrayRef::clone(array)).collect();
    let rows = converter
        .convert_columns(&owned)
        .or_error(Kind::Refused, WHAT)?;
    let mut groups: HashMap<&[u8], Vec<u32>> = HashMap::new();
    for at in 0..rows.num_rows() {
        let index = u32::try_from(at).or_error(Kind::Internal, WHAT)?;
        groups.entry(rows.row(at).data()).or_default().push(index);
    }
    // No two of them have one key: where equal values can have different bits, `can_tell_apart` says no.
    let mut parts = Vec::with_capacity(groups.len());
    for indices in groups.into_values() {
        let key = key(indices.first().map_or(0, |&first| first as usize))?;
        let part = if indices.len() == records.num_rows() {
            records.clone()
        } else {
            take_record_batch(records, &UInt32Array::from(indices))
                .or_error(Kind::Internal, WHAT)?
        };
        parts.push((key, part));
    }
    parts.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(parts)
}

/// Whether values of this type tell rows apart: not where equal ones can have different bits, of which a key keeps one.
pub fn can_tell_apart(data_type: &DataType) -> bool {
    let data_type = match data_type {
        DataType::Dictionary(_, values) => values.as_ref(),
        other => other,
    };
    !data_type.is_floating() && *data_type != DataType::Date64
}

/// Which rows of a batch are of the partition of this key, by what the rows say.
///
/// # Errors
/// `Refused` for a bucket, and for a range where a row has no value, since it can be in any; `Schema` if the batch lacks a column.
pub fn rows_of(key: &PartitionKey, records: &RecordBatch) -> Result<BooleanArray> {
    let all = BooleanArray::new(BooleanBuffer::new_set(records.num_rows()), None);
    key.parts().iter().try_fold(all, |all, (name, cell)| {
        let column = column(records, name)?;
        let of_cell = match cell {
            Cell::Null => is_null(column).or_error(Kind::Internal, "compare with a key")?,
            Cell::Value(value) => certain(&equals(column, value)?),
            Cell::Range { .. } if column.logical_null_count() > 0 => {
                return Err(Error::refused(format!(
                    "rows of the sink's have no value in column {name}: which range of the source's they are in only its engine knows, and the table at the sink is \
                     divided otherwise, so they cannot be told apart"
                )));
            }
            Cell::Range { from, to } => certain(&in_range(column, from.as_ref(), to.as_ref())?),
            Cell::Bucket { .. } => {
                return Err(Error::refused(format!(
                    "which rows are in {cell} of {name} only the engine knows that made it, and the table at the sink is divided otherwise: its rows cannot be \
                     told apart by partitions of the source"
                )));
            }
        };
        and(&all, &of_cell).or_error(Kind::Internal, "compare with a key")
    })
}

/// What is true; unknown is not.
fn certain(values: &BooleanArray) -> BooleanArray {
    match values.nulls() {
        Some(nulls) => BooleanArray::new(values.values() & nulls.inner(), None),
        None => values.clone(),
    }
}

fn column<'a>(records: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    records.column_by_name(name).ok_or_else(|| {
        Error::schema(format!(
            "the rows lack column {name}, which divides the table"
        ))
    })
}

/// The cell of a row.
///
/// # Errors
/// `Refused` if the column's type cannot divide a table.
pub fn cell_of(column: &ArrayRef, row: usize) -> Result<Cell> {
    let one = column.slice(row, 1);
    if one.logical_nulls().is_some_and(|nulls| nulls.is_null(0)) {
        return Ok(Cell::Null);
    }
    let as_type = |to: &DataType| cast(&one, to).or_error(Kind::Refused, "partition value");
    let data_type = match one.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    };
    Ok(Cell::Value(match data_type {
        DataType::Boolean => Value::Bool(as_type(&DataType::Boolean)?.as_boolean().value(0)),
        DataType::UInt64 => Value::Int(
            as_type(&DataType::UInt64)?
                .as_primitive::<UInt64Type>()
                .value(0)
                .into(),
        ),
        ref t if t.is_integer() => Value::Int(
            as_type(&DataType::Int64)?
                .as_primitive::<Int64Type>()
                .value(0)
                .into(),
        ),
        ref t if t.is_floating() => Value::Float(
            as_type(&DataType::Float64)?
                .as_primitive::<Float64Type>()
                .value(0),
        ),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale) => {
            let wide = as_type(&DataType::Decimal128(38, scale))?;
            Value::Decimal {
                unscaled: wide.as_primitive::<Decimal128Type>().value(0),
                scale,
            }
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Value::String(
            as_type(&DataType::Utf8)?
                .as_string::<i32>()
                .value(0)
                .to_owned(),
        ),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => Value::Binary(
            as_type(&DataType::Binary)?
                .as_binary::<i32>()
                .value(0)
                .to_vec(),
        ),
        DataType::Date32 | DataType::Date64 => Value::Date(
            as_type(&DataType::Date32)?
                .as_primitive::<Date32Type>()
                .value(0),
        ),
        DataType::Time32(_) | DataType::Time64(_) => {
            let ns = as_type(&DataType::Time64(TimeUnit::Nanosecond))?;
            Value::Time(ns.as_primitive::<Time64NanosecondType>().value(0))
        }
        DataType::Timestamp(unit, zone) => {
            let zoned = zone.is_some();
            let ns = match unit {
                TimeUnit::Second => {
                    i128::from(one.as_primitive::<TimestampSecondType>().value(0)) * NS_PER_S
                }
                TimeUnit::Nanosecond => one
                    .as_primitive::<TimestampNanosecondType>()
                    .value(0)
                    .into(),
                _ => {
                    let us = as_type(&DataType::Timestamp(TimeUnit::Microsecond, zone))?;
                    i128::from(us.as_primitive::<TimestampMicrosecondType>().value(0)) * 1000
                }
            };
            Value::Timestamp { ns, zoned }
        }
        other => {
            return Err(Error::refused(format!(
                "a column of type {other} cannot divide a table"
            )));
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Date32Array, Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn records() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("day", DataType::Date32, true),
            Field::new("symbol", DataType::Utf8, true),
            Field::new("id", DataType::Int64, false),
        ]);
        let day = Date32Array::from(vec![Some(2), Some(1), Some(2), None, Some(1)]);
        let symbol = StringArray::from(vec![Some("a"), Some("b"), Some("a"), None, Some("a")]);
        let id = Int64Array::from(vec![0, 1, 2, 3, 4]);
        let columns: Vec<ArrayRef> = vec![Arc::new(day), Arc::new(symbol), Arc::new(id)];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn ids(records: &RecordBatch) -> Vec<i64> {
        let ids = records.column_by_name("id").unwrap();
        ids.as_primitive::<Int64Type>().values().to_vec()
    }

    fn names(columns: &[&str]) -> Vec<String> {
        columns.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn rows_are_told_apart_by_their_values_and_none_is_lost() {
        let records = records();
        let parts = split(&records, &names(&["symbol", "day"])).unwrap();
        let found: Vec<_> = parts
            .iter()
            .map(|(key, part)| (key.to_string(), ids(part)))
            .collect();
        let expected = [
            ("symbol=null/day=null", vec![3]),
            ("symbol='a'/day=1970-01-02", vec![4]),
            ("symbol='a'/day=1970-01-03", vec![0, 2]),
            ("symbol='b'/day=1970-01-02", vec![1]),
        ];
        let expected = expected.map(|(key, ids)| (key.to_owned(), ids));
        assert_eq!(found, expected);
        let whole = split(&records, &[]).unwrap();
        assert_eq!(whole, [(PartitionKey::default(), records.clone())]);
        assert_eq!(split(&records.slice(0, 0), &names(&["day"])).unwrap(), []);
        let error = split(&records, &names(&["venue"])).unwrap_err();
        assert_eq!(error.kind(), Kind::Schema);
    }

    #[test]
    fn a_key_has_the_rows_that_it_was_told_apart_by_and_buckets_have_none_to_tell() {
        let records = records();
        for (key, part) in split(&records, &names(&["day", "symbol"])).unwrap() {
            let of_key = rows_of(&key, &records).unwrap();
            let found = arrow::compute::filter_record_batch(&records, &of_key).unwrap();
            assert_eq!(ids(&found), ids(&part), "{key}");
        }
        let range: PartitionKey = "day=[1970-01-02,1970-01-03)".parse().unwrap();
        let of_range = rows_of(&range, &records.slice(0, 3)).unwrap();
        assert_eq!(of_range.true_count(), 1);
        let error = rows_of(&range, &records).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "a row without a day: {error}");
        let bucket: PartitionKey = "symbol=bucket(1,4)".parse().unwrap();
        assert_eq!(
            rows_of(&bucket, &records).unwrap_err().kind(),
            Kind::Refused
        );
    }

    #[test]
    fn values_that_are_equal_in_different_bits_are_refused_and_none_is_lost() {
        let floats: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![0.0, -0.0, 1.0]));
        let records = RecordBatch::try_from_iter([("x", floats)]).unwrap();
        let error = split(&records, &names(&["x"])).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        for data_type in [DataType::Float32, DataType::Date64] {
            assert!(!can_tell_apart(&data_type));
        }
        assert!(can_tell_apart(&DataType::Date32));
    }

    #[test]
    fn only_levels_of_values_say_where_any_row_goes() {
        let level = |column: &str, kind| Division {
            column: column.to_owned(),
            kind,
        };
        let day = level("day", DivisionKind::Value);
        assert_eq!(value_columns(&[]), Some(Vec::new()));
        assert_eq!(
            value_columns(std::slice::from_ref(&day)),
            Some(names(&["day"]))
        );
        let buckets = level("symbol", DivisionKind::Hash { buckets: 4 });
        assert_eq!(value_columns(&[day, buckets]), None);
    }
}
