"""Every image once: read, decoded, looked at, and kept as uint8 at the size training needs.

The same pass gives what `training.data.check` reports, so that a run that checks its data first
reads it only once.

Array names: n image, h row, w column, c channel.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset, Files, Ids, Images
from training.data.sources import AnyDataset, AnyPart
from zoo.cores import cores
from zoo.errors import DataError, ImageError
from zoo.preprocess import ImageLimits, Pixels, Preprocessing, decode, orientation

# Side of the gray thumbnails that near duplicates are found by.
THUMBNAIL = 16

# Files of a data set are the user's own: a photograph from a camera may be large.
LIMITS = ImageLimits(max_bytes=64 << 20, max_pixels=200_000_000)

# More bytes than this stay on disk, mapped, and not in memory.
MOST_BYTES_IN_MEMORY = 4 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was seen of one part's images, as they came: one row an image that could be decoded.

    Attributes:
        names: What each image is called.
        sizes: int64 [N, 3], height, width and channels.
        hashes: SHA-256 of each image's decoded pixels.
        thumbnails: uint8 [N, 16 * 16], gray.
        class_ids: int64 [N].
        corrupt: Name to reason, of the images that could not be decoded.
        turned: Names of those whose EXIF orientation says that they do not lie upright.
    """

    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    hashes: tuple[str, ...]
    thumbnails: NDArray[np.uint8]
    class_ids: Ids
    corrupt: dict[str, str]
    turned: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A data set ready for training.

    Attributes:
        dataset: Its parts as uint8 arrays of one size.
        seen: What was seen of each part.
        originals: From a part's name and a row to the image as it came: for people to look at,
            and for views that show more of it than `dataset` keeps.
    """

    dataset: Dataset[Images]
    seen: dict[str, Seen]
    originals: Callable[[str, int], Pixels]

    def sha256(self) -> str:
        """One hash over all images that are used, their order, parts and labels."""
        digest = hashlib.sha256("\n".join(self.dataset.labels).encode())
        for part, seen in self.seen.items():
            digest.update(f"\n{part} {seen.sizes.tolist() if len(seen.sizes) < 2 else ''}".encode())
            for each, class_id in zip(seen.hashes, seen.class_ids, strict=True):
                digest.update(f"\n{each} {class_id}".encode())
        return digest.hexdigest()


def store(
    dataset: AnyDataset,
    preprocessing: Preprocessing,
    *,
    on_corrupt: str = "stop",
    scratch: Path | None = None,
) -> Stored:
    """Decodes a whole data set and brings it to one size.

    Args:
        dataset: What a source gave.
        preprocessing: Its pixel steps lead to that size.
        on_corrupt: "stop" or "skip".
        scratch: Where arrays too large for memory are kept, as files.

    Raises:
        DataError: an image is corrupt and `on_corrupt` is "stop", or none of a part is left;
            names the first ones.
    """
    parts: dict[str, Images] = {}
    seen: dict[str, Seen] = {}
    kept: dict[str, NDArray[np.int64]] = {}
    for name, part in dataset.parts().items():
        place = scratch / f"{name}.pixels" if scratch is not None else None
        parts[name], seen[name], kept[name] = _read(part, preprocessing, place)
    corrupt = {key: why for each in seen.values() for key, why in each.corrupt.items()}
    if corrupt and on_corrupt == "stop":
        listed = "; ".join(f"{key}: {why}" for key, why in list(corrupt.items())[:3])
        more = f" (and {len(corrupt) - 3} more)" if len(corrupt) > 3 else ""
        raise DataError(
            f"{len(corrupt)} of the images cannot be used: {listed}{more}. "
            "data.on_corrupt=skip leaves such images out and lists them."
        )

    came = dataset.parts()

    def original(part: str, row: int) -> Pixels:
        return decoded(came[part], int(kept[part][row]), is_upright=preprocessing.upright)

    sized = Dataset(dataset.name, **parts, labels=dataset.labels, notes=dataset.notes)
    return Stored(sized, seen, original)


def look(dataset: AnyDataset) -> dict[str, Seen]:
    """Decodes a whole data set and keeps no pixels: for checks alone."""
    return {name: _read(part, None, None)[1] for name, part in dataset.parts().items()}


def _read(
    part: AnyPart, preprocessing: Preprocessing | None, place: Path | None
) -> tuple[Images, Seen, NDArray[np.int64]]:
    nothing: Pixels = np.zeros((0, 0, 1), np.uint8)
    shape = nothing.shape if preprocessing is None else preprocessing.input.shape
    is_upright = preprocessing is None or preprocessing.upright
    pixels = _empty(len(part), shape, place)
    corrupt: dict[str, str] = {}
    kept: list[int] = []
    sizes, hashes, thumbnails, turned = [], [], [], []

    def one(row: int) -> tuple[int, Any]:
        try:
            data = part.read(part.names[row]) if isinstance(part, Files) else b""
            image = _decoded(part, row, data, is_upright=is_upright)
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            small = nothing if preprocessing is None else preprocessing.to_pixels(image)
            is_turned = bool(data) and orientation(data) != 1
            return row, (image.shape, digest, thumbnail(image), small, is_turned)
        except (ImageError, DataError) as error:
            return row, str(error)

    for row, found in _in_threads(one, len(part)):
        if isinstance(found, str):
            corrupt[_name(part, row)] = found
            continue
        size, digest, small, image, is_turned = found
        if is_turned:
            turned.append(_name(part, row))
        pixels[len(kept)] = image
        kept.append(row)
        sizes.append(size)
        hashes.append(digest)
        thumbnails.append(small)
    rows = np.array(kept, dtype=np.int64)
    ids = part.class_ids[rows]
    seen = Seen(
        tuple(_name(part, row) for row in kept),
        np.array(sizes, dtype=np.int64).reshape(-1, 3),
        tuple(hashes),
        np.array(thumbnails, dtype=np.uint8).reshape(-1, THUMBNAIL**2),
        ids,
        corrupt,
        tuple(turned),
    )
    return Images(pixels[: len(rows)], ids), seen, rows


def _in_threads(one: Callable[[int], Any], number: int) -> Iterator[Any]:
    """`one(0)`, `one(1)`, ... in order; a block at a time, so that few results wait."""
    block = 1024
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, number, block):
            yield from pool.map(one, range(start, min(number, start + block)))


def _empty(number: int, shape: tuple[int, ...], place: Path | None) -> Pixels:
    whole = (number, *shape)
    if place is not None and np.prod(whole, dtype=np.int64) > MOST_BYTES_IN_MEMORY:
        mapped: Pixels = np.lib.format.open_memmap(place, mode="w+", dtype=np.uint8, shape=whole)
        return mapped
    return np.empty(whole, dtype=np.uint8)


def _name(part: AnyPart, row: int) -> str:
    return part.names[row] if isinstance(part, Files) else f"image {row}"


def decoded(part: AnyPart, row: int, *, is_upright: bool) -> Pixels:
    """One image as it came, uint8 [h, w, c]; upright, or as its pixels lie in the file.

    Raises:
        ImageError: it cannot be decoded.
        DataError: it cannot be read.
    """
    data = part.read(part.names[row]) if isinstance(part, Files) else b""
    return _decoded(part, row, data, is_upright=is_upright)


def _decoded(part: AnyPart, row: int, data: bytes, *, is_upright: bool) -> Pixels:
    if isinstance(part, Images):
        pixels: Pixels = part.pixels_nhwc[row]
        return pixels
    return decode(data, LIMITS, is_upright=is_upright)


def thumbnail(pixels_hwc: Pixels) -> NDArray[np.uint8]:
    """An image's mean gray in each field of a 16x16 grid, uint8 [256]."""
    gray = pixels_hwc.mean(axis=2, dtype=np.float32)
    rows, columns = (_shares(length) for length in gray.shape)
    small: NDArray[np.uint8] = np.rint(rows @ gray @ columns.T).astype(np.uint8).ravel()
    return small


_SHARES: dict[int, NDArray[np.float32]] = {}


def _shares(length: int) -> NDArray[np.float32]:
    """[16, length]: how much of each of 16 equal fields each pixel covers; rows sum to 1."""
    if length not in _SHARES:
        edges = np.linspace(0, length, THUMBNAIL + 1)
        pixel = np.arange(length)
        covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        _SHARES[length] = (np.clip(covered, 0, None) * THUMBNAIL / length).astype(np.float32)
    return _SHARES[length]
