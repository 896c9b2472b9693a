"""One trained and published LeNet-5 for all end-to-end tests, and servers started on it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zoo.versions import lock

ROOT = Path(__file__).parents[2]


def convzoo(*args, check=True, timeout=300):
    """Runs `convzoo` in a process of its own and returns it with its text."""
    done = subprocess.run(
        [sys.executable, "-m", "zoo.command", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"convzoo {args} -> {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def free_port():
    """A port of this machine that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@dataclass
class Published:
    base_path: Path
    run: Path
    model: str
    accuracy: float


def trained(tmp_path_factory, name, recipe, *overrides) -> Published:
    """A run and its version 1: made by the first process that needs it, and copied by each."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    made, told = root / f"{name}-made", root / f"{name}.json"
    with lock(root, f".{name}.lock"):
        if not told.exists():
            shutil.rmtree(made, ignore_errors=True)
            run = convzoo("train", recipe, "--out", made / "run", *overrides, "--json")
            models = ("--base-path", made / "models", "--json")
            model = json.loads(convzoo("publish", made / "run", *models).stdout)["model"]
            accuracy = json.loads(run.stdout)["metrics"]["accuracy"]["value"]
            told.write_text(json.dumps({"model": model, "accuracy": accuracy}))
    place = tmp_path_factory.mktemp(name)
    shutil.copytree(made, place, dirs_exist_ok=True)
    return Published(place / "models", place / "run", **json.loads(told.read_text()))


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Published:
    """LeNet-5, trained shortly on the embedded digits and published as version 1."""
    return trained(tmp_path_factory, "published", "digits_lenet5_modern", "epochs=3")


@pytest.fixture(scope="session")
def published_xo(tmp_path_factory) -> Published:
    """The network that tells an X from an O, with snapshots of its training, published."""
    snapshots = "checkpoints.snapshots=[1,2,5]"
    return trained(tmp_path_factory, "published_xo", "xo", "epochs=8", snapshots)


@dataclass
class Server:
    process: subprocess.Popen
    rest_port: int
    grpc_port: int
    ready_s: float
    log: Path
    exit_codes: list = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def memory_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        kilobytes = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(kilobytes.split()[1]) / 1024

    def mapped_libraries(self) -> str:
        return Path(f"/proc/{self.process.pid}/maps").read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def serve_light(base_path, place, *args):
    """The same with an engine that compiles nothing; its model `slow` takes 0.3 s a batch."""
    return serve(base_path, place, *args, program="tests.e2e.light")


@contextmanager
def serve(base_path, place, *args, program="zoo.command"):
    """Starts `convzoo serve` on free ports and yields it when it says it is ready.

    Without a base path, `args` say what to serve and on which ports.
    """
    ready_file = place / f"ready-{time.monotonic_ns()}.json"
    log = ready_file.with_suffix(".log")
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", program, "serve", "--ready-file", str(ready_file)),
                *(() if base_path is None else ("--base-path", str(base_path))),
                *(() if base_path is None else ("--rest-port", "0", "--grpc-port", "0")),
                *map(str, args),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() - started > 60:
                raise AssertionError(f"no server ({process.poll()}):\n{log.read_text()}")
            time.sleep(0.01)
        ready_s = time.monotonic() - started
        ports = json.loads(ready_file.read_text())
        yield Server(process, ports["rest_port"], ports["grpc_port"], ready_s, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture
def server(published, tmp_path):
    with serve(published.base_path, tmp_path) as running:
        yield running
