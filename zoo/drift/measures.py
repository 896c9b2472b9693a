"""A few numbers for each image and each answer: the same in training, in a server and in a report.

All of them can be had from what every request brings, the network's input, and from what every
engine gives back. None of them shows an image: the input's embedding has at most one number for
sixteen of its values. Array names: n image, h row, w column, c channel, k class, d dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.spec import ImageInput

Array = NDArray[Any]
Floats = NDArray[np.float32]
Values = NDArray[np.float64]

COLOURS = {"gray": ("",), "rgb": ("_red", "_green", "_blue"), "bgr": ("_blue", "_green", "_red")}

# Below this a logarithm of a probability only tells engines apart, and not answers.
LEAST_LOG = -20.0

DIMENSIONS = 16
VALUES_A_DIMENSION = 16
GRID = 8

# Kept as float16, which ends at 65504.
MOST = 60_000.0


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """The numbers of some images.

    Attributes:
        images: How many there are.
        values: One float64 [N] a statistic; sizes may be of fewer images than the others.
        class_ids: The predicted classes, int64 [N]; empty where no answers were measured.
        embeddings: float32 [N, D] of "inputs" and of "answers".
    """

    images: int
    values: Mapping[str, Values]
    class_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    embeddings: Mapping[str, Floats] = field(default_factory=dict)


def measure(
    image_nhwc: Floats, log_nk: Floats | None, sizes_n2: Array | None, input_: ImageInput
) -> Measured:
    """All that is measured of some inputs and their answers.

    Args:
        image_nhwc: The network's inputs, float32 [N, H, W, C].
        log_nk: The answers as logarithms of probabilities [N, K]; None where there are none.
        sizes_n2: Height and width of the images as they came, for those that came as images.
        input_: Names the channels.
    """
    # A client may send anything, also infinity: that is what the outermost bins are for.
    with np.errstate(all="ignore"):
        values = of_inputs(image_nhwc, input_)
        embeddings = {"inputs": embed_inputs(image_nhwc)}
        class_ids = np.zeros(0, np.int64)
        if log_nk is not None:
            values |= of_answers(log_nk)
            embeddings["answers"] = embed_answers(log_nk)
            class_ids = log_nk.argmax(-1)
        if sizes_n2 is not None and len(sizes_n2):
            values |= of_sizes(sizes_n2)
    kept = {name: rows for name, rows in embeddings.items() if rows.shape[1]}
    return Measured(len(image_nhwc), values, class_ids, kept)


def of_inputs(image_nhwc: Floats, input_: ImageInput) -> dict[str, Values]:
    """Mean and contrast of each channel, and sharpness, in the units of the network's input.

    Contrast is the standard deviation over the pixels. Sharpness is the root of the mean squared
    difference of neighbours (of the channels' mean, along rows plus along columns) divided by the
    standard deviation: noise raises it, blur lowers it, brightness and contrast leave it as it is.
    A plain image has none, 0.
    """
    n, h, w, c = image_nhwc.shape
    flat_npc = image_nhwc.reshape(n, h * w, c)
    # Products with vectors: several times faster than means over axes, and as precise.
    means_nc = np.full(h * w, 1 / (h * w), np.float32) @ flat_npc
    rest_npc = flat_npc - means_nc[:, None]
    contrasts_nc = np.sqrt(np.einsum("npc,npc->nc", rest_npc, rest_npc) / (h * w))
    plane_nhw = image_nhwc @ np.full(c, 1 / c, np.float32)
    squares_n = _mean_square_step(plane_nhw, 1) + _mean_square_step(plane_nhw, 2)
    spread_n = plane_nhw.reshape(n, -1).std(axis=1)
    found = {}
    for channel, suffix in enumerate(_suffixes(input_)):
        found[f"mean{suffix}"] = means_nc[:, channel].astype(np.float64)
        found[f"contrast{suffix}"] = contrasts_nc[:, channel].astype(np.float64)
    sharpness_n = np.sqrt(squares_n) / np.where(spread_n > 0, spread_n, 1)
    found["sharpness"] = sharpness_n.astype(np.float64)
    return found


def _mean_square_step(plane_nhw: Floats, axis: int) -> Floats:
    """The mean squared difference of neighbours along an axis, [N]; 0 where there are none."""
    steps = np.diff(plane_nhw, axis=axis).reshape(len(plane_nhw), -1)
    squares: Floats = np.einsum("np,np->n", steps, steps) / max(1, steps.shape[1])
    return squares


def _suffixes(input_: ImageInput) -> tuple[str, ...]:
    names = COLOURS[input_.colour]
    if len(names) == input_.channels:
        return names
    return tuple(f"_{channel}" for channel in range(input_.channels))


def of_sizes(sizes_n2: Array) -> dict[str, Values]:
    """Width and height in pixels, and width / height, of images as they came."""
    height, width = np.asarray(sizes_n2, np.float64).T
    return {"width": width, "height": height, "aspect": width / height}


def of_answers(log_nk: Floats) -> dict[str, Values]:
    """The best class's probability, and the entropy as a share of its largest value, log K.

    Both are rounded to a thousandth: what lies below is the engine's arithmetic.
    """
    log = log_nk.astype(np.float64)
    probability = np.exp(log)
    entropy = -(probability * log).sum(-1) / max(np.log(log.shape[1]), 1e-12)
    return {"probability": probability.max(-1).round(3), "entropy": np.abs(entropy.round(3))}


def log_probabilities(outputs: Mapping[str, Array]) -> Floats | None:
    """Answers as logarithms of probabilities, from "logits" or else "probabilities"; None without.

    Both ways give the same, to an engine's precision, down to `LEAST_LOG`.
    """
    if "logits" in outputs:
        logits = np.asarray(outputs["logits"], np.float32)
        if logits.ndim != 2:
            return None
        shifted = logits - logits.max(-1, keepdims=True)
        log: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    elif "probabilities" in outputs:
        probabilities = np.asarray(outputs["probabilities"], np.float32)
        if probabilities.ndim != 2:
            return None
        log = np.log(np.maximum(probabilities, np.float32(1e-30)))
    else:
        return None
    return np.maximum(log, np.float32(LEAST_LOG))


def embed_inputs(image_nhwc: Floats) -> Floats:
    """A random projection of each input's means over an 8 x 8 grid: float32 [N, D].

    D is 16, or less for an input of fewer than 256 values: one number for sixteen of them, and none
    at all for fewer than sixteen, so that no image can be had back.
    """
    _, h, w, c = image_nhwc.shape
    dimensions = min(DIMENSIONS, h * w * c // VALUES_A_DIMENSION)
    if not dimensions:
        return np.zeros((len(image_nhwc), 0), np.float32)
    small = _means(_means(image_nhwc, 1), 2)
    flat: Floats = small.reshape(len(small), -1)
    found: Floats = flat @ projection(flat.shape[1], dimensions)
    return found


def embed_answers(log_nk: Floats) -> Floats:
    """The answers themselves, or for more than 16 classes a random projection: float32 [N, D]."""
    classes = log_nk.shape[1]
    if classes <= DIMENSIONS:
        return log_nk
    found: Floats = log_nk @ projection(classes, DIMENSIONS)
    return found


def _means(image_nhwc: Floats, axis: int) -> Floats:
    """Means over `GRID` nearly equal spans of an axis."""
    size = image_nhwc.shape[axis]
    starts = np.linspace(0, size, min(GRID, size) + 1).astype(np.int64)
    spans = np.diff(starts).astype(np.float32)
    shape = [1, 1, 1, 1]
    shape[axis] = len(spans)
    sums: Floats = np.add.reduceat(image_nhwc, starts[:-1], axis=axis)
    return sums / spans.reshape(shape)


@lru_cache(16)
def projection(inputs: int, outputs: int) -> Floats:
    """The same normal matrix [inputs, outputs] everywhere; it keeps distances on average."""
    # Of NumPy's generators only this one promises the same numbers in every release.
    normal = np.random.RandomState(0).standard_normal((inputs, outputs))
    scaled: Floats = (normal / np.sqrt(outputs)).astype(np.float32)
    return scaled
