"""The composition root: settings -> repository -> service -> protocols -> listening; then drain."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.config import Settings, require_base_path
from serving.core.batching import Batching
from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.errors import ConfigError
from serving.listeners.grpcio import GrpcioListener
from serving.listeners.uvicorn import UvicornListener
from serving.protocols.grpc import build_grpc, build_grpc_streams, build_grpc_watches
from serving.protocols.http import build_http

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Raises:
        ConfigError: the base path or a port cannot be used.
    """
    import uvloop

    require_base_path(settings.base_path)
    with (
        contextlib.closing(bind(settings.host, settings.rest_port, "--rest-port")) as rest,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, rest))


def bind(host: str, port: int, option: str) -> socket.socket:
    """A bound TCP socket that does not listen yet.

    Raises:
        ConfigError: the port is in use, or the host is not this machine's.
    """
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, number)
    except OSError as error:
        raise ConfigError(f"{host!r} is no address to listen on: {error.strerror}.") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"Port {port} on {host} cannot be used: {error.strerror}. "
            f"Choose another with {option}; 0 takes a free one."
        ) from error
    return bound


async def _serve(settings: Settings, rest: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)

    decoders = ThreadPoolExecutor(thread_name_prefix="decode")

    def load(model: str, version: int, path: Path) -> Servable:
        return Servable(
            model,
            version,
            path,
            engine=settings.engine,
            batching=Batching(
                max_rows=settings.max_batch_rows, max_queued_rows=settings.max_queued_rows
            ),
            decoders=decoders,
        )

    repository = Repository(
        settings.base_path,
        load,
        model_name=settings.model_name,
        drain_limit_s=settings.drain_limit_s,
    )
    service = Service(repository, default_timeout_s=settings.default_timeout_s)
    http = UvicornListener(
        build_http(service),
        rest,
        max_body_bytes=settings.max_request_bytes,
        drain_limit_s=settings.drain_limit_s,
    )
    # Bound before anything is loaded, so that a port in use is told at once.
    grpc = _grpc(settings, service)
    await repository.refresh()
    if not repository.models():
        log.warning("no model under %s yet; waiting for one", settings.base_path)
    service.open()
    await grpc.start()
    serving = asyncio.create_task(http.serve())
    polling = asyncio.create_task(_poll(repository, settings.poll_interval_s))
    try:
        while not http.is_listening and not serving.done():
            await asyncio.sleep(0.001)
        rest_port = rest.getsockname()[1]
        log.info("ready: REST on port %d, gRPC on port %d", rest_port, grpc.port)
        _write_ready_file(settings.ready_file, rest_port, grpc.port)
        await asyncio.wait(
            [serving, polling, asyncio.create_task(stop.wait())],
            return_when=asyncio.FIRST_COMPLETED,
        )
    finally:
        log.info("draining: %d requests are being answered", service.active)
        service.drain()
        polling.cancel()
        http.stop()
        await asyncio.gather(
            grpc.stop(settings.drain_limit_s), serving, polling, return_exceptions=True
        )
        await repository.close()
        decoders.shutdown()
        log.info("stopped")


def _grpc(settings: Settings, service: Service) -> GrpcioListener:
    # grpcio says only that binding failed; this says why.
    bind(settings.host, settings.grpc_port, "--grpc-port").close()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        return GrpcioListener(
            build_grpc(service),
            f"{host}:{settings.grpc_port}",
            max_message_bytes=settings.max_request_bytes,
            streams=build_grpc_streams(service),
            watches=build_grpc_watches(service),
        )
    except OSError as error:
        raise ConfigError(
            f"Port {settings.grpc_port} on {settings.host} cannot be used. "
            "Choose another with --grpc-port; 0 takes a free one."
        ) from error


async def _poll(repository: Repository, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await repository.refresh()
        except Exception:
            # The next look may go better; what serves goes on serving.
            log.exception("looking at the base path failed")


def _write_ready_file(path: Path | None, rest_port: int, grpc_port: int) -> None:
    if path is None:
        return
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps({"rest_port": rest_port, "grpc_port": grpc_port}))
    partial.replace(path)
