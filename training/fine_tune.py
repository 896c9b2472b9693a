"""Starting from trained weights: what is reused, what is new, and how fast each part learns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from training.recipe import FineTuning
from training.run import Run
from zoo.artifact import KERAS_MODEL, file_sha256, read_manifest
from zoo.errors import DataError, UsageError
from zoo.suggest import unknown


@dataclass(frozen=True, slots=True)
class Reused:
    """Which layers took over weights.

    Attributes:
        layers: Their names.
        new: Names of layers that start at random, each with the reason.
        initial: Path of a reused variable to its initial value.
    """

    layers: tuple[str, ...]
    new: dict[str, str]
    initial: dict[str, Any]


def file_of(init_from: Path) -> Path:
    """The file of weights that a version, a run or a path names.

    Raises:
        DataError: there is none.
    """
    places = (init_from / KERAS_MODEL, init_from / "model.keras", init_from)
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        f"{init_from} is no published version, run or file of weights: "
        f"expected {KERAS_MODEL} or model.keras in it."
    )


def sha256_of(settings: FineTuning | None) -> str:
    """The hash of the weights a run starts from; empty without any."""
    if settings is None or settings.init_from is None:
        return ""
    return file_sha256(file_of(settings.init_from))


def labels_of(init_from: Path) -> tuple[str, ...]:
    """The classes of a published version or a run; none of a file of weights."""
    if (init_from / KERAS_MODEL).is_file():
        return read_manifest(init_from).labels
    return Run(init_from).record().labels if (init_from / "recipe.json").is_file() else ()


def reuse(model: Any, init_from: Path, labels: tuple[str, ...] = ()) -> Reused:
    """Copies every layer whose weights have the same name and shapes.

    The last layer is copied only where the classes are the same, too.

    Args:
        model: The network to be trained.
        init_from: A published version, a run, a .keras file, or public weights of this network.
        labels: The classes it is trained for.

    Raises:
        DataError: nothing fits.
    """
    import keras

    path = file_of(init_from)
    if path.suffix != ".keras":
        return _reuse_public(model, path)
    import zoo.layers
    import zoo.losses  # noqa: F401 - these register what the file names

    source = {layer.name: layer for layer in keras.models.load_model(path, compile=False).layers}
    layers: list[str] = []
    new: dict[str, str] = {}
    initial: dict[str, Any] = {}
    last = [layer.name for layer in model.layers if layer.weights][-1]
    has_other_classes = labels_of(init_from) not in ((), labels)
    for layer in model.layers:
        if not layer.weights:
            continue
        other = source.get(layer.name)
        shapes = [tuple(each.shape) for each in layer.weights]
        if other is None:
            new[layer.name] = "no layer of this name"
        elif (found := [tuple(each.shape) for each in other.weights]) != shapes:
            new[layer.name] = f"{_shapes(found)} there, {_shapes(shapes)} here"
        elif layer.name == last and has_other_classes:
            new[layer.name] = "other classes"
        else:
            layer.set_weights(other.get_weights())
            layers.append(layer.name)
            initial |= {
                each.path: keras.ops.convert_to_numpy(each) for each in layer.trainable_variables
            }
    if not layers:
        raise DataError(
            f"Nothing in {path} fits this network: "
            + "; ".join(f"{name}: {why}" for name, why in list(new.items())[:3])
        )
    return Reused(tuple(layers), new, initial)


def _reuse_public(model: Any, path: Path) -> Reused:
    """Weights in a foreign format must fit the whole network."""
    import keras

    from zoo.weights.load import load

    load(model, path)
    layers = tuple(layer.name for layer in model.layers if layer.weights)
    initial = {each.path: keras.ops.convert_to_numpy(each) for each in model.trainable_variables}
    return Reused(layers, {}, initial)


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)


def check_patterns(model: Any, settings: FineTuning) -> None:
    """Holds every pattern against the network's layers.

    Raises:
        UsageError: a pattern matches no layer with weights; names those there are.
    """
    names = [layer.name for layer in model.layers if layer.weights]
    for pattern in (*settings.learning_rates, *settings.freeze):
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(unknown("layer", pattern, names))


def multiples(model: Any, settings: FineTuning, reused: Reused | None) -> dict[str, float]:
    """Path of each variable to its multiple of the learning rate."""
    taken = set(reused.layers) if reused is not None else set()
    found: dict[str, float] = {}
    for layer in model.layers:
        given = next(
            (
                rate
                for pattern, rate in settings.learning_rates.items()
                if fnmatchcase(layer.name, pattern)
            ),
            settings.reused_rate if layer.name in taken else 1.0,
        )
        found |= {variable.path: given for variable in layer.trainable_variables}
    return found


def freeze(model: Any, settings: FineTuning, epoch: int) -> bool:
    """Sets what is trained in an epoch (from 1).

    Returns:
        Whether that differs from before.
    """
    frozen = [
        layer
        for layer in model.layers
        if layer.weights and any(fnmatchcase(layer.name, each) for each in settings.freeze)
    ]
    if settings.unfreeze_every_epochs is not None:
        free = (epoch - 1) // settings.unfreeze_every_epochs
        frozen = frozen[: max(0, len(frozen) - free)]
    names = {layer.name for layer in frozen}
    is_changed = False
    for layer in model.layers:
        if layer.weights and layer.trainable == (layer.name in names):
            layer.trainable = layer.name not in names
            is_changed = True
    return is_changed


def pull(variable: Any, initial: Mapping[str, Any], strength: float) -> Any:
    """L2-SP's gradient: towards the initial value [li2018, section 3.2]."""
    return strength * (variable - np.asarray(initial[variable.path]))
