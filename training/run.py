"""A run on disk: what a training run leaves for evaluation, publishing and resuming.

    recipe.json       the recipe, its hash, the data's hash, the labels, library versions
    data.json         what was found in the data
    preprocessing.json, preprocessing.npz
    model.keras       the trained network
    metrics.jsonl     one line per epoch
    evaluation.json   measured once, on the held-out part
    curves.png  confusion.png  mistakes.png
    holdout.npz       some held-out images (pixels at the input's size, class ids)
    holdout/<index>_<label>.png
    calibration.npz   some training images, for int8; validation.npz likewise
    drift.json        what the training images look like in numbers
    checkpoints/      the states to go on from; gone when the run is complete
    snapshots/        weights of the epochs that the recipe names
    tensorboard/      the same curves for TensorBoard

No framework is imported here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from training.data.dataset import Images
from training.data.sources import WITHOUT_PATH
from training.recipe import Recipe
from zoo.artifact import Metric, write_atomically
from zoo.drift.records import Baseline
from zoo.errors import DataError, UsageError
from zoo.frozen import Frozen
from zoo.preprocess import Floats, Pixels, Preprocessing

HOLDOUT = 512
CALIBRATION = 300
VALIDATION = 2000
HOLDOUT_PICTURES = 32


class RunRecord(Frozen):
    """What was decided before the first step."""

    recipe: dict[str, Any]
    recipe_sha256: str
    data: str
    data_sha256: str
    init_sha256: str = ""
    labels: tuple[str, ...]
    libraries: dict[str, str]
    code_revision: str = ""


class Evaluation(Frozen):
    """What was measured on the held-out part.

    Attributes:
        metrics: e.g. accuracy, a fraction with its 95 % interval.
        confusion: Rows are true classes, columns predicted ones, entries are counts.
        per_class: Recall, the share of a class's images that were recognised.
        precision: The share of right answers among those that named a class.
        reliability: Rows of (images, mean confidence, accuracy), one a bin of confidence.
        robustness: Accuracy on changed images, by change and strength, e.g. "blur 1.0".
    """

    metrics: dict[str, Metric]
    confusion: tuple[tuple[int, ...], ...]
    per_class: dict[str, Metric] = Field(default_factory=dict)
    precision: dict[str, Metric] = Field(default_factory=dict)
    reliability: tuple[tuple[int, float, float], ...] = ()
    robustness: dict[str, Metric] = Field(default_factory=dict)


class Epoch(Frozen):
    """One line of metrics.jsonl; accuracies are fractions, losses are means per image.

    `waiting` is the share of the time that was spent waiting for data.
    """

    epoch: int
    loss: float
    accuracy: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    learning_rate: float
    seconds: float
    images_per_s: float
    waiting: float = 0.0


class Run:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / "model.keras"

    @property
    def is_complete(self) -> bool:
        """Whether training and evaluation have ended."""
        return (self.path / "evaluation.json").is_file() and self.model.is_file()

    def require_complete(self) -> None:
        """Raises `UsageError` when there is nothing to publish here."""
        if not self.path.is_dir():
            raise UsageError(f"There is no run at {self.path}; `convzoo train` makes one.")
        if not self.is_complete:
            missing = [
                name
                for name in ("recipe.json", "model.keras", "evaluation.json")
                if not (self.path / name).is_file()
            ]
            raise UsageError(
                f"The run at {self.path} is not complete: it lacks {', '.join(missing)}. "
                "`convzoo train ... --out` the same folder goes on where it stopped."
            )

    # --- writing

    def write_record(self, record: RunRecord) -> None:
        """Begins a run: from here on the folder is this recipe's."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_json("recipe.json", record)

    def write_preprocessing(
        self, preprocessing: Preprocessing, arrays: Mapping[str, Floats]
    ) -> None:
        """Keeps the preprocessing with its fitted arrays."""
        self._write_json("preprocessing.json", preprocessing)
        if arrays:
            with (self.path / "preprocessing.npz").open("wb") as file:
                np.savez(file, allow_pickle=False, **dict(arrays))

    def append_epoch(self, epoch: Epoch) -> None:
        """Adds an epoch to metrics.jsonl, in place of any later ones a resumed run had."""
        kept = [each for each in self.epochs() if each.epoch < epoch.epoch]
        lines = "".join(each.model_dump_json() + "\n" for each in [*kept, epoch])
        write_atomically(self.path / "metrics.jsonl", lines.encode())

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is a state to go on from."""
        return any((self.path / "checkpoints").glob("*.npz"))

    def begin_again(self) -> None:
        """Forgets how far a run that was stopped had come."""
        for path in (self.path / "checkpoints").glob("*.npz"):
            path.unlink()
        for name in ("metrics.jsonl", "preprocessing.npz"):
            (self.path / name).unlink(missing_ok=True)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Completes the run."""
        self._write_json("evaluation.json", evaluation)

    def write_holdout(
        self, images: Images, original: Callable[[int], Pixels], labels: tuple[str, ...]
    ) -> None:
        """Keeps some held-out images.

        Args:
            images: At the network's input size: golden records come from them.
            original: The image at a row as it came, for people and for the demo.
            labels: The class names.
        """
        from PIL import Image

        some = images.take(np.arange(min(HOLDOUT, len(images))))
        with (self.path / "holdout.npz").open("wb") as file:
            np.savez(
                file, allow_pickle=False, pixels_nhwc=some.pixels_nhwc, class_ids=some.class_ids
            )
        folder = self.path / "holdout"
        folder.mkdir(exist_ok=True)
        for index, class_id in enumerate(some.class_ids[:HOLDOUT_PICTURES]):
            # A file's name has at most 255 bytes; a class name may have as many by itself.
            label = labels[class_id].replace("/", "_").encode()[:200].decode(errors="ignore")
            pixels = original(index)
            picture = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
            Image.fromarray(picture).save(folder / f"{index:03d}_{label}.png")

    def write_sample(self, name: str, images: Images, most: int) -> None:
        """Keeps some images at the network's input size, evenly over the part, as `name`.npz."""
        rows = np.linspace(0, len(images) - 1, min(most, len(images))).astype(np.int64)
        some = images.take(np.unique(rows)) if len(images) else images
        with (self.path / f"{name}.npz").open("wb") as file:
            np.savez(
                file, allow_pickle=False, pixels_nhwc=some.pixels_nhwc, class_ids=some.class_ids
            )

    def write_baseline(self, baseline: Baseline) -> None:
        """Keeps the first part of the baseline of drift, that of inputs."""
        self._write_json("drift.json", baseline)

    def write_data_report(self, report: Frozen) -> None:
        """Keeps what was found in the data."""
        self._write_json("data.json", report)

    def _write_json(self, name: str, value: Frozen) -> None:
        write_atomically(self.path / name, value.model_dump_json(indent=2).encode() + b"\n")

    # --- reading

    def record(self) -> RunRecord:
        """Reads recipe.json."""
        return RunRecord.model_validate_json(self._read("recipe.json"))

    def recipe(self) -> Recipe:
        """The recipe, without paths (they belong to the machine that trained)."""
        plain = self.record().recipe
        if plain["data"]["source"] not in WITHOUT_PATH:
            plain["data"]["data_dir"] = "."
        return Recipe.model_validate(plain)

    def preprocessing(self) -> tuple[Preprocessing, dict[str, Floats]]:
        """The preprocessing and its fitted arrays."""
        settings = Preprocessing.model_validate_json(self._read("preprocessing.json"))
        path = self.path / "preprocessing.npz"
        if not path.exists():
            return settings, {}
        with np.load(path, allow_pickle=False) as file:
            return settings, {name: file[name] for name in file.files}

    def epochs(self) -> list[Epoch]:
        """The epochs so far."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        return [Epoch.model_validate_json(line) for line in path.read_bytes().splitlines()]

    def evaluation(self) -> Evaluation:
        """Reads evaluation.json."""
        return Evaluation.model_validate_json(self._read("evaluation.json"))

    def holdout(self) -> Images:
        """The kept held-out images."""
        return self.sample("holdout")

    def sample(self, name: str) -> Images:
        """Kept images: "holdout", "calibration" (of the training part) or "validation".

        Raises:
            DataError: the run has none, being of an earlier version.
        """
        self._read(f"{name}.npz")
        with np.load(self.path / f"{name}.npz", allow_pickle=False) as file:
            return Images(file["pixels_nhwc"], file["class_ids"])

    def baseline(self) -> Baseline | None:
        """The baseline of the run's inputs; None in a run of an earlier version."""
        if not (self.path / "drift.json").is_file():
            return None
        return Baseline.model_validate_json(self._read("drift.json"))

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / name} cannot be read: {error.strerror}.") from error
