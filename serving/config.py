"""The server's settings: checked when they are made. The environment is read here alone."""

import logging
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from serving.errors import ConfigError

Port = int


class Settings(BaseModel):
    """All settings of `convzoo serve`.

    Attributes:
        base_path: A folder of models, or one model's folder of versions.
        model_name: The model's name, when `base_path` is one model's folder.
        host: The address to listen on.
        rest_port: REST; 0 lets the system choose.
        grpc_port: gRPC; 0 lets the system choose.
        engine: Runs every version; each version's own choice when None.
        poll_interval_s: How often the base path is looked at.
        drain_limit_s: How long requests that have begun may take when the server stops.
        max_request_bytes: Largest body or message.
        max_batch_rows: Rows of one batch.
        max_queued_rows: Rows that may wait for one servable.
        default_timeout_s: The deadline of requests that bring none.
        ready_file: Written when requests are taken: the ports, as JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    base_path: Path
    model_name: str | None = None
    host: str = "127.0.0.1"
    rest_port: Port = Field(default=8501, ge=0, le=65535)
    grpc_port: Port = Field(default=8500, ge=0, le=65535)
    engine: str | None = None
    poll_interval_s: float = Field(default=1.0, gt=0)
    drain_limit_s: float = Field(default=30.0, ge=0)
    max_request_bytes: int = Field(default=64 << 20, ge=1024)
    max_batch_rows: int = Field(default=32, ge=1)
    max_queued_rows: int = Field(default=1024, ge=1)
    default_timeout_s: float = Field(default=30.0, gt=0)
    ready_file: Path | None = None


def require_base_path(path: Path) -> None:
    """Raises `ConfigError` for a base path that is not a folder that can be read."""
    if not path.exists():
        raise ConfigError(
            f"There is no base path {path}. `convzoo publish RUN --base-path {path}` makes one."
        )
    if not path.is_dir():
        raise ConfigError(f"The base path {path} is a file; a folder of models is expected.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"The base path {path} cannot be read by this user.")


def configure_logging() -> None:
    """Log lines to standard error, from CONVZOO_LOG_LEVEL (INFO) upwards.

    Raises:
        ConfigError: no such level.
    """
    level = os.environ.get("CONVZOO_LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        known = ", ".join(logging.getLevelNamesMapping())
        raise ConfigError(f"CONVZOO_LOG_LEVEL is {level!r}; there are {known}.")
    # gRPC's own notes (a fork was seen, a fork was skipped) are of no use to who runs a server.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
