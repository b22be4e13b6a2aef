"""What the kernel is told about the files of a store, and asked: which bytes to read next, and which it has in memory.

macOS and some file systems know less of it; then everything reads as before, only later.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

_LEAST_REQUEST_BYTES = 1 << 17
_PAGE_BYTES = 4096
_PIECE_BYTES = 1 << 20
_ONE_BYTE = [bytearray(1)]  # what is read there is of no interest


def read_no_further(descriptor: int) -> None:
    """Has the kernel read just what is asked for: around a record it would read megabytes that nobody wants."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def request_bytes(descriptor: int) -> int:
    """The bytes of a file that the kernel reads for one request, and no more: as its device goes, 128 KB at least."""
    return _request_bytes(os.fstat(descriptor).st_dev, Path("/sys"))


@lru_cache
def _request_bytes(device: int, sys: Path) -> int:
    # mm/readahead.c: the device's read-ahead or its longest transfer, whichever is more.
    number = f"{os.major(device)}:{os.minor(device)}"
    limits = [sys / "class/bdi" / number / "read_ahead_kb"]
    for queue in ("queue", "../queue"):  # of a disk, and of a disk's partition
        limits += [sys / "dev/block" / number / queue / name for name in ("read_ahead_kb", "max_sectors_kb")]
    found = [_LEAST_REQUEST_BYTES]
    for limit in limits:
        with suppress(OSError, ValueError):
            found.append(int(limit.read_text()) * 1024)
    return max(found)


def will_need(descriptor: int, extents: Iterable[tuple[int, int]]) -> None:
    """Has the kernel begin to read extents, (offset, bytes) in ascending order: neighbours together.

    Returns before they are read, but waits where the device takes no more requests.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    most_bytes = request_bytes(descriptor)
    for begin, end in _merged(extents):
        for offset in range(begin, end, most_bytes):
            size_bytes = min(end - offset, most_bytes)
            os.posix_fadvise(descriptor, offset, size_bytes, os.POSIX_FADV_WILLNEED)


def is_cached(descriptor: int, offset: int, size_bytes: int, most_bytes: int) -> bool | None:
    """Whether the kernel has bytes of a file in memory: the last of each request for them, of ``most_bytes`` at most,
    since they come together. None where the system does not say. Raises EOFError when the file ends before.
    """
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    try:
        for end in range(offset + size_bytes, offset, -most_bytes):
            if not os.preadv(descriptor, _ONE_BYTE, end - 1, os.RWF_NOWAIT):
                raise EOFError
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return None
    return True


@contextmanager
def left_as_found(path: Path) -> Iterator[None]:
    """Brings a whole file into memory, from its start to its end; afterwards drops what the kernel had not there
    before, so that reading all of a store leaves others what they have in memory."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        was_absent = list(absent(file.fileno(), size_bytes))
        buffer = memoryview(bytearray(_PIECE_BYTES))
        try:
            # To ask for it would not do: what is still being read when it is to be dropped stays.
            for offset, length in was_absent:
                for begin in range(offset, offset + length, _PIECE_BYTES):
                    os.preadv(file.fileno(), [buffer[: offset + length - begin]], begin)
            yield
        finally:
            for offset, length in was_absent:
                os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_DONTNEED)


def absent(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Extents of a file that are not in memory: (offset, bytes). Nothing where the system does not say."""
    if not size_bytes or not hasattr(os, "posix_fadvise"):
        return
    with mmap.mmap(descriptor, size_bytes, prot=mmap.PROT_READ) as mapping:
        pages = np.zeros(-(-size_bytes // mmap.PAGESIZE), np.uint8)
        address = np.frombuffer(mapping, np.uint8).ctypes.data
        if ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(size_bytes), pages.ctypes) != 0:
            return
    is_absent = np.concatenate([[False], pages & 1 == 0, [False]])
    borders = np.flatnonzero(is_absent[1:] != is_absent[:-1]) * mmap.PAGESIZE
    for begin, end in borders.reshape(-1, 2).tolist():
        yield begin, end - begin


def _merged(extents: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Begin and end of runs of extents between which no whole page lies."""
    runs: list[tuple[int, int]] = []
    for offset, size_bytes in extents:
        if runs and offset - runs[-1][1] < _PAGE_BYTES:
            begin, end = runs[-1]
            runs[-1] = begin, max(end, offset + size_bytes)
        else:
            runs.append((offset, offset + size_bytes))
    return runs
