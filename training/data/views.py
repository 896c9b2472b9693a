"""How a held-out image is shown to a network: once, or in several views whose answers are averaged.

    centre      the preprocessing as it is
    ten_crop    four corners and the centre, and their mirror images [krizhevsky2012, section 4.1]
    multi_crop  144: four scales, three squares each, six crops each, mirrored [szegedy2015,
                section 7]
    dense       the network run over the whole image, and its mirror image, as a convolution
                [simonyan2015, section 3.2]

All but the first need pixel steps that end in a `centre_crop`: what it would cut away is what the
other views show.
"""

from collections.abc import Iterator

import numpy as np

from zoo.errors import UsageError
from zoo.preprocess import CentreCrop, Pixels, Preprocessing, ResizeShorterSide

# GoogLeNet's four scales, as multiples of the shorter side that one crop is taken from.
SCALES = (256 / 256, 288 / 256, 320 / 256, 352 / 256)


def check(preprocessing: Preprocessing, kind: str) -> None:
    """Refuses a kind of view that the preprocessing leaves nothing for.

    Raises:
        UsageError: it does not end in a centre crop, or (multi_crop) has no resize_shorter_side.
    """
    if kind == "centre":
        return
    steps = preprocessing.pixel_steps
    if not steps or not isinstance(steps[-1], CentreCrop):
        raise UsageError(
            f"test_time={kind} needs pixel steps that end in centre_crop; these end in "
            f"{steps[-1].kind if steps else 'nothing'}."
        )
    if kind == "multi_crop" and not any(isinstance(each, ResizeShorterSide) for each in steps):
        raise UsageError("test_time=multi_crop needs a resize_shorter_side among the pixel steps.")


def views(pixels_hwc: Pixels, preprocessing: Preprocessing, kind: str) -> Pixels:
    """The views of one image, uint8 [V, H, W, C] at the network's input size.

    For "dense" the views are the whole image and its mirror, at the size before the centre crop.

    Args:
        pixels_hwc: As decoded.
        preprocessing: Of the network.
        kind: "centre", "ten_crop", "multi_crop" or "dense".
    """
    match kind:
        case "ten_crop":
            crops = list(_five(whole(pixels_hwc, preprocessing), preprocessing.input.shape))
        case "multi_crop":
            crops = list(_many(pixels_hwc, preprocessing))
        case "dense":
            crops = [whole(pixels_hwc, preprocessing)]
        case _:
            return preprocessing.to_pixels(pixels_hwc)[None]
    both = [*crops, *(crop[:, ::-1] for crop in crops)]
    return np.stack(both)


def whole(pixels_hwc: Pixels, preprocessing: Preprocessing, scale: float = 1.0) -> Pixels:
    """An image before its centre crop, `scale` times as large, uint8 [h, w, C]."""
    steps = tuple(
        step.model_copy(update={"size": round(step.size * scale)})
        if isinstance(step, ResizeShorterSide)
        else step
        for step in preprocessing.pixel_steps[:-1]
    )
    return preprocessing.model_copy(update={"pixel_steps": steps}).pixels_of(pixels_hwc)


def _five(image: Pixels, shape: tuple[int, int, int]) -> Iterator[Pixels]:
    height, width = shape[:2]
    down, right = image.shape[0] - height, image.shape[1] - width
    places = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    for top, left in places:
        yield image[top : top + height, left : left + width]


def _many(pixels_hwc: Pixels, preprocessing: Preprocessing) -> Iterator[Pixels]:
    from zoo.preprocess import resize

    height, width, _ = preprocessing.input.shape
    for scale in SCALES:
        image = whole(pixels_hwc, preprocessing, scale)
        side = min(image.shape[:2])
        for share in (0, 1, 2):
            top, left = ((image.shape[axis] - side) * share // 2 for axis in (0, 1))
            square = image[top : top + side, left : left + side]
            yield from _five(square, preprocessing.input.shape)
            yield resize(square, height, width, "bilinear")
