"""The classical filters, applied as convolutions: what people designed before networks learned.

A kernel is written as it is laid over the image (a correlation, as in networks). Array names:
h row, w column, c channel.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import ExplainError
from zoo.explain.probe import Floats
from zoo.suggest import unknown


def _kernel(values: ArrayLike, scale: float = 1.0) -> Floats:
    kernel: Floats = np.asarray(values, np.float32) * np.float32(scale)
    kernel.flags.writeable = False
    return kernel


FILTERS: Mapping[str, Floats] = MappingProxyType(
    {
        "identity": _kernel([[0, 0, 0], [0, 1, 0], [0, 0, 0]]),
        "laplacian": _kernel([[0, 1, 0], [1, -4, 1], [0, 1, 0]]),
        "laplacian_diagonal": _kernel([[1, 1, 1], [1, -8, 1], [1, 1, 1]]),
        "sobel_x": _kernel([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        "sobel_y": _kernel([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]),
        "sharpen": _kernel([[0, -1, 0], [-1, 5, -1], [0, -1, 0]]),
        "box": _kernel(np.ones((3, 3)), 1 / 9),
        "gaussian": _kernel([[1, 2, 1], [2, 4, 2], [1, 2, 1]], 1 / 16),
        "gaussian_5": _kernel(np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]), 1 / 256),
    }
)
"""Kernels by name; blurs sum to 1, edges to 0."""


def find(name: str) -> Floats:
    """The kernel of that name.

    Raises:
        ExplainError: there is none.
    """
    if name not in FILTERS:
        raise ExplainError(unknown("filter", name, FILTERS))
    return FILTERS[name]


def apply(image_hwc: Floats, kernel_hw: Floats) -> Floats:
    """Lays a kernel over every place of every channel; edge pixels are repeated outwards.

    Args:
        image_hwc: [h, w, c], or [h, w].
        kernel_hw: Odd height and width.

    Returns:
        float32 of the image's shape.

    Raises:
        ExplainError: a kernel with even sides.
    """
    rows, columns = kernel_hw.shape
    if not rows % 2 or not columns % 2:
        raise ExplainError(f"A kernel has odd sides; this one is {rows} x {columns}.")
    height, width = image_hwc.shape[:2]
    pads = [(rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)][: image_hwc.ndim]
    padded = np.pad(np.asarray(image_hwc, np.float32), pads, mode="edge")
    total = np.zeros(image_hwc.shape, np.float32)
    for row in range(rows):
        for column in range(columns):
            total += kernel_hw[row, column] * padded[row : row + height, column : column + width]
    return total


def apply_all(image_hwc: Floats) -> dict[str, Floats]:
    """Every classical filter on an image, by name."""
    return {name: apply(image_hwc, kernel) for name, kernel in FILTERS.items()}


def nearest(kernel_hwc: Floats) -> tuple[str, float]:
    """The classical filter a learned kernel is most like, and the cosine between them, -1..1.

    The kernel's mean over its channels is compared; a smaller classical kernel lies in its middle.
    """
    learned = kernel_hwc.mean(-1)
    rows, columns = learned.shape
    best = ("", 0.0)
    for name, classical in FILTERS.items():
        height, width = classical.shape
        if height > rows or width > columns:
            continue
        laid = np.zeros_like(learned)
        top, left = (rows - height) // 2, (columns - width) // 2
        laid[top : top + height, left : left + width] = classical
        norms = float(np.linalg.norm(laid) * np.linalg.norm(learned))
        cosine = float((laid * learned).sum()) / norms if norms else 0.0
        if abs(cosine) > abs(best[1]):
            best = (name, cosine)
    return best
