//! How much text is read, to which end, and on how much stack.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};

use super::lines::{refused, text};
use super::{NOW, PartitionKey, ids, resolve, schema};
use crate::selection::{Predicate, Selection, SelectionSpec};

#[test]
fn a_text_is_read_to_its_end() {
    for condition in [
        "id = 1 2",
        "id = 1)",
        "id = 1;",
        "id = 1; drop table t",
        "id = 1 order by id",
        "id = 1,",
        "price > 2026.11 .01",
        "id = 1 and",
        "",
        " ",
    ] {
        refused(condition);
    }
    assert!(refused("id = 1 order by id").contains("'order' is not understood"));
}

#[test]
fn a_text_of_more_than_64_kib_is_refused() {
    let padded = |bytes: usize| format!("id = 1{}", " ".repeat(bytes - 6));
    assert_eq!(ids(&padded(64 * 1024)), [1]);
    let error = refused(&padded(64 * 1024 + 1));
    assert!(error.contains("65537 bytes; at most 65536"), "{error}");
}

/// Runs on a stack that a recursive reading of a long list would overflow.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(work);
    thread.unwrap().join().unwrap();
}

#[test]
fn the_longest_lists_stay_flat() {
    on_a_small_stack(|| {
        let flags = Schema::new(vec![Field::new("b", DataType::Boolean, true)]);
        let resolved = |text: String| {
            let spec = SelectionSpec {
                predicate: Some(text),
                ..SelectionSpec::default()
            };
            Selection::resolve(&spec, &flags, NOW).unwrap()
        };
        // The most items that 64 KiB hold: "b or " 13,107 times.
        for word in ["or", "OR", "and"] {
            let items = (64 * 1024 + word.len() + 2) / (word.len() + 3);
            let selection = resolved(vec!["b"; items].join(&format!(" {word} ")));
            match selection.predicate() {
                Some(Predicate::Or(parts) | Predicate::And(parts)) => {
                    assert_eq!(parts.len(), items);
                    assert!(
                        parts
                            .iter()
                            .all(|part| matches!(part, Predicate::Compare(..)))
                    );
                }
                other => panic!("{other:?}"),
            }
            let text = selection.text();
            assert!(text.len() > 64 * 1024, "longer than an operator may write");
            assert_eq!(Selection::from_text(&text, &flags).unwrap(), selection);
            let none = RecordBatch::new_empty(Arc::new(flags.clone()));
            assert_eq!(selection.filter(&none).unwrap().num_rows(), 0);
            assert!(!selection.excludes(&PartitionKey::default()));
        }
        let brackets = format!("{}(b)", "(b)or".repeat(13_000));
        assert!(
            matches!(resolved(brackets).predicate(), Some(Predicate::Or(parts)) if parts.len() == 13_001)
        );
    });
    let list = (0..12_000)
        .map(|id| (id % 5).to_string())
        .collect::<Vec<_>>()
        .join(",");
    let selection = resolve(&format!("id in ({list})"), "UTC").unwrap();
    assert!(
        matches!(selection.predicate(), Some(Predicate::In(_, values)) if values.len() == 12_000)
    );
}

#[test]
fn no_text_overflows_the_stack() {
    on_a_small_stack(|| {
        let sum = format!("TradingDay = today(){}", "+1".repeat(32_000));
        assert!(
            text(&sum, "UTC").ends_with("date '2114-07-05'"),
            "{}",
            text(&sum, "UTC")
        );
        for (start, middle, end) in [
            ("id = 1", "", " is null"),
            ("id", " between 1 and 2", ""),
            ("", "(", ""),
            ("", "not ", "id = 1"),
            ("id = ", "-", "1"),
            ("id = ", "date(", ""),
            ("id ", "in (", ""),
            ("id = 1", " is null", ""),
            ("id", "+id", " > 1"),
            ("", "case when ", ""),
            ("", "id = 1 or not (", ""),
            ("", "array[", ""),
            // What sqlparser itself would need 2^64 steps for.
            ("", "id.", "id"),
            ("", "not (", ""),
            ("", "interval ", ""),
            ("", "position(", ""),
            ("", "case(", ""),
            ("", "(id).", "id"),
            ("", "id in (select ", ""),
            ("id = ", "timestamp(date(", ""),
        ] {
            let times = if middle.is_empty() {
                1
            } else {
                60_000 / middle.len()
            };
            refused(&format!("{start}{}{end}", middle.repeat(times)));
        }
    });
}

#[test]
fn brackets_are_read_as_deep_as_they_are_promised_and_their_text_again() {
    let deep = |levels: usize| {
        let open = "id = 1 and price = 2 or not (".repeat(levels);
        format!("{open}id = 3{}", ")".repeat(levels))
    };
    let levels = (1..64)
        .take_while(|levels| resolve(&deep(*levels), "UTC").is_ok())
        .count();
    assert!(levels >= 15, "{levels}");
    let selection = resolve(&deep(levels), "UTC").unwrap();
    assert_eq!(
        Selection::from_text(&selection.text(), &schema()).unwrap(),
        selection
    );
    let error = refused(&deep(levels + 1));
    assert!(error.contains("no condition in SQL"), "{levels}: {error}");
}

#[test]
fn an_error_about_a_long_text_still_ends_with_the_reason() {
    let long = format!("{} id = 1 1", "id = 1 or ".repeat(5000));
    let error = refused(&long);
    assert!(
        error.len() < 1000 && error.contains("'1' is not understood"),
        "{error}"
    );
    let error = refused(&format!("symbol in ('{}', 5)", "x".repeat(50_000)));
    assert!(
        error.len() < 1000 && error.contains("5 is no value of that type"),
        "{error}"
    );
}
