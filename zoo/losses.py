"""Losses the papers need and Keras lacks, in Keras 3 ops."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="convzoo")
class MaximumAPosteriori(keras.losses.Loss):
    """LeNet-5's loss: y_correct + log(exp(-j) + sum_k exp(-y_k)) [lecun1998, equation 9].

    With logits = -y it is softmax cross-entropy over the classes and one more, "rubbish", of
    constant logit -j. As j grows it becomes plain cross-entropy.

    Args:
        j: The paper's positive constant; the smaller, the more rubbish is pushed away.
    """

    def __init__(
        self, j: float = 1.0, reduction: str = "sum_over_batch_size", name: str = "map", **_: Any
    ) -> None:
        super().__init__(reduction=reduction, name=name)
        self.j = j

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Class ids [N] and logits [N, K] -> losses [N]."""
        rubbish = ops.full_like(y_pred[:, :1], -self.j)
        everything = ops.concatenate([y_pred, rubbish], axis=-1)
        ids = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")
        correct = ops.take_along_axis(y_pred, ids, axis=-1)[:, 0]
        return ops.logsumexp(everything, axis=-1) - correct

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this loss."""
        return {**super().get_config(), "j": self.j}
