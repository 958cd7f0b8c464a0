//! What a vacuum removes, and what it leaves whatever it is told.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use strait_common::engine::{Disposition, Outcome, Store, Vacuumed};
use strait_conformance::data::{self, Part};

use crate::world::{World, attach, begun, copy, positions, stage, three_parts};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn ms(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// A vacuum that keeps what was needed in the last so many days.
async fn vacuum(store: &Store, days: u32, dry_run: bool) -> Vacuumed {
    let before_ms = ms(SystemTime::now() - DAY * days);
    let table = data::table_name().unwrap();
    store.sink.vacuum(&table, before_ms, dry_run).await.unwrap()
}

/// As if everything below had been written so many days ago.
fn age(path: &Path, days: u32) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, days);
        } else {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - DAY * days).unwrap();
        }
    }
}

fn parquet_files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(parquet_files(&path));
        } else if path.extension().is_some_and(|end| end == "parquet") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A run that has copied these, and ended.
async fn copied(store: &Store, run: u128, parts: &[Part], disposition: Disposition) {
    let attachment = attach(store, run).await.unwrap();
    for part in parts {
        let writer = begun(attachment.as_ref(), part, disposition, None).await;
        let strait_common::engine::Begun::Writer(mut writer) = writer.unwrap() else {
            panic!("{} is committed", part.key.label());
        };
        writer
            .append(part.rows(0, part.len()).unwrap())
            .await
            .unwrap();
        writer.finish(part.receipt().unwrap()).await.unwrap();
    }
    attachment.complete(Outcome::Done).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_whose_tombstones_are_old_go_and_no_reader_misses_them() {
    let world = World::prepared().await;
    let parts = three_parts();
    let store = world.process().await;
    copied(&store, 1, &parts, Disposition::Append).await;
    // Removed in 2023, by their tombstones.
    let gone = world.compact();
    assert!(gone.iter().all(|path| path.exists()));
    let named = vacuum(&store, 7, true).await;
    assert_eq!(named.files, gone.len() as u64);
    assert!(
        gone.iter().all(|path| path.exists()),
        "a dry run removes nothing"
    );
    let removed = vacuum(&store, 7, false).await;
    assert_eq!(removed, named);
    assert!(gone.iter().all(|path| !path.exists()));
    world.ensure_visible(&parts).await;
    assert_eq!(vacuum(&store, 7, false).await, Vacuumed::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_replaced_within_the_retention_stay() {
    let world = World::prepared().await;
    let parts = three_parts();
    let store = world.process().await;
    copied(&store, 1, &parts, Disposition::Append).await;
    age(&world.table(), 30);
    copied(&store, 2, &parts[..1], Disposition::Replace).await;
    let before = parquet_files(&world.table());
    assert_eq!(vacuum(&store, 7, false).await, Vacuumed::default());
    assert_eq!(parquet_files(&world.table()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_ours_go_whose_tombstones_the_log_has_forgotten() {
    let world = World::prepared().await;
    let parts = three_parts();
    let store = world.process().await;
    copied(&store, 1, &parts, Disposition::Append).await;
    let gone = world.compact();
    // A table checkpoint lets go of tombstones of 2023, and the entries before it are cleaned up.
    world.clean_up().await;
    age(&world.table(), 30);
    // A file that nobody speaks of is somebody else's.
    let foreign = world.table().join("foreign.parquet");
    fs::copy(&gone[0], &foreign).unwrap();
    let file = File::options().write(true).open(&foreign).unwrap();
    file.set_modified(SystemTime::now() - DAY * 30).unwrap();
    let removed = vacuum(&store, 7, false).await;
    assert_eq!(removed.files, gone.len() as u64, "{removed:?}");
    assert!(gone.iter().all(|path| !path.exists()));
    assert!(foreign.exists());
    world.ensure_visible(&parts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_claim_has_staged_stays_however_old_it_is() {
    let world = World::prepared().await;
    let [a, b, _] = three_parts();
    let store = world.process().await;
    let ended = attach(&store, 1).await.unwrap();
    copy(ended.as_ref(), &a).await.unwrap();
    ended.complete(Outcome::Partial).await.unwrap();
    // An attempt of it that was overtaken has written late.
    leave(&world, 1);
    let open = attach(&store, 2).await.unwrap();
    drop(stage(open.as_ref(), &b).await.unwrap());
    age(&world.table(), 30);
    let removed = vacuum(&store, 7, false).await;
    assert_eq!(removed.files, 0, "{removed:?}");
    assert!(removed.staged_files > 0, "{removed:?}");
    let ours = data::claim(1).unwrap().run.to_string();
    assert!(
        removed.listed.iter().all(|file| file.path.contains(&ours)),
        "{removed:?}"
    );
    // The open claim goes on from its chunk.
    let again = attach(&store, 2).await.unwrap();
    let held = positions(again.as_ref()).await;
    assert!(
        held.iter()
            .any(|position| position.key == b.key && position.rows > 0),
        "{held:?}"
    );
}

/// A file on the stage of a run that nobody knows of.
fn leave(world: &World, run: u128) {
    let run = data::claim(run).unwrap().run.to_string();
    let stage = world.table().join("_strait").join(run).join("stage");
    fs::create_dir_all(&stage).unwrap();
    fs::write(stage.join("1-late.parquet"), "rows").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_of_late_stays() {
    let world = World::prepared().await;
    let store = world.process().await;
    let ended = attach(&store, 1).await.unwrap();
    ended.complete(Outcome::Partial).await.unwrap();
    leave(&world, 1);
    assert_eq!(vacuum(&store, 7, false).await, Vacuumed::default());
}
