"""ZFNet's constraint on its filters."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="convzoo")
class FilterRms(keras.constraints.Constraint):
    """Scales a filter whose root mean square exceeds `most` back to it ([zeiler2014, section 3.1]: 0.1)."""

    def __init__(self, most: float = 0.1) -> None:
        self.most = most

    def __call__(self, w: Any) -> Any:
        """A kernel [h, w, in, out]; each output filter on its own."""
        rms = ops.sqrt(ops.mean(ops.square(w), axis=(0, 1, 2), keepdims=True))
        return w * ops.minimum(1.0, self.most / ops.maximum(rms, 1e-12))

    def get_config(self) -> dict[str, Any]:
        """What rebuilds this constraint."""
        return {"most": self.most}
