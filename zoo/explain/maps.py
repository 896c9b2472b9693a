"""Filters and feature maps: what a layer looks for, and where it finds it."""

import numpy as np

from zoo.errors import ExplainError
from zoo.explain.probe import Floats, Probe, require_layer


def filters(probe: Probe, layer: str) -> Floats:
    """The kernels of a convolution, [filters, h, w, c], as they stand.

    Args:
        probe: The network.
        layer: A layer with a kernel [h, w, c, filters].

    Raises:
        ExplainError: the layer has no such kernel.
    """
    kernel = probe.weights(layer).get("kernel")
    if (
        kernel is None
        or kernel.ndim != 4
        or require_layer(probe, layer).kind == ("LocallyConnected2D")
    ):
        have = ", ".join(each.name for each in probe.layers if each.kind in SHARED)
        raise ExplainError(
            f"{layer!r} has no filters [h, w, c, filters]; these have: {have or 'none'}."
        )
    return np.ascontiguousarray(kernel.transpose(3, 0, 1, 2))


SHARED = ("Conv2D", "NormalizedTemplateConv2D")


def feature_maps(probe: Probe, images_nhwc: Floats, layer: str) -> Floats:
    """The output of a layer: [N, h, w, c], or [N, units] behind a flatten."""
    return probe.feature_maps(images_nhwc, [layer])[layer]
