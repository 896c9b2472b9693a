"""Images in an .npz file, as `keras.datasets` and many papers keep them."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Images
from zoo.errors import DataError

NAMES = (
    *(("x_train", "y_train", "x_test", "y_test"),),
    ("train_images", "train_labels", "test_images", "test_labels"),
)


def load(path: Path) -> tuple[Images, Images]:
    """The training and test images of an .npz file.

    Args:
        path: With arrays x_train, y_train, x_test, y_test (or train_images, train_labels,
            test_images, test_labels): uint8 [N, h, w] or [N, h, w, c]; class ids [N] or [N, 1].

    Raises:
        DataError: no such file or array, or an array of another kind; names both.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            for names in NAMES:
                if set(names) <= set(file.files):
                    x_train, y_train, x_test, y_test = (file[name] for name in names)
                    return _images(x_train, y_train, names), _images(x_test, y_test, names)
            raise DataError(
                f"{path} has the arrays {', '.join(file.files) or 'none'}; "
                f"expected {', '.join(NAMES[0])} or {', '.join(NAMES[1])}."
            )
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from error


def _images(pixels: NDArray[Any], ids: NDArray[Any], names: tuple[str, ...]) -> Images:
    if pixels.ndim == 3:
        pixels = pixels[:, :, :, None]
    if ids.ndim == 2 and ids.shape[1] == 1:
        ids = ids[:, 0]
    if not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"{names[1]} and {names[3]} are whole numbers; found {ids.dtype}.")
    return Images(pixels, ids.astype(np.int64))
