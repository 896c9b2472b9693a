"""The fast path of JSON predictions: nested numbers straight into an array, with simdjson.

A body that is anything but `{"instances": [[...]]}`, `{"inputs": [[...]]}` or
`{"inputs": {"name": [[...]]}}`, with a signature's name at most beside it, and numbers in regular
nesting, is left to the general reader. So this file decides nothing and words no error.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.limits import LIMITS

_KEYS = ("instances", "inputs")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[],"))


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a usual body holds.

    Attributes:
        is_row: Whether it came as `instances`.
        signature: The signature's name, or "".
        input: The input's name, or "" where the body gives none.
        values: The numbers.
    """

    is_row: bool
    signature: str
    input: str
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
    # simdjson reads true as 1.0, which no signature of numbers takes.
    if parser_class is None or b"true" in body or b"false" in body:
        return None
    try:
        document = parser_class().parse(body)
        keys = set(document.keys())
        found = keys & set(_KEYS)
        if len(found) != 1 or not keys <= {*found, "signature_name"}:
            return None
        (key,) = found
        name = document["signature_name"] if "signature_name" in keys else ""
        values, taken = document[key], ""
        if key == "inputs" and hasattr(values, "keys"):
            (taken,) = values.keys()
            values = values[taken]
        shape = _shape(values)
        if not shape or not isinstance(name, str) or not is_regular(body, shape):
            return None
        flat = np.frombuffer(values.as_buffer(of_type="d"), dtype=np.float64)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError):
        return None
    return Numbers(key == "instances", name, taken, flat.reshape(shape))


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
    """Whether the brackets and commas of a document are those of one array of that shape.

    simdjson flattens without looking at the nesting, so ragged lists with the right number of
    values would pass. Comparing the structure as bytes costs a copy and no loop.
    """
    expected = b"," * (shape[-1] - 1)
    expected = b"[" + expected + b"]"
    for size in reversed(shape[:-1]):
        expected = b"[" + b",".join([expected] * size) + b"]"
    return body.translate(None, _NOT_STRUCTURE).strip(b",") == expected
