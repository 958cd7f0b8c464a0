//! Values of configuration keys: sizes, durations, and the layering of flag, environment and file.
//!
//! An agent's settings are one struct with an optional field per key, read twice: by clap from flags and environment, by serde from
//! the TOML file. The first one that names a key wins: flag, then environment, then file, then the default.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, OrError, Result};

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

/// A span of time, written `20s`, `500ms`, `5m`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Text", into = "String")]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Span> {
        let wrong = || {
            Error::config(format!(
                "'{text}' is not a duration; write for example 20s, 500ms, 5m or 2h"
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
#[serde(untagged)]
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

from_text!(ByteSize Span);

/// `NAME=URL`, as flags and environment variables name a store or a sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedUrl {
    /// How selectors call it.
    pub name: String,
    /// Where it is.
    pub url: String,
}

impl FromStr for NamedUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<NamedUrl> {
        match text.split_once('=') {
            Some((name, url)) if !name.is_empty() && !url.is_empty() => Ok(NamedUrl {
                name: name.to_owned(),
                url: url.to_owned(),
            }),
            _ => Err(Error::config(format!(
                "'{text}' is not NAME=URL, for example live=lake:///data/a"
            ))),
        }
    }
}

/// Reads a TOML file into a settings struct.
///
/// # Errors
/// `Config`, naming the file, the line and the unknown key or wrong value.
pub fn read_file<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .or_error(Kind::Config, format!("configuration file {name}"))?;
    parse(&text).with_context(|| format!("configuration file {name}"))
}

/// Reads TOML text into a settings struct.
///
/// # Errors
/// `Config`, with line, column and the unknown key or wrong value.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = line
            .map(|line| format!("line {line}: "))
            .unwrap_or_default();
        Error::config(format!("{place}{}", error.message()))
    })
}

/// A URL without user name, password and query, for logs and errors.
pub fn without_secrets(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut parsed) => {
            // Schemes without an authority refuse these, and have nothing to hide there.
            let _ = parsed.set_password(None);
            let _ = parsed.set_username("");
            parsed.set_query(None);
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
    fn an_unknown_key_is_named_with_its_line() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Settings {
            #[allow(dead_code)]
            memory: Option<ByteSize>,
        }
        let error = parse::<Settings>("memory = \"1MiB\"\nmemroy = 2\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2") && error.contains("memroy"),
            "{error}"
        );
        let error = parse::<Settings>("memory = \"lots\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("'lots' is not a size"), "{error}");
    }

    #[test]
    fn a_url_is_shown_without_its_secrets() {
        assert_eq!(
            without_secrets("dolphindb://u:p@host:8848/?token=x"),
            "dolphindb://host:8848/"
        );
        assert_eq!(without_secrets("lake:///data/a"), "lake:///data/a");
    }
}
