"""Training: what is stopped goes on as if it had not been; what is measured is what was trained."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from training import recipe as recipes
from training.run import Run
from zoo.errors import DataError, InterruptedRunError, UsageError

pytestmark = pytest.mark.tensorflow

SHORT = ["epochs=2", "batch_size=64"]


def train(run, overrides=(), stop_after=None, **more):
    """Trains in this process; `stop_after` sends SIGINT after so many progress reports."""
    from training.train import train as train_recipe

    reports = []

    def on_progress(progress):
        reports.append(progress)
        if stop_after is not None and len(reports) == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    recipe = recipes.read("digits_lenet5_modern", [*SHORT, *overrides])
    return train_recipe(recipe, run, on_progress, **more), reports


def weights(run):
    from training.predictor import load_keras

    return [np.asarray(each) for each in load_keras(run.model).weights]


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
    assert not list((run.path / "checkpoints").glob("*"))
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
    assert list((run.path / "checkpoints").glob("*.npz"))
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


def write_npz(path, seed, classes=3):
    """Drawn images of a few classes, as the recipe's source."""
    rng = np.random.default_rng(seed)
    ids = np.arange(200) % classes
    pixels = (rng.integers(0, 40, (200, 8, 8)) + 80 * ids[:, None, None]).astype(np.uint8)
    np.savez(path, x_train=pixels[:160], y_train=ids[:160], x_test=pixels[160:], y_test=ids[160:])
    return f"data={{source: npz, data_dir: {path}}}"


def test_a_stopped_run_does_not_go_on_with_other_data_or_other_initial_weights(tmp_path):
    from training.train import train as train_recipe

    first = write_npz(tmp_path / "first.npz", seed=1)
    run = Run(tmp_path / "run")
    with pytest.raises(InterruptedRunError):
        train(run, [first, "fine_tuning={}"], stop_after=1)
    begun = {path: path.read_bytes() for path in run.path.rglob("*.*") if path.is_file()}
    for other, words in (
        (write_npz(tmp_path / "second.npz", seed=2), "a run on other data"),
        (write_npz(tmp_path / "more.npz", seed=1, classes=2), r"the classes 0, 1, 2; .* 0, 1\."),
    ):
        with pytest.raises(UsageError, match=words):
            train(run, [other, "fine_tuning={}"])
    (tmp_path / "weights.keras").write_bytes(b"weights")
    recipe = recipes.read("digits_lenet5_modern", [*SHORT, first], None, tmp_path / "weights.keras")
    with pytest.raises(UsageError, match="from other initial weights"):
        train_recipe(recipe, run)
    assert begun == {path: path.read_bytes() for path in begun}
    evaluation, _ = train(run, [first, "fine_tuning={}"])
    assert evaluation is not None


def test_beginning_again_removes_nothing_before_the_run_may_begin(tmp_path):
    first, other = (write_npz(tmp_path / f"{seed}.npz", seed=seed) for seed in (1, 2))
    run = Run(tmp_path / "run")
    with pytest.raises(InterruptedRunError):
        train(run, [first], stop_after=1)
    begun = {path: path.read_bytes() for path in run.path.rglob("*.*") if path.is_file()}
    with pytest.raises(UsageError, match="run of another recipe"):
        train(run, [first, "seed=5"], resume=False)
    with pytest.raises(DataError, match="no_such"):
        train(run, [f"data={{source: npz, data_dir: {tmp_path / 'no_such.npz'}}}"], resume=False)
    assert begun == {path: path.read_bytes() for path in begun}
    evaluation, reports = train(run, [other], resume=False)
    assert evaluation is not None
    assert reports[0].epoch == 1
    assert reports[0].images <= 64 * 20


def test_a_first_try_that_fails_leaves_a_folder_that_takes_the_second(tmp_path):
    data = write_npz(tmp_path / "few.npz", seed=1)
    run = Run(tmp_path / "run")
    with pytest.raises(UsageError, match="fc9"):
        train(run, [data, "fine_tuning.freeze=[fc9]"])
    with pytest.raises(InterruptedRunError):
        train(run, [data], stop_after=1)
    run.begin_again()
    assert not run.has_checkpoints
    with pytest.raises(UsageError, match="begin again with --no-resume"):
        train(run, [data, "seed=5"])
    evaluation, _ = train(run, [data, "seed=5"], resume=False)
    assert evaluation is not None


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
    from training.predictor import load_keras
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
    published = load_keras(run.model)
    assert published.output_shape == (None, 10)
    assert "aux1" not in {layer.name for layer in published.layers}
    tf.keras.backend.clear_session()


def recipe_input(size):
    from zoo.spec import ImageInput

    return ImageInput(height=size, width=size, channels=1, colour="gray", value_range=(0, 1))


def test_the_pipeline_computes_what_preprocessing_says():
    from training.data.dataset import Images
    from training.data.pipeline import batches, slices_of
    from zoo.preprocess import (
        Preprocessing,
        Scale,
        ScaleTo,
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
            ScaleTo(low=-1, high=2),
            Standardise(mean=(0.1, 0.2, 0.3), std=(1, 2, 3)),
            SubtractMeanPixel(mean=(0.3, 0.2, 0.1)),
            SubtractMeanImage(),
            Whiten(),
        ),
    )
    images = Images(pixels, np.arange(10))
    rows = rng.permutation(10)
    found = list(batches(images, rows, slices_of(10, 4), preprocessing, arrays))
    assert [len(batch.class_ids) for batch in found] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batch.class_ids for batch in found]), rows)
    expected = preprocessing.to_input(pixels[rows], arrays)
    np.testing.assert_allclose(
        np.concatenate([batch.inputs for batch in found]), expected, rtol=1e-4, atol=1e-5
    )


# A network with dropout, random changes, averaged weights, a plateau: all that a run must remember.
EVERYTHING = [
    *("model.name=convnet", "batch_size=64", "epochs=3", "data.per_class=60"),
    "model.options.spec={stages: [{filters: 8, pool: {kind: max}}], dense: [32], dropout: 0.5}",
    *("input={height: 32, width: 32, channels: 1, colour: gray}", "optimizer.average=0.9"),
    *("augmentation.crop={padding: 2}", "augmentation.flip=0.5", "augmentation.elastic={}"),
    *("augmentation.mixup={}", "augmentation.cutout={size: 4}", "schedule={kind: plateau}"),
]


def command(run, overrides):
    return [
        *(sys.executable, "-m", "zoo.command", "train", "digits_lenet5_modern"),
        *("--out", str(run.path), *overrides),
    ]


@pytest.mark.e2e
def test_runs_that_are_killed_at_random_steps_end_with_the_same_bytes(tmp_path):
    """SIGKILL, so that nothing can be written on the way out; a checkpoint follows every call."""
    overrides = [*EVERYTHING, "checkpoints.every_s=0"]
    code = (
        "import sys, training.loop as loop; loop.STEPS_PER_CALL = 1;"
        "from zoo.command import main; sys.argv[0] = 'convzoo'; main()"
    )

    def run_once(run, kill_after_checkpoints=None):
        arguments = command(run, overrides)[3:]
        with subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + 120
            folder = run.path / "checkpoints"
            start = set(folder.glob("*.npz"))
            while process.poll() is None and time.monotonic() < deadline:
                if kill_after_checkpoints is not None:
                    now = {path.name for path in folder.glob("[0-9]*.npz")}
                    if now - {path.name for path in start} and rng.random() < 0.3:
                        process.kill()
                time.sleep(0.003)
            process.kill()
        return process.returncode

    rng = np.random.default_rng(7)
    whole, torn = Run(tmp_path / "whole"), Run(tmp_path / "torn")
    assert run_once(whole) == 0
    kills = 0
    while (code_of_run := run_once(torn, 1 if kills < 2 else None)) != 0:
        assert code_of_run == -signal.SIGKILL
        kills += 1
        assert kills < 20
    assert kills >= 2
    for found, expected in zip(weights(torn), weights(whole), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert torn.evaluation() == whole.evaluation()
    losses = [[each.loss for each in run.epochs()] for run in (whole, torn)]
    assert losses[0] == losses[1]


def test_two_runs_of_one_recipe_end_with_the_same_weights(tmp_path):
    runs = [Run(tmp_path / name) for name in ("first", "second")]
    for run in runs:
        train(run, EVERYTHING)
    for found, expected in zip(*map(weights, runs), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_plateau_lowers_the_rate_and_a_standstill_ends_the_run(tmp_path):
    run = Run(tmp_path / "run")
    train(
        run,
        [
            *("epochs=20", "data.per_class=10", "optimizer.learning_rate=1e-9"),
            *("schedule={kind: plateau, patience: 2, factor: 0.5, most_drops: 1}",),
            *("early_stopping.patience=4", "checkpoints.snapshots=[1,3]"),
        ],
    )
    epochs = run.epochs()
    # The first epoch counts as a rise; two without one lower the rate, four end the run.
    assert [each.epoch for each in epochs] == [1, 2, 3, 4, 5]
    rates = [each.learning_rate for each in epochs]
    assert rates == pytest.approx([1e-9, 1e-9, 1e-9, 5e-10, 5e-10])
    names = sorted(path.name for path in (run.path / "snapshots").iterdir())
    assert names == ["epoch_0001.npz", "epoch_0003.npz"]


def test_the_best_epochs_weights_can_be_what_a_run_ends_with(tmp_path):
    run = Run(tmp_path / "run")
    # The second epoch's rate is so large that it can only do harm.
    _, reports = train(
        run,
        [
            *("epochs=2", "select=best", "data.per_class=100"),
            "schedule={kind: staircase, epochs: [1], factors: [1000]}",
        ],
    )
    epochs = run.epochs()
    assert epochs[0].validation_accuracy > epochs[1].validation_accuracy
    with np.load(run.path / "checkpoints" / "best.npz") as best:
        found = [best[name] for name in best.files if name.endswith("logits/kernel")]
    np.testing.assert_array_equal(weights(run)[-2], found[0])
    assert run.evaluation().metrics["accuracy"].value > 0.3
    assert reports


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_and_is_published_in_single_precision(tmp_path, precision):
    run = Run(tmp_path / "run")
    evaluation, _ = train(run, [f"precision={precision}", "epochs=6"])
    assert evaluation.metrics["accuracy"].value > 0.8
    from training.predictor import load_keras

    model = load_keras(run.model)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path, monkeypatch):
    from training.checkpoint import Checkpoints, Place

    checkpoints = Checkpoints(tmp_path, "hash", keep=2)
    checkpoints.save(Place(epoch=1, images=10), {"w": np.arange(3)})

    def full(path, data):
        path.with_name(".half").write_bytes(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.checkpoint.write_atomically", full)
    with pytest.raises(DataError, match=r"cannot be written: No space left.*go"):
        checkpoints.save(Place(epoch=1, images=20), {"w": np.arange(4)})
    place, state = checkpoints.load()
    assert place.images == 10
    np.testing.assert_array_equal(state["w"], np.arange(3))


def test_the_last_checkpoints_are_kept_and_a_broken_one_is_passed_over(tmp_path):
    from training.checkpoint import Checkpoints, Place

    checkpoints = Checkpoints(tmp_path, "hash", keep=2)
    for epoch in (1, 2, 3):
        checkpoints.save(Place(epoch=epoch), {"w": np.array(epoch)})
    paths = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name[:4] for path in paths] == ["0002", "0003"]
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    assert checkpoints.load()[0].epoch == 2
    with pytest.raises(DataError, match="another recipe"):
        Checkpoints(tmp_path, "other", keep=2).load()


def test_convzoo_train_exits_with_6_when_it_is_stopped_before_its_first_step(tmp_path):
    """While data are read; libraries that pass over every exception do not hide the signal."""
    code = (
        "import sys, time\n"
        "from training.data.sources import DigitsSource\n"
        "def slow(self):\n"
        "    print('reading', flush=True)\n"
        "    try:\n"
        "        time.sleep(100)\n"
        "    except Exception:\n"
        "        time.sleep(100)\n"
        "DigitsSource._load = slow\n"
        "from zoo.command import main\n"
        "main(['train', 'digits_lenet5_modern', '--out', sys.argv[1]])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        watchdog = threading.Timer(600, process.kill)  # a machine may be slow
        watchdog.start()
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait() == 6
        watchdog.cancel()
    assert "The same command goes on" in rest
    assert "Traceback" not in rest


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
        watchdog = threading.Timer(600, process.kill)  # a machine may be slow
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
