"""TensorFlow Datasets, where the package is installed."""

from pathlib import Path
from typing import Any

import numpy as np

from training.data.dataset import Files
from zoo.errors import DataError, UsageError


def load(
    name: str, data_dir: Path | None, train: str, test: str
) -> tuple[Files, Files, tuple[str, ...]]:
    """Loads the splits `train` and `test` of a data set with the features `image` and `label`.

    Args:
        name: e.g. "imagenette/160px-v2".
        data_dir: Where its prepared files are; TensorFlow Datasets' own folder when None.
        train: A split, also a part of one ("train[:90%]").
        test: Likewise.

    Returns:
        The encoded images of both, and the class names.

    Raises:
        UsageError: the package is not installed.
        DataError: no such data set, or one without `image` and `label`.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UsageError(
            "The source tfds needs the package tensorflow-datasets: "
            "pip install tensorflow-datasets."
        ) from error
    try:
        builder = tensorflow_datasets.builder(name, data_dir=data_dir and str(data_dir))
        builder.download_and_prepare()
        features = builder.info.features
        labels = tuple(features["label"].names)
        features["image"]
    # What it raises differs by data set, file system and download.
    except Exception as error:
        raise DataError(f"The data set {name!r} cannot be used: {error}") from error
    skip = {"image": tensorflow_datasets.decode.SkipDecoding()}

    def part(split: str) -> Files:
        read: dict[str, Any] = {}
        ids = []
        records = builder.as_dataset(split=split, decoders=skip, shuffle_files=False)
        for number, record in enumerate(records.as_numpy_iterator()):
            read[f"{split}#{number}"] = record["image"]
            ids.append(record["label"])
        return Files(tuple(read), np.array(ids, dtype=np.int64), read.__getitem__)

    return part(train), part(test), labels
