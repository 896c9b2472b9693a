"""Compressed bodies: what is unfolded, what is refused, what is packed."""

import gzip
import json
import zlib

import numpy as np
import pytest

from serving.limits import LIMITS
from serving.protocols import compression
from serving.protocols.http import build_http
from serving.transport import HttpRequest, HttpResponse
from tests.serving.protocols.fakes import FakeService

V1 = json.dumps({"instances": [1.5]}).encode()
V2 = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}]}
LARGE = {"inputs": [{"name": "x", "shape": [900], "datatype": "FP32", "data": [1.5] * 900}]}


@pytest.fixture
def ask():
    handler = build_http(FakeService())

    async def send(path, body, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await handler(HttpRequest("POST", path, headers=named, body=body))

    return send


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_open_inference_unfolds_gzip_and_deflate(ask, coding, pack):
    body = pack(json.dumps(V2).encode())
    response = await ask("/v2/models/m/infer", body, content_encoding=coding)
    assert json.loads(response.body)["outputs"][0]["data"] == [3.0]


@pytest.mark.parametrize(
    ("body", "coding", "status", "words"),
    [
        (b"{}", "br", 501, "Content-Encoding is 'br'; gzip, deflate and identity work"),
        (b"{}", "gzip", 400, "The gzip body is damaged"),
        (gzip.compress(b"{}", mtime=0)[:-4], "gzip", 400, "ends too early"),
        (b"", "deflate", 400, "ends too early"),
        (gzip.compress(b"{}", mtime=0) + b"tail", "gzip", 400, "The gzip body is damaged"),
        (
            gzip.compress(b"{}", mtime=0) + gzip.compress(b"{}", mtime=0)[:9],
            "gzip",
            400,
            "ends too early",
        ),
        (gzip.compress(b"", mtime=0) * 5000, "gzip", 400, "goes on behind its end"),
        (zlib.compress(b"{}") * 2, "deflate", 400, "goes on behind its end"),
    ],
)
async def test_what_cannot_be_unfolded_is_told(ask, body, coding, status, words):
    response = await ask("/v2/models/m/infer", body, content_encoding=coding)
    assert response.status == status
    assert words in json.loads(response.body)["error"]


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v1/models/m:predict"])
@pytest.mark.parametrize("size", [20, 1 << 20])
async def test_every_member_of_a_gzip_body_is_unfolded(ask, path, size):
    body = json.dumps(V2).encode() if path.startswith("/v2") else V1
    # What does not shrink lies across the blocks that are read at a time.
    blanks = np.random.default_rng(0).choice(np.frombuffer(b" \t\r\n", np.uint8), size)
    members = (body[:1], blanks.tobytes(), body[1:], b"", b" ")
    packed = b"".join(gzip.compress(each) for each in members)
    response = await ask(path, packed, content_encoding="gzip")
    assert b"3.0" in response.body


async def test_the_members_of_a_body_share_its_limit(ask, monkeypatch):
    monkeypatch.setattr(LIMITS, "inflated_bytes", 1000)
    packed = gzip.compress(b" " * 500)
    response = await ask("/v2/models/m/infer", packed * 2, content_encoding="gzip")
    assert "The document is empty" in response.body.decode()
    response = await ask("/v2/models/m/infer", packed * 3, content_encoding="gzip")
    assert "more than 1,000 bytes" in response.body.decode()


async def test_a_body_that_unfolds_to_too_much_is_refused(ask, monkeypatch):
    monkeypatch.setattr(LIMITS, "inflated_bytes", 1000)
    bomb = gzip.compress(b" " * 100_000)
    response = await ask("/v2/models/m/infer", bomb, content_encoding="gzip")
    assert (response.status, "more than 1,000 bytes" in response.body.decode()) == (400, True)
    response = await ask("/v1/models/m:predict", bomb, content_encoding="gzip")
    assert json.loads(response.body)["error"] == "JSON Parse error: The document is empty"


async def test_tensorflow_serving_ignores_other_codings_and_keeps_the_headers(ask):
    response = await ask("/v1/models/m:predict", V1, content_encoding="br")
    assert json.loads(response.body) == {"predictions": [3.0]}
    packed = gzip.compress(V1)
    response = await ask("/v1/models/m:predict", packed, content_encoding="GZip", x_request_id="r")
    assert json.loads(response.body) == {"predictions": [3.0]}
    assert dict(response.headers)["x-request-id"] == "r"


async def test_a_body_in_another_coding_is_told_so_where_it_is_no_json(ask):
    path = "/v1/models/m:predict"
    response = await ask(path, zlib.compress(V1), content_encoding="deflate")
    error = json.loads(response.body)["error"]
    assert (response.status, error.startswith("JSON Parse error: ")) == (400, True)
    assert error.endswith("Content-Encoding is 'deflate', gzip and identity work.")
    response = await ask(path, b"", content_encoding="deflate")
    assert json.loads(response.body)["error"] == "JSON Parse error: The document is empty"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("deflate;q=0.5, identity;q=0.4", "deflate"),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=0", None),
        ("gzip;q=much", None),
        ("br", None),
        ("", None),
    ],
)
async def test_inference_answers_come_in_the_coding_that_is_liked_best(ask, accepted, coding):
    response = await ask("/v2/models/m/infer", LARGE, accept_encoding=accepted)
    assert dict(response.headers).get("content-encoding") == coding
    unfold = {"gzip": gzip.decompress, "deflate": zlib.decompress, None: bytes}[coding]
    assert json.loads(unfold(response.body))["outputs"][0]["data"] == [3.0] * 900


async def test_small_answers_and_other_answers_stay_plain(ask):
    response = await ask("/v2/models/m/infer", V2, accept_encoding="gzip")
    assert "content-encoding" not in dict(response.headers)
    response = await ask("/v2/repository/index", b"", accept_encoding="gzip")
    assert "content-encoding" not in dict(response.headers)


async def test_a_large_answer_is_packed_in_a_thread():
    body = b"x" * (compression.MOST_INLINE_BYTES + 1)
    response = await compression.packed(HttpResponse(200, (), body), "gzip")
    assert gzip.decompress(response.body) == body
