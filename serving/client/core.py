"""The client's work without waiting: generators that say what to do next and take what came.

Each operation yields `Send` and `Sleep` steps; `Client` takes them with threads, `AsyncClient`
with asyncio. So deadlines, retries and checks are written once, and the two cannot drift.
"""

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias, TypeVar

from serving.client.address import PROTOCOLS, Address, Protocol
from serving.client.deadline import Deadline
from serving.client.dialects import Dialect, dialect
from serving.client.dialects.discovery import identity
from serving.client.errors import (
    ClientError,
    InvalidInputError,
    NotReadyError,
    TransportError,
    UsageError,
)
from serving.client.exchange import (
    REQUEST_ID_HEADER,
    TIMEOUT_HEADER,
    Headers,
    Question,
    Reply,
    Request,
)
from serving.client.images import Image, encode_image
from serving.client.inputs import Inputs, check_inputs, check_outputs, choose_signature
from serving.client.results import (
    Classification,
    Explanation,
    LabelScore,
    Layer,
    Layers,
    Metadata,
    Method,
    ModelStatus,
    Prediction,
    Signature,
    Tensor,
    Timings,
    VersionStatus,
)
from serving.client.retry import Attempts, Budget
from serving.client.settings import Hedge, Retries
from serving.errors import UnsupportedError as NoFormError
from serving.messages import (
    DEFAULT_SIGNATURE,
    ClassifyImagesCall,
    ExplainCall,
    ModelMetadata,
    PredictCall,
    Target,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hedging:
    """When a second attempt may start beside the first, and whether there is still room for it."""

    after_s: float
    may_start: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Send:
    """Send this and bring the reply; a `ClientError` is thrown in where there is none."""

    request: Request
    headers: Headers
    deadline: Deadline
    hedge: Hedging | None = None


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait so long."""

    seconds: float


Steps: TypeAlias = Generator[Send | Sleep, Reply | None, T]

# A model's newest version may change at any time: what it takes is asked again after so long.
METADATA_FOR_S = 30.0
READY_EVERY_S = 0.1


class Core:
    """All operations of a client.

    Args:
        address: The server.
        protocol: What it speaks; "auto" asks it once.
        retries: When a failed call is made again.
        timeout_s: The deadline of calls that bring none; None for no limit.
        headers: Gives what is sent with a request; called for each.
        hedge: When a slow attempt gets a second one beside it.
    """

    def __init__(
        self,
        address: Address,
        protocol: Protocol,
        retries: Retries,
        timeout_s: float | None,
        headers: Callable[[], Headers],
        hedge: Hedge | None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise UsageError(f"No protocol {protocol!r}; there are {', '.join(PROTOCOLS)}.")
        self._address = address
        self._dialect: Dialect | None = None
        if protocol != "auto":
            self._dialect = dialect(protocol, is_grpc=address.is_grpc)
        self._retries = retries
        self._budget = Budget(retries)
        self._timeout_s = timeout_s
        self._headers = headers
        self._hedging = None if hedge is None else Hedging(hedge.after_s, self._budget.take)
        self._metadata: dict[Target, tuple[float, Metadata]] = {}

    def deadline(self, timeout_s: float | None) -> Deadline:
        """The deadline of one call."""
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)

    # --- operations

    def predict(
        self,
        target: Target,
        inputs: Inputs,
        *,
        signature: str | None,
        outputs: Sequence[str] | None,
        timeout_s: float | None,
    ) -> Steps[Prediction]:
        """Checks the inputs against what the model takes, and asks."""
        deadline = self.deadline(timeout_s)
        asked_before = target in self._metadata
        try:
            call, known = yield from self._checked(target, inputs, signature, outputs, deadline)
        except InvalidInputError:
            if not asked_before:
                raise
            # The model may have changed since it was asked what it takes.
            self._metadata.pop(target, None)
            call, known = yield from self._checked(target, inputs, signature, outputs, deadline)
        try:
            question = (yield from self._spoken(deadline)).predict(call, known)
        except NoFormError as error:
            raise InvalidInputError(f"{error} gRPC has.", field="inputs") from error
        reply = yield from self._ask(question, deadline, target.model)
        answered: Mapping[str, Any] = reply.outputs
        if call.outputs:
            answered = {name: reply.outputs[name] for name in call.outputs}
        for array in answered.values():
            array.flags.writeable = False
        return Prediction(
            model=reply.model,
            version=reply.version or None,
            request_id=reply.request_id,
            signature=reply.signature or call.signature or DEFAULT_SIGNATURE,
            outputs=answered,
        )

    def _checked(
        self,
        target: Target,
        inputs: Inputs,
        signature: str | None,
        outputs: Sequence[str] | None,
        deadline: Deadline,
    ) -> Steps[tuple[PredictCall, Signature | None]]:
        metadata = yield from self._known(target, deadline)
        known = choose_signature(metadata, signature)
        call = PredictCall(
            target=target,
            inputs=check_inputs(inputs, known, target.model),
            signature=signature or "",
            outputs=check_outputs(outputs, known, target.model),
        )
        return call, known

    def classify(
        self, target: Target, images: Sequence[Image], *, top_k: int, timeout_s: float | None
    ) -> Steps[list[Classification]]:
        """Sends images as they are; the server knows how they become inputs."""
        if top_k < 1:
            raise InvalidInputError(f"top_k is {top_k}; 1 or more works.", field="top_k")
        deadline = self.deadline(timeout_s)
        encoded = tuple(encode_image(image) for image in images)
        if not encoded:
            return []
        call = ClassifyImagesCall(target, encoded, top_k)
        spoken = yield from self._spoken(deadline)
        reply = yield from self._ask(spoken.classify(call), deadline, target.model)
        timings = Timings(
            decode_s=reply.timings.decode_s,
            queue_s=reply.timings.queue_s,
            execute_s=reply.timings.execute_s,
        )
        return [
            Classification(
                model=reply.model,
                version=reply.version,
                request_id=reply.request_id,
                timings=timings,
                scores=tuple(
                    LabelScore(
                        class_id=each.class_id, label=each.label, probability=each.probability
                    )
                    for each in row
                ),
            )
            for row in reply.results
        ]

    def layers(self, target: Target, timeout_s: float | None) -> Steps[Layers]:
        """What of a version can be looked into."""
        deadline = self.deadline(timeout_s)
        question = (yield from self._spoken(deadline)).layers(target)
        reply = yield from self._ask(question, deadline, target.model)
        return Layers(
            model=reply.model,
            version=reply.version,
            labels=reply.labels,
            input_shape=reply.input_shape,
            image_size=reply.image_size,
            layers=tuple(Layer(**asdict(each)) for each in reply.layers),
            methods=tuple(Method(**asdict(each)) for each in reply.methods),
        )

    def explain(
        self, call: ExplainCall, image: Image | None, timeout_s: float | None
    ) -> Steps[Explanation]:
        """Sends an image and asks what the network sees in it."""
        deadline = self.deadline(timeout_s)
        if image is not None:
            call = replace(call, image=encode_image(image))
        question = (yield from self._spoken(deadline)).explain(call)
        reply = yield from self._ask(question, deadline, call.target.model)
        for array in reply.arrays.values():
            array.flags.writeable = False
        return Explanation(
            model=reply.model,
            version=reply.version or None,
            request_id=reply.request_id,
            method=reply.method,
            layer=reply.layer,
            class_id=reply.class_id,
            label=reply.label,
            arrays=reply.arrays,
            facts=reply.facts,
            picture=reply.picture,
            timings=Timings(
                decode_s=reply.timings.decode_s,
                queue_s=reply.timings.queue_s,
                execute_s=reply.timings.execute_s,
            ),
        )

    def metadata(self, target: Target, timeout_s: float | None) -> Steps[Metadata]:
        """What a version takes and gives, asked anew."""
        self._metadata.pop(target, None)
        return (yield from self._known(target, self.deadline(timeout_s)))

    def _known(self, target: Target, deadline: Deadline) -> Steps[Metadata]:
        asked, found = self._metadata.get(target, (0.0, None))
        if found is not None and time.monotonic() - asked < METADATA_FOR_S:
            return found
        question = (yield from self._spoken(deadline)).metadata(target)
        found = _metadata(target, (yield from self._ask(question, deadline, target.model)))
        self._metadata[target] = (time.monotonic(), found)
        return found

    def status(self, target: Target, timeout_s: float | None) -> Steps[ModelStatus]:
        """The states of a model's versions."""
        deadline = self.deadline(timeout_s)
        question = (yield from self._spoken(deadline)).status(target)
        reply = yield from self._ask(question, deadline, target.model)
        return ModelStatus(
            model=reply.model,
            versions=tuple(
                VersionStatus(
                    version=each.version, state=each.state.value, error=each.error_message
                )
                for each in reply.versions
            ),
        )

    def models(self, timeout_s: float | None) -> Steps[tuple[str, ...]]:
        """The names of all models."""
        deadline = self.deadline(timeout_s)
        question = (yield from self._spoken(deadline)).models()
        return (yield from self._ask(question, deadline, ""))

    def load(self, model: str, timeout_s: float | None) -> Steps[None]:
        """Loads a model."""
        deadline = self.deadline(timeout_s)
        question = (yield from self._spoken(deadline)).load(model)
        yield from self._ask(question, deadline, model)

    def unload(self, model: str, timeout_s: float | None) -> Steps[None]:
        """Unloads a model."""
        deadline = self.deadline(timeout_s)
        question = (yield from self._spoken(deadline)).unload(model)
        yield from self._ask(question, deadline, model)

    def wait_until_ready(self, model: str | None, timeout_s: float | None) -> Steps[None]:
        """Asks again and again until the server, or the model if one is named, takes requests."""
        deadline = self.deadline(timeout_s)
        doing = "waiting for the server" if model is None else f"waiting for {model!r}"
        target = None if model is None else Target(model)
        while True:
            try:
                spoken = yield from self._spoken(deadline, is_patient=False)
                is_ready = yield from self._attempt(spoken.is_ready(target), deadline)
            except (TransportError, NotReadyError):
                is_ready = False
            if is_ready:
                return
            left = deadline.require_s(doing)
            yield Sleep(READY_EVERY_S if left is None else min(READY_EVERY_S, left))

    # --- one call

    def _spoken(self, deadline: Deadline, *, is_patient: bool = True) -> Steps[Dialect]:
        """The server's dialect, which is asked for once."""
        if self._dialect is None:
            question = identity(is_grpc=self._address.is_grpc)
            ask = (
                self._ask(question, deadline, "")
                if is_patient
                else self._attempt(question, deadline)
            )
            self._dialect = dialect((yield from ask), is_grpc=self._address.is_grpc)
        return self._dialect

    def _ask(self, question: Question[T], deadline: Deadline, model: str) -> Steps[T]:
        """Asks, and asks again where that is safe and there is time."""
        attempts = Attempts(
            self._retries,
            self._budget,
            deadline,
            is_repeatable=question.request.is_repeatable,
        )
        self._budget.refill()
        while True:
            try:
                return (yield from self._attempt(question, deadline))
            except ClientError as error:
                error.url, error.model, error.attempts = self._address.url, model, attempts.made
                wait_s = attempts.wait_s(error)
                if wait_s is None:
                    raise
            yield Sleep(wait_s)

    def _attempt(self, question: Question[T], deadline: Deadline) -> Steps[T]:
        headers = [*self._headers(), (REQUEST_ID_HEADER, os.urandom(16).hex())]
        left = deadline.require_s("preparing the call")
        if left is not None and not self._address.is_grpc:
            headers.append((TIMEOUT_HEADER, f"{left:.6f}"))
        hedging = self._hedging if question.request.is_repeatable else None
        reply = yield Send(question.request, tuple(headers), deadline, hedging)
        assert reply is not None  # noqa: S101 - what a Send brings
        return question.decode(reply)


def _metadata(target: Target, found: ModelMetadata) -> Metadata:
    return Metadata(
        model=found.model or target.model,
        version=found.version or None,
        platform=found.platform,
        labels=found.labels,
        signatures={
            name: Signature(
                name=name,
                inputs={
                    key: Tensor(name=key, dtype=spec.dtype, shape=spec.shape)
                    for key, spec in signature.inputs.items()
                },
                outputs={
                    key: Tensor(name=key, dtype=spec.dtype, shape=spec.shape)
                    for key, spec in signature.outputs.items()
                },
            )
            for name, signature in found.signatures.items()
        },
    )
