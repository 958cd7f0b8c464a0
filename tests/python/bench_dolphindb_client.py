"""DolphinDB's Python client in a process of its own, as examples/clients.rs runs the others: ADDRESS decode|blocks|encode. Prints one line of JSON."""

import json
import pathlib
import resource
import sys
import time

import dolphindb

ROUNDS = 5
WHOLE = 'select * from loadTable("dfs://bench", "t")'
BLOCK_ROWS = 16_384


def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def blocks(client):
    reader, rows = client.run(WHOLE, fetchSize=BLOCK_ROWS), 0
    while reader.hasNext():
        rows += len(reader.read())
    return rows


def main():
    address, what = sys.argv[1:]
    host, port = address.split(":")
    client = dolphindb.Session()
    if not client.connect(host, int(port), "admin", "123456"):
        raise ConnectionError(address)
    if what == "decode":
        act = lambda: len(client.run(WHOLE))
    elif what == "blocks":
        act = lambda: blocks(client)
    else:
        frame = client.run(WHOLE)

        def act():
            client.upload({"x": frame})
            return len(frame)

    rows = act()
    held = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = []
    for _ in range(ROUNDS):
        started = time.monotonic()
        if act() != rows:
            raise AssertionError(rows)
        seconds.append(time.monotonic() - started)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    print(json.dumps({"rows": rows, "seconds": seconds, "cpu": cpu, "held_kib": held, "peak_kib": status("VmHWM")}))


if __name__ == "__main__":
    main()
