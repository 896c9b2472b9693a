"""Explanations over HTTP: what of a model can be looked into, and looking."""

import re
from dataclasses import replace
from urllib.parse import unquote

from serving.messages import Target
from serving.protocols.service import Service
from serving.protocols.tfs_rest import JSON
from serving.transport import HttpRequest, HttpResponse
from serving.wire import explain_json
from serving.wire.tfs_json import encode_error

_PATH = re.compile(
    r"/api/models/(?P<model>[^/]+)(?:/versions/(?P<version>\d{1,19})|/labels/(?P<label>[^/]+))?"
    r"/(?P<verb>layers|explain)"
)
PNG = (("content-type", "image/png"),)
METHODS = {"layers": "GET", "explain": "POST"}


class Explain:
    """Answers `GET .../layers` and `POST .../explain`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, request: HttpRequest, deadline: float | None) -> HttpResponse | None:
        """The answer, or None when the request is another's.

        Raises:
            ServingError: what is wrong with it.
        """
        match = _PATH.fullmatch(request.path)
        if match is None:
            return None
        allowed = METHODS[match["verb"]]
        if request.method != allowed:
            text = f"{request.method} is not answered at {request.path}; {allowed} is."
            return HttpResponse(405, (*JSON, ("allow", allowed)), encode_error(text))
        target = Target(
            unquote(match["model"]),
            int(match["version"]) if match["version"] else None,
            unquote(match["label"]) if match["label"] else None,
        )
        if match["verb"] == "layers":
            found = await self._service.layers(target, deadline)
            return HttpResponse(200, JSON, explain_json.encode_layers(found))
        call = explain_json.decode_call(
            target,
            request.body,
            request.headers.get("content-type", ""),
            request.query,
            request.headers.get("accept", ""),
        )
        request_id = request.headers.get("x-request-id", "")
        reply = await self._service.explain(replace(call, deadline=deadline, request_id=request_id))
        if call.is_picture:
            return HttpResponse(200, PNG, reply.picture)
        return HttpResponse(200, JSON, explain_json.encode_reply(reply))
