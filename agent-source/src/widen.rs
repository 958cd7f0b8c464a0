//! The selection of a run that does more than its own start: what other starts were to select, and partitions that may have got late rows.

use std::collections::BTreeSet;

use futures::StreamExt;
use strait_common::key::Cell;
use strait_common::selection::{Comparison, Predicate, Selection, SelectionSpec};
use strait_common::value::Value;
use strait_common::{Error, Result};

use crate::agent::Agent;
use crate::asked::Asked;

/// What the run selects: its condition with each meaning of `now()`, and the values of the first dividing column before those.
///
/// # Errors
/// `Config` if the condition cannot be read; `Refused` if a lookback is asked for and the table has no such column; what the source says.
pub async fn widen(agent: &Agent, asked: &Asked) -> Result<SelectionSpec> {
    let spec = &asked.spec.selection;
    if asked.also.is_empty() && asked.lookback == 0 {
        return Ok(spec.clone());
    }
    let source = agent.source(&asked.spec.from.name)?;
    let table = source.describe(&asked.spec.from.table).await?;
    let mut selections: Vec<Selection> = Vec::new();
    for now in asked.also.iter().chain([&asked.now]) {
        let selection = Selection::resolve(spec, &table.schema, *now)?;
        if !selections.contains(&selection) {
            selections.push(selection);
        }
    }
    let mut conditions = Vec::new();
    for selection in &selections {
        match selection.predicate() {
            Some(predicate) => conditions.push(predicate.to_string()),
            // Every row is selected already.
            None => return Ok(spec.clone()),
        }
    }
    if asked.lookback > 0 {
        let column = table
            .divisions
            .first()
            .map(|division| division.column.clone());
        let column = column.ok_or_else(|| {
            Error::refused("lookback goes by the column that divides the table, and nothing divides it; leave lookback out")
        })?;
        let (mut all, mut selected) = (BTreeSet::new(), BTreeSet::new());
        let everything = Selection::everything(&table.schema);
        let mut partitions = source.partitions(&table.name, &everything).await?;
        while let Some(partition) = partitions.next().await.transpose()? {
            let Some(least) = partition
                .key
                .parts()
                .first()
                .and_then(|(_, cell)| least(cell))
            else {
                continue;
            };
            if selections
                .iter()
                .any(|selection| !selection.excludes(&partition.key))
            {
                selected.insert(least.clone());
            }
            all.insert(least);
        }
        conditions.extend(before(&column, &all, &selected, asked.lookback));
    }
    let conditions: Vec<String> = conditions.iter().map(|text| format!("({text})")).collect();
    Ok(SelectionSpec {
        predicate: Some(conditions.join(" or ")),
        // What civil times mean is resolved.
        zone: None,
        ..spec.clone()
    })
}

/// The least value that a partition's rows have.
fn least(cell: &Cell) -> Option<Value> {
    match cell {
        Cell::Value(value) => Some(value.clone()),
        Cell::Range { from, .. } => from.clone(),
        Cell::Null | Cell::Bucket { .. } => None,
    }
}

/// The condition that takes so many values before the first selected one; before the end, where none is selected.
fn before(
    column: &str,
    all: &BTreeSet<Value>,
    selected: &BTreeSet<Value>,
    lookback: u32,
) -> Option<String> {
    let first = selected.first();
    let earlier = all
        .iter()
        .filter(|value| first.is_none_or(|first| *value < first));
    let from = earlier.rev().take(lookback as usize).last()?;
    let compare = |comparison, value: &Value| {
        Predicate::Compare(column.to_owned(), comparison, value.clone()).to_string()
    };
    let from = compare(Comparison::GreaterOrEqual, from);
    Some(match first {
        Some(first) => format!("{from} and {}", compare(Comparison::Less, first)),
        None => from,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookback_takes_as_many_values_before_the_first_selected_one() {
        let values = |numbers: &[i64]| {
            numbers
                .iter()
                .map(|number| Value::Int(i128::from(*number)))
                .collect::<BTreeSet<_>>()
        };
        let all = values(&[1, 2, 5, 8, 9]);
        let of = |selected: &[i64], lookback| before("d", &all, &values(selected), lookback);
        assert_eq!(of(&[8, 9], 2).as_deref(), Some("d >= 2 and d < 8"));
        assert_eq!(of(&[8], 9).as_deref(), Some("d >= 1 and d < 8"));
        assert_eq!(of(&[1], 2), None, "nothing is before the first");
        assert_eq!(of(&[], 1).as_deref(), Some("d >= 9"), "nothing is selected");
    }
}
