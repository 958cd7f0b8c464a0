//! A table whose `_strait` was lost or damaged: refused by name, until somebody gives up what is lost.

use std::fs;

use futures::TryStreamExt;
use strait_common::Kind;
use strait_common::engine::{Confirmed, Disposition, Holding, Outcome, Prepared, Store};
use strait_common::selection::Selection;
use strait_conformance::data::{self, Part};

use crate::world::{World, attach, begin, begun, copy, names, positions, receipts, three_parts};

async fn copied(run: u128, parts: &[Part], world: &World) {
    let attachment = attach(&world.process().await, run).await.unwrap();
    for part in parts {
        copy(attachment.as_ref(), part).await.unwrap();
    }
    attachment.complete(Outcome::Done).await.unwrap();
}

async fn prepared(store: &Store) -> Prepared {
    let table = data::table(true).unwrap();
    let prepared = store.sink.prepare(&table.name, &table, true).await;
    prepared.unwrap()
}

async fn held(store: &Store) -> Vec<Holding> {
    let table = data::table_name().unwrap();
    let everything = Selection::everything(&data::schema());
    let holdings = store.sink.holdings(&table, &everything).await.unwrap();
    holdings.try_collect().await.unwrap()
}

/// Rows of nobody are refused to who does not name a mode, the run that has lost something never goes on, and a mirror finds out what is equal.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_lost_ledger_is_given_up_and_found_again_by_comparing() {
    let world = World::prepared().await;
    let [a, b, _] = three_parts();
    copied(1, &[a.clone(), b.clone()], &world).await;
    fs::remove_dir_all(world.table().join("_strait")).unwrap();

    let store = world.process().await;
    let table = data::table_name().unwrap();
    let refused = [
        attach(&store, 1).await.map(|_| ()),
        attach(&store, 2).await.map(|_| ()),
        receipts(&store).await.map(|_| ()),
        store.sink.claim(&table).await.map(|_| ()),
    ];
    for result in refused {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        for named in ["_strait", "--accept-lost-ledger"] {
            assert!(error.to_string().contains(named), "{error}");
        }
    }
    // An attach, two partitions, an end.
    assert_eq!(store.sink.accept_loss(&table).await.unwrap(), 4);
    assert_eq!(store.sink.accept_loss(&table).await.unwrap(), 0);
    world.ensure_visible(&[a.clone(), b.clone()]).await;

    assert!(prepared(&store).await.foreign, "no run is known");
    let error = attach(&store, 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("--mode mirror"), "{error}");
    for holding in held(&store).await {
        assert!(
            holding.receipts.is_empty() && !holding.intact,
            "{holding:?}"
        );
    }
    let attachment = attach(&store, 2).await.unwrap();
    assert_eq!(positions(attachment.as_ref()).await, []);
    for holding in held(&store).await {
        let part = [&a, &b].into_iter().find(|part| part.key == holding.key);
        let equal = Confirmed {
            receipt: part.unwrap().receipt().unwrap(),
            version: holding.partition.unwrap().version,
        };
        assert!(prepared(&store).await.foreign, "one of two is not known");
        attachment.confirm(&[equal]).await.unwrap();
    }
    assert!(!prepared(&store).await.foreign, "both are");
    attachment.complete(Outcome::Done).await.unwrap();
    for holding in held(&world.process().await).await {
        assert!(holding.receipts.len() == 1 && holding.intact, "{holding:?}");
    }
    world.ensure_visible(&[a, b]).await;
}

/// What one file said is lost, and what the others say is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn of_a_damaged_ledger_only_what_is_damaged_is_given_up() {
    let world = World::prepared().await;
    let [a, b, c] = three_parts();
    copied(1, std::slice::from_ref(&a), &world).await;
    copied(2, std::slice::from_ref(&b), &world).await;
    let older = attach(&world.process().await, 3).await.unwrap();
    let run = world.table().join("_strait");
    let run = run.join(data::claim(1).unwrap().run.to_string());
    for name in names(&run).iter().filter(|name| name.ends_with(".json")) {
        fs::write(run.join(name), "not what it was").unwrap();
    }
    let store = world.process().await;
    let table = data::table_name().unwrap();
    assert_eq!(store.sink.accept_loss(&table).await.unwrap(), 3);
    // Whoever was under way is overtaken, and nobody has a claim.
    let error = begun(older.as_ref(), &c, Disposition::Append, None).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Fenced);
    assert_eq!(store.sink.claim(&table).await.unwrap(), None);
    assert_eq!(receipts(&store).await.unwrap(), [b.receipt().unwrap()]);
    let attachment = attach(&store, 4).await.unwrap();
    let begun = begin(attachment.as_ref(), &c, None).await;
    drop(begun.unwrap());
    world.ensure_visible(&[a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn of_a_whole_ledger_nothing_is_given_up() {
    let world = World::prepared().await;
    let [a, ..] = three_parts();
    copied(1, std::slice::from_ref(&a), &world).await;
    let entries = world.entries();
    let store = world.process().await;
    let table = data::table_name().unwrap();
    assert_eq!(store.sink.accept_loss(&table).await.unwrap(), 0);
    assert_eq!(world.entries(), entries, "nothing is committed");
    assert_eq!(receipts(&store).await.unwrap(), [a.receipt().unwrap()]);
}

/// Not even an administrator can make a file there.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_directory_that_cannot_be_written_is_told_by_name() {
    let cpu = strait_common::cpu::CpuPool::new(1);
    let disk = strait_lake::disk::Disk::default();
    let store = strait_lake::open_directory("/proc".into(), cpu, disk);
    let error = store.await.unwrap().sink.check_writable().await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");
    assert!(error.to_string().contains("the lake /proc"), "{error}");
    let world = World::new();
    let sink = world.process().await.sink;
    sink.check_writable().await.unwrap();
    assert_eq!(names(world.directory.path()), [""; 0], "nothing is left");
}
