"""Streams of examples and images against a fake server: order, errors, memory."""

import threading

import numpy as np
import pytest

from serving.client.errors import AnswerError, ImageError, InvalidInputError, UsageError
from serving.client.testing import FakeServer

PIXELS = np.zeros((2, 2), np.uint8)


@pytest.fixture
def server():
    made = FakeServer()
    made.add(
        "sum",
        lambda a, b: a + b,
        inputs={"a": ("float32", (None,)), "b": ("float32", (None,))},
        outputs={"total": ("float32", (None,))},
    )
    made.add("mean", lambda x: x.mean(), inputs={"x": ("float32", (None, 2))})
    made.add("look", classify=lambda image: {"cat": 0.9, f"{len(image)} bytes": 0.1})
    return made


def test_examples_of_several_inputs_travel_together(server):
    items = [{"a": np.float32(n), "b": np.float32(1)} for n in range(5)]
    with server.client() as client:
        found = list(client.predict_many("sum", items, batch_size=2))
    assert [each.unwrap()["total"] for each in found] == [1, 2, 3, 4, 5]
    sent = [len(call.inputs["a"]) for call in server.calls if call.operation == "predict"]
    assert sorted(sent) == [1, 2, 2]


def test_an_answer_without_rows_is_an_error_of_each_example(server):
    with server.client() as client:
        found = list(client.predict_many("mean", [[1.0, 2.0], [3.0, 4.0], [5.0]], batch_size=2))
    assert [type(each.error) for each in found] == [AnswerError, AnswerError, InvalidInputError]


def test_images_stream_and_one_that_is_none_takes_no_other_with_it(server):
    images = [PIXELS, PIXELS, "nowhere.png", PIXELS]
    with server.client() as client:
        found = list(client.classify_many("look", images, batch_size=4, top_k=1))
    assert [each.is_ok for each in found] == [True, True, False, True]
    assert isinstance(found[2].error, ImageError)
    assert found[3].unwrap().label == "cat"


async def test_and_over_asyncio(server):
    async with server.async_client() as client:
        stream = client.classify_many("look", [PIXELS, b"", PIXELS], batch_size=2)
        assert [each.is_ok async for each in stream] == [True, False, True]


def test_whoever_stops_early_leaves_nothing_running(server):
    before = threading.active_count()
    with server.client() as client:
        stream = client.classify_many("look", (PIXELS for _ in range(1000)), concurrency=2)
        next(stream)
        stream.close()
    assert threading.active_count() == before
    assert sum(len(call.images) for call in server.calls) < 100


def test_sizes_that_cannot_work_are_told_at_once(server):
    with server.client() as client:
        with pytest.raises(UsageError, match="concurrency is 0"):
            client.classify_many("look", [], concurrency=0)
        with pytest.raises(UsageError, match="batch_size is -1"):
            client.predict_many("sum", [], batch_size=-1)


def test_a_progress_bar_knows_the_total_where_the_items_do(server, capsys):
    with server.client() as client:
        list(client.classify_many("look", [PIXELS] * 5, progress=True))
        told = capsys.readouterr()
        list(client.classify_many("look", iter([PIXELS] * 5), progress=True))
        unknown = capsys.readouterr()
        list(client.classify_many("look", [PIXELS] * 5))
    assert "5/5" in told.err
    assert "5/?" in unknown.err
    assert capsys.readouterr().err == told.out == ""
