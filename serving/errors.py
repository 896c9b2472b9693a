"""The errors of the server: what was asked and what would have worked, without any protocol.

`serving.protocols.status` is the one place that turns them into HTTP and gRPC codes. The classes
that carry `exit_code` are also answers of the command line (2 usage, 3 data).

    ServingError
    +-- InvalidRequestError
    |   +-- LimitExceededError
    |   +-- SignatureNotFoundError
    +-- ModelNotFoundError
    |   +-- VersionNotFoundError
    |   +-- LabelNotFoundError
    +-- NotReadyError
    +-- OverloadedError
    +-- DeadlineExceededError
    +-- CancelledError
    +-- UnsupportedError
    +-- EngineError
    |   +-- RowsError
    +-- LoadError
    +-- ConfigError          exit code 2
"""

from collections.abc import Iterable


class ServingError(Exception):
    """The base; its text is safe to send: no paths, no stack."""


class InvalidRequestError(ServingError):
    """The request cannot be answered as it is; `field` names the part at fault."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class LimitExceededError(InvalidRequestError):
    """The request is larger or deeper than the server takes."""


class SignatureNotFoundError(InvalidRequestError):
    """The servable has no such signature."""

    def __init__(self, signature: str, known: Iterable[str]) -> None:
        self.signature = signature
        self.known = tuple(sorted(known))
        super().__init__(
            f"No signature {signature!r}; this model has {', '.join(self.known) or 'none'}.",
            field="signature_name",
        )


class ModelNotFoundError(ServingError):
    """The server has no such model."""

    def __init__(self, model: str, served: Iterable[str] = (), message: str = "") -> None:
        self.model = model
        self.served = tuple(sorted(served))
        names = ", ".join(self.served) or "none"
        super().__init__(message or f"No model {model!r}; this server has {names}.")


class VersionNotFoundError(ModelNotFoundError):
    """The model is there, the version is not."""

    def __init__(self, model: str, version: int, available: Iterable[int] = ()) -> None:
        self.version = version
        self.available = tuple(sorted(available))
        have = ", ".join(map(str, self.available)) or "none"
        super().__init__(
            model, message=f"Model {model!r} has no version {version}; available: {have}."
        )


class LabelNotFoundError(ModelNotFoundError):
    """The model is there, the version label is not."""

    def __init__(self, model: str, label: str, known: Iterable[str] = ()) -> None:
        self.label = label
        self.known = tuple(sorted(known))
        have = ", ".join(self.known) or "none"
        super().__init__(
            model, message=f"Model {model!r} has no version label {label!r}; there are: {have}."
        )


class NotReadyError(ServingError):
    """The server or the model is starting, draining or between versions; trying again helps."""


class OverloadedError(ServingError):
    """The queue is full: the request was refused at once."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(ServingError):
    """The request's time was over before its answer was there."""


class CancelledError(ServingError):
    """The caller has gone."""


class UnsupportedError(ServingError):
    """A thing the protocol has and this server or engine has not."""


class EngineError(ServingError):
    """The engine failed on a request that looked right."""


class RowsError(EngineError):
    """The model gave other rows than it got, so its answer cannot be divided or put together."""

    def __init__(self, output: str, shape: Iterable[int], rows: int) -> None:
        super().__init__(
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension "
            f"sizes of the input tensors: {output!r} has shape {list(shape)} for a batch of {rows}. "
            "Requests cannot share batches of this model, nor be padded or split."
        )


class LoadError(ServingError):
    """A version could not be loaded or did not prove itself; the text says why."""


class ConfigError(ServingError):
    """Settings that cannot work: a port in use, a base path that is not there."""

    exit_code = 2


# The canonical codes that gRPC, TensorFlow Serving and our metrics share. Subclasses stand before
# their bases: the first that fits is taken.
CODES: tuple[tuple[type[Exception], str], ...] = (
    (LabelNotFoundError, "INVALID_ARGUMENT"),
    (ModelNotFoundError, "NOT_FOUND"),
    (LimitExceededError, "INVALID_ARGUMENT"),
    (InvalidRequestError, "INVALID_ARGUMENT"),
    (NotReadyError, "UNAVAILABLE"),
    (OverloadedError, "RESOURCE_EXHAUSTED"),
    (DeadlineExceededError, "DEADLINE_EXCEEDED"),
    (CancelledError, "CANCELLED"),
    (UnsupportedError, "UNIMPLEMENTED"),
    (RowsError, "FAILED_PRECONDITION"),
    (EngineError, "INTERNAL"),
    (LoadError, "UNKNOWN"),
)


def code_of(error: Exception) -> str:
    """The canonical code of an error; INTERNAL for a defect."""
    return next((code for kind, code in CODES if isinstance(error, kind)), "INTERNAL")
