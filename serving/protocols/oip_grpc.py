"""The Open Inference Protocol's gRPC interface, with Triton's extensions."""

from collections.abc import Mapping
from dataclasses import replace

from serving.protocols.oip_rest import default_signature
from serving.protocols.service import Administration, Service, required
from serving.protocols.status import GrpcMethod, text_of
from serving.transport import GrpcRequest
from serving.wire import oip_proto
from serving.wire.oip import extensions, no_shared_memory

INFERENCE_SERVICE = "inference.GRPCInferenceService"

# Triton's, which our description leaves out: they are there to be refused with a sentence.
SHARED_MEMORY = tuple(
    f"{kind}SharedMemory{verb}"
    for kind in ("System", "Cuda")
    for verb in ("Status", "Register", "Unregister")
)


class OipGrpc:
    """Answers the methods of `inference.GRPCInferenceService`."""

    def __init__(
        self, service: Service, name: str, version: str, administration: Administration | None
    ) -> None:
        self._service = service
        self._administration = administration
        self._name = name
        self._version = version

    def methods(self) -> Mapping[str, GrpcMethod]:
        """The methods by their full path."""
        named = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelInfer": self._infer,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            **dict.fromkeys(SHARED_MEMORY, self._shared_memory),
        }
        return {f"/{INFERENCE_SERVICE}/{name}": method for name, method in named.items()}

    def streams(self) -> Mapping[str, GrpcMethod]:
        """The streams by their full path; each request has one answer."""
        return {f"/{INFERENCE_SERVICE}/ModelStreamInfer": self._stream_infer}

    async def _server_live(self, _: GrpcRequest) -> bytes:
        return oip_proto.new("ServerLiveResponse", live=self._service.is_live())

    async def _server_ready(self, _: GrpcRequest) -> bytes:
        return oip_proto.new("ServerReadyResponse", ready=self._service.is_ready())

    async def _server_metadata(self, _: GrpcRequest) -> bytes:
        return oip_proto.new(
            "ServerMetadataResponse",
            name=self._name,
            version=self._version,
            extensions=extensions(has_administration=self._administration is not None),
        )

    async def _model_ready(self, request: GrpcRequest) -> bytes:
        target = oip_proto.decode_target("ModelReadyRequest", request.body)
        self._service.status(target)  # an unknown model is not found, not unready
        return oip_proto.new("ModelReadyResponse", ready=self._service.is_model_ready(target))

    async def _model_metadata(self, request: GrpcRequest) -> bytes:
        target = oip_proto.decode_target("ModelMetadataRequest", request.body)
        found = self._service.metadata(target)
        if target.version is not None:
            found = replace(found, versions=(found.version,))
        return oip_proto.encode_metadata(found, default_signature(found.signatures))

    async def _model_config(self, request: GrpcRequest) -> bytes:
        target = oip_proto.decode_target("ModelConfigRequest", request.body)
        found = self._service.metadata(target)
        return oip_proto.encode_config(found, default_signature(found.signatures))

    async def _infer(self, request: GrpcRequest) -> bytes:
        asked = oip_proto.decode_infer_request(request.body)
        metadata = self._service.metadata(asked.call.target)
        reply = await self._service.predict(asked.due(request.received, request.deadline))
        return oip_proto.encode_infer_reply(asked, reply, metadata.labels)

    async def _stream_infer(self, request: GrpcRequest) -> bytes:
        try:
            return oip_proto.encode_stream_reply(await self._infer(request))
        except Exception as error:  # noqa: BLE001 - an error ends its request, not the stream
            request_id = oip_proto.id_of(request.body)
            return oip_proto.encode_stream_error(text_of(error, request_id), request_id)

    async def _index(self, request: GrpcRequest) -> bytes:
        asked = oip_proto.parse("RepositoryIndexRequest", request.body)
        return oip_proto.encode_index(self._service.statuses(), only_ready=asked.ready)

    async def _load(self, request: GrpcRequest) -> bytes:
        model = oip_proto.decode_load_request("RepositoryModelLoadRequest", request.body)
        await required(self._administration).load(model)
        return oip_proto.new("RepositoryModelLoadResponse", model_name=model, isLoaded=True)

    async def _unload(self, request: GrpcRequest) -> bytes:
        model = oip_proto.decode_load_request("RepositoryModelUnloadRequest", request.body)
        await required(self._administration).unload(model)
        return oip_proto.new("RepositoryModelUnloadResponse", model_name=model, isUnloaded=True)

    async def _shared_memory(self, _: GrpcRequest) -> bytes:
        raise no_shared_memory()

    async def _statistics(self, request: GrpcRequest) -> bytes:
        asked = oip_proto.parse("ModelStatisticsRequest", request.body)
        target = oip_proto.target_of(asked.name, asked.version) if asked.name else None
        return oip_proto.encode_statistics(self._service.statistics(target))
