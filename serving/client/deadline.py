"""One deadline for one call: connecting, retries and waiting all draw on the same time."""

import math
import time
from collections.abc import Callable

from serving.client.errors import DeadlineError, UsageError

Clock = Callable[[], float]

# A year. Far beyond it gRPC, sockets and locks take a time for one that is over already.
LONGEST_S = 365 * 24 * 3600.0


class Deadline:
    """A moment after which nobody waits any more.

    Args:
        timeout_s: Seconds from now; None or infinity for no limit, more than a year is a year.
        clock: A monotonic clock in seconds.

    Raises:
        UsageError: `timeout_s` is not above zero.
    """

    __slots__ = ("_at", "_clock", "timeout_s")

    def __init__(self, timeout_s: float | None, clock: Clock = time.monotonic) -> None:
        if timeout_s is not None and not timeout_s > 0:
            raise UsageError(
                f"timeout_s is {timeout_s!r}; it must be above 0 seconds, or None for no limit."
            )
        self.timeout_s = timeout_s
        self._clock = clock
        self._at: float | None = None
        if timeout_s is not None and timeout_s < math.inf:
            self._at = clock() + min(timeout_s, LONGEST_S)

    def remaining_s(self) -> float | None:
        """Returns the seconds left, never below zero; None when there is no limit."""
        return None if self._at is None else max(0.0, self._at - self._clock())

    def require_s(self, doing: str) -> float | None:
        """Returns the seconds left for `doing`, e.g. "connecting".

        Raises:
            DeadlineError: there are none.
        """
        left = self.remaining_s()
        if left is not None and left <= 0:
            raise self.error(doing)
        return left

    def allows(self, wait_s: float) -> bool:
        """Says whether anything would be left after waiting so long."""
        left = self.remaining_s()
        return left is None or left > wait_s

    def error(self, doing: str, why: str = "") -> DeadlineError:
        """Returns the error for a deadline that passed while `doing`, and a sentence more."""
        return DeadlineError(
            f"The call was given {self.timeout_s:g} s, which were over while {doing}.{why}",
            timeout_s=self.timeout_s,
        )
