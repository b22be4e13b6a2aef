"""The port that a process's Prometheus metrics are read from, of which strangers can take a bounded share only."""

import socket
import socketserver
import ssl
import threading
import time
from contextlib import suppress
from http.server import HTTPServer
from typing import Any, Self

from prometheus_client import CollectorRegistry, MetricsHandler

MAX_CONNECTIONS = 16
"""Open at once, each with a thread; one more ends the oldest, which has had the most time."""
_DEADLINE_S = 10.0
"""For a connection, from its first byte to its last: handshake, question and answer."""
_PLACE_TIMEOUT_S = 1.0
_ACCEPT_PAUSE_S = 0.5
"""Pause after a connection could not be accepted (no descriptors left): it stays queued, and retrying at once spins."""


class MetricsPort:
    """Serves ``registry`` at ``/metrics`` of ``host`` and ``port`` (0 takes a free one) from construction until it is
    closed, over TLS with ``tls``. No connection waits for another's. Raises OSError when the port cannot be had.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, tls: ssl.SSLContext | None = None) -> None:
        self._server = _Server(host, port, registry, tls)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the port and its connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(HTTPServer):
    """A thread for each connection, in which its handshake is made too; they end within a deadline."""

    request_queue_size = 64

    def __init__(self, host: str, port: int, registry: CollectorRegistry, tls: ssl.SSLContext | None) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = found[0]
        self._tls = tls
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        """When each connection came; oldest first. Shut down with the lock held, closed once it is not in here."""
        super().__init__(found[4], MetricsHandler.factory(registry))  # type: ignore[arg-type]  # of no other family

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer would look the host's name up, which can hang
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]  # str, as it was given

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            connection, address = super().get_request()
        except OSError:
            time.sleep(_ACCEPT_PAUSE_S)
            raise
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                _shut_down(next(iter(self._open)))
        if not self._places.acquire(timeout=_PLACE_TIMEOUT_S):
            self.shutdown_request(request)
            return
        with self._lock:
            self._open[request] = time.monotonic()
        try:
            threading.Thread(target=self._answer, args=(request, client_address), daemon=True).start()
        except RuntimeError:  # no more threads now
            self._end(request)

    def service_actions(self) -> None:
        """Ends the connections that are over their time; called twice a second."""
        with self._lock:
            for connection, began in self._open.items():
                if time.monotonic() - began > _DEADLINE_S:
                    _shut_down(connection)

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            for connection in self._open:
                _shut_down(connection)

    def _answer(self, connection: socket.socket, address: Any) -> None:
        with suppress(OSError):  # its client has left, or was shut down
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            self.finish_request(connection, address)
        self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        with self._lock:
            del self._open[connection]
        self.shutdown_request(connection)
        self._places.release()


def _shut_down(connection: socket.socket) -> None:
    """Ends whatever its thread waits for; to close it is left to that one."""
    with suppress(OSError):  # not connected any more
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS's own would pull its state from under a reader
