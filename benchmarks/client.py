"""What the client costs: beside the bare transport under it, and beside tritonclient.

    make witness                        # tritonclient, in an environment of its own
    .venv/bin/python -m benchmarks.client

One `convzoo serve` on this machine answers everybody: a tiny network on 28x28 pixels, so that
nearly all of a call is its way there and back. Each contender is a process of its own, which calls
for a slice of time when it is its turn; the slices alternate, so that what else the machine does
hits all alike. Ratios are those of slices that stood side by side; the median is told.

Two questions:
1. What does `Client.predict` add to a call? Against the same bytes sent through a socket, or a
   channel of grpcio, with nothing around it: no headers but the needed, no answer read.
2. Does it make as many calls a second as tritonclient's `infer`?
"""

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
WITNESS = ROOT / "build" / "witness" / "bin" / "python"
MODEL = "lenet5"
IMAGE = np.zeros((1, 28, 28, 1), np.float32)
FORMS = ("http", "grpc")

Call = Callable[[], Any]


# --- Contenders, each in a process of its own ---------------------------------------------------


def ours(form: str, address: str) -> Call:
    """`Client.predict`."""
    from serving.client import Client

    client = Client(f"{form}://{address}")
    return lambda: client.predict(MODEL, IMAGE)["probabilities"]


def bare(form: str, address: str) -> Call:
    """The same request's bytes through the transport alone; the answer is not read."""
    from serving.client.dialects import dialect
    from serving.messages import PredictCall, Target

    request = (
        dialect("native", is_grpc=form == "grpc")
        .predict(PredictCall(Target(MODEL), {"image": IMAGE}), None)
        .request
    )
    body = b"".join(request.body)
    if form == "grpc":
        import grpc

        method = grpc.insecure_channel(address).unary_unary(request.path)
        return lambda: method(body, timeout=60)
    host, port = address.split(":")
    connected = socket.create_connection((host, int(port)))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = f"POST {request.path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in request.headers) + "\r\n"
    sent = head.encode() + body

    def call() -> bytes:
        connected.sendall(sent)
        return connected.recv(65536)  # a small answer of a server beside us comes whole

    return call


def tritonclient(form: str, address: str) -> Call:
    """`InferenceServerClient.infer`, as its examples have it."""
    if form == "grpc":
        import tritonclient.grpc as triton
    else:
        import tritonclient.http as triton
    client = triton.InferenceServerClient(address)

    def call() -> Any:
        tensor = triton.InferInput("image", IMAGE.shape, "FP32")
        tensor.set_data_from_numpy(IMAGE)
        return client.infer(MODEL, [tensor]).as_numpy("probabilities")

    return call


CONTENDERS = {"ours": ours, "bare": bare, "tritonclient": tritonclient}


def work(contender: str, form: str, address: str) -> None:
    """Calls for as many seconds as each line of standard input says; tells each call's time."""
    call = CONTENDERS[contender](form, address)
    for line in sys.stdin:
        end = time.perf_counter() + float(line)
        times, cpu = [], time.process_time()
        while (begun := time.perf_counter()) < end:
            call()
            times.append(time.perf_counter() - begun)
        told = {
            "calls": len(times),
            "median_s": statistics.median(times),
            "cpu_s": (time.process_time() - cpu) / len(times),
        }
        print(json.dumps(told), flush=True)


class Worker:
    """A contender's process."""

    def __init__(self, contender: str, form: str, address: str) -> None:
        python = str(WITNESS) if contender == "tritonclient" else sys.executable
        self._process = subprocess.Popen(
            # As a module: beside this file others bear the packages' names.
            [python, "-m", "benchmarks.client", "--work", contender, form, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)} if contender != "tritonclient" else {},
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a worker without pipes")
        self._in, self._out = self._process.stdin, self._process.stdout
        self.run(0.3)  # the first calls connect, and ask what the model takes

    def run(self, seconds: float) -> dict[str, float]:
        """One slice of calls."""
        self._in.write(f"{seconds}\n")
        self._in.flush()
        found: dict[str, float] = json.loads(self._out.readline())
        return found

    def stop(self) -> None:
        """Ends the process."""
        self._in.close()
        self._process.wait(20)


# --- The comparison -----------------------------------------------------------------------------


@contextlib.contextmanager
def server() -> Iterator[dict[str, str]]:
    """A server on a tiny network; its address by form."""
    from tests.e2e.conftest import serve
    from tests.serving.published import publish_tiny

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        publish_tiny(place / "models", MODEL, side=28)
        with serve(place / "models", place) as running:
            yield {"http": running.url.removeprefix("http://"), "grpc": running.grpc}


def compare(form: str, address: str, rounds: int, seconds: float) -> dict[str, float]:
    """Alternating slices of all contenders over one form."""
    names = [name for name in CONTENDERS if name != "tritonclient" or WITNESS.exists()]
    workers = {name: Worker(name, form, address) for name in names}
    found: list[dict[str, dict[str, float]]] = [
        {name: worker.run(seconds) for name, worker in workers.items()} for _ in range(rounds)
    ]
    for worker in workers.values():
        worker.stop()

    def median(read: Callable[[dict[str, dict[str, float]]], float]) -> float:
        return statistics.median(map(read, found))

    told = {f"{name}_calls_per_s": median(lambda r: r[name]["calls"] / seconds) for name in names}  # noqa: B023 - median() calls it at once
    told |= {f"{name}_cpu_ms": median(lambda r: r[name]["cpu_s"] * 1e3) for name in names}  # noqa: B023
    told["added_ms"] = median(lambda r: (r["ours"]["median_s"] - r["bare"]["median_s"]) * 1e3)
    if "tritonclient" in names:
        told["ratio_to_tritonclient"] = median(
            lambda r: r["ours"]["calls"] / r["tritonclient"]["calls"]
        )
    return {name: round(value, 3) for name, value in told.items()}


def main() -> None:
    """Runs the comparison and tells it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each slice")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", nargs=3, metavar=("CONTENDER", "FORM", "ADDRESS"))
    chosen = parser.parse_args()
    if chosen.work:
        work(*chosen.work)
        return
    with server() as addresses:
        told = {f: compare(f, addresses[f], chosen.rounds, chosen.seconds) for f in FORMS}
    if chosen.json:
        print(json.dumps(told))
        return
    for form, numbers in told.items():
        print(form)
        for name, value in numbers.items():
            print(f"  {name:28} {value:10.3f}")


if __name__ == "__main__":
    main()
