//! Values of configuration keys: sizes, durations, and the layering of flag, environment and file.
//!
//! An agent's settings are one struct with an optional field per key, read twice: by clap from flags and environment, by serde from
//! the TOML file. The first one that names a key wins: flag, then environment, then file, then the default.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use file::{parse, read_file};

/// A number of bytes, written `256MiB`, `1.5GiB`, `4kB`, `100000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<ByteSize> {
        let wrong = || Error::config(format!("'{text}' is not a size; write for example 256MiB"));
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim());
        let factor = match unit {
            "" => 1,
            unit => {
                UNITS
                    .iter()
                    .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                    .ok_or_else(wrong)?
                    .1
            }
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(ByteSize).ok_or_else(wrong);
        }
        let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
        if !(0.0..1e18).contains(&bytes) {
            return Err(wrong());
        }
        Ok(ByteSize(bytes as u64))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS[..4]
            .iter()
            .rev()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A bound in bytes, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct SizeOrNone(pub Option<u64>);

impl FromStr for SizeOrNone {
    type Err = Error;

    fn from_str(text: &str) -> Result<SizeOrNone> {
        if text.trim() == "none" {
            return Ok(SizeOrNone(None));
        }
        let size = text.parse::<ByteSize>();
        size.map(|size| SizeOrNone(Some(size.0))).map_err(|_| {
            Error::config(format!(
                "'{text}' is not a size; write for example 256MiB, or none"
            ))
        })
    }
}

impl fmt::Display for SizeOrNone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => ByteSize(bytes).fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// A span of time, written `20s`, `500ms`, `5m`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Span> {
        let wrong = || {
            Error::config(format!(
                "'{text}' is not a duration; write for example 20s, 500ms, 5m, 2h or 7d"
            ))
        };
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let factor_ms = match text[digits..].trim() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        number
            .checked_mul(factor_ms)
            .map(|ms| Span(Duration::from_millis(ms)))
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let exact = [("h", 3_600_000), ("m", 60_000), ("s", 1000)]
            .into_iter()
            .find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => write!(f, "{}{unit}", ms / factor),
            None => write!(f, "{ms}ms"),
        }
    }
}

/// A TOML value that is text or a bare number.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a text such as \"256MiB\" or \"20s\", or a number"
)]
enum Text {
    Text(String),
    Number(u64),
}

macro_rules! from_text {
    ($($type:ident)*) => { $(
        impl TryFrom<Text> for $type {
            type Error = Error;

            fn try_from(text: Text) -> Result<$type> {
                match text {
                    Text::Text(text) => text.parse(),
                    Text::Number(number) => number.to_string().parse(),
                }
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    )* };
}

/// A share of a whole, written `90%`: from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct Percent(pub u8);

impl FromStr for Percent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Percent> {
        let number = text.trim().trim_end_matches('%').trim_end().parse().ok();
        let within = number.filter(|percent| (1..=100).contains(percent));
        within
            .map(Percent)
            .ok_or_else(|| Error::config(format!("'{text}' is no share; write for example 90%")))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

from_text!(ByteSize SizeOrNone Span Percent);

/// `NAME=URL`, as flags and environment variables name a store or a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedUrl {
    /// How selectors call it; empty if the text is not of that form.
    pub name: String,
    /// Where it is.
    pub url: String,
}

/// Never fails, since who parses flags would show the text and with it a password: [`urls`] refuses what has no name.
impl FromStr for NamedUrl {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<NamedUrl, Self::Err> {
        let plain = |name: &str| !name.is_empty() && !name.contains([':', '/', '@']);
        Ok(match text.split_once('=') {
            Some((name, url)) if plain(name) => NamedUrl {
                name: name.to_owned(),
                url: url.to_owned(),
            },
            _ => NamedUrl {
                name: String::new(),
                url: text.to_owned(),
            },
        })
    }
}

/// `[stores.NAME]`, `[sinks.NAME]` and `[sources.NAME]` of a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UrlSettings {
    /// Where it is.
    pub url: String,
}

/// The URLs by name as a file has them, without secrets.
pub fn shown_urls(urls: &BTreeMap<String, String>) -> BTreeMap<String, UrlSettings> {
    let shown = |url: &String| UrlSettings {
        url: without_secrets(url),
    };
    let urls = urls.iter();
    urls.map(|(name, url)| (name.clone(), shown(url))).collect()
}

/// The URLs of a kind of thing by name: those of flags or environment over those of the file.
///
/// # Errors
/// `Config`, naming the key and what to write, if there is none, or one is no URL with these schemes (any without them).
pub fn urls(
    what: &str,
    example: &str,
    schemes: &[&str],
    file: BTreeMap<String, UrlSettings>,
    flags: Vec<NamedUrl>,
) -> Result<BTreeMap<String, String>> {
    let (name, url) = example.split_once('=').unwrap_or(("name", example));
    let file = file.into_iter().map(|(name, named)| (name, named.url));
    let mut urls: BTreeMap<String, String> = file.collect();
    for flag in flags {
        if flag.name.is_empty() {
            return Err(Error::config(format!(
                "--{what} or its environment variable: a value is not NAME=URL; write for example {example}"
            )));
        }
        urls.insert(flag.name, flag.url);
    }
    if urls.is_empty() {
        return Err(Error::config(format!(
            "no {what} is named; add [{what}s.{name}] with url = \"{url}\" or --{what} {example}"
        )));
    }
    for (name, text) in &urls {
        let wrong = |reason: String| {
            Error::config(format!(
                "{what}s.{name}.url {reason}; write for example {url}"
            ))
        };
        // The text itself may hold a password.
        let parsed =
            url::Url::parse(text).map_err(|error| wrong(format!("is no URL ({error})")))?;
        if parsed.cannot_be_a_base() {
            return Err(wrong("has no // after its scheme".to_owned()));
        }
        if !schemes.is_empty() && !schemes.contains(&parsed.scheme()) {
            return Err(wrong(format!("begins with {}:", parsed.scheme())));
        }
    }
    Ok(urls)
}

/// Refuses a number out of bounds.
///
/// # Errors
/// `Config`, naming the key and the bounds.
pub fn between(key: &str, value: u64, min: u64, max: u64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::config(format!(
        "{key} = {value} is not between {min} and {max}"
    )))
}

/// Refuses a duration out of bounds.
///
/// # Errors
/// `Config`, naming the key and the bounds.
pub fn lasts(key: &str, span: Duration, min: Duration, max: Duration) -> Result<()> {
    if (min..=max).contains(&span) {
        return Ok(());
    }
    Err(Error::config(format!(
        "{key} = {} is not between {} and {}",
        Span(span),
        Span(min),
        Span(max)
    )))
}

/// The largest bound on memory.
pub const MEMORY_BYTES_MAX: u64 = (1 << 42) - 1024;
/// The longest that any wait may be set to; clocks overflow long after it.
pub const SPAN_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A URL without user name, password, query and fragment, for logs and errors.
pub fn without_secrets(url: &str) -> String {
    match url::Url::parse(url) {
        // `user:password@host` is read as the scheme `user`.
        Ok(parsed) if parsed.cannot_be_a_base() => "(not a URL)".to_owned(),
        Ok(mut parsed) => {
            // Schemes without an authority refuse these, and have nothing to hide there.
            let _ = parsed.set_password(None);
            let _ = parsed.set_username("");
            parsed.set_query(None);
            parsed.set_fragment(None);
            parsed.to_string()
        }
        Err(_) => "(not a URL)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_from_their_text() {
        let sizes = [
            ("256MiB", 256 << 20),
            ("1.5GiB", 3 << 29),
            ("4kB", 4000),
            ("100000", 100_000),
            ("0", 0),
            ("1 MiB", 1 << 20),
        ];
        for (text, bytes) in sizes {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
        for (text, bytes) in [("none", None), ("20MiB", Some(20 << 20))] {
            let size: SizeOrNone = text.parse().unwrap();
            assert_eq!((size.0, size.to_string()), (bytes, text.to_owned()));
        }
        assert!("no".parse::<SizeOrNone>().is_err());
        for text in ["", "MiB", "-1", "1 XB", "99999999TiB", "1.2.3MiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_back_from_their_text() {
        for (text, ms) in [
            ("20s", 20_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("2h", 7_200_000),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(ms));
            assert_eq!(span.to_string(), text);
        }
        assert!("20".parse::<Span>().is_err());
    }

    #[test]
    fn urls_of_flags_stand_over_those_of_the_file_and_each_must_be_one() {
        let url = "lake:///file".to_owned();
        let file = || [("live".to_owned(), UrlSettings { url: url.clone() })];
        let read = |file: BTreeMap<String, UrlSettings>, flags: &[&str]| {
            let flags = flags.iter().map(|flag| flag.parse().unwrap()).collect();
            urls(
                "store",
                "live=lake:///data/a",
                &["lake", "dolphindb"],
                file,
                flags,
            )
        };
        let both = read(file().into(), &["old=lake:///flag", "live=lake:///a?b=c"]).unwrap();
        assert_eq!(both["live"], "lake:///a?b=c");
        assert_eq!(both["old"], "lake:///flag");
        let cases = [
            (
                "",
                "--store or its environment variable: a value is not NAME=URL; write for example live=lake:///data/a",
            ),
            ("dolphindb://u:hunter2@host/?a=b", "a value is not NAME=URL"),
            ("=lake:///a", "a value is not NAME=URL"),
            ("x=", "stores.x.url is no URL"),
            (
                "x=/data/hunter2",
                "stores.x.url is no URL (relative URL without a base); write for example lake:///data/a",
            ),
            (
                "x=user:hunter2@host",
                "stores.x.url has no // after its scheme",
            ),
            ("x=ftp://hunter2@host/", "stores.x.url begins with ftp:"),
        ];
        for (flag, expected) in cases {
            let error = read(BTreeMap::new(), &[flag]).unwrap_err().to_string();
            assert!(error.contains(expected), "{flag}: {error}");
            assert!(!error.contains("hunter2"), "{flag}: {error}");
        }
        let error = read(BTreeMap::new(), &[]).unwrap_err().to_string();
        assert!(
            error.contains("no store is named; add [stores.live] with url = \"lake:///data/a\""),
            "{error}"
        );
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        for (url, shown) in [
            (
                "dolphindb://u:p@host:8848/?token=x",
                "dolphindb://host:8848/",
            ),
            ("dolphindb://u:p%40q@host#x", "dolphindb://host"),
            ("lake:///data/a", "lake:///data/a"),
            ("user:password@host", "(not a URL)"),
            ("dolphindb:user:password@host", "(not a URL)"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
