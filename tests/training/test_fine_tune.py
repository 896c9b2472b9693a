"""Starting from trained weights: what is reused, what is new, how fast each part learns."""

import os
from pathlib import Path

import numpy as np
import pytest

from training import recipe as recipes
from training.run import Run
from zoo.errors import DataError, UsageError

pytestmark = pytest.mark.tensorflow

LOW, HIGH = ["0", "1", "2", "3", "4"], ["5", "6", "7", "8", "9"]


def train(run, overrides, init_from=None):
    from training.train import train as train_recipe

    told = []
    recipe = recipes.read("digits_lenet5_modern", overrides, None, init_from)
    return train_recipe(recipe, run, talk=told.append), told


@pytest.fixture(scope="module")
def low(tmp_path_factory):
    """A network that knows the digits 0 to 4."""
    run = Run(tmp_path_factory.mktemp("low") / "run")
    train(run, [f"data.classes={LOW}", "epochs=15"])
    return run


@pytest.mark.e2e
def test_fine_tuning_beats_training_from_scratch_with_few_images(tmp_path):
    """MNIST: 0 to 4 with all images, then 5 to 9 with 20 images a class, over two seeds."""
    from training.train import train as train_recipe

    folder = Path(os.environ.get("CONVZOO_DATASETS", "../shared/datasets")) / "mnist"
    if not folder.is_dir():
        pytest.skip(f"MNIST is not at {folder}")

    def measured(name, overrides, init_from=None):
        recipe = recipes.read("mnist_lenet5_modern", overrides, folder, init_from)
        return train_recipe(recipe, Run(tmp_path / name)).metrics["accuracy"].value

    measured("low", [f"data.classes={LOW}", "data.per_class=1500", "epochs=6"])
    few = [
        *(f"data.classes={HIGH}", "data.per_class=20", "epochs=30", "batch_size=20"),
        "optimizer.learning_rate=0.002",
    ]
    margins = []
    for seed in (1, 2):
        scratch = measured(f"scratch{seed}", [*few, f"seed={seed}"])
        tuned = measured(f"tuned{seed}", [*few, f"seed={seed}"], tmp_path / "low")
        margins.append(tuned - scratch)
    assert np.mean(margins) > 0.015, margins


def model_for(overrides, init_from=None):
    """The network and what it reuses, without training."""
    from training.fine_tune import reuse
    from training.train import _create

    recipe = recipes.read("digits_lenet5_modern", overrides, None, init_from)
    model = _create(recipe, 10)
    reused = reuse(model, recipe.fine_tuning.init_from) if init_from else None
    return model, recipe.fine_tuning, reused


def test_layers_that_do_not_fit_are_new_and_named(low):
    model, _, reused = model_for([], low.path)
    assert set(reused.new) == {"logits"}
    assert "84x5, 5 there, 84x10, 10 here" in reused.new["logits"]
    assert reused.layers == ("c1", "c3", "c5", "f6")
    from training.predictor import load_keras

    source = load_keras(low.model)
    np.testing.assert_array_equal(
        model.get_layer("c1").get_weights()[0], source.get_layer("c1").get_weights()[0]
    )


def test_weights_of_which_nothing_fits_are_refused(low, tmp_path):
    from training.fine_tune import reuse
    from zoo.catalog import create

    with pytest.raises(
        DataError, match=r"Nothing in .* fits this network: .*no layer of this name"
    ):
        reuse(create("vgg11_cifar", num_classes=10), low.path)
    with pytest.raises(DataError, match="no published version, run or file of weights"):
        reuse(create("xo"), tmp_path)


def test_every_pattern_must_match_a_layer():
    from training.fine_tune import check_patterns

    model, tuning, _ = model_for(["fine_tuning.learning_rates={c*: 0.1, fc66: 2}"])
    with pytest.raises(UsageError, match=r"'fc66'"):
        check_patterns(model, tuning)
    check_patterns(model, tuning.model_copy(update={"learning_rates": {"c*": 0.1}}))


def test_rates_follow_patterns_then_whether_a_layer_is_reused(low):
    from training.fine_tune import multiples

    model, tuning, reused = model_for(
        ["fine_tuning.learning_rates={c1: 0.01}", "fine_tuning.reused_rate=0.1"], low.path
    )
    found = multiples(model, tuning, reused)
    assert found["c1/kernel"] == 0.01
    assert found["c3/kernel"] == 0.1
    assert found["logits/bias"] == 1.0


def test_frozen_layers_stay_and_come_free_from_the_top(low, tmp_path):
    from training.fine_tune import freeze
    from training.predictor import load_keras

    model, tuning, _ = model_for(
        ["fine_tuning.freeze=[c*, f*]", "fine_tuning.unfreeze_every_epochs=1"]
    )
    named = [layer.name for layer in model.layers if layer.weights]
    frozen = [name for name in named if name != "logits"]
    for epoch in range(1, len(frozen) + 2):
        freeze(model, tuning, epoch)
        still = [layer.name for layer in model.layers if layer.weights and not layer.trainable]
        assert still == frozen[: len(frozen) - epoch + 1]
    run = Run(tmp_path / "run")
    train(
        run,
        ["epochs=2", "data.per_class=20", "fine_tuning.freeze=[c1]"],
        low.path,
    )
    before, after = (load_keras(each.model) for each in (low, run))
    for found, expected in zip(
        after.get_layer("c1").get_weights(), before.get_layer("c1").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(
        after.get_layer("c3").get_weights()[0], before.get_layer("c3").get_weights()[0]
    )


def test_the_last_layer_is_new_when_the_classes_are_others(low, tmp_path):
    _, told = train(
        Run(tmp_path / "run"), [f"data.classes={HIGH}", "epochs=1", "data.per_class=5"], low.path
    )
    assert "Reused: c1, c3, c5, f6" in told
    assert "New: logits (other classes)" in told


def test_l2_sp_keeps_weights_closer_to_where_they_began(low, tmp_path):
    from training.predictor import load_keras

    few = [f"data.classes={HIGH}", "data.per_class=20", "epochs=10"]
    start = load_keras(low.model).get_layer("c3").get_weights()[0]
    distances = []
    for strength in (0.0, 1.0):
        run = Run(tmp_path / f"run{strength}")
        train(run, [*few, f"fine_tuning.l2_sp={strength}"], low.path)
        end = load_keras(run.model).get_layer("c3").get_weights()[0]
        distances.append(float(np.linalg.norm(end - start)))
    assert distances[1] < 0.8 * distances[0]


def test_a_run_records_what_it_started_from(low, tmp_path):
    from zoo.artifact import file_sha256

    run = Run(tmp_path / "run")
    train(run, ["epochs=1", "data.per_class=5"], low.path)
    assert run.record().init_sha256 == file_sha256(low.model)
    assert "init_from" not in str(run.record().recipe)
