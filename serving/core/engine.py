"""What runs a servable: the interface every engine has, and how one is chosen.

An engine is a module in `serving.engines` with a class of this shape; it is imported when chosen.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol

from serving.errors import ConfigError, LoadError
from serving.messages import Array, Signature
from zoo.artifact import Manifest
from zoo.suggest import unknown

ENGINES = {
    "openvino": "serving.engines.openvino:OpenVINOModel",
    "tensorflow": "serving.engines.worker:TensorFlowModel",
}


class LoadedModel(Protocol):
    """One version, ready to run; `run` may be called from several threads at once."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What can be asked."""
        ...

    @property
    def is_batchable(self) -> bool:
        """Whether rows of different requests may run together and come apart again."""
        ...

    @property
    def note(self) -> str:
        """What its owner should know of how it runs here, one sentence; empty when nothing."""
        ...

    def run(
        self, signature: str, inputs: Mapping[str, Array], deadline: float | None = None
    ) -> Mapping[str, Array]:
        """Runs one batch.

        Args:
            signature: One of `signatures`.
            inputs: Every input of the signature, of its type.
            deadline: When nobody waits for the answer any more, on the monotonic clock. An engine
                that can end what runs may do so some time later.

        Returns:
            At least the outputs of the signature, by name.

        Raises:
            InvalidRequestError: the engine refused the inputs.
            EngineError: the engine failed.
            DeadlineExceededError: it was ended after the deadline.
            NotReadyError: it was ended because the version goes.
        """
        ...

    def close(self) -> None:
        """Gives everything back: memory, threads, processes."""
        ...


def require_known(engine: str) -> None:
    """Raises `ConfigError` for a name that is no engine's."""
    if engine not in ENGINES:
        raise ConfigError(unknown("engine", engine, ENGINES))


def choose(manifest: Manifest | None, wanted: str | None) -> str:
    """The engine for a version: the one asked for, else the manifest's, else TensorFlow.

    Raises:
        LoadError: the version has no form for it.
    """
    if manifest is None:
        if wanted not in (None, "tensorflow"):
            raise LoadError(
                f"This SavedModel has no manifest, so {wanted} cannot run it; tensorflow can."
            )
        return "tensorflow"
    engine = wanted or manifest.default_engine
    if engine not in manifest.engines:
        raise LoadError(
            f"This version has no form for {engine}; it has {', '.join(manifest.engines)}."
        )
    return engine


def load(
    engine: str,
    version_path: Path,
    manifest: Manifest | None,
    streams: int = 1,
    *,
    is_isolated: bool = False,
) -> LoadedModel:
    """Loads a version on an engine; imports the framework when it is the first.

    Args:
        engine: Its name.
        version_path: The version's folder.
        manifest: What was published; None for a SavedModel from elsewhere.
        streams: Calls that will run at the same time and should share the cores.
        is_isolated: Whether it runs in a process of its own, where it has one stream.

    Raises:
        LoadError: it cannot be loaded; says why.
    """
    if is_isolated and engine != "tensorflow":  # which is by itself
        from serving.engines.worker import WorkerModel

        return WorkerModel(version_path, engine, is_batchable=True)
    module, name = ENGINES[engine].split(":")
    try:
        model: LoadedModel = getattr(import_module(module), name)(version_path, manifest, streams)
    except ModuleNotFoundError as error:
        raise not_installed(engine, error) from error
    return model


def not_installed(engine: str, error: ModuleNotFoundError) -> LoadError:
    """Says what an engine needs and which extra brings it."""
    extra = {"openvino": "serve", "tensorflow": "train"}[engine]
    return LoadError(
        f"The engine {engine} needs {error.name}, which is not installed: "
        f"pip install 'convzoo[{extra}]'."
    )
