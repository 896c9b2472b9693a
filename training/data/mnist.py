"""MNIST [lecun1998]: from a folder, or from its canonical place, checked either way.

The checksums are of the unpacked files, so that they hold however a mirror packs them.
"""

import hashlib
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from training.data import idx
from training.data.dataset import Images
from zoo.artifact import write_atomically
from zoo.errors import DataError

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

# The largest file is 9.9 MB packed; a server that sends more is not the one we asked.
MOST_DOWNLOAD_BYTES = 32 << 20


def cache_folder() -> Path:
    """Where downloads stay: $CONVZOO_CACHE, else $XDG_CACHE_HOME/convzoo, else ~/.cache/convzoo."""
    chosen = os.environ.get("CONVZOO_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convzoo"


def load(data_dir: Path | None = None, *, url: str = URL) -> tuple[Images, Images]:
    """The 60,000 training and 10,000 test images, uint8 [N, 28, 28, 1].

    Args:
        data_dir: A folder with the four idx files; without it they are downloaded once.
        url: Where the download is, ending in "/".

    Raises:
        DataError: a file is missing, damaged, or not MNIST's; names it and what was expected.
    """
    folder = data_dir if data_dir is not None else download(cache_folder() / "mnist", url)
    return _load_part(folder, "train"), _load_part(folder, "t10k")


def _load_part(folder: Path, part: str) -> Images:
    arrays = []
    for stem in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"):
        path = idx.find(folder, stem)
        data = idx.read_bytes(path)
        array = idx.parse(data, path)
        check(data, stem, path)
        arrays.append(array)
    return idx.as_images(arrays[0], arrays[1], f"MNIST's {part} part")


def check(data: bytes, stem: str, where: object) -> None:
    """Holds unpacked bytes against MNIST's checksum.

    Raises:
        DataError: they differ.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256[stem]:
        raise DataError(
            f"{where} is not MNIST's {stem}: unpacked it has SHA-256 {found}, expected "
            f"{SHA256[stem]}. For idx files of your own use data.source=idx."
        )


def download(folder: Path, url: str = URL) -> Path:
    """Fetches what is missing into `folder`; a file is kept only when its checksum holds.

    Raises:
        DataError: the place cannot be reached, or sent something else.
    """
    for stem in SHA256:
        path = folder / f"{stem}.gz"
        if path.is_file():
            continue
        print(f"Downloading {url}{path.name} ...", file=sys.stderr)  # noqa: T201
        try:
            with urllib.request.urlopen(f"{url}{path.name}", timeout=60) as answer:  # noqa: S310
                packed = answer.read(MOST_DOWNLOAD_BYTES)
        except (urllib.error.URLError, OSError) as error:
            raise DataError(
                f"MNIST cannot be downloaded from {url}: {getattr(error, 'reason', error)}. "
                "With the four idx files at hand, pass their folder: --data-dir DIR."
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        arrived = folder / f".{path.name}-{os.getpid()}"
        try:
            arrived.write_bytes(packed)
            check(idx.read_bytes(arrived), stem, f"{url}{path.name}")
            write_atomically(path, packed)
        finally:
            arrived.unlink(missing_ok=True)
    return folder
