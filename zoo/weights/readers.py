"""Files of weights as arrays by name, whatever their format."""

import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import DataError

Arrays = dict[str, NDArray[Any]]


def read_h5(path: Path) -> Arrays:
    """Keras's h5 weights of keras.applications: "<layer>/<place>", e.g. "block1_conv1/0".

    Keras 3's own files, `.weights.h5` and `.keras`, number the layers of each kind instead of
    naming them: "conv2d_3/0". Of a `.keras` file nothing but the arrays is read.
    """
    import h5py

    try:
        with h5py.File(_hdf5(path), "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" not in root.attrs:
                if is_numbered(path):
                    return {
                        f"{name}/{place}": np.asarray(array)
                        for name, layer in file["layers"].items()
                        for place, array in layer.get("vars", {}).items()
                    }
                raise DataError(
                    f"{path} has no attribute layer_names: h5 files of keras.applications are read, "
                    "and what model.save and model.save_weights write into .h5."
                )
            names = [_text(name) for name in root.attrs["layer_names"]]
            return {
                f"{name}/{place}": np.asarray(root[name][_text(weight)])
                for name in names
                for place, weight in enumerate(root[name].attrs["weight_names"])
            }
    except (
        *(OSError, LookupError, AttributeError, TypeError, ValueError),
        *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError),
    ) as error:
        raise DataError(f"{path} is no h5 file of Keras weights: {error}") from error


def _hdf5(path: Path) -> Path | IO[bytes]:
    """The h5 file itself, or the one inside a `.keras` archive."""
    if path.suffix != ".keras":
        return path
    with zipfile.ZipFile(path) as archive:
        return io.BytesIO(archive.read("model.weights.h5"))


def is_numbered(path: Path) -> bool:
    """Whether this is Keras 3's own file of weights, whose layers have numbers for names."""
    import h5py

    with h5py.File(_hdf5(path), "r") as file:
        return "layer_names" not in file.attrs and isinstance(file.get("layers"), h5py.Group)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def read_safetensors(path: Path) -> Arrays:
    """safetensors: the names as they stand."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is no safetensors file: {error}") from error
    # Types that NumPy lacks, such as F8_E4M3, are looked up in it by name.
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path} has numbers of a type that NumPy cannot hold: {error}") from error


# timm's names for VGG's classifier, and DenseNet's first spelling of its layers.
_SPELLINGS = (
    (re.compile(r"^pre_logits\.fc1\."), "classifier.0."),
    (re.compile(r"^pre_logits\.fc2\."), "classifier.3."),
    (re.compile(r"^head\.fc\."), "classifier.6."),
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
)


def _torchvisions(arrays: Arrays) -> Arrays:
    """The same arrays under the names that torchvision's code has today."""
    renamed = {}
    for name, array in arrays.items():
        ours = name
        for pattern, spelled in _SPELLINGS:
            ours = pattern.sub(spelled, ours)
        renamed[ours] = array
    return renamed


def read(path: Path) -> tuple[Arrays, str]:
    """Reads a file by its suffix.

    Returns:
        The arrays, and the dialect of their names: "keras", "numbered" (Keras 3's own), "torch" or
        "caffe".

    Raises:
        DataError: no such file, an unknown suffix, or a file that is not what its suffix says.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    match path.suffix:
        case ".h5" | ".keras":
            arrays = read_h5(path)
            return arrays, "numbered" if is_numbered(path) else "keras"
        case ".safetensors":
            return _torchvisions(read_safetensors(path)), "torch"
        case ".pth" | ".pt" | ".bin":
            from zoo.weights.torch_file import read_torch

            return _torchvisions(read_torch(path)), "torch"
        case ".caffemodel":
            from zoo.weights.caffemodel import read_caffemodel

            return dict(read_caffemodel(path)), "caffe"
        case suffix:
            raise DataError(
                f"{path.name} ends in {suffix or 'nothing'}; .h5, .keras, .safetensors, .pth, .pt and "
                ".caffemodel can be read."
            )
