//! Inputs that come from a peer, a disk or a person, kept as files below `tests/corpus`, each with what must come out: `expected.txt` names every file of its
//! directory. They were made by the release that wrote them first (`cargo run --release --example make_corpus -- DIRECTORY`), and every later one must read
//! them alike: a ledger file, above all, is read for as long as its table lives.
//!
//! [`Mutator`] makes thousands of others from them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use strait_common::digest::digest;
use strait_common::frame::{self, Decoder, Frame};
use strait_common::selection::{Selection, SelectionSpec};
use strait_common::{Error, Result};
use strait_lake::ledger::Entry;

/// What `now()` means in every condition here: 2026-01-10 at noon in UTC, in nanoseconds since 1970.
pub const NOW: i64 = 1_768_046_400_000_000_000;
/// The zone of every condition here.
pub const ZONE: &str = "America/New_York";

/// A directory of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Frames as they arrive: a line of JSON with what the message says, then the payload. Files named `*.schema` are the schemas of streams.
    Frames,
    /// Ledger files of a lake.
    Ledger,
    /// Conditions as people write them, of [`columns`].
    Predicates,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Frames, Kind::Ledger, Kind::Predicates];

    /// The name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Frames => "frames",
            Kind::Ledger => "ledger",
            Kind::Predicates => "predicates",
        }
    }

    /// What comes out of a file, in one line: what it says, or the kind of the error and its words.
    pub fn outcome(self, name: &str, bytes: &[u8]) -> String {
        let outcome = match self {
            Kind::Frames if name.ends_with(".schema") => read_schema(bytes),
            Kind::Frames => read_frame(bytes),
            Kind::Ledger => read_ledger(bytes),
            Kind::Predicates => read_predicate(bytes),
        };
        match outcome {
            Ok(text) => format!("ok {text}"),
            Err(error) => format!("{}: {error}", error.kind().name()),
        }
    }
}

/// The directory in this tree.
pub fn directory(kind: Kind) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(kind.name())
}

/// The files of a directory, and what must come out of each.
///
/// # Panics
/// If they cannot be read, or a file has no expectation, or an expectation no file.
pub fn load(directory: &Path) -> BTreeMap<String, (Vec<u8>, String)> {
    let expected = std::fs::read_to_string(directory.join(EXPECTED)).expect("expectations");
    let mut expected: BTreeMap<String, String> = expected
        .lines()
        .map(|line| {
            let (name, outcome) = line.split_once('\t').expect("a name and an outcome");
            (name.to_owned(), outcome.to_owned())
        })
        .collect();
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("a name").to_owned();
        if name != EXPECTED {
            let outcome = expected.remove(&name);
            let outcome = outcome.unwrap_or_else(|| panic!("{name}: nothing is expected of it"));
            files.insert(name, (std::fs::read(&path).expect("a file"), outcome));
        }
    }
    assert!(expected.is_empty(), "these are not there: {expected:?}");
    files
}

/// Where the outcomes are: a line for each file, its name and then the outcome, or the beginning of one.
pub const EXPECTED: &str = "expected.txt";

/// The file of a frame.
pub fn frame_file(frame: &Frame) -> Vec<u8> {
    let said = json!({
        "rows": frame.rows,
        "raw_bytes": frame.raw_bytes,
        "compressed": frame.compressed,
        "checksum": frame.checksum,
    });
    let mut file = format!("{said}\n").into_bytes();
    file.extend_from_slice(&frame.payload);
    file
}

/// The frame in a file.
///
/// # Errors
/// `Internal` if its first line is not what [`frame_file`] writes.
pub fn frame_of(bytes: &[u8]) -> Result<Frame> {
    let wrong = || Error::internal("no file of a frame");
    let end = bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or_else(wrong)?;
    let said: serde_json::Value = serde_json::from_slice(&bytes[..end]).map_err(|_| wrong())?;
    let number = |name: &str| said[name].as_u64().ok_or_else(wrong);
    Ok(Frame {
        rows: number("rows")?,
        raw_bytes: number("raw_bytes")?,
        compressed: said["compressed"].as_bool().ok_or_else(wrong)?,
        checksum: number("checksum")?,
        payload: bytes[end + 1..].to_vec().into(),
    })
}

/// Decodes a frame of [`frame_columns`].
///
/// # Errors
/// What the decoder says.
pub fn decode(frame: Frame) -> Result<RecordBatch> {
    Decoder::new(frame_columns())?.decode(frame)
}

fn read_frame(bytes: &[u8]) -> Result<String> {
    let batch = decode(frame_of(bytes)?)?;
    Ok(format!("{} rows, {}", batch.num_rows(), digest(&batch)?))
}

fn read_schema(bytes: &[u8]) -> Result<String> {
    let schema = frame::schema_from_bytes(bytes)?;
    let mut text = String::new();
    for field in schema.fields() {
        // A String takes everything.
        let _ = write!(
            text,
            "{} {}{}; ",
            field.name(),
            field.data_type(),
            if field.is_nullable() { "?" } else { "" }
        );
    }
    Ok(text.trim_end().to_owned())
}

fn read_ledger(bytes: &[u8]) -> Result<String> {
    let entry = Entry::from_bytes(bytes)?;
    serde_json::to_string(&entry).map_err(|error| Error::internal("write JSON").with_source(error))
}

/// Resolves a condition.
///
/// # Errors
/// `Config` if it is none.
pub fn resolve(condition: &str) -> Result<Selection> {
    let spec = SelectionSpec {
        predicate: Some(condition.to_owned()),
        columns: None,
        zone: Some(ZONE.to_owned()),
    };
    Selection::resolve(&spec, &columns(), NOW)
}

fn read_predicate(bytes: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::config("no text"))?;
    let text = resolve(text)?.text();
    let condition = text
        .split_once(" where ")
        .map_or("", |(_, condition)| condition);
    Ok(condition.to_owned())
}

/// The columns that conditions here are about.
pub fn columns() -> Schema {
    let timestamp =
        |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
    Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("small", DataType::Int8, true),
        Field::new("big", DataType::UInt64, true),
        Field::new("TradingDay", DataType::Date32, true),
        Field::new("Timestamp", timestamp(None), true),
        Field::new("zoned", timestamp(Some("UTC")), true),
        Field::new("symbol", DataType::Utf8, true),
        Field::new("price", DataType::Float64, true),
        Field::new("amount", DataType::Decimal128(18, 4), true),
        Field::new("flag", DataType::Boolean, true),
        Field::new("raw", DataType::Binary, true),
        Field::new("order by", DataType::Int32, true),
    ])
}

/// The columns of every frame here.
pub fn frame_columns() -> SchemaRef {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    Arc::new(Schema::new(vec![
        Field::new("number", DataType::Int64, false),
        Field::new("price", DataType::Float64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("view", DataType::Utf8View, true),
        Field::new("symbol", dictionary, true),
        Field::new("list", list, true),
    ]))
}

/// Changes bytes, the same way for the same seed.
#[derive(Debug)]
pub struct Mutator {
    rng: StdRng,
}

/// Numbers that lengths are bad at.
const NUMBERS: [u64; 8] = [
    0,
    1,
    0x7F,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_FFFF_FFFF,
];

impl Mutator {
    /// With this seed.
    pub fn new(seed: u64) -> Mutator {
        Mutator {
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// A random number below `most`.
    pub fn below(&mut self, most: usize) -> usize {
        self.rng.random_range(0..most.max(1))
    }

    /// Other bytes, in one place or a few; `pieces` of others are put in now and then.
    pub fn mutate(&mut self, bytes: &[u8], pieces: &[&[u8]]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1).min(bytes.len());
            let end = bytes.len().min(at + 1 + self.below(16));
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                3 => {
                    let number = NUMBERS[self.below(NUMBERS.len())].to_le_bytes();
                    let width = [1, 2, 4, 8][self.below(4)];
                    for (to, from) in bytes[at..].iter_mut().zip(&number[..width]) {
                        *to = *from;
                    }
                }
                4 if !pieces.is_empty() => {
                    let piece = pieces[self.below(pieces.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                5 => bytes[at..end].fill(0),
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => bytes.push(self.rng.random()),
            }
        }
        bytes
    }
}
