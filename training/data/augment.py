"""Random changes of training images that keep their meaning.

What an image gets in an epoch follows from seed, epoch and the image's place in the data set, so
that a resumed run sees the same images as one that was never stopped. All that moves pixels
(crop, flip, shift, rotation, scale, shear) is one transform, applied in one step.
"""

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from zoo.frozen import Frozen
from zoo.preprocess import Floats

Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Affine(Frozen):
    """A random shift, rotation, scale and shear, each uniform in plus or minus its amount.

    These are the distortions of [lecun1998, section III.B]: translations, scaling, squeezing
    (`squeeze` stretches one axis while it shrinks the other) and horizontal shearing.

    Attributes:
        shift: Pixels of the network's input.
        rotate: Degrees.
        scale: 0.1 stands for 0.9 to 1.1.
        squeeze: Likewise, width against height.
        shear: Horizontal pixels for each vertical one.
        fill: What comes in at the borders, in pixel values 0..255.
    """

    shift: Amount = 0.0
    rotate: Amount = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    squeeze: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shear: Amount = 0.0
    fill: Annotated[float, Field(ge=0, le=255)] = 0.0


class Crop(Frozen):
    """A random place of the input's size, whole pixels [krizhevsky2012, section 4.1].

    It takes the place of a `centre_crop` that ends the pixel steps.

    Attributes:
        padding: Pixels of border that a crop may reach into, 4 for CIFAR [he2016, section 4.2].
        fill: The border's value, 0..255.
    """

    padding: int = Field(default=0, ge=0)
    fill: Annotated[float, Field(ge=0, le=255)] = 0.0


class ResizedCrop(Frozen):
    """A random part of the image, brought to the input's size [szegedy2015, section 6].

    It takes the place of a `centre_crop` that ends the pixel steps.

    Attributes:
        area: Smallest and largest share of the image's area.
        aspect: Narrowest and widest ratio of width to height; drawn evenly in its logarithm.
    """

    area: tuple[Share, Share] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)


class Elastic(Frozen):
    """A smooth random displacement of every pixel [simard2003].

    Attributes:
        alpha: Scale of the displacements, in pixels.
        sigma: Standard deviation of the Gaussian that smooths them, in pixels.
    """

    alpha: Amount = 8.0
    sigma: Annotated[float, Field(gt=0)] = 4.0


class Photometric(Frozen):
    """Random brightness, contrast and saturation, after [howard2013].

    Each is a factor, uniform in 1 plus or minus its amount, towards black, the image's mean, and
    each pixel's own gray.
    """

    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Lighting(Frozen):
    """AlexNet's change of colour along the principal axes of the training part's pixels.

    Each image gets one colour added, normal along each axis with `std` times that axis's standard
    deviation [krizhevsky2012, section 4.1].
    """

    std: Amount = 0.1


class Cutout(Frozen):
    """A square of zeros at a random place of the input, after preprocessing [devries2017].

    Attributes:
        size: Its side in pixels; it may reach over the border.
    """

    size: int = Field(ge=1)


class Mixup(Frozen):
    """Each input and label mixed with another of its batch [zhang2018].

    Attributes:
        alpha: The share is drawn from a Beta(alpha, alpha) distribution.
    """

    alpha: Annotated[float, Field(gt=0)] = 0.2


class Augmentation(Frozen):
    """What is done to training images, in this order.

    Attributes:
        flip: The probability that left and right are exchanged.
    """

    crop: Crop | None = None
    resized_crop: ResizedCrop | None = None
    flip: Share = 0.0
    affine: Affine | None = None
    elastic: Elastic | None = None
    photometric: Photometric | None = None
    lighting: Lighting | None = None
    cutout: Cutout | None = None
    mixup: Mixup | None = None

    @property
    def moves_pixels(self) -> bool:
        """Whether any change is a transform of places."""
        return bool(self.crop or self.resized_crop or self.flip or self.affine)

    @property
    def fill(self) -> float:
        """What comes in at the borders, 0..255."""
        return next((each.fill for each in (self.affine, self.crop) if each is not None), 0.0)


Matrices = NDArray[np.float64]


def _draws(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Streams keep what is drawn for one change apart from what is drawn for another.

    Stream 0 orders the images.
    """
    return np.random.default_rng((seed, epoch, stream))


def transforms(
    settings: Augmentation,
    number: int,
    stored: tuple[int, int],
    wanted: tuple[int, int],
    seed: int,
    epoch: int,
) -> Floats:
    """Draws one transform for each image of the data set.

    Args:
        settings: What is done.
        number: Images in the data set.
        stored: (height, width) in pixels of the images.
        wanted: (height, width) of the network's input.
        seed: The recipe's.
        epoch: From 1.

    Returns:
        float32 [number, 8], each row a0 a1 a2 b0 b1 b2 0 0: the output pixel (x, y) shows the
        input at (a0 x + a1 y + a2, b0 x + b1 y + b2).
    """
    whole = np.broadcast_to(np.eye(3), (number, 3, 3)).copy()
    if settings.affine is not None:
        whole = _affine(settings.affine, number, wanted, _draws(seed, epoch, 1))
    if settings.flip:
        whole = _flip(settings.flip, number, wanted[1], _draws(seed, epoch, 2)) @ whole
    if settings.resized_crop is not None:
        place = _resized_crop(settings.resized_crop, number, stored, wanted, _draws(seed, epoch, 3))
    else:
        place = _crop(settings.crop, number, stored, wanted, _draws(seed, epoch, 3))
    return (place @ whole).reshape(number, 9)[:, :8].astype(np.float32)


def _affine(
    settings: Affine, number: int, size: tuple[int, int], rng: np.random.Generator
) -> Matrices:
    draws = rng.uniform(-1, 1, (number, 6))
    angle = np.deg2rad(settings.rotate) * draws[:, 0]
    scale = 1 + settings.scale * draws[:, 1]
    squeeze = 1 + settings.squeeze * draws[:, 2]
    shear = settings.shear * draws[:, 3]
    cos, sin = np.cos(angle), np.sin(angle)
    found = np.zeros((number, 3, 3))
    # The inverse map, output to input: unscale, shear, rotate about the middle, shift.
    found[:, 0, 0] = cos / (scale * squeeze)
    found[:, 0, 1] = (cos * shear - sin) / (scale * squeeze)
    found[:, 1, 0] = sin * squeeze / scale
    found[:, 1, 1] = (sin * shear + cos) * squeeze / scale
    y, x = (size[0] - 1) / 2, (size[1] - 1) / 2
    found[:, 0, 2] = x - found[:, 0, 0] * x - found[:, 0, 1] * y + settings.shift * draws[:, 4]
    found[:, 1, 2] = y - found[:, 1, 0] * x - found[:, 1, 1] * y + settings.shift * draws[:, 5]
    found[:, 2, 2] = 1
    return found


def _flip(probability: float, number: int, width: int, rng: np.random.Generator) -> Matrices:
    is_flipped = rng.uniform(size=number) < probability
    found = np.broadcast_to(np.eye(3), (number, 3, 3)).copy()
    found[is_flipped, 0, 0] = -1
    found[is_flipped, 0, 2] = width - 1
    return found


def _crop(
    settings: Crop | None,
    number: int,
    stored: tuple[int, int],
    wanted: tuple[int, int],
    rng: np.random.Generator,
) -> Matrices:
    found = np.broadcast_to(np.eye(3), (number, 3, 3)).copy()
    for axis, (have, want) in enumerate(zip(stored, wanted, strict=True)):
        if settings is None:
            found[:, 1 - axis, 2] = (have - want) // 2
        else:
            found[:, 1 - axis, 2] = rng.integers(
                -settings.padding, have - want + settings.padding, number, endpoint=True
            )
    return found


def _resized_crop(
    settings: ResizedCrop,
    number: int,
    stored: tuple[int, int],
    wanted: tuple[int, int],
    rng: np.random.Generator,
) -> Matrices:
    # Ten tries each, as is usual; who finds no place that fits takes the largest centre square.
    tries = 10
    area = rng.uniform(*settings.area, (number, tries)) * stored[0] * stored[1]
    narrow, wide = (math.log(each) for each in settings.aspect)
    aspect = np.exp(rng.uniform(narrow, wide, (number, tries)))
    width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits: Any = (width <= stored[1]) & (height <= stored[0])
    first = fits.argmax(1)
    rows = np.arange(number)
    side = float(min(stored))
    width = np.where(fits.any(1), width[rows, first], side)
    height = np.where(fits.any(1), height[rows, first], side)
    share = np.where(fits.any(1)[:, None], rng.uniform(size=(number, 2)), 0.5)
    found = np.zeros((number, 3, 3))
    # Pixel centres: output x covers [x, x + 1) / wanted of the chosen width.
    for axis, (size, have, want) in enumerate(
        ((width, stored[1], wanted[1]), (height, stored[0], wanted[0]))
    ):
        start = share[:, axis] * (have - size)
        found[:, axis, axis] = size / want
        found[:, axis, 2] = start + size / want / 2 - 0.5
    found[:, 2, 2] = 1
    return found


def draws_of_epoch(
    settings: Augmentation,
    number: int,
    stored: tuple[int, int],
    wanted: tuple[int, int],
    seed: int,
    epoch: int,
) -> dict[str, Floats]:
    """All that is random in one epoch but the elastic fields: an array a change, a row an image."""
    found: dict[str, Floats] = {}
    if settings.moves_pixels:
        found["transforms"] = transforms(settings, number, stored, wanted, seed, epoch)
    if settings.photometric is not None:
        amounts = settings.photometric
        factors = _draws(seed, epoch, 4).uniform(-1, 1, (number, 3))
        found["photometric"] = (
            1 + factors * [amounts.brightness, amounts.contrast, amounts.saturation]
        ).astype(np.float32)
    if settings.lighting is not None:
        found["lighting"] = (
            _draws(seed, epoch, 5).normal(0, settings.lighting.std, (number, 3)).astype(np.float32)
        )
    if settings.cutout is not None:
        found["cutout"] = _draws(seed, epoch, 6).uniform(size=(number, 2)).astype(np.float32)
    if settings.mixup is not None:
        alpha = settings.mixup.alpha
        found["mixup"] = _draws(seed, epoch, 7).beta(alpha, alpha, number).astype(np.float32)
    return found
