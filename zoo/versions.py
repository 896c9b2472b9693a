"""Which version a label names, who moved it and why; and which versions may go.

    <base path>/<model>/labels.json           label -> version, replaced whole
    <base path>/<model>/history.jsonl         one line a move
    <base path>/<model>/gates/<version>.json  what the gates said of a version

They lie beside the versions: a published version itself is never changed.
"""

import contextlib
import fcntl
import getpass
import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from zoo.artifact import (
    MANIFEST,
    MODEL_NAME,
    file_sha256,
    first_fault,
    has_manifest,
    list_versions,
    read_labels,
    verify,
    version_number,
    write_atomically,
    write_labels,
)
from zoo.errors import ArtifactError, BusyError, CorruptVersionError, ParityError, UsageError
from zoo.frozen import Frozen
from zoo.suggest import unknown

HISTORY = "history.jsonl"
GATES = "gates"
STABLE = "stable"
LATEST = "latest"

Outcome = Literal["pass", "fail", "inconclusive"]


class Move(Frozen):
    """One line of a model's history: a label was set to a version.

    Attributes:
        label: e.g. "stable".
        version: Where it points since; None: it was removed.
        before: Where it pointed until then; None when it was new.
        who: User and machine.
        why: The reason given, or what moved it.
        recipe_sha256: The recipe that the version came from.
        forced: The version had not passed its gates, and somebody decided for it all the same.
        gates: What the gates had said; None when they had not judged it, in a rollback, and in a
            history from before this was kept.
        rolled_back: The move undid an earlier one; None in a history from before this was kept.
    """

    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    label: str
    version: int | None
    before: int | None
    who: str
    why: str
    recipe_sha256: str = ""
    forced: bool = False
    gates: Outcome | None = None
    rolled_back: bool | None = None


class GateRecord(Frozen):
    """The gates' verdict on a version, as far as promotion needs it.

    Attributes:
        manifest_sha256: The hash of the manifest that was judged.
        against: The version it was compared with.
    """

    outcome: Outcome
    manifest_sha256: str
    against: int | None = None


def find_model(base_path: Path, model: str) -> Path:
    """A model's folder.

    Raises:
        UsageError: there is none with a version; names those there are.
    """
    place = base_path / model
    if not list_versions(place):
        names = [each.name for each in base_path.iterdir()] if base_path.is_dir() else []
        known = sorted(name for name in names if list_versions(base_path / name))
        raise UsageError(unknown("model", model, known))
    return place


def resolve(model_path: Path, which: str) -> int:
    """The version that a number, a label or "latest" names.

    Raises:
        UsageError: none; names those there are.
    """
    versions, labels = list_versions(model_path), read_labels(model_path)
    if which == LATEST:
        return max(versions)
    number = version_number(which)
    if number in versions:
        return number
    if which in labels:
        return labels[which]
    known = [*map(str, versions), *labels, LATEST]
    raise UsageError(unknown(f"version of {model_path.name}", which, known))


def check_label(label: str) -> str:
    """Returns `label` when it can stand in a URL and be told from a number, "latest" and an option.

    Raises:
        UsageError: it cannot.
    """
    if not MODEL_NAME.fullmatch(label) or label.startswith("-") or label.isdigit():
        raise UsageError(
            f"{label!r} cannot be a label: 1 to 64 of letters, digits, '.', '_' and '-', "
            "not digits or dots alone, and no '-' first."
        )
    if label == LATEST:
        raise UsageError(f"{LATEST!r} cannot be a label: it always means the newest version.")
    return label


def promote(
    model_path: Path, version: int, *, label: str = STABLE, why: str = "", is_forced: bool = False
) -> Move:
    """Points a label to a version.

    Args:
        model_path: `<base path>/<model>`.
        version: A version that verifies and, unless forced, passed its gates.
        label: The label.
        why: The reason; needed when forced.
        is_forced: Accept a version that was not gated or did not pass; the history says so.

    Raises:
        UsageError: no such version, not gated, forced without a reason, or no name for a label.
        ParityError: the version's files are not those its manifest names.
    """
    check_label(label)
    with lock(model_path):
        if version not in list_versions(model_path):
            raise UsageError(
                unknown(
                    f"version of {model_path.name}",
                    str(version),
                    map(str, list_versions(model_path)),
                )
            )
        is_in_place = read_labels(model_path).get(label) == version
        if is_forced and not why.strip() and not is_in_place:
            raise UsageError("--force needs --why: the history says why the gates were passed by.")
        recipe = check_version(model_path / str(version))
        if not is_forced and not is_in_place:
            _require_gated(model_path, version)
        verdict = _verdict(model_path, version)
        return _move(
            model_path,
            label,
            version,
            why=why,
            recipe=recipe,
            is_forced=is_forced and verdict != "pass",
            is_back=False,
            gates=verdict,
        )


def rollback(model_path: Path, *, label: str = STABLE, why: str = "") -> Move:
    """Points a label back to where it was before its last move.

    A second rollback goes one further back, not forward again.

    Raises:
        UsageError: it was never anywhere else, or that version is gone.
    """
    with lock(model_path):
        before = previous(model_path, label)
        recipe = check_version(model_path / str(before))
        return _move(
            model_path,
            label,
            before,
            why=why or "rollback",
            recipe=recipe,
            is_forced=False,
            is_back=True,
        )


def previous(model_path: Path, label: str) -> int:
    """Where `rollback` would point a label.

    Raises:
        UsageError: it was never anywhere else, or that version is gone.
    """
    labels = read_labels(model_path)
    if label not in labels:
        raise UsageError(unknown(f"label of {model_path.name}", label, labels))
    before = _before(model_path, label, labels[label])
    if before is None:
        raise UsageError(f"{label!r} of {model_path.name!r} never named another version.")
    if before not in list_versions(model_path):
        raise UsageError(f"Version {before} of {model_path.name!r} is no longer there.")
    return before


def _before(model_path: Path, label: str, current: int) -> int | None:
    """What the label named before the move that led to `current`; what was undone does not count."""
    trail: list[int] = []
    for move in history(model_path):
        if move.label != label or move.version is None:
            continue
        # An old history does not say what was a rollback: a move to where one would have led was.
        is_back = move.version in trail[-2:-1] if move.rolled_back is None else move.rolled_back
        if is_back and move.version in trail[:-1]:
            trail.pop()
            while trail[-1] != move.version:
                trail.pop()
        else:
            trail.append(move.version)
    return trail[-2] if len(trail) > 1 and trail[-1] == current else None


def history(model_path: Path) -> list[Move]:
    """All moves, oldest first; a line that was not finished is left out."""
    try:
        lines = (model_path / HISTORY).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    moves = []
    for line in lines:
        with contextlib.suppress(ValidationError):
            moves.append(Move.model_validate_json(line))
    return moves


def prune(model_path: Path, keep: int) -> list[int]:
    """Removes the oldest versions; never one that a label names or named last.

    Args:
        model_path: `<base path>/<model>`.
        keep: How many of the newest stay in any case.

    Returns:
        The versions that were removed.
    """
    with lock(model_path):
        labels = read_labels(model_path)
        kept = {*labels.values(), *sorted(list_versions(model_path))[-keep:]}
        kept |= {
            before
            for label, version in labels.items()
            if (before := _before(model_path, label, version)) is not None
        }
        removed = []
        for version, path in list_versions(model_path).items():
            if version in kept:
                continue
            # Out of sight first: a server must not read a version that is half gone.
            hidden = path.with_name(f".removed-{version}-{os.getpid()}")
            path.rename(hidden)
            shutil.rmtree(hidden)
            (model_path / GATES / f"{version}.json").unlink(missing_ok=True)
            removed.append(version)
        return removed


def check_version(version_path: Path) -> str:
    """Holds a version against its manifest; returns its recipe's hash.

    Raises:
        ParityError: the files are not those the manifest names.
    """
    if not has_manifest(version_path):
        raise ParityError(
            f"Version {version_path.name} has no manifest: it was not published by convzoo, "
            "and cannot be verified."
        )
    try:
        return verify(version_path).recipe_sha256
    except CorruptVersionError as error:
        raise ParityError(f"Version {version_path.name} is not what was published: {error}") from (
            error
        )


def write_gate(model_path: Path, version: int, report: str) -> None:
    """Keeps a gate report (JSON with at least `GateRecord`'s fields) beside the versions."""
    place = model_path / GATES / f"{version}.json"
    place.parent.mkdir(exist_ok=True)
    write_atomically(place, report.encode() + b"\n")


def read_gate(model_path: Path, version: int) -> GateRecord | None:
    """The verdict on a version; None when it was never judged."""
    try:
        plain = json.loads((model_path / GATES / f"{version}.json").read_bytes())
        return GateRecord.model_validate(
            {name: plain[name] for name in GateRecord.model_fields if name in plain}
        )
    except FileNotFoundError:
        return None
    except (ValueError, ValidationError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else str(error)
        raise ArtifactError(f"The gate report of version {version} is not valid: {fault}") from (
            error
        )


def _verdict(model_path: Path, version: int) -> Outcome | None:
    """What the gates say of a version; None when they have not judged this one."""
    record = read_gate(model_path, version)
    if record is None or record.manifest_sha256 != file_sha256(
        model_path / str(version) / MANIFEST
    ):
        return None
    return record.outcome


def _require_gated(model_path: Path, version: int) -> None:
    record = read_gate(model_path, version)
    how = (
        f"`convzoo gate {model_path}/{version}` judges it; --force with --why promotes it all the "
        "same."
    )
    if record is None:
        raise UsageError(f"Version {version} of {model_path.name!r} was not gated. {how}")
    if record.manifest_sha256 != file_sha256(model_path / str(version) / MANIFEST):
        raise UsageError(f"The gates judged another version {version}. {how}")
    if record.outcome != "pass":
        raise UsageError(
            f"The gates' verdict on version {version} of {model_path.name!r} is "
            f"{record.outcome}. {how}"
        )


def _move(
    model_path: Path,
    label: str,
    version: int,
    *,
    why: str,
    recipe: str,
    is_forced: bool,
    is_back: bool,
    gates: Outcome | None = None,
) -> Move:
    labels = read_labels(model_path)
    move = Move(
        label=label,
        version=version,
        before=labels.get(label),
        who=who(),
        why=why,
        recipe_sha256=recipe,
        forced=is_forced,
        gates=gates,
        rolled_back=is_back,
    )
    if labels.get(label) == version:
        return move  # Nothing moves, so nothing is written.
    # The history first: a kill between the two leaves a line without a move, which the next
    # reader can see, and never a move that nobody knows of.
    earlier = "".join(each.model_dump_json() + "\n" for each in history(model_path))
    write_atomically(model_path / HISTORY, (earlier + move.model_dump_json() + "\n").encode())
    write_labels(model_path, {**labels, label: version})
    return move


def who() -> str:
    """Who is at work, for records: user and machine."""
    return f"{_user()}@{socket.gethostname()}"


def _user() -> str:
    # CI systems say who started a job; a container may have no user of that number.
    # GITHUB_ACTOR stays whoever started the first attempt when somebody else runs it again.
    for name in ("GITHUB_TRIGGERING_ACTOR", "GITHUB_ACTOR", "GITLAB_USER_LOGIN"):
        if os.environ.get(name):
            return os.environ[name]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@contextlib.contextmanager
def lock(
    model_path: Path, name: str = ".labels.lock", *, is_waiting: bool = True
) -> Iterator[None]:
    """One process at a time; a lock dies with its process.

    Args:
        model_path: `<base path>/<model>`; made when missing.
        name: The lock's file.
        is_waiting: Wait for the other process, or refuse at once.

    Raises:
        BusyError: another process holds it.
    """
    model_path.mkdir(parents=True, exist_ok=True)
    with (model_path / name).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if is_waiting else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            raise BusyError(
                f"Another run works on {model_path.name!r} ({file.read().strip() or 'unknown'}); "
                "start again when it has ended."
            ) from error
        # A courtesy to who finds it locked; a full disk must not keep a label from going back.
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
