"""Invariance curves [zeiler2014, section 4.1, figure 5]: how far features move with the image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zoo.errors import ExplainError
from zoo.explain.probe import Floats, Probe, chosen_target, require_layer, softmax

Motion = Literal["translate", "scale", "rotate"]

# Figure 5's ranges: share of the image's height, factor, degrees.
RANGES: dict[str, tuple[float, ...]] = {
    "translate": tuple(float(each) for each in np.linspace(-0.25, 0.25, 11)),
    "scale": tuple(float(each) for each in np.linspace(1.0, 1.8, 9)),
    "rotate": tuple(float(each) for each in np.arange(0, 360, 15)),
}


@dataclass(frozen=True, slots=True)
class Invariance:
    """The curves of one motion.

    Attributes:
        motion: Which one.
        values: Its amounts: shares of the height, factors, or degrees anticlockwise.
        layers: Whose features.
        distance_lv: Euclidean distance from the unmoved image's features, [layers, values].
        probability_v: Of the target.
        target: The class id.
    """

    motion: Motion
    values: tuple[float, ...]
    layers: tuple[str, ...]
    distance_lv: Floats
    probability_v: Floats
    target: int


def invariance(
    probe: Probe,
    image_hwc: Floats,
    motion: Motion,
    layers: Sequence[str],
    *,
    values: Sequence[float] = (),
    target: int | None = None,
    fill: float | None = None,
) -> Invariance:
    """Moves the image and measures its features.

    Args:
        probe: The network.
        image_hwc: A preprocessed image.
        motion: "translate" (downwards), "scale" or "rotate".
        layers: Whose features; the paper takes the first and the seventh.
        values: How much; figure 5's when empty.
        target: The class id; the network's best when None.
        fill: What comes in from outside; the value of the image's upper left pixel when None.

    Raises:
        ExplainError: no such motion, layer or class, or a factor that leaves no image.
    """
    if motion not in RANGES:
        raise ExplainError(f"No motion {motion!r}; there are {', '.join(RANGES)}.")
    for name in layers:
        require_layer(probe, name)
    amounts = tuple(values) or RANGES[motion]
    if motion == "scale" and min(amounts) <= 0:
        raise ExplainError(f"A factor is above 0; found {min(amounts):g}.")
    target = chosen_target(probe, image_hwc[None], target)
    outside = image_hwc[0, 0] if fill is None else np.float32(fill)
    moved = np.stack([move(image_hwc, motion, each, outside) for each in amounts])
    asked = [*layers, probe.output]
    still = probe.feature_maps(image_hwc[None], asked)
    found = probe.feature_maps(moved, asked)
    distances = [
        np.sqrt(np.square(found[name] - still[name]).reshape(len(amounts), -1).sum(1))
        for name in layers
    ]
    return Invariance(
        motion=motion,
        values=amounts,
        layers=tuple(layers),
        distance_lv=np.array(distances, np.float32),
        probability_v=softmax(found[probe.output])[:, target],
        target=target,
    )


def move(image_hwc: Floats, motion: Motion, amount: float, outside: Floats | np.float32) -> Floats:
    """An image moved about its centre, sampled bilinearly."""
    height, width, _ = image_hwc.shape
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    match motion:
        case "translate":
            y = y - amount * height
        case "scale":
            y, x = y / amount, x / amount
        case "rotate":
            angle = np.deg2rad(amount)
            y, x = (
                np.cos(angle) * y + np.sin(angle) * x,
                np.cos(angle) * x - np.sin(angle) * y,
            )
    return _sample(image_hwc, y + (height - 1) / 2, x + (width - 1) / 2, outside)


def _sample(
    image_hwc: Floats, rows: Floats, columns: Floats, outside: Floats | np.float32
) -> Floats:
    height, width, channels = image_hwc.shape
    # A border on every side, so that what lies outside has a value.
    framed = np.empty((height + 2, width + 2, channels), np.float32)
    framed[:] = outside
    framed[1:-1, 1:-1] = image_hwc
    # Rounding keeps places that are whole whole: sin(90 degrees) is not quite 1.
    y = np.clip(np.round(rows, 9) + 1, 0, height + 1)
    x = np.clip(np.round(columns, 9) + 1, 0, width + 1)
    top, left = np.minimum(y.astype(int), height), np.minimum(x.astype(int), width)
    down, across = (y - top)[..., None], (x - left)[..., None]
    result: Floats = (
        framed[top, left] * (1 - down) * (1 - across)
        + framed[top + 1, left] * down * (1 - across)
        + framed[top, left + 1] * (1 - down) * across
        + framed[top + 1, left + 1] * down * across
    ).astype(np.float32)
    return result
