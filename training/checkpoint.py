"""Checkpoints: every number that decides what comes next, written whole or not at all.

checkpoints/0003_00012800.npz    after so many images of epoch 3; the last few are kept
checkpoints/best.npz             the weights with the best validation accuracy so far
snapshots/epoch_0001.npz         weights that stay
"""

import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.artifact import write_atomically
from zoo.errors import DataError

_NAME = re.compile(r"(\d+)_(\d+)\.npz")


@dataclass(slots=True)
class Place:
    """Where in the run: the epoch (from 1), and what it has seen and summed so far.

    Attributes:
        waited: Epochs since the validation accuracy last rose.
        plateau_waited: Likewise, or since the rate last fell.
        drops: How often a plateau has lowered the rate.
        scale: What it is lowered to.
    """

    epoch: int = 1
    images: int = 0
    right: float = 0.0
    loss_sum: float = 0.0
    best_accuracy: float = -1.0
    best_epoch: int = 0
    waited: int = 0
    plateau_waited: int = 0
    drops: int = 0
    scale: float = 1.0
    ended: bool = False

    def next_epoch(self) -> "Place":
        """The beginning of the next epoch."""
        return dataclasses.replace(self, epoch=self.epoch + 1, images=0, right=0, loss_sum=0.0)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        path: The run's folder.
        recipe_sha256: What a checkpoint must belong to.
        keep: How many of the last ones stay.
    """

    def __init__(self, path: Path, recipe_sha256: str, keep: int) -> None:
        self._folder = path / "checkpoints"
        self._snapshots = path / "snapshots"
        self._recipe_sha256 = recipe_sha256
        self._keep = keep

    def save(self, place: Place, state: Mapping[str, Any]) -> None:
        """Writes one and removes the oldest.

        Raises:
            DataError: it cannot be written, e.g. because the disk is full; the earlier ones stay.
        """
        name = f"{place.epoch:04d}_{place.images:08d}.npz"
        about = json.dumps({"recipe": self._recipe_sha256, **dataclasses.asdict(place)})
        _write(self._folder / name, {**state, "about": np.array(about)})
        for old in self._all()[: -self._keep]:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[Place, dict[str, Any]] | None:
        """The newest that can be read; None when there is none.

        Raises:
            DataError: it belongs to another recipe.
        """
        for path in reversed(self._all()):
            try:
                state = _read(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                continue  # A copy that was broken off; the one before it is whole.
            about = json.loads(str(state.pop("about")))
            if about.pop("recipe") != self._recipe_sha256:
                raise DataError(
                    f"The checkpoint at {path} belongs to another recipe; "
                    "remove it, or choose another --out."
                )
            return Place(**about), state
        return None

    def save_best(self, weights: Mapping[str, Any]) -> None:
        """Keeps the weights with the best validation accuracy so far."""
        _write(self._folder / "best.npz", weights)

    def best(self) -> dict[str, Any] | None:
        """Those weights."""
        path = self._folder / "best.npz"
        return _read(path) if path.exists() else None

    def save_snapshot(self, epoch: int, weights: Mapping[str, Any]) -> None:
        """Keeps an epoch's weights for good."""
        _write(self._snapshots / f"epoch_{epoch:04d}.npz", weights)

    def remove(self) -> None:
        """Removes all but the best and the snapshots: the run is complete."""
        for path in self._all():
            path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        # As numbers: the ten-thousandth epoch has a digit more, and would stand before the others.
        found = (
            (int(match[1]), int(match[2]), path)
            for path in self._folder.glob("*.npz")
            if (match := _NAME.fullmatch(path.name))
        )
        return [path for *_, path in sorted(found)]


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(arrays))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise DataError(
            f"The checkpoint {path} cannot be written: {error.strerror}. The earlier ones are "
            "whole; the same command goes on from them."
        ) from error


def _read(path: Path) -> dict[str, Any]:
    # From memory: NumPy leaves a damaged file open.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
