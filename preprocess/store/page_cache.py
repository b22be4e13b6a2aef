"""What the kernel is told about the files of a store, and asked: which bytes to read next, and which it has in memory.

macOS and some file systems know less of it; then everything reads as before, only later.
"""

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# A kernel reads no more than a device's read-ahead for one request, 128 KB where nobody has changed it.
_REQUEST_BYTES = 1 << 17
_PAGE_BYTES = 4096
# Where the kernel does not say whether it had bytes in memory: to copy a record takes less, to wait for a disk more.
_LONGEST_COPY_S = 0.001


def read_no_further(descriptor: int) -> None:
    """Has the kernel read just what is asked for: around a record it would read megabytes that nobody wants."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)


def will_need(descriptor: int, extents: Iterable[tuple[int, int]]) -> None:
    """Has the kernel begin to read extents, (offset, bytes) in ascending order: neighbours together.

    Returns before they are read, but waits where the device takes no more requests.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for begin, end in _merged(extents):
        for offset in range(begin, end, _REQUEST_BYTES):
            size_bytes = min(end - offset, _REQUEST_BYTES)
            os.posix_fadvise(descriptor, offset, size_bytes, os.POSIX_FADV_WILLNEED)


def read_into(descriptor: int, buffer: memoryview, offset: int) -> tuple[int, float]:
    """Fills ``buffer`` from a file, or up to its end. Returns the number of bytes and how long it waited for the disk:
    0 where the kernel had them all in memory.
    """
    num_read, is_known = 0, False
    if hasattr(os, "RWF_NOWAIT"):
        try:
            num_read = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
            is_known = True
        except BlockingIOError:
            is_known = True
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
    if num_read == len(buffer):
        return num_read, 0.0
    started = time.perf_counter()
    while num_read < len(buffer) and (size_bytes := _read(descriptor, buffer[num_read:], offset + num_read)):
        num_read += size_bytes
    elapsed_s = time.perf_counter() - started
    return num_read, elapsed_s if is_known or elapsed_s > _LONGEST_COPY_S else 0.0


@contextmanager
def left_as_found(path: Path) -> Iterator[None]:
    """Begins to read a whole file from its start to its end; afterwards drops what the kernel had not in memory before,
    so that reading all of a store leaves others what they have there."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        was_absent = list(absent(file.fileno(), size_bytes))
        will_need(file.fileno(), was_absent)
        try:
            yield
        finally:
            for offset, length in was_absent:
                os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_DONTNEED)


def absent(descriptor: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Extents of a file that are not in memory: (offset, bytes). None where the system does not say."""
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


def _read(descriptor: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    content = os.pread(descriptor, len(buffer), offset)
    buffer[: len(content)] = content
    return len(content)


def _merged(extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Begin and end of runs of extents between which no whole page lies."""
    run: tuple[int, int] | None = None
    for offset, size_bytes in extents:
        if run is not None and offset - run[1] < _PAGE_BYTES:
            run = run[0], max(run[1], offset + size_bytes)
            continue
        if run is not None:
            yield run
        run = offset, offset + size_bytes
    if run is not None:
        yield run
