"""HTTP connections: a pool of them for threads, and one for asyncio.

Rules that both keep:
1. One deadline is over everything: finding the address, connecting, the handshake, sending, and
   each byte of the answer.
2. A connection goes back to the pool only when an answer was read to its end and nothing followed.
3. A connection from the pool that the server had closed meanwhile is replaced by a new one, once,
   where the request may be sent twice.
4. No cookies, no redirects, no proxies from the environment: a call goes where its URL says.
"""

import asyncio
import contextlib
import math
import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from typing import Any

from serving.client import tls as tls_files
from serving.client.address import Address
from serving.client.core import Send
from serving.client.deadline import Deadline
from serving.client.errors import ClientError, TransportError, UsageError
from serving.client.exchange import Reply
from serving.client.settings import Tls
from serving.client.transports.http1 import PIECE_BYTES, Answer, head_of, pieces_of

# Of one event loop, which may have any number of calls under way; more than this wait.
MOST_CONNECTIONS = 128


class _Http:
    """What both forms share."""

    def __init__(self, address: Address, tls: Tls) -> None:
        self._address = address
        self._tls = tls_files.context(tls) if address.is_encrypted else None
        self._server_name = tls.server_name or address.host
        self._is_closed = False

    def _pieces(self, step: Send) -> list[memoryview]:
        if self._is_closed:
            raise UsageError("The client is closed.")
        try:
            head = head_of(
                step.request, self._address.authority, self._address.prefix, step.headers
            )
        except ValueError as error:
            raise UsageError(f"HTTP cannot carry this call: {error}") from error
        return pieces_of(head, step.request.body)

    def _no_connection(self, error: Exception) -> TransportError:
        words = str(error) or type(error).__name__
        what = tls_files.hint(words, "REST", is_encrypted=self._tls is not None)
        return TransportError(f"No connection to {self._address.authority}: {words}. {what}")

    def _broken(self, error: Exception) -> ClientError:
        if self._is_closed:
            return UsageError("The client was closed during the call.")
        words = str(error) or type(error).__name__
        return TransportError(
            f"The connection to {self._address.authority} broke: {words}.", is_sent=True
        )


class _StaleError(Exception):
    """A connection from the pool that the server had closed before anything was asked on it."""


# --- For threads --------------------------------------------------------------------------------


class HttpTransport(_Http):
    """HTTP for threads; each call under way has a connection of its own."""

    def __init__(self, address: Address, tls: Tls) -> None:
        super().__init__(address, tls)
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        # Threads share both without a lock: each of their operations is one step of Python's.
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()

    def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        pieces = self._pieces(step)
        if os.getpid() != self._process:
            self._begin()  # a fork: the connections are the parent's
        while (connection := self._idle_one()) is not None:
            if connection.is_fresh(step.request.is_repeatable):
                try:
                    return self._exchange(connection, pieces, step)
                except _StaleError:
                    break
            connection.close()
        return self._exchange(self._connected(step.deadline), pieces, step)

    def _idle_one(self) -> "_Connection | None":
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _exchange(self, connection: "_Connection", pieces: list[memoryview], step: Send) -> Reply:
        was_used = connection.used_at > 0
        answer = connection.next_answer()
        is_reusable = False
        self._busy.add(connection)
        try:
            connection.exchange(pieces, answer, step.deadline)
            is_reusable = not answer.is_last
        except TimeoutError as error:
            raise step.deadline.error("waiting for the answer") from error
        except (OSError, EOFError) as error:
            if was_used and not answer.is_begun and step.request.is_repeatable:
                raise _StaleError from error
            raise self._broken(error) from error
        finally:
            self._busy.discard(connection)
            if is_reusable and not self._is_closed:
                self._idle.append(connection)
            else:
                connection.close()
        return answer.reply()

    def _connected(self, deadline: Deadline) -> "_Connection":
        try:
            connected = _connect(self._address, deadline)
            try:
                if self._tls is not None:
                    connected = self._tls.wrap_socket(connected, server_hostname=self._server_name)
            except BaseException:
                connected.close()
                raise
        except TimeoutError as error:
            raise deadline.error("connecting") from error
        except (OSError, ValueError) as error:
            raise self._no_connection(error) from error
        return _Connection(connected)

    def close(self) -> None:
        """Closes the connections; calls under way end with an error."""
        self._is_closed = True
        while (connection := self._idle_one()) is not None:
            connection.close()
        for connection in tuple(self._busy):
            connection.interrupt()


def _connect(address: Address, deadline: Deadline) -> socket.socket:
    """A connection to the first of the host's addresses that takes one."""
    places = _resolve(address.host, address.port, deadline)
    for index, (family, kind, proto, _, place) in enumerate(places):
        left = deadline.require_s("connecting")
        connecting = socket.socket(family, kind, proto)
        try:
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # One address that swallows everything must not take the time of those behind it.
            connecting.settimeout(None if left is None else left / (len(places) - index))
            connecting.connect(place)
        except OSError:
            connecting.close()
            if index == len(places) - 1:
                raise
        else:
            connecting.settimeout(deadline.remaining_s())
            return connecting
    raise OSError(f"{address.host!r} has no address")


def _resolve(host: str, port: int, deadline: Deadline) -> list[Any]:
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    if host[-1].isdigit() or ":" in host or host == "localhost":
        ask()
    else:
        # Nothing else limits how long a name server may take.
        asking = threading.Thread(target=ask, name="convzoo-resolve", daemon=True)
        asking.start()
        asking.join(deadline.remaining_s())
    if not found:
        raise TimeoutError
    if isinstance(found[0], Exception):
        raise OSError(f"{host!r} has no address: {found[0]}") from found[0]
    places: list[Any] = found[0]
    return places


# After so long without a call a connection is looked at before it is used again.
FRESH_FOR_S = 1.0

# The kernel can limit how long a blocking socket waits. Python's own limits cost two more calls of
# the system for each operation, a tenth of a small call; gevent's sockets know only those.
_HAS_KERNEL_LIMITS = sys.platform in ("linux", "darwin") and sys.maxsize > 2**32


class _Connection:
    """One connection of a thread pool.

    Attributes:
        used_at: When a request was last sent, on the monotonic clock; 0 for never.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._scratch = memoryview(bytearray(PIECE_BYTES))
        self._has_kernel_limits = _HAS_KERNEL_LIMITS and type(connected).__module__ == "socket"
        self._limit_s: float | None = -1.0
        if self._has_kernel_limits:
            connected.settimeout(None)
        self.used_at = 0.0

    def is_fresh(self, is_repeatable: bool) -> bool:  # noqa: FBT001 - a fact of the request
        """Whether the server can be taken to be still there.

        What must not be sent twice is sent only when nothing came since the last answer: what
        would come is a goodbye.
        """
        if is_repeatable and time.monotonic() - self.used_at < FRESH_FOR_S:
            return True
        if not hasattr(select, "poll"):  # Windows
            return not select.select([self._socket], [], [], 0)[0]
        looking = select.poll()
        looking.register(self._socket, select.POLLIN)
        return not looking.poll(0)

    def next_answer(self) -> Answer:
        """The answer that the next bytes belong to."""
        self.used_at = time.monotonic()
        return Answer(self._scratch)

    def exchange(self, pieces: list[memoryview], answer: Answer, deadline: Deadline) -> None:
        """Sends a request and reads its answer to the end."""
        try:
            self._send(pieces, deadline)
        except (BrokenPipeError, ConnectionResetError):
            # A server that does not want all of it may have said why before it hung up.
            with contextlib.suppress(OSError, EOFError):
                self._read(answer, deadline)
            if not answer.is_complete:
                raise
            answer.is_last = True
        else:
            self._read(answer, deadline)

    def _send(self, pieces: list[memoryview], deadline: Deadline) -> None:
        if isinstance(self._socket, ssl.SSLSocket) or not hasattr(self._socket, "sendmsg"):
            for piece in _joined(pieces):
                self._limit(deadline.require_s("sending"))
                self._socket.sendall(piece)
            return
        while pieces:
            self._limit(deadline.require_s("sending"))
            try:
                pieces = _rest(pieces, self._socket.sendmsg(pieces))
            except BlockingIOError:
                continue  # the limit was a part of what is left

    def _read(self, answer: Answer, deadline: Deadline) -> None:
        while not answer.is_complete:
            self._limit(deadline.require_s("waiting for the answer"))
            try:
                answer.filled(self._socket.recv_into(answer.space()))
            except BlockingIOError:
                continue  # likewise

    def _limit(self, left_s: float | None) -> None:
        """Lets the next operation wait for as long, or for a part of it."""
        if not self._has_kernel_limits:
            self._socket.settimeout(left_s)
            return
        now_s = self._limit_s
        if now_s == left_s or (now_s and left_s and now_s <= left_s < 2 * now_s):
            return
        # A power of two, so that the kernel is seldom told anew; 0 stands for no limit.
        new_s = 0.0 if left_s is None else math.ldexp(0.5, math.frexp(max(left_s, 1e-3))[1])
        told = struct.pack("ll", int(new_s), int(new_s % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, told)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, told)
        self._limit_s = None if left_s is None else new_s

    def interrupt(self) -> None:
        """Ends a call that another thread waits for."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()


def _rest(pieces: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of the pieces after so many bytes."""
    left = []
    for piece in pieces:
        if sent < len(piece):
            left.append(piece[sent:])
        sent = max(0, sent - len(piece))
    return left


def _joined(pieces: list[memoryview]) -> list[Any]:
    """Small requests as one piece, so that TLS makes one record of them."""
    if sum(map(len, pieces)) <= PIECE_BYTES:
        return [b"".join(pieces)]
    return pieces


# --- For asyncio --------------------------------------------------------------------------------


class AsyncHttpTransport(_Http):
    """HTTP for asyncio."""

    def __init__(self, address: Address, tls: Tls) -> None:
        super().__init__(address, tls)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begin()

    def _begin(self) -> None:
        self._places = asyncio.Semaphore(MOST_CONNECTIONS)
        self._idle: list[_Wire] = []
        self._busy: set[_Wire] = set()

    async def send(self, step: Send) -> Reply:
        """As `Transport.send`."""
        pieces = self._pieces(step)
        left = step.deadline.require_s("connecting")
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop = loop  # connections belong to the loop they were made in
            self._begin()
        doing = "connecting"
        try:
            async with asyncio.timeout(left), self._places:
                wire = self._idle_one()
                doing = "waiting for the answer"
                if wire is not None:
                    try:
                        return await self._exchange(wire, pieces, step)
                    except _StaleError:
                        pass
                doing = "connecting"
                wire = await self._connected(loop, step.deadline)
                doing = "waiting for the answer"
                return await self._exchange(wire, pieces, step)
        except TimeoutError as error:
            raise step.deadline.error(doing) from error

    def _idle_one(self) -> "_Wire | None":
        while self._idle:
            wire = self._idle.pop()
            if wire.is_open:
                return wire
        return None

    async def _connected(self, loop: asyncio.AbstractEventLoop, deadline: Deadline) -> "_Wire":
        try:
            return await self._connect(loop, deadline)
        except TimeoutError:
            raise
        except (OSError, UnicodeError, ValueError) as error:
            raise self._no_connection(error) from error

    async def _connect(self, loop: asyncio.AbstractEventLoop, deadline: Deadline) -> "_Wire":
        """As `_connect` for threads: each address has its share of the time.

        asyncio's own race between addresses loses sockets when it is cancelled.
        """
        host = self._address.host
        places: Any  # its types are wider than what a stream's addresses are
        try:
            places = await loop.getaddrinfo(host, self._address.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(f"{host!r} has no address: {error}") from error
        for index, (family, _, proto, _, place) in enumerate(places):
            left = deadline.require_s("connecting")
            try:
                async with asyncio.timeout(None if left is None else left / (len(places) - index)):
                    _, wire = await loop.create_connection(
                        _Wire,
                        place[0],
                        place[1],
                        family=family,
                        proto=proto,
                        ssl=self._tls,
                        server_hostname=None if self._tls is None else self._server_name,
                    )
                    return wire
            except OSError:
                if index == len(places) - 1:
                    raise
        raise OSError(f"{host!r} has no address")

    async def _exchange(self, wire: "_Wire", pieces: list[memoryview], step: Send) -> Reply:
        was_used, answer = wire.was_used, wire.next_answer()
        is_reusable = False
        self._busy.add(wire)
        try:
            await wire.exchange(pieces)
            is_reusable = not answer.is_last
        except TimeoutError:
            raise
        except (OSError, EOFError) as error:
            if was_used and not answer.is_begun and step.request.is_repeatable:
                raise _StaleError from error
            raise self._broken(error) from error
        finally:
            self._busy.discard(wire)
            if is_reusable and not self._is_closed:
                self._idle.append(wire)
            else:
                wire.close()
        return answer.reply()

    async def close(self) -> None:
        """Closes the connections; calls under way end with an error."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for wire in (*idle, *self._busy):
            wire.close()
        if idle:
            await asyncio.sleep(0)  # for the loop to hang up


class _Wire(asyncio.BufferedProtocol):
    """One connection of an event loop."""

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(PIECE_BYTES))
        self._answer: Answer | None = None
        self._done: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.is_open = True
        self.was_used = False

    def next_answer(self) -> Answer:
        """The answer that the next bytes belong to."""
        self.was_used = True
        self._answer = Answer(self._scratch)
        return self._answer

    async def exchange(self, pieces: list[memoryview]) -> None:
        """Sends a request and waits until its answer is complete."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        if not self.is_open:
            raise ConnectionResetError("the server hung up")
        try:
            for piece in _joined(pieces):
                # An answer that is there before all is sent says why the rest is not wanted.
                if self._room is not None and not self._done.done():
                    await asyncio.wait((self._room, self._done), return_when="FIRST_COMPLETED")
                if not self._done.done():
                    self._transport.write(piece)
            await self._done
        finally:
            self._done.cancel()  # whoever was cancelled asks for nothing any more

    def close(self) -> None:
        """Hangs up."""
        self.is_open = False
        self._transport.abort()

    # --- What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_connection's promise
        self._transport = transport
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        del sizehint
        return self._scratch if self._answer is None else self._answer.space()

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes came."""
        if self._answer is None or self._answer.is_complete:
            self.close()  # nobody asked
            return
        try:
            self._answer.filled(nbytes)
        except ClientError as error:
            self._settle(error)
            return
        if self._answer.is_complete:
            self._settle(None)

    def eof_received(self) -> None:
        """The server sends no more."""
        self.is_open = False
        if self._answer is not None and not self._answer.is_complete:
            try:
                self._answer.filled(0)
            except EOFError as error:
                self._settle(error)
            else:
                self._settle(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.is_open = False
        self._settle(exc or ConnectionResetError("the server hung up"))
        self.resume_writing()

    def pause_writing(self) -> None:
        """The server reads more slowly than we write."""
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """There is room again."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def _settle(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
