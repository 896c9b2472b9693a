"""What the Open Inference Protocol's REST and gRPC forms share: datatypes, raw tensors, requests."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError, LimitExceededError, UnsupportedError
from serving.messages import Array, PredictCall, PredictReply
from serving.wire.tensors import MAX_ELEMENTS, dtype_name, native, numpy_type_of

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

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "parameters")

# A client may ask for the k best of each row; more than this is a mistake.
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """How one output is wanted: raw or as JSON, whole or as its `classification` best."""

    is_binary: bool = False
    classification: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request of the protocol: the call, and how its answer is to be written.

    Attributes:
        call: For the core.
        id: Echoed when it is not empty.
        outputs: How each output that was named is wanted.
        default: How an output is wanted that was not named.
    """

    call: PredictCall
    id: str
    outputs: Mapping[str, RequestedOutput]
    default: RequestedOutput = RequestedOutput()

    def wanted(self, name: str) -> RequestedOutput:
        """How an output is wanted."""
        return self.outputs.get(name, self.default)


def check_shape(name: str, datatype: str, shape: Any) -> tuple[tuple[int, ...], str]:
    """Returns (shape, our dtype) of an input's declaration.

    Raises:
        InvalidRequestError: a datatype or shape that is none.
        LimitExceededError: too many elements.
    """
    if datatype not in DTYPES:
        raise InvalidRequestError(
            f"Input {name!r} has datatype {datatype!r}; there are {', '.join(DTYPES)}.", field=name
        )
    if not isinstance(shape, list | tuple) or not all(
        isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape
    ):
        raise InvalidRequestError(
            f"Input {name!r} has shape {shape!r}; whole numbers from 0 are expected.", field=name
        )
    number = math.prod(shape)
    if number > MAX_ELEMENTS:
        raise LimitExceededError(
            f"Input {name!r} has shape {list(shape)}, {number:,} elements; "
            f"at most {MAX_ELEMENTS:,} are taken.",
            field=name,
        )
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
    best = np.argsort(-rows, axis=1, kind="stable")[:, :k]
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
