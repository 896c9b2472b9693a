"""What a server's refusal means: HTTP statuses and gRPC codes become this package's errors."""

import re

from serving.client.errors import (
    AuthenticationError,
    ClientError,
    DeadlineError,
    InvalidInputError,
    ModelNotFoundError,
    NotReadyError,
    OverloadedError,
    PermissionDeniedError,
    ServerError,
    TransportError,
    UnsupportedError,
)
from serving.client.exchange import FIELD_HEADER, REQUEST_ID_HEADER, Reply
from serving.wire.codes import CODE_NAMES

# TensorFlow Serving's map from HTTP statuses back to canonical codes.
HTTP_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_RESTRICTED = re.compile(r"protocol is restricted")
# Our server's words, those of gRPC in C++ and Go, and in Java; a queue that is full has others.
_TOO_LARGE = re.compile(r"message (?:is larger than|larger than max|exceeds maximum size)", re.I)
# The end of the sentence is the end of the text: models may have dots in their names.
_KNOWN_MODELS = re.compile(r"this server has (.+)\.$")
# TensorFlow Serving calls a label that is unknown an invalid argument, and our server does too.
_NO_LABEL = re.compile(r"Unrecognized servable version label: |Model .+ has no version label ")


def http_error(reply: Reply, message: str) -> ClientError:
    """The error for an HTTP reply that is not a success."""
    code = HTTP_CODES.get(reply.status, "INTERNAL")
    return _error(code, message or f"HTTP status {reply.status}", reply, str(reply.status))


def grpc_error(reply: Reply) -> ClientError:
    """The error for a gRPC reply that is not OK."""
    code = status = CODE_NAMES.get(reply.status, "UNKNOWN")
    if code == "UNAVAILABLE" and _RESTRICTED.search(reply.message):
        code = "PERMISSION_DENIED"  # Triton's word for it is one that asks to come back
    if code == "RESOURCE_EXHAUSTED" and _TOO_LARGE.search(reply.message):
        code = "OUT_OF_RANGE"  # a message does not become smaller by coming back; HTTP says 413
    return _error(code, reply.message or code, reply, status)


def _error(code: str, message: str, reply: Reply, status: str) -> ClientError:
    retry_after_s = _retry_after_s(reply)
    error: ClientError
    if code == "INVALID_ARGUMENT" and _NO_LABEL.match(message):
        code = "NOT_FOUND"
    match code:
        case "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE":
            error = InvalidInputError(message, field=reply.headers.get(FIELD_HEADER, ""))
        case "NOT_FOUND":
            known = _KNOWN_MODELS.search(message)
            names = known[1].split(", ") if known and known[1] != "none" else []
            error = ModelNotFoundError(message, known=names)
        case "RESOURCE_EXHAUSTED":
            error = OverloadedError(message, retry_after_s=retry_after_s)
        case "UNAVAILABLE":
            error = NotReadyError(message, retry_after_s=retry_after_s)
        case "DEADLINE_EXCEEDED":
            error = DeadlineError(message)
        case "UNAUTHENTICATED":
            error = AuthenticationError(message)
        case "PERMISSION_DENIED":
            error = PermissionDeniedError(message)
        case "UNIMPLEMENTED":
            error = UnsupportedError(message)
        case "CANCELLED":
            error = TransportError(message, is_sent=True)
        case _:
            error = ServerError(message)
    error.status = status
    error.request_id = reply.headers.get(REQUEST_ID_HEADER, "")
    error.__cause__ = reply.cause
    return error


def _retry_after_s(reply: Reply) -> float | None:
    """When to come back: HTTP's header, or gRPC's word for it, which is in milliseconds."""
    for name, unit_s in (("retry-after", 1.0), ("grpc-retry-pushback-ms", 1e-3)):
        try:
            seconds = float(reply.headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if 0 <= seconds < 3600:
            return seconds
    return None
