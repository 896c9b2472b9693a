"""CIFAR-10 and CIFAR-100 [krizhevsky2009] in the forms their author published.

Binary: `data_batch_1.bin` ... `test_batch.bin`, records of one label byte (two for CIFAR-100: coarse,
fine) and 3,072 pixel bytes, 1,024 a channel, row-major. Python: `data_batch_1` ... `test_batch`,
pickles of {"data": uint8 [10000, 3072], "labels": [...]}.
"""

import io
import pickle  # noqa: TID251 - read by an unpickler that builds arrays and nothing else
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Images
from zoo.errors import DataError

LABELS_10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
PIXEL_BYTES = 3 * 32 * 32
TRAIN_10 = tuple(f"data_batch_{number}" for number in range(1, 6))


def load(folder: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """The training and test images, uint8 [N, 32, 32, 3] RGB, and the class names.

    Args:
        folder: With the binary or the Python batches of CIFAR-10 or CIFAR-100, or a folder above.

    Raises:
        DataError: none of them is there, or one is damaged; names it.
    """
    place, names, suffix = _find(folder)
    parts = []
    for part in names:
        read = _read_binary if suffix else _read_python
        loaded = [read(place / f"{name}{suffix}") for name in part]
        parts.append(
            Images(
                np.concatenate([pixels for pixels, _ in loaded]),
                np.concatenate([ids for _, ids in loaded]),
            )
        )
    return parts[0], parts[1], _labels(place, is_hundred=names[0] == ("train",))


def _find(folder: Path) -> tuple[Path, tuple[tuple[str, ...], tuple[str, ...]], str]:
    forms = (((TRAIN_10, ("test_batch",))), ((("train",), ("test",))))
    below = sorted(each for each in folder.glob("cifar-10*") if each.is_dir())
    for place in (folder, *below):
        for names in forms:
            for suffix in (".bin", ""):
                wanted = [place / f"{name}{suffix}" for part in names for name in part]
                there = [each.is_file() for each in wanted]
                if all(there):
                    return place, names, suffix
                if any(there) and names is forms[0]:
                    missing = wanted[there.index(False)].name
                    raise DataError(f"{place} lacks {missing}; CIFAR-10 has six batches.")
    raise DataError(
        f"{folder} has no CIFAR batches; expected data_batch_1.bin to data_batch_5.bin and "
        "test_batch.bin, or data_batch_1 to data_batch_5 and test_batch, or train.bin and test.bin."
    )


def _read_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    data = np.fromfile(path, dtype=np.uint8)
    # CIFAR-100's records have a coarse label before the fine one.
    label_bytes = 2 if path.stem in ("train", "test") else 1
    size = label_bytes + PIXEL_BYTES
    if not len(data) or len(data) % size:
        raise DataError(
            f"{path} has {len(data):,} bytes; a whole number of records of {size:,} is expected."
        )
    records = data.reshape(-1, size)
    return _to_nhwc(records[:, label_bytes:]), records[:, label_bytes - 1].astype(np.int64)


def _read_python(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _unpickle(path)
    data = batch.get(b"data", batch.get("data"))
    keys = (b"labels", "labels", b"fine_labels", "fine_labels")
    ids = next((batch[key] for key in keys if key in batch), None)
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != PIXEL_BYTES
        or ids is None
    ):
        raise DataError(f"{path} is no CIFAR batch: expected data, uint8 [N, 3072], and labels.")
    return _to_nhwc(data), np.asarray(ids, dtype=np.int64)


def _to_nhwc(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


class _ArraysOnly(pickle.Unpickler):
    """Builds NumPy arrays and nothing else: a pickle can name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        known = (
            *(
                ("numpy.core.multiarray", "_reconstruct"),
                ("numpy._core.multiarray", "_reconstruct"),
            ),
            *(("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")),
        )
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not data")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _unpickle(path: Path) -> dict[Any, Any]:
    try:
        value = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    # A damaged pickle fails in whatever it was about to do.
    except Exception as error:
        raise DataError(f"{path} cannot be read as a CIFAR batch: {error}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds {type(value).__name__}; expected a CIFAR batch.")
    return value


def _labels(place: Path, *, is_hundred: bool) -> tuple[str, ...]:
    for name in ("batches.meta.txt", "fine_label_names.txt"):
        if (place / name).is_file():
            return tuple((place / name).read_text(encoding="utf-8").split())
    for name in ("batches.meta", "meta"):
        if (place / name).is_file():
            meta = _unpickle(place / name)
            names = meta.get(b"label_names", meta.get(b"fine_label_names", ()))
            return tuple(each.decode() if isinstance(each, bytes) else each for each in names)
    return tuple(str(number) for number in range(100)) if is_hundred else LABELS_10
