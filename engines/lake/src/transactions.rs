//! Which transactions a table's log holds, all of them in one pass.
//!
//! The Delta crate answers for one application id at a time, with a replay of the log for each; a ledger has one per ledger file. What is found here is
//! in the log for certain, and what is not found is looked up with the crate: so whatever this pass does not understand costs time only.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Deserialize;
use strait_common::{Error, Kind, OrError, Result};

use crate::ledger::list;

/// The application ids of the transactions that these log files hold up to a version: the newest table checkpoint, and the entries since.
///
/// # Errors
/// `Unavailable` if the log cannot be listed.
pub fn application_ids(log: &Path, version: u64) -> Result<HashSet<String>> {
    let mut entries = Vec::new();
    let mut checkpoints = Vec::new();
    for path in list(log)? {
        match Name::of(&path) {
            Some(Name::Entry(of)) if of <= version => entries.push((of, path)),
            Some(Name::Checkpoint(of)) if of <= version => checkpoints.push((of, path)),
            _ => {}
        }
    }
    let newest = checkpoints.iter().map(|(of, _)| *of).max();
    let checkpoints = checkpoints
        .into_iter()
        .filter(|(of, _)| Some(*of) == newest);
    let entries = entries
        .into_iter()
        .filter(|(of, _)| newest.is_none_or(|newest| *of > newest));
    let mut ids = HashSet::new();
    for (_, path) in checkpoints.chain(entries) {
        let read = if path.extension().is_some_and(|end| end == "parquet") {
            read_parquet(&path, &mut ids)
        } else {
            read_json(&path, &mut ids)
        };
        if let Err(error) = read {
            tracing::debug!(%error, file = %path.display(), "transactions are looked up one by one");
        }
    }
    Ok(ids)
}

/// What a file of the log is.
enum Name {
    /// One commit.
    Entry(u64),
    /// A table checkpoint, or a part of one.
    Checkpoint(u64),
}

impl Name {
    fn of(path: &Path) -> Option<Name> {
        let name = path.file_name()?.to_str()?;
        let (version, rest) = name.split_at_checked(20)?;
        let version = version.parse().ok()?;
        if rest == ".json" {
            Some(Name::Entry(version))
        } else if rest.starts_with(".checkpoint.")
            && (rest.ends_with(".parquet") || rest.ends_with(".json"))
        {
            Some(Name::Checkpoint(version))
        } else {
            None
        }
    }
}

/// An action that is a transaction; the other actions have no such field.
#[derive(Deserialize)]
struct Action {
    txn: Option<Transaction>,
}

#[derive(Deserialize)]
struct Transaction {
    #[serde(rename = "appId")]
    app_id: String,
}

fn read_json(path: &PathBuf, ids: &mut HashSet<String>) -> Result<()> {
    let text = fs::read_to_string(path).or_error(Kind::Unavailable, path.display())?;
    for line in text.lines().filter(|line| line.contains("\"txn\"")) {
        let action: Action = serde_json::from_str(line).or_error(Kind::Corrupt, path.display())?;
        ids.extend(action.txn.map(|txn| txn.app_id));
    }
    Ok(())
}

fn read_parquet(path: &PathBuf, ids: &mut HashSet<String>) -> Result<()> {
    let context = || path.display();
    let file = File::open(path).or_error(Kind::Unavailable, context())?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).or_error(Kind::Corrupt, context())?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["txn.appId"]);
    let reader = builder
        .with_projection(mask)
        .build()
        .or_error(Kind::Corrupt, context())?;
    for batch in reader {
        let batch = batch.or_error(Kind::Corrupt, context())?;
        let column = batch
            .column_by_name("txn")
            .and_then(|txn| txn.as_struct_opt())
            .and_then(|txn| txn.column_by_name("appId"))
            .and_then(|app_id| app_id.as_string_opt::<i32>());
        let column = column.ok_or_else(|| Error::corrupt(format!("{} has no txn", context())))?;
        ids.extend(column.iter().flatten().map(str::to_owned));
    }
    Ok(())
}
