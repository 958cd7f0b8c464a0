//! What one open writer of the lake holds, beside the batch that it is given: run with `cargo run --release --example writer_memory`.
//!
//! Writes random rows (the worst case: nothing repeats, so every column loses its dictionary) as narrow and wide tables, and prints the growth
//! of resident memory while the writer is open beside what `SinkLimits::writer_bytes` promises.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use strait_common::cpu::CpuPool;
use strait_common::engine::{Begun, Claim, Disposition, Origin, Partition, Table, Version};
use strait_common::ids::{RunId, TableName};
use strait_common::key::PartitionKey;
use strait_common::{Error, Result};
use strait_lake::disk::Disk;

const BATCH_BYTES: usize = 1 << 20;
const BATCHES: usize = 96;
const WIDTH_BYTES: usize = 16;

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

fn schema(columns: usize) -> Arc<Schema> {
    let fields = (0..columns).map(|n| {
        let kind = match n % 4 {
            0 => DataType::Utf8,
            1 => DataType::Float64,
            _ => DataType::Int64,
        };
        Field::new(format!("c{n}"), kind, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn batch(schema: &Arc<Schema>, rng: &mut StdRng) -> Result<RecordBatch> {
    let rows = BATCH_BYTES / (schema.fields().len() * WIDTH_BYTES);
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.data_type() {
            DataType::Utf8 => Arc::new(StringArray::from_iter_values(
                (0..rows).map(|_| format!("{:012x}", rng.random::<u64>() >> 16)),
            )),
            DataType::Float64 => Arc::new(Float64Array::from_iter_values(
                (0..rows).map(|_| rng.random::<f64>()),
            )),
            _ => Arc::new(Int64Array::from_iter_values(
                (0..rows).map(|_| rng.random::<i64>()),
            )),
        }
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect())
        .map_err(|error| Error::internal("rows").with_source(error))
}

async fn measure(columns: usize) -> Result<()> {
    let directory =
        tempfile::tempdir().map_err(|error| Error::internal("scratch").with_source(error))?;
    let path = directory.path().to_owned();
    let store = strait_lake::open_directory(path, CpuPool::new(2), Disk::default()).await?;
    let schema = schema(columns);
    let table = Table {
        name: TableName::new("db", "wide")?,
        schema: Arc::clone(&schema),
        divisions: Vec::new(),
        recipe: None,
    };
    store.sink.prepare(&table.name, &table, false).await?;
    let claim = Claim {
        run: RunId::random(),
        table: table.name.clone(),
        agent: "measure".to_owned(),
        job: "{}".to_owned(),
        taken_at: 0,
    };
    let attachment = store.sink.attach(&claim).await?;
    let partition = Partition {
        key: PartitionKey::default(),
        rows: None,
        bytes: None,
        version: Version("1".to_owned()),
        pin: String::new(),
        origin: Origin::default(),
    };
    let mut rng = StdRng::seed_from_u64(1);
    let before = resident_bytes();
    let begun = attachment
        .begin(&partition, Disposition::Append, None)
        .await?;
    let Begun::Writer(mut writer) = begun else {
        return Err(Error::internal("nothing to write"));
    };
    let mut most = 0;
    for _ in 0..BATCHES {
        writer.append(batch(&schema, &mut rng)?).await?;
        most = most.max(resident_bytes().saturating_sub(before));
    }
    let promised = store.sink.limits(&schema)?.writer_bytes;
    println!(
        "{columns:>4} columns: held at most {:>6.1} MiB, promised {:>6.1} MiB",
        most as f64 / (1 << 20) as f64,
        promised as f64 / (1 << 20) as f64
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    // Each in a process of its own would be cleaner; from narrow to wide, what the one before left is less than what the next one needs.
    let chosen: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let chosen = if chosen.is_empty() {
        vec![8, 30, 100, 300]
    } else {
        chosen
    };
    for columns in chosen {
        measure(columns).await?;
    }
    Ok(())
}
