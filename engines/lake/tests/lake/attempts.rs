//! Two processes on one table, finishes that wait on one another, and commits whose answer is lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use futures::poll;
use strait_common::Kind;
use strait_common::engine::{Begun, Disposition, Finished, Outcome, PositionState};
use strait_conformance::data::{self, Part};
use strait_lake::disk::Step;

use crate::trace::{Act, Verdict, Watch, check, is_log_entry};
use crate::world::{
    CHUNK, World, attach, begin, begun, copy, finish, positions, receipts, stage, three_parts,
};

/// How long a test waits for what must happen.
const WAIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_process_that_was_overtaken_changes_nothing_any_more() {
    let world = World::prepared().await;
    let [a, b, c] = three_parts();
    let stale = world.process().await;
    let older = attach(&stale, 1).await.unwrap();
    let mut to_append = stage(older.as_ref(), &a).await.unwrap();
    let mut to_checkpoint = begin(older.as_ref(), &b, None).await.unwrap();
    to_checkpoint
        .append(b.rows(0, CHUNK).unwrap())
        .await
        .unwrap();
    let mut to_finish = begin(older.as_ref(), &c, None).await.unwrap();
    to_finish.append(c.rows(0, c.len()).unwrap()).await.unwrap();

    let newer = attach(&world.process().await, 1).await.unwrap();
    let entries = world.entries();
    let refused = [
        (
            "append",
            to_append
                .append(a.rows(CHUNK, a.len()).unwrap())
                .await
                .err(),
        ),
        (
            "checkpoint",
            to_checkpoint.checkpoint(b.mark(CHUNK).unwrap()).await.err(),
        ),
        ("finish", to_finish.finish(c.receipt().unwrap()).await.err()),
        (
            "begin",
            older
                .begin(&c.partition(), Disposition::Append, None)
                .await
                .err(),
        ),
        ("drop", older.drop_partition(&a.key).await.err()),
        ("complete", older.complete(Outcome::Abandoned).await.err()),
    ];
    for (act, error) in refused {
        let error = error.unwrap_or_else(|| panic!("{act} succeeded"));
        assert_eq!(error.kind(), Kind::Fenced, "{act}: {error}");
        let owner = data::claim(1).unwrap().run.to_string();
        assert!(error.to_string().contains(&owner), "{act}: {error}");
    }
    assert_eq!(world.entries(), entries, "the log");
    world.ensure_visible(&[]).await;

    let held = positions(newer.as_ref()).await;
    let writer = begin(newer.as_ref(), &a, held.first()).await.unwrap();
    finish(writer, &a).await.unwrap();
    copy(newer.as_ref(), &b).await.unwrap();
    copy(newer.as_ref(), &c).await.unwrap();
    newer.complete(Outcome::Done).await.unwrap();
    let claim = stale.sink.claim(&data::table_name().unwrap()).await;
    assert_eq!(claim.unwrap(), None);
    world.ensure_visible(&[a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn partitions_finish_in_another_order_than_they_began() {
    let world = World::prepared().await;
    let [a, b, c] = three_parts();
    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    let on_a = stage(attachment.as_ref(), &a).await.unwrap();
    let on_b = stage(attachment.as_ref(), &b).await.unwrap();
    let on_c = stage(attachment.as_ref(), &c).await.unwrap();
    finish(on_c, &c).await.unwrap();
    world.ensure_visible(std::slice::from_ref(&c)).await;
    let both = futures::future::join(finish(on_b, &b), finish(on_a, &a)).await;
    assert_eq!(
        (both.0.unwrap(), both.1.unwrap()),
        (Finished::Now, Finished::Now)
    );
    attachment.complete(Outcome::Done).await.unwrap();
    assert_eq!(receipts(&store).await.unwrap().len(), 3);
    world.ensure_visible(&[a, b, c]).await;
}

/// A door that a step stands before until the test opens it.
#[derive(Default)]
pub(crate) struct Door {
    /// Whether somebody stands before it, and whether it is open.
    state: Mutex<(bool, bool)>,
    changed: Condvar,
}

impl Door {
    pub(crate) fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.0 = true;
        self.changed.notify_all();
        let (_state, timeout) = (self.changed)
            .wait_timeout_while(state, WAIT, |(_, open)| !*open)
            .unwrap();
        assert!(!timeout.timed_out(), "nobody opens the door");
    }

    pub(crate) fn wait_for_somebody(&self) {
        let state = self.state.lock().unwrap();
        let (_state, timeout) = (self.changed)
            .wait_timeout_while(state, WAIT, |(there, _)| !*there)
            .unwrap();
        assert!(!timeout.timed_out(), "nobody comes to the door");
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn finishes_that_wait_for_a_commit_share_the_next_one() {
    const PARTS: i64 = 12;
    let world = World::prepared().await;
    let watch = Watch::new();
    let store = world.watched(&watch).await;
    let attachment = attach(&store, 1).await.unwrap();
    let mut parts = Vec::new();
    let mut finishing = Vec::new();
    for at in 0..PARTS {
        let day = i32::try_from(at).unwrap();
        let part = Part::new(Some(day), Some("IBM"), at * 100..at * 100 + 5).unwrap();
        let mut writer = begin(attachment.as_ref(), &part, None).await.unwrap();
        writer.append(part.rows(0, 5).unwrap()).await.unwrap();
        // With its rows durable, a finish has only to wait for the commit.
        writer.checkpoint(part.mark(5).unwrap()).await.unwrap();
        finishing.push(writer.finish(part.receipt().unwrap()));
        parts.push(part);
    }
    let entries = world.entries().len();
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
    // The first one's commit stands still; each other finish comes to wait when it is polled once.
    assert!(poll!(&mut finishing[0]).is_pending());
    tokio::task::block_in_place(|| door.wait_for_somebody());
    for finish in &mut finishing[1..] {
        assert!(poll!(finish).is_pending());
    }
    door.open();
    for finished in futures::future::join_all(finishing).await {
        assert_eq!(finished.unwrap(), Finished::Now);
    }
    assert_eq!(
        world.entries().len() - entries,
        2,
        "{PARTS} finishes make one commit for the first and one for those that waited"
    );
    attachment.complete(Outcome::Done).await.unwrap();
    assert_eq!(receipts(&store).await.unwrap().len(), parts.len());
    world.ensure_visible(&parts).await;
}

/// Judges the step after a log entry got its name.
fn after_a_log_entry(watch: &Watch, verdict: Verdict) {
    let linked = Mutex::new(false);
    watch.judge(move |step| {
        let mut linked = linked.lock().unwrap();
        match step {
            Step::Link { to, .. } if is_log_entry(to) => {
                *linked = true;
                Verdict::Go
            }
            Step::SyncDirectory(path) if *linked && path.ends_with("_delta_log") => {
                *linked = false;
                verdict
            }
            _ => Verdict::Go,
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_commit_that_lands_and_answers_with_an_error_is_found_by_the_next_attempt() {
    let world = World::prepared().await;
    let [a, b, _] = three_parts();
    let watch = Watch::new();
    let store = world.watched(&watch).await;
    let attachment = attach(&store, 1).await.unwrap();
    let writer = stage(attachment.as_ref(), &a).await.unwrap();
    let entries = world.entries().len();
    after_a_log_entry(&watch, Verdict::Die);
    let error = finish(writer, &a).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(world.entries().len(), entries + 1, "it landed");
    drop((attachment, store));

    let store = world.process().await;
    let attachment = attach(&store, 1).await.unwrap();
    let held = positions(attachment.as_ref()).await;
    assert_eq!(held.len(), 1);
    assert_eq!(
        held[0].state,
        PositionState::Committed(a.receipt().unwrap())
    );
    let begin = begun(attachment.as_ref(), &a, Disposition::Append, None);
    assert!(matches!(begin.await.unwrap(), Begun::Already(_)));
    copy(attachment.as_ref(), &b).await.unwrap();
    attachment.complete(Outcome::Done).await.unwrap();
    world.ensure_visible(&[a, b]).await;
}

/// A commit is found in the log although its sync failed: that it is there does not make it durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_commit_whose_sync_failed_is_synced_before_it_is_acknowledged() {
    let world = World::new();
    let [a, ..] = three_parts();
    let watch = Watch::new();
    let store = world.watched(&watch).await;
    crate::world::prepare(&store).await.unwrap();
    after_a_log_entry(&watch, Verdict::Fail);
    let attachment = attach(&store, 1).await.unwrap();
    after_a_log_entry(&watch, Verdict::Fail);
    let finished = copy(attachment.as_ref(), &a).await;
    assert_eq!(finished.unwrap(), Finished::Now);
    after_a_log_entry(&watch, Verdict::Fail);
    attachment.complete(Outcome::Done).await.unwrap();
    let acts = watch.take();
    let returns = acts.iter().filter(|act| **act == Act::Return).count();
    assert_eq!(returns, 5, "prepare, attach, checkpoint, finish, complete");
    check(world.directory.path(), &acts).unwrap();
    world.ensure_visible(&[a]).await;
}

/// The suite's table with one more column.
fn wider() -> strait_common::engine::Table {
    let table = data::table(true).unwrap();
    let fields = table.schema.fields().iter().cloned();
    let volume = Field::new("volume", DataType::Int64, true);
    let fields = fields.chain([Arc::new(volume)]).collect::<Vec<_>>();
    strait_common::engine::Table {
        schema: Arc::new(Schema::new(fields)),
        ..table
    }
}

/// Columns whose commit landed with an error are there, durably; a disk that fails says so, at once and by its kind.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn columns_are_added_once_and_a_failing_disk_is_not_taken_for_a_faster_writer() {
    let world = World::prepared().await;
    let watch = Watch::new();
    let store = world.watched(&watch).await;
    let table = wider();
    let entries = world.entries().len();
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tried);
    watch.judge(move |step| match step {
        Step::Link { to, .. } if is_log_entry(to) => {
            counted.fetch_add(1, Ordering::SeqCst);
            Verdict::Fail
        }
        _ => Verdict::Go,
    });
    let failed = store.sink.add_columns(&table.name, &table, false).await;
    let failed = failed.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unavailable, "{failed}");
    assert!(failed.to_string().contains("add columns"), "{failed}");
    assert_eq!(tried.load(Ordering::SeqCst), 1, "nobody else was faster");
    assert_eq!(world.entries().len(), entries);
    after_a_log_entry(&watch, Verdict::Fail);
    let added = store.sink.add_columns(&table.name, &table, false).await;
    assert_eq!(added.unwrap(), ["volume"]);
    let acts = watch.take();
    let synced = acts
        .iter()
        .rposition(|act| matches!(act, Act::SyncDirectory(log) if log.ends_with("_delta_log")));
    let named = acts
        .iter()
        .rposition(|act| matches!(act, Act::Name { to, .. } if is_log_entry(to)));
    assert!(
        named.is_some() && synced > named,
        "the entry's name is made durable after its sync failed: {acts:?}"
    );
    assert_eq!(world.entries().len(), entries + 1);
}

/// Two processes that add the same columns at once, and a foreign commit in between, leave one of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn columns_that_two_add_at_once_are_there_once() {
    let world = World::prepared().await;
    let (table, one, other) = (wider(), world.process().await, world.process().await);
    let add = async |store: &strait_common::engine::Store| {
        store.sink.add_columns(&table.name, &table, false).await
    };
    let (first, second) = tokio::join!(add(&one), add(&other));
    for added in [first.unwrap(), second.unwrap()] {
        assert!(added.is_empty() || added == ["volume"], "{added:?}");
    }
    let described = one.source.describe(&table.name).await.unwrap().schema;
    let named = described
        .fields()
        .iter()
        .filter(|field| field.name() == "volume");
    assert_eq!(named.count(), 1, "{described:?}");
}

/// Commits that lose against others are tried again; what the table forbids is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_commit_goes_round_foreign_ones() {
    let world = Arc::new(World::prepared().await);
    let [a, ..] = three_parts();
    let watch = Watch::new();
    let store = world.watched(&watch).await;
    let attachment = attach(&store, 1).await.unwrap();
    let writer = stage(attachment.as_ref(), &a).await.unwrap();
    let (foreign, left) = (Arc::clone(&world), Mutex::new(5));
    watch.judge(move |step| {
        let mut left = left.lock().unwrap();
        if let Step::Link { to, .. } = step
            && is_log_entry(to)
            && *left > 0
        {
            *left -= 1;
            foreign.commit(&[serde_json::json!({"txn": {"appId": "foreign", "version": *left}})]);
        }
        Verdict::Go
    });
    let entries = world.entries().len();
    assert_eq!(finish(writer, &a).await.unwrap(), Finished::Now);
    assert_eq!(world.entries().len(), entries + 6);
    world.ensure_visible(&[a]).await;
}
