"""What the server sees, in numbers that can be compared with the training data: `convzoo drift`.

A share of the images is drawn, each with the same chance, however they came. The request that
brought one leaves a copy in a bounded queue and goes on; a thread measures it (`zoo.drift.measures`),
counts it into the bins of the version's baseline and forgets it. At each interval the counts and a
bounded sample of vectors are written as one small file a version, whole or not at all. There are no
images in it, and nothing here can fail or hold up a request.
"""

import contextlib
import logging
import math
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from serving.messages import Array
from serving.metrics import Metrics
from zoo.artifact import MODEL_NAME, Manifest, write_atomically
from zoo.drift import measures
from zoo.drift.records import MOST_ROWS, Baseline, Counter, Window, read_baseline, window_files
from zoo.errors import ArtifactError

log = logging.getLogger(__name__)

INPUT = "image"
ANSWERS = ("logits", "probabilities")

# How often the thread looks at what waits: seldom, so that it measures many at once.
EVERY_S = 0.25

# Copies that may wait to be measured; what comes beyond is dropped and counted.
MOST_WAITING_BYTES = 32 << 20
MOST_WAITING = 4096

# Of one request at most so much is copied: a copy takes time, and many rows tell little more.
MOST_OF_ONE_BYTES = 4 << 20

# Inputs measured at once: this bounds what measuring takes beside them.
MOST_AT_ONCE_BYTES = 4 << 20

# A change of a broken log's state is told; the same again is not, within this time.
TELL_EVERY_S = 600.0


class DriftSettings(BaseModel):
    """What is written, where, and how much of it.

    Attributes:
        log: The folder; in it one for each model, and in that one for each version.
        sample: The share of the images that is measured, 0 to 1; a model may have its own.
        interval_s: How often a window is written.
        embeddings: Vectors of how many images a window holds; 0 for none.
        most_bytes: The oldest windows go when the folder holds more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    log: Path
    sample: float = Field(default=0.01, ge=0, le=1)
    interval_s: float = Field(default=300.0, gt=0)
    embeddings: int = Field(default=100, ge=0, le=MOST_ROWS)
    most_bytes: int = Field(default=64 << 20, ge=1 << 20)


@dataclass(slots=True, eq=False)
class _Drawn:
    """Images of one request that wait to be measured."""

    watch: "Watch"
    image_nhwc: Array
    outputs: Mapping[str, Array]
    sizes_n2: Array | None
    bytes: int


class DriftLog:
    """The log of a server.

    Args:
        settings: What is written, where.
        metrics: Where images and windows are counted.
    """

    def __init__(self, settings: DriftSettings, metrics: Metrics) -> None:
        self.settings = settings
        self._metrics = metrics
        self._waiting: deque[_Drawn] = deque()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._told = ""
        self._told_at = 0.0
        try:
            settings.log.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            # A server that answers is worth more than its log, and the folder may come back.
            self._tell(f"nothing can be written to {settings.log}: {error.strerror}", None)
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)
        self._thread.start()

    def watch(
        self,
        model: str,
        version: int,
        version_path: Path,
        manifest: Manifest | None,
        sample: float | None,
    ) -> "Watch | None":
        """Begins to look at a version; None, with a line in the log, where that is not possible.

        Args:
            model: The model's name.
            version: Its number.
            version_path: Its folder.
            manifest: What it says of itself; None for a SavedModel from elsewhere.
            sample: The share of its images; None for the server's.
        """
        share = self.settings.sample if sample is None else sample
        if not share:
            return None
        if not MODEL_NAME.fullmatch(model):
            log.warning("drift of %r is not logged: its name cannot be a folder's", model)
            return None
        try:
            found = read_baseline(version_path) if manifest is not None else None
        except (ArtifactError, OSError) as error:
            log.warning("drift of %s version %d is not logged: %s", model, version, error)
            return None
        if found is None or manifest is None:
            log.warning(
                "drift of %s version %d is not logged: it has no baseline; versions that this "
                "release of `convzoo publish` writes have one",
                model,
                version,
            )
            return None
        baseline, sha256 = found
        is_known = all(INPUT in each.inputs for each in manifest.signatures.values())
        if len(baseline.classes) != len(manifest.labels) or not is_known:
            log.warning(
                "drift of %s version %d is not logged: its baseline is of another network",
                model,
                version,
            )
            return None
        watch = Watch(self, model, version, manifest, baseline, sha256, share)
        with self._lock:
            self._watches.append(watch)
        return watch

    def offer(self, drawn: _Drawn) -> None:
        """Leaves drawn images to the thread, or drops them where too many wait."""
        with self._lock:
            is_taken = (
                self._waiting_bytes + drawn.bytes <= MOST_WAITING_BYTES
                and len(self._waiting) < MOST_WAITING
                and not self._is_stopping.is_set()
            )
            if is_taken:
                self._waiting.append(drawn)
                self._waiting_bytes += drawn.bytes
        if not is_taken:
            self.count(drawn.watch, "dropped", len(drawn.image_nhwc))

    def has_room(self, size: int) -> bool:
        """Whether so many bytes may wait, too: asked before they are copied."""
        return self._waiting_bytes + size <= MOST_WAITING_BYTES

    def count(self, watch: "Watch", outcome: str, images: int) -> None:
        """Counts drawn images in the metric."""
        self._metrics.drift_images(watch.model, watch.version, outcome, images)

    def failed(self, watch: "Watch", images: int, error: Exception) -> None:
        """Something is wrong with drawn images: told and counted, and no more."""
        self.count(watch, "failed", images)
        self._tell(f"{watch.model} version {watch.version}: {error}", error)

    def close(self, limit_s: float = 10.0) -> None:
        """Measures what waits, writes every window and stops."""
        self._is_stopping.set()
        self._thread.join(limit_s)

    # --- in the thread

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._is_stopping.wait(EVERY_S)
            # Before what waits is measured: what comes of them later than this is none.
            with self._lock:
                going = {watch for watch in self._watches if watch.is_closed or is_last}
            try:
                self._measure_waiting()
                self._write_due(going)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told and no more
                self._tell(f"{type(error).__name__}: {error}", error)

    def _measure_waiting(self) -> None:
        while True:
            some = self._take()
            if not some:
                return
            watch = some[0].watch
            rows = sum(len(each.image_nhwc) for each in some)
            try:
                watch.measure(some)
            except Exception as error:  # noqa: BLE001 - the next ones may be measured
                self.failed(watch, rows, error)
            else:
                self.count(watch, "measured", rows)

    def _take(self) -> list[_Drawn]:
        """Images that may be measured together: of one version, with or without sizes."""
        some: list[_Drawn] = []
        size = 0
        with self._lock:
            while self._waiting:
                first = self._waiting[0]
                is_other = some and (
                    first.watch is not some[0].watch
                    or (first.sizes_n2 is None) != (some[0].sizes_n2 is None)
                    or first.outputs.keys() != some[0].outputs.keys()
                )
                if is_other or (some and size + first.bytes > MOST_AT_ONCE_BYTES):
                    break
                some.append(self._waiting.popleft())
                size += first.bytes
            self._waiting_bytes -= size
        return some

    def _write_due(self, going: "set[Watch]") -> None:
        now = time.monotonic()
        with self._lock:
            watches = list(self._watches)
            self._watches = [watch for watch in watches if watch not in going]
        for watch in watches:
            if watch not in going and now - watch.tried < self.settings.interval_s:
                continue
            watch.tried = now
            try:
                self._write(watch)
            except Exception as error:  # noqa: BLE001 - others' windows may be written
                self._metrics.drift_windows(watch.model, watch.version, "failed")
                self._tell(f"{watch.model} version {watch.version}: {error}", error)
                watch.begin()

    def _write(self, watch: "Watch") -> None:
        """Writes a window; what cannot be written is kept and grows into the next one."""
        window = watch.window()
        if window is not None:
            folder = self.settings.log / watch.model / str(watch.version)
            name = f"{window.began:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.json"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / name, window.model_dump_json().encode() + b"\n")
            except OSError as error:
                self._metrics.drift_windows(watch.model, watch.version, "failed")
                self._tell(f"nothing can be written to {folder}: {error.strerror}", None)
                return
            self._metrics.drift_windows(watch.model, watch.version, "written")
            self._told = ""
        watch.begin()
        if window is not None:
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        sizes: dict[Path, int] = {}
        for path in window_files(self.settings.log):
            # Another server may have removed it.
            with contextlib.suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
        excess = sum(sizes.values()) - self.settings.most_bytes
        for path, size in sizes.items():
            if excess <= 0:
                return
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            excess -= size

    def _tell(self, text: str, error: Exception | None) -> None:
        now = time.monotonic()
        if text != self._told or now - self._told_at > TELL_EVERY_S:
            log.error("drift: %s; requests are answered all the same", text, exc_info=error)
            self._told, self._told_at = text, now


class Watch:
    """Looks at the images of one version; made by `DriftLog.watch`.

    Args:
        drift_log: Where drawn images go.
        model: The model's name.
        version: Its number.
        manifest: What it says of itself.
        baseline: Whose bins are counted into.
        baseline_sha256: Of its file.
        share: The share of the images that is drawn, above 0, at most 1.
    """

    def __init__(
        self,
        drift_log: DriftLog,
        model: str,
        version: int,
        manifest: Manifest,
        baseline: Baseline,
        baseline_sha256: str,
        share: float,
    ) -> None:
        self.model = model
        self.version = version
        self.is_closed = False
        self._log = drift_log
        self._input = manifest.preprocessing.input
        self._baseline_sha256 = baseline_sha256
        self._counter = Counter(baseline, drift_log.settings.embeddings)
        self._share = share
        self._random = random.Random()  # noqa: S311 - a sample, no secret
        self._skip = self._gap() - 1
        self.tried = time.monotonic()
        self.begin()

    # --- in the event loop

    def saw(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        sizes: list[tuple[int, int]] | None,
    ) -> None:
        """A request was run; most of them go on at once.

        Args:
            inputs: What the network was given.
            outputs: What it gave.
            sizes: Height and width of each image as it came, where images came.
        """
        rows = len(inputs[INPUT])
        if self._skip >= rows:
            self._skip -= rows
            return
        drawn = []
        while self._skip < rows:
            drawn.append(self._skip)
            self._skip += self._gap()
        self._skip -= rows
        try:
            self._offer(inputs[INPUT], outputs, sizes, drawn)
        except Exception as error:  # noqa: BLE001 - the request has its answer already
            self._log.failed(self, len(drawn), error)

    def _offer(
        self,
        image_nhwc: Array,
        outputs: Mapping[str, Array],
        sizes: list[tuple[int, int]] | None,
        drawn: list[int],
    ) -> None:
        row_bytes = image_nhwc.nbytes // len(image_nhwc)
        most = max(1, MOST_OF_ONE_BYTES // row_bytes)
        if len(drawn) > most:
            self._log.count(self, "dropped", len(drawn) - most)
            drawn = sorted(self._random.sample(drawn, most))
        size = len(drawn) * row_bytes
        if not self._log.has_room(size):
            self._log.count(self, "dropped", len(drawn))
            return
        name = next((each for each in ANSWERS if each in outputs), None)
        if name is None:
            raise ValueError(f"it gave {', '.join(outputs)}, and none of {', '.join(ANSWERS)}")
        self._log.offer(
            _Drawn(
                self,
                image_nhwc[drawn],
                {name: outputs[name][drawn]},
                None if sizes is None else np.array([sizes[row] for row in drawn]),
                size,
            )
        )

    def _gap(self) -> int:
        """Images from one that is drawn to the next: geometric, so that each has the same chance."""
        if self._share >= 1:
            return 1
        return 1 + int(math.log(1 - self._random.random()) / math.log1p(-self._share))

    def close(self) -> None:
        """The version goes; the thread writes what it has of it."""
        self.is_closed = True

    # --- in the thread

    def measure(self, some: list[_Drawn]) -> None:
        """Counts drawn images."""
        outputs = {
            name: np.concatenate([each.outputs[name] for each in some]) for name in some[0].outputs
        }
        log_nk = measures.log_probabilities(outputs)
        if log_nk is None or log_nk.shape[1] != len(self._counter.classes):
            shapes = [list(each.shape) for each in outputs.values()]
            raise ValueError(
                f"its answers have shape {shapes[0]}, its baseline {len(self._counter.classes)} classes"
            )
        sizes = [each.sizes_n2 for each in some if each.sizes_n2 is not None]
        self._counter.add(
            measures.measure(
                np.concatenate([each.image_nhwc for each in some]),
                log_nk,
                np.concatenate(sizes) if sizes else None,
                self._input,
            )
        )

    def window(self) -> Window | None:
        """What was counted; None when no image was."""
        counter = self._counter
        if not counter.images:
            return None
        return Window(
            model=self.model,
            version=self.version,
            baseline=self._baseline_sha256,
            began=self.began,
            ended=datetime.now(UTC),
            images=counter.images,
            counts={name: tuple(map(int, counts)) for name, counts in counter.counts.items()},
            classes=tuple(map(int, counter.classes)),
            embeddings=counter.embeddings(),
        )

    def begin(self) -> None:
        """Begins the next window."""
        self.began = datetime.now(UTC)
        self._counter.clear()
