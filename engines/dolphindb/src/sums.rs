//! Checksums that the server computes of a partition by itself: of each column, and of each row as a whole, added up, so that the order of the rows does not matter.
//!
//! Each cell is written as a text: a number by its bits in hexadecimal digits, null as nothing. Texts are summed by CRC-32, which is short: equal sums are no proof, and the digest of
//! all rows is what proves. Both servers must write cells alike, so numbers are never written in decimal digits; where a type has no such text, nothing is summed.

use arrow::datatypes::Schema;
use strait_common::engine::StoreSums;
use strait_common::{Error, Result};

use crate::object::{Object, integers_of};
use crate::script;
use crate::types::{ColumnType, Type};

/// The algorithm's name and version.
const ALGORITHM: &str = "dolphindb-crc32-1";
/// More columns make an expression that no server was asked to take.
const COLUMNS_MAX: usize = 256;

/// What the server is asked, and what its answer's kind is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The items of the query.
    pub(crate) items: String,
    /// Which sums these are.
    pub(crate) kind: String,
    sums: usize,
}

/// A cell as a text; none where the type has none that two servers write alike.
fn text_of(name: &str, kind: ColumnType) -> Option<String> {
    if kind.array {
        return None;
    }
    let digits = match kind.item {
        Type::Symbol | Type::String => return Some(format!("string({name})")),
        Type::Float | Type::Double => format!("hex({name})"),
        Type::Bool
        | Type::Char
        | Type::Short
        | Type::Int
        | Type::Long
        | Type::Date
        | Type::Month
        | Type::Time
        | Type::Minute
        | Type::Second
        | Type::DateTime
        | Type::Timestamp
        | Type::NanoTime
        | Type::NanoTimestamp
        | Type::DateHour
        | Type::DateMinute => format!("hex(long({name}))"),
        Type::Uuid
        | Type::IpAddr
        | Type::Int128
        | Type::Decimal32(_)
        | Type::Decimal64(_)
        | Type::Decimal128(_) => format!("string({name})"),
        Type::Void | Type::Blob | Type::Complex | Type::Point => return None,
    };
    Some(format!("iif(isNull({name}), \"\", {digits})"))
}

/// What to ask of these columns; none where one has no text, or there are too many.
pub(crate) fn asked(columns: &Schema) -> Option<Asked> {
    let fields = columns.fields();
    if fields.is_empty() || fields.len() > COLUMNS_MAX {
        return None;
    }
    let (mut texts, mut kinds) = (Vec::new(), Vec::new());
    for field in fields {
        let kind = ColumnType::of(field).ok()?;
        texts.push(text_of(&script::name(field.name())?, kind)?);
        kinds.push(kind.to_string());
    }
    let row = texts.join(" + \"|\" + ");
    let mut items = "count(*) as straitRows".to_owned();
    for (at, text) in texts.iter().chain([&row]).enumerate() {
        items.push_str(&format!(", sum(crc32({text})) as strait{at}"));
    }
    Some(Asked {
        items,
        kind: format!("{ALGORITHM}:{}", kinds.join(",")),
        sums: texts.len() + 1,
    })
}

impl Asked {
    /// The sums that the server has answered with.
    ///
    /// # Errors
    /// `Corrupt` if that is not one row of numbers.
    pub(crate) fn read(self, answer: Object) -> Result<StoreSums> {
        let answer = answer.into_table()?;
        let wrong = || Error::corrupt("sums were asked for, and the server answers otherwise");
        if answer.num_rows() != 1 || answer.num_columns() != self.sums + 1 {
            return Err(wrong());
        }
        let numbers = answer.columns().iter().map(|column| {
            let numbers = integers_of(column)?;
            // The sum of no rows is null.
            Ok(numbers.into_iter().next().flatten().unwrap_or(0))
        });
        let numbers = numbers.collect::<Result<Vec<i64>>>()?;
        let (rows, sums) = numbers.split_first().ok_or_else(wrong)?;
        let sums = sums.iter().map(|sum| format!("{sum:x}"));
        Ok(StoreSums {
            kind: self.kind,
            rows: u64::try_from(*rows).map_err(|_| wrong())?,
            sums: sums.collect::<Vec<_>>().join(","),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_is_summed_and_each_row() {
        let schema = Schema::new(vec![
            ColumnType::plain(Type::Date).field("day"),
            ColumnType::plain(Type::Double).field("odd name"),
            ColumnType::plain(Type::Symbol).field("sym"),
        ]);
        let asked = asked(&schema).unwrap();
        assert_eq!(asked.kind, "dolphindb-crc32-1:DATE,DOUBLE,SYMBOL");
        let cells = [
            "iif(isNull(day), \"\", hex(long(day)))",
            "iif(isNull(_\"odd name\"), \"\", hex(_\"odd name\"))",
            "string(sym)",
        ];
        let row = cells.join(" + \"|\" + ");
        assert_eq!(
            asked.items,
            format!(
                "count(*) as straitRows, sum(crc32({})) as strait0, sum(crc32({})) as strait1, sum(crc32({})) as strait2, sum(crc32({row})) as strait3",
                cells[0], cells[1], cells[2]
            )
        );
    }

    #[test]
    fn what_has_no_text_is_not_summed() {
        let of = |kind: ColumnType| {
            asked(&Schema::new(vec![
                ColumnType::plain(Type::Long).field("n"),
                kind.field("c"),
            ]))
        };
        assert!(of(ColumnType::plain(Type::Uuid)).is_some());
        assert!(of(ColumnType::plain(Type::Blob)).is_none());
        let list = ColumnType {
            item: Type::Int,
            array: true,
        };
        assert!(of(list).is_none());
        assert!(asked(&Schema::empty()).is_none());
        let many = (0..=COLUMNS_MAX).map(|at| {
            let name = format!("c{at}");
            ColumnType::plain(Type::Long).field(&name)
        });
        assert!(asked(&Schema::new(many.collect::<Vec<_>>())).is_none());
    }

    #[test]
    fn an_answer_that_is_no_row_of_sums_is_corrupt() {
        let schema = Schema::new(vec![ColumnType::plain(Type::Long).field("n")]);
        let wrong = asked(&schema).unwrap().read(Object::Nothing);
        assert_eq!(wrong.unwrap_err().kind(), strait_common::Kind::Corrupt);
    }
}
