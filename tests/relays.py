"""A relay before a service: a network that is slow, or that forgets its connections, as a test says."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PIECE_BYTES = 16_384


class Relay:
    """Passes connections on to ``target``. Its settings may be changed at any time."""

    def __init__(self, target: str) -> None:
        self._port = int(target.rpartition(":")[2])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._dead: set[socket.socket] = set()
        self.port: int = self._listener.getsockname()[1]
        self.target = f"127.0.0.1:{self.port}"
        self.bytes_per_s: float | None = None
        """Most that a connection carries to the client; None: as much as it can."""
        self.is_open = threading.Event()
        """While it is not set, nothing is carried to a client."""
        self.is_open.set()
        self.cut_after_bytes: int | None = None
        """After so many bytes to the client a connection is closed."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def num_connections(self) -> int:
        """How many there have been."""
        return len(self._sockets) // 2

    def forget_connections(self) -> None:
        """Carries nothing more on the connections there are, and says so to nobody."""
        self._dead.update(self._sockets)

    def close(self) -> None:
        self.is_open.set()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _PIECE_BYTES)
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                threading.Thread(target=self._carry, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._carry, args=(server, client, True), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        carried = 0
        with suppress(OSError):
            while content := source.recv(_PIECE_BYTES):
                if source in self._dead:
                    continue
                if is_answer and self.bytes_per_s is not None:
                    time.sleep(len(content) / self.bytes_per_s)
                if is_answer:
                    self.is_open.wait()
                sink.sendall(content)
                carried += len(content)
                if is_answer and self.cut_after_bytes is not None and carried > self.cut_after_bytes:
                    break
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def relaying(target: str) -> Iterator[Relay]:
    relay = Relay(target)
    try:
        yield relay
    finally:
        relay.close()
