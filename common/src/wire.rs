//! Between the messages of `strait.v1` and our own values. What comes from a peer is checked here.

use arrow::datatypes::SchemaRef;
use strait_proto::v1;

use crate::digest::{Digest, DigestId};
use crate::engine::{
    Confirmed, Cursor, Disposition, Division, DivisionKind, Level, Origin, Outcome, Position,
    PositionState, RECIPE_BYTES_MAX, Receipt, Table, Version,
};
use crate::error::{Error, Result};
use crate::frame;
use crate::ids::TableName;

/// The longest cursor that a peer may send, in bytes.
pub const CURSOR_BYTES_MAX: usize = 1024;
/// The longest version that a peer may send, in bytes.
pub const VERSION_BYTES_MAX: usize = 200;

impl From<&Position> for v1::Position {
    fn from(position: &Position) -> v1::Position {
        v1::Position {
            run: position.run.to_string(),
            key: position.key.to_string(),
            version: position.version.0.clone(),
            slice: Some(whole()),
            sequence: position.sequence,
            cursor: position.cursor.0.clone(),
            rows: position.rows,
            digest: position.digest.to_bytes().to_vec().into(),
            committed: match &position.state {
                PositionState::Staged | PositionState::Dropped => None,
                PositionState::Committed(receipt) => Some(receipt.into()),
            },
            dropped: position.state == PositionState::Dropped,
        }
    }
}

impl TryFrom<v1::Position> for Position {
    type Error = Error;

    fn try_from(message: v1::Position) -> Result<Position> {
        check_whole(message.slice.as_ref())?;
        let position = Position {
            run: message.run.parse()?,
            key: message.key.parse()?,
            version: version(message.version)?,
            sequence: message.sequence,
            cursor: cursor(message.cursor)?,
            rows: message.rows,
            digest: Digest::from_bytes(&message.digest)?,
            state: match message.committed {
                _ if message.dropped => PositionState::Dropped,
                None => PositionState::Staged,
                Some(receipt) => PositionState::Committed(receipt.try_into()?),
            },
        };
        if let PositionState::Committed(receipt) = &position.state {
            let theirs = (&receipt.key, &receipt.version, receipt.rows, receipt.digest);
            let ours = (
                &position.key,
                &position.version,
                position.rows,
                position.digest,
            );
            if theirs != ours {
                return Err(Error::corrupt(format!(
                    "partition {}: its position and its receipt are not about the same rows",
                    position.key
                )));
            }
        }
        Ok(position)
    }
}

impl From<&Receipt> for v1::Receipt {
    fn from(receipt: &Receipt) -> v1::Receipt {
        v1::Receipt {
            key: receipt.key.to_string(),
            version: receipt.version.0.clone(),
            rows: receipt.rows,
            digest: receipt.digest.to_bytes().to_vec().into(),
            digest_id: receipt.digest_id.0.clone(),
            level: match receipt.level {
                Level::Received => v1::Level::Received,
                Level::Bytes => v1::Level::Bytes,
                Level::Stored => v1::Level::Stored,
            }
            .into(),
            selection: receipt.selection.clone(),
            origin: receipt.origin.table.clone(),
            seen: receipt.origin.seen,
        }
    }
}

impl TryFrom<v1::Receipt> for Receipt {
    type Error = Error;

    fn try_from(message: v1::Receipt) -> Result<Receipt> {
        Ok(Receipt {
            level: match message.level() {
                v1::Level::Received => Level::Received,
                v1::Level::Bytes => Level::Bytes,
                v1::Level::Stored => Level::Stored,
                v1::Level::Unspecified => return Err(Error::corrupt("a receipt without a level")),
            },
            key: message.key.parse()?,
            version: version(message.version)?,
            rows: message.rows,
            digest: Digest::from_bytes(&message.digest)?,
            digest_id: DigestId(message.digest_id),
            selection: message.selection,
            origin: Origin {
                table: short(message.origin, "a table's name")?,
                seen: message.seen,
            },
        })
    }
}

impl From<&Confirmed> for v1::Confirmed {
    fn from(confirmed: &Confirmed) -> v1::Confirmed {
        v1::Confirmed {
            receipt: Some((&confirmed.receipt).into()),
            version: confirmed.version.0.clone(),
        }
    }
}

impl TryFrom<v1::Confirmed> for Confirmed {
    type Error = Error;

    fn try_from(message: v1::Confirmed) -> Result<Confirmed> {
        let receipt = message.receipt;
        let receipt = receipt.ok_or_else(|| Error::corrupt("confirmed without a receipt"))?;
        Ok(Confirmed {
            receipt: receipt.try_into()?,
            version: version(message.version)?,
        })
    }
}

/// The slice of protocol 1: all of a partition.
pub fn whole() -> v1::Slice {
    v1::Slice { index: 0, count: 1 }
}

/// Checks that a message is about a whole partition.
///
/// # Errors
/// `Refused` if it is about a part of one.
pub fn check_whole(slice: Option<&v1::Slice>) -> Result<()> {
    match slice {
        Some(v1::Slice { index: 0, count: 1 }) => Ok(()),
        other => Err(Error::refused(format!(
            "slices of a partition are not supported: {other:?}"
        ))),
    }
}

/// A version from a peer.
///
/// # Errors
/// `Corrupt` if it is longer than [`VERSION_BYTES_MAX`].
pub fn version(text: String) -> Result<Version> {
    short(text, "a version").map(Version)
}

/// Text of a peer that an engine made.
fn short(text: String, what: &str) -> Result<String> {
    if text.len() > VERSION_BYTES_MAX {
        return Err(Error::corrupt(format!("{what} of {} bytes", text.len())));
    }
    Ok(text)
}

/// A cursor from a peer.
///
/// # Errors
/// `Corrupt` if it is longer than [`CURSOR_BYTES_MAX`].
pub fn cursor(bytes: bytes::Bytes) -> Result<Cursor> {
    if bytes.len() > CURSOR_BYTES_MAX {
        return Err(Error::corrupt(format!("a cursor of {} bytes", bytes.len())));
    }
    Ok(Cursor(bytes))
}

impl From<Disposition> for v1::Disposition {
    fn from(disposition: Disposition) -> v1::Disposition {
        match disposition {
            Disposition::Append => v1::Disposition::Append,
            Disposition::Replace => v1::Disposition::Replace,
        }
    }
}

/// What a peer wants done with the rows already there.
///
/// # Errors
/// `Corrupt` if it does not say.
pub fn disposition(message: v1::Disposition) -> Result<Disposition> {
    match message {
        v1::Disposition::Append => Ok(Disposition::Append),
        v1::Disposition::Replace => Ok(Disposition::Replace),
        v1::Disposition::Unspecified => {
            Err(Error::corrupt("a partition begins without a disposition"))
        }
    }
}

impl From<Outcome> for v1::Outcome {
    fn from(outcome: Outcome) -> v1::Outcome {
        match outcome {
            Outcome::Done => v1::Outcome::Done,
            Outcome::Partial => v1::Outcome::Partial,
            Outcome::Abandoned => v1::Outcome::Abandoned,
        }
    }
}

/// How a peer says that a run ended.
///
/// # Errors
/// `Corrupt` if it does not say.
pub fn outcome(message: v1::Outcome) -> Result<Outcome> {
    match message {
        v1::Outcome::Done => Ok(Outcome::Done),
        v1::Outcome::Partial => Ok(Outcome::Partial),
        v1::Outcome::Abandoned => Ok(Outcome::Abandoned),
        v1::Outcome::Unspecified => Err(Error::corrupt("a run ends without an outcome")),
    }
}

/// A table's shape for the wire.
///
/// # Errors
/// `Internal` if Arrow cannot write the schema.
pub fn shape(schema: &SchemaRef, divisions: &[Division]) -> Result<v1::Shape> {
    let division = |division: &Division| {
        let (kind, buckets) = match division.kind {
            DivisionKind::Value => (v1::division::Kind::Value, 0),
            DivisionKind::Range => (v1::division::Kind::Range, 0),
            DivisionKind::Hash { buckets } => (v1::division::Kind::Hash, buckets),
        };
        v1::Division {
            column: division.column.clone(),
            kind: kind.into(),
            buckets,
        }
    };
    Ok(v1::Shape {
        schema: frame::schema_to_bytes(schema)?,
        divisions: divisions.iter().map(division).collect(),
        recipe: None,
    })
}

/// The shape of rows for a table that may have to be made for them.
///
/// # Errors
/// As [`shape`].
pub fn shape_to_make(table: &Table) -> Result<v1::Shape> {
    Ok(v1::Shape {
        recipe: table.recipe.clone(),
        ..shape(&table.schema, &table.divisions)?
    })
}

/// The table that a shape describes.
///
/// # Errors
/// `Corrupt` if the schema cannot be read or a division is of no kind.
pub fn table(name: TableName, shape: v1::Shape) -> Result<Table> {
    let division = |division: v1::Division| {
        let kind = match division.kind() {
            v1::division::Kind::Value => DivisionKind::Value,
            v1::division::Kind::Range => DivisionKind::Range,
            v1::division::Kind::Hash => DivisionKind::Hash {
                buckets: division.buckets,
            },
            v1::division::Kind::Unspecified => {
                return Err(Error::corrupt(format!(
                    "column {} divides the table in no known way",
                    division.column
                )));
            }
        };
        Ok(Division {
            column: division.column,
            kind,
        })
    };
    let recipe = shape.recipe;
    if let Some(recipe) = recipe
        .as_ref()
        .filter(|recipe| recipe.len() > RECIPE_BYTES_MAX)
    {
        return Err(Error::corrupt(format!(
            "a recipe of {} bytes",
            recipe.len()
        )));
    }
    Ok(Table {
        name,
        schema: frame::schema_from_bytes(&shape.schema)?,
        divisions: shape
            .divisions
            .into_iter()
            .map(division)
            .collect::<Result<_>>()?,
        recipe,
    })
}
