"""TPC-H lineitem at scale 1 (6,001,215 rows), written to lake A by Python deltalake by ship month, moved by two agents, compared.

Three comparisons, the last one against the generated Parquet file itself and not against lake A: rows by pyarrow and by DuckDB
(lake_compare), then per month in DuckDB the number of rows, sums of the decimals, least and greatest dates, and one MD5 over the sorted
MD5s of all rows.
"""

import os
import sys
import time

import duckdb
import pyarrow.parquet as pq

import real_data
from checks import Checks
from lake_compare import compare, connect, live_files, quoted, view
from deltalake import DeltaTable
from strait_pair import Pair

SCALE = float(os.environ.get("STRAIT_TPCH_SCALE", "1"))


def fingerprints(connection: duckdb.DuckDBPyConnection, relation, columns):
    """By month: what must be equal on both sides, whatever the order of rows."""
    row = f"md5(CAST(row({', '.join(map(quoted, columns))}) AS VARCHAR))"
    answer = connection.execute(
        f"""
        SELECT ship_month, count(*), count(DISTINCT l_orderkey), sum(l_quantity), sum(l_extendedprice), sum(l_discount), sum(l_tax),
               min(l_shipdate), max(l_receiptdate), md5(string_agg(h, '' ORDER BY h))
        FROM (SELECT *, {row} AS h FROM {relation}) GROUP BY ship_month
        """
    ).fetchall()
    return {line[0]: line[1:] for line in answer}


def main():
    checks = Checks()
    with Pair(pass_through="never") as pair:
        path_a, path_b = pair.lake_a / "db1/lineitem", pair.lake_b / "db1/lineitem"
        with checks.section(f"lineitem at scale {SCALE:g} into lake A", needed=True):
            generated = real_data.lineitem(pair.root, SCALE)
            table = real_data.plain(pq.read_table(generated))
            rows = table.num_rows
            if SCALE == 1:
                checks.check("the generator made what TPC-H says", rows == real_data.LINEITEM_ROWS, f"{rows:,} rows")
            real_data.write(path_a, table, ["ship_month"])
            columns, arrow_bytes = table.schema.names, table.nbytes
            del table
        with checks.section("sync", needed=True):
            started = time.monotonic()
            answer = pair.sync("live:db1/lineitem", "dr:db1/lineitem")
            seconds = time.monotonic() - started
            print(f"  {rows:,} rows, {arrow_bytes / 1e6:.0f} MB of Arrow in {seconds:.1f} s: {rows / seconds:,.0f} rows/s")
            print(f"  {', '.join(f'{key} {value}' for key, value in answer.items() if not isinstance(value, (list, dict)))}")
            print(f"  peak memory: {', '.join(f'{role} {peak / 2**20:.0f} MiB' for role, peak in pair.peaks().items())}")
        with checks.section("rows of A and B"):
            result = compare(path_a, path_b)
            checks.check("lineitem is equal in A and B by two readers", result.equal, result)
            checks.check("every row was compared", result.rows == rows, f"{result.rows:,} of {rows:,}")
        with checks.section("months of the generated file and of B"):
            connection = connect()
            generated_path = str(generated).replace("'", "''")
            connection.execute(
                f"CREATE TEMP VIEW made AS SELECT *, strftime(l_shipdate, '%Y-%m') AS ship_month FROM read_parquet('{generated_path}')"
            )
            view(connection, "moved", live_files(DeltaTable(path_b)), columns, ["ship_month"])
            made, moved = fingerprints(connection, "made", columns), fingerprints(connection, "moved", columns)
            differing = sorted(month for month in made.keys() | moved.keys() if made.get(month) != moved.get(month))
            first = [(month, made.get(month), moved.get(month)) for month in differing[:2]]
            checks.check(f"all of {len(made)} months have equal sums and hashes", made and not differing, first or "")
        with checks.section("verify"):
            code, out, err = pair.strait("verify", "--from", "live:db1/lineitem", "--to", "dr:db1/lineitem", "--json")
            checks.check("verify finds lineitem equal", code == 0, "" if code == 0 else f"code {code}: {out[-800:]} {err[-800:]}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
