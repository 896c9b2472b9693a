"""Tells of each request when its answer is out: metric, log line and span, in the same words."""

import json
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from serving.journey import Journey
from serving.messages import Outcome
from serving.metrics import UNKNOWN, Metrics

log = logging.getLogger("convzoo.requests")

Logged = Literal["none", "errors", "all"]

# Under overload, one line a second says how many were shed; a line each would cost more than they.
SHED_EVERY_S = 1.0

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Tracer(Protocol):
    """Makes spans of journeys."""

    def finished(self, journey: Journey, ended: float) -> None:
        """A request has its answer; `ended` lies on the monotonic clock."""
        ...


class Observer:
    """Follows the requests of all front ends.

    Args:
        metrics: Where the time of encoding is counted, and what no service has seen.
        logged: Which requests get a log line.
        tracer: Makes spans, where tracing is on.
        clock: The monotonic clock.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        logged: Logged = "errors",
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._logged = logged
        self._tracer = tracer
        self._clock = clock
        self._shed = 0
        self._shed_told = float("-inf")

    def finished(self, journey: Journey) -> None:
        """A request has its answer."""
        ended = self._clock()
        if journey.code == "OK":
            if journey.kind:
                self._metrics.encoded(journey, ended - journey.answered)
        elif not journey.is_counted:
            journey.model = journey.model or UNKNOWN
            self._metrics.failed(journey)
        if self._tracer is not None and journey.kind:
            self._tracer.finished(journey, ended)
        if self._logged != "none":
            self._log(journey, ended)

    def _log(self, journey: Journey, ended: float) -> None:
        if self._logged == "all":
            log.info("request", extra={"request": _fields(journey, ended)})
        elif journey.outcome == Outcome.SHED:
            self._shed += 1
            if ended - self._shed_told >= SHED_EVERY_S:
                fields = _fields(journey, ended) | {"requests": self._shed}
                log.warning("requests shed", extra={"request": fields})
                self._shed, self._shed_told = 0, ended
        elif journey.code != "OK":
            log.warning("request failed", extra={"request": _fields(journey, ended)})


def _fields(journey: Journey, ended: float) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "request_id": journey.request_id,
        "protocol": journey.protocol,
        "kind": journey.kind,
        "model": journey.model,
        "version": journey.version,
        "rows": journey.rows,
        "code": journey.code,
        "outcome": str(journey.outcome) if journey.kind else "",
        "seconds": round(ended - journey.received, 6),
        "decode_s": round(journey.timings.decode_s, 6),
        "queue_s": round(journey.timings.queue_s, 6),
        "execute_s": round(journey.timings.execute_s, 6),
    }
    if journey.traceparent:
        fields["traceparent"] = journey.traceparent
    if journey.error:
        fields["error"] = journey.error
    return {name: value for name, value in fields.items() if value not in ("", 0)}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what a record brings as `request` becomes its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        document = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "request", {}),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)

    converter = staticmethod(time.gmtime)


class TextFormatter(logging.Formatter):
    """One line for people; what a record brings as `request` follows as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line of a record; an exception's trace follows."""
        text = super().formatMessage(record)
        fields = getattr(record, "request", None)
        if fields:
            text += "".join(f" {name}={value}" for name, value in fields.items())
        # A name in a request may hold a line's end, and must not begin a line of its own.
        return text if text.isprintable() else _CONTROLS.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
