"""The service: what every protocol asks. It knows no protocol and no framework."""

import time
from dataclasses import replace

from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.errors import (
    DeadlineExceededError,
    LimitExceededError,
    NotReadyError,
    OverloadedError,
    code_of,
)
from serving.journey import Journey, current
from serving.limits import LIMITS
from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    ExplainCall,
    ExplainReply,
    LayersReply,
    ModelMetadata,
    ModelStatus,
    Outcome,
    PredictCall,
    PredictReply,
    Target,
    Timings,
    VersionStatistics,
    as_batch_rows,
)
from serving.metrics import UNKNOWN, Metrics


class Service:
    """Answers for the models of a repository.

    Args:
        repository: Finds the servables.
        default_timeout_s: The deadline of requests that bring none, for models that set none.
        metrics: Where requests are counted.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        default_timeout_s: float = 30.0,
        metrics: Metrics | None = None,
    ) -> None:
        self._repository = repository
        self._metrics = metrics or Metrics()
        self._default_timeout_s = default_timeout_s
        self._is_ready = False
        self._is_draining = False
        self._active = 0

    @property
    def active(self) -> int:
        """Requests being answered."""
        return self._active

    async def predict(self, call: PredictCall) -> PredictReply:
        """Runs one signature of one model.

        Raises:
            ServingError: see `serving.errors`.
        """
        with _Counted(self, call.target.model, "predict") as journey:
            servable = self._servable(call.target, call.deadline)
            reply = await servable.predict(
                PredictCall(
                    call.target,
                    call.inputs,
                    call.signature,
                    call.outputs,
                    self._deadline(call.deadline, servable),
                    call.request_id,
                    call.priority or journey.priority,
                )
            )
            first = next(iter(call.inputs.values()), None)
            self._answered(journey, reply, 1 if first is None else as_batch_rows(first))
        return reply

    async def classify_images(self, call: ClassifyImagesCall) -> ClassifyImagesReply:
        """Images in, labels out.

        Raises:
            ServingError: see `serving.errors`.
        """
        with _Counted(self, call.target.model, "classify") as journey:
            servable = self._servable(call.target, call.deadline)
            reply = await servable.classify_images(
                replace(
                    call,
                    deadline=self._deadline(call.deadline, servable),
                    priority=call.priority or journey.priority,
                )
            )
            self._answered(journey, reply, len(call.images))
        return reply

    async def explain(self, call: ExplainCall) -> ExplainReply:
        """Looks inside a model while an image goes through.

        Raises:
            ServingError: see `serving.errors`.
        """
        with _Counted(self, call.target.model, "explain") as journey:
            servable = self._servable(call.target, call.deadline)
            deadline = self._deadline(call.deadline, servable)
            reply = await servable.explain(replace(call, deadline=deadline))
            journey.version, journey.rows, journey.timings = reply.version, 1, reply.timings
            journey.answered = time.monotonic()
            self._metrics.answered(journey)
        return reply

    async def layers(self, target: Target, deadline: float | None = None) -> LayersReply:
        """What of a model can be looked into.

        Raises:
            ServingError: see `serving.errors`.
        """
        with _Counted(self, target.model, "layers") as journey:
            servable = self._servable(target, deadline)
            reply = await servable.layers(self._deadline(deadline, servable))
            journey.version, journey.answered = reply.version, time.monotonic()
            self._metrics.answered(journey)
        return reply

    def admit(self, target: Target, deadline: float | None, kind: str) -> None:
        """Refuses, before its body is decoded, a request that would be refused afterwards.

        Raises:
            ServingError: see `serving.errors`.
        """
        journey = current.get()
        priority = journey.priority if journey else 0
        with _Refusing(self, target.model, kind):
            self._servable(target, deadline).admit(deadline, priority)

    def _servable(self, target: Target, deadline: float | None) -> Servable:
        if self._is_draining:
            raise NotReadyError("The server is stopping.")
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceededError("The deadline had passed when the request arrived.")
        if self._active > LIMITS.active_requests:
            raise OverloadedError(
                f"{self._active - 1} requests are being answered; at most "
                f"{LIMITS.active_requests} may.",
                retry_after_s=1.0,
            )
        longest = max(len(target.model), len(target.label or ""))
        if longest > LIMITS.name_bytes:
            raise LimitExceededError(
                f"A name has {longest} characters; at most {LIMITS.name_bytes} are taken.",
                field="model",
            )
        return self._repository.find(target)

    def began(self) -> None:
        """A request is being answered."""
        self._active += 1
        self._metrics.began()

    def ended(self) -> None:
        """It has been, one way or the other."""
        self._active -= 1
        self._metrics.ended()

    def failed(self, journey: Journey, error: BaseException) -> None:
        """A request ended in an error."""
        if journey.model not in self._repository.models():
            journey.model = UNKNOWN
        journey.code = code_of(error) if isinstance(error, Exception) else "CANCELLED"
        journey.error = str(error)
        journey.outcome = _outcome(error)
        self._metrics.failed(journey)

    def _answered(
        self, journey: Journey, reply: PredictReply | ClassifyImagesReply, rows: int
    ) -> None:
        decode_s = journey.answered - journey.received
        journey.version, journey.rows, journey.outcome = reply.version, rows, reply.outcome
        timings = reply.timings
        journey.timings = Timings(
            decode_s + timings.decode_s, timings.queue_s, timings.execute_s, timings.encode_s
        )
        journey.answered = time.monotonic()
        self._metrics.answered(journey)

    def _deadline(self, deadline: float | None, servable: Servable) -> float:
        if deadline is not None:
            return deadline
        default_s = servable.options.default_timeout_s or self._default_timeout_s
        return time.monotonic() + default_s

    def metadata(self, target: Target) -> ModelMetadata:
        """What a version takes and gives."""
        servable = self._repository.find(target)
        return servable.metadata(self._repository.versions(target.model))

    def status(self, target: Target) -> ModelStatus:
        """The states of a model's versions."""
        return self._repository.status(target)

    def statuses(self) -> tuple[ModelStatus, ...]:
        """The states of all models' versions."""
        return self._repository.statuses()

    def models(self) -> tuple[str, ...]:
        """The names of all models."""
        return self._repository.models()

    def statistics(self, target: Target | None) -> tuple[VersionStatistics, ...]:
        """What a model, one of its versions, or with None every version has done."""
        return self._repository.statistics(target)

    def metrics(self) -> tuple[bytes, str]:
        """The counts and times so far, and their content type."""
        return self._metrics.render()

    def is_live(self) -> bool:
        """Whether the process is up."""
        return True

    def is_ready(self) -> bool:
        """Whether requests are taken: after the first load, while a model serves, until draining."""
        return self._is_ready and not self._is_draining and self._repository.is_serving()

    def is_model_ready(self, target: Target) -> bool:
        """Whether a model takes requests."""
        return self.is_ready() and self._repository.is_model_ready(target)

    def open(self) -> None:
        """Says that the first load is done."""
        self._is_ready = True

    def drain(self) -> None:
        """Refuses what comes from now on; what has begun is finished."""
        self._is_draining = True


# Classes, where generators would read better: every request goes through both, and these take a third
# of the time.


class _Refusing:
    """Tells the journey and the metrics of the error that ends a request."""

    __slots__ = ("_journey", "_service")

    def __init__(self, service: Service, model: str, kind: str) -> None:
        self._service = service
        self._journey = current.get() or Journey()
        self._journey.kind, self._journey.model = kind, model

    def __enter__(self) -> Journey:
        return self._journey

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if error is not None:
            self._service.failed(self._journey, error)


class _Counted(_Refusing):
    """Counts a request while it is answered, too."""

    __slots__ = ()

    def __enter__(self) -> Journey:
        self._service.began()
        # All of the time before is reading and decoding what was sent.
        self._journey.answered = time.monotonic()
        return self._journey

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        super().__exit__(kind, error, trace)
        self._service.ended()


def _outcome(error: BaseException) -> str:
    if isinstance(error, OverloadedError):
        return Outcome.SHED
    if isinstance(error, DeadlineExceededError):
        return Outcome.LATE
    return Outcome.FAILED
