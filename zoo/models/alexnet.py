"""AlexNet [krizhevsky2012]: ImageNet Classification with Deep Convolutional Neural Networks.

    image 224x224x3 (or 227)
    conv1   96 maps 55x55   11x11, stride 4    LRN, pool 3/2 -> 27x27
    conv2  256 maps 27x27   5x5, two groups    LRN, pool 3/2 -> 13x13
    conv3  384 maps 13x13   3x3
    conv4  384 maps 13x13   3x3, two groups
    conv5  256 maps 13x13   3x3, two groups    pool 3/2 -> 6x6
    fc6   4096, fc7 4096, logits 1000

The groups are the paper's two GPUs: conv2, conv4 and conv5 see only the maps of their own.
"""

from typing import Any, Literal, get_args

import keras
from keras import initializers, layers

from zoo.layers import LocallyConnected2D, LocalResponseNormalization, ceil_fill
from zoo.layers.normalization import CONVENTIONS, Convention
from zoo.models.parts import dense_head, image_input, require_one_of, require_size

# name: filters, kernel, strides, groups, "norm-pool" order after it (section 3.5, figure 2)
LAYERS = (
    ("conv1", 96, 11, 4, 1, True),
    ("conv2", 256, 5, 1, 2, True),
    ("conv3", 384, 3, 1, 1, False),
    ("conv4", 384, 3, 1, 2, False),
    ("conv5", 256, 3, 1, 2, False),
)
Order = Literal["norm-pool", "pool-norm"]
ORDERS = get_args(Order)
# Section 5: these biases start at 1, so that their ReLUs get positive inputs early on.
BIAS_ONE = ("conv2", "conv4", "conv5", "fc6", "fc7")


def alexnet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    include_top: bool = True,
    lrn: Convention = "paper",
    order: Order = "norm-pool",
) -> keras.Model:
    """AlexNet as published: groups, LRN after ReLU, overlapping pools; 60,965,224 parameters.

    224 pixels become 55 places because the last window hangs over the right and bottom edge by
    three pixels, as in the author's code; 227 (Caffe) fits exactly. Kernels start from N(0, 0.01),
    the biases of conv2, conv4, conv5, fc6 and fc7 at 1, the others at 0; dropout 0.5 after fc6 and
    fc7 (sections 4.2 and 5). With `order="pool-norm"` it is Caffe's CaffeNet.

    Args:
        input_shape: 224 or 227 pixels square give the paper's sizes; images less their mean image.
        num_classes: Size of the output.
        include_top: False ends at pool5.
        lrn: The convention of the normalisation.
        order: Which comes first after ReLU.

    Returns:
        A model from images [N, 224, 224, 3] to logits [N, num_classes].

    Raises:
        UsageError: no such convention or order.
    """
    require_size("alexnet", input_shape, 64)
    require_one_of("order", order, ORDERS)
    require_one_of("lrn", lrn, CONVENTIONS)
    image = image_input(input_shape)
    x: Any = image
    for name, filters, kernel, strides, groups, is_normalised in LAYERS:
        if strides > 1:
            x = ceil_fill(x, kernel, strides, name=f"{name}_fill")
        x = layers.Conv2D(
            filters,
            kernel,
            strides,
            padding="valid" if strides > 1 else "same",
            groups=groups,
            activation="relu",
            kernel_initializer=initializers.RandomNormal(stddev=0.01),
            bias_initializer=_bias(name),
            name=name,
        )(x)
        if is_normalised:
            norm = LocalResponseNormalization(lrn, name=f"norm{name[-1]}")
            pool = layers.MaxPooling2D(3, 2, name=f"pool{name[-1]}")
            x = pool(norm(x)) if order == "norm-pool" else norm(pool(x))
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    if include_top:
        x = dense_head(x, num_classes, initializer=_dense_kernel(order), bias=_bias)
    return keras.Model(image, x, name="alexnet" if order == "norm-pool" else "caffenet")


def _bias(name: str) -> Any:
    return "ones" if name in BIAS_ONE else "zeros"


def _dense_kernel(order: str) -> Any:
    # CaffeNet draws fc6 and fc7 from half the deviation.
    narrow = 0.005 if order == "pool-norm" else 0.01
    return lambda name: initializers.RandomNormal(stddev=0.01 if name == "logits" else narrow)


def alexnet_owt(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    include_top: bool = True,
) -> keras.Model:
    """The one-GPU AlexNet of [krizhevsky2014], in torchvision's form: 61,100,840 parameters.

    No groups, no LRN, 64-192-384-256-256 filters, conv1 padded by 2, dropout before fc6 and fc7.
    The footnote of the paper has 384 filters in conv4; the author's settings and torchvision have
    256, which is built here.

    Args:
        input_shape: 224 pixels square give the published sizes.
        num_classes: Size of the output.
        include_top: False ends at pool5.

    Returns:
        A model from images [N, 224, 224, 3] to logits [N, num_classes].
    """
    require_size("alexnet_owt", input_shape, 63)
    image = image_input(input_shape)
    x: Any = layers.ZeroPadding2D(2, name="conv1_pad")(image)
    for index, (filters, kernel) in enumerate(
        ((64, 11), (192, 5), (384, 3), (256, 3), (256, 3)), start=1
    ):
        x = layers.Conv2D(
            filters,
            kernel,
            4 if index == 1 else 1,
            padding="valid" if index == 1 else "same",
            activation="relu",
            kernel_initializer="he_uniform",
            name=f"conv{index}",
        )(x)
        if index in (1, 2, 5):
            x = layers.MaxPooling2D(3, 2, name=f"pool{index}")(x)
    if include_top:
        x = dense_head(
            x,
            num_classes,
            initializer=lambda _: "he_uniform",
            bias=lambda _: "zeros",
            is_dropout_first=True,
        )
    return keras.Model(image, x, name="alexnet_owt")


def alexnet_cifar(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    include_top: bool = True,
) -> keras.Model:
    """cuda-convnet's network for CIFAR-10 with two local layers (its "11 %" settings).

    An adaptation: the published settings take 24x24 crops; here the local layers are sized for
    whole 32x32 images, so the parameter count is this project's.

    Args:
        input_shape: Images less their mean image.
        num_classes: Size of the output.
        include_top: False ends at local4.

    Returns:
        A model from images [N, 32, 32, 3] to logits [N, num_classes].
    """
    require_size("alexnet_cifar", input_shape, 16)
    image = image_input(input_shape)
    x: Any = layers.Conv2D(
        64,
        5,
        padding="same",
        activation="relu",
        kernel_initializer=initializers.RandomNormal(stddev=0.01),
        name="conv1",
    )(image)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = LocalResponseNormalization("cuda-convnet2", size=9, alpha=1e-3, k=1.0, name="norm1")(x)
    x = layers.Conv2D(
        64,
        5,
        padding="same",
        activation="relu",
        kernel_initializer=initializers.RandomNormal(stddev=0.04),
        name="conv2",
    )(x)
    x = LocalResponseNormalization("cuda-convnet2", size=9, alpha=1e-3, k=1.0, name="norm2")(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool2")(x)
    for name, filters in (("local3", 64), ("local4", 32)):
        x = LocallyConnected2D(
            filters,
            3,
            activation="relu",
            kernel_initializer=initializers.RandomNormal(stddev=0.04),
            name=name,
        )(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(
            num_classes, kernel_initializer=initializers.RandomNormal(stddev=0.01), name="logits"
        )(x)
    return keras.Model(image, x, name="alexnet_cifar")
