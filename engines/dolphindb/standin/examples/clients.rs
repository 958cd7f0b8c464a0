//! One client of DolphinDB's protocol in a process of its own, measured: `./test bench_dolphindb` runs it, and the vendor's Python client beside it.
//!
//! ```text
//! clients fill ADDRESS ROWS             dfs://bench of 8 columns, and dfs://bench_days/ticks, the same by 10 days
//! clients ours|crate ADDRESS decode     reads dfs://bench
//! clients ours|crate ADDRESS encode     uploads it as a variable
//! ```
//!
//! `crate` is the vendor's own. Prints one line of JSON: the seconds of each round, the CPU seconds of this process in all of them, and its peak memory beyond what it held before them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, Date32Array, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray,
};
use arrow::datatypes::{Int32Type, Schema};
use dolphindb::client::{Client, ClientBuilder};
use dolphindb::types::ConstantImpl;
use strait_common::{Error, Kind, OrError, Result};
use strait_dolphindb::{Argument, Cluster, ColumnType, Options, Secret, Site, Type, User};

const ROUNDS: usize = 5;
const WHOLE: &str = "select * from loadTable(\"dfs://bench\", \"t\")";
const DAYS: i64 = 10;
/// As many rows as the engine asks for when a batch is 1 MiB.
const BLOCK_ROWS: u32 = 16_384;

/// Rows of 8 columns, 54 bytes each as the protocol has them.
fn ticks(count: i64) -> Result<RecordBatch> {
    let mixed = |n: i64| n.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let symbols: Vec<String> = (0..100).map(|n| format!("SYM{n:03}")).collect();
    let named = |name: &str, kind: Type| ColumnType::plain(kind).field(name);
    let fields = vec![
        named("day", Type::Date),
        named("sym", Type::Symbol),
        named("n", Type::Long),
        named("at", Type::Timestamp),
        named("price", Type::Double),
        named("amount", Type::Double),
        named("size", Type::Long),
        named("note", Type::String),
    ];
    let day = |n: i64| i32::try_from(20_000 + n * DAYS / count.max(1)).unwrap_or(20_000);
    let sym: DictionaryArray<Int32Type> = (0..count)
        .map(|n| Some(symbols[(mixed(n) % 100) as usize].as_str()))
        .collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Date32Array::from_iter_values((0..count).map(day))),
        Arc::new(sym),
        Arc::new(Int64Array::from_iter_values(0..count)),
        Arc::new(TimestampMillisecondArray::from_iter_values(
            (0..count).map(|n| i64::from(day(n)) * 86_400_000 + n % 86_400_000),
        )),
        // Every 17th is null.
        Arc::new(Float64Array::from_iter((0..count).map(|n| {
            (n % 17 != 0).then(|| (mixed(n) % 100_000) as f64 / 100.0)
        }))),
        Arc::new(Float64Array::from_iter_values(
            (0..count).map(|n| mixed(n) as f64),
        )),
        Arc::new(Int64Array::from_iter_values(
            (0..count).map(|n| (mixed(n) % 1000).cast_signed()),
        )),
        Arc::new(StringArray::from_iter_values(
            (0..count).map(|n| format!("{:x}", mixed(n) % 0xFF_FFFF)),
        )),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).or_error(Kind::Internal, "rows")
}

fn cluster(address: &str) -> Result<Cluster> {
    let (host, port) = address.split_once(':').unwrap_or((address, "8848"));
    let mut options = Options::of_site(host, 0);
    options.sites = vec![Site {
        host: host.to_owned(),
        port: port.parse().or_error(Kind::Config, "a port")?,
    }];
    options.user = Some(User {
        name: "admin".to_owned(),
        password: Secret::new("123456"),
    });
    // What is uploaded is read as a whole first.
    options.answer_bytes_max = 1 << 30;
    Cluster::new(options)
}

async fn fill(address: &str, count: i64) -> Result<()> {
    let rows = ticks(count)?;
    let cluster = cluster(address)?;
    let mut lease = cluster.connect().await?;
    let connection = lease.connection();
    let sample = Argument::Table(rows.slice(0, 0));
    connection.upload("sample", &sample).await?;
    let days: Vec<String> = (0..DAYS).map(|n| format!("2024.10.{:02}", 4 + n)).collect();
    for make in [
        "createTable(database(\"dfs://bench\", VALUE, [1]), sample, \"t\")".to_owned(),
        format!(
            "createPartitionedTable(database(\"dfs://bench_days\", VALUE, [{}]), sample, \"ticks\", \"day\")",
            days.join(", ")
        ),
    ] {
        connection.script(&make).await?;
    }
    for table in ["\"dfs://bench\", \"t\"", "\"dfs://bench_days\", \"ticks\""] {
        let insert = format!("tableInsert{{loadTable({table})}}");
        let inserted = connection
            .call(&insert, &[Argument::Table(rows.clone())])
            .await?;
        if inserted.integer()? != count {
            return Err(Error::corrupt(format!("{inserted:?} of {count} rows")));
        }
    }
    println!("{{\"bytes\": {}}}", rows.get_array_memory_size());
    Ok(())
}

/// What the kernel says of this process: a line of its status, in KiB.
fn status(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// CPU seconds of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    // The kernel counts in hundredths.
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0
}

async fn measured(mut round: impl AsyncFnMut() -> Result<usize>) -> Result<()> {
    // One that does not count: connections are made, memory is got.
    let rows = round().await?;
    let held = status("VmRSS");
    // The peak begins anew.
    std::fs::write("/proc/self/clear_refs", "5").or_error(Kind::Internal, "clear_refs")?;
    let mut seconds = Vec::new();
    let cpu = cpu_seconds();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let again = round().await?;
        seconds.push(begun.elapsed().as_secs_f64());
        if again != rows {
            return Err(Error::corrupt(format!("{again} rows, and {rows} before")));
        }
    }
    println!(
        "{{\"rows\": {rows}, \"seconds\": {seconds:?}, \"cpu\": {}, \"held_kib\": {held}, \"peak_kib\": {}}}",
        cpu_seconds() - cpu,
        status("VmHWM")
    );
    Ok(())
}

async fn ours(address: &str, what: &str) -> Result<()> {
    let cluster = cluster(address)?;
    if what == "decode" {
        return measured(async || {
            let mut blocks = cluster.blocks(WHOLE, BLOCK_ROWS).await?;
            let mut rows = 0;
            while let Some(block) = blocks.next().await? {
                rows += std::hint::black_box(block).num_rows();
            }
            Ok(rows)
        })
        .await;
    }
    let rows = cluster.read(WHOLE).await?.into_table()?;
    let count = rows.num_rows();
    let argument = Argument::Table(rows);
    let mut lease = cluster.connect().await?;
    measured(async || {
        lease.connection().upload("x", &argument).await?;
        Ok(count)
    })
    .await
}

fn theirs(error: impl std::fmt::Display) -> Error {
    Error::internal(format!("the vendor's crate: {error}"))
}

async fn crate_client(address: &str) -> Result<Client> {
    let mut builder = ClientBuilder::new(address.to_owned());
    builder.with_auth(("admin", "123456"));
    builder.connect().await.map_err(theirs)
}

async fn whole_by_crate(client: &mut Client) -> Result<ConstantImpl> {
    let answer = client.run_script(WHOLE).await.map_err(theirs)?;
    answer.ok_or_else(|| theirs("no answer"))
}

async fn by_crate(address: &str, what: &str) -> Result<()> {
    let mut client = crate_client(address).await?;
    let length = |table: &ConstantImpl| match table {
        ConstantImpl::Table(table) => table.len(),
        _ => 0,
    };
    if what == "decode" {
        return measured(async || Ok(length(&whole_by_crate(&mut client).await?))).await;
    }
    let table = whole_by_crate(&mut client).await?;
    let count = length(&table);
    let variables = HashMap::from([("x".to_owned(), table)]);
    measured(async || {
        client.upload(&variables).await.map_err(theirs)?;
        Ok(count)
    })
    .await
}

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["fill", address, rows] => {
            fill(address, rows.parse().or_error(Kind::Config, "ROWS")?).await
        }
        ["ours", address, what @ ("decode" | "encode")] => ours(address, what).await,
        ["crate", address, what @ ("decode" | "encode")] => by_crate(address, what).await,
        _ => Err(Error::config(
            "fill ADDRESS ROWS, or ours|crate ADDRESS decode|encode",
        )),
    }
}
