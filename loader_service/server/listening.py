"""Whether an address can be listened on, found out before gRPC tries, and by how many at once."""

import errno
import os
import resource
import socket
from contextlib import suppress

from loader_service.wire.errors import ServiceUnavailableError

_MOST_CONNECTIONS = 4096
_OTHER_FILES = 64
"""Descriptors that are left to all else: metrics, logs, names that are looked up, files that are read again."""


def most_connections(max_sessions: int) -> int:
    """Connections that a server may have, whoever makes them: as many as leave descriptors to ``max_sessions`` sessions
    of shared memory, two each, and to the rest of the process, whose files are open already."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    room = limit - len(os.listdir("/dev/fd")) - 2 * max_sessions - _OTHER_FILES
    return max(min(room, _MOST_CONNECTIONS), 1)


def check_address(address: str) -> None:
    """Raises ServiceUnavailableError when ``address`` cannot be listened on: gRPC would say so in lines of its own, and
    not why; and a Unix socket that another process listens on it would take over without a word."""
    try:
        if address.startswith("unix:"):
            _check_unix_socket(address.removeprefix("unix:").removeprefix("//"))
            return
        host, _, port = address.rpartition(":")
        failures = []
        # As gRPC does: on whichever of a name's addresses this machine has.
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, place in found:
            try:
                with socket.socket(family) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(place)
            except OSError as error:
                failures.append(error)
        taken = [error for error in failures if error.errno == errno.EADDRINUSE]
        if taken or len(failures) == len(found):
            raise (taken or failures)[0]
    except (OSError, OverflowError) as error:
        raise ServiceUnavailableError(f"{address}: cannot listen there: {error}") from None


def _check_unix_socket(path: str) -> None:
    """Raises OSError when somebody answers at ``path``. What a process that died has left there may be replaced."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # where too many wait to be let in, somebody listens too
        with suppress(FileNotFoundError, ConnectionRefusedError):
            with suppress(BlockingIOError):
                probe.connect(path)
            raise OSError("in use")
