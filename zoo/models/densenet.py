"""DenseNet [huang2017]: Densely Connected Convolutional Networks, table 1 and section 3.

In a dense block every layer sees the maps of all layers before it: BN, ReLU, 1x1 to 4k maps
(bottleneck), BN, ReLU, 3x3 to k maps, joined to what was there. Between blocks a transition halves
the maps (compression 0.5) and their size.
"""

from typing import Any

import keras
from keras import layers

from zoo.layers import CeilMaxPooling2D
from zoo.models.parts import image_input, require_size


def _bn_relu(x: Any, name: str, epsilon: float) -> Any:
    x = layers.BatchNormalization(momentum=0.9, epsilon=epsilon, name=f"{name}_bn")(x)
    return layers.Activation("relu", name=f"{name}_relu")(x)


def _conv(x: Any, filters: int, kernel: int, name: str) -> Any:
    return layers.Conv2D(
        filters,
        kernel,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _dense_block(
    x: Any, count: int, growth: int, name: str, epsilon: float, *, bottleneck: bool
) -> Any:
    for step in range(1, count + 1):
        prefix = f"{name}_{step}"
        y = _bn_relu(x, f"{prefix}_0", epsilon)
        if bottleneck:
            y = _conv(y, 4 * growth, 1, f"{prefix}_1")
            y = _bn_relu(y, f"{prefix}_1", epsilon)
        y = _conv(y, growth, 3, f"{prefix}_2")
        x = layers.Concatenate(name=prefix)([x, y])
    return x


def _transition(x: Any, compression: float, name: str, epsilon: float) -> Any:
    x = _bn_relu(x, name, epsilon)
    x = _conv(x, int(x.shape[-1] * compression), 1, f"{name}_conv")
    return layers.AveragePooling2D(2, name=name)(x)


def densenet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    include_top: bool = True,
    blocks: tuple[int, ...] = (6, 12, 24, 16),
    growth: int = 32,
    epsilon: float = 1e-5,
    pad_pool: bool = True,
    name: str = "densenet121",
) -> keras.Model:
    """DenseNet-BC for ImageNet (table 1).

    Args:
        input_shape: 224 pixels square give the paper's sizes.
        num_classes: Size of the output.
        include_top: False ends after the last dense block's BN and ReLU.
        blocks: Layers of each dense block.
        growth: k, the maps that a layer adds.
        epsilon: Of batch normalisation; keras.applications has 1.001e-5.
        pad_pool: The first pool is padded by one pixel, as in the released models; False rounds up.
        name: The model's name.

    Returns:
        A model from images [N, 224, 224, 3] to logits [N, num_classes].
    """
    require_size(name, input_shape, 29)
    image = image_input(input_shape)
    x: Any = layers.ZeroPadding2D(3, name="conv1_pad")(image)
    x = layers.Conv2D(
        2 * growth, 7, 2, use_bias=False, kernel_initializer="he_normal", name="conv1"
    )(x)
    x = _bn_relu(x, "conv1", epsilon)
    if pad_pool:
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    else:
        x = CeilMaxPooling2D(3, 2, name="pool1")(x)
    for stage, count in enumerate(blocks, start=2):
        x = _dense_block(x, count, growth, f"conv{stage}", epsilon, bottleneck=True)
        if stage <= len(blocks):
            x = _transition(x, 0.5, f"pool{stage}", epsilon)
    x = _bn_relu(x, "features", epsilon)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool5")(x)
        x = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, x, name=name)


def densenet_cifar(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    include_top: bool = True,
    depth: int = 100,
    growth: int = 12,
    bottleneck: bool = True,
    name: str = "densenet_bc100_cifar",
) -> keras.Model:
    """DenseNet for CIFAR (section 4.1): three dense blocks of the same depth.

    Args:
        input_shape: Standardised images.
        num_classes: Size of the output.
        include_top: False ends after the last dense block's BN and ReLU.
        depth: 3 n + 4 layers, or 6 n + 4 with bottlenecks.
        growth: k.
        bottleneck: The BC form: 1x1 before each 3x3, transitions halve the maps.
        name: The model's name.

    Returns:
        A model from images [N, 32, 32, 3] to logits [N, num_classes].
    """
    require_size(name, input_shape, 8)
    count = (depth - 4) // (6 if bottleneck else 3)
    image = image_input(input_shape)
    x = _conv(image, 2 * growth if bottleneck else 16, 3, "conv1")
    for stage in (2, 3, 4):
        x = _dense_block(x, count, growth, f"conv{stage}", 1e-5, bottleneck=bottleneck)
        if stage < 4:
            x = _transition(x, 0.5 if bottleneck else 1.0, f"pool{stage}", 1e-5)
    x = _bn_relu(x, "features", 1e-5)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool5")(x)
        x = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, x, name=name)
