//! Civil time in the job's zone.

use std::str::FromStr;

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;

use crate::error::{Error, Result};
use crate::value::{NS_PER_S, timestamp_ns_of};

/// An IANA time zone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zone(Tz);

impl Zone {
    pub(super) fn named(name: &str) -> Result<Zone> {
        let zone = Tz::from_str(name);
        zone.map(Zone).map_err(|_| {
            Error::config(format!(
                "'{name}' is no time zone; write an IANA name, for example Europe/Berlin"
            ))
        })
    }

    /// What a clock on a wall shows at an instant, both in nanoseconds.
    pub(super) fn civil(self, instant_ns: i128) -> Result<i128> {
        let at = i64::try_from(instant_ns.div_euclid(NS_PER_S))
            .ok()
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
            .ok_or_else(|| Error::config("an instant that no calendar has"))?;
        let offset = self
            .0
            .offset_from_utc_datetime(&at.naive_utc())
            .fix()
            .local_minus_utc();
        Ok(instant_ns + i128::from(offset) * NS_PER_S)
    }

    /// The instant of a civil time. Of two, on a day when clocks go back, the earlier; of none, when they go forward, the first instant after the gap.
    pub(super) fn instant(self, civil_ns: i128) -> Result<i128> {
        let (seconds, fraction) = (civil_ns.div_euclid(NS_PER_S), civil_ns.rem_euclid(NS_PER_S));
        let out = || Error::config("a civil time that no calendar has");
        let local = |seconds: i128| {
            let seconds = i64::try_from(seconds).ok()?;
            DateTime::from_timestamp(seconds, 0).map(|at| at.naive_utc())
        };
        let at = |civil: &NaiveDateTime| match self.0.from_local_datetime(civil) {
            LocalResult::Single(at) => Some(timestamp_ns_of(at.naive_utc())),
            LocalResult::Ambiguous(earlier, later) => {
                Some(timestamp_ns_of(earlier.naive_utc()).min(timestamp_ns_of(later.naive_utc())))
            }
            LocalResult::None => None,
        };
        let civil = local(seconds).ok_or_else(out)?;
        if let Some(instant) = at(&civil) {
            return Ok(instant + fraction);
        }
        // Gaps begin and end at whole minutes, and are shorter than two days.
        let minute = seconds.div_euclid(60);
        for later in 1..=2 * 24 * 60 {
            let civil = local((minute + later) * 60).ok_or_else(out)?;
            if let Some(instant) = at(&civil) {
                return Ok(instant);
            }
        }
        Err(out())
    }
}
