"""HTTP/1.1 without waiting: the bytes of a request, and an answer as its bytes arrive.

httptools reads heads and chunks. The body of an answer that says how long it is goes from the
socket into its place: whoever waits for bytes fills `Answer.space()` and tells `filled()`.
"""

from collections.abc import Iterable

import httptools
import numpy as np

from serving.client.errors import AnswerError
from serving.client.exchange import Buffer, Headers, Reply, Request

# What is read at once where nobody knows yet how much will come.
PIECE_BYTES = 64 << 10
# A head that is longer is none.
MOST_HEAD_BYTES = 64 << 10


def head_of(request: Request, authority: str, prefix: str, headers: Headers) -> bytes:
    """The request line and headers.

    Args:
        request: What is asked.
        authority: For the header `host`.
        prefix: Stands before the request's path.
        headers: Those of the client; the request's own come first.

    Raises:
        ValueError: a header that HTTP cannot carry.
    """
    lines = [f"{request.method} {prefix}{request.path} HTTP/1.1\r\nhost: {authority}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in (*request.headers, *headers)]
    if request.body or request.method != "GET":
        lines.append(f"content-length: {sum(map(len, request.body))}\r\n")
    text = "".join(lines)
    # A name or value with a line break in it would be a header of its own.
    if text.count("\r") != len(lines) + 1 or text.count("\n") != len(lines) + 1:
        raise ValueError("a header's name or value contains a line break.")
    return f"{text}\r\n".encode("latin-1")


def pieces_of(head: bytes, body: Iterable[Buffer]) -> list[memoryview]:
    """What goes to the socket, in order; nothing is copied."""
    return [memoryview(head), *(memoryview(each).cast("B") for each in body if len(each))]


class Answer:
    """One answer, from its first byte to its last.

    Attributes:
        is_begun: Whether anything of it came.
        is_complete: Whether all of it came.
        is_last: Whether the connection must not be used again.
    """

    __slots__ = (
        "_body",
        "_count",
        "_have",
        "_headers",
        "_parser",
        "_pieces",
        "_scratch",
        "_status",
        "_until_end",
        "is_begun",
        "is_complete",
        "is_last",
    )

    def __init__(self, scratch: memoryview) -> None:
        self._scratch = scratch
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._body: memoryview | None = None
        self._have = self._count = self._status = 0
        self._until_end = False
        self.is_begun = self.is_complete = self.is_last = False

    def space(self) -> memoryview:
        """Where the next bytes belong."""
        return self._scratch if self._body is None else self._body[self._have :]

    def filled(self, number: int) -> None:
        """Takes the first `number` bytes of `space()`; 0 means that nothing more will come.

        Raises:
            AnswerError: they are no HTTP.
            EOFError: the answer ended too early.
        """
        if number == 0:
            if not self._until_end:
                raise EOFError("the server closed it before its answer was complete")
            self.is_complete = True
        elif self._body is None:
            self.is_begun = True
            self._feed(self._scratch[:number])
        else:
            self._have += number
            self.is_complete = self._have == len(self._body)

    def _feed(self, data: memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self.is_complete:
                self.is_last = True  # what follows an answer is nobody's
                return
            raise AnswerError(
                f"What came back is no HTTP ({error}): {bytes(data[:40])!r}. Is this the REST "
                "port, and is it http:// or https:// as the URL says?"
            ) from error
        except httptools.HttpParserUpgrade as error:
            raise AnswerError("The server wants to speak something else than HTTP/1.1.") from error
        if not self._until_end and self._body is None and not self.is_complete:
            self._count += len(data)
            if not self._pieces and self._count > MOST_HEAD_BYTES:
                raise AnswerError(f"The answer's head is longer than {MOST_HEAD_BYTES:,} bytes.")

    def reply(self) -> Reply:
        """The answer, once it is complete."""
        headers: dict[str, str] = {}
        for name, value in self._headers:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        body: Buffer
        if self._body is not None:
            body = self._body
        else:
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        return Reply(self._status, body, headers)

    # --- What httptools calls

    def on_message_begin(self) -> None:
        """A head begins; one behind a complete answer is nobody's."""
        self.is_last |= self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        if not self.is_complete:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is there: how much body there will be is known, or that nobody knows."""
        if self.is_complete:
            return
        self._status = self._parser.get_status_code()
        if self._status < 200:
            return
        self.is_last = not self._parser.should_keep_alive()
        named = {name.lower(): value for name, value in self._headers}
        length = named.get(b"content-length")
        if length is not None and int(length) > PIECE_BYTES:
            # Memory that is not touched before bytes come: a length may be a lie.
            self._body = np.empty(int(length), np.uint8).data
        elif length is None and b"transfer-encoding" not in named:
            self._until_end = self._status not in (204, 304)

    def on_body(self, piece: bytes) -> None:
        """A part of the body, beside the head or in chunks."""
        if self._body is None:
            self._pieces.append(piece)
        else:
            self._body[self._have : self._have + len(piece)] = piece
            self._have += len(piece)

    def on_message_complete(self) -> None:
        """All is there; after "100 Continue" and its like the answer is still to come."""
        if self._status < 200:
            self._headers.clear()
        else:
            self.is_complete = True
