"""The whole server behind Envoy instead of its own listeners, for `benchmarks/envoy.py`.

pyvoy loads `application` into Envoy's process and hands it ASGI calls, HTTP/1.1 and HTTP/2 on one
port. OpenVINO cannot live in that process, so each version's engine has one of its own.
"""

import os
import time
from pathlib import Path
from typing import Any

from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.sources import BasePath
from serving.messages import VersionOptions
from serving.metrics import Metrics
from serving.observe import Observer
from serving.protocols.grpc import build_grpc
from serving.protocols.http import build_http
from serving.transport import GrpcRequest, HttpRequest

_LENGTH = 5  # gRPC's frame: a flag and four bytes of length


class _Application:
    """ASGI on the project's own handlers; the repository is loaded at the first request."""

    def __init__(self) -> None:
        self._http: Any = None

    async def _open(self) -> None:
        options = VersionOptions(is_isolated=True)
        metrics = Metrics()
        repository = Repository(
            BasePath(Path(os.environ["BENCH_MODEL"]), os.environ["BENCH_NAME"], options=options),
            lambda model, version, path: Servable(
                model.name, version, path, options=model.options_of(version), decoders=None
            ),
        )
        await repository.refresh()
        service = Service(repository, metrics=metrics)
        service.open()
        observer = Observer(metrics)
        self._grpc = build_grpc(service, None, observer)
        self._http = build_http(service, None, observer)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                event = await receive()
                await send({"type": f"{event['type']}.complete"})
                if event["type"].endswith("shutdown"):
                    return
        if self._http is None:
            await self._open()
        received = time.monotonic()
        body = b""
        while True:
            event = await receive()
            body += event.get("body", b"")
            if not event.get("more_body"):
                break
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if headers.get("content-type", "").startswith("application/grpc"):
            answer = await self._grpc[scope["path"]](
                GrpcRequest(body[_LENGTH:], headers, None, received)
            )
            message = b"\0" + len(answer.body).to_bytes(4, "big") + answer.body
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-type", b"application/grpc")],
                    "trailers": True,
                }
            )
            await send({"type": "http.response.body", "body": message, "more_body": False})
            await send(
                {
                    "type": "http.response.trailers",
                    "headers": [(b"grpc-status", str(answer.code).encode())],
                }
            )
            return
        response = await self._http(
            HttpRequest(scope["method"], scope["raw_path"].decode(), "", headers, body, received)
        )
        names = [(name.encode(), value.encode()) for name, value in response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": names})
        await send({"type": "http.response.body", "body": response.body})


application = _Application()
