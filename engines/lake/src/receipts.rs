//! The receipts of one run, held small: a run of 100,000 partitions has as many of them, and they differ in little.

use std::collections::HashMap;

use strait_common::Result;
use strait_common::digest::{Digest, DigestId};
use strait_common::engine::{Level, Origin, Receipt, Version};
use strait_common::key::PartitionKey;

/// Receipts by key; about 150 bytes for each.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    /// By the key's canonical text.
    held: HashMap<Box<str>, Held>,
    /// What many have in common. One run has few of them.
    alike: Vec<Alike>,
}

#[derive(Debug)]
struct Held {
    version: Box<str>,
    rows: u64,
    digest: Digest,
    /// Its place among those.
    alike: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Alike {
    digest_id: DigestId,
    level: Level,
    selection: String,
    origin: Origin,
}

impl Receipts {
    /// Holds a receipt, in place of an older one of its partition.
    pub(crate) fn insert(&mut self, receipt: &Receipt) {
        let alike = Alike {
            digest_id: receipt.digest_id.clone(),
            level: receipt.level,
            selection: receipt.selection.clone(),
            origin: receipt.origin.clone(),
        };
        let found = self.alike.iter().rposition(|known| *known == alike);
        let alike = found.unwrap_or_else(|| {
            self.alike.push(alike);
            self.alike.len() - 1
        });
        let held = Held {
            version: receipt.version.0.clone().into_boxed_str(),
            rows: receipt.rows,
            digest: receipt.digest,
            alike,
        };
        self.held.insert(text(&receipt.key), held);
    }

    /// The receipt of a partition.
    pub(crate) fn get(&self, key: &PartitionKey) -> Option<Receipt> {
        let held = self.held.get(&text(key))?;
        self.receipt(key.clone(), held)
    }

    /// Forgets a partition.
    pub(crate) fn remove(&mut self, key: &PartitionKey) {
        self.held.remove(&text(key));
    }

    /// All of them, in no order.
    ///
    /// # Errors
    /// `Config` if a key cannot be read, which was written here.
    pub(crate) fn all(&self) -> Result<Vec<Receipt>> {
        let mut receipts = Vec::with_capacity(self.held.len());
        for (key, held) in &self.held {
            receipts.extend(self.receipt(key.parse()?, held));
        }
        Ok(receipts)
    }

    fn receipt(&self, key: PartitionKey, held: &Held) -> Option<Receipt> {
        let alike = self.alike.get(held.alike)?;
        Some(Receipt {
            key,
            version: Version(held.version.to_string()),
            rows: held.rows,
            digest: held.digest,
            digest_id: alike.digest_id.clone(),
            level: alike.level,
            selection: alike.selection.clone(),
            origin: alike.origin.clone(),
        })
    }
}

fn text(key: &PartitionKey) -> Box<str> {
    key.to_string().into_boxed_str()
}
