//! What holds for every condition, every zone and every now.

use std::cell::Cell as Counter;
use std::cmp::Ordering;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use proptest::prelude::*;
use proptest::sample::select;

use super::oracle::{CLOCKS, Column, Known, Row, World, order};
use super::random::{batch, check, condition, rows, schema, world};
use crate::key::{Cell, PartitionKey};
use crate::selection::predicate::{Comparison, Predicate};
use crate::selection::{Selection, SelectionSpec, evaluate};
use crate::value::{Value, parse_decimal};

fn resolve(text: &str, world: World) -> Selection {
    let spec = SelectionSpec {
        predicate: Some(text.to_owned()),
        columns: None,
        zone: Some(world.clock.name.to_owned()),
    };
    let now = i64::try_from(world.now).expect("nanoseconds");
    Selection::resolve(&spec, &schema(), now).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The rows of one zone with their batch, for all zones.
fn tables() -> Vec<(&'static str, Vec<Row>, RecordBatch)> {
    let of = |clock| {
        let rows = rows(World { clock, now: 0 });
        let batch = batch(&rows);
        (clock.name, rows, batch)
    };
    CLOCKS.iter().map(of).collect()
}

#[test]
fn a_condition_means_what_the_oracle_says() {
    let tables = tables();
    let (chosen, left) = (Counter::new(0), Counter::new(0));
    check(4000, &(world(), condition()), |(world, condition)| {
        let (_, rows, batch) = tables
            .iter()
            .find(|(name, ..)| *name == world.clock.name)
            .expect("rows of the zone");
        let text = condition.sql();
        let selection = resolve(&text, world);
        let found = evaluate::selected(selection.predicate().expect("a condition"), batch)
            .expect("evaluated");
        for (row, found) in rows.iter().zip(found.iter()) {
            prop_assert_eq!(
                found,
                Some(condition.of(row, world) == Some(true)),
                "{} in {} at {}: {:?}",
                text,
                world.clock.name,
                world.now,
                row
            );
        }
        let filtered = selection.filter(batch).expect("filtered");
        let ids = filtered.column(0).as_primitive::<Int64Type>();
        let wanted: Vec<Option<i64>> = rows
            .iter()
            .filter(|row| condition.of(row, world) == Some(true))
            .map(|row| match row[0] {
                Some(Known::Int(id)) => Some(id),
                _ => None,
            })
            .collect();
        prop_assert_eq!(ids.iter().collect::<Vec<_>>(), wanted);
        chosen.set(chosen.get() + found.true_count());
        left.set(left.get() + found.false_count());
        Ok(())
    });
    assert!(
        chosen.get() > 10_000 && left.get() > 10_000,
        "{chosen:?} rows were chosen, {left:?} not: the conditions say too little"
    );
}

/// How a level of the division is: a value, a range, a bucket or null, by places in the list of all cells of the column.
#[derive(Clone, Debug)]
enum Level {
    Value(usize),
    Range(Option<usize>, Option<usize>),
    Bucket(u32),
    Null,
}

fn level() -> impl Strategy<Value = (Column, Level)> {
    let place = 0..1000usize;
    let level = prop_oneof![
        4 => place.clone().prop_map(Level::Value),
        4 => (prop::option::of(place.clone()), prop::option::of(place))
            .prop_map(|(from, to)| Level::Range(from, to)),
        1 => (0..4u32).prop_map(Level::Bucket),
        1 => Just(Level::Null),
    ];
    (select(&Column::ALL[..]), level)
}

fn value(known: &Known) -> Value {
    match known {
        Known::Int(value) => Value::Int((*value).into()),
        Known::Float(value) => Value::Float(*value),
        Known::Text(text) => Value::String(text.clone()),
        Known::Day(day) => Value::Date(i32::try_from(*day).expect("a day")),
        Known::Civil(ns) => Value::Timestamp {
            ns: *ns,
            zoned: false,
        },
        Known::Instant(ns) => Value::Timestamp {
            ns: *ns,
            zoned: true,
        },
    }
}

/// The cell of a key, and which rows a partition with it may hold.
fn cell(column: Column, level: &Level, rows: &[Row]) -> (Cell, Vec<bool>) {
    let known: Vec<&Known> = rows
        .iter()
        .filter_map(|row| row[column as usize].as_ref())
        .collect();
    let at = |place: &usize| known[place % known.len()];
    let holds = |of: &dyn Fn(Option<&Known>) -> bool| {
        rows.iter()
            .map(|row| of(row[column as usize].as_ref()))
            .collect()
    };
    match level {
        Level::Value(place) => (
            Cell::Value(value(at(place))),
            holds(&|cell| cell.is_some_and(|cell| order(cell, at(place)) == Ordering::Equal)),
        ),
        Level::Range(from, to) => {
            let (from, to) = (from.as_ref().map(at), to.as_ref().map(at));
            let within = |cell: &Known| {
                from.is_none_or(|from| order(cell, from) != Ordering::Less)
                    && to.is_none_or(|to| order(cell, to) == Ordering::Less)
            };
            let cell = Cell::Range {
                from: from.map(value),
                to: to.map(value),
            };
            // An engine may keep nulls in any range.
            (cell, holds(&|cell| cell.is_none_or(within)))
        }
        Level::Bucket(index) => (
            Cell::Bucket {
                index: *index,
                count: 4,
            },
            holds(&|_| true),
        ),
        Level::Null => (Cell::Null, holds(&|cell| cell.is_none())),
    }
}

#[test]
fn conditions_that_are_shown_to_be_disjoint_select_no_row_in_common() {
    let tables = tables();
    let (shown, alone) = (Counter::new(0), Counter::new(0));
    check(
        6000,
        &(world(), condition(), condition()),
        |(world, one, other)| {
            let (_, rows, _) = tables
                .iter()
                .find(|(name, ..)| *name == world.clock.name)
                .expect("rows of the zone");
            let of = |condition: &_| resolve(condition, world);
            let disjoint = of(&one.sql()).is_disjoint(&of(&other.sql()));
            prop_assert_eq!(disjoint, of(&other.sql()).is_disjoint(&of(&one.sql())));
            let selects = |condition: &super::oracle::Condition, row: &Row| {
                condition.of(row, world) == Some(true)
            };
            let (mut by_one, mut by_other) = (false, false);
            for row in rows {
                let both = (selects(&one, row), selects(&other, row));
                by_one |= both.0;
                by_other |= both.1;
                prop_assert!(
                    !(disjoint && both == (true, true)),
                    "{} and {} both select {:?}",
                    one.sql(),
                    other.sql(),
                    row
                );
            }
            shown.set(shown.get() + usize::from(disjoint));
            alone.set(alone.get() + usize::from(disjoint && by_one && by_other));
            Ok(())
        },
    );
    assert!(
        shown.get() > 100 && alone.get() > 20,
        "{shown:?} pairs were shown to be disjoint, {alone:?} of them select rows: the conditions say too little"
    );
}

#[test]
fn a_pruned_partition_never_holds_a_selected_row_in_any_zone() {
    let tables = tables();
    let (excluded, covered) = (Counter::new(0), Counter::new(0));
    let keys = prop::collection::vec(prop::collection::vec(level(), 1..4), 8);
    check(
        2500,
        &(world(), condition(), keys),
        |(world, condition, keys)| {
            let (_, rows, _) = tables
                .iter()
                .find(|(name, ..)| *name == world.clock.name)
                .expect("rows of the zone");
            let selection = resolve(&condition.sql(), world);
            for levels in keys {
                let mut held = vec![true; rows.len()];
                let mut parts: Vec<(String, Cell)> = Vec::new();
                for (column, level) in &levels {
                    if parts.iter().any(|(name, _)| name == column.name()) {
                        continue;
                    }
                    let (cell, holds) = cell(*column, level, rows);
                    held.iter_mut()
                        .zip(holds)
                        .for_each(|(held, holds)| *held &= holds);
                    parts.push((column.name().to_owned(), cell));
                }
                let key = PartitionKey::new(parts).expect("a key");
                prop_assert_eq!(
                    key.to_string().parse::<PartitionKey>().expect("read back"),
                    key.clone()
                );
                let (excludes, covers) = (selection.excludes(&key), selection.covers(&key));
                let mut holds_any = false;
                for (row, _) in rows.iter().zip(&held).filter(|(_, held)| **held) {
                    holds_any = true;
                    let selected = condition.of(row, world) == Some(true);
                    prop_assert!(
                        !(selected && excludes),
                        "{} pruned {} with {:?}",
                        condition.sql(),
                        key,
                        row
                    );
                    prop_assert!(
                        selected || !covers,
                        "{} covers {} with {:?}",
                        condition.sql(),
                        key,
                        row
                    );
                }
                excluded.set(excluded.get() + usize::from(holds_any && excludes));
                covered.set(covered.get() + usize::from(holds_any && covers));
            }
            Ok(())
        },
    );
    assert!(
        excluded.get() > 500 && covered.get() > 500,
        "{excluded:?} pruned, {covered:?} covered: the keys say too little"
    );
}

#[test]
fn a_resolved_text_reads_back_as_the_same_selection_in_any_zone() {
    let tables = tables();
    check(
        4000,
        &(world(), condition(), world()),
        |(world, condition, elsewhere)| {
            let selection = resolve(&condition.sql(), world);
            let text = selection.text();
            let back = Selection::from_text(&text, &schema())
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            prop_assert_eq!(&back, &selection, "{}", &text);
            prop_assert_eq!(back.text(), text.clone());
            prop_assert_eq!(back.read_columns(), selection.read_columns());
            // The condition in it is one that an operator could write, wherever and whenever.
            let (_, again) = text.split_once(" where ").expect("a condition");
            prop_assert_eq!(&resolve(again, elsewhere), &selection, "{}", again);
            let (_, _, batch) = &tables[0];
            prop_assert_eq!(
                back.filter(batch).expect("filtered"),
                selection.filter(batch).expect("filtered")
            );
            Ok(())
        },
    );
}

/// Names that SQL reads as something else, each with a type.
fn strange() -> Schema {
    let timestamp =
        |zone: Option<&str>| DataType::Timestamp(TimeUnit::Nanosecond, zone.map(Into::into));
    let types = [
        DataType::Boolean,
        DataType::UInt64,
        DataType::Decimal128(38, 10),
        DataType::Float64,
        DataType::Utf8,
        DataType::Binary,
        DataType::Date32,
        DataType::Time64(TimeUnit::Nanosecond),
        timestamp(None),
        timestamp(Some("UTC")),
    ];
    let names = [
        "where",
        "select",
        "not",
        "null",
        "true",
        "date",
        "timestamp",
        "interval",
        "case",
        "in",
        "and",
        "current_date",
        "now",
        "x",
        "e",
        "n",
        "1st",
        "a b",
        "a\"b",
        "it's",
        "a`b",
        "==",
        "2026.11.01",
        "Ärger",
        "tab\t",
        "_1",
        "end",
        "exists",
        "cast",
        "position",
        "array",
        "struct",
        "between",
        "is",
        "like",
        "from",
        "as",
        "prior",
        "time",
        "B",
    ];
    Schema::new(
        names
            .iter()
            .enumerate()
            .map(|(at, name)| Field::new(*name, types[at % types.len()].clone(), true))
            .collect::<Vec<_>>(),
    )
}

fn any_value(data_type: &DataType) -> BoxedStrategy<Value> {
    // The calendar's days, as chrono counts them.
    let day = -90_000_000..90_000_000i32;
    let ns = (day.clone(), 0..86_400_000_000_000i64)
        .prop_map(|(day, ns)| i128::from(day) * 86_400_000_000_000 + i128::from(ns));
    match data_type {
        DataType::Boolean => any::<bool>().prop_map(Value::Bool).boxed(),
        DataType::UInt64 => any::<i64>()
            .prop_map(|value| Value::Int(value.into()))
            .boxed(),
        DataType::Decimal128(..) => (any::<i64>(), 0..12usize)
            .prop_map(|(digits, scale)| {
                // In the one form of the value, as a condition has it.
                let text = format!("{digits}.{:01$}", 7, scale);
                let (unscaled, scale) = parse_decimal(&text).expect("a decimal");
                Value::Decimal { unscaled, scale }
            })
            .boxed(),
        DataType::Float64 => any::<f64>().prop_map(Value::Float).boxed(),
        DataType::Utf8 => prop_oneof![
            any::<String>(),
            select(vec![
                "'", "''", "\\", "%41", "--", "/*", "\0", "a\nb", "\"", "$$", "`IBM"
            ])
            .prop_map(str::to_owned)
        ]
        .prop_map(Value::String)
        .boxed(),
        DataType::Binary => any::<Vec<u8>>().prop_map(Value::Binary).boxed(),
        DataType::Date32 => day.prop_map(Value::Date).boxed(),
        DataType::Time64(_) => (0..86_400_000_000_000i64).prop_map(Value::Time).boxed(),
        DataType::Timestamp(_, zone) => {
            let zoned = zone.is_some();
            ns.prop_map(move |ns| Value::Timestamp { ns, zoned })
                .boxed()
        }
        other => panic!("no values of {other}"),
    }
}

fn any_predicate() -> impl Strategy<Value = Predicate> {
    let comparison = || {
        select(vec![
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::LessOrEqual,
            Comparison::Greater,
            Comparison::GreaterOrEqual,
        ])
    };
    let schema = strange();
    let fields: Vec<_> = schema.fields().iter().cloned().collect();
    let leaf = select(fields).prop_flat_map(move |field| {
        let name = field.name().clone();
        let (of_in, of_null) = (name.clone(), name.clone());
        let value = any_value(field.data_type());
        prop_oneof![
            4 => (comparison(), value.clone())
                .prop_map(move |(comparison, value)| Predicate::Compare(name.clone(), comparison, value)),
            2 => prop::collection::vec(value, 1..4)
                .prop_map(move |values| Predicate::In(of_in.clone(), values)),
            1 => Just(Predicate::IsNull(of_null)),
            1 => select(vec![None, Some(true), Some(false)]).prop_map(Predicate::Constant),
        ]
    });
    // As deep as brackets may be, to see that a text that is read can be read again.
    leaf.prop_recursive(24, 48, 3, |inner| {
        let list = || prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            2 => inner.clone().prop_map(Predicate::negated),
            1 => list().prop_map(Predicate::all),
            1 => list().prop_map(Predicate::any),
        ]
    })
}

#[test]
fn a_resolved_text_reads_back_whatever_the_names_and_values_are() {
    let schema = strange();
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    check(
        4000,
        &(any_predicate(), prop::sample::subsequence(columns, 0..5)),
        |(predicate, columns)| {
            let selection = Selection::new(columns, Some(predicate), Vec::new());
            let text = selection.text();
            match Selection::from_text(&text, &schema) {
                Ok(back) => {
                    prop_assert_eq!(&back, &selection, "{}", &text);
                    prop_assert_eq!(back.text(), text);
                }
                Err(error) => prop_assert!(false, "{}: {}", text, error),
            }
            Ok(())
        },
    );
}

#[test]
fn the_oracle_knows_the_clocks() {
    // The one thing the oracle says by table is checked against the library that the product uses.
    use chrono::{DateTime, Offset, TimeZone};
    for clock in &CLOCKS {
        let zone: chrono_tz::Tz = clock.name.parse().expect("a zone");
        for hour in 0..365 * 48 {
            let at = 1_767_225_600 + hour * 1800;
            let utc = DateTime::from_timestamp(at, 0).expect("2026").naive_utc();
            let offset = i128::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc());
            assert_eq!(
                clock.offset(i128::from(at) * super::oracle::SECOND),
                offset * super::oracle::SECOND,
                "{} at {utc}",
                clock.name
            );
        }
    }
}
