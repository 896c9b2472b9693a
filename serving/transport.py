"""What lies between a listener and a protocol: requests and answers as bytes, without sockets.

A listener (HTTP/1.1, HTTP/2, Envoy) accepts connections and turns what arrives into these; a
protocol answers them and never sees a socket. So each can be replaced without the other. They are
not frozen, because making a frozen one takes five times as long; nobody changes one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class HttpRequest:
    """One HTTP request, body read whole.

    Attributes:
        method: Upper case.
        path: As it arrived: percent-encoded, without the query string.
        query: The raw query string, without "?".
        headers: Names in lower case.
        body: The bytes as sent; content encodings are the protocol's business.
        received: When its last part came, on the monotonic clock.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: float = 0.0


@dataclass(slots=True)
class HttpResponse:
    """One HTTP answer."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


HttpHandler = Callable[[HttpRequest], Awaitable[HttpResponse]]


@dataclass(slots=True)
class GrpcRequest:
    """One unary gRPC request.

    Attributes:
        body: The serialised message.
        metadata: Names in lower case; binary values are left out.
        deadline: The caller's deadline on the monotonic clock, or None.
        received: When it arrived, on the monotonic clock.
    """

    body: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    received: float = 0.0


@dataclass(slots=True)
class GrpcResponse:
    """One unary gRPC answer: a serialised message, or a status that is not OK.

    `code` is the canonical gRPC code as a number; 0 is OK.
    """

    body: bytes = b""
    code: int = 0
    message: str = ""
    trailers: tuple[tuple[str, str], ...] = ()


GrpcHandler = Callable[[GrpcRequest], Awaitable[GrpcResponse]]
GrpcRoutes = Mapping[str, GrpcHandler]
"""Handlers by full method path, e.g. "/tensorflow.serving.PredictionService/Predict".

The same shape serves streams in which each request has one answer: the handler is called once a
message, and the listener keeps the answers in order.
"""

GrpcWatch = Callable[[GrpcRequest], AsyncIterator[bytes]]
GrpcWatches = Mapping[str, GrpcWatch]
"""Methods with one request and answers until the caller goes, by full method path."""
