"""This project's own server, in the best it has: raw tensors over REST, images as they are."""

from urllib.parse import urlencode

from serving.client.dialects import Again, replies
from serving.client.dialects.oip_grpc import OipGrpc
from serving.client.dialects.oip_rest import OipRest
from serving.client.dialects.tfs_grpc import TfsGrpc
from serving.client.dialects.tfs_rest import TfsRest, path
from serving.client.exchange import Question, Request
from serving.client.results import Signature
from serving.errors import InvalidRequestError
from serving.errors import UnsupportedError as NoFormError
from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    ExplainCall,
    ExplainReply,
    LayersReply,
    PredictCall,
    PredictReply,
    Target,
)
from serving.wire import explain_json, native_json, tfs_proto
from serving.wire.pool import message

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVING = 1


class NativeRest(TfsRest):
    """Our server over REST: TensorFlow Serving's, and more."""

    _oip = OipRest(names_calls=False)

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """Raw tensors where there is a form for them, JSON where not."""
        if call.target.label is None:
            try:
                return self._oip.predict(call, signature)
            except NoFormError:
                pass  # complex numbers
        return super().predict(call, signature)

    def again(self, call: PredictCall) -> Again | None:
        """As Open Inference servers are asked."""
        return self._oip.again(call)

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """`POST /api/models/m/classify`."""
        body, content_type = native_json.encode_images(call.images)
        page = f"{path('/api', call.target)}/classify?{urlencode({'top_k': call.top_k})}"
        request = Request(page, (body,), headers=(("content-type", content_type),))
        return Question(request, replies.http(native_json.decode_reply))

    def layers(self, target: Target) -> Question[LayersReply]:
        """`GET /api/models/m/layers`."""
        request = Request(f"{path('/api', target)}/layers", method="GET")
        return Question(request, replies.http(explain_json.decode_layers))

    def explain(self, call: ExplainCall) -> Question[ExplainReply]:
        """`POST /api/models/m/explain`."""
        page = f"{path('/api', call.target)}/explain"
        body = explain_json.encode_call(call)
        request = Request(page, (body,), headers=(("content-type", "application/json"),))
        if call.is_picture:
            return Question(request, replies.http(lambda png: _picture(call, png)))
        return Question(request, replies.http(explain_json.decode_reply))

    def models(self) -> Question[tuple[str, ...]]:
        """`GET /api/models`."""
        request = Request("/api/models", method="GET")
        return Question(request, replies.http(native_json.decode_models))

    def is_ready(self, target: Target | None) -> Question[bool]:
        """Whether a version of the model answers, or `GET /readyz` without a model."""
        if target is not None:
            return super().is_ready(target)
        return Question(Request("/readyz", method="GET"), replies.http(lambda _: True))

    def load(self, model: str) -> Question[None]:
        """Asks; the server says how it is done instead."""
        return self._oip.load(model)

    def unload(self, model: str) -> Question[None]:
        """As `load`."""
        return self._oip.unload(model)


def _picture(call: ExplainCall, png: bytes) -> ExplainReply:
    if not png.startswith(b"\x89PNG"):
        raise InvalidRequestError("The answer is no PNG.")
    return ExplainReply(
        model=call.target.model,
        version=call.target.version or 0,
        method=call.method,
        layer=call.layer,
        class_id=None,
        label=None,
        arrays={},
        facts={},
        picture=png,
    )


class NativeGrpc(TfsGrpc):
    """Our server over gRPC: TensorFlow Serving's, and more."""

    names_calls: bool = True
    _oip = OipGrpc()

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """ModelInfer, which copies a tensor once, where there is a form for the call."""
        if call.target.label is None:
            try:
                return self._oip.predict(call, signature)
            except NoFormError:
                pass  # complex numbers
        return super().predict(call, signature)

    def again(self, call: PredictCall) -> Again | None:
        """As Open Inference servers are asked."""
        return self._oip.again(call)

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """PredictionService/Predict of the signature `classify_images`."""
        body = tfs_proto.encode_classify_request(call)
        return Question(
            Request(tfs_proto.PREDICT, (body,)), replies.grpc(tfs_proto.decode_classify_reply)
        )

    def models(self) -> Question[tuple[str, ...]]:
        """RepositoryIndex."""
        return self._oip.models()

    def is_ready(self, target: Target | None) -> Question[bool]:
        """Whether a version of the model answers, or Health/Check without a model."""
        if target is not None:
            return super().is_ready(target)

        def decode(body: bytes) -> bool:
            reply = message("grpc.health.v1.HealthCheckResponse").FromString(body)
            return bool(reply.status == SERVING)

        return Question(Request(HEALTH_CHECK, (b"",)), replies.grpc(decode))

    def load(self, model: str) -> Question[None]:
        """Asks; the server says how it is done instead."""
        return self._oip.load(model)

    def unload(self, model: str) -> Question[None]:
        """As `load`."""
        return self._oip.unload(model)
