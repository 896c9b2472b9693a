"""The explainer's bounds: deadlines, queue, callers that go, and what a version cannot give."""

import asyncio
import threading
import time

import numpy as np
import pytest

from serving.core import explain as explains
from serving.core.explain import MOST_WAITING, Explainer
from serving.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    LimitExceededError,
    NotReadyError,
    OverloadedError,
    UnsupportedError,
)
from serving.messages import ExplainCall, Target
from serving.wire.explain_json import decode_layers, encode_layers
from tests.zoo.explain.by_hand import SIZE, HandProbe
from zoo.artifact import KERAS_MODEL, Architecture, Manifest
from zoo.preprocess import ImageLimits, Pad, Preprocessing, Resize, Scale
from zoo.spec import ImageInput

TARGET = Target("hand")


def preprocessing(*pixel_steps):
    shape = ImageInput(height=SIZE, width=SIZE, channels=1, colour="gray", value_range=(0, 1))
    return Preprocessing(input=shape, pixel_steps=pixel_steps, input_steps=(Scale(scale=1 / 255),))


def manifest():
    return Manifest(
        model="hand",
        version=1,
        architecture=Architecture(name="hand"),
        preprocessing=preprocessing(Resize(height=SIZE, width=SIZE)),
        labels=("ant", "bee"),
        signatures={},
        engines={},
        default_engine="openvino",
    )


@pytest.fixture
def image():
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def explainer(tmp_path):
    place = tmp_path / KERAS_MODEL
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    made = Explainer("hand", 1, tmp_path, manifest(), {}, ImageLimits())
    made._maps = HandProbe()
    yield made
    made.close()


def call(image, method="occlusion", **more):
    return ExplainCall(TARGET, method, image, **more)


async def test_maps_are_explained_without_any_framework(explainer, image):
    found = await explainer.explain(call(image, explained="bee", options={"patch": 2}))
    assert (found.class_id, found.label, found.layer) == (1, "bee", "relu1")
    assert found.arrays["drop"].shape == (SIZE, SIZE)
    assert found.timings.execute_s > 0


async def test_a_picture_is_drawn_when_one_is_asked_for(explainer, image):
    found = await explainer.explain(call(image, is_picture=True))
    assert found.picture.startswith(b"\x89PNG")
    assert found.arrays == {}


async def test_a_deadline_that_has_passed_stops_an_explanation_between_two_calls(explainer, image):
    probe = explainer._maps
    probe.feature_maps = slow(probe.feature_maps, 0.05)
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        await explainer.explain(
            call(image, options={"patch": 1, "stride": 1}, deadline=time.monotonic() + 0.08)
        )
    assert time.monotonic() - started < 5
    await asyncio.sleep(0.2)
    made = probe.calls
    await asyncio.sleep(0.2)
    assert probe.calls == made  # the thread has stopped, not only the caller


async def test_what_came_too_late_is_never_begun(explainer, image):
    with pytest.raises(DeadlineExceededError):
        await explainer.explain(call(image, deadline=time.monotonic() - 1))
    assert explainer._maps.calls == 0


async def test_a_full_queue_refuses_at_once(explainer, image):
    gate = threading.Event()
    probe = explainer._maps
    original = probe.feature_maps

    def held(*args):
        gate.wait(10)
        return original(*args)

    probe.feature_maps = held
    waiting = [asyncio.create_task(explainer.explain(call(image))) for _ in range(MOST_WAITING)]
    await asyncio.sleep(0.05)
    with pytest.raises(OverloadedError, match="at most 8 may"):
        await explainer.explain(call(image))
    gate.set()
    assert len(await asyncio.gather(*waiting)) == MOST_WAITING


async def test_a_caller_that_has_gone_frees_the_thread(explainer, image):
    probe = explainer._maps
    probe.feature_maps = slow(probe.feature_maps, 0.05)
    task = asyncio.create_task(explainer.explain(call(image)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)
    made = probe.calls
    await asyncio.sleep(0.2)
    assert probe.calls == made


async def test_what_has_not_begun_when_its_version_goes_is_refused_and_not_forgotten(
    explainer, image
):
    gate = threading.Event()
    probe = explainer._maps
    original = probe.feature_maps

    def held(*args):
        gate.wait(10)
        return original(*args)

    probe.feature_maps = held
    began, waits = (asyncio.create_task(explainer.explain(call(image))) for _ in range(2))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(asyncio.to_thread(explainer.close))
    with pytest.raises(NotReadyError, match="unloaded"):
        await waits
    gate.set()
    assert (await began).layer == "relu1"
    await closing


def slow(function, seconds):
    def slowed(*args):
        time.sleep(seconds)
        return function(*args)

    return slowed


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"method": "x"}, "No method 'x'"),
        ({"layer": "zz"}, "No layer 'zz'"),
        ({"explained": "cow"}, "No label 'cow'; there are ant, bee"),
        ({"explained": 7}, "There is no class 7"),
        ({"options": {"patch": 99}}, "does not fit"),
        ({"image": b"nothing"}, "are no JPEG, PNG, WEBP or BMP"),
        ({"image": b""}, "looks at an image; send one"),
    ],
)
async def test_what_cannot_be_asked_is_an_invalid_request(explainer, image, more, text):
    fields = {"image": image, **more}
    with pytest.raises(InvalidRequestError, match=text):
        await explainer.explain(call(**fields))


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (ImageLimits(max_pixels=SIZE * SIZE - 1), "at most 63 are taken"),
        (ImageLimits(max_bytes=10), "at most 10 are taken"),
    ],
)
async def test_an_image_keeps_to_the_servers_limits(tmp_path, image, limits, text):
    place = tmp_path / KERAS_MODEL
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    explainer = Explainer("hand", 1, tmp_path, manifest(), {}, limits)
    explainer._maps = HandProbe()
    with pytest.raises(InvalidRequestError, match=text):
        await explainer.explain(call(image))
    explainer.close()


async def test_names_have_a_longest_length(explainer, image):
    with pytest.raises(LimitExceededError):
        await explainer.explain(call(image, layer="x" * 1000))


async def test_without_tensorflow_gradients_say_what_to_install(explainer, image, monkeypatch):
    monkeypatch.setattr(explains, "find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match=r"convzoo\[train\]"):
        await explainer.explain(call(image, "saliency"))
    layers = await explainer.layers(None)
    problems = {each.name: each.problem for each in layers.methods}
    assert "TensorFlow" in problems["saliency"]
    assert problems["occlusion"] == ""


async def test_a_saved_model_from_elsewhere_cannot_be_looked_into(tmp_path, image):
    explainer = Explainer("other", 1, tmp_path, None, {}, ImageLimits())
    with pytest.raises(UnsupportedError, match="says nothing of its layers"):
        await explainer.explain(call(image))
    explainer.close()


def test_the_size_that_images_must_have_is_told_where_nothing_resizes_them():
    assert explains._image_size(preprocessing(Pad(top=2, bottom=1, left=3, right=0))) == (5, 5)
    assert explains._image_size(preprocessing(Resize(height=8, width=8))) is None


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        ({"data": {"source": "mnist"}}, 28),
        ({"data": {"source": "digits"}}, 8),
        ({"data": {"source": "idx"}}, None),
        ({"data": "digits"}, None),
        ({}, None),
    ],
)
async def test_how_its_digits_were_framed_is_told_where_the_recipe_names_the_data(
    explainer, recipe, field
):
    explainer._manifest = explainer._manifest.model_copy(update={"recipe": recipe})
    found = decode_layers(encode_layers(await explainer.layers(None)))
    assert (found.framing.field if found.framing else None) == field


def test_an_eight_bit_version_is_explained_by_its_full_precision(tmp_path):
    (tmp_path / "int8.xml").touch()
    assert explains._full_precision(tmp_path / "int8.xml") == tmp_path / "int8.xml"
    (tmp_path / "fp32.xml").touch()
    assert explains._full_precision(tmp_path / "int8.xml") == tmp_path / "fp32.xml"
