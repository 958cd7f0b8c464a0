//! The rules of the language one by one: what is accepted, what is refused, and what the refusal says.

use arrow::datatypes::{DataType, Field, Schema};

use super::{Cell, Kind, NOW, PartitionKey, Value, ids, resolve, rows, schema};
use crate::selection::{Selection, SelectionSpec};

pub(super) fn refused(text: &str) -> String {
    let error = resolve(text, "UTC").expect_err(text);
    assert_eq!(error.kind(), Kind::Config, "{text}: {error}");
    error.to_string()
}

/// The condition's own text.
pub(super) fn text(condition: &str, zone: &str) -> String {
    let selection = resolve(condition, zone).unwrap_or_else(|error| panic!("{condition}: {error}"));
    let text = selection.text();
    text.split_once(" where ")
        .expect("a condition")
        .1
        .to_owned()
}

#[test]
fn arithmetic_on_columns_and_between_columns_is_refused() {
    for (condition, reason) in [
        ("id + 1 > 2", "a column stands alone on one side"),
        ("-id < 2", "a column stands alone on one side"),
        (
            "id * 2 between 1 and 2",
            "arithmetic on columns is not supported",
        ),
        (
            "abs(id) = 1",
            "there are now(), today(), date(x) and timestamp(x)",
        ),
        ("id in (id, 1)", "not with another column"),
        (
            "id = id",
            "id is a column; a column is compared with constants, not with another column",
        ),
        ("price > Ratio", "there is no column 'Ratio'"),
        ("TradingDay < date(Timestamp)", "not with another column"),
        (
            "mt.price > 5",
            "a column is written alone, without its table",
        ),
        ("1 = 1", "compares no column"),
        (
            "symbol like 'I%'",
            "use comparisons, between, in, is null, and, or, not",
        ),
        ("exists (select 1)", "'exists(' is not understood"),
        (
            "id in (select 1)",
            "a list of values stands after in, not a query",
        ),
        ("case when id = 1 then true end", "'when' is not understood"),
        ("random() > 1", "'random(' is not understood"),
        ("Timestamp < current_timestamp", "current_timestamp"),
    ] {
        let error = refused(condition);
        assert!(error.contains(reason), "{condition}: {error}");
    }
}

#[test]
fn quotes_tell_names_from_texts() {
    assert_eq!(text("\"symbol\" = 'IBM'", "UTC"), "symbol = 'IBM'");
    assert_eq!(text("'IBM' = \"SYMBOL\"", "UTC"), "symbol = 'IBM'");
    let error = refused("symbol = \"IBM\"");
    assert!(
        error.contains("\"IBM\" is a name in SQL; write 'IBM' for a text"),
        "{error}"
    );
    assert!(refused("'symbol' = 'IBM'").contains("compares no column"));
}

#[test]
fn names_are_exact_or_the_only_ones_that_differ_in_case() {
    let schema = Schema::new(
        ["Price", "PRICE", "bid", "Ask"]
            .map(|name| Field::new(name, DataType::Float64, true))
            .to_vec(),
    );
    let read = |predicate: &str, columns: Option<Vec<String>>| {
        let spec = SelectionSpec {
            predicate: Some(predicate.to_owned()),
            columns,
            zone: None,
        };
        Selection::resolve(&spec, &schema, NOW)
    };
    assert!(
        read("Price > 1", None)
            .unwrap()
            .text()
            .ends_with("where Price > 1.0")
    );
    assert!(
        read("PRICE > 1", None)
            .unwrap()
            .text()
            .ends_with("where PRICE > 1.0")
    );
    assert!(
        read("BID > 1", None)
            .unwrap()
            .text()
            .ends_with("where bid > 1.0")
    );
    assert!(
        read("\"ASK\" > 1", None)
            .unwrap()
            .text()
            .ends_with("where Ask > 1.0")
    );
    let error = read("price > 1", None).unwrap_err().to_string();
    assert!(
        error.contains("'price' could be Price or PRICE; write it exactly"),
        "{error}"
    );
    let error = read("volume > 1", None).unwrap_err().to_string();
    assert!(
        error.contains("there is no column 'volume'; there are Price, PRICE, bid, Ask"),
        "{error}"
    );
    let columns = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    let selection = read("Price > 1", columns(&["ask", "Bid"])).unwrap();
    assert_eq!(selection.columns(), ["Ask", "bid"]);
    assert_eq!(selection.read_columns(), ["Ask", "bid", "Price"]);
    assert!(
        read("Price > 1", columns(&["price"]))
            .unwrap_err()
            .to_string()
            .contains("columns: 'price' could be")
    );
    assert!(
        read("Price > 1", columns(&["bid", "BID"]))
            .unwrap_err()
            .to_string()
            .contains("bid is named twice")
    );
}

#[test]
fn dolphindbs_forms_are_answered_with_sqls() {
    for (condition, expected) in [
        (
            "TradingDay = 2026.11.01",
            "'2026.11.01' is DolphinDB's form; write date '2026-11-01'",
        ),
        (
            "TradingDay between 2026.11.01 : 2026.11.05",
            "write date '2026-11-01'",
        ),
        (
            "TradingDay between 2026.11.01:2026.11.05",
            "write date '2026-11-01'",
        ),
        ("TradingDay > 2026.11M", "from date '2026-11-01' on"),
        (
            "Timestamp > 2026.11.01T09:30:00",
            "write timestamp '2026-11-01 09:30:00'",
        ),
        (
            "Timestamp>=2026.11.01T09:30:00.000",
            "write timestamp '2026-11-01 09:30:00.000'",
        ),
        (
            "at > 09:30:00.000",
            "'09:30:00.000' is DolphinDB's form; write time '09:30:00.000'",
        ),
        ("at > 09:30m", "write time '09:30'"),
        ("symbol = `IBM", "'`IBM' is DolphinDB's form; write 'IBM'"),
        ("symbol in `A`IBM", "write 'A', 'IBM'"),
        (
            "Timestamp > now() - 1h",
            "'1h' is DolphinDB's form; write interval '1' hour",
        ),
        ("Timestamp > now() - 30m", "write interval '30' minute"),
        ("TradingDay > today() - 7d", "write interval '7' day"),
        ("id == 5", "'==' is DolphinDB's form; write ="),
        ("id = 5 && price > 1", "write and"),
        ("id = 5 || price > 1", "write or"),
    ] {
        let error = refused(condition);
        assert!(error.contains(expected), "{condition}: {error}");
    }
    // Within quotes they are texts like others.
    assert_eq!(
        ids("symbol = '2026.11.01' or symbol = '`IBM == 1h' or symbol = 'IBM'"),
        [0]
    );
}

#[test]
fn now_is_what_the_run_was_planned_with() {
    let spec = |zone: &str| SelectionSpec {
        predicate: Some("zoned < now() and Timestamp < now() and TradingDay = today()".to_owned()),
        columns: None,
        zone: Some(zone.to_owned()),
    };
    let text = |zone, now| {
        Selection::resolve(&spec(zone), &schema(), now)
            .unwrap()
            .text()
    };
    assert_eq!(
        text("Asia/Tokyo", NOW),
        text("Asia/Tokyo", NOW),
        "a frozen now stays"
    );
    assert_ne!(text("Asia/Tokyo", NOW), text("Asia/Tokyo", NOW + 1));
    assert!(text("Asia/Tokyo", NOW).ends_with(
        "(zoned < timestamp '2026-11-23 22:30:00Z' and \"Timestamp\" < timestamp '2026-11-24 07:30:00' and TradingDay = date '2026-11-24')"
    ));
}

#[test]
fn a_resolved_text_has_no_now_and_no_rest() {
    for text in [
        "where id = 1",
        "select id where id = now()",
        "select id where zoned < now()",
        "select id where TradingDay = today()",
        "select nothing where id = 1",
        "select id where",
        "select id, where id = 1",
        "select id where id = 1 1",
        "select id from t",
        "select * where id = 1",
        "id = 1",
        "",
    ] {
        let error = Selection::from_text(text, &schema()).expect_err(text);
        assert_eq!(error.kind(), Kind::Config, "{text}: {error}");
    }
    let everything = Selection::everything(&schema());
    assert_eq!(
        Selection::from_text(&everything.text(), &schema()).unwrap(),
        everything
    );
    assert_ne!(
        Selection::from_text("select id", &schema()).unwrap(),
        everything
    );
}

#[test]
fn windows_that_lose_rows_are_told() {
    let warnings = |condition: &str, zone: &str| resolve(condition, zone).unwrap().warnings();
    let midnight = |column: &str| {
        format!("{column} > midnight leaves out the row at midnight itself; write >= to have it")
    };
    let early = |column: &str| {
        format!(
            "{column} ends before the day does: rows that come later are in no window that begins at midnight; end at the next midnight"
        )
    };
    let tutorial = "Timestamp > timestamp(date(now())) and Timestamp < now()";
    assert_eq!(
        warnings(tutorial, "UTC"),
        [midnight("Timestamp"), early("Timestamp")]
    );
    let both = |column: &str| vec![midnight(column), early(column)];
    for condition in [
        "zoned > timestamp '2026-11-01' and zoned <= timestamp '2026-11-01 23:59:59'",
        "zoned > '2026-11-01' and zoned < '2026-11-01 23:59:59.999999'",
        "not (zoned <= timestamp(today()) or not zoned <= now())",
        "timestamp(today()) < zoned and now() > zoned",
        "zoned > timestamp(today()) and zoned not between now() and timestamp '2027-01-01 00:00:00'",
    ] {
        assert_eq!(
            warnings(condition, "Europe/Berlin"),
            both("zoned"),
            "{condition}"
        );
    }
    for condition in [
        "TradingDay > date(now()) - 7 and TradingDay <= date(now())",
        "Timestamp >= timestamp(date(now()) - 1) and Timestamp < timestamp(date(now()))",
        "zoned >= timestamp(today() - 7) and zoned < timestamp(today())",
        "zoned >= '2026-11-01' and zoned < '2026-11-02'",
        "not zoned < '2026-11-01' and not zoned >= '2026-11-02'",
        "Timestamp > timestamp '2026-11-01 09:30:00'",
        "Timestamp = now() or id > 5 or symbol < 'now'",
    ] {
        for zone in ["UTC", "Europe/Berlin", "Australia/Lord_Howe"] {
            assert_eq!(
                warnings(condition, zone),
                Vec::<String>::new(),
                "{condition} in {zone}"
            );
        }
    }
    // On 2026-03-29 the day begins at one o'clock in Beirut.
    let day = "zoned >= '2026-03-28' and zoned < '2026-03-29'";
    assert_eq!(warnings(day, "Asia/Beirut"), Vec::<String>::new());
    assert_eq!(
        warnings("zoned > '2026-03-29'", "Asia/Beirut"),
        [midnight("zoned")]
    );
    // One warning a column, however long the list is.
    let long = "zoned < now() or ".repeat(500) + "Timestamp < now()";
    assert_eq!(warnings(&long, "UTC"), [early("zoned"), early("Timestamp")]);
}

#[test]
fn keys_prune_and_cover_exactly_where_they_can() {
    let key =
        |column: &str, cell: Cell| PartitionKey::new(vec![(column.to_owned(), cell)]).unwrap();
    let day = |day: i32| Value::Date(day);
    let range = |from: Option<Value>, to: Option<Value>| Cell::Range { from, to };
    let float = Value::Float;
    // (condition, key, pruned, covered)
    let cases = [
        (
            "TradingDay = date '2026-11-23'",
            key("TradingDay", Cell::Value(day(20_780))),
            false,
            true,
        ),
        (
            "TradingDay = date '2026-11-23'",
            key("TradingDay", Cell::Value(day(20_781))),
            true,
            false,
        ),
        (
            "TradingDay = date '2026-11-23'",
            key("TradingDay", Cell::Null),
            true,
            false,
        ),
        (
            "TradingDay <> date '2026-11-23'",
            key("TradingDay", Cell::Null),
            true,
            false,
        ),
        (
            "TradingDay is null",
            key("TradingDay", Cell::Null),
            false,
            true,
        ),
        (
            "TradingDay is null",
            key("TradingDay", Cell::Value(day(1))),
            true,
            false,
        ),
        (
            "TradingDay is null",
            key("TradingDay", range(Some(day(1)), None)),
            false,
            false,
        ),
        (
            "TradingDay < date '2026-11-23'",
            key("TradingDay", range(Some(day(20_780)), None)),
            true,
            false,
        ),
        (
            "TradingDay <= date '2026-11-23'",
            key("TradingDay", range(Some(day(20_780)), None)),
            false,
            false,
        ),
        (
            "TradingDay >= date '2026-11-23'",
            key("TradingDay", range(None, Some(day(20_780)))),
            true,
            false,
        ),
        // Nulls may be in the range, and are not selected.
        (
            "TradingDay >= date '2026-11-23'",
            key("TradingDay", range(Some(day(20_780)), None)),
            false,
            false,
        ),
        (
            "TradingDay >= date '2026-11-23' or TradingDay is null",
            key("TradingDay", range(Some(day(20_780)), None)),
            false,
            false,
        ),
        (
            "TradingDay = date '2026-11-23'",
            key("TradingDay", Cell::Bucket { index: 0, count: 2 }),
            false,
            false,
        ),
        (
            "TradingDay = date '2026-11-23'",
            key("id", Cell::Value(Value::Int(1))),
            false,
            false,
        ),
        (
            "price > 1000",
            key("price", Cell::Value(float(f64::NAN))),
            false,
            true,
        ),
        (
            "price = 'NaN'",
            key("price", Cell::Value(float(-f64::NAN))),
            false,
            true,
        ),
        (
            "price = 0",
            key("price", Cell::Value(float(-0.0))),
            false,
            true,
        ),
        (
            "price < 0",
            key("price", Cell::Value(float(-0.0))),
            true,
            false,
        ),
        (
            "price = 'NaN'",
            key("price", range(Some(float(5.0)), None)),
            false,
            false,
        ),
        (
            "price = 'NaN'",
            key("price", range(Some(float(5.0)), Some(float(f64::NAN)))),
            true,
            false,
        ),
        (
            "price = 'inf'",
            key("price", range(Some(float(5.0)), Some(float(f64::NAN)))),
            false,
            false,
        ),
        (
            "price >= 0",
            key("price", range(None, Some(float(-0.0)))),
            true,
            false,
        ),
        // A key of another class than the column says nothing.
        (
            "price = 1",
            key("price", Cell::Value(Value::Int(2))),
            false,
            false,
        ),
        (
            "TradingDay in (date '2026-11-23', null)",
            key("TradingDay", Cell::Value(day(20_781))),
            true,
            false,
        ),
        (
            "TradingDay not in (date '2026-11-23', null)",
            key("TradingDay", Cell::Value(day(20_781))),
            true,
            false,
        ),
        (
            "not (TradingDay in (date '2026-11-23'))",
            key("TradingDay", Cell::Value(day(20_781))),
            false,
            true,
        ),
        ("null", key("TradingDay", Cell::Null), true, false),
    ];
    for (condition, key, pruned, covered) in cases {
        let selection = resolve(condition, "UTC").unwrap();
        assert_eq!(selection.excludes(&key), pruned, "{condition} prunes {key}");
        assert_eq!(selection.covers(&key), covered, "{condition} covers {key}");
    }
    let everything = Selection::everything(&schema());
    assert!(
        everything.covers(&PartitionKey::default())
            && !everything.excludes(&PartitionKey::default())
    );
}

#[test]
fn an_engine_that_selects_too_much_is_filtered_again() {
    // Arrow's comparison kernels order floats totally: there -0.0 < 0.0, and NaN with a sign is below all numbers.
    assert_eq!(ids("price < 0"), Vec::<i64>::new());
    assert_eq!(ids("price >= 0"), [0, 1, 2, 4]);
    let batch = rows();
    let selection = resolve("price < 'NaN'", "UTC").unwrap();
    assert_eq!(selection.filter(&batch).unwrap().num_rows(), 3);
    // A column that only the condition looks at is not copied.
    let spec = SelectionSpec {
        predicate: Some("price = 1.5".to_owned()),
        columns: Some(vec!["symbol".to_owned()]),
        zone: None,
    };
    let selected = Selection::resolve(&spec, &schema(), NOW)
        .unwrap()
        .filter(&batch)
        .unwrap();
    assert_eq!((selected.num_columns(), selected.num_rows()), (1, 1));
}
