"""What every source gives: uint8 images with class ids, in named parts.

Array names: n image, h row, w column, c channel.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zoo.errors import DataError
from zoo.preprocess import Pixels

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """Images with their class ids.

    Attributes:
        pixels_nhwc: uint8 [N, h, w, c].
        class_ids: int64 [N].
    """

    pixels_nhwc: Pixels
    class_ids: Ids

    def __post_init__(self) -> None:
        """Checks what a source gives.

        Raises:
            DataError: the arrays do not belong together.
        """
        pixels, ids = self.pixels_nhwc, self.class_ids
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise DataError(
                f"Images are uint8 [N, h, w, c]; found {pixels.dtype} {list(pixels.shape)}."
            )
        if ids.shape != (len(pixels),):
            raise DataError(f"{len(pixels)} images came with labels of shape {list(ids.shape)}.")

    def __len__(self) -> int:
        return len(self.class_ids)

    def take(self, rows: NDArray[np.bool_] | Ids) -> "Images":
        """The images at `rows` (a mask or indices), in that order."""
        return Images(self.pixels_nhwc[rows], self.class_ids[rows])

    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each image's pixels, as hexadecimal digits."""
        return tuple(hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in self.pixels_nhwc)

    def sha256(self) -> str:
        """One hash over all pixels, shapes and labels, in order."""
        digest = hashlib.sha256(str(self.pixels_nhwc.shape).encode())
        digest.update(np.ascontiguousarray(self.pixels_nhwc).data)
        digest.update(np.ascontiguousarray(self.class_ids).data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A data set, split: the network learns on `train` alone and is measured on `test` once.

    Attributes:
        name: e.g. "mnist".
        train: What weights and fitted preprocessing see.
        validation: Measured after each epoch; decides nothing that `test` then judges.
        test: Held out until the end.
        labels: The name of each class id.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    labels: tuple[str, ...]
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the class ids.

        Raises:
            DataError: a part has no images, or an id that no label stands for.
        """
        for part, images in (("train", self.train), ("test", self.test)):
            if not len(images):
                raise DataError(f"The {part} part of {self.name!r} has no images.")
        for part, images in (
            ("train", self.train),
            ("validation", self.validation),
            ("test", self.test),
        ):
            ids = images.class_ids
            if len(ids) and (ids.min() < 0 or ids.max() >= len(self.labels)):
                raise DataError(
                    f"The {part} part of {self.name!r} has class id "
                    f"{ids.max() if ids.max() >= len(self.labels) else ids.min()}; "
                    f"there are {len(self.labels)} labels, 0 to {len(self.labels) - 1}."
                )

    def sha256(self) -> str:
        """One hash over all parts and the labels."""
        parts = [self.train.sha256(), self.validation.sha256(), self.test.sha256(), *self.labels]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def split_by_content(images: Images, fraction: float, salt: str) -> tuple[Images, Images]:
    """Splits so that an image's own bytes decide where it goes.

    An image stays where it is when others come or go, and equal images are never torn apart.

    Args:
        images: What to split.
        fraction: The share of the second part, 0..1; kept within sampling error.
        salt: Another salt gives another split.

    Returns:
        (the rest, about `fraction` of the images).
    """
    salted = (hashlib.sha256(f"{salt}:{each}".encode()).digest() for each in images.hashes())
    draws = np.array([int.from_bytes(each[:8], "big") / 2**64 for each in salted])
    chosen = draws < fraction
    return images.take(~chosen), images.take(chosen)
