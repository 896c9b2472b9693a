"""The composition root: settings -> repository -> service -> protocols -> listening; then drain."""

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving.config import Settings, require_base_path
from serving.core.administration import Administration
from serving.core.drift import DriftLog, DriftSettings
from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.service import Service
from serving.core.shelves import Shelves
from serving.core.sources import BasePath, Configured, Source
from serving.errors import ConfigError, ServingError
from serving.limits import LIMITS
from serving.listeners.grpc import CredentialsError, GrpcListener
from serving.listeners.http1 import HttpListener
from serving.messages import ModelSettings, VersionOptions
from serving.metrics import Metrics
from serving.model_config import read_config
from serving.observe import Observer
from serving.protocols.grpc import build_grpc, build_grpc_streams, build_grpc_watches
from serving.protocols.http import build_http
from serving.tracing import OpenTelemetryTracer
from serving.transport import HttpHandler
from zoo.errors import ConvzooError

log = logging.getLogger(__name__)

# Whether a client is still there is asked when it has been silent for so long.
KEEP_ALIVE_AFTER_S = 300

FileState = tuple[int, int, int]


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Raises:
        ConfigError: the base path, the configuration or a port cannot be used.
    """
    import uvloop

    _require_ready_file(settings.ready_file)
    if settings.rest_port and settings.rest_port == settings.grpc_port:
        raise ConfigError(
            f"REST and gRPC cannot share port {settings.rest_port}; choose another --grpc-port."
        )
    spans = settings.otlp_endpoint
    if spans and not spans.startswith(("http://", "https://")):
        raise ConfigError(f"--otlp-endpoint is {spans!r}; e.g. http://HOST:4318/v1/traces works.")
    # Before it is read: what changes while models load is a change.
    config_state = state_of(settings.config)
    source = source_of(settings)
    drift = drift_of(settings)
    with contextlib.ExitStack() as stack:
        rest = None
        if settings.rest_port is not None:
            rest = stack.enter_context(
                contextlib.closing(bind(settings.host, settings.rest_port, "--rest-port"))
            )
        grpc = [stack.enter_context(contextlib.closing(each)) for each in _grpc_sockets(settings)]
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(_serve(settings, source, drift, rest, grpc, config_state))


def _grpc_sockets(settings: Settings) -> Iterator[socket.socket]:
    if settings.grpc_port is not None:
        yield bind(settings.host, settings.grpc_port, "--grpc-port")
    if settings.grpc_socket is not None:
        yield bind_unix(settings.grpc_socket)


def source_of(settings: Settings) -> Source:
    """Where the models come from; a configuration file sets the limits too.

    Raises:
        ConfigError: there is no such place, or the file is wrong.
    """
    if settings.config is not None:
        config = read_config(settings.config, settings.options)
        LIMITS.change(**config.limits)
        return Configured(config.models)
    if settings.models:
        return Configured(settings.models)
    if settings.base_path is None:
        raise ConfigError("There is nothing to serve: --base-path or --config says what.")
    require_base_path(settings.base_path)
    return BasePath(
        settings.base_path, settings.model_name, only=settings.only, options=settings.options
    )


def drift_of(settings: Settings) -> DriftSettings | None:
    """The log of drift; what the command line says goes before the configuration file.

    Raises:
        ConfigError: the file is wrong.
    """
    if settings.drift is not None or settings.config is None:
        return settings.drift
    return read_config(settings.config).drift


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
        # Connections inherit it. A gRPC client may be silent for days; one whose machine has gone
        # would count against the most connections until the server ends.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_AFTER_S)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"Port {port} on {host} cannot be used: {error.strerror}. "
            f"Choose another with {option}; 0 takes a free one."
        ) from error
    return bound


def bind_unix(path: Path) -> socket.socket:
    """A bound socket of the file system; one at which nobody listens any more makes room.

    Raises:
        ConfigError: somebody listens there, or there can be no socket.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            # A server that was killed leaves its own behind.
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                try:
                    asking.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        # A path that is too long is no error of the system's.
        reason = error.strerror or error
        raise ConfigError(f"{path} cannot be a socket for gRPC: {reason}.") from error
    return bound


async def _serve(
    settings: Settings,
    source: Source,
    drift: DriftSettings | None,
    rest: socket.socket | None,
    grpc_sockets: Sequence[socket.socket],
    config_state: FileState | None,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Who started it with nohup wants it to outlive the terminal.
        if signal.getsignal(name) is not signal.SIG_IGN:
            loop.add_signal_handler(name, stop.set)

    core = Core(settings, source, drift)
    http = _http(core, rest)
    grpc = _grpc(core, grpc_sockets)
    _look_at_less_garbage()
    try:
        await _load(core, stop)
        if not stop.is_set():
            core.service.open()
            rest_port = rest.getsockname()[1] if rest else None
            grpc_port = grpc_sockets[0].getsockname()[1] if settings.grpc_port is not None else None
            await _listen(grpc, http)
            log.info("ready: REST on port %s, gRPC on port %s", rest_port, grpc_port)
            _write_ready_file(settings.ready_file, rest_port, grpc_port)
            await _follow_until(stop, core.follow(config_state))
    finally:
        # Until the last answer is out, who comes gets a clear refusal and not a closed door.
        await core.drain()
        ending = [each.stop(settings.drain_limit_s) for each in (http, grpc) if each is not None]
        results = await asyncio.gather(*ending, return_exceptions=True)
        await core.close()
        for each in results:
            if isinstance(each, Exception):
                log.error("while stopping: %s", each, exc_info=each)
        log.info("stopped")


class Core:
    """All that answers, behind whatever door: settings -> repository -> service -> protocols.

    Made in the event loop in which it will answer.

    Args:
        settings: The server's.
        source: Where the models come from; see `source_of`.
        drift: The log of drift; see `drift_of`.

    Attributes:
        settings: As given.
        repository: The models.
        service: What the protocols ask; closed until its `open`.
        administration: Changes what is served, where the settings let it.
        observer: Told of every request.
    """

    def __init__(self, settings: Settings, source: Source, drift: DriftSettings | None) -> None:
        self.settings = settings
        self._decoders = ThreadPoolExecutor(thread_name_prefix="decode")
        metrics = Metrics()
        self._drift_log = DriftLog(drift, metrics) if drift is not None else None
        self.repository = Repository(
            source,
            self._servable,
            drain_limit_s=settings.drain_limit_s,
            shelves=Shelves(settings.cache_dir),
        )
        metrics.follow(self.repository.statuses, self.repository.queued)
        self.service = Service(
            self.repository, default_timeout_s=settings.default_timeout_s, metrics=metrics
        )
        self.administration = (
            Administration(self.repository, settings.options) if settings.may_administer else None
        )
        endpoint = settings.otlp_endpoint
        self._tracer = OpenTelemetryTracer(endpoint) if endpoint else None
        self.observer = Observer(metrics, logged=settings.logged, tracer=self._tracer)

    def _servable(self, model: ModelSettings, version: int, path: Path) -> Servable:
        options = model.options_of(version)
        if options.drift_sample and self._drift_log is None:
            log.warning("drift_sample of %s says nothing without a log of drift", model.name)
        return Servable(
            model.name,
            version,
            path,
            options=options,
            decoders=self._decoders,
            drift_log=self._drift_log,
        )

    async def load(self) -> None:
        """The first load."""
        await self.repository.refresh()
        if not self.repository.models():
            log.warning("no model yet; waiting for one")
        for why in self.repository.empty().values():
            log.warning("%s", why)

    def http(self) -> HttpHandler:
        """What answers all of HTTP."""
        return build_http(
            self.service,
            self.administration,
            self.observer,
            has_cors=self.settings.has_cors,
            metrics_path=self.settings.metrics_path,
        )

    async def follow(self, config_state: FileState | None = None) -> None:
        """Looks at base paths and at the configuration file, each in its interval, for ever.

        Args:
            config_state: Of the file, from before it was read.
        """
        settings, repository = self.settings, self.repository
        watches = [_poll(repository, settings.poll_interval_s)] if settings.poll_interval_s else []
        if settings.config is not None and settings.config_poll_interval_s is not None:
            watches.append(
                _poll_config(
                    repository,
                    settings.config,
                    settings.options,
                    settings.config_poll_interval_s,
                    config_state,
                )
            )
        watches.append(asyncio.Event().wait())  # type: ignore[arg-type]
        await asyncio.gather(*watches)

    async def drain(self) -> None:
        """Refuses what comes from now on, and waits for what has begun, at most the drain limit."""
        service, limit_s = self.service, self.settings.drain_limit_s
        log.info("draining: %d requests are being answered", service.active)
        service.drain()
        try:
            async with asyncio.timeout(limit_s):
                while service.active:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            log.warning(
                "%d requests were not answered within %g s and are cut off", service.active, limit_s
            )

    async def close(self) -> None:
        """Gives everything back."""
        await self.repository.close()
        self._decoders.shutdown()
        if self._drift_log is not None:
            await asyncio.to_thread(self._drift_log.close)
        if self._tracer is not None:
            self._tracer.close()


async def _load(core: Core, stop: asyncio.Event) -> None:
    """The first load, of which a stop leaves out what has not begun."""
    loading = asyncio.create_task(core.load())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set():
        log.info("asked to stop while models load")
        core.repository.halt()
    await loading


async def _follow_until(stop: asyncio.Event, following: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(following)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    for each in (task, stopping):
        each.cancel()
    ended, _ = await asyncio.gather(task, stopping, return_exceptions=True)
    if isinstance(ended, Exception):
        log.error("while following what should serve: %s", ended, exc_info=ended)


async def _listen(grpc: GrpcListener | None, http: HttpListener | None) -> None:
    try:
        for each in (grpc, http):
            if each is not None:
                await each.start()
    except OSError as error:
        # Bound to a port, but not the first to listen on it.
        raise ConfigError(
            f"Another server took a port while models were loaded: {error.strerror or error}. "
            "Choose others with --rest-port and --grpc-port; 0 takes a free one."
        ) from error


def _look_at_less_garbage() -> None:
    """Spares the collector what it would search in vain, again and again under load.

    What is here by now lives as long as the process, and requests leave no cycles behind
    (`tests/serving/test_garbage.py`): what is new are those in flight.
    Versions come later, so that what they leave when they go is found.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)


def _http(core: Core, rest: socket.socket | None) -> HttpListener | None:
    if rest is None:
        return None
    return HttpListener(
        core.http(),
        rest,
        max_body_bytes=LIMITS.request_bytes,
        max_connections=LIMITS.connections,
        max_age_s=core.settings.max_connection_age_s,
    )


def _grpc(core: Core, sockets: Sequence[socket.socket]) -> GrpcListener | None:
    if not sockets:
        return None
    service, administration, observer = core.service, core.administration, core.observer
    tls = core.settings.grpc_tls
    try:
        return GrpcListener(
            build_grpc(service, administration, observer),
            sockets,
            max_message_bytes=LIMITS.request_bytes,
            streams=build_grpc_streams(service, administration, observer),
            watches=build_grpc_watches(service),
            max_in_flight=LIMITS.stream_in_flight,
            max_streams=LIMITS.streams,
            max_connections=LIMITS.connections,
            credentials=(tls.key, tls.certificate, tls.client_authority) if tls else None,
            requires_client=tls is not None and tls.requires_client,
            max_age_s=core.settings.max_connection_age_s,
        )
    except CredentialsError as error:
        raise ConfigError(f"gRPC cannot use TLS: {error}") from error


async def _poll(repository: Repository, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await repository.refresh()
        except Exception:
            # The next look may go better; what serves goes on serving.
            log.exception("looking at the base path failed")


def state_of(path: Path | None) -> FileState | None:
    """Changes when a file does; None when there is none."""
    if path is None:
        return None
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


async def _poll_config(
    repository: Repository,
    path: Path,
    options: VersionOptions,
    interval_s: float,
    known: FileState | None,
) -> None:
    while True:
        await asyncio.sleep(interval_s)
        found = state_of(path)
        if found in (None, known):
            continue
        known = found
        try:
            config = await asyncio.to_thread(read_config, path, options)
            await repository.replace(config.models)
        except (ServingError, ConvzooError) as error:
            log.error("the changed configuration is not served as it stands: %s", error)  # noqa: TRY400 - its text says it all
        except Exception:
            log.exception("reading the changed configuration failed")
        else:
            log.info("serving the changed configuration %s", path)


def _require_ready_file(path: Path | None) -> None:
    if path is not None and not path.parent.is_dir():
        raise ConfigError(f"--ready-file: there is no folder {path.parent}.")


def _write_ready_file(path: Path | None, rest_port: int | None, grpc_port: int | None) -> None:
    if path is None:
        return
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps({"rest_port": rest_port, "grpc_port": grpc_port}))
    partial.replace(path)
