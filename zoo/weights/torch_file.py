"""Reads torch's zip format (`.pth`) without torch and without running pickles.

The file is a zip archive: `data.pkl` describes a dict of tensors, `data/0`, `data/1`, ... hold the
numbers. The description is a pickle, which is a program; here it is only read: its instructions
are looked at one by one, and the few that a dict of tensors needs are understood. Anything else,
such as a call of any other function, ends the reading.
"""

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


def read_torch(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict, by name.

    Raises:
        DataError: no such file, or one that holds anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (description,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
            folder = description.removesuffix("data.pkl")
            found = _Reader(archive, folder, path).read(archive.read(description))
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path} is no torch file of the zip format: {error}") from error
    while isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}; expected a dict of tensors.")
    return {str(name): value for name, value in found.items() if isinstance(value, np.ndarray)}


class _Reader:
    def __init__(self, archive: zipfile.ZipFile, folder: str, path: Path) -> None:
        self._archive = archive
        self._folder = folder
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, program: bytes) -> Any:
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
        _, kind, key, *_ = identity
        name = kind.name.rpartition(".")[2]
        if name not in STORAGES:
            raise DataError(f"{self._path} stores numbers as {name}; {', '.join(STORAGES)} work.")
        data = self._archive.read(f"{self._folder}data/{key}")
        return np.frombuffer(data, dtype=STORAGES[name])

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
