"""TensorFlow Serving's own words, which its clients search for, before ours, which help."""

from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import (
    InvalidRequestError,
    LabelNotFoundError,
    ModelNotFoundError,
    SignatureNotFoundError,
)
from serving.messages import Target


@contextmanager
def asking(target: Target) -> Iterator[None]:
    """Words what a request for a servable raises."""
    try:
        yield
    except LabelNotFoundError as error:
        raise InvalidRequestError(
            f"Unrecognized servable version label: {error.label}. {error}", field="label"
        ) from error
    except ModelNotFoundError as error:
        wanted = (
            f"Latest({target.model})"
            if target.version is None
            else f"Specific({target.model}, {target.version})"
        )
        raise ModelNotFoundError(
            error.model, message=f"Servable not found for request: {wanted}. {error}"
        ) from error
    except SignatureNotFoundError as error:
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
