"""Which replicas there are: looked for again from time to time, on a thread of its own, since look-ups can hang."""

import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

from loader_service.client.http2.dial import Halt, look_up
from loader_service.client.replica import Replica
from loader_service.client.security import Security
from loader_service.wire.addresses import each_port, name_and_port


class Discovery:
    """``find`` is called at most once in ``interval_s`` seconds, and never twice at once. For one thread."""

    def __init__(self, find: Callable[[], dict[str, Replica]], interval_s: float) -> None:
        self._find, self._interval_s = find, interval_s
        self._answers: queue.SimpleQueue[tuple[dict[str, Replica] | None, str]] = queue.SimpleQueue()
        self._is_looking = False
        self._looked_at = time.monotonic()
        self.failure = ""
        """Why the last look found nothing; empty if it did."""

    def poll(self) -> dict[str, Replica] | None:
        """What a look has found that ended since the last poll, by address. Does not wait."""
        if not self._answers.empty():
            found, self.failure = self._answers.get()
            self._is_looking = False
            self._looked_at = time.monotonic()
            return found
        if not self._is_looking and time.monotonic() - self._looked_at >= self._interval_s:
            self._looked_at = time.monotonic()
            try:
                threading.Thread(target=self._look, name="loader-discovery", daemon=True).start()
                self._is_looking = True
            except RuntimeError as error:  # no more threads now: there may be later
                self.failure = str(error)
        return None

    def _look(self) -> None:
        try:
            self._answers.put((self._find(), ""))
        except Exception as error:  # its text only: its frames would keep what they refer to
            self._answers.put((None, f"looking for replicas: {type(error).__name__}: {error}"))


def resolve(
    targets: Sequence[str], security: Security, client_id: str = "", *, uses_grpcio: bool = False
) -> dict[str, Replica]:
    """The replicas that ``targets`` stand for now, by address.

    ``dns:NAME:PORT`` stands for every address NAME has now (a Kubernetes headless service, for one), and
    ``HOST:FIRST-LAST`` for every port of a range; anything else stands for itself.
    """
    replicas: dict[str, Replica] = {}
    make = partial(Replica, security=security, client_id=client_id, uses_grpcio=uses_grpcio)
    for target in chain.from_iterable(map(each_port, targets)):
        named = name_and_port(target)
        if named is None:
            replicas[target] = make(target=target)
            continue
        host, port = named
        try:
            found = look_up(host, port, Halt())
        except OSError:
            continue  # no address now; there may be one at the next look
        for family, _, _, _, sockaddr in found:
            ip = str(sockaddr[0])
            address = f"[{ip}]:{port}" if family == socket.AF_INET6 else f"{ip}:{port}"
            replicas[address] = make(target=address, server_name=host)
    return replicas
