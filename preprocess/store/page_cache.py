"""What the kernel is told about the files of a store, and asked: which bytes to read next, and which it has in memory.

macOS and some file systems know less of it; then everything reads as before, only later.
"""

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

_LEAST_REQUEST_BYTES = 1 << 17
_PAGE_BYTES = 4096
_PIECE_BYTES = 1 << 20
_ONE_BYTE = [bytearray(1)]  # what is read there is of no interest
_mincore = ctypes.CDLL(None).mincore
_mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_OnePage = ctypes.c_char * 1


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


class MappedFile:
    """A file's bytes where the kernel has them, and whether it has them: to touch others waits for the disk, page by
    page. Any number of threads may ask."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        mapping = mmap.mmap(descriptor, size_bytes, prot=mmap.PROT_READ)
        mapping.madvise(mmap.MADV_RANDOM)
        self.content = memoryview(mapping)
        self._address, self._most_bytes = _address(mapping), request_bytes(descriptor)
        self._descriptor, self._is_told = descriptor, _is_told(descriptor)

    def is_cached(self, offset: int, size_bytes: int) -> bool | None:
        """Whether the kernel has bytes in memory: the last of each request for them, since they come together. None
        where the system does not say. Nothing is read for it; what is behind the file's end is not there."""
        if not self._is_told:
            return None if _is_there_at_once(self._descriptor, offset + size_bytes - 1) else False
        for end in range(offset + size_bytes, offset, -self._most_bytes):
            is_there = _is_resident(self._address + (end - 1 & -mmap.PAGESIZE))
            if not is_there:
                return is_there
        # The kernel may keep pages behind the end of a file that was truncated; to touch them kills the process.
        return os.lseek(self._descriptor, 0, os.SEEK_END) >= offset + size_bytes


def _is_told(descriptor: int) -> bool:
    """Whether the kernel says which pages of a file it has. Who neither owns the file nor may write to it is told that
    it has them all, and so is everybody in a sandbox that does not know: of memory that nobody has touched, too."""
    if sys.platform != "linux":
        return False
    with mmap.mmap(-1, mmap.PAGESIZE) as untouched:
        if _is_resident(_address(untouched)) is not False:
            return False
    is_owner = os.fstat(descriptor).st_uid == os.geteuid()
    return is_owner or os.access(f"/proc/self/fd/{descriptor}", os.W_OK, effective_ids=True)


def _is_resident(address: int) -> bool | None:
    """Whether a mapped page is in memory; None where the system does not say."""
    answer = _OnePage()
    return None if _mincore(address, 1, answer) != 0 else answer[0] != b"\0"


def _is_there_at_once(descriptor: int, offset: int) -> bool:
    """Whether one byte of a file can be read without waiting. To ask begins to read its page, which a quick disk may
    have done at once: True says nothing of other pages."""
    if not hasattr(os, "RWF_NOWAIT"):
        return True
    try:
        return os.preadv(descriptor, _ONE_BYTE, offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return True


def _address(mapping: mmap.mmap) -> int:
    return int(np.frombuffer(mapping, np.uint8).ctypes.data)


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
        if _mincore(_address(mapping), size_bytes, pages.ctypes) != 0:
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
