"""Requests leave nothing behind that only the garbage collector could find.

The server has it look seldom (`serving.app`); a request in a cycle would keep its body until then.
"""

import asyncio
import gc
import json
import socket
from functools import partial

import grpc
import numpy as np
import pytest

from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.sources import BasePath
from serving.listeners.grpc import GrpcListener
from serving.listeners.http1 import HttpListener
from serving.messages import PredictCall, Target
from serving.metrics import Metrics
from serving.observe import Observer
from serving.protocols.grpc import build_grpc
from serving.protocols.http import build_http
from serving.wire import oip_proto, tfs_proto
from tests.serving.published import publish_tiny

pytestmark = pytest.mark.openvino

TIMES = 50
# The header by which a client says how long it waits.
LATE = "grpc-timeout: 1n\r\n"


@pytest.fixture
async def listening(tmp_path):
    """A server in this process: its HTTP port and its gRPC port."""
    publish_tiny(tmp_path)
    load = partial(Servable, decoders=None)
    repository = Repository(
        BasePath(tmp_path), lambda model, *rest: load(model.name, *rest, options=model.options)
    )
    await repository.refresh()
    metrics = Metrics()
    service = Service(repository, metrics=metrics)
    service.open()
    observer = Observer(metrics)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in sockets]
    http = HttpListener(build_http(service, None, observer), sockets[0], max_body_bytes=1 << 20)
    rpc = GrpcListener(build_grpc(service, None, observer), sockets[1:], max_message_bytes=1 << 20)
    await http.start()
    await rpc.start()
    yield ports
    await asyncio.gather(http.stop(1), rpc.stop(1))
    await repository.close()


async def left_behind(ask):
    """What `ask`, done so many times, leaves to the collector of this server's own objects."""
    await ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(TIMES):
            await ask()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [repr(each)[:200] for each in gc.garbage if _is_of_the_server(each)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _is_of_the_server(found):
    # Classes of messages, too: protobuf makes them again for the next request.
    code = getattr(found, "cr_code", None) or getattr(found, "f_code", None)
    where = code.co_filename if code else type(found).__module__.replace(".", "/")
    is_message = isinstance(found, type) and hasattr(found, "DESCRIPTOR")
    return is_message or ("serving/" in where and "tests/" not in where)


def rest(path, body, head=""):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    start = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n{head}\r\n"
    return start.encode() + body


IMAGE = np.zeros((1, 2, 2, 1), np.float32)
FLAT = {"name": "image", "shape": [1, 2, 2, 1], "datatype": "FP32", "data": [0.0] * 4}
HTTP = {
    "tfs": (200, rest("/v1/models/tiny:predict", {"instances": IMAGE.tolist()})),
    "oip": (200, rest("/v2/models/tiny/infer", {"inputs": [FLAT]})),
    "no JSON": (400, rest("/v1/models/tiny:predict", b'{"instances": [1, 2')),
    "another shape": (400, rest("/v1/models/tiny:predict", {"instances": [[1, 2]]})),
    "another type": (400, rest("/v2/models/tiny/infer", {"inputs": [FLAT | {"datatype": "X"}]})),
    "no such model": (404, rest("/v1/models/other:predict", {"instances": [1]})),
    "no such path": (404, rest("/nowhere", b"")),
    "no image": (400, rest("/api/models/tiny/classify", b"no image")),
    "late": (504, rest("/v1/models/tiny:predict", {"instances": IMAGE.tolist()}, LATE)),
}


@pytest.mark.parametrize(("status", "request_"), HTTP.values(), ids=HTTP)
async def test_over_http(listening, status, request_):
    reader, writer = await asyncio.open_connection("127.0.0.1", listening[0])

    async def ask():
        writer.write(request_)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), head
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields[b"content-length"]))

    assert (await left_behind(ask)) == []
    writer.close()


TFS = "/tensorflow.serving.PredictionService/Predict"
OIP = "/inference.GRPCInferenceService/ModelInfer"
CALL = PredictCall(Target("tiny"), {"image": IMAGE})
ELSEWHERE = PredictCall(Target("other"), {"image": IMAGE})
WRONG = PredictCall(Target("tiny"), {"image": IMAGE[0]})
GRPC = {
    "tfs": (grpc.StatusCode.OK, TFS, tfs_proto.encode_predict_request(CALL)),
    "oip": (grpc.StatusCode.OK, OIP, oip_proto.encode_infer_request(CALL)),
    "no message": (grpc.StatusCode.INVALID_ARGUMENT, TFS, b"\xff" * 9),
    "another shape": (
        grpc.StatusCode.INVALID_ARGUMENT,
        OIP,
        oip_proto.encode_infer_request(WRONG),
    ),
    "no such model": (
        grpc.StatusCode.NOT_FOUND,
        TFS,
        tfs_proto.encode_predict_request(ELSEWHERE),
    ),
    "no such method": (grpc.StatusCode.UNIMPLEMENTED, "/nowhere/Nothing", b""),
}


@pytest.mark.parametrize(("code", "path", "message"), GRPC.values(), ids=GRPC)
async def test_over_grpc(listening, code, path, message):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{listening[1]}") as channel:
        method = channel.unary_unary(path)

        async def ask():
            call = method(message, timeout=20)
            assert await call.code() == code

        assert (await left_behind(ask)) == []
