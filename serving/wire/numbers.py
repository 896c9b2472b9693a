"""The fast paths of JSON predictions: numbers straight into an array, with simdjson.

Of TensorFlow Serving's bodies the usual ones: `{"instances": [[...]]}`, `{"inputs": [[...]]}` or
`{"inputs": {"name": [[...]]}}`, with a signature's name at most beside it, and numbers in regular
nesting. Of Open Inference's, the floats of each input's `data`. Everything else is left to the
general readers, so this file decides nothing and words no error.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.limits import LIMITS

_KEYS = ("instances", "inputs")
# What numbers are written with; what is left of an array of them are its brackets and commas.
_OF_NUMBERS = b"0123456789+-.eE \t\r\n"
# The structures of so large arrays are remembered, so many of them.
_MOST_KEPT_VALUES, _MOST_KEPT = 1 << 16, 8


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a usual body holds.

    Attributes:
        is_row: Whether it came as `instances`.
        signature: The signature's name, or "".
        input: The input's name; None where the body gives none.
        values: The numbers.
    """

    is_row: bool
    signature: str
    input: str | None
    values: NDArray[np.float64]


@cache
def _parser_class() -> Any:
    try:
        import simdjson
    except ModuleNotFoundError:  # the base install: the client alone
        return None
    return simdjson.Parser


def read(body: bytes) -> Numbers | None:
    """Reads nested numbers; None when the general reader must look."""
    parser_class = _parser_class()
    if parser_class is None:
        return None
    try:
        document = parser_class().parse(body)
        keys = set(document.keys())
        found = keys & set(_KEYS)
        if len(found) != 1 or not keys <= {*found, "signature_name"}:
            return None
        (key,) = found
        name = document["signature_name"] if "signature_name" in keys else ""
        values, taken = document[key], None
        if key == "inputs" and hasattr(values, "keys"):
            (taken,) = values.keys()
            values = values[taken]
        shape = _shape(values)
        if not shape or not isinstance(name, str) or not is_regular(body, shape):
            return None
        # An empty list looks like that of one number, so the values may still be too few.
        array = np.frombuffer(values.as_buffer(of_type="d"), dtype=np.float64).reshape(shape)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError):
        return None
    return Numbers(key == "instances", name, taken, array)


def _shape(values: Any) -> tuple[int, ...]:
    """Sizes along the first elements; () for what is no list, or holds an empty one."""
    shape: list[int] = []
    most = min(16, LIMITS.json_depth - 1)
    while hasattr(values, "as_buffer"):
        if not len(values) or len(shape) == most:
            return ()
        shape.append(len(values))
        values = values[0]
    return tuple(shape)


def is_regular(body: bytes, shape: tuple[int, ...]) -> bool:
    """Whether the arrays of a document are one array of that shape, of numbers alone.

    simdjson flattens without looking at the nesting, so ragged lists with the right number of
    values would pass; and it reads true as 1.0. Comparing the structure as bytes costs a copy and
    no loop.
    """
    structure = body.translate(None, _OF_NUMBERS)
    expected = _structure if math.prod(shape) <= _MOST_KEPT_VALUES else _structure.__wrapped__
    return structure[structure.find(b"[") : structure.rfind(b"]") + 1] == expected(shape)


@lru_cache(maxsize=_MOST_KEPT)
def _structure(shape: tuple[int, ...]) -> bytes:
    expected = b"[" + b"," * (shape[-1] - 1) + b"]"
    for size in reversed(shape[:-1]):
        expected = b"[" + b",".join([expected] * size) + b"]"
    return expected


def read_tensors(body: bytes) -> dict[str, Any] | None:
    """Reads an object with `inputs`, the data of each float input as one flat array.

    The rest is what the general reader makes of it. None when that must look itself.
    """
    parser_class = _parser_class()
    if (
        parser_class is None
        or body.count(b"[") + body.count(b"{") > LIMITS.json_depth
        # simdjson reads them as 1.0 and 0.0, which no input of floats takes.
        or b"true" in body
        or b"false" in body
    ):
        return None
    try:
        document = parser_class().parse(body)
        found = {key: _plain(document[key]) for key in _keys(document) - {"inputs"}}
        found["inputs"] = [_tensor(each) for each in document["inputs"]]
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError):
        return None
    return found


def _tensor(declared: Any) -> dict[str, Any]:
    keys = _keys(declared)
    found = {key: _plain(declared[key]) for key in keys - {"data"}}
    if "data" in keys:
        if found.get("datatype") not in ("FP32", "FP64"):
            raise ValueError("the general reader knows what these take")
        values = declared["data"].as_buffer(of_type="d")
        found["data"] = np.frombuffer(values, dtype=np.float64)
    return found


def _keys(mapping: Any) -> set[str]:
    keys = list(mapping.keys())
    if len(set(keys)) < len(keys):
        raise ValueError("a key comes twice")
    return set(keys)


def _plain(value: Any) -> Any:
    if hasattr(value, "as_dict"):
        return {key: _plain(value[key]) for key in _keys(value)}
    return [_plain(each) for each in value] if hasattr(value, "as_list") else value
