//! The other side of the protocol: reading requests and writing answers, for a server that stands in for the real one in tests.

use std::time::Duration;

use arrow::array::RecordBatch;
use strait_common::{Error, Kind, OrError, Result};
use tokio::io::AsyncRead;

use crate::decode::{self, DICTIONARY, SCALAR, VECTOR};
use crate::encode::{self, Argument};
use crate::object::{Column, Object};
use crate::wire::Incoming;

/// The longest request without its arguments.
const COMMAND_BYTES_MAX: usize = 4 << 20;
/// How long a client may think.
const PATIENCE: Duration = Duration::from_secs(3600);
/// What the arguments of a request may take.
const ARGUMENTS_BYTES_MAX: u64 = 1 << 30;

/// What a client asks.
#[derive(Clone, Debug)]
pub enum Command {
    /// A session begins, with a login or without.
    Connect(Option<(String, String)>),
    /// A script.
    Script(String),
    /// A function of these arguments.
    Call(String, Vec<Object>),
    /// Variables of the session.
    Upload(Vec<(String, Object)>),
}

/// A request with what its head says.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// The bits of the client's flags.
    pub flags: u32,
    /// How many rows a block of the answer has; 0 for an answer in one piece.
    pub fetch: u32,
    /// Whether printed messages are wanted.
    pub messages: bool,
}

impl Request {
    /// Whether nobody waits for an answer.
    pub fn is_asynchronous(&self) -> bool {
        self.flags & 4 != 0 && !matches!(self.command, Command::Connect(_))
    }

    /// Whether tables of the answer are compressed.
    pub fn is_compressed(&self) -> bool {
        self.flags & 64 != 0
    }
}

/// The requests of one connection.
#[derive(Debug)]
pub struct Requests<R>(Incoming<R>);

impl<R: AsyncRead + Send + Unpin> Requests<R> {
    /// Those that come from here.
    pub fn of(from: R) -> Requests<R> {
        Requests(Incoming::of_connection(from, PATIENCE))
    }

    /// The next one; none after the last.
    ///
    /// # Errors
    /// `Corrupt` for what is no request.
    pub async fn next(&mut self) -> Result<Option<Request>> {
        let incoming = &mut self.0;
        incoming.allow(ARGUMENTS_BYTES_MAX);
        let Ok(line) = incoming.line(COMMAND_BYTES_MAX, "a request").await else {
            return Ok(None);
        };
        let wrong = || Error::corrupt(format!("'{line}' is no request"));
        let mut parts = line.split_ascii_whitespace();
        let messages = parts.next() == Some("API2");
        let length: usize = parts
            .nth(1)
            .and_then(|text| text.parse().ok())
            .ok_or_else(wrong)?;
        if length > COMMAND_BYTES_MAX {
            return Err(Error::corrupt(format!("a request of {length} bytes")));
        }
        let properties: Vec<&str> = parts
            .nth(1)
            .map(|text| text.split('_').collect())
            .unwrap_or_default();
        let property = |at: usize| {
            properties
                .get(at)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        let command = incoming.bytes(length).await?;
        let command = String::from_utf8(command).or_error(Kind::Corrupt, "a request")?;
        let (word, rest) = command.split_once('\n').unwrap_or((&command, ""));
        let mut lines = rest.split('\n');
        let command = match word {
            "connect" => {
                let login = match (lines.next(), lines.next(), lines.next()) {
                    (Some("login"), Some(user), Some(password)) => {
                        Some((user.to_owned(), password.to_owned()))
                    }
                    _ => None,
                };
                Command::Connect(login)
            }
            "script" => Command::Script(rest.to_owned()),
            "function" | "variable" => {
                let name = lines.next().unwrap_or_default().to_owned();
                let count: usize = lines
                    .next()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(wrong)?;
                let mut arguments = Vec::new();
                for _ in 0..count {
                    arguments.push(decode::object(incoming).await?);
                }
                if word == "function" {
                    Command::Call(name, arguments)
                } else {
                    let names = name.split(',').map(str::to_owned);
                    Command::Upload(names.zip(arguments).collect())
                }
            }
            _ => return Err(wrong()),
        };
        Ok(Some(Request {
            command,
            flags: property(0),
            fetch: property(5),
            messages,
        }))
    }
}

/// The two lines before an object, or before none.
pub fn head(session: &str, with_object: bool) -> Vec<u8> {
    format!("{session} {} 1\nOK\n", u8::from(with_object)).into_bytes()
}

/// An answer that is an error: one line of text.
pub fn refusal(session: &str, text: &str) -> Vec<u8> {
    format!("{session} 0 1\n{}\n", text.replace('\n', " ")).into_bytes()
}

/// What stands before so many blocks.
pub fn blocks_head(blocks: usize) -> Vec<u8> {
    let mut out = vec![decode::ANY, VECTOR];
    out.extend_from_slice(&i32::try_from(blocks).unwrap_or(i32::MAX).to_le_bytes());
    out.extend_from_slice(&1i32.to_le_bytes());
    out
}

/// Writes a table, which must hold what the server's types can.
///
/// # Errors
/// As [`encode::check_table`].
pub fn write_table(batch: &RecordBatch, compressed: bool, out: &mut Vec<u8>) -> Result<()> {
    encode::check_table(batch)?;
    encode::table_head(batch, compressed, out);
    let mut bases = 0;
    for at in 0..batch.num_columns() {
        encode::table_column(batch, at, &mut bases, compressed, out)?;
    }
    Ok(())
}

/// Writes an object.
///
/// # Errors
/// As [`write_table`].
pub fn write_object(object: &Object, compressed: bool, out: &mut Vec<u8>) -> Result<()> {
    match object {
        Object::Nothing => out.extend_from_slice(&[0, SCALAR, 1]),
        Object::Scalar(column) => encode::scalar(column, out)?,
        Object::Vector(column) => encode::argument(&Argument::Vector(column.clone()), out)?,
        Object::Any(items) => {
            out.extend_from_slice(&blocks_head(items.len()));
            for item in items {
                write_object(item, false, out)?;
            }
        }
        Object::Table(batch) => write_table(batch, compressed, out)?,
        Object::Dictionary(entries) => {
            out.extend_from_slice(&[decode::ANY, DICTIONARY]);
            let keys = entries.iter().map(|(key, _)| key.as_str());
            let keys: arrow::array::ArrayRef =
                std::sync::Arc::new(arrow::array::StringArray::from_iter_values(keys));
            let kind = crate::types::ColumnType::plain(crate::types::Type::String);
            encode::argument(&Argument::Vector(Column { kind, array: keys }), out)?;
            out.extend_from_slice(&blocks_head(entries.len()));
            for (_, value) in entries {
                write_object(value, false, out)?;
            }
        }
    }
    Ok(())
}
