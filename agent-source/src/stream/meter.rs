//! What the time of a stream is spent on, added up for [`compression`](crate::compression) on a clock that is given.
//!
//! - Room on the wire is waited for when something is to be sent and the socket does not take it.
//! - Credit is waited for when the window is full. How much of that was the sink's engine and not the way to it is known when the credit comes: the
//!   sink says how long it has had the frame.
//! - Everything else (this side's engine, memory, the next partition, the end of earlier ones) is not counted, nor is a wait while this side
//!   prepares something: it is not idle then.

use std::time::Duration;

use tokio::time::Instant;

use crate::compression::{FRAMES_PER_STEP, Spent};

/// What a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Room on the wire.
    Wire,
    /// Leave to send one more frame.
    Credit,
    /// Anything else.
    Other,
}

#[derive(Debug)]
pub(super) struct Meter {
    since: Instant,
    frames: u64,
    link: Duration,
    encoding: Duration,
    /// Waited for credit that has not come yet.
    credit: Duration,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Meter {
        Meter {
            since: now,
            frames: 0,
            link: Duration::ZERO,
            encoding: Duration::ZERO,
            credit: Duration::ZERO,
        }
    }

    /// The stream has waited.
    pub(super) fn waited(&mut self, wait: Wait, time: Duration) {
        match wait {
            Wait::Wire => self.link += time,
            Wait::Credit => self.credit += time,
            Wait::Other => {}
        }
    }

    /// Credit has come, for a frame that the sink has had for so long.
    pub(super) fn credited(&mut self, held: Duration) {
        let waited = std::mem::take(&mut self.credit);
        self.link += waited.saturating_sub(held);
    }

    /// So many frames were encoded. What was spent since the last answer, when it is time to decide.
    pub(super) fn encoded(&mut self, frames: u64, time: Duration, now: Instant) -> Option<Spent> {
        self.frames += frames;
        self.encoding += time;
        if self.frames < FRAMES_PER_STEP {
            return None;
        }
        let spent = Spent {
            elapsed: now - self.since,
            link: self.link,
            encoding: self.encoding,
        };
        *self = Meter {
            credit: self.credit,
            ..Meter::new(now)
        };
        Some(spent)
    }
}

#[cfg(test)]
mod tests {
    use strait_common::frame::Compression;

    use super::*;
    use crate::compression::{Policy, Steps};

    const MS: Duration = Duration::from_millis(1);

    /// What a stream chooses frame by frame, if each of them takes a millisecond of encoding, and these waits; `held` is what the sink says.
    fn chosen(frames: u64, wait: Wait, time: Duration, held: Duration) -> Vec<Compression> {
        let mut now = Instant::now();
        let (mut meter, mut steps) = (Meter::new(now), Steps::new(Policy::Auto));
        (0..frames)
            .map(|_| {
                let chosen = steps.compression();
                now += time;
                meter.waited(wait, time);
                meter.credited(held);
                now += MS;
                if let Some(spent) = meter.encoded(1, MS, now) {
                    steps.decide(spent);
                }
                chosen
            })
            .collect()
    }

    fn counts(chosen: &[Compression]) -> [usize; 3] {
        [
            Compression::None,
            Compression::Zstd(1),
            Compression::Zstd(3),
        ]
        .map(|step| chosen.iter().filter(|&&chosen| chosen == step).count())
    }

    #[test]
    fn nothing_is_compressed_while_nothing_waits_for_the_way_to_the_sink() {
        let none = Duration::ZERO;
        for (wait, time, held) in [
            (Wait::Other, MS, none),
            (Wait::Other, 100 * MS, none),
            (Wait::Wire, none, none),
            // Half is not more than half.
            (Wait::Wire, MS, none),
            (Wait::Credit, 100 * MS, 60 * MS),
            // The sink has had the frame since before the window was full.
            (Wait::Credit, 100 * MS, 200 * MS),
        ] {
            let chosen = chosen(320, wait, time, held);
            assert_eq!(counts(&chosen), [320, 0, 0], "{wait:?} {time:?}");
        }
    }

    #[test]
    fn a_step_is_taken_every_32_frames_while_the_way_to_the_sink_is_slow() {
        for wait in [Wait::Wire, Wait::Credit] {
            let chosen = chosen(320, wait, 4 * MS, MS);
            assert_eq!(counts(&chosen), [32, 32, 256], "{wait:?}");
            assert!(chosen.is_sorted_by_key(|chosen| *chosen != Compression::None));
        }
    }

    #[test]
    fn a_decision_forgets_what_was_before_it() {
        let begun = Instant::now();
        let mut meter = Meter::new(begun);
        meter.waited(Wait::Wire, 40 * MS);
        meter.waited(Wait::Credit, 5 * MS);
        let spent = meter.encoded(40, 3 * MS, begun + 50 * MS);
        let expected = Spent {
            elapsed: 50 * MS,
            link: 40 * MS,
            encoding: 3 * MS,
        };
        assert_eq!(spent, Some(expected));
        // Credit that was waited for counts when it comes.
        meter.credited(Duration::ZERO);
        assert_eq!(meter.encoded(31, MS, begun + 60 * MS), None);
        let expected = Spent {
            elapsed: 20 * MS,
            link: 5 * MS,
            encoding: 2 * MS,
        };
        assert_eq!(meter.encoded(1, MS, begun + 70 * MS), Some(expected));
    }
}
