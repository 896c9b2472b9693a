"""Reads torch's files (`.pth`) without torch and without running pickles.

Since 2020 such a file is a zip archive: `data.pkl` describes a dict of tensors, `data/0`, `data/1`,
... hold the numbers. Before, it was the description followed by the numbers. The description is a
pickle, which is a program; here it is only read: its instructions are looked at one by one, and the
few that a dict of tensors needs are understood. Anything else, such as a call of any other
function, ends the reading. Nothing that the description says of a tensor is believed: a view
outside its storage would read, or end, this process.
"""

import io
import math
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import DataError

STORAGES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# What a checkpoint of a training run calls the state dict among other things.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# Broken descriptions make Python raise all of these; RuntimeError is zipfile's for encrypted files.
BROKEN = (
    *(OSError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError),
    *(ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError),
)
_MARK = object()
OLD_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


def read_torch(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict, by name; a checkpoint's is taken out of it.

    Raises:
        DataError: no such file, or one that holds anything but tensors.
    """
    try:
        found = _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
    except BROKEN as error:
        why = str(error) or type(error).__name__
        raise DataError(f"{path} is no torch file, or a damaged one: {why}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}; expected a dict of tensors.")
    state = _unwrapped(found)
    tensors = {name: each for name, each in state.items() if isinstance(each, np.ndarray)}
    if not tensors:
        names = ", ".join(map(repr, state)) or "nothing"
        raise DataError(
            f"{path} holds no tensors by name. It has {names}; a dict of tensors is read, also "
            f"under {', '.join(map(repr, WRAPPERS))}."
        )
    return {str(name): value for name, value in tensors.items()}


def _unwrapped(found: Mapping[Any, Any]) -> Mapping[Any, Any]:
    for _ in WRAPPERS:  # a crafted file could nest them in a circle
        inner = next((found[name] for name in WRAPPERS if isinstance(found.get(name), dict)), None)
        if inner is None:
            break
        found = inner
    return found


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        (description,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        folder = description.removesuffix("data.pkl")

        def storage(kind: Any, key: str, _: int) -> NDArray[Any]:
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype=kind)

        return _Reader(storage, path).read(io.BytesIO(archive.read(description)))


def _read_old(path: Path) -> Any:
    storages: dict[str, NDArray[Any]] = {}

    def storage(kind: Any, key: str, number: int) -> NDArray[Any]:
        # The numbers come later in the file; the tensors are views that see them arrive.
        if number * np.dtype(kind).itemsize > path.stat().st_size:
            raise DataError(f"{path} describes more numbers than it has bytes.")
        return storages.setdefault(key, np.zeros(number, dtype=kind))

    with path.open("rb") as file:
        if _Reader(storage, path).read(file) != OLD_MAGIC:
            raise DataError(f"{path} is no torch file: it begins with another magic number.")
        for _ in ("protocol", "system"):
            _Reader(storage, path).read(file)
        found = _Reader(storage, path).read(file)
        for key in _Reader(storage, path).read(file):
            array = storages[key if isinstance(key, str) else ""]
            (number,) = struct.unpack("<q", file.read(8))
            data = file.read(array.nbytes)
            if number != len(array) or len(data) != array.nbytes:
                raise DataError(f"{path} is truncated: storage {key} has {len(data)} bytes.")
            array[:] = np.frombuffer(data, dtype=array.dtype)
    return found


class _Reader:
    def __init__(self, storage: Callable[[Any, str, int], NDArray[Any]], path: Path) -> None:
        self._get_storage = storage
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, program: IO[bytes]) -> Any:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise DataError(f"{self._path} ends in the middle of its description.")

    def _step(self, name: str, argument: Any) -> None:  # noqa: PLR0912, PLR0915 - one arm an instruction
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case (
                "BININT"
                | "BININT1"
                | "BININT2"
                | "LONG1"
                | "BINFLOAT"
                | "BINUNICODE"
                | ("SHORT_BINUNICODE")
            ):
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(_Global(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                last, module = self._key(stack.pop()), self._key(stack.pop())
                stack.append(_Global(f"{module}.{last}"))
            case "TUPLE" | "LIST":
                items = self._to_mark()
                stack.append(tuple(items) if name == "TUPLE" else items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                items = stack[-count:]
                del stack[-count:]
                stack.append(tuple(items))
            case "APPENDS":
                items = self._to_mark()
                stack[-1].extend(items)
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][self._key(key)] = value
            case "SETITEMS":
                items = self._to_mark()
                keys = [self._key(key) for key in items[::2]]
                stack[-1].update(zip(keys, items[1::2], strict=True))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self._call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes of an ordered dict, e.g. its version numbers
            case _:
                raise DataError(
                    f"{self._path} contains the instruction {name}, which no dict of tensors needs."
                )

    def _key(self, key: Any) -> str | int:
        # Tuples of tuples, each twice in the next, would take for ever to hash or to print.
        if not isinstance(key, str | int):
            raise DataError(f"{self._path} names things by {type(key).__name__}, not by text.")
        return key

    def _to_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _storage(self, identity: Any) -> NDArray[Any]:
        _, kind, key, _, number, *_ = identity
        name = kind.name.rpartition(".")[2]
        if name not in STORAGES:
            raise DataError(f"{self._path} stores numbers as {name}; {', '.join(STORAGES)} work.")
        return self._get_storage(STORAGES[name], str(self._key(key)), int(number))

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        is_named = isinstance(function, _Global)
        name = function.name if is_named else f"a {type(function).__name__}"
        match name:
            case "collections.OrderedDict":
                return {}
            case "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor":
                return self._view(*arguments[:4])
            case "torch._utils._rebuild_parameter":
                return arguments[0]
            case _:
                raise DataError(
                    f"{self._path} asks to call {name}. Only dicts of tensors are read: nothing "
                    "in a file is ever executed."
                )

    def _view(self, storage: Any, offset: Any, size: Any, stride: Any) -> NDArray[Any]:
        """A tensor in its storage, all of which lies inside it."""
        numbers = (offset, *size, *stride)
        if (
            not isinstance(storage, np.ndarray)
            or not all(isinstance(each, int) and each >= 0 for each in numbers)
            or len(size) != len(stride)
        ):
            raise DataError(
                f"{self._path} describes a tensor that cannot be: its storage, offset, sizes or "
                "strides are no whole numbers from 0 on, or not as many."
            )
        if 0 in size:
            return np.zeros(size, storage.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        # The second: a stride of 0 would make any number of values out of one.
        if last >= len(storage) or math.prod(size) > len(storage):
            raise DataError(f"{self._path} has a tensor larger than its storage.")
        steps = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)
