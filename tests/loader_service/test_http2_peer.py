"""Our HTTP/2 against an independent implementation, the ``h2`` library, which does what hypothesis chooses; and bytes
at random. An answer comes whole or the call fails, in its time, and nothing is left behind."""

import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.settings import SettingCodes, Settings
from hypothesis import given, settings
from hypothesis import strategies as st

from loader_service.client.http2.calls import StreamConnection
from loader_service.client.http2.status import CallError
from tests.loader_service.test_streaming_calls import message
from tests.thoroughness import NUM_EXAMPLES

TIMEOUT_S = 20.0
QUESTION = bytes(range(256)) * 3


@dataclass(frozen=True)
class Plan:
    """What the peer does with a connection."""

    settings: dict[SettingCodes, int]
    window_step: int
    """How many bytes it allows more whenever all that it allowed have come."""
    num_refusals: int
    num_interim: int
    messages: list[bytes]
    piece: int
    padding: int | None
    between: list[str]
    """What it sends between two pieces."""
    end: str


PLANS = st.builds(
    Plan,
    settings=st.fixed_dictionaries(
        {},
        optional={
            SettingCodes.INITIAL_WINDOW_SIZE: st.sampled_from([0, 1, 7, 100, 65_535, 2**31 - 1]),
            SettingCodes.MAX_FRAME_SIZE: st.sampled_from([2**14, 20_000, 2**24 - 1]),
            SettingCodes.HEADER_TABLE_SIZE: st.sampled_from([0, 64, 4096, 65_536]),
            SettingCodes.MAX_CONCURRENT_STREAMS: st.sampled_from([1, 100]),
        },
    ),
    window_step=st.sampled_from([1, 50, 10_000]),
    num_refusals=st.sampled_from([0, 0, 0, 1, 3]),
    num_interim=st.integers(0, 2),
    messages=st.lists(st.binary(max_size=40_000), max_size=4),
    piece=st.sampled_from([1000, 4096, 16_000]),
    padding=st.none() | st.integers(0, 255),
    between=st.lists(st.sampled_from(["ping", "settings", "window", "alternative", "unknown", "empty"]), max_size=4),
    end=st.sampled_from(["ok", "ok", "status", "reset", "goaway", "close", "no status", "html"]),
)


class H2Peer:
    """One connection's other side, until the plan or the client ends it."""

    def __init__(self, connection: socket.socket, plan: Plan) -> None:
        self._socket, self._plan = connection, plan
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self._h2.local_settings = Settings(client=False, initial_values=plan.settings)
        self._h2.initiate_connection()
        self._send()

    def _send(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def run(self) -> None:
        refusals = self._plan.num_refusals
        while (asked := self._question()) is not None:
            stream, question = asked
            if refusals:
                refusals -= 1
                self._h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
                self._send()
                continue
            assert question == message(QUESTION)
            if not self._answer(stream):
                self._socket.shutdown(socket.SHUT_WR)
                while self._socket.recv(65_536):
                    pass  # what is closed with bytes unread takes those along that were sent
                return

    def _question(self) -> tuple[int, bytes] | None:
        """The next request, let in by as much at a time as the plan says; None when the client has gone."""
        question, stream, allowed = b"", 0, 0
        while data := self._socket.recv(65_536):
            for event in self._h2.receive_data(data):  # raises for what no client may send
                if isinstance(event, RequestReceived):
                    stream, allowed = event.stream_id, self._h2.local_settings.initial_window_size
                elif isinstance(event, DataReceived):
                    question += event.data
                    if event.flow_controlled_length:
                        self._h2.increment_flow_control_window(event.flow_controlled_length)
                elif isinstance(event, StreamEnded):
                    return stream, question
            if stream and len(question) >= allowed:
                allowed += self._plan.window_step
                self._h2.increment_flow_control_window(self._plan.window_step, stream)
            self._send()
        return None

    def _answer(self, stream: int) -> bool:
        """Whether the connection goes on."""
        plan, peer = self._plan, self._h2
        for _ in range(plan.num_interim):
            peer.send_headers(stream, [(":status", "103"), ("link", "x")])
        if plan.end == "html":
            peer.send_headers(stream, [(":status", "502"), ("content-type", "text/html")], end_stream=True)
            self._send()
            return True
        peer.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        body = b"".join(map(message, plan.messages))
        if plan.end in ("reset", "goaway", "close"):
            body += message(b"never whole")[:-1]
        between = iter(plan.between)
        for at in range(0, len(body), plan.piece):
            peer.send_data(stream, body[at : at + plan.piece], pad_length=plan.padding)
            self._send()
            self._interrupt(next(between, ""), stream)
        if plan.end == "close":
            return False
        if plan.end == "reset":
            peer.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        elif plan.end == "goaway":
            peer.close_connection(ErrorCodes.ENHANCE_YOUR_CALM, last_stream_id=0)
        elif plan.end == "no status":
            peer.end_stream(stream)
        else:
            peer.send_headers(stream, [("grpc-status", "0" if plan.end == "ok" else "15")], end_stream=True)
        self._send()
        return plan.end != "goaway"

    def _interrupt(self, what: str, stream: int) -> None:
        if what == "ping":
            self._h2.ping(b"12345678")
        elif what == "settings":
            self._h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 128, SettingCodes.INITIAL_WINDOW_SIZE: 5_000})
        elif what == "window":
            self._h2.increment_flow_control_window(1000)
        elif what == "alternative":
            self._h2.advertise_alternative_service(b'h2=":8000"', origin=b"localhost")
        elif what == "empty":
            self._h2.send_data(stream, b"")
        elif what == "unknown":
            self._send()
            self._socket.sendall(struct.pack(">I", 3)[1:] + struct.pack(">BBI", 0xFA, 0xFF, stream) + b"abc")
        self._send()


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[BaseException]]]:
    """A Unix socket, each of whose connections is given to ``serve``; its target, and what ``serve`` raised."""
    failures: list[BaseException] = []
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(folder) / "socket")
        listener.bind(path)
        listener.listen()

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(TIMEOUT_S)
                    try:
                        serve(connection)
                    except OSError:
                        pass  # the client has gone
                    except BaseException as error:
                        failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"unix:{path}", failures
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


def received(connection: StreamConnection) -> tuple[list[bytes], CallError | None]:
    """What a call has brought, and how it failed."""
    got: list[bytes] = []
    call = connection.call("/service/Call", QUESTION, [("client-id", "x" * 30)])
    timer = threading.Timer(TIMEOUT_S, call.cancel)
    timer.start()
    try:
        got.extend(bytes(incoming.read()) for incoming in call)
    except CallError as error:
        failure: CallError | None = error
    else:
        failure = None
    finally:
        timer.cancel()
    assert failure is None or failure.code() is not grpc.StatusCode.CANCELLED, "it would have hung"
    return got, failure


@given(plan=PLANS)
@settings(deadline=None, max_examples=NUM_EXAMPLES)
def test_whatever_a_server_may_do(plan: Plan) -> None:
    with listening(lambda connection: H2Peer(connection, plan).run()) as (target, failures):
        connection = StreamConnection(target)
        for _ in range(2):
            got, failure = received(connection)
            if plan.end == "ok":
                assert (got, failure) == (plan.messages, None)
                continue
            assert failure is not None
            assert got == ([] if plan.end == "html" else plan.messages)
            assert (failure.code() is grpc.StatusCode.DATA_LOSS) == (plan.end == "status")
        connection.close()
    assert not failures, failures


def transcript() -> bytes:
    """All that a sound server sends for one call."""
    sent: list[bytes] = []

    class Recorder:
        def __init__(self, connection: socket.socket) -> None:
            self._connection = connection

        def sendall(self, data: bytes) -> None:
            sent.append(data)
            self._connection.sendall(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    plan = Plan({}, 10_000, 0, 1, [b"one", bytes(3000), b"three"], 1000, 7, ["ping", "settings", "unknown"], "ok")
    with listening(lambda connection: H2Peer(Recorder(connection), plan).run()) as (target, _):  # type: ignore[arg-type]
        connection = StreamConnection(target)
        assert received(connection) == (plan.messages, None)
        connection.close()
    return b"".join(sent)


@pytest.fixture(scope="module")
def sound() -> bytes:
    return transcript()


@given(data=st.data())
@settings(deadline=None, max_examples=5 * NUM_EXAMPLES)
def test_bytes_that_no_server_would_send(sound: bytes, data: st.DataObject) -> None:
    """A sound answer with bytes changed, left out, put in or cut off: an answer or a failure, and no hanging."""
    spoilt = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(spoilt)))
        removed = data.draw(st.sampled_from([0, 1, 1, 1, 9, 100]))
        spoilt[at : at + removed] = data.draw(st.binary(max_size=12))

    def serve(connection: socket.socket) -> None:
        connection.sendall(spoilt)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass

    with listening(serve) as (target, failures):
        connection = StreamConnection(target)
        received(connection)
        connection.close()
    assert not failures


def test_nothing_is_left_behind(sound: bytes) -> None:
    """No descriptor and no thread, after calls that ended in every way."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(sound[: len(sound) // 2])

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with listening(serve) as (target, _):
        before, others = held(), set(threading.enumerate())
        for _ in range(20):
            connection = StreamConnection(target)
            _, failure = received(connection)
            assert failure is not None
            connection.close()
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer) and thread not in others:
                thread.join(TIMEOUT_S)
        assert held() <= before
