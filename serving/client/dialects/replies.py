"""What every dialect does with a reply: its body when it is a success, its error when not."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from serving.client.errors import AnswerError, ClientError
from serving.client.exchange import TIMINGS_HEADER, Reply
from serving.client.failures import grpc_error, http_error
from serving.client.results import Timings
from serving.errors import InvalidRequestError, ServingError
from serving.wire import tfs_json

T = TypeVar("T")


def http(decode: Callable[[bytes], T]) -> Callable[[Reply], T]:
    """Reads an HTTP reply's body."""
    return http_reply(lambda reply: decode(bytes(reply.body)))


def http_reply(decode: Callable[[Reply], T]) -> Callable[[Reply], T]:
    """Reads an HTTP reply, headers included."""

    def read(reply: Reply) -> T:
        if not 200 <= reply.status < 300:
            raise http_error(reply, _message(bytes(reply.body)))
        return _decoded(decode, reply)

    return read


def grpc(decode: Callable[[bytes], T]) -> Callable[[Reply], T]:
    """Reads a gRPC reply's message."""

    def read(reply: Reply) -> T:
        if reply.status != 0:
            raise grpc_error(reply)
        return _decoded(lambda each: decode(bytes(each.body)), reply)

    return read


def _decoded(decode: Callable[[Reply], T], reply: Reply) -> T:
    try:
        return decode(reply)
    except ClientError:
        raise
    except (InvalidRequestError, ServingError) as error:
        raise AnswerError(str(error)) from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        # A foreign server may answer anything.
        said = f"{type(error).__name__}: {error}"
        raise AnswerError(
            f"The server's answer is none in the protocol that was spoken ({said}): "
            f"{bytes(reply.body)[:80]!r}."
        ) from error


def _message(body: bytes) -> str:
    """The server's words: `{"error": "..."}`, or the beginning of what a proxy said."""
    try:
        document = tfs_json.loads(body)
    except InvalidRequestError:
        document = None
    if isinstance(document, dict) and isinstance(document.get("error"), str):
        return str(document["error"])
    return body[:200].decode("utf-8", "replace").strip()


_TIMINGS = re.compile(r"(decode|queue|execute|encode);dur=(\d+(?:\.\d+)?)")
_NO_TIMINGS = Timings()


def timings_of(headers: Mapping[str, str]) -> Timings:
    """Where the server's time went, as the header `Server-Timing` has it in milliseconds."""
    text = headers.get(TIMINGS_HEADER)
    if not text:
        return _NO_TIMINGS
    return Timings(**{f"{name}_s": float(spent) / 1e3 for name, spent in _TIMINGS.findall(text)})
