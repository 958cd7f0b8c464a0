//! Vectors computed by another implementation (tests/python/digest_vectors.py), and what must not matter.

use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Date64Type, DurationMicrosecondType, DurationMillisecondType,
    DurationNanosecondType, DurationSecondType, Int8Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, Decimal32Array, Decimal64Array,
    Decimal128Array, Decimal256Array, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray,
    Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, IntervalMonthDayNanoArray,
    LargeListArray, ListArray, ListViewArray, MapArray, NullArray, PrimitiveArray, RecordBatch,
    RecordBatchOptions, RunArray, StringArray, StructArray, Time32MillisecondArray,
    Time32SecondArray, Time64MicrosecondArray, Time64NanosecondArray, UInt64Array, UnionArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{cast, concat, concat_batches, take, take_record_batch};
use arrow::datatypes::{
    DataType, Field, Fields, IntervalMonthDayNano, Schema, TimeUnit, UnionFields, i256,
};
use serde_json::Value;

use super::*;

// --- the vectors ---

/// Builds what the vectors describe; anything unexpected is a mistake in the file.
fn build(kind: &Value, values: &[Value]) -> ArrayRef {
    let name = kind["type"].as_str().unwrap();
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let nulls = || NullBuffer::from_iter(values.iter().map(|v| !v.is_null()));
    match name {
        "null" => Arc::new(NullArray::new(values.len())),
        "bool" => Arc::new(BooleanArray::from_iter(values.iter().map(Value::as_bool))),
        "utf8" => Arc::new(StringArray::from_iter(values.iter().map(text))),
        "binary" => {
            let bytes = |v: &Value| {
                let hex = v.as_str()?.as_bytes();
                let byte = |pair: &[u8]| {
                    u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()
                };
                Some(hex.chunks(2).map(byte).collect::<Vec<u8>>())
            };
            Arc::new(BinaryArray::from_iter(values.iter().map(bytes)))
        }
        "int8" | "int16" | "int32" | "int64" | "uint8" | "uint16" | "uint32" => {
            let wide = numbers::<Int64Type>(values);
            cast(&wide, &plain_type(name)).unwrap()
        }
        "uint64" => {
            let number = |v: &Value| v.as_str().map(|v| v.parse::<u64>().unwrap());
            Arc::new(UInt64Array::from_iter(values.iter().map(number)))
        }
        "float16" | "float32" | "float64" => {
            let number = |v: &Value| v.as_str().map(|v| v.parse::<f64>().unwrap());
            let wide: ArrayRef = Arc::new(Float64Array::from_iter(values.iter().map(number)));
            cast(&wide, &plain_type(name)).unwrap()
        }
        "decimal32" | "decimal64" | "decimal128" | "decimal256" => decimals(name, kind, values),
        "date32" => {
            let days = numbers::<Int64Type>(values);
            cast(&cast(&days, &DataType::Int32).unwrap(), &DataType::Date32).unwrap()
        }
        "date64" => cast(&numbers::<Int64Type>(values), &DataType::Date64).unwrap(),
        "time" => {
            let data_type = match kind["unit"].as_str().unwrap() {
                "s" => DataType::Time32(TimeUnit::Second),
                "ms" => DataType::Time32(TimeUnit::Millisecond),
                "us" => DataType::Time64(TimeUnit::Microsecond),
                _ => DataType::Time64(TimeUnit::Nanosecond),
            };
            let mut values = numbers::<Int64Type>(values);
            if matches!(data_type, DataType::Time32(_)) {
                values = cast(&values, &DataType::Int32).unwrap();
            }
            cast(&values, &data_type).unwrap()
        }
        "timestamp" => match kind["unit"].as_str().unwrap() {
            "s" => numbers::<TimestampSecondType>(values),
            "ms" => numbers::<TimestampMillisecondType>(values),
            "us" => numbers::<TimestampMicrosecondType>(values),
            _ => numbers::<TimestampNanosecondType>(values),
        },
        "duration" => match kind["unit"].as_str().unwrap() {
            "s" => numbers::<DurationSecondType>(values),
            "ms" => numbers::<DurationMillisecondType>(values),
            "us" => numbers::<DurationMicrosecondType>(values),
            _ => numbers::<DurationNanosecondType>(values),
        },
        "interval" => {
            let interval = |v: &Value| {
                let parts = v.as_array()?;
                let part = |i: usize| parts[i].as_str().unwrap().parse::<i64>().unwrap();
                let (months, days) = (part(0) as i32, part(1) as i32);
                Some(IntervalMonthDayNano::new(months, days, part(2)))
            };
            let intervals = values.iter().map(interval);
            Arc::new(IntervalMonthDayNanoArray::from_iter(intervals))
        }
        "list" => {
            let (offsets, items) = flattened(values);
            let items = build(&kind["item"], &items);
            let field = Field::new("item", items.data_type().clone(), true);
            Arc::new(ListArray::new(
                Arc::new(field),
                offsets,
                items,
                Some(nulls()),
            ))
        }
        "struct" => {
            let described = kind["fields"].as_array().unwrap().iter().enumerate();
            let fields = described.map(|(i, described)| {
                let values: Vec<Value> = values.iter().map(|row| row[i].clone()).collect();
                let column = build(&described[1], &values);
                let name = described[0].as_str().unwrap();
                (Field::new(name, column.data_type().clone(), true), column)
            });
            let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = fields.unzip();
            Arc::new(StructArray::new(fields.into(), columns, Some(nulls())))
        }
        "map" => {
            let (offsets, entries) = flattened(values);
            let half = |i: usize| entries.iter().map(|entry| entry[i].clone()).collect();
            let (keys, items): (Vec<Value>, Vec<Value>) = (half(0), half(1));
            let (keys, items) = (build(&kind["key"], &keys), build(&kind["value"], &items));
            let fields = Fields::from(vec![
                Field::new("key", keys.data_type().clone(), false),
                Field::new("value", items.data_type().clone(), true),
            ]);
            let entries = StructArray::new(fields, vec![keys, items], None);
            let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
            Arc::new(MapArray::new(field, offsets, entries, Some(nulls()), false))
        }
        other => panic!("type {other}"),
    }
}

fn numbers<T: ArrowPrimitiveType<Native = i64>>(values: &[Value]) -> ArrayRef {
    let number = |v: &Value| v.as_str().map(|v| v.parse::<i64>().unwrap());
    Arc::new(PrimitiveArray::<T>::from_iter(values.iter().map(number)))
}

fn plain_type(name: &str) -> DataType {
    match name {
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "float16" => DataType::Float16,
        "float32" => DataType::Float32,
        _ => DataType::Float64,
    }
}

fn decimals(name: &str, kind: &Value, values: &[Value]) -> ArrayRef {
    let precision = kind["precision"].as_u64().unwrap() as u8;
    let scale = kind["scale"].as_i64().unwrap() as i8;
    let wide = values
        .iter()
        .map(|v| v.as_str().map(|v| v.parse::<i256>().unwrap()));
    let narrow = |v: Option<i256>| v.map(|v| v.to_i128().unwrap());
    match name {
        "decimal32" => Arc::new(
            Decimal32Array::from_iter(wide.map(|v| narrow(v).map(|v| v as i32)))
                .with_precision_and_scale(precision, scale)
                .unwrap(),
        ),
        "decimal64" => Arc::new(
            Decimal64Array::from_iter(wide.map(|v| narrow(v).map(|v| v as i64)))
                .with_precision_and_scale(precision, scale)
                .unwrap(),
        ),
        "decimal128" => Arc::new(
            Decimal128Array::from_iter(wide.map(narrow))
                .with_precision_and_scale(precision, scale)
                .unwrap(),
        ),
        _ => Arc::new(
            Decimal256Array::from_iter(wide)
                .with_precision_and_scale(precision, scale)
                .unwrap(),
        ),
    }
}

fn flattened(values: &[Value]) -> (OffsetBuffer<i32>, Vec<Value>) {
    let none = Vec::new();
    let lists = values.iter().map(|v| v.as_array().unwrap_or(&none));
    let offsets = OffsetBuffer::from_lengths(lists.clone().map(Vec::len));
    (offsets, lists.flatten().cloned().collect())
}

/// Writes `{"repeat": …, "times": n}` out.
fn expanded(value: &Value) -> Value {
    match value {
        Value::Object(short) => {
            let times = short["times"].as_u64().unwrap() as usize;
            match &short["repeat"] {
                Value::String(text) => Value::String(text.repeat(times)),
                other => Value::Array(vec![other.as_array().unwrap().clone(); times].concat()),
            }
        }
        Value::Array(items) => Value::Array(items.iter().map(expanded).collect()),
        plain => plain.clone(),
    }
}

struct Vector {
    name: String,
    batch: RecordBatch,
    digest: String,
    id: String,
}

fn vectors() -> Vec<Vector> {
    let file = include_str!("../testdata/digest_vectors.json");
    let file: Vec<Value> = serde_json::from_str(file).unwrap();
    let vector = |vector: &Value| {
        let rows = expanded(&vector["rows"]);
        let rows = rows.as_array().unwrap();
        let columns = vector["columns"].as_array().unwrap().iter().enumerate();
        let columns = columns.map(|(i, described)| {
            let values: Vec<Value> = rows.iter().map(|row| row[i].clone()).collect();
            let column = build(described, &values);
            let name = described["name"].as_str().unwrap();
            (Field::new(name, column.data_type().clone(), true), column)
        });
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.unzip();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let schema = Arc::new(Schema::new(fields));
        Vector {
            name: vector["name"].as_str().unwrap().to_owned(),
            batch: RecordBatch::try_new_with_options(schema, columns, &options).unwrap(),
            digest: vector["digest"].as_str().unwrap().to_owned(),
            id: vector["id"].as_str().unwrap().to_owned(),
        }
    };
    file.iter().map(vector).collect()
}

#[test]
fn another_implementation_computes_the_same_digests() {
    let vectors = vectors();
    assert!(vectors.len() > 100, "{} vectors", vectors.len());
    for Vector {
        name,
        batch,
        digest: wanted,
        id,
    } in vectors
    {
        assert_eq!(digest(&batch).unwrap().to_string(), wanted, "{name}");
        assert_eq!(DigestId::of(&batch.schema()).unwrap().0, id, "{name}");
    }
}

#[test]
fn vectors_that_must_differ_differ_and_that_must_be_equal_are() {
    let vectors = vectors();
    let of = |name: &str| {
        let found = vectors.iter().find(|vector| vector.name == name);
        &found.unwrap_or_else(|| panic!("no vector {name}")).digest
    };
    for (a, b) in [
        ("cells at their places", "two cells swapped between rows"),
        ("a, bc", "ab, c"),
        ("null", "empty"),
        ("once", "twice"),
    ] {
        assert_ne!(of(a), of(b), "{a} and {b}");
    }
    for (a, b) in [
        ("integers as int8", "integers as int64"),
        ("integers as int16", "integers as int32"),
        ("integers as uint8", "integers as uint64"),
        (
            "1.1 as decimal128 of scale 1",
            "1.1 as decimal128 of scale 2",
        ),
        (
            "1.1 as decimal32 of scale 1",
            "1.1 as decimal256 of scale 3",
        ),
        ("a day as date32", "a day as date64"),
        ("9:30 in s", "9:30 in ns"),
        ("timestamp in s", "timestamp in ms"),
        ("timestamp in us", "timestamp in ns"),
        ("duration in s", "duration in us"),
    ] {
        assert_eq!(of(a), of(b), "{a} and {b}");
    }
    assert_eq!(of("no rows"), &"0".repeat(32));
}

#[test]
fn slices_have_the_digest_of_their_copies() {
    for Vector { name, batch, .. } in vectors() {
        let rows = batch.num_rows();
        for start in 0..rows {
            for length in 1..=rows - start {
                let slice = batch.slice(start, length);
                let kept = UInt64Array::from_iter_values(start as u64..(start + length) as u64);
                if batch.num_columns() == 0 {
                    continue;
                }
                let copy = take_record_batch(&batch, &kept).unwrap();
                assert_eq!(
                    digest(&slice).unwrap(),
                    digest(&copy).unwrap(),
                    "{name}, {length} rows from {start}"
                );
            }
        }
    }
}

#[test]
fn the_order_of_rows_does_not_matter_and_parts_add_up() {
    for Vector { name, batch, .. } in vectors() {
        let rows = batch.num_rows() as u64;
        let whole = digest(&batch).unwrap();
        if batch.num_columns() > 0 {
            let reversed = UInt64Array::from_iter_values((0..rows).rev());
            let reversed = take_record_batch(&batch, &reversed).unwrap();
            assert_eq!(digest(&reversed).unwrap(), whole, "{name}, reversed");
        }
        for cut in 0..=batch.num_rows() {
            let head = digest(&batch.slice(0, cut)).unwrap();
            let tail = digest(&batch.slice(cut, batch.num_rows() - cut)).unwrap();
            assert_eq!(head.plus(tail), whole, "{name}, cut after {cut} rows");
        }
    }
}

// --- what must not matter ---

fn one(column: impl Array + 'static) -> Digest {
    one_of(&(Arc::new(column) as ArrayRef))
}

fn one_of(column: &ArrayRef) -> Digest {
    let field = Field::new("c", column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    digest(&RecordBatch::try_new(schema, vec![Arc::clone(column)]).unwrap()).unwrap()
}

fn texts() -> StringArray {
    StringArray::from(vec![
        Some("a"),
        None,
        Some(""),
        Some("longer than the twelve bytes of a view"),
        Some("a"),
        None,
        Some("東京"),
    ])
}

#[test]
fn the_layout_of_strings_and_bytes_does_not_matter() {
    let plain: ArrayRef = Arc::new(texts());
    let wanted = one_of(&plain);
    let dictionary = |keys| DataType::Dictionary(Box::new(keys), Box::new(DataType::Utf8));
    let views = DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8View));
    for data_type in [
        DataType::LargeUtf8,
        DataType::Utf8View,
        dictionary(DataType::Int8),
        dictionary(DataType::UInt32),
        views,
    ] {
        let other = cast(&plain, &data_type).unwrap();
        assert_eq!(other.data_type(), &data_type);
        assert_eq!(one_of(&other), wanted, "{data_type}");
        assert_eq!(
            one_of(&other.slice(2, 4)),
            one_of(&plain.slice(2, 4)),
            "{data_type}"
        );
    }
    let bytes = vec![Some(&b"abc"[..]), None, Some(&b"\0\xff "[..])];
    let plain: ArrayRef = Arc::new(BinaryArray::from(bytes.clone()));
    for data_type in [DataType::LargeBinary, DataType::BinaryView] {
        let other = cast(&plain, &data_type).unwrap();
        assert_eq!(one_of(&other), one_of(&plain), "{data_type}");
    }
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(bytes.into_iter(), 3);
    assert_eq!(one(fixed.unwrap()), one_of(&plain));
    // Text and bytes are of different classes.
    let text = one(StringArray::from(vec!["abc"]));
    assert_ne!(text, one(BinaryArray::from(vec![&b"abc"[..]])));
}

#[test]
fn a_null_in_a_dictionary_is_null_wherever_it_stands() {
    let plain = one(StringArray::from(vec![Some("a"), None, None, Some("b")]));
    let values = Arc::new(StringArray::from(vec![
        None,
        Some("b"),
        Some("a"),
        Some("unused"),
    ]));
    let keys = Int32Array::from(vec![Some(2), Some(0), None, Some(1)]);
    let dictionary = DictionaryArray::<Int32Type>::new(keys, values);
    assert_eq!(one(dictionary), plain);
}

#[test]
fn runs_count_as_what_they_encode() {
    let ends = Int32Array::from(vec![2, 3, 7, 8]);
    let values = StringArray::from(vec![Some("a"), None, Some(""), Some("b")]);
    let runs = RunArray::<Int32Type>::try_new(&ends, &values).unwrap();
    let plain: ArrayRef = Arc::new(StringArray::from(vec![
        Some("a"),
        Some("a"),
        None,
        Some(""),
        Some(""),
        Some(""),
        Some(""),
        Some("b"),
    ]));
    let runs: ArrayRef = Arc::new(runs);
    for (start, length) in [(0, 8), (1, 1), (1, 6), (2, 1), (5, 3)] {
        assert_eq!(
            one_of(&runs.slice(start, length)),
            one_of(&plain.slice(start, length)),
            "{length} rows from {start}"
        );
    }
    let id = |array: &ArrayRef| {
        let field = Field::new("c", array.data_type().clone(), true);
        DigestId::of(&Schema::new(vec![field])).unwrap()
    };
    assert_eq!(id(&runs), id(&plain));
}

#[test]
fn the_layout_of_lists_does_not_matter() {
    let lists = vec![
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![Some(3), Some(4)]),
    ];
    let plain: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(
        lists.clone(),
    ));
    let large = LargeListArray::from_iter_primitive::<Int8Type, _, _>(
        lists
            .iter()
            .map(|l| l.as_ref().map(|l| l.iter().map(|n| n.map(|n| n as i8)))),
    );
    assert_eq!(one(large), one_of(&plain));
    // Views may stand in any order, overlap, and leave items out.
    let items: ArrayRef = Arc::new(Int64Array::from(vec![
        Some(3),
        Some(4),
        Some(99),
        Some(1),
        None,
    ]));
    let view = ListViewArray::new(
        Arc::new(Field::new("item", DataType::Int64, true)),
        ScalarBuffer::from(vec![3, 2, 5, 0]),
        ScalarBuffer::from(vec![2, 1, 0, 2]),
        items,
        Some(NullBuffer::from(vec![true, false, true, true])),
    );
    let view: ArrayRef = Arc::new(view);
    assert_eq!(one_of(&view), one_of(&plain));
    assert_eq!(one_of(&view.slice(1, 3)), one_of(&plain.slice(1, 3)));
    let pairs = vec![
        Some(vec![Some(1), None]),
        None,
        Some(vec![Some(3), Some(4)]),
    ];
    let fixed = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(pairs.clone(), 2);
    let fixed: ArrayRef = Arc::new(fixed);
    let plain: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(pairs));
    for start in 0..3 {
        assert_eq!(
            one_of(&fixed.slice(start, 3 - start)),
            one_of(&plain.slice(start, 3 - start)),
            "from row {start}"
        );
    }
}

#[test]
fn what_lies_below_a_null_does_not_matter() {
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let with = |below: i64| {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, below, 3]));
        let nulls = NullBuffer::from(vec![true, false, true]);
        let record = StructArray::new(vec![field("x")].into(), vec![column], Some(nulls.clone()));
        let items: ArrayRef = Arc::new(Int64Array::from(vec![1, below, below, 3]));
        let offsets = OffsetBuffer::new(ScalarBuffer::from(vec![0, 1, 3, 4]));
        let list = ListArray::new(Arc::new(field("item")), offsets, items, Some(nulls.clone()));
        let number = Int64Array::new(vec![1, below, 3].into(), Some(nulls));
        (one(record), one(list), one(number))
    };
    assert_eq!(with(2), with(77));
}

#[test]
fn zeros_and_nans_of_every_kind_are_one() {
    let of = |values: Vec<f64>| one(Float64Array::from(values));
    assert_eq!(of(vec![-0.0]), of(vec![0.0]));
    let quiet = f64::from_bits(0x7ff8_0000_0000_0001);
    let signalling = f64::from_bits(0xfff0_0000_0000_0001);
    assert_eq!(of(vec![quiet]), of(vec![f64::NAN]));
    assert_eq!(of(vec![signalling]), of(vec![f64::NAN]));
    let narrow = f32::from_bits(0xffc0_1234);
    assert_eq!(one(Float32Array::from(vec![narrow])), of(vec![f64::NAN]));
    assert_ne!(of(vec![f64::NAN]), of(vec![f64::INFINITY]));
    assert_eq!(
        one(Float32Array::from(vec![0.1])),
        of(vec![f64::from(0.1f32)])
    );
    assert_ne!(one(Float32Array::from(vec![0.1])), of(vec![0.1]));
}

#[test]
fn classes_keep_equal_bytes_apart() {
    let seven = vec![7i64];
    let digests = [
        one(Int64Array::from(seven.clone())),
        one(PrimitiveArray::<Date64Type>::from(seven.clone())),
        one(PrimitiveArray::<TimestampNanosecondType>::from(
            seven.clone(),
        )),
        one(PrimitiveArray::<DurationNanosecondType>::from(
            seven.clone(),
        )),
        one(Time64NanosecondArray::from(seven)),
        one(Float64Array::from(vec![f64::from_bits(7)])),
        one(Decimal128Array::from(vec![7])),
        one(NullArray::new(1)),
        one(Int64Array::from(vec![None])),
        one(Float64Array::from(vec![None])),
        one(BooleanArray::from(vec![false])),
    ];
    for (i, a) in digests.iter().enumerate() {
        for b in &digests[..i] {
            assert_ne!(a, b, "digest {i}");
        }
    }
}

#[test]
fn the_unit_of_a_time_of_day_does_not_matter() {
    let wanted = one(Time64NanosecondArray::from(vec![34_200_000_000_000]));
    assert_eq!(one(Time32SecondArray::from(vec![34_200])), wanted);
    assert_eq!(one(Time32MillisecondArray::from(vec![34_200_000])), wanted);
    assert_eq!(
        one(Time64MicrosecondArray::from(vec![34_200_000_000])),
        wanted
    );
}

#[test]
fn the_zone_of_a_timestamp_is_a_matter_of_the_schema() {
    let plain = PrimitiveArray::<TimestampNanosecondType>::from(vec![1_700_000_000_000_000_000]);
    assert_eq!(
        one(plain.clone().with_timezone("Asia/Shanghai")),
        one(plain)
    );
    // And the ends of a unit do not wrap around.
    let ends = PrimitiveArray::<TimestampSecondType>::from(vec![i64::MIN, i64::MAX]);
    assert_ne!(
        one_of(&ends.slice(0, 1).into_array()),
        one_of(&ends.slice(1, 1).into_array())
    );
    let days = PrimitiveArray::<Date32Type>::from(vec![i32::MIN, i32::MAX]);
    assert_ne!(
        one_of(&days.slice(0, 1).into_array()),
        one_of(&days.slice(1, 1).into_array())
    );
}

trait IntoArray {
    fn into_array(self) -> ArrayRef;
}

impl<T: ArrowPrimitiveType> IntoArray for PrimitiveArray<T> {
    fn into_array(self) -> ArrayRef {
        Arc::new(self)
    }
}

#[test]
fn the_bounds_of_passes_and_pieces_do_not_show() {
    // Widths around what is written down at once, and numbers of rows around what a pass takes.
    let widths = [
        0,
        1,
        SCRATCH_BYTES_MAX - 10,
        SCRATCH_BYTES_MAX - 9,
        SCRATCH_BYTES_MAX - 8,
    ];
    let narrow = StringArray::from_iter_values((0..2 * PASS_ROWS + 3).map(|i| i.to_string()));
    let wide = StringArray::from_iter_values(widths.iter().map(|width| "w".repeat(*width)));
    let order = [0, 1, 2, 600, 3, 601, 300, 602, 603, 604];
    let all = concat(&[&narrow, &concat(&[&wide, &wide]).unwrap()]).unwrap();
    let total = all.len() as u64;
    let order = (0..total).map(|i| order.get(i as usize).copied().unwrap_or(i) % total);
    let mixed = take(&all, &UInt64Array::from_iter_values(order), None).unwrap();
    for array in [&all, &mixed] {
        let singly = (0..array.len()).map(|row| one_of(&array.slice(row, 1)));
        let sum = singly.fold(Digest::default(), Digest::plus);
        assert_eq!(one_of(array), sum);
    }
    // And each as the description says it.
    for row in 0..wide.len() {
        let mut bytes = vec![10];
        bytes.extend((wide.value(row).len() as u64).to_le_bytes());
        bytes.extend(wide.value(row).as_bytes());
        assert_eq!(
            one_of(&(Arc::new(wide.slice(row, 1)) as ArrayRef)).0,
            xxh3_128(&bytes)
        );
    }
}

#[test]
fn long_rows_of_every_type_are_fed_as_they_are_written() {
    // A long text beside each vector's columns makes its rows too long to be written down.
    for Vector { name, batch, .. } in vectors() {
        let filler = "f".repeat(SCRATCH_BYTES_MAX);
        let rows = batch.num_rows().min(3);
        let batch = batch.slice(0, rows);
        let with_filler = |filler: &str| {
            let mut fields: Vec<Field> = batch
                .schema()
                .fields()
                .iter()
                .map(|f| f.as_ref().clone())
                .collect();
            fields.push(Field::new("filler", DataType::Utf8, false));
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(StringArray::from_iter_values(
                (0..rows).map(|_| filler),
            )));
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
        };
        let batch = with_filler(&filler);
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|c| cells_of(c).unwrap())
            .collect();
        let mut sum = 0u128;
        for row in 0..rows {
            let length: usize = columns.iter().map(|cells| cells.length(row)).sum();
            let (mut at, mut bytes) = (0, vec![0; length]);
            columns
                .iter()
                .for_each(|cells| cells.put(row, &mut at, &mut bytes));
            assert_eq!(at, length, "{name}, row {row}");
            sum = sum.wrapping_add(xxh3_128(&bytes));
        }
        assert_eq!(digest(&batch).unwrap(), Digest(sum), "{name}");
    }
}

#[test]
fn batches_may_be_cut_anywhere() {
    let batches: Vec<RecordBatch> = (0..5)
        .map(|i| {
            let column: ArrayRef = Arc::new(Int8Array::from_iter((0..i).map(Some)));
            RecordBatch::try_from_iter([("n", column)]).unwrap()
        })
        .collect();
    let joined = concat_batches(&batches[0].schema(), &batches).unwrap();
    let parts = batches.iter().map(|batch| digest(batch).unwrap());
    assert_eq!(
        parts.fold(Digest::default(), Digest::plus),
        digest(&joined).unwrap()
    );
}

// --- the id and the texts ---

#[test]
fn the_id_follows_names_classes_and_their_order_alone() {
    let id = |fields: Vec<Field>| DigestId::of(&Schema::new(fields)).unwrap();
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let (a, b) = (field("a", DataType::Int64), field("b", DataType::Utf8));
    let wanted = id(vec![a.clone(), b.clone()]);
    assert_ne!(id(vec![b.clone(), a.clone()]), wanted, "order");
    assert_ne!(
        id(vec![field("A", DataType::Int64), b.clone()]),
        wanted,
        "name"
    );
    assert_ne!(
        id(vec![field("a", DataType::Float64), b.clone()]),
        wanted,
        "class"
    );
    assert_ne!(id(vec![a.clone()]), wanted, "number");
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8View));
    let same = vec![
        field("a", DataType::UInt8).with_nullable(false),
        field("b", dictionary),
    ];
    assert_eq!(id(same), wanted, "width, layout and nullability");
    let list = |item: &str| DataType::List(Arc::new(field(item, DataType::Int8)));
    let wide = DataType::LargeList(Arc::new(field("x", DataType::Int64)));
    assert_eq!(
        id(vec![field("l", list("item"))]),
        id(vec![field("l", wide)])
    );
    let record = |name: &str| DataType::Struct(vec![field(name, DataType::Int8)].into());
    assert_ne!(
        id(vec![field("s", record("x"))]),
        id(vec![field("s", record("y"))])
    );
}

#[test]
fn a_type_without_a_class_is_refused_by_column() {
    let fields = [(0, Arc::new(Field::new("i", DataType::Int64, true)))];
    let fields = UnionFields::from_iter(fields);
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let union = UnionArray::try_new(fields, ScalarBuffer::from(vec![0i8]), None, vec![values]);
    let union: ArrayRef = Arc::new(union.unwrap());
    let batch = RecordBatch::try_from_iter([("u", union)]).unwrap();
    let error = digest(&batch).unwrap_err();
    assert_eq!(error.kind(), crate::Kind::Schema);
    assert!(error.to_string().starts_with("column u: "), "{error}");
    let error = DigestId::of(&batch.schema()).unwrap_err();
    assert!(error.to_string().starts_with("column u: "), "{error}");
}

#[test]
fn a_digest_has_one_text() {
    let digest = Digest(0xab);
    let text = String::from(digest);
    assert_eq!(text, format!("{:0>32}", "ab"));
    assert_eq!(Digest::try_from(text.clone()).unwrap(), digest);
    assert_eq!(Digest::from_bytes(&digest.to_bytes()).unwrap(), digest);
    for wrong in [
        "",
        "ab",
        "+00000000000000000000000000000ab",
        &text.to_uppercase(),
        &format!("0{text}"),
    ] {
        assert!(Digest::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
    assert!(Digest::from_bytes(&[0; 15]).is_err());
}
