"""An engine in a process of its own is ended when what it runs has no end, and started again."""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.core.servable import Servable
from serving.engines import worker
from serving.engines.worker import WorkerModel
from serving.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    LimitExceededError,
    LoadError,
    NotReadyError,
    SignatureNotFoundError,
    UnsupportedError,
)
from serving.limits import LIMITS
from serving.messages import PredictCall, Target, VersionOptions
from tests.serving.published import logits_of, publish_tiny

pytestmark = pytest.mark.openvino

INPUTS = {"image": np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)}


@pytest.fixture
def model(tmp_path):
    made = WorkerModel(publish_tiny(tmp_path), "openvino", is_batchable=True)
    yield made
    made.close()


@pytest.fixture
def batched(tmp_path):
    options = VersionOptions(is_tuned=False, is_isolated=True)
    with ThreadPoolExecutor(1) as decoders:
        made = Servable("tiny", 1, publish_tiny(tmp_path), decoders=decoders, options=options)
        yield made
        made.close()


@pytest.fixture
def servable(batched):
    """One whose rows stay apart, as those of a foreign graph do."""
    batched.is_batched = False
    return batched


def hang(model):
    """From now on the worker answers as a graph that never ends: not at all."""
    os.kill(model.process_id, signal.SIGSTOP)


def is_gone(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.timeout(60)
def test_closing_does_not_wait_for_a_run_that_never_ends(model):
    process_id = model.process_id
    hang(model)
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(model.run, "logits", INPUTS)
        time.sleep(0.1)
        started = time.monotonic()
        model.close()
        assert time.monotonic() - started < 4
        with pytest.raises(NotReadyError, match="unloaded"):
            running.result()
    assert is_gone(process_id)
    with pytest.raises(NotReadyError, match="unloaded"):
        model.run("logits", INPUTS)


@pytest.mark.timeout(60)
def test_a_run_long_past_its_deadline_makes_room_for_the_others(model, caplog):
    process_id = model.process_id
    hang(model)
    with ThreadPoolExecutor(2) as executor:
        abandoned = executor.submit(model.run, "logits", INPUTS, time.monotonic() + 0.05)
        time.sleep(0.01)
        waiting = executor.submit(model.run, "logits", INPUTS)
        with pytest.raises(DeadlineExceededError, match="while the model ran"):
            abandoned.result()
        np.testing.assert_allclose(
            waiting.result()["logits"], logits_of(INPUTS["image"]), atol=1e-5
        )
    assert is_gone(process_id)
    assert "did not end within" in caplog.text


def test_a_run_a_little_past_its_deadline_keeps_its_worker(model):
    process_id = model.process_id
    hang(model)
    with ThreadPoolExecutor(1) as executor:
        late = executor.submit(model.run, "logits", INPUTS, time.monotonic() + 0.05)
        time.sleep(0.1)
        os.kill(process_id, signal.SIGCONT)
        assert "logits" in late.result()
    assert model.process_id == process_id
    with pytest.raises(DeadlineExceededError, match="before the worker was free"):
        model.run("logits", INPUTS, time.monotonic())


@pytest.mark.timeout(60)
async def test_a_version_goes_while_an_abandoned_run_never_ends(servable):
    hang(servable._loaded)

    def ask():
        call = PredictCall(Target("tiny"), INPUTS, deadline=time.monotonic() + 0.2)
        return servable.predict(call)

    ran, waited = await asyncio.gather(ask(), ask(), return_exceptions=True)
    assert isinstance(ran, DeadlineExceededError)
    assert str(ran) == "The deadline passed while the model ran."
    assert isinstance(waited, DeadlineExceededError)
    assert str(waited).endswith("s in the queue.")
    # Nobody is being answered, but the run goes on.
    assert await servable.drain(0)
    await asyncio.wait_for(asyncio.to_thread(servable.close), 20)
    assert is_gone(servable._loaded.process_id)


@pytest.mark.timeout(60)
async def test_a_batch_that_never_ends_makes_room_for_the_next(batched, caplog):
    process_id = batched._loaded.process_id
    hang(batched._loaded)

    def ask(seconds):
        call = PredictCall(Target("tiny"), INPUTS, deadline=time.monotonic() + seconds)
        return batched.predict(call)

    # They share a batch, which is nobody's after the later deadline.
    early, late = await asyncio.gather(ask(0.1), ask(0.3), return_exceptions=True)
    assert str(early) == str(late) == "The deadline passed before the model's process had answered."
    assert not is_gone(process_id)
    reply = await batched.predict(PredictCall(Target("tiny"), INPUTS))
    assert reply.outputs["probabilities"].shape == (2, 3)
    assert is_gone(process_id)
    assert "did not end within" in caplog.text


@pytest.mark.timeout(60)
def test_no_run_takes_longer_than_the_limit_whatever_its_deadline(model, monkeypatch):
    process_id = model.process_id
    monkeypatch.setattr(LIMITS, "run_s", 1)
    for deadline in (None, time.monotonic() + 3600):
        hang(model)
        with pytest.raises(DeadlineExceededError, match="within 1 s, the limit run_s"):
            model.run("logits", INPUTS, deadline)
        assert is_gone(process_id)
        assert "logits" in model.run("logits", INPUTS)
        process_id = model.process_id


@pytest.mark.timeout(60)
async def test_who_waits_when_a_version_goes_is_told_to_ask_again(servable):
    hang(servable._loaded)
    asked = [
        asyncio.create_task(servable.predict(PredictCall(Target("tiny"), INPUTS))) for _ in range(3)
    ]
    await asyncio.sleep(0.1)
    assert not await servable.drain(0)
    await asyncio.to_thread(servable.close)
    for each in asked:
        with pytest.raises(NotReadyError, match="unloaded"):
            await each


def answered(monkeypatch, path, engine):
    """The first thing that a worker says, its side running here."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ours, theirs = socket.socketpair()
    with ours:
        worker.main(theirs.detach(), path, engine)
        kind, body = worker._receive(ours)
    assert kind == worker.FAILURE
    return worker._failure(body)


def test_whatever_goes_wrong_while_it_loads_is_told(monkeypatch, tmp_path):
    def load(path, engine):
        raise KeyError("DT_QINT8")

    monkeypatch.setattr(worker, "_load", load)
    error = answered(monkeypatch, tmp_path, "tensorflow")
    assert type(error) is LoadError
    assert str(error) == "Loading failed: KeyError: 'DT_QINT8'"


def test_an_engine_that_is_not_installed_is_told_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "serving.engines.tensorflow", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    error = answered(monkeypatch, tmp_path, "tensorflow")
    assert type(error) is LoadError
    assert str(error).endswith("not installed: pip install 'convzoo[train]'.")


def test_a_worker_that_ends_while_it_loads_is_told_with_its_exit_code(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LoadError, match=r"ended while it loaded this version \(exit code 1\)"):
        WorkerModel(publish_tiny(tmp_path), "openvino", is_batchable=True)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (LimitExceededError("Too large.", field="x"), LimitExceededError),
        (SignatureNotFoundError("a", "b"), InvalidRequestError),
        (UnsupportedError("Not so."), UnsupportedError),
        (EngineError("It failed."), EngineError),
        (MemoryError("no room"), EngineError),
    ],
)
def test_errors_keep_their_kind_on_their_way(error, kind):
    found = worker._failure(worker._as_failure(error))
    assert type(found) is kind
    assert str(error) in str(found)
    assert getattr(found, "field", "") == getattr(error, "field", "")


class Ones:
    """As many ones as are asked for, in as many dimensions as the question has."""

    signatures = {}  # noqa: RUF012

    def run(self, signature, inputs):
        if signature == "fail":
            raise MemoryError
        return {"y": np.ones(inputs["n"].item(), np.int8), "n": inputs["n"]}


def test_the_limits_on_what_arrives_do_not_stand_between_server_and_worker(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(worker, "_load", lambda path, engine: Ones())
    for name in ("elements", "dimensions"):
        monkeypatch.setattr(LIMITS, name, 1)
    ours, theirs = socket.socketpair()
    with ours, ThreadPoolExecutor(1) as executor:
        executor.submit(worker.main, theirs.detach(), None, "tensorflow")
        model = object.__new__(WorkerModel)
        model._lock, model._connection = threading.Lock(), ours
        assert worker._receive(ours)[0] == worker.READY
        answer = model.run("ones", {"n": np.full((1,) * 40, 99)})
        assert (answer["y"].shape, answer["n"].ndim) == ((99,), 40)
        with pytest.raises(EngineError, match="MemoryError"):
            model.run("fail", {"n": np.zeros(1)})
        assert len(model.run("ones", {"n": np.full(1, 5)})["y"]) == 5
        ours.shutdown(socket.SHUT_RDWR)
