"""Memory of the whole process: what it holds, and giving back what was freed."""

import ctypes
import ctypes.util
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any


@functools.cache
def _malloc_trim() -> Callable[[int], Any] | None:
    library = ctypes.util.find_library("c")
    return getattr(ctypes.CDLL(library), "malloc_trim", None) if library else None


def give_back() -> None:
    """Returns freed memory to the system; glibc keeps it for itself otherwise."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def resident_bytes(process_id: int | None = None) -> int:
    """What a process (this one by default) holds now; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{process_id or 'self'}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * 4096
