"""Every limit of the table holds, is named in its message, and leaves the server as it was.

The requests go through the real listeners, codecs and core, on a tiny network.
"""

import asyncio
import gzip
import io
import json
from dataclasses import fields

import grpc
import httpx2
import numpy as np
import pytest
from PIL import Image

from serving.app import bind
from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.sources import BasePath
from serving.errors import ConfigError
from serving.limits import LIMITS, NAMES, Limits
from serving.listeners.grpc import GrpcListener
from serving.listeners.http1 import HttpListener
from serving.messages import PredictCall, Target, VersionOptions
from serving.model_config import read_config
from serving.protocols.grpc import build_grpc, build_grpc_streams
from serving.protocols.http import build_http
from serving.wire import oip_proto, tfs_proto
from serving.wire.pool import message
from tests.serving.published import publish_tiny
from tests.zoo.test_preprocess import encoded

pytestmark = pytest.mark.openvino

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
PNG = encoded(np.array([[0, 255], [100, 0]], np.uint8))
PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
V1, V2, API = "/v1/models/tiny:predict", "/v2/models/tiny/infer", "/api/models/tiny/classify"


class Servers:
    """Both listeners on one service, in this event loop."""

    def __init__(self, service):
        self.service = service
        self.bound = bind("127.0.0.1", 0, "--rest-port")
        self.http = HttpListener(
            build_http(service),
            self.bound,
            max_body_bytes=LIMITS.request_bytes,
            max_connections=LIMITS.connections,
        )
        self.grpc = GrpcListener(
            build_grpc(service),
            [bind("127.0.0.1", 0, "--grpc-port")],
            max_message_bytes=LIMITS.request_bytes,
            streams=build_grpc_streams(service),
            max_in_flight=LIMITS.stream_in_flight,
            max_streams=LIMITS.streams,
        )

    async def start(self):
        await self.http.start()
        await self.grpc.start()
        self.url = f"http://127.0.0.1:{self.bound.getsockname()[1]}"
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{self.grpc.sockets[0].getsockname()[1]}"
        )
        self.client = httpx2.AsyncClient(base_url=self.url, timeout=20)

    async def post(self, path, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.client.post(path, content=content, headers=headers)
        return answer.status_code, answer.json().get("error", "")

    async def call(self, path, request):
        body = request if isinstance(request, bytes) else request.SerializeToString()
        try:
            await self.channel.unary_unary(path)(body, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    async def still_answers(self):
        status, _ = await self.post(V1, {"instances": IMAGE.tolist()})
        code, _ = await self.call(PREDICT, predict_request())
        assert (status, code) == (200, "OK")

    async def stop(self):
        await self.client.aclose()
        await self.channel.close()
        await self.http.stop(1)
        await self.grpc.stop(1)


@pytest.fixture
async def started(tmp_path):
    """Starts servers; limits are set before."""
    publish_tiny(tmp_path)

    def load(settings, version, path):
        options = settings.options_of(version)
        return Servable(settings.name, version, path, options=options, decoders=None)

    repository = Repository(BasePath(tmp_path, options=VersionOptions(is_tuned=False)), load)
    await repository.refresh()
    service = Service(repository)
    service.open()
    begun = []

    async def start():
        servers = Servers(service)
        await servers.start()
        begun.append(servers)
        return servers

    yield start
    for servers in begun:
        await servers.stop()
    await repository.close()
    servers.bound.close()


def predict_request(image=IMAGE):
    return tfs_proto.encode_predict_request(PredictCall(Target("tiny"), {"image": image}))


def tensor_request(shape, *, floats=(), content=b""):
    request = message("tensorflow.serving.PredictRequest")()
    request.model_spec.name = "tiny"
    tensor = request.inputs["image"]
    tensor.dtype = 1
    tensor.float_val.extend(floats)
    tensor.tensor_content = content
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return request


def infer_request(shape, raw=b""):
    request = message("inference.ModelInferRequest")(model_name="tiny")
    request.inputs.add(name="image", datatype="FP32", shape=shape)
    request.raw_input_contents.append(raw)
    return request


def infer_document(shape, data=()):
    tensor = {"name": "image", "datatype": "FP32", "shape": shape, "data": list(data)}
    return {"inputs": [tensor]}


def nested(depth):
    return b'{"instances": ' + b"[" * depth + b"1.0" + b"]" * depth + b"}"


def animation(frames):
    pictures = [Image.new("RGB", (4, 4), (40 * index, 0, 0)) for index in range(frames)]
    file = io.BytesIO()
    pictures[0].save(file, "webp", save_all=True, append_images=pictures[1:], lossless=True)
    return file.getvalue()


# limit -> (its value, requests over REST that go beyond, requests over gRPC, words of the message)
BEYOND = {
    "request_bytes": (
        2000,
        [(V1, {"instances": [[0.5] * 1000]}), (V2, b" " * 2001), (API, b"x" * 2001)],
        [(PREDICT, b"x" * 2001)],
        "larger than",
    ),
    "json_depth": (
        8,
        [
            (V1, nested(9)),
            (V2, nested(9)),
            (API, b'{"images": ' + nested(9) + b"}"),
            ("/v1/models/tiny:classify", nested(9)),
        ],
        [],
        "levels; at most 8",
    ),
    "json_lists": (
        6,
        [
            (V1, b'{"instances": [[], [], [], [], []]}'),
            (API, b'{"images": [{}, {}, {}, {}, {}]}'),
            (V2, b'{"inputs": [[], [], [], [], []]}'),
        ],
        [],
        "7 arrays and objects; at most 6",
    ),
    "json_members": (
        10,
        [(path, b'{"a:b": 0, ' + b'"": 0, ' * 9 + b'"instances": []}') for path in (V1, V2, API)],
        [],
        "11 names with a value; at most 10",
    ),
    "elements": (
        1000,
        [(V2, infer_document([1001]))],
        [
            (PREDICT, tensor_request([7, 11, 13])),
            (PREDICT, tensor_request([2**31, 2**31])),
            (INFER, infer_request([1001])),
        ],
        "at most 1,000 are taken",
    ),
    "repeated_elements": (
        100,
        [],
        [(PREDICT, tensor_request([101])), (PREDICT, tensor_request([101], floats=[1.0, 2.0]))],
        "at most 100",
    ),
    "dimensions": (
        4,
        [(V2, infer_document([1] * 5, [1.0]))],
        [
            (PREDICT, tensor_request([1] * 5, floats=[1.0])),
            (INFER, infer_request([1] * 5, b"\0" * 4)),
        ],
        "5 dimensions; at most 4",
    ),
    "name_bytes": (
        20,
        [
            (f"/v1/models/{'m' * 21}:predict", {"instances": [1.0]}),
            (f"/v1/models/tiny/labels/{'l' * 21}:predict", {"instances": [1.0]}),
            (f"/v2/models/{'m' * 21}/infer", infer_document([1], [1.0])),
            (f"/api/models/{'m' * 21}/classify", PNG),
        ],
        [
            (
                PREDICT,
                tfs_proto.encode_predict_request(PredictCall(Target("m" * 21), {"image": IMAGE})),
            )
        ],
        "21 characters; at most 20",
    ),
    "images": (2, [(API, {"images": [{"b64": "aGk="}] * 3})], [], "3 images; at most 2"),
    "image_bytes": (len(PNG) - 1, [(API, PNG)], [], f"{len(PNG)} bytes; at most {len(PNG) - 1}"),
    "image_pixels": (3, [(API, PNG)], [], "2 x 2 = 4 pixels; at most 3"),
    "frames": (1, [(API, animation(2))], [], "2 frames; at most 1 is"),
}
# These are not a matter of one request, and have tests of their own: below, and of the worker.
TOGETHER = {
    *("inflated_bytes", "stream_in_flight", "streams", "connections", "active_requests", "run_s"),
}


def test_every_limit_of_the_table_has_its_test():
    assert set(NAMES) == set(BEYOND) | TOGETHER
    assert [each.name for each in fields(Limits)] == list(NAMES)


@pytest.mark.parametrize("name", BEYOND)
async def test_what_goes_beyond_a_limit_is_refused_with_its_name(started, monkeypatch, name):
    limit, over_rest, over_grpc, words = BEYOND[name]
    monkeypatch.setattr(LIMITS, name, limit)
    servers = await started()
    # What images may cost was fixed when the version was loaded, before this limit.
    if name in ("image_bytes", "image_pixels", "frames"):
        servable = servers.service._repository.find(Target("tiny"))
        field = {"image_bytes": "max_bytes", "image_pixels": "max_pixels", "frames": "max_frames"}
        servable._image_limits = servable._image_limits.model_copy(update={field[name]: limit})
    for path, body in over_rest:
        is_json = isinstance(body, dict) or body.startswith(b"{")
        headers = {"content-type": "application/json"} if is_json else {}
        status, text = await servers.post(path, body, **headers)
        expected = 413 if name == "request_bytes" else 400
        assert (status, words in text) == (expected, True), (path, status, text)
    for path, body in over_grpc:
        code, text = await servers.call(path, body)
        if name == "request_bytes":
            assert code == "RESOURCE_EXHAUSTED"
        else:
            assert (code, words in text) == ("INVALID_ARGUMENT", True), (path, code, text)
    await servers.still_answers()


async def test_a_body_may_not_unfold_to_more_than_its_limit(started, monkeypatch):
    monkeypatch.setattr(LIMITS, "inflated_bytes", 1000)
    servers = await started()
    packed = gzip.compress(b" " * 100_000)
    status, text = await servers.post(V2, packed, **{"content-encoding": "gzip"})
    assert (status, "unfolds to more than 1,000 bytes" in text) == (400, True)
    # TensorFlow Serving takes such a body for an empty one.
    status, text = await servers.post(V1, packed, **{"content-encoding": "gzip"})
    assert (status, "document is empty" in text) == (400, True)
    await servers.still_answers()


async def test_more_requests_at_once_than_the_limit_are_shed(started, monkeypatch):
    monkeypatch.setattr(LIMITS, "active_requests", 2)
    servers = await started()
    servers.service._active = 3
    answer = await servers.client.post(V1, json={"instances": IMAGE.tolist()})
    assert (answer.status_code, "at most 2 may" in answer.json()["error"]) == (429, True)
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-convzoo-outcome"] == "shed"
    code, text = await servers.call(PREDICT, predict_request())
    assert (code, "at most 2 may" in text) == ("RESOURCE_EXHAUSTED", True)
    servers.service._active = 0
    await servers.still_answers()


async def test_more_connections_than_the_limit_are_told_to_return(started, monkeypatch):
    monkeypatch.setattr(LIMITS, "connections", 2)
    servers = await started()
    async with httpx2.AsyncClient(base_url=servers.url) as one:
        async with httpx2.AsyncClient(base_url=servers.url) as two:
            assert (await one.get("/livez")).status_code == 200
            assert (await two.get("/livez")).status_code == 200
            status, text = await servers.post(V1, {"instances": IMAGE.tolist()})
            assert (status, "More than 2 connections" in text) == (503, True)
        await asyncio.sleep(0.05)
        await servers.still_answers()


class Slow:
    """Counts how many of its calls run at the same time."""

    def __init__(self, service):
        self.active = self.most = 0
        self.predict_really = service.predict
        service.predict = self.predict

    async def predict(self, call):
        self.active += 1
        self.most = max(self.most, self.active)
        await asyncio.sleep(0.02)
        self.active -= 1
        return await self.predict_really(call)


async def test_a_connection_has_no_more_calls_open_than_the_limit(started, monkeypatch):
    monkeypatch.setattr(LIMITS, "streams", 3)
    servers = await started()
    slow = Slow(servers.service)
    answers = await asyncio.gather(*(servers.call(PREDICT, predict_request()) for _ in range(12)))
    # A client that does not wait for room is told to try again, as HTTP/2 has it.
    assert {code for code, _ in answers} <= {"OK", "UNAVAILABLE"}
    assert [code for code, _ in answers].count("OK") >= 3
    assert slow.most == 3
    await servers.still_answers()


async def test_a_stream_has_no_more_messages_in_flight_than_the_limit(started, monkeypatch):
    monkeypatch.setattr(LIMITS, "stream_in_flight", 3)
    servers = await started()
    slow = Slow(servers.service)
    body = oip_proto.encode_infer_request(PredictCall(Target("tiny"), {"image": IMAGE}))
    stream = servers.channel.stream_stream(STREAM)(iter([body] * 12), timeout=20)
    assert len([each async for each in stream]) == 12
    assert slow.most == 3


def test_limits_are_set_by_the_configuration_file(tmp_path):
    (tmp_path / "a.toml").write_text("[limits]\nimages = 7\njson_depth = 9\n")
    limits = Limits()
    limits.change(**read_config(tmp_path / "a.toml").limits)
    assert (limits.images, limits.json_depth, limits.frames) == (7, 9, 1)
    with pytest.raises(ValueError, match="limit images is 0"):
        limits.change(images=0)
    (tmp_path / "a.toml").write_text("[limits]\nimage = 7\n")
    with pytest.raises(ConfigError, match="no limit 'image'"):
        read_config(tmp_path / "a.toml")
