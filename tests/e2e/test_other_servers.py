"""The client against servers that are not ours: MLServer, and Triton's core.

`make foreign` installs both, each in an environment of its own. TensorFlow Serving has no package
that pip installs; its protocols are spoken with tensorflow-serving-api as the witness elsewhere.
"""

import asyncio
import contextlib
import ctypes.util
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from serving.client import AsyncClient, Client
from serving.client.errors import (
    ClientError,
    DeadlineError,
    InvalidInputError,
    ModelNotFoundError,
    UnsupportedError,
)

ROOT = Path(__file__).parents[2]
WITNESSES = ROOT / "tests" / "witnesses"
MLSERVER, TRITON = ROOT / "build" / "mlserver", ROOT / "build" / "triton"
X = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
SUMS = [[6.0], [22.0]]

pytestmark = pytest.mark.e2e


def free_ports(number):
    with contextlib.ExitStack() as open_ones:
        sockets = [
            open_ones.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running(command, place, environment, http, grpc):
    log = place / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=place,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        for url in (f"http://127.0.0.1:{http}", f"grpc://127.0.0.1:{grpc}"):
            try:
                with Client(url) as client:
                    client.wait_until_ready("sums", timeout_s=40)
            except ClientError as error:
                raise AssertionError(f"no server: {error}\n{log.read_text()[-3000:]}") from error
        yield SimpleNamespace(http=f"http://127.0.0.1:{http}", grpc=f"grpc://127.0.0.1:{grpc}")
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def mlserver(place):
    if not (MLSERVER / ".complete").exists():
        pytest.skip("no build/mlserver; `make foreign` installs it")
    http, grpc, metrics = free_ports(3)
    (place / "sums").mkdir()
    shutil.copy(WITNESSES / "mlserver_runtime.py", place / "sums" / "mlserver_runtime.py")
    (place / "sums" / "model-settings.json").write_text(
        json.dumps(
            {
                "name": "sums",
                "implementation": "mlserver_runtime.Sums",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2, 2]}],
                "outputs": [{"name": "total", "datatype": "FP32", "shape": [-1, 1]}],
            }
        )
    )
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
    }
    (place / "settings.json").write_text(json.dumps(settings))
    with running([MLSERVER / "bin" / "mlserver", "start", "."], place, {}, http, grpc) as server:
        yield server


@contextlib.contextmanager
def triton(place):
    if not (TRITON / ".complete").exists():
        pytest.skip("no build/triton; `make foreign` installs it")
    (packages,) = TRITON.glob("lib/python3.*/site-packages")
    python = packages.parent.name
    if ctypes.util.find_library(python) is None:
        pytest.skip(f"Triton's Python backend needs the system's lib{python}.so")
    core = packages / "pytriton" / "tritonserver"
    shutil.copytree(core / "backends", place / "backends")
    version = python.removeprefix("python")
    stub = core / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, place / "backends" / "python")
    for model in ("sums", "slow"):
        (place / "models" / model / "1").mkdir(parents=True)
        shutil.copy(WITNESSES / "triton_model.py", place / "models" / model / "1" / "model.py")
        (place / "models" / model / "config.pbtxt").write_text(
            'backend: "python"\nmax_batch_size: 16\n'
            'input [{name: "x" data_type: TYPE_FP32 dims: [2, 2]}]\n'
            'output [{name: "total" data_type: TYPE_FP32 dims: [1]}]\n'
            "instance_group [{kind: KIND_CPU}]\n"
        )
    http, grpc = free_ports(2)
    command = [
        *(core / "bin" / "tritonserver", "--model-repository", "models"),
        *("--model-control-mode", "explicit", "--load-model", "sums"),
        *("--backend-directory", "backends", "--allow-metrics", "false"),
        *("--http-address", "127.0.0.1", "--http-port", http),
        *("--grpc-address", "127.0.0.1", "--grpc-port", grpc),
    ]
    environment = {
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PATH": f"{TRITON / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(packages),
    }
    with running(command, place, environment, http, grpc) as server:
        yield server


SERVERS = {"mlserver": mlserver, "triton": triton}


@pytest.fixture(scope="module", params=SERVERS)
def other(request, tmp_path_factory):
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as server:
        server.name = request.param
        yield server


@pytest.fixture(params=["http", "grpc"])
def url(request, other):
    return getattr(other, request.param)


@pytest.fixture(params=["auto", "oip"])
def client(request, url):
    with Client(url, protocol=request.param, timeout_s=10) as made:
        yield made


def test_arrays_go_in_and_out(client):
    for _ in range(2):  # the second call goes the short way
        found = client.predict("sums", X)
        assert found.array.tolist() == SUMS
        assert found["total"].dtype == np.float32
        assert found.model == "sums"
        assert found.request_id
    assert client.predict("sums", {"x": X.tolist()}, outputs=["total"]).array.tolist() == SUMS
    many = client.predict_many("sums", list(X) * 5, batch_size=3)
    assert [each.unwrap().array.tolist() for each in many] == SUMS * 5


def test_what_a_model_takes_is_known_before_anything_is_sent(client):
    metadata = client.metadata("sums")
    assert metadata.signatures["serving_default"].inputs["x"].shape == (None, 2, 2)
    with pytest.raises(InvalidInputError, match="Add the batch axis") as refused:
        client.predict("sums", X[0])
    assert refused.value.field == "x"
    with pytest.raises(UnsupportedError, match="takes tensors, not images"):
        client.classify("sums", b"...")


def test_a_model_that_is_not_there_is_told_with_those_that_are(client):
    asking = (
        lambda: client.predict("huge", X),
        lambda: client.metadata("huge"),
        lambda: client.status("huge"),
        lambda: client.wait_until_ready("huge", timeout_s=5),
    )
    for ask in asking:
        with pytest.raises(ModelNotFoundError) as missing:
            ask()
        assert "sums" in missing.value.known
        assert "sums" in str(missing.value)
    with pytest.raises(ModelNotFoundError):
        client.predict("sums", X, version=7)


def test_models_are_listed_unloaded_and_loaded(client):
    assert "sums" in client.models()
    assert client.status("sums").is_ready
    client.unload("sums")
    assert not client.status("sums").is_ready
    with pytest.raises(ClientError):
        client.predict("sums", X, timeout_s=2)
    client.load("sums")
    client.wait_until_ready("sums", timeout_s=10)
    assert client.status("sums").is_ready
    assert client.predict("sums", X).array.tolist() == SUMS


def test_a_model_that_is_loading_is_waited_for(other, url):
    if other.name != "triton":
        pytest.skip("only Triton's models here take their time")
    with Client(url) as client, Client(other.grpc) as loading:
        with pytest.raises(DeadlineError, match="waiting for 'slow'"):
            client.wait_until_ready("slow", timeout_s=0.3)
        thread = threading.Thread(target=loading.load, args=("slow",))
        thread.start()
        time.sleep(0.1)
        client.wait_until_ready("slow", timeout_s=10)
        assert client.predict("slow", X).array.tolist() == SUMS
        thread.join()
        client.unload("slow")


async def test_tasks_ask_too(url):
    async with AsyncClient(url) as client:
        found = await asyncio.gather(*(client.predict("sums", X) for _ in range(20)))
    assert all(each.array.tolist() == SUMS for each in found)


def test_a_model_that_cannot_be_loaded_says_why(other, url):
    if other.name != "triton":
        pytest.skip("MLServer says only that there is no such model")
    with Client(url) as client, pytest.raises(ClientError, match="failed to load") as refused:
        client.load("nowhere")
    assert refused.value.model == "nowhere"
