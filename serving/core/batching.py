"""Joins requests into batches, in order, and takes the answers apart again.

Nobody waits for company: a batch leaves as soon as the engine is free, with all that has gathered
until then. Under load that fills batches by itself; without load a request runs alone at once. A
batch that runs in the event loop leaves when what had arrived by then has been read.

Rules:
1. Requests join only when their inputs have the same names, types and trailing shapes.
2. A request past its deadline, or whose caller has gone, never reaches the engine.
3. The queue is bounded in rows and in estimated seconds; what does not fit, or cannot be answered
   before its deadline, is refused at once. A more urgent request takes the place of a less urgent.
4. A request larger than a batch is split, and its answer put together again.
5. A batch is padded only to a size that exists.
6. A request that the model refuses is alone in it: those that shared its batch are run again.
7. Who waits gets an answer or an error, also when the version goes.
"""

import asyncio
import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from serving.core.threads import unloaded
from serving.errors import (
    CancelledError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    RowsError,
)
from serving.messages import Array

log = logging.getLogger(__name__)

Run = Callable[..., Mapping[str, Array]]
Key = tuple[tuple[str, str, tuple[int, ...]], ...]
Answer = Mapping[str, Array] | Exception

# Priorities as Triton has them: 1 is the highest, 0 stands for the default.
DEFAULT_LEVEL = 8
LOWEST_LEVEL = 16

# How much of the newest measurement goes into the estimate of a row's cost.
_NEWEST = 0.1


def level_of(priority: int) -> int:
    """The level of a request's priority: 1 goes first."""
    return DEFAULT_LEVEL if priority == 0 else min(max(priority, 1), LOWEST_LEVEL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """The limits of one servable.

    Attributes:
        max_rows: Rows of one batch.
        max_queued_rows: Rows that may wait; one more is refused.
        max_queue_s: Seconds of work that may wait, by the estimate.
        streams: Batches that run at the same time.
        sizes: Sizes that batches are padded to, ascending, the last being `max_rows`; empty for
            none.
        row_s: What a row costs in a batch, until it has been measured; 0 when not known.
    """

    max_rows: int = 32
    max_queued_rows: int = 4096
    max_queue_s: float = 20.0
    streams: int = 1
    sizes: tuple[int, ...] = ()
    row_s: float = 0.0


class Ran(NamedTuple):
    """The outputs of a request's rows, its times in seconds, and whether it had to wait."""

    outputs: Mapping[str, Array]
    queue_s: float
    execute_s: float
    was_queued: bool


@dataclass(slots=True, eq=False)
class _Waiting:
    inputs: Mapping[str, Array]
    rows: int
    key: Key
    deadline: float | None
    future: "asyncio.Future[Ran]"
    was_queued: bool
    queued: float


class Batcher:
    """The queue of one function of one servable.

    Args:
        run: Runs one batch; called in `executor`, or right here when there is none.
        settings: The limits.
        executor: Where batches run; None for networks so small that changing threads costs more
            than running them.
        on_batch: Told of each batch that ran: its rows and its seconds.
        inline_rows: Batches of so few rows run right here although there is an executor, when
            nothing else runs: changing threads costs more than they do. One in a turn of the loop.
        run_alone: Runs a batch while no other runs and none waits; `run` by default.
        tells_deadline: Whether `run` is also told when nobody waits for the batch any more.
    """

    def __init__(
        self,
        run: Run,
        settings: Batching,
        executor: Executor | None,
        on_batch: Callable[[int, float], None] | None = None,
        inline_rows: int = 0,
        run_alone: Run | None = None,
        *,
        tells_deadline: bool = False,
    ) -> None:
        self._run = run
        self._run_alone = run_alone or run
        self._settings = settings
        self._executor = executor
        self._on_batch = on_batch
        self._inline_rows = inline_rows
        self._tells_deadline = tells_deadline
        self._queues: dict[int, deque[_Waiting]] = {}
        self._queued_rows = 0
        self._running = 0
        self._running_rows = 0
        self._row_s = settings.row_s
        self._is_scheduled = False
        self._seen_rows = 0
        self._may_join = True

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    @property
    def wait_s(self) -> float:
        """How long one more row would wait, by the estimate."""
        return (self._queued_rows + self._running_rows) * self._row_s / self._settings.streams

    async def submit(
        self, inputs: Mapping[str, Array], deadline: float | None, level: int = DEFAULT_LEVEL
    ) -> Ran:
        """Runs a request, perhaps together with others.

        Args:
            inputs: Arrays with one leading batch dimension of the same size.
            deadline: A moment on the monotonic clock.
            level: Lower ones go first.

        Raises:
            OverloadedError: the queue is full, or so long that the answer would be late.
            DeadlineExceededError: its time was over before it ran.
            RowsError: it was padded or split, and the outputs have other rows.
        """
        rows = len(next(iter(inputs.values())))
        self.admit(rows, deadline, level)
        most = self._settings.max_rows
        if rows <= most:
            return await self._enqueue(inputs, rows, deadline, level)
        parts = [
            {name: array[start : start + most] for name, array in inputs.items()}
            for start in range(0, rows, most)
        ]
        futures = [
            self._enqueue(part, len(next(iter(part.values()))), deadline, level) for part in parts
        ]
        try:
            ran = await asyncio.gather(*futures)
        finally:
            # Once one has failed, nobody waits for the others.
            for future in futures:
                future.cancel()
        for part, each in zip(parts, ran, strict=True):
            _check_rows(each.outputs, len(next(iter(part.values()))))
        return Ran(
            {name: np.concatenate([each.outputs[name] for each in ran]) for name in ran[0].outputs},
            ran[0].queue_s,
            sum(each.execute_s for each in ran),
            ran[0].was_queued,
        )

    def admit(self, rows: int, deadline: float | None, level: int = DEFAULT_LEVEL) -> None:
        """Refuses a request for which there is no room or no time.

        Raises:
            OverloadedError: says what waits already.
            DeadlineExceededError: its time is over.
        """
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise DeadlineExceededError("The deadline had passed before the request could wait.")
        if not self._queued_rows:
            return  # whatever is running, the next one may wait for it
        limits = self._settings
        excess = self._queued_rows + rows - limits.max_queued_rows
        if excess > 0 and not self._make_room(excess, level):
            raise OverloadedError(
                f"{self._queued_rows} images wait already; at most {limits.max_queued_rows} may.",
                retry_after_s=max(self.wait_s, 0.1),
            )
        if not self._row_s:
            return
        before = (
            sum(
                each.rows
                for other, queue in self._queues.items()
                if other <= level
                for each in queue
            )
            if len(self._queues) > 1
            else self._queued_rows
        )
        wait_s = (before + self._running_rows) * self._row_s / limits.streams
        if wait_s > limits.max_queue_s:
            raise OverloadedError(
                f"{wait_s:.2f} s of work wait already; at most {limits.max_queue_s:g} s may.",
                retry_after_s=wait_s - limits.max_queue_s + 0.1,
            )
        if deadline is not None and now + wait_s + rows * self._row_s > deadline:
            raise OverloadedError(
                f"{wait_s:.2f} s of work wait already, and the deadline is in "
                f"{deadline - now:.2f} s.",
                retry_after_s=wait_s,
            )

    def _make_room(self, rows: int, level: int) -> bool:
        """Refuses what is less urgent, the newest first, until so many rows are free."""
        less_urgent = sorted((each for each in self._queues if each > level), reverse=True)
        if sum(each.rows for one in less_urgent for each in self._queues[one]) < rows:
            return False
        for one in less_urgent:
            queue = self._queues[one]
            while queue and rows > 0:
                last = queue.pop()
                self._queued_rows -= last.rows
                rows -= last.rows
                if not last.future.done():
                    last.future.set_exception(
                        OverloadedError(
                            "The queue is full, and a more urgent request took the place.",
                            retry_after_s=max(self.wait_s, 0.1),
                        )
                    )
        return True

    def _enqueue(
        self, inputs: Mapping[str, Array], rows: int, deadline: float | None, level: int
    ) -> "asyncio.Future[Ran]":
        key = tuple((name, each.dtype.str, each.shape[1:]) for name, each in inputs.items())
        future: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
        was_queued = bool(self._running >= self._settings.streams or self._queued_rows)
        waiting = _Waiting(inputs, rows, key, deadline, future, was_queued, time.monotonic())
        queue = self._queues.get(level)
        if queue is None:
            queue = self._queues[level] = deque()
        queue.append(waiting)
        self._queued_rows += rows
        # After what arrived together has been decoded, so that it runs together.
        if not self._is_scheduled:
            self._schedule()
        return future

    def _schedule(self) -> None:
        self._is_scheduled = True
        asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        if self._may_bring_more():
            asyncio.get_running_loop().call_soon(self._pump)
            return
        self._is_scheduled = False
        while self._queued_rows and self._running < self._settings.streams:
            batch = self._take()
            if not batch:
                continue
            rows = sum(each.rows for each in batch)
            started = time.monotonic()
            is_inline = rows <= self._inline_rows and not self._running
            run = self._run if self._running or self._queued_rows else self._run_alone
            if self._executor is None or is_inline:
                self._finish(batch, rows, started, self._run_batch(run, batch, rows))
                if self._queued_rows:
                    # Whoever asks something else is heard in between.
                    self._schedule()
                return
            try:
                future = asyncio.get_running_loop().run_in_executor(
                    self._executor, self._run_batch, run, batch, rows
                )
            except RuntimeError:
                # The pool has ended, for the version goes: nobody may wait for it any more.
                self._finish(batch, rows, started, unloaded())
                continue
            self._running += 1
            self._running_rows += rows
            future.add_done_callback(partial(self._done, batch, rows, started))

    def _may_bring_more(self) -> bool:
        """Whether the loop should listen once more before a batch runs in it.

        It hears nothing while the batch runs, so it reads first what has come already: until a turn
        brings nothing more, or the batch is full.
        """
        waiting, before = self._queued_rows, self._seen_rows
        is_here = not self._running and (self._executor is None or waiting <= self._inline_rows)
        has_more = is_here and before < waiting < self._settings.max_rows
        self._seen_rows = waiting if has_more else 0
        return has_more

    def _take(self) -> list[_Waiting]:
        """The next requests that may run together, the urgent and the old first.

        The late and the gone fall out.
        """
        batch: list[_Waiting] = []
        rows = 0
        now = time.monotonic()
        for level in sorted(self._queues):
            queue = self._queues[level]
            while queue:
                first = queue[0]
                if batch and (
                    first.key != batch[0].key
                    or rows + first.rows > self._settings.max_rows
                    or not self._may_join
                ):
                    return batch
                queue.popleft()
                self._queued_rows -= first.rows
                if first.future.done():
                    continue
                if first.deadline is not None and now >= first.deadline:
                    first.future.set_exception(
                        DeadlineExceededError(
                            f"The deadline passed after {now - first.queued:.3f} s in the queue."
                        )
                    )
                    continue
                batch.append(first)
                rows += first.rows
            del self._queues[level]
        return batch

    def _run_batch(self, run: Run, batch: list[_Waiting], rows: int) -> Answer | list[Answer]:
        """Runs in the executor: nothing here touches the loop.

        Returns:
            What the batch gave, or where its requests had to be run apart, what each of them gave.
        """
        try:
            if len(batch) == 1:
                joined = batch[0].inputs
            else:
                joined = {
                    name: np.concatenate([each.inputs[name] for each in batch])
                    for name in batch[0].inputs
                }
            size = self._padded(rows)
            if size > rows:
                # The last row again: a real one, so that nothing unusual enters the engine.
                joined = {
                    name: np.concatenate([array, np.repeat(array[-1:], size - rows, axis=0)])
                    for name, array in joined.items()
                }
            outputs = run(joined, _latest(batch)) if self._tells_deadline else run(joined)
            if size > rows or len(batch) > 1:
                _check_rows(outputs, size)
        except (InvalidRequestError, RowsError) as error:
            if len(batch) == 1:
                return error
            if isinstance(error, RowsError):
                log.warning("from here on each request is a batch of its own: %s", error)
                self._may_join = False
            return [self._run_apart(run, each) for each in batch]
        except Exception as error:  # noqa: BLE001 - every kind goes to those who wait
            return error
        return outputs

    def _run_apart(self, run: Run, request: _Waiting) -> Answer:
        if request.future.done():
            return CancelledError("The caller has gone.")
        if request.deadline is not None and time.monotonic() >= request.deadline:
            return DeadlineExceededError("The deadline passed while others of its batch were run.")
        outcome = self._run_batch(run, [request], request.rows)
        assert not isinstance(outcome, list)  # noqa: S101 - one request is not divided
        return outcome

    def _padded(self, rows: int) -> int:
        sizes = self._settings.sizes
        place = bisect_left(sizes, rows)
        return sizes[place] if place < len(sizes) else rows

    def _done(
        self,
        batch: list[_Waiting],
        rows: int,
        started: float,
        done: "asyncio.Future[Answer | list[Answer]]",
    ) -> None:
        self._running -= 1
        self._running_rows -= rows
        outcome = unloaded() if done.cancelled() else done.result()
        self._finish(batch, rows, started, outcome)
        if self._queued_rows and not self._is_scheduled:
            self._pump()

    def _finish(
        self,
        batch: list[_Waiting],
        rows: int,
        started: float,
        outcome: Answer | list[Answer],
    ) -> None:
        seconds = time.monotonic() - started
        if isinstance(outcome, list):
            for each, one in zip(batch, outcome, strict=True):
                self._answer([each], each.rows, started, seconds, one)
            return
        if not isinstance(outcome, Exception):
            self._measured(rows, seconds)
        self._answer(batch, rows, started, seconds, outcome)

    def _answer(
        self, batch: list[_Waiting], rows: int, started: float, seconds: float, outcome: Answer
    ) -> None:
        is_whole = len(batch) == 1 and self._padded(rows) == rows
        place = 0
        for each in batch:
            start, place = place, place + each.rows
            if each.future.done():
                continue
            if isinstance(outcome, Exception):
                each.future.set_exception(outcome)
                continue
            outputs = (
                outcome
                if is_whole
                else {name: array[start:place] for name, array in outcome.items()}
            )
            each.future.set_result(Ran(outputs, started - each.queued, seconds, each.was_queued))

    def _measured(self, rows: int, seconds: float) -> None:
        row_s = seconds / rows
        if self._row_s:
            # A first batch of a new size may take many times as long; it must not close the door.
            row_s = min(row_s, 4 * self._row_s)
            self._row_s += _NEWEST * (row_s - self._row_s)
        else:
            self._row_s = row_s
        if self._on_batch is not None:
            self._on_batch(rows, seconds)


def _latest(batch: list[_Waiting]) -> float | None:
    """When the last of them stops waiting; None when one waits without end."""
    deadlines = [each.deadline for each in batch if each.deadline is not None]
    return max(deadlines) if len(deadlines) == len(batch) else None


def _check_rows(outputs: Mapping[str, Array], rows: int) -> None:
    for name, array in outputs.items():
        if np.ndim(array) == 0 or len(array) != rows:
            raise RowsError(name, np.shape(array), rows)
