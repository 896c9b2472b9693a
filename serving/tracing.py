"""OpenTelemetry spans, where `convzoo[otel]` is installed and an endpoint is set.

A span of kind SERVER goes on from the caller's trace context (W3C `traceparent`), and has one child
a stage. They are made when the answer is out, from the times of the journey: nothing is traced
while a request is being answered.
"""

import time
from typing import Any

from serving.errors import ConfigError
from serving.journey import Journey


class OpenTelemetryTracer:
    """Sends spans to an OTLP endpoint, in batches, from a thread of its own.

    Args:
        endpoint: An OTLP/HTTP URL, e.g. "http://localhost:4318/v1/traces".
        provider: Where the spans go instead; for tests and for who embeds the server.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str | None, *, provider: Any = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            if provider is None:
                provider = _provider(endpoint)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"Tracing needs {error.name}, which is not installed: pip install 'convzoo[otel]'."
            ) from error
        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("convzoo")
        self._propagator = TraceContextTextMapPropagator()
        # Journeys lie on the monotonic clock, spans on the wall's.
        self._offset_s = time.clock_gettime(time.CLOCK_REALTIME) - time.monotonic()

    def finished(self, journey: Journey, ended: float) -> None:
        """Makes the spans of one request."""
        parent = self._propagator.extract({"traceparent": journey.traceparent})
        span = self._tracer.start_span(
            f"{journey.kind} {journey.model}",
            context=parent,
            kind=self._trace.SpanKind.SERVER,
            start_time=self._nanoseconds(journey.received),
            attributes={
                "convzoo.model": journey.model,
                "convzoo.version": journey.version,
                "convzoo.protocol": journey.protocol,
                "convzoo.outcome": str(journey.outcome),
                "convzoo.rows": journey.rows,
                "convzoo.request_id": journey.request_id,
                "rpc.grpc.status_code": journey.code,
            },
        )
        if journey.code != "OK":
            span.set_status(self._trace.StatusCode.ERROR, journey.error)
        context = self._trace.set_span_in_context(span)
        start = journey.received
        timings = journey.timings
        for stage, seconds in (
            ("decode", timings.decode_s),
            ("queue", timings.queue_s),
            ("execute", timings.execute_s),
            ("encode", ended - journey.answered if journey.answered else 0.0),
        ):
            if seconds <= 0 or journey.code != "OK":
                continue
            child = self._tracer.start_span(
                stage, context=context, start_time=self._nanoseconds(start)
            )
            start += seconds
            child.end(self._nanoseconds(start))
        span.end(self._nanoseconds(ended))

    def _nanoseconds(self, moment: float) -> int:
        return int((moment + self._offset_s) * 1e9)

    def close(self) -> None:
        """Sends what has not been sent."""
        self._provider.shutdown()


def _provider(endpoint: str | None) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "convzoo"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider
