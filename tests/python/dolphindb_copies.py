"""Both agents as real processes, from the stand-in to lakes: what the vendor's client reads there beside what Python's deltalake reads here, row for row."""

import contextlib
import math
import pathlib
import subprocess
import tempfile
import time
import warnings

import dolphindb.settings as keys
import numpy as np
import pandas as pd
from deltalake import DeltaTable

from strait_pair import ENDED, Pair

DAYS = ["2026-11-02", "2026-11-03", "2026-11-04"]
SYMBOLS = ["IBM", "MSFT", "A/B", "東京", "GOOG", "AAPL", "NVDA"]
ROWS_OF_A_DAY = 4_000
BUCKETS = 3
# The columns, each with its type at the server and what its cells are compared as.
COLUMNS = {
    "day": (keys.DT_DATE, "date"),
    "sym": (keys.DT_SYMBOL, "text"),
    "n": (keys.DT_LONG, "integer"),
    "at": (keys.DT_TIMESTAMP, "time"),
    "price": (keys.DT_DOUBLE, "number"),
    "size": (keys.DT_INT, "integer"),
    "note": (keys.DT_STRING, "text"),
    "buy": (keys.DT_BOOL, "truth"),
}
TABLE = 'loadTable("dfs://db1", "mt")'


def ticks(day, first, count):
    """Rows of a day, with numbers that no other row has, and nulls here and there."""
    numbers = np.arange(first, first + count, dtype=np.int64)
    start = pd.Timestamp(day)
    frame = pd.DataFrame(
        {
            "day": pd.to_datetime([day] * count),
            "sym": [SYMBOLS[n % len(SYMBOLS)] for n in numbers],
            "n": numbers,
            "at": [None if n % 11 == 0 else start + pd.Timedelta(milliseconds=int(n % 86_000_000)) for n in numbers],
            "price": [None if n % 7 == 0 else (n % 1000) / 8 for n in numbers],
            "size": [None if n % 5 == 0 else float(n % 100) for n in numbers],
            "note": [None if n % 3 == 0 else f"it's \"{n}\" of {day} / Ω" for n in numbers],
            "buy": [None if n % 13 == 0 else bool(n % 2) for n in numbers],
        }
    )
    frame["at"] = pd.to_datetime(frame["at"])
    with warnings.catch_warnings():
        # That this is no column is what the vendor's client wants.
        warnings.simplefilter("ignore", UserWarning)
        frame.__DolphinDB_Type__ = {name: code for name, (code, _) in COLUMNS.items()}
    return frame


def insert(client, frame):
    # The vendor's client makes nulls of NaN by a cast that numpy warns of.
    with np.errstate(invalid="ignore"):
        inserted = client.run(f"tableInsert{{{TABLE}}}", frame)
    if inserted != len(frame):
        raise AssertionError(f"{inserted} of {len(frame)} rows were inserted")


def fill(client):
    """dfs://db1/mt by day and buckets of symbols, filled by the vendor's client."""
    days = np.array(["2026-11-01", *DAYS, "2026-11-05"], dtype="datetime64[D]")
    with np.errstate(invalid="ignore"):
        client.upload({"sample": ticks(DAYS[0], 0, 2), "days": days})
    client.run(
        f'p0 = database("", VALUE, days); p1 = database("", HASH, [SYMBOL, {BUCKETS}]); '
        'db = database("dfs://db1", COMPO, [p0, p1]); createPartitionedTable(db, sample, `mt, `day`sym)'
    )
    for at, day in enumerate(DAYS):
        insert(client, ticks(day, at * ROWS_OF_A_DAY, ROWS_OF_A_DAY))


def partitions_of(client):
    """How many partitions have rows: some bucket may have none of a day."""
    days = [day.replace("-", ".") for day in DAYS]
    counts = [client.run(f"exec count(*) from {TABLE} where partition(day, {day}), partition(sym, {at})") for day in days for at in range(BUCKETS)]
    return sum(count > 0 for count in counts)


def plainly(kind, value):
    """A cell as it is compared, whoever has read it."""
    if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value)) or (kind == "text" and value == ""):
        return None
    if kind == "date":
        return str(pd.Timestamp(value).date())
    if kind == "time":
        return pd.Timestamp(value).isoformat(timespec="nanoseconds")
    return {"text": str, "integer": int, "number": lambda number: float(number).hex(), "truth": bool}[kind](value)


def rows_of(columns):
    """Rows of columns by name, sorted by their number."""
    cells = [[plainly(kind, value) for value in columns[name]] for name, (_, kind) in COLUMNS.items()]
    return sorted(zip(*cells, strict=True), key=lambda row: row[list(COLUMNS).index("n")])


def rows_at_server(client):
    frame = client.run(f"select * from {TABLE}")
    return rows_of({name: frame[name].tolist() for name in COLUMNS})


def rows_of_lake(path):
    table = DeltaTable(path).to_pyarrow_dataset().to_table()
    return rows_of({name: table.column(name).to_pylist() for name in COLUMNS})


def compared(checks, sentence, client, path):
    """One check: that a lake has what the server has."""
    given, got = rows_at_server(client), rows_of_lake(path)
    saw = f"{len(given):,} rows"
    if given != got:
        lacking, beside = set(given) - set(got), set(got) - set(given)
        saw = f"{len(given)} and {len(got)} rows; only at the server {sorted(lacking, key=repr)[:2]}, only in the lake {sorted(beside, key=repr)[:2]}"
    return checks.check(sentence, given == got and len(given) > 0, saw)


@contextlib.contextmanager
def pair_of(address, **how):
    """Agents whose source has the stand-in for its store."""
    with tempfile.TemporaryDirectory(prefix="strait-dolphindb.") as directory:
        password = pathlib.Path(directory) / "password"
        password.write_text("123456\n")
        with Pair(live=f"dolphindb://admin@{address}?password_file={password}", **how) as pair:
            yield pair


def copies(checks, standin, session):
    """The sections of the suite; `standin` and `session` are the suite's own."""
    with standin() as address:
        client = session(address)
        with checks.section("the vendor's client fills a table", needed=True):
            fill(client)
            checks.check("all rows are there", client.run(f"exec count(*) from {TABLE}") == len(DAYS) * ROWS_OF_A_DAY)
        with pair_of(address) as pair:
            with checks.section("DolphinDB to a lake"):
                to_lake(checks, pair, client)
            with checks.section("nights of a mirror"):
                mirror_nights(checks, pair, client)
            with checks.section("backup and restore"):
                backup(checks, pair, client)
        with checks.section("kill -9 of the source in the middle"):
            killed(checks, address, client)
        client.close()
    with checks.section("a cluster that is away or refuses"):
        refused(checks, standin)


def to_lake(checks, pair, client):
    partitions = partitions_of(client)
    plan = pair.json("plan", "--from", "live:db1/mt", "--to", "dr:db1/mt")
    keys_of = [partition["key"] for partition in plan["partitions"]]
    checks.check("plan lists every partition by day and bucket", len(keys_of) == partitions and all("bucket(" in key for key in keys_of), keys_of[:2])
    checks.check("with its rows", plan["rows"] == len(DAYS) * ROWS_OF_A_DAY, plan["rows"])
    answer = pair.sync("live:db1/mt", "dr:db1/mt")
    checks.check("sync copies all of them", answer["partitions_done"] == partitions, answer["partitions_done"])
    compared(checks, "the lake has what the vendor's client reads", client, pair.lake_b / "db1/mt")
    verified = pair.json("verify", "--from", "live:db1/mt", "--to", "dr:db1/mt")
    checks.check("verify finds them equal", verified["equal"] == partitions and not verified["different"], verified["equal"])
    again = pair.sync("live:db1/mt", "dr:db1/mt")
    checks.check("another sync copies nothing", (again["partitions_done"], again["rows_sent"]) == (0, 0), again["partitions_already"])
    where = "day = '2026-11-03' and n % 1 = 0"
    code, _, said = pair.strait("plan", "--from", "live:db1/mt", "--to", "dr:db1/one", "--where", where)
    checks.check("a condition that is not understood is refused", code != 0, said.strip()[-120:])
    answer = pair.sync("live:db1/mt", "dr:db1/one", "--where", f"day = '{DAYS[1]}' and price > 50")
    wanted = [row for row in rows_at_server(client) if row[0] == DAYS[1] and row[4] is not None and float.fromhex(row[4]) > 50]
    checks.check("a condition selects what it says", rows_of_lake(pair.lake_b / "db1/one") == wanted and wanted, f"{answer['rows']} rows")


def mirror_nights(checks, pair, client):
    how = ("live:db1/mt", "dr:db1/mirrored", "--mode", "mirror", "--allow-drop", 1)
    path = pair.lake_b / "db1/mirrored"
    first = pair.sync(*how)
    checks.check("the first night copies all", first["partitions_done"] == partitions_of(client), first["partitions_done"])
    second = pair.sync(*how)
    checks.check("the second night copies nothing", (second["partitions_done"], second["rows_sent"]) == (0, 0), second["rows_sent"])
    insert(client, ticks(DAYS[1], 1_000_000, 1))
    changed = pair.sync(*how)
    checks.check("after one row the partition of that row is copied, and no other", changed["partitions_done"] == 1, changed["partitions_done"])
    compared(checks, "and the lake has it", client, path)
    bucket = next(at for at in range(BUCKETS) if client.run(f"exec count(*) from {TABLE} where partition(day, 2026.11.04), partition(sym, {at})") > 0)
    client.run(f'dropPartition(database("dfs://db1"), ["/20261104/Key{bucket}"], "mt")')
    dropped = pair.sync(*how)
    counts = (dropped["partitions_dropped"], dropped["partitions_done"])
    checks.check("a partition that A has dropped is dropped at B", counts == (1, 0), counts)
    compared(checks, "and nothing else", client, path)


def backup(checks, pair, client):
    bundle = pair.root / "bundle"
    answer = pair.json("backup", "--from", "live:db1/mt", "--to", f"file://{bundle}")
    checks.check("backup is done", answer["status"] == "done", answer.get("message"))
    compared(checks, "the bundle has what the vendor's client reads", client, bundle / "db1/mt")
    answer = pair.json("restore", "--from", f"file://{bundle}:db1/mt", "--to", "dr:db1/restored")
    checks.check("restore is done", answer["status"] == "done", answer.get("message"))
    compared(checks, "and so has the table that is restored from it", client, pair.lake_b / "db1/restored")


def killed(checks, address, client):
    kills = 0
    # Small, so that a partition has checkpoints on its way.
    with pair_of(address, source_keys={"frame_bytes_max": "16KiB", "chunk_bytes": "64KiB"}) as pair:
        path = pair.lake_b / "db1/mt"
        run = pair.begin("live:db1/mt", "dr:db1/mt", "--bandwidth-max", "100KiB")
        for done in (1, 3, 5):
            deadline = time.monotonic() + 120
            while (shown := pair.show(run))["partitions_done"] < done and shown["status"] not in ENDED:
                if time.monotonic() > deadline:
                    raise AssertionError(f"run {run}: {shown}")
                time.sleep(0.02)
            kills += shown["status"] not in ENDED
            pair.source.kill9()
            pair.source.start()
        ended = pair.wait(run, timeout_s=120)
        checks.check("the run ends by itself", ended["status"] == "done", ended.get("message"))
        checks.check("it was killed under way", kills >= 2, kills)
        compared(checks, "nothing is lost or doubled", client, path)


def refused(checks, standin):
    with standin() as address:
        with tempfile.TemporaryDirectory(prefix="strait-dolphindb.") as directory:
            password = pathlib.Path(directory) / "password"
            password.write_text("wrong\n")
            with Pair(live=f"dolphindb://admin@{address}?password_file={password}") as pair:
                code, out, err = pair.strait("tables", "live")
                said = (out + err).strip()
                checks.check("a wrong password is said, and not shown", code != 0 and "password" in said and "wrong\n" not in said, said[-200:])
        with pair_of(address) as pair:
            code, out, err = pair.strait("plan", "--from", "live:db1/nothing", "--to", "dr:db1/nothing")
            checks.check("an unknown table is named", code != 0 and "db1/nothing" in out + err, (out + err).strip()[-200:])
    code, said = 0, ""
    with pair_of("127.0.0.1:1") as pair:
        try:
            code, out, err = pair.strait("plan", "--from", "live:db1/mt", "--to", "dr:db1/mt", timeout_s=90)
            said = (out + err).strip()
        except subprocess.TimeoutExpired:
            said = "no answer within 90 s"
    checks.check("a node that is away is said", code != 0 and "127.0.0.1:1" in said, said[-200:])
