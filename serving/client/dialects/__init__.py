"""How each protocol spells the same operations: requests out, replies in, no connections.

Every dialect gives the same results and the same errors, so that the client is written once.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from serving.client.exchange import Question
from serving.client.results import Signature
from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    ExplainCall,
    ExplainReply,
    LayersReply,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Target,
)

Again: TypeAlias = Callable[[NDArray[Any], str], Question[PredictReply]]


class Dialect(Protocol):
    """One protocol over one kind of connection.

    Attributes:
        names_calls: Whether the id of a call belongs into the body of its request.
    """

    names_calls: bool

    def predict(self, call: PredictCall, signature: Signature | None) -> Question[PredictReply]:
        """Asks for the outputs of a signature; inputs have been checked and named."""
        ...

    def again(self, call: PredictCall) -> Again | None:
        """How the same is asked with other numbers: one input, the same type and shape.

        Returns:
            What makes the question of an array and the call's id; None where nothing is saved, and
            for strings, which take another number of bytes each time.
        """
        ...

    def classify(self, call: ClassifyImagesCall) -> Question[ClassifyImagesReply]:
        """Asks for the k best labels of encoded images."""
        ...

    def metadata(self, target: Target) -> Question[ModelMetadata]:
        """Asks what a version takes and gives."""
        ...

    def status(self, target: Target) -> Question[ModelStatus]:
        """Asks for the states of a model's versions."""
        ...

    def models(self) -> Question[tuple[str, ...]]:
        """Asks for the names of all models; raises `UnsupportedError` where there is no word."""
        ...

    def layers(self, target: Target) -> Question[LayersReply]:
        """Asks what can be looked into; raises `UnsupportedError` where there is no word for it."""
        ...

    def explain(self, call: ExplainCall) -> Question[ExplainReply]:
        """Asks for an explanation; raises `UnsupportedError` where there is no word for it."""
        ...

    def is_ready(self, target: Target | None) -> Question[bool]:
        """Asks whether a model takes requests, or the server where none is named."""
        ...

    def load(self, model: str) -> Question[None]:
        """Asks to load a model; raises `UnsupportedError` where there is no word for it."""
        ...

    def unload(self, model: str) -> Question[None]:
        """Asks to unload a model; raises `UnsupportedError` where there is no word for it."""
        ...


def has_one_size(call: PredictCall) -> bool:
    """Whether all calls with one input of this type and shape, and no label, are equally long."""
    return (
        len(call.inputs) == 1
        and call.target.label is None
        and all(array.dtype.kind not in "OSU" for array in call.inputs.values())
    )


DIALECTS = {
    ("native", False): "serving.client.dialects.native:NativeRest",
    ("native", True): "serving.client.dialects.native:NativeGrpc",
    ("oip", False): "serving.client.dialects.oip_rest:OipRest",
    ("oip", True): "serving.client.dialects.oip_grpc:OipGrpc",
    ("tfs", False): "serving.client.dialects.tfs_rest:TfsRest",
    ("tfs", True): "serving.client.dialects.tfs_grpc:TfsGrpc",
}


def dialect(protocol: str, *, is_grpc: bool, has_raw: bool = True) -> Dialect:
    """The dialect for "native", "oip" or "tfs" over REST or gRPC.

    Args:
        protocol: Its name.
        is_grpc: gRPC, REST otherwise.
        has_raw: Whether an Open Inference server takes raw tensors over REST; JSON if not.
    """
    place = DIALECTS[protocol, is_grpc]
    if (protocol, is_grpc, has_raw) == ("oip", False, False):
        place = "serving.client.dialects.oip_rest:PlainOipRest"
    module, name = place.split(":")
    made: Dialect = getattr(import_module(module), name)()
    return made
