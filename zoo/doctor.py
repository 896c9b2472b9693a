"""`convzoo doctor`: what is installed, and what would work on this machine.

It reads package metadata and the system's own tables; it imports none of the packages it reports.
"""

import json
import platform
import socket
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from zoo.cores import cores

# What each part of the project needs beyond the base install, by distribution name.
PARTS = {
    "client": ("grpcio", "httptools", "numpy", "protobuf", "pydantic", "rich"),
    "serve": ("openvino", "hpack", "uvloop", "pillow", "prometheus-client", "orjson"),
    "train": ("tensorflow", "keras", "tensorflow-serving-api", "matplotlib", "scikit-learn"),
    "quantise": ("nncf",),
    "remote": ("fsspec", "s3fs"),
    "mlflow": ("mlflow-skinny",),
    "ray": ("ray",),
}

# Processor features that decide which precision pays, as Linux names them.
CPU_FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "amx_fp16"),
)

PORTS = {"gRPC": 8500, "REST": 8501}


def installed(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of `CPU_FEATURES` that the first processor has; empty where Linux does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return tuple(feature for feature in CPU_FEATURES if feature in flags)


def is_port_free(port: int) -> bool:
    """Whether this machine's loopback would let a server listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def report() -> dict[str, object]:
    """Everything `convzoo doctor` says, as plain data."""
    return {
        "convzoo": installed("convzoo"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": cores(),
        "cpu_features": cpu_features(),
        "parts": {part: {name: installed(name) for name in names} for part, names in PARTS.items()},
        "ports_free": {f"{what} {port}": is_port_free(port) for what, port in PORTS.items()},
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON document.")
def doctor(*, as_json: bool) -> None:
    """Says what is installed and what would work here."""
    found = report()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"convzoo {found['convzoo']}, Python {found['python']}, {found['system']}")
    features = ", ".join(cpu_features()) or "none that matter here"
    click.echo(f"{found['cores']} cores; processor features: {features}")
    for part, names in PARTS.items():
        versions = {name: installed(name) for name in names}
        missing = [name for name, has in versions.items() if has is None]
        if missing:
            remedy = f" (pip install 'convzoo[{part}]')" if part != "client" else ""
            click.echo(f"  {part:9} missing {', '.join(missing)}{remedy}")
        else:
            listed = ", ".join(f"{name} {has}" for name, has in versions.items())
            click.echo(f"  {part:9} ready: {listed}")
    for what, port in PORTS.items():
        state = (
            "free" if is_port_free(port) else "taken; choose another with --rest-port/--grpc-port"
        )
        click.echo(f"  port {port} ({what}) is {state}")
