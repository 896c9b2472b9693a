"""Weights that others published, in this zoo's networks.

    model = zoo.create("vgg16")
    zoo.weights.load(model, "vgg16_weights_tf_dim_ordering_tf_kernels.h5")   # a file at hand
    zoo.weights.load(model, zoo.weights.fetch("vgg16/keras"))                # downloaded when asked

Nothing is fetched unless `fetch` is called.
"""

from zoo.weights.load import load
from zoo.weights.public import PUBLIC, PublicWeights, fetch

__all__ = ["PUBLIC", "PublicWeights", "fetch", "load"]
