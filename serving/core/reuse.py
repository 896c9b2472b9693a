"""Answers that serve more than one request: identical ones in flight, and those of before.

A request is identical when its signature, outputs, names, types, shapes and bytes are. Answers are
kept per version, so a new version never answers with what the old one said.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from serving.errors import DeadlineExceededError
from serving.messages import Array, Outcome

Key = bytes
T = TypeVar("T")


def key_of_tensors(signature: str, outputs: Iterable[str], inputs: Mapping[str, Array]) -> Key:
    """The content hash of a request for a signature."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((signature, tuple(outputs))).encode())
    for name, array in sorted(inputs.items()):
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        if array.dtype == object:
            for each in array.ravel():
                digest.update(len(each).to_bytes(8, "little"))
                digest.update(each)
        else:
            digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def key_of_images(images: tuple[bytes, ...], top_k: int) -> Key:
    """The content hash of a request that sends images."""
    digest = hashlib.blake2b(digest_size=16, person=b"images")
    digest.update(top_k.to_bytes(8, "little"))
    for each in images:
        digest.update(len(each).to_bytes(8, "little"))
        digest.update(each)
    return digest.digest()


@dataclass(slots=True, eq=False)
class _InFlight:
    task: "asyncio.Task[tuple[object, int]]"
    waiters: int = 0


class Reuse:
    """The answers of one version.

    Args:
        answers_once: Whether identical requests in flight get one answer.
        cache_bytes: How many bytes of answers are kept; the least recently asked go first.
    """

    def __init__(self, *, answers_once: bool, cache_bytes: int) -> None:
        self._answers_once = answers_once
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[Key, tuple[object, int]] = OrderedDict()
        self._kept_bytes = 0
        self._in_flight: dict[Key, _InFlight] = {}

    @property
    def is_used(self) -> bool:
        """Whether a key is worth computing."""
        return self._answers_once or self._cache_bytes > 0

    @property
    def kept_bytes(self) -> int:
        """The bytes of the answers kept."""
        return self._kept_bytes

    async def answer(
        self,
        key: Key,
        deadline: float | None,
        produce: Callable[[], Awaitable[tuple[T, int]]],
    ) -> tuple[T, str]:
        """An answer, and how it came about: "" when it was produced for this request.

        Args:
            key: The request's content hash.
            deadline: A moment on the monotonic clock.
            produce: Makes the answer, and says how many bytes it has.

        Raises:
            DeadlineExceededError: the deadline passed while another request's answer was awaited.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0], Outcome.CACHED  # type: ignore[return-value]
        flight = self._in_flight.get(key) if self._answers_once else None
        # One whose callers have all gone is ending, and has no answer for those who come now.
        if flight is None or flight.task.cancelling():
            return await self._lead(key, produce), ""
        try:
            async with asyncio.timeout_at(_on_loop(deadline)):
                return await self._wait(flight), Outcome.JOINED  # type: ignore[return-value]
        except TimeoutError as error:
            raise DeadlineExceededError(
                "The deadline passed while an identical request was being answered."
            ) from error
        except DeadlineExceededError:
            # The other's time was over; this one may have more, and so may others that joined.
            if deadline is None or time.monotonic() < deadline:
                return await self.answer(key, deadline, produce)
            raise

    async def _lead(self, key: Key, produce: Callable[[], Awaitable[tuple[T, int]]]) -> T:
        # A task of its own: when its caller goes, those who joined still get their answer.
        flight = _InFlight(asyncio.ensure_future(_run(produce)))
        if self._answers_once:
            self._in_flight[key] = flight
        flight.task.add_done_callback(partial(self._landed, key, flight))
        return await self._wait(flight)  # type: ignore[return-value]

    def _landed(
        self, key: Key, flight: _InFlight, task: "asyncio.Task[tuple[object, int]]"
    ) -> None:
        if self._in_flight.get(key) is flight:
            del self._in_flight[key]
        # Asking for the error keeps asyncio from reporting one that nobody waited for any more.
        if not task.cancelled() and task.exception() is None:
            self._keep(key, *task.result())

    async def _wait(self, flight: _InFlight) -> object:
        flight.waiters += 1
        try:
            return (await asyncio.shield(flight.task))[0]
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                flight.task.cancel()

    def _keep(self, key: Key, answer: object, size: int) -> None:
        if size > self._cache_bytes or key in self._kept:
            return
        self._kept[key] = (answer, size)
        self._kept_bytes += size
        while self._kept_bytes > self._cache_bytes:
            _, (_, gone) = self._kept.popitem(last=False)
            self._kept_bytes -= gone


async def _run(produce: Callable[[], Awaitable[T]]) -> T:
    return await produce()


def _on_loop(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
