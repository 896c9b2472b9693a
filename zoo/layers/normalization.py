"""Local response normalisation, in the three conventions that public weights were trained with."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

Convention = Literal["paper", "cuda-convnet2", "caffe"]

# Convention -> (k, whether alpha is divided by the window's size). The paper's text has k = 2 and
# does not divide; the author's released code divides; Caffe divides too and defaults to k = 1.
CONVENTIONS: dict[str, tuple[float, bool]] = {
    "paper": (2.0, False),
    "cuda-convnet2": (2.0, True),
    "caffe": (1.0, True),
}


@keras.saving.register_keras_serializable(package="convzoo")
class LocalResponseNormalization(keras.layers.Layer):
    """b_c = a_c / (k + alpha sum a_j^2)^beta, the sum over `size` neighbouring channels.

    [krizhevsky2012, section 3.3]. Inputs and outputs [N, H, W, C]; no parameters. The window is
    centred on c and cut off at the first and last channel. It is computed in float32 whatever the
    layer's type: squares of what a first convolution gives overflow half precision.

    Args:
        convention: "paper" as the text says; "cuda-convnet2" and "caffe" as the code divides
            alpha by `size`, the latter with k = 1.
        size: n, the channels of the window; odd.
        alpha: The paper's 1e-4.
        beta: The paper's 0.75.
        k: In place of the convention's.
    """

    def __init__(
        self,
        convention: Convention = "paper",
        size: int = 5,
        alpha: float = 1e-4,
        beta: float = 0.75,
        k: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if convention not in CONVENTIONS:
            known = ", ".join(CONVENTIONS)
            raise ValueError(f"No LRN convention {convention!r}; there are {known}.")
        if size < 1 or size % 2 == 0:
            raise ValueError(f"The window's size is odd and at least 1; found {size}.")
        self.convention = convention
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = CONVENTIONS[convention][0] if k is None else k

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] -> [N, H, W, C]."""
        x = ops.cast(inputs, "float32")
        alpha = self.alpha / self.size if CONVENTIONS[self.convention][1] else self.alpha
        if keras.config.backend() == "tensorflow":
            # Four to ten times faster to train than the same in Keras ops, and engines that read a
            # SavedModel know this operation.
            import tensorflow as tf

            return ops.cast(
                tf.nn.local_response_normalization(x, self.size // 2, self.k, alpha, self.beta),
                inputs.dtype,
            )
        # Sums over neighbouring channels are a product with a band of ones.
        channels = np.arange(inputs.shape[-1])
        band = np.abs(channels[:, None] - channels[None]) <= self.size // 2
        total = ops.matmul(ops.square(x), ops.cast(band, "float32"))
        return ops.cast(x / ops.power(self.k + alpha * total, self.beta), inputs.dtype)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The input's."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this layer."""
        return {
            **super().get_config(),
            "convention": self.convention,
            "size": self.size,
            "alpha": self.alpha,
            "beta": self.beta,
            "k": self.k,
        }
