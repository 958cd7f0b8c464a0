//! Constants of a condition: read from text, given the type of a column, and written as SQL again.

use arrow::datatypes::DataType;
use chrono::DateTime;

use super::zone::Zone;
use crate::error::{Error, Result};
use crate::value::{
    NS_PER_DAY, NS_PER_S, Value, canonical_float, date_of, decimal_text, parse_decimal,
};

/// A constant side of a comparison, before its type is known.
#[derive(Clone, Debug)]
pub(super) enum Constant {
    Null,
    Bool(bool),
    /// A number as it is written.
    Number(String),
    /// A quoted text, which takes the column's type.
    Text(String),
    /// The digits of `x'00ff'`.
    Hex(String),
    /// Days since 1970, in civil time.
    Date(i64),
    /// Nanoseconds since midnight.
    Time(i64),
    /// Civil time in nanoseconds.
    Civil(i128),
    /// An instant in nanoseconds: `now()`, or a timestamp with its offset.
    Instant(i128),
    /// `interval '1' day`, in nanoseconds.
    Interval(i128),
}

impl Constant {
    fn shown(&self) -> String {
        match self {
            Constant::Null => "null".to_owned(),
            Constant::Bool(value) => value.to_string(),
            Constant::Number(text) => text.clone(),
            Constant::Text(text) => format!("'{text}'"),
            Constant::Hex(digits) => format!("x'{digits}'"),
            Constant::Date(_) => "a date".to_owned(),
            Constant::Time(_) => "a time of day".to_owned(),
            Constant::Civil(_) | Constant::Instant(_) => "a timestamp".to_owned(),
            Constant::Interval(_) => "an interval".to_owned(),
        }
    }
}

/// The civil day of a civil time.
pub(super) fn days(civil_ns: i128) -> Result<i64> {
    i64::try_from(civil_ns.div_euclid(NS_PER_DAY))
        .map_err(|_| Error::config("a date that no calendar has"))
}

/// The date of `2026-11-01`, the civil time of `2026-11-01 09:30`, the instant of `2026-11-01T09:30:00.5Z` or `2026-11-01 09:30:00+01:00`.
pub(super) fn moment(text: &str) -> Result<Constant> {
    let read = || {
        let (date, time) = match text.split_once([' ', 'T']) {
            Some((date, time)) => (date, Some(time)),
            None => (text, None),
        };
        let days = match Value::parse(date) {
            // Written as we write it: nothing left out, no blanks.
            Ok(value @ Value::Date(days)) if value.to_string() == date => days,
            _ => return None,
        };
        let Some(time) = time else {
            return Some(Constant::Date(days.into()));
        };
        let midnight = i128::from(days) * NS_PER_DAY;
        if let Some(clock) = time.strip_suffix('Z') {
            return Some(Constant::Instant(midnight + i128::from(clock_ns(clock)?)));
        }
        if let Some(at) = time.rfind(['+', '-']) {
            let offset = i128::from(clock_ns(&time[at + 1..])?);
            let sign = if time[at..].starts_with('-') { -1 } else { 1 };
            let clock = i128::from(clock_ns(&time[..at])?);
            return Some(Constant::Instant(midnight + clock - sign * offset));
        }
        Some(Constant::Civil(midnight + i128::from(clock_ns(time)?)))
    };
    read().ok_or_else(|| {
        Error::config(format!(
            "'{text}' is no date or timestamp; write '2026-11-01' or '2026-11-01 09:30:00'"
        ))
    })
}

/// Nanoseconds since midnight.
pub(super) fn time_of_day(text: &str) -> Result<i64> {
    clock_ns(text)
        .ok_or_else(|| Error::config(format!("'{text}' is no time of day; write '09:30:00'")))
}

/// Nanoseconds since midnight of `09:30`, `09:30:00` or `09:30:00.123456789`.
fn clock_ns(text: &str) -> Option<i64> {
    let digits = |text: &str, below: i64| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        plain
            .then(|| text.parse::<i64>().ok())?
            .filter(|number| *number < below)
    };
    let two = |text: &str, below| (text.len() == 2).then(|| digits(text, below))?;
    let (hour, rest) = text.split_once(':')?;
    let (minute, second) = match rest.split_once(':') {
        Some((minute, second)) => (minute, second),
        None => (rest, "00"),
    };
    let (second, fraction) = match second.split_once('.') {
        Some((second, fraction)) if fraction.len() <= 9 => {
            digits(fraction, 1_000_000_000)?;
            (second, format!("{fraction:0<9}").parse().ok()?)
        }
        Some(_) => return None,
        None => (second, 0),
    };
    let seconds = two(hour, 24)? * 3600 + two(minute, 60)? * 60 + two(second, 60)?;
    Some(seconds * 1_000_000_000 + fraction)
}

/// A constant in the class of a column's type; `None` is null.
pub(super) fn typed(
    constant: &Constant,
    data_type: &DataType,
    zone: Zone,
) -> Result<Option<Value>> {
    let wrong = || Error::config(format!("{} is no value of that type", constant.shown()));
    Ok(Some(match (data_type, constant) {
        (_, Constant::Null) => return Ok(None),
        (DataType::Boolean, Constant::Bool(value)) => Value::Bool(*value),
        (data_type, Constant::Number(text) | Constant::Text(text)) if data_type.is_floating() => {
            Value::Float(float(text).ok_or_else(wrong)?)
        }
        (data_type, Constant::Number(text) | Constant::Text(text)) if data_type.is_integer() => {
            number(text).ok_or_else(wrong)?
        }
        (
            DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..),
            Constant::Number(text) | Constant::Text(text),
        ) => number(text).ok_or_else(wrong)?,
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, Constant::Text(text)) => {
            Value::String(text.clone())
        }
        (
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_),
            Constant::Text(digits) | Constant::Hex(digits),
        ) => Value::parse(&format!("x'{digits}'"))
            .map_err(|_| Error::config(format!("'{digits}' is not a text of hex digits")))?,
        (DataType::Date32 | DataType::Date64, constant) => {
            let read = match constant {
                Constant::Text(text) => moment(text)?,
                other => other.clone(),
            };
            match read {
                Constant::Date(days) => i32::try_from(days)
                    .ok()
                    .filter(|days| date_of(*days).is_some())
                    .map(Value::Date)
                    .ok_or_else(|| Error::config("a date that no calendar has"))?,
                Constant::Civil(_) | Constant::Instant(_) => {
                    return Err(Error::config(
                        "a date is compared with a timestamp; write date(…) around it",
                    ));
                }
                _ => return Err(wrong()),
            }
        }
        (DataType::Time32(_) | DataType::Time64(_), Constant::Time(ns)) => Value::Time(*ns),
        (DataType::Time32(_) | DataType::Time64(_), Constant::Text(text)) => {
            Value::Time(time_of_day(text)?)
        }
        (DataType::Timestamp(_, own), constant) => {
            let zoned = own.is_some();
            let read = match constant {
                Constant::Text(text) => moment(text)?,
                other => other.clone(),
            };
            let in_zone = |civil: i128| {
                if zoned {
                    zone.instant(civil)
                } else {
                    Ok(civil)
                }
            };
            let ns = match read {
                Constant::Date(days) => in_zone(i128::from(days) * NS_PER_DAY)?,
                Constant::Civil(ns) => in_zone(ns)?,
                Constant::Instant(ns) if zoned => ns,
                Constant::Instant(ns) => zone.civil(ns)?,
                Constant::Number(_) => {
                    return Err(Error::config(
                        "a number is compared with a timestamp; write timestamp '2026-11-01 09:30:00'",
                    ));
                }
                _ => return Err(wrong()),
            };
            let seconds = i64::try_from(ns.div_euclid(NS_PER_S)).ok();
            if seconds
                .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
                .is_none()
            {
                return Err(Error::config("a timestamp that no calendar has"));
            }
            Value::Timestamp { ns, zoned }
        }
        _ => return Err(wrong()),
    }))
}

/// A whole number or a decimal, in the one form of its value: 1.50 is 1.5, and 2.0 is 2.
fn number(text: &str) -> Option<Value> {
    if let Ok(value) = text.parse::<i128>() {
        return Some(Value::Int(value));
    }
    let (mut unscaled, mut scale) = parse_decimal(text)?;
    while scale > 0 && unscaled % 10 == 0 {
        unscaled /= 10;
        scale -= 1;
    }
    Some(if scale == 0 {
        Value::Int(unscaled)
    } else {
        Value::Decimal { unscaled, scale }
    })
}

/// A float, with `NaN` and `inf` by name; a number too large for one is none, rather than infinite.
fn float(text: &str) -> Option<f64> {
    let value: f64 = text.parse().ok()?;
    (value.is_finite() || !text.contains(|c: char| c.is_ascii_digit())).then_some(value)
}

/// A value as SQL writes it, so that reading it for its column gives it back.
pub(super) fn sql(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Int(_) | Value::Binary(_) => value.to_string(),
        Value::Decimal { unscaled, scale } => decimal_text(*unscaled, *scale),
        Value::Float(value) if value.is_finite() => format!("{:?}", canonical_float(*value)),
        Value::Float(value) => format!("'{value}'"),
        Value::String(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Date(_) => format!("date '{value}'"),
        Value::Time(_) => format!("time '{}'", value.to_string().trim_start_matches('T')),
        Value::Timestamp { .. } => {
            format!("timestamp '{}'", value.to_string().replacen('T', " ", 1))
        }
    }
}
