"""What weights from elsewhere need beside them before they can be published."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from training.public import read_labels, synthetic
from zoo.artifact import Origin
from zoo.errors import DataError, UsageError
from zoo.preprocess import CentreCrop, Preprocessing, ResizeShorterSide, ScaleTo
from zoo.spec import ImageInput

PREPROCESSING = Preprocessing(
    input=ImageInput(height=32, width=32, channels=3),
    pixel_steps=(ResizeShorterSide(size=36), CentreCrop(height=32, width=32)),
    input_steps=(ScaleTo(),),
)


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("x.txt", "tench\n great white shark \ncock\n", ("tench", "great white shark", "cock")),
        ("x.txt", "\ufefftench\r\nshark\r\ncock", ("tench", "shark", "cock")),
        ("x.json", '["tench", "shark", "cock"]', ("tench", "shark", "cock")),
        (
            "x.json",
            '{"0": ["n1", "crane"], "2": ["n3", "crane"], "1": ["n2", "cock"]}',
            ("crane (n1)", "cock", "crane (n3)"),
        ),
    ],
)
def test_labels_are_read_as_people_have_them(tmp_path, name, text, labels):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name, 3) == labels


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.txt", b"a\nb\n", "has 2 labels; these weights tell 3 classes apart"),
        ("x.txt", b"", "has 0 labels"),
        ("x.txt", b"a\n\nb\n", "no label for class 1"),
        ("x.txt", b"a\nb\na\n", "'a' for class 0 and for class 2"),
        ("x.txt", b"\xff\xfe", "no text in UTF-8"),
        ("x.json", b"{", "holds no labels"),
        ("x.json", b'{"1": ["n1", "a"]}', "holds no labels: '0'"),
        ("x.json", b"[1, 2, 3]", r'expected \["tench"'),
        ("x.json", b'{"0": [1, 2], "1": [1, 3], "2": [1, 4]}', "holds no labels"),
        ("y.txt", None, "cannot be read: No such file"),
    ],
)
def test_labels_that_do_not_fit_are_told(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_labels(tmp_path / name, 3)


def test_drawn_images_are_always_the_same_and_differ_from_each_other():
    pixels = synthetic(PREPROCESSING).pixels_nhwc
    np.testing.assert_array_equal(pixels, synthetic(PREPROCESSING).pixels_nhwc)
    assert pixels.std() > 20
    assert len({each.tobytes() for each in pixels}) == len(pixels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vgg16"], "no run at vgg16. .*vgg16 --weights keras"),
        (["vgg61", "--weights", "keras"], "Did you mean .*'vgg16'"),
        (["vgg16", "--weights", "kears"], "Did you mean 'keras'"),
        (["vgg16", "--weights", "keras", "--precision", "int8"], "int8 .*--images FOLDER"),
        (["folder", "--weights", "keras"], "folder is a folder, so a run"),
        (["run", "--labels", "x.txt"], "--labels goes with --weights"),
        (["run", "--images", "x"], "--images goes with --weights"),
    ],
)
def test_publishing_what_cannot_be_says_what_could(tmp_path, monkeypatch, arguments, words):
    from training.cli import publish

    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "run"):
        (tmp_path / folder).mkdir()
    for name in ("model.keras", "evaluation.json"):
        (tmp_path / "run" / name).touch()
    done = CliRunner().invoke(publish, [*arguments, "--base-path", "models"])
    assert isinstance(done.exception, UsageError)
    assert re.search(words, str(done.exception))
    assert not (tmp_path / "models").exists()


def test_images_that_cannot_be_read_are_left_out_and_too_few_are_told(tmp_path):
    from PIL import Image

    from training.public import _read_images

    rng = np.random.RandomState(0)
    for number in range(8):
        pixels = rng.randint(0, 256, (40, 50 + number, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    told = []
    found = _read_images(str(tmp_path), ("a", "b"), PREPROCESSING, "int8", told.append)
    assert sorted(found.sizes.tolist()) == [[40, 50 + number] for number in range(8)]
    assert not found.has_classes
    calibration, validation = (found.sample(name) for name in ("calibration", "validation"))
    assert (len(calibration), len(validation)) == (2, 6)
    assert not set(calibration.hashes()) & set(validation.hashes())
    assert "fp32's own answers" in told[0]
    assert "1 images cannot be used, e.g. broken.jpg" in told[1]


def test_classes_of_images_count_where_the_network_knows_them(tmp_path):
    from PIL import Image

    from training.public import _read_images

    rng = np.random.RandomState(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(20):
            pixels = rng.randint(0, 128, (40, 40, 3)).astype(np.uint8)
            pixels[:, :, 1] = 255 if label == "dog" else 0
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    found = _read_images(str(tmp_path), ("dog", "bird", "cat"), PREPROCESSING, "int8", print)
    assert found.has_classes
    expected = np.where(found.images.pixels_nhwc[:, 0, 0, 1] == 255, 0, 2)
    np.testing.assert_array_equal(found.images.class_ids, expected)


def test_fewer_bits_without_classes_are_held_against_fp32():
    pytest.importorskip("openvino")
    from training.quantize import compare

    reference = np.eye(4, dtype=np.float32)
    logits = reference.copy()
    logits[3] = [5, 0, 0, 0]
    report = compare("int8", reference, logits, None)
    assert (report.judged_by, report.accuracy, report.agreement) == ("fp32", 0.75, 0.75)
    assert report.words == "int8: fp32's class for 75.00% of 4"
    assert "agreement with fp32" in str(report.refusal(0.1))


def test_a_version_that_was_not_trained_here_is_judged_on_data_that_are_named():
    from types import SimpleNamespace

    from training.gate import find_source

    manifest = SimpleNamespace(version=3, model="vgg16", recipe={})
    with pytest.raises(UsageError, match=r"Version 3 of 'vgg16' was not trained here.*--data"):
        find_source(manifest, None, None)
    assert find_source(manifest, "digits", None).source == "digits"


def test_classes_without_names_say_that_no_labels_were_given():
    from training.data.sources import find
    from training.measure import with_labels

    with pytest.raises(DataError, match=r"has the classes 0, 1.*published without --labels"):
        with_labels(find("digits").load(), ("class 0", "class 1"), "digits")


def test_the_card_says_where_weights_come_from_and_what_was_not_measured():
    from training import card
    from zoo.artifact import Architecture, EngineRecord, Manifest, SignatureRecord
    from zoo.weights.public import PUBLIC

    weights = PUBLIC["vgg16/keras"]
    engine = EngineRecord(file=".", precision="fp32", outputs=(), tolerance=1, measured=0)
    manifest = Manifest(
        model="vgg16",
        version=1,
        architecture=Architecture(name="vgg16"),
        preprocessing=PREPROCESSING,
        labels=("class 0", "class 1"),
        signatures={"logits": SignatureRecord(inputs={}, outputs={})},
        engines={"tensorflow": engine},
        default_engine="tensorflow",
        origin=Origin(
            weights=weights.name,
            url=weights.url,
            licence=weights.licence,
            sha256="0" * 64,
            input=weights.preprocessing,
            top1_error=weights.top1_error,
            golden="synthetic",
        ),
    )
    text = card.render(manifest, "")
    assert json.loads(manifest.model_dump_json())["origin"]["licence"] == "CC BY 4.0 (Oxford)"
    for words in (
        "Not measured here",
        f"top-1 error 28.732 (ILSVRC-2012 validation, one centre crop; vgg16/keras, {weights.url})",
        "top-1 error 25.6, top-5 error 8.1 (ILSVRC-2012 validation; [simonyan2015] table 3",
        "Licence: CC BY 4.0 (Oxford)",
        "Class names: None were given",
        "Golden records: drawn images",
        "less the mean pixel 103.939",
    ):
        assert words in text
    assert "model-index" not in text


@pytest.mark.tensorflow
@pytest.mark.openvino
def test_without_images_a_version_has_drawn_golden_records_and_no_baseline(tmp_path, monkeypatch):
    import zoo
    from tests.training.test_quantize import has
    from training import public
    from training.drift import read_version
    from training.publish import publish_material
    from zoo.artifact import DRIFT, MODEL_CARD, REPORT, read_golden, verify
    from zoo.weights.choose import Chosen
    from zoo.weights.public import PUBLIC

    # A small network in the place of one that somebody publishes.
    declared = PUBLIC["vgg16/keras"].model_copy(
        update={"name": "convnet/keras", "options": {"input_shape": (32, 32, 3), "num_classes": 4}}
    )
    zoo.create("convnet", **declared.options).save_weights(tmp_path / "x.weights.h5")
    chosen = Chosen("convnet", tmp_path / "x.weights.h5", declared, None)
    monkeypatch.setattr(public, "choose", lambda network, weights: chosen)
    told = []
    precision = "bf16" if has("BF16") else "fp32"
    material = public.prepare("convnet", "x.weights.h5", precision=precision, talk=told.append)
    manifest, place = publish_material(
        material, tmp_path / "models", precision=precision, talk=told.append
    )
    assert verify(place) == manifest
    assert manifest.labels == ("class 0", "class 1", "class 2", "class 3")
    assert manifest.origin.weights == "x.weights.h5"
    assert manifest.engines["openvino"].precision == precision
    inputs, _ = read_golden(place)
    drawn = synthetic(manifest.preprocessing).pixels_nhwc
    np.testing.assert_array_equal(inputs["image"], manifest.preprocessing.to_input(drawn))
    assert not (place / DRIFT).exists()
    assert not (place / REPORT).exists()
    assert "drawn images" in (place / MODEL_CARD).read_text()
    assert any("--images FOLDER gives one" in line for line in told)
    with pytest.raises(DataError, match=r"published without images.*--images FOLDER"):
        read_version(place)
    assert (precision == "fp32") != any("costs is not known" in line for line in told)
