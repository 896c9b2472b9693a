"""`convzoo serve --dry-run`: what would be loaded, on which engine, at what cost, within what limits.

Everything is loaded, proven, warmed and measured as the server would do it; then it goes again.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.app import source_of
from serving.config import Settings
from serving.core.memory import give_back, resident_bytes
from serving.core.repository import Repository
from serving.core.servable import Servable
from serving.core.shelves import Shelves
from serving.errors import LoadError
from serving.limits import LIMITS
from serving.messages import ModelSettings, Target
from serving.wire.tfs_json import dumps


class RefusedError(LoadError):
    """A dry run found versions that would not serve."""

    exit_code = 3


def dry_run(settings: Settings, *, as_json: bool) -> None:
    """Prints what the server would do.

    Args:
        settings: The server's.
        as_json: One JSON document instead of text.

    Raises:
        ConfigError: the settings cannot work.
        RefusedError: a version would be refused; what there is to say is printed first.
    """
    document = asyncio.run(_loaded(settings))
    if as_json:
        sys.stdout.write(dumps(document).decode() + "\n")
    else:
        sys.stdout.write(_as_text(document))
    refused = [each for each in document["versions"] if each["state"] != "AVAILABLE"]
    if refused or document["without"] or not document["versions"]:
        names = ", ".join(f"{each['model']} version {each['version']}" for each in refused)
        reasons = [f"These versions would be refused: {names}."] if refused else []
        raise RefusedError(" ".join((*reasons, *document["without"])) or "There is no model.")


async def _loaded(settings: Settings) -> dict[str, Any]:
    took: dict[tuple[str, int], int] = {}
    with ThreadPoolExecutor(1) as decoders:

        def load(model: ModelSettings, version: int, path: Path) -> Servable:
            before = resident_bytes()
            options = model.options_of(version)
            servable = Servable(model.name, version, path, options=options, decoders=decoders)
            give_back()
            took[model.name, version] = max(0, resident_bytes() - before)
            return servable

        shelves = Shelves(settings.cache_dir)
        repository = Repository(source_of(settings), load, shelves=shelves)
        await repository.refresh()
        versions = [
            _described(repository, model.model, status.version, took)
            | {"state": str(status.state), "reason": status.error_message}
            for model in repository.statuses()
            for status in model.versions
        ]
        without = [
            why
            for each, why in repository.empty().items()
            if not any(version["model"] == each for version in versions)
        ]
        await repository.close()
    return {
        "versions": versions,
        "without": without,
        "process_bytes": resident_bytes(),
        "limits": asdict(LIMITS),
        "default_timeout_s": settings.default_timeout_s,
    }


def _described(
    repository: Repository, model: str, version: int, took: dict[tuple[str, int], int]
) -> dict[str, Any]:
    named: dict[str, Any] = {"model": model, "version": version}
    if version not in repository.versions(model):
        return named
    servable = repository.find(Target(model, version))
    batching = servable.batching
    return named | {
        "engine": servable.engine,
        # A worker process holds its memory outside of this one.
        "memory_bytes": took[model, version] + servable.worker_bytes(),
        "streams": batching.streams,
        "max_batch_rows": batching.max_rows,
        "batch_sizes": list(batching.sizes),
        "batch_seconds": {str(rows): each for rows, each in servable.tuned.batch_s.items()},
        "is_tuning_cached": servable.tuned.is_cached,
        "max_queued_rows": batching.max_queued_rows,
        "max_queue_s": batching.max_queue_s,
        "labels": [
            label
            for label, number in repository.status(Target(model)).labels.items()
            if number == version
        ],
    }


def _as_text(document: dict[str, Any]) -> str:
    lines = []
    for each in document["versions"]:
        name = f"{each['model']} version {each['version']}"
        if each["state"] != "AVAILABLE":
            lines.append(f"{name}: refused: {each['reason']}")
            continue
        labels = f" (labels: {', '.join(each['labels'])})" if each["labels"] else ""
        lines += [
            f"{name}{labels}",
            f"  engine    {each['engine']}, {each['memory_bytes'] / 1e6:.0f} MB",
            *([f"  note      {each['reason']}"] if each["reason"] else []),
            f"  batches   up to {each['max_batch_rows']} rows, {each['streams']} at a time"
            + (", as measured earlier" if each["is_tuning_cached"] else ""),
        ]
        lines += [
            f"  cost      {int(rows):3d} rows {1e3 * seconds:9.3f} ms"
            f"  {int(rows) * each['streams'] / seconds:10.1f} rows/s"
            for rows, seconds in each["batch_seconds"].items()
        ]
        lines.append(
            f"  queue     {each['max_queued_rows']} rows, {each['max_queue_s']:g} s of work"
        )
    lines.append(f"process     {document['process_bytes'] / 1e6:.0f} MB")
    lines.append("limits      " + ", ".join(f"{k} {v:,}" for k, v in document["limits"].items()))
    return "\n".join(lines) + "\n"
