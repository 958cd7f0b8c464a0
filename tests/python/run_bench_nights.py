"""What a night costs, by each way that there is: over the link, or backed up, carried and restored. Asserts nothing about time.

1,000 partitions of STRAIT_BENCH_NIGHT_ROWS rows each (1,000 by default). First everything, by `sync`, by `backup` + rsync + `restore`, and by rsync of the lake's
directory, which proves nothing and shows half of a table while it runs. Then nights after which none, ten, or all partitions have changed. Everything that is
compared is measured in this one run; what is printed beside seconds is memory and disk.
"""

import os
import pathlib
import subprocess
import sys
import time

import pyarrow as pa

import real_data
from checks import Checks
from deltalake import DeltaTable
from strait_pair import Pair, has_rsync

PARTITIONS = 1000
ROWS = int(os.environ.get("STRAIT_BENCH_NIGHT_ROWS", "1000"))


def rows_of(first, count, salt):
    """Rows of these partitions; `salt` makes them others."""
    keys = [key for key in range(first, first + count) for _ in range(ROWS)]
    numbers = [n * 7919 % 100_003 + salt for n in range(count * ROWS)]
    return pa.table(
        {
            "part": pa.array(keys, pa.int32()),
            "id": pa.array(range(count * ROWS), pa.int64()),
            "price": pa.array([n / 100 for n in numbers], pa.float64()),
            "size": pa.array([n % 500 for n in numbers], pa.int32()),
            "symbol": pa.array([f"S{n % 97}" for n in numbers]),
        }
    )


def change(pair, count, salt):
    """Puts other rows into the first `count` partitions of A."""
    real_data.write(pair.lake_a / "db1/mt", rows_of(0, count, salt), ["part"], mode="overwrite", predicate=f"part < {count}")


def bytes_under(path):
    return sum(file.stat().st_size for file in pathlib.Path(path).rglob("*") if file.is_file())


def timed(work):
    started = time.monotonic()
    answer = work()
    return time.monotonic() - started, answer


class Ways:
    def __init__(self, pair):
        self.pair = pair
        self.backup = pair.root / "backup"
        self.disk = pair.root / "disk"
        self.plain = pair.root / "plain"

    def rsync(self, source, target):
        subprocess.run(["rsync", "-a", "--delete", f"{source}/", f"{target}/"], check=True)
        subprocess.run(["sync", "-f", target], check=True)

    def link(self):
        return self.pair.sync("live:db1/mt", "dr:db1/mt", "--mode", "mirror")

    def carried(self):
        seconds = {}
        seconds["backup"], answer = timed(lambda: self.pair.json("backup", "--from", "live:db1/mt", "--to", f"file://{self.backup}"))
        seconds["rsync"], _ = timed(lambda: self.rsync(self.backup, self.disk))
        seconds["restore"], _ = timed(lambda: self.pair.json("restore", "--from", f"file://{self.disk}:db1/mt", "--to", "dr:db1/carried"))
        return seconds, answer

    def files(self):
        self.rsync(self.pair.lake_a / "db1/mt", self.plain)


def night(checks, ways, title):
    """One row of the table for each way."""
    link, answer = timed(ways.link)
    carried, backup = ways.carried()
    files, _ = timed(ways.files)
    whole = sum(carried.values())
    print(f"  {title:12}{link:9.2f}{whole:9.2f}{carried['backup']:10.2f}{carried['rsync']:8.2f}{carried['restore']:9.2f}{files:8.2f}{link / whole:9.2f}")
    checks.check(
        f"{title}: both ways copy the same partitions",
        answer["partitions_done"] == backup["partitions_done"],
        f"{answer['partitions_done']} and {backup['partitions_done']}",
    )


def main():
    checks = Checks()
    if not has_rsync():
        checks.skip("rsync is not there")
    with Pair() as pair:
        with checks.section(f"{PARTITIONS} partitions of {ROWS} rows", needed=True):
            real_data.write(pair.lake_a / "db1/mt", rows_of(0, PARTITIONS, 0), ["part"])
            before = bytes_under(pair.lake_a)
            print(f"  {before / 1e6:.0f} MB in lake A")
        ways = Ways(pair)
        with checks.section("nights, in seconds"):
            print(f"  {'':12}{'link':>9}{'carried':>9}{'= backup':>10}{'+ rsync':>8}{'+restore':>9}{'files':>8}{'link/carried':>14}")
            night(checks, ways, "first")
            night(checks, ways, "no change")
            change(pair, 10, 1)
            night(checks, ways, "1 % changed")
            change(pair, PARTITIONS, 2)
            night(checks, ways, "100 %")
        with checks.section("what it took"):
            peaks = ", ".join(f"{role} {peak / 2**20:.0f} MiB" for role, peak in pair.peaks().items())
            print(f"  peak memory: {peaks}")
            print(f"  disk at A beside its lake: link 0, carried {bytes_under(ways.backup) / 1e6:.0f} MB; at B: carried {bytes_under(ways.disk) / 1e6:.0f} MB")
            for table in ("mt", "carried"):
                rows = DeltaTable(pair.lake_b / "db1" / table).count()
                checks.check(f"{table} at B has every row", rows == PARTITIONS * ROWS, f"{rows:,}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
