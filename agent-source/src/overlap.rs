//! Whether rows that earlier runs have copied can be among those that this run selects, told by the conditions alone.

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use strait_common::digest::DigestId;
use strait_common::division::{Division, check_key};
use strait_common::engine::{Receipt, Table};
use strait_common::key::PartitionKey;
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

    /// Whether rows of a receipt that came divided otherwise, and so are of no partition of this run's, can be among those that it selects.
    ///
    /// # Errors
    /// `Refused` if nothing shows that they are not, and `mode` would double them.
    pub fn check_other_division(&mut self, mode: Mode, run: &str, receipt: &Receipt) -> Result<()> {
        let own = check_key(&self.divisions, &self.schema, &receipt.key).is_ok();
        if own || mode != (Mode::Append { again: false }) || self.excludes(&receipt.key) {
            return Ok(());
        }
        let theirs = self.read(receipt);
        if theirs.is_some_and(|theirs| theirs.is_disjoint(&self.selection)) {
            return Ok(());
        }
        Err(Error::refused(format!(
            "{run} has already copied rows of partition {}, which is divided otherwise than the source's table is now, and nothing shows that none of them is selected; \
             appending could double them. Add --again to append all the same, if the rows are known to be others",
            receipt.key.label()
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
