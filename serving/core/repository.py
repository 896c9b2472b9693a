"""Which versions serve: watches base paths, loads what is new, keeps what works.

A new version is loaded, verified and warmed beside the old one; then it takes over, the old one
finishes what it has begun, and goes. A version that fails is reported with its reason, and the old
one stays.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from serving.core.servable import Servable
from serving.errors import (
    LabelNotFoundError,
    LoadError,
    ModelNotFoundError,
    NotReadyError,
    ServingError,
    VersionNotFoundError,
)
from serving.messages import ModelStatus, Target, VersionState, VersionStatus
from zoo.artifact import list_models, list_versions, read_labels
from zoo.errors import ArtifactError

log = logging.getLogger(__name__)

Loader = Callable[[str, int, Path], Servable]


@dataclass(slots=True, eq=False)
class _Model:
    """What is known of one model."""

    path: Path
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    servables: dict[int, Servable] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    # A folder that failed is tried again only when it is another folder than it was.
    failed: dict[int, tuple[int, int]] = field(default_factory=dict)


class Repository:
    """The models of one base path.

    Args:
        base_path: Either a folder of models, or one model's folder of versions.
        load: Makes a servable; runs in a thread.
        model_name: The name of the one model, when `base_path` is its folder.
        drain_limit_s: How long a version that goes may take to finish.
    """

    def __init__(
        self,
        base_path: Path,
        load: Loader,
        *,
        model_name: str | None = None,
        drain_limit_s: float = 30.0,
    ) -> None:
        self._base_path = base_path
        self._model_name = model_name
        self._load = load
        self._drain_limit_s = drain_limit_s
        self._models: dict[str, _Model] = {}
        # One at a time: two loads at once would slow what serves.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._unloading: set[asyncio.Task[None]] = set()

    # --- finding

    def models(self) -> tuple[str, ...]:
        """The models that were ever seen."""
        return tuple(sorted(self._models))

    def find(self, target: Target) -> Servable:
        """The servable that answers for a target.

        Raises:
            ModelNotFoundError, VersionNotFoundError, LabelNotFoundError: there is none.
            NotReadyError: the model is there, but nothing of it serves yet.
        """
        model = self._model(target.model)
        version = target.version
        if target.label is not None:
            if target.label not in model.labels:
                raise LabelNotFoundError(target.model, target.label, model.labels)
            version = model.labels[target.label]
        if version is None:
            if not model.servables:
                if any(each.state is not VersionState.END for each in model.statuses.values()):
                    raise NotReadyError(f"Model {target.model!r} is loading.")
                raise ModelNotFoundError(
                    target.model,
                    message=f"No version of model {target.model!r} can be served: "
                    f"{self._reasons(model)}",
                )
            version = max(model.servables)
        if version not in model.servables:
            raise VersionNotFoundError(target.model, version, model.servables)
        return model.servables[version]

    def _reasons(self, model: _Model) -> str:
        reasons = [
            f"version {status.version}: {status.error_message or status.state.value}"
            for status in model.statuses.values()
        ]
        return "; ".join(reasons) or "there is none."

    def status(self, target: Target) -> ModelStatus:
        """The states of a model's versions, newest first; a label in the target is ignored.

        Raises:
            ModelNotFoundError, VersionNotFoundError: it was never seen.
        """
        model = self._model(target.model)
        statuses = dict(sorted(model.statuses.items(), reverse=True))
        if target.version is not None:
            if target.version not in statuses:
                raise VersionNotFoundError(target.model, target.version, statuses)
            statuses = {target.version: statuses[target.version]}
        return ModelStatus(
            model=target.model, versions=tuple(statuses.values()), labels=model.labels
        )

    def versions(self, name: str) -> tuple[int, ...]:
        """The versions of a model that serve, ascending."""
        return tuple(sorted(self._model(name).servables))

    def is_model_ready(self, target: Target) -> bool:
        """Whether `find` would answer."""
        try:
            self.find(target)
        except ServingError:
            return False
        return True

    def _model(self, name: str) -> _Model:
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFoundError(name, self._models) from None

    # --- following the base path

    async def refresh(self) -> None:
        """Looks at the base path once and brings what serves into line with it."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(None, self._scan)
        except OSError as error:
            # A volume that went away for a moment must not unload what serves.
            log.warning("cannot read base path %s: %s", self._base_path, error.strerror)
            return
        for name, (path, versions, labels) in found.items():
            model = self._models.setdefault(name, _Model(path))
            model.labels = labels
            await self._follow(name, model, versions)
        for name in set(self._models) - set(found):
            model = self._models[name]
            model.labels = {}
            for version in list(model.servables):
                self._unload(name, model, version)

    def _scan(self) -> dict[str, tuple[Path, dict[int, Path], Mapping[str, int]]]:
        if self._model_name is not None or list_versions(self._base_path):
            folders = {self._model_name or self._base_path.name: self._base_path}
            self._base_path.stat()
        else:
            folders = list_models(self._base_path)
        found = {}
        for name, path in folders.items():
            try:
                labels: Mapping[str, int] = read_labels(path)
            except ArtifactError as error:
                log.warning("%s", error)
                labels = self._models[name].labels if name in self._models else {}
            found[name] = (path, list_versions(path), labels)
        return found

    async def _follow(self, name: str, model: _Model, versions: Mapping[int, Path]) -> None:
        for version in [each for each in model.failed if each not in versions]:
            del model.failed[version]
        # The newest that works serves, and so does every version a label points to.
        labelled = {version for version in model.labels.values() if version in versions}
        keep = {
            version
            for version in sorted(labelled)
            if await self._ensure(name, model, version, versions[version])
        }
        for version in sorted(versions, reverse=True):
            if await self._ensure(name, model, version, versions[version]):
                keep.add(version)
                break
        if keep or not versions:
            for version in [each for each in model.servables if each not in keep]:
                self._unload(name, model, version)

    async def _ensure(self, name: str, model: _Model, version: int, path: Path) -> bool:
        """Loads a version unless it serves, or failed as it stands; True when it serves."""
        if version in model.servables:
            return True
        try:
            stat = path.stat()
        except OSError:
            return False
        identity = (stat.st_ino, stat.st_mtime_ns)
        if model.failed.get(version) == identity:
            return False
        model.statuses[version] = VersionStatus(version, VersionState.LOADING)
        log.info("loading %s version %d", name, version)
        try:
            servable = await asyncio.get_running_loop().run_in_executor(
                self._loader, self._load, name, version, path
            )
        except ServingError as error:
            self._refuse(name, model, version, identity, str(error))
            return False
        except Exception as error:
            # Whatever a damaged file makes a library raise, the server goes on.
            log.exception("loading %s version %d failed", name, version)
            self._refuse(name, model, version, identity, f"{type(error).__name__}: {error}")
            return False
        model.failed.pop(version, None)
        model.servables[version] = servable
        model.statuses[version] = VersionStatus(version, VersionState.AVAILABLE)
        log.info("%s version %d serves on %s", name, version, servable.engine)
        return True

    def _refuse(
        self, name: str, model: _Model, version: int, identity: tuple[int, int], reason: str
    ) -> None:
        log.error("%s version %d is refused: %s", name, version, reason)
        model.failed[version] = identity
        model.statuses[version] = VersionStatus(version, VersionState.END, "UNKNOWN", reason)

    # --- going

    def _unload(self, name: str, model: _Model, version: int) -> None:
        servable = model.servables.pop(version)
        model.statuses[version] = VersionStatus(version, VersionState.UNLOADING)
        task = asyncio.create_task(self._retire(name, model, version, servable))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _retire(self, name: str, model: _Model, version: int, servable: Servable) -> None:
        if not await servable.drain(self._drain_limit_s):
            log.warning("%s version %d was still busy and is closed", name, version)
        await asyncio.get_running_loop().run_in_executor(self._loader, servable.close)
        if version not in model.servables:
            model.statuses[version] = VersionStatus(version, VersionState.END)
        log.info("%s version %d is unloaded", name, version)

    async def close(self) -> None:
        """Unloads everything, after what is being answered is done."""
        for name, model in self._models.items():
            for version in list(model.servables):
                self._unload(name, model, version)
        if self._unloading:
            await asyncio.wait(self._unloading)
        self._loader.shutdown(wait=True)

    def require_any(self) -> None:
        """Raises `LoadError` when there are models and none of them can be served."""
        if self._models and not any(model.servables for model in self._models.values()):
            reasons = "; ".join(
                f"{name}: {self._reasons(model)}" for name, model in self._models.items()
            )
            raise LoadError(f"Nothing under {self._base_path} can be served: {reasons}")
