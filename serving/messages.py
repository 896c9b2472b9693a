"""What the core is asked and what it answers: no protocol, no framework.

Every front end decodes its wire format into these and encodes these back. Arrays are NumPy; a
string tensor is an object array of `bytes`. Those that every request needs are not frozen, because
making a frozen one takes five times as long; only who had one made for itself may change it.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
    """A named function of a servable; `defaults` stand for inputs that a request leaves out."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = "tensorflow/serving/predict"
    # Arrays have no one answer to whether they are equal.
    defaults: Mapping[str, Array] = field(default_factory=dict, compare=False)


DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class Target:
    """Which servable is meant: the newest version, one version, or the one a label points to."""

    model: str
    version: int | None = None
    label: str | None = None


@dataclass(slots=True)
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


class Timings(NamedTuple):
    """Where the time of a request went, in seconds."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    execute_s: float = 0.0
    encode_s: float = 0.0


NO_TIME = Timings()


class Outcome(enum.StrEnum):
    """How an answer came about: the same word in header, log line and metric."""

    DIRECT = "direct"  # the engine was free
    QUEUED = "queued"  # it waited for the engine
    JOINED = "joined"  # an identical request was being answered, and its answer served both
    CACHED = "cached"  # it had been answered before
    SHED = "shed"  # it was refused at once, because too much waited already
    LATE = "late"  # its deadline passed before it was run
    FAILED = "failed"


@dataclass(slots=True)
class PredictReply:
    """The answer to a `PredictCall`: which version answered, and its outputs by name, in order.

    `outcome` is one of `Outcome`: how the answer came about.
    """

    model: str
    version: int
    signature: str
    outputs: Mapping[str, Array]
    timings: Timings = NO_TIME
    request_id: str = ""
    outcome: str = ""


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
    timings: Timings = NO_TIME
    request_id: str = ""
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class ExplainCall:
    """One image, one method of explanation.

    Attributes:
        target: The model.
        method: Its name.
        image: An encoded image as it arrived; a few methods need none.
        layer: The layer to look at; the method's choice when None.
        explained: The class to explain, by label or id; the network's best when None.
        options: The method's own.
        is_picture: Whether a PNG is wanted in place of arrays.
        deadline: As in `PredictCall`.
        request_id: Likewise.
    """

    target: Target
    method: str
    image: bytes = b""
    layer: str | None = None
    explained: str | int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    is_picture: bool = False
    deadline: float | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class ExplainReply:
    """What a method found: arrays by name and facts as JSON has them, or a PNG."""

    model: str
    version: int
    method: str
    layer: str | None
    class_id: int | None
    label: str | None
    arrays: Mapping[str, Array]
    facts: Mapping[str, Any]
    picture: bytes = b""
    timings: Timings = NO_TIME
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """A layer of a version, and the methods that can look at it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parents: tuple[str, ...]
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MethodRecord:
    """A method as this server can run it for a version.

    `options` is the JSON Schema of its options; `problem` says why it cannot run, when it cannot.
    """

    name: str
    title: str
    paper: str
    takes_layer: bool
    needs_layer: bool
    takes_target: bool
    needs_image: bool
    options: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Framing:
    """How a drawing is laid out to look like what a version learned.

    The longer side of the ink gets `box` of the `field` pixels of a square; its centre of mass, or
    that of its box, goes to the middle.
    """

    field: int
    box: int
    is_by_mass: bool


@dataclass(frozen=True, slots=True)
class LayersReply:
    """What of a version can be looked into.

    `image_size` is the height and width that images must have, where the version does not resize
    them; None where any size works. `framing` is known of versions that learned framed digits.
    """

    model: str
    version: int
    labels: tuple[str, ...]
    input_shape: tuple[int, ...]
    colour: str
    image_size: tuple[int, int] | None
    layers: tuple[LayerRecord, ...]
    methods: tuple[MethodRecord, ...]
    framing: Framing | None = None


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

    `error_code` is the name of a canonical gRPC code ("OK", "NOT_FOUND", "UNKNOWN"...). With "OK"
    the message is a note: the version serves, but e.g. not in the precision it was published in.
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


@dataclass(slots=True)
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


DEFAULT_POLICY = VersionPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionOptions:
    """How one version is run.

    Attributes:
        engine: What runs it; None leaves it to the version.
        is_isolated: Whether the engine runs in a process of its own, so that a crash stays there
            and unloading returns all of its memory. TensorFlow always does.
        max_batch_rows: Rows of one batch; None lets the measurement at load decide.
        batch_sizes: Sizes that batches are padded to, ascending; none means no padding.
        streams: Batches that run at the same time; None lets the measurement decide. Where it finds
            several, the network is held a second time, on all cores, for a batch that runs alone.
        joins_foreign: Whether requests for a SavedModel without a manifest may share batches: only
            its owner knows whether its graph treats rows apart.
        is_tuned: Whether batch sizes and streams are measured when it is loaded.
        latency_target_s: A batch may not take longer than this.
        max_queued_rows: Rows that may wait.
        max_queue_s: Seconds of work, by estimate, that may wait.
        default_timeout_s: The deadline of requests that bring none; None for the server's.
        answers_once: Whether identical requests in flight get one answer.
        cache_bytes: Answers kept for identical requests; 0 keeps none.
        drift_sample: The share of its images, 0 to 1, that the log of drift measures, where the
            server has one; None for the server's.
    """

    engine: str | None = None
    is_isolated: bool = False
    max_batch_rows: int | None = None
    batch_sizes: tuple[int, ...] = ()
    streams: int | None = None
    joins_foreign: bool = False
    is_tuned: bool = True
    latency_target_s: float = 1.0
    max_queued_rows: int = 4096
    max_queue_s: float = 20.0
    default_timeout_s: float | None = None
    answers_once: bool = False
    cache_bytes: int = 0
    drift_sample: float | None = None


DEFAULT_OPTIONS = VersionOptions()


class Transition(enum.StrEnum):
    """What happens first when versions change."""

    AVAILABILITY = "availability"  # load the next one, then unload the one before
    RESOURCES = "resources"  # unload first: there is never memory for two


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One model of a configuration.

    Attributes:
        name: What requests call it.
        base_path: The folder of its versions.
        policy: Which of them serve.
        labels: Version labels and the versions they point to; they must serve by the policy.
        transition: What happens first when versions change.
        options: How its versions are run.
        version_options: The same for versions that differ.
    """

    name: str
    base_path: str
    policy: VersionPolicy = DEFAULT_POLICY
    labels: Mapping[str, int] = field(default_factory=dict)
    transition: Transition = Transition.AVAILABILITY
    options: VersionOptions = DEFAULT_OPTIONS
    version_options: Mapping[int, VersionOptions] = field(default_factory=dict)

    def options_of(self, version: int) -> VersionOptions:
        """How one version is run."""
        return self.version_options.get(version, self.options)


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
