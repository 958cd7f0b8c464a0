//! Reads the files of a partition in bounded memory, from any place.
//!
//! The synchronous page reader holds one page of each column; a batch takes so many rows that it stays within its bound, judged by the pages that
//! it comes from and not by the mean over a row group.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::SchemaRef;
use bytes::{BufMut, BytesMut};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::{PageIndexPolicy, RowGroupMetaData};
use strait_common::budget::Lease;
use strait_common::cpu::CpuPool;
use strait_common::engine::{Batch, Cursor, ReadLimits, Stream};
use strait_common::key::PartitionKey;
use strait_common::{Context, Error, Kind, OrError, Result};

use crate::listing::DataFile;
use crate::load_error::data_kind;
use crate::partition_values::column_of;
use crate::types::{Mapping, cast};

/// Pages and decoders of one column beside the batch, in bytes, as [`read_bytes`] counts them.
const COLUMN_BYTES: u64 = 256 << 10;
/// What a reader holds at least.
const BASE_BYTES: u64 = 4 << 20;
/// What it is counted with at most: wider tables read few columns at a time from small pages.
const MOST_BYTES: u64 = 64 << 20;
/// Rows of a batch, however narrow.
const ROWS_MAX: usize = 64 * 1024;
/// Rows of a batch where a file does not say how wide its rows are.
const ROWS_UNKNOWN: usize = 512;

/// What one open read of a table with so many columns holds beside the batch that it returns.
pub fn read_bytes(columns: usize) -> u64 {
    (BASE_BYTES + columns as u64 * COLUMN_BYTES).min(MOST_BYTES)
}

/// A place: so many files done, so many row groups of the next one, so many rows of the next group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    file: u32,
    group: u32,
    row: u64,
}

impl Place {
    fn to_cursor(self) -> Cursor {
        let mut bytes = BytesMut::with_capacity(16);
        bytes.put_u32(self.file);
        bytes.put_u32(self.group);
        bytes.put_u64(self.row);
        Cursor(bytes.freeze())
    }

    fn from_cursor(cursor: &Cursor) -> Result<Place> {
        if cursor.is_start() {
            return Ok(Place::default());
        }
        let wrong = || Error::corrupt("a cursor that is not of the lake");
        let bytes: [u8; 16] = cursor.0.as_ref().try_into().map_err(|_| wrong())?;
        let (file, rest) = bytes.split_at(4);
        let (group, row) = rest.split_at(4);
        Ok(Place {
            file: u32::from_be_bytes(file.try_into().map_err(|_| wrong())?),
            group: u32::from_be_bytes(group.try_into().map_err(|_| wrong())?),
            row: u64::from_be_bytes(row.try_into().map_err(|_| wrong())?),
        })
    }
}

/// What is read.
#[derive(Debug)]
pub struct Plan {
    /// The table's directory.
    pub directory: PathBuf,
    /// The files of the partition, in order of path.
    pub files: Vec<DataFile>,
    /// Its key.
    pub key: PartitionKey,
    /// The columns that divide the table: in the key, not in the files.
    pub partition_columns: Vec<String>,
    /// The columns wanted, in their order.
    pub mapping: Mapping,
    /// Bounds.
    pub limits: ReadLimits,
}

/// The batches after `after`.
///
/// # Errors
/// `Corrupt` if the cursor is no place in these files.
pub fn stream(plan: Plan, after: &Cursor, cpu: CpuPool) -> Result<Stream<Batch>> {
    let place = Place::from_cursor(after)?;
    if place.file as usize > plan.files.len() {
        return Err(Error::corrupt(format!(
            "a cursor in file {} of {}",
            place.file,
            plan.files.len()
        )));
    }
    let reader = Reader {
        plan: Arc::new(plan),
        place,
        open: None,
        lease: None,
    };
    Ok(Box::pin(futures::stream::try_unfold(
        (reader, cpu),
        async move |(reader, cpu)| {
            // A page that does not fit what the stream holds is paid for before it is decoded, and asking for that may wait.
            let first = move || {
                let (mut reader, needed) = reader.prepare()?;
                reader.lease = None;
                let batch = if needed == 0 {
                    Some(reader.next()?)
                } else {
                    None
                };
                Ok((reader, needed, batch))
            };
            let (mut reader, needed, batch) = cpu.run(first).await?;
            let (batch, reader) = match batch {
                Some(batch) => (batch, reader),
                None => {
                    let (name, column) = (reader.file_name(), reader.widest().to_owned());
                    let lease = reader.plan.limits.budget.lease_alone(needed).await;
                    reader.lease = Some(lease.with_context(|| {
                        format!("file {name}, column {column}: its next pages")
                    })?);
                    cpu.run(move || Ok((reader.next()?, reader))).await?
                }
            };
            Ok(batch.map(|batch| (batch, (reader, cpu))))
        },
    )))
}

/// One row group under way.
struct Group {
    metadata: ArrowReaderMetadata,
    file: File,
    groups: u32,
    rows: u64,
    /// The reader of the rows from `place` on, for batches of `step` rows.
    reader: Option<(ParquetRecordBatchReader, usize)>,
    /// What stands at each wanted column, where the file has it.
    present: Vec<Option<usize>>,
    pages: Pages,
}

struct Reader {
    plan: Arc<Plan>,
    place: Place,
    open: Option<Group>,
    lease: Option<Lease>,
}

impl Reader {
    fn file_name(&self) -> String {
        self.plan
            .files
            .get(self.place.file as usize)
            .map(|file| file.path.clone())
            .unwrap_or_default()
    }

    /// The column with the largest page among the next ones.
    fn widest(&self) -> &str {
        let group = self.open.as_ref();
        group.map_or("", |group| group.pages.widest(self.place.row))
    }

    /// Opens what comes next, and says how many bytes beyond the stream's lease its next batch needs.
    fn prepare(mut self) -> Result<(Reader, u64)> {
        while self.open.is_none() {
            let Some(file) = self.plan.files.get(self.place.file as usize) else {
                return Ok((self, 0));
            };
            let group = self
                .open_group(file)
                .with_context(|| format!("file {}", file.path))?;
            if self.place.group >= group.groups {
                self.place = Place {
                    file: self.place.file + 1,
                    ..Place::default()
                };
            } else if self.place.row >= group.rows {
                self.place = Place {
                    group: self.place.group + 1,
                    row: 0,
                    ..self.place
                };
            } else {
                self.open = Some(group);
            }
        }
        let Some(group) = &self.open else {
            return Ok((self, 0));
        };
        let (_, page_bytes) = group
            .pages
            .step(self.place.row, self.plan.limits.batch_bytes);
        let held = read_bytes(group.pages.columns());
        let needed = if page_bytes > held { page_bytes } else { 0 };
        Ok((self, needed))
    }

    fn open_group(&self, file: &DataFile) -> Result<Group> {
        let path = self.plan.directory.join(&file.path);
        let file = open_file(&path)?;
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&file, options)
            .map_err(|error| Error::new(data_kind(&error), "read its footer").with_source(error))?;
        let groups = u32::try_from(metadata.metadata().num_row_groups())
            .or_error(Kind::Corrupt, "row groups")?;
        let wanted = self.plan.mapping.stored().fields();
        let in_file = |name: &str| metadata.schema().index_of(name).ok();
        let present: Vec<Option<usize>> = wanted
            .iter()
            .map(|field| {
                if self.plan.partition_columns.contains(field.name()) {
                    None
                } else {
                    in_file(field.name())
                }
            })
            .collect();
        let (rows, pages) = match metadata
            .metadata()
            .row_groups()
            .get(self.place.group as usize)
        {
            Some(group) => {
                let rows = u64::try_from(group.num_rows()).or_error(Kind::Corrupt, "rows")?;
                (
                    rows,
                    Pages::of(&metadata, group, self.place.group as usize, &present),
                )
            }
            None => (0, Pages::default()),
        };
        Ok(Group {
            metadata,
            file,
            groups,
            rows,
            reader: None,
            present,
            pages,
        })
    }

    fn next(&mut self) -> Result<Option<Batch>> {
        loop {
            let Some(group) = &mut self.open else {
                return Ok(None);
            };
            let (step, _) = group
                .pages
                .step(self.place.row, self.plan.limits.batch_bytes);
            let name = || {
                format!(
                    "file {}",
                    self.plan
                        .files
                        .get(self.place.file as usize)
                        .map(|file| file.path.as_str())
                        .unwrap_or_default()
                )
            };
            // Readers have one step: another is made when the rows to come are of another width.
            if group.reader.as_ref().is_none_or(|(_, made)| *made != step) {
                let reader = group
                    .reader(self.place.group as usize, self.place.row, step)
                    .with_context(name)?;
                group.reader = Some((reader, step));
            }
            let read = match &mut group.reader {
                Some((reader, _)) => reader
                    .next()
                    .transpose()
                    .or_error(Kind::Corrupt, "decode")
                    .with_context(name)?,
                None => None,
            };
            let Some(read) = read else {
                return Err(Error::corrupt(format!(
                    "{}: row group {} ends at row {} of {}",
                    name(),
                    self.place.group,
                    self.place.row,
                    group.rows
                )));
            };
            if read.num_rows() == 0 {
                continue;
            }
            self.place.row += read.num_rows() as u64;
            let present = group.present.clone();
            let rows = group.rows;
            let records = self.columns(&read, &present).with_context(name)?;
            if self.place.row >= rows {
                self.place = Place {
                    group: self.place.group + 1,
                    row: 0,
                    ..self.place
                };
                self.open = None;
            }
            return Ok(Some(Batch {
                records,
                end: self.place.to_cursor(),
            }));
        }
    }

    /// The wanted columns: from the file, from the key, or null where the file is older than the column.
    fn columns(&self, read: &RecordBatch, present: &[Option<usize>]) -> Result<RecordBatch> {
        let mapping = &self.plan.mapping;
        let rows = read.num_rows();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(present.len());
        for (field, at) in mapping.original().fields().iter().zip(present) {
            let context = || format!("column {}", field.name());
            let column = if self.plan.partition_columns.contains(field.name()) {
                let cell = self
                    .plan
                    .key
                    .cell(field.name())
                    .ok_or_else(|| Error::internal("a key without its column"))?;
                column_of(cell, field.data_type(), rows).with_context(context)?
            } else if at.is_some() {
                let column = read
                    .column_by_name(field.name())
                    .ok_or_else(|| Error::internal("a projected column is missing"))?;
                let stored = mapping
                    .stored()
                    .field_with_name(field.name())
                    .or_error(Kind::Internal, "column")?;
                // A foreign writer may use another layout of the stored type.
                let stored = cast(column, stored.data_type()).with_context(context)?;
                cast(&stored, field.data_type()).with_context(context)?
            } else if field.is_nullable() {
                new_null_array(field.data_type(), rows)
            } else {
                return Err(Error::corrupt(format!(
                    "column {} is missing and must not be null",
                    field.name()
                )));
            };
            columns.push(column);
        }
        let schema: SchemaRef = Arc::clone(mapping.original());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(schema, columns, &options).or_error(Kind::Corrupt, "rows")
    }
}

impl Group {
    fn reader(&self, group: usize, row: u64, step: usize) -> Result<ParquetRecordBatchReader> {
        let file = self
            .file
            .try_clone()
            .or_error(Kind::Unavailable, "open it again")?;
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let roots = self.present.iter().flatten().copied();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let offset = usize::try_from(row).or_error(Kind::Corrupt, "row")?;
        let builder = builder
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_offset(offset)
            .with_batch_size(step);
        builder
            .build()
            .map_err(|error| Error::new(data_kind(&error), "open a reader").with_source(error))
    }
}

fn open_file(path: &Path) -> Result<File> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::moved(
            "the file is gone; it was vacuumed, or the table was replaced",
        ))
        .context(path.display()),
        file => file.or_error(Kind::Unavailable, format!("open {}", path.display())),
    }
}

/// How many bytes the rows of a row group take when decoded, as exactly as the file says.
#[derive(Debug, Default)]
struct Pages {
    /// By name, those of variable width.
    columns: Vec<(String, Vec<Page>)>,
    /// Bytes of a row in columns of fixed width.
    fixed: u64,
}

/// A run of rows of one column of variable width.
#[derive(Clone, Copy, Debug)]
struct Page {
    first: u64,
    rows: u64,
    /// Decoded values; unknown where the file does not say.
    bytes: Option<u64>,
}

impl Pages {
    fn of(
        metadata: &ArrowReaderMetadata,
        group: &RowGroupMetaData,
        at: usize,
        present: &[Option<usize>],
    ) -> Pages {
        let rows = u64::try_from(group.num_rows()).unwrap_or(0);
        let index = metadata
            .metadata()
            .offset_index()
            .and_then(|index| index.get(at));
        let mut pages = Pages::default();
        for (leaf, column) in group.columns().iter().enumerate() {
            let root = metadata.parquet_schema().get_column_root_idx(leaf);
            if !present.contains(&Some(root)) {
                continue;
            }
            let repeated = metadata.parquet_schema().column(leaf).max_rep_level() > 0;
            if column.column_type() != PhysicalType::BYTE_ARRAY && !repeated {
                pages.fixed += 16;
                continue;
            }
            let whole = u64::try_from(column.uncompressed_size()).unwrap_or(0);
            let index = index.and_then(|index| index.get(leaf));
            let found = match index {
                Some(index) if !index.page_locations().is_empty() => {
                    let locations = index.page_locations();
                    let exact = index.unencoded_byte_array_data_bytes();
                    let page = |(at, location): (
                        usize,
                        &parquet::file::page_index::offset_index::PageLocation,
                    )| {
                        let first = u64::try_from(location.first_row_index).unwrap_or(0);
                        let next = locations.get(at + 1).map_or(rows, |next| {
                            u64::try_from(next.first_row_index).unwrap_or(rows)
                        });
                        let bytes = exact
                            .and_then(|bytes| bytes.get(at))
                            .and_then(|bytes| u64::try_from(*bytes).ok());
                        Page {
                            first,
                            rows: next.saturating_sub(first),
                            bytes,
                        }
                    };
                    locations.iter().enumerate().map(page).collect()
                }
                // One page as far as is known. Without a dictionary its values cannot be larger than the chunk.
                _ if column.dictionary_page_offset().is_none() => vec![Page {
                    first: 0,
                    rows,
                    bytes: Some(whole),
                }],
                _ => vec![Page {
                    first: 0,
                    rows,
                    bytes: None,
                }],
            };
            pages.columns.push((column.column_path().string(), found));
        }
        pages
    }

    fn columns(&self) -> usize {
        self.columns.len() + usize::try_from(self.fixed / 16).unwrap_or(0)
    }

    fn widest(&self, row: u64) -> &str {
        let largest = |(_, pages): &&(String, Vec<Page>)| {
            near(pages, row).filter_map(|page| page.bytes).max()
        };
        self.columns
            .iter()
            .max_by_key(largest)
            .map_or("", |(name, _)| name)
    }

    /// How many rows from `row` on make a batch of at most `batch_bytes`, and the bytes of the pages they come from.
    fn step(&self, row: u64, batch_bytes: u64) -> (usize, u64) {
        let mut per_row = self.fixed.max(1);
        let mut page_bytes = 0;
        let mut known = true;
        for (_, pages) in &self.columns {
            let near = near(pages, row);
            let mut widest = 0;
            let mut bytes = 0;
            for page in near {
                match page.bytes {
                    Some(page_bytes) => {
                        widest = widest.max(page_bytes.div_ceil(page.rows.max(1)));
                        bytes = bytes.max(page_bytes);
                    }
                    None => known = false,
                }
            }
            per_row += widest + 8;
            page_bytes += bytes;
        }
        let fits = usize::try_from(batch_bytes / per_row).unwrap_or(usize::MAX);
        let most = if known { ROWS_MAX } else { ROWS_UNKNOWN };
        // Powers of two, so that readers are not made anew for every small change of width.
        let step = fits.clamp(1, most);
        (1 << step.ilog2(), page_bytes)
    }
}

/// The page that has this row, and the next one: a batch that reaches into wider rows is short already.
fn near(pages: &[Page], row: u64) -> impl Iterator<Item = &Page> {
    let at = pages
        .partition_point(|page| page.first <= row)
        .saturating_sub(1);
    pages.iter().skip(at).take(2)
}
