"""The same service as a Ray Serve deployment, for who runs Ray already.

Each replica has a core of its own, as a `convzoo serve` has, and answers the same HTTP behind Ray's
proxy. In a configuration file of Ray Serve:

    applications:
    - name: convzoo
      import_path: serving.ray:application
      args: {base_path: /models}
"""

import asyncio
import inspect
import logging
import math
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from serving.config import Settings
from serving.core.sources import BasePath, Configured
from serving.errors import ConfigError, NotReadyError
from serving.limits import LIMITS
from serving.listeners.asgi import AsgiApplication
from serving.model_config import read_tables
from serving.protocols.http import REQUEST_ID_HEADER
from serving.transport import HttpRequest, HttpResponse
from zoo.artifact import first_fault
from zoo.cores import SHARE
from zoo.errors import UsageError
from zoo.suggest import unknown

try:
    import ray
    from ray import serve

    from serving.app import Core, drift_of, source_of, state_of
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"serving.ray needs {missing.name}, which is not installed: "
        "pip install 'convzoo[serve,ray]'.",
        name=missing.name,
    ) from missing

NAME: Final = "convzoo"
# Ray's own default of five would leave nothing to batch, and hold up what a replica would refuse.
MOST_ONGOING = 1024
# What a replica takes to give everything back when its last request is answered.
CLOSE_WITHIN_S = 5.0

# What has a meaning without listeners, and for all replicas alike.
OFFERED = (
    *("base_path", "model_name", "only", "config", "config_poll_interval_s", "poll_interval_s"),
    *("cache_dir", "drain_limit_s", "default_timeout_s", "has_cors", "metrics_path", "logged"),
)


class Replica:
    """One replica: a core, and Ray's questions after it.

    Args:
        settings: As `application` made them.
    """

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        for name in ("serving", "zoo"):
            # Into the logs that Ray keeps of a replica.
            logging.getLogger(name).parent = logging.getLogger("ray.serve")
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU")
        SHARE.most_cores = max(1, math.ceil(cpus)) if cpus else None
        state = state_of(settings.config)
        is_told = settings.base_path is not None or settings.config is not None
        # Without either, `reconfigure` says what to serve.
        self._core = Core(
            settings, source_of(settings) if is_told else Configured(()), drift_of(settings)
        )
        self._handler = self._core.http()
        if is_told:
            await self._core.load()
            self._require_picked()
            self._core.service.open()
        self._following = asyncio.create_task(self._core.follow(state))

    def _require_picked(self) -> None:
        settings = self._core.settings
        absent = [each for each in settings.only if each not in self._core.repository.models()]
        if absent and settings.base_path is not None:
            there = BasePath(settings.base_path, settings.model_name).models()
            raise ConfigError(f"{settings.base_path}: {unknown('model', absent[0], there)}")

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serves the models of `user_config`, written as in a configuration file, and no others.

        Raises:
            ConfigError, LoadError: it cannot be; what served before goes on.
        """
        where = Path("user_config")
        config = read_tables(user_config, where, self._core.settings.options)
        if self._core.settings.config is not None:
            raise ConfigError("user_config and config both say what to serve; leave one out.")
        if config.limits or config.drift is not None:
            raise ConfigError("user_config: limits and drift stand in the file of `config`.")
        if not config.models:
            raise ConfigError("user_config names no model: {models: {NAME: {base_path: ...}}}.")
        for name, model in user_config["models"].items():
            if "://" not in str(model["base_path"]) and not Path(model["base_path"]).is_absolute():
                raise ConfigError(
                    f"user_config: models.{name}.base_path is {str(model['base_path'])!r}; "
                    "replicas need an absolute path."
                )
        await self._core.repository.replace(config.models)
        self._core.service.open()

    def check_health(self) -> None:
        """Raises, for Ray to replace this replica, while it does not take requests."""
        if self._following.done():
            self._following.result()
        if self._core.service.is_ready():
            return
        why = " ".join(self._core.repository.empty().values())
        raise NotReadyError(
            why or "There is nothing to serve: base_path, config or user_config says what."
        )

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answers one request."""
        response = await self._handler(request)
        # Ray's proxy adds this one to every answer.
        response.headers = tuple(each for each in response.headers if each[0] != REQUEST_ID_HEADER)
        return response

    async def stop(self) -> None:
        """Answers what has begun, and gives everything back."""
        self._following.cancel()
        await self._core.drain()
        await self._core.close()


def _door() -> AsgiApplication:
    """The way from Ray's proxy into this process's replica; made when the replica is."""

    def replica() -> Any:
        return serve.get_replica_context().servable_object

    async def answer(request: HttpRequest) -> HttpResponse:
        answered: HttpResponse = await replica().answer(request)
        return answered

    async def stop() -> None:
        await replica().stop()

    return AsgiApplication(answer, max_body_bytes=LIMITS.request_bytes, stop=stop)


def application(args: dict[str, Any] | None = None, /, **given: Any) -> serve.Application:
    """An application for `serve.run`, or for `import_path` in a configuration file of Ray Serve.

    Args:
        args: The keyword arguments as a mapping, as Ray hands them over.
        **given: `base_path`, `only` (names of models there) or `config`, and others of
            `serving.config.Settings`; `deployment` has Ray's own options, e.g.
            {"num_replicas": 2, "ray_actor_options": {"num_cpus": 4}}. Engines keep as many cores
            busy as `num_cpus` says.

    Raises:
        ConfigError: one of them is wrong.
    """
    given = {**(args or {}), **given}
    options = given.pop("deployment", {})
    settings = _settings(given)
    deployment = serve.deployment(
        serve.ingress(_door)(Replica),
        name=NAME,
        max_ongoing_requests=MOST_ONGOING,
        graceful_shutdown_timeout_s=settings.drain_limit_s + CLOSE_WITHIN_S,
    )
    return deployment.options(**options).bind(settings)


# Ray takes functions of exactly one parameter for what builds an application.
application.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [inspect.Parameter("args", inspect.Parameter.POSITIONAL_ONLY)]
)


def _settings(given: dict[str, Any]) -> Settings:
    for name in given:
        if name not in OFFERED:
            raise ConfigError(unknown("argument", name, (*OFFERED, "deployment")))
    try:
        # A load or an unload over the network would reach one replica and not the others.
        settings = Settings(**given, may_administer=False)
    except ValidationError as error:
        raise ConfigError(f"application: {first_fault(error)}") from error
    except UsageError as error:
        raise ConfigError(f"application: {error}") from error
    if settings.base_path is not None and settings.config is not None:
        raise ConfigError("Either base_path or config says what to serve.")
    if settings.only and settings.base_path is None:
        raise ConfigError("`only` picks models of a base_path, and there is none.")
    # Replicas start elsewhere.
    local = {
        name: path.absolute()
        for name in ("base_path", "config", "cache_dir")
        if isinstance(path := getattr(settings, name), Path)
    }
    return settings.model_copy(update=local)
