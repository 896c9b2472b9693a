"""The stack that signals are handled on, which OpenVINO changes behind Python's back.

Where a processor has AMX, OpenVINO gives the thread that loads its CPU plugin another stack for
signals, and frees it with its last network, in whichever thread that goes. Python handles signals on
that stack: Ctrl-C or SIGTERM then ended the process with a segmentation fault.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Linux' and macOS' numbers differ, and OpenVINO does this on Linux alone.
SS_DISABLE = 2


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def keeps_signal_stack() -> Iterator[None]:
    """Has this thread handle signals where it did before, whatever is called meanwhile.

    Around everything that makes OpenVINO load its CPU plugin: questions about the device, too.
    """
    before = _ask()
    try:
        yield
    finally:
        if before is not None and (after := _ask()) is not None and after.sp != before.sp:
            _set(before)


def _ask() -> _Stack | None:
    stack = _Stack()
    return stack if _call(None, ctypes.byref(stack)) == 0 else None


def _set(stack: _Stack) -> None:
    if _call(ctypes.byref(stack), None):
        # It is smaller than what this processor's signals take by now: better none.
        _call(ctypes.byref(_Stack(None, SS_DISABLE, 0)), None)


def _call(new: object, old: object) -> int:
    try:
        result: int = ctypes.CDLL(None).sigaltstack(new, old)
    except (AttributeError, OSError, TypeError):
        return -1  # a system without it
    return result
