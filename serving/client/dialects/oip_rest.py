"""The Open Inference Protocol's REST interface, with raw tensors after the JSON."""

from typing import Any

from numpy.typing import NDArray

from serving.client.dialects import Again, has_one_size, replies
from serving.client.dialects.limits import no_images, no_label
from serving.client.dialects.tfs_rest import path
from serving.client.dialects.unexplained import Unexplained
from serving.client.errors import ModelNotFoundError
from serving.client.exchange import Question, Reply, Request
from serving.client.results import Signature
from serving.messages import (
    DEFAULT_SIGNATURE,
    ClassifyImagesCall,
    ClassifyImagesReply,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Target,
    TensorSpec,
    VersionState,
    VersionStatus,
)
from serving.messages import Signature as WireSignature
from serving.wire import oip_json
from serving.wire.oip import DTYPES, view_raw
from serving.wire.tfs_json import dumps, loads

LENGTH = "inference-header-content-length"
JSON = (("content-type", "application/json"),)

# The protocol's states -> ours. Servers that leave a state out mean "not loaded".
STATES = {theirs: ours for ours, theirs in reversed(oip_json.STATES.items())}


class OipRest(Unexplained):
    """The Open Inference Protocol over REST.

    Args:
        names_calls: Whether the id of a call goes into the body, for servers that read it there.
    """

    def __init__(self, *, names_calls: bool = True) -> None:
        self.names_calls = names_calls

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """`POST /v2/models/m/infer`; the inputs travel raw, and the outputs where they can."""
        del signature  # answers carry names and types
        no_label(call.target)
        pieces, split = oip_json.encode_infer_request(call)
        headers = (("content-type", "application/octet-stream"), (LENGTH, str(split)))
        page = f"{path('/v2', call.target)}/infer"
        request = Request(page, pieces, headers=headers, id=call.request_id)
        return Question(request, replies.http_reply(_decode_infer))

    def again(self, call: PredictCall) -> Again | None:
        """The same JSON, and other numbers behind it."""
        if self.names_calls or not has_one_size(call):
            return None
        request = self.predict(call, None).request
        page, head, headers = request.path, request.body[0], request.headers
        read = replies.http_reply(_decode_infer)

        def ask(array: NDArray[Any], _: str) -> Question[PredictReply]:
            return Question(Request(page, (head, view_raw(array)), headers=headers), read)

        return ask

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """The protocol has tensors only."""
        raise no_images("The Open Inference Protocol", call.target)

    def metadata(self, target: Target) -> Question[ModelMetadata]:
        """`GET /v2/models/m`."""
        no_label(target)

        def decode(body: bytes) -> ModelMetadata:
            document = loads(body)
            return described(
                target,
                document["name"],
                [str(each) for each in document.get("versions") or ()],
                document.get("platform") or "",
                _specs(document.get("inputs")),
                _specs(document.get("outputs")),
            )

        return Question(Request(path("/v2", target), method="GET"), replies.http(decode))

    def status(self, target: Target) -> Question[ModelStatus]:
        """`POST /v2/repository/index`: what it says of one model."""

        def decode(body: bytes) -> ModelStatus:
            return status_of(target, [_entry(each) for each in loads(body)])

        return Question(self._index(), replies.http(decode))

    def models(self) -> Question[tuple[str, ...]]:
        """`POST /v2/repository/index`."""

        def decode(body: bytes) -> tuple[str, ...]:
            return names_of([_entry(each) for each in loads(body)])

        return Question(self._index(), replies.http(decode))

    def _index(self) -> Request:
        return Request("/v2/repository/index", (b"{}",), headers=JSON)

    def is_ready(self, target: Target | None) -> Question[bool]:
        """`GET /v2/models/m/ready`, or `/v2/health/ready` without a model."""
        if target is not None:
            no_label(target)
        page = "/v2/health/ready" if target is None else f"{path('/v2', target)}/ready"
        read = replies.http(_is_ready)

        def decode(reply: Reply) -> bool:
            # Triton says 400 of a model that is loading, and of one it never heard of.
            return reply.status not in (400, 503) and read(reply)

        return Question(Request(page, method="GET"), decode)

    def load(self, model: str) -> Question[None]:
        """`POST /v2/repository/models/m/load`."""
        return self._repository(model, "load")

    def unload(self, model: str) -> Question[None]:
        """`POST /v2/repository/models/m/unload`."""
        return self._repository(model, "unload")

    def _repository(self, model: str, verb: str) -> Question[None]:
        page = path("/v2/repository", Target(model))
        request = Request(f"{page}/{verb}", (dumps({}),), headers=JSON, is_repeatable=False)
        return Question(request, replies.http(lambda _: None))


def _is_ready(body: bytes) -> bool:
    # Triton and MLServer answer 200 with no body at all.
    document = loads(body) if body.strip() else {}
    return not isinstance(document, dict) or document.get("ready", True) is not False


class PlainOipRest(OipRest):
    """The same for servers that take JSON only, such as MLServer."""

    def again(self, call: PredictCall) -> Again | None:
        """All of a request is written anew."""
        del call
        return None

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """`POST /v2/models/m/infer`; inputs and outputs are JSON."""
        del signature  # answers carry names and types
        no_label(call.target)
        body = oip_json.encode_plain_infer_request(call)
        page = f"{path('/v2', call.target)}/infer"
        request = Request(page, (body,), headers=JSON, id=call.request_id)
        return Question(request, replies.http_reply(_decode_infer))


def _decode_infer(reply: Reply) -> PredictReply:
    return oip_json.decode_infer_reply(reply.body, reply.headers.get(LENGTH))


# --- What both forms of the protocol share ------------------------------------------------------


def described(
    target: Target,
    model: str,
    versions: list[str],
    platform: str,
    inputs: dict[str, TensorSpec],
    outputs: dict[str, TensorSpec],
) -> ModelMetadata:
    """A model's metadata; the version is the one that was asked for, or the newest."""
    numbers = tuple(sorted((int(each) for each in versions if each.isdigit()), reverse=True))
    return ModelMetadata(
        model=model,
        version=target.version or (numbers[0] if numbers else 0),
        signatures={
            DEFAULT_SIGNATURE: WireSignature(DEFAULT_SIGNATURE, inputs, outputs, method_name="")
        },
        platform=platform,
        versions=numbers,
    )


Entry = tuple[str, str, str, str]
"""Name, version, state and reason, as the index has them."""


def names_of(entries: list[Entry]) -> tuple[str, ...]:
    """The models of an index, each once, in its order."""
    return tuple(dict.fromkeys(name for name, *_ in entries))


def status_of(target: Target, entries: list[Entry]) -> ModelStatus:
    """The versions of one model, newest first.

    Raises:
        ModelNotFoundError: the index does not have it.
    """
    versions = [
        VersionStatus(
            version=int(version) if version.isdigit() else 0,
            # MLServer's gRPC says "State.READY".
            state=STATES.get(state.rpartition(".")[2], VersionState.END),
            error_message=reason,
        )
        for name, version, state, reason in entries
        if name == target.model
    ]
    if not versions:
        known = names_of(entries)
        raise ModelNotFoundError(
            f"No model {target.model!r}; this server has {', '.join(known) or 'none'}.",
            known=known,
        )
    versions.sort(key=lambda each: each.version, reverse=True)
    return ModelStatus(target.model, tuple(versions))


def _entry(item: Any) -> Entry:
    return (
        item["name"],
        str(item.get("version") or ""),
        item.get("state") or "",
        item.get("reason") or "",
    )


def _specs(tensors: Any) -> dict[str, TensorSpec]:
    return {
        each["name"]: spec_of(each["name"], each["datatype"], each.get("shape"))
        for each in tensors or ()
    }


def spec_of(name: str, datatype: str, shape: Any) -> TensorSpec:
    """One tensor's description; a size below zero stands for any."""
    sizes = None if shape is None else tuple(None if size < 0 else int(size) for size in shape)
    return TensorSpec(name, DTYPES[datatype], sizes)
