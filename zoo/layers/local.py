"""A convolution without shared weights: each place has filters of its own (cuda-convnet's local)."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="convzoo")
class LocallyConnected2D(keras.layers.Layer):
    """Filters of size k x k that differ from place to place; zero padding, stride 1.

    Inputs [N, H, W, C], outputs [N, H, W, filters]; H W (k k C + 1) filters parameters.

    Args:
        filters: Channels of the output.
        kernel_size: k, odd.
        activation: As in Keras.
        kernel_initializer: As in Keras.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        activation: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Makes filters and a bias for each place."""
        _, h, w, c = input_shape
        self.kernel = self.add_weight(
            name="kernel",
            shape=(h, w, self.kernel_size**2 * (c or 0), self.filters),
            initializer=self.kernel_initializer,
        )
        self.bias = self.add_weight(name="bias", shape=(h, w, self.filters), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] -> [N, H, W, filters]."""
        _, h, w, _ = inputs.shape
        half = self.kernel_size // 2
        padded = ops.pad(inputs, ((0, 0), (half, half), (half, half), (0, 0)))
        patches = ops.concatenate(
            [
                padded[:, row : row + h, column : column + w]
                for row in range(self.kernel_size)
                for column in range(self.kernel_size)
            ],
            axis=-1,
        )
        return self.activation(ops.einsum("nhwp,hwpf->nhwf", patches, self.kernel) + self.bias)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The input's size."""
        return (*input_shape[:-1], self.filters)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this layer."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
