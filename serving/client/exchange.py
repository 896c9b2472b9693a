"""What lies between a protocol and a connection: one request, one reply, as bytes.

A dialect turns an operation into a `Question`: the request to send, and how to read the reply. A
transport carries requests and knows nothing of what they mean. So retries, deadlines, hedging and
the fake server are written once for all protocols.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

T_co = TypeVar("T_co", covariant=True)

Buffer: TypeAlias = bytes | bytearray | memoryview
Headers: TypeAlias = tuple[tuple[str, str], ...]

REQUEST_ID_HEADER = "x-request-id"
TIMEOUT_HEADER = "x-request-timeout-s"
FIELD_HEADER = "x-error-field"
TIMINGS_HEADER = "server-timing"
OUTCOME_HEADER = "x-convzoo-outcome"


@dataclass(slots=True)
class Request:
    """One request, over HTTP or gRPC.

    Attributes:
        path: An HTTP path (percent-encoded, with its query), or a full gRPC method path.
        body: The bytes to send, in pieces, so that a tensor need not be copied to be sent.
        method: The HTTP method; gRPC has none.
        headers: What the protocol needs; the client adds its own.
        is_repeatable: Whether sending it twice is the same as sending it once.
        id: The id of the call where the body carries it, so that no header need; else "".
    """

    path: str
    body: tuple[Buffer, ...] = ()
    method: str = "POST"
    headers: Headers = ()
    is_repeatable: bool = True
    id: str = ""


@dataclass(slots=True)
class Reply:
    """One reply.

    Attributes:
        status: An HTTP status, or a gRPC code as a number (0 is OK).
        body: The bytes that came.
        headers: HTTP headers, or gRPC metadata and trailers; names in lower case.
        message: gRPC's error text.
        cause: The exception that a library made of it, for the error's `__cause__`.
    """

    status: int
    body: Buffer = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    cause: Exception | None = None

    @property
    def is_success(self) -> bool:
        """Whether it is an answer and no refusal."""
        return self.status == 0 or 200 <= self.status < 300


@dataclass(slots=True)
class Question(Generic[T_co]):
    """A request, and how to read its reply.

    Attributes:
        request: What to send.
        decode: Reads the reply; raises a `ClientError` when it is one.
    """

    request: Request
    decode: Callable[[Reply], T_co]
