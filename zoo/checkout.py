"""A model's folder to work in, wherever it is: commands change files, `push` makes them public.

For a base path on disk the folder is the model's own. For a URL it is a copy without the large
files of the versions; those come when a version is needed.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zoo.artifact import (
    MANIFEST,
    VERSION_LABELS,
    VersionLabels,
    check_model_name,
    list_models,
    list_versions,
    version_number,
)
from zoo.errors import ConvzooError, CorruptVersionError, ParityError, UsageError
from zoo.object_store import Entry, RemoteModel, list_remote_models
from zoo.suggest import unknown
from zoo.url import Url
from zoo.versions import GATES, HISTORY, find_model, history


class Checkout:
    """One model's folder to work in.

    Attributes:
        path: `<base path>/<model>`; for a URL a copy without the versions' large files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def base_path(self) -> Path:
        """What holds the model's folder."""
        return self.path.parent

    def need(self, version: int) -> Path:
        """Makes sure that a version lies in the folder whole.

        Raises:
            UsageError: there is no such version.
            ParityError: it is not what was published.
        """
        there = list_versions(self.path)
        if version not in there:
            raise UsageError(unknown(f"version of {self.path.name}", str(version), map(str, there)))
        return there[version]

    def publish(self, version_path: Path, *, is_fixed: bool) -> Path | Url:
        """Makes a version public that was written into the folder; returns its place.

        Raises:
            VersionExistsError: the number was asked for and is taken.
        """
        del is_fixed
        return version_path

    def push(self) -> None:
        """Makes public what else was changed in the folder: labels, gates, removed versions.

        Raises:
            BusyError: somebody else changed the same model; nothing was moved or removed.
        """

    def remove_dead_uploads(self) -> list[int]:
        """Removes what publishers left that were killed; returns the numbers."""
        return []


class RemoteCheckout(Checkout):
    """A copy of a remote model's folder; `push` carries changes back.

    Args:
        model: The remote model.
        scratch: A folder for the copy.
    """

    def __init__(self, model: RemoteModel, scratch: Path) -> None:
        super().__init__(scratch / model.name)
        self._model = model
        self.path.mkdir()
        listing = self._listing = model.look()
        entries = model.entries(listing)
        removed = {version for entry in entries for version in entry.removed}
        self._labels = model.labels(listing)
        names = [
            *(
                f"{folder}/{MANIFEST}"
                for number, folder in listing.versions.items()
                if number not in removed
            ),
            *listing.under(GATES),
            *(name for name in (HISTORY,) if name in listing.files),
        ]
        for name, data in model.read(listing, names).items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(data)
        with (self.path / HISTORY).open("a", encoding="utf-8") as file:
            file.writelines(f"{each.move.model_dump_json()}\n" for each in entries if each.move)
        (self.path / VERSION_LABELS).write_text(
            VersionLabels(labels=self._labels).model_dump_json(), encoding="utf-8"
        )
        self._moves = len(history(self.path))
        self._versions = set(list_versions(self.path))
        # What was read, so that `push` knows what is new.
        self._entries = len(entries)
        self._gates = self._read_gates()
        self._whole: set[int] = set()

    def need(self, version: int) -> Path:
        """Fetches the version once; every hash is checked."""
        place = super().need(version)
        if version not in self._whole:
            try:
                self._model.fetch(self._model.look(), version, place)
            except CorruptVersionError as error:
                raise ParityError(
                    f"Version {version} of {self._model.url} is not what was published: {error}"
                ) from error
            self._whole.add(version)
        return place

    def publish(self, version_path: Path, *, is_fixed: bool) -> Url:
        """Uploads the version under the first number that is free, or the one asked for."""
        place = self._model.upload(version_path, is_fixed=is_fixed)
        self._versions.add(int(place.name))
        self._whole.add(int(place.name))
        return self._model.url / place.name

    def push(self) -> None:
        """Writes gates, then moves in their order, then removals."""
        for name, data in (gates := self._read_gates()).items():
            if self._gates.get(name) != data:
                self._model.write(name, data)
        self._gates = gates
        for move in history(self.path)[self._moves :]:
            labels = {**self._labels, move.label: move.version}
            self._append(Entry(move=move, labels={k: v for k, v in labels.items() if v}))
            self._moves += 1
        removed = sorted(self._versions - set(list_versions(self.path)))
        if removed:
            self._append(Entry(removed=tuple(removed), labels=self._labels))
            for version in removed:
                self._model.remove(version)
            self._versions -= set(removed)

    def _append(self, entry: Entry) -> None:
        self._model.append(self._entries, entry)
        self._entries += 1
        self._labels = dict(entry.labels)

    def _read_gates(self) -> dict[str, bytes]:
        return {
            f"{GATES}/{path.name}": path.read_bytes() for path in (self.path / GATES).glob("*.json")
        }

    def remove_dead_uploads(self) -> list[int]:
        """Removes uploads that were begun more than a day ago and never finished."""
        dead = self._model.dead_uploads()
        for version in dead:
            self._model.remove(version)
        return dead


def list_places(base_path: Path | Url) -> tuple[str, ...]:
    """The models under a base path; none where it does not exist."""
    if isinstance(base_path, Url):
        return list_remote_models(base_path)
    return tuple(list_models(base_path)) if base_path.is_dir() else ()


@contextlib.contextmanager
def checkout(base_path: Path | Url, model: str) -> Iterator[Checkout]:
    """A model's folder to work in, whether the base path is a folder or a URL.

    Raises:
        UsageError: what could not name a model, and might lead out of the base path.
    """
    check_model_name(model)
    if isinstance(base_path, Path):
        yield Checkout(base_path / model)
        return
    with tempfile.TemporaryDirectory(prefix="convzoo-") as scratch:
        try:
            yield RemoteCheckout(RemoteModel(base_path / model), Path(scratch))
        except ConvzooError as error:
            # The copy is nobody's business, and gone when the words are read.
            error.args = tuple(str(each).replace(scratch, str(base_path)) for each in error.args)
            raise


@contextlib.contextmanager
def open_model(base_path: Path | Url, model: str) -> Iterator[Checkout]:
    """The same for a model that must be there.

    Raises:
        UsageError: it has no version; names the models there are.
    """
    with checkout(base_path, model) as opened:
        if isinstance(base_path, Path):
            find_model(base_path, model)
        elif not list_versions(opened.path):
            raise UsageError(unknown("model", model, list_remote_models(base_path)))
        yield opened


@contextlib.contextmanager
def on_disk(place: Path | Url) -> Iterator[Path]:
    """A version's folder, or a run's, as a folder on disk; a remote one goes again.

    Args:
        place: For a URL `<base path>/<model>/<version>`, or `<base path>/<model>` for the newest.
    """
    if isinstance(place, Path):
        yield place
        return
    number = version_number(place.name)
    url = place if number is None else place.parent
    with open_model(url.parent, url.name) as opened:
        yield opened.need(max(list_versions(opened.path)) if number is None else number)
