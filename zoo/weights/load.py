"""Puts arrays of another library into a network of this zoo.

What differs is handled here: kernels of torch and Caffe are [out, in, h, w], ours [h, w, in, out];
their first dense layer reads maps channel by channel, ours place by place; batch normalisation has
other names for the same four arrays. The colour order belongs to the preprocessing, which
`zoo.weights.PUBLIC` states.
"""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import DataError
from zoo.weights.names import Rename, rule
from zoo.weights.readers import Arrays, read

if TYPE_CHECKING:
    import keras

    from zoo.weights.caffemodel import Norm

Array = NDArray[Any]

# Our classifier's layers, which a network without it lacks.
_CLASSIFIER = ("fc6", "fc7", "logits")
# Heads that only training needs, as torchvision and Caffe name them.
_AUXILIARY = ("aux1.", "aux2.", "loss1/", "loss2/")
# Before a capital letter inside a name: BatchNormalization is batch_normalization.
_SMALL = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Ours: gamma, beta, moving mean, moving variance.
_TORCH_NORM = ("weight", "bias", "running_mean", "running_var")


def load(model: "keras.Model", path: Path | str, *, network: str | None = None) -> None:
    """Loads a file of weights: Keras's h5 or `.keras`, safetensors, torch's, or a caffemodel.

    Args:
        model: A network of this zoo, with its classifier or without.
        path: The file; its suffix says the format.
        network: The catalog name; the model's own name when None.

    Raises:
        DataError: the file cannot be read, or does not fit: every array that is missing or has
            another shape is named, with both shapes, and so are arrays that no layer takes: a
            deeper network of the same family has all arrays of a shallower one. A caffemodel whose
            normalisations stand elsewhere or compute something else is refused as well: AlexNet
            and CaffeNet have the same arrays. The model is left as it was.
        UsageError: nobody publishes this network in this format.
    """
    arrays, dialect = read(Path(path))
    name = network or model.name
    rename = numbered(model) if dialect == "numbered" else rule(name, dialect)
    names = {layer.name for layer in model.layers}
    found: list[tuple[Any, list[Array]]] = []
    faults: list[str] = []
    taken: set[str] = set()
    for layer in model.layers:
        if not layer.weights:
            continue
        theirs = rename(layer.name)
        if theirs is None:
            faults.append(f"{layer.name} is no layer of {name}")
            continue
        wanted = [tuple(weight.shape) for weight in layer.weights]
        keys = [key for key in _keys(theirs, dialect, layer) if key in arrays]
        taken.update(keys)
        converted = [arrays[key] for key in keys]
        if dialect in ("torch", "caffe"):
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
    if left := _left_over(arrays, taken, rename, has_classifier="logits" in names):
        listed = ", ".join(left[:10]) + (", ..." if len(left) > 10 else "")
        raise DataError(
            f"{path} does not fit {name}: no layer takes {len(left)} of its {len(arrays)} arrays, "
            f"so they are another network's: {listed}"
        )
    if dialect == "caffe" and (fault := _norm_fault(model, Path(path))):
        raise DataError(f"{path} does not fit {name}, though all arrays do: {fault}")
    for layer, converted in found:
        layer.set_weights(converted)


def num_classes(path: Path, network: str) -> int | None:
    """How many classes the classifier in a file of weights tells apart; None where it has none."""
    arrays, dialect = read(path)
    if dialect == "numbered":
        dense = [key for key in arrays if re.fullmatch(r"dense(_\d+)?/1", key)]
        last = max(dense, key=lambda key: (len(key), key), default="")
    else:
        last = f"{rule(network, dialect)('logits')}" + (".bias" if dialect == "torch" else "/1")
    return int(arrays[last].size) if last in arrays else None


def numbered(model: "keras.Model") -> Rename:
    """How Keras 3's `save_weights` names a model's layers: each kind is counted, in their order."""
    names: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for layer in model.layers:
        kind = _SMALL.sub("_", type(layer).__name__).lower()
        names[layer.name] = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
    return names.get


def _norm_fault(model: "keras.Model", path: Path) -> str | None:
    """How the file's normalisations differ from the model's: no array shows that."""
    from zoo.weights.caffemodel import read_norms

    theirs = read_norms(path)
    if theirs is None:
        return None
    ours = _norms(model)
    if len(ours) != len(theirs):
        return f"it has {len(theirs)} local response normalisations, {model.name} has {len(ours)}."
    for mine, other in zip(ours, theirs, strict=True):
        if other.after and mine.after != other.after:
            twin = {"alexnet": "caffenet", "caffenet": "alexnet"}.get(model.name)
            hint = f" These are weights for {twin}." if twin else ""
            return (
                f"its {other.name} comes after a {other.after.lower()}, that of {model.name} "
                f"after a {mine.after.lower()}.{hint}"
            )
        if mine.size != other.size or not np.allclose(mine[3:], other[3:], rtol=1e-4):
            return (
                f"its {other.name} computes with {_settings(other)}, that of {model.name} with "
                f"{_settings(mine)}; the option lrn='caffe' builds Caffe's."
            )
    return None


def _norms(model: "keras.Model") -> "list[Norm]":
    from zoo.layers import LocalResponseNormalization
    from zoo.layers.normalization import CONVENTIONS
    from zoo.weights.caffemodel import Norm

    found = []
    for layer in model.layers:
        if not isinstance(layer, LocalResponseNormalization):
            continue
        before = _input_of(layer)
        while not ("Conv2D" in (kind := type(before).__name__) or "Pooling" in kind):
            before = _input_of(before)
        found.append(
            Norm(
                name=layer.name,
                after="Convolution" if "Conv2D" in kind else "Pooling",
                size=layer.size,
                alpha=layer.alpha / (layer.size if CONVENTIONS[layer.convention][1] else 1),
                beta=layer.beta,
                k=layer.k,
            )
        )
    return found


def _settings(norm: "Norm") -> str:
    window = f"{norm.size} channels" if norm.size else "places of one channel"
    return f"{window}, k {norm.k:g}, alpha {norm.alpha:.3g} of each, beta {norm.beta:g}"


def _left_over(
    arrays: Arrays, taken: set[str], rename: Rename, *, has_classifier: bool
) -> list[str]:
    """The arrays that no layer takes and that do not stand for a part which is left out."""
    heads = () if has_classifier else tuple(filter(None, map(rename, _CLASSIFIER)))
    expected = (*_AUXILIARY, *(f"{head}{dot}" for head in heads for dot in "./"))
    return [
        key
        for key in arrays
        if key not in taken
        and not key.startswith(expected)
        and not key.endswith(".num_batches_tracked")
    ]


def _shapes(shapes: list[tuple[int, ...]]) -> str:
    return " ".join(str(list(shape)) for shape in shapes)


def _keys(name: str, dialect: str, layer: Any) -> list[str]:
    """The names that the arrays of one layer may have, in our order."""
    if dialect in ("keras", "numbered", "caffe"):
        return [f"{name}/{place}" for place in range(4)]
    if type(layer).__name__ == "BatchNormalization":
        return [f"{name}.{part}" for part in _TORCH_NORM]
    return [f"{name}.weight", f"{name}.bias"]


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
