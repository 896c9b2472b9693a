"""Integrated gradients [sundararajan2017]."""

from dataclasses import dataclass

import numpy as np

from zoo.errors import ExplainError
from zoo.explain.probe import Floats, Probe, chosen_target, logits
from zoo.explain.saliency import score_gradient

# Points of the path that run together.
BATCH = 32


@dataclass(frozen=True, slots=True)
class IntegratedGradients:
    """Attributions that add up.

    Attributes:
        attribution_hwc: What each value of the image gave to the score.
        target: The class id.
        score_difference: Score of the image less score of the baseline.
        residual: Sum of the attributions less `score_difference`: the error of the sum that
            stands for the integral; more steps make it smaller.
    """

    attribution_hwc: Floats
    target: int
    score_difference: float
    residual: float


def integrated_gradients(
    probe: Probe,
    image_hwc: Floats,
    target: int | None = None,
    *,
    steps: int = 64,
    baseline: float | Floats = 0.0,
) -> IntegratedGradients:
    """(x - x') times the mean gradient on the straight path from the baseline x' to the image x.

    The integral is a midpoint sum. Completeness (proposition 1): the attributions sum to
    S(x) - S(x').

    Args:
        probe: The network.
        image_hwc: A preprocessed image.
        target: The class id; the network's best when None.
        steps: Points on the path, at least 1.
        baseline: x', in the input's units: one value, or an image.

    Raises:
        ExplainError: no such class, or no steps.
    """
    if steps < 1:
        raise ExplainError(f"The path needs at least 1 step; found {steps}.")
    target = chosen_target(probe, image_hwc[None], target)
    start = np.broadcast_to(np.asarray(baseline, np.float32), image_hwc.shape)
    way = image_hwc - start
    total = np.zeros(image_hwc.shape, np.float64)
    alphas = (np.arange(steps, dtype=np.float32) + 0.5) / np.float32(steps)
    for first in range(0, steps, BATCH):
        points = start + alphas[first : first + BATCH, None, None, None] * way
        total += score_gradient(probe, points, target).sum(0, dtype=np.float64)
    attribution: Floats = (way * total / steps).astype(np.float32)
    ends = logits(probe, np.stack([start, image_hwc]))[:, target]
    difference = float(ends[1] - ends[0])
    return IntegratedGradients(
        attribution,
        target,
        difference,
        float(attribution.sum(dtype=np.float64)) - difference,
    )
