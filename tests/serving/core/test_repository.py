"""Versions come, go and fail without a request noticing; run on a real, tiny published network."""

import asyncio
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.sources import BasePath, Configured
from serving.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    LabelNotFoundError,
    LoadError,
    ModelNotFoundError,
    NotReadyError,
    SignatureNotFoundError,
    VersionNotFoundError,
)
from serving.messages import (
    ClassifyImagesCall,
    ModelSettings,
    PredictCall,
    Target,
    VersionOptions,
)
from tests.serving.published import logits_of, publish_tiny, softmax
from zoo.artifact import GOLDEN, MANIFEST, write_labels

pytestmark = pytest.mark.openvino

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)


@pytest.fixture
async def repository(tmp_path):
    with ThreadPoolExecutor(1) as decoders:

        def load(settings, version, path):
            options = settings.options_of(version)
            return Servable(settings.name, version, path, options=options, decoders=decoders)

        options = VersionOptions(is_tuned=False)
        made = Repository(BasePath(tmp_path, options=options), load, drain_limit_s=2.0)
        yield made
        await made.close()


def states(repository, model="tiny"):
    return {each.version: each.state.value for each in repository.status(Target(model)).versions}


async def settled(repository, expected):
    for _ in range(200):
        if states(repository) == expected:
            return
        await asyncio.sleep(0.01)
    assert states(repository) == expected


async def test_the_network_answers_what_it_was_published_with(repository, tmp_path):
    publish_tiny(tmp_path)
    await repository.refresh()
    servable = repository.find(Target("tiny"))
    reply = await servable.predict(PredictCall(Target("tiny"), {"image": IMAGE}))
    np.testing.assert_allclose(reply.outputs["probabilities"], softmax(logits_of(IMAGE)), atol=1e-6)
    assert (reply.version, reply.signature, list(reply.outputs)) == (
        1,
        "serving_default",
        ["probabilities"],
    )
    reply = await servable.predict(PredictCall(Target("tiny"), {"image": IMAGE}, "logits"))
    np.testing.assert_allclose(reply.outputs["logits"], logits_of(IMAGE), atol=1e-6)


async def test_a_new_version_takes_over_and_the_old_one_goes(repository, tmp_path):
    publish_tiny(tmp_path)
    await repository.refresh()
    publish_tiny(tmp_path, scale=2.0)
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 2
    await settled(repository, {2: "AVAILABLE", 1: "END"})


async def test_no_request_fails_while_versions_change(repository, tmp_path):
    publish_tiny(tmp_path)
    await repository.refresh()
    service = Service(repository)
    versions, stop = [], asyncio.Event()

    async def ask():
        while not stop.is_set():
            reply = await service.predict(PredictCall(Target("tiny"), {"image": IMAGE}))
            expected = softmax(logits_of(IMAGE, reply.version))
            np.testing.assert_allclose(reply.outputs["probabilities"], expected, atol=1e-5)
            versions.append(reply.version)
            await asyncio.sleep(0)

    async def change():
        for scale in range(2, 8):
            await asyncio.to_thread(publish_tiny, tmp_path, scale=float(scale))
            await repository.refresh()
            await asyncio.sleep(0.02)
        stop.set()

    await asyncio.gather(change(), *(ask() for _ in range(8)))
    assert set(versions) == {1, 2, 3, 4, 5, 6, 7}
    assert versions == sorted(versions)


@pytest.mark.parametrize("kind", ["bytes", "answers", "manifest", "network"])
async def test_a_corrupt_version_is_refused_with_its_reason_and_the_old_one_serves(
    repository, tmp_path, kind
):
    publish_tiny(tmp_path)
    await repository.refresh()
    place = publish_tiny(tmp_path, scale=2.0, golden_scale=2.1 if kind == "answers" else None)
    if kind == "bytes":
        (place / GOLDEN).write_bytes(b"PK" + b"\0" * 100)
    if kind == "manifest":
        (place / "assets.extra/convzoo/manifest.json").write_text("{")
    if kind == "network":
        (place / "assets.extra/convzoo/openvino/fp32.bin").unlink()
    await repository.refresh()
    words = {
        "bytes": "golden.npz has",
        "answers": "differ from Keras's by",
        "manifest": "manifest.json of version 2 is not valid",
        "network": "fp32.bin is missing",
    }
    refused = repository.status(Target("tiny", version=2)).versions[0]
    assert refused.state.value == "END"
    assert words[kind] in refused.error_message
    assert repository.find(Target("tiny")).version == 1
    await repository.refresh()  # and it is not tried again and again
    assert repository.find(Target("tiny")).version == 1


async def test_at_start_the_newest_version_that_works_serves(repository, tmp_path):
    publish_tiny(tmp_path)
    place = publish_tiny(tmp_path)
    (place / GOLDEN).unlink()
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1
    assert states(repository) == {2: "END", 1: "AVAILABLE"}


async def test_a_version_that_is_replaced_by_a_good_one_is_tried_again(repository, tmp_path):
    place = publish_tiny(tmp_path)
    good = tmp_path / "tiny" / ".good"
    shutil.copytree(place, good)
    (place / GOLDEN).unlink()
    await repository.refresh()
    with pytest.raises(ModelNotFoundError, match=r"version 1: .*golden.npz is missing"):
        repository.find(Target("tiny"))
    shutil.rmtree(place)
    good.rename(place)
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1


async def test_labels_keep_their_versions_loaded(repository, tmp_path):
    publish_tiny(tmp_path)
    publish_tiny(tmp_path)
    write_labels(tmp_path / "tiny", {"stable": 1})
    await repository.refresh()
    assert repository.find(Target("tiny", label="stable")).version == 1
    assert repository.find(Target("tiny")).version == 2
    with pytest.raises(LabelNotFoundError, match="no version label 'canary'; there are: stable"):
        repository.find(Target("tiny", label="canary"))
    write_labels(tmp_path / "tiny", {"stable": 2})
    await repository.refresh()
    await settled(repository, {2: "AVAILABLE", 1: "END"})


async def test_a_label_that_cannot_move_is_told_once(repository, tmp_path, caplog):
    for _ in range(3):
        publish_tiny(tmp_path)
    write_labels(tmp_path / "tiny", {"stable": 1})
    await repository.refresh()
    write_labels(tmp_path / "tiny", {"stable": 2})
    shutil.rmtree(tmp_path / "tiny" / "2")
    for _ in range(3):
        await repository.refresh()
    assert repository.find(Target("tiny", label="stable")).version == 1
    told = [each.getMessage() for each in caplog.records if "label" in each.getMessage()]
    assert told == ["label stable of tiny points to version 2, which does not serve; it stays on 1"]


async def test_what_is_not_there_is_named_with_what_is(repository, tmp_path):
    publish_tiny(tmp_path)
    await repository.refresh()
    with pytest.raises(ModelNotFoundError, match="No model 'huge'; this server has tiny"):
        repository.find(Target("huge"))
    with pytest.raises(VersionNotFoundError, match="no version 9; available: 1"):
        repository.find(Target("tiny", version=9))


async def test_a_base_path_that_goes_away_for_a_moment_unloads_nothing(repository, tmp_path):
    publish_tiny(tmp_path)
    await repository.refresh()
    tmp_path.rename(tmp_path.with_suffix(".away"))
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1
    tmp_path.with_suffix(".away").rename(tmp_path)


@pytest.fixture
def configured(tmp_path):
    """Makes the source of one model by name, whose base path is `tmp_path / "tiny"`."""
    return Configured([ModelSettings("tiny", str(tmp_path / "tiny"))])


async def test_a_configured_base_path_that_goes_away_for_a_moment_unloads_nothing(
    repository, tmp_path, configured, caplog
):
    publish_tiny(tmp_path)
    await repository.replace(configured.models().values())
    (tmp_path / "tiny").rename(tmp_path / "away")
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1
    assert "tiny cannot be read: No such file or directory; what serves goes on" in caplog.text
    (tmp_path / "away").rename(tmp_path / "tiny")
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1


async def test_a_model_without_versions_has_no_status_and_says_why(
    repository, tmp_path, configured
):
    with pytest.raises(LoadError, match="tiny cannot be read: No such file"):
        await repository.replace(configured.models().values())
    with pytest.raises(ModelNotFoundError, match="tiny cannot be read: No such file"):
        repository.status(Target("tiny"))
    (tmp_path / "tiny").mkdir()
    await repository.refresh()
    with pytest.raises(ModelNotFoundError, match=f"there is none in {tmp_path / 'tiny'}"):
        repository.status(Target("tiny"))
    (why,) = repository.empty().values()
    assert f"there is none in {tmp_path / 'tiny'}" in why
    assert [(each.model, each.versions) for each in repository.statuses()] == [("tiny", ())]
    publish_tiny(tmp_path)
    await repository.refresh()
    assert [each.version for each in repository.status(Target("tiny")).versions] == [1]
    assert repository.empty() == {}


@pytest.mark.parametrize("late", [MANIFEST, "assets.extra/convzoo/openvino/fp32.bin"])
async def test_a_version_that_is_still_being_copied_waits_for_what_is_missing(
    repository, tmp_path, late
):
    publish_tiny(tmp_path)
    publish_tiny(tmp_path, scale=2.0)
    file = tmp_path / "tiny" / "2" / late
    whole = file.read_bytes()
    file.unlink()
    if late != MANIFEST:
        file.write_bytes(whole[:7])
    for _ in range(2):
        await repository.refresh()
        assert repository.find(Target("tiny")).version == 1
    reason = repository.status(Target("tiny", version=2)).versions[0].error_message
    assert file.name in reason
    file.write_bytes(whole)
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 2


async def test_an_empty_folder_starts_no_engine(repository, tmp_path):
    (tmp_path / "tiny" / "1").mkdir(parents=True)
    started = time.monotonic()
    await repository.refresh()
    assert time.monotonic() - started < 1  # TensorFlow alone takes longer to import
    (status,) = repository.status(Target("tiny")).versions
    assert (
        status.error_message == "There is no SavedModel in its folder: saved_model.pb is missing."
    )


async def test_what_may_not_be_read_is_told_without_the_servers_paths(
    repository, tmp_path, monkeypatch, caplog
):
    publish_tiny(tmp_path)
    (tmp_path / "backup").mkdir()
    # A test that runs as root may read everything.
    scan, read = os.scandir, Path.read_bytes

    def scandir(path):
        if str(path).endswith("backup"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    def read_bytes(path):
        if path.name == "manifest.json":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with monkeypatch.context() as closed:
        closed.setattr(Path, "read_bytes", read_bytes)
        await repository.refresh()
    (status,) = repository.status(Target("tiny")).versions
    assert status.error_message == "manifest.json cannot be read: Permission denied."
    assert "Traceback" not in caplog.text
    assert "backup cannot be read: Permission denied" in caplog.text
    # Later than it was: the clock of files stands still for some milliseconds at a time.
    later = (tmp_path / "tiny" / "1" / MANIFEST).stat().st_mtime + 1
    os.utime(tmp_path / "tiny" / "1" / MANIFEST, (later, later))
    await repository.refresh()
    assert repository.find(Target("tiny")).version == 1


async def test_a_repository_that_is_halted_begins_no_load(repository, tmp_path):
    publish_tiny(tmp_path)
    repository.halt()
    await repository.refresh()
    with pytest.raises(ModelNotFoundError):
        repository.find(Target("tiny"))


async def test_a_server_of_whose_models_none_serves_is_not_ready(repository, tmp_path):
    service = Service(repository)
    service.open()
    assert service.is_ready()  # it waits for its first model
    publish_tiny(tmp_path)
    (tmp_path / "tiny" / "1" / GOLDEN).write_bytes(b"")
    await repository.refresh()
    assert not service.is_ready()
    publish_tiny(tmp_path)
    await repository.refresh()
    assert service.is_ready()
    await repository.unload("tiny")
    assert service.is_ready()  # as it was asked to


async def test_a_model_that_is_removed_is_unloaded(repository, tmp_path):
    publish_tiny(tmp_path)
    await repository.refresh()
    shutil.rmtree(tmp_path / "tiny")
    await repository.refresh()
    await settled(repository, {1: "END"})


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        ({"inputs": {}}, InvalidRequestError, r"Missing but required: \{image\}"),
        ({"inputs": {"image": IMAGE, "z": IMAGE}}, InvalidRequestError, r"Sent extra: \{z\}"),
        (
            {"inputs": {"image": IMAGE[0]}},
            InvalidRequestError,
            r"shape \[2, 2, 1\]; the model takes \[N, 2, 2, 1\]",
        ),
        (
            {"inputs": {"image": IMAGE.astype(float)}},
            InvalidRequestError,
            "type float64; the model takes float32",
        ),
        ({"inputs": {"image": IMAGE[:0]}}, InvalidRequestError, "The batch is empty"),
        (
            {"inputs": {"image": IMAGE}, "signature": "q"},
            SignatureNotFoundError,
            "'q'; this model has logits, serving_default",
        ),
        (
            {"inputs": {"image": IMAGE}, "outputs": ("z",)},
            InvalidRequestError,
            "alias not found in signature: z",
        ),
        (
            {"inputs": {"image": IMAGE}, "outputs": ("probabilities",) * 2},
            InvalidRequestError,
            "duplicate",
        ),
        (
            {"inputs": {"image": IMAGE}, "deadline": 1.0},
            DeadlineExceededError,
            "deadline had passed",
        ),
    ],
)
async def test_a_request_that_does_not_fit_says_why_and_the_next_is_answered(
    repository, tmp_path, call, kind, words
):
    publish_tiny(tmp_path)
    await repository.refresh()
    service = Service(repository)
    with pytest.raises(kind, match=words):
        await service.predict(PredictCall(Target("tiny"), **call))
    await service.predict(PredictCall(Target("tiny"), {"image": IMAGE}))


async def test_images_are_classified_best_first(repository, tmp_path):
    from tests.zoo.test_preprocess import encoded

    publish_tiny(tmp_path)
    await repository.refresh()
    service = Service(repository)
    pixels = np.array([[0, 255], [100, 0]], np.uint8)
    call = ClassifyImagesCall(Target("tiny"), (encoded(pixels), encoded(pixels[::-1])), top_k=2)
    reply = await service.classify_images(call)
    first = softmax(logits_of(pixels[None, :, :, None].astype(np.float32) / 255))[0]
    assert reply.results[0][0].probability == pytest.approx(first.max(), abs=1e-5)
    assert reply.results[0][0].class_id == first.argmax()
    with pytest.raises(InvalidRequestError, match="Image 1: These 3 bytes are no"):
        await service.classify_images(
            ClassifyImagesCall(Target("tiny"), (encoded(pixels), b"abc"), top_k=2)
        )
    with pytest.raises(InvalidRequestError, match="top_k is 0; this model has 3 classes"):
        await service.classify_images(ClassifyImagesCall(Target("tiny"), (b"x",), top_k=0))


async def test_photos_are_turned_for_versions_that_were_trained_so(repository, tmp_path):
    from tests.zoo.test_preprocess import encoded, noted

    publish_tiny(tmp_path)
    publish_tiny(tmp_path, "upright", upright=True)
    await repository.refresh()
    service = Service(repository)
    pixels = np.array([[0, 255], [100, 0]], np.uint8)
    phone = noted(pixels, 6)

    async def classified(model, image):
        reply = await service.classify_images(ClassifyImagesCall(Target(model), (image,)))
        return reply.results[0]

    # A quarter turn to the right.
    turned = await classified("tiny", encoded(np.ascontiguousarray(np.rot90(pixels, -1))))
    assert await classified("upright", phone) == turned
    assert await classified("tiny", phone) == await classified("tiny", encoded(pixels)) != turned


async def test_a_draining_server_refuses_what_is_new(repository, tmp_path):
    publish_tiny(tmp_path)
    await repository.refresh()
    service = Service(repository)
    assert not service.is_ready()
    service.open()
    assert service.is_ready()
    service.drain()
    assert not service.is_ready()
    with pytest.raises(NotReadyError, match="stopping"):
        await service.predict(PredictCall(Target("tiny"), {"image": IMAGE}))


@pytest.mark.parametrize("is_isolated", [False, True])
async def test_a_precision_that_this_processor_lacks_is_told_with_the_state(
    is_isolated, tmp_path, caplog
):
    import openvino as ov

    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in ("bf16", "fp16"):
        publish_tiny(tmp_path, precision, precision=precision)
    options = VersionOptions(is_tuned=False, is_isolated=is_isolated)
    with ThreadPoolExecutor(1) as decoders:

        def load(settings, version, path):
            return Servable(settings.name, version, path, options=options, decoders=decoders)

        repository = Repository(BasePath(tmp_path, options=options), load, drain_limit_s=2.0)
        await repository.refresh()
        for precision in ("bf16", "fp16"):
            (status,) = repository.status(Target(precision)).versions
            assert (status.state.value, status.error_code) == ("AVAILABLE", "OK")
            if precision.upper() in capabilities:
                assert status.error_message == ""
            else:
                assert status.error_message.startswith(f"Computes in fp32: {precision} needs")
                assert f"{precision} version 1: {status.error_message}" in caplog.text
            call = PredictCall(Target(precision), {"image": IMAGE}, "logits")
            reply = await repository.find(Target(precision)).predict(call)
            np.testing.assert_allclose(reply.outputs["logits"], logits_of(IMAGE), atol=0.02)
        await repository.close()


async def test_a_precision_of_a_later_release_is_refused_by_name(repository, tmp_path):
    publish_tiny(tmp_path, precision="fp4")
    await repository.refresh()
    (status,) = repository.status(Target("tiny")).versions
    assert status.state.value == "END"
    assert "precision 'fp4'; this release knows fp32, bf16, fp16, int8" in status.error_message
