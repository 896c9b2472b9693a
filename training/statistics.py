"""Paired comparisons of two networks on the same examples, and the verdicts that follow.

Array names: n example.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["pass", "fail", "inconclusive"]

DRAWS = 2000


class Difference(NamedTuple):
    """How much larger a figure is for the candidate, with its 95 % interval."""

    value: float
    low: float
    high: float


def mcnemar(right_candidate: NDArray[np.bool_], right_baseline: NDArray[np.bool_]) -> float:
    """The exact two-sided p-value that both are right equally often [mcnemar1947].

    Only examples on which one of them is right decide: with b and c of them, b follows a binomial
    distribution with probability one half.

    Args:
        right_candidate: Whether the candidate's answer is right, bool [N].
        right_baseline: Likewise, on the same examples.
    """
    from scipy.stats import binomtest

    b = int((right_candidate & ~right_baseline).sum())
    c = int((right_baseline & ~right_candidate).sum())
    return 1.0 if b + c == 0 else float(binomtest(b, b + c).pvalue)


def paired_difference(candidate: NDArray[np.float64], baseline: NDArray[np.float64]) -> Difference:
    """The mean difference of per-example values, with its bootstrap interval over examples.

    Args:
        candidate: float [N].
        baseline: float [N], on the same examples.
    """
    gaps = np.asarray(candidate, np.float64) - np.asarray(baseline, np.float64)
    rng = np.random.default_rng(0)
    # Means of resampled gaps; few distinct gaps make this a multinomial draw.
    values, counts = np.unique(gaps, return_counts=True)
    if len(values) <= 16:
        draws = rng.multinomial(len(gaps), counts / len(gaps), DRAWS) @ values / len(gaps)
    else:
        draws = np.array([gaps[rng.integers(0, len(gaps), len(gaps))].mean() for _ in range(DRAWS)])
    low, high = np.quantile(draws, [0.025, 0.975])
    return Difference(float(gaps.mean()), float(low), float(high))


def not_worse(difference: Difference, margin: float) -> Outcome:
    """Whether a figure (larger is better) has fallen by no more than `margin`.

    Pass when the whole interval lies above -margin, fail when it lies below, else inconclusive.
    """
    if difference.low >= -margin:
        return "pass"
    return "fail" if difference.high < -margin else "inconclusive"


def not_above(value: float, low: float, high: float, most: float) -> Outcome:
    """Whether a figure (smaller is better) keeps within a budget, judged by its interval."""
    if max(value, high) <= most:
        return "pass"
    return "fail" if low > most else "inconclusive"


def worst(outcomes: "list[Outcome]") -> Outcome:
    """Fail before inconclusive before pass."""
    order: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")
    return min(outcomes, key=order.index, default="pass")
