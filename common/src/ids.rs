//! Names of things: runs, tables, epochs. Each is a type of its own, so that none is taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! random_id {
    ($(#[$doc:meta])* $Id:ident, $wrong:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $Id(uuid::Uuid);

        impl $Id {
            /// A new random id.
            pub fn random() -> $Id {
                $Id(uuid::Uuid::new_v4())
            }

            /// The id with these 128 bits, for tests that need the same ids every time.
            pub const fn from_u128(bits: u128) -> $Id {
                $Id(uuid::Uuid::from_u128(bits))
            }
        }

        impl fmt::Display for $Id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.hyphenated())
            }
        }

        impl FromStr for $Id {
            type Err = Error;

            fn from_str(text: &str) -> Result<$Id> {
                let id = uuid::Uuid::parse_str(text);
                id.map($Id).map_err(|_| Error::config(format!($wrong, text)))
            }
        }
    };
}

random_id! {
    /// The identity of a run: a random UUID, made once by the source and never used again.
    RunId, "'{}' is not a run id; `strait runs list` shows them"
}

random_id! {
    /// The identity of a group: a random UUID.
    GroupId, "'{}' is not the id of a group; `strait groups list` shows them"
}

impl RunId {
    /// The first eight hex digits, enough for a person to tell runs apart.
    pub fn short(&self) -> String {
        self.0.simple().to_string()[..8].to_owned()
    }
}

/// `database/table` within a store.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName {
    database: String,
    table: String,
}

impl TableName {
    /// The name made of these two parts.
    ///
    /// # Errors
    /// `Config` if a part is empty, starts with `_` or `.`, is longer than 200 bytes, or holds a character that
    /// a path, a URL or a shell would take for something else.
    pub fn new(database: &str, table: &str) -> Result<TableName> {
        for part in [database, table] {
            let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@');
            if part.is_empty()
                || part.len() > 200
                || part.starts_with(['_', '.'])
                || !part.chars().all(plain)
            {
                return Err(Error::config(format!(
                    "'{database}/{table}' is not a table name; write database/table, with letters, digits and _ - . $ @ \
                     in each part, not beginning with _ or ."
                )));
            }
        }
        Ok(TableName {
            database: database.to_owned(),
            table: table.to_owned(),
        })
    }

    /// The part before the slash.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The part after the slash.
    pub fn table(&self) -> &str {
        &self.table
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.database, self.table)
    }
}

impl FromStr for TableName {
    type Err = Error;

    fn from_str(text: &str) -> Result<TableName> {
        match text.split_once('/') {
            Some((database, table)) => TableName::new(database, table),
            None => Err(Error::config(format!(
                "'{text}' is not a table name; write database/table, for example db1/mt"
            ))),
        }
    }
}

impl TryFrom<String> for TableName {
    type Error = Error;

    fn try_from(text: String) -> Result<TableName> {
        text.parse()
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> String {
        name.to_string()
    }
}

/// The number of an attempt on a table, issued by the sink by raising it in the store. A higher one fences
/// every lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_names_that_could_leave_their_directory_are_refused() {
        for text in [
            "mt",
            "/mt",
            "db1/",
            "../mt",
            "db1/../x",
            "db1/_strait",
            "a b/c",
            "db1/a/b",
            "_x/y",
        ] {
            assert!(text.parse::<TableName>().is_err(), "{text}");
        }
        assert_eq!("db1/mt".parse::<TableName>().unwrap().to_string(), "db1/mt");
        assert_eq!("数据库/表".parse::<TableName>().unwrap().table(), "表");
    }
}
