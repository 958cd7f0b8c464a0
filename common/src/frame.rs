//! The frame: the wire unit. One record batch as an Arrow IPC stream (schema, dictionaries, one batch),
//! compressed, at most `frame_bytes_max` when decompressed.
//!
//! A frame is self-contained, so frames need no order to be decoded. Frames are split exactly: encode, measure, halve
//! when too large. Only a single row may be larger, and then its owner has taken a larger lease for it first.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Kind, OrError, Result};

/// How payloads are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// zstd at this level, 1 to 19.
    Zstd(i32),
}

/// A batch ready for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Rows of the batch.
    pub rows: u64,
    /// Bytes when decompressed.
    pub raw_bytes: u64,
    /// Whether the payload is zstd; plain otherwise.
    pub compressed: bool,
    /// XXH3-64 of the payload: a flipped bit is found before anything looks into it.
    pub checksum: u64,
    /// What travels.
    pub payload: Bytes,
}

impl Frame {
    /// Bytes of a file, in place of rows.
    pub fn of_bytes(payload: Bytes) -> Frame {
        Frame {
            rows: 0,
            raw_bytes: payload.len() as u64,
            compressed: false,
            checksum: xxh3_64(&payload),
            payload,
        }
    }

    /// Those bytes again.
    ///
    /// # Errors
    /// `Corrupt` if they are not what the frame says.
    pub fn into_bytes(self) -> Result<Bytes> {
        self.check()?;
        if self.compressed || self.payload.len() as u64 != self.raw_bytes {
            return Err(Error::corrupt("a frame is no plain piece of a file"));
        }
        Ok(self.payload)
    }

    /// Whether a bit has flipped on the way.
    fn check(&self) -> Result<()> {
        if xxh3_64(&self.payload) == self.checksum {
            return Ok(());
        }
        Err(Error::corrupt(
            "the bytes of a frame do not have its checksum",
        ))
    }
}

/// What these rows take in memory, in bytes; what they share with others of their buffers is not their own. A type whose slices cannot be measured
/// counts whole, which is too much rather than too little.
pub fn slice_bytes(records: &RecordBatch) -> u64 {
    let bytes = records.columns().iter().map(|column| {
        let own = column.to_data().get_slice_memory_size();
        own.unwrap_or_else(|_| column.get_array_memory_size()) as u64
    });
    bytes.sum()
}

/// Turns batches into frames. Keeps its buffers and its zstd context, so one per stream.
pub struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    raw: Vec<u8>,
}

impl Encoder {
    /// An encoder that compresses like this.
    ///
    /// # Errors
    /// `Config` if zstd does not know the level.
    pub fn new(compression: Compression) -> Result<Encoder> {
        let mut encoder = Encoder {
            zstd: None,
            raw: Vec::new(),
        };
        encoder.set(compression)?;
        Ok(encoder)
    }

    /// Compresses like this from the next frame on. Every frame says for itself whether it is compressed, so a stream may change at any of them.
    ///
    /// # Errors
    /// `Config` if zstd does not know the level.
    pub fn set(&mut self, compression: Compression) -> Result<()> {
        self.zstd = match (compression, self.zstd.take()) {
            (Compression::None, _) => None,
            (Compression::Zstd(level), kept) => {
                let context = || format!("zstd level {level}");
                let mut zstd = match kept {
                    Some(zstd) => zstd,
                    None => zstd::bulk::Compressor::new(level).or_error(Kind::Config, context())?,
                };
                zstd.set_compression_level(level)
                    .or_error(Kind::Config, context())?;
                Some(zstd)
            }
        };
        Ok(())
    }

    /// The frames of a batch, in order, each of at most `frame_bytes_max` raw bytes unless it is a single row. No frame for no rows.
    ///
    /// # Errors
    /// `Internal` if Arrow cannot write the batch.
    pub fn encode(&mut self, batch: &RecordBatch, frame_bytes_max: u64) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        // The parts still to do, the next one last.
        let mut parts = vec![batch.clone()];
        while let Some(part) = parts.pop() {
            if part.num_rows() == 0 {
                continue;
            }
            self.write_raw(&part)?;
            if self.raw.len() as u64 > frame_bytes_max && part.num_rows() > 1 {
                let half = part.num_rows() / 2;
                parts.push(compacted(&part.slice(half, part.num_rows() - half))?);
                parts.push(compacted(&part.slice(0, half))?);
                continue;
            }
            frames.push(self.pack(part.num_rows() as u64)?);
        }
        Ok(frames)
    }

    fn write_raw(&mut self, batch: &RecordBatch) -> Result<()> {
        self.raw.clear();
        let context = "write an Arrow IPC frame";
        let mut writer = StreamWriter::try_new(&mut self.raw, &batch.schema())
            .or_error(Kind::Internal, context)?;
        writer.write(batch).or_error(Kind::Internal, context)?;
        writer.finish().or_error(Kind::Internal, context)
    }

    fn pack(&mut self, rows: u64) -> Result<Frame> {
        let raw_bytes = self.raw.len() as u64;
        let (compressed, payload) = match &mut self.zstd {
            Some(zstd) => (
                true,
                zstd.compress(&self.raw)
                    .or_error(Kind::Internal, "compress a frame")?,
            ),
            // A copy of its exact size: the buffer has grown by doubling, and a frame in flight must not hold twice what its lease pays for.
            None => (false, self.raw.as_slice().to_vec()),
        };
        let checksum = xxh3_64(&payload);
        Ok(Frame {
            rows,
            raw_bytes,
            compressed,
            checksum,
            payload: payload.into(),
        })
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("zstd", &self.zstd.is_some())
            .finish_non_exhaustive()
    }
}

/// A slice that no longer carries what only its siblings need: IPC writes whole dictionaries and whole view buffers,
/// so without this a half would be as large as the whole.
fn compacted(batch: &RecordBatch) -> Result<RecordBatch> {
    let compact = |column: &ArrayRef| -> Result<ArrayRef> {
        Ok(match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            dictionary @ DataType::Dictionary(_, values) => arrow::compute::cast(column, values)
                .and_then(|plain| arrow::compute::cast(&plain, dictionary))
                .or_error(Kind::Internal, "compact a dictionary")?,
            _ => Arc::clone(column),
        })
    };
    let columns = batch
        .columns()
        .iter()
        .map(compact)
        .collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(batch.schema(), columns).or_error(Kind::Internal, "compact a batch")
}

/// Turns frames back into batches. Keeps its zstd context, so one per stream.
pub struct Decoder {
    schema: SchemaRef,
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decoder {
    /// A decoder for batches of exactly this schema.
    ///
    /// # Errors
    /// `Internal` if zstd has no memory for a context.
    pub fn new(schema: SchemaRef) -> Result<Decoder> {
        let zstd =
            zstd::bulk::Decompressor::new().or_error(Kind::Internal, "make a zstd context")?;
        Ok(Decoder { schema, zstd })
    }

    /// The batch of a frame. Decompresses into a buffer of the declared size and never beyond it: the caller has
    /// checked that size against its lease.
    ///
    /// # Errors
    /// `Corrupt` if anything about the payload is not what the frame says.
    pub fn decode(&mut self, frame: Frame) -> Result<RecordBatch> {
        frame.check()?;
        let raw_bytes = usize::try_from(frame.raw_bytes).or_error(Kind::Corrupt, "frame size")?;
        let raw = if frame.compressed {
            let mut raw = Vec::with_capacity(raw_bytes);
            self.zstd
                .decompress_to_buffer(&frame.payload[..], &mut raw)
                .or_error(Kind::Corrupt, "decompress a frame")?;
            drop(frame.payload);
            Buffer::from_vec(raw)
        } else {
            Buffer::from(frame.payload)
        };
        if raw.len() != raw_bytes {
            return Err(Error::corrupt(format!(
                "a frame of {} bytes was declared as {raw_bytes}",
                raw.len()
            )));
        }
        // Arrow's reader panics on some flatbuffers that no writer of ours makes; whoever made this one gets an error.
        let batch = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.decode_ipc(raw)))
            .unwrap_or_else(|_| Err(Error::corrupt("a frame is no Arrow IPC stream")))?;
        if batch.num_rows() as u64 != frame.rows {
            return Err(Error::corrupt(format!(
                "a frame of {} rows was declared as {}",
                batch.num_rows(),
                frame.rows
            )));
        }
        Ok(batch)
    }

    fn decode_ipc(&self, mut raw: Buffer) -> Result<RecordBatch> {
        let mut decoder = StreamDecoder::new();
        let context = "read an Arrow IPC frame";
        let batch = decoder.decode(&mut raw).or_error(Kind::Corrupt, context)?;
        let batch = batch.ok_or_else(|| Error::corrupt("a frame holds no record batch"))?;
        if decoder
            .decode(&mut raw)
            .or_error(Kind::Corrupt, context)?
            .is_some()
            || !raw.is_empty()
        {
            return Err(Error::corrupt("a frame holds more than one record batch"));
        }
        decoder.finish().or_error(Kind::Corrupt, context)?;
        if batch.schema() != self.schema {
            return Err(Error::corrupt("a frame has other columns than its stream"));
        }
        Ok(batch)
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// A schema as bytes for the wire: an Arrow IPC stream without batches.
///
/// # Errors
/// `Internal` if Arrow cannot write it.
pub fn schema_to_bytes(schema: &SchemaRef) -> Result<Bytes> {
    let mut bytes = Vec::new();
    StreamWriter::try_new(&mut bytes, schema)
        .and_then(|mut writer| writer.finish())
        .or_error(Kind::Internal, "write a schema")?;
    Ok(bytes.into())
}

/// The schema written by [`schema_to_bytes`].
///
/// # Errors
/// `Corrupt` if the bytes are no schema.
pub fn schema_from_bytes(bytes: &[u8]) -> Result<SchemaRef> {
    // Arrow's reader panics on some of them, as with frames.
    std::panic::catch_unwind(|| decode_schema(bytes))
        .unwrap_or_else(|_| Err(Error::corrupt("the schema is no Arrow IPC stream")))
}

fn decode_schema(bytes: &[u8]) -> Result<SchemaRef> {
    let mut buffer = Buffer::from(bytes);
    let mut decoder = StreamDecoder::new();
    while !buffer.is_empty() {
        if decoder
            .decode(&mut buffer)
            .or_error(Kind::Corrupt, "read a schema")?
            .is_some()
        {
            return Err(Error::corrupt("a schema comes with rows"));
        }
    }
    decoder
        .schema()
        .ok_or_else(|| Error::corrupt("there is no schema in the message"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int64Array, StringArray, StringViewArray};
    use arrow::datatypes::{Field, Int32Type, Schema};

    use super::*;

    fn batch(rows: usize, width: usize) -> RecordBatch {
        let text: Vec<String> = (0..rows)
            .map(|i| format!("{i}{}", "x".repeat(width)))
            .collect();
        let dictionary: DictionaryArray<Int32Type> = text.iter().map(String::as_str).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from_iter_values(0..rows as i64))),
            ("s", Arc::new(StringArray::from(text.clone()))),
            ("v", Arc::new(StringViewArray::from_iter_values(&text))),
            ("d", Arc::new(dictionary)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn round_trip(
        batch: &RecordBatch,
        compression: Compression,
        max: u64,
    ) -> (Vec<Frame>, RecordBatch) {
        let frames = Encoder::new(compression)
            .unwrap()
            .encode(batch, max)
            .unwrap();
        let mut decoder = Decoder::new(batch.schema()).unwrap();
        let batches: Vec<_> = frames
            .iter()
            .map(|frame| decoder.decode(frame.clone()).unwrap())
            .collect();
        let joined = arrow::compute::concat_batches(&batch.schema(), &batches).unwrap();
        (frames, joined)
    }

    #[test]
    fn frames_join_to_the_batch_they_were_cut_from() {
        let batch = batch(1000, 40).slice(3, 900);
        for compression in [Compression::None, Compression::Zstd(1)] {
            let (frames, joined) = round_trip(&batch, compression, 16 * 1024);
            assert!(frames.len() > 5);
            assert!(
                frames.iter().all(|frame| frame.raw_bytes <= 16 * 1024),
                "{:?}",
                frames.iter().map(|f| f.raw_bytes).collect::<Vec<_>>()
            );
            assert_eq!(
                crate::digest::digest(&joined).unwrap(),
                crate::digest::digest(&batch).unwrap()
            );
            assert_eq!(joined.num_rows(), 900);
        }
    }

    #[test]
    fn compression_changes_from_one_frame_to_the_next() {
        let batch = batch(1000, 40);
        let mut encoder = Encoder::new(Compression::None).unwrap();
        let mut decoder = Decoder::new(batch.schema()).unwrap();
        let levels = [
            Compression::None,
            Compression::Zstd(1),
            Compression::Zstd(19),
            Compression::Zstd(1),
            Compression::None,
        ];
        let sizes: Vec<usize> = levels
            .into_iter()
            .map(|level| {
                encoder.set(level).unwrap();
                let frame = encoder.encode(&batch, 1 << 20).unwrap().remove(0);
                assert_eq!(frame.compressed, level != Compression::None);
                let bytes = frame.payload.len();
                assert_eq!(decoder.decode(frame).unwrap(), batch, "{level:?}");
                bytes
            })
            .collect();
        assert!(sizes[0] > sizes[1] && sizes[1] > sizes[2], "{sizes:?}");
        assert_eq!((sizes[1], sizes[0]), (sizes[3], sizes[4]), "{sizes:?}");
    }

    #[test]
    fn a_frame_in_flight_holds_no_more_memory_than_it_is_large() {
        let batch = batch(2000, 40);
        for compression in [Compression::None, Compression::Zstd(1)] {
            let mut encoder = Encoder::new(compression).unwrap();
            let frame = encoder.encode(&batch, 1 << 20).unwrap().remove(0);
            let held = frame.payload.try_into_mut().unwrap().capacity() as u64;
            // What does not compress grows by a little.
            let most = frame.raw_bytes + frame.raw_bytes / 64 + 1024;
            assert!(held <= most, "{compression:?}: {held} of {most}");
        }
    }

    #[test]
    fn only_a_single_row_may_be_larger() {
        let (frames, joined) = round_trip(&batch(3, 100_000), Compression::Zstd(1), 16 * 1024);
        assert_eq!(
            frames.iter().map(|frame| frame.rows).collect::<Vec<_>>(),
            [1, 1, 1]
        );
        assert_eq!(joined.num_rows(), 3);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let batch = batch(50, 10);
        for compression in [Compression::None, Compression::Zstd(1)] {
            let frame = Encoder::new(compression)
                .unwrap()
                .encode(&batch, 1 << 20)
                .unwrap()
                .remove(0);
            let expected = crate::digest::digest(&batch).unwrap();
            let mut decoder = Decoder::new(batch.schema()).unwrap();
            let mut check = |payload: Vec<u8>, what: &str| {
                let damaged = Frame {
                    payload: payload.into(),
                    ..frame.clone()
                };
                let error = decoder.decode(damaged.clone()).unwrap_err();
                assert_eq!(error.kind(), Kind::Corrupt, "{what}");
                // The same with a checksum that fits, as a peer with a bug or a grudge would send it.
                let checksum = xxh3_64(&damaged.payload);
                let forged = Frame {
                    checksum,
                    ..damaged
                };
                if let Ok(decoded) = decoder.decode(forged) {
                    // Bits of padding, and values, which the chunk's digest finds.
                    let found = crate::digest::digest(&decoded).unwrap() != expected;
                    assert!(found || decoded == batch, "{what}");
                }
            };
            for bit in (0..frame.payload.len() * 8).step_by(7) {
                let mut payload = frame.payload.to_vec();
                payload[bit / 8] ^= 1 << (bit % 8);
                check(payload, &format!("bit {bit}"));
            }
            for cut in 0..frame.payload.len() {
                check(frame.payload[..cut].to_vec(), &format!("cut at {cut}"));
            }
        }
    }

    #[test]
    fn a_frame_cannot_grow_beyond_its_declared_size() {
        let batch = batch(1000, 100);
        let frame = Encoder::new(Compression::Zstd(1))
            .unwrap()
            .encode(&batch, 1 << 20)
            .unwrap()
            .remove(0);
        let small = Frame {
            raw_bytes: frame.raw_bytes / 2,
            ..frame
        };
        let error = Decoder::new(batch.schema())
            .unwrap()
            .decode(small)
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
    }

    #[test]
    fn a_schema_survives_the_wire_with_its_metadata() {
        let field = Field::new("a", DataType::Int8, false)
            .with_metadata([("k".to_owned(), "v".to_owned())].into());
        let schema: SchemaRef = Arc::new(Schema::new(vec![field]));
        assert_eq!(
            schema_from_bytes(&schema_to_bytes(&schema).unwrap()).unwrap(),
            schema
        );
        assert!(schema_from_bytes(b"").is_err());
        assert!(schema_from_bytes(b"nonsense").is_err());
    }
}
