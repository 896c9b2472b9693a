"""What a network is worth on images it has not seen: NumPy only.

Array names: n image, k class.
"""

import math
from collections.abc import Callable

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
        accuracy (top-1; top-5 too when there are more than five classes), cross-entropy in nats,
        expected calibration error, macro F1, each with its 95 % interval; the confusion counts,
        each class's recall and precision, and the bins of the reliability diagram.
    """
    predicted = logits_nk.argmax(-1)
    right = predicted == class_ids
    log_p = log_softmax(logits_nk)
    nll = -log_p[np.arange(len(class_ids)), class_ids]
    confidence = np.exp(log_p.max(-1))
    confusion_kk = np.zeros((len(labels), len(labels)), dtype=np.int64)
    np.add.at(confusion_kk, (class_ids, predicted), 1)
    metrics = {
        "accuracy": proportion(int(right.sum()), len(right)),
        "cross_entropy": mean(nll),
        "calibration_error": bootstrap(
            lambda rows: calibration_error(confidence[rows], right[rows]), len(right)
        ),
        "macro_f1": bootstrap(
            lambda rows: macro_f1(class_ids[rows], predicted[rows], len(labels)), len(right)
        ),
    }
    if len(labels) > 5:
        best_nk = np.argpartition(logits_nk, -5, axis=-1)[:, -5:]
        metrics["top5_accuracy"] = proportion(
            int((best_nk == class_ids[:, None]).any(-1).sum()), len(right)
        )
    hits = confusion_kk.diagonal()

    def shares(totals: NDArray[np.int64]) -> dict[str, Metric]:
        return {
            label: proportion(int(hits[k]), int(totals[k]))
            for k, label in enumerate(labels)
            if totals[k]
        }

    return Evaluation(
        metrics=metrics,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion_kk),
        per_class=shares(confusion_kk.sum(1)),
        precision=shares(confusion_kk.sum(0)),
        reliability=reliability(confidence, right),
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


def bootstrap(
    measure: Callable[[NDArray[np.int64]], float], examples: int, draws: int = 200
) -> Metric:
    """A figure with its 95 % percentile interval over resampled examples [efron1993].

    Args:
        measure: From rows to the figure.
        examples: How many there are.
        draws: How often they are drawn, with replacement; the same ones every time.
    """
    rng = np.random.default_rng(0)
    found = [measure(rng.integers(0, examples, examples)) for _ in range(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    value = measure(np.arange(examples))
    return Metric(value=value, low=float(low), high=float(high), examples=examples)


def macro_f1(class_ids: Ids, predicted: Ids, classes: int) -> float:
    """The mean over classes of the harmonic mean of precision and recall, a fraction.

    A class that neither occurs nor is predicted does not count.
    """
    hits = np.bincount(class_ids[class_ids == predicted], minlength=classes)
    both = np.bincount(class_ids, minlength=classes) + np.bincount(predicted, minlength=classes)
    known = both > 0
    return float((2 * hits[known] / both[known]).mean())


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15
) -> tuple[tuple[int, float, float], ...]:
    """Rows of (examples, mean confidence, accuracy) over equal-width bins [guo2017, section 2]."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    number = np.bincount(which, minlength=bins)
    filled = np.maximum(number, 1)
    sure = np.bincount(which, confidence, bins) / filled
    hits = np.bincount(which, right, bins) / filled
    return tuple(
        (int(each), float(mean_sure), float(share))
        for each, mean_sure, share in zip(number, sure, hits, strict=True)
    )


def calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15
) -> float:
    """Expected calibration error over equal-width bins [guo2017, section 2], a fraction."""
    rows = reliability(confidence, right, bins)
    return sum(number * abs(sure - hits) for number, sure, hits in rows) / len(right)
