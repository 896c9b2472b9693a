"""Steering a TensorFlow Serving: tensorflow-serving-api asks, and our server stands in for it.

`tensorflow_model_server` has no package that installs here; our server keeps the same rules: a
reload replaces everything, and a label moves only to a version that serves.
"""

import json
import socket
import threading
import urllib.request

import pytest
from click.testing import CliRunner

from tests.e2e.conftest import serve_light
from tests.serving.published import publish_tiny
from zoo.artifact import MANIFEST, read_labels
from zoo.errors import UsageError

pytestmark = [pytest.mark.e2e, pytest.mark.tensorflow, pytest.mark.openvino]

CONFIG = """
# What else it serves.
model_config_list {{
  config {{ name: "other" base_path: "{base}/other" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }} }}
  config {{ name: "tiny" base_path: "{base}/tiny" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 }} }} }}
}}
"""


@pytest.fixture
def base(tmp_path):
    base = tmp_path / "models"
    for scale in (1.0, 2.0):
        publish_tiny(base, scale=scale)
    publish_tiny(base, "other")
    return base


@pytest.fixture
def config(tmp_path, base):
    file = tmp_path / "models.config"
    file.write_text(CONFIG.format(base=base))
    return file


@pytest.fixture
def server(config, tmp_path):
    args = ("--config", config, "--rest-port", 0, "--grpc-port", 0, "--no-tune")
    with serve_light(None, tmp_path, *args, "--poll-interval-s", 0.1) as found:
        yield found


def read(config):
    """The file as TensorFlow Serving's own classes read it."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    message = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(config.read_text(), message)
    return {
        each.name: (
            list(each.model_version_policy.specific.versions),
            dict(each.version_labels),
            each.base_path,
        )
        for each in message.model_config_list.config
    }


def ask(server, what):
    with urllib.request.urlopen(f"{server.url}/v1/models/{what}", timeout=5) as reply:
        return json.load(reply)


def serving(server, model):
    statuses = ask(server, model)["model_version_status"]
    return sorted(int(each["version"]) for each in statuses if each["state"] == "AVAILABLE")


def run(command, *args):
    from training import release_cli

    done = CliRunner().invoke(getattr(release_cli, command), [*map(str, args)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_labels_move_on_the_server_and_in_its_file_without_a_request_failing(
    server, config, base, poll
):
    steered = ("--base-path", base, "--tf-serving", server.grpc, "--tf-serving-config", config)
    forced = ("--force", "--why", "a test")
    assert run("promote", "tiny", 1, *steered, *forced).exit_code == 0
    assert ask(server, "tiny/labels/stable/metadata")["model_spec"]["version"] == "1"

    failures, stop = [], threading.Event()

    def keep_asking():
        while not stop.is_set():
            try:
                ask(server, "tiny/labels/stable/metadata")
            except OSError as error:
                failures.append(error)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        assert run("promote", "tiny", 2, *steered, *forced).exit_code == 0
        assert ask(server, "tiny/labels/stable/metadata")["model_spec"]["version"] == "2"
        poll(lambda: serving(server, "tiny") == [2])
        assert read(config) == {
            "other": ([], {}, f"{base}/other"),
            "tiny": ([2], {"stable": 2}, f"{base}/tiny"),
        }
        assert run("promote", "tiny", 1, *steered, *forced, "--label", "canary").exit_code == 0
        assert serving(server, "tiny") == [1, 2]
        assert run("rollback", "tiny", *steered).exit_code == 0
        assert ask(server, "tiny/labels/stable/metadata")["model_spec"]["version"] == "1"
        poll(lambda: serving(server, "tiny") == [1])
        assert serving(server, "other") == [1]
    finally:
        stop.set()
        asking.join()
    assert failures == []
    assert read(config)["tiny"][:2] == ([1], {"stable": 1, "canary": 1})


def test_a_version_that_the_server_cannot_load_moves_nothing_there(server, config, base):
    from training.tf_serving import TfServingError, steer

    steer(config, "tiny", None, {"stable": 1}, address=server.grpc)
    before = config.read_bytes()
    (base / "tiny" / "2" / MANIFEST).write_text("{}")
    with pytest.raises(TfServingError, match="version 2"):
        steer(config, "tiny", None, {"stable": 2}, address=server.grpc)
    assert ask(server, "tiny/labels/stable/metadata")["model_spec"]["version"] == "1"
    with pytest.raises(TfServingError, match=r"version 9 .* within 1 s; does it see them"):
        steer(config, "tiny", None, {"stable": 9}, address=server.grpc, limit_s=1)
    assert config.read_bytes() == before
    # What a file says of versions that the server never had is no obstacle.
    ahead = config.with_name("ahead.config")
    ahead.write_text(config.read_text().replace('key: "stable"', 'key: "canary"'))
    ahead.write_text(ahead.read_text().replace("value: 1", "value: 9"))
    steer(ahead, "tiny", None, {"stable": 1}, address=server.grpc)
    assert read(ahead)["tiny"][:2] == ([1], {"stable": 1})


def test_a_server_that_is_silent_is_told_as_such(config, monkeypatch):
    from training import tf_serving

    before = config.read_bytes()
    monkeypatch.setattr(tf_serving, "ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(tf_serving.TfServingError, match="has not answered within"):
            tf_serving.steer(config, "tiny", None, {"stable": 1}, address=address, limit_s=0.5)
    assert config.read_bytes() == before


def test_a_file_alone_asks_for_a_version_before_a_label_moves_to_it(config, base):
    from training.tf_serving import TfServingError, steer

    steer(config, "tiny", None, {"stable": 1})
    with pytest.raises(TfServingError, match="run this again when it is available"):
        steer(config, "tiny", None, {"stable": 2})
    assert read(config)["tiny"][:2] == ([1, 2], {"stable": 1})
    steer(config, "tiny", None, {"stable": 2})
    assert read(config)["tiny"][:2] == ([2], {"stable": 2})
    # A policy that has every version stays.
    steer(config, "other", None, {"stable": 1})
    steer(config, "other", "/elsewhere", {"stable": 3})
    assert read(config)["other"] == ([], {"stable": 3}, "/elsewhere")


def test_a_file_is_made_for_the_first_model(base, tmp_path):
    config = tmp_path / "new" / "models.config"
    done = run(
        *("promote", "tiny", 2, "--base-path", base, "--force", "--why", "a test"),
        *("--tf-serving-config", config),
    )
    assert read(config) == {"tiny": ([2], {"stable": 2}, f"{base}/tiny")}
    assert "--allow_version_labels_for_unavailable_models=true" in done.stderr
    assert read_labels(base / "tiny") == {"stable": 2}


def test_what_cannot_be_steered_is_told(config, base, tmp_path):
    from training.tf_serving import TfServingError, steer

    done = run("promote", "tiny", 1, "--base-path", base, "--tf-serving", "localhost:1")
    assert (done.exit_code, "needs --tf-serving-config" in done.output) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    before = config.read_bytes()
    with pytest.raises(TfServingError, match=f"127.0.0.1:{port} does not answer"):
        steer(config, "tiny", None, {"stable": 1}, address=f"127.0.0.1:{port}")
    assert config.read_bytes() == before
    with pytest.raises(UsageError, match="--tf-serving-base-path says where"):
        steer(config, "third", None, {"stable": 1})
    other = tmp_path / "other.config"
    other.write_text("models: {}")
    with pytest.raises(UsageError, match="no configuration of TensorFlow Serving"):
        steer(other, "tiny", None, {"stable": 1})
