"""Grad-CAM and guided Grad-CAM [selvaraju2017].

Array names: n image, h row, w column, c channel.
"""

import numpy as np

from zoo.explain.guided import guided_backpropagation
from zoo.explain.probe import Floats, Probe, chosen_target, last_maps, require_maps
from zoo.explain.resize import resize_bilinear
from zoo.explain.saliency import score_gradient


def grad_cam(
    probe: Probe, images_nhwc: Floats, target: int | None = None, *, layer: str | None = None
) -> Floats:
    """ReLU of the maps summed with the mean gradients as weights, [N, h, w] (section 3).

    Args:
        probe: The network.
        images_nhwc: Preprocessed images.
        target: The class id; the best one of the first image when None.
        layer: Whose maps; the last with more than one place when None, as in the paper.

    Raises:
        ExplainError: no such layer or class.
    """
    name = require_maps(probe, layer or last_maps(probe)).name
    target = chosen_target(probe, images_nhwc, target)
    maps_nhwc = probe.feature_maps(images_nhwc, [name])[name]
    weights_nc = score_gradient(probe, images_nhwc, target, at=name).mean((1, 2))
    cam_nhw: Floats = np.maximum(np.einsum("nc,nhwc->nhw", weights_nc, maps_nhwc), 0)
    return cam_nhw


def guided_grad_cam(
    probe: Probe, images_nhwc: Floats, target: int | None = None, *, layer: str | None = None
) -> Floats:
    """Guided backpropagation times Grad-CAM brought to the image's size, [N, H, W, C] (section 3.2).

    Raises:
        ExplainError: no such layer or class, or a network without ReLUs.
    """
    target = chosen_target(probe, images_nhwc, target)
    guided_nhwc = guided_backpropagation(probe, images_nhwc, target)
    cam_nhw = grad_cam(probe, images_nhwc, target, layer=layer)
    upsampled = np.stack([resize_bilinear(cam, *guided_nhwc.shape[1:3]) for cam in cam_nhw])
    result: Floats = guided_nhwc * upsampled[..., None]
    return result
