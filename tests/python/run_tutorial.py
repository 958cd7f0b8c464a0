"""Every command of docs/tutorial.md as it stands there, on the flights of New York; only directories are others.

The flights are moved to the days up to today, as db1/mt divided by TradingDay, so that "the last seven days" and "today" select some. Between the
commands B, the bundles and their readers are looked at. Then a carry by rsync that is killed in the middle and finished, and a backup and a
restore whose agents are killed with -9.
"""

import datetime
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

import real_data
from checks import Checks
from lake_compare import compare
from strait_pair import Pair, binary, has_rsync

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/tutorial.md"
PLACES = r"/(backup-week|backup-columns|backup|disk|increment|receipts\.jsonl)\b"


def flights():
    """The flights with the last day today, a Timestamp in it, and a number for each row."""
    table = real_data.flights()
    last = pc.max(table["day_date"]).as_py()
    shift = (datetime.date.today() - last).days
    days = pc.cast(pc.add(pc.cast(table["day_date"], pa.int32()), pa.scalar(shift, pa.int32())), pa.date32())
    minutes = pc.add(pc.multiply(table["hour"].cast(pa.int64()), 60), table["minute"].cast(pa.int64()))
    micros = pc.add(pc.multiply(pc.cast(pc.cast(days, pa.int32()), pa.int64()), 86_400_000_000), pc.multiply(minutes, 60_000_000))
    columns = ["carrier", "flight", "tailnum", "origin", "dest", "dep_delay", "arr_delay", "distance"]
    return pa.table(
        {"TradingDay": days, "Timestamp": pc.cast(micros, pa.timestamp("us")), "id": pa.array(range(table.num_rows), pa.int64())}
        | {name: table[name] for name in columns}
    )


def commands():
    """The commands of the page, in order, each with the number of the step that it stands in."""
    step, inside, found = 0, False, []
    for line in PAGE.read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```sh"
        elif inside:
            found.append((step, line))
        elif match := re.match(r"(\d)\. ", line):
            step = int(match[1])
    return found


class Shell:
    """Runs a command of the page in a shell that knows `strait`."""

    def __init__(self, pair):
        self.pair = pair
        self.folder = pair.root

    def place(self, name):
        return self.folder / name

    def run(self, line):
        line = re.sub(PLACES, lambda match: f"{self.folder}/{match[1]}", line)
        script = f'strait() {{ "{binary()}" --agent "{self.pair.source.url}" "$@"; }}\n{line}\n'
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STRAIT_")}
        done = subprocess.run(["bash", "-euc", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, env=environment)
        return done.returncode, done.stdout, done.stderr


def rows(path):
    return DeltaTable(path).count() if path.exists() else 0


def page(checks, pair, shell, table):
    week = pc.greater(table["TradingDay"], pa.scalar(datetime.date.today() - datetime.timedelta(days=7)))
    today = pc.equal(table["TradingDay"], pa.scalar(datetime.date.today()))
    after = {
        1: lambda: compare(pair.lake_a / "db1/mt", shell.place("backup") / "db1/mt").equal,
        2: lambda: rows(shell.place("backup-week") / "db1/mt") == pc.sum(week).as_py(),
        3: lambda: DeltaTable(shell.place("backup-columns") / "db1/mt").to_pyarrow_table().column_names == ["TradingDay", "carrier", "flight"],
        4: lambda: True,
        5: lambda: compare(pair.lake_a / "db1/mt", pair.lake_b / "db1/mt").equal,
        7: lambda: rows(pair.lake_b / "db1/mt_today") == pc.sum(today).as_py(),
        8: lambda: compare(pair.lake_a / "db1/mt", pair.lake_b / "db1/mt_copy").equal,
    }
    found = commands()
    for number, holds in after.items():
        for step, line in found:
            if step == number:
                code, out, err = shell.run(line)
                checks.check(f"{step}. {line}", code == 0, "" if code == 0 else f"code {code}: {out[-600:]} {err[-600:]}")
        checks.check(f"after step {number} there is what was to be there", holds())
    checks.check("the page has a command for each of these steps", {step for step, _ in found} == set(after), {step for step, _ in found})


def incremental(checks, pair, shell):
    """A second night: only the files of what changed are new."""
    bundle = shell.place("backup")
    data = lambda: {path for path in bundle.rglob("*.parquet") if "_delta_log" not in path.parts}
    before = data()
    table = DeltaTable(pair.lake_a / "db1/mt").to_pyarrow_table()
    extra = table.slice(0, 3)
    days = {f"TradingDay={day}/" for day in extra["TradingDay"].to_pylist()}
    real_data.write(pair.lake_a / "db1/mt", extra, ["TradingDay"], mode="append")
    # They travel as they are.
    changed = [uri for uri in DeltaTable(pair.lake_a / "db1/mt").file_uris() if any(day in uri for day in days)]
    code, _, err = shell.run("strait backup --from live:db1/mt --to file:///backup")
    checks.check("a second night's backup is done", code == 0, err[-300:])
    checks.check("it adds the files of the days that have changed, and removes none", len(data() - before) == len(changed) and before <= data(), f"{len(data() - before)} new, {len(changed)} changed")
    code, out, _ = shell.run("strait backup --from live:db1/mt --to file:///backup --json")
    checks.check("a third, with nothing changed, copies nothing", code == 0 and json.loads(out)["partitions_done"] == 0, out[-200:])
    code, out, _ = shell.run("strait restore --from file:///disk --to dr:db1/mt --json")
    checks.check("the disk of the first night changes nothing at B", code == 0 and json.loads(out)["partitions_done"] == 0, out[-300:])


def carried_by_rsync(checks, shell):
    """rsync is killed in the middle, twice, and then let to its end."""
    disk = shell.place("disk")
    shutil.rmtree(disk)
    disk.mkdir()
    for _ in range(2):
        copying = subprocess.Popen(["rsync", "-a", "--bwlimit=4m", f"{shell.place('backup')}/", f"{disk}/"])
        time.sleep(0.7)
        checks.check("rsync is killed in the middle", copying.poll() is None)
        copying.kill()
        copying.wait()
        code, out, err = shell.run("strait bundle verify /disk --json")
        named = sum(table["flawed"] for table in json.loads(out).get("tables", []))
        # Without a manifest there is nothing to compare with yet, which is said, too.
        checks.check("what has not come is named", (code == 16 and named > 0) or code == 2, f"code {code}, {named} named {err[-200:]}")
        code, out, err = shell.run("strait restore --from file:///disk:db1/mt --to dr:db1/carried")
        checks.check("nothing is restored from it", code in (1, 2), f"code {code}: {err[-300:]}")
    code, _, err = shell.run("rsync -a /backup/ /disk/ && strait bundle verify /disk")
    checks.check("rsync goes on where it was, and then all is there", code == 0, err[-300:])
    code, _, err = shell.run("strait restore --from file:///disk:db1/mt --to dr:db1/carried")
    checks.check("it is restored", code == 0, err[-300:])
    checks.check("B is what the bundle is", compare(shell.place("backup") / "db1/mt", shell.pair.lake_b / "db1/carried").equal)


def killed_on_the_way(pair, command, source, target, agents, path, rng):
    """One run whose agents are killed up to three times while it is on its way: how it ended, and how often they were killed."""
    run, kills = pair.json(command, "--from", source, "--to", target, "--detach", "--streams", 1)["run"], 0
    for _ in range(3):
        time.sleep(rng.uniform(0, 0.5))
        if pair.show(run).get("status") != "running":
            break
        for agent in agents:
            agent.kill9()
        kills += 1
        sealed = list((path / "_bundle").glob("*.jsonl")) if command == "backup" else []
        # Dying between the manifest and the answer is no harm.
        print(f"  kill -9 in {command}, {rows(path) if (path / '_delta_log').exists() else 0} rows visible, {len(sealed)} manifests")
        for agent in agents:
            agent.start()
    return pair.wait(run), kills


def killed(checks, pair, shell, rng):
    """kill -9 of the agents in the middle of a backup and of a restore; a manifest is there only at the end."""

    def check(command, source, target, agents, path):
        """A run may be over before it is hit: up to 20 runs, each to a place of its own, until one was killed."""
        for attempt in range(20):
            ended, kills = killed_on_the_way(pair, command, source, target(attempt), agents, path(attempt), rng)
            if kills > 0 or ended["status"] != "done":
                break
        checks.check(f"a {command} that was killed {kills} times ends done", ended["status"] == "done" and kills > 0, ended["status"])
        checks.check(f"the {command} has lost and doubled nothing", compare(pair.lake_a / "db1/mt", path(attempt)).equal)
        return attempt

    bundle = lambda attempt: shell.place(f"killed-{attempt}")
    whole = bundle(check("backup", "live:db1/mt", lambda n: f"file://{bundle(n)}", [pair.source], lambda n: bundle(n) / "db1/mt"))
    check("restore", f"file://{whole}:db1/mt", lambda n: f"dr:db1/killed-{n}", [pair.source, pair.sink], lambda n: pair.lake_b / f"db1/killed-{n}")
    code, _, err = pair.strait("bundle", "verify", whole)
    checks.check("the bundle of the killed backup is whole", code == 0, err[-300:])


def main():
    seed = int(os.environ.get("STRAIT_SEED", random.randrange(2**32)))
    print(f"STRAIT_SEED={seed}")
    checks = Checks()
    if not has_rsync():
        checks.skip("rsync is not there, and cannot be installed: docs/tutorial.md WAS NOT RUN")
    with Pair() as pair:
        shell = Shell(pair)
        with checks.section("lake A by Python deltalake", needed=True):
            table = flights()
            real_data.write(pair.lake_a / "db1/mt", table, ["TradingDay"])
        with checks.section("every command of docs/tutorial.md"):
            page(checks, pair, shell, table)
        with checks.section("a second night"):
            incremental(checks, pair, shell)
        with checks.section("carried by rsync, which is killed"):
            carried_by_rsync(checks, shell)
        with checks.section("kill -9 in a backup and in a restore"):
            killed(checks, pair, shell, random.Random(seed))
        with checks.section("stop"):
            codes = pair.stop()
            checks.check("both agents drain on SIGTERM and end with code 0", set(codes.values()) == {0}, codes)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
