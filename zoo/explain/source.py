"""Where a network to look into comes from: a published version, a model's folder, or a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.artifact import (
    KERAS_MODEL,
    has_manifest,
    list_versions,
    read_manifest,
    read_preprocessing_arrays,
)
from zoo.errors import UsageError
from zoo.explain.methods import Subject
from zoo.explain.probe import Floats, Probe
from zoo.preprocess import Preprocessing


@dataclass(frozen=True, slots=True)
class Source:
    """A network on disk.

    Attributes:
        name: For titles, e.g. "lenet5_modern 3".
        keras_file: The `.keras` file.
        preprocessing: How images become its input.
        arrays: What its fitted steps need.
        labels: The names of its classes.
        snapshots: Weights that a run kept, by epoch; a published version has none.
    """

    name: str
    keras_file: Path
    preprocessing: Preprocessing
    arrays: Mapping[str, Floats]
    labels: tuple[str, ...]
    snapshots: Mapping[int, Path]

    def subject(self, probe: Probe, image: bytes) -> Subject:
        """The network with one image.

        Raises:
            ImageError: the bytes are no image that it can take.
        """
        pixels = self.preprocessing.to_pixels(self.preprocessing.decode(image))
        return Subject(
            probe=probe,
            pixels_hwc=pixels,
            image_hwc=self.preprocessing.to_input(pixels[None], self.arrays)[0],
            input=self.preprocessing.input,
            labels=self.labels,
        )


def open_source(path: Path) -> Source:
    """Reads what lies at a path.

    Args:
        path: `<base path>/<model>/<version>`, `<base path>/<model>` for its newest version, or the
            folder of a run.

    Raises:
        UsageError: there is nothing of the kind; says what was looked for.
    """
    if has_manifest(path):
        return _version(path)
    if path.is_dir() and (versions := list_versions(path)):
        newest = versions[max(versions)]
        if has_manifest(newest):
            return _version(newest)
    if (path / "model.keras").is_file() and (path / "preprocessing.json").is_file():
        return _run(path)
    raise UsageError(
        f"{path} is neither a version that convzoo published (<base path>/<model>/<version>) nor "
        "a complete run (model.keras, preprocessing.json). `convzoo train` makes a run."
    )


def _version(path: Path) -> Source:
    manifest = read_manifest(path)
    keras_file = path / KERAS_MODEL
    if not keras_file.is_file():
        raise UsageError(f"Version {path} was published without {KERAS_MODEL}.")
    return Source(
        name=f"{manifest.model} {manifest.version}",
        keras_file=keras_file,
        preprocessing=manifest.preprocessing,
        arrays=read_preprocessing_arrays(path),
        labels=manifest.labels,
        snapshots={},
    )


def _run(path: Path) -> Source:
    import numpy as np

    arrays: dict[str, Floats] = {}
    if (path / "preprocessing.npz").exists():
        with np.load(path / "preprocessing.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    record = json.loads((path / "recipe.json").read_bytes())
    text = (path / "preprocessing.json").read_bytes()
    kept = {
        int(number): each
        for each in path.glob("snapshots/epoch_*.npz")
        if (number := each.stem.removeprefix("epoch_")).isdecimal()
    }
    return Source(
        name=str(path),
        keras_file=path / "model.keras",
        preprocessing=Preprocessing.model_validate_json(text),
        arrays=arrays,
        labels=tuple(record["labels"]),
        snapshots=dict(sorted(kept.items())),
    )
