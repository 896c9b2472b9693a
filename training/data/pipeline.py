"""From images in memory to batches of inputs: tf.data, cached as uint8.

The pixel steps run once, in `training.data.store`, before the first epoch; the random changes and
the input steps run on whole batches, in the graph. What the input steps compute is held to
`Preprocessing.to_input` by a property test.

Array names: n image, h row, w column, c channel.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.augment import Augmentation, Elastic, draws_of_epoch
from training.data.dataset import Images
from zoo.preprocess import (
    CentreCrop,
    Floats,
    InputStep,
    Preprocessing,
    Scale,
    ScaleTo,
    Standardise,
    SubtractMeanImage,
    SubtractMeanPixel,
    Whiten,
)

if TYPE_CHECKING:
    import tensorflow as tf

# What red, green and blue give to gray (ITU-R 601-2).
LUMA_RGB = np.array([0.299, 0.587, 0.114], np.float32)


class Batch(NamedTuple):
    """What a step gets.

    Attributes:
        inputs: float32 [N, H, W, C].
        class_ids: int64 [N].
        partners: int64 [N], the other class of each mixed image; equal to `class_ids` without
            mixup.
        shares: float32 [N], how much of each image is its own class.
        images: int32, how many images the whole step has, over all workers.
    """

    inputs: Any
    class_ids: Any
    partners: Any
    shares: Any
    images: Any


class Slices(NamedTuple):
    """Which rows each batch takes: [start, stop) into the order, and the images of its step."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    images: NDArray[np.int32]


def slices_of(number: int, batch_size: int, replicas: int = 1) -> Slices:
    """Cuts `number` rows into steps of `batch_size`, and each step into one part a replica.

    A last, smaller step is cut as evenly as it goes; when it has fewer images than there are
    replicas it is left out.
    """
    edges = []
    for start in range(0, number, batch_size):
        size = min(batch_size, number - start)
        if size < replicas:
            continue
        cuts = start + np.linspace(0, size, replicas + 1).round().astype(np.int64)
        edges += [(low, high, size) for low, high in pairwise(cuts)]
    starts, stops, sizes = np.array(edges, dtype=np.int64).reshape(-1, 3).T
    return Slices(starts, stops, sizes.astype(np.int32))


def stored_steps(preprocessing: Preprocessing, augmentation: Augmentation) -> Preprocessing:
    """The preprocessing up to the size that images are kept at.

    A random crop takes the place of a `centre_crop` that ends the pixel steps, so images are kept
    as large as they are before it.
    """
    steps = preprocessing.pixel_steps
    crops = augmentation.crop is not None or augmentation.resized_crop is not None
    if not (crops and steps and isinstance(steps[-1], CentreCrop)):
        return preprocessing
    kept = steps[:-1]
    size = next(
        (
            (step.height, step.width)
            for step in reversed(kept)
            if hasattr(step, "height") and hasattr(step, "width")
        ),
        None,
    )
    if size is None:
        return preprocessing
    larger = preprocessing.input.model_copy(update={"height": size[0], "width": size[1]})
    return preprocessing.model_copy(update={"pixel_steps": kept, "input": larger})


def centre(images: Images, shape: tuple[int, int, int]) -> Images:
    """The middle of stored images, at the network's input size."""
    rows, columns = images.pixels_nhwc.shape[1:3]
    if (rows, columns) == shape[:2]:
        return images
    top, left = (rows - shape[0]) // 2, (columns - shape[1]) // 2
    return Images(
        images.pixels_nhwc[:, top : top + shape[0], left : left + shape[1]], images.class_ids
    )


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
            case ScaleTo():
                x = x * np.float32((step.high - step.low) / 255) + np.float32(step.low)
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
    slices: Slices,
    preprocessing: Preprocessing,
    arrays: Mapping[str, Floats],
    changes: "Changes | None" = None,
) -> Any:
    """The images at `rows`, in that order, as a tf.data.Dataset of `Batch`.

    Args:
        images: uint8, as stored.
        rows: Which, in which order.
        slices: Which rows each batch takes.
        preprocessing: Its input steps run in the graph.
        arrays: What the fitted steps name.
        changes: The random changes of this epoch; without them the centre of each image is taken.
    """
    import tensorflow as tf

    shape, is_bgr = preprocessing.input.shape, preprocessing.input.colour == "bgr"
    if changes is None:
        images = centre(images, shape)
    gather = _gatherer(images)
    with tf.device("cpu"):
        class_ids = tf.constant(images.class_ids)
        order = tf.constant(rows)
        drawn = {
            name: tf.constant(each) for name, each in (changes.drawn if changes else {}).items()
        }

    # AutoGraph cannot read `match`, and there is nothing here for it to convert.
    @tf.autograph.experimental.do_not_convert
    def load(start: "tf.Tensor", stop: "tf.Tensor", size: "tf.Tensor") -> Batch:
        chosen = order[start:stop]
        pixels = gather(chosen)
        mine = {name: tf.gather(each, chosen) for name, each in drawn.items()}
        if changes is not None:
            stored = images.pixels_nhwc.shape[1:3]
            pixels = changes.pixels(pixels, mine, chosen, stored, shape, is_bgr=is_bgr)
        x = input_steps(pixels, preprocessing.input_steps, arrays)
        ids = tf.gather(class_ids, chosen)
        partners, shares = ids, tf.ones(tf.shape(ids))
        if changes is not None:
            x, partners, shares = changes.inputs(x, ids, mine, shape)
        return Batch(tf.ensure_shape(x, (None, *shape)), ids, partners, shares, size)

    # What tunes a pipeline wakes up after 10, 20, 40, ... ms, and the end of an epoch often waits for
    # it to: three seconds of steps then take 5.1 s. There is nothing to tune in these two stages.
    options = tf.data.Options()
    options.autotune.enabled = False
    return (
        tf.data.Dataset.from_tensor_slices(tuple(slices))
        .map(load, num_parallel_calls=2)
        .prefetch(2)
        .with_options(options)
    )


def _gatherer(images: Images) -> Any:
    """From rows to pixels; an array that is mapped from a file is read only where it is asked."""
    import tensorflow as tf

    pixels = images.pixels_nhwc
    if not isinstance(pixels, np.memmap):
        with tf.device("cpu"):
            tensor = tf.constant(pixels)
        return lambda rows: tf.gather(tensor, rows)

    def read(rows: "tf.Tensor") -> "tf.Tensor":
        found = tf.numpy_function(lambda chosen: pixels[chosen], (rows,), tf.uint8)
        return tf.ensure_shape(found, (None, *pixels.shape[1:]))

    return read


class Changes:
    """The random changes of one epoch.

    Args:
        settings: What is done.
        number: Images in the training part.
        stored: (height, width) of the stored images.
        wanted: (height, width) of the input.
        seed: The recipe's.
        epoch: From 1.
        axes: `training.data.fit.colour_axes`, when lighting is asked for.
    """

    def __init__(
        self,
        settings: Augmentation,
        number: int,
        stored: tuple[int, int],
        wanted: tuple[int, int],
        seed: int,
        epoch: int,
        axes: Floats | None = None,
    ) -> None:
        self.settings = settings
        self.drawn = draws_of_epoch(settings, number, stored, wanted, seed, epoch)
        self._field_seed = int(np.random.default_rng((seed, epoch, 8)).integers(2**31))
        self._axes = axes

    def pixels(
        self,
        pixels: "tf.Tensor",
        drawn: Mapping[str, Any],
        rows: "tf.Tensor",
        stored: Sequence[int],
        shape: tuple[int, int, int],
        *,
        is_bgr: bool = False,
    ) -> "tf.Tensor":
        """What is done to pixels: uint8 [N, h, w, c] -> [N, H, W, C] of 0..255."""
        import tensorflow as tf

        x = pixels
        if "transforms" in drawn:
            x = tf.raw_ops.ImageProjectiveTransformV3(
                images=tf.cast(x, tf.float32),
                transforms=drawn["transforms"],
                output_shape=shape[:2],
                fill_value=self.settings.fill,
                interpolation="BILINEAR",
                fill_mode="CONSTANT",
            )
        elif tuple(stored) != shape[:2]:
            top, left = (stored[0] - shape[0]) // 2, (stored[1] - shape[1]) // 2
            x = x[:, top : top + shape[0], left : left + shape[1]]
        if self.settings.elastic is not None:
            seed = (self._field_seed, tf.cast(rows[0], tf.int32))
            x = elastic(tf.cast(x, tf.float32), self.settings.elastic, seed)
        if "photometric" in drawn:
            luma = LUMA_RGB[::-1] if is_bgr else LUMA_RGB
            x = _photometric(tf.cast(x, tf.float32), drawn["photometric"], luma)
        if "lighting" in drawn and self._axes is not None:
            x = tf.cast(x, tf.float32) + (drawn["lighting"] @ self._axes.T)[:, None, None, :]
        if x.dtype == tf.float32 and ("photometric" in drawn or "lighting" in drawn):
            x = tf.clip_by_value(x, 0.0, 255.0)
        return x

    def inputs(
        self, x: "tf.Tensor", ids: "tf.Tensor", drawn: Mapping[str, Any], shape: tuple[int, ...]
    ) -> tuple[Any, Any, Any]:
        """What is done to inputs: cutout and mixup; (inputs, partners' classes, shares)."""
        import tensorflow as tf

        if self.settings.cutout is not None:
            x = x * _outside_square(drawn["cutout"], self.settings.cutout.size, shape)
        if "mixup" not in drawn:
            return x, ids, tf.ones(tf.shape(ids))
        # A share below one half is the same mixture with the partners exchanged.
        shares = tf.maximum(drawn["mixup"], 1 - drawn["mixup"])
        weight = shares[:, None, None, None]
        return weight * x + (1 - weight) * tf.roll(x, 1, 0), tf.roll(ids, 1, 0), shares


def elastic(x: "tf.Tensor", settings: Elastic, seed: Any) -> "tf.Tensor":
    """Displaces each pixel of float32 [N, H, W, C] by a smooth random field [simard2003]."""
    import tensorflow as tf

    number, height, width = tf.shape(x)[0], int(x.shape[1]), int(x.shape[2])
    radius = min(int(3 * settings.sigma + 0.5), height - 1, width - 1)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * np.square(offsets / settings.sigma)).astype(np.float32)
    kernel /= kernel.sum()
    field = tf.random.stateless_uniform((number, height, width, 2), seed, -1.0, 1.0)
    for axis_kernel in (kernel[:, None, None, None], kernel[None, :, None, None]):
        both = np.repeat(axis_kernel, 2, axis=2)
        field = tf.nn.depthwise_conv2d(field, both, (1, 1, 1, 1), "SAME")
    y, x_at = tf.meshgrid(
        tf.range(height, dtype=tf.float32), tf.range(width, dtype=tf.float32), indexing="ij"
    )
    places = tf.stack([y, x_at], -1)[None] + settings.alpha * field
    return _sample(x, places)


def _sample(x: "tf.Tensor", places: "tf.Tensor") -> "tf.Tensor":
    """Bilinear values of [N, H, W, C] at (row, column) places; the border goes on outside."""
    import tensorflow as tf

    height, width = int(x.shape[1]), int(x.shape[2])
    row = tf.clip_by_value(places[..., 0], 0.0, height - 1.0)
    column = tf.clip_by_value(places[..., 1], 0.0, width - 1.0)
    top, left = tf.floor(row), tf.floor(column)
    down, right = row - top, column - left

    def at(rows: "tf.Tensor", columns: "tf.Tensor") -> "tf.Tensor":
        flat = tf.cast(rows * width + columns, tf.int32)
        flat = tf.reshape(flat, (tf.shape(x)[0], -1))
        values = tf.gather(tf.reshape(x, (tf.shape(x)[0], height * width, -1)), flat, batch_dims=1)
        return tf.reshape(values, tf.shape(x))

    bottom, beside = tf.minimum(top + 1, height - 1.0), tf.minimum(left + 1, width - 1.0)
    down, right = down[..., None], right[..., None]
    upper = at(top, left) * (1 - right) + at(top, beside) * right
    lower = at(bottom, left) * (1 - right) + at(bottom, beside) * right
    return upper * (1 - down) + lower * down


def _photometric(x: "tf.Tensor", factors: "tf.Tensor", luma: NDArray[np.float32]) -> "tf.Tensor":
    import tensorflow as tf

    brightness, contrast, saturation = (factors[:, each, None, None, None] for each in range(3))
    x = x * brightness
    mean = tf.reduce_mean(x, (1, 2, 3), keepdims=True)
    x = mean + (x - mean) * contrast
    if x.shape[-1] == 3:
        gray = tf.reduce_sum(x * luma, -1, keepdims=True)
        x = gray + (x - gray) * saturation
    return x


def _outside_square(places: "tf.Tensor", size: int, shape: Sequence[int]) -> "tf.Tensor":
    """1 outside each image's square and 0 inside, [N, H, W, 1]."""
    import tensorflow as tf

    centre_row = tf.floor(places[:, 0] * shape[0])[:, None]
    centre_column = tf.floor(places[:, 1] * shape[1])[:, None]
    rows = tf.range(shape[0], dtype=tf.float32)[None]
    columns = tf.range(shape[1], dtype=tf.float32)[None]
    half = size // 2

    def inside(at: "tf.Tensor", middle: "tf.Tensor") -> "tf.Tensor":
        return tf.logical_and(at >= middle - half, at < middle - half + size)

    square = inside(rows, centre_row)[:, :, None] & inside(columns, centre_column)[:, None, :]
    return tf.cast(~square, tf.float32)[..., None]
