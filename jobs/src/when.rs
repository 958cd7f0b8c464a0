//! When a job starts: a schedule read from text, and the instants that it names. No clock is read here.
//!
//! Plain forms (`daily at 22:30`, `weekdays at 22:30`, `mondays at 6:00`, `every 15m`) and cron. Times of day are civil times in the job's zone: one that does not exist on a day
//! when clocks go forward is the first instant after the gap, one that exists twice is the first of the two. `every` counts from midnight of 1970 in UTC, and knows no zone.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, TimeZone, Timelike};
use chrono_tz::Tz;
use croner::Cron;
use strait_common::config::Span;
use strait_common::{Error, Result};

/// Days that are looked at before a schedule counts as one that names nothing more.
const DAYS_SEARCHED_MAX: usize = 4000;
/// The shortest and the longest interval.
const EVERY_S_MIN: i64 = 1;
const EVERY_S_MAX: i64 = 7 * 24 * 3600;

/// A schedule as it is written.
#[derive(Clone, Debug)]
pub struct Schedule {
    text: String,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// Times of day.
    Cron(Box<Cron>),
    /// Every so many seconds.
    Every(i64),
}

/// Equal texts are equal schedules.
impl PartialEq for Schedule {
    fn eq(&self, other: &Schedule) -> bool {
        self.text == other.text
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Schedule> {
        let text = text.trim();
        let words: Vec<&str> = text.split_whitespace().collect();
        let form = match words.as_slice() {
            ["every", every] => Form::Every(seconds(every)?),
            [days, "at", time] => {
                let time: TimeOfDay = time.parse()?;
                let days = match *days {
                    "daily" => "*",
                    "weekdays" => "1-5",
                    "weekends" => "6,0",
                    "mondays" => "1",
                    "tuesdays" => "2",
                    "wednesdays" => "3",
                    "thursdays" => "4",
                    "fridays" => "5",
                    "saturdays" => "6",
                    "sundays" => "0",
                    other => {
                        return Err(Error::config(format!(
                            "'{other}' names no days; write daily, weekdays, weekends, or a day as in mondays"
                        )));
                    }
                };
                Form::Cron(cron(&format!("{} {} * * {days}", time.minute, time.hour))?)
            }
            [_, _, _, _, _] | [_, _, _, _, _, _] => Form::Cron(cron(text)?),
            _ => {
                return Err(Error::config(format!(
                    "'{text}' is no schedule; write 'daily at 22:30', 'weekdays at 22:30', 'every 15m', or five fields of cron as in '30 22 * * 1-5'"
                )));
            }
        };
        Ok(Schedule {
            text: text.to_owned(),
            form,
        })
    }
}

fn cron(pattern: &str) -> Result<Box<Cron>> {
    pattern.parse().map(Box::new).map_err(|error| {
        Error::config(format!(
            "'{pattern}' is no cron schedule: {error}; the fields are minute, hour, day, month and day of the week"
        ))
    })
}

fn seconds(text: &str) -> Result<i64> {
    let span: Span = text.parse()?;
    let every = i64::try_from(span.0.as_secs()).unwrap_or(i64::MAX);
    if span.0.subsec_nanos() != 0 || !(EVERY_S_MIN..=EVERY_S_MAX).contains(&every) {
        return Err(Error::config(format!(
            "every {text}: write whole seconds, at most 168h"
        )));
    }
    Ok(every)
}

/// A time of day, as in 22:30.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay {
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
}

impl FromStr for TimeOfDay {
    type Err = Error;

    fn from_str(text: &str) -> Result<TimeOfDay> {
        let wrong = || {
            // DolphinDB writes 22:30m.
            let hint = text
                .strip_suffix('m')
                .map_or("06:00".to_owned(), str::to_owned);
            Error::config(format!(
                "'{text}' is no time of day; write hours and minutes, for example {hint}"
            ))
        };
        let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
        let number = |text: &str, below: u32| {
            let digits = text.len() <= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|number| digits && *number < below);
            number.ok_or_else(wrong)
        };
        if minute.len() != 2 {
            return Err(wrong());
        }
        Ok(TimeOfDay {
            hour: number(hour, 24)?,
            minute: number(minute, 60)?,
        })
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

impl TimeOfDay {
    /// The minute of the day.
    pub fn minutes(self) -> u32 {
        self.hour * 60 + self.minute
    }

    /// The first instant after this one (seconds since 1970) that has this time of day in a zone.
    pub fn next_after(self, zone: Tz, after: i64) -> Option<i64> {
        let pattern = format!("{} {} * * *", self.minute, self.hour);
        let cron: Cron = pattern.parse().ok()?;
        next(&cron, zone, after)
    }
}

/// The minute of the day in a zone.
pub fn minute_of_day(zone: Tz, at: i64) -> u32 {
    match civil(zone, at) {
        Some(civil) => civil.hour() * 60 + civil.minute(),
        None => 0,
    }
}

/// The civil date in a zone.
pub fn date(zone: Tz, at: i64) -> Option<NaiveDate> {
    civil(zone, at).map(|civil| civil.date_naive())
}

fn civil(zone: Tz, at: i64) -> Option<DateTime<Tz>> {
    Some(zone.from_utc_datetime(&DateTime::from_timestamp(at, 0)?.naive_utc()))
}

/// An instant as people in a zone read it.
pub fn shown(zone: Tz, at: i64) -> String {
    match civil(zone, at) {
        Some(civil) => civil.format("%Y-%m-%d %H:%M:%S %Z").to_string(),
        None => format!("{at}"),
    }
}

fn next(cron: &Cron, zone: Tz, after: i64) -> Option<i64> {
    let after = civil(zone, after)?;
    let found = cron.find_next_occurrence(&after, false).ok()?;
    Some(found.timestamp())
}

/// The dates on which nothing starts: a file with one date a line, `#` begins a remark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar(std::collections::BTreeSet<NaiveDate>);

impl FromStr for Calendar {
    type Err = Error;

    fn from_str(text: &str) -> Result<Calendar> {
        let mut dates = std::collections::BTreeSet::new();
        for (at, line) in text.lines().enumerate() {
            let day = line.split('#').next().unwrap_or_default().trim();
            if day.is_empty() {
                continue;
            }
            let day =
                day_of(day).map_err(|error| Error::config(format!("line {}: {error}", at + 1)))?;
            dates.insert(day);
        }
        Ok(Calendar(dates))
    }
}

impl Calendar {
    /// Whether nothing starts on this date.
    pub fn skips(&self, date: NaiveDate) -> bool {
        self.0.contains(&date)
    }
}

/// A date as in 2026-11-01.
///
/// # Errors
/// `Config`, saying what to write.
pub fn day_of(text: &str) -> Result<NaiveDate> {
    let parsed = NaiveDate::parse_from_str(text, "%Y-%m-%d");
    parsed.map_err(|_| {
        let ours = text.replace('.', "-");
        let hint = match NaiveDate::parse_from_str(&ours, "%Y-%m-%d") {
            Ok(_) => ours,
            Err(_) => "2026-11-01".to_owned(),
        };
        Error::config(format!("'{text}' is no date; write {hint}"))
    })
}

/// All that says when a job starts.
#[derive(Clone, Debug, PartialEq)]
pub struct When {
    /// The schedule.
    pub schedule: Schedule,
    /// Whose civil time it is in.
    pub zone: Tz,
    /// The first date on which it starts.
    pub start: Option<NaiveDate>,
    /// The last.
    pub end: Option<NaiveDate>,
    /// Dates on which it does not.
    pub calendar: Calendar,
}

impl When {
    /// The first start after an instant, both in seconds since 1970. `None` if there is none, in any time that matters.
    pub fn next_after(&self, after: i64) -> Option<i64> {
        let mut after = after;
        if let Some(start) = self.start {
            let begins = midnight(self.zone, start)?;
            after = after.max(begins - 1);
        }
        for _ in 0..DAYS_SEARCHED_MAX {
            let at = match &self.schedule.form {
                Form::Every(every) => (after.div_euclid(*every) + 1).checked_mul(*every)?,
                Form::Cron(cron) => next(cron, self.zone, after)?,
            };
            let date = date(self.zone, at)?;
            if self.end.is_some_and(|end| date > end) {
                return None;
            }
            if !self.calendar.skips(date) {
                return Some(at);
            }
            // Nothing starts on that day: the next one begins at its midnight.
            after = midnight(self.zone, date.succ_opt()?)? - 1;
        }
        None
    }
}

/// When a date begins in a zone; where clocks go forward at midnight, after the gap.
fn midnight(zone: Tz, date: NaiveDate) -> Option<i64> {
    let before = date.pred_opt()?.and_time(NaiveTime::MIN);
    // Some instant of the day before; from there the first one that is of this date.
    let mut at = before.and_utc().timestamp();
    while self::date(zone, at)? >= date {
        at -= 12 * 3600;
    }
    let (mut low, mut high) = (at, at + 4 * 24 * 3600);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if self::date(zone, middle)? < date {
            low = middle;
        } else {
            high = middle;
        }
    }
    debug_assert_eq!(
        self::date(zone, high).map(|found| found.num_days_from_ce()),
        Some(date.num_days_from_ce())
    );
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERLIN: Tz = chrono_tz::Europe::Berlin;

    fn at(zone: Tz, text: &str) -> i64 {
        let civil = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
        zone.from_local_datetime(&civil)
            .earliest()
            .unwrap()
            .timestamp()
    }

    fn when(schedule: &str) -> When {
        When {
            schedule: schedule.parse().unwrap(),
            zone: BERLIN,
            start: None,
            end: None,
            calendar: Calendar::default(),
        }
    }

    fn starts(when: &When, after: &str, count: usize) -> Vec<String> {
        let mut after = at(when.zone, after);
        let mut found = Vec::new();
        while let Some(start) = when.next_after(after).filter(|_| found.len() < count) {
            let civil = civil(when.zone, start).unwrap();
            found.push(civil.format("%a %m-%d %H:%M %Z").to_string());
            after = start;
        }
        found
    }

    #[test]
    fn plain_forms_and_cron_name_the_same_instants() {
        for (plain, cron) in [
            ("daily at 22:30", "30 22 * * *"),
            ("weekdays at 22:30", "30 22 * * 1-5"),
            ("sundays at 6:05", "5 6 * * 0"),
            ("weekends at 00:00", "0 0 * * 6,0"),
        ] {
            let after = "2026-11-20 12:00";
            assert_eq!(
                starts(&when(plain), after, 9),
                starts(&when(cron), after, 9),
                "{plain}"
            );
        }
        assert_eq!(
            starts(&when("weekdays at 22:30"), "2026-11-27 22:30", 2),
            ["Mon 11-30 22:30 CET", "Tue 12-01 22:30 CET"]
        );
        assert_eq!(
            starts(&when("every 15m"), "2026-11-27 22:31", 2),
            ["Fri 11-27 22:45 CET", "Fri 11-27 23:00 CET"]
        );
    }

    #[test]
    fn a_night_on_which_clocks_change_has_one_start() {
        // Clocks go forward at 02:00 on 2027-03-28 and back at 03:00 on 2026-10-25.
        assert_eq!(
            starts(&when("daily at 02:30"), "2027-03-27 02:30", 2),
            ["Sun 03-28 03:00 CEST", "Mon 03-29 02:30 CEST"]
        );
        assert_eq!(
            starts(&when("daily at 02:30"), "2026-10-24 02:30", 2),
            ["Sun 10-25 02:30 CEST", "Mon 10-26 02:30 CET"]
        );
        // From within the hour that comes twice, the night's start is not repeated.
        let when = when("daily at 02:30");
        let first = at(BERLIN, "2026-10-25 02:30");
        assert_eq!(when.next_after(first), Some(first + 25 * 3600));
        // An interval goes on as if nothing had happened.
        let every = super::tests::when("every 30m");
        let mut last = at(BERLIN, "2026-10-25 01:00");
        for _ in 0..8 {
            let next = every.next_after(last).unwrap();
            assert_eq!(next - last, 1800);
            last = next;
        }
    }

    #[test]
    fn dates_outside_and_those_of_the_calendar_are_left_out() {
        let mut when = when("daily at 22:30");
        when.start = Some(day_of("2026-12-24").unwrap());
        when.end = Some(day_of("2026-12-28").unwrap());
        when.calendar = "# holidays\n2026-12-25\n2026-12-26 # both\n\n"
            .parse()
            .unwrap();
        assert_eq!(
            starts(&when, "2026-11-01 00:00", 9),
            [
                "Thu 12-24 22:30 CET",
                "Sun 12-27 22:30 CET",
                "Mon 12-28 22:30 CET"
            ]
        );
        let all = "every 1h";
        when.schedule = all.parse().unwrap();
        assert_eq!(
            starts(&when, "2026-12-24 22:59", 3),
            [
                "Thu 12-24 23:00 CET",
                "Sun 12-27 00:00 CET",
                "Sun 12-27 01:00 CET"
            ]
        );
    }

    #[test]
    fn a_day_without_midnight_begins_after_the_gap() {
        // Clocks went forward at midnight in Beirut on 2026-03-29.
        let beirut = chrono_tz::Asia::Beirut;
        let begins = midnight(beirut, day_of("2026-03-29").unwrap()).unwrap();
        assert_eq!(shown(beirut, begins), "2026-03-29 01:00:00 EEST");
        let mut when = when("daily at 00:30");
        when.zone = beirut;
        assert_eq!(
            starts(&when, "2026-03-28 00:30", 2),
            ["Sun 03-29 01:00 EEST", "Mon 03-30 00:30 EEST"]
        );
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_what_to_write() {
        for (text, says) in [
            ("nightly", "daily at 22:30"),
            ("daily at 22:30m", "for example 22:30"),
            ("daily at 25:00", "no time of day"),
            ("someday at 22:30", "names no days"),
            ("every 0s", "whole seconds"),
            ("every 9999h", "at most 168h"),
            ("99 22 * * *", "no cron schedule"),
            ("* * *", "no schedule"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error = "2026-11-31".parse::<Calendar>().unwrap_err().to_string();
        assert!(
            error.starts_with("line 1: '2026-11-31' is no date"),
            "{error}"
        );
        assert!(
            day_of("2019.01.01")
                .unwrap_err()
                .to_string()
                .contains("write 2019-01-01")
        );
    }

    #[test]
    fn a_schedule_that_names_nothing_ends() {
        assert_eq!(when("0 0 30 2 *").next_after(0), None);
    }
}
