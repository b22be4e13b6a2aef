"""Connecting can be broken off from another thread, whatever it waits for: a name, an answer, a handshake."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest

from loader_service.client.http2.calls import StreamConnection
from loader_service.client.http2.dial import Halt, connect
from loader_service.client.http2.status import CallError


@contextmanager
def deaf_listener() -> Iterator[int]:
    """The port of a listener whose queue is full: the kernel drops what else wants to connect."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first:
        port: int = listener.getsockname()[1]
        first.connect(("127.0.0.1", port))
        with socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(("127.0.0.1", port))
            yield port


@contextmanager
def silent_listener() -> Iterator[int]:
    """The port of a listener that accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def expect_breaking_off(target: str, tls: ssl.SSLContext | None = None) -> None:
    """Expects connecting to end when it is broken off, and not by running out of its time."""
    halt = Halt()
    timer = threading.Timer(0.3, halt.set)
    timer.start()
    with pytest.raises(OSError, match=r".") as failure:
        connect(target, halt, tls=tls, server_name="localhost")
    assert not isinstance(failure.value, TimeoutError)
    timer.join()


def test_while_nothing_answers() -> None:
    with deaf_listener() as port:
        expect_breaking_off(f"127.0.0.1:{port}")


def test_during_the_handshake() -> None:
    with silent_listener() as port:
        expect_breaking_off(f"127.0.0.1:{port}", ssl.create_default_context())


def test_during_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Event(), threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", hanging(socket.getaddrinfo, asked, answered))
    try:
        expect_breaking_off("loader.test:7000")
        assert asked.is_set()
    finally:
        answered.set()


def hanging(real: Callable[..., object], asked: threading.Event, answered: threading.Event) -> Callable[..., object]:
    """``getaddrinfo`` that does not answer for names in ``.test`` until ``answered`` is set."""

    def look_up(host: str, *arguments: object, **options: object) -> object:
        if host.endswith(".test") and not options.get("flags"):
            asked.set()
            answered.wait(60)
        return real(host, *arguments, **options)

    return look_up


def test_before_it_begins() -> None:
    halt = Halt()
    halt.set()
    with silent_listener() as port, pytest.raises(ConnectionAbortedError):
        connect(f"127.0.0.1:{port}", halt, tls=None, server_name="localhost")


def test_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with connect(f"localhost:{listener.getsockname()[1]}", Halt(), tls=None, server_name="localhost") as connection:
            assert connection.gettimeout() is None


def test_a_call_that_is_cancelled_while_it_connects() -> None:
    with deaf_listener() as port:
        connection = StreamConnection(f"127.0.0.1:{port}")
        call = connection.call("/service/Call", b"", [])
        timer = threading.Timer(0.3, call.cancel)
        timer.start()
        with pytest.raises(CallError) as failure:
            next(call)
        assert failure.value.code() == grpc.StatusCode.CANCELLED
        timer.join()
