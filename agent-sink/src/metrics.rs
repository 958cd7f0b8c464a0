//! What this agent counts, and the page that is made of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use strait_common::budget::Budget;
use strait_common::engine::Store;
use strait_common::metrics::{Counters, Figures, Seconds, Streams, Watched, label};
use strait_common::patience::within;
use strait_common::shutdown::Shutdown;
use strait_common::{Error, Kind, Result};
use strait_jobs::desk::Desk;
use tokio::time::Instant;

/// Counted since the agent started.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) rows_received: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) wire_bytes_received: Counter,
    pub(crate) checkpoints: Counter,
    pub(crate) partitions_published: Counter,
    pub(crate) attaches: Counter,
    /// By kind of error.
    partitions_failed: Counters,
    /// By call of the engine.
    engine_seconds: Seconds,
    pub(crate) streams: Streams,
}

impl Metrics {
    /// With every label that is known before something happens, so that a rate has a beginning.
    pub fn new() -> Metrics {
        let metrics = Metrics::default();
        for call in ["begin", "append", "checkpoint", "seal", "finish"] {
            metrics.waited_for(call, Duration::ZERO);
        }
        for kind in Kind::ALL {
            let _ = metrics
                .partitions_failed
                .get_or_create(&label("kind", kind));
        }
        metrics
    }

    /// A call of the engine, within its time, and counted.
    ///
    /// # Errors
    /// What the call says; `Unavailable`, naming it, if it takes longer.
    pub(crate) async fn engine<T>(
        &self,
        call: &'static str,
        timeout: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let begun = Instant::now();
        let done = within(timeout, call, work).await;
        self.waited_for(call, begun.elapsed());
        done
    }

    /// A call of the engine has taken so long.
    fn waited_for(&self, call: &str, time: Duration) {
        self.engine_seconds
            .get_or_create(&label("call", call))
            .inc_by(time.as_secs_f64());
    }

    /// A partition has failed at this side.
    pub fn failed(&self, kind: Kind) {
        self.partitions_failed
            .get_or_create(&label("kind", kind))
            .inc();
    }

    fn register(&self, figures: &mut Figures) {
        let Metrics {
            rows_received,
            bytes_received,
            wire_bytes_received,
            checkpoints,
            partitions_published,
            attaches,
            partitions_failed,
            engine_seconds,
            streams,
        } = self;
        figures.add(
            "rows_received",
            "Rows given to an engine; what comes again counts again",
            rows_received.clone(),
        );
        figures.add(
            "bytes_received",
            "Their bytes when decompressed",
            bytes_received.clone(),
        );
        figures.add(
            "wire_bytes_received",
            "Their bytes on the wire",
            wire_bytes_received.clone(),
        );
        figures.add(
            "checkpoints",
            "Chunks made durable before their partition was visible",
            checkpoints.clone(),
        );
        figures.add(
            "partitions_published",
            "Partitions that have become visible",
            partitions_published.clone(),
        );
        figures.add(
            "attaches",
            "Attempts of runs that have begun: epochs raised",
            attaches.clone(),
        );
        figures.add(
            "partitions_failed",
            "Partitions that have failed here, by kind of error",
            partitions_failed.clone(),
        );
        figures.add(
            "engine_seconds",
            "Time that streams have waited for engines, by call",
            engine_seconds.clone(),
        );
        streams.register(figures);
    }
}

/// What the page is made of.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stores: BTreeMap<String, Store>,
    pub(crate) budget: Budget,
    pub(crate) shutdown: Shutdown,
    /// The jobs that live at this agent, if it knows source agents.
    pub(crate) desk: Option<Arc<Desk>>,
}

impl Watched for Page {
    async fn page(&self) -> Result<String> {
        let mut figures = Figures::new("sink", &self.budget);
        self.metrics.register(&mut figures);
        let (mut free, mut used) = (Vec::new(), Vec::new());
        for (name, store) in &self.stores {
            if let Some(space) = store.sink.space().await? {
                free.push((label("store", name), space.free as f64));
                let all = space.used as f64 + space.free as f64;
                used.push((label("store", name), space.used as f64 / all.max(1.0)));
            }
        }
        figures.gauges(
            "disk_free_bytes",
            "What is free on the disk of a store",
            free,
        );
        figures.gauges(
            "disk_used_ratio",
            "The share of it that is taken, from 0 to 1; above disk_used_max no partition begins",
            used,
        );
        if let Some(desk) = &self.desk {
            desk.write_figures(&mut figures).await;
        }
        figures.text()
    }

    async fn ready(&self) -> Result<()> {
        if self.shutdown.is_draining() {
            return Err(Error::unavailable("the agent is stopping"));
        }
        Ok(())
    }
}
