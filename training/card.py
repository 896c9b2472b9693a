"""The model card: what a version is, in Markdown with the front matter that model hubs read."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

import zoo
from zoo.artifact import Manifest, Metric, Origin

# Metric -> the name hubs know it by.
HUB_METRICS = {"accuracy": "accuracy", "macro_f1": "f1"}


def render(manifest: Manifest, data: str) -> str:
    """The card.

    Args:
        manifest: Of the version, complete but for its number and files.
        data: The name of the data it was trained and measured on; empty of weights from elsewhere.
    """
    spec = zoo.describe(manifest.architecture.name)
    front: dict[str, Any] = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["convzoo", manifest.architecture.name],
        "datasets": [data] if data else [],
        "metrics": [name for key, name in HUB_METRICS.items() if key in manifest.metrics],
    }
    if manifest.metrics:
        front["model-index"] = [
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
        ]
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
        *(
            _measured(manifest, data)
            if manifest.origin is None
            else _published(manifest, manifest.origin)
        ),
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
        *(
            _recipe(manifest, data)
            if manifest.origin is None
            else _origin(manifest, manifest.origin)
        ),
        "",
    ]
    return "\n".join(lines)


def _measured(manifest: Manifest, data: str) -> list[str]:
    return [
        f"## Measured on held-out images of {data}",
        "",
        "| metric | value | 95 % interval | images |",
        "|---|---|---|---|",
        *(f"| {name} | {_cells(metric)} |" for name, metric in manifest.metrics.items()),
    ]


def _recipe(manifest: Manifest, data: str) -> list[str]:
    return [
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
    ]


def _published(manifest: Manifest, origin: Origin) -> list[str]:
    lines = [
        "## Accuracy",
        "",
        "Not measured here; `convzoo evaluate` measures it on your images. Published, in per cent:",
        "",
    ]
    if origin.top1_error is not None:
        lines.append(
            f"- these weights: top-1 error {origin.top1_error:g} (ILSVRC-2012 validation, one "
            f"centre crop; {origin.weights}, {origin.url})"
        )
    else:
        lines.append("- these weights: nothing that is known here")
    if origin.url:
        for each in zoo.describe(manifest.architecture.name).errors:
            figures = [
                f"{name} error {value:g}"
                for name, value in (("top-1", each.top1), ("top-5", each.top5))
                if value is not None
            ]
            lines.append(
                f"- the network, with its own weights: {', '.join(figures)} "
                f"({each.data}; {each.source})"
            )
    return lines


def _origin(manifest: Manifest, origin: Origin) -> list[str]:
    golden = (
        "images that were given"
        if origin.golden == "images"
        else "drawn images, since none were given: they tell whether engines agree, no more"
    )
    names = (
        "None were given: classes are numbered from 0."
        if manifest.labels[0] == "class 0"
        else "As they were given in a file."
    )
    return [
        "## Where the weights come from",
        "",
        f"- Weights: `{origin.weights}`, SHA-256 `{origin.sha256}`",
        f"- Published at: {origin.url or 'not known: a file, which is none of the public ones'}",
        f"- Licence: {origin.licence or 'not known'}",
        f"- Input: {origin.input}",
        f"- Class names: {names}",
        f"- Golden records: {golden}",
        "",
        f"Published with {_libraries(manifest.libraries)}.",
        "",
        "## Limits",
        "",
        "Images of another kind than those it was trained on, other classes, and images that are "
        "none of its classes get an answer, too; how far its probabilities can be believed was not "
        "measured.",
    ]


def _cells(metric: Metric) -> str:
    interval = (
        f"{metric.low:.4f} to {metric.high:.4f}"
        if metric.low is not None and metric.high is not None
        else ""
    )
    return f"{metric.value:.4f} | {interval} | {metric.examples or ''}"


def _libraries(libraries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in libraries.items())
