//! What the journal says of partitions: what is being published, what is staged, and the lines of the ledger.

use serde::{Deserialize, Serialize};
use strait_common::digest::Digest;
use strait_common::engine::{Cursor, Position, PositionState, Receipt, Version};
use strait_common::ids::RunId;
use strait_common::key::PartitionKey;

/// What happens to a partition at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Act {
    /// Rows join those that are there.
    Append,
    /// Rows take the place of those that are there.
    Replace,
    /// What is there goes.
    Drop,
    /// What is there was found equal: in the ledger only.
    Confirm,
}

/// A partition that is being published, or was when its process died. Every request to the server is written down here before it is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Publishing {
    pub(crate) run: RunId,
    pub(crate) key: PartitionKey,
    pub(crate) act: Act,
    /// None of a drop.
    pub(crate) receipt: Option<Receipt>,
    /// The run's columns in their order, which the digest is computed by.
    pub(crate) columns: Vec<String>,
    /// Whose pieces, and how many of them.
    pub(crate) writer: String,
    pub(crate) pieces: u64,
    /// Whether what was there is gone, of an act that begins with that.
    pub(crate) cleared: bool,
    /// Rows of the partition before the first batch, and their digest where there were any.
    pub(crate) before: u64,
    pub(crate) before_digest: Digest,
    /// Whether all of those were rows of receipts in effect.
    pub(crate) whole: bool,
    /// Rows and pieces that are at the server.
    pub(crate) done_rows: u64,
    pub(crate) done_pieces: u64,
    /// Up to which piece the batch goes that is sent, or was when its answer was lost: whoever sends it again sends the same.
    pub(crate) sent_pieces: u64,
    /// The session of a request that may still be running; empty where each was answered.
    pub(crate) session: String,
    /// Whether a request was sent of which nobody has heard whether it was carried out.
    #[serde(default)]
    pub(crate) unheard: bool,
    /// Why it cannot go on without a person.
    pub(crate) trouble: Option<String>,
    /// Whether what the server had lost of it was removed, to be sent once more.
    #[serde(default)]
    pub(crate) repaired: bool,
}

impl Publishing {
    /// Whether something of it has happened at the server, or may have. It is certain that nothing has if no request that begins it was sent, or each was answered, and refused.
    pub(crate) fn may_have_begun(&self) -> bool {
        let begun = match self.act {
            Act::Append => self.sent_pieces > 0,
            Act::Replace | Act::Drop | Act::Confirm => self.cleared,
        };
        begun || !self.session.is_empty() || self.unheard
    }

    /// Whether what was there before is gone, or may be, and what is to be there is not yet.
    pub(crate) fn is_torn(&self) -> bool {
        self.act != Act::Append && self.may_have_begun()
    }

    /// One of which nothing has happened yet: without a receipt and without rows.
    pub(crate) fn new(run: RunId, key: PartitionKey, act: Act) -> Publishing {
        Publishing {
            run,
            key,
            act,
            receipt: None,
            columns: Vec::new(),
            writer: String::new(),
            pieces: 0,
            // Rows that join others leave them there.
            cleared: act == Act::Append,
            before: 0,
            before_digest: Digest::default(),
            whole: true,
            done_rows: 0,
            done_pieces: 0,
            sent_pieces: 0,
            session: String::new(),
            unheard: false,
            trouble: None,
            repaired: false,
        }
    }
}

/// What a run has staged of a partition.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) version: Version,
    pub(crate) writer: String,
    pub(crate) pieces: u64,
    pub(crate) sequence: u64,
    pub(crate) cursor: Cursor,
    pub(crate) rows: u64,
    pub(crate) digest: Digest,
}

/// One line of the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) run: RunId,
    pub(crate) act: Act,
    pub(crate) receipt: Receipt,
    /// The version that readers see since; none where there are no rows.
    pub(crate) version: Option<Version>,
    /// Whether all rows of that version are those of the entries in effect.
    pub(crate) whole: bool,
}

/// Those of a partition's entries that tell what is there: since it was last replaced or found equal.
pub(crate) fn in_effect(entries: &[Entry]) -> &[Entry] {
    let anew = |entry: &Entry| entry.act != Act::Append;
    &entries[entries.iter().rposition(anew).unwrap_or(0)..]
}

/// Whether the rows of a partition of this version are those of its entries in effect and no others.
pub(crate) fn is_intact(entries: &[Entry], version: Option<&Version>) -> bool {
    match in_effect(entries).last() {
        Some(last) => last.whole && last.version.as_ref() == version,
        None => version.is_none(),
    }
}

impl Staged {
    /// Whether something of it is durable.
    pub(crate) fn is_marked(&self) -> bool {
        self.sequence > 0 || !self.cursor.is_start()
    }

    /// As the run is told it, once something is durable.
    pub(crate) fn position(&self, run: RunId, key: &PartitionKey) -> Position {
        Position {
            run,
            key: key.clone(),
            version: self.version.clone(),
            sequence: self.sequence,
            cursor: self.cursor.clone(),
            rows: self.rows,
            digest: self.digest,
            state: PositionState::Staged,
        }
    }
}

/// Rows as they are kept.
pub(crate) struct Piece {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) content: Vec<u8>,
}
