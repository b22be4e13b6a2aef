"""What a server may ask of our HTTP/2 connection, rule by rule: windows, refusals, interim answers, no gRPC at all."""

import struct
import threading
from pathlib import Path

import grpc
import pytest

from loader_service.client.http2 import calls
from loader_service.client.http2.calls import StreamConnection
from loader_service.client.http2.status import CallError
from tests.loader_service.test_streaming_calls import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    Server,
    frame,
    message,
    received,
)

HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 4, 5
REFUSED_STREAM = 7
QUESTION = message(b"question")


def settings(**values: int) -> bytes:
    """What a server says it takes; no dynamic table for headers, so that a script may leave some unread."""
    values = {"table": 0, **values}
    numbers = {"table": HEADER_TABLE_SIZE, "window": INITIAL_WINDOW_SIZE, "frame": MAX_FRAME_SIZE}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", numbers[name], value) for name, value in values.items()))


def update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def answer(peer: Peer, stream: int, content: bytes = b"x") -> None:
    peer.send(peer.begin(stream), frame(DATA, 0, stream, message(content)), peer.end(stream))


def test_nothing_is_asked_before_the_server_has_said_what_it_takes(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        _, stream, _ = peer.next(HEADERS)
        flags, _, payload = peer.next(DATA)
        assert (flags, payload) == (0, QUESTION[:3])
        peer.send(update(stream, 2))
        assert peer.next(DATA)[2] == QUESTION[3:5]
        peer.send(update(stream, 2**20))
        assert peer.next(DATA)[::2] == (END_STREAM, QUESTION[5:])
        answer(peer, stream)

    assert received(tmp_path, script, first=settings(window=3)) == [b"x"]


def test_the_windows_of_connection_and_stream_both_count(tmp_path: Path) -> None:
    """Also when the server changes its mind: a window may become negative, and opens only when it is not any more."""
    content = bytes(70_000)
    question = message(content)

    def script(peer: Peer) -> None:
        _, stream, _ = peer.next(HEADERS)
        got = b""
        while len(got) < 65_535:
            _, _, payload = peer.next(DATA)
            assert len(payload) <= 16_384
            got += payload
        assert got == question[:65_535]
        peer.send(update(stream, 10), settings(window=100), update(0, 10_000))  # the stream's window: -65,425
        peer.send(update(stream, 65_424), frame(6, 0, 0, b"are you?"))
        assert peer.next(6)[2] == b"are you?"  # a ping's answer comes after what was sendable: nothing
        peer.send(update(stream, 2))
        assert peer.next(DATA)[2] == question[65_535:65_536]
        peer.send(update(stream, 2**20))
        while len(got) < len(question) - 1:
            flags, _, payload = peer.next(DATA)
            got += payload
        assert flags == END_STREAM
        answer(peer, stream)

    assert received(tmp_path, script, question=content, first=settings(window=2**20)) == [b"x"]


def test_a_long_header_is_sent_in_frames_that_the_server_takes(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        _, stream, block = peer.next(HEADERS)
        assert len(block) == 16_384
        flags, _, rest = peer.next(9)
        assert flags == END_HEADERS
        headers = {str(name): str(value) for name, value in peer.decoder.decode(block + rest)}
        assert headers["long"] == "\x7f" * 5_000
        peer.next(DATA)
        answer(peer, stream)

    # Huffman's code for it is 28 bits long.
    assert received(tmp_path, script, metadata=[("long", "\x7f" * 5_000)]) == [b"x"]


def test_an_answer_before_the_end_of_the_question(tmp_path: Path) -> None:
    """It counts, and what was not sent is taken back: the connection serves the next call."""

    def script(peer: Peer) -> None:
        _, stream, _ = peer.next(HEADERS)
        peer.send(peer.end(stream, [(":status", "200"), ("grpc-status", "16"), ("grpc-message", "no")]))
        assert peer.next(RST_STREAM)[1:] == (stream, struct.pack(">I", 8))
        peer.send(settings(window=1000))
        stream, _, _ = peer.request()
        answer(peer, stream)

    server = Server(tmp_path / "socket", [script], first=settings(window=0))
    connection = StreamConnection(server.target)
    with pytest.raises(CallError) as failure:
        connection.ask("/service/Call", b"question", [], 20.0)
    assert failure.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert connection.ask("/service/Call", b"question", [], 20.0) == b"x"
    connection.close()
    server.join()


def test_refused_calls_are_made_again_on_the_same_connection(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        for _ in range(3):
            stream, _, _ = peer.request()
            peer.send(frame(RST_STREAM, 0, stream, struct.pack(">I", REFUSED_STREAM)))
        stream, _, question = peer.request()
        assert (stream, question) == (7, b"question")
        answer(peer, stream)

    assert received(tmp_path, script) == [b"x"]


def test_a_server_that_refuses_for_ever_is_given_up(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        while True:
            stream, _, _ = peer.request()
            peer.send(frame(RST_STREAM, 0, stream, struct.pack(">I", REFUSED_STREAM)))

    with pytest.raises(CallError, match=r"broke the call off \(HTTP/2 error 7"):
        received(tmp_path, script)


def test_a_pause_after_a_refusal_ends_when_the_call_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_REFUSAL_PAUSE_S", 1000.0)

    def script(peer: Peer) -> None:
        stream, _, _ = peer.request()
        peer.send(frame(RST_STREAM, 0, stream, struct.pack(">I", REFUSED_STREAM)))
        timer.start()

    server = Server(tmp_path / "socket", [script])
    connection = StreamConnection(server.target)
    call = connection.call("/service/Call", b"question", [])
    timer = threading.Timer(0.3, call.cancel)
    with pytest.raises(CallError) as failure:
        next(call)
    assert failure.value.code() == grpc.StatusCode.CANCELLED
    connection.close()
    server.join()


def test_a_call_that_crossed_a_farewell_is_made_again_elsewhere(tmp_path: Path) -> None:
    """As with ``keepalive_requests`` of nginx: what the server has not begun is asked on a new connection."""

    def leaving(peer: Peer) -> None:
        stream, _, _ = peer.request()
        answer(peer, stream)
        peer.request()
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", stream, 0)))

    def staying(peer: Peer) -> None:
        stream, _, _ = peer.request()
        answer(peer, stream, b"y")

    server = Server(tmp_path / "socket", [leaving, staying])
    connection = StreamConnection(server.target)
    assert connection.ask("/service/Call", b"", [], 20.0) == b"x"
    assert connection.ask("/service/Call", b"", [], 20.0) == b"y"
    connection.close()
    server.join()


def test_interim_answers_are_passed_over(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        stream, _, _ = peer.request()
        for status in ("100", "103"):
            peer.send(frame(HEADERS, END_HEADERS, stream, peer.block([(":status", status), ("link", "x")])))
        answer(peer, stream)

    assert received(tmp_path, script) == [b"x"]


@pytest.mark.parametrize(
    ("headers", "is_all", "code", "found"),
    [
        ({":status": "502", "content-type": "text/html"}, False, "UNAVAILABLE", "HTTP status 502, content type text/h"),
        ({":status": "200", "content-type": "text/html"}, False, "UNAVAILABLE", "HTTP status 200, content type text/h"),
        ({":status": "401"}, True, "UNAUTHENTICATED", "HTTP status 401"),
        ({":status": "403"}, False, "PERMISSION_DENIED", "HTTP status 403"),
        ({":status": "200", "content-type": "application/grpc"}, True, "UNKNOWN", "expected grpc-status at the end"),
    ],
)
def test_answers_that_are_not_grpc_are_named(
    tmp_path: Path, headers: dict[str, str], is_all: bool, code: str, found: str
) -> None:
    def script(peer: Peer) -> None:
        stream, _, _ = peer.request()
        flags = END_HEADERS | (END_STREAM if is_all else 0)
        peer.send(frame(HEADERS, flags, stream, peer.block(list(headers.items()))))

    with pytest.raises(CallError, match=found) as failure:
        received(tmp_path, script)
    assert failure.value.code() == grpc.StatusCode[code]
    assert "--transport grpcio" in failure.value.details()


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (b"\x15\x03\x01\x00\x02\x02\x46....", "the service speaks TLS: --tls-ca"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "expected HTTP/2, found an answer in HTTP/1"),
        (b"220 mail.example ESMTP\r\n", "expected HTTP/2, found an answer that does not begin with its settings"),
        (b"", "closed at once, as by a service that speaks TLS: --tls-ca"),
    ],
)
def test_servers_of_something_else_are_named(tmp_path: Path, first: bytes, found: str) -> None:
    def script(peer: Peer) -> None:
        peer.connection.shutdown(1)

    with pytest.raises(CallError, match=found):
        received(tmp_path, script, first=first)


def test_a_question_has_a_deadline(tmp_path: Path) -> None:
    said = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        said.wait(20)

    server = Server(tmp_path / "socket", [script])
    connection = StreamConnection(server.target)
    with pytest.raises(CallError, match=r"no answer within 0.3 s") as failure:
        connection.ask("/service/Call", b"", [], 0.3)
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    said.set()
    connection.close()
    server.join()
