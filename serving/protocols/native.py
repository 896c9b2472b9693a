"""The native API: images in, labels out, and the list of models."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote

from serving.errors import InvalidRequestError
from serving.messages import ClassifyImagesCall, Target
from serving.protocols.explain import Explain
from serving.protocols.service import Service
from serving.protocols.status import timings_header
from serving.protocols.tfs_rest import JSON, malformed
from serving.transport import HttpRequest, HttpResponse
from serving.wire import native_json

_CLASSIFY = re.compile(
    r"/api/models/(?P<model>[^/]+)(?:/versions/(?P<version>\d{1,19})|/labels/(?P<label>[^/]+))?"
    r"/classify"
)


# The same for people and for the description of the interface.
CLASSIFY_PATHS = tuple(
    f"/api/models/{{model}}{where}/classify"
    for where in ("", "/versions/{version}", "/labels/{label}")
)


class Native:
    """Handles what stands under /api/."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._explain = Explain(service)

    async def handle(self, request: HttpRequest, deadline: float | None) -> HttpResponse:
        """Answers one request.

        Raises:
            ServingError: what is wrong with it.
        """
        if request.method == "GET" and request.path == "/api/models":
            return HttpResponse(200, JSON, native_json.encode_models(self._service.models()))
        if (explained := await self._explain.handle(request, deadline)) is not None:
            return explained
        match = _CLASSIFY.fullmatch(request.path)
        if request.method != "POST" or match is None:
            raise malformed(request)
        target = Target(
            unquote(match["model"]),
            int(match["version"]) if match["version"] else None,
            unquote(match["label"]) if match["label"] else None,
        )
        self._service.admit(target, deadline, "classify")
        call = ClassifyImagesCall(
            target=target,
            images=native_json.decode_images(request.body, request.headers.get("content-type", "")),
            top_k=_top_k(parse_qs(request.query)),
            deadline=deadline,
            request_id=request.headers.get("x-request-id", ""),
        )
        reply = await self._service.classify_images(call)
        headers = (*JSON, timings_header(reply.timings))
        return HttpResponse(200, headers, native_json.encode_reply(reply))


def _top_k(query: Mapping[str, list[str]]) -> int:
    text = query.get("top_k", ["5"])[-1]
    if not text.isascii() or not text.isdigit():
        raise InvalidRequestError(f"top_k is {text!r}; a whole number works.", field="top_k")
    # Python refuses to read thousands of digits; so many are more than any number of classes.
    return int(text.lstrip("0")[:18] or "0")
