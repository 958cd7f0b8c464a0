//! Whether two conditions can select the same row, told by ranges: each leaves a column some range of values, and where two ranges of one column do
//! not meet, no row is in both. Anything that this does not show counts as possible.

use std::cmp::Ordering;

use super::predicate::{Comparison, Predicate};
use super::prune::{comparable, order};
use crate::value::Value;

/// What a condition leaves a column: more than it really does is safe, less is not.
#[derive(Clone, Debug)]
struct Left<'a> {
    /// Whether the column may be null.
    null: bool,
    /// The values that it may have; `None` if it can have none.
    range: Option<Range<'a>>,
}

/// A range of values; without a bound it is open to that side.
#[derive(Clone, Debug, Default)]
struct Range<'a> {
    low: Option<Bound<'a>>,
    high: Option<Bound<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Bound<'a> {
    value: &'a Value,
    /// Whether the value itself is within.
    within: bool,
}

const NOTHING: Left<'static> = Left {
    null: false,
    range: None,
};

fn everything<'a>() -> Left<'a> {
    Left {
        null: true,
        range: Some(Range::default()),
    }
}

/// Whether no row can be selected by both.
pub(super) fn disjoint<'a>(a: Option<&'a Predicate>, b: Option<&'a Predicate>) -> bool {
    let mut columns = Vec::new();
    for predicate in a.iter().chain(&b) {
        predicate.visit_columns(&mut |column| {
            if !columns.iter().any(|known| known == column) {
                columns.push(column.to_owned());
            }
        });
    }
    let left = |predicate: Option<&'a Predicate>, column: &str| match predicate {
        Some(predicate) => left(predicate, column, true),
        None => everything(),
    };
    columns
        .iter()
        .any(|column| left(a, column).and(left(b, column)).is_nothing())
}

/// What is left of a column by rows for which the condition is true, or false if not `holds`.
fn left<'a>(predicate: &'a Predicate, column: &str, holds: bool) -> Left<'a> {
    match predicate {
        Predicate::Constant(value) if *value == Some(holds) => everything(),
        Predicate::Constant(_) => NOTHING,
        Predicate::Compare(name, comparison, value) if name == column => {
            let comparison = if holds {
                *comparison
            } else {
                comparison.opposite()
            };
            Left {
                null: false,
                range: Some(Range::of(comparison, value)),
            }
        }
        Predicate::In(name, values) if name == column => {
            let range = if holds {
                values.iter().fold(None, |all: Option<Range<'a>>, value| {
                    let one = Range::of(Comparison::Equal, value);
                    Some(all.map_or(one.clone(), |all| all.or(one)))
                })
            } else {
                Some(Range::default())
            };
            Left { null: false, range }
        }
        Predicate::IsNull(name) if name == column => Left {
            null: holds,
            range: (!holds).then(Range::default),
        },
        Predicate::Compare(..) | Predicate::In(..) | Predicate::IsNull(_) => everything(),
        Predicate::Not(inner) => left(inner, column, !holds),
        // What makes a list of `and` false makes one of its parts false.
        Predicate::And(parts) | Predicate::Or(parts) => {
            let parts = parts.iter().map(|part| left(part, column, holds));
            if matches!(predicate, Predicate::And(_)) == holds {
                parts.fold(everything(), Left::and)
            } else {
                parts.fold(NOTHING, Left::or)
            }
        }
    }
}

impl<'a> Left<'a> {
    fn is_nothing(&self) -> bool {
        !self.null && self.range.is_none()
    }

    fn and(self, other: Left<'a>) -> Left<'a> {
        Left {
            null: self.null && other.null,
            range: self
                .range
                .zip(other.range)
                .and_then(|(one, other)| one.and(other)),
        }
    }

    fn or(self, other: Left<'a>) -> Left<'a> {
        Left {
            null: self.null || other.null,
            range: match (self.range, other.range) {
                (Some(one), Some(other)) => Some(one.or(other)),
                (one, other) => one.or(other),
            },
        }
    }
}

impl<'a> Range<'a> {
    fn of(comparison: Comparison, value: &'a Value) -> Range<'a> {
        let bound = |within| Some(Bound { value, within });
        let (low, high) = match comparison {
            Comparison::Equal => (bound(true), bound(true)),
            Comparison::NotEqual => (None, None),
            Comparison::Less => (None, bound(false)),
            Comparison::LessOrEqual => (None, bound(true)),
            Comparison::Greater => (bound(false), None),
            Comparison::GreaterOrEqual => (bound(true), None),
        };
        Range { low, high }
    }

    /// What is in both; `None` if that is nothing.
    fn and(self, other: Range<'a>) -> Option<Range<'a>> {
        let low = tighter(self.low, other.low, Ordering::Greater);
        let high = tighter(self.high, other.high, Ordering::Less);
        if let (Some(low), Some(high)) = (low, high)
            && comparable(low.value, high.value)
        {
            match order(low.value, high.value) {
                Ordering::Greater => return None,
                Ordering::Equal if !(low.within && high.within) => return None,
                _ => {}
            }
        }
        Some(Range { low, high })
    }

    /// The least range that has both.
    fn or(self, other: Range<'a>) -> Range<'a> {
        Range {
            low: wider(self.low, other.low, Ordering::Less),
            high: wider(self.high, other.high, Ordering::Greater),
        }
    }
}

/// The bound that leaves less: the one that is `further`.
fn tighter<'a>(
    one: Option<Bound<'a>>,
    other: Option<Bound<'a>>,
    further: Ordering,
) -> Option<Bound<'a>> {
    let (Some(one), Some(other)) = (one, other) else {
        return one.or(other);
    };
    // Of two that cannot be compared either is true; less would have to be shown.
    if !comparable(one.value, other.value) {
        return Some(one);
    }
    Some(match order(one.value, other.value) {
        Ordering::Equal if one.within => other,
        Ordering::Equal => one,
        found if found == further => one,
        _ => other,
    })
}

/// The bound that leaves more: the one that is `further`; none if either has none.
fn wider<'a>(
    one: Option<Bound<'a>>,
    other: Option<Bound<'a>>,
    further: Ordering,
) -> Option<Bound<'a>> {
    let (one, other) = (one?, other?);
    if !comparable(one.value, other.value) {
        return None;
    }
    Some(match order(one.value, other.value) {
        Ordering::Equal if one.within => one,
        Ordering::Equal => other,
        found if found == further => one,
        _ => other,
    })
}
