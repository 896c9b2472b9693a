"""TFRecord shards of tf.train.Example, the form in which ImageNet is usually kept.

Keys: `image/encoded` (or `image`), `image/class/label` (or `label`).
"""

from pathlib import Path

import numpy as np

from training.data.dataset import Files
from zoo.errors import DataError

IMAGE_KEYS = ("image/encoded", "image")
LABEL_KEYS = ("image/class/label", "label")


def load(folder: Path, pattern: str, first_label: int = 0) -> Files:
    """The images of the shards whose names match.

    Args:
        folder: Where the shards are.
        pattern: e.g. "train-*".
        first_label: What is subtracted from the labels: 1 where they count from 1.

    Raises:
        DataError: no shard matches, or a record is damaged or lacks a key; names both.
    """
    from zoo.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    shards = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not shards:
        raise DataError(f"No file in {folder} matches {pattern!r}.")
    images: dict[str, bytes] = {}
    ids = []
    for shard in shards:
        compression = "GZIP" if shard.read_bytes()[:2] == b"\x1f\x8b" else ""
        try:
            for number, record in enumerate(
                tf.data.TFRecordDataset(str(shard), compression).as_numpy_iterator()
            ):
                name = f"{shard.name}#{number}"
                encoded, label = _parse(record, name)
                images[name] = encoded
                ids.append(label - first_label)
        except tf.errors.DataLossError as error:
            raise DataError(f"{shard} is damaged: {error.message}.") from error
    return Files(tuple(images), np.array(ids, dtype=np.int64), images.__getitem__)


def _parse(record: bytes, name: str) -> tuple[bytes, int]:
    import tensorflow as tf

    try:
        feature = tf.train.Example.FromString(record).features.feature
    # The protobuf runtime's own error type is not public.
    except Exception as error:
        raise DataError(f"{name} is no tf.train.Example: {error}") from error
    image = next((feature[key].bytes_list.value for key in IMAGE_KEYS if key in feature), None)
    label = next((feature[key].int64_list.value for key in LABEL_KEYS if key in feature), None)
    if not image or not label:
        raise DataError(
            f"{name} has the keys {', '.join(sorted(feature))}; expected an image in "
            f"{' or '.join(IMAGE_KEYS)} and its class id in {' or '.join(LABEL_KEYS)}."
        )
    return image[0], int(label[0])
