//! What a mirror does with one partition, decided from what both sides say without reading rows, and from their digests where that does not tell.
//!
//! Nothing is dropped or left alone by the word of one side's statistics: a partition counts as equal by a receipt that both sides still match or by
//! digests, and as emptied only when it was read.

use strait_common::digest::DigestId;
use strait_common::engine::{Confirmed, Level, Origin, Partition, Receipt, Version};
use strait_common::key::PartitionKey;
use strait_common::{Error, Kind, Result};

use super::Run;
use crate::job::{Check, Mode};
use crate::link::Held;
use crate::overlap::{Overlap, Overlaps};
use crate::runs::{Extra, PartitionRow, PartitionState, Totals};
use strait_common::fingerprint::Fingerprint;

/// What is to be done with a partition of the plan that B's ledger or B itself knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing: B has it, by this receipt.
    Equal(Receipt),
    /// It differs, or B has no rows of it.
    Copy,
    /// Digests must tell. What is known already need not be read.
    Read(Known),
    /// B's rows are of a later look at the same table: they must not go back. Why, in words.
    Newer(String),
}

/// Rows and digests that are known without reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// A's.
    pub ours: Option<Fingerprint>,
    /// B's.
    pub theirs: Option<Fingerprint>,
}

/// What digests say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// Both sides hold these rows.
    Equal(Fingerprint),
    /// They differ.
    Differs,
    /// A has no row of it any more, and B has.
    Emptied,
}

/// Looks at a partition of the plan beside what B says of it.
pub fn look(check: Check, overlaps: &mut Overlaps, planned: &Partition, held: &Held) -> Look {
    if let Some(receipt) = held
        .receipt
        .as_ref()
        .filter(|receipt| is_newer(receipt, planned))
    {
        return Look::Newer(newer(receipt, planned));
    }
    let receipt = held.receipt.as_ref().filter(|receipt| {
        check == Check::Versions
            && held.receipts == 1
            && (receipt.digest_id == *overlaps.digest_id() || receipt.digest_id.is_of_files())
            && overlaps.with(receipt, &planned.key) == Overlap::Same
    });
    // Files that travelled as they were have a digest of bytes: it says nothing of what the other side's rows are, if those are not the same files any more.
    let of_rows = |receipt: &&Receipt| receipt.digest_id == *overlaps.digest_id();
    let fingerprint = |receipt: &Receipt| (receipt.rows, receipt.digest);
    let unchanged = receipt.filter(|receipt| receipt.is_of(planned));
    let intact = receipt.filter(|_| held.intact);
    if let (Some(receipt), Some(_)) = (unchanged, intact) {
        return Look::Equal(receipt.clone());
    }
    if held.version.is_none() {
        return Look::Copy;
    }
    let known = Known {
        ours: unchanged.filter(of_rows).map(fingerprint),
        theirs: intact.filter(of_rows).map(fingerprint),
    };
    let rows = |known: Option<&Receipt>, told| known.map(|receipt| receipt.rows).or(told);
    match (rows(unchanged, planned.rows), rows(intact, held.rows)) {
        // That A has no row is not believed unread: it would drop the partition.
        (Some(ours), Some(theirs)) if ours != theirs && ours > 0 => Look::Copy,
        _ => Look::Read(known),
    }
}

/// Whether B has rows of a later look at the same table than the planned ones are of.
fn is_newer(receipt: &Receipt, planned: &Partition) -> bool {
    let (theirs, ours) = (&receipt.origin, &planned.origin);
    !ours.table.is_empty()
        && theirs.table == ours.table
        && theirs.seen > ours.seen
        && receipt.version != planned.version
}

fn newer(receipt: &Receipt, planned: &Partition) -> String {
    let at = |origin: &Origin| {
        chrono::DateTime::from_timestamp_nanos(origin.seen).format("%Y-%m-%d %H:%M:%S UTC")
    };
    format!(
        "the sink has it as the source's table was at {}, and this is how it was at {}; it would go back. `--mode replace` does that all the same",
        at(&receipt.origin),
        at(&planned.origin)
    )
}

/// Compares what was read. B's rows may be unreadable, which no row of A's is equal to.
pub(super) fn compared(ours: Fingerprint, theirs: Option<Fingerprint>) -> Compared {
    match theirs {
        Some(theirs) if theirs == ours => Compared::Equal(ours),
        _ if ours.0 == 0 => Compared::Emptied,
        _ => Compared::Differs,
    }
}

/// A partition of which digests must be read.
#[derive(Clone, Debug)]
pub struct Unread {
    /// It, in the plan.
    pub row: PartitionRow,
    /// What need not be read.
    pub known: Known,
    /// B's version, where B is not read.
    pub version: Option<Version>,
}

/// Why partitions that only B has stay there.
fn too_many(drops: u64, allow_drop: u64, planned: u64) -> Error {
    if planned == 0 {
        return Error::refused(
            "the source has no such partition; it has none that is selected, so nothing is dropped: look whether --from and --where are right",
        );
    }
    let allowed = if allow_drop == 0 {
        "none may be dropped".to_owned()
    } else {
        format!(
            "--allow-drop {allow_drop} allows fewer than the {drops} that would go, so none does"
        )
    };
    Error::refused(format!(
        "the source has no such partition, or no row of it, any more; {allowed}. `--mode mirror --allow-drop {drops}` drops it"
    ))
}

impl Run {
    /// What B has under a key, told in order of key after the positions. Answers with what must be read to decide.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read or written; `Internal` if the run is no mirror.
    pub fn held(&mut self, held: &Held) -> Result<Option<Unread>> {
        let Mode::Mirror { check, .. } = self.job.mode else {
            return Err(Error::internal("only a mirror compares"));
        };
        let row = self
            .store
            .partition_by_key(self.id, &held.key.to_string())?;
        let overlaps = self.overlaps.as_mut();
        let overlaps = overlaps.ok_or_else(|| Error::internal("a comparison before an attach"))?;
        let Some(row) = row else {
            if self.job.spec.is_of_all()
                && self.job.spec.partitions.fit(&held.key)
                && let Some(extra) = extra(overlaps, held)
            {
                self.extra(extra)?;
            }
            return Ok(None);
        };
        if row.state != PartitionState::Pending {
            return Ok(None);
        }
        match look(check, overlaps, &row.partition, held) {
            Look::Equal(receipt) => {
                // What this run had staged of it is of no use any more; the end of the claim removes it.
                self.resume_from.remove(&row.seq);
                self.settle(&row, PartitionState::Already, row.spent, Ok(Some(receipt)))?;
                Ok(None)
            }
            Look::Newer(why) => {
                self.settle(
                    &row,
                    PartitionState::Failed,
                    row.spent,
                    Err(Error::refused(why)),
                )?;
                Ok(None)
            }
            Look::Copy => {
                if held.version.is_some() {
                    self.present.insert(row.seq);
                }
                Ok(None)
            }
            Look::Read(known) => Ok(Some(Unread {
                version: held.version.clone(),
                row,
                known,
            })),
        }
    }

    /// What reading has told of a partition; B's rows are missing where they cannot be read. Answers with what B's ledger should know.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written.
    pub fn compared(
        &mut self,
        unread: &Unread,
        ours: Fingerprint,
        theirs: Option<Fingerprint>,
        version: Option<Version>,
    ) -> Result<Option<Confirmed>> {
        let row = &unread.row;
        match compared(ours, theirs) {
            Compared::Equal((rows, digest)) => {
                let receipt = Receipt {
                    key: row.partition.key.clone(),
                    version: row.partition.version.clone(),
                    rows,
                    digest,
                    digest_id: DigestId(self.job.digest_id.clone()),
                    level: Level::Stored,
                    selection: self.job.resolved.clone(),
                    origin: row.partition.origin.clone(),
                };
                self.resume_from.remove(&row.seq);
                self.progress += 1;
                let end = Ok(Some(receipt.clone()));
                self.settle(row, PartitionState::Already, row.spent, end)?;
                Ok(version.map(|version| Confirmed { receipt, version }))
            }
            Compared::Differs => {
                self.present.insert(row.seq);
                Ok(None)
            }
            Compared::Emptied => {
                self.settle(row, PartitionState::Dropping, row.spent, Ok(None))?;
                Ok(None)
            }
        }
    }

    /// A's rows of a partition cannot be read. One that has moved is met again by its copy, which plans it anew.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be written.
    pub fn unreadable(&mut self, unread: &Unread, error: Error) -> Result<()> {
        let row = &unread.row;
        if error.kind() == Kind::Moved {
            self.present.insert(row.seq);
            return Ok(());
        }
        self.settle(row, PartitionState::Failed, row.spent, Err(error))
    }

    /// Whether partitions wait to be removed at B and nothing else does. Where something else has failed, none is removed.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read or written.
    pub fn drops_are_due(&mut self) -> Result<bool> {
        if !matches!(self.job.mode, Mode::Mirror { .. }) {
            return Ok(false);
        }
        self.flush()?;
        self.totals = self.store.totals(self.id)?;
        let Totals {
            partitions,
            failed,
            dropping,
            ..
        } = self.totals;
        if dropping == 0 || self.totals.settled() + dropping < partitions {
            return Ok(false);
        }
        if failed > 0 {
            let error = Error::refused(format!(
                "the source has no such partition, or no row of it, any more; it was not dropped, since {failed} other partitions have failed"
            ));
            self.store.fail_drops(self.id, &error)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// A partition that A has as of now: the plan may be old, and what it does not know, or knows otherwise, is not gone.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read or written.
    pub fn has(&mut self, partition: &Partition) -> Result<()> {
        let key = partition.key.to_string();
        let row = self.store.partition_by_key(self.id, &key)?;
        let gone = |row: &PartitionRow| row.state == PartitionState::Dropping;
        match row.filter(gone) {
            Some(row) if row.partition.version != partition.version => {
                let error = Error::refused(
                    "the source has this partition, and had it not when this run was planned; it stays at the sink. Leave this run and begin a new run",
                );
                self.settle(&row, PartitionState::Failed, row.spent, Err(error))
            }
            _ => Ok(()),
        }
    }

    /// Every partition that A has as of now was told, so many: whether what only B has may go.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read or written.
    pub fn all_told(&mut self, listed: u64) -> Result<()> {
        let Mode::Mirror { allow_drop, .. } = self.job.mode else {
            return Err(Error::internal("only a mirror drops"));
        };
        if self.drops_are_due()? {
            let drops = self.totals.dropping + self.totals.dropped;
            let planned = self.planned.min(listed);
            if drops > allow_drop || planned == 0 {
                let error = too_many(drops, allow_drop, planned);
                tracing::warn!(run = %self.id.short(), partitions = drops, %error, "partitions of the sink stay");
                self.store.fail_drops(self.id, &error)?;
            }
        }
        Ok(())
    }

    /// The next partition to remove at B.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read or written.
    pub fn next_drop(&mut self) -> Result<Option<PartitionRow>> {
        self.flush()?;
        let dropping = Some(PartitionState::Dropping);
        Ok(self.store.partitions(self.id, dropping, 0, 1)?.pop())
    }

    /// What became of a partition that was to be removed.
    ///
    /// # Errors
    /// That of the drop, unless it is this partition's alone; `Unavailable` if the store cannot be written.
    pub fn dropped(&mut self, row: &PartitionRow, result: Result<()>) -> Result<()> {
        match result {
            Ok(()) => {
                self.progress += 1;
                self.settle(row, PartitionState::Dropped, row.spent, Ok(None))
            }
            Err(error) if matches!(error.kind(), Kind::Refused | Kind::Schema) => {
                self.settle(row, PartitionState::Failed, row.spent, Err(error))
            }
            Err(error) => Err(error),
        }
    }

    /// The ledger says that this run has removed a partition.
    pub(super) fn was_dropped(
        &mut self,
        key: &PartitionKey,
        row: Option<PartitionRow>,
    ) -> Result<()> {
        if !matches!(self.job.mode, Mode::Mirror { .. }) {
            return Err(Error::corrupt(format!(
                "partition {}: the sink's ledger says that this run has dropped it, which it never asked for",
                key.label()
            )));
        }
        match row {
            Some(row) => self.settle(&row, PartitionState::Dropped, row.spent, Ok(None)),
            None => self.extra(Extra {
                key: key.clone(),
                state: PartitionState::Dropped,
                error: None,
            }),
        }
    }

    fn extra(&mut self, extra: Extra) -> Result<()> {
        self.extras.push(extra);
        if self.extras.len() >= super::CHANGES_MAX {
            self.flush()?;
        }
        Ok(())
    }
}

/// What a partition that only B has leads to.
fn extra(overlaps: &Overlaps, held: &Held) -> Option<Extra> {
    let key = &held.key;
    if held.version.is_none() || held.rows == Some(0) || overlaps.excludes(key) {
        return None;
    }
    let error = (!overlaps.covers(key)).then(|| {
        let why = "only the sink has this partition, and only a part of it is selected; it stays";
        (Kind::Refused, why.to_owned())
    });
    let state = match error {
        None => PartitionState::Dropping,
        Some(_) => PartitionState::Failed,
    };
    Some(Extra {
        key: key.clone(),
        state,
        error,
    })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;
    use strait_common::digest::Digest;
    use strait_common::engine::Table;
    use strait_common::selection::Selection;

    use super::*;

    fn some() -> Digest {
        Digest::from_bytes(&[7; 16]).unwrap()
    }

    fn overlaps() -> Overlaps {
        let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, false)]));
        let id = DigestId::of(&schema).unwrap();
        let table = Table {
            name: "db/t".parse().unwrap(),
            schema,
            divisions: Vec::new(),
            recipe: None,
        };
        Overlaps::new(Selection::everything(&table.schema), &table, id)
    }

    fn planned(version: &str, rows: Option<u64>) -> Partition {
        Partition {
            key: PartitionKey::default(),
            rows,
            bytes: None,
            version: Version(version.to_owned()),
            pin: String::new(),
            origin: Origin::default(),
        }
    }

    /// What B holds, copied from version `a1`.
    fn held(intact: bool, rows: Option<u64>) -> Held {
        let overlaps = overlaps();
        Held {
            key: PartitionKey::default(),
            version: Some(Version("b1".to_owned())),
            rows,
            receipt: Some(Receipt {
                key: PartitionKey::default(),
                version: Version("a1".to_owned()),
                rows: 10,
                digest: some(),
                digest_id: overlaps.digest_id().clone(),
                level: Level::Received,
                selection: "select x".to_owned(),
                origin: Origin::default(),
            }),
            receipts: 1,
            intact,
        }
    }

    #[test]
    fn only_what_nothing_tells_is_read() {
        let known = Some((10, some()));
        let read = |ours, theirs| Look::Read(Known { ours, theirs });
        let receipt = held(true, None).receipt.unwrap();
        let looks = [
            // Both as the receipt left them.
            ("a1", Some(10), held(true, Some(10)), Look::Equal(receipt)),
            // One side is not: it alone is read, unless the counts of rows differ.
            ("a2", Some(10), held(true, Some(10)), read(None, known)),
            ("a2", None, held(true, Some(10)), read(None, known)),
            ("a2", Some(11), held(true, Some(10)), Look::Copy),
            ("a1", Some(10), held(false, Some(10)), read(known, None)),
            ("a1", Some(10), held(false, Some(12)), Look::Copy),
            // Neither is.
            ("a2", Some(11), held(false, Some(11)), read(None, None)),
            ("a2", Some(11), held(false, None), read(None, None)),
            // That nothing is left at A must be read.
            ("a2", Some(0), held(true, Some(10)), read(None, known)),
            ("a2", Some(0), held(false, Some(10)), read(None, None)),
        ];
        for (version, rows, held, look) in looks {
            let planned = planned(version, rows);
            let found = super::look(Check::Versions, &mut overlaps(), &planned, &held);
            assert_eq!(found, look, "{planned:?} {held:?}");
        }
    }

    #[test]
    fn a_receipt_of_files_tells_that_nothing_has_changed_and_how_many_rows_there_were() {
        let of_files = |intact, rows| {
            let mut held = held(intact, rows);
            held.receipt.as_mut().unwrap().digest_id = DigestId::of_files();
            held
        };
        let receipt = of_files(true, None).receipt.unwrap();
        let read = || Look::Read(Known::default());
        for (version, rows, held, look) in [
            (
                "a1",
                Some(10),
                of_files(true, Some(10)),
                Look::Equal(receipt),
            ),
            // What has changed at one side is read at both: bytes are not compared with rows.
            ("a2", Some(10), of_files(true, Some(10)), read()),
            ("a1", Some(10), of_files(false, Some(10)), read()),
            ("a2", Some(11), of_files(true, None), Look::Copy),
            ("a1", None, of_files(false, Some(12)), Look::Copy),
            ("a2", Some(0), of_files(true, Some(10)), read()),
        ] {
            let planned = planned(version, rows);
            let found = super::look(Check::Versions, &mut overlaps(), &planned, &held);
            assert_eq!(found, look, "{planned:?} {held:?}");
        }
        let (held, planned) = (of_files(true, Some(10)), planned("a1", Some(10)));
        let found = super::look(Check::Digests, &mut overlaps(), &planned, &held);
        assert_eq!(found, read());
    }

    #[test]
    fn a_receipt_that_is_not_of_all_rows_tells_nothing() {
        let spoilt: [fn(&mut Held); 4] = [
            |held| held.receipts = 2,
            |held| held.receipt = None,
            |held| {
                if let Some(receipt) = &mut held.receipt {
                    receipt.digest_id = DigestId("another".to_owned());
                }
            },
            |held| {
                if let Some(receipt) = &mut held.receipt {
                    receipt.selection = "select x where x < 5".to_owned();
                }
            },
        ];
        for spoil in spoilt {
            let mut held = held(true, Some(10));
            spoil(&mut held);
            let planned = planned("a1", Some(10));
            let found = look(Check::Versions, &mut overlaps(), &planned, &held);
            assert_eq!(found, Look::Read(Known::default()), "{held:?}");
        }
        let (held, planned) = (held(true, Some(10)), planned("a1", Some(10)));
        let found = look(Check::Digests, &mut overlaps(), &planned, &held);
        assert_eq!(found, Look::Read(Known::default()));
    }

    fn origin(table: &str, seen: i64) -> Origin {
        Origin {
            table: table.to_owned(),
            seen,
        }
    }

    #[test]
    fn a_version_of_another_table_tells_nothing_of_this_one() {
        let (mut held, mut planned) = (held(true, Some(10)), planned("a1", Some(10)));
        planned.origin = origin("t", 5);
        for other in [origin("", 5), origin("u", 5), origin("u", 6)] {
            held.receipt.as_mut().unwrap().origin = other;
            let found = look(Check::Versions, &mut overlaps(), &planned, &held);
            // What B has is known by its own ledger, whatever it was copied from.
            let known = Known {
                ours: None,
                theirs: Some((10, some())),
            };
            assert_eq!(found, Look::Read(known), "{held:?}");
        }
        held.receipt.as_mut().unwrap().origin = origin("t", 4);
        let found = look(Check::Versions, &mut overlaps(), &planned, &held);
        assert!(matches!(found, Look::Equal(_)), "{found:?}");
    }

    #[test]
    fn rows_of_a_later_look_do_not_go_back_unasked() {
        let (mut held, mut planned) = (held(true, Some(11)), planned("a0", Some(10)));
        planned.origin = origin("t", 5);
        for (theirs, refused) in [
            (origin("t", 6), true),
            (origin("t", 5), false),
            (origin("t", 4), false),
            (origin("u", 6), false),
        ] {
            held.receipt.as_mut().unwrap().origin = theirs;
            for check in [Check::Versions, Check::Digests] {
                let found = look(check, &mut overlaps(), &planned, &held);
                assert_eq!(matches!(found, Look::Newer(_)), refused, "{held:?}");
            }
        }
        // The same version is as good as it was when it was looked at last.
        held.receipt.as_mut().unwrap().origin = origin("t", 6);
        planned.version = Version("a1".to_owned());
        let found = look(Check::Versions, &mut overlaps(), &planned, &held);
        assert!(matches!(found, Look::Equal(_)), "{found:?}");
    }

    #[test]
    fn what_b_cannot_read_is_not_equal_and_what_a_has_not_is_not_copied() {
        let none = (0, Digest::default());
        assert_eq!(
            compared((3, some()), Some((3, some()))),
            Compared::Equal((3, some()))
        );
        assert_eq!(
            compared((3, some()), Some((3, Digest::default()))),
            Compared::Differs
        );
        assert_eq!(compared((3, some()), None), Compared::Differs);
        assert_eq!(compared(none, Some((3, some()))), Compared::Emptied);
        assert_eq!(compared(none, None), Compared::Emptied);
        assert_eq!(compared(none, Some(none)), Compared::Equal(none));
    }
}
