"""Guided backpropagation [springenberg2015]."""

from zoo.explain.probe import Floats, Probe, chosen_target, logits, one_hot, require_relu


def guided_backpropagation(probe: Probe, images_nhwc: Floats, target: int | None = None) -> Floats:
    """The score's gradient in which ReLUs let only positive signals of active units back.

    R_l = 1[f > 0] 1[R > 0] R at every ReLU; [N, H, W, C].

    Args:
        probe: The network.
        images_nhwc: Preprocessed images.
        target: The class id; the best one of the first image when None.

    Raises:
        ExplainError: the network has no ReLU, so that nothing would be guided.
    """
    require_relu(probe, probe.output, "Guided backpropagation")
    target = chosen_target(probe, images_nhwc, target)
    seed = one_hot(len(images_nhwc), logits(probe, images_nhwc[:1]).shape[-1], target)
    return probe.pull_back(images_nhwc, probe.output, seed, rule="guided")
