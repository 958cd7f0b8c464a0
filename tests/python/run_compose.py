"""docker-compose.yml brought up for real: two clusters on three networks, the link cut and healed, each container killed, all restarted.

The image is built by the Dockerfile with the binary of this host. Its base is the Dockerfile's own where that is there or can be pulled;
otherwise one is made of this host's C library and a few of its programs, under a name of the tests. Every run of the suite is a project of
its own with a free port, and takes away what it made, but for the two images. Skipped, loudly, where there is no engine.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

import real_data
from checks import Checks
from lake_compare import compare
from strait_pair import ENDED, ROOT, binary, free_port, last_json, run_id

COPIES = 12
ROWS = COPIES * real_data.FLIGHTS_ROWS
SOURCE = "live:db1/flights"
OWN_BASE = "strait-test-base:host"
IMAGE = "strait:compose-test"
# What the Dockerfile runs while it builds, and what fills a volume.
PROGRAMS = ("sh", "install", "tar", "chown")
COMMAND_TIMEOUT_S = 300
RUN_TIMEOUT_S = 600
CUT_S = 12


def run(*command, check=True, timeout_s=COMMAND_TIMEOUT_S, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout_s, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with code {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done


def engine_missing():
    """Why nothing can be tested here, or None."""
    if shutil.which("docker") is None:
        return "there is no docker"
    answer = run("docker", "version", "--format", "{{.Server.Version}}", check=False)
    if answer.returncode != 0:
        return f"docker has no engine: {answer.stderr.strip()[-300:]}"
    if compose_command() is None:
        return "neither 'docker compose' nor 'docker-compose' is there"
    return None


def compose_command():
    if run("docker", "compose", "version", check=False).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def base_image():
    """The image that the runtime stage stands on, and a word about it."""
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("ARG RUNTIME_IMAGE="):
            named = line.partition("=")[2].strip()
    if run("docker", "image", "inspect", named, check=False).returncode == 0:
        return named, "was there"
    try:
        if run("docker", "pull", "--quiet", named, check=False, timeout_s=60).returncode == 0:
            return named, "pulled"
    except subprocess.TimeoutExpired:
        pass
    with tempfile.TemporaryDirectory(prefix="strait-base.") as scratch:
        archive = pathlib.Path(scratch) / "base.tar"
        pack_base(archive)
        run("docker", "import", archive, OWN_BASE)
    return OWN_BASE, f"made of this host's files, since {named} cannot be pulled"


def pack_base(archive):
    """A root file system of the C library that the binary was linked with, and what else it and PROGRAMS need."""
    programs = {f"/bin/{name}": pathlib.Path(shutil.which(name)).resolve() for name in PROGRAMS}
    needed = set()
    for program in [binary(), *programs.values()]:
        for word in run("ldd", program).stdout.split():
            if word.startswith("/"):
                needed.add(word)
    with tarfile.open(archive, "w") as tar:
        for folder in ("bin", "tmp", "etc", "usr/local/bin", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for place, file in sorted(programs.items() | {(name, pathlib.Path(name).resolve()) for name in needed}):
            entry = tar.gettarinfo(file, arcname=place.lstrip("/"))
            entry.type, entry.linkname, entry.uid, entry.gid = tarfile.REGTYPE, "", 0, 0
            entry.size = file.stat().st_size
            with open(file, "rb") as content:
                tar.addfile(entry, content)


class Project:
    """The compose file under a name of its own."""

    def __init__(self, base):
        self.name = f"strait-test-{random.randrange(16**8):08x}"
        self.port = free_port()
        self.agent = f"http://127.0.0.1:{self.port}"
        self.environment = os.environ | {
            "STRAIT_TARGET": "runtime-host",
            "STRAIT_IMAGE": IMAGE,
            "STRAIT_RUNTIME_IMAGE": base,
            "STRAIT_PORT": str(self.port),
            "COMPOSE_PROJECT_NAME": self.name,
            "DOCKER_BUILDKIT": "0",
        }

    def compose(self, *arguments, check=True):
        return run(*compose_command(), *arguments, check=check, cwd=ROOT, env=self.environment)

    def container(self, service):
        found = self.compose("ps", "-q", service).stdout.split()
        if len(found) != 1:
            raise AssertionError(f"{service} has {len(found)} containers")
        return found[0]

    def state(self, service):
        return json.loads(run("docker", "inspect", self.container(service)).stdout)[0]["State"]

    def healthy(self):
        """Waits until both agents say that they serve."""
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        for service in ("agent-source", "agent-sink"):
            while self.state(service).get("Health", {}).get("Status") != "healthy":
                if time.monotonic() > deadline:
                    raise AssertionError(f"{service} is not healthy: {self.state(service)}\n{self.compose('logs', '--tail=30').stdout}")
                time.sleep(0.5)

    def strait(self, *arguments, check=True):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STRAIT_")}
        return run(binary(), "--agent", self.agent, *arguments, check=check, timeout_s=RUN_TIMEOUT_S, env=environment)

    def show(self, id):
        """The run, or None while the agent cannot be asked."""
        done = self.strait("runs", "show", id, "--json", check=False)
        try:
            answer = last_json(done.stdout)
        except AssertionError:
            return None
        return answer if answer.get("run") == id and "rows_sent" in answer else None

    def begin(self, target):
        """Begins a run; its id once a tenth of the rows have left."""
        id = run_id(last_json(self.strait("sync", "--from", SOURCE, "--to", target, "--detach", "--json").stdout))
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while True:
            answer = self.show(id)
            if answer and answer["rows_sent"] * 10 >= ROWS:
                return id
            if time.monotonic() > deadline:
                raise AssertionError(f"run {id} does not get on: {answer}")

    def under_way(self, id):
        answer = self.show(id)
        return answer is None or answer["status"] not in ENDED

    def ended(self, id):
        deadline = time.monotonic() + RUN_TIMEOUT_S
        while True:
            answer = self.show(id)
            if answer and answer["status"] in ENDED:
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"run {id} has not ended: {answer}\n{self.compose('logs', '--tail=40').stdout}")
            time.sleep(0.2)

    def volume(self, name):
        return f"{self.name}_{name}"

    def fill(self, folder):
        """Puts a lake into A's volume, owned by the agents' user."""
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                tar.add(folder, arcname=".", filter=owned)
            archive.seek(0)
            run(
                *("docker", "run", "--rm", "-i", "--user", "0", "--network", "none", "--entrypoint", "/bin/tar"),
                *("-v", f"{self.volume('lake-a')}:/data/lake", IMAGE, "-xf", "-", "-C", "/data/lake"),
                stdin=archive,
            )

    def take(self, folder):
        """B's lake, copied out."""
        archive = folder / "b.tar"
        with open(archive, "wb") as out:
            command = ["docker", "run", "--rm", "--user", "0", "--network", "none", "--entrypoint", "/bin/tar"]
            command += ["-v", f"{self.volume('lake-b')}:/data/lake:ro", IMAGE, "-cf", "-", "-C", "/data/lake", "."]
            subprocess.run(command, stdout=out, check=True, timeout=COMMAND_TIMEOUT_S)
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "b", filter="data")
        return folder / "b"

    def down(self):
        self.compose("down", "--volumes", "--timeout", "5", check=False)


def owned(entry):
    entry.uid = entry.gid = 10001
    return entry


def cut_link(project, checks, id):
    """The source leaves the network that joins the agents; it stays on its own."""
    link, container = f"{project.name}_link", project.container("agent-source")
    run("docker", "network", "disconnect", link, container)
    checks.check("the link was cut while the run was under way", project.under_way(id))
    time.sleep(CUT_S)
    checks.check("without the link the run waits, and its agent answers", (project.show(id) or {}).get("status") == "running", project.show(id))
    run("docker", "network", "connect", link, container)


def kill(service):
    def act(project, checks, id):
        before = project.state(service)
        try:
            # As a crash: the engine's own kill would count as a wish that it stays down.
            os.kill(before["Pid"], signal.SIGKILL)
        except (PermissionError, ProcessLookupError):
            run("docker", "kill", "--signal", "KILL", project.container(service))
            run("docker", "start", project.container(service))
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while True:
            after = project.state(service)
            if after["Running"] and after["StartedAt"] != before["StartedAt"]:
                break
            if time.monotonic() > deadline:
                raise AssertionError(f"{service} did not come back: {after}")
            time.sleep(0.2)
        checks.check(f"{service} was killed while the run was under way, and came back by itself", project.under_way(id))

    return act


def restart(project, checks, id):
    project.compose("restart")
    checks.check("everything was restarted while the run was under way", project.under_way(id))


SCENARIOS = {
    "undisturbed": lambda project, checks, id: None,
    "link_cut": cut_link,
    "sink_killed": kill("agent-sink"),
    "source_killed": kill("agent-source"),
    "restarted": restart,
}


def main():
    checks = Checks()
    missing = engine_missing()
    if missing:
        checks.skip(f"docker-compose.yml WAS NOT BROUGHT UP: {missing}")
    base, how = base_image()
    print(f"  base image {base}: {how}")
    project = Project(base)
    with tempfile.TemporaryDirectory(prefix="strait-compose.") as folder:
        folder = pathlib.Path(folder)
        try:
            with checks.section("up", needed=True):
                real_data.write(folder / "a/db1/flights", real_data.copies(real_data.flights(), COPIES), ["copy", "month"])
                # Only what the image needs is sent to the engine: .dockerignore keeps the rest of the tree out.
                project.compose("build")
                project.compose("up", "-d", "--no-build")
                project.fill(folder / "a")
                project.healthy()
                users = run("docker", "top", project.container("agent-sink"), "-eo", "uid,pid").stdout.splitlines()
                # docker wants to see the process id, too.
                users = {line.split()[0] for line in users[1:]}
                checks.check("the agent does not run as root", users == {"10001"}, users)
            for name, disturb in SCENARIOS.items():
                with checks.section(name):
                    id = project.begin(f"dr:db1/{name}")
                    disturb(project, checks, id)
                    project.healthy()
                    run_ended = project.ended(id)
                    figures = {key: run_ended[key] for key in ("status", "rows", "rows_sent", "attempts", "retries")}
                    checks.check("the run ends well with every row", run_ended["status"] == "done" and run_ended["rows"] == ROWS, figures)
                    verified = project.strait("verify", "--from", SOURCE, "--to", f"dr:db1/{name}", "--json", check=False)
                    checks.check("verify finds both sides equal", verified.returncode == 0, verified.stderr.strip()[-300:])
            with checks.section("A and B by other readers"):
                lake_b = project.take(folder)
                for name in SCENARIOS:
                    result = compare(folder / "a/db1/flights", lake_b / "db1" / name)
                    checks.check(f"{name}: A and B are equal", result.equal and result.rows == ROWS, result)
        finally:
            if checks.failed:
                print(project.compose("logs", "--tail=60", check=False).stdout)
            project.down()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
