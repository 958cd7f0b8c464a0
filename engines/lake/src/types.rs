//! The lossless mapping between Arrow types and what a Delta table stores.
//!
//! Types that Delta has are stored as they are. The others are stored in the nearest Delta type that loses nothing, with the original
//! type in the field's metadata under [`ORIGINAL`], so that they come back as they were:
//!
//! | original | stored |
//! | --- | --- |
//! | UInt8, UInt16, UInt32 | Int16, Int32, Int64 |
//! | UInt64 | Decimal128(20, 0) |
//! | Float16 | Float32 |
//! | Decimal32, Decimal64 | Decimal128 of the same precision and scale |
//! | Timestamp in s or ns | Int64 |
//! | Timestamp in ms | Timestamp in us |
//! | Timestamp with a zone other than UTC | with UTC |
//! | Time32; Time64 and Duration | Int32; Int64 |
//! | Date64 | Timestamp in us without zone |
//! | LargeUtf8, Utf8View; LargeBinary, BinaryView, FixedSizeBinary | Utf8; Binary |
//! | every other list layout | List |
//! | Dictionary | its value type |
//! | Null | Boolean, always null |
//!
//! Nested types are mapped inside. Intervals, 256-bit decimals, unions and run-end encodings are refused by name. Every cast is checked: a value that
//! does not fit is an error, never another value.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use strait_common::{Error, Kind, OrError, Result, frame};

/// The metadata key that holds a field's original type, where it differs from the stored one.
pub const ORIGINAL: &str = "strait.arrow";

/// Users' and stored schema of a table, column by column.
#[derive(Clone, Debug)]
pub struct Mapping {
    original: SchemaRef,
    stored: SchemaRef,
}

impl Mapping {
    /// How rows of this schema are stored.
    ///
    /// # Errors
    /// `Schema`, naming the column, if a type cannot be held.
    pub fn of(original: &SchemaRef) -> Result<Mapping> {
        let fields = original
            .fields()
            .iter()
            .map(stored_field)
            .collect::<Result<Vec<_>>>()?;
        Ok(Mapping {
            original: Arc::clone(original),
            stored: Arc::new(Schema::new(fields)),
        })
    }

    /// What users know of a table with this stored schema, as Delta's log has it.
    ///
    /// # Errors
    /// `Corrupt`, naming the column, if its metadata names no type that is stored like this.
    pub fn from_stored(stored: &Schema) -> Result<Mapping> {
        let mut originals = Vec::with_capacity(stored.fields().len());
        for field in stored.fields() {
            let mut metadata = field.metadata().clone();
            let data_type = match metadata.remove(ORIGINAL) {
                Some(text) => {
                    let original = parse_type(&text).and_then(|original| {
                        if same_type(&stored_type(&original)?, &normal(field.data_type())) {
                            return Ok(original);
                        }
                        Err(Error::corrupt(format!(
                            "it is stored as {}, not as {original} would be",
                            field.data_type()
                        )))
                    });
                    original.map_err(|error| error.context(format!("column {}", field.name())))?
                }
                None => normal(field.data_type()),
            };
            originals.push(
                Field::new(field.name(), data_type, field.is_nullable()).with_metadata(metadata),
            );
        }
        let original: SchemaRef = Arc::new(Schema::new(originals));
        Mapping::of(&original)
    }

    /// The schema as users know it.
    pub fn original(&self) -> &SchemaRef {
        &self.original
    }

    /// The schema as Delta stores it.
    pub fn stored(&self) -> &SchemaRef {
        &self.stored
    }

    /// The same for these columns only, in this order.
    ///
    /// # Errors
    /// `Config` if there is no such column.
    pub fn project(&self, columns: &[String]) -> Result<Mapping> {
        let indices = columns
            .iter()
            .map(|name| self.original.index_of(name))
            .collect::<Result<Vec<_>, _>>();
        let indices = indices.or_error(Kind::Config, "columns")?;
        let project = |schema: &SchemaRef| {
            schema
                .project(&indices)
                .map(Arc::new)
                .or_error(Kind::Config, "columns")
        };
        Ok(Mapping {
            original: project(&self.original)?,
            stored: project(&self.stored)?,
        })
    }

    /// Rows as they are stored; columns in the order of the mapping.
    ///
    /// # Errors
    /// `Refused`, naming column and row, for a value that cannot be held.
    pub fn to_stored(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        convert(batch, &self.stored)
    }

    /// Rows as users know them.
    ///
    /// # Errors
    /// `Corrupt`, naming column and row, for a value that no original has.
    pub fn to_original(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        convert(batch, &self.original)
    }
}

fn convert(batch: &RecordBatch, to: &SchemaRef) -> Result<RecordBatch> {
    let columns = to.fields().iter().enumerate().map(|(at, field)| {
        let column = batch.column(at);
        cast(column, field.data_type())
            .map_err(|error| error.context(format!("column {}", field.name())))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(to), columns, &options)
        .or_error(Kind::Refused, "rows")
}

/// A checked cast: null stays null, and what does not fit is an error.
///
/// # Errors
/// `Refused` with the row's number within the batch.
pub fn cast(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    if *to == DataType::Null || *column.data_type() == DataType::Null {
        return Ok(new_null_array(to, column.len()));
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let result = cast_with_options(column, to, &options);
    result.map_err(|error| {
        // Arrow's error names no row: find it.
        let row = (0..column.len())
            .find(|&row| cast_with_options(&column.slice(row, 1), to, &options).is_err());
        let place = row
            .map(|row| format!("row {row} of the batch: "))
            .unwrap_or_default();
        Error::refused(format!("{place}the value does not fit {to}")).with_source(error)
    })
}

fn stored_field(field: &FieldRef) -> Result<Field> {
    let data_type = stored_type(field.data_type())
        .map_err(|error| error.context(format!("column {}", field.name())))?;
    let mut metadata = field.metadata().clone();
    metadata.remove(ORIGINAL);
    if data_type != *field.data_type() {
        metadata.insert(ORIGINAL.to_owned(), type_text(field.data_type())?);
    }
    // A column of nulls only can hold nothing else.
    let nullable = field.is_nullable() || *field.data_type() == DataType::Null;
    Ok(Field::new(field.name(), data_type, nullable).with_metadata(metadata))
}

/// The type that holds every value of `original`.
///
/// # Errors
/// `Schema` if there is none.
pub fn stored_type(original: &DataType) -> Result<DataType> {
    use DataType as T;
    Ok(match original {
        T::Boolean
        | T::Int8
        | T::Int16
        | T::Int32
        | T::Int64
        | T::Float32
        | T::Float64
        | T::Date32
        | T::Utf8
        | T::Binary => original.clone(),
        T::Null => T::Boolean,
        T::UInt8 => T::Int16,
        T::UInt16 => T::Int32,
        T::UInt32 => T::Int64,
        T::UInt64 => T::Decimal128(20, 0),
        T::Float16 => T::Float32,
        T::Decimal32(precision, scale)
        | T::Decimal64(precision, scale)
        | T::Decimal128(precision, scale)
            if *scale >= 0 && *scale <= precision.cast_signed() =>
        {
            T::Decimal128(*precision, *scale)
        }
        T::Timestamp(TimeUnit::Second | TimeUnit::Nanosecond, _) => T::Int64,
        T::Timestamp(_, None) | T::Date64 => T::Timestamp(TimeUnit::Microsecond, None),
        T::Timestamp(_, Some(_)) => T::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        T::Time32(_) => T::Int32,
        T::Time64(_) | T::Duration(_) => T::Int64,
        T::LargeUtf8 | T::Utf8View => T::Utf8,
        T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => T::Binary,
        T::Dictionary(_, values) => stored_type(values)?,
        T::List(item)
        | T::LargeList(item)
        | T::FixedSizeList(item, _)
        | T::ListView(item)
        | T::LargeListView(item) => T::List(nested(item)?),
        T::Struct(fields) => T::Struct(fields.iter().map(nested).collect::<Result<Fields>>()?),
        T::Map(entries, sorted) => T::Map(nested(entries)?, *sorted),
        other => return Err(Error::schema(format!("the lake cannot hold type {other}"))),
    })
}

fn nested(field: &FieldRef) -> Result<FieldRef> {
    let data_type = stored_type(field.data_type()).map_err(|error| error.context(field.name()))?;
    Ok(Arc::new(Field::new(
        field.name(),
        data_type,
        field.is_nullable(),
    )))
}

/// Types as the log's reader gives them, in the layouts that this engine writes: nested names and metadata do not matter.
fn normal(data_type: &DataType) -> DataType {
    stored_type(data_type).unwrap_or_else(|_| data_type.clone())
}

/// Whether two types hold the same values in the same layout. The fields within lists and maps have no name that means anything: Arrow calls them
/// `item` and `entries`, Delta's log `element` and `key_value`. Those within structs have.
pub fn same_type(a: &DataType, b: &DataType) -> bool {
    use DataType as T;
    let same = |a: &FieldRef, b: &FieldRef| {
        a.is_nullable() == b.is_nullable() && same_type(a.data_type(), b.data_type())
    };
    match (a, b) {
        (T::List(a), T::List(b))
        | (T::LargeList(a), T::LargeList(b))
        | (T::ListView(a), T::ListView(b))
        | (T::LargeListView(a), T::LargeListView(b)) => same(a, b),
        (T::FixedSizeList(a, length), T::FixedSizeList(b, other)) => length == other && same(a, b),
        (T::Struct(a), T::Struct(b)) => {
            let same_field = |(a, b): (&FieldRef, &FieldRef)| a.name() == b.name() && same(a, b);
            a.len() == b.len() && a.iter().zip(b).all(same_field)
        }
        (T::Map(a, _), T::Map(b, _)) => match (a.data_type(), b.data_type()) {
            (T::Struct(a), T::Struct(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (a, b) => a == b,
        },
        (a, b) => a == b,
    }
}

/// A type as text: the hex digits of an Arrow IPC schema with one field.
fn type_text(data_type: &DataType) -> Result<String> {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("", data_type.clone(), true)]));
    Ok(frame::schema_to_bytes(&schema)?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn parse_type(text: &str) -> Result<DataType> {
    let wrong = || Error::corrupt(format!("its {ORIGINAL} metadata names no type"));
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let bytes = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong()));
    let schema = frame::schema_from_bytes(&bytes.collect::<Result<Vec<_>>>()?)?;
    schema
        .fields()
        .first()
        .map(|field| field.data_type().clone())
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use arrow::array::*;
    use arrow::datatypes::*;

    use super::*;

    fn every_type() -> RecordBatch {
        let nested: ArrayRef = {
            let mut list = LargeListBuilder::new(UInt64Builder::new());
            list.append_value([Some(u64::MAX), None]);
            list.append_null();
            list.append_value([]);
            Arc::new(list.finish())
        };
        let time: ArrayRef = Arc::new(Time64NanosecondArray::from(vec![
            Some(1),
            None,
            Some(86_399_999_999_999),
        ]));
        let dictionary: ArrayRef = Arc::new(
            vec![Some("a"), None, Some("a")]
                .into_iter()
                .collect::<DictionaryArray<Int8Type>>(),
        );
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("null", Arc::new(NullArray::new(3))),
            (
                "bool",
                Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            ),
            (
                "i8",
                Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)])),
            ),
            (
                "i16",
                Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)])),
            ),
            (
                "u8",
                Arc::new(UInt8Array::from(vec![Some(0), None, Some(u8::MAX)])),
            ),
            (
                "u16",
                Arc::new(UInt16Array::from(vec![Some(0), None, Some(u16::MAX)])),
            ),
            (
                "u32",
                Arc::new(UInt32Array::from(vec![Some(0), None, Some(u32::MAX)])),
            ),
            (
                "u64",
                Arc::new(UInt64Array::from(vec![Some(0), None, Some(u64::MAX)])),
            ),
            (
                "f32",
                Arc::new(Float32Array::from(vec![Some(-0.0), None, Some(f32::NAN)])),
            ),
            (
                "d",
                Arc::new(
                    Decimal128Array::from(vec![Some(110), None, Some(-7)])
                        .with_precision_and_scale(38, 2)
                        .unwrap(),
                ),
            ),
            (
                "d32",
                Arc::new(
                    Decimal32Array::from(vec![Some(110), None, Some(-7)])
                        .with_precision_and_scale(9, 2)
                        .unwrap(),
                ),
            ),
            (
                "ns",
                Arc::new(TimestampNanosecondArray::from(vec![
                    Some(i64::MIN),
                    None,
                    Some(i64::MAX),
                ])),
            ),
            (
                "ns_zoned",
                Arc::new(
                    TimestampNanosecondArray::from(vec![Some(1), None, Some(-1)])
                        .with_timezone("Asia/Shanghai"),
                ),
            ),
            (
                "us",
                Arc::new(TimestampMicrosecondArray::from(vec![
                    Some(1),
                    None,
                    Some(-1),
                ])),
            ),
            (
                "us_zoned",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![Some(1), None, Some(-1)])
                        .with_timezone("+08:00"),
                ),
            ),
            (
                "ms",
                Arc::new(TimestampMillisecondArray::from(vec![
                    Some(1),
                    None,
                    Some(-1),
                ])),
            ),
            (
                "s",
                Arc::new(TimestampSecondArray::from(vec![
                    Some(i64::MAX),
                    None,
                    Some(-1),
                ])),
            ),
            (
                "date",
                Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)])),
            ),
            (
                "date64",
                Arc::new(Date64Array::from(vec![
                    Some(-86_400_000),
                    None,
                    Some(86_400_000),
                ])),
            ),
            ("time", time),
            (
                "time32",
                Arc::new(Time32SecondArray::from(vec![Some(0), None, Some(86_399)])),
            ),
            (
                "duration",
                Arc::new(DurationMillisecondArray::from(vec![
                    Some(i64::MIN),
                    None,
                    Some(i64::MAX),
                ])),
            ),
            (
                "large",
                Arc::new(LargeStringArray::from(vec![Some(""), None, Some("ä")])),
            ),
            (
                "view",
                Arc::new(StringViewArray::from(vec![
                    Some("a long string that is not inline"),
                    None,
                    Some(""),
                ])),
            ),
            (
                "fixed",
                Arc::new(
                    FixedSizeBinaryArray::try_from_sparse_iter_with_size(
                        [Some([0u8, 255]), None, Some([1, 2])].into_iter(),
                        2,
                    )
                    .unwrap(),
                ),
            ),
            ("dictionary", dictionary),
            ("list", nested),
        ];
        RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, column)| (name, column, true)),
        )
        .unwrap()
    }

    #[test]
    fn every_type_comes_back_as_it_was() {
        for batch in [
            every_type(),
            every_type().slice(1, 2),
            every_type().slice(0, 0),
        ] {
            let mapping = Mapping::of(&batch.schema()).unwrap();
            let stored = mapping.to_stored(&batch).unwrap();
            let found = Mapping::from_stored(&stored.schema()).unwrap();
            assert_eq!(found.original(), &batch.schema());
            assert_eq!(found.to_original(&stored).unwrap(), batch);
        }
    }

    #[test]
    fn a_struct_with_foreign_types_inside_comes_back() {
        let inner: Fields = vec![
            Field::new("u", DataType::UInt8, true),
            Field::new("t", DataType::Time32(TimeUnit::Millisecond), true),
        ]
        .into();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt8Array::from(vec![Some(200), None])),
            Arc::new(Time32MillisecondArray::from(vec![None, Some(5)])),
        ];
        let array = StructArray::new(inner, columns, Some(vec![true, false].into()));
        let batch = RecordBatch::try_from_iter([("s", Arc::new(array) as ArrayRef)]).unwrap();
        let mapping = Mapping::of(&batch.schema()).unwrap();
        let back = mapping
            .to_original(&mapping.to_stored(&batch).unwrap())
            .unwrap();
        assert_eq!(
            strait_common::digest::digest(&back).unwrap(),
            strait_common::digest::digest(&batch).unwrap()
        );
    }

    #[test]
    fn a_type_that_cannot_be_held_is_refused_by_name() {
        for data_type in [
            DataType::Decimal256(76, 0),
            DataType::Interval(IntervalUnit::DayTime),
            DataType::Decimal128(5, -2),
        ] {
            let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("bad", data_type, true)]));
            let error = Mapping::of(&schema).unwrap_err();
            assert_eq!(error.kind(), Kind::Schema);
            assert!(error.to_string().contains("column bad"), "{error}");
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_by_row() {
        let column: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![1, i64::MAX]));
        let batch = RecordBatch::try_from_iter([("ms", column)]).unwrap();
        let error = Mapping::of(&batch.schema())
            .unwrap()
            .to_stored(&batch)
            .unwrap_err();
        assert!(error.to_string().contains("column ms: row 1"), "{error}");
    }
}
