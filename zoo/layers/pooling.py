"""Pooling as Caffe and cuda-convnet size it: the last window may hang over the edge."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops


def overhang(size: Any, kernel: int, stride: int) -> Any:
    """How far the last window hangs over the edge when sizes are rounded up.

    The output has 1 + ceil((size - kernel) / stride) places. A size that is known only when the
    network runs is a tensor, and so is the answer.
    """
    places = 1 + -(-(size - kernel) // stride)
    over = (places - 1) * stride + kernel - size
    return max(0, over) if isinstance(size, int) else ops.maximum(0, over)


def ceil_fill(x: Any, kernel: int, stride: int, name: str) -> Any:
    """Zeros at the right and bottom edge, so that a valid convolution rounds its size up.

    Krizhevsky's code does so: 224 pixels, kernel 11 and stride 4 give 55 places.
    """
    rows, columns = overhang(x.shape[1], kernel, stride), overhang(x.shape[2], kernel, stride)
    if not rows and not columns:
        return x
    return layers.ZeroPadding2D(((0, rows), (0, columns)), name=name)(x)


@keras.saving.register_keras_serializable(package="convzoo")
class CeilMaxPooling2D(keras.layers.Layer):
    """Max pooling whose output size is rounded up (`ceil_mode` in torch, always in Caffe).

    Inputs [N, H, W, C] of any height and width. What hangs over the edge never wins.

    Args:
        pool_size: Height and width of the window.
        strides: Its step.
    """

    def __init__(self, pool_size: int = 2, strides: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size = pool_size
        self.strides = strides or pool_size

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] -> [N, ceil((H - k) / s) + 1, ceil((W - k) / s) + 1, C]."""
        _, rows, columns, _ = ops.shape(inputs)
        below = overhang(rows, self.pool_size, self.strides)
        right = overhang(columns, self.pool_size, self.strides)
        if not all(isinstance(each, int) and each == 0 for each in (below, right)):
            least = -float("inf") if self.compute_dtype == "float32" else -6e4
            pads = ((0, 0), (0, below), (0, right), (0, 0))
            inputs = ops.pad(inputs, pads, constant_values=least)
        return ops.max_pool(inputs, self.pool_size, self.strides, padding="valid")

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Rounded up."""
        n, h, w, c = input_shape
        places = [
            None if size is None else 1 + -(-(size - self.pool_size) // self.strides)
            for size in (h, w)
        ]
        return (n, *places, c)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this layer."""
        return {**super().get_config(), "pool_size": self.pool_size, "strides": self.strides}


@keras.saving.register_keras_serializable(package="convzoo")
class SumPooling2D(keras.layers.AveragePooling2D):
    """The sum over each window: average pooling times the window's area."""

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] -> [N, H', W', C], as average pooling."""
        return super().call(inputs) * float(self.pool_size[0] * self.pool_size[1])
