"""Occlusion maps [zeiler2014, section 4.2]: cover a part of the image and see what changes.

Array names: h, w places of the patch; H, W pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ExplainError
from zoo.explain.probe import (
    Floats,
    Probe,
    chosen_target,
    last_maps,
    require_maps,
    softmax,
)

# One batch of covered images costs this much memory at most: 64 images of 224 x 224 x 3.
MOST_VALUES = 64 * 224 * 224 * 3


@dataclass(frozen=True, slots=True)
class Occlusion:
    """What covering each place does.

    Attributes:
        probability_hw: Of the target, with the patch at each place.
        strongest_hw: Summed activity of the map that was strongest before.
        best_hw: The class id that wins.
        drop_HW: For each pixel the mean loss of probability over the patches that cover it.
        tops: Row of the patch's upper edge for each h.
        lefts: Column of its left edge for each w.
        target: The class id.
        probability: Without a patch.
        layer: Of the strongest map.
        channel: The strongest map.
        patch: Side of the patch, in pixels.
    """

    probability_hw: Floats
    strongest_hw: Floats
    best_hw: NDArray[np.int64]
    drop_HW: Floats  # noqa: N815 - the axes are part of an array's name
    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]
    target: int
    probability: float
    layer: str
    channel: int
    patch: int


def occlusion(
    probe: Probe,
    image_hwc: Floats,
    target: int | None = None,
    *,
    patch: int | None = None,
    stride: int | None = None,
    fill: float | None = None,
    layer: str | None = None,
) -> Occlusion:
    """Slides a square of one value over the image.

    Args:
        probe: The network.
        image_hwc: A preprocessed image.
        target: The class id; the network's best when None.
        patch: Side of the square in pixels; a quarter of the image's shorter side when None.
        stride: Pixels between two places; a quarter of the patch when None.
        fill: The square's value, in the input's units; the image's mean for each channel when
            None (the paper's grey).
        layer: Whose strongest map is followed; the last with more than one place when None.

    Raises:
        ExplainError: a patch that does not fit the image, or no such layer or class.
    """
    height, width, _ = image_hwc.shape
    side = patch or max(1, min(height, width) // 4)
    step = stride or max(1, side // 4)
    if not 1 <= side <= min(height, width) or step < 1:
        raise ExplainError(
            f"A patch of {side} with stride {step} does not fit an image of {height} x {width}; "
            f"1 to {min(height, width)} does."
        )
    target = chosen_target(probe, image_hwc[None], target)
    followed = require_maps(probe, layer or last_maps(probe)).name
    tops, lefts = _starts(height, side, step), _starts(width, side, step)
    value = image_hwc.mean((0, 1)) if fill is None else np.float32(fill)

    plain = probe.feature_maps(image_hwc[None], [followed, probe.output])
    channel = int(plain[followed][0].sum((0, 1)).argmax())
    places = [(top, left) for top in tops for left in lefts]
    probability, strongest, best = [], [], []
    rows = max(1, MOST_VALUES // image_hwc.size)
    for start in range(0, len(places), rows):
        batch = np.repeat(image_hwc[None], len(places[start : start + rows]), axis=0)
        for image, (top, left) in zip(batch, places[start : start + rows], strict=True):
            image[top : top + side, left : left + side] = value
        found = probe.feature_maps(batch, [followed, probe.output])
        probabilities = softmax(found[probe.output])
        probability.append(probabilities[:, target])
        best.append(probabilities.argmax(-1))
        strongest.append(found[followed][..., channel].sum((1, 2)))
    shape = (len(tops), len(lefts))
    probability_hw: Floats = np.concatenate(probability).reshape(shape)
    before = float(softmax(plain[probe.output])[0, target])
    drop_hw: Floats = (before - probability_hw).astype(np.float32)
    return Occlusion(
        probability_hw=probability_hw,
        strongest_hw=np.concatenate(strongest).reshape(shape),
        best_hw=np.concatenate(best).reshape(shape),
        drop_HW=_spread(drop_hw, tops, lefts, side, (height, width)),
        tops=tops,
        lefts=lefts,
        target=target,
        probability=before,
        layer=followed,
        channel=channel,
        patch=side,
    )


def positions(size: int, patch: int, stride: int) -> int:
    """Places of a patch along one side."""
    return len(_starts(size, patch, stride))


def _starts(size: int, patch: int, stride: int) -> NDArray[np.int64]:
    """Every `stride` pixels, and flush with the far edge."""
    last = size - patch
    return np.unique(np.minimum(np.arange(0, last + stride, stride), last))


def _spread(
    drop_hw: Floats,
    tops: NDArray[np.int64],
    lefts: NDArray[np.int64],
    side: int,
    shape: tuple[int, int],
) -> Floats:
    total: Floats = np.zeros(shape, np.float32)
    count: Floats = np.zeros(shape, np.float32)
    for drops, top in zip(drop_hw, tops, strict=True):
        for drop, left in zip(drops, lefts, strict=True):
            total[top : top + side, left : left + side] += drop
            count[top : top + side, left : left + side] += 1
    # A stride beyond the patch leaves pixels that nothing covers.
    spread: Floats = (total / np.maximum(count, 1)).astype(np.float32)
    return spread
