"""The same network in another form: dense layers as convolutions, for images of any size."""

from typing import Any

import keras
from keras import layers

from zoo.errors import UsageError

# Layers of a chain that have no meaning on larger maps: weights for each place, distances to codes.
OF_ONE_SIZE = ("LocallyConnected2D", "EuclideanRBF")


def to_fully_convolutional(model: keras.Model) -> keras.Model:
    """Turns the classifier of a chain like VGG or AlexNet into convolutions.

    fc6 becomes a convolution of the size of the last feature maps, the others 1x1
    [simonyan2015, section 3.2]. On an image of the network's own size the answer is the same; on
    a larger one it is a map of answers, whose mean over places is the paper's dense evaluation.

    Args:
        model: A network whose layers follow each other up to "logits", through one Flatten.

    Returns:
        A model from images [N, height, width, channels] of any size that is at least the
        network's own, to logits [N, height', width', num_classes].

    Raises:
        UsageError: the network is no such chain.
    """
    chain = model.layers[1:]
    flatten = next((layer for layer in chain if isinstance(layer, layers.Flatten)), None)
    refused = [
        layer
        for layer in chain
        if isinstance(layer.input, list | tuple) or type(layer).__name__ in OF_ONE_SIZE
    ]
    if flatten is None or refused:
        because = f" ({refused[0].name} is in the way)" if refused else ""
        raise UsageError(
            f"{model.name} is no chain of convolutions and dense layers{because}, so its "
            "classifier cannot become convolutions; AlexNet, ZFNet and VGG are."
        )
    *_, channels = model.input_shape
    x: Any = keras.Input((None, None, channels), name="image")
    image = x
    kernel: tuple[int, int] = flatten.input.shape[1:3]
    sources = []
    for layer in chain:
        if layer is flatten:
            continue
        if isinstance(layer, layers.Dense):
            copy: Any = layers.Conv2D(
                layer.units,
                kernel,
                activation=layer.activation,
                use_bias=layer.use_bias,
                name=layer.name,
            )
            kernel = (1, 1)
        else:
            copy = type(layer).from_config(layer.get_config())
        x = copy(x)
        sources.append((layer, copy))
    converted = keras.Model(image, x, name=f"{model.name}_fully_convolutional")
    for layer, copy in sources:
        weights = layer.get_weights()
        if isinstance(layer, layers.Dense):
            weights[0] = weights[0].reshape(copy.kernel.shape)
        if weights:
            copy.set_weights(weights)
    return converted
