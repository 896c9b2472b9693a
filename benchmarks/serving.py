"""The server beside TensorFlow, its own engine and other servers, on one machine in one run.

    python benchmarks/serving.py [--models lenet5_modern,alexnet,googlenet] [--seconds 5]
        [--peers triton,pytriton,mlserver,bentoml,ray] [--out docs/performance]

Needs wrk and h2load, which drive every server alike. Peers are installed into environments of
their own under build/peers (benchmarks/peers.py). What is measured:

- engine: one caller, batch 1, the published version on OpenVINO and on TensorFlow as its users
  call it, each in a process of its own;
- saturation: requests of one image with many in flight, over each protocol, in turns with the
  engine in-process at its best batch size;
- overhead: one connection, one request at a time, minus the engine's own time, in turns;
- peers: LeNet-5 on the same engine behind other servers, over JSON, binary REST and gRPC, after
  each has given the golden record's answer, each in turns with this server over the same protocol.

The machine's load decides the figures; the ratios of one run are what counts.
"""

import argparse
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# This file's own folder would hide the package `serving` behind its name.
sys.path[0] = str(ROOT)
# From here on one round has to do.
LONG_S = 6.0
PEERS = ROOT / "build" / "peers"

ENGINE = """
import json, sys, time
import numpy as np
from pathlib import Path
place, engine, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
from zoo.artifact import read_golden, read_manifest
inputs, _ = read_golden(place)
if engine == "tensorflow":
    import tensorflow as tf
    signature = tf.saved_model.load(str(place)).signatures["serving_default"]
    run = lambda image: signature(image=tf.constant(image))["probabilities"].numpy()
    sizes = [1]
else:
    from serving.core import engine as engines
    model = engines.load("openvino", place, read_manifest(place))
    run = lambda image: model.run("serving_default", {"image": image})
    sizes = [1, 2, 4, 8, 16, 32]
def rounds(rows, seconds):
    image = np.ascontiguousarray(np.resize(inputs["image"], (rows, *inputs["image"].shape[1:])))
    for _ in range(3):
        run(image)
    times, until = [], time.monotonic() + seconds
    while time.monotonic() < until or len(times) < 5:
        started = time.monotonic()
        run(image)
        times.append(time.monotonic() - started)
    return times

# The quickest tenth: what others do on the machine only ever takes away.
found = {rows: float(np.quantile(rounds(rows, seconds), 0.1)) for rows in sizes}
print(json.dumps(found), flush=True)
for line in sys.stdin:
    rows, seconds = line.split()
    times = rounds(int(rows), float(seconds))
    print(int(rows) * len(times) / sum(times), float(np.median(times)), flush=True)
"""


class Engine:
    """An engine on a published version, in a process of its own.

    Attributes:
        seconds: What a batch takes when nobody disturbs it, by its rows.
        best_rows: The rows of a batch with the best throughput.
    """

    def __init__(self, place: Path, engine: str, seconds: float) -> None:
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-c", ENGINE, str(place), engine, str(seconds)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        self.seconds = {int(rows): each for rows, each in json.loads(self._line()).items()}
        self.best_rows = min(self.seconds, key=lambda rows: self.seconds[rows] / rows)

    def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            self._told.seek(0)
            raise RuntimeError(self._told.read().decode(errors="replace")[-4000:])
        return line

    def round(self, rows: int, seconds: float) -> dict[str, float]:
        """Rows a second over so long, and the median seconds of a batch of so many rows."""
        assert self._process.stdin is not None  # noqa: S101
        print(rows, seconds, file=self._process.stdin, flush=True)
        per_s, median_s = map(float, self._line().split())
        return {"per_s": per_s, "median_s": median_s}

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()
        self._told.close()


# --- The load -------------------------------------------------------------------------------------


def best_of(
    measure: Callable[[float], dict[str, float]],
    seconds: float,
    beside: Callable[[float], dict[str, float]] | None = None,
    rounds: int | None = None,
) -> dict[str, float]:
    """The best of `rounds` or of two: what others do on the machine only ever takes away.

    A round has to be long against the time that all requests in flight take together. `beside`, the
    engine or another server, takes turns with it, so that both have the same minutes of the machine.
    """
    rounds = rounds or (2 if seconds < LONG_S else 1)
    found, others = [], []
    for _ in range(rounds):
        if beside is not None:
            others.append(beside(seconds / rounds))
        found.append(measure(seconds / rounds))
    best = max(found, key=lambda each: each["per_s"])
    best["median_s"] = min(each["median_s"] for each in found)
    if others:
        best["beside_per_s"] = max(each["per_s"] for each in others)
        best["beside_median_s"] = min(each["median_s"] for each in others)
    return best


def wrk(
    url: str, body: bytes, headers: dict[str, str], *, connections: int, seconds: float, place: Path
) -> dict[str, float]:
    """Answers a second, errors and median latency over HTTP/1.1."""
    (place / "body").write_bytes(body)
    lines = [
        'wrk.method = "POST"',
        f'local file = io.open("{place / "body"}", "rb")',
        'wrk.body = file:read("*a")',
        "file:close()",
        *(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()),
    ]
    (place / "load.lua").write_text("\n".join(lines))
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--latency"),
            *("-s", str(place / "load.lua"), "--timeout", "20s", url),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    text = done.stdout
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    every = float(re.search(r"(\d+) requests in", text)[1])  # type: ignore[index]
    per_s = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])  # type: ignore[index]
    return {
        "per_s": per_s * (1 - (float(wrong[1]) if wrong else 0.0) / max(every, 1)),
        "median_s": _seconds(re.search(r"50%\s+([\d.]+\w+)", text)[1]),  # type: ignore[index]
        "errors": float(wrong[1]) if wrong else 0.0,
    }


def h2load(
    url: str, path: str, message: bytes, *, in_flight: int, seconds: float, place: Path
) -> dict[str, float]:
    """The same for a gRPC method: one connection, many streams."""
    (place / "message").write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)

    def ask(*how: str) -> str:
        command = [
            *("h2load", "-t1", "-c1", *how, "-d", str(place / "message")),
            *("-H", "content-type: application/grpc", "-H", "te: trailers", url + path),
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    # A call that fails is a 200 as well, but without a message: the bytes tell how many were good.
    answer_bytes = _data_bytes(ask("-n1"))
    if not answer_bytes:
        raise RuntimeError(f"{path} at {url} answers without a message.")
    log = place / "requests"
    log.unlink(missing_ok=True)
    text = ask(f"-m{in_flight}", f"-D{math.ceil(seconds)}", f"--log-file={log}")
    succeeded = float(re.search(r"(\d+) succeeded", text)[1])  # type: ignore[index]
    failed, errored = re.search(r"(\d+) failed, (\d+) errored", text).groups()  # type: ignore[union-attr]
    good = min(succeeded, round(_data_bytes(text) / answer_bytes))
    micros = [int(line.split("\t")[2]) for line in log.read_text().splitlines()]
    return {
        "per_s": good / math.ceil(seconds),
        "median_s": float(np.median(micros)) / 1e6 if micros else float("nan"),
        "errors": float(failed) + float(errored) + succeeded - good,
    }


def _data_bytes(text: str) -> int:
    return int(re.search(r"\((\d+)\) data", text)[1])  # type: ignore[index]


def http1(
    url: str,
    body: bytes,
    headers: dict[str, str],
    *,
    connections: int,
    seconds: float,
    place: Path,
    per_s: float | None = None,
) -> dict[str, float]:
    """Answers a second over HTTP/1.1 from h2load, which can ask whether or not answers come.

    Args:
        url: Where to ask.
        body: What is sent.
        headers: With these.
        connections: So many, each with one request at a time.
        seconds: So long.
        place: A folder for the body.
        per_s: Requests a second that are tried; None for as many as are answered.
    """
    (place / "body").write_bytes(body)
    rate = [f"--rps={max(per_s / connections, 0.01):.3f}"] if per_s is not None else []
    done = subprocess.run(
        [
            *("h2load", "--h1", "-t1", f"-c{connections}", "-m1", f"-D{math.ceil(seconds)}"),
            *(*rate, "-d", str(place / "body")),
            *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
            url,
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    codes = re.search(r"status codes: (\d+) 2xx, \d+ 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    good, refused, failed = (float(each) for each in codes.groups())  # type: ignore[union-attr]
    return {
        "per_s": good / math.ceil(seconds),
        "median_s": float("nan"),
        "refused": refused,
        "failed": failed,
    }


def _seconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[unit]


def publish_missing(base_path: Path, names: Sequence[str]) -> None:
    """Publishes networks with fresh weights where they are missing.

    Raises:
        SystemExit: a network has a version beside the one that is measured; it would be served.
    """
    for name in names:
        found = (each.name for each in (base_path / name).glob("*"))
        others = [each for each in found if each.isdecimal() and each != "1"]
        if others:
            raise SystemExit(
                f"{base_path / name} has the versions {', '.join(sorted(others))} beside 1, and the "
                "newest is served; remove them, or choose another --base-path."
            )
    subprocess.run(
        [sys.executable, "-m", "benchmarks.untrained", str(base_path), *names],
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
    )


# --- Servers --------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def started(
    command: list[str], url: str, place: Path, within_s: float = 120, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that answers at `url`; it is ended afterwards."""
    with (place / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=place, env=os.environ | environment
        )
    try:
        until = time.monotonic() + within_s
        while True:
            try:
                with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own URL
                    if answer.status == 200:
                        break
            except OSError:
                pass
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((place / "server.log").read_text()[-8000:])
            time.sleep(0.05)
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server, and what it leaves behind of the processes that it started."""
    started_by_it = [(each, _birth(each)) for each in descendants(process.pid)]
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    until = time.monotonic() + 5
    # A number can be another's by now: only the same process is ended.
    while left := [pid for pid, birth in started_by_it if birth and _birth(pid) == birth]:
        if time.monotonic() > until:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def _birth(pid: int) -> str:
    """When a process began, in clock ticks since the machine did; "" when it is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def memory_mb(pid: int) -> float:
    """The most memory a process and those that it started have held."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
    return own + sum(memory_mb(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(each) for task in tasks for each in task.read_text().split()]


def descendants(pid: int) -> list[int]:
    """Those, and what they have started."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def bodies(place: Path, model: str) -> dict[str, Any]:
    """One image in the form of each protocol."""
    from serving.messages import PredictCall, Target
    from serving.wire import oip_proto, tfs_proto
    from zoo.artifact import read_golden

    inputs, _ = read_golden(place)
    image = inputs["image"][:1]
    call = PredictCall(Target(model), {"image": image})
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "shape": list(image.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": image.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    flat = {
        "name": "image",
        "shape": list(image.shape),
        "datatype": "FP32",
        "data": [round(float(each), 4) for each in image.ravel()],
    }
    return {
        "image": image,
        "tfs_json": json.dumps({"instances": np.round(image, 4).astype(float).tolist()}).encode(),
        "oip_json": json.dumps({"inputs": [flat]}).encode(),
        "oip_binary": head + image.tobytes(),
        "oip_header": str(len(head)),
        "tfs_grpc": tfs_proto.encode_predict_request(call),
        "oip_grpc": oip_proto.encode_infer_request(call),
    }


def convzoo_command(base_path: Path, model: str, rest: int, grpc: int) -> list[str]:
    """What starts this server."""
    return [
        *(sys.executable, "-m", "zoo.command", "serve", "--base-path", str(base_path / model)),
        *("--model-name", model, "--rest-port", str(rest), "--grpc-port", str(grpc)),
    ]


def convzoo(
    base_path: Path, model: str, in_flight: int, seconds: float, engine: Engine
) -> dict[str, Any]:
    """This server over each protocol, at saturation in turns with its engine, and without load."""
    rest, grpc = free_port(), free_port()
    sent = bodies(base_path / model / "1", model)
    url, grpc_url = f"http://127.0.0.1:{rest}", f"http://127.0.0.1:{grpc}"
    predict = f"{url}/v1/models/{model}:predict"
    infer = f"{url}/v2/models/{model}/infer"
    binary = {"Inference-Header-Content-Length": sent["oip_header"]}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        command = convzoo_command(base_path, model, rest, grpc)
        began = time.monotonic()
        with started(command, f"{url}/readyz", place, PYTHONPATH=str(ROOT)) as process:
            ready_s = time.monotonic() - began
            found: dict[str, Any] = {}

            def both(name: str, one: Any) -> None:
                one(1, 1.0)
                found[name] = {
                    "saturated": best_of(
                        lambda s: one(in_flight, s),
                        seconds,
                        partial(engine.round, engine.best_rows),
                    ),
                    "alone": best_of(lambda s: one(1, s), seconds / 2, partial(engine.round, 1)),
                }

            both(
                "REST, JSON (TFS)",
                lambda n, s: wrk(
                    predict, sent["tfs_json"], {}, connections=n, seconds=s, place=place
                ),
            )
            both(
                "REST, JSON (OIP)",
                lambda n, s: wrk(
                    infer, sent["oip_json"], {}, connections=n, seconds=s, place=place
                ),
            )
            both(
                "REST, binary (OIP)",
                lambda n, s: wrk(
                    infer, sent["oip_binary"], binary, connections=n, seconds=s, place=place
                ),
            )
            for name, path, message in (
                ("gRPC (TFS)", "/tensorflow.serving.PredictionService/Predict", "tfs_grpc"),
                ("gRPC (OIP)", "/inference.GRPCInferenceService/ModelInfer", "oip_grpc"),
            ):
                both(
                    name,
                    lambda n, s, path=path, message=message: h2load(
                        grpc_url, path, sent[message], in_flight=n, seconds=s, place=place
                    ),
                )
            most = found["REST, binary (OIP)"]["saturated"]["per_s"]
            # By the same generator and in turns: it shares the machine with the server, and wrk
            # takes less of it.
            ask = partial(http1, infer, sent["oip_binary"], binary, place=place)
            threefold = best_of(
                lambda s: ask(connections=256, per_s=3 * most, seconds=s),
                2 * seconds,
                lambda s: ask(connections=in_flight, seconds=s),
                rounds=2 if seconds >= LONG_S else 4,
            )
            return {
                "ready_s": ready_s,
                "memory_mb": memory_mb(process.pid),
                "protocols": found,
                "at_threefold": threefold,
            }


# --- Peers ----------------------------------------------------------------------------------------


def agrees(found: Any, expected: Any, asked: str) -> None:
    """Whether a peer runs the same network: what it answers is what the golden record says.

    Raises:
        RuntimeError: it does not.
    """
    if np.shape(found) != expected.shape or not np.allclose(found, expected, atol=1e-3):
        raise RuntimeError(f"{asked} answers {found}; the golden record has {expected}.")


def asked_once(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """An answer's body and its headers, in lower case."""
    request = urllib.request.Request(url, body, dict(headers))  # noqa: S310 - our own URL
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return answer.read(), {name.lower(): value for name, value in answer.headers.items()}


def peer(name: str, base_path: Path, model: str, in_flight: int, seconds: float) -> dict[str, Any]:
    """Another server with the same network on the same engine, in turns with this one."""
    import grpc

    from benchmarks.peers import prepared
    from serving.wire import oip_proto
    from zoo.artifact import read_golden

    version = base_path / model / "1"
    sent = bodies(version, model)
    expected = read_golden(version)[1]["probabilities"][:1]
    ir = version / "assets.extra/convzoo/openvino/fp32.xml"
    ports = (free_port(), free_port(), free_port())
    url, grpc_address = f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
    infer = "/inference.GRPCInferenceService/ModelInfer"
    rest, own_grpc = free_port(), free_port()
    own_url = f"http://127.0.0.1:{rest}"
    own_infer = f"{own_url}/v2/models/{model}/infer"
    binary = {"Inference-Header-Content-Length": sent["oip_header"]}
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as own_scratch:
        place, own_place = Path(scratch), Path(own_scratch)
        found: dict[str, Any] = {}
        made = prepared(name, place, ir, model, sent, ports)
        path = f"{PEERS / name / 'bin'}:{os.environ['PATH']}"
        environment = {"PATH": path, **made.environment}
        own = convzoo_command(base_path, model, rest, own_grpc)
        with (
            started(own, f"{own_url}/readyz", own_place, PYTHONPATH=str(ROOT)),
            started(made.command, url + made.ready, place, **environment) as process,
        ):

            def ours(kind: str, s: float) -> dict[str, float]:
                if kind == "gRPC":
                    return h2load(
                        f"http://127.0.0.1:{own_grpc}",
                        infer,
                        sent["oip_grpc"],
                        in_flight=in_flight,
                        seconds=s,
                        place=own_place,
                    )
                body, headers = (
                    (sent["oip_json"], {}) if kind == "JSON" else (sent["oip_binary"], binary)
                )
                return wrk(
                    own_infer, body, headers, connections=in_flight, seconds=s, place=own_place
                )

            for kind, way in made.ways.items():
                answer = asked_once(url + way.path, way.body, way.headers)
                agrees(way.read(*answer), expected, f"{name} over {kind}")

                def load(n: int, s: float, way: Any = way) -> dict[str, float]:
                    return wrk(
                        url + way.path,
                        way.body,
                        dict(way.headers),
                        connections=n,
                        seconds=s,
                        place=place,
                    )

                load(1, 1)
                found[kind] = best_of(
                    lambda s, load=load: load(in_flight, s), seconds, partial(ours, kind)
                )
            if made.has_grpc:
                with grpc.insecure_channel(grpc_address) as channel:
                    answer = channel.unary_unary(infer)(sent["oip_grpc"], timeout=20)
                outputs = oip_proto.decode_infer_reply(answer).outputs
                agrees(outputs["probabilities"], expected, f"{name} over gRPC")
                found["gRPC"] = best_of(
                    lambda s: h2load(
                        f"http://{grpc_address}",
                        infer,
                        sent["oip_grpc"],
                        in_flight=in_flight,
                        seconds=s,
                        place=place,
                    ),
                    seconds,
                    partial(ours, "gRPC"),
                )
            return {"protocols": found, "memory_mb": memory_mb(process.pid)}


# --- The report -----------------------------------------------------------------------------------


def as_markdown(document: dict[str, Any]) -> str:
    """The tables of a run."""
    lines = [
        "| network | TensorFlow, batch 1 | OpenVINO, batch 1 | ratio | OpenVINO, best batch |",
        "|---|---|---|---|---|",
    ]
    for model, each in document["models"].items():
        tensorflow, openvino = each["tensorflow"][1], each["openvino"][1]
        lines.append(
            f"| {model} | {1 / tensorflow:,.0f} /s | {1 / openvino:,.0f} /s "
            f"| {tensorflow / openvino:.1f} | {each['best_per_s']:,.0f} /s |"
        )
    for model, each in document["models"].items():
        lines += [
            "",
            f"{model}: {document['in_flight']} in flight; ready in "
            f"{each['server']['ready_s']:.1f} s, {each['server']['memory_mb']:.0f} MB.",
            "",
            "| protocol | images/s | of the engine's best | one alone, median | above the engine |",
            "|---|---|---|---|---|",
        ]
        for name, found in each["server"]["protocols"].items():
            full, alone = found["saturated"], found["alone"]
            wrong = f" ({full['errors']:.0f} errors)" if full["errors"] else ""
            above_s = alone["median_s"] - alone["beside_median_s"]
            lines.append(
                f"| {name} | {full['per_s']:,.0f}{wrong} "
                f"| {full['per_s'] / full['beside_per_s']:.0%} "
                f"| {1e3 * alone['median_s']:.2f} ms | {1e3 * above_s:.2f} ms |"
            )
        three = each["server"]["at_threefold"]
        lines += [
            "",
            f"With three times as many requests as it can answer over binary REST, on 256 "
            f"connections, it answers {three['per_s']:,.0f} /s "
            f"({three['per_s'] / max(three['beside_per_s'], 1e-9):.0%} of the "
            f"{three['beside_per_s']:,.0f} that h2load reaches with {document['in_flight']} in "
            f"flight, in turns) and refuses {three['refused']:,.0f} at once.",
        ]
    if document["peers"]:
        lines += [
            "",
            f"{document['peers_on']}, {document['in_flight']} in flight, in turns with others on the "
            "same engine:",
            "",
            "| server | protocol | requests/s | errors | convzoo, requests/s | times faster |",
            "|---|---|---|---|---|---|",
        ]
        for name, each in document["peers"].items():
            for protocol, found in each["protocols"].items():
                lines.append(
                    f"| {name} | {protocol} | {found['per_s']:,.0f} | {found['errors']:.0f} "
                    f"| {found['beside_per_s']:,.0f} "
                    f"| {found['beside_per_s'] / max(found['per_s'], 1e-9):.1f} |"
                )
    return "\n".join(lines) + "\n"


def draw(document: dict[str, Any], path: Path) -> None:
    """A bar for each protocol and peer, in requests a second."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    model = document["peers_on"]
    bars = {
        f"convzoo, {name}": each["saturated"]["per_s"]
        for name, each in document["models"][model]["server"]["protocols"].items()
    }
    for name, each in document["peers"].items():
        bars |= {f"{name}, {kind}": found["per_s"] for kind, found in each["protocols"].items()}
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(bars) + 1), layout="constrained")
    drawn = axes.barh(list(bars)[::-1], list(bars.values())[::-1])
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.set_xlabel(f"requests per second, {model}, one image a request")
    axes.margins(x=0.12)
    figure.savefig(path)


def write(document: dict[str, Any], out: Path) -> None:
    """Writes what has been measured so far: a long run that is cut short leaves its beginning."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")
    out.with_suffix(".table.md").write_text(as_markdown(document))
    draw(document, out.with_suffix(".svg"))


def main() -> None:
    """Measures and writes `<out>.json`, `<out>.table.md` and `<out>.svg`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="lenet5_modern,alexnet,googlenet")
    parser.add_argument("--peers", default="triton,pytriton,mlserver,bentoml,ray")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--base-path", type=Path, default=ROOT / "build" / "benchmark-models")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "performance")
    given = parser.parse_args()
    for program in ("wrk", "h2load"):
        if shutil.which(program) is None:
            parser.error(f"{program} is not installed (packages wrk and nghttp2-client).")
    from benchmarks.peers import SERVERS

    wanted = [name for name in given.peers.split(",") if name]
    for name in wanted:
        if name not in SERVERS:
            parser.error(f"No peer {name!r}; there are {', '.join(SERVERS)}.")
    names = given.models.split(",")
    publish_missing(given.base_path, names)
    document: dict[str, Any] = {"in_flight": given.in_flight, "models": {}, "peers": {}}
    document["peers_on"] = names[0]
    for name in names:
        place = given.base_path / name / "1"
        tensorflow = Engine(place, "tensorflow", given.seconds / 5)
        tensorflow.close()
        openvino = Engine(place, "openvino", given.seconds / 5)
        server = convzoo(given.base_path, name, given.in_flight, given.seconds, openvino)
        openvino.close()
        document["models"][name] = {
            "tensorflow": tensorflow.seconds,
            "openvino": openvino.seconds,
            "best_per_s": max(
                each["saturated"]["beside_per_s"] for each in server["protocols"].values()
            ),
            "server": server,
        }
        write(document, given.out)
    for name in wanted:
        document["peers"][name] = peer(
            name, given.base_path, names[0], given.in_flight, given.seconds
        )
        write(document, given.out)
    print(as_markdown(document))


if __name__ == "__main__":
    main()
