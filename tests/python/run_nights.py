"""One real night: a job with a schedule that is seconds away, both agents killed in it, told over HTTP and HTTPS, and watched over /metrics as Prometheus does.

The pages are read by Prometheus' own Python client; every figure that the dashboard and the alert rules in deploy/ name must be on them, in expressions that a
parser of PromQL takes.
"""

import datetime
import http.server
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import promql_parser
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from deltalake import DeltaTable
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import real_data
from checks import Checks
from strait_pair import ROOT, Pair, free_port

ZONE = datetime.timezone(datetime.timedelta(hours=9))
WAIT_S = 180
COPIES = 60
# The condition of the job: the last seven days.
WHERE = "TradingDay > date(now()) - 7 and TradingDay <= date(now())"


class Hook:
    """Takes what jobs tell: over plain HTTP, or over HTTPS with a certificate of its own making."""

    def __init__(self, folder=None):
        self.bodies = []
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/strait?token=secret"
        if folder:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.url = self.url.replace("http://", "https://")
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def told(self, event, after=0):
        return [body for body in self.bodies[after:] if body["event"] == event]


def certificate(folder):
    """A certificate for 127.0.0.1 that signs itself; None where there is no openssl."""
    if shutil.which("openssl") is None:
        return None
    folder.mkdir()
    (folder / "request").write_text("[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=hook -config {folder}/request"
    subprocess.run([*command.split(), "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
    return folder


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def figures(port):
    """{name: {labels: value}} of a page, by Prometheus' own client."""
    found = {}
    for family in text_string_to_metric_families(get(port, "/metrics")[1]):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def total(port, name, **labels):
    wanted = set(labels.items())
    return sum(value for at, value in figures(port).get(name, {}).items() if wanted <= set(at))


def until(what, check, seconds=WAIT_S):
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.05)
    return found


def selectors(expression):
    """The names of the figures in an expression of PromQL."""
    # What Grafana puts in.
    expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
    # A parser refuses what is wrong; the tree that it makes names what is right.
    tree = str(promql_parser.parse(expression))
    return set(re.findall(r"\b(strait_[a-z_]+)", tree))


def deployed():
    """{expression: the figures that it names} of the dashboard and the alert rules."""
    rules = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads((ROOT / "deploy/grafana-dashboard.json").read_text())
    expressions += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return {expression: selectors(expression) for expression in expressions}


def table_of_days():
    """The flights some times over, the last day today in the job's zone."""
    table = real_data.copies(real_data.flights(), COPIES)
    today = datetime.datetime.now(ZONE).date()
    shift = (today - pc.max(table["day_date"]).as_py()).days
    days = pc.cast(pc.add(pc.cast(table["day_date"], pa.int32()), pa.scalar(shift, pa.int32())), pa.date32())
    recent = pc.greater(days, pa.scalar(today - datetime.timedelta(days=12)))
    columns = ["copy", "carrier", "flight", "tailnum", "origin", "dest", "dep_delay", "arr_delay", "distance", "minute", "hour"]
    made = pa.table({"TradingDay": days} | {name: table[name] for name in columns})
    return made.filter(recent)


def rows(path, since=None, until_day=None):
    """The rows, sorted, of the days that are asked for."""
    found = DeltaTable(path).to_pyarrow_table()
    if since:
        days = found["TradingDay"]
        found = found.filter(pc.and_(pc.greater(days, pa.scalar(since)), pc.less_equal(days, pa.scalar(until_day))))
    return found.sort_by([(name, "ascending") for name in found.column_names])


def pages(checks, pair, ports):
    """What a run does is what the pages say."""
    small = pa.table({"TradingDay": pa.array([datetime.date(2026, 1, day % 3 + 1) for day in range(3000)]), "id": pa.array(range(3000), pa.int64())})
    real_data.write(pair.lake_a / "db1/small", small, ["TradingDay"])
    answer = pair.sync("live:db1/small", "dr:db1/small", "--pass-through", "never")
    for name, key in [("strait_rows_sent_total", "rows_sent"), ("strait_bytes_sent_total", "raw_bytes"), ("strait_wire_bytes_sent_total", "wire_bytes")]:
        counted = total(ports["source"], name)
        checks.check(f"the source's {name} is what the run says", counted == answer[key] > 0, f"{counted} and {answer[key]}")
    for name, wanted in [
        ("strait_rows_received_total", 3000),
        ("strait_wire_bytes_received_total", answer["wire_bytes"]),
        ("strait_partitions_published_total", 3),
        ("strait_attaches_total", 1),
        ("strait_streams", 0),
        ("strait_memory_leased_bytes", 0),
    ]:
        counted = total(ports["sink"], name)
        checks.check(f"the sink's {name} is {wanted}", counted == wanted, counted)
    checks.check("one run has ended done", total(ports["source"], "strait_runs_ended_total", status="done") == 1)
    differing = DeltaTable(pair.lake_b / "db1/small")
    differing.delete("id = 7")
    code, _, _ = pair.strait("verify", "--from", "live:db1/small", "--to", "dr:db1/small")
    found = total(ports["source"], "strait_verify_mismatch_total", result="differs")
    checks.check("what verify finds is counted", (code, found) == (16, 1), f"{code}, {found}")
    for role, port in ports.items():
        answers = {path: get(port, path) for path in ("/livez", "/readyz", "/nothing")}
        checks.check(f"the {role} lives and is ready", [answers[path][0] for path in answers] == [200, 200, 404], answers)
        build = figures(port)["strait_build_info"]
        checks.check(f"the {role} says what it is", [dict(at)["agent"] for at in build] == [role], build)


def deploy(checks, ports):
    """What the dashboard and the rules name, is there. By now every figure has a value."""
    there = set().union(*(figures(port) for port in ports.values()))
    named = deployed()
    checks.check("the dashboard and the rules have expressions", len(named) > 25, len(named))
    for expression, names in named.items():
        missing = names - there
        if missing or not (names or expression.startswith("up{")):
            checks.check(f"{expression} names figures that there are", False, missing)
    used = set().union(*named.values())
    checks.check("every figure that deploy/ names is on a page", used <= there, used - there)
    unseen = {name for name in there if name.startswith("strait_")} - used
    print(f"  on no panel and in no rule: {', '.join(sorted(unseen))}")


def job(start, hooks, command):
    notify = "".join(
        f"\n[[notify]]\n{way}\non = {json.dumps(events)}\n"
        for way, events in [
            *((f"webhook = {json.dumps(hook.url)}", ["success", "failure", "partial", "nothing-ran"]) for hook in hooks),
            (f"command = {json.dumps(command)}", ["success"]),
        ]
    )
    return f"""name = "nightly"
from = "live:db1/*"
to = "dr:db1/*"
exclude = ["small"]
where = "{WHERE}"
mode = "mirror"
pass_through = "never"
schedule = "daily at {start:%H:%M}"
zone = "Asia/Tokyo"
bandwidth_max = "512KiB"
retries = 0
{notify}"""


def night(checks, pair, ports, hooks):
    """The start comes by itself; both agents are killed in it; it ends, and whoever asked is told."""
    table = table_of_days()
    real_data.write(pair.lake_a / "db1/mt", table, ["TradingDay"])
    start = datetime.datetime.now(ZONE) + datetime.timedelta(seconds=10)
    start = (start + datetime.timedelta(minutes=1)).replace(second=0, microsecond=0)
    pinged = pair.root / "pinged"
    file = pair.root / "nightly.toml"
    file.write_text(job(start, hooks, ["sh", "-c", f"cat > {pinged}"]))
    code, out, err = pair.strait("job", "apply", file)
    checks.check("the job is applied", code == 0, out + err)
    listed = pair.json("job", "list")["jobs"][0]
    checks.check("it starts at the next full minute", listed["next_at"] == int(start.timestamp()), listed)
    counted = total(ports["source"], "strait_job_next_start_timestamp_seconds", job_name="nightly")
    checks.check("Prometheus knows that, too", counted == start.timestamp(), counted)
    checks.check("nothing has run yet", not (pair.lake_b / "db1/mt").exists() and not hooks[0].bodies)
    until("it has started by itself", lambda: total(ports["source"], "strait_partitions", state="done") >= 1)
    checks.check("the job runs", total(ports["source"], "strait_job_running", job_name="nightly") == 1)
    for agent in (pair.source, pair.sink):
        agent.kill9()
        print(f"  kill -9 of the {agent.role}, {rows(pair.lake_b / 'db1/mt').num_rows:,} rows visible")
        agent.start()
    told = until("a success is told", lambda: hooks[0].told("success"))
    day = start.date()
    ours = rows(pair.lake_a / "db1/mt", day - datetime.timedelta(days=7), day)
    checks.check("B has the days of the condition, as A has them", rows(pair.lake_b / "db1/mt").equals(ours), f"{ours.num_rows:,} rows")
    checks.check("the success names its start", (told[0]["job"], told[0]["scheduled_for"]) == ("nightly", int(start.timestamp())), told)
    for hook in hooks[1:]:
        until("it is told over HTTPS", lambda hook=hook: hook.told("success"))
        checks.check("and over HTTPS", True)
    until("the command was run", pinged.exists)
    success = total(ports["source"], "strait_job_last_success_timestamp_seconds", job_name="nightly")
    checks.check("Prometheus knows when it was last done", success >= start.timestamp(), success)
    checks.check("and that one success was told", total(ports["source"], "strait_job_events_total", job_name="nightly", event="success") == 1)


def trouble(checks, pair, ports, hooks):
    """A night without a sink is told; a soft stop says that it is not ready."""
    pair.sink.kill9()
    for hook in hooks[1:]:
        hook.server.shutdown()
        hook.server.server_close()
    before = len(hooks[0].bodies)
    pair.json("job", "run", "nightly", "--detach")
    failed = until("the failure is told", lambda: hooks[0].told("failure", before) or hooks[0].told("partial", before))
    checks.check("a start without a sink fails, and says why", "sink dr" in failed[0]["message"], failed[0])
    if hooks[1:]:
        until("the hook that is gone is tried again", lambda: "a notification will be sent again" in pair.source.log.read_text())
    log = pair.source.log.read_text()
    checks.check("the token of the webhook is in no log", "token=secret" not in log)
    pair.sink.start()
    extra = DeltaTable(pair.lake_a / "db1/mt").to_pyarrow_table().slice(0, 100_000)
    extra = extra.set_column(0, "TradingDay", pa.repeat(pa.scalar(datetime.datetime.now(ZONE).date()), extra.num_rows))
    real_data.write(pair.lake_a / "db1/mt", extra, ["TradingDay"], mode="append")
    sent = total(ports["source"], "strait_rows_sent_total")
    pair.json("job", "run", "nightly", "--detach")
    until("it sends", lambda: total(ports["source"], "strait_rows_sent_total") > sent)
    pair.source.process.terminate()
    seen = set()
    while pair.source.alive():
        try:
            seen.add(get(ports["source"], "/readyz")[0])
        except OSError:
            break
    checks.check("an agent that stops is not ready", 503 in seen, seen)
    pair.source.process.wait(timeout=90)
    code, pair.source.process = pair.source.process.returncode, None
    checks.check("it ends with code 0", code == 0, code)
    successes = len(hooks[0].told("success"))
    pair.source.start()
    until("it goes on by itself and is told", lambda: len(hooks[0].told("success")) > successes)
    day = datetime.datetime.now(ZONE).date()
    ours = rows(pair.lake_a / "db1/mt", day - datetime.timedelta(days=7), day)
    theirs = rows(pair.lake_b / "db1/mt", day - datetime.timedelta(days=7), day)
    checks.check("B is what A is", theirs.equals(ours), f"{theirs.num_rows:,} and {ours.num_rows:,} rows")
    lines = [json.loads(line) for line in pair.source.log.read_text().splitlines() if line.startswith("{")]
    of_runs = [line for line in lines if line.get("message") in ("attached", "run ended", "run planned", "will retry")]
    checks.check("log lines of runs name their run", len(of_runs) > 5 and all(line.get("run") for line in of_runs), len(of_runs))


def main():
    checks = Checks()
    ports = {"source": free_port()}
    ports["sink"] = free_port()
    keys = {role: {"metrics_listen": f"127.0.0.1:{port}", "log_format": "json"} for role, port in ports.items()}
    keys["source"]["retries_max"] = 2
    with Pair(source_keys=keys["source"], sink_keys=keys["sink"]) as pair:
        folder = certificate(pair.root / "tls")
        hooks = [Hook()] + ([Hook(folder)] if folder else [])
        if folder:
            pair.source.environment["SSL_CERT_FILE"] = str(folder / "cert.pem")
            pair.source.stop()
            pair.source.start()
        else:
            print("  WARNING: openssl is not there: HTTPS WAS NOT TRIED")
        with checks.section("what Prometheus reads"):
            pages(checks, pair, ports)
        with checks.section("a night"):
            night(checks, pair, ports, hooks)
        with checks.section("trouble"):
            trouble(checks, pair, ports, hooks)
        with checks.section("deploy/"):
            deploy(checks, ports)
        with checks.section("stop"):
            codes = pair.stop()
            checks.check("both agents drain on SIGTERM and end with code 0", set(codes.values()) == {0}, codes)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
