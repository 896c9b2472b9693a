"""What the server counts and times, for Prometheus.

Labels are bounded: models are those of the repository (anything else counts as "unknown"); codes,
protocols, kinds and outcomes are fixed words.
"""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from serving.journey import Journey
from serving.messages import ModelStatus

# From 50 us, where LeNet-5 lies, to 10 s, where nobody waits any more.
BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
STAGES = ("decode", "queue", "execute", "encode")

UNKNOWN = "unknown"

# TensorFlow Serving's bounds, in microseconds: 10 * 1.8 ** i.
TFS_BUCKETS = tuple(10 * 1.8**power for power in range(33))
# TensorFlow Serving's words for the doors; through REST it has its methods in lower case.
_TFS_DOORS = {"tfs_grpc": "GRPC", "tfs_rest": "REST"}


class _Times:
    """A histogram: how many lie above one bound and not above the next, and their sum."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def cumulative(self, bounds: Iterable[str]) -> list[tuple[str, int]]:
        """How many lie at or below each bound; `bounds` are the words for them."""
        return list(zip((*bounds, "+Inf"), accumulate(self.counts), strict=True))


class _Series:
    """The requests of one model, version and protocol."""

    __slots__ = ("requests", "rows", "stages")

    def __init__(self) -> None:
        # By kind, code and outcome.
        self.requests: Counts[tuple[str, str, str]] = Counts()
        self.rows = 0
        self.stages = (_Times(BUCKETS), _Times(BUCKETS), _Times(BUCKETS), _Times(BUCKETS))


class Metrics:
    """One registry; no state is shared between servers in one process.

    What every request counts is counted in the event loop alone, so it is kept in plain numbers
    without locks, of which samples are made when somebody asks.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Requests(self))
        ProcessCollector(registry=self._registry)
        self.statuses: Callable[[], Iterable[ModelStatus]] = tuple
        self.queued: Callable[[], Iterable[tuple[str, int, int]]] = tuple
        self.series: dict[tuple[str, int, str], _Series] = {}
        # What TensorFlow Serving measures, by model, protocol and method, in microseconds.
        self.latencies: dict[tuple[str, str, str], _Times] = {}
        self.active = 0
        self._drift_images = Counter(
            "convzoo_drift_images_total",
            "Images drawn for the log of drift, by model, version and outcome: measured, dropped "
            "because too many waited, or failed.",
            ("model", "version", "outcome"),
            registry=self._registry,
        )
        self._drift_windows = Counter(
            "convzoo_drift_windows_total",
            "Windows of the log of drift, by model, version and outcome: written or failed.",
            ("model", "version", "outcome"),
            registry=self._registry,
        )

    def follow(
        self,
        statuses: Callable[[], Iterable[ModelStatus]],
        queued: Callable[[], Iterable[tuple[str, int, int]]],
    ) -> None:
        """Tells of versions, too.

        Args:
            statuses: All models.
            queued: Model, version and the rows that wait, of each version that serves.
        """
        self.statuses, self.queued = statuses, queued

    def _series_of(self, journey: Journey) -> _Series:
        key = (journey.model, journey.version, journey.protocol)
        found = self.series.get(key)
        if found is None:
            found = self.series[key] = _Series()
        return found

    def began(self) -> None:
        """A request has come."""
        self.active += 1

    def ended(self) -> None:
        """A request has been answered, one way or the other."""
        self.active -= 1

    def answered(self, journey: Journey) -> None:
        """A request got its answer from the service; it is not encoded yet."""
        journey.is_counted = True
        series = self._series_of(journey)
        series.requests[journey.kind, "OK", journey.outcome] += 1
        series.rows += journey.rows
        timings, (decode, queue, execute, _) = journey.timings, series.stages
        if timings.decode_s:
            decode.add(timings.decode_s)
        if timings.queue_s:
            queue.add(timings.queue_s)
        if timings.execute_s:
            execute.add(timings.execute_s)
        if journey.kind == "predict" and journey.protocol in _TFS_DOORS:
            key = (journey.model, journey.protocol, journey.method)
            if (times := self.latencies.get(key)) is None:
                times = self.latencies[key] = _Times(TFS_BUCKETS)
            times.add((journey.answered - journey.received) * 1e6)

    def encoded(self, journey: Journey, seconds: float) -> None:
        """An answer was written."""
        self._series_of(journey).stages[3].add(seconds)

    def failed(self, journey: Journey) -> None:
        """A request got an error."""
        journey.is_counted = True
        self._series_of(journey).requests[journey.kind, journey.code, journey.outcome] += 1

    def drift_images(self, model: str, version: int, outcome: str, images: int) -> None:
        """Images were drawn for the log of drift."""
        self._drift_images.labels(model, str(version), outcome).inc(images)

    def drift_windows(self, model: str, version: int, outcome: str) -> None:
        """A window of the log of drift was written, or could not be."""
        self._drift_windows.labels(model, str(version), outcome).inc()

    def render(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        text = "\n".join((*_as_tensorflow_serving(self), ""))
        return generate_latest(self._registry) + text.encode(), CONTENT_TYPE_LATEST


class _Requests(Collector):
    """Makes samples of what `Metrics` has counted."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Every family, with a sample for each set of labels that has been seen."""
        requests = CounterMetricFamily(
            "convzoo_requests_total",
            "Requests answered, by model, version, protocol, kind, canonical code and outcome: "
            "direct, queued, joined, cached, shed, late or failed.",
            labels=("model", "version", "protocol", "kind", "code", "outcome"),
        )
        seconds = HistogramMetricFamily(
            "convzoo_stage_seconds",
            "Where the time of a request went: decode, queue, execute, encode.",
            labels=("model", "version", "protocol", "stage"),
        )
        rows = CounterMetricFamily(
            "convzoo_rows_total",
            "Rows (images) answered, by model and version.",
            labels=("model", "version"),
        )
        bounds = [str(bound) for bound in BUCKETS]
        rows_of: Counts[tuple[str, str]] = Counts()
        for (model, number, protocol), series in self._metrics.series.items():
            version = str(number or "")
            for labels, count in series.requests.items():
                requests.add_metric((model, version, protocol, *labels), count)
            if not series.rows:
                continue
            rows_of[model, version] += series.rows
            for name, stage in zip(STAGES, series.stages, strict=True):
                place = (model, version, protocol, name)
                seconds.add_metric(place, stage.cumulative(bounds), stage.total)
        for one, count in rows_of.items():
            rows.add_metric(one, count)
        active = GaugeMetricFamily("convzoo_requests_active", "Requests being answered.")
        active.add_metric((), self._metrics.active)
        yield from (requests, seconds, rows, active)
        yield from self._versions()

    def _versions(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "convzoo_version_state",
            "1 for the state that a version is in, with the code of what it failed with or OK.",
            labels=("model", "version", "state", "code"),
        )
        for each in self._metrics.statuses():
            for found in each.versions:
                labels = (each.model, str(found.version), found.state.value, found.error_code)
                states.add_metric(labels, 1)
        queued = GaugeMetricFamily(
            "convzoo_queued_rows",
            "Rows (images) that wait for the engine, by model and version.",
            labels=("model", "version"),
        )
        for model, version, rows in self._metrics.queued():
            queued.add_metric((model, str(version)), rows)
        yield from (states, queued)


def _as_tensorflow_serving(metrics: Metrics) -> Iterator[str]:
    """The lines of the same under the names that TensorFlow Serving's dashboards ask for.

    They begin with a colon and its counters have no `_total`, which prometheus_client would add.
    """
    counts: Counts[tuple[str, str]] = Counts()
    for (model, _, _), series in metrics.series.items():
        for (_, code, _), count in series.requests.items():
            counts[model, code] += count
    name = ":tensorflow:serving:request_count"
    yield f"# TYPE {name} counter"
    for (model, code), count in sorted(counts.items()):
        yield f'{name}{{model_name="{_text(model)}",status="{code}"}} {count}'
    name = ":tensorflow:serving:request_latency"
    bounds = [f"{bound:g}" for bound in TFS_BUCKETS]
    yield f"# TYPE {name} histogram"
    for (model, protocol, method), times in sorted(
        metrics.latencies.items(), key=lambda each: each[0]
    ):
        door = _TFS_DOORS[protocol]
        api = method if door == "GRPC" else method.lower()
        labels = f'model_name="{_text(model)}",API="{api}",entrypoint="{door}"'
        for bound, below in times.cumulative(bounds):
            yield f'{name}_bucket{{{labels},le="{bound}"}} {below}'
        yield f"{name}_sum{{{labels}}} {times.total:.0f}"
        yield f"{name}_count{{{labels}}} {sum(times.counts)}"


def _text(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
