"""What ASGI asks of an application; no server is needed to ask it."""

import asyncio
from dataclasses import replace

import pytest

from serving.listeners import asgi
from serving.listeners.asgi import AsgiApplication
from serving.transport import HttpResponse
from tests.serving.listeners.test_http1 import Handler

MOST = 1000


class Server:
    """The server's side of one ASGI connection."""

    def __init__(self, handler, *messages, **scope):
        self.messages = asyncio.Queue()
        for each in messages:
            self.messages.put_nowait(each)
        self.sent = []
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [],
        } | scope
        self.application = AsgiApplication(handler, max_body_bytes=MOST)

    async def receive(self):
        return await self.messages.get()

    async def send(self, message):
        self.sent.append(message)

    async def run(self):
        await self.application(self.scope, self.receive, self.send)
        return self

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return dict(self.sent[0]["headers"])

    @property
    def body(self):
        return b"".join(each["body"] for each in self.sent[1:])


def part(body=b"", *, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.fixture
def handler():
    return Handler()


async def test_a_request_arrives_as_it_was_sent_and_its_answer_goes_back(handler):
    server = await Server(
        handler,
        *(part(b"ab", more=True), part(more=True), part(b"cd")),
        method="post",
        path="/v1/models/a:b",
        raw_path=b"/v1/models/a%3Ab",
        query_string=b"x=%20",
        headers=[(b"X-Id", b"1"), (b"accept", b"a"), (b"Accept", b"b")],
    ).run()
    (request,) = handler.requests
    assert replace(request, received=0.0) == type(request)(
        "POST", "/v1/models/a%3Ab", "x=%20", {"x-id": "1", "accept": "a, b"}, b"abcd"
    )
    assert request.received > 0
    assert [each["type"] for each in server.sent] == ["http.response.start", "http.response.body"]
    assert server.status == 200
    assert server.headers == {b"content-type": b"text/plain", b"content-length": b"16"}
    assert server.body == b"/v1/models/a%3Ab"


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ({"path": "/zoo/v1/ü", "raw_path": b"/zoo/v1/%C3%BC", "root_path": "/zoo"}, "/v1/%C3%BC"),
        ({"path": "/zoo/v1/ü", "raw_path": None, "root_path": "/zoo"}, "/v1/%C3%BC"),
        ({"path": "/zoo", "raw_path": b"/zoo", "root_path": "/zoo"}, "/"),
    ],
)
async def test_what_the_application_is_put_under_is_no_part_of_its_paths(scope, path, handler):
    await Server(handler, part(), **scope).run()
    assert handler.requests[0].path == path


async def test_head_has_the_length_and_no_body(handler):
    server = await Server(handler, part(), method="HEAD", raw_path=b"/abc").run()
    assert (server.headers[b"content-length"], server.body) == (b"4", b"")


async def test_a_body_of_the_limit_is_taken(handler):
    server = await Server(handler, part(b"x" * (MOST - 1), more=True), part(b"x")).run()
    assert server.status == 200
    assert len(handler.requests[0].body) == MOST


@pytest.mark.parametrize(
    ("headers", "messages"),
    [
        ([(b"content-length", b"1001")], []),
        ([], [part(b"x" * MOST, more=True), part(b"x", more=True)]),
    ],
)
async def test_a_larger_body_is_refused_before_it_is_read_to_its_end(headers, messages, handler):
    server = await Server(handler, *messages, headers=headers).run()
    assert (server.status, server.body) == (413, b'{"error":"The body is larger than 1000 bytes."}')
    assert not handler.requests


async def test_a_body_that_does_not_come_is_not_waited_for(handler, monkeypatch):
    monkeypatch.setattr(asgi, "PART_WITHIN_S", 0.01)
    server = await Server(handler, part(b"x", more=True)).run()
    assert server.status == 408
    assert not handler.requests


async def test_a_client_that_goes_in_its_body_asks_for_nothing(handler):
    server = await Server(handler, part(b"x", more=True), GONE).run()
    assert not server.sent
    assert not handler.requests


async def test_a_client_that_goes_cancels_its_work(handler):
    server = Server(handler, part(), raw_path=b"/wait")
    task = asyncio.create_task(server.run())
    await handler.started.wait()
    assert not handler.cancelled.is_set()
    server.messages.put_nowait(GONE)
    await task
    assert handler.cancelled.is_set()
    assert not server.sent


async def test_a_server_that_cancels_its_call_cancels_the_work(handler):
    task = asyncio.create_task(Server(handler, part(), raw_path=b"/wait").run())
    await handler.started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handler.cancelled.is_set()


async def test_a_defect_is_told_without_its_text(handler, caplog):
    server = await Server(handler, part(), raw_path=b"/defect").run()
    assert (server.status, server.body) == (500, b'{"error":"Internal error."}')
    assert "a defect" in caplog.text


async def test_no_value_begins_another_header(handler):
    server = await Server(handler, part(), raw_path=b"/inject").run()
    assert server.headers[b"x-id"] == b"1set-cookie: a=b"


async def test_nobody_is_told_when_the_client_has_gone_before_its_answer(handler):
    server = Server(handler, part())

    async def send(message):
        raise OSError("gone")

    server.send = send
    await server.run()


async def test_the_lifespan_begins_at_once_and_ends_when_all_is_given_back():
    stopped = asyncio.Event()

    async def stop():
        stopped.set()

    server = Server(
        None, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}, type="lifespan"
    )
    server.application = AsgiApplication(None, max_body_bytes=MOST, stop=stop)
    await server.run()
    assert [each["type"] for each in server.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert stopped.is_set()


async def test_a_stop_that_fails_is_told():
    async def stop():
        raise RuntimeError("a defect")

    server = Server(None, {"type": "lifespan.shutdown"}, type="lifespan")
    server.application = AsgiApplication(None, max_body_bytes=MOST, stop=stop)
    await server.run()
    assert server.sent == [{"type": "lifespan.shutdown.failed", "message": "a defect"}]


async def test_a_websocket_is_closed_and_other_scopes_are_named(handler):
    server = await Server(handler, {"type": "websocket.connect"}, type="websocket").run()
    assert server.sent == [{"type": "websocket.close"}]
    with pytest.raises(ValueError, match="'smtp'"):
        await Server(handler, type="smtp").run()


async def test_an_answer_is_written_as_its_bytes():
    async def answer(request):
        return HttpResponse(201, (("x-name", "ü"),), b"\0\xff")

    server = await Server(answer, part(b"")).run()
    assert (server.status, server.body) == (201, b"\0\xff")
    assert server.headers[b"x-name"] == "ü".encode("latin-1")
