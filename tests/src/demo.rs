//! The data of `strait demo`, for tests and benchmarks that need what real tables look like: ticks, which compress as ticks do.

#[path = "../../cli/src/demo/lake.rs"]
mod lake;
#[path = "../../cli/src/demo/ticks.rs"]
mod ticks;

use std::path::Path;

use strait_common::ids::TableName;

/// Fills a table of the lake in this directory with so many rows over so many days, the same for the same arguments.
///
/// # Panics
/// If the lake cannot be written.
pub async fn fill(lake: &Path, table: &str, rows: u64, days: u32) {
    let store = crate::lakes::open(lake).await;
    let table: TableName = table.parse().expect("a table name");
    let size = lake::Size {
        rows,
        days,
        seed: 1,
    };
    lake::fill(store.sink.as_ref(), &table, size, |_| {})
        .await
        .expect("the lake is filled");
}
