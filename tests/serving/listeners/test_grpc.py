"""The gRPC listener, asked by grpcio's own client."""

import asyncio
import gzip
import socket
import subprocess
import zlib

import grpc
import pytest

from serving.app import bind, bind_unix
from serving.errors import ConfigError
from serving.listeners.grpc import CredentialsError, GrpcListener
from serving.transport import GrpcResponse

MOST = 4 << 20


class Methods:
    """Handlers that note what they are asked."""

    def __init__(self):
        self.requests = []
        self.cancelled = asyncio.Event()
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.running = 0
        self.most_running = 0

    async def echo(self, request):
        self.requests.append(request)
        return GrpcResponse(request.body, trailers=(("x-seen", "yes"),))

    async def fail(self, request):
        text = "50% zu groß: 図\n" + request.body.decode()
        return GrpcResponse(code=9, message=text, trailers=(("x-field", "image"),))

    async def wait(self, request):
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1
        return GrpcResponse(request.body)

    async def large(self, request):
        return GrpcResponse(b"x" * int(request.body))

    async def raise_(self, request):
        raise RuntimeError("a defect")

    async def watch(self, request):
        for number in range(1_000_000):
            yield request.body + str(number).encode()
            await asyncio.sleep(0.01)

    def routes(self):
        return {
            "/t.T/Echo": self.echo,
            "/t.T/Fail": self.fail,
            "/t.T/Wait": self.wait,
            "/t.T/Large": self.large,
            "/t.T/Raise": self.raise_,
        }


@pytest.fixture
def methods():
    return Methods()


@pytest.fixture
async def listener(methods):
    made = GrpcListener(
        methods.routes(),
        [bind("127.0.0.1", 0, "")],
        max_message_bytes=MOST,
        streams={"/t.T/Stream": methods.echo, "/t.T/StreamWait": methods.wait},
        watches={"/t.T/Watch": methods.watch},
        max_in_flight=4,
        max_streams=50,
    )
    await made.start()
    yield made
    methods.go.set()
    await made.stop(0.5)


@pytest.fixture
async def channel(listener):
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(listener)}", options) as made:
        yield made


def port_of(listener):
    return listener.sockets[0].getsockname()[1]


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 70_000, MOST])
async def test_a_message_of_any_size_goes_there_and_back(channel, size):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    call = channel.unary_unary("/t.T/Echo")(body, timeout=20)
    assert await call == body
    assert ("x-seen", "yes") in tuple(await call.trailing_metadata())


async def test_metadata_and_the_deadline_arrive(channel, methods):
    metadata = (("x-request-id", "abc"), ("x-twice", "1"), ("x-raw-bin", b"\0\1"))
    await channel.unary_unary("/t.T/Echo")(b"", metadata=metadata, timeout=5)
    (request,) = methods.requests
    assert request.metadata["x-request-id"] == "abc"
    assert "x-raw-bin" not in request.metadata
    assert 3 < request.deadline - request.received <= 5
    await channel.unary_unary("/t.T/Echo")(b"")
    assert methods.requests[1].deadline is None


async def test_errors_keep_their_code_text_and_trailers(channel):
    error = await refused(channel.unary_unary("/t.T/Fail")(b"!", timeout=5))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "50% zu groß: 図\n!"
    assert ("x-field", "image") in tuple(error.trailing_metadata())


async def test_what_is_no_method_is_unimplemented(channel):
    error = await refused(channel.unary_unary("/t.T/Nothing")(b"x" * 100_000, timeout=5))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_defect_is_an_error_and_the_server_goes_on(channel):
    error = await refused(channel.unary_unary("/t.T/Raise")(b"", timeout=5))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert await channel.unary_unary("/t.T/Echo")(b"1", timeout=5) == b"1"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_unfolded(channel, compression):
    body = b"abc" * 10_000
    call = channel.unary_unary("/t.T/Echo")(body, compression=compression, timeout=5)
    assert await call == body


@pytest.mark.parametrize("path", ["/t.T/Echo", "/t.T/Stream"])
async def test_a_message_too_large_is_refused_also_when_it_only_unfolds_so(channel, path):
    for compression in (None, grpc.Compression.Gzip):
        body = b"\0" * (MOST + 1)
        if path == "/t.T/Echo":
            call = channel.unary_unary(path)(body, compression=compression, timeout=10)
        else:
            call = anext(
                aiter(
                    channel.stream_stream(path)(iter([body]), compression=compression, timeout=10)
                )
            )
        error = await refused(call)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(MOST) in error.details()
    assert len(gzip.compress(body)) < MOST


@pytest.mark.parametrize("path", ["/t.T/Wait", "/t.T/StreamWait"])
async def test_who_goes_ends_the_work(channel, methods, path):
    if path == "/t.T/Wait":
        call = channel.unary_unary(path)(b"")
    else:
        call = channel.stream_stream(path)(iter([b""]))
    await methods.started.wait()
    call.cancel()
    await asyncio.wait_for(methods.cancelled.wait(), 5)
    assert methods.running == 0


async def test_a_lost_connection_ends_the_work(listener, methods):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(listener)}") as channel:
        _ = channel.unary_unary("/t.T/Wait")(b"")
        await methods.started.wait()
    await asyncio.wait_for(methods.cancelled.wait(), 5)


async def test_no_more_calls_run_than_one_connection_may_have(channel, methods):
    # The limit stands in the server's settings, which the first answer comes after.
    await channel.unary_unary("/t.T/Echo")(b"")
    calls = [channel.unary_unary("/t.T/Wait")(b"%d" % n, timeout=20) for n in range(200)]
    while methods.running < 50:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert methods.most_running == 50
    methods.go.set()
    assert await asyncio.gather(*calls) == [b"%d" % n for n in range(200)]


async def test_many_calls_at_once_get_their_own_answers(channel):
    bodies = [str(n).encode() * (n % 5000) for n in range(500)]
    echo = channel.unary_unary("/t.T/Echo")
    assert await asyncio.gather(*(echo(body, timeout=20) for body in bodies)) == bodies


async def test_an_answer_waits_for_a_reader_that_is_slow(channel):
    size = 8 << 20
    answer = await channel.unary_unary("/t.T/Large")(str(size).encode(), timeout=20)
    assert len(answer) == size


async def test_a_stream_answers_each_message_in_order(channel):
    bodies = [str(n).encode() * 1000 for n in range(100)]
    answers = channel.stream_stream("/t.T/Stream")(iter(bodies), timeout=20)
    assert [body async for body in answers] == bodies


async def test_messages_of_a_stream_are_unfolded_in_their_turn(channel, methods, monkeypatch):
    """Unfolded as they come, a megabyte would be a gigabyte before the first has its answer."""
    unfolded = []
    unfold = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", lambda bits: unfolded.append(bits) or unfold(bits))
    call = channel.stream_stream("/t.T/StreamWait")(timeout=20, compression=grpc.Compression.Gzip)
    bodies = [str(n).encode() * 1000 for n in range(30)]
    for body in bodies:
        await call.write(body)
    await call.done_writing()
    await methods.started.wait()
    while methods.running < 4:
        await asyncio.sleep(0)
    # As many as are answered at the same time, and one that waits for its turn.
    assert len(unfolded) <= 5
    methods.go.set()
    assert [body async for body in call] == bodies
    assert len(unfolded) == 30


async def test_a_watch_tells_until_its_caller_goes(channel):
    call = channel.unary_stream("/t.T/Watch")(b"n", timeout=20)
    assert [await anext(aiter(call)) for _ in range(3)] == [b"n0", b"n1", b"n2"]
    call.cancel()


async def test_a_watch_leaves_nothing_that_waits(listener, methods):
    before = asyncio.all_tasks()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port_of(listener)}")
    call = channel.unary_stream("/t.T/Watch")(b"n", timeout=20)
    assert await anext(aiter(call)) == b"n0"
    call.cancel()
    await channel.close()
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)


async def test_stopping_finishes_what_has_begun_and_refuses_the_rest(listener, channel, methods):
    begun = channel.unary_unary("/t.T/Wait")(b"begun", timeout=20)
    await methods.started.wait()
    stopping = asyncio.create_task(listener.stop(10))
    await asyncio.sleep(0.2)
    error = await refused(channel.unary_unary("/t.T/Echo")(b"late", timeout=5))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert not stopping.done()
    methods.go.set()
    assert await begun == b"begun"
    await asyncio.wait_for(stopping, 5)


async def test_stopping_waits_no_longer_than_its_limit(listener, channel, methods):
    _ = channel.unary_unary("/t.T/Wait")(b"", timeout=20)
    await methods.started.wait()
    await asyncio.wait_for(listener.stop(0.2), 5)


async def test_a_socket_of_the_file_system_is_taken_over_from_who_died_only(tmp_path, methods):
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    made = GrpcListener(methods.routes(), [bind_unix(path)], max_message_bytes=MOST)
    await made.start()
    with pytest.raises(ConfigError, match=r"grpc.sock cannot be a socket .* in use"):
        bind_unix(path)
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert await channel.unary_unary("/t.T/Echo")(b"1", timeout=5) == b"1"
    await made.stop(1)


async def test_both_sides_can_prove_who_they_are(certificates, methods):
    text = {path.name: path.read_text() for path in certificates.iterdir()}
    made = GrpcListener(
        methods.routes(),
        [bind("127.0.0.1", 0, "")],
        max_message_bytes=MOST,
        credentials=(text["server.key"], text["server.pem"], text["ca.pem"]),
        requires_client=True,
    )
    await made.start()
    options = [("grpc.ssl_target_name_override", "model.test")]

    async def ask(*client):
        proof = [each.encode() for each in client]
        credentials = grpc.ssl_channel_credentials(text["ca.pem"].encode(), *proof)
        address = f"127.0.0.1:{port_of(made)}"
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            return await channel.unary_unary("/t.T/Echo")(b"1" * 100_000, timeout=3)

    assert await ask(text["client.key"], text["client.pem"]) == b"1" * 100_000
    with pytest.raises(grpc.aio.AioRpcError):
        await ask()
    with pytest.raises(grpc.aio.AioRpcError):
        await ask(text["other.key"], text["other.pem"])
    await made.stop(1)


@pytest.mark.parametrize(
    ("key", "certificate", "authority", "words"),
    [
        ("client.key", "server.pem", "ca.pem", "key .* belongs to another certificate"),
        ("server.pem", "server.pem", "ca.pem", "key .* is no private key in PEM"),
        ("encrypted", "server.pem", "ca.pem", "key .* is encrypted"),
        ("server.key", "server.key", "ca.pem", "certificate .* is no certificate in PEM"),
        ("server.key", "server.pem", "ca.key", "custom_ca.* is no certificate in PEM"),
        ("server.key", "server.pem", "", "custom_ca.* is no certificate in PEM"),
    ],
)
def test_credentials_that_are_none_say_which(certificates, key, certificate, authority, words):
    text = {path.name: path.read_text() for path in certificates.iterdir()} | {"": ""}
    text["encrypted"] = subprocess.run(
        ["openssl", "ec", "-in", certificates / "server.key", "-aes128", "-passout", "pass:word"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    with pytest.raises(CredentialsError, match=words):
        GrpcListener(
            {},
            [],
            max_message_bytes=MOST,
            credentials=(text[key], text[certificate], text[authority]),
            requires_client=True,
        )


@pytest.fixture
async def aging(methods):
    """A listener whose connections are old soon, and the connections that it had."""
    made = GrpcListener(
        methods.routes(),
        [bind("127.0.0.1", 0, "")],
        max_message_bytes=MOST,
        streams={"/t.T/Stream": methods.echo, "/t.T/StreamWait": methods.wait},
        max_age_s=0.05,
    )
    seen = []
    protocol = made._protocol
    made._protocol = lambda: seen.append(protocol()) or seen[-1]
    await made.start()
    yield made, seen
    methods.go.set()
    await made.stop(0.5)


async def test_old_connections_make_way_for_new_ones_and_no_call_is_lost(aging):
    listener, seen = aging
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(listener)}") as channel:
        echo = channel.unary_unary("/t.T/Echo")

        async def ask(name):
            number = 0
            while len(seen) < 6:
                body = b"%s %d" % (name, number)
                assert await echo(body, timeout=20) == body
                number += 1

        async with asyncio.timeout(60):
            await asyncio.gather(*(ask(b"%d" % each) for each in range(8)))
    async with asyncio.timeout(20):
        while listener._connections:
            await asyncio.sleep(0.01)


async def test_a_call_and_a_stream_outlive_the_age_of_their_connection(aging, methods):
    listener, seen = aging
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port_of(listener)}") as channel:
        stream = channel.stream_stream("/t.T/Stream")()
        await stream.write(b"before")
        assert await stream.read() == b"before"
        waiting = asyncio.ensure_future(channel.unary_unary("/t.T/Wait")(b"x", timeout=30))
        async with asyncio.timeout(60):
            while len(seen) < 3:
                await channel.unary_unary("/t.T/Echo")(b"", timeout=20)
        await stream.write(b"after")
        assert await stream.read() == b"after"
        methods.go.set()
        await waiting
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK
