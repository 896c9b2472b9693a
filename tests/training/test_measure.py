"""Evaluation of runs and versions on any source: figures, pictures, features."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from training import recipe as recipes
from training.corruptions import CHANGES
from training.run import Run
from zoo.errors import DataError, UsageError

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("name", CHANGES)
def test_changes_keep_shape_and_type_and_grow_with_their_strength(name):
    change, strengths = CHANGES[name]
    image = np.asarray(
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3)).astype(np.uint8)).resize((32, 32))
    )
    gaps = []
    for strength in strengths:
        changed = change(image, strength, np.random.default_rng(2))
        assert changed.shape == image.shape
        assert changed.dtype == np.uint8
        gaps.append(np.abs(changed.astype(int) - image).mean())
    assert 0 < gaps[0] < gaps[1]


def test_blur_and_contrast_are_what_they_are_called():
    point = np.zeros((15, 15, 1), np.uint8)
    point[7, 7] = 250
    blurred = CHANGES["blur"][0](point, 1.0, RNG)
    # A Gaussian of standard deviation 1 has 1 / (2 pi) of its mass in the middle.
    assert blurred[7, 7, 0] == pytest.approx(250 / (2 * np.pi), abs=2)
    flat = np.full((4, 4, 1), 90, np.uint8)
    np.testing.assert_array_equal(CHANGES["contrast"][0](flat, 0.4, RNG), flat)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("tensorflow")
    from training.train import train

    run = Run(tmp_path_factory.mktemp("measured") / "run")
    train(recipes.read("digits_lenet5_modern", ["epochs=6"]), run)
    return run


tensorflow = pytest.mark.tensorflow


@tensorflow
def test_a_run_measured_again_on_its_own_source_gives_its_own_figures(run, tmp_path):
    from training.cli import evaluate

    out = tmp_path / "report"
    result = CliRunner().invoke(evaluate, [str(run.path), "digits", "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    recorded = run.evaluation()
    assert measured["confusion"] == [list(row) for row in recorded.confusion]
    assert measured["metrics"]["cross_entropy"]["value"] == pytest.approx(
        recorded.metrics["cross_entropy"].value, rel=1e-4
    )
    robustness = measured["robustness"]
    assert robustness["none"]["value"] == recorded.metrics["accuracy"].value
    assert set(robustness) > {"noise 8", "blur 1", "contrast 0.4", "shift 0.1", "rotation 15"}
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http://" not in page
    assert "https://" not in page
    for name in ("confusion", "reliability", "mistakes"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 100


@tensorflow
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_views_of_a_part_are_of_that_parts_images(tmp_path, part):
    """The answers to mirrored crops of an image and to the image are nearly the same."""
    from training.cli import evaluate
    from training.measure import measure
    from training.train import train

    data = tmp_path / "bars"
    for label, axis in (("row", 0), ("column", 1)):
        (data / label).mkdir(parents=True)
        for number in range(60):
            pixels = RNG.integers(0, 90, (36, 36)).astype(np.uint8)
            place = [slice(None), slice(None)]
            place[axis] = slice(12 + number % 4, 20 + number % 4)
            pixels[tuple(place)] += 150
            Image.fromarray(pixels).save(data / label / f"{number}.png")
    bars = Run(tmp_path / "run")
    steps = "[{kind: resize_shorter_side, size: 34}, {kind: centre_crop, height: 32, width: 32}]"
    overrides = [
        f"data={{source: images, data_dir: {data}, validation_fraction: 0.3}}",
        *(f"preprocessing.pixel_steps={steps}", "epochs=6", "test_time=ten_crop"),
    ]
    train(recipes.read("digits_lenet5_modern", overrides), bars)
    found = measure(bars.path, str(data), part=part, kind="ten_crop", is_robustness_wanted=False)
    assert found.metrics["accuracy"].value > 0.9
    arguments = [str(bars.path), str(data), "--part", part, "--no-robustness"]
    told = CliRunner().invoke(evaluate, arguments).stdout
    assert ("held-out" in told) == (part == "test")


@tensorflow
def test_a_source_with_other_classes_is_refused_and_other_orders_are_put_right(run, tmp_path):
    from training.data.sources import find
    from training.measure import measure, with_labels

    with pytest.raises(DataError, match=r"the classes X, O; the network knows 0, 1"):
        measure(run.path, "xo")
    for label in ("3", "1"):
        (tmp_path / label).mkdir()
        for number in range(12):
            pixels = RNG.integers(0, 256, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    dataset = with_labels(find(str(tmp_path)).load(), tuple("0123456789"), "photos")
    assert {name.rsplit("/", 2)[-2] for name in dataset.train.names} == {"1", "3"}
    for name, class_id in zip(dataset.train.names, dataset.train.class_ids, strict=True):
        assert name.split("/")[-2] == str(class_id)


@tensorflow
def test_features_and_simple_classifiers_on_them_know_the_digits(run, tmp_path):
    from training.features import classify_features

    out = tmp_path / "features.npz"
    found = classify_features(run.path, "digits", out=out)
    assert found.layer.startswith("f6")
    assert found.dimensions == 84
    for metric in found.classifiers.values():
        assert metric.value > 0.93
    with np.load(out, allow_pickle=False) as file:
        assert file["x_train"].shape == (found.train_images, 84)
        assert file["y_test"].shape == (found.test_images,)
    with pytest.raises(UsageError, match="'f66'"):
        classify_features(run.path, "digits", "f66")


@tensorflow
@pytest.mark.parametrize(
    ("few", "words"),
    [({"a": 20}, "images of 1 classes"), ({"a": 3, "b": 3}, r"has \d images of . classes")],
)
def test_features_of_too_little_data_are_refused(run, tmp_path, few, words):
    from training.features import classify_features

    for label, number in few.items():
        for part in ("train", "test"):
            (tmp_path / part / label).mkdir(parents=True)
            for each in range(number if part == "test" else -(-number * 2 // 3)):
                pixels = RNG.integers(0, 256, (8, 8)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{each}.png")
    with pytest.raises(DataError, match=words + "; classifiers need at least 5 images and 2"):
        classify_features(run.path, str(tmp_path))


def test_held_out_pictures_of_classes_with_long_names_are_kept(tmp_path):
    from training.data.dataset import Images

    few = Images(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2))
    labels = ("\N{CYRILLIC SMALL LETTER ZHE}" * 127, "l" * 255)
    Run(tmp_path).write_holdout(few, few.pixels_nhwc.__getitem__, labels)
    assert len(list((tmp_path / "holdout").glob("*.png"))) == 2


@tensorflow
def test_views_show_what_their_papers_say():
    from training.data.views import check, views
    from zoo.preprocess import CentreCrop, Preprocessing, Resize, ResizeShorterSide
    from zoo.spec import ImageInput

    steps = Preprocessing(
        input=ImageInput(height=8, width=8, channels=3),
        pixel_steps=(ResizeShorterSide(size=10), CentreCrop(height=8, width=8)),
    )
    image = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    centre = views(image, steps, "centre")
    ten = views(image, steps, "ten_crop")
    assert ten.shape == (10, 8, 8, 3)
    np.testing.assert_array_equal(ten[4], centre[0])
    np.testing.assert_array_equal(ten[9], ten[4][:, ::-1])
    many = views(image, steps, "multi_crop")
    assert many.shape == (144, 8, 8, 3)
    dense = views(image, steps, "dense")
    assert dense.shape == (2, 10, 15, 3)
    plain = steps.model_copy(update={"pixel_steps": (Resize(height=8, width=8),)})
    with pytest.raises(UsageError, match="end in centre_crop; these end in resize"):
        check(plain, "ten_crop")


@tensorflow
def test_answers_to_views_are_the_logarithm_of_their_mean_probabilities():
    from training.predictor import Predictor
    from zoo.catalog import create
    from zoo.preprocess import CentreCrop, Preprocessing, ResizeShorterSide, Scale
    from zoo.spec import ImageInput

    model = create("vgg11_cifar", num_classes=4)
    steps = Preprocessing(
        input=ImageInput(height=32, width=32, channels=3),
        pixel_steps=(ResizeShorterSide(size=36), CentreCrop(height=32, width=32)),
        input_steps=(Scale(scale=1 / 255),),
    )
    predictor = Predictor(model, steps, {})
    from training.data.views import views

    image = RNG.integers(0, 256, (40, 36, 3)).astype(np.uint8)
    logits = predictor.logits(views(image, steps, "ten_crop")).astype(np.float64)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    expected = np.log((shares / shares.sum(-1, keepdims=True)).mean(0))
    found = predictor.logits_of_views([image], "ten_crop")
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    dense = predictor.logits_of_views([image], "dense")
    assert np.exp(dense[0]).sum() == pytest.approx(1.0, abs=1e-4)


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path, capsys):
    from training.cli import _Bar, data

    for label in ("[bold]", "a [b]"):
        (tmp_path / "[red]" / label).mkdir(parents=True)
        for number in range(8):
            pixels = RNG.integers(0, 256, (6, 6)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "[red]" / label / f"{number}.png")
    (tmp_path / "[red]" / "a [b]" / "[i].png").write_bytes(b"damaged")
    told = CliRunner().invoke(data, ["check", str(tmp_path / "[red]")]).stdout
    for words in ("[red]", "[bold]", "a [b]", "Corrupt: a [b]/[i].png"):
        assert words in told
    assert "\\" not in told
    with _Bar() as bar:
        bar.talk("Warning: [bold] is empty")
    assert "Warning: [bold] is empty" in capsys.readouterr().err


def test_a_version_without_a_source_is_asked_on_what(tmp_path):
    from training.cli import evaluate
    from zoo.artifact import MANIFEST

    (tmp_path / "1" / MANIFEST).parent.mkdir(parents=True)
    (tmp_path / "1" / MANIFEST).write_text("{}")
    result = CliRunner().invoke(evaluate, [str(tmp_path / "1")])
    assert result.exit_code == 2
    assert "A version is measured on a SOURCE" in result.output


def test_data_check_tells_and_ends_with_3_when_something_is_wrong(tmp_path):
    from training.cli import data

    result = CliRunner().invoke(data, ["check", "digits", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert sum(part["images"] for part in report["parts"].values()) == 1797
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(8):
            pixels = RNG.integers(0, 256, (6, 6)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    (tmp_path / "a" / "9.png").write_bytes(b"damaged")
    result = CliRunner().invoke(data, ["check", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 3
    assert "a/9.png" in result.output
