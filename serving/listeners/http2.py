"""HTTP/2 for a server on asyncio (RFC 9113): frames, header blocks and flow control.

It knows no semantics: a stream's header fields and data go to an `Exchange`, whose answers come
back through `Http2Connection.reply`. Header blocks are decoded by hpack; one that leaves the table as
it is, which is what a client sends from its second request on, is decoded once.
"""

import asyncio
import random
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Frame types (section 6).
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = range(9)
CONTINUATION = 9

# Flags.
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

# Error codes (section 7).
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR = range(5, 10)
ENHANCE_YOUR_CALM = 0xB

# Settings (section 6.5.2).
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6

# How a block begins that sizes the table anew (RFC 7541, section 6.3), in three bits.
TABLE_SIZE = 0b001
DEFAULT_TABLE = 4096

DEFAULT_WINDOW = 65_535
MOST_WINDOW = 2**31 - 1
MOST_FRAME = 16_384

# What one stream and one connection may send before they hear of it again.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 16 << 20

MOST_HEADER_BYTES = 32 << 10
# So much is put together before it is sent.
MOST_UNSENT = 64 << 10
# Header blocks of one connection whose meaning is kept.
MOST_HEADS = 64
# A client that sends so many frames a second that carry nothing wants something else than answers.
MOST_EMPTY_FRAMES_PER_S = 1000
PREFACE_WITHIN_S = 10.0
# What a PING holds that asks whether the client has read that its connection is old; how long the
# answer may take.
OLD = b"max_age?"
READ_WITHIN_S = 20.0

_FRAME = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
_LONG = struct.Struct(">L")

Data = bytes | memoryview
Fields = Sequence[tuple[bytes, bytes]]
# Fields of HTTP/1.1's connections mean nothing here, and smuggling begins with them (8.2.2).
_FORBIDDEN = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_UPPER = frozenset(range(ord("A"), ord("Z") + 1))


class ConnectionFaultError(Exception):
    """The connection cannot go on; `code` is one of section 7."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StreamFaultError(Exception):
    """One stream cannot go on; `code` is one of section 7."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Exchange(Protocol):
    """What a stream's frames are told to."""

    def receive(self, data: Data) -> None:
        """A part of the body."""
        ...

    def end(self) -> None:
        """The body is whole."""
        ...

    def cancel(self) -> "asyncio.Task[None] | None":
        """The client has gone; the task that may still be running for it."""
        ...

    def stop(self) -> None:
        """The server is about to stop: an exchange without an end has to find one."""
        ...


class Ended:
    """An exchange that has its answer. It takes a real one's place: that and its stream let go."""

    def receive(self, data: Data) -> None:
        """Nobody reads it."""

    def end(self) -> None:
        """It has been answered."""

    def cancel(self) -> None:
        """Nothing runs."""

    def stop(self) -> None:
        """Nothing runs."""


ENDED = Ended()


@dataclass(slots=True, eq=False)
class Stream:
    """One stream that is open.

    Attributes:
        id: Its number.
        send_window: Bytes that may be sent.
        receive_window: Bytes that may come.
        owed: Bytes that have been consumed, of which the client has not heard yet.
        exchange: What it is told to.
        is_read: Whether the client has said all.
        outgoing: Frames' contents that wait for a window, in order.
        tail: The header block that ends the stream once `outgoing` is sent.
        drained: Set when `outgoing` has been sent.
    """

    id: int
    send_window: int
    receive_window: int = STREAM_WINDOW
    owed: int = 0
    exchange: Exchange = field(init=False)
    is_read: bool = False
    outgoing: bytearray | None = None
    tail: bytes | None = None
    drained: "asyncio.Future[None] | None" = None


Open = Callable[["Http2Connection", Stream, Any], Exchange]
ReadHead = Callable[[Fields], Any]


class Http2Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        read_head: Makes of a request's checked fields what `open_exchange` wants; what it returns
            is used again for the same fields. May raise `StreamFaultError`.
        open_exchange: Begins a request.
        max_streams: Requests open at the same time.
        connections: Where the connection stands while it lives.
        greeting: What a client that speaks HTTP/1.1 is told.
        max_age_s: When it takes no more requests, within a tenth: the client opens another one,
            which a balancer may lead to another server. None for never.
    """

    def __init__(
        self,
        read_head: ReadHead,
        open_exchange: Open,
        *,
        max_streams: int,
        connections: "set[Http2Connection]",
        greeting: bytes,
        max_age_s: float | None = None,
    ) -> None:
        self._read_head = read_head
        self._open_exchange = open_exchange
        self._max_streams = max_streams
        self._connections = connections
        self._greeting = greeting
        self._max_age_s = max_age_s
        self._age_timer: asyncio.TimerHandle | None = None
        self._is_old = False
        self._transport = cast("asyncio.Transport", None)
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._is_to_flush = False
        self._rest = b""
        self._has_preface = False
        self._has_settings = False
        self._preface_timer: asyncio.TimerHandle | None = None
        self._decoder = hpack.Decoder(max_header_list_size=MOST_HEADER_BYTES)
        self._heads: dict[bytes, Any] = {}
        self._continued: tuple[int, int, bytearray] | None = None
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._lingering = 0
        self._send_window = DEFAULT_WINDOW
        self._receive_window = CONNECTION_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._most_frame = MOST_FRAME
        self._owes_table_size = False
        self._empty_frames = 0
        self._empty_since = 0.0
        self._is_paused = False
        self._has_more_window = False
        self._is_closing = False
        self._takers: dict[int, Callable[[int, int, Any], None]] = {
            DATA: self._on_data,
            HEADERS: self._on_headers,
            PRIORITY: self._on_priority,
            RST_STREAM: self._on_reset,
            SETTINGS: self._on_settings,
            PUSH_PROMISE: self._on_push,
            PING: self._on_ping,
            GOAWAY: self._on_goaway,
            WINDOW_UPDATE: self._on_window_update,
            CONTINUATION: self._on_continuation,
        }

    # --- The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets with the settings."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        settings = b"".join(
            _SETTING.pack(name, value)
            for name, value in (
                (MAX_CONCURRENT_STREAMS, self._max_streams),
                (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
                (MAX_HEADER_LIST_SIZE, MOST_HEADER_BYTES),
            )
        )
        more = _LONG.pack(CONNECTION_WINDOW - DEFAULT_WINDOW)
        self._hello = frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, more)
        self._loop = asyncio.get_running_loop()
        self._preface_timer = self._loop.call_later(PREFACE_WITHIN_S, self._transport.abort)
        if self._max_age_s is not None:
            # Clients that came together do not go together.
            age_s = self._max_age_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
            self._age_timer = self._loop.call_later(age_s, self._announce_end)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends everything that was being answered."""
        del exc
        self._connections.discard(self)
        self._unsent.clear()
        if self._preface_timer is not None:
            self._preface_timer.cancel()
        if self._age_timer is not None:
            self._age_timer.cancel()
        for stream in tuple(self._streams.values()):
            self._abandon(stream)

    def pause_writing(self) -> None:
        """Reads no more from a client that does not read: its answers must not pile up."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Goes on."""
        self._is_paused = False
        self._transport.resume_reading()
        self._send_waiting()

    def data_received(self, data: bytes) -> None:
        """Takes the frames that are whole."""
        if self._is_closing and not self._streams:
            return
        rest, self._rest = self._rest, b""
        place = 0
        self._is_to_flush = True
        try:
            if not self._has_preface:
                rest += data
                place = self._take_preface(rest)
                if place:
                    place = self._take_frames(rest, place)
                self._rest = rest[place:]
                return
            if len(rest) >= 9:
                # Only the frame that was begun is put together: what follows may be large.
                missing = 9 + int.from_bytes(rest[:3], "big") - len(rest)
                self._rest = rest + data[:missing]
                if missing > len(data):
                    return
                self._take_frames(self._rest, 0)
                place = missing
            elif rest:
                data = rest + data
            place = self._take_frames(data, place)
            self._rest = data[place:]
        except ConnectionFaultError as fault:
            self._has_more_window = False
            self.close(fault.code, str(fault))
        finally:
            if self._has_more_window:
                # Once for all frames that were read: each looks at every stream.
                self._has_more_window = False
                self._send_waiting()
            self._flush()

    def _take_frames(self, buffer: bytes, place: int) -> int:
        """Takes the frames that are whole; where the next one begins."""
        size = len(buffer)
        whole = memoryview(buffer)
        while size - place >= 9:
            high, low, kind, flags, stream_id = _FRAME.unpack_from(buffer, place)
            length = high << 8 | low
            if length > MOST_FRAME:
                raise ConnectionFaultError(FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin = place + 9
            end = begin + length
            if end > size:
                break
            place = end
            # Frames of a large message are copied once, when it is put together. A view keeps all
            # alive that was read with it, so small ones are copied at once.
            is_large = kind == DATA and length == MOST_FRAME
            payload = whole[begin:end] if is_large else buffer[begin:end]
            self._take(kind, flags, stream_id & MOST_WINDOW, payload)
        return place

    # --- Frames that come

    def _take_preface(self, buffer: bytes) -> int:
        """How much of the buffer was the preface; 0 while it is not whole."""
        if not PREFACE.startswith(buffer[: len(PREFACE)]):
            if buffer[:1].isalpha():
                self._write(self._greeting)
            self._hang_up()
            self._is_closing = True
            raise ConnectionFaultError(PROTOCOL_ERROR, "no HTTP/2")
        if len(buffer) < len(PREFACE):
            return 0
        self._has_preface = True
        if self._preface_timer is not None:
            self._preface_timer.cancel()
        self._write(self._hello)
        return len(PREFACE)

    def _take(self, kind: int, flags: int, stream_id: int, payload: Any) -> None:
        if self._continued is not None and (
            kind != CONTINUATION or stream_id != self._continued[0]
        ):
            raise ConnectionFaultError(PROTOCOL_ERROR, "a header block was interrupted")
        if not self._has_settings:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFaultError(PROTOCOL_ERROR, "the first frame was not SETTINGS")
            self._has_settings = True
        self._takers.get(kind, self._on_unknown)(stream_id, flags, payload)

    def _on_unknown(self, stream_id: int, flags: int, payload: bytes) -> None:
        """To be ignored (section 4.1)."""
        del stream_id, flags, payload
        self._count_empty()

    def _on_priority(self, stream_id: int, flags: int, payload: bytes) -> None:
        """Deprecated (section 5.3.2): read, and nothing more."""
        del flags
        if not stream_id:
            raise ConnectionFaultError(PROTOCOL_ERROR, "PRIORITY of no stream")
        self._count_empty()
        if len(payload) != 5:
            self._reset(stream_id, FRAME_SIZE_ERROR)

    def _on_push(self, stream_id: int, flags: int, payload: bytes) -> None:
        del stream_id, flags, payload
        raise ConnectionFaultError(PROTOCOL_ERROR, "a client cannot push")

    def _on_goaway(self, stream_id: int, flags: int, payload: bytes) -> None:
        """The client opens no more streams; those that are open go on."""
        del flags, payload
        if stream_id:
            raise ConnectionFaultError(PROTOCOL_ERROR, "GOAWAY on a stream")

    def _count_empty(self) -> None:
        now = time.monotonic()
        if now - self._empty_since > 1.0:
            self._empty_since, self._empty_frames = now, 0
        self._empty_frames += 1
        if self._empty_frames > MOST_EMPTY_FRAMES_PER_S:
            raise ConnectionFaultError(ENHANCE_YOUR_CALM, "too many frames that carry nothing")

    def _require_known(self, stream_id: int, kind: str) -> None:
        if self._is_closing and stream_id > self._last_id:
            # Opened before the client read that nothing beyond the last stream is (6.8).
            return
        if stream_id > self._last_id or not stream_id % 2:
            raise ConnectionFaultError(
                PROTOCOL_ERROR, f"{kind} of stream {stream_id}, never opened"
            )

    def _on_data(self, stream_id: int, flags: int, payload: Data) -> None:
        length = len(payload)
        self._receive_window -= length
        if self._receive_window < 0:
            raise ConnectionFaultError(FLOW_CONTROL_ERROR, "more data than the window allows")
        if self._receive_window < CONNECTION_WINDOW // 2:
            self._write_window(0, CONNECTION_WINDOW - self._receive_window)
            self._receive_window = CONNECTION_WINDOW
        stream = self._streams.get(stream_id)
        if stream is None:
            # One that was reset or answered early may still send.
            self._require_known(stream_id, "DATA")
            return
        if stream.is_read:
            self._fault(stream, STREAM_CLOSED)
            return
        stream.receive_window -= length
        if stream.receive_window < 0:
            self._fault(stream, FLOW_CONTROL_ERROR)
            return
        if flags & PADDED:
            payload = _unpadded(payload)
        stream.is_read = bool(flags & END_STREAM)
        if payload:
            stream.exchange.receive(payload)
        elif not stream.is_read:
            self._count_empty()
        # What it received may have been enough to answer, and the answer ends the stream.
        if stream.is_read and stream_id in self._streams:
            stream.exchange.end()
        self.consumed(stream, length - len(payload))

    def _on_headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = bytes(_unpadded(payload))
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFaultError(FRAME_SIZE_ERROR, "HEADERS without its priority")
            if _LONG.unpack_from(payload)[0] & MOST_WINDOW == stream_id:
                raise ConnectionFaultError(PROTOCOL_ERROR, "a stream that depends on itself")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._on_block(stream_id, flags, payload)
        else:
            self._continued = (stream_id, flags, bytearray(payload))

    def _on_continuation(self, stream_id: int, flags: int, payload: bytes) -> None:
        if self._continued is None:
            raise ConnectionFaultError(PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._count_empty()
        _, first_flags, block = self._continued
        block += payload
        if len(block) > MOST_HEADER_BYTES:
            raise ConnectionFaultError(ENHANCE_YOUR_CALM, "a header block that is too large")
        if flags & END_HEADERS:
            self._continued = None
            self._on_block(stream_id, first_flags, bytes(block))

    def _on_block(self, stream_id: int, flags: int, block: bytes) -> None:
        if not stream_id % 2:
            raise ConnectionFaultError(PROTOCOL_ERROR, f"a client cannot open stream {stream_id}")
        fault = 0
        try:
            head = self._head(block, is_trailer=stream_id <= self._last_id)
        except StreamFaultError as found:
            head, fault = None, found.code
        stream = self._streams.get(stream_id)
        if stream is not None:
            if stream.is_read or not flags & END_STREAM:
                fault = STREAM_CLOSED if stream.is_read else PROTOCOL_ERROR
            if fault:
                self._fault(stream, fault)
                return
            stream.is_read = True
            stream.exchange.end()
            return
        if stream_id <= self._last_id:
            if fault or not flags & END_STREAM:
                raise ConnectionFaultError(STREAM_CLOSED, f"stream {stream_id} was closed")
            # Trailers of one that was answered early were on their way (5.1).
            self._count_empty()
            return
        if self._is_closing:
            # Beyond the last stream that GOAWAY has named: the client tries it elsewhere.
            return
        self._last_id = stream_id
        if fault:
            self._reset(stream_id, fault)
            return
        # Requests that were given up count until their work has stopped.
        if len(self._streams) + self._lingering >= self._max_streams:
            self._reset(stream_id, REFUSED_STREAM)
            return
        stream = Stream(stream_id, self._initial_window, is_read=bool(flags & END_STREAM))
        self._streams[stream_id] = stream
        stream.exchange = self._open_exchange(self, stream, head)
        if stream.is_read and stream_id in self._streams:
            stream.exchange.end()

    def _head(self, block: bytes, *, is_trailer: bool) -> Any:
        """What a block says, decoded once as long as the table that it points into stands."""
        if not is_trailer and (found := self._heads.get(block)) is not None:
            return found
        table = self._decoder.header_table
        before = (next(iter(table.dynamic_entries), None), len(table.dynamic_entries))
        try:
            fields = cast("Fields", self._decoder.decode(block, raw=True))
        except hpack.HPACKError as error:
            raise ConnectionFaultError(COMPRESSION_ERROR, str(error)) from error
        after = (next(iter(table.dynamic_entries), None), len(table.dynamic_entries))
        is_same_table = before[0] is after[0] and before[1] == after[1]
        if not is_same_table or len(self._heads) >= MOST_HEADS:
            self._heads.clear()
        check_fields(fields, is_trailer=is_trailer)
        if is_trailer:
            return None
        head = self._read_head(fields)
        # One that begins with the table's size changes more than its entries.
        if is_same_table and block[0] >> 5 != TABLE_SIZE:
            self._heads[block] = head
        return head

    def _on_window_update(self, stream_id: int, flags: int, payload: bytes) -> None:
        del flags
        if len(payload) != 4:
            raise ConnectionFaultError(FRAME_SIZE_ERROR, "WINDOW_UPDATE has four bytes")
        more = _LONG.unpack(payload)[0] & MOST_WINDOW
        if not stream_id:
            self._send_window += more
            if not more:
                raise ConnectionFaultError(PROTOCOL_ERROR, "WINDOW_UPDATE of 0")
            if self._send_window > MOST_WINDOW:
                raise ConnectionFaultError(FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
            self._has_more_window = True
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            self._require_known(stream_id, "WINDOW_UPDATE")
            return
        stream.send_window += more
        if not more or stream.send_window > MOST_WINDOW:
            self._fault(stream, FLOW_CONTROL_ERROR if more else PROTOCOL_ERROR)
            return
        self._send(stream)

    def _on_reset(self, stream_id: int, flags: int, payload: bytes) -> None:
        del flags
        if len(payload) != 4:
            raise ConnectionFaultError(FRAME_SIZE_ERROR, "RST_STREAM has four bytes")
        self._require_known(stream_id, "RST_STREAM")
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._abandon(stream)

    def _on_settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFaultError(PROTOCOL_ERROR, "SETTINGS on a stream")
        self._count_empty()
        if flags & ACK:
            if payload:
                raise ConnectionFaultError(
                    FRAME_SIZE_ERROR, "SETTINGS that acknowledge and say more"
                )
            return
        if len(payload) % 6:
            raise ConnectionFaultError(FRAME_SIZE_ERROR, "SETTINGS that are cut")
        window = self._initial_window
        for name, value in _SETTING.iter_unpack(payload):
            if name == INITIAL_WINDOW_SIZE:
                window = value
                if value > MOST_WINDOW:
                    raise ConnectionFaultError(FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
            elif name == MAX_FRAME_SIZE:
                if not MOST_FRAME <= value < 1 << 24:
                    raise ConnectionFaultError(PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {value}")
                self._most_frame = value
            elif name == HEADER_TABLE_SIZE:
                self._owes_table_size |= value < DEFAULT_TABLE
            elif name == ENABLE_PUSH and value > 1:
                raise ConnectionFaultError(PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")
        if window != self._initial_window:
            self._resize_windows(window)
        self._write(frame(SETTINGS, ACK, 0))

    def _resize_windows(self, window: int) -> None:
        change = window - self._initial_window
        self._initial_window = window
        for stream in self._streams.values():
            stream.send_window += change
            if stream.send_window > MOST_WINDOW:
                raise ConnectionFaultError(FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        self._has_more_window = True

    def _on_ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFaultError(PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFaultError(FRAME_SIZE_ERROR, "PING has eight bytes")
        if not flags & ACK:
            self._count_empty()
            self._write(frame(PING, ACK, 0, payload))
        elif payload == OLD:
            self._take_no_more()

    # --- Streams that end

    def _abandon(self, stream: Stream) -> None:
        """The client has given a stream up."""
        self._forget(stream)
        task = stream.exchange.cancel()
        stream.exchange = ENDED
        if task is not None and not task.done():
            self._lingering += 1
            task.add_done_callback(self._lingered)
        if stream.drained is not None and not stream.drained.done():
            stream.drained.cancel()

    def _lingered(self, _: object) -> None:
        self._lingering -= 1

    def _fault(self, stream: Stream, code: int) -> None:
        self._reset(stream.id, code)
        self._abandon(stream)

    def _reset(self, stream_id: int, code: int) -> None:
        self._write(frame(RST_STREAM, 0, stream_id, _LONG.pack(code)))

    def _forget(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        if self._is_closing and not self._streams:
            self._hang_up()

    def _announce_end(self) -> None:
        """It is old: asks for no more requests; those on their way are still taken (6.8).

        When the client has answered the PING it has read this, and what it sent before has come.
        """
        if self._is_closing:
            return
        if not self._has_preface:
            self._transport.abort()
            return
        self._is_old = True
        everything = _LONG.pack(MOST_WINDOW) + _LONG.pack(NO_ERROR)
        self._write(frame(GOAWAY, 0, 0, everything + b"max_age") + frame(PING, 0, 0, OLD))
        self._age_timer = self._loop.call_later(READ_WITHIN_S, self._take_no_more)

    def _take_no_more(self) -> None:
        """Those that are open go on to their end, streams too, and with the last the connection."""
        if self._is_closing or not self._is_old:
            return
        self._say_last(NO_ERROR, "max_age")
        self._is_closing = True
        if not self._streams:
            self._hang_up()

    def _say_last(self, code: int, reason: str) -> None:
        last = _LONG.pack(self._last_id) + _LONG.pack(code)
        self._write(frame(GOAWAY, 0, 0, last + reason.encode()[:256]))

    def close(self, code: int = NO_ERROR, reason: str = "") -> None:
        """Takes no new streams; closes when those that are open have ended, on an error at once."""
        if not self._is_closing and self._has_preface:
            self._say_last(code, reason)
        self._is_closing = True
        if code or not self._streams:
            self._hang_up()
            return
        for stream in tuple(self._streams.values()):
            stream.exchange.stop()

    def abort(self) -> None:
        """Ends everything now."""
        self._transport.abort()

    # --- What is sent

    def _write(self, data: bytes) -> None:
        """Sends in this turn of the event loop.

        The answers of a batch come in one turn: one call of the system instead of one each.
        """
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes > MOST_UNSENT:
            self._flush()
        elif not self._is_to_flush:
            self._is_to_flush = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_to_flush = False
        if self._unsent:
            unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
            self._transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))

    def _hang_up(self) -> None:
        self._flush()
        self._transport.close()

    def consumed(self, stream: Stream, size: int) -> None:
        """Lets the client send so many bytes more; told when they are half a window."""
        if stream.is_read:
            return
        stream.owed += size
        if stream.owed >= STREAM_WINDOW // 2 and stream.id in self._streams:
            stream.receive_window += stream.owed
            self._write_window(stream.id, stream.owed)
            stream.owed = 0

    def _write_window(self, stream_id: int, size: int) -> None:
        self._write(frame(WINDOW_UPDATE, 0, stream_id, _LONG.pack(size)))

    def reply(self, stream: Stream, head: bytes, body: bytes, tail: bytes | None) -> None:
        """Sends a part of an answer.

        Args:
            stream: Where the request came.
            head: The header block that begins the answer; empty when it has begun.
            body: Data; what the windows do not allow yet waits.
            tail: The header block that ends the stream; None while it goes on.
        """
        if stream.id not in self._streams:
            return
        size = len(body)
        begin = frame(HEADERS, END_HEADERS, stream.id, self._sized(head)) if head else b""
        if (
            stream.outgoing is None
            and size <= stream.send_window
            and size <= self._send_window
            and size <= self._most_frame
            and tail is not None
            and not self._is_paused
        ):
            stream.send_window -= size
            self._send_window -= size
            middle = frame(DATA, 0, stream.id, body) if size else b""
            end = frame(HEADERS, END_HEADERS | END_STREAM, stream.id, self._sized(tail))
            self._write(begin + middle + end)
            self._ended(stream)
            return
        if begin:
            self._write(begin)
        if stream.outgoing is None:
            stream.outgoing = bytearray()
        stream.outgoing += body
        stream.tail = tail
        self._send(stream)

    def _sized(self, block: bytes) -> bytes:
        """A block of an answer; it tells a client that wants a small table that there is none.

        No block uses the table, but clients wait for that word (RFC 7541, section 4.2).
        """
        if self._owes_table_size:
            self._owes_table_size = False
            return bytes((TABLE_SIZE << 5,)) + block
        return block

    def _send(self, stream: Stream) -> None:
        """As much of what waits as the windows allow."""
        waiting = stream.outgoing
        if waiting is None or self._is_paused:
            return
        place, parts = 0, []
        while place < len(waiting):
            size = min(
                len(waiting) - place, stream.send_window, self._send_window, self._most_frame
            )
            if size <= 0:
                break
            parts.append(frame(DATA, 0, stream.id, bytes(waiting[place : place + size])))
            stream.send_window -= size
            self._send_window -= size
            place += size
        del waiting[:place]
        if not waiting:
            stream.outgoing = None
            if stream.tail is not None:
                tail = self._sized(stream.tail)
                parts.append(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, tail))
            if stream.drained is not None and not stream.drained.done():
                stream.drained.set_result(None)
        if parts:
            self._write(b"".join(parts))
        if stream.outgoing is None and stream.tail is not None:
            self._ended(stream)

    def _send_waiting(self) -> None:
        for stream in tuple(self._streams.values()):
            self._send(stream)

    async def drained(self, stream: Stream) -> None:
        """Waits until what was said on a stream has been sent."""
        if stream.outgoing is not None and stream.id in self._streams:
            stream.drained = asyncio.get_running_loop().create_future()
            await stream.drained

    def _ended(self, stream: Stream) -> None:
        if not stream.is_read:
            # The answer is out, so the rest of the request is not needed (section 8.1).
            self._reset(stream.id, NO_ERROR)
        self._forget(stream)
        stream.exchange = ENDED


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that no table remembers (RFC 7541, section 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    prefix = bytearray((127,))
    size -= 127
    while size >= 128:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + text


def check_fields(fields: Fields, *, is_trailer: bool) -> None:
    """Refuses what section 8.2 and 8.3 call malformed.

    Raises:
        StreamFaultError: the fields are not those of a request.
    """
    seen: set[bytes] = set()
    is_regular = False
    for name, value in fields:
        if name[:1] == b":":
            if is_trailer or is_regular or name in seen or name not in _PSEUDO:
                raise StreamFaultError(PROTOCOL_ERROR)
            seen.add(name)
            continue
        is_regular = True
        if not name or name in _FORBIDDEN or not _UPPER.isdisjoint(name):
            raise StreamFaultError(PROTOCOL_ERROR)
        if name == b"te" and value != b"trailers":
            raise StreamFaultError(PROTOCOL_ERROR)
        if b"\0" in value or b"\r" in value or b"\n" in value:
            raise StreamFaultError(PROTOCOL_ERROR)
    if not is_trailer and not {b":method", b":scheme", b":path"} <= seen:
        raise StreamFaultError(PROTOCOL_ERROR)


def _unpadded(payload: Data) -> Data:
    if not payload or payload[0] >= len(payload):
        raise ConnectionFaultError(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
