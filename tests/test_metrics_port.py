"""The port that metrics are read from: whoever connects and says nothing, scrapes are answered, and threads bounded."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
import trustme
from prometheus_client import CollectorRegistry, Counter

from commandline import metrics_port
from commandline.metrics_port import MAX_CONNECTIONS, MetricsPort
from tests.waiting import wait_until


@pytest.fixture(params=["clear text", "TLS"])
def contexts(request: pytest.FixtureRequest) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """What the server shows and whom its clients trust."""
    if request.param == "clear text":
        return None, None
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


class Scraper:
    """A registry with one sample, served at a port."""

    def __init__(self, contexts: tuple[ssl.SSLContext | None, ssl.SSLContext | None]) -> None:
        registry = CollectorRegistry()
        Counter("tests_asked", "How often.", registry=registry).inc(3)
        self._client = contexts[1]
        self.served = MetricsPort("127.0.0.1", 0, registry, contexts[0])

    def read(self) -> str:
        scheme = "http" if self._client is None else "https"
        url = f"{scheme}://127.0.0.1:{self.served.port}/metrics"
        with urlopen(url, timeout=60, context=self._client) as answer:
            return str(answer.read().decode())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.served.port))


@pytest.fixture
def scraper(contexts: tuple[ssl.SSLContext | None, ssl.SSLContext | None]) -> Iterator[Scraper]:
    scraper = Scraper(contexts)
    with scraper.served:
        yield scraper


def num_threads() -> int:
    return sum("(_answer)" in thread.name for thread in threading.enumerate())


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended a connection."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_silent_connections_hold_no_scrape_up(scraper: Scraper) -> None:
    with ExitStack() as stack:
        for count in (1, 3 * MAX_CONNECTIONS):
            silent = [stack.enter_context(scraper.connect()) for _ in range(count)]
            assert "tests_asked_total 3.0" in scraper.read()
            assert num_threads() <= MAX_CONNECTIONS
        wait_until(lambda: sum(map(is_closed, silent)) >= len(silent) - MAX_CONNECTIONS, "those over the bound to end")


def test_a_connection_ends_in_its_time(scraper: Scraper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it says nothing, or a byte now and then."""
    with scraper.connect() as silent, scraper.connect() as slow:
        slow.sendall(b"G")
        wait_until(lambda: num_threads() == 2, "both to be let in")
        assert not is_closed(silent)
        monkeypatch.setattr(metrics_port, "_DEADLINE_S", 0.0)
        wait_until(lambda: is_closed(silent) and is_closed(slow), "both to be ended")
    wait_until(lambda: num_threads() == 0, "their threads to end")


def test_nothing_is_left_after_the_end(scraper: Scraper) -> None:
    with scraper.connect() as silent:
        wait_until(lambda: num_threads() == 1, "it to be let in")
        scraper.served.close()
        wait_until(lambda: is_closed(silent) and num_threads() == 0, "its connection to end")
        with pytest.raises(ConnectionRefusedError):
            scraper.connect()


def test_a_taken_port_is_an_error(scraper: Scraper) -> None:
    with pytest.raises(OSError, match="in use"):
        MetricsPort("127.0.0.1", scraper.served.port, CollectorRegistry())


def test_an_address_of_version_6(tmp_path: Path) -> None:
    try:
        port = MetricsPort("::1", 0, CollectorRegistry())
    except OSError:
        pytest.skip("this machine has no IPv6")
    with port, socket.create_connection(("::1", port.port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.0 200"
