"""HTTP/1.1 through uvicorn: raw ASGI, no framework between."""

import asyncio
import socket
import time
from typing import Any

import uvicorn

from serving.transport import HttpHandler, HttpRequest, HttpResponse
from serving.wire.tfs_json import encode_error

# A request that takes longer is dropped when its caller goes.
WATCHED_AFTER_S = 0.005

_CLOSING = (("content-type", "application/json"), ("connection", "close"))


class UvicornListener:
    """Accepts HTTP connections on a socket that is bound already.

    Args:
        handler: Answers the requests.
        bound: A bound socket; listening starts with `start`.
        max_body_bytes: A larger body is refused with 413.
        drain_limit_s: How long `stop` waits for what has begun.
        max_connections: Connections beyond these are told 503 at their first request.
    """

    def __init__(
        self,
        handler: HttpHandler,
        bound: socket.socket,
        *,
        max_body_bytes: int,
        drain_limit_s: float,
        max_connections: int = 4096,
    ) -> None:
        self._handler = handler
        self._bound = bound
        self._max_body_bytes = max_body_bytes
        self._max_connections = max_connections
        self._server = _Server(
            uvicorn.Config(
                self._application,
                interface="asgi3",
                http="httptools",
                ws="none",
                proxy_headers=False,
                loop="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=max(1, round(drain_limit_s)),
                h11_max_incomplete_event_size=64 << 10,
            )
        )

    async def serve(self) -> None:
        """Accepts connections until `stop`."""
        await self._server.serve(sockets=[self._bound])

    @property
    def is_listening(self) -> bool:
        """Whether connections are accepted."""
        return bool(self._server.started)

    def stop(self) -> None:
        """Accepts nothing more; `serve` returns when the last answer is out."""
        self._server.should_exit = True

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        received = time.monotonic()
        if scope["type"] != "http":
            return
        response = await self._respond(scope, receive, received)
        if response is None:
            return
        size = (b"content-length", str(len(response.body)).encode())
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [
                    *(
                        (name.encode(), value.encode("latin-1", "replace"))
                        for name, value in response.headers
                    ),
                    size,
                ],
            }
        )
        is_head = scope["method"] == "HEAD"
        await send({"type": "http.response.body", "body": b"" if is_head else response.body})

    async def _respond(self, scope: Any, receive: Any, received: float) -> HttpResponse | None:
        """The answer to a request; None when its caller has gone."""
        body = await self._body(receive)
        if len(self._server.server_state.connections) > self._max_connections:
            return HttpResponse(
                503,
                (*_CLOSING, ("retry-after", "1")),
                encode_error(f"More than {self._max_connections} connections are open."),
            )
        if body is None:
            return HttpResponse(
                413,
                _CLOSING,
                encode_error(f"The body is larger than {self._max_body_bytes} bytes."),
            )
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        request = HttpRequest(
            method=scope["method"],
            path=scope["raw_path"].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            body=body,
            received=received,
        )
        return await self._answer(receive, request)

    async def _answer(self, receive: Any, request: HttpRequest) -> HttpResponse | None:
        """The handler's answer; None when the caller has gone, which ends the request."""
        task = asyncio.current_task()
        watching: asyncio.Task[None] | None = None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            if task is not None:
                task.cancel()

        def begin() -> None:
            nonlocal watching
            watching = asyncio.create_task(watch())

        # Most answers are out before anybody could go: only the slow ones are watched.
        timer = asyncio.get_running_loop().call_later(WATCHED_AFTER_S, begin)
        try:
            return await self._handler(request)
        except asyncio.CancelledError:
            if gone and task is not None:
                task.uncancel()
                return None
            raise
        finally:
            timer.cancel()
            if watching is not None:
                watching.cancel()

    async def _body(self, receive: Any) -> bytes | None:
        """The whole body, or None when it is too large."""
        pieces: list[bytes] = []
        size = 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return b""
            piece = event.get("body", b"")
            size += len(piece)
            if size > self._max_body_bytes:
                return None
            pieces.append(piece)
            if not event.get("more_body"):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class _Server(uvicorn.Server):
    """Leaves signals to the application, which drains before it stops listening."""

    def install_signal_handlers(self) -> None:
        """Installs none."""

    def capture_signals(self) -> Any:
        """Captures none."""
        import contextlib

        return contextlib.nullcontext()
