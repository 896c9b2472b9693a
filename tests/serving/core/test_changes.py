"""Configurations replace each other, models come and go by hand, labels move to what serves."""

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.core.administration import Administration
from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.sources import BasePath
from serving.errors import (
    DeadlineExceededError,
    LabelNotFoundError,
    LoadError,
    ModelNotFoundError,
    VersionNotFoundError,
)
from serving.journey import Journey, current
from serving.messages import (
    DEFAULT_POLICY,
    ClassifyImagesCall,
    ModelSettings,
    PredictCall,
    ReloadConfigCall,
    Target,
    Transition,
    VersionOptions,
    VersionPolicy,
)
from tests.serving.published import publish_tiny
from tests.zoo.test_preprocess import encoded
from zoo.artifact import GOLDEN, write_labels

pytestmark = pytest.mark.openvino

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
PLAIN = VersionOptions(is_tuned=False)


class Loads:
    """The real loader, which remembers what it loaded, and may be told to wait."""

    def __init__(self, decoders):
        self.decoders = decoders
        self.seen = []
        self.live = self.most_live = 0
        self.before = lambda: None

    def __call__(self, settings, version, path):
        self.before()
        servable = Servable(
            settings.name,
            version,
            path,
            options=settings.options_of(version),
            decoders=self.decoders,
        )
        self.seen.append((settings.name, version))
        self.live += 1
        self.most_live = max(self.most_live, self.live)
        close = servable.close

        def closed():
            self.live -= 1
            close()

        servable.close = closed
        return servable


@pytest.fixture
def loads():
    with ThreadPoolExecutor(1) as decoders:
        yield Loads(decoders)


@pytest.fixture
async def repository(tmp_path, loads):
    """Three versions of `tiny` and one of `other`, nothing loaded yet."""
    for scale in (1.0, 2.0, 3.0):
        publish_tiny(tmp_path, scale=scale)
    publish_tiny(tmp_path, "other")
    made = Repository(BasePath(tmp_path, options=PLAIN), loads, drain_limit_s=2.0)
    yield made
    await made.close()


@pytest.fixture
def tiny(tmp_path):
    def settings(policy=DEFAULT_POLICY, name="tiny", **fields):
        fields.setdefault("options", PLAIN)
        return ModelSettings(name, str(tmp_path / "tiny"), policy, **fields)

    return settings


def states(repository, model="tiny"):
    return {each.version: each.state.value for each in repository.status(Target(model)).versions}


async def settled(repository, expected):
    for _ in range(300):
        if states(repository) == expected:
            return
        await asyncio.sleep(0.01)
    assert states(repository) == expected


@pytest.mark.parametrize(
    ("policy", "serving"),
    [
        (VersionPolicy(), (3,)),
        (VersionPolicy(latest=2), (2, 3)),
        (VersionPolicy(latest=9), (1, 2, 3)),
        (VersionPolicy(is_all=True), (1, 2, 3)),
        (VersionPolicy(specific=(1, 3)), (1, 3)),
        (VersionPolicy(specific=(2, 7)), (2,)),
    ],
)
async def test_a_policy_says_which_versions_serve(repository, tiny, policy, serving):
    await repository.replace([tiny(policy)])
    assert repository.versions("tiny") == serving


async def test_a_configuration_replaces_the_whole_one_before(repository, tiny):
    await repository.refresh()
    assert repository.versions("other") == (1,)
    await repository.replace([tiny(VersionPolicy(specific=(1,)))])
    await settled(repository, {3: "END", 1: "AVAILABLE"})
    with pytest.raises(ModelNotFoundError):
        repository.find(Target("other"))
    await repository.replace([])
    with pytest.raises(ModelNotFoundError, match="can be served"):
        repository.find(Target("tiny"))


async def test_what_serves_already_is_not_loaded_again(repository, tiny, loads):
    await repository.replace([tiny(VersionPolicy(specific=(1, 2)))])
    await repository.replace([tiny(VersionPolicy(specific=(2, 3)))])
    assert loads.seen == [("tiny", 2), ("tiny", 1), ("tiny", 3)]


async def test_other_options_mean_another_servable(repository, tiny, loads):
    await repository.replace([tiny()])
    before = repository.find(Target("tiny"))
    options = VersionOptions(is_tuned=False, max_batch_rows=3)
    await repository.replace([tiny(version_options={3: options})])
    after = repository.find(Target("tiny"))
    assert after is not before
    assert after.batching.max_rows == 3
    assert loads.seen == [("tiny", 3)] * 2


async def test_labels_of_a_configuration_point_to_what_serves(repository, tiny):
    await repository.replace(
        [tiny(VersionPolicy(specific=(1, 2)), labels={"stable": 1, "canary": 2})]
    )
    assert repository.find(Target("tiny", label="canary")).version == 2
    with pytest.raises(VersionNotFoundError, match="no version 3; available: 1, 2"):
        await repository.replace([tiny(VersionPolicy(specific=(1, 2)), labels={"stable": 3})])
    # Nothing has changed.
    assert repository.find(Target("tiny", label="stable")).version == 1
    assert repository.find(Target("tiny", label="canary")).version == 2
    await repository.replace([tiny(VersionPolicy(specific=(3,)), labels={"stable": 3})])
    assert repository.find(Target("tiny", label="stable")).version == 3
    with pytest.raises(LabelNotFoundError):
        repository.find(Target("tiny", label="canary"))


async def test_a_label_waits_where_it_is_until_its_new_version_serves(repository, tmp_path):
    write_labels(tmp_path / "tiny", {"stable": 1})
    await repository.refresh()
    damaged = publish_tiny(tmp_path)
    good = tmp_path / "tiny" / ".good"
    shutil.copytree(damaged, good)
    (damaged / GOLDEN).unlink()
    write_labels(tmp_path / "tiny", {"stable": 4})
    await repository.refresh()
    assert repository.find(Target("tiny", label="stable")).version == 1
    assert states(repository)[4] == "END"
    shutil.rmtree(damaged)
    good.rename(damaged)
    await repository.refresh()
    assert repository.find(Target("tiny", label="stable")).version == 4


async def test_a_model_that_does_not_become_available_is_named_with_its_reason(
    repository, tiny, tmp_path
):
    (tmp_path / "tiny" / "3" / GOLDEN).unlink()
    (tmp_path / "empty").mkdir()
    await repository.replace([tiny(VersionPolicy(specific=(2,)))])
    empty = ModelSettings("empty", str(tmp_path / "empty"))
    with pytest.raises(LoadError, match=r"2 servable.*version 3: .*golden.npz is missing.*empty"):
        await repository.replace([tiny(), empty])
    assert repository.find(Target("tiny")).version == 2


@pytest.mark.parametrize(
    ("transition", "most"), [(Transition.AVAILABILITY, 2), (Transition.RESOURCES, 1)]
)
async def test_the_next_version_comes_before_or_after_the_last_one_goes(
    repository, tiny, loads, transition, most
):
    for version in (1, 2, 3):
        await repository.replace([tiny(VersionPolicy(specific=(version,)), transition=transition)])
        await settled(
            repository,
            {each: "AVAILABLE" if each == version else "END" for each in range(1, version + 1)},
        )
    assert loads.most_live == most


async def test_a_model_unloaded_by_hand_stays_so_until_it_is_loaded_by_hand(repository):
    await repository.refresh()
    await repository.unload("tiny")
    assert states(repository) == {3: "END"}
    await repository.refresh()
    with pytest.raises(ModelNotFoundError):
        repository.find(Target("tiny"))
    assert repository.find(Target("other")).version == 1
    await repository.load("tiny")
    assert repository.find(Target("tiny")).version == 3
    with pytest.raises(ModelNotFoundError, match="huge"):
        await repository.load("huge")
    with pytest.raises(ModelNotFoundError, match="huge"):
        await repository.unload("huge")


async def test_loading_by_hand_tries_what_failed_again_and_tells_why(repository, tmp_path):
    await repository.refresh()
    place = publish_tiny(tmp_path)
    golden = (place / GOLDEN).read_bytes()
    (place / GOLDEN).write_bytes(b"")
    with pytest.raises(LoadError, match=r"tiny version 4: .*golden.npz has 0 bytes"):
        await repository.load("tiny")
    assert repository.find(Target("tiny")).version == 3
    (place / GOLDEN).write_bytes(golden)
    await repository.load("tiny")
    assert repository.find(Target("tiny")).version == 4


async def test_a_change_goes_on_when_its_caller_has_no_more_time(repository, tiny, loads):
    import threading
    import time

    gate = threading.Event()
    loads.before = lambda: gate.wait(5)
    administration = Administration(repository, PLAIN)
    with pytest.raises(DeadlineExceededError, match="the change goes on"):
        await administration.reload_config(
            ReloadConfigCall((tiny(),), deadline=time.monotonic() + 0.05)
        )
    gate.set()
    await settled(repository, {3: "AVAILABLE"})


async def test_statistics_tell_what_each_version_has_done(repository, tiny):
    await repository.replace([tiny(VersionPolicy(specific=(1, 3)))])
    service = Service(repository)
    call = PredictCall(Target("tiny"), {"image": IMAGE})
    await service.predict(call)
    await service.predict(call)
    pixels = encoded(np.array([[0, 255], [100, 0]], np.uint8))
    await service.classify_images(ClassifyImagesCall(Target("tiny", 1), (pixels,)))
    with pytest.raises(Exception, match="type float64"):
        await service.predict(PredictCall(Target("tiny"), {"image": IMAGE.astype(float)}))
    (first, last) = service.statistics(None)
    assert (first.version, first.rows, first.success.count) == (1, 1, 1)
    assert (last.version, last.rows, last.batches) == (3, 4, 2)
    assert (last.success.count, last.failure.count) == (2, 1)
    assert [(each.rows, each.execute.count) for each in last.by_rows] == [(2, 2)]
    assert last.success.total_s >= last.execute.total_s > 0
    assert last.last_unix_s > 1.7e9
    assert service.statistics(Target("tiny", 1)) == (first,)
    assert len(service.statistics(Target("tiny"))) == 2
    with pytest.raises(VersionNotFoundError):
        service.statistics(Target("tiny", 2))


@pytest.mark.parametrize("kind", ["tensors", "images"])
async def test_identical_requests_are_answered_from_what_was_kept(repository, tiny, kind):
    options = VersionOptions(is_tuned=False, answers_once=True, cache_bytes=10_000)
    await repository.replace([tiny(options=options)])
    service = Service(repository)
    pixels = encoded(np.array([[0, 255], [100, 0]], np.uint8))

    async def ask():
        journey = Journey()
        current.set(journey)
        if kind == "tensors":
            reply = await service.predict(PredictCall(Target("tiny"), {"image": IMAGE}))
            return journey.outcome, reply.outputs["probabilities"].tolist()
        reply = await service.classify_images(ClassifyImagesCall(Target("tiny"), (pixels,)))
        return journey.outcome, reply.results

    together = await asyncio.gather(*(asyncio.create_task(ask()) for _ in range(3)))
    assert sorted(outcome for outcome, _ in together) == ["direct", "joined", "joined"]
    after = await ask()
    assert after == ("cached", together[0][1])
    (statistics,) = repository.statistics(None)
    assert (statistics.success.count, statistics.batches) == (4, 1)
    # Another version has said nothing yet.
    await repository.replace([tiny(VersionPolicy(specific=(2,)), options=options)])
    assert (await ask())[0] == "direct"


async def test_an_isolated_engine_answers_the_same_and_may_die(repository, tiny):
    import os
    import signal

    from serving.errors import EngineError
    from tests.serving.published import logits_of, softmax

    options = VersionOptions(is_tuned=False, is_isolated=True)
    await repository.replace([tiny(options=options)])
    servable = repository.find(Target("tiny"))
    call = PredictCall(Target("tiny"), {"image": IMAGE})
    expected = softmax(logits_of(IMAGE, 3.0))

    async def ask():
        return (await servable.predict(call)).outputs["probabilities"]

    for answer in await asyncio.gather(*(asyncio.create_task(ask()) for _ in range(9))):
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    worker = servable._loaded.process_id
    assert worker not in (None, os.getpid())
    assert servable.worker_bytes() > 10e6
    # While it does not answer, the event loop goes on, however little its batches take.
    assert servable._rows_here({1: 1e-6, 32: 1e-5}) == 0
    os.kill(worker, signal.SIGSTOP)
    waiting = asyncio.create_task(ask())
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert not waiting.done()
    os.kill(worker, signal.SIGCONT)
    np.testing.assert_allclose(await waiting, expected, atol=1e-5)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(EngineError, match="the next request starts another"):
        await ask()
    np.testing.assert_allclose(await ask(), expected, atol=1e-5)
    worker = servable._loaded.process_id
    await repository.unload("tiny")
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
