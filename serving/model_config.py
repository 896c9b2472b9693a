"""Configuration files: which models a server has and how they are run.

TOML or YAML of this project's own, or TensorFlow Serving's text proto (`model_config_list {...}`).
"""

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from google.protobuf import text_format
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.core.drift import DriftSettings
from serving.core.engine import require_known
from serving.errors import ConfigError, InvalidRequestError
from serving.limits import NAMES
from serving.messages import (
    DEFAULT_OPTIONS,
    ModelSettings,
    Transition,
    VersionOptions,
    VersionPolicy,
)
from serving.wire.pool import message, pool
from serving.wire.tfs_config import read_models
from zoo.artifact import check_model_name, first_fault
from zoo.errors import UsageError
from zoo.url import Place, Url, place_of


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a configuration file says."""

    models: tuple[ModelSettings, ...]
    limits: dict[str, int] = field(default_factory=dict)
    drift: DriftSettings | None = None


def read_config(path: Path, options: VersionOptions = DEFAULT_OPTIONS) -> ServerConfig:
    """Reads a configuration file; its suffix says which kind: .toml, .yaml, .yml, else text proto.

    Args:
        path: The file.
        options: How models are run, each of them where the file does not say.

    Raises:
        ConfigError: it cannot be read, or what is wrong with it and where.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"The configuration {path} cannot be read: {reason}.") from error
    if path.suffix == ".toml":
        try:
            return read_tables(tomllib.loads(text), path, options)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path} is no TOML: {error}") from error
    if path.suffix in (".yaml", ".yml"):
        import yaml

        try:
            return read_tables(yaml.safe_load(text) or {}, path, options)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is no YAML: {error}") from error
    config = read_text_proto("ModelServerConfig", text, path)
    try:
        models = read_models(config, takes_urls=True)
        for each in models:
            place_of(each.base_path)
        return ServerConfig(tuple(replace(each, options=options) for each in models))
    except (InvalidRequestError, UsageError) as error:
        raise ConfigError(f"{path}: {error}") from error


def read_text_proto(name: str, text: str, path: Path) -> Any:
    """A message of TensorFlow Serving from its text form.

    Raises:
        ConfigError: it is none; says in which line.
    """
    proto = message(f"tensorflow.serving.{name}")()
    try:
        return text_format.Parse(text, proto, descriptor_pool=pool())
    except text_format.ParseError as error:
        raise ConfigError(f"{path} is no text proto {name}: {error}") from error


# --- TOML and YAML --------------------------------------------------------------------------------


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class _Options(_Table):
    """The fields of `VersionOptions`; None means the default."""

    engine: str | None = None
    is_isolated: bool | None = None
    max_batch_rows: int | None = Field(default=None, ge=1)
    batch_sizes: tuple[int, ...] | None = None
    streams: int | None = Field(default=None, ge=1)
    joins_foreign: bool | None = None
    is_tuned: bool | None = None
    latency_target_s: float | None = Field(default=None, gt=0)
    max_queued_rows: int | None = Field(default=None, ge=1)
    max_queue_s: float | None = Field(default=None, gt=0)
    default_timeout_s: float | None = Field(default=None, gt=0)
    answers_once: bool | None = None
    cache_bytes: int | None = Field(default=None, ge=0)
    drift_sample: float | None = Field(default=None, ge=0, le=1)

    def given(self) -> dict[str, Any]:
        """The options that were set."""
        return {
            name: getattr(self, name)
            for name in _Options.model_fields
            if getattr(self, name) is not None
        }


class _Model(_Options):
    base_path: Place
    versions: Literal["latest", "all"] | tuple[int, ...] = "latest"
    latest: int = Field(default=1, ge=1)
    labels: dict[str, int] = Field(default_factory=dict)
    transition: Transition = Transition.AVAILABILITY
    version: dict[int, _Options] = Field(default_factory=dict)


class _File(_Table):
    models: dict[str, _Model] = Field(default_factory=dict)
    defaults: _Options = _Options()
    limits: dict[str, int] = Field(default_factory=dict)
    drift: DriftSettings | None = None


def read_tables(
    document: Any, path: Path, options: VersionOptions = DEFAULT_OPTIONS
) -> ServerConfig:
    """Reads what a TOML or YAML file holds.

    Args:
        document: Its tables.
        path: Where they are from: errors name it, and relative base paths start beside it.
        options: How models are run, each of them where the tables do not say.

    Raises:
        ConfigError: what is wrong with them and where.
    """
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_fault(error)}") from error
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from error
    for name, limit in file.limits.items():
        if name not in NAMES:
            raise ConfigError(f"{path}: no limit {name!r}; there are {', '.join(NAMES)}.")
        if limit < 1:
            raise ConfigError(f"{path}: the limit {name} is {limit}; it must be 1 or more.")
    options = _options(options, file.defaults.given(), f"{path}: defaults")
    models = tuple(_settings(name, each, options, path) for name, each in file.models.items())
    drift = file.drift
    if drift is not None:
        drift = drift.model_copy(update={"log": (path.parent / drift.log).absolute()})
    return ServerConfig(models, file.limits, drift)


def _settings(name: str, table: _Model, defaults: VersionOptions, path: Path) -> ModelSettings:
    try:
        check_model_name(name)
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from error
    options = _options(defaults, table.given(), f"{path}: models.{name}")
    specific = table.versions if isinstance(table.versions, tuple) else ()
    if table.versions == ():
        raise ConfigError(f"{path}: models.{name}.versions names no version.")
    return ModelSettings(
        name,
        # Relative paths start at the file, wherever the server is started.
        str(table.base_path)
        if isinstance(table.base_path, Url)
        else str((path.parent / table.base_path).absolute()),
        VersionPolicy(table.latest, tuple(sorted(specific)), table.versions == "all"),
        dict(sorted(table.labels.items())),
        table.transition,
        options,
        {
            number: _options(options, each.given(), f"{path}: models.{name}.version.{number}")
            for number, each in table.version.items()
        },
    )


def _options(general: VersionOptions, given: dict[str, Any], where: str) -> VersionOptions:
    options = replace(general, **given)
    sizes = options.batch_sizes
    if list(sizes) != sorted(set(sizes)) or any(size < 1 for size in sizes):
        raise ConfigError(
            f"{where}: batch_sizes are {list(sizes)}; they must ascend from 1 or more."
        )
    if options.engine is not None:
        require_known(options.engine)
    return options
