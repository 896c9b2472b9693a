"""All HTTP front ends behind one handler: who answers, within what time, and how errors look."""

import time
import uuid
from dataclasses import replace
from importlib.metadata import version

from serving.errors import InvalidRequestError
from serving.protocols import playground
from serving.protocols.compression import inflated, inflated_as_tensorflow_serving
from serving.protocols.native import Native
from serving.protocols.oip_rest import OipRest
from serving.protocols.service import Administration, Service
from serving.protocols.status import facts_of, http_status, text_of
from serving.protocols.tfs_rest import JSON, TfsRest, malformed
from serving.transport import HttpHandler, HttpRequest, HttpResponse
from serving.wire.tfs_json import encode_error

# Seconds that a caller gives the request, as our own client sends them.
TIMEOUT_HEADER = "x-request-timeout-s"
REQUEST_ID_HEADER = "x-request-id"
TEXT = (("content-type", "text/plain; charset=utf-8"),)


def build_http(service: Service, administration: Administration | None = None) -> HttpHandler:
    """The handler of every HTTP request; without `administration` nothing can be changed."""
    tfs, native = TfsRest(service), Native(service)
    oip = OipRest(service, "convzoo", version("convzoo"), administration)

    fronts = (
        ("/v1/", tfs.handle, inflated_as_tensorflow_serving),
        ("/V1/", tfs.handle, inflated_as_tensorflow_serving),
        ("/v2", oip.handle, inflated),
        ("/api/", native.handle, inflated),
        (playground.PATH, playground.handle, inflated),
    )

    async def answer(request: HttpRequest) -> HttpResponse:
        for prefix, front, unfold in fronts:
            if request.path.startswith(prefix):
                return await front(unfold(request), _deadline(request))
        return _own(service, request)

    async def handle(request: HttpRequest) -> HttpResponse:
        request_id = request.headers.get(REQUEST_ID_HEADER, "")[:128]
        try:
            response = await answer(request)
        except Exception as error:  # noqa: BLE001 - text_of logs what is a defect
            request_id = request_id or uuid.uuid4().hex
            body = encode_error(text_of(error, request_id))
            response = HttpResponse(http_status(error), (*JSON, *facts_of(error)), body)
        if request_id:
            echo = (REQUEST_ID_HEADER, request_id)
            response = replace(response, headers=(*response.headers, echo))
        return response

    return handle


def _own(service: Service, request: HttpRequest) -> HttpResponse:
    """The server's own pages: probes and metrics."""
    match request.path:
        case "/livez" | "/healthz":
            return HttpResponse(200, TEXT, b"live\n")
        case "/readyz":
            is_ready = service.is_ready()
            return HttpResponse(200 if is_ready else 503, TEXT, b"ready\n" if is_ready else b"no\n")
        case "/metrics":
            text, content_type = service.metrics()
            return HttpResponse(200, (("content-type", content_type),), text)
        case _:
            return HttpResponse(404, JSON, encode_error(str(malformed(request))))


def _deadline(request: HttpRequest) -> float | None:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequestError(
            f"{TIMEOUT_HEADER} is {text[:40]!r}; seconds above 0 work.", field=TIMEOUT_HEADER
        )
    return (request.received or time.monotonic()) + seconds
