//! How a table of the lake is divided, and which partition a data file belongs to.
//!
//! VALUE levels are Delta's partition columns: the log says of each file which values it has. RANGE and HASH levels Delta does not know. Their columns are
//! in the files like any other, the table's property [`PROPERTY`] says how the table is divided, and the ledger tells the files apart: the ledger file that
//! published a data file names its key. Names of data files are never used twice, so what any ledger file says of one holds for ever, whether its commit
//! happened or not: [`Names`] asks no log, and no epoch.
//!
//! A data file that no ledger file names came from a foreign writer, or from a compaction of ours. It has rows of some partitions of its values, and nobody can
//! tell of which: buckets are the source engine's own. Such a file is *unnamed*. Taken for a partition of its own it would be copied beside the partitions
//! that it was made of; passed over, its rows would be lost. So where it could matter it is refused, by name: listing and replacing what has its values. Where it
//! cannot matter it is left alone: rows are appended beside it, and partitions of other values are not concerned. A table with VALUE levels only has no unnamed files.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use arrow::datatypes::Schema;
use strait_common::division::{Division, DivisionKind, check_key};
use strait_common::ids::TableName;
use strait_common::key::{Cell, PartitionKey};
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::ledger::{DIRECTORY, Entry, Event, ledger_files};
use crate::partition_values;

/// The property of a table that says how it is divided, as JSON, where that is not by values alone.
pub const PROPERTY: &str = "strait.divisions";

/// The levels of a table's division, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Divisions(Vec<Division>);

impl Divisions {
    /// Those of a table that is to be made.
    ///
    /// # Errors
    /// `Refused` for a column that is named twice, a table without buckets, or a type that cannot divide a table; `Schema` for a column that is not there.
    pub fn of(divisions: &[Division], schema: &Schema) -> Result<Divisions> {
        for (at, division) in divisions.iter().enumerate() {
            let column = &division.column;
            let field = schema.field_with_name(column);
            let field = field.or_error(Kind::Schema, format!("column {column}"))?;
            if divisions[..at].iter().any(|other| other.column == *column) {
                return Err(Error::refused(format!(
                    "column {column} divides the table twice, which a table of the lake cannot be"
                )));
            }
            match division.kind {
                // What no partition value can be is found before any row moves.
                DivisionKind::Value => partition_values::check_type(field.data_type())
                    .with_context(|| format!("column {column}"))?,
                DivisionKind::Range => {}
                DivisionKind::Hash { buckets: 0 } => {
                    return Err(Error::refused(format!(
                        "column {column} divides the table into 0 buckets"
                    )));
                }
                DivisionKind::Hash { .. } => {}
            }
        }
        Ok(Divisions(divisions.to_vec()))
    }

    /// Those of a table that is there, by its properties and partition columns.
    ///
    /// # Errors
    /// `Refused` if the property is not one that this release writes, or says something else than the partition columns.
    pub fn read(
        properties: &HashMap<String, String>,
        partition_columns: &[String],
        schema: &Schema,
    ) -> Result<Divisions> {
        let by_value = |column: &String| Division {
            column: column.clone(),
            kind: DivisionKind::Value,
        };
        let Some(text) = properties.get(PROPERTY) else {
            return Ok(Divisions(partition_columns.iter().map(by_value).collect()));
        };
        let wrong = || format!("its property {PROPERTY} is {text}");
        let read: Vec<Division> = serde_json::from_str(text).or_error(Kind::Refused, wrong())?;
        let read = Divisions::of(&read, schema).with_context(wrong)?;
        if !read.value_columns().eq(partition_columns) {
            return Err(Error::refused(format!(
                "{}, and its partition columns are ({})",
                wrong(),
                partition_columns.join(", ")
            )));
        }
        Ok(read)
    }

    /// What the property says; none where the partition columns say it all.
    ///
    /// # Errors
    /// `Internal` if it cannot be written.
    pub fn property(&self) -> Result<Option<String>> {
        if self.by_values_alone() {
            return Ok(None);
        }
        let text = serde_json::to_string(&self.0).or_error(Kind::Internal, PROPERTY)?;
        Ok(Some(text))
    }

    /// The levels.
    pub fn levels(&self) -> &[Division] {
        &self.0
    }

    /// Whether Delta's log alone tells which partition a file belongs to.
    pub fn by_values_alone(&self) -> bool {
        self.value_columns().count() == self.0.len()
    }

    /// The columns of the VALUE levels: Delta's partition columns. They are not in the files.
    pub fn value_columns(&self) -> impl Iterator<Item = &String> {
        let levels = self.0.iter();
        levels
            .filter(|division| division.kind == DivisionKind::Value)
            .map(|division| &division.column)
    }

    /// Checks that a key is one of a table that is divided like this.
    ///
    /// # Errors
    /// `Refused`, by name.
    pub fn check(&self, key: &PartitionKey, schema: &Schema) -> Result<()> {
        check_key(&self.0, schema, key)
    }

    /// What a key says of the VALUE levels.
    pub fn values_of(&self, key: &PartitionKey) -> PartitionKey {
        let parts = key.parts().iter().filter(|(column, _)| {
            let mut columns = self.value_columns();
            columns.any(|of_values| of_values == column)
        });
        // A part of a key is no longer than the key.
        PartitionKey::new(parts.cloned().collect()).unwrap_or_default()
    }

    /// The key that is true of every row with these values: its ranges and buckets have no bounds.
    ///
    /// # Errors
    /// `Refused` if it is too long.
    pub fn around(&self, values: &PartitionKey) -> Result<PartitionKey> {
        let parts = self.0.iter().map(|division| {
            let cell = match division.kind {
                DivisionKind::Value => values.cell(&division.column).cloned(),
                DivisionKind::Range => Some(Cell::Range {
                    from: None,
                    to: None,
                }),
                DivisionKind::Hash { .. } => Some(Cell::Bucket { index: 0, count: 1 }),
            };
            (division.column.clone(), cell.unwrap_or(Cell::Null))
        });
        PartitionKey::new(parts.collect())
    }
}

/// Which partition each data file was published as, by all ledger files of a table: paths, and canonical texts of keys.
#[derive(Debug, Default)]
pub struct Names(HashMap<Box<str>, Box<str>>);

impl Names {
    /// Reads the ledger files of a table. One that cannot be read names nothing: if it counts, its data files are unnamed.
    ///
    /// # Errors
    /// `Unavailable` if the disk fails; `Corrupt` if two ledger files name one data file for two partitions.
    pub fn read(table: &Path) -> Result<Names> {
        let mut names = Names::default();
        for (_, entry) in ledger_files(table)? {
            if let Ok(entry) = entry {
                names.add(&entry)?;
            }
        }
        Ok(names)
    }

    /// The same, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// As [`Names::read`].
    pub async fn load(table: PathBuf) -> Result<Names> {
        let read = tokio::task::spawn_blocking(move || Names::read(&table)).await;
        read.or_error(Kind::Internal, "read the ledger")?
    }

    fn add(&mut self, entry: &Entry) -> Result<()> {
        let Event::Publish(partitions) = &entry.event else {
            return Ok(());
        };
        for published in partitions {
            let key = published.receipt.key.to_string().into_boxed_str();
            for file in &published.files {
                let path = file.path.clone().into_boxed_str();
                let named = self.0.insert(path, key.clone());
                if let Some(other) = named.filter(|named| *named != key) {
                    return Err(Error::corrupt(format!(
                        "ledger files below {DIRECTORY} name file {} for partition {other} and for partition {key}",
                        file.path
                    )));
                }
            }
        }
        Ok(())
    }

    /// The partition of a data file with these values; none for an unnamed one.
    ///
    /// # Errors
    /// `Corrupt` if the ledger names it for a partition of other values.
    pub fn key(
        &self,
        divisions: &Divisions,
        path: &str,
        values: &PartitionKey,
    ) -> Result<Option<PartitionKey>> {
        let Some(text) = self.0.get(path) else {
            return Ok(None);
        };
        let key: PartitionKey = text.parse()?;
        if divisions.values_of(&key) != *values {
            return Err(Error::corrupt(format!(
                "file {path} was published as partition {key}, and the log has it with {}",
                values.label()
            )));
        }
        Ok(Some(key))
    }
}

/// The unnamed files of a table, by their values.
#[derive(Debug, Default)]
pub struct Unnamed(BTreeMap<PartitionKey, Files>);

/// Unnamed files with equal values.
#[derive(Debug)]
struct Files {
    first: String,
    count: usize,
}

impl Unnamed {
    /// Counts a file.
    pub fn add(&mut self, values: PartitionKey, path: &str) {
        let files = self.0.entry(values).or_insert_with(|| Files {
            first: path.to_owned(),
            count: 0,
        });
        files.count += 1;
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails if there are some whose values this is true of.
    ///
    /// # Errors
    /// `Refused`, naming the first and saying what to do.
    pub fn check(&self, table: &TableName, concerns: impl Fn(&PartitionKey) -> bool) -> Result<()> {
        let mut found = self.0.iter();
        let Some((values, files)) = found.find(|(values, _)| concerns(values)) else {
            return Ok(());
        };
        let others = match files.count {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let (place, condition) = if values.is_whole_table() {
            ("the table".to_owned(), String::new())
        } else {
            (
                format!("partition {values}"),
                " of that partition".to_owned(),
            )
        };
        Err(Error::refused(format!(
            "{place} of table {table} has files that no ledger entry names ({}{others}): another program wrote or compacted them, and nobody can tell which \
             ranges or buckets their rows are of. Delete the rows{condition} with that program and copy them again, or restore the table to a version \
             before",
            files.first
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field};
    use strait_common::value::Value;

    fn level(column: &str, kind: DivisionKind) -> Division {
        Division {
            column: column.to_owned(),
            kind,
        }
    }

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("day", DataType::Date32, true),
            Field::new("id", DataType::Int64, true),
            Field::new("symbol", DataType::Utf8, true),
        ])
    }

    fn mixed() -> Divisions {
        let levels = [
            level("id", DivisionKind::Range),
            level("day", DivisionKind::Value),
            level("symbol", DivisionKind::Hash { buckets: 10 }),
        ];
        Divisions::of(&levels, &schema()).unwrap()
    }

    fn key(cells: [Cell; 3]) -> PartitionKey {
        let columns = ["id", "day", "symbol"].map(str::to_owned);
        PartitionKey::new(columns.into_iter().zip(cells).collect()).unwrap()
    }

    fn range(from: Value) -> Cell {
        Cell::Range {
            from: Some(from),
            to: None,
        }
    }

    const DAY: Cell = Cell::Value(Value::Date(20_000));
    const BUCKET: Cell = Cell::Bucket {
        index: 3,
        count: 10,
    };

    #[test]
    fn divisions_come_back_from_the_property() {
        let divisions = mixed();
        let text = divisions.property().unwrap().unwrap();
        assert_eq!(
            text,
            r#"[{"column":"id","kind":"range"},{"column":"day","kind":"value"},{"column":"symbol","kind":{"hash":{"buckets":10}}}]"#
        );
        let properties = HashMap::from([(PROPERTY.to_owned(), text)]);
        let day = ["day".to_owned()];
        let read = Divisions::read(&properties, &day, &schema()).unwrap();
        assert_eq!(read, divisions);
        let other = Divisions::read(&properties, &["symbol".to_owned()], &schema());
        assert_eq!(other.unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn a_table_divided_by_values_alone_needs_no_property() {
        let plain = Divisions::read(&HashMap::new(), &["day".to_owned()], &schema()).unwrap();
        assert!(plain.by_values_alone());
        assert_eq!(plain.property().unwrap(), None);
        assert_eq!(plain.levels(), [level("day", DivisionKind::Value)]);
    }

    #[test]
    fn the_key_around_values_excludes_no_row_of_them() {
        let divisions = mixed();
        let values = divisions.values_of(&key([range(Value::Int(5)), DAY, BUCKET]));
        assert_eq!(values.to_string(), "day=2024-10-04");
        let around = divisions.around(&values).unwrap();
        assert_eq!(
            around.to_string(),
            "id=[*,*)/day=2024-10-04/symbol=bucket(0,1)"
        );
    }

    #[test]
    fn divisions_that_cannot_be_are_refused() {
        let twice = [
            level("day", DivisionKind::Value),
            level("day", DivisionKind::Range),
        ];
        let none = [level("id", DivisionKind::Hash { buckets: 0 })];
        for levels in [&twice[..], &none[..]] {
            let error = Divisions::of(levels, &schema()).unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{error}");
        }
    }
}
