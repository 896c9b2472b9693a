"""What a network is worth on images it has not seen: NumPy only.

Array names: n image, k class.
"""

import math

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Ids
from training.run import Evaluation
from zoo.artifact import Metric
from zoo.preprocess import Floats


def evaluate(logits_nk: Floats, class_ids: Ids, labels: tuple[str, ...]) -> Evaluation:
    """Measures a network's answers.

    Args:
        logits_nk: The network's logits, float [N, K].
        class_ids: The truth, int64 [N].
        labels: K names.

    Returns:
        accuracy (top-1; top-5 too when there are more than ten classes), cross-entropy in nats,
        expected calibration error, the confusion counts, and each class's recall.
    """
    predicted = logits_nk.argmax(-1)
    right = predicted == class_ids
    log_p = log_softmax(logits_nk)
    nll = -log_p[np.arange(len(class_ids)), class_ids]
    metrics = {
        "accuracy": proportion(int(right.sum()), len(right)),
        "cross_entropy": mean(nll),
        "calibration_error": Metric(
            value=calibration_error(np.exp(log_p.max(-1)), right), examples=len(right)
        ),
    }
    if len(labels) > 10:
        best_nk = np.argpartition(logits_nk, -5, axis=-1)[:, -5:]
        metrics["top5_accuracy"] = proportion(
            int((best_nk == class_ids[:, None]).any(-1).sum()), len(right)
        )
    confusion_kk = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion_kk, (class_ids, predicted), 1)
    per_class = {
        label: proportion(int(confusion_kk[k, k]), int(confusion_kk[k].sum()))
        for k, label in enumerate(labels)
        if confusion_kk[k].sum()
    }
    return Evaluation(
        metrics=metrics,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion_kk),
        per_class=per_class,
    )


def log_softmax(logits_nk: Floats) -> NDArray[np.float64]:
    """The logarithm of the softmax over the last axis, in float64."""
    shifted = logits_nk.astype(np.float64) - logits_nk.max(-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def proportion(hits: int, examples: int) -> Metric:
    """A share with its 95 % Wilson score interval [wilson1927]."""
    z = 1.959964
    p = hits / examples
    centre = (p + z**2 / (2 * examples)) / (1 + z**2 / examples)
    half = z / (1 + z**2 / examples) * math.sqrt(p * (1 - p) / examples + z**2 / (4 * examples**2))
    return Metric(
        value=p, low=max(0.0, centre - half), high=min(1.0, centre + half), examples=examples
    )


def mean(values: NDArray[np.float64]) -> Metric:
    """A mean with its 95 % normal interval."""
    half = 1.959964 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    value = float(values.mean())
    return Metric(value=value, low=value - half, high=value + half, examples=len(values))


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15
) -> float:
    """Expected calibration error over equal-width bins [guo2017, section 2], a fraction."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[which == each].mean() - right[which == each].mean()) * (which == each).mean()
        for each in range(bins)
        if (which == each).any()
    ]
    return float(sum(gaps))
