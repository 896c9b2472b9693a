"""Measures a version when it is loaded: how many rows a batch should have, how many run at once.

A larger batch is not always faster, and two small streams may beat one wide one; both belong to the
network, the engine and the machine. The result lies in the version's own folder, under a name that
stands for all three, so that the next start does not measure again.
"""

import hashlib
import json
import logging
import math
import platform
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from serving.core.threads import EngineThreads
from serving.messages import Array
from zoo.artifact import CACHE, write_atomically
from zoo.cores import cores

log = logging.getLogger(__name__)

# Another one when the choice among what was measured changes: what was kept is then measured anew.
RULES = "4"
SIZES = (1, 2, 4, 8, 16, 32)
# Enough for eight rows of VGG-16 on two cores.
BUDGET_S = 4.0
REPEATS = 3
# A size is tried for at least so long: a few runs of a tiny network fit into one moment in which
# another process has the core, and what was measured then would hold at every start to come.
TRIED_FOR_S = 0.02
# A batch that takes longer runs once more only: what disturbs it for a moment is little beside it.
LONG_BATCH_S = 0.2
# A compilation that takes longer is not repeated to try streams.
MOST_COMPILE_S = 2.0
# A batch that reaches so much of the best throughput is large enough: a larger one only waits longer.
ENOUGH = 0.97
# Streams have to be so many times as fast as one that has all cores.
WORTH = 1.05
# Seconds a row costs where streams are worth it also when they are a little slower by themselves.
SHARED_ROW_S = (1e-3, 25e-3)
SHARED_WORTH = 0.95

Runner = Callable[[Mapping[str, Array]], object]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was measured.

    Attributes:
        max_rows: Rows of one batch, at the best throughput.
        streams: Batches that run at the same time.
        batch_s: Seconds a batch of so many rows takes, on those streams.
        is_cached: Whether it was measured at an earlier start.
    """

    max_rows: int
    streams: int
    batch_s: Mapping[int, float] = field(default_factory=dict)
    is_cached: bool = False

    @property
    def row_s(self) -> float:
        """What a row costs one stream in a full batch; 0 when nothing was measured."""
        return self.batch_s.get(self.max_rows, 0.0) / self.max_rows


def measure(
    run: Runner, inputs: Mapping[str, Array], *, latency_target_s: float, streams: int, until: float
) -> dict[int, float]:
    """Seconds a batch takes, by its rows, with so many running at once.

    Args:
        run: Runs one batch.
        inputs: A few real rows; they are repeated to fill larger batches.
        latency_target_s: Larger batches are not tried once one takes longer.
        streams: Threads that run batches at the same time.
        until: The moment on the monotonic clock when trying ends; one row is always tried.
    """
    found: dict[int, float] = {}
    with EngineThreads(streams) as pool:
        for rows in SIZES:
            expected_s = 2 * max(found.values(), default=0.0)
            if found and time.monotonic() + (1 + _repeats(expected_s)) * expected_s > until:
                break
            batch = {name: _repeated(array, rows) for name, array in inputs.items()}
            # The first run of a size prepares the engine for it.
            first_s = _together(run, batch, streams, pool)
            found[rows] = min(
                _together(run, batch, streams, pool) for _ in range(_repeats(first_s))
            )
            if found[rows] > latency_target_s:
                break
    if len(found) > 1 and max(found.values()) > latency_target_s:
        del found[max(found)]
    return found


def _repeats(batch_s: float) -> int:
    if batch_s > LONG_BATCH_S:
        return 1
    return max(REPEATS, math.ceil(TRIED_FOR_S / max(batch_s, 1e-5)))


def _together(
    run: Runner, batch: Mapping[str, Array], streams: int, pool: ThreadPoolExecutor
) -> float:
    if streams == 1:
        return timed(run, batch)
    gate = threading.Barrier(streams)

    def one() -> float:
        gate.wait()
        return timed(run, batch)

    return max(each.result() for each in [pool.submit(one) for _ in range(streams)])


def worth(row_s: float) -> float:
    """How many times as fast streams have to be, for a network whose row costs so much.

    What the server does for a request takes a core from the engine for a moment. A batch that runs on
    all cores waits for that one; of several streams only one waits. Where a row takes very long that
    moment is nothing, and where it takes next to nothing it is most of the time anyway.
    """
    low, high = SHARED_ROW_S
    return SHARED_WORTH if low <= row_s <= high else WORTH


def timed(run: Runner, batch: Mapping[str, Array]) -> float:
    """Seconds that one batch takes."""
    started = time.monotonic()
    run(batch)
    return time.monotonic() - started


def _repeated(array: Array, rows: int) -> Array:
    return np.ascontiguousarray(np.resize(array, (rows, *array.shape[1:])))


def best(found: Mapping[int, float], streams: int) -> tuple[int, float]:
    """The rows worth batching and their throughput in rows per second."""
    reached = {rows: streams * rows / max(seconds, 1e-9) for rows, seconds in found.items()}
    most = max(reached.values())
    chosen = min(rows for rows, each in reached.items() if each >= ENOUGH * most)
    return chosen, reached[chosen]


# --- Keeping it -----------------------------------------------------------------------------------


def fingerprint(engine: str, form_sha256: str, cores: int, streams: int | None) -> str:
    """Stands for a machine, an engine's releases, a network, and the streams asked for."""
    releases = [_release(each) for each in (engine, "ncnn")]
    parts = [engine, *releases, form_sha256, str(cores), str(streams), _processor(), RULES]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    kinds = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(kinds)}))


def read(version_path: Path, name: str, latency_target_s: float) -> Tuned | None:
    """What an earlier start measured on the same machine for the same target, if anything."""
    try:
        document = json.loads((version_path / CACHE / f"tuning-{name}.json").read_bytes())
        if document["latency_target_s"] != latency_target_s:
            return None
        return Tuned(
            max_rows=min(max(int(document["max_rows"]), 1), SIZES[-1]),
            streams=min(max(int(document["streams"]), 1), cores()),
            batch_s={1: 1.0}
            | {int(rows): float(each) for rows, each in document["batch_s"].items()},
            is_cached=True,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("the tuning kept in %s is ignored: %s", version_path, error)
        return None


def write(version_path: Path, name: str, latency_target_s: float, tuned: Tuned) -> None:
    """Keeps a measurement; a folder that cannot be written is measured at each start."""
    document = asdict(tuned) | {"latency_target_s": latency_target_s}
    del document["is_cached"]
    try:
        (version_path / CACHE).mkdir(exist_ok=True)
        write_atomically(
            version_path / CACHE / f"tuning-{name}.json", json.dumps(document).encode()
        )
    except OSError as error:
        log.info("the tuning of %s is not kept: %s", version_path, error.strerror)
