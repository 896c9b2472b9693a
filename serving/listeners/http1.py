"""HTTP/1.1 in the event loop: httptools parses, one task answers each request."""

import asyncio
import contextlib
import logging
import random
import re
import socket
import time
from collections import deque
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple, cast

import httptools

from serving.transport import HttpHandler, HttpRequest, HttpResponse
from serving.wire.tfs_json import encode_error

log = logging.getLogger(__name__)

MOST_HEAD_BYTES = 64 << 10
HEAD_TOO_LARGE = (431, f"The head is larger than {MOST_HEAD_BYTES} bytes.")
TOO_SLOW = (408, "The request did not come to its end in time.")
DEFECT = (500, "Internal error.")
# Two of them, and who stands in front may have looked at the other one (RFC 9112, 3.2).
NOT_ONE_HOST = "A request of HTTP/1.1 has one Host field."
NO_GRPC = "This port speaks HTTP/1.1; gRPC has a port of its own."
# Requests of one connection that were sent ahead of their turn.
MOST_AHEAD = 8
# How long a client may take for a request's head, for the next part of its body, and for its next
# request; a client whose request was refused while it still sends may hear that for so long, and
# one that is in the middle of a request when the server stops may be silent for so long.
HEAD_WITHIN_S = 30.0
PART_WITHIN_S = 60.0
NEXT_WITHIN_S = 75.0
LINGER_S = 2.0

# A longer head is not remembered.
MOST_KEPT_HEAD = 4096

_JOINED_UP_TO = 64 << 10

_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n" for each in HTTPStatus}
_JSON = (("content-type", "application/json"),)
_STAYS = ("", "connection: keep-alive\r\n")
# A target in the form that proxies use.
_PROXIED = re.compile(rb"[^:/?#]+://[^/?#]*/?(.*)", re.DOTALL)
# Fields that say more of the connection than of the request.
_NOT_KEPT = frozenset(("expect", "transfer-encoding", "upgrade"))


class HttpListener:
    """Accepts HTTP connections on a socket that is bound already.

    Args:
        handler: Answers the requests.
        bound: A bound socket; listening starts with `start`.
        max_body_bytes: A larger body is refused with 413.
        max_connections: Connections beyond these are told 503 at their first request.
        max_age_s: When a connection is told with its next answer that this is the last, within a
            tenth and a second; None for never.
    """

    def __init__(
        self,
        handler: HttpHandler,
        bound: socket.socket,
        *,
        max_body_bytes: int,
        max_connections: int = 4096,
        max_age_s: float | None = None,
    ) -> None:
        self.handler = handler
        self.max_body_bytes = max_body_bytes
        self.max_connections = max_connections
        self.max_age_s = max_age_s
        self.connections: set[_Connection] = set()
        self.is_stopping = False
        self.date = _date()
        self._bound = bound
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Accepts connections from here on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=self._bound, backlog=2048
        )
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self, limit_s: float) -> None:
        """Accepts nothing more and waits for what has begun, at most so long."""
        self.is_stopping = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.close_when_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.connections:
                    await asyncio.sleep(0.005)
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in tuple(self.connections):
            connection.abort()

    async def _sweep(self) -> None:
        """Closes connections on which nothing happens; one clock for all costs no timer each."""
        while True:
            await asyncio.sleep(1.0)
            self.date = _date()
            now = time.monotonic()
            for connection in tuple(self.connections):
                if now >= connection.give_up_at:
                    connection.give_up()
                elif now >= connection.old_at:
                    connection.is_old = True


class _Connection(asyncio.Protocol):
    """One client's connection.

    Attributes:
        give_up_at: When the client's silence has been too long, on the monotonic clock.
        old_at: When the connection is old, on the same clock.
        is_old: Whether its next answer is its last. One that is idle is not closed for it: a
            request could be on its way.
    """

    def __init__(self, listener: HttpListener) -> None:
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._transport = cast("asyncio.Transport", None)
        self._ahead: deque[tuple[HttpRequest, bool]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_one_too_many = False
        self._is_refused = False
        self._is_paused = False
        self._is_in_head = False
        self._is_in_body = False
        self._is_to_say_go_on = False
        # To a client of HTTP/1.0 an answer ends with its connection, unless it is told otherwise.
        self._is_to_say_stays = False
        self._head_bytes = 0
        self._received = 0.0
        self._unread = 0
        self._last: HttpRequest | None = None
        self._known: _Known | None = None
        self.give_up_at = float("inf")
        self.old_at = float("inf")
        self.is_old = False

    # --- The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts it."""
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        connections = self._listener.connections
        connections.add(self)
        self._is_one_too_many = len(connections) > self._listener.max_connections
        now = time.monotonic()
        self.give_up_at = now + HEAD_WITHIN_S
        if (age_s := self._listener.max_age_s) is not None:
            # Clients that came together do not go together.
            self.old_at = now + age_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever has gone needs no answer."""
        del exc
        self._listener.connections.discard(self)
        self._ahead.clear()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Reads and answers no more for a client that does not read: answers must not pile up."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Goes on."""
        self._is_paused = False
        self._unread = 0
        if self._task is None:
            self._go_on()
        elif len(self._ahead) < MOST_AHEAD:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, which calls what stands below."""
        if self._is_refused:
            return
        size, was_in_head, head_bytes = len(data), self._is_in_head, self._head_bytes
        self._received = time.monotonic()
        is_between = not (was_in_head or self._is_in_body)
        known = self._known
        if is_between and known and size == known.size and data.startswith(known.head):
            self._take(
                HttpRequest(*known.fields, data[len(known.head) :], self._received), stays=True
            )
            return
        self._last, rest = None, data
        try:
            # One after the other and not one within the other: a client may send thousands at once.
            while rest:
                rest = self._fed(rest)
        except _RefusedError as error:
            self._refuse(*error.args)
            return
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _RefusedError):
                raise
            self._refuse(*error.__context__.args)
            return
        except httptools.HttpParserError as error:
            is_http2 = self._parser.get_method() == b"PRI"
            self._refuse(400, NO_GRPC if is_http2 else f"The request is no HTTP/1.1: {error}.")
            return
        if self._is_in_head:
            # What the parser tells is counted there; a field without end it tells only at its end.
            if was_in_head and self._head_bytes == head_bytes:
                self._head_bytes += size
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(*HEAD_TOO_LARGE)
        elif self._is_in_body and self._task is None:
            self.give_up_at = self._received + PART_WITHIN_S
        elif is_between and self._last is not None:
            self._remember(data, self._last)

    def _remember(self, whole: bytes, request: HttpRequest) -> None:
        """Keeps the head of a request that came whole and alone: most clients repeat it.

        What is framed by a length, and begins where a request begins, means the same again.
        """
        size = len(whole) - len(request.body)
        if (
            0 < size <= MOST_KEPT_HEAD
            and whole.find(b"\r\n\r\n") == size - 4
            and request.headers.get("content-length") == str(len(request.body))
            and request.headers.keys().isdisjoint(_NOT_KEPT)
        ):
            fields = (request.method, request.path, request.query, request.headers)
            self._known = _Known(whole[:size], len(whole), fields)

    def _fed(self, data: bytes) -> bytes:
        """Feeds the parser until it stops at an offer of another protocol; what is left to feed."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._head_without_offer() + data[upgrade.args[0] :]
        return b""

    # --- The parser's side

    def on_message_begin(self) -> None:
        """A request begins."""
        self._url = b""
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._size = 0
        self._head_bytes = 0
        self._is_in_head = True
        if self._task is None:
            self.give_up_at = self._received + HEAD_WITHIN_S

    def on_url(self, url: bytes) -> None:
        """Its target, perhaps in parts."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field; those of one name are one list (RFC 9110, 5.3)."""
        self._count_head(len(name) + len(value) + 4)
        if self._is_in_body:
            # A trailer: what comes behind the body says nothing of how to read it (6.5.1).
            return
        # The parser leaves the white space behind a value (RFC 9112, 5.1).
        key, text = name.decode("latin-1").lower(), value.rstrip(b" \t").decode("latin-1")
        before = self._headers.get(key)
        if before is not None and key == "host":
            raise _RefusedError(400, NOT_ONE_HOST)
        self._headers[key] = text if before is None else f"{before}, {text}"

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MOST_HEAD_BYTES:
            raise _RefusedError(*HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._is_in_head = False
        self._is_in_body = True
        version = self._parser.get_http_version()
        if version < "1.0":
            raise _RefusedError(400, f"The request is no HTTP/1.1: version {version}.")
        if version == "1.1" and "host" not in self._headers:
            raise _RefusedError(400, NOT_ONE_HOST)
        length = self._headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._listener.max_body_bytes:
            raise self._too_large()
        coding = self._headers.get("transfer-encoding", "chunked")
        if coding.lower() != "chunked":
            text = f"Transfer-Encoding is {coding[:40]!r}; chunked works, and Content-Encoding."
            raise _RefusedError(501, text)
        if (
            self._headers.get("expect", "").lower() == "100-continue"
            and not self._parser.should_upgrade()
            and version != "1.0"
        ):
            self._is_to_say_go_on = True
            if self._task is None:
                self._say_go_on()

    def _say_go_on(self) -> None:
        self._is_to_say_go_on = False
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        """A part of its body."""
        self._size += len(part)
        if self._size > self._listener.max_body_bytes:
            raise self._too_large()
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The request is whole: it is answered, or waits for its turn."""
        self._is_in_body = False
        self._is_to_say_go_on = False
        stays = self._parser.should_keep_alive()
        if self._parser.should_upgrade():
            self._stays_without_offer = stays
            return
        target = self._url
        if not target.startswith(b"/") and (proxied := _PROXIED.fullmatch(target)):
            target = b"/" + proxied[1]
        path, _, query = target.partition(b"#")[0].partition(b"?")
        request = HttpRequest(
            method=self._parser.get_method().decode("latin-1"),
            path=path.decode("latin-1"),
            query=query.decode("latin-1"),
            headers=self._headers,
            body=self._parts[0] if len(self._parts) == 1 else b"".join(self._parts),
            received=self._received,
        )
        self._parts = []
        self._is_to_say_stays = self._parser.get_http_version() == "1.0"
        if stays:
            self._last = request
        self._take(request, stays=stays)

    def _take(self, request: HttpRequest, *, stays: bool) -> None:
        """Answers a request, or has it wait for its turn."""
        if self._task is not None:
            self._ahead.append((request, stays))
            if len(self._ahead) >= MOST_AHEAD:
                self._transport.pause_reading()
            return
        self._begin(request, stays=stays)

    def _head_without_offer(self) -> bytes:
        """The head of a request that offers another protocol as if it did not (RFC 9110, 7.8).

        The parser stops at such a head and leaves the body to that protocol; Java's HttpClient
        offers HTTP/2 with every first request.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            raise _RefusedError(405, "This server opens no tunnels.")
        offered = ("connection", "upgrade", "http2-settings")
        fields = [
            f"{name}: {value}\r\n" for name, value in self._headers.items() if name not in offered
        ]
        fields.append(f"connection: {'keep-alive' if self._stays_without_offer else 'close'}\r\n")
        version = self._parser.get_http_version().encode()
        text = "".join(fields).encode("latin-1")
        head = b"%b %b HTTP/%b\r\n%b\r\n" % (method, self._url, version, text)
        self._parser = httptools.HttpRequestParser(self)
        return head

    # --- Answers

    def _begin(self, request: HttpRequest, *, stays: bool) -> None:
        # The server's own time has its limits elsewhere.
        self.give_up_at = float("inf")
        self._task = self._loop.create_task(self._answer(request, stays=stays))

    async def _answer(self, request: HttpRequest, *, stays: bool) -> None:
        if self._is_one_too_many:
            most = self._listener.max_connections
            text = f"More than {most} connections are open."
            response = HttpResponse(503, (*_JSON, ("retry-after", "1")), encode_error(text))
        else:
            try:
                response = await self._listener.handler(request)
            except Exception:
                log.exception("%s %s failed", request.method, request.path)
                response = refusal(*DEFECT)
        is_last = (self._listener.is_stopping or self.is_old) and not self._ahead
        stays = stays and not (self._is_one_too_many or self._is_refused or is_last)
        self._write(response, stays=stays, has_body=request.method != "HEAD")
        self._task = None
        if not stays:
            self.give_up_at = time.monotonic() + NEXT_WITHIN_S
            self._transport.close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Begins the next request, when the client has read enough of the answers before."""
        self.give_up_at = time.monotonic() + NEXT_WITHIN_S
        if self._is_paused:
            return
        if self._ahead:
            following, stays = self._ahead.popleft()
            self._begin(following, stays=stays)
        elif self._is_to_say_go_on:
            self._say_go_on()
        self._transport.resume_reading()

    def _write(self, response: HttpResponse, *, stays: bool, has_body: bool = True) -> None:
        status, body = response.status, response.body
        fields = "".join([f"{name}: {value}\r\n" for name, value in response.headers])
        lines = len(response.headers)
        if fields.count("\n") != lines or fields.count("\r") != lines:
            # No value may begin another header.
            fields = "".join([f"{name}: {one_line(value)}\r\n" for name, value in response.headers])
        begin = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
        end = _STAYS[self._is_to_say_stays] if stays else "connection: close\r\n"
        date = self._listener.date
        text = f"{begin}{date}{fields}{end}content-length: {len(body)}\r\n\r\n"
        head = text.encode("latin-1", "replace")
        if not has_body:
            self._transport.write(head)
        elif len(body) <= _JOINED_UP_TO:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def _too_large(self) -> "_RefusedError":
        return _RefusedError(*too_large(self._listener.max_body_bytes))

    def _refuse(self, status: int, text: str) -> None:
        """Answers and ends; what the client still sends is not read, but it may hear the answer."""
        self._is_refused = True
        self._ahead.clear()
        if self._task is None:
            self._write(refusal(status, text), stays=False)
            self.give_up_at = time.monotonic() + LINGER_S
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def give_up(self) -> None:
        """The client has been silent for too long."""
        if unread := self._transport.get_write_buffer_size():
            # A transport closes when all is read: who reads nothing would stay for ever.
            if unread == self._unread:
                self._transport.abort()
            self._unread = unread
            self.give_up_at = time.monotonic() + PART_WITHIN_S
            return
        if (self._is_in_head or self._is_in_body) and not self._is_refused:
            self._write(refusal(*TOO_SLOW), stays=False)
        self._transport.close()

    def close_when_idle(self) -> None:
        """The server stops: who waits for an answer gets it, with word that it is the last.

        Who is in the middle of a request may end it, or is told that this takes too long.
        """
        if self._task is not None:
            return
        if self._is_in_head or self._is_in_body:
            self.give_up_at = time.monotonic() + LINGER_S
        else:
            self._transport.close()

    def abort(self) -> None:
        """Ends everything now."""
        self._transport.abort()


class _Known(NamedTuple):
    """A head that came before: its bytes, those of its whole request, and what they mean."""

    head: bytes
    size: int
    fields: tuple[str, str, str, Mapping[str, str]]


class _RefusedError(Exception):
    """Raised within the parser: a status and a text."""


def _date() -> str:
    """The field that every answer begins with (RFC 9110, 6.6.1)."""
    return f"date: {formatdate(usegmt=True)}\r\n"


def too_large(most: int) -> tuple[int, str]:
    """Refuses a body of more bytes than these."""
    return 413, f"The body is larger than {most} bytes."


def refusal(status: int, text: str) -> HttpResponse:
    """A listener's own answer."""
    return HttpResponse(status, _JSON, encode_error(text))


def one_line(value: str) -> str:
    """A header's value, which must not begin another header."""
    return value.replace("\r", "").replace("\n", "")
