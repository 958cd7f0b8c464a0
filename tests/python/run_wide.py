"""1,500 rows of 1 MB each, moved by two agents with 128 MiB of memory; the peak of each is asserted against the documented bound.

The payload cannot be compressed, so nothing gets smaller on the way. Lake A is written by Python deltalake in three partitions of 500
rows, one row group each, pages of one row. Both lakes are read back here a few rows at a time, by pyarrow and by DuckDB, and compared by number and hash.
"""

import random
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from deltalake import ColumnProperties, DeltaTable, WriterProperties, write_deltalake

from checks import Checks
from lake_compare import connect, live_files, view
from strait_pair import Pair

ROWS = 1_500
ROW_BYTES = 1_000_000
PARTITIONS = 3
MEMORY = "128MiB"
# `memory` and the constant beside it, as documented.
PEAK_BOUND_BYTES = {"source": (128 + 64) * 2**20, "sink": (128 + 64) * 2**20}
SEED = 20131231


def batches(schema):
    rng = random.Random(SEED)
    for start in range(0, ROWS, 10):
        ids = range(start, min(start + 10, ROWS))
        payload = [rng.randbytes(ROW_BYTES) for _ in ids]
        parts = [n * PARTITIONS // ROWS for n in ids]
        yield pa.record_batch([pa.array(ids, pa.int64()), pa.array(parts, pa.int32()), pa.array(payload, pa.binary())], schema=schema)


def write(path):
    schema = pa.schema([("id", pa.int64()), ("part", pa.int32()), ("payload", pa.binary())])
    path.parent.mkdir(parents=True, exist_ok=True)
    properties = WriterProperties(
        compression="ZSTD",
        # The writer looks at the size of a page after every batch of values; by default a batch is 1,024 values, so a page 1 GB.
        write_batch_size=1,
        data_page_size_limit=ROW_BYTES,
        default_column_properties=ColumnProperties(dictionary_enabled=False),
    )
    reader = pa.RecordBatchReader.from_batches(schema, batches(schema))
    write_deltalake(str(path), reader, partition_by=["part"], writer_properties=properties)


def hashes_by_pyarrow(path):
    """(part, id, hash of the payload) of every row."""
    found = []
    for file in live_files(DeltaTable(path)):
        for batch in pq.ParquetFile(file.uri, memory_map=True).iter_batches(batch_size=8, columns=["id", "payload"]):
            for number, payload in zip(batch.column(0), batch.column(1)):
                found.append((file.key[0], number.as_py(), xxhash.xxh3_128_hexdigest(payload.as_buffer())))
    return sorted(found)


def hashes_by_duckdb(path):
    connection = connect()
    view(connection, "rows", live_files(DeltaTable(path)), ["part", "id", "payload"], ["part"])
    return sorted(connection.execute("SELECT part, id, octet_length(payload), md5(payload) FROM rows").fetchall())


def main():
    checks = Checks()
    with Pair(memory=MEMORY, pass_through="never") as pair:
        path_a, path_b = pair.lake_a / "db1/wide", pair.lake_b / "db1/wide"
        with checks.section(f"{ROWS:,} rows of {ROW_BYTES / 1e6:g} MB into lake A", needed=True):
            write(path_a)
            sizes = [file.rows for file in live_files(DeltaTable(path_a))]
            print(f"  {len(sizes)} files of {sizes} rows")
        idle = pair.peaks()
        with checks.section("sync", needed=True):
            started = time.monotonic()
            pair.sync("live:db1/wide", "dr:db1/wide")
            seconds = time.monotonic() - started
            print(f"  {ROWS * ROW_BYTES / 1e6:,.0f} MB in {seconds:.1f} s: {ROWS * ROW_BYTES / 1e6 / seconds:.0f} MB/s")
        with checks.section("peak memory"):
            for role, peak in pair.peaks().items():
                bound = PEAK_BOUND_BYTES[role]
                saw = f"{peak / 2**20:.1f} MiB of {bound / 2**20:.0f} MiB; {idle[role] / 2**20:.1f} MiB before the run"
                checks.check(f"the {role} agent stayed within the documented bound of memory = {MEMORY}", 0 < peak <= bound, saw)
        with checks.section("rows of A and B"):
            for reader, hashes in (("pyarrow", hashes_by_pyarrow), ("duckdb", hashes_by_duckdb)):
                in_a, in_b = hashes(path_a), hashes(path_b)
                checks.check(f"{reader} read all rows of A", len(in_a) == ROWS, f"{len(in_a):,} rows")
                differing = set(in_a) ^ set(in_b)
                checks.check(f"{reader} finds every row of A once in B", in_a == in_b, f"{len(in_b):,} rows, {len(differing)} differ")
        with checks.section("verify"):
            code, out, err = pair.strait("verify", "--from", "live:db1/wide", "--to", "dr:db1/wide", "--json")
            checks.check("verify finds wide equal", code == 0, "" if code == 0 else f"code {code}: {out[-800:]} {err[-800:]}")
            for role, peak in pair.peaks().items():
                saw = f"{peak / 2**20:.1f} MiB"
                checks.check(f"the {role} agent stayed within the bound in verify, too", peak <= PEAK_BOUND_BYTES[role], saw)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
