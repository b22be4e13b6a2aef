"""The same-host path, client side: maps the slots that the service fills, and says when it has done with one."""

import mmap
import os
import socket
import weakref
from contextlib import suppress
from typing import Self

import numpy as np
import numpy.typing as npt

from loader_service.wire.shared_memory import GENERATION, HELLO, RELEASE, SLOT_HEADER_BYTES, peer_uid, seal

_TIMEOUT_S = 2.0
_NUM_KEPT = 3
"""Slots that are never lent: for the message that is being read and two that are being made."""


class SharedMemoryUnavailableError(Exception):
    """The service is not on this machine, or of another user, or offers no shared memory."""


class SharedMemorySession:
    """One session with a service on this machine; for one stream at a time.

    Close it when a stream ended before its last message was read: what was in its slots then is not known to be
    unused. The memory is freed when both sides have closed, or died.
    """

    def __init__(self, name: str) -> None:
        """Connects to the abstract socket ``name``. Raises SharedMemoryUnavailableError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT_S)
        try:
            self._socket.connect("\0" + name)
            if (uid := peer_uid(self._socket)) not in (os.getuid(), 0):
                raise PermissionError(f"expected a service of this user, found one of the user {uid}")
            hello, descriptors, _, _ = socket.recv_fds(self._socket, HELLO.size, 1)
            try:
                if len(hello) != HELLO.size or not descriptors:
                    raise ConnectionError("the service sent no memory")
                token, self._num_slots, self._slot_bytes = HELLO.unpack(hello)
                self._stride = SLOT_HEADER_BYTES + self._slot_bytes
                self._memory = _map(descriptors[0], self._num_slots * self._stride)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
        except (OSError, ValueError) as error:
            self._socket.close()
            raise SharedMemoryUnavailableError(str(error)) from None
        self.token = token.hex()
        self._view = memoryview(self._memory)
        self._lent: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pixels(self, slot: int, generation: int, size_bytes: int) -> memoryview:
        """The pixels in a slot: valid until ``release``. Raises ValueError when the slot does not hold them."""
        if not 1 <= slot <= self._num_slots or size_bytes > self._slot_bytes:
            raise ValueError(f"slot {slot} of {size_bytes} bytes: there is none such")
        start = (slot - 1) * self._stride
        (found,) = GENERATION.unpack_from(self._memory, start)
        if found != generation:
            raise ValueError(f"slot {slot}: expected generation {generation}, found {found}")
        return self._view[start + SLOT_HEADER_BYTES : start + SLOT_HEADER_BYTES + size_bytes]

    def release(self, slot: int, generation: int) -> None:
        """Gives a slot back to the service. Raises ValueError if it was overwritten since the message came."""
        self.pixels(slot, generation, 0)
        self._socket.sendall(RELEASE.pack(slot, generation))

    def lend(self, slot: int, generation: int, size_bytes: int) -> npt.NDArray[np.uint8] | None:
        """The pixels in a slot, read-only, which goes back to the service once nobody refers to them any more; None
        when that would leave the service too few slots to go on. Raises ValueError like ``pixels``."""
        if self._num_slots - len(self._lent) <= _NUM_KEPT:
            return None
        pixels = np.frombuffer(self.pixels(slot, generation, size_bytes), np.uint8)
        self._lent.add(slot)
        weakref.finalize(pixels, self._take_back, slot, generation).atexit = False
        return pixels

    def _take_back(self, slot: int, generation: int) -> None:
        # On any thread, with any lock held: nothing here takes one, and so few bytes are sent as one.
        self._lent.discard(slot)
        with suppress(OSError):  # the session has ended
            self._socket.sendall(RELEASE.pack(slot, generation))

    def close(self) -> None:
        """Ends the session. Views of its memory that are still held keep it mapped until they are gone."""
        self._socket.close()
        self._view.release()
        with suppress(BufferError):
            self._memory.close()


def _map(descriptor: int, size_bytes: int) -> mmap.mmap:
    """Maps memory whose size nobody can change any more. Raises OSError or ValueError."""
    seal(descriptor)
    found = os.fstat(descriptor).st_size
    if found != size_bytes:
        raise ValueError(f"expected {size_bytes:,} bytes of shared memory, found {found:,}")
    return mmap.mmap(descriptor, size_bytes, prot=mmap.PROT_READ)
