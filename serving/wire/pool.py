"""Message classes under their standard names, in a pool of this project's own.

The names are those that TensorFlow and tritonclient register in protobuf's default pool; a private
pool lets all of them live in one process (docs/decisions/0002).
"""

from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from serving.errors import InvalidRequestError


@cache
def pool() -> DescriptorPool:
    """The pool with every message of `serving/wire/protos`; compiled by `make proto`."""
    made = DescriptorPool()
    descriptors = FileDescriptorSet.FromString(
        (files("serving.wire") / "descriptors.binpb").read_bytes()
    )
    for file in descriptors.file:
        made.AddSerializedFile(file.SerializeToString())
    return made


# protobuf knows the classes of messages in messages by weak references alone: each collection of
# garbage would take them, and the next request make them again.
_kept: dict[str, Any] = {}


@cache
def message(full_name: str) -> Any:
    """The class of a message, e.g. "tensorflow.serving.PredictRequest"."""
    found = [pool().FindMessageTypeByName(full_name)]
    while found:
        descriptor = found.pop()
        if descriptor.full_name not in _kept:
            _kept[descriptor.full_name] = GetMessageClass(descriptor)
            found += [each.message_type for each in descriptor.fields if each.message_type]
    return _kept[full_name]


def parse_message(full_name: str, body: bytes) -> Any:
    """Reads a message.

    Raises:
        InvalidRequestError: the bytes are no such message.
    """
    try:
        return message(full_name).FromString(body)
    except (DecodeError, ValueError) as error:
        raise InvalidRequestError(
            f"These {len(body)} bytes are no {full_name.rpartition('.')[2]}: {error}"
        ) from error


def new_message(full_name: str, /, **fields: Any) -> bytes:
    """A serialised message."""
    made: bytes = message(full_name)(**fields).SerializeToString()
    return made
