"""Batches under way at the same time, their answers in order, in bounded memory."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from serving.client.batches import Batch
from serving.client.errors import ClientError, InvalidInputError
from serving.client.results import Outcome

T = TypeVar("T")
R = TypeVar("R")


def stream(
    batches: Iterator[Batch[T]],
    ask: Callable[[Batch[T]], Sequence[R]],
    *,
    concurrency: int,
    progress: bool,
    total: int | None = None,
) -> Iterator[Outcome[R]]:
    """Asks for every batch in threads; yields one outcome an item, in order.

    Args:
        batches: Read as answers are taken: `concurrency` of them are held.
        ask: Gives one answer an item. What it refuses as invalid is asked item by item.
        concurrency: Batches under way at the same time.
        progress: Show a progress bar on standard error.
        total: How many items there are, where that is known.
    """

    def settle(batch: Batch[T]) -> list[Outcome[R]]:
        try:
            return _answers(batch, ask(batch))
        except InvalidInputError as error:
            if len(batch.items) > 1:
                return [found for each in batch.alone() for found in settle(each)]
            return _failures(batch, error)
        except ClientError as error:
            return _failures(batch, error)

    pending: deque[Future[list[Outcome[R]]]] = deque()
    with (
        ThreadPoolExecutor(concurrency, "convzoo-client") as pool,
        _bar(total, is_shown=progress) as advance,
    ):
        try:
            for batch in batches:
                pending.append(pool.submit(settle, batch))
                if len(pending) >= concurrency:
                    for found in pending.popleft().result():
                        advance()
                        yield found
            while pending:
                for found in pending.popleft().result():
                    advance()
                    yield found
        finally:
            # Whoever stops early does not wait for what nobody will read.
            for future in pending:
                future.cancel()


async def stream_async(
    batches: Iterator[Batch[T]],
    ask: Callable[[Batch[T]], Awaitable[Sequence[R]]],
    *,
    concurrency: int,
    progress: bool,
    total: int | None = None,
) -> AsyncIterator[Outcome[R]]:
    """As `stream`, in tasks."""

    async def settle(batch: Batch[T]) -> list[Outcome[R]]:
        try:
            return _answers(batch, await ask(batch))
        except InvalidInputError as error:
            if len(batch.items) > 1:
                return [found for each in batch.alone() for found in await settle(each)]
            return _failures(batch, error)
        except ClientError as error:
            return _failures(batch, error)

    pending: deque[asyncio.Task[list[Outcome[R]]]] = deque()
    with _bar(total, is_shown=progress) as advance:
        try:
            for batch in batches:
                pending.append(asyncio.create_task(settle(batch)))
                if len(pending) >= concurrency:
                    for found in await pending.popleft():
                        advance()
                        yield found
            while pending:
                for found in await pending.popleft():
                    advance()
                    yield found
        finally:
            for task in pending:
                task.cancel()


def _answers(batch: Batch[T], answers: Sequence[R]) -> list[Outcome[R]]:
    return [Outcome(index=batch.first + row, value=each) for row, each in enumerate(answers)]


def _failures(batch: Batch[Any], error: ClientError) -> list[Outcome[Any]]:
    return [Outcome(index=batch.first + row, error=error) for row in range(len(batch.items))]


@contextlib.contextmanager
def _bar(total: int | None, *, is_shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, and how to move it; nothing when it is not wanted."""
    if not is_shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=total)
        yield lambda: shown.advance(task)
