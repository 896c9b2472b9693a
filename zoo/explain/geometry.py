"""Which pixels a unit sees: windows of layers, and receptive fields of single units.

Boxes are half open, [top, bottom) x [left, right), in pixels of the layer or image they lie on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from zoo.errors import ExplainError
from zoo.explain.probe import Layer, ancestors

# Layers whose every output depends on every place of their input.
ALL_PLACES = (
    *("Flatten", "Dense", "EuclideanRBF", "Reshape"),
    *("GlobalAveragePooling2D", "GlobalMaxPooling2D", "AdaptiveAveragePooling2D"),
)
CONVOLUTIONS = ("Conv2D", "NormalizedTemplateConv2D", "TableConv2D", "LocallyConnected2D")
POOLS = ("MaxPooling2D", "CeilMaxPooling2D", "AveragePooling2D", "SumPooling2D", "Subsampling")


class Box(NamedTuple):
    """A rectangle of places."""

    top: int
    left: int
    bottom: int
    right: int

    def clipped(self, shape: Sequence[int]) -> "Box":
        """What of it lies inside an image of that height and width."""
        return Box(
            max(0, self.top),
            max(0, self.left),
            min(shape[0], self.bottom),
            min(shape[1], self.right),
        )

    def joined(self, other: "Box") -> "Box":
        """The smallest box around both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )


class Window(NamedTuple):
    """What one place of a layer takes of its input: (rows, columns) each."""

    size: tuple[int, int]
    strides: tuple[int, int]
    before: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def box(self, box: Box) -> Box:
        """The places of the input that a box of the output sees; may reach over the edge."""
        top, left = (
            start * step - pad
            for start, step, pad in zip(box[:2], self.strides, self.before, strict=True)
        )
        bottom, right = (
            (end - 1) * step - pad + (size - 1) * spread + 1
            for end, step, pad, size, spread in zip(
                box[2:], self.strides, self.before, self.size, self.dilation, strict=True
            )
        )
        return Box(top, left, bottom, right)


def window(  # noqa: PLR0911 - one return for each kind of layer
    layer: Layer, input_shape: Sequence[int]
) -> Window | None:
    """The window of a layer; None where every output sees every place.

    Args:
        layer: The layer.
        input_shape: (height, width, ...) of what it takes.
    """
    config = layer.config
    if layer.kind in ALL_PLACES:
        return None
    if layer.kind == "Subsampling":
        return Window((2, 2), (2, 2), (0, 0))
    if layer.kind == "ZeroPadding2D":
        (top, _), (left, _) = config["padding"]
        return Window((1, 1), (1, 1), (top, left))
    if layer.kind == "ZeroPaddedShortcut":
        return Window((1, 1), _pair(config["strides"]), (0, 0))
    if layer.kind in ("TableConv2D", "LocallyConnected2D"):
        half = config["kernel_size"] // 2 if layer.kind == "LocallyConnected2D" else 0
        return Window(_pair(config["kernel_size"]), (1, 1), (half, half))
    if layer.kind not in CONVOLUTIONS and layer.kind not in POOLS:
        return Window((1, 1), (1, 1), (0, 0))
    size = _pair(config["kernel_size"] if layer.kind in CONVOLUTIONS else config["pool_size"])
    strides = _pair(config["strides"] or size)
    dilation = _pair(config.get("dilation_rate", 1))
    before = (0, 0)
    if config.get("padding") == "same":
        before = (
            _same(input_shape[0], size[0], strides[0], dilation[0]),
            _same(input_shape[1], size[1], strides[1], dilation[1]),
        )
    return Window(size, strides, before, dilation)


def _same(size: int, kernel: int, stride: int, dilation: int) -> int:
    """The zeros before the first place when Keras pads to "same": less than half is put there."""
    reach = (kernel - 1) * dilation + 1
    return max(0, (-(-size // stride) - 1) * stride + reach - size) // 2


def _pair(value: Any) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def receptive_box(layers: Sequence[Layer], name: str, row: int = 0, column: int = 0) -> Box:
    """The pixels of the image that a unit can depend on.

    Args:
        layers: The network's.
        name: The unit's layer.
        row: Its place; of no matter behind a flatten.
        column: Likewise.

    Raises:
        ExplainError: the place lies outside the layer's output.
    """
    by_name: Mapping[str, Layer] = {layer.name: layer for layer in layers}
    layer = by_name[name]
    if layer.has_maps and not (
        0 <= row < layer.output_shape[0] and 0 <= column < layer.output_shape[1]
    ):
        raise ExplainError(
            f"Place ({row}, {column}) lies outside {name!r}, which has "
            f"{layer.output_shape[0]} x {layer.output_shape[1]} places."
        )
    whole = Box(0, 0, 1, 1)
    boxes = {name: Box(row, column, row + 1, column + 1) if layer.has_maps else whole}
    for each in reversed(ancestors(layers, name)):
        box = boxes[each.name]
        for parent in each.parents:
            shape = by_name[parent].output_shape
            if len(shape) < 3:
                below = whole
            else:
                taken = window(each, shape)
                below = Box(0, 0, *shape[:2]) if taken is None else taken.box(box).clipped(shape)
            boxes[parent] = boxes[parent].joined(below) if parent in boxes else below
    return boxes[ancestors(layers, name)[0].name]
