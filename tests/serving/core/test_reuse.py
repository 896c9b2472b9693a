"""One answer for many: identical requests in flight, and those of before."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.reuse import Reuse, key_of_images, key_of_tensors
from serving.errors import DeadlineExceededError, EngineError


class Producer:
    """Answers with its count, when it is let."""

    def __init__(self, size=10):
        self.count = 0
        self.gate = asyncio.Event()
        self.size = size
        self.failure = None

    async def __call__(self):
        self.count += 1
        number = self.count
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return f"answer {number}", self.size


def begin(reuse, producer, key=b"k", deadline=None):
    return asyncio.create_task(reuse.answer(key, deadline, producer))


async def test_identical_requests_in_flight_are_answered_once():
    reuse, producer = Reuse(answers_once=True, cache_bytes=0), Producer()
    tasks = [begin(reuse, producer) for _ in range(5)]
    await asyncio.sleep(0.01)
    other = begin(reuse, producer, b"other")
    await asyncio.sleep(0.01)
    producer.gate.set()
    assert [await each for each in tasks] == [
        ("answer 1", ""),
        *[("answer 1", "joined")] * 4,
    ]
    assert await other == ("answer 2", "")
    assert await begin(reuse, producer) == ("answer 3", "")  # nothing is kept


async def test_the_first_caller_may_go_and_the_others_still_get_their_answer():
    reuse, producer = Reuse(answers_once=True, cache_bytes=0), Producer()
    first, second = begin(reuse, producer), begin(reuse, producer)
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    producer.gate.set()
    assert await second == ("answer 1", "joined")


async def test_when_all_have_gone_the_work_stops():
    reuse, producer = Reuse(answers_once=True, cache_bytes=0), Producer()
    producer.finished = False
    tasks = [begin(reuse, producer) for _ in range(2)]
    await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0.01)
    producer.gate.set()
    assert await begin(reuse, producer) == ("answer 2", "")


async def test_who_asks_the_moment_that_the_last_caller_goes_is_answered():
    reuse, producer = Reuse(answers_once=True, cache_bytes=0), Producer()
    first = begin(reuse, producer)
    await asyncio.sleep(0.01)
    first.cancel()
    # As a client does that gives up and asks again at once, in one packet.
    second = begin(reuse, producer)
    await asyncio.sleep(0.01)
    producer.gate.set()
    assert await second == ("answer 2", "")


async def test_an_error_reaches_all_and_is_not_kept():
    reuse, producer = Reuse(answers_once=True, cache_bytes=1000), Producer()
    producer.failure = EngineError("broken")
    tasks = [begin(reuse, producer) for _ in range(3)]
    await asyncio.sleep(0.01)
    producer.gate.set()
    assert [str(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [
        "broken"
    ] * 3
    producer.failure = None
    assert await begin(reuse, producer) == ("answer 2", "")


async def test_who_joins_keeps_its_own_deadline():
    reuse, producer = Reuse(answers_once=True, cache_bytes=0), Producer()
    first = begin(reuse, producer)
    await asyncio.sleep(0.01)
    with pytest.raises(DeadlineExceededError, match="identical request"):
        await begin(reuse, producer, deadline=time.monotonic() + 0.02)
    producer.gate.set()
    assert await first == ("answer 1", "")


async def test_those_who_have_more_time_than_the_first_ask_again_once():
    reuse, producer = Reuse(answers_once=True, cache_bytes=0), Producer()
    producer.failure = DeadlineExceededError("late")
    first = begin(reuse, producer)
    more = [begin(reuse, producer, deadline=time.monotonic() + 9) for _ in range(3)]
    await asyncio.sleep(0.01)
    producer.gate.set()
    with pytest.raises(DeadlineExceededError):
        await first
    producer.failure = None
    assert [await each for each in more] == [
        ("answer 2", ""),
        *[("answer 2", "joined")] * 2,
    ]


async def test_answers_are_kept_within_their_bytes_and_the_least_asked_go_first():
    reuse, producer = Reuse(answers_once=False, cache_bytes=30), Producer()
    producer.gate.set()
    for key in (b"a", b"b", b"c"):
        assert (await begin(reuse, producer, key))[1] == ""
    assert (await begin(reuse, producer, b"a")) == ("answer 1", "cached")
    assert (await begin(reuse, producer, b"d"))[1] == ""
    assert reuse.kept_bytes == 30
    assert (await begin(reuse, producer, b"b"))[1] == ""
    assert (await begin(reuse, producer, b"a"))[1] == "cached"
    producer.size = 31
    assert (await begin(reuse, producer, b"large"))[1] == ""
    assert (await begin(reuse, producer, b"large"))[1] == ""
    assert reuse.kept_bytes == 30


arrays = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4)


@given(arrays, arrays)
def test_only_equal_tensors_have_equal_keys(one, other):
    def key(values, dtype=np.float32, signature="s", outputs=()):
        return key_of_tensors(signature, outputs, {"x": np.array(values, dtype)})

    first, second = np.array(one, np.float32), np.array(other, np.float32)
    is_equal = first.shape == second.shape and first.tobytes() == second.tobytes()
    assert (key(one) == key(other)) == is_equal
    assert key(one) != key(one, np.float64)
    assert key(one) != key(one, signature="t")
    assert key(one) != key(one, outputs=("y",))


def test_strings_and_images_are_told_apart_by_where_they_end():
    def key(*values):
        return key_of_tensors("s", (), {"x": np.array(values, dtype=object)})

    assert key(b"ab", b"c") != key(b"a", b"bc")
    assert key_of_images((b"ab", b"c"), 5) != key_of_images((b"a", b"bc"), 5)
    assert key_of_images((b"a",), 5) != key_of_images((b"a",), 4)
