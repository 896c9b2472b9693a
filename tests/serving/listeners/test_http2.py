"""What HTTP/2 asks of a server (RFC 9113), frame by frame; the `h2` library is the witness.

What is sent is written here by hand or by `h2`; what comes back is read by `h2`'s own frame parser.
"""

import asyncio
import random
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hyperframe.frame import Frame
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.app import bind
from serving.listeners import http2
from serving.listeners.grpc import GrpcListener, framed, read_head
from serving.transport import GrpcResponse

PREFACE = http2.PREFACE
FIELDS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/t.T/Echo"),
    (":authority", "host"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def block(*fields):
    return b"".join(http2.literal(name.encode(), value.encode()) for name, value in fields)


def frame(kind, flags, stream, payload=b""):
    return http2.frame(kind, flags, stream, payload)


HELLO = framed(b"hello")


def request(stream=1, fields=FIELDS, body=HELLO):
    return frame(http2.HEADERS, http2.END_HEADERS, stream, block(*fields)) + frame(
        http2.DATA, http2.END_STREAM, stream, body
    )


SETTINGS = frame(http2.SETTINGS, 0, 0)
OPEN = frame(http2.HEADERS, http2.END_HEADERS, 1, block(*FIELDS))


class Methods:
    running = most_running = 0

    def __init__(self):
        self.go = asyncio.Event()

    async def hold(self, asked):
        await self.go.wait()
        return GrpcResponse(asked.body)

    async def echo(self, asked):
        return GrpcResponse(asked.body)

    async def wait(self, asked):
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await asyncio.sleep(30)
        finally:
            # It takes a while to stop.
            self.running -= 1
        return GrpcResponse(b"")


@pytest.fixture
def methods():
    return Methods()


@pytest.fixture
async def server(methods):
    listener = GrpcListener(
        {"/t.T/Echo": methods.echo, "/t.T/Wait": methods.wait},
        [bind("127.0.0.1", 0, "")],
        max_message_bytes=4 << 20,
        max_streams=20,
        max_connections=50,
    )
    await listener.start()
    yield listener.sockets[0].getsockname()[1]
    await listener.stop(0.1)


class Client:
    """One connection; keeps the frames that come."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.frames = []

    async def read(self, until, limit_s=5):
        """The first frame for which `until` holds; None when the server closes."""
        async with asyncio.timeout(limit_s):
            while True:
                for each in self.frames:
                    if until(each):
                        self.frames.remove(each)
                        return each
                try:
                    head = await self.reader.readexactly(9)
                    found, length = Frame.parse_frame_header(memoryview(head))
                    found.parse_body(memoryview(await self.reader.readexactly(length)))
                except (asyncio.IncompleteReadError, ConnectionError):
                    return None
                self.frames.append(found)


@pytest.fixture
async def connect(server):
    opened = []

    async def one(sent=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", server)
        opened.append(writer)
        writer.write(sent)
        return Client(reader, writer)

    yield one
    for writer in opened:
        writer.close()


def is_a(name, stream=None):
    return lambda each: type(each).__name__ == name and stream in (None, each.stream_id)


def ends(stream):
    return lambda each: (
        type(each).__name__ == "HeadersFrame"
        and each.stream_id == stream
        and "END_STREAM" in each.flags
    )


async def still_answers(connect):
    client = await connect(PREFACE + SETTINGS + request())
    data = await client.read(is_a("DataFrame"))
    assert data.data == framed(b"hello")


LONG = struct.Struct(">L")
PRIORITY = struct.Struct(">LB").pack(0, 15)
# What was sent after the preface and the settings, the code of GOAWAY, and why (RFC 9113).
ENDS_THE_CONNECTION = {
    "data on stream 0 (6.1)": (frame(http2.DATA, 0, 0, b"x"), http2.PROTOCOL_ERROR),
    "data of a stream never opened (5.1)": (frame(http2.DATA, 0, 5, b"x"), http2.PROTOCOL_ERROR),
    "padding beyond the frame (6.1)": (
        OPEN + frame(http2.DATA, http2.PADDED, 1, b"\x09abc"),
        http2.PROTOCOL_ERROR,
    ),
    "headers on stream 0 (6.2)": (
        frame(http2.HEADERS, http2.END_HEADERS, 0, block(*FIELDS)),
        http2.PROTOCOL_ERROR,
    ),
    "headers on a server's stream (5.1.1)": (request(stream=2), http2.PROTOCOL_ERROR),
    "a stream number that falls (5.1.1)": (
        request(stream=5) + request(stream=3),
        http2.STREAM_CLOSED,
    ),
    "a stream that depends on itself (5.3.1)": (
        frame(
            http2.HEADERS,
            http2.END_HEADERS | http2.HAS_PRIORITY,
            1,
            LONG.pack(1) + b"\x10" + block(*FIELDS),
        ),
        http2.PROTOCOL_ERROR,
    ),
    "another frame within a header block (6.10)": (
        frame(http2.HEADERS, 0, 1, block(*FIELDS)) + frame(http2.PING, 0, 0, b"12345678"),
        http2.PROTOCOL_ERROR,
    ),
    "continuation of nothing (6.10)": (
        frame(http2.CONTINUATION, http2.END_HEADERS, 1, block(*FIELDS)),
        http2.PROTOCOL_ERROR,
    ),
    "a header block that never ends": (
        frame(http2.HEADERS, 0, 1, block(*FIELDS))
        + frame(http2.CONTINUATION, 0, 1, b"\0" * 16_000) * 4,
        http2.ENHANCE_YOUR_CALM,
    ),
    "no HPACK (4.3)": (
        frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        http2.COMPRESSION_ERROR,
    ),
    "an HPACK bomb": (
        frame(
            http2.HEADERS,
            http2.END_HEADERS,
            1,
            # A field of 3,000 bytes enters the table and is then said a thousand times.
            b"\x40" + http2.literal(b"a", b"b" * 3000)[1:] + b"\xbe" * 1000,
        ),
        http2.COMPRESSION_ERROR,
    ),
    "a frame larger than was said (4.2)": (
        frame(http2.DATA, 0, 1, b"x" * 16_385),
        http2.FRAME_SIZE_ERROR,
    ),
    "a reset of a stream never opened (6.4)": (
        frame(http2.RST_STREAM, 0, 7, LONG.pack(8)),
        http2.PROTOCOL_ERROR,
    ),
    "a reset of three bytes (6.4)": (
        OPEN + frame(http2.RST_STREAM, 0, 1, b"abc"),
        http2.FRAME_SIZE_ERROR,
    ),
    "settings on a stream (6.5)": (frame(http2.SETTINGS, 0, 1), http2.PROTOCOL_ERROR),
    "settings that are cut (6.5)": (
        frame(http2.SETTINGS, 0, 0, b"12345"),
        http2.FRAME_SIZE_ERROR,
    ),
    "an acknowledgement that says more (6.5)": (
        frame(http2.SETTINGS, http2.ACK, 0, b"123456"),
        http2.FRAME_SIZE_ERROR,
    ),
    "ENABLE_PUSH of 2 (6.5.2)": (
        frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 2, 2)),
        http2.PROTOCOL_ERROR,
    ),
    "a window of 2^31 (6.5.2)": (
        frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 4, 1 << 31)),
        http2.FLOW_CONTROL_ERROR,
    ),
    "a frame size of 100 (6.5.2)": (
        frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 5, 100)),
        http2.PROTOCOL_ERROR,
    ),
    "a push (8.4)": (frame(http2.PUSH_PROMISE, 4, 1, LONG.pack(2)), http2.PROTOCOL_ERROR),
    "a ping on a stream (6.7)": (frame(http2.PING, 0, 1, b"12345678"), http2.PROTOCOL_ERROR),
    "a ping of seven bytes (6.7)": (frame(http2.PING, 0, 0, b"1234567"), http2.FRAME_SIZE_ERROR),
    "goaway on a stream (6.8)": (frame(http2.GOAWAY, 0, 1, b"\0" * 8), http2.PROTOCOL_ERROR),
    "a window update of 0 (6.9)": (
        frame(http2.WINDOW_UPDATE, 0, 0, LONG.pack(0)),
        http2.PROTOCOL_ERROR,
    ),
    "a window update of three bytes (6.9)": (
        frame(http2.WINDOW_UPDATE, 0, 0, b"abc"),
        http2.FRAME_SIZE_ERROR,
    ),
    "a window beyond 2^31 (6.9.1)": (
        frame(http2.WINDOW_UPDATE, 0, 0, LONG.pack(2**31 - 1)) * 2,
        http2.FLOW_CONTROL_ERROR,
    ),
    "a window update of a stream never opened (5.1)": (
        frame(http2.WINDOW_UPDATE, 0, 9, LONG.pack(1)),
        http2.PROTOCOL_ERROR,
    ),
    "priority of stream 0 (6.3)": (frame(http2.PRIORITY, 0, 0, PRIORITY), http2.PROTOCOL_ERROR),
    "pings without end": (
        frame(http2.PING, 0, 0, b"12345678") * 1500,
        http2.ENHANCE_YOUR_CALM,
    ),
    "empty data without end": (
        OPEN + frame(http2.DATA, 0, 1) * 1500,
        http2.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize("name", ENDS_THE_CONNECTION)
async def test_a_connection_that_breaks_the_rules_ends_with_its_code(connect, name):
    sent, code = ENDS_THE_CONNECTION[name]
    client = await connect(PREFACE + SETTINGS + sent)
    found = await client.read(is_a("GoAwayFrame"))
    assert found.error_code == code
    assert await client.read(lambda _: False) is None, "the connection stayed open"
    await still_answers(connect)


def without(name):
    return [each for each in FIELDS if each[0] != name]


MALFORMED = {
    "no method": without(":method"),
    "no path": without(":path"),
    "an upper-case name": [*FIELDS, ("X-Upper", "1")],
    "an unknown pseudo field": [(":colour", "red"), *FIELDS],
    "a pseudo field after others": [*FIELDS, (":authority", "again")],
    "a pseudo field twice": [(":path", "/"), *FIELDS],
    "a field of HTTP/1.1": [*FIELDS, ("connection", "close")],
    "transfer-encoding": [*FIELDS, ("transfer-encoding", "chunked")],
    "a line break": [*FIELDS, ("x", "a\r\nb: c")],
    "te that is not trailers": [*without("te"), ("te", "gzip")],
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_a_malformed_request_ends_its_stream_only(connect, name):
    client = await connect(PREFACE + SETTINGS + request(1, MALFORMED[name]) + request(3))
    reset = await client.read(is_a("RstStreamFrame", 1))
    assert reset.error_code == http2.PROTOCOL_ERROR
    assert (await client.read(is_a("DataFrame", 3))).data == framed(b"hello")


ENDS_THE_STREAM = {
    "data after its end (5.1)": (
        frame(http2.HEADERS, http2.END_HEADERS, 1, block((":path", "/t.T/Wait"), *without(":path")))
        + frame(http2.DATA, http2.END_STREAM, 1, framed(b""))
        + frame(http2.DATA, 0, 1, b"more"),
        http2.STREAM_CLOSED,
    ),
    "trailers without an end (8.1)": (
        OPEN + frame(http2.HEADERS, http2.END_HEADERS, 1, block(("x", "1"))),
        http2.PROTOCOL_ERROR,
    ),
    "a window update of 0 (6.9)": (
        OPEN + frame(http2.WINDOW_UPDATE, 0, 1, LONG.pack(0)),
        http2.PROTOCOL_ERROR,
    ),
    "a window beyond 2^31 (6.9.1)": (
        OPEN + frame(http2.WINDOW_UPDATE, 0, 1, LONG.pack(2**31 - 1)),
        http2.FLOW_CONTROL_ERROR,
    ),
}


@pytest.mark.parametrize("name", ENDS_THE_STREAM)
async def test_a_stream_that_breaks_the_rules_ends_alone(connect, name):
    sent, code = ENDS_THE_STREAM[name]
    client = await connect(PREFACE + SETTINGS + sent + request(3))
    assert (await client.read(is_a("RstStreamFrame", 1))).error_code == code
    assert (await client.read(is_a("DataFrame", 3))).data == framed(b"hello")


ALLOWED = {
    "padding": frame(http2.HEADERS, http2.END_HEADERS | http2.PADDED, 1, b"\5" + block(*FIELDS) + b"\0" * 5)
    + frame(http2.DATA, http2.END_STREAM | http2.PADDED, 1, b"\3" + framed(b"hello") + b"\0" * 3),
    "priority": frame(
        http2.HEADERS, http2.END_HEADERS | http2.HAS_PRIORITY, 1, PRIORITY + block(*FIELDS)
    )
    + frame(http2.PRIORITY, 0, 1, PRIORITY)
    + frame(http2.DATA, http2.END_STREAM, 1, framed(b"hello")),
    "a header block in three frames": frame(http2.HEADERS, 0, 1, block(*FIELDS)[:10])
    + frame(http2.CONTINUATION, 0, 1, block(*FIELDS)[10:20])
    + frame(http2.CONTINUATION, http2.END_HEADERS, 1, block(*FIELDS)[20:])
    + frame(http2.DATA, http2.END_STREAM, 1, framed(b"hello")),
    "a message in many frames": OPEN
    + b"".join(frame(http2.DATA, 0, 1, bytes((each,))) for each in framed(b"hello"))
    + frame(http2.DATA, http2.END_STREAM, 1),
    "trailers": OPEN
    + frame(http2.DATA, 0, 1, framed(b"hello"))
    + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, block(("x", "1"))),
    "frames and settings that nobody knows": frame(0x42, 0xFF, 1, b"what")
    + frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 0x99, 7))
    + request(),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
async def test_what_is_allowed_is_answered(connect, name):
    for cut in (None, 1, 7):
        client = await connect()
        sent = PREFACE + SETTINGS + ALLOWED[name]
        for place in range(0, len(sent), cut or len(sent)):
            client.writer.write(sent[place : place + (cut or len(sent))])
            await client.writer.drain()
        assert (await client.read(is_a("DataFrame", 1))).data == framed(b"hello")


async def test_a_table_that_a_client_sizes_again_and_again_is_the_same_on_both_sides(connect):
    """RFC 7541, 4.2: a block that says how large the table is may come again."""
    plain = block(*FIELDS)
    # 100 bytes hold one of the fields that follow, 4,096 both.
    small, large = b"\x3f\x45" + plain, b"\x3f\xe1\x1f" + plain
    kept = b"".join(b"\x40" + http2.literal(name, b"1" * 40)[1:] for name in (b"a", b"b"))
    blocks = (large, small, large, plain + kept, plain + b"\xbf")
    sent = b"".join(
        frame(http2.HEADERS, http2.END_HEADERS, stream, each)
        + frame(http2.DATA, http2.END_STREAM, stream, HELLO)
        for stream, each in zip(range(1, 11, 2), blocks, strict=True)
    )
    client = await connect(PREFACE + SETTINGS + sent)
    assert (await client.read(is_a("DataFrame", 9))).data == HELLO


@pytest.mark.parametrize("size", [0, 100, 4096])
async def test_a_client_may_keep_a_small_table(server, size):
    """`h2` refuses answers that do not say that they keep to it (RFC 7541, 4.2)."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: size})
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    status = {}
    async with asyncio.timeout(5):
        for stream in (1, 3):
            connection.send_headers(stream, FIELDS)
            connection.send_data(stream, HELLO, end_stream=True)
            writer.write(connection.data_to_send())
            while stream not in status:
                for event in connection.receive_data(await reader.read(65_536)):
                    if isinstance(event, h2.events.TrailersReceived):
                        status[event.stream_id] = dict(event.headers)[b"grpc-status"]
    writer.close()
    assert status == {1: b"0", 3: b"0"}


async def test_trailers_behind_an_early_answer_end_nobody_elses_request(connect):
    """What was on its way when the server had answered (RFC 9113, 5.1) says nothing any more."""
    unknown = block((":path", "/t.T/Unknown"), *without(":path"))
    trailers = frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, block(("x", "1")))
    client = await connect(PREFACE + SETTINGS + frame(http2.HEADERS, http2.END_HEADERS, 1, unknown))
    assert (await client.read(is_a("RstStreamFrame", 1))).error_code == http2.NO_ERROR
    client.writer.write(frame(http2.DATA, 0, 1, HELLO) + trailers + request(3))
    assert (await client.read(is_a("DataFrame", 3))).data == HELLO


async def test_requests_that_cross_with_the_word_that_the_server_stops_end_no_others(methods):
    """GOAWAY names the last stream; of those beyond it nothing is read (RFC 9113, 6.8)."""
    listener = GrpcListener({"/t.T/Hold": methods.hold}, [], max_message_bytes=1 << 16)
    connection, transport = listener._protocol(), Transport()
    connection.connection_made(transport)
    held = block((":path", "/t.T/Hold"), *without(":path"))
    connection.data_received(PREFACE + SETTINGS)
    connection.data_received(frame(http2.HEADERS, http2.END_HEADERS, 1, held))
    connection.data_received(frame(http2.DATA, http2.END_STREAM, 1, HELLO))
    await asyncio.sleep(0)
    connection.close()
    connection.data_received(frame(http2.HEADERS, http2.END_HEADERS, 3, held))
    connection.data_received(frame(http2.DATA, 0, 3, HELLO))
    connection.data_received(frame(http2.WINDOW_UPDATE, 0, 3, LONG.pack(9)))
    connection.data_received(frame(http2.RST_STREAM, 0, 3, LONG.pack(http2.CANCEL)))
    assert not transport.is_closed
    methods.go.set()
    async with asyncio.timeout(5):
        while not transport.is_closed:
            await asyncio.sleep(0)
    assert HELLO in transport.sent


@pytest.mark.parametrize(
    "flood",
    [
        frame(http2.WINDOW_UPDATE, 0, 0, LONG.pack(1)) * 1000,
        frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 4, 100) * 1000),
    ],
    ids=["windows", "settings"],
)
async def test_one_read_looks_at_each_waiting_answer_once(methods, monkeypatch, flood):
    """A few bytes a frame, times every stream, would keep the server from all its other work."""
    listener = GrpcListener({"/t.T/Echo": methods.echo}, [], max_message_bytes=1 << 16)
    connection, transport = listener._protocol(), Transport()
    connection.connection_made(transport)
    connection.data_received(PREFACE + frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 4, 0)))
    for stream in range(1, 21, 2):
        connection.data_received(request(stream))
    for _ in range(5):
        await asyncio.sleep(0)
    sent = []
    send = http2.Http2Connection._send
    monkeypatch.setattr(
        http2.Http2Connection,
        "_send",
        lambda self, stream: sent.append(stream) or send(self, stream),
    )
    streams = CountedStreams(connection._streams)
    connection._streams = streams
    connection.data_received(flood)
    assert len(sent) == 10
    assert streams.walks <= 2
    connection.data_received(frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 4, 100)))
    assert transport.sent.count(HELLO) == 10


class CountedStreams(dict):
    walks = 0

    def values(self):
        self.walks += 1
        return super().values()


async def test_a_ping_comes_back(connect):
    client = await connect(PREFACE + SETTINGS + frame(http2.PING, 0, 0, b"12345678"))
    found = await client.read(is_a("PingFrame"))
    assert found.opaque_data == b"12345678"
    assert "ACK" in found.flags


@pytest.mark.parametrize("window", [1, 100, 30_000])
async def test_an_answer_never_exceeds_the_clients_windows(server, window):
    """`h2` raises when it does."""
    body = bytes(range(256)) * 20
    config = h2.config.H2Configuration(client_side=True)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    for stream in (1, 3):
        connection.send_headers(stream, FIELDS)
        connection.send_data(stream, framed(body), end_stream=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    got = {1: b"", 3: b""}
    status = {}
    async with asyncio.timeout(20):
        while len(status) < 2:
            writer.write(connection.data_to_send())
            for event in connection.receive_data(await reader.read(65_536)):
                if isinstance(event, h2.events.DataReceived):
                    got[event.stream_id] += event.data
                    connection.increment_flow_control_window(event.flow_controlled_length)
                    if event.stream_ended is None and len(got[event.stream_id]) < len(body) + 5:
                        more = 500 if window == 1 else event.flow_controlled_length
                        connection.increment_flow_control_window(more, event.stream_id)
                elif isinstance(event, h2.events.TrailersReceived):
                    status[event.stream_id] = dict(event.headers)[b"grpc-status"]
    writer.close()
    assert got == {1: framed(body), 3: framed(body)}
    assert status == {1: b"0", 3: b"0"}


async def test_a_large_message_is_let_in_by_few_window_updates(server):
    """Three megabytes through a window of one; `h2` refuses to send beyond it."""
    body = bytes(range(256)) * 12_000
    config = h2.config.H2Configuration(client_side=True)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connection.send_headers(1, FIELDS)
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    left, updates, got, status = framed(body), 0, b"", None
    async with asyncio.timeout(20):
        while status is None:
            while left and (room := connection.local_flow_control_window(1)):
                part = left[: min(room, connection.max_outbound_frame_size)]
                left = left[len(part) :]
                connection.send_data(1, part, end_stream=not left)
            writer.write(connection.data_to_send())
            for event in connection.receive_data(await reader.read(65_536)):
                if isinstance(event, h2.events.WindowUpdated):
                    updates += event.stream_id == 1
                elif isinstance(event, h2.events.DataReceived):
                    got += event.data
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
                elif isinstance(event, h2.events.TrailersReceived):
                    status = dict(event.headers)[b"grpc-status"]
    writer.close()
    assert (got, status) == (framed(body), b"0")
    assert 2 <= updates <= 6


async def test_a_window_made_smaller_holds_answers_back(connect):
    """A window may become negative (6.9.2): nothing comes until it is positive again."""
    body = b"x" * 70_000
    parts = [framed(body)[place : place + 16_000] for place in range(0, len(body) + 5, 16_000)]
    sent = OPEN + b"".join(frame(http2.DATA, 0, 1, part) for part in parts)
    client = await connect(PREFACE + SETTINGS + sent + frame(http2.DATA, http2.END_STREAM, 1))
    got = 0
    while got < 65_535:
        got += len((await client.read(is_a("DataFrame"))).data)
    assert got == 65_535
    client.writer.write(frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 4, 10)))
    client.writer.write(frame(http2.WINDOW_UPDATE, 0, 0, LONG.pack(1 << 20)))
    with pytest.raises(TimeoutError):
        await client.read(is_a("DataFrame"), limit_s=0.2)
    client.writer.write(frame(http2.WINDOW_UPDATE, 0, 1, LONG.pack(1 << 20)))
    while got < len(body) + 5:
        got += len((await client.read(is_a("DataFrame"))).data)
    assert await client.read(ends(1))


async def test_requests_that_are_given_up_at_once_do_not_pile_up(connect, methods):
    """The rapid reset (CVE-2023-44487)."""
    fields = block((":path", "/t.T/Wait"), *without(":path"))
    client = await connect(PREFACE + SETTINGS)
    for stream in range(1, 4001, 2):
        client.writer.write(
            frame(http2.HEADERS, http2.END_HEADERS, stream, fields)
            + frame(http2.DATA, http2.END_STREAM, stream, framed(b""))
            + frame(http2.RST_STREAM, 0, stream, LONG.pack(http2.CANCEL))
        )
    client.writer.write(request(4001))
    while True:
        data = await client.read(lambda each: each.stream_id == 4001)
        if type(data).__name__ == "DataFrame":
            break
        # Its turn came while those that were given up still counted.
        assert type(data).__name__ in ("HeadersFrame", "RstStreamFrame")
        if type(data).__name__ == "RstStreamFrame":
            assert data.error_code == http2.REFUSED_STREAM
            break
    assert methods.most_running <= 20
    await asyncio.sleep(0.05)
    assert methods.running == 0
    await still_answers(connect)


async def test_streams_beyond_the_limit_are_refused_unstarted(connect, methods):
    fields = block((":path", "/t.T/Wait"), *without(":path"))
    sent = b"".join(
        frame(http2.HEADERS, http2.END_HEADERS, stream, fields)
        + frame(http2.DATA, http2.END_STREAM, stream, framed(b""))
        for stream in range(1, 43, 2)
    )
    client = await connect(PREFACE + SETTINGS + sent)
    assert (await client.read(is_a("RstStreamFrame", 41))).error_code == http2.REFUSED_STREAM
    assert methods.running == 20


async def test_a_client_that_speaks_http_1_is_told(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"REST has a port of its own" in answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(":method", "GET"), *without(":method")], "405"),
        ([*without("content-type"), ("content-type", "text/html")], "415"),
    ],
)
async def test_what_is_no_grpc_gets_an_http_status(server, fields, status):
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.send_headers(1, fields, end_stream=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", server)
    writer.write(connection.data_to_send())
    events = []
    async with asyncio.timeout(5):
        while not any(isinstance(each, h2.events.StreamEnded) for each in events):
            events += connection.receive_data(await reader.read(65_536))
    writer.close()
    (answer,) = (each for each in events if isinstance(each, h2.events.ResponseReceived))
    assert dict(answer.headers)[b":status"].decode() == status


async def test_connections_beyond_the_limit_are_closed(connect):
    kept = [await connect(PREFACE + SETTINGS) for _ in range(50)]
    for each in kept:
        await each.read(is_a("SettingsFrame"))
    one_more = await connect(PREFACE + SETTINGS)
    assert await one_more.read(is_a("SettingsFrame")) is None
    kept[0].writer.close()
    await asyncio.sleep(0.05)
    await still_answers(connect)


def test_the_deadline_is_read_in_every_unit():
    def timeout_s(text):
        fields = [(name.encode(), value.encode()) for name, value in FIELDS]
        return read_head([*fields, (b"grpc-timeout", text)]).timeout_s

    assert [timeout_s(each) for each in (b"2H", b"3M", b"4S", b"500m", b"6u", b"7n")] == (
        pytest.approx([7200, 180, 4, 0.5, 6e-6, 7e-9])
    )
    assert timeout_s(b"123456789S") is None
    assert timeout_s(b"soon") is None


class Transport(asyncio.Transport):
    """Takes what is written; nothing of asyncio's is needed for a connection to be fed."""

    def __init__(self):
        super().__init__()
        self.sent = b""
        self.is_closed = False

    def write(self, data):
        self.sent += data

    def close(self):
        self.is_closed = True

    abort = close

    def is_closing(self):
        return self.is_closed

    def pause_reading(self):
        pass

    resume_reading = write_eof = pause_reading

    def can_write_eof(self):
        return True


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(0, 30))
def test_no_bytes_whatsoever_raise(rng: random.Random, changes):
    """A conversation with bytes changed, cut and doubled: an answer or an end, never a defect."""
    sent = bytearray(
        PREFACE + SETTINGS + b"".join(ALLOWED.values()) + b"".join(
            each for each, _ in ENDS_THE_STREAM.values()
        )
    )  # fmt: skip
    for _ in range(changes):
        place = rng.randrange(len(PREFACE), len(sent))
        kind = rng.randrange(3)
        if kind == 0:
            sent[place] = rng.randrange(256)
        elif kind == 1:
            del sent[place : place + rng.randrange(20)]
        else:
            sent[place:place] = sent[place : place + rng.randrange(40)]

    async def feed():
        async def echo(asked):
            return GrpcResponse(asked.body)

        listener = GrpcListener(
            {"/t.T/Echo": echo}, [], streams={"/t.T/Stream": echo}, max_message_bytes=1 << 16
        )
        connection = listener._protocol()
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


class Talk:
    """A client's side of a connection without sockets: all that `h2` does, in any order and cut."""

    def __init__(self, rng):
        async def echo(asked):
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            return GrpcResponse(asked.body)

        listener = GrpcListener(
            {"/t.T/Echo": echo}, [], streams={"/t.T/Stream": echo}, max_message_bytes=1 << 20
        )
        self.rng = rng
        self.server, self.transport = listener._protocol(), Transport()
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.client.initiate_connection()
        self.unsent, self.asked, self.got, self.status, self.unread = {}, {}, {}, {}, []

    async def exchange(self):
        """What has been said goes to and fro."""
        data = self.client.data_to_send()
        while data:
            size = self.rng.choice((1, 9, 100, 70_000, len(data)))
            self.server.data_received(data[:size])
            data = data[size:]
        for _ in range(self.rng.randrange(8)):
            await asyncio.sleep(0)
        said, self.transport.sent = self.transport.sent, b""
        for event in self.client.receive_data(said):
            assert not isinstance(event, h2.events.ConnectionTerminated), event
            if isinstance(event, h2.events.DataReceived):
                self.got[event.stream_id] += event.data
                self.unread.append((event.stream_id, event.flow_controlled_length))
            elif isinstance(event, h2.events.TrailersReceived):
                self.status[event.stream_id] = dict(event.headers)[b"grpc-status"]

    def open(self):
        stream = self.client.get_next_available_stream_id()
        is_stream = self.rng.random() < 0.5
        messages = [
            self.rng.randbytes(self.rng.choice((0, 1, 16_379, 70_000)))
            for _ in range(self.rng.randrange(4) if is_stream else 1)
        ]
        path = (":path", "/t.T/Stream" if is_stream else "/t.T/Echo")
        more = ("x", "y" * self.rng.choice((1, 50, 20_000)))
        self.client.send_headers(stream, [path, *without(":path"), more])
        self.unsent[stream] = self.asked[stream] = b"".join(map(framed, messages))
        self.got[stream] = b""

    def send(self):
        if not self.unsent:
            return
        stream, left = self.rng.choice(list(self.unsent.items()))
        padding = self.rng.choice((None, None, 0, 255))
        room = self.client.local_flow_control_window(stream)
        room = min(room, self.client.max_outbound_frame_size) - 1 - (padding or 0)
        if room < 0:
            return
        size = min(room, self.rng.choice((0, 1, 5, 1000, 20_000)))
        is_end = size >= len(left) and self.rng.random() < 0.5
        self.client.send_data(stream, left[:size], end_stream=is_end, pad_length=padding)
        self.unsent[stream] = left[size:]
        if not self.unsent[stream] and not is_end:
            self.client.send_headers(stream, [("x-trailer", "1")], end_stream=True)
        if not self.unsent[stream]:
            del self.unsent[stream]

    def read(self):
        while self.unread and self.rng.random() < 0.8:
            stream, size = self.unread.pop()
            if stream in self.asked and stream not in self.status and size:
                self.client.acknowledge_received_data(size, stream)
            elif size:
                self.client.increment_flow_control_window(size)

    def change(self):
        codes = h2.settings.SettingCodes
        window = self.rng.choice((0, 1, 100, 65_535, 1 << 20))
        table, most = self.rng.choice((0, 100, 4096)), self.rng.choice((16_384, 1 << 20))
        self.client.update_settings(
            {
                codes.INITIAL_WINDOW_SIZE: window,
                codes.HEADER_TABLE_SIZE: table,
                codes.MAX_FRAME_SIZE: most,
            }
        )

    def ping(self):
        self.client.ping(b"12345678")

    def resize(self):
        sizes = {0, 100, 4096} - {self.client.encoder.header_table_size}
        self.client.encoder.header_table_size = self.rng.choice(sorted(sizes))

    def give_up(self):
        if self.unsent and self.rng.random() < 0.3:
            stream = self.rng.choice(list(self.unsent))
            self.client.reset_stream(stream, http2.CANCEL)
            del self.unsent[stream], self.asked[stream]

    async def all(self, steps):
        acts = (self.open, self.send, self.send, self.read, self.change, self.ping, self.resize)
        self.server.connection_made(self.transport)
        await self.exchange()
        for _ in range(steps):
            self.rng.choice((*acts, self.send, self.give_up))()
            await self.exchange()
        self.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        self.client.increment_flow_control_window(1 << 24)
        async with asyncio.timeout(20):
            while self.unsent or len(self.status) < len(self.asked):
                self.send()
                self.read()
                await self.exchange()
        self.server.connection_lost(None)


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=True), st.integers(0, 60))
def test_whatever_h2_says_is_answered(rng: random.Random, steps):
    """Windows, padding, trailers, tables and cuts in any order; `h2` holds the answers to them."""
    talk = Talk(rng)
    asyncio.run(talk.all(steps))
    assert {stream: talk.got[stream] for stream in talk.asked} == talk.asked
    assert set(talk.status.values()) <= {b"0"}


async def test_an_old_connection_says_so_and_takes_what_was_on_its_way(methods):
    listener = GrpcListener(
        {"/t.T/Echo": methods.echo},
        [bind("127.0.0.1", 0, "")],
        max_message_bytes=1 << 16,
        max_age_s=0.05,
    )
    await listener.start()
    try:
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = Client(reader, writer)
        writer.write(PREFACE + SETTINGS)
        first = await client.read(is_a("GoAwayFrame"))
        assert (first.last_stream_id, first.error_code) == (http2.MOST_WINDOW, http2.NO_ERROR)
        ping = await client.read(is_a("PingFrame"))
        # Sent before the client had read it.
        writer.write(request())
        assert (await client.read(is_a("DataFrame"))).data == framed(b"hello")
        writer.write(frame(http2.PING, http2.ACK, 0, ping.opaque_data))
        second = await client.read(is_a("GoAwayFrame"))
        assert (second.last_stream_id, second.error_code) == (1, http2.NO_ERROR)
        assert await client.read(is_a("PingFrame")) is None
        writer.close()
    finally:
        await listener.stop(0.1)
