"""Calls over our own HTTP/2 connection, against servers that are scripted frame by frame (RFC 9113).

Against grpcio's server, with and without TLS, they run in every other test of a client.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import hpack
import pytest

from loader_service.client.http2.calls import StreamConnection
from loader_service.client.http2.status import CallError

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
OK = [("grpc-status", "0")]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(content: bytes, *, is_compressed: bool = False) -> bytes:
    return struct.pack(">BI", is_compressed, len(content)) + content


class Peer:
    """The server's side of one connection, as a script sees it."""

    def __init__(self, connection: socket.socket, first: bytes | None = None) -> None:
        self.connection = connection
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        assert self.read(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        # No dynamic table for the client's headers.
        self.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 1, 0)) if first is None else first)

    def read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            more = self.connection.recv(size - len(content))
            if not more:
                raise EOFError
            content += more
        return content

    def next(self, kind: int) -> tuple[int, int, bytes]:
        """(flags, stream, payload) of the next frame of a kind; others are passed over."""
        while True:
            (size, found, flags, stream) = struct.unpack(">IBBI", b"\0" + self.read(9))
            payload = self.read(size)
            if found == kind:
                return flags, stream, payload

    def request(self) -> tuple[int, dict[str, str], bytes]:
        """The next request: its stream, headers and message."""
        _, stream, block = self.next(HEADERS)
        flags, of_stream, payload = self.next(DATA)
        assert (of_stream, flags & END_STREAM, payload[:5]) == (
            stream,
            END_STREAM,
            struct.pack(">BI", 0, len(payload) - 5),
        )
        return stream, {str(name): str(value) for name, value in self.decoder.decode(block)}, payload[5:]

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(b"".join(frames))

    def block(self, headers: list[tuple[str, str]]) -> bytes:
        return self.encoder.encode(headers)

    def begin(self, stream: int) -> bytes:
        return frame(HEADERS, END_HEADERS, stream, self.block([(":status", "200")]))

    def end(self, stream: int, trailers: list[tuple[str, str]] | None = None) -> bytes:
        return frame(HEADERS, END_HEADERS | END_STREAM, stream, self.block(OK if trailers is None else trailers))


class Server:
    """Gives each connection to its script, in turn, once it has sent ``first``."""

    def __init__(self, path: Path, scripts: list[Callable[[Peer], None]], first: bytes | None = None) -> None:
        self._first = first
        self.target = f"unix:{path}"
        self.failures: list[BaseException] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(scripts,))
        self._thread.start()

    def _serve(self, scripts: list[Callable[[Peer], None]]) -> None:
        for script in scripts:
            connection, _ = self._listener.accept()
            with connection:
                try:
                    script(Peer(connection, self._first))
                    while connection.recv(4096):
                        pass  # until the client has closed it
                except (EOFError, ConnectionError):
                    pass
                except BaseException as error:
                    self.failures.append(error)

    def join(self) -> None:
        self._thread.join(300)
        self._listener.close()
        assert not self._thread.is_alive()
        assert not self.failures


def received(
    tmp_path: Path,
    script: Callable[[Peer], None],
    *,
    first: bytes | None = None,
    question: bytes = b"question",
    metadata: Sequence[tuple[str, str]] = (("key", "value"),),
) -> list[bytes]:
    """What a client gets from a server that plays ``script``."""
    server = Server(tmp_path / "socket", [script], first)
    connection = StreamConnection(server.target)
    try:
        return [bytes(incoming.read()) for incoming in connection.call("/service/Call", question, metadata)]
    finally:
        connection.close()
        server.join()


def test_a_call(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        stream, headers, question = peer.request()
        assert headers | {"user-agent": ""} == {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/service/Call",
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            "user-agent": "",
            "key": "value",
        }
        assert question == b"question"
        peer.send(peer.begin(stream), frame(DATA, 0, stream, message(b"one") + message(b"") + message(b"three")))
        peer.send(peer.end(stream))

    assert received(tmp_path, script) == [b"one", b"", b"three"]


def test_a_message_in_pieces(tmp_path: Path) -> None:
    """Cut anywhere, padded, with other frames between; longer than what is read of it first."""
    content = bytes(range(256)) * 100

    def script(peer: Peer) -> None:
        stream, _, _ = peer.request()
        headers = peer.block([(":status", "200"), ("some", "header")])
        peer.send(frame(HEADERS, 0, stream, headers[:2]), frame(CONTINUATION, END_HEADERS, stream, headers[2:]))
        data = message(content) + message(b"last")
        peer.send(frame(DATA, 0, stream, data[:3]), frame(DATA, 0, stream), frame(PING, 0, 0, b"12345678"))
        peer.send(frame(DATA, PADDED, stream, b"\x04" + data[3:9000] + bytes(4)), frame(WINDOW_UPDATE, 0, 0, bytes(4)))
        peer.send(frame(DATA, PADDED, stream, b"\x02" + bytes(2)), frame(0xFA, 0, 0, b"unknown"))
        peer.send(frame(DATA, 0, stream, data[9000:]), peer.end(stream))
        assert peer.next(PING) == (ACK, 0, b"12345678")

    assert received(tmp_path, script) == [content, b"last"]


def test_where_the_reader_wants_it(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100

    def script(peer: Peer) -> None:
        stream, _, _ = peer.request()
        peer.send(peer.begin(stream))
        peer.send(*(frame(DATA, 0, stream, message(content)) for _ in range(4)), peer.end(stream))

    server = Server(tmp_path / "socket", [script])
    connection = StreamConnection(server.target)
    call = connection.call("/service/Call", b"", [])
    place = bytearray(len(content) - 300)
    next(call).read_into(memoryview(place), 300)
    assert bytes(place) == content[300:]
    incoming = next(call)
    assert incoming.size == len(content)
    assert bytes(incoming.head) == content[: len(incoming.head)]
    before = len(incoming.head)
    incoming.read_more()
    assert bytes(incoming.head) == content[: 2 * before]
    with pytest.raises(ValueError, match="expected 10 bytes from byte 0, found 25600"):
        incoming.read_into(memoryview(bytearray(10)), 0)
    next(call)  # passes over what was not read
    assert bytes(next(call).read()) == content
    assert list(call) == []
    connection.close()
    server.join()


@pytest.mark.parametrize(
    ("trailers", "code", "details"),
    [
        ([("grpc-status", "15"), ("grpc-message", "shard 3%25 lost")], grpc.StatusCode.DATA_LOSS, "shard 3% lost"),
        ([("grpc-status", "99")], grpc.StatusCode.UNKNOWN, ""),
    ],
)
def test_statuses(tmp_path: Path, trailers: list[tuple[str, str]], code: grpc.StatusCode, details: str) -> None:
    def script(peer: Peer) -> None:
        stream, _, _ = peer.request()
        peer.send(peer.end(stream, [(":status", "200"), *trailers, ("retry-after-ms", "7")]))

    with pytest.raises(CallError) as failure:
        received(tmp_path, script)
    assert (failure.value.code(), failure.value.details()) == (code, details)
    assert dict(failure.value.trailing_metadata())["retry-after-ms"] == "7"


@pytest.mark.parametrize(
    ("answer", "message_part"),
    [
        (lambda peer, stream: frame(HEADERS, END_HEADERS, stream, peer.block([(":status", "502")])), "HTTP status 502"),
        (
            lambda peer, stream: frame(RST_STREAM, 0, stream, struct.pack(">I", 2)),
            r"broke the call off \(HTTP/2 error 2",
        ),
        (lambda peer, stream: frame(GOAWAY, 0, 0, struct.pack(">II", 0, 2)), "takes no more calls"),
        (lambda peer, stream: frame(DATA, END_STREAM, stream, message(b"x")), "ended without a status"),
        (
            lambda peer, stream: peer.begin(stream) + frame(DATA, 0, stream, message(b"1234")[:-1]) + peer.end(stream),
            "ended within a message",
        ),
        (lambda peer, stream: frame(DATA, 0, stream, message(b"x", is_compressed=True)), "expected an uncompressed"),
        (lambda peer, stream: frame(DATA, 0, stream, b"\0\xff\xff\xff\xff"), "of at most 1 GiB"),
        (lambda peer, stream: frame(DATA, PADDED, stream, b"\x09123"), "more padding than data"),
        (lambda peer, stream: frame(DATA, 0, stream + 2, message(b"x")), "a frame of another stream"),
        (lambda peer, stream: frame(HEADERS, END_HEADERS, stream, b"\xff\xff\xff\xff\xff\xff"), "unreadable headers"),
        (lambda peer, stream: frame(HEADERS, 0, stream, b"") + frame(PING, 0, 0, bytes(8)), "headers that do not end"),
        (lambda peer, stream: frame(SETTINGS, 0, 0, bytes(2**17)), "a frame of type 4 with 131072 bytes"),
        (lambda peer, stream: frame(RST_STREAM, 0, stream, bytes(2)), "a frame of type 3 with 2 bytes"),
        (lambda peer, stream: frame(GOAWAY, 0, 0, bytes(4)), "a frame of type 7 with 4 bytes"),
        (lambda peer, stream: frame(HEADERS, END_HEADERS | PADDED, stream), "more padding than headers"),
        (lambda peer, stream: frame(HEADERS, END_HEADERS | PADDED, stream, b"\x04123"), "more padding than headers"),
        (lambda peer, stream: frame(5, 0, stream, bytes(4)), "a push that was not allowed"),
        (lambda peer, stream: b"HTTP/1.1 400 Bad Request\r\n\r\n", "connection lost"),
        (
            lambda peer, stream: peer.connection.shutdown(socket.SHUT_RDWR) or b"",
            "connection lost",
        ),
    ],
)
def test_broken_answers(tmp_path: Path, answer: Callable[[Peer, int], bytes], message_part: str) -> None:
    def script(peer: Peer) -> None:
        stream, _, _ = peer.request()
        peer.send(answer(peer, stream))
        peer.connection.shutdown(socket.SHUT_WR)

    with pytest.raises(CallError, match=message_part) as failure:
        received(tmp_path, script)
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE


def test_calls_follow_each_other(tmp_path: Path) -> None:
    """On one connection; on a new one after a server said that it goes away. Then one that is not read to its end."""
    streams: list[int] = []

    def answer(peer: Peer) -> None:
        stream, _, _ = peer.request()
        streams.append(stream)
        peer.send(peer.begin(stream), frame(DATA, 0, stream, message(b"x")), peer.end(stream))

    def twice(peer: Peer) -> None:
        answer(peer)
        answer(peer)

    def twice_and_away(peer: Peer) -> None:
        twice(peer)
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", 3, 0)))
        said.set()

    said = threading.Event()
    server = Server(tmp_path / "socket", [twice_and_away, twice, answer])
    connection = StreamConnection(server.target)
    for number in range(5):
        call = connection.call("/service/Call", b"", [])
        assert bytes(next(call).read()) == b"x"
        if number != 3:
            assert list(call) == []
        assert call.is_complete == (number != 3)
        if number == 1:
            assert said.wait(60)
    connection.close()
    server.join()
    assert streams == [1, 3, 1, 3, 1]


def test_a_frame_that_does_not_end_between_two_calls(tmp_path: Path) -> None:
    """It holds the next call up for a moment only, which then takes a new connection."""

    def answer(peer: Peer) -> None:
        stream, _, _ = peer.request()
        peer.send(peer.begin(stream), frame(DATA, 0, stream, message(b"x")), peer.end(stream))

    def answer_and_begin(peer: Peer) -> None:
        answer(peer)
        peer.send(frame(PING, 0, 0, bytes(8))[:5])
        sent.set()

    sent = threading.Event()
    server = Server(tmp_path / "socket", [answer_and_begin, answer])
    connection = StreamConnection(server.target)
    assert len(list(connection.call("/service/Call", b"", []))) == 1
    assert sent.wait(60)
    assert len(list(connection.call("/service/Call", b"", []))) == 1
    connection.close()
    server.join()


def test_what_has_come_is_counted_while_a_message_is_on_its_way(tmp_path: Path) -> None:
    """Slow is not silent: a watcher sees the bytes of a large message arrive."""
    content = bytes(2**20)
    half_way, seen = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        stream, _, _ = peer.request()
        whole = frame(DATA, 0, stream, message(content))
        peer.send(peer.begin(stream), whole[: len(whole) // 2])
        half_way.set()
        assert seen.wait(60)
        peer.send(whole[len(whole) // 2 :], peer.end(stream))

    server = Server(tmp_path / "socket", [script])
    connection = StreamConnection(server.target)
    call = connection.call("/service/Call", b"", [])
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.extend(bytes(incoming.read()) for incoming in call))
    reader.start()
    assert half_way.wait(60)
    deadline = time.monotonic() + 300
    while call.num_received < len(content) // 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(content) // 4 <= call.num_received <= len(content) // 2
    seen.set()
    reader.join(300)
    assert received == [content]
    connection.close()
    server.join()


def test_cancel(tmp_path: Path) -> None:
    """From another thread, while the server sends nothing; a call that has ended is not cancelled any more."""

    def silent(peer: Peer) -> None:
        stream, _, _ = peer.request()
        peer.send(peer.begin(stream))

    def whole(peer: Peer) -> None:
        stream, _, _ = peer.request()
        peer.send(peer.end(stream, [(":status", "200"), *OK]))

    server = Server(tmp_path / "socket", [silent, whole])
    connection = StreamConnection(server.target)
    call = connection.call("/service/Call", b"", [])
    timer = threading.Timer(0.2, call.cancel)
    timer.start()
    with pytest.raises(CallError) as failure:
        next(call)
    assert failure.value.code() == grpc.StatusCode.CANCELLED
    timer.join()
    call = connection.call("/service/Call", b"", [])
    assert list(call) == []
    assert call.is_complete
    assert not call.cancel()
    connection.close()
    server.join()


@pytest.mark.parametrize("target", ["unix:/nowhere/socket", "127.0.0.1:1", "no-port"])
def test_unreachable(target: str) -> None:
    with pytest.raises(CallError, match="cannot connect") as failure:
        next(StreamConnection(target).call("/service/Call", b"", []))
    assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
