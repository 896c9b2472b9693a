"""One unit's arithmetic, with the real numbers: its patch, its weights, and what comes out.

What a layer computes is written here once more, in NumPy, for a single unit; the feature maps of
the running network prove it.

Array names: h row, w column, c channel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import ExplainError
from zoo.explain.geometry import POOLS, Box, receptive_box, window
from zoo.explain.probe import Floats, Layer, Probe, activation_of, require_layer


@dataclass(frozen=True, slots=True)
class Unit:
    """How one number of a network comes about.

    Attributes:
        layer: Its layer.
        place: (row, column, channel), or (unit,) behind a flatten.
        operation: "convolution", "dense", "max", "mean", "sum", "distance", "add", "copy",
            "scale", "normalise", "activation".
        sources: The layers it takes from.
        patch: What it takes, [h, w, c] or [units]; zeros where the window hangs over the edge.
        kernel: Its weights, of the patch's shape; empty when it has none.
        scale: What the sum of products is multiplied with.
        bias: What is added then.
        before: The number before the activation.
        activation: The name of the activation.
        value: The number.
        winner: Where in the patch the largest value stands, for "max".
        box: The patch on the source's map.
        sees: Its receptive field on the image.
    """

    layer: str
    place: tuple[int, ...]
    operation: str
    sources: tuple[str, ...]
    patch: Floats
    kernel: Floats
    before: float
    value: float
    sees: Box
    box: Box | None = None
    scale: float = 1.0
    bias: float = 0.0
    activation: str = "linear"
    winner: tuple[int, ...] | None = None
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def products(self) -> Floats:
        """Patch times kernel, value by value; empty when there is no kernel."""
        return self.patch * self.kernel if self.kernel.size else self.kernel


ACTIVATIONS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "tanh": lambda x: float(np.tanh(x)),
    "sigmoid": lambda x: float(1 / (1 + np.exp(-x))),
    "scaled_tanh": lambda x: float(1.7159 * np.tanh(2 * x / 3)),
}


def activate(layer: Layer, value: float) -> float:
    """What a layer's activation makes of a number.

    Raises:
        ExplainError: an activation that is not known here.
    """
    name = activation_of(layer)
    if name == "leaky_relu":
        return value if value > 0 else value * float(layer.config.get("negative_slope", 0.2))
    if name not in ACTIVATIONS:
        raise ExplainError(f"{layer.name!r} has the activation {name!r}, whose form is not known.")
    return float(ACTIVATIONS[name](value))


def explain_unit(probe: Probe, image_hwc: Floats, layer: str, place: Sequence[int]) -> Unit:
    """How one number of one layer comes about for an image.

    Args:
        probe: The network; its feature maps and weights are asked for.
        image_hwc: A preprocessed image.
        layer: The unit's layer; not the input.
        place: (row, column, channel), or (unit,) behind a flatten.

    Raises:
        ExplainError: no such layer or place, or a kind of layer whose arithmetic is not known.
    """
    found = require_layer(probe, layer)
    if not found.parents:
        raise ExplainError(f"{layer!r} is the image itself; nothing is computed there.")
    maps = probe.feature_maps(image_hwc[None], [*found.parents, layer])
    inputs = [maps[parent][0] for parent in found.parents]
    return unit_of(probe, found, inputs, maps[layer][0], place)


def unit_of(
    probe: Probe, layer: Layer, inputs: Sequence[Floats], output: Floats, place: Sequence[int]
) -> Unit:
    """As `explain_unit`, from maps that are there already."""
    where = tuple(int(each) for each in place)
    if len(where) != output.ndim or not all(
        0 <= at < size for at, size in zip(where, output.shape, strict=True)
    ):
        raise ExplainError(
            f"{layer.name!r} has an output of shape {list(output.shape)}; "
            f"there is no place {list(where)} in it."
        )
    seen = receptive_box(probe.layers, layer.name, *(where[:2] if len(where) == 3 else ()))
    step = _Step(probe, layer, inputs, output, where, seen)
    kind = layer.kind
    if kind in ("Conv2D", "NormalizedTemplateConv2D", "TableConv2D", "LocallyConnected2D"):
        return step.convolution()
    if kind in POOLS:
        return step.pool()
    for kinds, explain in _OTHERS.items():
        if kind in kinds:
            return explain(step)
    raise ExplainError(f"{layer.name!r} is a {kind}, whose arithmetic is not known here.")


@dataclass(frozen=True, slots=True)
class _Step:
    probe: Probe
    layer: Layer
    inputs: Sequence[Floats]
    output: Floats
    place: tuple[int, ...]
    sees: Box

    def unit(self, operation: str, patch: ArrayLike, before: float, **more: object) -> Unit:
        settings: dict[str, object] = {
            "kernel": np.zeros(0, np.float32),
            "activation": activation_of(self.layer),
            **more,
        }
        return Unit(
            layer=self.layer.name,
            place=self.place,
            operation=operation,
            sources=self.layer.parents,
            patch=np.asarray(patch, np.float32),
            before=float(before),
            value=float(self.output[self.place]),
            sees=self.sees,
            **settings,  # type: ignore[arg-type]
        )

    def patch(self, outside: float = 0.0) -> tuple[Floats, Box]:
        """What the unit's window takes, [h, w, c], and where it lies."""
        source = self.inputs[0]
        row, column, _ = self.place
        taken = window(self.layer, source.shape)
        assert taken is not None  # noqa: S101 - only layers with windows ask
        box = taken.box(Box(row, column, row + 1, column + 1))
        rows = range(box.top, box.bottom, taken.dilation[0])
        columns = range(box.left, box.right, taken.dilation[1])
        values = np.full((len(rows), len(columns), source.shape[2]), outside, np.float32)
        for i, y in enumerate(rows):
            for j, x in enumerate(columns):
                if 0 <= y < source.shape[0] and 0 <= x < source.shape[1]:
                    values[i, j] = source[y, x]
        return values, box

    def convolution(self) -> Unit:
        channel = self.place[2]
        patch, box = self.patch()
        weights = self.probe.weights(self.layer.name)
        kernel, bias = weights["kernel"], weights.get("bias")
        scale = 1.0
        if self.layer.kind == "TableConv2D":
            kernel = _table_kernel(self.layer, kernel, patch.shape)
        elif self.layer.kind == "LocallyConnected2D":
            kernel = kernel[self.place[0], self.place[1]].reshape(*patch.shape, -1)
            bias = None if bias is None else bias[self.place[0], self.place[1]]
        groups = int(self.layer.config.get("groups", 1))
        if groups > 1:
            width = patch.shape[2] // groups
            first = channel // (self.output.shape[2] // groups) * width
            patch = patch[:, :, first : first + width]
        if self.layer.kind == "NormalizedTemplateConv2D":
            scale = 1 / patch.size
        mine = kernel[..., channel]
        offset = 0.0 if bias is None else float(bias[channel])
        before = float((patch.astype(np.float64) * mine).sum()) * scale + offset
        return self.unit(
            "convolution", patch, before, kernel=mine, bias=offset, scale=scale, box=box
        )

    def pool(self) -> Unit:
        channel = self.place[2]
        is_max = self.layer.kind in ("MaxPooling2D", "CeilMaxPooling2D")
        patch, box = self.patch(-np.inf if is_max else np.nan)
        mine = patch[:, :, channel]
        if is_max:
            winner = np.unravel_index(int(mine.argmax()), mine.shape)
            return self.unit(
                "max",
                np.where(np.isinf(mine), np.nan, mine),
                mine.max(),
                box=box,
                winner=tuple(int(each) for each in winner),
            )
        if self.layer.kind == "Subsampling":
            weights = self.probe.weights(self.layer.name)
            scale, bias = (
                float(weights["coefficient"][channel]),
                float(weights["bias"][channel]),
            )
            total = float(mine.sum()) * scale + bias
            return self.unit("sum", mine, total, scale=scale, bias=bias, box=box)
        if self.layer.kind == "SumPooling2D":
            # Average pooling leaves out what hangs over the edge; its area is the window's.
            return self.unit("sum", mine, float(np.nanmean(mine)) * mine.size, box=box)
        return self.unit("mean", mine, float(np.nanmean(mine)), box=box)

    def dense(self) -> Unit:
        weights = self.probe.weights(self.layer.name)
        patch = self.inputs[0][self.place[:-1]]
        mine = weights["kernel"][:, self.place[-1]]
        bias = float(weights["bias"][self.place[-1]]) if "bias" in weights else 0.0
        before = float(patch.astype(np.float64) @ mine) + bias
        return self.unit("dense", patch, before, kernel=mine, bias=bias)

    def distance(self) -> Unit:
        code = self.probe.weights(self.layer.name)["code"][self.place[0]]
        before = -float(np.square(self.inputs[0].astype(np.float64) - code).sum())
        return self.unit("distance", self.inputs[0], before, kernel=code)

    def mean_of_all(self) -> Unit:
        patch = self.inputs[0][:, :, self.place[-1]]
        return self.unit("mean", patch, patch.mean(), box=Box(0, 0, *patch.shape))

    def copy(self) -> Unit:
        """The same number from another place."""
        if self.layer.kind == "Concatenate":
            channel, index = self.place[-1], 0
            while channel >= self.inputs[index].shape[-1]:
                channel -= self.inputs[index].shape[-1]
                index += 1
            value = self.inputs[index][(*self.place[:-1], channel)]
            return self.unit("copy", [value], value, extra={"source": index, "channel": channel})
        if self.layer.kind == "ZeroPadding2D":
            (top, _), (left, _) = self.layer.config["padding"]
            row, column, channel = self.place
            row, column = row - top, column - left
            height, width, _ = self.inputs[0].shape
            is_inside = 0 <= row < height and 0 <= column < width
            value = float(self.inputs[0][row, column, channel]) if is_inside else 0.0
            return self.unit("copy", [value], value)
        if self.layer.kind == "ZeroPaddedShortcut":
            row, column, channel = self.place
            step, have = self.layer.config["strides"], self.inputs[0].shape[2]
            channel -= (self.output.shape[2] - have) // 2
            is_inside = 0 <= channel < have
            value = self.inputs[0][row * step, column * step, channel] if is_inside else 0.0
            return self.unit("copy", [value], float(value))
        value = self.inputs[0].reshape(self.output.shape)[self.place]
        return self.unit("copy", [value], value)

    def activation(self) -> Unit:
        value = self.inputs[0][self.place]
        return self.unit("activation", [value], value)

    def add(self) -> Unit:
        values = [each[self.place] for each in self.inputs]
        return self.unit("add", values, sum(map(float, values)))

    def maxout(self) -> Unit:
        pieces = int(self.layer.config["pieces"])
        *outer, channel = self.place
        values = self.inputs[0][tuple(outer)][channel * pieces : (channel + 1) * pieces]
        return self.unit("max", values, values.max(), winner=(int(values.argmax()),))

    def batch_norm(self) -> Unit:
        weights = self.probe.weights(self.layer.name)
        channel, value = self.place[-1], float(self.inputs[0][self.place])
        mean = float(weights["moving_mean"][channel])
        spread = float(weights["moving_variance"][channel]) + float(self.layer.config["epsilon"])
        gamma = float(weights["gamma"][channel]) if "gamma" in weights else 1.0
        beta = float(weights["beta"][channel]) if "beta" in weights else 0.0
        scale = gamma / spread**0.5
        return self.unit(
            "scale",
            [value],
            value * scale + beta - mean * scale,
            scale=scale,
            bias=beta - mean * scale,
        )

    def local_response(self) -> Unit:
        config = self.layer.config
        *outer, channel = self.place
        across = self.inputs[0][tuple(outer)]
        half = int(config["size"]) // 2
        around = across[max(0, channel - half) : channel + half + 1]
        divided = {"paper": 1, "cuda-convnet2": config["size"], "caffe": config["size"]}
        alpha = config["alpha"] / divided[config["convention"]]
        divisor = (config["k"] + alpha * float(np.square(around).sum())) ** config["beta"]
        value = float(across[channel]) / divisor
        return self.unit("normalise", around, value, extra={"divisor": divisor})


_OTHERS = {
    ("Dense",): _Step.dense,
    ("EuclideanRBF",): _Step.distance,
    ("GlobalAveragePooling2D",): _Step.mean_of_all,
    ("Flatten", "Dropout", "Concatenate", "ZeroPadding2D", "ZeroPaddedShortcut"): _Step.copy,
    ("Activation", "ReLU", "LeakyReLU"): _Step.activation,
    ("Add",): _Step.add,
    ("Maxout",): _Step.maxout,
    ("BatchNormalization",): _Step.batch_norm,
    ("LocalResponseNormalization",): _Step.local_response,
}


def _table_kernel(layer: Layer, kernel: Floats, patch_shape: Sequence[int]) -> Floats:
    """The dense kernel of a table convolution, zeros where there is no connection."""
    table = layer.config["table"]
    dense = np.zeros((*patch_shape, len(table)), np.float32)
    edges = [(source, target) for target, row in enumerate(table) for source in row]
    for column, (source, target) in enumerate(edges):
        dense[:, :, source, target] = kernel[:, column].reshape(patch_shape[:2])
    return dense
