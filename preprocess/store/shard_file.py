"""One shard's file, open for reading: its records by position, and what the disk is asked for ahead of that."""

import os
from collections.abc import Iterable
from pathlib import Path

from preprocess.errors import DamagedRecordError
from preprocess.store import page_cache
from preprocess.store.format import ShardInfo
from preprocess.store.index_pages import record_places


class ShardFile:
    """A shard that any number of threads read. Copies records rather than map them: what is mapped is read page by page
    while Python's lock is held, and kills the process where the file has become shorter.

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
            self._places = record_places(self._descriptor, info.num_images)
        except (OSError, ValueError) as error:
            os.close(self._descriptor)
            raise DamagedRecordError(f"{path}: its index cannot be read: {error}") from None

    def size_of(self, position: int) -> int:
        """Bytes of a record; the list of names is at ``num_images``."""
        return int(self._places[position, 1])

    def read(self, position: int, buffer: memoryview) -> tuple[memoryview, float]:
        """The bytes of a record, in ``buffer``, and how long it waited for the disk.

        Raises DamagedRecordError when the file has become shorter.
        """
        offset, size_bytes = self._places[position].tolist()
        record = buffer[:size_bytes]
        num_read, wait_s = page_cache.read_into(self._descriptor, record, offset)
        if num_read == size_bytes:
            return record, wait_s
        raise DamagedRecordError(
            f"{self.path}: key {position}: expected a shard of {self._info.size_bytes:,} bytes, "
            f"found {os.fstat(self._descriptor).st_size:,}: truncated since it was opened"
        )

    def will_need(self, positions: Iterable[int]) -> int:
        """Has the kernel begin to read records; returns their bytes. May wait for the device to take the requests."""
        extents = self._places[sorted(positions)].tolist()
        page_cache.will_need(self._descriptor, extents)
        return sum(size_bytes for _, size_bytes in extents)

    def close(self) -> None:
        os.close(self._descriptor)
