//! A table is listed once for all who read it, and never for another table of its name.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::join_all;
use strait_common::Result;
use strait_common::engine::Store;
use strait_conformance::data::Part;
use strait_lake::disk::{Disk, Recorder, Step};

use crate::world::{World, attach, copy, listed, prepare, read, three_parts};

/// Counts how often an entry of a log is read.
#[derive(Debug, Default)]
struct Entries(AtomicU64);

impl Recorder for Entries {
    fn step(&self, _: &Step<'_>) -> Result<()> {
        Ok(())
    }

    fn look(&self, path: &Path) -> io::Result<()> {
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Entries {
    fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

async fn counted(world: &World) -> (Store, Arc<Entries>) {
    let entries = Arc::new(Entries::default());
    let recorder: Arc<dyn Recorder> = Arc::<Entries>::clone(&entries);
    (world.over(Disk::recorded(recorder)).await, entries)
}

async fn filled() -> World {
    let world = World::prepared().await;
    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    for part in three_parts() {
        copy(attachment.as_ref(), &part).await.unwrap();
    }
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_plan_is_read_without_the_log() {
    let world = filled().await;
    let (store, entries) = counted(&world).await;
    let planned = listed(&store).await.unwrap();
    let after_plan = entries.count();
    assert!(after_plan > 0, "nothing was counted");
    for partition in &planned {
        read(&store, partition).await.unwrap();
    }
    assert_eq!(entries.count(), after_plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn many_reads_at_once_list_the_table_once() {
    let world = filled().await;
    let planned = listed(&world.process().await).await.unwrap();
    let (store, entries) = counted(&world).await;
    read(&store, &planned[0]).await.unwrap();
    let once = entries.count();
    assert!(once > 0, "nothing was counted");
    let (store, entries) = counted(&world).await;
    let reads = (0..60).map(|at| read(&store, &planned[at % planned.len()]));
    for digest in join_all(reads).await {
        digest.unwrap();
    }
    assert_eq!(entries.count(), once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn more_versions_are_read_than_are_kept() {
    let world = World::prepared().await;
    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    let mut planned = Vec::new();
    for day in 0..20 {
        let part = Part::new(Some(day), Some("IBM"), 0..5).unwrap();
        copy(attachment.as_ref(), &part).await.unwrap();
        let newest = listed(&store).await.unwrap().pop().unwrap();
        assert_eq!(newest.key, part.key);
        planned.push((newest, part.receipt().unwrap().digest));
    }
    for (partition, digest) in &planned {
        assert_eq!(read(&store, partition).await.unwrap(), *digest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_table_that_took_the_place_of_another_is_not_taken_for_it() {
    let world = filled().await;
    let store = world.process().await;
    let before = listed(&store).await.unwrap();
    let version = world.entries().pop().unwrap();
    fs::remove_dir_all(world.table()).unwrap();
    prepare(&store).await.unwrap();
    let other = world.process().await;
    let attachment = attach(&other, 2).await.unwrap();
    for day in 0..3 {
        let part = Part::new(Some(day), Some("other"), 0..9).unwrap();
        copy(attachment.as_ref(), &part).await.unwrap();
    }
    assert_eq!(world.entries().pop().unwrap(), version, "as many commits");
    let after = listed(&store).await.unwrap();
    assert_eq!(after.len(), 3);
    for partition in &after {
        assert!(before.iter().all(|old| old.key != partition.key));
        read(&store, partition).await.unwrap();
    }
}
