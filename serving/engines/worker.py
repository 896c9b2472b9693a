"""An engine in a process of its own: the server stays light, and a crash or a leak stays there.

TensorFlow always runs so; any other engine does when a version asks for it (`is_isolated`).

The two sides speak frames over a socket pair: a kind, a length, then TensorFlow Serving's own
messages. No pickle, nothing that executes what it reads.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import (
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    LimitExceededError,
    LoadError,
    NotReadyError,
    ServingError,
    UnsupportedError,
)
from serving.limits import LIMITS, NO_LIMITS
from serving.messages import Array, ModelMetadata, PredictCall, PredictReply, Signature, Target
from serving.wire import tfs_proto
from zoo.artifact import Manifest, read_manifest
from zoo.cores import SHARE, for_tensorflow

if TYPE_CHECKING:
    from serving.core.engine import LoadedModel
    from serving.engines.tensorflow import SavedModel

log = logging.getLogger(__name__)

_HEAD = struct.Struct("<cQ")
NOTE, READY, REQUEST, REPLY, FAILURE = b"N", b"R", b"Q", b"A", b"F"

# TensorFlow alone takes 10 to 16 s to import on a small machine.
START_WITHIN_S = 120.0
# What an engine raises; of other errors the nearest base among these goes over.
_FAILURES: dict[str, type[ServingError]] = {
    each.__name__: each
    for each in (LimitExceededError, InvalidRequestError, UnsupportedError, EngineError, LoadError)
}


def _send(connection: socket.socket, kind: bytes, body: bytes) -> None:
    connection.sendall(_HEAD.pack(kind, len(body)) + body)


def _receive(connection: socket.socket) -> tuple[bytes, bytes]:
    kind, size = _HEAD.unpack(_exactly(connection, _HEAD.size))
    return kind, _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    body = bytearray(size)
    view = memoryview(body)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(body)


# --- The server's side --------------------------------------------------------------------------


class WorkerModel:
    """A version in a worker process; started again when it has died.

    Args:
        version_path: The version's folder.
        engine: The engine's name.
        is_batchable: Whether rows of different requests may run together.

    Attributes:
        note: What the engine says of how it runs there; see `serving.core.engine`.
    """

    def __init__(self, version_path: Path, engine: str, *, is_batchable: bool) -> None:
        self.is_batchable = is_batchable
        self.note = ""
        self._path = version_path
        self._engine = engine
        # One run or start at a time. Who ends the worker does not wait for it: what runs may have no
        # end of its own.
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        self._is_closed = False
        self._start_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self.signatures: Mapping[str, Signature] = self._start().signatures

    def _start(self) -> ModelMetadata:
        ours, theirs = socket.socketpair()
        ours.settimeout(START_WITHIN_S)
        environment = for_tensorflow() | os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        started = time.monotonic()
        with theirs, self._ending:
            if self._is_closed:
                ours.close()
                raise NotReadyError("The version was unloaded before the model ran.")
            self._process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
                [
                    *(sys.executable, "-m", __name__),
                    *(str(theirs.fileno()), str(self._path), self._engine),
                    *([str(SHARE.most_cores)] if SHARE.most_cores is not None else []),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=None if "CONVZOO_LOG_LEVEL" in os.environ else subprocess.DEVNULL,
                env=environment,
            )
        self._connection = ours
        try:
            kind, body = _receive(ours)
            if kind == NOTE:
                self.note = body.decode()
                kind, body = _receive(ours)
        except TimeoutError as error:
            self._kill()
            self._stop()
            raise LoadError(
                f"The {self._engine} worker did not load this version in {START_WITHIN_S:g} s."
            ) from error
        except (EOFError, OSError) as error:
            code = self._stop()
            raise LoadError(
                f"The {self._engine} worker ended while it loaded this version (exit code {code})."
            ) from error
        if kind == FAILURE:
            self._stop()
            raise _failure(body)
        self._start_s = time.monotonic() - started
        return tfs_proto.decode_metadata_reply(body)

    @property
    def process_id(self) -> int | None:
        """The worker's process, while there is one."""
        return None if self._process is None else self._process.pid

    def run(
        self, signature: str, inputs: Mapping[str, Array], deadline: float | None = None
    ) -> Mapping[str, Array]:
        """Runs a signature in the worker.

        What still runs after its deadline holds up all others. It is given as long again as a worker
        takes to start: to end it sooner could cost them more than it saves. Without a deadline, or
        with one that is far away, the limit `run_s` ends it.
        """
        request = tfs_proto.encode_predict_request(PredictCall(Target("worker"), inputs, signature))
        with self._lock:
            if self._connection is None:
                self._start()
            connection = self._connection
            assert connection is not None  # noqa: S101 - _start has made it
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise DeadlineExceededError("The deadline passed before the worker was free.")
            within_s = min(LIMITS.run_s, float("inf") if left_s is None else left_s + self._start_s)
            connection.settimeout(within_s)
            try:
                _send(connection, REQUEST, request)
                kind, body = _receive(connection)
            except TimeoutError as error:
                log.warning(
                    "a run of %s did not end within %.1f s: its worker is ended, the next request "
                    "starts another",
                    self._path,
                    within_s,
                )
                self._kill()
                self._stop()
                raise DeadlineExceededError(
                    f"The run did not end within {within_s:g} s, the limit run_s."
                    if within_s == LIMITS.run_s
                    else "The deadline passed while the model ran."
                ) from error
            except (EOFError, OSError) as error:
                code = self._stop()
                if self._is_closed:
                    raise NotReadyError("The version was unloaded while the model ran.") from error
                raise EngineError(
                    f"The {self._engine} worker died (exit code {code}); the next request "
                    "starts another."
                ) from error
        if kind == FAILURE:
            raise _failure(body)
        return tfs_proto.decode_predict_reply(body, NO_LIMITS).outputs

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _stop(self) -> int | None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is None:
            return None
        try:
            return self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._kill()
            return self._process.wait()

    def close(self) -> None:
        """Ends the worker, in the middle of a run too, which gives all of its memory back."""
        with self._ending:
            self._is_closed = True
            if self._lock.locked():
                self._kill()
        with self._lock:
            self._stop()


class TensorFlowModel(WorkerModel):
    """A SavedModel on TensorFlow."""

    def __init__(self, version_path: Path, manifest: Manifest | None, streams: int = 1) -> None:
        del manifest, streams  # the SavedModel says everything, and one pipe is one stream
        # What a foreign graph does with rows of different requests is not known: they stay apart.
        super().__init__(version_path, "tensorflow", is_batchable=False)


def _failure(body: bytes) -> ServingError:
    failure = json.loads(body)
    error = _FAILURES[failure["kind"]](failure["text"])
    if isinstance(error, InvalidRequestError):
        error.field = failure["field"]
    return error


# --- The worker's side --------------------------------------------------------------------------


def main(file_number: int, path: Path, engine: str) -> None:
    """Loads the version, says what it has, and answers until the server closes its end."""
    # Ctrl-C reaches the whole group; the server decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=file_number) as connection, contextlib.suppress(EOFError):
        try:
            model = _load(path, engine)
        except LoadError as error:
            _send(connection, FAILURE, _as_failure(error))
            return
        except Exception as error:  # noqa: BLE001 - whatever a file makes a library raise is its reason
            reason = LoadError(f"Loading failed: {type(error).__name__}: {error}")
            _send(connection, FAILURE, _as_failure(reason))
            return
        if note := getattr(model, "note", ""):
            _send(connection, NOTE, note.encode())
        metadata = ModelMetadata("worker", 1, model.signatures)
        _send(connection, READY, tfs_proto.encode_metadata_reply(metadata))
        while True:
            _, body = _receive(connection)
            try:
                call = tfs_proto.decode_predict_request(body, NO_LIMITS)
                outputs = model.run(call.signature, call.inputs)
                reply = PredictReply("worker", 1, call.signature, outputs)
                answer = tfs_proto.encode_predict_reply(reply, as_content=True)
            except Exception as error:  # noqa: BLE001 - the next request may go well
                _send(connection, FAILURE, _as_failure(error))
            else:
                _send(connection, REPLY, answer)


def _load(path: Path, engine: str) -> "SavedModel | LoadedModel":
    from serving.core import engine as engines

    if engine == "tensorflow":
        try:
            from serving.engines.tensorflow import SavedModel
        except ModuleNotFoundError as error:
            raise engines.not_installed(engine, error) from error
        return SavedModel(path)
    return engines.load(engine, path, read_manifest(path))


def _as_failure(error: Exception) -> bytes:
    if not isinstance(error, ServingError):
        error = EngineError(f"The engine failed: {type(error).__name__}: {error}")
    names = [each.__name__ for each in type(error).__mro__ if each.__name__ in _FAILURES]
    failure = {
        "kind": names[0] if names else EngineError.__name__,
        "text": str(error),
        "field": getattr(error, "field", ""),
    }
    return json.dumps(failure).encode()


if __name__ == "__main__":
    if len(sys.argv) > 4:
        SHARE.most_cores = int(sys.argv[4])
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
