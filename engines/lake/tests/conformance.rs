//! The lake passes the suite that every engine passes, killed and overtaken at every act on the disk.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::iter::StepBy;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use strait_common::cpu::CpuPool;
use strait_common::{Error, Result};
use strait_conformance::{Divided, Durable, Fault, Faults, Harness, Process, STEPS_MAX};
use strait_lake::disk::{Disk, Recorder, Step};

struct Lake(Divided);

struct LakeDurable {
    directory: tempfile::TempDir,
}

/// Counts the acts of one process, and ends it at an armed one.
#[derive(Default)]
struct Acts {
    taken: AtomicU64,
    dead: AtomicBool,
    armed: Mutex<BTreeMap<u64, Fault>>,
}

impl std::fmt::Debug for Acts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acts")
    }
}

impl Recorder for Acts {
    fn step(&self, step: &Step<'_>) -> Result<()> {
        let dead = || Error::internal(format!("the process died at {step:?}"));
        if self.dead.load(Ordering::SeqCst) {
            return Err(dead());
        }
        let at = self.taken.fetch_add(1, Ordering::SeqCst) + 1;
        match self.armed.lock().unwrap().remove(&at) {
            None => Ok(()),
            Some(Fault::Crash) => {
                self.dead.store(true, Ordering::SeqCst);
                Err(dead())
            }
            Some(Fault::Meanwhile(run)) => {
                // A worker that stands still must hand over what waits on it alone.
                tokio::task::block_in_place(|| futures::executor::block_on(run));
                Ok(())
            }
        }
    }
}

struct LakeFaults(Arc<Acts>);

impl Faults for LakeFaults {
    fn steps(&self) -> u64 {
        self.0.taken.load(Ordering::SeqCst)
    }

    fn at(&self, step: u64, fault: Fault) {
        self.0.armed.lock().unwrap().insert(step, fault);
    }
}

#[async_trait]
impl Harness for Lake {
    async fn create(&self) -> Result<Box<dyn Durable>> {
        let directory =
            tempfile::tempdir().map_err(|error| Error::internal("scratch").with_source(error))?;
        Ok(Box::new(LakeDurable { directory }))
    }

    fn divided(&self) -> Divided {
        self.0
    }

    fn steps(&self) -> StepBy<RangeInclusive<u64>> {
        // The acts on the disk are alike for all of them, and take minutes: each step is of the first, and of one of the others.
        let (first, every) = match self.0 {
            Divided::ValueAndBuckets => (1, 2),
            Divided::RangeAndBuckets => (2, 2),
            _ => (1, 1),
        };
        (first..=STEPS_MAX).step_by(every)
    }

    fn reads_old_versions(&self) -> bool {
        true
    }
}

#[async_trait]
impl Durable for LakeDurable {
    async fn open(&self) -> Result<Process> {
        let acts = Arc::new(Acts::default());
        let recorder: Arc<dyn Recorder> = Arc::clone(&acts) as Arc<dyn Recorder>;
        let disk = Disk::recorded(recorder);
        let store =
            strait_lake::open_directory(self.directory.path().to_owned(), CpuPool::new(2), disk)
                .await?;
        Ok(Process {
            store,
            faults: Box::new(LakeFaults(acts)),
        })
    }
}

fn run<F: Future>(case: F) -> F::Output {
    // Three workers: one may stand still in a step while another process lives its life on the others.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(3)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(case)
}

strait_conformance::suite!(Lake(Divided::Values), |case| run(case));

/// Buckets within Delta's own partitions.
mod by_value_and_buckets {
    use super::*;
    strait_conformance::suite!(Lake(Divided::ValueAndBuckets), |case| run(case));
}

/// A table that Delta knows as one without partitions.
mod by_range_and_buckets {
    use super::*;
    strait_conformance::suite!(Lake(Divided::RangeAndBuckets), |case| run(case));
}
