"""The service: what every protocol asks. It knows no protocol and no framework."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace

from serving.core.repository import Repository
from serving.errors import DeadlineExceededError, NotReadyError, code_of
from serving.messages import (
    ClassifyImagesCall,
    ClassifyImagesReply,
    ExplainCall,
    ExplainReply,
    LayersReply,
    ModelMetadata,
    ModelStatus,
    PredictCall,
    PredictReply,
    Target,
    as_batch_rows,
)
from serving.metrics import UNKNOWN, Metrics


class Service:
    """Answers for the models of a repository.

    Args:
        repository: Finds the servables.
        default_timeout_s: The deadline of requests that bring none.
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
        with self._counted(call.target.model, "predict"):
            self._admit(call.deadline)
            servable = self._repository.find(call.target)
            reply = await servable.predict(replace(call, deadline=self._deadline(call.deadline)))
        rows = as_batch_rows(next(iter(call.inputs.values())))
        self._metrics.answered(reply.model, reply.version, "predict", rows, reply.timings)
        return reply

    async def classify_images(self, call: ClassifyImagesCall) -> ClassifyImagesReply:
        """Images in, labels out.

        Raises:
            ServingError: see `serving.errors`.
        """
        with self._counted(call.target.model, "classify"):
            self._admit(call.deadline)
            servable = self._repository.find(call.target)
            reply = await servable.classify_images(
                replace(call, deadline=self._deadline(call.deadline))
            )
        rows = len(call.images)
        self._metrics.answered(reply.model, reply.version, "classify", rows, reply.timings)
        return reply

    async def explain(self, call: ExplainCall) -> ExplainReply:
        """Looks inside a model while an image goes through.

        Raises:
            ServingError: see `serving.errors`.
        """
        with self._counted(call.target.model, "explain"):
            self._admit(call.deadline)
            servable = self._repository.find(call.target)
            reply = await servable.explain(replace(call, deadline=self._deadline(call.deadline)))
        self._metrics.answered(reply.model, reply.version, "explain", 1, reply.timings)
        return reply

    async def layers(self, target: Target, deadline: float | None = None) -> LayersReply:
        """What of a model can be looked into.

        Raises:
            ServingError: see `serving.errors`.
        """
        with self._counted(target.model, "layers"):
            self._admit(deadline)
            return await self._repository.find(target).layers(self._deadline(deadline))

    @contextlib.contextmanager
    def _counted(self, model: str, kind: str) -> Iterator[None]:
        """Counts a request while it is answered, and its error when it gets one."""
        self._active += 1
        self._metrics.began()
        try:
            yield
        except Exception as error:
            known = model if model in self._repository.models() else UNKNOWN
            self._metrics.failed(known, kind, code_of(error))
            raise
        finally:
            self._active -= 1
            self._metrics.ended()

    def _admit(self, deadline: float | None) -> None:
        if self._is_draining:
            raise NotReadyError("The server is stopping.")
        if deadline is not None and time.monotonic() >= deadline:
            raise DeadlineExceededError("The deadline had passed when the request arrived.")

    def _deadline(self, deadline: float | None) -> float:
        return time.monotonic() + self._default_timeout_s if deadline is None else deadline

    def metadata(self, target: Target) -> ModelMetadata:
        """What a version takes and gives."""
        servable = self._repository.find(target)
        return servable.metadata(self._repository.versions(target.model))

    def status(self, target: Target) -> ModelStatus:
        """The states of a model's versions."""
        return self._repository.status(target)

    def models(self) -> tuple[str, ...]:
        """The names of all models."""
        return self._repository.models()

    def metrics(self) -> tuple[bytes, str]:
        """The counts and times so far, and their content type."""
        return self._metrics.render()

    def is_live(self) -> bool:
        """Whether the process is up."""
        return True

    def is_ready(self) -> bool:
        """Whether requests are taken: after the first load, until draining begins."""
        return self._is_ready and not self._is_draining

    def is_model_ready(self, target: Target) -> bool:
        """Whether a model takes requests."""
        return self.is_ready() and self._repository.is_model_ready(target)

    def open(self) -> None:
        """Says that the first load is done."""
        self._is_ready = True

    def drain(self) -> None:
        """Refuses what comes from now on; what has begun is finished."""
        self._is_draining = True
