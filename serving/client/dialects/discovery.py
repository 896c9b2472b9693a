"""Which protocol a server speaks: one question, asked once, when nobody said.

Open Inference servers name themselves; ours does too. Whoever does not know the question speaks
TensorFlow Serving.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from serving.client.address import Protocol
from serving.client.dialects import replies
from serving.client.errors import AnswerError
from serving.client.exchange import Question, Reply, Request
from serving.wire import oip_proto
from serving.wire.codes import CODE_NUMBERS
from serving.wire.tfs_json import loads

OURS = "convzoo"


@dataclass(frozen=True, slots=True)
class Server:
    """What a server says of itself.

    Attributes:
        protocol: "native", "oip" or "tfs".
        has_raw: Whether it takes raw tensors over REST.
    """

    protocol: Protocol
    has_raw: bool = True


def identity(*, is_grpc: bool) -> Question[Server]:
    """Asks a server what it is."""
    if is_grpc:
        return Question(Request(f"{oip_proto.SERVICE}/ServerMetadata", (b"",)), _grpc)
    return Question(Request("/v2", method="GET"), _http)


def _server(name: str, extensions: Iterable[str]) -> Server:
    return Server("native" if name == OURS else "oip", "binary_tensor_data" in extensions)


def _http(reply: Reply) -> Server:
    # 404 and its like, but not "who are you" (401, 403) or "come back" (408, 429).
    if reply.status in (404, 405, 501):
        return Server("tfs", has_raw=False)
    if reply.status == 400:
        # A gRPC port may say so of HTTP/1.1, and a port with TLS of a request without.
        said = bytes(reply.body[:80])
        error = AnswerError(
            f"The server was asked what it speaks and answered with status 400: {said!r}. Is this "
            "the REST port, and is it http:// or https:// as the URL says?"
        )
        error.status = str(reply.status)
        raise error

    def decode(body: bytes) -> Server:
        document = loads(body)
        return _server(str(document.get("name")), document.get("extensions") or ())

    return replies.http(decode)(reply)


def _grpc(reply: Reply) -> Server:
    if reply.status == CODE_NUMBERS["UNIMPLEMENTED"]:
        return Server("tfs")

    def decode(body: bytes) -> Server:
        found = oip_proto.parse("ServerMetadataResponse", body)
        return _server(found.name, found.extensions)

    return replies.grpc(decode)(reply)
