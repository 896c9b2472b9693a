"""TensorFlow Serving's REST interface: JSON over HTTP/1.1."""

from dataclasses import replace
from urllib.parse import quote

from serving.client.dialects import Again, replies
from serving.client.dialects.limits import no_images, no_list, no_loading
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
    VersionState,
)
from serving.messages import Signature as WireSignature
from serving.wire import tfs_json

JSON = (("content-type", "application/json"),)


class TfsRest(Unexplained):
    """TensorFlow Serving over REST."""

    names_calls: bool = False

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """`POST /v1/models/m:predict`, in column form."""
        if signature is not None and signature.defaults:
            # Unlike gRPC, TensorFlow Serving's JSON has to name every input.
            call = replace(call, inputs={**signature.defaults, **call.inputs})
        body = tfs_json.encode_predict_request(call)
        known = None if signature is None else _wire(signature)

        def decode(body: bytes) -> PredictReply:
            return tfs_json.decode_predict_reply(body, call.target, known)

        request = Request(f"{path('/v1', call.target)}:predict", (body,), headers=JSON)
        return Question(request, replies.http(decode))

    def again(self, call: PredictCall) -> Again | None:
        """All of a request is written anew."""
        del call
        return None

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """TensorFlow Serving takes tensors only."""
        raise no_images("TensorFlow Serving", call.target)

    def metadata(self, target: Target) -> Question[ModelMetadata]:
        """`GET /v1/models/m/metadata`."""
        request = Request(f"{path('/v1', target)}/metadata", method="GET")
        return Question(request, replies.http(tfs_json.decode_metadata_reply))

    def status(self, target: Target) -> Question[ModelStatus]:
        """`GET /v1/models/m`."""
        request = Request(path("/v1", target), method="GET")
        return Question(
            request, replies.http(lambda body: tfs_json.decode_status_reply(body, target.model))
        )

    def models(self) -> Question[tuple[str, ...]]:
        """TensorFlow Serving has no such call."""
        raise no_list()

    def is_ready(self, target: Target | None) -> Question[bool]:
        """Whether a version of the model answers; without a model, whether anything does."""
        if target is None:
            # There is no such page, and whoever says so is there.
            return Question(Request("/v1/models", method="GET"), _is_there)
        question = self.status(target)
        return Question(question.request, lambda reply: is_available(question.decode(reply)))

    def load(self, model: str) -> Question[None]:
        """TensorFlow Serving loads what stands in its configuration."""
        raise no_loading(model)

    def unload(self, model: str) -> Question[None]:
        """As `load`."""
        raise no_loading(model)


def path(root: str, target: Target) -> str:
    """`/root/models/m`, with its version or label."""
    found = f"{root}/models/{quote(target.model, safe='')}"
    if target.version is not None:
        return f"{found}/versions/{target.version}"
    if target.label is not None:
        return f"{found}/labels/{quote(target.label, safe='')}"
    return found


def is_available(status: ModelStatus) -> bool:
    """Whether any version answers."""
    return any(each.state is VersionState.AVAILABLE for each in status.versions)


def _is_there(reply: Reply) -> bool:
    return reply.status < 500


def _wire(signature: Signature) -> WireSignature:
    """What the codec must know to name and type an answer."""
    specs = {
        name: TensorSpec(name, tensor.dtype, tensor.shape)
        for name, tensor in signature.outputs.items()
    }
    return WireSignature(signature.name, {}, specs)
