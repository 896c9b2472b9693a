"""The log of drift: what is drawn, what is written, and that no request ever suffers for it."""

import json
import logging
import re
import threading
import time

import numpy as np
import pytest

from serving.core import drift
from serving.core.drift import DriftLog, DriftSettings
from serving.core.servable import Servable
from serving.messages import ClassifyImagesCall, PredictCall, Target, VersionOptions
from serving.metrics import Metrics
from tests.serving.published import baseline_of, logits_of, publish_tiny, softmax
from tests.zoo.test_preprocess import encoded
from zoo.artifact import DRIFT, Manifest
from zoo.drift.records import read_window, window_files
from zoo.preprocess import Preprocessing, Scale
from zoo.spec import ImageInput

SIDE = 8
LABELS = ("ant", "bee", "cat")
PREPROCESSING = Preprocessing(
    input=ImageInput(height=SIDE, width=SIDE, channels=1, colour="gray"),
    input_steps=(Scale(scale=1 / 255),),
)


def images(rows, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, SIDE, SIDE, 1), np.uint8)


def inputs(rows, seed=0):
    return PREPROCESSING.to_input(images(rows, seed))


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """The folder of a version with nothing but a baseline in it."""
    place = tmp_path_factory.mktemp("version")
    (place / DRIFT).parent.mkdir(parents=True)
    (place / DRIFT).write_text(baseline_of(images(300), PREPROCESSING).model_dump_json())
    return place


def manifest(labels=LABELS, signatures=()):
    return Manifest.model_construct(
        preprocessing=PREPROCESSING, labels=labels, signatures=dict(signatures)
    )


def longest_list(value):
    if isinstance(value, dict):
        return max(map(longest_list, value.values()), default=0)
    if isinstance(value, list):
        return max([len(value), *map(longest_list, value)])
    return 0


@pytest.fixture
def opened(tmp_path, version):
    """Opens logs, and watches in them; closes what is open at the end."""
    logs = []

    def open_(path=None, metrics=None, share=1.0, **settings):
        settings = {"interval_s": 1000.0, "log": path or tmp_path / "log", **settings}
        logs.append(DriftLog(DriftSettings(**settings), metrics or Metrics()))
        return logs[-1], logs[-1].watch("m", 3, version, manifest(), share)

    yield open_
    for each in logs:
        each.close()


def ask(watch, rows, seed=0, sizes=None):
    """What a servable does after it ran a request."""
    image_nhwc = inputs(rows, seed)
    watch.saw({"image": image_nhwc}, {"logits": logits_of(image_nhwc)}, sizes)


def written(log):
    """The windows that are whole."""
    return [path for path in window_files(log) if not path.name.startswith(".")]


def windows(log):
    return [read_window(path) for path in written(log)]


def counted(metrics, name, **labels):
    text = metrics.render()[0].decode()
    wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    found = re.search(rf"^{name}{{{re.escape(wanted)}}} (\S+)", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def images_counted(metrics, outcome):
    return counted(metrics, "convzoo_drift_images_total", model="m", outcome=outcome, version="3")


# --- what is drawn


def test_each_image_has_the_same_chance_however_requests_are_cut(opened, monkeypatch):
    drawn = []
    monkeypatch.setattr(DriftLog, "offer", lambda self, each: drawn.append(each))
    _, watch = opened(share=0.1)
    image_nhwc = np.zeros((32, 1, 1, 1), np.float32)
    image_nhwc[:, 0, 0, 0] = np.arange(32)
    by_place = np.zeros(32)
    requests = 0
    for rows in [1, 32, 7, 1, 1, 20] * 700:
        watch.saw({"image": image_nhwc[:rows]}, {"logits": np.zeros((rows, 3))}, None)
        requests += rows
    for each in drawn:
        by_place[each.image_nhwc[:, 0, 0, 0].astype(int)] += 1
    # Binomial: within five standard deviations, in all and at the place that only full ones have.
    assert abs(by_place.sum() - requests * 0.1) < 5 * np.sqrt(requests * 0.09)
    assert abs(by_place[31] - 70) < 5 * np.sqrt(63)


def test_a_share_of_nothing_is_not_watched_and_a_model_may_have_its_own(opened, version):
    log, _ = opened(sample=0.5)
    assert log.watch("m", 1, version, manifest(), 0.0) is None
    assert log.watch("m", 1, version, manifest(), None)._share == 0.5
    assert log.watch("m", 1, version, manifest(), 0.25)._share == 0.25


def test_a_version_without_a_baseline_is_told_once_and_served(opened, tmp_path, version, caplog):
    log, _ = opened()
    assert log.watch("m", 1, tmp_path, manifest(), None) is None
    assert "drift of m version 1 is not logged: it has no baseline" in caplog.text
    assert log.watch("m", 2, version, None, None) is None
    assert log.watch("m", 3, version, manifest(labels=("a", "b")), None) is None
    assert "its baseline is of another network" in caplog.text
    (tmp_path / DRIFT).parent.mkdir(parents=True)
    (tmp_path / DRIFT).write_text("{}")
    assert log.watch("m", 4, tmp_path, manifest(), None) is None
    assert "drift.json is not valid" in caplog.text
    assert log.watch("../elsewhere", 1, version, manifest(), None) is None


# --- what is written


def test_a_window_has_every_image_counted_and_none_in_it(opened, tmp_path):
    metrics = Metrics()
    log, watch = opened(metrics=metrics, embeddings=50)
    for seed in range(40):
        ask(watch, 5, seed)
    ask(watch, 2, 99, sizes=[(480, 640), (8, 8)])
    log.close()
    (window,) = windows(tmp_path / "log")
    assert window.images == 202
    assert sum(window.counts["mean"]) == sum(window.classes) == 202
    assert sum(window.counts["width"]) == 2
    assert window.counts["width"][-1] == 1  # 640 is wider than any image of training
    assert window.began < window.ended
    assert images_counted(metrics, "measured") == 202
    # No pixels: nothing in it is as long as an image, and all of it is small.
    (path,) = window_files(tmp_path / "log")
    assert path.stat().st_size < 6000
    assert longest_list(json.loads(path.read_text())) < SIDE * SIDE / 4
    for rows in window.embeddings.values():
        assert rows.dimensions <= SIDE * SIDE / 16
        assert len(rows.array()) == 50


def test_windows_follow_one_another_and_the_oldest_go(opened, tmp_path, monkeypatch, poll):
    monkeypatch.setattr(drift, "EVERY_S", 0.005)
    place = tmp_path / "log"
    (place / "m" / "3").mkdir(parents=True)
    mine = place / "m" / "3" / "20200101T000000Z-mine.json"
    mine.write_text("not a window")
    # As large as the limit of 1 MiB, and older than all others.
    old = place / "gone" / "1" / "20200101T000000Z-000000.json"
    old.parent.mkdir(parents=True)
    old.write_bytes(b" " * (1 << 20))
    _, watch = opened(interval_s=0.01, most_bytes=1 << 20)
    for seed in range(3):
        before = set(written(place))
        ask(watch, 3, seed)
        poll(lambda before=before: set(written(place)) - before)
    poll(lambda: not old.exists())
    assert mine.exists()
    assert [each.images for each in windows(place)] == [3, 3, 3]


def test_a_window_without_images_is_not_written(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(drift, "EVERY_S", 0.005)
    log, _ = opened(interval_s=0.01)
    time.sleep(0.1)
    log.close()
    assert window_files(tmp_path / "log") == []


def test_a_version_that_goes_leaves_its_window(opened, tmp_path, monkeypatch, poll):
    monkeypatch.setattr(drift, "EVERY_S", 0.005)
    log, watch = opened()
    ask(watch, 4)
    watch.close()
    poll(lambda: written(tmp_path / "log"))
    assert not log._watches


# --- that no request suffers


def test_where_nothing_can_be_written_nothing_is_lost(opened, tmp_path, monkeypatch, poll, caplog):
    monkeypatch.setattr(drift, "EVERY_S", 0.005)
    metrics = Metrics()
    place = tmp_path / "log"
    place.write_text("a file where the folder should be")
    _, watch = opened(metrics=metrics, interval_s=0.02)
    ask(watch, 4)

    def failed():
        return counted(
            metrics, "convzoo_drift_windows_total", model="m", outcome="failed", version="3"
        )

    poll(lambda: failed() >= 2)
    ask(watch, 3)
    assert caplog.text.count("nothing can be written to") <= 2
    place.unlink()
    poll(lambda: written(place))
    assert windows(place)[0].images == 7


def test_a_full_disk_is_told_and_no_more(opened, tmp_path, monkeypatch, caplog):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(drift, "write_atomically", full)
    log, watch = opened()
    ask(watch, 4)
    log.close()
    assert "No space left on device; requests are answered all the same" in caplog.text
    assert window_files(tmp_path / "log") == []


def test_what_comes_too_fast_is_dropped_and_counted(opened, monkeypatch):
    metrics = Metrics()
    release, is_measuring = threading.Event(), threading.Event()
    measure = drift.measures.measure

    def slow(*arguments):
        is_measuring.set()
        release.wait(10)
        return measure(*arguments)

    monkeypatch.setattr(drift, "EVERY_S", 0.005)
    monkeypatch.setattr(drift.measures, "measure", slow)
    row_bytes = SIDE * SIDE * 4
    monkeypatch.setattr(drift, "MOST_WAITING_BYTES", 10 * row_bytes)
    log, watch = opened(metrics=metrics)
    ask(watch, 1)
    assert is_measuring.wait(10)
    started = time.monotonic()
    for seed in range(50):
        ask(watch, 1, seed)
    ask(watch, 11)  # more than may ever wait
    assert time.monotonic() - started < 1
    assert images_counted(metrics, "dropped") == 40 + 11
    release.set()
    log.close()
    assert images_counted(metrics, "measured") == 11


def test_of_a_large_request_some_images_are_copied(opened, tmp_path, monkeypatch):
    metrics = Metrics()
    monkeypatch.setattr(drift, "MOST_OF_ONE_BYTES", 7 * SIDE * SIDE * 4)
    log, watch = opened(metrics=metrics)
    ask(watch, 40)
    ask(watch, 7)
    log.close()
    assert images_counted(metrics, "dropped") == 33
    assert windows(tmp_path / "log")[0].images == 14


def test_an_input_that_is_no_number_counts_beyond_all_bins(opened, tmp_path):
    log, watch = opened()
    image_nhwc = inputs(4)
    image_nhwc[1] = np.nan
    image_nhwc[2] = np.inf
    image_nhwc[3] = 1e30
    watch.saw({"image": image_nhwc}, {"probabilities": softmax(logits_of(inputs(4)))}, None)
    log.close()
    (window,) = windows(tmp_path / "log")
    assert window.images == 4
    assert window.counts["mean"][-1] == 3
    assert len(window.embeddings["inputs"].array()) == 2


def test_what_cannot_be_measured_is_counted_and_the_next_is(opened, tmp_path, caplog):
    metrics = Metrics()
    log, watch = opened(metrics=metrics)
    watch.saw({"image": inputs(2)}, {"maps": np.zeros(2)}, None)
    watch.saw({"image": inputs(3)}, {"logits": np.zeros((3, 99))}, None)
    poll_until_empty(log)
    ask(watch, 1)
    log.close()
    assert images_counted(metrics, "failed") == 5
    assert images_counted(metrics, "measured") == 1
    assert windows(tmp_path / "log")[0].images == 1
    assert "m version 3: it gave maps, and none of logits, probabilities" in caplog.text
    assert "m version 3: its answers have shape [3, 99], its baseline 3 classes" in caplog.text


def poll_until_empty(log):
    while log._waiting_bytes:
        time.sleep(0.01)


# --- in a servable


@pytest.mark.openvino
async def test_all_that_a_servable_answers_is_seen(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    place = publish_tiny(tmp_path / "models", side=SIDE, trained_on=images(300))
    log = DriftLog(DriftSettings(log=tmp_path / "log", sample=1.0), Metrics())
    options = VersionOptions(is_tuned=False, cache_bytes=10_000)
    servable = Servable("tiny", 1, place, decoders=None, options=options, drift_log=log)
    try:
        target = Target("tiny")
        await servable.predict(PredictCall(target, {"image": inputs(5)}))
        await servable.predict(PredictCall(target, {"image": inputs(2, 1)}, "logits"))
        # The answer of before is none that the network gave.
        await servable.predict(PredictCall(target, {"image": inputs(5)}))
        picture = encoded(np.zeros((6, 12), np.uint8))
        await servable.classify_images(ClassifyImagesCall(target, (picture,) * 3))
    finally:
        servable.close()
        log.close()
    (window,) = windows(tmp_path / "log")
    assert (window.model, window.version, window.images) == ("tiny", 1, 5 + 2 + 3)
    assert sum(window.counts["aspect"]) == 3
    assert not caplog.records
