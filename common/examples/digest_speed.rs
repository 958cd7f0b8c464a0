//! How fast the digest is on one core, in bytes of Arrow: `cargo run --release --example digest_speed [rows]`.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, Date32Array, DictionaryArray, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampNanosecondArray,
};
use arrow::datatypes::Int32Type;
use strait_common::digest::digest;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows: i64 = match std::env::args().nth(1) {
        Some(rows) => rows.parse()?,
        None => 1_000_000,
    };
    let symbols = ["IBM", "MSFT", "AAPL", "BRK.B", "600519.SH"];
    let symbol = |i: i64| symbols[(i % 5) as usize];
    let shuffled = |i: i64| i.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) >> 40;
    let null_at = |i: i64, every: i64| i % every != 0;
    let ticks: Vec<(&str, ArrayRef)> = vec![
        (
            "day",
            Arc::new(Date32Array::from_iter_values((0..rows).map(|_| 20_000))),
        ),
        (
            "symbol",
            Arc::new(StringArray::from_iter_values((0..rows).map(symbol))),
        ),
        (
            "at",
            Arc::new(TimestampNanosecondArray::from_iter_values(
                (0..rows).map(|i| 1_700_000_000_000_000_000 + i * 1_000_003),
            )),
        ),
        (
            "price",
            Arc::new(Float64Array::from_iter_values(
                (0..rows).map(|i| shuffled(i) as f64 / 100.0),
            )),
        ),
        (
            "bid",
            Arc::new(Float64Array::from_iter(
                (0..rows).map(|i| null_at(i, 50).then_some(i as f64 / 8.0)),
            )),
        ),
        (
            "ask",
            Arc::new(Float64Array::from_iter_values(
                (0..rows).map(|i| i as f64 / 7.0),
            )),
        ),
        (
            "volume",
            Arc::new(Int64Array::from_iter_values((0..rows).map(shuffled))),
        ),
        (
            "flags",
            Arc::new(Int32Array::from_iter_values(
                (0..rows).map(|i| (i % 9) as i32),
            )),
        ),
    ];
    let ticks = RecordBatch::try_from_iter(ticks)?;
    measure("ticks, 8 columns", &ticks)?;

    let narrow: Vec<(&str, ArrayRef)> = vec![
        (
            "symbol",
            Arc::new(
                (0..rows)
                    .map(symbol)
                    .collect::<DictionaryArray<Int32Type>>(),
            ),
        ),
        (
            "price",
            Arc::new(Float64Array::from_iter_values((0..rows).map(|i| i as f64))),
        ),
    ];
    measure("dictionary and float", &RecordBatch::try_from_iter(narrow)?)?;

    let wide: String = "wide text ".repeat(100);
    let texts = StringArray::from_iter_values((0..rows / 20).map(|i| &wide[..(i % 1000) as usize]));
    let texts: Vec<(&str, ArrayRef)> = vec![("text", Arc::new(texts))];
    measure("text of 500 bytes", &RecordBatch::try_from_iter(texts)?)?;
    Ok(())
}

/// The best of five, since the others were disturbed.
fn measure(name: &str, batch: &RecordBatch) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = batch.get_array_memory_size();
    let mut best = f64::INFINITY;
    let mut sum = digest(batch)?;
    for _ in 0..5 {
        let start = Instant::now();
        // As frames arrive: slices of some ten thousand rows.
        let mut parts = strait_common::digest::Digest::default();
        let mut at = 0;
        while at < batch.num_rows() {
            let rows = (batch.num_rows() - at).min(32 * 1024);
            parts = parts.plus(digest(&batch.slice(at, rows))?);
            at += rows;
        }
        best = best.min(start.elapsed().as_secs_f64());
        if parts != sum {
            return Err(format!("{name}: the digests of the parts do not add up").into());
        }
        sum = parts;
    }
    println!(
        "{name:24} {:>6.0} MB/s of Arrow, {:>5.1} ns a row",
        bytes as f64 / best / 1e6,
        best * 1e9 / batch.num_rows() as f64
    );
    Ok(())
}
