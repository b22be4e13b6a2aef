"""Outgoing messages: pixels are written where gRPC takes them from, and memory that is freed is used again."""

import ctypes
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 2**30
_NUM_ARENAS = 2


class OutgoingMessage(NamedTuple):
    """A packed part, ready to be sent."""

    body: bytes
    num_images: int


class MessageBuilder:
    """Makes a message's bytes: a header of a known size, then pixels, which are written in place.

    grpcio sends bytes objects only, and one that is put together from parts costs another copy of the pixels.
    CPython lets a bytes object that was just made be filled in, until it is shown to anyone (PyBytes_AsString in its
    C API reference).
    """

    def __init__(self, header_bytes: int, pixel_bytes: int) -> None:
        size_bytes = header_bytes + pixel_bytes
        self._message: bytes = _new_bytes(None, size_bytes)
        memory = memoryview((ctypes.c_uint8 * size_bytes).from_address(_address_of(self._message)))
        self._header: npt.NDArray[np.uint8] = np.asarray(memory[:header_bytes])
        self.pixels: npt.NDArray[np.uint8] = np.asarray(memory[header_bytes:])
        """uint8 [pixel bytes], not initialised."""

    def finish(self, header: bytes) -> bytes:
        """The message; it must not be written to any more. Raises ValueError for a header of another size."""
        self._header[:] = np.frombuffer(header, np.uint8)
        return self._message


def keep_freed_memory() -> None:
    """Tells glibc's malloc to keep what is freed: messages come and go, and fresh memory costs a fault every 4 KB.

    Few arenas, so that what one thread frees the next one takes. For a process that mostly makes messages; does nothing
    where there is another malloc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_ARENA_MAX, _NUM_ARENAS)


_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = [ctypes.c_char_p, ctypes.c_ssize_t], ctypes.py_object
_address_of = ctypes.pythonapi.PyBytes_AsString
_address_of.argtypes, _address_of.restype = [ctypes.py_object], ctypes.c_void_p
