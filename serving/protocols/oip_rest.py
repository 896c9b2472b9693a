"""The Open Inference Protocol's REST interface, with Triton's binary, classification and index."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from urllib.parse import unquote

from serving.messages import DEFAULT_SIGNATURE, Signature, Target
from serving.protocols.compression import packed
from serving.protocols.service import Administration, Service, required
from serving.protocols.status import timings_header
from serving.transport import HttpRequest, HttpResponse
from serving.wire import oip, oip_json
from serving.wire.tfs_json import dumps, loads

_MODEL = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>\d{1,19}))?(?P<verb>/infer|/ready|/config|/stats)?"
)
_REPOSITORY = re.compile(r"/v2/repository/models/(?P<model>[^/]+)/(?P<verb>load|unload)")
_SHARED_MEMORY = ("/v2/systemsharedmemory", "/v2/cudasharedmemory")

# Exactly this, without a charset: KServe's client compares it.
JSON = (("content-type", "application/json"),)
RAW = (("content-type", "application/octet-stream"),)
LENGTH = "inference-header-content-length"


class OipRest:
    """Handles what stands under /v2."""

    def __init__(
        self, service: Service, name: str, version: str, administration: Administration | None
    ) -> None:
        self._service = service
        self._administration = administration
        extensions = oip.extensions(has_administration=administration is not None)
        self._identity = {"name": name, "version": version, "extensions": extensions}

    async def handle(self, request: HttpRequest, deadline: float | None) -> HttpResponse:
        """Answers one request.

        Raises:
            ServingError: what is wrong with it.
        """
        path = request.path.rstrip("/")
        method = request.method
        found = (_read if len(path) <= _MOST_KEPT_PATH else _read.__wrapped__)(path)
        target, verb = found if found is not None else (None, None)
        if target is not None and verb == "/infer":
            return (
                await self._infer(target, request, deadline) if method == "POST" else _wrong("POST")
            )
        if path == "/v2/repository/index":
            return self._index(request) if method == "POST" else _wrong("POST")
        if change := _REPOSITORY.fullmatch(path):
            return await self._change(change, request) if method == "POST" else _wrong("POST")
        if path.startswith(_SHARED_MEMORY):
            raise oip.no_shared_memory()
        if method != "GET":
            return _wrong("GET, HEAD") if target else _not_found()
        if target is None or path == "/v2/models/stats":
            return self._server(path)
        return self._model(target, verb)

    def _server(self, path: str) -> HttpResponse:
        answers = {
            "/v2": lambda: HttpResponse(200, JSON, dumps(self._identity)),
            "/v2/models/stats": lambda: self._statistics(None),
            "/v2/health/live": lambda: _flag("live", is_true=self._service.is_live()),
            "/v2/health/ready": lambda: _flag("ready", is_true=self._service.is_ready()),
            "/v2/models": lambda: HttpResponse(
                200, JSON, dumps({"models": list(self._service.models())})
            ),
        }
        return answers.get(path, _not_found)()

    def _model(self, target: Target, verb: str | None) -> HttpResponse:
        if verb == "/ready":
            self._service.status(target)  # an unknown model is not found, not unready
            is_ready = self._service.is_model_ready(target)
            return HttpResponse(
                200 if is_ready else 503, JSON, dumps({"name": target.model, "ready": is_ready})
            )
        if verb == "/stats":
            return self._statistics(target)
        metadata = self._service.metadata(target)
        signature = default_signature(metadata.signatures)
        if verb == "/config":
            return HttpResponse(200, JSON, oip_json.encode_config(metadata, signature))
        if target.version is not None:
            metadata = replace(metadata, versions=(metadata.version,))
        return HttpResponse(200, JSON, oip_json.encode_metadata(metadata, signature))

    async def _infer(
        self, target: Target, request: HttpRequest, deadline: float | None
    ) -> HttpResponse:
        self._service.admit(target, deadline, "predict")
        metadata = self._service.metadata(target)
        asked = oip_json.decode_infer_request(
            request.body,
            request.headers.get(LENGTH),
            target,
            default_signature(metadata.signatures),
        )
        reply = await self._service.predict(asked.due(request.received, deadline))
        body, split = oip_json.encode_infer_reply(asked, reply, metadata.labels)
        headers = JSON if split is None else (*RAW, (LENGTH, str(split)))
        response = HttpResponse(200, (*headers, timings_header(reply.timings)), body)
        # Nothing else is packed: tritonclient unpacks these answers only.
        accepted = request.headers.get("accept-encoding")
        return await packed(response, accepted) if accepted else response

    def _index(self, request: HttpRequest) -> HttpResponse:
        document = loads(request.body) if request.body.strip() else {}
        only_ready = isinstance(document, dict) and document.get("ready") is True
        return HttpResponse(
            200, JSON, oip_json.encode_index(self._service.statuses(), only_ready=only_ready)
        )

    async def _change(self, match: re.Match[str], request: HttpRequest) -> HttpResponse:
        oip_json.check_load_request(request.body)
        model, verb = unquote(match["model"]), match["verb"]
        administration = required(self._administration)
        await (administration.load if verb == "load" else administration.unload)(model)
        return HttpResponse(200, JSON, dumps({"name": model, verb: True}))

    def _statistics(self, target: Target | None) -> HttpResponse:
        found = self._service.statistics(target)
        return HttpResponse(200, JSON, oip_json.encode_statistics(found))


def default_signature(signatures: Mapping[str, Signature]) -> Signature:
    """The signature that the protocol, which knows only one, describes and asks."""
    return signatures.get(DEFAULT_SIGNATURE) or next(iter(signatures.values()))


# Paths that are remembered are bounded: so many, of so many characters.
_MOST_KEPT_PATHS, _MOST_KEPT_PATH = 256, 256


@lru_cache(maxsize=_MOST_KEPT_PATHS)
def _read(path: str) -> tuple[Target, str | None] | None:
    """The model that a path is about and what it asks of it; None when it is about none."""
    match = _MODEL.fullmatch(path)
    if match is None:
        return None
    version = int(match["version"]) if match["version"] else None
    return Target(unquote(match["model"]), version), match["verb"]


def _flag(name: str, *, is_true: bool) -> HttpResponse:
    return HttpResponse(200 if is_true else 503, JSON, dumps({name: is_true}))


def _wrong(allowed: str) -> HttpResponse:
    headers = (*JSON, ("allow", allowed))
    return HttpResponse(405, headers, dumps({"error": "Method Not Allowed"}))


def _not_found() -> HttpResponse:
    return HttpResponse(404, JSON, dumps({"error": "Not Found"}))
