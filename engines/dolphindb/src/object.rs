//! What an answer holds, as values of Arrow.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int8Type, Int16Type, Int32Type, Int64Type};
use strait_common::{Error, Result};

use crate::types::{ColumnType, Type};

/// Cells of one type.
#[derive(Clone, Debug)]
pub struct Column {
    /// What they are at the server.
    pub kind: ColumnType,
    /// They themselves.
    pub array: ArrayRef,
}

/// An object of the protocol.
#[derive(Clone, Debug)]
pub enum Object {
    /// No object, or the scalar without a value.
    Nothing,
    /// One cell.
    Scalar(Column),
    /// Cells in a row; pairs and sets too.
    Vector(Column),
    /// Objects of different kinds.
    Any(Vec<Object>),
    /// Columns by name.
    Table(RecordBatch),
    /// Values by key, in the server's order.
    Dictionary(Vec<(String, Object)>),
}

impl Object {
    /// What it is called in errors.
    pub fn form(&self) -> &'static str {
        match self {
            Object::Nothing => "nothing",
            Object::Scalar(_) => "a scalar",
            Object::Vector(_) => "a vector",
            Object::Any(_) => "a tuple",
            Object::Table(_) => "a table",
            Object::Dictionary(_) => "a dictionary",
        }
    }

    fn unexpected(&self, wanted: &str) -> Error {
        Error::corrupt(format!(
            "the server's answer is {}, not {wanted}",
            self.form()
        ))
    }

    /// The table that it is.
    ///
    /// # Errors
    /// `Corrupt` if it is something else.
    pub fn into_table(self) -> Result<RecordBatch> {
        match self {
            Object::Table(batch) => Ok(batch),
            other => Err(other.unexpected("a table")),
        }
    }

    /// The cells that it is.
    ///
    /// # Errors
    /// `Corrupt` if it is something else.
    pub fn into_vector(self) -> Result<Column> {
        match self {
            Object::Vector(column) => Ok(column),
            other => Err(other.unexpected("a vector")),
        }
    }

    /// The objects that it is made of: those of a tuple, or the cells of a vector as scalars.
    ///
    /// # Errors
    /// `Corrupt` if it is something else.
    pub fn into_items(self) -> Result<Vec<Object>> {
        match self {
            Object::Any(items) => Ok(items),
            Object::Vector(Column { kind, array }) => {
                let cell = |at| {
                    Object::Scalar(Column {
                        kind,
                        array: array.slice(at, 1),
                    })
                };
                Ok((0..array.len()).map(cell).collect())
            }
            other => Err(other.unexpected("a tuple")),
        }
    }

    /// The value of this key.
    ///
    /// # Errors
    /// `Corrupt` if it is no dictionary.
    pub fn get(&self, key: &str) -> Result<Option<&Object>> {
        match self {
            Object::Dictionary(entries) => {
                let found = entries.iter().find(|(known, _)| known == key);
                Ok(found.map(|(_, value)| value))
            }
            other => Err(other.unexpected("a dictionary")),
        }
    }

    /// The text of this key, or the last one of several; empty where there is none.
    ///
    /// # Errors
    /// `Corrupt` if it is no dictionary, or the key has something else.
    pub(crate) fn text_at(&self, key: &str) -> Result<String> {
        match self.get(key)? {
            Some(Object::Nothing) | None => Ok(String::new()),
            Some(found) => Ok(found.texts()?.pop().unwrap_or_default()),
        }
    }

    /// The text of a scalar; the null text is empty.
    ///
    /// # Errors
    /// `Corrupt` if it is something else.
    pub fn text(&self) -> Result<String> {
        let texts = match self {
            Object::Scalar(column) => column.texts()?,
            other => return Err(other.unexpected("a text")),
        };
        Ok(texts.into_iter().next().unwrap_or_default())
    }

    /// The texts of a vector, or the one of a scalar; null texts are empty.
    ///
    /// # Errors
    /// `Corrupt` if it is something else.
    pub fn texts(&self) -> Result<Vec<String>> {
        match self {
            Object::Scalar(column) | Object::Vector(column) => column.texts(),
            Object::Any(items) if items.is_empty() => Ok(Vec::new()),
            other => Err(other.unexpected("texts")),
        }
    }

    /// The integer of a scalar.
    ///
    /// # Errors
    /// `Corrupt` if it is something else, or null.
    pub fn integer(&self) -> Result<i64> {
        let integers = self.integers()?;
        integers
            .first()
            .copied()
            .flatten()
            .ok_or_else(|| self.unexpected("an integer"))
    }

    /// The integers of a vector, or the one of a scalar.
    ///
    /// # Errors
    /// `Corrupt` if it is something else.
    pub fn integers(&self) -> Result<Vec<Option<i64>>> {
        match self {
            Object::Scalar(column) | Object::Vector(column) => column.integers(),
            other => Err(other.unexpected("integers")),
        }
    }

    /// The truth of a scalar; null is false.
    ///
    /// # Errors
    /// `Corrupt` if it is something else.
    pub fn boolean(&self) -> Result<bool> {
        match self {
            Object::Scalar(Column { array, .. }) => match array.as_boolean_opt() {
                Some(array) => Ok(!array.is_empty() && array.is_valid(0) && array.value(0)),
                None => Err(self.unexpected("a boolean")),
            },
            other => Err(other.unexpected("a boolean")),
        }
    }
}

impl Column {
    /// Cells of a type that is no list.
    pub(crate) fn plain(item: Type, array: ArrayRef) -> Column {
        Column {
            kind: ColumnType::plain(item),
            array,
        }
    }

    /// The texts of a column; null texts are empty.
    ///
    /// # Errors
    /// `Corrupt` if it holds something else.
    pub fn texts(&self) -> Result<Vec<String>> {
        texts_of(&self.array)
    }

    /// The integers of a column.
    ///
    /// # Errors
    /// `Corrupt` if it holds something else.
    pub fn integers(&self) -> Result<Vec<Option<i64>>> {
        integers_of(&self.array)
    }
}

/// The texts of an array; null texts are empty.
///
/// # Errors
/// `Corrupt` if it holds something else.
pub fn texts_of(array: &ArrayRef) -> Result<Vec<String>> {
    if let Some(texts) = array.as_string_opt::<i32>() {
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        return Ok(texts.iter().map(text).collect());
    }
    if let Some(symbols) = array.as_dictionary_opt::<Int32Type>()
        && let Some(values) = symbols.values().as_string_opt::<i32>()
    {
        let text = |key: Option<i32>| match key.and_then(|key| usize::try_from(key).ok()) {
            Some(key) if values.is_valid(key) => values.value(key).to_owned(),
            _ => String::new(),
        };
        return Ok(symbols.keys().iter().map(text).collect());
    }
    if *array.data_type() == DataType::Null {
        return Ok(vec![String::new(); array.len()]);
    }
    Err(Error::corrupt(format!(
        "the server's answer holds {} instead of texts",
        array.data_type()
    )))
}

/// The integers of an array.
///
/// # Errors
/// `Corrupt` if it holds something else.
pub fn integers_of(array: &ArrayRef) -> Result<Vec<Option<i64>>> {
    if let Some(array) = array.as_primitive_opt::<Int64Type>() {
        return Ok(array.iter().collect());
    }
    if let Some(array) = array.as_primitive_opt::<Int32Type>() {
        return Ok(array.iter().map(|value| value.map(i64::from)).collect());
    }
    if let Some(array) = array.as_primitive_opt::<Int16Type>() {
        return Ok(array.iter().map(|value| value.map(i64::from)).collect());
    }
    if let Some(array) = array.as_primitive_opt::<Int8Type>() {
        return Ok(array.iter().map(|value| value.map(i64::from)).collect());
    }
    if let Some(array) = array.as_boolean_opt() {
        return Ok(array.iter().map(|value| value.map(i64::from)).collect());
    }
    if *array.data_type() == DataType::Null {
        return Ok(vec![None; array.len()]);
    }
    Err(Error::corrupt(format!(
        "the server's answer holds {} instead of integers",
        array.data_type()
    )))
}
