"""Measured numbers on disk: a version's baseline, and the windows that servers write.

    <version>/assets.extra/convzoo/drift.json            the baseline
    <log>/<model>/<version>/20261121T113000Z-1a2b3c.json  one window of one server

A window counts into the bins of one baseline, which it names by its hash. It is written whole or
not at all, so several servers may write into one folder while others read it.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from zoo.artifact import DRIFT, file_sha256, first_fault
from zoo.drift.measures import MOST, Floats, Measured, Values
from zoo.errors import CorruptVersionError, DataError
from zoo.frozen import Frozen

BINS = 10
MOST_ROWS = 500

# Only files of this name in folders of versions are ever read or removed.
WINDOW = re.compile(r"\.?\d{8}T\d{6}Z-[0-9a-f]{6}\.json(-[0-9a-f]{8})?")
VERSION = re.compile(r"\d{1,19}")


class Rows(Frozen):
    """A sample of vectors, as base64 of little-endian float16 [N, D]."""

    dimensions: int = Field(ge=1)
    float16: str

    @classmethod
    def of(cls, rows_nd: NDArray[Any]) -> "Rows":
        """Packs float [N, D]; rows with a value that is no finite number are left out."""
        finite = rows_nd[np.isfinite(rows_nd).all(axis=1)]
        packed = np.clip(finite, -MOST, MOST).astype("<f2").tobytes()
        return cls(dimensions=rows_nd.shape[1], float16=base64.b64encode(packed).decode())

    @model_validator(mode="after")
    def _check(self) -> "Rows":
        self.array()
        return self

    def array(self) -> Floats:
        """The vectors, float32 [N, D]."""
        flat = np.frombuffer(base64.b64decode(self.float16, validate=True), "<f2")
        if len(flat) % self.dimensions or not np.isfinite(flat).all():
            raise ValueError(f"{len(flat)} values do not make finite rows of {self.dimensions}")
        return flat.reshape(-1, self.dimensions).astype(np.float32)


class Histogram(Frozen):
    """Counts of values between edges.

    Attributes:
        edges: E ascending numbers.
        counts: E + 1 counts: below the first edge, between two (from the lower on), from the last
            on; what is no number counts there, too.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @model_validator(mode="after")
    def _check(self) -> "Histogram":
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges do not have {len(self.counts)} bins")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges do not ascend")
        if min(self.counts) < 0:
            raise ValueError("a count is negative")
        return self


class Baseline(Frozen):
    """What the training data look like to a version, and how it answers.

    Attributes:
        inputs: Images of the training part whose inputs were measured.
        answers: Images whose answers were measured; the network has not learned from them, since it
            is surer of those that it has.
        histograms: By the statistic's name.
        classes: How often each class was the answer.
        embeddings: "inputs" and "answers", at most 500 rows each.
    """

    format: Literal[1] = 1
    inputs: int = Field(ge=0)
    answers: int = Field(default=0, ge=0)
    histograms: dict[str, Histogram]
    classes: tuple[int, ...] = ()
    embeddings: dict[str, Rows] = Field(default_factory=dict)


class Window(Frozen):
    """What one server saw of one version in a span of time.

    Attributes:
        baseline: SHA-256 of the baseline file whose bins are counted into.
        images: How many images were drawn from the traffic and measured.
        counts: By the statistic's name, one count a bin.
        classes: How often each class was the answer.
        embeddings: Some of the images' vectors, drawn evenly from all of the window.
    """

    format: Literal[1] = 1
    model: str
    version: int
    baseline: str
    began: datetime
    ended: datetime
    images: int = Field(ge=0)
    counts: dict[str, tuple[int, ...]]
    classes: tuple[int, ...]
    embeddings: dict[str, Rows] = Field(default_factory=dict)


# --- Counting -----------------------------------------------------------------------------------


def edges_of(values: Values) -> tuple[float, ...]:
    """Edges of about ten bins of equal share, and of two more for what lies outside.

    An edge lies halfway between two values, so that rounding moves none across; a value that makes
    up a tenth or more gets a bin of its own.
    """
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return ()
    distinct, counts = np.unique(finite, return_counts=True)
    low, high = float(distinct[0]), float(distinct[-1])
    quantiles = np.quantile(finite, np.arange(1, BINS) / BINS, method="lower")
    heavy = counts >= len(finite) / BINS
    after = {*np.searchsorted(distinct, quantiles), *np.flatnonzero(heavy)}
    after |= {place - 1 for place in np.flatnonzero(heavy)}
    cuts = [
        (distinct[place] + distinct[place + 1]) / 2
        for place in after
        if 0 <= place < len(distinct) - 1
    ]
    margin = max((high - low) * 1e-3, max(abs(low), abs(high)) * 1e-6, 1e-9)
    return tuple(sorted({low - margin, *map(float, cuts), high + margin}))


def count(values: Values, edges: Iterable[float]) -> NDArray[np.int64]:
    """How many values lie in each bin of `edges`; what is no number counts beyond the last."""
    bounds = np.asarray(tuple(edges), np.float64)
    return np.bincount(
        np.searchsorted(bounds, values, side="right"), minlength=len(bounds) + 1
    ).astype(np.int64)


class Counter:
    """Counts measured images into a baseline's bins, and keeps some of their vectors.

    Args:
        baseline: Whose bins.
        most_rows: How many vectors are kept: each image has the same chance [vitter1985].
        seed: Of that chance; None draws another one each time.
    """

    def __init__(self, baseline: Baseline, most_rows: int, seed: int | None = None) -> None:
        self._edges = {name: each.edges for name, each in baseline.histograms.items()}
        self._classes = len(baseline.classes)
        self._most_rows = most_rows
        self._rng = np.random.default_rng(seed)
        self.clear()

    def clear(self) -> None:
        """Begins again."""
        self.images = 0
        self.counts = {
            name: np.zeros(len(edges) + 1, np.int64) for name, edges in self._edges.items()
        }
        self.classes = np.zeros(self._classes, np.int64)
        self._kept: list[Mapping[str, Floats]] = []

    def add(self, measured: Measured) -> None:
        """Counts some images."""
        for name, values in measured.values.items():
            if name in self._edges:
                self.counts[name] += count(values, self._edges[name])
        self.classes += np.bincount(measured.class_ids, minlength=self._classes)
        # The n-th image takes a place in 0..n; those beyond what is kept fall out.
        numbers = np.arange(self.images, self.images + measured.images)
        places = np.where(
            numbers < self._most_rows, numbers, self._rng.integers(0, numbers, endpoint=True)
        )
        for row in np.flatnonzero(places < self._most_rows):
            vectors = {name: rows[row].copy() for name, rows in measured.embeddings.items()}
            if numbers[row] < self._most_rows:
                self._kept.append(vectors)
            else:
                self._kept[places[row]] = vectors
        self.images += measured.images

    def embeddings(self) -> dict[str, Rows]:
        """The vectors that were kept."""
        names = self._kept[0] if self._kept else ()
        return {name: Rows.of(np.stack([each[name] for each in self._kept])) for name in names}


# --- Reading ------------------------------------------------------------------------------------


def read_baseline(version_path: Path) -> tuple[Baseline, str] | None:
    """A version's baseline and the SHA-256 of its file; None when it has none.

    Raises:
        CorruptVersionError: it is not valid.
    """
    path = version_path / DRIFT
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Baseline.model_validate_json(text), file_sha256(path)
    except ValidationError as error:
        raise CorruptVersionError(f"{DRIFT} is not valid: {first_fault(error)}") from error


def window_files(log: Path, model: str | None = None, version: int | None = None) -> list[Path]:
    """The files of windows below a log folder, oldest first: of all versions, or of some.

    Those whose names begin with a dot are being written, or were when their server was killed.
    """
    models = [log / model] if model is not None else _folders(log)
    versions = [
        folder
        for place in models
        for folder in _folders(place)
        if VERSION.fullmatch(folder.name) and version in (None, int(folder.name))
    ]
    files = [
        path for folder in versions for path in folder.iterdir() if WINDOW.fullmatch(path.name)
    ]
    return sorted(files, key=lambda path: (path.name.lstrip("."), path.parent))


def _folders(path: Path) -> list[Path]:
    try:
        return [each for each in path.iterdir() if each.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_window(path: Path) -> Window:
    """Reads one window.

    Raises:
        DataError: it is none.
    """
    try:
        return Window.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        raise DataError(f"{path} is no window of a drift log: {first_fault(error)}") from error
