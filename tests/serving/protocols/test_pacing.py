"""Refusals go out at once, and slower when somebody does nothing but ask."""

import pytest

from serving.protocols.pacing import BURST, MOST_S, PER_S, Pacing


def test_refusals_go_out_at_once_up_to_a_rate_and_beyond_it_in_turn():
    now = 100.0
    pacing = Pacing(lambda: now)
    delays = [pacing.delay_s() for _ in range(BURST + 40)]
    assert delays[:BURST] == [0.0] * BURST
    assert delays[BURST:] == pytest.approx([each / PER_S for each in range(1, 41)])
    now += 10
    assert pacing.delay_s() == 0.0


def test_no_refusal_waits_longer_than_its_bound():
    pacing = Pacing(lambda: 100.0)
    assert max(pacing.delay_s() for _ in range(10_000)) == MOST_S


def test_a_steady_trickle_never_waits():
    now = 0.0
    pacing = Pacing(lambda: now)
    for _ in range(1000):
        now += 1.01 / PER_S
        assert pacing.delay_s() == 0.0
