//! A job as a file: TOML in, what the job says out. What is wrong is told with its line.

use std::fmt;
use std::str::FromStr;

use chrono::NaiveDate;
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer};
use strait_common::config::{ByteSize, Span};
use strait_common::ids::GroupId;
use strait_common::{Error, Kind, OrError, Result};
use strait_proto::v1;

use crate::Limits;
use crate::book::{Event, Overlap, Rules};
use crate::limits::ByTime;
use crate::when::{self, Calendar, Schedule, TimeOfDay, When};

/// The largest file.
const FILE_BYTES_MAX: usize = 64 << 10;
/// Targets of notifications of one job at most.
const NOTIFY_MAX: usize = 8;
/// Partitions that a lookback brings at most.
const LOOKBACK_MAX: u32 = 1000;

/// A job as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobFile {
    /// Its name.
    pub name: String,
    /// The source agent that does its work, by the name that a sink's configuration has for it; empty if it names none.
    pub source: String,
    /// What each start asks for, but its id and its now.
    pub asked: v1::StartGroupRequest,
    /// When it starts, and what becomes of a start.
    pub rules: Rules,
    /// Streams by time of day.
    pub streams_max: Option<ByTime<u32>>,
    /// Bandwidth by time of day.
    pub bandwidth_max: Option<ByTime<ByteSize>>,
    /// Who is told of what.
    pub notify: Vec<Notify>,
}

/// Who is told of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// How.
    pub way: Way,
    /// Of what.
    pub on: Vec<Event>,
}

/// How somebody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// A POST of JSON to this URL.
    Webhook(String),
    /// A program and its arguments; the JSON is on its standard input.
    Command(Vec<String>),
}

impl JobFile {
    /// What a start of it asks for, whose `now()` has these meanings (seconds since 1970), the last of which is its own.
    pub fn request(&self, id: GroupId, nows: &[i64], limits: Limits) -> v1::StartGroupRequest {
        let ns = |at: &i64| at.saturating_mul(1_000_000_000);
        let (now, also) = match nows.split_last() {
            Some((now, also)) => (ns(now), also.iter().map(ns).collect()),
            None => (0, Vec::new()),
        };
        let mut request = self.asked.clone();
        let run = request.run.get_or_insert_default();
        run.bandwidth_max = limits.bandwidth_max;
        run.streams = limits.streams.unwrap_or(run.streams);
        (request.id, request.now, request.also) = (id.to_string(), Some(now), also);
        request
    }

    /// The tables that it copies, as they are written, and where they go.
    pub fn tables(&self) -> (&str, &str) {
        let selectors = (self.asked.run.as_ref()).and_then(|run| run.selectors.as_ref());
        selectors.map_or(("", ""), |tables| (&tables.from, &tables.to))
    }

    /// What happens to the rows that B has: `append`, `replace` or `mirror`.
    pub fn mode(&self) -> &'static str {
        let mode = self.asked.run.as_ref().and_then(|run| run.mode);
        match mode.unwrap_or_default().kind() {
            v1::mode::Kind::Unspecified | v1::mode::Kind::Append => "append",
            v1::mode::Kind::Replace => "replace",
            v1::mode::Kind::Mirror => "mirror",
        }
    }

    /// What its runs must keep to at an instant.
    pub fn limits(&self, at: i64) -> Limits {
        let zone = self.rules.zone;
        let (bandwidth_max, streams) = (self.bandwidth_max.as_ref(), self.streams_max.as_ref());
        Limits {
            bandwidth_max: bandwidth_max.map(|limit| limit.at(zone, at).0),
            streams: streams.map(|limit| limit.at(zone, at)),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `Config`, with the line and what to write.
    pub fn read(text: &str) -> Result<JobFile> {
        if text.len() > FILE_BYTES_MAX {
            return Err(Error::config(format!(
                "the file has {} bytes, at most {FILE_BYTES_MAX}",
                text.len()
            )));
        }
        let raw: Raw = toml::from_str(text)
            .map_err(|error| Error::config(error.to_string().trim_end().to_owned()))?;
        raw.checked(text)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    #[serde(default)]
    source: String,
    from: String,
    to: String,
    #[serde(default)]
    include: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(rename = "where")]
    predicate: Option<String>,
    columns: Option<Vec<String>>,
    narrow: Option<Vec<String>>,
    zone: Option<Text<Tz>>,
    mode: Option<RawMode>,
    check: Option<RawCheck>,
    allow_drop: Option<u64>,
    again: Option<bool>,
    schema: Option<RawSchema>,
    order: Option<RawOrder>,
    pass_through: Option<RawPassThrough>,
    streams_max: Option<Text<ByTime<u32>>>,
    bandwidth_max: Option<Text<ByTime<ByteSize>>>,
    #[serde(default)]
    without_room: bool,
    tables: Option<u32>,
    lookback: Option<u32>,
    retries: Option<u32>,
    schedule: Option<Text<Schedule>>,
    start: Option<Day>,
    end: Option<Day>,
    jitter: Option<Text<Span>>,
    calendar: Option<String>,
    overlap: Option<RawOverlap>,
    deadline: Option<Text<TimeOfDay>>,
    #[serde(default)]
    notify: Vec<RawNotify>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum RawMode {
    Append,
    Replace,
    Mirror,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawCheck {
    Versions,
    Digests,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawSchema {
    Evolve,
    Freeze,
    Ignore,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawOrder {
    Oldest,
    Newest,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawPassThrough {
    Auto,
    Never,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawOverlap {
    Queue,
    Skip,
    Attach,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawEvent {
    Success,
    Failure,
    Partial,
    NothingRan,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNotify {
    webhook: Option<String>,
    command: Option<Vec<String>>,
    on: Vec<RawEvent>,
}

/// What is read from a text, or from a number as if it were text.
struct Text<T>(T);

impl<'de, T: FromStr> Deserialize<'de> for Text<T>
where
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<T>, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            other => {
                return Err(serde::de::Error::custom(format!(
                    "a {} where a text is needed",
                    other.type_str()
                )));
            }
        };
        text.parse().map(Text).map_err(serde::de::Error::custom)
    }
}

/// A date, as TOML has it or as text.
struct Day(NaiveDate);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Day, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            toml::Value::Datetime(date) => date.to_string(),
            other => {
                return Err(serde::de::Error::custom(format!(
                    "a {} where a date is needed",
                    other.type_str()
                )));
            }
        };
        let day = when::day_of(&text);
        day.map(Day).map_err(serde::de::Error::custom)
    }
}

/// The line of a key at the top of a file, for what only several keys together make wrong.
fn line_of(text: &str, key: &str) -> usize {
    let is_key = |line: &str| {
        let rest = line.trim_start().strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    text.lines().position(is_key).map_or(1, |at| at + 1)
}

impl Raw {
    fn checked(self, text: &str) -> Result<JobFile> {
        let wrong = |key: &str, why: &str| {
            Err(Error::config(format!(
                "line {}: {key}: {why}",
                line_of(text, key)
            )))
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if self.name.is_empty() || self.name.len() > 100 || !self.name.chars().all(plain) {
            return wrong("name", "write letters, digits and - _ . only, at most 100");
        }
        let mode = self.mode.unwrap_or(RawMode::Append);
        let mirrors = mode == RawMode::Mirror;
        if self.again.is_some() && mode != RawMode::Append {
            return wrong("again", "it is of mode = \"append\"");
        }
        if self.check.is_some() && !mirrors {
            return wrong("check", "it is of mode = \"mirror\"");
        }
        if self.allow_drop.is_some() && !mirrors {
            return wrong("allow_drop", "it is of mode = \"mirror\"");
        }
        if self.lookback.is_some() && mode == RawMode::Append {
            return wrong(
                "lookback",
                "rows would be appended twice; it is of mode = \"mirror\" and \"replace\"",
            );
        }
        if self
            .lookback
            .is_some_and(|lookback| lookback > LOOKBACK_MAX)
        {
            return wrong("lookback", &format!("at most {LOOKBACK_MAX}"));
        }
        if self.schedule.is_none() {
            for (key, is_there) in [
                ("start", self.start.is_some()),
                ("end", self.end.is_some()),
                ("jitter", self.jitter.is_some()),
                ("calendar", self.calendar.is_some()),
                ("overlap", self.overlap.is_some()),
                ("deadline", self.deadline.is_some()),
            ] {
                if is_there {
                    return wrong(
                        key,
                        "it is of a schedule, and there is none; add for example schedule = \"daily at 22:30\"",
                    );
                }
            }
        }
        if self.notify.len() > NOTIFY_MAX {
            return wrong("notify", &format!("at most {NOTIFY_MAX}"));
        }
        let zone = self.zone.map_or(Tz::UTC, |zone| zone.0);
        let calendar = match &self.calendar {
            None => Calendar::default(),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let context = || format!("line {}: calendar {path}", line_of(text, "calendar"));
                let dates = read.or_error(Kind::Config, context())?;
                dates.parse().or_error(Kind::Config, context())?
            }
        };
        if let (Some(start), Some(end)) = (&self.start, &self.end)
            && end.0 < start.0
        {
            return wrong("end", "it is before start");
        }
        let when = self.schedule.map(|schedule| When {
            schedule: schedule.0,
            zone,
            start: self.start.map(|day| day.0),
            end: self.end.map(|day| day.0),
            calendar,
        });
        let notify = self.notify.into_iter().map(RawNotify::checked);
        let bandwidth_max = self.bandwidth_max.map(|limit| limit.0);
        let streams_max = self.streams_max.map(|limit| limit.0);
        let streams = streams_max.iter().flat_map(|limit| limit.values()).max();
        let selectors = v1::Selectors {
            from: self.from,
            to: self.to,
            r#where: self.predicate.filter(|text| !text.trim().is_empty()),
            columns: self.columns.unwrap_or_default(),
            zone: match zone {
                Tz::UTC => String::new(),
                zone => zone.name().to_owned(),
            },
            narrow: self.narrow.unwrap_or_default(),
            pass_through: match self.pass_through {
                None => v1::PassThrough::Unspecified.into(),
                Some(RawPassThrough::Auto) => v1::PassThrough::Auto.into(),
                Some(RawPassThrough::Never) => v1::PassThrough::Never.into(),
            },
            ..v1::Selectors::default()
        };
        let run = v1::StartRunRequest {
            selectors: Some(selectors),
            streams: streams.unwrap_or(0),
            mode: Some(v1::Mode {
                kind: match self.mode {
                    None => v1::mode::Kind::Unspecified.into(),
                    Some(RawMode::Append) => v1::mode::Kind::Append.into(),
                    Some(RawMode::Replace) => v1::mode::Kind::Replace.into(),
                    Some(RawMode::Mirror) => v1::mode::Kind::Mirror.into(),
                },
                again: self.again.unwrap_or(false),
                check: match self.check {
                    None => v1::Check::Unspecified.into(),
                    Some(RawCheck::Versions) => v1::Check::Versions.into(),
                    Some(RawCheck::Digests) => v1::Check::Digests.into(),
                },
                allow_drop: self.allow_drop.unwrap_or(0),
            }),
            bandwidth_max: None,
            without_room: self.without_room,
            schema_policy: match self.schema {
                None => v1::SchemaPolicy::Unspecified.into(),
                Some(RawSchema::Evolve) => v1::SchemaPolicy::Evolve.into(),
                Some(RawSchema::Freeze) => v1::SchemaPolicy::Freeze.into(),
                Some(RawSchema::Ignore) => v1::SchemaPolicy::Ignore.into(),
            },
            order: match self.order {
                None => v1::Order::Unspecified.into(),
                Some(RawOrder::Oldest) => v1::Order::Oldest.into(),
                Some(RawOrder::Newest) => v1::Order::Newest.into(),
            },
        };
        Ok(JobFile {
            name: self.name,
            source: self.source,
            asked: v1::StartGroupRequest {
                run: Some(run),
                include: self.include,
                exclude: self.exclude,
                tables_max: self.tables.unwrap_or(1),
                lookback: self.lookback.unwrap_or(0),
                ..v1::StartGroupRequest::default()
            },
            rules: Rules {
                when,
                zone,
                jitter_s: self.jitter.map_or(0, |jitter| {
                    i64::try_from(jitter.0.0.as_secs())
                        .unwrap_or(i64::MAX)
                        .min(12 * 3600)
                }),
                overlap: match self.overlap {
                    None | Some(RawOverlap::Queue) => Overlap::Queue,
                    Some(RawOverlap::Skip) => Overlap::Skip,
                    Some(RawOverlap::Attach) => Overlap::Attach,
                },
                deadline: self.deadline.map(|deadline| deadline.0),
                merges: mode != RawMode::Append,
                retries: self.retries.unwrap_or(3),
            },
            streams_max,
            bandwidth_max,
            notify: notify.collect::<Result<_>>()?,
        })
    }
}

impl RawNotify {
    fn checked(self) -> Result<Notify> {
        let way = match (self.webhook, self.command) {
            (Some(url), None) => {
                let parsed = url::Url::parse(&url).ok();
                let is_web = |url: &url::Url| matches!(url.scheme(), "http" | "https");
                if !parsed.as_ref().is_some_and(is_web) {
                    return Err(Error::config(format!(
                        "notify: {}: a webhook is an http:// or https:// URL",
                        strait_common::config::without_secrets(&url)
                    )));
                }
                Way::Webhook(url)
            }
            (None, Some(command)) if !command.is_empty() => Way::Command(command),
            _ => {
                return Err(Error::config(
                    "notify: write webhook = URL or command = [PROGRAM, ARGUMENT, ...], one of the two",
                ));
            }
        };
        let event = |event: RawEvent| match event {
            RawEvent::Success => Event::Success,
            RawEvent::Failure => Event::Failure,
            RawEvent::Partial => Event::Partial,
            RawEvent::NothingRan => Event::NothingRan,
        };
        Ok(Notify {
            way,
            on: self.on.into_iter().map(event).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIGHTLY: &str = r#"
name = "nightly"
from = "live:db1/*"
to = "dr:db1/*"
exclude = ["*_old"]
where = "TradingDay > date(now()) - 7"
zone = "Asia/Shanghai"
mode = "mirror"
lookback = 2
order = "newest"
pass_through = "never"
schedule = "daily at 22:30"
start = 2019-01-01
end = "2030-12-31"
deadline = "06:00"
bandwidth_max = "22:00-06:00 = 200MiB, else 20MiB"
streams_max = 3

[[notify]]
command = ["logger", "-t", "strait"]
on = ["failure", "nothing-ran"]
"#;

    #[test]
    fn a_job_is_what_its_file_says_and_the_same_file_is_the_same_job() {
        let job = JobFile::read(NIGHTLY).unwrap();
        assert_eq!(job, JobFile::read(NIGHTLY).unwrap());
        let run = job.asked.run.clone().unwrap();
        assert_eq!(run.order(), v1::Order::Newest);
        let selectors = run.selectors.unwrap();
        assert_eq!(selectors.pass_through(), v1::PassThrough::Never);
        assert_eq!(run.streams, 3);
        assert_eq!((job.rules.merges, job.asked.lookback), (true, 2));
        let when = job.rules.when.as_ref().unwrap();
        assert_eq!(when.zone, chrono_tz::Asia::Shanghai);
        assert_eq!(when.start, Some(when::day_of("2019-01-01").unwrap()));
        assert_eq!(when.end, Some(when::day_of("2030-12-31").unwrap()));
        assert_eq!(job.notify[0].on, [Event::Failure, Event::NothingRan]);
        let id = GroupId::from_u128(1);
        let request = job.request(id, &[10, 20], Limits::default());
        assert_eq!(
            (request.now, request.also, request.id),
            (Some(20_000_000_000), vec![10_000_000_000], id.to_string())
        );
        // At 14:00 in Shanghai.
        let limits = job.limits(6 * 3600);
        assert_eq!(
            (limits.bandwidth_max, limits.streams),
            (Some(20 << 20), Some(3))
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let change = |from: &str, to: &str| {
            assert!(NIGHTLY.contains(from), "{from}");
            NIGHTLY.replace(from, to)
        };
        for (text, line, says) in [
            (
                change("daily at 22:30", "daily at 25:30"),
                12,
                "no time of day",
            ),
            (change("daily at 22:30", "nightly"), 12, "is no schedule"),
            (change("Asia/Shanghai", "Asia/Nowhere"), 7, ""),
            (change("2030-12-31", "2030.12.31"), 14, "write 2030-12-31"),
            (change("2030-12-31", "2018-12-31"), 14, "before start"),
            (
                change("mode = \"mirror\"", "mode = \"append\""),
                9,
                "appended twice",
            ),
            (change("mode = \"mirror\"", "mode = \"sync\""), 8, "append"),
            (change("lookback = 2", "look_back = 2"), 9, "unknown field"),
            (change("06:00\"\nband", "6\"\nband"), 15, "no time of day"),
            (change(", else 20MiB", ""), 16, "at other times"),
        ] {
            let error = JobFile::read(&text).unwrap_err();
            assert_eq!(error.kind(), Kind::Config);
            let error = error.to_string();
            assert!(
                error.contains(&format!("line {line}")),
                "line {line}: {error}"
            );
            assert!(error.contains(says), "{says}: {error}");
        }
        let error = JobFile::read(&change("schedule = \"daily at 22:30\"", "")).unwrap_err();
        assert!(error.to_string().contains("there is none"), "{error}");
    }
}
