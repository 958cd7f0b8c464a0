//! Literals of every type, how strictly they are read, and what may be added to them.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Date64Array,
    Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array,
    Int64Array, LargeBinaryArray, LargeStringArray, RecordBatch, StringArray, StringViewArray,
    Time32SecondArray, Time64NanosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{Field, Int32Type, Schema};

use super::NOW;
use super::lines::{refused, text};
use crate::selection::{Selection, SelectionSpec};

/// How many of a value and a null are selected.
fn selected(array: ArrayRef, condition: &str) -> usize {
    let schema = Schema::new(vec![Field::new("c", array.data_type().clone(), true)]);
    let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![array]).unwrap();
    let spec = SelectionSpec {
        predicate: Some(condition.to_owned()),
        zone: Some("Europe/Berlin".to_owned()),
        columns: None,
    };
    let selection = Selection::resolve(&spec, &schema, NOW)
        .unwrap_or_else(|error| panic!("{condition} on {}: {error}", schema.field(0).data_type()));
    assert_eq!(
        Selection::from_text(&selection.text(), &schema).unwrap(),
        selection
    );
    selection.filter(&batch).unwrap().num_rows()
}

#[test]
fn every_comparable_type_has_its_literals() {
    let bytes: &[u8] = &[0, 255];
    let fixed =
        FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some(bytes), None].into_iter(), 2);
    let dictionary: DictionaryArray<Int32Type> = vec![Some("a"), None].into_iter().collect();
    // 2026-11-01T09:30:00, which is 08:30 in UTC.
    let (civil, instant) = (1_793_525_400, 1_793_521_800);
    let cases: Vec<(ArrayRef, &[&str])> = vec![
        (
            Arc::new(BooleanArray::from(vec![Some(true), None])),
            &["true"],
        ),
        (
            Arc::new(Int8Array::from(vec![Some(-5), None])),
            &["-5", "-5.0", "'-5'"],
        ),
        (
            Arc::new(Int64Array::from(vec![Some(i64::MIN), None])),
            &["-9223372036854775808"],
        ),
        (
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
            &["18446744073709551615"],
        ),
        (
            Arc::new(Float32Array::from(vec![Some(1.5), None])),
            &["1.5", "15e-1", "'1.5'"],
        ),
        (
            Arc::new(Float64Array::from(vec![Some(f64::NAN), None])),
            &["'NaN'"],
        ),
        (
            Arc::new(
                Decimal128Array::from(vec![Some(110), None])
                    .with_precision_and_scale(10, 2)
                    .unwrap(),
            ),
            &["1.1", "1.10", "'1.1000'"],
        ),
        (
            Arc::new(StringArray::from(vec![Some("it's"), None])),
            &["'it''s'"],
        ),
        (
            Arc::new(LargeStringArray::from(vec![Some("a"), None])),
            &["'a'"],
        ),
        (
            Arc::new(StringViewArray::from(vec![Some("a"), None])),
            &["'a'"],
        ),
        (Arc::new(dictionary), &["'a'"]),
        (
            Arc::new(BinaryArray::from(vec![Some(bytes), None])),
            &["'00ff'", "x'00ff'", "X'00FF'"],
        ),
        (
            Arc::new(LargeBinaryArray::from(vec![Some(bytes), None])),
            &["x'00ff'"],
        ),
        (
            Arc::new(BinaryViewArray::from(vec![Some(bytes), None])),
            &["x'00ff'"],
        ),
        (Arc::new(fixed.unwrap()), &["x'00ff'"]),
        (
            Arc::new(Date32Array::from(vec![Some(20_758), None])),
            &[
                "date '2026-11-01'",
                "'2026-11-01'",
                "date('2026-11-01 09:30:00')",
                "date '2026-10-31' + 1",
            ],
        ),
        (
            Arc::new(Date64Array::from(vec![Some(20_758 * 86_400_000), None])),
            &["date '2026-11-01'"],
        ),
        (
            Arc::new(Time32SecondArray::from(vec![Some(34_200), None])),
            &["'09:30'", "'09:30:00'", "time '09:30:00.000'"],
        ),
        (
            Arc::new(Time64NanosecondArray::from(vec![
                Some(34_200_000_000_001),
                None,
            ])),
            &["time '09:30:00.000000001'"],
        ),
        (
            Arc::new(TimestampSecondArray::from(vec![Some(civil), None])),
            &[
                "'2026-11-01 09:30'",
                "'2026-11-01T09:30:00'",
                "timestamp '2026-11-01 09:30:00'",
                "datetime '2026-11-01 09:30:00'",
                "timestamp '2026-11-01 08:30:00Z'",
                "timestamp '2026-11-01' + interval '570' minute",
                "date '2026-11-01' + interval '34200' second",
                "timestamp('2026-11-08 09:30:00') - interval 1 week",
                "'2026-11-01T14:00:00+05:30'",
            ],
        ),
        (
            Arc::new(
                TimestampMillisecondArray::from(vec![Some(instant * 1000), None])
                    .with_timezone("Asia/Tokyo"),
            ),
            &[
                "'2026-11-01 09:30:00'",
                "timestamp '2026-11-01 09:30:00'",
                "timestamp with time zone '2026-11-01 09:30:00'",
                "timestamp '2026-11-01 03:30:00-05:00'",
                "'2026-11-01T08:30:00Z'",
            ],
        ),
        (
            Arc::new(
                TimestampNanosecondArray::from(vec![Some(instant * 1_000_000_000 + 1), None])
                    .with_timezone("UTC"),
            ),
            &["timestamp '2026-11-01 09:30:00.000000001'"],
        ),
    ];
    for (array, literals) in cases {
        for literal in literals {
            assert_eq!(
                selected(Arc::clone(&array), &format!("c = {literal}")),
                1,
                "{literal}"
            );
            assert_eq!(
                selected(Arc::clone(&array), &format!("c <> {literal}")),
                0,
                "{literal}"
            );
            assert_eq!(
                selected(Arc::clone(&array), &format!("c in ({literal}, null)")),
                1,
                "{literal}"
            );
        }
        assert_eq!(selected(Arc::clone(&array), "c is null"), 1);
        assert_eq!(selected(Arc::clone(&array), "c is not null"), 1);
        assert_eq!(selected(array, "c = null or c <> null"), 0);
    }
    let flags: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]));
    assert_eq!(
        selected(Arc::clone(&flags), "c"),
        1,
        "a boolean column is a condition"
    );
    assert_eq!(selected(flags, "not c"), 1);
}

#[test]
fn what_a_column_cannot_hold_is_compared_exactly() {
    let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![10, 11]));
    let at = "timestamp '1970-01-01 00:00:10.5'";
    assert_eq!(selected(Arc::clone(&seconds), &format!("c < {at}")), 1);
    assert_eq!(selected(Arc::clone(&seconds), &format!("c > {at}")), 1);
    assert_eq!(selected(seconds, &format!("c = {at}")), 0);
    let before: ArrayRef = Arc::new(TimestampSecondArray::from(vec![-1]));
    assert_eq!(selected(before, "c < timestamp '1969-12-31 23:59:59.5'"), 1);
    let small: ArrayRef = Arc::new(Int8Array::from(vec![127]));
    assert_eq!(selected(Arc::clone(&small), "c < 99999999999999999999"), 1);
    assert_eq!(selected(small, "c < 127.00000000000000000001"), 1);
}

#[test]
fn every_literal_is_read_strictly_in_its_columns_type() {
    for condition in [
        "symbol = 5",
        "symbol = date '2026-11-01'",
        "id = '5 '",
        "id = '0x5'",
        "id = 1e3",
        "id = date '2026-11-01'",
        "id = true",
        "price = ' 1.5'",
        "price = 'many'",
        "price = 1e999",
        "price = true",
        "TradingDay = 20758",
        "TradingDay = '2026-1-1'",
        "TradingDay = '2026- 01-01'",
        "TradingDay = ' 2026-01-01'",
        "TradingDay = '2026-02-29'",
        "TradingDay = '2026-11-01 00:00:00'",
        "TradingDay = date '2026-11-01 09:30:00'",
        "TradingDay = '01.11.2026'",
        "TradingDay = time '09:30:00'",
        "TradingDay = json '2026-11-01'",
        "TradingDay = timestamp '2026-11-01'",
        "Timestamp = time '09:30:00'",
        "Timestamp = 5",
        "Timestamp = '2026-11-01 24:00:00'",
        "Timestamp = '2026-11-01 23:59:60'",
        "Timestamp = '2026-11-01 9:30:00'",
        "Timestamp = '2026-11-01  09:30:00'",
        "Timestamp = '2026-11-01 09:30:00.1234567891'",
        "Timestamp = '2026-11-01 09:30:00 '",
        "Timestamp = '2026-11-01 09:30:00+5'",
        "Timestamp = interval '1' day",
    ] {
        refused(condition);
    }
}

#[test]
fn whole_numbers_are_added_to_dates_and_intervals_to_timestamps() {
    assert_eq!(
        text("TradingDay = today() - 7", "UTC"),
        "TradingDay = date '2026-11-16'"
    );
    assert_eq!(
        text("TradingDay = date(now()) - 7 + 1", "UTC"),
        "TradingDay = date '2026-11-17'"
    );
    assert_eq!(
        text("TradingDay = today() - interval '2' week", "UTC"),
        "TradingDay = date '2026-11-09'"
    );
    assert_eq!(
        text("zoned < now() - interval '90 minutes'", "UTC"),
        "zoned < timestamp '2026-11-23 21:00:00Z'"
    );
    for condition in [
        "Timestamp > now() - 7",
        "Timestamp > timestamp(today()) - 1",
        "zoned > timestamp '2026-11-01 00:00:00' + 1",
    ] {
        assert!(
            refused(condition).contains("interval '7' day"),
            "{condition}"
        );
    }
    for (condition, reason) in [
        ("TradingDay > today() - 1.5", "only whole days"),
        (
            "TradingDay > today() - '7'",
            "only supported on dates and timestamps",
        ),
        (
            "TradingDay > today() - today()",
            "only supported on dates and timestamps",
        ),
        (
            "TradingDay > today() + 9999999999999999999",
            "only whole days",
        ),
        ("TradingDay > today() + 9223372036854775807", "out of range"),
        ("TradingDay > today() + 999999999", "no calendar has"),
        (
            "TradingDay > today() + interval '9223372036854775807' week",
            "out of range",
        ),
        (
            "Timestamp > now() + interval '9223372036854775807' week",
            "no calendar has",
        ),
        (
            "Timestamp > now() - interval '1' month",
            "no unit of an interval",
        ),
        ("Timestamp > now() - interval '1.5' hour", "no whole number"),
        ("Timestamp > now() - interval '1'", "has no unit"),
        ("Timestamp > now() * 2", "no constant that is understood"),
    ] {
        assert!(
            refused(condition).contains(reason),
            "{condition}: {}",
            refused(condition)
        );
    }
}
