//! Agents as child processes: told to stop, killed, and started again.

use std::path::PathBuf;

use rustix::process::Signal;
use strait_tests::agents::Operator;
use strait_tests::lakes::Lakes;
use strait_tests::process::{AgentProcess, Cli};
use strait_tests::proxy::Proxy;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strait");
const ROWS: u64 = 20_000;
const DAYS: u32 = 4;
/// About one day and a half of frames.
const STALL_AFTER_BYTES: u64 = 700_000;

/// Both agents, with a network between them that stalls in the middle of a run.
struct Pair {
    lakes: Lakes,
    sink: AgentProcess,
    network: Proxy,
    source: AgentProcess,
}

impl Pair {
    async fn start() -> Pair {
        let lakes = Lakes::filled(DAYS, ROWS).await;
        let sink =
            AgentProcess::start(PROGRAM, "agent-sink", &sink_config(&lakes, "127.0.0.1:0")).await;
        let network = Proxy::to(sink.address().parse().expect("an address")).await;
        let source =
            AgentProcess::start(PROGRAM, "agent-source", &source_config(&lakes, &network)).await;
        Pair {
            lakes,
            sink,
            network,
            source,
        }
    }

    /// A run that has committed something and not all.
    async fn run_in_the_middle(&self) -> String {
        self.network.stall_after(STALL_AFTER_BYTES);
        let id = operator(&self.source).start().await;
        self.network.stalled().await;
        id
    }

    async fn restart_source(&mut self) {
        let config = source_config(&self.lakes, &self.network);
        self.source = AgentProcess::start(PROGRAM, "agent-source", &config).await;
    }

    async fn ends_done(&self, id: &str) {
        let run = operator(&self.source).ended(id).await;
        assert_eq!(run.status, "done", "{run:?}");
        self.lakes.assert_equal().await;
    }
}

fn operator(source: &AgentProcess) -> Operator {
    Operator::of(&source.url())
}

fn sink_config(lakes: &Lakes, listen: &str) -> PathBuf {
    let text = format!(
        "listen = \"{listen}\"\nstate_dir = \"{}\"\npeer_timeout = \"2s\"\n[stores.b]\nurl = \"lake://{}\"\n",
        lakes.path("sink-state").display(),
        lakes.b().display()
    );
    written(lakes, "sink.toml", &text)
}

fn source_config(lakes: &Lakes, network: &Proxy) -> PathBuf {
    let text = format!(
        "listen = \"127.0.0.1:0\"\nstate_dir = \"{}\"\nstreams_max = 1\nframe_bytes_max = \"32KiB\"\nchunk_bytes = \"64KiB\"\n\
         peer_timeout = \"2s\"\nretry_wait_max = \"1s\"\n[stores.a]\nurl = \"lake://{}\"\n[sinks.b]\nurl = \"{}\"\n",
        lakes.path("source-state").display(),
        lakes.a().display(),
        network.url()
    );
    written(lakes, "source.toml", &text)
}

fn written(lakes: &Lakes, name: &str, text: &str) -> PathBuf {
    let path = lakes.path(name);
    std::fs::write(&path, text).expect("a file");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_sigterm_drains_and_the_run_goes_on_after_a_restart() {
    let mut pair = Pair::start().await;
    let id = pair.run_in_the_middle().await;
    pair.source.signal(Signal::TERM);
    // What is under way must reach the sink to be checkpointed.
    pair.network.heal();
    assert_eq!(pair.source.ended().await, Some(0), "{}", pair.source.log());
    let log = pair.source.log();
    assert!(
        log.contains("draining") && !log.contains("cancelled"),
        "{log}"
    );

    pair.restart_source().await;
    pair.ends_done(&id).await;
    let (_, run) = Cli::new(PROGRAM, &pair.source.url())
        .json(&["runs", "show", &id])
        .await;
    assert_eq!(run["rows"], u64::from(DAYS) * ROWS, "{run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_sigterm_cancels_and_the_run_goes_on_after_a_restart() {
    let mut pair = Pair::start().await;
    let id = pair.run_in_the_middle().await;
    // The network passes nothing, so a drain cannot come to its end by itself.
    pair.source.signal(Signal::TERM);
    strait_tests::eventually("the agent drains", async || {
        pair.source.log().contains("draining").then_some(())
    })
    .await;
    pair.source.signal(Signal::TERM);
    assert_eq!(pair.source.ended().await, Some(0), "{}", pair.source.log());
    assert!(
        pair.source.log().contains("cancelled"),
        "{}",
        pair.source.log()
    );

    pair.network.heal();
    pair.restart_source().await;
    pair.ends_done(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_told_to_stop_costs_nothing() {
    let mut pair = Pair::start().await;
    let id = pair.run_in_the_middle().await;
    pair.sink.signal(Signal::TERM);
    strait_tests::eventually("the agent drains", async || {
        pair.sink.log().contains("draining").then_some(())
    })
    .await;
    pair.sink.signal(Signal::TERM);
    assert_eq!(pair.sink.ended().await, Some(0), "{}", pair.sink.log());

    let config = sink_config(&pair.lakes, pair.sink.address());
    pair.sink = AgentProcess::start(PROGRAM, "agent-sink", &config).await;
    pair.network.heal();
    pair.ends_done(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_has_lost_its_state_has_lost_nothing() {
    let mut pair = Pair::start().await;
    let id = pair.run_in_the_middle().await;
    let before = pair.lakes.contents(&pair.lakes.b()).await;
    pair.sink.signal(Signal::KILL);
    assert_eq!(pair.sink.ended().await, None, "a signal ended it");
    std::fs::remove_dir_all(pair.lakes.path("sink-state")).unwrap();

    let config = sink_config(&pair.lakes, pair.sink.address());
    pair.sink = AgentProcess::start(PROGRAM, "agent-sink", &config).await;
    pair.network.heal();
    pair.ends_done(&id).await;
    let after = pair.lakes.contents(&pair.lakes.b()).await;
    assert!(
        before.iter().all(|(key, rows)| after[key] == *rows),
        "what was there is as it was"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_agents_killed_lose_and_double_nothing() {
    let mut pair = Pair::start().await;
    let id = pair.run_in_the_middle().await;
    pair.source.signal(Signal::KILL);
    pair.sink.signal(Signal::KILL);
    assert_eq!(
        (pair.source.ended().await, pair.sink.ended().await),
        (None, None)
    );

    let config = sink_config(&pair.lakes, pair.sink.address());
    pair.sink = AgentProcess::start(PROGRAM, "agent-sink", &config).await;
    pair.network.heal();
    pair.restart_source().await;
    pair.ends_done(&id).await;
}
