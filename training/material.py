"""What a published version is made of, whether a run or somebody else's weights give it."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.dataset import Images
from training.predictor import load_keras
from training.run import Run
from zoo.artifact import Architecture
from zoo.drift.records import Baseline
from zoo.preprocess import Floats, Preprocessing


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Material:
    """A network and what is known of it.

    Attributes:
        name: What the model is called when nobody says otherwise.
        model: The network as it answers: from inputs to logits.
        save_model: Writes it as a `.keras` file.
        save_reports: Writes what was measured into a folder that it makes.
        preprocessing: With all its numbers.
        arrays: What its fitted steps name.
        labels: The class names.
        about: Further fields of the manifest.
        data: What the model card says it was measured on.
        golden: At the input's size; the golden records come from the first ones.
        cause: Why a network of this origin may answer with NaN.
        sample: "validation", images that tell what fewer bits cost, or "calibration"; may be empty.
        has_classes: Whether their class ids are true; else the fp32 form's own answers stand for
            them.
        baseline: What the training data look like; None where there is no such data.
        no_baseline: Why there is none.
        answered: Images that the network has not learned from, for the baseline of its answers.
    """

    name: str
    model: Any
    save_model: Callable[[Path], object]
    save_reports: Callable[[Path], object] = lambda _: None
    preprocessing: Preprocessing
    arrays: Mapping[str, Floats]
    labels: tuple[str, ...]
    about: Mapping[str, Any]
    data: str = ""
    golden: Callable[[], Images]
    cause: str
    sample: Callable[[str], Images]
    has_classes: bool = True
    baseline: Baseline | None
    no_baseline: str
    answered: Callable[[], tuple[Images, ...]]


def of_run(run: Run) -> Material:
    """What a complete run gives."""
    recipe, record = run.recipe(), run.record()
    preprocessing, arrays = run.preprocessing()
    return Material(
        name=recipe.publish_as or recipe.model.name,
        model=load_keras(run.model),
        save_model=lambda place: shutil.copyfile(run.model, place),
        save_reports=lambda place: _copy_reports(run, place),
        preprocessing=preprocessing,
        arrays=arrays,
        labels=record.labels,
        about={
            "architecture": Architecture(name=recipe.model.name, options=recipe.model.options),
            "metrics": run.evaluation().metrics,
            "recipe": record.recipe,
            "recipe_sha256": record.recipe_sha256,
            "data_sha256": record.data_sha256,
            "code_revision": record.code_revision,
            "libraries": record.libraries,
        },
        data=record.data,
        golden=run.holdout,
        cause="it diverged in training",
        sample=run.sample,
        baseline=run.baseline(),
        no_baseline="this run was made before there was one",
        answered=lambda: (run.sample("validation"), run.holdout()),
    )


def _copy_reports(run: Run, place: Path) -> None:
    place.mkdir(parents=True)
    for name in ("evaluation.json", "metrics.jsonl", "data.json"):
        if (run.path / name).is_file():
            shutil.copyfile(run.path / name, place / name)
    for picture in sorted(run.path.glob("*.png")):
        shutil.copyfile(picture, place / picture.name)
