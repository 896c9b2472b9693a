"""Joins requests into batches, in order, and takes the answers apart again.

Nobody waits for company: a batch leaves as soon as the engine is free, with all that has gathered
until then. Under load that fills batches by itself; without load a request runs alone at once.

Rules:
1. Requests join only when their inputs have the same names, types and trailing shapes.
2. A request past its deadline, or whose caller has gone, never reaches the engine.
3. The queue is bounded in rows; what does not fit is refused at once.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from serving.errors import CancelledError, DeadlineExceededError, OverloadedError
from serving.messages import Array

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Key = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """The limits of one servable.

    Attributes:
        max_rows: Rows of one batch.
        max_queued_rows: Rows that may wait; one more is refused.
        streams: Batches that run at the same time.
    """

    max_rows: int = 32
    max_queued_rows: int = 1024
    streams: int = 1


@dataclass(slots=True, eq=False)
class _Waiting:
    inputs: Mapping[str, Array]
    rows: int
    key: Key
    deadline: float | None
    future: "asyncio.Future[tuple[Mapping[str, Array], float, float]]"
    queued: float = field(default_factory=time.monotonic)


class Batcher:
    """The queue of one function of one servable.

    Args:
        run: Runs one batch; called in `executor`, or right here when there is none.
        settings: The limits.
        executor: Where batches run; None for networks so small that changing threads costs more
            than running them.
    """

    def __init__(self, run: Run, settings: Batching, executor: Executor | None) -> None:
        self._run = run
        self._settings = settings
        self._executor = executor
        self._waiting: deque[_Waiting] = deque()
        self._queued_rows = 0
        self._running = 0
        self._is_scheduled = False

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        return self._queued_rows

    async def submit(
        self, inputs: Mapping[str, Array], deadline: float | None
    ) -> tuple[Mapping[str, Array], float, float]:
        """Runs a request, perhaps together with others.

        Args:
            inputs: Arrays with one leading batch dimension of the same size.
            deadline: A moment on the monotonic clock.

        Returns:
            The outputs of this request's rows, the seconds it waited, and the seconds its batch ran.

        Raises:
            OverloadedError: the queue is full.
            DeadlineExceededError: its time was over before it ran.
        """
        rows = len(next(iter(inputs.values())))
        # One request larger than the queue is still let in when nothing else waits.
        if self._waiting and self._queued_rows + rows > self._settings.max_queued_rows:
            raise OverloadedError(
                f"{self._queued_rows} images wait already; at most "
                f"{self._settings.max_queued_rows} may.",
                retry_after_s=1.0,
            )
        key = tuple((name, str(each.dtype), each.shape[1:]) for name, each in inputs.items())
        loop = asyncio.get_running_loop()
        waiting = _Waiting(inputs, rows, key, deadline, loop.create_future())
        self._waiting.append(waiting)
        self._queued_rows += rows
        if not self._is_scheduled:
            # After what arrived together has been decoded, so that it runs together.
            self._is_scheduled = True
            loop.call_soon(self._pump)
        try:
            return await waiting.future
        except asyncio.CancelledError:
            waiting.future.cancel()
            raise

    def _pump(self) -> None:
        self._is_scheduled = False
        while self._waiting and self._running < self._settings.streams:
            batch = self._take()
            if not batch:
                continue
            if self._executor is None:
                self._finish(batch, time.monotonic(), self._run_batch(batch))
                continue
            self._running += 1
            started = time.monotonic()
            future = asyncio.get_running_loop().run_in_executor(
                self._executor, self._run_batch, batch
            )
            future.add_done_callback(partial(self._done, batch, started))

    def _take(self) -> list[_Waiting]:
        """The next requests that may run together, oldest first; the late and the gone fall out."""
        batch: list[_Waiting] = []
        rows = 0
        now = time.monotonic()
        while self._waiting:
            first = self._waiting[0]
            is_first = not batch
            if not is_first and (
                first.key != batch[0].key or rows + first.rows > self._settings.max_rows
            ):
                break
            self._waiting.popleft()
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
        return batch

    def _run_batch(self, batch: list[_Waiting]) -> Mapping[str, Array] | Exception:
        """Runs in the executor: nothing here touches the loop."""
        try:
            if len(batch) == 1:
                return self._run(batch[0].inputs)
            joined = {
                name: np.concatenate([each.inputs[name] for each in batch])
                for name in batch[0].inputs
            }
            return self._run(joined)
        except Exception as error:  # noqa: BLE001 - every kind goes to those who wait
            return error

    def _done(
        self,
        batch: list[_Waiting],
        started: float,
        done: "asyncio.Future[Mapping[str, Array] | Exception]",
    ) -> None:
        self._running -= 1
        outcome = CancelledError("The server stopped.") if done.cancelled() else done.result()
        self._finish(batch, started, outcome)
        if self._waiting and not self._is_scheduled:
            self._pump()

    def _finish(
        self, batch: list[_Waiting], started: float, outcome: Mapping[str, Array] | Exception
    ) -> None:
        seconds = time.monotonic() - started
        place = 0
        for each in batch:
            if each.future.done():
                place += each.rows
                continue
            if isinstance(outcome, Exception):
                each.future.set_exception(outcome)
                continue
            if len(batch) == 1:
                outputs = outcome
            else:
                outputs = {
                    name: array[place : place + each.rows] for name, array in outcome.items()
                }
            place += each.rows
            each.future.set_result((outputs, started - each.queued, seconds))
