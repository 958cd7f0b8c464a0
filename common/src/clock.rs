//! The wall clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 in UTC, by the wall clock. 0 before that, and the largest number after 2262.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// What an agent takes for the time of day. Clones of one that is set are set together.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The wall clock.
    #[default]
    Wall,
    /// It stands still at so many seconds since 1970, until it is set again: a month of nights in a minute.
    Set(Arc<AtomicI64>),
}

impl Clock {
    /// Seconds since 1970 in UTC.
    pub fn now_s(&self) -> i64 {
        match self {
            Clock::Wall => now_ns() / 1_000_000_000,
            Clock::Set(now_s) => now_s.load(Ordering::Relaxed),
        }
    }
}
