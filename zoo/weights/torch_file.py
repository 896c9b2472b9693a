"""Reads torch's files (`.pth`) without torch and without running pickles.

Since 2020 such a file is a zip archive: `data.pkl` describes a dict of tensors, `data/0`, `data/1`,
... hold the numbers. Before, it was the description followed by the numbers. The description is a pickle, which is a program; here it is only read: its instructions
are looked at one by one, and the few that a dict of tensors needs are understood. Anything else,
such as a call of any other function, ends the reading.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
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
_MARK = object()
OLD_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


def read_torch(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict, by name.

    Raises:
        DataError: no such file, or one that holds anything but tensors.
    """
    try:
        found = _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, AttributeError) as error:
        raise DataError(f"{path} is no torch file: {error}") from error
    while isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}; expected a dict of tensors.")
    return {str(name): value for name, value in found.items() if isinstance(value, np.ndarray)}


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
            array = storages[key]
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
                last = stack.pop()
                stack.append(_Global(f"{stack.pop()}.{last}"))
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
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                items = self._to_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
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
        return self._get_storage(STORAGES[name], str(key), int(number))

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        name = function.name if isinstance(function, _Global) else repr(function)
        match name:
            case "collections.OrderedDict":
                return {}
            case "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor":
                storage, offset, size, stride, *_ = arguments
                item = storage.itemsize
                view = np.lib.stride_tricks.as_strided(
                    storage[offset:], size, [step * item for step in stride], writeable=False
                )
                last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
                if size and 0 not in size and last >= len(storage):
                    raise DataError(f"{self._path} has a tensor larger than its storage.")
                return view
            case "torch._utils._rebuild_parameter":
                return arguments[0]
            case _:
                raise DataError(
                    f"{self._path} asks to call {name}. Only dicts of tensors are read: nothing "
                    "in a file is ever executed."
                )
