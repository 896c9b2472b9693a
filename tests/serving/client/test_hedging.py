"""A second attempt beside a slow one, against a real server that is slow when it is told to be."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving.client import AsyncClient, Client, Hedge, Retries
from serving.client.errors import NotReadyError

OK = b'{"model_version_status": []}'


class Slow(BaseHTTPRequestHandler):
    """Waits and answers as its plan says, one entry a request; then at once."""

    plan: list
    asked: list

    def do_GET(self):
        wait_s, status = self.plan.pop(0) if self.plan else (0, 200)
        self.asked.append(self.path)
        time.sleep(wait_s)
        body = OK if status == 200 else b'{"error": "loading"}'
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

    def handle(self):
        # The loser's connection may be gone when its answer is ready.
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True


@pytest.fixture
def slow():
    kind = type("Fresh", (Slow,), {"plan": [], "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kind.url = f"http://127.0.0.1:{server.server_port}"
        yield kind
        server.shutdown()
        thread.join()


def ask(url, form, **options):
    if form == "threads":
        with Client(url, protocol="tfs", **options) as client:
            return client.status("m")

    async def ask_async():
        async with AsyncClient(url, protocol="tfs", **options) as client:
            return await client.status("m")

    import asyncio

    return asyncio.run(ask_async())


@pytest.fixture(params=["threads", "asyncio"])
def form(request):
    return request.param


def test_a_slow_first_attempt_is_overtaken(slow, form):
    slow.plan = [(0.6, 200)]
    started = time.monotonic()
    ask(slow.url, form, hedge=Hedge(after_s=0.05))
    assert time.monotonic() - started < 0.4
    assert len(slow.asked) == 2


def test_a_fast_first_attempt_stays_alone(slow, form):
    ask(slow.url, form, hedge=Hedge(after_s=0.5))
    assert len(slow.asked) == 1


def test_a_refusal_of_the_second_does_not_win(slow, form):
    slow.plan = [(0.3, 200), (0, 503)]
    ask(slow.url, form, hedge=Hedge(after_s=0.05), retries=Retries(attempts=1))
    assert len(slow.asked) == 2


def test_two_refusals_are_one(slow, form):
    slow.plan = [(0.2, 503), (0, 503)]
    with pytest.raises(NotReadyError, match="loading"):
        ask(slow.url, form, hedge=Hedge(after_s=0.05), retries=Retries(attempts=1))


def test_without_budget_there_is_no_second(slow, form):
    slow.plan = [(0.2, 200)]
    ask(slow.url, form, hedge=Hedge(after_s=0.05), retries=Retries(burst=0, budget=0))
    assert len(slow.asked) == 1
