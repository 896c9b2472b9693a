"""Measuring a trained network on any source: metrics, robustness, pictures, one HTML page."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from training import predictor, report
from training.corruptions import CHANGES
from training.data import sources
from training.data.dataset import Images
from training.data.sources import AnyDataset
from training.data.store import Stored, store
from training.evaluate import evaluate, proportion
from training.predictor import Predictor
from training.run import Evaluation
from zoo.artifact import Metric, write_atomically
from zoo.errors import DataError
from zoo.preprocess import Floats, Pixels

# More images than this tell little more about robustness, at ten times the price of a measurement.
MOST_FOR_ROBUSTNESS = 2000


def measure(
    path: Path,
    source: str,
    *,
    part: str = "test",
    kind: str = "centre",
    is_robustness_wanted: bool = True,
    out: Path | None = None,
    talk: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measures a network on one part of a source.

    Args:
        path: A published version or a run.
        source: As `training.data.sources.find` takes it.
        part: "train", "validation" or "test".
        kind: How each image is shown; see `training.data.views`.
        is_robustness_wanted: Measure on changed images, too.
        out: Where evaluation.json, the pictures and report.html go.
        talk: Takes one line for each stage.

    Raises:
        DataError: the source cannot be read, or has other classes than the network.
    """
    found = predictor.load(path)
    stored = load_data(found, source)
    images = stored.dataset.parts()[part]
    original = partial(stored.originals, part)
    if not len(images):
        raise DataError(f"The {part} part of {source!r} has no images.")
    talk(f"{len(images):,} images of the {part} part of {stored.dataset.name}")
    if kind == "centre":
        logits_nk = found.logits(images.pixels_nhwc)
    else:
        logits_nk = found.logits_of_views(map(original, range(len(images))), kind)
    labels = stored.dataset.labels
    evaluation = evaluate(logits_nk, images.class_ids, labels)
    if is_robustness_wanted:
        talk("Robustness")
        evaluation = evaluation.model_copy(update={"robustness": robustness(found, images)})
    if out is not None:
        title = f"{path} on {part_in_words(part)} of {stored.dataset.name}"
        _write(out, evaluation, labels, images, original, logits_nk, title)
    return evaluation


def part_in_words(part: str) -> str:
    """What a part is called where it is read: "the held-out part" is the test part."""
    words = {"test": "held-out", "train": "training"}
    return f"the {words.get(part, part)} part"


def load_data(found: Predictor, source: str) -> Stored:
    """A source at the network's input size, with the network's class ids.

    Raises:
        DataError: it has a class that the network does not know.
    """
    chosen = sources.find(source)
    dataset = with_labels(chosen.load(), found.labels, source)
    preprocessing = found.preprocessing
    return store(
        dataset,
        preprocessing,
        on_corrupt=chosen.on_corrupt,
    )


def with_labels(dataset: AnyDataset, labels: tuple[str, ...], source: str) -> AnyDataset:
    """A data set with another order of classes, the network's.

    Raises:
        DataError: it has a class that the network does not know.
    """
    if dataset.labels == labels:
        return dataset
    strange = [label for label in dataset.labels if label not in labels]
    if strange:
        raise DataError(
            f"{source!r} has the classes {', '.join(dataset.labels[:10])}; the network knows "
            f"{', '.join(labels[:10])}, but not {', '.join(strange[:5])}."
            + (" It was published without --labels." if labels[0] == "class 0" else "")
        )
    new_ids = np.array([labels.index(label) for label in dataset.labels])
    parts = {
        name: replace(part, class_ids=new_ids[part.class_ids])
        for name, part in dataset.parts().items()
    }
    return replace(dataset, **parts, labels=labels)  # type: ignore[arg-type]


def robustness(found: Predictor, images: Images) -> dict[str, Metric]:
    """Accuracy under each change and strength, e.g. {"blur 1.0": ...}, and "none" on the same images."""
    rng = np.random.default_rng(0)
    if len(images) > MOST_FOR_ROBUSTNESS:
        images = images.take(np.sort(rng.permutation(len(images))[:MOST_FOR_ROBUSTNESS]))

    def accuracy(pixels: Iterator[Pixels]) -> Metric:
        right = found.logits(pixels).argmax(-1) == images.class_ids
        return proportion(int(right.sum()), len(right))

    measured = {"none": accuracy(iter(images.pixels_nhwc))}
    for name, (change, strengths) in CHANGES.items():
        for strength in strengths:
            measured[f"{name} {strength:g}"] = accuracy(
                change(pixels, strength, rng) for pixels in images.pixels_nhwc
            )
    return measured


def _write(
    out: Path,
    evaluation: Evaluation,
    labels: tuple[str, ...],
    images: Images,
    original: Callable[[int], Pixels],
    logits_nk: Floats,
    title: str,
) -> None:
    from training import page

    out.mkdir(parents=True, exist_ok=True)
    report.confusion(evaluation, labels, out / "confusion.png", title)
    report.reliability(evaluation, out / "reliability.png", title)
    report.mistakes(original, images.class_ids, logits_nk, labels, out / "mistakes.png")
    write_atomically(out / "evaluation.json", evaluation.model_dump_json(indent=2).encode() + b"\n")
    write_atomically(out / "report.html", page.render(evaluation, labels, out, title).encode())
