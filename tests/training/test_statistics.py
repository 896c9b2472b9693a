"""Paired comparisons, against published examples and by how often they are right."""

import numpy as np
import pytest

from training.statistics import (
    Difference,
    least_examples,
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


def verdicts(n, drop, more, margin=0.005, rounds=2000):
    """Shares of what is said of a candidate that is truly worse by `drop`, and of true intervals.

    Args:
        n: Test images.
        drop: How much more often the baseline alone is right.
        more: How often the candidate alone is right.
        margin: The drop that is accepted.
        rounds: How often the images are drawn.
    """
    rng = np.random.default_rng(n)
    both = 1 - drop - 2 * more
    counts = rng.multinomial(n, [both, more, more + drop, 0], rounds)
    said = {"pass": 0.0, "fail": 0.0, "inconclusive": 0.0, "covered": 0.0}
    # Equal draws have equal verdicts.
    for (a, b, c, d), times in zip(*np.unique(counts, axis=0, return_counts=True), strict=True):
        found = paired_difference(*(each.astype(float) for each in pairs(a, b, c, d)))
        said[not_worse(found, margin)] += times / rounds
        said["covered"] += times / rounds * (found.low <= -drop <= found.high)
    return said


@pytest.mark.parametrize("more", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("n", [5, 10, 50, 200, 1000])
def test_what_is_truly_worse_passes_as_seldom_as_a_95_percent_interval_says(n, more):
    said = verdicts(n, drop=0.03, more=more)
    assert said["pass"] <= 0.025
    assert said["covered"] >= 0.93


@pytest.mark.parametrize("n", [50, 200, 1000, 5000])
def test_what_is_just_too_bad_passes_about_one_time_in_forty_or_less(n):
    assert verdicts(n, drop=0.005, more=0.02)["pass"] <= 0.035


def test_a_few_images_without_a_difference_show_nothing():
    right = np.ones(5)
    found = paired_difference(right, right)
    # The share that 5 draws may miss altogether: z^2 / (n + z^2).
    assert (found.value, found.low, found.high) == pytest.approx((0, -0.434, 0.434), abs=1e-3)
    assert not_worse(found, 0.005) == "inconclusive"
    # One image that was lost is no proof of a loss, not even all of it.
    lost = paired_difference(np.zeros(1), np.ones(1))
    assert lost.high > -0.1
    # What is neither right nor wrong has the same width, when there is nothing to resample.
    same = paired_difference(np.full(5, 0.6), np.full(5, 0.6))
    assert (same.low, same.high) == pytest.approx((found.low, found.high))
    assert least_examples(0.005) == 765
    for n, outcome in ((765, "pass"), (764, "inconclusive")):
        assert not_worse(paired_difference(np.ones(n), np.ones(n)), 0.005) == outcome


def test_the_score_interval_ends_where_the_score_test_rejects():
    """The likelihood is maximised here by search, there by Tango's formula."""
    from scipy.optimize import minimize_scalar

    b, c, n = 40, 20, 160
    found = paired_difference(*(each.astype(float) for each in pairs(60, b, c, 40)))
    for end, z in ((found.low, 1.96), (found.high, -1.96)):

        def loss(share, end=end):
            shares = (share + end, share, 1 - 2 * share - end)
            return -sum(k * np.log(p) for k, p in zip((b, c, n - b - c), shares, strict=True))

        bounds = (max(0, -end) + 1e-9, (1 - end) / 2 - 1e-9)
        share = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x
        deviation = np.sqrt(n * (2 * share + end - end**2))
        assert (b - c - n * end) / deviation == pytest.approx(z, abs=1e-3)


@pytest.mark.parametrize(
    ("alone", "outcome"),
    [((30, 40), "pass"), ((60, 70), "pass"), ((90, 200), "fail"), ((40, 80), "inconclusive")],
)
def test_on_ten_thousand_images_it_says_what_resampling_says(alone, outcome):
    first, second = pairs(9700, *alone, 300 - sum(alone))
    found = paired_difference(first.astype(float), second.astype(float))
    # Scaled, they are neither 0 nor 1.
    drawn = paired_difference(first * 0.5, second * 0.5)
    assert (found.low, found.high) == pytest.approx((2 * drawn.low, 2 * drawn.high), abs=3e-4)
    assert not_worse(found, 0.005) == not_worse(Difference(*(2 * x for x in drawn)), 0.005)
    assert not_worse(found, 0.005) == outcome


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
