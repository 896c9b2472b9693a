"""Maxout [goodfellow2013]: the largest of several linear functions of the same input."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="convzoo")
class Maxout(keras.layers.Layer):
    """The largest of each `pieces` neighbouring channels: [..., C] -> [..., C / pieces].

    It follows a convolution or dense layer with `pieces` times the wanted channels.

    Args:
        pieces: Linear functions a unit.
    """

    def __init__(self, pieces: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if pieces < 1:
            raise ValueError(f"Maxout takes the largest of 1 or more pieces; found {pieces}.")
        self.pieces = pieces

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Checks that the channels divide."""
        if (input_shape[-1] or 0) % self.pieces:
            raise ValueError(f"{input_shape[-1]} channels do not divide into {self.pieces} pieces.")

    def call(self, inputs: Any) -> Any:
        """[..., C] -> [..., C / pieces]."""
        # Of sizes that are known only when it runs, a reshape could work out one.
        outer, channels = ops.shape(inputs)[:-1], inputs.shape[-1]
        return ops.max(ops.reshape(inputs, (*outer, channels // self.pieces, self.pieces)), axis=-1)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The last axis divided."""
        *outer, channels = input_shape
        return (*outer, None if channels is None else channels // self.pieces)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this layer."""
        return {**super().get_config(), "pieces": self.pieces}
