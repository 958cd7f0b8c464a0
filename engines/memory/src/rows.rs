//! Rows as text, for comparing what two stores hold.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use strait_common::{Kind, OrError, Result};

/// One row: the text of each cell, `None` for null, in the order of the columns.
pub type Row = Vec<Option<String>>;

/// The rows of a batch, in its order.
///
/// # Errors
/// `Schema` if a column's type has no text.
pub fn canonical_rows(batch: &RecordBatch) -> Result<Vec<Row>> {
    let options = FormatOptions::default();
    let columns = batch
        .columns()
        .iter()
        .map(|column| {
            let formatter = ArrayFormatter::try_new(column.as_ref(), &options);
            Ok((
                formatter.or_error(Kind::Schema, "a column without text")?,
                column.logical_nulls(),
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let cell = |row: usize| {
        columns.iter().map(move |(formatter, nulls)| {
            let null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            (!null).then(|| formatter.value(row).to_string())
        })
    };
    Ok((0..batch.num_rows())
        .map(|row| cell(row).collect())
        .collect())
}
