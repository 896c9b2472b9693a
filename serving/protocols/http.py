"""All HTTP front ends behind one handler: who answers, within what time, and how errors look."""

import asyncio
import math
import time
import uuid
from dataclasses import replace
from importlib.metadata import version

from serving.errors import InvalidRequestError, NotReadyError, OverloadedError
from serving.journey import OUTCOME_HEADER, Journey, current
from serving.observe import Observer
from serving.protocols import playground
from serving.protocols.compression import inflated, inflated_as_tensorflow_serving
from serving.protocols.native import Native
from serving.protocols.oip_rest import OipRest
from serving.protocols.openapi import DOCS_PAGE, openapi_json
from serving.protocols.pacing import Pacing
from serving.protocols.service import Administration, Service
from serving.protocols.status import facts_of, grpc_code, http_status, text_of
from serving.protocols.tfs_rest import JSON, TfsRest, malformed
from serving.transport import HttpHandler, HttpRequest, HttpResponse
from serving.wire.codes import CODE_NAMES
from serving.wire.tfs_json import encode_error

# Seconds that a caller gives the request, as our own client sends them.
TIMEOUT_HEADER = "x-request-timeout-s"
REQUEST_ID_HEADER = "x-request-id"
GRPC_TIMEOUT_HEADER = "grpc-timeout"
_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
PRIORITY_HEADER = "x-request-priority"
METRICS_PATH = "/monitoring/prometheus/metrics"
MOST_REQUEST_ID, MOST_TRACEPARENT = 128, 64
CORS = (
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "POST, GET"),
    ("access-control-allow-headers", "Content-Type"),
)
HTML = (
    ("content-type", "text/html; charset=utf-8"),
    ("content-security-policy", "default-src 'self' 'unsafe-inline'"),
)
TEXT = (("content-type", "text/plain; charset=utf-8"),)


def build_http(
    service: Service,
    administration: Administration | None = None,
    observer: Observer | None = None,
    *,
    has_cors: bool = False,
    metrics_path: str = METRICS_PATH,
) -> HttpHandler:
    """The handler of every HTTP request.

    Args:
        service: Answers.
        administration: Changes what is served; without it nothing can be changed.
        observer: Told of every request under a protocol's prefix.
        has_cors: Whether answers under /v1 may be read by pages from anywhere.
        metrics_path: Where Prometheus reads, besides /metrics.
    """
    tfs, native, pacing = TfsRest(service), Native(service), Pacing()
    oip = OipRest(service, "convzoo", version("convzoo"), administration)

    fronts = (
        ("/v1/", "tfs_rest", tfs.handle, inflated_as_tensorflow_serving),
        ("/V1/", "tfs_rest", tfs.handle, inflated_as_tensorflow_serving),
        ("/v2", "oip_rest", oip.handle, inflated),
        ("/api/", "native", native.handle, inflated),
        (playground.PATH, "playground", playground.handle, inflated),
    )

    async def answer(request: HttpRequest, journey: Journey) -> HttpResponse:
        if request.method == "HEAD":  # GET without the body, which the listener leaves out
            request = replace(request, method="GET")
        for prefix, protocol, front, unfold in fronts:
            if request.path.startswith(prefix):
                journey.protocol = protocol
                if request.method == "OPTIONS" and protocol == "tfs_rest":
                    return _preflight(request)
                if PRIORITY_HEADER in request.headers:
                    journey.priority = priority_of(request.headers[PRIORITY_HEADER])
                return await front(unfold(request), _deadline(request))
        if request.path in (metrics_path, "/metrics"):
            return _metrics(service)
        return _own(service, request)

    async def handle(request: HttpRequest) -> HttpResponse:
        headers = request.headers
        journey = Journey(
            request_id=headers.get(REQUEST_ID_HEADER, "")[:MOST_REQUEST_ID],
            traceparent=headers.get("traceparent", "")[:MOST_TRACEPARENT],
            received=request.received or time.monotonic(),
        )
        current.set(journey)
        extra: list[tuple[str, str]] = []
        try:
            response = await answer(request, journey)
        except Exception as error:  # noqa: BLE001 - text_of logs what is a defect
            journey.request_id = journey.request_id or uuid.uuid4().hex
            journey.failed(CODE_NAMES[grpc_code(error)], str(error))
            if isinstance(error, OverloadedError | NotReadyError):
                if isinstance(error, OverloadedError) and (delay_s := pacing.delay_s()):
                    await asyncio.sleep(delay_s)
                retry_after_s = getattr(error, "retry_after_s", 1.0)
                extra.append(("retry-after", str(max(1, math.ceil(retry_after_s)))))
            body = encode_error(text_of(error, journey.request_id))
            response = HttpResponse(http_status(error), (*JSON, *facts_of(error)), body)
        if journey.request_id:
            extra.append((REQUEST_ID_HEADER, journey.request_id))
        if journey.kind:
            extra.append((OUTCOME_HEADER, str(journey.outcome)))
        if has_cors and journey.protocol == "tfs_rest":
            extra += CORS
        if extra:
            response = HttpResponse(response.status, (*response.headers, *extra), response.body)
        if observer is not None and journey.protocol != "direct":
            observer.finished(journey)
        return response

    return handle


def _preflight(request: HttpRequest) -> HttpResponse:
    """What TensorFlow Serving answers to OPTIONS."""
    origin = request.headers.get("origin", "")
    if "http://" not in origin and "https://" not in origin:
        raise malformed(request)
    return HttpResponse(200, JSON)


def _metrics(service: Service) -> HttpResponse:
    text, content_type = service.metrics()
    return HttpResponse(200, (("content-type", content_type),), text)


def _own(service: Service, request: HttpRequest) -> HttpResponse:
    """The server's own pages: probes and its description."""
    match request.path:
        case "/":
            # What clients of KServe's first protocol take for life.
            return HttpResponse(200, JSON, b'{"status":"alive"}')
        case "/livez" | "/healthz":
            return HttpResponse(200, TEXT, b"live\n")
        case "/readyz":
            is_ready = service.is_ready()
            return HttpResponse(200 if is_ready else 503, TEXT, b"ready\n" if is_ready else b"no\n")
        case "/openapi.json":
            return HttpResponse(200, JSON, openapi_json())
        case "/docs":
            return HttpResponse(200, HTML, DOCS_PAGE.encode())
        case _:
            return HttpResponse(404, JSON, encode_error(str(malformed(request))))


def _deadline(request: HttpRequest) -> float | None:
    if (text := request.headers.get(TIMEOUT_HEADER)) is not None:
        name, seconds = TIMEOUT_HEADER, _seconds(text)
    elif (text := request.headers.get(GRPC_TIMEOUT_HEADER)) is not None:
        name, seconds = GRPC_TIMEOUT_HEADER, _grpc_seconds(text)
    else:
        return None
    if not 0 < seconds < float("inf"):
        example = "seconds above 0 work" if name == TIMEOUT_HEADER else "e.g. 250m or 2S works"
        raise InvalidRequestError(f"{name} is {text[:40]!r}; {example}.", field=name)
    return (request.received or time.monotonic()) + seconds


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _grpc_seconds(text: str) -> float:
    """At most eight digits and a unit, as gRPC writes it."""
    digits, unit = text[:-1], text[-1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 8 and unit in _GRPC_UNITS):
        return -1.0
    return int(digits) * _GRPC_UNITS[unit]


def priority_of(text: str) -> int:
    """A priority as a header says it; 1 is the highest, 0 the default.

    Raises:
        InvalidRequestError: it is no such number.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequestError(
            f"{PRIORITY_HEADER} is {text[:40]!r}; 0 (the default) or 1 (the highest) and more work.",
            field=PRIORITY_HEADER,
        )
    return int(text)
