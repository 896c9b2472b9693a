"""Fewer bits: accepted by what they cost, else refused with what would help."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from training import recipe as recipes
from training.run import Run
from zoo.artifact import EngineRecord, read_golden, read_manifest
from zoo.errors import GateFailedError, UsageError

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


def test_too_few_validation_images_are_told_before_the_work():
    from pathlib import Path

    from training.quantize import halve, quantize

    some = np.zeros((7, 8, 8, 1), np.float32)
    words = r"7 validation images cannot show that {} costs at most 0\.50%; 765 with"
    # No such file: nothing is read before.
    with pytest.raises(GateFailedError, match=words.format("int8")):
        quantize(Path("none.xml"), some, some, np.zeros(7, np.int64))
    with pytest.raises(GateFailedError, match=words.format("bf16")):
        halve(Path("none.xml"), "bf16", some, np.zeros(7, np.int64))


def test_a_version_read_back_is_the_one_that_was_written(published):
    manifest, place, _ = published
    assert read_manifest(place) == manifest


# --- Sixteen bits ---------------------------------------------------------------------------------


def has(capability):
    import openvino as ov

    return capability in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize(("precision", "capability"), [("bf16", "BF16"), ("fp16", "FP16")])
def test_sixteen_bits_are_published_where_the_processor_has_them(
    precision, capability, run, published, tmp_path
):
    from serving.engines.openvino import OpenVINOModel
    from training.openvino import require, run_ir
    from training.publish import publish

    if not has(capability):
        with pytest.raises(UsageError, match=rf"{precision} needs .* OpenVINO finds .*FP32"):
            publish(run, tmp_path, precision=precision)
        assert not list(tmp_path.iterdir())
        with pytest.raises(UsageError, match=r"fp32, .*int8 work here"):
            require(precision)
        return
    told = []
    manifest, place = publish(run, tmp_path, precision=precision, most_drop=0.05, talk=told.append)
    record = manifest.engines["openvino"]
    assert (record.precision, record.file) == (precision, "assets.extra/convzoo/openvino/fp32.xml")
    assert 1e-4 < record.measured <= record.tolerance < 1  # it does compute in fewer bits
    report = json.loads((place / f"assets.extra/convzoo/report/{precision}.json").read_bytes())
    assert (report["precision"], report["in_float"]) == (precision, [])
    assert report["agreement"] > 0.95
    assert any(line.startswith(f"{precision}: accuracy") for line in told)

    # The server computes in it, too.
    inputs, golden = read_golden(place)
    model = OpenVINOModel(place, manifest)
    found = model.run("logits", inputs)["logits"]
    assert model.note == ""
    model.close()
    expected = run_ir(place / record.file, inputs["image"], precision)["logits"]
    np.testing.assert_allclose(found, expected, atol=record.tolerance * golden["logits"].std())
    assert np.abs(found - golden["logits"]).max() > 1e-4 * golden["logits"].std()


def test_sixteen_bits_that_cost_too_much_are_refused(run, published):
    from training.quantize import halve

    if not has("BF16"):
        pytest.skip("this processor has no BF16")
    _, place, _ = published
    preprocessing, arrays = run.preprocessing()
    validation = run.sample("validation")
    with pytest.raises(GateFailedError, match=r"bf16 changes the accuracy by .* at most \+10.00%"):
        halve(
            place / "assets.extra/convzoo/openvino/fp32.xml",
            "bf16",
            preprocessing.to_input(validation.pixels_nhwc, arrays),
            validation.class_ids,
            most_drop=-0.1,
        )


# A processor that OpenVINO takes for an older one: what it has no instructions for is not used.
OLDER = {"OV_CPU_MAX_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def older(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | OLDER,
    )


def test_publishing_in_bf16_on_an_older_processor_is_refused_at_once(run, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "zoo.command", "publish", str(run.path)),
            *("--base-path", str(tmp_path / "models"), "--precision", "bf16"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | OLDER,
    )
    assert done.returncode == 2, done.stderr
    assert "bf16 needs AVX512-BF16" in done.stderr
    assert "OpenVINO finds FP32, INT8" in done.stderr
    assert "fp32, int8 work here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models").exists()


SERVED = """
import sys
from pathlib import Path
import numpy as np
from serving.engines.openvino import OpenVINOModel
from training.openvino import run_ir
from zoo.artifact import EngineRecord, read_golden, read_manifest
place = Path(sys.argv[1])
manifest = read_manifest(place)
record = EngineRecord.model_validate_json(sys.argv[2])
manifest = manifest.model_copy(update={"engines": {"openvino": record}})
inputs, golden = read_golden(place)
model = OpenVINOModel(place, manifest)
found = model.run("logits", inputs)["logits"]
print(np.abs(found - golden["logits"]).max() / golden["logits"].std())
print(model.note)
"""


def test_an_older_processor_serves_bf16_in_fp32_and_says_so(published):
    """Published where there is bf16, and served where there is none."""
    manifest, place, _ = published
    record = EngineRecord(
        file="assets.extra/convzoo/openvino/fp32.xml",
        precision="bf16",
        outputs=manifest.engines["openvino"].outputs,
        tolerance=0.05,
        measured=0.01,
    )
    done = older(SERVED, place, record.model_dump_json())
    assert done.returncode == 0, done.stderr
    difference, note = done.stdout.splitlines()
    assert float(difference) < 1e-4
    assert note.startswith("Computes in fp32: bf16 needs AVX512-BF16")


# --- Weights in four bits -------------------------------------------------------------------------


def dense_network(place, hidden_weights):
    """[N, 1024] -> [N, 1024] -> ten scores, in OpenVINO's form."""
    import openvino as ov
    from openvino import opset14 as ops

    from training.openvino import save

    image = ops.parameter([-1, 1024], np.float32, name="image")
    image.output(0).get_tensor().set_names({"image"})
    hidden = ops.relu(ops.matmul(image, ops.constant(hidden_weights), False, True))
    hidden.input_value(0).get_node().set_friendly_name("hidden")
    last = np.random.default_rng(2).standard_normal((1024, 10)).astype(np.float32)
    scores = ops.matmul(hidden, ops.constant(last), False, False)
    scores.set_friendly_name("scores")
    scores.output(0).get_tensor().set_names({"logits"})
    save(ov.Model([ops.result(scores)], [image], "dense"), place)
    return place


def kinds_of(model):
    """The types in which weights are kept, one for each layer."""
    return [
        each.get_output_element_type(0)
        for each in model.get_ordered_ops()
        if each.get_type_name() == "Constant" and np.prod(each.get_output_shape(0)) >= 10240
    ]


def test_large_dense_layers_keep_their_weights_in_four_bits(tmp_path):
    from training.openvino import run_ir, save
    from training.quantize import calibrated, large_dense, quantize

    rng = np.random.default_rng(1)
    weights = rng.standard_normal((1024, 1024)).astype(np.float32) / 32
    fp32 = dense_network(tmp_path / "fp32.xml", weights)
    assert large_dense(fp32) == ("hidden",)
    image = rng.standard_normal((512, 1024)).astype(np.float32)
    eight = calibrated(fp32, image[:64])
    four = calibrated(fp32, image[:64], four_bit=("hidden",))
    bits = [sum(kind.bitwidth for kind in kinds_of(each)) for each in (eight, four)]
    assert bits == [16, 12]
    # What is published is the file, so it has to say the same.
    save(four, tmp_path / "int8.xml")
    told = run_ir(four, image)["logits"]
    np.testing.assert_array_equal(run_ir(tmp_path / "int8.xml", image)["logits"], told)

    class_ids = run_ir(fp32, image)["logits"].argmax(-1)
    made = quantize(fp32, image[:64], image, class_ids, most_drop=0.15)
    assert made.report.four_bit == ("hidden",)
    assert "the weights of 1 dense layers in four bits" in made.report.words
    assert 0.8 < made.report.agreement < 1


def test_weights_that_four_bits_spoil_are_kept_in_eight(tmp_path):
    """In each group one weight is so large that four bits round all others away."""
    from training.openvino import run_ir
    from training.quantize import quantize

    rng = np.random.default_rng(1)
    weights = rng.uniform(-0.06, 0.06, (1024, 1024)).astype(np.float32)
    weights[:, ::128] = 1.0
    fp32 = dense_network(tmp_path / "fp32.xml", weights)
    image = rng.standard_normal((512, 1024)).astype(np.float32)
    image[:, ::128] = 0.0
    class_ids = run_ir(fp32, image)["logits"].argmax(-1)
    told = []
    made = quantize(fp32, image[:64], image, class_ids, most_drop=0.15, talk=told.append)
    assert "in four bits" in told[0]
    assert made.report.four_bit == ()
    assert made.report.agreement > 0.85
