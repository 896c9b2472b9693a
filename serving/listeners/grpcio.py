"""gRPC through grpcio's asyncio server: bytes in, bytes out, methods by path."""

import time
from typing import Any

import grpc

from serving.transport import GrpcRequest, GrpcRoutes

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioListener:
    """Accepts gRPC connections.

    Args:
        routes: Answers the methods.
        address: "host:port"; port 0 lets the system choose.
        max_message_bytes: A larger request is refused with RESOURCE_EXHAUSTED.
    """

    def __init__(self, routes: GrpcRoutes, address: str, *, max_message_bytes: int) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two servers on one port would share its connections by chance.
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers((_Methods(routes),))
        try:
            self.port = int(self._server.add_insecure_port(address))
        except RuntimeError as error:
            raise OSError(f"cannot bind {address}") from error

    async def start(self) -> None:
        """Accepts connections from here on."""
        await self._server.start()

    async def stop(self, limit_s: float) -> None:
        """Accepts nothing more and waits for what has begun, at most so long."""
        await self._server.stop(limit_s)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, routes: GrpcRoutes) -> None:
        self._handlers = {
            path: grpc.unary_unary_rpc_method_handler(_unary(handler))
            for path, handler in routes.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a method, or None."""
        return self._handlers.get(handler_call_details.method)


def _unary(handler: Any) -> Any:
    async def call(body: bytes, context: Any) -> bytes:
        received = time.monotonic()
        remaining = context.time_remaining()
        response = await handler(
            GrpcRequest(
                body=body,
                metadata={
                    key: value
                    for key, value in context.invocation_metadata() or ()
                    if isinstance(value, str)
                },
                deadline=None if remaining is None else received + remaining,
                received=received,
            )
        )
        if response.trailers:
            context.set_trailing_metadata(response.trailers)
        if response.code:
            await context.abort(_CODES[response.code], response.message)
        answer: bytes = response.body
        return answer

    return call
