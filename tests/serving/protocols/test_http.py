"""The HTTP front ends on a real core, without sockets."""

import asyncio
import base64
import gzip
import json

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.sources import BasePath
from serving.messages import VersionOptions
from serving.protocols.http import build_http
from serving.transport import HttpRequest
from tests.serving.published import LABELS, logits_of, publish_tiny, softmax
from tests.zoo.test_preprocess import encoded
from zoo.artifact import write_labels

pytestmark = pytest.mark.openvino

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
PNG = encoded(np.array([[0, 255], [100, 0]], np.uint8))


@pytest.fixture
async def ask(tmp_path):
    """Sends a request to the handler; returns status, parsed body and headers."""
    publish_tiny(tmp_path)
    publish_tiny(tmp_path, scale=2.0)
    write_labels(tmp_path / "tiny", {"stable": 1})

    def load(settings, version, path):
        options = settings.options_of(version)
        return Servable(settings.name, version, path, options=options, decoders=None)

    repository = Repository(BasePath(tmp_path, options=VersionOptions(is_tuned=False)), load)
    await repository.refresh()
    service = Service(repository)
    service.open()
    handler = build_http(service)

    async def send(method, path, body=b"", headers=None, query=""):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        response = await handler(HttpRequest(method, path, query, headers or {}, body))
        is_json = dict(response.headers).get("content-type") == "application/json"
        content = json.loads(response.body) if is_json else response.body
        return response.status, content, dict(response.headers)

    send.service = service
    yield send
    await repository.close()


@pytest.mark.parametrize(
    ("where", "scale"),
    [("", 2.0), ("/versions/1", 1.0), ("/versions/2", 2.0), ("/labels/stable", 1.0)],
)
async def test_predict_answers_for_the_newest_a_version_and_a_label(ask, where, scale):
    status, answer, _ = await ask(
        "POST", f"/v1/models/tiny{where}:predict", {"instances": IMAGE.tolist()}
    )
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], softmax(logits_of(IMAGE, scale)), atol=1e-6)


async def test_predict_takes_signatures_columns_and_gzip(ask):
    body = {"signature_name": "logits", "inputs": {"image": IMAGE.tolist()}}
    packed = gzip.compress(json.dumps(body).encode())
    status, answer, _ = await ask(
        "POST", "/v1/models/tiny:predict", packed, {"content-encoding": "gzip"}
    )
    assert status == 200
    np.testing.assert_allclose(answer["outputs"], logits_of(IMAGE, 2.0), atol=1e-6)
    status, answer, _ = await ask(
        "POST", "/v1/models/tiny:predict", packed[:20], {"content-encoding": "gzip"}
    )
    assert (status, answer) == (400, {"error": "JSON Parse error: The document is empty"})


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v1/models/huge:predict", 404, "Servable not found for request: Latest(huge)"),
        (
            "POST",
            "/v1/models/tiny/versions/9:predict",
            404,
            "Servable not found for request: Specific(tiny, 9)",
        ),
        ("POST", "/v1/models/tiny/labels/x:predict", 400, "Unrecognized servable version label: x"),
        ("POST", "/v1/models/tiny/versions/99999999999999999999:predict", 400, "64-bit"),
        ("POST", f"/v1/models/tiny/versions/{'9' * 5000}:predict", 400, "64-bit"),
        ("POST", "/v1/models/tiny:PREDICT", 400, "Malformed request"),
        ("POST", "/v1/models/tiny:erase", 400, "Malformed request: POST /v1/models/tiny:erase"),
        ("PUT", "/v1/models/tiny", 400, "Malformed request: PUT"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/huge", 404, "Could not find any versions of model huge"),
        ("GET", "/v1/models/tiny/versions/9", 404, "Could not find version 9 of model tiny"),
        ("GET", "/v1/models/huge/metadata", 404, "Servable not found"),
        ("GET", "/v1/models/tiny/../../etc", 400, "Malformed request"),
        ("GET", "/nowhere", 404, "Malformed request: GET /nowhere"),
        ("POST", "/api/models/huge/classify", 404, "No model 'huge'; this server has tiny"),
        ("GET", "/api/models/tiny/classify", 400, "Malformed request"),
        ("POST", "/api/models/tiny/classify", 400, "The body is empty"),
    ],
)
async def test_what_is_not_there_is_told(ask, method, path, status, words):
    found, answer, _ = await ask(method, path, b"" if "tiny/classify" in path else b"{}")
    assert found == status
    assert words in answer["error"]


async def test_status_and_metadata_have_tensorflow_servings_form(ask):
    _, answer, _ = await ask("GET", "/v1/models/tiny")
    assert [(each["version"], each["state"]) for each in answer["model_version_status"]] == [
        ("2", "AVAILABLE"),
        ("1", "AVAILABLE"),
    ]
    _, answer, _ = await ask("GET", "/v1/models/tiny/versions/1/metadata")
    assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
    image = answer["metadata"]["signature_def"]["signature_def"]["logits"]["inputs"]["image"]
    assert image["dtype"] == "DT_FLOAT"
    assert [each["size"] for each in image["tensor_shape"]["dim"]] == ["-1", "2", "2", "1"]


async def test_images_come_raw_as_json_and_as_multipart(ask):
    path = "/api/models/tiny/classify"
    status, raw, _ = await ask("POST", path, PNG, {"content-type": "image/png"}, "top_k=2")
    assert status == 200
    assert (raw["model"], raw["version"], len(raw["results"]), len(raw["results"][0])) == (
        "tiny",
        2,
        1,
        2,
    )
    assert raw["results"][0][0]["label"] == "bee"
    text = base64.b64encode(PNG).decode()
    # As a page has it, and as encoders write it that break lines or leave the padding out.
    texts = [f"data:image/png;base64,{text}", f"{text[:20]}\n{text[20:].rstrip('=')}"]
    body = {"images": [{"b64": each} for each in texts]}
    _, several, _ = await ask("POST", path, body, {"content-type": "application/json"}, "top_k=2")
    assert several["results"] == raw["results"] * 2
    part = (
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + PNG + b"\r\n"
    )
    multipart = {"content-type": "multipart/form-data; boundary=x"}
    _, form, _ = await ask("POST", path, part * 2 + b"--x--\r\n", multipart, "top_k=2")
    assert form["results"] == raw["results"] * 2


async def test_top_k_may_be_written_with_zeros_before_it_and_ask_for_more_than_there_is(ask):
    path, png = "/api/models/tiny/classify", {"content-type": "image/png"}
    _, answer, _ = await ask("POST", path, PNG, png, "top_k=0000000002")
    assert len(answer["results"][0]) == 2
    _, answer, _ = await ask("POST", path, PNG, png, "top_k=" + "0" * 5000)
    assert "top_k is 0; this model has 3 classes" in answer["error"]
    for digits in (9, 10, 5000):
        _, answer, _ = await ask("POST", path, PNG, png, "top_k=" + "9" * digits)
        assert len(answer["results"][0]) == 3


@pytest.mark.parametrize(
    ("body", "content_type", "query", "words"),
    [
        (b"GIF89a", "image/gif", "", "Image 0: These 6 bytes are no JPEG"),
        (PNG[:-30], "image/png", "", "Image 0: The image is damaged"),
        (PNG, "image/png", "top_k=many", "top_k is 'many'"),
        (PNG, "image/png", "top_k=0", "top_k is 0; this model has 3 classes"),
        (b"{}", "application/json", "", "expected"),
        (b'{"images": [3]}', "application/json", "", "images[0]"),
        (b'{"images": [{"b64": "!"}]}', "application/json", "", "base64 decode input 'images[0]'"),
        (b'{"images": []}', "application/json", "", "no image in the request"),
        (b"xx", "multipart/form-data; boundary=q", "", "multipart body has no parts"),
    ],
)
async def test_images_that_are_none_are_refused_with_their_place(
    ask, body, content_type, query, words
):
    status, answer, _ = await ask(
        "POST", "/api/models/tiny/classify", body, {"content-type": content_type}, query
    )
    assert status == 400
    assert words in answer["error"]


async def test_a_request_id_comes_back_and_deadlines_are_kept(ask):
    _, _, headers = await ask("GET", "/v1/models/tiny", headers={"x-request-id": "abc"})
    assert headers["x-request-id"] == "abc"
    body = {"instances": IMAGE.tolist()}
    late = {"x-request-timeout-s": "0.0000001"}
    status, answer, _ = await ask("POST", "/v1/models/tiny:predict", body, late)
    assert (status, "deadline" in answer["error"]) == (504, True)
    status, answer, _ = await ask(
        "POST", "/v1/models/tiny:predict", body, {"x-request-timeout-s": "soon"}
    )
    assert (status, "'soon'" in answer["error"]) == (400, True)


async def test_readiness_ends_when_draining_begins(ask):
    assert (await ask("GET", "/readyz"))[0] == 200
    ask.service.drain()
    assert (await ask("GET", "/readyz"))[0] == 503
    assert (await ask("GET", "/livez"))[0] == 200
    assert (await ask("GET", "/"))[:2] == (200, {"status": "alive"})
    status, answer, _ = await ask("POST", "/v1/models/tiny:predict", {"instances": IMAGE.tolist()})
    assert (status, answer["error"]) == (503, "The server is stopping.")


async def test_open_inference_answers_in_json_and_raw(ask):
    tensor = {"name": "image", "shape": [2, 2, 2, 1], "datatype": "FP32"}
    expected = softmax(logits_of(IMAGE, 2.0))
    body = {"id": "7", "inputs": [{**tensor, "data": IMAGE.ravel().tolist()}], "model_name": "x"}
    status, answer, headers = await ask("POST", "/v2/models/tiny/infer", body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "tiny", "2")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == (
        "probabilities",
        "FP32",
        [2, 3],
    )
    np.testing.assert_allclose(output["data"], expected.ravel(), atol=1e-6)

    raw = {**tensor, "parameters": {"binary_data_size": 32}}
    head = json.dumps({"inputs": [raw], "parameters": {"binary_data_output": True}}).encode()
    length = {"inference-header-content-length": str(len(head))}
    status, answer, headers = await ask(
        "POST", "/v2/models/tiny/versions/1/infer", head + IMAGE.tobytes(), length
    )
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    split = int(headers["inference-header-content-length"])
    found = np.frombuffer(answer[split:], np.float32).reshape(2, 3)
    np.testing.assert_allclose(found, softmax(logits_of(IMAGE)), atol=1e-6)

    wanted = [{"name": "probabilities", "parameters": {"classification": 1}}]
    body = {"inputs": [{**tensor, "data": IMAGE.ravel().tolist()}], "outputs": wanted}
    _, answer, _ = await ask("POST", "/v2/models/tiny/infer", body)
    assert answer["outputs"][0]["data"] == [
        f"{row.max():f}:{row.argmax()}:{LABELS[row.argmax()]}" for row in expected
    ]
    body = {**body, "outputs": [], "parameters": {"signature_name": "logits"}}
    _, answer, _ = await ask("POST", "/v2/models/tiny/infer", body)
    assert answer["outputs"][0]["name"] == "logits"


async def test_open_inference_tells_of_server_and_models(ask):
    _, answer, _ = await ask("GET", "/v2")
    assert answer["name"] == "convzoo"
    assert "binary_tensor_data" in answer["extensions"]
    assert (await ask("GET", "/v2/health/live"))[1] == {"live": True}
    assert (await ask("GET", "/v2/health/ready"))[1] == {"ready": True}
    assert (await ask("GET", "/v2/models"))[1] == {"models": ["tiny"]}
    _, answer, _ = await ask("GET", "/v2/models/tiny")
    assert answer == {
        "name": "tiny",
        "versions": ["1", "2"],
        "platform": "tensorflow_savedmodel",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 2, 2, 1]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert (await ask("GET", "/v2/models/tiny/versions/1"))[1]["versions"] == ["1"]
    assert (await ask("GET", "/v2/models/tiny/ready"))[:2] == (200, {"name": "tiny", "ready": True})
    _, answer, _ = await ask("POST", "/v2/repository/index")
    assert [(each["version"], each["state"]) for each in answer] == [("2", "READY"), ("1", "READY")]
    for method, path, status in (
        ("GET", "/v2/models/huge", 404),
        ("GET", "/v2/models/huge/ready", 404),
        ("POST", "/v2/models/huge/infer", 404),
        ("GET", "/v2/models/tiny/infer", 405),
        ("POST", "/v2/models/tiny", 405),
        ("GET", "/v2/nowhere", 404),
        ("POST", "/v2/repository/models/tiny/load", 501),
    ):
        found, answer, headers = await ask(method, path)
        assert (found, bool(answer["error"])) == (status, True), path
        if status == 405:  # RFC 9110, 15.5.6
            allowed = {"GET": "POST", "POST": "GET, HEAD"}
            assert headers["allow"] == allowed[method]


@pytest.mark.parametrize(
    "path",
    [
        *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models", "/v2/models/stats"),
        *("/v2/models/tiny", "/v2/models/tiny/ready", "/v2/models/tiny/infer", "/v2/nowhere"),
        *("/v1/models/tiny", "/v1/models/tiny/versions/1/metadata", "/v1/models/nobody"),
        *("/v1/models", "/v1/models/tiny:predict", "/v1/nowhere"),
        *("/api/models", "/api/models/tiny/layers", "/api/nowhere", "/livez", "/playground/"),
    ],
)
async def test_head_is_answered_as_get(ask, path):
    status, answer, headers = await ask("GET", path)
    found, same, fields = await ask("HEAD", path)
    # The listener sends the length of this answer, and not the answer.
    assert (found, same, fields.keys()) == (status, answer, headers.keys())


async def test_requests_are_counted_for_prometheus_under_bounded_labels(ask):
    await ask("POST", "/v1/models/tiny:predict", {"instances": IMAGE.tolist()})
    await ask("POST", "/api/models/tiny/classify", PNG, {"content-type": "image/png"})
    await ask("POST", "/api/models/anything/classify", PNG, {"content-type": "image/png"})
    status, text, headers = await ask("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }

    def requests(**labels):
        return found["convzoo_requests_total", *sorted(labels.items())]

    tiny = {"model": "tiny", "version": "2", "code": "OK", "outcome": "direct"}
    assert requests(**tiny, kind="predict", protocol="tfs_rest") == 1
    assert requests(**tiny, kind="classify", protocol="native") == 1
    unknown = {"model": "unknown", "version": "", "code": "NOT_FOUND", "outcome": "failed"}
    assert requests(**unknown, kind="classify", protocol="native") == 1
    assert found["convzoo_rows_total", ("model", "tiny"), ("version", "2")] == 3
    assert "anything" not in text.decode()


async def test_a_defect_is_answered_with_its_id_and_no_trace(ask, monkeypatch, caplog):
    def fail(target):
        raise RuntimeError("secret path")

    monkeypatch.setattr(ask.service, "status", fail)
    status, answer, headers = await ask("GET", "/v1/models/tiny")
    assert status == 500
    assert headers["x-request-id"] in answer["error"]
    assert "secret" not in answer["error"]
    assert "secret path" in caplog.text


async def test_many_requests_at_once_are_all_answered(ask):
    body = {"instances": IMAGE.tolist()}
    answers = await asyncio.gather(
        *(ask("POST", "/v1/models/tiny:predict", body) for _ in range(64))
    )
    assert {status for status, _, _ in answers} == {200}
