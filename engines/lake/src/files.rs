//! Data files that travel as they are: which may, what is sent of them, and what is found out about those that come.
//!
//! A file is Parquet in a layout that its writer chose, and every row of it is of one partition: so it can be another table's file as it is, where both tables have the same
//! columns, stored in the same way, and are divided alike. [`shape`] says all of that in one text, which the two sides compare.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::datatypes::{DataType, Field, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::reader::ChunkReader;
use strait_common::engine::{PartitionFiles, TableFile};
use strait_common::ids::Epoch;
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::attachment::lock;
use crate::divisions::Divisions;
use crate::listing::{DataFile, Listing};
use crate::load_error::data_kind;
use crate::stage::{Fresh, Stage, StagedFile, stats};
use crate::table::check_file;
use crate::types::Mapping;

/// What a Parquet file begins with.
const MAGIC: &[u8] = b"PAR1";
/// The longest footer that is looked at without a lease: decoded it takes some ten times as much.
const FOOTER_BYTES_MAX: u64 = 1 << 20;
/// The most files of a partition that travel as they are. All footers are looked at before the first byte is sent, and more of them could take longer than an engine may.
const FILES_MAX: usize = 1000;

/// How the files of a table look: its columns as they are stored, in order of name, and its divisions. Equal texts, and a file of the one table is a file of the other.
///
/// # Errors
/// `Internal` if it cannot be written.
pub fn shape(mapping: &Mapping, divisions: &Divisions) -> Result<String> {
    let mut fields: Vec<_> = mapping.stored().fields().iter().collect();
    fields.sort_by_key(|field| field.name());
    let column = |field: &&Arc<Field>| {
        let metadata: BTreeMap<_, _> = field.metadata().iter().collect();
        serde_json::json!([field.name(), type_text(field), metadata])
    };
    let columns: Vec<_> = fields.iter().map(column).collect();
    let shape = serde_json::json!({ "columns": columns, "divisions": divisions.levels() });
    serde_json::to_string(&shape).or_error(Kind::Internal, "the shape of files")
}

/// A type, in which the names within lists and maps do not count.
fn type_text(field: &Field) -> String {
    let inner = |field: &Arc<Field>| type_text(field);
    let mut text = match field.data_type() {
        DataType::List(item) => format!("list<{}>", inner(item)),
        DataType::Struct(fields) => {
            let fields = fields
                .iter()
                .map(|field| format!("{}:{}", field.name(), inner(field)));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(","))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => {
                let fields = fields.iter().map(inner);
                format!("map<{}>", fields.collect::<Vec<_>>().join(","))
            }
            other => format!("map<{other:?}>"),
        },
        plain => format!("{plain:?}"),
    };
    if !field.is_nullable() {
        let _ = write!(text, " not null");
    }
    text
}

/// What a file says of itself.
struct Footer {
    rows: u64,
    schema: SchemaRef,
}

impl Footer {
    fn read<R: ChunkReader>(file: &R) -> Result<Footer> {
        let bytes = footer_bytes(file).or_error(Kind::Corrupt, "it is no whole Parquet file")?;
        if bytes > FOOTER_BYTES_MAX {
            return Err(Error::schema(format!(
                "its footer takes {bytes} bytes, and of a file that travels as it is at most {FOOTER_BYTES_MAX}"
            )));
        }
        let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new());
        let metadata = metadata.map_err(|error| {
            Error::new(data_kind(&error), "it is no whole Parquet file").with_source(error)
        })?;
        let rows = metadata.metadata().file_metadata().num_rows();
        Ok(Footer {
            rows: u64::try_from(rows).or_error(Kind::Corrupt, "its number of rows")?,
            schema: Arc::clone(metadata.schema()),
        })
    }
}

/// How long the footer is that a Parquet file says that it has, in its last eight bytes; 0 where those are not the end of one, as reading it will tell.
fn footer_bytes<R: ChunkReader>(file: &R) -> parquet::errors::Result<u64> {
    let end = file.len().saturating_sub(8);
    let tail = file.get_bytes(end, 8)?;
    let length = match tail.ends_with(MAGIC) {
        true => tail.first_chunk().copied().unwrap_or_default(),
        false => [0; 4],
    };
    Ok(u32::from_le_bytes(length).into())
}

/// The files of a partition to be sent, in order of path. `None` if one of them is not as the table has it: a foreign writer's, which readers convert; or one that cannot be
/// read, which reading it will tell.
///
/// # Errors
/// `Moved` if one is gone; `Unavailable` if the disk fails.
pub fn offer(listing: &Listing, files: Vec<DataFile>) -> Result<Option<Offered>> {
    if files.len() > FILES_MAX {
        return Ok(None);
    }
    let mut offered = Offered {
        files: Vec::with_capacity(files.len()),
        paths: Vec::with_capacity(files.len()),
        open: None,
    };
    for file in files {
        let path = listing.directory.join(&file.path);
        let footer = Offered::open(&path).and_then(|opened| {
            let found = opened.metadata().or_error(Kind::Unavailable, &file.path)?;
            if found.len() != file.size {
                return Err(Error::corrupt("it is not as large as the log says"));
            }
            Footer::read(&opened)
        });
        let fits = footer.and_then(|footer| {
            check_file(&listing.mapping, &listing.partition_columns, &footer.schema)?;
            Ok(footer.rows)
        });
        let rows = match fits.with_context(|| format!("file {}", file.path)) {
            Ok(rows) => rows,
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Schema) => {
                tracing::debug!(%error, "a partition travels as rows");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        offered.files.push(TableFile {
            rows,
            bytes: file.size,
        });
        offered.paths.push(path);
    }
    // That a partition has no row is for those to judge who read rows.
    let rows: u64 = offered.files.iter().map(|file| file.rows).sum();
    Ok((rows > 0).then_some(offered))
}

/// The files of a partition.
#[derive(Debug)]
pub struct Offered {
    files: Vec<TableFile>,
    paths: Vec<PathBuf>,
    /// The one that is read.
    open: Option<(usize, File)>,
}

impl Offered {
    fn open(path: &PathBuf) -> Result<File> {
        match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::moved(format!(
                "file {} is gone; it was vacuumed, or the table was replaced",
                path.display()
            ))),
            file => file.or_error(Kind::Unavailable, format!("open {}", path.display())),
        }
    }
}

impl PartitionFiles for Offered {
    fn files(&self) -> &[TableFile] {
        &self.files
    }

    fn read(&mut self, at: usize, offset: u64, bytes: usize) -> Result<Bytes> {
        let path = self.paths.get(at);
        let path = path.ok_or_else(|| Error::internal("a file that was not offered"))?;
        let file = match &mut self.open {
            Some((open, file)) if *open == at => file,
            open => &mut open.insert((at, Offered::open(path)?)).1,
        };
        let mut read = vec![0; bytes];
        match file.read_exact_at(&mut read, offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                let what = format!("file {} is shorter than the log says", path.display());
                Err(Error::corrupt(what).with_source(error))
            }
            done => done
                .or_error(Kind::Unavailable, path.display())
                .map(|()| read.into()),
        }
    }
}

/// Files that come, since the last checkpoint. A few small ones stay in memory, like rows do; the others are in the stage and not durable.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    whole: Vec<Fresh>,
    /// Bytes of those that stay in memory.
    held: usize,
    coming: Option<Coming>,
}

/// A file of which not all has come.
#[derive(Debug)]
struct Coming {
    name: String,
    content: Content,
    came: u64,
}

#[derive(Debug)]
enum Content {
    Held(Vec<u8>),
    Staged(File),
}

impl Incoming {
    /// Bytes in memory.
    pub(crate) fn held(&self) -> u64 {
        self.held as u64
    }

    /// What has come whole.
    ///
    /// # Errors
    /// `Internal` if the rest of a file is still to come.
    pub(crate) fn take(&mut self) -> Result<Vec<Fresh>> {
        if self.coming.is_some() {
            return Err(Error::internal("the rest of a file is still to come"));
        }
        self.held = 0;
        Ok(std::mem::take(&mut self.whole))
    }

    /// Takes the next bytes of a file; they stay in memory if that holds at most so much then. Waits for the disk.
    ///
    /// # Errors
    /// `Corrupt` and `Schema` if it is not what it is said to be, `Unavailable` if the disk fails.
    pub(crate) fn append(
        &mut self,
        target: &Target,
        file: &TableFile,
        bytes: &[u8],
        held_max: usize,
    ) -> Result<()> {
        let mut coming = match self.coming.take() {
            Some(coming) => coming,
            None => {
                let name = Stage::new_name(target.epoch);
                let size = usize::try_from(file.bytes).unwrap_or(usize::MAX);
                let content = match self.held.saturating_add(size) <= held_max {
                    true => Content::Held(Vec::with_capacity(size)),
                    false => Content::Staged(target.stage.create_file(&name)?),
                };
                Coming {
                    name,
                    content,
                    came: 0,
                }
            }
        };
        match &mut coming.content {
            Content::Held(held) => held.extend_from_slice(bytes),
            Content::Staged(staged) => staged.write_all(bytes).or_error(
                Kind::Unavailable,
                format!("write staged file {}", coming.name),
            )?,
        }
        coming.came += bytes.len() as u64;
        if coming.came < file.bytes {
            self.coming = Some(coming);
            return Ok(());
        }
        let fresh = coming.end(target, file)?;
        self.held += fresh.content.as_ref().map_or(0, Vec::len);
        self.whole.push(fresh);
        Ok(())
    }
}

/// The table that files come to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) stage: Stage,
    pub(crate) epoch: Epoch,
    pub(crate) mapping: Mapping,
    pub(crate) partition_columns: Vec<String>,
    /// The columns of the file that came last: those of a table are alike, and many wait for a commit.
    pub(crate) last: Arc<Mutex<Option<SchemaRef>>>,
}

impl Target {
    /// The schema, as one with what is held already.
    fn known(&self, schema: SchemaRef) -> SchemaRef {
        let mut last = lock(&self.last);
        match &*last {
            Some(known) if *known == schema => Arc::clone(known),
            _ => Arc::clone(last.insert(schema)),
        }
    }
}

impl Coming {
    /// All of it has come.
    fn end(self, target: &Target, file: &TableFile) -> Result<Fresh> {
        let looked = match self.content {
            Content::Held(held) => {
                let held = Bytes::from(held);
                let footer = check_magic(&held).and_then(|()| Footer::read(&held));
                footer.map(|footer| (footer, Some(held.into())))
            }
            Content::Staged(_) => {
                let path = target.stage.path(&self.name);
                let staged = File::open(&path).or_error(Kind::Unavailable, path.display())?;
                let mut head = [0; MAGIC.len()];
                let read = staged.read_exact_at(&mut head, 0);
                read.or_error(Kind::Corrupt, "its first bytes")
                    .and_then(|()| check_magic(&head))
                    .and_then(|()| Footer::read(&staged))
                    .map(|footer| (footer, None))
            }
        };
        let context = || "a file of the source".to_owned();
        let (footer, content) = looked.with_context(context)?;
        if footer.rows != file.rows {
            return Err(Error::corrupt(format!(
                "a file of the source was to have {} rows, and has {}",
                file.rows, footer.rows
            )));
        }
        check_file(&target.mapping, &target.partition_columns, &footer.schema)
            .with_context(context)?;
        Ok(Fresh {
            file: StagedFile {
                name: self.name,
                size: file.bytes,
                rows: file.rows,
                stats: stats(file.rows),
                own: None,
            },
            schema: target.known(footer.schema),
            content,
        })
    }
}

fn check_magic(head: &[u8]) -> Result<()> {
    if head.starts_with(MAGIC) {
        return Ok(());
    }
    Err(Error::corrupt("it is no Parquet file"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::datatypes::{Schema, TimeUnit};
    use strait_common::division::{Division, DivisionKind};

    use super::*;

    fn looks(fields: Vec<Field>, kind: DivisionKind) -> String {
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let by_day = [Division {
            column: "day".to_owned(),
            kind,
        }];
        let divisions = Divisions::of(&by_day, &schema).unwrap();
        shape(&Mapping::of(&schema).unwrap(), &divisions).unwrap()
    }

    #[test]
    fn tables_look_alike_whose_columns_are_stored_alike_in_whatever_order() {
        let day = || Field::new("day", DataType::Date32, true);
        let list = |item: &str, nullable| {
            let item = Field::new(item, DataType::Int64, nullable);
            Field::new("list", DataType::List(Arc::new(item)), true)
        };
        let unit = |unit| Field::new("at", DataType::Timestamp(unit, None), true);
        let value = DivisionKind::Value;
        let one = looks(
            vec![day(), list("item", true), unit(TimeUnit::Microsecond)],
            value,
        );
        let other = looks(
            vec![unit(TimeUnit::Microsecond), list("element", true), day()],
            value,
        );
        assert_eq!(one, other);
        let noted = HashMap::from([("comment".to_owned(), "a".to_owned())]);
        for other in [
            vec![day(), list("item", true)],
            vec![day(), list("item", false), unit(TimeUnit::Microsecond)],
            vec![
                day(),
                list("item", true),
                unit(TimeUnit::Microsecond).with_nullable(false),
            ],
            // Stored as the same integers, and not the same times.
            vec![day(), list("item", true), unit(TimeUnit::Nanosecond)],
            vec![
                day().with_metadata(noted),
                list("item", true),
                unit(TimeUnit::Microsecond),
            ],
        ] {
            assert_ne!(looks(other, value), one);
        }
        let ranges = vec![day(), list("item", true), unit(TimeUnit::Microsecond)];
        assert_ne!(looks(ranges, DivisionKind::Range), one);
    }
}
