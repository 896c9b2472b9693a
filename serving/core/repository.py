"""Which versions serve: watches base paths, loads what is new, keeps what works.

A new version is loaded, verified and warmed beside the old one; then it takes over, the old one
finishes what it has begun, and goes. A version that fails is reported with its reason, and the old
one stays. Where memory is short, a model may have the old one go first.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.core.memory import give_back
from serving.core.servable import Servable
from serving.core.shelves import Shelf, Shelves
from serving.core.sources import Configured, Source
from serving.core.threads import EngineThreads
from serving.errors import (
    LabelNotFoundError,
    LoadError,
    ModelNotFoundError,
    NotReadyError,
    ServingError,
    VersionNotFoundError,
)
from serving.messages import (
    ModelSettings,
    ModelStatus,
    Target,
    Transition,
    VersionPolicy,
    VersionState,
    VersionStatistics,
    VersionStatus,
)
from zoo.errors import ArtifactError, NoRoomError, RemoteError

log = logging.getLogger(__name__)

Loader = Callable[[ModelSettings, int, Path], Servable]


_COMING = (VersionState.START, VersionState.LOADING)


@dataclass(slots=True, eq=False)
class _Model:
    """What is known of one model."""

    settings: ModelSettings
    statuses: dict[int, VersionStatus] = field(default_factory=dict)
    servables: dict[int, Servable] = field(default_factory=dict)
    # What each servable was made from: a change of it means another servable.
    made_from: dict[int, tuple[object, ...]] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    # A folder that failed is tried again only when it is another folder than it was.
    failed: dict[int, tuple[object, ...]] = field(default_factory=dict)
    # Why its place could not be looked at the last time, and where its labels should have pointed.
    trouble: str = ""
    waiting_labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    """A model as its place has it.

    Attributes:
        trouble: Why the place could not be read; the rest is then what was there before.
    """

    settings: ModelSettings
    shelf: Shelf
    versions: Mapping[int, Path]
    labels: Mapping[str, int]
    trouble: str = ""


class Repository:
    """The models of a source.

    Args:
        source: Names the models.
        load: Makes a servable; runs in a thread.
        drain_limit_s: How long a version that goes may take to finish.
        shelves: Where the models' versions are.
    """

    def __init__(
        self,
        source: Source,
        load: Loader,
        *,
        drain_limit_s: float = 30.0,
        shelves: Shelves | None = None,
    ) -> None:
        self._source = source
        self._shelves = shelves or Shelves()
        self._seen: dict[str, _Found] = {}
        self._trouble = ""
        self._load = load
        self._drain_limit_s = drain_limit_s
        self._models: dict[str, _Model] = {}
        # Models that were unloaded by hand stay unloaded until they are loaded by hand.
        self._put_away: set[str] = set()
        # One change at a time, and one load at a time: two would slow what serves.
        self._changing = asyncio.Lock()
        self._loader = EngineThreads(1, "load")
        self._unloading: set[asyncio.Task[None]] = set()
        self._is_halted = False

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
                if any(each.state in _COMING for each in model.statuses.values()):
                    raise NotReadyError(f"Model {target.model!r} is loading.")
                raise ModelNotFoundError(target.model, message=self._none_serves(target.model))
            version = max(model.servables)
        if version not in model.servables:
            raise VersionNotFoundError(target.model, version, model.servables)
        return model.servables[version]

    def empty(self) -> Mapping[str, str]:
        """Why nothing of a model serves, of each of which nothing does."""
        return {
            name: self._none_serves(name)
            for name in self.models()
            if not self._models[name].servables
        }

    def _none_serves(self, name: str) -> str:
        return f"No version of model {name!r} can be served: {self._reasons(self._models[name])}"

    def _reasons(self, model: _Model) -> str:
        reasons = [
            f"version {status.version}: {status.error_message or status.state.value}"
            for status in model.statuses.values()
        ]
        return (
            "; ".join(reasons) or model.trouble or f"there is none in {model.settings.base_path}."
        )

    def status(self, target: Target) -> ModelStatus:
        """The states of a model's versions, newest first; a label in the target is ignored.

        Raises:
            ModelNotFoundError, VersionNotFoundError: it was never seen.
        """
        model = self._model(target.model)
        if target.version is not None:
            if target.version not in model.statuses:
                raise VersionNotFoundError(target.model, target.version, model.statuses)
            return ModelStatus(target.model, (model.statuses[target.version],), model.labels)
        if not model.statuses:
            raise ModelNotFoundError(target.model, message=self._none_serves(target.model))
        return self._status(target.model)

    def statuses(self) -> tuple[ModelStatus, ...]:
        """The states of all models' versions, also of models that have none."""
        return tuple(self._status(name) for name in self.models())

    def _status(self, name: str) -> ModelStatus:
        model = self._models[name]
        newest_first = sorted(model.statuses.items(), reverse=True)
        return ModelStatus(name, tuple(status for _, status in newest_first), model.labels)

    def queued(self) -> Iterator[tuple[str, int, int]]:
        """Model, version and the rows that wait, of each version that serves."""
        for name, model in self._models.items():
            for version, servable in model.servables.items():
                yield name, version, servable.queued_rows

    def is_serving(self) -> bool:
        """Whether any of the models serves that should; also when there is none that should."""
        wanted = [model for name, model in self._models.items() if name not in self._put_away]
        return not wanted or any(model.servables for model in wanted)

    def halt(self) -> None:
        """Begins to load nothing more."""
        self._is_halted = True

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

    def statistics(self, target: Target | None) -> tuple[VersionStatistics, ...]:
        """What the versions that serve have done: of all models, of one, or of one version.

        Raises:
            ModelNotFoundError, VersionNotFoundError: it does not serve.
        """
        if target is None:
            servables = [
                model.servables[version]
                for _, model in sorted(self._models.items())
                for version in sorted(model.servables)
            ]
        elif target.version is None and target.label is None:
            model = self._model(target.model)
            servables = [model.servables[version] for version in sorted(model.servables)]
        else:
            servables = [self.find(target)]
        return tuple(each.tally.told(each.model, each.version) for each in servables)

    def _model(self, name: str) -> _Model:
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFoundError(name, self._models) from None

    # --- following the source

    async def refresh(self) -> None:
        """Looks at the source once and brings what serves into line with it."""
        async with self._changing:
            await self._refresh()

    async def replace(self, models: Iterable[ModelSettings]) -> None:
        """Serves these models and no others from now on.

        Raises:
            VersionNotFoundError: a label points to a version that would not serve; nothing has
                changed.
            LoadError: some did not become available; what served before of them still does.
        """
        source = Configured(models)
        async with self._changing:
            found = await self._look(source)
            for each in found.values():
                self._check_labels(each)
            self._source = source
            self._put_away.clear()
            await self._bring(found)
            self._require_available(found.values())

    async def load(self, name: str) -> None:
        """Loads a model that was unloaded, or looks for versions of it that are new.

        Raises:
            ModelNotFoundError: the source has no such model.
            LoadError: none of its versions can be served, or the newest cannot.
        """
        async with self._changing:
            found = await self._look(self._source)
            if name not in found:
                raise ModelNotFoundError(name, found)
            self._put_away.discard(name)
            # Asked for by hand, so that what failed before is tried again.
            if name in self._models:
                self._models[name].failed.clear()
            await self._bring({name: found[name]}, is_all=False)
            self._require_available([found[name]])

    async def unload(self, name: str) -> None:
        """Stops serving a model, until it is loaded; returns when what it has begun is done.

        Raises:
            ModelNotFoundError: there is no such model.
        """
        async with self._changing:
            model = self._model(name)
            self._put_away.add(name)
            model.labels = {}
            tasks = [self._unload(name, model, version) for version in list(model.servables)]
        if tasks:
            await asyncio.wait(tasks)

    def _check_labels(self, found: _Found) -> None:
        name = found.settings.name
        model = self._models.get(name)
        serving = set(_wanted(found.settings.policy, found.versions))
        if model is not None:
            serving |= set(model.servables) & set(found.versions)
        for version in found.settings.labels.values():
            if version not in serving:
                raise VersionNotFoundError(name, version, serving)

    def _require_available(self, found: Iterable[_Found]) -> None:
        failures = []
        for each in found:
            model = self._models[each.settings.name]
            failed = [
                f"{each.settings.name} version {version}: {model.statuses[version].error_message}"
                for version in _wanted(each.settings.policy, each.versions)
                if version in model.failed
            ]
            if each.trouble:
                failed.append(f"{each.settings.name}: {each.trouble}")
            if not failed and not model.servables:
                failed = [f"{each.settings.name}: {self._reasons(model)}"]
            failures += failed
        if failures:
            raise LoadError(
                f"{len(failures)} servable(s) did not become available: {'; '.join(failures)}"
            )

    async def _refresh(self) -> None:
        try:
            found = await self._look(self._source)
        except (OSError, RemoteError) as error:
            # A place that went away for a moment must not unload what serves.
            trouble = _told(error)
            if trouble != self._trouble:
                log.warning("%s; what serves goes on", trouble)
            self._trouble = trouble
            return
        self._trouble = ""
        await self._bring(found)

    async def _look(self, source: Source) -> dict[str, _Found]:
        return await asyncio.get_running_loop().run_in_executor(None, self._scan, source)

    def _scan(self, source: Source) -> dict[str, _Found]:
        found = {name: self._found(name, settings) for name, settings in source.models().items()}
        self._seen |= found
        return found

    def _found(self, name: str, settings: ModelSettings) -> _Found:
        shelf = self._shelves.of(settings.base_path)
        before = self._seen.get(name)
        if before is not None and before.shelf is not shelf:
            before = None
        try:
            versions = shelf.versions()
        except (OSError, RemoteError) as error:
            trouble = _told(error)
            if before is None or before.trouble != trouble:
                log.warning("%s: %s; what serves goes on", name, trouble)
            versions = {} if before is None else before.versions
            labels = settings.labels or ({} if before is None else before.labels)
            return _Found(settings, shelf, versions, labels, trouble)
        if before is not None and before.trouble:
            log.info("%s: %s can be read again", name, settings.base_path)
        try:
            labels = settings.labels or shelf.labels()
        except (OSError, ArtifactError) as error:
            log.warning("%s", error)
            labels = {} if before is None else before.labels
        return _Found(settings, shelf, versions, labels)

    async def _bring(self, found: Mapping[str, _Found], *, is_all: bool = True) -> None:
        """Loads and unloads until what serves is what was found."""
        if is_all:
            for name in set(self._models) - set(found):
                model = self._models[name]
                model.labels = {}
                for version in list(model.servables):
                    self._unload(name, model, version)
        for name, each in found.items():
            model = self._models.setdefault(name, _Model(each.settings))
            model.settings, model.trouble = each.settings, each.trouble
            is_blind = bool(each.trouble) and not each.versions
            if name not in self._put_away and not is_blind:
                await self._follow(name, model, each)
                await self._tidy(model, each.shelf)

    async def _follow(self, name: str, model: _Model, found: _Found) -> None:
        versions, policy = found.versions, model.settings.policy
        for version in [each for each in model.failed if each not in versions]:
            del model.failed[version]
        labelled = [version for version in set(found.labels.values()) if version in versions]
        if model.settings.transition is Transition.RESOURCES:
            wanted = {*_wanted(policy, versions), *labelled}
            gone = [
                self._unload(name, model, version)
                for version in [each for each in model.servables if each not in wanted]
                if wanted - set(model.failed)
            ]
            if gone:
                await asyncio.wait(gone)
        keep = {
            version
            for version in sorted(labelled)
            if await self._ensure(name, model, version, found)
        }
        chosen = 0
        for version in _candidates(policy, versions):
            if await self._ensure(name, model, version, found):
                keep.add(version)
                chosen += 1
                # Of the latest, those that fail are made up for by older ones.
                if not policy.is_all and not policy.specific and chosen == policy.latest:
                    break
        model.labels = self._moved_labels(name, model, found.labels)
        keep |= set(model.labels.values())
        if keep or not versions:
            for version in [each for each in model.servables if each not in keep]:
                self._unload(name, model, version)

    def _moved_labels(
        self, name: str, model: _Model, wanted: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Labels move only to versions that serve; until then they stay where they are."""
        labels, waiting = {}, {}
        for label, version in wanted.items():
            if version in model.servables:
                labels[label] = version
                continue
            waiting[label] = version
            stays = ""
            if (before := model.labels.get(label)) in model.servables and before is not None:
                labels[label] = before
                stays = f"; it stays on {before}"
            if model.waiting_labels.get(label) != version:
                log.warning(
                    "label %s of %s points to version %d, which does not serve%s",
                    *(label, name, version, stays),
                )
        model.waiting_labels = waiting
        return labels

    async def _ensure(self, name: str, model: _Model, version: int, found: _Found) -> bool:
        """Loads a version unless it serves, or failed as it stands; True when it serves."""
        path = found.versions[version]
        made_from = (path, model.settings.options_of(version))
        if version in model.servables and model.made_from[version] == made_from:
            return True
        if self._is_halted:
            return version in model.servables
        try:
            place = found.shelf.identity(version)
        except OSError:
            place = None
        if place is None:
            return version in model.servables
        identity: tuple[object, ...] = (place, *made_from)
        if model.failed.get(version) == identity:
            return version in model.servables
        model.statuses[version] = VersionStatus(version, VersionState.LOADING)
        log.info("loading %s version %d", name, version)
        try:
            servable = await asyncio.get_running_loop().run_in_executor(
                self._loader, self._fetch_and_load, found, version
            )
        except Exception as error:
            # Whatever a damaged file makes a library raise, the server goes on.
            reason = str(error)
            if not isinstance(error, ServingError | ArtifactError):
                log.exception("loading %s version %d failed", name, version)
                reason = f"{type(error).__name__}: {error}"
            if isinstance(error, RemoteError | NoRoomError):
                # Nothing is wrong with the version: the next look tries again.
                identity = (object(),)
            self._refuse(name, model, version, identity, reason)
            return version in model.servables
        model.failed.pop(version, None)
        if version in model.servables:
            self._unload(name, model, version)
        model.servables[version] = servable
        model.made_from[version] = made_from
        model.statuses[version] = VersionStatus(
            version, VersionState.AVAILABLE, error_message=servable.note
        )
        log.info("%s version %d serves on %s", name, version, servable.engine)
        if servable.note:
            log.warning("%s version %d: %s", name, version, servable.note)
        return True

    def _fetch_and_load(self, found: _Found, version: int) -> Servable:
        try:
            found.shelf.fetch(version)
        except OSError as error:
            # A disk that is full, as a rule, and not the version's fault.
            raise RemoteError(
                f"The copy of version {version} cannot be written: {error.strerror or error}."
            ) from error
        return self._load(found.settings, version, found.versions[version])

    async def _tidy(self, model: _Model, shelf: Shelf) -> None:
        """Lets the shelf forget what is not loaded; never while something is being loaded."""

        def retain() -> None:
            statuses = tuple(model.statuses.values())
            shelf.retain(each.version for each in statuses if each.state is not VersionState.END)

        await asyncio.get_running_loop().run_in_executor(self._loader, retain)

    def _refuse(
        self, name: str, model: _Model, version: int, identity: tuple[object, ...], reason: str
    ) -> None:
        log.error("%s version %d is refused: %s", name, version, reason)
        model.failed[version] = identity
        if serving := model.servables.get(version):
            model.statuses[version] = VersionStatus(
                version, VersionState.AVAILABLE, error_message=serving.note
            )
        else:
            model.statuses[version] = VersionStatus(version, VersionState.END, "UNKNOWN", reason)

    # --- going

    def _unload(self, name: str, model: _Model, version: int) -> "asyncio.Task[None]":
        servable = model.servables.pop(version)
        model.made_from.pop(version, None)
        model.statuses[version] = VersionStatus(version, VersionState.UNLOADING)
        task = asyncio.create_task(self._retire(name, model, version, servable))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
        return task

    async def _retire(self, name: str, model: _Model, version: int, servable: Servable) -> None:
        if not await servable.drain(self._drain_limit_s):
            log.warning("%s version %d was still busy and is closed", name, version)
        await asyncio.get_running_loop().run_in_executor(self._loader, _close, servable)
        if version not in model.servables and (
            model.statuses[version].state is VersionState.UNLOADING
        ):
            model.statuses[version] = VersionStatus(version, VersionState.END)
        log.info("%s version %d is unloaded", name, version)
        if name in self._seen:
            await self._tidy(model, self._seen[name].shelf)

    async def close(self) -> None:
        """Unloads everything, after what is being answered is done."""
        for name, model in self._models.items():
            for version in list(model.servables):
                self._unload(name, model, version)
        if self._unloading:
            await asyncio.wait(self._unloading)
        self._loader.shutdown(wait=True)
        self._shelves.close()


def _told(error: OSError | RemoteError) -> str:
    if isinstance(error, RemoteError):
        return str(error)
    return f"{error.filename} cannot be read: {error.strerror}"


def _close(servable: Servable) -> None:
    servable.close()
    give_back()


def _candidates(policy: VersionPolicy, versions: Iterable[int]) -> list[int]:
    """The versions a policy allows, newest first."""
    newest_first = sorted(versions, reverse=True)
    if policy.specific and not policy.is_all:
        return [each for each in newest_first if each in policy.specific]
    return newest_first


def _wanted(policy: VersionPolicy, versions: Iterable[int]) -> list[int]:
    """The versions a policy asks for, newest first."""
    allowed = _candidates(policy, versions)
    return allowed if policy.is_all or policy.specific else allowed[: policy.latest]
