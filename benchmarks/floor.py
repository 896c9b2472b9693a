"""How fast a server in Python could be at most: one that does nothing but receive, run and reply.

    python -m benchmarks.floor [--model lenet5_modern] [--seconds 5] [--in-flight 32] [--peer triton]

It counts bytes where a server has to read HTTP, and answers all requests with the same bytes: no
protocol, no names, no limits, no deadlines, no errors, no metrics. What it reaches, first without an
engine and then with the published version on OpenVINO, is what a server has to stay under that is
written in Python: in one process, and in a process for each core, with half of the requests each
where there are two. `convzoo serve` over binary REST, one or one a core, takes turns with them, and
the engine in-process on all cores, in batches of as many rows as requests are in flight; `--peer`
adds another server over binary REST, as in benchmarks/serving.py. Needs wrk.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.peers import prepared
from benchmarks.serving import (
    PEERS,
    ROOT,
    Engine,
    bodies,
    convzoo_command,
    free_port,
    publish_missing,
    started,
    wrk,
)

SERVERS = ("nothing", "engine", "convzoo")
ROUNDS = 3

# Requests a second, asked for so many seconds with so many in flight.
Ask = Callable[[float, int], float]


class Least(asyncio.Protocol):
    """A connection on which every request has the same number of bytes."""

    def __init__(
        self, size: int, reply: bytes, run: Callable[["Least", bytes], None] | None
    ) -> None:
        self.size, self.reply, self.run, self.came = size, reply, run, b""

    def connection_made(self, transport: Any) -> None:
        """Keeps it."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answers what is whole."""
        self.came += data
        while len(self.came) >= self.size:
            whole, self.came = self.came[: self.size], self.came[self.size :]
            if self.run is None:
                self.transport.write(self.reply)
            else:
                self.run(self, whole)


def serve(kind: str, place: Path, port: int, ready_port: int, size: int) -> None:
    """Serves until it is ended; `ready_port` answers GET, so that it is known when it is ready."""
    from serving.core import engine as engines
    from zoo.artifact import read_golden, read_manifest

    body = read_golden(place)[1]["probabilities"][:1].tobytes()
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    shape = read_golden(place)[0]["image"].shape[1:]
    number = 4 * int(np.prod(shape))
    waiting: list[tuple[Least, bytes]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        run = None
        if kind == "engine":
            model = engines.load("openvino", place, read_manifest(place))

            def answer() -> None:
                """All that has come until now, as one batch."""
                joined = np.frombuffer(b"".join(each for _, each in waiting), np.float32)
                model.run("serving_default", {"image": joined.reshape(-1, *shape)})
                for connection, _ in waiting:
                    connection.transport.write(reply)
                waiting.clear()

            def run(connection: Least, whole: bytes) -> None:
                if not waiting:
                    loop.call_soon(answer)
                waiting.append((connection, whole[-number:]))

        await loop.create_server(partial(Least, size, reply, run), "127.0.0.1", port)
        ready = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        await loop.create_server(partial(Least, 1, ready, _once), "127.0.0.1", ready_port)
        await asyncio.Event().wait()

    uvloop.run(main())


def _once(connection: Least, _: bytes) -> None:
    connection.transport.write(connection.reply)
    connection.transport.close()
    connection.size = sys.maxsize


def request_bytes(path: str, body: bytes, headers: dict[str, str]) -> int:
    """How many bytes wrk sends for a request."""
    seen: list[int] = []

    class Counting(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.came = transport, b""

        def data_received(self, data: bytes) -> None:
            self.came += data
            head = self.came.find(b"\r\n\r\n")
            if head >= 0 and len(self.came) == head + 4 + len(body):
                seen.append(len(self.came))
                self.came = b""
                self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async def main() -> None:
        port = free_port()
        await asyncio.get_running_loop().create_server(Counting, "127.0.0.1", port)
        with tempfile.TemporaryDirectory() as place:
            ask = partial(
                wrk,
                f"http://127.0.0.1:{port}{path}",
                body,
                headers,
                connections=1,
                seconds=1,
                place=Path(place),
            )
            await asyncio.to_thread(ask)

    uvloop.run(main())
    (size,) = set(seen)
    return size


def measured(
    base_path: Path, model: str, in_flight: int, seconds: float, peer: str | None
) -> dict[str, list[float]]:
    """Requests a second in each round, by what answered."""
    place = base_path / model / "1"
    sent = bodies(place, model)
    headers = {"Inference-Header-Content-Length": sent["oip_header"]}
    path = f"/v2/models/{model}/infer"
    size = request_bytes(path, sent["oip_binary"], headers)
    cores = sorted(os.sched_getaffinity(0))

    def asking(url: str, body: bytes, headers: dict[str, str], scratch: Path) -> Ask:
        """What asks a server, which has answered for a second by then."""

        def ask(s: float, connections: int) -> float:
            found = wrk(url, body, headers, connections=connections, seconds=s, place=scratch)
            return found["per_s"]

        ask(1, in_flight)
        return ask

    with contextlib.ExitStack() as stack:

        def start(kind: str, core: int | None = None) -> Ask:
            """Starts a server; what asks it for so long with so many in flight."""
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port, other = free_port(), free_port()
            url, ready = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{other}"
            command = [sys.executable, "-m", "benchmarks.floor", "--model", model]
            command += ["--base-path", str(base_path)]
            command += ["--serve", kind, str(port), str(other), str(size)]
            if kind == "convzoo":
                command = convzoo_command(base_path, model, port, other)
                ready = f"{url}/readyz"
            if core is not None:
                command = ["taskset", "--cpu-list", str(core), *command]
            stack.enter_context(started(command, ready, scratch, PYTHONPATH=str(ROOT)))
            return asking(url + path, sent["oip_binary"], headers, scratch)

        def start_peer(name: str) -> Ask:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ports = (free_port(), free_port(), free_port())
            ir = place / "assets.extra/convzoo/openvino/fp32.xml"
            made = prepared(name, scratch, ir, model, sent, ports)
            way, url = made.ways["binary"], f"http://127.0.0.1:{ports[0]}"
            environment = {"PATH": f"{PEERS / name / 'bin'}:{os.environ['PATH']}"}
            environment |= made.environment
            stack.enter_context(started(made.command, url + made.ready, scratch, **environment))
            return asking(url + way.path, way.body, dict(way.headers), scratch)

        ways: dict[str, list[Ask]] = {}
        for kind in SERVERS:
            ways[f"{kind}, one process"] = [start(kind)]
            ways[f"{kind}, a process a core"] = [start(kind, core) for core in cores]
        if peer is not None:
            ways[peer] = [start_peer(peer)]
        engine = Engine(place, "openvino", 0.5)
        stack.callback(engine.close)
        pool = stack.enter_context(ThreadPoolExecutor(len(cores)))
        found: dict[str, list[float]] = {name: [] for name in ("the engine alone", *ways)}
        for _ in range(ROUNDS):
            alone = engine.round(in_flight, seconds)["per_s"]
            found["the engine alone"].append(alone)
            for name, each in ways.items():
                share = in_flight // len(each)
                asked = [pool.submit(ask, seconds, share) for ask in each]
                found[name].append(sum(one.result() for one in asked))
    return found


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lenet5_modern")
    parser.add_argument("--base-path", type=Path, default=ROOT / "build" / "benchmark-models")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--peer", choices=("triton", "pytriton", "ray"))
    parser.add_argument(
        "--serve", nargs=4, metavar=("KIND", "PORT", "READY", "BYTES"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.serve:
        kind, *numbers = given.serve
        serve(kind, given.base_path / given.model / "1", *map(int, numbers))
        return
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed (package wrk).")
    publish_missing(given.base_path, [given.model])
    found = measured(
        given.base_path.absolute(), given.model, given.in_flight, given.seconds, given.peer
    )
    print("| what answers | requests/s, best | median |\n|---|---|---|")
    for name, rounds in found.items():
        print(f"| {name} | {max(rounds):,.0f} | {statistics.median(rounds):,.0f} |")


if __name__ == "__main__":
    main()
