"""From a recipe to a complete run: data, network, loop, evaluation, pictures."""

import platform
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import zoo
from training import baseline
from training.data import views
from training.data.check import check
from training.data.fit import check as check_numbers
from training.data.fit import fit
from training.data.pipeline import centre, stored_steps
from training.data.store import Stored, store
from training.evaluate import evaluate
from training.recipe import Recipe
from training.run import CALIBRATION, VALIDATION, Evaluation, Run, RunRecord
from zoo.catalog import check_options
from zoo.errors import DataError, UsageError
from zoo.preprocess import Floats, Preprocessing
from zoo.quiet import import_tensorflow
from zoo.spec import ImageInput
from zoo.versions import lock

if TYPE_CHECKING:
    import keras

    from training.loop import Loop, Progress
    from training.strategy import Devices

LIBRARIES = ("tensorflow", "keras", "numpy", "openvino", "convzoo")


def train(
    recipe: Recipe,
    run: Run,
    on_progress: "Callable[[Progress], None]" = lambda _: None,
    talk: Callable[[str], None] = lambda _: None,
    *,
    resume: bool = True,
) -> Evaluation | None:
    """Trains a recipe and measures the result on the held-out part.

    Args:
        recipe: What to train.
        run: Where everything goes; a run of the same recipe that was stopped is resumed.
        on_progress: Called every few steps.
        talk: Takes one line for each stage.
        resume: False begins again where a run of the same recipe was stopped; what it left is
            removed only when the first step can be made.

    Returns:
        What was measured on the held-out part; None in a worker that is not the chief.

    Raises:
        UsageError: an unknown network or option, or the folder holds another run.
        BusyError: another process trains in the folder.
        DataError: the data cannot be used.
        InterruptedRunError: stopped from outside; the same call goes on.
    """
    input_ = input_of(recipe)
    devices = None
    if recipe.strategy != "single":
        # Several workers must find each other before TensorFlow does anything else.
        import_tensorflow()
        from training.strategy import Devices

        devices = Devices(recipe.strategy)
        devices.check(recipe)
        talk(f"{recipe.strategy}: {devices.replicas} replicas in {devices.workers} processes")
    if devices is not None and not devices.is_chief:
        with tempfile.TemporaryDirectory() as nowhere:
            _prepare_and_fit(recipe, input_, Run(Path(nowhere)), devices, lambda _: None, talk)
        return None
    # Two in one folder would write over each other's checkpoints and curves.
    with lock(run.path, ".train.lock", is_waiting=False):
        check_folder(run, recipe, resume=resume)
        return _train(recipe, input_, run, devices, on_progress, talk, resume=resume)


def _train(
    recipe: Recipe,
    input_: ImageInput,
    run: Run,
    devices: "Devices | None",
    on_progress: "Callable[[Progress], None]",
    talk: Callable[[str], None],
    *,
    resume: bool,
) -> Evaluation:
    loop, stored, preprocessing, arrays = _prepare_and_fit(
        recipe, input_, run, devices, on_progress, talk, resume=resume
    )
    evaluation, logits_nk = _measure(recipe, loop, stored, preprocessing, arrays, talk)
    _in_float32(recipe, loop.model, stored.dataset.labels).save(run.model)
    test = centre(stored.dataset.test, input_.shape)
    parts = stored.dataset.parts()
    inputs = centre(parts["train"], input_.shape)
    run.write_baseline(
        baseline.of_inputs(inputs, stored.seen["train"].sizes, preprocessing, arrays)
    )
    run.write_sample("calibration", inputs, CALIBRATION)
    run.write_sample("validation", centre(parts["validation"], input_.shape), VALIDATION)
    run.write_holdout(test, partial(stored.originals, "test"), stored.dataset.labels)
    pictures(run, evaluation, stored, logits_nk)
    run.write_evaluation(evaluation)
    loop.end()
    return evaluation


def _prepare_and_fit(
    recipe: Recipe,
    input_: ImageInput,
    run: Run,
    devices: "Devices | None",
    on_progress: "Callable[[Progress], None]",
    talk: Callable[[str], None],
    *,
    resume: bool = True,
) -> "tuple[Loop, Stored, Preprocessing, dict[str, Floats]]":
    steps = steps_of(recipe, input_)
    views.check(steps, recipe.test_time)
    check_numbers(steps)
    if recipe.model.options:
        # Reading the data may take an hour, and a wrong name is told at once.
        import_tensorflow()
        check_options(recipe.model.name, recipe.model.options)
    stored = prepare_data(recipe, steps, run, talk, resume=resume)
    dataset = stored.dataset
    preprocessing, arrays = fit(steps, centre(dataset.train, input_.shape))
    import_tensorflow()
    import keras

    from training.fine_tune import check_patterns, reuse
    from training.loop import Loop
    from training.strategy import Devices

    devices = devices or Devices("single")
    with devices.scope():
        model = _create(recipe, len(dataset.labels))
    talk(f"{recipe.model.name}: {model.count_params():,} parameters")
    reused = None
    if recipe.fine_tuning is not None:
        check_patterns(model, recipe.fine_tuning)
        if recipe.fine_tuning.init_from is not None:
            reused = reuse(model, recipe.fine_tuning.init_from, dataset.labels)
            talk(f"Reused: {', '.join(reused.layers)}")
            for name, why in reused.new.items():
                talk(f"New: {name} ({why})")
    loop = Loop(recipe, model, dataset, preprocessing, arrays, run, devices, reused)
    if not resume:
        run.begin_again()
    # Not before: a first try that fails must leave no folder that refuses the second.
    run.write_record(record_of(recipe, stored))
    run.write_preprocessing(preprocessing, arrays)
    loop.fit(on_progress)
    keras.config.set_dtype_policy("float32")
    return loop, stored, preprocessing, arrays


def steps_of(recipe: Recipe, input_: ImageInput) -> Preprocessing:
    """What a recipe does to images; numbers that it leaves out are not fitted yet."""
    given = recipe.preprocessing
    return Preprocessing(
        input=input_,
        upright=given.upright,
        pixel_steps=given.pixel_steps,
        input_steps=given.input_steps,
    )


def prepare_data(
    recipe: Recipe,
    steps: Preprocessing,
    run: Run,
    talk: Callable[[str], None],
    *,
    resume: bool = True,
) -> "Stored":
    """Reads, decodes and checks the data, and keeps the report.

    Raises:
        DataError: the check found what must be put right first; names it.
        UsageError: the run was begun on other data, or from other weights.
    """
    dataset = recipe.data.load()
    kept = stored_steps(steps, recipe.augmentation)
    stored = store(
        dataset,
        kept,
        on_corrupt=recipe.data.on_corrupt,
        scratch=run.path,
    )
    parts = stored.dataset.parts()
    talk(
        f"{dataset.name}: {len(parts['train']):,} images to train on, "
        f"{len(parts['validation']):,} to validate, {len(parts['test']):,} held out"
    )
    if resume:
        check_begun(run, recipe, stored)
    report = check(
        dataset.name,
        dataset.labels,
        stored.seen,
        on_corrupt=recipe.data.on_corrupt,
        notes=dataset.notes,
    )
    run.write_data_report(report)
    for warning in report.warnings:
        talk(f"Warning: {warning}")
    if report.problems:
        raise DataError(f"The data cannot be used: {' '.join(report.problems)}")
    return stored


def _create(recipe: Recipe, num_classes: int) -> "keras.Model":
    """The recipe's network, with the recipe's initial weights."""
    import keras

    policies = {"bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
    keras.config.set_dtype_policy(policies.get(recipe.precision, "float32"))
    keras.utils.set_random_seed(recipe.seed)
    return zoo.create(
        recipe.model.name,
        input_shape=input_of(recipe).shape,
        num_classes=num_classes,
        **recipe.model.options,
    )


def _in_float32(recipe: Recipe, model: "keras.Model", labels: tuple[str, ...]) -> "keras.Model":
    """The trained network; one trained in half precision answers in single precision."""
    if recipe.precision == "float32":
        return model
    plain = _create(recipe.model_copy(update={"precision": "float32"}), len(labels))
    plain.set_weights(model.get_weights())
    return plain


def _measure(
    recipe: Recipe,
    loop: "Loop",
    stored: "Stored",
    preprocessing: Preprocessing,
    arrays: "dict[str, Floats]",
    talk: Callable[[str], None],
) -> "tuple[Evaluation, Floats]":
    """The evaluation on the held-out part, and its logits (of views: logarithms of means)."""
    test = stored.dataset.test
    if recipe.test_time == "centre":
        logits_nk = loop.logits(test)
    else:
        from training.predictor import Predictor

        talk(f"Measuring with {recipe.test_time}")
        predictor = Predictor(loop.model, preprocessing, arrays)
        logits_nk = predictor.logits_of_views(
            (stored.originals("test", row) for row in range(len(test))), recipe.test_time
        )
    return evaluate(logits_nk, test.class_ids, stored.dataset.labels), logits_nk


def input_of(recipe: Recipe) -> ImageInput:
    """The input of the recipe's network: the recipe's, or its paper's."""
    spec = zoo.describe(recipe.model.name)
    if "input_shape" in recipe.model.options:
        raise UsageError("The input's size is set by `input`, not by model.options.input_shape.")
    return recipe.input or spec.input


def check_folder(run: Run, recipe: Recipe, *, resume: bool = True) -> None:
    """Refuses a folder that holds a complete run, or one of another recipe.

    A run of another recipe that has no checkpoint may be begun again: nothing is lost.

    Raises:
        UsageError: it does.
    """
    if not (run.path / "recipe.json").exists():
        return
    if run.is_complete:
        raise UsageError(f"{run.path} holds a complete run already; choose another --out.")
    if run.record().recipe_sha256 == recipe.sha256():
        return
    if run.has_checkpoints:
        raise UsageError(f"{run.path} holds a run of another recipe; choose another --out.")
    if resume:
        raise UsageError(
            f"{run.path} holds a run of another recipe, without a checkpoint; choose another "
            "--out, or begin again with --no-resume."
        )


def check_begun(run: Run, recipe: Recipe, stored: "Stored") -> None:
    """Refuses to go on with other data or other initial weights than a run was begun with.

    The recipe's hash knows neither: paths are left out of it.

    Raises:
        UsageError: they are others.
    """
    if not (run.path / "recipe.json").exists():
        return
    from training.fine_tune import sha256_of

    begun, labels = run.record(), stored.dataset.labels
    what = ""
    if begun.labels != labels:
        what = f"on data with the classes {_few(begun.labels)}; here they are {_few(labels)}"
    elif begun.data_sha256 != stored.sha256():
        what = f"on other data ({begun.data!r}, SHA-256 {begun.data_sha256[:12]}...)"
    elif begun.init_sha256 != sha256_of(recipe.fine_tuning):
        what = "from other initial weights (--init-from)"
    if what:
        raise UsageError(
            f"{run.path} holds a run {what}. Choose another --out, or begin again with --no-resume."
        )


def _few(labels: tuple[str, ...]) -> str:
    return ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")


def record_of(recipe: Recipe, stored: "Stored") -> RunRecord:
    """What is known before the first step."""
    from training.fine_tune import sha256_of

    return RunRecord(
        recipe=recipe.record(),
        recipe_sha256=recipe.sha256(),
        data=stored.dataset.name,
        data_sha256=stored.sha256(),
        init_sha256=sha256_of(recipe.fine_tuning),
        labels=stored.dataset.labels,
        libraries=library_versions(),
        code_revision=code_revision(),
    )


def library_versions() -> dict[str, str]:
    """Versions of what decides the numbers; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def code_revision() -> str:
    """The git commit of this source, with "+" when it was changed; empty outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")


def _git(folder: Path, *args: str) -> str:
    return subprocess.run(  # noqa: S603 - fixed arguments
        ["git", "-C", str(folder), *args],  # noqa: S607 - git is found as users find it
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.strip()


def pictures(run: Run, evaluation: Evaluation, stored: "Stored", logits_nk: "Floats") -> None:
    """Draws curves.png, confusion.png, reliability.png and, when there are any, mistakes.png."""
    from training import report

    accuracy = evaluation.metrics["accuracy"]
    labels = stored.dataset.labels
    title = f"{run.record().recipe['model']['name']} on {stored.dataset.name}"
    report.curves(run.epochs(), run.path / "curves.png", title)
    report.confusion(
        evaluation,
        labels,
        run.path / "confusion.png",
        f"{title}: top-1 accuracy {accuracy.value:.2%} on {accuracy.examples:,} held-out images",
    )
    report.reliability(evaluation, run.path / "reliability.png", title)
    report.mistakes(
        partial(stored.originals, "test"),
        stored.dataset.test.class_ids,
        logits_nk,
        labels,
        run.path / "mistakes.png",
    )
