"""A second attempt beside a slow first one: the first good answer wins.

A reply that is a refusal, and a connection that broke, do not win while the other attempt is still
under way. The loser's answer is thrown away; over asyncio its call is cancelled.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from serving.client.core import Send
from serving.client.errors import ClientError
from serving.client.exchange import Reply


@dataclass(frozen=True, slots=True)
class Came:
    """What came of one attempt: a reply, or the failure that stands in its place."""

    reply: Reply | None = None
    failure: BaseException | None = None

    @property
    def is_good(self) -> bool:
        """Whether it ends the race."""
        return self.reply is not None and self.reply.is_success

    def give(self) -> Reply:
        """Returns the reply, or raises the failure."""
        if self.reply is None:
            assert self.failure is not None  # noqa: S101 - it is one or the other
            raise self.failure
        return self.reply


def send_hedged(send: Callable[[Send], Reply], step: Send) -> Reply:
    """Sends for threads; each attempt has a thread of its own."""
    assert step.hedge is not None  # noqa: S101 - the caller has looked
    came: queue.SimpleQueue[Came] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            came.put(Came(reply=send(step)))
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            came.put(Came(failure=error))

    _start(attempt)
    try:
        return came.get(timeout=step.hedge.after_s).give()
    except queue.Empty:
        if not step.hedge.may_start():
            return came.get().give()
    _start(attempt)
    first = came.get()
    return first.give() if first.is_good else _better(first, came.get())


def _start(attempt: Callable[[], None]) -> None:
    threading.Thread(target=attempt, name="convzoo-hedge", daemon=True).start()


def _better(first: Came, second: Came) -> Reply:
    # Of two refusals the first tells how long the call really took to fail.
    return (second if second.is_good else first).give()


async def send_hedged_async(send: Callable[[Send], Awaitable[Reply]], step: Send) -> Reply:
    """Sends for asyncio."""
    assert step.hedge is not None  # noqa: S101 - the caller has looked

    async def attempt() -> Came:
        try:
            return Came(reply=await send(step))
        except ClientError as error:
            return Came(failure=error)

    running = {asyncio.create_task(attempt())}
    try:
        done, running = await asyncio.wait(running, timeout=step.hedge.after_s)
        if done:
            return done.pop().result().give()
        if step.hedge.may_start():
            running.add(asyncio.create_task(attempt()))
        first: Came | None = None
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for came in (task.result() for task in done):
                if came.is_good:
                    return came.give()
                first = first or came
        assert first is not None  # noqa: S101 - at least one attempt was made
        return first.give()
    finally:
        for task in running:
            task.cancel()
