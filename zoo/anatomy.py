"""What a built network is made of: output sizes, parameters, multiply-accumulates, receptive field.

Counting rules: a convolution costs outputs x kernel area x input channels / groups, a dense layer
inputs x outputs, everything else nothing. The receptive field is the theoretical one, in pixels of
the input, along the widest path.
"""

import math
from typing import Any

from zoo.errors import UsageError
from zoo.frozen import Frozen


class LayerAnatomy(Frozen):
    """One layer.

    Attributes:
        name: The layer's name.
        kind: Its Keras class.
        output_shape: Without the batch dimension.
        parameters: Trainable parameters.
        fixed: Parameters that do not train.
        macs: Multiply-accumulates of one image.
        receptive_field: Pixels of the input that one place sees, in each direction.
        stride: Pixels of the input between two neighbouring places.
    """

    name: str
    kind: str
    output_shape: tuple[int | None, ...]
    parameters: int
    fixed: int
    macs: int
    receptive_field: int
    stride: int


class Anatomy(Frozen):
    """A whole network, layer by layer, in order."""

    name: str
    layers: tuple[LayerAnatomy, ...]

    @property
    def parameters(self) -> int:
        """Trainable parameters."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def fixed(self) -> int:
        """Parameters that do not train, e.g. moving statistics."""
        return sum(layer.fixed for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def dense_share(self) -> float:
        """The share of the trainable parameters that lies in dense layers, 0..1."""
        dense = sum(layer.parameters for layer in self.layers if layer.kind == "Dense")
        return dense / self.parameters if self.parameters else 0.0

    def __getitem__(self, name: str) -> LayerAnatomy:
        return next(layer for layer in self.layers if layer.name == name)


def output_size(size: int, kernel: int, padding: int, stride: int) -> int:
    """Places of a convolution or pool along one side: (size + 2 padding - kernel) / stride + 1.

    Raises:
        UsageError: the window does not fit, or the result is no whole number; says what does.
    """
    if min(size, kernel, stride) < 1 or padding < 0:
        raise UsageError(
            f"Size {size}, kernel {kernel} and stride {stride} are at least 1, padding {padding} "
            "at least 0."
        )
    room = size + 2 * padding - kernel
    if room < 0:
        raise UsageError(
            f"A kernel of {kernel} does not fit into {size} pixels padded by {padding} on both "
            f"sides ({size + 2 * padding})."
        )
    if room % stride:
        raise UsageError(
            f"({size} + 2*{padding} - {kernel}) / {stride} + 1 = {room / stride + 1:g} is no whole "
            f"number: rounded down {room // stride + 1} places leave {room % stride} pixels unseen, "
            f"rounded up {room // stride + 2} places need {stride - room % stride} more pixels."
        )
    return room // stride + 1


def describe(model: Any) -> Anatomy:
    """Reads a built, functional Keras model.

    Raises:
        UsageError: it takes images of any size, so its work and sizes have no number.
    """
    if None in model.input_shape[1:]:
        raise UsageError(
            f"{model.name} takes images of any size, {list(model.input_shape)}; its anatomy needs "
            "one. Build it with a fixed input_shape."
        )
    fields: dict[str, tuple[int, int]] = {}
    layers = []
    for layer in model.layers:
        before = [fields[parent.name] for parent in _parents(layer)] or [(1, 1)]
        field, stride = max(before)
        kernel, step = _window(layer)
        field, stride = field + (kernel - 1) * stride, stride * step
        fields[layer.name] = field, stride
        layers.append(
            LayerAnatomy(
                name=layer.name,
                kind=type(layer).__name__,
                output_shape=tuple(layer.output.shape[1:]),
                parameters=_size(layer.trainable_weights),
                fixed=_size(layer.non_trainable_weights),
                macs=_macs(layer),
                receptive_field=field,
                stride=stride,
            )
        )
    return Anatomy(name=model.name, layers=tuple(layers))


def _parents(layer: Any) -> list[Any]:
    node = layer._inbound_nodes[0]  # noqa: SLF001 - Keras has no public way to the graph's edges
    return [tensor._keras_history.operation for tensor in node.input_tensors]  # noqa: SLF001


def _size(weights: Any) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _window(layer: Any) -> tuple[int, int]:
    """The side of a layer's window and its step."""
    kind = type(layer).__name__
    if kind == "Subsampling":
        return 2, 2
    # What follows one of these sees every place of the maps at once.
    if kind.startswith("Global") or (kind == "Flatten" and len(layer.input.shape) == 4):
        rows = layer.input.shape[1] or 1
        return rows, rows
    if kind in ("TableConv2D", "LocallyConnected2D"):
        return layer.kernel_size, 1
    if kind == "ZeroPaddedShortcut":
        return 1, layer.strides
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if window is None:
        return 1, 1
    return _first(window), _first(layer.strides)


def _first(value: Any) -> int:
    return int(value[0]) if isinstance(value, tuple | list) else int(value)


def _macs(layer: Any) -> int:
    kind = type(layer).__name__
    if kind in ("Conv2D", "NormalizedTemplateConv2D"):
        _, rows, columns, filters = layer.output.shape
        # The kernel's third axis is the input's channels divided by the groups.
        return int(rows * columns * filters * math.prod(layer.kernel.shape[:3]))
    if kind == "TableConv2D":
        _, rows, columns, _ = layer.output.shape
        return int(rows * columns * math.prod(layer.kernel.shape))
    if kind == "LocallyConnected2D":
        return int(math.prod(layer.kernel.shape))
    if kind == "Dense":
        places = math.prod(layer.output.shape[1:-1])
        return int(places * math.prod(layer.kernel.shape))
    return 0
