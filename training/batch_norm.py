"""Batch normalisation as one operation, for training with TensorFlow.

Keras makes it of a dozen operations, each of which reads and writes the whole tensor; a residual
network spends a quarter of a step there. TensorFlow has one operation for it and one for its
gradient. What is computed is the same.
"""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf


def fuse(model: keras.Model) -> None:
    """Lets a model's batch normalisations train in one operation; nothing else of them changes.

    Inference, what is saved and what is frozen stay Keras's. Layers that do more than TensorFlow's
    operation (masks, renormalisation, synchronisation, half precision, other axes) do too.
    """
    for layer in _layers(model):
        if type(layer) is keras.layers.BatchNormalization and not (
            layer.renorm or layer.synchronized
        ):
            layer.call = _fused(layer, layer.call)


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _fused(
    layer: keras.layers.BatchNormalization, unfused: Callable[..., Any]
) -> Callable[..., Any]:
    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:  # noqa: FBT001 - Keras's signature
        trains = training and layer.trainable and mask is None
        rank = len(inputs.shape)
        if not trains or rank != 4 or layer.axis not in (-1, 3) or inputs.dtype != tf.float32:
            return unfused(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=layer.gamma if layer.scale else tf.ones(channels),
            offset=layer.beta if layer.center else tf.zeros(channels),
            mean=tf.constant([]),
            variance=tf.constant([]),
            epsilon=layer.epsilon,
        )
        # TensorFlow tells the unbiased variance; Keras keeps the mean square as it is.
        values = tf.cast(tf.size(inputs) // channels, tf.float32)
        variance *= (values - 1) / values
        newest = 1 - layer.momentum
        for moving, found in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
            moving.assign(moving * layer.momentum + found * newest)
        return outputs

    return call
