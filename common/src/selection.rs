//! Which rows and columns of a table a run copies (stub of the API).

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::key::PartitionKey;

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
pub struct Selection {
    columns: Vec<String>,
}

impl Selection {
    /// Resolves `spec` for rows of `schema`, with `now` (nanoseconds since 1970 in UTC) as the meaning of `now()`.
    ///
    /// # Errors
    /// `Config`, naming the place in the text, the column or the literal, and what to write instead.
    pub fn resolve(spec: &SelectionSpec, schema: &Schema, _now: i64) -> Result<Selection> {
        let all = || {
            schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect()
        };
        Ok(Selection {
            columns: spec.columns.clone().unwrap_or_else(all),
        })
    }

    /// Every row and column of `schema`.
    pub fn everything(schema: &Schema) -> Selection {
        Selection {
            columns: schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect(),
        }
    }

    /// The columns that are copied, in their order.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The columns that must be read: those copied, then those only the predicate looks at.
    pub fn read_columns(&self) -> &[String] {
        &self.columns
    }

    /// Whether the key alone shows that no row of the partition is selected.
    pub fn excludes(&self, _key: &PartitionKey) -> bool {
        false
    }

    /// Whether the key alone shows that every row of the partition is selected.
    pub fn covers(&self, _key: &PartitionKey) -> bool {
        true
    }

    /// The selected rows of a batch of [`read_columns`](Selection::read_columns), with the columns copied.
    ///
    /// # Errors
    /// `Internal` if the batch lacks a column.
    pub fn filter(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        Ok(batch.clone())
    }

    /// The canonical text of the resolved selection, now written as an instant: equal texts select equal rows of equal versions.
    pub fn text(&self) -> String {
        self.columns.join(",")
    }

    /// What an operator should know: windows that can lose rows.
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}
