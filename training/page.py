"""An evaluation as one HTML page that needs no other file and no network."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from training.html import document
from training.run import Evaluation
from zoo.artifact import Metric

PICTURES = {
    "confusion.png": "Confusion: true classes in rows, answers in columns",
    "reliability.png": "Reliability: on the diagonal the network is as right as it is sure",
    "mistakes.png": "The mistakes it was surest of: truth, answer, confidence",
}


def render(evaluation: Evaluation, labels: Sequence[str], folder: Path, title: str) -> str:
    """The page, with the pictures of `folder` in it.

    Args:
        evaluation: What was measured.
        labels: The class names.
        folder: Where confusion.png, reliability.png and mistakes.png are; those missing are left out.
        title: The page's.
    """
    parts = [f"<h1>{escape(title)}</h1>", _metrics("Metrics", evaluation.metrics)]
    rows = [
        (label, evaluation.per_class.get(label), evaluation.precision.get(label))
        for label in labels
    ]
    parts.append(
        "<h2>Classes</h2><table><tr><th>class</th><th>images</th><th>recall</th><th>precision</th>"
        "</tr>"
        + "".join(
            f"<tr><td>{escape(label)}</td><td>{recall.examples if recall else 0:,}</td>"
            f"<td>{_value(recall)}</td><td>{_value(precision)}</td></tr>"
            for label, recall, precision in rows
        )
        + "</table>"
    )
    if evaluation.robustness:
        parts.append(_metrics("Accuracy on changed images", evaluation.robustness))
    for name, caption in PICTURES.items():
        if (folder / name).is_file():
            data = base64.b64encode((folder / name).read_bytes()).decode()
            parts.append(
                f"<h2>{escape(caption)}</h2>"
                f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            )
    return document(title, parts)


def _metrics(heading: str, metrics: Mapping[str, Metric]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{metric.value:.4f}</td><td>{_interval(metric)}</td>"
        f"<td>{metric.examples:,}</td><td>{_bar(metric)}</td></tr>"
        for name, metric in metrics.items()
    )
    return (
        f"<h2>{escape(heading)}</h2><table><tr><th></th><th>value</th><th>95 % interval</th>"
        f"<th>images</th><th></th></tr>{rows}</table>"
    )


def _value(metric: Metric | None) -> str:
    return "" if metric is None else f"{metric.value:.4f}"


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{metric.low:.4f} to {metric.high:.4f}"


def _bar(metric: Metric) -> str:
    width = 8 * min(1.0, max(0.0, metric.value))
    return f'<span class="bar" style="width:{width:.2f}rem"></span>'
