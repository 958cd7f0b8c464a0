//! DolphinDB passes the suite that every engine passes, over the stand-in, killed and overtaken at every change of the journal and at every request.

#![allow(clippy::unwrap_used)]

mod harness;

use async_trait::async_trait;
use strait_common::{Error, Result};
use strait_conformance::{Durable, Harness, Holds, Process};
use strait_dolphindb::Options;
use strait_dolphindb_standin::{Offers, Settings, StandIn};

struct Dolphin;

struct DolphinDurable {
    standin: StandIn,
    directory: tempfile::TempDir,
}

#[async_trait]
impl Harness for Dolphin {
    async fn create(&self) -> Result<Box<dyn Durable>> {
        let settings = Settings {
            // Nobody logs in here, and a key takes longer to make than a case.
            offers: Offers {
                scram: false,
                scram_user: false,
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
        harness::holds()
    }
}

#[async_trait]
impl Durable for DolphinDurable {
    async fn open(&self) -> Result<Process> {
        let options = Options::of_site("127.0.0.1", self.standin.address().port());
        harness::process(options, self.directory.path())
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
