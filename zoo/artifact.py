"""The seam between training and serving: one published version on disk.

    <base path>/<model>/<integer version>/
        saved_model.pb  variables/  assets/labels.txt
        assets.extra/tf_serving_warmup_requests
        assets.extra/convzoo/manifest.json  golden.npz  preprocessing.npz  openvino/  model.keras
        assets.extra/convzoo/drift.json

Rules this file keeps:
1. A reader sees all of a version or nothing: it is written into a hidden directory beside its
   place, fsynced, and renamed. A number that is taken is never overwritten.
2. The manifest names every other file with its size and SHA-256; `verify` believes nothing else.
3. No framework is imported here.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from zoo.errors import ArtifactError, CorruptVersionError, UsageError, VersionExistsError
from zoo.frozen import Frozen
from zoo.preprocess import Floats, Preprocessing

Array = NDArray[Any]

EXTRA = "assets.extra/convzoo"
MANIFEST = f"{EXTRA}/manifest.json"
GOLDEN = f"{EXTRA}/golden.npz"
PREPROCESSING_ARRAYS = f"{EXTRA}/preprocessing.npz"
KERAS_MODEL = f"{EXTRA}/model.keras"
MODEL_CARD = f"{EXTRA}/README.md"
REPORT = f"{EXTRA}/report"
DRIFT = f"{EXTRA}/drift.json"
WARMUP = "assets.extra/tf_serving_warmup_requests"
LABELS_TXT = "assets/labels.txt"
VERSION_LABELS = "labels.json"

# Written by the server into a version's folder (tuning results); never part of what was published.
CACHE = "assets.extra/convzoo/cache"

# TensorFlow Serving's versions are 64-bit numbers, and so are those of every protocol.
LARGEST_VERSION = 2**63 - 1

MODEL_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}")


class FileRecord(Frozen):
    """Size and hash of one file of a version."""

    bytes: int
    sha256: str


class TensorRecord(Frozen):
    """One input or output of a signature; -1 stands for any size."""

    dtype: str
    shape: tuple[int, ...]


class SignatureRecord(Frozen):
    """A signature as published, so that a server need not read `saved_model.pb`."""

    inputs: dict[str, TensorRecord]
    outputs: dict[str, TensorRecord]
    method_name: str = "tensorflow/serving/predict"


class EngineRecord(Frozen):
    """A form of the network that one engine runs.

    Attributes:
        file: Relative path of what the engine loads; "." is the SavedModel itself.
        precision: What the engine computes in; OpenVINO's is one of `zoo.precision.PRECISIONS`.
        outputs: The outputs this form computes, by name; a signature is a choice among them.
        tolerance: Largest absolute difference of the logits from the golden ones, divided by
            the golden logits' standard deviation, that this engine may show.
        measured: That difference as measured when the version was published.
    """

    file: str
    precision: str
    outputs: tuple[str, ...]
    tolerance: float = Field(gt=0)
    measured: float = Field(ge=0)


class Metric(Frozen):
    """A measured figure with its interval; accuracies are fractions in 0..1."""

    value: float
    low: float | None = None
    high: float | None = None
    examples: int | None = None


class Architecture(Frozen):
    """How the zoo builds this network again."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


class Origin(Frozen):
    """Where weights come from that were not trained here.

    Attributes:
        weights: "<network>/<publisher>" of public weights, else the file's name.
        url: Where they are published; empty of a file that is none of those.
        licence: What their publisher says; empty where that is not known.
        sha256: Of the file.
        input: What becomes of an image, as their publisher has it, in words.
        top1_error: Per cent, as their publisher measured it on ILSVRC-2012 validation.
        golden: What the golden records are of: images that were given, or drawn ones.
    """

    weights: str
    url: str = ""
    licence: str = ""
    sha256: str
    input: str
    top1_error: float | None = None
    golden: Literal["images", "synthetic"]


class Manifest(Frozen):
    """All that is known of one published version.

    Attributes:
        origin: Of weights that were not trained here; None of a run's, which has a recipe.
    """

    format: Literal[1] = 1
    model: str
    version: int = Field(ge=1)
    architecture: Architecture
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    signatures: dict[str, SignatureRecord]
    engines: dict[str, EngineRecord]
    default_engine: str
    metrics: dict[str, Metric] = Field(default_factory=dict)
    origin: Origin | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    recipe_sha256: str = ""
    data_sha256: str = ""
    code_revision: str = ""
    libraries: dict[str, str] = Field(default_factory=dict)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    files: dict[str, FileRecord] = Field(default_factory=dict)


class VersionLabels(Frozen):
    """Movable names for versions, e.g. stable -> 3."""

    labels: dict[str, int] = Field(default_factory=dict)


# --- Where things are ---------------------------------------------------------------------------


def check_model_name(name: str) -> str:
    """Returns `name` when it can be a folder and part of a URL.

    Raises:
        UsageError: it cannot.
    """
    if not MODEL_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a model: 1 to 64 of letters, digits, '.', '_' and '-', "
            "not dots alone."
        )
    return name


def version_number(name: str) -> int | None:
    """The version a folder's name stands for, or None; '007' is 7, as in TF Serving."""
    if not (name.isascii() and name.isdigit() and len(name) <= len(str(LARGEST_VERSION))):
        return None
    return number if (number := int(name)) <= LARGEST_VERSION else None


def list_versions(model_path: Path) -> dict[int, Path]:
    """The version folders of a model, by number, ascending. A missing folder has none."""
    found: dict[int, Path] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(model_path) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            number = version_number(entry.name)
            if number is not None and entry.is_dir():
                found.setdefault(number, Path(entry.path))
    return dict(sorted(found.items()))


def list_models(base_path: Path) -> dict[str, Path]:
    """The models under a base path: folders that hold a version, or may, for all one can read."""
    with os.scandir(base_path) as entries:
        folders = sorted((entry.name, Path(entry.path)) for entry in entries if entry.is_dir())
    return {name: path for name, path in folders if MODEL_NAME.fullmatch(name) and _may_hold(path)}


def _may_hold(model_path: Path) -> bool:
    try:
        return bool(list_versions(model_path))
    except PermissionError:
        return True


# --- Writing ------------------------------------------------------------------------------------


class Draft:
    """A version being written; `path` is the hidden folder it grows in."""

    def __init__(self, model_path: Path, model: str, version: int | None) -> None:
        self.model = model
        self.model_path = model_path
        self._wanted = version
        self.path = model_path / f".draft-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def commit(self, manifest: Manifest, check: Callable[[Path], None] = lambda _: None) -> Path:
        """Completes the version: manifest, check, fsync, rename.

        The manifest's `version` and `files` are set here.

        Args:
            manifest: All else.
            check: Looks at the finished folder before it gets its place, and raises to refuse it.

        Returns:
            The version's folder, `<base path>/<model>/<version>`.

        Raises:
            VersionExistsError: the wanted number is taken. Without a wanted number the next free
                one is used, however many writers race for it.
            ArtifactError: a file stands where the folder should.
        """
        while True:
            version = self._wanted or max(list_versions(self.model_path), default=0) + 1
            place = self.model_path / str(version)
            if version in list_versions(self.model_path):
                self._refuse(version)
            _write_manifest(
                self.path,
                manifest.model_copy(update={"version": version, "files": _hashes(self.path)}),
            )
            check(self.path)
            _fsync_tree(self.path)
            try:
                # Renaming onto a folder that is not empty fails, so the number is claimed and
                # filled in one step.
                self.path.rename(place)
            except OSError as error:
                if not place.exists():
                    raise
                if not place.is_dir():
                    raise ArtifactError(
                        f"{place} is no folder, so version {version} cannot have its place; "
                        "remove it, or move it away."
                    ) from error
                if self._wanted is not None:
                    self._refuse(version, error)
                continue
            _fsync_folder(self.model_path)
            return place

    def _refuse(self, version: int, cause: OSError | None = None) -> None:
        taken = ", ".join(map(str, list_versions(self.model_path)))
        raise VersionExistsError(
            f"Version {version} of {self.model!r} exists already (there are {taken}); "
            "a published version is never overwritten."
        ) from cause


@contextlib.contextmanager
def draft_version(base_path: Path, model: str, version: int | None = None) -> Iterator[Draft]:
    """Opens a draft of the next (or the given) version; what is not committed is removed.

    Args:
        base_path: The folder the server watches; made when missing.
        model: The model's name.
        version: The wanted number, or None for the next free one.

    Raises:
        UsageError: no name for a model.
        ArtifactError: the base path cannot be written.
    """
    model_path = base_path / check_model_name(model)
    draft = Draft(model_path, model, version)
    try:
        model_path.mkdir(parents=True, exist_ok=True)
        _remove_dead_drafts(model_path)
        draft.path.mkdir()
    except OSError as error:
        raise ArtifactError(
            f"Cannot write into base path {base_path}: {error.strerror}."
        ) from error
    try:
        yield draft
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)


def _remove_dead_drafts(model_path: Path) -> None:
    """Removes what killed writers on this machine left behind."""
    for folder in model_path.glob(".draft-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _hashes(root: Path) -> dict[str, FileRecord]:
    return {
        path.relative_to(root).as_posix(): FileRecord(
            bytes=path.stat().st_size, sha256=file_sha256(path)
        )
        for path in sorted(root.rglob("*"))
        if path.is_file() and path != root / MANIFEST
    }


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(root: Path, manifest: Manifest) -> None:
    path = root / MANIFEST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def renumber(version_path: Path, version: int) -> Path:
    """Gives a version that nobody has seen yet another number; returns its folder."""
    manifest = read_manifest(version_path).model_copy(update={"version": version})
    _write_manifest(version_path, manifest)
    return version_path.rename(version_path.with_name(str(version)))


def _fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fsync_tree(root: Path) -> None:
    for folder, _, names in os.walk(root):
        for name in names:
            _fsync_folder(Path(folder) / name)  # an open handle is an open handle
        _fsync_folder(Path(folder))


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces a small file: a reader sees the old bytes or the new ones, whole.

    The folder is held while that happens: where it is renamed meanwhile, the file goes with it,
    and is not said to be missing after it was written.
    """
    temporary = f".{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=folder), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        finally:
            # On a disk that has become read-only, even this fails.
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            os.close(folder)
    except OSError as error:
        # A full disk names no file, and nobody knows the temporary one.
        error.filename, error.filename2 = str(path), None
        raise


def write_labels(model_path: Path, labels: Mapping[str, int]) -> None:
    """Replaces the version labels of a model, atomically.

    Raises:
        ArtifactError: a label points to a version that is not there.
    """
    versions = list_versions(model_path)
    missing = {label: version for label, version in labels.items() if version not in versions}
    if missing:
        raise ArtifactError(
            f"No such versions of {model_path.name!r}: {missing}; there are {list(versions)}."
        )
    data = VersionLabels(labels=dict(labels)).model_dump_json(indent=2) + "\n"
    write_atomically(model_path / VERSION_LABELS, data.encode())


# --- Reading ------------------------------------------------------------------------------------


def read_labels(model_path: Path) -> dict[str, int]:
    """The version labels of a model; none when there is no such file."""
    try:
        text = (model_path / VERSION_LABELS).read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return dict(VersionLabels.model_validate_json(text).labels)
    except ValidationError as error:
        raise ArtifactError(
            f"{VERSION_LABELS} of model {model_path.name!r} is not valid: {first_fault(error)}"
        ) from error


def has_manifest(version_path: Path) -> bool:
    """Whether convzoo published this version; a SavedModel from elsewhere has no manifest."""
    return (version_path / MANIFEST).is_file()


def read_manifest(version_path: Path) -> Manifest:
    """Reads a version's manifest.

    Raises:
        CorruptVersionError: there is none, or it is not valid.
    """
    try:
        text = (version_path / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise CorruptVersionError(
            f"Version {version_path.name} of {version_path.parent.name!r} has no {MANIFEST}."
        ) from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise CorruptVersionError(
            f"{MANIFEST} of version {version_path.name} is not valid: {first_fault(error)}"
        ) from error


def verify(version_path: Path, manifest: Manifest | None = None) -> Manifest:
    """Holds every file of a version against its manifest.

    Returns:
        The manifest.

    Raises:
        CorruptVersionError: names the first file that is missing, has another size or hash.
    """
    known = manifest or read_manifest(version_path)
    for name, record in known.files.items():
        path = version_path / name
        if not path.resolve().is_relative_to(version_path.resolve()):
            raise CorruptVersionError(f"The manifest names {name!r}, outside its version.")
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise CorruptVersionError(f"{name} is missing.") from error
        if size != record.bytes:
            raise CorruptVersionError(f"{name} has {size} bytes, its manifest says {record.bytes}.")
        found = file_sha256(path)
        if found != record.sha256:
            raise CorruptVersionError(
                f"{name} has SHA-256 {found[:12]}..., its manifest says {record.sha256[:12]}..."
            )
    return known


def write_golden(
    version_path: Path, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> None:
    """Keeps a few real inputs and the outputs Keras gave for them."""
    path = version_path / GOLDEN
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"input:{name}": array for name, array in inputs.items()}
    arrays |= {f"output:{name}": array for name, array in outputs.items()}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_golden(version_path: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns the golden (inputs, outputs) of a version, by name."""
    arrays = _read_npz(version_path / GOLDEN)
    parts: dict[str, dict[str, Array]] = {"input": {}, "output": {}}
    for key, array in arrays.items():
        part, name = key.split(":", 1)
        parts[part][name] = array
    return parts["input"], parts["output"]


def read_preprocessing_arrays(version_path: Path) -> dict[str, Floats]:
    """The fitted arrays of a version's preprocessing, by name; none when it has none."""
    path = version_path / PREPROCESSING_ARRAYS
    return {} if not path.exists() else _read_npz(path)


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        # Opened here: NumPy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptVersionError(f"{path.name} cannot be read: {error}") from error


def first_fault(error: ValidationError) -> str:
    """The first fault pydantic found, in one line: where, what, and what was there."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"])) or "the document"
    found = json.dumps(fault["input"], default=str)[:80]
    return f"{where}: {fault['msg']} (found {found})"
