"""Reads a `.caffemodel` without Caffe: the names of layers, their arrays, and what normalises what.

Both forms that exist are read: layers of the first format (field 2 of NetParameter) and of the
second (field 100).
"""

import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from zoo.errors import DataError

# message -> (field, number, kind, message type); what is left out is skipped as unknown.
_OPTIONAL, _REPEATED = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
_STRING, _FLOAT, _INT32, _INT64, _UINT32, _MESSAGE = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_FLOAT,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_INT64,
    FieldDescriptorProto.TYPE_UINT32,
    FieldDescriptorProto.TYPE_MESSAGE,
)
_SCHEMA: dict[str, tuple[tuple[str, int, int, int, str], ...]] = {
    "BlobShape": (("dim", 1, _INT64, _REPEATED, ""),),
    "BlobProto": (
        ("num", 1, _INT32, _OPTIONAL, ""),
        ("channels", 2, _INT32, _OPTIONAL, ""),
        ("height", 3, _INT32, _OPTIONAL, ""),
        ("width", 4, _INT32, _OPTIONAL, ""),
        ("data", 5, _FLOAT, _REPEATED, ""),
        ("shape", 7, _MESSAGE, _OPTIONAL, "BlobShape"),
    ),
    "LRNParameter": (
        ("local_size", 1, _UINT32, _OPTIONAL, ""),
        ("alpha", 2, _FLOAT, _OPTIONAL, ""),
        ("beta", 3, _FLOAT, _OPTIONAL, ""),
        ("norm_region", 4, _INT32, _OPTIONAL, ""),
        ("k", 5, _FLOAT, _OPTIONAL, ""),
    ),
    "V1LayerParameter": (
        ("bottom", 2, _STRING, _REPEATED, ""),
        ("top", 3, _STRING, _REPEATED, ""),
        ("name", 4, _STRING, _OPTIONAL, ""),
        ("type", 5, _INT32, _OPTIONAL, ""),
        ("blobs", 6, _MESSAGE, _REPEATED, "BlobProto"),
        ("lrn_param", 18, _MESSAGE, _OPTIONAL, "LRNParameter"),
    ),
    "LayerParameter": (
        ("name", 1, _STRING, _OPTIONAL, ""),
        ("type", 2, _STRING, _OPTIONAL, ""),
        ("bottom", 3, _STRING, _REPEATED, ""),
        ("top", 4, _STRING, _REPEATED, ""),
        ("blobs", 7, _MESSAGE, _REPEATED, "BlobProto"),
        ("lrn_param", 118, _MESSAGE, _OPTIONAL, "LRNParameter"),
    ),
    "NetParameter": (
        ("name", 1, _STRING, _OPTIONAL, ""),
        ("layers", 2, _MESSAGE, _REPEATED, "V1LayerParameter"),
        ("layer", 100, _MESSAGE, _REPEATED, "LayerParameter"),
    ),
}


@cache
def net_parameter() -> Any:
    """The class of Caffe's NetParameter, as far as weights need it."""
    file = FileDescriptorProto(name="convzoo/caffe.proto", package="caffe", syntax="proto2")
    for name, fields in _SCHEMA.items():
        message: DescriptorProto = file.message_type.add(name=name)
        for field, number, kind, label, of in fields:
            made = message.field.add(name=field, number=number, type=kind, label=label)
            if of:
                made.type_name = f".caffe.{of}"
            elif label == _REPEATED and kind != _STRING:
                made.options.packed = True
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


# The kinds of layers that say what is normalised; the first format has numbers for them.
_KINDS = {4: "Convolution", 14: "InnerProduct", 15: "LRN", 17: "Pooling"}
# What Caffe takes for a setting that is not there.
_LRN_DEFAULTS = {"local_size": 5, "alpha": 1.0, "beta": 0.75, "norm_region": 0, "k": 1.0}


class Norm(NamedTuple):
    """A local response normalisation, as one line of b = a / (k + alpha sum a^2)^beta.

    Attributes:
        after: The kind of layer that it normalises: "Convolution" or "Pooling"; empty when unknown.
        size: The channels of the window; 0 when it is no window of channels.
        alpha: Of one channel's square: Caffe's, divided by the size.
    """

    name: str
    after: str
    size: int
    alpha: float
    beta: float
    k: float


def _read_net(path: Path) -> Any:
    try:
        return net_parameter().FromString(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except DecodeError as error:
        raise DataError(f"{path} is no caffemodel, or it is truncated: {error}") from error


def read_norms(path: Path) -> list[Norm] | None:
    """The normalisations that the file lists, in its order.

    Returns:
        None when the file lists only layers with weights, and says nothing of the others.

    Raises:
        DataError: no such file, or no caffemodel.
    """
    net = _read_net(path)
    found: list[Norm] = []
    kinds: set[str] = set()
    made_by: dict[str, str] = {}  # blob -> the kind of layer it comes from
    for layer in (*net.layers, *net.layer):
        kind = layer.type if isinstance(layer.type, str) else _KINDS.get(layer.type, "")
        before = made_by.get(layer.bottom[0], "") if layer.bottom else ""
        if kind == "LRN":
            given = {field.name: value for field, value in layer.lrn_param.ListFields()}
            settings = _LRN_DEFAULTS | given
            size = int(settings["local_size"])
            found.append(
                Norm(
                    name=layer.name,
                    after=before,
                    size=0 if settings["norm_region"] else size,
                    alpha=settings["alpha"] / size,
                    beta=settings["beta"],
                    k=settings["k"],
                )
            )
        kinds.add(kind)
        # ReLU, dropout and splits pass on what they take.
        made_by |= dict.fromkeys(layer.top, kind if kind in _KINDS.values() else before)
    return found if kinds & {"LRN", "Pooling"} else None


def read_caffemodel(path: Path) -> dict[str, NDArray[np.float32]]:
    """Each layer's arrays as "<layer>/0" (kernel) and "<layer>/1" (bias).

    Raises:
        DataError: no such file, or no caffemodel.
    """
    net = _read_net(path)
    found = {}
    for layer in (*net.layers, *net.layer):
        for index, blob in enumerate(layer.blobs):
            data = np.array(blob.data, dtype=np.float32)
            shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
            if min(shape) < 0 or math.prod(shape) != len(data):
                raise DataError(
                    f"{path}: {layer.name} says shape {list(shape)} and has {len(data)} numbers."
                )
            found[f"{layer.name}/{index}"] = data.reshape(shape)
    if not found:
        raise DataError(f"{path} holds no layer with weights; is it a caffemodel?")
    return found
