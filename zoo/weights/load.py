"""Puts arrays of another library into a network of this zoo.

What differs is handled here: kernels of torch and Caffe are [out, in, h, w], ours [h, w, in, out];
their first dense layer reads maps channel by channel, ours place by place; batch normalisation has
other names for the same four arrays. The colour order belongs to the preprocessing, which
`zoo.weights.PUBLIC` states.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import DataError
from zoo.weights.names import rule
from zoo.weights.readers import Arrays, read

if TYPE_CHECKING:
    import keras

Array = NDArray[Any]

# Ours: gamma, beta, moving mean, moving variance.
_TORCH_NORM = ("weight", "bias", "running_mean", "running_var")


def load(model: "keras.Model", path: Path | str, *, network: str | None = None) -> None:
    """Loads a file of weights: Keras h5, safetensors or torch's zip format, or a caffemodel.

    Args:
        model: A network of this zoo, with its classifier or without.
        path: The file; its suffix says the format.
        network: The catalog name; the model's own name when None.

    Raises:
        DataError: the file cannot be read, or does not fit: every array that is missing or has
            another shape is named, with both shapes. The model is left as it was.
        UsageError: nobody publishes this network in this format.
    """
    arrays, dialect = read(Path(path))
    name = network or model.name
    rename = rule(name, dialect)
    found: list[tuple[Any, list[Array]]] = []
    faults: list[str] = []
    for layer in model.layers:
        if not layer.weights:
            continue
        theirs = rename(layer.name)
        wanted = [tuple(weight.shape) for weight in layer.weights]
        converted = _take(arrays, theirs, dialect, layer)
        if dialect != "keras":
            converted = _channels_last(layer, converted)
        shapes = [tuple(array.shape) for array in converted]
        if shapes == wanted:
            found.append((layer, converted))
        elif not converted:
            faults.append(f"{layer.name}: the file has no {theirs}")
        else:
            faults.append(
                f"{layer.name} takes {_shapes(wanted)}; {theirs} in the file has {_shapes(shapes)}"
            )
    if faults:
        listed = "\n  ".join(faults[:20]) + ("\n  ..." if len(faults) > 20 else "")
        raise DataError(f"{path} does not fit {name}, {len(faults)} layers differ:\n  {listed}")
    for layer, converted in found:
        layer.set_weights(converted)


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return " ".join(str(list(shape)) for shape in shapes)


def _take(arrays: Arrays, name: str, dialect: str, layer: Any) -> list[Array]:
    """The arrays of one layer, in our order."""
    if dialect in ("keras", "caffe"):
        keys = [f"{name}/{place}" for place in range(4)]
    elif type(layer).__name__ == "BatchNormalization":
        keys = [f"{name}.{part}" for part in _TORCH_NORM]
    else:
        keys = [f"{name}.weight", f"{name}.bias"]
    return [arrays[key] for key in keys if key in arrays]


def _channels_last(layer: Any, arrays: list[Array]) -> list[Array]:
    """Arrays of torch or Caffe in Keras's order."""
    if not arrays:
        return arrays
    kernel, *rest = arrays
    kind = type(layer).__name__
    if kind == "Conv2D" and kernel.ndim == 4:
        kernel = kernel.transpose(2, 3, 1, 0)
    elif kind == "Dense":
        # Caffe's old form writes a matrix as [1, 1, out, in], a bias as [1, 1, 1, out].
        # timm's fc6 is a convolution over the whole map, [out, in, h, w].
        is_old_caffe = kernel.ndim == 4 and kernel.shape[:2] == (1, 1)
        rows = kernel.shape[-2] if is_old_caffe else kernel.shape[0]
        kernel = _dense(layer, kernel.reshape(rows, -1))
    return [np.ascontiguousarray(kernel), *(array.reshape(-1) for array in rest)]


def _dense(layer: Any, kernel: Array) -> Array:
    """[out, in] -> [in, out]; where the input is flattened maps, from channels first to last."""
    before = _input_of(layer)
    while type(before).__name__ == "Dropout":
        before = _input_of(before)
    if type(before).__name__ == "Flatten":
        _, h, w, c = before.input.shape
        if kernel.shape[1] == h * w * c:
            return kernel.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(h * w * c, -1)
    return kernel.T


def _input_of(layer: Any) -> Any:
    return layer._inbound_nodes[0].input_tensors[0]._keras_history.operation  # noqa: SLF001
