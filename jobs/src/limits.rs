//! Limits by time of day: `22:00-06:00 = 200MiB, else 20MiB`.

use std::fmt;
use std::str::FromStr;

use chrono_tz::Tz;
use strait_common::{Error, Result};

use crate::when::{TimeOfDay, minute_of_day};

/// Windows of one limit at most.
const WINDOWS_MAX: usize = 48;

/// A limit that depends on the time of day, or not. The first window that has the time decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByTime<T> {
    text: String,
    windows: Vec<(TimeOfDay, TimeOfDay, T)>,
    otherwise: T,
}

impl<T: Copy> ByTime<T> {
    /// What holds at an instant, in seconds since 1970.
    pub fn at(&self, zone: Tz, at: i64) -> T {
        let minute = minute_of_day(zone, at);
        let holds = |from: TimeOfDay, to: TimeOfDay| {
            let (from, to) = (from.minutes(), to.minutes());
            match from < to {
                true => (from..to).contains(&minute),
                // Over midnight; a window that ends where it begins is the whole day.
                false => minute >= from || minute < to,
            }
        };
        let window = self.windows.iter().find(|(from, to, _)| holds(*from, *to));
        window.map_or(self.otherwise, |(_, _, value)| *value)
    }

    /// Every value that it can have.
    pub fn values(&self) -> impl Iterator<Item = T> + '_ {
        let windows = self.windows.iter().map(|(_, _, value)| *value);
        windows.chain([self.otherwise])
    }
}

impl<T> fmt::Display for ByTime<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl<T: FromStr> FromStr for ByTime<T>
where
    T::Err: fmt::Display,
{
    type Err = Error;

    fn from_str(text: &str) -> Result<ByTime<T>> {
        let value = |text: &str| {
            let value = text.trim().parse::<T>();
            value.map_err(|error| Error::config(error.to_string()))
        };
        let (mut windows, mut otherwise) = (Vec::new(), None);
        for part in text.split(',').map(str::trim) {
            if otherwise.is_some() {
                return Err(Error::config(format!(
                    "'{text}': what comes after else never holds; write else last"
                )));
            }
            if let Some((window, limit)) = part.split_once('=') {
                let (from, to) = window.split_once('-').ok_or_else(|| {
                    Error::config(format!(
                        "'{}' is no window; write for example 22:00-06:00",
                        window.trim()
                    ))
                })?;
                windows.push((from.trim().parse()?, to.trim().parse()?, value(limit)?));
            } else {
                let limit = part.strip_prefix("else ").unwrap_or(part);
                otherwise = Some(value(limit)?);
            }
        }
        if windows.len() > WINDOWS_MAX {
            return Err(Error::config(format!("more than {WINDOWS_MAX} windows")));
        }
        let otherwise = otherwise.ok_or_else(|| {
            Error::config(format!(
                "'{text}' does not say what holds at other times; end it with for example , else 20MiB"
            ))
        })?;
        Ok(ByTime {
            text: text.to_owned(),
            windows,
            otherwise,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strait_common::config::ByteSize;

    #[test]
    fn the_first_window_that_has_the_time_decides() {
        let limit: ByTime<u32> = "22:00-06:00 = 8, 12:00-13:00 = 4, else 2".parse().unwrap();
        let at = |hour: i64, minute: i64| limit.at(Tz::UTC, hour * 3600 + minute * 60);
        let seen = [
            (0, 0),
            (5, 59),
            (6, 0),
            (12, 0),
            (12, 59),
            (13, 0),
            (21, 59),
            (22, 0),
        ];
        let seen = seen.map(|(hour, minute)| at(hour, minute));
        assert_eq!(seen, [8, 8, 2, 4, 4, 2, 2, 8]);
        let zone = chrono_tz::Asia::Shanghai;
        assert_eq!(limit.at(zone, 14 * 3600), 8, "22:00 in Shanghai");
    }

    #[test]
    fn one_value_holds_always() {
        let limit: ByTime<ByteSize> = "20MiB".parse().unwrap();
        assert_eq!(limit.at(Tz::UTC, 0), ByteSize(20 << 20));
    }

    #[test]
    fn what_is_no_limit_is_refused_with_what_to_write() {
        for (text, says) in [
            ("22:00-06:00 = 8", "does not say what holds at other times"),
            ("22:00 = 8, else 2", "write for example 22:00-06:00"),
            ("else 2, 22:00-06:00 = 8", "write else last"),
            ("22:00-06:00 = x, else 2", "invalid digit"),
            ("22:00-26:00 = 8, else 2", "no time of day"),
        ] {
            let error = text.parse::<ByTime<u32>>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
