//! Random conditions, and the rows around clock changes that they are asked of.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Float32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::oracle::{
    CLOCKS, Column, Condition, Known, Literal, Moment, Row, SECOND, Shifted, World,
};

pub(super) fn schema() -> Schema {
    let timestamp =
        |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("TradingDay", DataType::Date32, true),
        Field::new("Timestamp", timestamp(None), true),
        // Another zone than any job's: an instant is the same in all of them.
        Field::new("zoned", timestamp(Some("+03:00")), true),
        Field::new("symbol", DataType::Utf8, true),
        Field::new("price", DataType::Float64, true),
        Field::new("ratio", DataType::Float32, true),
    ])
}

const SYMBOLS: [&str; 6] = ["", "A", "IBM", "it's", "Ä/100%", "date '2026-11-01'"];

/// Floats with their texts; those of 32 bits too, exactly.
const FLOATS: [(&str, f64); 12] = [
    ("0", 0.0),
    ("-0.0", -0.0),
    ("0.0", 0.0),
    ("1.5", 1.5),
    ("-1.5", -1.5),
    ("'NaN'", f64::NAN),
    ("'-nan'", f64::NAN),
    ("'inf'", f64::INFINITY),
    ("'-inf'", f64::NEG_INFINITY),
    ("1e300", 1e300),
    ("-5e-324", -5e-324),
    ("'16777216'", 16_777_216.0),
];

/// Seconds around a change of the clock at which something begins, ends, or happens twice.
const AROUND: [i64; 11] = [
    -86_400,
    -25 * 3600,
    -7200,
    -3600,
    -1800,
    -1,
    0,
    1,
    1800,
    3600,
    86_400,
];

/// Rows before, in and after both changes, a microsecond on either side too, and nulls in every column.
pub(super) fn rows(world: World) -> Vec<Row> {
    let moments: Vec<i128> = (0..2)
        .flat_map(|which| AROUND.map(|around| world.clock.change(which) + around))
        .flat_map(|second| [-1000, 0, 1000].map(|ns| i128::from(second) * SECOND + ns))
        .collect();
    let mut rows: Vec<Row> = Vec::new();
    for (id, at) in moments.into_iter().enumerate() {
        let float = FLOATS[id % FLOATS.len()].1;
        let civil = world.clock.civil(at);
        // What clocks would show without the change: the hour that is left out is here too.
        let unchanged = at + world.clock.offset(at - 86_400 * SECOND);
        let days = i64::try_from(civil.div_euclid(86_400 * SECOND)).expect("a day");
        let null =
            |column: usize, known: Known| (!(id + column).is_multiple_of(9)).then_some(known);
        rows.push([
            null(0, Known::Int(id as i64)),
            null(1, Known::Day(days)),
            null(2, Known::Civil(if id % 2 == 0 { civil } else { unchanged })),
            null(3, Known::Instant(at)),
            null(4, Known::Text(SYMBOLS[id % SYMBOLS.len()].to_owned())),
            null(5, Known::Float(float)),
            null(6, Known::Float(f64::from(float as f32))),
        ]);
    }
    rows
}

pub(super) fn batch(rows: &[Row]) -> RecordBatch {
    let int = |cell: &Option<Known>| match cell {
        Some(Known::Int(value) | Known::Day(value)) => Some(*value),
        Some(Known::Civil(ns) | Known::Instant(ns)) => {
            Some(i64::try_from(ns / 1000).expect("microseconds"))
        }
        _ => None,
    };
    let float = |cell: &Option<Known>| match cell {
        Some(Known::Float(value)) => Some(*value),
        _ => None,
    };
    let text = |cell: &Option<Known>| match cell {
        Some(Known::Text(value)) => Some(value.clone()),
        _ => None,
    };
    let day = |cell: &Option<Known>| int(cell).map(|day| i32::try_from(day).expect("a day"));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| int(&row[0])).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| day(&row[1])).collect::<Date32Array>()),
        Arc::new(
            rows.iter()
                .map(|row| int(&row[2]))
                .collect::<TimestampMicrosecondArray>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| int(&row[3]))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("+03:00"),
        ),
        Arc::new(
            rows.iter()
                .map(|row| text(&row[4]))
                .collect::<StringArray>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| float(&row[5]))
                .collect::<Float64Array>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| float(&row[6]).map(|value| value as f32))
                .collect::<Float32Array>(),
        ),
    ];
    RecordBatch::try_new(Arc::new(schema()), columns).expect("the rows fit the schema")
}

/// Runs a property over so many cases, always the same ones.
pub(super) fn check<S: Strategy>(
    cases: u32,
    strategy: &S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(20_261_123),
        failure_persistence: None,
        ..Config::default()
    };
    if let Err(error) = TestRunner::new(config).run(strategy, property) {
        panic!("{error}");
    }
}

/// A zone, and a now around one of its changes.
pub(super) fn world() -> impl Strategy<Value = World> {
    let at = (0..CLOCKS.len(), 0..2usize, select(&AROUND[..]), -1..=1i128);
    at.prop_map(|(clock, which, around, ns)| World {
        clock: &CLOCKS[clock],
        now: i128::from(CLOCKS[clock].change(which) + around) * SECOND + ns,
    })
}

fn moment() -> impl Strategy<Value = Shifted> {
    let second = (0..CLOCKS.len(), 0..2usize, select(&AROUND[..]))
        .prop_map(|(clock, which, around)| CLOCKS[clock].change(which) + around);
    let civil = (0..CLOCKS.len(), 0..2usize, select(&AROUND[..]), 0..2i128).prop_map(
        |(clock, which, around, before)| {
            let clock = &CLOCKS[clock];
            let at = i128::from(clock.change(which)) * SECOND;
            let shown = at + clock.offset(at - before);
            i64::try_from(shown / SECOND).expect("seconds") + around
        },
    );
    let moment = prop_oneof![
        2 => Just(Moment::Now),
        1 => (-2..3i64).prop_map(Moment::Today),
        2 => (-2..3i64).prop_map(Moment::Midnight),
        3 => civil.clone().prop_map(Moment::Civil),
        1 => civil.prop_map(Moment::CivilText),
        2 => second.clone().prop_map(Moment::Utc),
        1 => second.prop_map(Moment::Offset),
    ];
    let shift = prop_oneof![
        3 => Just(None),
        1 => select(vec![-86_400, -3600, -1800, 1, 1800, 3600, 90_000]).prop_map(Some),
    ];
    (moment, shift).prop_map(|(moment, shift)| match moment {
        // A quoted text takes its type from the column; nothing is added to it.
        text @ Moment::CivilText(_) => Shifted(text, None),
        moment => Shifted(moment, shift),
    })
}

fn literal(column: Column) -> BoxedStrategy<Literal> {
    let day = (0..CLOCKS.len(), 0..2usize, -2..3i64)
        .prop_map(|(clock, which, days)| CLOCKS[clock].change(which).div_euclid(86_400) + days);
    let of_column = match column {
        Column::Id => (-1..70i64).prop_map(Literal::Int).boxed(),
        Column::TradingDay => prop_oneof![
            day.clone().prop_map(Literal::Day),
            day.prop_map(Literal::DayText),
            moment().prop_map(Literal::DateOf),
            (moment(), 0..9i64).prop_map(|(moment, days)| Literal::DateOfAnd(moment, days)),
        ]
        .boxed(),
        Column::Timestamp | Column::Zoned => moment().prop_map(Literal::Moment).boxed(),
        Column::Symbol => select(&SYMBOLS[..]).prop_map(Literal::Text).boxed(),
        Column::Price | Column::Ratio => select(&FLOATS[..])
            .prop_map(|(text, value)| Literal::Float(text, value))
            .boxed(),
    };
    prop_oneof![20 => of_column, 1 => Just(Literal::Null)].boxed()
}

fn leaf() -> impl Strategy<Value = Condition> {
    let operator = || select(vec!["=", "<>", "!=", "<", "<=", ">", ">="]);
    select(&Column::ALL[..]).prop_flat_map(move |column| {
        let literal = || literal(column);
        prop_oneof![
            8 => (operator(), literal())
                .prop_map(move |(operator, literal)| Condition::Compare(column, operator, literal)),
            3 => (literal(), operator())
                .prop_map(move |(literal, operator)| Condition::Mirrored(literal, operator, column)),
            4 => (any::<bool>(), literal(), literal())
                .prop_map(move |(not, low, high)| Condition::Between(column, not, low, high)),
            4 => (any::<bool>(), prop::collection::vec(literal(), 1..5))
                .prop_map(move |(not, list)| Condition::In(column, not, list)),
            2 => any::<bool>().prop_map(move |not| Condition::IsNull(column, not)),
            1 => Just(Condition::Null),
        ]
    })
}

pub(super) fn condition() -> impl Strategy<Value = Condition> {
    leaf().prop_recursive(5, 24, 3, |inner| {
        let list = || prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            inner
                .clone()
                .prop_map(|part| Condition::Not(Box::new(part))),
            list().prop_map(Condition::And),
            list().prop_map(Condition::Or),
        ]
    })
}
