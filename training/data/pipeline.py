"""From images in memory to batches of inputs: tf.data, cached as uint8.

The pixel steps run once, in `zoo.preprocess`, before the first epoch; the input steps run on whole
batches, in the graph. What they compute is held to `Preprocessing.to_input` by a property test.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Images
from zoo.preprocess import (
    Floats,
    InputStep,
    Preprocessing,
    Scale,
    Standardise,
    SubtractMeanImage,
    SubtractMeanPixel,
    Whiten,
)

if TYPE_CHECKING:
    import tensorflow as tf


def at_input_size(images: Images, preprocessing: Preprocessing) -> Images:
    """Runs the pixel steps over a whole set: uint8 [N, H, W, C] of the network's size.

    Raises:
        ImageError: an image cannot become that size.
    """
    if images.pixels_nhwc.shape[1:] == preprocessing.input.shape and not preprocessing.pixel_steps:
        return images
    pixels = np.empty((len(images), *preprocessing.input.shape), dtype=np.uint8)
    for row, image in enumerate(images.pixels_nhwc):
        pixels[row] = preprocessing.to_pixels(image)
    return Images(pixels, images.class_ids)


def input_steps(
    pixels: "tf.Tensor", steps: tuple[InputStep, ...], arrays: Mapping[str, Floats]
) -> "tf.Tensor":
    """`Preprocessing.to_input` in the graph: [N, H, W, C] of 0..255 -> float32 [N, H, W, C]."""
    import tensorflow as tf

    x = tf.cast(pixels, tf.float32)
    for step in steps:
        match step:
            case Scale():
                x = x * np.float32(step.scale) + np.float32(step.offset)
            case Standardise():
                x = (x - np.asarray(step.mean, np.float32)) / np.asarray(step.std, np.float32)
            case SubtractMeanPixel():
                x = x - np.asarray(step.mean, np.float32)
            case SubtractMeanImage():
                x = x - arrays[step.array]
            case Whiten():
                flat = tf.reshape(x, (tf.shape(x)[0], -1)) - arrays[step.mean]
                x = tf.reshape(tf.matmul(flat, arrays[step.matrix]), tf.shape(x))
    return x


def order_of_epoch(number: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """The order in which an epoch visits `number` images; the same whenever it is asked again."""
    return np.random.default_rng((seed, epoch)).permutation(number)


def batches(
    images: Images,
    rows: NDArray[np.int64],
    batch_size: int,
    preprocessing: Preprocessing,
    arrays: Mapping[str, Floats],
    affine: tuple[Floats, float] | None = None,
) -> Any:
    """The images at `rows`, in that order, as a tf.data.Dataset of (inputs, class ids).

    Args:
        images: uint8, already at the input's size.
        rows: Which, in which order.
        batch_size: Images a batch; the last batch has what is left.
        preprocessing: Its input steps run in the graph.
        arrays: What the fitted steps name.
        affine: For each image (not each row) its transform, and the fill value.

    Returns:
        Batches (float32 [N, H, W, C], int64 [N]).
    """
    import tensorflow as tf

    with tf.device("cpu"):
        pixels = tf.constant(images.pixels_nhwc)
        class_ids = tf.constant(images.class_ids)
        matrices = tf.constant(affine[0]) if affine is not None else None

    # AutoGraph cannot read `match`, and there is nothing here for it to convert.
    @tf.autograph.experimental.do_not_convert
    def load(batch_rows: "tf.Tensor") -> tuple["tf.Tensor", "tf.Tensor"]:
        chosen = tf.gather(pixels, batch_rows)
        if affine is not None:
            chosen = tf.raw_ops.ImageProjectiveTransformV3(
                images=tf.cast(chosen, tf.float32),
                transforms=tf.gather(matrices, batch_rows),
                output_shape=pixels.shape[1:3],
                fill_value=affine[1],
                interpolation="BILINEAR",
                fill_mode="CONSTANT",
            )
        return (
            input_steps(chosen, preprocessing.input_steps, arrays),
            tf.gather(class_ids, batch_rows),
        )

    return (
        tf.data.Dataset.from_tensor_slices(rows)
        .batch(batch_size)
        .map(load, num_parallel_calls=2)
        .prefetch(tf.data.AUTOTUNE)
    )
