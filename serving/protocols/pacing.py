"""Refusals, paced: a caller that asks again the moment it is refused must not starve the engine.

A refusal costs a fraction of a millisecond. Thousands a second, from callers that ignore
Retry-After, would take the cores from the work that was admitted, and the less gets done the more
is refused. So refusals go out at once up to a rate, and beyond it wait for their turn.
"""

import time
from collections.abc import Callable

PER_S = 200.0
BURST = 100
MOST_S = 1.0


class Pacing:
    """The turns of refusals.

    Args:
        clock: The monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turn = float("-inf")

    def delay_s(self) -> float:
        """How long the next refusal waits; 0 below the rate."""
        now = self._clock()
        self._turn = max(self._turn, now - BURST / PER_S) + 1 / PER_S
        # Those who already wait long are many; later turns would outlast their patience.
        self._turn = min(self._turn, now + MOST_S)
        return max(0.0, self._turn - now)
