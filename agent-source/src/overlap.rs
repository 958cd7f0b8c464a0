//! Whether rows that earlier runs have copied can be among those that this run selects, told by the conditions alone.

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use strait_common::digest::DigestId;
use strait_common::engine::Receipt;
use strait_common::key::PartitionKey;
use strait_common::selection::Selection;

/// What an earlier run's rows of a partition are to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// Of equal versions of the partition they are the same rows and columns.
    Same,
    /// No row is in both.
    Disjoint,
    /// Neither can be shown.
    Possible,
}

/// This run's selection beside those of receipts.
#[derive(Clone, Debug)]
pub struct Overlaps {
    selection: Selection,
    text: String,
    digest_id: DigestId,
    schema: SchemaRef,
    /// What receipts were selected by; nothing where it cannot be read against this schema. Many receipts have few texts.
    read: HashMap<String, Option<Selection>>,
}

impl Overlaps {
    /// For a run that selects this from a table with these columns, and computes digests like this.
    pub fn new(selection: Selection, schema: SchemaRef, digest_id: DigestId) -> Overlaps {
        Overlaps {
            digest_id,
            text: selection.text(),
            selection,
            schema,
            read: HashMap::new(),
        }
    }

    /// What this run's digests are computed by.
    pub fn digest_id(&self) -> &DigestId {
        &self.digest_id
    }

    /// Whether every row of a partition is selected.
    pub fn covers(&self, key: &PartitionKey) -> bool {
        self.selection.covers(key)
    }

    /// Whether no row of a partition is selected.
    pub fn excludes(&self, key: &PartitionKey) -> bool {
        self.selection.excludes(key)
    }

    /// What the rows of a receipt are to this run's of that partition.
    pub fn with(&mut self, receipt: &Receipt, key: &PartitionKey) -> Overlap {
        if receipt.selection == self.text {
            return Overlap::Same;
        }
        let read = || Selection::from_text(&receipt.selection, &self.schema).ok();
        let theirs = self
            .read
            .entry(receipt.selection.clone())
            .or_insert_with(read);
        let Some(theirs) = theirs else {
            return Overlap::Possible;
        };
        let ours = &self.selection;
        // Both took the whole of it, whatever else they select: last week's window and this week's share days.
        if theirs.columns() == ours.columns() && theirs.covers(key) && ours.covers(key) {
            Overlap::Same
        } else if theirs.is_disjoint(ours) {
            Overlap::Disjoint
        } else {
            Overlap::Possible
        }
    }
}
