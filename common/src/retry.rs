//! Bounded retries: exponential backoff with jitter.

use std::time::Duration;

/// How long to wait before the next attempt, and when to give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first retry.
    pub first: Duration,
    /// Never longer than this.
    pub most: Duration,
    /// How many retries without any progress in between.
    pub retries_max: u32,
}

impl Backoff {
    /// The wait before retry `retry` (from 0), or `None` to give up. `jitter` is a random number in [0, 1); the wait is
    /// between half of the step and all of it, so that peers which failed together do not return together.
    pub fn wait(&self, retry: u32, jitter: f64) -> Option<Duration> {
        if retry >= self.retries_max {
            return None;
        }
        Some(self.step(retry, jitter))
    }

    /// The same wait, for who does not count: another bound ends it.
    pub fn step(&self, retry: u32, jitter: f64) -> Duration {
        let step = self
            .first
            .saturating_mul(2u32.saturating_pow(retry.min(30)))
            .min(self.most);
        step.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_end() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            most: Duration::from_secs(5),
            retries_max: 12,
        };
        let waits: Vec<_> = (0..20)
            .map_while(|retry| backoff.wait(retry, 0.999))
            .collect();
        assert_eq!(waits.len(), 12);
        assert!(waits.is_sorted());
        assert!(waits[11] <= Duration::from_secs(5) && waits[0] >= Duration::from_millis(50));
    }
}
