"""Candidate and baseline answer for the same images, each as it is served."""

import numpy as np
import pytest

from tests.serving.published import LABELS, publish_tiny
from training.data.sources import NpzSource
from training.gate import Gates, judge
from zoo.artifact import MANIFEST, read_manifest
from zoo.preprocess import Resize

pytestmark = pytest.mark.openvino

ASKED = Gates(least_accuracy=0.0, most_latency_ratio=1000, server=False)


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(3)
    arrays = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = rng.integers(0, 256, (60, 8, 8, 1)).astype(np.uint8)
        arrays[f"y_{part}"] = np.arange(60) % 3
    np.savez(tmp_path / "data.npz", **arrays)
    return NpzSource(data_dir=tmp_path / "data.npz", labels=LABELS)


def found(report, name):
    return next(each.found for each in report.gates if each.name == name)


def accuracy(report, name="accuracy"):
    return float(found(report, name).split("%")[0])


def resize_by(version, method):
    manifest = read_manifest(version)
    (step,) = manifest.preprocessing.pixel_steps
    assert isinstance(step, Resize)
    steps = (step.model_copy(update={"method": method}),)
    preprocessing = manifest.preprocessing.model_copy(update={"pixel_steps": steps})
    changed = manifest.model_copy(update={"preprocessing": preprocessing})
    (version / MANIFEST).write_text(changed.model_dump_json())


@pytest.mark.parametrize(("side", "method"), [(4, "bilinear"), (2, "nearest")])
def test_a_baseline_is_asked_with_its_own_preprocessing(tmp_path, source, side, method):
    candidate = publish_tiny(tmp_path / "models")
    baseline = publish_tiny(tmp_path / "models", side=side)
    resize_by(baseline, method)
    alone = [accuracy(judge(version, None, source, ASKED)) for version in (candidate, baseline)]
    assert alone[0] != alone[1]
    report = judge(candidate, baseline, source, ASKED)
    name = "accuracy against the baseline"
    assert accuracy(report, name) == alone[0]
    change = float(found(report, name).split(", ")[1].split("%")[0])
    assert change == pytest.approx(alone[0] - alone[1], abs=0.02)
    assert report.images == 60
