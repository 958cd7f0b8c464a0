"""Compares a table of lake A with the same table of lake B, row for row, by readers that know nothing of Strait.

Two readers that share no code read both sides: `deltalake` with pyarrow, which compares sorted rows bit by bit (so -0.0 is not 0.0, and a
NaN is equal to itself only with the same bits), and DuckDB on the Parquet files that the log lists, which compares multisets by
`except all` in both directions. Names, types and nullability of columns, the lists of partitions, the row counts of the log and its
least and greatest values are compared as well: a reader that prunes by wrong statistics loses rows in silence.

From the command line: lake_compare.py TABLE_A TABLE_B. Prints the figures; exit code 1 if anything differs.
Partitions are read one group at a time, so memory is bounded by the larger of GROUP_ROWS rows and one partition.
"""

import dataclasses
import datetime
import json
import sys
import urllib.parse

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from deltalake import DeltaTable

GROUP_ROWS = 500_000
DIFFERENCES_MAX = 20


# Delta's log keeps milliseconds of a timestamp, so its greatest value may be less than the file's by one.
STATISTICS_TIME_STEP = datetime.timedelta(milliseconds=1)


@dataclasses.dataclass
class File:
    """A file of a table as the log lists it; `statistics` are (kind, column) -> value, kind one of min, max, null_count."""

    key: tuple
    uri: str
    rows: int | None
    statistics: dict


@dataclasses.dataclass
class Comparison:
    """What was compared, and what differs: no more than DIFFERENCES_MAX sentences."""

    rows: int = 0
    columns: int = 0
    partitions: int = 0
    files_a: int = 0
    files_b: int = 0
    duckdb_hash: str = ""
    differences: list = dataclasses.field(default_factory=list)

    @property
    def equal(self):
        return not self.differences

    def differs(self, sentence):
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(sentence)

    def __str__(self):
        if self.differences:
            return f"{len(self.differences)} differences: " + "; ".join(self.differences[:5])
        return (
            f"{self.rows:,} rows, {self.columns} columns, {self.partitions} partitions, "
            f"{self.files_a} and {self.files_b} files, hash {self.duckdb_hash}"
        )


def folder_of(table):
    """Where the table lies on disk: its URI is encoded."""
    return urllib.parse.unquote(table.table_uri.removeprefix("file://")).rstrip("/")


def live_files(table):
    """The files of this version of the table, each with its partition key, in the order of the partition columns."""
    columns = table.metadata().partition_columns
    actions = pa.table(table.get_add_actions(flatten=True))
    names = set(actions.schema.names)
    files = []
    root = folder_of(table)
    for action in actions.to_pylist():
        path = urllib.parse.unquote(action["path"])
        uri = path if path.startswith("/") else f"{root}/{path}"
        key = tuple(action[f"partition.{column}"] for column in columns)
        statistics = {}
        for name, value in action.items():
            kind, dot, column = name.partition(".")
            if dot and value is not None and kind in ("min", "max", "null_count"):
                statistics[kind, column] = value
        files.append(File(key, uri, action["num_records"] if "num_records" in names else None, statistics))
    return files


def compare(path_a, path_b, version_a=None):
    """Compares two Delta tables: the newest version of B with the newest of A, or with an older one."""
    a, b = DeltaTable(path_a, version=version_a), DeltaTable(path_b)
    result = Comparison()
    columns = compare_schemas(a, b, result)
    files_a, files_b = live_files(a), live_files(b)
    result.files_a, result.files_b = len(files_a), len(files_b)
    keys_a, keys_b = {file.key for file in files_a}, {file.key for file in files_b}
    for key in sorted(keys_a - keys_b, key=repr):
        result.differs(f"partition {key} is only in A")
    for key in sorted(keys_b - keys_a, key=repr):
        result.differs(f"partition {key} is only in B")
    result.partitions = len(keys_a)
    if columns is None:
        return result
    compare_with_pyarrow(a, b, files_a, files_b, columns, result)
    compare_with_duckdb(files_a, files_b, columns, a.metadata().partition_columns, result)
    return result


def compare_schemas(a, b, result):
    """The names of the columns, or None if the two sides cannot be compared column by column."""
    if a.metadata().partition_columns != b.metadata().partition_columns:
        result.differs(f"partition columns: A {a.metadata().partition_columns}, B {b.metadata().partition_columns}")
        return None
    fields_a = [(f["name"], f["type"], f["nullable"]) for f in json.loads(a.schema().to_json())["fields"]]
    fields_b = [(f["name"], f["type"], f["nullable"]) for f in json.loads(b.schema().to_json())["fields"]]
    if fields_a != fields_b:
        for field in fields_a:
            if field not in fields_b:
                result.differs(f"column of A that B has not, or otherwise: {field}")
        for field in fields_b:
            if field not in fields_a:
                result.differs(f"column of B that A has not, or otherwise: {field}")
        if sorted(map(repr, fields_a)) == sorted(map(repr, fields_b)):
            result.differs(f"order of columns: A {[f[0] for f in fields_a]}, B {[f[0] for f in fields_b]}")
    names_a, names_b = [f[0] for f in fields_a], [f[0] for f in fields_b]
    result.columns = len(names_a)
    return names_a if set(names_a) == set(names_b) else None


# -- deltalake and pyarrow ----------------------------------------------------------------------------------------------------------


def compare_with_pyarrow(a, b, files_a, files_b, columns, result):
    fragments_a, fragments_b = fragments(a, files_a), fragments(b, files_b)
    for key in sorted(fragments_a.keys() | fragments_b.keys(), key=repr):
        rows_a = read(fragments_a.get(key, []), a, f"A {key}", result).select(columns)
        rows_b = read(fragments_b.get(key, []), b, f"B {key}", result).select(columns)
        result.rows += rows_a.num_rows
        if rows_a.num_rows != rows_b.num_rows:
            result.differs(f"pyarrow: partition {key}: {rows_a.num_rows} rows in A, {rows_b.num_rows} in B")
            continue
        for name in columns:
            if rows_a.schema.field(name).type != rows_b.schema.field(name).type:
                result.differs(
                    f"pyarrow: column {name}: {rows_a.schema.field(name).type} in A, {rows_b.schema.field(name).type} in B"
                )
        bits_a, bits_b = sorted_bits(rows_a), sorted_bits(rows_b)
        for name in columns:
            if not bits_a.column(name).equals(bits_b.column(name)):
                result.differs(f"pyarrow: partition {key}, column {name}: {first_difference(bits_a, bits_b, name)}")


def fragments(table, files):
    """By partition key: (fragment of the data set, its file in the log, schema)."""
    by_uri = {file.uri: file for file in files}
    root = folder_of(table)
    dataset = table.to_pyarrow_dataset()
    found = {}
    for fragment in dataset.get_fragments():
        path = fragment.path if fragment.path.startswith("/") else f"{root}/{fragment.path}"
        file = by_uri.pop(path)
        found.setdefault(file.key, []).append((fragment, file, dataset.schema))
    if by_uri:
        raise AssertionError(f"files in the log that the data set does not read: {sorted(by_uri)}")
    return found


def read(parts, table, where, result):
    tables = []
    for fragment, file, schema in parts:
        rows = fragment.to_table(schema=schema)
        if file.rows is not None and file.rows != rows.num_rows:
            result.differs(f"{where}: the log says {file.rows} rows, the file {fragment.path} has {rows.num_rows}")
        for wrong in wrong_statistics(file, rows):
            result.differs(f"{where}: the log says of {fragment.path} what is not so: {wrong}")
        tables.append(rows)
    if not tables:
        return table.to_pyarrow_dataset().schema.empty_table()
    return pa.concat_tables(tables)


def wrong_statistics(file, rows):
    """What the log says of a file and its rows contradict: a reader that prunes by it would lose rows."""
    for (kind, column), said in file.statistics.items():
        if column not in rows.schema.names:
            continue
        values = rows.column(column)
        if kind == "null_count":
            if said != values.null_count:
                yield f"{said} nulls in {column}, there are {values.null_count}"
            continue
        # NaN is outside every least and greatest value, and whether it counts is not agreed on.
        if pt.is_nested(values.type) or (pt.is_floating(values.type) and pc.any(pc.is_nan(values)).as_py()):
            continue
        extreme = pc.min_max(values)[kind].as_py()
        slack = STATISTICS_TIME_STEP if isinstance(extreme, datetime.datetime) else None
        if extreme is not None and not holds(kind, said, extreme, slack):
            yield f"{kind} of {column} is {said!r}, it is {extreme!r}"


def holds(kind, said, extreme, slack):
    if kind == "min":
        return said <= extreme
    return extreme <= (said + slack if slack else said)


def sorted_bits(rows):
    """The rows in one order that depends on values alone, every value in a form in which equal means equal bits."""
    names = rows.schema.names
    bits = pa.table([to_bits(rows.column(name).combine_chunks()) for name in names], names=names)
    if bits.num_rows == 0 or not names:
        return bits
    order = pc.sort_indices(bits, sort_keys=[(name, "ascending") for name in names])
    return bits.take(order)


def to_bits(values):
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    if pt.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pt.is_floating(values.type):
        return values.view({16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[values.type.bit_width])
    if pt.is_temporal(values.type):
        return values.view(pa.int32() if values.type.bit_width == 32 else pa.int64())
    if pt.is_string_view(values.type):
        return values.cast(pa.large_string())
    if pt.is_binary_view(values.type):
        return values.cast(pa.large_binary())
    if pt.is_nested(values.type):
        return pa.array([None if v is None else exact_text(v) for v in values.to_pylist()], pa.large_string())
    return values


def exact_text(value):
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{exact_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(exact_text, value)) + "]"
    return repr(value)


def first_difference(a, b, name):
    left, right = a.column(name), b.column(name)
    for row in range(len(left)):
        if not left[row].equals(right[row]):
            return f"sorted row {row}: {left[row].as_py()!r} in A, {right[row].as_py()!r} in B (floats and times as their bits)"
    return "the types differ"


# -- DuckDB -------------------------------------------------------------------------------------------------------------------------


def connect():
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = false")
    return connection


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def view(connection, name, files, columns, partition_columns):
    """A view of these files with the partition columns, which the files do not hold, taken from the log."""
    for file in files:
        if any(c in file.uri for c in "*?["):
            raise ValueError(f"duckdb would take this path for a pattern: {file.uri}")
    listed = {"strait_uri": pa.array([file.uri for file in files], pa.string())}
    for n, column in enumerate(partition_columns):
        listed[f"strait_{column}"] = pa.array([file.key[n] for file in files])
    connection.register(f"{name}_files", pa.table(listed))
    selected = [
        f"f.{quoted('strait_' + column)} AS {quoted(column)}" if column in partition_columns else f"r.{quoted(column)}"
        for column in columns
    ]
    uris = ", ".join("'" + file.uri.replace("'", "''") + "'" for file in files)
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT {', '.join(selected)} FROM "
        f"read_parquet([{uris}], filename = 'strait_filename', hive_partitioning = false) r "
        f"JOIN {name}_files f ON r.strait_filename = f.strait_uri"
    )


def groups(files_a, files_b):
    """Keys in groups of about GROUP_ROWS rows."""
    rows = {}
    for file in files_a:
        rows[file.key] = rows.get(file.key, 0) + (file.rows or 0)
    for file in files_b:
        rows.setdefault(file.key, 0)
    group, group_rows = set(), 0
    for key in sorted(rows, key=repr):
        group.add(key)
        group_rows += rows[key]
        if group_rows >= GROUP_ROWS:
            yield group
            group, group_rows = set(), 0
    if group:
        yield group


def compare_with_duckdb(files_a, files_b, columns, partition_columns, result):
    connection = connect()
    total = 0
    for group in groups(files_a, files_b):
        in_a = [file for file in files_a if file.key in group]
        in_b = [file for file in files_b if file.key in group]
        # A partition that one side lacks was told above; DuckDB reads no empty list.
        if not in_a or not in_b:
            continue
        view(connection, "a", in_a, columns, partition_columns)
        view(connection, "b", in_b, columns, partition_columns)
        types_a = connection.execute("SELECT column_name, column_type FROM (DESCRIBE a)").fetchall()
        types_b = connection.execute("SELECT column_name, column_type FROM (DESCRIBE b)").fetchall()
        if types_a != types_b:
            result.differs(f"duckdb: types differ: {sorted(set(types_a) ^ set(types_b))}")
        for left, right in (("a", "b"), ("b", "a")):
            extra = connection.execute(
                f"SELECT count(*) FROM (SELECT * FROM {left} EXCEPT ALL SELECT * FROM {right})"
            ).fetchone()[0]
            if extra:
                # As text made by DuckDB: its Python values of zoned times would need another package.
                sample = connection.execute(
                    f"SELECT CAST(x AS VARCHAR) FROM (SELECT * FROM {left} EXCEPT ALL SELECT * FROM {right}) x LIMIT 1"
                ).fetchone()[0]
                result.differs(f"duckdb: {extra} rows are in {left.upper()} and not in {right.upper()}, as {sample}")
        total += connection.execute(f"SELECT coalesce(sum({row_hash(columns)}), 0) FROM b").fetchone()[0]
    result.duckdb_hash = f"{total % 2**64:016x}"
    connection.close()


def row_hash(columns):
    """Order does not matter to a sum of it, over rows."""
    return f"hash({', '.join(map(quoted, columns))})::HUGEINT"


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: lake_compare.py TABLE_A TABLE_B")
    result = compare(sys.argv[1], sys.argv[2])
    for difference in result.differences:
        print(difference)
    print(result)
    sys.exit(0 if result.equal else 1)


if __name__ == "__main__":
    main()
