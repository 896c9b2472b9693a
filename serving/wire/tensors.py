"""NumPy arrays to and from TensorFlow's TensorProto.

Rules, as TensorFlow's C++ has them:
1. `tensor_content`, when there is any, wins over the typed fields and has exactly the tensor's bytes.
2. Of typed values, fewer than the tensor has elements means that the last one is repeated; none
   means zeros; more are ignored.
3. Sizes are checked before anything is allocated: twenty bytes can declare a terabyte.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError, LimitExceededError, UnsupportedError
from serving.limits import LIMITS, Limits
from serving.messages import Array

# name -> (DataType number, typed field, NumPy type)
_TYPES: dict[str, tuple[int, str, Any]] = {
    "float32": (1, "float_val", np.float32),
    "float64": (2, "double_val", np.float64),
    "int32": (3, "int_val", np.int32),
    "uint8": (4, "int_val", np.uint8),
    "int16": (5, "int_val", np.int16),
    "int8": (6, "int_val", np.int8),
    "bytes": (7, "string_val", np.object_),
    "complex64": (8, "scomplex_val", np.complex64),
    "int64": (9, "int64_val", np.int64),
    "bool": (10, "bool_val", np.bool_),
    "bfloat16": (14, "half_val", np.uint16),
    "uint16": (17, "int_val", np.uint16),
    "complex128": (18, "dcomplex_val", np.complex128),
    "float16": (19, "half_val", np.float16),
    "uint32": (22, "uint32_val", np.uint32),
    "uint64": (23, "uint64_val", np.uint64),
}
DTYPE_NUMBERS = {name: number for name, (number, _, _) in _TYPES.items()}
DTYPE_NAMES = {number: name for name, number in DTYPE_NUMBERS.items()}

# How TensorFlow spells the types in metadata, e.g. DT_FLOAT.
ENUM_NAMES = {
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "float16": "DT_HALF",
    "bytes": "DT_STRING",
} | {
    name: f"DT_{name.upper()}"
    for name in _TYPES
    if name not in ("float32", "float64", "float16", "bytes")
}
NAMES_OF_ENUM = {spelled: name for name, spelled in ENUM_NAMES.items()}


# The fields float_val (5) and double_val (6), packed: their numbers lie as NumPy's do.
_PACKED_TAGS = {"float32": b"\x2a", "float64": b"\x32"}


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def dtype_name(array: Array) -> str:
    """The project's name for an array's type: NumPy's, or "bytes" for objects and strings."""
    return _name_of(array.dtype)


@cache  # NumPy works a type's name out anew each time
def _name_of(dtype: np.dtype[Any]) -> str:
    return "bytes" if dtype.kind in "OSU" else dtype.name


@cache
def numpy_type_of(dtype: str) -> Any:
    """NumPy's type for one of our names; bfloat16 as its 16 bits where NumPy cannot be taught it.

    TensorFlow and JAX bring `ml_dtypes`; nothing else has a use for bfloat16.
    """
    if dtype == "bfloat16":
        try:
            import ml_dtypes
        except ModuleNotFoundError:
            return np.uint16
        return ml_dtypes.bfloat16
    return _TYPES[dtype][2]


def native(array: Array) -> Array:
    """The array in this machine's byte order; the same one when it is already."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def encode_tensor(array: Array, proto: Any, *, as_content: bool) -> None:
    """Writes an array into a TensorProto.

    Args:
        array: Any of the types above; strings as an object array of bytes.
        proto: An empty TensorProto.
        as_content: Raw bytes, which TensorFlow's clients send and Python reads fastest; else
            typed fields, which TensorFlow Serving answers and other languages read.

    Raises:
        UnsupportedError: a type that TensorProto has no field for.
    """
    name = dtype_name(array)
    if name not in _TYPES:
        raise UnsupportedError(f"Tensors of {name} cannot be sent; TensorProto has no such type.")
    array = native(array)
    proto.dtype, field, _ = _TYPES[name]
    shape = proto.tensor_shape  # reading it marks it as set, as it must be for scalars too
    shape.SetInParent()
    for size in array.shape:
        shape.dim.add().size = size
    if name == "bytes":
        proto.string_val.extend(
            item if isinstance(item, bytes) else str(item).encode() for item in array.ravel()
        )
    elif as_content:
        proto.tensor_content = array.tobytes()
    elif name in _PACKED_TAGS:
        # The field as it is written, and no number by way of Python: a tenth of the time.
        content = array.tobytes()
        proto.MergeFromString(_PACKED_TAGS[name] + varint(len(content)) + content)
    else:
        flat = array.ravel()
        if name in ("float16", "bfloat16"):
            flat = flat.view(np.uint16)
        elif flat.dtype.kind == "c":
            flat = flat.view(flat.real.dtype)
        getattr(proto, field).extend(flat.tolist())


def decode_tensor(proto: Any, name: str, limits: Limits = LIMITS) -> Array:
    """Reads a TensorProto; numeric `tensor_content` is not copied.

    Args:
        proto: The message.
        name: The tensor's name, for messages.
        limits: How large it may be.

    Returns:
        An array, read-only where it lies in the message; strings as an object array of bytes.

    Raises:
        InvalidRequestError: a type or shape that is none, or bytes that do not fit them.
        LimitExceededError: too many elements.
    """
    dtype = DTYPE_NAMES.get(proto.dtype)
    if dtype is None:
        raise InvalidRequestError(
            f"Input {name!r} has type number {proto.dtype}, which is none that can be served.",
            field=name,
        )
    declared = proto.tensor_shape
    if declared.unknown_rank:
        raise InvalidRequestError(f"Input {name!r} has a shape of unknown rank.", field=name)
    check_dimensions(name, len(declared.dim), limits)
    shape = tuple([dim.size for dim in declared.dim])
    if min(shape, default=0) < 0:
        raise InvalidRequestError(
            f"Input {name!r} has shape {list(shape)}; no size may be negative.", field=name
        )
    number = count_of(name, shape, limits)
    field, numpy_type = _TYPES[dtype][1], numpy_type_of(dtype)
    content = proto.tensor_content  # once: reading it copies it
    if not content and number > limits.repeated_elements:
        _check_repeated(len(getattr(proto, field)), name, number, limits)
    if dtype == "bytes":
        return _strings(proto, name, number).reshape(shape)
    if content:
        wanted = number * np.dtype(numpy_type).itemsize
        if len(content) != wanted:
            raise InvalidRequestError(
                f"tensor parsing error: {name}: shape {list(shape)} of {dtype} has {wanted} "
                f"bytes; tensor_content has {len(content)}.",
                field=name,
            )
        return np.frombuffer(content, dtype=numpy_type).reshape(shape)
    return _typed(getattr(proto, field), dtype, numpy_type, number).reshape(shape)


def check_dimensions(name: str, found: int, limits: Limits = LIMITS) -> None:
    """Refuses too many dimensions, before any of them is looked at: a message may have millions.

    Raises:
        LimitExceededError: says how many are taken.
    """
    if found > limits.dimensions:
        raise LimitExceededError(
            f"Input {name!r} has {found} dimensions; at most {limits.dimensions} are taken.",
            field=name,
        )


def count_of(name: str, shape: Sequence[int], limits: Limits = LIMITS) -> int:
    """How many elements a shape has, before anything is allocated for them.

    Raises:
        LimitExceededError: too many, or too many dimensions.
    """
    check_dimensions(name, len(shape), limits)
    number = math.prod(shape)
    # NumPy makes no empty array either whose other sizes are too large.
    reach = number or math.prod(filter(None, shape))
    if reach > limits.elements:
        raise LimitExceededError(
            f"Input {name!r} has shape {list(shape)}, {reach:,} "
            f"{'elements' if number else 'times 0 elements'}; "
            f"at most {limits.elements:,} are taken.",
            field=name,
        )
    return number


def _check_repeated(given: int, name: str, number: int, limits: Limits) -> None:
    if given < number:
        raise LimitExceededError(
            f"Input {name!r} has {number:,} elements and brings {given:,}; the last value is "
            f"repeated for at most {limits.repeated_elements:,}.",
            field=name,
        )


def _typed(values: Any, dtype: str, numpy_type: Any, number: int) -> Array:
    found: Array
    if dtype in ("float16", "bfloat16"):
        found = np.array(values, dtype=np.int64).astype(np.uint16).view(numpy_type)
    elif dtype in ("complex64", "complex128"):
        parts = np.array(values, dtype=np.float32 if dtype == "complex64" else np.float64)
        found = parts[: len(parts) // 2 * 2].view(numpy_type)
    elif numpy_type in (np.uint8, np.int16, np.int8, np.uint16):
        found = np.array(values, dtype=np.int64).astype(numpy_type)  # wraps, as TensorFlow does
    else:
        found = np.array(values, dtype=numpy_type)
    if len(found) >= number:
        return found[:number]
    filled = np.zeros(number, dtype=numpy_type)
    filled[: len(found)] = found
    if len(found):
        filled[len(found) :] = found[-1]
    return filled


def _strings(proto: Any, name: str, number: int) -> Array:
    values = list(proto.string_val)
    if proto.tensor_content:
        values = _string_content(proto.tensor_content, name, number)
    filled = np.empty(number, dtype=np.object_)
    filled[:] = values[-1] if values else b""
    filled[: len(values)] = values[:number]
    return filled


def _string_content(content: bytes, name: str, number: int) -> list[bytes]:
    """All lengths as varints, then all bytes."""
    lengths, place = [], 0
    for _ in range(number):
        length = shift = 0
        while True:
            if place >= len(content) or shift > 63:
                raise InvalidRequestError(
                    f"tensor parsing error: {name}: the lengths of {number} strings end too early.",
                    field=name,
                )
            byte = content[place]
            place += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if place + sum(lengths) != len(content):
        raise InvalidRequestError(
            f"tensor parsing error: {name}: {number} strings of {sum(lengths)} bytes in all; "
            f"tensor_content has {len(content) - place}.",
            field=name,
        )
    strings = []
    for length in lengths:
        strings.append(content[place : place + length])
        place += length
    return strings
