"""The Open Inference Protocol over REST and gRPC, on a small fake service."""

import json

import numpy as np
import pytest

from serving.messages import PredictCall, Target
from serving.protocols.grpc import build_grpc
from serving.protocols.http import build_http
from serving.transport import GrpcRequest, HttpRequest
from serving.wire import oip_proto
from serving.wire.codes import CODE_NAMES
from serving.wire.pool import message
from tests.serving.protocols.fakes import FakeService

SERVICE = "/inference.GRPCInferenceService"


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def ask(service):
    """Sends an HTTP request; returns status and parsed body."""
    handler = build_http(service)

    async def send(method, path, document=None, **fields):
        body = b"" if document is None else json.dumps(document).encode()
        response = await handler(HttpRequest(method, path, body=body, **fields))
        return response.status, json.loads(response.body)

    return send


@pytest.fixture
def call(service):
    """Calls a gRPC method; returns the code's name, and the answer or the message."""
    routes = build_grpc(service)

    async def send(name, body=b"", answer="", **fields):
        body = body if isinstance(body, bytes) else body.SerializeToString()
        response = await routes[f"{SERVICE}/{name}"](GrpcRequest(body, **fields))
        if response.code:
            return CODE_NAMES[response.code], response.message
        kind = message(f"inference.{answer or name + 'Response'}")
        return "OK", kind.FromString(response.body)

    return send


def asked(kind, /, **fields):
    return message(f"inference.{kind}Request")(**fields)


def infer(*values, model="m", **fields):
    inputs = {"x": np.array(values, np.float32)}
    return oip_proto.encode_infer_request(PredictCall(Target(model), inputs, **fields))


async def test_the_server_and_its_models_are_told_over_grpc(call, service):
    assert (await call("ServerLive"))[1].live
    assert (await call("ServerReady"))[1].ready
    _, found = await call("ServerMetadata")
    assert (found.name, "binary_tensor_data" in found.extensions) == ("convzoo", True)
    assert (await call("ModelReady", asked("ModelReady", name="m")))[1].ready
    _, found = await call("ModelMetadata", asked("ModelMetadata", name="m"))
    assert (list(found.versions), found.inputs[0].datatype) == (["1", "2"], "FP32")
    _, found = await call("ModelMetadata", asked("ModelMetadata", name="m", version="1"))
    assert list(found.versions) == ["1"]
    _, found = await call("ModelConfig", asked("ModelConfig", name="m"))
    assert (found.config.name, found.config.input[0].name) == ("m", "x")
    _, found = await call("RepositoryIndex")
    assert [(each.version, each.state) for each in found.models] == [("2", "READY"), ("1", "READY")]
    service.ready = False
    assert not (await call("ServerReady"))[1].ready
    assert not (await call("ModelReady", asked("ModelReady", name="m")))[1].ready


async def test_a_model_is_asked_over_grpc(call):
    code, found = await call("ModelInfer", infer(1, 2, request_id="r"))
    assert (code, found.id, found.model_version) == ("OK", "r", "2")
    assert found.raw_output_contents[0] == np.array([2, 4], "<f4").tobytes()


@pytest.mark.parametrize(
    ("name", "body", "code", "words"),
    [
        ("ModelInfer", b"\xff", "INVALID_ARGUMENT", "no ModelInferRequest"),
        ("ModelInfer", infer(1, model="n"), "NOT_FOUND", "No model 'n'; this server has m"),
        ("ModelInfer", infer(1, signature="q"), "INVALID_ARGUMENT", "No signature 'q'"),
        ("ModelReady", asked("ModelReady", name="n"), "NOT_FOUND", "'n'"),
        ("ModelReady", asked("ModelReady", name="m", version="9"), "NOT_FOUND", "version 9"),
        ("ModelConfig", asked("ModelConfig", name="n"), "NOT_FOUND", "'n'"),
        ("ModelMetadata", b"", "INVALID_ARGUMENT", "names no model"),
        (
            "ModelMetadata",
            asked("ModelMetadata", name="m", version="v1"),
            "INVALID_ARGUMENT",
            "'v1' is no version number",
        ),
    ],
)
async def test_errors_have_tritons_codes(call, name, body, code, words):
    found, text = await call(name, body)
    assert found == code
    assert words in text


async def test_a_configuration_is_told_over_rest(ask):
    status, found = await ask("GET", "/v2/models/m/config")
    assert (status, found["name"], found["input"][0]["data_type"]) == (200, "m", "TYPE_FP32")
    assert (await ask("GET", "/v2/models/m/versions/1/config"))[0] == 200
    assert (await ask("GET", "/v2/models/n/config"))[0] == 404
    assert (await ask("POST", "/v2/models/m/config"))[0] == 405


async def test_a_timeout_parameter_becomes_a_deadline(ask, call, service):
    document = {
        "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}],
        "parameters": {"timeout": 500_000, "priority": 1},
    }
    await ask("POST", "/v2/models/m/infer", document, received=10.0)
    assert (service.last.deadline, service.last.priority) == (10.5, 1)
    request = message("inference.ModelInferRequest").FromString(infer(1))
    request.parameters["timeout"].int64_param = 500_000
    await call("ModelInfer", request, received=10.0, deadline=12.0)
    assert service.last.deadline == 10.5


async def test_names_that_are_percent_encoded_are_read(ask):
    status, found = await ask("GET", "/v2/models/a%2Fb%3Ac")
    assert (status, "'a/b:c'" in found["error"]) == (404, True)


@pytest.mark.parametrize(
    "path",
    [
        "systemsharedmemory/status",
        "systemsharedmemory/region/r/register",
        "cudasharedmemory/unregister",
    ],
)
async def test_shared_memory_is_refused_over_rest(ask, path):
    for method in ("GET", "POST"):
        status, found = await ask(method, f"/v2/{path}")
        assert (status, "Shared memory is not supported" in found["error"]) == (501, True)


@pytest.mark.parametrize(
    "name", ["SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "CudaSharedMemoryUnregister"]
)
async def test_shared_memory_is_refused_over_grpc(call, name):
    code, text = await call(name, b"\x0a\x01r")
    assert (code, "Shared memory is not supported" in text) == ("UNIMPLEMENTED", True)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
async def test_a_tensor_in_shared_memory_is_refused_by_its_name(ask, call, side):
    x = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    document = {"inputs": [x], "outputs": [{"name": "y"}]}
    document[side][0]["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 4}
    request = message("inference.ModelInferRequest").FromString(infer(1, outputs=("y",)))
    getattr(request, side)[0].parameters["shared_memory_region"].string_param = "r"
    words = f"Tensor '{document[side][0]['name']}' has a shared_memory_region"
    status, found = await ask("POST", "/v2/models/m/infer", document)
    assert (status, words in found["error"]) == (501, True)
    code, text = await call("ModelInfer", request)
    assert (code, words in text) == ("UNIMPLEMENTED", True)
