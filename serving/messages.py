"""What the core is asked and what it answers: no protocol, no framework.

Every front end decodes its wire format into these and encodes these back. Arrays are NumPy; a
string tensor is an object array of `bytes`.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output of a signature.

    Attributes:
        name: The key in the signature.
        dtype: NumPy's name ("float32", "uint8", "int64", "bool"...), "bytes" for strings,
            "bfloat16" for the type NumPy lacks.
        shape: None in a place stands for any size; None as a whole for any rank.
        tensor_name: The graph's name for it, e.g. "serving_default_image:0"; metadata only.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    tensor_name: str = ""


@dataclass(frozen=True, slots=True)
class Signature:
    """A named function of a servable."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = "tensorflow/serving/predict"


DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class Target:
    """Which servable is meant: the newest version, one version, or the one a label points to."""

    model: str
    version: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class PredictCall:
    """One request for one signature.

    Attributes:
        target: Which servable.
        signature: Empty means `serving_default`.
        inputs: Every input of the signature, by name.
        outputs: Which outputs to answer, in this order; empty means all.
        deadline: A moment on the monotonic clock (`time.monotonic`), or None for the model's
            default.
        request_id: Echoed in the answer, logs and traces.
        priority: 0 is the default, 1 the highest, larger is lower.
    """

    target: Target
    inputs: Mapping[str, Array]
    signature: str = ""
    outputs: tuple[str, ...] = ()
    deadline: float | None = None
    request_id: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of a request went, in seconds."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    execute_s: float = 0.0
    encode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PredictReply:
    """The answer to a `PredictCall`: which version answered, and its outputs by name, in order."""

    model: str
    version: int
    signature: str
    outputs: Mapping[str, Array]
    timings: Timings = Timings()
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ClassifyImagesCall:
    """Images in, labels out: encoded images (JPEG, PNG, WebP, BMP) as they arrived."""

    target: Target
    images: tuple[bytes, ...]
    top_k: int = 5
    deadline: float | None = None
    request_id: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One of the k best labels of an image."""

    class_id: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class ClassifyImagesReply:
    """For each image its k best labels, best first."""

    model: str
    version: int
    results: tuple[tuple[LabelScore, ...], ...]
    timings: Timings = Timings()
    request_id: str = ""


class VersionState(enum.StrEnum):
    """The states of TF Serving's `ModelVersionStatus`; a version moves downwards only."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of one model: its state and, when it failed, why.

    `error_code` is the name of a canonical gRPC code ("OK", "NOT_FOUND", "UNKNOWN"...).
    """

    version: int
    state: VersionState
    error_code: str = "OK"
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """All known versions of a model, newest first."""

    model: str
    versions: tuple[VersionStatus, ...]
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a version takes and gives."""

    model: str
    version: int
    signatures: Mapping[str, Signature]
    labels: tuple[str, ...] = ()
    platform: str = "tensorflow_savedmodel"
    versions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions of a model serve: all, else those of `specific`, else the `latest` newest."""

    latest: int = 1
    specific: tuple[int, ...] = ()
    is_all: bool = False


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One model of a configuration.

    Attributes:
        name: What requests call it.
        base_path: The folder of its versions.
        policy: Which of them serve.
        labels: Version labels and the versions they point to.
    """

    name: str
    base_path: str
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReloadConfigCall:
    """A configuration that replaces the whole one before: models it lacks are unloaded."""

    models: tuple[ModelSettings, ...]
    deadline: float | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Spent:
    """How often something was done and how long it took in all, in seconds."""

    count: int = 0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """The batches of one size: how many, and their time in the engine."""

    rows: int
    execute: Spent


@dataclass(frozen=True, slots=True)
class VersionStatistics:
    """What a version has done since it was loaded.

    Attributes:
        model: The model's name.
        version: The version's number.
        rows: Rows (images) answered.
        batches: Batches run.
        success: Requests answered, with their whole time.
        failure: Requests that got an error.
        queue: Waiting for a batch; `decode`, `execute` and `encode` as in `Timings`.
        by_rows: The batches by their size, ascending.
        last_unix_s: When the last request came, in seconds since 1970; 0 for never.
    """

    model: str
    version: int
    rows: int = 0
    batches: int = 0
    success: Spent = Spent()
    failure: Spent = Spent()
    queue: Spent = Spent()
    decode: Spent = Spent()
    execute: Spent = Spent()
    encode: Spent = Spent()
    by_rows: tuple[BatchStatistics, ...] = ()
    last_unix_s: float = 0.0


def as_batch_rows(array: Array) -> int:
    """Rows of a batch: its leading dimension, 1 for a scalar."""
    return int(array.shape[0]) if np.ndim(array) else 1
