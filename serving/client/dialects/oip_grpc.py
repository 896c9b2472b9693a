"""The Open Inference Protocol's gRPC interface."""

from typing import Any

from numpy.typing import NDArray

from serving.client.dialects import Again, has_one_size, replies
from serving.client.dialects.limits import no_images, no_label
from serving.client.dialects.oip_rest import (
    Entry,
    described,
    names_of,
    spec_of,
    status_of,
)
from serving.client.dialects.unexplained import Unexplained
from serving.client.exchange import Question, Reply, Request
from serving.client.results import Signature
from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Target,
    TensorSpec,
)
from serving.wire import oip_proto
from serving.wire.oip import view_raw


class OipGrpc(Unexplained):
    """The Open Inference Protocol over gRPC."""

    names_calls: bool = True

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """ModelInfer with raw contents."""
        del signature  # answers carry names and types
        no_label(call.target)
        body = oip_proto.encode_infer_request(call)
        request = Request(oip_proto.INFER, (body,), id=call.request_id)
        return Question(request, replies.grpc(oip_proto.decode_infer_reply))

    def again(self, call: PredictCall) -> Again | None:
        """The same message, but for its id and its numbers."""
        if not has_one_size(call):
            return None
        (array,) = call.inputs.values()
        head = oip_proto.infer_request_head(call)
        before_raw = oip_proto.raw_field(len(view_raw(array)))
        reader = oip_proto.InferReplyReader()
        read_anew = replies.grpc(reader.read)

        def read(reply: Reply) -> PredictReply:
            found = reader.again(bytes(reply.body)) if reply.status == 0 else None
            return found or read_anew(reply)

        def ask(array: NDArray[Any], request_id: str) -> Question[PredictReply]:
            pieces = (head, oip_proto.id_field(request_id), before_raw, view_raw(array))
            request = Request(oip_proto.INFER, (b"".join(pieces),), id=request_id)
            return Question(request, read)

        return ask

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """The protocol has tensors only."""
        raise no_images("The Open Inference Protocol", call.target)

    def metadata(self, target: Target) -> Question[ModelMetadata]:
        """ModelMetadata."""
        no_label(target)

        def decode(body: bytes) -> ModelMetadata:
            reply = oip_proto.parse("ModelMetadataResponse", body)
            return described(
                target,
                reply.name,
                list(reply.versions),
                reply.platform,
                _specs(reply.inputs),
                _specs(reply.outputs),
            )

        body = oip_proto.new("ModelMetadataRequest", **_named(target))
        return Question(_request("ModelMetadata", body), replies.grpc(decode))

    def status(self, target: Target) -> Question[ModelStatus]:
        """RepositoryIndex: what it says of one model."""
        return Question(
            _request("RepositoryIndex"),
            replies.grpc(lambda body: status_of(target, _entries(body))),
        )

    def models(self) -> Question[tuple[str, ...]]:
        """RepositoryIndex."""
        return Question(
            _request("RepositoryIndex"), replies.grpc(lambda body: names_of(_entries(body)))
        )

    def is_ready(self, target: Target | None) -> Question[bool]:
        """ModelReady, or ServerReady without a model."""
        if target is None:
            return Question(
                _request("ServerReady"),
                replies.grpc(lambda body: bool(oip_proto.parse("ServerReadyResponse", body).ready)),
            )
        no_label(target)
        request = _request("ModelReady", oip_proto.new("ModelReadyRequest", **_named(target)))
        return Question(
            request,
            replies.grpc(lambda body: bool(oip_proto.parse("ModelReadyResponse", body).ready)),
        )

    def load(self, model: str) -> Question[None]:
        """RepositoryModelLoad."""
        return _repository("RepositoryModelLoad", model)

    def unload(self, model: str) -> Question[None]:
        """RepositoryModelUnload."""
        return _repository("RepositoryModelUnload", model)


def _repository(method: str, model: str) -> Question[None]:
    body = oip_proto.new(f"{method}Request", model_name=model)
    request = Request(f"{oip_proto.SERVICE}/{method}", (body,), is_repeatable=False)
    return Question(request, replies.grpc(lambda _: None))


def _request(method: str, body: bytes = b"") -> Request:
    return Request(f"{oip_proto.SERVICE}/{method}", (body,))


def _named(target: Target) -> dict[str, str]:
    version = "" if target.version is None else str(target.version)
    return {"name": target.model, "version": version}


def _entries(body: bytes) -> list[Entry]:
    reply = oip_proto.parse("RepositoryIndexResponse", body)
    return [(each.name, each.version, each.state, each.reason) for each in reply.models]


def _specs(tensors: Any) -> dict[str, TensorSpec]:
    return {each.name: spec_of(each.name, each.datatype, list(each.shape)) for each in tensors}
