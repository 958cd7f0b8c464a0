//! Removes what no reader of a table needs any more.
//!
//! That are data files which the table no longer has: those whose tombstone is old enough, and those that a run of ours has published (the ledger names them) and whose
//! tombstone the log has forgotten; and rows that a run without a claim has staged. A file that the log and the ledger say nothing of is somebody else's, and is left.
//! What an open claim has staged, or has moved to its place and not committed, is never looked at: neither is among them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Component, Path};
use std::time::{Duration, UNIX_EPOCH};

use futures::TryStreamExt;
use strait_common::cpu::CpuPool;
use strait_common::engine::{Removable, Vacuumed};
use strait_common::ids::{RunId, TableName};
use strait_common::{Error, Kind, OrError, Result};

use crate::ledger::{DIRECTORY, Event, Ledger, list};
use crate::listing::Listing;
use crate::load_error::load_error;
use crate::table::{Lake, Opened};

/// How long a table keeps tombstones where it does not say.
const TOMBSTONES_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a call may have taken on its way here: `before` was reckoned when it set out.
const CALL_MS_MAX: i64 = 60_000;

/// Removes what was not needed any more at `before` (milliseconds since 1970), or only says what that is.
///
/// # Errors
/// `Config` if there is no such table; `Unavailable` if the disk fails.
pub async fn vacuum(
    lake: &Lake,
    cpu: &CpuPool,
    table: &TableName,
    before_ms: i64,
    dry_run: bool,
) -> Result<Vacuumed> {
    let opened = lake.open(table, None).await?;
    let ledger = Ledger::load(&opened).await?;
    let listing = Listing::load(&opened, table).await?;
    // Tombstones last: a file that is removed meanwhile must not be in neither.
    let tombstones = tombstones(lake, table).await?;
    let forgotten_before_ms = forgotten_before(&opened, before_ms);
    let disk = lake.disk().clone();
    let work = move || {
        let directory = &listing.directory;
        let mut found = data_files(
            &listing,
            &ledger,
            &tombstones,
            before_ms,
            forgotten_before_ms,
        )?;
        found.extend(staged_files(directory, &ledger, before_ms)?);
        let mut vacuumed = Vacuumed::default();
        for removable in found {
            if !dry_run {
                disk.remove(&directory.join(&removable.path))?;
            }
            vacuumed.add(removable);
        }
        Ok(vacuumed)
    };
    cpu.run(work).await
}

/// The paths of the removed files that the log still knows of, and when each was removed, in milliseconds since 1970.
async fn tombstones(lake: &Lake, table: &TableName) -> Result<BTreeMap<String, i64>> {
    let error = |error| load_error(table, None, error);
    let loaded = lake.builder(table)?.load().await;
    let loaded = loaded.map_err(error)?;
    let log = loaded.log_store();
    let state = loaded.snapshot().map_err(error)?;
    let mut found = BTreeMap::new();
    let mut removed = state.all_tombstones(log.as_ref());
    while let Some(tombstone) = removed.try_next().await.map_err(error)? {
        // One without a time is as old as the log.
        let at = tombstone.deletion_timestamp().unwrap_or(0);
        let newest = found.entry(tombstone.path().into_owned()).or_insert(at);
        *newest = at.max(*newest);
    }
    Ok(found)
}

/// What is removed without a tombstone was removed before this, in milliseconds since 1970: the log forgets tombstones after a time. Nothing is known to
/// be old enough where it forgets them sooner than readers may still need the files.
fn forgotten_before(opened: &Opened, before_ms: i64) -> Option<i64> {
    let kept = opened
        .snapshot()
        .table_properties()
        .deleted_file_retention_duration
        .unwrap_or(TOMBSTONES_KEPT);
    let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
    let forgotten = now_ms.saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
    (forgotten <= before_ms + CALL_MS_MAX).then_some(before_ms)
}

/// Data files that the table no longer has, and that nobody who reads an older version of it can still need.
fn data_files(
    listing: &Listing,
    ledger: &Ledger,
    tombstones: &BTreeMap<String, i64>,
    before_ms: i64,
    forgotten_before_ms: Option<i64>,
) -> Result<Vec<Removable>> {
    let mut there = HashSet::new();
    for at in 0..listing.len() {
        let (_, files) = listing.files(&listing.key(at)?)?;
        there.extend(files.into_iter().map(|file| file.path));
    }
    let mut candidates: BTreeSet<&str> = BTreeSet::new();
    for (path, removed_ms) in tombstones {
        if *removed_ms < before_ms {
            candidates.insert(path);
        }
    }
    if let Some(before_ms) = forgotten_before_ms {
        for entry in &ledger.entries {
            let Event::Publish(partitions) = &entry.event else {
                continue;
            };
            let files = partitions.iter().flat_map(|published| &published.files);
            for file in files.filter(|file| !tombstones.contains_key(&file.path)) {
                // Written before, at least; the newest removal that the log has forgotten is older than all it remembers.
                if modified_ms(&listing.directory.join(&file.path))?
                    .is_some_and(|(at, _)| at < before_ms)
                {
                    candidates.insert(&file.path);
                }
            }
        }
    }
    let mut found = Vec::new();
    for path in candidates {
        if there.contains(path) || !is_below(path) {
            continue;
        }
        if let Some((_, bytes)) = modified_ms(&listing.directory.join(path))? {
            found.push(Removable {
                path: path.to_owned(),
                bytes,
                staged: false,
            });
        }
    }
    Ok(found)
}

/// Whether a path leads to a data file of the table: neither out of its directory nor into one that readers pass over.
fn is_below(path: &str) -> bool {
    Path::new(path).components().all(|part| match part {
        Component::Normal(name) => name.to_str().is_some_and(|name| {
            !name.starts_with('.') && !name.starts_with('_') || name.contains('=')
        }),
        _ => false,
    })
}

/// What runs have staged that own no claim any more.
fn staged_files(directory: &Path, ledger: &Ledger, before_ms: i64) -> Result<Vec<Removable>> {
    let owner = ledger.open_claim().map(|claim| claim.run);
    let ours = directory.join(DIRECTORY);
    let mut found = Vec::new();
    for run in list(&ours)? {
        let id = run.file_name().and_then(|name| name.to_str());
        let Some(id) = id.and_then(|name| name.parse::<RunId>().ok()) else {
            continue;
        };
        if owner == Some(id) {
            continue;
        }
        for path in list(&run.join("stage"))? {
            if let Some((at, bytes)) = modified_ms(&path)?
                && at < before_ms
            {
                found.push(Removable {
                    path: relative(directory, &path)?,
                    bytes,
                    staged: true,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn relative(directory: &Path, path: &Path) -> Result<String> {
    let below = path.strip_prefix(directory).ok().and_then(Path::to_str);
    below
        .map(str::to_owned)
        .ok_or_else(|| Error::internal(format!("{} is not below its table", path.display())))
}

/// When a file was last written, in milliseconds since 1970, and its size; `None` if it is not there, or no file.
fn modified_ms(path: &Path) -> Result<Option<(i64, u64)>> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        metadata => metadata.or_error(Kind::Unavailable, path.display())?,
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    let at = metadata
        .modified()
        .or_error(Kind::Unavailable, path.display())?;
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Some((
        i64::try_from(at.as_millis()).unwrap_or(i64::MAX),
        metadata.len(),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_data_files_below_the_table_are_ever_removed() {
        for path in ["a.parquet", "day=1/b.parquet", "_day=1/c.parquet"] {
            assert!(is_below(path), "{path}");
        }
        for path in [
            "/etc/passwd",
            "../other/a.parquet",
            "_strait/x/stage/a.parquet",
            "_delta_log/00000000000000000000.json",
            "day=1/.hidden",
        ] {
            assert!(!is_below(path), "{path}");
        }
    }
}
