"""Images in class folders: a folder, a zip or a tar, read where they lie.

    train/cat/001.jpg   test/cat/002.jpg        parts, then classes
    cat/001.jpg   dog/002.png                   classes alone; the source splits them

Anything above these (`cifar10/train/...`) is passed over. An image that fits into neither form is an
error, since either guess would make wrong classes. Nothing is unpacked onto the disk.
"""

import lzma
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from training.data.dataset import Files, Ids, shown
from zoo.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
MOST_FILE_BYTES = 64 << 20


class Tree(NamedTuple):
    """What was found.

    Attributes:
        parts: The files of each part ("train", "validation", "test"; all under "" when the folders
            name classes alone), in the order of their names.
        labels: The class names in alphabetical order.
        notes: What was left out: folders without an image, files of other kinds.
    """

    parts: dict[str, Files]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def load(path: Path) -> Tree:
    """Finds the images below a folder or in an archive.

    Args:
        path: A folder, or a .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz file.

    Raises:
        DataError: no such file, no archive, nothing in it that looks like class folders, or images
            that lie beside them; names these.
    """
    names, read = _open(path)
    names = list(names)
    chosen = _images(names)
    found = [PurePosixPath(name).parts for name in chosen]
    if not found or any(len(parts) < 2 for parts in found):
        loose = next((name for name in chosen if "/" not in name), "")
        others = Counter(
            shown(PurePosixPath(name).suffix.lower()) or "without a suffix"
            for name in names
            if not name.endswith("/") and not _is_hidden(name)
        )
        has = [f"{number:,} {suffix}" for suffix, number in others.most_common()]
        raise DataError(
            f"{path} has no class folders with images"
            + (f" ({loose} lies outside any folder)" if loose else "")
            + (f" (its files: {_listed(has)})" if has and not found else "")
            + "; expected CLASS/IMAGE or train/CLASS/IMAGE and test/CLASS/IMAGE "
            f"({', '.join(SUFFIXES)})."
        )
    part_of, class_of, depth = _places(path, found)
    labels = tuple(sorted(set(class_of)))
    class_ids = {label: number for number, label in enumerate(labels)}
    parts = {}
    for part in sorted(set(part_of)):
        rows = [row for row, each in enumerate(part_of) if each == part]
        parts[part] = _files(
            [chosen[row] for row in rows],
            np.array([class_ids[class_of[row]] for row in rows], dtype=np.int64),
            read,
        )
    return Tree(parts, labels, _notes(names, chosen, depth=depth))


def load_unlabelled(path: Path) -> Files:
    """All images below a folder or in an archive, whatever their folders are called.

    Their class ids are 0.

    Args:
        path: As for `load`.

    Raises:
        DataError: no such file, no archive, or no image in it.
    """
    names, read = _open(path)
    chosen = _images(names)
    if not chosen:
        raise DataError(f"{path} has no images ({', '.join(SUFFIXES)}).")
    return _files(chosen, np.zeros(len(chosen), np.int64), read)


def _files(names: list[str], class_ids: Ids, read: Callable[[str], bytes]) -> Files:
    """Files under names that reports can hold, whatever bytes the system's names are."""
    real = {shown(name): name for name in names}
    return Files(tuple(real), class_ids, lambda name: read(real[name]))


def _images(names: Iterable[str]) -> list[str]:
    return sorted(
        name
        for name in names
        if not name.endswith("/")
        and PurePosixPath(name).suffix.lower() in SUFFIXES
        and not _is_hidden(name)
    )


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _notes(names: list[str], chosen: list[str], *, depth: int) -> tuple[str, ...]:
    """What is in class folders, or in their places, and is not read.

    Args:
        names: Of all files and folders.
        chosen: Of images.
        depth: How many folders a class folder lies in.
    """
    notes: list[str] = []
    read = {PurePosixPath(name).parts[: depth + 1] for name in chosen}
    above = {folder[:depth] for folder in read}
    empty: set[str] = set()
    suffixes: Counter[str] = Counter()
    for name in names:
        parts = PurePosixPath(name).parts
        folders = parts if name.endswith("/") else parts[:-1]
        if _is_hidden(name) or len(folders) <= depth or folders[:depth] not in above:
            continue
        if folders[: depth + 1] not in read:
            empty.add(shown("/".join(folders[: depth + 1])))
        suffix = shown(PurePosixPath(name).suffix.lower())
        if not name.endswith("/") and suffix not in SUFFIXES:
            suffixes[suffix or "without a suffix"] += 1
    if empty:
        notes.append(f"Folders without an image that can be read: {_listed(sorted(empty))}.")
    if suffixes:
        left_out = _listed([f"{number:,} {suffix}" for suffix, number in suffixes.most_common()])
        notes.append(f"Files left out: {left_out}; images are {', '.join(SUFFIXES)}.")
    return tuple(notes)


def _places(path: Path, found: list[tuple[str, ...]]) -> tuple[list[str], list[str], int]:
    """The part and the class of each image, and how many folders a class folder lies in.

    Raises:
        DataError: there are images that lie in no class folder; names them.
    """
    top = 0
    while len({parts[top] for parts in found}) == 1 and found[0][top].lower() not in PARTS:
        below = {parts[top + 1] for parts in found if len(parts) > top + 2}
        loose = [parts for parts in found if len(parts) <= top + 2]
        if loose and len(below) > 1:
            above = "/".join(found[0][: top + 1])
            raise DataError(
                f"{path} has the folders {_listed(sorted(below))} in {above}; "
                f"{_beside(loose)} beside them, in no class folder."
            )
        if loose:
            break
        top += 1
    tops = {parts[top] for parts in found}
    of_parts = sorted(
        {parts[top] for parts in found if parts[top].lower() in PARTS and len(parts) > top + 2}
    )
    if of_parts:
        fits = [parts[top] in of_parts and len(parts) > top + 2 for parts in found]
        loose = [parts for parts, fit in zip(found, fits, strict=True) if not fit]
        if loose:
            raise DataError(
                f"{path} has class folders in {_listed(of_parts)}; {_beside(loose)} in none of them."
            )
        return (
            [PARTS[parts[top].lower()] for parts in found],
            [parts[top + 1] for parts in found],
            top + 1,
        )
    if all(name.lower() in PARTS for name in tops):
        raise DataError(
            f"{path} has images, but no class folders in {_listed(sorted(tops))}; expected "
            f"{min(tops)}/CLASS/IMAGE."
        )
    return [""] * len(found), [parts[top] for parts in found], top


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _beside(loose: list[tuple[str, ...]]) -> str:
    names = [shown("/".join(parts)) for parts in loose]
    return f"{_listed(names)} {'lies' if len(names) == 1 else 'lie'}"


def _open(path: Path) -> tuple[Iterable[str], Callable[[str], bytes]]:
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise DataError(f"There is no folder or archive {path}.")
    if zipfile.is_zipfile(path):
        return _open_zip(path)
    try:
        if tarfile.is_tarfile(path):
            return _open_tar(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read as an archive: {error}.") from error
    raise DataError(f"{path} is no folder, zip or tar.")


def _open_folder(folder: Path) -> tuple[Iterable[str], Callable[[str], bytes]]:
    names = list(_below(folder))

    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{shown(name)} cannot be read: {error.strerror}.") from error

    return names, read


def _below(folder: Path, prefix: str = "", above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Names of all files and, with "/" at the end, folders; links are followed.

    A link to a folder that it lies in would never end, so it is passed over.
    """
    here = folder.resolve()
    if here in above:
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from error
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield f"{name}/"
            yield from _below(entry, f"{name}/", (*above, here))
        elif entry.is_file() or entry.is_symlink():
            # A link to nothing is an image that cannot be read, and is told as one.
            yield name


def _open_zip(path: Path) -> tuple[Iterable[str], Callable[[str], bytes]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a zip: {error}.") from error
    lock = threading.Lock()

    def read(name: str) -> bytes:
        try:
            with lock:
                if archive.getinfo(name).file_size > MOST_FILE_BYTES:
                    raise DataError(f"{name} says it has more than {MOST_FILE_BYTES:,} bytes.")
                return archive.read(name)
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
            raise DataError(f"{name} in {path.name} is damaged: {error}.") from error

    # A zip marks its folders with "/" at the end, as names do here.
    return archive.namelist(), read


def _open_tar(path: Path) -> tuple[Iterable[str], Callable[[str], bytes]]:
    """Places in an uncompressed tar are read directly; a compressed one is read once, whole."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = archive.getmembers()
    except tarfile.ReadError:
        return _unpack(path)
    places = {each.name: (each.offset_data, each.size) for each in members if each.isfile()}

    def read(name: str) -> bytes:
        offset, size = places[name]
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise DataError(f"{shown(name)} in {path.name} is truncated.")
        return data

    return _names(members), read


def _names(members: list[tarfile.TarInfo]) -> list[str]:
    """A tar's files and folders; of other kinds there are no images."""
    return [
        f"{each.name}/" if each.isdir() else each.name
        for each in members
        if each.isdir() or each.isfile()
    ]


def _unpack(path: Path) -> tuple[Iterable[str], Callable[[str], bytes]]:
    contents: dict[str, bytes] = {}
    members: list[tarfile.TarInfo] = []
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                members.append(member)
                if member.isfile() and PurePosixPath(member.name).suffix.lower() in SUFFIXES:
                    if member.size > MOST_FILE_BYTES:
                        raise DataError(
                            f"{shown(member.name)} has more than {MOST_FILE_BYTES:,} bytes."
                        )
                    file = archive.extractfile(member)
                    contents[member.name] = file.read() if file is not None else b""
            # Checksums stand behind the data: damage makes a header that reads like the end.
            while archive.fileobj is not None and archive.fileobj.read(1 << 20):
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    return _names(members), contents.__getitem__
