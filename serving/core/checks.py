"""Holds a request against its signature, so that engines see only what they can run."""

from dataclasses import replace

from serving.errors import InvalidRequestError
from serving.messages import PredictCall, Signature, TensorSpec
from serving.wire.tensors import dtype_name


def filled(call: PredictCall, signature: Signature) -> PredictCall:
    """The request with the signature's defaults for what it leaves out."""
    if not signature.defaults:
        return call
    return replace(call, inputs={**signature.defaults, **call.inputs})


def check_call(call: PredictCall, signature: Signature, *, is_batched: bool) -> int:
    """Checks names, types and shapes.

    Args:
        call: The request.
        signature: What it asks for.
        is_batched: Whether all inputs must have one leading dimension of the same size.

    Returns:
        The rows of the batch; 1 when inputs need no batch dimension.

    Raises:
        InvalidRequestError: with TensorFlow Serving's text for names; names both shapes.
    """
    _check_names(call, signature)
    rows: int | None = None
    for name, array in call.inputs.items():
        spec, shape = signature.inputs[name], array.shape
        if (found := dtype_name(array)) != spec.dtype:
            raise InvalidRequestError(
                f"Input {name!r} has type {found}; the model takes {spec.dtype}.", field=name
            )
        if spec.shape is not None and not _fits(shape, spec.shape):
            raise InvalidRequestError(
                f"Input {name!r} has shape {list(shape)}; the model takes {_shape(spec)}.",
                field=name,
            )
        here = shape[0] if shape else 1
        if is_batched and rows is not None and here != rows:
            sizes = {each: (*array.shape, 1)[0] for each, array in call.inputs.items()}
            raise InvalidRequestError(f"The inputs have different batch sizes: {sizes}.")
        rows = here
    return rows or 0 if is_batched else 1


def _check_names(call: PredictCall, signature: Signature) -> None:
    if signature.inputs.keys() != call.inputs.keys():
        wanted, found = set(signature.inputs), set(call.inputs)
        extra, missing = sorted(found - wanted), sorted(wanted - found)
        raise InvalidRequestError(
            f"input size does not match signature: {len(found)}!={len(wanted)} "
            f"len({{{','.join(sorted(found))}}}) != len({{{','.join(sorted(wanted))}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}.",
            field=(missing or extra)[0],
        )
    seen: set[str] = set()
    for name in call.outputs:
        if name not in signature.outputs:
            raise InvalidRequestError(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(sorted(signature.outputs))}}}.",
                field=name,
            )
        if name in seen:
            raise InvalidRequestError(f"duplicate output tensor alias: {name}", field=name)
        seen.add(name)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if len(shape) != len(wanted):
        return False
    # A loop: all() over a generator takes three times as long.
    for found, size in zip(shape, wanted, strict=True):
        if size is not None and size != found:
            return False
    return True


def _shape(spec: TensorSpec) -> str:
    sizes = ["N" if index == 0 else "any" for index in range(len(spec.shape or ()))]
    for index, size in enumerate(spec.shape or ()):
        if size is not None:
            sizes[index] = str(size)
    return f"[{', '.join(sizes)}]"
