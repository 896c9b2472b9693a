"""What can go wrong when asking a server: one tree, one base.

Catch `ClientError` for everything, or the class that your code has an answer to. Each error says
what was asked, what was found and what would work, carries the same facts as attributes, and
keeps the exception it came from as `__cause__`. `exit_code` is what `convzoo predict` exits with.

    ClientError                       1
    +-- UsageError                    2   a URL, an option or a closed client
    +-- InvalidInputError             3   `field` names the part at fault
    |   +-- ImageError                3   a picture that cannot be read
    +-- TransportError               10   no connection, or it broke
    +-- DeadlineError                11   the call's time was over
    +-- OverloadedError              12   `retry_after_s` says when to come back
    +-- ModelNotFoundError           13   `known` lists the models that exist
    +-- NotReadyError                14   starting, draining, loading
    +-- AuthenticationError          15   who you are is missing or wrong
    |   +-- PermissionDeniedError    15   who you are is known and may not
    +-- UnsupportedError             16   this server or protocol has no such thing
    +-- ServerError                  17   the server failed; `request_id` finds it in its logs
        +-- AnswerError              17   the server answered something that is no answer
"""

from collections.abc import Iterable
from typing import ClassVar


class ClientError(Exception):
    """The base of everything this package raises.

    Attributes:
        url: The server that was asked.
        model: The model that was asked for, or "".
        request_id: The id that the server's logs know the call by, or "".
        attempts: How many times the server was asked.
        status: The HTTP status or gRPC code name that came back, e.g. "503" or "UNAVAILABLE".
    """

    exit_code: ClassVar[int] = 1

    url: str = ""
    model: str = ""
    request_id: str = ""
    attempts: int = 0
    status: str = ""


class UsageError(ClientError):
    """The client itself was used in a way that cannot work: nothing was sent."""

    exit_code: ClassVar[int] = 2


class InvalidInputError(ClientError):
    """The input does not fit the model, found here before sending or by the server.

    Attributes:
        field: The part at fault, e.g. "image", "signature", "top_k"; "" when it is not known.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ImageError(InvalidInputError):
    """A picture that is missing, unreadable or of a shape that is none."""


class TransportError(ClientError):
    """No connection could be made, or it broke before the answer was there.

    Attributes:
        is_sent: Whether the server may have seen the request.
    """

    exit_code: ClassVar[int] = 10

    def __init__(self, message: str, *, is_sent: bool = False) -> None:
        super().__init__(message)
        self.is_sent = is_sent


class DeadlineError(ClientError):
    """The time given to the call was over, here or on the server.

    Attributes:
        timeout_s: How long the call was allowed to take, in seconds; None when the server set
            the limit.
    """

    exit_code: ClassVar[int] = 11

    def __init__(self, message: str, *, timeout_s: float | None = None) -> None:
        super().__init__(message)
        self.timeout_s = timeout_s


class OverloadedError(ClientError):
    """The server refused the call because its queue is full.

    Attributes:
        retry_after_s: When to come back, in seconds; None when the server did not say.
    """

    exit_code: ClassVar[int] = 12

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelNotFoundError(ClientError):
    """The server has no such model, version or version label.

    Attributes:
        known: The models that exist, as far as the server tells.
    """

    exit_code: ClassVar[int] = 13

    def __init__(self, message: str, *, known: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.known = tuple(known)


class NotReadyError(ClientError):
    """The server or the model is starting, draining or loading; coming back helps.

    Attributes:
        retry_after_s: When to come back, in seconds; None when the server did not say.
    """

    exit_code: ClassVar[int] = 14

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AuthenticationError(ClientError):
    """The server does not know who is asking: a token or key is missing, wrong or expired."""

    exit_code: ClassVar[int] = 15


class PermissionDeniedError(AuthenticationError):
    """The server knows who is asking, and this caller may not do this."""


class UnsupportedError(ClientError):
    """This server, or the protocol it is asked in, has no such thing."""

    exit_code: ClassVar[int] = 16


class ServerError(ClientError):
    """The server failed on a call that looked right."""

    exit_code: ClassVar[int] = 17


class AnswerError(ServerError):
    """What came back is not an answer in the protocol that was spoken."""
