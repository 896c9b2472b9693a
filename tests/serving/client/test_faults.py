"""Servers that die, drain and refuse while calls are under way."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from serving.client import AsyncClient, Client, Retries
from serving.client.errors import ClientError, OverloadedError, TransportError
from tests.e2e.conftest import serve
from tests.serving.published import logits_of, publish_tiny, softmax

IMAGE = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2, 1)
KINDS = pytest.mark.parametrize("kind", ["http", "grpc"])


def url_of(server, kind):
    return server.url if kind == "http" else f"grpc://{server.grpc}"


@pytest.fixture(scope="module")
def base_path(tmp_path_factory):
    place = tmp_path_factory.mktemp("faults") / "models"
    publish_tiny(place)
    return place


@pytest.mark.openvino
@KINDS
def test_a_server_that_is_killed_takes_only_the_calls_it_had(base_path, tmp_path, kind):
    """Every item gets an outcome, in order: answers before, errors after; nothing hangs."""
    with serve(base_path, tmp_path) as server, Client(url_of(server, kind), timeout_s=5) as client:

        def items():
            for number in range(400):
                if number == 200:
                    server.process.kill()
                    server.process.wait()
                yield IMAGE[0]

        started = time.monotonic()
        found = list(client.predict_many("tiny", items(), batch_size=4, concurrency=3))
    assert time.monotonic() - started < 60
    assert [each.index for each in found] == list(range(400))
    assert all(each.is_ok for each in found[:180])
    assert all(isinstance(each.error, TransportError) for each in found[220:])
    expected = softmax(logits_of(IMAGE[:1]))[0]
    for each in found:
        if each.is_ok:
            np.testing.assert_allclose(each.unwrap().array, expected, atol=1e-6)


@pytest.mark.openvino
@KINDS
async def test_a_server_that_drains_loses_no_call_of_many_tasks(base_path, tmp_path, kind):
    """What was begun is answered; what comes later is refused, and says that it was."""
    with serve(base_path, tmp_path) as server:
        async with AsyncClient(url_of(server, kind), retries=Retries(attempts=1)) as client:
            await client.predict("tiny", IMAGE)
            asking = [asyncio.create_task(client.predict("tiny", IMAGE)) for _ in range(50)]
            await asyncio.sleep(0.01)
            server.process.terminate()
            found = await asyncio.gather(*asking, return_exceptions=True)
    answered = [each for each in found if not isinstance(each, BaseException)]
    assert answered
    for each in answered:
        np.testing.assert_allclose(each.array, softmax(logits_of(IMAGE)), atol=1e-6)
    assert all(isinstance(each, ClientError) for each in found if isinstance(each, BaseException))


@pytest.mark.openvino
@KINDS
def test_a_client_outlives_its_server(base_path, tmp_path, kind):
    """The same client asks the server that came in place of the one that went."""
    with serve(base_path, tmp_path) as server:
        client = Client(url_of(server, kind), timeout_s=10)
        client.predict("tiny", IMAGE)
    ports = ("--rest-port", server.rest_port, "--grpc-port", server.grpc_port)
    with serve(base_path, tmp_path, *ports):
        client.wait_until_ready("tiny", timeout_s=20)
        found = client.predict("tiny", IMAGE)
        client.close()
    np.testing.assert_allclose(found.array, softmax(logits_of(IMAGE)), atol=1e-6)


@pytest.mark.openvino
def test_tasks_that_are_cancelled_leave_the_client_whole(base_path, tmp_path):
    async def ask(url):
        async with AsyncClient(url) as client:
            await client.predict("tiny", IMAGE)
            for _ in range(5):
                asking = [asyncio.create_task(client.predict("tiny", IMAGE)) for _ in range(20)]
                await asyncio.sleep(0.002)
                for each in asking[::2]:
                    each.cancel()
                found = await asyncio.gather(*asking, return_exceptions=True)
                assert all(not isinstance(each, Exception) for each in found)
            return await client.predict("tiny", IMAGE)

    with serve(base_path, tmp_path) as server:
        for url in (server.url, f"grpc://{server.grpc}"):
            found = asyncio.run(ask(url))
            np.testing.assert_allclose(found.array, softmax(logits_of(IMAGE)), atol=1e-6)


class Refusing(grpc.GenericRpcHandler):
    """Refuses as often as it says, with a word on when to come back; then answers."""

    def __init__(self, times, trailers):
        self.times, self.trailers, self.asked = times, trailers, 0

    def service(self, details):
        def answer(_, context):
            self.asked += 1
            if self.asked <= self.times:
                context.set_trailing_metadata(self.trailers)
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize(
    "trailers", [(("retry-after", "0"),), (("grpc-retry-pushback-ms", "10"),)], ids=["http", "grpc"]
)
def test_an_overloaded_grpc_server_is_asked_again_when_it_says(trailers):
    refusing = Refusing(2, trailers)
    server = grpc.server(ThreadPoolExecutor(1), [refusing])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"grpc://127.0.0.1:{port}", protocol="tfs") as client:
            assert client.status("m").versions == ()
            refusing.times, refusing.trailers = 99, ()
            with pytest.raises(OverloadedError) as refused:
                client.status("m")
    finally:
        server.stop(None).wait()
    assert refused.value.retry_after_s is None
    assert refusing.asked == 4


def test_threads_that_share_a_client_each_get_their_own_answer():
    """Sixteen threads, one client, a server that tells which model it was asked for."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Telling(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            number = self.path.rpartition("/")[2]
            told = {"error_code": "OK", "error_message": ""}
            version = {"version": number, "state": "AVAILABLE", "status": told}
            body = json.dumps({"model_version_status": [version]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Many(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Many(("127.0.0.1", 0), Telling) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{listening.server_port}"
        try:
            with Client(url, protocol="tfs") as client, ThreadPoolExecutor(16) as pool:
                found = list(pool.map(lambda n: client.status(str(n)), range(1, 400)))
        finally:
            listening.shutdown()
    assert [each.versions[0].version for each in found] == list(range(1, 400))


@pytest.mark.openvino
@KINDS
def test_our_server_unloads_and_loads_when_it_is_told(base_path, tmp_path, kind):
    with serve(base_path, tmp_path) as server, Client(url_of(server, kind)) as client:
        assert client.predict("tiny", IMAGE).version == 1
        client.unload("tiny")
        with pytest.raises(ClientError):
            client.predict("tiny", IMAGE, timeout_s=2)
        client.load("tiny")
        client.wait_until_ready("tiny", timeout_s=10)
        assert client.predict("tiny", IMAGE).version == 1
