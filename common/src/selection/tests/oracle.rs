//! What a condition means, said a second time: over typed rows, value by value, with the clock changes of 2026 as a table. It shares no code
//! with the product.

use std::cmp::Ordering;

use chrono::DateTime;

/// Offsets from UTC, each from an instant on, both in seconds.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) name: &'static str,
    offsets: [(i64, i64); 3],
}

/// A minute of 2026 in UTC, in seconds since 1970.
const fn utc(month: usize, day: i64, hour: i64, minute: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    1_767_225_600 + (BEFORE[month - 1] + day - 1) * 86_400 + hour * 3600 + minute * 60
}

const HOUR: i64 = 3600;

/// Hours forward, half an hour, none; and in Beirut the hour that is left out begins at midnight.
pub(super) const CLOCKS: [Clock; 6] = [
    Clock {
        name: "America/New_York",
        offsets: [
            (i64::MIN, -5 * HOUR),
            (utc(3, 8, 7, 0), -4 * HOUR),
            (utc(11, 1, 6, 0), -5 * HOUR),
        ],
    },
    Clock {
        name: "Europe/Berlin",
        offsets: [
            (i64::MIN, HOUR),
            (utc(3, 29, 1, 0), 2 * HOUR),
            (utc(10, 25, 1, 0), HOUR),
        ],
    },
    Clock {
        name: "Australia/Lord_Howe",
        offsets: [
            (i64::MIN, 11 * HOUR),
            (utc(4, 4, 15, 0), 10 * HOUR + 1800),
            (utc(10, 3, 15, 30), 11 * HOUR),
        ],
    },
    Clock {
        name: "Asia/Beirut",
        offsets: [
            (i64::MIN, 2 * HOUR),
            (utc(3, 28, 22, 0), 3 * HOUR),
            (utc(10, 24, 21, 0), 2 * HOUR),
        ],
    },
    // Without a change; the instants are those of others, to have rows around.
    Clock {
        name: "Asia/Shanghai",
        offsets: [
            (i64::MIN, 8 * HOUR),
            (utc(3, 29, 1, 0), 8 * HOUR),
            (utc(10, 25, 1, 0), 8 * HOUR),
        ],
    },
    Clock {
        name: "UTC",
        offsets: [(i64::MIN, 0), (utc(3, 8, 7, 0), 0), (utc(11, 1, 6, 0), 0)],
    },
];

pub(super) const SECOND: i128 = 1_000_000_000;
const DAY: i128 = 86_400 * SECOND;

impl Clock {
    /// The instant of a change, in seconds.
    pub(super) fn change(&self, which: usize) -> i64 {
        self.offsets[1 + which % 2].0
    }

    pub(super) fn offset(&self, instant: i128) -> i128 {
        let holding = self.offsets.iter().rev();
        let (_, offset) = holding
            .clone()
            .find(|(from, _)| i128::from(*from) * SECOND <= instant)
            .unwrap_or(&self.offsets[0]);
        i128::from(*offset) * SECOND
    }

    pub(super) fn civil(&self, instant: i128) -> i128 {
        instant + self.offset(instant)
    }

    /// The earliest instant at which clocks show this, or the change that leaves it out.
    pub(super) fn instant(&self, civil: i128) -> i128 {
        let shows = self
            .offsets
            .iter()
            .map(|(_, offset)| civil - i128::from(*offset) * SECOND)
            .filter(|instant| self.civil(*instant) == civil)
            .min();
        shows.unwrap_or_else(|| {
            let changes = self.offsets[1..]
                .iter()
                .map(|(at, _)| i128::from(*at) * SECOND);
            changes
                .clone()
                .find(|at| self.civil(at - 1) < civil && civil < self.civil(*at))
                .expect("a civil time without instant is in a gap")
        })
    }
}

/// Where and when a condition is planned.
#[derive(Clone, Copy, Debug)]
pub(super) struct World {
    pub(super) clock: &'static Clock,
    /// Nanoseconds since 1970.
    pub(super) now: i128,
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known {
    Int(i64),
    Float(f64),
    Text(String),
    Day(i64),
    Civil(i128),
    Instant(i128),
}

/// The order that the product promises.
pub(super) fn order(a: &Known, b: &Known) -> Ordering {
    match (a, b) {
        (Known::Int(a), Known::Int(b)) | (Known::Day(a), Known::Day(b)) => a.cmp(b),
        (Known::Civil(a), Known::Civil(b)) | (Known::Instant(a), Known::Instant(b)) => a.cmp(b),
        (Known::Text(a), Known::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Known::Float(a), Known::Float(b)) => match (a.is_nan(), b.is_nan()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ if a < b => Ordering::Less,
            _ if a > b => Ordering::Greater,
            _ => Ordering::Equal,
        },
        _ => panic!("{a:?} and {b:?} are of two types"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Column {
    Id,
    TradingDay,
    Timestamp,
    Zoned,
    Symbol,
    Price,
    Ratio,
}

impl Column {
    pub(super) const ALL: [Column; 7] = [
        Column::Id,
        Column::TradingDay,
        Column::Timestamp,
        Column::Zoned,
        Column::Symbol,
        Column::Price,
        Column::Ratio,
    ];

    pub(super) fn name(self) -> &'static str {
        [
            "id",
            "TradingDay",
            "Timestamp",
            "zoned",
            "symbol",
            "price",
            "ratio",
        ][self as usize]
    }
}

/// One cell per column.
pub(super) type Row = [Option<Known>; 7];

/// A moment, as text and as meaning.
#[derive(Clone, Debug)]
pub(super) enum Moment {
    Now,
    /// `today()` and days.
    Today(i64),
    /// `timestamp(date(now()) + n)`.
    Midnight(i64),
    /// Seconds on a clock on a wall.
    Civil(i64),
    CivilText(i64),
    Utc(i64),
    /// An instant, written with an offset of five and a half hours.
    Offset(i64),
}

/// A moment and an interval of so many seconds.
#[derive(Clone, Debug)]
pub(super) struct Shifted(pub(super) Moment, pub(super) Option<i64>);

fn written(seconds: i64) -> String {
    let at = DateTime::from_timestamp(seconds, 0).expect("a time of 2026");
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

impl Shifted {
    pub(super) fn sql(&self) -> String {
        let moment = match &self.0 {
            Moment::Now => "now()".to_owned(),
            Moment::Today(days) => format!("today() + {days}"),
            Moment::Midnight(days) => format!("timestamp(date(now()) + {days})"),
            Moment::Civil(at) => format!("timestamp '{}'", written(*at)),
            Moment::CivilText(at) => return format!("'{}'", written(*at).replace(' ', "T")),
            Moment::Utc(at) => format!("timestamp '{}Z'", written(*at)),
            Moment::Offset(at) => {
                format!("timestamp with time zone '{}+05:30'", written(at + 19_800))
            }
        };
        match self.1 {
            None => moment,
            Some(seconds) if seconds % 3600 == 0 => {
                format!("{moment} - interval '{}' hour", -seconds / 3600)
            }
            Some(seconds) => format!("{moment} + interval '{seconds}' second"),
        }
    }

    fn known(&self, world: World) -> Known {
        let today = world.clock.civil(world.now).div_euclid(DAY);
        let shift = match self.0 {
            Moment::CivilText(_) => 0,
            _ => i128::from(self.1.unwrap_or(0)) * SECOND,
        };
        match self.0 {
            Moment::Now => Known::Instant(world.now + shift),
            Moment::Today(days) | Moment::Midnight(days) => {
                Known::Civil((today + i128::from(days)) * DAY + shift)
            }
            Moment::Civil(at) | Moment::CivilText(at) => {
                Known::Civil(i128::from(at) * SECOND + shift)
            }
            Moment::Utc(at) | Moment::Offset(at) => Known::Instant(i128::from(at) * SECOND + shift),
        }
    }
}

/// A literal: its text, and what it is in its column.
#[derive(Clone, Debug)]
pub(super) enum Literal {
    Null,
    Int(i64),
    Float(&'static str, f64),
    Text(&'static str),
    /// `date '…'`.
    Day(i64),
    DayText(i64),
    /// The date of a moment.
    DateOf(Shifted),
    /// The date of a moment and days.
    DateOfAnd(Shifted, i64),
    Moment(Shifted),
}

impl Literal {
    fn sql(&self) -> String {
        match self {
            Literal::Null => "null".to_owned(),
            Literal::Int(value) => value.to_string(),
            Literal::Float(text, _) => (*text).to_owned(),
            Literal::Text(text) => format!("'{}'", text.replace('\'', "''")),
            Literal::Day(day) => format!("date '{}'", &written(day * 86_400)[..10]),
            Literal::DayText(day) => format!("'{}'", &written(day * 86_400)[..10]),
            Literal::DateOf(moment) => format!("date({})", moment.sql()),
            Literal::DateOfAnd(moment, days) => format!("date({}) - {days}", moment.sql()),
            Literal::Moment(moment) => moment.sql(),
        }
    }

    fn known(&self, column: Column, world: World) -> Option<Known> {
        let day_of = |moment: &Shifted| {
            let civil = match moment.known(world) {
                Known::Instant(at) => world.clock.civil(at),
                Known::Civil(at) => at,
                other => panic!("{other:?} is no moment"),
            };
            i64::try_from(civil.div_euclid(DAY)).expect("a day")
        };
        Some(match self {
            Literal::Null => return None,
            Literal::Int(value) => Known::Int(*value),
            Literal::Float(_, value) => Known::Float(*value),
            Literal::Text(text) => Known::Text((*text).to_owned()),
            Literal::Day(day) | Literal::DayText(day) => Known::Day(*day),
            Literal::DateOf(moment) => Known::Day(day_of(moment)),
            Literal::DateOfAnd(moment, days) => Known::Day(day_of(moment) - days),
            Literal::Moment(moment) => match (column, moment.known(world)) {
                (Column::Zoned, Known::Civil(at)) => Known::Instant(world.clock.instant(at)),
                (Column::Timestamp, Known::Instant(at)) => Known::Civil(world.clock.civil(at)),
                (_, known) => known,
            },
        })
    }
}

#[derive(Clone, Debug)]
pub(super) enum Condition {
    Compare(Column, &'static str, Literal),
    /// The literal on the left.
    Mirrored(Literal, &'static str, Column),
    Between(Column, bool, Literal, Literal),
    In(Column, bool, Vec<Literal>),
    IsNull(Column, bool),
    Null,
    Not(Box<Condition>),
    And(Vec<Condition>),
    Or(Vec<Condition>),
}

impl Condition {
    /// With no more brackets than precedence needs.
    pub(super) fn sql(&self) -> String {
        let not = |negated: &bool| if *negated { "not " } else { "" };
        let inner = |condition: &Condition, binds: u8| {
            if condition.binds() < binds {
                format!("({})", condition.sql())
            } else {
                condition.sql()
            }
        };
        let list = |parts: &[Condition], word: &str| {
            let parts: Vec<String> = parts.iter().map(|part| inner(part, self.binds())).collect();
            parts.join(word)
        };
        match self {
            Condition::Compare(column, operator, literal) => {
                format!("{} {operator} {}", column.name(), literal.sql())
            }
            Condition::Mirrored(literal, operator, column) => {
                format!("{} {operator} {}", literal.sql(), column.name())
            }
            Condition::Between(column, negated, low, high) => format!(
                "{} {}between {} and {}",
                column.name(),
                not(negated),
                low.sql(),
                high.sql()
            ),
            Condition::In(column, negated, list) => {
                let list: Vec<String> = list.iter().map(Literal::sql).collect();
                format!("{} {}in ({})", column.name(), not(negated), list.join(", "))
            }
            Condition::IsNull(column, negated) => {
                format!("{} is {}null", column.name(), not(negated))
            }
            Condition::Null => "null".to_owned(),
            Condition::Not(part) => format!("not {}", inner(part, 3)),
            Condition::And(parts) => list(parts, " and "),
            Condition::Or(parts) => list(parts, " or "),
        }
    }

    fn binds(&self) -> u8 {
        match self {
            Condition::Or(_) => 1,
            Condition::And(_) => 2,
            Condition::Not(_) => 3,
            _ => 4,
        }
    }

    /// True, false, or unknown.
    pub(super) fn of(&self, row: &Row, world: World) -> Option<bool> {
        let compare = |column: Column, operator: &str, literal: &Literal| {
            let literal = literal.known(column, world)?;
            let order = order(row[column as usize].as_ref()?, &literal);
            Some(match operator {
                "=" => order == Ordering::Equal,
                "<>" | "!=" => order != Ordering::Equal,
                "<" => order == Ordering::Less,
                "<=" => order != Ordering::Greater,
                ">" => order == Ordering::Greater,
                ">=" => order != Ordering::Less,
                other => panic!("{other} is no comparison"),
            })
        };
        let negate = |negated: bool, truth: Option<bool>| truth.map(|truth| truth != negated);
        let all = |truths: Vec<Option<bool>>| {
            if truths.contains(&Some(false)) {
                Some(false)
            } else if truths.contains(&None) {
                None
            } else {
                Some(true)
            }
        };
        let any = |truths: Vec<Option<bool>>| {
            let opposites = truths.into_iter().map(|truth| negate(true, truth));
            negate(true, all(opposites.collect()))
        };
        match self {
            Condition::Compare(column, operator, literal) => compare(*column, operator, literal),
            Condition::Mirrored(literal, operator, column) => {
                let turned = match *operator {
                    "<" => ">",
                    "<=" => ">=",
                    ">" => "<",
                    ">=" => "<=",
                    same => same,
                };
                compare(*column, turned, literal)
            }
            Condition::Between(column, negated, low, high) => negate(
                *negated,
                all(vec![
                    compare(*column, ">=", low),
                    compare(*column, "<=", high),
                ]),
            ),
            Condition::In(column, negated, list) => {
                let equal = list.iter().map(|item| compare(*column, "=", item));
                negate(*negated, any(equal.collect()))
            }
            Condition::IsNull(column, negated) => Some(row[*column as usize].is_none() != *negated),
            Condition::Null => None,
            Condition::Not(part) => negate(true, part.of(row, world)),
            Condition::And(parts) => all(parts.iter().map(|part| part.of(row, world)).collect()),
            Condition::Or(parts) => any(parts.iter().map(|part| part.of(row, world)).collect()),
        }
    }
}
