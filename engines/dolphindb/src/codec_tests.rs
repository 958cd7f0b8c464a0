//! What is written is read back; what is broken is an error; what cannot be held is refused.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array,
    Int64Array, LargeBinaryArray, ListArray, RecordBatch, StringArray, TimestampSecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, TimeUnit};
use proptest::prelude::*;
use strait_common::{Kind, Result};

use crate::decode;
use crate::encode::{Argument, check_table};
use crate::object::Object;
use crate::samples;
use crate::served::{write_object, write_table};
use crate::types::{ColumnType, ORIGINAL, Type, every_type};
use crate::wire::Incoming;

const ALLOWANCE: u64 = 16 << 20;

#[global_allocator]
static PEAK: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

fn now<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("bytes in memory were waited for"),
    }
}

/// Reads one object, and that there is nothing after it.
fn read(bytes: &[u8]) -> Result<Object> {
    let mut incoming = Incoming::of_bytes(bytes, ALLOWANCE);
    let object = now(decode::object(&mut incoming))?;
    assert!(incoming.is_at_end(), "bytes are left");
    Ok(object)
}

fn written(batch: &RecordBatch, compressed: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_table(batch, compressed, &mut bytes).unwrap();
    bytes
}

fn one(name: &str, kind: ColumnType, array: ArrayRef) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![kind.field(name)]));
    RecordBatch::try_new(schema, vec![array]).unwrap()
}

#[test]
fn every_type_is_read_back_as_it_was_written() {
    for rows in [0, 1, 3, 100, 70_000] {
        let batch = samples::table(rows).unwrap();
        for compressed in [false, true] {
            let bytes = written(&batch, compressed);
            let mut incoming = Incoming::of_bytes(&bytes, 1 << 30);
            let back = now(decode::object(&mut incoming))
                .unwrap()
                .into_table()
                .unwrap();
            assert_eq!(back.schema(), batch.schema());
            for (at, field) in batch.schema().fields().iter().enumerate() {
                let (given, got) = (batch.column(at), back.column(at));
                assert_eq!(given.null_count(), got.null_count(), "{}", field.name());
                if field.data_type() == &Type::Symbol.arrow() {
                    // What symbols stand for is equal, and not how they are numbered.
                    let given = arrow::compute::cast(given, &DataType::Utf8).unwrap();
                    let got = arrow::compute::cast(got, &DataType::Utf8).unwrap();
                    assert_eq!(&given, &got);
                } else {
                    assert_eq!(
                        given,
                        got,
                        "{} of {rows} rows, compressed {compressed}",
                        field.name()
                    );
                }
            }
        }
    }
}

#[test]
fn every_scalar_and_vector_is_read_back() {
    for kind in every_type()
        .into_iter()
        .filter(|kind| !kind.array && kind.item != Type::Void)
    {
        let array = samples::cells(kind.item).unwrap();
        for at in 0..3 {
            let cell = crate::object::Column {
                kind,
                array: array.slice(at, 1),
            };
            let mut bytes = Vec::new();
            write_object(&Object::Scalar(cell.clone()), false, &mut bytes).unwrap();
            let Object::Scalar(back) = read(&bytes).unwrap() else {
                panic!("{kind}")
            };
            assert_eq!(back.kind, kind);
            assert_eq!(back.array.null_count(), cell.array.null_count(), "{kind}");
            if kind.item != Type::Symbol {
                assert_eq!(&back.array, &cell.array, "{kind}");
            }
        }
    }
    let texts = Object::Any(vec![
        Object::Nothing,
        Object::Table(samples::table(2).unwrap()),
    ]);
    let object = Object::Dictionary(vec![("a".into(), texts), ("b".into(), Object::Nothing)]);
    let mut bytes = Vec::new();
    write_object(&object, false, &mut bytes).unwrap();
    let back = read(&bytes).unwrap();
    let items = back
        .get("a")
        .unwrap()
        .unwrap()
        .clone()
        .into_items()
        .unwrap();
    assert_eq!(items.len(), 2);
    assert!(back.get("c").unwrap().is_none());
}

#[test]
fn the_layout_is_the_documented_one() {
    // 1+1, as the protocol's description has it: type, form, value.
    assert_eq!(read(&[4, 0, 2, 0, 0, 0]).unwrap().integer().unwrap(), 2);
    // A UUID is sent in reverse.
    let uuid: ArrayRef = Arc::new(
        FixedSizeBinaryArray::try_from(vec![
            &[1u8, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16][..],
        ])
        .unwrap(),
    );
    let bytes = written(&one("u", ColumnType::plain(Type::Uuid), uuid), false);
    assert_eq!(
        bytes[bytes.len() - 16..],
        [16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    );
    // Symbols: the base begins with the empty text, which stands for null.
    let symbols: DictionaryArray<Int32Type> = [Some("B"), None, Some("A"), Some("B")]
        .into_iter()
        .collect();
    let bytes = written(
        &one("s", ColumnType::plain(Type::Symbol), Arc::new(symbols)),
        false,
    );
    let expected = [
        &[145u8, 1][..],
        &4i32.to_le_bytes(),
        &1i32.to_le_bytes(),
        &0i32.to_le_bytes(),
        &3i32.to_le_bytes(),
        b"\0B\0A\0",
        &1i32.to_le_bytes(),
        &0i32.to_le_bytes(),
        &2i32.to_le_bytes(),
        &1i32.to_le_bytes(),
    ]
    .concat();
    assert_eq!(bytes[bytes.len() - expected.len()..], expected);
    // A list of two and a list of one, counted in single bytes.
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        Some(vec![Some(3)]),
    ]);
    let bytes = written(
        &one("l", ColumnType::list(Type::Int), Arc::new(lists)),
        false,
    );
    let expected = [
        &[68u8, 1][..],
        &2i32.to_le_bytes(),
        &3i32.to_le_bytes(),
        &2u16.to_le_bytes(),
        &[1, 0, 2, 1],
        &1i32.to_le_bytes(),
        &i32::MIN.to_le_bytes(),
        &3i32.to_le_bytes(),
    ]
    .concat();
    assert_eq!(bytes[bytes.len() - expected.len()..], expected);
}

/// The second column of symbols names the base that the first one has sent.
#[test]
fn a_base_of_symbols_is_shared_within_a_table_only() {
    let column = |size: i32, texts: &[u8], codes: [i32; 2]| {
        [
            &[145u8, 1][..],
            &2i32.to_le_bytes(),
            &1i32.to_le_bytes(),
            &7i32.to_le_bytes(),
            &size.to_le_bytes(),
            texts,
            &codes[0].to_le_bytes(),
            &codes[1].to_le_bytes(),
        ]
        .concat()
    };
    let head = |columns: i32, names: &[u8]| {
        [
            &[0u8, 6][..],
            &2i32.to_le_bytes(),
            &columns.to_le_bytes(),
            b"\0",
            names,
        ]
        .concat()
    };
    let shared = [
        head(2, b"a\0b\0"),
        column(3, b"\0X\0Y\0", [1, 2]),
        column(0, b"", [2, 0]),
    ]
    .concat();
    let table = read(&shared).unwrap().into_table().unwrap();
    assert_eq!(crate::object::texts_of(table.column(1)).unwrap(), ["Y", ""]);
    let foreign = [head(1, b"a\0"), column(0, b"", [0, 0])].concat();
    assert_eq!(read(&foreign).unwrap_err().kind(), Kind::Corrupt);
    let wild = [head(1, b"a\0"), column(3, b"\0X\0Y\0", [1, 3])].concat();
    assert_eq!(read(&wild).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_truncated_answer_is_an_error_wherever_it_ends() {
    let batch = samples::table(7).unwrap();
    for compressed in [false, true] {
        let bytes = written(&batch, compressed);
        for end in 0..bytes.len() {
            let error = read(&bytes[..end]).expect_err("half a table");
            assert_eq!(error.kind(), Kind::Corrupt, "at {end}: {error}");
        }
    }
}

#[test]
fn a_length_that_a_server_makes_up_costs_nothing() {
    let huge = i32::MAX.to_le_bytes();
    let cases: Vec<Vec<u8>> = vec![
        [&[5u8, 1][..], &huge, &huge].concat(),
        [&[18u8, 1][..], &huge, &huge].concat(),
        [
            &[32u8, 1][..],
            &1i32.to_le_bytes(),
            &1i32.to_le_bytes(),
            &huge,
        ]
        .concat(),
        [&[25u8, 1][..], &huge, &huge].concat(),
        [&[68u8, 1][..], &huge, &huge, &[255, 255, 4, 0]].concat(),
        [&[0u8, 6][..], &huge, &huge, &[0]].concat(),
        [
            &[145u8, 1][..],
            &huge,
            &1i32.to_le_bytes(),
            &0i32.to_le_bytes(),
            &huge,
        ]
        .concat(),
        [
            &[26u8, 1][..],
            &huge,
            &1i32.to_le_bytes(),
            &[0, 1, 255, 1, 5, 8, 0, 0],
            &1i32.to_le_bytes(),
            &huge,
            &huge,
            &huge,
        ]
        .concat(),
        [&[5u8, 1][..], &(-1i32).to_le_bytes(), &1i32.to_le_bytes()].concat(),
    ];
    for bytes in cases {
        let error = read(&bytes).expect_err("a length without bytes");
        assert_eq!(error.kind(), Kind::Corrupt, "{bytes:?}: {error}");
    }
    // Objects in objects, as deep as nobody needs them.
    let deep: Vec<u8> = std::iter::repeat_n(
        [&[25u8, 1][..], &1i32.to_le_bytes(), &1i32.to_le_bytes()].concat(),
        10_000,
    )
    .flatten()
    .collect();
    assert_eq!(read(&deep).unwrap_err().kind(), Kind::Corrupt);
    // Rows that take nothing on the wire take nothing here.
    let nothing = [&[0u8, 1][..], &huge, &1i32.to_le_bytes()].concat();
    assert_eq!(
        read(&nothing).unwrap().into_vector().unwrap().array.len(),
        i32::MAX as usize
    );
    ensure_little_was_held();
}

/// That no test of this process has ever held much, those that ran beside this one too: what a length claims is gigabytes.
fn ensure_little_was_held() {
    let most = PEAK.peak_usage_as_mb();
    assert!(most > 0.0, "nothing is counted");
    assert!(most < 400.0, "{most} MiB were held");
}

#[test]
fn an_answer_larger_than_it_may_be_is_refused_before_it_is_kept() {
    let numbers = Int64Array::from_iter_values(0..100_000);
    let bytes = written(
        &one("n", ColumnType::plain(Type::Long), Arc::new(numbers)),
        false,
    );
    let mut incoming = Incoming::of_bytes(&bytes, 10_000);
    let error = now(decode::object(&mut incoming)).unwrap_err();
    assert!(error.to_string().contains("answer_max"), "{error}");
}

#[test]
fn what_the_server_would_take_for_something_else_is_refused_by_column_and_row() {
    let refused = |kind: ColumnType, array: ArrayRef, row: &str| {
        let error = check_table(&one("c", kind, array)).expect_err(&format!("{kind}"));
        assert_eq!(error.kind(), Kind::Refused, "{kind}: {error}");
        assert!(
            error.to_string().contains("column c") && error.to_string().contains(row),
            "{error}"
        );
    };
    let plain = ColumnType::plain;
    refused(
        plain(Type::Int),
        Arc::new(Int32Array::from(vec![Some(1), None, Some(i32::MIN)])),
        "row 2",
    );
    refused(
        plain(Type::Double),
        Arc::new(Float64Array::from(vec![f64::MIN])),
        "row 0",
    );
    refused(
        plain(Type::String),
        Arc::new(StringArray::from(vec!["a", ""])),
        "row 1",
    );
    refused(
        plain(Type::String),
        Arc::new(StringArray::from(vec!["a\0b"])),
        "row 0",
    );
    refused(
        plain(Type::String),
        Arc::new(StringArray::from(vec!["x".repeat(65_536)])),
        "65536 bytes",
    );
    refused(
        plain(Type::Blob),
        Arc::new(LargeBinaryArray::from(vec![&b""[..]])),
        "row 0",
    );
    refused(
        plain(Type::Uuid),
        Arc::new(FixedSizeBinaryArray::try_from(vec![&[0u8; 16][..]]).unwrap()),
        "row 0",
    );
    refused(
        plain(Type::DateHour),
        Arc::new(TimestampSecondArray::from(vec![3600, 3601])),
        "row 1",
    );
    refused(
        plain(Type::DateTime),
        Arc::new(TimestampSecondArray::from(vec![1i64 << 40])),
        "row 0",
    );
    let long = "s".repeat(256);
    let symbols: DictionaryArray<Int32Type> = ["a", &long].into_iter().collect();
    refused(plain(Type::Symbol), Arc::new(symbols), "row 1");
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), None]);
    refused(ColumnType::list(Type::Int), Arc::new(lists), "row 1");
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(i64::MIN)])]);
    refused(ColumnType::list(Type::Long), Arc::new(lists), "row 0");
    let foreign = Field::new("c", DataType::Timestamp(TimeUnit::Microsecond, None), true);
    assert_eq!(ColumnType::of(&foreign).unwrap_err().kind(), Kind::Schema);
    assert!(
        !plain(Type::Int)
            .field("c")
            .metadata()
            .contains_key(ORIGINAL)
    );
}

/// A slice begins in the middle of its buffers.
#[test]
fn slices_are_written_as_what_they_show() {
    let batch = samples::table(60).unwrap();
    let slice = batch.slice(17, 9);
    for compressed in [false, true] {
        let back = read(&written(&slice, compressed))
            .unwrap()
            .into_table()
            .unwrap();
        for (at, field) in slice.schema().fields().iter().enumerate() {
            if field.data_type() != &Type::Symbol.arrow() {
                assert_eq!(slice.column(at), back.column(at), "{}", field.name());
            }
        }
        let symbols = |batch: &RecordBatch| {
            crate::object::texts_of(batch.column_by_name("symbol").unwrap()).unwrap()
        };
        assert_eq!(symbols(&slice), symbols(&back));
    }
}

/// What the vendor's writer sends for 1, 2, 4, null, 7: the bits of its delta-of-delta.
#[test]
fn deltas_are_unpacked() {
    let mut bits = String::new();
    // The first value and the first difference, zigzag, after a set bit.
    bits += &format!("1{:032b}", 2);
    bits += &format!("1{:032b}", 2);
    // A difference that grows by 1 (zigzag 2, less 1), null, and one that grows by 1 again.
    bits += &format!("10{:07b}", 1);
    bits += "111111";
    bits += &format!("10{:07b}", 1);
    bits += &("111110".to_owned() + &"1".repeat(64));
    while !bits.len().is_multiple_of(64) {
        bits.push('0');
    }
    let words: Vec<u8> = bits
        .as_bytes()
        .chunks(64)
        .flat_map(|word| {
            u64::from_str_radix(std::str::from_utf8(word).unwrap(), 2)
                .unwrap()
                .to_le_bytes()
        })
        .collect();
    let length = i32::try_from(words.len()).unwrap();
    let bytes = [
        &[26u8, 1][..],
        &(24 + length).to_le_bytes(),
        &1i32.to_le_bytes(),
        &[0, 1, 255, 2, 4, 4, 0, 0],
        &1i32.to_le_bytes(),
        &5i32.to_le_bytes(),
        &(-1i32).to_le_bytes(),
        &length.to_le_bytes(),
        &words,
    ]
    .concat();
    let column = read(&bytes).unwrap().into_vector().unwrap();
    let values: Vec<Option<i32>> = column.array.as_primitive::<Int32Type>().iter().collect();
    assert_eq!(values, [Some(1), Some(2), Some(4), None, Some(7)]);
}

#[test]
fn an_argument_is_checked_before_anything_is_sent() {
    let batch = one(
        "c",
        ColumnType::plain(Type::Int),
        Arc::new(Int32Array::from(vec![i32::MIN])),
    );
    assert!(crate::encode::check(&Argument::Table(batch)).is_err());
    assert!(crate::encode::check(&Argument::Text("a\0".into())).is_err());
}

proptest! {
    /// Whatever bytes come: an object or an error, and never more memory than is allowed.
    #[test]
    fn broken_answers_never_panic(seed in any::<u64>(), flips in 1usize..6, compressed: bool) {
        let mut bytes = written(&samples::table(5).unwrap(), compressed);
        let mut state = seed | 1;
        for _ in 0..flips {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 17) as u8;
        }
        let mut incoming = Incoming::of_bytes(&bytes, ALLOWANCE);
        let _ = now(decode::object(&mut incoming));
        ensure_little_was_held();
    }

    #[test]
    fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut incoming = Incoming::of_bytes(&bytes, ALLOWANCE);
        let _ = now(decode::object(&mut incoming));
    }
}
