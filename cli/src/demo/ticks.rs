//! A realistic tick table, the same for the same seed: business days, a few hundred symbols of uneven popularity, prices that walk, volume that is
//! high when the market opens and closes.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Float64Builder, Int32Builder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use strait_common::{Kind, OrError, Result};

/// The first trading day: 2026-01-05, a Monday, in days since 1970.
const FIRST_DAY: i32 = 20_458;
const SYMBOLS: usize = 480;
const VENUES: [&str; 5] = ["XNAS", "XNYS", "ARCX", "BATS", "IEXG"];
/// 09:30 to 16:00, in microseconds since midnight.
const OPEN_US: i64 = 34_200_000_000;
const SESSION_US: i64 = 23_400_000_000;
/// Rows of a batch.
const BATCH_ROWS: u64 = 8192;

/// The columns: `trading_day` divides the table.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("trading_day", DataType::Date32, false),
        Field::new(
            "ts",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            false,
        ),
        Field::new("symbol", DataType::Utf8, false),
        Field::new("price", DataType::Float64, false),
        Field::new("size", DataType::Int32, false),
        Field::new("bid", DataType::Float64, true),
        Field::new("ask", DataType::Float64, true),
        Field::new("venue", DataType::Utf8, false),
        Field::new("trade_id", DataType::Int64, false),
    ]))
}

/// The `index`-th business day, in days since 1970.
pub(crate) fn day(index: u32) -> i32 {
    let index = index.cast_signed();
    FIRST_DAY + index / 5 * 7 + index % 5
}

/// One day of trades, batch by batch.
pub(crate) struct Day {
    day: i32,
    rng: SmallRng,
    prices: Vec<f64>,
    rows: u64,
    done: u64,
    trade_id: i64,
}

impl Day {
    /// Day `index` with so many rows.
    pub(crate) fn new(seed: u64, index: u32, rows: u64) -> Day {
        let mut rng = SmallRng::seed_from_u64(seed ^ (u64::from(index) << 32));
        let prices = (0..SYMBOLS)
            .map(|_| 5.0 + rng.random::<f64>().powi(3) * 900.0)
            .collect();
        Day {
            day: day(index),
            rng,
            prices,
            rows,
            done: 0,
            trade_id: i64::from(index) * 1_000_000_000,
        }
    }

    /// The next trades; none at the end of the day.
    pub(crate) fn next(&mut self) -> Result<Option<RecordBatch>> {
        let rows = BATCH_ROWS.min(self.rows - self.done);
        if rows == 0 {
            return Ok(None);
        }
        let mut ts = TimestampMicrosecondBuilder::new();
        let mut symbol = StringBuilder::new();
        let mut price = Float64Builder::new();
        let mut size = Int32Builder::new();
        let mut bid = Float64Builder::new();
        let mut ask = Float64Builder::new();
        let mut venue = StringBuilder::new();
        let mut trade_id = Int64Builder::new();
        for row in self.done..self.done + rows {
            ts.append_value(i64::from(self.day) * 86_400_000_000 + OPEN_US + self.time_of(row));
            // A few symbols have most of the trades.
            let at = (self.rng.random::<f64>().powi(3) * SYMBOLS as f64) as usize;
            symbol.append_value(symbol_name(at));
            let step = self.rng.random_range(-3i32..=3);
            let last = (self.prices[at] + f64::from(step) * 0.01).max(0.01);
            self.prices[at] = last;
            let cents = (last * 100.0).round() / 100.0;
            price.append_value(cents);
            size.append_value(100 * (1 + (self.rng.random::<f64>().powi(4) * 40.0) as i32));
            // Some trades come without a quote.
            let quoted = self.rng.random_range(0..50) > 0;
            bid.append_option(quoted.then(|| ((cents - 0.01) * 100.0).round() / 100.0));
            ask.append_option(quoted.then(|| ((cents + 0.01) * 100.0).round() / 100.0));
            venue.append_value(VENUES[self.rng.random_range(0..VENUES.len())]);
            self.trade_id += 1 + i64::from(self.rng.random_range(0..3));
            trade_id.append_value(self.trade_id);
        }
        self.done += rows;
        let days = Date32Array::from_value(self.day, usize::try_from(rows).unwrap_or(0));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(days),
            Arc::new(ts.finish()),
            Arc::new(symbol.finish()),
            Arc::new(price.finish()),
            Arc::new(size.finish()),
            Arc::new(bid.finish()),
            Arc::new(ask.finish()),
            Arc::new(venue.finish()),
            Arc::new(trade_id.finish()),
        ];
        RecordBatch::try_new(schema(), columns)
            .or_error(Kind::Internal, "generate ticks")
            .map(Some)
    }

    /// More trades at both ends of the session: the inverse of a U-shaped density, with a little noise.
    fn time_of(&mut self, row: u64) -> i64 {
        let share = (row as f64 + self.rng.random::<f64>()) / self.rows as f64;
        let centred = 2.0 * share - 1.0;
        let at = f64::midpoint(centred.abs().powf(0.6) * centred.signum(), 1.0);
        (at * (SESSION_US - 1) as f64) as i64
    }
}

fn symbol_name(at: usize) -> String {
    let letter = |n: usize| char::from(b'A' + u8::try_from(n % 26).unwrap_or(0));
    [
        letter(at * 7),
        letter(at / 26 * 3 + at),
        letter(at * 11 + 5),
    ]
    .iter()
    .chain(&[letter(at / 18)])
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64, index: u32, rows: u64) -> Vec<RecordBatch> {
        let mut day = Day::new(seed, index, rows);
        std::iter::from_fn(|| day.next().unwrap()).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_day() {
        assert_eq!(all(1, 3, 20_000), all(1, 3, 20_000));
        assert_ne!(all(1, 3, 100), all(2, 3, 100));
        assert_eq!(
            all(1, 0, 20_000)
                .iter()
                .map(RecordBatch::num_rows)
                .sum::<usize>(),
            20_000
        );
    }

    #[test]
    fn days_are_business_days() {
        assert_eq!(
            (0..7).map(day).collect::<Vec<_>>(),
            [20_458, 20_459, 20_460, 20_461, 20_462, 20_465, 20_466]
        );
    }

    #[test]
    fn trades_are_within_the_session() {
        use arrow::array::AsArray;
        use arrow::datatypes::TimestampMicrosecondType;
        let midnight = i64::from(day(2)) * 86_400_000_000;
        for batch in all(1, 2, 10_000) {
            let ts = batch.column(1).as_primitive::<TimestampMicrosecondType>();
            assert!(
                ts.values()
                    .iter()
                    .all(|ts| (OPEN_US..OPEN_US + SESSION_US).contains(&(ts - midnight)))
            );
        }
    }
}
