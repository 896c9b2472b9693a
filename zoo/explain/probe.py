"""The little that every method needs of a network, whatever runs it.

Array names: n image, h row, w column, c channel, k class.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from zoo.errors import ExplainError
from zoo.frozen import Frozen
from zoo.suggest import unknown

Array: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float32]

Rule = Literal["relu", "guided", "deconvnet"]
"""What a ReLU does to a signal R that comes back from above, f being what went forward.

relu        R where f > 0: the gradient.
guided      R where f > 0 and R > 0 [springenberg2015].
deconvnet   R where R > 0, and normalisation layers let everything pass [zeiler2014].
"""


class Layer(Frozen):
    """One layer of a network.

    Attributes:
        name: Unique in the network.
        kind: Its Keras class, e.g. "Conv2D".
        parents: The layers whose outputs it takes, in order; none for the input.
        output_shape: (height, width, channels) of feature maps, (units,) after a flatten; without
            the batch.
        config: Its settings as Keras writes them.
    """

    name: str
    kind: str
    parents: tuple[str, ...]
    output_shape: tuple[int, ...]
    config: dict[str, Any] = Field(default_factory=dict)

    @property
    def has_maps(self) -> bool:
        """Whether its output has places: rows and columns."""
        return len(self.output_shape) == 3


class Probe(Protocol):
    """A network that can be looked into. Images are [N, H, W, C], preprocessed, float32."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, each after its parents; the input is the first."""
        ...

    @property
    def output(self) -> str:
        """The layer that gives the logits [N, K], before any softmax."""
        ...

    def feature_maps(self, images_nhwc: Floats, layers: Sequence[str]) -> Mapping[str, Floats]:
        """The outputs of some layers, [N, ...] each.

        Raises:
            ExplainError: no such layer, or this probe cannot give it.
        """
        ...

    def pull_back(
        self,
        images_nhwc: Floats,
        layer: str,
        seed: Floats,
        *,
        at: str | None = None,
        rule: Rule = "relu",
    ) -> Floats:
        """Sends a signal from a layer's output back to the image, or to another layer's output.

        With the rule "relu" it is the gradient of sum(seed * output(layer)).

        Args:
            images_nhwc: What went forward.
            layer: Where the signal starts.
            seed: The signal [N, ...], of the shape of that layer's output.
            at: The layer at whose output it is taken; the image when None.
            rule: What ReLUs do to it.

        Raises:
            ExplainError: no such layer, or this probe has no gradients.
        """
        ...

    def weights(self, layer: str) -> Mapping[str, Floats]:
        """A layer's weights by their Keras names: kernel, bias, gamma...; none for most layers.

        Raises:
            ExplainError: no such layer, or this probe has no weights.
        """
        ...


def require_layer(probe: Probe, name: str) -> Layer:
    """The layer of that name.

    Raises:
        ExplainError: there is none; says which there are.
    """
    for layer in probe.layers:
        if layer.name == name:
            return layer
    raise ExplainError(unknown("layer", name, (layer.name for layer in probe.layers)))


def require_maps(probe: Probe, name: str) -> Layer:
    """The layer of that name, whose output has rows and columns.

    Raises:
        ExplainError: there is none, or its output has no places.
    """
    layer = require_layer(probe, name)
    if not layer.has_maps:
        with_maps = ", ".join(each.name for each in probe.layers[1:] if each.has_maps)
        raise ExplainError(
            f"The output of {name!r} is {list(layer.output_shape)}: it has no rows and columns. "
            f"These have: {with_maps}."
        )
    return layer


def last_maps(probe: Probe) -> str:
    """The last layer whose output has more than one place: what the classifier looks at.

    Raises:
        ExplainError: the network has no feature maps.
    """
    for layer in reversed(probe.layers[1:]):
        if layer.has_maps and math.prod(layer.output_shape[:2]) > 1:
            return layer.name
    raise ExplainError("This network has no layer with feature maps.")


def logits(probe: Probe, images_nhwc: Floats) -> Floats:
    """The scores before softmax, [N, K]."""
    return probe.feature_maps(images_nhwc, [probe.output])[probe.output]


def softmax(logits_nk: Floats) -> Floats:
    """Probabilities along the last axis."""
    exponents = np.exp(logits_nk - logits_nk.max(-1, keepdims=True))
    result: Floats = exponents / exponents.sum(-1, keepdims=True)
    return result


def chosen_target(probe: Probe, images_nhwc: Floats, target: int | None) -> int:
    """The class id to explain: the one given, else the best of the first image.

    Raises:
        ExplainError: a class id that the network has not.
    """
    found = logits(probe, images_nhwc[:1])[0]
    if target is None:
        return int(found.argmax())
    if not 0 <= target < len(found):
        raise ExplainError(
            f"There is no class {target}; this network has {len(found)}, 0 to {len(found) - 1}."
        )
    return target


def one_hot(count: int, classes: int, target: int) -> Floats:
    """The signal that picks one logit: [count, classes]."""
    seed = np.zeros((count, classes), np.float32)
    seed[:, target] = 1
    return seed


def ancestors(layers: Sequence[Layer], name: str) -> tuple[Layer, ...]:
    """A layer and everything its output depends on, in the network's order."""
    by_name = {layer.name: layer for layer in layers}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting.extend(by_name[each].parents)
    return tuple(layer for layer in layers if layer.name in found)


# What all layers together may hold while a batch runs: VGG-16 has 15 million values an image.
MOST_VALUES_AT_ONCE = 32_000_000


def rows_at_once(layers: Sequence[Layer]) -> int:
    """How many images may run together when every layer's output is kept."""
    values = sum(math.prod(layer.output_shape) for layer in layers)
    return max(1, MOST_VALUES_AT_ONCE // max(1, values))


def activation_of(layer: Layer) -> str:
    """The name of a layer's activation; "linear" when it has none."""
    if layer.kind in ("ReLU", "LeakyReLU"):
        return "relu" if layer.kind == "ReLU" else "leaky_relu"
    found = layer.config.get("activation", "linear")
    if isinstance(found, Mapping):
        inner = found.get("config")
        found = inner if isinstance(inner, str) else found.get("class_name", "")
    return str(found).rpartition(">")[2] if found else "linear"


def require_relu(probe: Probe, layer: str, method: str) -> None:
    """Raises `ExplainError` where there is no ReLU below `layer` for a rule to act on."""
    below = ancestors(probe.layers, layer)
    if not any(activation_of(each) in ("relu", "leaky_relu") for each in below):
        kinds = sorted({activation_of(each) for each in below} - {"linear"})
        raise ExplainError(
            f"{method} changes what ReLUs do on the way back, and there is no ReLU up to {layer!r} "
            f"(activations: {', '.join(kinds) or 'none'}); saliency and integrated_gradients work."
        )


def layers_from_config(document: Mapping[str, Any]) -> tuple[tuple[Layer, ...], str]:
    """Reads the layers and the name of the logits out of a functional model's Keras config.

    Output shapes come from what the layers' children say they take, and are empty where nobody
    says; `with_shapes` fills them.

    Raises:
        ExplainError: it is no flat functional model.
    """
    config = document["config"]
    if "output_layers" not in config:
        raise ExplainError(
            f"A model of class {document.get('class_name')!r} has no layers that can be told "
            "apart; functional Keras models have."
        )
    shapes: dict[str, tuple[int, ...]] = {}
    parents: dict[str, tuple[str, ...]] = {}
    for layer in config["layers"]:
        taken: list[str] = []
        for node in layer["inbound_nodes"][:1]:
            for tensor in _tensors(node["args"]):
                source = tensor["keras_history"][0]
                taken.append(source)
                shapes[source] = tuple(size or 0 for size in tensor["shape"][1:])
        parents[layer["name"]] = tuple(taken)
        if layer["class_name"] == "InputLayer":
            shapes[layer["name"]] = tuple(size or 0 for size in layer["config"]["batch_shape"][1:])
    layers = tuple(
        Layer(
            name=layer["name"],
            kind=layer["class_name"],
            parents=parents[layer["name"]],
            output_shape=shapes.get(layer["name"], ()),
            config=layer["config"],
        )
        for layer in config["layers"]
    )
    outputs = config["output_layers"]
    if isinstance(outputs, Mapping):
        outputs = outputs["logits"]
    while isinstance(outputs[0], list):
        outputs = outputs[0]
    return layers, outputs[0]


def _tensors(value: Any) -> list[Mapping[str, Any]]:
    """The tensors in a node's arguments, in order, however deep."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            return [value["config"]]
        return [each for inner in value.values() for each in _tensors(inner)]
    if isinstance(value, list | tuple):
        return [each for inner in value for each in _tensors(inner)]
    return []
