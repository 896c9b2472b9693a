"""The files of a multipart/form-data body (RFC 7578), without a copy of anything but them.

Rules:
1. A delimiter is a line that begins with two hyphens and the boundary, and goes on with nothing but
   two more for the last one, and blanks (RFC 2046, section 5.1.1). Lines may end without CR.
2. What stands before the first delimiter and behind the last one is ignored.
3. The work grows with the body and nothing else: this runs where all other requests wait.
"""

import binascii
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple
from urllib.parse import unquote

from serving.errors import InvalidRequestError, LimitExceededError
from serving.limits import LIMITS

# The head of one part, and the parameters of one of its fields; browsers and curl write a tenth.
MOST_HEAD_BYTES, MOST_PARAMETERS = 8 << 10, 32

# Lines that begin as a delimiter and are none: random bytes hardly ever do, so more are an attack.
MOST_FALSE_DELIMITERS = 1 << 10

_REST_OF_DELIMITER = re.compile(rb"(--)?[ \t]{0,256}(?:\r?\n|\Z)")
_END_OF_HEAD = re.compile(rb"(?:\A|\n)\r?\n")
_FOLD = re.compile(r"\r?\n[ \t]+")
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

# RFC 7578 has no more use for these; older clients still send them.
_TRANSFER: dict[str, Callable[[bytes], bytes]] = {
    "base64": binascii.a2b_base64,
    "quoted-printable": binascii.a2b_qp,
}


class Delimiter(NamedTuple):
    """Where a delimiter's line begins and ends."""

    begin: int
    end: int
    is_last: bool


def decode_files(body: bytes, content_type: str) -> tuple[bytes, ...]:
    """Server: the files of a body, in their order; empty ones, of forms left blank, are left out.

    Args:
        body: The request's body.
        content_type: Its Content-Type, which names the boundary.

    Raises:
        InvalidRequestError: there are no parts, or one that is no file.
        LimitExceededError: more parts than images are taken.
    """
    boundary = parameters_of(content_type).get("boundary", "").rstrip().encode("latin-1", "replace")
    files = []
    number = 0
    for number, part in enumerate(_parts(body, boundary) if boundary else (), start=1):
        if number > LIMITS.images:
            raise LimitExceededError(
                f"The multipart body has more than {LIMITS.images} parts; at most {LIMITS.images} "
                "images are taken.",
                field="images",
            )
        if content := _file(part, number - 1):
            files.append(content)
    if not number:
        raise InvalidRequestError("The multipart body has no parts; is its boundary right?")
    return tuple(files)


def _parts(body: bytes, boundary: bytes) -> Iterator[memoryview]:
    whole = memoryview(body)
    begin = None
    for line in _delimiters(body, b"--" + boundary):
        if begin is not None:
            # The line end before a delimiter is the delimiter's.
            end = line.begin - (2 if body[line.begin - 2 : line.begin] == b"\r\n" else 1)
            yield whole[begin : max(begin, end)]
        begin = line.end
        if line.is_last:
            return
    if begin is not None:
        yield whole[begin:]  # some clients leave the last delimiter out


def _delimiters(body: bytes, delimiter: bytes) -> Iterator[Delimiter]:
    false = 0
    for begin in _lines(body, delimiter):
        if found := _REST_OF_DELIMITER.match(body, begin + len(delimiter)):
            yield Delimiter(begin, found.end(), found[1] is not None or found.end() == len(body))
            continue
        false += 1
        if false > MOST_FALSE_DELIMITERS:
            raise InvalidRequestError(
                "The multipart body has its boundary in its parts; choose another one."
            )


def _lines(body: bytes, delimiter: bytes) -> Iterator[int]:
    """Where the lines begin that begin as a delimiter does."""
    if body.startswith(delimiter):
        yield 0
    line = b"\n" + delimiter
    place = body.find(line)
    while place >= 0:
        yield place + 1
        place = body.find(line, place + 1)


def _file(part: memoryview, index: int) -> bytes:
    start = bytes(part[:MOST_HEAD_BYTES])
    blank = _END_OF_HEAD.search(start)
    if blank is None:
        raise InvalidRequestError(
            f"Part {index} of the multipart body has no blank line after its head, or only after "
            f"{MOST_HEAD_BYTES:,} bytes."
        )
    headers = _headers(start[: blank.start()])
    disposition = parameters_of(headers.get("content-disposition", ""))
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise InvalidRequestError(
            f"Part {index} of the multipart body is {kind[:40]} itself; send each image as a part "
            "of its own."
        )
    name = disposition.get("name", "")
    is_file = "filename" in disposition or kind.startswith(("image/", "application/octet-stream"))
    if name and not is_file:
        raise InvalidRequestError(
            f"The field {name[:40]!r} is no file. Images are sent as files, with a filename, and "
            "settings in the URL, e.g. ?top_k=3.",
            field=name,
        )
    content = bytes(part[blank.end() :])
    coding = headers.get("content-transfer-encoding", "").strip().lower()
    try:
        return _TRANSFER[coding](content) if coding in _TRANSFER else content
    except binascii.Error as error:
        raise InvalidRequestError(
            f"Part {index} of the multipart body is no {coding}: {error}."
        ) from error


def _headers(head: bytes) -> dict[str, str]:
    """The fields of a part's head; of several of one name the first."""
    found: dict[str, str] = {}
    for line in _FOLD.sub(" ", head.decode("utf-8", "replace")).split("\n"):
        name, _, value = line.partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    return found


def parameters_of(field: str) -> dict[str, str]:
    """The parameters of a header field, their names in lower case; of several the first.

    `name*=utf-8''text` (RFC 2231) counts as `name=text`.
    """
    found: dict[str, str] = {}
    for parameter in islice(_PARAMETER.finditer(field), MOST_PARAMETERS):
        name, star, _ = parameter[1].lower().partition("*")
        value = parameter[2]
        text = _ESCAPED.sub(r"\1", value[1:-1]) if value.endswith('"') else value
        text = text.strip(' \t"')
        found.setdefault(name, unquote(text.rpartition("'")[2]) if star else text)
    return found
