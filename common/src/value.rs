//! One typed scalar: a value of a partition key or a literal of a predicate.
//!
//! Its text is self-describing, so that a key can be read back without a schema:
//!
//! | type | text |
//! | --- | --- |
//! | bool | `true`, `false` |
//! | integer | `42`, `-7` |
//! | decimal | `1.10m` (scale kept) |
//! | float | `1.5f`, `nanf`, `inff`, `-inff` |
//! | string | `'IBM'`, quotes doubled, control characters, `%` and `/` as `%XX` of their UTF-8 bytes |
//! | binary | `x'00ff'` |
//! | date | `2026-11-01` |
//! | time | `T09:30:00.000000001` |
//! | timestamp | `2026-11-01T09:30:00.5`, with `Z` where it names an instant |

use std::cmp::Ordering;
use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike};

use crate::error::{Error, Result};

/// Nanoseconds in a second.
pub const NS_PER_S: i128 = 1_000_000_000;
/// Nanoseconds in a day.
pub const NS_PER_DAY: i128 = 86_400 * NS_PER_S;

/// A scalar that is not null.
#[derive(Clone, Debug)]
pub enum Value {
    /// A truth value.
    Bool(bool),
    /// An integer of any width, signed or not.
    Int(i128),
    /// A float of any width.
    Float(f64),
    /// `unscaled × 10^-scale`.
    Decimal {
        /// The digits.
        unscaled: i128,
        /// How many of them stand after the point; negative ones append zeros.
        scale: i8,
    },
    /// Text.
    String(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// Days since 1970-01-01.
    Date(i32),
    /// Nanoseconds since midnight.
    Time(i64),
    /// Nanoseconds since 1970-01-01T00:00:00: civil time, or in UTC where `zoned`.
    Timestamp {
        /// 128 bits, since a count of seconds in 64 bits does not fit 64 bits of nanoseconds.
        ns: i128,
        /// Whether it names an instant rather than what a clock on a wall shows.
        zoned: bool,
    },
}

impl Value {
    fn class(&self) -> u8 {
        match self {
            Value::Bool(_) => 0,
            Value::Int(_) => 1,
            Value::Decimal { .. } => 2,
            Value::Float(_) => 3,
            Value::Date(_) => 4,
            Value::Time(_) => 5,
            Value::Timestamp { .. } => 6,
            Value::String(_) => 7,
            Value::Binary(_) => 8,
        }
    }

    /// What a person calls this type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Bool(_) => "boolean",
            Value::Int(_) => "integer",
            Value::Decimal { .. } => "decimal",
            Value::Float(_) => "float",
            Value::Date(_) => "date",
            Value::Time(_) => "time of day",
            Value::Timestamp { zoned: false, .. } => "timestamp",
            Value::Timestamp { zoned: true, .. } => "timestamp with time zone",
            Value::String(_) => "string",
            Value::Binary(_) => "binary",
        }
    }

    /// Reads the text that [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// `Config` if the text is none of the forms in the table above.
    pub fn parse(text: &str) -> Result<Value> {
        parse(text)
            .ok_or_else(|| Error::config(format!("'{text}' is not a value of a partition key")))
    }
}

/// Values of one class are ordered as the predicate language orders them (`-0.0 = 0.0`, NaN above all
/// numbers); values of different classes by class, so that keys have one order.
impl Ord for Value {
    fn cmp(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Float(a), Value::Float(b)) => compare_floats(*a, *b),
            (
                Value::Decimal {
                    unscaled: a,
                    scale: s,
                },
                Value::Decimal {
                    unscaled: b,
                    scale: t,
                },
            ) => compare_decimals(*a, *s, *b, *t),
            (Value::String(a), Value::String(b)) => a.cmp(b),
            (Value::Binary(a), Value::Binary(b)) => a.cmp(b),
            (Value::Date(a), Value::Date(b)) => a.cmp(b),
            (Value::Time(a), Value::Time(b)) => a.cmp(b),
            (Value::Timestamp { ns: a, zoned: x }, Value::Timestamp { ns: b, zoned: y }) => {
                (x, a).cmp(&(y, b))
            }
            _ => self.class().cmp(&other.class()),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Value) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}

impl std::hash::Hash for Value {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // Equal decimals can differ in scale and equal zeros in sign: hash what all equal values share.
        self.class().hash(state);
        match self {
            Value::Bool(v) => v.hash(state),
            Value::Int(v) => v.hash(state),
            Value::Float(v) => canonical_float(*v).to_bits().hash(state),
            Value::Decimal { unscaled, scale } => {
                let (mut unscaled, mut scale) = (*unscaled, *scale);
                while unscaled != 0 && unscaled % 10 == 0 && scale > i8::MIN {
                    unscaled /= 10;
                    scale -= 1;
                }
                (unscaled, if unscaled == 0 { 0 } else { scale }).hash(state);
            }
            Value::String(v) => v.hash(state),
            Value::Binary(v) => v.hash(state),
            Value::Date(v) => v.hash(state),
            Value::Time(v) => v.hash(state),
            Value::Timestamp { ns, zoned } => (ns, zoned).hash(state),
        }
    }
}

/// The float that stands for all its equals: one zero, one NaN.
pub fn canonical_float(value: f64) -> f64 {
    if value.is_nan() {
        f64::NAN
    } else if value == 0.0 {
        0.0
    } else {
        value
    }
}

/// SQL's order with `-0.0 = 0.0`, `NaN = NaN`, and NaN above all numbers.
pub fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b)
        .unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Compares `a × 10^-s` with `b × 10^-t` without rounding.
pub fn compare_decimals(a: i128, s: i8, b: i128, t: i8) -> Ordering {
    if a.signum() != b.signum() || a == 0 {
        return a.signum().cmp(&b.signum());
    }
    // Bring the coarser one to the finer scale; when that overflows, its magnitude is the larger.
    let steps = (i32::from(s) - i32::from(t)).unsigned_abs();
    let scaled = |v: i128| {
        10i128
            .checked_pow(steps)
            .and_then(|factor| v.checked_mul(factor))
    };
    if s >= t {
        scaled(b).map_or_else(
            || {
                if b > 0 {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            },
            |b| a.cmp(&b),
        )
    } else {
        scaled(a).map_or_else(
            || {
                if a > 0 {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            },
            |a| a.cmp(&b),
        )
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(v) => write!(f, "{v}"),
            Value::Int(v) => write!(f, "{v}"),
            Value::Float(v) => write!(
                f,
                "{}f",
                format!("{:?}", canonical_float(*v)).to_lowercase()
            ),
            Value::Decimal { unscaled, scale } => write!(f, "{}m", decimal_text(*unscaled, *scale)),
            Value::String(v) => {
                f.write_str("'")?;
                for c in v.chars() {
                    match c {
                        '\'' => f.write_str("''")?,
                        // A slash separates the parts of a key and a bracket its ranges.
                        '%' | '/' => write_escaped(f, c)?,
                        c if c.is_control() => write_escaped(f, c)?,
                        c => write!(f, "{c}")?,
                    }
                }
                f.write_str("'")
            }
            Value::Binary(v) => {
                f.write_str("x'")?;
                v.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("'")
            }
            Value::Date(days) => match date_of(*days) {
                Some(date) => write!(f, "{}", date.format("%Y-%m-%d")),
                None => write!(f, "date({days})"),
            },
            Value::Time(ns) => {
                write!(
                    f,
                    "T{:02}:{:02}:{:02}",
                    ns / 3_600_000_000_000,
                    ns / 60_000_000_000 % 60,
                    ns / 1_000_000_000 % 60
                )?;
                write_fraction(f, (ns % 1_000_000_000).unsigned_abs())
            }
            Value::Timestamp { ns, zoned } => {
                let (seconds, fraction) = (ns.div_euclid(NS_PER_S), ns.rem_euclid(NS_PER_S));
                match i64::try_from(seconds)
                    .ok()
                    .and_then(|s| DateTime::from_timestamp(s, 0))
                {
                    Some(at) => {
                        write!(f, "{}", at.format("%Y-%m-%dT%H:%M:%S"))?;
                        write_fraction(f, fraction.unsigned_abs() as u64)?;
                    }
                    None => write!(f, "ns({ns})")?,
                }
                if *zoned { f.write_str("Z") } else { Ok(()) }
            }
        }
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, c: char) -> fmt::Result {
    c.encode_utf8(&mut [0; 4])
        .bytes()
        .try_for_each(|byte| write!(f, "%{byte:02X}"))
}

fn write_fraction(f: &mut fmt::Formatter<'_>, ns: u64) -> fmt::Result {
    if ns == 0 {
        return Ok(());
    }
    write!(f, ".{}", format!("{ns:09}").trim_end_matches('0'))
}

/// `unscaled × 10^-scale` in digits.
pub fn decimal_text(unscaled: i128, scale: i8) -> String {
    let sign = if unscaled < 0 { "-" } else { "" };
    let digits = unscaled.unsigned_abs().to_string();
    if scale <= 0 {
        let zeros = if unscaled == 0 {
            0
        } else {
            usize::from(scale.unsigned_abs())
        };
        return format!("{sign}{digits}{}", "0".repeat(zeros));
    }
    let scale = usize::from(scale.unsigned_abs());
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

/// Reads digits with an optional sign and point; the scale is the number of digits after the point.
pub fn parse_decimal(text: &str) -> Option<(i128, i8)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (digits.is_empty() && fraction.is_empty()) || !plain(digits) || !plain(fraction) {
        return None;
    }
    Some((
        format!("{whole}{fraction}").parse().ok()?,
        i8::try_from(fraction.len()).ok()?,
    ))
}

/// The calendar date `days` after 1970-01-01, where the calendar reaches that far.
pub fn date_of(days: i32) -> Option<NaiveDate> {
    NaiveDate::from_num_days_from_ce_opt(days.checked_add(DAYS_TO_EPOCH)?)
}

/// Days since 1970-01-01.
pub fn days_of(date: NaiveDate) -> i32 {
    use chrono::Datelike;
    date.num_days_from_ce() - DAYS_TO_EPOCH
}

/// From 0000-12-31, day 0 of the common era, to 1970-01-01.
const DAYS_TO_EPOCH: i32 = 719_163;

/// Nanoseconds since midnight.
pub fn time_ns_of(time: NaiveTime) -> i64 {
    i64::from(time.num_seconds_from_midnight()) * 1_000_000_000 + i64::from(time.nanosecond())
}

/// Nanoseconds since 1970-01-01T00:00:00 on the same wall clock.
pub fn timestamp_ns_of(at: NaiveDateTime) -> i128 {
    i128::from(days_of(at.date())) * NS_PER_DAY + i128::from(time_ns_of(at.time()))
}

fn parse(text: &str) -> Option<Value> {
    match text {
        "true" => return Some(Value::Bool(true)),
        "false" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(quoted) = text.strip_prefix('\'') {
        return parse_string(quoted.strip_suffix('\'')?).map(Value::String);
    }
    if let Some(hex) = text.strip_prefix("x'") {
        return parse_hex(hex.strip_suffix('\'')?).map(Value::Binary);
    }
    if let Some(time) = text.strip_prefix('T') {
        return NaiveTime::parse_from_str(time, "%H:%M:%S%.f")
            .ok()
            .map(|t| Value::Time(time_ns_of(t)));
    }
    if let Some(days) = text.strip_prefix("date(") {
        return days.strip_suffix(')')?.parse().ok().map(Value::Date);
    }
    let (local, zoned) = text
        .strip_suffix('Z')
        .map_or((text, false), |local| (local, true));
    if let Some(ns) = local.strip_prefix("ns(") {
        return ns
            .strip_suffix(')')?
            .parse()
            .ok()
            .map(|ns| Value::Timestamp { ns, zoned });
    }
    if let Ok(at) = NaiveDateTime::parse_from_str(local, "%Y-%m-%dT%H:%M:%S%.f") {
        return Some(Value::Timestamp {
            ns: timestamp_ns_of(at),
            zoned,
        });
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(Value::Date(days_of(date)));
    }
    if let Ok(int) = text.parse::<i128>() {
        return Some(Value::Int(int));
    }
    if let Some((unscaled, scale)) = text.strip_suffix('m').and_then(parse_decimal) {
        return Some(Value::Decimal { unscaled, scale });
    }
    text.strip_suffix('f')?.parse().ok().map(Value::Float)
}

fn parse_string(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'\'' => bytes.push(rest.next().filter(|&next| next == b'\'')?),
            b'%' => bytes.push(hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes()
        .chunks(2)
        .map(|pair| Some(hex_digit(pair[0])? << 4 | hex_digit(pair[1])?))
        .collect()
}

fn hex_digit(byte: u8) -> Option<u8> {
    (byte as char)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_reads_back_from_its_text() {
        let values = [
            Value::Bool(true),
            Value::Int(i128::from(u64::MAX)),
            Value::Int(-7),
            Value::Float(1.5),
            Value::Float(-0.0),
            Value::Float(f64::NAN),
            Value::Float(f64::NEG_INFINITY),
            Value::Float(1e300),
            Value::Decimal {
                unscaled: -110,
                scale: 2,
            },
            Value::Decimal {
                unscaled: 5,
                scale: 4,
            },
            Value::String("a/b=c %41 ä€ ' \" #?&+:;\\|<>*[]{}^`~".into()),
            Value::String(" lead\n\ttrail ".into()),
            Value::String(String::new()),
            Value::String("null".into()),
            Value::Binary(vec![0, 255]),
            Value::Date(0),
            Value::Date(-719_162),
            Value::Date(i32::MAX),
            Value::Time(34_200_000_000_001),
            Value::Timestamp {
                ns: -1,
                zoned: false,
            },
            Value::Timestamp {
                ns: 1_700_000_000_123_456_789,
                zoned: true,
            },
            Value::Timestamp {
                ns: i128::from(i64::MAX) * NS_PER_S,
                zoned: true,
            },
        ];
        for value in values {
            let text = value.to_string();
            assert_eq!(Value::parse(&text).unwrap(), value, "{text}");
            assert_eq!(Value::parse(&text).unwrap().to_string(), text);
        }
        assert_eq!(Value::Date(0).to_string(), "1970-01-01");
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "'",
            "'a",
            "'a'b'",
            "x'0'",
            "x'zz'",
            "T25:00:00",
            "2026-13-01",
            "1.5",
            "m",
            "f",
            "'%4'",
            "NULL",
        ] {
            assert!(Value::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn decimals_compare_without_rounding() {
        assert_eq!(compare_decimals(110, 2, 11, 1), Ordering::Equal);
        assert_eq!(
            compare_decimals(i128::MAX, 0, i128::MAX, 38),
            Ordering::Greater
        );
        assert_eq!(compare_decimals(i128::MIN, 0, -1, 38), Ordering::Less);
        assert_eq!(compare_decimals(1, 38, 1, -38), Ordering::Less);
        assert_eq!(compare_decimals(0, 3, 0, -3), Ordering::Equal);
    }
}
