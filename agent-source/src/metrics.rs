//! What this agent counts, and the page that is made of it.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use strait_common::metrics::{Counters, Figures, Seconds, Streams, Watched, label};
use strait_common::{Error, Kind, Result};

use crate::agent::Agent;
use crate::runs::Totals;

/// Counted since the agent started.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) rows_sent: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) wire_bytes_sent: Counter,
    pub(crate) partitions_done: Counter,
    /// By status.
    runs_ended: Counters,
    /// By kind of error.
    retries: Counters,
    /// By what was waited for.
    stalls: Seconds,
    /// By what verify says.
    mismatches: Counters,
    pub(crate) streams: Streams,
}

/// What a stream can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Memory of this agent or of the sink.
    Memory,
    /// The limit on bandwidth.
    Bandwidth,
    /// Room on the wire.
    Wire,
    /// Leave to send another frame: the sink has not taken the last ones yet, or they are on their way.
    Credit,
}

impl Stall {
    const ALL: [Stall; 4] = [Stall::Memory, Stall::Bandwidth, Stall::Wire, Stall::Credit];

    fn name(self) -> &'static str {
        match self {
            Stall::Memory => "memory",
            Stall::Bandwidth => "bandwidth",
            Stall::Wire => "wire",
            Stall::Credit => "credit",
        }
    }
}

impl Metrics {
    /// With every label that is known before something happens, so that a rate has a beginning.
    pub fn new() -> Metrics {
        let metrics = Metrics::default();
        for stall in Stall::ALL {
            metrics.stalled(stall, Duration::ZERO);
        }
        for status in ["done", "partial", "failed", "cancelled", "paused"] {
            let _ = metrics.runs_ended.get_or_create(&label("status", status));
        }
        for kind in Kind::ALL {
            let _ = metrics.retries.get_or_create(&label("kind", kind));
        }
        for result in ["differs", "behind", "extra"] {
            metrics.mismatched(result, 0);
        }
        metrics
    }

    /// A stream has waited.
    pub fn stalled(&self, on: Stall, time: Duration) {
        let counter = self.stalls.get_or_create(&label("on", on.name()));
        counter.inc_by(time.as_secs_f64());
    }

    /// A run has come to an end, or to a stop.
    pub fn run_ended(&self, status: &str) {
        self.runs_ended
            .get_or_create(&label("status", status))
            .inc();
    }

    /// A run will try again after an error of this kind.
    pub fn retried(&self, kind: Kind) {
        self.retries.get_or_create(&label("kind", kind)).inc();
    }

    /// Verify has found partitions that are not equal.
    pub fn mismatched(&self, result: &str, partitions: u64) {
        let counter = self.mismatches.get_or_create(&label("result", result));
        counter.inc_by(partitions);
    }

    fn register(&self, figures: &mut Figures) {
        let Metrics {
            rows_sent,
            bytes_sent,
            wire_bytes_sent,
            partitions_done,
            runs_ended,
            retries,
            stalls,
            mismatches,
            streams,
        } = self;
        figures.add(
            "rows_sent",
            "Rows handed to the wire; what is sent again counts again",
            rows_sent.clone(),
        );
        figures.add(
            "bytes_sent",
            "Their bytes before compression",
            bytes_sent.clone(),
        );
        figures.add(
            "wire_bytes_sent",
            "Their bytes on the wire",
            wire_bytes_sent.clone(),
        );
        figures.add(
            "partitions_done",
            "Partitions that have become visible at a sink",
            partitions_done.clone(),
        );
        figures.add(
            "runs_ended",
            "Runs that have ended or were stopped, by how",
            runs_ended.clone(),
        );
        figures.add(
            "retries",
            "Tries of runs that were repeated, by kind of error",
            retries.clone(),
        );
        figures.add(
            "stall_seconds",
            "Time that streams could not send, by what they waited for",
            stalls.clone(),
        );
        figures.add(
            "verify_mismatch",
            "Partitions that verify has found unequal",
            mismatches.clone(),
        );
        streams.register(figures);
    }
}

impl Watched for Agent {
    async fn page(&self) -> Result<String> {
        let mut figures = Figures::new("source", &self.budget);
        self.metrics.register(&mut figures);
        let (mut totals, mut running, mut age_s, mut retrying) = (Totals::default(), 0, 0.0_f64, 0);
        let under_way = self.under_way();
        for live in &under_way {
            let snapshot = live.snapshot();
            totals.partitions += snapshot.totals.partitions;
            totals.done += snapshot.totals.done + snapshot.totals.already + snapshot.totals.dropped;
            totals.failed += snapshot.totals.failed;
            running += snapshot.running;
            retrying += u64::from(snapshot.phase == "waiting");
            age_s = age_s.max(live.progress_age().as_secs_f64());
        }
        figures.gauge("runs", "Runs under way", under_way.len() as f64);
        figures.gauge(
            "runs_waiting",
            "Those that wait for their next try",
            retrying as f64,
        );
        figures.gauge(
            "checkpoint_age_seconds",
            "Of the run under way that has gone longest without something becoming durable at its sink: for how long; 0 without runs",
            age_s,
        );
        let pending = totals
            .partitions
            .saturating_sub(totals.done + totals.failed + running);
        let states = [
            ("pending", pending),
            ("running", running),
            ("done", totals.done),
            ("failed", totals.failed),
        ];
        let states = states.map(|(state, count)| (label("state", state), count as f64));
        figures.gauges("partitions", "Partitions of the runs under way", states);
        if let Some(desk) = self.desk() {
            desk.write_figures(&mut figures).await;
        }
        figures.text()
    }

    async fn ready(&self) -> Result<()> {
        if self.shutdown.is_draining() {
            return Err(Error::unavailable("the agent is stopping"));
        }
        let store = self.open_store()?;
        self.cpu.run(move || store.active().map(|_| ())).await
    }
}
