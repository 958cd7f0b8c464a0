//! Whether rows that earlier runs have copied can be among those that this run selects, told by the conditions alone.

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use strait_common::digest::DigestId;
use strait_common::division::{Division, DivisionKind, check_key};
use strait_common::engine::{Receipt, Table};
use strait_common::key::{Cell, PartitionKey};
use strait_common::selection::Selection;
use strait_common::{Error, Result};

use crate::job::Mode;

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
    divisions: Vec<Division>,
    /// What receipts were selected by; nothing where it cannot be read against this schema. Many receipts have few texts.
    read: HashMap<String, Option<Selection>>,
}

impl Overlaps {
    /// For a run that selects this from a table, and computes digests like this.
    pub fn new(selection: Selection, table: &Table, digest_id: DigestId) -> Overlaps {
        Overlaps {
            digest_id,
            text: selection.text(),
            selection,
            schema: SchemaRef::clone(&table.schema),
            divisions: table.divisions.clone(),
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

    /// Whether rows of a receipt whose key is not in this run's plan can be among those that it selects: they came divided otherwise, or ranges were cut anew. `planned` says whether a
    /// planned partition can have a row of that key.
    ///
    /// # Errors
    /// `Refused` if nothing shows that they are not, and `mode` would double them; what `planned` says.
    pub fn check_unplanned(
        &mut self,
        mode: Mode,
        run: &str,
        receipt: &Receipt,
        planned: impl FnOnce(&PartitionKey) -> Result<bool>,
    ) -> Result<()> {
        let key = &receipt.key;
        if mode != (Mode::Append { again: false }) || self.excludes(key) {
            return Ok(());
        }
        let own = check_key(&self.divisions, &self.schema, key).is_ok();
        let in_ranges =
            |(_, cell): &(String, Cell)| matches!(cell, Cell::Range { .. } | Cell::Null);
        let by_ranges = |level: &Division| level.kind == DivisionKind::Range;
        // Of one division, keys that differ in a value or a bucket have no row in common.
        let can_overlap = self.divisions.iter().any(by_ranges) && key.parts().iter().any(in_ranges);
        if own && !can_overlap {
            return Ok(());
        }
        let theirs = self.read(receipt);
        if theirs.is_some_and(|theirs| theirs.is_disjoint(&self.selection)) || !planned(key)? {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{run} has already copied rows of partition {}, which the source's table does not have as it is divided now, and nothing shows that none of them is \
             selected; appending could double them. Add --again to append all the same, if the rows are known to be others",
            key.label()
        )))
    }

    /// What a receipt was selected by; nothing where it cannot be read against this schema.
    fn read(&mut self, receipt: &Receipt) -> Option<Selection> {
        let read = || Selection::from_text(&receipt.selection, &self.schema).ok();
        let of_text = self.read.entry(receipt.selection.clone());
        of_text.or_insert_with(read).clone()
    }

    /// What the rows of a receipt are to this run's of that partition.
    pub fn with(&mut self, receipt: &Receipt, key: &PartitionKey) -> Overlap {
        if receipt.selection == self.text {
            return Overlap::Same;
        }
        let Some(theirs) = self.read(receipt) else {
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
