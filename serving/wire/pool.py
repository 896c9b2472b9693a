"""Message classes under their standard names, in a pool of this project's own.

The names are those that TensorFlow and tritonclient register in protobuf's default pool; a private
pool lets all of them live in one process (docs/decisions/0002).
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from serving.errors import InvalidRequestError, LimitExceededError


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


# Fields of one large message: a tensor has two. Each of them costs hundreds of bytes and a
# microsecond, however small it is.
MOST_FIELDS = 4096

# Kinds of fields, the last three bits of a tag.
FIXED64, START_GROUP, END_GROUP = 1, 3, 4


def fields_of(name: str, body: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a serialised message.

    Returns:
        Of each: its tag, where it begins, and from where to where its content goes.

    Raises:
        InvalidRequestError: a field that goes beyond the message, or is of no message at all.
        LimitExceededError: more fields than any number of tensors explains.
    """
    place = number = 0
    while place < len(body):
        begin = place
        tag, place = _read_varint(name, body, place)
        match tag & 7:
            case 2:
                length, place = _read_varint(name, body, place)
                end = place + length
            case 0:
                end = _read_varint(name, body, place)[1]
            case 1 | 5 as kind:
                end = place + (8 if kind == FIXED64 else 4)
            case 3 | 4:
                end = place
            case _:
                raise InvalidRequestError(f"These {len(body)} bytes are no {name}.")
        if end > len(body):
            raise InvalidRequestError(
                f"These {len(body)} bytes are no {name}: the message ends too early."
            )
        number += 1
        if number > MOST_FIELDS:
            raise LimitExceededError(f"The {name} has more than {MOST_FIELDS:,} fields.")
        yield tag, begin, place, end
        place = end


def _read_varint(name: str, body: bytes, place: int) -> tuple[int, int]:
    """A number, and where the next byte stands."""
    number = shift = 0
    while place < len(body) and shift < 64:
        byte = body[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
        shift += 7
    raise InvalidRequestError(f"These {len(body)} bytes are no {name}: a number has no end.")


def new_message(full_name: str, /, **fields: Any) -> bytes:
    """A serialised message."""
    made: bytes = message(full_name)(**fields).SerializeToString()
    return made
