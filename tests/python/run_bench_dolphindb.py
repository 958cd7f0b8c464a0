"""DolphinDB's protocol by our client, by the vendor's crate and by the vendor's Python client, in turn against one stand-in; then whole copies by the agents, beside one by the vendor's
Python client. Asserts nothing about time.

Each client is a process of its own: what it prints are the seconds of each round, its CPU and the memory that the rounds took beyond what it held. The stand-in and the socket take
part of each second, the same part of everybody's; CPU seconds are the client's alone. STRAIT_BENCH_ROWS sets the rows (1,000,000).
"""

import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time


from checks import Checks
from dolphindb_copies import pair_of
from run_dolphindb import session, standin

ROWS = int(os.environ.get("STRAIT_BENCH_ROWS", "1000000"))
# Of the protocol, of a row of the 8 columns.
ROW_BYTES = 54
ROUNDS = 3
CLIENTS = pathlib.Path(os.environ["STRAIT_BIN"]).parent / "examples/clients"
HERE = pathlib.Path(__file__).resolve().parent
DAYS = [f"2024.10.{4 + day:02}" for day in range(10)]


def said(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise AssertionError(f"{words}: {(done.stdout + done.stderr)[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def by(client, address, what):
    if client == "python":
        return said(sys.executable, HERE / "bench_dolphindb_client.py", address, what)
    return said(CLIENTS, client, address, what)


def clients(checks, address):
    ways = [("ours", "decode"), ("crate", "decode"), ("python", "decode"), ("python", "blocks"), ("ours", "encode"), ("crate", "encode"), ("python", "encode")]
    taken = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            taken[way].append(by(way[0], address, way[1]))
    mib = ROWS * ROW_BYTES / 2**20
    print(f"  {'':18}{'MB/s':>8}{'beside ours':>13}{'CPU s':>8}{'beside ours':>13}{'held MiB':>10}{'more MiB':>10}")
    for way in ways:
        ours = taken["ours", "encode" if way[1] == "encode" else "decode"]
        seconds = [statistics.median(second for one in side for second in one["seconds"]) for side in (taken[way], ours)]
        cpus = [statistics.median(one["cpu"] / len(one["seconds"]) for one in side) for side in (taken[way], ours)]
        held = max(one["held_kib"] for one in taken[way]) / 1024
        more = max(one["peak_kib"] - one["held_kib"] for one in taken[way]) / 1024
        print(
            f"  {' '.join(way):18}{mib * 2**20 / 1e6 / seconds[0]:8.0f}{seconds[0] / seconds[1]:13.2f}{cpus[0]:8.3f}{cpus[0] / cpus[1]:13.2f}{held:10.0f}{more:10.0f}"
        )
        checks.check(f"{' '.join(way)}: all rows, each time", all(one["rows"] == ROWS for one in taken[way]))
    more = max(one["peak_kib"] - one["held_kib"] for one in taken["ours", "decode"]) / 1024
    checks.check("our client reads in the memory of some blocks, however many there are", more < 16, f"{more:.1f} MiB")


def by_hand(client, other):
    """Seconds of the vendor's Python client, partition by partition."""
    table = 'loadTable("dfs://bench_days", "ticks")'
    days = ", ".join(DAYS)
    other.upload({"sample": client.run(f"select * from {table} where n < 2")})
    other.run(f'createPartitionedTable(database("dfs://bench_days", VALUE, [{days}]), sample, "ticks", "day")')
    started = time.monotonic()
    for day in DAYS:
        frame = client.run(f"select * from {table} where partition(day, {day})")
        inserted = other.run(f"tableInsert{{{table}}}", frame)
        if inserted != len(frame):
            raise AssertionError(f"{inserted} of {len(frame)} rows")
    return time.monotonic() - started


def copies(checks, address):
    client = session(address)
    seconds = {"to DolphinDB": [], "to a lake": [], "by hand to DolphinDB": []}
    peaks = {}
    for _ in range(ROUNDS):
        for name in seconds:
            with contextlib.ExitStack() as stack:
                if name == "by hand to DolphinDB":
                    other = session(stack.enter_context(standin()))
                    seconds[name].append(by_hand(client, other))
                    count = other.run('exec count(*) from loadTable("dfs://bench_days", "ticks")')
                    checks.check(f"{name}: all rows", count == ROWS, count)
                    continue
                to = stack.enter_context(standin()) if name == "to DolphinDB" else None
                pair = stack.enter_context(pair_of(address, to))
                started = time.monotonic()
                answer = pair.sync("live:bench_days/ticks", "dr:bench_days/ticks", "--streams", 2)
                seconds[name].append(time.monotonic() - started)
                peaks[name] = {role: peak / 2**20 for role, peak in pair.peaks().items()}
                checks.check(f"{name}: all rows", answer["rows"] == ROWS, answer["rows"])
                verified = pair.json("verify", "--from", "live:bench_days/ticks", "--to", "dr:bench_days/ticks")
                checks.check(f"{name}: verified", verified["equal"] == len(DAYS), verified["equal"])
    hand = statistics.median(seconds["by hand to DolphinDB"])
    for name, taken in seconds.items():
        took = statistics.median(taken)
        memory = ", ".join(f"{role} {peak:.0f} MiB" for role, peak in peaks.get(name, {}).items())
        print(f"  {name}: {took:.2f} s, {ROWS / took / 1e6:.2f} M rows/s, {took / hand:.2f} times by hand; {memory or 'neither proved nor resumable'}")


def main():
    checks = Checks()
    with standin() as address:
        said(CLIENTS, "fill", address, ROWS)
        with checks.section(f"{ROWS:,} rows of 8 columns, {ROW_BYTES} bytes each on the wire", needed=True):
            clients(checks, address)
        with checks.section("whole copies of the same rows in 10 days"):
            copies(checks, address)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
