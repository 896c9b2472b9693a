"""Which protocol a server speaks: one question, asked once, when nobody said.

Open Inference servers name themselves; ours does too. Whoever does not know the question speaks
TensorFlow Serving.
"""

from serving.client.dialects import replies
from serving.client.exchange import Question, Reply, Request
from serving.wire import oip_proto
from serving.wire.codes import CODE_NUMBERS
from serving.wire.tfs_json import loads

OURS = "convzoo"


def identity(*, is_grpc: bool) -> Question[str]:
    """Asks for the server's protocol: "native", "oip" or "tfs"."""
    if is_grpc:
        return Question(Request(f"{oip_proto.SERVICE}/ServerMetadata", (b"",)), _grpc)
    return Question(Request("/v2", method="GET"), _http)


def _spoken(name: str) -> str:
    return "native" if name == OURS else "oip"


def _http(reply: Reply) -> str:
    # 404 and its like, but not "who are you" (401, 403) or "come back" (408, 429).
    if reply.status in (400, 404, 405, 501):
        return "tfs"
    return replies.http(lambda body: _spoken(str(loads(body).get("name"))))(reply)


def _grpc(reply: Reply) -> str:
    if reply.status == CODE_NUMBERS["UNIMPLEMENTED"]:
        return "tfs"
    return replies.grpc(lambda body: _spoken(oip_proto.parse("ServerMetadataResponse", body).name))(
        reply
    )
