"""What public weights must be given, as preprocessing: from any image to their network's input.

Each publisher measures on one centre crop. Caffe squeezes the image into a square before; the
others bring its shorter side to that length.
"""

from collections.abc import Mapping

import numpy as np

from zoo.catalog import describe
from zoo.preprocess import (
    CentreCrop,
    InputStep,
    PixelStep,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    ScaleTo,
    Standardise,
    SubtractMeanPixel,
)
from zoo.spec import ColourOrder, ImageInput
from zoo.weights.public import (
    CAFFE_INPUT,
    CAFFE_MEAN_IMAGE,
    GOOGLENET_INPUT,
    SIGNED_INPUT,
    TORCH_INPUT,
    PublicWeights,
)

# The side that an image is brought to, before the input is cut out of its middle.
SIDE = 256

_IMAGENET = Standardise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# PublicWeights.preprocessing -> the colour order, and what becomes of 0..255.
_INPUTS: Mapping[str, tuple[ColourOrder, tuple[InputStep, ...]]] = {
    CAFFE_INPUT: ("bgr", (SubtractMeanPixel(mean=(103.939, 116.779, 123.68)),)),
    GOOGLENET_INPUT: ("bgr", (SubtractMeanPixel(mean=(104.0, 117.0, 123.0)),)),
    # The mean image is a file of its own, which is not published with the weights; this is its mean.
    CAFFE_MEAN_IMAGE: (
        "bgr",
        (SubtractMeanPixel(mean=(104.00698793, 116.66876762, 122.67891434)),),
    ),
    TORCH_INPUT: ("rgb", (ScaleTo(low=0, high=1), _IMAGENET)),
    SIGNED_INPUT: ("rgb", (ScaleTo(low=-1, high=1),)),
}


def in_words(weights: PublicWeights) -> str:
    """What becomes of an image, in a line."""
    found = preprocessing_of(weights)
    before = "squeezed to 256x256" if _is_caffes(weights) else "shorter side to 256"
    mean = " (here: less its mean pixel)" if weights.preprocessing == CAFFE_MEAN_IMAGE else ""
    size = f"{found.input.height}x{found.input.width}"
    return f"{before}, {size} out of the middle; {weights.preprocessing}{mean}"


def _is_caffes(weights: PublicWeights) -> bool:
    return weights.name.endswith("/caffe")


def preprocessing_of(weights: PublicWeights) -> Preprocessing:
    """From an image of any size to what these weights were taught to see."""
    colour, steps = _INPUTS[weights.preprocessing]
    height, width, channels = weights.options.get(
        "input_shape", describe(weights.network).input.shape
    )
    sized: PixelStep = (
        Resize(height=SIDE, width=SIDE) if _is_caffes(weights) else ResizeShorterSide(size=SIDE)
    )
    found = Preprocessing(
        input=ImageInput(height=height, width=width, channels=channels, colour=colour),
        upright=True,
        pixel_steps=(sized, CentreCrop(height=height, width=width)),
        input_steps=steps,
    )
    ends = found.to_input(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1).repeat(channels, 3))
    value_range = (float(ends.min()), float(ends.max()))
    return found.model_copy(
        update={"input": found.input.model_copy(update={"value_range": value_range})}
    )
