"""What two agents hold of memory, as numbers: each runs under `memory` = 128 MiB, and the peak of its resident memory (VmHWM) is asserted against the documented
bound, `memory` + 64 MiB, for every shape of data below. (1,500 rows of 1 MB each are in the suite `wide`.)

  one        one partition of 20,000,000 rows
  crawl      32 partitions offered to a sink behind a slow network: as many streams as `plan` prints are admitted, the others wait
  widening   200,000 rows of 100 B and then 300 of 1 MB, in one row group
  page       a page that does not fit is refused by name, and nothing is published
  many       100,000 partitions of 10 rows against 1,000 of 1,000: the ratio of their times is printed

STRAIT_MEMORY_CASES names the cases to run, as in `one,page`.
"""

import contextlib
import json
import os
import random
import select
import socket
import sys
import threading
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from checks import Checks
from lake_compare import live_files
from strait_pair import Pair

MEMORY = "128MiB"
# `memory` and the constant beside it, as documented.
PEAK_BOUND_BYTES = (128 + 64) * 2**20
SEED = 20131231
DELTA_TYPES = {pa.int64(): "long", pa.int32(): "integer", pa.float64(): "double", pa.binary(): "binary", pa.string(): "string"}


def write_table(path, schema, partitions, write):
    """A Delta table divided by `part`, its log written by hand: one file for each partition, by `write(number, path)`, which returns the rows."""
    fields = [("part", "integer")] + [(field.name, DELTA_TYPES[field.type]) for field in schema]
    described = {"type": "struct", "fields": [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in fields]}
    metadata = {
        "id": f"00000000-0000-0000-0000-{abs(hash(str(path))) % 10**12:012}",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps(described),
        "partitionColumns": ["part"],
        "configuration": {},
        "createdTime": 0,
    }
    actions = [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": metadata}]
    for part in range(partitions):
        # Not too many names in one directory.
        name = f"files-{part // 1000}/{part}.parquet"
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        rows = write(part, path / name)
        actions.append(
            {
                "add": {
                    "path": name,
                    "partitionValues": {"part": str(part)},
                    "size": (path / name).stat().st_size,
                    "modificationTime": 0,
                    "dataChange": True,
                    "stats": json.dumps({"numRecords": rows}),
                }
            }
        )
    (path / "_delta_log").mkdir()
    (path / "_delta_log" / f"{0:020}.json").write_text("".join(json.dumps(action) + "\n" for action in actions))


TICKS = pa.schema([("id", pa.int64()), ("price", pa.float64()), ("quantity", pa.int32()), ("symbol", pa.string())])
BLOBS = pa.schema([("id", pa.int64()), ("payload", pa.binary())])


def ticks(first, rows):
    ids = pa.array(range(first, first + rows), pa.int64())
    symbols = pc.take(pa.array([f"S{n}" for n in range(50)]), pc.cast(pc.subtract(ids, pc.multiply(pc.divide(ids, 50), 50)), pa.int32()))
    return pa.table([ids, pc.multiply(pc.cast(ids, pa.float64()), 0.25), pc.cast(pc.bit_wise_and(ids, 127), pa.int32()), symbols], schema=TICKS)


def write_ticks(path, partitions, rows, row_group=1_000_000):
    def write(part, file):
        with pq.ParquetWriter(file, TICKS, compression="zstd") as writer:
            for first in range(0, rows, row_group):
                writer.write_table(ticks(part * rows + first, min(row_group, rows - first)))
        return rows

    write_table(path, TICKS, partitions, write)


def write_blobs(path, partitions, sizes, **properties):
    """Partitions of rows with payloads of these sizes, which cannot be compressed, in one row group."""

    def write(part, file):
        rng = random.Random(SEED + part)
        payload = [rng.randbytes(size) for size in sizes]
        table = pa.table([pa.array(range(len(sizes)), pa.int64()), pa.array(payload, pa.binary())], schema=BLOBS)
        pq.write_table(table, file, row_group_size=len(sizes), use_dictionary=False, compression="none", write_page_index=True, **properties)
        return len(sizes)

    write_table(path, BLOBS, partitions, write)


def check_peaks(checks, pair, what):
    for role, peak in pair.peaks().items():
        saw = f"{peak / 2**20:.1f} MiB of {PEAK_BOUND_BYTES / 2**20:.0f} MiB"
        checks.check(f"{what}: the {role} agent stayed within memory = {MEMORY} and 64 MiB", 0 < peak <= PEAK_BOUND_BYTES, saw)


def rows_at(path):
    """Rows of the files that the log names, by their footers."""
    return sum(pq.read_metadata(file.uri).num_rows for file in live_files(DeltaTable(path)))


def sync(checks, pair, table, rows, pass_through="never"):
    started = time.monotonic()
    to = f"{table}_{pass_through}"
    pair.sync(f"live:db1/{table}", f"dr:db1/{to}", "--pass-through", pass_through)
    seconds = time.monotonic() - started
    found = rows_at(pair.lake_b / "db1" / to)
    checks.check(f"{table}: every row is in B (--pass-through {pass_through})", found == rows, f"{found:,} rows in {seconds:.1f} s")
    return seconds


def one(checks):
    rows = 20_000_000
    with Pair(memory=MEMORY, pass_through="never") as pair:
        write_ticks(pair.lake_a / "db1/one", 1, rows)
        sync(checks, pair, "one", rows)
        check_peaks(checks, pair, "one")


class Crawl:
    """A network between the agents that passes so many bytes a second towards the sink, until it is opened."""

    def __init__(self, target, bytes_per_s):
        self.target = target
        self.rate = bytes_per_s
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self):
        self.rate = None

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                # What the kernel holds on the way would pass for what the sink has taken.
                for end in (near, far):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
                threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    def _pass(self, near, far):
        with contextlib.suppress(OSError):
            while True:
                ready, _, _ = select.select([near, far], [], [])
                for end in ready:
                    data = end.recv(16 << 10)
                    if not data:
                        near.close()
                        far.close()
                        return
                    (far if end is near else near).sendall(data)
                    if end is near and self.rate:
                        time.sleep(len(data) / self.rate)


def crawl(checks):
    partitions, sizes = 32, [10_000] * 1_000
    with contextlib.ExitStack() as stack:
        pair = Pair(memory=MEMORY, source_keys={"streams_max": partitions}, pass_through="never")
        network = Crawl(pair.sink.port, 2 << 20)
        pair.source.config.write_text(pair.source.config.read_text().replace(pair.sink.url, f"http://127.0.0.1:{network.port}"))
        stack.enter_context(pair)
        write_blobs(pair.lake_a / "db1/crawl", partitions, sizes)
        plan = pair.json("plan", "--from", "live:db1/crawl", "--to", "dr:db1/crawl", "--streams", partitions)
        admitted = plan["streams"]
        checks.check("crawl: not all of the streams that are asked for fit", 0 < admitted < partitions, f"{admitted} of {partitions}")
        run = pair.begin("live:db1/crawl", "dr:db1/crawl", "--streams", partitions)
        # A stream that is admitted has a file of its partition under way in the stage.
        stage = pair.lake_b / "db1/crawl/_strait" / run / "stage"
        most, samples, deadline = 0, 0, time.monotonic() + 300
        while samples < 60 and time.monotonic() < deadline:
            under_way = len(list(stage.glob("*.parquet"))) if stage.exists() else 0
            most = max(most, under_way)
            # So many looks after all of them were seen for the first time.
            samples += most >= admitted
            time.sleep(0.1)
        done = pair.show(run)["partitions_done"]
        checks.check("crawl: no partition has come to its end yet", done == 0, f"{done} done")
        checks.check("crawl: as many streams as the plan says are admitted", most == admitted, f"{most} of {admitted}")
        check_peaks(checks, pair, "crawl, slow")
        network.open()
        ended = pair.wait(run)
        checks.check("crawl: the others follow", ended["status"] == "done", ended.get("message", ""))
        found = rows_at(pair.lake_b / "db1/crawl")
        checks.check("crawl: every row is in B", found == partitions * len(sizes), f"{found:,} rows")
        check_peaks(checks, pair, "crawl")


def widening(checks):
    sizes = [100] * 200_000 + [1_000_000] * 300
    with Pair(memory=MEMORY, pass_through="never") as pair:
        write_blobs(pair.lake_a / "db1/widening", 1, sizes, write_batch_size=1, data_page_size=1_000_000)
        sync(checks, pair, "widening", len(sizes))
        check_peaks(checks, pair, "widening")


def page(checks):
    # The writer looks at the size of a page after every batch of values: all of these are one page.
    sizes = [200_000] * 1_000
    with Pair(memory=MEMORY, pass_through="never") as pair:
        write_blobs(pair.lake_a / "db1/page", 1, sizes, write_batch_size=len(sizes), data_page_size=1 << 30)
        answer = pair.json("sync", "--from", "live:db1/page", "--to", "dr:db1/page", "--pass-through", "never", codes=range(1, 256))
        failed = answer.get("failed") or [{}]
        checks.check("page: the partition is refused", failed[0].get("kind") == "refused", json.dumps(answer)[:600])
        message = failed[0].get("message", "")
        named = all(name in message for name in ("files-0/0.parquet", "column payload", "200"))
        checks.check("page: file, column and size are named", named, message)
        checks.check("page: nothing is published", rows_at(pair.lake_b / "db1/page") == 0)
        check_peaks(checks, pair, "page")


def many(checks):
    shapes = {"few": (1_000, 1_000), "many": (100_000, 10)}
    seconds = {}
    with Pair(memory=MEMORY, pass_through="never") as pair:
        for table, (partitions, rows) in shapes.items():
            write_ticks(pair.lake_a / "db1" / table, partitions, rows)
        for way in ("never", "auto"):
            for table, (partitions, rows) in shapes.items():
                seconds[table] = sync(checks, pair, table, partitions * rows, way)
                check_peaks(checks, pair, table)
            print(f"  --pass-through {way}: 100,000 x 10 rows took {seconds['many'] / seconds['few']:.1f} times as long as 1,000 x 1,000", flush=True)


CASES = {case.__name__: case for case in (one, crawl, widening, page, many)}


def main():
    checks = Checks()
    for name in os.environ.get("STRAIT_MEMORY_CASES", ",".join(CASES)).split(","):
        with checks.section(name):
            CASES[name](checks)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
