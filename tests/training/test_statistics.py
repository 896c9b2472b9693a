"""Paired comparisons, against published examples and by how often they are right."""

import numpy as np
import pytest

from training.statistics import (
    Difference,
    mcnemar,
    not_above,
    not_worse,
    paired_difference,
    worst,
)


def pairs(both, first, second, neither):
    right_first = np.repeat([True, True, False, False], [both, first, second, neither])
    right_second = np.repeat([True, False, True, False], [both, first, second, neither])
    return right_first, right_second


def test_mcnemar_is_the_exact_binomial_test():
    # 4 against 11 discordant pairs: 2 * P(X <= 4) with X ~ Binomial(15, 1/2) = 0.11847.
    assert mcnemar(*pairs(60, 11, 4, 25)) == pytest.approx(0.11847, abs=1e-5)
    assert mcnemar(*pairs(10, 0, 0, 5)) == 1.0
    assert mcnemar(*pairs(10, 20, 1, 5)) < 1e-4


def test_the_paired_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        # Right in 90 % and 88 %, mostly on the same examples: the true difference is 0.02.
        draws = rng.random(400)
        first, second = draws < 0.90, (draws < 0.86) | (draws > 0.98)
        found = paired_difference(first.astype(float), second.astype(float))
        covered += found.low <= 0.02 <= found.high
    assert 180 <= covered <= 200


def test_pairing_sees_what_two_separate_intervals_would_not():
    right_first, right_second = pairs(900, 20, 4, 76)
    found = paired_difference(right_first.astype(float), right_second.astype(float))
    assert found.value == pytest.approx(0.016)
    assert found.low > 0


def test_values_that_are_no_counts_are_resampled_too():
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.5, 1, 500), rng.normal(0, 1, 500)
    found = paired_difference(first, second)
    half = 1.96 * (first - second).std() / np.sqrt(500)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [((-0.004, 0.002), "pass"), ((-0.02, -0.01), "fail"), ((-0.01, 0.01), "inconclusive")],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(interval, outcome):
    assert not_worse(Difference(sum(interval) / 2, *interval), 0.005) == outcome


def test_a_budget_is_judged_by_its_interval():
    assert not_above(5, 4, 6, 7) == "pass"
    assert not_above(5, 4, 6, 5.5) == "inconclusive"
    assert not_above(5, 4, 6, 3) == "fail"


def test_the_worst_outcome_decides():
    assert worst(["pass", "inconclusive", "fail"]) == "fail"
    assert worst(["pass", "inconclusive"]) == "inconclusive"
    assert worst([]) == "pass"
