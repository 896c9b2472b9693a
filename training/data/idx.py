"""The idx format, in which MNIST came: a magic number, sizes, then the numbers themselves.

Layout [http://yann.lecun.com/exdb/mnist]: two zero bytes, a type byte, the number of dimensions,
each dimension as a big-endian int32, then the values, row-major and big-endian.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Ids, Images
from zoo.errors import DataError

if TYPE_CHECKING:
    from zoo.preprocess import Pixels

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# Far above any set in this format: a damaged header must not ask for the machine's memory.
MOST_BYTES = 8 << 30


def find(folder: Path, stem: str) -> Path:
    """The file `stem` or `stem.gz` in a folder; also spelled `train-images.idx3-ubyte`.

    Raises:
        DataError: neither is there; lists what is.
    """
    names = (stem, f"{stem}.gz", stem.replace("-idx", ".idx"), stem.replace("-idx", ".idx") + ".gz")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; expected one with {stem}.gz.")
    there = sorted(path.name for path in folder.iterdir())
    listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    raise DataError(f"No {stem} or {stem}.gz in {folder}; found there: {listed or 'nothing'}.")


def read_bytes(path: Path) -> bytes:
    """Reads a file, unpacked when it is gzip.

    Raises:
        DataError: it is damaged or cannot be read.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except EOFError as error:
        raise DataError(f"{path} is truncated: its gzip stream has no end.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is corrupt: {error}; expected an intact gzip stream.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def parse(data: bytes, path: Path) -> NDArray[Any]:
    """Reads idx bytes into an array of the machine's byte order.

    Args:
        data: The unpacked bytes.
        path: Where they came from, for messages.

    Raises:
        DataError: wrong magic number, or fewer or more bytes than the header says.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in DTYPES or not 1 <= data[3] <= 8:
        raise DataError(
            f"{path} is no idx file: it begins with {data[:4].hex(' ') or 'nothing'}; expected "
            "00 00, a type (08, 09, 0b, 0c, 0d or 0e) and the number of dimensions."
        )
    dtype, rank = np.dtype(DTYPES[data[2]]), data[3]
    header = 4 + 4 * rank
    if len(data) < header:
        raise DataError(f"{path} is truncated: {len(data)} bytes, its header alone has {header}.")
    shape = struct.unpack(f">{rank}I", data[4:header])
    wanted = header + math.prod(shape) * dtype.itemsize
    if wanted > MOST_BYTES:
        raise DataError(f"{path} says it holds {wanted:,} bytes: its header is damaged.")
    if len(data) != wanted:
        what = "truncated" if len(data) < wanted else "too long"
        raise DataError(
            f"{path} is {what}: its header says shape {list(shape)}, {wanted:,} bytes in all, "
            f"but it has {len(data):,}."
        )
    values = np.frombuffer(data, dtype, offset=header).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def as_images(pixels: NDArray[Any], class_ids: NDArray[Any], where: str) -> Images:
    """Joins an image file with its label file.

    Raises:
        DataError: they do not fit each other; names both shapes.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise DataError(
            f"{where}: images are uint8 [N, h, w] or [N, h, w, c]; "
            f"found {pixels.dtype} {list(pixels.shape)}."
        )
    if class_ids.ndim != 1 or len(class_ids) != len(pixels):
        raise DataError(
            f"{where}: {len(pixels)} images but labels of shape {list(class_ids.shape)}."
        )
    nhwc: Pixels = pixels if pixels.ndim == 4 else pixels[:, :, :, None]
    ids: Ids = class_ids.astype(np.int64)
    return Images(nhwc, ids)


def load_pair(folder: Path, part: str) -> Images:
    """Reads `<part>-images-idx3-ubyte[.gz]` and `<part>-labels-idx1-ubyte[.gz]`."""
    pixels_path = find(folder, f"{part}-images-idx3-ubyte")
    labels_path = find(folder, f"{part}-labels-idx1-ubyte")
    return as_images(
        parse(read_bytes(pixels_path), pixels_path),
        parse(read_bytes(labels_path), labels_path),
        f"{pixels_path.name} and {labels_path.name}",
    )
