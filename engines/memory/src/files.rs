//! Files of an engine that has none: each of a partition's batches counts as one, written as a frame.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::{Bytes, BytesMut};
use strait_common::engine::{PartitionFiles, Table, TableFile};
use strait_common::frame::{Compression, Decoder, Encoder, Frame};
use strait_common::{Error, Result};

/// How the files of a table look.
pub(crate) fn shape(table: &Table) -> String {
    format!("{:?} {:?}", table.schema.fields(), table.divisions)
}

/// The files of a partition.
#[derive(Debug)]
pub(crate) struct Offered {
    files: Vec<TableFile>,
    contents: Vec<Bytes>,
}

impl Offered {
    /// None of a partition without rows.
    pub(crate) fn new(batches: &[RecordBatch]) -> Result<Option<Offered>> {
        let mut encoder = Encoder::new(Compression::None)?;
        let mut offered = Offered {
            files: Vec::new(),
            contents: Vec::new(),
        };
        for batch in batches {
            for frame in encoder.encode(batch, u64::MAX)? {
                offered.files.push(TableFile {
                    rows: frame.rows,
                    bytes: frame.raw_bytes,
                });
                offered.contents.push(frame.payload);
            }
        }
        Ok((!offered.files.is_empty()).then_some(offered))
    }
}

impl PartitionFiles for Offered {
    fn files(&self) -> &[TableFile] {
        &self.files
    }

    fn read(&mut self, file: usize, offset: u64, bytes: usize) -> Result<Bytes> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let content = self.contents.get(file);
        let content = content.filter(|content| from.saturating_add(bytes) <= content.len());
        let content = content.ok_or_else(|| Error::corrupt("a file is shorter than it was"))?;
        Ok(content.slice(from..from + bytes))
    }
}

/// A file that comes: its rows, when all of it has.
#[derive(Debug, Default)]
pub(crate) struct Coming(BytesMut);

impl Coming {
    pub(crate) fn append(
        &mut self,
        schema: &SchemaRef,
        file: &TableFile,
        bytes: &[u8],
    ) -> Result<Option<RecordBatch>> {
        self.0.extend_from_slice(bytes);
        if (self.0.len() as u64) < file.bytes {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.0).freeze();
        let frame = Frame {
            rows: file.rows,
            ..Frame::of_bytes(whole)
        };
        let rows = Decoder::new(SchemaRef::clone(schema))?.decode(frame);
        rows.map(Some)
            .map_err(|error| error.context("a file of the source"))
    }
}
