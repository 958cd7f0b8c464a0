//! What an agent counts of its jobs.

use prometheus_client::metrics::counter::Counter;
use strait_common::metrics::{Counters, Figures, Labels, label};

use crate::book::{Event, Start, State};
use crate::desk::Kept;

/// Counted since the agent started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// By job and event.
    told: Counters,
    pub(crate) notifications_failed: Counter,
}

impl Metrics {
    /// Something was to be told about a job.
    pub(crate) fn told(&self, job: &str, event: Event) {
        self.told.get_or_create(&told(job, event)).inc();
    }

    /// A job is there: its counters begin.
    pub(crate) fn knows(&self, job: &str) {
        for event in Event::ALL {
            let _ = self.told.get_or_create(&told(job, event));
        }
    }

    /// A job is there no longer.
    pub(crate) fn forgets(&self, job: &str) {
        for event in Event::ALL {
            self.told.remove(&told(job, event));
        }
    }

    pub(crate) fn register(&self, figures: &mut Figures) {
        figures.add(
            "job_events",
            "What was to be told about jobs; nothing-ran is a start that was missed",
            self.told.clone(),
        );
        figures.add(
            "notifications_failed",
            "Notifications that were given up",
            self.notifications_failed.clone(),
        );
    }
}

fn told(job: &str, event: Event) -> Labels {
    vec![
        ("job_name", job.to_owned()),
        ("event", event.name().to_owned()),
    ]
}

/// The start in such a state that ended last.
fn last(kept: &Kept, is: fn(State) -> bool) -> Option<&Start> {
    let starts = kept.book.starts().filter(|start| is(start.state));
    starts.max_by_key(|start| start.ended_at)
}

/// What each job does now.
pub(crate) fn write_jobs<'a>(
    figures: &mut Figures,
    jobs: impl Iterator<Item = &'a Kept> + Clone,
    now: i64,
) {
    let mut each = |name, help, figure: &dyn Fn(&Kept) -> Option<i64>| {
        let values = jobs
            .clone()
            .filter_map(|kept| Some((label("job_name", &kept.file.name), figure(kept)? as f64)));
        figures.gauges(name, help, values);
    };
    each(
        "job_enabled",
        "Whether the schedule of the job counts",
        &|kept| Some(kept.book.is_enabled().into()),
    );
    each(
        "job_running",
        "Whether a start of it is under way",
        &|kept| Some(kept.book.running().is_some().into()),
    );
    each(
        "job_open_starts",
        "Starts that are owed: due, under way, or to be tried again",
        &|kept| {
            let open = kept.book.starts().filter(|start| start.state.is_open());
            i64::try_from(open.count()).ok()
        },
    );
    each(
        "job_next_start_timestamp_seconds",
        "When it starts next",
        &|kept| kept.book.next_start(now),
    );
    each(
        "job_last_success_timestamp_seconds",
        "When a start of it was last done",
        &|kept| last(kept, |state| state == State::Done).map(|start| start.ended_at),
    );
    each(
        "job_last_success_scheduled_timestamp_seconds",
        "What that start was scheduled for: rows up to there are at B",
        &|kept| last(kept, |state| state == State::Done).map(|start| start.at),
    );
    each(
        "job_last_duration_seconds",
        "How long the last start that ended took",
        &|kept| {
            last(kept, |state| !state.is_open())
                .filter(|start| start.began_at > 0)
                .map(|start| start.ended_at - start.began_at)
        },
    );
}
