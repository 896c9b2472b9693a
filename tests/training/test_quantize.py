"""Eight-bit forms: accepted by what they cost, else refused with the layers that suffer most."""

import json

import numpy as np
import pytest

from training import recipe as recipes
from training.run import Run
from zoo.artifact import read_manifest
from zoo.errors import GateFailedError

pytestmark = [pytest.mark.tensorflow, pytest.mark.openvino]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from training.train import train

    run = Run(tmp_path_factory.mktemp("quantize") / "run")
    train(recipes.read("digits_lenet5_modern", ["epochs=6"]), run)
    return run


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    from training.publish import publish

    told = []
    manifest, place = publish(
        run,
        tmp_path_factory.mktemp("models"),
        precision="int8",
        most_drop=0.05,
        talk=told.append,
    )
    return manifest, place, told


def test_an_int8_version_serves_int8_and_says_what_it_costs(run, published):
    manifest, place, told = published
    record = manifest.engines["openvino"]
    assert record.precision == "int8"
    assert record.measured <= record.tolerance
    assert (place / "assets.extra/convzoo/openvino/fp32.xml").is_file()
    report = json.loads((place / "assets.extra/convzoo/report/int8.json").read_bytes())
    assert report["images"] == len(run.sample("validation"))
    assert report["agreement"] > 0.95
    assert any("int8: accuracy" in line for line in told)
    text = (place / record.file).read_text()
    assert "FakeQuantize" in text or 'element_type="i8"' in text
    assert 'precision="I8"' in text or "i8" in text


def test_the_tolerance_of_int8_comes_from_validation_images(published):
    manifest, _, _ = published
    assert 0.05 <= manifest.engines["openvino"].tolerance < 3
    assert manifest.engines["tensorflow"].tolerance == 1e-3


def test_the_int8_form_agrees_with_the_fp32_form_on_what_it_never_saw(run, published):
    from training.openvino import run_ir

    _, place, _ = published
    preprocessing, arrays = run.preprocessing()
    held_out = run.holdout()
    image = preprocessing.to_input(held_out.pixels_nhwc, arrays)
    folder = place / "assets.extra/convzoo/openvino"
    answers = [run_ir(folder / f"{each}.xml", image)["logits"] for each in ("fp32", "int8")]
    assert not np.array_equal(*answers)
    same = answers[0].argmax(-1) == answers[1].argmax(-1)
    assert same.mean() > 0.97


def test_a_form_that_loses_too_much_is_refused_with_its_worst_layers(run, published):
    """No eight-bit form is ten points better than the original."""
    from training.quantize import quantize

    _, place, _ = published
    preprocessing, arrays = run.preprocessing()

    def inputs(name):
        return preprocessing.to_input(run.sample(name).pixels_nhwc, arrays)

    told = []
    with pytest.raises(GateFailedError, match=r"most damaged layers: .* dB\)"):
        quantize(
            place / "assets.extra/convzoo/openvino/fp32.xml",
            inputs("calibration")[:64],
            inputs("validation"),
            run.sample("validation").class_ids,
            most_drop=-0.1,
            talk=told.append,
        )
    assert any("with 1 layers in float" in line for line in told)
    assert any("with 4 layers in float" in line for line in told)


def test_a_version_read_back_is_the_one_that_was_written(published):
    manifest, place, _ = published
    assert read_manifest(place) == manifest
