"""Arrays for batches, used again once nobody holds them: a fresh one of 19 MB costs the kernel 5,000 zeroed pages."""

import mmap
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


class ArrayPool:
    """Allocates arrays like ``np.empty``, from at most ``max_arrays()`` that it keeps. Thread-safe.

    It hands out views of arrays that it owns. Whatever is made of a view (a slice, a tensor) refers to the owner, so an
    owner that nothing but the pool refers to is free: its reference count says so, and needs no help from users.
    """

    def __init__(self, max_arrays: Callable[[], int]) -> None:
        self._max_arrays = max_arrays
        self._owners: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def __call__(self, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with self._lock:
            free = [place for place in range(len(self._owners)) if self._is_free(place)]
            while len(self._owners) > self._max_arrays() and free:  # it was larger once
                self._owners.pop(free.pop())
            for place in free:
                if self._owners[place].nbytes == size_bytes:
                    return _shaped(self._owners[place], shape, dtype)
            while self._owners and len(self._owners) >= self._max_arrays():
                self._owners.pop(0)
            owner = _map(size_bytes)
            self._owners.append(owner)
            return _shaped(owner, shape, dtype)

    def _is_free(self, place: int) -> bool:
        # The list and the call's own argument: two references, and none from outside.
        return sys.getrefcount(self._owners[place]) == 2


def _map(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory of the kernel's own, which goes back to it at once when the array is gone; malloc would keep it."""
    if not size_bytes:
        return np.empty(0, np.uint8)
    return np.frombuffer(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def _shaped(owner: npt.NDArray[np.uint8], shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    shaped: npt.NDArray[Any] = owner[:].view(dtype).reshape(shape)
    return shaped
