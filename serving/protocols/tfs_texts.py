"""TensorFlow Serving's own words, which its clients search for, before ours, which help."""

from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import (
    InvalidRequestError,
    LabelNotFoundError,
    ModelNotFoundError,
    SignatureNotFoundError,
)
from serving.journey import current
from serving.messages import DEFAULT_SIGNATURE, PredictCall, PredictReply, Target
from serving.protocols.service import Service
from serving.wire.examples import CLASSIFY, check_signature


class asking:  # noqa: N801 - reads as a statement; a generator would take three times as long
    """Words what a request for a servable raises."""

    __slots__ = ("_target",)

    def __init__(self, target: Target) -> None:
        self._target = target

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        target = self._target
        if isinstance(error, LabelNotFoundError):
            raise InvalidRequestError(
                f"Unrecognized servable version label: {error.label}. {error}", field="label"
            ) from error
        if isinstance(error, ModelNotFoundError):
            wanted = (
                f"Latest({target.model})"
                if target.version is None
                else f"Specific({target.model}, {target.version})"
            )
            raise ModelNotFoundError(
                error.model, message=f"Servable not found for request: {wanted}. {error}"
            ) from error
        if isinstance(error, SignatureNotFoundError):
            raise InvalidRequestError(
                f'Serving signature name: "{error.signature}" not found in signature def. {error}',
                field="signature_name",
            ) from error


@contextmanager
def asking_status(target: Target) -> Iterator[None]:
    """Words what a request for a status raises."""
    try:
        yield
    except ModelNotFoundError as error:
        wanted = "any versions" if target.version is None else f"version {target.version}"
        raise ModelNotFoundError(
            error.model, message=f"Could not find {wanted} of model {target.model}. {error}"
        ) from error


async def answer_examples(service: Service, call: PredictCall, method: str) -> PredictReply:
    """Runs a signature that classifies or regresses.

    Raises:
        ServingError: what `predict` raises, or the signature cannot do it.
    """
    signatures = service.metadata(call.target).signatures
    name = call.signature or DEFAULT_SIGNATURE
    if name not in signatures:
        raise InvalidRequestError(
            f"No signature was found with the name: {name}. This model has "
            f"{', '.join(sorted(signatures))}.",
            field="signature_name",
        )
    check_signature(signatures[name], method)
    if (journey := current.get()) is not None:
        journey.method = "Classify" if method == CLASSIFY else "Regress"
    return await service.predict(call)
