"""Whatever arrives gets the protocol's own error, and the next request its answer.

The requests go through the real codecs and core, on a tiny network.
"""

import base64
import gzip
import io
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.sources import BasePath
from serving.messages import ClassifyImagesCall, PredictCall, Target, VersionOptions
from serving.protocols.grpc import build_grpc, build_grpc_streams
from serving.protocols.http import build_http
from serving.transport import GrpcRequest, HttpRequest
from serving.wire import oip_proto, tfs_proto
from serving.wire.codes import CODE_NAMES
from serving.wire.pool import message
from tests.serving.published import publish_tiny
from tests.zoo.test_preprocess import encoded

pytestmark = pytest.mark.openvino

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
PNG = encoded(np.array([[0, 255], [100, 0]], np.uint8))
NOISE = encoded(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
V1, V2, API = "/v1/models/tiny:predict", "/v2/models/tiny/infer", "/api/models/tiny/classify"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"

CALL = PredictCall(Target("tiny"), {"image": IMAGE})
GOOD = {
    PREDICT: tfs_proto.encode_predict_request(CALL),
    INFER: oip_proto.encode_infer_request(CALL),
}


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    place = tmp_path_factory.mktemp("hostile")
    publish_tiny(place)
    return place


class Front:
    """All handlers on one service."""

    def __init__(self, service):
        self.http = build_http(service)
        self.routes = build_grpc(service) | build_grpc_streams(service)

    async def post(self, path, body, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self.http(HttpRequest("POST", path, headers=names, body=content))
        assert dict(response.headers)["content-type"] == "application/json"
        return response.status, json.loads(response.body).get("error", "")

    async def call(self, path, request):
        body = request if isinstance(request, bytes) else request.SerializeToString()
        response = await self.routes[path](GrpcRequest(body))
        return CODE_NAMES[response.code], response.message

    async def still_answers(self):
        assert (await self.post(V1, {"instances": IMAGE.tolist()}))[0] == 200
        for path, body in GOOD.items():
            assert (await self.call(path, body))[0] == "OK"


@pytest.fixture
async def front(base_path):
    def load(settings_, version, path):
        options = settings_.options_of(version)
        return Servable(settings_.name, version, path, options=options, decoders=None)

    repository = Repository(BasePath(base_path, options=VersionOptions(is_tuned=False)), load)
    await repository.refresh()
    service = Service(repository)
    service.open()
    yield Front(service)
    await repository.close()


def infer(**fields):
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 2, 2, 1], "data": [0.0] * 4}
    return {"inputs": [tensor | fields]}


def bomb(width, height):
    """A PNG whose header promises more than anybody wants to hold."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "png")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", width, height)
    import zlib

    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


OVER_REST = [
    (V1, b"", 400, "The document is empty"),
    (V1, b"\xff\xfe\x00", 400, "JSON Parse error"),
    (V1, b'{"instances": [1', 400, "JSON Parse error"),
    (V1, b"[" * 100_000, 400, "nested too deep"),
    (V1, b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "nested too deep"),
    (V1, b'{"a":' * 3000, 400, "nested too deep"),
    (V2, b'{"inputs":' * 3000, 400, "nested too deep"),
    (API, b"[" * 100_000, 400, ""),
    (V1, {"instances": [[[[1.0], [2.0]], [[3.0]]]]}, 400, "ragged or too deep"),
    (V1, {"instances": [[[[1.0], [2.0]], 3.0]]}, 400, "ragged or too deep"),
    (V1, {"instances": [[["x"]]]}, 400, "not of expected type: float"),
    (V1, {"instances": [None]}, 400, "Type: Null"),
    (V1, {"instances": [{"b64": "!"}]}, 400, "not of expected type: float"),
    (V1, {"inputs": {"picture": [1.0]}}, 400, "Missing named input: image"),
    (V1, b'{"instances": [[[[1e999]]]]}', 400, "Number too big"),
    (V1, {"instances": []}, 400, "No values in 'instances'"),
    (V1, {"instances": [1.0], "inputs": [1.0]}, 400, "only 'instances' or 'inputs'"),
    (V1, {"signature_name": 7, "instances": [1.0]}, 400, "is not a string"),
    (V2, {"inputs": "image"}, 400, ""),
    (V2, {"inputs": []}, 400, ""),
    (V2, infer(shape=[2**31, 2**31]), 400, "at most 67,108,864 are taken"),
    (V2, infer(shape=[-1, 2, 2, 1]), 400, "whole numbers from 0"),
    (V2, infer(shape=[True, 2, 2, 1]), 400, "whole numbers from 0"),
    (V2, infer(shape=[1] * 1000), 400, "1000 dimensions"),
    (V2, infer(shape=[2**31] * 3), 400, "are taken"),
    (V2, infer(shape=None), 400, "whole numbers from 0"),
    (V2, infer(data=[0.0] * 5), 400, "has 4 values"),
    (V2, infer(datatype="FP31"), 400, "FP31"),
    (V2, infer(datatype="INT64", data=[0] * 4), 400, "takes float32"),
    (V2, infer(name="picture"), 400, "picture"),
    (V2, infer(parameters={"binary_data_size": 4}), 400, ""),
    (V2, infer(parameters={"binary_data_size": -4}), 400, ""),
    (V2, infer(parameters={"binary_data_size": 2**62}), 400, ""),
    (V2, infer(parameters="x"), 400, ""),
    (API, b"", 400, "empty"),
    (API, b"GIF89a" + b"\0" * 50, 400, "no JPEG, PNG, WEBP or BMP"),
    (API, NOISE[: len(NOISE) // 2], 400, "damaged"),
    (API, bomb(60_000, 60_000), 400, "3600000000 pixels"),
    (API, bomb(2**31 - 1, 2**31 - 1), 400, "Image 0"),
    ("/v1/models/..%2f..%2fetc:predict", {"instances": [1.0]}, 404, "../../etc"),
    ("/v1/models/..:predict", {"instances": [1.0]}, 404, "No model '..'"),
    ("/v2/models/../infer", infer(), 404, ""),
    ("/v2/models/..%2ftiny/infer", infer(), 404, "../tiny"),
    ("/v2/models/%00/infer", infer(), 404, ""),
    ("/v2/repository/models/..%2ftiny/load", {}, 501, ""),
    ("/api/models/..%2ftiny/classify", PNG, 404, "../tiny"),
    ("/v1/models/tiny/versions/99999999999999999999:predict", {"instances": []}, 400, ""),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), OVER_REST, ids=range(len(OVER_REST)))
async def test_over_rest_it_is_told_what_is_wrong(front, path, body, status, words):
    headers = {"content_type": "application/json"} if path == API and body[:1] == b"[" else {}
    found, text = await front.post(path, body, **headers)
    assert found == status, text
    assert words in text
    await front.still_answers()


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ({"inference_header_content_length": "5"}, b'{"inputs": []}', "JSON"),
        ({"inference_header_content_length": "-1"}, b"{}", ""),
        ({"inference_header_content_length": "999"}, b"{}", ""),
        ({"inference_header_content_length": "x"}, b"{}", ""),
        ({"content_encoding": "gzip"}, b"no gzip", "damaged"),
        ({"content_encoding": "gzip"}, gzip.compress(b"{}", mtime=0)[:-9], "too early"),
        ({"content_encoding": "br"}, b"{}", "identity work"),
        ({"x_request_timeout_s": "soon"}, b"{}", "seconds above 0"),
        ({"x_request_timeout_s": "nan"}, b"{}", "seconds above 0"),
        ({"grpc_timeout": "5"}, b"{}", "250m or 2S works"),
        ({"x_request_priority": "-1"}, b"{}", "x-request-priority"),
    ],
)
async def test_a_header_that_lies_is_told(front, headers, body, words):
    status, text = await front.post(V2, body, **headers)
    assert (status in (400, 501), words in text) == (True, True), (status, text)
    await front.still_answers()


def tensor(dtype=1, shape=(1, 2, 2, 1), **fields):
    request = message("tensorflow.serving.PredictRequest")()
    request.model_spec.name = fields.pop("model", "tiny")
    made = request.inputs[fields.pop("name", "image")]
    made.dtype = dtype
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return request


def infer_proto(shape=(1, 2, 2, 1), raw=(b"\0" * 16,), datatype="FP32", name="image"):
    request = message("inference.ModelInferRequest")(model_name="tiny")
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.extend(raw)
    return request


def unknown_rank():
    request = tensor()
    request.inputs["image"].tensor_shape.unknown_rank = True
    return request


OVER_GRPC = [
    (PREDICT, b"\xff\xff", "INVALID_ARGUMENT", "no PredictRequest"),
    (PREDICT, GOOD[PREDICT][:-7], "INVALID_ARGUMENT", "no PredictRequest"),
    (PREDICT, b"", "INVALID_ARGUMENT", "Missing ModelSpec"),
    (PREDICT, tensor(shape=[2**31, 2**31]), "INVALID_ARGUMENT", "are taken"),
    (PREDICT, tensor(shape=[2**62] * 8), "INVALID_ARGUMENT", "are taken"),
    (PREDICT, tensor(shape=[-1, 4]), "INVALID_ARGUMENT", "no size may be negative"),
    (PREDICT, tensor(shape=[1] * 300), "INVALID_ARGUMENT", "300 dimensions"),
    (PREDICT, tensor(shape=[0] * 64), "INVALID_ARGUMENT", "64 dimensions"),
    (PREDICT, tensor(tensor_content=b"abc"), "INVALID_ARGUMENT", "has 16 bytes"),
    (PREDICT, tensor(dtype=99), "INVALID_ARGUMENT", "type number 99"),
    (PREDICT, tensor(dtype=101), "INVALID_ARGUMENT", "type number 101"),
    (PREDICT, tensor(dtype=9), "INVALID_ARGUMENT", "takes float32"),
    (
        PREDICT,
        tensor(dtype=7, shape=[1 << 25], string_val=[b"x"]),
        "INVALID_ARGUMENT",
        "repeated for at most",
    ),
    (
        PREDICT,
        tensor(dtype=7, shape=[4], tensor_content=b"\xff" * 9),
        "INVALID_ARGUMENT",
        "end too early",
    ),
    (PREDICT, tensor(name="picture"), "INVALID_ARGUMENT", "Sent extra: {picture}"),
    (PREDICT, tensor(model="../tiny"), "NOT_FOUND", "../tiny"),
    (PREDICT, unknown_rank(), "INVALID_ARGUMENT", "unknown rank"),
    (INFER, b"\xff\xff", "INVALID_ARGUMENT", "no ModelInferRequest"),
    (INFER, GOOD[INFER][:-7], "INVALID_ARGUMENT", ""),
    (INFER, infer_proto(shape=[2**31, 2**31]), "INVALID_ARGUMENT", "are taken"),
    (INFER, infer_proto(shape=[-1, 4]), "INVALID_ARGUMENT", "whole numbers from 0"),
    (INFER, infer_proto(raw=()), "INVALID_ARGUMENT", "unable to find data"),
    (INFER, infer_proto(raw=(b"abc",)), "INVALID_ARGUMENT", "16 bytes"),
    (INFER, infer_proto(datatype="FP7"), "INVALID_ARGUMENT", "FP7"),
    (INFER, infer_proto(datatype="BYTES"), "INVALID_ARGUMENT", ""),
]


@pytest.mark.parametrize(
    ("path", "request_", "code", "words"), OVER_GRPC, ids=range(len(OVER_GRPC))
)
async def test_over_grpc_it_is_told_what_is_wrong(front, path, request_, code, words):
    found, text = await front.call(path, request_)
    assert found == code, text
    assert words in text
    await front.still_answers()


NEVER = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}


@settings(max_examples=60)
@given(data=st.data())
async def test_no_damage_to_a_grpc_request_is_a_defect_of_the_server(front_of_module, data):
    path = data.draw(st.sampled_from(list(GOOD)))
    body = bytearray(GOOD[path])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    code, text = await front_of_module.call(
        path, bytes(body[: data.draw(st.integers(1, len(body)))])
    )
    assert code not in NEVER, (code, text, bytes(body))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["instances", "inputs", "image", "b64", "name", "shape", "data"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(path=st.sampled_from([V1, "/v1/models/tiny:classify", V2, API]), document=values)
async def test_no_json_is_a_defect_of_the_server(front_of_module, path, document):
    for body in (document, {"instances": document}, {"inputs": [document]}, {"images": [document]}):
        status, text = await front_of_module.post(path, body, content_type="application/json")
        assert status in (200, 400, 404, 501), (status, text, body)


@settings(max_examples=60)
@given(
    st.binary(max_size=60), st.sampled_from([b"", PNG[:30], b"\xff\xd8\xff\xe0", b"BM", b"RIFF"])
)
async def test_no_image_is_a_defect_of_the_server(front_of_module, tail, head):
    image = head + tail
    for body, kind in (
        (image, "image/png"),
        (
            json.dumps({"images": [{"b64": base64.b64encode(image).decode()}]}).encode(),
            "application/json",
        ),
        (b"--x\r\n\r\n" + image + b"\r\n--x--", "multipart/form-data; boundary=x"),
    ):
        status, text = await front_of_module.post(API, body, content_type=kind)
        assert status in (200, 400), (status, text)


@pytest.fixture(scope="module")
def front_of_module(base_path):
    """A front on a servable that needs no loop of its own, so that hypothesis can share it."""
    options = VersionOptions(is_tuned=False)
    servable = Servable("tiny", 1, base_path / "tiny" / "1", options=options, decoders=None)

    class One:
        def models(self):
            return ("tiny",)

        def find(self, target):
            from serving.errors import ModelNotFoundError

            if target.model != "tiny":
                raise ModelNotFoundError(target.model, ("tiny",))
            return servable

        def versions(self, name):
            return (1,)

    service = Service(One())
    service.open()
    yield Front(service)
    servable.close()


async def test_a_request_for_images_of_a_name_that_is_none_never_touches_the_disk(front):
    call = ClassifyImagesCall(Target("../tiny"), (PNG,))
    body = tfs_proto.encode_classify_request(call)
    code, text = await front.call(PREDICT, body)
    assert (code, "No model '../tiny'" in text) == ("NOT_FOUND", True)
