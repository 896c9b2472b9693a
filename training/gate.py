"""Is a candidate good enough to take the place of what is in production?

Candidate and baseline answer for the same images, as their engines serve them; differences are
judged by their paired intervals, so each gate can pass, fail, or say that the data do not tell.
"""

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from training import measure
from training.corruptions import CHANGES
from training.data import sources
from training.data.dataset import Images
from training.data.sources import Source
from training.data.store import store
from training.evaluate import calibration_error, log_softmax, proportion
from training.statistics import (
    Outcome,
    mcnemar,
    not_above,
    not_worse,
    paired_difference,
    worst,
)
from training.verify import DefaultEngine, differences
from zoo.artifact import MANIFEST, Manifest, file_sha256, read_golden, read_manifest
from zoo.errors import ArtifactError, DataError, ParityError, UsageError
from zoo.frozen import Frozen
from zoo.preprocess import Floats
from zoo.versions import check_version

Fraction = Annotated[float, Field(ge=0, le=1)]


class Gates(Frozen):
    """What is asked of a candidate. Margins are fractions; None leaves a gate out.

    Attributes:
        accuracy_drop: Against the baseline.
        least_accuracy: Whatever the baseline does; the only accuracy gate of a first version.
        class_drop: Recall of any one class, against the baseline.
        least_recall: Recall of every class.
        most_calibration_error: Expected calibration error.
        robustness_drop: Mean accuracy over small changes of the images, against the baseline.
        most_latency_ratio: Median time of one image, against the baseline.
        most_latency_ms: Median time of one image.
        most_bytes: All files of the version.
        server: Start a server on the candidate and ask it.
    """

    accuracy_drop: Fraction | None = 0.005
    least_accuracy: Fraction | None = None
    class_drop: Fraction | None = 0.1
    least_recall: Fraction | None = None
    most_calibration_error: Fraction | None = None
    robustness_drop: Fraction | None = 0.02
    most_latency_ratio: Annotated[float, Field(gt=0)] | None = 1.5
    most_latency_ms: Annotated[float, Field(gt=0)] | None = None
    most_bytes: Annotated[int, Field(gt=0)] | None = None
    server: bool = True


class GateResult(Frozen):
    """One gate.

    Attributes:
        found: What was measured, in words with figures.
        asked: What was asked.
    """

    name: str
    outcome: Outcome
    found: str
    asked: str


class GateReport(Frozen):
    """All gates of a candidate; the overall outcome is the worst of them."""

    model: str
    version: int
    against: int | None
    data: str
    images: int
    outcome: Outcome
    manifest_sha256: str
    gates: tuple[GateResult, ...]
    seconds: float = Field(ge=0)


def judge(
    candidate: Path,
    baseline: Path | None,
    source: Source,
    gates: Gates | None = None,
    talk: Callable[[str], None] = lambda _: None,
) -> GateReport:
    """Runs all gates.

    Args:
        candidate: A version's folder.
        baseline: The version in production; None for a first one.
        source: Its test part is what both are measured on.
        gates: What is asked.
        talk: Takes one line a stage.

    Raises:
        ParityError: the candidate is not what was published, or an engine does not give its golden
            answers; nothing else is worth measuring then.
        DataError: the source cannot be read, or has other classes.
    """
    started = time.monotonic()
    asked = gates or Gates()
    talk("Files, engines and golden records")
    check_version(candidate)
    gaps = differences(candidate)
    manifest = read_manifest(candidate)
    results = [
        GateResult(
            name="parity",
            outcome="pass",
            found=", ".join(f"{engine} {gap:.1e}" for engine, gap in gaps.items()),
            asked="every file as its manifest says, golden logits within each engine's tolerance",
        )
    ]
    talk("Answers")
    versions = [manifest]
    if baseline is not None:
        check_version(baseline)
        versions.append(read_manifest(baseline))
    (images, *others), name = _images(versions, source)
    mine = _Answers(candidate, manifest, images)
    theirs = None
    if baseline is not None:
        theirs = _Answers(baseline, versions[1], others[0], manifest.labels)
    results += _accuracy(mine, theirs, asked)
    results += _classes(mine, theirs, asked)
    results += _calibration(mine, asked)
    talk("Robustness")
    results += _robustness(mine, theirs, asked)
    talk("Latency and size")
    results += _latency(mine, theirs, asked)
    results += _size(manifest, asked)
    if asked.server:
        talk("A server on the candidate")
        results.append(_server(candidate, manifest))
    return GateReport(
        model=manifest.model,
        version=manifest.version,
        against=None if baseline is None else int(baseline.name),
        data=name,
        images=len(images),
        outcome=worst([each.outcome for each in results]),
        manifest_sha256=file_sha256(candidate / MANIFEST),
        gates=tuple(results),
        seconds=round(time.monotonic() - started, 3),
    )


class _Answers:
    """A version's answers for the images, in the candidate's order of classes."""

    def __init__(
        self,
        version: Path,
        manifest: Manifest,
        images: Images,
        labels: tuple[str, ...] | None = None,
    ) -> None:
        from zoo.artifact import read_preprocessing_arrays

        self.manifest = manifest
        self.images = images
        self._arrays = read_preprocessing_arrays(version)
        self.engine = DefaultEngine(version, manifest)
        self._order: NDArray[np.int64] | None = None
        if labels is not None and labels != manifest.labels:
            if sorted(labels) != sorted(manifest.labels):
                raise DataError(
                    f"The baseline knows {', '.join(manifest.labels)}, the candidate "
                    f"{', '.join(labels)}: they cannot be compared."
                )
            self._order = np.array([manifest.labels.index(label) for label in labels])
        self.logits_nk = self.answer(images.pixels_nhwc)
        self.right: NDArray[np.bool_] = self.logits_nk.argmax(-1) == images.class_ids

    def inputs(self, pixels_nhwc: Any) -> Floats:
        return self.manifest.preprocessing.to_input(pixels_nhwc, self._arrays)

    def answer(self, pixels_nhwc: Any) -> Floats:
        logits: Floats = self.engine(self.inputs(pixels_nhwc))
        return logits if self._order is None else logits[:, self._order]


def _images(versions: Sequence[Manifest], source: Source) -> tuple[list[Images], str]:
    """The test part as each version is served it: the same images, in the first one's classes.

    An image that one of them cannot take, where such are left out, is left out for all.
    """
    dataset = measure.with_labels(source.load(), versions[0].labels, "the data")
    found: dict[str, tuple[Images, tuple[str, ...]]] = {}
    keys = []
    for manifest in versions:
        # What comes after the pixels does not change them, and is each version's own anyway.
        pixels = manifest.preprocessing.model_copy(update={"input_steps": ()})
        keys.append(key := pixels.model_dump_json())
        if key not in found:
            stored = store(dataset, pixels, on_corrupt=source.on_corrupt)
            found[key] = stored.dataset.test, stored.seen["test"].names
    taken = set.intersection(*(set(names) for _, names in found.values()))
    shared = {
        key: images
        if len(images) == len(taken)
        else images.take(np.array([name in taken for name in names]))
        for key, (images, names) in found.items()
    }
    return [shared[key] for key in keys], dataset.name


def _accuracy(mine: _Answers, theirs: _Answers | None, asked: Gates) -> list[GateResult]:
    found = proportion(int(mine.right.sum()), len(mine.right))
    words = f"{found.value:.2%} ({found.low:.2%} to {found.high:.2%})"
    results = []
    if asked.least_accuracy is not None:
        low, high = found.low or 0.0, found.high or 1.0
        outcome: Outcome = (
            "pass"
            if low >= asked.least_accuracy
            else "fail"
            if high < asked.least_accuracy
            else "inconclusive"
        )
        results.append(
            GateResult(
                name="accuracy",
                outcome=outcome,
                found=words,
                asked=f"at least {asked.least_accuracy:.2%}",
            )
        )
    if theirs is not None and asked.accuracy_drop is not None:
        change = paired_difference(mine.right.astype(float), theirs.right.astype(float))
        p = mcnemar(mine.right, theirs.right)
        results.append(
            GateResult(
                name="accuracy against the baseline",
                outcome=not_worse(change, asked.accuracy_drop),
                found=f"{words}, {change.value:+.2%} ({change.low:+.2%} to {change.high:+.2%}), "
                f"McNemar p = {p:.3g}",
                asked=f"no more than {asked.accuracy_drop:.2%} worse",
            )
        )
    return results


def _classes(mine: _Answers, theirs: _Answers | None, asked: Gates) -> list[GateResult]:
    results = []
    ids = mine.images.class_ids
    for class_id, label in enumerate(mine.manifest.labels):
        of_class = ids == class_id
        if not of_class.any():
            continue
        right = mine.right[of_class]
        if asked.least_recall is not None:
            found = proportion(int(right.sum()), len(right))
            if (found.high or 1.0) < asked.least_recall:
                results.append(
                    GateResult(
                        name=f"recall of {label}",
                        outcome="fail",
                        found=f"{found.value:.2%}, at most {found.high:.2%}",
                        asked=f"at least {asked.least_recall:.2%}",
                    )
                )
        if theirs is not None and asked.class_drop is not None:
            change = paired_difference(right.astype(float), theirs.right[of_class].astype(float))
            if change.high < -asked.class_drop:
                results.append(
                    GateResult(
                        name=f"recall of {label} against the baseline",
                        outcome="fail",
                        found=f"{change.value:+.2%} ({change.low:+.2%} to {change.high:+.2%})",
                        asked=f"no more than {asked.class_drop:.2%} worse",
                    )
                )
    if not results and (asked.least_recall is not None or theirs is not None):
        results.append(
            GateResult(
                name="classes",
                outcome="pass",
                found="no class is shown to have fallen too far",
                asked="no class below its floor, with 95 % confidence",
            )
        )
    return results


def _calibration(mine: _Answers, asked: Gates) -> list[GateResult]:
    if asked.most_calibration_error is None:
        return []
    from training.evaluate import bootstrap

    confidence = np.exp(log_softmax(mine.logits_nk).max(-1))
    metric = bootstrap(
        lambda rows: calibration_error(confidence[rows], mine.right[rows]), len(mine.right)
    )
    low, high = metric.low or 0.0, metric.high or 1.0
    return [
        GateResult(
            name="calibration error",
            outcome=not_above(metric.value, low, high, asked.most_calibration_error),
            found=f"{metric.value:.2%} ({low:.2%} to {high:.2%})",
            asked=f"at most {asked.most_calibration_error:.2%}",
        )
    ]


def _right_when_changed(answers: _Answers, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of changes under which each image is answered right, at the version's own size."""
    some = answers.images.take(rows)
    rng = np.random.default_rng(0)
    share = np.zeros(len(some))
    for change, strengths in CHANGES.values():
        changed = np.stack([change(each, strengths[-1], rng) for each in some.pixels_nhwc])
        share += (answers.answer(changed).argmax(-1) == some.class_ids) / len(CHANGES)
    return share


def _robustness(mine: _Answers, theirs: _Answers | None, asked: Gates) -> list[GateResult]:
    if theirs is None or asked.robustness_drop is None:
        return []
    rows = np.linspace(0, len(mine.images) - 1, min(500, len(mine.images))).astype(int)
    gaps, baseline = (_right_when_changed(each, np.unique(rows)) for each in (mine, theirs))
    difference = paired_difference(gaps, baseline)
    return [
        GateResult(
            name="robustness against the baseline",
            outcome=not_worse(difference, asked.robustness_drop),
            found=f"{gaps.mean():.2%} right over {', '.join(CHANGES)}; {difference.value:+.2%} "
            f"({difference.low:+.2%} to {difference.high:+.2%})",
            asked=f"no more than {asked.robustness_drop:.2%} worse",
        )
    ]


def _latency(mine: _Answers, theirs: _Answers | None, asked: Gates) -> list[GateResult]:
    """One image at a time, both versions in turns, so that a busy machine slows both."""
    if asked.most_latency_ms is None and (theirs is None or asked.most_latency_ratio is None):
        return []
    each_version = [mine] if theirs is None else [mine, theirs]
    inputs = [version.inputs(version.images.pixels_nhwc[:1]) for version in each_version]
    compiled = [version.engine.compiled() for version in each_version]
    rounds: list[list[float]] = [[] for _ in each_version]
    for _ in range(30):
        for times, run, x in zip(rounds, compiled, inputs, strict=True):
            started = time.perf_counter()
            for _ in range(5):
                run({"image": x})
            times.append((time.perf_counter() - started) / 5 * 1000)
    results = []
    milliseconds = float(np.median(rounds[0]))
    if asked.most_latency_ms is not None:
        low, high = np.quantile(rounds[0], [0.25, 0.75])
        results.append(
            GateResult(
                name="latency",
                outcome=not_above(milliseconds, low, high, asked.most_latency_ms),
                found=f"{milliseconds:.2f} ms (quartiles {low:.2f} to {high:.2f})",
                asked=f"at most {asked.most_latency_ms:.2f} ms",
            )
        )
    if theirs is not None and asked.most_latency_ratio is not None:
        ratios = np.array(rounds[0]) / np.array(rounds[1])
        rng = np.random.default_rng(0)
        medians = np.median(ratios[rng.integers(0, len(ratios), (500, len(ratios)))], axis=1)
        low, high = np.quantile(medians, [0.025, 0.975])
        results.append(
            GateResult(
                name="latency against the baseline",
                outcome=not_above(float(np.median(ratios)), low, high, asked.most_latency_ratio),
                found=f"{milliseconds:.2f} ms, {np.median(ratios):.2f} times "
                f"({low:.2f} to {high:.2f})",
                asked=f"at most {asked.most_latency_ratio:.2f} times",
            )
        )
    return results


def _size(manifest: Manifest, asked: Gates) -> list[GateResult]:
    if asked.most_bytes is None:
        return []
    size = sum(each.bytes for each in manifest.files.values())
    return [
        GateResult(
            name="size",
            outcome="pass" if size <= asked.most_bytes else "fail",
            found=f"{size:,} bytes",
            asked=f"at most {asked.most_bytes:,} bytes",
        )
    ]


def _server(candidate: Path, manifest: Manifest) -> GateResult:
    """Starts `convzoo serve` on the candidate alone and compares its answers with the golden ones."""
    inputs, golden = read_golden(candidate)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "models"
        (base / manifest.model).mkdir(parents=True)
        (base / manifest.model / candidate.name).symlink_to(candidate.resolve())
        ready = Path(scratch) / "ready.json"
        with subprocess.Popen(  # noqa: S603 - this interpreter, our own command
            [
                *(sys.executable, "-m", "zoo.command", "serve", "--base-path", str(base)),
                *("--rest-port", "0", "--grpc-port", "0", "--ready-file", str(ready)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                port = _wait_for_port(process, ready)
                found = _ask(port, manifest.model, inputs["image"])
            finally:
                process.terminate()
                process.wait(timeout=30)
    gap = float(np.abs(found - golden["probabilities"]).max())
    tolerance = 10 * manifest.engines[manifest.default_engine].tolerance
    return GateResult(
        name="server",
        outcome="pass" if gap <= tolerance else "fail",
        found=f"answered {len(found)} golden images over REST, probabilities within {gap:.1e}",
        asked=f"answers, within {tolerance:.1e} of the golden probabilities",
    )


def _wait_for_port(process: "subprocess.Popen[str]", ready: Path, limit_s: float = 120) -> int:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if ready.is_file():
            return int(json.loads(ready.read_bytes())["rest_port"])
        if process.poll() is not None:
            told = (process.stderr.read() if process.stderr else "").strip().splitlines()
            raise ArtifactError(
                f"The server ended with code {process.returncode}: {told[-1:] or ''}"
            )
        time.sleep(0.05)
    raise ArtifactError(f"The server was not ready within {limit_s:.0f} s.")


def _ask(port: int, model: str, image: Floats) -> Floats:
    body = json.dumps({"instances": image.tolist()}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/models/{model}:predict",
        body,
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310
            answer: Floats = np.asarray(json.load(reply)["predictions"], np.float32)
            return answer
    except urllib.error.HTTPError as error:
        raise ParityError(f"The server refused golden images: {error.read().decode()}") from error


# --- Reports


def to_markdown(report: GateReport) -> str:
    """A table for a job's summary page."""
    marks = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}
    against = "no earlier version" if report.against is None else f"version {report.against}"
    lines = [
        f"## {marks[report.outcome]} {report.model} version {report.version}: {report.outcome}",
        "",
        f"Against {against}, on {report.images:,} images of {report.data}.",
        "",
        "| | gate | found | asked |",
        "|---|---|---|---|",
        *(
            f"| {marks[each.outcome]} | {each.name} | {each.found} | {each.asked} |"
            for each in report.gates
        ),
    ]
    return "\n".join(lines) + "\n"


def to_junit(report: GateReport) -> str:
    """The report as JUnit XML, which CI systems show as tests."""
    failed = [each for each in report.gates if each.outcome == "fail"]
    skipped = [each for each in report.gates if each.outcome == "inconclusive"]
    suite = ET.Element(
        "testsuite",
        name=f"gates of {report.model} version {report.version}",
        tests=str(len(report.gates)),
        failures=str(len(failed)),
        skipped=str(len(skipped)),
        time=f"{report.seconds:.3f}",
    )
    for each in report.gates:
        case = ET.SubElement(suite, "testcase", classname=f"gate.{report.model}", name=each.name)
        words = f"found {each.found}; asked {each.asked}"
        if each.outcome == "fail":
            ET.SubElement(case, "failure", message=words)
        elif each.outcome == "inconclusive":
            ET.SubElement(case, "skipped", message=f"inconclusive: {words}")
        else:
            ET.SubElement(case, "system-out").text = words
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def find_source(manifest: Manifest, given: str | None, data_dir: Path | None) -> Source:
    """The data that a version is judged on: what was given, else what its recipe names.

    Raises:
        UsageError: the recipe's source needs a folder, or there is no recipe, and nothing was given.
    """
    if given is not None:
        return sources.find(given)
    if "data" not in manifest.recipe:
        raise UsageError(
            f"Version {manifest.version} of {manifest.model!r} was not trained here, so no recipe "
            "says what it is measured on; --data SOURCE does."
        )
    plain: dict[str, Any] = dict(manifest.recipe["data"])
    if data_dir is not None:
        plain["data_dir"] = str(data_dir)
    elif plain["source"] not in sources.WITHOUT_PATH:
        raise UsageError(
            f"The recipe's data is {plain['source']!r} from a folder that is not recorded; "
            "name it with --data-dir, or other data with --data."
        )
    found: Source = sources.SOURCES[plain["source"]].model_validate(plain)
    return found


def names_of(results: Sequence[GateResult], outcome: Outcome) -> str:
    """The names of the gates with an outcome."""
    return ", ".join(each.name for each in results if each.outcome == outcome)
