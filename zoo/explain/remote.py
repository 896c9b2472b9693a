"""A Keras probe in a process of its own, for servers: TensorFlow stays out of theirs.

The two sides speak frames over a socket pair: a JSON head, then arrays as an .npz without pickle.
"""

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ConvzooError, ExplainError
from zoo.explain.probe import Array, Floats, Layer, Rule

_HEAD = struct.Struct("<QQ")

# TensorFlow alone takes 10 to 16 s to import on a small machine.
START_WITHIN_S = 120.0


class WorkerError(ConvzooError):
    """The worker did not start, or died; the next call starts another."""


def _send(connection: socket.socket, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer, allow_pickle=False, **{f"a{i}": each for i, each in enumerate(arrays.values())}
    )
    text = json.dumps({**head, "names": list(arrays)}).encode()
    body = buffer.getbuffer()
    connection.sendall(_HEAD.pack(len(text), len(body)) + text)
    connection.sendall(body)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], dict[str, Array]]:
    text_size, body_size = _HEAD.unpack(_exactly(connection, _HEAD.size))
    head: dict[str, Any] = json.loads(_exactly(connection, text_size))
    with np.load(io.BytesIO(_exactly(connection, body_size)), allow_pickle=False) as file:
        return head, {name: file[f"a{i}"] for i, name in enumerate(head["names"])}


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


class RemoteProbe:
    """A probe of a `.keras` file that runs in a worker process, started by the first call.

    Args:
        path: The file.
        layers: Its layers, as `KerasFile` reads them.
        output: The layer that gives the logits.
    """

    def __init__(self, path: Path, layers: tuple[Layer, ...], output: str) -> None:
        self._path = path
        self.layers = layers
        self.output = output
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def feature_maps(self, images_nhwc: Floats, layers: Sequence[str]) -> Mapping[str, Floats]:
        """The outputs of some layers."""
        return self._ask({"call": "feature_maps", "layers": list(layers)}, {"images": images_nhwc})

    def pull_back(
        self,
        images_nhwc: Floats,
        layer: str,
        seed: Floats,
        *,
        at: str | None = None,
        rule: Rule = "relu",
    ) -> Floats:
        """Sends a signal back; see `Probe`."""
        head = {"call": "pull_back", "layer": layer, "at": at, "rule": rule}
        return self._ask(head, {"images": images_nhwc, "seed": seed})["signal"]

    def weights(self, layer: str) -> Mapping[str, Floats]:
        """A layer's weights."""
        return self._ask({"call": "weights", "layer": layer}, {})

    def _ask(self, head: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, Array]:
        with self._lock:
            if self._connection is None:
                self._start()
            connection = self._connection
            assert connection is not None  # noqa: S101 - _start has made it
            try:
                _send(connection, head, arrays)
                answer, found = _receive(connection)
            except (EOFError, OSError) as error:
                code = self._stop()
                raise WorkerError(
                    f"The worker for gradients died (exit code {code}); the next request starts "
                    "another."
                ) from error
        if "error" in answer:
            raise ExplainError(answer["error"])
        return found

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(START_WITHIN_S)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
                [sys.executable, "-m", __name__, str(theirs.fileno()), str(self._path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            )
        self._connection = ours
        try:
            head, _ = _receive(ours)
        except (EOFError, OSError) as error:
            code = self._stop()
            raise WorkerError(
                f"The worker for gradients did not start (exit code {code}); is convzoo[train] "
                "installed?"
            ) from error
        if "error" in head:
            self._stop()
            raise ExplainError(head["error"])
        ours.settimeout(None)

    def _stop(self) -> int | None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is None:
            return None
        process, self._process = self._process, None
        try:
            return process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def close(self) -> None:
        """Ends the worker, also one that is busy; what it was asked gets a `WorkerError`."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
        with self._lock:
            self._stop()


# --- The worker's side --------------------------------------------------------------------------


def main(file_number: int, path: Path) -> None:
    """Loads the network and answers until the other end is closed."""
    # Ctrl-C reaches the whole group; the server decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=file_number) as connection, contextlib.suppress(EOFError):
        try:
            # By name: a server that imports this file must not know any architecture.
            from importlib import import_module

            probe: Any = import_module("zoo.keras_probe").load_probe(path)
        except (ConvzooError, ImportError) as error:
            _send(connection, {"error": str(error)}, {})
            return
        _send(connection, {}, {})
        while True:
            head, arrays = _receive(connection)
            try:
                found = _answer(probe, head, arrays)
            except ConvzooError as error:
                _send(connection, {"error": str(error)}, {})
            else:
                _send(connection, {}, found)


def _answer(
    probe: Any, head: Mapping[str, Any], arrays: Mapping[str, Array]
) -> Mapping[str, Array]:
    match head["call"]:
        case "feature_maps":
            found: Mapping[str, Array] = probe.feature_maps(arrays["images"], head["layers"])
        case "pull_back":
            signal_back = probe.pull_back(
                arrays["images"], head["layer"], arrays["seed"], at=head["at"], rule=head["rule"]
            )
            found = {"signal": signal_back}
        case _:
            found = probe.weights(head["layer"])
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
