"""Threads that run engines."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from serving.errors import NotReadyError

T = TypeVar("T")

# Where Linux lists the threads of a process.
_TASKS = Path("/proc/self/task")
# A thread that has nothing left to do but to end takes microseconds; a number may be given anew.
_MOST_S = 1.0


class EngineThreads(ThreadPoolExecutor):
    """A pool whose threads are gone, and not only done, when `shutdown` has waited.

    Before 3.13 Python's `join` returns while the thread still ends. What OpenVINO keeps in a thread
    is destroyed just then, and a network that is closed at that moment destroys the same: without
    this a server that unloads a version crashes, rarely, on a busy machine.

    Args:
        threads: At most so many.
        name: Begins the threads' names.
    """

    def __init__(self, threads: int, name: str = "engine") -> None:
        self._ids: set[int] = set()
        super().__init__(threads, thread_name_prefix=name, initializer=self._began)

    def _began(self) -> None:
        self._ids.add(threading.get_native_id())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as its parent has it
        """Takes nothing more; with `wait`, returns when the threads are gone."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if not wait:
            return
        if not _TASKS.is_dir():
            time.sleep(0.05)
            return
        until = time.monotonic() + _MOST_S
        while time.monotonic() < until and any((_TASKS / str(each)).exists() for each in self._ids):
            time.sleep(0.0005)
        self._ids.clear()


async def run_in(executor: Executor, run: Callable[[], T]) -> T:
    """Runs something in a version's threads.

    Raises:
        NotReadyError: the version went before it ran.
    """
    try:
        future = asyncio.get_running_loop().run_in_executor(executor, run)
    except RuntimeError as error:
        raise unloaded() from error
    try:
        return await future
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody has cancelled the caller: it is the pool that ended, and an answer is waited for.
        raise unloaded() from error


def unloaded() -> NotReadyError:
    """What the pool of a version that goes did not run; another version answers who asks again."""
    return NotReadyError("The version was unloaded before the model ran.")
