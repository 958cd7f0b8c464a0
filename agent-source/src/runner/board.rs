//! The run, as its streams see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use strait_common::Result;
use strait_common::cpu::CpuPool;
use strait_common::engine::{Partition, Source};
use strait_common::ids::TableName;
use strait_common::selection::Selection;

use super::handover::handover;
use super::{FLUSH_INTERVAL, Live, jitter};
use crate::metrics::Metrics;
use crate::run::{Next, Run};
use crate::session::{Assignment, Report};
use crate::stream::Board;

/// Hands partitions to streams and takes their reports.
#[derive(Debug)]
pub(super) struct RunBoard {
    pub(super) live: Arc<Live>,
    pub(super) cpu: CpuPool,
    /// Where a partition that has moved is looked up again.
    pub(super) source: Arc<dyn Source>,
    pub(super) table: TableName,
    pub(super) selection: Selection,
    pub(super) metrics: Arc<Metrics>,
    /// Which of the run's streams this is.
    pub(super) number: u32,
    pub(super) streams_max: u32,
}

impl RunBoard {
    /// Whether the run may not have so many streams now.
    pub(super) fn is_too_many(&self) -> bool {
        self.number >= self.live.streams(self.streams_max)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.live.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether no partition is left for any stream.
    ///
    /// # Errors
    /// `Unavailable` if the store cannot be read.
    pub(super) async fn nothing_left(&self) -> Result<bool> {
        self.live.decide(&self.cpu, |run| run.is_over()).await
    }

    fn count(&self, report: &Report, now_ms: u64) {
        match report {
            Report::Sent {
                rows,
                raw_bytes,
                wire_bytes,
                ..
            } => {
                self.metrics.rows_sent.inc_by(*rows);
                self.metrics.bytes_sent.inc_by(*raw_bytes);
                self.metrics.wire_bytes_sent.inc_by(*wire_bytes);
            }
            Report::Acked { .. } => self.live.progressed_ms.store(now_ms, Ordering::Relaxed),
            Report::Done { .. } => {
                self.live.progressed_ms.store(now_ms, Ordering::Relaxed);
                self.metrics.partitions_done.inc();
            }
            Report::Failed { .. } | Report::Left { .. } => {}
        }
    }

    /// Finds the partition that has moved as it is now, and writes it into the plan.
    async fn replan(&self, moved: Partition) -> Result<()> {
        let mut found = None;
        let mut partitions = self.source.partitions(&self.table, &self.selection).await?;
        while let Some(partition) = partitions.next().await {
            let partition = partition?;
            if partition.key == moved.key {
                found = Some(partition);
                break;
            }
        }
        tracing::info!(partition = %moved.key.label(), from = %moved.version,
            to = %found.as_ref().map(|found| found.version.to_string()).unwrap_or_default(), "the partition has moved");
        let now_ms = self.now_ms();
        let replan = move |run: &mut Run| run.replan(&moved, found, now_ms, jitter());
        self.live.decide(&self.cpu, replan).await
    }
}

impl Board for RunBoard {
    async fn next(&self) -> Result<Option<Assignment>> {
        loop {
            // Listened for from before the question on, so that no change is missed.
            let changed = self.live.changed.notified();
            if self.live.shutdown.is_draining() || self.is_too_many() {
                return Ok(None);
            }
            let now_ms = self.now_ms();
            // Most partitions need neither disk nor another thread.
            if let Some(Next::Partition(assignment)) = self.live.run().next_in_memory(now_ms) {
                return Ok(Some(*assignment));
            }
            let (giver, taker) = handover(|seq| {
                self.live.run().lost(&[seq], now_ms);
                self.live.changed.notify_waiters();
            });
            let next = move |run: &mut Run| {
                let next = run.next(now_ms)?;
                if let Next::Partition(assignment) = &next
                    && !giver.give(assignment.seq)
                {
                    run.lost(&[assignment.seq], now_ms);
                }
                Ok(next)
            };
            let next = self.live.decide(&self.cpu, next).await?;
            taker.taken();
            let wait = match next {
                Next::Partition(assignment) => return Ok(Some(*assignment)),
                Next::Nothing => return Ok(None),
                Next::Wait(ready_ms) => {
                    Duration::from_millis(ready_ms.saturating_sub(now_ms).max(1))
                }
                Next::Busy => FLUSH_INTERVAL,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
                () = self.live.shutdown.draining() => {}
            }
        }
    }

    async fn report(&self, report: Report) -> Result<()> {
        let now_ms = self.now_ms();
        let settles = !matches!(report, Report::Sent { .. } | Report::Acked { .. });
        self.count(&report, now_ms);
        let moved = match report {
            // Counting needs no disk.
            Report::Sent { .. } | Report::Acked { .. } => {
                self.live.run().report(report, now_ms, 0.0)?
            }
            Report::Done { .. } if self.live.run().has_room() => {
                self.live.run().report(report, now_ms, 0.0)?
            }
            report => {
                self.live
                    .decide(&self.cpu, move |run| run.report(report, now_ms, jitter()))
                    .await?
            }
        };
        if let Some(moved) = moved {
            self.replan(moved).await?;
        }
        if settles {
            self.live.changed.notify_waiters();
        }
        Ok(())
    }

    async fn lost(&self, seqs: Vec<u64>) {
        let now_ms = self.now_ms();
        self.live.run().lost(&seqs, now_ms);
        self.live.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use strait_common::engine::Version;
    use strait_common::ids::RunId;
    use strait_common::key::PartitionKey;
    use strait_common::retry::Backoff;
    use strait_common::selection::SelectionSpec;
    use strait_common::shutdown::Shutdown;

    use super::*;
    use crate::job::{Job, Order, Spec};
    use crate::pace::Pacer;
    use crate::runs::{RunRow, RunStore, Status};

    /// Far more than anything here takes: only what waits for ever lasts as long.
    const WAIT_MAX: Duration = Duration::from_secs(60);

    fn row() -> RunRow {
        let spec = Spec {
            from: "a:db1/mt".parse().unwrap(),
            to: "b:db1/mt".parse().unwrap(),
            partitions: Default::default(),
            narrow: Vec::new(),
            receipts: None,
            pass_through: Default::default(),
            selection: SelectionSpec::default(),
        };
        RunRow {
            bandwidth_max: None,
            id: RunId::from_u128(1),
            job: Job {
                spec,
                now: 0,
                resolved: String::new(),
                digest_id: String::new(),
                mode: crate::job::Mode::Append { again: false },
            },
            streams: 1,
            order: Order::Oldest,
            status: Status::Running,
            created_at: 0,
            started_at: 0,
            ended_at: 0,
            attempts: 0,
            epoch: 0,
            retries: 0,
            elapsed_ms: 0,
            message: String::new(),
            kind: None,
            warnings: Vec::new(),
        }
    }

    /// A run of one partition, whose decisions are made on a pool of one thread.
    fn board(directory: &Path) -> RunBoard {
        let mut store = RunStore::open(&directory.join("runs.sqlite")).unwrap();
        let partition = Partition {
            key: PartitionKey::new(Vec::new()).unwrap(),
            rows: None,
            bytes: None,
            version: Version("1".to_owned()),
            pin: String::new(),
            origin: strait_common::engine::Origin::default(),
        };
        let row = row();
        store.insert(&row, [Ok(partition)].into_iter()).unwrap();
        let backoff = Backoff {
            first: Duration::from_millis(1),
            most: Duration::from_millis(1),
            retries_max: 1,
        };
        let run = Run::load(store, row.id, backoff).unwrap();
        let table = strait_tests::simulation::cluster::table().unwrap();
        let cluster = strait_memory::MemoryStore::new();
        RunBoard {
            live: Arc::new(Live::new(
                run,
                row,
                Pacer::new(None, 1).share(None),
                Shutdown::new(),
            )),
            metrics: Arc::new(Metrics::new()),
            number: 0,
            streams_max: 1,
            cpu: CpuPool::new(1),
            source: Arc::new(strait_memory::MemorySource::open(&cluster)),
            selection: Selection::resolve(&SelectionSpec::default(), &table.schema, 0).unwrap(),
            table: table.name,
        }
    }

    /// Whether the streams that are left come to an end, and the run knows that it must look the partition up.
    async fn assert_lost(board: &RunBoard) {
        let next = tokio::time::timeout(WAIT_MAX, board.next()).await;
        let next = next.expect("nobody has the partition, so there is nothing to wait for");
        assert!(next.unwrap().is_none(), "what was on its way is not known");
        let again = board.live.decide(&board.cpu, Run::verdict).await.unwrap();
        assert!(matches!(again, crate::run::Verdict::Again), "{again:?}");
    }

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        future.poll(&mut context).is_ready()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_partition_decided_on_after_its_stream_has_ended_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let board = board(directory.path());
        let (release, released) = std::sync::mpsc::channel::<()>();
        let mut held = Box::pin(board.cpu.run(move || {
            let _ = released.recv();
            Ok(())
        }));
        assert!(!poll_once(held.as_mut()), "the pool is held");
        let mut next = Box::pin(board.next());
        assert!(!poll_once(next.as_mut()), "the run has not decided");
        drop(next);
        release.send(()).unwrap();
        assert_lost(&board).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_partition_decided_on_before_its_stream_ends_and_not_taken_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let board = board(directory.path());
        let mut next = Box::pin(board.next());
        assert!(!poll_once(next.as_mut()), "the run has not decided");
        // The pool works in order: now it has.
        board.cpu.run(|| Ok(())).await.unwrap();
        drop(next);
        assert_lost(&board).await;
    }
}
