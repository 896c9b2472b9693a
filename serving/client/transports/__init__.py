"""Connections: sockets and httptools for HTTP, grpcio for gRPC; one form for threads, one for asyncio each.

A transport carries `Send` steps and gives replies. It knows nothing of what they mean.
"""

from typing import Protocol

from serving.client.address import Address
from serving.client.core import Send
from serving.client.exchange import Reply
from serving.client.settings import Tls


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


def open_transport(address: Address, tls: Tls) -> Transport:
    """A transport for threads; it connects when it is first used."""
    if address.is_grpc:
        from serving.client.transports.grpc import GrpcTransport

        return GrpcTransport(address, tls)
    from serving.client.transports.http import HttpTransport

    return HttpTransport(address, tls)


def open_async_transport(address: Address, tls: Tls) -> AsyncTransport:
    """A transport for asyncio; it connects when it is first used."""
    if address.is_grpc:
        from serving.client.transports.grpc import AsyncGrpcTransport

        return AsyncGrpcTransport(address, tls)
    from serving.client.transports.http import AsyncHttpTransport

    return AsyncHttpTransport(address, tls)
