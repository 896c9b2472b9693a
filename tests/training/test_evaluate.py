"""Metrics, held against scikit-learn and against numbers that were worked out elsewhere."""

import numpy as np
import pytest
from sklearn import metrics

from training.evaluate import calibration_error, evaluate, proportion

LABELS = tuple("abcdefghijklmno")


@pytest.fixture
def answers():
    rng = np.random.default_rng(5)
    class_ids = rng.integers(0, len(LABELS), 400)
    logits = rng.normal(size=(400, len(LABELS))).astype(np.float32)
    logits[np.arange(400), class_ids] += 1.5
    return logits, class_ids


def test_metrics_agree_with_scikit_learn(answers):
    logits, class_ids = answers
    found = evaluate(logits, class_ids, LABELS)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    labels = np.arange(len(LABELS))
    value = {name: metric.value for name, metric in found.metrics.items()}
    predicted = logits.argmax(-1)
    assert value["accuracy"] == pytest.approx(metrics.accuracy_score(class_ids, predicted))
    assert value["cross_entropy"] == pytest.approx(
        metrics.log_loss(class_ids, probabilities, labels=labels), rel=1e-5
    )
    assert value["top5_accuracy"] == pytest.approx(
        metrics.top_k_accuracy_score(class_ids, logits, k=5, labels=labels)
    )
    assert np.array_equal(found.confusion, metrics.confusion_matrix(class_ids, predicted))
    recalls = metrics.recall_score(class_ids, predicted, average=None)
    assert [each.value for each in found.per_class.values()] == pytest.approx(recalls)


def test_the_wilson_interval_is_the_textbooks():
    # Wilson 1927 for 90 of 100 at 95 %: 0.8256 to 0.9448.
    metric = proportion(90, 100)
    assert (metric.low, metric.high) == (
        pytest.approx(0.8256, abs=1e-4),
        pytest.approx(0.9448, abs=1e-4),
    )
    assert proportion(10, 10).high == pytest.approx(1.0)
    assert proportion(0, 10).low == 0.0


def test_a_network_that_says_what_it_knows_has_no_calibration_error():
    right = np.array([True, False] * 50)
    assert calibration_error(np.full(100, 0.5), right) == pytest.approx(0.0)
    assert calibration_error(np.full(100, 0.9), right) == pytest.approx(0.4)
