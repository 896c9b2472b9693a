"""ZFNet [zeiler2014]: Visualizing and Understanding Convolutional Networks, figure 3.

    image 224x224x3
    conv1   96 maps 110x110   7x7, stride 2    pool 3/2 -> 55x55, contrast normalisation
    conv2  256 maps 26x26     5x5, stride 2    pool 3/2 -> 13x13, contrast normalisation
    conv3  384 maps 13x13     3x3
    conv4  384 maps 13x13     3x3
    conv5  256 maps 13x13     3x3              pool 3/2 -> 6x6
    fc6   4096, fc7 4096, logits 1000

Every size is rounded up, which is the one rule that gives the figure's numbers.
"""

from typing import Any

import keras
from keras import initializers, layers

from zoo.layers import CeilMaxPooling2D, FilterRms, LocalResponseNormalization, ceil_fill
from zoo.models.parts import dense_head, image_input, require_size


def _conv(x: Any, filters: int, kernel: int, name: str, strides: int = 1) -> Any:
    return layers.Conv2D(
        filters,
        kernel,
        strides,
        padding="valid" if strides > 1 else "same",
        activation="relu",
        kernel_initializer=initializers.RandomNormal(stddev=0.01),
        kernel_constraint=FilterRms(),
        name=name,
    )(x)


def zfnet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    include_top: bool = True,
    widths: tuple[int, int, int] = (384, 384, 256),
    name: str = "zfnet",
) -> keras.Model:
    """ZFNet of figure 3: 62,357,608 parameters; with widths 512-1024-512 its variant (b).

    Kernels start from N(0, 0.01), biases at 0; a filter whose RMS exceeds 0.1 is scaled back to
    it; dropout 0.5 after fc6 and fc7 (section 3.1). The paper prints no constants of its contrast
    normalisation "across feature maps": Krizhevsky's are used, after the pool as in the figure.

    Args:
        input_shape: 224 pixels square give the paper's sizes; images less their mean image.
        num_classes: Size of the output.
        include_top: False ends at pool5.
        widths: Filters of conv3, conv4 and conv5.
        name: The model's name.

    Returns:
        A model from images [N, 224, 224, 3] to logits [N, num_classes].
    """
    require_size(name, input_shape, 44)
    image = image_input(input_shape)
    x: Any = image
    for index, (filters, kernel) in enumerate(((96, 7), (256, 5)), start=1):
        x = ceil_fill(x, kernel, 2, name=f"conv{index}_fill")
        x = _conv(x, filters, kernel, f"conv{index}", strides=2)
        x = CeilMaxPooling2D(3, 2, name=f"pool{index}")(x)
        x = LocalResponseNormalization("paper", name=f"norm{index}")(x)
    for index, filters in enumerate(widths, start=3):
        x = _conv(x, filters, 3, f"conv{index}")
    x = CeilMaxPooling2D(3, 2, name="pool5")(x)
    if include_top:
        x = dense_head(
            x,
            num_classes,
            initializer=lambda _: initializers.RandomNormal(stddev=0.01),
            bias=lambda _: "zeros",
        )
    return keras.Model(image, x, name=name)


def zfnet_cifar(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    include_top: bool = True,
) -> keras.Model:
    """ZFNet's idea for 32x32 images: small first filters, small steps, no groups.

    An adaptation of this project, published nowhere else: first filters 3x3 with stride 1, pools
    3/2, widths halved, batch normalisation in place of contrast normalisation (without it the
    network does not train from scratch at this size), fc6 and fc7 of 512.

    Args:
        input_shape: Standardised images.
        num_classes: Size of the output.
        include_top: False ends at pool5.

    Returns:
        A model from images [N, 32, 32, 3] to logits [N, num_classes].
    """
    from zoo.models.parts import conv_bn

    require_size("zfnet_cifar", input_shape, 16)
    image = image_input(input_shape)
    x: Any = image
    for index, filters in enumerate((64, 128, 256, 256, 256), start=1):
        x = conv_bn(x, filters, 3, f"conv{index}")
        if index in (1, 2, 5):
            x = CeilMaxPooling2D(3, 2, name=f"pool{index}")(x)
    if include_top:
        x = dense_head(
            x,
            num_classes,
            units=512,
            initializer=lambda _: "he_normal",
            bias=lambda _: "zeros",
        )
    return keras.Model(image, x, name="zfnet_cifar")
