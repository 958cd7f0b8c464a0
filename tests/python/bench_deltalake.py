"""Copies a Delta table partition by partition with Python deltalake, as a script would: bench_deltalake.py FROM TO. Prints what it took."""

import json
import resource
import sys
import time

from deltalake import DeltaTable, write_deltalake


def main(source, target):
    started = time.monotonic()
    table = DeltaTable(source)
    columns = table.metadata().partition_columns
    for partition in sorted(table.partitions(), key=lambda partition: [str(partition[column]) for column in columns]):
        filters = [(column, "=", str(partition[column])) for column in columns]
        rows = table.to_pyarrow_table(partitions=filters)
        write_deltalake(target, rows, partition_by=columns, mode="append")
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
