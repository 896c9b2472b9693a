"""Does what a server sees still look like what its model was trained on?

Two questions are asked of every statistic. How much has it changed: the population stability index
(PSI), and for vectors the maximum mean discrepancy (MMD). And could that be chance: p-values,
corrected for their number. Drift is a change that is large and no chance; with little data a large
change may be chance, and then the answer is that the data do not tell.

Array names: n, m image; b bin; d dimension.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from zoo.artifact import Manifest, read_manifest
from zoo.drift.measures import Floats
from zoo.drift.records import (
    MOST_ROWS,
    Baseline,
    Window,
    read_baseline,
    read_window,
    window_files,
)
from zoo.errors import DataError, UsageError
from zoo.frozen import Frozen
from zoo.suggest import unknown

Verdict = Literal["ok", "warn", "alarm", "unclear"]
Outcome = Literal["ok", "warn", "alarm", "inconclusive"]
Counts = NDArray[np.int64]

# Draws for one p-value: enough that the smallest stays small after correction.
DRAWS = 9999
PERMUTATIONS = 4999

# More classes than this are compared in groups of neighbours of about equal share.
MOST_CLASSES = 20
MOVERS = 10

CLASS = "class"
WORDS = {
    "mean": "brightness: mean of the input",
    "contrast": "standard deviation over the input's pixels",
    "sharpness": "difference of neighbouring pixels, in contrasts",
    "width": "width of the image as it came, in pixels",
    "height": "height of the image as it came, in pixels",
    "aspect": "width / height of the image as it came",
    "probability": "probability of the best class",
    "entropy": "entropy of the answer, as a share of the largest",
    CLASS: "the best class",
    "inputs": "vectors of the inputs",
    "answers": "vectors of the answers",
}
# What only images have that came as images: of tensors nothing can be said.
SIZES = ("width", "height", "aspect")


class Thresholds(Frozen):
    """What is asked.

    Attributes:
        psi_warn: A PSI from here on is worth a look.
        psi_alarm: A PSI from here on is drift.
        mmd_warn: The same for MMD^2.
        mmd_alarm: The same for MMD^2.
        alpha: The chance, over all comparisons together, to call chance a change.
    """

    psi_warn: float = Field(default=0.1, gt=0)
    psi_alarm: float = Field(default=0.25, gt=0)
    mmd_warn: float = Field(default=0.02, gt=0)
    mmd_alarm: float = Field(default=0.05, gt=0)
    alpha: float = Field(default=0.01, gt=0, lt=1)


class Finding(Frozen):
    """One comparison.

    Attributes:
        name: The statistic's.
        measure: "PSI" or "MMD2".
        value: How large the change is.
        by_chance: What chance alone stays below at these numbers of images, with 1 - alpha.
        p: That chance gives at least this change.
        ks: The largest difference of the distribution functions, at the bins' edges.
        ks_p: The Kolmogorov-Smirnov test's p-value for it.
        corrected_p: The smallest of the p-values, corrected.
        verdict: "unclear" where chance alone may reach the alarm, or this change.
        edges: Of the bins; empty for classes and vectors.
        groups: What each bin is called, for classes.
        before: The baseline's share in each bin.
        now: The share in each bin of what came.
    """

    name: str
    measure: Literal["PSI", "MMD2"]
    before_images: int
    now_images: int
    value: float
    by_chance: float
    p: float
    ks: float | None = None
    ks_p: float | None = None
    corrected_p: float = 1.0
    verdict: Verdict = "ok"
    edges: tuple[float, ...] = ()
    groups: tuple[str, ...] = ()
    before: tuple[float, ...] = ()
    now: tuple[float, ...] = ()


class Mover(Frozen):
    """A class that is answered more or less often."""

    label: str
    before: float
    now: float


class DriftReport(Frozen):
    """What was found.

    Attributes:
        source: A log's folder, or images.
        images: How many were measured.
        windows: How many windows they came in; 0 for images.
        outcome: The worst verdict; "inconclusive" where none is an alarm and one is unclear.
        ignored: Statistics that were left out on request.
        movers: The classes whose share changed most.
    """

    model: str
    version: int
    source: str
    images: int
    windows: int = 0
    began: datetime | None = None
    ended: datetime | None = None
    outcome: Outcome
    thresholds: Thresholds
    ignored: tuple[str, ...] = ()
    findings: tuple[Finding, ...]
    movers: tuple[Mover, ...] = ()


@dataclass(slots=True, eq=False)
class Seen:
    """What is compared with a baseline: counts in its bins, and vectors."""

    source: str
    images: int
    counts: Mapping[str, Counts]
    classes: Counts
    embeddings: Mapping[str, Floats]
    windows: int = 0
    began: datetime | None = None
    ended: datetime | None = None


# --- Statistics ---------------------------------------------------------------------------------


def psi(before_b: Counts, now_b: Counts) -> float:
    """The population stability index of two histograms, sum (q - p) ln(q / p) over the bins.

    It is the symmetrised Kullback-Leibler divergence [jeffreys1946]; that below 0.1 little has
    changed and above 0.25 much is a convention [siddiqi2006]. Half a count is added to every bin, as
    Jeffreys's prior does, so that an empty bin costs what the number of images allows and no more.

    Args:
        before_b: Counts in each bin.
        now_b: Counts in the same bins.
    """
    return float(_psis(np.asarray(before_b)[None], np.asarray(now_b)[None])[0])


def _psis(before_rb: NDArray[Any], now_rb: NDArray[Any]) -> NDArray[np.float64]:
    p, q = (
        (each + 0.5) / (each.sum(-1, keepdims=True) + 0.5 * each.shape[-1])
        for each in (before_rb, now_rb)
    )
    total: NDArray[np.float64] = ((q - p) * np.log(q / p)).sum(-1)
    return total


class ByChance(NamedTuple):
    """What chance alone does: the p-value of what was found, and what it seldom exceeds."""

    p: float
    limit: float


def psi_by_chance(
    before_b: Counts, now_b: Counts, alpha: float, rng: np.random.Generator
) -> ByChance:
    """How large a PSI chance alone gives, when both samples come from one distribution.

    Both are drawn again and again from the shares of both together. For full bins the PSI follows
    (1/n + 1/m) chi^2 with a degree of freedom less than there are bins [yurdakul2018]; drawing holds
    for sparse bins, too.

    Args:
        before_b: Counts in each bin.
        now_b: Counts in the same bins.
        alpha: The limit is exceeded by chance this often.
        rng: Draws.
    """
    both = before_b + now_b
    # A bin that neither has stays empty in every draw.
    used = both > 0
    shares = both[used] / both.sum()
    draws = _psis(
        *(_widened(rng.multinomial(each.sum(), shares, DRAWS), used) for each in (before_b, now_b))
    )
    found = psi(before_b, now_b)
    p = (1 + int((draws >= found - 1e-12).sum())) / (1 + DRAWS)
    return ByChance(p, float(np.quantile(draws, 1 - alpha)))


def _widened(draws_rb: NDArray[np.int64], used: NDArray[np.bool_]) -> NDArray[np.int64]:
    whole = np.zeros((len(draws_rb), len(used)), np.int64)
    whole[:, used] = draws_rb
    return whole


def ks(before_b: Counts, now_b: Counts) -> tuple[float, float]:
    """The two-sample Kolmogorov-Smirnov statistic of two histograms, and its asymptotic p-value.

    The distribution functions are known at the edges alone, so the statistic is at most that of the
    values themselves, and the p-value at least theirs.

    Args:
        before_b: Counts in each bin.
        now_b: Counts in the same bins.
    """
    n, m = int(before_b.sum()), int(now_b.sum())
    distance = float(np.abs(np.cumsum(before_b) / n - np.cumsum(now_b) / m).max())
    return distance, kolmogorov(distance * math.sqrt(n * m / (n + m)))


def kolmogorov(x: float) -> float:
    """That the supremum of a Brownian bridge's absolute value exceeds x >= 0 [kolmogorov1933]."""
    if x < 0.2:
        return 1.0  # to more than ten digits; the series would need many terms
    terms = (math.exp(-2 * k * k * x * x) * (1 if k % 2 else -1) for k in range(1, 40))
    return min(1.0, max(0.0, 2 * sum(terms)))


def mmd2(
    before_nd: Floats, now_md: Floats, alpha: float, rng: np.random.Generator
) -> tuple[float, ByChance]:
    """The squared maximum mean discrepancy, without bias, and what chance gives [gretton2012].

    The kernel is exp(-|x - y|^2 / (2 s^2)), s the median distance of all pairs, as is usual there.
    For chance the rows are dealt anew, again and again. The value lies near 0 for equal
    distributions, and may be below; it approaches 2 for what has nothing in common.

    Args:
        before_nd: Vectors, at least two.
        now_md: Vectors of the same dimension, at least two.
        alpha: The limit is exceeded by chance this often.
        rng: Deals.
    """
    n, m = len(before_nd), len(now_md)
    rows = np.concatenate([before_nd, now_md]).astype(np.float64)
    # From one row's point of view, so that large equal parts of all rows do not cost digits.
    rows -= rows.mean(0)
    square = np.square(rows).sum(1)
    distances = np.maximum(square[:, None] + square[None, :] - 2 * rows @ rows.T, 0)
    spread = float(np.median(distances[np.triu_indices(n + m, 1)]))
    if spread <= 0:
        spread = float(distances.mean()) or 1.0
    kernel = np.exp(-distances / (2 * spread)).astype(np.float32)
    np.fill_diagonal(kernel, 0)
    total, sums = float(kernel.sum(dtype=np.float64)), kernel.sum(1, dtype=np.float64)

    def of(chosen_rn: NDArray[np.float32]) -> NDArray[np.float64]:
        """For each row of 0 and 1: 1 deals an image to the first sample."""
        first = ((chosen_rn @ kernel) * chosen_rn).sum(1, dtype=np.float64)
        across = chosen_rn @ sums - first
        second = total - first - 2 * across
        found: NDArray[np.float64] = (
            first / (n * (n - 1)) + second / (m * (m - 1)) - 2 * across / (n * m)
        )
        return found

    mine = np.zeros((1, n + m), np.float32)
    mine[0, :n] = 1
    value = float(of(mine)[0])
    dealt = []
    for start in range(0, PERMUTATIONS, 1000):
        block = np.repeat(mine, min(1000, PERMUTATIONS - start), axis=0)
        dealt.append(of(rng.permuted(block, axis=1)))
    draws = np.concatenate(dealt)
    p = (1 + int((draws >= value - 1e-9).sum())) / (1 + PERMUTATIONS)
    return value, ByChance(p, float(np.quantile(draws, 1 - alpha)))


def corrected(p_values: Sequence[float]) -> list[float]:
    """p-values that hold for all comparisons together [holm1979]."""
    order = np.argsort(p_values)
    found = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        found[index] = highest
    return found


# --- Comparing ----------------------------------------------------------------------------------


def compare(
    manifest: Manifest,
    baseline: Baseline,
    seen: Seen,
    thresholds: Thresholds | None = None,
    ignored: Iterable[str] = (),
) -> DriftReport:
    """Compares what was seen with a version's baseline.

    Args:
        manifest: The version's.
        baseline: Its own.
        seen: What came.
        thresholds: What is asked.
        ignored: Statistics to leave out.

    Raises:
        UsageError: a statistic to leave out that there is not; names those there are.
    """
    asked = thresholds or Thresholds()
    names = (*baseline.histograms, CLASS, *baseline.embeddings)
    left_out = tuple(dict.fromkeys(ignored))
    for name in left_out:
        if name not in names:
            raise UsageError(unknown("statistic", name, names))
    findings = []
    # One stream of random numbers, so that the same data give the same report.
    rng = np.random.default_rng(0)
    for name, histogram in baseline.histograms.items():
        before, now = np.array(histogram.counts), seen.counts.get(name)
        if name not in left_out and now is not None and now.sum() and before.sum():
            findings.append(_numeric(name, before, now, histogram.edges, asked, rng))
    classes = np.array(baseline.classes)
    if CLASS not in left_out and seen.classes.sum() and classes.sum():
        findings.append(_classes(classes, seen.classes, manifest.labels, asked, rng))
    for name, rows in baseline.embeddings.items():
        before_nd = rows.array()
        now_md = seen.embeddings.get(name, before_nd[:0])
        is_same = before_nd.shape[1:] == now_md.shape[1:]
        if name not in left_out and is_same and min(len(before_nd), len(now_md)) >= 2:
            findings.append(_vectors(name, before_nd, now_md, asked, rng))
    judged = _judged(findings, asked)
    return DriftReport(
        model=manifest.model,
        version=manifest.version,
        source=seen.source,
        images=seen.images,
        windows=seen.windows,
        began=seen.began,
        ended=seen.ended,
        outcome=_outcome(judged, seen.images),
        thresholds=asked,
        ignored=left_out,
        findings=judged,
        movers=_movers(classes, seen.classes, manifest.labels),
    )


def _numeric(
    name: str,
    before_b: Counts,
    now_b: Counts,
    edges: tuple[float, ...],
    asked: Thresholds,
    rng: np.random.Generator,
) -> Finding:
    distance, ks_p = ks(before_b, now_b)
    return _counted(name, before_b, now_b, asked, rng, ks=distance, ks_p=ks_p, edges=edges)


def _classes(
    before_k: Counts,
    now_k: Counts,
    labels: tuple[str, ...],
    asked: Thresholds,
    rng: np.random.Generator,
) -> Finding:
    groups = group(before_k)
    before_b, now_b = (
        np.array([each[first:last].sum() for first, last in groups]) for each in (before_k, now_k)
    )
    named = tuple(
        labels[first] if last == first + 1 else f"{labels[first]} ... {labels[last - 1]}"
        for first, last in groups
    )
    return _counted(CLASS, before_b, now_b, asked, rng, groups=named)


def _counted(
    name: str,
    before_b: Counts,
    now_b: Counts,
    asked: Thresholds,
    rng: np.random.Generator,
    **more: Any,
) -> Finding:
    """What is told of any histogram."""
    chance = psi_by_chance(before_b, now_b, asked.alpha, rng)
    return Finding(
        name=name,
        measure="PSI",
        before_images=int(before_b.sum()),
        now_images=int(now_b.sum()),
        value=psi(before_b, now_b),
        by_chance=chance.limit,
        p=chance.p,
        before=_shares(before_b),
        now=_shares(now_b),
        **more,
    )


def group(before_k: Counts) -> list[tuple[int, int]]:
    """Spans (first, after the last) of classes: each alone, or many in about 20 equal shares.

    With a thousand classes nearly every bin would be empty, and the PSI would tell of chance alone.
    """
    if len(before_k) <= MOST_CLASSES:
        return [(k, k + 1) for k in range(len(before_k))]
    spans, first, held = [], 0, 0.0
    wanted = (float(before_k.sum()) + 0.5 * len(before_k)) / MOST_CLASSES
    for k, number in enumerate(before_k):
        held += float(number) + 0.5
        if held >= wanted - 1e-9:
            spans.append((first, k + 1))
            first, held = k + 1, 0.0
    if first < len(before_k):
        spans.append((first, len(before_k)))
    return spans


def _vectors(
    name: str,
    before_nd: Floats,
    now_md: Floats,
    asked: Thresholds,
    rng: np.random.Generator,
) -> Finding:
    value, chance = mmd2(before_nd, now_md, asked.alpha, rng)
    return Finding(
        name=name,
        measure="MMD2",
        before_images=len(before_nd),
        now_images=len(now_md),
        value=value,
        by_chance=chance.limit,
        p=chance.p,
    )


def _shares(counts: Counts) -> tuple[float, ...]:
    return tuple(float(each) for each in counts / counts.sum())


def _judged(findings: list[Finding], asked: Thresholds) -> tuple[Finding, ...]:
    """The findings with corrected p-values and verdicts."""
    raw = [[each.p] + ([] if each.ks_p is None else [each.ks_p]) for each in findings]
    flat = iter(corrected([p for values in raw for p in values]))
    judged = []
    for each, values in zip(findings, raw, strict=True):
        p = min(next(flat) for _ in values)
        judged.append(
            each.model_copy(update={"corrected_p": p, "verdict": _verdict(each, p, asked)})
        )
    return tuple(judged)


def _verdict(found: Finding, p: float, asked: Thresholds) -> Verdict:
    warn, alarm = (
        (asked.psi_warn, asked.psi_alarm)
        if found.measure == "PSI"
        else (asked.mmd_warn, asked.mmd_alarm)
    )
    is_change = p < asked.alpha
    if found.value >= alarm:
        return "alarm" if is_change else "unclear"
    if found.by_chance >= alarm:
        return "unclear"
    return "warn" if found.value >= warn and is_change else "ok"


def _outcome(findings: Sequence[Finding], images: int) -> Outcome:
    verdicts = {each.verdict for each in findings}
    if "alarm" in verdicts:
        return "alarm"
    # Few images with a size among many tensors do not make all of it unclear.
    unclear = [
        each
        for each in findings
        if each.verdict == "unclear" and (each.name not in SIZES or 2 * each.now_images >= images)
    ]
    if unclear or not findings:
        return "inconclusive"
    return "warn" if "warn" in verdicts else "ok"


def heading(report: DriftReport) -> str:
    """One line: which version, how many images, from where, when."""
    span = ""
    if report.began is not None and report.ended is not None:
        span = f", {report.began:%Y-%m-%d %H:%M} to {report.ended:%Y-%m-%d %H:%M} UTC"
    return (
        f"{report.model} version {report.version}, {report.images:,} images of "
        f"{report.source}{span}: {report.outcome}"
    )


def images_needed(report: DriftReport) -> int | None:
    """About how many images would make the unclear clear; None where the baseline is too small.

    What chance alone gives falls with 1/n + 1/m.
    """
    most = 0
    for each in report.findings:
        if each.verdict != "unclear":
            continue
        asked = report.thresholds
        alarm = asked.psi_alarm if each.measure == "PSI" else asked.mmd_alarm
        before, now = 1 / each.before_images, 1 / each.now_images
        # A change above the alarm that may be chance has a limit near itself.
        left = (before + now) * alarm / max(each.by_chance, alarm * 1.01) - before
        if left <= 0:
            return None
        most = max(most, math.ceil(1.2 / left * report.images / each.now_images))
    # Two digits are all that such an estimate is good for.
    unit = int(10 ** max(0, len(str(most)) - 2))
    return math.ceil(most / unit) * unit


def _movers(before_k: Counts, now_k: Counts, labels: tuple[str, ...]) -> tuple[Mover, ...]:
    if not before_k.sum() or not now_k.sum():
        return ()
    before, now = before_k / before_k.sum(), now_k / now_k.sum()
    order = np.argsort(-np.abs(now - before), kind="stable")[:MOVERS]
    return tuple(
        Mover(label=labels[k], before=float(before[k]), now=float(now[k]))
        for k in order
        if before[k] != now[k]
    )


# --- From a log ---------------------------------------------------------------------------------


def read_version(version: Path) -> tuple[Manifest, Baseline, str]:
    """A version's manifest, its baseline, and the SHA-256 of the baseline's file.

    Raises:
        CorruptVersionError: it cannot be read.
        DataError: it has no baseline.
    """
    manifest = read_manifest(version)
    found = read_baseline(version)
    if found is None:
        why = (
            "its run was made before there was one. Train and publish it again."
            if manifest.origin is None
            else "it was published without images. `convzoo publish --images FOLDER` gives one."
        )
        raise DataError(
            f"Version {manifest.version} of {manifest.model!r} has no baseline of drift: {why}"
        )
    return manifest, *found


def read_log(
    log: Path,
    manifest: Manifest,
    baseline: Baseline,
    baseline_sha256: str,
    since: datetime | None = None,
) -> Seen:
    """What the servers that write into a log saw of a version.

    Args:
        log: The folder that `convzoo serve --drift-log` writes into.
        manifest: The version's.
        baseline: Its own.
        baseline_sha256: The hash of its file.
        since: Windows that ended before are left out.

    Raises:
        DataError: there is no such folder, or a window is damaged or counts into another
            baseline's bins.
    """
    if not log.is_dir():
        raise DataError(f"There is no folder {log}; `convzoo serve --drift-log {log}` writes one.")
    windows = [
        window
        for path in window_files(log, manifest.model, manifest.version)
        if not path.name.startswith(".")
        for window in [_checked(read_window(path), path, baseline, baseline_sha256)]
        if since is None or window.ended >= since
    ]
    counts = {
        name: np.zeros(len(each.counts), np.int64) for name, each in baseline.histograms.items()
    }
    classes = np.zeros(len(baseline.classes), np.int64)
    for window in windows:
        classes += np.array(window.classes, np.int64)
        for name in counts:
            counts[name] += np.array(window.counts[name], np.int64)
    return Seen(
        source=str(log),
        images=sum(window.images for window in windows),
        counts=counts,
        classes=classes,
        embeddings=_pooled(windows),
        windows=len(windows),
        began=min((window.began for window in windows), default=None),
        ended=max((window.ended for window in windows), default=None),
    )


def _checked(window: Window, path: Path, baseline: Baseline, sha256: str) -> Window:
    if window.baseline != sha256:
        raise DataError(
            f"{path} counts into the bins of another baseline ({window.baseline[:12]}, not "
            f"{sha256[:12]}): the version was published again under its number, or the log is "
            "another's."
        )
    fits = len(window.classes) == len(baseline.classes) and all(
        len(window.counts.get(name, ())) == len(each.counts)
        for name, each in baseline.histograms.items()
    )
    if not fits:
        raise DataError(f"{path} is damaged: its counts do not fit its baseline's bins.")
    return window


def _pooled(windows: Sequence[Window]) -> dict[str, Floats]:
    """Vectors of all windows, of each about as many as it has a share in all images."""
    total = sum(window.images for window in windows)
    rng = np.random.default_rng(0)
    found: dict[str, list[Floats]] = {}
    for window in windows:
        wanted = window.images / total * MOST_ROWS
        # Less than one row a window is a row in some of the windows.
        rows = int(wanted) + int(rng.random() < wanted % 1)
        for name, each in window.embeddings.items():
            array = each.array()
            found.setdefault(name, []).append(array[rng.permutation(len(array))[:rows]])
    return {
        name: np.concatenate(arrays)
        for name, arrays in found.items()
        if len({each.shape[1] for each in arrays}) == 1
    }
