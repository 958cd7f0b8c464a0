//! Tables that cannot be opened: what a retry can mend is told from what it cannot, by what the error is.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;
use strait_common::engine::Store;
use strait_common::{Error, Kind, Result};
use strait_conformance::data;
use strait_lake::disk::{Disk, Recorder, Step};

use crate::world::{World, attach, copy, decoded, listed, names, read, three_parts};

/// What the disk says of a path instead of reading it.
type Says = fn(&Path) -> Option<i32>;

/// A disk whose reading can fail, for a while.
#[derive(Debug, Default)]
struct Sick(Mutex<Option<Says>>);

impl Sick {
    fn with(&self, says: Option<Says>) {
        *self.0.lock().unwrap() = says;
    }
}

impl Recorder for Sick {
    fn step(&self, _: &Step<'_>) -> Result<()> {
        Ok(())
    }

    fn look(&self, path: &Path) -> io::Result<()> {
        let says = *self.0.lock().unwrap();
        match says.and_then(|says| says(path)) {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => Ok(()),
        }
    }
}

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;

fn ends(path: &Path, end: &str) -> bool {
    path.to_string_lossy().ends_with(end)
}

async fn over(world: &World, sick: &Arc<Sick>) -> Store {
    let recorder: Arc<dyn Recorder> = Arc::<Sick>::clone(sick);
    world.over(Disk::recorded(recorder)).await
}

/// A lake with three partitions in it.
async fn filled() -> World {
    let world = World::prepared().await;
    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    for part in three_parts() {
        copy(attachment.as_ref(), &part).await.unwrap();
    }
    world
}

/// Opens the table for each purpose. Neither success nor the kind may depend on it.
async fn opened(store: &Store) -> Result<()> {
    let table = data::table_name()?;
    let ways = [
        listed(store).await.map(|_| ()),
        store.source.describe(&table).await.map(|_| ()),
        store.sink.claim(&table).await.map(|_| ()),
        attach(store, 1).await.map(|_| ()),
    ];
    let kinds: Vec<Option<Kind>> = ways
        .iter()
        .map(|way| way.as_ref().err().map(Error::kind))
        .collect();
    assert!(kinds.iter().all(|kind| *kind == kinds[0]), "{ways:?}");
    let [first, ..] = ways;
    first
}

fn ensure_kind(what: &str, result: Result<()>, kind: Kind) {
    let error = result.err().unwrap_or_else(|| panic!("{what}: no error"));
    assert_eq!(error.kind(), kind, "{what}: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn trouble_of_the_disk_passes() {
    let places: [(&str, Says); 9] = [
        ("a log that cannot be listed", |path| {
            ends(path, "_delta_log").then_some(EIO)
        }),
        ("no more open files, to list with", |path| {
            ends(path, "_delta_log").then_some(EMFILE)
        }),
        ("a log that is locked", |path| {
            ends(path, "_delta_log").then_some(EACCES)
        }),
        ("an entry that cannot be read", |path| {
            ends(path, ".json").then_some(EIO)
        }),
        ("no more open files, for an entry", |path| {
            ends(path, ".json").then_some(EMFILE)
        }),
        ("an entry that is locked", |path| {
            ends(path, ".json").then_some(EACCES)
        }),
        ("a checkpoint that cannot be read", |path| {
            ends(path, ".parquet").then_some(EIO)
        }),
        ("no more open files, for a checkpoint", |path| {
            ends(path, ".parquet").then_some(EMFILE)
        }),
        ("a checkpoint that is locked", |path| {
            ends(path, ".parquet").then_some(EACCES)
        }),
    ];
    let world = filled().await;
    // One of each: a table checkpoint, and an entry after it.
    world.clean_up().await;
    let sick = Arc::new(Sick::default());
    let store = over(&world, &sick).await;
    opened(&store).await.unwrap();
    for (what, says) in places {
        sick.with(Some(says));
        ensure_kind(what, opened(&store).await, Kind::Unavailable);
        sick.with(None);
        opened(&store).await.unwrap();
    }
    world.ensure_visible(&three_parts()).await;
}

/// A log is cleaned up while it is read: another try finds what there is now.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_file_of_the_log_that_goes_while_it_is_read_is_read_again() {
    const ENOENT: i32 = 2;
    let world = filled().await;
    let sick = Arc::new(Sick::default());
    let store = over(&world, &sick).await;
    sick.with(Some(|path| ends(path, "2.json").then_some(ENOENT)));
    ensure_kind(
        "an entry that went",
        opened(&store).await,
        Kind::Unavailable,
    );
    sick.with(None);
    opened(&store).await.unwrap();
    fs::remove_dir_all(world.log()).unwrap();
    let described = store.source.describe(&data::table_name().unwrap()).await;
    ensure_kind("all of it", described.map(|_| ()), Kind::Config);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_log_that_says_what_cannot_be_is_corrupt() {
    // An entry cut anywhere is an entry of fewer actions, or none at all.
    let world = filled().await;
    let newest = world.entries().pop().unwrap();
    let path = world.log().join(format!("{newest:020}.json"));
    let whole = fs::read(&path).unwrap();
    let store = world.process().await;
    let mut refused = 0;
    for cut in (1..whole.len()).step_by(97) {
        fs::write(&path, &whole[..cut]).unwrap();
        let table = data::table_name().unwrap();
        if let Err(error) = store.source.describe(&table).await {
            assert_eq!(error.kind(), Kind::Corrupt, "cut at {cut}: {error}");
            refused += 1;
        }
    }
    assert!(refused > 3, "{refused}");

    // A text of the table's own that reads like the kernel's refusal.
    let world = filled().await;
    world.commit(&[json!({"metaData": {
        "id": "1", "format": {"provider": "parquet", "options": {}}, "schemaString": "Unsupported: {", "partitionColumns": [],
        "configuration": {}, "createdTime": 0,
    }})]);
    let store = world.process().await;
    ensure_kind("a schema that is none", opened(&store).await, Kind::Corrupt);

    // A directory in place of an entry: the log has a hole.
    let world = filled().await;
    let entry = world.log().join(format!("{:020}.json", 1));
    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    let store = world.process().await;
    ensure_kind("a hole", opened(&store).await, Kind::Corrupt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_table_checkpoint_that_is_cut_short_is_corrupt() {
    let world = filled().await;
    world.clean_up().await;
    let store = world.process().await;
    let names = names(&world.log());
    let name = names
        .iter()
        .find(|name| name.ends_with(".parquet"))
        .unwrap();
    let path = world.log().join(name);
    let whole = fs::read(&path).unwrap();
    for cut in [0, 4, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let what = format!("{cut} bytes of {}", whole.len());
        ensure_kind(&what, opened(&store).await, Kind::Corrupt);
    }
    fs::write(&path, &whole).unwrap();
    opened(&store).await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    ensure_kind("a directory", opened(&store).await, Kind::Corrupt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_data_file_that_is_cut_short_is_corrupt_and_one_that_is_gone_has_moved() {
    let world = filled().await;
    let store = world.process().await;
    let partitions = listed(&store).await.unwrap();
    let paths: Vec<_> = world.adds().into_keys().collect();
    for path in &paths {
        let path = world.table().join(decoded(path));
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    }
    let digest = read(&store, &partitions[0]).await;
    ensure_kind("cut short", digest.map(|_| ()), Kind::Corrupt);
    for path in &paths {
        fs::remove_file(world.table().join(decoded(path))).unwrap();
    }
    let digest = read(&store, &partitions[0]).await;
    ensure_kind("gone", digest.map(|_| ()), Kind::Moved);
}
