"""A convolution whose maps say how well a patch fits a template, from -1 to 1."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="convzoo")
class NormalizedTemplateConv2D(keras.layers.Conv2D):
    """A convolution divided by the number of values in its patch.

    For images and templates of -1 and 1 each value of a map is the share of pixels that agree
    minus the share that do not: 1 is a perfect fit, -1 its negative.
    """

    def call(self, inputs: Any) -> Any:
        """[N, H, W, C] -> [N, H', W', filters]."""
        height, width, channels, _ = self.kernel.shape
        return super().call(inputs / float(height * width * channels))
