"""gRPC connections on grpcio, for threads and for asyncio."""

import asyncio
import json
import os
import re
from typing import Any

import grpc

from serving.client import tls as tls_files
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
    ("grpc.max_reconnect_backoff_ms", 2000),
    # One name may stand for several replicas: ask them in turn.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
)
CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE = 1, 4, 14


class _GrpcChannel:
    """What both forms share: one channel, made when it is first used."""

    def __init__(self, address: Address, tls: Tls, module: Any) -> None:
        self._module = module
        self._address = address
        if address.is_encrypted:
            tls_files.check(tls)
        self._tls = tls
        self._options = list(GRPC_OPTIONS)
        if tls.server_name is not None:
            self._options.append(("grpc.ssl_target_name_override", tls.server_name))
        self._is_closed = False
        self._channel: Any = None
        self._methods: dict[str, Any] = {}
        self._process = os.getpid()

    def _method(self, path: str) -> Any:
        if self._is_closed:
            raise UsageError("The client is closed.")
        if os.getpid() != self._process:
            raise UsageError(
                "A gRPC client does not survive a fork: make it in the process that uses it."
            )
        found = self._methods.get(path)
        if found is not None:
            return found
        if self._channel is None:
            # Not before the first call: an asyncio channel belongs to the loop it was made in.
            target = f"dns:///{self._address.authority}"
            if self._address.is_encrypted:
                credentials = tls_files.credentials(self._tls)
                self._channel = self._module.secure_channel(target, credentials, self._options)
            else:
                self._channel = self._module.insecure_channel(target, self._options)
        self._methods[path] = made = self._channel.unary_unary(path)
        return made

    def _failure(self, error: Any, deadline: Deadline) -> Reply:
        """The status a server sent; raises when it is gRPC's own."""
        code = int(error.code().value[0])
        details = error.details() or ""
        if (own := self._own_failure(code, details, deadline)) is not None:
            raise own from error
        return Reply(code, b"", _texts(error.trailing_metadata()), details, error)

    def _own_failure(self, code: int, details: str, deadline: Deadline) -> ClientError | None:
        authority = self._address.authority
        brief = details.rsplit("; last error: ", maxsplit=1)[-1][:300].rstrip(".")
        if code == DEADLINE_EXCEEDED:
            return deadline.error("waiting for the answer")
        if code == UNAVAILABLE and _NOT_CONNECTED.search(details):
            what = tls_files.hint(brief, "gRPC", is_encrypted=self._address.is_encrypted)
            return TransportError(f"No connection to {authority}: {brief}. {what}")
        if code == UNAVAILABLE and _BROKEN.search(details):
            return TransportError(f"The connection to {authority} broke: {brief}.", is_sent=True)
        if code == CANCELLED and "hannel" in details:
            return UsageError("The client was closed during the call.")
        return None


# gRPC gives its own failures and the server's the same codes; only its words tell them apart.
_NOT_CONNECTED = re.compile(
    r"all backends failing|failed to connect|name resolution|dns resolution|no address|handshake"
    r"|errors resolving|hostname lookup|domain name not found",
    re.IGNORECASE,
)
_BROKEN = re.compile(
    r"socket closed|connection reset|goaway|broken pipe|recvmsg|sendmsg|transport", re.IGNORECASE
)


def _texts(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


class GrpcTransport(_GrpcChannel):
    """gRPC for threads."""

    def __init__(self, address: Address, tls: Tls) -> None:
        super().__init__(address, tls, grpc)

    def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        method, headers = self._method(step.request.path), step.headers or None
        body, left = b"".join(step.request.body), step.deadline.require_s("connecting")
        try:
            if step.request.id:
                # The answer says itself what the trailers would.
                return Reply(0, method(body, timeout=left, metadata=headers))
            answer, call = method.with_call(body, timeout=left, metadata=headers)
        except self._module.RpcError as error:
            return self._failure(error, step.deadline)
        except ValueError as error:
            raise UsageError(f"gRPC refused the call: {error}") from error
        return Reply(0, answer, _texts(call.trailing_metadata()))

    def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        self._is_closed = True
        self._methods.clear()
        if self._channel is not None:
            self._channel.close()


class AsyncGrpcTransport(_GrpcChannel):
    """gRPC for asyncio."""

    def __init__(self, address: Address, tls: Tls) -> None:
        super().__init__(address, tls, grpc.aio)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        self._adopt_loop()
        method = self._method(step.request.path)
        try:
            call = method(
                b"".join(step.request.body),
                timeout=step.deadline.require_s("connecting"),
                metadata=step.headers,
            )
            answer = await call
            trailers = _texts(await call.trailing_metadata())
        except self._module.AioRpcError as error:
            return self._failure(error, step.deadline)
        except (ValueError, self._module.UsageError) as error:
            raise UsageError(f"gRPC refused the call: {error}") from error
        return Reply(0, answer, trailers)

    def _adopt_loop(self) -> None:
        """Forgets the channel of another loop, most often one that has ended."""
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop = loop
            self._channel = None
            self._methods.clear()

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        self._adopt_loop()
        self._is_closed = True
        self._methods.clear()
        if self._channel is not None:
            await self._channel.close()
