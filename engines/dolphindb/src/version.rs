//! What a partition holds, as the cluster's metadata tell it: the chunk's id, its version and rows, and where the controller tells it the *commit id* of its last transaction.
//!
//! The version is a counter that a node may use again, and that repairs set by hand; commit ids only grow. They are asked for all partitions at once, which is a list of all chunks of the
//! cluster: where one partition is looked at, the rest must do, since no counter comes around while it is read.

use strait_common::engine::Version;
use strait_common::ids::RunId;

/// How a version begins that says nothing of what its partition holds.
const UNKNOWN: &str = "unknown.";

/// Of this chunk, version and rows.
pub(crate) fn of(chunk: &str, version: i64, rows: u64) -> Version {
    Version(format!("{chunk}.{version}.{rows}"))
}

/// The same with the commit id.
pub(crate) fn with_commit(version: &Version, commit: &str) -> Version {
    Version(format!("{version}.{commit}"))
}

/// One that no other is equal to.
pub(crate) fn unknown() -> Version {
    Version(format!("{UNKNOWN}{}", RunId::random()))
}

/// Whether it says nothing of what its partition holds.
pub(crate) fn is_unknown(version: &Version) -> bool {
    version.0.starts_with(UNKNOWN)
}

/// Whether both are of the same rows, as far as both tell.
pub(crate) fn agree(a: &Version, b: &Version) -> bool {
    if is_unknown(a) || is_unknown(b) {
        return a == b;
    }
    let parts = |version: &Version| {
        let mut parts = version.0.splitn(4, '.').map(str::to_owned);
        let told = [parts.next(), parts.next(), parts.next()];
        (told, parts.next())
    };
    let ((a, a_commit), (b, b_commit)) = (parts(a), parts(b));
    a == b && (a_commit.is_none() || b_commit.is_none() || a_commit == b_commit)
}

/// The commit id at the head of a chain of versions: `2053:0:2 -> 2051:0:1 -> `, each a commit id, a size, a version and perhaps more.
pub(crate) fn head_of(chain: &str) -> Option<&str> {
    let (head, _) = chain.trim_start().split_once(':')?;
    let digits = !head.is_empty() && head.bytes().all(|byte| byte.is_ascii_digit());
    digits.then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_as_far_as_both_tell() {
        let chunk = "092d5e12-e595-6f00-0000-000000000001";
        let first = of(chunk, 2, 10);
        let known = |commit| with_commit(&first, commit);
        assert_eq!(known("2053").0, format!("{chunk}.2.10.2053"));
        assert!(agree(&first, &first) && agree(&known("2053"), &first));
        assert!(agree(&first, &known("2053")) && agree(&known("2053"), &known("2053")));
        assert!(!agree(&known("2053"), &known("2054")));
        for other in [of(chunk, 3, 10), of(chunk, 2, 11), of("other", 2, 10)] {
            assert!(!agree(&first, &other), "{other}");
        }
        let nothing = unknown();
        assert!(is_unknown(&nothing) && !is_unknown(&first));
        assert!(agree(&nothing, &nothing) && !agree(&nothing, &unknown()));
        assert!(!agree(&nothing, &first));
    }

    #[test]
    fn a_chain_begins_with_its_newest_commit() {
        for (chain, head) in [
            ("2053:0:2 -> 2051:0:1 -> ", Some("2053")),
            ("18441:76:1:346 -> 18441:0:0:346 -> ", Some("18441")),
            ("", None),
            ("-> ", None),
            (":0:1", None),
            ("x:0:1", None),
        ] {
            assert_eq!(head_of(chain), head, "{chain}");
        }
    }
}
