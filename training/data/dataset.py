"""What every source gives: images with class ids, in named parts.

A source gives pixels at once (`Images`) or encoded files of any size (`Files`), which
`training.data.store` decodes. Array names: n image, h row, w column, c channel.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

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
class Files:
    """Encoded images (JPEG, PNG, WebP, BMP) of any size, read one by one when they are asked for.

    Attributes:
        names: What each is called, e.g. "train/cat/0001.jpg"; errors name it.
        class_ids: int64 [N].
        read: From a name to the file's bytes; may be called from several threads.
    """

    names: tuple[str, ...]
    class_ids: Ids
    read: Callable[[str], bytes]

    def __post_init__(self) -> None:
        """Checks that there is one class id a name.

        Raises:
            DataError: there is not.
        """
        if self.class_ids.shape != (len(self.names),):
            raise DataError(
                f"{len(self.names)} files came with labels of shape {list(self.class_ids.shape)}."
            )

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.bool_] | Ids) -> "Files":
        """The files at `rows` (a mask or indices), in that order."""
        ids = self.class_ids[rows]
        places = np.arange(len(self))[rows]
        return Files(tuple(self.names[place] for place in places), ids, self.read)

    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each file's bytes, as hexadecimal digits.

        Of the name where the file cannot be read: who decodes it tells of that, with all others.
        """
        return tuple(hashlib.sha256(self._content(name)).hexdigest() for name in self.names)

    def _content(self, name: str) -> bytes:
        try:
            return self.read(name)
        except DataError:
            return name.encode()


def shown(name: str) -> str:
    """A file's name as text that can be written: bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


P = TypeVar("P", Images, Files)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset(Generic[P]):
    """A data set, split: the network learns on `train` alone and is measured on `test` once.

    Attributes:
        name: e.g. "mnist".
        train: What weights and fitted preprocessing see.
        validation: Measured after each epoch; decides nothing that `test` then judges.
        test: Held out until the end.
        labels: The name of each class id.
        notes: What the source left out, for the report.
    """

    name: str
    train: P
    validation: P
    test: P
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def parts(self) -> "dict[str, P]":
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def __post_init__(self) -> None:
        """Checks the class names and ids.

        Raises:
            DataError: a part has no images, or an id that no label stands for, or a label cannot
                be a line of text.
        """
        for label in self.labels:
            # Published labels are a file with one a line.
            if label.splitlines() != [label] or shown(label) != label:
                raise DataError(
                    f"{self.name!r} has a class named {shown(label)!r}; a class name is one "
                    "line of UTF-8 text. Rename it."
                )
        for part, images in (("train", self.train), ("test", self.test)):
            if not len(images):
                raise DataError(f"The {part} part of {self.name!r} has no images.")
        for part, images in self.parts().items():
            ids = images.class_ids
            if len(ids) and (ids.min() < 0 or ids.max() >= len(self.labels)):
                raise DataError(
                    f"The {part} part of {self.name!r} has class id "
                    f"{ids.max() if ids.max() >= len(self.labels) else ids.min()}; "
                    f"there are {len(self.labels)} labels, 0 to {len(self.labels) - 1}."
                )


def split_by_content(images: P, fraction: float, salt: str) -> tuple[P, P]:
    """Splits so that an image's own bytes decide where it goes.

    An image stays where it is when others come or go, and equal images are never torn apart.

    Args:
        images: What to split: pixels, or files.
        fraction: The share of the second part, 0..1; kept within sampling error.
        salt: Another salt gives another split.

    Returns:
        (the rest, about `fraction` of the images).
    """
    salted = (hashlib.sha256(f"{salt}:{each}".encode()).digest() for each in images.hashes())
    draws = np.array([int.from_bytes(each[:8], "big") / 2**64 for each in salted])
    chosen = draws < fraction
    return images.take(~chosen), images.take(chosen)
