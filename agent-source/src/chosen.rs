//! Which of the selected partitions a run is about: those that an operator names, without those that have arrived already by a receipt that was carried back.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use strait_common::engine::{Partition, Receipt};
use strait_common::key::PartitionKey;
use strait_common::{Context, Error, Kind, OrError, Result};

/// The largest file of receipts that is read: it is held while a run is planned.
const ARRIVED_BYTES_MAX: u64 = 64 << 20;

/// Patterns for keys in canonical text; `*` is any text, also none. None of them means every key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPatterns(pub Vec<String>);

impl KeyPatterns {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them fits a key.
    pub fn fit(&self, key: &PartitionKey) -> bool {
        self.is_empty() || {
            let key = key.to_string();
            self.0.iter().any(|pattern| fits(pattern, &key))
        }
    }
}

/// Whether a pattern fits a whole text. Looks back to the last star alone, so it takes no longer than the product of both lengths.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    true
}

/// Partitions that have arrived elsewhere: what B's receipts say, by key in canonical text.
#[derive(Debug, Default)]
pub struct Arrived(HashMap<String, (String, String)>);

impl Arrived {
    /// Reads receipts, one JSON object a line, as `strait bundle receipt` writes them. Blocks.
    ///
    /// # Errors
    /// `Config` if the file cannot be read or is too large, or a line is no receipt.
    pub fn read(path: &Path) -> Result<Arrived> {
        let context = || format!("receipts in {}", path.display());
        let file = std::fs::File::open(path).or_error(Kind::Config, context())?;
        let bytes = file.metadata().or_error(Kind::Config, context())?.len();
        if bytes > ARRIVED_BYTES_MAX {
            return Err(Error::config(format!(
                "{bytes} bytes; at most {ARRIVED_BYTES_MAX} are read: copy the tables in several runs with --partitions"
            )))
            .with_context(context);
        }
        let mut arrived = HashMap::new();
        for (at, line) in BufReader::new(file.take(ARRIVED_BYTES_MAX))
            .lines()
            .enumerate()
        {
            let line = line.or_error(Kind::Config, context())?;
            let receipt: Receipt = serde_json::from_str(&line)
                .or_error(Kind::Config, format!("line {} is no receipt", at + 1))
                .with_context(context)?;
            arrived.insert(
                receipt.key.to_string(),
                (receipt.version.0, receipt.origin.table),
            );
        }
        Ok(Arrived(arrived))
    }

    /// Whether this version of a partition is there.
    pub fn has(&self, partition: &Partition) -> bool {
        let found = self.0.get(&partition.key.to_string());
        found.is_some_and(|(version, table)| {
            *version == partition.version.0 && *table == partition.origin.table
        })
    }
}

#[cfg(test)]
mod tests {
    use strait_common::engine::{Origin, Version};

    use super::*;

    #[test]
    fn stars_are_any_text_and_all_else_is_itself() {
        for (pattern, text, expected) in [
            ("day=2026-11-*", "day=2026-11-28", true),
            ("day=2026-11-*", "day=2026-12-01", false),
            ("*", "", true),
            ("*", "day=1/symbol=A", true),
            ("", "", true),
            ("", "day=1", false),
            ("day=1", "day=1", true),
            ("day=1", "day=11", false),
            ("*=1", "day=1", true),
            ("*symbol=A*", "day=1/symbol=AB", true),
            ("day=*/symbol=A", "day=1/symbol=AA", false),
            ("day=*/symbol=*A", "day=1/symbol=AA", true),
            ("a*a", "a", false),
            ("a**b", "axb", true),
            ("day=?", "day=1", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn what_has_arrived_is_of_the_same_version_of_the_same_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receipts.jsonl");
        let line = r#"{"key":"","version":"v1","rows":3,"digest":"00000000000000000000000000000007","digest_id":"x","level":"received","selection":"select a","origin":{"table":"t","seen":5}}"#;
        std::fs::write(&path, format!("{line}\n")).unwrap();
        let arrived = Arrived::read(&path).unwrap();
        let partition = |version: &str, table: &str| Partition {
            key: PartitionKey::default(),
            rows: None,
            bytes: None,
            version: Version(version.to_owned()),
            pin: String::new(),
            origin: Origin {
                table: table.to_owned(),
                seen: 9,
            },
        };
        assert!(arrived.has(&partition("v1", "t")));
        assert!(!arrived.has(&partition("v2", "t")));
        assert!(!arrived.has(&partition("v1", "u")));
        std::fs::write(&path, format!("{line}\n{{}}\n")).unwrap();
        let error = Arrived::read(&path).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
