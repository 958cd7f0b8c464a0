//! What a partition key alone says of a condition: which of SQL's three values it can have for some row of the partition.

use std::cmp::Ordering;

use super::predicate::{Comparison, Predicate};
use crate::key::{Cell, PartitionKey};
use crate::value::Value;

/// The values that are possible. More than are real is safe, fewer is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Possible {
    pub(super) is_true: bool,
    pub(super) is_false: bool,
    pub(super) is_unknown: bool,
}

const ANY: Possible = Possible {
    is_true: true,
    is_false: true,
    is_unknown: true,
};

fn only(value: Option<bool>) -> Possible {
    Possible {
        is_true: value == Some(true),
        is_false: value == Some(false),
        is_unknown: value.is_none(),
    }
}

/// What a condition can be for rows of this partition.
pub(super) fn possible(predicate: &Predicate, key: &PartitionKey) -> Possible {
    match predicate {
        Predicate::Constant(value) => only(*value),
        Predicate::Compare(column, comparison, value) => {
            compare(key.cell(column), *comparison, value)
        }
        Predicate::In(column, values) => {
            let mut result = only(Some(false));
            for value in values {
                result = or(result, compare(key.cell(column), Comparison::Equal, value));
            }
            result
        }
        Predicate::IsNull(column) => match key.cell(column) {
            Some(Cell::Null) => only(Some(true)),
            Some(Cell::Value(_)) => only(Some(false)),
            // An engine may keep nulls in a range or a bucket.
            _ => Possible {
                is_unknown: false,
                ..ANY
            },
        },
        Predicate::Not(inner) => {
            let inner = possible(inner, key);
            Possible {
                is_true: inner.is_false,
                is_false: inner.is_true,
                is_unknown: inner.is_unknown,
            }
        }
        Predicate::And(parts) => parts
            .iter()
            .map(|part| possible(part, key))
            .fold(only(Some(true)), and),
        Predicate::Or(parts) => parts
            .iter()
            .map(|part| possible(part, key))
            .fold(only(Some(false)), or),
    }
}

fn compare(cell: Option<&Cell>, comparison: Comparison, value: &Value) -> Possible {
    match cell {
        Some(Cell::Null) => only(None),
        Some(Cell::Value(found)) if comparable(found, value) => {
            only(Some(comparison.holds(order(found, value))))
        }
        Some(Cell::Range { from, to }) => {
            let bounds = from.iter().chain(to);
            if !bounds.clone().all(|bound| comparable(bound, value)) {
                return ANY;
            }
            // Where the rows of [from, to) can be, seen from the value.
            let less = from
                .as_ref()
                .is_none_or(|from| order(from, value) == Ordering::Less);
            let greater = true;
            let below_to = |order_of_to: Ordering| order_of_to == Ordering::Greater;
            let to_order = to.as_ref().map(|to| order(to, value));
            let greater = greater && to_order.is_none_or(below_to);
            let equal = from
                .as_ref()
                .is_none_or(|from| order(from, value) != Ordering::Greater)
                && to_order.is_none_or(below_to);
            let orders = [
                (Ordering::Less, less),
                (Ordering::Equal, equal),
                (Ordering::Greater, greater),
            ];
            let can = |wanted: bool| {
                orders
                    .iter()
                    .any(|(order, possible)| *possible && comparison.holds(*order) == wanted)
            };
            Possible {
                is_true: can(true),
                is_false: can(false),
                is_unknown: true,
            }
        }
        _ => ANY,
    }
}

/// Whether the two are of one class, so that their order means something.
pub(super) fn comparable(a: &Value, b: &Value) -> bool {
    use Value::{Binary, Bool, Date, Decimal, Float, Int, String, Time, Timestamp};
    match (a, b) {
        (Int(_) | Decimal { .. }, Int(_) | Decimal { .. })
        | (Bool(_), Bool(_))
        | (Float(_), Float(_))
        | (String(_), String(_))
        | (Binary(_), Binary(_))
        | (Date(_), Date(_))
        | (Time(_), Time(_)) => true,
        (Timestamp { zoned: a, .. }, Timestamp { zoned: b, .. }) => a == b,
        _ => false,
    }
}

/// The order of two comparable values.
pub(super) fn order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Int(a), Value::Decimal { unscaled, scale }) => {
            crate::value::compare_decimals(*a, 0, *unscaled, *scale)
        }
        (Value::Decimal { unscaled, scale }, Value::Int(b)) => {
            crate::value::compare_decimals(*unscaled, *scale, *b, 0)
        }
        _ => a.cmp(b),
    }
}

fn and(a: Possible, b: Possible) -> Possible {
    Possible {
        is_true: a.is_true && b.is_true,
        is_false: a.is_false || b.is_false,
        is_unknown: (a.is_unknown && (b.is_unknown || b.is_true)) || (b.is_unknown && a.is_true),
    }
}

fn or(a: Possible, b: Possible) -> Possible {
    Possible {
        is_true: a.is_true || b.is_true,
        is_false: a.is_false && b.is_false,
        is_unknown: (a.is_unknown && (b.is_unknown || b.is_false)) || (b.is_unknown && a.is_false),
    }
}
