//! What each stage of a copy costs on rows of a real table, beside the limit that the stage cannot pass, in one run:
//! `cargo run --release --example stages -- LAKE DATABASE/TABLE [--json]`.
//!
//! Every stage and every limit runs [`ROUNDS`] times, in turn, so that a disturbance of the machine meets all of them; the median counts. One
//! thread does each, but the last: both agents in this process over the engine in memory, which is what the wire, the acks and the digests
//! cost when the engines cost nothing. `./test bench` runs this with the rest of the benchmark.

use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression as ParquetCompression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use strait_common::budget::Budget;
use strait_common::cpu::CpuPool;
use strait_common::digest::{Digest, DigestId, digest};
use strait_common::engine::{
    Begun, Claim, Cursor, Disposition, Level, Origin, Outcome, Partition, ReadLimits, Receipt,
    Source, Store, Table,
};
use strait_common::frame::{Compression, Decoder, Encoder, Frame};
use strait_common::ids::{RunId, TableName};
use strait_common::selection::{Selection, SelectionSpec};
use strait_lake::disk::Disk;
use strait_memory::MemoryStore;
use strait_tests::agents::{SinkAgent, SourceAgent};
use strait_tests::lakes::TABLE;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How often each is measured.
const ROUNDS: usize = 3;
/// Rows that are enough to measure with, and few enough to hold.
const ROWS_MAX: usize = 800_000;
/// As the agents' defaults.
const FRAME_BYTES: u64 = 1 << 20;
const LEVEL: i32 = 1;

/// One side of a comparison.
struct Timed {
    name: &'static str,
    limit: bool,
    times: Vec<Duration>,
}

/// The table's first partitions, as far as they are measured with.
struct Data {
    store: Store,
    table: Table,
    selection: Selection,
    partitions: Vec<Partition>,
    files: Vec<PathBuf>,
    /// As the engine cuts them, by partition.
    batches: Vec<Vec<RecordBatch>>,
    /// The same as frames hold them: plain Arrow IPC.
    raw: Vec<Frame>,
    packed: Vec<Frame>,
}

impl Data {
    fn rows(&self) -> usize {
        let batches = self.batches.iter().flatten();
        batches.map(RecordBatch::num_rows).sum()
    }

    fn raw_bytes(&self) -> u64 {
        self.raw.iter().map(|frame| frame.raw_bytes).sum()
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (lake, table, json) = match arguments.as_slice() {
        [lake, table] => (lake, table, false),
        [lake, table, flag] if flag == "--json" => (lake, table, true),
        _ => return Err("usage: stages LAKE DATABASE/TABLE [--json]".into()),
    };
    let one = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let data = one.block_on(load(Path::new(lake), &table.parse()?))?;
    let mut timed: Vec<Timed> = Vec::new();
    for _ in 0..ROUNDS {
        one.block_on(round(&data, &mut timed))?;
    }
    print(&data, timed, json)
}

async fn load(lake: &Path, name: &TableName) -> Result<Data, Failure> {
    let cpu = CpuPool::new(1);
    let store = strait_lake::open_directory(lake.canonicalize()?, cpu, Disk::default()).await?;
    let table = store.source.describe(name).await?;
    let selection = Selection::resolve(&SelectionSpec::default(), &table.schema, 0)?;
    let mut listed = store.source.partitions(name, &selection).await?;
    let (mut partitions, mut batches, mut files, mut rows) = (vec![], vec![], vec![], 0);
    while let Some(partition) = listed.next().await {
        let partition = partition?;
        let read = read(store.source.as_ref(), name, &selection, &partition).await?;
        rows += read.iter().map(RecordBatch::num_rows).sum::<usize>();
        let dir = lake.join(name.to_string()).join(partition.key.label());
        for entry in std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))? {
            files.push(entry?.path());
        }
        batches.push(read);
        partitions.push(partition);
        if rows >= ROWS_MAX {
            break;
        }
    }
    let (mut raw, mut packed) = (vec![], vec![]);
    let mut plain = Encoder::new(Compression::None)?;
    let mut zstd = Encoder::new(Compression::Zstd(LEVEL))?;
    for batch in batches.iter().flatten() {
        raw.extend(plain.encode(batch, FRAME_BYTES)?);
        packed.extend(zstd.encode(batch, FRAME_BYTES)?);
    }
    Ok(Data {
        store,
        table,
        selection,
        partitions,
        files,
        batches,
        raw,
        packed,
    })
}

async fn read(
    source: &dyn Source,
    name: &TableName,
    selection: &Selection,
    partition: &Partition,
) -> Result<Vec<RecordBatch>, Failure> {
    let limits = ReadLimits {
        batch_bytes: FRAME_BYTES / 2,
        budget: Budget::new(256 << 20)?.for_stream(),
    };
    let start = Cursor::start();
    let mut stream = source
        .read(name, selection, partition, &start, &limits)
        .await?;
    let mut batches = vec![];
    while let Some(batch) = stream.next().await {
        batches.push(batch?.records);
    }
    Ok(batches)
}

/// Everything once.
async fn round(data: &Data, timed: &mut Vec<Timed>) -> Result<(), Failure> {
    let mut note = |name, limit, time| match timed
        .iter_mut()
        .find(|timed| timed.name == name && timed.limit == limit)
    {
        Some(timed) => timed.times.push(time),
        None => timed.push(Timed {
            name,
            limit,
            times: vec![time],
        }),
    };
    let name = &data.table.name;

    let start = Instant::now();
    for partition in &data.partitions {
        black_box(read(data.store.source.as_ref(), name, &data.selection, partition).await?);
    }
    note("read the lake", false, start.elapsed());
    note("read the lake", true, plain_read(&data.files)?);

    for (name, compression, level) in [
        ("encode frames, plain", Compression::None, None),
        ("encode frames, zstd 1", Compression::Zstd(1), Some(1)),
        ("encode frames, zstd 3", Compression::Zstd(3), Some(3)),
    ] {
        let mut encoder = Encoder::new(compression)?;
        let start = Instant::now();
        for batch in data.batches.iter().flatten() {
            black_box(encoder.encode(batch, FRAME_BYTES)?);
        }
        note(name, false, start.elapsed());
        let start = Instant::now();
        let mut zstd = level.map(zstd::bulk::Compressor::new).transpose()?;
        for frame in &data.raw {
            match &mut zstd {
                Some(zstd) => drop(black_box(zstd.compress(&frame.payload)?)),
                None => drop(black_box(frame.payload.to_vec())),
            }
        }
        note(name, true, start.elapsed());
    }

    let mut decoder = Decoder::new(
        data.batches
            .iter()
            .flatten()
            .next()
            .ok_or("the table is empty")?
            .schema(),
    )?;
    let start = Instant::now();
    for frame in &data.packed {
        black_box(decoder.decode(frame.clone())?);
    }
    note("decode frames, zstd 1", false, start.elapsed());
    let mut zstd = zstd::bulk::Decompressor::new()?;
    let start = Instant::now();
    for frame in &data.packed {
        black_box(zstd.decompress(&frame.payload, usize::try_from(frame.raw_bytes)?)?);
    }
    note("decode frames, zstd 1", true, start.elapsed());

    let start = Instant::now();
    for batch in data.batches.iter().flatten() {
        black_box(digest(batch)?);
    }
    note("digest", false, start.elapsed());
    let start = Instant::now();
    for frame in &data.raw {
        black_box(xxhash_rust::xxh3::xxh3_128(&frame.payload));
    }
    note("digest", true, start.elapsed());

    let scratch = TempDir::with_prefix("strait-stages-")?;
    note(
        "write the lake",
        false,
        lake_write(data, scratch.path()).await?,
    );
    note("write the lake", true, plain_write(data, scratch.path())?);

    note("agents over memory", false, agents(data, &scratch).await?);
    note("agents over memory", true, socket(data).await?);
    Ok(())
}

/// The same files by the Parquet crate's own reader.
fn plain_read(files: &[PathBuf]) -> Result<Duration, Failure> {
    let start = Instant::now();
    for file in files {
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(file)?)?;
        for batch in builder.with_batch_size(8192).build()? {
            black_box(batch?);
        }
    }
    Ok(start.elapsed())
}

/// All partitions through the engine's sink, published and durable.
async fn lake_write(data: &Data, scratch: &Path) -> Result<Duration, Failure> {
    let cpu = CpuPool::new(1);
    let store = strait_lake::open_directory(scratch.join("lake"), cpu, Disk::default()).await?;
    let name = &data.table.name;
    store.sink.prepare(name, &data.table, false).await?;
    let claim = Claim {
        run: RunId::random(),
        table: name.clone(),
        agent: "a benchmark".to_owned(),
        job: "write".to_owned(),
        taken_at: 0,
    };
    let start = Instant::now();
    let attachment = store.sink.attach(&claim).await?;
    for (partition, batches) in data.partitions.iter().zip(&data.batches) {
        let begun = attachment
            .begin(partition, Disposition::Append, None)
            .await?;
        let Begun::Writer(mut writer) = begun else {
            return Err("a new lake has the partition already".into());
        };
        let mut rows = 0;
        for batch in batches {
            rows += batch.num_rows() as u64;
            writer.append(batch.clone()).await?;
        }
        let receipt = Receipt {
            key: partition.key.clone(),
            version: partition.version.clone(),
            rows,
            digest: Digest::default(),
            digest_id: DigestId::of(&data.table.schema)?,
            level: Level::Received,
            selection: data.selection.text(),
            origin: Origin::default(),
        };
        writer.finish(receipt).await?;
    }
    attachment.complete(Outcome::Done).await?;
    Ok(start.elapsed())
}

/// One file per partition by the Parquet crate's own writer, synced.
fn plain_write(data: &Data, scratch: &Path) -> Result<Duration, Failure> {
    let properties = WriterProperties::builder()
        .set_compression(ParquetCompression::ZSTD(ZstdLevel::try_new(LEVEL)?))
        .build();
    let start = Instant::now();
    for (at, batches) in data.batches.iter().enumerate() {
        let file = File::create(scratch.join(format!("plain-{at}.parquet")))?;
        let synced = file.try_clone()?;
        let schema = batches.first().ok_or("a partition without rows")?.schema();
        let mut writer = ArrowWriter::try_new(file, schema, Some(properties.clone()))?;
        for batch in batches {
            writer.write(batch)?;
        }
        writer.close()?;
        synced.sync_all()?;
    }
    Ok(start.elapsed())
}

/// Both agents, over stores that cost nothing: the time of a run, planned, copied and published.
async fn agents(data: &Data, scratch: &TempDir) -> Result<Duration, Failure> {
    let (a, b) = (MemoryStore::new(), MemoryStore::new());
    let name: TableName = TABLE.parse()?;
    a.create_table(
        &name,
        Arc::clone(&data.table.schema),
        data.table.divisions.clone(),
    )?;
    for (partition, batches) in data.partitions.iter().zip(&data.batches) {
        let schema = batches.first().ok_or("a partition without rows")?.schema();
        a.insert(&name, &partition.key, &concat_batches(&schema, batches)?)?;
    }
    let sink = SinkAgent::start_over(b.open(), "lake:///memory", None, |_| {}).await;
    let state = scratch.path().join(RunId::random().to_string());
    let url = sink.url();
    let source = SourceAgent::start_over(a.open(), "lake:///memory", state, &url, |_| {}).await;
    let operator = source.operator();
    let start = Instant::now();
    let id = operator.start().await;
    let run = operator.ended(&id).await;
    let elapsed = start.elapsed();
    if run.status != "done" {
        return Err(format!("the run ended {}: {}", run.status, run.message).into());
    }
    source.drain().await;
    sink.crash().await;
    Ok(elapsed)
}

/// The packed frames through a plain socket of this machine, which nobody can beat.
async fn socket(data: &Data) -> Result<Duration, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut writer = TcpStream::connect(listener.local_addr()?).await?;
    let (mut reader, _) = listener.accept().await?;
    let start = Instant::now();
    let drain = async {
        let mut buffer = vec![0; 256 << 10];
        while reader.read(&mut buffer).await? > 0 {}
        std::io::Result::Ok(())
    };
    let fill = async {
        for frame in &data.packed {
            writer.write_all(&frame.payload).await?;
        }
        writer.shutdown().await
    };
    tokio::try_join!(drain, fill)?;
    Ok(start.elapsed())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn print(data: &Data, mut timed: Vec<Timed>, json: bool) -> Result<(), Failure> {
    let (rows, raw_bytes) = (data.rows(), data.raw_bytes());
    let mut stages = vec![];
    for at in 0..timed.len() {
        if timed[at].limit {
            continue;
        }
        let name = timed[at].name;
        let seconds = median(&mut timed[at].times).as_secs_f64();
        let limit = timed
            .iter_mut()
            .find(|limit| limit.limit && limit.name == name);
        let limit = median(&mut limit.ok_or("a stage without a limit")?.times).as_secs_f64();
        stages.push((name, limit_of(name), seconds, limit));
    }
    if json {
        let stages: Vec<_> = (stages.iter())
            .map(|(name, limit_name, seconds, limit)| {
                serde_json::json!({ "stage": name, "limit": limit_name, "seconds": seconds, "limit_seconds": limit })
            })
            .collect();
        let all = serde_json::json!({ "rows": rows, "raw_bytes": raw_bytes, "stages": stages });
        println!("{all}");
        return Ok(());
    }
    println!(
        "{rows} rows, {:.1} MB of Arrow, medians of {ROUNDS}",
        raw_bytes as f64 / 1e6
    );
    println!("{:22} {:>9} {:>8}  beside", "stage", "MB/s", "ratio");
    for (name, limit_name, seconds, limit) in stages {
        println!(
            "{name:22} {:>9.0} {:>8.2}  {limit_name}",
            raw_bytes as f64 / seconds / 1e6,
            seconds / limit
        );
    }
    Ok(())
}

fn limit_of(stage: &str) -> &'static str {
    match stage {
        "read the lake" => "the Parquet crate reading the same files",
        "encode frames, plain" => "a copy of the bytes",
        "encode frames, zstd 1" => "zstd 1 alone",
        "encode frames, zstd 3" => "zstd 3 alone",
        "decode frames, zstd 1" => "zstd alone",
        "digest" => "XXH3-128 over the bytes",
        "write the lake" => "the Parquet crate writing, zstd 1, synced",
        _ => "the packed bytes through a socket",
    }
}
