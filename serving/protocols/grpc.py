"""All gRPC methods by their full path: TensorFlow Serving's, Open Inference's, and health."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from importlib.metadata import version

from serving.errors import ServingError, SignatureNotFoundError
from serving.messages import Target
from serving.protocols.oip_rest import default_signature
from serving.protocols.service import Service
from serving.protocols.status import grpc_code, text_of
from serving.protocols.tfs_texts import asking, asking_status
from serving.transport import GrpcHandler, GrpcRequest, GrpcResponse, GrpcRoutes
from serving.wire import oip_proto, tfs_proto
from serving.wire.codes import CODE_NUMBERS
from serving.wire.oip import EXTENSIONS
from serving.wire.pool import message

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVICES = (
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
)
SERVING, NOT_SERVING = 1, 2


def build_grpc(service: Service) -> GrpcRoutes:
    """The handler of every gRPC method."""

    async def predict(request: GrpcRequest) -> bytes:
        call = replace(
            tfs_proto.decode_predict_request(request.body),
            deadline=request.deadline,
            request_id=request.metadata.get("x-request-id", ""),
        )
        with asking(call.target):
            if call.signature == tfs_proto.CLASSIFY_IMAGES:
                images = tfs_proto.as_classify_call(call)
                return tfs_proto.encode_classify_reply(await service.classify_images(images))
            try:
                reply = await service.predict(call)
            except SignatureNotFoundError as error:
                raise _SignatureKeyError(error) from error
            return tfs_proto.encode_predict_reply(reply)

    async def metadata(request: GrpcRequest) -> bytes:
        target = tfs_proto.decode_metadata_request(request.body)
        with asking(target):
            return tfs_proto.encode_metadata_reply(service.metadata(target))

    async def status(request: GrpcRequest) -> bytes:
        target = tfs_proto.decode_status_request(request.body)
        with asking_status(target):
            return tfs_proto.encode_status_reply(service.status(target))

    async def health(request: GrpcRequest) -> bytes:
        name = message("grpc.health.v1.HealthCheckRequest").FromString(request.body).service
        if name in ("", *SERVICES):
            is_serving = service.is_ready()
        elif name in service.models():
            is_serving = service.is_model_ready(Target(name))
        else:
            raise _UnknownServiceError(f"No service or model {name!r}.")
        reply = message("grpc.health.v1.HealthCheckResponse")()
        reply.status = SERVING if is_serving else NOT_SERVING
        body: bytes = reply.SerializeToString()
        return body

    async def infer(request: GrpcRequest) -> bytes:
        asked = oip_proto.decode_infer_request(request.body)
        metadata_ = service.metadata(asked.call.target)
        reply = await service.predict(replace(asked.call, deadline=request.deadline))
        return oip_proto.encode_infer_reply(asked, reply, metadata_.labels)

    async def server_live(_: GrpcRequest) -> bytes:
        return oip_proto.new("ServerLiveResponse", live=service.is_live())

    async def server_ready(_: GrpcRequest) -> bytes:
        return oip_proto.new("ServerReadyResponse", ready=service.is_ready())

    async def server_metadata(_: GrpcRequest) -> bytes:
        return oip_proto.new(
            "ServerMetadataResponse",
            name="convzoo",
            version=version("convzoo"),
            extensions=EXTENSIONS,
        )

    async def model_ready(request: GrpcRequest) -> bytes:
        asked = oip_proto.parse("ModelReadyRequest", request.body)
        target = oip_proto.target_of(asked.name, asked.version)
        service.status(target)  # an unknown model is not found, not unready
        return oip_proto.new("ModelReadyResponse", ready=service.is_model_ready(target))

    async def model_metadata(request: GrpcRequest) -> bytes:
        asked = oip_proto.parse("ModelMetadataRequest", request.body)
        target = oip_proto.target_of(asked.name, asked.version)
        found = service.metadata(target)
        if target.version is not None:
            found = replace(found, versions=(found.version,))
        return oip_proto.encode_metadata(found, default_signature(found.signatures))

    async def index(request: GrpcRequest) -> bytes:
        asked = oip_proto.parse("RepositoryIndexRequest", request.body)
        statuses = tuple(service.status(Target(name)) for name in service.models())
        return oip_proto.encode_index(statuses, only_ready=asked.ready)

    open_inference = {
        "ModelInfer": infer,
        "ServerLive": server_live,
        "ServerReady": server_ready,
        "ServerMetadata": server_metadata,
        "ModelReady": model_ready,
        "ModelMetadata": model_metadata,
        "RepositoryIndex": index,
    }
    return {
        **{f"{oip_proto.SERVICE}/{name}": _handler(each) for name, each in open_inference.items()},
        tfs_proto.PREDICT: _handler(predict),
        tfs_proto.GET_MODEL_METADATA: _handler(metadata),
        tfs_proto.GET_MODEL_STATUS: _handler(status),
        HEALTH_CHECK: _handler(health),
    }


class _SignatureKeyError(ServingError):
    """TensorFlow Serving answers FAILED_PRECONDITION here, and INVALID_ARGUMENT over REST."""

    def __init__(self, error: SignatureNotFoundError) -> None:
        super().__init__(f'Serving signature key "{error.signature}" not found. {error}')


class _UnknownServiceError(ServingError):
    """gRPC's health protocol answers NOT_FOUND."""


_OWN_CODES: dict[type[Exception], str] = {
    _SignatureKeyError: "FAILED_PRECONDITION",
    _UnknownServiceError: "NOT_FOUND",
}


def _handler(method: Callable[[GrpcRequest], Awaitable[bytes]]) -> GrpcHandler:
    async def handle(request: GrpcRequest) -> GrpcResponse:
        request_id = request.metadata.get("x-request-id", "")
        trailers = (("x-request-id", request_id),) if request_id else ()
        try:
            return GrpcResponse(await method(request), trailers=trailers)
        except Exception as error:  # noqa: BLE001 - text_of logs what is a defect
            own = _OWN_CODES.get(type(error))
            code = CODE_NUMBERS[own] if own else grpc_code(error)
            return GrpcResponse(code=code, message=text_of(error, request_id), trailers=trailers)

    return handle
