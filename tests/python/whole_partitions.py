"""A reader of lake B that polls while a run is going on, and notes every partition that it sees neither absent nor whole.

It reads as any user of the table would: the newest version of the log by `deltalake`, then the files that it lists. Every second look
reads the partition columns of all rows through the data set; the others add up the rows of the files, each read whole when it is first
seen. A file that cannot be read, or a table that cannot be opened once it was there, is a violation as well.
"""

import collections
import threading
import time

import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from lake_compare import live_files

PAUSE_S = 0.01
VIOLATIONS_MAX = 20


def counts_by_log(path, version=None):
    """Rows by partition key of the newest version, or an older one, from the log alone; empty if there is no table."""
    try:
        table = DeltaTable(path, version=version)
    except TableNotFoundError:
        return {}
    counts = collections.Counter()
    for file in live_files(table):
        counts[file.key] += pq.read_metadata(file.uri).num_rows if file.rows is None else file.rows
    return dict(counts)


class WholePartitions:
    """`with WholePartitions(path, expected)`: polls until the block ends. `expected` is rows by partition key, of A. Where partitions take the place of
    others, `before` is what B had: each partition must be the old one or the new one at every look, and never absent meanwhile."""

    def __init__(self, path, expected, before=None):
        self.path = str(path)
        self.expected = expected
        self.before = before or {}
        self.looks = 0
        # Looks that saw some partitions and not all: the only ones that prove anything.
        self.looks_between = 0
        self.versions = set()
        self.violations = []
        self.visible = 0
        self._rows_of_file = {}
        self._found = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="reader of B", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(timeout=60)
        if self._thread.is_alive():
            self._violation("the reader of B hangs")

    def _poll(self):
        while not self._stop.is_set():
            try:
                self._look()
            except Exception as error:
                self._violation(f"the reader failed: {type(error).__name__}: {error}")
            time.sleep(PAUSE_S)

    def _look(self):
        try:
            table = DeltaTable(self.path)
        except TableNotFoundError as error:
            if self._found:
                self._violation(f"the table is gone: {error}")
            return
        self._found = True
        self.looks += 1
        self.versions.add(table.version())
        counts = self._by_dataset(table) if self.looks % 2 else self._by_files(table)
        for key in counts.keys() | self.before.keys():
            rows, old, new = counts.get(key, 0), self.before.get(key, 0), self.expected.get(key, 0)
            if rows not in (old, new):
                self._violation(f"version {table.version()}: partition {key} has {rows} rows, it had {old} and A has {new}")
        self.visible = sum(rows > 0 for rows in counts.values())
        if 0 < self.visible < len(self.expected):
            self.looks_between += 1

    def _by_files(self, table):
        counts = collections.Counter()
        for file in live_files(table):
            if file.uri not in self._rows_of_file:
                self._rows_of_file[file.uri] = pq.read_table(file.uri, partitioning=None).num_rows
            counts[file.key] += self._rows_of_file[file.uri]
        return counts

    @staticmethod
    def _by_dataset(table):
        columns = table.metadata().partition_columns
        rows = table.to_pyarrow_dataset().to_table(columns=columns)
        counts = rows.group_by(columns).aggregate([([], "count_all")]).to_pylist()
        return {tuple(row[column] for column in columns): row["count_all"] for row in counts}

    def _violation(self, sentence):
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(sentence)

    def __str__(self):
        between = f"{self.looks_between} of them between the first partition and the last"
        return f"{self.looks} looks at {len(self.versions)} versions, {between}; {self.violations[:5] or 'nothing but whole partitions'}"
