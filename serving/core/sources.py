"""Where the models come from: a folder that is looked at, or a configuration."""

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from serving.messages import (
    DEFAULT_OPTIONS,
    DEFAULT_POLICY,
    ModelSettings,
    VersionOptions,
    VersionPolicy,
)
from zoo.artifact import list_models, list_versions
from zoo.object_store import is_remote_model, list_remote_models
from zoo.url import Url

log = logging.getLogger(__name__)


class Source(Protocol):
    """Names the models that should serve, and how."""

    def models(self) -> Mapping[str, ModelSettings]:
        """The models by name; may read the disk.

        Raises:
            OSError, RemoteError: the place cannot be read now; what serves goes on serving.
        """
        ...


class BasePath:
    """A folder of models, or one model's folder of versions.

    Args:
        path: The folder, or its URL.
        model_name: The model's name, when the folder is one model's.
        only: Of the models there, those that serve; all when empty.
        policy: Which versions of each model serve.
        options: How they are run.
    """

    def __init__(
        self,
        path: Path | Url,
        model_name: str | None = None,
        *,
        only: Collection[str] = (),
        policy: VersionPolicy = DEFAULT_POLICY,
        options: VersionOptions = DEFAULT_OPTIONS,
    ) -> None:
        self._path = path
        self._model_name = model_name
        self._only = only
        self._policy = policy
        self._options = options

    def models(self) -> Mapping[str, ModelSettings]:
        """Every folder that holds a version, or those that were picked."""
        places = (
            self._remote(self._path) if isinstance(self._path, Url) else self._local(self._path)
        )
        return {
            name: ModelSettings(name, str(place), self._policy, options=self._options)
            for name, place in places.items()
            if not self._only or name in self._only
        }

    def _local(self, path: Path) -> Mapping[str, Path]:
        if self._model_name is not None or list_versions(path):
            path.stat()
            return {self._model_name or path.name: path}
        return list_models(path)

    def _remote(self, url: Url) -> Mapping[str, Url]:
        if self._model_name is not None or is_remote_model(url):
            return {self._model_name or url.name: url}
        return {name: url / name for name in list_remote_models(url)}


class Configured:
    """The models of a configuration; replaced as a whole."""

    def __init__(self, models: Iterable[ModelSettings]) -> None:
        self._models = {each.name: each for each in models}

    def models(self) -> Mapping[str, ModelSettings]:
        """The models as they were given."""
        return self._models
