"""Where a model's versions lie: a folder, or a URL whose versions are brought to disk when wanted."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from serving.errors import ConfigError
from zoo.artifact import CACHE, list_versions, read_labels
from zoo.errors import BusyError
from zoo.object_store import Mirror
from zoo.url import Url, place_of
from zoo.versions import lock


class Shelf(Protocol):
    """The versions of one model."""

    def versions(self) -> Mapping[int, Path]:
        """Looks for the versions; their folders need not be there yet.

        Raises:
            OSError, RemoteError: the place cannot be read now.
        """
        ...

    def labels(self) -> Mapping[str, int]:
        """Where the labels were when `versions` looked.

        Raises:
            ArtifactError: the record of them is not valid.
        """
        ...

    def identity(self, version: int) -> object | None:
        """Changes when the version does; None when it is gone."""
        ...

    def fetch(self, version: int) -> None:
        """Makes sure that the version's folder is there, whole.

        Raises:
            RemoteError: not now; later it may.
            ArtifactError: it is not what was published.
        """
        ...

    def retain(self, versions: Iterable[int]) -> None:
        """Says which versions are still of use."""
        ...


class Folder:
    """Versions on disk: everything is there already, and stays."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def versions(self) -> Mapping[int, Path]:
        """The numbered folders."""
        # One that is not there is not an empty one: what serves from it goes on.
        self._path.stat()
        return list_versions(self._path)

    def labels(self) -> Mapping[str, int]:
        """What the file beside them says."""
        return read_labels(self._path)

    def identity(self, version: int) -> object | None:
        """What lies in its folder: a version that is copied grows below, not at the top."""
        path = list_versions(self._path).get(version)
        return None if path is None else _state(path)

    def fetch(self, version: int) -> None:
        """Has nothing to do."""

    def retain(self, versions: Iterable[int]) -> None:
        """Has nothing to do."""


def _state(path: Path) -> tuple[int, ...]:
    """Of a folder and what is below, but for what the server keeps there itself."""
    found = [path.stat()]
    for root, folders, files in os.walk(path):
        folders[:] = [each for each in folders if Path(root, each) != path / CACHE]
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                found.append(Path(root, name).stat())
    latest = max(max(each.st_mtime_ns, each.st_ctime_ns) for each in found)
    return found[0].st_ino, len(found), sum(each.st_size for each in found), latest


class Shelves:
    """The shelf of each base path.

    Args:
        cache_dir: Where versions of URLs are kept from one start to the next, for one server
            alone; a temporary folder when None.

    Raises:
        ConfigError: another server has it, or it cannot be written.
    """

    def __init__(self, cache_dir: Path | None = None) -> None:
        self._known: dict[str, Shelf] = {}
        self._stack = contextlib.ExitStack()
        self._cache_dir = cache_dir
        if cache_dir is not None:
            try:
                self._stack.enter_context(lock(cache_dir, ".lock", is_waiting=False))
            except BusyError as error:
                raise ConfigError(
                    f"Another server uses the cache {cache_dir}; each needs its own --cache-dir."
                ) from error
            except OSError as error:
                raise ConfigError(
                    f"The cache {cache_dir} cannot be written: {error.strerror}."
                ) from error

    def of(self, base_path: str) -> Shelf:
        """The shelf of a model's base path, a folder or a URL."""
        if base_path not in self._known:
            place = place_of(base_path)
            self._known[base_path] = (
                Mirror(place, self._place(base_path)) if isinstance(place, Url) else Folder(place)
            )
        return self._known[base_path]

    def _place(self, base_path: str) -> Path:
        if self._cache_dir is None:
            scratch = tempfile.TemporaryDirectory(prefix="convzoo-serve-")
            self._cache_dir = Path(self._stack.enter_context(scratch))
        return self._cache_dir / _digest(base_path)

    def close(self) -> None:
        """Removes what nobody asked for any more, and the cache when it was temporary."""
        if self._cache_dir is not None:
            used = {_digest(each) for each in self._known}
            for folder in self._cache_dir.iterdir():
                if re.fullmatch("[0-9a-f]{32}", folder.name) and folder.name not in used:
                    shutil.rmtree(folder, ignore_errors=True)
        self._stack.close()


def _digest(base_path: str) -> str:
    return sha256(base_path.encode()).hexdigest()[:32]
