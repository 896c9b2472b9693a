"""Inputs checked against what a model takes, before anything is sent.

An array must have the model's dtype and fit its shape. Nothing is cast silently, since a float64
batch cast to float32 doubles the work of every call and hides the mistake; Python numbers and
lists have no dtype of their own and take the model's.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serving.client.errors import InvalidInputError
from serving.client.results import Metadata, Signature, Tensor

Array: TypeAlias = NDArray[Any]
ArrayLike: TypeAlias = Array | Sequence[Any] | float | str | bytes
Inputs: TypeAlias = ArrayLike | Mapping[str, ArrayLike]
"""One array for a model with one input, or a mapping from input names to arrays. Lists and
numbers are taken too."""

DEFAULT_SIGNATURE = "serving_default"


def choose_signature(metadata: Metadata, signature: str | None) -> Signature | None:
    """Returns the signature that will be called; None when the server describes none.

    Raises:
        InvalidInputError: the model has no such signature.
    """
    if not metadata.signatures:
        return None
    wanted = signature or DEFAULT_SIGNATURE
    found = metadata.signatures.get(wanted)
    if found is None:
        raise InvalidInputError(
            _unknown("signature", wanted, metadata.model, metadata.signatures), field="signature"
        )
    return found


def check_outputs(
    outputs: Sequence[str] | None, signature: Signature | None, model: str
) -> tuple[str, ...]:
    """Returns the outputs to ask for; empty means all.

    Raises:
        InvalidInputError: the signature has no such output, or one is named twice.
    """
    if isinstance(outputs, str):
        outputs = (outputs,)
    asked = tuple(outputs or ())
    if len(set(asked)) != len(asked):
        raise InvalidInputError(f"outputs names one twice: {', '.join(asked)}.", field="outputs")
    if signature is not None and signature.outputs:
        for name in asked:
            if name not in signature.outputs:
                raise InvalidInputError(
                    _unknown("output", name, model, signature.outputs), field="outputs"
                )
    return asked


def check_inputs(inputs: Inputs, signature: Signature | None, model: str) -> dict[str, Array]:
    """Returns every input as an array that the signature takes.

    Args:
        inputs: What the user passed.
        signature: What the model takes; None (or without inputs) when nobody knows.
        model: For the messages.

    Raises:
        InvalidInputError: `field` names the input at fault.
    """
    known = signature.inputs if signature is not None and signature.inputs else None
    named = _name(inputs, signature if known else None, model)
    if known is None:
        return {name: as_array(value, None) for name, value in named.items()}
    for name in named:
        if name not in known:
            raise InvalidInputError(_unknown("input", name, model, known), field=name)
    defaults = signature.defaults if signature is not None else {}
    missing = [name for name in known if name not in named and name not in defaults]
    if missing:
        raise InvalidInputError(
            f"{model!r} takes {', '.join(known)}; missing: {', '.join(missing)}.",
            field=missing[0],
        )
    return {name: check_tensor(value, known[name], model) for name, value in named.items()}


def _name(inputs: Inputs, signature: Signature | None, model: str) -> Mapping[str, ArrayLike]:
    if isinstance(inputs, Mapping):
        return inputs
    if signature is None:
        raise InvalidInputError(
            f"The server does not say what {model!r} takes, so the input has to be named: "
            "predict(model, {'name': array}).",
            field="inputs",
        )
    known = signature.inputs
    # An array alone is the input that has no default.
    needed = [name for name in known if name not in signature.defaults] or list(known)
    if len(needed) != 1:
        raise InvalidInputError(
            f"{model!r} takes {len(known)} inputs ({', '.join(known)}): pass a mapping from "
            "their names to arrays.",
            field="inputs",
        )
    return {needed[0]: inputs}


def check_tensor(value: ArrayLike, tensor: Tensor, model: str) -> Array:
    """Returns `value` as an array of the tensor's dtype whose shape fits.

    Raises:
        InvalidInputError: it does not; the message names both sides.
    """
    array = as_array(value, tensor)
    if not _dtype_fits(array.dtype, tensor.dtype):
        raise InvalidInputError(
            f"Input {tensor.name!r} of {model!r} takes {tensor.dtype}; this array is "
            f"{array.dtype}.{_dtype_hint(array, tensor)}",
            field=tensor.name,
        )
    if not shape_fits(array.shape, tensor.shape):
        raise InvalidInputError(
            f"Input {tensor.name!r} of {model!r} takes {_shape(tensor.shape)}; this array is "
            f"{_shape(array.shape)}.{_shape_hint(array, tensor)}",
            field=tensor.name,
        )
    return array


def as_array(value: ArrayLike, tensor: Tensor | None) -> Array:
    """Returns an array as it is; lists and numbers as an array of the tensor's dtype.

    Raises:
        InvalidInputError: a ragged list, values that the dtype cannot hold, or a dtype that NumPy
            lacks here.
    """
    if isinstance(value, np.ndarray):
        return value
    name = tensor.name if tensor is not None else "inputs"
    if hasattr(value, "__array__"):  # pandas, torch on the CPU, TensorFlow, PIL
        return np.asarray(value)
    try:
        dtype = None if tensor is None else _numpy_dtype(tensor.dtype)
        array = np.asarray(value, dtype=dtype)
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"Input {name!r} takes bfloat16, which NumPy has from the package ml_dtypes only: "
            "pip install ml_dtypes.",
            field=name,
        ) from error
    except (ValueError, TypeError, OverflowError) as error:
        wanted = "" if tensor is None else f" of {tensor.dtype}"
        raise InvalidInputError(
            f"Input {name!r} is no array{wanted}: {error}.", field=name
        ) from error
    return array


def _numpy_dtype(name: str) -> Any:
    if name == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return "O" if name == "bytes" else name


def shape_fits(shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    """Says whether an array of `shape` may be sent where `wanted` is taken."""
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(
        want is None or want == have for have, want in zip(shape, wanted, strict=True)
    )


def _dtype_fits(dtype: np.dtype[Any], wanted: str) -> bool:
    if wanted == "bytes":
        return dtype.kind in "OSU"
    return _dtype_name(dtype) == wanted


@cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    # NumPy works it out anew each time, which takes longer than the rest of a check.
    return dtype.name


def _dtype_hint(array: Array, tensor: Tensor) -> str:
    if array.dtype.kind == "V" and tensor.dtype == "bfloat16":  # bits that lost their type
        return " Name its type: array.view(ml_dtypes.bfloat16), with the package ml_dtypes."
    if tensor.dtype == "bytes" or array.dtype.kind in "OSUV":
        return ""
    if tensor.dtype == "bfloat16":
        return " Convert it: array.astype(ml_dtypes.bfloat16), with the package ml_dtypes."
    hint = f" Convert it: array.astype(np.{tensor.dtype})."
    if array.dtype == np.uint8 and tensor.dtype.startswith("float"):
        hint += " Mind the range the model was trained on; classify() sends pictures as they are."
    return hint


def _shape_hint(array: Array, tensor: Tensor) -> str:
    wanted = tensor.shape
    if wanted is None:
        return ""
    shape = array.shape
    channels_first = tuple(shape[axis] for axis in (0, 2, 3, 1)) if array.ndim == 4 else ()
    hints = (
        ((1, *shape), "Add the batch axis: array[np.newaxis]."),
        ((*shape, 1), "Add the channel axis: array[..., np.newaxis]."),
        ((1, *shape, 1), "Add the batch and channel axes: array[np.newaxis, ..., np.newaxis]."),
        (channels_first, "Move the channels last: array.transpose(0, 2, 3, 1)."),
    )
    for changed, hint in hints:
        if shape_fits(changed, wanted):
            return f" {hint}"
    if array.ndim == len(wanted) == 4 and shape[3] == wanted[3]:
        return " Resize the pictures, or let the server do it with classify()."
    return ""


def _shape(shape: tuple[int | None, ...] | None) -> str:
    if shape is None:
        return "any shape"
    sizes = ["N" if size is None else str(size) for size in shape]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _unknown(kind: str, asked: str, model: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(asked, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{model!r} has no {kind} {asked!r}.{hint} It has {', '.join(known)}."
