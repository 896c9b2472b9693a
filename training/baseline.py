"""The baseline of drift: what training images look like, and how the network answers new ones.

Both parts are measured as a server measures them (`zoo.drift.measures`), on images drawn once and
the same way each time.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Images
from zoo.drift import measures
from zoo.drift.measures import Array, Measured
from zoo.drift.records import MOST_ROWS, Baseline, Histogram, Rows, count, edges_of
from zoo.preprocess import Floats, Preprocessing

MOST_INPUTS = 2000
MOST_ANSWERS = 1000

# Fewer images than this that the network has not learned from leave too much to chance.
LEAST_ANSWERS = 500

BATCH = 64


def of_inputs(
    images: Images,
    sizes: NDArray[np.int64],
    preprocessing: Preprocessing,
    arrays: Mapping[str, Floats],
) -> Baseline:
    """The first part: statistics of up to 2,000 inputs.

    Args:
        images: The training part at the network's input size.
        sizes: Height and width of each image as it came, int64 [N, 2 or more].
        preprocessing: With all its numbers.
        arrays: What the fitted steps name.
    """
    rows = draw(len(images), MOST_INPUTS)
    return _baseline(_measured(images.take(rows), sizes[rows, :2], preprocessing, arrays))


def with_answers(
    inputs: Baseline,
    parts: Iterable[Images],
    preprocessing: Preprocessing,
    arrays: Mapping[str, Floats],
    logits_of: Callable[[Floats], Array],
    classes: int,
) -> Baseline:
    """Both parts.

    Args:
        inputs: The first part.
        parts: Images that the network has not learned from; the later ones are looked at when those
            before are fewer than 500.
        preprocessing: With all its numbers.
        arrays: What the fitted steps name.
        logits_of: From inputs [N, H, W, C] to logits [N, K], on the engine that will serve.
        classes: K.
    """
    found: list[Measured] = []
    for images in parts:
        if sum(each.images for each in found) >= LEAST_ANSWERS:
            break
        some = images.take(draw(len(images), MOST_ANSWERS))
        found += _measured(some, None, preprocessing, arrays, logits_of)
    answers = _baseline(found, classes)
    return Baseline(
        inputs=inputs.inputs,
        answers=answers.answers,
        histograms={
            **inputs.histograms,
            **{name: answers.histograms[name] for name in ("probability", "entropy") if found},
        },
        classes=answers.classes,
        embeddings={
            **inputs.embeddings,
            **{name: rows for name, rows in answers.embeddings.items() if name == "answers"},
        },
    )


def draw(number: int, most: int) -> NDArray[np.int64]:
    """Up to `most` of `number` rows, ascending: the same ones each time, and no even steps.

    Data that repeat, as digits 0 to 9 over and over, would meet even steps always in the same place.
    """
    return np.sort(np.random.RandomState(0).permutation(number)[:most]).astype(np.int64)


def _measured(
    images: Images,
    sizes_n2: NDArray[np.int64] | None,
    preprocessing: Preprocessing,
    arrays: Mapping[str, Floats],
    logits_of: Callable[[Floats], Array] | None = None,
) -> list[Measured]:
    """The numbers of images, 64 at a time."""
    found = []
    for start in range(0, len(images), BATCH):
        here = slice(start, start + BATCH)
        image_nhwc = preprocessing.to_input(images.pixels_nhwc[here], arrays)
        log_nk = None
        if logits_of is not None:
            log_nk = measures.log_probabilities({"logits": logits_of(image_nhwc)})
        sizes = None if sizes_n2 is None else sizes_n2[here]
        found.append(measures.measure(image_nhwc, log_nk, sizes, preprocessing.input))
    return found


def _baseline(found: list[Measured], classes: int = 0) -> Baseline:
    """The histograms and samples of what was measured."""
    histograms = {}
    for name in found[0].values if found else ():
        values = np.concatenate([each.values[name] for each in found])
        edges = edges_of(values)
        histograms[name] = Histogram(edges=edges, counts=tuple(map(int, count(values, edges))))
    embeddings = {}
    for name in found[0].embeddings if found else ():
        rows_nd = np.concatenate([each.embeddings[name] for each in found])
        embeddings[name] = Rows.of(rows_nd[draw(len(rows_nd), MOST_ROWS)])
    class_ids = np.concatenate([each.class_ids for each in found]) if found else np.zeros(0, int)
    return Baseline(
        inputs=sum(each.images for each in found),
        answers=len(class_ids),
        histograms=histograms,
        classes=tuple(map(int, np.bincount(class_ids, minlength=classes))),
        embeddings=embeddings,
    )
