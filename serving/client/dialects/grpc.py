"""gRPC: TensorFlow Serving's services; images go through Predict's signature `classify_images`."""

from collections.abc import Callable
from typing import TypeVar

from serving.client.errors import AnswerError, UnsupportedError
from serving.client.exchange import Question, Reply, Request
from serving.client.failures import grpc_error
from serving.client.results import Signature
from serving.errors import InvalidRequestError, ServingError
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
from serving.wire.pool import message

T = TypeVar("T")

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
SERVING = 1


class Grpc:
    """TensorFlow Serving's gRPC."""

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """PredictionService/Predict."""
        del signature  # protobuf answers carry names and types
        body = tfs_proto.encode_predict_request(call)
        return Question(Request(tfs_proto.PREDICT, (body,)), _read(tfs_proto.decode_predict_reply))

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """PredictionService/Predict of the signature `classify_images`."""
        body = tfs_proto.encode_classify_request(call)
        return Question(Request(tfs_proto.PREDICT, (body,)), _read(tfs_proto.decode_classify_reply))

    def metadata(self, target: Target) -> Question[ModelMetadata]:
        """PredictionService/GetModelMetadata."""
        body = tfs_proto.encode_metadata_request(target)
        return Question(
            Request(tfs_proto.GET_MODEL_METADATA, (body,)),
            _read(tfs_proto.decode_metadata_reply),
        )

    def status(self, target: Target) -> Question[ModelStatus]:
        """ModelService/GetModelStatus."""
        body = tfs_proto.encode_status_request(target)
        return Question(
            Request(tfs_proto.GET_MODEL_STATUS, (body,)),
            _read(lambda reply: tfs_proto.decode_status_reply(reply, target.model)),
        )

    def models(self) -> Question[tuple[str, ...]]:
        """TensorFlow Serving has no such call.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "TensorFlow Serving's gRPC has no list of models; ask over http:// instead."
        )

    def is_ready(self) -> Question[bool]:
        """Health/Check."""

        def decode(body: bytes) -> bool:
            reply = message("grpc.health.v1.HealthCheckResponse").FromString(body)
            return bool(reply.status == SERVING)

        return Question(Request(HEALTH_CHECK, (b"",)), _read(decode))


def _read(decode: Callable[[bytes], T]) -> Callable[[Reply], T]:
    """Reads a reply: its message when it is OK, its error when not."""

    def read(reply: Reply) -> T:
        if reply.status != 0:
            raise grpc_error(reply)
        try:
            return decode(bytes(reply.body))
        except (InvalidRequestError, ServingError) as error:
            raise AnswerError(str(error)) from error

    return read
