"""The network that tells an X from an O, small enough to be set and read by hand.

After Brandon Rohrer's well-known walk-through of convolutional networks: a 9x9 picture of -1 and 1,
three 3x3 features (the diagonals and a small cross), rectification, pooling, twice, and a vote.
"""

from typing import Any

import keras
import numpy as np
from keras import layers

from zoo.layers import NormalizedTemplateConv2D
from zoo.models.parts import image_input, require_size

# Two diagonals and a cross, each of -1 and 1.
FEATURES = np.array(
    [
        [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]],
        [[1, -1, 1], [-1, 1, -1], [1, -1, 1]],
        [[-1, -1, 1], [-1, 1, -1], [1, -1, -1]],
    ],
    dtype=np.float32,
)


def xo(
    input_shape: tuple[int, int, int] = (9, 9, 1),
    num_classes: int = 2,
    *,
    include_top: bool = True,
    by_hand: bool = True,
) -> keras.Model:
    """A convolution whose maps lie in [-1, 1], ReLU, a 2x2 pool, a dense vote.

    Args:
        input_shape: Pictures of -1 (background) and 1 (ink).
        num_classes: 2: X and O.
        include_top: False ends at the pool.
        by_hand: Set the three features to the diagonals and the cross; False draws them at random.

    Returns:
        A model from images [N, 9, 9, 1] to logits [N, 2].
    """
    require_size("xo", input_shape, 5)
    image = image_input(input_shape)
    convolution = NormalizedTemplateConv2D(
        len(FEATURES), 3, kernel_initializer="glorot_uniform", name="conv1"
    )
    x: Any = convolution(image)
    x = layers.Activation("relu", name="conv1_relu")(x)
    x = layers.MaxPooling2D(2, padding="same", name="pool1")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        x = layers.Dense(num_classes, name="logits")(x)
    model = keras.Model(image, x, name="xo")
    if by_hand:
        set_features(model)
    return model


def set_features(model: keras.Model, features: np.ndarray[Any, Any] = FEATURES) -> None:
    """Sets the kernels of conv1 to `features` [3, 3, 3] (feature, row, column), biases to 0."""
    layer = model.get_layer("conv1")
    channels = layer.kernel.shape[2]
    kernel = np.repeat(features.transpose(1, 2, 0)[:, :, None, :], channels, axis=2)
    layer.kernel.assign(kernel)
    layer.bias.assign(np.zeros(len(features), np.float32))
