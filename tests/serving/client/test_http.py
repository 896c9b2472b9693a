"""HTTP/1.1 as servers speak it, well and badly: real sockets, and every way to cut an answer."""

import asyncio
import contextlib
import os
import socket
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.client import AsyncClient, Client, Retries
from serving.client.address import parse
from serving.client.core import Send
from serving.client.deadline import Deadline
from serving.client.errors import AnswerError, DeadlineError, TransportError, UsageError
from serving.client.exchange import Request
from serving.client.settings import Tls
from serving.client.transports.http import AsyncHttpTransport, HttpTransport
from serving.client.transports.http1 import PIECE_BYTES, Answer, head_of

LARGE = bytes(range(256)) * 1024  # 256 KiB: more than is read at once


def sized(body, *more):
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body, size=70_000):
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def read(answer_bytes, sizes):
    """Feeds the bytes in pieces of these sizes, the last one repeated."""
    answer = Answer(memoryview(bytearray(PIECE_BYTES)))
    place, sizes = 0, iter([*sizes, *[PIECE_BYTES] * 1000])
    while not answer.is_complete and place < len(answer_bytes):
        space = answer.space()
        piece = answer_bytes[place : place + min(next(sizes), len(space))]
        space[: len(piece)] = piece
        answer.filled(len(piece))
        place += len(piece)
    return answer


FRAMINGS = {
    "sized": (sized(LARGE), LARGE),
    "small": (sized(b"abc", "X-Request-Id: r1"), b"abc"),
    "empty": (sized(b""), b""),
    "chunked": (chunked(LARGE), LARGE),
    "after 100": (b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" + sized(LARGE), LARGE),
}


@pytest.mark.parametrize("framing", FRAMINGS)
@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 100_000), max_size=8))
def test_an_answer_is_the_same_however_it_is_cut(framing, sizes):
    sent, body = FRAMINGS[framing]
    answer = read(sent, sizes)
    assert answer.is_complete
    assert not answer.is_last
    assert bytes(answer.reply().body) == body
    assert answer.reply().status == 200
    assert "x" not in answer.reply().headers


@pytest.mark.parametrize(
    ("sent", "is_last"),
    [
        (sized(b"abc", "Connection: close"), True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (sized(b"abc") + b"HTTP/1.1 408 Timeout\r\n\r\n", True),
        (sized(b"abc") + b"rubbish", True),
    ],
)
def test_a_connection_is_used_again_only_when_nothing_is_left_on_it(sent, is_last):
    answer = read(sent, [])
    assert answer.is_complete
    assert answer.is_last is is_last
    assert bytes(answer.reply().body) in (b"abc", b"a", b"")


def test_headers_that_come_twice_are_joined_and_names_are_lower_case():
    assert read(sized(b"", "A: 1", "a: 2"), []).reply().headers["a"] == "1, 2"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x15\x03\x01\x00\x02\x02\x28",  # TLS says no
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 30_000,
        b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    ],
)
def test_what_is_no_http_is_told(sent):
    with pytest.raises(AnswerError):
        read(sent, [])


@pytest.mark.parametrize("name", ["a\r\nb", "a\nb", "a\rb"])
def test_a_header_cannot_smuggle_another(name):
    with pytest.raises(ValueError, match="line break"):
        head_of(Request("/"), "host", "", ((name, "c"),))
    with (
        Client("http://127.0.0.1:9", protocol="tfs", headers={"a": f"{name}: c"}) as client,
        pytest.raises(UsageError, match="line break"),
    ):
        client.status("m")


# --- Over real connections ----------------------------------------------------------------------


class Server:
    """Listens, and does with each connection what its plan says."""

    def __init__(self, *plans):
        self._plans = list(plans)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.connections = 0
        self._threads = [threading.Thread(target=self._serve)]
        self._open = []

    def _serve(self):
        for plan in self._plans:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._follow, args=(plan, connection)))
            self._threads[-1].start()

    def _follow(self, plan, connection):
        with contextlib.suppress(OSError):
            plan(connection)

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._open:
            connection.close()


def request_of(connection):
    """Reads one request to its end."""

    def more():
        piece = connection.recv(1 << 20)
        if not piece:
            raise ConnectionError
        return piece

    got = b""
    while b"\r\n\r\n" not in got:
        got += more()
    head, _, body = got.partition(b"\r\n\r\n")
    length = next(
        (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-le")),
        0,
    )
    while len(body) < length:
        body += more()
    return body


def answering(*answers, then=lambda connection: None):
    def plan(connection):
        for each in answers:
            request_of(connection)
            connection.sendall(each)
        then(connection)

    return plan


def hang_up(connection):
    connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture(params=["threads", "asyncio"])
def ask(request):
    """Sends requests through a transport, one after the other; an error comes in its place."""

    def threads(url, *requests, pause=0.0):
        transport = HttpTransport(parse(url), Tls())
        found = []
        for each in requests:
            try:
                found.append(transport.send(Send(each, (), Deadline(5))))
            except Exception as error:  # noqa: BLE001 - the test looks at it
                found.append(error)
            threading.Event().wait(pause)
        transport.close()
        return found

    async def tasks(url, requests, pause):
        transport = AsyncHttpTransport(parse(url), Tls())
        found = []
        for each in requests:
            try:
                found.append(await transport.send(Send(each, (), Deadline(5))))
            except Exception as error:  # noqa: BLE001
                found.append(error)
            await asyncio.sleep(pause)
        await transport.close()
        return found

    if request.param == "threads":
        return threads
    return lambda url, *requests, pause=0.0: asyncio.run(tasks(url, requests, pause))


GET, POST = Request("/a", method="GET"), Request("/a", (LARGE, b"", LARGE))
ONCE = Request("/a", (b"x",), is_repeatable=False)


def test_one_connection_serves_many_calls(ask):
    with Server(answering(sized(b"1"), sized(LARGE), chunked(LARGE))) as server:
        first, second, third = ask(server.url, GET, POST, POST)
    assert [bytes(each.body) for each in (first, second, third)] == [b"1", LARGE, LARGE]
    assert server.connections == 1


def test_an_answer_without_a_length_ends_with_its_connection(ask):
    until_end = b"HTTP/1.1 200 OK\r\n\r\n" + LARGE
    with Server(answering(until_end, then=hang_up), answering(sized(b"2"))) as server:
        first, second = ask(server.url, GET, GET)
    assert bytes(first.body) == LARGE
    assert bytes(second.body) == b"2"


def test_a_connection_that_was_closed_meanwhile_is_replaced_unnoticed(ask):
    with Server(answering(sized(b"1"), then=hang_up), answering(sized(b"2"))) as server:
        first, second = ask(server.url, GET, GET, pause=0.05)
    assert [bytes(each.body) for each in (first, second)] == [b"1", b"2"]


def test_and_for_what_must_not_be_sent_twice_before_it_is_sent(ask):
    with Server(answering(sized(b"1"), then=hang_up), answering(sized(b"2"))) as server:
        first, second = ask(server.url, ONCE, ONCE, pause=0.05)
    assert [bytes(each.body) for each in (first, second)] == [b"1", b"2"]


def test_what_must_not_be_sent_twice_is_not(ask):
    def die(connection):
        request_of(connection)
        hang_up(connection)

    with Server(answering(sized(b"1"), then=die), answering(sized(b"2"))) as server:
        first, second = ask(server.url, ONCE, ONCE)
    assert bytes(first.body) == b"1"
    assert isinstance(second, TransportError)
    assert second.is_sent
    assert isinstance(second.__cause__, EOFError | OSError)


@pytest.mark.parametrize("cut", [0, 10, 60, 100_000])
def test_an_answer_that_breaks_off_is_an_error_that_says_so(ask, cut):
    with Server(answering(sized(LARGE)[:cut], then=hang_up)) as server:
        (found,) = ask(server.url, GET)
    assert isinstance(found, TransportError)
    assert "broke" in str(found)
    assert found.is_sent


def test_a_server_that_refuses_before_all_is_sent_is_heard(ask):
    def refuse(connection):
        connection.recv(1000)
        connection.sendall(
            b"HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while connection.recv(1 << 20):
                pass

    with Server(refuse) as server:
        (found,) = ask(server.url, Request("/a", (LARGE * 40,)))
    assert found.status == 413


def test_a_server_that_speaks_something_else_is_told(ask):
    with Server(answering(b"\0\0\x18\x04\0\0\0\0\0")) as server:  # HTTP/2
        (found,) = ask(server.url, GET)
    assert isinstance(found, AnswerError)
    assert "Is this the REST port" in str(found)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_that_does_not_read_does_not_outlast_the_deadline(kind):
    body = Request("/a", (bytes(64 << 20),))

    def step():
        return Send(body, (), Deadline(0.3))

    with Server(lambda connection: threading.Event().wait(0.6)) as server:
        if kind == "sync":
            transport = HttpTransport(parse(server.url), Tls())
            with pytest.raises(DeadlineError):
                transport.send(step())
            transport.close()
            return

        async def send():
            other = AsyncHttpTransport(parse(server.url), Tls())
            with pytest.raises(DeadlineError):
                await other.send(step())
            await other.close()

        asyncio.run(send())


def test_closing_ends_the_calls_under_way():
    with Server(lambda connection: threading.Event().wait(0.6)) as server:
        client = Client(server.url, protocol="tfs", timeout_s=5)
        threading.Timer(0.1, client.close).start()
        with pytest.raises(UsageError, match="closed during the call"):
            client.status("m")


async def test_closing_ends_the_tasks_under_way():
    with Server(lambda connection: threading.Event().wait(0.5)) as server:
        client = AsyncClient(server.url, protocol="tfs", timeout_s=5)
        asking = asyncio.create_task(client.status("m"))
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(UsageError, match="closed during the call"):
            await asking


async def test_a_cancelled_task_gives_no_half_read_connection_back():
    status = b'{"model_version_status": []}'

    def slow(connection):
        request_of(connection)
        threading.Event().wait(0.2)
        connection.sendall(sized(b'{"model_version_status": [{"version": "7"}]}'))

    with Server(slow, answering(sized(status))) as server:
        async with AsyncClient(server.url, protocol="tfs") as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.status("m")
            assert (await client.status("m")).versions == ()
    assert server.connections == 2


async def test_more_tasks_than_connections_take_turns():
    status = b'{"model_version_status": []}'

    def many(connection):
        while True:
            request_of(connection)
            connection.sendall(sized(status))

    with Server(*[many] * 128) as server:
        async with AsyncClient(server.url, protocol="tfs", timeout_s=20) as client:
            found = await asyncio.gather(*(client.status("m") for _ in range(300)))
    assert len(found) == 300
    assert server.connections <= 128


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_does_not_use_its_parents_connection():
    body = b'{"model_version_status": []}'
    with (
        Server(answering(sized(body), sized(body)), answering(sized(body))) as server,
        Client(server.url, protocol="tfs") as client,
    ):
        client.status("m")
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                client.status("m")
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        client.status("m")
    assert server.connections == 2


def test_a_host_without_an_address_is_told():
    with (
        Client("http://nowhere.invalid:1", timeout_s=5, retries=Retries(attempts=1)) as client,
        pytest.raises(TransportError, match="has no address"),
    ):
        client.models()


def test_a_tensor_that_comes_back_is_not_copied():
    image = np.zeros((4, 224, 224, 3), np.float32)
    with Server(answering(sized(image.tobytes()))) as server:
        transport = HttpTransport(parse(server.url), Tls())
        tracemalloc.start()
        reply = transport.send(Send(GET, (), Deadline(5)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        transport.close()
    assert isinstance(reply.body, memoryview)
    assert peak < 2.2 * image.nbytes  # the server's own copy, and the answer's place
