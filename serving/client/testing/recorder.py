"""Real answers, kept in a file and given again without the server."""

import base64
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serving.client import address as addresses
from serving.client.async_client import AsyncClient
from serving.client.client import Client
from serving.client.core import Send
from serving.client.errors import UsageError
from serving.client.exchange import (
    FIELD_HEADER,
    OUTCOME_HEADER,
    REQUEST_ID_HEADER,
    TIMINGS_HEADER,
    Reply,
)
from serving.client.settings import Tls
from serving.client.transports import (
    AsyncTransport,
    Transport,
    open_async_transport,
    open_transport,
)

# Of a reply's headers, those that the client reads; the rest may hold secrets and dates.
KEPT = frozenset(
    (
        *("content-type", "inference-header-content-length", "retry-after"),
        *("grpc-retry-pushback-ms", REQUEST_ID_HEADER, FIELD_HEADER, TIMINGS_HEADER),
        OUTCOME_HEADER,
    )
)


class Recorder:
    """Asks a server when the file is not there yet, and the file from then on.

        with Recorder("tests/digits.json", "http://localhost:8501") as recorder:
            with recorder.client() as client:
                client.classify("lenet5", "digit.png")

    Requests are known by method, path and body; the same request asked twice gives its answers
    in order, and its last one from then on. Request headers, tokens among them, are not kept.

    Args:
        path: The file, JSON. Remove it to record anew.
        url: The server to record.
    """

    def __init__(self, path: str | Path, url: str) -> None:
        self._path = Path(path)
        self._url = url
        self.is_recording = not self._path.exists()
        self._kept: list[dict[str, Any]] = []
        self._given: dict[tuple[str, str, str], int] = {}
        if not self.is_recording:
            self._kept = json.loads(self._path.read_text())["exchanges"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What was recorded before a test failed is not what the test is about.
        if kind is None:
            self.save()

    def save(self) -> None:
        """Writes the file, when something was recorded."""
        if self.is_recording:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps({"exchanges": self._kept}, indent=1) + "\n")

    def client(self, *, tls: Tls | None = None, **options: Any) -> Client:
        """A `Client` that records or replays; the options are those of `Client`."""
        address = addresses.parse(self._url)
        inner = open_transport(address, tls or Tls()) if self.is_recording else None
        return Client(self._url, transport=_Threads(self, inner), **options)

    def async_client(self, *, tls: Tls | None = None, **options: Any) -> AsyncClient:
        """An `AsyncClient` that records or replays; the options are those of `AsyncClient`."""
        address = addresses.parse(self._url)
        inner = open_async_transport(address, tls or Tls()) if self.is_recording else None
        return AsyncClient(self._url, transport=_Tasks(self, inner), **options)

    def keep(self, step: Send, reply: Reply) -> Reply:
        """Records one exchange."""
        method, path, body = _key(step)
        self._kept.append(
            {
                "method": method,
                "path": path,
                "body": body,
                "status": reply.status,
                "message": reply.message,
                "headers": {name: each for name, each in reply.headers.items() if name in KEPT},
                "answer": base64.b64encode(reply.body).decode(),
            }
        )
        return reply

    def replay(self, step: Send) -> Reply:
        """Gives a recorded answer.

        Raises:
            UsageError: this was never asked while recording.
        """
        key = _key(step)
        same = [each for each in self._kept if (each["method"], each["path"], each["body"]) == key]
        if not same:
            known = ", ".join(dict.fromkeys(each["path"] for each in self._kept)) or "nothing"
            raise UsageError(
                f"{self._path} has no answer for this {step.request.path}: another input was "
                f"sent than when it was recorded ({known}). Remove the file to record anew."
            )
        turn = self._given.get(key, 0)
        self._given[key] = turn + 1
        kept = same[min(turn, len(same) - 1)]
        return Reply(
            kept["status"], base64.b64decode(kept["answer"]), kept["headers"], kept["message"]
        )


def _key(step: Send) -> tuple[str, str, str]:
    request = step.request
    # The id of a call is another each time.
    body = b"".join(request.body)
    if request.id:
        body = body.replace(request.id.encode(), b"")
    return request.method, request.path, base64.b64encode(body).decode()


class _Threads:
    def __init__(self, recorder: Recorder, inner: Transport | None) -> None:
        self._recorder = recorder
        self._inner = inner

    def send(self, step: Send) -> Reply:
        if self._inner is None:
            return self._recorder.replay(step)
        return self._recorder.keep(step, self._inner.send(step))

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()


class _Tasks:
    def __init__(self, recorder: Recorder, inner: AsyncTransport | None) -> None:
        self._recorder = recorder
        self._inner = inner

    async def send(self, step: Send) -> Reply:
        if self._inner is None:
            return self._recorder.replay(step)
        return self._recorder.keep(step, await self._inner.send(step))

    async def close(self) -> None:
        if self._inner is not None:
            await self._inner.close()
