"""From image bytes to a network's input, in NumPy and Pillow.

    bytes --decode--> pixels uint8 [h, w, c] --to_pixels--> uint8 [H, W, C] --to_input--> float32

Two parts, because they are used apart: the pixel steps (colour, resize, crop, pad) end in uint8 at
the input's size, which is what training caches; the input steps are arithmetic on whole batches and
are what a published version may carry in its graph. Training, evaluation and serving call the same
code, or (tf.data) are held to it by a property test.

Array names: n image, h row, w column, c channel.
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from zoo.errors import ImageError, UsageError
from zoo.frozen import Frozen
from zoo.spec import ImageInput

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Formats that are decoded. Pillow knows many more; each is attack surface that nobody asked for.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


class ImageLimits(Frozen):
    """What an image may cost before it is decoded."""

    max_bytes: int = 16 * 1024 * 1024
    max_pixels: int = 16_000_000
    max_frames: int = 1000


class Resize(Frozen):
    """Resizes to exactly height x width; the aspect ratio is not kept."""

    kind: Literal["resize"] = "resize"
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    method: Literal["nearest", "bilinear", "bicubic", "box"] = "bilinear"


class ResizeShorterSide(Frozen):
    """Resizes so that the shorter side has `size` pixels; the aspect ratio is kept."""

    kind: Literal["resize_shorter_side"] = "resize_shorter_side"
    size: int = Field(ge=1)
    method: Literal["nearest", "bilinear", "bicubic", "box"] = "bilinear"


class CentreCrop(Frozen):
    """Cuts height x width out of the middle; a smaller image is refused."""

    kind: Literal["centre_crop"] = "centre_crop"
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class Pad(Frozen):
    """Adds rows and columns of `value` (0..255) on each side."""

    kind: Literal["pad"] = "pad"
    top: int = Field(0, ge=0)
    bottom: int = Field(0, ge=0)
    left: int = Field(0, ge=0)
    right: int = Field(0, ge=0)
    value: int = Field(0, ge=0, le=255)


PixelStep = Annotated[Resize | ResizeShorterSide | CentreCrop | Pad, Field(discriminator="kind")]


class Scale(Frozen):
    """y = x * scale + offset."""

    kind: Literal["scale"] = "scale"
    scale: float
    offset: float = 0.0


class ScaleTo(Frozen):
    """y = low + x / 255 * (high - low): black becomes `low`, white `high`."""

    kind: Literal["scale_to"] = "scale_to"
    low: float = 0.0
    high: float = 1.0


class Standardise(Frozen):
    """y = (x - mean) / std, per channel, in the units that reach this step.

    Without numbers (in a recipe) they are fitted on the training part.
    """

    kind: Literal["standardise"] = "standardise"
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given together, or neither is, and both are fitted")
        return self


class SubtractMeanPixel(Frozen):
    """y = x - mean, per channel [simonyan2015]; without numbers, fitted on the training part."""

    kind: Literal["subtract_mean_pixel"] = "subtract_mean_pixel"
    mean: tuple[float, ...] | None = None


class SubtractMeanImage(Frozen):
    """y = x - mean, per pixel and channel [krizhevsky2012].

    `array` names a float32 [H, W, C] array kept beside the settings, fitted on the training part.
    """

    kind: Literal["subtract_mean_image"] = "subtract_mean_image"
    array: str = "mean_image"


class Whiten(Frozen):
    """y = (flatten(x) - mean) @ matrix, reshaped back.

    `mean` and `matrix` name float32 arrays [D] and [D, D] kept beside the settings,
    D = H * W * C, fitted on the training part. With the covariance U S U' of the training inputs
    the matrix is U (S + epsilon)^-1/2 for PCA whitening, and that times U' for ZCA.

    Attributes:
        epsilon: Added to the eigenvalues, as a share of the largest one.
    """

    kind: Literal["whiten"] = "whiten"
    method: Literal["pca", "zca"] = "zca"
    epsilon: float = Field(default=1e-3, gt=0)
    mean: str = "whiten_mean"
    matrix: str = "whiten_matrix"


InputStep = Annotated[
    Scale | ScaleTo | Standardise | SubtractMeanPixel | SubtractMeanImage | Whiten,
    Field(discriminator="kind"),
]


class Preprocessing(Frozen):
    """How an image of any size becomes the input of one network.

    Settings only; the arrays that fitted steps name (`mean_image`, `whiten_matrix`) travel beside
    them and are given to `to_input`.

    Attributes:
        upright: Files are turned as their EXIF orientation says; False in versions that were
            published before this was kept, which were trained on pixels as they lie in the file.
    """

    input: ImageInput
    upright: bool = False
    pixel_steps: tuple[PixelStep, ...] = ()
    input_steps: tuple[InputStep, ...] = ()

    def array_names(self) -> tuple[str, ...]:
        """Names of the arrays that the steps need."""
        names: list[str] = []
        for step in self.input_steps:
            if isinstance(step, SubtractMeanImage):
                names.append(step.array)
            elif isinstance(step, Whiten):
                names += [step.mean, step.matrix]
        return tuple(names)

    def require_fitted(self) -> None:
        """Raises `UsageError` when a step still has no numbers."""
        for step in self.input_steps:
            if isinstance(step, Standardise | SubtractMeanPixel) and step.mean is None:
                raise UsageError(
                    f"The step {step.kind!r} has no numbers yet: they are fitted in training, "
                    "or given as mean."
                )

    def decode(self, data: bytes, limits: ImageLimits | None = None) -> Pixels:
        """Decodes one file as this network was taught to see it: see `decode`."""
        return decode(data, limits, is_upright=self.upright)

    def to_pixels(self, pixels_hwc: Pixels) -> Pixels:
        """Runs the pixel steps on one decoded image.

        Args:
            pixels_hwc: uint8 [h, w, 1 or 3 or 4], gray or RGB(A), any size.

        Returns:
            uint8 [H, W, C] of the input's size and colour order.

        Raises:
            ImageError: the image cannot become that size; names both shapes.
        """
        image = self.pixels_of(pixels_hwc)
        if image.shape != self.input.shape:
            raise ImageError(
                f"An image of shape {tuple(pixels_hwc.shape)} became {tuple(image.shape)}; "
                f"the network takes {self.input.shape}."
            )
        return np.ascontiguousarray(image)

    def pixels_of(self, pixels_hwc: Pixels) -> Pixels:
        """Runs the pixel steps on one decoded image, whatever size they end in: uint8 [h, w, C]."""
        image = _with_colour(pixels_hwc, self.input)
        for step in self.pixel_steps:
            match step:
                case Resize():
                    image = resize(image, step.height, step.width, step.method)
                case ResizeShorterSide():
                    height, width = image.shape[:2]
                    ratio = step.size / min(height, width)
                    image = resize(
                        image,
                        max(step.size, round(height * ratio)),
                        max(step.size, round(width * ratio)),
                        step.method,
                    )
                case CentreCrop():
                    image = _centre_crop(image, step.height, step.width)
                case Pad():
                    image = np.pad(
                        image,
                        ((step.top, step.bottom), (step.left, step.right), (0, 0)),
                        constant_values=step.value,
                    )
        return image

    def to_input(
        self, pixels_nhwc: NDArray[np.generic], arrays: Mapping[str, Floats] | None = None
    ) -> Floats:
        """Runs the input steps on a batch.

        Args:
            pixels_nhwc: [N, H, W, C] of the input's size, values 0..255.
            arrays: What the fitted steps name.

        Returns:
            float32 [N, H, W, C].
        """
        found = arrays or {}
        self.require_fitted()
        missing = [name for name in self.array_names() if name not in found]
        if missing:
            raise UsageError(
                f"The preprocessing needs the fitted arrays {', '.join(missing)}; "
                f"given: {', '.join(found) or 'none'}."
            )
        x: NDArray[Any] = np.asarray(pixels_nhwc, dtype=np.float32)
        for step in self.input_steps:
            x = apply_step(step, x, found)
        return np.ascontiguousarray(x, dtype=np.float32)


def apply_step(step: InputStep, x: NDArray[Any], arrays: Mapping[str, Floats]) -> NDArray[Any]:
    """One input step on a batch float32 [N, H, W, C]."""
    match step:
        case Scale():
            return x * np.float32(step.scale) + np.float32(step.offset)
        case ScaleTo():
            return x * np.float32((step.high - step.low) / 255) + np.float32(step.low)
        case Standardise():
            return (x - np.asarray(step.mean, np.float32)) / np.asarray(step.std, np.float32)
        case SubtractMeanPixel():
            return x - np.asarray(step.mean, np.float32)
        case SubtractMeanImage():
            return x - arrays[step.array]
        case Whiten():
            flat: Floats = x.reshape(len(x), -1) - arrays[step.mean]
            white: Floats = flat @ arrays[step.matrix]
            return white.reshape(x.shape)


def decode(data: bytes, limits: ImageLimits | None = None, *, is_upright: bool = False) -> Pixels:
    """Decodes one JPEG, PNG, WebP or BMP image.

    Args:
        data: The file's bytes.
        limits: What the image may cost; the header is checked before a pixel is decoded.
        is_upright: Turn the image as its EXIF orientation says; else its pixels stay as they lie.

    Returns:
        uint8 [h, w, 1] for gray images, else [h, w, 3] RGB; transparency lies on black.

    Raises:
        ImageError: no image, an unknown format, truncated, or over a limit.
    """
    from PIL import Image, UnidentifiedImageError

    bounds = limits or ImageLimits()
    if len(data) > bounds.max_bytes:
        raise ImageError(f"The image has {len(data)} bytes; at most {bounds.max_bytes} are taken.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > bounds.max_pixels:
                raise ImageError(
                    f"The image is {width} x {height} = {width * height} pixels; "
                    f"at most {bounds.max_pixels} are taken."
                )
            frames = getattr(image, "n_frames", 1)
            if frames > bounds.max_frames:
                raise ImageError(
                    f"The image has {frames} frames; at most {bounds.max_frames} "
                    f"{'is' if bounds.max_frames == 1 else 'are'} taken."
                )
            pixels = _jpeg_pixels(image, data)
            if pixels is None:
                pixels = _pixels_of(image)
            return _turned(pixels, _orientation(image)) if is_upright else pixels
    except UnidentifiedImageError as error:
        raise ImageError(
            f"These {len(data)} bytes are no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image; "
            f"they begin with {data[:8].hex(' ') or 'nothing'}."
        ) from error
    except ImageError:
        raise
    # Pillow's decoders raise many kinds on broken files: all of them mean the same to the caller.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"The image is damaged: {error}") from error


def orientation(data: bytes) -> int:
    """How a file says that its image is to be turned: EXIF's 1 (not at all) to 8; 1 if it does not."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _orientation(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 1


# Where Pillow keeps what may say how an image is to be turned.
_NOTES = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}


def _orientation(image: "Image") -> int:
    if not image.info.keys() & _NOTES:
        return 1
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # noqa: BLE001 - Pillow raises many kinds on a damaged note; the image is whole
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(pixels_hwc: Pixels, orientation: int) -> Pixels:
    """An image upright: 5 to 8 have rows and columns exchanged, some are mirrored."""
    image = pixels_hwc.swapaxes(0, 1) if orientation >= 5 else pixels_hwc
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _jpeg_pixels(image: "Image", data: bytes) -> Pixels | None:
    """What Pillow makes of a JPEG, in half the time and to the bit: both ask libjpeg-turbo.

    None for what Pillow has to decode: other formats and colours, damaged files, whose error is
    Pillow's to tell, and installations without simplejpeg.
    """
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    try:
        import simplejpeg

        pixels: Pixels = simplejpeg.decode_jpeg(
            data, colorspace="GRAY" if image.mode == "L" else "RGB"
        )
    except (ImportError, ValueError):
        return None
    return pixels


def _pixels_of(image: "Image") -> Pixels:
    if image.mode in ("1", "L", "I;16", "I", "F"):
        clear = image.info.get("transparency", -1)  # the one gray of a PNG that is not seen
        if image.mode in ("I;16", "I"):  # 16-bit gray: keep the high byte
            wide = np.array(image, dtype=np.int64)
            wide[wide == clear] = 0
            return (np.clip(wide, 0, 65535) >> 8).astype(np.uint8)[:, :, None]
        gray = np.array(image.convert("L"), dtype=np.uint8)
        gray[gray == clear] = 0
        return gray[:, :, None]
    if image.mode == "LA":
        gray_alpha = np.asarray(image, dtype=np.uint16)
        return (gray_alpha[:, :, :1] * gray_alpha[:, :, 1:] // 255).astype(np.uint8)
    if image.mode in ("RGBA", "PA") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"), dtype=np.uint16)
        return (rgba[:, :, :3] * rgba[:, :, 3:] // 255).astype(np.uint8)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


# ITU-R 601-2 luma with Pillow's integer weights, so that gray from either path is the same number.
_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)


def _with_colour(pixels_hwc: Pixels, wanted: ImageInput) -> Pixels:
    image = np.asarray(pixels_hwc)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.dtype != np.uint8:
        raise ImageError(f"Pixels are uint8 in 0..255; these are {image.dtype}.")
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"An image is [h, w, 1], [h, w, 3] or [h, w, 4]; this one is {list(image.shape)}."
        )
    if image.shape[2] == 4:
        image = (image[:, :, :3].astype(np.uint16) * image[:, :, 3:] // 255).astype(np.uint8)
    if wanted.colour == "gray":
        if image.shape[2] == 3:
            image = ((image @ _LUMA + 0x8000) >> 16).astype(np.uint8)[:, :, None]
        return image
    if image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    return image[:, :, ::-1] if wanted.colour == "bgr" else image


def resize(image_hwc: Pixels, height: int, width: int, method: str) -> Pixels:
    """Resizes uint8 [h, w, c] to [height, width, c] as Pillow does, which is what is served, too."""
    if image_hwc.shape[:2] == (height, width):
        return image_hwc
    from PIL import Image

    filters = Image.Resampling
    resample = {
        "nearest": filters.NEAREST,
        "bilinear": filters.BILINEAR,
        "bicubic": filters.BICUBIC,
        "box": filters.BOX,
    }[method]
    is_gray = image_hwc.shape[2] == 1
    source = Image.fromarray(image_hwc[:, :, 0] if is_gray else np.ascontiguousarray(image_hwc))
    resized = np.asarray(source.resize((width, height), resample), dtype=np.uint8)
    return resized[:, :, None] if is_gray else resized


def _centre_crop(image_hwc: Pixels, height: int, width: int) -> Pixels:
    rows, columns = image_hwc.shape[:2]
    if rows < height or columns < width:
        raise ImageError(f"Cannot cut {height} x {width} out of an image of {rows} x {columns}.")
    top, left = (rows - height) // 2, (columns - width) // 2
    return image_hwc[top : top + height, left : left + width]
