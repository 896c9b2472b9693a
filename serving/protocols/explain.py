"""Explanations over HTTP: what of a model can be looked into, and looking."""

import re
from dataclasses import replace
from urllib.parse import unquote

from serving.messages import Target
from serving.protocols.service import Service
from serving.protocols.tfs_rest import JSON
from serving.transport import HttpRequest, HttpResponse
from serving.wire import explain_json

_PATH = re.compile(
    r"/api/models/(?P<model>[^/]+)(?:/versions/(?P<version>\d{1,19})|/labels/(?P<label>[^/]+))?"
    r"/(?P<verb>layers|explain)"
)
PNG = (("content-type", "image/png"),)


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
        target = Target(
            unquote(match["model"]),
            int(match["version"]) if match["version"] else None,
            unquote(match["label"]) if match["label"] else None,
        )
        if (request.method, match["verb"]) == ("GET", "layers"):
            found = await self._service.layers(target, deadline)
            return HttpResponse(200, JSON, explain_json.encode_layers(found))
        if (request.method, match["verb"]) != ("POST", "explain"):
            return None
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
