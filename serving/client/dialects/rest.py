"""REST: TensorFlow Serving's paths for tensors, the native API's for images."""

from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote, urlencode

from serving.client.errors import AnswerError
from serving.client.exchange import Question, Reply, Request
from serving.client.failures import http_error
from serving.client.results import Signature
from serving.errors import InvalidRequestError
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
from serving.messages import Signature as WireSignature
from serving.wire import native_json, tfs_json

T = TypeVar("T")
JSON = (("content-type", "application/json"),)


class Rest:
    """HTTP/1.1 with JSON; images go as they are."""

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """`POST /v1/models/m:predict`, in column form."""
        body = tfs_json.encode_predict_request(call)
        known = None if signature is None else _wire(signature, call.outputs)

        def decode(body: bytes) -> PredictReply:
            return tfs_json.decode_predict_reply(body, call.target, known)

        request = Request(f"{_path('/v1', call.target)}:predict", (body,), headers=JSON)
        return Question(request, _read(decode))

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """`POST /api/models/m/classify`."""
        body, content_type = native_json.encode_images(call.images)
        path = f"{_path('/api', call.target)}/classify?{urlencode({'top_k': call.top_k})}"
        request = Request(path, (body,), headers=(("content-type", content_type),))
        return Question(request, _read(native_json.decode_reply))

    def metadata(self, target: Target) -> Question[ModelMetadata]:
        """`GET /v1/models/m/metadata`."""
        request = Request(f"{_path('/v1', target)}/metadata", method="GET")
        return Question(request, _read(tfs_json.decode_metadata_reply))

    def status(self, target: Target) -> Question[ModelStatus]:
        """`GET /v1/models/m`."""
        request = Request(_path("/v1", target), method="GET")
        return Question(
            request, _read(lambda body: tfs_json.decode_status_reply(body, target.model))
        )

    def models(self) -> Question[tuple[str, ...]]:
        """`GET /api/models`."""
        return Question(Request("/api/models", method="GET"), _read(native_json.decode_models))

    def is_ready(self) -> Question[bool]:
        """`GET /readyz`."""
        return Question(Request("/readyz", method="GET"), lambda reply: reply.status == 200)


def _path(root: str, target: Target) -> str:
    path = f"{root}/models/{quote(target.model, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    if target.label is not None:
        return f"{path}/labels/{quote(target.label, safe='')}"
    return path


def _wire(signature: Signature, outputs: tuple[str, ...]) -> WireSignature:
    """What the codec must know to name and type an answer; REST always answers every output."""
    del outputs
    specs = {
        name: TensorSpec(name, tensor.dtype, tensor.shape)
        for name, tensor in signature.outputs.items()
    }
    return WireSignature(signature.name, {}, specs)


def _read(decode: Callable[[bytes], T]) -> Callable[[Reply], T]:
    """Reads a reply: its body when it is a success, its error when not."""

    def read(reply: Reply) -> T:
        body = bytes(reply.body)
        if reply.status != 200:
            raise http_error(reply, _message(body))
        try:
            return decode(body)
        except InvalidRequestError as error:
            raise AnswerError(str(error)) from error

    return read


def _message(body: bytes) -> str:
    """The server's words: `{"error": "..."}`, or the beginning of what a proxy said."""
    try:
        document = tfs_json.loads(body)
    except InvalidRequestError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return str(document["error"])
    return body[:200].decode("utf-8", "replace").strip()
