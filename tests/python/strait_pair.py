"""Runs a source agent and a sink agent as real processes, on free ports of 127.0.0.1, in a temporary directory.

    with Pair() as pair:
        real_data.write(pair.lake_a / "db1/mt", table)
        run = pair.sync("live:db1/mt", "dr:db1/mt")

The agents are stopped and the directory is removed at the end, whatever happened (STRAIT_KEEP=1 keeps it, and prints where it is). A
process of ours that outlives this one would be killed by the kernel (PR_SET_PDEATHSIG). The binary is STRAIT_BIN, else
target/release/strait.
"""

import atexit
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 90
RUN_TIMEOUT_S = 900
# Below the ports that the kernel gives to outgoing connections, so that a killed agent finds its port free when it comes back.
PORTS = range(20_000, 32_000)
ENDED = {"done", "partial", "failed", "cancelled", "abandoned"}
# Of an agent's log, what a failure prints.
LOG_TAIL_BYTES = 4_000

# Becomes the program that it is given, killed by the kernel when who started it ends: prctl(PR_SET_PDEATHSIG). A process of its own, and not a `preexec_fn`: Python
# code between fork and exec waits for ever for a lock that another thread of ours held at the fork.
_BOUND_TO_US = f"import ctypes, os, sys; ctypes.CDLL(None).prctl(1, {int(signal.SIGKILL)}); os.execv(sys.argv[1], sys.argv[1:])"


def binary():
    path = pathlib.Path(os.environ.get("STRAIT_BIN", ROOT / "target/release/strait"))
    if not path.exists():
        sys.exit(f"{path} is not there: cargo build --release --bin strait")
    return path.resolve()


def has_rsync():
    """Whether rsync is there, or could be installed."""
    if shutil.which("rsync") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run("apt-get -qq update && apt-get -qq install -y rsync", shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return shutil.which("rsync") is not None


_given = set()
_giving = threading.Lock()


def free_port():
    """A port that is free and that nobody in this process has been given: pairs that live at the same time begin to listen some time later."""
    with _giving:
        # Those of long ago have been listened on, or never will be.
        if len(_given) > len(PORTS) // 2:
            _given.clear()
        for port in random.sample(PORTS, len(PORTS)):
            if port in _given:
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            _given.add(port)
            return port
    raise RuntimeError("no free port found")


def last_json(text):
    """The JSON object that a command's output ends with; lines of progress may stand before it."""
    lines = text.splitlines(keepends=True)
    for start in reversed([n for n, line in enumerate(lines) if line.startswith("{")]):
        try:
            return json.loads("".join(lines[start:]))
        except ValueError:
            continue
    raise AssertionError(f"no JSON object at the end of {text[-2000:]!r}")


def run_id(answer):
    """The id of a run in what `sync --json` or `runs show --json` printed."""
    run = answer.get("run", answer)
    found = run if isinstance(run, str) else run.get("id")
    if not found:
        raise AssertionError(f"no run id in {json.dumps(answer)[:1000]}")
    return found


def _toml(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    # A JSON string is a TOML string.
    return json.dumps(value)


class Agent:
    """One agent: `role` is source or sink. It can be started, stopped, killed and started again; its configuration and port stay."""

    def __init__(self, role, root, port, memory, keys, tables):
        self.role = role
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process = None
        # Of the next process that is started, beside this one's.
        self.environment = {}
        self.starts = 0
        self.log = root / f"{role}.log"
        self.config = root / f"{role}.toml"
        self._peak = 0
        root.mkdir(exist_ok=True)
        lines = {"listen": f"127.0.0.1:{port}", "state_dir": str(root / f"{role}-state"), "memory": memory} | keys
        text = "".join(f"{key} = {_toml(value)}\n" for key, value in lines.items())
        text += "".join(f"\n[{name}]\nurl = {_toml(url)}\n" for name, url in tables.items())
        self.config.write_text(text)

    def start(self):
        """It listens when this returns."""
        offset = self.launch()
        deadline = time.monotonic() + START_TIMEOUT_S
        while b"listening on " not in self._log_from(offset):
            if self.process.poll() is not None:
                code, self.process = self.process.returncode, None
                raise AssertionError(f"the {self.role} agent ended with code {code} at start:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the {self.role} agent does not listen after {START_TIMEOUT_S} s:\n{self.log_tail()}")
            time.sleep(0.02)

    def launch(self):
        """Starts the process and waits for nothing; the place in the log where it begins."""
        if self.process is not None:
            raise AssertionError(f"the {self.role} agent runs already")
        offset = self.log.stat().st_size if self.log.exists() else 0
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STRAIT_")} | self.environment
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOUND_TO_US, binary(), f"agent-{self.role}", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        self.starts += 1
        return offset

    def _log_from(self, offset):
        with open(self.log, "rb") as log:
            log.seek(offset)
            return log.read()

    def log_tail(self):
        if not self.log.exists():
            return ""
        return self._log_from(max(0, self.log.stat().st_size - LOG_TAIL_BYTES)).decode(errors="replace")

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def peak_rss_bytes(self):
        """The highest resident memory of this agent, over all its starts (VmHWM)."""
        if self.alive():
            for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self._peak = max(self._peak, int(line.split()[1]) * 1024)
        return self._peak

    def kill9(self):
        """The process is gone when this returns."""
        self.peak_rss_bytes()
        self.process.kill()
        self.process.wait(timeout=30)
        self.process = None

    def pause(self):
        """Stops it where it stands (SIGSTOP): its connections stay, and nobody answers on them."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        """Drains by SIGTERM; the exit code. One that does not stop in time is killed, and that is an error."""
        if self.process is None:
            return None
        self.peak_rss_bytes()
        self.process.terminate()
        try:
            return self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=30)
            raise AssertionError(f"the {self.role} agent did not stop within {STOP_TIMEOUT_S} s:\n{self.log_tail()}") from None
        finally:
            self.process = None


class Pair:
    """Both agents, lake A (store `live`) and lake B (store `lake`, sink `dr`)."""

    def __init__(self, memory="256MiB", source_keys=None, sink_keys=None, through=None, pass_through=None, live=None, dr=None):
        """`through` is a link between the agents: given the sink's port, it says at which URL the source finds it. `pass_through` is what every sync says of it that
        does not say so itself. `live` is the URL of another store in lake A's place, `dr` of one in lake B's."""
        self._pass_through = ["--pass-through", pass_through] if pass_through else []
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="strait-test."))
        self.lake_a = self.root / "a"
        self.lake_b = self.root / "b"
        self.lake_a.mkdir()
        self.lake_b.mkdir()
        sink_port = free_port()
        source_port = free_port()
        self.sink = Agent("sink", self.root, sink_port, memory, sink_keys or {}, {"stores.lake": dr or f"lake://{self.lake_b}"})
        self.source = Agent(
            "source",
            self.root,
            source_port,
            memory,
            source_keys or {},
            {"stores.live": live or f"lake://{self.lake_a}", "sinks.dr": through(sink_port) if through else self.sink.url},
        )
        atexit.register(self.close)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, error, _):
        if error is not None:
            for agent in self.agents():
                print(f"-- end of the {agent.role} agent's log --\n{agent.log_tail()}", flush=True)
        self.close()

    def agents(self):
        return (self.sink, self.source)

    def start(self):
        for agent in self.agents():
            if not agent.alive():
                agent.start()

    def stop(self):
        """Both drain; their exit codes by role."""
        return {agent.role: agent.stop() for agent in (self.source, self.sink)}

    def close(self):
        atexit.unregister(self.close)
        for agent in self.agents():
            if agent.alive():
                agent.kill9()
        if os.environ.get("STRAIT_KEEP"):
            print(f"kept: {self.root}", flush=True)
        else:
            shutil.rmtree(self.root, ignore_errors=True)

    def peaks(self):
        return {agent.role: agent.peak_rss_bytes() for agent in self.agents()}

    # -- the command line ----------------------------------------------------------------------------------------------------------

    def strait(self, *arguments, timeout_s=RUN_TIMEOUT_S, agent=None):
        """Runs `strait --agent URL …`, at another source agent than the pair's if one is given: (exit code, stdout, stderr)."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STRAIT_")}
        done = subprocess.run(
            [binary(), "--agent", (agent or self.source).url, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
        )
        return done.returncode, done.stdout, done.stderr

    def json(self, *arguments, codes=(0,)):
        """The object that a command prints with --json; another exit code than those named is an error."""
        code, out, err = self.strait(*arguments, "--json")
        if code not in codes:
            raise AssertionError(f"strait {' '.join(map(str, arguments))} ended with code {code}:\n{out[-2000:]}\n{err[-2000:]}")
        return last_json(out)

    def sync(self, source, target, *more):
        """Runs to the end; raises unless it is done."""
        answer = self.json("sync", "--from", source, "--to", target, *self.how(more))
        if answer.get("status") != "done":
            raise AssertionError(f"the run ended {answer.get('status')}: {json.dumps(answer)[:2000]}")
        return answer

    def begin(self, source, target, *more):
        """Begins a run and does not wait for it; its id."""
        return run_id(self.json("sync", "--from", source, "--to", target, "--detach", *self.how(more)))

    def how(self, more):
        """The arguments of a sync, with what is said of pass-through."""
        return [*more, *([] if "--pass-through" in more else self._pass_through)]

    def show(self, run):
        """A run as the source agent knows it now. Where it does not say, because it is down or busy, there is no status, and what it said."""
        answer = self.json("runs", "show", run, codes=range(0, 256))
        if isinstance(answer.get("run"), dict):
            return answer["run"]
        if "attempts" in answer:
            return answer
        return {"status": None, "said": answer}

    def wait(self, run, timeout_s=RUN_TIMEOUT_S):
        """The run once it has ended, however it ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self.show(run)
            if answer.get("status") in ENDED:
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"run {run} has not ended after {timeout_s} s: {json.dumps(answer)[:2000]}")
            time.sleep(0.1)


def _ended_by_signal(number, _):
    # As an exception, so that `with` and atexit clean up.
    sys.exit(128 + number)


signal.signal(signal.SIGTERM, _ended_by_signal)
