"""What an operator meets: ports, signals and files at the wrong moment."""

import signal
import socket
import subprocess
import sys
import time

import pytest

from serving import app
from serving.errors import ConfigError
from serving.listeners.http1 import HttpListener
from tests.e2e.conftest import ROOT, convzoo, free_port, serve_light
from tests.serving.published import publish_tiny

pytestmark = [pytest.mark.e2e, pytest.mark.openvino]


@pytest.fixture
def base_path(tmp_path):
    publish_tiny(tmp_path / "models")
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rest-port", "{port}", "--grpc-port", "{port}"), "cannot share port {port}"),
        (("--otlp-endpoint", "host:4318"), "http://HOST:4318/v1/traces works"),
        (("--ready-file", "{place}/none/ready"), "there is no folder {place}/none"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_loaded(base_path, tmp_path, arguments, words):
    known = {"port": free_port(), "place": tmp_path}
    told = convzoo(
        *("serve", "--base-path", base_path, "--rest-port", "0", "--grpc-port", "0"),
        *(each.format(**known) for each in arguments),
        check=False,
    )
    assert told.returncode == 2
    assert words.format(**known) in told.stderr
    assert "Traceback" not in told.stderr
    assert "loading" not in told.stderr


def test_a_socket_whose_path_is_too_long_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be a socket for gRPC: AF_UNIX path too long"):
        app.bind_unix(tmp_path / ("s" * 120))


async def test_a_port_that_was_taken_meanwhile_is_told():
    """Two may be bound to a port; only the first can listen."""
    bound = app.bind("127.0.0.1", 0, "--rest-port")
    with app.bind("127.0.0.1", bound.getsockname()[1], "--rest-port") as other:
        other.listen()
        listener = HttpListener(None, bound, max_body_bytes=1)
        with pytest.raises(ConfigError, match=r"Another server took a port .* Address already in"):
            await app._listen(None, listener)
    bound.close()


def test_a_server_that_is_stopped_while_it_loads_loads_no_more(tmp_path):
    for model in ("a", "b", "c"):
        publish_tiny(tmp_path / "models", model)
    command = [
        *(sys.executable, "-m", "tests.e2e.light", "serve", "--ready-file", tmp_path / "ready"),
        *("--base-path", tmp_path / "models", "--rest-port", "0", "--grpc-port", "0"),
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        lines = []
        while "loading a version 1" not in (line := process.stderr.readline()):
            assert line, lines
            lines.append(line)
        process.terminate()
        rest = process.stderr.read()
    assert process.returncode == 0
    assert "asked to stop while models load" in rest
    assert "loading c version 1" not in rest
    assert "ready:" not in rest
    assert not (tmp_path / "ready").exists()


@pytest.fixture
def hangup():
    """Sets what a server inherits: with `nohup` before them, these tests ignore the signal."""
    before = signal.getsignal(signal.SIGHUP)
    yield lambda how: signal.signal(signal.SIGHUP, how)
    signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_closes_ends_a_server_as_a_stop_does(base_path, tmp_path, hangup):
    hangup(signal.SIG_DFL)
    with serve_light(base_path, tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(20) == 0
        assert "stopped" in server.log.read_text()


def test_a_server_that_is_started_with_nohup_outlives_its_terminal(base_path, tmp_path, hangup):
    hangup(signal.SIG_IGN)
    with serve_light(base_path, tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(1)
        assert server.stop() == 0


def test_a_configuration_that_changes_while_models_load_is_seen(base_path, tmp_path, poll):
    publish_tiny(base_path, "late")
    config = tmp_path / "serve.toml"
    first = f"[models.tiny]\nbase_path = '{base_path}/tiny'\n"
    config.write_text(first)
    rest, grpc = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "tests.e2e.light", "serve", "--config", config),
        *("--rest-port", str(rest), "--grpc-port", str(grpc)),
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            while "loading tiny" not in process.stderr.readline():
                pass
            config.write_text(first + f"[models.late]\nbase_path = '{base_path}/late'\n")
            until = time.monotonic() + 20
            while "serving the changed configuration" not in process.stderr.readline():
                assert time.monotonic() < until
        finally:
            process.terminate()
            process.stderr.read()


def test_a_dry_run_says_why_a_model_would_not_serve(base_path, tmp_path):
    config = tmp_path / "serve.toml"
    config.write_text(
        f"[models.none]\nbase_path = '{base_path}/none'\n"
        f"[models.other]\nbase_path = '{base_path}/tiny'\nversions = [7]\n"
    )
    told = convzoo("serve", "--config", config, "--dry-run", check=False)
    assert told.returncode == 3
    assert "none cannot be read: No such file or directory" in told.stderr
    assert "No version of model 'other' can be served" in told.stderr


def test_nobody_can_connect_before_models_are_loaded():
    with app.bind("127.0.0.1", 0, "--rest-port") as bound, pytest.raises(ConnectionRefusedError):
        socket.create_connection(bound.getsockname(), timeout=1)
