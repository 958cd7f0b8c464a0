//! Rows of any engine as the server's table has them: which type each column becomes, and columns by name although the server goes by their order.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::encode::check_table;
use crate::types::{ColumnType, Type};

/// What the server cannot hold, for `plan`.
pub(crate) const VALUE_RULES: [&str; 5] = [
    "DolphinDB has no empty text and no empty BLOB: '' in a column is refused by row",
    "DolphinDB takes the least value of an integer or time, and the least finite number of a float, for null: they are refused by row",
    "a STRING of more than 65,535 bytes, a SYMBOL of more than 255 and a BLOB of 64 MiB would be cut off: they are refused by row",
    "a partition key that is null, or that no directory can be called by (with white space or a slash in it), is refused by name",
    "a null list is refused by row: DolphinDB cannot tell it from an empty one",
];

/// The server's type that holds all values of a column.
///
/// # Errors
/// `Schema` if there is none.
pub(crate) fn server_type(field: &Field) -> Result<ColumnType> {
    let plain = |item| Ok(ColumnType::plain(item));
    match field.data_type() {
        DataType::LargeUtf8 | DataType::Utf8View => plain(Type::String),
        DataType::Binary | DataType::BinaryView => plain(Type::Blob),
        DataType::UInt8 => plain(Type::Short),
        DataType::UInt16 => plain(Type::Int),
        DataType::UInt32 => plain(Type::Long),
        DataType::Timestamp(TimeUnit::Microsecond, None) => plain(Type::NanoTimestamp),
        DataType::Time64(TimeUnit::Microsecond) => plain(Type::NanoTime),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            let scale = scale.cast_unsigned();
            plain(match precision {
                0..=9 => Type::Decimal32(scale),
                10..=18 => Type::Decimal64(scale),
                _ => Type::Decimal128(scale),
            })
        }
        DataType::Dictionary(_, values)
            if matches!(
                values.as_ref(),
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
            ) =>
        {
            plain(Type::Symbol)
        }
        other => {
            let found = ColumnType::of(field)
                .ok()
                .filter(|kind| kind.item != Type::Void);
            found.ok_or_else(|| {
                let hint = match other {
                    DataType::Timestamp(_, Some(_)) => {
                        ": DolphinDB keeps no time zone; leave the column out, or copy it as a time without one"
                    }
                    _ => "",
                };
                Error::schema(format!(
                    "column {}: DolphinDB has no type for {other}{hint}",
                    field.name()
                ))
            })
        }
    }
}

/// The table that the server would make for rows of this schema.
///
/// # Errors
/// As [`server_type`].
pub(crate) fn server_schema(schema: &Schema) -> Result<SchemaRef> {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| Ok(server_type(field)?.field(field.name())));
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
}

fn is_text(kind: ColumnType) -> bool {
    !kind.array && matches!(kind.item, Type::String | Type::Symbol)
}

/// Whether all columns of a run can be put into the table that is there.
///
/// # Errors
/// `Schema`, showing both sides of the first column that cannot.
pub(crate) fn check_columns(table: &str, here: &Schema, wanted: &Schema) -> Result<()> {
    for field in wanted.fields() {
        let wanted = server_type(field)?;
        let there = here.field_with_name(field.name()).map_err(|_| {
            Error::schema(format!(
                "column {} of table {table} is absent here and {} there",
                field.name(),
                field.data_type()
            ))
        })?;
        let kind = ColumnType::of(there)?;
        if kind != wanted && !(is_text(kind) && is_text(wanted)) {
            return Err(Error::schema(format!(
                "column {} of table {table} is {kind} here, and what comes is {}, which needs {wanted}",
                field.name(),
                field.data_type()
            )));
        }
    }
    Ok(())
}

/// Puts rows into the shape of the table: its columns in its order, null where the rows have none.
///
/// # Errors
/// `Schema` for a column that the table lacks; `Refused`, naming column and row, for a value that it cannot hold.
pub(crate) fn fit(rows: &RecordBatch, table: &SchemaRef) -> Result<RecordBatch> {
    let given = rows.schema();
    for field in given.fields() {
        if table.field_with_name(field.name()).is_err() {
            return Err(Error::schema(format!(
                "column {}: the table has none of that name",
                field.name()
            )));
        }
    }
    let columns = table.fields().iter().map(|field| {
        let Some(column) = rows.column_by_name(field.name()) else {
            return Ok(new_null_array(field.data_type(), rows.num_rows()));
        };
        converted(column, field.data_type()).with_context(|| format!("column {}", field.name()))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let fitted = RecordBatch::try_new_with_options(Arc::clone(table), columns, &options);
    let fitted = fitted.or_error(Kind::Schema, "rows that do not fit the table")?;
    check_table(&fitted)?;
    Ok(fitted)
}

fn converted(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, to, &options).or_error(
        Kind::Refused,
        format!("a value of {} that {to} cannot hold", column.data_type()),
    )
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, AsArray, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array,
    };
    use arrow::datatypes::{Int64Type, TimestampNanosecondType};

    use super::*;

    #[test]
    fn every_type_becomes_one_that_holds_all_of_its_values() {
        let of = |data_type: DataType| {
            server_type(&Field::new("c", data_type, true)).map(|kind| kind.to_string())
        };
        let held = [
            (DataType::Int64, "LONG"),
            (DataType::UInt8, "SHORT"),
            (DataType::UInt32, "LONG"),
            (DataType::LargeUtf8, "STRING"),
            (DataType::Binary, "BLOB"),
            (
                DataType::Timestamp(TimeUnit::Microsecond, None),
                "NANOTIMESTAMP",
            ),
            (
                DataType::Timestamp(TimeUnit::Millisecond, None),
                "TIMESTAMP",
            ),
            (DataType::Decimal128(10, 2), "DECIMAL64(2)"),
            (DataType::Decimal128(38, 10), "DECIMAL128(10)"),
            (
                DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
                "SYMBOL",
            ),
        ];
        for (data_type, name) in held {
            assert_eq!(of(data_type).unwrap(), name);
        }
        for data_type in [
            DataType::UInt64,
            DataType::Null,
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            DataType::Decimal128(10, -2),
        ] {
            let error = of(data_type).unwrap_err();
            assert_eq!(error.kind(), Kind::Schema, "{error}");
            assert!(error.to_string().contains("column c"), "{error}");
        }
    }

    #[test]
    fn rows_go_by_name_and_what_cannot_be_held_is_refused() {
        let table = Arc::new(Schema::new(vec![
            ColumnType::plain(Type::String).field("note"),
            ColumnType::plain(Type::Long).field("n"),
            ColumnType::plain(Type::NanoTimestamp).field("at"),
        ]));
        let at = |value: i64| {
            let schema = Schema::new(vec![
                Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
                Field::new("n", DataType::UInt32, false),
            ]);
            let columns: Vec<ArrayRef> = vec![
                Arc::new(TimestampMicrosecondArray::from(vec![Some(value), None])),
                Arc::new(UInt32Array::from(vec![7, u32::MAX])),
            ];
            RecordBatch::try_new(Arc::new(schema), columns).unwrap()
        };
        let fitted = fit(&at(5), &table).unwrap();
        assert_eq!(fitted.column(0).null_count(), 2);
        assert_eq!(
            fitted.column(1).as_primitive::<Int64Type>().values(),
            &[7, i64::from(u32::MAX)]
        );
        assert_eq!(
            fitted
                .column(2)
                .as_primitive::<TimestampNanosecondType>()
                .value(0),
            5000
        );
        // Microseconds reach further than nanoseconds.
        let error = fit(&at(i64::MAX), &table).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        let empty = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            (
                "note",
                Arc::new(StringArray::from(vec!["a", ""])) as ArrayRef,
            ),
        ]);
        let error = fit(&empty.unwrap(), &table).unwrap_err();
        assert!(
            error.to_string().contains("note") && error.to_string().contains("row 1"),
            "{error}"
        );
        let stranger =
            RecordBatch::try_from_iter([("x", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
        assert_eq!(
            fit(&stranger.unwrap(), &table).unwrap_err().kind(),
            Kind::Schema
        );
    }
}
