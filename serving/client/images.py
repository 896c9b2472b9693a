"""Pictures as users have them, turned into the bytes of an image file.

A path, bytes, a file object, a PIL image or an array become PNG, JPEG, WebP or BMP bytes: what is
encoded already stays as it is, arrays and PIL images become PNG without loss. Pillow is not
needed for any of it.

Shapes: h rows, w columns, c channels.
"""

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from serving.client.errors import ImageError


@runtime_checkable
class PilImage(Protocol):
    """What of `PIL.Image.Image` is used here."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002
        """Writes the picture to `fp`; the parameter's name is Pillow's."""


Image: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | PilImage | NDArray[Any]
)
"""A path, the bytes of an image file, an open binary file, a PIL image, or an array: [h, w] or
[h, w, 1] grey, [h, w, 3] RGB, [h, w, 4] RGBA; uint8 in 0..255 or bool."""


def is_one_image(value: object) -> bool:
    """Says whether `value` is one picture rather than a sequence of them."""
    return isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | np.ndarray) or (
        hasattr(value, "read") or isinstance(value, PilImage)
    )


def listed(images: Image | Sequence[Image]) -> tuple[Sequence[Image], bool]:
    """Returns the images as a sequence, and whether it was one."""
    if is_one_image(images):
        return [images], True  # type: ignore[list-item]  # is_one_image has looked
    return list(images), False  # type: ignore[arg-type]  # likewise


def encode_image(image: Image) -> bytes:
    """Returns the bytes of an image file.

    Raises:
        ImageError: a file that cannot be read, an array of another shape or type, no bytes at
            all.
    """
    if isinstance(image, np.ndarray):
        return encode_png(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return _not_empty(bytes(image), "The image")
    if isinstance(image, str | os.PathLike):
        return _read_path(image)
    read = getattr(image, "read", None)
    if callable(read):
        content = read()
        if not isinstance(content, bytes):
            raise ImageError(
                f"The file object {image!r} gives {type(content).__name__}, not bytes: "
                'open it with mode "rb".',
                field="image",
            )
        return _not_empty(content, f"The file object {getattr(image, 'name', image)!r}")
    if isinstance(image, PilImage):
        return encode_png(_from_pil(image))
    raise ImageError(
        f"An image is a path, bytes, a binary file, a PIL image or an array, not "
        f"{type(image).__name__}.",
        field="image",
    )


def encode_png(image: NDArray[Any]) -> bytes:
    """Encodes an array as PNG: [h, w] or [h, w, c] with c 1, 3 or 4; uint8 or bool.

    Raises:
        ImageError: another shape or type.
    """
    pixels = np.asarray(image)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype != np.uint8:
        hint = (
            " Scale it, e.g. (image * 255).round().astype(np.uint8)."
            if pixels.dtype.kind == "f"
            else ""
        )
        raise ImageError(
            f"A picture has uint8 pixels in 0..255; this array is {pixels.dtype}.{hint} "
            "To send numbers as they are, use predict().",
            field="image",
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if pixels.ndim != 3 or pixels.shape[2] not in COLOUR_TYPES or 0 in pixels.shape:
        batch = " For several pictures pass a list of them." if pixels.ndim == 4 else ""
        raise ImageError(
            f"A picture is (h, w), (h, w, 1), (h, w, 3) or (h, w, 4); this array is "
            f"{image.shape}.{batch}",
            field="image",
        )
    h, w, c = pixels.shape
    # Each row is preceded by its filter, 0 for none; level 1 because it is sent once and thrown
    # away.
    rows = np.zeros((h, 1 + w * c), np.uint8)
    rows[:, 1:] = pixels.reshape(h, w * c)
    header = struct.pack(">IIBBBBB", w, h, 8, COLOUR_TYPES[c], 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)),
            _chunk(b"IEND", b""),
        )
    )


# Channels -> PNG's colour type: grey, RGB, RGBA.
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _from_pil(image: Any) -> NDArray[Any]:
    # Modes that PNG and the server read the same way; palettes, CMYK and the like become RGB.
    keep = ("L", "RGB", "RGBA", "1")
    converted = image if image.mode in keep else image.convert("RGB")
    return np.asarray(converted)


def is_url(text: str) -> bool:
    """Says whether `text` is a URL rather than the path of a file."""
    return text.startswith(("http://", "https://", "data:"))


def _read_path(path: str | os.PathLike[str]) -> bytes:
    if isinstance(path, str) and is_url(path):
        raise ImageError(
            f"{path[:60]!r} is a URL; fetch it yourself and pass the bytes.", field="image"
        )
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise ImageError(
            f"Cannot read the image {os.fspath(path)!r}: "
            f"{getattr(error, 'strerror', None) or error}.",
            field="image",
        ) from error
    return _not_empty(content, f"The image {os.fspath(path)!r}")


def _not_empty(content: bytes, what: str) -> bytes:
    if not content:
        raise ImageError(f"{what} is empty: 0 bytes.", field="image")
    return content
