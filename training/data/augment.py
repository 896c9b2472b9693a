"""Random changes of training images that keep their meaning.

What an image gets in an epoch follows from seed, epoch and the image's place in the data set, so
that a resumed run sees the same images as one that was never stopped.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from zoo.frozen import Frozen
from zoo.preprocess import Floats

Amount = Annotated[float, Field(ge=0)]


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


class Augmentation(Frozen):
    """What is done to training images, in this order."""

    affine: Affine | None = None


def transforms(
    settings: Affine, number: int, size: tuple[int, int], seed: int, epoch: int
) -> Floats:
    """Draws one transform for each image of the data set.

    Args:
        settings: The amounts.
        number: Images in the data set.
        size: (height, width) in pixels; the middle stays where it is but for the shift.
        seed: The recipe's.
        epoch: From 1.

    Returns:
        float32 [number, 8], each row a0 a1 a2 b0 b1 b2 0 0: the output pixel (x, y) shows the
        input at (a0 x + a1 y + a2, b0 x + b1 y + b2).
    """
    # 1 keeps this stream apart from the one that orders the images.
    draws = np.random.default_rng((seed, epoch, 1)).uniform(-1, 1, (number, 6))
    angle = np.deg2rad(settings.rotate) * draws[:, 0]
    scale = 1 + settings.scale * draws[:, 1]
    squeeze = 1 + settings.squeeze * draws[:, 2]
    shear = settings.shear * draws[:, 3]
    cos, sin = np.cos(angle), np.sin(angle)
    # The inverse map, output to input: unscale, shear, rotate about the middle, shift.
    a0 = cos / (scale * squeeze)
    a1 = (cos * shear - sin) / (scale * squeeze)
    b0 = sin * squeeze / scale
    b1 = (sin * shear + cos) * squeeze / scale
    y, x = (size[0] - 1) / 2, (size[1] - 1) / 2
    a2 = x - a0 * x - a1 * y + settings.shift * draws[:, 4]
    b2 = y - b0 * x - b1 * y + settings.shift * draws[:, 5]
    zero: NDArray[np.float64] = np.zeros(number)
    return np.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1).astype(np.float32)
