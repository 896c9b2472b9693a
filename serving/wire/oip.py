"""What the Open Inference Protocol's REST and gRPC forms share: datatypes, raw tensors, requests."""

import math
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError, UnsupportedError
from serving.messages import (
    Array,
    ModelMetadata,
    PredictCall,
    PredictReply,
    Signature,
    Spent,
    TensorSpec,
    VersionStatistics,
)
from serving.wire.tensors import count_of, dtype_name, native, numpy_type_of

# Our names -> the protocol's.
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "bfloat16": "BF16",
    "bytes": "BYTES",
}
DTYPES = {theirs: ours for ours, theirs in DATATYPES.items()}

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "statistics",
)


def extensions(*, has_administration: bool) -> list[str]:
    """The protocol's extensions that a server has."""
    return [*EXTENSIONS, *(["model_repository"] if has_administration else [])]


# A client may ask for the k best of each row; more than this is a mistake.
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """How one output is wanted: raw or as JSON, whole or as its `classification` best."""

    is_binary: bool = False
    classification: int = 0


AS_JSON, AS_RAW = RequestedOutput(), RequestedOutput(is_binary=True)


@dataclass(slots=True)
class InferRequest:
    """A request of the protocol: the call, and how its answer is to be written.

    Attributes:
        call: For the core.
        id: Echoed when it is not empty.
        outputs: How each output that was named is wanted.
        default: How an output is wanted that was not named.
        timeout_s: What the parameter `timeout` allows, or None.
    """

    call: PredictCall
    id: str
    outputs: Mapping[str, RequestedOutput]
    default: RequestedOutput = AS_JSON
    timeout_s: float | None = None

    def wanted(self, name: str) -> RequestedOutput:
        """How an output is wanted."""
        return self.outputs.get(name, self.default)

    def due(self, received: float, deadline: float | None) -> PredictCall:
        """The call with the earlier of a caller's deadline and the parameter `timeout`.

        Args:
            received: When the request arrived, on the monotonic clock.
            deadline: What the transport said, on the same clock.
        """
        if self.timeout_s is not None:
            end = received + self.timeout_s
            deadline = end if deadline is None else min(end, deadline)
        return self.call if deadline is None else replace(self.call, deadline=deadline)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Those parameters of a request that the server knows; others are ignored.

    Attributes:
        signature: `signature_name`: of a model with several, which one.
        priority: 0 is the default, 1 the highest.
        timeout_s: `timeout`, which comes in microseconds.
        is_binary: `binary_data_output`.
    """

    signature: str = ""
    priority: int = 0
    timeout_s: float | None = None
    is_binary: bool = False


NO_PARAMETERS = Parameters()


def read_parameters(parameters: Mapping[str, Any]) -> Parameters:
    """Reads the parameters of a request.

    Raises:
        InvalidRequestError: one of the wrong type, or a name that Triton keeps for itself.
    """
    if not parameters:
        return NO_PARAMETERS
    for name in parameters:
        if name.startswith("triton_") and name != "triton_enable_empty_final_response":
            raise InvalidRequestError(
                f"Parameter {name!r} starts with 'triton_', which is reserved.", field=name
            )
    signature = parameters.get("signature_name", "")
    if not isinstance(signature, str):
        raise InvalidRequestError(
            f"The parameter signature_name is {signature!r}; a text is expected.",
            field="signature_name",
        )
    timeout = whole_number(parameters, "timeout")
    return Parameters(
        signature=signature,
        priority=whole_number(parameters, "priority"),
        timeout_s=timeout / 1e6 if timeout else None,
        is_binary=parameters.get("binary_data_output") is True,
    )


def whole_number(parameters: Mapping[str, Any], name: str) -> int:
    """A parameter that is a whole number; 0 where there is none.

    Raises:
        InvalidRequestError: it is none, below 0, or too large.
    """
    value = parameters.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise InvalidRequestError(
            f"The parameter {name} is {value!r:.80}; a whole number from 0 to {LARGEST} is "
            "expected.",
            field=name,
        )
    return value


# What a parameter or a size can be at most: gRPC has 64 bits with a sign for them.
LARGEST = 2**63 - 1

# A bool is an int to isinstance.
_WHOLE = {int}


def check_shape(name: str, datatype: Any, shape: Any) -> tuple[tuple[int, ...], str]:
    """Returns (shape, our dtype) of an input's declaration.

    Raises:
        InvalidRequestError: a datatype or shape that is none.
        LimitExceededError: too many elements.
    """
    if not isinstance(datatype, str) or datatype not in DTYPES:
        raise InvalidRequestError(
            f"Input {name!r} has datatype {datatype!r}; there are {', '.join(DTYPES)}.", field=name
        )
    if (
        not isinstance(shape, list | tuple)
        or not set(map(type, shape)) <= _WHOLE
        or min(shape, default=0) < 0
        or max(shape, default=0) > LARGEST
    ):
        raise InvalidRequestError(
            f"Input {name!r} has shape {shape!r:.200}; whole numbers from 0 are expected.",
            field=name,
        )
    count_of(name, shape)
    return tuple(shape), DTYPES[datatype]


def decode_raw(data: bytes | memoryview, name: str, shape: tuple[int, ...], dtype: str) -> Array:
    """Reads a raw tensor; numbers are not copied.

    Raises:
        InvalidRequestError: the bytes do not fit the shape.
    """
    if dtype == "bytes":
        return _decode_strings(bytes(data), name, math.prod(shape)).reshape(shape)
    numpy_type = np.dtype(numpy_type_of(dtype))
    wanted = math.prod(shape) * numpy_type.itemsize
    if len(data) != wanted:
        raise InvalidRequestError(
            f"Input {name!r} of shape {list(shape)} and type {DATATYPES[dtype]} has {wanted} "
            f"bytes; {len(data)} came.",
            field=name,
        )
    return np.frombuffer(data, dtype=numpy_type).reshape(shape)


def _decode_strings(data: bytes, name: str, number: int) -> Array:
    found = np.empty(number, dtype=np.object_)
    place = 0
    for index in range(number):
        head = data[place : place + 4]
        length = struct.unpack("<I", head)[0] if len(head) == 4 else -1
        place += 4
        if length < 0 or place + length > len(data):
            raise InvalidRequestError(
                f"Input {name!r}: string {index} of {number} goes beyond its {len(data)} bytes.",
                field=name,
            )
        found[index] = data[place : place + length]
        place += length
    if place != len(data):
        raise InvalidRequestError(
            f"Input {name!r}: {len(data) - place} bytes are left after {number} strings.",
            field=name,
        )
    return found


def encode_raw(array: Array) -> bytes:
    """Writes a tensor raw: little-endian, row-major; strings each with its length before it."""
    if dtype_name(array) == "bytes":
        items = (item if isinstance(item, bytes) else str(item).encode() for item in array.ravel())
        return b"".join(struct.pack("<I", len(item)) + item for item in items)
    return native(array).tobytes()


def view_raw(array: Array) -> bytes | memoryview:
    """As `encode_raw`, without a copy where the array lies as it is sent."""
    if dtype_name(array) == "bytes":
        return encode_raw(array)
    flat = np.ascontiguousarray(native(array)).reshape(-1)
    return flat.view(np.uint8).data


def datatype_of(array: Array) -> str:
    """The protocol's name for an array's type.

    Raises:
        UnsupportedError: the protocol has none, e.g. for complex numbers.
    """
    name = dtype_name(array)
    if name not in DATATYPES:
        raise UnsupportedError(f"The Open Inference Protocol has no datatype for {name}.")
    return DATATYPES[name]


def classify(array: Array, k: int, labels: tuple[str, ...]) -> Array:
    """The k best of each row as "value:index[:label]" [B, k]: the classification extension.

    Raises:
        InvalidRequestError: a k or an output that cannot be ranked.
    """
    if not 1 <= k <= MOST_CLASSES:
        raise InvalidRequestError(
            f"classification is {k}; 1 to {MOST_CLASSES:,} works.", field="classification"
        )
    if array.dtype.kind not in "fiu":
        raise InvalidRequestError(
            f"An output of type {dtype_name(array)} cannot be ranked.", field="classification"
        )
    rows = array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)
    # Minus a whole number has no place in an unsigned type, and the least one of a signed type
    # none either; the complement turns the order around for all of them.
    turned = -rows if rows.dtype.kind == "f" else ~rows
    best = np.argsort(turned, axis=1, kind="stable")[:, :k]
    texts = np.empty(best.shape, dtype=np.object_)
    for row, column in np.ndindex(*best.shape):
        index = int(best[row, column])
        label = f":{labels[index]}" if index < len(labels) else ""
        texts[row, column] = f"{float(rows[row, index]):f}:{index}{label}".encode()
    return texts if array.ndim > 1 else texts[0]


def outputs_of(
    request: InferRequest, reply: PredictReply, labels: tuple[str, ...]
) -> dict[str, Array]:
    """The outputs of a reply as they were wanted, ranked where that was asked for."""
    return {
        name: classify(array, wanted.classification, labels)
        if (wanted := request.wanted(name)).classification
        else array
        for name, array in reply.outputs.items()
    }


def no_shared_memory() -> UnsupportedError:
    """What Triton's extension for tensors in shared memory is answered with."""
    return UnsupportedError(
        "Shared memory is not supported; send tensors in the request and take them from the answer."
    )


def check_memory(name: str, parameters: Container[str]) -> None:
    """Raises `UnsupportedError` for a tensor that lies in shared memory, or shall lie there."""
    if "shared_memory_region" in parameters:
        raise UnsupportedError(f"Tensor {name!r} has a shared_memory_region. {no_shared_memory()}")


def check_load_parameters(parameters: Mapping[str, Any]) -> None:
    """Raises `UnsupportedError` for a load that brings its own configuration or files."""
    for name in parameters:
        if name != "unload_dependents":
            raise UnsupportedError(
                f"Parameter {name[:40]!r} is not supported; models are loaded as they are published."
            )


def model_config(metadata: ModelMetadata, signature: Signature) -> dict[str, Any]:
    """Triton's model configuration as far as it has a meaning here.

    `max_batch_size` 0 says that `dims` are whole shapes, their leading -1 the batch.
    """
    return {
        "name": metadata.model,
        "platform": metadata.platform,
        "backend": "convzoo",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,
        "input": [_config_of(spec) for spec in signature.inputs.values()],
        "output": [_config_of(spec) for spec in signature.outputs.values()],
        "model_transaction_policy": {"decoupled": False},
    }


def _config_of(spec: TensorSpec) -> dict[str, Any]:
    datatype = "STRING" if spec.dtype == "bytes" else DATATYPES[spec.dtype]
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": sizes_of(spec)}


def sizes_of(spec: TensorSpec) -> list[int]:
    """A shape as the protocol writes it: -1 for any size; one -1 for any rank."""
    shape = (None,) if spec.shape is None else spec.shape
    return [-1 if size is None else size for size in shape]


def statistics_of(versions: tuple[VersionStatistics, ...]) -> dict[str, Any]:
    """Triton's statistics: counts, and times in all in nanoseconds."""
    return {"model_stats": [_statistics_of(each) for each in versions]}


def _statistics_of(version: VersionStatistics) -> dict[str, Any]:
    return {
        "name": version.model,
        "version": str(version.version),
        "last_inference": round(version.last_unix_s * 1000),
        "inference_count": version.rows,
        "execution_count": version.batches,
        "inference_stats": {
            "success": _duration(version.success),
            "fail": _duration(version.failure),
            "queue": _duration(version.queue),
            "compute_input": _duration(version.decode),
            "compute_infer": _duration(version.execute),
            "compute_output": _duration(version.encode),
        },
        "batch_stats": [
            {"batch_size": each.rows, "compute_infer": _duration(each.execute)}
            for each in version.by_rows
        ],
    }


def _duration(spent: Spent) -> dict[str, int]:
    return {"count": spent.count, "ns": round(spent.total_s * 1e9)}
