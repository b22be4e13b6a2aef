"""What both sides of a shared-memory session agree on (docs/protocol.md)."""

import fcntl
import socket
import struct

HELLO = struct.Struct("<16sII")
"""Session token, number of slots, bytes of a slot; sent with the memfd."""
RELEASE = struct.Struct("<QQ")
"""Slot number and generation, from the client."""
GENERATION = struct.Struct("<Q")
"""At the beginning of a slot."""
SLOT_HEADER_BYTES = 64
"""Before the pixels: the slot's generation, and padding to a cache line."""


def peer_uid(connection: socket.socket) -> int:
    """Whose process is at the other end of a Unix socket, as the kernel knows."""
    uid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    return uid


def seal(descriptor: int) -> None:
    """Fixes a memfd's size for good: who touches what another has cut off dies of SIGBUS. Raises OSError for a file
    whose size cannot be fixed."""
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    if fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & seals != seals:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
