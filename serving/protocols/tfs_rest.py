"""TensorFlow Serving's REST interface: `:predict`, `:classify`, `:regress`, status, metadata."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import unquote

from serving.errors import InvalidRequestError
from serving.messages import PredictCall, Target
from serving.protocols.service import Service
from serving.protocols.tfs_texts import answer_examples, asking, asking_status
from serving.transport import HttpRequest, HttpResponse
from serving.wire import examples, tfs_json
from zoo.artifact import LARGEST_VERSION

_MODEL = r"/v1/models(?:/(?P<model>[^/:]+))?"
_CHOICE = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_POST = re.compile(_MODEL + _CHOICE + r":(?P<verb>classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(_MODEL + _CHOICE + r"(?P<metadata>/metadata)?", re.IGNORECASE)

JSON = (("content-type", "application/json"),)

_Verb = Callable[[Target, HttpRequest, float | None], Awaitable[bytes]]


class TfsRest:
    """Handles what stands under /v1/ (Open Inference has /v2/)."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._verbs: dict[str, _Verb] = {
            "predict": self._predict,
            "classify": partial(self._examples, examples.CLASSIFY),
            "regress": partial(self._examples, examples.REGRESS),
        }

    async def handle(self, request: HttpRequest, deadline: float | None) -> HttpResponse:
        """Answers one request.

        Raises:
            ServingError: what is wrong with it.
        """
        if request.method == "POST" and (match := _POST.fullmatch(request.path)):
            answer = self._verbs.get(match["verb"])  # in lower case only, unlike the rest
            if answer is None:
                raise malformed(request)
            return HttpResponse(200, JSON, await answer(_target(match), request, deadline))
        if request.method == "GET" and (match := _GET.fullmatch(request.path)):
            if match["metadata"]:
                return HttpResponse(200, JSON, self._metadata(_target(match)))
            return HttpResponse(200, JSON, self._status(_target(match)))
        raise malformed(request)

    async def _predict(self, target: Target, request: HttpRequest, deadline: float | None) -> bytes:
        with asking(target):
            self._service.admit(target, deadline, "predict")
            signatures = self._service.metadata(target).signatures
            call, is_row = tfs_json.decode_predict_request(request.body, target, signatures)
            reply = await self._service.predict(_timed(call, request, deadline))
        return tfs_json.encode_predict_reply(reply, is_row=is_row)

    async def _examples(
        self, method: str, target: Target, request: HttpRequest, deadline: float | None
    ) -> bytes:
        with asking(target):
            self._service.admit(target, deadline, "predict")
        call = examples.decode_json_request(request.body, target)
        with asking(target):
            reply = await answer_examples(self._service, _timed(call, request, deadline), method)
        return examples.encode_json_reply(reply, method)

    def _metadata(self, target: Target) -> bytes:
        with asking(target):
            return tfs_json.encode_metadata_reply(self._service.metadata(target))

    def _status(self, target: Target) -> bytes:
        with asking_status(target):
            return tfs_json.encode_status_reply(self._service.status(target))


def _timed(call: PredictCall, request: HttpRequest, deadline: float | None) -> PredictCall:
    call.deadline, call.request_id = deadline, request.headers.get("x-request-id", "")
    return call


def _target(match: re.Match[str]) -> Target:
    if not match["model"]:
        raise InvalidRequestError("Missing model name in request.", field="model")
    digits = (match["version"] or "").lstrip("0")
    if len(digits) > len(str(LARGEST_VERSION)) or int(digits or 0) > LARGEST_VERSION:
        raise InvalidRequestError(f"Version {digits[:40]} is no 64-bit number.", field="version")
    version = int(digits or 0) if match["version"] else None
    label = unquote(match["label"]) if match["label"] else None
    return Target(unquote(match["model"]), version, label)


def malformed(request: HttpRequest) -> InvalidRequestError:
    """What TensorFlow Serving says to anything it has no place for."""
    return InvalidRequestError(f"Malformed request: {request.method} {request.path}")
