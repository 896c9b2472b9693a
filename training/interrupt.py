"""SIGTERM outside the training loop: while data are read, TensorFlow starts, or results are written.

The loop has a handler of its own, which lets a step end and a checkpoint be written first.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from zoo.errors import InterruptedRunError


class _StoppedError(BaseException):
    """Passes through every `except Exception`: libraries have many where they are imported."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Turns SIGTERM into an answer to the user, with the exit code of a run that can go on.

    Raises:
        InterruptedRunError: SIGTERM came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise _StoppedError

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _StoppedError:
        raise InterruptedRunError(
            "Stopped outside the training loop. The same command goes on from the last "
            "checkpoint, or begins where there is none."
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def killable() -> Iterator[None]:
    """Leaves SIGTERM to the system while a library waits, for minutes, without Python's handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
