"""Other servers for `benchmarks.serving`: how each is installed, started and asked.

Each has an environment of its own under build/peers and serves the same network on OpenVINO, in
the way that its own documentation recommends for speed where there is a choice.
"""

import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serving.wire import oip_json

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers"

# Reads an answer's body and headers.
Read = Callable[[bytes, Mapping[str, str]], Any]

COMPILED = """
import openvino as ov

def compiled():
    return ov.Core().compile_model("{ir}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to ask over HTTP.

    Attributes:
        path: Where.
        body: One image.
        headers: What goes with it.
        read: The probabilities of an answer.
    """

    path: str
    body: bytes
    headers: Mapping[str, str]
    read: Read


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that is ready to be started.

    Attributes:
        command: Starts it, in the folder where its files were written.
        ready: The path that answers with 200 when it takes requests.
        ways: What it understands over HTTP, by name.
        has_grpc: Whether it takes Open Inference's ModelInfer.
        environment: Variables beside those that are there.
    """

    command: list[str]
    ready: str
    ways: Mapping[str, Way]
    has_grpc: bool
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer's files go and where it listens, on 127.0.0.1.

    Attributes:
        folder: An empty folder.
        python: The interpreter of its environment.
        model: The network's name.
        sent: One image in the form of each protocol, by `benchmarks.serving.bodies`.
        ports: Free ones: HTTP, gRPC, and what else it needs.
    """

    folder: Path
    python: Path
    model: str
    sent: Mapping[str, Any]
    ports: tuple[int, int, int]

    def write(self, name: str, text: str) -> None:
        """Writes one of its files."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)


def _oip_read(body: bytes, headers: Mapping[str, str]) -> Any:
    length = headers.get("inference-header-content-length")
    return oip_json.decode_infer_reply(body, length).outputs["probabilities"]


def _oip_ways(place: Place, *names: str) -> dict[str, Way]:
    path, sent = f"/v2/models/{place.model}/infer", place.sent
    head = {"Inference-Header-Content-Length": sent["oip_header"]}
    ways = {
        "JSON": Way(path, sent["oip_json"], {"Content-Type": "application/json"}, _oip_read),
        "binary": Way(path, sent["oip_binary"], head, _oip_read),
    }
    return {name: ways[name] for name in names}


# --- MLServer -------------------------------------------------------------------------------------

MLSERVER = """
import numpy as np
from engine import compiled
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OpenVINO(MLModel):
    async def load(self):
        self.compiled = compiled()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        image = self.decode(payload.inputs[0], default_codec=NumpyCodec).astype(np.float32)
        answer = self.compiled({"image": image})
        output = NumpyCodec.encode_output("probabilities", answer["probabilities"])
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


def mlserver(place: Place) -> Peer:
    """MLServer without worker processes, which cost more than this network's arithmetic."""
    http, grpc, metrics = place.ports
    place.write("runtime.py", MLSERVER)
    place.write(
        "model-settings.json",
        json.dumps({"name": place.model, "implementation": "runtime.OpenVINO"}),
    )
    settings = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
        "logging_settings": None,
    }
    place.write("settings.json", json.dumps(settings))
    command = [str(place.python.parent / "mlserver"), "start", "."]
    return Peer(command, "/v2/health/ready", _oip_ways(place, "JSON"), has_grpc=True)


# --- BentoML --------------------------------------------------------------------------------------

BENTOML = """
import bentoml
import numpy as np
from engine import compiled


@bentoml.service(workers=1)
class Lenet:
    def __init__(self):
        self.compiled = compiled()

    @bentoml.api
    def predict(self, instances: np.ndarray) -> np.ndarray:
        return self.compiled({"image": instances.astype(np.float32)})["probabilities"]
"""


def bentoml(place: Place) -> Peer:
    """BentoML; it has no binary form of its own and no gRPC any more."""
    place.write("service.py", BENTOML)
    port = str(place.ports[0])
    command = [
        *(str(place.python.parent / "bentoml"), "serve", "service:Lenet"),
        *("--host", "127.0.0.1", "--port", port),
    ]
    json_way = Way(
        "/predict",
        place.sent["tfs_json"],
        {"Content-Type": "application/json"},
        lambda body, _: np.asarray(json.loads(body)),
    )
    quiet = {"BENTOML_DO_NOT_TRACK": "true"}
    return Peer(command, "/readyz", {"JSON": json_way}, has_grpc=False, environment=quiet)


# --- Triton ---------------------------------------------------------------------------------------

TRITON = """
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as backend

sys.path.append(str(Path(__file__).parents[3]))
from engine import compiled


class TritonPythonModel:
    def initialize(self, args):
        self.compiled = compiled()

    def execute(self, requests):
        images = [backend.get_input_tensor_by_name(each, "image").as_numpy() for each in requests]
        rows = self.compiled({"image": np.concatenate(images)})["probabilities"]
        ends = np.cumsum([len(each) for each in images])[:-1]
        return [
            backend.InferenceResponse([backend.Tensor("probabilities", np.ascontiguousarray(each))])
            for each in np.split(rows, ends)
        ]
"""

TRITON_CONFIG = """
backend: "python"
max_batch_size: 32
dynamic_batching {{}}
input [{{name: "image" data_type: TYPE_FP32 dims: {dims}}}]
output [{{name: "probabilities" data_type: TYPE_FP32 dims: [-1]}}]
instance_group [{{kind: KIND_CPU}}]
"""


def triton(place: Place) -> Peer:
    """Triton's core and Python backend out of nvidia-pytriton, with dynamic batching.

    Raises:
        RuntimeError: the system's libpython, which the backend loads, is not there.
    """
    (packages,) = (place.python.parents[1] / "lib").glob("python3.*/site-packages")
    version = packages.parent.name
    if ctypes.util.find_library(version) is None:
        raise RuntimeError(
            f"Triton's Python backend needs the system's lib{version}.so (package lib{version})."
        )
    core = packages / "pytriton" / "tritonserver"
    shutil.copytree(core / "backends", place.folder / "backends")
    stub = version.removeprefix("python") + "/triton_python_backend_stub"
    shutil.copy(core / "python_backend_stubs" / stub, place.folder / "backends" / "python")
    dims = list(place.sent["image"].shape[1:])
    place.write(f"models/{place.model}/1/model.py", TRITON)
    place.write(f"models/{place.model}/config.pbtxt", TRITON_CONFIG.format(dims=dims))
    http, grpc, _ = place.ports
    command = [
        *(str(core / "bin" / "tritonserver"), "--model-repository", "models"),
        *("--backend-directory", "backends", "--allow-metrics", "false"),
        *("--http-address", "127.0.0.1", "--http-port", str(http)),
        *("--grpc-address", "127.0.0.1", "--grpc-port", str(grpc)),
    ]
    environment = {
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
        "PYTHONPATH": str(packages),
    }
    return Peer(
        command,
        "/v2/health/ready",
        _oip_ways(place, "JSON", "binary"),
        has_grpc=True,
        environment=environment,
    )


PYTRITON = """
import signal
import threading

import numpy as np
from engine import compiled
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

network = compiled()


@batch
def infer(image):
    return [network({{"image": image}})["probabilities"]]


stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
config = TritonConfig(
    http_address="127.0.0.1",
    http_port={http},
    grpc_address="127.0.0.1",
    grpc_port={grpc},
    allow_metrics=False,
)
with Triton(config=config) as triton:
    triton.bind(
        model_name="{model}",
        infer_func=infer,
        inputs=[Tensor(name="image", dtype=np.float32, shape={shape})],
        outputs=[Tensor(name="probabilities", dtype=np.float32, shape=(-1,))],
        config=ModelConfig(max_batch_size=32),
    )
    triton.run()
    stop.wait()
"""


def pytriton(place: Place) -> Peer:
    """The same core behind PyTriton's own interface, where the function runs in the caller."""
    http, grpc, _ = place.ports
    shape = place.sent["image"].shape[1:]
    place.write(
        "server.py", PYTRITON.format(http=http, grpc=grpc, model=place.model, shape=tuple(shape))
    )
    return Peer(
        [str(place.python), "server.py"],
        f"/v2/models/{place.model}/ready",
        _oip_ways(place, "JSON", "binary"),
        has_grpc=True,
    )


# --- Ray Serve ------------------------------------------------------------------------------------

RAY = """
import signal
import threading

import grpc
import numpy as np
import ray
from engine import compiled
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

HTTP, GRPC, DESCRIPTORS = {http}, {grpc}, "{descriptors}"


def add_servicer(servicer, server):
    # Bytes go to the replica, which reads them: a message made here could not be pickled.
    method = grpc.unary_unary_rpc_method_handler(servicer.ModelInfer)
    name = "inference.GRPCInferenceService"
    handlers = grpc.method_handlers_generic_handler(name, {{"ModelInfer": method}})
    server.add_generic_rpc_handlers((handlers,))


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Network:
    def __init__(self):
        self.compiled = compiled()
        pool = DescriptorPool()
        with open(DESCRIPTORS, "rb") as file:
            for each in FileDescriptorSet.FromString(file.read()).file:
                pool.AddSerializedFile(each.SerializeToString())
        self.request, self.response = (
            GetMessageClass(pool.FindMessageTypeByName(f"inference.ModelInfer{{kind}}"))
            for kind in ("Request", "Response")
        )

    def predict(self, image):
        return self.compiled({{"image": image}})["probabilities"]

    async def __call__(self, request: Request):
        if request.method == "GET":
            return "ready"
        if request.headers.get("content-type") == "application/json":
            (tensor,) = (await request.json())["inputs"]
            image = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
            rows = self.predict(image)
            output = {{"name": "probabilities", "datatype": "FP32", "shape": list(rows.shape)}}
            return {{"model_name": "{model}", "outputs": [output | {{"data": rows.ravel().tolist()}}]}}
        image = np.frombuffer(await request.body(), np.float32).reshape({shape})
        return Response(self.predict(image).tobytes(), media_type="application/octet-stream")

    async def ModelInfer(self, body):
        request = self.request.FromString(body)
        shape = list(request.inputs[0].shape)
        rows = self.predict(np.frombuffer(request.raw_input_contents[0], np.float32).reshape(shape))
        output = {{"name": "probabilities", "datatype": "FP32", "shape": list(rows.shape)}}
        return self.response(
            model_name="{model}",
            model_version="1",
            outputs=[output],
            raw_output_contents=[rows.tobytes()],
        )


if __name__ == "__main__":
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ray.init(address="local", include_dashboard=False, num_cpus=2, _node_ip_address="127.0.0.1")
    serve.start(
        http_options={{"host": "127.0.0.1", "port": HTTP}},
        grpc_options={{
            "port": GRPC,
            "grpc_servicer_functions": ["app.add_servicer"],
            "enable_reflection": False,
        }},
        logging_config={{"enable_access_log": False}},
    )
    import app  # by its name, so that the replica finds the class as the proxy does

    serve.run(app.Network.bind())
    stop.wait()
    serve.shutdown()
    ray.shutdown()
"""


def ray(place: Place) -> Peer:
    """Ray Serve with one replica; what it takes over HTTP is up to the application."""
    http, grpc, _ = place.ports
    shape = place.sent["image"].shape
    place.write(
        "app.py",
        RAY.format(
            http=http,
            grpc=grpc,
            descriptors=ROOT / "serving" / "wire" / "descriptors.binpb",
            model=place.model,
            shape=(-1, *shape[1:]),
        ),
    )
    binary = Way(
        "/",
        place.sent["image"].tobytes(),
        {"Content-Type": "application/octet-stream"},
        lambda body, _: np.frombuffer(body, np.float32).reshape(len(place.sent["image"]), -1),
    )
    (json_way,) = _oip_ways(place, "JSON").values()
    json_way = Way("/", json_way.body, json_way.headers, json_way.read)
    return Peer(
        [str(place.python), "app.py"],
        "/",
        {"JSON": json_way, "binary": binary},
        has_grpc=True,
        environment={
            "PYTHONPATH": str(place.folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        },
    )


# --- All of them ----------------------------------------------------------------------------------

SERVERS: Mapping[str, Callable[[Place], Peer]] = {
    "triton": triton,
    "pytriton": pytriton,
    "mlserver": mlserver,
    "bentoml": bentoml,
    "ray": ray,
}

# What pip is told; Triton's Python dependencies stay away, only its core is used.
PACKAGES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "triton": (("numpy<2", "openvino"), ("--no-deps", "nvidia-pytriton==0.7.0")),
    "pytriton": (("nvidia-pytriton==0.7.0", "openvino"),),
    "mlserver": (("mlserver", "openvino"),),
    "bentoml": (("bentoml", "openvino"),),
    "ray": (("ray[serve]", "openvino"),),
}


def installed(name: str) -> Path:
    """The interpreter of a peer's environment, which is made when it is not there.

    Raises:
        RuntimeError: there is no Python to make it with.
    """
    place = PEERS / name
    python = place / "bin" / "python"
    if not (place / ".complete").exists():
        # Triton loads the libpython of the system, so its packages are those of that Python; the
        # core in PyTriton fails to start under some others.
        system = os.environ.get("SYSTEM_PYTHON", "/usr/bin/python3")
        maker = system if "triton" in name else sys.executable
        if shutil.which(maker) is None:
            raise RuntimeError(f"No Python at {maker}; SYSTEM_PYTHON says where the system's is.")
        subprocess.run([maker, "-m", "venv", "--clear", str(place)], check=True)
        for packages in PACKAGES[name]:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        (place / ".complete").touch()
    return python


def prepared(
    name: str, folder: Path, ir: Path, model: str, sent: Mapping[str, Any], ports: tuple[int, ...]
) -> Peer:
    """Writes a peer's files and says how it is started and asked."""
    http, grpc, other = ports
    place = Place(folder, installed(name), model, sent, (http, grpc, other))
    place.write("engine.py", COMPILED.format(ir=ir.resolve()))
    return SERVERS[name](place)
