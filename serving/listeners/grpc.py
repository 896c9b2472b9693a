"""gRPC over the HTTP/2 of `serving.listeners.http2`: in the loop itself, without threads between."""

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import tempfile
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serving.listeners.http2 import (
    ENDED,
    Data,
    Exchange,
    Fields,
    Http2Connection,
    Stream,
    literal,
)
from serving.transport import (
    GrpcHandler,
    GrpcRequest,
    GrpcResponse,
    GrpcRoutes,
    GrpcWatch,
    GrpcWatches,
)

log = logging.getLogger(__name__)

OK, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 8, 12, 13
UNAVAILABLE = 14

# ":status: 200" is entry 8 of the static table, "content-type" entry 31.
_ANSWER = b"\x88\x0f\x10\x10application/grpc" + literal(
    b"grpc-accept-encoding", b"identity, deflate, gzip"
)
_NO_GRPC = literal(b":status", b"415")
_NO_POST = literal(b":status", b"405") + literal(b"allow", b"POST")

GREETING = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"content-length: 64\r\n\r\nThis port speaks gRPC over HTTP/2; REST has a port of its own.\r\n"
)

_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")


class CredentialsError(ValueError):
    """A key or a certificate cannot be used."""


class GrpcListener:
    """Accepts gRPC connections.

    Args:
        routes: Answers the unary methods.
        sockets: Bound sockets, of the network or of the file system; listening starts with `start`.
        max_message_bytes: A larger request is refused with RESOURCE_EXHAUSTED, unfolded or not.
        streams: Answers each message of a stream.
        watches: Answer one request again and again.
        max_in_flight: Messages of one stream that are answered at the same time; the next one is
            taken when the oldest has its answer.
        max_streams: Calls open at the same time on one connection.
        max_connections: Connections beyond these are closed as they come.
        credentials: The server's key and certificate and who signs clients' ("" for nobody), in
            PEM; None for plain connections.
        requires_client: Whether a client must show a certificate; else none is asked for.
        max_age_s: When a connection takes no more calls, within a tenth; None for never.

    Raises:
        CredentialsError: the credentials are none; says which and why.
    """

    def __init__(
        self,
        routes: GrpcRoutes,
        sockets: Sequence[socket.socket],
        *,
        max_message_bytes: int,
        streams: GrpcRoutes | None = None,
        watches: GrpcWatches | None = None,
        max_in_flight: int = 16,
        max_streams: int = 1024,
        max_connections: int = 4096,
        credentials: tuple[str, str, str] | None = None,
        requires_client: bool = False,
        max_age_s: float | None = None,
    ) -> None:
        self._routes = routes
        self._streams = streams or {}
        self._watches = watches or {}
        self._max_message_bytes = max_message_bytes
        self._max_in_flight = max_in_flight
        self._max_streams = max_streams
        self._max_connections = max_connections
        self._max_age_s = max_age_s
        self._tls = _tls(credentials, requires_client=requires_client) if credentials else None
        self._connections: set[Http2Connection] = set()
        self._servers: list[asyncio.Server] = []
        self.sockets = tuple(sockets)

    async def start(self) -> None:
        """Accepts connections from here on."""
        loop = asyncio.get_running_loop()
        for each in self.sockets:
            if each.family == socket.AF_UNIX:
                server = await loop.create_unix_server(self._protocol, sock=each, ssl=self._tls)
            else:
                server = await loop.create_server(
                    self._protocol, sock=each, ssl=self._tls, backlog=1024
                )
            self._servers.append(server)

    def _protocol(self) -> asyncio.BaseProtocol:
        if len(self._connections) >= self._max_connections:
            return _Closed()
        return Http2Connection(
            read_head,
            self._open,
            max_streams=self._max_streams,
            connections=self._connections,
            greeting=GREETING,
            max_age_s=self._max_age_s,
        )

    async def stop(self, limit_s: float) -> None:
        """Accepts nothing more and waits for what has begun, at most so long."""
        for each in self.sockets:
            # Its name goes first: afterwards it might be another server's already.
            if each.family == socket.AF_UNIX:
                Path(each.getsockname()).unlink(missing_ok=True)
        for server in self._servers:
            server.close()
        for each in self.sockets:
            each.close()
        for connection in tuple(self._connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._connections:
                    await asyncio.sleep(0.005)
        for connection in tuple(self._connections):
            connection.abort()

    def _open(self, connection: Http2Connection, stream: Stream, head: "Head") -> Exchange:
        """The right kind of call for a request's head."""
        most = self._max_message_bytes
        if head.refusal:
            connection.reply(stream, head.refusal, b"", literal(b"x-reason", b"no gRPC"))
            return ENDED
        if (handler := self._routes.get(head.path)) is not None:
            return _Unary(connection, stream, head, handler, most)
        if (handler := self._streams.get(head.path)) is not None:
            return _Streaming(connection, stream, head, handler, most, self._max_in_flight)
        if (watch := self._watches.get(head.path)) is not None:
            return _Watched(connection, stream, head, watch, most)
        connection.reply(stream, _ANSWER, b"", trailers(UNIMPLEMENTED, f"No method {head.path}."))
        return ENDED


@dataclass(frozen=True, slots=True)
class Head:
    """What a call's header fields say.

    Attributes:
        path: The full method.
        metadata: Names in lower case; binary values are left out.
        timeout_s: How long the client waits; None for no limit.
        encoding: How its messages are compressed.
        refusal: The header block that answers what is no gRPC; empty for what is.
    """

    path: str
    metadata: dict[str, str]
    timeout_s: float | None
    encoding: str
    refusal: bytes


def read_head(fields: Fields) -> Head:
    """Reads a request's header fields."""
    metadata: dict[str, str] = {}
    path = method = ""
    for raw_name, raw in fields:
        name, value = raw_name.decode("latin-1"), raw.decode("utf-8", "replace")
        if name == ":path":
            path = value
        elif name == ":method":
            method = value
        elif not name.startswith(":") and not name.endswith("-bin"):
            metadata[name] = f"{metadata[name]},{value}" if name in metadata else value
    refusal = b""
    if method != "POST":
        refusal = _NO_POST
    elif not metadata.get("content-type", "").startswith("application/grpc"):
        refusal = _NO_GRPC
    timeout = _TIMEOUT.fullmatch(metadata.pop("grpc-timeout", ""))
    timeout_s = int(timeout[1]) * _UNITS_S[timeout[2]] if timeout else None
    encoding = metadata.pop("grpc-encoding", "identity")
    return Head(path, metadata, timeout_s, encoding, refusal)


class _RefusedError(Exception):
    """What arrived cannot be a message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Call:
    """What every kind of call has: the request's side and the answer's."""

    def __init__(
        self, connection: Http2Connection, stream: Stream, head: Head, max_message_bytes: int
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._head = head
        self._max_message_bytes = max_message_bytes
        self._received = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def cancel(self) -> "asyncio.Task[None] | None":
        """The client has gone."""
        if self._task is not None:
            self._task.cancel()
        return self._task

    def stop(self) -> None:
        """A call with one answer ends by itself."""

    def _request(self, body: bytes) -> GrpcRequest:
        timeout_s = self._head.timeout_s
        return GrpcRequest(
            body,
            self._head.metadata,
            None if timeout_s is None else self._received + timeout_s,
            self._received,
        )

    def _message(self, is_compressed: int, body: bytes) -> bytes:
        """A message as it was before it was compressed."""
        if not is_compressed:
            return body
        encoding = self._head.encoding
        if is_compressed > 1 or encoding == "identity":
            raise _RefusedError(INTERNAL, "A message is marked as compressed, its call is not.")
        if encoding not in ("gzip", "deflate"):
            raise _RefusedError(
                UNIMPLEMENTED, f"Encoding {encoding!r} is not taken; identity, deflate, gzip are."
            )
        unfold = zlib.decompressobj(zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
        try:
            message = unfold.decompress(body, self._max_message_bytes + 1)
        except zlib.error as error:
            raise _RefusedError(INTERNAL, f"The message is no {encoding}: {error}.") from error
        if len(message) > self._max_message_bytes:
            raise self._too_large("more than that, unfolded")
        if not unfold.eof:
            raise _RefusedError(INTERNAL, f"The {encoding} data of the message are cut.")
        return message

    def _too_large(self, size: int | str) -> _RefusedError:
        return _RefusedError(
            RESOURCE_EXHAUSTED,
            f"The message is larger than {self._max_message_bytes} bytes: {size}.",
        )

    def _refuse(self, error: _RefusedError, *, begun: bool = False) -> None:
        head = b"" if begun else _ANSWER
        self._connection.reply(self._stream, head, b"", trailers(error.code, str(error)))


class _Unary(_Call):
    """One message, one answer."""

    def __init__(
        self,
        connection: Http2Connection,
        stream: Stream,
        head: Head,
        handler: GrpcHandler,
        max_message_bytes: int,
    ) -> None:
        super().__init__(connection, stream, head, max_message_bytes)
        self._handler = handler
        self._parts: list[Data] = []
        self._size = 0

    def receive(self, data: Data) -> None:
        """Keeps it."""
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._max_message_bytes + 5:
            self._parts.clear()
            self._refuse(self._too_large(f"{self._size} bytes have come"))
            return
        if not self._stream.is_read:
            self._connection.consumed(self._stream, len(data))

    def end(self) -> None:
        """Begins to answer."""
        parts, came = self._parts, self._size - 5
        if parts and len(parts[0]) < 5:
            parts[:] = [b"".join(parts)]
        prefix = parts[0][:5] if parts else b""
        try:
            size = int.from_bytes(prefix[1:], "big")
            if len(prefix) < 5 or size != came:
                raise _RefusedError(
                    INTERNAL,
                    f"A call of this method has one message; {self._size} bytes came, which are "
                    + ("cut." if len(prefix) < 5 or size > came else "more than one."),
                )
            parts[0] = parts[0][5:]
            message = self._message(prefix[0], b"".join(parts))
            parts.clear()
        except _RefusedError as error:
            self._refuse(error)
            return
        self._task = asyncio.get_running_loop().create_task(self._answer(message))

    async def _answer(self, message: bytes) -> None:
        try:
            response = await self._handler(self._request(message))
        except Exception:
            log.exception("%s failed", self._head.path)
            response = GrpcResponse(code=INTERNAL, message="Internal error.")
        self._connection.reply(
            self._stream,
            _ANSWER,
            b"" if response.code else framed(response.body),
            trailers(response.code, response.message, response.trailers),
        )


class _Reading(_Call, ABC):
    """A call whose messages are read as they come."""

    def __init__(
        self,
        connection: Http2Connection,
        stream: Stream,
        head: Head,
        max_message_bytes: int,
        most_waiting: int,
    ) -> None:
        super().__init__(connection, stream, head, max_message_bytes)
        self._partial = bytearray()
        self._most_waiting = most_waiting
        self._owed = 0
        # Messages as they came; then None at the client's end, or why there are no more.
        self._arrived: asyncio.Queue[tuple[int, bytes] | _RefusedError | None] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._guarded())

    @abstractmethod
    async def _run(self) -> None:
        """Answers."""

    async def _guarded(self) -> None:
        self._connection.reply(self._stream, _ANSWER, b"", None)
        try:
            await self._run()
        except _RefusedError as error:
            self._refuse(error, begun=True)
        except Exception:
            log.exception("%s failed", self._head.path)
            self._refuse(_RefusedError(INTERNAL, "Internal error."), begun=True)

    def receive(self, data: Data) -> None:
        """Cuts it into messages; credit for more waits while too many messages do."""
        self._partial += data
        try:
            while len(self._partial) >= 5:
                size = int.from_bytes(self._partial[1:5], "big")
                if size > self._max_message_bytes:
                    raise self._too_large(size)
                if len(self._partial) < 5 + size:
                    break
                body = bytes(self._partial[5 : 5 + size])
                self._arrived.put_nowait((self._partial[0], body))
                del self._partial[: 5 + size]
        except _RefusedError as error:
            self._partial.clear()
            self._arrived.put_nowait(error)
            return
        self._owed += len(data)
        self._pay()

    def end(self) -> None:
        """The client has said all."""
        cut = _RefusedError(INTERNAL, "The last message of the stream is cut.")
        self._arrived.put_nowait(cut if self._partial else None)

    def stop(self) -> None:
        """Ends the stream when what has come is answered."""
        self._arrived.put_nowait(_RefusedError(UNAVAILABLE, "The server is stopping."))

    async def _next(self) -> bytes | None:
        """The next message; None at the client's end.

        It is unfolded in its turn: all that wait would be a thousand times what the window lets in.
        """
        found = await self._arrived.get()
        self._pay()
        if isinstance(found, _RefusedError):
            raise found
        return None if found is None else self._message(*found)

    def _pay(self) -> None:
        if self._arrived.qsize() <= self._most_waiting:
            self._connection.consumed(self._stream, self._owed)
            self._owed = 0

    async def _say(self, body: bytes) -> None:
        self._connection.reply(self._stream, b"", framed(body), None)
        await self._connection.drained(self._stream)

    def _end(self, response: GrpcResponse) -> None:
        tail = trailers(response.code, response.message, response.trailers)
        self._connection.reply(self._stream, b"", b"", tail)


class _Streaming(_Reading):
    """A stream of messages, each with its answer, in order."""

    def __init__(
        self,
        connection: Http2Connection,
        stream: Stream,
        head: Head,
        handler: GrpcHandler,
        max_message_bytes: int,
        max_in_flight: int,
    ) -> None:
        self._handler = handler
        self._room = asyncio.Semaphore(max_in_flight)
        super().__init__(connection, stream, head, max_message_bytes, max_in_flight)

    async def _run(self) -> None:
        begun: asyncio.Queue[asyncio.Task[GrpcResponse] | _RefusedError | None] = asyncio.Queue()
        tasks: set[asyncio.Task[Any]] = set()

        def start(coroutine: Any) -> Any:
            task = asyncio.create_task(coroutine)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        async def read() -> None:
            end = None
            try:
                while (body := await self._next()) is not None:
                    await self._room.acquire()
                    request = self._request(body)
                    begun.put_nowait(start(self._handler(request)))
            except _RefusedError as error:
                end = error
            begun.put_nowait(end)

        start(read())
        try:
            # The oldest first, however soon the others are done.
            while isinstance(task := await begun.get(), asyncio.Task):
                response: GrpcResponse = await task
                if response.code:
                    self._end(response)
                    return
                await self._say(response.body)
                self._room.release()
            if task is not None:
                raise task
            self._end(GrpcResponse())
        finally:
            for each in tuple(tasks):
                each.cancel()

    def _request(self, body: bytes) -> GrpcRequest:
        # Each message came when it came; the deadline is the whole call's.
        request = super()._request(body)
        return GrpcRequest(request.body, request.metadata, request.deadline, time.monotonic())


class _Watched(_Reading):
    """One request and answers until the caller goes."""

    def __init__(
        self,
        connection: Http2Connection,
        stream: Stream,
        head: Head,
        watch: GrpcWatch,
        max_message_bytes: int,
    ) -> None:
        self._watch = watch
        super().__init__(connection, stream, head, max_message_bytes, 1)

    async def _run(self) -> None:
        body = await self._next()
        if body is None:
            raise _RefusedError(INTERNAL, "A call of this method has one message; none came.")
        answers: AsyncIterator[bytes] = self._watch(self._request(body))
        telling = asyncio.create_task(self._tell(answers))
        listening = asyncio.create_task(self._listen())
        try:
            await asyncio.wait([telling, listening], return_when=asyncio.FIRST_COMPLETED)
            for each in (telling, listening):
                if each.done():
                    each.result()
            self._end(GrpcResponse())
        finally:
            telling.cancel()
            listening.cancel()

    async def _listen(self) -> None:
        """Only the server's end is still of interest: the client's own may come at once."""
        while True:
            await self._next()

    async def _tell(self, answers: AsyncIterator[bytes]) -> None:
        async for answer in answers:
            await self._say(answer)


class _Closed(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Closes it."""
        transport.close()


def framed(message: bytes) -> bytes:
    """A message with gRPC's prefix."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@lru_cache(maxsize=256)
def trailers(code: int, message: str = "", more: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The header block that ends a call."""
    block = literal(b"grpc-status", str(code).encode())
    if message:
        # Printable ASCII but "%" stands as it is (the protocol's "Percent-Encoded").
        text = quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
        block += literal(b"grpc-message", text.encode())
    for name, value in more:
        block += literal(name.encode(), value.encode("latin-1", "replace"))
    return block


def _tls(credentials: tuple[str, str, str], *, requires_client: bool) -> ssl.SSLContext:
    """TLS as gRPC wants it: HTTP/2 by ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    # The standard library reads them from files only; nobody else can read these.
    with tempfile.TemporaryDirectory() as place:
        key, certificate, authority = (Path(place) / name for name in ("key", "chain", "ca"))
        for file, text in zip((key, certificate, authority), credentials, strict=True):
            file.touch(mode=0o600)
            file.write_text(text, encoding="utf-8")
        # Alone first: of a pair that does not load, OpenSSL does not say which is wrong.
        _read(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, "The certificate (server_cert)")
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as error:
            reason = (
                "belongs to another certificate" if error.reason else "is no private key in PEM"
            )
            raise CredentialsError(f"The key (server_key) {reason}.") from error
        if requires_client:
            _read(context, authority, "Who signs clients' certificates (custom_ca)")
            context.verify_mode = ssl.CERT_REQUIRED
    return context


def _read(context: ssl.SSLContext, file: Path, what: str) -> None:
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise CredentialsError(f"{what} is no certificate in PEM.") from error


def _no_password() -> str:
    # Without this, OpenSSL asks at the terminal and the server waits.
    raise CredentialsError("The key (server_key) is encrypted; there is no way to give a password.")
