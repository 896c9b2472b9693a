"""TensorFlow Serving's gRPC interface: PredictionService and ModelService."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from serving.errors import SignatureNotFoundError, VersionNotFoundError
from serving.messages import PredictCall, PredictReply
from serving.protocols.service import Administration, Service, required
from serving.protocols.status import FixedCodeError, GrpcMethod, Timed
from serving.protocols.tfs_texts import answer_examples, asking, asking_status
from serving.transport import GrpcRequest
from serving.wire import examples, tfs_config, tfs_proto

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"


class TfsGrpc:
    """Answers TensorFlow Serving's methods."""

    def __init__(self, service: Service, administration: Administration | None) -> None:
        self._service = service
        self._administration = administration

    def methods(self) -> Mapping[str, GrpcMethod]:
        """The methods by their full path."""
        return {
            tfs_proto.PREDICT: self._predict,
            f"/{PREDICTION_SERVICE}/Classify": self._classify,
            f"/{PREDICTION_SERVICE}/Regress": self._regress,
            f"/{PREDICTION_SERVICE}/MultiInference": self._multi,
            tfs_proto.GET_MODEL_METADATA: self._metadata,
            tfs_proto.GET_MODEL_STATUS: self._status,
            tfs_config.RELOAD_CONFIG: self._reload,
        }

    async def _predict(self, request: GrpcRequest) -> bytes | Timed:
        call = _timed(tfs_proto.decode_predict_request(request.body), request)
        with asking(call.target):
            if call.signature == tfs_proto.CLASSIFY_IMAGES:
                images = tfs_proto.as_classify_call(call)
                found = await self._service.classify_images(images)
                return Timed(tfs_proto.encode_classify_reply(found), found.timings)
            try:
                reply = await self._service.predict(call)
            except SignatureNotFoundError as error:
                # INVALID_ARGUMENT over REST; here TensorFlow Serving has another code and text.
                raise FixedCodeError(
                    f'Serving signature key "{error.signature}" not found. {error}',
                    code="FAILED_PRECONDITION",
                ) from error
            return tfs_proto.encode_predict_reply(reply)

    async def _classify(self, request: GrpcRequest) -> bytes:
        call = examples.decode_request("ClassificationRequest", request.body)
        reply = await self._examples(call, examples.CLASSIFY, request)
        return examples.encode_classification_reply(reply)

    async def _regress(self, request: GrpcRequest) -> bytes:
        call = examples.decode_request("RegressionRequest", request.body)
        reply = await self._examples(call, examples.REGRESS, request)
        return examples.encode_regression_reply(reply)

    async def _multi(self, request: GrpcRequest) -> bytes:
        tasks = examples.decode_multi_request(request.body)
        replies = await asyncio.gather(
            *(self._examples(call, method, request) for call, method in tasks)
        )
        methods = (method for _, method in tasks)
        return examples.encode_multi_reply(list(zip(replies, methods, strict=True)))

    async def _examples(self, call: PredictCall, method: str, request: GrpcRequest) -> PredictReply:
        with asking(call.target):
            return await answer_examples(self._service, _timed(call, request), method)

    async def _metadata(self, request: GrpcRequest) -> bytes:
        target = tfs_proto.decode_metadata_request(request.body)
        with asking(target):
            return tfs_proto.encode_metadata_reply(self._service.metadata(target))

    async def _status(self, request: GrpcRequest) -> bytes:
        target = tfs_proto.decode_status_request(request.body)
        with asking_status(target):
            return tfs_proto.encode_status_reply(self._service.status(target))

    async def _reload(self, request: GrpcRequest) -> bytes:
        call = tfs_config.decode_reload_request(request.body)
        request_id = request.metadata.get("x-request-id", "")
        call = replace(call, deadline=request.deadline, request_id=request_id)
        try:
            await required(self._administration).reload_config(call)
        except VersionNotFoundError as error:
            # A label may only point to a version that serves.
            raise FixedCodeError(str(error), code="FAILED_PRECONDITION") from error
        return tfs_config.encode_reload_reply()


def _timed(call: PredictCall, request: GrpcRequest) -> PredictCall:
    call.deadline = request.deadline
    call.request_id = request.metadata.get("x-request-id", "")
    return call
