"""gRPC's server-streaming calls over a socket of our own: pixels are copied once on their way into a buffer.

grpcio receives a message in many small pieces, makes a bytes object of each, gathers those in a bytearray and turns
that into one more bytes object: three copies, into fresh memory, that cost more than the kernel's own work (figures:
docs/performance.md). Here the payload of a DATA frame goes from the socket into a buffer that is kept for the next
message. This is only as much of HTTP/2 (RFC 9113) and of gRPC over it (grpc/doc/PROTOCOL-HTTP2.md) as such calls need:
one call at a time on a connection, requests that fit one frame, no compression. All else goes through grpcio.
"""

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import unquote

import grpc
import hpack

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Numbers of RFC 9113, sections 6 (frame types and their flags) and 6.5.2 (settings).
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0, 1, 3, 4, 5
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_LARGEST_WINDOW = 2**31 - 1
_LARGEST_FRAME = 2**24 - 1
_FIRST_WINDOW = 65_535
_WINDOW_STEP = 2**30
"""Bytes after which the windows are opened again: TCP holds back a fast server, HTTP/2's windows need not."""
_MAX_CONTROL_BYTES = 2**16
_MAX_MESSAGE_BYTES = 2**30
_HEAD_BYTES = 4096
"""Read of each message first: enough for all but the pixels of a hundred images."""
_CONNECT_TIMEOUT_S = 3.0
_FRAME_HEADER = struct.Struct(">HBBBI")
"""Length (16 high bits, 8 low bits), type, flags, stream."""
_PREFIX = struct.Struct(">BI")
"""Before a gRPC message: whether it is compressed, and its length."""


class CallError(grpc.RpcError):
    """How a call failed, in grpcio's terms."""

    def __init__(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(details)
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailers


class StreamConnection:
    """A connection to one server, made when it is first used and again when it was lost or a call was broken off.

    ``target`` is ``host:port`` or ``unix:PATH``; with ``tls``, the server's certificate must be for ``server_name``, or
    else for the target's host. For one thread; only ``StreamCall.cancel`` may come from others.
    """

    def __init__(self, target: str, *, tls: ssl.SSLContext | None = None, server_name: str | None = None) -> None:
        self._target, self._tls = target, tls
        self._host = "localhost" if target.startswith("unix:") else target.rpartition(":")[0].strip("[]")
        self._server_name = server_name or self._host
        self._frames: _Frames | None = None
        self._last: StreamCall | None = None
        self._buffer = memoryview(bytearray())

    def call(self, path: str, request: bytes, metadata: Sequence[tuple[str, str]]) -> "StreamCall":
        """Starts a call; raises CallError when the server cannot be reached."""
        try:
            if self._frames is not None and not (self._last is not None and self._last.is_complete):
                self.close()
            if self._frames is not None and not self._frames.can_be_used_again():
                self.close()
            if self._frames is None:
                self._frames = _Frames(self._connect())
            headers = [
                (":method", "POST"),
                (":scheme", "http" if self._tls is None else "https"),
                (":path", path),
                (":authority", self._server_name),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "alexnet-loader"),
                *metadata,
            ]
            stream = self._frames.request(headers, _PREFIX.pack(0, len(request)) + request)
        except (OSError, ValueError, _ProtocolError) as error:
            self.close()
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"cannot connect: {error}") from None
        self._last = StreamCall(self._frames, stream, self._buffer_of)
        return self._last

    def close(self) -> None:
        """Closes the connection; a call under way is broken off."""
        if self._frames is not None:
            self._frames.close()
        self._frames = self._last = None

    def _connect(self) -> socket.socket:
        if self._target.startswith("unix:"):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(_CONNECT_TIMEOUT_S)
            connection.connect(self._target.removeprefix("unix:").removeprefix("//"))
        else:
            port = int(self._target.rpartition(":")[2])
            connection = socket.create_connection((self._host, port), _CONNECT_TIMEOUT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_hostname=self._server_name)
        connection.settimeout(None)
        return connection

    def _buffer_of(self, size: int) -> memoryview:
        """The buffer's first ``size`` bytes; a larger one replaces it."""
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        return self._buffer[:size]


class IncomingMessage:
    """A message whose first bytes have come; the rest goes where its reader wants it. Valid until the next one."""

    def __init__(self, size: int, buffer_of: Callable[[int], memoryview], fill: Callable[[memoryview], None]) -> None:
        self._buffer_of, self._fill = buffer_of, fill
        self.size = size
        """Bytes of the whole message."""
        self.head = memoryview(b"")
        """Those that have been read."""
        self._num_unread = size
        self._extend(_HEAD_BYTES)

    def read_more(self) -> None:
        """Makes the head longer. Raises ValueError when it is the whole message already; and like the call."""
        if not self._num_unread:
            raise ValueError(f"expected more than the message's {self.size} bytes")
        self._extend(2 * len(self.head))

    def read(self) -> memoryview:
        """The whole message. Raises like iterating over the call."""
        self._extend(self.size)
        return self.head

    def read_into(self, view: memoryview, begin: int) -> None:
        """The message from byte ``begin`` of its head to its end, into ``view``. Raises ValueError when that has
        another size; and like iterating over the call."""
        if begin + len(view) != self.size:
            raise ValueError(f"expected {len(view)} bytes from byte {begin}, found {self.size - begin}")
        num_in_head = min(len(self.head) - begin, len(view))
        view[:num_in_head] = self.head[begin : begin + num_in_head]
        self._num_unread = 0
        self._fill(view[num_in_head:])

    def skip(self) -> None:
        """Reads what has not been read. Raises like iterating over the call."""
        if self._num_unread:
            self._extend(self.size)

    def _extend(self, size: int) -> None:
        size, before = min(size, self.size), self.head
        self.head = self._buffer_of(size)
        if len(before) and self.head.obj is not before.obj:
            self.head[: len(before)] = before
        self._num_unread = self.size - size
        self._fill(self.head[len(before) :])


class StreamCall:
    """A call under way: an iterator of messages, each valid until the next is asked for.

    Iterating raises CallError when the call fails; after its last message it ends.
    """

    def __init__(self, frames: "_Frames", stream: int, buffer_of: Callable[[int], memoryview]) -> None:
        self._frames, self._stream, self._buffer_of = frames, stream, buffer_of
        self._message: IncomingMessage | None = None
        self._left = self._padding = 0
        self._is_cancelled = self._is_past_data = False
        self._ending = threading.Lock()
        self.is_complete = False
        """Whether the server has ended the call, so that another can follow on its connection."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> IncomingMessage:
        if self._message is not None:
            self._message.skip()
        prefix = memoryview(bytearray(_PREFIX.size))
        if not self._fill(prefix):
            raise StopIteration
        is_compressed, size = _PREFIX.unpack(prefix)
        if is_compressed or size > _MAX_MESSAGE_BYTES:
            raise CallError(grpc.StatusCode.UNAVAILABLE, "expected an uncompressed message of at most 1 GiB")
        self._message = IncomingMessage(size, self._buffer_of, self._fill_all)
        return self._message

    def cancel(self) -> bool:
        """Breaks the call off, from any thread; whoever iterates over it gets CallError. False if it had ended."""
        with self._ending:  # once it has ended, the connection may be another call's
            if self.is_complete:
                return False
            self._is_cancelled = True
            self._frames.shut_down()
        return True

    def _fill_all(self, view: memoryview) -> None:
        if not self._fill(view):
            raise CallError(grpc.StatusCode.UNAVAILABLE, "the stream ended within a message")

    def _fill(self, view: memoryview) -> bool:
        """Fills ``view`` with the call's data; False when it ended before all of it had come. Raises CallError."""
        try:
            while view:
                if not self._left and not self._find_data():
                    return False
                count = min(len(view), self._left)
                self._frames.read_into(view[:count])
                self._left -= count
                view = view[count:]
        except (OSError, _ProtocolError) as error:
            if self._is_cancelled:
                raise CallError(grpc.StatusCode.CANCELLED, "cancelled by the client") from None
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"connection lost: {error}") from None
        return True

    def _find_data(self) -> bool:
        """Reads frames up to the next of this call with data; False when the call ended well. Raises CallError."""
        while True:
            self._frames.read(self._padding)
            self._padding = 0
            if self._is_past_data:
                raise _ProtocolError("the stream ended without a status")
            frame = self._frames.next()
            if frame.kind in (_DATA, _HEADERS) and frame.stream != self._stream:
                raise _ProtocolError("a frame of another stream")
            if frame.kind == _DATA:
                self._frames.open_windows(frame.size, self._stream)
                if frame.flags & _PADDED:
                    self._padding = self._frames.read(1)[0]
                    frame = frame._replace(size=frame.size - 1 - self._padding)
                if frame.size < 0:
                    raise _ProtocolError("more padding than data")
                self._left = frame.size
                self._is_past_data = bool(frame.flags & _END_STREAM)
                if self._left:
                    return True
            elif frame.kind == _HEADERS:
                headers = self._frames.headers(frame)
                if frame.flags & _END_STREAM:
                    with self._ending:
                        self.is_complete = True
                    _check_status(headers)
                    return False
                if headers.get(":status") != "200":
                    raise CallError(grpc.StatusCode.UNAVAILABLE, f"HTTP status {headers.get(':status')}")
            elif frame.kind == _RST_STREAM and frame.stream == self._stream:
                (code,) = struct.unpack(">I", self._frames.read(frame.size))
                raise CallError(grpc.StatusCode.UNAVAILABLE, f"the server broke the call off (HTTP/2 error {code})")
            elif frame.kind == _GOAWAY:
                last, code = struct.unpack(">II", self._frames.read(frame.size)[:8])
                if self._stream > last & _LARGEST_WINDOW:
                    raise CallError(
                        grpc.StatusCode.UNAVAILABLE, f"the server takes no more calls (HTTP/2 error {code})"
                    )
            else:
                self._frames.handle(frame)


def _check_status(trailers: dict[str, str]) -> None:
    """Raises CallError unless a call's trailers say that it ended well."""
    number = trailers.get("grpc-status", "")
    if number == "0":
        return
    codes = {str(code.value[0]): code for code in grpc.StatusCode}
    details = unquote(trailers.get("grpc-message", ""))
    raise CallError(codes.get(number, grpc.StatusCode.UNKNOWN), details, tuple(trailers.items()))


class _ProtocolError(Exception):
    """What the server sent is not HTTP/2, or not gRPC."""


class _Frame(NamedTuple):
    size: int
    kind: int
    flags: int
    stream: int


class _Frames:
    """HTTP/2's frames over a connected socket, from the client's side."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # One system call for as much as is asked; TLS has no such flag.
        self._receive_flags = 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_WAITALL
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._next_stream = 1
        self._num_received = {0: 0}
        self._is_going_away = False
        settings = {_ENABLE_PUSH: 0, _INITIAL_WINDOW_SIZE: _LARGEST_WINDOW, _MAX_FRAME_SIZE: _LARGEST_FRAME}
        self._socket.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings.items()))
            + _window_update(0, _LARGEST_WINDOW - _FIRST_WINDOW)
        )

    def request(self, headers: list[tuple[str, str]], data: bytes) -> int:
        """Sends a whole request; the number of its stream."""
        stream = self._next_stream
        self._next_stream += 2
        block = self._encoder.encode(headers)
        self._num_received = {0: self._num_received[0], stream: 0}
        self._socket.sendall(_frame(_HEADERS, _END_HEADERS, stream, block) + _frame(_DATA, _END_STREAM, stream, data))
        return stream

    def can_be_used_again(self) -> bool:
        """Whether a further call can be made: handles what has come since the last."""
        try:
            readable = select.poll()
            readable.register(self._socket, select.POLLIN)
            while not self._is_going_away and (self._is_pending() or readable.poll(0)):
                frame = self.next()
                if frame.kind in (_GOAWAY, _DATA, _HEADERS):
                    return False
                self.handle(frame)
        except (OSError, _ProtocolError):
            return False
        return not self._is_going_away

    def _is_pending(self) -> bool:
        """Whether TLS holds something that the socket does not show any more."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def next(self) -> _Frame:
        """The next frame's header; its payload is then to be read."""
        high, low, kind, flags, stream = _FRAME_HEADER.unpack(self.read(_FRAME_HEADER.size))
        frame = _Frame(high << 8 | low, kind, flags, stream & _LARGEST_WINDOW)
        if kind != _DATA and frame.size > _MAX_CONTROL_BYTES:
            raise _ProtocolError(f"a frame of type {kind} with {frame.size} bytes")
        self._is_going_away |= kind == _GOAWAY
        return frame

    def headers(self, frame: _Frame) -> dict[str, str]:
        """The headers that begin with ``frame``."""
        payload = self.read(frame.size)
        if frame.flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if frame.flags & _PRIORITY:
            payload = payload[5:]
        while not frame.flags & _END_HEADERS:
            frame = self.next()
            if frame.kind != _CONTINUATION or len(payload) > _MAX_CONTROL_BYTES:
                raise _ProtocolError("headers that do not end")
            payload += self.read(frame.size)
        try:
            return {str(name): str(value) for name, value in self._decoder.decode(payload)}
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise _ProtocolError(f"unreadable headers: {error}") from None

    def handle(self, frame: _Frame) -> None:
        """Takes note of a frame that belongs to no call, and answers it."""
        payload = self.read(frame.size)
        if frame.kind == _SETTINGS and not frame.flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload[: len(payload) // 6 * 6]):
                if name == _HEADER_TABLE_SIZE:
                    self._encoder.header_table_size = min(value, 4096)
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
        elif frame.kind == _PING and not frame.flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif frame.kind == _PUSH_PROMISE:
            raise _ProtocolError("a push that was not allowed")

    def open_windows(self, size: int, stream: int) -> None:
        """Notes that ``size`` bytes of a stream were received, and now and then lets the server send as many more."""
        for window in (0, stream):  # the connection's, and the stream's
            self._num_received[window] += size
            if self._num_received[window] >= _WINDOW_STEP:
                self._socket.sendall(_window_update(window, self._num_received[window]))
                self._num_received[window] = 0

    def read(self, size: int) -> bytes:
        content = bytearray(size)
        self.read_into(memoryview(content))
        return bytes(content)

    def read_into(self, view: memoryview) -> None:
        while view:
            count = self._socket.recv_into(view, len(view), self._receive_flags)
            if not count:
                raise ConnectionError("the server closed it")
            view = view[count:]

    def shut_down(self) -> None:
        """Ends what other threads are waiting for; ``close`` is still to come."""
        with suppress(OSError):  # not connected any more
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own would pull its state from under a reader

    def close(self) -> None:
        self._socket.close()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME_HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _window_update(stream: int, size: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, stream, struct.pack(">I", size))
