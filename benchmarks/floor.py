"""How fast a server in Python could be at most: one that does nothing but receive, run and reply.

    python -m benchmarks.floor [--model lenet5_modern] [--seconds 5] [--in-flight 32]

It counts bytes where a server has to read HTTP, and answers all requests with the same bytes: no
protocol, no names, no limits, no deadlines, no errors, no metrics. What it reaches, first without an
engine and then with the published version on OpenVINO, is what a server in one Python process has to
stay under; `convzoo serve` over binary REST follows. Needs wrk.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from benchmarks.serving import (
    ROOT,
    best_of,
    bodies,
    convzoo_command,
    free_port,
    publish_missing,
    started,
    wrk,
)

SERVERS = ("nothing", "engine")


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


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lenet5_modern")
    parser.add_argument("--base-path", type=Path, default=ROOT / "build" / "benchmark-models")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument(
        "--serve", nargs=4, metavar=("KIND", "PORT", "READY", "BYTES"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    place = given.base_path / given.model / "1"
    if given.serve:
        kind, *numbers = given.serve
        serve(kind, place, *map(int, numbers))
        return
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed (package wrk).")
    publish_missing(given.base_path, [given.model])
    sent = bodies(place, given.model)
    headers = {"Inference-Header-Content-Length": sent["oip_header"]}
    path = f"/v2/models/{given.model}/infer"
    size = request_bytes(path, sent["oip_binary"], headers)
    found = {}
    for kind in (*SERVERS, "convzoo"):
        port, other = free_port(), free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "benchmarks.floor", "--model", given.model]
        command += ["--base-path", str(given.base_path.absolute())]
        command += ["--serve", kind, str(port), str(other), str(size)]
        ready = f"http://127.0.0.1:{other}"
        if kind == "convzoo":
            command = convzoo_command(given.base_path, given.model, port, other)
            ready = f"{url}/readyz"
        with tempfile.TemporaryDirectory() as scratch:
            load = partial(
                wrk,
                url + path,
                sent["oip_binary"],
                headers,
                connections=given.in_flight,
                place=Path(scratch),
            )
            with started(command, ready, Path(scratch), PYTHONPATH=str(ROOT)):
                load(seconds=1)
                found[kind] = best_of(lambda s, load=load: load(seconds=s), given.seconds)["per_s"]
    print("| what answers | requests/s |\n|---|---|")
    for kind, per_s in found.items():
        print(f"| {kind} | {per_s:,.0f} |")


if __name__ == "__main__":
    main()
