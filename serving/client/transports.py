"""Connections: httpx2 for HTTP, grpcio for gRPC; one form for threads, one for asyncio each.

A transport carries `Send` steps and gives replies. It knows nothing of what they mean.
"""

import json
import os
import re
from typing import Any, Protocol

from serving.client.address import Address
from serving.client.core import Send
from serving.client.deadline import Deadline
from serving.client.errors import ClientError, TransportError, UsageError
from serving.client.exchange import Reply
from serving.client.settings import Tls

# gRPC by itself waits up to two minutes before it looks again for a server that was gone, and
# refuses answers above 4 MiB. Retries are this package's, which knows deadlines and budgets.
GRPC_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # One name may stand for several replicas: ask them in turn.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
)
CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE = 1, 4, 14

# Connections kept open between calls.
MOST_CONNECTIONS = 128


class Transport(Protocol):
    """Carries requests for threads."""

    def send(self, step: Send) -> Reply:
        """Brings the reply.

        Raises:
            TransportError: no connection, or it broke.
            DeadlineError: not in time.
        """
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


class AsyncTransport(Protocol):
    """Carries requests for asyncio."""

    async def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


# --- HTTP ---------------------------------------------------------------------------------------


class HttpTransport:
    """HTTP for threads."""

    def __init__(self, address: Address, tls: Tls) -> None:
        import httpx2

        self._address = address
        self._client = httpx2.Client(**_http_settings(address, tls))

    def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        import httpx2

        try:
            response = self._client.request(**_http_request(self._address, step))
        except (httpx2.HTTPError, RuntimeError) as error:
            raise _http_failure(error, self._address, step.deadline) from error
        return Reply(response.status_code, response.content, dict(response.headers))

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


class AsyncHttpTransport:
    """HTTP for asyncio."""

    def __init__(self, address: Address, tls: Tls) -> None:
        import httpx2

        self._address = address
        self._client = httpx2.AsyncClient(**_http_settings(address, tls))

    async def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        import httpx2

        try:
            response = await self._client.request(**_http_request(self._address, step))
        except (httpx2.HTTPError, RuntimeError) as error:
            raise _http_failure(error, self._address, step.deadline) from error
        return Reply(response.status_code, response.content, dict(response.headers))

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _http_settings(address: Address, tls: Tls) -> dict[str, Any]:
    import httpx2

    from serving.client import tls as tls_files

    return {
        "base_url": f"{address.scheme}://{address.authority}{address.prefix}",
        "verify": tls_files.context(tls) if address.is_encrypted else False,
        "timeout": None,
        "limits": httpx2.Limits(
            max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS
        ),
        # A proxy from the environment must not see a call to a server that was named by hand.
        "trust_env": False,
    }


def _http_request(address: Address, step: Send) -> dict[str, Any]:
    request = step.request
    return {
        "method": request.method,
        "url": f"{address.scheme}://{address.authority}{address.prefix}{request.path}",
        "content": b"".join(request.body) if request.body else None,
        "headers": [*request.headers, *step.headers],
        "timeout": step.deadline.require_s("connecting"),
    }


def _http_failure(error: Exception, address: Address, deadline: Deadline) -> ClientError:
    import httpx2

    match error:
        case httpx2.TimeoutException():
            is_connecting = isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout)
            return deadline.error("connecting" if is_connecting else "waiting for the answer")
        case httpx2.ConnectError():
            return TransportError(
                f"No connection to {address.authority}: {error or type(error).__name__}. "
                "Is the server running, and is this its REST port?"
            )
        case RuntimeError():
            return UsageError(f"The client is closed: {error}")
        case _:
            return TransportError(
                f"The connection to {address.authority} broke: {error or type(error).__name__}",
                is_sent=True,
            )


# --- gRPC ---------------------------------------------------------------------------------------


class _GrpcChannel:
    """What both forms share: one channel, made when it is first used."""

    def __init__(self, address: Address, tls: Tls) -> None:
        self._address = address
        self._tls = tls
        self._options = list(GRPC_OPTIONS)
        if tls.server_name is not None:
            self._options.append(("grpc.ssl_target_name_override", tls.server_name))
        self._channel: Any = None
        self._methods: dict[str, Any] = {}
        self._process = os.getpid()

    def _method(self, path: str, module: Any) -> Any:
        found = self._methods.get(path)
        if found is not None:
            return found
        if os.getpid() != self._process:
            raise UsageError(
                "A gRPC client does not survive a fork: make it in the process that uses it."
            )
        if self._channel is None:
            # Not before the first call: an asyncio channel belongs to the loop it was made in.
            target = f"dns:///{self._address.authority}"
            if self._address.is_encrypted:
                from serving.client import tls as tls_files

                credentials = tls_files.credentials(self._tls)
                self._channel = module.secure_channel(target, credentials, self._options)
            else:
                self._channel = module.insecure_channel(target, self._options)
        self._methods[path] = made = self._channel.unary_unary(path)
        return made

    def _failure(self, error: Any, deadline: Deadline) -> Reply:
        """The status a server sent; raises when it is gRPC's own."""
        code = int(error.code().value[0])
        details = error.details() or ""
        if (own := self._own_failure(code, details, deadline)) is not None:
            raise own from error
        return Reply(code, headers=_texts(error.trailing_metadata()), message=details)

    def _own_failure(self, code: int, details: str, deadline: Deadline) -> ClientError | None:
        authority = self._address.authority
        brief = details.rsplit("; last error: ", maxsplit=1)[-1][:300].rstrip(".")
        if code == DEADLINE_EXCEEDED:
            return deadline.error("waiting for the answer")
        if code == UNAVAILABLE and _NOT_CONNECTED.search(details):
            return TransportError(
                f"No connection to {authority}: {brief}. "
                "Is the server running, and is this its gRPC port?"
            )
        if code == UNAVAILABLE and _BROKEN.search(details):
            return TransportError(f"The connection to {authority} broke: {brief}.", is_sent=True)
        if code == CANCELLED and "hannel" in details:
            return UsageError("The client was closed during the call.")
        return None


# gRPC gives its own failures and the server's the same codes; only its words tell them apart.
_NOT_CONNECTED = re.compile(
    r"failed to connect|name resolution|dns resolution|no address|handshake", re.IGNORECASE
)
_BROKEN = re.compile(
    r"socket closed|connection reset|goaway|broken pipe|recvmsg|sendmsg|transport", re.IGNORECASE
)


def _texts(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


class GrpcTransport(_GrpcChannel):
    """gRPC for threads."""

    def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        import grpc

        method = self._method(step.request.path, grpc)
        try:
            answer, call = method.with_call(
                b"".join(step.request.body),
                timeout=step.deadline.require_s("connecting"),
                metadata=step.headers,
            )
        except grpc.RpcError as error:
            return self._failure(error, step.deadline)
        except ValueError as error:
            raise UsageError(f"gRPC refused the call: {error}") from error
        return Reply(0, answer, _texts(call.trailing_metadata()))

    def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        if self._channel is not None:
            self._channel.close()


class AsyncGrpcTransport(_GrpcChannel):
    """gRPC for asyncio."""

    async def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        import grpc

        method = self._method(step.request.path, grpc.aio)
        try:
            call = method(
                b"".join(step.request.body),
                timeout=step.deadline.require_s("connecting"),
                metadata=step.headers,
            )
            answer = await call
            trailers = _texts(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            return self._failure(error, step.deadline)
        except (ValueError, grpc.aio.UsageError) as error:
            raise UsageError(f"gRPC refused the call: {error}") from error
        return Reply(0, answer, trailers)

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        if self._channel is not None:
            await self._channel.close()
