mod limits;
mod lines;
mod literals;
mod oracle;
mod properties;
mod random;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit};

use super::*;
use crate::key::Cell;
use crate::value::Value;

/// 2026-11-23T22:30:00Z.
const NOW: i64 = 1_795_473_000_000_000_000;

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("TradingDay", DataType::Date32, true),
        Field::new(
            "Timestamp",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            true,
        ),
        Field::new(
            "zoned",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
        Field::new("symbol", DataType::Utf8, true),
        Field::new("price", DataType::Float64, true),
    ])
}

fn resolve(text: &str, zone: &str) -> Result<Selection> {
    let spec = SelectionSpec {
        predicate: Some(text.to_owned()),
        columns: None,
        zone: Some(zone.to_owned()),
    };
    Selection::resolve(&spec, &schema(), NOW)
}

fn rows() -> RecordBatch {
    let day = 20_780; // 2026-11-23
    let midnight = i64::from(day) * 86_400_000_000;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![0, 1, 2, 3, 4])),
        Arc::new(Date32Array::from(vec![
            Some(day),
            Some(day - 7),
            Some(day - 1),
            None,
            Some(day + 1),
        ])),
        Arc::new(TimestampMicrosecondArray::from(vec![
            Some(midnight),
            Some(midnight + 1),
            Some(midnight + 81_000_000_000),
            None,
            Some(midnight + 80_999_999_999),
        ])),
        Arc::new(TimestampMicrosecondArray::from(vec![Some(0); 5]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec![
            Some("IBM"),
            Some(""),
            None,
            Some("it's"),
            Some("A"),
        ])),
        Arc::new(Float64Array::from(vec![
            Some(0.0),
            Some(-0.0),
            Some(f64::NAN),
            None,
            Some(1.5),
        ])),
    ];
    RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
}

fn ids(text: &str) -> Vec<i64> {
    let selected = resolve(text, "UTC").unwrap().filter(&rows()).unwrap();
    selected
        .column(0)
        .as_primitive::<Int64Type>()
        .values()
        .to_vec()
}

#[test]
fn the_tutorials_conditions_are_accepted_as_they_are_written() {
    assert_eq!(
        ids("TradingDay > date(now()) - 7 and TradingDay <= date(now())"),
        [0, 2]
    );
    assert_eq!(
        ids("Timestamp > timestamp(date(now())) and Timestamp < now()"),
        [1, 4]
    );
    let warnings = resolve(
        "Timestamp > timestamp(date(now())) and Timestamp < now()",
        "UTC",
    )
    .unwrap()
    .warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn ranges_that_do_not_meet_are_disjoint_and_nothing_else_is() {
    let disjoint = |one: &str, other: &str| {
        let resolve = |text| resolve(text, "UTC").unwrap();
        let (one, other) = (resolve(one), resolve(other));
        assert_eq!(one.is_disjoint(&other), other.is_disjoint(&one));
        one.is_disjoint(&other)
    };
    // The tutorial's day, each night of its own, and the same night again.
    let until = |day: u32, minute: u32| {
        format!(
            "Timestamp > timestamp '2026-11-{day:02} 00:00:00' and Timestamp < timestamp '2026-11-{day:02} 22:{minute}:00'"
        )
    };
    assert!(disjoint(&until(5, 30), &until(6, 30)));
    assert!(!disjoint(&until(5, 30), &until(5, 40)));
    for (one, other, wanted) in [
        ("id < 5", "id >= 5", true),
        ("id <= 5", "id >= 5", false),
        ("id = 5", "id in (6, 7)", true),
        ("id in (5, 9)", "id in (9, 12)", false),
        // A hull is not the set itself.
        ("id in (5, 9)", "id = 7", false),
        ("id < 5", "not (id < 5)", true),
        ("id < 5", "id is null", true),
        ("id is not null", "id is null", true),
        ("not (id < 5 or id > 9)", "id > 9 or id < 5", false),
        ("not (id < 5 or id > 9)", "id > 20", true),
        ("id < 5", "Timestamp < now()", false),
        ("id < 5 and Timestamp < now()", "Timestamp >= now()", true),
    ] {
        assert_eq!(disjoint(one, other), wanted, "{one} | {other}");
    }
    let all = Selection::everything(&schema());
    assert!(!all.is_disjoint(&all));
    assert!(!all.is_disjoint(&resolve("id = 5", "UTC").unwrap()));
    assert!(all.is_disjoint(&resolve("id < 5 and id > 5", "UTC").unwrap()));
}

#[test]
fn conditions_have_sqls_three_values() {
    assert_eq!(ids("price = 0"), [0, 1]);
    assert_eq!(ids("price > 1000"), [2], "NaN is above all numbers");
    assert_eq!(ids("not (price = 0)"), [2, 4]);
    assert_eq!(ids("price is null or symbol is null"), [2, 3]);
    assert_eq!(ids("symbol in ('IBM', 'A')"), [0, 4]);
    assert_eq!(ids("symbol not in ('IBM', null)"), Vec::<i64>::new());
    assert_eq!(ids("SYMBOL = 'it''s'"), [3]);
    assert_eq!(ids("id between 1 and 3 and 2 <> id"), [1, 3]);
    assert_eq!(ids("id > 1.5"), [2, 3, 4]);
    assert_eq!(ids("null or id = 0"), [0]);
}

#[test]
fn what_is_not_understood_is_named_with_what_to_write_instead() {
    let cases = [
        ("TradingDay > 2026.11.01", "date '2026-11-01'"),
        (
            "Timestamp > 2026.11.01T09:30:00",
            "timestamp '2026-11-01 09:30:00'",
        ),
        ("symbol == `IBM", "'=='"),
        ("price > 1 and", "no condition in SQL"),
        ("price > 1 1", "is not understood"),
        ("pirce > 1", "there is no column 'pirce'"),
        ("price + 1 > 2", "compares no column"),
        ("Timestamp > now() - 7", "interval '7' day"),
        ("symbol > 5", "5 is no value of that type"),
        ("TradingDay > '2026-13-01'", "is no date or timestamp"),
        ("TradingDay > now()", "date(…)"),
        ("symbol", "is no condition"),
    ];
    for (text, expected) in cases {
        let error = resolve(text, "UTC").unwrap_err();
        assert_eq!(error.kind(), Kind::Config, "{text}");
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
    assert!(resolve("id = 1", "Mars/Olympus").is_err());
}

#[test]
fn long_lists_and_deep_brackets_do_not_overflow_the_stack() {
    let long = (0..6000)
        .map(|id| format!("id={id}"))
        .collect::<Vec<_>>()
        .join(" or ");
    let handle = std::thread::Builder::new()
        .stack_size(512 << 10)
        .spawn(move || {
            let selection = resolve(&long, "UTC").unwrap();
            assert_eq!(selection.filter(&rows()).unwrap().num_rows(), 5);
        });
    handle.unwrap().join().unwrap();
    assert!(
        resolve(
            &format!("{}id=1{}", "(".repeat(20_000), ")".repeat(20_000)),
            "UTC"
        )
        .is_err()
    );
    assert!(resolve(&"id=1 or ".repeat(10_000), "UTC").is_err());
}

#[test]
fn days_of_clock_change_have_one_meaning() {
    // 2026-03-29 02:30 does not exist in Berlin; 2026-10-25 02:30 happens twice.
    let text = |condition: &str| resolve(condition, "Europe/Berlin").unwrap().text();
    assert!(
        text("zoned >= timestamp '2026-03-29 02:30:00'")
            .ends_with("zoned >= timestamp '2026-03-29 01:00:00Z'")
    );
    assert!(
        text("zoned >= timestamp '2026-10-25 02:30:00'")
            .ends_with("zoned >= timestamp '2026-10-25 00:30:00Z'")
    );
    assert!(
        text("Timestamp < now()").ends_with("< timestamp '2026-11-23 23:30:00'"),
        "naive columns have civil time"
    );
    assert!(text("zoned < now()").ends_with("< timestamp '2026-11-23 22:30:00Z'"));
    assert!(text("TradingDay = today()").ends_with("= date '2026-11-23'"));
}

/// Random conditions over the columns of [`rows`], with SQL's literals.
fn condition(seed: &mut u64, depth: u32) -> String {
    let mut pick = |n: u64| {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % n
    };
    let operator = ["=", "<>", "<", "<=", ">", ">="][usize::try_from(pick(6)).unwrap()];
    if depth == 0 || pick(3) == 0 {
        return match pick(5) {
            0 => format!("id {operator} {}", pick(6)),
            1 => format!("TradingDay {operator} date '2026-11-{}'", 14 + pick(14)),
            2 => format!(
                "symbol {operator} '{}'",
                ["", "A", "IBM", "Z"][usize::try_from(pick(4)).unwrap()]
            ),
            3 => format!(
                "{} is null",
                ["symbol", "TradingDay"][usize::try_from(pick(2)).unwrap()]
            ),
            _ => format!("id in ({}, {})", pick(6), pick(6)),
        };
    }
    match pick(3) {
        0 => format!("not ({})", condition(seed, depth - 1)),
        1 => format!(
            "({} and {})",
            condition(seed, depth - 1),
            condition(seed, depth - 1)
        ),
        _ => format!(
            "({} or {})",
            condition(seed, depth - 1),
            condition(seed, depth - 1)
        ),
    }
}

/// The oracle: SQLite on the same rows.
#[test]
fn conditions_mean_what_sqlite_means() {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    db.execute_batch("CREATE TABLE t (id INTEGER, TradingDay TEXT, symbol TEXT)")
        .unwrap();
    let days = [
        Some("2026-11-23"),
        Some("2026-11-16"),
        Some("2026-11-22"),
        None,
        Some("2026-11-24"),
    ];
    let symbols = [Some("IBM"), Some(""), None, Some("it's"), Some("A")];
    for id in 0..5 {
        db.execute(
            "INSERT INTO t VALUES (?, ?, ?)",
            rusqlite::params![id as i64, days[id], symbols[id]],
        )
        .unwrap();
    }
    for start in 0..2000u64 {
        let text = condition(&mut start.wrapping_add(77), 4);
        // SQLite has no date literals: texts of this form are in the same order.
        let sql = format!(
            "SELECT id FROM t WHERE {} ORDER BY id",
            text.replace("date '", "'")
        );
        let mut statement = db.prepare(&sql).unwrap();
        let expected: Vec<i64> = statement
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<i64>>();
        assert_eq!(ids(&text), expected, "seed {start}: {text}");
    }
}

#[test]
fn a_pruned_partition_never_holds_a_selected_row_and_a_covered_one_never_another() {
    let rows = rows();
    for start in 0..3000u64 {
        let text = condition(&mut start.wrapping_add(3), 4);
        let selection = resolve(&text, "UTC").unwrap();
        for row in 0..rows.num_rows() {
            let one = rows.slice(row, 1);
            let day = one.column(1).as_primitive::<arrow::datatypes::Date32Type>();
            let symbol = one.column(4).as_string::<i32>();
            let range = |value: i32| {
                let from = (start % 3 != 0)
                    .then_some(Value::Date(value - i32::try_from(start % 5).unwrap()));
                let to = (start % 4 != 0)
                    .then_some(Value::Date(value + 1 + i32::try_from(start % 7).unwrap()));
                Cell::Range { from, to }
            };
            let day = match (day.is_null(0), start % 2) {
                (true, _) => Cell::Null,
                (false, 0) => Cell::Value(Value::Date(day.value(0))),
                (false, _) => range(day.value(0)),
            };
            let symbol = if symbol.is_null(0) {
                Cell::Null
            } else {
                Cell::Value(Value::String(symbol.value(0).to_owned()))
            };
            let key =
                PartitionKey::new(vec![("TradingDay".into(), day), ("symbol".into(), symbol)])
                    .unwrap();
            let selected = selection.filter(&one).unwrap().num_rows() == 1;
            assert!(
                !(selected && selection.excludes(&key)),
                "seed {start}: {text} pruned {key}"
            );
            assert!(
                selected || !selection.covers(&key),
                "seed {start}: {text} covers {key}"
            );
        }
    }
}
