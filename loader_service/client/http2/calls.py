"""gRPC's server-streaming calls over a socket of our own: pixels are copied once on their way into a buffer.

grpcio receives a message in many small pieces, makes a bytes object of each, gathers those in a bytearray and turns
that into one more bytes object: three copies, into fresh memory, that cost more than the kernel's own work (figures:
docs/performance.md). Here the payload of a DATA frame goes from the socket into a buffer that is kept for the next
message. This is only as much of HTTP/2 (RFC 9113) and of gRPC over it (grpc/doc/PROTOCOL-HTTP2.md) as such calls need:
one call at a time on a connection, one message in a request, no compression.
"""

import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import grpc

from loader_service.client.http2.dial import Halt, connect
from loader_service.client.http2.frames import (
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    LARGEST_WINDOW,
    NO_ERROR,
    PADDED,
    REFUSED_STREAM,
    RST_STREAM,
    Frames,
    ProtocolError,
)
from loader_service.client.http2.message import MAX_MESSAGE_BYTES, IncomingMessage
from loader_service.client.http2.status import ANOTHER_WAY, CallError, check_headers, check_trailers, names_a_proxy

_MAX_REFUSALS, _REFUSAL_PAUSE_S = 6, 0.01
"""How often a call that the server has not begun is made again, and the first pause; each is twice the one before."""
_PREFIX = struct.Struct(">BI")
"""Before a gRPC message: whether it is compressed, and its length."""


class StreamConnection:
    """A connection to one server, made when it is first used and again when it was lost or a call was broken off.

    ``target`` is ``host:port`` or ``unix:PATH``; with ``tls``, the server's certificate must be for ``server_name``, or
    else for the target's host. For one thread; only ``StreamCall.cancel`` may come from others.
    """

    def __init__(self, target: str, *, tls: ssl.SSLContext | None = None, server_name: str | None = None) -> None:
        self._target, self._tls = target, tls
        host = "localhost" if target.startswith("unix:") else target.rpartition(":")[0].strip("[]")
        self._server_name = server_name or host
        self._authority = server_name or ("localhost" if target.startswith("unix:") else target)
        self._frames: Frames | None = None
        self._last: StreamCall | None = None
        self._buffer = memoryview(bytearray())

    def call(self, path: str, request: bytes, metadata: Sequence[tuple[str, str]]) -> "StreamCall":
        """A call, which starts when it is first iterated over; nothing here waits for the server."""
        if self._frames is not None and not (self._last is not None and self._last.is_complete):
            self.close()
        headers = [
            (":method", "POST"),
            (":scheme", "http" if self._tls is None else "https"),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "alexnet-loader"),
            *metadata,
        ]
        start = partial(self._start, headers, _PREFIX.pack(0, len(request)) + request)
        self._last = StreamCall(start, self._buffer_of)
        return self._last

    def ask(self, path: str, request: bytes, metadata: Sequence[tuple[str, str]], timeout_s: float) -> bytes:
        """The one message that answers ``request``. Raises CallError, at the latest after ``timeout_s`` seconds."""
        call = self.call(path, request, metadata)
        timer = threading.Timer(timeout_s, call.cancel)
        timer.daemon = True
        try:
            timer.start()
            answer = [bytes(message.read()) for message in islice(call, 2)]
        except RuntimeError as error:  # no more threads now
            raise CallError(grpc.StatusCode.UNAVAILABLE, str(error)) from None
        except CallError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise
            raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {timeout_s:g} s") from None
        finally:
            timer.cancel()
        if len(answer) != 1:
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"expected one message, found {'more' if answer else 'none'}")
        return answer[0]

    def cancel(self) -> None:
        """Breaks a call that is under way off, from any thread."""
        if (call := self._last) is not None:
            call.cancel()

    def close(self) -> None:
        """Closes the connection; a call under way is broken off."""
        if self._frames is not None:
            self._frames.close()
        self._frames = self._last = None

    def _start(self, headers: list[tuple[str, str]], data: bytes, halt: Halt) -> tuple[Frames, int]:
        """Sends a request, over a new connection if need be: its frames and stream. Raises CallError."""
        try:
            if self._frames is not None:
                halt.guard(self._frames.shut_down)
                if not self._frames.can_be_used_again():
                    self._frames.close()
                    self._frames = None
            if self._frames is None:
                self._frames = Frames(connect(self._target, halt, tls=self._tls, server_name=self._server_name))
                halt.guard(self._frames.shut_down)  # set before a socket begins to connect, it would not be seen
            return self._frames, self._frames.request(headers, data)
        except (OSError, ValueError, ProtocolError) as error:
            self.close()
            if halt.is_set:
                raise CallError(grpc.StatusCode.CANCELLED, "cancelled by the client") from None
            advice = f"; {ANOTHER_WAY}" if isinstance(error, ProtocolError) or names_a_proxy() else ""
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"cannot connect: {reason}{advice}") from None

    def _buffer_of(self, size: int) -> memoryview:
        """The buffer's first ``size`` bytes; a larger one replaces it."""
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        return self._buffer[:size]


class StreamCall(Iterator[IncomingMessage]):
    """A call: its messages, each valid until the next is asked for.

    Iterating raises CallError when the call fails, or cannot be started; after its last message it ends.
    """

    def __init__(self, start: Callable[[Halt], tuple[Frames, int]], buffer_of: Callable[[int], memoryview]) -> None:
        self._start, self._buffer_of = start, buffer_of
        self._frames: Frames
        self._stream = 0
        """0: not started."""
        self._message: IncomingMessage | None = None
        self._left = self._padding = 0
        self._has_begun = False
        """Whether the answer's headers have come."""
        self._is_past_data = False
        self._num_refusals = 0
        self._halt = Halt()
        self._ending = threading.Lock()
        self.num_received = 0
        """Bytes of messages that have come so far; any thread may look."""
        self.is_complete = False
        """Whether the server has ended the call, so that another can follow on its connection."""

    def __next__(self) -> IncomingMessage:
        if not self._stream:
            self._frames, self._stream = self._start(self._halt)
        before, self._message = self._message, None
        if before is not None:
            before.skip()
        prefix = memoryview(bytearray(_PREFIX.size))
        if not self._fill(prefix):
            raise StopIteration
        is_compressed, size = _PREFIX.unpack(prefix)
        if is_compressed or size > MAX_MESSAGE_BYTES:
            raise CallError(grpc.StatusCode.UNAVAILABLE, "expected an uncompressed message of at most 1 GiB")
        self._message = IncomingMessage(size, self._buffer_of, self._fill_all)
        return self._message

    def cancel(self) -> bool:
        """Breaks the call off, from any thread; whoever iterates over it gets CallError. False if it had ended."""
        with self._ending:  # once it has ended, the connection may be another call's
            if self.is_complete:
                return False
            self._halt.set()
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
                count = self._frames.read_piece_into(view[: self._left])
                self.num_received += count
                self._left -= count
                view = view[count:]
        except (OSError, ProtocolError) as error:
            if self._halt.is_set:
                raise CallError(grpc.StatusCode.CANCELLED, "cancelled by the client") from None
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"connection lost: {error}") from None
        return True

    def _find_data(self) -> bool:
        """Reads frames up to the next of this call with data; False when the call ended well. Raises CallError."""
        while True:
            self._frames.read(self._padding)
            self._padding = 0
            if self._is_past_data:
                raise ProtocolError("the stream ended without a status")
            frame = self._frames.next()
            if frame.kind in (DATA, HEADERS) and frame.stream != self._stream:
                raise ProtocolError("a frame of another stream")
            if frame.kind == DATA:
                self._frames.open_windows(frame.size, self._stream)
                if frame.flags & PADDED:
                    self._padding = self._frames.read(1)[0]
                    frame = frame._replace(size=frame.size - 1 - self._padding)
                if frame.size < 0:
                    raise ProtocolError("more padding than data")
                self._left = frame.size
                self._is_past_data = bool(frame.flags & END_STREAM)
                if self._left:
                    return True
            elif frame.kind == HEADERS:
                headers = self._frames.headers(frame)
                is_last = bool(frame.flags & END_STREAM)
                if not self._has_begun:
                    if headers.get(":status", "").startswith("1") and not is_last:
                        continue  # an interim answer
                    check_headers(headers)
                    self._has_begun = True
                if is_last:
                    self._frames.end_request()
                    with self._ending:
                        self.is_complete = True
                    check_trailers(headers)
                    return False
            elif frame.kind == RST_STREAM and frame.stream == self._stream:
                (code,) = self._frames.numbers(frame, 1)
                if code != REFUSED_STREAM or self._has_begun or not self._begin_again():
                    raise CallError(grpc.StatusCode.UNAVAILABLE, f"the server broke the call off (HTTP/2 error {code})")
            elif frame.kind == GOAWAY:
                last, code = self._frames.numbers(frame, 2)
                is_left_out = self._stream > last & LARGEST_WINDOW
                if is_left_out and (code != NO_ERROR or not self._begin_again()):
                    raise CallError(
                        grpc.StatusCode.UNAVAILABLE, f"the server takes no more calls (HTTP/2 error {code})"
                    )
            else:
                self._frames.handle(frame)

    def _begin_again(self) -> bool:
        """Makes a call anew of which the server has said that it has not begun it; False when it says so again and
        again. Raises CallError."""
        self._num_refusals += 1
        if self._num_refusals > _MAX_REFUSALS:
            return False
        self._halt.pause(_REFUSAL_PAUSE_S * 2 ** (self._num_refusals - 1))
        self._frames, self._stream = self._start(self._halt)
        return True
