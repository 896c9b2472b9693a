"""LeNet-5 [lecun1998]: Gradient-Based Learning Applied to Document Recognition, section II.B.

image 32x32
C1   6 maps 28x28   convolution 5x5
S2   6 maps 14x14   2x2 sums, a coefficient and a bias each
C3  16 maps 10x10   convolution 5x5, connected by table I
S4  16 maps  5x5    2x2 sums, a coefficient and a bias each
C5 120 maps  1x1    convolution 5x5
F6  84              dense
10                  distance to a 7x12 picture of each digit
"""

import keras
import numpy as np
from keras import layers

from zoo.layers import EuclideanRBF, FanInUniform, Subsampling, TableConv2D, scaled_tanh
from zoo.models.parts import caffe_xavier, require_size

# Table I: the S2 maps that each of the 16 C3 maps sees.
C3_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

CODE_SIZE = 84  # a 7x12 picture


def lenet5(
    input_shape: tuple[int, int, int] = (32, 32, 1),
    num_classes: int = 10,
    *,
    include_top: bool = True,
) -> keras.Model:
    """LeNet-5 as published: exactly 60,000 trainable parameters and 840 fixed ones.

    Activations are 1.7159 tanh(2x/3) up to F6; initial weights are uniform in (-2.4/F, 2.4/F)
    for fan-in F, biases likewise (section III.A). The output's codes are pictures of the digits
    when there are ten classes; other numbers of classes get random codes of -1 and 1, which the
    paper names as the alternative. The pictures are this project's own drawing.

    Deviation: the output is the negated distance, so that larger is better.

    Args:
        input_shape: At least 32 high and wide; images with background -0.1 and ink 1.175.
        num_classes: Number of codes.
        include_top: False ends at S4.

    Returns:
        A model from images [N, 32, 32, 1] to logits [N, num_classes].
    """
    require_size("lenet5", input_shape, 32)
    image = keras.Input(input_shape, name="image")
    x = _conv(image, 6, fan_in=25 * input_shape[-1], name="c1")
    x = Subsampling(name="s2")(x)
    x = TableConv2D(C3_TABLE, 5, activation=scaled_tanh, name="c3")(x)
    x = Subsampling(name="s4")(x)
    if not include_top:
        return keras.Model(image, x, name="lenet5")
    x = _conv(x, 120, fan_in=25 * 16, name="c5")
    x = layers.Flatten(name="flatten")(x)
    fan_in = FanInUniform(float(x.shape[-1]))
    x = layers.Dense(
        CODE_SIZE,
        activation=scaled_tanh,
        kernel_initializer=fan_in,
        bias_initializer=fan_in,
        name="f6",
    )(x)
    logits = EuclideanRBF(output_codes(num_classes), name="logits")(x)
    return keras.Model(image, logits, name="lenet5")


def lenet5_modern(
    input_shape: tuple[int, int, int] = (32, 32, 1),
    num_classes: int = 10,
    *,
    include_top: bool = True,
) -> keras.Model:
    """What is usually called LeNet-5: 61,706 parameters, every one trainable.

    Against the paper: C3 sees all maps, S2 and S4 are plain averages without parameters, the
    activation is tanh, the output is dense. Weights start as Keras starts them.

    Args:
        input_shape: At least 16 high and wide; the count holds for (32, 32, 1).
        num_classes: Size of the output.
        include_top: False ends at S4.

    Returns:
        A model from images [N, 32, 32, 1] to logits [N, num_classes].
    """
    require_size("lenet5_modern", input_shape, 16)
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(6, 5, activation="tanh", name="c1")(image)
    x = layers.AveragePooling2D(2, name="s2")(x)
    x = layers.Conv2D(16, 5, activation="tanh", name="c3")(x)
    x = layers.AveragePooling2D(2, name="s4")(x)
    if not include_top:
        return keras.Model(image, x, name="lenet5_modern")
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(120, activation="tanh", name="c5")(x)
    x = layers.Dense(84, activation="tanh", name="f6")(x)
    logits = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, logits, name="lenet5_modern")


def lenet_caffe(
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    include_top: bool = True,
) -> keras.Model:
    """Caffe's `lenet` example [jia2014]: 431,080 parameters; related to LeNet-5 by name.

    Kernels start as Caffe's "xavier", biases at 0, as in the published settings.

    Args:
        input_shape: At least 16 high and wide; pixels in 0..1.
        num_classes: Size of the output.
        include_top: False ends at pool2.

    Returns:
        A model from images [N, 28, 28, 1] to logits [N, num_classes].
    """
    require_size("lenet_caffe", input_shape, 16)
    image = keras.Input(input_shape, name="image")
    x = layers.Conv2D(20, 5, kernel_initializer=caffe_xavier(), name="conv1")(image)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(50, 5, kernel_initializer=caffe_xavier(), name="conv2")(x)
    x = layers.MaxPooling2D(2, name="pool2")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(500, activation="relu", kernel_initializer=caffe_xavier(), name="fc1")(x)
        x = layers.Dense(num_classes, kernel_initializer=caffe_xavier(), name="logits")(x)
    return keras.Model(image, x, name="lenet_caffe")


def _conv(x: keras.KerasTensor, filters: int, fan_in: int, name: str) -> keras.KerasTensor:
    return layers.Conv2D(
        filters,
        5,
        activation=scaled_tanh,
        kernel_initializer=FanInUniform(float(fan_in)),
        bias_initializer=FanInUniform(float(fan_in)),
        name=name,
    )(x)


def output_codes(num_classes: int) -> list[list[float]]:
    """A code of 84 values, -1 or 1, for each class."""
    if num_classes == len(DIGITS):
        return [[1.0 if cell == "#" else -1.0 for row in digit for cell in row] for digit in DIGITS]
    draws = np.random.default_rng(1998).integers(0, 2, (num_classes, CODE_SIZE))
    codes: list[list[float]] = (2.0 * draws - 1.0).tolist()
    return codes


# Seven columns, twelve rows: the size of the paper's stylised characters; our own drawing.
_PICTURES = """
.#####.  ...##..  .#####.  .#####.  ....##.  #######  ..####.  #######  .#####.  .#####.
##...##  ..###..  ##...##  ##...##  ...###.  ##.....  .##....  ##...##  ##...##  ##...##
##...##  .####..  ##...##  .....##  ..####.  ##.....  ##.....  .....##  ##...##  ##...##
##...##  ...##..  .....##  .....##  .##.##.  ##.....  ##.....  ....##.  ##...##  ##...##
##...##  ...##..  .....##  .....##  ##..##.  ##.....  ##.....  ....##.  ##...##  ##...##
##...##  ...##..  ....##.  ..####.  ##..##.  ######.  ######.  ...##..  .#####.  .######
##...##  ...##..  ...##..  .....##  #######  .....##  ##...##  ...##..  ##...##  .....##
##...##  ...##..  ..##...  .....##  ....##.  .....##  ##...##  ..##...  ##...##  .....##
##...##  ...##..  .##....  .....##  ....##.  .....##  ##...##  ..##...  ##...##  .....##
##...##  ...##..  ##.....  .....##  ....##.  .....##  ##...##  .##....  ##...##  .....##
##...##  ...##..  ##.....  ##...##  ....##.  ##...##  ##...##  .##....  ##...##  ....##.
.#####.  .######  #######  .#####.  ....##.  .#####.  .#####.  .##....  .#####.  .####..
"""
DIGITS = tuple(zip(*(line.split() for line in _PICTURES.strip().splitlines()), strict=True))
