"""Drawn X and O images, after the well-known explanation of convolutional networks [rohrer2016].

Ink is 255 on 0. Each image is a stroke drawing of one letter, moved, scaled, turned and thickened
at random, drawn at four times its size and averaged down, so that edges are gray.
"""

import numpy as np

from training.data.dataset import Images

LABELS = ("X", "O")
OVERSAMPLING = 4


def generate(number: int, side: int = 9, seed: int = 1) -> Images:
    """Draws `number` images, X and O in turn, uint8 [N, side, side, 1].

    Args:
        number: How many.
        side: Height and width in pixels, at least 5.
        seed: Decides everything.
    """
    rng = np.random.default_rng(seed)
    class_ids = np.arange(number, dtype=np.int64) % 2
    pixels = np.stack([_draw(int(class_id), side, rng) for class_id in class_ids])
    return Images(pixels, class_ids)


def _draw(class_id: int, side: int, rng: np.random.Generator) -> np.ndarray:
    fine = side * OVERSAMPLING
    y, x = (np.mgrid[:fine, :fine] + 0.5) / fine * 2 - 1  # -1..1 across the image
    shift_x, shift_y = rng.uniform(-0.2, 0.2, 2)
    angle = np.deg2rad(rng.uniform(-20, 20))
    radius = rng.uniform(0.5, 0.75)
    half_width = rng.uniform(0.09, 0.17)
    squeeze = rng.uniform(0.85, 1.15)
    x, y = x - shift_x, y - shift_y
    along = (np.cos(angle) * x + np.sin(angle) * y) * squeeze
    across = (-np.sin(angle) * x + np.cos(angle) * y) / squeeze
    if class_id == 0:
        # Distances to the two diagonals, inside the square they span.
        to_stroke = np.minimum(abs(along - across), abs(along + across)) / np.sqrt(2)
        inside = np.maximum(abs(along), abs(across)) <= radius
        ink = (to_stroke <= half_width) & inside
    else:
        ink = abs(np.hypot(along, across) - radius) <= half_width
    shares = ink.reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean((1, 3))
    pixels: np.ndarray = np.rint(shares * 255).astype(np.uint8)[:, :, None]
    return pixels
