"""Batch sizes and streams are measured, chosen, kept and recalled."""

import json
import time

import numpy as np
import pytest

from serving.core import tuning
from serving.core.servable import Servable
from serving.messages import VersionOptions
from tests.serving.published import publish_tiny
from zoo.artifact import CACHE, verify

IMAGES = {"image": np.arange(12, dtype=np.float32).reshape(3, 2, 2, 1)}


def far():
    return time.monotonic() + 60


@pytest.mark.parametrize(
    ("found", "rows"),
    [
        ({1: 0.010}, 1),
        ({1: 0.010, 2: 0.012, 4: 0.014}, 4),
        ({1: 0.010, 2: 0.022, 4: 0.050}, 1),
        # 3 % more is not worth twice the wait.
        ({1: 0.010, 2: 0.0194}, 1),
        ({1: 0.010, 2: 0.012, 4: 0.0239}, 2),
    ],
)
def test_the_smallest_batch_that_is_worth_it_is_chosen(found, rows):
    assert tuning.best(found, 1)[0] == rows


def test_every_size_is_measured_with_real_rows_repeated():
    seen = []
    found = tuning.measure(
        lambda inputs: seen.append(inputs["image"]),
        IMAGES,
        latency_target_s=1.0,
        streams=1,
        until=far(),
    )
    assert tuple(found) == tuning.SIZES
    assert {len(each) for each in seen} == set(tuning.SIZES)
    np.testing.assert_array_equal(seen[-1][3:6], IMAGES["image"])


def test_a_batch_that_takes_longer_than_the_target_is_not_used():
    found = tuning.measure(
        lambda inputs: time.sleep(0.015 * len(inputs["image"])),
        IMAGES,
        latency_target_s=0.1,
        streams=1,
        until=far(),
    )
    assert tuple(found) == (1, 2, 4)


def test_measuring_ends_with_its_budget():
    found = tuning.measure(
        lambda inputs: time.sleep(0.01),
        IMAGES,
        latency_target_s=1.0,
        streams=2,
        until=time.monotonic(),
    )
    assert tuple(found) == (1,)


def test_a_fingerprint_stands_for_network_cores_and_streams():
    one = tuning.fingerprint("openvino", "a", 2, None)
    assert one == tuning.fingerprint("openvino", "a", 2, None)
    others = [("openvino", "b", 2, None), ("openvino", "a", 4, None), ("openvino", "a", 2, 2)]
    assert one not in {tuning.fingerprint(*each) for each in others}


def test_what_was_measured_is_kept_for_its_target_and_damage_is_ignored(tmp_path, caplog):
    (tmp_path / CACHE).parent.mkdir(parents=True)
    tuned = tuning.Tuned(8, 2, {1: 0.001, 8: 0.004})
    tuning.write(tmp_path, "x", 0.5, tuned)
    found = tuning.read(tmp_path, "x", 0.5)
    assert found == tuning.Tuned(8, tuning.cores() and min(2, tuning.cores()), tuned.batch_s, True)
    assert found.row_s == pytest.approx(0.0005)
    assert tuning.read(tmp_path, "x", 0.1) is None
    assert tuning.read(tmp_path, "y", 0.5) is None
    for damaged in ("{", "[]", '{"latency_target_s": 0.5}'):
        (tmp_path / CACHE / "tuning-x.json").write_text(damaged)
        assert tuning.read(tmp_path, "x", 0.5) is None
    assert "is ignored" in caplog.text


@pytest.mark.openvino
def test_a_version_is_measured_once_and_stays_as_it_was_published(tmp_path):
    place = publish_tiny(tmp_path)

    def load(**options):
        servable = Servable("tiny", 1, place, decoders=None, options=VersionOptions(**options))
        servable.close()
        return servable

    first, second = load(), load()
    assert (first.tuned.is_cached, second.tuned.is_cached) == (False, True)
    assert second.tuned.batch_s == first.tuned.batch_s
    assert second.batching.max_rows == first.batching.max_rows
    verify(place)
    assert len(list((place / CACHE).glob("tuning-*.json"))) == 1
    assert load(is_tuned=False).tuned.batch_s.keys() == {1}
    fixed = load(max_batch_rows=3, streams=1)
    assert (fixed.batching.max_rows, fixed.batching.streams) == (3, 1)
    assert load(batch_sizes=(1, 6)).batching.max_rows == 6


@pytest.mark.openvino
def test_a_folder_that_cannot_be_written_is_measured_and_serves(tmp_path, monkeypatch):
    place = publish_tiny(tmp_path)

    def refuse(path, data):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tuning, "write_atomically", refuse)
    servable = Servable("tiny", 1, place, decoders=None)
    assert not servable.tuned.is_cached
    servable.close()


@pytest.mark.openvino
def test_what_is_kept_is_json_for_people(tmp_path):
    place = publish_tiny(tmp_path)
    Servable("tiny", 1, place, decoders=None).close()
    (kept,) = (place / CACHE).glob("tuning-*.json")
    assert set(json.loads(kept.read_text())) == {
        "max_rows",
        "streams",
        "batch_s",
        "latency_target_s",
    }
