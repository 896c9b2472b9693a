"""Training: what is stopped goes on as if it had not been; what is measured is what was trained."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from training import recipe as recipes
from training.run import Run
from zoo.errors import DataError, InterruptedRunError, UsageError

pytestmark = pytest.mark.tensorflow

SHORT = ["epochs=2", "batch_size=64"]


def train(run, overrides=(), stop_after=None):
    """Trains in this process; `stop_after` sends SIGINT after so many progress reports."""
    from training.train import train as train_recipe

    reports = []

    def on_progress(progress):
        reports.append(progress)
        if stop_after is not None and len(reports) == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    recipe = recipes.read("digits_lenet5_modern", [*SHORT, *overrides])
    return train_recipe(recipe, run, on_progress), reports


def weights(run):
    from training.publish import load_network

    return [np.asarray(each) for each in load_network(run).weights]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("whole") / "run")
    evaluation, _ = train(run)
    return run, evaluation


def test_a_run_leaves_all_that_is_needed(whole):
    run, evaluation = whole
    names = {path.name for path in run.path.iterdir()}
    assert names >= {
        *("recipe.json", "preprocessing.json", "model.keras", "metrics.jsonl", "evaluation.json"),
        *("curves.png", "confusion.png", "holdout.npz", "holdout"),
    }
    assert "checkpoint.npz" not in names
    assert [each.epoch for each in run.epochs()] == [1, 2]
    assert run.evaluation() == evaluation
    assert evaluation.metrics["accuracy"].examples == 345
    assert len(list((run.path / "holdout").glob("*.png"))) == 32


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_that_was_stopped_inside_an_epoch_ends_with_the_same_weights(
    whole, tmp_path, monkeypatch, stop_after
):
    monkeypatch.setattr("training.loop.STEPS_PER_CALL", 7)
    run = Run(tmp_path / "run")
    with pytest.raises(InterruptedRunError, match="goes on from there"):
        train(run, stop_after=stop_after)
    assert run.checkpoint.exists()
    evaluation, _ = train(run)
    for found, expected in zip(weights(run), weights(whole[0]), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert evaluation == whole[1]
    assert [each.epoch for each in run.epochs()] == [1, 2]


def test_a_complete_run_and_another_recipes_run_are_not_overwritten(whole, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="complete run already"):
        train(whole[0])
    run = Run(tmp_path / "run")
    with pytest.raises(InterruptedRunError):
        train(run, stop_after=1)
    with pytest.raises(UsageError, match="run of another recipe"):
        train(run, ["seed=5"])


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(DataError, match="training diverged"):
        train(Run(tmp_path / "run"), ["optimizer.learning_rate=1e38", "optimizer.kind=sgd"])


def test_the_1998_network_learns_with_its_own_loss(tmp_path):
    evaluation, reports = train(
        Run(tmp_path / "run"),
        [
            *("model.name=lenet5", "loss.kind=maximum_a_posteriori", "epochs=6"),
            *("optimizer.learning_rate=2e-3", "schedule.kind=constant"),
        ],
    )
    assert evaluation.metrics["accuracy"].value > 0.8
    assert reports[-1].loss < reports[0].loss


def test_auxiliary_classifiers_train_and_are_not_published(tmp_path):
    """GoogLeNet's side heads count 0.3 each in training; what is published has none."""
    import tensorflow as tf

    from training.data.dataset import Dataset
    from training.loop import Loop
    from training.publish import load_network
    from zoo.catalog import create
    from zoo.preprocess import Preprocessing, Scale

    recipe = recipes.read("digits_lenet5_modern", ["epochs=1", "batch_size=16"])
    whole = recipe.data.load()
    few = whole.train.take(np.arange(16))
    padded = type(few)(np.pad(few.pixels_nhwc, ((0, 0), (12, 12), (12, 12), (0, 0))), few.class_ids)
    dataset = Dataset("few", padded, padded, padded, whole.labels)
    model = create("googlenet_bn", input_shape=(32, 32, 1), num_classes=10, auxiliary=True)
    preprocessing = Preprocessing(input=recipe_input(32), input_steps=(Scale(scale=1 / 255),))
    run = Run(tmp_path / "run")
    run.path.mkdir()
    before = [np.asarray(each) for each in model.get_layer("aux1_fc").weights]
    loop = Loop(recipe, model, dataset, preprocessing, {}, run)
    loop.fit()
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(before, model.get_layer("aux1_fc").get_weights(), strict=True)
    )
    assert loop.logits(padded).shape == (16, 10)
    model.save(run.model)
    published = load_network(run)
    assert published.output_shape == (None, 10)
    assert "aux1" not in {layer.name for layer in published.layers}
    tf.keras.backend.clear_session()


def recipe_input(size):
    from zoo.spec import ImageInput

    return ImageInput(height=size, width=size, channels=1, colour="gray", value_range=(0, 1))


def test_the_pipeline_computes_what_preprocessing_says():
    from training.data.dataset import Images
    from training.data.pipeline import batches
    from zoo.preprocess import (
        Preprocessing,
        Scale,
        Standardise,
        SubtractMeanImage,
        SubtractMeanPixel,
        Whiten,
    )
    from zoo.spec import ImageInput

    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (10, 4, 4, 3)).astype(np.uint8)
    arrays = {
        "mean_image": rng.normal(size=(4, 4, 3)).astype(np.float32),
        "whiten_mean": rng.normal(size=48).astype(np.float32),
        "whiten_matrix": rng.normal(size=(48, 48)).astype(np.float32),
    }
    preprocessing = Preprocessing(
        input=ImageInput(height=4, width=4, channels=3),
        input_steps=(
            Scale(scale=1 / 255, offset=0.5),
            Standardise(mean=(0.1, 0.2, 0.3), std=(1, 2, 3)),
            SubtractMeanPixel(mean=(0.3, 0.2, 0.1)),
            SubtractMeanImage(),
            Whiten(),
        ),
    )
    images = Images(pixels, np.arange(10))
    rows = rng.permutation(10)
    found = list(batches(images, rows, 4, preprocessing, arrays))
    assert [len(ids) for _, ids in found] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([ids for _, ids in found]), rows)
    expected = preprocessing.to_input(pixels[rows], arrays)
    np.testing.assert_allclose(
        np.concatenate([x for x, _ in found]), expected, rtol=1e-4, atol=1e-5
    )


def test_distortions_follow_from_seed_and_epoch_and_keep_the_middle():
    from training.data.augment import Affine, transforms

    settings = Affine(shift=2, rotate=10, scale=0.1, squeeze=0.1, shear=0.1)
    first = transforms(settings, 5, (32, 32), seed=1, epoch=1)
    np.testing.assert_array_equal(first, transforms(settings, 5, (32, 32), seed=1, epoch=1))
    assert not np.array_equal(first, transforms(settings, 5, (32, 32), seed=1, epoch=2))
    still = transforms(settings.model_copy(update={"shift": 0.0}), 5, (32, 32), seed=1, epoch=1)
    for a0, a1, a2, b0, b1, b2, *_ in still:
        assert a0 * 15.5 + a1 * 15.5 + a2 == pytest.approx(15.5, abs=1e-4)
        assert b0 * 15.5 + b1 * 15.5 + b2 == pytest.approx(15.5, abs=1e-4)
    none = transforms(Affine(), 1, (32, 32), seed=1, epoch=1)[0]
    np.testing.assert_allclose(none, [1, 0, 0, 0, 1, 0, 0, 0], atol=1e-6)


def test_convzoo_train_exits_with_6_when_it_is_stopped_and_can_go_on(tmp_path):
    command = [
        sys.executable,
        "-m",
        "zoo.command",
        "train",
        "digits_lenet5_modern",
        "--out",
        str(tmp_path / "run"),
    ]
    with subprocess.Popen([*command, "epochs=500"], stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        for line in process.stderr:
            if "epoch 2/500" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
        assert process.wait() == 6
        watchdog.cancel()
    assert "goes on from there" in rest
    assert "Traceback" not in rest
