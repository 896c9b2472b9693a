"""Paired comparisons of two networks on the same examples, and the verdicts that follow.

Array names: n example.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Outcome = Literal["pass", "fail", "inconclusive"]

DRAWS = 2000

# Of the normal distribution, for intervals of 95 %.
QUANTILE = 1.959964


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
    """The mean difference of per-example values in 0..1, with its interval over examples.

    Right or wrong (1 or 0) is counted, and has Tango's score interval; other values are resampled.

    Args:
        candidate: float [N].
        baseline: float [N], on the same examples.
    """
    gaps = np.asarray(candidate, np.float64) - np.asarray(baseline, np.float64)
    if np.isin(candidate, (0, 1)).all() and np.isin(baseline, (0, 1)).all():
        return _score_interval(int((gaps > 0).sum()), int((gaps < 0).sum()), len(gaps))
    values, counts = np.unique(gaps, return_counts=True)
    if len(values) == 1:
        # Nothing to resample, but an example of a kind that was not drawn may differ by all of 1.
        reach = QUANTILE**2 / (len(gaps) + QUANTILE**2)
        return Difference(float(values[0]), float(values[0]) - reach, float(values[0]) + reach)
    rng = np.random.default_rng(0)
    # Means of resampled gaps; few distinct gaps make this a multinomial draw.
    if len(values) <= 16:
        draws = rng.multinomial(len(gaps), counts / len(gaps), DRAWS) @ values / len(gaps)
    else:
        draws = np.array([gaps[rng.integers(0, len(gaps), len(gaps))].mean() for _ in range(DRAWS)])
    low, high = np.quantile(draws, [0.025, 0.975])
    return Difference(float(gaps.mean()), float(low), float(high))


def _score_interval(b: int, c: int, n: int) -> Difference:
    """The difference of two paired proportions, (b - c) / n, with its score interval [tango1998].

    It holds every difference that the score test does not reject. Resampling would say "exactly 0"
    of examples without a difference, however few they are; this says plus or minus
    z^2 / (n + z^2).

    Args:
        b: Examples on which the candidate alone is right.
        c: Examples on which the baseline alone is right.
        n: All examples.
    """

    def score(difference: float) -> float:
        # The likeliest share of c when the difference is given.
        half = (2 * n - b + c) * difference - b - c
        root = math.sqrt(max(half**2 + 8 * n * c * difference * (1 - difference), 0.0))
        share = (root - half) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        gap = b - c - n * difference
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap)

    def where(low: float, high: float, level: float) -> float:
        # The score falls as the difference grows.
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > level else (low, middle)
        return (low + high) / 2

    value = (b - c) / n
    return Difference(value, where(-1.0, value, QUANTILE), where(value, 1.0, -QUANTILE))


def least_examples(margin: float) -> int:
    """How many examples without any difference it takes for `not_worse` to pass.

    Args:
        margin: Greater than 0; no number of examples shows that nothing at all was lost.
    """
    return math.ceil(QUANTILE**2 * (1 - margin) / margin)


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
