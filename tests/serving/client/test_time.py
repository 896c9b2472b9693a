"""One deadline for a call, whatever the server does with its time."""

import asyncio
import math
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.client import AsyncClient, Client
from serving.client.deadline import Deadline
from serving.client.errors import DeadlineError, UsageError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"


@pytest.fixture
def dripping():
    """A server that answers one byte every 50 ms, for 25 s; it stops when the test does."""
    is_over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def drip(connection):
        with connection:
            connection.recv(65536)
            for byte in HEAD + b" " * 500:
                if is_over.wait(0.05 if byte == ord(" ") else 0):
                    return
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return

    def serve():
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,)).start()

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    is_over.set()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def test_a_dripping_answer_does_not_outlast_the_deadline(dripping):
    started = time.monotonic()
    with Client(dripping, protocol="tfs") as client, pytest.raises(DeadlineError, match=r"0\.4 s"):
        client.status("m", timeout_s=0.4)
    assert time.monotonic() - started < 0.7


async def test_nor_does_it_for_asyncio(dripping):
    started = time.monotonic()
    async with AsyncClient(dripping, protocol="tfs") as client:
        with pytest.raises(DeadlineError, match=r"0\.4 s"):
            await client.status("m", timeout_s=0.4)
    assert time.monotonic() - started < 0.7


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_server_that_takes_the_connection_and_says_nothing(kind):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"{kind}://127.0.0.1:{listening.getsockname()[1]}"
        started = time.monotonic()
        with Client(url) as client, pytest.raises(DeadlineError):
            client.status("m", timeout_s=0.3)
        assert time.monotonic() - started < 0.8


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_closed_client_says_so(kind):
    client = Client(f"{kind}://127.0.0.1:9")
    client.close()
    with pytest.raises(UsageError, match="closed"):
        client.status("m")

    async def ask():
        other = AsyncClient(f"{kind}://127.0.0.1:9")
        await other.close()
        with pytest.raises(UsageError, match="closed"):
            await other.status("m")

    asyncio.run(ask())


class Answering(grpc.GenericRpcHandler):
    """Answers all calls with an empty message."""

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda *_: b"")


@pytest.mark.parametrize("timeout_s", [1e10, 1e300, math.inf])
def test_a_very_long_time_is_not_over_at_once_over_grpc(timeout_s):
    server = grpc.server(ThreadPoolExecutor(1), [Answering()])
    url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    async def ask():
        async with AsyncClient(url, protocol="tfs", timeout_s=timeout_s) as client:
            return await client.status("m")

    try:
        with Client(url, protocol="tfs") as client:
            assert client.status("m", timeout_s=timeout_s).versions == ()
        assert asyncio.run(ask()).versions == ()
    finally:
        server.stop(None).wait()


@pytest.mark.openvino
@pytest.mark.parametrize("timeout_s", [1e10, 1e300, math.inf])
def test_nor_is_it_over_http(tiny_server, timeout_s):
    url = tiny_server.url.replace("127.0.0.1", "localhost")

    async def ask():
        async with AsyncClient(url, timeout_s=timeout_s) as client:
            return await client.models()

    with Client(url) as client:
        assert client.models(timeout_s=timeout_s) == ("tiny",)
    assert asyncio.run(ask()) == ("tiny",)


def test_infinity_is_no_deadline():
    assert Deadline(math.inf).remaining_s() is None
    assert Deadline(math.inf).allows(1e9)
    with pytest.raises(UsageError):
        Deadline(math.nan)
