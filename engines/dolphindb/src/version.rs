//! What a partition holds, as the metadata of the nodes that hold it tell: its chunk, the chunk's version and its rows.
//!
//! The controller tells which transaction has written a chunk last, too, which is a better word: versions are counters that a node may use again, and that repairs set by hand.
//! It is not asked: it tells that of all chunks of the cluster at once, it may lag behind the nodes, and a version that has it on one day and lacks it on the next is another one.

use strait_common::engine::Version;
use strait_common::ids::RunId;

/// How a version begins that says nothing of what its partition holds.
const UNKNOWN: &str = "unknown.";

/// Of this chunk, version and rows.
pub(crate) fn of(chunk: &str, version: i64, rows: u64) -> Version {
    Version(format!("{chunk}.{version}.{rows}"))
}

/// One that no other is equal to.
pub(crate) fn unknown() -> Version {
    Version(format!("{UNKNOWN}{}", RunId::random()))
}

/// Whether it says nothing of what its partition holds.
pub(crate) fn is_unknown(version: &Version) -> bool {
    version.0.starts_with(UNKNOWN)
}
