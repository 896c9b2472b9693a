"""TensorFlow Serving's gRPC interface."""

from serving.client.dialects import Again, replies
from serving.client.dialects.limits import no_images, no_list, no_loading
from serving.client.dialects.tfs_rest import is_available
from serving.client.dialects.unexplained import Unexplained
from serving.client.exchange import Question, Reply, Request
from serving.client.failures import grpc_error
from serving.client.results import Signature
from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Target,
)
from serving.wire import tfs_proto
from serving.wire.codes import CODE_NUMBERS


class TfsGrpc(Unexplained):
    """TensorFlow Serving over gRPC."""

    names_calls: bool = False

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """PredictionService/Predict."""
        del signature  # protobuf answers carry names and types
        body = tfs_proto.encode_predict_request(call)
        return Question(
            Request(tfs_proto.PREDICT, (body,)), replies.grpc(tfs_proto.decode_predict_reply)
        )

    def again(self, call: PredictCall) -> Again | None:
        """All of a request is written anew."""
        del call
        return None

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """TensorFlow Serving takes tensors only."""
        raise no_images("TensorFlow Serving", call.target)

    def metadata(self, target: Target) -> Question[ModelMetadata]:
        """PredictionService/GetModelMetadata."""
        body = tfs_proto.encode_metadata_request(target)
        return Question(
            Request(tfs_proto.GET_MODEL_METADATA, (body,)),
            replies.grpc(tfs_proto.decode_metadata_reply),
        )

    def status(self, target: Target) -> Question[ModelStatus]:
        """ModelService/GetModelStatus."""
        body = tfs_proto.encode_status_request(target)
        return Question(
            Request(tfs_proto.GET_MODEL_STATUS, (body,)),
            replies.grpc(lambda reply: tfs_proto.decode_status_reply(reply, target.model)),
        )

    def models(self) -> Question[tuple[str, ...]]:
        """TensorFlow Serving has no such call."""
        raise no_list()

    def is_ready(self, target: Target | None) -> Question[bool]:
        """Whether a version of the model answers; without a model, whether anything does."""
        if target is not None:
            question = self.status(target)
            return Question(question.request, lambda reply: is_available(question.decode(reply)))
        # No model is asked for: whoever refuses that is there.
        body = tfs_proto.encode_status_request(Target(""))
        return Question(Request(tfs_proto.GET_MODEL_STATUS, (body,)), _is_there)

    def load(self, model: str) -> Question[None]:
        """TensorFlow Serving loads what stands in its configuration."""
        raise no_loading(model)

    def unload(self, model: str) -> Question[None]:
        """As `load`."""
        raise no_loading(model)


# What a server answers that was understood, though it has no such model.
_REFUSALS = {CODE_NUMBERS[name] for name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")}


def _is_there(reply: Reply) -> bool:
    if reply.status in _REFUSALS:
        return True
    raise grpc_error(reply)
