"""What HTTP/1.1 asks of a server, byte by byte; the answers are read by the standard library."""

import asyncio
import http.client
import io
import random
import socket
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.app import bind
from serving.listeners import http1, http2
from serving.listeners.http1 import HttpListener
from serving.transport import HttpResponse
from tests.serving.listeners.test_http2 import Transport

MOST = 1 << 20
CHUNKED = "Transfer-Encoding: chunked"


class Handler:
    """Tells what it was asked."""

    def __init__(self):
        self.requests = []
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request):
        self.requests.append(request)
        if request.path == "/wait":
            self.started.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if request.path == "/defect":
            raise RuntimeError("a defect")
        if request.path == "/large":
            return HttpResponse(200, (), b"x" * (8 << 20))
        if request.path == "/inject":
            return HttpResponse(200, (("x-id", "1\r\nset-cookie: a=b"),), b"")
        return HttpResponse(200, (("content-type", "text/plain"),), request.path.encode())


@pytest.fixture
def handler():
    return Handler()


@pytest.fixture
async def listener(handler):
    bound = bind("127.0.0.1", 0, "--rest-port")
    made = HttpListener(handler, bound, max_body_bytes=MOST, max_connections=20)
    made.port = bound.getsockname()[1]
    await made.start()
    yield made
    handler.go.set()
    await made.stop(0.5)


class Answer(http.client.HTTPResponse):
    """Reads an answer from bytes."""

    def __init__(self, text, method="POST"):
        class Socket:
            def makefile(self, _):
                return io.BytesIO(text)

        super().__init__(Socket(), method=method)
        self.begin()
        self.body = self.read()


@pytest.fixture
async def connect(listener):
    writers = []

    class Client:
        async def open(self, sent=b""):
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writers.append(self.writer)
            self.writer.write(sent)
            return self

        async def answer(self, method="POST"):
            """One answer; the connection may stay open."""
            async with asyncio.timeout(5):
                head = await self.reader.readuntil(b"\r\n\r\n")
                found = Answer(head, "HEAD")
                length = 0 if method == "HEAD" else int(found.headers["content-length"])
                found.body = await self.reader.readexactly(length)
                return found

        async def is_closed(self, within_s=5):
            async with asyncio.timeout(within_s):
                try:
                    return await self.reader.read() == b""
                except ConnectionError:
                    return True

    async def one(sent=b""):
        return await Client().open(sent)

    yield one
    for writer in writers:
        writer.close()


def get(path="/", *headers):
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def post(body, *headers):
    return (
        "\r\n".join(
            ["POST /p HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
        ).encode()
        + body
    )


async def test_one_connection_serves_many_requests_and_tells_them_apart(connect, handler):
    client = await connect()
    for path in ("/a", "/b%20c?d=e&f#g"):
        client.writer.write(get(path, "X-Twice: 1"))
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, path.partition("?")[0].encode())
        assert answer.headers["connection"] is None
    assert handler.requests[1].query == "d=e&f"
    assert handler.requests[1].headers["x-twice"] == "1"


async def test_fields_of_one_name_are_one_list(connect, handler):
    client = await connect(get("/", "Accept-Encoding: br", "X-Id: 1", "accept-encoding: gzip"))
    await client.answer()
    assert handler.requests[0].headers["accept-encoding"] == "br, gzip"


async def test_an_answer_says_when_it_was_given(connect, listener):
    client = await connect(get())
    given = parsedate_to_datetime((await client.answer()).headers["date"])
    assert abs(given - datetime.now(UTC)) < timedelta(seconds=5)
    listener.date = "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
    async with asyncio.timeout(5):
        while "1970" in listener.date:
            await asyncio.sleep(0.05)


async def test_requests_sent_ahead_are_answered_in_order(connect):
    client = await connect(b"".join(get(f"/{n}") for n in range(100)))
    assert [(await client.answer()).body for _ in range(100)] == [
        f"/{n}".encode() for n in range(100)
    ]


@pytest.mark.parametrize("cut", [1, 7, 100_000])
async def test_a_request_may_come_in_pieces(connect, handler, cut):
    chunked = (
        b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n5;x=y\r\n12345\r\n0\r\nTrailer: 1\r\n\r\n"
    )
    client = await connect()
    sent = chunked + post(b"0123456789")
    for place in range(0, len(sent), cut):
        client.writer.write(sent[place : place + cut])
        await client.writer.drain()
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]
    assert [each.body for each in handler.requests] == [b"abc12345", b"0123456789"]
    assert "trailer" not in handler.requests[0].headers


async def test_a_client_that_asks_whether_to_go_on_is_told(connect, handler):
    client = await connect(
        b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    )
    async with asyncio.timeout(5):
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.writer.write(b"abc")
    assert (await client.answer()).status == 200
    assert handler.requests[0].body == b"abc"


async def test_a_client_that_asks_behind_another_request_is_told_when_it_is_its_turn(
    connect, handler
):
    asked = post(b"abc", "Expect: 100-Continue ")
    client = await connect(get("/wait") + asked[:-3])
    await handler.started.wait()
    handler.go.set()
    assert (await client.answer()).body == b"/wait"
    async with asyncio.timeout(5):
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.writer.write(asked[-3:])
    assert (await client.answer()).status == 200


async def test_a_client_of_http_1_0_is_sent_nothing_before_its_answer(connect):
    client = await connect(post(b"abc", "Expect: 100-continue").replace(b"1.1", b"1.0"))
    assert (await client.answer()).status == 200


async def test_a_value_is_what_stands_between_its_spaces(connect, handler):
    client = await connect(get("/", "X-Id: \t 1 2 \t", "X-Empty: \t"))
    await client.answer()
    assert handler.requests[0].headers == {"host": "x", "x-id": "1 2", "x-empty": ""}


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://host:80/a?b=c", "/a", "b=c"),
        ("http://host", "/", ""),
        ("HTTPS://host?b=/c", "/", "b=/c"),
    ],
)
async def test_the_form_of_proxies_is_taken(connect, handler, target, path, query):
    await (await connect(get(target))).answer()
    assert (handler.requests[0].path, handler.requests[0].query) == (path, query)


async def test_head_has_the_length_and_no_body(connect):
    client = await connect(get("/abc").replace(b"GET", b"HEAD") + get("/next"))
    answer = await client.answer("HEAD")
    assert answer.headers["content-length"] == "4"
    assert (await client.answer()).body == b"/next"


@pytest.mark.parametrize(
    "sent",
    [get("/", "Connection: close"), get("/").replace(b"1.1", b"1.0")],
    ids=["close", "http/1.0"],
)
async def test_a_client_that_wants_one_answer_gets_one(connect, sent):
    client = await connect(sent)
    answer = await client.answer()
    assert answer.headers["connection"] == "close"
    assert await client.is_closed()


async def test_a_client_of_http_1_0_that_stays_is_told_that_it_may(connect):
    """Without that word it would read until the connection ends, as ApacheBench does."""
    asked = get("/", "Connection: keep-alive").replace(b"1.1", b"1.0")
    client = await connect(asked)
    for _ in range(3):
        assert (await client.answer()).headers["connection"] == "keep-alive"
        client.writer.write(asked)


REFUSED = {
    "a length too large": (
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {MOST + 1}\r\n\r\n".encode(),
        413,
        f"larger than {MOST} bytes",
    ),
    "more chunks than may be": (
        f"POST / HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n\r\n".encode()
        + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 40,
        413,
        f"larger than {MOST} bytes",
    ),
    "a head without end": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, 431, "65536 bytes"),
    "a target without end": (b"GET /" + b"a" * 100_000, 431, "65536 bytes"),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", 405, "no tunnels"),
    "no HTTP": (b"hello, is anybody there?\r\n\r\n", 400, "no HTTP/1.1"),
    "a client of gRPC": (http2.PREFACE + http2.frame(4, 0, 0), 400, "gRPC has a port of its own"),
    "another coding": (
        f"POST / HTTP/1.1\r\nHost: x\r\n{CHUNKED.replace(': ', ': gzip, ')}\r\n\r\n".encode(),
        501,
        "'gzip, chunked'",
    ),
    "another version": (b"GET / HTTP/9.9\r\n\r\n", 400, "no HTTP/1.1"),
    "a version without heads": (b"GET /a\r\n\r\n", 400, "no HTTP/1.1"),
    "two lengths": (post(b"abc", "Content-Length: 4"), 400, "no HTTP/1.1"),
    "a length and chunks": (post(b"0\r\n\r\n", CHUNKED), 400, "no HTTP/1.1"),
    "a negative length": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        400,
        "no HTTP/1.1",
    ),
    "a chunk that is no number": (
        f"POST / HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n\r\nxyz\r\n".encode(),
        400,
        "no HTTP/1.1",
    ),
    "no host": (b"GET / HTTP/1.1\r\na: b\r\n\r\n", 400, "one Host field"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nhost: x\r\n\r\n", 400, "one Host field"),
    "a folded field": (b"GET / HTTP/1.1\r\na: b\r\n c: d\r\n\r\n", 400, "no HTTP/1.1"),
    "a space before the colon": (b"GET / HTTP/1.1\r\na : b\r\n\r\n", 400, "no HTTP/1.1"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_taken_is_told_and_the_connection_ends(connect, handler, name):
    sent, status, text = REFUSED[name]
    client = await connect(sent)
    answer = await client.answer()
    assert answer.status == status
    assert text in answer.body.decode()
    assert answer.headers["connection"] == "close"
    assert await client.is_closed()
    assert handler.requests == []
    assert (await (await connect(get("/ok"))).answer()).body == b"/ok"


async def test_a_bad_request_behind_a_good_one_does_not_take_its_answer(connect, handler):
    client = await connect(get("/wait") + b"nonsense\r\n\r\n")
    await handler.started.wait()
    handler.go.set()
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert await client.is_closed()


OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")


@pytest.mark.parametrize("cut", [10, 150, 160, 10_000])
async def test_who_offers_another_protocol_is_answered_in_this_one(connect, handler, cut):
    """Java's HttpClient does so with every first request, body and all."""
    chunked = get("/c", CHUNKED, *OFFER).replace(b"GET", b"POST") + b"3\r\nabc\r\n0\r\n\r\n"
    sent = get("/here", *OFFER) + post(b"0123456789" * 20, *OFFER) + chunked + get("/next")
    client = await connect()
    for place in range(0, len(sent), cut):
        client.writer.write(sent[place : place + cut])
        await client.writer.drain()
        await asyncio.sleep(0)
    assert [(await client.answer()).body for _ in range(4)] == [b"/here", b"/p", b"/c", b"/next"]
    assert [each.body for each in handler.requests] == [b"", b"0123456789" * 20, b"abc", b""]


@pytest.mark.parametrize(
    "sent",
    [
        get("/", "Connection: Upgrade, close", "Upgrade: h2c"),
        get("/", "Connection: Upgrade", "Upgrade: h2c").replace(b"1.1", b"1.0"),
    ],
    ids=["close", "http/1.0"],
)
async def test_who_offers_another_protocol_and_wants_one_answer_gets_one(connect, sent):
    client = await connect(sent)
    assert (await client.answer()).headers["connection"] == "close"
    assert await client.is_closed()


async def test_who_goes_ends_the_work(connect, handler):
    client = await connect(get("/wait"))
    await handler.started.wait()
    client.writer.close()
    await asyncio.wait_for(handler.cancelled.wait(), 5)


async def test_a_defect_is_an_error_and_the_connection_stays(connect):
    client = await connect(get("/defect") + get("/next"))
    assert (await client.answer()).status == 500
    assert (await client.answer()).body == b"/next"


async def test_a_value_cannot_begin_another_header(connect):
    answer = await (await connect(get("/inject"))).answer()
    assert answer.headers["set-cookie"] is None


async def test_an_answer_waits_for_a_reader_that_is_slow(connect):
    client = await connect(get("/large") + get("/next"))
    await asyncio.sleep(0.1)
    assert len((await client.answer()).body) == 8 << 20
    assert (await client.answer()).body == b"/next"


async def test_answers_do_not_pile_up_for_a_client_that_reads_none(connect, handler):
    client = await connect(get("/large") * 50)
    await asyncio.sleep(0.3)
    assert len(handler.requests) < 5
    assert len((await client.answer()).body) == 8 << 20


async def test_thousands_of_offers_at_once_are_answered_one_after_the_other(connect):
    client = await connect(get("/o", *OFFER) * 3000)
    for _ in range(3000):
        assert (await client.answer()).body == b"/o"


async def test_connections_beyond_the_limit_are_told(connect):
    kept = [await connect(get("/")) for _ in range(20)]
    for each in kept:
        await each.answer()
    one_more = await connect(get("/"))
    answer = await one_more.answer()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert await one_more.is_closed()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHos", 408),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc", 408),
        (b"", None),
        (get("/"), 200),
    ],
    ids=["head", "body", "nothing", "idle"],
)
async def test_silence_is_not_waited_for_without_end(connect, monkeypatch, sent, status):
    for name in ("HEAD_WITHIN_S", "PART_WITHIN_S", "NEXT_WITHIN_S"):
        monkeypatch.setattr(http1, name, 0.1)
    client = await connect(sent)
    if status:
        assert (await client.answer()).status == status
    assert await client.is_closed()


async def test_who_was_refused_and_stays_is_let_go(listener, connect, monkeypatch):
    monkeypatch.setattr(http1, "LINGER_S", 0.1)
    client = await connect(REFUSED["a length too large"][0] + b"abc")
    assert (await client.answer()).status == 413
    async with asyncio.timeout(5):
        while listener.connections:
            await asyncio.sleep(0.05)
    assert not listener._sweeping.done()


@pytest.mark.parametrize("fields", [(), ("Connection: close",)], ids=["stays", "close"])
async def test_who_does_not_read_its_answer_is_let_go(listener, connect, monkeypatch, fields):
    for name in ("NEXT_WITHIN_S", "PART_WITHIN_S"):
        monkeypatch.setattr(http1, name, 0.1)
    client = await connect(get("/large", *fields))
    await client.reader.readuntil(b"\r\n")
    assert len(listener.connections) == 1
    async with asyncio.timeout(5):
        while listener.connections:
            await asyncio.sleep(0.05)


async def test_who_reads_its_answer_slowly_is_waited_for(handler):
    class Slow(Transport):
        unread = 0

        def get_write_buffer_size(self):
            return self.unread

    connection, transport = http1._Connection(HttpListener(handler, None, max_body_bytes=9)), Slow()
    connection.connection_made(transport)
    for transport.unread in (9000, 6000, 10):
        connection.give_up()
        assert not transport.is_closed
    connection.give_up()
    assert transport.is_closed


async def test_a_client_whose_machine_has_gone_is_noticed(listener, connect):
    client = await connect(get("/"))
    await client.answer()
    (connection,) = listener.connections
    accepted = connection._transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 300


async def test_stopping_finishes_what_has_begun_and_closes_the_rest(listener, connect, handler):
    idle, busy = await connect(get("/")), await connect(get("/wait"))
    await idle.answer()
    await handler.started.wait()
    stopping = asyncio.create_task(listener.stop(10))
    assert await idle.is_closed()
    with pytest.raises(OSError, match=r"refused|Connect"):
        await connect(get("/"))
    handler.go.set()
    answer = await busy.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await asyncio.wait_for(stopping, 5)


async def test_stopping_answers_what_was_sent_ahead(listener, connect, handler):
    client = await connect(get("/wait") + get("/a") + get("/b"))
    await handler.started.wait()
    stopping = asyncio.create_task(listener.stop(10))
    await asyncio.sleep(0)
    handler.go.set()
    answers = [await client.answer() for _ in range(3)]
    assert [each.body for each in answers] == [b"/wait", b"/a", b"/b"]
    assert [each.headers["connection"] for each in answers] == [None, None, "close"]
    await asyncio.wait_for(stopping, 5)


@pytest.mark.parametrize(
    "cut", [10, len(post(b"")), len(post(b"")) + 4], ids=["head", "no body", "body"]
)
async def test_stopping_answers_who_is_in_the_middle_of_a_request(listener, connect, cut):
    """Cut off there, a client could not know whether its request was answered."""
    sent = post(b"0123456789")
    client = await connect(get("/") + sent[:cut])
    await client.answer()
    (connection,) = listener.connections
    async with asyncio.timeout(5):
        while not (connection._is_in_head or connection._is_in_body):
            await asyncio.sleep(0)
    stopping = asyncio.create_task(listener.stop(10))
    await asyncio.sleep(0)
    client.writer.write(sent[cut:])
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    await asyncio.wait_for(stopping, 5)


async def test_stopping_does_not_wait_for_who_has_fallen_silent(listener, connect, monkeypatch):
    monkeypatch.setattr(http1, "LINGER_S", 0.1)
    client = await connect(get("/") + post(b"0123456789")[:-4])
    await client.answer()
    await asyncio.wait_for(listener.stop(20), 5)
    assert (await client.answer()).status == 408


async def test_stopping_waits_no_longer_than_its_limit(listener, connect, handler):
    await connect(get("/wait"))
    await handler.started.wait()
    await asyncio.wait_for(listener.stop(0.2), 5)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(0, 30))
def test_no_bytes_whatsoever_raise(rng: random.Random, changes):
    """Requests with bytes changed, cut and doubled: an answer or an end, never a defect."""
    sent = bytearray(
        get("/a") + post(b"abc") + get("/b") + REFUSED["more chunks than may be"][0][:2000]
    )
    for _ in range(changes):
        place = rng.randrange(len(sent))
        kind = rng.randrange(3)
        if kind == 0:
            sent[place] = rng.randrange(256)
        elif kind == 1:
            del sent[place : place + rng.randrange(20)]
        else:
            sent[place:place] = sent[place : place + rng.randrange(40)]

    async def feed():
        listener = HttpListener(Handler(), None, max_body_bytes=1000)
        connection = http1._Connection(listener)
        transport = Transport()
        connection.connection_made(transport)
        place = 0
        while place < len(sent) and not transport.is_closed:
            size = rng.randrange(1, 200)
            connection.data_received(bytes(sent[place : place + size]))
            await asyncio.sleep(0)
            place += size
        connection.connection_lost(None)
        await asyncio.sleep(0)

    asyncio.run(feed())


# What a client may send next on a connection that stays: the bytes, and the bodies that are asked.
REPEATED = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"
MESSAGES = (
    (REPEATED + b"abc", [b"abc"]),
    (REPEATED + b"xyz", [b"xyz"]),
    # A body that looks like the end of a head, or like a request.
    (REPEATED.replace(b": 3", b": 4") + b"\r\n\r\n", [b"\r\n\r\n"]),
    (REPEATED + b"abc" + REPEATED + b"def", [b"abc", b"def"]),
    (get("/a"), [b""]),
    (b"\r\n" + get("/a"), [b""]),
    (f"POST /a HTTP/1.1\r\nHost: h\r\n{CHUNKED}\r\n\r\n3\r\nabc\r\n0\r\n\r\n".encode(), [b"abc"]),
    (REPEATED.replace(b"Host: h", b"Host: h\r\nConnection: keep-alive") + b"abc", [b"abc"]),
    (REPEATED.replace(b"Host: h", b"Host: h\r\nExpect: 100-continue") + b"abc", [b"abc"]),
)


async def feed(handler, pieces):
    """Sends the pieces, one after the other, to a connection without a socket."""
    connection = http1._Connection(HttpListener(handler, None, max_body_bytes=MOST))
    connection.connection_made(Transport())
    for piece in pieces:
        connection.data_received(piece)
        for _ in range(6):
            await asyncio.sleep(0)
    connection.connection_lost(None)


@given(
    st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=8), st.randoms(use_true_random=False)
)
def test_heads_that_come_again_mean_the_same_however_they_are_cut(messages, rng):
    pieces = []
    for sent, _ in messages:
        cut = rng.choice((0, rng.randrange(len(sent))))
        pieces += [part for part in (sent[:cut], sent[cut:]) if part]
    handler = Handler()
    asyncio.run(feed(handler, pieces))
    assert [each.body for each in handler.requests] == [
        body for _, bodies in messages for body in bodies
    ]
    assert {each.path for each in handler.requests} == {"/a"}


async def test_a_head_that_comes_again_is_not_parsed(handler, monkeypatch):
    fed = []
    parse = http1._Connection._fed
    monkeypatch.setattr(
        http1._Connection, "_fed", lambda self, data: fed.append(data) or parse(self, data)
    )
    await feed(handler, [REPEATED + body for body in (b"abc", b"def", b"ghi")])
    assert [each.body for each in handler.requests] == [b"abc", b"def", b"ghi"]
    assert handler.requests[2].headers == {"host": "h", "content-length": "3"}
    assert fed == [REPEATED + b"abc"]


async def test_an_old_connection_has_one_more_answer_and_says_so(handler):
    bound = bind("127.0.0.1", 0, "--rest-port")
    listener = HttpListener(handler, bound, max_body_bytes=MOST, max_age_s=0.01)
    await listener.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", bound.getsockname()[1])
        async with asyncio.timeout(10):
            answers = []
            # Idle, it is not closed: a request could be on its way.
            while not answers or "connection: close" not in answers[-1]:
                await asyncio.sleep(0.3 if answers else 0)
                writer.write(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
                for _ in range(2):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    assert head.startswith("HTTP/1.1 200 OK")
                    assert await reader.readexactly(2) == b"/a"
                    answers.append(head)
            assert await reader.read() == b""
        assert len(answers) > 2
        # Of two that were sent at once, both are answered.
        assert "connection: close" not in answers[-2]
        writer.close()
    finally:
        await listener.stop(0.5)
