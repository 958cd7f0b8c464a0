//! Compressed columns: LZ4 both ways, delta-of-delta of integers one way.
//!
//! A compressed vector has a header of 28 bytes and then blocks, each its length and that many bytes. An LZ4 block holds at most 64 KiB of what the
//! plain vector's elements would be; texts are not cut in two. Delta blocks are written by the vendor's writers only, never by this client.

use strait_common::{Error, Kind, OrError, Result};
use tokio::io::AsyncRead;

use crate::types::ColumnType;
use crate::wire::Incoming;

/// What one block holds when it is unpacked, at most.
pub(crate) const BLOCK_BYTES_MAX: usize = 64 << 10;
/// What the header counts of itself.
const HEADER_COUNTED: usize = 20;
/// Set in the length of a block that is followed by 8 bytes of the server's own.
const MARKED: u32 = 1 << 31;

/// How blocks are packed.
const LZ4: u8 = 1;
const DELTA: u8 = 2;

/// A column as it came, unpacked.
pub(crate) struct Unpacked {
    pub(crate) kind: ColumnType,
    pub(crate) rows: usize,
    /// What stands after the extent of a plain vector.
    pub(crate) elements: Vec<u8>,
}

/// Reads a compressed vector, after its flag.
pub(crate) async fn read<R: AsyncRead + Unpin>(incoming: &mut Incoming<R>) -> Result<Unpacked> {
    let size = incoming.count("bytes of a compressed column").await?;
    incoming.i32().await?;
    let (_version, flags) = (incoming.u8().await?, incoming.u8().await?);
    let (_char, method) = (incoming.u8().await?, incoming.u8().await?);
    let (code, unit) = (incoming.u8().await?, incoming.u8().await?);
    let scale = incoming.i16().await?;
    // Cells of lists, 1 or a scale, depending on who wrote it: nothing needs it.
    incoming.i32().await?;
    let rows = incoming.count("rows").await?;
    let _checksum = incoming.i32().await?;
    if flags & 1 == 0 {
        return Err(Error::refused(
            "a compressed column in the other order of bytes",
        ));
    }
    let kind = ColumnType::from_code(code, i32::from(scale))?;
    let mut left = size
        .checked_sub(HEADER_COUNTED)
        .ok_or_else(|| Error::corrupt(format!("a compressed column of {size} bytes")))?;
    let mut elements = Vec::new();
    let mut block = vec![0; BLOCK_BYTES_MAX];
    let mut packed = Vec::new();
    // Deltas of values that do not suit them take up to 70 bits each.
    let packed_bytes_max = 5 * BLOCK_BYTES_MAX;
    while left > 0 {
        let header = incoming.i32().await?.cast_unsigned();
        let length = (header & !MARKED) as usize;
        let marked = if header & MARKED != 0 { 8 } else { 0 };
        left = left
            .checked_sub(4 + length + marked)
            .ok_or_else(|| Error::corrupt("a block that is longer than its column"))?;
        if length > packed_bytes_max {
            return Err(Error::corrupt(format!(
                "a block of {length} bytes, more than {packed_bytes_max}"
            )));
        }
        packed.clear();
        incoming.pass(&mut packed, length + marked).await?;
        let packed = &packed[..length];
        match method {
            LZ4 => {
                let got = lz4_flex::block::decompress_into(packed, &mut block);
                let got = got.or_error(Kind::Corrupt, "a block of LZ4")?;
                incoming.charge(got as u64)?;
                elements.extend_from_slice(&block[..got]);
            }
            DELTA => {
                let before = elements.len();
                unpack_delta(packed, unit, &mut elements)?;
                incoming.charge((elements.len() - before) as u64)?;
            }
            other => {
                return Err(Error::refused(format!(
                    "a column compressed by method {other}, which this client does not know; set compress=false in the URL"
                )));
            }
        }
    }
    Ok(Unpacked {
        kind,
        rows,
        elements,
    })
}

/// Writes a compressed vector, its flag included: `elements` is what would stand after the extent of a plain one, and `ends` where it may be cut, in
/// order, its own end last. False, and nothing is written, if no cut leaves blocks that are small enough.
pub(crate) fn write(
    kind: ColumnType,
    rows: usize,
    elements: &[u8],
    ends: impl Iterator<Item = usize>,
    out: &mut Vec<u8>,
) -> Result<bool> {
    let begun = out.len();
    out.extend_from_slice(&[crate::decode::COMPRESSED, crate::decode::VECTOR]);
    let size_at = out.len();
    out.extend_from_slice(&0i32.to_le_bytes());
    out.extend_from_slice(&1i32.to_le_bytes());
    let unit = kind.item.width().and_then(|width| u8::try_from(width).ok());
    out.extend_from_slice(&[0, 1, 0xff, LZ4, kind.code(), unit.unwrap_or(0)]);
    let scale = kind.item.scale().unwrap_or(0);
    out.extend_from_slice(&i16::from(scale).to_le_bytes());
    out.extend_from_slice(&1i32.to_le_bytes());
    let rows = i32::try_from(rows).or_error(Kind::Refused, "rows of one request")?;
    out.extend_from_slice(&rows.to_le_bytes());
    out.extend_from_slice(&(-1i32).to_le_bytes());
    let mut from = 0;
    let mut to = 0;
    let mut packed = vec![0; lz4_flex::block::get_maximum_output_size(BLOCK_BYTES_MAX)];
    for end in ends.chain([usize::MAX]) {
        if end != usize::MAX && end - from <= BLOCK_BYTES_MAX {
            to = end;
            continue;
        }
        if to > from {
            let got = lz4_flex::block::compress_into(&elements[from..to], &mut packed);
            let got = got.or_error(Kind::Internal, "packing a block of LZ4")?;
            let length = i32::try_from(got).or_error(Kind::Internal, "a packed block")?;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&packed[..got]);
            from = to;
        }
        if end != usize::MAX {
            if end - from > BLOCK_BYTES_MAX {
                out.truncate(begun);
                return Ok(false);
            }
            to = end;
        }
    }
    let size = out.len() - size_at - 28 + HEADER_COUNTED;
    let size = i32::try_from(size).or_error(Kind::Refused, "bytes of one column")?;
    out[size_at..size_at + 4].copy_from_slice(&size.to_le_bytes());
    Ok(true)
}

/// The bits of 64-bit words, from the top of each.
struct Bits<'a> {
    words: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, bits: usize) -> Result<u64> {
        let mut value = 0u64;
        let mut left = bits;
        while left > 0 {
            let (word, within) = (self.at / 64, self.at % 64);
            let bytes = self.words.get(8 * word..8 * word + 8);
            let bytes: [u8; 8] = bytes
                .and_then(|bytes| bytes.try_into().ok())
                .ok_or_else(|| Error::corrupt("a block of deltas without its end"))?;
            let here = left.min(64 - within);
            let part = (u64::from_le_bytes(bytes) << within) >> (64 - here);
            value = if here == 64 {
                part
            } else {
                value << here | part
            };
            self.at += here;
            left -= here;
        }
        Ok(value)
    }

    /// Whether the end mark is next, which is then taken.
    fn ended(&mut self) -> Result<bool> {
        let at = self.at;
        let is_end = self.take(5).ok() == Some(0b11110) && self.take(64).ok() == Some(u64::MAX);
        if !is_end {
            self.at = at;
        }
        Ok(is_end)
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// How many bits follow a prefix of one to five set bits.
const DELTA_BITS: [usize; 5] = [7, 9, 16, 32, 64];

/// Integers of `unit` bytes: the first value, the first difference, then differences of differences. A null is the least integer.
fn unpack_delta(packed: &[u8], unit: u8, out: &mut Vec<u8>) -> Result<()> {
    let width = usize::from(unit);
    if !matches!(width, 2 | 4 | 8) {
        return Err(Error::corrupt(format!("deltas of values of {unit} bytes")));
    }
    let from = out.len();
    let null = i64::MIN >> (64 - 8 * width);
    let mut push = |value: i64| {
        if out.len() - from >= BLOCK_BYTES_MAX {
            return Err(Error::corrupt(
                "a block of deltas that holds more than 64 KiB",
            ));
        }
        out.extend_from_slice(&value.to_le_bytes()[..width]);
        Ok(())
    };
    let mut bits = Bits {
        words: packed,
        at: 0,
    };
    let (mut value, mut delta) = (0i64, 0i64);
    for first in [true, false] {
        while bits.take(1)? == 0 {
            push(null)?;
        }
        if bits.ended()? {
            return Ok(());
        }
        delta = zigzag(bits.take(8 * width)?);
        value = if first {
            delta
        } else {
            value.wrapping_add(delta)
        };
        push(value)?;
    }
    loop {
        let mut prefix = 0;
        while prefix < 6 && bits.take(1)? == 1 {
            prefix += 1;
        }
        match prefix {
            0 => {}
            6 => {
                push(null)?;
                continue;
            }
            _ => {
                let change = bits.take(DELTA_BITS[prefix - 1])?;
                if change == u64::MAX {
                    return Ok(());
                }
                delta = delta.wrapping_add(zigzag(change + 1));
            }
        }
        value = value.wrapping_add(delta);
        push(value)?;
    }
}
