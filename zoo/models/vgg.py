"""VGG [simonyan2015]: Very Deep Convolutional Networks for Large-Scale Image Recognition.

Table 1: five stages of 3x3 convolutions, each ended by a 2x2 pool that halves the maps, then
fc-4096, fc-4096, fc-1000.
"""

from typing import Any

import keras
from keras import initializers, layers

from zoo.errors import UsageError
from zoo.layers import LocalResponseNormalization
from zoo.models.parts import conv_bn, dense_head, image_input, require_one_of, require_size

# Table 1: the kernel of each convolution, stage by stage.
CONFIGURATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
WIDTHS = (64, 128, 256, 512, 512)


def vgg(
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    *,
    include_top: bool = True,
    configuration: str = "D",
    lrn: bool = False,
    batch_norm: bool = False,
    name: str = "vgg16",
) -> keras.Model:
    """VGG in one of the paper's configurations.

    Kernels start as Glorot's uniform, which section 3.1 names as the way to train without
    pre-trained layers (the paper itself draws from N(0, 0.1) and copies layers of A); biases at 0;
    dropout 0.5 after fc6 and fc7. Batch normalisation is torchvision's addition: after each
    convolution, which keeps its bias.

    Args:
        input_shape: 224 pixels square give the paper's sizes; BGR 0..255 less the mean pixel for
            the published weights, RGB for your own.
        num_classes: Size of the output.
        include_top: False ends at pool5.
        configuration: A (11 layers), B (13), C, D (16) or E (19).
        lrn: Local response normalisation after conv1_1: A-LRN.
        batch_norm: Batch normalisation after each convolution.
        name: The model's name.

    Returns:
        A model from images [N, 224, 224, 3] to logits [N, num_classes].

    Raises:
        UsageError: no such configuration, or both normalisations.
    """
    require_size(name, input_shape, 32)
    require_one_of("configuration", configuration, CONFIGURATIONS)
    if lrn and batch_norm:
        raise UsageError(f"{name} takes lrn or batch_norm, not both.")
    image = image_input(input_shape)
    x = _features(image, CONFIGURATIONS[configuration], lrn=lrn, batch_norm=batch_norm)
    if include_top:
        x = dense_head(
            x,
            num_classes,
            initializer=lambda _: "glorot_uniform",
            bias=lambda _: "zeros",
        )
    return keras.Model(image, x, name=name)


def _features(x: Any, stages: tuple[tuple[int, ...], ...], *, lrn: bool, batch_norm: bool) -> Any:
    for stage, (kernels, filters) in enumerate(zip(stages, WIDTHS, strict=True), start=1):
        for step, kernel in enumerate(kernels, start=1):
            name = f"conv{stage}_{step}"
            if batch_norm:
                x = conv_bn(x, filters, kernel, name, use_bias=True)
                continue
            x = layers.Conv2D(
                filters,
                kernel,
                padding="same",
                activation="relu",
                kernel_initializer=initializers.GlorotUniform(),
                name=name,
            )(x)
            if lrn and name == "conv1_1":
                x = LocalResponseNormalization("paper", name="norm1_1")(x)
        x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)  # halves height and width
    return x


def vgg_cifar(
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    *,
    include_top: bool = True,
    configuration: str = "D",
    name: str = "vgg16_cifar",
) -> keras.Model:
    """VGG's convolutions for 32x32 images, after [liu2015].

    An adaptation: batch normalisation after each convolution, and one hidden layer of 512 with
    dropout in place of fc6 and fc7, whose 4096 units would overfit 50,000 small images.

    Args:
        input_shape: Standardised images.
        num_classes: Size of the output.
        include_top: False ends at pool5.
        configuration: A or D.
        name: The model's name.

    Returns:
        A model from images [N, 32, 32, 3] to logits [N, num_classes].
    """
    require_size(name, input_shape, 32)
    require_one_of("configuration", configuration, CONFIGURATIONS)
    image = image_input(input_shape)
    x = _features(image, CONFIGURATIONS[configuration], lrn=False, batch_norm=True)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dropout(0.5, name="drop6")(x)
        x = layers.Dense(512, kernel_initializer="he_normal", use_bias=False, name="fc6")(x)
        x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="fc6_bn")(x)
        x = layers.Activation("relu", name="fc6_relu")(x)
        x = layers.Dropout(0.5, name="drop7")(x)
        x = layers.Dense(num_classes, name="logits")(x)
    return keras.Model(image, x, name=name)
