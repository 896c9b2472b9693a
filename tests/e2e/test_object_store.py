"""A server and a pipeline on an S3 server, as processes; `make registries` installs what it takes."""

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from tests.e2e.conftest import convzoo, serve
from tests.s3 import BUCKET, SECRET, connected, s3_server
from tests.serving.published import publish_tiny
from zoo.artifact import Draft, read_manifest
from zoo.checkout import checkout
from zoo.object_store import RemoteModel
from zoo.url import Url

HAS_S3 = all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "boto3"))
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.openvino,
    pytest.mark.skipif(not HAS_S3, reason="`make registries` installs an S3 server"),
]


class Wire:
    """A network between here and a port, which can be cut."""

    def __init__(self, port):
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._pairs = set()
        self.port = 0
        self.mend()

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _pass(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._pairs |= {writer, back}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    @staticmethod
    async def _copy(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    def mend(self):
        self._server = self._do(asyncio.start_server(self._pass, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self):
        async def close():
            self._server.close()
            for each in self._pairs:
                each.transport.abort()
            self._pairs.clear()

        self._do(close())


@pytest.fixture(scope="module")
def store():
    with s3_server() as port:
        wire = Wire(port)
        with connected(wire.port) as patch:
            # Failures should be told in seconds here.
            patch.setenv("AWS_MAX_ATTEMPTS", "1")
            yield SimpleNamespace(url=Url(f"s3://{BUCKET}/models"), wire=wire)


def publish(store, scale):
    with checkout(store.url, "tiny") as opened:
        return opened.publish(publish_tiny(opened.base_path, scale=scale), is_fixed=False)


def stable(server):
    """The version that the label names; None while it names none."""
    url = f"{server.url}/v1/models/tiny/labels/stable/metadata"
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return int(json.load(reply)["model_spec"]["version"])
    except urllib.error.HTTPError:
        return None


def answered(server):
    body = json.dumps({"instances": [[[[0.0], [1.0]], [[0.5], [0.25]]]]}).encode()
    request = urllib.request.Request(
        f"{server.url}/v1/models/tiny:predict", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=5) as reply:
        return json.load(reply)["predictions"][0]


def move(store, *command):
    return convzoo(*command, "--base-path", store.url, "--why", "a test")


def test_a_server_follows_through_an_outage_and_its_end(store, tmp_path, poll):
    publish(store, 1.0)
    move(store, "promote", "tiny", 1, "--force")
    cache = ("--cache-dir", tmp_path / "cache", "--poll-interval-s", "0.2", "--no-tune")
    with serve(store.url, tmp_path, *cache) as server:
        poll(lambda: stable(server) == 1)
        first = answered(server)
        publish(store, 3.0)
        move(store, "promote", "tiny", 2, "--force")
        poll(lambda: stable(server) == 2)
        move(store, "rollback", "tiny")
        poll(lambda: stable(server) == 1)

        store.wire.cut()
        poll(lambda: "what serves goes on" in server.log.read_text(), 60)
        assert stable(server) == 1
        assert answered(server) != first  # version 2 is still the newest
        store.wire.mend()
        publish(store, 1.0)
        move(store, "promote", "tiny", 3, "--force")
        poll(lambda: stable(server) == 3, 60)
        assert answered(server) == first
        poll(lambda: [path.name for path in (tmp_path / "cache").glob("*/*")] == ["3"])
        log = server.log.read_text()
    assert "s3://bucket/models" in log
    assert SECRET not in log


UPLOAD = """
import sys
from pathlib import Path
from zoo.object_store import RemoteModel
from zoo.url import Url
RemoteModel(Url(sys.argv[1])).upload(Path(sys.argv[2]), is_fixed=False)
"""


def test_a_publisher_killed_in_mid_upload_leaves_nothing_visible(store, tmp_path, poll):
    path = publish_tiny(tmp_path, "killed")
    # Enough to be caught at it.
    with (path / "large").open("wb") as file:
        file.write(os.urandom(300_000_000))
    draft = Draft(path.parent, "killed", 7)
    path.rename(draft.path)
    path = draft.commit(read_manifest(draft.path))
    url = store.url / "killed"
    process = subprocess.Popen([sys.executable, "-c", UPLOAD, str(url), str(path)])
    model = RemoteModel(url)
    poll(lambda: any(name.startswith("7/") for name in model.look().files), 60)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    listing = model.look()
    assert listing.versions == {}
    assert listing.unfinished == {7}


def test_a_pipeline_promotes_once_and_refuses_what_was_damaged(store, tmp_path):
    import fsspec

    file = tmp_path / "pipeline.yaml"
    file.write_text(
        f"recipe: digits_lenet5_modern\noverrides: {{epochs: 1}}\nbase_path: {store.url}\n"
        "work_dir: work\nmodel: piped\ngates: {least_accuracy: 0.3, server: false}\n"
        "promote: {keep: 1}\n"
    )
    first = convzoo("pipeline", "run", file, "--json")
    assert json.loads(first.stdout)["promoted"] is True
    model = RemoteModel(store.url / "piped")
    assert model.labels(model.look()) == {"stable": 1}
    again = convzoo("pipeline", "run", file, "--json")
    assert json.loads(again.stdout)["ran"] == []
    fs = fsspec.filesystem("s3")
    weights = f"{BUCKET}/models/piped/1/variables/variables.data-00000-of-00001"
    fs.pipe_file(weights, bytes(fs.size(weights)))
    refused = convzoo("pipeline", "run", file, check=False)
    assert refused.returncode == 7
    assert "is not what was published" in refused.stderr
