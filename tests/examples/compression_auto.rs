//! What compression costs and saves, on the rows of the demonstration: `cargo run --release --example compression_auto -- [ROWS] [ROUNDS]`.
//!
//! Both agents are processes of their own. Every round copies the same lake with each setting, over an open and over a slow network, one after
//! another, so that whatever else the machine does meets all of them. Ends with 1 if, over all rounds, `auto` takes more than 1.1 times the CPU
//! of `none` where nothing is slow, or carries more than level 1 where the network is, but for what the first frames of its streams cost.

use std::path::Path;
use std::process::ExitCode;

use agent_source::compression::FRAMES_PER_STEP;
use strait_tests::agents::Operator;
use strait_tests::demo;
use strait_tests::lakes::{Lakes, TABLE};
use strait_tests::process::AgentProcess;
use strait_tests::proxy::Proxy;

const DAYS: u32 = 30;
const POLICIES: [&str; 4] = ["none", "zstd:1", "zstd:3", "auto"];
const CPU_RATIO_MAX: f64 = 1.1;
/// Half a network of a gigabit a second would already be faster than these agents on two cores; this is one of 128 Mbit/s.
const SLOW_BYTES_PER_SECOND: u64 = 16 << 20;
/// Many frames, so that the first ones, which `auto` does not compress, are few of them.
const SLOW_FRAME_BYTES_MAX: u64 = 64 << 10;
const STREAMS: u64 = 4;

/// Sums over the rounds.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    raw_bytes: u64,
    wire_bytes: u64,
    cpu_ms: u64,
    elapsed_ms: u64,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    match arguments.peek().and_then(|first| first.to_str()) {
        Some("agent-source") => return agent_source::main_from(arguments),
        Some("agent-sink") => return agent_sink::main_from(arguments),
        _ => {}
    }
    let mut number = |default: u64| match arguments.next() {
        Some(text) => text.to_string_lossy().parse().expect("a number"),
        None => default,
    };
    let (rows, rounds) = (number(3_000_000), number(3));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(measure(rows, rounds))
}

async fn measure(rows: u64, rounds: u64) -> ExitCode {
    let lakes = Lakes::empty();
    demo::fill(&lakes.a(), TABLE, rows, DAYS).await;
    let (mut open, mut slow) = ([Cost::default(); 4], [Cost::default(); 4]);
    for _ in 0..rounds {
        for (at, policy) in POLICIES.iter().enumerate() {
            open[at] = open[at].plus(copy(&lakes, policy, None).await);
        }
        for (at, policy) in POLICIES.iter().enumerate() {
            slow[at] = slow[at].plus(copy(&lakes, policy, Some(SLOW_BYTES_PER_SECOND)).await);
        }
    }
    println!("{rows} rows, {rounds} rounds, sums; ratios to none");
    table("open network", &open);
    table("16 MiB/s, frames of 64 KiB", &slow);
    let [none, _, _, auto] = open;
    let cpu = auto.cpu_ms as f64 / none.cpu_ms as f64;
    let [_, level_1, _, auto] = slow;
    let first = rounds * STREAMS * FRAMES_PER_STEP * SLOW_FRAME_BYTES_MAX;
    let allowed = level_1.wire_bytes + first;
    println!(
        "open: auto takes {cpu:.3} of the CPU of none; slow: auto carries {} bytes, level 1 {} and its first frames at most {first}",
        auto.wire_bytes, level_1.wire_bytes
    );
    if cpu <= CPU_RATIO_MAX && auto.wire_bytes <= allowed {
        ExitCode::SUCCESS
    } else {
        println!("auto is worse than it may be");
        ExitCode::FAILURE
    }
}

impl Cost {
    fn plus(self, other: Cost) -> Cost {
        Cost {
            raw_bytes: self.raw_bytes + other.raw_bytes,
            wire_bytes: self.wire_bytes + other.wire_bytes,
            cpu_ms: self.cpu_ms + other.cpu_ms,
            elapsed_ms: self.elapsed_ms + other.elapsed_ms,
        }
    }
}

fn table(network: &str, costs: &[Cost; 4]) {
    println!("\n{network}\n  setting   wire/raw  source CPU        elapsed");
    for (policy, cost) in POLICIES.iter().zip(costs) {
        println!(
            "  {policy:8}  {:8.3}  {:7} ms {:4.2}x  {:7} ms {:4.2}x",
            cost.wire_bytes as f64 / cost.raw_bytes as f64,
            cost.cpu_ms,
            cost.cpu_ms as f64 / costs[0].cpu_ms as f64,
            cost.elapsed_ms,
            cost.elapsed_ms as f64 / costs[0].elapsed_ms as f64,
        );
    }
}

/// Copies the whole lake to a new one.
async fn copy(lakes: &Lakes, policy: &str, bytes_per_second: Option<u64>) -> Cost {
    let to = Lakes::empty();
    let program = std::env::current_exe().expect("this program");
    let program = program.to_str().expect("a path that is text");
    let sink = to.path("sink.toml");
    write(&sink, &lake_of("sink", &to.path("sink"), "b", &to.b()));
    let sink = AgentProcess::start(program, "agent-sink", &sink).await;
    let network = Proxy::to(sink.address().parse().expect("an address")).await;
    let mut settings = format!("compression = \"{policy}\"\nstreams_max = {STREAMS}\n");
    let url = match bytes_per_second {
        None => sink.url(),
        Some(rate) => {
            network.throttle(rate);
            settings += &format!("frame_bytes_max = {SLOW_FRAME_BYTES_MAX}\n");
            network.url()
        }
    };
    settings += &lake_of("source", &to.path("source"), "a", &lakes.a());
    settings += &format!("[sinks.b]\nurl = \"{url}\"\n");
    let source = to.path("source.toml");
    write(&source, &settings);
    let source = AgentProcess::start(program, "agent-source", &source).await;
    let operator = Operator::of(&source.url());
    let before = source.cpu();
    let run = operator.ended(&operator.start().await).await;
    let cpu = source.cpu() - before;
    assert_eq!(run.status, "done", "{run:?}");
    let progress = run.progress.expect("figures");
    Cost {
        raw_bytes: progress.raw_bytes,
        wire_bytes: progress.wire_bytes,
        cpu_ms: u64::try_from(cpu.as_millis()).expect("less than for ever"),
        elapsed_ms: progress.elapsed_ms,
    }
}

fn lake_of(state: &str, state_dir: &Path, store: &str, lake: &Path) -> String {
    format!(
        "listen = \"127.0.0.1:0\"\nstate_dir = \"{}-{state}\"\n[stores.{store}]\nurl = \"lake://{}\"\n",
        state_dir.display(),
        lake.display()
    )
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file is written");
}
