//! A process over a cluster for the suite that every engine passes: its steps are counted, and it ends at an armed one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use strait_common::cpu::CpuPool;
use strait_common::engine::Store;
use strait_common::{Error, Result};
use strait_conformance::{Fault, Faults, Holds, Process};
use strait_dolphindb::{BATCH_BYTES, Cluster, DolphinSink, DolphinSource, Options, Watch};

/// Counts the steps of one process, and ends it at an armed one.
#[derive(Default)]
struct Steps {
    taken: AtomicU64,
    dead: AtomicBool,
    armed: Mutex<BTreeMap<u64, Fault>>,
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Steps")
    }
}

#[async_trait]
impl Watch for Steps {
    async fn step(&self, what: &'static str) -> Result<()> {
        let dead = || Error::internal(format!("the process died before it could {what}"));
        if self.dead.load(Ordering::SeqCst) {
            return Err(dead());
        }
        let at = self.taken.fetch_add(1, Ordering::SeqCst) + 1;
        let armed = {
            let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
            armed.remove(&at)
        };
        match armed {
            None => Ok(()),
            Some(Fault::Crash) => {
                self.dead.store(true, Ordering::SeqCst);
                Err(dead())
            }
            Some(Fault::Meanwhile(run)) => {
                run.await;
                Ok(())
            }
        }
    }
}

struct StepFaults(Arc<Steps>);

impl Faults for StepFaults {
    fn steps(&self) -> u64 {
        self.0.taken.load(Ordering::SeqCst)
    }

    fn at(&self, step: u64, fault: Fault) {
        let mut armed = self.0.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.insert(step, fault);
    }
}

/// A process on this cluster with its journal in this directory.
///
/// # Errors
/// As the sink has it.
pub(crate) fn process(options: Options, journal: &Path) -> Result<Process> {
    let cluster = Cluster::new(options)?;
    let steps = Arc::new(Steps::default());
    let watch: Arc<dyn Watch> = Arc::clone(&steps) as Arc<dyn Watch>;
    let cpu = CpuPool::new(2);
    let sink = DolphinSink::open(cluster.clone(), journal, BATCH_BYTES, cpu, Some(watch))?;
    Ok(Process {
        store: Store {
            source: Arc::new(DolphinSource::new(cluster)),
            sink: Arc::new(sink),
        },
        faults: Box::new(StepFaults(steps)),
    })
}

/// What DolphinDB holds of the suite's values.
pub(crate) fn holds() -> Holds {
    Holds {
        empty_texts: false,
        text_bytes_max: strait_dolphindb::STRING_BYTES_MAX,
        null_keys: false,
        key: |text| {
            !text.contains(|c: char| c.is_whitespace() || c == '/') && !matches!(text, "." | "..")
        },
        told_apart: false,
        replaced_in_one_act: false,
    }
}
