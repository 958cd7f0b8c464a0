"""The stand-in for a DolphinDB server is proved by the vendor's own client, and so are the rows that our client writes: read back here, type by type; then what the
agents copy from it.

What a stand-in cannot prove is the real server; see docs/dolphindb.md for what is open.
"""

import contextlib
import datetime
import decimal
import os
import pathlib
import subprocess
import sys

import dolphindb
import numpy as np
import pandas as pd

from checks import Checks
from dolphindb_copies import copies

STANDIN = pathlib.Path(os.environ["STRAIT_BIN"]).with_name("dolphindb-standin")
ROWS = 10_000


@contextlib.contextmanager
def standin(*denied):
    """A stand-in of its own, where nobody may call these functions; its address."""
    server = subprocess.Popen([STANDIN, "serve", "127.0.0.1:0", *denied], stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()


def ours(*words):
    """Our client does something; what it says of it."""
    done = subprocess.run([STANDIN, *map(str, words)], capture_output=True, text=True, timeout=120)
    return done.returncode == 0, (done.stdout + done.stderr).strip()[-400:]


def session(address, **how):
    host, port = address.split(":")
    client = dolphindb.Session(**how)
    if not client.connect(host, int(port), "admin", "123456"):
        raise ConnectionError(address)
    return client


# What the three cells of each type are, as the vendor's client shows them: (first, third); the second is null.
D = decimal.Decimal
TIMES = {
    "date": ("1969-12-31", "2024-10-04"),
    "month": ("1970-01-01", "2026-01-01"),
    "datetime": ("1969-12-31T23:59:59", "2023-11-14T22:13:21"),
    "timestamp": ("1969-12-31T23:59:59.999", "2023-11-14T22:13:20.123"),
    "nanotimestamp": ("1969-12-31T23:59:59.999999999", "2023-11-14T22:13:20.123456789"),
    "datehour": ("1969-12-31T23:00:00", "2023-11-14T23:00:00"),
    # Times of day are shown on the first day of 1970.
    "time": ("1970-01-01T00:00:00", "1970-01-01T23:59:59.999"),
    "minute": ("1970-01-01T00:00:00", "1970-01-01T23:59:00"),
    "second": ("1970-01-01T00:00:00", "1970-01-01T23:59:59"),
    "nanotime": ("1970-01-01T00:00:00", "1970-01-01T23:59:59.999999999"),
}
COUNTED = "00010203-0405-0607-0809-0a0b0c0d0e0f"
PLAIN = {
    "bool": (True, False),
    "char": (-127, 127),
    "short": (-32767, 32767),
    "int": (-(2**31) + 1, 2**31 - 1),
    # The vendor's client makes floats of integers where there are nulls among them; its aggregates are compared exactly.
    "long": (float(-(2**63) + 1), float(2**63 - 1)),
    "float": (np.float32(-0.5), np.finfo(np.float32).max),
    "double": (-0.0, sys.float_info.max),
    "symbol": ("IBM", "東京"),
    "string": ("it's 100 %", "東京/Ωß"),
    "uuid": (COUNTED, "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    "ipaddr": ("1:203:405:607:809:a0b:c0d:e0f", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    "int128": (COUNTED.replace("-", ""), "f" * 32),
    # The vendor's client shows a BLOB up to its first zero byte: the last one is x, zero, y.
    "blob": (b"\x01\xff\x80", b"x"),
    "decimal32(2)": (D("-9999999.99"), D("1.10")),
    "decimal64(4)": (D("-99999999999999.9999"), D("0.0110")),
    "decimal128(10)": (D("-9999999999999999999999999999.9999999999"), D("0.0000000110")),
}


def is_null(value):
    return value is None or value == "" or value == b"" or value == "0" * 32 or value in (
        "00000000-0000-0000-0000-000000000000", "0.0.0.0", "::"
    ) or (not isinstance(value, (str, bytes)) and pd.isna(value))


def plainly(values):
    """As Python has them."""
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def read_back(checks, how, frame):
    """Every column that our client has written, against what was written."""
    checks.check(f"{how}: all rows are there", len(frame) == ROWS, len(frame))
    for name, (first, third) in {**TIMES, **PLAIN}.items():
        column = list(frame[name])
        wanted = [pd.Timestamp(first), pd.Timestamp(third)] if name in TIMES else [first, third]
        got = [column[0], column[2]]
        if name not in TIMES:
            got, wanted = plainly(got), plainly(wanted)
        right = got == wanted and is_null(column[1])
        right = right and all(is_null(value) for value in column[1::3])
        # The three cells come again and again.
        right = right and all(value == column[0] for value in column[0::3]) and all(value == column[2] for value in column[2::3])
        checks.check(f"{how}: {name}", right, (column[:3], wanted) if not right else "")
    items = 0
    for row, values in enumerate(frame["int_list"]):
        values = [] if values is None else list(values)
        shown = [{0: -(2**31) + 1, 2: 2**31 - 1}.get(at % 3) for at in range(items, items + row % 5)]
        items += row % 5
        if [None if pd.isna(value) else int(value) for value in values] != shown:
            checks.check(f"{how}: lists of integers", False, (row, values, shown))
            break
    else:
        checks.check(f"{how}: lists of integers", True)
    lengths = {name: [0 if v is None else len(v) for v in frame[name]] for name in frame.columns if name.endswith("_list")}
    wrong = [name for name, got in lengths.items() if got != [row % 5 for row in range(ROWS)]]
    checks.check(f"{how}: lists are as long as they were written", not wrong, wrong or "")


def main():
    checks = Checks()
    with standin() as address:
        with checks.section("the vendor's client: sessions", needed=True):
            client = session(address)
            checks.check("1+1 is 2", client.run("1+1") == 2)
            checks.check("a wrong password is refused", not dolphindb.Session().connect(*address.split(":")[:1], int(address.split(":")[1]), "admin", "wrong"))
            try:
                client.run("nonsense")
                checks.check("an error is an error", False)
            except RuntimeError as error:
                checks.check("an error is an error", "nonsense" in str(error), error)
            checks.check("after an error the session goes on", client.run("2+3") == 5)
            checks.check("a function is called", client.run("sum", np.array([1, 2, 3])) == 6)
            client.upload({"x": 7, "y": [1, 2, 3]})
            checks.check("variables are set", client.run("x") == 7 and list(client.run("y")) == [1, 2, 3])
            client.close()

        with checks.section("rows of every type that our client writes"):
            for how in ([], ["compress"]):
                with standin() as own:
                    word = " ".join(how) or "plain"
                    done, said = ours("write", own, ROWS, *how)
                    checks.check(f"{word}: our client writes", done, said)
                    done, said = ours("check", own, ROWS, *how)
                    checks.check(f"{word}: our client reads them back", done, said)
                    for compressed in (False, True):
                        client = session(own, compress=compressed)
                        whole = "compressed" if compressed else "plain"
                        frame = client.run('select * from loadTable("dfs://types", "rows")')
                        most = client.run('exec max(long) from loadTable("dfs://types", "rows")')
                        checks.check(f"written {word}: no digit of a long is lost", int(most) == 2**63 - 1, most)
                        read_back(checks, f"written {word}, read {whole}", frame)
                        blocks = client.run('select * from loadTable("dfs://types", "rows")', fetchSize=8192)
                        sizes = []
                        while blocks.hasNext():
                            sizes.append(len(blocks.read()))
                        checks.check(f"written {word}, read {whole} in blocks", sizes == [8192, ROWS - 8192], sizes)
                        checks.check("after blocks the session goes on", client.run("1+1") == 2)
                        client.close()

        with checks.section("the vendor's client writes"):
            client = session(address)
            day = datetime.date(2026, 11, 1)
            frame = pd.DataFrame({
                "day": pd.to_datetime([day] * 4), "sym": ["A", "B", None, "A"], "v": np.array([1, 2, 3, 4], dtype=np.int64),
                "p": [0.5, None, 2.5, -1.0],
            })
            client.upload({"sample": frame, "days": np.array(["2026-11-01", "2026-11-02"], dtype="datetime64[D]")})
            client.run('db = database("dfs://vendor", VALUE, days); createPartitionedTable(db, sample, `t, `day)')
            checks.check("tableInsert of a frame", client.run("tableInsert{loadTable('dfs://vendor', 't')}", frame) == 4)
            elsewhere = frame.assign(day=pd.to_datetime([datetime.date(2026, 11, 9)] * 4))
            checks.check(
                "rows that no partition takes are dropped without a word",
                client.run("tableInsert{loadTable('dfs://vendor', 't')}", elsewhere) == 0,
            )
            appender = dolphindb.TableAppender("dfs://vendor", "t", client)
            checks.check("TableAppender", appender.append(frame.assign(day=pd.to_datetime([datetime.date(2026, 11, 2)] * 4))) == 4)
            host, port = address.split(":")
            writer = dolphindb.MultithreadedTableWriter(
                host, int(port), "admin", "123456", dbPath="dfs://vendor", tableName="t", batchSize=50, throttle=0.01, threadCount=1,
                compressMethods=["DELTA", "LZ4", "DELTA", "LZ4"],
            )
            for at in range(300):
                writer.insert(np.datetime64("2026-11-02"), f"S{at % 3}", at, at / 4)
            writer.waitForThreadCompletion()
            checks.check("MultithreadedTableWriter, compressed by LZ4 and deltas", not writer.getStatus().hasError(), writer.getStatus().errorInfo)
            back = client.run("select * from loadTable('dfs://vendor', 't')")
            checks.check("all rows came", len(back) == 308, len(back))
            written = back[back["sym"].str.startswith("S", na=False)].sort_values("v")
            checks.check("with their values", list(written["v"]) == list(range(300)) and list(written["p"]) == [at / 4 for at in range(300)])
            checks.check(
                "one partition is read by its key",
                client.run("exec count(*) from loadTable('dfs://vendor', 't') where partition(day, 2026.11.01)") == 4,
            )
            client.close()
    copies(checks, standin, session)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
