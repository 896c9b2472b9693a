"""What happened to one request on its way through the server.

A front end begins it, the service fills it, and who observes the server reads it: so header, log
line, metric and span say the same.
"""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from serving.messages import NO_TIME, Outcome, Timings

OUTCOME_HEADER = "x-convzoo-outcome"


@dataclass(slots=True)
class Journey:
    """One request.

    Attributes:
        protocol: "tfs_rest", "tfs_grpc", "oip_rest", "oip_grpc", "native" or "playground"; "direct"
            for none.
        request_id: The caller's, or "".
        traceparent: The caller's trace context (W3C), or "".
        priority: From the caller's header; 0 is the default.
        received: When it came, on the monotonic clock.
        kind: "predict", "classify", "explain" or "layers"; "unread" for what failed before it was
            known; "" for anything else, which is not observed further.
        method: TensorFlow Serving's word for what was asked.
        model: The model that was asked.
        version: The version that answered, 0 for none.
        rows: Rows (images) answered.
        code: The canonical code of the answer.
        error: What the answer said, when it was an error.
        outcome: How the answer came about.
        timings: Where the time went.
        answered: When the service had its answer, on the monotonic clock.
        is_counted: Whether the metrics have it.
    """

    protocol: str = "direct"
    request_id: str = ""
    traceparent: str = ""
    priority: int = 0
    received: float = field(default_factory=time.monotonic)
    kind: str = ""
    method: str = "Predict"
    model: str = ""
    version: int = 0
    rows: int = 0
    code: str = "OK"
    error: str = ""
    outcome: str = Outcome.DIRECT
    timings: Timings = NO_TIME
    answered: float = 0.0
    is_counted: bool = False

    def failed(self, code: str, error: str) -> None:
        """The answer is an error."""
        self.code, self.error = code, error
        if not self.is_counted:
            # The service has not seen it: it could not be read.
            self.kind = self.kind or "unread"
            self.outcome = Outcome.FAILED


current: ContextVar[Journey | None] = ContextVar("journey", default=None)
"""The journey of the request that is being answered, where a front end began one."""
