"""All gRPC methods by their full path: TensorFlow Serving's, Open Inference's, and health."""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator
from importlib.metadata import version

from serving.errors import OverloadedError
from serving.journey import OUTCOME_HEADER, Journey, current
from serving.messages import Target
from serving.observe import Observer
from serving.protocols.http import (
    MOST_REQUEST_ID,
    MOST_TRACEPARENT,
    PRIORITY_HEADER,
    priority_of,
)
from serving.protocols.oip_grpc import INFERENCE_SERVICE, OipGrpc
from serving.protocols.pacing import Pacing
from serving.protocols.reflection import REFLECTION_SERVICE, Reflection
from serving.protocols.service import Administration, Service
from serving.protocols.status import (
    FixedCodeError,
    GrpcMethod,
    Timed,
    facts_of,
    grpc_code,
    text_of,
    timings_header,
)
from serving.protocols.tfs_grpc import MODEL_SERVICE, PREDICTION_SERVICE, TfsGrpc
from serving.transport import (
    GrpcHandler,
    GrpcRequest,
    GrpcResponse,
    GrpcRoutes,
    GrpcWatches,
)
from serving.wire.codes import CODE_NAMES
from serving.wire.pool import new_message, parse_message

HEALTH_SERVICE = "grpc.health.v1.Health"
SERVICES = (
    *(PREDICTION_SERVICE, MODEL_SERVICE, INFERENCE_SERVICE, HEALTH_SERVICE),
    REFLECTION_SERVICE,
)
# TensorFlow Serving registers its own without their package.
HEALTH_NAMES = ("", "PredictionService", "ModelService", *SERVICES)
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
PROTOCOLS = (("/tensorflow.serving.", "tfs_grpc"), ("/inference.", "oip_grpc"))
IDENTITY = ("convzoo", version("convzoo"))


def build_grpc(
    service: Service,
    administration: Administration | None = None,
    observer: Observer | None = None,
) -> GrpcRoutes:
    """The handler of every unary method; without `administration` nothing can be changed."""

    async def health(request: GrpcRequest) -> bytes:
        name = _asked_service(request)
        status = _status(service, name)
        if status == SERVICE_UNKNOWN:
            raise FixedCodeError(f"No service or model {name!r}.", code="NOT_FOUND")
        return _health_reply(status)

    methods = {
        **TfsGrpc(service, administration).methods(),
        **OipGrpc(service, *IDENTITY, administration).methods(),
        f"/{HEALTH_SERVICE}/Check": health,
    }
    pacing = Pacing()
    return {path: _handler(path, method, observer, pacing) for path, method in methods.items()}


def build_grpc_streams(
    service: Service,
    administration: Administration | None = None,
    observer: Observer | None = None,
) -> GrpcRoutes:
    """The handler of every stream of requests; it is called once a message."""
    methods = {
        **OipGrpc(service, *IDENTITY, administration).streams(),
        **Reflection(SERVICES).methods(),
    }
    pacing = Pacing()
    return {path: _handler(path, method, observer, pacing) for path, method in methods.items()}


def build_grpc_watches(service: Service, *, look_every_s: float = 0.1) -> GrpcWatches:
    """The methods that answer until the caller goes: health's Watch.

    Args:
        service: What is watched.
        look_every_s: How often it is looked at; a change is told that late at most.
    """

    async def watch(request: GrpcRequest) -> AsyncIterator[bytes]:
        name = _asked_service(request)
        told = None
        while True:
            # A service that is not there is told too: it may come.
            status = _status(service, name)
            if status != told:
                told = status
                yield _health_reply(status)
            await asyncio.sleep(look_every_s)

    return {f"/{HEALTH_SERVICE}/Watch": watch}


def _asked_service(request: GrpcRequest) -> str:
    name: str = parse_message("grpc.health.v1.HealthCheckRequest", request.body).service
    return name


def _status(service: Service, name: str) -> int:
    if name in HEALTH_NAMES:
        is_serving = service.is_ready()
    elif name in service.models():
        is_serving = service.is_model_ready(Target(name))
    else:
        return SERVICE_UNKNOWN
    return SERVING if is_serving else NOT_SERVING


def _health_reply(status: int) -> bytes:
    return new_message("grpc.health.v1.HealthCheckResponse", status=status)


def _handler(
    path: str, method: GrpcMethod, observer: Observer | None, pacing: Pacing
) -> GrpcHandler:
    protocol = next((name for package, name in PROTOCOLS if path.startswith(package)), "")

    async def handle(request: GrpcRequest) -> GrpcResponse:
        metadata = request.metadata
        journey = Journey(
            protocol,
            metadata.get("x-request-id", "")[:MOST_REQUEST_ID],
            metadata.get("traceparent", "")[:MOST_TRACEPARENT],
            received=request.received or time.monotonic(),
        )
        current.set(journey)
        trailers: list[tuple[str, str]] = []
        try:
            if PRIORITY_HEADER in metadata:
                journey.priority = priority_of(metadata[PRIORITY_HEADER])
            found = await method(request)
            if isinstance(found, Timed):
                trailers.append(timings_header(found.timings))
                found = found.body
            response = GrpcResponse(found)
        except Exception as error:  # noqa: BLE001 - text_of logs what is a defect
            code = grpc_code(error)
            journey.request_id = journey.request_id or uuid.uuid4().hex
            trailers += facts_of(error)
            journey.failed(CODE_NAMES[code], str(error))
            response = GrpcResponse(code=code, message=text_of(error, journey.request_id))
            if isinstance(error, OverloadedError):
                if delay_s := pacing.delay_s():
                    await asyncio.sleep(delay_s)
                # gRPC's own clients wait so long when a retry policy lets them try again.
                milliseconds = str(max(1, round(error.retry_after_s * 1000)))
                trailers.append(("grpc-retry-pushback-ms", milliseconds))
                trailers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
        if journey.request_id:
            trailers.append(("x-request-id", journey.request_id))
        if journey.kind:
            trailers.append((OUTCOME_HEADER, str(journey.outcome)))
        if observer is not None and protocol:
            observer.finished(journey)
        if not trailers:
            return response
        return GrpcResponse(response.body, response.code, response.message, tuple(trailers))

    return handle
