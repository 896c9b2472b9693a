"""ResNet [he2016]: Deep Residual Learning for Image Recognition, table 1 and section 4.2.

    image 224x224x3
    conv1   64 maps 112x112  7x7, stride 2   pool 3/2 -> 56x56
    conv2_x ... conv5_x      residual blocks, maps halved and filters doubled at each stage
    average over all, logits 1000

A block adds its input to what it computes; where sizes change, the shortcut is a 1x1 convolution
(option B), or zeros (option A, for CIFAR).
"""

from typing import Any, Literal

import keras
from keras import layers

from zoo.errors import UsageError
from zoo.layers import CeilMaxPooling2D, ZeroPaddedShortcut
from zoo.models.parts import conv_bn, image_input, require_one_of, require_size

# Table 1: blocks in conv2_x, conv3_x, conv4_x, conv5_x, and whether they are bottlenecks.
BLOCKS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
WIDTHS = (64, 128, 256, 512)


def resnet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    include_top: bool = True,
    depth: Literal[18, 34, 50, 101, 152] = 50,
    version: Literal["v1", "v1.5"] = "v1",
    use_bias: bool = False,
    epsilon: float = 1e-5,
    pool: Literal["ceil", "pad"] = "ceil",
    name: str = "resnet50",
) -> keras.Model:
    """ResNet for ImageNet.

    Kernels start as He's normal; batch normalisation with momentum 0.9 follows every convolution.
    v1 is the paper's: a bottleneck that halves does so in its first 1x1. v1.5 halves in the 3x3,
    as torchvision does. The first pool has no padding and rounds up, as in the released models;
    "pad" pads one pixel on every side, as torch and Keras do. These forms have the same shapes and
    different values, so weights go with their form.

    Args:
        input_shape: 224 pixels square give the paper's sizes.
        num_classes: Size of the output.
        include_top: False ends at conv5_x.
        depth: A row of table 1.
        version: Where a bottleneck strides.
        use_bias: Biases in the convolutions, as in keras.applications.
        epsilon: Of batch normalisation; keras.applications has 1.001e-5.
        pool: How the first pool meets the edge.
        name: The model's name.

    Returns:
        A model from images [N, 224, 224, 3] to logits [N, num_classes].
    """
    require_size(name, input_shape, 32)
    require_one_of("depth", depth, BLOCKS)
    require_one_of("version", version, ("v1", "v1.5"))
    require_one_of("pool", pool, ("ceil", "pad"))
    counts, is_bottleneck = BLOCKS[depth]
    image = image_input(input_shape)
    settings: dict[str, Any] = {"use_bias": use_bias, "epsilon": epsilon}
    x = conv_bn(image, 64, 7, "conv1", strides=2, **settings)
    if pool == "pad":
        # Zeros after ReLU never win against what is there.
        x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    else:
        x = CeilMaxPooling2D(3, 2, name="pool1")(x)
    for stage, (count, width) in enumerate(zip(counts, WIDTHS, strict=True), start=2):
        for block in range(1, count + 1):
            strides = 2 if block == 1 and stage > 2 else 1
            build = _bottleneck if is_bottleneck else _basic
            x = build(x, width, strides, f"conv{stage}_{block}", version, settings)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool5")(x)
        x = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, x, name=name)


def _shortcut(x: Any, filters: int, strides: int, name: str, settings: dict[str, Any]) -> Any:
    if x.shape[-1] == filters and strides == 1:
        return x
    # A 1x1 kernel needs no padding, so it may stride by itself.
    return conv_bn(x, filters, 1, f"{name}_shortcut", strides=strides, activation=None, **settings)


def _basic(
    x: Any, width: int, strides: int, name: str, version: str, settings: dict[str, Any]
) -> Any:
    """Two 3x3 convolutions (figure 5, left)."""
    del version  # v1 and v1.5 differ in bottlenecks alone
    y = conv_bn(x, width, 3, f"{name}_a", strides=strides, **settings)
    y = conv_bn(y, width, 3, f"{name}_b", activation=None, **settings)
    y = layers.Add(name=f"{name}_add")([_shortcut(x, width, strides, name, settings), y])
    return layers.Activation("relu", name=name)(y)


def _bottleneck(
    x: Any, width: int, strides: int, name: str, version: str, settings: dict[str, Any]
) -> Any:
    """1x1, 3x3, 1x1 with four times the maps (figure 5, right)."""
    first, second = (strides, 1) if version == "v1" else (1, strides)
    y = conv_bn(x, width, 1, f"{name}_a", strides=first, **settings)
    y = conv_bn(y, width, 3, f"{name}_b", strides=second, **settings)
    y = conv_bn(y, 4 * width, 1, f"{name}_c", activation=None, **settings)
    y = layers.Add(name=f"{name}_add")([_shortcut(x, 4 * width, strides, name, settings), y])
    return layers.Activation("relu", name=name)(y)


def resnet_cifar(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    include_top: bool = True,
    depth: int = 20,
    name: str = "resnet20",
) -> keras.Model:
    """ResNet for CIFAR-10 (section 4.2): 6n + 2 layers, shortcuts without parameters (option A).

    Args:
        input_shape: Images less their mean image.
        num_classes: Size of the output.
        include_top: False ends at the last block.
        depth: 20, 32, 44, 56, 110: 6n + 2.
        name: The model's name.

    Returns:
        A model from images [N, 32, 32, 3] to logits [N, num_classes].
    """
    require_size(name, input_shape, 8)
    if depth < 8 or depth % 6 != 2:
        raise UsageError(f"{name} has 6n + 2 layers; found depth={depth}.")
    image = image_input(input_shape)
    x = conv_bn(image, 16, 3, "conv1")
    for stage, width in enumerate((16, 32, 64), start=2):
        for block in range(1, (depth - 2) // 6 + 1):
            strides = 2 if block == 1 and stage > 2 else 1
            prefix = f"conv{stage}_{block}"
            y = conv_bn(x, width, 3, f"{prefix}_a", strides=strides)
            y = conv_bn(y, width, 3, f"{prefix}_b", activation=None)
            if strides > 1:
                x = ZeroPaddedShortcut(width, strides, name=f"{prefix}_shortcut")(x)
            x = layers.Add(name=f"{prefix}_add")([x, y])
            x = layers.Activation("relu", name=prefix)(x)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool5")(x)
        x = layers.Dense(num_classes, kernel_initializer="he_normal", name="logits")(x)
    return keras.Model(image, x, name=name)
