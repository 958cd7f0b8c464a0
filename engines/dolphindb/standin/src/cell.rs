//! One value, as the stand-in's scripts compare them: null is the least of all, and equal to itself.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array,
    StringArray, Time64NanosecondArray, TimestampNanosecondArray,
};
use arrow::datatypes::{
    Date32Type, Decimal32Type, Decimal64Type, Decimal128Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64NanosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use strait_dolphindb::{Column, ColumnType, Object, Type};

/// A value of a script or of a row.
#[derive(Clone, Debug)]
pub enum Cell {
    /// No value.
    Null,
    /// A truth.
    Bool(bool),
    /// An integer, or the unscaled value of a decimal.
    Int(i128),
    /// A number.
    Float(f64),
    /// A text or symbol.
    Text(String),
    /// Bytes of any length.
    Bytes(Vec<u8>),
    /// Days since 1970.
    Date(i32),
    /// Months since the year 0.
    Month(i32),
    /// Nanoseconds of a day.
    Time(i64),
    /// Nanoseconds since 1970.
    Stamp(i128),
}

impl Cell {
    fn class(&self) -> u8 {
        match self {
            Cell::Null => 0,
            Cell::Bool(_) | Cell::Int(_) | Cell::Float(_) => 1,
            Cell::Text(_) => 2,
            Cell::Bytes(_) => 3,
            Cell::Date(_) | Cell::Stamp(_) => 4,
            Cell::Month(_) => 5,
            Cell::Time(_) => 6,
        }
    }

    fn number(&self) -> f64 {
        match self {
            Cell::Bool(value) => f64::from(u8::from(*value)),
            Cell::Int(value) => *value as f64,
            Cell::Float(value) => *value,
            _ => 0.0,
        }
    }

    /// Whether a condition takes it for true.
    pub fn is_true(&self) -> bool {
        match self {
            Cell::Bool(value) => *value,
            Cell::Int(value) => *value != 0,
            Cell::Float(value) => *value != 0.0,
            _ => false,
        }
    }

    /// The integer that it is.
    pub fn integer(&self) -> Option<i128> {
        match self {
            Cell::Bool(value) => Some(i128::from(*value)),
            Cell::Int(value) => Some(*value),
            _ => None,
        }
    }
}

impl Ord for Cell {
    fn cmp(&self, other: &Cell) -> Ordering {
        let day = 86_400_000_000_000;
        match (self, other) {
            (Cell::Int(a), Cell::Int(b)) => a.cmp(b),
            (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
            (Cell::Bytes(a), Cell::Bytes(b)) => a.cmp(b),
            (Cell::Date(a), Cell::Date(b)) | (Cell::Month(a), Cell::Month(b)) => a.cmp(b),
            (Cell::Time(a), Cell::Time(b)) => a.cmp(b),
            (Cell::Stamp(a), Cell::Stamp(b)) => a.cmp(b),
            (Cell::Date(a), Cell::Stamp(b)) => (i128::from(*a) * day).cmp(b),
            (Cell::Stamp(a), Cell::Date(b)) => a.cmp(&(i128::from(*b) * day)),
            (a, b) if a.class() == 1 && b.class() == 1 => a.number().total_cmp(&b.number()),
            (a, b) => a.class().cmp(&b.class()),
        }
    }
}

impl PartialOrd for Cell {
    fn partial_cmp(&self, other: &Cell) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cell {
    fn eq(&self, other: &Cell) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Cell {}

/// The cells of an array of plain values.
pub(crate) fn cells(kind: ColumnType, array: &ArrayRef) -> Vec<Cell> {
    fn ints<T>(array: &ArrayRef, cell: impl Fn(T::Native) -> Cell) -> Vec<Cell>
    where
        T: arrow::datatypes::ArrowPrimitiveType,
    {
        let Some(values) = array.as_primitive_opt::<T>() else {
            return vec![Cell::Null; array.len()];
        };
        values
            .iter()
            .map(|value| value.map_or(Cell::Null, &cell))
            .collect()
    }
    let second = 1_000_000_000;
    if kind.array {
        return vec![Cell::Null; array.len()];
    }
    match kind.item {
        Type::Bool => match array.as_boolean_opt() {
            Some(values) => values
                .iter()
                .map(|value| value.map_or(Cell::Null, Cell::Bool))
                .collect(),
            None => vec![Cell::Null; array.len()],
        },
        Type::Char => ints::<Int8Type>(array, |v| Cell::Int(v.into())),
        Type::Short => ints::<Int16Type>(array, |v| Cell::Int(v.into())),
        Type::Int => ints::<Int32Type>(array, |v| Cell::Int(v.into())),
        Type::Long => ints::<Int64Type>(array, |v| Cell::Int(v.into())),
        Type::Month => ints::<Int32Type>(array, Cell::Month),
        Type::Date => ints::<Date32Type>(array, Cell::Date),
        Type::Time => {
            ints::<Time32MillisecondType>(array, |v| Cell::Time(i64::from(v) * 1_000_000))
        }
        Type::Minute | Type::Second => {
            ints::<Time32SecondType>(array, |v| Cell::Time(i64::from(v) * second))
        }
        Type::NanoTime => ints::<Time64NanosecondType>(array, Cell::Time),
        Type::DateTime | Type::DateHour | Type::DateMinute => {
            ints::<TimestampSecondType>(array, |v| Cell::Stamp(i128::from(v) * i128::from(second)))
        }
        Type::Timestamp => {
            ints::<TimestampMillisecondType>(array, |v| Cell::Stamp(i128::from(v) * 1_000_000))
        }
        Type::NanoTimestamp => ints::<TimestampNanosecondType>(array, |v| Cell::Stamp(v.into())),
        Type::Float => ints::<Float32Type>(array, |v| Cell::Float(v.into())),
        Type::Double => ints::<Float64Type>(array, Cell::Float),
        Type::Decimal32(_) => ints::<Decimal32Type>(array, |v| Cell::Int(v.into())),
        Type::Decimal64(_) => ints::<Decimal64Type>(array, |v| Cell::Int(v.into())),
        Type::Decimal128(_) => ints::<Decimal128Type>(array, Cell::Int),
        Type::String | Type::Symbol => {
            let texts = strait_dolphindb::texts_of(array).unwrap_or_default();
            let text = |text: String| {
                if text.is_empty() {
                    Cell::Null
                } else {
                    Cell::Text(text)
                }
            };
            texts.into_iter().map(text).collect()
        }
        Type::Blob => match array.as_binary_opt::<i64>() {
            Some(values) => {
                let cell =
                    |value: Option<&[u8]>| value.map_or(Cell::Null, |v| Cell::Bytes(v.to_vec()));
                values.iter().map(cell).collect()
            }
            None => vec![Cell::Null; array.len()],
        },
        Type::Uuid | Type::IpAddr | Type::Int128 => match array.as_fixed_size_binary_opt() {
            Some(values) => {
                let cell =
                    |value: Option<&[u8]>| value.map_or(Cell::Null, |v| Cell::Bytes(v.to_vec()));
                values.iter().map(cell).collect()
            }
            None => vec![Cell::Null; array.len()],
        },
        Type::Void | Type::Complex | Type::Point => vec![Cell::Null; array.len()],
    }
}

/// An object of one cell.
pub(crate) fn scalar(cell: &Cell) -> Object {
    let column = vector(std::slice::from_ref(cell));
    match cell {
        Cell::Null => Object::Nothing,
        _ => Object::Scalar(column),
    }
}

/// Cells of one class as a column.
pub(crate) fn vector(cells: &[Cell]) -> Column {
    let first = cells.iter().find(|cell| !matches!(cell, Cell::Null));
    let small = |cell: &Cell| {
        cell.integer()
            .is_none_or(|value| i32::try_from(value).is_ok())
    };
    let (item, array): (Type, ArrayRef) = match first {
        Some(Cell::Bool(_)) => {
            let cell = |cell: &Cell| matches!(cell, Cell::Bool(_)).then(|| cell.is_true());
            (
                Type::Bool,
                Arc::new(cells.iter().map(cell).collect::<BooleanArray>()),
            )
        }
        Some(Cell::Int(_)) if cells.iter().all(small) => {
            let cell = |cell: &Cell| cell.integer().and_then(|value| i32::try_from(value).ok());
            (
                Type::Int,
                Arc::new(cells.iter().map(cell).collect::<Int32Array>()),
            )
        }
        Some(Cell::Int(_)) => {
            let cell = |cell: &Cell| cell.integer().and_then(|value| i64::try_from(value).ok());
            (
                Type::Long,
                Arc::new(cells.iter().map(cell).collect::<Int64Array>()),
            )
        }
        Some(Cell::Float(_)) => {
            let cell = |cell: &Cell| match cell {
                Cell::Float(value) => Some(*value),
                other => other.integer().map(|value| value as f64),
            };
            (
                Type::Double,
                Arc::new(cells.iter().map(cell).collect::<Float64Array>()),
            )
        }
        Some(Cell::Date(_)) => {
            let cell = |cell: &Cell| {
                if let Cell::Date(days) = cell {
                    Some(*days)
                } else {
                    None
                }
            };
            (
                Type::Date,
                Arc::new(cells.iter().map(cell).collect::<Date32Array>()),
            )
        }
        Some(Cell::Month(_)) => {
            let cell = |cell: &Cell| {
                if let Cell::Month(months) = cell {
                    Some(*months)
                } else {
                    None
                }
            };
            (
                Type::Month,
                Arc::new(cells.iter().map(cell).collect::<Int32Array>()),
            )
        }
        Some(Cell::Time(_)) => {
            let cell = |cell: &Cell| {
                if let Cell::Time(ns) = cell {
                    Some(*ns)
                } else {
                    None
                }
            };
            (
                Type::NanoTime,
                Arc::new(cells.iter().map(cell).collect::<Time64NanosecondArray>()),
            )
        }
        Some(Cell::Stamp(_)) => {
            let cell = |cell: &Cell| match cell {
                Cell::Stamp(ns) => i64::try_from(*ns).ok(),
                _ => None,
            };
            (
                Type::NanoTimestamp,
                Arc::new(cells.iter().map(cell).collect::<TimestampNanosecondArray>()),
            )
        }
        _ => {
            let cell = |cell: &Cell| {
                if let Cell::Text(text) = cell {
                    Some(text.clone())
                } else {
                    None
                }
            };
            (
                Type::String,
                Arc::new(cells.iter().map(cell).collect::<StringArray>()),
            )
        }
    };
    Column {
        kind: ColumnType::plain(item),
        array,
    }
}
