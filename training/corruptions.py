"""Small changes of images that a network should not mind, after [hendrycks2019].

Each takes uint8 [H, W, C] at the network's input size and gives the same. Strengths are chosen so
that people hardly mind any of them.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from zoo.preprocess import Pixels

Change = Callable[[Pixels, float, np.random.Generator], Pixels]


def noise(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Adds Gaussian noise; `strength` is its standard deviation in gray levels."""
    return _to_pixels(pixels + rng.normal(0, strength, pixels.shape))


def blur(pixels: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    """Blurs with a Gaussian; `strength` is its standard deviation in pixels."""
    radius = max(1, int(3 * strength + 0.5))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * np.square(offsets / strength))
    kernel /= kernel.sum()
    found = pixels.astype(np.float64)
    for axis in (0, 1):
        widths = [(0, 0)] * 3
        widths[axis] = (radius, radius)
        padded = np.pad(found, widths, mode="edge")
        size = found.shape[axis]
        blurred = np.zeros_like(found)
        for start, weight in enumerate(kernel):
            blurred += weight * np.take(padded, np.arange(start, start + size), axis)
        found = blurred
    return _to_pixels(found)


def contrast(pixels: Pixels, strength: float, _: np.random.Generator) -> Pixels:
    """Moves all values towards the image's mean; `strength` is the factor, 1 leaves it."""
    mean = pixels.mean()
    return _to_pixels(mean + (pixels - mean) * strength)


def shift(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Shifts by `strength` of the image's width in a random direction; the border goes on."""
    angle = rng.uniform(0, 2 * np.pi)
    down = round(pixels.shape[0] * strength * np.sin(angle))
    right = round(pixels.shape[1] * strength * np.cos(angle))
    rows = np.clip(np.arange(pixels.shape[0]) - down, 0, pixels.shape[0] - 1)
    columns = np.clip(np.arange(pixels.shape[1]) - right, 0, pixels.shape[1] - 1)
    shifted: Pixels = pixels[rows][:, columns]
    return shifted


def rotation(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    """Turns by `strength` degrees, either way; the corners get the mean of the border."""
    from PIL import Image

    degrees = strength * rng.choice([-1, 1])
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    turned = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels[:, :, channel])).rotate(
                degrees, Image.Resampling.BILINEAR, fillcolor=int(border[:, channel].mean())
            )
        )
        for channel in range(pixels.shape[2])
    ]
    return np.stack(turned, axis=-1)


CHANGES: Mapping[str, tuple[Change, tuple[float, ...]]] = {
    "noise": (noise, (8.0, 25.0)),
    "blur": (blur, (0.5, 1.0)),
    "contrast": (contrast, (0.7, 0.4)),
    "shift": (shift, (0.05, 0.1)),
    "rotation": (rotation, (5.0, 15.0)),
}


def _to_pixels(values: NDArray[np.float64]) -> Pixels:
    pixels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels
