"""Batching keeps order, loses nothing, invents nothing, and never runs what nobody waits for."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.batching import Batcher, Batching
from serving.errors import DeadlineExceededError, EngineError, OverloadedError


class Doubler:
    """A real function to run: y = 2 x; it remembers the batches it saw."""

    def __init__(self, wait=None):
        self.batches = []
        self.wait = wait

    def __call__(self, inputs):
        if self.wait is not None:
            self.wait()
        self.batches.append(len(inputs["x"]))
        if (inputs["x"] == -1).any():
            raise EngineError("minus one")
        return {"y": inputs["x"] * 2}


def rows(*values):
    return {"x": np.array(values, np.float32)}


@pytest.fixture
def executor():
    with ThreadPoolExecutor(2) as made:
        yield made


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), min_size=1, max_size=12))
@settings(max_examples=25)
def test_every_request_gets_its_own_rows_back_whatever_joins_it(requests):
    async def ask():
        run = Doubler()
        batcher = Batcher(run, Batching(max_rows=8), None)
        answers = await asyncio.gather(*(batcher.submit(rows(*each), None) for each in requests))
        return run, [outputs["y"].tolist() for outputs, *_ in answers]

    run, answers = asyncio.run(ask())
    assert answers == [[2.0 * value for value in each] for each in requests]
    assert sum(run.batches) == sum(map(len, requests))
    assert all(size <= 8 for size in run.batches)


async def test_what_arrives_together_runs_together():
    run = Doubler()
    batcher = Batcher(run, Batching(max_rows=32), None)
    await asyncio.gather(*(batcher.submit(rows(n), None) for n in range(10)))
    assert run.batches == [10]


async def test_what_arrives_while_the_engine_is_busy_runs_together_next(executor):
    gate = threading.Event()
    run = Doubler(lambda: gate.wait(5))
    batcher = Batcher(run, Batching(max_rows=32), executor)
    first = asyncio.create_task(batcher.submit(rows(1), None))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(batcher.submit(rows(n), None)) for n in range(7)]
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(first, *rest)
    assert run.batches == [1, 7]


async def test_requests_of_other_shapes_or_types_never_join():
    run = Doubler()
    batcher = Batcher(run, Batching(), None)
    answers = await asyncio.gather(
        batcher.submit({"x": np.ones((1, 2))}, None),
        batcher.submit({"x": np.ones((1, 3))}, None),
        batcher.submit({"x": np.ones((1, 3), np.int32)}, None),
    )
    assert run.batches == [1, 1, 1]
    assert [each[0]["y"].shape for each in answers] == [(1, 2), (1, 3), (1, 3)]


async def test_a_late_request_never_reaches_the_engine(executor):
    gate = threading.Event()
    run = Doubler(lambda: gate.wait(5))
    batcher = Batcher(run, Batching(), executor)
    first = asyncio.create_task(batcher.submit(rows(1), None))
    await asyncio.sleep(0.01)
    late = asyncio.create_task(batcher.submit(rows(2), time.monotonic() + 0.01))
    await asyncio.sleep(0.05)
    gate.set()
    with pytest.raises(DeadlineExceededError, match="in the queue"):
        await late
    await first
    assert run.batches == [1]


async def test_a_cancelled_request_never_reaches_the_engine(executor):
    gate = threading.Event()
    run = Doubler(lambda: gate.wait(5))
    batcher = Batcher(run, Batching(), executor)
    first = asyncio.create_task(batcher.submit(rows(1), None))
    await asyncio.sleep(0.01)
    gone = asyncio.create_task(batcher.submit(rows(2), None))
    await asyncio.sleep(0.01)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    gate.set()
    await first
    await asyncio.sleep(0.02)
    assert run.batches == [1]
    assert batcher.queued_rows == 0


async def test_a_full_queue_refuses_at_once_and_says_when_to_return(executor):
    gate = threading.Event()
    batcher = Batcher(Doubler(lambda: gate.wait(5)), Batching(max_queued_rows=4), executor)
    first = asyncio.create_task(batcher.submit(rows(0), None))
    await asyncio.sleep(0.01)
    waiting = [asyncio.create_task(batcher.submit(rows(n), None)) for n in range(4)]
    await asyncio.sleep(0.01)
    with pytest.raises(OverloadedError, match="4 images wait already; at most 4") as refused:
        await batcher.submit(rows(9), None)
    assert refused.value.retry_after_s > 0
    gate.set()
    await asyncio.gather(first, *waiting)


async def test_a_request_larger_than_a_batch_runs_alone():
    run = Doubler()
    batcher = Batcher(run, Batching(max_rows=4), None)
    outputs, *_ = await batcher.submit(rows(*range(9)), None)
    assert outputs["y"].tolist() == [2.0 * n for n in range(9)]


async def test_an_error_reaches_everybody_in_its_batch_and_the_next_batch_runs():
    batcher = Batcher(Doubler(), Batching(), None)
    results = await asyncio.gather(
        batcher.submit(rows(1), None), batcher.submit(rows(-1), None), return_exceptions=True
    )
    assert all(isinstance(each, EngineError) for each in results)
    outputs, *_ = await batcher.submit(rows(3), None)
    assert outputs["y"].tolist() == [6.0]
