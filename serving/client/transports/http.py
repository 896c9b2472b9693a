"""HTTP connections: httpx2's pools, without the cookies, redirects and proxies of its clients."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import lru_cache
from typing import Any

import httpx2

from serving.client import tls as tls_files
from serving.client.address import Address
from serving.client.core import Send
from serving.client.deadline import Deadline
from serving.client.errors import ClientError, TransportError, UsageError
from serving.client.exchange import Buffer, Reply
from serving.client.settings import Tls

# Connections kept open between calls.
MOST_CONNECTIONS = 128


class _Http:
    """What both forms share."""

    def __init__(self, address: Address, tls: Tls) -> None:
        self._address = address
        self._base = httpx2.URL(f"{address.scheme}://{address.authority}")
        self._server_name = tls.server_name
        # A few paths a model; parsing them anew would take a tenth of a call.
        self._url = lru_cache(maxsize=256)(self._parse)
        self._is_closed = False

    def _request(self, step: Send) -> httpx2.Request:
        if self._is_closed:
            raise UsageError("The client is closed.")
        asked = step.request
        headers = [("host", self._address.authority), *asked.headers, *step.headers]
        if asked.body:
            headers.append(("content-length", str(sum(map(len, asked.body)))))
        extensions: dict[str, Any] = {"timeout": _Timeouts(step.deadline)}
        if self._server_name is not None:
            extensions["sni_hostname"] = self._server_name
        return httpx2.Request(
            asked.method,
            self._url(asked.path),
            headers=headers,
            stream=_Pieces(asked.body),
            extensions=extensions,
        )

    def _parse(self, path: str) -> httpx2.URL:
        return self._base.copy_with(raw_path=f"{self._address.prefix}{path}".encode("ascii"))

    def _failure(self, error: Exception, deadline: Deadline) -> ClientError:
        authority = self._address.authority
        match error:
            case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
                return deadline.error("connecting")
            case httpx2.TimeoutException() | TimeoutError():
                return deadline.error("waiting for the answer")
            case httpx2.ConnectError():
                words = str(error) or type(error).__name__
                what = tls_files.hint(words, "REST", is_encrypted=self._address.is_encrypted)
                return TransportError(f"No connection to {authority}: {words}. {what}")
            case _ if self._is_closed:
                return UsageError("The client was closed during the call.")
            case _:
                return TransportError(
                    f"The connection to {authority} broke: {error or type(error).__name__}.",
                    is_sent=True,
                )


class _Timeouts(dict[str, float | None]):
    """Every phase of a request, from waiting for a connection on, has what is left of the call."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline

    def get(self, key: str, default: Any = None) -> Any:
        """The seconds left; at least a little, since zero would mean "do not wait"."""
        del key, default
        left = self._deadline.remaining_s()
        return None if left is None else max(left, 1e-3)


def _settings(address: Address, tls: Tls) -> dict[str, Any]:
    return {
        "verify": tls_files.context(tls) if address.is_encrypted else False,
        "limits": httpx2.Limits(
            max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS
        ),
        # A proxy from the environment must not see a call to a server that was named by hand.
        "trust_env": False,
    }


class _Pieces(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body in pieces: a tensor goes from its array to the socket."""

    def __init__(self, pieces: tuple[Buffer, ...]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces  # type: ignore[misc]  # the pool takes any buffer of bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


class HttpTransport(_Http):
    """HTTP for threads."""

    def __init__(self, address: Address, tls: Tls) -> None:
        super().__init__(address, tls)
        self._pool = httpx2.HTTPTransport(**_settings(address, tls))

    def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        step.deadline.require_s("connecting")
        request = self._request(step)
        try:
            response = self._pool.handle_request(request)
            try:
                body = []
                for piece in response.iter_bytes():
                    body.append(piece)
                    # A server that drips its answer is not waited for piece by piece.
                    step.deadline.require_s("reading the answer")
            finally:
                response.close()
        except (httpx2.HTTPError, RuntimeError, OSError) as error:
            raise self._failure(error, step.deadline) from error
        return Reply(response.status_code, b"".join(body), dict(response.headers))

    def close(self) -> None:
        """Closes the connections."""
        self._is_closed = True
        self._pool.close()


class AsyncHttpTransport(_Http):
    """HTTP for asyncio."""

    def __init__(self, address: Address, tls: Tls) -> None:
        super().__init__(address, tls)
        self._pool = httpx2.AsyncHTTPTransport(**_settings(address, tls))

    async def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        left = step.deadline.require_s("connecting")
        request = self._request(step)
        try:
            async with asyncio.timeout(left):
                response = await self._pool.handle_async_request(request)
                try:
                    body = await response.aread()
                finally:
                    await response.aclose()
        except (httpx2.HTTPError, RuntimeError, OSError) as error:
            raise self._failure(error, step.deadline) from error
        return Reply(response.status_code, body, dict(response.headers))

    async def close(self) -> None:
        """Closes the connections."""
        self._is_closed = True
        await self._pool.aclose()
