//! The order of acts on the disk: what a caller was told, and what the log says, survives a power cut.

use std::path::Path;
use std::sync::Arc;

use futures::poll;
use strait_common::engine::{Attachment, Begun, Disposition, Outcome};
use strait_conformance::data::Part;
use strait_lake::disk::Step;

use crate::attempts::Door;
use crate::trace::{Act, Verdict, Watch, check, directories_named_in, is_log_entry};
use crate::world::{
    CHUNK, World, attach, begin, begun, copy, finish, positions, prepare, stage, three_parts,
};

/// One call, and what it did.
type Call = (&'static str, Vec<Act>);

/// A run with all kinds of calls, each of whose acts end with its return.
async fn every_call(world: &World) -> Vec<Call> {
    let [a, b, c] = three_parts();
    let watch = Watch::new();
    let store = world.watched(&watch).await;
    let mut calls = Vec::new();
    let mut returned = |name: &'static str, watch: &Watch| {
        let acts = watch.take();
        assert_eq!(acts.last(), Some(&Act::Return), "{name} returns");
        calls.push((name, acts));
    };
    prepare(&store).await.unwrap();
    returned("prepare", &watch);
    let attachment = attach(&store, 1).await.unwrap();
    returned("attach", &watch);
    let writer = stage(attachment.as_ref(), &a).await.unwrap();
    returned("checkpoint", &watch);
    finish(writer, &a).await.unwrap();
    returned("finish of a partition with a position", &watch);
    let mut writer = begin(attachment.as_ref(), &b, None).await.unwrap();
    writer.append(b.rows(0, b.len()).unwrap()).await.unwrap();
    writer.finish(b.receipt().unwrap()).await.unwrap();
    returned("finish of a partition without", &watch);
    stage(attachment.as_ref(), &c).await.unwrap();
    returned("checkpoint of the next", &watch);

    let attachment = attach(&store, 1).await.unwrap();
    returned("attach of the next attempt", &watch);
    let held = positions(attachment.as_ref()).await;
    let on_c = held.iter().find(|at| at.key == c.key);
    let writer = begin(attachment.as_ref(), &c, on_c).await.unwrap();
    finish(writer, &c).await.unwrap();
    returned("finish from a position of the attempt before", &watch);
    replace(attachment.as_ref(), &a).await;
    returned("finish of no rows", &watch);
    attachment.drop_partition(&b.key).await.unwrap();
    returned("drop", &watch);
    attachment.complete(Outcome::Done).await.unwrap();
    returned("complete", &watch);
    calls
}

/// Nothing to replace: the partition is committed by this run. So another one of no rows is published.
async fn replace(attachment: &dyn Attachment, like: &Part) {
    let empty = Part::new(Some(1), Some("none"), 0..0).unwrap();
    assert_ne!(empty.key, like.key);
    let empty_begun = begun(attachment, &empty, Disposition::Replace, None);
    let Begun::Writer(writer) = empty_begun.await.unwrap() else {
        panic!("committed");
    };
    writer.finish(empty.receipt().unwrap()).await.unwrap();
}

fn joined(calls: &[Call]) -> Vec<Act> {
    calls.iter().flat_map(|(_, acts)| acts.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn content_is_durable_before_its_name_and_both_before_any_call_returns() {
    let world = World::new();
    let calls = every_call(&world).await;
    check(world.directory.path(), &joined(&calls)).unwrap();
    let entries = joined(&calls);
    let entries = entries
        .iter()
        .filter(|act| matches!(act, Act::Name { to, .. } if is_log_entry(to)));
    assert_eq!(
        entries.count(),
        world.entries().len(),
        "all of the log was seen"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_check_finds_every_sync_that_is_missing() {
    let world = World::new();
    let calls = every_call(&world).await;
    let root = world.directory.path();
    let objection = |at: usize, acts: Vec<Act>| {
        let mut calls = calls.clone();
        calls[at].1 = acts;
        check(root, &joined(&calls))
    };
    let mut missing = 0;
    for (at, (name, acts)) in calls.iter().enumerate() {
        // Without the sync of one file's content.
        for (act, _) in acts
            .iter()
            .enumerate()
            .filter(|(_, act)| matches!(act, Act::Sync(_)))
        {
            let mut without = acts.clone();
            let removed = without.remove(act);
            assert!(
                objection(at, without).is_err(),
                "{name} without {removed:?}"
            );
            missing += 1;
        }
        // Without any sync of a directory that got a name.
        for directory in directories_named_in(acts).into_keys() {
            let mut without = acts.clone();
            without.retain(|act| *act != Act::SyncDirectory(directory.clone()));
            assert!(
                objection(at, without).is_err(),
                "{name} without a sync of {}",
                directory.display()
            );
            missing += 1;
        }
        // With the log entry before all that it mentions.
        let entry = |act: &Act| matches!(act, Act::Name { to, .. } if is_log_entry(to));
        if let Some(of) = acts.iter().position(entry) {
            let ledger = |act: &Act| matches!(act, Act::Name { to, .. } if to.parent().is_some_and(|run| run.parent().is_some_and(|ours| ours.ends_with("_strait"))));
            if let Some(first) = acts.iter().position(ledger) {
                let mut early = acts.clone();
                let drafted = early.drain(of - 2..=of).collect::<Vec<_>>();
                assert!(matches!(drafted[0], Act::Write(_)), "{drafted:?}");
                early.splice(first..first, drafted);
                let why = objection(at, early).unwrap_err();
                assert!(why.contains("was never named"), "{name}: {why}");
                missing += 1;
            }
        }
    }
    assert!(missing > 50, "only {missing} were tried");
}

/// Many partitions of few rows: they are in memory until their commit, and one act makes all of them durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn partitions_that_are_published_together_are_durable_together() {
    const PARTS: i32 = 12;
    let world = World::new();
    let watch = Watch::new();
    let store = world.watched(&watch).await;
    prepare(&store).await.unwrap();
    let attachment = attach(&store, 1).await.unwrap();
    let door = Arc::new(Door::default());
    let at_door = Arc::clone(&door);
    watch.judge(move |step| {
        if let Step::Link { to, .. } = step
            && is_log_entry(to)
        {
            at_door.pass();
        }
        Verdict::Go
    });
    let mut finishing = Vec::new();
    let mut parts = Vec::new();
    for day in 0..PARTS {
        let rows = i64::from(day) * 100;
        let part = Part::new(Some(day), Some("IBM"), rows..rows + 5).unwrap();
        let mut writer = begin(attachment.as_ref(), &part, None).await.unwrap();
        writer.append(part.rows(0, 5).unwrap()).await.unwrap();
        assert!(writer.seal().await.unwrap() > 0, "it holds its rows");
        finishing.push(writer.finish(part.receipt().unwrap()));
        parts.push(part);
    }
    // The first one's commit stands still until the others wait for the next.
    assert!(poll!(&mut finishing[0]).is_pending());
    tokio::task::block_in_place(|| door.wait_for_somebody());
    for finish in &mut finishing[1..] {
        assert!(poll!(finish).is_pending());
    }
    door.open();
    for finished in futures::future::join_all(finishing).await {
        finished.unwrap();
    }
    world.ensure_visible(&parts).await;
    let acts = watch.take();
    let root = world.directory.path();
    check(root, &acts).unwrap();
    let is_together = |act: &&Act| matches!(act, Act::SyncStore(_));
    if !acts.iter().any(|act| is_together(&act)) {
        // A file system that is not known to sync at once: each file was, as the check above has seen.
        return;
    }
    let mut tried = 0;
    for at in (0..acts.len()).filter(|at| is_together(&&acts[*at])) {
        let mut without = acts.clone();
        without.remove(at);
        assert!(check(root, &without).is_err(), "without act {at}");
        tried += 1;
    }
    assert_eq!(
        tried, 1,
        "one for the files and their names; a place for all of them is there"
    );
}

/// Every twentieth commit ends with one.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_table_checkpoint_is_durable_before_it_is_pointed_to() {
    let world = World::new();
    let watch = Watch::new();
    let store = world.watched(&watch).await;
    prepare(&store).await.unwrap();
    let attachment = attach(&store, 1).await.unwrap();
    for day in 0..20 {
        let part = Part::new(Some(day), Some("IBM"), 0..5).unwrap();
        copy(attachment.as_ref(), &part).await.unwrap();
    }
    let acts = watch.take();
    check(world.directory.path(), &acts).unwrap();
    let named = |end: &str| {
        let is = |path: &Path| path.to_string_lossy().ends_with(end);
        let of = |act: &Act| matches!(act, Act::Name { to, .. } if is(to));
        acts.iter().position(of).unwrap()
    };
    let checkpoint = named(".checkpoint.parquet");
    let pointer = named("_last_checkpoint");
    assert!(checkpoint < pointer);
    let mut without = acts.clone();
    let synced = (checkpoint..pointer)
        .find(|at| matches!(&acts[*at], Act::SyncDirectory(log) if log.ends_with("_delta_log")));
    without.remove(synced.unwrap());
    let why = check(world.directory.path(), &without).unwrap_err();
    assert!(why.contains("_last_checkpoint"), "{why}");
}

/// A directory that a process has made and not synced is there for the next one, until the power fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn directories_that_a_killed_process_made_are_made_durable_by_the_next() {
    // As many crashes as there are directories to make: those of the table, of the run and of the partition.
    let mut killed = Vec::new();
    for nth in 1.. {
        let world = World::new();
        let first = Watch::new();
        let made = Arc::new(std::sync::Mutex::new((0, None)));
        let count = Arc::clone(&made);
        first.judge(move |step| {
            let mut made = count.lock().unwrap();
            // After the last directory of the n-th batch is made, before anything else.
            match step {
                Step::MakeDirectory(path) => {
                    made.0 += 1;
                    if made.0 == nth {
                        made.1 = Some(path.to_path_buf());
                    }
                    Verdict::Go
                }
                _ if made.1.is_some() => Verdict::Die,
                _ => Verdict::Go,
            }
        });
        let [a, ..] = three_parts();
        let store = world.watched(&first).await;
        let lived = live(&store, &a).await;
        let Some(directory) = made.lock().unwrap().1.clone() else {
            lived.unwrap();
            break;
        };
        assert!(lived.is_err(), "killed after {}", directory.display());
        killed.push(directory);
        drop(store);
        let second = Watch::new();
        let store = world.watched(&second).await;
        live(&store, &a).await.unwrap();
        let mut acts = first.take();
        acts.extend(second.take());
        if let Err(why) = check(world.directory.path(), &acts) {
            panic!("killed after making {killed:?}: {why}");
        }
        world.ensure_visible(&[a]).await;
    }
    assert!(killed.len() >= 8, "{killed:?}");
}

/// A run of one partition.
async fn live(store: &strait_common::engine::Store, part: &Part) -> strait_common::Result<()> {
    prepare(store).await?;
    let attachment = attach(store, 1).await?;
    let held = positions(attachment.as_ref()).await;
    let at = held.iter().find(|at| at.key == part.key);
    let mut writer = begin(attachment.as_ref(), part, at).await?;
    if at.is_none() {
        writer.append(part.rows(0, CHUNK)?).await?;
        writer.checkpoint(part.mark(CHUNK)?).await?;
    }
    finish(writer, part).await?;
    attachment.complete(Outcome::Done).await
}
