"""A base path in an object store: S3, Google Cloud Storage or Azure, by URL, through fsspec.

    <url>/<model>/<version>/...               as on disk
    <url>/<model>/gates/<version>.json        as on disk
    <url>/<model>/claims/<version>.json       who took a number
    <url>/<model>/moves/<sequence>.json       a label that moved, and where all labels are since

Object stores cannot rename, lock or change two objects at once. Rules this file keeps instead:
1. A version is there when its manifest is. The manifest is written last, and what it names is
   believed only when size and SHA-256 agree.
2. What must not happen twice (a number taken, a label moved) is an object that is created where
   there is none: of two writers the store refuses one. A store that does not is refused.
3. Whatever else needs files gets them on the disk, verified and moved into place.
4. A URL has a scheme of `SCHEMES` and no credentials; those come from the driver's environment.
"""

import contextlib
import hashlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from zoo.artifact import (
    MANIFEST,
    MODEL_NAME,
    VERSION_LABELS,
    Manifest,
    VersionLabels,
    check_model_name,
    first_fault,
    list_versions,
    read_manifest,
    renumber,
    verify,
    version_number,
)
from zoo.errors import (
    ArtifactError,
    BusyError,
    CorruptVersionError,
    NoRoomError,
    RemoteError,
    UsageError,
    VersionExistsError,
)
from zoo.frozen import Frozen
from zoo.url import SCHEMES, Url
from zoo.versions import GATES, Move, who

CLAIMS, MOVES = "claims", "moves"

# An upload without a manifest is somebody's work in progress, until it is this old.
UNFINISHED = timedelta(days=1)

# Manifests and moves are read whole into memory; both are kilobytes.
MAX_RECORD_BYTES = 16_000_000


# --- Reading ------------------------------------------------------------------------------------


class Entry(Frozen):
    """What is kept of one change of a model, in its order.

    Attributes:
        move: The label that moved, if one did.
        removed: The versions that were removed.
        labels: Where all labels are after it.
    """

    move: Move | None = None
    removed: tuple[int, ...] = ()
    labels: dict[str, int] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """What lay under a model's URL when it was looked at.

    Attributes:
        files: Relative names, with what changes when the object does.
        sizes: Their bytes.
        versions: The versions whose manifest is there: number -> folder.
        unfinished: The numbers that are taken, but hold no version.
        moves: The names of the entries, oldest first.
    """

    files: Mapping[str, str]
    sizes: Mapping[str, int]
    versions: Mapping[int, str] = field(init=False)
    unfinished: frozenset[int] = field(init=False)
    moves: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        folders = {name.split("/", 1)[0] for name in self.files if "/" in name}
        numbers = {
            number: folder
            for folder in sorted(folders, reverse=True)
            if (number := version_number(folder)) is not None
        }
        complete = {
            number: folder
            for number, folder in sorted(numbers.items())
            if f"{folder}/{MANIFEST}" in self.files
        }
        claimed = {
            number
            for name in self.under(CLAIMS)
            if (number := version_number(name.split("/")[1].removesuffix(".json"))) is not None
        }
        object.__setattr__(self, "versions", complete)
        object.__setattr__(self, "unfinished", frozenset({*numbers, *claimed} - set(complete)))
        object.__setattr__(self, "moves", self.under(MOVES))

    def under(self, folder: str) -> list[str]:
        """The names in a folder, sorted."""
        return sorted(name for name in self.files if name.startswith(f"{folder}/"))

    def identity(self, version: int) -> str:
        """Changes when any file of a version does."""
        names = self.under(self.versions[version])
        text = "\n".join(f"{name} {self.files[name]}" for name in names)
        return hashlib.sha256(text.encode()).hexdigest()


class RemoteModel:
    """The versions of one model under a URL.

    Everything raises `RemoteError` when the store does not answer or refuses.
    """

    def __init__(self, url: Url) -> None:
        self.url = url
        self.name = check_model_name(url.name)
        self._fs, self._root = _open(url)
        self._labels: tuple[str, dict[str, int]] = ("", {})

    def look(self) -> Listing:
        """One look at all that lies there."""
        with _telling(self.url):
            found = self._fs.find(self._root, detail=True)
        start = f"{self._root}/"
        files = {
            name.removeprefix(start): info for name, info in found.items() if name.startswith(start)
        }
        return Listing(
            {name: _identity(info) for name, info in files.items()},
            {name: int(info["size"]) for name, info in files.items()},
        )

    def labels(self, listing: Listing) -> dict[str, int]:
        """Where the labels are.

        Raises:
            ArtifactError: the record of them is not valid.
        """
        name = listing.moves[-1] if listing.moves else VERSION_LABELS
        if name not in listing.files:
            return {}
        key = f"{name} {listing.files[name]}"
        if self._labels[0] != key:
            kind = Entry if listing.moves else VersionLabels
            self._labels = (key, self._parse(kind, name, self.read(listing, [name])[name]).labels)
        return dict(self._labels[1])

    def entries(self, listing: Listing) -> list[Entry]:
        """All that was changed, oldest first."""
        texts = self.read(listing, listing.moves)
        return [self._parse(Entry, name, texts[name]) for name in listing.moves]

    def _parse(self, kind: Any, name: str, text: bytes) -> Any:
        try:
            return kind.model_validate_json(text)
        except ValidationError as error:
            raise ArtifactError(
                f"{name} of {self.url} is not valid: {first_fault(error)}"
            ) from error

    def read(self, listing: Listing, names: Sequence[str]) -> dict[str, bytes]:
        """The bytes of small objects, by name."""
        if not names:
            return {}
        for name in names:
            if listing.sizes[name] > MAX_RECORD_BYTES:
                raise ArtifactError(
                    f"{name} of {self.url} has {listing.sizes[name]:,} bytes; it should have few."
                )
        with _telling(self.url):
            found = self._fs.cat([self._at(name) for name in names])
        return {name: bytes(found[self._at(name)]) for name in names}

    def fetch(self, listing: Listing, version: int, place: Path) -> Path:
        """Brings a whole version to `place`, which it gets once every hash agrees.

        Raises:
            CorruptVersionError: it is not what its manifest says.
            NoRoomError: the disk cannot hold it.
        """
        folder = listing.versions[version]
        text = self.read(listing, [f"{folder}/{MANIFEST}"])[f"{folder}/{MANIFEST}"]
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=place.parent) as scratch:
            partial = Path(scratch) / str(version)
            (partial / MANIFEST).parent.mkdir(parents=True)
            (partial / MANIFEST).write_bytes(text)
            manifest = read_manifest(partial)
            _require_present(listing, folder, manifest, partial)
            _require_space(place.parent, manifest)
            local = [partial / name for name in manifest.files]
            for path in local:
                path.parent.mkdir(parents=True, exist_ok=True)
            with _telling(self.url):
                self._fs.get(
                    [self._at(f"{folder}/{name}") for name in manifest.files],
                    [str(path) for path in local],
                )
            verify(partial, manifest)
            shutil.rmtree(place, ignore_errors=True)
            partial.rename(place)
        return place

    # --- writing

    def upload(self, version_path: Path, *, is_fixed: bool) -> Path:
        """Publishes a version that lies on disk; its number is claimed first.

        Args:
            version_path: `<folder>/<number>`.
            is_fixed: The number was asked for; otherwise the next free one is used.

        Returns:
            The folder, under the number it was published as.

        Raises:
            VersionExistsError: the number that was asked for is taken.
        """
        number = self._claim(int(version_path.name), is_fixed=is_fixed)
        if number != int(version_path.name):
            version_path = renumber(version_path, number)
        manifest = read_manifest(version_path)
        names = list(manifest.files)
        with _telling(self.url):
            self._fs.put(
                [str(version_path / name) for name in names],
                [self._at(f"{number}/{name}") for name in names],
            )
        sizes = self.look().sizes
        for name in names:
            arrived = sizes.get(f"{number}/{name}")
            if arrived != manifest.files[name].bytes:
                raise RemoteError(
                    f"{self.url} has {arrived} bytes of {name} after writing "
                    f"{manifest.files[name].bytes}; version {number} stays unfinished."
                )
        if not self.create(f"{number}/{MANIFEST}", (version_path / MANIFEST).read_bytes()):
            raise VersionExistsError(f"Somebody else finished version {number} of {self.url}.")
        return version_path

    def _claim(self, wanted: int, *, is_fixed: bool) -> int:
        number = wanted
        while True:
            listing = self.look()
            taken = {*listing.versions, *listing.unfinished}
            if number not in taken:
                claim = {"id": uuid.uuid4().hex, "who": who(), "time": datetime.now(UTC)}
                text = "\n".join(f"{name}: {value}" for name, value in claim.items())
                if self.create(f"{CLAIMS}/{number}.json", text.encode()):
                    return number
                taken.add(number)
            if is_fixed:
                there = ", ".join(map(str, sorted(taken)))
                raise VersionExistsError(
                    f"Version {number} of {self.url} is taken (there are {there}); a published "
                    "version is never overwritten."
                )
            number = max(taken) + 1

    def append(self, earlier: int, entry: Entry) -> None:
        """Adds an entry behind the `earlier` ones that were read.

        Raises:
            BusyError: somebody else did so since.
        """
        name = f"{MOVES}/{earlier + 1:010d}.json"
        if not self.create(name, entry.model_dump_json(indent=2).encode()):
            raise BusyError(
                f"Somebody else changed {self.url} at the same time. `convzoo versions "
                f"{self.name} --history` says what; then start again."
            )

    def remove(self, version: int) -> None:
        """Removes a version, or what an unfinished upload left; the manifest goes first."""
        listing = self.look()
        names = [
            name
            for name in listing.files
            if version_number(name.split("/")[0]) == version
            or name in (f"{GATES}/{version}.json", f"{CLAIMS}/{version}.json")
        ]
        with _telling(self.url):
            for name in [each for each in names if each.endswith(f"/{MANIFEST}")]:
                self._fs.rm_file(self._at(name))
                names.remove(name)
            for name in names:
                self._fs.rm_file(self._at(name))

    def dead_uploads(self, age: timedelta = UNFINISHED) -> list[int]:
        """The numbers that were claimed so long ago that nobody can still be uploading."""
        listing = self.look()
        dead = []
        for number in sorted(listing.unfinished):
            claim = f"{CLAIMS}/{number}.json"
            if claim in listing.files:
                with _telling(self.url):
                    since = self._fs.modified(self._at(claim))
                if datetime.now(UTC) - since.astimezone(UTC) > age:
                    dead.append(number)
        return dead

    def write(self, name: str, data: bytes) -> None:
        """Replaces a small object."""
        with _telling(self.url):
            self._fs.pipe_file(self._at(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object where there is none; False when there is another.

        Raises:
            ArtifactError: the store overwrites all the same.
        """
        path = self._at(name)
        if not self._put_new(path, data):
            # A driver that tries again after a lost answer is refused for its own object.
            with _telling(self.url):
                return bytes(self._fs.cat_file(path)) == data
        if self._put_new(path, data):
            raise ArtifactError(
                f"The store of {self.url} overwrites what it should only create (it does not keep "
                "If-None-Match), so two writers could destroy each other's work. Nothing was "
                "published or moved."
            )
        return True

    def _put_new(self, path: str, data: bytes) -> bool:
        with _telling(self.url):
            try:
                self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            except OSError:
                # Not every store says which condition failed.
                if self._fs.exists(path):
                    return False
                raise
        return True

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


def list_remote_models(url: Url) -> tuple[str, ...]:
    """The models under a base path: folders that hold a numbered folder."""
    return tuple(
        name
        for name in list_folders(url)
        if MODEL_NAME.fullmatch(name) and is_remote_model(url / name)
    )


def is_remote_model(url: Url) -> bool:
    """Whether a folder is one model's: it holds a numbered folder."""
    return any(version_number(each) is not None for each in list_folders(url))


def list_folders(url: Url) -> tuple[str, ...]:
    """The names of the folders right under a URL, sorted; none where there is nothing.

    Raises:
        RemoteError: the store does not answer, refuses, or has no such bucket.
    """
    fs, root = _open(url)
    with _telling(url):
        try:
            found = fs.ls(root, detail=True)
        except FileNotFoundError:
            bucket = root.lstrip("/").split("/")[0]
            if not fs.exists(bucket):
                raise
            found = []
    return tuple(
        sorted(
            each["name"].rstrip("/").rsplit("/", 1)[1]
            for each in found
            if each["type"] == "directory"
        )
    )


def _open(url: Url) -> tuple[Any, str]:
    package = SCHEMES[url.scheme]
    try:
        import fsspec

        with _telling(url):
            # A listing that is remembered would hide what others publish.
            fs, root = fsspec.core.url_to_fs(url.text, use_listings_cache=False)
    except ImportError as error:
        raise UsageError(
            f"{url.scheme}:// needs {package}, which is not installed. Install it with: "
            f"pip install {package}"
        ) from error
    return fs, root.rstrip("/")


@contextlib.contextmanager
def _telling(url: Url) -> Iterator[None]:
    """Turns what drivers raise into one error without secrets."""
    try:
        yield
    except (ImportError, ArtifactError, UsageError):
        raise
    except Exception as error:
        raise RemoteError(f"{url} cannot be used: {_words(error)}") from error


def _words(error: Exception) -> str:
    """An error's text; what may carry credentials in a URL is cut off."""
    text = " ".join(str(error).split()) or "no reason given"
    text = re.sub(r"(://)[^/@\s]+@", r"\1", text)
    text = re.sub(r"(://[^\s?\"']+)\?[^\s\"']*", r"\1", text)
    return f"{type(error).__name__}: {text[:300]}"


# What drivers call the thing that changes when an object does.
_IDENTITIES = (
    *("ETag", "etag", "generation", "md5Hash"),
    *("LastModified", "last_modified", "updated", "created", "mtime"),
)


def _identity(info: Mapping[str, Any]) -> str:
    known = [f"{name}={info[name]}" for name in _IDENTITIES if info.get(name) is not None]
    return ";".join([f"size={info['size']}", *known])


def _require_present(listing: Listing, folder: str, manifest: Manifest, root: Path) -> None:
    """Refuses what can be refused before anything large is fetched."""
    for name, record in manifest.files.items():
        if not (root / name).resolve().is_relative_to(root.resolve()):
            raise CorruptVersionError(f"The manifest names {name!r}, outside its version.")
        size = listing.sizes.get(f"{folder}/{name}")
        if size is None:
            raise CorruptVersionError(f"{name} is missing.")
        if size != record.bytes:
            raise CorruptVersionError(f"{name} has {size} bytes, its manifest says {record.bytes}.")


def _require_space(folder: Path, manifest: Manifest) -> None:
    needed = sum(record.bytes for record in manifest.files.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise NoRoomError(
            f"Version {manifest.version} of {manifest.model!r} takes {needed / 1e6:,.0f} MB; "
            f"{folder} has {free / 1e6:,.0f} MB free."
        )


# --- Following, as a server does ----------------------------------------------------------------


class Mirror:
    """A remote model whose versions are brought into a folder when they are wanted.

    Args:
        url: The model's.
        folder: Belongs to this mirror alone.
    """

    def __init__(self, url: Url, folder: Path) -> None:
        self._model = RemoteModel(url)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for scratch in folder.glob(".fetch-*"):
            shutil.rmtree(scratch, ignore_errors=True)
        self._listing = Listing({}, {})

    def versions(self) -> dict[int, Path]:
        """Looks for the versions; each has its folder once it is fetched.

        Raises:
            RemoteError: the store cannot be read now.
        """
        self._listing = self._model.look()
        return {number: self._folder / str(number) for number in self._listing.versions}

    def labels(self) -> dict[str, int]:
        """Where the labels were when `versions` looked.

        Raises:
            ArtifactError: the record of them cannot be read.
        """
        return self._model.labels(self._listing)

    def identity(self, version: int) -> str | None:
        """Changes when the version does; None when it is gone."""
        return self._listing.identity(version) if version in self._listing.versions else None

    def fetch(self, version: int) -> None:
        """Brings a version into its folder, unless it lies there already, whole.

        Raises:
            RemoteError: the store does not answer; later it may.
            ArtifactError: the version is not what was published, or there is no room.
        """
        place = self._folder / str(version)
        if (place / MANIFEST).is_file():
            name = f"{self._listing.versions[version]}/{MANIFEST}"
            published = self._model.read(self._listing, [name])[name]
            with contextlib.suppress(CorruptVersionError):
                if (place / MANIFEST).read_bytes() == published:
                    verify(place)
                    return
        self._model.fetch(self._listing, version, place)

    def retain(self, versions: Iterable[int]) -> None:
        """Removes from the disk all versions but these."""
        kept = set(versions)
        for number, path in list_versions(self._folder).items():
            if number not in kept:
                shutil.rmtree(path, ignore_errors=True)
