"""The pictures of a run. matplotlib without pyplot: nothing global, no window, safe in threads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.data.dataset import Ids
from training.evaluate import log_softmax
from training.run import Epoch, Evaluation
from zoo.preprocess import Floats, Pixels

DPI = 120


def curves(epochs: Sequence[Epoch], path: Path, title: str) -> None:
    """Loss and accuracy by epoch, of the training and the validation part."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    numbers = [each.epoch for each in epochs]
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        axis.plot(numbers, [getattr(each, name) for each in epochs], "o-", ms=3, label="training")
        validation = [getattr(each, f"validation_{name}") for each in epochs]
        if None not in validation:
            axis.plot(numbers, validation, "o-", ms=3, label="validation")
        axis.set_xlabel("epoch")
        axis.set_ylabel("mean loss per image" if name == "loss" else "top-1 accuracy")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=DPI)


def confusion(evaluation: Evaluation, labels: Sequence[str], path: Path, title: str) -> None:
    """Counts of true classes (rows) by predicted classes (columns)."""
    counts_kk = np.array(evaluation.confusion)
    k = len(labels)
    side = min(12.0, 2.5 + 0.4 * k)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis: Any = figure.subplots()
    # The square root keeps single mistakes visible beside hundreds of right answers.
    axis.imshow(np.sqrt(counts_kk), cmap="Blues")
    axis.set_xticks(range(k), labels, rotation=0 if max(map(len, labels)) < 3 else 90)
    axis.set_yticks(range(k), labels)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title)
    if k <= 25:
        middle = np.sqrt(counts_kk.max()) / 2
        for row, column in np.argwhere(counts_kk):
            count = counts_kk[row, column]
            colour = "white" if np.sqrt(count) > middle else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=DPI)


def reliability(evaluation: Evaluation, path: Path, title: str) -> None:
    """Accuracy by confidence: on the diagonal a network is as right as it is sure."""
    bins = [each for each in evaluation.reliability if each[0]]
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axis: Any = figure.subplots()
    axis.plot([0, 1], [0, 1], color="gray", lw=1, ls="--")
    most = max((number for number, _, _ in bins), default=1)
    sizes = [20 + 180 * number / most for number, _, _ in bins]
    axis.scatter([each[1] for each in bins], [each[2] for each in bins], s=sizes, alpha=0.7)
    axis.set_xlabel("mean confidence of the answers in a bin")
    axis.set_ylabel("share of right answers")
    axis.set_xlim(0, 1.02)
    axis.set_ylim(0, 1.05)
    axis.grid(alpha=0.3)
    error = evaluation.metrics["calibration_error"].value
    axis.set_title(f"{title}\nexpected calibration error {error:.2%}", fontsize=9)
    figure.savefig(path, dpi=DPI)


def mistakes(
    original: Callable[[int], Pixels],
    class_ids: Ids,
    logits_nk: Floats,
    labels: Sequence[str],
    path: Path,
    most: int = 24,
) -> None:
    """The wrong answers the network was surest of, each with its truth; nothing when all is right.

    Args:
        original: The image at a row, uint8 [h, w, c].
        class_ids: The truth, int64 [N].
        logits_nk: The answers.
        labels: The class names.
        path: The PNG.
        most: How many are shown.
    """
    predicted = logits_nk.argmax(-1)
    wrong = np.flatnonzero(predicted != class_ids)
    if not len(wrong):
        return
    probability = np.exp(log_softmax(logits_nk).max(-1))
    shown = wrong[np.argsort(-probability[wrong])][:most]
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.4 * columns, 1.7 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, index in zip(axes.flat, shown, strict=False):
        pixels = original(int(index))
        axis.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray")
        truth, answer = labels[class_ids[index]], labels[predicted[index]]
        axis.set_title(f"{truth} as {answer} {probability[index]:.0%}", fontsize=7)
    figure.savefig(path, dpi=DPI)
