//! `strait demo`: the whole thing on one machine. A generated lake A, both agents as processes, lake B, and the comparison of the two.

mod agents;
mod chaos;
mod lake;
mod ticks;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use strait_common::cpu::CpuPool;
use strait_common::ids::TableName;
use strait_common::tls::Dialling;
use strait_common::{Error, Kind, OrError};
use strait_lake::disk::Disk;
use strait_proto::v1;

use self::agents::Agent;
use self::lake::Size;
use crate::client::Connection;
use crate::commands::{verify, watch};
use crate::format;
use crate::progress::Display;
use crate::report::{Outcome, Output, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Directory for both lakes, both agents' states, configurations and logs; a former demo in it is replaced
    #[arg(long, value_name = "DIR", default_value = "demo")]
    dir: PathBuf,
    /// Rows of the generated table
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    rows: u64,
    /// Trading days, each a partition
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    days: u32,
    /// Seed of the generator
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Kill the sink agent with SIGKILL at one third and the source agent at two thirds, and start each again
    #[arg(long)]
    chaos: bool,
}

/// What `strait demo --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    /// As the run ended.
    status: String,
    dir: String,
    rows: u64,
    partitions: u64,
    elapsed_ms: u64,
    rows_per_second: u64,
    raw_bytes: u64,
    wire_bytes: u64,
    verified_partitions: u64,
    different_partitions: u64,
    source_peak_memory_bytes: u64,
    sink_peak_memory_bytes: u64,
    /// The agents that were killed on the way, in order.
    kills: Vec<chaos::Kill>,
}

/// What tells a demo's directory from any other.
const MARKER: &str = ".strait-demo";
const TABLE: &str = "demo/ticks";

pub(crate) async fn run(output: &Output, arguments: Arguments) -> Result<Outcome> {
    // Ctrl-C drops everything, and with it the agents.
    tokio::select! {
        result = demo(output, arguments) => result,
        _ = tokio::signal::ctrl_c() => Err(Error::cancelled("stopped; the directory of the demo is left as it is").into()),
    }
}

async fn demo(output: &Output, arguments: Arguments) -> Result<Outcome> {
    let dir = prepare_directory(&arguments.dir)?;
    let begun = Instant::now();
    let table: TableName = TABLE.parse()?;
    output.note(&format!(
        "generating {} rows in {} days in {}",
        format::count(arguments.rows),
        arguments.days,
        dir.join("a").display()
    ));
    let store =
        strait_lake::open_directory(dir.join("a"), CpuPool::default(), Disk::default()).await?;
    let size = Size {
        rows: arguments.rows,
        days: arguments.days,
        seed: arguments.seed,
    };
    lake::fill(store.sink.as_ref(), &table, size, |_| {}).await?;
    drop(store);
    output.note(&format!(
        "generated in {}",
        format::duration_ms(millis(begun))
    ));

    let (source_port, sink_port) = (agents::free_port()?, agents::free_port()?);
    let (source_config, sink_config) = write_configs(&dir, source_port, sink_port)?;
    for log in ["sink.log", "source.log"] {
        // Of an earlier demo; lives of this one are added to each other.
        let _ = std::fs::remove_file(dir.join(log));
    }
    let mut sink =
        Agent::start("agent-sink", &sink_config, &dir.join("sink.log"), sink_port).await?;
    let mut source = Agent::start(
        "agent-source",
        &source_config,
        &dir.join("source.log"),
        source_port,
    )
    .await?;
    let url = format!("http://127.0.0.1:{source_port}");
    let result = replicate(output, &url, &mut source, &mut sink, &dir, arguments.chaos).await;
    // Both are stopped whatever happened.
    let stopped = (source.stop().await, sink.stop().await);
    let outcome = result?;
    stopped.0?;
    stopped.1?;
    output.print(&next_steps(&dir, &url));
    Ok(outcome)
}

async fn replicate(
    output: &Output,
    url: &str,
    source: &mut Agent,
    sink: &mut Agent,
    dir: &Path,
    chaos: bool,
) -> Result<Outcome> {
    let connection = Connection::new(url, &Dialling::default())?;
    let selectors = v1::Selectors {
        from: format!("a:{TABLE}"),
        to: format!("b:{TABLE}"),
        ..v1::Selectors::default()
    };
    let mut request = v1::StartRunRequest {
        selectors: Some(selectors.clone()),
        ..v1::StartRunRequest::default()
    };
    if chaos {
        let bandwidth_max = chaos::bandwidth_max(&connection, &selectors).await?;
        output.note(&format!(
            "the link is held to {} a second: this run would be over before anybody is killed",
            format::bytes(bandwidth_max)
        ));
        request.bandwidth_max = Some(bandwidth_max);
    }
    let reply = connection.control().start_run(request).await?.into_inner();
    let run = reply.run.unwrap_or_default();
    let display = Display::new(output);
    let trouble = async {
        if chaos {
            chaos::run(&connection, &display, &run.id, source, sink).await
        } else {
            Ok(Vec::new())
        }
    };
    // The first error ends both.
    let (run, kills) = tokio::try_join!(
        watch::until_end(&connection, display.clone(), &run.id),
        trouble
    )?;
    let outcome = if output.json {
        // The run is a part of this command's own object.
        watch::outcome(&run)
    } else {
        watch::show(&connection, output, &run, false).await?
    };
    let compared = Instant::now();
    let verification = verify::verify(&connection, selectors, verify::By::Digests).await?;
    output.print(&verify::text(&verification));
    let progress = run.progress.clone().unwrap_or_default();
    let (source_peak, sink_peak) = (source.peak_memory_bytes(), sink.peak_memory_bytes());
    output.print(&format!(
        "verified in {}; peak memory: source {}, sink {}",
        format::duration_ms(millis(compared)),
        format::bytes(source_peak),
        format::bytes(sink_peak)
    ));
    let equal = verification.different.is_empty();
    output.print_json(&Report {
        status: run.status.clone(),
        dir: dir.display().to_string(),
        rows: progress.rows_done,
        partitions: progress.partitions,
        elapsed_ms: progress.elapsed_ms,
        rows_per_second: format::per_second(progress.rows_sent, progress.elapsed_ms),
        raw_bytes: progress.raw_bytes,
        wire_bytes: progress.wire_bytes,
        verified_partitions: verification.equal,
        different_partitions: verification.different.len() as u64,
        source_peak_memory_bytes: source_peak,
        sink_peak_memory_bytes: sink_peak,
        kills,
    });
    Ok(if equal { outcome } else { Outcome::Differences })
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Makes the directory, or empties one that an earlier demo made; leaves any other alone.
fn prepare_directory(dir: &Path) -> strait_common::Result<PathBuf> {
    let name = dir.display();
    let occupied = dir.exists()
        && std::fs::read_dir(dir)
            .or_error(Kind::Config, &name)?
            .next()
            .is_some();
    if occupied && !dir.join(MARKER).exists() {
        return Err(Error::config(format!(
            "{name} is not empty and was not made by a demo; name another with --dir"
        )));
    }
    if occupied {
        for part in ["a", "b", "state"] {
            match std::fs::remove_dir_all(dir.join(part)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).or_error(Kind::Config, &name);
                }
                _ => {}
            }
        }
    }
    std::fs::create_dir_all(dir).or_error(Kind::Config, &name)?;
    std::fs::write(
        dir.join(MARKER),
        "made by `strait demo`, which replaces it\n",
    )
    .or_error(Kind::Config, &name)?;
    dir.canonicalize().or_error(Kind::Config, &name)
}

fn write_configs(
    dir: &Path,
    source_port: u16,
    sink_port: u16,
) -> strait_common::Result<(PathBuf, PathBuf)> {
    let (source, sink) = (dir.join("source.toml"), dir.join("sink.toml"));
    let root = dir.display();
    let text = format!(
        "listen = \"127.0.0.1:{source_port}\"\nstate_dir = \"{root}/state/source\"\nmemory = \"256MiB\"\n\n[stores.a]\nurl = \
         \"lake://{root}/a\"\n\n[sinks.b]\nurl = \"http://127.0.0.1:{sink_port}\"\n"
    );
    std::fs::write(&source, text).or_error(Kind::Config, source.display())?;
    let text = format!(
        "listen = \"127.0.0.1:{sink_port}\"\nstate_dir = \"{root}/state/sink\"\nmemory = \"256MiB\"\n\n[stores.b]\nurl = \"lake://{root}/b\"\n"
    );
    std::fs::write(&sink, text).or_error(Kind::Config, sink.display())?;
    Ok((source, sink))
}

fn next_steps(dir: &Path, url: &str) -> String {
    let program = std::env::current_exe()
        .map_or_else(|_| "strait".to_owned(), |path| path.display().to_string());
    let root = dir.display();
    format!(
        "\nTry next:\n  {program} agent-sink --config {root}/sink.toml &\n  {program} agent-source --config {root}/source.toml &\n  \
         {program} --agent {url} sync --from a:{TABLE} --to b:demo/opening --where \"ts < timestamp '2026-01-05 10:00:00'\"\n  \
         {program} --agent {url} verify --from a:{TABLE} --to b:{TABLE}"
    )
}
