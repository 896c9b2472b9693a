"""All gRPC methods by their full path: TensorFlow Serving's, Open Inference's, and health."""

import uuid
from importlib.metadata import version

from serving.messages import Target
from serving.protocols.oip_grpc import INFERENCE_SERVICE, OipGrpc
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
from serving.transport import GrpcHandler, GrpcRequest, GrpcResponse, GrpcRoutes
from serving.wire.pool import new_message, parse_message

HEALTH_SERVICE = "grpc.health.v1.Health"
SERVICES = (PREDICTION_SERVICE, MODEL_SERVICE, INFERENCE_SERVICE, HEALTH_SERVICE)
# TensorFlow Serving registers its own without their package.
HEALTH_NAMES = ("", "PredictionService", "ModelService", *SERVICES)
SERVING, NOT_SERVING = 1, 2


def build_grpc(service: Service, administration: Administration | None = None) -> GrpcRoutes:
    """The handler of every gRPC method; without `administration` nothing can be changed."""

    async def health(request: GrpcRequest) -> bytes:
        name = parse_message("grpc.health.v1.HealthCheckRequest", request.body).service
        if name in HEALTH_NAMES:
            is_serving = service.is_ready()
        elif name in service.models():
            is_serving = service.is_model_ready(Target(name))
        else:
            raise FixedCodeError(f"No service or model {name!r}.", code="NOT_FOUND")
        status = SERVING if is_serving else NOT_SERVING
        return new_message("grpc.health.v1.HealthCheckResponse", status=status)

    methods = {
        **TfsGrpc(service, administration).methods(),
        **OipGrpc(service, "convzoo", version("convzoo"), administration).methods(),
        f"/{HEALTH_SERVICE}/Check": health,
    }
    return {path: _handler(method) for path, method in methods.items()}


def _handler(method: GrpcMethod) -> GrpcHandler:
    async def handle(request: GrpcRequest) -> GrpcResponse:
        request_id = request.metadata.get("x-request-id", "")[:128]
        trailers: tuple[tuple[str, str], ...] = ()
        if request_id:
            trailers = (("x-request-id", request_id),)
        try:
            found = await method(request)
            if isinstance(found, Timed):
                return GrpcResponse(found.body, trailers=(*trailers, timings_header(found.timings)))
            return GrpcResponse(found, trailers=trailers)
        except Exception as error:  # noqa: BLE001 - text_of logs what is a defect
            request_id = request_id or uuid.uuid4().hex
            trailers = (("x-request-id", request_id), *facts_of(error))
            text = text_of(error, request_id)
            return GrpcResponse(code=grpc_code(error), message=text, trailers=trailers)

    return handle
