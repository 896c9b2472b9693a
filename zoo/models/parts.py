"""What several papers share: a few calls of Keras that every network would repeat."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import initializers, layers

from zoo.errors import UsageError
from zoo.suggest import unknown


def image_input(input_shape: tuple[int, int, int]) -> Any:
    """The input layer, named "image"."""
    return keras.Input(input_shape, name="image")


def require_one_of(option: str, value: object, known: Iterable[object]) -> None:
    """Raises `UsageError` for the value of an option that there is not."""
    names = tuple(known)
    if value not in names:
        raise UsageError(unknown(option, str(value), map(str, names)))


def require_size(name: str, input_shape: tuple[int, int, int], least: int) -> None:
    """Raises `UsageError` for an image that is too small for a network, or of unknown size."""
    if (
        len(input_shape) != 3
        or None in input_shape
        or min(input_shape[:2]) < least
        or input_shape[2] < 1
    ):
        raise UsageError(
            f"{name} takes images [height, width, channels] of at least {least}x{least}; "
            f"found {list(input_shape)}."
        )


def caffe_xavier() -> Any:
    """Caffe's "xavier": uniform within sqrt(3 / fan-in), where Glorot's counts the fan-out, too."""
    return initializers.VarianceScaling(1.0, "fan_in", "uniform")


def conv_bn(
    x: Any,
    filters: int,
    kernel: int,
    name: str,
    *,
    strides: int = 1,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    use_bias: bool = False,
    activation: str | None = "relu",
    initializer: Any = "he_normal",
) -> Any:
    """Convolution, batch normalisation, activation: `name`, `name`_bn, `name`_relu.

    Padding is the kernel's half on every side, as torch and Caffe pad; Keras's "same" pads
    unevenly when it strides.
    """
    half = kernel // 2
    if half and strides > 1:
        x = layers.ZeroPadding2D(half, name=f"{name}_pad")(x)
    x = layers.Conv2D(
        filters,
        kernel,
        strides,
        padding="valid" if strides > 1 or not half else "same",
        use_bias=use_bias,
        kernel_initializer=initializer,
        name=name,
    )(x)
    x = layers.BatchNormalization(momentum=momentum, epsilon=epsilon, name=f"{name}_bn")(x)
    return layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x


def dense_head(
    x: Any,
    num_classes: int,
    *,
    units: int = 4096,
    dropout: float = 0.5,
    initializer: Callable[[str], Any],
    bias: Callable[[str], Any],
    is_dropout_first: bool = False,
) -> Any:
    """flatten, fc6, fc7, logits: the classifier of AlexNet, ZFNet and VGG.

    Args:
        x: Feature maps.
        num_classes: Size of the output.
        units: Of fc6 and fc7.
        dropout: The share of units dropped in training.
        initializer: The kernel's, by layer name.
        bias: The bias's, by layer name.
        is_dropout_first: Drop before fc6 and fc7, as torchvision does, not after them.
    """
    x = layers.Flatten(name="flatten")(x)
    for name in ("fc6", "fc7"):
        if is_dropout_first:
            x = layers.Dropout(dropout, name=f"drop{name[-1]}")(x)
        x = layers.Dense(
            units,
            activation="relu",
            kernel_initializer=initializer(name),
            bias_initializer=bias(name),
            name=name,
        )(x)
        if not is_dropout_first:
            x = layers.Dropout(dropout, name=f"drop{name[-1]}")(x)
    return layers.Dense(
        num_classes,
        kernel_initializer=initializer("logits"),
        bias_initializer=bias("logits"),
        name="logits",
    )(x)
