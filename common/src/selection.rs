//! Which rows and columns of a table a run copies: the where clause of a `sqlDS`, in SQL, the same for every engine.
//!
//! A [`SelectionSpec`] is what an operator writes; [`Selection::resolve`] reads it against a schema with "now" frozen. Comparisons, `between`, `in`,
//! `is [not] null`, `and`, `or`, `not`, literals of every comparable column type, and the time functions `now()`, `today()`, `date(x)` and
//! `timestamp(x)` in the job's zone.
//!
//! One meaning everywhere: SQL's three values; `-0.0 = 0.0`; NaN equals NaN and is above all numbers. Naive timestamps are compared with civil time
//! in the zone, zoned ones with instants. Integers are added to dates only, and count days.

mod disjoint;
mod evaluate;
mod foreign;
mod grammar;
mod literal;
mod parse;
mod predicate;
mod prune;
mod windows;
mod zone;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, OrError, Result};
use crate::key::PartitionKey;
use crate::value::Value;

pub use predicate::{Comparison, Predicate};

/// What an operator or a job asks for, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectionSpec {
    /// The where clause in SQL; every row without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// The columns, in the order wanted; all without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// The IANA name of the job's time zone, in which civil times are read; UTC without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A selection resolved against a schema, with "now" frozen.
#[derive(Clone, Debug)]
pub struct Selection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    columns: Vec<String>,
    read_columns: Vec<String>,
    predicate: Option<Predicate>,
    warnings: Vec<String>,
}

/// Equal selections have the same columns and the same condition; what an operator was told does not count.
impl PartialEq for Selection {
    fn eq(&self, other: &Selection) -> bool {
        self.0.columns == other.0.columns && self.0.predicate == other.0.predicate
    }
}

/// Which cells of a column are in `[from, to)`, in the order that conditions have; null for null.
///
/// # Errors
/// `Internal` if a bound is not of the column's class.
pub fn in_range(
    column: &ArrayRef,
    from: Option<&Value>,
    to: Option<&Value>,
) -> Result<BooleanArray> {
    evaluate::in_range(column, from, to)
}

/// Which cells of a column are this value; null for null.
///
/// # Errors
/// `Internal` if the value is not of the column's class.
pub fn equals(column: &ArrayRef, value: &Value) -> Result<BooleanArray> {
    evaluate::equals(column, value)
}

/// Whether the cells of a column of this type have an order with this value.
pub fn has_order(value: &Value, data_type: &DataType) -> bool {
    evaluate::has_order(value, data_type)
}

impl Selection {
    /// Resolves `spec` for rows of `schema`, with `now` (nanoseconds since 1970 in UTC) as the meaning of `now()`.
    ///
    /// # Errors
    /// `Config`, naming the place in the text, the column or the literal, and what to write instead.
    pub fn resolve(spec: &SelectionSpec, schema: &Schema, now: i64) -> Result<Selection> {
        let zone = zone::Zone::named(spec.zone.as_deref().unwrap_or("UTC"))?;
        let columns = match &spec.columns {
            None => schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
            Some(columns) => {
                let mut found: Vec<String> = Vec::with_capacity(columns.len());
                for column in columns {
                    let name = parse::column(schema, column).context("columns")?;
                    if found.contains(&name) {
                        return Err(Error::config(format!("columns: {name} is named twice")));
                    }
                    found.push(name);
                }
                found
            }
        };
        let (predicate, warnings) = match &spec.predicate {
            None => (None, Vec::new()),
            Some(text) => {
                let predicate = parse::predicate(text, schema, zone, now).context("where")?;
                let warnings = windows::warnings(&predicate, zone);
                (Some(predicate), warnings)
            }
        };
        Ok(Selection::new(columns, predicate, warnings))
    }

    /// Reads what [`text`](Selection::text) wrote, against the schema that it was resolved for: the two are equal.
    ///
    /// # Errors
    /// `Config` if the text is no resolved selection, or names what the schema has not.
    pub fn from_text(text: &str, schema: &Schema) -> Result<Selection> {
        let (columns, predicate) = parse::resolved(text, schema).context("resolved selection")?;
        Ok(Selection::new(columns, predicate, Vec::new()))
    }

    /// Every row and column of `schema`.
    pub fn everything(schema: &Schema) -> Selection {
        Selection::new(
            schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
            None,
            Vec::new(),
        )
    }

    fn new(columns: Vec<String>, predicate: Option<Predicate>, warnings: Vec<String>) -> Selection {
        let mut read_columns = columns.clone();
        if let Some(predicate) = &predicate {
            predicate.visit_columns(&mut |column| {
                if !read_columns.iter().any(|known| known == column) {
                    read_columns.push(column.to_owned());
                }
            });
        }
        Selection(Arc::new(Inner {
            columns,
            read_columns,
            predicate,
            warnings,
        }))
    }

    /// The columns that are copied, in their order.
    pub fn columns(&self) -> &[String] {
        &self.0.columns
    }

    /// The columns that must be read: those copied, then those only the predicate looks at.
    pub fn read_columns(&self) -> &[String] {
        &self.0.read_columns
    }

    /// The condition on rows, for engines that push it down; it may select too much there, never too little.
    pub fn predicate(&self) -> Option<&Predicate> {
        self.0.predicate.as_ref()
    }

    /// Whether the key alone shows that no row of the partition is selected.
    pub fn excludes(&self, key: &PartitionKey) -> bool {
        self.0
            .predicate
            .as_ref()
            .is_some_and(|predicate| !prune::possible(predicate, key).is_true)
    }

    /// Whether the key alone shows that every row of the partition is selected.
    pub fn covers(&self, key: &PartitionKey) -> bool {
        self.0.predicate.as_ref().is_none_or(|predicate| {
            let possible = prune::possible(predicate, key);
            !possible.is_false && !possible.is_unknown
        })
    }

    /// Whether the two conditions alone show that no row is selected by both: they leave some column ranges that do not meet. `false` says nothing.
    pub fn is_disjoint(&self, other: &Selection) -> bool {
        disjoint::disjoint(self.predicate(), other.predicate())
    }

    /// The selected rows of a batch of [`read_columns`](Selection::read_columns), with the columns copied.
    ///
    /// # Errors
    /// `Internal` if the batch lacks a column.
    pub fn filter(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let indices = self
            .columns()
            .iter()
            .map(|column| batch.schema().index_of(column))
            .collect::<Result<Vec<_>, _>>();
        let indices = indices.or_error(Kind::Internal, "select columns")?;
        let projected = if indices.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options)
                .or_error(Kind::Internal, "select columns")?
        } else {
            batch
                .project(&indices)
                .or_error(Kind::Internal, "select columns")?
        };
        let Some(predicate) = &self.0.predicate else {
            return Ok(projected);
        };
        let selected = evaluate::selected(predicate, batch)?;
        if selected.true_count() == selected.len() {
            return Ok(projected);
        }
        arrow::compute::filter_record_batch(&projected, &selected)
            .or_error(Kind::Internal, "select rows")
    }

    /// The canonical text of the resolved selection, in SQL: now and civil times in the zone are written as what they mean, so it depends on neither.
    /// Equal texts select equal rows of equal versions, and [`from_text`](Selection::from_text) reads it back.
    pub fn text(&self) -> String {
        let columns: Vec<String> = self
            .columns()
            .iter()
            .map(|column| predicate::quoted(column))
            .collect();
        let condition = self
            .0
            .predicate
            .as_ref()
            .map(|predicate| format!(" where {predicate}"))
            .unwrap_or_default();
        format!("select {}{condition}", columns.join(", "))
    }

    /// What an operator should know: windows that can lose rows.
    pub fn warnings(&self) -> Vec<String> {
        self.0.warnings.clone()
    }
}
