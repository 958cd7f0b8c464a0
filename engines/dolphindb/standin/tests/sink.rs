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
    Begun, Confirmed, Disposition, Division, DivisionKind, Outcome, Partition, Position, Prepared,
    Store, Table,
};
use strait_common::ids::TableName;
use strait_common::key::PartitionKey;
use strait_common::selection::{Selection, SelectionSpec};
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
            scram_user: false,
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

    /// Somebody else, who appends these rows when he comes.
    fn intruder(&self, part: &Part) -> Act {
        let (standin, rows) = (Arc::clone(&self.standin), part.rows(0, part.len()).unwrap());
        Box::new(move || {
            let inserted = standin.catalog().append("dfs://suite", "ticks", &rows);
            assert_eq!(inserted.unwrap(), rows.num_rows());
            Ok(())
        })
    }

    /// Rows that somebody else appends.
    fn intrude(&self, part: &Part) {
        self.intruder(part)().unwrap();
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
        Fault::SayAfter("<DataNodeNotAvail>".into()),
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

/// Rows that others put into a partition before the first of ours are neither taken for ours nor removed unasked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_come_before_the_first_of_ours_stop_one_attempt() {
    let world = World::new().await;
    let part_of = parts().remove(0);
    let stranger = part(20_000, "IBM", 900..903);
    let (store, before) = world.process();
    before
        .armed
        .lock()
        .unwrap()
        .push(("send a request", world.intruder(&stranger)));
    let run = life(1, std::slice::from_ref(&part_of), Disposition::Append);
    let error = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(
        error
            .to_string()
            .contains("has 3 rows where 0 were expected"),
        "{error}"
    );
    world
        .ensure(std::slice::from_ref(&stranger), "nothing of ours is there")
        .await;
    // None of ours was taken: the next attempt knows of those rows, and joins them.
    let (store, _) = world.process();
    run.live(&store, Until::Complete).await.unwrap();
    let both = [part_of, stranger];
    world.ensure(&both, "beside those of somebody else").await;
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
    // Where there is no newer one, it is given up in words.
    let name = table_name().unwrap();
    assert!(old.sink.accept_loss(&name).await.unwrap() > 0);
    let third = life(3, &parts(), Disposition::Replace);
    third.live(&old, Until::Complete).await.unwrap();
    world.ensure(&parts(), "replaced").await;
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

/// Two streams come to a new range at the same moment; each has a symbol of its own, which is new too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_another_stream_adds_first_is_added_once() {
    let world = World::new().await;
    let (store, before) = world.process();
    let make = "p0 = database(\"\", RANGE, [0, 10]); p1 = database(\"\", VALUE, [\"IBM\"]); \
                database(\"dfs://suite\", COMPO, [p0, p1])";
    let mut lease = world.cluster().connect().await.unwrap();
    lease.connection().script(make).await.unwrap();
    let levels = [
        ("number", DivisionKind::Range),
        ("symbol", DivisionKind::Value),
    ];
    prepared(&store, &divided("ticks", &levels)).await;
    let attachment = store.sink.attach(&claim(1).unwrap()).await.unwrap();
    let (other, handle) = (world.cluster(), tokio::runtime::Handle::current());
    let add: Act = Box::new(move || {
        tokio::task::block_in_place(|| {
            handle.block_on(async {
                let add = "addRangePartitions(database(\"dfs://suite\"), [10, 20], 0)";
                let mut lease = other.connect().await?;
                lease.connection().script(add).await?;
                Ok(())
            })
        })
    });
    before
        .armed
        .lock()
        .unwrap()
        .push(("add a partition to the scheme", add));
    let begin = async |key: &str| {
        let part = part(20_000, "IBM", 10..20).under(key.parse().unwrap());
        let partition = part.partition();
        attachment
            .begin(&partition, Disposition::Append, None)
            .await
    };
    let begun = begin("number=[10,20)/symbol='MSFT'").await.unwrap();
    assert!(matches!(begun, Begun::Writer(_)));
    // What can never be added is refused all the same.
    let error = begin("number=[40,50)/symbol='MSFT'").await.map(|_| ());
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
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
    give_up(&store, &appending).await;
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

const REFUSED: &str = "<NoPrivilege>Not granted. RefId: S00000";

/// The server refuses so many requests that have this text.
fn refuse(world: &World, request: &str, times: usize) {
    for _ in 0..times {
        world.standin.fault(request, Fault::Say(REFUSED.into()));
    }
}

async fn give_up(store: &Store, life: &Life) {
    let attachment = store.sink.attach(&life.claim).await.unwrap();
    attachment.complete(Outcome::Partial).await.unwrap();
}

/// A run that replaces, or drops this partition, is refused that, and given up.
async fn ensure_refused(store: &Store, life: &Life, drops: Option<&PartitionKey>) {
    let error = match drops {
        None => life.live(store, Until::Complete).await.unwrap_err(),
        Some(key) => {
            let attachment = store.sink.attach(&life.claim).await.unwrap();
            attachment.drop_partition(key).await.unwrap_err()
        }
    };
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    give_up(store, life).await;
}

async fn row_count(store: &Store) -> usize {
    let visible = visible_rows(store, &table_name().unwrap()).await;
    visible.unwrap().len()
}

/// A run may end with a part of a partition in place. No later run copies it beside that, however often it is tried; one that replaces it ends the matter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_has_left_half_done_is_not_copied_beside_it() {
    let world = World::new().await;
    let one = parts()[..1].to_vec();
    let store = disturbed(&world);
    let mut left = 0;
    for run in [1, 2, 3] {
        let appending = life(run, &one, Disposition::Append);
        let error = appending.live(&store, Until::Complete).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "run {run}: {error}");
        let text = error.to_string();
        assert!(text.contains("somebody else writes to it"), "{text}");
        give_up(&store, &appending).await;
        let count = row_count(&store).await;
        assert!(left == 0 || count == left, "run {run}: {count} rows");
        assert!(count > 7, "a part of it is there");
        left = count;
    }
    let replacing = life(4, &one, Disposition::Replace);
    replacing.live(&store, Until::Complete).await.unwrap();
    world.ensure(&one, "replaced").await;
    let more = part(20_000, "IBM", 500..504).changed("v2", 500..504);
    let appending = life(5, std::slice::from_ref(&more), Disposition::Append);
    appending.live(&store, Until::Complete).await.unwrap();
    let all = [one, vec![more]].concat();
    world.ensure(&all, "appended to what was replaced").await;
}

/// What a run could not end because the server refused it is ended by the first attempt that the server lets; the runs between say whose it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_could_not_end_is_ended_once_by_a_later_one() {
    let world = World::new().await;
    let one = parts()[..1].to_vec();
    let (store, before) = world.process_in(world.directory.path(), 1);
    let standin = Arc::clone(&world.standin);
    let refuse_next: Act = Box::new(move || {
        standin.fault("n = tableInsert(", Fault::Say(REFUSED.into()));
        Ok(())
    });
    {
        let mut armed = before.armed.lock().unwrap();
        armed.push(("send a request", Box::new(|| Ok(()))));
        armed.push(("send a request", refuse_next));
    }
    let first = life(1, &one, Disposition::Append);
    let error = first.live(&store, Until::Complete).await.unwrap_err();
    assert!(error.to_string().contains("<NoPrivilege>"), "{error}");
    refuse(&world, "n = tableInsert(", 1);
    give_up(&store, &first).await;
    let left = row_count(&store).await;
    assert!(left > 0);
    let second = life(2, &one, Disposition::Append);
    refuse(&world, "n = tableInsert(", 1);
    let error = second.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    let text = error.to_string();
    assert!(text.contains(&first.claim.run.to_string()), "{text}");
    assert_eq!(row_count(&store).await, left);
    // The server refuses nothing any more.
    give_up(&store, &second).await;
    world.ensure(&one, "the first run's rows are whole").await;
    let third = life(3, &one, Disposition::Append);
    third.live(&store, Until::Complete).await.unwrap();
    world.ensure(&one, "copied once").await;
}

/// A removal that the server has refused is carried out neither by who gives the run up nor later, when others have put rows there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_that_is_over_had_only_meant_to_do_is_not_done() {
    for replaces in [false, true] {
        let world = World::new().await;
        let old = part(20_000, "IBM", 1..5).changed("v0", 1..5);
        let (store, _) = world.process();
        let first = life(1, std::slice::from_ref(&old), Disposition::Append);
        first.live(&store, Until::Complete).await.unwrap();
        refuse(&world, "dropPartition(", 1);
        let second = life(2, &parts()[..1], Disposition::Replace);
        ensure_refused(&store, &second, (!replaces).then_some(&old.key)).await;
        assert_eq!(world.standin.faults_left(), 0);
        world.ensure(std::slice::from_ref(&old), "refused").await;
        let newer = part(20_000, "IBM", 500..504).changed("v3", 500..504);
        let third = life(3, std::slice::from_ref(&newer), Disposition::Append);
        third.live(&store, Until::Complete).await.unwrap();
        let fourth = life(4, &[], Disposition::Append);
        fourth.live(&store, Until::Complete).await.unwrap();
        world
            .ensure(&[old, newer], &format!("replaces: {replaces}"))
            .await;
    }
}

/// Receipts of a table that is not there any more say nothing about the one that is made in its place; but only the server can say that it is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_removed_is_copied_anew() {
    let world = World::new().await;
    let name = table_name().unwrap();
    let (store, _) = world.process();
    let receipts = async || -> usize {
        let receipts = store.sink.receipts(&name).await.unwrap();
        receipts.try_collect::<Vec<_>>().await.unwrap().len()
    };
    let copy = async |run: u128| {
        let run = life(run, &parts(), Disposition::Append);
        run.live(&store, Until::Complete).await
    };
    copy(1).await.unwrap();
    assert_eq!(receipts().await, 2);
    world
        .standin
        .catalog()
        .databases
        .get_mut("dfs://suite")
        .unwrap()
        .tables
        .remove("ticks");
    assert_eq!(receipts().await, 0);
    copy(2).await.unwrap();
    world.ensure(&parts(), "in the table made anew").await;
    world.standin.catalog().databases.remove("dfs://suite");
    copy(3).await.unwrap();
    world.ensure(&parts(), "in the database made anew").await;
    let said = Fault::Say("The user name or password is incorrect.".into());
    world.standin.fault("schema(loadTable(", said);
    let error = copy(4).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");
    copy(4).await.unwrap();
    assert_eq!(receipts().await, 2);
    world.ensure(&parts(), "nothing was forgotten").await;
}

/// Whether a request still runs is asked only of one that was not answered; and what one partition waits for does not keep a run from its table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_request_that_was_answered() {
    let world = World::new().await;
    let (store, _) = world.process();
    let fail = || {
        let said = Fault::Say("Out of memory. RefId: S04000".into());
        world.standin.fault("n = tableInsert(", said);
    };
    let run = life(1, &parts(), Disposition::Append);
    fail();
    let error = run.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    fail();
    run.live(&store, Until::Complete).await.unwrap();
    assert_eq!(world.standin.faults_left(), 0);
    world.ensure(&parts(), "after two refusals").await;
    let asked = world.standin.log();
    let looked = asked.iter().any(|line| line.contains("getConsoleJobs"));
    assert!(!looked, "{asked:?}");
    // The rows of a refused batch are not kept in a session that lives on.
    let free = "script undef(\"straitRows\", VAR)";
    let freed = asked.iter().filter(|line| line.as_str() == free);
    assert_eq!(freed.count(), 2, "{asked:?}");
    // An error that may be said after the rows are in proves nothing: the count tells.
    let more = part(20_000, "IBM", 500..504).changed("v2", 500..504);
    let said = Fault::SayAfter("<DataNodeNotAvail>".into());
    world.standin.fault("n = tableInsert(", said);
    let second = life(2, std::slice::from_ref(&more), Disposition::Append);
    second.live(&store, Until::Complete).await.unwrap();
    assert_eq!(world.standin.faults_left(), 0);
    let all = [parts(), vec![more]].concat();
    world
        .ensure(&all, "after an error that came too late")
        .await;
}

/// A partition whose rows are gone, or may be, is not what the ledger says of it: whoever finds it copied is told so by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_half_replaced_is_not_taken_for_what_was_there() {
    // The removal is heard of; it is not, and is refused when it is sent again.
    for heard in [true, false] {
        let world = World::new().await;
        let (store, _) = world.process();
        let old = vec![part(20_000, "IBM", 1..5).changed("v0", 1..5)];
        let one = parts()[..1].to_vec();
        let first = life(1, &old, Disposition::Append);
        first.live(&store, Until::Complete).await.unwrap();
        let second = life(2, &one, Disposition::Replace);
        let (request, times) = if heard {
            ("n = tableInsert(", 3)
        } else {
            world.standin.fault("dropPartition(", Fault::LoseAfter);
            ("dropPartition(", 3)
        };
        // To the run, to who gives it up, and to the next one.
        refuse(&world, request, times);
        let error = second.live(&store, Until::Complete).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        give_up(&store, &second).await;
        assert_eq!(row_count(&store).await, 0);
        let receipts = store.sink.receipts(&table_name().unwrap()).await.unwrap();
        let receipts: Vec<_> = receipts.try_collect().await.unwrap();
        assert!(receipts.is_empty(), "{receipts:?}");
        let third = life(3, &old, Disposition::Append);
        let error = third.live(&store, Until::Complete).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "heard {heard}: {error}");
        let text = error.to_string();
        assert!(text.contains(&second.claim.run.to_string()), "{text}");
        assert_eq!(world.standin.faults_left(), 0);
        // The server refuses nothing any more.
        give_up(&store, &third).await;
        world.ensure(&one, "the second run's rows").await;
    }
}

/// What was found equal is no longer what somebody could not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_confirmed_can_be_appended_to_again() {
    let world = World::new().await;
    let one = parts()[..1].to_vec();
    let (store, before) = world.process_in(world.directory.path(), 1);
    lose_at(&world, &before, &[3, 7], 5);
    let first = life(1, &one, Disposition::Append);
    let error = first.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    give_up(&store, &first).await;
    let selection = Selection::resolve(&SelectionSpec::default(), &schema(), 0).unwrap();
    let name = table_name().unwrap();
    let partitions = store.source.partitions(&name, &selection).await.unwrap();
    let partitions: Vec<Partition> = partitions.try_collect().await.unwrap();
    let left = part(20_000, "IBM", 100..105);
    let second = life(2, &[], Disposition::Replace);
    let attachment = store.sink.attach(&second.claim).await.unwrap();
    let confirmed = Confirmed {
        receipt: left.receipt().unwrap(),
        version: partitions[0].version.clone(),
    };
    attachment.confirm(&[confirmed]).await.unwrap();
    attachment.complete(Outcome::Done).await.unwrap();
    let more = part(20_000, "IBM", 500..504).changed("v2", 500..504);
    let third = life(3, std::slice::from_ref(&more), Disposition::Append);
    third.live(&store, Until::Complete).await.unwrap();
    world.ensure(&[left, more], "both").await;
}

/// One journal serves one cluster: what it knows of a table of that name elsewhere is neither believed nor forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_cluster_than_the_journals_is_noticed() {
    let world = World::new().await;
    let run = |run: u128| life(run, &parts(), Disposition::Append);
    run(1)
        .live(&world.process().0, Until::Complete)
        .await
        .unwrap();
    let other = World::new().await;
    let (elsewhere, _) = other.process_in(world.directory.path(), BATCH_BYTES);
    let refused = async |when: &str| {
        let error = run(2).live(&elsewhere, Until::Complete).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{when}: {error}");
        let text = error.to_string();
        assert!(text.contains("another cluster"), "{when}: {text}");
    };
    refused("without the table").await;
    // Nor where somebody has made it.
    let theirs = tempfile::tempdir().unwrap();
    let (made, _) = other.process_in(theirs.path(), BATCH_BYTES);
    prepared(&made, &table(true).unwrap()).await;
    refused("with the table").await;
    run(3)
        .live(&world.process().0, Until::Complete)
        .await
        .unwrap();
    world.ensure(&parts(), "at the journal's own cluster").await;
    // Unless it is given up in words.
    let name = table_name().unwrap();
    assert!(elsewhere.sink.accept_loss(&name).await.unwrap() > 0);
    assert_eq!(elsewhere.sink.accept_loss(&name).await.unwrap(), 0);
    run(4).live(&elsewhere, Until::Complete).await.unwrap();
    other.ensure(&parts(), "at the other cluster").await;
}

/// A run whose table is gone keeps nobody from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_ends_with_its_table() {
    let world = World::new().await;
    let name = table_name().unwrap();
    let (store, _) = world.process();
    let first = life(1, &parts(), Disposition::Append);
    first.live(&store, Until::Chunks(1)).await.unwrap();
    assert!(store.sink.claim(&name).await.unwrap().is_some());
    let attachment = store.sink.attach(&first.claim).await.unwrap();
    world.standin.catalog().databases.remove("dfs://suite");
    assert!(store.sink.claim(&name).await.unwrap().is_none());
    let second = life(2, &parts(), Disposition::Append);
    second.live(&store, Until::Complete).await.unwrap();
    world.ensure(&parts(), "in the table made anew").await;
    let partition = parts()[0].partition();
    let begun = attachment
        .begin(&partition, Disposition::Append, None)
        .await
        .map(|_| ());
    assert_eq!(begun.unwrap_err().kind(), Kind::Fenced);
}

/// A process whose first life has a part of its partition in place when somebody else comes.
fn disturbed(world: &World) -> Store {
    let (store, before) = world.process_in(world.directory.path(), 1);
    let stranger = part(20_000, "IBM", 900..907);
    let mut armed = before.armed.lock().unwrap();
    armed.push(("send a request", Box::new(|| Ok(()))));
    armed.push(("send a request", world.intruder(&stranger)));
    drop(armed);
    store
}

/// Nor is it forgotten by a replacement, or a removal, that the server has refused: that takes its place, and is ended by the first attempt that the server lets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_half_there_stays_so_while_it_cannot_be_replaced() {
    for replaces in [true, false] {
        let world = World::new().await;
        let one = parts()[..1].to_vec();
        let store = disturbed(&world);
        let first = life(1, &one, Disposition::Append);
        first.live(&store, Until::Complete).await.unwrap_err();
        give_up(&store, &first).await;
        let left = row_count(&store).await;
        // To the run, to who gives it up, and to the next one.
        refuse(&world, "dropPartition(", 3);
        let second = life(2, &one, Disposition::Replace);
        ensure_refused(&store, &second, (!replaces).then_some(&one[0].key)).await;
        let third = life(3, &one, Disposition::Append);
        let error = third.live(&store, Until::Complete).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        assert_eq!(world.standin.faults_left(), 0);
        assert_eq!(row_count(&store).await, left);
        give_up(&store, &third).await;
        let now: &[Part] = if replaces { &one } else { &[] };
        world.ensure(now, "what the second run meant").await;
        let fourth = life(4, &one, Disposition::Append);
        fourth.live(&store, Until::Complete).await.unwrap();
        world.ensure(&one, "copied once").await;
    }
}

/// A run that goes on after another one has taken away what it had copied is not told that it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_gone_on_with_does_not_believe_its_own_receipt_of_what_is_gone() {
    let world = World::new().await;
    let (store, _) = world.process();
    let one = parts()[..1].to_vec();
    let newer = vec![part(20_000, "IBM", 1..5).changed("v2", 1..5)];
    let first = life(1, &one, Disposition::Append);
    first.live(&store, Until::Complete).await.unwrap();
    let second = life(2, &newer, Disposition::Replace);
    // To the run, to who gives it up, and to the first one.
    refuse(&world, "n = tableInsert(", 3);
    second.live(&store, Until::Complete).await.unwrap_err();
    give_up(&store, &second).await;
    let error = first.live(&store, Until::Complete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains(&second.claim.run.to_string()));
    give_up(&store, &first).await;
    world.ensure(&newer, "what the second run meant").await;
}
