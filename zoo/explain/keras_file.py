"""The layers and weights of a `.keras` file, without Keras."""

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zoo.errors import ExplainError
from zoo.explain.probe import Floats, Layer, layers_from_config
from zoo.suggest import unknown

# The order in which Keras keeps the variables of a layer, by the layer's class.
VARIABLES: Mapping[str, tuple[str, ...]] = {
    "Subsampling": ("coefficient", "bias"),
    "EuclideanRBF": ("code",),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
KERNEL_AND_BIAS = ("kernel", "bias")


class KerasFile:
    """What a `.keras` file says of its network; weights are read when they are asked for.

    Args:
        path: The file.

    Raises:
        ExplainError: it is none, or its model is not functional.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                document = json.loads(archive.read("config.json"))
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
            raise ExplainError(f"{path.name} is no Keras file: {error}") from error
        self.layers, self.output = layers_from_config(document)
        self._places = _places(self.layers)

    def weights(self, layer: str) -> Mapping[str, Floats]:
        """A layer's weights by their Keras names; none for most layers.

        Raises:
            ExplainError: no such layer, or h5py is not installed.
        """
        found = next((each for each in self.layers if each.name == layer), None)
        if found is None:
            raise ExplainError(unknown("layer", layer, (each.name for each in self.layers)))
        try:
            import h5py
        except ModuleNotFoundError as error:
            raise ExplainError(
                "Reading weights needs h5py, which is not installed: pip install 'convzoo[serve]'."
            ) from error
        with (
            zipfile.ZipFile(self._path) as archive,
            archive.open("model.weights.h5") as member,
            h5py.File(member, "r") as weights,
        ):
            group = weights.get(f"layers/{self._places[layer]}/vars")
            if group is None:
                return {}
            arrays = [np.asarray(group[key], np.float32) for key in sorted(group, key=int)]
        return dict(zip(_names(found, len(arrays)), arrays, strict=True))


def _places(layers: tuple[Layer, ...]) -> dict[str, str]:
    """Where each layer's weights stand: Keras numbers the layers of each class."""
    counts: dict[str, int] = {}
    places = {}
    for layer in layers:
        base = _snake(layer.kind)
        number = counts.get(base, 0)
        places[layer.name] = f"{base}_{number}" if number else base
        counts[base] = number + 1
    return places


def _snake(name: str) -> str:
    parted = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", parted).lower()


def _names(layer: Layer, count: int) -> tuple[str, ...]:
    names = VARIABLES.get(layer.kind, KERNEL_AND_BIAS)
    if layer.kind == "BatchNormalization":
        absent = {"gamma": "scale", "beta": "center"}
        names = tuple(each for each in names if layer.config.get(absent.get(each, ""), True))
    if len(names) < count:
        return tuple(map(str, range(count)))
    return names[:count]
