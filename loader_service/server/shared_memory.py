"""The same-host path, server side: pixels go into memory that the client has mapped too; gRPC carries the rest.

A client that shares this machine connects to an abstract Unix socket, whose name ``Describe`` tells, and gets a memfd
of its own, cut into slots. Streams that name its session put each message's pixels into a free slot instead of the
message; the client says over the socket when it has done with a slot. Both are anonymous: when either side dies, in
whatever way, the socket closes, the session ends, and the kernel frees the memory. Nothing has a name in a filesystem.

Only processes of this user (or root) are let in, as the kernel names them (SO_PEERCRED).
"""

import logging
import os
import secrets
import selectors
import socket
import threading
import time
from functools import partial

from loader_service.pipeline.slots import SlotPool
from loader_service.wire.shared_memory import HELLO, RELEASE, peer_uid

log = logging.getLogger(__name__)

_ACCEPT_PAUSE_S = 0.5
"""Pause after a connection could not be accepted (no descriptors left): it stays queued, and retrying at once spins."""


def is_supported() -> bool:
    """Whether this system has memfd and peer credentials: Linux does."""
    return hasattr(os, "memfd_create") and hasattr(socket, "SO_PEERCRED")


class SharedMemoryServer:
    """Listens for same-host clients on one thread, and keeps their sessions.

    ``name`` is the abstract socket's, for ``Describe``. At most ``max_sessions`` sessions of ``num_slots`` slots of
    ``slot_bytes`` each: that bounds the memory.
    """

    def __init__(self, *, num_slots: int, slot_bytes: int, max_sessions: int) -> None:
        self.name = f"alexnet-loader-{secrets.token_hex(16)}"
        self._num_slots, self._slot_bytes, self._max_sessions = num_slots, slot_bytes, max_sessions
        self._sessions: dict[socket.socket, SlotPool] = {}
        self._by_token: dict[str, SlotPool] = {}
        self._received: dict[socket.socket, bytes] = {}
        self._accepts_at: float | None = None
        """When connections are accepted again; None: now."""
        self._closing = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind("\0" + self.name)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._admit)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="shared-memory", daemon=True)
        self._thread.start()

    def session(self, token: str) -> SlotPool | None:
        """The session that a request names, or None if it has ended."""
        return self._by_token.get(token)

    def close(self) -> None:
        """Ends all sessions and the thread; once, whoever calls it."""
        with self._closing:
            if not self._thread.is_alive():
                return
            self._waker.send(b"x")
            self._thread.join()
            for connection in list(self._sessions):
                self._end(connection)
            for end in (self._listener, self._wake, self._waker):
                end.close()
            self._selector.close()

    def _run(self) -> None:
        while True:
            if self._accepts_at is not None and time.monotonic() >= self._accepts_at:
                self._accepts_at = None
                self._selector.register(self._listener, selectors.EVENT_READ, self._admit)
            for key, _ in self._selector.select(None if self._accepts_at is None else _ACCEPT_PAUSE_S):
                if key.fileobj is self._wake:
                    return
                key.data()

    def _admit(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("a shared-memory client could not be let in: %s", error)
            self._selector.unregister(self._listener)
            self._accepts_at = time.monotonic() + _ACCEPT_PAUSE_S
            return
        if peer_uid(connection) not in (os.getuid(), 0) or len(self._sessions) >= self._max_sessions:
            connection.close()
            return
        try:
            pool = SlotPool(self._num_slots, self._slot_bytes)
        except OSError as error:
            log.warning("a shared-memory session could not be made: %s", error)
            connection.close()
            return
        # Known before the client hears of it, so that no request can name it too early.
        self._sessions[connection] = pool
        self._by_token[pool.token.hex()] = pool
        self._received[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ, partial(self._receive, connection))
        try:
            socket.send_fds(connection, [HELLO.pack(pool.token, pool.num_slots, pool.slot_bytes)], [pool.descriptor])
            connection.setblocking(False)
        except OSError:
            self._end(connection)

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(connection)
            return
        data = self._received[connection] + data
        whole = len(data) - len(data) % RELEASE.size
        self._received[connection] = data[whole:]
        pool = self._sessions[connection]
        try:
            for number, generation in RELEASE.iter_unpack(data[:whole]):
                pool.release(number, generation)
        except ValueError as error:
            log.warning("a shared-memory client broke the protocol and is dropped: %s", error)
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        connection.close()
        pool = self._sessions.pop(connection)
        self._by_token.pop(pool.token.hex(), None)
        self._received.pop(connection)
        pool.close()
