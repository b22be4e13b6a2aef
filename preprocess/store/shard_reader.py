"""One shard's file, open for reading: its records by position, and what the disk is asked for ahead of that."""

import mmap
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from preprocess.errors import DamagedRecordError
from preprocess.store import page_cache
from preprocess.store.format import ShardInfo
from preprocess.store.index_pages import record_places

# Where the kernel does not say whether it has bytes in memory: to copy a record takes less, to wait for a disk more.
_LONGEST_COPY_S = 0.001


class ShardFile:
    """A shard that any number of threads read. What the kernel has in memory is not copied; what it has not is read in
    one piece, where others may go on meanwhile: a mapping alone would wait for its pages one by one, and hold Python's
    lock.

    Raises DamagedRecordError when it cannot be opened, or its index is damaged.
    """

    def __init__(self, path: Path, info: ShardInfo) -> None:
        self.path, self._info = path, info
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DamagedRecordError(f"{path}: expected a shard, found: {error.strerror}") from None
        try:
            page_cache.read_no_further(self._descriptor)
            places = record_places(self._descriptor, info.num_images)
            mapping = mmap.mmap(self._descriptor, info.size_bytes, prot=mmap.PROT_READ)
        except (OSError, ValueError) as error:
            os.close(self._descriptor)
            raise DamagedRecordError(f"{path}: its index cannot be read: {error}") from None
        mapping.madvise(mmap.MADV_RANDOM)
        self._mapping = memoryview(mapping)
        # An item of these is a Python number at once, for a fourth of the time that one of an array takes.
        self._offsets, self._sizes = (np.ascontiguousarray(column).data for column in places.T)

    def read(self, position: int) -> tuple[memoryview, float]:
        """The bytes of a record, and how long it waited for the disk; the list of names is at ``num_images``.

        Raises DamagedRecordError when the file has become shorter or the disk cannot read it: to touch what is mapped
        there would kill the process.
        """
        offset, size_bytes = self._offsets[position], self._sizes[position]
        try:
            is_cached = page_cache.is_cached(self._descriptor, offset, size_bytes)
            if is_cached:
                return self._mapping[offset : offset + size_bytes], 0.0
            started = time.perf_counter()
            record = os.pread(self._descriptor, size_bytes, offset)
            elapsed_s = time.perf_counter() - started
            if len(record) < size_bytes:
                raise EOFError
        except EOFError:
            found = os.fstat(self._descriptor).st_size
            raise DamagedRecordError(
                f"{self.path}: key {position}: expected a shard of {self._info.size_bytes:,} bytes, found {found:,}: "
                "truncated since it was opened"
            ) from None
        except OSError as error:
            raise DamagedRecordError(f"{self.path}: key {position}: {error.strerror}") from None
        return memoryview(record), 0.0 if is_cached is None and elapsed_s < _LONGEST_COPY_S else elapsed_s

    def will_need(self, positions: Iterable[int]) -> int:
        """Has the kernel begin to read records; returns their bytes. May wait for the device to take the requests."""
        extents = [(self._offsets[position], self._sizes[position]) for position in sorted(positions)]
        page_cache.will_need(self._descriptor, extents)
        return sum(size_bytes for _, size_bytes in extents)

    def close(self) -> None:
        """Records that are still referred to stay readable."""
        os.close(self._descriptor)
