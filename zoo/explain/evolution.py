"""Feature evolution [zeiler2014, section 4, figure 4]: how a map comes to be during training."""

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.explain.deconvnet import Patch, top_patches
from zoo.explain.probe import Floats, Probe

# The epochs whose projections the paper shows.
PAPER_EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)


@dataclass(frozen=True, slots=True)
class Stage:
    """A map at one epoch: the training image that excites it most, and its projection."""

    epoch: int
    patch: Patch


def evolution(
    probes: Mapping[int, Probe], images_nhwc: Floats, layer: str, channel: int
) -> tuple[Stage, ...]:
    """The strongest activation of a map over the images, projected, at each epoch.

    A sudden jump comes from another image taking over.

    Args:
        probes: The network by epoch; `KerasProbe.with_weights` makes them of a run's snapshots.
        images_nhwc: Training images, preprocessed.
        layer: A layer with maps.
        channel: Which map.

    Raises:
        ExplainError: no such layer or map, or no ReLU up to it.
    """
    return tuple(
        Stage(epoch, top_patches(probe, [images_nhwc], layer, [channel], count=1)[channel][0])
        for epoch, probe in sorted(probes.items())
    )
