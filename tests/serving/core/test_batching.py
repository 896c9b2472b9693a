"""Batching keeps order, loses nothing, invents nothing, and never runs what nobody waits for."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.batching import Batcher, Batching, level_of
from serving.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    RowsError,
    code_of,
)


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


async def test_a_batch_that_has_the_engine_for_itself_runs_as_such(executor):
    gate = threading.Event()
    run, alone = Doubler(lambda: gate.wait(5)), Doubler(lambda: gate.wait(5))
    batcher = Batcher(run, Batching(max_rows=4, streams=2), executor, run_alone=alone)
    first = asyncio.create_task(batcher.submit(rows(1), None))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(batcher.submit(rows(2), None))
    await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(first, second)
    assert (alone.batches, run.batches) == ([1], [1])
    # When more wait than one batch takes, the first has company already.
    await asyncio.gather(*(batcher.submit(rows(n), None) for n in range(8)))
    assert (alone.batches, run.batches) == ([1], [1, 4, 4])
    assert (await batcher.submit(rows(7), None)).outputs["y"].tolist() == [14.0]
    assert (alone.batches, run.batches) == ([1, 1], [1, 4, 4])


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


async def test_a_request_larger_than_a_batch_is_split_and_put_together_again():
    run = Doubler()
    batcher = Batcher(run, Batching(max_rows=4), None)
    outputs, *_ = await batcher.submit(rows(*range(9)), None)
    assert outputs["y"].tolist() == [2.0 * n for n in range(9)]
    assert run.batches == [4, 4, 1]


async def test_one_part_that_fails_fails_the_whole_request():
    batcher = Batcher(Doubler(), Batching(max_rows=2), None)
    with pytest.raises(EngineError, match="minus one"):
        await batcher.submit(rows(0, 1, -1, 3, 4), None)
    await asyncio.sleep(0.01)
    assert batcher.queued_rows == 0


@given(st.lists(st.integers(1, 5), min_size=1, max_size=9), st.sampled_from([(2, 4), (3,), (8,)]))
@settings(max_examples=25)
def test_batches_are_padded_only_to_sizes_that_exist_and_nobody_sees_the_padding(counts, sizes):
    async def ask():
        run = Doubler()
        batcher = Batcher(run, Batching(max_rows=sizes[-1], sizes=sizes), None)
        requests = [list(range(10 * i, 10 * i + count)) for i, count in enumerate(counts)]
        answers = await asyncio.gather(*(batcher.submit(rows(*each), None) for each in requests))
        assert [each.outputs["y"].tolist() for each in answers] == [
            [2.0 * value for value in each] for each in requests
        ]
        return run

    assert set(asyncio.run(ask()).batches) <= set(sizes)


class Gated:
    """A batcher whose engine is busy until the gate opens, with one request inside."""

    def __init__(self, executor, **limits):
        self.gate = threading.Event()
        self.run = Doubler(lambda: self.gate.wait(5))
        self.batcher = Batcher(self.run, Batching(**limits), executor)

    async def busy(self):
        task = asyncio.create_task(self.batcher.submit(rows(0), None))
        await asyncio.sleep(0.01)
        return task

    async def begun(self, *values, **how):
        task = asyncio.create_task(self.batcher.submit(rows(*values), None, **how))
        await asyncio.sleep(0.005)
        return task


async def test_the_urgent_go_first_and_among_equals_the_old(executor):
    gated = Gated(executor, max_rows=1)
    order = []
    tasks = [await gated.busy()]
    for value, priority in ((1, 0), (2, 12), (3, 1), (4, 0), (5, 3)):
        task = await gated.begun(value, level=level_of(priority))
        task.add_done_callback(lambda done: order.append(done.result().outputs["y"][0] / 2))
        tasks.append(task)
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert order == [3, 5, 1, 4, 2]


async def test_a_more_urgent_request_takes_the_place_of_a_less_urgent(executor):
    gated = Gated(executor, max_queued_rows=2)
    first = await gated.busy()
    waiting, last = await gated.begun(1), await gated.begun(2)
    urgent = await gated.begun(3, level=level_of(1))
    with pytest.raises(OverloadedError, match="more urgent request took the place"):
        await last
    with pytest.raises(OverloadedError, match="2 images wait already"):
        await gated.batcher.submit(rows(4), None, level_of(16))
    gated.gate.set()
    assert (await urgent).outputs["y"].tolist() == [6.0]
    await asyncio.gather(first, waiting)


async def test_the_queue_is_bounded_by_what_its_work_costs(executor):
    gated = Gated(executor, row_s=1.0, max_queue_s=3.0)
    tasks = [await gated.busy(), await gated.begun(1), await gated.begun(2)]
    assert gated.batcher.wait_s == pytest.approx(3.0)
    tasks.append(await gated.begun(3))
    with pytest.raises(OverloadedError, match=r"4.00 s of work wait already; at most 3 s") as told:
        await gated.batcher.submit(rows(4), None)
    assert told.value.retry_after_s == pytest.approx(1.1)
    gated.gate.set()
    await asyncio.gather(*tasks)


async def test_what_would_be_late_anyway_is_refused_at_once(executor):
    gated = Gated(executor, row_s=1.0)
    tasks = [await gated.busy(), await gated.begun(1)]
    with pytest.raises(OverloadedError, match=r"2.00 s of work wait already, and the deadline"):
        await gated.batcher.submit(rows(2), time.monotonic() + 2.5)
    tasks.append(asyncio.create_task(gated.batcher.submit(rows(2), time.monotonic() + 30)))
    gated.gate.set()
    await asyncio.gather(*tasks)


async def test_the_estimate_follows_what_batches_cost():
    batcher = Batcher(Doubler(), Batching(row_s=100.0), None)
    for _ in range(60):
        await batcher.submit(rows(1), None)
    busy = asyncio.create_task(batcher.submit(rows(1), None))
    await asyncio.sleep(0)
    assert batcher.wait_s < 1.0
    await busy


async def test_a_deadline_that_has_passed_is_refused_before_it_waits():
    run = Doubler()
    with pytest.raises(DeadlineExceededError, match="before the request could wait"):
        await Batcher(run, Batching(), None).submit(rows(1), time.monotonic() - 1)
    assert run.batches == []


async def test_who_had_to_wait_is_told_so(executor):
    gated = Gated(executor)
    first, second = await gated.busy(), await gated.begun(1)
    gated.gate.set()
    assert [each.was_queued for each in await asyncio.gather(first, second)] == [False, True]


async def test_a_model_that_mixes_rows_answers_each_request_apart(caplog):
    batches = []

    def total(inputs):
        batches.append(len(inputs["x"]))
        return {"y": inputs["x"].sum(keepdims=True)}

    batcher = Batcher(total, Batching(), None)
    requests = (rows(1, 2), rows(3, 4), rows(5))
    for _ in range(2):
        ran = await asyncio.gather(*(batcher.submit(each, None) for each in requests))
        assert [each.outputs["y"].tolist() for each in ran] == [[3.0], [7.0], [5.0]]
    assert batches == [5, 2, 2, 1, 2, 2, 1]
    assert "each request is a batch of its own" in caplog.text


@pytest.mark.parametrize("limits", [Batching(max_rows=2), Batching(max_rows=4, sizes=(4,))])
async def test_what_cannot_be_divided_is_neither_split_nor_padded(limits):
    batcher = Batcher(lambda inputs: {"y": inputs["x"].sum(keepdims=True)}, limits, None)
    with pytest.raises(RowsError, match=r"'y' has shape \[1\] for a batch of [24]"):
        await batcher.submit(rows(1, 2, 3), None)
    assert code_of(RowsError("y", (1,), 2)) == "FAILED_PRECONDITION"


async def test_who_shares_a_batch_with_a_bad_request_is_answered_all_the_same():
    def roots(inputs):
        if (inputs["x"] < 0).any():
            raise InvalidRequestError("a negative number has no root")
        return {"y": np.sqrt(inputs["x"])}

    batcher = Batcher(roots, Batching(), None)
    bad, good, late = await asyncio.gather(
        batcher.submit(rows(-1), None),
        batcher.submit(rows(4, 9), None),
        batcher.submit(rows(1), time.monotonic() + 60),
        return_exceptions=True,
    )
    assert isinstance(bad, InvalidRequestError)
    assert (good.outputs["y"].tolist(), late.outputs["y"].tolist()) == ([2.0, 3.0], [1.0])


async def test_of_a_batch_that_is_run_apart_the_late_and_the_gone_are_not_run(executor):
    asked = []
    runs, gate = threading.Event(), threading.Event()

    def refuse(inputs):
        asked.append(inputs["x"].tolist())
        if len(inputs["x"]) > 1:
            runs.set()
            gate.wait(20)
            raise InvalidRequestError("not together")
        return inputs

    batcher = Batcher(refuse, Batching(), executor)
    deadline = time.monotonic() + 1
    gone, late, good = (
        asyncio.create_task(batcher.submit(rows(n), deadline if n == 2 else None))
        for n in (1, 2, 3)
    )
    await asyncio.to_thread(runs.wait, 20)
    gone.cancel()
    while time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    gate.set()
    with pytest.raises(DeadlineExceededError):
        await late
    assert (await good).outputs["x"].tolist() == [3.0]
    assert asked == [[1.0, 2.0, 3.0], [3.0]]


async def test_an_error_reaches_everybody_in_its_batch_and_the_next_batch_runs():
    batcher = Batcher(Doubler(), Batching(), None)
    results = await asyncio.gather(
        batcher.submit(rows(1), None), batcher.submit(rows(-1), None), return_exceptions=True
    )
    assert all(isinstance(each, EngineError) for each in results)
    outputs, *_ = await batcher.submit(rows(3), None)
    assert outputs["y"].tolist() == [6.0]


async def test_others_are_heard_between_the_batches_that_run_in_the_loop():
    heard = []
    run = Doubler(lambda: heard.append("batch"))
    batcher = Batcher(run, Batching(max_rows=2), None)
    asking = asyncio.gather(*(batcher.submit(rows(n), None) for n in range(6)))
    while len(run.batches) < 3:
        await asyncio.sleep(0)
        heard.append("other")
    await asking
    assert run.batches == [2, 2, 2]
    assert "batch batch" not in " ".join(heard)


async def test_what_runs_in_the_loop_waits_while_every_turn_brings_more():
    run = Doubler()
    batcher = Batcher(run, Batching(max_rows=8), None)
    asking = []
    for n in range(20):
        asking.append(asyncio.create_task(batcher.submit(rows(n), None)))
        await asyncio.sleep(0)
    await asyncio.gather(*asking)
    assert run.batches[:2] == [8, 8]
    assert sum(run.batches) == 20
    await batcher.submit(rows(1), None)
    assert run.batches[-1] == 1


async def test_what_has_not_run_when_its_version_goes_is_refused_and_not_forgotten(executor):
    gate = threading.Event()
    batcher = Batcher(Doubler(lambda: gate.wait(5)), Batching(max_rows=1), executor)
    tasks = [asyncio.create_task(batcher.submit(rows(n), None)) for n in range(3)]
    await asyncio.sleep(0.01)
    executor.shutdown(wait=False, cancel_futures=True)
    tasks.append(asyncio.create_task(batcher.submit(rows(3), None)))
    gate.set()
    async with asyncio.timeout(5):
        ran, *waited = await asyncio.gather(*tasks, return_exceptions=True)
    assert ran.outputs["y"].tolist() == [0]
    assert [type(each) for each in waited] == [NotReadyError] * 3
