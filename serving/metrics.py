"""What the server counts and times, for Prometheus.

Labels are bounded: models are those of the repository (anything else counts as "unknown"); codes,
protocols, kinds and outcomes are fixed words.
"""

from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from serving.journey import Journey

# From 50 us, where LeNet-5 lies, to 10 s, where nobody waits any more.
BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
STAGES = ("decode", "queue", "execute", "encode")

UNKNOWN = "unknown"

# TensorFlow Serving's bounds, in microseconds: 10 * 1.8 ** i.
TFS_BUCKETS = tuple(10 * 1.8**power for power in range(33))
# How TensorFlow Serving names what was asked, and through which door.
_TFS_API = {
    ("tfs_grpc", "predict"): ("Predict", "GRPC"),
    ("tfs_rest", "predict"): ("predict", "REST"),
}


class Metrics:
    """One registry; no state is shared between servers in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "convzoo_requests_total",
            "Requests answered, by model, version, protocol, kind, canonical code and outcome: "
            "direct, queued, joined, cached, shed, late or failed.",
            ("model", "version", "protocol", "kind", "code", "outcome"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "convzoo_stage_seconds",
            "Where the time of a request went: decode, queue, execute, encode.",
            ("model", "version", "protocol", "stage"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._rows = Counter(
            "convzoo_rows_total",
            "Rows (images) answered, by model and version.",
            ("model", "version"),
            registry=self._registry,
        )
        self._active = Gauge(
            "convzoo_requests_active", "Requests being answered.", registry=self._registry
        )
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
        # Looking a label set up costs more than counting in it.
        self._stages = lru_cache(4096)(self._stages_of)
        self._counter = lru_cache(4096)(self._requests.labels)
        self._row_counter = lru_cache(4096)(self._rows.labels)
        self._tfs = _TensorFlowServing()

    def _stages_of(self, model: str, version: str, protocol: str) -> tuple[Histogram, ...]:
        return tuple(self._seconds.labels(model, version, protocol, stage) for stage in STAGES)

    def began(self) -> None:
        """A request has come."""
        self._active.inc()

    def ended(self) -> None:
        """A request has been answered, one way or the other."""
        self._active.dec()

    def answered(self, journey: Journey) -> None:
        """A request got its answer from the service; it is not encoded yet."""
        version = str(journey.version)
        self._counter(
            journey.model, version, journey.protocol, journey.kind, "OK", str(journey.outcome)
        ).inc()
        self._row_counter(journey.model, version).inc(journey.rows)
        timings = journey.timings
        stages = self._stages(journey.model, version, journey.protocol)
        for stage, seconds in zip(
            stages, (timings.decode_s, timings.queue_s, timings.execute_s), strict=False
        ):
            if seconds:
                stage.observe(seconds)
        self._tfs.answered(journey)

    def encoded(self, journey: Journey, seconds: float) -> None:
        """An answer was written."""
        self._stages(journey.model, str(journey.version), journey.protocol)[3].observe(seconds)

    def failed(self, journey: Journey) -> None:
        """A request got an error."""
        self._counter(
            journey.model,
            str(journey.version or ""),
            journey.protocol,
            journey.kind,
            journey.code,
            str(journey.outcome),
        ).inc()
        self._tfs.failed(journey)

    def drift_images(self, model: str, version: int, outcome: str, images: int) -> None:
        """Images were drawn for the log of drift."""
        self._drift_images.labels(model, str(version), outcome).inc(images)

    def drift_windows(self, model: str, version: int, outcome: str) -> None:
        """A window of the log of drift was written, or could not be."""
        self._drift_windows.labels(model, str(version), outcome).inc()

    def render(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        return generate_latest(self._registry) + self._tfs.render(), CONTENT_TYPE_LATEST


class _TensorFlowServing:
    """The same under the names that TensorFlow Serving's dashboards ask for.

    They begin with a colon and its counters have no `_total`, which prometheus_client would add.
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._latencies: dict[tuple[str, str, str], list[float]] = {}

    def answered(self, journey: Journey) -> None:
        self._count(journey.model, "OK")
        named = _TFS_API.get((journey.protocol, journey.kind))
        if named is None:
            return
        micros = (journey.answered - journey.received) * 1e6
        key = (journey.model, *named)
        # One place a bucket, then the sum.
        histogram = self._latencies.setdefault(key, [0.0] * (len(TFS_BUCKETS) + 2))
        place = next((i for i, bound in enumerate(TFS_BUCKETS) if micros <= bound), -2)
        histogram[place] += 1
        histogram[-1] += micros

    def failed(self, journey: Journey) -> None:
        self._count(journey.model, journey.code)

    def _count(self, model: str, code: str) -> None:
        self._counts[model, code] = self._counts.get((model, code), 0) + 1

    def render(self) -> bytes:
        lines = ["# TYPE :tensorflow:serving:request_count counter"]
        lines += [
            f':tensorflow:serving:request_count{{model_name="{_text(model)}",status="{code}"}} {n}'
            for (model, code), n in sorted(self._counts.items())
        ]
        name = ":tensorflow:serving:request_latency"
        lines.append(f"# TYPE {name} histogram")
        for (model, api, door), histogram in sorted(self._latencies.items()):
            labels = f'model_name="{_text(model)}",API="{api}",entrypoint="{door}"'
            total = 0.0
            bounds = (*(f"{bound:g}" for bound in TFS_BUCKETS), "+Inf")
            for bound, count in zip(bounds, histogram[:-1], strict=True):
                total += count
                lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total:g}')
            lines.append(f"{name}_sum{{{labels}}} {histogram[-1]:.0f}")
            lines.append(f"{name}_count{{{labels}}} {total:g}")
        return ("\n".join(lines) + "\n").encode()


def _text(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
