"""Preprocessing steps that learn numbers from data: from the training part alone.

Array names: n image, h row, w column, c channel, d input value (h, w and c in one).
"""

import math

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Images
from zoo.errors import UsageError
from zoo.preprocess import (
    Floats,
    InputStep,
    Preprocessing,
    Standardise,
    SubtractMeanImage,
    SubtractMeanPixel,
    Whiten,
    apply_step,
)

BLOCK = 512

# The covariance of D values has D^2 numbers, and its eigenvectors take D^3 operations: beyond this,
# 0.8 GB and hours.
MOST_WHITENED = 10_000


def check(preprocessing: Preprocessing) -> None:
    """Refuses given numbers that are not one, or one a channel.

    Raises:
        UsageError: they are not; names the step and the input's channels.
    """
    channels = preprocessing.input.channels
    for step in preprocessing.input_steps:
        for name in ("mean", "std"):
            given = getattr(step, name, None)
            if isinstance(given, tuple) and len(given) not in (1, channels):
                raise UsageError(
                    f"The step {step.kind!r} has {len(given)} values for {name}; the input has "
                    f"{channels} {'channel' if channels == 1 else 'channels'} "
                    f"({preprocessing.input.colour})."
                )


def fit(preprocessing: Preprocessing, train: Images) -> tuple[Preprocessing, dict[str, Floats]]:
    """Gives each step that has no numbers those of the training part, one after another.

    Args:
        preprocessing: Steps with or without numbers.
        train: uint8 at the input's size.

    Returns:
        The preprocessing with all numbers, and the arrays that steps name.

    Raises:
        UsageError: whitening was asked of more than 10,000 values an image.
    """
    steps: list[InputStep] = []
    arrays: dict[str, Floats] = {}
    for step in preprocessing.input_steps:
        match step:
            case Standardise(mean=None):
                mean, std = _channel_moments(train, steps, arrays)
                fitted: InputStep = Standardise(
                    mean=tuple(map(float, mean)), std=tuple(map(float, std))
                )
            case SubtractMeanPixel(mean=None):
                mean, _ = _channel_moments(train, steps, arrays)
                fitted = SubtractMeanPixel(mean=tuple(map(float, mean)))
            case SubtractMeanImage():
                arrays[step.array] = _mean_image(train, steps, arrays)
                fitted = step
            case Whiten():
                size = math.prod(preprocessing.input.shape)
                if size > MOST_WHITENED:
                    raise UsageError(
                        f"Whitening {'x'.join(map(str, preprocessing.input.shape))} = {size:,} "
                        f"values an image is refused: its covariance would have {size**2:,} "
                        f"numbers. At most {MOST_WHITENED:,} values are whitened; a smaller "
                        "input, standardise or subtract_mean_image would work."
                    )
                mean_d, covariance_dd = _covariance(train, steps, arrays)
                arrays[step.mean] = mean_d.astype(np.float32)
                arrays[step.matrix] = whitening(
                    covariance_dd, step.epsilon, is_zca=step.method == "zca"
                )
                fitted = step
            case _:
                fitted = step
        steps.append(fitted)
    return preprocessing.model_copy(update={"input_steps": tuple(steps)}), arrays


def whitening(covariance_dd: NDArray[np.float64], epsilon: float, *, is_zca: bool) -> Floats:
    """The matrix W [D, D] that makes the covariance of (x - mean) @ W the identity, nearly.

    Args:
        covariance_dd: Of the inputs.
        epsilon: Added to the eigenvalues, as a share of the largest.
        is_zca: The symmetric choice, which stays closest to the images; else PCA's, whose columns
            go by falling variance.
    """
    values, vectors = np.linalg.eigh(covariance_dd)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    scaled = vectors / np.sqrt(values + epsilon * max(float(values[0]), 1e-30))
    matrix: Floats = (scaled @ vectors.T if is_zca else scaled).astype(np.float32)
    return matrix


def colour_axes(train: Images) -> Floats:
    """AlexNet's lighting [krizhevsky2012, section 4.1]: principal axes of the colours of all pixels.

    Returns:
        float32 [c, c]; column i is the i-th principal axis times the standard deviation along it,
        in gray levels, as Krizhevsky's own code has it (the paper's text says the eigenvalue).
    """
    total_c = np.zeros(train.pixels_nhwc.shape[3])
    total_cc = np.zeros((len(total_c), len(total_c)))
    for start in range(0, len(train), BLOCK):
        block = train.pixels_nhwc[start : start + BLOCK].reshape(-1, len(total_c))
        values = block.astype(np.float64)
        total_c += values.sum(0)
        total_cc += values.T @ values
    number = math.prod(train.pixels_nhwc.shape[:3])
    mean = total_c / number
    values, vectors = np.linalg.eigh(total_cc / number - np.outer(mean, mean))
    axes: Floats = (vectors * np.sqrt(values.clip(min=0)))[:, ::-1].astype(np.float32)
    return axes


def _blocks(train: Images) -> list[range]:
    return [range(start, min(len(train), start + BLOCK)) for start in range(0, len(train), BLOCK)]


def _inputs(
    train: Images, rows: range, steps: list[InputStep], arrays: dict[str, Floats]
) -> NDArray[np.float64]:
    """What reaches the step that is being fitted."""
    x: NDArray[np.float32] = train.pixels_nhwc[rows.start : rows.stop].astype(np.float32)
    for step in steps:
        x = apply_step(step, x, arrays)
    return x.astype(np.float64)


def _channel_moments(
    train: Images, steps: list[InputStep], arrays: dict[str, Floats]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    channels = train.pixels_nhwc.shape[3]
    total, squares, number = np.zeros(channels), np.zeros(channels), 0
    # Shifted by the first block's mean, so that the difference of large sums keeps its digits.
    shift = _inputs(train, _blocks(train)[0], steps, arrays).mean((0, 1, 2))
    for rows in _blocks(train):
        x = _inputs(train, rows, steps, arrays) - shift
        total += x.sum((0, 1, 2))
        squares += np.square(x).sum((0, 1, 2))
        number += math.prod(x.shape[:3])
    mean = total / number
    variance = squares / number - np.square(mean)
    std = np.sqrt(variance.clip(min=0))
    # A channel that never changes is only centred.
    return mean + shift, np.where(std < 1e-6, 1.0, std)


def _mean_image(train: Images, steps: list[InputStep], arrays: dict[str, Floats]) -> Floats:
    total = np.zeros(train.pixels_nhwc.shape[1:])
    for rows in _blocks(train):
        total += _inputs(train, rows, steps, arrays).sum(0)
    mean: Floats = (total / len(train)).astype(np.float32)
    return mean


def _covariance(
    train: Images, steps: list[InputStep], arrays: dict[str, Floats]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D] and covariance [D, D], a block of images at a time [chan1983]."""
    size = math.prod(train.pixels_nhwc.shape[1:])
    mean, scatter, number = np.zeros(size), np.zeros((size, size)), 0
    for rows in _blocks(train):
        x = _inputs(train, rows, steps, arrays).reshape(len(rows), size)
        block_mean = x.mean(0)
        x -= block_mean
        gap = block_mean - mean
        both = number + len(x)
        scatter += x.T @ x + np.outer(gap, gap) * (number * len(x) / both)
        mean += gap * (len(x) / both)
        number = both
    return mean, scatter / number
