"""Saliency maps and class models [simonyan2014]: the gradient of a class score by the image.

Array names: n image, h row, w column, c channel, k class.
"""

from dataclasses import dataclass

import numpy as np

from zoo.explain.probe import Floats, Probe, chosen_target, logits, one_hot, softmax


def score_gradient(
    probe: Probe, images_nhwc: Floats, target: int, *, at: str | None = None
) -> Floats:
    """The gradient of one logit by the images, or by the output of the layer `at`."""
    classes = logits(probe, images_nhwc[:1]).shape[-1]
    seed = one_hot(len(images_nhwc), classes, target)
    return probe.pull_back(images_nhwc, probe.output, seed, at=at)


def saliency(probe: Probe, images_nhwc: Floats, target: int | None = None) -> Floats:
    """M = max over channels of |dS/dI|, [N, H, W], S being the score before softmax (section 3).

    Args:
        probe: The network.
        images_nhwc: Preprocessed images; for crops and mirror images of one picture, the mean over
            n of the maps put back into place is the paper's final map.
        target: The class id; the best one of the first image when None.
    """
    gradient = score_gradient(probe, images_nhwc, chosen_target(probe, images_nhwc, target))
    result: Floats = np.abs(gradient).max(-1)
    return result


@dataclass(frozen=True, slots=True)
class ClassModel:
    """An image that a class score likes.

    Attributes:
        image_hwc: In the input's units; zero is where it began.
        scores: The class score before each step, and at the end.
        probability: Of the class, for the image.
    """

    image_hwc: Floats
    scores: Floats
    probability: float


def class_model(
    probe: Probe,
    target: int,
    *,
    steps: int = 100,
    rate: float = 0.1,
    decay: float = 0.01,
    start_hwc: Floats | None = None,
) -> ClassModel:
    """Climbs S(I) - decay ||I||^2 from the zero image (section 2).

    The paper gives no step size; here each step has the root mean square `rate`, so that one
    setting serves networks of any scale.

    Args:
        probe: The network.
        target: The class id.
        steps: How often to step.
        rate: Root mean square of a step, in the input's units.
        decay: The paper's lambda.
        start_hwc: In place of the zero image (which, for mean-centred inputs, is the mean image).
    """
    shape = probe.layers[0].output_shape
    image: Floats = np.zeros((1, *shape), np.float32)
    if start_hwc is not None:
        image = start_hwc[None].copy()
    chosen_target(probe, image, target)
    scores = []
    for _ in range(steps):
        scores.append(float(logits(probe, image)[0, target]))
        uphill = score_gradient(probe, image, target) - np.float32(2 * decay) * image
        size = max(float(np.sqrt(np.square(uphill).mean())), 1e-12)
        image = (image + rate / size * uphill).astype(np.float32)
    final = logits(probe, image)
    scores.append(float(final[0, target]))
    return ClassModel(image[0], np.array(scores, np.float32), float(softmax(final)[0, target]))
