"""The benchmark: lake to lake beside Python deltalake, and as files beside `rsync -a`; each stage beside its limit, the wire beside pyarrow Flight. Asserts
nothing about time.

Everything that is compared is measured in this one run, in turn, ROUNDS times; the median counts. What it prints are ratios, since the
machine's own speed is not ours. STRAIT_BENCH_ROWS sets the rows of the generated table (5,000,000 in 30 days).
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq

from checks import Checks
from deltalake import DeltaTable
from strait_pair import ROOT, Pair, binary, has_rsync, last_json

ROUNDS = 3
ROWS = int(os.environ.get("STRAIT_BENCH_ROWS", "5000000"))
TABLE = "demo/ticks"
STREAMS = (1, 2, 4)
HERE = pathlib.Path(__file__).resolve().parent


def cpu_seconds(pid):
    """Of a process so far: user and system."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def generate(root):
    """Lake A, by the demonstration, whose own copy is not looked at."""
    done = subprocess.run(
        [binary(), "demo", "--dir", root / "demo", "--rows", str(ROWS), "--json"], capture_output=True, text=True, timeout=900
    )
    if done.returncode != 0:
        raise AssertionError(f"the demonstration ended with code {done.returncode}: {done.stderr[-2000:]}")
    report = last_json(done.stdout)
    return root / "demo/a", report["partitions"]


def by_python(lake_a, target):
    """Seconds and peak bytes of a process that copies with deltalake, partition by partition."""
    done = subprocess.run(
        [sys.executable, HERE / "bench_deltalake.py", lake_a / TABLE, target], capture_output=True, text=True, timeout=900
    )
    if done.returncode != 0:
        raise AssertionError(f"deltalake: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def by_agents(lake_a, streams, pass_through="never"):
    """Seconds of a run, CPU seconds and peak bytes of each agent."""
    with Pair() as pair:
        (pair.lake_a / "demo").symlink_to(lake_a / "demo")
        before = {agent.role: cpu_seconds(agent.process.pid) for agent in pair.agents()}
        started = time.monotonic()
        answer = pair.sync(f"live:{TABLE}", f"dr:{TABLE}", "--streams", str(streams), "--pass-through", pass_through)
        seconds = time.monotonic() - started
        if answer["rows"] != ROWS:
            raise AssertionError(f"{answer['rows']} rows were copied, not {ROWS}")
        used = {agent.role: cpu_seconds(agent.process.pid) - before[agent.role] for agent in pair.agents()}
        # What an operator waits for is the command; what the agents took is the run.
        return {"seconds": seconds, "run_seconds": answer["elapsed_ms"] / 1e3, "cpu": used, "peaks": pair.peaks()} | {
            key: answer[key] for key in ("raw_bytes", "wire_bytes")
        }


def by_copy(lake_a, target):
    """Seconds of a plain copy of the directory, durable."""
    started = time.monotonic()
    shutil.copytree(lake_a / TABLE, target)
    for path in target.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return time.monotonic() - started


def by_rsync(lake_a, target):
    """Seconds of `rsync -a` of the directory; what it has written is not durable yet."""
    started = time.monotonic()
    subprocess.run(["rsync", "-a", f"{lake_a / TABLE}/", target], check=True)
    return time.monotonic() - started


def by_flight(lake_a):
    """Bytes of Arrow per second through pyarrow Flight with zstd on loopback; the rows are in memory."""
    files = sorted((lake_a / TABLE).glob("*=*/*.parquet"))
    table, rows = [], 0
    for file in files:
        table.append(pq.ParquetFile(file).read())
        rows += table[-1].num_rows
        if rows >= 800_000:
            break
    table = pa.concat_tables(table)
    done = subprocess.Popen([sys.executable, HERE / "bench_flight.py"], stdout=subprocess.PIPE, text=True)
    try:
        import pyarrow.flight as flight

        client = flight.connect(f"grpc://127.0.0.1:{int(done.stdout.readline())}")
        options = flight.FlightCallOptions(write_options=pa.ipc.IpcWriteOptions(compression="zstd"))
        times = []
        for _ in range(ROUNDS):
            started = time.monotonic()
            writer, reader = client.do_put(flight.FlightDescriptor.for_path("rows"), table.schema, options=options)
            writer.write_table(table, max_chunksize=16_384)
            writer.done_writing()
            reader.read()
            writer.close()
            times.append(time.monotonic() - started)
        return table.nbytes / statistics.median(times)
    finally:
        done.kill()
        done.wait()


def stages(lake_a):
    done = subprocess.run(
        [ROOT / "target/release/examples/stages", lake_a, TABLE, "--json"], capture_output=True, text=True, timeout=900
    )
    if done.returncode != 0:
        raise AssertionError(f"stages: {done.stderr[-2000:]}")
    return last_json(done.stdout)


def median(values):
    return statistics.median(list(values))


def print_copies(runs, python, copies, partitions):
    base = median(run["seconds"] for run in python)
    print(f"\n  {ROWS:,} rows in {partitions} partitions, lake to lake; medians of {ROUNDS}")
    print(f"  {'':22}{'s':>7}{'ratio':>8}{'rows/s':>12}{'CPU s':>14}{'peak MiB':>14}")
    peak = max(run["peak_bytes"] for run in python) / 2**20
    print(f"  {'Python deltalake':22}{base:7.2f}{1:8.2f}{ROWS / base:12,.0f}{median(run['cpu_seconds'] for run in python):14.1f}{peak:14.0f}")
    for streams, measured in runs.items():
        seconds = median(run["seconds"] for run in measured)
        cpu = " + ".join(f"{median(run['cpu'][role] for run in measured):.1f}" for role in ("source", "sink"))
        peaks = " + ".join(f"{max(run['peaks'][role] for run in measured) / 2**20:.0f}" for role in ("source", "sink"))
        name = f"Strait, {streams} stream{'s' if streams > 1 else ''}"
        print(f"  {name:22}{seconds:7.2f}{seconds / base:8.2f}{ROWS / seconds:12,.0f}{cpu:>14}{peaks:>14}")
    plain = median(copies)
    print(f"  {'copy of the files':22}{plain:7.2f}{plain / base:8.2f}")


def print_files(passed, rsyncs, copies):
    base = median(rsyncs)
    print(f"\n  the same as files (--pass-through auto); medians of {ROUNDS}. rsync does not make durable what it writes, the others do")
    print(f"  {'':22}{'s':>7}{'ratio':>8}{'run s':>8}{'CPU s':>14}{'peak MiB':>14}")
    print(f"  {'rsync -a':22}{base:7.2f}{1:8.2f}")
    for streams, measured in passed.items():
        seconds = median(run["seconds"] for run in measured)
        cpu = " + ".join(f"{median(run['cpu'][role] for run in measured):.1f}" for role in ("source", "sink"))
        peaks = " + ".join(f"{max(run['peaks'][role] for run in measured) / 2**20:.0f}" for role in ("source", "sink"))
        name = f"Strait, {streams} stream{'s' if streams > 1 else ''}"
        took = median(run["run_seconds"] for run in measured)
        print(f"  {name:22}{seconds:7.2f}{seconds / base:8.2f}{took:8.2f}{cpu:>14}{peaks:>14}")
    print(f"  {'copy, durable':22}{median(copies):7.2f}{median(copies) / base:8.2f}")


def print_stages(measured, flight):
    raw = measured["raw_bytes"]
    print(f"\n  {measured['rows']:,} rows, {raw / 1e6:.1f} MB of Arrow; one thread each, the agents over memory excepted")
    print(f"  {'stage':24}{'MB/s':>8}{'limit':>8}{'ratio':>8}  the limit")
    for stage in measured["stages"]:
        print(
            f"  {stage['stage']:24}{raw / stage['seconds'] / 1e6:8,.0f}{raw / stage['limit_seconds'] / 1e6:8,.0f}"
            f"{stage['seconds'] / stage['limit_seconds']:8.2f}  {stage['limit']}"
        )
    wire = next(stage for stage in measured["stages"] if stage["stage"] == "agents over memory")
    print(f"  {'pyarrow Flight, zstd':24}{flight / 1e6:8,.0f}{'':8}{raw / wire['seconds'] / flight:8.2f}  (agents over memory) / Flight: rates")


def print_shares(measured, runs):
    """Where the CPU time of a run goes, if each stage costs there what it costs alone."""
    streams = STREAMS[0]
    used = median(sum(run["cpu"].values()) for run in runs[streams])
    scale = runs[streams][0]["raw_bytes"] / measured["raw_bytes"]
    seconds = {stage["stage"]: stage["seconds"] * scale for stage in measured["stages"]}
    # With `auto` nothing is compressed on a network as fast as this one; decoding a plain frame copies nothing.
    compressed = runs[streams][0]["wire_bytes"] < 0.9 * runs[streams][0]["raw_bytes"]
    parts = {
        "source: read the lake": seconds["read the lake"],
        "source: digest": seconds["digest"],
        "source: encode frames": seconds["encode frames, zstd 1" if compressed else "encode frames, plain"],
        "sink: decode frames": seconds["decode frames, zstd 1"] if compressed else 0.0,
        "sink: digest": seconds["digest"],
        "sink: write the lake": seconds["write the lake"],
    }
    parts["the rest (wire, ledger, runtime)"] = used - sum(parts.values())
    print(f"\n  where {used:.1f} s of CPU go, {streams} stream, by the stages above")
    for name, part in parts.items():
        print(f"  {name:34}{part:6.2f} s {part / used:6.0%}")


def main():
    checks = Checks()
    with Pair() as scratch:
        scratch.stop()
        root = scratch.root
        with checks.section(f"{ROWS:,} rows into lake A", needed=True):
            lake_a, partitions = generate(root)
        runs, python, copies = {streams: [] for streams in STREAMS}, [], []
        passed, rsyncs = {streams: [] for streams in STREAMS}, []
        with checks.section("lake to lake", needed=True):
            for number in range(ROUNDS):
                target = root / f"python-{number}"
                python.append(by_python(lake_a, target))
                checks.check(f"round {number + 1}: deltalake copied every row", rows_of(target) == ROWS)
                shutil.rmtree(target)
                for streams in STREAMS:
                    runs[streams].append(by_agents(lake_a, streams))
                    passed[streams].append(by_agents(lake_a, streams, "auto"))
                if has_rsync():
                    rsyncs.append(by_rsync(lake_a, root / f"rsync-{number}"))
                    shutil.rmtree(root / f"rsync-{number}")
                copies.append(by_copy(lake_a, root / f"copy-{number}"))
                shutil.rmtree(root / f"copy-{number}")
            print_copies(runs, python, copies, partitions)
            if rsyncs:
                print_files(passed, rsyncs, copies)
            else:
                print("  WARNING: rsync is not there: pass-through WAS NOT COMPARED with it")
        with checks.section("stages and their limits"):
            measured, flight = stages(lake_a), by_flight(lake_a)
            print_stages(measured, flight)
            print_shares(measured, runs)
    return checks.finish()


def rows_of(table):
    return DeltaTable(table).to_pyarrow_dataset().count_rows()


if __name__ == "__main__":
    sys.exit(main())
