"""What a condition means, by another engine: random conditions are copied by the agents with --where, and DuckDB selects from the same rows.

Among the values are nulls, NaN, infinities and -0.0, civil and zoned times on the days on which clocks change, and days with several of each. The table is divided by
day, so that a partition that is wrongly left out is missed as well. Then the condition of a day as DolphinDB's guide has it, run twice.
"""

import datetime
import os
import random
import sys

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

import real_data
from checks import Checks
from strait_pair import Pair

CONDITIONS = 40
DEPTH = 3
ZONE = "Europe/Berlin"
# Clocks go forward on the first and back on the last of these days.
DAYS = ["2026-03-29", "2026-03-30", "2026-10-25", None]
FLOATS = [None, float("nan"), float("inf"), float("-inf"), -0.0, 0.0, 0.1, -1.5, 3.0]
NUMBERS = [None, -2, 0, 1, 7]
TEXTS = [None, "", "a", "it's", "Ω"]


def rows(rng):
    """Every pair of a day and a float, and the other columns by chance."""
    columns = {name: [] for name in ("id", "day", "x", "n", "text", "civil", "instant")}
    for day in DAYS:
        for x in FLOATS * 3:
            minutes = rng.randrange(0, 360)
            at = datetime.datetime.fromisoformat(day or "2026-03-28") + datetime.timedelta(minutes=minutes)
            absent = rng.random() < 0.1
            columns["id"].append(len(columns["id"]))
            columns["day"].append(day and datetime.date.fromisoformat(day))
            columns["x"].append(x)
            columns["n"].append(rng.choice(NUMBERS))
            columns["text"].append(rng.choice(TEXTS))
            columns["civil"].append(None if absent else at)
            columns["instant"].append(None if absent else at.replace(tzinfo=datetime.UTC))
    types = {
        "id": pa.int64(),
        "day": pa.date32(),
        "x": pa.float64(),
        "n": pa.int32(),
        "text": pa.string(),
        "civil": pa.timestamp("us"),
        "instant": pa.timestamp("us", "UTC"),
    }
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def literal(rng, column):
    """A value of the column, in a form that both sides read."""
    if column == "x":
        return rng.choice(["'NaN'", "0.0", "-0.0", "0.1", "-1.5", "3", "100"])
    if column == "n":
        return rng.choice(["-2", "0", "1", "7", "8"])
    if column == "text":
        return rng.choice(["''", "'a'", "'it''s'", "'Ω'", "'z'"])
    day = rng.choice([day for day in DAYS if day] + ["2026-03-28"])
    if column == "day":
        return f"date '{day}'"
    time = f"{rng.randrange(0, 6):02}:{rng.choice([0, 30, 59]):02}:00"
    if column == "civil":
        return f"timestamp '{day} {time}'"
    return f"'{day} {time}{rng.choice(['+00:00', '+01:00', '+02:00'])}'"


def condition(rng, depth):
    choice = rng.randrange(10) if depth else rng.randrange(6)
    column = rng.choice(["day", "x", "n", "text", "civil", "instant"])
    some = lambda: literal(rng, column)
    if choice < 3:
        return f"{column} {rng.choice(['=', '<>', '<', '<=', '>', '>='])} {some()}"
    if choice == 3:
        return f"{column} is {rng.choice(['', 'not '])}null"
    if choice == 4:
        return f"{column} {rng.choice(['', 'not '])}in ({', '.join(some() for _ in range(rng.randrange(1, 4)))})"
    if choice == 5:
        return f"{column} {rng.choice(['', 'not '])}between {some()} and {some()}"
    if choice == 6:
        return f"not ({condition(rng, depth - 1)})"
    return f"({condition(rng, depth - 1)}) {rng.choice(['and', 'or'])} ({condition(rng, depth - 1)})"


def the_day_twice(checks, pair):
    """The condition of DolphinDB's guide, as it stands there, run now and again a moment later: as its job at 22:30 and at 22:40."""
    today = datetime.datetime.combine(datetime.datetime.now(datetime.UTC).date(), datetime.time())
    times = [today + datetime.timedelta(milliseconds=n) for n in range(0, 4)]
    table = pa.table(
        {
            "TradingDay": pa.array([today.date()] * len(times), pa.date32()),
            "Timestamp": pa.array(times, pa.timestamp("us")),
            "id": pa.array(range(len(times)), pa.int64()),
        }
    )
    real_data.write(pair.lake_a / "db1/mt", table, ["TradingDay"])
    asked = ["sync", "--from", "live:db1/mt", "--to", "dr:db1/mt", "--where", "Timestamp > timestamp(date(now())) and Timestamp < now()"]
    first = pair.json(*asked)
    checks.check("at 22:30 the day's rows are copied, but for that of midnight, of which plan warns", (first["status"], first["rows"]) == ("done", 3), first["status"])
    checks.check("the window that loses a row is told of", any("midnight" in warning for warning in first["warnings"]), first["warnings"])
    again = pair.json(*asked, codes=(3,))
    told = again["failed"][0]["message"] if again["failed"] else ""
    checks.check("at 22:40 the same is refused", again["status"] == "partial" and again["rows"] == 0, again["status"])
    checks.check("both conditions are shown", told.count("Timestamp") >= 4 and "this run selects" in told, told)
    checks.check("and what can be done", "--mode mirror" in told and "--again" in told, told)
    checks.check("no row came twice", ids(pair.lake_b / "db1/mt") == [1, 2, 3])
    healed = pair.json("sync", "--from", "live:db1/mt", "--to", "dr:db1/mt", "--mode", "mirror")
    checks.check("a mirror brings the row of midnight", healed["status"] == "done" and ids(pair.lake_b / "db1/mt") == [0, 1, 2, 3])


def ids(path):
    return sorted(DeltaTable(path).to_pyarrow_table(columns=["id"])["id"].to_pylist())


def main():
    seed = int(os.environ.get("STRAIT_SEED", random.randrange(2**32)))
    print(f"STRAIT_SEED={seed}")
    rng = random.Random(seed)
    checks = Checks()
    table = rows(rng)
    connection = duckdb.connect()
    connection.execute(f"SET TimeZone = '{ZONE}'")
    # A table of its own: conditions on an Arrow table are handed to Arrow, which has another order of NaN.
    connection.register("arrow", table)
    connection.execute("CREATE TABLE t AS SELECT * FROM arrow")
    with Pair() as pair:
        with checks.section("lake A by Python deltalake", needed=True):
            real_data.write(pair.lake_a / "db1/t", table, ["day"])
        with checks.section(f"{CONDITIONS} conditions"):
            selected = 0
            for number in range(CONDITIONS):
                text = condition(rng, DEPTH)
                expected = sorted(row[0] for row in connection.execute(f"SELECT id FROM t WHERE {text}").fetchall())
                target = f"c{number}"
                answer = pair.json("sync", "--from", "live:db1/t", "--to", f"dr:db1/{target}", "--where", text, "--zone", ZONE)
                found = ids(pair.lake_b / "db1" / target) if answer["status"] == "done" else answer
                selected += 0 < len(expected) < table.num_rows
                if found != expected:
                    checks.check(f"{text}", False, f"DuckDB selects {expected}, Strait {found}")
            checks.check("DuckDB and Strait select the same rows", checks.failed == 0)
            checks.check("most conditions select some rows and not all", selected * 2 > CONDITIONS, f"{selected} of {CONDITIONS}")
        with checks.section("the tutorial's day, twice"):
            the_day_twice(checks, pair)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
