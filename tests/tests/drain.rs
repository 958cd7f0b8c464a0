//! The soft stop that meets a partition on its way to a stream.

use std::sync::{Arc, Mutex};

use agent_source::compression::Policy;
use agent_source::link::{Link, Window};
use agent_source::pace::Pacer;
use agent_source::session::{Assignment, Report};
use agent_source::stream::{self, Attempt, Board, Ended};
use strait_common::Result;
use strait_common::budget::Budget;
use strait_common::cpu::CpuPool;
use strait_common::digest::DigestId;
use strait_common::engine::{Disposition, Origin, Partition, Version};
use strait_common::frame::Compression;
use strait_common::ids::{Epoch, RunId};
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::shutdown::Shutdown;
use strait_common::tls::Dialling;
use strait_proto::v1::alive::Phase;
use strait_tests::WAIT_MAX;
use strait_tests::by_hand::sink::SinkByHand;
use strait_tests::lakes::{self, Lakes, TABLE};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A run with one partition that cannot be read, handed out when the test says so.
#[derive(Debug)]
struct SlowBoard {
    asked: Semaphore,
    handed_out: Semaphore,
    reports: Mutex<Vec<String>>,
}

impl Board for SlowBoard {
    async fn next(&self) -> Result<Option<Assignment>> {
        self.asked.add_permits(1);
        self.handed_out
            .acquire()
            .await
            .expect("it is open")
            .forget();
        Ok(Some(Assignment {
            seq: 7,
            partition: Partition {
                key: lakes::key(0),
                rows: None,
                bytes: None,
                version: Version("of nothing".to_owned()),
                pin: "no pin of the lake".to_owned(),
                origin: Origin::default(),
            },
            disposition: Disposition::Append,
            from: None,
            may_be_empty: true,
            files: false,
        }))
    }

    async fn report(&self, report: Report) -> Result<()> {
        self.reports
            .lock()
            .expect("no panic")
            .push(format!("{report:?}"));
        Ok(())
    }

    async fn lost(&self, seqs: Vec<u64>) {
        self.reports
            .lock()
            .expect("no panic")
            .push(format!("lost {seqs:?}"));
    }
}

/// On one thread, so that the stream cannot look for the partition after it has looked for the stop in vain.
#[tokio::test]
async fn a_partition_that_comes_after_the_soft_stop_is_left_unread() {
    let lakes = Lakes::filled(1, 10).await;
    let sink = SinkByHand::busy(Phase::Idle, WAIT_MAX).await;
    let source = lakes::open(&lakes.a()).await.source;
    let table = source
        .describe(&TABLE.parse().expect("a name"))
        .await
        .expect("a table");
    let selection = Selection::resolve(&SelectionSpec::default(), &table.schema, 0).expect("all");
    let shutdown = Shutdown::new();
    let attempt = Attempt {
        metrics: Default::default(),
        narrow: Vec::new(),
        run: RunId::from_u128(1),
        epoch: Epoch(1),
        link: Link::new("b", &sink.url(), &Dialling::default(), WAIT_MAX, WAIT_MAX)
            .expect("a link"),
        to: format!("b:{TABLE}").parse().expect("a place"),
        source,
        table: table.name.clone(),
        selection,
        digest_id: DigestId::of(&table.schema).expect("an id"),
        files_shape: None,
        schema: table.schema,
        window: Window {
            frames: 4,
            frame_bytes_max: 1 << 20,
        },
        chunk_bytes: 1 << 20,
        finishes_max: 1,
        compression: Policy::Fixed(Compression::None),
        bandwidth: Pacer::new(None, 1 << 20).share(None),
        stream_bytes: 1 << 20,
        budget: Budget::new(64 << 20).expect("a budget"),
        cpu: CpuPool::new(1),
        peer_timeout: WAIT_MAX,
        lease_wait_max: WAIT_MAX,
        engine_timeout: WAIT_MAX,
        shutdown: shutdown.clone(),
    };
    let board = Arc::new(SlowBoard {
        asked: Semaphore::new(0),
        handed_out: Semaphore::new(0),
        reports: Mutex::default(),
    });
    let mut streaming = JoinSet::new();
    streaming.spawn({
        let board = Arc::clone(&board);
        async move { stream::run(&attempt, &*board).await }
    });
    board.asked.acquire().await.expect("it is open").forget();
    // The stop is seen first: a stream looks for it before it looks at what it prepares.
    shutdown.drain();
    board.handed_out.add_permits(1);
    let ended = tokio::time::timeout(WAIT_MAX, streaming.join_next()).await;
    let ended = ended.expect("the stream ends").expect("it was started");
    let ended = ended.expect("no panic");
    assert_eq!(ended.expect("a stop is no error"), Ended::Well);
    let reports = board.reports.lock().expect("no panic").clone();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(
        reports[0].contains("Left") && reports[0].contains('7'),
        "{reports:?}"
    );
}
