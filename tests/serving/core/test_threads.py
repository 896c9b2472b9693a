"""Threads of engines end before what they have run is closed."""

import asyncio
import threading
from pathlib import Path

import pytest

from serving.core.threads import EngineThreads, run_in
from serving.errors import NotReadyError

TASKS = Path("/proc/self/task")


@pytest.mark.skipif(not TASKS.is_dir(), reason="only Linux lists the threads of a process")
def test_no_thread_is_left_when_a_pool_has_been_shut_down():
    for _ in range(200):
        both = threading.Barrier(2)

        def run(both=both):
            both.wait(5)
            return threading.get_native_id()

        with EngineThreads(2, "test") as pool:
            ids = [each.result() for each in [pool.submit(run), pool.submit(run)]]
        assert len(set(ids)) == 2
        assert not [each for each in ids if (TASKS / str(each)).exists()]


def test_a_pool_may_be_told_to_end_before_it_is_waited_for():
    pool = EngineThreads(1)
    go = threading.Event()
    first, second = pool.submit(go.wait, 5), pool.submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    assert second.cancelled()
    go.set()
    pool.shutdown()
    assert first.result()


async def test_who_waits_for_a_pool_is_cancelled_by_its_own_caller_only():
    pool = EngineThreads(1)
    go = threading.Event()
    first, gone, second = (asyncio.create_task(run_in(pool, each)) for each in (go.wait, int, int))
    await asyncio.sleep(0)
    gone.cancel()
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(asyncio.CancelledError):
        await gone
    with pytest.raises(NotReadyError, match="unloaded"):
        await second
    with pytest.raises(NotReadyError, match="unloaded"):
        await run_in(pool, int)
    go.set()
    assert await first
    pool.shutdown()
