"""The typed client against a real server process, over both protocols."""

import asyncio
import copy
import io
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.client import AsyncClient, Client, Retries
from serving.client.address import parse
from serving.client.errors import (
    DeadlineError,
    ImageError,
    InvalidInputError,
    ModelNotFoundError,
    NotReadyError,
    OverloadedError,
    TransportError,
    UsageError,
)
from serving.client.results import Classification
from tests.serving.published import logits_of, softmax
from tests.zoo.test_preprocess import encoded

ROOT = Path(__file__).parents[3]
IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
PIXELS = np.array([[0, 255], [100, 0]], np.uint8)

served = pytest.mark.openvino


@pytest.fixture(params=["http", "grpc"])
def client(request, tiny_server):
    url = tiny_server.url if request.param == "http" else f"grpc://{tiny_server.grpc}"
    with Client(url, timeout_s=10) as made:
        yield made


@served
def test_predict_gives_arrays_by_name(client):
    found = client.predict("tiny", IMAGE)
    np.testing.assert_allclose(found["probabilities"], softmax(logits_of(IMAGE, 2.0)), atol=1e-6)
    assert found.array is found["probabilities"]
    assert found.outputs["probabilities"].dtype == np.float32
    assert not found.array.flags.writeable
    for chosen in ({"version": 1}, {"label": "stable"}):
        logits = client.predict("tiny", {"image": IMAGE}, signature="logits", **chosen)
        np.testing.assert_allclose(logits["logits"], logits_of(IMAGE), atol=1e-6)


@served
def test_lists_take_the_models_type(client):
    found = client.predict("tiny", IMAGE.tolist(), outputs=["probabilities"])
    assert found.array.shape == (2, 3)


@served
@pytest.mark.parametrize(
    ("inputs", "options", "field", "words"),
    [
        (IMAGE[0], {}, "image", r"takes \(N, 2, 2, 1\); this array is \(2, 2, 1\).*newaxis"),
        (IMAGE[..., 0], {}, "image", "Add the channel axis"),
        (IMAGE.astype(float), {}, "image", r"takes float32; this array is float64.*astype"),
        ({"picture": IMAGE}, {}, "picture", "no input 'picture'"),
        ({}, {}, "image", "missing: image"),
        ([[1], [2, 3]], {}, "image", "is no array of float32"),
        (IMAGE, {"signature": "logit"}, "signature", "Did you mean 'logits'"),
        (IMAGE, {"outputs": ["p"]}, "outputs", "no output 'p'"),
    ],
)
def test_inputs_are_held_against_the_model_before_they_are_sent(
    client, inputs, options, field, words
):
    with pytest.raises(InvalidInputError, match=words) as refused:
        client.predict("tiny", inputs, **options)
    assert refused.value.field == field


@served
def test_images_come_in_every_form_users_have_them(client, tmp_path):
    png = encoded(PIXELS)
    path = tmp_path / "a.png"
    path.write_bytes(png)
    forms = [
        path,
        str(path),
        png,
        bytearray(png),
        io.BytesIO(png),
        PIXELS,
        PIXELS[..., None],
        Image.fromarray(PIXELS),
    ]
    answers = [client.classify("tiny", form, top_k=2) for form in forms]
    assert {answer.label for answer in answers} == {"bee"}
    assert {answer.labels for answer in answers} == {("bee", "cat")}
    listed = client.classify("tiny", forms[:3], top_k=9)
    assert isinstance(listed, list)
    assert [len(each.scores) for each in listed] == [3, 3, 3]
    assert len(client.classify("tiny", PIXELS, top_k=10**12).scores) == 3
    assert listed[0].probability == pytest.approx(answers[0].probability, abs=1e-6)
    assert client.classify("tiny", []) == []
    answer = answers[0]
    assert answer.version == 2
    assert "bee" in str(answer)
    assert Classification.model_validate(answer.to_dict()) == answer
    with pytest.raises(ValueError, match="frozen"):
        answer.model = "other"


@served
@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("nowhere.png", "Cannot read the image 'nowhere.png'"),
        (b"", "is empty"),
        (np.zeros((2, 2)), "uint8 pixels in 0..255; this array is float64"),
        (np.zeros((2, 2, 2, 3), np.uint8), "pass a list"),
        ("http://host/a.png", "is a URL"),
        ("a\0.png", "Cannot read the image .*null byte"),
        ("n" * 300, "File name too long"),
        (object(), "not object"),
    ],
)
def test_an_image_that_cannot_be_read_is_told_before_anything_is_sent(client, image, words):
    with pytest.raises(ImageError, match=words):
        client.classify("tiny", [image])


@served
def test_the_servers_refusals_become_errors_with_their_facts(client):
    with pytest.raises(InvalidInputError, match="bytes are no JPEG"):
        client.classify("tiny", b"abc")
    with pytest.raises(ModelNotFoundError, match="No model 'huge'") as missing:
        client.predict("huge", IMAGE)
    assert missing.value.known == ("tiny",)
    assert missing.value.model == "huge"
    with pytest.raises(ModelNotFoundError):
        client.predict("tiny", IMAGE, version=9)
    with pytest.raises(DeadlineError):
        client.predict("tiny", IMAGE, timeout_s=1e-6)
    with pytest.raises(UsageError, match="above 0"):
        client.predict("tiny", IMAGE, timeout_s=-1)


@served
def test_models_metadata_status_and_readiness(client):
    metadata = client.metadata("tiny")
    assert (metadata.model, metadata.version) == ("tiny", 2)
    assert metadata.signatures["serving_default"].inputs["image"].shape == (None, 2, 2, 1)
    status = client.status("tiny")
    assert status.is_ready
    assert [version.version for version in status.versions] == [2, 1]
    client.wait_until_ready()
    client.wait_until_ready("tiny", timeout_s=5)
    with pytest.raises(ModelNotFoundError):
        client.wait_until_ready("huge", timeout_s=5)


@served
def test_the_models_are_listed(client):
    assert client.models() == ("tiny",)


@served
def test_many_items_stream_in_order_and_a_bad_one_takes_no_other_with_it(client):
    drawn = []

    def items():
        for n in range(100):
            drawn.append(n)
            yield IMAGE[0] * np.float32(n) if n != 41 else np.zeros((3, 3), np.float32)

    stream = client.predict_many("tiny", items(), batch_size=8, concurrency=2)
    first = next(stream)
    assert len(drawn) < 40  # bounded: the rest has not been read
    found = [first, *stream]
    assert [outcome.index for outcome in found] == list(range(100))
    assert [outcome.index for outcome in found if not outcome.is_ok] == [41]
    with pytest.raises(InvalidInputError, match="2, 2, 1"):
        found[41].unwrap()
    for n in (0, 40, 42, 99):
        expected = softmax(logits_of(IMAGE[:1] * np.float32(n), 2.0))[0]
        np.testing.assert_allclose(found[n].unwrap().array, expected, atol=1e-5)
    lost = list(client.predict_many("huge", [IMAGE[0]] * 3, batch_size=2))
    assert [isinstance(outcome.error, ModelNotFoundError) for outcome in lost] == [True] * 3
    with pytest.raises(UsageError, match="batch_size is 0"):
        next(client.predict_many("tiny", [IMAGE[0]], batch_size=0))


@served
async def test_many_items_stream_through_the_async_client(tiny_server, capsys):
    async with AsyncClient(f"grpc://{tiny_server.grpc}") as client:
        items = [IMAGE[0] * np.float32(n) for n in range(20)]
        found = [
            each async for each in client.predict_many("tiny", items, batch_size=3, progress=True)
        ]
    assert [outcome.index for outcome in found] == list(range(20))
    assert all(outcome.is_ok for outcome in found)
    assert "20" in capsys.readouterr().err


@served
def test_many_threads_share_one_client(client):
    with ThreadPoolExecutor(16) as pool:
        found = list(
            pool.map(lambda n: client.predict("tiny", IMAGE * np.float32(n)).array, range(64))
        )
    for n, array in enumerate(found):
        np.testing.assert_allclose(array, softmax(logits_of(IMAGE * n, 2.0)), atol=1e-5)


@served
@pytest.mark.parametrize("kind", ["http", "grpc"])
async def test_the_async_client_gives_the_same_answers(tiny_server, kind):
    url = tiny_server.url if kind == "http" else f"grpc://{tiny_server.grpc}"
    async with AsyncClient(url) as client:
        found = await asyncio.gather(*(client.predict("tiny", IMAGE) for _ in range(20)))
        for each in found:
            np.testing.assert_allclose(each.array, softmax(logits_of(IMAGE, 2.0)), atol=1e-6)
        assert (await client.classify("tiny", PIXELS)).label == "bee"
        assert (await client.status("tiny")).is_ready
        await client.wait_until_ready("tiny")
        with pytest.raises(ModelNotFoundError):
            await client.predict("huge", IMAGE)


@served
def test_an_async_client_over_grpc_goes_from_one_event_loop_to_the_next(tiny_server):
    client = AsyncClient(f"grpc://{tiny_server.grpc}", timeout_s=10)
    for _ in range(3):
        found = asyncio.run(client.predict("tiny", IMAGE))
        np.testing.assert_allclose(found.array, softmax(logits_of(IMAGE, 2.0)), atol=1e-6)
    asyncio.run(client.close())
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(client.models())


def test_the_client_for_threads_is_what_the_one_for_tasks_makes_of_it():
    command = [sys.executable, "scripts/derive_client.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "grpc://127.0.0.1:9"])
def test_no_server_is_told_within_the_deadline(url):
    with (
        Client(url, timeout_s=5, retries=Retries(attempts=2)) as client,
        pytest.raises(
            TransportError, match=r"No connection to 127.0.0.1:9.*Is the server running"
        ) as refused,
    ):
        client.predict("tiny", IMAGE)
    assert refused.value.attempts == 2
    assert not refused.value.is_sent


# A label of a name has 63 characters at most, so nobody is asked for this one.
NO_NAME = f"{'a' * 64}:1"


@pytest.mark.parametrize("url", [f"http://{NO_NAME}", f"grpc://{NO_NAME}"])
async def test_a_host_without_an_address_is_no_connection(url):
    options = {"timeout_s": 5, "retries": Retries(attempts=1)}
    with Client(url, **options) as client, pytest.raises(TransportError, match="No connection"):
        client.models()
    async with AsyncClient(url, **options) as client:
        with pytest.raises(TransportError, match=r"No connection to a+:1") as refused:
            await client.models()
    assert not refused.value.is_sent


class Scripted(BaseHTTPRequestHandler):
    """An HTTP server that answers what a list says, one after the other."""

    answers: list
    asked = 0

    def do_GET(self):
        type(self).asked += 1
        status, headers, body = self.answers.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted():
    kind = type("Fresh", (Scripted,), {"answers": [], "asked": 0})
    with HTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kind.url = f"http://127.0.0.1:{server.server_port}"
        yield kind
        server.shutdown()
        thread.join()


OK = (200, {}, b'{"model_version_status": []}')


def test_an_overloaded_server_is_asked_again_after_the_time_it_says(scripted):
    scripted.answers = [(429, {"retry-after": "0"}, b'{"error": "full"}'), (503, {}, b""), OK]
    with Client(scripted.url, protocol="tfs") as client:
        assert client.status("m").versions == ()
    assert scripted.asked == 3


def test_a_retry_that_would_pass_the_deadline_is_not_made(scripted):
    scripted.answers = [(429, {"retry-after": "60"}, b'{"error": "full"}')]
    with (
        Client(scripted.url, protocol="tfs", timeout_s=2) as client,
        pytest.raises(OverloadedError) as refused,
    ):
        client.status("m")
    assert refused.value.retry_after_s == 60
    assert scripted.asked == 1


def test_what_is_wrong_with_the_request_is_not_sent_again(scripted):
    scripted.answers = [(400, {"x-request-id": "r1"}, b'{"error": "bad"}')]
    with (
        Client(scripted.url, protocol="tfs") as client,
        pytest.raises(InvalidInputError, match="bad") as refused,
    ):
        client.status("m")
    assert (refused.value.request_id, refused.value.status, scripted.asked) == ("r1", "400", 1)


def test_retries_can_be_switched_off(scripted):
    scripted.answers = [(503, {}, b'{"error": "loading"}')]
    with (
        Client(scripted.url, protocol="tfs", retries=Retries(attempts=1)) as client,
        pytest.raises(NotReadyError),
    ):
        client.status("m")
    assert scripted.asked == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8501", "no scheme that this client speaks"),
        ("ftp://host", "no scheme"),
        ("http://", "names no host"),
        ("http://host:99999", "is not a URL"),
        ("grpc://host:0", "port 0, where no server can be"),
        ("http://user:secret@host", "pass token="),
        ("grpc://host/path", "gRPC has no place for"),
    ],
)
def test_a_url_that_cannot_work_says_why_and_keeps_secrets(url, words):
    with pytest.raises(UsageError, match=words) as refused:
        parse(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://host", "grpc://host"])
def test_a_client_that_is_to_be_copied_or_pickled_says_why_it_cannot(url):
    with Client(url) as client, pytest.raises(TypeError, match="make one in the process"):
        copy.copy(client)


def test_ports_have_their_usual_defaults():
    assert parse("grpc://host").port == 8500
    assert parse("https://host/prefix/").authority == "host:443"
    assert parse("https://host/prefix/").prefix == "/prefix"
    assert parse("grpc://[::1]:1").authority == "[::1]:1"


def test_importing_the_client_is_light():
    code = """
import sys, time
started = time.perf_counter()
import serving.client
serving.client.Client("http://localhost"); serving.client.Client("grpc://localhost")
heavy = {"tensorflow", "keras", "openvino", "uvloop", "hpack", "PIL", "zoo", "serving.core", "serving.app"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@served
def test_answers_say_where_the_servers_time_went_and_how_it_knows_the_call(client):
    answer = client.classify("tiny", PIXELS)
    assert answer.timings.execute_s is not None
    assert answer.timings.total_s > 0
    assert "execute" in str(answer.timings)
    first, second = (client.predict("tiny", IMAGE) for _ in range(2))
    assert first.request_id
    assert first.request_id != second.request_id
    assert client.classify("tiny", PIXELS).request_id != answer.request_id != ""
    with pytest.raises(ModelNotFoundError) as missing:
        client.predict("huge", IMAGE)
    assert missing.value.request_id
    with pytest.raises(InvalidInputError) as refused:
        client.classify("tiny", b"abc")
    assert refused.value.field.startswith("image")
    assert (refused.value.url, refused.value.model, refused.value.attempts) == (
        client._core._address.url,
        "tiny",
        1,
    )


@served
def test_what_a_library_raised_is_chained(tiny_server):
    import grpc

    with (
        Client(f"grpc://{tiny_server.grpc}") as client,
        pytest.raises(InvalidInputError) as refused,
    ):
        client.classify("tiny", b"abc")
    assert isinstance(refused.value.__cause__, grpc.RpcError)
    with (
        Client("http://127.0.0.1:9", retries=Retries(attempts=1)) as client,
        pytest.raises(TransportError) as gone,
    ):
        client.models()
    assert isinstance(gone.value.__cause__, ConnectionRefusedError)


@served
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_grpc_client_says_that_it_does_not_survive_a_fork(tiny_server):
    """In a process of its own, because gRPC itself does not survive one either."""
    code = f"""
import os
from serving.client import Client
from serving.client.errors import UsageError
client = Client("grpc://{tiny_server.grpc}")
client.models()
child = os.fork()
if child == 0:
    try:
        client.models()
    except UsageError as error:
        os._exit("does not survive a fork" not in str(error))
    os._exit(2)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
