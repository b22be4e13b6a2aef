"""Connected sockets: made within a time limit, and broken off by other threads wherever they are."""

import queue
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_CONNECT_TIMEOUT_S = 3.0
_LOOK_UP_TIMEOUT_S = 10.0


class Halt:
    """Breaks off what one thread is doing, from any other thread: calls what ``guard`` was last given."""

    def __init__(self) -> None:
        self.is_set = False
        self._lock = threading.Lock()
        self._break_off: Callable[[], object] | None = None

    def guard(self, break_off: Callable[[], object]) -> None:
        """``break_off`` is what ``set`` calls from now on. Raises ConnectionAbortedError when it was set before."""
        with self._lock:
            if self.is_set:
                raise ConnectionAbortedError("broken off")
            self._break_off = break_off

    def pause(self, seconds: float) -> None:
        """Waits for ``seconds``, or until it is set. Raises ConnectionAbortedError when it was set before."""
        ended = threading.Event()
        self.guard(ended.set)
        ended.wait(seconds)

    def set(self) -> None:
        with self._lock:
            self.is_set = True
            if self._break_off is not None:
                self._break_off()


def connect(target: str, halt: Halt, *, tls: ssl.SSLContext | None, server_name: str) -> socket.socket:
    """A socket connected to ``host:port`` or ``unix:PATH``, which ``halt`` shuts down from the beginning.

    With ``tls``, the server's certificate must be for ``server_name``. Raises OSError or ValueError.
    """
    if target.startswith("unix:"):
        return _connect_to(socket.AF_UNIX, target.removeprefix("unix:").removeprefix("//"), halt, tls, server_name)
    host, _, port = target.rpartition(":")
    found = look_up(host.strip("[]"), int(port), halt)
    for number, (family, _, _, _, address) in enumerate(found, 1):
        try:
            return _connect_to(family, address, halt, tls, server_name)
        except OSError:
            if number == len(found):
                raise
    raise OSError(f"{host}: no address")


def shut_down(connection: socket.socket) -> None:
    """Ends what other threads wait for at a socket; to close it is left to its owner."""
    with suppress(OSError):  # not connected, or not any more
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS's own would pull its state from under a reader


def _connect_to(family: int, address: Any, halt: Halt, tls: ssl.SSLContext | None, server_name: str) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_TIMEOUT_S)
        halt.guard(lambda: shut_down(connection))
        connection.connect(address)
        if family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if tls is not None:
            connection = tls.wrap_socket(connection, server_hostname=server_name, do_handshake_on_connect=False)
            secured = connection
            halt.guard(lambda: shut_down(secured))
            _shake_hands(secured)
        connection.settimeout(None)
        return connection
    except BaseException:
        connection.close()
        raise


def _shake_hands(connection: ssl.SSLSocket) -> None:
    """Raises ssl.SSLError, in words for what is usual."""
    try:
        connection.do_handshake()
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            raise ssl.SSLError(
                ssl.SSL_ERROR_SSL, f"the service speaks clear text: no --tls-ca ({error.reason})"
            ) from None
        raise
    if connection.selected_alpn_protocol() != "h2":
        found = connection.selected_alpn_protocol() or "none"
        raise ssl.SSLError(
            ssl.SSL_ERROR_SSL, f"expected a service that speaks HTTP/2 over TLS (ALPN h2), found ALPN {found}"
        )


def look_up(host: str, port: int, halt: Halt) -> list[Any]:
    """``getaddrinfo`` with a time limit: it runs on a thread of its own, which is abandoned when it hangs."""
    with suppress(socket.gaierror):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, ValueError) as error:
            answers.put(error.with_traceback(None))

    halt.guard(lambda: answers.put(ConnectionAbortedError("broken off")))
    try:
        threading.Thread(target=ask, name="loader-name", daemon=True).start()
        answer = answers.get(timeout=_LOOK_UP_TIMEOUT_S)
    except queue.Empty:
        raise TimeoutError(f"{host}: the look-up of this name took more than {_LOOK_UP_TIMEOUT_S:g} s") from None
    except RuntimeError as error:  # no more threads now
        raise OSError(str(error)) from None
    if isinstance(answer, Exception):
        raise OSError(str(answer))
    return answer
