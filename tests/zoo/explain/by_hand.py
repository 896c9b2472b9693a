"""A network small enough to do by hand, in NumPy: logits_k = sum(weights_k * relu(image))."""

import numpy as np

from zoo.explain.probe import Layer, require_layer

SIZE = 8


class HandProbe:
    """Two classes over images [8, 8, 1]; the first layer is the ReLU of the image."""

    def __init__(self, weights_khw=None, seed=0):
        draws = np.random.default_rng(seed)
        self.table = np.asarray(
            draws.normal(size=(2, SIZE, SIZE)) if weights_khw is None else weights_khw, np.float32
        )
        self.layers = (
            Layer(name="image", kind="InputLayer", parents=(), output_shape=(SIZE, SIZE, 1)),
            Layer(
                name="relu1",
                kind="Activation",
                parents=("image",),
                output_shape=(SIZE, SIZE, 1),
                config={"activation": "relu"},
            ),
            Layer(name="flatten", kind="Flatten", parents=("relu1",), output_shape=(SIZE * SIZE,)),
            Layer(
                name="logits",
                kind="Dense",
                parents=("flatten",),
                output_shape=(2,),
                config={"activation": "linear"},
            ),
        )
        self.output = "logits"
        self.calls = 0

    def feature_maps(self, images_nhwc, layers):
        self.calls += 1
        relu = np.maximum(images_nhwc, 0)
        every = {
            "image": images_nhwc,
            "relu1": relu,
            "flatten": relu.reshape(len(relu), -1),
            "logits": np.einsum("nhw,khw->nk", relu[..., 0], self.table),
        }
        for name in layers:
            require_layer(self, name)
        return {name: every[name] for name in layers}

    def pull_back(self, images_nhwc, layer, seed, *, at=None, rule="relu"):
        if layer == "flatten":
            seed = seed.reshape(-1, SIZE, SIZE, 1)
        if layer == "logits":
            seed = np.einsum("nk,khw->nhw", seed, self.table)[..., None]
        if at == "relu1":
            return seed.astype(np.float32)
        active = images_nhwc > 0
        kept = {"relu": active, "guided": active & (seed > 0), "deconvnet": seed > 0}[rule]
        return np.where(kept, seed, 0).astype(np.float32)

    def weights(self, layer):
        return {"kernel": self.table.reshape(2, -1).T} if layer == "logits" else {}

    def randomised(self, layers, seed=0):
        return HandProbe(seed=seed + 1) if "logits" in layers else self


def an_image(seed=0):
    return np.random.default_rng(seed).normal(size=(SIZE, SIZE, 1)).astype(np.float32)
