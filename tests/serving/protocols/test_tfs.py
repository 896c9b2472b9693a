"""TensorFlow Serving's methods over REST and gRPC, on a small fake service."""

import json

import numpy as np
import pytest

from serving.messages import PredictCall, Target
from serving.protocols.grpc import build_grpc
from serving.protocols.http import build_http
from serving.transport import GrpcRequest, HttpRequest
from serving.wire import examples, tfs_proto
from serving.wire.codes import CODE_NAMES
from serving.wire.pool import message
from tests.serving.protocols.fakes import FakeService, example

PREDICTION = "/tensorflow.serving.PredictionService"


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def post(service):
    """Posts JSON; returns status and parsed body."""
    handler = build_http(service)

    async def send(path, document):
        body = json.dumps(document).encode()
        response = await handler(HttpRequest("POST", f"/v1/models/{path}", body=body))
        return response.status, json.loads(response.body)

    return send


@pytest.fixture
def call(service):
    """Calls a gRPC method; returns the code's name and the body or message."""
    routes = build_grpc(service)

    async def send(path, body, **options):
        body = body if isinstance(body, bytes) else body.SerializeToString()
        response = await routes[path](GrpcRequest(body, **options))
        return CODE_NAMES[response.code], response.message if response.code else response.body

    return send


def request(kind, *features, model="m", signature="", **choice):
    made = message(f"tensorflow.serving.{kind}")()
    tfs_proto.encode_target(Target(model, **choice), made.model_spec)
    made.model_spec.signature_name = signature
    for value in features:
        made.input.example_list.examples.add().ParseFromString(example(value))
    return made


def response(kind, body):
    return message(f"tensorflow.serving.{kind}").FromString(body)


ROWS = {"examples": [{"x": 0.25}, {"x": 0.5}]}


async def test_classify_and_regress_answer_over_rest(post):
    assert await post("m:classify", {**ROWS, "signature_name": "classify"}) == (
        200,
        {"results": [[["ant", 0.25], ["bee", 0.75]], [["ant", 0.5], ["bee", 0.5]]]},
    )
    regress = {**ROWS, "signature_name": "regress"}
    assert await post("m/versions/1:regress", regress) == (200, {"results": [0.25, 0.5]})


async def test_classify_regress_and_both_at_once_answer_over_grpc(call):
    body = request("ClassificationRequest", 0.25, signature="classify", label="stable")
    code, body = await call(f"{PREDICTION}/Classify", body)
    answer = response("ClassificationResponse", body)
    (row,) = answer.result.classifications
    assert code == "OK"
    assert [(each.label, each.score) for each in row.classes] == [("ant", 0.25), ("bee", 0.75)]
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (1, "classify")

    _, body = await call(
        f"{PREDICTION}/Regress", request("RegressionRequest", 0.25, signature="regress")
    )
    assert response("RegressionResponse", body).result.regressions[0].value == 0.25

    several = message("tensorflow.serving.MultiInferenceRequest")()
    several.input.example_list.examples.add().ParseFromString(example(0.25))
    for method in (examples.REGRESS, examples.CLASSIFY):
        task = several.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "m", method.rpartition("/")[2]
    _, body = await call(f"{PREDICTION}/MultiInference", several)
    results = response("MultiInferenceResponse", body).results
    assert [each.WhichOneof("result") for each in results] == [
        "regression_result",
        "classification_result",
    ]


@pytest.mark.parametrize(
    ("path", "document", "status", "words"),
    [
        ("m:classify", {"instances": [1]}, 400, "key 'examples' is expected"),
        ("m:classify", {**ROWS, "signature_name": "q"}, 400, "No signature was found with the"),
        ("m:classify", ROWS, 400, "takes x and gives y; classify needs 'inputs'"),
        ("m:regress", {**ROWS, "signature_name": "classify"}, 400, "regress needs 'inputs'"),
        ("n:classify", ROWS, 404, "Servable not found for request: Latest(n)"),
        ("m/labels/q:regress", ROWS, 400, "Unrecognized servable version label: q"),
        ("m:Classify", ROWS, 400, "Malformed request: POST /v1/models/m:Classify"),
    ],
)
async def test_what_cannot_be_classified_is_told_over_rest(post, path, document, status, words):
    found, answer = await post(path, document)
    assert found == status
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "code", "words"),
    [
        ("Classify", b"", "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("Classify", b"\xff", "INVALID_ARGUMENT", "no ClassificationRequest"),
        ("Classify", request("ClassificationRequest"), "INVALID_ARGUMENT", "Input is empty."),
        (
            "Classify",
            request("ClassificationRequest", 1, signature="q"),
            "INVALID_ARGUMENT",
            "No signature was found with the name: q",
        ),
        (
            "Regress",
            request("RegressionRequest", 1, model="n", version=7),
            "NOT_FOUND",
            "Servable not found for request: Specific(n, 7)",
        ),
        ("MultiInference", b"", "INVALID_ARGUMENT", "has no tasks"),
        (
            "Predict",
            tfs_proto.encode_predict_request(PredictCall(Target("m"), {"x": np.ones(1)}, "q")),
            "FAILED_PRECONDITION",
            'Serving signature key "q" not found.',
        ),
        (
            "Predict",
            tfs_proto.encode_predict_request(PredictCall(Target("m", label="q"), {})),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: q",
        ),
    ],
)
async def test_what_cannot_be_answered_has_tensorflow_servings_code(call, path, body, code, words):
    found, text = await call(f"{PREDICTION}/{path}", body)
    assert found == code
    assert words in text


async def test_deadlines_and_request_ids_reach_the_core(call, service):
    body = request("RegressionRequest", 1, signature="regress")
    await call(f"{PREDICTION}/Regress", body, deadline=5.0, metadata={"x-request-id": "r"})
    assert (service.last.deadline, service.last.request_id) == (5.0, "r")
    handler = build_http(service)
    body = json.dumps({"instances": [1.0]}).encode()
    headers = {"x-request-id": "s", "x-request-timeout-s": "2"}
    asked = HttpRequest("POST", "/v1/models/m:predict", headers=headers, body=body, received=1.0)
    await handler(asked)
    assert (service.last.deadline, service.last.request_id) == (3.0, "s")


@pytest.mark.parametrize(
    ("name", "code", "status"),
    [
        ("", "OK", 1),
        ("tensorflow.serving.PredictionService", "OK", 1),
        ("PredictionService", "OK", 1),
        ("m", "OK", 1),
        ("nobody", "NOT_FOUND", None),
    ],
)
async def test_health_knows_services_and_models(call, service, name, code, status):
    asked = message("grpc.health.v1.HealthCheckRequest")(service=name)
    for ready in (True, False):
        service.ready = ready
        found, body = await call("/grpc.health.v1.Health/Check", asked)
        assert found == code
        if status:
            answer = message("grpc.health.v1.HealthCheckResponse").FromString(body)
            assert answer.status == (1 if ready else 2)
