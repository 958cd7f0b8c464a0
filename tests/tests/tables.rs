//! The sink's tables: who attaches, and what that means for who has attached.

use std::sync::Arc;
use std::time::Duration;

use agent_sink::tables::{TableId, Tables};
use strait_common::Kind;
use strait_common::digest::{Digest, DigestId};
use strait_common::engine::{
    Begun, Claim, Disposition, Finished, Level, Origin, Partition, PartitionWriter, Receipt, Sink,
    Version,
};
use strait_common::ids::RunId;
use strait_memory::{MemorySink, MemoryStore};
use strait_tests::simulation::cluster;

fn claim(run: u128) -> Claim {
    Claim {
        run: RunId::from_u128(run),
        table: cluster::table().expect("a table").name,
        agent: format!("agent {run}"),
        job: "{}".to_owned(),
        taken_at: 0,
    }
}

fn partition() -> Partition {
    Partition {
        key: cluster::key(1).expect("a key"),
        rows: None,
        bytes: None,
        version: Version("1".to_owned()),
        pin: String::new(),
        origin: Origin::default(),
    }
}

fn receipt() -> Receipt {
    let Partition { key, version, .. } = partition();
    Receipt {
        key,
        version,
        rows: 0,
        digest: Digest::default(),
        digest_id: DigestId::of(&cluster::schema()).expect("an id"),
        level: Level::Received,
        selection: String::new(),
        origin: Origin::default(),
    }
}

/// A sink with the table in it, and a process that has attached nobody yet.
async fn prepared() -> (Arc<dyn Sink>, Tables, TableId) {
    let table = cluster::table().expect("a table");
    let sink: Arc<dyn Sink> = Arc::new(MemorySink::open(&MemoryStore::new()));
    sink.prepare(&table.name, &table, false)
        .await
        .expect("prepare");
    let tables = Tables::new(Duration::from_secs(5));
    let id = TableId {
        store: "b".to_owned(),
        table: table.name,
    };
    (sink, tables, id)
}

async fn begun(attached: &agent_sink::tables::Attached) -> Box<dyn PartitionWriter> {
    let begun = attached
        .attachment
        .begin(&partition(), Disposition::Append, None)
        .await;
    match begun.expect("begin") {
        Begun::Writer(writer) => writer,
        Begun::Already(receipt) => panic!("there already: {receipt:?}"),
    }
}

#[tokio::test]
async fn a_run_that_is_refused_does_not_disturb_the_one_that_owns_the_table() {
    let (sink, tables, id) = prepared().await;
    let owner = tables.attach(&id, &sink, &claim(1)).await.expect("attach");
    let writer = begun(&owner).await;

    let refused = tables.attach(&id, &sink, &claim(2)).await;
    let refused = refused.expect_err("another run owns the table");
    assert_eq!(refused.kind(), Kind::Refused);
    assert!(refused.to_string().contains("agent 1"), "{refused}");
    // The same run with another job is refused by the store itself.
    let other_job = Claim {
        job: "[]".to_owned(),
        ..claim(1)
    };
    let refused = tables.attach(&id, &sink, &other_job).await;
    assert_eq!(refused.expect_err("another job").kind(), Kind::Refused);

    let finished = owner.finish(writer, receipt()).await;
    assert_eq!(finished.expect("it goes on"), Finished::Now);
}

#[tokio::test]
async fn an_attempt_that_was_followed_publishes_nothing_more() {
    let (sink, tables, id) = prepared().await;
    let older = tables.attach(&id, &sink, &claim(1)).await.expect("attach");
    let writer = begun(&older).await;
    tables.attach(&id, &sink, &claim(1)).await.expect("again");
    let finished = older.finish(writer, receipt()).await;
    assert_eq!(finished.expect_err("too late").kind(), Kind::Fenced);
}
