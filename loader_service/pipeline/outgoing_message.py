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


def writable_bytes(size_bytes: int) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """A new bytes object, and its memory to be filled in: uint8 [size], not initialised, valid while that object lives.

    grpcio sends bytes objects only, and one that is put together from parts costs another copy of the pixels.
    CPython lets a bytes object that was just made be filled in, until it is shown to anyone (PyBytes_AsString in its
    C API reference).
    """
    message: bytes = _new_bytes(None, size_bytes)
    memory = (ctypes.c_uint8 * size_bytes).from_address(_address_of(message))
    return message, np.frombuffer(memoryview(memory), np.uint8)


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
