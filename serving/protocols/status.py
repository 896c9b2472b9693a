"""The one place where errors become codes of HTTP and gRPC."""

import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from serving.errors import InvalidRequestError, ServingError, code_of
from serving.messages import Timings
from serving.transport import GrpcRequest
from serving.wire.codes import CODE_NUMBERS

log = logging.getLogger(__name__)


class Timed(NamedTuple):
    """An answer's message, and where the time of its making went."""

    body: bytes
    timings: Timings


GrpcMethod = Callable[[GrpcRequest], Awaitable[bytes | Timed]]
"""One gRPC method before its errors have become codes."""


class FixedCodeError(ServingError):
    """An error for which a protocol prescribes a code that ours do not give.

    `code` is the name of a canonical gRPC code.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


# TensorFlow Serving's map from canonical codes to HTTP.
HTTP_STATUS = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

# TensorFlow Serving cuts its messages here too.
MOST_MESSAGE = 1024


def http_status(error: Exception) -> int:
    """The HTTP status of an error."""
    return HTTP_STATUS.get(_code(error), 500)


def grpc_code(error: Exception) -> int:
    """The gRPC code of an error, as a number."""
    return CODE_NUMBERS[_code(error)]


def _code(error: Exception) -> str:
    return error.code if isinstance(error, FixedCodeError) else code_of(error)


def text_of(error: Exception, request_id: str) -> str:
    """What may be sent of an error; a defect is logged, and answered with its id alone."""
    if not isinstance(error, ServingError):
        log.error("request %s failed", request_id or "-", exc_info=error)
        return f"Internal error; the server's log knows it as request {request_id or '-'}."
    text = str(error)
    return text if len(text) <= MOST_MESSAGE else text[:MOST_MESSAGE] + "...TRUNCATED"


def facts_of(error: Exception) -> tuple[tuple[str, str], ...]:
    """What an error says beside its text, as headers or trailers: which field is at fault."""
    if isinstance(error, InvalidRequestError) and error.field.isascii():
        field = error.field[:MOST_FIELD]
        if field.isprintable() and field:
            return (("x-error-field", field),)
    return ()


MOST_FIELD = 128


def timings_header(timings: Timings) -> tuple[str, str]:
    """Where the time went, in milliseconds, as browsers and our client read it."""
    decode_s, queue_s, execute_s, _ = timings
    return (
        "server-timing",
        f"decode;dur={decode_s * 1e3:.3f}, queue;dur={queue_s * 1e3:.3f}, "
        f"execute;dur={execute_s * 1e3:.3f}",
    )
