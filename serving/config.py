"""The server's settings: checked when they are made. The environment is read here alone."""

import logging
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.core.drift import DriftSettings
from serving.errors import ConfigError
from serving.messages import ModelSettings, VersionOptions
from zoo.errors import ConvzooError
from zoo.object_store import list_folders
from zoo.url import Place, Url

Port = int


class Tls(BaseModel):
    """TLS of gRPC, on its port and its Unix socket, in PEM.

    Attributes:
        key: The server's private key.
        certificate: Its certificate, with the chain.
        client_authority: Who signs clients' certificates.
        requires_client: Whether a client must show one; else none is asked for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    certificate: str
    client_authority: str = ""
    requires_client: bool = False


class Settings(BaseModel):
    """All settings of `convzoo serve`.

    Attributes:
        base_path: A folder of models, or one model's folder of versions; or the URL of either.
        cache_dir: Where versions of URLs are kept from one start to the next; a temporary folder
            when None.
        model_name: The model's name, when `base_path` is one model's folder.
        only: Of the models of `base_path`, those that serve; all when empty.
        config: A file that names models, instead of a base path.
        models: The models, when neither is there.
        config_poll_interval_s: How often the file is looked at; None for never.
        options: How versions are run, where the file does not say.
        host: The address to listen on.
        rest_port: REST; 0 lets the system choose, None turns it off.
        grpc_port: gRPC; 0 lets the system choose, None turns it off.
        grpc_socket: A Unix socket that takes gRPC too.
        grpc_tls: TLS of gRPC, on its port and its Unix socket.
        has_cors: Whether pages from anywhere may read answers under /v1.
        metrics_path: Where Prometheus reads, besides /metrics.
        poll_interval_s: How often base paths are looked at; None for once.
        may_administer: Whether clients may load, unload and reconfigure.
        drain_limit_s: How long requests that have begun may take when the server stops.
        max_connection_age_s: When a connection takes no more requests; None for never.
        default_timeout_s: The deadline of requests that bring none.
        logged: Which requests get a log line.
        drift: The log of drift; the configuration file's when None.
        otlp_endpoint: Where OpenTelemetry spans go, e.g. "http://localhost:4318/v1/traces".
        ready_file: Written when requests are taken: the ports, as JSON.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), arbitrary_types_allowed=True
    )

    base_path: Place | None = None
    cache_dir: Path | None = None
    model_name: str | None = None
    only: tuple[str, ...] = ()
    config: Path | None = None
    models: tuple[ModelSettings, ...] = ()
    config_poll_interval_s: float | None = Field(default=1.0, gt=0)
    options: VersionOptions = VersionOptions()
    host: str = "127.0.0.1"
    rest_port: Port | None = Field(default=8501, ge=0, le=65535)
    grpc_port: Port | None = Field(default=8500, ge=0, le=65535)
    grpc_socket: Path | None = None
    grpc_tls: Tls | None = None
    has_cors: bool = False
    metrics_path: str = "/monitoring/prometheus/metrics"
    poll_interval_s: float | None = Field(default=1.0, gt=0)
    may_administer: bool = True
    drain_limit_s: float = Field(default=30.0, ge=0)
    max_connection_age_s: float | None = Field(default=None, gt=0)
    default_timeout_s: float = Field(default=30.0, gt=0)
    logged: Literal["none", "errors", "all"] = "errors"
    drift: DriftSettings | None = None
    otlp_endpoint: str | None = None
    ready_file: Path | None = None


def require_base_path(path: Path | Url) -> None:
    """Raises `ConfigError` for a base path that is not a folder that can be read."""
    if isinstance(path, Url):
        try:
            list_folders(path)
        except ConvzooError as error:
            raise ConfigError(str(error)) from error
        return
    if not path.exists():
        raise ConfigError(
            f"There is no base path {path}. `convzoo publish RUN --base-path {path}` makes one."
        )
    if not path.is_dir():
        raise ConfigError(f"The base path {path} is a file; a folder of models is expected.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"The base path {path} cannot be read by this user.")


def configure_logging(kind: Literal["text", "json"] = "text") -> None:
    """Log lines to standard error, from CONVZOO_LOG_LEVEL (INFO) upwards.

    Args:
        kind: Lines for people, or one JSON object a line.

    Raises:
        ConfigError: no such level.
    """
    from serving.observe import JsonFormatter, TextFormatter

    level = os.environ.get("CONVZOO_LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        known = ", ".join(logging.getLevelNamesMapping())
        raise ConfigError(f"CONVZOO_LOG_LEVEL is {level!r}; there are {known}.")
    for talkative in ("botocore", "aiobotocore"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if kind == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
