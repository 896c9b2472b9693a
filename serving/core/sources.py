"""Where the models come from: a folder that is looked at, or a configuration."""

import logging
from collections.abc import Iterable, Mapping
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

log = logging.getLogger(__name__)


class Source(Protocol):
    """Names the models that should serve, and how."""

    def models(self) -> Mapping[str, ModelSettings]:
        """The models by name; may read the disk.

        Raises:
            OSError: the place cannot be read now; what serves goes on serving.
        """
        ...


class BasePath:
    """A folder of models, or one model's folder of versions.

    Args:
        path: The folder.
        model_name: The model's name, when the folder is one model's.
        policy: Which versions of each model serve.
        options: How they are run.
    """

    def __init__(
        self,
        path: Path,
        model_name: str | None = None,
        *,
        policy: VersionPolicy = DEFAULT_POLICY,
        options: VersionOptions = DEFAULT_OPTIONS,
    ) -> None:
        self._path = path
        self._model_name = model_name
        self._policy = policy
        self._options = options

    def models(self) -> Mapping[str, ModelSettings]:
        """Every folder that holds a version."""
        if self._model_name is not None or list_versions(self._path):
            self._path.stat()
            folders = {self._model_name or self._path.name: self._path}
        else:
            folders = list_models(self._path)
        return {
            name: ModelSettings(name, str(path), self._policy, options=self._options)
            for name, path in folders.items()
        }


class Configured:
    """The models of a configuration; replaced as a whole."""

    def __init__(self, models: Iterable[ModelSettings]) -> None:
        self._models = {each.name: each for each in models}

    def models(self) -> Mapping[str, ModelSettings]:
        """The models as they were given."""
        return self._models
