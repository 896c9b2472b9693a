"""Inversion of a representation [mahendran2015]: an image that a layer cannot tell from the first.

The energy, in the authors' form:

    E(x) = ||Phi(x) - Phi0||^2 / ||Phi0||^2 + tv/2 TV(x) / s^2 + alpha/2 sum(x^6) / s^2

over mean-centred images in grey levels (0..255), s being the norm of such an image. Networks with
inputs in other units are reached through `unit` and `centre`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zoo.errors import ExplainError
from zoo.explain.probe import Floats, Probe, require_layer

# The authors' constants, for the 20 layers of their Caffe reference network.
ALPHA = 6
ALPHA_WEIGHT = 8e-10
TV_WEIGHTS = ((6, 1.0), (12, 10.0), (20, 100.0))  # up to this layer, this weight
# Norm of a mean-centred 227 x 227 x 3 image: `x0_sigma`.
SIGMA, SIGMA_VALUES = 27098.11571533, 227 * 227 * 3
RATE = 0.004
SCHEDULE = ((100, 1.0), (200, 0.1), (100, 0.01))  # steps, share of the rate
MOMENTUM = 0.9


@dataclass(frozen=True, slots=True)
class Inversion:
    """What came back.

    Attributes:
        image_hwc: In the input's units.
        layer: The layer that was inverted.
        energies: E before each step, and at the end.
        error: ||Phi(x) - Phi0|| / ||Phi0||, the paper's normalised reconstruction error.
    """

    image_hwc: Floats
    layer: str
    energies: Floats
    error: float


def tv_weight(depth: float) -> float:
    """The authors' weight of the total variation for a layer.

    Args:
        depth: Its place in the network, 0 (first) to 1 (last); theirs had 20 layers.
    """
    return next(weight for last, weight in TV_WEIGHTS if depth * 20 <= last + 1e-9)


def total_variation(x_hwc: Floats) -> tuple[float, Floats]:
    """TV with beta 2, and its gradient; the differences at the last row and column are zero."""
    down, right = np.zeros_like(x_hwc), np.zeros_like(x_hwc)
    down[:-1] = x_hwc[1:] - x_hwc[:-1]
    right[:, :-1] = x_hwc[:, 1:] - x_hwc[:, :-1]
    value = float((np.square(down) + np.square(right)).sum(dtype=np.float64))
    gradient = -2 * (down + right)
    gradient[1:] += 2 * down[:-1]
    gradient[:, 1:] += 2 * right[:, :-1]
    return value, gradient


def alpha_norm(x_hwc: Floats) -> tuple[float, Floats]:
    """The sum of x^6, and its gradient."""
    # A descent that diverges overflows here; whoever descends looks at the energy.
    with np.errstate(over="ignore"):
        fifth: Floats = x_hwc**5
        return float((fifth * x_hwc).sum(dtype=np.float64)), ALPHA * fifth


def inversion(
    probe: Probe,
    image_hwc: Floats,
    layer: str,
    *,
    unit: float = 1.0,
    centre: float = 0.0,
    tv: float | None = None,
    alpha: float = ALPHA_WEIGHT,
    rate: float = RATE,
    schedule: tuple[tuple[int, float], ...] = SCHEDULE,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Inversion:
    """Descends E from noise of norm s, with momentum, as the authors' code does.

    The data term's gradient is scaled by s^2; momentum is set back when the rate changes.

    Args:
        probe: The network.
        image_hwc: A preprocessed image; only its representation is used.
        layer: Whose representation.
        unit: The input's units in one grey level: (highest - lowest value) / 255.
        centre: The input's value of the mean grey, which x = 0 stands for.
        tv: The weight of the total variation; the authors', by the layer's depth, when None.
        alpha: The weight of the alpha norm.
        rate: The first rate.
        schedule: (steps, share of the rate), one after the other.
        seed: Of the noise.
        should_stop: Asked before each step.

    Raises:
        ExplainError: no such layer, the image excites nothing there, or the descent diverges.
    """
    names = [each.name for each in probe.layers]
    depth = names.index(require_layer(probe, layer).name) / max(1, len(names) - 1)
    tv = tv_weight(depth) if tv is None else tv
    wanted = probe.feature_maps(image_hwc[None], [layer])[layer]
    norm = float(np.square(wanted, dtype=np.float64).sum())
    if not norm:
        raise ExplainError(f"Every unit of {layer!r} is zero for this image; nothing to invert.")
    sigma = SIGMA * (image_hwc.size / SIGMA_VALUES) ** 0.5
    noise = np.random.default_rng(seed).standard_normal(image_hwc.shape).astype(np.float32)
    x = noise * np.float32(sigma / np.linalg.norm(noise))
    energies: list[float] = []

    def difference() -> Floats:
        shown = (np.float32(centre) + np.float32(unit) * x)[None]
        return probe.feature_maps(shown, [layer])[layer] - wanted

    for steps, share in schedule:
        speed = np.zeros_like(x)
        for _ in range(steps):
            if should_stop():
                break
            off = difference()
            variation, variation_slope = total_variation(x)
            power, power_slope = alpha_norm(x)
            energies.append(_energy(off, norm, tv * variation, alpha * power, sigma))
            if not np.isfinite(energies[-1]) or energies[-1] > 1e6 * energies[0]:
                raise ExplainError(
                    f"The descent diverges (E = {energies[-1]:.3g} after {len(energies)} steps); "
                    f"a rate below {rate:g} helps."
                )
            shown = (np.float32(centre) + np.float32(unit) * x)[None]
            pulled = unit * probe.pull_back(shown, layer, 2 * off)[0]
            slope = pulled * (sigma**2 / norm) + tv / 2 * variation_slope + alpha / 2 * power_slope
            speed = MOMENTUM * speed - rate * share * slope
            x = (x + speed).astype(np.float32)
    off = difference()
    variation, power = total_variation(x)[0], alpha_norm(x)[0]
    energies.append(_energy(off, norm, tv * variation, alpha * power, sigma))
    return Inversion(
        image_hwc=np.float32(centre) + np.float32(unit) * x,
        layer=layer,
        energies=np.array(energies, np.float32),
        error=float(np.sqrt(np.square(off, dtype=np.float64).sum() / norm)),
    )


def _energy(off: Floats, norm: float, tv: float, alpha: float, sigma: float) -> float:
    data = float(np.square(off, dtype=np.float64).sum()) / norm
    return data + (tv / 2 + alpha / 2) / sigma**2
