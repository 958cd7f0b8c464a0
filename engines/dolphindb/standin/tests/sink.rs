//! What the sink does when the server, the way to it, or somebody else is not as it should be. The suite that every engine passes is in `conformance.rs`.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use async_trait::async_trait;
use futures::TryStreamExt;
use strait_common::cpu::CpuPool;
use strait_common::engine::{
    Begun, Disposition, Division, DivisionKind, Outcome, Position, Prepared, Store, Table,
};
use strait_common::ids::TableName;
use strait_common::selection::Selection;
use strait_common::{Error, Kind, Result};
use strait_conformance::data::{claim, ensure_exactly, schema, table, table_name};
use strait_conformance::life::{Life, Until};
use strait_conformance::{Part, visible_rows};
use strait_dolphindb::{BATCH_BYTES, Cluster, DolphinSink, DolphinSource, Options, Watch};
use strait_dolphindb_standin::{Fault, Offers, Settings, StandIn};

type Act = Box<dyn FnOnce() -> Result<()> + Send>;

/// Does something before the next step that is called so.
#[derive(Default)]
struct Before {
    armed: Mutex<Vec<(&'static str, Act)>>,
    /// Ends the process before this step, counted from 1.
    end: AtomicU64,
    taken: AtomicU64,
}

impl std::fmt::Debug for Before {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Before")
    }
}

#[async_trait]
impl Watch for Before {
    async fn step(&self, what: &'static str) -> Result<()> {
        let taken = self.taken.fetch_add(1, Ordering::SeqCst) + 1;
        let end = self.end.load(Ordering::SeqCst);
        if end > 0 && taken >= end {
            return Err(dead());
        }
        let mut armed = self.armed.lock().unwrap();
        match armed.iter().position(|(name, _)| *name == what) {
            None => Ok(()),
            Some(at) => (armed.remove(at).1)(),
        }
    }
}

fn dead() -> Error {
    Error::internal("the process died")
}

struct World {
    standin: Arc<StandIn>,
    directory: tempfile::TempDir,
}

async fn prepared(store: &Store, table: &Table) -> Prepared {
    let prepared = store.sink.prepare(&table.name, table, false).await;
    prepared.unwrap()
}

impl World {
    async fn new() -> World {
        let offers = Offers {
            scram: false,
            rsa: false,
        };
        let settings = Settings {
            offers,
            ..Settings::default()
        };
        World {
            standin: Arc::new(StandIn::start(settings).await.unwrap()),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn cluster(&self) -> Cluster {
        Cluster::new(Options::of_site("127.0.0.1", self.standin.address().port())).unwrap()
    }

    /// A process with the journal in this directory.
    fn process_in(&self, journal: &Path, batch_bytes: u64) -> (Store, Arc<Before>) {
        let before = Arc::new(Before::default());
        let watch: Arc<dyn Watch> = Arc::clone(&before) as Arc<dyn Watch>;
        let cpu = CpuPool::new(1);
        let sink = DolphinSink::open(self.cluster(), journal, batch_bytes, cpu, Some(watch));
        let store = Store {
            source: Arc::new(DolphinSource::new(self.cluster())),
            sink: Arc::new(sink.unwrap()),
        };
        (store, before)
    }

    fn process(&self) -> (Store, Arc<Before>) {
        self.process_in(self.directory.path(), BATCH_BYTES)
    }

    async fn ensure(&self, parts: &[Part], when: &str) {
        let visible = visible_rows(&self.process().0, &table_name().unwrap()).await;
        if let Err(failure) = ensure_exactly(&visible.unwrap(), parts) {
            panic!("{when}: {failure}");
        }
    }

    /// Rows that somebody else appends.
    fn intrude(&self, part: &Part) {
        let rows = part.rows(0, part.len()).unwrap();
        let mut catalog = self.standin.catalog();
        catalog.append("dfs://suite", "ticks", &rows).unwrap();
    }
}

fn part(day: i32, symbol: &str, numbers: std::ops::Range<i64>) -> Part {
    let part = Part::new(Some(day), Some(symbol), numbers).unwrap();
    part.with_empty_texts(false)
}

fn parts() -> Vec<Part> {
    vec![
        part(20_000, "IBM", 100..110),
        part(20_001, "MSFT", 300..305),
    ]
}

fn life(run: u128, parts: &[Part], disposition: Disposition) -> Life {
    let mut life = Life::new(run, parts.to_vec()).unwrap();
    life.disposition = disposition;
    life
}

/// Whatever becomes of one request and its answer, the rows are there once, be it by the same attempt or the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_request_or_answer_loses_and_doubles_nothing() {
    let faults = [
        Fault::LoseBefore,
        Fault::LoseAfter,
        Fault::LoseMeanwhile(Duration::from_millis(150)),
        Fault::Truncate(20),
        Fault::Say("<ChunkInTransaction>locked. RefId:S00002".into()),
        Fault::Say("<DataNodeNotReady>".into()),
    ];
    let requests = [
        "n = tableInsert(",
        "dropPartition(",
        "variable straitRows",
        "function tableInsert{loadTable(\"dfs://strait_ledger\"",
        "addValuePartitions(",
        "createPartitionedTable(",
        "getTabletsMeta",
    ];
    for fault in &faults {
        for request in requests {
            let world = World::new().await;
            let old = vec![part(20_000, "IBM", 1..5).changed("v0", 1..5)];
            if request == "dropPartition(" {
                let (store, _) = world.process();
                let first = life(1, &old, Disposition::Append);
                first.live(&store, Until::Complete).await.unwrap();
            }
            let place = format!("{fault:?} of {request}");
            world.standin.fault(request, fault.clone());
            let second = life(2, &parts(), Disposition::Replace);
            let mut lives = 0;
            loop {
                let (store, _) = world.process();
                match second.live(&store, Until::Complete).await {
                    Ok(()) => break,
                    Err(error) => assert!(
                        lives < 2 && error.kind() == Kind::Unavailable,
                        "{place}: {error}"
                    ),
                }
                lives += 1;
            }
            assert_eq!(world.standin.faults_left(), 0, "{place}");
            if request == "n = tableInsert(" {
                assert_eq!(lives, 0, "{place}: the same attempt asks again");
                let lost = matches!(
                    fault,
                    Fault::LoseBefore
                        | Fault::LoseAfter
                        | Fault::LoseMeanwhile(_)
                        | Fault::Truncate(_)
                );
                let asked = world.standin.log();
                let looked = asked.iter().any(|line| line.contains("getConsoleJobs"));
                assert!(
                    looked || !lost,
                    "{place}: nobody asked whether the lost request still runs"
                );
            }
            world.ensure(&parts(), &place).await;
        }
    }
}

/// An older request that still runs is cancelled, or waited for, before a count decides what it has done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_still_runs_is_not_decided_by_a_count() {
    let world = World::new().await;
    let insert = "n = tableInsert(";
    // It would be done long after the count of a hasty client.
    world
        .standin
        .fault(insert, Fault::LoseMeanwhile(Duration::from_millis(700)));
    let (store, before) = world.process();
    before
        .armed
        .lock()
        .unwrap()
        .push(("hear of a request", Box::new(|| Err(dead()))));
    let run = life(1, &parts(), Disposition::Append);
    let error = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal, "{error}");
    let (store, _) = world.process();
    run.live(&store, Until::Complete).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    world
        .ensure(&parts(), "after all requests have ended")
        .await;
    let asked = world.standin.log();
    assert!(
        asked.iter().any(|line| line.contains("cancelConsoleJob")),
        "{asked:?}"
    );
}

/// A partition larger than a batch: readers may see a part of it, and nobody ever sees a row twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_after_batch_killed_at_every_step() {
    for disposition in [Disposition::Append, Disposition::Replace] {
        for end in 1.. {
            let world = World::new().await;
            let old = part(20_000, "IBM", 1..5).changed("v0", 1..5);
            let (store, _) = world.process();
            let first = life(1, std::slice::from_ref(&old), Disposition::Append);
            first.live(&store, Until::Complete).await.unwrap();
            let run = life(2, &parts(), disposition);
            // Each piece of rows is a batch of its own.
            let (store, before) = world.process_in(world.directory.path(), 1);
            before.end.store(end, Ordering::SeqCst);
            let lived = run.live(&store, Until::Complete).await;
            let reached = before.taken.load(Ordering::SeqCst) >= end;
            if let Err(error) = lived {
                assert!(
                    reached && error.kind() == Kind::Internal,
                    "step {end}: {error}"
                );
            }
            // The next process has other settings.
            let (store, _) = world.process_in(world.directory.path(), 300);
            run.live(&store, Until::Complete).await.unwrap();
            let mut all = parts();
            if disposition == Disposition::Append {
                all.push(old);
            }
            world
                .ensure(&all, &format!("{disposition:?}, step {end}"))
                .await;
            if !reached {
                assert!(end > 20, "a life of {end} steps");
                break;
            }
        }
    }
}

/// Rows that others put into a partition while it is published are neither taken for ours nor removed unasked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_somebody_else_are_for_a_person() {
    let world = World::new().await;
    let part_of = parts().remove(0);
    let stranger = part(20_000, "IBM", 900..903);
    let (store, before) = world.process();
    let (standin, rows) = (Arc::clone(&world.standin), stranger.rows(0, 3).unwrap());
    let intrude: Act = Box::new(move || {
        let inserted = standin.catalog().append("dfs://suite", "ticks", &rows);
        assert_eq!(inserted.unwrap(), 3);
        Ok(())
    });
    before
        .armed
        .lock()
        .unwrap()
        .push(("send a request", intrude));
    let run = life(1, std::slice::from_ref(&part_of), Disposition::Append);
    let error = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(
        error
            .to_string()
            .contains("has 3 rows where 0 were expected"),
        "{error}"
    );
    // It stays so, and says the same again.
    let (store, _) = world.process();
    let again = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(again.kind(), Kind::Refused, "{again}");
    world
        .ensure(&[stranger], "the rows of somebody else stay")
        .await;
    let attachment = store.sink.attach(&run.claim).await.unwrap();
    attachment.complete(Outcome::Partial).await.unwrap();
    let replacing = life(2, std::slice::from_ref(&part_of), Disposition::Replace);
    replacing.live(&store, Until::Complete).await.unwrap();
    world.ensure(&[part_of], "after replacing it").await;
}

/// The server drops rows that no partition takes, and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_server_drops_are_noticed() {
    let world = World::new().await;
    let part_of = parts().remove(0);
    let (store, before) = world.process();
    let standin = Arc::clone(&world.standin);
    let forget: Act = Box::new(move || {
        let mut catalog = standin.catalog();
        let database = catalog.databases.get_mut("dfs://suite").unwrap();
        let table = database.tables.get_mut("ticks").unwrap();
        for (_, scheme) in &mut table.divisions {
            if let strait_dolphindb_standin::Scheme::Value(known) = scheme {
                known.array = known.array.slice(0, 1);
                assert_eq!(known.array.len(), 1);
            }
        }
        Ok(())
    });
    before
        .armed
        .lock()
        .unwrap()
        .push(("send a request", forget));
    let run = life(1, &[part_of], Disposition::Append);
    let error = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(
        error.to_string().contains("has taken 0 of 10 rows"),
        "{error}"
    );
}

/// And it may change values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_the_server_changes_are_noticed() {
    let world = World::new().await;
    let part_of = parts().remove(0);
    let (store, before) = world.process();
    let standin = Arc::clone(&world.standin);
    let other = part(20_000, "IBM", 101..111);
    let change: Act = Box::new(move || {
        let mut catalog = standin.catalog();
        let database = catalog.databases.get_mut("dfs://suite").unwrap();
        let table = database.tables.get_mut("ticks").unwrap();
        for chunk in table.chunks.values_mut() {
            chunk.batches = vec![other.rows(0, 10).unwrap()];
        }
        Ok(())
    });
    before
        .armed
        .lock()
        .unwrap()
        .push(("hear of a request", change));
    let run = life(1, &[part_of], Disposition::Append);
    let error = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(
        error.to_string().contains("the server has changed values"),
        "{error}"
    );
}

/// A row is of the partition that it came as, or nothing of it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_another_partition_is_corrupt() {
    let world = World::new().await;
    let (store, _) = world.process();
    let (ours, other) = (part(20_000, "IBM", 1..5), part(20_000, "MSFT", 5..9));
    let run = life(1, &[other.under(ours.key.clone())], Disposition::Append);
    let error = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("symbol"), "{error}");
    world.ensure(&[], "nothing was sent").await;
}

/// Nobody but the journal knows what is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_journal_is_noticed_and_can_be_given_up() {
    let world = World::new().await;
    let (store, _) = world.process();
    let run = life(1, &parts(), Disposition::Append);
    run.live(&store, Until::Complete).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let (second, _) = world.process_in(elsewhere.path(), BATCH_BYTES);
    let newer = vec![part(20_000, "IBM", 500..504)];
    let replacing = life(2, &newer, Disposition::Replace);
    let error = replacing.live(&second, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("another journal"), "{error}");
    world.ensure(&parts(), "after a refusal").await;
    let name = table_name().unwrap();
    assert!(second.sink.accept_loss(&name).await.unwrap() > 0);
    assert_eq!(second.sink.accept_loss(&name).await.unwrap(), 0);
    replacing.live(&second, Until::Complete).await.unwrap();
    let after = [newer, parts().split_off(1)].concat();
    world.ensure(&after, "after the second journal's run").await;
    // From now on the first one is the stranger, even in the middle of a run.
    let error = life(3, &parts(), Disposition::Replace)
        .live(&store, Until::Complete)
        .await;
    assert_eq!(error.unwrap_err().kind(), Kind::Refused);
}

/// A journal that was put back from an old copy would send again what newer attempts have sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_the_journal_is_noticed() {
    let world = World::new().await;
    let (store, _) = world.process();
    life(1, &parts()[..1], Disposition::Append)
        .live(&store, Until::Complete)
        .await
        .unwrap();
    drop(store);
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(world.directory.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    let (store, _) = world.process();
    life(2, &parts()[1..], Disposition::Append)
        .live(&store, Until::Complete)
        .await
        .unwrap();
    let (old, _) = world.process_in(copy.path(), BATCH_BYTES);
    let error = life(2, &parts()[1..], Disposition::Append)
        .live(&old, Until::Complete)
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("old copy"), "{error}");
    world.ensure(&parts(), "after a refusal").await;
}

fn divided(name: &str, levels: &[(&str, DivisionKind)]) -> Table {
    let level = |(column, kind): &(&str, DivisionKind)| Division {
        column: (*column).to_owned(),
        kind: *kind,
    };
    Table {
        name: TableName::new("suite", name).unwrap(),
        schema: schema(),
        divisions: levels.iter().map(level).collect(),
        recipe: None,
    }
}

/// What is in a cache that metadata say nothing of was stored all the same: it is counted and read, and not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_a_cache_of_the_servers_are_there() {
    for disposition in [Disposition::Append, Disposition::Replace] {
        let world = World::new().await;
        world.standin.catalog().cached = true;
        let (store, _) = world.process();
        let run = life(1, &parts(), disposition);
        run.live(&store, Until::Complete).await.unwrap();
        let asked = world.standin.log();
        let removed = asked.iter().filter(|line| line.contains("dropPartition("));
        // What takes the place of others looks for them once, each; nothing is taken for lost.
        let looked = match disposition {
            Disposition::Append => 0,
            Disposition::Replace => parts().len(),
        };
        assert_eq!(removed.count(), looked);
        world.standin.catalog().cached = false;
        world.ensure(&parts(), "flushed").await;
        // What was not known then is not believed now: B is read.
        let everything = Selection::everything(&schema());
        let name = table_name().unwrap();
        let holdings = store.sink.holdings(&name, &everything);
        let holdings: Vec<_> = holdings.await.unwrap().try_collect().await.unwrap();
        assert!(holdings.iter().all(|holding| !holding.intact));
    }
}

/// A recipe says TSDB, and a database that is there says what it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_that_is_there_decides_which_engine_keeps_a_table() {
    let plain = table(true).unwrap();
    let recipe = "{\"dolphindb\": 1, \"engine\": \"TSDB\", \"sort_columns\": [\"symbol\", \"number\"], \"keep_duplicates\": \"LAST\"}";
    let sorted = Table {
        name: TableName::new("suite", "sorted").unwrap(),
        recipe: Some(recipe.to_owned()),
        ..plain.clone()
    };
    let engine_of = async |store: &Store, name: &TableName| {
        let described = store.source.describe(name).await.unwrap();
        let said = described.recipe.unwrap();
        ["TSDB", "LAST", "symbol\",\"number"].map(|word| said.contains(word))
    };
    let world = World::new().await;
    let (store, _) = world.process();
    let dry = store.sink.prepare(&sorted.name, &sorted, true).await;
    let dry = dry.unwrap();
    assert_eq!(dry.created.len(), 2);
    assert!(dry.created[1].contains("TSDB engine, sorted by symbol, number"));
    assert!(dry.notes[0].contains("one row of each key"), "{dry:?}");
    assert_eq!(prepared(&store, &sorted).await.created, dry.created);
    assert_eq!(engine_of(&store, &sorted.name).await, [true; 3]);
    // A table without a recipe has nothing that TSDB could sort by.
    let error = store.sink.prepare(&plain.name, &plain, false).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(
        error.to_string().contains("suite is of the TSDB engine"),
        "{error}"
    );
    assert_eq!(store.source.tables().await.unwrap().len(), 1);

    let world = World::new().await;
    let (store, _) = world.process();
    prepared(&store, &plain).await;
    let made = prepared(&store, &sorted).await;
    assert_eq!(made.created, ["table suite/sorted"]);
    assert!(made.notes[0].contains("OLAP engine"), "{made:?}");
    assert_eq!(engine_of(&store, &sorted.name).await, [false; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_divides_all_of_its_tables_alike() {
    let world = World::new().await;
    let (store, _) = world.process();
    let first = table(true).unwrap();
    store
        .sink
        .prepare(&first.name, &first, false)
        .await
        .unwrap();
    let alike = divided(
        "others",
        &[("day", DivisionKind::Value), ("note", DivisionKind::Value)],
    );
    let made = store
        .sink
        .prepare(&alike.name, &alike, false)
        .await
        .unwrap();
    assert_eq!(made.created, ["table suite/others"]);
    let buckets = DivisionKind::Hash { buckets: 3 };
    for levels in [
        &[("day", DivisionKind::Value)][..],
        &[("day", DivisionKind::Value), ("symbol", buckets)],
    ] {
        let other = divided("another", levels);
        for dry_run in [true, false] {
            let error = store
                .sink
                .prepare(&other.name, &other, dry_run)
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{error}");
            assert!(error.to_string().contains("database suite"), "{error}");
        }
    }
    let names = store.source.tables().await.unwrap();
    assert_eq!(names.len(), 2, "{names:?}");
}

/// Ranges are made by a person; those after the last one are added as they come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_added_where_the_last_one_ends() {
    let world = World::new().await;
    let (store, _) = world.process();
    let ranges = divided("ticks", &[("number", DivisionKind::Range)]);
    let error = store
        .sink
        .prepare(&ranges.name, &ranges, false)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("ranges of number"), "{error}");
    let mut lease = world.cluster().connect().await.unwrap();
    let make = "database(\"dfs://suite\", RANGE, [0, 10])";
    lease.connection().script(make).await.unwrap();
    store
        .sink
        .prepare(&ranges.name, &ranges, false)
        .await
        .unwrap();
    let parts = [
        Part::of_numbers(0..10).unwrap().with_empty_texts(false),
        Part::of_numbers(10..30).unwrap().with_empty_texts(false),
    ];
    let attachment = store.sink.attach(&claim(1).unwrap()).await.unwrap();
    for part in &parts {
        let begun = attachment
            .begin(&part.partition(), Disposition::Append, None)
            .await;
        let Begun::Writer(mut writer) = begun.unwrap() else {
            panic!("{part:?} was never begun");
        };
        let mut rows = part.rows(0, part.len()).unwrap();
        if let Some(symbol) = rows.column_by_name("symbol") {
            assert!(symbol.null_count() > 0);
        }
        writer.append(rows.slice(0, 3)).await.unwrap();
        rows = rows.slice(3, rows.num_rows() - 3);
        writer.append(rows).await.unwrap();
        writer.finish(part.receipt().unwrap()).await.unwrap();
    }
    world.ensure(&parts, "after both ranges").await;
    let beyond = Part::of_numbers(40..50).unwrap();
    let begun = attachment
        .begin(&beyond.partition(), Disposition::Append, None)
        .await;
    let error = begun.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("number"), "{error}");
    let positions: Vec<Position> = attachment
        .positions()
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert!(positions.is_empty(), "{positions:?}");
}

/// The source's buckets are taken only where the server counts them out alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_of_another_hash_are_refused_before_a_row_is_in() {
    let world = World::new().await;
    let (store, _) = world.process();
    let buckets = divided("ticks", &[("symbol", DivisionKind::Hash { buckets: 4 })]);
    store
        .sink
        .prepare(&buckets.name, &buckets, false)
        .await
        .unwrap();
    let attachment = store.sink.attach(&claim(1).unwrap()).await.unwrap();
    let ours = part(20_000, "IBM", 0..8);
    let rows: RecordBatch = ours.rows(0, 8).unwrap();
    let mut taken = 0;
    for index in 0..4 {
        let key = format!("symbol=bucket({index},4)").parse().unwrap();
        let asked = ours.clone().under(key);
        let begun = attachment
            .begin(&asked.partition(), Disposition::Append, None)
            .await;
        let Begun::Writer(mut writer) = begun.unwrap() else {
            panic!("bucket {index} was never begun");
        };
        writer.append(rows.clone()).await.unwrap();
        match writer.finish(asked.receipt().unwrap()).await {
            Ok(_) => taken += 1,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Refused, "{error}");
                assert!(error.to_string().contains("another bucket"), "{error}");
            }
        }
    }
    assert_eq!(taken, 1);
    world.ensure(&[ours], "in the one bucket").await;
}

/// An attempt of another machine with the same journal, late: the server's own ledger stops it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_itself_stops_a_late_attempt() {
    let world = World::new().await;
    let part_of = parts().remove(0);
    let (store, before) = world.process();
    let (standin, name) = (Arc::clone(&world.standin), table_name().unwrap());
    let overtake: Act = Box::new(move || {
        let mut catalog = standin.catalog();
        let ledger = catalog.table("dfs://strait_ledger", "epochs").unwrap();
        let mut rows = ledger.rows(|_| true).unwrap();
        assert!(rows.num_rows() > 0);
        let mut columns = rows.columns().to_vec();
        columns[2] = Arc::new(arrow::array::Int64Array::from(vec![1000; rows.num_rows()]));
        rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
        catalog
            .append("dfs://strait_ledger", "epochs", &rows)
            .unwrap();
        Ok(())
    });
    before
        .armed
        .lock()
        .unwrap()
        .push(("send a request", overtake));
    let run = life(1, &[part_of], Disposition::Append);
    let error = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    assert!(error.to_string().contains("1000"), "{error} of {name}");
    world.ensure(&[], "nothing was written").await;
}

/// What came before a run is noticed by the plan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_run_has_put_there_are_foreign() {
    let world = World::new().await;
    let (store, _) = world.process();
    let ticks = table(true).unwrap();
    let prepare = async || prepared(&store, &ticks).await;
    prepare().await;
    let mut lease = world.cluster().connect().await.unwrap();
    let add = "addValuePartitions(database(\"dfs://suite\"), [2024.10.04], 0); addValuePartitions(database(\"dfs://suite\"), [\"IBM\"], 1)";
    lease.connection().script(add).await.unwrap();
    assert!(!prepare().await.foreign);
    world.intrude(&part(20_000, "IBM", 0..3));
    assert!(prepare().await.foreign);
    life(1, &parts(), Disposition::Replace)
        .live(&store, Until::Complete)
        .await
        .unwrap();
    assert!(!prepare().await.foreign);
    world.ensure(&parts(), "replaced").await;
}

/// The source's lists are taken only where the server has the same ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_take_their_own_rows_and_no_others() {
    let world = World::new().await;
    let (store, _) = world.process();
    let mut lease = world.cluster().connect().await.unwrap();
    let make = "database(\"dfs://suite\", LIST, ([\"AAPL\", \"IBM\"], [\"MSFT\"]))";
    lease.connection().script(make).await.unwrap();
    let lists = divided("ticks", &[("symbol", DivisionKind::Hash { buckets: 2 })]);
    store
        .sink
        .prepare(&lists.name, &lists, false)
        .await
        .unwrap();
    let attachment = store.sink.attach(&claim(1).unwrap()).await.unwrap();
    let ours = part(20_000, "IBM", 0..8);
    let rows: RecordBatch = ours.rows(0, 8).unwrap();
    for (list, takes) in [(1, false), (0, true)] {
        let key = format!("symbol=bucket({list},2)").parse().unwrap();
        let asked = ours.clone().under(key);
        let begun = attachment
            .begin(&asked.partition(), Disposition::Append, None)
            .await;
        let Begun::Writer(mut writer) = begun.unwrap() else {
            panic!("list {list} was never begun");
        };
        writer.append(rows.clone()).await.unwrap();
        let finished = writer.finish(asked.receipt().unwrap()).await;
        if takes {
            finished.unwrap();
        } else {
            let error = finished.map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{error}");
            assert!(
                error.to_string().contains("another bucket or list"),
                "{error}"
            );
        }
    }
    world.ensure(&[ours], "in the one list").await;
}

/// Where the server tells no versions, a run is as exact as ever, whatever dies, and nothing is taken for whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_is_told_no_versions_believes_none() {
    for end in 1.. {
        let world = World::new().await;
        world.standin.catalog().denied.push("getTabletsMeta".into());
        let old = part(20_000, "IBM", 1..5).changed("v0", 1..5);
        let (store, _) = world.process();
        let first = life(1, std::slice::from_ref(&old), Disposition::Append);
        first.live(&store, Until::Complete).await.unwrap();
        let run = life(2, &parts(), Disposition::Append);
        let (store, before) = world.process_in(world.directory.path(), 1);
        before.end.store(end, Ordering::SeqCst);
        let lived = run.live(&store, Until::Complete).await;
        let reached = before.taken.load(Ordering::SeqCst) >= end;
        assert!(lived.is_ok() || reached, "step {end}: {lived:?}");
        let (store, _) = world.process();
        run.live(&store, Until::Complete).await.unwrap();
        let all = [parts(), vec![old]].concat();
        world.ensure(&all, &format!("step {end}")).await;
        let everything = strait_common::selection::Selection::everything(&schema());
        let name = table_name().unwrap();
        let holdings = store.sink.holdings(&name, &everything);
        let holdings: Vec<_> = holdings.await.unwrap().try_collect().await.unwrap();
        assert_eq!(holdings.len(), 2);
        assert!(holdings.iter().all(|held| !held.intact), "{holdings:?}");
        if !reached {
            assert!(end > 20, "a life of {end} steps");
            break;
        }
    }
}

/// The server loses all rows of the one partition but the first so many.
fn lose(world: &World, left: usize) -> Act {
    let standin = Arc::clone(&world.standin);
    Box::new(move || {
        let mut catalog = standin.catalog();
        let table = catalog.table("dfs://suite", "ticks").unwrap();
        for chunk in table.chunks.values_mut() {
            let rows = arrow::compute::concat_batches(&table.schema, &chunk.batches).unwrap();
            assert!(rows.num_rows() > left);
            chunk.batches = vec![rows.slice(0, left)];
        }
        Ok(())
    })
}

/// Before the answers with these numbers are heard, counted from 1, the server loses rows.
fn lose_at(world: &World, before: &Before, answers: &[usize], left: usize) {
    let mut armed = before.armed.lock().unwrap();
    for at in 1..=answers.iter().copied().max().unwrap_or(0) {
        let act: Act = if answers.contains(&at) {
            lose(world, left)
        } else {
            Box::new(|| Ok(()))
        };
        armed.push(("hear of a request", act));
    }
}

/// Rows that a server has taken and lost are sent once more where the partition was empty before them: what is left of them is removed, whoever dies meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_server_has_lost_are_sent_again() {
    let one = parts()[..1].to_vec();
    // After the third of four batches, and after the last.
    for (answer, left) in [(3, 4), (3, 0), (4, 4), (4, 0)] {
        for end in 1.. {
            let world = World::new().await;
            let (store, before) = world.process_in(world.directory.path(), 1);
            lose_at(&world, &before, &[answer], left);
            before.end.store(end, Ordering::SeqCst);
            let run = life(1, &one, Disposition::Append);
            let lived = run.live(&store, Until::Complete).await;
            let reached = before.taken.load(Ordering::SeqCst) >= end;
            assert!(lived.is_ok() || reached, "step {end}: {lived:?}");
            let (store, _) = world.process_in(world.directory.path(), 1);
            run.live(&store, Until::Complete).await.unwrap();
            let place = format!("{left} rows left after answer {answer}, step {end}");
            world.ensure(&one, &place).await;
            if !reached {
                let asked = world.standin.log();
                let removed = asked.iter().filter(|line| line.contains("dropPartition("));
                assert_eq!(removed.count(), usize::from(left > 0), "{place}");
                assert!(end > 20, "a life of {end} steps");
                break;
            }
        }
    }
}

/// Nothing is removed beside rows that were there before, nor of a server that loses rows again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_beside_other_rows_or_twice_is_for_a_person() {
    let one = parts()[..1].to_vec();
    let old = part(20_000, "IBM", 1..5).changed("v0", 1..5);
    for earlier in [true, false] {
        let world = World::new().await;
        if earlier {
            let first = life(1, std::slice::from_ref(&old), Disposition::Append);
            first
                .live(&world.process().0, Until::Complete)
                .await
                .unwrap();
        }
        let (store, before) = world.process_in(world.directory.path(), 1);
        // Without earlier rows: at the third batch; then a refused batch, the removal, and two more.
        let answers = if earlier { vec![3] } else { vec![3, 7] };
        lose_at(&world, &before, &answers, 5);
        let run = life(2, &one, Disposition::Append);
        let error = run.live(&store, Until::Complete).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert!(error.to_string().contains("has 5 rows where"), "{error}");
        let asked = world.standin.log();
        let removed = asked.iter().filter(|line| line.contains("dropPartition("));
        assert_eq!(removed.count(), usize::from(!earlier));
    }
}

/// What is appended to a table that keeps one row of each key is not what is stored; what takes the place of all rows can be compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_with_a_key_is_replaced_and_never_appended_to() {
    let world = World::new().await;
    let (store, _) = world.process();
    let ticks = table(true).unwrap();
    let prepare = async || prepared(&store, &ticks).await;
    prepare().await;
    assert!(prepare().await.notes.is_empty());
    let key = |columns: &[&str]| {
        let mut catalog = world.standin.catalog();
        let table = catalog.table("dfs://suite", "ticks").unwrap();
        table.keyed = columns.iter().map(|name| (*name).to_owned()).collect();
    };
    key(&["day", "number"]);
    let notes = prepare().await.notes;
    assert!(
        notes.len() == 1 && notes[0].contains("one row of each key"),
        "{notes:?}"
    );
    let appending = life(1, &parts(), Disposition::Append);
    let error = appending.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    let named = ["suite/ticks", "--mode replace or mirror"];
    assert!(
        named.iter().all(|name| error.to_string().contains(name)),
        "{error}"
    );
    world.ensure(&[], "nothing was appended").await;
    let give_up = async |life: &Life| {
        let attachment = store.sink.attach(&life.claim).await.unwrap();
        attachment.complete(Outcome::Partial).await.unwrap();
    };
    give_up(&appending).await;
    for (run, parts) in [
        (2, parts()),
        (
            3,
            vec![
                part(20_000, "IBM", 1..5).changed("v2", 50..70),
                parts().remove(1),
            ],
        ),
    ] {
        let replacing = life(run, &parts, Disposition::Replace);
        replacing.live(&store, Until::Complete).await.unwrap();
        world.ensure(&parts, &format!("run {run}")).await;
    }
    // Of rows with equal keys only one would be left.
    key(&["symbol"]);
    let replacing = life(4, &[part(20_000, "IBM", 1..9)], Disposition::Replace);
    let error = replacing.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains("equal keys"), "{error}");
}
