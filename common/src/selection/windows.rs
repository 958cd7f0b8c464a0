//! Windows of time that can lose rows between one run and the next.

use super::predicate::{Comparison, Predicate};
use super::zone::Zone;
use crate::value::{NS_PER_DAY, Value};

/// What an operator should know about a condition's bounds on timestamps: half-open windows from midnight to midnight meet, others leave
/// rows between them.
pub(super) fn warnings(predicate: &Predicate, zone: Zone) -> Vec<String> {
    let mut found = Vec::new();
    visit(predicate, false, &mut |column, comparison, ns, zoned| {
        let text = match comparison {
            Comparison::Greater if is_midnight(ns, zoned, zone) => format!(
                "{column} > midnight leaves out the row at midnight itself; write >= to have it"
            ),
            Comparison::Less | Comparison::LessOrEqual if !is_midnight(ns, zoned, zone) => {
                format!(
                    "{column} ends before the day does: rows that come later are in no window that begins at midnight; end at the next midnight"
                )
            }
            _ => return,
        };
        // One a column is enough, however long the list of bounds is.
        if !found.contains(&text) {
            found.push(text);
        }
    });
    found
}

/// Tells each bound on a timestamp, as it is after all `not` around it.
fn visit(
    predicate: &Predicate,
    negated: bool,
    tell: &mut impl FnMut(&str, Comparison, i128, bool),
) {
    match predicate {
        Predicate::Compare(column, comparison, Value::Timestamp { ns, zoned }) => {
            let comparison = if negated {
                comparison.opposite()
            } else {
                *comparison
            };
            tell(column, comparison, *ns, *zoned);
        }
        Predicate::Not(inner) => visit(inner, !negated, tell),
        Predicate::And(parts) | Predicate::Or(parts) => {
            parts.iter().for_each(|part| visit(part, negated, tell));
        }
        Predicate::Compare(..)
        | Predicate::In(..)
        | Predicate::IsNull(_)
        | Predicate::Constant(_) => {}
    }
}

/// Whether a day begins there. Where clocks go forward at midnight, it begins at one o'clock.
fn is_midnight(ns: i128, zoned: bool, zone: Zone) -> bool {
    if !zoned {
        return ns.rem_euclid(NS_PER_DAY) == 0;
    }
    let begins = zone
        .civil(ns)
        .and_then(|civil| zone.instant(civil - civil.rem_euclid(NS_PER_DAY)));
    begins.is_ok_and(|begins| begins == ns)
}
