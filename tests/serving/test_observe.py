"""Header, metric, log line and span tell of a request in the same words."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.sources import BasePath
from serving.errors import DeadlineExceededError, InvalidRequestError, OverloadedError
from serving.journey import Journey, current
from serving.messages import Outcome, Timings, VersionOptions
from serving.metrics import Metrics
from serving.observe import JsonFormatter, Observer, TextFormatter
from serving.protocols.grpc import build_grpc
from serving.protocols.http import build_http
from serving.tracing import OpenTelemetryTracer
from serving.transport import GrpcRequest, HttpRequest
from serving.wire import tfs_proto
from tests.serving.protocols.fakes import FakeService
from tests.serving.published import publish_tiny

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = {"instances": [1.0, 2.0]}


class TellingService(FakeService):
    """Fills the journey as the core does."""

    def __init__(self, metrics):
        super().__init__()
        self.telling = metrics
        self.outcome = Outcome.DIRECT
        self.refusal = None

    async def predict(self, call):
        journey = current.get()
        journey.kind, journey.model = "predict", "m"
        try:
            if self.refusal is not None:
                raise self.refusal
            reply = await super().predict(call)
        except Exception as error:
            journey.outcome = Outcome.SHED if isinstance(error, OverloadedError) else Outcome.LATE
            journey.code = "RESOURCE_EXHAUSTED"
            self.telling.failed(journey)
            raise
        journey.version, journey.rows, journey.outcome = 2, 2, self.outcome
        journey.timings = Timings(decode_s=0.001, queue_s=0.002, execute_s=0.003)
        journey.answered = journey.received + 0.006
        self.telling.answered(journey)
        return reply


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def service(metrics):
    return TellingService(metrics)


@pytest.fixture
def lines(caplog):
    """The log lines so far, as the JSON formatter writes them."""
    caplog.set_level(logging.INFO, "convzoo.requests")

    def told():
        return [json.loads(JsonFormatter().format(each)) for each in caplog.records]

    return told


async def over_rest(service, observer, **headers):
    handler = build_http(service, observer=observer)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = HttpRequest("POST", "/v1/models/m:predict", "", names, json.dumps(BODY).encode())
    response = await handler(request)
    return response.status, dict(response.headers)


async def over_grpc(service, observer, **metadata):
    from serving.messages import PredictCall, Target

    body = tfs_proto.encode_predict_request(
        PredictCall(Target("m"), {"x": np.array([1, 2], np.float32)})
    )
    names = {name.replace("_", "-"): value for name, value in metadata.items()}
    response = await build_grpc(service, observer=observer)[tfs_proto.PREDICT](
        GrpcRequest(body, names)
    )
    return response.code, dict(response.trailers)


@pytest.mark.parametrize("outcome", ["direct", "queued", "joined", "cached"])
@pytest.mark.parametrize("ask", [over_rest, over_grpc])
async def test_an_answer_says_how_it_came_about_everywhere(service, metrics, lines, ask, outcome):
    service.outcome = Outcome(outcome)
    observer = Observer(metrics, logged="all")
    _, told = await ask(service, observer, x_request_id="r7")
    assert (told["x-convzoo-outcome"], told["x-request-id"]) == (outcome, "r7")
    (line,) = lines()
    assert (line["outcome"], line["request_id"], line["model"]) == (outcome, "r7", "m")
    assert (line["queue_s"], line["execute_s"], line["version"]) == (0.002, 0.003, 2)
    protocol = "tfs_rest" if ask is over_rest else "tfs_grpc"
    assert line["protocol"] == protocol
    text = metrics.render()[0].decode()
    assert (
        f'convzoo_requests_total{{code="OK",kind="predict",model="m",outcome="{outcome}",'
        f'protocol="{protocol}",version="2"}} 1.0'
    ) in text
    for stage in ("decode", "queue", "execute", "encode"):
        assert (
            f'convzoo_stage_seconds_count{{model="m",protocol="{protocol}",stage="{stage}",'
            'version="2"} 1.0'
        ) in text


@pytest.mark.parametrize("ask", [over_rest, over_grpc])
async def test_a_request_that_was_shed_says_so_everywhere(service, metrics, lines, ask):
    service.refusal = OverloadedError("too much waits", retry_after_s=2.5)
    observer = Observer(metrics)
    code, told = await ask(service, observer)
    assert code == (429 if ask is over_rest else 8)
    assert (told["x-convzoo-outcome"], told["retry-after"]) == ("shed", "3")
    if ask is over_grpc:
        assert told["grpc-retry-pushback-ms"] == "2500"
    (line,) = lines()
    assert (line["outcome"], line["code"], line["error"]) == (
        "shed",
        "RESOURCE_EXHAUSTED",
        "too much waits",
    )
    assert 'outcome="shed"' in metrics.render()[0].decode()


async def test_under_overload_one_line_a_second_tells_of_all(service, metrics, lines):
    service.refusal = OverloadedError("too much waits", retry_after_s=1)
    now = 0.0
    observer = Observer(metrics, clock=lambda: now)
    for _ in range(50):
        await over_rest(service, observer)
    now = 1.5
    await over_rest(service, observer)
    assert [line["requests"] for line in lines()] == [1, 50]


async def test_what_nothing_could_be_made_of_is_counted_too(metrics, lines):
    handler = build_http(FakeService(), observer=Observer(metrics))
    await handler(HttpRequest("POST", "/v1/models/m:predict", body=b"{"))
    await handler(HttpRequest("POST", "/v1/nonsense"))
    await handler(HttpRequest("GET", "/nonsense"))
    assert (
        'convzoo_requests_total{code="INVALID_ARGUMENT",kind="unread",model="unknown",'
        'outcome="failed",protocol="tfs_rest",version=""} 2.0'
    ) in metrics.render()[0].decode()
    assert [line["level"] for line in lines()] == ["WARNING"] * 2


async def test_tensorflow_servings_latencies_name_the_method(service, metrics):
    handler = build_http(service, observer=Observer(metrics))
    for method in ("classify", "regress"):
        body = json.dumps({"examples": [{"x": 0.25}], "signature_name": method}).encode()
        response = await handler(HttpRequest("POST", f"/v1/models/m:{method}", "", {}, body))
        assert response.status == 200
    await over_rest(service, None)
    await over_grpc(service, None)
    text = metrics.render()[0].decode()
    for api, door in (
        ("classify", "REST"),
        ("regress", "REST"),
        ("predict", "REST"),
        ("Predict", "GRPC"),
    ):
        assert (
            f':tensorflow:serving:request_latency_count{{model_name="m",API="{api}",'
            f'entrypoint="{door}"}} 1'
        ) in text


@pytest.mark.openvino
async def test_what_a_model_cannot_read_is_a_failure_of_that_model_everywhere(tmp_path, lines):
    """The model admits the request before its body is decoded; what then fails is counted once."""
    metrics = Metrics()
    publish_tiny(tmp_path)
    with ThreadPoolExecutor(1) as decoders:

        def load(settings, version, path):
            return Servable(settings.name, version, path, decoders=decoders)

        source = BasePath(tmp_path, options=VersionOptions(is_tuned=False))
        repository = Repository(source, load)
        await repository.refresh()
        service = Service(repository, metrics=metrics)
        observer = Observer(metrics)
        handler = build_http(service, observer=observer)
        for path, body in (
            ("/v1/models/tiny:predict", b"{"),
            ("/v1/models/tiny:predict", b'{"instances": [[1], [1, 2]]}'),
            ("/v1/models/tiny:predict", b'{"instances": [' + b"1" * 5000 + b"]}"),
            ("/v2/models/tiny/infer", b"{"),
        ):
            response = await handler(HttpRequest("POST", path, "", {}, body))
            assert response.status == 400
            assert dict(response.headers)["x-convzoo-outcome"] == "failed"
        response = await build_grpc(service, observer=observer)[tfs_proto.PREDICT](
            GrpcRequest(b"\xff", {})
        )
        assert dict(response.trailers)["x-convzoo-outcome"] == "failed"
        await repository.close()
    assert [(line["model"], line["outcome"]) for line in lines()] == [
        *[("tiny", "failed")] * 4,
        ("unknown", "failed"),
    ]
    text = metrics.render()[0].decode()
    for kind, model, protocol, count in (
        ("predict", "tiny", "tfs_rest", 3),
        ("predict", "tiny", "oip_rest", 1),
        ("unread", "unknown", "tfs_grpc", 1),
    ):
        assert (
            f'convzoo_requests_total{{code="INVALID_ARGUMENT",kind="{kind}",model="{model}",'
            f'outcome="failed",protocol="{protocol}",version=""}} {count}.0'
        ) in text


@pytest.mark.openvino
async def test_versions_and_the_process_are_told_to_prometheus(tmp_path):
    publish_tiny(tmp_path)
    (tmp_path / "tiny" / "2").mkdir()
    (tmp_path / "tiny" / "2" / "saved_model.pb").write_bytes(b"no graph")
    metrics = Metrics()
    with ThreadPoolExecutor(1) as decoders:

        def load(settings, version, path):
            return Servable(settings.name, version, path, decoders=decoders)

        options = VersionOptions(is_tuned=False, engine="openvino")
        repository = Repository(BasePath(tmp_path, options=options), load)
        metrics.follow(repository.statuses, repository.queued)
        await repository.refresh()
        text = metrics.render()[0].decode()
        await repository.close()
    state = "convzoo_version_state{code="
    assert f'{state}"OK",model="tiny",state="AVAILABLE",version="1"}} 1.0' in text
    (failed,) = [each for each in text.splitlines() if 'state="END"' in each]
    assert 'version="2"' in failed
    assert 'code="OK"' not in failed
    assert 'convzoo_queued_rows{model="tiny",version="1"} 0.0' in text
    assert "process_resident_memory_bytes " in text
    text = metrics.render()[0].decode()
    assert f'{state}"OK",model="tiny",state="END",version="1"}} 1.0' in text
    assert "convzoo_queued_rows{" not in text


async def test_a_request_is_logged_as_asked(service, metrics, lines):
    await over_rest(service, Observer(metrics, logged="none"))
    await over_rest(service, Observer(metrics, logged="errors"))
    assert lines() == []
    service.refusal = DeadlineExceededError("too late")
    await over_rest(service, Observer(metrics, logged="none"))
    assert lines() == []
    await over_rest(service, Observer(metrics, logged="errors"))
    assert [line["error"] for line in lines()] == ["too late"]


def test_lines_for_people_name_the_same(caplog):
    record = logging.makeLogRecord(
        {"msg": "request", "name": "convzoo.requests", "request": {"outcome": "queued"}}
    )
    assert TextFormatter().format(record).endswith("convzoo.requests: request outcome=queued")
    fields = {"error": "No model 'é\n2026 INFO forged\r\x1b[31m\u2028'."}
    record = logging.makeLogRecord({"msg": "two\nlines", "request": fields})
    for formatter in (TextFormatter(), JsonFormatter()):
        assert len(formatter.format(record).splitlines()) == 1
    assert (
        TextFormatter()
        .format(record)
        .endswith(r"two\nlines error=No model 'é\n2026 INFO forged\r\x1b[31m\u2028'.")
    )
    try:
        raise InvalidRequestError("wrong")
    except InvalidRequestError:
        import sys

        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    assert "wrong" in json.loads(JsonFormatter().format(record))["exception"]
    assert TextFormatter().format(record).splitlines()[-1].endswith("InvalidRequestError: wrong")


# --- Spans --------------------------------------------------------------------------------------


@pytest.fixture
def spans():
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = OpenTelemetryTracer(None, provider=provider)
    yield tracer, exporter.get_finished_spans
    tracer.close()


@pytest.mark.parametrize("ask", [over_rest, over_grpc])
async def test_spans_go_on_from_the_callers_trace(service, metrics, spans, ask):
    tracer, finished = spans
    await ask(service, Observer(metrics, tracer=tracer), traceparent=PARENT, x_request_id="r7")
    *stages, whole = finished()
    assert f"{whole.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{whole.parent.span_id:016x}" == PARENT.split("-")[2]
    assert (whole.name, whole.kind.name) == ("predict m", "SERVER")
    assert whole.attributes["convzoo.outcome"] == "direct"
    assert whole.attributes["convzoo.request_id"] == "r7"
    assert [each.name for each in stages][:3] == ["decode", "queue", "execute"]
    assert all(each.parent.span_id == whole.context.span_id for each in stages)
    assert stages[1].end_time - stages[1].start_time == pytest.approx(2_000_000, abs=1000)
    assert all(one.end_time <= next_.start_time for one, next_ in pairwise(stages[:3]))


async def test_a_span_of_a_failure_says_why(service, metrics, spans):
    tracer, finished = spans
    service.refusal = OverloadedError("too much waits", retry_after_s=1)
    await over_rest(service, Observer(metrics, tracer=tracer))
    (span,) = finished()
    assert (span.status.status_code.name, span.status.description) == ("ERROR", "too much waits")
    assert span.attributes["convzoo.outcome"] == "shed"


def test_a_journey_without_a_front_is_direct():
    assert (Journey().protocol, Journey().outcome) == ("direct", "direct")


# --- CORS, deadlines and priorities by header ----------------------------------------------------


async def test_pages_from_anywhere_may_read_when_it_is_asked_for():
    for has_cors in (True, False):
        handler = build_http(FakeService(), has_cors=has_cors)
        response = await handler(HttpRequest("GET", "/v1/models/m"))
        assert (dict(response.headers).get("access-control-allow-origin") == "*") == has_cors
        asked = HttpRequest("OPTIONS", "/v1/models/m:predict", headers={"origin": "http://a.b"})
        response = await handler(asked)
        assert (response.status, response.body) == (200, b"")
        assert ("access-control-allow-methods" in dict(response.headers)) == has_cors
        assert (await handler(HttpRequest("OPTIONS", "/v1/models/m:predict"))).status == 400
        assert "access-control-allow-origin" not in dict(
            (await handler(HttpRequest("GET", "/v2/models/m"))).headers
        )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-request-timeout-s": "2.5"}, 2.5),
        ({"grpc-timeout": "250m"}, 0.25),
        ({"grpc-timeout": "3S"}, 3.0),
        ({"grpc-timeout": "1H"}, 3600.0),
        ({"grpc-timeout": "100u"}, 0.0001),
    ],
)
async def test_a_deadline_may_come_in_either_header(headers, seconds):
    service = FakeService()
    handler = build_http(service)
    body = json.dumps(BODY).encode()
    await handler(HttpRequest("POST", "/v1/models/m:predict", "", headers, body, received=100.0))
    assert service.last.deadline == pytest.approx(100 + seconds)


async def test_a_priority_reaches_the_core(metrics):
    seen = []

    class Looking(FakeService):
        async def predict(self, call):
            seen.append(current.get().priority)
            return await super().predict(call)

    await over_rest(Looking(), None, x_request_priority="3")
    await over_grpc(Looking(), None, x_request_priority="2")
    await over_rest(Looking(), None)
    assert seen == [3, 2, 0]
    code, _ = await over_grpc(Looking(), None, x_request_priority="high")
    assert code == 3
