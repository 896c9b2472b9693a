"""Changes what is served."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from serving.core.repository import Repository
from serving.errors import DeadlineExceededError
from serving.messages import DEFAULT_OPTIONS, ReloadConfigCall, VersionOptions


class Administration:
    """Acts on a repository, on behalf of a protocol's caller.

    A change that has begun is finished even when its caller goes: half a change would leave a
    version loaded that nobody knows of.

    Args:
        repository: What is changed.
        options: How models are run that a caller configures.
    """

    def __init__(self, repository: Repository, options: VersionOptions = DEFAULT_OPTIONS) -> None:
        self._repository = repository
        self._options = options
        self._changes: set[asyncio.Task[None]] = set()

    async def reload_config(self, call: ReloadConfigCall) -> None:
        """Serves the models of a configuration and no others; returns when all are available."""
        models = [replace(each, options=self._options) for each in call.models]
        await self._finish(self._repository.replace(models), call.deadline)

    async def load(self, model: str) -> None:
        """Loads a model of the repository, or looks for versions that are new."""
        await self._finish(self._repository.load(model), None)

    async def unload(self, model: str) -> None:
        """Stops serving a model; returns when what it has begun is done."""
        await self._finish(self._repository.unload(model), None)

    async def _finish(self, change: Coroutine[Any, Any, None], deadline: float | None) -> None:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        left = None if deadline is None else deadline - time.monotonic()
        try:
            await asyncio.wait_for(asyncio.shield(task), left)
        except TimeoutError as error:
            raise DeadlineExceededError(
                "The deadline passed; the change goes on, and the status tells when it is done."
            ) from error
