"""gRPC through grpcio's asyncio server: bytes in, bytes out, methods by path."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from serving.transport import (
    GrpcHandler,
    GrpcRequest,
    GrpcResponse,
    GrpcRoutes,
    GrpcWatch,
    GrpcWatches,
)

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioListener:
    """Accepts gRPC connections.

    Args:
        routes: Answers the unary methods.
        addresses: "host:port" first, where port 0 lets the system choose; then "unix:PATH".
        max_message_bytes: A larger request is refused with RESOURCE_EXHAUSTED.
        streams: Answers each message of a stream.
        watches: Answer one request again and again.
        max_in_flight: Messages of one stream that are answered at the same time; the next one is
            read when the oldest has its answer.
        max_streams: Calls open at the same time on one connection.
        credentials: The server's key and certificate and who signs clients' ("" for nobody), in
            PEM; None for plain connections. Unix sockets stay plain.
        requires_client: Whether a client must show a certificate.

    Raises:
        OSError: an address cannot be bound.
    """

    def __init__(
        self,
        routes: GrpcRoutes,
        addresses: Sequence[str],
        *,
        max_message_bytes: int,
        streams: GrpcRoutes | None = None,
        watches: GrpcWatches | None = None,
        max_in_flight: int = 16,
        max_streams: int = 1024,
        credentials: tuple[str, str, str] | None = None,
        requires_client: bool = False,
    ) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", max_streams),
                # Two servers on one port would share its connections by chance.
                ("grpc.so_reuseport", 0),
            ]
        )
        handlers = {
            path: grpc.unary_unary_rpc_method_handler(_unary(handler))
            for path, handler in routes.items()
        }
        for path, handler in (streams or {}).items():
            handlers[path] = grpc.stream_stream_rpc_method_handler(_stream(handler, max_in_flight))
        for path, watch in (watches or {}).items():
            handlers[path] = grpc.unary_stream_rpc_method_handler(_watch(watch))
        self._server.add_generic_rpc_handlers((_Methods(handlers),))
        self.port = 0
        for address in addresses:
            try:
                if credentials is None or address.startswith("unix:"):
                    port = self._server.add_insecure_port(address)
                else:
                    key, certificate, authority = (each.encode() for each in credentials)
                    port = self._server.add_secure_port(
                        address,
                        grpc.ssl_server_credentials(
                            [(key, certificate)], authority or None, requires_client
                        ),
                    )
            except RuntimeError as error:
                raise OSError(f"{address} cannot be bound") from error
            self.port = self.port or int(port)

    async def start(self) -> None:
        """Accepts connections from here on."""
        await self._server.start()

    async def stop(self, limit_s: float) -> None:
        """Accepts nothing more and waits for what has begun, at most so long."""
        await self._server.stop(limit_s)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method, or None."""
        return self._handlers.get(handler_call_details.method)


def _request(body: bytes, context: Any) -> GrpcRequest:
    received = time.monotonic()
    remaining = context.time_remaining()
    return GrpcRequest(
        body=body,
        metadata={
            key: value
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        },
        deadline=None if remaining is None else received + remaining,
        received=received,
    )


def _unary(handler: GrpcHandler) -> Any:
    async def call(body: bytes, context: Any) -> bytes:
        response = await handler(_request(body, context))
        if response.trailers:
            context.set_trailing_metadata(response.trailers)
        if response.code:
            await context.abort(_CODES[response.code], response.message)
        return response.body

    return call


def _stream(handler: GrpcHandler, max_in_flight: int) -> Any:
    async def call(messages: Any, context: Any) -> AsyncIterator[bytes]:
        begun: asyncio.Queue[asyncio.Task[GrpcResponse] | None] = asyncio.Queue()
        room = asyncio.Semaphore(max_in_flight)
        tasks: set[asyncio.Task[Any]] = set()

        def start(coroutine: Any) -> Any:
            task = asyncio.create_task(coroutine)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        async def read() -> None:
            try:
                async for body in messages:
                    await room.acquire()
                    begun.put_nowait(start(handler(_request(body, context))))
            finally:
                begun.put_nowait(None)

        reader = start(read())
        try:
            # The oldest first, however soon the others are done.
            while (task := await begun.get()) is not None:
                response = await task
                if response.code:
                    await context.abort(_CODES[response.code], response.message)
                yield response.body
                room.release()
            await reader
        finally:
            for each in tuple(tasks):
                each.cancel()

    return call


def _watch(watch: GrpcWatch) -> Any:
    async def call(body: bytes, context: Any) -> AsyncIterator[bytes]:
        async for answer in watch(_request(body, context)):
            yield answer

    return call
