"""Content codings of HTTP bodies: gzip and deflate, both ways."""

import asyncio
import zlib
from codecs import BOM_UTF8
from dataclasses import replace

from serving.errors import InvalidRequestError, LimitExceededError, UnsupportedError
from serving.limits import LIMITS
from serving.transport import HttpRequest, HttpResponse

# Packing less than this costs more than it saves; more than that would hold up other requests.
LEAST_PACKED_BYTES = 1 << 10
MOST_INLINE_BYTES = 64 << 10

# Members of one gzip body. Tools that write blocks write one for 64 KiB; more of them are empty.
MOST_MEMBERS, _READ_BYTES = 4096, 256 << 10

# zlib's window bits: +16 asks for gzip's frame.
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def inflated(request: HttpRequest) -> HttpRequest:
    """A request with its body unfolded.

    Raises:
        UnsupportedError: another coding than gzip or deflate.
        InvalidRequestError: the body is damaged.
        LimitExceededError: it unfolds to too much.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return request
    if coding not in _WINDOW:
        raise UnsupportedError(
            f"Content-Encoding is {coding[:40]!r}; gzip, deflate and identity work."
        )
    return replace(request, body=_unfold(request.body, coding))


def inflated_as_tensorflow_serving(request: HttpRequest) -> HttpRequest:
    """The same, where what cannot be unfolded is an empty body and other codings are ignored.

    Raises:
        InvalidRequestError: it is in another coding, and no JSON object as it stands.
    """
    coding = request.headers.get("content-encoding", "").lower()
    if "gzip" not in coding:
        is_other = coding not in ("", "identity") and request.body
        if is_other and not request.body.lstrip().startswith((b"{", BOM_UTF8)):
            raise InvalidRequestError(
                "JSON Parse error: Invalid value. at offset: 0; Content-Encoding is "
                f"{coding[:40]!r}, gzip and identity work."
            )
        return request
    try:
        return replace(request, body=_unfold(request.body, "gzip"))
    except InvalidRequestError:
        return replace(request, body=b"")


def _unfold(body: bytes, coding: str) -> bytes:
    """Unfolds every member of a gzip body (RFC 1952, section 2.2); deflate has one."""
    whole, place, pieces = memoryview(body), 0, []
    left = LIMITS.inflated_bytes
    members = MOST_MEMBERS if "gzip" in coding else 1
    unpacker = zlib.decompressobj(wbits=_WINDOW[coding])
    while place < len(body):
        if unpacker.eof:
            members -= 1
            if not members:
                raise InvalidRequestError(f"The {coding} body goes on behind its end.")
            unpacker = zlib.decompressobj(wbits=_WINDOW[coding])
        # A whole body at once would be copied anew behind each member.
        read = whole[place : place + _READ_BYTES]
        try:
            pieces.append(unpacker.decompress(read, left + 1))
        except zlib.error as error:
            raise InvalidRequestError(f"The {coding} body is damaged: {error}.") from error
        left -= len(pieces[-1])
        if left < 0:
            raise LimitExceededError(
                f"The {coding} body unfolds to more than {LIMITS.inflated_bytes:,} bytes."
            )
        place += len(read) - len(unpacker.unused_data)
    if not unpacker.eof:
        raise InvalidRequestError(f"The {coding} body ends too early.")
    return b"".join(pieces)


async def packed(response: HttpResponse, accept_encoding: str) -> HttpResponse:
    """An answer in the coding that the caller likes best, when it is worth it."""
    coding = _best(accept_encoding)
    if coding is None or len(response.body) < LEAST_PACKED_BYTES:
        return response
    if len(response.body) > MOST_INLINE_BYTES:
        body = await asyncio.to_thread(_pack, response.body, coding)
    else:
        body = _pack(response.body, coding)
    return replace(response, headers=(*response.headers, ("content-encoding", coding)), body=body)


def _pack(body: bytes, coding: str) -> bytes:
    # Level 1: tensors hardly shrink, and the caller is waiting.
    packer = zlib.compressobj(level=1, wbits=_WINDOW[coding])
    return packer.compress(body) + packer.flush()


def _best(accept_encoding: str) -> str | None:
    """Which of gzip and deflate the caller likes at least as much as the plain body, if any."""
    likes: dict[str, float] = {}
    for entry in accept_encoding.lower().split(","):
        name, _, parameter = entry.partition(";")
        weight = parameter.strip().removeprefix("q=")
        try:
            likes[name.strip()] = float(weight) if weight else 1.0
        except ValueError:
            continue
    plain = likes.get("identity", 0.0)
    best = max(("gzip", "deflate"), key=lambda name: likes.get(name, 0.0))
    return best if likes.get(best, 0.0) > 0 and likes[best] >= plain else None
