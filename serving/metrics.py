"""What the server counts and times, for Prometheus.

Labels are bounded: models are those of the repository (anything else counts as "unknown"), codes
are the canonical ones.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from serving.messages import Timings

# From 50 us, where LeNet-5 lies, to 10 s, where nobody waits any more.
BUCKETS = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

UNKNOWN = "unknown"


class Metrics:
    """One registry; no state is shared between servers in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "convzoo_requests_total",
            "Requests answered, by model, version, kind and canonical code.",
            ("model", "version", "kind", "code"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "convzoo_stage_seconds",
            "Where the time of a request went: decode, queue, execute.",
            ("model", "version", "stage"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._images = Counter(
            "convzoo_rows_total",
            "Rows (images) answered, by model and version.",
            ("model", "version"),
            registry=self._registry,
        )
        self._active = Gauge(
            "convzoo_requests_active", "Requests being answered.", registry=self._registry
        )

    def began(self) -> None:
        """A request has come."""
        self._active.inc()

    def ended(self) -> None:
        """A request has been answered, one way or the other."""
        self._active.dec()

    def answered(self, model: str, version: int, kind: str, rows: int, timings: Timings) -> None:
        """A request got its answer."""
        name = str(version)
        self._requests.labels(model, name, kind, "OK").inc()
        self._images.labels(model, name).inc(rows)
        for stage, seconds in (
            ("decode", timings.decode_s),
            ("queue", timings.queue_s),
            ("execute", timings.execute_s),
        ):
            if seconds:
                self._seconds.labels(model, name, stage).observe(seconds)

    def failed(self, model: str, kind: str, code: str) -> None:
        """A request got an error."""
        self._requests.labels(model, "", kind, code).inc()

    def render(self) -> tuple[bytes, str]:
        """The text that Prometheus reads, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
