"""Which front end: the server's own in one process, or Envoy through pyvoy; on the real server.

    python benchmarks/envoy.py --base-path MODELS [--model lenet5_modern] [--seconds 5]

Both run the same handlers and the same core. Envoy needs the engine in a process of its own, so
the server is measured in that form too. The figures stand in docs/decisions/0011.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

INFER = "/inference.GRPCInferenceService/ModelInfer"
ROOT = Path(__file__).resolve().parents[1]
# This file's own folder would hide the package `serving` behind `benchmarks/serving.py`.
sys.path[0] = str(ROOT)

from benchmarks.serving import (  # noqa: E402 - after the path is right
    PEERS,
    best_of,
    bodies,
    convzoo_command,
    free_port,
    h2load,
    started,
    wrk,
)


def pyvoy_environment() -> Path:
    """An interpreter with pyvoy; installed when it is not there."""
    python = PEERS / "pyvoy" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / "pyvoy")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "pyvoy"], check=True)
    return python


def measured(
    command: list[str],
    environment: dict[str, str],
    sent: dict[str, Any],
    given: argparse.Namespace,
    rest: int,
    grpc: int,
) -> list[dict[str, float]]:
    """Binary REST, JSON and gRPC of one server."""
    url, grpc_url = f"http://127.0.0.1:{rest}", f"http://127.0.0.1:{grpc}"
    binary = {"Inference-Header-Content-Length": sent["oip_header"]}
    in_flight = given.in_flight
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)

        def over_http(path: str, body: bytes, headers: dict[str, str]) -> dict[str, float]:
            return best_of(
                lambda s: wrk(
                    url + path, body, headers, connections=in_flight, seconds=s, place=place
                ),
                given.seconds,
            )

        with started(command, f"{url}/readyz", place, **environment):
            return [
                over_http(f"/v2/models/{given.model}/infer", sent["oip_binary"], binary),
                over_http(f"/v1/models/{given.model}:predict", sent["tfs_json"], {}),
                best_of(
                    lambda s: h2load(
                        grpc_url,
                        INFER,
                        sent["oip_grpc"],
                        in_flight=in_flight,
                        seconds=s,
                        place=place,
                    ),
                    given.seconds,
                ),
            ]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-path", type=Path, required=True)
    parser.add_argument("--model", default="lenet5_modern")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=32)
    given = parser.parse_args()
    model_path = (given.base_path / given.model).resolve()
    sent = bodies(model_path / "1", given.model)
    packages = f"{ROOT / '.venv/lib/python3.11/site-packages'}:{ROOT}"
    print("| front end | engine | REST, binary | REST, JSON | gRPC |")
    print("|---|---|---|---|---|")
    for name, engine in (
        ("own listeners", "same process"),
        ("own listeners", "own process"),
        ("Envoy (pyvoy)", "own process"),
    ):
        rest, grpc = free_port(), free_port()
        environment = {"PYTHONPATH": str(ROOT)}
        if name.startswith("Envoy"):
            grpc = rest
            command = [
                str(pyvoy_environment().parent / "pyvoy"),
                *("benchmarks.envoy_app:application", "--address", "127.0.0.1"),
                *("--port", str(rest)),
            ]
            environment = {
                "PYTHONPATH": packages,
                "BENCH_MODEL": str(model_path),
                "BENCH_NAME": given.model,
            }
        else:
            command = convzoo_command(given.base_path.resolve(), given.model, rest, grpc)
            command += ["--isolate"] if engine == "own process" else []
        rates = measured(command, environment, sent, given, rest, grpc)
        cells = [
            f"{each['per_s']:,.0f} /s"
            + (f" ({each['errors']:.0f} errors)" if each["errors"] else "")
            for each in rates
        ]
        print(f"| {name} | {engine} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
