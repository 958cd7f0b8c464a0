#!/usr/bin/env python3
"""Computes the digest's test vectors from its description alone, apart from the Rust code.

The description is the head of common/src/digest.rs. Needs the package `xxhash`; without it, or with another one, no vector
changes. Writes common/testdata/digest_vectors.json, which the tests of common/src/digest_tests.rs read:

    python tests/python/digest_vectors.py            # write the vectors
    python tests/python/digest_vectors.py --check    # fail if the file holds others

A type is {"type": name, ...}. Values are JSON: null, true, integers and floats as text, bytes as hex, lists as lists, a struct as the
list of its fields, a map as a list of [key, value], an interval as [months, days, nanoseconds]. {"repeat": value, "times": n} is a
long text or list, written short.
"""

import json
import math
import pathlib
import random
import struct
import sys

import xxhash

FILE = pathlib.Path(__file__).parents[2] / "common" / "testdata" / "digest_vectors.json"

UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}
CLASSES = {
    "null": 0,
    "bool": 1,
    **dict.fromkeys(["int8", "int16", "int32", "int64"], 2),
    **dict.fromkeys(["uint8", "uint16", "uint32", "uint64"], 2),
    **dict.fromkeys(["float16", "float32", "float64"], 3),
    **dict.fromkeys(["decimal32", "decimal64", "decimal128", "decimal256"], 4),
    "utf8": 5,
    "binary": 6,
    **dict.fromkeys(["date32", "date64"], 7),
    "time": 8,
    "timestamp": 9,
    "duration": 10,
    "interval": 11,
    "list": 12,
    "struct": 13,
    "map": 14,
}


def of_class(kind):
    return CLASSES[kind["type"]]


def little(value, size, signed=True):
    return value.to_bytes(size, "little", signed=signed)


def float_of(kind, text):
    value = float(text)
    code = {"float16": "e", "float32": "f", "float64": "d"}[kind["type"]]
    return struct.unpack("<" + code, struct.pack("<" + code, value))[0]


def canonical(kind, value):
    """The bytes of a value that is not null."""
    name, number = kind["type"], of_class(kind)
    if number == 1:
        return b"\1" if value else b"\0"
    if number == 2:
        value = int(value)
        return little(value % 2**64, 8, signed=False) + (b"\xff" if value < 0 else b"\0")
    if number == 3:
        value = float_of(kind, value)
        if math.isnan(value):
            return little(0x7FF8000000000000, 8, signed=False)
        return struct.pack("<d", value + 0.0 if value else 0.0)
    if number == 4:
        value, scale = int(value), kind["scale"]
        while value and value % 10 == 0:
            value, scale = value // 10, scale - 1
        return little(scale if value else 0, 1) + little(value, 32)
    if number in (5, 6):
        data = value.encode() if number == 5 else bytes.fromhex(value)
        return little(len(data), 8) + data
    if number == 7:
        return little(int(value) * (86_400_000 if name == "date32" else 1), 8)
    if number == 8:
        return little(int(value) * UNITS[kind["unit"]], 8)
    if number in (9, 10):
        return little(int(value) * UNITS[kind["unit"]], 16)
    if number == 11:
        months, days, ns = value
        return little(int(months), 4) + little(int(days), 4) + little(int(ns), 8)
    if number == 12:
        return little(len(value), 8) + b"".join(cell(kind["item"], item) for item in value)
    if number == 13:
        fields = zip(kind["fields"], value, strict=True)
        return b"".join(cell(field, item) for (_, field), item in fields)
    if number == 14:
        entries = (cell(kind["key"], k) + cell(kind["value"], v) for k, v in value)
        return little(len(value), 8) + b"".join(entries)
    raise ValueError(kind)


def cell(kind, value):
    tag = 2 * of_class(kind)
    if value is None:
        return bytes([tag + 1])
    return bytes([tag]) + canonical(kind, value)


def class_text(kind):
    if kind["type"] == "list":
        return f"list<{class_text(kind['item'])}>"
    if kind["type"] == "struct":
        return "struct<" + ",".join(f"{n}:{class_text(f)}" for n, f in kind["fields"]) + ">"
    if kind["type"] == "map":
        return f"map<{class_text(kind['key'])},{class_text(kind['value'])}>"
    return str(of_class(kind))


def times(repeat, count):
    return {"repeat": repeat, "times": count}


def expanded(value):
    if isinstance(value, dict):
        return value["repeat"] * value["times"]
    return [expanded(item) for item in value] if isinstance(value, list) else value


def vector(name, columns, rows):
    """columns: (name, type) pairs; rows: lists of values."""
    total = 0
    for row in expanded(rows):
        data = b"".join(cell(kind, value) for (_, kind), value in zip(columns, row, strict=True))
        total += xxhash.xxh3_128_intdigest(data)
    identity = "".join(f"{n}:{class_text(kind)}\n" for n, kind in columns)
    return {
        "name": name,
        "columns": [{"name": n, **kind} for n, kind in columns],
        "rows": rows,
        "digest": f"{total % 2**128:032x}",
        "id": f"x1-{xxhash.xxh3_128_hexdigest(identity.encode())}",
    }


def simple(name, **more):
    return {"type": name, **more}


def written_by_hand():
    utf8, int64 = simple("utf8"), simple("int64")
    pair = [("a", utf8), ("b", utf8)]
    yield vector("no rows", pair, [])
    yield vector("no columns", [], [[], []])
    yield vector("cells at their places", pair, [["a", "b"], ["c", "d"]])
    yield vector("two cells swapped between rows", pair, [["a", "d"], ["c", "b"]])
    yield vector("a, bc", pair, [["a", "bc"]])
    yield vector("ab, c", pair, [["ab", "c"]])
    yield vector("null", [("a", utf8)], [[None]])
    yield vector("empty", [("a", utf8)], [[""]])
    yield vector("once", [("n", int64)], [["7"]])
    yield vector("twice", [("n", int64)], [["7"], ["7"]])
    for name in ["int8", "int16", "int32", "int64"]:
        yield vector(f"integers as {name}", [("n", simple(name))], [["-1"], ["0"], ["100"]])
    for name in ["uint8", "uint16", "uint32", "uint64"]:
        yield vector(f"integers as {name}", [("n", simple(name))], [["0"], ["100"]])
    ends = [[str(-(2**63))], [str(2**63 - 1)]]
    yield vector("ends of int64", [("n", int64)], ends)
    yield vector("end of uint64", [("n", simple("uint64"))], [[str(2**64 - 1)]])
    for name in ["float16", "float32", "float64"]:
        values = ["0.0", "-0.0", "nan", "-nan", "inf", "-inf", "1.5", "-0.1", None]
        yield vector(f"floats as {name}", [("x", simple(name))], [[v] for v in values])
    yield vector("smallest floats", [("x", simple("float64"))], [["5e-324"], ["-5e-324"]])
    for name, precision in [("decimal32", 9), ("decimal64", 18), ("decimal128", 38), ("decimal256", 76)]:
        for scale, unscaled in [(1, "11"), (2, "110"), (3, "1100")]:
            kind = simple(name, precision=precision, scale=scale)
            yield vector(f"1.1 as {name} of scale {scale}", [("d", kind)], [[unscaled]])
        kind = simple(name, precision=precision, scale=2)
        yield vector(f"{name}", [("d", kind)], [["0"], ["-250"], ["100000"], [None], ["-1"]])
    kind = simple("decimal128", precision=5, scale=-3)
    yield vector("decimals of negative scale", [("d", kind)], [["12"], ["120"]])
    for digits in [20, 38]:
        kind = simple("decimal128", precision=38, scale=5)
        values = ["9" * digits, "-" + "9" * (digits - 1) + "0", "1" + "0" * (digits - 1)]
        yield vector(f"decimals of {digits} digits", [("d", kind)], [[v] for v in values])
    kind = simple("decimal256", precision=76, scale=10)
    values = ["9" * 76, "-" + "8" * 60 + "0" * 15, "7" + "0" * 75, "3" + "0" * 40]
    yield vector("decimals of 76 digits", [("d", kind)], [[v] for v in values])
    texts = [times("x", n) for n in (1, 16, 17, 127, 128, 129, 230, 231, 240, 241, 1024, 70_000)]
    yield vector("texts around the lengths where XXH3 changes its ways", [("t", utf8)], [[t] for t in texts])
    yield vector("a row of more than 256 KiB", [("t", utf8), ("n", int64)], [[times("wide", 70_000), "1"], ["x", "2"]])
    small = [str(i) for i in range(100)]
    yield vector("a long list", [("l", simple("list", item=simple("int8")))], [[times(small, 300)], [None], [small]])
    yield vector("unicode", [("t", utf8)], [["東京"], ["Ωß"], ["\U0001f600"], ["\0"]])
    yield vector("binary", [("b", simple("binary"))], [[""], ["00ff"], [None], ["61"]])
    yield vector("bool", [("b", simple("bool"))], [[True], [False], [None]])
    yield vector("nulls without a type", [("n", simple("null"))], [[None], [None]])
    yield vector("a day as date32", [("d", simple("date32"))], [["20000"], ["-1"], [None]])
    days = [[str(20_000 * 86_400_000)], [str(-86_400_000)], [None]]
    yield vector("a day as date64", [("d", simple("date64"))], days)
    for unit, size in UNITS.items():
        one = lambda seconds: str(seconds * 1_000_000_000 // size)
        kind = simple("time", unit=unit)
        yield vector(f"9:30 in {unit}", [("t", kind)], [[one(34_200)], [None]])
        for name in ["timestamp", "duration"]:
            kind = simple(name, unit=unit)
            rows = [[one(1_700_000_000)], [one(-1)], [None]]
            yield vector(f"{name} in {unit}", [("t", kind)], rows)
    yield vector("a timestamp beyond 64 bits of nanoseconds", [("t", simple("timestamp", unit="s"))], [[str(2**60)]])
    intervals = [[["1", "-2", "3"]], [["0", "0", "-1"]], [None]]
    yield vector("interval", [("i", simple("interval"))], intervals)
    numbers = simple("list", item=int64)
    yield vector("lists", [("l", numbers)], [[["1", None]], [[]], [None], [["1"]]])
    record = simple("struct", fields=[["x", int64], ["y", utf8]])
    rows = [[["1", "a"]], [[None, None]], [None], [["1", ""]]]
    yield vector("structs", [("s", record)], rows)
    table = simple("map", key=utf8, value=numbers)
    rows = [[[["a", ["1"]], ["b", None]]], [[]], [None], [[["a", []]]]]
    yield vector("maps", [("m", table)], rows)
    deep = simple("list", item=simple("struct", fields=[["m", table], ["r", record]]))
    rows = [[[[[["a", ["1", None]]], ["2", None]], None, [None, None]]], [[]], [None]]
    yield vector("lists of structs of maps of lists", [("d", deep)], rows)


def at_random(seed):
    """A table of several columns with random types and values, nested up to three levels."""
    rng = random.Random(seed)

    def kind(depth):
        plain = ["bool", "int32", "int64", "uint64", "float32", "float64", "decimal128", "decimal256", "utf8", "binary"]
        plain += ["date32", "time", "timestamp", "duration", "interval"]
        name = rng.choice(plain + (["list", "struct", "map"] * 3 if depth else []))
        if name == "list":
            return simple(name, item=kind(depth - 1))
        if name == "struct":
            return simple(name, fields=[[f"f{i}", kind(depth - 1)] for i in range(rng.randint(1, 3))])
        if name == "map":
            return simple(name, key=simple("utf8"), value=kind(depth - 1))
        if name.startswith("decimal"):
            return simple(name, precision=38 if name == "decimal128" else 76, scale=rng.randint(-3, 20))
        if name in ("time", "timestamp", "duration"):
            return simple(name, unit=rng.choice(list(UNITS)))
        return simple(name)

    def value(of, nullable=True):
        if nullable and rng.random() < 0.2:
            return None
        name = of["type"]
        if name == "bool":
            return rng.random() < 0.5
        if name == "uint64":
            return str(rng.getrandbits(rng.randint(1, 64)))
        if name in ("int64", "duration", "timestamp"):
            return str(rng.getrandbits(rng.randint(1, 63)) * rng.choice([1, -1]))
        if name in ("int32", "date32"):
            return str(rng.getrandbits(rng.randint(1, 31)) * rng.choice([1, -1]))
        if name.startswith("float"):
            return repr(rng.choice([0.0, -0.0, math.inf, rng.uniform(-1e6, 1e6), float(rng.randint(-9, 9))]))
        if name.startswith("decimal"):
            digits = rng.randint(1, of["precision"] - 20)
            return str(rng.randrange(10**digits) * 10 ** rng.randint(0, 20) * rng.choice([1, -1]))
        if name == "utf8":
            return "".join(rng.choice("ab'/%Ω東\0") for _ in range(rng.choice([0, 1, 2, 3, 40, 200])))
        if name == "binary":
            return rng.randbytes(rng.choice([0, 1, 2, 40])).hex()
        if name == "time":
            return str(rng.randrange(86_400 * 1_000_000_000 // UNITS[of["unit"]]))
        if name == "interval":
            return [str(rng.randint(-99, 99)), str(rng.randint(-99, 99)), str(rng.randint(-(10**15), 10**15))]
        if name == "list":
            return [value(of["item"]) for _ in range(rng.randint(0, 4))]
        if name == "struct":
            return [value(field) for _, field in of["fields"]]
        return [[value(of["key"], nullable=False), value(of["value"])] for _ in range(rng.randint(0, 3))]

    columns = [(f"c{i}", kind(3)) for i in range(rng.randint(1, 6))]
    rows = [[value(of) for _, of in columns] for _ in range(rng.randint(1, 8))]
    return vector(f"random {seed}", columns, rows)


def main():
    vectors = [*written_by_hand(), *(at_random(seed) for seed in range(40))]
    lines = ",\n".join(json.dumps(v, ensure_ascii=True, separators=(",", ":")) for v in vectors)
    text = f"[\n{lines}\n]\n"
    if "--check" in sys.argv[1:]:
        if FILE.read_text() != text:
            sys.exit(f"{FILE} holds other vectors than the description gives")
    else:
        FILE.write_text(text)
    print(f"{len(vectors)} vectors, {len(text)} bytes")


if __name__ == "__main__":
    main()
