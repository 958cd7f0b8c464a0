"""Shows that lake_compare finds what it is for: one table, and copies of it with one thing wrong each, must compare as told here.

No agent runs in this suite. It comes before the others, because what they prove is worth as much as their comparison.
"""

import datetime
import decimal
import json
import pathlib
import shutil
import struct
import sys
import tempfile

import pyarrow as pa
from deltalake import write_deltalake

from checks import Checks
from lake_compare import compare

OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0001))[0]


def sample():
    D, time = decimal.Decimal, datetime.datetime(2020, 1, 1, 1, 1, 1, 123456)
    columns = {
        "key": pa.array(["a/b", "ü x", "ü x", None, "a/b", None], pa.string()),
        "int": pa.array([1, 2, 3, None, 5, 6], pa.int16()),
        "double": pa.array([0.0, float("nan"), -1.5, None, 2.0, float("inf")], pa.float64()),
        "float": pa.array([0.0, 1.0, 2.0, None, -0.0, 4.0], pa.float32()),
        "text": pa.array(["", "x", None, "zzz", "y", "q" * 50], pa.string()),
        "bytes": pa.array([b"", b"\x00", None, b"zz", b"1", b"2"], pa.binary()),
        "decimal": pa.array([D("1.10"), D("2.00"), None, D("-3.33"), D("4.00"), D("0.00")], pa.decimal128(10, 2)),
        "time": pa.array([time, None, time, time.replace(year=1960), time, time], pa.timestamp("us", "UTC")),
        "list": pa.array([[1.0, None], [], None, [float("nan")], [2.0], [3.0]], pa.list_(pa.float64())),
        "bool": pa.array([True, False, None, True, True, False], pa.bool_()),
        "struct": pa.array(
            [{"p": 1, "q": "x"}, None, {"p": None, "q": ""}, {"p": 2, "q": None}, {"p": 1, "q": "x"}, {"p": 1, "q": "x"}],
            pa.struct([("p", pa.int32()), ("q", pa.string())]),
        ),
    }
    table = pa.table(columns)
    # A row twice: multisets, not sets, are compared.
    return pa.concat_tables([table, table.slice(0, 1)])


def put(table, column, *values_at):
    """The table with other values: (row, value) each."""
    index = table.schema.get_field_index(column)
    values = table.column(column).to_pylist()
    for row, value in values_at:
        values[row] = value
    return table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))


def wrong_copies(table):
    """What is wrong, and a copy with it."""
    names = table.schema.names
    time = table.column("time").to_pylist()[0]
    yield "0.0 became -0.0", put(table, "double", (0, -0.0))
    yield "a NaN became 1.0", put(table, "double", (1, 1.0))
    yield "a NaN has other bits", put(table, "double", (1, OTHER_NAN))
    yield "'' became null", put(table, "text", (0, None))
    yield "null became ''", put(table, "text", (2, ""))
    yield "an integer changed", put(table, "int", (0, 7))
    yield "two cells were swapped between rows", put(table, "int", (0, 5), (4, 1))
    yield "a decimal changed", put(table, "decimal", (0, decimal.Decimal("1.11")))
    yield "a time changed by a microsecond", put(table, "time", (0, time + datetime.timedelta(microseconds=1)))
    yield "a null in a list became a number", put(table, "list", (0, [1.0, 2.0]))
    yield "a field of a struct changed", put(table, "struct", (0, {"p": 1, "q": "X"}))
    yield "a bool changed", put(table, "bool", (1, True))
    yield "bytes changed", put(table, "bytes", (0, b"\x00"))
    yield "a row is in another partition", put(table, "key", (1, "a/b"))
    yield "a null key became text", put(table, "key", (3, "zz"))
    yield "a row is there twice", pa.concat_tables([table, table.slice(1, 1)])
    yield "a row is lost", table.slice(0, 6)
    yield "one of two equal rows is lost", table.slice(1)
    yield "a type was widened", table.set_column(1, "int", table["int"].cast(pa.int32()))
    yield "the order of columns changed", table.select(names[1:] + names[:1])


def main():
    checks = Checks()
    root = pathlib.Path(tempfile.mkdtemp(prefix="strait-test."))
    try:
        with checks.section("the comparison of lakes"):
            table = sample()
            a = root / "a"
            write_deltalake(str(a), table, partition_by=["key"])

            def compared(name, copy, partition_by=("key",)):
                b = root / name.replace("/", "_")
                write_deltalake(str(b), copy, partition_by=list(partition_by))
                return compare(a, b)

            for name, copy in (("the same rows", table), ("the same rows in another order", table.take([3, 0, 6, 5, 4, 2, 1]))):
                result = compared(name, copy)
                checks.check(f"equal: {name}", result.equal, result)
            for name, copy in wrong_copies(table):
                result = compared(name, copy)
                checks.check(f"found: {name}", not result.equal, "" if not result.equal else result)
            checks.check("found: no partitions", not compared("no partitions", table, ()).equal)
            shutil.copytree(a, root / "lying")
            checks.check("found: the log's greatest value is too low", lie(root / "lying") and not compare(a, root / "lying").equal)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return checks.finish()


def lie(path):
    """Lowers one greatest value in the log; whether there was one to lower."""
    log = path / "_delta_log/00000000000000000000.json"
    lines, lied = [], False
    for line in log.read_text().splitlines():
        action = json.loads(line)
        if "add" in action and not lied:
            statistics = json.loads(action["add"]["stats"])
            if "int" in statistics["maxValues"]:
                statistics["maxValues"]["int"] -= 1
                action["add"]["stats"] = json.dumps(statistics)
                lied = True
        lines.append(json.dumps(action))
    log.write_text("\n".join(lines) + "\n")
    return lied


if __name__ == "__main__":
    sys.exit(main())
