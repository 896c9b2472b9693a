"""The client's work without waiting: generators that say what to do next and take what came.

Each operation yields `Send` and `Sleep` steps; `Client` takes them with threads, `AsyncClient`
with asyncio. So deadlines, retries and checks are written once, and the two cannot drift.
"""

import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

from serving.client.address import PROTOCOLS, Address, Protocol
from serving.client.deadline import Deadline
from serving.client.dialects import Again, Dialect, dialect
from serving.client.dialects.discovery import identity
from serving.client.dialects.replies import timings_of
from serving.client.errors import (
    AnswerError,
    ClientError,
    InvalidInputError,
    ModelNotFoundError,
    NotReadyError,
    ServerError,
    TransportError,
    UsageError,
)
from serving.client.exchange import (
    OUTCOME_HEADER,
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
    Framing,
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
    PredictReply,
    Target,
    TensorSpec,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hedging:
    """When a second attempt may start beside the first, and whether there is still room for it."""

    after_s: float
    may_start: Callable[[], bool]


@dataclass(slots=True)
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
MOST_PLANS = 256


class _Call:
    """One call of the user's: what all its attempts share."""

    __slots__ = ("deadline", "model", "request_id")

    def __init__(self, model: str, deadline: Deadline) -> None:
        self.model = model
        self.deadline = deadline
        # The operating system's randomness would take longer than the rest of this.
        self.request_id = f"{random.getrandbits(128):032x}"


_Key: TypeAlias = tuple[Target, str | None, Sequence[str] | None, np.dtype[Any], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a predict that was made before is made again with other numbers.

    Attributes:
        until: When what the model takes has to be asked anew, on the monotonic clock.
        signature: The signature asked for, or "".
        wanted: The outputs asked for; all when empty.
        ask: Makes the question.
    """

    until: float
    signature: str
    wanted: tuple[str, ...]
    ask: Again


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
        self._is_grpc = address.is_grpc
        self._protocol = protocol
        self._dialect: Dialect | None = None
        self._retries = retries
        self._budget = Budget(retries)
        self._timeout_s = timeout_s
        self._headers = headers
        self._hedging = None if hedge is None else Hedging(hedge.after_s, self._budget.take)
        # Each with the moment until which it is believed.
        self._metadata: dict[Target, tuple[float, Metadata]] = {}
        self._plans: dict[_Key, _Plan] = {}

    def target(self, model: str, version: int | None, label: str | None) -> Target:
        """What a call is about.

        Raises:
            UsageError: it names a version and a label, which may be another.
        """
        if version is not None and label is not None:
            told = f"version={version} and label={label!r} exclude each other: name one of them."
            raise self._about(model, UsageError(told))
        return Target(model, version, label)

    def _begin(self, model: str, timeout_s: float | None) -> _Call:
        try:
            return _Call(model, Deadline(self._timeout_s if timeout_s is None else timeout_s))
        except UsageError as error:
            raise self._about(model, error) from None

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
        call = self._begin(target.model, timeout_s)
        try:
            # What was asked before in the same form was checked before and is written already.
            key: _Key | None = None
            plan: _Plan | None = None
            if isinstance(inputs, np.ndarray) and not isinstance(outputs, list):
                key = (target, signature, outputs, inputs.dtype, inputs.shape)
                plan = self._plans.get(key)
            if plan is not None and plan.until > time.monotonic():
                wanted, name = plan.wanted, plan.signature
                question = plan.ask(inputs, call.request_id)  # type: ignore[arg-type]  # an array
            else:
                asked, question = yield from self._checked(
                    target, inputs, signature, outputs, call, key
                )
                wanted, name = asked.outputs, asked.signature
            answer, reply = yield from self._ask(question, call)
        except ClientError as error:
            raise self._told(error, call) from error.__cause__
        answered = answer.outputs
        if wanted:
            if not all(each in answered for each in wanted):
                told = f"Asked for {', '.join(wanted)}, the server answered {', '.join(answered)}."
                raise self._told(AnswerError(told), call)
            answered = {each: answered[each] for each in wanted}
        for array in answered.values():
            array.flags.writeable = False
        return Prediction(
            model=answer.model or target.model,
            version=answer.version or None,
            request_id=answer.request_id or reply.headers.get(REQUEST_ID_HEADER, ""),
            timings=timings_of(reply.headers),
            outcome=reply.headers.get(OUTCOME_HEADER, ""),
            signature=answer.signature or name or DEFAULT_SIGNATURE,
            outputs=answered,
        )

    def _checked(
        self,
        target: Target,
        inputs: Inputs,
        signature: str | None,
        outputs: Sequence[str] | None,
        call: _Call,
        key: "_Key | None",
    ) -> Steps[tuple[PredictCall, Question[PredictReply]]]:
        """The call, held against what the model takes, and its question; noted under the key."""
        spoken = yield from self._spoken(call)
        until, metadata = self._metadata.get(target, (0.0, None))
        is_remembered = metadata is not None and until > time.monotonic()
        while True:
            if metadata is None or not is_remembered:
                metadata = yield from self._described(target, call)
            try:
                known = choose_signature(metadata, signature)
                asked = PredictCall(
                    target=target,
                    inputs=check_inputs(inputs, known, target.model),
                    signature=signature or "",
                    outputs=check_outputs(outputs, known, target.model),
                    request_id=call.request_id if spoken.names_calls else "",
                )
                break
            except InvalidInputError:
                if not is_remembered:
                    raise
                # The model may have changed since it was asked what it takes.
                is_remembered = False
        try:
            question = spoken.predict(asked, known)
            again = None if key is None else spoken.again(asked)
        except NoFormError as error:
            raise InvalidInputError(f"{error} gRPC has.", field="inputs") from error
        if key is not None and again is not None:
            if len(self._plans) >= MOST_PLANS:
                self._plans.clear()
            until, _ = self._metadata[target]
            self._plans[key] = _Plan(until, asked.signature, asked.outputs, again)
        return asked, question

    def classify(
        self, target: Target, images: Sequence[Image], *, top_k: int, timeout_s: float | None
    ) -> Steps[list[Classification]]:
        """Sends images as they are; the server knows how they become inputs."""
        call = self._begin(target.model, timeout_s)
        try:
            if top_k < 1:
                raise InvalidInputError(f"top_k is {top_k}; 1 or more works.", field="top_k")
            encoded = tuple(encode_image(image) for image in images)
            if not encoded:
                return []
            spoken = self._dialect or (yield from self._spoken(call))
            question = spoken.classify(ClassifyImagesCall(target, encoded, top_k))
            answer, reply = yield from self._ask(question, call)
            if len(answer.results) != len(encoded):
                told = f"Asked about {len(encoded)} images, the server told of "
                raise AnswerError(f"{told}{len(answer.results)}.")
        except ClientError as error:
            raise self._told(error, call) from error.__cause__
        timings = timings_of(reply.headers)
        return [
            Classification(
                model=answer.model,
                version=answer.version,
                request_id=answer.request_id or reply.headers.get(REQUEST_ID_HEADER, ""),
                timings=timings,
                outcome=reply.headers.get(OUTCOME_HEADER, ""),
                scores=tuple(
                    LabelScore(
                        class_id=each.class_id, label=each.label, probability=each.probability
                    )
                    for each in row
                ),
            )
            for row in answer.results
        ]

    def layers(self, target: Target, timeout_s: float | None) -> Steps[Layers]:
        """What of a version can be looked into."""
        call = self._begin(target.model, timeout_s)
        answer, _ = yield from self._ask_for(lambda spoken: spoken.layers(target), call)
        return Layers(
            model=answer.model,
            version=answer.version,
            labels=answer.labels,
            input_shape=answer.input_shape,
            image_size=answer.image_size,
            layers=tuple(Layer(**asdict(each)) for each in answer.layers),
            methods=tuple(Method(**asdict(each)) for each in answer.methods),
            colour=answer.colour,
            framing=None if answer.framing is None else Framing(**asdict(answer.framing)),
        )

    def explain(
        self, asked: ExplainCall, image: Image | None, timeout_s: float | None
    ) -> Steps[Explanation]:
        """Sends an image and asks what the network sees in it."""
        call = self._begin(asked.target.model, timeout_s)
        try:
            if image is not None:
                asked = replace(asked, image=encode_image(image))
            question = (yield from self._spoken(call)).explain(asked)
            answer, reply = yield from self._ask(question, call)
        except ClientError as error:
            raise self._told(error, call) from error.__cause__
        for array in answer.arrays.values():
            array.flags.writeable = False
        timings = timings_of(reply.headers)
        if timings.execute_s is None:
            timings = Timings(
                decode_s=answer.timings.decode_s,
                queue_s=answer.timings.queue_s,
                execute_s=answer.timings.execute_s,
                encode_s=answer.timings.encode_s,
            )
        return Explanation(
            model=answer.model,
            version=answer.version or None,
            request_id=answer.request_id or reply.headers.get(REQUEST_ID_HEADER, ""),
            method=answer.method,
            layer=answer.layer,
            class_id=answer.class_id,
            label=answer.label,
            arrays=answer.arrays,
            facts=answer.facts,
            picture=answer.picture,
            timings=timings,
            outcome=reply.headers.get(OUTCOME_HEADER, ""),
        )

    def metadata(self, target: Target, timeout_s: float | None) -> Steps[Metadata]:
        """What a version takes and gives, asked anew."""
        return (yield from self._described(target, self._begin(target.model, timeout_s)))

    def _described(self, target: Target, call: _Call) -> Steps[Metadata]:
        answer, _ = yield from self._ask_for(lambda spoken: spoken.metadata(target), call)
        found = _metadata(target, answer)
        self._metadata[target] = (time.monotonic() + METADATA_FOR_S, found)
        return found

    def status(self, target: Target, timeout_s: float | None) -> Steps[ModelStatus]:
        """The states of a model's versions."""
        call = self._begin(target.model, timeout_s)
        answer, _ = yield from self._ask_for(lambda spoken: spoken.status(target), call)
        return ModelStatus(
            model=answer.model,
            versions=tuple(
                VersionStatus(
                    version=each.version or None,
                    state=each.state.value,
                    error=each.error_message,
                    error_code=each.error_code,
                )
                for each in answer.versions
            ),
        )

    def models(self, timeout_s: float | None) -> Steps[tuple[str, ...]]:
        """The names of all models."""
        call = self._begin("", timeout_s)
        return (yield from self._ask_for(lambda spoken: spoken.models(), call))[0]

    def load(self, model: str, timeout_s: float | None) -> Steps[None]:
        """Loads a model."""
        call = self._begin(model, timeout_s)
        yield from self._ask_for(lambda spoken: spoken.load(model), call)
        self._forget(model)

    def unload(self, model: str, timeout_s: float | None) -> Steps[None]:
        """Unloads a model."""
        call = self._begin(model, timeout_s)
        yield from self._ask_for(lambda spoken: spoken.unload(model), call)
        self._forget(model)

    def _forget(self, model: str) -> None:
        self._plans.clear()
        for target in [each for each in self._metadata if each.model == model]:
            self._metadata.pop(target, None)

    def wait_until_ready(self, model: str | None, timeout_s: float | None) -> Steps[None]:
        """Asks again and again until the server, or the model if one is named, takes requests."""
        call = self._begin(model or "", timeout_s)
        target = None if model is None else Target(model)
        is_known = target is None
        last: ClientError | None = None
        while True:
            try:
                spoken = yield from self._spoken(call, is_patient=False)
                if (yield from self._is_ready(spoken, target, call)):
                    return
                if not is_known and target is not None:
                    # Servers that say "not ready" of models they never heard of.
                    is_known = yield from self._is_known(spoken, target, call)
            except (TransportError, NotReadyError) as error:
                last = error
            except ClientError as error:
                yield from self._name_models(error, call)
                raise self._told(error, call) from error.__cause__
            left = call.deadline.remaining_s()
            if left is not None and left <= READY_EVERY_S:
                doing = "waiting for the server" if model is None else f"waiting for {model!r}"
                why = "" if last is None else f" Last heard: {last}"
                late = call.deadline.error(doing, why)
                raise self._told(late, call) from last
            yield Sleep(READY_EVERY_S)

    def _is_ready(self, spoken: Dialect, target: Target | None, call: _Call) -> Steps[bool]:
        try:
            is_ready, _ = yield from self._attempt(spoken.is_ready(target), call)
        except ServerError:
            # MLServer's gRPC fails so of a model that it does not have: its list tells.
            if target is not None:
                yield from self._is_known(spoken, target, call)
            raise
        return is_ready

    def _is_known(self, spoken: Dialect, target: Target, call: _Call) -> Steps[bool]:
        """Raises `ModelNotFoundError` where the server says so; True when it need not be asked."""
        try:
            yield from self._attempt(spoken.status(target), call)
        except (ModelNotFoundError, TransportError, NotReadyError):
            raise
        except ClientError:
            pass  # a server that keeps its list to itself
        return True

    # --- one call

    def _spoken(self, call: _Call, *, is_patient: bool = True) -> Steps[Dialect]:
        """The server's dialect; the server is asked for it once, where it is not known."""
        if self._dialect is None:
            is_grpc = self._is_grpc
            protocol, has_raw = self._protocol, True
            if protocol == "auto" or (protocol == "oip" and not is_grpc):
                question = identity(is_grpc=is_grpc)
                ask = self._ask if is_patient else self._attempt
                server, _ = yield from ask(question, call)
                has_raw = server.has_raw
                protocol = server.protocol if protocol == "auto" else protocol
            self._dialect = dialect(protocol, is_grpc=is_grpc, has_raw=has_raw)
        return self._dialect

    def _ask_for(
        self, form: Callable[[Dialect], Question[T]], call: _Call
    ) -> Steps[tuple[T, Reply]]:
        """Asks what the server's dialect makes of it; says so where it has no word for it."""
        spoken = yield from self._spoken(call)
        try:
            question = form(spoken)
        except ClientError as error:
            raise self._told(error, call) from error.__cause__
        return (yield from self._ask(question, call))

    def _ask(self, question: Question[T], call: _Call) -> Steps[tuple[T, Reply]]:
        """Asks, and asks again where that is safe and there is time."""
        attempts: Attempts | None = None
        self._budget.refill()
        while True:
            try:
                reply = yield self._send(question.request, call)
                assert reply is not None  # noqa: S101 - what a Send brings
                return question.decode(reply), reply
            except ClientError as error:
                attempts = attempts or Attempts(
                    self._retries,
                    self._budget,
                    call.deadline,
                    is_repeatable=question.request.is_repeatable,
                )
                error.attempts = attempts.made
                wait_s = attempts.wait_s(error)
                if wait_s is None:
                    yield from self._name_models(error, call)
                    raise self._told(error, call) from error.__cause__
            yield Sleep(wait_s)

    def _attempt(self, question: Question[T], call: _Call) -> Steps[tuple[T, Reply]]:
        """Asks once."""
        reply = yield self._send(question.request, call)
        assert reply is not None  # noqa: S101 - what a Send brings
        return question.decode(reply), reply

    def _send(self, request: Request, call: _Call) -> Send:
        headers = self._headers()
        if not request.id:
            headers = (*headers, (REQUEST_ID_HEADER, call.request_id))
        left = call.deadline.require_s("preparing the call")
        if left is not None and not self._is_grpc:
            headers = (*headers, (TIMEOUT_HEADER, f"{left:.6f}"))
        hedging = self._hedging if request.is_repeatable else None
        return Send(request, headers, call.deadline, hedging)

    def _name_models(self, error: ClientError, call: _Call) -> Steps[None]:
        """Adds the models that exist to an error that does not name them, where the server can."""
        if not isinstance(error, ModelNotFoundError) or error.known or self._dialect is None:
            return
        try:
            error.known, _ = yield from self._attempt(self._dialect.models(), call)
        except ClientError:
            return  # the error is told without them
        if call.model not in error.known:
            error.args = (f"{error} This server has {', '.join(error.known) or 'no models'}.",)

    def _about(self, model: str, error: ClientError) -> ClientError:
        """The error with whom and what it is about."""
        error.url, error.model = self._address.url, model
        return error

    def _told(self, error: ClientError, call: _Call) -> ClientError:
        """The error with the facts of its call."""
        self._about(call.model, error)
        if error.attempts and not error.request_id:
            error.request_id = call.request_id
        return error


def _metadata(target: Target, found: ModelMetadata) -> Metadata:
    for signature in found.signatures.values():
        for array in signature.defaults.values():
            array.flags.writeable = False
    return Metadata(
        model=found.model or target.model,
        version=found.version or None,
        platform=found.platform,
        labels=found.labels,
        signatures={
            name: Signature(
                name=name,
                inputs=_tensors(signature.inputs),
                outputs=_tensors(signature.outputs),
                defaults=signature.defaults,
                method_name=signature.method_name,
            )
            for name, signature in found.signatures.items()
        },
    )


def _tensors(specs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
    return {
        name: Tensor(name=name, dtype=spec.dtype, shape=spec.shape, tensor_name=spec.tensor_name)
        for name, spec in specs.items()
    }
