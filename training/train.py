"""From a recipe to a complete run: data, network, loop, evaluation, pictures."""

import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import zoo
from training.data.dataset import Dataset
from training.data.pipeline import at_input_size
from training.evaluate import evaluate
from training.recipe import Recipe
from training.run import Evaluation, Run, RunRecord
from zoo.errors import UsageError
from zoo.preprocess import Preprocessing
from zoo.spec import ImageInput

if TYPE_CHECKING:
    import numpy as np

    from training.loop import Progress

LIBRARIES = ("tensorflow", "keras", "numpy", "openvino", "convzoo")


def train(
    recipe: Recipe,
    run: Run,
    on_progress: "Callable[[Progress], None]" = lambda _: None,
    talk: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Trains a recipe and measures the result on the held-out part.

    Args:
        recipe: What to train.
        run: Where everything goes; a run of the same recipe that was stopped is resumed.
        on_progress: Called every few steps.
        talk: Takes one line for each stage.

    Returns:
        What was measured on the held-out part.

    Raises:
        UsageError: an unknown network or option, or the folder holds another run.
        DataError: the data cannot be used.
        InterruptedRunError: stopped from outside; the same call goes on.
    """
    input_ = input_of(recipe)
    check_folder(run, recipe)
    dataset = recipe.data.load()
    talk(
        f"{dataset.name}: {len(dataset.train):,} images to train on, "
        f"{len(dataset.validation):,} to validate, {len(dataset.test):,} held out"
    )
    preprocessing = Preprocessing(
        input=input_,
        pixel_steps=recipe.preprocessing.pixel_steps,
        input_steps=recipe.preprocessing.input_steps,
    )
    run.write_record(record_of(recipe, dataset))
    run.write_preprocessing(preprocessing, {})
    sized = Dataset(
        dataset.name,
        at_input_size(dataset.train, preprocessing),
        at_input_size(dataset.validation, preprocessing),
        at_input_size(dataset.test, preprocessing),
        dataset.labels,
    )

    from zoo.quiet import import_tensorflow

    import_tensorflow()
    import keras

    from training.loop import Loop

    keras.utils.set_random_seed(recipe.seed)
    model = zoo.create(
        recipe.model.name,
        input_shape=input_.shape,
        num_classes=len(dataset.labels),
        **recipe.model.options,
    )
    talk(f"{recipe.model.name}: {model.count_params():,} parameters")
    loop = Loop(recipe, model, sized, preprocessing, {}, run)
    loop.fit(on_progress)

    logits_nk = loop.logits(sized.test)
    evaluation = evaluate(logits_nk, sized.test.class_ids, dataset.labels)
    model.save(run.model)
    run.write_holdout(dataset.test, dataset.labels)
    pictures(run, evaluation, dataset, logits_nk)
    run.write_evaluation(evaluation)
    run.checkpoint.unlink(missing_ok=True)
    return evaluation


def input_of(recipe: Recipe) -> ImageInput:
    """The input of the recipe's network: the recipe's, or its paper's."""
    spec = zoo.describe(recipe.model.name)
    if "input_shape" in recipe.model.options:
        raise UsageError("The input's size is set by `input`, not by model.options.input_shape.")
    return recipe.input or spec.input


def check_folder(run: Run, recipe: Recipe) -> None:
    """Refuses a folder that holds a complete run, or one of another recipe.

    Raises:
        UsageError: it does.
    """
    if not (run.path / "recipe.json").exists():
        return
    if run.is_complete:
        raise UsageError(f"{run.path} holds a complete run already; choose another --out.")
    if run.record().recipe_sha256 != recipe.sha256():
        raise UsageError(f"{run.path} holds a run of another recipe; choose another --out.")


def record_of(recipe: Recipe, dataset: Dataset) -> RunRecord:
    """What is known before the first step."""
    return RunRecord(
        recipe=recipe.record(),
        recipe_sha256=recipe.sha256(),
        data=dataset.name,
        data_sha256=dataset.sha256(),
        labels=dataset.labels,
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


def pictures(
    run: Run, evaluation: Evaluation, dataset: Dataset, logits_nk: "np.typing.NDArray[np.float32]"
) -> None:
    """Draws curves.png, confusion.png and, when there are any, mistakes.png."""
    from training import report

    accuracy = evaluation.metrics["accuracy"]
    title = f"{run.record().recipe['model']['name']} on {dataset.name}"
    report.curves(run.epochs(), run.path / "curves.png", title)
    report.confusion(
        evaluation,
        dataset.labels,
        run.path / "confusion.png",
        f"{title}: top-1 accuracy {accuracy.value:.2%} on {accuracy.examples:,} held-out images",
    )
    report.mistakes(dataset.test, logits_nk, dataset.labels, run.path / "mistakes.png")
