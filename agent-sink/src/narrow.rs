//! Columns that B's table has in another type than A's, and that the operator has named: each value goes over as it is, or its partition is refused.
//!
//! Digests are of what a value means and not of its width, so they are equal on both sides, and a receipt proves of such a column what it proves of any.

use std::sync::Arc;

use arrow::array::types::Float64Type;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use strait_common::digest::DigestId;
use strait_common::{Error, Kind, OrError, Result};

/// The columns of `sent`, those that are `named` with the types that the table has.
///
/// # Errors
/// `Config` for a name that is not among them; `Schema` if values of the two types cannot be the same.
pub fn as_held(sent: &Schema, held: &Schema, named: &[String]) -> Result<SchemaRef> {
    if let Some(name) = named
        .iter()
        .find(|name| sent.field_with_name(name).is_err())
    {
        return Err(Error::config(format!(
            "--narrow {name}: it is not among the columns that are sent"
        )));
    }
    let fields = sent.fields().iter().map(|field| {
        let there = held.field_with_name(field.name());
        let Some(there) = there.ok().filter(|_| named.contains(field.name())) else {
            return Ok(Arc::clone(field));
        };
        let (from, to) = (field.data_type(), there.data_type());
        if from == to {
            return Ok(Arc::clone(field));
        }
        let class = |field: &Field| DigestId::of(&Schema::new(vec![field.clone()]));
        let held = field.as_ref().clone().with_data_type(to.clone());
        if from.is_nested() || class(field)? != class(&held)? || !can_cast_types(from, to) {
            return Err(Error::schema(format!(
                "--narrow {}: values of {from} cannot be told to be values of {to}",
                field.name()
            )));
        }
        Ok(Arc::new(held.with_metadata(there.metadata().clone())))
    });
    let fields = fields.collect::<Result<Vec<_>>>()?;
    let metadata = sent.metadata().clone();
    Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
}

/// The same rows in the types of `held`. The first is row number `first` of its partition, counted from 0.
///
/// # Errors
/// `Refused`, naming column, row and value, for a value that is none of the other type.
pub fn apply(records: &RecordBatch, held: &SchemaRef, first: u64) -> Result<RecordBatch> {
    let columns = records.columns().iter().zip(held.fields());
    let columns = columns.map(|(column, field)| {
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        exactly(column, field, first)
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(held), columns).or_error(Kind::Schema, "narrow")
}

fn exactly(column: &ArrayRef, field: &Field, first: u64) -> Result<ArrayRef> {
    let what = || format!("column {}", field.name());
    // What does not fit becomes null, and what changes is found by going back.
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    let there = cast_with_options(column, field.data_type(), &options);
    let there = there.or_error(Kind::Schema, what())?;
    let back = cast_with_options(&there, column.data_type(), &options);
    let back = back.or_error(Kind::Schema, what())?;
    let same = not_distinct(column, &back).or_error(Kind::Schema, what())?;
    // A NaN is a NaN, whatever its bits.
    let nan = |column: &ArrayRef, row: usize| {
        let floats = column.as_primitive_opt::<Float64Type>();
        floats.is_some_and(|floats| floats.is_valid(row) && floats.value(row).is_nan())
    };
    let changes = |row: &usize| !(same.value(*row) || nan(column, *row) && nan(&back, *row));
    let Some(row) = (0..same.len()).find(changes) else {
        return Ok(there);
    };
    let value = array_value_to_string(column, row).unwrap_or_default();
    Err(Error::refused(format!(
        "column {}, row {}: {value} is no value of {}, which the sink's table has there; correct it at the source, or copy without that row (--where)",
        field.name(),
        first + row as u64,
        field.data_type()
    )))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, TimestampNanosecondArray};
    use arrow::datatypes::{DataType, TimeUnit};

    use super::*;

    fn schema(types: [DataType; 3]) -> Schema {
        let names = ["n", "x", "at"].into_iter().zip(types);
        Schema::new(
            names
                .map(|(name, of)| Field::new(name, of, true))
                .collect::<Vec<_>>(),
        )
    }

    fn wide() -> Schema {
        let at = DataType::Timestamp(TimeUnit::Nanosecond, None);
        schema([DataType::Int64, DataType::Float64, at])
    }

    fn narrow() -> Schema {
        let at = DataType::Timestamp(TimeUnit::Microsecond, None);
        schema([DataType::Int16, DataType::Float32, at])
    }

    fn rows(n: i64, x: f64, at: i64) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![None, Some(1), Some(n)])),
            Arc::new(Float64Array::from(vec![
                None,
                // As R writes what is not available.
                Some(f64::from_bits(0x7FF0_0000_0000_07A2)),
                Some(x),
            ])),
            Arc::new(TimestampNanosecondArray::from(vec![
                None,
                Some(0),
                Some(at),
            ])),
        ];
        RecordBatch::try_new(Arc::new(wide()), columns).unwrap()
    }

    fn names(of: &[&str]) -> Vec<String> {
        of.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn values_that_fit_keep_their_digest_and_others_are_refused_by_column_and_row() {
        let held = as_held(&wide(), &narrow(), &names(&["n", "x", "at"])).unwrap();
        assert_eq!(*held, narrow());
        let fits = rows(-32_768, 0.25, -5_000);
        let there = apply(&fits, &held, 0).unwrap();
        assert_eq!(there.schema(), held);
        let digest = strait_common::digest::digest;
        assert_eq!(digest(&fits).unwrap(), digest(&there).unwrap());
        for (wrong, named) in [
            (
                rows(32_768, 0.25, 0),
                "column n, row 102: 32768 is no value of Int16",
            ),
            (
                rows(1, 0.1, 0),
                "column x, row 102: 0.1 is no value of Float32",
            ),
            (rows(1, 0.5, 1_001), "column at, row 102"),
        ] {
            let error = apply(&wrong, &held, 100).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn only_what_is_named_and_can_be_the_same_is_narrowed() {
        let held = as_held(&wide(), &narrow(), &names(&["x"])).unwrap();
        let types: Vec<_> = held
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        assert_eq!(types[..2], [DataType::Int64, DataType::Float32]);
        let error = as_held(&wide(), &narrow(), &names(&["y"])).unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{error}");
        let text = schema([DataType::Utf8, DataType::Float32, DataType::Date32]);
        let error = as_held(&wide(), &text, &names(&["n"])).unwrap_err();
        assert_eq!(error.kind(), Kind::Schema, "{error}");
    }
}
