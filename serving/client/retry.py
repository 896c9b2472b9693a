"""Whether a failed call is made again, and how long to wait before: decisions, no waiting.

The rules:
1. Only what is safe to repeat: no connection was made; the connection broke or the server said
   "unavailable" on a call that changes nothing; the server is overloaded and says when to return.
2. A wait is drawn evenly between zero and a limit that grows ("full jitter"), and is never
   shorter than what the server asks for.
3. A retry that would start after the deadline is not made: the failure is raised at once.
4. Retries come out of a budget that calls fill, so that they cannot multiply an outage.
"""

import random
import threading
from collections.abc import Callable

from serving.client.deadline import Deadline
from serving.client.errors import ClientError, NotReadyError, OverloadedError, TransportError
from serving.client.settings import Retries

Random = Callable[[], float]
"""Draws from 0..1."""


class Budget:
    """Retries that may still be made; shared by all calls of a client, safe between threads."""

    def __init__(self, retries: Retries) -> None:
        self._per_call = retries.budget
        self._most = float(retries.burst)
        self._left = self._most
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """Retries left."""
        return self._left

    def refill(self) -> None:
        """Counts a call that was made for the first time."""
        if self._left < self._most:
            with self._lock:
                self._left = min(self._most, self._left + self._per_call)

    def take(self) -> bool:
        """Takes one retry out, or says that there is none."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


class Attempts:
    """The attempts of one call.

    Args:
        retries: The settings.
        budget: What is left for all calls of the client.
        deadline: The call's.
        is_repeatable: Whether the call changes nothing on the server.
        draw: Draws from 0..1, for the jitter.
    """

    __slots__ = ("_budget", "_deadline", "_draw", "_is_repeatable", "_retries", "made")

    def __init__(
        self,
        retries: Retries,
        budget: Budget,
        deadline: Deadline,
        *,
        is_repeatable: bool = True,
        draw: Random = random.random,
    ) -> None:
        self._retries = retries
        self._budget = budget
        self._deadline = deadline
        self._is_repeatable = is_repeatable
        self._draw = draw
        self.made = 1

    def wait_s(self, error: ClientError) -> float | None:
        """Counts one more attempt and returns how long to wait before it; None to give up."""
        if self.made >= self._retries.attempts or not may_repeat(error, self._is_repeatable):
            return None
        longest = min(
            self._retries.longest_wait_s,
            self._retries.first_wait_s * self._retries.factor ** (self.made - 1),
        )
        wait_s = longest * self._draw() + (asked_wait_s(error) or 0.0)
        if not self._deadline.allows(wait_s) or not self._budget.take():
            return None
        self.made += 1
        return wait_s


def may_repeat(error: ClientError, is_repeatable: bool) -> bool:  # noqa: FBT001
    """Says whether a call that ended in `error` is safe to make again."""
    match error:
        case TransportError():
            return is_repeatable or not error.is_sent
        case NotReadyError():
            return is_repeatable
        case OverloadedError():
            return error.retry_after_s is not None
        case _:
            return False


def asked_wait_s(error: ClientError) -> float | None:
    """Returns how long the server asks to stay away, in seconds; None when it does not say."""
    return getattr(error, "retry_after_s", None)
