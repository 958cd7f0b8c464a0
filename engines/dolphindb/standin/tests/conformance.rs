//! DolphinDB passes the suite that every engine passes, over the stand-in, killed and overtaken at every change of the journal and at every request.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use strait_common::cpu::CpuPool;
use strait_common::engine::Store;
use strait_common::{Error, Result};
use strait_conformance::{Durable, Fault, Faults, Harness, Holds, Process};
use strait_dolphindb::{BATCH_BYTES, Cluster, DolphinSink, DolphinSource, Options, Watch};
use strait_dolphindb_standin::{Offers, Settings, StandIn};

struct Dolphin;

struct DolphinDurable {
    standin: StandIn,
    directory: tempfile::TempDir,
}

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
        let armed = self.armed.lock().unwrap().remove(&at);
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
        self.0.armed.lock().unwrap().insert(step, fault);
    }
}

#[async_trait]
impl Harness for Dolphin {
    async fn create(&self) -> Result<Box<dyn Durable>> {
        let settings = Settings {
            // Nobody logs in here, and a key takes longer to make than a case.
            offers: Offers {
                scram: false,
                rsa: false,
            },
            ..Settings::default()
        };
        let scratch = |error: std::io::Error| Error::internal("scratch").with_source(error);
        Ok(Box::new(DolphinDurable {
            standin: StandIn::start(settings).await.map_err(scratch)?,
            directory: tempfile::tempdir().map_err(scratch)?,
        }))
    }

    fn holds(&self) -> Holds {
        Holds {
            empty_texts: false,
            text_bytes_max: strait_dolphindb::STRING_BYTES_MAX,
            null_keys: false,
            key: |text| {
                !text.contains(|c: char| c.is_whitespace() || c == '/')
                    && !matches!(text, "." | "..")
            },
            told_apart: false,
            replaced_in_one_act: false,
        }
    }
}

#[async_trait]
impl Durable for DolphinDurable {
    async fn open(&self) -> Result<Process> {
        let options = Options::of_site("127.0.0.1", self.standin.address().port());
        let cluster = Cluster::new(options)?;
        let steps = Arc::new(Steps::default());
        let watch: Arc<dyn Watch> = Arc::clone(&steps) as Arc<dyn Watch>;
        let sink = DolphinSink::open(
            cluster.clone(),
            self.directory.path(),
            BATCH_BYTES,
            CpuPool::new(2),
            Some(watch),
        )?;
        Ok(Process {
            store: Store {
                source: Arc::new(DolphinSource::new(cluster)),
                sink: Arc::new(sink),
            },
            faults: Box::new(StepFaults(steps)),
        })
    }
}

fn run<F: Future>(case: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(case)
}

strait_conformance::suite!(Dolphin, |case| run(case));
