"""ASGI 3: another server has the sockets, e.g. Ray Serve's; each of its requests is one call here."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

from serving.listeners.http1 import (
    DEFECT,
    PART_WITHIN_S,
    TOO_SLOW,
    one_line,
    refusal,
    too_large,
)
from serving.transport import HttpHandler, HttpRequest, HttpResponse

log = logging.getLogger(__name__)

Scope = Mapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# What a path may hold besides letters and digits without being percent-encoded (RFC 3986, 3.3).
_IN_PATHS = "/:@!$&'()*+,;=~"


class AsgiApplication:
    """Answers what an ASGI server hands over.

    Args:
        handler: Answers the requests.
        max_body_bytes: A larger body is refused with 413.
        stop: Awaited when the server ends its lifespan.
    """

    def __init__(
        self,
        handler: HttpHandler,
        *,
        max_body_bytes: int,
        stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._handler = handler
        self._max_body_bytes = max_body_bytes
        self._stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI: a request, or the server's lifespan."""
        match scope["type"]:
            case "http":
                await self._answer(scope, receive, send)
            case "lifespan":
                await self._live(receive, send)
            case "websocket":
                # Before it is accepted, this is HTTP's 403.
                await send({"type": "websocket.close"})
            case other:
                raise ValueError(f"An ASGI scope of type {other!r}; http and lifespan work.")

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        try:
            if self._stop is not None:
                await self._stop()
        except Exception as error:
            log.exception("stopping failed")
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = time.monotonic()
        headers: dict[str, str] = {}
        for key, value in scope["headers"]:
            name, text = key.decode("latin-1").lower(), value.decode("latin-1")
            headers[name] = f"{headers[name]}, {text}" if name in headers else text
        try:
            body = await self._body(headers.get("content-length", ""), receive)
        except _GoneError:
            return
        except _RefusedError as error:
            await _write(refusal(*error.args), scope, send)
            return
        method = scope["method"].upper()
        query = scope.get("query_string", b"").decode("latin-1")
        request = HttpRequest(method, _path(scope), query, headers, body, received)
        response = await self._unless_gone(request, receive)
        if response is not None:
            await _write(response, scope, send)

    async def _body(self, length: str, receive: Receive) -> bytes:
        most = self._max_body_bytes
        if length.isdecimal() and int(length) > most:
            raise _RefusedError(*too_large(most))
        parts: list[bytes] = []
        size, goes_on = 0, True
        while goes_on:
            try:
                message = await asyncio.wait_for(receive(), PART_WITHIN_S)
            except TimeoutError as error:
                raise _RefusedError(*TOO_SLOW) from error
            if message["type"] == "http.disconnect":
                raise _GoneError
            part, goes_on = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > most:
                raise _RefusedError(*too_large(most))
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _unless_gone(self, request: HttpRequest, receive: Receive) -> HttpResponse | None:
        """The answer; None when the client goes before, which cancels the work."""
        answering = asyncio.create_task(self._handled(request))
        going = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait((answering, going), return_when=asyncio.FIRST_COMPLETED)
            return answering.result() if answering.done() else None
        finally:
            for task in (answering, going):
                task.cancel()
            await asyncio.gather(answering, going, return_exceptions=True)

    async def _handled(self, request: HttpRequest) -> HttpResponse:
        try:
            return await self._handler(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return refusal(*DEFECT)


async def _gone(receive: Receive) -> None:
    # A server that cannot say it any more has lost the client.
    with contextlib.suppress(OSError):
        while (await receive())["type"] != "http.disconnect":
            pass


async def _write(response: HttpResponse, scope: Scope, send: Send) -> None:
    headers = [
        (name.encode("latin-1"), one_line(value).encode("latin-1", "replace"))
        for name, value in response.headers
    ]
    headers.append((b"content-length", str(len(response.body)).encode()))
    body = b"" if scope["method"].upper() == "HEAD" else response.body
    # The client may go at any moment; nobody is left to tell.
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _path(scope: Scope) -> str:
    """The path as it arrived, percent-encoded, behind the one that this application is put under."""
    raw = scope.get("raw_path")
    path = quote(scope["path"], safe=_IN_PATHS) if raw is None else raw.decode("latin-1")
    return path.removeprefix(quote(scope.get("root_path", ""), safe=_IN_PATHS)) or "/"


class _GoneError(Exception):
    """The client went before its request was whole."""


class _RefusedError(Exception):
    """A status and a text."""
