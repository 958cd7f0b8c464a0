"""kill -9 at every step: each call by which an agent changes what is on disk, in an append, a replace, a mirror that drops, a backup, a second backup and a restore, each with
rows and with files that travel as they are.

An agent is started with kill_at.c preloaded, which kills it before its Nth such call: new files, renames, links, removals, new directories, syncs and writes to files, those
of SQLite among them. (`syncfs` is made without the C library and is not counted.) Then it starts again without, the run goes on or is begun again, and what it has
written is compared with A row for row, while a reader polls that only ever may see whole partitions, old ones or new ones. N goes up until a life has no Nth call.

    run_steps.py            every step of every way
    run_steps.py --quick    some of them, evenly spread from a random one on
"""

import concurrent.futures
import itertools
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import pyarrow as pa
from deltalake import write_deltalake

from checks import Checks
from lake_compare import compare
from strait_pair import ENDED, Pair, last_json, run_id
from whole_partitions import WholePartitions, counts_by_log

HERE = pathlib.Path(__file__).resolve().parent
TABLE = "db1/mt"
DAYS = ["2026-11-02", "2026-11-03", "2026-11-04"]
ROWS = 3_000
# Small, so that a partition has checkpoints on its way.
SOURCE_KEYS = {"frame_bytes_max": "16KiB", "chunk_bytes": "64KiB"}
# So many steps of a way in a quick run.
QUICK_STEPS = 5
TROUBLES_MAX = 5


def rows_of(day, night):
    """A day's rows as of a night: the first day never changes, the others do."""
    first = 0 if day == DAYS[0] else night * 1000
    ids = list(range(first, first + ROWS))
    return pa.table(
        {
            "day": pa.array([day] * ROWS),
            "id": pa.array(ids, pa.int64()),
            "text": [f"{day} {n} " + "x" * (n % 50) for n in ids],
        }
    )


def lake(path, night, days):
    """A lake as of a night, by Python deltalake."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for day in days:
        # Two files of each, so that a part of a partition could be seen.
        rows = rows_of(day, night)
        for half in (rows.slice(0, ROWS // 3), rows.slice(ROWS // 3)):
            write_deltalake(str(path), half, partition_by=["day"], mode="append")


class Way:
    """One thing that is done, what it finds, and which agents work on it."""

    def __init__(self, name, roles, command, out, before=None):
        self.name = name
        self.roles = roles
        # Of the command line; {bundle} is a directory.
        self.command = command
        # Where it writes: a lake's directory below the pair's root.
        self.out = out
        # What is there already: (directory below the pair's root, template).
        self.before = before or {}


def ways():
    link = ["--from", "live:" + TABLE, "--to", "dr:" + TABLE]
    away = ["--from", "live:" + TABLE, "--to", "file://{bundle}"]
    back = ["--from", "file://{bundle}:" + TABLE, "--to", "dr:" + TABLE]
    both = ["source", "sink"]
    return [
        Way("append", both, ["sync", *link], "b"),
        Way("replace", both, ["sync", *link, "--mode", "replace"], "b", {"b": "old"}),
        Way("mirror that drops", both, ["sync", *link, "--mode", "mirror", "--allow-drop", "1"], "b", {"b": "old and more"}),
        Way("backup", ["source"], ["backup", *away], "bundle"),
        Way("second backup", ["source"], ["backup", *away], "bundle", {"bundle": "old bundle"}),
        Way("restore", both, ["restore", *back], "b", {"bundle": "new bundle", "b": "old"}),
    ]


class Templates:
    """What is copied for each life: lakes and bundles that real runs have made."""

    def __init__(self, root):
        self.root = root
        lake(self.path("a") / TABLE, 2, DAYS)
        self._made("old", 1, DAYS, ["sync", "--from", "live:" + TABLE, "--to", "dr:" + TABLE], "b")
        self._made("old and more", 1, [*DAYS, "2026-11-09"], ["sync", "--from", "live:" + TABLE, "--to", "dr:" + TABLE], "b")
        for name, night in (("old bundle", 1), ("new bundle", 2)):
            command = ["backup", "--from", "live:" + TABLE, "--to", "file://{bundle}"]
            self._made(name, night, DAYS, command, "bundle")

    def path(self, name):
        return self.root / name.replace(" ", "-")

    def _made(self, name, night, days, command, out):
        with Pair(source_keys=SOURCE_KEYS) as pair:
            lake(pair.lake_a / TABLE, night, days)
            pair.json(*[part.replace("{bundle}", str(pair.root / "bundle")) for part in command])
            pair.stop()
            shutil.copytree(pair.root / out, self.path(name))


def shim(directory):
    """kill_at.c, compiled."""
    built = directory / "kill_at.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", built, HERE / "kill_at.c", "-ldl"], check=True)
    return built


def life(templates, preloaded, way, role, how, step):
    """One life with a kill before this step of this agent. Whether the step was reached, and what went wrong."""
    pair = Pair(source_keys=SOURCE_KEYS)
    try:
        return _life(pair, templates, preloaded, way, role, how, step)
    except Exception as error:  # noqa: BLE001: told with the step that it came at
        tails = "".join(f"\n-- {agent.role}: {agent.log_tail()[-1500:]}" for agent in pair.agents())
        return True, f"{type(error).__name__}: {error}{tails}"
    finally:
        pair.close()


def _life(pair, templates, preloaded, way, role, how, step):
    shutil.copytree(templates.path("a"), pair.lake_a, dirs_exist_ok=True)
    for place, template in way.before.items():
        shutil.copytree(templates.path(template), pair.root / place, dirs_exist_ok=True)
    counter = pair.root / "count"
    victim = pair.source if role == "source" else pair.sink
    victim.environment = {"LD_PRELOAD": str(preloaded), "KILL_AT": str(step), "KILL_COUNT": str(counter)}
    out = pair.root / way.out / TABLE
    new, old = counts_by_log(templates.path("a") / TABLE), counts_by_log(out)
    if "drops" in way.name:
        # What goes may be there or not.
        new |= dict.fromkeys(old.keys() - new.keys(), 0)
    with WholePartitions(out, new, old) as reader:
        for agent in pair.agents():
            try:
                agent.start()
            except AssertionError:
                if agent is not victim:
                    raise
        run = begin(pair, way, how)
        deadline = time.monotonic() + 240
        while True:
            # The step may come after the run's end, too, or before anybody has asked for it.
            if not victim.alive() and victim.environment:
                if victim.process is not None:
                    victim.process.wait(timeout=30)
                    victim.process = None
                victim.environment = {}
                victim.start()
                # It is known to the agent by now, or nothing of it is at B but a claim that the next one is told of.
                run = run if known(pair, run) else begin(pair, way, how)
            status = {"status": None} if run is None else pair.show(run)
            if status["status"] in ENDED:
                break
            if time.monotonic() > deadline:
                raise AssertionError(f"run {run} has not ended after 240 s: {json.dumps(status)[:1500]}")
            time.sleep(0.02)
    reached = struct.unpack("Q", counter.read_bytes())[0] >= step
    if status["status"] != "done":
        return reached, f"the run ended {json.dumps(status)[:1500]}"
    if reader.violations:
        return reached, f"a reader saw: {reader.violations[:3]}"
    compared = compare(pair.lake_a / TABLE, out)
    if not compared.equal:
        return reached, f"{compared}"
    if way.out == "bundle":
        code, _, err = pair.strait("bundle", "verify", pair.root / "bundle")
        if code != 0:
            return reached, f"bundle verify ended with code {code}: {err[-500:]}"
    return reached, None


def begin(pair, way, how):
    """The run's id; none if the source agent has died first."""
    command = [part.replace("{bundle}", str(pair.root / "bundle")) for part in way.command] + ["--pass-through", how]
    deadline = time.monotonic() + 60
    while pair.source.alive():
        code, out, err = pair.strait(*command, "--detach", "--json")
        if code == 0:
            return run_id(last_json(out))
        # The sink may be the one that has died, before the run was planned.
        if not pair.sink.alive() or time.monotonic() > deadline:
            return None
        time.sleep(0.05)
    return None


def known(pair, run):
    return run is not None and pair.strait("runs", "show", run, "--json")[0] == 0


def steps_of(templates, preloaded, way, role, how):
    """How many steps a life has that nobody disturbs."""
    pair = Pair(source_keys=SOURCE_KEYS)
    try:
        counter = pair.root / "count"
        shutil.copytree(templates.path("a"), pair.lake_a, dirs_exist_ok=True)
        for place, template in way.before.items():
            shutil.copytree(templates.path(template), pair.root / place, dirs_exist_ok=True)
        victim = pair.source if role == "source" else pair.sink
        victim.environment = {"LD_PRELOAD": str(preloaded), "KILL_AT": "0", "KILL_COUNT": str(counter)}
        pair.start()
        pair.wait(begin(pair, way, how))
        return struct.unpack("Q", counter.read_bytes())[0]
    finally:
        pair.close()


def main():
    quick = "--quick" in sys.argv[1:]
    seed = int(os.environ.get("STRAIT_SEED", random.randrange(2**32)))
    print(f"STRAIT_SEED={seed}")
    rng = random.Random(seed)
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="strait-steps.") as directory:
        root = pathlib.Path(directory)
        with checks.section("lakes and bundles to begin with", needed=True):
            preloaded, templates = shim(root), Templates(root)
        for way in ways():
            for role, how in itertools.product(way.roles, ["never", "auto"]):
                with checks.section(f"{way.name}, {role} killed, pass-through {how}"):
                    every_step(checks, templates, preloaded, way, role, how, rng if quick else None)
    return checks.finish()


def every_step(checks, templates, preloaded, way, role, how, rng):
    count = steps_of(templates, preloaded, way, role, how)
    steps = range(1, count + 1)
    if rng is not None:
        stride = max(1, count // QUICK_STEPS)
        steps = range(1 + rng.randrange(stride), count + 1, stride)
    lives = reached = 0
    troubles = []
    # Lives wait more than they work.
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
        for step, (was_reached, trouble) in zip(steps, pool.map(lambda step: life(templates, preloaded, way, role, how, step), steps)):
            lives += 1
            reached += was_reached
            if trouble:
                troubles.append(f"step {step}: {trouble}")
            if len(troubles) >= TROUBLES_MAX:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    print(f"  {count} steps, {lives} lives, killed in {reached}")
    # A life may have a few steps less than another: what waits for a commit goes together.
    checks.check(f"{way.name}: killed at {'some steps' if rng else 'every step'} of the {role}, nothing is lost, doubled or seen in part", not troubles, "\n    ".join(troubles))
    checks.check(f"{way.name}: most lives of the {role} were killed", reached * 10 >= lives * 8, f"{reached} of {lives}")


if __name__ == "__main__":
    sys.exit(main())
