"""Reads a `.caffemodel` without Caffe: the names of layers and their arrays.

Both forms that exist are read: layers of the first format (field 2 of NetParameter) and of the
second (field 100).
"""

from functools import cache
from pathlib import Path
from typing import Any

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
_STRING, _FLOAT, _INT32, _INT64, _MESSAGE = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_FLOAT,
    FieldDescriptorProto.TYPE_INT32,
    FieldDescriptorProto.TYPE_INT64,
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
    "V1LayerParameter": (
        ("name", 4, _STRING, _OPTIONAL, ""),
        ("blobs", 6, _MESSAGE, _REPEATED, "BlobProto"),
    ),
    "LayerParameter": (
        ("name", 1, _STRING, _OPTIONAL, ""),
        ("blobs", 7, _MESSAGE, _REPEATED, "BlobProto"),
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
            elif label == _REPEATED:
                made.options.packed = True
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def read_caffemodel(path: Path) -> dict[str, NDArray[np.float32]]:
    """Each layer's arrays as "<layer>/0" (kernel) and "<layer>/1" (bias).

    Raises:
        DataError: no such file, or no caffemodel.
    """
    try:
        net = net_parameter().FromString(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except DecodeError as error:
        raise DataError(f"{path} is no caffemodel, or it is truncated: {error}") from error
    found = {}
    for layer in (*net.layers, *net.layer):
        for index, blob in enumerate(layer.blobs):
            data = np.array(blob.data, dtype=np.float32)
            shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
            if np.prod(shape) != len(data):
                raise DataError(
                    f"{path}: {layer.name} says shape {list(shape)} and has {len(data)} numbers."
                )
            found[f"{layer.name}/{index}"] = data.reshape(shape)
    if not found:
        raise DataError(f"{path} holds no layer with weights; is it a caffemodel?")
    return found
