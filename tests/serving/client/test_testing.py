"""What users test with: the fake server and the recorder, asked by real clients."""

import numpy as np
import pytest

from serving.client import Retries
from serving.client.errors import (
    DeadlineError,
    InvalidInputError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ServerError,
    TransportError,
    UnsupportedError,
    UsageError,
)
from serving.client.testing import FakeServer, Recorder

IMAGES = np.ones((2, 2, 2), np.float32)
PIXELS = np.zeros((2, 2), np.uint8)


@pytest.fixture
def server():
    made = FakeServer()
    for version in (1, 2):
        made.add(
            "tiny",
            lambda image, version=version: {"score": version * image.mean((1, 2))},
            classify=lambda _: {"ant": 0.1, "bee": 0.7, "cat": 0.2},
            inputs={"image": ("float32", (None, 2, 2))},
            outputs={"score": ("float32", (None,))},
            labels=("ant", "bee", "cat"),
            version=version,
            version_label="stable" if version == 1 else "",
        )
    made.add("bare", lambda x: x + 1)
    return made


def test_a_function_is_asked_as_a_model(server):
    with server.client() as client:
        assert client.predict("tiny", IMAGES)["score"].tolist() == [2, 2]
        assert client.predict("tiny", IMAGES, version=1).array.tolist() == [1, 1]
        assert client.predict("tiny", IMAGES, label="stable").version is None
        assert client.predict("bare", {"x": np.array([1])})["output"].tolist() == [2]
        answer = client.classify("tiny", PIXELS, top_k=2)
        assert (answer.labels, answer.class_id, answer.version) == (("bee", "cat"), 1, 2)
        assert client.models() == ("tiny", "bare")
        assert [each.version for each in client.status("tiny").versions] == [2, 1]
        assert client.metadata("tiny").signatures["serving_default"].inputs["image"].shape == (
            None,
            2,
            2,
        )
        client.wait_until_ready("tiny")
        client.wait_until_ready()
        many = list(client.predict_many("tiny", IMAGES, batch_size=1))
        assert [each.unwrap()["score"] for each in many] == [2, 2]
    asked = [call for call in server.calls if call.operation == "classify"]
    assert asked[0].model == "tiny"
    assert asked[0].top_k == 2
    assert asked[0].images[0].startswith(b"\x89PNG")
    predicted = [call for call in server.calls if call.operation == "predict"]
    assert predicted[0].inputs["image"].tolist() == IMAGES.tolist()
    assert predicted[2].label == "stable"


async def test_the_async_client_asks_it_too(server):
    async with server.async_client() as client:
        assert (await client.predict("tiny", IMAGES)).array.tolist() == [2, 2]


def test_its_refusals_are_those_of_a_server(server):
    server.add("other", classify=lambda _: {"a": 1.0})
    server.add("mute")
    with server.client() as client:
        with pytest.raises(InvalidInputError, match=r"\(N, 2, 2\)"):
            client.predict("tiny", IMAGES[0])
        with pytest.raises(ModelNotFoundError) as missing:
            client.predict("huge", IMAGES)
        assert missing.value.known == ("tiny", "bare", "other", "mute")
        with pytest.raises(ModelNotFoundError, match="has no version 7"):
            client.predict("tiny", IMAGES, version=7)
        with pytest.raises(ModelNotFoundError, match="'gold'"):
            client.predict("tiny", IMAGES, label="gold")
        with pytest.raises(UnsupportedError):
            client.predict("mute", {"x": IMAGES})
        with pytest.raises(UnsupportedError):
            client.classify("mute", PIXELS)
        assert client.classify("other", PIXELS).label == "a"


@pytest.mark.parametrize(
    "error",
    [
        OverloadedError("full", retry_after_s=0.5),
        DeadlineError("late"),
        PermissionDeniedError("no"),
        ServerError("broken"),
        TransportError("gone", is_sent=True),
    ],
)
def test_a_failure_that_was_ordered_comes(server, error):
    server.fail(error)
    with server.client(retries=Retries(attempts=1)) as client:
        with pytest.raises(type(error), match=str(error)) as raised:
            client.status("tiny")
        assert getattr(raised.value, "retry_after_s", None) == getattr(error, "retry_after_s", None)
        assert client.status("tiny").is_ready


def test_retries_are_seen(server):
    server.fail(TransportError("gone"), times=2)
    with server.client() as client:
        assert client.status("tiny").is_ready
    assert len(server.calls) == 3


@pytest.mark.openvino
@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_what_was_recorded_is_given_again_without_a_server(tiny_server, tmp_path, kind):
    url = tiny_server.url if kind == "http" else f"grpc://{tiny_server.grpc}"
    file = tmp_path / "kept" / "tiny.json"
    image = np.ones((1, 2, 2, 1), np.float32)

    def ask(client):
        assert client.models() == ("tiny",)
        return client.predict("tiny", image), client.classify("tiny", PIXELS, top_k=3)

    with Recorder(file, url) as recorder, recorder.client(api_key="s3cret") as client:
        assert recorder.is_recording
        first = ask(client)
    assert "s3cret" not in file.read_text()
    with Recorder(file, f"{kind}://nowhere.invalid:1") as recorder, recorder.client() as client:
        assert not recorder.is_recording
        assert ask(client) == first
        assert ask(client) == first
        with pytest.raises(UsageError, match="Remove the file to record anew"):
            client.predict("tiny", image * 2)


async def test_the_recorder_serves_asyncio(server, tmp_path):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"models": ["a"]}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answering) as listening:
        thread = Thread(target=listening.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{listening.server_port}"
        try:
            with Recorder(tmp_path / "a.json", url) as recorder:
                async with recorder.async_client(protocol="native") as client:
                    assert await client.models() == ("a",)
        finally:
            listening.shutdown()
            thread.join()
    with Recorder(tmp_path / "a.json", url) as recorder:
        async with recorder.async_client(protocol="native") as client:
            assert await client.models() == ("a",)


def test_a_test_that_fails_records_nothing(tmp_path):
    def fail():
        with Recorder(tmp_path / "a.json", "http://host") as recorder:
            recorder.client()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (tmp_path / "a.json").exists()
