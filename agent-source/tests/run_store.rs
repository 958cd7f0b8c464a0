//! The store of runs, over releases.

#![allow(clippy::unwrap_used)]

use agent_source::job::Mode;
use agent_source::runs::{RunRow, RunStore};
use rusqlite::Connection;
use strait_common::ids::RunId;
use strait_tests::simulation::source::{job, row};

#[test]
fn a_store_of_the_first_format_is_read_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("runs.sqlite");
    let run = row(
        RunId::from_u128(7),
        job(false, Mode::Append { again: false }, 0).unwrap(),
    );
    let mut store = RunStore::open(&path).unwrap();
    store.insert(&run, std::iter::empty()).unwrap();
    drop(store);
    // What the third format did not have, then the second, then the first.
    let third = "DROP TABLE members; DROP TABLE groups; ALTER TABLE runs DROP COLUMN newest_first; ALTER TABLE partitions DROP COLUMN origin; ALTER TABLE partitions DROP COLUMN seen; PRAGMA user_version = 3";
    let db = Connection::open(&path).unwrap();
    db.execute_batch(third).unwrap();
    drop(db);
    let old = RunStore::open(&path).unwrap().run(run.id).unwrap().unwrap();
    assert_eq!(old.job, run.job);
    let db = Connection::open(&path).unwrap();
    let second = "ALTER TABLE partitions DROP COLUMN extra; UPDATE runs SET job = json_remove(job, '$.mode'); PRAGMA user_version = 2";
    db.execute_batch(third).unwrap();
    db.execute_batch(second).unwrap();
    drop(db);
    let old = RunStore::open(&path).unwrap().run(run.id).unwrap().unwrap();
    assert_eq!(old.job, run.job);
    let db = Connection::open(&path).unwrap();
    db.execute_batch(third).unwrap();
    db.execute_batch(second).unwrap();
    db.execute_batch("ALTER TABLE runs DROP COLUMN bandwidth_max; PRAGMA user_version = 1")
        .unwrap();
    drop(db);

    let mut store = RunStore::open(&path).unwrap();
    let old = store.run(run.id).unwrap().unwrap();
    assert_eq!((old.status, old.bandwidth_max), (run.status, None));
    assert_eq!(old.job, run.job);
    let limited = RunRow {
        id: RunId::from_u128(8),
        bandwidth_max: Some(5),
        ..old
    };
    store.insert(&limited, std::iter::empty()).unwrap();
    drop(store);
    let store = RunStore::open(&path).unwrap();
    let read = store.run(limited.id).unwrap().unwrap();
    assert_eq!(read.bandwidth_max, Some(5));
}
