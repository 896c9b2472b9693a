"""The weight-randomisation check [adebayo2018]: does an explanation depend on what was learned?

Layers are given random weights one after the other, from the logits down. An explanation of the
network should change; one that stays shows the image, not the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ExplainError
from zoo.explain.probe import Floats, Probe


class RandomisableProbe(Probe, Protocol):
    """A probe whose weights can be drawn anew."""

    def randomised(self, layers: Sequence[str], seed: int = 0) -> Self:
        """The same network with the weights of some layers drawn anew."""
        ...


@dataclass(frozen=True, slots=True)
class SanityStep:
    """How like the explanation of the trained network still is.

    Attributes:
        layer: The layer that was randomised last; all above it are random too.
        rank: Spearman's rank correlation of the absolute values, -1..1.
        signed_rank: That of the values with their signs.
    """

    layer: str
    rank: float
    signed_rank: float


def weight_randomisation(
    probe: RandomisableProbe,
    explain: Callable[[Probe], Floats],
    layers: Sequence[str] = (),
    *,
    seed: int = 0,
) -> tuple[SanityStep, ...]:
    """Explains the network with more and more of its layers randomised (section 3.1, cascading).

    Args:
        probe: The trained network.
        explain: Gives the attribution, an array, for a probe.
        layers: Which layers, from the last to the first; all that have weights when empty.
        seed: Of the random weights.

    Returns:
        One step for each layer, in the order of randomising.

    Raises:
        ExplainError: the explanation says the same of every pixel, so that nothing can be compared.
    """
    order = list(layers) or [
        layer.name for layer in reversed(probe.layers) if probe.weights(layer.name)
    ]
    trained = explain(probe)
    if np.ptp(trained) == 0:
        raise ExplainError("The explanation of the trained network is the same everywhere.")
    steps = []
    for count, name in enumerate(order, start=1):
        found = explain(probe.randomised(order[:count], seed))
        steps.append(
            SanityStep(
                name, rank_correlation(abs(trained), abs(found)), rank_correlation(trained, found)
            )
        )
    return tuple(steps)


def rank_correlation(first: Floats, second: Floats) -> float:
    """Spearman's rank correlation; ties share their mean rank; 0 where one is constant."""
    a, b = _ranks(np.ravel(first)), _ranks(np.ravel(second))
    a, b = a - a.mean(), b - b.mean()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms else 0.0


def _ranks(values: Floats) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[inverse]
    return ranks
