//! The server's types and the Arrow types that hold the same values.
//!
//! | DolphinDB | Arrow | null on the wire |
//! | --- | --- | --- |
//! | VOID | Null | always |
//! | BOOL, CHAR, SHORT, INT, LONG | Boolean, Int8, Int16, Int32, Int64 | the least value (BOOL: 0x80) |
//! | DATE; TIME; SECOND; NANOTIME | Date32; Time32(ms); Time32(s); Time64(ns) | the least value |
//! | DATETIME; TIMESTAMP; NANOTIMESTAMP | Timestamp in s; ms; ns | the least value |
//! | FLOAT, DOUBLE | Float32, Float64 | the least finite number |
//! | SYMBOL | Dictionary(Int32, Utf8) | the empty text |
//! | STRING; BLOB | Utf8; LargeBinary | no bytes |
//! | INT128 | FixedSizeBinary(16), in the order in which it is printed | 16 zero bytes |
//! | DECIMAL32(s), DECIMAL64(s), DECIMAL128(s) | Decimal32(9, s), Decimal64(18, s), Decimal128(38, s) | the least integer |
//! | T\[\] | List of what T is | |
//! | MONTH (months since the year 0) | Int32, [`ORIGINAL`] `MONTH` | the least value |
//! | MINUTE | Time32(s), `MINUTE` | the least value |
//! | DATEHOUR, DATEMINUTE | Timestamp in s, `DATEHOUR`, `DATEMINUTE` | the least value |
//! | UUID, IPADDR | FixedSizeBinary(16), `UUID`, `IPADDR` | 16 zero bytes |
//! | COMPLEX, POINT | FixedSizeList(Float64, 2), `COMPLEX`, `POINT` | twice the least number |
//!
//! Where the Arrow type alone does not tell, the field's metadata names the original.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use strait_common::{Error, Result};

/// The metadata key of a field that names its type at the server, where Arrow's type does not tell it.
pub const ORIGINAL: &str = "ddb.type";

/// What one cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "the names are the server's, and the table above says what they are"
)]
pub enum Type {
    Void,
    Bool,
    Char,
    Short,
    Int,
    Long,
    Date,
    Month,
    Time,
    Minute,
    Second,
    DateTime,
    Timestamp,
    NanoTime,
    NanoTimestamp,
    Float,
    Double,
    Symbol,
    String,
    Uuid,
    DateHour,
    DateMinute,
    IpAddr,
    Int128,
    Blob,
    Complex,
    Point,
    Decimal32(u8),
    Decimal64(u8),
    Decimal128(u8),
}

/// What a column holds: cells of a type, or lists of such cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ColumnType {
    /// What a cell, or an item of its list, is.
    pub item: Type,
    /// Whether each cell is a list (an *array vector*).
    pub array: bool,
}

/// Every type without a scale: its code on the wire and its name in scripts.
const PLAIN: [(Type, u8, &str); 27] = [
    (Type::Void, 0, "VOID"),
    (Type::Bool, 1, "BOOL"),
    (Type::Char, 2, "CHAR"),
    (Type::Short, 3, "SHORT"),
    (Type::Int, 4, "INT"),
    (Type::Long, 5, "LONG"),
    (Type::Date, 6, "DATE"),
    (Type::Month, 7, "MONTH"),
    (Type::Time, 8, "TIME"),
    (Type::Minute, 9, "MINUTE"),
    (Type::Second, 10, "SECOND"),
    (Type::DateTime, 11, "DATETIME"),
    (Type::Timestamp, 12, "TIMESTAMP"),
    (Type::NanoTime, 13, "NANOTIME"),
    (Type::NanoTimestamp, 14, "NANOTIMESTAMP"),
    (Type::Float, 15, "FLOAT"),
    (Type::Double, 16, "DOUBLE"),
    (Type::Symbol, 17, "SYMBOL"),
    (Type::String, 18, "STRING"),
    (Type::Uuid, 19, "UUID"),
    (Type::DateHour, 28, "DATEHOUR"),
    (Type::DateMinute, 29, "DATEMINUTE"),
    (Type::IpAddr, 30, "IPADDR"),
    (Type::Int128, 31, "INT128"),
    (Type::Blob, 32, "BLOB"),
    (Type::Complex, 34, "COMPLEX"),
    (Type::Point, 35, "POINT"),
];

/// The codes of the decimals, whose scale follows elsewhere.
const DECIMALS: [u8; 3] = [37, 38, 39];

/// What a code has added to it where cells are lists.
pub(crate) const ARRAY: u8 = 64;

impl Type {
    /// The type of this code; a decimal's scale is given apart.
    pub(crate) fn from_code(code: u8, scale: u8) -> Option<Type> {
        match code {
            37 => Some(Type::Decimal32(scale)),
            38 => Some(Type::Decimal64(scale)),
            39 => Some(Type::Decimal128(scale)),
            _ => {
                let found = PLAIN.iter().find(|(_, known, _)| *known == code);
                found.map(|(found, ..)| *found)
            }
        }
    }

    /// Its code on the wire.
    pub fn code(self) -> u8 {
        match self {
            Type::Decimal32(_) => DECIMALS[0],
            Type::Decimal64(_) => DECIMALS[1],
            Type::Decimal128(_) => DECIMALS[2],
            plain => {
                let found = PLAIN.iter().find(|(known, ..)| *known == plain);
                found.map_or(0, |(_, code, _)| *code)
            }
        }
    }

    /// The digits after the point, of a decimal.
    pub fn scale(self) -> Option<u8> {
        match self {
            Type::Decimal32(scale) | Type::Decimal64(scale) | Type::Decimal128(scale) => {
                Some(scale)
            }
            _ => None,
        }
    }

    /// The bytes of a cell, where all take as many.
    pub fn width(self) -> Option<usize> {
        Some(match self {
            Type::Bool | Type::Char => 1,
            Type::Short => 2,
            Type::Int
            | Type::Date
            | Type::Month
            | Type::Time
            | Type::Minute
            | Type::Second
            | Type::DateTime
            | Type::DateHour
            | Type::DateMinute
            | Type::Float
            | Type::Decimal32(_) => 4,
            Type::Long
            | Type::Timestamp
            | Type::NanoTime
            | Type::NanoTimestamp
            | Type::Double
            | Type::Decimal64(_) => 8,
            Type::Uuid
            | Type::IpAddr
            | Type::Int128
            | Type::Complex
            | Type::Point
            | Type::Decimal128(_) => 16,
            Type::Void | Type::Symbol | Type::String | Type::Blob => return None,
        })
    }

    /// The most digits after the point.
    fn scale_max(self) -> u8 {
        match self {
            Type::Decimal32(_) => 9,
            Type::Decimal64(_) => 18,
            _ => 38,
        }
    }

    /// The Arrow type that holds its cells.
    pub fn arrow(self) -> DataType {
        match self {
            Type::Void => DataType::Null,
            Type::Bool => DataType::Boolean,
            Type::Char => DataType::Int8,
            Type::Short => DataType::Int16,
            Type::Int | Type::Month => DataType::Int32,
            Type::Long => DataType::Int64,
            Type::Date => DataType::Date32,
            Type::Time => DataType::Time32(TimeUnit::Millisecond),
            Type::Minute | Type::Second => DataType::Time32(TimeUnit::Second),
            Type::DateTime | Type::DateHour | Type::DateMinute => {
                DataType::Timestamp(TimeUnit::Second, None)
            }
            Type::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
            Type::NanoTime => DataType::Time64(TimeUnit::Nanosecond),
            Type::NanoTimestamp => DataType::Timestamp(TimeUnit::Nanosecond, None),
            Type::Float => DataType::Float32,
            Type::Double => DataType::Float64,
            Type::Symbol => {
                DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
            }
            Type::String => DataType::Utf8,
            Type::Blob => DataType::LargeBinary,
            Type::Uuid | Type::IpAddr | Type::Int128 => DataType::FixedSizeBinary(16),
            Type::Complex | Type::Point => {
                DataType::FixedSizeList(Arc::new(Field::new("item", DataType::Float64, false)), 2)
            }
            Type::Decimal32(scale) => DataType::Decimal32(9, scale.cast_signed()),
            Type::Decimal64(scale) => DataType::Decimal64(18, scale.cast_signed()),
            Type::Decimal128(scale) => DataType::Decimal128(38, scale.cast_signed()),
        }
    }

    /// Whether its Arrow type belongs to another type too, and is read as that one.
    fn needs_name(self) -> bool {
        matches!(
            self,
            Type::Month
                | Type::Minute
                | Type::DateHour
                | Type::DateMinute
                | Type::Uuid
                | Type::IpAddr
                | Type::Complex
                | Type::Point
        )
    }

    /// The type whose cells this Arrow type holds, where there is one.
    fn from_arrow(data_type: &DataType) -> Option<Type> {
        let scale = |scale: i8, most: u8| u8::try_from(scale).ok().filter(|scale| *scale <= most);
        Some(match data_type {
            DataType::Decimal32(9, given) => Type::Decimal32(scale(*given, 9)?),
            DataType::Decimal64(18, given) => Type::Decimal64(scale(*given, 18)?),
            DataType::Decimal128(38, given) => Type::Decimal128(scale(*given, 38)?),
            other => {
                let plain = PLAIN.iter().map(|(plain, ..)| *plain);
                let mut found = plain.filter(|plain| !plain.needs_name());
                found.find(|plain| plain.arrow() == *other)?
            }
        })
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Decimal32(scale) => write!(f, "DECIMAL32({scale})"),
            Type::Decimal64(scale) => write!(f, "DECIMAL64({scale})"),
            Type::Decimal128(scale) => write!(f, "DECIMAL128({scale})"),
            plain => {
                let found = PLAIN.iter().find(|(known, ..)| known == plain);
                f.write_str(found.map_or("VOID", |(.., name)| name))
            }
        }
    }
}

impl ColumnType {
    /// Cells of this type.
    pub fn plain(item: Type) -> ColumnType {
        ColumnType { item, array: false }
    }

    /// Lists of cells of this type.
    pub fn list(item: Type) -> ColumnType {
        ColumnType { item, array: true }
    }

    /// The type of this code on the wire.
    ///
    /// # Errors
    /// `Refused` for a code that no column of a table has, or that this client does not know. `Corrupt` for a scale that cannot be.
    pub(crate) fn from_code(code: u8, scale: i32) -> Result<ColumnType> {
        let array = (ARRAY..2 * ARRAY).contains(&code);
        let item = if array { code - ARRAY } else { code };
        let decimal = DECIMALS.contains(&item);
        let scale = if decimal {
            let known = u8::try_from(scale).ok();
            let known = known.filter(|scale| {
                Type::from_code(item, 0).is_some_and(|kind| *scale <= kind.scale_max())
            });
            known.ok_or_else(|| {
                Error::corrupt(format!("a decimal with {scale} digits after the point"))
            })?
        } else {
            0
        };
        let found = Type::from_code(item, scale);
        let found = found.filter(|item| !array || item.width().is_some());
        let item = found.ok_or_else(|| {
            Error::refused(format!(
                "values of the server's type {code} have no like in Arrow: a table with such a column cannot be copied"
            ))
        })?;
        Ok(ColumnType { item, array })
    }

    /// Its code on the wire.
    pub fn code(self) -> u8 {
        self.item.code() + if self.array { ARRAY } else { 0 }
    }

    /// Whether a scale follows where its cells are sent.
    pub(crate) fn code_has_scale(code: u8) -> bool {
        DECIMALS.contains(&(if code >= ARRAY { code - ARRAY } else { code }))
    }

    /// The Arrow type of such a column.
    pub fn arrow(self) -> DataType {
        if self.array {
            DataType::List(Arc::new(Field::new("item", self.item.arrow(), true)))
        } else {
            self.item.arrow()
        }
    }

    /// The field of such a column, which remembers its type.
    pub fn field(self, name: &str) -> Field {
        let field = Field::new(name, self.arrow(), true);
        if self.item.needs_name() {
            field.with_metadata([(ORIGINAL.to_owned(), self.to_string())].into())
        } else {
            field
        }
    }

    /// The type of the column that a field speaks of, where the server has one that holds exactly its values.
    ///
    /// # Errors
    /// `Schema`, naming the field, if there is none, or if the metadata names another type than the field's.
    pub fn of(field: &Field) -> Result<ColumnType> {
        let name = field.name();
        if let Some(original) = field.metadata().get(ORIGINAL) {
            let named: ColumnType = original.parse()?;
            if same(&named.arrow(), field.data_type()) {
                return Ok(named);
            }
            return Err(Error::schema(format!(
                "column {name}: {} is not how {original} is held, which its metadata {ORIGINAL} names",
                field.data_type()
            )));
        }
        let found = match field.data_type() {
            DataType::List(item) => Type::from_arrow(item.data_type())
                .filter(|item| item.width().is_some())
                .map(ColumnType::list),
            other => Type::from_arrow(other).map(ColumnType::plain),
        };
        found.ok_or_else(|| {
            Error::schema(format!(
                "column {name}: the server has no type that holds {}",
                field.data_type()
            ))
        })
    }
}

/// Whether two types hold the same values: how the items of a list are called does not matter.
fn same(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => a.data_type() == b.data_type(),
        (DataType::FixedSizeList(a, n), DataType::FixedSizeList(b, m)) => {
            n == m && a.data_type() == b.data_type()
        }
        (a, b) => a == b,
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.item, if self.array { "[]" } else { "" })
    }
}

impl std::str::FromStr for ColumnType {
    type Err = Error;

    /// Reads what the server calls a type: `INT`, `DECIMAL64(4)`, `DOUBLE[]`.
    fn from_str(text: &str) -> Result<ColumnType> {
        let (name, array) = text
            .strip_suffix("[]")
            .map_or((text, false), |name| (name, true));
        let plain = PLAIN.iter().find(|(.., known)| *known == name);
        let item = plain.map(|(plain, ..)| *plain).or_else(|| {
            let (name, scale) = name.strip_suffix(')')?.split_once('(')?;
            let scale: u8 = scale.trim().parse().ok()?;
            let decimal = match name {
                "DECIMAL32" => Type::Decimal32(scale),
                "DECIMAL64" => Type::Decimal64(scale),
                "DECIMAL128" => Type::Decimal128(scale),
                _ => return None,
            };
            (scale <= decimal.scale_max()).then_some(decimal)
        });
        let item = item.filter(|item| !array || item.width().is_some());
        let item = item.ok_or_else(|| {
            Error::schema(format!(
                "the server's type {text} is none that a column of a copied table can have"
            ))
        })?;
        Ok(ColumnType { item, array })
    }
}

#[cfg(test)]
pub(crate) fn every_type() -> Vec<ColumnType> {
    let plain = PLAIN.iter().map(|(plain, ..)| *plain);
    let decimals = [
        Type::Decimal32(0),
        Type::Decimal32(9),
        Type::Decimal64(4),
        Type::Decimal128(38),
    ];
    let items: Vec<Type> = plain.chain(decimals).collect();
    let lists = items.iter().filter(|item| item.width().is_some());
    let lists: Vec<ColumnType> = lists.map(|item| ColumnType::list(*item)).collect();
    let plain = items.into_iter().map(ColumnType::plain);
    plain.chain(lists).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use strait_common::Kind;

    #[test]
    fn every_type_is_found_again_by_its_code_its_name_and_its_field() {
        for column in every_type() {
            let scale = column.item.scale().map_or(0, i32::from);
            assert_eq!(ColumnType::from_code(column.code(), scale).unwrap(), column);
            assert_eq!(column.to_string().parse::<ColumnType>().unwrap(), column);
            assert_eq!(ColumnType::of(&column.field("c")).unwrap(), column);
        }
    }

    #[test]
    fn what_no_column_is_has_a_name_in_the_error() {
        for code in [20, 25, 26, 36, 41, 42, 63, 64 + 18, 64 + 17, 200] {
            let error = ColumnType::from_code(code, 0).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{code}: {error}");
        }
        assert_eq!(
            ColumnType::from_code(37, 10).unwrap_err().kind(),
            Kind::Corrupt
        );
        assert_eq!(
            ColumnType::from_code(39, -1).unwrap_err().kind(),
            Kind::Corrupt
        );
        for text in [
            "",
            "INTS",
            "DECIMAL32(10)",
            "DECIMAL64",
            "STRING[]",
            "INT[][]",
        ] {
            assert!(text.parse::<ColumnType>().is_err(), "{text}");
        }
        let field = Field::new("c", DataType::UInt64, true);
        assert_eq!(ColumnType::of(&field).unwrap_err().kind(), Kind::Schema);
        let renamed = Field::new("c", DataType::Int64, true)
            .with_metadata([(ORIGINAL.to_owned(), "MONTH".to_owned())].into());
        assert_eq!(ColumnType::of(&renamed).unwrap_err().kind(), Kind::Schema);
    }
}
