"""GoogLeNet [szegedy2015]: Going Deeper with Convolutions, table 1 and figure 3.

    image 224x224x3
    conv1     64 maps 112x112  7x7, stride 2   pool 3/2 -> 56x56, LRN
    conv2    192 maps 56x56    1x1 64, 3x3     LRN, pool 3/2 -> 28x28
    3a, 3b   480 maps 28x28                    pool 3/2 -> 14x14
    4a ... 4e  832 maps 14x14                  pool 3/2 -> 7x7
    5a, 5b  1024 maps 7x7                      average over all, dropout 0.4, logits 1000

An inception block is four branches side by side: 1x1; 1x1 then 3x3; 1x1 then 5x5; pool then 1x1.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import initializers, layers

from zoo.errors import UsageError
from zoo.layers import CeilMaxPooling2D, LocalResponseNormalization
from zoo.models.parts import caffe_xavier, conv_bn, image_input, require_size

# Table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
POOL_AFTER = {"3b": "pool3", "4e": "pool4"}
AUXILIARY_AFTER = {"4a": "aux1", "4d": "aux2"}

# Section 5: each auxiliary loss counts this much in training, and nothing in inference.
AUXILIARY_WEIGHT = 0.3

Conv = Callable[..., Any]


def _conv(x: Any, filters: int, kernel: int, name: str, strides: int = 1) -> Any:
    if strides > 1:
        # Caffe pads three pixels on every side; Keras's "same" would pad two and three.
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        kernel,
        strides,
        padding="valid" if strides > 1 else "same",
        activation="relu",
        kernel_initializer=caffe_xavier(),
        bias_initializer=initializers.Constant(0.2),
        name=name,
    )(x)


def _inception(x: Any, widths: tuple[int, ...], name: str, conv: Conv, kernel5: int = 5) -> Any:
    """One block; `kernel5` is 3 in torchvision's form."""
    n1, n3_reduce, n3, n5_reduce, n5, n_pool = widths
    prefix = f"inception{name}"
    b1 = conv(x, n1, 1, f"{prefix}_1x1")
    b3 = conv(conv(x, n3_reduce, 1, f"{prefix}_3x3_reduce"), n3, 3, f"{prefix}_3x3")
    b5 = conv(conv(x, n5_reduce, 1, f"{prefix}_5x5_reduce"), n5, kernel5, f"{prefix}_5x5")
    pool = layers.MaxPooling2D(3, 1, padding="same", name=f"{prefix}_pool")(x)
    return layers.Concatenate(name=prefix)([b1, b3, b5, conv(pool, n_pool, 1, f"{prefix}_proj")])


def _dense(units: int, activation: str | None = None, *, name: str) -> Any:
    """As Caffe starts them: biases at 0.2, those of classifiers at 0."""
    return layers.Dense(
        units,
        activation=activation,
        kernel_initializer=caffe_xavier(),
        bias_initializer=initializers.Constant(0.2 if activation else 0.0),
        name=name,
    )


def _auxiliary(
    x: Any, num_classes: int, name: str, pool: Any, conv: Conv, dense: Callable[..., Any]
) -> Any:
    """An auxiliary classifier: pool, 1x1 128, dense 1024, dropout 0.7 (section 5)."""
    x = conv(pool(x), 128, 1, f"{name}_conv")
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = dense(1024, activation="relu", name=f"{name}_fc")(x)
    x = layers.Dropout(0.7, name=f"{name}_drop")(x)
    return dense(num_classes, name=name)(x)


def googlenet(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    include_top: bool = True,
    auxiliary: bool = False,
) -> keras.Model:
    """GoogLeNet as published: 6,998,552 parameters, 13,378,280 with its auxiliary classifiers.

    Kernels start as Caffe's "xavier" and biases at 0.2, those of classifiers at 0, as in the
    published Caffe model; sizes are rounded up as there, and the normalisation, of which the paper
    prints no constants, is Caffe's. The paper's table counts conv1 as a pair of 7x1 and 1x7;
    everyone, the released model included, builds the full 7x7.

    Args:
        input_shape: 224 pixels square give the paper's sizes; images less the mean pixel.
        num_classes: Size of the output.
        include_top: False ends at inception 5b.
        auxiliary: Build both auxiliary classifiers, for training: the model's output is then
            a dict of "logits", "aux1" and "aux2"; `without_auxiliary` takes them off again.

    Returns:
        A model from images [N, 224, 224, 3] to logits [N, num_classes].
    """
    # The 5x5 pools of the auxiliary classifiers need five places in 4a and 4d.
    require_size("googlenet", input_shape, 79 if auxiliary and include_top else 32)
    image = image_input(input_shape)
    x = _conv(image, 64, 7, "conv1", strides=2)
    x = CeilMaxPooling2D(3, 2, name="pool1")(x)
    x = LocalResponseNormalization("caffe", name="norm1")(x)
    x = _conv(x, 64, 1, "conv2_reduce")
    x = _conv(x, 192, 3, "conv2")
    x = LocalResponseNormalization("caffe", name="norm2")(x)
    x = CeilMaxPooling2D(3, 2, name="pool2")(x)
    outputs: dict[str, Any] = {}
    for name, widths in INCEPTION.items():
        x = _inception(x, widths, name, _conv)
        if auxiliary and include_top and name in AUXILIARY_AFTER:
            head = AUXILIARY_AFTER[name]
            pool = layers.AveragePooling2D(5, 3, name=f"{head}_pool")
            outputs[head] = _auxiliary(x, num_classes, head, pool, _conv, _dense)
        if name in POOL_AFTER:
            x = CeilMaxPooling2D(3, 2, name=POOL_AFTER[name])(x)
    if not include_top:
        return keras.Model(image, x, name="googlenet")
    x = layers.GlobalAveragePooling2D(name="pool5")(x)
    x = layers.Dropout(0.4, name="drop5")(x)
    logits = _dense(num_classes, name="logits")(x)
    return keras.Model(
        image, {"logits": logits, **outputs} if outputs else logits, name="googlenet"
    )


def _conv_bn(x: Any, filters: int, kernel: int, name: str, strides: int = 1) -> Any:
    return conv_bn(x, filters, kernel, name, strides=strides, epsilon=1e-3)


def googlenet_bn(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    include_top: bool = True,
    auxiliary: bool = False,
) -> keras.Model:
    """GoogLeNet in torchvision's form, whose weights are public: 6,624,904 parameters.

    Against the paper: batch normalisation (eps 1e-3) and no biases, no LRN, a 3x3 in the 5x5
    branch, the last pool 2x2, dropout 0.2.

    Args:
        input_shape: 224 pixels square give the published sizes.
        num_classes: Size of the output.
        include_top: False ends at inception 5b.
        auxiliary: Build both auxiliary classifiers, as for `googlenet`.

    Returns:
        A model from images [N, 224, 224, 3] to logits [N, num_classes].
    """
    require_size("googlenet_bn", input_shape, 32)
    image = image_input(input_shape)
    x = _conv_bn(image, 64, 7, "conv1", strides=2)
    x = CeilMaxPooling2D(3, 2, name="pool1")(x)
    x = _conv_bn(x, 64, 1, "conv2")
    x = _conv_bn(x, 192, 3, "conv3")
    x = CeilMaxPooling2D(3, 2, name="pool2")(x)
    outputs: dict[str, Any] = {}
    for name, widths in INCEPTION.items():
        x = _inception(x, widths, name, _conv_bn, kernel5=3)
        if auxiliary and include_top and name in AUXILIARY_AFTER:
            head = AUXILIARY_AFTER[name]
            pool = layers.AdaptiveAveragePooling2D(4, name=f"{head}_pool")
            outputs[head] = _auxiliary(x, num_classes, head, pool, _conv_bn, layers.Dense)
        if name in POOL_AFTER:
            x = CeilMaxPooling2D(3 if name == "3b" else 2, 2, name=POOL_AFTER[name])(x)
    if not include_top:
        return keras.Model(image, x, name="googlenet_bn")
    x = layers.GlobalAveragePooling2D(name="pool5")(x)
    x = layers.Dropout(0.2, name="drop5")(x)
    logits = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(
        image, {"logits": logits, **outputs} if outputs else logits, name="googlenet_bn"
    )


def googlenet_cifar(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    include_top: bool = True,
) -> keras.Model:
    """GoogLeNet's nine inception blocks for 32x32 images.

    An adaptation that is widely used for CIFAR-10: one 3x3 convolution of 192 maps in place of
    everything before 3a, batch normalisation after each convolution, two 3/2 pools.

    Args:
        input_shape: Standardised images.
        num_classes: Size of the output.
        include_top: False ends at inception 5b.

    Returns:
        A model from images [N, 32, 32, 3] to logits [N, num_classes].
    """
    require_size("googlenet_cifar", input_shape, 8)
    image = image_input(input_shape)
    x = _conv_bn(image, 192, 3, "conv1")
    for name, widths in INCEPTION.items():
        x = _inception(x, widths, name, _conv_bn)
        if name in POOL_AFTER:
            x = CeilMaxPooling2D(3, 2, name=POOL_AFTER[name])(x)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool5")(x)
        x = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, x, name="googlenet_cifar")


def without_auxiliary(model: keras.Model) -> keras.Model:
    """The same network, weights shared, from images to logits alone.

    Raises:
        UsageError: the model has no output "logits".
    """
    if not isinstance(model.output, dict):
        return model
    if "logits" not in model.output:
        raise UsageError(f"Outputs {', '.join(model.output)}: none of them is 'logits'.")
    return keras.Model(model.input, model.output["logits"], name=model.name)
