"""Both agents as real processes, between the stand-in and lakes and between two stand-ins: what the vendor's client reads there beside what Python's deltalake reads here, row for
row."""

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
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

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


def rows_at_server(client, table=TABLE):
    frame = client.run(f"select * from {table}")
    return rows_of({name: frame[name].tolist() for name in COLUMNS})


def rows_of_lake(path):
    table = DeltaTable(path).to_pyarrow_dataset().to_table()
    return rows_of({name: table.column(name).to_pylist() for name in COLUMNS})


def compared(checks, sentence, client, path):
    """One check: that a lake has what the server has."""
    return same(checks, sentence, rows_at_server(client), rows_of_lake(path))


def same(checks, sentence, given, got):
    """One check: that the same rows are at both sides."""
    saw = f"{len(given):,} rows"
    if given != got:
        lacking, beside = set(given) - set(got), set(got) - set(given)
        saw = f"{len(given)} and {len(got)} rows; only at A {sorted(lacking, key=repr)[:2]}, only at B {sorted(beside, key=repr)[:2]}"
    return checks.check(sentence, given == got and len(given) > 0, saw)


@contextlib.contextmanager
def pair_of(address=None, to=None, **how):
    """Agents of which the source has this stand-in for its store, or the sink that one, or both."""
    with tempfile.TemporaryDirectory(prefix="strait-dolphindb.") as directory:
        password = pathlib.Path(directory) / "password"
        password.write_text("123456\n")
        url = "dolphindb://admin@{}?password_file={}"
        live = url.format(address, password) if address else None
        dr = url.format(to, password) + f"&journal={directory}/journal" if to else None
        with Pair(live=live, dr=dr, **how) as pair:
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
    with standin() as address:
        client = session(address)
        with pair_of(to=address) as pair:
            with checks.section("a lake to DolphinDB"):
                from_lake(checks, pair, client)
        client.close()
    with standin() as address, standin() as to:
        client, other = session(address), session(to)
        fill(client)
        with pair_of(address, to) as pair:
            with checks.section("DolphinDB to DolphinDB"):
                to_dolphindb(checks, pair, client, other)
        client.close()
        other.close()
    with checks.section("a table that is made anew as it was"), standin() as address, standin() as to:
        client, other = session(address), session(to)
        with pair_of(address, to) as pair:
            made_anew(checks, pair, client, other)
        client.close()
        other.close()
    with checks.section("a cluster that tells no versions"), standin("getTabletsMeta") as address:
        client = session(address)
        fill(client)
        with pair_of(address) as pair:
            without_versions(checks, pair, client)
        client.close()
    with checks.section("a table divided by lists"), standin() as address, standin() as to:
        client, other = session(address), session(to)
        with pair_of(address) as pair:
            by_lists(checks, pair, client)
        with pair_of(address, to) as pair:
            lists_to_lists(checks, pair, client, other)
        client.close()
        other.close()
    for role in ("source", "sink", "both"):
        with checks.section(f"DolphinDB to DolphinDB, kill -9 of {role}"), standin() as address, standin() as to:
            client, other = session(address), session(to)
            fill(client)
            killed_on_the_way(checks, address, to, client, other, role)
            client.close()
            other.close()


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
    verified = pair.json("verify", "--from", "live:db1/mt", "--to", "dr:db1/mt", "--by", "sums")
    checks.check("a lake computes no checksums, so both are read", (verified["equal"], verified["equal_by_sums"]) == (partitions, 0), verified)
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


def on_its_way(pair, run, done):
    """Waits until so many partitions of the run are done; whether it has not ended by then."""
    deadline = time.monotonic() + 120
    while (shown := pair.show(run))["partitions_done"] < done and shown["status"] not in ENDED:
        if time.monotonic() > deadline:
            raise AssertionError(f"run {run}: {shown}")
        time.sleep(0.02)
    return shown["status"] not in ENDED


def killed(checks, address, client):
    kills = 0
    # Small, so that a partition has checkpoints on its way.
    with pair_of(address, source_keys={"frame_bytes_max": "16KiB", "chunk_bytes": "64KiB"}) as pair:
        path = pair.lake_b / "db1/mt"
        run = pair.begin("live:db1/mt", "dr:db1/mt", "--bandwidth-max", "100KiB")
        for done in (1, 3, 5):
            kills += on_its_way(pair, run, done)
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
    try:
        with Pair(dr="dolphindb://127.0.0.1:1"):
            said = "it starts"
    except AssertionError as error:
        said = str(error)
    checks.check("a sink agent whose cluster has no journal does not start", "journal=" in said, said.strip()[-200:])
    code, said = 0, ""
    with pair_of("127.0.0.1:1") as pair:
        try:
            code, out, err = pair.strait("plan", "--from", "live:db1/mt", "--to", "dr:db1/mt", timeout_s=90)
            said = (out + err).strip()
        except subprocess.TimeoutExpired:
            said = "no answer within 90 s"
    checks.check("a node that is away is said", code != 0 and "127.0.0.1:1" in said, said[-200:])


def lake_ticks(day, first, count):
    """The same rows as a lake has them."""
    frame = ticks(day, first, count)
    frame["day"] = pd.to_datetime(frame["day"]).dt.date
    return pa.Table.from_pydict(
        {
            "day": pa.array(frame["day"], pa.date32()),
            "sym": pa.array(frame["sym"], pa.string()),
            "n": pa.array(frame["n"], pa.int64()),
            "at": pa.array([None if pd.isna(at) else at.to_pydatetime() for at in frame["at"]], pa.timestamp("us")),
            "price": pa.array(frame["price"], pa.float64(), from_pandas=True),
            "size": pa.array([None if pd.isna(size) else int(size) for size in frame["size"]], pa.int32()),
            "note": pa.array(frame["note"], pa.string()),
            "buy": pa.array(frame["buy"], pa.bool_()),
        }
    )


def from_lake(checks, pair, client):
    path = pair.lake_a / "db1/mt"
    path.parent.mkdir(parents=True)
    for at, day in enumerate(DAYS):
        write_deltalake(str(path), lake_ticks(day, at * ROWS_OF_A_DAY, ROWS_OF_A_DAY), partition_by=["day"], mode="append")
    way = ("live:db1/mt", "dr:db2/mt")
    copied = 'loadTable("dfs://db2", "mt")'
    plan = pair.json("plan", "--from", way[0], "--to", way[1])
    checks.check("plan says what it would make", plan["created"] == ["database db2", "table db2/mt"], plan["created"])
    checks.check("and that a reader may see a part of a partition", plan["atomic"] is False and any("batch by batch" in rule for rule in plan["value_rules"]))
    answer = pair.sync(*way)
    checks.check("sync copies all days", answer["partitions_done"] == len(DAYS), answer["partitions_done"])
    same(checks, "the vendor's client reads what the lake has", rows_of_lake(path), rows_at_server(client, copied))
    verified = pair.json("verify", "--from", way[0], "--to", way[1])
    checks.check("verify finds them equal", verified["equal"] == len(DAYS) and not verified["different"], verified["equal"])
    again = pair.sync(*way)
    checks.check("another sync copies nothing", (again["partitions_done"], again["rows_sent"]) == (0, 0), again["rows_sent"])
    mirror = (*way, "--mode", "mirror", "--allow-drop", 1)
    night = pair.sync(*mirror)
    checks.check("a mirror after it neither", (night["partitions_done"], night["rows_sent"]) == (0, 0), night["rows_sent"])
    changed = lake_ticks(DAYS[1], 500_000, 700)
    write_deltalake(str(path), changed, mode="overwrite", predicate=f"day = '{DAYS[1]}'")
    DeltaTable(path).delete(f"day = '{DAYS[2]}'")
    night = pair.sync(*mirror)
    counts = (night["partitions_done"], night["partitions_dropped"], night["rows_sent"])
    checks.check("a mirror copies the day that differs and drops the one that is gone", counts == (1, 1, 700), counts)
    same(checks, "and the server has that", rows_of_lake(path), rows_at_server(client, copied))
    client.run(f"dropPartition(database('dfs://db2'), ['/{DAYS[0].replace('-', '')}'], 'mt')")
    verified = pair.json("verify", "--from", way[0], "--to", way[1], codes=(16,))
    checks.check("verify finds what somebody has dropped at the server", [d["rows_sink"] for d in verified["different"]] == [0], verified["different"])
    night = pair.sync(*mirror)
    checks.check("and a mirror brings it back", night["partitions_done"] == 1, night["partitions_done"])
    same(checks, "as it was", rows_of_lake(path), rows_at_server(client, copied))
    # What the server cannot hold is refused by column and row, and nothing of its partition is there.
    empty = lake_ticks(DAYS[2], 900_000, 5).set_column(6, "note", pa.array(["a", "b", "", "d", "e"]))
    write_deltalake(str(path), empty, mode="append")
    answer = pair.json("sync", "--from", way[0], "--to", way[1], codes=range(256))
    failed = " ".join(partition["message"] for partition in answer.get("failed", [])) + str(answer.get("message"))
    checks.check("an empty text is refused by column and row", answer["status"] != "done" and "note" in failed and "row 2" in failed, failed[:300])
    left = client.run(f"exec count(*) from {copied} where day == {DAYS[2].replace('-', '.')}")
    checks.check("and nothing of that day is there", left == 0, left)


def to_dolphindb(checks, pair, client, other):
    way = ("live:db1/mt", "dr:db1/mt")
    answer = pair.sync(*way)
    partitions = partitions_of(client)
    checks.check("sync copies every partition, by day and bucket", answer["partitions_done"] == partitions, answer["partitions_done"])
    same(checks, "the vendor's client reads the same at both", rows_at_server(client), rows_at_server(other))
    types = [list(each.run(f"schema({TABLE}).colDefs")["typeString"]) for each in (client, other)]
    checks.check("the columns have the same types at both", types[0] == types[1], types)
    verified = pair.json("verify", "--from", way[0], "--to", way[1])
    checks.check("verify finds them equal", verified["equal"] == partitions and not verified["different"], verified["equal"])
    by_sums = ("verify", "--from", way[0], "--to", way[1], "--by", "sums")
    verified = pair.json(*by_sums)
    checks.check("so do the servers' own checksums, unread", verified["equal_by_sums"] == verified["equal"] == partitions, verified)
    mirror = (*way, "--mode", "mirror", "--allow-drop", 1)
    night = pair.sync(*mirror)
    checks.check("a mirror copies nothing", (night["partitions_done"], night["rows_sent"]) == (0, 0), night["rows_sent"])
    insert(client, ticks(DAYS[1], 1_000_000, 1))
    verified = pair.json(*by_sums, codes=(16,))
    told = (verified["equal_by_sums"], len(verified["different"]))
    checks.check("of which one finds the row that only A has", told == (partitions - 1, 1), told)
    night = pair.sync(*mirror)
    checks.check("after one row the partition of that row is copied, and no other", night["partitions_done"] == 1, night["partitions_done"])
    same(checks, "and B has it", rows_at_server(client), rows_at_server(other))
    bundle = pair.root / "bundle"
    pair.json("backup", "--from", "live:db1/mt", "--to", f"file://{bundle}")
    answer = pair.json("restore", "--from", f"file://{bundle}:db1/mt", "--to", "dr:db1/restored")
    checks.check("a backup is restored into DolphinDB", answer["status"] == "done", answer.get("message"))
    same(checks, "row for row", rows_at_server(client), rows_at_server(other, 'loadTable("dfs://db1", "restored")'))


def making_of(client, table):
    """How the server says that a table was made, but for the values of its divisions, which come with rows."""
    described = client.run(f"schema({table})")
    methods = dict(zip(described["compressMethods"]["name"], described["compressMethods"]["compressMethods"], strict=True))
    parts = [list(part) for kind, part in zip(described["partitionTypeName"], described["partitionSchema"], strict=True) if kind == "RANGE"]
    told = ["engineType", "keepDuplicates"]
    listed = ["sortColumns", "partitionTypeName", "partitionColumnName"]
    return {name: str(described[name]) for name in told} | {name: list(described[name]) for name in listed} | {"edges": parts, "compressed": methods}


def made_anew(checks, pair, client, other):
    with np.errstate(invalid="ignore"):
        client.upload({"sample": ticks(DAYS[0], 0, 2)})
    client.run(
        'p0 = database("", VALUE, [2026.10M, 2026.11M]); p1 = database("", RANGE, [0, 3000, 9000, 20000]); '
        'db = database("dfs://db1", COMPO, [p0, p1], , "TSDB"); '
        'createPartitionedTable(db, sample, `mt, `day`n, dict(`at`price, `delta`zstd), `sym`n, LAST)'
    )
    for at, day in enumerate(DAYS):
        insert(client, ticks(day, at * ROWS_OF_A_DAY, ROWS_OF_A_DAY))
    way = ("live:db1/mt", "dr:db1/mt")
    plan = pair.json("plan", "--from", way[0], "--to", way[1], "--mode", "mirror")
    made = plan["created"][-1]
    checks.check("plan says how it would be made", all(word in made for word in ("TSDB", "sym, n", "LAST", "price by zstd")), made)
    said = " ".join(plan["notes"])
    checks.check("and that it keeps one row of a key", "one row of each key" in said, said)
    refused = pair.json("sync", "--from", way[0], "--to", way[1], codes=range(1, 256))
    nothing = other.run('existsDatabase("dfs://db1")')
    checks.check("to append is refused before anything is made", "--mode mirror" in str(refused) and not nothing, refused)
    answer = pair.sync(*way, "--mode", "mirror")
    checks.check("months and ranges are copied one by one", answer["partitions_done"] == 3, answer["partitions_done"])
    made = [making_of(each, TABLE) for each in (client, other)]
    checks.check("the table is made like A's", made[0] == made[1] and made[0]["edges"] == [[0, 3000, 9000, 20000]], made[1])
    same(checks, "the vendor's client reads the same at both", rows_at_server(client), rows_at_server(other))
    # Once more after a month that B's scheme has not yet, and a range after its last one.
    client.run('addValuePartitions(database("dfs://db1"), [2026.12M], 0)')
    client.run('addRangePartitions(database("dfs://db1"), [20000, 30000, 40000], 1)')
    # The one that comes next has no rows: nobody sends it.
    insert(client, ticks("2026-12-01", 30_500, 10))
    plan = pair.json("plan", "--from", way[0], "--to", way[1], "--mode", "mirror")
    checks.check("plan says which ranges B lacks", plan["created"] == ["2 ranges of n of table db1/mt"], plan["created"])
    night = pair.sync(*way, "--mode", "mirror")
    checks.check("what A's scheme has got since is added at B", night["partitions_done"] == 1, night["partitions_done"])
    same(checks, "with its rows", rows_at_server(client), rows_at_server(other))
    bundle = pair.root / "bundle"
    pair.json("backup", "--from", "live:db1/mt", "--to", f"file://{bundle}")
    compared(checks, "a bundle has the same", client, bundle / "db1/mt")
    answer = pair.json("restore", "--from", f"file://{bundle}:db1/mt", "--to", "dr:db2/mt", "--mode", "mirror")
    again = 'loadTable("dfs://db2", "mt")'
    checks.check("a restore makes it from the bundle alone, like A's", making_of(other, again) == making_of(client, TABLE), answer.get("message"))
    same(checks, "with its rows, too", rows_at_server(client), rows_at_server(other, again))
    # A database that is there decides which engine keeps a table.
    other.run('database("dfs://plain", VALUE, [2026.11.01])')
    refused = pair.json("plan", "--from", way[0], "--to", "dr:plain/mt", codes=range(1, 256))
    checks.check("a database that divides otherwise is refused by name", "database plain" in str(refused), refused)


def without_versions(checks, pair, client):
    way = ("live:db1/mt", "dr:db1/mt", "--mode", "mirror")
    plan = pair.json("plan", "--from", way[0], "--to", way[1])
    said = " ".join(plan["warnings"])
    checks.check("plan says that versions are not known, and why", "getTabletsMeta" in said and "versions" in said, said)
    partitions = partitions_of(client)
    first = pair.sync(*way)
    checks.check("all partitions are copied", first["partitions_done"] == partitions, first["partitions_done"])
    compared(checks, "the lake has what the vendor's client reads", client, pair.lake_b / "db1/mt")
    insert(client, ticks(DAYS[1], 1_000_000, 1))
    night = pair.sync(*way)
    checks.check("a mirror reads all and copies what differs", night["partitions_done"] == 1, night["partitions_done"])
    compared(checks, "and the lake has it", client, pair.lake_b / "db1/mt")


LISTS = '(["IBM", "MSFT"], ["A/B", "東京", "GOOG"], ["AAPL", "NVDA"])'


def make_by_lists(client):
    with np.errstate(invalid="ignore"):
        client.upload({"sample": ticks(DAYS[0], 0, 2)})
    client.run(f'db = database("dfs://db1", LIST, {LISTS}); createPartitionedTable(db, sample, `mt, `sym)')


def by_lists(checks, pair, client):
    make_by_lists(client)
    for at, day in enumerate(DAYS):
        insert(client, ticks(day, at * ROWS_OF_A_DAY, ROWS_OF_A_DAY))
    plan = pair.json("plan", "--from", "live:db1/mt", "--to", "dr:db1/mt")
    listed = [partition["key"] for partition in plan["partitions"]]
    checks.check("plan lists each list by its number", listed == [f"sym=bucket({at},3)" for at in range(3)], listed)
    pair.sync("live:db1/mt", "dr:db1/mt")
    compared(checks, "the lake has what the vendor's client reads", client, pair.lake_b / "db1/mt")


def lists_to_lists(checks, pair, client, other):
    make_by_lists(other)
    way = ("live:db1/mt", "dr:db1/mt")
    answer = pair.sync(*way)
    checks.check("all lists are copied to the same ones", answer["partitions_done"] == 3, answer["partitions_done"])
    same(checks, "the vendor's client reads the same at both", rows_at_server(client), rows_at_server(other))
    night = pair.sync(*way, "--mode", "mirror")
    checks.check("a mirror copies nothing", (night["partitions_done"], night["rows_sent"]) == (0, 0), night["rows_sent"])
    other.run('dropDatabase("dfs://db1")')
    with np.errstate(invalid="ignore"):
        other.upload({"sample": ticks(DAYS[0], 0, 2)})
    other.run('db = database("dfs://db2", LIST, (["IBM"], ["A/B", "東京", "GOOG", "MSFT"], ["AAPL", "NVDA"])); createPartitionedTable(db, sample, `mt, `sym)')
    pair.sync(way[0], "dr:db3/mt")
    same(checks, "where there is no such database the same lists are made", rows_at_server(client), rows_at_server(other, 'loadTable("dfs://db3", "mt")'))
    refused = pair.json("sync", "--from", way[0], "--to", "dr:db2/mt", codes=range(256))
    failed = " ".join(partition["message"] for partition in refused.get("failed", [])) + str(refused.get("message"))
    checks.check("other lists of the same number are refused, and no row is put elsewhere", refused["status"] != "done" and "list" in failed, failed[:300])
    kept = other.run('exec count(*) from loadTable("dfs://db2", "mt") where sym == "MSFT"')
    checks.check("no row of the list that differs is there", kept == 0, kept)


def killed_on_the_way(checks, address, to, client, other, role):
    kills = 0
    with pair_of(address, to, source_keys={"frame_bytes_max": "16KiB", "chunk_bytes": "64KiB"}) as pair:
        agents = {"source": [pair.source], "sink": [pair.sink], "both": [pair.sink, pair.source]}[role]
        run = pair.begin("live:db1/mt", "dr:db1/mt", "--bandwidth-max", "100KiB")
        for done in (0, 2, 4, 6):
            kills += on_its_way(pair, run, done)
            for agent in agents:
                agent.kill9()
            for agent in agents:
                agent.start()
        ended = pair.wait(run, timeout_s=120)
        checks.check("the run ends by itself", ended["status"] == "done", ended.get("message"))
        checks.check("it was killed under way", kills >= 3, kills)
        same(checks, "nothing is lost or doubled", rows_at_server(client), rows_at_server(other))
