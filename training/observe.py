"""Images measured as a server would measure them, for a comparison before anything is served."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.baseline import BATCH, draw
from training.data import sources
from training.data.dataset import Files
from training.data.sources import AnyPart
from training.data.store import decoded
from training.drift import Seen
from training.verify import DefaultEngine
from zoo.artifact import Manifest, read_preprocessing_arrays
from zoo.drift import measures
from zoo.drift.records import MOST_ROWS, Baseline, Counter
from zoo.errors import DataError, ImageError, UsageError

if TYPE_CHECKING:
    from zoo.preprocess import Pixels

# More images tell little more about their distribution.
MOST_IMAGES = 5000


def observe(
    version: Path,
    manifest: Manifest,
    baseline: Baseline,
    source: str,
    *,
    part: str | None = None,
    most: int = MOST_IMAGES,
    talk: Callable[[str], None] = lambda _: None,
) -> Seen:
    """Measures images and the version's answers to them, on the engine that serves it.

    Args:
        version: The version's folder.
        manifest: Its manifest.
        baseline: Its baseline.
        source: As `training.data.sources.unlabelled` takes it.
        part: "train", "validation" or "test"; all of them when None.
        most: Of more images so many are drawn, the same ones each time.
        talk: Takes one line for each stage.

    Raises:
        UsageError: there is no such part.
        DataError: the source cannot be read, or none of its images can be used.
    """
    parts = sources.unlabelled(source)
    if part is not None:
        if part not in parts:
            raise UsageError(
                f"{source!r} has no part {part!r}"
                + ("; it has no parts." if "" in parts else f"; it has {', '.join(parts)}.")
            )
        parts = {part: parts[part]}
    places = [(each, row) for each in parts.values() for row in range(len(each))]
    chosen = [places[index] for index in draw(len(places), most)]
    talk(f"{len(chosen):,} of {len(places):,} images of {source}")
    counter = Counter(baseline, MOST_ROWS, seed=0)
    engine = DefaultEngine(version, manifest)
    preprocessing, arrays = manifest.preprocessing, read_preprocessing_arrays(version)
    unread: list[str] = []
    for start in range(0, len(chosen), BATCH):
        pixels: list[Pixels] = []
        sizes: list[tuple[int, ...]] = []
        for each, row in chosen[start : start + BATCH]:
            try:
                image = decoded(each, row, is_upright=preprocessing.upright)
                pixels.append(preprocessing.to_pixels(image))
            except (ImageError, DataError) as error:
                unread.append(f"{_name(each, row)}: {error}")
            else:
                sizes.append(image.shape[:2])
        if pixels:
            image_nhwc = preprocessing.to_input(np.stack(pixels), arrays)
            log_nk = measures.log_probabilities({"logits": engine(image_nhwc)})
            counter.add(measures.measure(image_nhwc, log_nk, np.array(sizes), preprocessing.input))
    if not counter.images:
        raise DataError(
            f"None of the images of {source} can be used" + (f": {unread[0]}" if unread else ".")
        )
    if unread:
        talk(f"Warning: {len(unread)} images cannot be used, e.g. {unread[0]}")
    return Seen(
        source=source,
        images=counter.images,
        counts=counter.counts,
        classes=counter.classes,
        embeddings={name: rows.array() for name, rows in counter.embeddings().items()},
    )


def _name(part: AnyPart, row: int) -> str:
    return part.names[row] if isinstance(part, Files) else f"image {row}"
