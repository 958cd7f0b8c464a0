//! Frames that nobody of ours encoded: whatever the bytes, decoding ends with the rows that were sent or with an error, and what it hands out can be
//! read to its last value.

#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
    StringViewArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use strait_common::Kind;
use strait_common::digest::digest;
use strait_common::frame::{Compression, Decoder, Encoder, Frame};

const CASES: u32 = 6000;

fn batch() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<arrow::datatypes::Int64Type, _, _>([
        Some(vec![Some(1), None, Some(3)]),
        None,
        Some(vec![]),
        Some(vec![Some(4)]),
    ]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("number", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        (
            "price",
            Arc::new(Float64Array::from(vec![
                Some(1.5),
                None,
                Some(f64::NAN),
                None,
            ])),
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![
                Some("a"),
                Some(""),
                None,
                Some("東京"),
            ])),
        ),
        (
            "view",
            Arc::new(StringViewArray::from(vec![
                Some("a text that is longer than a view"),
                None,
                Some("short"),
                Some("another text that is longer than a view"),
            ])),
        ),
        (
            "symbol",
            Arc::new(
                ["IBM", "A", "IBM", "A"]
                    .into_iter()
                    .collect::<DictionaryArray<Int32Type>>(),
            ),
        ),
        ("list", Arc::new(list)),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, DataType::clone(column.data_type()), true))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// What happens to the payload.
#[derive(Clone, Debug)]
enum Harm {
    Set(usize, u8),
    Flip(usize, u8),
    Cut(usize),
    Repeat(usize, usize),
    Zero(usize, usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Harm::Set(at, byte)),
        4 => (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        1 => any::<usize>().prop_map(Harm::Cut),
        1 => (any::<usize>(), 1..64usize).prop_map(|(at, count)| Harm::Repeat(at, count)),
        1 => (any::<usize>(), 1..16usize).prop_map(|(at, count)| Harm::Zero(at, count)),
    ]
}

fn harmed(payload: &[u8], harms: &[Harm]) -> Vec<u8> {
    let mut bytes = payload.to_vec();
    for harm in harms {
        let at = |at: usize| at % bytes.len().max(1);
        match *harm {
            _ if bytes.is_empty() => {}
            Harm::Set(place, byte) => {
                let place = at(place);
                bytes[place] = byte;
            }
            Harm::Flip(place, bit) => {
                let place = at(place);
                bytes[place] ^= 1 << bit;
            }
            Harm::Cut(place) => bytes.truncate(at(place)),
            Harm::Repeat(place, count) => {
                let place = at(place);
                let end = bytes.len().min(place + count);
                let piece = bytes[place..end].to_vec();
                bytes.splice(place..place, piece);
            }
            Harm::Zero(place, count) => {
                let place = at(place);
                let end = bytes.len().min(place + count);
                bytes[place..end].fill(0);
            }
        }
    }
    bytes
}

/// Looks at every value.
fn read(batch: &RecordBatch) {
    let _ = digest(batch);
    for column in batch.columns() {
        let _ = column.to_data().validate_full();
    }
}

fn survives(compression: Compression, checksum_fits: bool) {
    let batch = batch();
    let frame = Encoder::new(compression)
        .unwrap()
        .encode(&batch, 1 << 20)
        .unwrap()
        .pop()
        .unwrap();
    let config = Config {
        cases: CASES,
        rng_seed: RngSeed::Fixed(7),
        failure_persistence: None,
        ..Config::default()
    };
    // Arrow panics on some of these, and decoding turns that into an error: its words are not news.
    let words = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (refused, decoded) = (Cell::new(0), Cell::new(0));
    let ran = TestRunner::new(config).run(&prop::collection::vec(harm(), 1..6), |harms| {
        let payload = harmed(&frame.payload, &harms);
        let unharmed = payload == frame.payload[..];
        let checksum = if checksum_fits {
            xxhash_rust::xxh3::xxh3_64(&payload)
        } else {
            frame.checksum
        };
        let raw_bytes = if frame.compressed {
            frame.raw_bytes
        } else {
            payload.len() as u64
        };
        let forged = Frame {
            payload: payload.into(),
            checksum,
            raw_bytes,
            ..frame.clone()
        };
        match Decoder::new(batch.schema()).unwrap().decode(forged) {
            Ok(found) => {
                decoded.set(decoded.get() + 1);
                prop_assert_eq!(found.schema(), batch.schema());
                prop_assert_eq!(found.num_rows(), batch.num_rows());
                prop_assert!(checksum_fits || unharmed);
                read(&found);
            }
            Err(error) => {
                refused.set(refused.get() + 1);
                prop_assert_eq!(error.kind(), Kind::Corrupt, "{}", error);
            }
        }
        Ok(())
    });
    std::panic::set_hook(words);
    if let Err(failure) = ran {
        panic!("{failure}");
    }
    // Both ends were reached where both exist.
    let (refused, decoded): (u32, u32) = (refused.get(), decoded.get());
    println!("{compression:?}: {refused} refused, {decoded} decoded");
    assert!(refused > CASES / 10);
    assert!(!checksum_fits || frame.compressed || decoded > CASES / 100);
}

/// One test, since the words of panics belong to the whole process.
#[test]
fn bytes_that_nobody_of_ours_wrote_end_with_rows_or_an_error() {
    for compression in [Compression::None, Compression::Zstd(1)] {
        for checksum_fits in [true, false] {
            survives(compression, checksum_fits);
        }
    }
}
