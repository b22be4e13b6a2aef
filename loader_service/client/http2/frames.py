"""HTTP/2's frames from a client's side (RFC 9113), as far as one call at a time needs them: no push, no priorities."""

import select
import socket
import ssl
import struct
import time
from typing import NamedTuple

import hpack

from loader_service.client.http2.dial import shut_down

# Numbers of RFC 9113, sections 6 (frame types and their flags) and 6.5.2 (settings).
DATA, HEADERS, RST_STREAM, _SETTINGS, _PUSH_PROMISE = 0, 1, 3, 4, 5
_PING, GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_TLS_ALERT, _HTTP_1 = b"\x15\x03", b"HTTP/1"
"""How an answer begins that is no frame."""
END_STREAM, _ACK, _END_HEADERS, PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
NO_ERROR, REFUSED_STREAM, _CANCEL = 0x0, 0x7, 0x8
LARGEST_WINDOW = 2**31 - 1
_LARGEST_FRAME = 2**24 - 1
_FIRST_LARGEST_FRAME = 2**14
_FIRST_WINDOW = 65_535
_WINDOW_STEP = 2**30
"""Bytes after which the windows are opened again: TCP holds back a fast server, HTTP/2's windows need not."""
_MAX_CONTROL_BYTES = 2**16
_SETTINGS_TIMEOUT_S = 5.0
"""For a server to say what it takes, once it is connected."""
_REUSE_TIMEOUT_S = 1.0
"""For the rest of a frame that has begun to come between two calls."""
_FIRST_PIECE_BYTES, _LARGEST_PIECE_BYTES = 2**18, 2**23
_SHORT_S, _LONG_S = 0.05, 0.5
"""Time for a piece after which the next may be twice as large, or is to be small again."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEADER = struct.Struct(">HBBBI")
"""Length (16 high bits, 8 low bits), type, flags, stream."""


class ProtocolError(Exception):
    """What the server sent is not HTTP/2, or not gRPC."""


class Frame(NamedTuple):
    """A frame's header."""

    size: int
    """Bytes of the payload, which follows it."""
    kind: int
    flags: int
    stream: int
    """0: the connection."""


class Frames:
    """HTTP/2's frames over a connected socket, which is theirs to close, from the client's side."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        # One system call for as much as is asked; TLS has no such flag.
        self._receive_flags = 0 if isinstance(connection, ssl.SSLSocket) else socket.MSG_WAITALL
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._next_stream = 1
        self._num_received = {0: 0}
        self._piece_bytes = _FIRST_PIECE_BYTES
        self._is_going_away = False
        # What the server lets us send: bytes of the connection, of the stream of the call, of a new stream, of a frame.
        self._window, self._stream_window, self._first_window = _FIRST_WINDOW, 0, _FIRST_WINDOW
        self._largest_frame = _FIRST_LARGEST_FRAME
        self._stream = 0
        self._unsent = memoryview(b"")
        settings = {_ENABLE_PUSH: 0, _INITIAL_WINDOW_SIZE: LARGEST_WINDOW, _MAX_FRAME_SIZE: _LARGEST_FRAME}
        try:
            self._socket.sendall(
                _PREFACE
                + _frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings.items()))
                + _window_update(0, LARGEST_WINDOW - _FIRST_WINDOW)
            )
            self._socket.settimeout(_SETTINGS_TIMEOUT_S)
            self._await_settings()
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise

    def _await_settings(self) -> None:
        """Reads the server's settings, with which it begins. Raises ProtocolError when it begins with anything else."""
        start = b""
        while len(start) < _FRAME_HEADER.size:
            more = self._socket.recv(_FRAME_HEADER.size - len(start))
            if not more:
                is_tls = isinstance(self._socket, ssl.SSLSocket)
                raise ProtocolError(
                    "closed at once, as by a service that trusts no certificate it was shown: --tls-cert and --tls-key"
                    if is_tls
                    else "closed at once, as by a service that speaks TLS: --tls-ca"
                )
            start += more
        if start.startswith(_TLS_ALERT):
            raise ProtocolError("the service speaks TLS: --tls-ca")
        if start.startswith(_HTTP_1):
            raise ProtocolError("expected HTTP/2, found an answer in HTTP/1; if the service speaks TLS: --tls-ca")
        frame = _header(start)
        if frame.kind != _SETTINGS or frame.size > _MAX_CONTROL_BYTES:
            raise ProtocolError("expected HTTP/2, found an answer that does not begin with its settings")
        self.handle(frame)

    def request(self, headers: list[tuple[str, str]], data: bytes) -> int:
        """Begins a request; returns the number of its stream. What does not fit the server's windows follows while
        frames are handled."""
        stream = self._stream = self._next_stream
        self._next_stream += 2
        block = self._encoder.encode(headers)
        self._num_received = {0: self._num_received[0], stream: 0}
        self._stream_window, self._unsent = self._first_window, memoryview(data)
        pieces = [block[at : at + self._largest_frame] for at in range(0, len(block), self._largest_frame)]
        kinds = [HEADERS] + [_CONTINUATION] * (len(pieces) - 1)
        flags = [0] * (len(pieces) - 1) + [_END_HEADERS]
        frames = [_frame(kind, flag, stream, piece) for kind, flag, piece in zip(kinds, flags, pieces, strict=True)]
        self._socket.sendall(b"".join(frames) + self._sendable())
        return stream

    def _sendable(self) -> bytes:
        """The frames of as much of the request as fits the windows now."""
        frames = b""
        while self._unsent and (size := min(len(self._unsent), self._window, self._stream_window)) > 0:
            size = min(size, self._largest_frame)
            flags = END_STREAM if size == len(self._unsent) else 0
            frames += _frame(DATA, flags, self._stream, bytes(self._unsent[:size]))
            self._unsent = self._unsent[size:]
            self._window -= size
            self._stream_window -= size
        return frames

    def end_request(self) -> None:
        """Takes back what has not been sent of a request that was answered before its end."""
        if self._unsent:
            self._unsent = memoryview(b"")
            self._socket.sendall(_frame(RST_STREAM, 0, self._stream, struct.pack(">I", _CANCEL)))

    def can_be_used_again(self) -> bool:
        """Whether a further call can be made: handles what has come since the last. If not, it is to be closed."""
        try:
            readable = select.poll()
            readable.register(self._socket, select.POLLIN)
            self._socket.settimeout(_REUSE_TIMEOUT_S)
            while not self._is_going_away and (self._is_pending() or readable.poll(0)):
                frame = self.next()
                if frame.kind in (GOAWAY, DATA, HEADERS):
                    return False
                self.handle(frame)
            self._socket.settimeout(None)
        except (OSError, ProtocolError):
            return False
        return not self._is_going_away

    def _is_pending(self) -> bool:
        """Whether TLS holds something that the socket does not show any more."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def next(self) -> Frame:
        """The next frame's header; its payload is then to be read."""
        frame = _header(self.read(_FRAME_HEADER.size))
        if frame.kind != DATA and frame.size > _MAX_CONTROL_BYTES:
            raise ProtocolError(f"a frame of type {frame.kind} with {frame.size} bytes")
        self._is_going_away |= frame.kind == GOAWAY
        return frame

    def headers(self, frame: Frame) -> dict[str, str]:
        """The headers that begin with ``frame``."""
        payload = self.read(frame.size)
        if frame.flags & PADDED:
            if not payload or payload[0] >= len(payload):
                raise ProtocolError("more padding than headers")
            payload = payload[1 : len(payload) - payload[0]]
        if frame.flags & _PRIORITY:
            payload = payload[5:]
        while not frame.flags & _END_HEADERS:
            frame = self.next()
            if frame.kind != _CONTINUATION or len(payload) > _MAX_CONTROL_BYTES:
                raise ProtocolError("headers that do not end")
            payload += self.read(frame.size)
        try:
            return {str(name): str(value) for name, value in self._decoder.decode(payload)}
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ProtocolError(f"unreadable headers: {error}") from None

    def numbers(self, frame: Frame, count: int) -> tuple[int, ...]:
        """The ``count`` numbers of 32 bits that the payload of ``frame`` begins with."""
        payload = self.read(frame.size)
        if frame.size < 4 * count:
            raise ProtocolError(f"a frame of type {frame.kind} with {frame.size} bytes")
        return struct.unpack_from(f">{count}I", payload)

    def handle(self, frame: Frame) -> None:
        """Takes note of a frame that belongs to no call, and answers it."""
        payload = self.read(frame.size)
        if frame.kind == _SETTINGS and not frame.flags & _ACK:
            for name, value in struct.iter_unpack(">HI", payload[: len(payload) // 6 * 6]):
                self._set(name, value)
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b"") + self._sendable())
        elif frame.kind == _WINDOW_UPDATE and frame.size == 4:
            size = int.from_bytes(payload) & LARGEST_WINDOW
            if frame.stream == 0:
                self._window += size
            elif frame.stream == self._stream:
                self._stream_window += size
            self._socket.sendall(self._sendable())
        elif frame.kind == _PING and not frame.flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, payload))
        elif frame.kind == _PUSH_PROMISE:
            raise ProtocolError("a push that was not allowed")

    def _set(self, name: int, value: int) -> None:
        """Takes note of one of the server's settings."""
        if name == _HEADER_TABLE_SIZE:
            self._encoder.header_table_size = min(value, 4096)
        elif name == _INITIAL_WINDOW_SIZE:  # of the stream that is open, too: its window may become negative
            self._stream_window += value - self._first_window
            self._first_window = value
        elif name == _MAX_FRAME_SIZE:
            self._largest_frame = min(max(value, _FIRST_LARGEST_FRAME), _LARGEST_FRAME)

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

    def read_piece_into(self, view: memoryview) -> int:
        """Fills ``view``, or on a slow connection its beginning; how many bytes that is.

        One system call for a message is the fastest, but who waits in it cannot say that bytes are coming. So pieces
        begin small, and grow while they come quickly: at 100 kB a second, one comes in 2.6 seconds.
        """
        view = view[: self._piece_bytes]
        started = time.monotonic()
        self.read_into(view)
        took_s = time.monotonic() - started
        if took_s > _LONG_S:
            self._piece_bytes = _FIRST_PIECE_BYTES
        elif took_s < _SHORT_S and len(view) == self._piece_bytes:
            self._piece_bytes = min(2 * self._piece_bytes, _LARGEST_PIECE_BYTES)
        return len(view)

    def shut_down(self) -> None:
        """Ends what other threads are waiting for; ``close`` is still to come."""
        shut_down(self._socket)

    def close(self) -> None:
        self._socket.close()


def _header(content: bytes) -> Frame:
    high, low, kind, flags, stream = _FRAME_HEADER.unpack(content)
    return Frame(high << 8 | low, kind, flags, stream & LARGEST_WINDOW)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME_HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _window_update(stream: int, size: int) -> bytes:
    return _frame(_WINDOW_UPDATE, 0, stream, struct.pack(">I", size))
