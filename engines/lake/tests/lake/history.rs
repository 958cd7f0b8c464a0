//! What others may do to the log while a run is under way: clean it up, and rewrite what it says without changing a row.

use std::fs;

use serde_json::json;
use strait_common::engine::{Begun, Disposition, Finished, Outcome, PositionState};
use strait_common::{Kind, Result};
use strait_conformance::data::{self, Part};

use crate::trace::{Verdict, Watch, is_log_entry};
use crate::world::{
    CHUNK, World, attach, begin, begun, copy, finish, listed, names, positions, read, receipts,
    stage, three_parts,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_run_goes_on_after_its_log_was_cleaned_up() {
    let world = World::prepared().await;
    let [a, b, c] = three_parts();
    let older = attach(&world.process().await, 1).await.unwrap();
    copy(older.as_ref(), &a).await.unwrap();
    stage(older.as_ref(), &b).await.unwrap();
    let epoch = older.epoch();
    drop(older);

    world.clean_up().await;

    let store = world.process().await;
    let claim = store.sink.claim(&data::table_name().unwrap()).await;
    assert_eq!(claim.unwrap(), Some(data::claim(1).unwrap()));
    let other = attach(&store, 2).await.unwrap_err();
    assert_eq!(other.kind(), Kind::Refused, "{other}");
    assert_eq!(receipts(&store).await.unwrap(), [a.receipt().unwrap()]);

    let newer = attach(&store, 1).await.unwrap();
    assert_eq!(newer.epoch().0, epoch.0 + 1);
    let held = positions(newer.as_ref()).await;
    let [on_a, on_b] = [&a, &b].map(|part| held.iter().find(|at| at.key == part.key).unwrap());
    assert_eq!(held.len(), 2);
    assert_eq!(
        on_a.state,
        PositionState::Committed(a.receipt().unwrap()),
        "what was committed"
    );
    assert_eq!(on_b.state, PositionState::Staged);
    assert_eq!(on_b.rows, CHUNK);
    let begun = newer.begin(&a.partition(), Disposition::Append, None).await;
    assert!(matches!(begun.unwrap(), Begun::Already(receipt) if receipt == a.receipt().unwrap()));
    let writer = begin(newer.as_ref(), &b, Some(on_b)).await.unwrap();
    finish(writer, &b).await.unwrap();
    copy(newer.as_ref(), &c).await.unwrap();
    newer.complete(Outcome::Done).await.unwrap();
    world.ensure_visible(&[a, b, c]).await;
}

/// The entries that overtook it are not there to be seen any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn an_attempt_is_fenced_although_the_log_was_cleaned_up_since() {
    let world = World::prepared().await;
    let [a, b, _] = three_parts();
    let older = attach(&world.process().await, 1).await.unwrap();
    let mut writer = stage(older.as_ref(), &a).await.unwrap();
    let newer = attach(&world.process().await, 1).await.unwrap();
    copy(newer.as_ref(), &b).await.unwrap();
    world.clean_up().await;
    let staged = world.table().join("_strait");
    let run = staged.join(data::claim(1).unwrap().run.to_string());
    let before = names(&run.join("stage"));

    let append = writer.append(a.rows(CHUNK, a.len()).unwrap()).await;
    assert_eq!(append.unwrap_err().kind(), Kind::Fenced);
    let checkpoint = writer.checkpoint(a.mark(CHUNK).unwrap()).await;
    assert_eq!(checkpoint.unwrap_err().kind(), Kind::Fenced);
    let finished = writer.finish(a.receipt().unwrap()).await;
    assert_eq!(finished.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(
        names(&run.join("stage")),
        before,
        "the stage is the newer attempt's"
    );
    copy(newer.as_ref(), &a).await.unwrap();
    world.ensure_visible(&[a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_run_goes_on_after_a_foreign_compaction() {
    let world = World::prepared().await;
    let [a, b, c] = three_parts();
    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    copy(attachment.as_ref(), &a).await.unwrap();
    let under_way = stage(attachment.as_ref(), &b).await.unwrap();
    assert_eq!(world.compact().len(), 2, "a chunk is a file");
    world.ensure_visible(std::slice::from_ref(&a)).await;
    finish(under_way, &b).await.unwrap();
    stage(attachment.as_ref(), &c).await.unwrap();
    drop((attachment, store));

    let store = world.process().await;
    world.compact();
    let attachment = attach(&store, 1).await.unwrap();
    for at in positions(attachment.as_ref()).await {
        let committed = at.key != c.key;
        assert_eq!(
            matches!(at.state, PositionState::Committed(_)),
            committed,
            "{}",
            at.key.label()
        );
    }
    let again = begun(attachment.as_ref(), &a, Disposition::Append, None);
    assert!(matches!(again.await.unwrap(), Begun::Already(_)));
    copy(attachment.as_ref(), &c).await.unwrap();
    attachment.complete(Outcome::Done).await.unwrap();
    assert_eq!(receipts(&store).await.unwrap().len(), 3);
    world.ensure_visible(&[a, b, c]).await;
}

/// The worst moment: after the commit has looked at the table, before it lands.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn rows_are_neither_lost_nor_doubled_by_a_compaction_within_a_commit() {
    for disposition in [Disposition::Append, Disposition::Replace] {
        let world = std::sync::Arc::new(World::prepared().await);
        let [a, b, _] = three_parts();
        let earlier = attach(&world.process().await, 1).await.unwrap();
        copy(earlier.as_ref(), &a).await.unwrap();
        copy(earlier.as_ref(), &b).await.unwrap();
        earlier.complete(Outcome::Done).await.unwrap();

        let watch = Watch::new();
        let store = world.watched(&watch).await;
        let attachment = attach(&store, 2).await.unwrap();
        let newer = a.changed("v2", 500..507);
        let begin = begun(attachment.as_ref(), &newer, disposition, None);
        let Begun::Writer(mut writer) = begin.await.unwrap() else {
            panic!("another run's partition");
        };
        writer
            .append(newer.rows(0, newer.len()).unwrap())
            .await
            .unwrap();
        let (compactor, once) = (std::sync::Arc::clone(&world), std::sync::Once::new());
        watch.judge(move |step| {
            if let strait_lake::disk::Step::Link { to, .. } = step
                && is_log_entry(to)
            {
                once.call_once(|| {
                    compactor.compact();
                });
            }
            Verdict::Go
        });
        let finished = writer.finish(newer.receipt().unwrap()).await.unwrap();
        assert_eq!(finished, Finished::Now);
        let expected = match disposition {
            Disposition::Append => vec![a, newer, b],
            Disposition::Replace => vec![newer, b],
        };
        world.ensure_visible(&expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_planned_partition_is_read_as_it_was_until_its_files_are_gone() {
    let world = World::prepared().await;
    let [a, ..] = three_parts();
    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    copy(attachment.as_ref(), &a).await.unwrap();
    let expected = a.receipt().unwrap().digest;
    let planned = listed(&store).await.unwrap().pop().unwrap();

    let gone = world.compact();
    let compacted = listed(&store).await.unwrap().pop().unwrap();
    assert_ne!(compacted.version, planned.version, "the files are others");
    assert_eq!(compacted.rows, planned.rows);
    assert_eq!(read(&store, &planned).await.unwrap(), expected);
    assert_eq!(read(&store, &compacted).await.unwrap(), expected);

    // As VACUUM does.
    gone.iter().for_each(|file| fs::remove_file(file).unwrap());
    let moved = read(&store, &planned).await.unwrap_err();
    assert_eq!(moved.kind(), Kind::Moved, "{moved}");
    assert_eq!(read(&store, &compacted).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_planned_partition_that_did_not_change_is_read_after_its_version_left_the_log() {
    let world = World::prepared().await;
    let [a, b, _] = three_parts();
    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    copy(attachment.as_ref(), &a).await.unwrap();
    let planned = listed(&store).await.unwrap().pop().unwrap();
    copy(attachment.as_ref(), &b).await.unwrap();
    let adds = world.adds();
    world.clean_up().await;
    let expected = a.receipt().unwrap().digest;
    assert_eq!(read(&store, &planned).await.unwrap(), expected);
    // And once it has changed, it is gone for whoever did not see it before.
    let gone = world.compact_these(adds);
    let late = world.process().await;
    let moved = read(&late, &planned).await.unwrap_err();
    assert_eq!(moved.kind(), Kind::Moved, "{moved}");
    assert_eq!(read(&store, &planned).await.unwrap(), expected);
    gone.iter().for_each(|file| fs::remove_file(file).unwrap());
    let moved = read(&store, &planned).await.unwrap_err();
    assert_eq!(moved.kind(), Kind::Moved, "{moved}");
}

/// Guessing would copy its partitions again.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_ledger_file_that_somebody_removed_is_named() {
    let world = World::prepared().await;
    let [a, ..] = three_parts();
    let attachment = attach(&world.process().await, 1).await.unwrap();
    copy(attachment.as_ref(), &a).await.unwrap();
    attachment.complete(Outcome::Done).await.unwrap();
    let ours = world.table().join("_strait");
    let run = ours.join(data::claim(1).unwrap().run.to_string());
    let published = names(&run).into_iter().find(|name| {
        fs::read_to_string(run.join(name)).is_ok_and(|text| text.contains("\"publish\""))
    });
    let published = published.unwrap();
    for cleaned_up in [false, true] {
        if cleaned_up {
            world.clean_up().await;
        }
        let text = fs::read(run.join(&published)).unwrap();
        fs::remove_file(run.join(&published)).unwrap();
        let store = world.process().await;
        for error in [
            attach(&store, 2).await.map(|_| ()).unwrap_err(),
            receipts(&store).await.map(|_| ()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), Kind::Corrupt, "{error}");
            assert!(error.to_string().contains(&published), "{error}");
        }
        fs::write(run.join(&published), text).unwrap();
        assert_eq!(receipts(&store).await.unwrap(), [a.receipt().unwrap()]);
    }
}

/// The pass over the log is only ever a shortcut.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_log_that_the_shortcut_cannot_read_says_the_same() {
    let world = World::prepared().await;
    let parts: Vec<Part> = (0..25)
        .map(|day| {
            Part::new(
                Some(day),
                Some("IBM"),
                i64::from(day) * 10..i64::from(day) * 10 + 4,
            )
        })
        .collect::<Result<_>>()
        .unwrap();
    let attachment = attach(&world.process().await, 1).await.unwrap();
    for part in &parts {
        copy(attachment.as_ref(), part).await.unwrap();
    }
    let log = world.log();
    let checkpoint = names(&log)
        .into_iter()
        .rfind(|name| name.ends_with(".checkpoint.parquet"))
        .unwrap();
    let pointer = log.join("_last_checkpoint");
    // A later table checkpoint of a foreign writer that died while writing it: readers follow the pointer, the shortcut the names.
    assert!(pointer.exists());
    let newest = *world.entries().last().unwrap();
    let torn = log.join(format!(
        "{newest:020}.checkpoint.0000000001.0000000002.parquet"
    ));
    fs::write(torn, &fs::read(log.join(checkpoint)).unwrap()[..100]).unwrap();
    let store = world.process().await;
    assert_eq!(receipts(&store).await.unwrap().len(), parts.len());
    drop(attachment);
    let attachment = attach(&store, 1).await.unwrap();
    assert_eq!(positions(attachment.as_ref()).await.len(), parts.len());
    attachment.complete(Outcome::Done).await.unwrap();
    world.commit(&[json!({"txn": {"appId": "somebody else", "version": 7}})]);
    assert_eq!(receipts(&store).await.unwrap().len(), parts.len());
    world.ensure_visible(&parts).await;
}
