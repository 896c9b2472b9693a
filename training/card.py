"""The model card: what a version is, in Markdown with the front matter that model hubs read."""

import json
from collections.abc import Mapping

import yaml

import zoo
from zoo.artifact import Manifest, Metric

# Metric -> the name hubs know it by.
HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1"}


def render(manifest: Manifest, data: str) -> str:
    """The card.

    Args:
        manifest: Of the version, complete but for its number and files.
        data: The name of the data it was trained and measured on.
    """
    spec = zoo.describe(manifest.architecture.name)
    front = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["convzoo", manifest.architecture.name],
        "datasets": [data],
        "metrics": [name for key, name in HUB_METRICS.items() if key in manifest.metrics],
        "model-index": [
            {
                "name": manifest.model,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": data, "type": data},
                        "metrics": [
                            {"type": name, "value": round(manifest.metrics[key].value, 6)}
                            for key, name in HUB_METRICS.items()
                            if key in manifest.metrics
                        ],
                    }
                ],
            }
        ],
    }
    shape = "x".join(map(str, manifest.preprocessing.input.shape))
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        f"# {manifest.model}",
        "",
        f"{spec.title} ({spec.year}), input {shape}, {len(manifest.labels)} classes: "
        f"{', '.join(manifest.labels[:20])}{', ...' if len(manifest.labels) > 20 else ''}.",
        "",
        f"## Measured on held-out images of {data}",
        "",
        "| metric | value | 95 % interval | images |",
        "|---|---|---|---|",
        *(f"| {name} | {_cells(metric)} |" for name, metric in manifest.metrics.items()),
        "",
        "## Forms",
        "",
        "| engine | precision | difference from Keras | tolerated |",
        "|---|---|---|---|",
        *(
            f"| {name} | {each.precision} | {each.measured:.1e} | {each.tolerance:.1e} |"
            for name, each in manifest.engines.items()
        ),
        "",
        "Differences are those of logits, in standard deviations of the logits.",
        "",
        "## How it came about",
        "",
        f"Recipe `{manifest.recipe_sha256[:12]}`, data `{manifest.data_sha256[:12]}`"
        + (f", code `{manifest.code_revision[:12]}`" if manifest.code_revision else "")
        + f"; {_libraries(manifest.libraries)}.",
        "",
        "```json",
        json.dumps(manifest.recipe, indent=2),
        "```",
        "",
        "## Limits",
        "",
        f"It was measured on {data} alone. Images of another kind, other classes, and images that "
        "are none of its classes get an answer, too; its probabilities are calibrated only as far "
        "as the calibration error above says.",
        "",
    ]
    return "\n".join(lines)


def _cells(metric: Metric) -> str:
    interval = (
        f"{metric.low:.4f} to {metric.high:.4f}"
        if metric.low is not None and metric.high is not None
        else ""
    )
    return f"{metric.value:.4f} | {interval} | {metric.examples or ''}"


def _libraries(libraries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in libraries.items())
