"""What an operator may meet, made to happen: both agents as real processes, broken in every way that the README speaks of, a writer adding rows to A
and a reader polling B meanwhile.

    run_faults.py [--quick] [--seed N] [--only SCENARIO]

Every scenario is one run or a few of table db1/ticks. The writer is held only while a run is planned, so that the planned version of A is known; when
the run has ended, B must equal A at that version (Delta's time travel), row for row, by two readers. The reader of B must never have seen a part of a
partition. Random moments come from the seed, which is printed; each scenario has its own, so --only replays it alone.
"""

import argparse
import contextlib
import datetime
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

import real_data
from checks import Checks
from lake_compare import compare, live_files
from link import Link
from small_disk import SmallDisk
from strait_pair import ENDED, Agent, Pair, free_port
from whole_partitions import WholePartitions, counts_by_log

FIRST_DAY = datetime.date(2026, 1, 5)
DAYS = 24
# Short spans, so that what takes minutes in the field takes seconds here.
SOURCE_KEYS = {"frame_bytes_max": "64KiB", "chunk_bytes": "256KiB", "peer_timeout": "2s", "retry_wait_max": "1s", "retries_max": 40}
SINK_KEYS = {"peer_timeout": "2s"}
WAIT_S = 180
WRITER_PAUSE_S = 0.25
WRITER_ROWS = 200


def ticks(rng, day, first_id, rows):
    """Rows that do not compress."""
    noise = pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(rng.randbytes(8 * rows))])
    more = pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(rng.randbytes(8 * rows))])
    columns = {
        "day": pa.repeat(pa.scalar(day, pa.date32()), rows),
        "id": pa.array(range(first_id, first_id + rows), pa.int64()),
        "symbol": pa.array(["AAPL", "IBM", "东京", ""]).take(pc.bit_wise_and(noise, 3)),
        "price": pc.divide(noise.cast(pa.float64(), safe=False), 1e15),
        "size": pc.if_else(pc.equal(pc.bit_wise_and(more, 63), 0), None, more),
    }
    return pa.table(columns)


def make_lake(path, rng, rows):
    """Table db1/ticks, each day of two files, as one that was appended to all day."""
    for share in (slice(0, rows // 3), slice(rows // 3, rows)):
        days = [ticks(rng, FIRST_DAY + datetime.timedelta(days=day), day * rows, rows)[share] for day in range(DAYS)]
        real_data.write(path / "db1/ticks", pa.concat_tables(days), ["day"], mode="append")


class Writer:
    """Appends rows to A, to days that are there and to new ones, until it is stopped."""

    def __init__(self, path, rng):
        self.path = str(path)
        self.commits = 0
        self._rng = rng
        # Days to which nothing is added: what has a row again is not gone, and is not dropped at B.
        self.spared = set()
        # Held by who plans, and by whole scenarios.
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._next_id = 1_000_000_000
        self._error = None
        self._thread = threading.Thread(target=self._write, name="writer of A", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(timeout=60)
        if self._error:
            raise AssertionError(f"the writer of A failed: {self._error}")

    @contextlib.contextmanager
    def still(self):
        """Nothing is written meanwhile."""
        with self._lock:
            yield

    def _write(self):
        try:
            while not self._stop.wait(WRITER_PAUSE_S):
                with self._lock:
                    days = [FIRST_DAY + datetime.timedelta(days=number) for number in range(DAYS + 4)]
                    day = self._rng.choice([day for day in days if day not in self.spared])
                    rows = ticks(self._rng, day, self._next_id, WRITER_ROWS)
                    write_deltalake(self.path, rows, mode="append")
                    self._next_id += WRITER_ROWS
                    self.commits += 1
        except Exception as error:
            self._error = f"{type(error).__name__}: {error}"


class Outcome:
    """One line of the closing table."""

    def __init__(self, scenario, seed):
        self.scenario = scenario
        self.seed = seed
        self.runs = 0
        self.kills = 0
        self.rows = 0
        self.partitions = 0
        self.looks = 0
        self.verdict = "failed"


class World:
    """Both agents, a link between them, the writer, and what the checks of one scenario need."""

    def __init__(self, checks, outcome, rng, pair, link, writer, quick):
        self.checks = checks
        self.outcome = outcome
        self.rng = rng
        self.pair = pair
        self.link = link
        self.writer = writer
        self.quick = quick
        self.source_table = pair.lake_a / "db1/ticks"

    def plan(self, target, *more):
        """Begins a run; what it is about."""
        with self.writer.still():
            before = counts_by_log(self.pair.lake_b / "db1" / target)
            version = DeltaTable(self.source_table).version()
            run = self.pair.begin("live:db1/ticks", f"dr:db1/{target}", *more)
        return Run(self, run, target, version, before)

    def say(self, sentence):
        print(f"  {sentence}", flush=True)

    def strait(self, *arguments, agent=None):
        """What an operator types, printed with what comes back."""
        code, out, err = self.pair.strait(*arguments, agent=agent)
        said = (err.strip() or out.strip()).splitlines()
        self.say(f"$ strait {' '.join(map(str, arguments))} -> {code}: {' / '.join(said)[:400]}")
        return code, out, err


class Run:
    """A run under way, with a reader on its target."""

    def __init__(self, world, run, target, version, before):
        self.world = world
        self.id = run
        self.target = target
        self.version = version
        self.path_b = world.pair.lake_b / "db1" / target
        self.expected = counts_by_log(world.source_table, version)
        self.reader = WholePartitions(self.path_b, self.expected, before)
        self.kills = 0

    def __enter__(self):
        self.reader.__enter__()
        return self

    def __exit__(self, *arguments):
        self.reader.__exit__(*arguments)

    def missing(self):
        there = counts_by_log(self.path_b)
        return sum(there.get(key, 0) != self.expected.get(key, 0) for key in there.keys() | self.expected.keys())

    def show(self):
        return self.world.pair.show(self.id)

    def until(self, what, happened, may_end=False):
        """Waits for something to be so of the run as the source shows it."""
        deadline = time.monotonic() + WAIT_S
        while True:
            shown = self.show()
            if happened(shown):
                return shown
            if shown.get("status") in ENDED and not may_end:
                raise AssertionError(f"the run ended before {what}: {shown}")
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}: {shown}")
            time.sleep(0.05)

    def some_are_visible(self, share=0.2):
        """Some partitions are published, and many are not."""
        wanted = max(1, int(len(self.expected) * share))
        self.until(f"{wanted} partitions", lambda _: self.reader.visible >= wanted)

    def ends_equal(self, status="done"):
        """Waits for the end, and compares."""
        world, ended = self.world, self.world.pair.wait(self.id, timeout_s=WAIT_S)
        world.checks.check(f"{self.target}: the run ended {status}", ended.get("status") == status, ended.get("message"))
        self.is_equal()

    def is_equal(self):
        world = self.world
        looks, deadline = self.reader.looks, time.monotonic() + 60
        while self.reader.looks < looks + 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        result = compare(world.source_table, self.path_b, self.version)
        rows = sum(self.expected.values())
        world.checks.check(
            f"{self.target}: B equals A at its planned version {self.version}, nothing lost and nothing twice",
            result.equal and result.rows == rows,
            f"{result.rows:,} of {rows:,} rows, {result.partitions} partitions, {result.differences[:3] or 'no difference'}",
        )
        world.checks.check(f"{self.target}: a reader of B saw only whole partitions", not self.reader.violations, self.reader)
        world.outcome.runs += 1
        world.outcome.kills += self.kills
        world.outcome.rows += result.rows
        world.outcome.partitions += result.partitions
        world.outcome.looks += self.reader.looks


# -- the scenarios -----------------------------------------------------------------------------------------------------------------------


def kills_of(who):
    def scenario(world):
        runs, kills_max = (1, 4) if world.quick else (4, 10)
        for n in range(runs):
            one_run_killed(world, who, f"killed_{who}_{n}", kills_max)

    scenario.__doc__ = f"kill -9 of {who} at random moments"
    return scenario


def one_run_killed(world, who, target, kills_max):
    pair = world.pair
    roles = {"source": [pair.source], "sink": [pair.sink], "both": [pair.sink, pair.source]}[who]
    with world.plan(target, "--streams", world.rng.randint(1, 3)) as run:
        kill(world, run, roles, kills_max, 0.7)
        world.say(f"killed {run.kills} times before the last partition was there")
        run.ends_equal()
    world.checks.check(f"{target}: it was killed in the middle of the run", run.kills > 0, f"{run.kills} kills")


def kill(world, run, roles, kills_max, longest_s):
    """kill -9 of these agents at random moments, until the run has ended."""
    for _ in range(kills_max):
        time.sleep(world.rng.uniform(0.02, longest_s))
        if run.show().get("status") in ENDED:
            return
        for agent in world.rng.sample(roles, len(roles)):
            agent.kill9()
        # Read when they are dead: what is missing now was missing at the kill.
        run.kills += run.missing() > 0
        time.sleep(world.rng.uniform(0, 0.3))
        for agent in world.rng.sample(roles, len(roles)):
            agent.start()


def files_by_key(path, version=None):
    files = {}
    for file in live_files(DeltaTable(path, version=version)):
        files.setdefault(file.key, set()).add(file.uri)
    return files


def days_of(path, rng, count):
    return rng.sample(sorted(counts_by_log(path)), count)


def where_day(key):
    return f"day = '{key[0]}'"


def rows_of_day(path, key):
    return DeltaTable(path).to_pyarrow_table(filters=[("day", "=", key[0])])


def drift(world, path_b):
    """Somebody else writes to B. The days that are not A's any more; one more is written anew with the rows it had, which makes no difference."""
    added, changed, gone, anew = days_of(path_b, world.rng, 4)
    extra = ticks(world.rng, added[0], 5_000_000_000, 7)
    write_deltalake(path_b, extra, mode="append")
    held = rows_of_day(path_b, changed)
    other = held.set_column(held.schema.get_field_index("size"), "size", pa.repeat(pa.scalar(1, pa.int64()), held.num_rows))
    for day, rows in ((changed, other), (gone, None), (anew, rows_of_day(path_b, anew))):
        DeltaTable(path_b).delete(where_day(day))
        if rows is not None:
            write_deltalake(path_b, rows, mode="append")
    return {added, changed, gone}


def mirror_nights(world):
    """nights of --mode mirror, both agents killed in each, B written to by others in between, days that A drops"""
    pair, path_b = world.pair, world.pair.lake_b / "db1/mirrored"
    mirror = ("mirrored", "--mode", "mirror", "--allow-drop", 1, "--streams", 2)
    roles, seen = [pair.sink, pair.source], None
    for night in range(2 if world.quick else 5):
        with world.writer.still():
            differing, dropped = set(), 0
            if seen is not None:
                differing = drift(world, path_b)
                (goes,) = days_of(world.source_table, world.rng, 1)
                DeltaTable(world.source_table).delete(where_day(goes))
                world.writer.spared = set(goes)
                dropped = int(goes in counts_by_log(path_b))
            now = files_by_key(world.source_table)
            before = files_by_key(world.source_table, seen) if seen is not None else {}
            differing |= {key for key in now if now[key] != before.get(key)}
            differing &= now.keys()
            run = world.plan(*mirror)
        seen = run.version
        with run:
            kill(world, run, roles, 3 if world.quick else 6, 0.5)
            run.ends_equal()
        world.writer.spared = set()
        shown = run.show()
        # What a killed attempt had copied is counted as copied, and what was not begun is decided anew.
        world.checks.check(
            f"night {night}: what differs alone was copied, and what A has dropped alone went",
            (shown["partitions_done"], shown["partitions_dropped"]) == (len(differing), dropped),
            f"{shown['partitions_done']} copied of {len(differing)} that differ, {shown['partitions_dropped']} of {dropped} dropped",
        )
        with world.writer.still():
            answer = pair.json("sync", "--from", "live:db1/ticks", "--to", "dr:db1/mirrored", "--mode", "mirror")
            later = files_by_key(world.source_table)
        changed = {key for key in later if later[key] != now.get(key)}
        world.checks.check(
            f"night {night}: another run copies what A's writer has changed since, and nothing else",
            answer["partitions_done"] == len(changed),
            f"{answer['partitions_done']} of {len(changed)}; {answer['wire_bytes']:,} bytes",
        )
        seen = DeltaTable(world.source_table).version()
        world.say(f"night {night}: {run.kills} kills, {len(differing)} partitions differed, {shown['retries']} retries")


def replace_killed(world):
    """--mode replace of a table that is there, both agents killed: every partition is the old one or the new one"""
    pair = world.pair
    with world.writer.still():
        pair.sync("live:db1/ticks", "dr:db1/replaced")
    time.sleep(4 * WRITER_PAUSE_S)
    with world.plan("replaced", "--mode", "replace", "--streams", 2) as run:
        kill(world, run, [pair.sink, pair.source], 3 if world.quick else 8, 0.5)
        run.ends_equal()
    world.checks.check("replaced: every partition was copied", run.show()["partitions_done"] == len(run.expected), run.kills)


def killed_while_it_starts(world):
    """kill -9 again before the agent has come up"""
    pair = world.pair
    with world.plan("killed_at_start") as run:
        run.some_are_visible(0.1)
        for _ in range(2 if world.quick else 6):
            for agent in (pair.sink, pair.source):
                agent.kill9()
                agent.launch()
            run.kills += run.missing() > 0
            time.sleep(world.rng.uniform(0.0, 0.08))
        for agent in (pair.sink, pair.source):
            agent.kill9()
        pair.start()
        run.ends_equal()


def source_state_lost(world):
    """the source's state_dir is removed in mid-run"""
    pair = world.pair
    with world.writer.still(), world.plan("state_lost") as run:
        run.some_are_visible()
        # Under the living agent, then it dies: what it still had open is gone as well.
        shutil.rmtree(pair.root / "source-state")
        pair.source.kill9()
        run.kills += run.missing() > 0
        pair.source.start()
        code, _, err = world.strait("runs", "show", run.id)
        world.checks.check("the run is not known any more, and adopting is spoken of", code == 2 and "adopt" in err, code)
        code, _, err = world.strait("sync", "--from", "live:db1/ticks", "--to", "dr:db1/state_lost")
        world.checks.check("another run is refused, naming the one that owns the target", code == 17 and run.id in err, code)
        code, *_ = world.strait("runs", "adopt", run.id, "--to", "dr:db1/state_lost")
        world.checks.check("it is adopted, and ends", code == 0, code)
        # It was planned again, from A as it is now: nothing was written since.
        run.ends_equal()
    with world.writer.still(), world.plan("state_lost_again") as run:
        run.some_are_visible()
        pair.source.kill9()
        run.kills += run.missing() > 0
        shutil.rmtree(pair.root / "source-state")
        pair.source.start()
        code, *_ = world.strait("runs", "abandon", run.id, "--to", "dr:db1/state_lost_again")
        world.checks.check("it is abandoned", code == 0, code)
        answer = pair.sync("live:db1/ticks", "dr:db1/state_lost_again")
        already = answer["partitions_already"]
        world.checks.check("a new run finds what the other one had published", already > 0, f"{already} partitions")
        run.is_equal()


def sink_state_lost(world):
    """the sink's state_dir is removed in mid-run"""
    pair = world.pair
    with world.plan("sink_state_lost") as run:
        run.some_are_visible(0.1)
        shutil.rmtree(pair.root / "sink-state")
        run.some_are_visible(0.3)
        pair.sink.kill9()
        run.kills += run.missing() > 0
        pair.sink.start()
        run.ends_equal()


def second_sink(world):
    """a second sink agent on the same lake takes over, and the first wakes up late"""
    pair = world.pair
    second = Agent(
        "sink", pair.root / "second", free_port(), "256MiB", SINK_KEYS, {"stores.lake": f"lake://{pair.lake_b}"}
    )
    second.start()
    try:
        with world.plan("second_sink", "--streams", 2) as run:
            for turn in range(2 if world.quick else 4):
                run.some_are_visible(0.2 + 0.15 * turn)
                here, there = (pair.sink, second) if turn % 2 == 0 else (second, pair.sink)
                # Frozen in the middle of whatever it did; the source is led to the other one, at once or when it has waited in vain. What had
                # arrived before is still there when the first one wakes.
                here.pause()
                attempts = run.show()["attempts"]
                world.link.to(there.port)
                if world.rng.random() < 0.3:
                    world.link.cut()
                run.until("it is attached at the other sink", lambda shown: shown["attempts"] > attempts, may_end=True)
                here.go_on()
            run.ends_equal()
    finally:
        world.link.to(pair.sink.port)
        second.kill9()


def second_pair(world):
    """a second pair of agents on the same two lakes: refused, then it adopts the run, and the first is fenced"""
    pair = world.pair
    others = {"stores.live": f"lake://{pair.lake_a}"}
    sink = Agent("sink", pair.root / "other", free_port(), "256MiB", SINK_KEYS, {"stores.lake": f"lake://{pair.lake_b}"})
    source = Agent("source", pair.root / "other", free_port(), "256MiB", SOURCE_KEYS, others | {"sinks.dr": sink.url})
    sink.start()
    source.start()
    try:
        with world.writer.still(), world.plan("second_pair") as run:
            run.some_are_visible()
            target = ("--to", "dr:db1/second_pair")
            code, _, err = world.strait("sync", "--from", "live:db1/ticks", *target, agent=source)
            world.checks.check("the second pair is refused, and told whose the target is", code == 17 and run.id in err, code)
            code, *_ = world.strait("runs", "adopt", run.id, *target, agent=source)
            world.checks.check("it adopts the run and ends it", code == 0, code)
            ended = pair.wait(run.id, timeout_s=WAIT_S)
            world.checks.check("the first one's run ends as fenced", ended["kind"] == "fenced", f"{ended['status']}: {ended['message']}")
            run.is_equal()
    finally:
        source.kill9()
        sink.kill9()


def link_cut(world):
    """every connection is reset, again and again, and the network is away for a while"""
    with world.plan("link_cut", "--streams", 2) as run:
        for _ in range(3 if world.quick else 10):
            time.sleep(world.rng.uniform(0.1, 0.6))
            world.link.down = world.rng.random() < 0.5
            world.link.cut()
            run.kills += run.missing() > 0
            time.sleep(world.rng.uniform(0, 0.5))
            world.link.down = False
        run.ends_equal()


def link_slow(world):
    """late and slow: 40 ms each way, and a fifth of the bandwidth for a while"""
    rate = world.link.rate
    with world.plan("link_slow", "--streams", 2) as run:
        world.link.delay_s, world.link.rate = 0.04, rate / 5
        time.sleep(2 if world.quick else 6)
        world.link.delay_s, world.link.rate = 0.0, rate
        run.ends_equal()


def held_and_let_go(world, target, hold, let_go, rest_s):
    """One run, held until the source says that it waits, and let go, again and again."""
    with world.plan(target, "--streams", 2) as run:
        run.some_are_visible(0.1)
        for _ in range(1 if world.quick else 3):
            hold()
            shown = run.until("it waits", lambda shown: "retry" in shown["message"])
            world.say(f"waiting: {shown['message']}")
            let_go()
            time.sleep(world.rng.uniform(rest_s, 1.0))
        run.ends_equal()


def link_half_open(world):
    """connections stay and nothing passes, for longer than peer_timeout"""
    held_and_let_go(world, "half_open", world.link.stall, world.link.heal, 0.3)


def hung_sink(world):
    """a sink that hangs behind a live connection (SIGSTOP), for longer than peer_timeout"""
    held_and_let_go(world, "hung_sink", world.pair.sink.pause, world.pair.sink.go_on, 0.2)


def hung_source(world):
    """a source that hangs (SIGSTOP) and comes back"""
    pair = world.pair
    with world.plan("hung_source", "--streams", 2) as run:
        run.some_are_visible(0.1)
        pair.source.pause()
        time.sleep(3 if world.quick else 8)
        pair.source.go_on()
        run.ends_equal()


def full_disk_of_b(world):
    """B's disk is full in mid-run, and has room again later"""
    disk = world.disks["b"]
    for n in range(1 if world.quick else 3):
        with world.plan(f"full_b_{n}", "--streams", 1 + n % 2) as run:
            run.some_are_visible(0.1)
            disk.fill(leave_bytes=world.rng.choice([0, 4096, 60_000, 700_000]))
            shown = run.until("it waits for room", lambda shown: "disk is full" in shown["message"])
            world.checks.check("the run waits, and names a path on the disk", str(world.pair.lake_b) in shown["message"], shown["message"])
            world.checks.check("and the sink", "sink dr" in shown["message"])
            world.say(f"waiting: {shown['message']}")
            # It goes on waiting: more tries than a partition or a streak of other errors has.
            if not world.quick:
                run.until("it has tried again", lambda now: now["retries"] >= shown["retries"] + 8)
            if n == 1:
                world.pair.sink.kill9()
                run.kills += 1
                world.pair.sink.start()
            disk.make_room()
            run.ends_equal()


def full_disk_of_state(world):
    """the disk of the source's state_dir is full in mid-run, and has room again later"""
    disk, pair = world.disks["source-state"], world.pair
    for n in range(1 if world.quick else 2):
        with world.plan(f"full_state_{n}") as run:
            run.some_are_visible(0.1)
            disk.fill()
            shown = run.until("it waits for room", lambda shown: "disk is full" in shown["message"])
            path = str(pair.root / "source-state")
            world.checks.check("the run waits, and names a path on the disk", path in shown["message"], shown["message"])
            world.say(f"waiting: {shown['message']}")
            code, *_ = world.strait("runs", "list")
            world.checks.check("runs can be listed meanwhile", code == 0, code)
            code, _, err = world.strait("sync", "--from", "live:db1/ticks", "--to", f"dr:db1/full_state_{n}_more")
            world.checks.check("a new run is refused for now, naming the disk", code == 5 and path in err, code)
            if n == 1:
                pair.source.kill9()
                run.kills += 1
                pair.source.start()
            disk.make_room()
            run.ends_equal()


QUICK = {
    "kill -9 source": kills_of("source"),
    "kill -9 sink": kills_of("sink"),
    "kill -9 both": kills_of("both"),
    "source state lost": source_state_lost,
    "sink state lost": sink_state_lost,
    "second sink": second_sink,
    "second pair": second_pair,
    "link half-open": link_half_open,
    "full disk of B": full_disk_of_b,
    "full disk of state": full_disk_of_state,
    "mirror nights": mirror_nights,
    "replace": replace_killed,
}
ALL = QUICK | {
    "kill -9 at start": killed_while_it_starts,
    "link cut": link_cut,
    "link slow": link_slow,
    "hung sink": hung_sink,
    "hung source": hung_source,
}
# Where a run is planned again, from A as it is then.
STILL = {"source state lost", "second pair"}
NEED_DISKS = {"full disk of B": ("b", 96), "full disk of state": ("source-state", 4)}


def run_scenario(checks, name, scenario, seed, quick, no_disks, lake_a):
    outcome = Outcome(name, seed)
    if name in NEED_DISKS and no_disks:
        outcome.verdict = "SKIPPED"
        print(f"-- {name}: SKIPPED, NOT TESTED: {no_disks}", flush=True)
        return outcome
    rng = random.Random(f"{seed} {name}")
    # Half of the scenarios decode every row, the others carry files as they are; the next seed turns them round.
    pass_through = ("auto", "never")[(list(ALL).index(name) + seed) % 2]
    failed = checks.failed
    with checks.section(f"{name}: {scenario.__doc__} (seed {seed}, --pass-through {pass_through})"), contextlib.ExitStack() as stack:
        link = Link()
        stack.callback(link.close)
        pair = Pair(source_keys=SOURCE_KEYS, sink_keys=SINK_KEYS, through=link.to, pass_through=pass_through)
        stack.callback(pair.close)
        disks = {}
        if name in NEED_DISKS:
            folder, mib = NEED_DISKS[name]
            disks[folder] = stack.enter_context(SmallDisk(pair.root / folder, mib))
        shutil.copytree(lake_a, pair.lake_a, dirs_exist_ok=True)
        # So narrow that a run lasts for some kills.
        link.rate = 1_200_000 if quick else 2_500_000
        writer = Writer(pair.lake_a / "db1/ticks", random.Random(f"{seed} {name} writer"))
        try:
            pair.start()
            stack.enter_context(writer)
            world = World(checks, outcome, rng, pair, link, writer, quick)
            world.disks = disks
            scenario(world)
        except Exception:
            for agent in pair.agents():
                print(f"-- end of the {agent.role} agent's log --\n{agent.log_tail()}", flush=True)
            raise
        if name not in STILL:
            checks.check("rows were added to A meanwhile", writer.commits > 0, f"{writer.commits} commits")
        pair.stop()
    if checks.failed == failed:
        outcome.verdict = "ok"
    print(
        f"  {name}: {outcome.verdict}; seed {seed}, {outcome.kills} kills or cuts survived, {outcome.runs} runs, "
        f"{outcome.partitions} partitions of {outcome.rows:,} rows compared, {outcome.looks} looks at B",
        flush=True,
    )
    return outcome


def summary(outcomes):
    print(f"\n{'scenario':<20} {'seed':>11} {'runs':>5} {'kills':>6} {'partitions':>11} {'rows compared':>14} {'looks at B':>11}  result")
    for each in outcomes:
        print(
            f"{each.scenario:<20} {each.seed:>11} {each.runs:>5} {each.kills:>6} {each.partitions:>11} {each.rows:>14,} {each.looks:>11,}"
            f"  {each.verdict}"
        )
    skipped = [each.scenario for each in outcomes if each.verdict == "SKIPPED"]
    if skipped:
        print(f"WARNING: NOT TESTED: {', '.join(skipped)}")
    print(f"{sum(each.kills for each in outcomes)} kills or cuts survived", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer rows, kills and scenarios")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--only", choices=sorted(ALL), help="one scenario")
    arguments = parser.parse_args()
    scenarios = QUICK if arguments.quick else ALL
    if arguments.only:
        scenarios = {arguments.only: ALL[arguments.only]}
    print(f"--seed {arguments.seed}", flush=True)
    checks = Checks()
    no_disks = SmallDisk.allowed()
    with tempfile.TemporaryDirectory(prefix="strait-faults.") as folder:
        lake_a = pathlib.Path(folder)
        make_lake(lake_a, random.Random(arguments.seed), 4_000 if arguments.quick else 16_000)
        outcomes = [
            run_scenario(checks, name, scenario, arguments.seed, arguments.quick, no_disks, lake_a)
            for name, scenario in scenarios.items()
        ]
    summary(outcomes)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
