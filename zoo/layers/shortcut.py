"""ResNet's parameter-free shortcut for CIFAR [he2016, section 4.2, option A]."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="convzoo")
class ZeroPaddedShortcut(keras.layers.Layer):
    """Every `strides`-th pixel, and zeros for the channels that are missing.

    Inputs [N, H, W, C], outputs [N, ceil(H / s), ceil(W / s), filters]; no parameters.
    Half of the zeros stand before and half after the channels; the paper does not say where.

    Args:
        filters: Channels of the output, at least those of the input.
        strides: Step over the pixels.
    """

    def __init__(self, filters: int, strides: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] -> [N, ceil(H / s), ceil(W / s), filters]."""
        missing = self.filters - inputs.shape[-1]
        pads = ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2))
        return ops.pad(inputs[:, :: self.strides, :: self.strides], pads)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Fewer pixels, more channels."""
        n, h, w, _ = input_shape
        sizes = [None if size is None else -(-size // self.strides) for size in (h, w)]
        return (n, *sizes, self.filters)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this layer."""
        return {**super().get_config(), "filters": self.filters, "strides": self.strides}
